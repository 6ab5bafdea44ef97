"""From the network's probability to first spheres: none lost, touching ones apart, large ones whole.

Per connected component of the mask, in its own box: holes are filled; the maxima of the distance transform are the
seeds; seeds that no neck separates are one; mask voxels are shared out among the spheroids around the seeds, and each
spheroid is fitted again to the surface of its share (the scheme of k-means, with surfaces for means). Large vesicles
that the mask shows in pieces are looked for over the whole mask (`deepvesicle.fitting.shells`). Where candidates claim
the same place the one whose surface the mask supports on the larger area stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.shells import broken_shells
from deepvesicle.fitting.spheroids import Spheroid, fit_spheroid, own_voxels, surface_points
from deepvesicle.grid import Grid, Probability
from deepvesicle.settings import ProposalSettings
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]
Box = tuple[slice, slice, slice]

#: The size limits are applied with this tolerance here, and exactly once the spheres have been refined.
LIMIT_TOLERANCE = (0.7, 1.3)
#: A seed is at least this deep in the mask, as a share of the smallest radius; squashed masks are shallow.
MIN_DEPTH = 0.4
#: Two seeds are one vesicle if the mask between them is nowhere narrower than this share of the lesser depth.
NECK = 0.82
#: A vesicle's mask fills at least this share of a sphere of the smallest radius; less is a speck.
MIN_VOLUME = 0.2
#: Height over width of a mask that the seeds are best found in: a little squashed.
SEED_SQUASH = 1.25
#: Radius from which a vesicle's mask is expected to be hollow or in pieces at times, nm (outer).
SMALLEST_BROKEN_NM = 28.0
#: Such a mask is at least about this thick.
SHELL_NM = 6.0
#: Smaller ones are filled at least to this share.
MIN_FILL = 0.5
#: Candidates of which one has more than this share of its volume in the other claim the same place.
MAX_OVERLAP = 0.35
#: Mask voxels further from a centre than this times the radius are no part of that vesicle.
REACH = 1.6
#: Where nothing was found at the threshold, faint vesicles are looked for at these shares of it, ...
FAINT = (0.5, 0.25)
#: ... this far from those already found, nm.
FAINT_MARGIN_NM = 3.0
#: What is just outside a candidate: the last three quarters of this distance, nm.
OUTSIDE_NM = 8.0
#: Rounds of sharing out and fitting, and the change (voxels) below which a spheroid has settled.
ROUNDS, SETTLED = 4, 0.05


@dataclass
class Candidate:
    """A spheroid in voxels of the probability's grid, and how well the mask supports it."""

    shape: Spheroid
    support: float = 0.0  # share of its surface at which the mask ends
    purity: float = 0.0  # where there is mask at its surface: share of places at which it ends there
    fill: float = 0.0  # share of its volume that is mask
    score: float = 0.0  # mean probability inside, 0..1
    inside: float = 1.0  # share of the sphere that lies in the volume
    volume: float = 0.0  # mask voxels inside
    outside: float = 0.0  # mean probability just outside, 0..1
    share: float = 1.0  # of the threshold, at which it was found

    @property
    def worth(self) -> float:
        """Area of surface that the candidate explains, times how well: candidates for one place are compared by it."""
        return self.support * self.purity**2 * self.shape.radius**2


