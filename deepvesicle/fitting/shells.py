"""Large vesicles that a probability mask shows as a hollow shell or in pieces.

Each place on the mask's surface votes for the centres that lie along its inward normal, at a ladder of radii: the
generalised Hough transform for spheres (Ballard 1981, Pattern Recognition 13, 111-122), on a binned mask, so that the
cost goes with the surface of the mask. Normals of a hollow shell's inner surface vote at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.mask import PackedMask
from deepvesicle.fitting.shell_votes import bin_counts, cast_votes, shell_about, surface_voxels, vote_peaks
from deepvesicle.fitting.spheroids import SPHEROID_FIT, Spheroid

Floats = NDArray[np.float64]
Mapping = Callable[..., Iterable[Any]]

#: Factor between neighbouring radii of the ladder.
LADDER = 1.12
#: Size of a vote's cell, as a share of the radius: normals on a coarse mask are known to about ten degrees.
CELL = 0.25
#: The vote is held for spheres and for masks that are squashed along z: space is stretched by these factors.
STRETCHES = (1.0, 1.4)
#: A centre needs votes from this share of a full sphere's surface.
MIN_VOTES = 0.2
#: Rounds of the fit: which distances from a centre count, as shares of the radius; from a coarse vote to a surface.
_WITHIN = np.array([(0.7, 1.35), (0.82, 1.22), (0.88, 1.14)])
#: Binned voxels whose surface is looked for at a time.
SLAB_VOXELS = 1 << 23


def broken_shells(
    mask: PackedMask,
    *,
    smallest: float,
    largest: float,
    known: Sequence[Spheroid] = (),
    mapping: Mapping = map,
) -> list[Spheroid]:
    """Find large spheres whose outer surface the mask shows in part.

    Parameters
    ----------
    mask : PackedMask
    smallest, largest : float
        Range of radii, voxels.
    known : sequence of Spheroid
        Those found already, which need not be found again.
    mapping : callable
        `map`, or that of a pool of threads.

    Returns
    -------
    list of Spheroid
        Best supported first; several may describe the same vesicle, and some are chance.
    """
    if largest <= smallest or not mask.any():
        return []
    bin_by = max(1, int(smallest // 6))
    surface = _Surface.of(mask, bin_by, mapping)
    if len(surface.points) < 30:
        return []
    ladder = []
    for stretch in STRETCHES:
        radius = smallest / bin_by
        while radius <= largest / bin_by * LADDER:
            ladder.append((stretch, radius))
            radius *= LADDER
    # One after the other: the votes take the most memory of all this.
    peaks = [peak for stretch, radius in ladder for peak in _peaks_at(surface, radius, stretch)]
    peaks.sort(key=lambda p: -p[0])
    # Binned voxel i covers voxels i * b .. i * b + b - 1, so its centre lies (b - 1) / 2 further on.
    shift = (bin_by - 1) / 2
    seen = _Places(largest / bin_by)
    for k in known:
        seen.add(Spheroid((k.centre - shift) / bin_by, k.radius / bin_by, k.squash2))
    # A vote's cell is coarse, so what is taken for known here is generous; a refined one is compared strictly.
    starts = [start for _, start in peaks if not seen.has(start, 0.3, 0.3)]
    kept: list[Spheroid] = []
    for refined in mapping(surface.refined, starts):
        if refined is None or not smallest <= refined.radius * bin_by <= largest:
            continue
        if not seen.has(refined, 0.2, 0.15):
            seen.add(refined)
            kept.append(refined)
    return [Spheroid(k.centre * bin_by + shift, k.radius * bin_by, k.squash2) for k in kept]


class _Places:
    """Spheroids, to be asked for those near a place."""

    def __init__(self, cell: float) -> None:
        self._cell = cell
        self._members: dict[tuple[int, ...], list[Spheroid]] = {}

    def _key(self, centre: Floats) -> tuple[int, ...]:
        return tuple(np.floor(centre / self._cell).astype(int).tolist())

    def add(self, shape: Spheroid) -> None:
        """One more."""
        self._members.setdefault(self._key(shape.centre), []).append(shape)

    def has(self, shape: Spheroid, far: float, larger: float) -> bool:
        """Whether there is one of nearly the same centre and radius (as shares of its radius)."""
        z, y, x = self._key(shape.centre)
        return any(
            abs(shape.radius / o.radius - 1) <= larger and np.linalg.norm(shape.centre - o.centre) <= far * o.radius
            for dz, dy, dx in product((-1, 0, 1), repeat=3)
            for o in self._members.get((z + dz, y + dy, x + dx), ())
        )


@dataclass(frozen=True, eq=False)
class _Surface:
    """Places (N, 3) on the surface of a binned mask, in its voxels, and their outward unit normals."""

    points: NDArray[np.float32]
    outward: NDArray[np.float32]
    rows: NDArray[np.int64]  # first place of each row (z, y) of voxels
    shape: tuple[int, int, int]
    size: Floats  # of the mask, binned voxels, not rounded

    @classmethod
    def of(cls, mask: PackedMask, bin_by: int, mapping: Mapping) -> _Surface:
        """Find it, slab by slab."""
        nz, ny, nx = (max(1, n // bin_by) for n in mask.shape)
        counts = np.zeros((nz, ny, nx), dtype=np.uint16)
        bin_counts(mask.bits, bin_by, counts)
        full = float(np.prod([min(bin_by, n) for n in mask.shape]))
        step = max(1, SLAB_VOXELS // (ny * nx))
        slabs = [(first, min(nz, first + step)) for first in range(0, nz, step)]
        parts = list(mapping(lambda slab: _surface_of_slab(counts, full, *slab), slabs))
        points = np.concatenate([part[0] for part in parts])
        outward = np.concatenate([part[1] for part in parts])
        rows = np.concatenate([[0], np.cumsum(np.concatenate([part[2] for part in parts]))])
        return cls(points, outward, rows, (nz, ny, nx), np.array(mask.shape) / bin_by)

    def refined(self, start: Spheroid) -> Spheroid | None:
        """Fit to the surface points near a sphere whose normals point away from its centre."""
        good, row = shell_about(self.points, self.outward, self.rows, self.shape, start.row(), _WITHIN, SPHEROID_FIT)
        return Spheroid.of_row(row) if good else None


def _surface_of_slab(
    counts: NDArray[np.uint16], full: float, first: int, last: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Places and normals of sections `first` to before `last`, and how many are in each row."""
    from scipy import ndimage

    nz, ny, nx = counts.shape
    # As far as the Gaussian reaches, and one more for the slope.
    low, high = max(0, first - 5), min(nz, last + 5)
    rows = np.zeros((high - low) * ny + 1, dtype=np.int64)
    none = np.empty((0, 3), dtype=np.int32)
    part = counts[low:high]
    at = np.empty((surface_voxels(part, full, first - low, last - low, rows, none), 3), dtype=np.int32)
    if not len(at):
        empty = np.empty((0, 3), dtype=np.float32)
        return empty, empty, np.zeros((last - first) * ny, dtype=np.int64)
    surface_voxels(part, full, first - low, last - low, rows, at)
    smooth = ndimage.gaussian_filter(part.astype(np.float32) / np.float32(full), 1.0)
    top = np.array(part.shape) - 1
    normals = np.empty(at.shape)
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        after, before = np.minimum(at + step, top), np.maximum(at - step, 0)
        normals[:, axis] = smooth[tuple(before.T)] - smooth[tuple(after.T)]
    length = np.linalg.norm(normals, axis=1)
    good = length > 1e-3
    normals = normals[good] / length[good, None]
    at = at[good] + [low, 0, 0]
    numbers = np.bincount((at[:, 0] - first) * ny + at[:, 1], minlength=(last - first) * ny)
    # The voxels of the surface layer are inside: the surface is about half a voxel further out.
    return (at + 0.5 * normals).astype(np.float32), normals.astype(np.float32), numbers.astype(np.int64)


def _peaks_at(surface: _Surface, radius: float, stretch: float) -> list[tuple[float, Spheroid]]:
    """Spheres of one radius, each with its share of a whole sphere's votes."""
    cell = CELL * radius
    low = -0.5 * radius
    scale = np.array([stretch, 1.0, 1.0])
    cells = np.ceil((surface.size * scale + radius) / cell).astype(int) + 1
    votes = np.zeros(tuple(cells), dtype=np.uint16)
    cast_votes(surface.points, surface.outward, stretch, radius, low, cell, votes)
    whole = 4 * np.pi * radius**2
    sums, places = vote_peaks(votes, MIN_VOTES * whole)
    centres = (low + cell * (places + 0.5)) / scale
    return [(float(s / whole), Spheroid(c, radius, stretch**2)) for s, c in zip(sums, centres, strict=True)]
