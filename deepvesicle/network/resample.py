"""Rescaling to the network's voxel size, region by region, so that no second full volume is needed.

Separable interpolation with a triangle kernel as wide as the coarser of the two voxels: linear interpolation when
sampling more finely, an anti-aliased average when sampling more coarsely, the identity at equal voxel size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from deepvesicle.grid import Grid, Tomogram

Region = tuple[slice, slice, slice]


def _axis_weights(places: NDArray[np.float64], support: float, length: int) -> tuple[sparse.csr_matrix, slice]:
    """Interpolation matrix (len(places), used source voxels) and which source voxels it uses."""
    first = int(np.clip(np.floor(places[0] - support), 0, length - 1))
    last = int(np.clip(np.ceil(places[-1] + support), first, length - 1))
    reach = int(np.ceil(support))
    base = np.floor(places).astype(int)[:, None] + np.arange(-reach, reach + 2)[None]
    weight = np.maximum(0.0, 1.0 - np.abs(base - places[:, None]) / support)
    inside = np.clip(base, first, last)  # beyond the volume its edge voxels go on
    rows = np.broadcast_to(np.arange(len(places))[:, None], base.shape)
    weight /= weight.sum(axis=1, keepdims=True)
    matrix = sparse.csr_matrix(
        (weight.ravel().astype(np.float32), (rows.ravel(), (inside - first).ravel())),
        shape=(len(places), last - first + 1),
    )
    return matrix, slice(first, last + 1)


def sample_region(tomogram: Tomogram, target: Grid, region: Region) -> NDArray[np.float32]:
    """Grey values of a tomogram on part of another grid.

    Parameters
    ----------
    tomogram : Tomogram
        Read only where it is needed.
    target : Grid
        A grid in the same space (`Grid.rescaled` of the tomogram's).
    region : tuple of slice
        z, y, x slices with start and stop on `target`, inside its shape.

    Returns
    -------
    float32 array (z, y, x) of the region's shape, dense = low.
    """
    source = tomogram.grid
    support = max(1.0, target.voxel_nm / source.voxel_nm)
    matrices, used = [], []
    for axis in range(3):
        start, stop = region[axis].start, region[axis].stop
        points = np.zeros((stop - start, 3))
        points[:, axis] = np.arange(start, stop)
        places = target.map_points(points, source)[:, axis]
        matrix, part = _axis_weights(places, support, source.shape_zyx[axis])
        matrices.append(matrix)
        used.append(part)
    volume = tomogram.grey((used[0], used[1], used[2]))
    for axis in (2, 1, 0):
        moved = np.moveaxis(volume, axis, 0)
        rest = moved.shape[1:]
        flat = np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
        volume = np.moveaxis(np.asarray(matrices[axis] @ flat).reshape(-1, *rest), 0, axis)
    return np.ascontiguousarray(volume, dtype=np.float32)


def sample_all(tomogram: Tomogram, target: Grid) -> NDArray[np.float32]:
    """`sample_region` for a whole (small) volume."""
    nz, ny, nx = target.shape_zyx
    return sample_region(tomogram, target, (slice(0, nz), slice(0, ny), slice(0, nx)))
