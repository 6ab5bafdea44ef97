"""Changing a user's own model file: our objects are exchanged, every other byte stays as it was.

A model that went through `imod_bridge.model`, or through `imodmodel`, loses its views, meshing parameters, labels and
whatever else is not modelled there. So a file that somebody else made is never written that way: here its chunks are
walked, those of the named objects are replaced, and all others are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imod_bridge import fields
from imod_bridge.binary import Chunk, is_ascii, sized_chunk, walk
from imod_bridge.errors import ModelFormatError
from imod_bridge.model import (
    FLAG_OPEN,
    FLAG_SCATTERED,
    SCATTERED_OBJECT,
    Contour,
    Object,
    decode_name,
    encode_contour,
    encode_object,
    encode_sizes,
)

_OF_CONTOUR = frozenset({"LABL", "SIZE", "COST"})
_OF_OBJECT = frozenset({"OBJT", "OLBL", "CONT", "MESH", "MEST", "CLIP", "IMAT", "MEPA", "SKLI", "OBST"})
_OF_MODEL = frozenset({"VIEW", "MCLP", "MINX", "SLAN", "OGRP", "MOST", "IEOF"})
_STALE = frozenset({"MESH", "MEST"})


@dataclass(frozen=True)
class _OldContour:
    """A contour of the file: its number in the object, its ``CONT`` and the chunks that go with it."""

    number: int
    head: Chunk
    trailing: tuple[Chunk, ...]

    def get(self, name: str) -> int:
        return int(fields.CONTOUR.get(self.head.payload, name))

    @property
    def points(self) -> NDArray[np.float32]:
        return _float32(self.head.payload[fields.CONTOUR.size :]).reshape(-1, 3)

    @property
    def sizes(self) -> NDArray[np.float32] | None:
        sizes = [chunk for chunk in self.trailing if chunk.id == "SIZE"]
        return _float32(sizes[-1].payload) if sizes else None


def replace_objects(data: bytes, objects: Sequence[Object]) -> bytes:
    """Put objects into a binary model file and leave everything else as it was.

    An object takes the place of the first one of its name (of two new ones of the same name, the second takes the place
    of the second), or is appended after the last object, so that the object numbers that views and groups refer to stay
    right. No object is removed or moved. Of the model's header only the number of objects changes.

    What an object that is there already looks like is the user's: colour, symbol, line width, limit of points per
    contour, material, clip planes, labels and chunks that are not known here all stay. Only what follows from the new
    contours changes: the counts, the type (closed, open, scattered) if it differs, the default sphere size if a point
    uses it; its meshes go, as they show the old contours. A contour that is there already stays byte for byte, labels
    and values included; a new one with the surface number (above 0) and the first point of an old one keeps that one's
    flags, time, labels and values. Properties that the object lists by contour number (``OBST``) follow their contours,
    or go with them. Where no contour differs, the meshes stay, too.

    Parameters
    ----------
    data : bytes
        The whole file.
    objects : sequence of Object
        Points x, y, z in pixels, as the file stores them (`imod_bridge.coordinates.ModelFrame.to_stored`).

    Returns
    -------
    bytes
        The whole new file; equal to `data` if nothing changed.

    Raises
    ------
    ModelFormatError
        `data` is no whole, consistent binary model.
    ValueError
        An object that the format cannot hold, as in `imod_bridge.model.write_model`.
    """
    if is_ascii(data):
        raise ModelFormatError(
            "it is an IMOD model in ASCII form, which cannot be changed without loss: "
            "open it in 3dmod and save it, which makes it binary"
        )
    header, groups, tail = _split_model(walk(data))
    contour_ids = _contour_ids([chunk for group in groups for chunk in group])
    present = [(decode_name(fields.OBJECT.get(group[0].payload, "name")), group) for group in groups]
    parts = [_join(group) for group in groups]
    taken: set[int] = set()
    for item in objects:
        same = [i for i, (name, _) in enumerate(present) if name == item.name and i not in taken]
        if same:
            taken.add(same[0])
            parts[same[0]] = _updated(present[same[0]][1], item, contour_ids)
        else:
            parts.append(encode_object(item))
    start = len(fields.MAGIC)
    return b"".join([fields.MODEL_HEADER.put(header, start, objsize=len(parts)), *parts, tail])


def _split_model(chunks: list[Chunk]) -> tuple[bytes, list[list[Chunk]], bytes]:
    """What stands before the first object, the chunks of each object, and what follows the last one.

    An unknown chunk right after the last object's own might belong to it: it stays there, and new objects go behind it.
    Readers find a chunk of the model's by its id, wherever it stands.
    """
    starts = [i for i, chunk in enumerate(chunks) if chunk.id == "OBJT"]
    end = max([0, *(i for i, chunk in enumerate(chunks) if chunk.id in _OF_OBJECT | _OF_CONTOUR)]) + 1
    while starts and chunks[end].id not in _OF_MODEL:
        end += 1
    first = starts[0] if starts else end
    groups = [chunks[i:j] for i, j in zip(starts, [*starts[1:], end], strict=False)]
    return _join(chunks[:first]), groups, _join(chunks[end:])


def _contour_ids(chunks: list[Chunk]) -> frozenset[str]:
    """The ids of chunks that go with a contour: the known ones, and unknown ones that stand between two contours."""
    ids = set(_OF_CONTOUR)
    unknown: set[str] | None = None
    for chunk in chunks:
        if chunk.id == "CONT":
            ids |= unknown or set()
            unknown = set()
        elif chunk.id in _OF_OBJECT | _OF_MODEL:
            unknown = None
        elif unknown is not None:
            unknown.add(chunk.id)
    return frozenset(ids)


def _updated(chunks: list[Chunk], item: Object, contour_ids: frozenset[str]) -> bytes:
    """The bytes of an object of the file with the contours of a new one."""
    before, old_contours, after = _split_object(chunks, contour_ids)
    same = len(old_contours) == len(item.contours) and all(map(_is_same, old_contours, item.contours))
    record = chunks[0].payload
    changes = _needed_display(record, item)
    if same:
        return chunks[0].data[:4] + fields.OBJECT.put(record, **changes) + _join(chunks[1:])
    changes |= {
        "contsize": len(item.contours),
        "meshsize": 0,
        "surfsize": max([0, *(contour.surface for contour in item.contours)]),
    }
    unused: dict[tuple[int, bytes], list[_OldContour]] = {}
    for old_contour in old_contours:
        unused.setdefault(_key(old_contour.get("surf"), old_contour.points), []).append(old_contour)
    contours = []
    numbers: dict[int, int] = {}
    for number, contour in enumerate(item.contours):
        old = _take(unused.get(_key(contour.surface, contour.points), []), contour)
        if old is not None:
            numbers[old.number] = number
        contours.append(_contour_bytes(contour, old, f"object {item.name!r}"))
    parts = [chunks[0].data[:4] + fields.OBJECT.put(record, **changes)]
    parts += [_renumbered(chunk, numbers) for chunk in before[1:] if chunk.id not in _STALE]
    parts += contours
    parts += [_renumbered(chunk, numbers) for chunk in after if chunk.id not in _STALE]
    return b"".join(parts)


def _renumbered(chunk: Chunk, numbers: dict[int, int]) -> bytes:
    """The bytes of a chunk of an object; properties in ``OBST`` follow their contours, whose new numbers are given.

    Properties of contours that are gone go with them. The list is sorted by contour or surface number, what belongs to
    neither comes last.
    """
    if chunk.id != "OBST":
        return chunk.data
    size, payload = fields.STORE_ITEM.size, chunk.payload
    numbered: list[tuple[int, bytes]] = []
    rest = b""
    for start in range(0, len(payload), size):
        item = payload[start : start + size]
        flags, index = fields.STORE_ITEM.get(item, "flags"), fields.STORE_ITEM.get(item, "index")
        if flags & fields.STORE_NO_NUMBER:
            rest += item
        elif flags & fields.STORE_SURFACE:
            numbered.append((index, item))
        elif index in numbers:
            numbered.append((numbers[index], fields.STORE_ITEM.put(item, index=numbers[index])))
    kept = b"".join(item for _, item in sorted(numbered, key=lambda pair: pair[0])) + rest
    return sized_chunk("OBST", kept) if kept else b""


def _split_object(
    chunks: list[Chunk], contour_ids: frozenset[str]
) -> tuple[list[Chunk], list[_OldContour], list[Chunk]]:
    """An object's chunks before its contours, its contours, and the chunks after them."""
    before: list[Chunk] = []
    contours: list[list[Chunk]] = []
    after: list[Chunk] = []
    has_contours = any(chunk.id == "CONT" for chunk in chunks)
    for number, chunk in enumerate(chunks):
        if chunk.id == "CONT":
            contours.append([chunk])
        elif contours and chunk.id in contour_ids:
            contours[-1].append(chunk)
        elif contours or not (has_contours or number == 0 or chunk.id == "OLBL"):
            after.append(chunk)
        else:
            before.append(chunk)
    return before, [_OldContour(i, group[0], tuple(group[1:])) for i, group in enumerate(contours)], after


