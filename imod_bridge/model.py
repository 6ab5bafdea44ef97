"""The content of IMOD models as small typed objects, read with `imodmodel` and written from `imod_bridge.fields`.

Points are kept in IMOD's own order and units (x, y, z; pixels), as stored: `imod_bridge.coordinates` converts them.
Only what concerns points, contours and spheres is kept. Meshes, views, labels and other chunks are not, so to change a
user's own file its chunks must be kept (`imod_bridge.binary.walk`); `encode_object` makes the bytes of an object to put
among them.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imod_bridge import fields
from imod_bridge.binary import HEADER_ID, Chunk, is_ascii, read_file, sized_chunk, walk, write_atomically

# Bits of Object.flags and, for the first, of Contour.flags.
FLAG_OPEN = 1 << 3
FLAG_SCATTERED = 1 << 9
SCATTERED_OBJECT = FLAG_OPEN | FLAG_SCATTERED  # what 3dmod sets for a scattered object
# Bits of Model.flags.
MODEL_ORIGIN_STORED = 1 << 14
MODEL_TILTS_STORED = 1 << 15
MODEL_YZ_EXCHANGED = 1 << 16
#: Z from -0.5, not yet seen by 3dmod (so it keeps its own black and white levels), several clip planes, byte colours.
NEW_MODEL_FLAGS = 0x3C00
UNITS_NM = -9
UNITS_PIXEL = 0
_NM_PER_UNIT = {3: 1e12, 1: 1e9, -2: 1e7, -3: 1e6, -6: 1e3, UNITS_NM: 1.0, -10: 0.1, -12: 1e-3}
_SYMBOL_NONE = 1


@dataclass(frozen=True, eq=False)
class Contour:
    """A list of points.

    Parameters
    ----------
    points : float array (N, 3)
        x, y, z in pixels, as stored in the file.
    sizes : float array (N,), optional
        Sphere radius of each point in x/y pixels; negative: the object's default; 0: no sphere.
    surface, flags, time : int
        As in the file.
    """

    points: NDArray[np.float64]
    sizes: NDArray[np.float64] | None = None
    surface: int = 0
    flags: int = 0
    time: int = 0

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"the points of a contour must have shape (N, 3), got {points.shape}")
        object.__setattr__(self, "points", points)
        if self.sizes is not None:
            sizes = np.asarray(self.sizes, dtype=np.float64)
            if sizes.shape != (len(points),):
                raise ValueError(f"{len(points)} points need as many sizes, got an array of shape {sizes.shape}")
            object.__setattr__(self, "sizes", sizes)


@dataclass(frozen=True, eq=False)
class Object:
    """Contours that share a name and a way of display.

    Parameters
    ----------
    name : str
        At most 63 latin-1 characters.
    contours : tuple of Contour
    colour : three floats
        Red, green, blue, 0 to 1.
    flags : int
        `FLAG_OPEN`, `FLAG_SCATTERED` and others.
    pdrawsize : int
        Radius in pixels of the sphere at each point that has no size of its own; 0: none.
    point_limit : int
        Number of points after which 3dmod starts a new contour; 0: none.
    symbol, symbol_size, line_width, transparency, sphere_quality : int
        Display; `sphere_quality` is 0 to 3, `transparency` 0 to 100.
    """

    name: str = ""
    contours: tuple[Contour, ...] = ()
    colour: tuple[float, float, float] = (0.0, 1.0, 0.0)
    flags: int = 0
    pdrawsize: int = 0
    point_limit: int = 0
    symbol: int = _SYMBOL_NONE
    symbol_size: int = 3
    line_width: int = 1
    transparency: int = 0
    sphere_quality: int = 0

    @property
    def is_scattered(self) -> bool:
        """Whether its points are unconnected."""
        return bool(self.flags & FLAG_SCATTERED)

    def is_closed(self, contour: Contour) -> bool:
        """Whether a contour of this object is drawn from its last point back to the first."""
        return not (self.flags & (FLAG_OPEN | FLAG_SCATTERED) or contour.flags & FLAG_OPEN)

    def radii(self, contour: Contour) -> NDArray[np.float64]:
        """Sphere radius of each point (N,) in x/y pixels, the default filled in; 0 where there is no sphere."""
        if contour.sizes is None:
            return np.full(len(contour.points), float(max(self.pdrawsize, 0)))
        return np.where(contour.sizes < 0, float(max(self.pdrawsize, 0)), contour.sizes)


@dataclass(frozen=True)
class ImageReference:
    """How the image lay that the model was last shown on (chunk ``MINX``): 72 bytes, not all of them defined."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != fields.IMAGE_REFERENCE_SIZE:
            raise ValueError(f"an image reference has {fields.IMAGE_REFERENCE_SIZE} bytes, got {len(self.raw)}")

    def _triple(self, index: int) -> NDArray[np.float64]:
        return np.frombuffer(self.raw, dtype=">f4", count=3, offset=12 * index).astype(np.float64)

    @property
    def origin(self) -> NDArray[np.float64]:
        """Origin of the whole image (x, y, z), in its header's units; valid with the flag `MODEL_ORIGIN_STORED`."""
        return self._triple(1)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Pixel spacing (x, y, z), in the image header's units (angstrom)."""
        return self._triple(3)

    @property
    def translation(self) -> NDArray[np.float64]:
        """Origin of the part of the image that was loaded (x, y, z)."""
        return self._triple(4)


