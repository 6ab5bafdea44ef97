"""Cutting a tomogram round the active zone: Pyto is slow on large volumes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepvesicle.errors import BadInputError
from deepvesicle.grid import Grid, Region
from deepvesicle.scoring.statistics import sections
from deepvesicle.vesicles import Vesicles

#: A box of voxels along z, y, x.
Box = tuple[slice, slice, slice]


def box_round(region: Region, grid: Grid, margin_nm: float) -> Box:
    """The box of voxels that reaches a margin beyond a region on all sides, as far as the volume goes.

    Parameters
    ----------
    region : Region
    grid : Grid
    margin_nm : float

    Raises
    ------
    BadInputError
        The region has no voxel on the grid.
    """
    low, high = np.asarray(grid.shape_zyx), np.zeros(3, dtype=int)
    _, ny, nx = grid.shape_zyx
    for start, end in sections(grid):
        mask = region.to_mask(grid.cropped((start, 0, 0), (end - start, ny, nx)))
        plane = np.asarray(mask.any(axis=0))
        lines = [mask.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0)]
        if not plane.any():
            continue
        for axis, (line, offset) in enumerate(zip(lines, (start, 0, 0), strict=True)):
            index = np.flatnonzero(line) + offset
            low[axis], high[axis] = min(low[axis], index[0]), max(high[axis], index[-1] + 1)
    if (high <= low).any():
        raise BadInputError("the active zone lies outside the tomogram", expected="a membrane to cut round")
    margin = int(np.ceil(grid.length_to_vox(margin_nm)))
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, grid.shape_zyx)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


def whole(grid: Grid) -> Box:
    """The box of all voxels."""
    z, y, x = (slice(0, n) for n in grid.shape_zyx)
    return z, y, x


def grid_of_box(grid: Grid, box: Box) -> Grid:
    """The part of a grid that a box takes: the same voxels, at the same places in space."""
    return grid.cropped([part.start for part in box], [part.stop - part.start for part in box])


def moved_into(vesicles: Vesicles, grid: Grid) -> Vesicles:
    """The same spheres on a part of their grid; those that have no part in it are left away.

    Nothing is rounded: the parts of a grid differ by whole voxels.
    """
    shift = np.rint(grid.map_points([[0.0, 0.0, 0.0]], vesicles.grid)[0])
    centres = vesicles.centres_vox - shift
    reach = vesicles.radii_vox[:, None]
    high = np.asarray(grid.shape_zyx) - 1
    there = np.all((centres + reach >= 0) & (centres - reach <= high), axis=1)
    return replace(vesicles, grid=grid, centres_vox=centres).select(there)
