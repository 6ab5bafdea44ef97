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


#: Most voxels of the tomogram that are held at a time.
_SOURCE_VOXELS = 12_000_000


def _axis_weights(places: NDArray[np.float64], support: float, length: int) -> tuple[sparse.csr_matrix | None, slice]:
    """Interpolation matrix (len(places), used source voxels; None for the identity), and the source voxels used."""
    nearest = np.rint(places)
    if support == 1 and np.abs(places - nearest).max() < 1e-6 and nearest[0] >= 0 and nearest[-1] < length:
        return None, slice(int(nearest[0]), int(nearest[-1]) + 1)
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
    float32 array (z, y, x) of the region's shape, dense = low; never a part of the tomogram itself.
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
    z, slices = region[0], region[0].stop - region[0].start
    if slices > 1 and np.prod([part.stop - part.start for part in used]) > _SOURCE_VOXELS:
        middle = z.start + slices // 2
        halves = [
            sample_region(tomogram, target, (half, *region[1:]))
            for half in (slice(z.start, middle), slice(middle, z.stop))
        ]
        return np.concatenate(halves)
    volume = tomogram.grey((used[0], used[1], used[2]))
    for axis in (0, 1, 2) if support > 1 else (2, 1, 0):  # first where it makes the array smaller most cheaply
        if matrices[axis] is not None:
            volume = _interpolated(volume, matrices[axis], axis)
    return volume.copy() if np.may_share_memory(volume, tomogram.data) else np.ascontiguousarray(volume)


def _interpolated(volume: NDArray[np.float32], matrix: sparse.csr_matrix, axis: int) -> NDArray[np.float32]:
    """A volume with an interpolation matrix applied along one axis."""
    nz, ny, nx = volume.shape
    if axis == 0:
        return np.asarray(matrix @ volume.reshape(nz, -1)).reshape(-1, ny, nx)
    if axis == 1:
        return np.stack([matrix @ section for section in volume])
    return np.ascontiguousarray((matrix @ volume.reshape(-1, nx).T).T).reshape(nz, ny, -1)


def sample_all(tomogram: Tomogram, target: Grid) -> NDArray[np.float32]:
    """`sample_region` for a whole (small) volume."""
    nz, ny, nx = target.shape_zyx
    return sample_region(tomogram, target, (slice(0, nz), slice(0, ny), slice(0, nx)))
