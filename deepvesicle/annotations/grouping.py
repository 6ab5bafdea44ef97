"""Which contours, drawn slice by slice, belong to the same vesicle.

Each contour counts as a circle on its slice. Two circles that lie about over one another make a sphere; the sphere that
explains most circles takes them, as a spheroid that may lean a little, then the next one, and so on. So vesicles that
touch, overlap in projection, or lie on top of one another come apart, and slices that were left out do not matter.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepvesicle.spheres import shared_volume

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

#: A circle lies on a sphere if it is off by no more than this share of the radius, or this many voxels.
_SLACK, _SLACK_VOX = 0.12, 1.0
#: Of a vesicle that has others' circles above and below, one may be off this many times more.
_LOOSE = 2.0
#: A gap between the drawn slices of a vesicle, in radii. Two equal circles farther apart than 1.6 of their own radii
#: are the equators of two vesicles: one sphere through both would have to have been drawn without its equator.
_LARGEST_GAP = 1.25
#: Circles whose centres are farther apart in the plane than this share of the larger radius are not of one sphere.
_LARGEST_SHIFT = 0.5
#: Hypotheses kept for each circle.
_KEPT = 3
#: Bounds of the flattening of a spheroid (squared ratio of its axes) and of how far its axis leans (tangent).
_FLATTENING = (0.4, 2.5)
_LARGEST_LEAN = 0.6
#: Two groups are one vesicle if this share of the smaller one's ball lies in the other's.
_INSIDE = 0.4
#: Two groups are one long thing if the circles that face each other are hardly smaller than the largest of each.
_NOT_SHRUNK = 0.8


@dataclass(frozen=True, eq=False)
class Circles:
    """Contours as circles on slices of constant z.

    Parameters
    ----------
    centres : float array (N, 3)
        z, y, x, voxels.
    radii : float array (N,)
    """

    centres: Floats
    radii: Floats

    def __len__(self) -> int:
        return len(self.radii)


@dataclass(frozen=True, eq=False)
class _Spheroid:
    """A sphere, flattened along z, whose axis may lean: centre (3,), radius in the plane, flattening, lean (2,)."""

    centre: Floats
    radius: float
    flattening: float = 1.0
    lean: Floats = field(default_factory=lambda: np.zeros(2))

    def misfits(self, circles: Circles, rows: Ints) -> Floats:
        """How far circles (N,) lie from the surface, root mean square over the points of each."""
        up = circles.centres[rows, 0] - self.centre[0]
        shift = circles.centres[rows, 1:] - self.centre[1:] - up[:, None] * self.lean
        return _misfits(np.sqrt(self.flattening) * up, (shift**2).sum(axis=1), circles.radii[rows], self.radius)

    @property
    def slack(self) -> float:
        return max(_SLACK_VOX, _SLACK * self.radius)


def group_circles(circles: Circles) -> list[Ints]:
    """Sort circles into vesicles.

    Parameters
    ----------
    circles : Circles

    Returns
    -------
    list of int arrays
        Rows of each vesicle, by z. Each circle is in one of them; one that fits to no other is alone.
    """
    if not len(circles):
        return []
    search = _Search(circles)
    groups = search.groups()
    groups = _reassigned(circles, groups)
    groups = _without_overlaps(circles, groups)
    return _joined(circles, groups)


def _misfits(up: Floats, shift_squared: Floats, radii: Floats, radius: float | Floats) -> Floats:
    """Root mean square distance of circles from a sphere, from their height over its centre and their shift."""
    distance = np.sqrt(radii**2 + up**2 + shift_squared)
    wobble = shift_squared * radii**2 / np.maximum(distance, 1e-9) ** 2 / 2
    return np.asarray(np.sqrt((distance - radius) ** 2 + wobble))


class _Search:
    """Takes the best spheres out of a set of circles, one after the other."""

    def __init__(self, circles: Circles) -> None:
        from scipy.spatial import cKDTree

        self.circles = circles
        self.free = np.ones(len(circles), dtype=bool)
        self.tree = cKDTree(circles.centres)
        self.found: list[tuple[_Spheroid, Ints]] = []

    def groups(self) -> list[tuple[_Spheroid, Ints]]:
        """Spheroids with their circles; what no sphere explains comes last, circle by circle."""
        guesses = [
            (score, seed, sphere) for seed in range(len(self.circles)) for score, sphere in self._hypotheses(seed)
        ]
        heap = [(-score, order, seed, sphere) for order, (score, seed, sphere) in enumerate(guesses)]
        heapq.heapify(heap)
        order = len(heap)
        while heap:
            score, _, seed, sphere = heapq.heappop(heap)
            members = self._members(sphere, seed)
            if len(members) < 2:
                continue
            # Others may have taken circles since: a sphere with fewer of them waits for its turn.
            now = -self._score(sphere, members)
            if now > score + 1e-9 and heap and now > heap[0][0]:
                order += 1
                heapq.heappush(heap, (now, order, seed, sphere))
                continue
            self._accept(sphere, members, seed)
        for row in np.flatnonzero(self.free).tolist():
            if not self._attach(row):
                disc = _Spheroid(self.circles.centres[row], float(self.circles.radii[row]))
                self.found.append((disc, np.array([row])))
        return self.found

    def _hypotheses(self, row: int) -> list[tuple[float, _Spheroid]]:
        """The best spheres through a circle and another one."""
        centre, radius = self.circles.centres[row], self.circles.radii[row]
        largest = self._largest_near(row)
        near = np.array(self.tree.query_ball_point(centre, 2.5 * largest + 2), dtype=np.intp)
        others = near[near != row]
        up = self.circles.centres[others, 0] - centre[0]
        shift = np.linalg.norm(self.circles.centres[others, 1:] - centre[1:], axis=1)
        larger = np.maximum(radius, self.circles.radii[others])
        pairs = (np.abs(up) > 0.25) & (np.abs(up) <= 1.6 * larger + 1) & (shift <= _LARGEST_SHIFT * larger + 1)
        others, up, larger = others[pairs], up[pairs], larger[pairs]
        if not len(others):
            return []
        height = up / 2 + (self.circles.radii[others] ** 2 - radius**2) / (2 * up)
        radii = np.sqrt(radius**2 + height**2)
        keep = radii <= 2.5 * larger
        others, height, radii = others[keep], height[keep], radii[keep]
        if not len(others):
            return []
        share = 1 / (1 + (self.circles.radii[others] / max(radius, 1e-9)) ** 2)
        centres = np.empty((len(others), 3))
        centres[:, 0] = centre[0] + height
        centres[:, 1:] = share[:, None] * centre[1:] + (1 - share)[:, None] * self.circles.centres[others, 1:]
        offsets = self.circles.centres[near][None] - centres[:, None]
        misfits = _misfits(
            offsets[..., 0], (offsets[..., 1:] ** 2).sum(axis=-1), self.circles.radii[near][None], radii[:, None]
        )
        slack = np.maximum(_SLACK_VOX, _SLACK * radii)[:, None]
        scores = np.maximum(0, 1 - (misfits / slack) ** 2).sum(axis=1)
        best = np.argsort(-scores)[:_KEPT]
        return [(float(scores[i]), _Spheroid(centres[i], float(radii[i]))) for i in best]

    def _largest_near(self, row: int) -> float:
        """Radius of the largest circle that may belong to the same sphere."""
        radius = float(self.circles.radii[row])
        for _ in range(2):  # a small circle near a pole, then those nearer to the equator
            near = self.tree.query_ball_point(self.circles.centres[row], 1.5 * radius + 3)
            shift = np.linalg.norm(self.circles.centres[near, 1:] - self.circles.centres[row, 1:], axis=1)
            radii = self.circles.radii[near]
            radius = float(radii[shift <= _LARGEST_SHIFT * radii + 1].max(initial=radius))
        return radius

    def _members(self, shape: _Spheroid, seed: int) -> Ints:
        """Free circles on a spheroid, without a large gap between them and the seed; by z."""
        stretch = max(1.0, shape.flattening**-0.5) * (1 + float(np.linalg.norm(shape.lean)))
        near = np.array(self.tree.query_ball_point(shape.centre, 1.2 * stretch * shape.radius + 2), dtype=np.intp)
        near = near[self.free[near]]
        near = near[shape.misfits(self.circles, near) <= shape.slack]
        return _run(self.circles.centres[:, 0], near, seed, _LARGEST_GAP * shape.radius)

    def _score(self, shape: _Spheroid, members: Ints) -> float:
        misfits = shape.misfits(self.circles, members)
        return float(np.maximum(0, 1 - (misfits / shape.slack) ** 2).sum())

    def _accept(self, sphere: _Spheroid, members: Ints, seed: int) -> None:
        """Take a sphere's circles, unless they are few and belong to what was found before."""
        if len(members) <= 3 and any([self._attach(int(row)) for row in members]):
            return
        best, best_score = (sphere, members), self._score(sphere, members)
        for _ in range(3):
            shape = _fit_spheroid(self.circles, best[1])
            if shape is None:
                break
            again = self._members(shape, seed)
            score = self._score(shape, again)
            if len(again) < 2 or score <= best_score:
                break
            best, best_score = (shape, again), score
        self.found.append(best)
        self.free[best[1]] = False

    def _attach(self, row: int) -> bool:
        """Give a circle to the sphere found before that it fits to, if there is one."""
        best, best_misfit = -1, _LOOSE
        for number, (shape, members) in enumerate(self.found):
            if len(members) < 3 or abs(shape.centre[0] - self.circles.centres[row, 0]) > 1.5 * shape.radius:
                continue
            misfit = float(shape.misfits(self.circles, np.array([row]))[0]) / shape.slack
            if misfit < best_misfit:
                best, best_misfit = number, misfit
        if best < 0:
            return False
        shape, members = self.found[best]
        self.found[best] = (shape, np.append(members, row))
        self.free[row] = False
        return True


