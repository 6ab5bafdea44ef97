"""IMOD models: vesicles as spheres that 3dmod shows, points and outlines that users draw.

What users draw to correct vesicles is read in `deepvesicle.files.drawn`. Nothing here knows about bytes, axes or half
voxels of the format: see `imod_bridge`.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import ModelFileError
from deepvesicle.files.atomic import new_file
from deepvesicle.files.outline import Outline, slice_of
from deepvesicle.grid import Grid, Points, nm_to_angstrom
from deepvesicle.marks import NOT_FITTED, lacks_sphere
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import ModelFrame, frame_of, image_shape_zyx, shape_to_model
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
OBJECT_OF_STATUS: dict[Status, tuple[str, tuple[float, float, float]]] = {
    Status.REFINED: ("vesicles", (0.0, 0.62, 0.45)),  # bluish green
    Status.MANUAL: ("manual", (0.34, 0.71, 0.91)),  # sky blue
    Status.DOUBTFUL: ("doubtful", (0.90, 0.62, 0.0)),  # orange
    Status.REJECTED: ("rejected", (0.84, 0.37, 0.0)),  # vermilion
    Status.PROPOSED: ("proposed", (0.80, 0.47, 0.65)),  # reddish purple
}
STATUS_OF_OBJECT = {name: status for status, (name, _) in OBJECT_OF_STATUS.items()}
_COLOUR_OF_OBJECT = {**dict(OBJECT_OF_STATUS.values()), NOT_FITTED: (0.94, 0.89, 0.26)}  # yellow
#: Names of all objects that this program writes.
OUR_OBJECTS = tuple(_COLOUR_OF_OBJECT)
_MODEL_NAME = "deepvesicle vesicles"
_SPHERE_QUALITY = 2
_SYMBOL_OF_MARKS = 3  # a triangle
_LARGEST_ID = 2**31 - 1
#: Points farther than this outside the tomogram were not drawn on it: a vesicle's centre may lie a radius outside.
_FAR_OUTSIDE_NM = 100.0


def write_vesicles_model(path: str | os.PathLike[str], vesicles: Vesicles, *, overwrite: bool = False) -> None:
    """Write spheres as a model for 3dmod, to be opened on the tomogram that they were found in.

    Each status is an object of scattered points (``vesicles`` for refined ones, ``manual``, ``doubtful``, ``rejected``,
    ``proposed``), each vesicle a contour of one point with its radius as size. Only ``vesicles`` is there when empty.
    The id of a vesicle is its contour's surface number. Centres and radii have float32 precision. There is no image
    reference (``MINX``), so 3dmod takes the points as they are, whatever the tomogram's origin. Rows that the user
    deleted, and marks that could not be fitted, are not written as spheres: see `deepvesicle.marks.lacks_sphere`.

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
    model = empty_model(vesicles.grid)
    contours = sphere_contours(vesicles, frame_on(path, model, vesicles.grid))
    objects = tuple(
        replace(new_object(name), contours=contours[name])
        for name in STATUS_OF_OBJECT
        if contours[name] or name == OBJECT_OF_STATUS[Status.REFINED][0]
    )
    data = encode_model(replace(model, objects=objects))
    with new_file(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(data)


def empty_model(grid: Grid) -> Model:
    """A model without objects for a tomogram; see `write_vesicles_model`."""
    return Model(name=_MODEL_NAME, image_size=shape_to_model(grid.shape_zyx), pixel_size=grid.voxel_nm, units=UNITS_NM)


def new_object(name: str) -> Object:
    """One of `OUR_OBJECTS`, without contours: scattered points, each of which 3dmod puts into a contour of its own."""
    return Object(
        name=name,
        colour=_COLOUR_OF_OBJECT[name],
        flags=SCATTERED_OBJECT,
        point_limit=1,
        symbol=_SYMBOL_OF_MARKS if name == NOT_FITTED else Object.symbol,
        sphere_quality=_SPHERE_QUALITY,
    )


def sphere_contours(vesicles: Vesicles, frame: ModelFrame) -> dict[str, tuple[Contour, ...]]:
    """The spheres of a table as contours, by the name of the object that they belong to.

    Rows that are no spheres (deleted by the user, or marks that could not be fitted) are left out.

    Raises
    ------
    ValueError
        A radius that is not positive, a centre that is not finite, or an id beyond 32 bits.
    """
    rows = np.flatnonzero(~lacks_sphere(vesicles.features, len(vesicles)))
    radii = vesicles.radii_vox[rows]
    if not (np.isfinite(radii).all() and (radii > 0).all()):
        raise ValueError("every sphere needs a positive radius")
    if len(vesicles) and vesicles.ids.max() > _LARGEST_ID:
        raise ValueError(f"IMOD stores ids up to {_LARGEST_ID}, got {vesicles.ids.max()}")
    points, sizes = frame.to_stored(vesicles.centres_vox[rows]), frame.vox_to_sizes(radii)
    contours: dict[str, list[Contour]] = {name: [] for name in STATUS_OF_OBJECT}
    for i, row in enumerate(rows):
        name, _ = OBJECT_OF_STATUS[vesicles.status[row]]
        contours[name].append(Contour(points[i : i + 1], sizes[i : i + 1], surface=int(vesicles.ids[row])))
    return {name: tuple(items) for name, items in contours.items()}


def read_vesicles_model(path: str | os.PathLike[str], grid: Grid, *, objects: Container[int] | None = None) -> Vesicles:
    """Read the spheres of a model: those of `write_vesicles_model`, or of anyone else.

    A sphere is a point of a scattered object, or the only point of a contour, with a radius: its own size, or the
    object's default. Points without any are left to `read_points`; lines and outlines are no spheres.

    Parameters
    ----------
    path : path
    grid : Grid
        The tomogram's grid, on which the model was drawn.
    objects : container of int, optional
        Which objects (from 0) are wanted. Their spheres have the ids that they have among all of the model.

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
    model = read_model_of(path)
    centres: list[Points] = []
    radii: list[NDArray[np.float64]] = []
    surfaces: list[int] = []
    status: list[Status] = []
    ours: list[bool] = []
    wanted: list[bool] = []
    for number, item, contour in _annotations(model):
        contour_radii = item.radii(contour)
        if not np.isfinite(contour_radii).all():
            raise ModelFileError(f"{path}: object {item.name!r} has sphere sizes that are not numbers")
        with_sphere = contour_radii > 0
        count = int(with_sphere.sum())
        centres.append(contour.points[with_sphere])
        radii.append(contour_radii[with_sphere])
        surfaces += [contour.surface] * count
        status += [STATUS_OF_OBJECT.get(item.name, Status.MANUAL)] * count
        ours += [item.name in STATUS_OF_OBJECT] * count
        wanted += [objects is None or number in objects] * count
    frame = frame_on(path, model, grid)
    found = Vesicles(
        grid,
        _ids(surfaces, ours),
        points_on(path, model, frame, grid, centres),
        frame.sizes_to_vox(np.concatenate([np.zeros(0), *radii])),
        status=tuple(status),
    )
    return found if objects is None else found.select(np.array(wanted, dtype=bool))


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
    model = read_model_of(path)
    bare = [contour.points[~(item.radii(contour) > 0)] for _, item, contour in _annotations(model)]
    return points_on(path, model, frame_on(path, model, grid), grid, bare)


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
    model = read_model_of(path)
    objects = [item for item in model.objects if object_name is None or item.name == object_name]
    if not objects and object_name is not None:
        names = ", ".join(repr(item.name) for item in model.objects) or "no objects"
        raise ModelFileError(f"{path} has no object named {object_name!r}", expected="one of its objects", got=names)
    return outline_of(path, model, objects, grid)


def outline_of(path: str | os.PathLike[str], model: Model, objects: Sequence[Object], grid: Grid) -> Outline:
    """The closed contours of some objects of a model as a region; raises as `read_outline`."""
    drawn = [
        (number, contour.points)
        for number, item in enumerate(objects)
        for contour in item.contours
        if item.is_closed(contour) and len(contour.points) > 2
    ]
    closed = [points for _, points in drawn]
    if not closed:
        raise ModelFileError(
            f"{path} holds no outline",
            expected="closed contours of at least three points",
            got=_describe(objects),
            remedy="In 3dmod make an object of type Closed and draw the outline on several slices",
        )
    points = points_on(path, model, frame_on(path, model, grid), grid, closed)
    contours: dict[int, tuple[NDArray[np.float64], ...]] = {}
    owners: dict[int, tuple[int, ...]] = {}
    polygons = np.split(points, np.cumsum([len(contour) for contour in closed])[:-1])
    for (owner, _), polygon in zip(drawn, polygons, strict=True):
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
        owners[z] = (*owners.get(z, ()), owner)
    return Outline(grid, dict(sorted(contours.items())), owners, other_image(path, model, grid))


def other_image(path: str | os.PathLike[str], model: Model, grid: Grid) -> tuple[str, ...]:
    """A note where a model says that it was drawn on an image of another size, and not on the same one binned."""
    shape, frame = image_shape_zyx(model), frame_on(path, model, grid)
    if shape == grid.shape_zyx or min(shape) < 1 or frame.scale != 1 or any(frame.start_xyz):
        return ()
    sizes = [" x ".join(str(n) for n in size[::-1]) for size in (shape, grid.shape_zyx)]
    return (
        f"{path} was drawn on an image of {sizes[0]} voxels, the tomogram has {sizes[1]}: look whether it lies right",
    )


def read_model_of(path: str | os.PathLike[str]) -> Model:
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


def _annotations(model: Model) -> Iterator[tuple[int, Object, Contour]]:
    """Contours whose points mark places of their own, not lines: scattered ones, and those of one point.

    With each its object, and the object's number from 0.
    """
    for number, item in enumerate(model.objects):
        for contour in item.contours:
            if item.is_scattered or len(contour.points) == 1:
                yield number, item, contour


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


def frame_on(path: str | os.PathLike[str], model: Model, grid: Grid) -> ModelFrame:
    """How a model's coordinates lie on a tomogram's grid; `path` is for messages.

    Raises
    ------
    ModelFileError
        The model contradicts itself.
    """
    try:
        return frame_of(model, grid.shape_zyx, float(nm_to_angstrom(grid.voxel_nm)))
    except ModelFormatError as error:
        raise _damaged(path, error) from error


def points_on(
    path: str | os.PathLike[str], model: Model, frame: ModelFrame, grid: Grid, stored: Sequence[NDArray[np.float64]]
) -> Points:
    """Stored points, joined, as z, y, x voxel points of `grid`, after a check that they can belong there.

    Raises
    ------
    ModelFileError
        Points that are not finite, or lie mostly outside the tomogram.
    """
    points = frame.to_index(np.concatenate([np.zeros((0, 3)), *stored]))
    if not np.isfinite(points).all():
        raise ModelFileError(f"{path} has points whose coordinates are not numbers")
    shape = image_shape_zyx(model)
    margin = float(grid.length_to_vox(_FAR_OUTSIDE_NM))
    high = np.asarray(grid.shape_zyx) - 0.5 + margin
    far = ((points < -0.5 - margin) | (points > high)).any(axis=1)
    if far.sum() > len(points) / 2 and shape != grid.shape_zyx:
        nz, ny, nx = grid.shape_zyx
        raise ModelFileError(
            f"{path} was not drawn on this tomogram",
            expected=f"an image of {nx} x {ny} x {nz} voxels of {grid.voxel_nm:.4g} nm",
            got=f"an image of {shape[2]} x {shape[1]} x {shape[0]} voxels, "
            f"{far.sum()} of {len(points)} points far outside the tomogram",
            remedy="Use the model of this tomogram, or open it in 3dmod on this tomogram, check it and save it",
        )
    return points
