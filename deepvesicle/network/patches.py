"""Volumes with known vesicles, and the patches that a network learns from: cutting, mirroring, augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepvesicle.grid import Grid
from deepvesicle.vesicles import Vesicles

#: How often a patch may reach over the faces of an axis, by up to a third of its size.
MIRRORED_SHARE = 0.3

#: Grey values, occupancy and annotation of a patch, float32 arrays (z, y, x); see `Example`, occupancy as 0..1.
Patch = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Example:
    """A normalised volume and the occupancy of its voxels by vesicles.

    Parameters
    ----------
    grey : float16 array (z, y, x)
    mask : uint8 array (z, y, x)
        0..255: share of the voxel inside a vesicle (outer membrane edge).
    annotated : bool array (z, y, x), optional
        False where nobody has said what there is; all of it is known by default.
    """

    grey: NDArray[np.float16]
    mask: NDArray[np.uint8]
    annotated: NDArray[np.bool_] | None = None

    def part(self, box: tuple[NDArray[np.int64], ...]) -> Patch:
        """The voxels with the given indices along each axis (from `numpy.ix_`)."""
        grey = self.grey[box].astype(np.float32)
        mask = self.mask[box].astype(np.float32) / np.float32(255)
        known = np.ones_like(grey) if self.annotated is None else self.annotated[box].astype(np.float32)
        return grey, mask, known


def occupancy(vesicles: Vesicles, grid: Grid) -> NDArray[np.uint8]:
    """Share of each voxel inside any of the spheres, 0..255, soft over one voxel at the edge (z, y, x)."""
    mask = np.zeros(grid.shape_zyx, dtype=np.uint8)
    centres = vesicles.grid.map_points(vesicles.centres_vox, grid)
    radii = grid.length_to_vox(vesicles.radii_nm)
    for centre, radius in zip(centres, radii, strict=True):
        low = np.maximum(np.floor(centre - radius - 1).astype(int), 0)
        high = np.minimum(np.ceil(centre + radius + 2).astype(int), grid.shape_zyx)
        if np.any(high <= low):
            continue
        z, y, x = (np.arange(a, b, dtype=np.float32) - np.float32(c) for a, b, c in zip(low, high, centre, strict=True))
        distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
        depth = np.float32(radius) - distance
        depth += np.float32(0.5)
        share = (np.clip(depth, 0, 1) * 255).astype(np.uint8)
        part = mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        np.maximum(part, share, out=part)
    return mask


def augment(patch: Patch, rng: np.random.Generator) -> Patch:
    """Flips, quarter turns about z, grey-scale changes, blur and noise on one patch."""
    grey, *rest = patch
    for axis in range(3):
        if rng.random() < 0.5:
            grey, *rest = (np.flip(a, axis) for a in (grey, *rest))
    if rng.random() < 0.5:
        grey, *rest = (a.swapaxes(1, 2) for a in (grey, *rest))
    if rng.random() < 0.25:
        grey = ndimage.gaussian_filter(grey, rng.uniform(0.3, 1.0))
    if rng.random() < 0.3:
        grey = grey + rng.normal(0, rng.uniform(0.05, 0.5), grey.shape).astype(np.float32)
    if rng.random() < 0.15:
        slope = rng.normal(0, 0.4, 3)
        for axis, value in enumerate(slope):
            line = np.linspace(-1, 1, grey.shape[axis], dtype=np.float32) * np.float32(value)
            grey = grey + line.reshape([-1 if a == axis else 1 for a in range(3)])
    grey = grey * np.float32(np.exp(rng.normal(0, 0.2))) + np.float32(rng.normal(0, 0.15))
    mask, known = (np.ascontiguousarray(a, dtype=np.float32) for a in rest)
    return np.ascontiguousarray(grey, dtype=np.float32), mask, known


def cut_patch(example: Example, size: int, rng: np.random.Generator) -> Patch:
    """A random cube of `size` voxels, most of them with vesicles, as it is in the volume.

    Some reach over a face of the volume, where it is mirrored, as it is for prediction; so do all larger than it.
    """
    mask = example.mask
    wanted = rng.random() < 0.75
    over = [size // 3 if rng.random() < MIRRORED_SHARE else 0 for _ in mask.shape]
    for _ in range(6):
        ranges = [(min(0, n - size) - o, max(0, n - size) + o) for n, o in zip(mask.shape, over, strict=True)]
        starts = [int(rng.integers(low, high + 1)) for low, high in ranges]
        box = np.ix_(*(mirrored(first, size, n) for first, n in zip(starts, mask.shape, strict=True)))
        if not wanted or np.count_nonzero(mask[box]) > 0.01 * size**3:
            break
    return example.part(box)


def mirrored(first: int, count: int, size: int) -> NDArray[np.int64]:
    """Indices into an axis of `size` voxels from `first` on, mirrored at its ends as by `np.pad` ("symmetric")."""
    index = np.arange(first, first + count) % (2 * size)
    return np.asarray(np.where(index < size, index, 2 * size - 1 - index))