def _run(z: Floats, rows: Ints, seed: int, gap: float) -> Ints:
    """Those of some rows that are reached from a seed, along z, in steps of at most a gap; by z."""
    if seed not in rows:
        return rows[:0]
    rows = rows[np.argsort(z[rows], kind="stable")]
    runs = np.cumsum(np.concatenate([[0], np.diff(z[rows]) > gap]))
    return np.asarray(rows[runs == runs[np.flatnonzero(rows == seed)[0]]])


def _fit_spheroid(circles: Circles, rows: Ints) -> _Spheroid | None:
    """The spheroid through circles: ``r^2 + q (z - z0)^2 = R^2``; flattened and leaning only where there are enough."""
    z, r = circles.centres[rows, 0], circles.radii[rows]
    if np.ptp(z) < 0.5:
        return None
    middle = z.mean()
    up = z - middle
    slices = len(np.unique(np.rint(z)))
    free = slices >= 4 and np.ptp(z) > 0.8 * r.max()
    weights = 1 / np.maximum(r, 0.2 * r.max())  # of an error of the radius, not of its square
    columns = [np.ones_like(up), up, *([-(up**2)] if free else [])]
    target = r**2 if free else r**2 + up**2
    solution = np.linalg.lstsq(np.column_stack(columns) * weights[:, None], target * weights, rcond=None)[0]
    flattening = float(solution[2]) if free else 1.0
    if not _FLATTENING[0] <= flattening <= _FLATTENING[1]:
        flattening = float(np.clip(flattening, *_FLATTENING))
        solution = np.linalg.lstsq(
            np.column_stack(columns[:2]) * weights[:, None], (r**2 + flattening * up**2) * weights, rcond=None
        )[0]
    height = float(solution[1]) / (2 * flattening)
    square = float(solution[0]) + flattening * height**2
    if square <= 0 or abs(height) > 3 * r.max() + np.ptp(z):
        return None
    lean = np.zeros(2)
    yx = circles.centres[rows, 1:]
    share = r / r.sum()
    if free:
        offset = up - share @ up
        lean = (share * offset) @ yx / max(float(share @ offset**2), 1e-9)
        lean *= min(1.0, _LARGEST_LEAN / max(float(np.linalg.norm(lean)), 1e-9))
    centre_yx = share @ (yx - (up - height)[:, None] * lean)
    return _Spheroid(np.array([middle + height, *centre_yx]), square**0.5, flattening, lean)


