"""IMOD models: vesicles as spheres that 3dmod shows, points and outlines that users draw.

Nothing here knows about bytes, axes or half voxels of the format: see `imod_bridge`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import ModelFileError
from deepvesicle.files.atomic import new_file
from deepvesicle.files.outline import Outline, slice_of
from deepvesicle.grid import Grid, Points, angstrom_to_nm
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import image_shape_zyx, index_to_model, shape_to_model, stored_to_index
from imod_bridge.errors import ModelFormatError
from imod_bridge.model import (
    SCATTERED_OBJECT,
    UNITS_NM,
    Contour,
    Model,
    Object,
    encode_model,
    read_model,
)

#: Object name and colour of each status. The colours are told apart with any kind of colour vision (Okabe and Ito).
_OBJECT_OF_STATUS: dict[Status, tuple[str, tuple[float, float, float]]] = {
    Status.REFINED: ("vesicles", (0.0, 0.62, 0.45)),  # bluish green
    Status.MANUAL: ("manual", (0.34, 0.71, 0.91)),  # sky blue
    Status.DOUBTFUL: ("doubtful", (0.90, 0.62, 0.0)),  # orange
    Status.REJECTED: ("rejected", (0.84, 0.37, 0.0)),  # vermilion
    Status.PROPOSED: ("proposed", (0.80, 0.47, 0.65)),  # reddish purple
}
_STATUS_OF_OBJECT = {name: status for status, (name, _) in _OBJECT_OF_STATUS.items()}
_MODEL_NAME = "deepvesicle vesicles"
_SPHERE_QUALITY = 2
_LARGEST_ID = 2**31 - 1
#: Points farther than this outside the tomogram were not drawn on it: a vesicle's centre may lie a radius outside.
_FAR_OUTSIDE_NM = 100.0
#: Pixel sizes that differ by less are taken as the same, as share.
_SAME_PIXEL_SIZE = 0.05


def write_vesicles_model(path: str | os.PathLike[str], vesicles: Vesicles, *, overwrite: bool = False) -> None:
    """Write spheres as a model for 3dmod, to be opened on the tomogram that they were found in.

    Each status is an object of scattered points (``vesicles`` for refined ones, ``manual``, ``doubtful``, ``rejected``,
    ``proposed``), each vesicle a contour of one point with its radius as size. Only ``vesicles`` is there when empty.
    The id of a vesicle is its contour's surface number. Centres and radii have float32 precision. There is no image
    reference (``MINX``), so 3dmod takes the points as they are, whatever the tomogram's origin.

    Parameters
    ----------
    path : path
    vesicles : Vesicles
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    OutputExistsError
        The file exists and `overwrite` is not set.
    UsageError
        The folder is missing or cannot be written to.
    ValueError
        A radius that is not positive, a centre that is not finite, or an id beyond 32 bits.
    """
    radii = vesicles.radii_vox
    if not (np.isfinite(radii).all() and (radii > 0).all()):
        raise ValueError("every sphere needs a positive radius")
    if len(vesicles) and vesicles.ids.max() > _LARGEST_ID:
        raise ValueError(f"IMOD stores ids up to {_LARGEST_ID}, got {vesicles.ids.max()}")
    points = index_to_model(vesicles.centres_vox)
    objects = []
    for status, (name, colour) in _OBJECT_OF_STATUS.items():
        rows = np.flatnonzero(vesicles.has_status(status))
        if len(rows) == 0 and status is not Status.REFINED:
            continue
        contours = tuple(Contour(points[i : i + 1], radii[i : i + 1], surface=int(vesicles.ids[i])) for i in rows)
        objects.append(
            Object(
                name=name,
                contours=contours,
                colour=colour,
                flags=SCATTERED_OBJECT,
                point_limit=1,
                sphere_quality=_SPHERE_QUALITY,
            )
        )
    model = Model(
        objects=tuple(objects),
        name=_MODEL_NAME,
        image_size=shape_to_model(vesicles.grid.shape_zyx),
        pixel_size=vesicles.grid.voxel_nm,
        units=UNITS_NM,
    )
    data = encode_model(model)
    with new_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(data)


def read_vesicles_model(path: str | os.PathLike[str], grid: Grid) -> Vesicles:
    """Read the spheres of a model: those of `write_vesicles_model`, or of anyone else.

    A sphere is a point of a scattered object, or the only point of a contour, with a radius: its own size, or the
    object's default. Points without any are left to `read_points`; lines and outlines are no spheres.

    Parameters
    ----------
    path : path
    grid : Grid
        The tomogram's grid, on which the model was drawn.

    Returns
    -------
    Vesicles
        In file order. The status follows from the object's name, `Status.MANUAL` for names that are not ours. The id
        is the contour's surface number where that is positive and not taken by an earlier sphere (ours come before
        others'); all other spheres get new ids above those.

    Raises
    ------
    ModelFileError
        Not a usable model, or drawn on another volume.
    """
    model = _read(path)
    centres: list[Points] = []
    radii: list[NDArray[np.float64]] = []
    surfaces: list[int] = []
    status: list[Status] = []
    ours: list[bool] = []
    for item, contour in _annotations(model):
        contour_radii = item.radii(contour)
        if not np.isfinite(contour_radii).all():
            raise ModelFileError(f"{path}: object {item.name!r} has sphere sizes that are not numbers")
        with_sphere = contour_radii > 0
        count = int(with_sphere.sum())
        centres.append(contour.points[with_sphere])
        radii.append(contour_radii[with_sphere])
        surfaces += [contour.surface] * count
        status += [_STATUS_OF_OBJECT.get(item.name, Status.MANUAL)] * count
        ours += [item.name in _STATUS_OF_OBJECT] * count
    centres_vox = _to_index(path, model, grid, centres)
    return Vesicles(
        grid,
        _ids(surfaces, ours),
        centres_vox,
        np.concatenate([np.zeros(0), *radii]),
        status=tuple(status),
    )


def read_points(path: str | os.PathLike[str], grid: Grid) -> Points:
    """Read the points of a model that have no sphere: what a user clicks in 3dmod to mark a vesicle.

    Parameters
    ----------
    path : path
    grid : Grid
        The tomogram's grid, on which the model was drawn.

    Returns
    -------
    float array (N, 3)
        z, y, x in voxels; points of scattered objects, and the only points of contours, in file order.

    Raises
    ------
    ModelFileError
        Not a usable model, or drawn on another volume.
    """
    model = _read(path)
    bare = [contour.points[~(item.radii(contour) > 0)] for item, contour in _annotations(model)]
    return _to_index(path, model, grid, bare)


def read_outline(path: str | os.PathLike[str], grid: Grid, *, object_name: str | None = None) -> Outline:
    """Read closed contours, drawn slice by slice, as a region.

    Parameters
    ----------
    path : path
    grid : Grid
        The tomogram's grid, on which the model was drawn.
    object_name : str, optional
        Use only objects of this name; otherwise every closed contour of the model counts.

    Raises
    ------
    ModelFileError
        Not a usable model, drawn on another volume, without closed contours of three or more points, or with a closed
        contour that does not lie on one slice.
    """
    model = _read(path)
    objects = [item for item in model.objects if object_name is None or item.name == object_name]
    if not objects and object_name is not None:
        names = ", ".join(repr(item.name) for item in model.objects) or "no objects"
        raise ModelFileError(f"{path} has no object named {object_name!r}", expected="one of its objects", got=names)
    closed = [
        contour.points
        for item in objects
        for contour in item.contours
        if item.is_closed(contour) and len(contour.points) > 2
    ]
    if not closed:
        raise ModelFileError(
            f"{path} holds no outline",
            expected="closed contours of at least three points",
            got=_describe(objects),
            remedy="In 3dmod make an object of type Closed and draw the outline on several slices",
        )
    points = _to_index(path, model, grid, closed)
    contours: dict[int, tuple[NDArray[np.float64], ...]] = {}
    for polygon in np.split(points, np.cumsum([len(contour) for contour in closed])[:-1]):
        slices = slice_of(polygon[:, 0])
        if slices.min() != slices.max():
            raise ModelFileError(
                f"{path} has a closed contour that is not drawn on one slice",
                expected="all points of a contour at the same z",
                got=f"slices {slices.min() + 1} to {slices.max() + 1}",
                remedy="Draw outlines in the Zap window, on xy slices",
            )
        z = int(slices[0])
        contours[z] = (*contours.get(z, ()), polygon[:, 1:])
    return Outline(grid, dict(sorted(contours.items())))


def _read(path: str | os.PathLike[str]) -> Model:
    """Read a model; whatever is wrong with the file becomes a `ModelFileError` that names it."""
    try:
        return read_model(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist", expected="an IMOD model") from None
    except OSError as error:
        raise ModelFileError(f"cannot read {path}", got=error.strerror or str(error)) from error
    except ModelFormatError as error:
        raise _damaged(path, error) from error


def _damaged(path: str | os.PathLike[str], error: ModelFormatError) -> ModelFileError:
    return ModelFileError(
        f"{path} is not a usable IMOD model: {error}",
        expected="a whole binary model as 3dmod saves it",
        remedy="Open it in 3dmod and save it again, or use a backup (3dmod keeps the last one under the name with ~)",
    )


def _annotations(model: Model) -> Iterator[tuple[Object, Contour]]:
    """Contours whose points mark places of their own, not lines: scattered ones, and those of one point."""
    for item in model.objects:
        for contour in item.contours:
            if item.is_scattered or len(contour.points) == 1:
                yield item, contour


def _ids(surfaces: Sequence[int], ours: Sequence[bool]) -> NDArray[np.int64]:
    """Ids from surface numbers: each positive one once, the rest numbered above them."""
    ids = np.zeros(len(surfaces), dtype=np.int64)
    taken: set[int] = set()
    for row in sorted(range(len(surfaces)), key=lambda i: not ours[i]):
        if surfaces[row] > 0 and surfaces[row] not in taken:
            taken.add(surfaces[row])
            ids[row] = surfaces[row]
    new = ids == 0
    ids[new] = max(taken, default=0) + 1 + np.arange(new.sum())
    return ids


def _describe(objects: Iterable[Object]) -> str:
    """What objects hold, for messages."""
    kinds = [
        f"{item.name or 'unnamed'} ({'scattered' if item.is_scattered else 'lines'}, {len(item.contours)} contours)"
        for item in objects
    ]
    return ", ".join(kinds) or "no objects"


def _to_index(path: str | os.PathLike[str], model: Model, grid: Grid, stored: Sequence[NDArray[np.float64]]) -> Points:
    """Stored points, joined, as z, y, x voxel points of `grid`, after a check that they can belong there."""
    try:
        points = stored_to_index(np.concatenate([np.zeros((0, 3)), *stored]), model)
    except ModelFormatError as error:
        raise _damaged(path, error) from error
    if not np.isfinite(points).all():
        raise ModelFileError(f"{path} has points whose coordinates are not numbers")
    shape = image_shape_zyx(model)
    pixel_nm = _pixel_nm(model)
    margin = float(grid.length_to_vox(_FAR_OUTSIDE_NM))
    high = np.asarray(grid.shape_zyx) - 0.5 + margin
    far = ((points < -0.5 - margin) | (points > high)).any(axis=1)
    mostly_outside = far.sum() > len(points) / 2 and shape != grid.shape_zyx
    if mostly_outside or _is_other_sampling(shape, pixel_nm, grid):
        nz, ny, nx = grid.shape_zyx
        drawn = f"an image of {shape[2]} x {shape[1]} x {shape[0]} voxels"
        drawn += f" of {pixel_nm:.4g} nm" if pixel_nm else ""
        drawn += f", {far.sum()} of {len(points)} points far outside the tomogram" if far.any() else ""
        raise ModelFileError(
            f"{path} was not drawn on this tomogram",
            expected=f"an image of {nx} x {ny} x {nz} voxels of {grid.voxel_nm:.4g} nm",
            got=drawn,
            remedy="Use the model of this tomogram, or open it in 3dmod on this tomogram, check it and save it",
        )
    return points


def _pixel_nm(model: Model) -> float | None:
    """Pixel size of the image that a model was drawn on, nm; None where it does not say."""
    if model.image_reference is not None:
        return float(angstrom_to_nm(model.image_reference.spacing[0]))
    return model.pixel_size_nm


def _is_other_sampling(shape_zyx: tuple[int, int, int], pixel_nm: float | None, grid: Grid) -> bool:
    """Whether a model was drawn on the same volume at another binning: both its size and its pixel size say so.

    Either alone proves nothing: a loaded part of the volume has another size, a wrong header another pixel size.
    """
    if not pixel_nm or min(shape_zyx) < 1 or shape_zyx == grid.shape_zyx:
        return False
    factor = pixel_nm / grid.voxel_nm
    if not np.isfinite(factor) or abs(factor - 1) < _SAME_PIXEL_SIZE:
        return False
    mismatch = np.abs(np.asarray(shape_zyx) * factor - np.asarray(grid.shape_zyx))
    return bool((mismatch <= max(2.0, 2 * factor)).all())
