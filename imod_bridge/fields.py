"""The fixed-size records of a binary IMOD file: one table of fields, which reading, checking and writing share.

Everything is big-endian. Source: IMOD's published description of its binary format ("binspec").
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

MAGIC = b"IMODV1.2"
END_MARK = b"IEOF"


class Record:
    """A named sequence of fields, as `struct` codes, that follow one another without gaps."""

    def __init__(self, **codes: str) -> None:
        self.codes = codes
        self.struct = struct.Struct(">" + "".join(codes.values()))
        self.size = self.struct.size
        self.offsets: dict[str, int] = {}
        end = 0
        for name, code in codes.items():
            self.offsets[name] = end
            end += struct.calcsize(">" + code)

    def pack(self, values: Mapping[str, Any]) -> bytes:
        """The bytes of the record; a field that is not given is zero.

        Raises
        ------
        struct.error
            A number that does not fit its field.
        """
        unknown = set(values) - set(self.codes)
        if unknown:
            raise KeyError(f"no such field: {', '.join(sorted(unknown))}")
        return self.struct.pack(*(values.get(name, b"" if c.endswith("s") else 0) for name, c in self.codes.items()))

    def unpack(self, data: bytes, offset: int = 0) -> dict[str, Any]:
        """The fields of the record that starts at `offset`."""
        return dict(zip(self.codes, self.struct.unpack_from(data, offset), strict=True))

    def get(self, data: bytes, name: str, offset: int = 0) -> Any:
        """One field of the record that starts at `offset`."""
        return struct.unpack_from(">" + self.codes[name], data, offset + self.offsets[name])[0]

    def put(self, data: bytes, offset: int = 0, **values: Any) -> bytes:
        """`data` with some fields of the record that starts at `offset` changed, and every other byte as it was.

        Raises
        ------
        struct.error
            A number that does not fit its field.
        """
        changed = bytearray(data)
        for name, value in values.items():
            struct.pack_into(">" + self.codes[name], changed, offset + self.offsets[name], value)
        return bytes(changed)


#: Follows the 8 bytes of `MAGIC`.
MODEL_HEADER = Record(
    name="128s",
    xmax="i",
    ymax="i",
    zmax="i",
    objsize="i",
    flags="I",
    drawmode="i",
    mousemode="i",
    blacklevel="i",
    whitelevel="i",
    xoffset="f",
    yoffset="f",
    zoffset="f",
    xscale="f",
    yscale="f",
    zscale="f",
    object="i",
    contour="i",
    point="i",
    res="i",
    thresh="i",
    pixsize="f",
    units="i",
    csum="i",
    alpha="f",
    beta="f",
    gamma="f",
)

#: Follows the chunk id ``OBJT``; `limit` is the number of points after which 3dmod starts a new contour (0: none).
OBJECT = Record(
    name="64s",
    limit="I",
    extra="60s",
    contsize="i",
    flags="I",
    axis="i",
    drawmode="i",
    red="f",
    green="f",
    blue="f",
    pdrawsize="i",
    symbol="B",
    symsize="B",
    linewidth2="B",
    linewidth="B",
    linesty="B",
    symflags="B",
    sympad="B",
    trans="B",
    meshsize="i",
    surfsize="i",
)

#: Follows the chunk id ``CONT``; `psize` points of three floats come after it.
CONTOUR = Record(psize="i", flags="I", time="i", surf="i")

#: Follows the chunk id ``MESH``; `vsize` triples of floats and `lsize` integers come after it.
MESH = Record(vsize="i", lsize="i", flags="I", time="h", surf="h")

#: Payload of ``IMAT``; `quality` is the roundness of spheres, 0 to 3.
MATERIAL = Record(
    ambient="B",
    diffuse="B",
    specular="B",
    shininess="B",
    fillred="B",
    fillgreen="B",
    fillblue="B",
    quality="B",
    mat2="I",
    valblack="B",
    valwhite="B",
    matflags2="B",
    mat3b3="B",
)

#: An item of the lists ``COST``, ``OBST``, ``MEST`` and ``MOST``: a property, and what it belongs to. In ``OBST`` the
#: index is a contour's number, counted from 0, or with the flag a surface's.
STORE_ITEM = Record(type="h", flags="H", index="i", value="4s")
#: The index is no number of anything: bits 0 and 1, its type, or bit 4.
STORE_NO_NUMBER = 0b10011
STORE_SURFACE = 1 << 6

#: Size of the payload of ``MINX``: six triples of floats.
IMAGE_REFERENCE_SIZE = 72
