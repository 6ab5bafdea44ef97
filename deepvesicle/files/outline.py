"""`Outline`: a region drawn slice by slice, such as the outline of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepvesicle.grid import Grid, as_points


@dataclass(frozen=True, eq=False)
class Outline:
    """A region drawn as closed contours on slices of constant z, such as the outline of a cell.

    The region reaches from the first to the last drawn slice. A slice between them that was not drawn takes the
    contours of the nearest drawn one (of two equally near, the lower). Several contours on one slice are united.

    Parameters
    ----------
    grid : Grid
        What the voxel units refer to.
    contours : mapping of slice index to tuple of float arrays (M, 2)
        y, x in voxels.
    """

    grid: Grid
    contours: Mapping[int, tuple[NDArray[np.float64], ...]]

    def __post_init__(self) -> None:
        if not self.contours or not all(self.contours.values()):
            raise ValueError("an outline needs at least one contour on every slice that it names")

    def contains(self, points_zyx: ArrayLike) -> NDArray[np.bool_]:
        """Which points (N, 3; z, y, x in voxels of `grid`) lie inside (N,)."""
        points = as_points(points_zyx)
        inside = np.zeros(len(points), dtype=bool)
        drawn = self._drawn_slice(points[:, 0])
        for z, polygons in self.contours.items():
            rows = np.flatnonzero(drawn == z)
            for polygon in polygons:
                inside[rows] |= _in_polygon(points[rows, 1:], polygon)
        return inside

    def to_mask(self, grid: Grid) -> NDArray[np.bool_]:
        """Which voxels of a grid have their centre inside, as array (z, y, x); the grid may be another than `grid`."""
        nz, ny, nx = grid.shape_zyx
        slices = np.zeros((nz, 3))
        slices[:, 0] = np.arange(nz)
        drawn = self._drawn_slice(grid.map_points(slices, self.grid)[:, 0])
        mask = np.zeros((nz, ny, nx), dtype=bool)
        for z, polygons in self.contours.items():
            rows = np.flatnonzero(drawn == z)
            if len(rows) == 0:
                continue
            united = np.zeros((ny, nx), dtype=bool)
            for polygon in polygons:
                vertices = np.column_stack([np.full(len(polygon), float(z)), polygon])
                united |= _fill_polygon((ny, nx), self.grid.map_points(vertices, grid)[:, 1:])
            mask[rows] = united
        return mask

    def _drawn_slice(self, z_vox: NDArray[np.float64]) -> NDArray[np.int64]:
        """The drawn slice that decides at each z (N,); -1 below the first and above the last."""
        drawn = np.array(sorted(self.contours))
        slices = slice_of(z_vox)
        nearest = drawn[np.argmin(np.abs(slices[:, None] - drawn), axis=1)]
        return np.where((slices < drawn[0]) | (slices > drawn[-1]), -1, nearest)


def slice_of(z_vox: NDArray[np.float64]) -> NDArray[np.int64]:
    """The slice that each z lies in, halves upwards, as 3dmod shows them."""
    return np.floor(z_vox + 0.5).astype(np.int64)


def _crossings(y: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the lines of constant y cross an edge (y, x to y, x): their x; NaN for those that do not."""
    spans = (start[0] <= y) != (end[0] <= y)
    share = (y - start[0]) / np.where(spans, end[0] - start[0], 1.0)
    return np.where(spans, start[1] + share * (end[1] - start[1]), np.nan)


def _in_polygon(points_yx: NDArray[np.float64], polygon: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points (N, 2) are inside a polygon (M, 2): those with an odd number of edges to their left."""
    odd = np.zeros(len(points_yx), dtype=bool)
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        odd ^= _crossings(points_yx[:, 0], start, end) <= points_yx[:, 1]
    return odd


def _fill_polygon(shape_yx: tuple[int, int], polygon: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The pixels (y, x) whose centres `_in_polygon` would take, all at once: each edge toggles what is to its right."""
    ny, nx = shape_yx
    start, end = polygon, np.roll(polygon, -1, axis=0)
    low, high = np.sort(np.clip(np.ceil([start[:, 0], end[:, 0]]), 0, ny).astype(int), axis=0)
    edge = np.repeat(np.arange(len(polygon)), high - low)  # once for each line of pixels that it crosses
    y = np.arange(len(edge)) + np.repeat(high - np.cumsum(high - low), high - low)
    step = (end - start)[edge]
    x = start[edge, 1] + (y - start[edge, 0]) / step[:, 0] * step[:, 1]
    toggles = np.zeros((ny, nx + 1), dtype=np.uint8)
    np.bitwise_xor.at(toggles, (y, np.clip(np.ceil(x), 0, nx).astype(int)), 1)
    return np.bitwise_xor.accumulate(toggles, axis=1)[:, :nx].astype(bool)