def propose(
    probability: Probability,
    target: Grid,
    settings: ProposalSettings,
    *,
    threshold: float,
) -> Vesicles:
    """Find vesicles in a probability volume as spheres.

    Parameters
    ----------
    probability : Probability
        0..1 as float, or 0..255 as uint8; outer membrane edge at the threshold.
    target : Grid
        Grid that the spheres are wanted on, usually the tomogram's.
    settings : ProposalSettings
        Size limits (applied with a tolerance of 30 %) and the share of a sphere that must lie in the volume;
        `settings.threshold` goes before `threshold`.
    threshold : float
        The model's own threshold, 0..1.

    Returns
    -------
    Vesicles
        On `target`, sorted by z, status PROPOSED. Scores are mean probabilities inside. Features: `mask_fill` (share of
        the sphere that is mask), `mask_support` (share of its surface at which the mask ends), `mask_height` (height
        over width of the mask), `mask_outside` (mean probability just outside), `mask_share` (share of the threshold
        at which it was found: 1, or less for faint ones) and `inside_fraction` (share of the sphere in the volume).

    Raises
    ------
    ValueError
        The threshold is not between 0 and 1.
    """
    threshold = threshold if settings.threshold is None else settings.threshold
    if not 0 < threshold < 1:
        raise ValueError(f"a probability threshold must lie between 0 and 1, got {threshold}")
    data, grid = probability.data, probability.grid
    level = threshold * (np.iinfo(data.dtype).max if data.dtype.kind in "iu" else 1.0)
    r_min = settings.min_radius_nm * LIMIT_TOLERANCE[0] / grid.voxel_nm
    r_max = settings.max_radius_nm * LIMIT_TOLERANCE[1] / grid.voxel_nm

    mask = np.empty(data.shape, dtype=bool)
    for z in range(len(data)):
        np.greater(data[z], level, out=mask[z])
    found = _candidates_of_components(data, mask, level, r_min, r_max)
    for c in found:
        _support(c, data, mask, grid.voxel_nm)
    found += _broken(found, data, mask, grid, r_min, r_max)
    chosen = _without_conflicts([c for c in found if _plausible(c, grid.voxel_nm, r_min, r_max, settings)])
    for share in FAINT:
        for z in range(len(data)):
            np.greater(data[z], share * level, out=mask[z])
        for c in chosen:
            _erase(mask, c.shape, FAINT_MARGIN_NM / grid.voxel_nm)
        found = _candidates_of_components(data, mask, share * level, r_min, r_max)
        for c in found:
            _support(c, data, mask, grid.voxel_nm)
            c.share = share
        faint = [c for c in found if _plausible(c, grid.voxel_nm, r_min, r_max, settings)]
        chosen += [
            c
            for c in _without_conflicts(faint)
            if all(overlap(c.shape, other.shape) <= MAX_OVERLAP for other in chosen)
        ]
    chosen.sort(key=lambda c: tuple(c.shape.centre))
    if not chosen:
        return Vesicles.empty(target)
    full = float(np.iinfo(data.dtype).max) if data.dtype.kind in "iu" else 1.0
    return Vesicles.from_spheres(
        target,
        grid.map_points([c.shape.centre for c in chosen], target),
        target.length_to_vox(grid.length_to_nm([c.shape.radius for c in chosen])),
        scores=[c.score / full for c in chosen],
        status=(Status.PROPOSED,) * len(chosen),
        features={
            "mask_fill": np.array([c.fill for c in chosen]),
            "mask_support": np.array([c.support for c in chosen]),
            "mask_outside": np.array([c.outside / full for c in chosen]),
            "mask_share": np.array([c.share for c in chosen]),
            "mask_height": np.array([c.shape.squash2**-0.5 for c in chosen]),
            "inside_fraction": np.array([c.inside for c in chosen]),
        },
    )


def _candidates_of_components(
    data: NDArray[Any], mask: NDArray[np.bool_], level: float, r_min: float, r_max: float
) -> list[Candidate]:
    """Spheroids of all connected components; holes are filled in `mask` too."""
    import cc3d

    labels, count = cc3d.connected_components(mask, connectivity=6, return_N=True, binary_image=True)
    if not count:
        return []
    statistics = cc3d.statistics(labels)
    smallest = MIN_VOLUME * 4 / 3 * np.pi * r_min**3
    found: list[Candidate] = []
    for label in np.flatnonzero(statistics["voxel_counts"] >= smallest):
        if label == 0:
            continue
        box = tuple(
            slice(max(0, int(s.start) - 2), min(n, int(s.stop) + 2))
            for s, n in zip(statistics["bounding_boxes"][label], mask.shape, strict=True)
        )
        part = fill_holes(labels[box] == label, r_max)
        mask[box] |= part
        offset = np.array([s.start for s in box], dtype=np.float64)
        for shape in split(part, np.asarray(data[box]), level, r_min):
            shape.centre = shape.centre + offset
            found.append(Candidate(shape))
    return found


def _erase(mask: NDArray[np.bool_], shape: Spheroid, margin: float) -> None:
    """Take a spheroid out of the mask, and `margin` voxels around it."""
    radius = shape.radius + margin
    half_height = shape.radius / np.sqrt(shape.squash2) + margin
    reach = np.array([half_height, radius, radius])
    low, high = np.floor(shape.centre - reach).astype(int), np.ceil(shape.centre + reach).astype(int) + 1
    box = tuple(slice(max(0, a), max(0, min(n, b))) for a, b, n in zip(low, high, mask.shape, strict=True))
    z, y, x = np.ogrid[box]
    grown = Spheroid(shape.centre, radius, (radius / half_height) ** 2)
    mask[box] &= grown.distance(z, y, x) > radius