def _reassigned(circles: Circles, groups: list[tuple[_Spheroid, Ints]]) -> list[tuple[_Spheroid, Ints]]:
    """Give each circle to the spheroid that it fits to best; greedy choices took some from a neighbour."""
    for _ in range(3):
        shapes = [(_fit_spheroid(circles, rows) if len(rows) > 1 else None) or shape for shape, rows in groups]
        owner = np.full(len(circles), -1)
        best = np.full(len(circles), np.inf)
        for number, (_, rows) in enumerate(groups):
            owner[rows] = number
            best[rows] = shapes[number].misfits(circles, rows)
        before = owner.copy()
        for number, (shape, (_, rows)) in enumerate(zip(shapes, groups, strict=True)):
            if len(rows) < 3:
                continue
            close = np.abs(circles.centres[:, 0] - shape.centre[0]) < 1.3 * shape.radius
            close &= np.linalg.norm(circles.centres[:, 1:] - shape.centre[1:], axis=1) < shape.radius
            rivals = np.flatnonzero(close & (owner != number))
            misfits = shape.misfits(circles, rivals)
            better = (misfits < best[rivals]) & (misfits <= shape.slack)
            owner[rivals[better]], best[rivals[better]] = number, misfits[better]
        members = [np.flatnonzero(owner == number) for number in range(len(groups))]
        groups = [(shape, rows) for shape, rows in zip(shapes, members, strict=True) if len(rows)]
        if (owner == before).all():
            break
    return groups


