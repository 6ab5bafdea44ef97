"""What an IMOD model holds, object by object, and what is odd about it: for those who must pick objects."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import ModelFileError
from deepvesicle.files.imod import read_model_of
from deepvesicle.files.outline import slice_of
from deepvesicle.grid import angstrom_to_nm
from imod_bridge.binary import is_ascii, read_chunks
from imod_bridge.coordinates import image_shape_zyx, stored_to_index, subset_start_zyx
from imod_bridge.errors import ModelFormatError
from imod_bridge.model import Contour, Model, Object

#: The pixel sizes of a model's header and of its image reference are taken for equal up to this, as share.
_SAME_SIZE = 0.01
#: What is read to tell what a file is, bytes: comments may precede a model in ASCII form.
_START_BYTES = 4096


@dataclass(frozen=True)
class ObjectInfo:
    """An object of a model.

    Parameters
    ----------
    number : int
        As 3dmod counts them, from 1.
    name : str
    kind : str
        ``closed contours``, ``open contours``, ``scattered points`` or ``nothing``.
    contours, points, meshes : int
    sizes_px, sizes_nm : two floats, optional
        Smallest and largest sphere radius; None without spheres, or where the pixel size is not known.
    slices : two ints, optional
        First and last slice with points, from 1 as in 3dmod.
    colour : three floats
        Red, green, blue; 0 to 1.
    remarks : tuple of str
        What is odd.
    """

    number: int
    name: str
    kind: str
    contours: int
    points: int
    meshes: int
    sizes_px: tuple[float, float] | None
    sizes_nm: tuple[float, float] | None
    slices: tuple[int, int] | None
    colour: tuple[float, float, float]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """A model.

    Parameters
    ----------
    path : str
    shape_zyx : three ints
        Of the image that it was last shown on; zeros where it does not say.
    pixel_nm : float, optional
        Of the header.
    spacing_nm : three floats, optional
        z, y, x, of the image reference (MINX).
    origin_nm : three floats, optional
        z, y, x, of the image reference.
    start_vox : three floats
        z, y, x; where the loaded part of the image starts.
    yz_exchanged : bool
    objects : tuple of ObjectInfo
    remarks : tuple of str
        What is odd about the model as a whole.
    """

    path: str
    shape_zyx: tuple[int, int, int]
    pixel_nm: float | None
    spacing_nm: tuple[float, float, float] | None
    origin_nm: tuple[float, float, float] | None
    start_vox: tuple[float, float, float]
    yz_exchanged: bool
    objects: tuple[ObjectInfo, ...]
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return asdict(self)


def holds_model(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an IMOD model, by its first bytes; by its name where these say nothing."""
    try:
        with open(path, "rb") as file:
            start = file.read(_START_BYTES)
    except OSError:
        start = b""  # whoever reads it says what is wrong
    return start.startswith(b"IMODV") or _is_ascii_model(start) or Path(path).suffix.lower() in (".mod", ".imod")


def _is_ascii_model(start: bytes) -> bool:
    """Whether a file that starts so is a model in ASCII form; other texts, too, may have comments first."""
    lines = [line.strip() for line in start.splitlines()]
    first = next((line for line in lines if line and not line.startswith(b"#")), b"")
    return is_ascii(start) and (first.lower().split(None, 1) or [b""])[0] == b"imod"


def model_info(path: str | os.PathLike[str]) -> ModelInfo:
    """Describe a model.

    Raises
    ------
    ModelFileError
        Not a usable model.
    """
    model = read_model_of(path)
    try:
        start = subset_start_zyx(model)
    except ModelFormatError as error:
        raise ModelFileError(f"{path} is not a usable IMOD model: {error}") from error
    reference = model.image_reference
    spacing = None if reference is None else _nm(reference.spacing)
    pixel_nm = model.pixel_size_nm
    own_nm = spacing[2] if spacing is not None else pixel_nm
    meshes = _mesh_counts(path, len(model.objects))
    objects = tuple(
        _object_info(model, number, item, meshes[number - 1], own_nm) for number, item in enumerate(model.objects, 1)
    )
    return ModelInfo(
        path=str(Path(path)),
        shape_zyx=image_shape_zyx(model),
        pixel_nm=pixel_nm,
        spacing_nm=spacing,
        origin_nm=None if reference is None else _nm(reference.origin),
        start_vox=start,
        yz_exchanged=model.yz_exchanged,
        objects=objects,
        remarks=tuple(_remarks(model, spacing, start)),
    )


