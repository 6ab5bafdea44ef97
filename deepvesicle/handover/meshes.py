"""Meshes of triangles as solids and as surfaces. Corners are z, y, x in voxels throughout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import BadInputError
from deepvesicle.grid import Grid, Points

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Lines along x are moved off the grid by so much in z and y, voxels, so that none goes through a corner or an edge.
_ASIDE = np.array([1.37e-5, 0.73e-5])
#: A mesh is closed if at most this share of the lines that meet it meet it an odd number of times.
_ODD = 0.01
#: Lines that are tried against triangles in one go.
_AT_ONCE = 1 << 21


@dataclass(frozen=True, eq=False)
class MeshSolid:
    """What lies inside closed meshes; one inside another is a hole. Tubes may be open at their ends in z.

    Parameters
    ----------
    grid : Grid
        What the voxel units refer to.
    corners_vox : float array (N, 3, 3)
        The three corners of each triangle.
    notes : tuple of str
        What the user should know of it.
    """

    grid: Grid
    corners_vox: Floats
    notes: tuple[str, ...] = ()

    def to_mask(self, grid: Grid) -> NDArray[np.bool_]:
        """Which voxels of a grid have their centre inside, as array (z, y, x)."""
        nz, ny, nx = grid.shape_zyx
        corners = self.grid.map_points(self.corners_vox.reshape(-1, 3), grid).reshape(-1, 3, 3)
        toggles = np.zeros((nz, ny, nx + 1), dtype=np.uint8)
        for z, y, x in _crossings(corners, (nz, ny)):
            np.bitwise_xor.at(toggles, (z, y, np.clip(np.ceil(x), 0, nx).astype(int)), 1)
        inside = np.bitwise_xor.accumulate(toggles, axis=2).astype(bool)
        inside[inside[..., -1]] = False  # a line that does not leave the mesh again
        return np.asarray(inside[..., :nx])

    def check(self, path: str | os.PathLike[str]) -> None:
        """Make sure that the mesh is closed; `path` is for the message.

        Raises
        ------
        BadInputError
        """
        count = np.zeros(self.grid.shape_zyx[:2], dtype=np.int64)
        for z, y, _ in _crossings(self.corners_vox, self.grid.shape_zyx[:2]):
            np.add.at(count, (z, y), 1)
        odd, met = int((count % 2).sum()), int((count > 0).sum())
        if odd > _ODD * met or not met:
            raise BadInputError(
                f"the mesh in {path} is not closed" if met else f"the mesh in {path} lies outside the tomogram",
                expected="closed contours, or a closed mesh about the region",
            )


def is_closed(corners_vox: Floats) -> bool:
    """Whether each edge of a mesh (N, 3, 3) belongs to an even number of triangles."""
    _, number = np.unique(corners_vox.reshape(-1, 3), axis=0, return_inverse=True)
    triangles = number.reshape(-1, 3)
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    edges = edges[edges[:, 0] != edges[:, 1]]
    return bool((np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all())


def mean_thickness(solid: MeshSolid) -> float:
    """Mean thickness of a solid if it is a sheet: twice its volume over its surface, voxels."""
    low = np.floor(solid.corners_vox.min(axis=(0, 1))).astype(np.int64)
    size = np.ceil(solid.corners_vox.max(axis=(0, 1))).astype(np.int64) - low + 1
    a, b, c = (solid.corners_vox[:, corner] for corner in range(3))
    surface = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2
    # counted, as triangles may be turned either way
    volume = int(solid.to_mask(solid.grid.cropped(low, size)).sum())
    return 2 * volume / max(surface, 1e-12)


def surface_points(corners_vox: Floats, step_vox: float) -> Points:
    """Points (M, 3) on a mesh (N, 3, 3), at most a step apart."""
    edges = np.linalg.norm(corners_vox - np.roll(corners_vox, -1, axis=1), axis=2).max(axis=1, initial=0.0)
    parts = [np.zeros((0, 3))]
    divisions = np.maximum(np.ceil(edges / step_vox).astype(int), 1)
    for n in np.unique(divisions):
        i, j = np.nonzero(np.tri(n + 1, dtype=bool)[::-1])  # i + j <= n
        shares = np.column_stack([i, j, n - i - j]) / n
        parts.append(np.einsum("pc,tcd->tpd", shares, corners_vox[divisions == n]).reshape(-1, 3))
    points = np.concatenate(parts)
    # neighbouring triangles share points, and of those much nearer than a step one will do
    _, first = np.unique(np.floor(points * 4 / step_vox).astype(np.int64), axis=0, return_index=True)
    return points[first]


def _crossings(corners: Floats, shape_zy: tuple[int, int]) -> Iterator[tuple[Integers, Integers, Floats]]:
    """Where the lines along x through the voxels of a grid go through triangles: z, y of the line, and x."""
    plane = corners[..., :2] - _ASIDE
    low = np.clip(np.ceil(plane.min(axis=1)), 0, shape_zy).astype(np.int64)
    size = np.clip(np.floor(plane.max(axis=1)) + 1, low, shape_zy).astype(np.int64) - low
    tried = size.prod(axis=1)
    # triangles in batches; one that is met by more lines than a batch holds is a batch of its own
    batch = (np.cumsum(tried) - tried) // _AT_ONCE
    for number in np.unique(batch[tried > 0]):
        rows = np.flatnonzero((batch == number) & (tried > 0))
        triangle = np.repeat(rows, tried[rows])
        within = np.arange(len(triangle)) - np.repeat(np.cumsum(tried[rows]) - tried[rows], tried[rows])
        z, y = (low[triangle] + np.column_stack(np.divmod(within, size[triangle, 1]))).T
        at = np.column_stack([z, y]) + _ASIDE
        shares = _barycentric(corners[triangle], at)
        inside = (shares > 0).all(axis=1)
        yield z[inside], y[inside], (shares[inside] * corners[triangle[inside], :, 2]).sum(axis=1)


def _barycentric(corners: Floats, at: Floats) -> Floats:
    """Shares (N, 3) of the corners of triangles at points (N, 2; z, y); zeros for triangles that lie along x."""
    a, b, c = (corners[:, corner, :2] for corner in range(3))

    def cross(u: Floats, v: Floats) -> Floats:
        return np.asarray(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])

    double = cross(b - a, c - a)
    parts = np.column_stack([cross(c - b, at - b), cross(a - c, at - c), cross(b - a, at - a)])
    return np.where(double[:, None] == 0, 0.0, parts / np.where(double == 0, 1.0, double)[:, None])
