"""Label volumes as annotations: vesicles one by one, classes such as membrane and lumen, or filled discs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.annotations.annotation import Annotation, UnitedRegion
from deepvesicle.annotations.pieces import Piece, mask_of, pieces_by_id, pieces_of_classes
from deepvesicle.annotations.shapes import Limits, Shape, fault_of, tables
from deepvesicle.annotations.solids import Faces, disc_of, solid_of
from deepvesicle.errors import BadInputError
from deepvesicle.files.region import LabelRegion
from deepvesicle.grid import Grid, Labels, Region

#: Pieces with fewer voxels than this, or than a ball of the smallest radius, are slips of the pen.
_SPECK_VOXELS = 20
#: A label that fills more of the volume than this, or has a box longer than this many times the largest radius or with
#: more voxels than this, is no vesicle.
_FILLS, _LONG_RADII, _LARGEST_BOX = 0.1, 4.0, 1 << 26
#: A label in parts of which the second has this share of the largest is no single thing.
_SECOND_PART = 0.2
#: A label on at most so many slices, and this much flatter than wide, is a disc.
_DISC_SLICES, _DISC_FLATNESS = 3, 0.25
#: No vesicle has an axis this many times as long as another: it is something else, which the user may name.
_LONG = 5.0
#: Labels that a note names one by one.
_NAMED = 8


def annotation_of_labels(
    labels: Labels,
    grid: Grid,
    *,
    vesicle_ids: Sequence[int] | None = None,
    membrane_id: int | None = None,
    cytosol_id: int | None = None,
    classes: Sequence[int] = (),
    outline_ids: Sequence[int] = (),
    discs: bool = False,
    pyto_rounding: bool = False,
    limits: Limits | None = None,
) -> Annotation:
    """Understand a label volume as spheres.

    A label is a vesicle: the sphere nearest to its surface, its cut faces left out. A label on one slice, or on few for
    its width, is the filled disc of a vesicle's equator, and its rim is taken as Pyto does: the radius is the mean
    distance of the rim's voxels from the centroid, and half a voxel. Membranes drawn without lumen are filled.

    Parameters
    ----------
    labels : Labels
        On the tomogram's grid; may be memory-mapped, and is read slab by slab.
    grid : Grid
        Of the tomogram.
    vesicle_ids : sequence of int, optional
        Labels of vesicles; by default all but the other ones named here.
    membrane_id, cytosol_id : int, optional
        Of other things in a label volume for Pyto. With a cytosol, what was annotated is all that has a label.
    classes : sequence of int
        Labels that all vesicles have, such as those of membrane and lumen: each connected piece is a vesicle.
    outline_ids : sequence of int
        Labels that limit what was annotated.
    discs : bool
        All labels are discs, also those on several slices.
    pyto_rounding : bool
        Round the centres of discs to whole voxels, as Pyto does.
    limits : Limits, optional
        What counts as a vesicle.

    Raises
    ------
    BadInputError
        The volumes differ in shape, or a label that was named is not there.
    """
    if labels.grid.shape_zyx != grid.shape_zyx:
        raise ValueError(f"labels of shape {labels.grid.shape_zyx} do not fit a tomogram of {grid.shape_zyx}")
    limits = limits or Limits()
    others = [i for i in (membrane_id, cytosol_id, *outline_ids) if i is not None]
    if classes:
        pieces = pieces_of_classes(labels.data, classes)
    else:
        pieces = pieces_by_id(
            labels.data,
            lambda ids: np.isin(ids, vesicle_ids) if vesicle_ids is not None else ~np.isin(ids, others),
        )
    _check_named(labels, pieces, vesicle_ids, classes, others)
    notes: list[str] = []
    pieces = _without_specks(pieces, grid, limits, notes)
    pieces = _without_large(pieces, grid, limits, notes, is_class=bool(classes))
    ids = classes or [piece.label for piece in pieces]
    flat = [_is_flat(piece, labels.data.shape) for piece in pieces]
    shapes = [
        _shape(labels.data, piece, ids, pyto_rounding, disc=discs or is_flat)
        for piece, is_flat in zip(pieces, flat, strict=True)
    ]
    good = [not fault_of(shape, grid, limits) for shape in shapes]
    if not discs:
        notes += _flat_note([piece for piece, *known in zip(pieces, flat, good, strict=True) if all(known)])
    notes += _other_notes([shape for shape, fine in zip(shapes, good, strict=True) if not fine], grid, limits)
    vesicles, unclear = tables(shapes, grid, limits)
    return Annotation(vesicles, unclear, _region(labels, cytosol_id, outline_ids), tuple(notes))


def _is_flat(piece: Piece, shape_zyx: tuple[int, ...]) -> bool:
    """Whether a piece is the disc of a vesicle's equator, or what a face of the volume leaves of one."""
    slices, height, width = piece.shape_zyx
    at_z_face = piece.low[0] == 0 or piece.high[0] == shape_zyx[0]
    flat = slices <= _DISC_SLICES and slices <= max(1, _DISC_FLATNESS * max(height, width)) and max(height, width) > 2
    return flat and not (at_z_face and slices > 1)


