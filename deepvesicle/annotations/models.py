"""IMOD models as annotations: contours, points with sizes, and meshes, in the objects that the user picks."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepvesicle.annotations.annotation import Annotation, without_duplicates
from deepvesicle.annotations.contours import Outlined, shapes_of
from deepvesicle.annotations.frames import frame_notes
from deepvesicle.annotations.rounds import axis_ratio, fit_round
from deepvesicle.annotations.shapes import Limits, Shape, tables
from deepvesicle.errors import ModelFileError
from deepvesicle.files.imod import frame_on, outline_of, points_on
from deepvesicle.grid import Grid
from imod_bridge.coordinates import ModelFrame
from imod_bridge.model import Contour, Model, Object

Floats = NDArray[np.float64]

#: A line whose ends are farther apart than this share of its length is no outline of a vesicle.
_OPEN = 0.65
#: A closed contour whose ends are farther apart than this many of its usual steps, and than this share of its radius,
#: was not drawn all the way round.
_GAP_STEPS, _GAP_RADII = 4.0, 0.5
#: Points farther outside the volume than this are worth a word, voxels.
_OUTSIDE_VOX = 1.0
#: A point without a size stands for something of this radius where nothing says more, nm.
_TYPICAL_RADIUS_NM = 22.0
#: Contours, vesicles and the like that a note names one by one.
_NAMED = 5


@dataclass
class _Found:
    """What objects hold, sorted by kind; places are pairs of object and contour as 3dmod counts them."""

    contours: list[Outlined] = field(default_factory=list)
    spheres: list[Shape] = field(default_factory=list)
    bare: list[Shape] = field(default_factory=list)
    unclosed: list[tuple[int, int]] = field(default_factory=list)
    lines: list[tuple[int, int]] = field(default_factory=list)


def annotation_of_model(
    path: str | os.PathLike[str],
    model: Model,
    grid: Grid,
    *,
    vesicles: Sequence[str] = (),
    outline: Sequence[str] = (),
    discs: bool = False,
    pyto_rounding: bool = False,
    limits: Limits | None = None,
) -> Annotation:
    """Understand what was drawn in a model as spheres.

    In which form is found out for each contour: a point with a size is a sphere; closed contours are sorted into
    vesicles, whichever objects, surfaces or slices they are in; a vesicle with one contour has its centre there. A mesh
    counts where its object has no contours.

    Parameters
    ----------
    path : path
        For messages; meshes are read from it.
    model : Model
    grid : Grid
        Of the tomogram.
    vesicles : sequence of str
        Names or numbers (from 1) of the objects that hold vesicles; by default all that are not the outline.
    outline : sequence of str
        Names or numbers of the objects that limit what was annotated.
    discs : bool
        Each closed contour is the equator of a vesicle of its own.
    pyto_rounding : bool
        Round the centres of vesicles with one contour to whole voxels, as Pyto does.
    limits : Limits, optional
        What counts as a vesicle.

    Raises
    ------
    ModelFileError
        No such object, nothing in those that there are, an outline without closed contours, numbers that cannot be, or
        a model of another tomogram.
    """
    limits = limits or Limits()
    edges = picked(path, model, outline)
    chosen = picked(path, model, vesicles) if vesicles else [i for i in range(len(model.objects)) if i not in edges]
    both = [str(i + 1) for i in chosen if i in edges]
    if both:
        raise ModelFileError(f"object {both[0]} of {path} cannot hold both the vesicles and the outline")
    frame = frame_on(path, model, grid)
    region = outline_of(path, model, [model.objects[i] for i in edges], grid) if edges else None
    _check_sizes(path, model, chosen)
    found = _sorted(path, model, frame, grid, chosen)
    shapes = shapes_of(found.contours, grid, limits, discs=discs, pyto_rounding=pyto_rounding)
    shapes = [*found.spheres, *shapes, *_meshes(path, model, frame, chosen)]
    shapes += _with_radii(found.bare, shapes, grid)
    inside, far = near_volume(shapes, grid)
    inside, large = _of_a_size(inside, grid, limits)
    spheres, unclear = tables(inside, grid, limits)
    spheres, twice = without_duplicates(spheres)
    notes = [*frame_notes(model, frame, grid), *_notes(model, found), *_outside_notes(found.contours, grid)]
    notes += _empty_notes(model, chosen if vesicles else [], {int(shape.where["object"]) for shape in shapes})
    if far:
        notes.append(f"{_some(len(far), 'thing')} drawn wholly outside the tomogram, left out: {_places(far)}")
    if large:
        reach = float(grid.length_to_nm(max(shape.covering()[1].max() for shape in large)))
        notes.append(
            f"{_some(len(large), 'thing')} of up to {reach:.0f} nm in radius, too large for a vesicle, left out: "
            f"{_places(large)} (is it the outline?)"
        )
    return Annotation(spheres, unclear, region, (*notes, *twice))


def picked(path: str | os.PathLike[str], model: Model, names: Sequence[str]) -> list[int]:
    """Indices, from 0, of the objects with some names or numbers; a name comes before a number.

    Raises
    ------
    ModelFileError
        No such object; the message lists those that there are.
    """
    found: list[int] = []
    for name in names:
        wanted = name.strip()
        rows = [i for i, item in enumerate(model.objects) if item.name.strip() == wanted]
        rows = rows or [i for i, item in enumerate(model.objects) if item.name.strip().lower() == wanted.lower()]
        if not rows and wanted.isdecimal() and 1 <= int(wanted) <= len(model.objects):
            rows = [int(wanted) - 1]
        if not rows:
            there = ", ".join(f"{i} {item.name!r}" for i, item in enumerate(model.objects, 1)) or "no objects"
            raise ModelFileError(f"{path} has no object {name!r}", expected="one of its objects", got=there)
        found += [row for row in rows if row not in found]
    return sorted(found)


def _check_sizes(path: str | os.PathLike[str], model: Model, chosen: Sequence[int]) -> None:
    for i in chosen:
        item = model.objects[i]
        if not all(np.isfinite(item.radii(contour)).all() for contour in item.contours):
            raise ModelFileError(f"{path}: object {item.name!r} has sphere sizes that are not numbers")


def _sorted(path: str | os.PathLike[str], model: Model, frame: ModelFrame, grid: Grid, chosen: Sequence[int]) -> _Found:
    """The contours of the chosen objects by what they are."""
    places = [
        (i, number, contour)
        for i in chosen
        for number, contour in enumerate(model.objects[i].contours)
        if len(contour.points)
    ]
    stored = [contour.points for _, _, contour in places]
    points = points_on(path, model, frame, grid, stored)
    found = _Found()
    ends = np.cumsum([len(part) for part in stored], dtype=int)[:-1]
    for (i, number, contour), part in zip(places, np.split(points, ends), strict=False):
        item, place = model.objects[i], (i + 1, number + 1)
        if _is_points(item, contour):
            _add_points(found, part, frame.sizes_to_vox(item.radii(contour)), place)
            continue
        if not item.is_closed(contour):
            if _gap(part) > _OPEN * _length(part) or len(part) < 3:
                found.lines.append(place)
                continue
            found.unclosed.append(place)
        outlined = Outlined(part, *place, contour.surface, grid)
        if item.is_closed(contour) and _stops_short(outlined):
            found.unclosed.append(place)
        found.contours.append(outlined)
    return found


def _is_points(item: Object, contour: Contour) -> bool:
    """Whether the points of a contour are places of their own; otherwise they are a line or an outline."""
    sized = contour.sizes is not None and bool((contour.sizes > 0).any())
    return item.is_scattered or len(contour.points) == 1 or sized


def _add_points(found: _Found, points: Floats, radii: Floats, place: tuple[int, int]) -> None:
    where = {"object": float(place[0]), "contour": float(place[1])}
    for point, radius in zip(points, radii, strict=True):
        if radius > 0:
            found.spheres.append(Shape(point, float(radius), np.zeros((0, 3)), where=where))
        else:
            found.bare.append(Shape(point, np.nan, np.zeros((0, 3)), reason="a point without a size", where=where))


def _with_radii(bare: Sequence[Shape], others: Sequence[Shape], grid: Grid) -> list[Shape]:
    """Points without sizes as large as the other vesicles are."""
    radii = [shape.radius_vox for shape in others if not shape.reason]
    radius = float(np.median(radii)) if radii else float(grid.length_to_vox(_TYPICAL_RADIUS_NM))
    return [Shape(s.centre_vox, radius, s.outline_vox, reason=s.reason, where=s.where) for s in bare]


def _meshes(path: str | os.PathLike[str], model: Model, frame: ModelFrame, chosen: Sequence[int]) -> list[Shape]:
    """Spheres through the meshes of objects that have no contours."""
    empty = [i for i in chosen if not any(len(contour.points) for contour in model.objects[i].contours)]
    if not empty or not os.path.exists(path):
        return []
    from imod_bridge.mesh import read_mesh_pieces

    pieces = read_mesh_pieces(path)
    shapes = []
    for i in empty:
        for number, stored in enumerate(pieces[i] if i < len(pieces) else [], 1):
            points, where = frame.to_index(stored), {"object": i + 1.0, "contour": float(number)}
            sphere = fit_round(points)
            if sphere is None:
                middle, reach = points.mean(axis=0), float(np.ptp(points, axis=0).max()) / 2
                shapes.append(Shape(middle, max(reach, 1.0), points, len(points), reason="a flat mesh", where=where))
                continue
            ratio = axis_ratio(points - sphere.centre, sphere.radius)
            shapes.append(Shape(sphere.centre, sphere.radius, points, len(points), sphere.misfit, ratio, where=where))
    return shapes


def near_volume(shapes: Sequence[Shape], grid: Grid) -> tuple[list[Shape], list[Shape]]:
    """Shapes that reach into the volume, and those that do not."""
    high = np.asarray(grid.shape_zyx) - 0.5
    near: list[Shape] = []
    far: list[Shape] = []
    for shape in shapes:
        nearest = np.clip(shape.centre_vox, -0.5, high)
        reaches = float(np.linalg.norm(shape.centre_vox - nearest)) < shape.radius_vox
        (near if reaches else far).append(shape)
    return near, far


def _of_a_size(shapes: Sequence[Shape], grid: Grid, limits: Limits) -> tuple[list[Shape], list[Shape]]:
    """Shapes that may be vesicles or compartments, and those so large that they must be something else."""
    largest = float(grid.length_to_vox(2 * limits.max_radius_nm))
    fits = [shape.covering()[1].max() <= largest for shape in shapes]
    return (
        [shape for shape, fit in zip(shapes, fits, strict=True) if fit],
        [shape for shape, fit in zip(shapes, fits, strict=True) if not fit],
    )


def _gap(points: Floats) -> float:
    return float(np.linalg.norm(points[-1] - points[0]))


def _length(points: Floats) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _stops_short(contour: Outlined) -> bool:
    """Whether the ends of a closed contour are far apart."""
    if len(contour.points_vox) < 6 or contour.circle is None:
        return False
    steps = np.linalg.norm(np.diff(contour.points_vox, axis=0), axis=1)
    return _gap(contour.points_vox) > max(_GAP_STEPS * float(np.median(steps)), _GAP_RADII * contour.circle.radius)


def _notes(model: Model, found: _Found) -> list[str]:
    """What was drawn in an odd way."""
    notes = []
    if found.unclosed:
        notes.append(f"{_some(len(found.unclosed), 'contour')} not closed, used as if closed: {_named(found.unclosed)}")
    if found.lines:
        objects = dict.fromkeys(i for i, _ in found.lines)
        names = ", ".join(f"object {i} {model.objects[i - 1].name!r}" for i in objects)
        notes.append(f"{_some(len(found.lines), 'line')} left out, their ends are too far apart for vesicles: {names}")
    if found.bare:
        notes.append(f"{_some(len(found.bare), 'point')} without a size, taken as unclear: {_places(found.bare)}")
    tilted = [(contour.item, contour.number) for contour in found.contours if not contour.is_level]
    if tilted:
        notes.append(f"{_some(len(tilted), 'contour')} not drawn on one xy slice: {_named(tilted)}")
    return notes


def _empty_notes(model: Model, named: Sequence[int], filled: Container[int]) -> list[str]:
    """Objects that were named, and hold nothing; with those that do."""
    drawn = [any(len(contour.points) for contour in item.contours) for item in model.objects]
    others = [f"{i + 1} {item.name!r}" for i, item in enumerate(model.objects) if drawn[i]]
    there = f" (not empty: {', '.join(others)})" if others else ""
    empty = [i for i in named if not drawn[i] and i + 1 not in filled]
    return [f"object {i + 1} {model.objects[i].name!r} is empty{there}" for i in empty]


def _outside_notes(contours: Sequence[Outlined], grid: Grid) -> list[str]:
    """Contours that reach out of the volume, and how far."""
    high = np.asarray(grid.shape_zyx) - 0.5
    beyond = [float(np.maximum(-0.5 - contour.points_vox, contour.points_vox - high).max()) for contour in contours]
    rows = [row for row in np.argsort(beyond)[::-1] if beyond[row] > _OUTSIDE_VOX]
    if not rows:
        return []
    places = _named([(contours[row].item, contours[row].number) for row in rows])
    return [f"{_some(len(rows), 'contour')} outside the tomogram, by up to {beyond[rows[0]]:.1f} voxels: {places}"]


def _some(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _named(places: Sequence[tuple[int, int]]) -> str:
    """Objects and contours as 3dmod counts them; the first few."""
    text = ", ".join(f"object {item} contour {contour}" for item, contour in places[:_NAMED])
    return text + (f" and {len(places) - _NAMED} more" if len(places) > _NAMED else "")


def _places(shapes: Sequence[Shape]) -> str:
    return _named([(int(shape.where["object"]), int(shape.where["contour"])) for shape in shapes])
