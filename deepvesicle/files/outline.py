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
    contours of the nearest drawn one (of two equally near, the lower). Several contours on one slice are united; but
    one that lies wholly inside another one of the same object is a hole in it, and one in a hole an island again.

    Parameters
    ----------
    grid : Grid
        What the voxel units refer to.
    contours : mapping of slice index to tuple of float arrays (M, 2)
        y, x in voxels.
    objects : mapping of slice index to tuple of int, optional
        The number of the object that each contour belongs to; all to one, if not given.
    notes : tuple of str
        What the user should know of it.
    """

    grid: Grid
    contours: Mapping[int, tuple[NDArray[np.float64], ...]]
    objects: Mapping[int, tuple[int, ...]] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.contours or not all(self.contours.values()):
            raise ValueError("an outline needs at least one contour on every slice that it names")

    def holes(self) -> tuple[int, ...]:
        """The drawn slices on which a contour is a hole, ascending."""
        return tuple(
            sorted(z for z in self.contours if any(depth % 2 for group in self._nested(z) for depth, _ in group))
        )

    def contains(self, points_zyx: ArrayLike) -> NDArray[np.bool_]:
        """Which points (N, 3; z, y, x in voxels of `grid`) lie inside (N,)."""
        points = as_points(points_zyx)
        inside = np.zeros(len(points), dtype=bool)
        drawn = self._drawn_slice(points[:, 0])
        for z in self.contours:
            rows = np.flatnonzero(drawn == z)
            for group in self._nested(z) if len(rows) else ():
                own = np.zeros(len(rows), dtype=bool)
                for depth, polygon in group:
                    own[_in_polygon(points[rows, 1:], polygon)] = depth % 2 == 0
                inside[rows] |= own
        return inside

    def to_mask(self, grid: Grid) -> NDArray[np.bool_]:
        """Which voxels of a grid have their centre inside, as array (z, y, x); the grid may be another than `grid`."""
        nz, ny, nx = grid.shape_zyx
        slices = np.zeros((nz, 3))
        slices[:, 0] = np.arange(nz)
        drawn = self._drawn_slice(grid.map_points(slices, self.grid)[:, 0])
        mask = np.zeros((nz, ny, nx), dtype=bool)
        for z in self.contours:
            rows = np.flatnonzero(drawn == z)
            if len(rows) == 0:
                continue
            united = np.zeros((ny, nx), dtype=bool)
            for group in self._nested(z):
                own = np.zeros((ny, nx), dtype=bool)
                for depth, polygon in group:
                    vertices = np.column_stack([np.full(len(polygon), float(z)), polygon])
                    own[_fill_polygon((ny, nx), self.grid.map_points(vertices, grid)[:, 1:])] = depth % 2 == 0
                united |= own
            mask[rows] = united
        return mask

    def _nested(self, z: int) -> list[list[tuple[int, NDArray[np.float64]]]]:
        """The contours of a slice by their objects; each with the number of others that it lies in, the least first."""
        polygons = self.contours[z]
        numbers = (0,) * len(polygons) if self.objects is None else self.objects[z]
        groups = []
        for number in sorted(set(numbers)):
            own = [polygon for polygon, other in zip(polygons, numbers, strict=True) if other == number]
            depths = [sum(_lies_in(polygon, other) for other in own) for polygon in own]
            groups.append([(depths[i], own[i]) for i in sorted(range(len(own)), key=lambda i: depths[i])])
        return groups

    def _drawn_slice(self, z_vox: NDArray[np.float64]) -> NDArray[np.int64]:
        """The drawn slice that decides at each z (N,); -1 below the first and above the last."""
        drawn = np.array(sorted(self.contours))
        slices = slice_of(z_vox)
        nearest = drawn[np.argmin(np.abs(slices[:, None] - drawn), axis=1)]
        return np.where((slices < drawn[0]) | (slices > drawn[-1]), -1, nearest)


def slice_of(z_vox: NDArray[np.float64]) -> NDArray[np.int64]:
    """The slice that each z lies in, halves upwards, as 3dmod shows them."""
    return np.floor(z_vox + 0.5).astype(np.int64)


def _lies_in(inner: NDArray[np.float64], outer: NDArray[np.float64]) -> bool:
    """Whether a polygon lies wholly inside another one: it does not touch it, and its corners are inside."""
    if not ((inner.min(axis=0) > outer.min(axis=0)) & (inner.max(axis=0) < outer.max(axis=0))).all():
        return False
    return bool(_in_polygon(inner, outer).all()) and not _cross(inner, outer)


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether any edges of two polygons cross."""
    a_start, a_end = a[:, None], np.roll(a, -1, axis=0)[:, None]
    b_start, b_end = b[None], np.roll(b, -1, axis=0)[None]

    def side(start: NDArray[np.float64], end: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
        way, off = end - start, at - start
        return np.sign(way[..., 0] * off[..., 1] - way[..., 1] * off[..., 0])

    parted = side(a_start, a_end, b_start) * side(a_start, a_end, b_end) <= 0
    return bool((parted & (side(b_start, b_end, a_start) * side(b_start, b_end, a_end) <= 0)).any())


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
