"""Where vesicles are looked for: an outline drawn in IMOD, or a label volume."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepvesicle.errors import BadInputError, VoxelSizeError
from deepvesicle.files.imod import read_outline
from deepvesicle.files.outline import Outline
from deepvesicle.files.tomogram import read_header, read_labels
from deepvesicle.grid import Grid, Labels, as_points

#: Voxel sizes that differ by less are taken as the same, as share.
_SAME_VOXEL_SIZE = 0.01


@dataclass(frozen=True)
class LabelRegion:
    """All voxels of a label volume that are not 0, or those of one label.

    Parameters
    ----------
    labels : Labels
    label : int, optional
    notes : tuple of str
        What the user should know of it.
    """

    labels: Labels
    label: int | None = None
    notes: tuple[str, ...] = ()

    def contains(self, points_zyx: ArrayLike) -> NDArray[np.bool_]:
        """Which points (N, 3), voxels of the labels' grid, lie in a labelled voxel (N,)."""
        points = as_points(points_zyx)
        inside = self.labels.grid.contains(points)
        last = np.asarray(self.labels.grid.shape_zyx) - 1
        index = np.clip(np.rint(points).astype(int), 0, last)
        return np.asarray(inside & self._belongs(self.labels.data[tuple(index.T)]))

    def to_mask(self, grid: Grid) -> NDArray[np.bool_]:
        """Which voxels of a grid lie in a labelled voxel, as array (z, y, x); the grid may be another one."""
        mask = np.zeros(grid.shape_zyx, dtype=bool)
        zs, ys, xs = (self._nearest(grid, axis) for axis in range(3))
        known = np.outer(ys >= 0, xs >= 0)
        for plane, z in zip(mask, zs, strict=True):
            if z >= 0:
                plane[...] = self._belongs(self.labels.data[z])[np.ix_(ys, xs)] & known
        return mask

    def _nearest(self, grid: Grid, axis: int) -> NDArray[np.int64]:
        """The labels' voxel that each voxel of a grid lies in, along one axis; -1 outside."""
        line = np.zeros((grid.shape_zyx[axis], 3))
        line[:, axis] = np.arange(len(line))
        index = np.rint(grid.map_points(line, self.labels.grid)[:, axis]).astype(np.int64)
        return np.where((index >= 0) & (index < self.labels.grid.shape_zyx[axis]), index, -1)

    def _belongs(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(values != 0 if self.label is None else values == self.label)


def read_region(path: str | os.PathLike[str], grid: Grid, part: str | None = None) -> Outline | LabelRegion:
    """Read an outline (closed contours, ``.mod``) or a label volume (MRC) of the tomogram's size.

    Parameters
    ----------
    path : path
    grid : Grid
        The tomogram's.
    part : str, optional
        Use one object of the model, by its name, or one label of the volume, by its number; all of them if not given.

    Raises
    ------
    BadInputError
        The file cannot be used, or it marks nothing.
    """
    path = Path(path)
    if path.suffix.lower() in (".mod", ".imod"):
        return read_outline(path, grid, object_name=part)
    if part is not None and not part.isdecimal():
        raise BadInputError(f"{path} has no label {part!r}", expected="the number of a label")
    region = LabelRegion(read_labels(path, grid), None if part is None else int(part), _other_voxels(path, grid))
    if not any(region._belongs(np.asarray(plane)).any() for plane in region.labels.data):
        raise BadInputError(
            f"the mask {path} is empty",
            expected="voxels that are not 0 inside the cell" if part is None else f"voxels of the label {part}",
        )
    return region


def _other_voxels(path: Path, grid: Grid) -> tuple[str, ...]:
    """A note where the voxel size of a label volume's header is usable, and another one than the tomogram's."""
    try:
        voxel_nm = read_header(path).judged_voxel_nm()
    except VoxelSizeError:
        return ()
    if abs(voxel_nm / grid.voxel_nm - 1) <= _SAME_VOXEL_SIZE:
        return ()
    return (
        f"{path} has voxels of {voxel_nm:.4g} nm, the tomogram of {grid.voxel_nm:.4g} nm: taken voxel for voxel, look "
        "whether it is of this tomogram",
    )
