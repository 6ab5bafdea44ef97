"""Values per contour, by which 3dmod can colour: a model's general storage (``OBST``).

3dmod shows them in false colours; the panel *Values* of its Model View's object dialog changes how. Facts: IMOD's
description of its binary format, and files that IMOD's own programs wrote.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from imod_bridge import fields
from imod_bridge.binary import Chunk, sized_chunk, walk

#: Types of items: a general value, and the least and the largest of all such values.
VALUE, LEAST_AND_LARGEST = 10, 11
#: Flags of the two: the value is a float; the index is one too, and no number of anything.
_FLOAT_VALUE, _TWO_FLOATS = 0b00100, 0b10101
#: Flags of an object that is drawn by values, in false colours.
FLAG_VALUES, FLAG_FALSE_COLOUR = 1 << 12, 1 << 17
_FLOAT = struct.Struct(">f")


def read_values(data: bytes) -> list[dict[int, float]]:
    """The values of a model's contours.

    Parameters
    ----------
    data : bytes
        A binary model file.

    Returns
    -------
    list of dict
        For each object: contour, counted from 0, and its value, where it has one.

    Raises
    ------
    ModelFormatError
        Not a whole model.
    """
    found: list[dict[int, float]] = []
    for chunk in walk(data):
        if chunk.id == "OBJT":
            found.append({})
        elif chunk.id == "OBST" and found:
            for item in _items(chunk):
                record = fields.STORE_ITEM.unpack(item)
                if record["type"] == VALUE and record["flags"] == _FLOAT_VALUE:
                    found[-1][record["index"]] = _FLOAT.unpack(record["value"])[0]
    return found


def with_values(
    data: bytes, values: Mapping[int, Mapping[int, float]], limits: tuple[float, float] | None = None
) -> bytes:
    """A model in which contours have values, and their objects are coloured by them.

    Earlier values of these objects' contours go; all other bytes stay as they are.

    Parameters
    ----------
    data : bytes
        A binary model file.
    values : mapping of int to mapping of int to float
        For each object (counted from 0) that is changed: contours, counted from 0, and their values. Contours without
        a value, or with one that is not finite, keep the colour of their object.
    limits : two floats, optional
        Values that get the first and the last colour; the least and the largest of all values if not given.

    Raises
    ------
    ModelFormatError
        Not a whole model.
    ValueError
        There is no such object or contour, or a value does not fit into 32 bits.
    """
    chunks = walk(data)
    finite = {number: {i: v for i, v in rows.items() if math.isfinite(v)} for number, rows in values.items()}
    told = [value for rows in finite.values() for value in rows.values()]
    low, high = limits if limits is not None else (min(told, default=0.0), max(told, default=0.0))
    if not high > low:  # 3dmod needs a range
        high = low + 1.0
    starts = [i for i, chunk in enumerate(chunks) if chunk.id == "OBJT"]
    missing = set(finite) - set(range(len(starts)))
    if missing:
        raise ValueError(f"the model has {len(starts)} objects, and none with the number {min(missing)}")
    parts = [chunk.data for chunk in chunks[: starts[0]]] if starts else [chunk.data for chunk in chunks]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(chunks)], strict=True)):
        own = chunks[start:end]
        if number in finite:
            parts += _changed(own, finite[number], (low, high))
        else:
            parts += [chunk.data for chunk in own]
    return b"".join(parts)


def _changed(own: list[Chunk], values: Mapping[int, float], limits: tuple[float, float]) -> list[bytes]:
    """The chunks of an object, and of the model after it, with new values."""
    header = own[0]
    count = fields.OBJECT.get(header.payload, "contsize")
    wrong = [i for i in values if not 0 <= i < count]
    if wrong:
        raise ValueError(f"the object has {count} contours, and none with the number {wrong[0]}")
    flags = fields.OBJECT.get(header.payload, "flags") | FLAG_VALUES | FLAG_FALSE_COLOUR
    parts = [header.data[:4] + fields.OBJECT.put(header.payload, flags=flags)]
    kept = [item for chunk in own if chunk.id == "OBST" for item in _items(chunk) if not _is_value(item)]
    new = [_item(VALUE, _FLOAT_VALUE, index, value) for index, value in values.items()]
    store = sized_chunk("OBST", b"".join(_sorted([*kept, *new])) + _limits(*limits))
    body = [chunk for chunk in own[1:] if chunk.id != "OBST"]
    # What follows the last object belongs to the model; the store is the last chunk of an object.
    last = max((i for i, chunk in enumerate(body) if chunk.id in _OF_OBJECT), default=-1) + 1
    return [*parts, *(c.data for c in body[:last]), store, *(c.data for c in body[last:])]


_OF_OBJECT = frozenset({"OLBL", "CONT", "LABL", "SIZE", "COST", "MESH", "MEST", "SKLI", "CLIP", "IMAT", "MEPA"})


def _items(chunk: Chunk) -> list[bytes]:
    size = fields.STORE_ITEM.size
    return [chunk.payload[start : start + size] for start in range(0, len(chunk.payload), size)]


def _is_value(item: bytes) -> bool:
    """Whether an item is a value of a contour, or the limits of these."""
    record = fields.STORE_ITEM.unpack(item)
    of_contour = not record["flags"] & (fields.STORE_NO_NUMBER | fields.STORE_SURFACE)
    return bool(record["type"] == LEAST_AND_LARGEST or (record["type"] == VALUE and of_contour))


def _sorted(items: list[bytes]) -> list[bytes]:
    """By contour or surface number; what belongs to neither comes last."""
    records = [(fields.STORE_ITEM.unpack(item), item) for item in items]
    order = sorted(records, key=lambda pair: (bool(pair[0]["flags"] & fields.STORE_NO_NUMBER), pair[0]["index"]))
    return [item for _, item in order]


def _item(kind: int, flags: int, index: int, value: float) -> bytes:
    return fields.STORE_ITEM.pack({"type": kind, "flags": flags, "index": index, "value": _packed(value)})


def _limits(low: float, high: float) -> bytes:
    (index,) = struct.unpack(">i", _packed(low))
    return _item(LEAST_AND_LARGEST, _TWO_FLOATS, index, high)


def _packed(value: float) -> bytes:
    try:
        return _FLOAT.pack(value)
    except OverflowError:
        raise ValueError(f"the value {value:g} does not fit into 32 bits") from None