@dataclass(frozen=True, eq=False)
class Model:
    """An IMOD model.

    Parameters
    ----------
    objects : tuple of Object
    name : str
    image_size : three ints
        x, y, z size of the image it was last shown on, as stored.
    flags : int
        ``MODEL_...`` bits.
    pixel_size : float
        In `units`.
    units : int
        `UNITS_NM`, `UNITS_PIXEL` or another of IMOD's codes.
    z_scale : float
        Z over XY pixel ratio, for display only.
    image_reference : ImageReference, optional
    """

    objects: tuple[Object, ...] = ()
    name: str = "IMOD-NewModel"
    image_size: tuple[int, int, int] = (0, 0, 0)
    flags: int = NEW_MODEL_FLAGS
    pixel_size: float = 1.0
    units: int = UNITS_PIXEL
    z_scale: float = 1.0
    image_reference: ImageReference | None = None

    @property
    def yz_exchanged(self) -> bool:
        """Whether y and z of points and image size are exchanged in the file."""
        return bool(self.flags & MODEL_YZ_EXCHANGED)

    @property
    def pixel_size_nm(self) -> float | None:
        """Pixel size in nm; None where the model does not say."""
        scale = _NM_PER_UNIT.get(self.units)
        return None if scale is None else self.pixel_size * scale


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read an IMOD model, binary or in ASCII form.

    Raises
    ------
    ModelFormatError
        Not a whole, consistent model.
    OSError
        The file cannot be read.
    """
    return decode_model(read_file(path))


def decode_model(data: bytes) -> Model:
    """As `read_model`, from the bytes of a file."""
    if is_ascii(data):
        from imod_bridge.ascii import decode_ascii

        return decode_ascii(data)
    return _decode(walk(data))


def write_model(path: str | os.PathLike[str], model: Model) -> None:
    """Write a model, atomically; an existing file is replaced.

    Raises
    ------
    ValueError
        Something that the format cannot hold: a long or non-latin-1 name, a number out of range.
    OSError
        The file cannot be written.
    """
    write_atomically(path, encode_model(model))


def encode_model(model: Model) -> bytes:
    """The bytes of a model file; raises as `write_model`."""
    header = {
        "name": _encode_name(model.name, 128),
        **dict(zip(("xmax", "ymax", "zmax"), model.image_size, strict=True)),
        "objsize": len(model.objects),
        "flags": model.flags,
        "drawmode": 1,
        "mousemode": 2,
        "whitelevel": 255,
        "xscale": 1.0,
        "yscale": 1.0,
        "zscale": model.z_scale,
        "object": 0 if model.objects else -1,
        "contour": -1,
        "point": -1,
        "res": 3,
        "thresh": 128,
        "pixsize": model.pixel_size,
        "units": model.units,
    }
    parts = [fields.MAGIC, _pack(fields.MODEL_HEADER, header, "the model's header")]
    parts += [encode_object(item) for item in model.objects]
    if model.image_reference is not None:
        parts.append(sized_chunk("MINX", model.image_reference.raw))
    parts.append(fields.END_MARK)
    return b"".join(parts)


def encode_object(item: Object) -> bytes:
    """The bytes of an object with its contours, sizes and material, ``OBJT`` to ``IMAT``; raises as `write_model`."""
    where = f"object {item.name!r}"
    red, green, blue = item.colour
    header = {
        "name": _encode_name(item.name, 64),
        "limit": item.point_limit,
        "contsize": len(item.contours),
        "flags": item.flags,
        "drawmode": 1,
        "red": red,
        "green": green,
        "blue": blue,
        "pdrawsize": item.pdrawsize,
        "symbol": item.symbol,
        "symsize": item.symbol_size,
        "linewidth2": 1,
        "linewidth": item.line_width,
        "trans": item.transparency,
        "surfsize": max([0, *(contour.surface for contour in item.contours)]),
    }
    parts = [b"OBJT", _pack(fields.OBJECT, header, where)]
    for contour in item.contours:
        parts.append(encode_contour(contour, where))
        if contour.sizes is not None:
            parts.append(sized_chunk("SIZE", encode_sizes(contour.sizes, where)))
    material = {
        "ambient": 102,
        "diffuse": 255,
        "specular": 127,
        "shininess": 4,
        "quality": item.sphere_quality,
        "valwhite": 255,
    }
    parts.append(sized_chunk("IMAT", _pack(fields.MATERIAL, material, where)))
    return b"".join(parts)


def encode_contour(contour: Contour, where: str) -> bytes:
    """The bytes of ``CONT``, without sizes; `where` names the object in messages. Raises as `write_model`."""
    record = {"psize": len(contour.points), "flags": contour.flags, "time": contour.time, "surf": contour.surface}
    return b"CONT" + _pack(fields.CONTOUR, record, f"a contour of {where}") + _floats(contour.points, where)


def encode_sizes(sizes: NDArray[np.float64], where: str) -> bytes:
    """The payload of ``SIZE``; `where` names the object in messages. Raises as `write_model`."""
    return _floats(sizes, where)


def decode_name(raw: bytes) -> str:
    """A name as stored, in latin-1 up to the first NUL."""
    return raw.split(b"\0")[0].decode("latin-1")


def _decode(chunks: list[Chunk]) -> Model:
    """Turn checked chunks into a model."""
    from imodmodel.parsers import parse_model

    # imodmodel sees only what it reads without fault: it raises on latin-1 names, on some meshes and values, and loses
    # flag bits that it has no name for. Names, flags, materials and the image reference come from the chunks.
    kept = [chunk for chunk in chunks if chunk.id in (HEADER_ID, "OBJT", "CONT", "SIZE", "IEOF")]
    parsed = parse_model(io.BytesIO(b"".join(_without_name(chunk) for chunk in kept)))

    header = fields.MODEL_HEADER.unpack(chunks[0].payload)
    objects = []
    for item, own_chunks in zip(parsed.objects, _by_object(chunks), strict=True):
        record = fields.OBJECT.unpack(own_chunks[0].payload)
        contour_chunks = [chunk for chunk in own_chunks if chunk.id == "CONT"]
        materials = [chunk for chunk in own_chunks if chunk.id == "IMAT"]
        contours = tuple(
            Contour(
                points=contour.points,
                sizes=contour.point_sizes,
                surface=contour.header.surf,
                flags=fields.CONTOUR.get(chunk.payload, "flags"),
                time=contour.header.time,
            )
            for contour, chunk in zip(item.contours, contour_chunks, strict=True)
        )
        objects.append(
            Object(
                name=decode_name(record["name"]),
                contours=contours,
                colour=(item.header.red, item.header.green, item.header.blue),
                flags=record["flags"],
                pdrawsize=item.header.pdrawsize,
                point_limit=item.header.extra_data[0],
                symbol=item.header.symbol,
                symbol_size=item.header.symsize,
                line_width=item.header.linewidth,
                transparency=item.header.trans,
                sphere_quality=fields.MATERIAL.get(materials[-1].payload, "quality") if materials else 0,
            )
        )
    references = [chunk for chunk in chunks if chunk.id == "MINX"]
    return Model(
        objects=tuple(objects),
        name=decode_name(header["name"]),
        image_size=(parsed.header.xmax, parsed.header.ymax, parsed.header.zmax),
        flags=header["flags"],
        pixel_size=parsed.header.pixelsize,
        units=parsed.header.units,
        z_scale=parsed.header.zscale,
        image_reference=ImageReference(references[-1].payload) if references else None,
    )


def _by_object(chunks: list[Chunk]) -> list[list[Chunk]]:
    """The chunks of each object, its ``OBJT`` first; the model's own trailing chunks go with the last object."""
    groups: list[list[Chunk]] = []
    for chunk in chunks:
        if chunk.id == "OBJT":
            groups.append([])
        if groups:
            groups[-1].append(chunk)
    return groups


