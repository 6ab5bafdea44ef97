"""The cytosol and the membrane of the active zone as regions, however they were drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepvesicle.annotations.models import picked
from deepvesicle.errors import BadInputError, UsageError
from deepvesicle.files.imod import OUR_OBJECTS, frame_on, other_image, outline_of, points_on, read_model_of
from deepvesicle.files.outline import Outline, slice_of
from deepvesicle.files.region import read_region
from deepvesicle.grid import Grid, Points, Region
from deepvesicle.handover.meshes import MeshSolid, is_closed, mean_thickness, surface_points
from deepvesicle.scoring.active_zone import STEP_VOX, zone_of_model
from imod_bridge.mesh import read_mesh_triangles
from imod_bridge.model import Model

Mask = NDArray[np.bool_]

#: A closed mesh of a mean thickness of at most this many times that of the membrane is the membrane's own surface.
_THIN = 2.0
#: A thinner membrane has holes between its voxels: no plane is closed below the square root of 3. Voxels.
_LEAST_VOX = 1.8
#: No membrane is so thick, however it is blurred; nm.
_MOST_NM = 30.0


@dataclass(frozen=True, eq=False)
class Sheet:
    """All that is near to a surface: a membrane of some thickness, or a tube about a line. Its rims are round.

    Parameters
    ----------
    grid : Grid
        What the voxel units refer to.
    points_vox : float array (N, 3)
        z, y, x; dense on the surface.
    radius_vox : float
        Half of the thickness.
    notes : tuple of str
        What the user should know of it.
    """

    grid: Grid
    points_vox: Points
    radius_vox: float
    notes: tuple[str, ...] = ()

    def to_mask(self, grid: Grid) -> Mask:
        """Which voxels of a grid have their centre within the thickness, as array (z, y, x)."""
        shape = np.asarray(grid.shape_zyx)
        low, high = grid.map_points(np.stack([np.zeros(3), shape - 1]), self.grid)
        near = (self.points_vox[:, 0] >= low[0] - self.radius_vox) & (
            self.points_vox[:, 0] <= high[0] + self.radius_vox
        )
        points = self.grid.map_points(self.points_vox[near], grid)
        radius = self.radius_vox * self.grid.voxel_nm / grid.voxel_nm
        points = points[((points >= -radius) & (points <= shape - 1 + radius)).all(axis=1)]
        reach = int(radius + 0.5)
        rim = 2 * reach + 1  # takes what lies outside, so that nothing needs to be asked of each voxel
        wide = np.zeros(tuple(shape + 2 * rim), dtype=bool)
        nearest = np.rint(points)
        rest = points - nearest
        square = (rest**2).sum(axis=1)
        place = np.ravel_multi_index(tuple((nearest.astype(np.int64) + rim).T), wide.shape)
        flat, strides = wide.reshape(-1), np.asarray(wide.strides)
        for offset in product(range(-reach, reach + 1), repeat=3):
            away = np.asarray(offset)
            if (np.maximum(np.abs(away) - 0.5, 0) ** 2).sum() <= radius**2:
                within = square - 2 * rest @ away + (away**2).sum() <= radius**2
                flat[place[within] + int(away @ strides)] = True
        z, y, x = (slice(rim, rim + int(n)) for n in shape)
        return wide[z, y, x]


@dataclass(frozen=True, eq=False)
class Outside:
    """What a region leaves free; where it is an outline, on the slices from the first to the last drawn one only.

    Parameters
    ----------
    region : Region
    """

    region: Region

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the region."""
        return notes_of(self.region)

    def to_mask(self, grid: Grid) -> Mask:
        """Which voxels of a grid are not in the region, as array (z, y, x)."""
        mask = ~self.region.to_mask(grid)
        if isinstance(self.region, Outline):
            line = np.zeros((grid.shape_zyx[0], 3))
            line[:, 0] = np.arange(len(line))
            slices = slice_of(grid.map_points(line, self.region.grid)[:, 0])
            drawn = self.region.contours
            mask[(slices < min(drawn)) | (slices > max(drawn))] = False
        return mask


def notes_of(region: Region | None) -> tuple[str, ...]:
    """What the user should know of a region: how it was read, and what looks odd."""
    return tuple(getattr(region, "notes", ()))


def cytosol_region(
    path: str | os.PathLike[str], grid: Grid, *, part: str | None = None, outside: bool = False
) -> Region:
    """Read the cytosol: closed contours, a closed mesh, or a label volume.

    Parameters
    ----------
    path : path
        An IMOD model (``.mod``), or a label volume (MRC) of the tomogram's shape.
    grid : Grid
        Of the whole tomogram, on which the model was drawn.
    part : str, optional
        Objects of the model by name or number, with commas between them, or the number of one label; all of them, but
        for this program's vesicles, if not given. Meshes count where no object has closed contours.
    outside : bool
        What was drawn surrounds what is not cytosol. Of contours, slices below the first and above the last drawn one
        stay without cytosol.

    Raises
    ------
    BadInputError
        The file cannot be used, marks nothing, is drawn on one slice only, or has a mesh that is not closed.
    """
    path = Path(path)
    region: Region
    if _is_model(path):
        model = read_model_of(path)
        rows = _objects(path, model, part)
        items = [model.objects[row] for row in rows]
        drawn = any(item.is_closed(line) and len(line.points) > 2 for item in items for line in item.contours)
        corners = np.zeros((0, 3, 3)) if drawn else _triangles(path, model, rows, grid)
        if len(corners):
            solid = MeshSolid(grid, corners, other_image(path, model, grid))
            solid.check(path)
            region = solid
        else:
            region = _checked_outline(path, outline_of(path, model, items, grid))
    else:
        region = read_region(path, grid, part)
    return Outside(region) if outside else region


