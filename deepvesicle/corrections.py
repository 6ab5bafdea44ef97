"""What the user changed in a model since the table was written: which rows that concerns, and what becomes of them.

Nothing is lost here: a sphere that was deleted keeps its row with the reason, and ids are never used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid
from deepvesicle.marks import DELETED, NOT_FITTED, DrawnSphere, Floats, Mark, is_same_place, lacks_sphere
from deepvesicle.vesicles import Status, Vesicles

BY_USER_SIZE = "placed or changed by the user"
BY_USER_ACCEPTED = "accepted by the user"
BY_USER_REJECTED = "rejected by the user"
DELETED_IN_3DMOD = "deleted in 3dmod"
REJECTED_IN_REVIEW = "rejected in review"


@dataclass(frozen=True, eq=False)
class State:
    """The table as the model has it now.

    Parameters
    ----------
    vesicles : Vesicles
        All rows, those without a sphere too.
    sphere_ids : tuple of int
        Id of each sphere of the model, in its order.
    tried_ids : tuple of int
        Id of each mark in `not_fitted`, in its order; 0 for those that have no row.
    tried_moved : tuple of bool
        Whether each of them is new, or not where its row has it.
    changes : mapping of str to int
        How many spheres the user changed, by kind.
    next_id : int
        Above all ids ever given.
    """

    vesicles: Vesicles
    sphere_ids: tuple[int, ...]
    tried_ids: tuple[int, ...]
    tried_moved: tuple[bool, ...]
    changes: Mapping[str, int]
    next_id: int


def reconcile(
    table: Vesicles | None,
    grid: Grid,
    spheres: Sequence[DrawnSphere],
    tried: Sequence[Mark],
    status_of_object: Mapping[str, Status],
) -> State:
    """Bring a table up to what the user made of its model.

    Parameters
    ----------
    table : Vesicles, optional
        As it was written; without it the spheres are all there is.
    grid : Grid
        Of the tomogram.
    spheres : sequence of DrawnSphere
        All spheres in the model.
    tried : sequence of Mark
        What is in the object `not_fitted`.
    status_of_object : mapping of str to Status
        What it means that a sphere is in an object; spheres in others are the user's own.

    Returns
    -------
    State
        Spheres that are where the table has them keep their rows as they are. Those changed are `Status.MANUAL` at the
        user's values; those moved to another object have its status; those missing are `Status.REJECTED`; those new to
        the table have rows of their own.
    """
    known = Vesicles.empty(grid) if table is None else table
    row_of_sphere = _matched_rows(known, spheres, {*status_of_object, NOT_FITTED})
    surfaces = [sphere.surface for sphere in spheres] + [mark.surface for mark in tried]
    next_id = max([0, *known.ids.tolist(), *surfaces]) + 1
    taken = set(known.ids.tolist())
    ids: list[int] = []
    rows: list[Vesicles] = []
    changes: dict[str, int] = {}
    for sphere, row in zip(spheres, row_of_sphere, strict=True):
        wanted = status_of_object.get(sphere.place[0])
        if row is None:
            from_us = wanted is not None and 0 < sphere.surface and sphere.surface not in taken
            number = sphere.surface if from_us else next_id
            next_id = max(next_id, number + 1)
            taken.add(number)
            ours = from_us or (table is None and wanted is not None)
            status = wanted if ours or wanted is Status.REJECTED else Status.MANUAL
            rows.append(sphere_row(grid, number, sphere, status or Status.MANUAL, "" if ours else BY_USER_SIZE))
            if table is not None:
                _count(changes, "new in the model")
        else:
            number = int(known.ids[row])
            what, new = _changed(known.select([row]), sphere, wanted)
            if new is not None:
                rows.append(new)
                _count(changes, what)
        ids.append(number)
    tried_ids, tried_moved = _matched_marks(known, tried)
    shown = {*ids, *tried_ids}
    for missing in np.flatnonzero(~flagged(known, DELETED)):
        if int(known.ids[missing]) not in shown:
            rows.append(removed_row(known.select([missing]), DELETED_IN_3DMOD))
            _count(changes, DELETED_IN_3DMOD)
    return State(with_rows(known, rows), tuple(ids), tried_ids, tried_moved, changes, next_id)


def remove(vesicles: Vesicles, removals: Iterable[Mark]) -> tuple[Vesicles, tuple[int | None, ...]]:
    """Take out the spheres that contain points of an object ``remove`` or ``delete``.

    Parameters
    ----------
    vesicles : Vesicles
    removals : iterable of Mark
        One point each.

    Returns
    -------
    Vesicles
        The rows concerned are `Status.REJECTED` and have no sphere any more.
    tuple
        For each point the id of the sphere that went, or None where it is in no sphere. Points in the same sphere have
        the same id.
    """
    gone: list[int | None] = []
    before = vesicles
    for mark in removals:
        row = containing_row(before, mark.points_vox[0], deleted=False)
        gone.append(None if row is None else int(before.ids[row]))
        if row is not None and not lacks_sphere(vesicles.features, len(vesicles))[row]:
            reason = f"removed by a point in object '{mark.object_name}'"
            vesicles = with_rows(vesicles, [removed_row(vesicles.select([row]), reason)])
    return vesicles, tuple(gone)


def reviewed(vesicles: Vesicles, verdicts: Mapping[int, bool]) -> tuple[Vesicles, Mapping[str, int]]:
    """Carry out verdicts on rows: kept ones are vesicles, the others are none.

    As where a user moves a sphere to another object in 3dmod: what was rejected, or only proposed, becomes
    `Status.MANUAL`, what was doubtful `Status.REFINED`; what counts already stays as it is. Marks that could not be
    fitted have no sphere that could be judged, and stay.

    Parameters
    ----------
    vesicles : Vesicles
    verdicts : mapping of int to bool
        By id: whether it is a vesicle. Ids that are not in the table do nothing.

    Returns
    -------
    Vesicles
        The same rows.
    mapping of str to int
        How many changed, by kind.
    """
    rows: list[Vesicles] = []
    changes: dict[str, int] = {}
    unfitted = flagged(vesicles, NOT_FITTED)
    for row, number in enumerate(vesicles.ids):
        keep = verdicts.get(int(number))
        if keep is None or unfitted[row]:
            continue
        one, status = vesicles.select([row]), vesicles.status[row]
        if not keep and status is not Status.REJECTED:
            rows.append(_judged(one, Status.REJECTED, REJECTED_IN_REVIEW))
            _count(changes, REJECTED_IN_REVIEW)
        elif keep and status in (Status.REJECTED, Status.PROPOSED):
            rows.append(_unflagged(_judged(one, Status.MANUAL, BY_USER_ACCEPTED)))
            _count(changes, BY_USER_ACCEPTED)
        elif keep and status is Status.DOUBTFUL:
            reason = f"made {Status.REFINED.value} by the user"
            rows.append(_judged(one, Status.REFINED, reason))
            _count(changes, reason)
    return with_rows(vesicles, rows), changes


def containing_row(vesicles: Vesicles, point_vox: Floats, *, deleted: bool = True) -> int | None:
    """The row of the sphere that contains a point (3,; z, y, x voxels), None if no sphere does.

    Those that count as vesicles come first, then rejected ones, then (with `deleted`) those that the user deleted; of
    several the one whose centre is nearest.
    """
    distance = np.linalg.norm(vesicles.centres_vox - point_vox, axis=1)
    inside = (distance < vesicles.radii_vox) & ~flagged(vesicles, NOT_FITTED)
    gone = flagged(vesicles, DELETED)
    for rows in (inside & vesicles.accepted, inside & ~vesicles.accepted & ~gone, inside & gone & deleted):
        if rows.any():
            return int(np.flatnonzero(rows)[np.argmin(distance[rows])])
    return None


def flagged(vesicles: Vesicles, feature: str) -> NDArray[np.bool_]:
    """Which rows (N,) have a feature that is 1 (or more) where it holds."""
    return np.asarray(vesicles.features.get(feature, np.zeros(len(vesicles))) > 0)


def with_rows(vesicles: Vesicles, rows: Sequence[Vesicles]) -> Vesicles:
    """A table in which rows take the place of those with the same id, in place; new ids follow at the end.

    A feature that one side lacks is NaN there. Of rows with the same id, the last counts.
    """
    if not rows:
        return vesicles
    tables = [vesicles, *rows]
    source = {int(number): i for i, number in enumerate(np.concatenate([t.ids for t in tables]))}
    index = np.array(list(source.values()), dtype=int)
    names = list(dict.fromkeys(name for t in tables for name in t.features))

    def column(name: str) -> Floats:
        return np.concatenate([getattr(t, name) for t in tables])[index]

    def feature(name: str) -> Floats:
        return np.concatenate([t.features.get(name, np.full(len(t), np.nan)) for t in tables])[index]

    status = [s for t in tables for s in t.status]
    reasons = [r for t in tables for r in t.reasons]
    return Vesicles(
        vesicles.grid,
        np.array(list(source), dtype=np.int64),
        **{name: column(name) for name in _COLUMNS},
        status=tuple(status[i] for i in index),
        reasons=tuple(reasons[i] for i in index),
        features={name: feature(name) for name in names},
    )


def is_same_table(table: Vesicles, other: Vesicles) -> bool:
    """Whether two tables hold the same rows in the same order, whatever is unknown in both included."""
    names = set(table.features) | set(other.features)
    unknown = np.full(len(table), np.nan)
    return (
        np.array_equal(table.ids, other.ids)
        and (table.status, table.reasons) == (other.status, other.reasons)
        and all(np.array_equal(getattr(table, n), getattr(other, n), equal_nan=True) for n in _COLUMNS)
        and all(
            np.array_equal(table.features.get(n, unknown), other.features.get(n, unknown), equal_nan=True)
            for n in names
        )
    )


def sphere_row(grid: Grid, number: int, sphere: DrawnSphere, status: Status, reason: str) -> Vesicles:
    """A row for a sphere of which the model alone knows."""
    return one_row(grid, number, sphere.centre_vox, sphere.radius_vox, status, reason)


def one_row(
    grid: Grid, number: int, centre_vox: Floats, radius_vox: float, status: Status, reason: str, **features: float
) -> Vesicles:
    """A table of one sphere, its uncertainties unknown."""
    return Vesicles(
        grid,
        np.array([number]),
        centre_vox,
        np.array([radius_vox]),
        status=(status,),
        reasons=(reason,),
        features={name: np.array([value]) for name, value in features.items()},
    )


def removed_row(row: Vesicles, reason: str) -> Vesicles:
    """The row of a sphere that the user does not want: it stays in the table alone."""
    features = {DELETED: [1.0], **({NOT_FITTED: [0.0]} if NOT_FITTED in row.features else {})}
    return _judged(row, Status.REJECTED, reason).with_features(**features)


_COLUMNS = (
    "centres_vox",
    "radii_vox",
    "membrane_radii_vox",
    "thickness_vox",
    "sigma_centres_vox",
    "sigma_radii_vox",
    "scores",
)


def _matched_rows(known: Vesicles, spheres: Sequence[DrawnSphere], ours: set[str]) -> list[int | None]:
    """The row of each sphere in objects of ours: where it is exactly, its own id first, and else by the id.

    3dmod renumbers surfaces when contours are moved between objects, so an id alone proves little; of several spheres
    with one id it is the nearest.
    """
    row_of_id = {int(number): row for row, number in enumerate(known.ids)}
    rows: list[int | None] = [None] * len(spheres)
    free = set(range(len(known)))

    def is_there(sphere: DrawnSphere, row: int) -> bool:
        centre, radius = known.centres_vox[row], float(known.radii_vox[row])
        return is_same_place(sphere.centre_vox, sphere.radius_vox, centre, radius)

    def take(i: int, row: int) -> None:
        rows[i] = row
        free.discard(row)

    candidates = [i for i, sphere in enumerate(spheres) if sphere.place[0] in ours]
    for i in candidates:
        row = row_of_id.get(spheres[i].surface)
        if row in free and is_there(spheres[i], row):
            take(i, row)
    for i in candidates:
        if rows[i] is None and free:
            open_rows = sorted(free)
            apart = np.abs(known.centres_vox[open_rows] - spheres[i].centre_vox).max(axis=1)
            row = open_rows[int(np.argmin(apart))]
            if is_there(spheres[i], row):
                take(i, row)
    by_id: list[tuple[float, int, int]] = []
    for i in candidates:
        row = row_of_id.get(spheres[i].surface)
        if rows[i] is None and row in free:
            sphere = spheres[i]
            off = np.append(sphere.centre_vox - known.centres_vox[row], sphere.radius_vox - known.radii_vox[row])
            by_id.append((float(np.linalg.norm(off)), i, row))
    for _, i, row in sorted(by_id):
        if row in free:
            take(i, row)
    return rows


def _matched_marks(known: Vesicles, tried: Sequence[Mark]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The id of each mark that was tried before, else 0, and whether it is not where it was then."""
    row_of_id = {int(number): row for row, number in enumerate(known.ids)}
    waiting = flagged(known, NOT_FITTED)
    ids: list[int] = []
    moved: list[bool] = []
    for mark in tried:
        row = row_of_id.get(mark.surface)
        found = row is not None and bool(waiting[row]) and mark.surface not in ids
        ids.append(mark.surface if found else 0)
        moved.append(not (found and is_same_place(mark.middle_vox, 0.0, known.centres_vox[row], 0.0)))
    return tuple(ids), tuple(moved)