def _without_name(chunk: Chunk) -> bytes:
    """The bytes of a chunk with its name, if it has one, blanked."""
    if chunk.id not in (HEADER_ID, "OBJT"):
        return chunk.data
    start = len(chunk.data) - len(chunk.payload)
    length = struct.calcsize((fields.MODEL_HEADER if chunk.id == HEADER_ID else fields.OBJECT).codes["name"])
    return chunk.data[:start] + bytes(length) + chunk.data[start + length :]


def _encode_name(name: str, size: int) -> bytes:
    try:
        raw = name.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"the name {name!r} has characters that IMOD cannot store (latin-1 only)") from None
    if len(raw) >= size or b"\0" in raw:
        raise ValueError(f"the name {name!r} does not fit: at most {size - 1} characters, none of them NUL")
    return raw


def _floats(values: NDArray[np.float64], where: str) -> bytes:
    """Big-endian float32 of an array."""
    with np.errstate(over="ignore"):
        narrow = values.astype(">f4")
    if not np.isfinite(narrow).all():
        raise ValueError(f"{where} has points or sizes that are not finite or too large for float32")
    return narrow.tobytes()


def _pack(record: fields.Record, values: Mapping[str, object], where: str) -> bytes:
    try:
        return record.pack(values)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{where} has a number that does not fit its field: {error}") from None
