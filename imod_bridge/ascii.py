"""Models in IMOD's ASCII form: what `imodinfo -a` prints, scripts write by hand, and every IMOD program reads.

The file is text: comments start with ``#``, the first other line is ``imod`` and the number of objects, and every line
after it starts with a word that says what follows. Directives that `imod_bridge.model` has no place for, and unknown
ones, are passed over. Source: IMOD's description of the format ("Imod ASCII File Format Version 2.0").

Nothing marks the end of such a file, so the numbers of objects, contours, meshes and points are all checked. Only a
file cut within its very last number cannot be told from a whole one.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imod_bridge.binary import is_ascii
from imod_bridge.errors import ModelFormatError
from imod_bridge.model import (
    FLAG_OPEN,
    FLAG_SCATTERED,
    MODEL_ORIGIN_STORED,
    MODEL_TILTS_STORED,
    MODEL_YZ_EXCHANGED,
    NEW_MODEL_FLAGS,
    Contour,
    ImageReference,
    Model,
    Object,
)

__all__ = ["decode_ascii", "is_ascii"]

_NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
_UNITS = {"pixels": 0, "km": 3, "m": 1, "cm": -2, "mm": -3, "um": -6, "nm": -9, "A": -10, "pm": -12}
_SYMBOLS = {"circle": 0, "none": 1, "square": 2, "triangle": 3}
#: Words that set a bit of an object's flags; ``closed`` takes back ``open``.
_FLAG_OF_WORD = {
    "nodraw": 1 << 1,
    "open": FLAG_OPEN,
    "insideout": 1 << 5,
    "pntusefill": 1 << 6,
    "pntonsec": 1 << 7,
    "fill": 1 << 8,
    "scattered": FLAG_SCATTERED,
    "drawmesh": 1 << 10,
    "nolines": 1 << 11,
    "usevalue": 1 << 12,
    "usefill": 1 << 14,
    "antialias": 1 << 15,
    "valcolor": 1 << 17,
    "hastimes": 1 << 18,
    "bothsides": 1 << 19,
}
#: Words with one whole number, and the field of `Object` that it is.
_FIELD_OF_WORD = {
    "linewidth": "line_width",
    "pointsize": "pdrawsize",
    "symsize": "symbol_size",
    "obquality": "sphere_quality",
}
#: Place of each triple in the image reference; the model flag that says that the triple means something.
_REFERENCE_TRIPLES = {
    "refoldtrans": (1, MODEL_ORIGIN_STORED),
    "refcurscale": (3, 0),
    "refcurtrans": (4, 0),
    "refcurrot": (5, MODEL_TILTS_STORED),
}
_NAME_LENGTH = 63


@dataclass
class _Draft:
    """An object as far as it was read."""

    declared_contours: int
    declared_meshes: int
    item: Object = field(default_factory=Object)
    contours: dict[int, Contour] = field(default_factory=dict)
    meshes: set[int] = field(default_factory=set)
    current: int = -1


class _Lines:
    """The lines of a file that are neither empty nor comments, one at a time, and errors that name the line."""

    def __init__(self, data: bytes) -> None:
        self._lines = data.split(b"\n")
        self._next = 0
        self.text = ""
        self.words: list[str] = []

    def advance(self) -> bool:
        """Go to the next line; False at the end of the file."""
        while self._next < len(self._lines):
            self.text = self._lines[self._next].rstrip(b"\r").decode("latin-1")
            self._next += 1
            self.words = self.text.split()
            if self.words and not self.text.startswith("#"):
                return True
        return False

    def error(self, text: str) -> ModelFormatError:
        return ModelFormatError(f"line {self._next}: {text}")

    def advance_within(self, what: str, done: int, declared: int) -> None:
        """Go to the next of a number of lines; an error where the file ends before the last one."""
        if not self.advance():
            raise self.error(f"the file ends after {done} of the {declared} {what}: it is cut short")

    def numbers(self, words: list[str], at_least: int, at_most: int, expected: str) -> list[float]:
        """Words as finite numbers."""
        if at_least <= len(words) <= at_most and all(map(_NUMBER.fullmatch, words)):
            values = [float(word) for word in words]
            if all(map(math.isfinite, values)):
                return values
        raise self.error(f"expected {expected}, got {self.text.strip()[:60]!r}")

    def integers(self, at_least: int, at_most: int, expected: str) -> list[int]:
        """The words after the first one as whole numbers of 32 bits."""
        values = self.numbers(self.words[1:], at_least, at_most, expected)
        if not all(value.is_integer() and -(2**31) <= value < 2**32 for value in values):
            raise self.error(f"expected {expected}, got {self.text.strip()[:60]!r}")
        return [int(value) for value in values]

    def triple(self) -> list[float]:
        """The x, y and z after the first word."""
        return self.numbers(self.words[1:], 3, 3, f"{self.words[0]} x y z")

    def integer(self) -> int:
        """The whole number after the first word."""
        return self.integers(1, 1, f"{self.words[0]} and a whole number")[0]


def decode_ascii(data: bytes) -> Model:
    """Read a model in ASCII form.

    Parameters
    ----------
    data : bytes
        The whole file. Names are latin-1, line ends those of any system.

    Returns
    -------
    Model
        Points and sizes have float32 precision, as in a binary file. A contour has sizes if one of its points has; the
        others then get -1 (the object's default).

    Raises
    ------
    ModelFormatError
        Not such a model, cut short, with numbers that contradict its content, or words where numbers must be. The
        message names the line.
    """
    lines = _Lines(data)
    if not lines.advance() or lines.words[0] != "imod":
        raise lines.error("expected 'imod' and the number of objects, as an IMOD model in ASCII form starts")
    declared = lines.integers(1, 1, "imod and the number of objects")[0]
    drafts: dict[int, _Draft] = {}
    header: dict[str, Any] = {"flags": NEW_MODEL_FLAGS}
    reference = np.zeros((6, 3))
    reference[[0, 3]] = 1.0  # the two scales
    has_reference = False
    draft: _Draft | None = None
    while lines.advance():
        word = lines.words[0]
        if word == "object":
            draft = _start_object(lines, drafts, declared)
        elif word in ("contour", "mesh"):
            if draft is None:
                raise lines.error(f"a {word} before any object")
            (_read_contour if word == "contour" else _skip_mesh)(lines, draft)
        elif word in _REFERENCE_TRIPLES:
            row, flag = _REFERENCE_TRIPLES[word]
            reference[row] = lines.triple()
            header["flags"] |= flag
            has_reference = True
        elif not _read_model_word(lines, header) and draft is not None:
            _read_object_word(lines, draft)
    if len(drafts) != declared:
        raise lines.error(f"the file declares {declared} objects, but has {len(drafts)}: it is cut short or was edited")
    if has_reference:
        header["image_reference"] = _pack_reference(lines, reference)
    objects = tuple(_finish_object(lines, number, drafts[number]) for number in sorted(drafts))
    return Model(objects=objects, **header)


def _start_object(lines: _Lines, drafts: dict[int, _Draft], declared: int) -> _Draft:
    number, contours, *meshes = lines.integers(2, 3, "object, its number, and its numbers of contours and meshes")
    if not 0 <= number < declared:
        raise lines.error(f"object {number}, but the {declared} objects are numbered from 0")
    if number in drafts:
        raise lines.error(f"object {number} is there twice")
    drafts[number] = _Draft(contours, meshes[0] if meshes else 0)
    return drafts[number]


def _read_contour(lines: _Lines, draft: _Draft) -> None:
    """Read a contour and its points: x y z, then perhaps a size, then perhaps a value (which is not kept)."""
    expected = "contour, its number, its surface, its number of points, and perhaps a value"
    lines.numbers(lines.words[1:], 3, 4, expected)
    lines.words = lines.words[:4]
    number, surface, count = lines.integers(3, 3, expected)
    _check_new(lines, "contour", number, draft.declared_contours, draft.contours)
    if count < 0 or surface >= 2**31:
        raise lines.error(f"an impossible contour: {lines.text.strip()[:60]!r}")
    points: list[list[float]] = []
    sizes: list[float] = []
    for done in range(count):
        lines.advance_within("points of a contour", done, count)
        x, y, z, *more = lines.numbers(lines.words, 3, 5, "a point: x y z, and perhaps its size and value")
        points.append([x, y, z])
        sizes.append(more[0] if more and more[0] >= 0 else -1.0)
    has_sizes = any(size >= 0 for size in sizes)
    draft.contours[number] = Contour(
        _as_float32(lines, points).reshape(-1, 3),
        _as_float32(lines, sizes) if has_sizes else None,
        surface=surface,
    )
    draft.current = number


def _skip_mesh(lines: _Lines, draft: _Draft) -> None:
    number, vertices, indices = lines.integers(3, 3, "mesh, its number, and its numbers of vertices and indices")
    _check_new(lines, "mesh", number, draft.declared_meshes, draft.meshes)
    if vertices < 0 or indices < 0:
        raise lines.error(f"an impossible mesh: {lines.text.strip()[:60]!r}")
    for done in range(vertices + indices):
        lines.advance_within("lines of a mesh", done, vertices + indices)
        lines.numbers(lines.words, 1, 3, "a vertex or an index of a mesh")
    draft.meshes.add(number)


def _check_new(lines: _Lines, what: str, number: int, declared: int, present: dict[int, Contour] | set[int]) -> None:
    if not 0 <= number < declared:
        raise lines.error(f"{what} {number}, but the object declares {declared}, numbered from 0")
    if number in present:
        raise lines.error(f"{what} {number} is there twice")


def _read_model_word(lines: _Lines, header: dict[str, Any]) -> bool:
    """Read a directive that concerns the whole model; False if it is none that is kept."""
    word = lines.words[0]
    if word == "max":
        x, y, z = lines.integers(3, 3, "max x y z, whole numbers")
        header["image_size"] = (x, y, z)
    elif word == "scale":
        header["z_scale"] = lines.triple()[2]
    elif word == "pixsize":
        header["pixel_size"] = lines.numbers(lines.words[1:], 1, 1, "pixsize and a number")[0]
    elif word == "units":
        header["units"] = _UNITS.get(" ".join(lines.words[1:]), 0)
    elif word == "flipped":
        if lines.integer():
            header["flags"] |= MODEL_YZ_EXCHANGED
    else:
        return False
    return True


def _read_object_word(lines: _Lines, draft: _Draft) -> None:
    """Read a directive that concerns the current object, or its current contour; others are passed over."""
    word, item = lines.words[0], draft.item
    if word == "name":
        draft.item = replace(item, name=lines.text.lstrip()[5:].split("\0")[0][:_NAME_LENGTH])
    elif word == "color":
        red, green, blue, *transparency = lines.numbers(lines.words[1:], 3, 4, "color, red, green, blue, transparency")
        draft.item = replace(item, colour=(red, green, blue), transparency=int(transparency[0]) if transparency else 0)
    elif word in _FLAG_OF_WORD:
        draft.item = replace(item, flags=item.flags | _FLAG_OF_WORD[word])
    elif word == "closed":
        draft.item = replace(item, flags=item.flags & ~FLAG_OPEN)
    elif word in _FIELD_OF_WORD:
        changes: dict[str, Any] = {_FIELD_OF_WORD[word]: lines.integer()}
        draft.item = replace(item, **changes)
    elif word == "symbol":
        name = " ".join(lines.words[1:])
        draft.item = replace(item, symbol=_SYMBOLS[name] if name in _SYMBOLS else lines.integer())
    elif word in ("contflags", "conttime") and draft.current in draft.contours:
        changes = {word.removeprefix("cont"): lines.integer()}
        draft.contours[draft.current] = replace(draft.contours[draft.current], **changes)


def _finish_object(lines: _Lines, number: int, draft: _Draft) -> Object:
    for what, declared, present in (
        ("contours", draft.declared_contours, len(draft.contours)),
        ("meshes", draft.declared_meshes, len(draft.meshes)),
    ):
        if declared != present:
            raise lines.error(f"object {number} declares {declared} {what}, but has {present}: the file is cut short")
    return replace(draft.item, contours=tuple(draft.contours[i] for i in sorted(draft.contours)))


def _pack_reference(lines: _Lines, triples: NDArray[np.float64]) -> ImageReference:
    return ImageReference(struct.pack(">18f", *_as_float32(lines, triples).ravel()))


def _as_float32(lines: _Lines, values: Any) -> NDArray[np.float64]:
    """Numbers with the precision that a binary model has."""
    with np.errstate(over="ignore"):
        narrow = np.asarray(values, dtype=np.float64).astype(np.float32).astype(np.float64)
    if not np.isfinite(narrow).all():
        raise lines.error("a number above is too large for a model (float32)")
    return narrow
