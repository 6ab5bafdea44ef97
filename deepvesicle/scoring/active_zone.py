"""The active zone as dense points: from what was drawn in an IMOD model, or from a label."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from deepvesicle.errors import BadInputError
from deepvesicle.files.imod import frame_on, points_on
from deepvesicle.files.outline import slice_of
from deepvesicle.grid import Grid, Points, Region
from deepvesicle.scoring.statistics import sections
from imod_bridge.model import Contour, Model, Object

#: Points lie at most this far apart, voxels. A distance of 8 voxels is then too large by less than 0.01.
STEP_VOX = 0.5
#: Contours on consecutive drawn slices are one membrane if the slices are at most this far apart, and if at some place
#: they are no farther apart sideways than the slices are, or than the second length; nm.
_MAX_GAP_NM, _SIDEWAYS_NM = 100.0, 50.0
#: Pairs of slices that a note names one by one.
_NAMED = 6


def zone_of_model(
    path: str | os.PathLike[str], model: Model, rows: Sequence[int], grid: Grid
) -> tuple[Points, tuple[str, ...]]:
    """Points that lie densely on what some objects of a model show.

    Open contours are lines, closed ones return to their first point. Contours of an object on consecutive drawn slices
    are joined by a surface, each with the one that lies nearest. Scattered points, and the only points of contours, are
    taken as they are. A mesh counts where its object has no contours, by its corners.

    Parameters
    ----------
    path : path
        For messages; meshes are read from it.
    model : Model
    rows : sequence of int
        Numbers of the objects, from 0.
    grid : Grid
        Of the tomogram.

    Returns
    -------
    points : float array (M, 3)
        z, y, x in voxels.
    notes : tuple of str
        What the user should know of them.

    Raises
    ------
    BadInputError
        There is nothing in these objects, or the model is of another tomogram.
    """
    frame = frame_on(path, model, grid)
    parts: list[Points] = []
    notes: list[str] = []
    for row in rows:
        item = model.objects[row]
        contours = [contour for contour in item.contours if len(contour.points)]
        if not contours:
            corners = points_on(path, model, frame, grid, _mesh_corners(path, row))
            if len(corners) > 1:
                parts.append(corners)
                spacing = float(grid.length_to_nm(np.median(KDTree(corners).query(corners, k=2)[0][:, 1])))
                notes.append(f"object {item.name!r} is a mesh: taken by its corners, {spacing:.1f} nm apart")
            continue
        points = points_on(path, model, frame, grid, [contour.points for contour in contours])
        ends = np.cumsum([len(contour.points) for contour in contours])[:-1]
        surfaces, gaps = _membrane(item, contours, np.split(points, ends), grid)
        parts += surfaces
        if gaps:
            where = ", ".join(f"{z + 1} and {following + 1}" for z, following in gaps[:_NAMED])
            more = f" and {len(gaps) - _NAMED} more" if len(gaps) > _NAMED else ""
            notes.append(
                f"object {item.name!r} is not joined between slices {where}{more}: contours more than "
                f"{_MAX_GAP_NM:g} nm apart are not; draw some between them"
            )
    if not parts:
        raise BadInputError(
            f"{path} shows no active zone",
            expected="contours, points or a mesh",
            got="empty objects",
            remedy="Draw the membrane of the active zone as open contours on several slices, and name their object",
        )
    return np.concatenate(parts), tuple(notes)


def zone_of_region(region: Region, grid: Grid) -> Points:
    """The centres (M, 3; z, y, x in voxels) of a region's voxels that share a face with one outside it.

    Faces of the volume are no surface.

    Raises
    ------
    BadInputError
        The region has no surface: it is empty, or all of the volume.
    """
    nz, ny, nx = grid.shape_zyx
    parts = []
    for start, end in sections(grid):
        low, high = max(start - 1, 0), min(end + 1, nz)  # the neighbours above and below decide too
        mask = region.to_mask(grid.cropped((low, 0, 0), (high - low, ny, nx)))
        surface = (mask & ~binary_erosion(mask, border_value=1))[start - low : end - low]
        parts.append(np.argwhere(surface) + np.array([start, 0, 0]))
    points = np.concatenate(parts).astype(np.float64)
    if not len(points):
        raise BadInputError("the active zone has no surface", expected="a label with voxels of other labels beside it")
    return points


def join_lines(lower: Points, upper: Points) -> Points:
    """Points on a surface between two lines (N, 3) and (M, 3) whose points lie densely; both lines included.

    Each point of either line is joined straight with the nearest point of the other, so it does not matter in which
    direction they were drawn, or whether they are closed.
    """
    across = [(lower, upper[KDTree(upper).query(lower)[1]]), (upper, lower[KDTree(lower).query(upper)[1]])]
    begins, ends = (np.concatenate(side) for side in zip(*across, strict=True))
    return np.concatenate([_between(begins, ends), upper])


def resampled(line: Points) -> Points:
    """Points along a line of points (N, 3), its own among them, at most `STEP_VOX` apart."""
    return np.concatenate([_between(line[:-1], line[1:]), line[-1:]])


def _between(begins: Points, ends: Points) -> Points:
    """Points on straight ways, each from its begin on, at most `STEP_VOX` apart; the ends are left out."""
    counts = np.maximum(np.ceil(np.linalg.norm(ends - begins, axis=1) / STEP_VOX).astype(int), 1)
    way = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(way)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(begins[way] + (number / counts[way])[:, None] * (ends - begins)[way])


def _membrane(
    item: Object, contours: Sequence[Contour], places: Sequence[Points], grid: Grid
) -> tuple[list[Points], list[tuple[int, int]]]:
    """Dense points of one object: of its lines, and of the surfaces between those on consecutive slices.

    And the pairs of consecutive slices that are too far apart for a surface.
    """
    parts: list[Points] = []
    level: dict[int, list[Points]] = {}
    for contour, points in zip(contours, places, strict=True):
        if item.is_scattered or len(points) == 1:
            parts.append(points)
            continue
        line = resampled(np.concatenate([points, points[:1]]) if item.is_closed(contour) else points)
        parts.append(line)
        slices = slice_of(points[:, 0])
        if slices.min() == slices.max():
            level.setdefault(int(slices[0]), []).append(line)
    drawn = sorted(level)
    gaps: list[tuple[int, int]] = []
    for z, following in zip(drawn[:-1], drawn[1:], strict=True):
        if grid.length_to_nm(following - z) <= _MAX_GAP_NM:
            parts += [join_lines(*pair) for pair in _partners(level[z], level[following], grid)]
        else:
            gaps.append((z, following))
    return parts, gaps


def _partners(lower: Sequence[Points], upper: Sequence[Points], grid: Grid) -> list[tuple[Points, Points]]:
    """Pairs of lines of two slices that belong together: the nearest ones of each, if they are near enough."""
    sideways = np.array([[_sideways(a, b) for b in upper] for a in lower])
    pairs = {(i, int(row.argmin())) for i, row in enumerate(sideways)}
    pairs |= {(int(column.argmin()), j) for j, column in enumerate(sideways.T)}
    reach = max(float(grid.length_to_vox(_SIDEWAYS_NM)), float(upper[0][0, 0] - lower[0][0, 0]))
    return [(lower[i], upper[j]) for i, j in sorted(pairs) if sideways[i, j] <= reach]


def _sideways(a: Points, b: Points) -> float:
    """How near two lines come in y and x, voxels."""
    return float(KDTree(a[:, 1:]).query(b[:, 1:])[0].min())


def _mesh_corners(path: str | os.PathLike[str], row: int) -> list[NDArray[np.float64]]:
    """Corners of the mesh of an object, as stored."""
    from imod_bridge.mesh import read_mesh_pieces

    pieces = read_mesh_pieces(path)
    return pieces[row] if row < len(pieces) else []