def fill_holes(mask: NDArray[np.bool_], largest_radius: float) -> NDArray[np.bool_]:
    """Fill the lumens of one component: what it closes in 3D, and round holes within z planes.

    The caps of a vesicle are often missing, so that its lumen is open in 3D and closed in the planes only. The gaps
    that touching vesicles leave between them are closed in planes too, but they are cusped where a lumen is round.
    """
    from scipy import ndimage

    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    for z in range(len(filled)):
        plane = filled[z]
        holes, count = ndimage.label(ndimage.binary_fill_holes(plane) & ~plane)
        for i, box in enumerate(ndimage.find_objects(holes), start=1):
            hole = np.pad(holes[box] == i, 1)
            area, inscribed = float(hole.sum()), float(ndimage.distance_transform_edt(hole).max())
            # A one-voxel hole has inscribed radius 1 here: half a voxel less is its true size.
            round_hole = area <= 1.35 * np.pi * inscribed**2 + 2
            if round_hole and area <= np.pi * largest_radius**2:
                plane[box] |= hole[1:-1, 1:-1]
    return filled


def split(mask: NDArray[np.bool_], data: NDArray[Any], level: float, r_min: float) -> list[Spheroid]:
    """Spheroids of one component (holes filled), in voxels of its box."""
    from scipy.spatial import cKDTree

    shapes = _seeds(mask, r_min)
    moving = np.ones(len(shapes), dtype=bool)
    for _ in range(ROUNDS):
        if not moving.any():
            break
        centres, radii = np.array([s.centre for s in shapes]), np.array([s.radius for s in shapes])
        tree = cKDTree(centres)
        fitted = list(shapes)
        for i in np.flatnonzero(moving):
            me = shapes[i]
            near = np.array(tree.query_ball_point(me.centre, REACH * me.radius + float(radii.max())), dtype=int)
            gap = np.linalg.norm(centres[near] - me.centre, axis=1) - radii[near]
            rivals = [shapes[j] for j in near[gap < REACH * me.radius] if j != i]
            fitted[i] = _fit_share(me, rivals, mask, data, level)
        shift = np.array([np.linalg.norm(f.centre - s.centre) for f, s in zip(fitted, shapes, strict=True)])
        change = np.abs(np.array([f.radius for f in fitted]) - radii)
        kept = _distinct(fitted)
        # A shape that has settled is fitted again only if it lost a rival, which is rare: then its share is larger.
        moving = (np.maximum(shift, change) > SETTLED)[kept]
        shapes = [fitted[i] for i in kept]
    return shapes


def _fit_share(
    me: Spheroid, near: list[Spheroid], mask: NDArray[np.bool_], data: NDArray[Any], level: float
) -> Spheroid:
    """Fit a spheroid to its share of the mask; it stays as it is where that does not determine one."""
    half = REACH * me.radius + 3
    box: Box = tuple(  # type: ignore[assignment]
        slice(max(0, int(np.floor(c - half))), min(n, int(np.ceil(c + half)) + 1))
        for c, n in zip(me.centre, mask.shape, strict=True)
    )
    own = own_voxels(me, near, box, mask[box], reach=REACH)
    offset = np.array([s.start for s in box], dtype=np.float64)
    points = surface_points(mask[box], own, data[box], level) + offset
    fitted = fit_spheroid(points, me)
    if fitted is None or not 0.5 < fitted.radius / me.radius < 2.0:
        return me
    if np.linalg.norm(fitted.centre - me.centre) > me.radius:
        return me
    return fitted