def _without_overlaps(circles: Circles, groups: list[tuple[_Spheroid, Ints]]) -> list[tuple[_Spheroid, Ints]]:
    """Unite groups whose balls lie in one another: vesicles do not, so it is one that was drawn with a slip."""
    groups = sorted(groups, key=lambda group: -len(group[1]))
    kept: list[tuple[_Spheroid, Ints]] = []
    for shape, rows in groups:
        centres = np.array([other.centre for other, _ in kept]).reshape(-1, 3)
        radii = np.array([other.radius for other, _ in kept])
        apart = np.linalg.norm(centres - shape.centre, axis=1)
        smaller = 4 / 3 * np.pi * np.minimum(radii, shape.radius) ** 3
        shares = shared_volume(apart, radii, np.full(len(radii), shape.radius)) / smaller
        best = int(np.argmax(shares)) if len(shares) else -1
        if best < 0 or shares[best] < _INSIDE:
            kept.append((shape, rows))
            continue
        united = np.concatenate([kept[best][1], rows])
        kept[best] = (_fit_spheroid(circles, united) or kept[best][0], united)
    return kept


def _joined(circles: Circles, groups: list[tuple[_Spheroid, Ints]]) -> list[Ints]:
    """Put the pieces of things that are longer along z than a vesicle together again."""
    parts = [rows[np.argsort(circles.centres[rows, 0], kind="stable")] for _, rows in groups]
    parts.sort(key=lambda rows: float(circles.centres[rows[0], 0]))
    joined: list[Ints] = []
    for rows in parts:
        below = [number for number, other in enumerate(joined) if _goes_on(circles, other, rows)]
        if below:
            joined[below[-1]] = np.concatenate([joined[below[-1]], rows])
        else:
            joined.append(rows)
    return joined


def _goes_on(circles: Circles, lower: Ints, upper: Ints) -> bool:
    """Whether the upper circles continue the lower ones without a neck."""
    last, first = lower[-1], upper[0]
    gap, along_y, along_x = circles.centres[first] - circles.centres[last]
    r_last, r_first = circles.radii[last], circles.radii[first]
    if len(lower) + len(upper) < 4 or gap <= 0 or np.hypot(along_y, along_x) > 0.5 * min(r_last, r_first):
        return False
    steps = np.concatenate([np.diff(circles.centres[rows, 0]) for rows in (lower, upper)])
    unshrunk = r_last > _NOT_SHRUNK * circles.radii[lower].max() and r_first > _NOT_SHRUNK * circles.radii[upper].max()
    return bool(gap <= 1.5 * np.median(steps) + 0.5 and unshrunk)