def _nm(angstrom_xyz: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """x, y, z in angstrom as z, y, x in nm; None where it is no number."""
    if not np.isfinite(angstrom_xyz).all():
        return None
    x, y, z = (float(f"{v:.7g}") for v in angstrom_to_nm(angstrom_xyz))
    return z, y, x


def _mesh_counts(path: str | os.PathLike[str], objects: int) -> list[int]:
    """How many meshes each object has; zeros for a model in ASCII form, whose meshes are not read."""
    with open(path, "rb") as file:
        if is_ascii(file.read(_START_BYTES)):
            return [0] * objects
    counts: list[int] = []
    for chunk in read_chunks(path):
        if chunk.id == "OBJT":
            counts.append(0)
        elif chunk.id == "MESH":
            counts[-1] += 1
    return counts


def _object_info(model: Model, number: int, item: Object, meshes: int, own_nm: float | None) -> ObjectInfo:
    drawn = [contour for contour in item.contours if len(contour.points)]
    points = stored_to_index(np.concatenate([np.zeros((0, 3)), *(c.points for c in drawn)]), model)
    finite = points[np.isfinite(points).all(axis=1)]
    radii = np.concatenate([np.zeros(0), *(item.radii(contour) for contour in drawn)])
    spheres = radii[np.isfinite(radii) & (radii > 0)]
    sizes = (float(spheres.min()), float(spheres.max())) if len(spheres) else None
    slices = slice_of(finite[:, 0]) + 1
    remarks = [*_contour_remarks(model, item, drawn), *_place_remarks(model, points)]
    if not np.isfinite(radii).all():
        remarks.append("sphere sizes that are not numbers")
    if meshes and not drawn:
        remarks.append("meshes without contours")
    return ObjectInfo(
        number=number,
        name=item.name,
        kind=_kind(item) if drawn else "nothing",
        contours=len(item.contours),
        points=len(points),
        meshes=meshes,
        sizes_px=sizes,
        sizes_nm=(sizes[0] * own_nm, sizes[1] * own_nm) if sizes and own_nm else None,
        slices=(int(slices.min()), int(slices.max())) if len(slices) else None,
        colour=item.colour,
        remarks=tuple(remarks),
    )


def _kind(item: Object) -> str:
    if item.is_scattered:
        return "scattered points"
    return "closed contours" if any(item.is_closed(contour) for contour in item.contours) else "open contours"


def _contour_remarks(model: Model, item: Object, drawn: list[Contour]) -> Iterator[str]:
    """What is odd about how contours are drawn."""
    closed = [contour for contour in drawn if item.is_closed(contour)]
    lines = [contour for contour in closed if 1 < len(contour.points) < 3]
    if lines:
        yield f"{_count(len(lines), 'closed contour')} of two points"
    if closed and len(closed) < len(drawn):
        yield f"{_count(len(drawn) - len(closed), 'contour')} not closed"
    steep = 0
    for contour in closed:
        z = stored_to_index(contour.points, model)[:, 0]
        steep += bool(np.isfinite(z).all() and np.ptp(slice_of(z)) > 0)
    if steep:
        yield f"{_count(steep, 'contour')} not on one slice of z"
    if len(drawn) < len(item.contours):
        yield f"{_count(len(item.contours) - len(drawn), 'contour')} without points"


def _place_remarks(model: Model, points: NDArray[np.float64]) -> Iterator[str]:
    """What is odd about where points are."""
    wrong = int((~np.isfinite(points).all(axis=1)).sum())
    if wrong:
        yield f"{_count(wrong, 'point')} whose coordinates are not numbers"
    shape, start = np.array(image_shape_zyx(model)), subset_start_zyx(model)
    points = points[np.isfinite(points).all(axis=1)] - start
    if min(shape) < 1 or not len(points):
        return
    beyond = np.maximum(-0.5 - points, points - (shape - 0.5)).max(axis=1)
    outside = int((beyond > 0.5).sum())
    if outside:
        yield f"{_count(outside, 'point')} outside the image, by up to {beyond.max():.1f} voxels"


def _remarks(
    model: Model, spacing_nm: tuple[float, float, float] | None, start_vox: tuple[float, float, float]
) -> Iterator[str]:
    """What is odd about the model as a whole."""
    if model.yz_exchanged:
        yield "y and z are exchanged in the file (undone here)"
    if any(start_vox):
        z, y, x = start_vox
        yield f"drawn on a part of the image that starts at x {x:g}, y {y:g}, z {z:g}"
    if min(model.image_size) < 1:
        yield "it does not say how large its image was"
    pixel_nm = model.pixel_size_nm
    if pixel_nm is None and spacing_nm is None:
        yield "it does not say how large a pixel was"
    if spacing_nm is not None and min(spacing_nm) <= 0:
        yield "the spacing of its image reference is not positive"
    elif spacing_nm is not None and pixel_nm is not None and abs(pixel_nm / spacing_nm[2] - 1) > _SAME_SIZE:
        yield f"the pixel size, {pixel_nm:.4g} nm, is not the {spacing_nm[2]:.4g} nm of its image reference"
    if abs(model.z_scale - 1) > _SAME_SIZE:
        yield f"z is stretched {model.z_scale:g} times for display"
    names = Counter(item.name for item in model.objects if item.name)
    for name, count in names.items():
        if count > 1:
            yield f"{count} objects are named {name!r}: pick them by number"
    if not model.objects:
        yield "there are no objects"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