def _flat_note(pieces: Sequence[Piece]) -> list[str]:
    """That some were taken as discs, which the user may not know of."""
    if not pieces:
        return []
    labels = [str(piece.label) for piece in pieces if piece.label]
    more = ", ..." if len(labels) > _NAMED else ""
    name = f"flat label{'' if len(pieces) == 1 else 's'} ({', '.join(labels[:_NAMED])}{more})" if labels else ""
    name = name or f"flat piece{'' if len(pieces) == 1 else 's'} of the classes"
    middle = "a disc through the middle of a vesicle" if len(pieces) == 1 else "discs through the middle of a vesicle"
    return [f"{len(pieces)} {name} taken as {middle}"]


def _other_notes(shapes: Sequence[Shape], grid: Grid, limits: Limits) -> list[str]:
    """Labels that are no vesicles, but may be what a user forgot to name."""
    largest = float(grid.length_to_vox(limits.max_radius_nm))
    return [
        f"label {shape.where['label']:.0f} looks like no vesicle: name it if it is the membrane, the cytosol, an "
        "outline or a class"
        for shape in shapes
        if "label" in shape.where and (shape.axis_ratio > _LONG or shape.radius_vox > largest)
    ]


def _shape(data: NDArray[Any], piece: Piece, ids: Sequence[int], pyto_rounding: bool, *, disc: bool) -> Shape:
    """The sphere of a piece."""
    mask, box, second = mask_of(data, piece, ids if piece.label == 0 else [piece.label])
    faces = Faces.of(piece.low, piece.high, data.shape)
    where = {"label": float(piece.label)} if piece.label else {}
    if disc:
        shape = disc_of(mask, piece.low, faces, where, pyto_rounding=pyto_rounding)
    else:
        rivals = np.isin(box, [i for i in ids if i != piece.label]) if piece.label else np.zeros_like(mask)
        shape = solid_of(mask, rivals, piece.low, faces, where)
    reason = shape.reason
    if second > _SECOND_PART * mask.sum():
        reason = f"label {piece.label} is in several parts (if it is that of a class, such as membranes, say so)"
    return Shape(
        shape.centre_vox,
        shape.radius_vox,
        shape.outline_vox,
        piece.voxels,
        shape.misfit_vox,
        shape.axis_ratio,
        reason,
        where,
        shape.cover,
        piece.label,
    )


def _check_named(
    labels: Labels,
    pieces: Sequence[Piece],
    vesicle_ids: Sequence[int] | None,
    classes: Sequence[int],
    others: Sequence[int],
) -> None:
    """Refuse labels that were named and are not there."""
    found = {piece.label for piece in pieces}
    missing = [i for i in vesicle_ids or () if i not in found]
    named = [i for i in (*classes, *others) if i not in found]
    if named:
        present = {piece.label for piece in pieces_by_id(labels.data, lambda ids: np.isin(ids, named))}
        missing += [i for i in named if i not in present]
    if missing:
        raise BadInputError(
            f"the label volume has no label {missing[0]}",
            expected="labels that are in it",
            remedy="See deepvesicle info",
        )


def _without_specks(pieces: Sequence[Piece], grid: Grid, limits: Limits, notes: list[str]) -> list[Piece]:
    """Leave out pieces that are too small for anything; discs have an area for it, not a volume."""
    radius = float(grid.length_to_vox(limits.min_radius_nm))

    def is_speck(piece: Piece) -> bool:
        least = np.pi * radius**2 if piece.shape_zyx[0] == 1 else 4 / 3 * np.pi * radius**3
        return piece.voxels < max(_SPECK_VOXELS, 0.5 * least)

    specks = [piece for piece in pieces if is_speck(piece)]
    if specks:
        largest = max(piece.voxels for piece in specks)
        plural = "s" if len(specks) > 1 else ""
        notes.append(f"{len(specks)} speck{plural} of at most {largest} voxels left out")
    return [piece for piece in pieces if not is_speck(piece)]


def _without_large(
    pieces: Sequence[Piece], grid: Grid, limits: Limits, notes: list[str], *, is_class: bool
) -> list[Piece]:
    """Leave out what is no vesicle nor any compartment of that size: cytosol, the membrane of the cell."""
    longest = float(grid.length_to_vox(_LONG_RADII * limits.max_radius_nm))
    kept = []
    for piece in pieces:
        share = piece.voxels / grid.voxel_count
        size_nm = float(grid.length_to_nm(max(piece.shape_zyx)))
        if share <= _FILLS and max(piece.shape_zyx) <= longest and np.prod(piece.shape_zyx) <= _LARGEST_BOX:
            kept.append(piece)
            continue
        name = "a piece of the classes" if is_class else f"label {piece.label}"
        hint = "" if is_class else "; name it if it is the cytosol, the membrane, an outline or a class"
        notes.append(f"{name} fills {share:.1%} of the volume over {size_nm:.0f} nm, and is left out{hint}")
    return kept


def _region(labels: Labels, cytosol_id: int | None, outline_ids: Sequence[int]) -> Region | None:
    parts: list[Region] = [LabelRegion(labels, number) for number in outline_ids]
    if cytosol_id is not None:
        parts.append(LabelRegion(labels))
    return UnitedRegion(tuple(parts)) if len(parts) > 1 else (parts[0] if parts else None)