def _seeds(mask: NDArray[np.bool_], r_min: float) -> list[Spheroid]:
    """Maxima of the distance transform, those that no neck separates taken together."""
    from scipy import ndimage

    # The array's own faces are not the end of a vesicle, only of what is known: the transform ignores them.
    depth = ndimage.distance_transform_edt(mask, sampling=(SEED_SQUASH, 1.0, 1.0)).astype(np.float32)
    smooth = ndimage.gaussian_filter(depth, 1.0)
    window = 2 * max(1, round(0.25 * r_min)) + 1
    peaks = (smooth == ndimage.maximum_filter(smooth, size=window)) & (depth >= MIN_DEPTH * r_min / LIMIT_TOLERANCE[0])
    places = np.argwhere(peaks)
    if not len(places):
        return []
    values = smooth[tuple(places.T)].astype(np.float64)
    order = np.argsort(-values, kind="stable")
    places, values = places[order].astype(np.float64), values[order]
    kept: list[int] = []
    for i in range(len(places)):
        if kept:
            step = places[kept] - places[i]
            distance = np.sqrt((SEED_SQUASH * step[:, 0]) ** 2 + step[:, 1] ** 2 + step[:, 2] ** 2)
            near = np.flatnonzero(distance < 1.5 * values[kept])
            if any(
                distance[j] < 0.4 * values[kept[j]] or _neck(smooth, places[i], places[kept[j]]) > NECK * values[i]
                for j in near
            ):
                continue
        kept.append(i)
    return [Spheroid(places[i], max(float(values[i]), 1.0), 1.0) for i in kept]


def _neck(depth: NDArray[np.float32], a: Floats, b: Floats) -> float:
    """The least depth on the straight line between two places."""
    count = max(3, int(np.ceil(2 * np.linalg.norm(b - a))))
    line = np.rint(a + (b - a) * np.linspace(0, 1, count)[:, None]).astype(int)
    return float(depth[tuple(line.T)].min())


def _distinct(shapes: list[Spheroid]) -> list[int]:
    """Indices of the spheroids whose centre does not lie deep in a larger one."""
    from scipy.spatial import cKDTree

    centres, radii = np.array([s.centre for s in shapes]), np.array([s.radius for s in shapes])
    tree = cKDTree(centres)
    dropped: set[int] = set()
    for i in np.argsort(-radii, kind="stable").tolist():
        if i not in dropped:
            inside = tree.query_ball_point(centres[i], 0.5 * radii[i])
            dropped.update(j for j in inside if j != i and radii[j] <= radii[i])
    return [i for i in range(len(shapes)) if i not in dropped]


def _support(candidate: Candidate, data: NDArray[Any], mask: NDArray[np.bool_], voxel_nm: float) -> None:
    """Measure fill, score, volume, the share inside and the supported surface of a candidate in its box."""
    shape = candidate.shape
    beyond = OUTSIDE_NM / voxel_nm
    low = np.floor(shape.centre - shape.radius - beyond).astype(int)
    high = np.ceil(shape.centre + shape.radius + beyond).astype(int) + 1
    box = tuple(slice(max(0, a), max(0, min(n, b))) for a, b, n in zip(low, high, mask.shape, strict=True))
    z, y, x = np.ogrid[box]
    distance = shape.distance(z, y, x)
    ball = distance <= shape.radius
    rim = (distance > shape.radius + 0.25 * beyond) & (distance <= shape.radius + beyond)
    count = int(ball.sum())
    if not count:
        return
    half_height = shape.radius / np.sqrt(shape.squash2)
    candidate.volume = float(mask[box][ball].sum())
    candidate.fill = candidate.volume / count
    candidate.score = float(data[box][ball].mean(dtype=np.float64))
    candidate.outside = float(data[box][rim].mean(dtype=np.float64)) if rim.any() else 0.0
    candidate.inside = min(1.0, count / (4 / 3 * np.pi * shape.radius**2 * half_height))
    candidate.support, candidate.purity = surface_support(shape, mask, SHELL_NM / voxel_nm)


#: Directions (z, y, x) spread evenly over the sphere (a Fibonacci spiral), the unresolved caps left out.
def _directions(count: int = 300, highest: float = 0.8) -> Floats:
    z = np.linspace(-highest, highest, count)
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    return np.column_stack([z, np.sqrt(1 - z**2) * np.sin(angle), np.sqrt(1 - z**2) * np.cos(angle)])


