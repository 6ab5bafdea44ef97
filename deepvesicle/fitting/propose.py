"""From the network's probability to first spheres: none lost, touching ones apart, large ones whole.

Per connected component of the mask, in its own box: holes are filled; the maxima of the distance transform are the
seeds; seeds that no neck separates are one; mask voxels are shared out among the spheroids around the seeds, and each
spheroid is fitted again to the surface of its share (the scheme of k-means, with surfaces for means). Large vesicles
that the mask shows in pieces are looked for over the whole mask (`deepvesicle.fitting.shells`). Where candidates claim
the same place the one whose surface the mask supports on the larger area stays.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.cores import usable_cores
from deepvesicle.fitting.instances import LIMIT_TOLERANCE, Mapping, spheroids_of
from deepvesicle.fitting.mask import Box, PackedMask
from deepvesicle.fitting.shells import broken_shells
from deepvesicle.fitting.spheroid_kernels import ball_sums, surface_sums
from deepvesicle.fitting.spheroids import Spheroid
from deepvesicle.grid import Grid, Probability
from deepvesicle.memory import ReadPages
from deepvesicle.settings import ProposalSettings
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]

#: A vesicle's mask fills at least this share of a sphere of the smallest radius; less is a speck.
MIN_VOLUME = 0.2
#: Radius from which a vesicle's mask is expected to be hollow or in pieces at times, nm (outer).
SMALLEST_BROKEN_NM = 28.0
#: Such a mask is at least about this thick.
SHELL_NM = 6.0
#: Smaller ones are filled at least to this share.
MIN_FILL = 0.5
#: Candidates of which one has more than this share of its volume in the other claim the same place.
MAX_OVERLAP = 0.35
#: Where nothing was found at the threshold, faint vesicles are looked for at these shares of it, ...
FAINT = (0.5, 0.25)
#: ... this far from those already found, nm.
FAINT_MARGIN_NM = 3.0
#: What is just outside a candidate: the last three quarters of this distance, nm.
OUTSIDE_NM = 8.0


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

    with ThreadPoolExecutor(usable_cores()) as pool:
        search = _Search(data, grid.voxel_nm, level, r_min, r_max, pool.map)
        chosen = _chosen(search, settings, grid)
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


@dataclass(frozen=True)
class _Search:
    """What is searched for what; lengths in voxels."""

    data: NDArray[Any]
    voxel_nm: float
    level: float
    r_min: float
    r_max: float
    mapping: Mapping

    def candidates(self, mask: PackedMask, share: float) -> list[Candidate]:
        """Spheroids of all connected pieces at a share of the level; holes are filled in `mask` too."""
        smallest = MIN_VOLUME * 4 / 3 * np.pi * self.r_min**3
        shapes = spheroids_of(self.data, mask, share * self.level, smallest, self.r_min, self.r_max, self.mapping)
        return self.supported([Candidate(shape, share=share) for shape in shapes], mask)

    def supported(self, candidates: list[Candidate], mask: PackedMask) -> list[Candidate]:
        """The same candidates, with what the mask says of each."""
        pages = ReadPages()
        for _ in self.mapping(lambda c: _support(c, self.data, mask, self.voxel_nm, pages), candidates):
            pass
        return candidates


def _chosen(search: _Search, settings: ProposalSettings, grid: Grid) -> list[Candidate]:
    """The candidates that stay: clear ones first, then faint ones where nothing was found."""
    mask = PackedMask.above(search.data, search.level)
    found = search.candidates(mask, 1.0)
    found += _broken(found, search, mask)
    chosen = _without_conflicts([c for c in found if _plausible(c, search, settings)])
    for share in FAINT:
        mask = PackedMask.above(search.data, share * search.level)
        for c in chosen:
            _erase(mask, c.shape, FAINT_MARGIN_NM / grid.voxel_nm)
        found = search.candidates(mask, share)
        faint = _without_conflicts([c for c in found if _plausible(c, search, settings)])
        chosen += _beside(faint, chosen)
    return chosen


def _erase(mask: PackedMask, shape: Spheroid, margin: float) -> None:
    """Take a spheroid out of the mask, and `margin` voxels around it."""
    radius = shape.radius + margin
    half_height = shape.half_height + margin
    box = _box_about(shape.centre, np.array([half_height, radius, radius]), mask.shape)
    if box is None:
        return
    z, y, x = np.ogrid[box]
    grown = Spheroid(shape.centre, radius, (radius / half_height) ** 2)
    mask.keep(box, grown.distance(z, y, x) > radius)


def _box_about(centre: Floats, reach: Floats, shape: tuple[int, ...]) -> Box | None:
    """The voxels of a volume within reach of a place along each axis; None where there are none."""
    low, high = np.floor(centre - reach).astype(int), np.ceil(centre + reach).astype(int) + 1
    z, y, x = (slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, shape, strict=True))
    return None if z.stop <= z.start or y.stop <= y.start or x.stop <= x.start else (z, y, x)


def _support(candidate: Candidate, data: NDArray[Any], mask: PackedMask, voxel_nm: float, pages: ReadPages) -> None:
    """Measure fill, score, volume, the share inside and the supported surface of a candidate in its box."""
    shape = candidate.shape
    beyond = OUTSIDE_NM / voxel_nm
    box = _box_about(shape.centre, np.full(3, shape.radius + beyond), mask.shape)
    if box is None:
        return
    part, values = mask.box(box), pages.box(data, box)
    first = np.array([s.start for s in box] + [0, 0], dtype=np.float64)
    count, volume, total, rim, rim_total = ball_sums(values, part, shape.row() - first, beyond).tolist()
    if not count:
        return
    candidate.volume = volume
    candidate.fill = volume / count
    candidate.score = total / count
    candidate.outside = rim_total / rim if rim else 0.0
    candidate.inside = min(1.0, count / (4 / 3 * np.pi * shape.radius**2 * shape.half_height))
    candidate.support, candidate.purity = surface_support(shape, mask, SHELL_NM / voxel_nm)


#: Directions (z, y, x) spread evenly over the sphere (a Fibonacci spiral), the unresolved caps left out.
@lru_cache(maxsize=1)
def _directions(count: int = 300, highest: float = 0.8) -> Floats:
    z = np.linspace(-highest, highest, count)
    angle = np.pi * (1 + 5**0.5) * np.arange(count)
    return np.column_stack([z, np.sqrt(1 - z**2) * np.sin(angle), np.sqrt(1 - z**2) * np.cos(angle)])


def surface_support(shape: Spheroid, mask: PackedMask, depth: float) -> tuple[float, float]:
    """Share of a spheroid's surface (caps left out) at which the mask ends, and how seldom it goes on beyond.

    Along each direction the mask must be mostly there just inside the surface and mostly absent just outside it.
    Directions that leave the volume are not counted, unless nearly all do. The second figure is 1 where the mask
    never reaches beyond the surface; a piece of a shell or a ball laid over a crowd has a low one.
    """
    directions = _directions() * np.array([shape.squash2**-0.5, 1.0, 1.0])
    width = float(np.clip(0.15 * shape.radius, 1.5, max(depth, 1.5)))
    steps = np.array([-1.0, -0.6, -0.2, 0.2, 0.6, 1.0]) * width
    steps = np.concatenate([steps[:3] - 0.5, steps[3:] + 0.5]) / shape.radius
    furthest = max(shape.radius, shape.half_height) * (1 + float(steps[-1])) + 1
    box = _box_about(shape.centre, np.full(3, furthest), mask.shape)
    if box is None:
        return 0.0, 0.0
    first, size = np.array([s.start for s in box], dtype=np.float64), np.array(mask.shape, dtype=np.float64)
    ends, goes_on, usable = surface_sums(mask.box(box), first, size, shape.row(), directions, steps).tolist()
    return float(ends / max(usable, 0.1 * len(directions))), float(ends / max(ends + goes_on, 1))


def _plausible(candidate: Candidate, search: _Search, settings: ProposalSettings) -> bool:
    """Whether size, place and filling are possible for a vesicle."""
    radius = candidate.shape.radius
    return (
        search.r_min <= radius <= search.r_max
        and candidate.inside >= settings.min_inside_fraction * LIMIT_TOLERANCE[0]
        and (candidate.fill >= MIN_FILL or radius * search.voxel_nm >= SMALLEST_BROKEN_NM)
        and candidate.volume >= MIN_VOLUME * 4 / 3 * np.pi * search.r_min**3 * candidate.inside
    )


def _broken(found: list[Candidate], search: _Search, mask: PackedMask) -> list[Candidate]:
    """Candidates for large vesicles that the mask shows as a shell or in pieces."""
    whole = [c.shape for c in found if c.support >= 0.6]
    smallest = max(2 * search.r_min, SMALLEST_BROKEN_NM / search.voxel_nm)
    shapes = broken_shells(mask, smallest=smallest, largest=search.r_max, known=whole, mapping=search.mapping)
    candidates = search.supported([Candidate(shape) for shape in shapes], mask)
    # A hollow shell fills little of its sphere: its surface speaks for it.
    return [c for c in candidates if c.support >= 0.25 and c.purity >= 0.6]


def _beside(candidates: list[Candidate], others: list[Candidate]) -> list[Candidate]:
    """Those candidates whose place no other claims."""
    from scipy.spatial import cKDTree

    if not others or not candidates:
        return candidates
    tree = cKDTree([c.shape.centre for c in others])
    largest = max(c.shape.radius for c in others)
    found = []
    for c in candidates:
        near = tree.query_ball_point(c.shape.centre, c.shape.radius + largest)
        if all(overlap(c.shape, others[j].shape) <= MAX_OVERLAP for j in near):
            found.append(c)
    return found


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