def _checked_outline(path: Path, outline: Outline) -> Outline:
    """An outline on several slices, with a note of its holes."""
    if len(outline.contours) < 2:
        raise BadInputError(
            f"the outline in {path} is drawn on one slice only",
            expected="closed contours on the first and the last slice of the cytosol, and on some between them",
            got=f"slice {next(iter(outline.contours)) + 1}",
        )
    holes = [z + 1 for z in outline.holes()]
    if not holes:
        return outline
    where = f"slices {holes[0]} to {holes[-1]}" if len(holes) > 1 else f"slice {holes[0]}"
    return replace(outline, notes=(*outline.notes, f"{path}: contours that lie inside others are holes ({where})"))


def membrane_region(
    path: str | os.PathLike[str], grid: Grid, *, part: str | None = None, thickness_nm: float
) -> Region:
    """Read the membrane of the active zone: contours, a mesh, or a label volume.

    Contours, open and closed ones alike, are lines in the middle of the membrane; those on consecutive drawn slices are
    joined by a surface. A mesh is such a surface too, unless it is closed and thin: then it is the surface of the
    membrane itself. What has a thickness of its own (a label, a thin closed mesh) keeps it.

    Parameters
    ----------
    path, grid, part
        As for `cytosol_region`. Scattered points are no membrane.
    thickness_nm : float
        Of the membrane that is painted about lines and surfaces; 1.8 voxels where that is more, as it would have holes.

    Raises
    ------
    BadInputError
        The file cannot be used, or it marks nothing.
    UsageError
        A thickness that is not positive, or more than 30 nm.
    """
    if not (np.isfinite(thickness_nm) and thickness_nm > 0):
        raise UsageError("the membrane has no thickness", expected="a positive number of nm", got=f"{thickness_nm:g}")
    if thickness_nm > _MOST_NM:
        raise UsageError(
            "no membrane is so thick",
            expected=f"at most {_MOST_NM:g} nm",
            got=f"{thickness_nm:g} nm",
            remedy="A bilayer looks 5 to 8 nm thick: see --membrane-thickness",
        )
    path = Path(path)
    if not _is_model(path):
        return read_region(path, grid, part)
    model = read_model_of(path)
    rows = [row for row in _objects(path, model, part) if not model.objects[row].is_scattered]
    lines = [row for row in rows if any(len(contour.points) > 1 for contour in model.objects[row].contours)]
    bare = [row for row in rows if not any(len(contour.points) for contour in model.objects[row].contours)]
    thickness_vox = float(grid.length_to_vox(thickness_nm))
    points, notes = zone_of_model(path, model, lines, grid) if lines else (np.zeros((0, 3)), ())
    parts = [points]
    for row in bare:
        corners = _triangles(path, model, [row], grid)
        if len(corners) and is_closed(corners) and mean_thickness(MeshSolid(grid, corners)) <= _THIN * thickness_vox:
            if len(rows) > 1:
                raise BadInputError(
                    f"object {model.objects[row].name!r} of {path} is a closed mesh beside other objects",
                    expected="a closed mesh alone, or surfaces and contours",
                    remedy="Name the object that is the membrane",
                )
            return MeshSolid(grid, corners, other_image(path, model, grid))
        parts.append(surface_points(corners, STEP_VOX))
    points = np.concatenate(parts)
    if not len(points):
        raise BadInputError(
            f"{path} shows no membrane",
            expected="contours of at least two points, or a mesh",
            remedy="Draw the membrane of the active zone as open contours on several slices, and name their object",
        )
    if thickness_vox < _LEAST_VOX:
        least = float(grid.length_to_nm(_LEAST_VOX))
        notes += (f"the membrane is {least:.2g} nm thick, not {thickness_nm:g}: thinner than 1.8 voxels it has holes",)
    return Sheet(grid, points, max(thickness_vox, _LEAST_VOX) / 2, (*other_image(path, model, grid), *notes))


def _is_model(path: Path) -> bool:
    return path.suffix.lower() in (".mod", ".imod")


def _objects(path: Path, model: Model, part: str | None) -> list[int]:
    """Numbers, from 0, of the objects that are meant: all that are not this program's own, where none is named."""
    if part is None:
        return [row for row, item in enumerate(model.objects) if item.name not in OUR_OBJECTS]
    whole = part.strip().lower() in {item.name.strip().lower() for item in model.objects}
    return picked(path, model, (part,) if whole else part.split(","))


def _triangles(path: Path, model: Model, rows: Sequence[int], grid: Grid) -> NDArray[np.float64]:
    """The triangles (N, 3, 3) of some objects; corners in z, y, x of the grid, voxels."""
    meshes = read_mesh_triangles(path)
    stored = [meshes[row].reshape(-1, 3) for row in rows if row < len(meshes)]
    return points_on(path, model, frame_on(path, model, grid), grid, stored).reshape(-1, 3, 3)
