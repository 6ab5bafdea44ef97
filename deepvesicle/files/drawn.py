"""What a user drew to correct vesicles: read from a model, and written back as the objects that follow.

Only objects of this program, those that the user names, and ``remove`` or ``delete`` are looked at. Of several objects
with the same name the first counts, as in `imod_bridge.update.replace_objects`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import ModelFileError
from deepvesicle.files.imod import OUR_OBJECTS, frame_on, new_object, points_on, sphere_contours
from deepvesicle.grid import Grid
from deepvesicle.marks import NOT_FITTED, Drawn, DrawnSphere, Form, Mark, Place, is_same_place
from deepvesicle.vesicles import Vesicles
from imod_bridge.coordinates import ModelFrame
from imod_bridge.model import Contour, Model, Object

#: Names of objects whose points remove spheres, in any case.
REMOVING = ("remove", "delete")


@dataclass(frozen=True, eq=False)
class _Piece:
    """Points of one contour that belong together, with the contour they are of."""

    item: Object
    number: int
    rows: NDArray[np.intp]
    is_sphere: bool

    @property
    def contour(self) -> Contour:
        return self.item.contours[self.number]

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple((self.item.name, self.number, int(row)) for row in self.rows)


def read_drawn(
    path: str | os.PathLike[str], model: Model, grid: Grid, *, names: Collection[str] = (), everything: bool = False
) -> Drawn:
    """Sort what a model holds into spheres, marks and points that remove.

    A point with a size of its own is a sphere, each for itself. All others of a contour are one mark.

    Parameters
    ----------
    path : path
        For messages.
    model : Model
    grid : Grid
        Of the tomogram.
    names : collection of str
        Objects of the user's that hold marks as well.
    everything : bool
        All objects hold marks.

    Raises
    ------
    ModelFileError
        No object of a given name, or numbers that cannot be.
    """
    missing = [name for name in names if name not in {item.name for item in model.objects}]
    if missing:
        there = ", ".join(repr(item.name) for item in model.objects) or "no objects"
        raise ModelFileError(f"{path} has no object named {missing[0]!r}", expected="one of its objects", got=there)
    items, notes = _looked_at(model, names, everything)
    frame = frame_on(path, model, grid)
    pieces = [piece for item in items for piece in _pieces(path, item)]
    stored = [piece.contour.points[piece.rows] for piece in pieces]
    points = points_on(path, model, frame, grid, stored)
    ends = np.cumsum([len(part) for part in stored], dtype=int)[:-1]
    spheres: list[DrawnSphere] = []
    marks: dict[str, list[Mark]] = {"mark": [], NOT_FITTED: [], "remove": []}
    for piece, places_vox in zip(pieces, np.split(points, ends), strict=False):
        name, contour = piece.item.name, piece.contour
        if is_removing(name):
            whole = Mark(piece.places, places_vox)
            marks["remove"] += whole.split()
        elif piece.is_sphere:
            assert contour.sizes is not None
            radius = float(frame.sizes_to_vox(contour.sizes[piece.rows])[0])
            alone = len(contour.points) == 1
            spheres.append(DrawnSphere(piece.places[0], contour.surface, places_vox[0], radius, alone))
        else:
            shown = float(frame.sizes_to_vox(np.array([max(piece.item.pdrawsize, 0)], dtype=float))[0])
            mark = Mark(piece.places, places_vox, _form(piece), contour.surface, shown if shown > 0 else np.nan)
            marks[NOT_FITTED if name == NOT_FITTED else "mark"].append(mark)
    return Drawn(tuple(spheres), tuple(marks["mark"]), tuple(marks[NOT_FITTED]), tuple(marks["remove"]), notes)


def corrected_objects(
    model: Model,
    frame: ModelFrame,
    vesicles: Vesicles,
    *,
    spheres: Sequence[tuple[DrawnSphere, int]],
    unfitted: Sequence[tuple[Mark, int]],
    consumed: Collection[Place],
) -> tuple[Object, ...]:
    """The objects of a model that must change so that it shows a table.

    Contours that need no change stay as they are, in their order; new ones follow.

    Parameters
    ----------
    model : Model
    frame : ModelFrame
        Of the model on the tomogram of `vesicles`.
    vesicles : Vesicles
        The table as it shall be shown.
    spheres : sequence of (DrawnSphere, int)
        All spheres that were read, with the ids of their rows.
    unfitted : sequence of (Mark, int)
        Marks that belong into the object `not_fitted`, with the ids of their rows.
    consumed : collection of Place
        Points that leave the objects they are in.

    Returns
    -------
    tuple of Object
        None of them if the model shows it all.
    """
    wanted = sphere_contours(vesicles, frame)
    home = {contour.surface: name for name, contours in wanted.items() for contour in contours}
    row_of_id = {int(number): row for row, number in enumerate(vesicles.ids)}
    gone: set[Place] = set(consumed)
    shown: set[int] = set()
    for sphere, number in spheres:
        name = home.get(number)
        stays = sphere.alone and sphere.surface == number and sphere.place[0] == name and number not in shown
        if stays and _is_where(sphere, vesicles, row_of_id[number]):
            shown.add(number)
        else:
            gone.add(sphere.place)
    added = {name: [c for c in contours if c.surface not in shown] for name, contours in wanted.items()}
    added[NOT_FITTED] = []
    for mark, number in unfitted:
        if mark.object_name == NOT_FITTED and mark.surface == number and _is_whole_contour(model, mark):
            continue
        gone |= set(mark.places)
        added[NOT_FITTED].append(Contour(frame.to_stored(mark.points_vox), surface=number))
    present = {item.name: item for item in reversed(model.objects)}
    changed = []
    for name in dict.fromkeys([*OUR_OBJECTS, *present]):
        item = present.get(name)
        rest = [] if item is None else [_without(item, number, gone) for number in range(len(item.contours))]
        if not added.get(name) and item is not None and all(map(_is_same, rest, item.contours)):
            continue
        if not added.get(name) and item is None:
            continue
        contours = [contour for contour in rest if len(contour.points)]
        changed.append(replace(item or new_object(name), contours=(*contours, *added.get(name, []))))
    return tuple(changed)


def is_removing(name: str) -> bool:
    """Whether the points of an object remove spheres."""
    return name.strip().lower() in REMOVING


def _looked_at(model: Model, names: Collection[str], everything: bool) -> tuple[list[Object], tuple[str, ...]]:
    """The objects that count, and what to say of those of the same name that do not."""
    items: list[Object] = []
    notes: list[str] = []
    for item in model.objects:
        if not (everything or item.name in OUR_OBJECTS or item.name in names or is_removing(item.name)):
            continue
        if not everything and any(item.name == other.name for other in items):
            if item.contours:
                notes.append(f"there are several objects named {item.name!r}: the first one counts")
            continue
        items.append(item)
    others = {item.name: None for item in model.objects if item.is_scattered and item.contours}
    left = [repr(name) for name in others if name not in {item.name for item in items}]
    if left:
        notes.append(f"not looked at: the points in {', '.join(left)} (--object NAME has those of an object fitted)")
    return items, tuple(notes)


def _pieces(path: str | os.PathLike[str], item: Object) -> Iterator[_Piece]:
    """Each sphere of an object, and what else each contour holds."""
    for number, contour in enumerate(item.contours):
        sizes = np.full(len(contour.points), -1.0) if contour.sizes is None else contour.sizes
        if not np.isfinite(sizes).all():
            raise ModelFileError(f"{path}: object {item.name!r} has sphere sizes that are not numbers")
        is_sphere = (sizes > 0) & (not is_removing(item.name))
        for row in np.flatnonzero(is_sphere):
            yield _Piece(item, number, np.array([row]), True)
        bare = np.flatnonzero(~is_sphere)
        if len(bare):
            yield _Piece(item, number, bare, False)


def _form(piece: _Piece) -> Form:
    if piece.item.is_scattered:
        return Form.SCATTERED
    return Form.CLOSED if piece.item.is_closed(piece.contour) else Form.OPEN


def _is_where(sphere: DrawnSphere, vesicles: Vesicles, row: int) -> bool:
    """Whether a sphere of the model is that of a row, to what the file's float32 keeps."""
    return is_same_place(
        sphere.centre_vox, sphere.radius_vox, vesicles.centres_vox[row], float(vesicles.radii_vox[row])
    )


def _is_whole_contour(model: Model, mark: Mark) -> bool:
    item = next((item for item in model.objects if item.name == mark.object_name), None)
    return item is not None and len(item.contours[mark.places[0][1]].points) == len(mark.places)


def _without(item: Object, number: int, gone: set[Place]) -> Contour:
    """A contour without the points that leave it; the contour itself where none does."""
    contour = item.contours[number]
    keep = np.array([(item.name, number, row) not in gone for row in range(len(contour.points))], dtype=bool)
    if keep.all():
        return contour
    sizes = None if contour.sizes is None else contour.sizes[keep]
    return replace(contour, points=contour.points[keep], sizes=sizes)


def _is_same(contour: Contour, other: Contour) -> bool:
    return contour is other