def _needed_display(record: bytes, item: Object) -> dict[str, int]:
    """What must change of the display of an object of the file so that the new points are what they are."""
    changes = {}
    old = Object(flags=fields.OBJECT.get(record, "flags"))
    kind = FLAG_OPEN | FLAG_SCATTERED
    if item.is_scattered and not old.is_scattered:
        changes["flags"] = old.flags | SCATTERED_OBJECT
    elif not item.is_scattered and (item.flags & kind) != (old.flags & kind):
        changes["flags"] = old.flags & ~kind | item.flags & kind
    if any(contour.sizes is None or (contour.sizes < 0).any() for contour in item.contours):
        changes["pdrawsize"] = item.pdrawsize
    return changes


def _is_same(old: _OldContour, new: Contour) -> bool:
    """Whether a contour of the file holds what a new one does, as far as float32 tells."""
    if old.get("surf") != new.surface or (old.sizes is None) != (new.sizes is None):
        return False
    same_sizes = old.sizes is None or new.sizes is None or _equal(old.sizes, new.sizes)
    return same_sizes and _equal(old.points, new.points)


def _key(surface: int, points: NDArray[np.float64] | NDArray[np.float32]) -> tuple[int, bytes]:
    """What a contour and the one that it carries on have in common: the surface number and the first point."""
    with np.errstate(over="ignore"):
        first = points[:1].astype(np.float32) + np.float32(0)  # no -0.0
    return surface, first.tobytes()