def surface_support(shape: Spheroid, mask: NDArray[np.bool_], depth: float) -> tuple[float, float]:
    """Share of a spheroid's surface (caps left out) at which the mask ends, and how seldom it goes on beyond.

    Along each direction the mask must be mostly there just inside the surface and mostly absent just outside it.
    Directions that leave the volume are not counted, unless nearly all do. The second figure is 1 where the mask
    never reaches beyond the surface; a piece of a shell or a ball laid over a crowd has a low one.
    """
    directions = _directions() * np.array([shape.squash2**-0.5, 1.0, 1.0])
    width = float(np.clip(0.15 * shape.radius, 1.5, max(depth, 1.5)))
    steps = np.array([-1.0, -0.6, -0.2, 0.2, 0.6, 1.0]) * width
    steps = np.concatenate([steps[:3] - 0.5, steps[3:] + 0.5]) / shape.radius
    points = shape.centre + shape.radius * directions[:, None, :] * (1 + steps)[None, :, None]
    index = np.rint(points).astype(int)
    known = np.all((index >= 0) & (index < mask.shape), axis=2)
    index = np.clip(index, 0, np.array(mask.shape) - 1)
    values = mask[index[..., 0], index[..., 1], index[..., 2]]
    usable = known.all(axis=1)
    within, beyond = values[:, :3].sum(axis=1) >= 2, values[:, 3:].sum(axis=1) >= 2
    ends, goes_on = (within & ~beyond & usable).sum(), (beyond & usable).sum()
    support = float(ends / max(usable.sum(), 0.1 * len(usable)))
    return support, float(ends / max(ends + goes_on, 1))


def _plausible(candidate: Candidate, voxel_nm: float, r_min: float, r_max: float, settings: ProposalSettings) -> bool:
    """Whether size, place and filling are possible for a vesicle."""
    radius = candidate.shape.radius
    return (
        r_min <= radius <= r_max
        and candidate.inside >= settings.min_inside_fraction * LIMIT_TOLERANCE[0]
        and (candidate.fill >= MIN_FILL or radius * voxel_nm >= SMALLEST_BROKEN_NM)
        and candidate.volume >= MIN_VOLUME * 4 / 3 * np.pi * r_min**3 * candidate.inside
    )


def _broken(
    found: list[Candidate], data: NDArray[Any], mask: NDArray[np.bool_], grid: Grid, r_min: float, r_max: float
) -> list[Candidate]:
    """Candidates for large vesicles that the mask shows as a shell or in pieces."""
    whole = [c.shape for c in found if c.support >= 0.6]
    candidates = []
    smallest = max(2 * r_min, SMALLEST_BROKEN_NM / grid.voxel_nm)
    for shape in broken_shells(mask, smallest=smallest, largest=r_max, known=whole):
        candidate = Candidate(shape)
        _support(candidate, data, mask, grid.voxel_nm)
        # A hollow shell fills little of its sphere: its surface speaks for it.
        if candidate.support >= 0.25 and candidate.purity >= 0.6:
            candidates.append(candidate)
    return candidates


def _without_conflicts(candidates: list[Candidate]) -> list[Candidate]:
    """Choose among candidates that claim the same place.

    From small to large, a candidate replaces those that it conflicts with if it is worth more than all of them
    together; so a large vesicle replaces the pieces it was seen in, and a crowd is not taken for a large vesicle.
    """
    from scipy.spatial import cKDTree

    if not candidates:
        return []
    candidates = sorted(candidates, key=lambda c: c.shape.radius)
    tree = cKDTree([c.shape.centre for c in candidates])
    chosen: set[int] = set()
    for i, candidate in enumerate(candidates):
        # Those before it are not larger: two radii are as far as a conflict reaches.
        near = tree.query_ball_point(candidate.shape.centre, 2 * candidate.shape.radius)
        rivals = [j for j in near if j in chosen and overlap(candidates[j].shape, candidate.shape) > MAX_OVERLAP]
        if candidate.worth > sum(candidates[j].worth for j in rivals):
            chosen -= set(rivals)
            chosen.add(i)
    return [candidates[i] for i in sorted(chosen)]


def overlap(a: Spheroid, b: Spheroid) -> float:
    """Share of the smaller sphere's volume that lies in the other (both taken as balls)."""
    small, large = sorted((a.radius, b.radius))
    d = float(np.linalg.norm(a.centre - b.centre))
    if d >= small + large:
        return 0.0
    if d <= large - small:
        return 1.0
    lens = np.pi * (small + large - d) ** 2 * (d**2 + 2 * d * (small + large) - 3 * (large - small) ** 2) / (12 * d)
    return float(lens / (4 / 3 * np.pi * small**3))
