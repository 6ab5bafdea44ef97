"""From the marks that a user drew to vesicles: which sphere each becomes, which row it gets, and what is said of it.

The fit itself is passed in. Every mark ends as a vesicle of its own, as a new fit of one that was there, as another
mark for the same vesicle, or among the marks that could not be fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from deepvesicle.corrections import State, containing_row, flagged, one_row, removed_row, with_rows
from deepvesicle.marks import DELETED, NOT_FITTED, Floats, Form, Kind, Mark, Reading, is_same_place, read_mark
from deepvesicle.vesicles import Status, Vesicles

#: Fits spheres: start centres (N, 3), start radii (N,; NaN where unknown) and the other spheres about them -> a row
#: each, rejected with the reason where nothing could be fitted.
Fitter = Callable[[Floats, Floats, Vesicles], Vesicles]

#: Membrane points lie farther from the best sphere than this share of its radius: they are no membrane.
_MAX_RESIDUAL = 0.15
#: A fit that differs from what was drawn by more has found something else: radius and centre, as shares of the radius,
#: and distance of membrane points from the fitted surface, as share and in voxels (the larger counts).
_MAX_RESIZE, _MAX_MOVE = 0.35, 0.5
_MAX_OFF_SHARE, _MAX_OFF_VOX = 0.2, 2.0
#: Spheres whose centres are nearer than this share of the larger radius are the same vesicle.
_SAME_VESICLE = 0.5


class Result(str, Enum):
    """What became of a mark."""

    FITTED = "fitted"
    REFITTED = "refitted"
    MERGED = "merged"
    NOT_FITTED = "not fitted"


@dataclass(frozen=True, eq=False)
class Fate:
    """What became of a mark.

    Parameters
    ----------
    mark : Mark
    kind : Kind or None
        How it was understood; None where it could not be.
    result : Result
    vesicle : int
        Id of the row.
    note : str
        What the user should know.
    """

    mark: Mark
    kind: Kind | None
    result: Result
    vesicle: int
    note: str = ""

    @property
    def is_left(self) -> bool:
        """Whether its points wait in the object `not_fitted`."""
        return self.result is Result.NOT_FITTED and bool(self.mark.places)


@dataclass(frozen=True)
class Limits:
    """What is known of radii beforehand, in voxels: the hint for clicks (NaN: none), the smallest and the largest."""

    hint_vox: float
    min_vox: float
    max_vox: float


@dataclass(frozen=True, eq=False)
class _Start:
    """A mark on its way to a sphere; `row` is that of the sphere to be fitted anew, `number` an id it has already."""

    mark: Mark
    reading: Reading
    row: int | None
    number: int = 0


def place_marks(
    state: State, marks: Sequence[Mark], fit: Fitter, limits: Limits, *, refit: bool = False, tried: Sequence[Mark] = ()
) -> tuple[Vesicles, tuple[Fate, ...]]:
    """Fit all marks and put the spheres into the table.

    Parameters
    ----------
    state : State
        From `deepvesicle.corrections.reconcile`.
    marks : sequence of Mark
    fit : Fitter
    limits : Limits
    refit : bool
        Also fit spheres that are `Status.MANUAL`, and all of `tried`.
    tried : sequence of Mark
        What is in the object `not_fitted`, as given to `reconcile`; those that the user moved there are fitted.

    Returns
    -------
    Vesicles
        The table. A sphere that was fitted anew keeps its id.
    tuple of Fate
        Of every mark that was tried (of each of its points, where they turned out to be separate clicks), and of every
        sphere that `refit` means; sorted as they were given.
    """
    jobs = [(mark, 0) for mark in marks]
    again = zip(tried, state.tried_ids, state.tried_moved, strict=True) if tried else ()
    # what is there belongs together, although the object is one of scattered points
    jobs += [(replace(mark, form=Form.OPEN), number) for mark, number, moved in again if moved or refit]
    placing = _Placing(state, fit, limits)
    if refit:
        placing.start_spheres()
    placing.run(jobs)
    return placing.vesicles, placing.fates()


class _Placing:
    """The table while marks are put into it."""

    def __init__(self, state: State, fit: Fitter, limits: Limits) -> None:
        self.vesicles = state.vesicles
        self._next_id = state.next_id
        self._fit, self._limits = fit, limits
        self._starts: list[_Start] = []
        self._unread: list[tuple[Mark, int, str]] = []
        self._placed: set[int] = set()  # ids that marks of this run have got
        self._done: list[Fate] = []
        self._order: dict[Mark, int] = {}

    def start_spheres(self) -> None:
        """Take the spheres that the user made as starts."""
        for row in np.flatnonzero(self.vesicles.has_status(Status.MANUAL)):
            centre, radius = self.vesicles.centres_vox[row], float(self.vesicles.radii_vox[row])
            mark = Mark((), centre[None])
            self._starts.append(_Start(mark, Reading(Kind.SPHERE, centre, radius), int(row)))

    def run(self, jobs: Sequence[tuple[Mark, int]]) -> None:
        """Fit the marks, each given with the id it has already (0: none), and the starts there are."""
        for mark, number in jobs:
            self._start(mark, number)
        before = self.vesicles
        good: list[tuple[_Start, Vesicles]] = []
        while self._starts:
            starts, self._starts = self._starts, []
            for start, sphere in zip(starts, self._fitted(starts, good), strict=True):
                if start.mark.is_ambiguous and not _stays_near(start, sphere):
                    for single in start.mark.split():
                        self._start(single, 0)
                else:
                    good.append((start, sphere))
        order = list(Kind)
        for start, sphere in sorted(good, key=lambda item: order.index(item[0].reading.kind)):
            self._place(start, sphere, before)
        for mark, number, reason in self._unread:
            self._leave(mark, None, number, reason)

    def fates(self) -> tuple[Fate, ...]:
        """In the order in which the marks were started."""
        return tuple(sorted(self._done, key=lambda fate: self._order.get(fate.mark, -1)))

    def _start(self, mark: Mark, number: int) -> None:
        self._order[mark] = len(self._order)
        reading = read_mark(mark)
        reason = _implausible(mark, reading, self._limits)
        if reading is not None and not reason:
            if reading.kind is Kind.CLICK and np.isnan(reading.radius_vox):
                reading = Reading(Kind.CLICK, reading.centre_vox, self._limits.hint_vox)
            self._starts.append(_Start(mark, reading, containing_row(self.vesicles, reading.centre_vox), number))
        elif mark.is_ambiguous:
            for single in mark.split():
                self._start(single, 0)
        else:
            self._unread.append((mark, number, reason))

    def _fitted(self, starts: Sequence[_Start], good: Sequence[tuple[_Start, Vesicles]]) -> list[Vesicles]:
        """A row for each start, fitted among the spheres that are not fitted anew and those fitted before."""
        known = self.vesicles
        targets = [start.row for start in (*starts, *(done for done, _ in good)) if start.row is not None]
        known = known.select(known.accepted & ~np.isin(np.arange(len(known)), targets))
        first = max([0, *known.ids.tolist()]) + 1
        found = [sphere for _, sphere in good if sphere.accepted[0]]
        known = with_rows(known, [sphere.replace(ids=[first + i]) for i, sphere in enumerate(found)])
        centres = np.array([start.reading.centre_vox for start in starts])
        radii = np.array([start.reading.radius_vox for start in starts])
        result = self._fit(centres, radii, known)
        if len(result) != len(starts):
            raise ValueError(f"the fit gave {len(result)} rows for {len(starts)} marks")
        return [result.select([i]) for i in range(len(starts))]

    def _place(self, start: _Start, sphere: Vesicles, before: Vesicles) -> None:
        """Give a fitted sphere the row it belongs to."""
        kind, mark = start.reading.kind, start.mark
        if not sphere.accepted[0]:
            if kind is Kind.SPHERE:
                number = int(before.ids[start.row or 0])
                self._done.append(Fate(mark, kind, Result.NOT_FITTED, number, f"{_why(sphere)}; kept as it is"))
            else:
                self._leave(mark, kind, start.number, _not_fitted_reason(sphere, start, before))
            return
        row = self._row_for(start, sphere)
        same = self._same_as(sphere, row)
        if same is None or not self.vesicles.accepted[same]:
            self._set(start, sphere, same if row is None else row)
        elif kind is Kind.SPHERE:
            note = f"would become the same sphere as vesicle {self.vesicles.ids[same]}; kept as it is"
            self._done.append(Fate(mark, kind, Result.NOT_FITTED, int(before.ids[start.row or 0]), note))
        else:
            placed = int(self.vesicles.ids[same]) in self._placed
            note = "another mark is on the same vesicle" if placed else "it is there already, and stays as it is"
            self._merge(mark, kind, same, start.number, note)

    def _row_for(self, start: _Start, sphere: Vesicles) -> int | None:
        """The row that a mark was on, if it is still to be had and the fit stayed with it."""
        row = start.row
        if row is None or int(self.vesicles.ids[row]) in self._placed:
            return None
        apart = float(np.linalg.norm(sphere.centres_vox[0] - self.vesicles.centres_vox[row]))
        larger = max(float(sphere.radii_vox[0]), float(self.vesicles.radii_vox[row]))
        return row if apart < larger or start.reading.kind is Kind.SPHERE else None

    def _same_as(self, sphere: Vesicles, own_row: int | None) -> int | None:
        """Another row whose sphere is the same vesicle; accepted ones first, then the nearest."""
        apart = np.linalg.norm(self.vesicles.centres_vox - sphere.centres_vox[0], axis=1)
        larger = np.maximum(self.vesicles.radii_vox, sphere.radii_vox[0])
        same = (apart < _SAME_VESICLE * larger) & ~flagged(self.vesicles, NOT_FITTED)
        if own_row is not None:
            same[own_row] = False
        for rows in (same & self.vesicles.accepted, same):
            if rows.any():
                return int(np.flatnonzero(rows)[np.argmin(apart[rows])])
        return None

    def _set(self, start: _Start, sphere: Vesicles, row: int | None) -> None:
        """Write a fitted sphere into its row, or into a new one."""
        was_sphere = row is not None and not flagged(self.vesicles, DELETED)[row]
        number = int(self.vesicles.ids[row]) if row is not None else start.number or self._new_id()
        if row is not None and np.isnan(sphere.scores[0]):
            sphere = sphere.replace(scores=self.vesicles.scores[[row]])
        if row is not None and start.number and start.number != number:
            self._drop_waiting(start.number)
        flags = {name: [0.0] for name in (DELETED, NOT_FITTED) if name in self.vesicles.features}
        sphere = sphere.replace(ids=[number]).with_features(**flags)
        if not start.mark.is_ambiguous and not _stays_near(start, sphere):
            sphere = sphere.with_status([True], Status.DOUBTFUL, "the fit lies away from what was drawn")
        self.vesicles = with_rows(self.vesicles, [sphere])
        self._placed.add(number)
        result = Result.REFITTED if was_sphere else Result.FITTED
        note = sphere.reasons[0] if sphere.status[0] is Status.DOUBTFUL else ""
        self._done.append(Fate(start.mark, start.reading.kind, result, number, note))

    def _merge(self, mark: Mark, kind: Kind, row: int, number: int, note: str) -> None:
        """A mark that says nothing new."""
        if number:
            self._drop_waiting(number)
        self._done.append(Fate(mark, kind, Result.MERGED, int(self.vesicles.ids[row]), note))

    def _leave(self, mark: Mark, kind: Kind | None, number: int, reason: str) -> None:
        """Keep a mark that cannot be fitted: a row with the reason, which is no sphere."""
        if not self._waits_there(number, mark):
            number = number or self._new_id()
            self._wait(number, mark, reason)
        self._done.append(Fate(mark, kind, Result.NOT_FITTED, number, reason))

    def _waits_there(self, number: int, mark: Mark) -> bool:
        """Whether a mark has a row already, which says that it could not be fitted at this very place."""
        rows = np.flatnonzero((self.vesicles.ids == number) & flagged(self.vesicles, NOT_FITTED))
        return len(rows) > 0 and is_same_place(mark.middle_vox, 0.0, self.vesicles.centres_vox[rows[0]], 0.0)

    def _wait(self, number: int, mark: Mark, reason: str) -> None:
        """Write the row of a mark that could not be fitted."""
        radius = self._stand_in_radius()
        row = one_row(
            self.vesicles.grid,
            number,
            mark.middle_vox,
            radius,
            Status.REJECTED,
            f"not fitted: {reason}",
            **{NOT_FITTED: 1.0},
        )
        self.vesicles = with_rows(self.vesicles, [row])

    def _stand_in_radius(self) -> float:
        """The table needs a radius for what has none: the hint, or what vesicles here have."""
        if self._limits.hint_vox > 0:
            return self._limits.hint_vox
        shown = self.vesicles.radii_vox[self.vesicles.accepted]
        return float(np.median(shown)) if len(shown) else (self._limits.min_vox + self._limits.max_vox) / 2

    def _drop_waiting(self, number: int) -> None:
        """The row of a mark that has become part of another row: it stays, without a sphere."""
        row = self.vesicles.select(self.vesicles.ids == number)
        self.vesicles = with_rows(self.vesicles, [removed_row(row, "the mark belongs to another vesicle")])

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1


def _implausible(mark: Mark, reading: Reading | None, limits: Limits) -> str:
    """Why a mark of several points cannot be one vesicle; empty if it can."""
    if reading is None:
        return f"{len(mark.points_vox)} points that are neither centre and edge, nor membrane, nor an outline"
    if reading.kind is Kind.CLICK:
        return ""
    low, high = limits.min_vox * (1 - _MAX_RESIZE), limits.max_vox * (1 + _MAX_RESIZE)
    if not low <= reading.radius_vox <= high:
        return "the radius that was drawn is outside the limits (--min-radius, --max-radius)"
    if reading.residual_vox > _MAX_RESIDUAL * reading.radius_vox:
        return "the points do not lie on a sphere"
    return ""


def _stays_near(start: _Start, sphere: Vesicles) -> bool:
    """Whether a fit succeeded and is what was drawn."""
    reading = start.reading
    if not sphere.accepted[0]:
        return False
    if reading.kind in (Kind.CLICK, Kind.SPHERE):
        return True
    centre, radius = sphere.centres_vox[0], float(sphere.radii_vox[0])
    if reading.kind is Kind.MEMBRANE:
        off = np.abs(np.linalg.norm(start.mark.points_vox - centre, axis=1) - radius)
        if off.max() > max(_MAX_OFF_VOX, _MAX_OFF_SHARE * radius):
            return False
    moved = float(np.linalg.norm(centre - reading.centre_vox))
    resized = abs(radius / reading.radius_vox - 1)
    return bool(resized <= _MAX_RESIZE and moved < _MAX_MOVE * radius)


def _not_fitted_reason(sphere: Vesicles, start: _Start, before: Vesicles) -> str:
    """The reason of the fit, and what it means for the sphere that the mark was on."""
    reason = _why(sphere)
    if start.row is not None and before.accepted[start.row]:
        reason += f" (vesicle {before.ids[start.row]} stays as it was)"
    return reason


def _why(sphere: Vesicles) -> str:
    """Why there is no fit; that there is none is said elsewhere."""
    return sphere.reasons[0].removeprefix("not fitted: ") or "no membrane found"