def _changed(row: Vesicles, sphere: DrawnSphere, wanted: Status | None) -> tuple[str, Vesicles | None]:
    """What the user did to the sphere of a row, and the row that follows; None where nothing."""
    before = row.status[0]
    had_sphere = not lacks_sphere(row.features, 1)[0]
    same = is_same_place(sphere.centre_vox, sphere.radius_vox, row.centres_vox[0], float(row.radii_vox[0]))
    number = int(row.ids[0])
    if not had_sphere:
        if wanted is None or flagged(row, NOT_FITTED)[0]:
            return "sized by the user", sphere_row(row.grid, number, sphere, Status.MANUAL, BY_USER_SIZE)
        back = row if same else sphere_row(row.grid, number, sphere, wanted, "")
        return "brought back by the user", _unflagged(_judged(back, wanted, ""))
    if not same:
        status = Status.REJECTED if wanted is Status.REJECTED else Status.MANUAL
        return "moved or resized by the user", sphere_row(row.grid, number, sphere, status, BY_USER_SIZE)
    if wanted is None or wanted is before:
        return "", None
    if wanted is Status.REJECTED:
        return BY_USER_REJECTED, _judged(row, wanted, BY_USER_REJECTED)
    if before is Status.REJECTED:
        return BY_USER_ACCEPTED, _judged(row, Status.MANUAL, BY_USER_ACCEPTED)
    return f"made {wanted.value} by the user", _judged(row, wanted, f"made {wanted.value} by the user")


def _judged(row: Vesicles, status: Status, reason: str) -> Vesicles:
    return row.replace(status=(status,), reasons=(reason,))


def _unflagged(row: Vesicles) -> Vesicles:
    flags = {name: [0.0] for name in (DELETED, NOT_FITTED) if name in row.features}
    return row.with_features(**flags)


def _count(changes: dict[str, int], what: str) -> None:
    changes[what] = changes.get(what, 0) + 1
