"""Where vesicles are looked for: an outline drawn in IMOD, or a label volume."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepvesicle.errors import BadInputError
from deepvesicle.files.imod import read_outline
from deepvesicle.files.outline import Outline
from deepvesicle.files.tomogram import read_labels
from deepvesicle.grid import Grid, Labels, as_points


@dataclass(frozen=True)
class LabelRegion:
    """All voxels of a label volume that are not 0."""

    labels: Labels

    def contains(self, points_zyx: ArrayLike) -> NDArray[np.bool_]:
        """Which points (N, 3), voxels of the labels' grid, lie in a labelled voxel (N,)."""
        points = as_points(points_zyx)
        inside = self.labels.grid.contains(points)
        last = np.asarray(self.labels.grid.shape_zyx) - 1
        index = np.clip(np.rint(points).astype(int), 0, last)
        return np.asarray(inside & (self.labels.data[tuple(index.T)] != 0))


def read_region(path: str | os.PathLike[str], grid: Grid) -> Outline | LabelRegion:
    """Read an outline (closed contours, ``.mod``) or a label volume (MRC) of the tomogram's size.

    Raises
    ------
    BadInputError
        The file cannot be used, or it marks nothing.
    """
    path = Path(path)
    if path.suffix.lower() in (".mod", ".imod"):
        return read_outline(path, grid)
    labels = read_labels(path, grid)
    if not np.any(labels.data):
        raise BadInputError(f"the mask {path} is empty", expected="a volume with voxels that are not 0 inside the cell")
    return LabelRegion(labels)