def _take(candidates: list[_OldContour], contour: Contour) -> _OldContour | None:
    """Take the contour of the file that a new one is, or carries on, from those of its surface and first point."""
    same = [i for i, old in enumerate(candidates) if _is_same(old, contour)]
    if same:
        return candidates.pop(same[0])
    if candidates and contour.surface > 0 and len(contour.points):
        return candidates.pop(0)
    return None


def _contour_bytes(contour: Contour, old: _OldContour | None, where: str) -> bytes:
    """The bytes of a contour, with what the contour that it carries on had besides points and sizes."""
    if old is not None and _is_same(old, contour):
        return _join((old.head, *old.trailing))
    data = encode_contour(contour, where)
    sizes = b"" if contour.sizes is None else sized_chunk("SIZE", encode_sizes(contour.sizes, where))
    if old is None:
        return data + sizes
    data = data[:4] + fields.CONTOUR.put(data[4:], flags=old.get("flags"), time=old.get("time"))
    place = next((i for i, chunk in enumerate(old.trailing) if chunk.id == "SIZE"), 0)
    before = _join(old.trailing[:place])
    after = _join([chunk for chunk in old.trailing[place:] if chunk.id != "SIZE"])
    return data + before + sizes + after


def _join(chunks: Sequence[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


def _equal(old: NDArray[np.float32], new: NDArray[np.float64]) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(old, new.astype(np.float32), equal_nan=True)


def _float32(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, dtype=">f4").astype(np.float32)
