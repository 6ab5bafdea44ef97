"""Reading the text tables that Pyto writes (``*.dat``): vesicles, segments (connectors and tethers), clusters.

A table is known by its head, not by its name or place: Pyto lets users choose these. Its columns are found by the
words in the head, in their order, since which of them are there depends on what was asked for, and on Pyto's version.
Pyto's pickles hold the same and more, but can only be read with Pyto itself, and run code when they are opened: they
are left alone.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from deepvesicle.errors import TableError

#: Words in the head of a table of segments, and how many numbers stand below each.
_SEGMENT_WORDS = {
    "Id": ("id",),
    "Thresh": ("threshold",),
    "Threshold": ("threshold",),
    "Density": ("density", "density_std", "density_min", "density_max"),
    "Volume": ("volume",),
    "Surface": ("surface",),
    "S/V": ("surface_to_volume",),
    "Euler": ("euler",),
    "Loops": ("loops",),
    "Holes": ("holes",),
    "Length": ("length",),
    "Boundary": ("boundary_distance",),
    "Distance": ("distance", "distance_to"),
}
#: The same of a table of vesicles; distances are named by what stands below them.
_VESICLE_WORDS = {
    "Id": ("id",),
    "Vesicle density": ("density", "density_std", "density_min", "density_max"),
    "Membrane density": ("membrane_density", "membrane_density_std", "membrane_density_min", "membrane_density_max"),
    "Interior density": ("lumen_density", "lumen_density_std", "lumen_density_min", "lumen_density_max"),
    "Vesicle": ("volume",),
    "Membrane": ("membrane_volume",),
    "Center": ("x", "y", "z"),
    "Radius": ("radius", "radius_std", "radius_min", "radius_max"),
}
_VESICLE_HEAD = re.compile("|".join([*(re.escape(word) for word in _VESICLE_WORDS), "Distance"]))
_BRACKETS = re.compile(r"\[([^\]]*)\]")
_INSIDE_LIST = re.compile(r"[\d\s,]*")


class Kind(Enum):
    """What a table holds."""

    VESICLES = "vesicles"
    SEGMENTS = "segments"
    CLUSTERS = "clusters"
    OTHER = "nothing of single vesicles"


@dataclass(frozen=True)
class Segment:
    """A connector or a tether.

    Parameters
    ----------
    id : int
        In Pyto's hierarchy.
    contacts : tuple of int
        Labels that it touches.
    values : dict of str to float
        Its numbers, in Pyto's units (voxels); what Pyto has not worked out is not there.
    """

    id: int
    contacts: tuple[int, ...]
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PytoTable:
    """What one file holds.

    Parameters
    ----------
    path : Path
    kind : Kind
    ids : tuple of int
        Labels that Pyto was told to look at; empty where it does not say.
    distance_ids : tuple of int
        Labels that distances go to: the membrane of the active zone.
    rows : dict of int to dict of str to float
        Of tables of vesicles and clusters: label, and its numbers.
    segments : tuple of Segment
    of_threshold : bool
        Of segments: those at one threshold alone, which are in the tables of all thresholds too.
    classes : tuple of (str, tuple of str)
        Of segments: type of each classification that names its classes, and these names.
    """

    path: Path
    kind: Kind
    ids: tuple[int, ...] = ()
    distance_ids: tuple[int, ...] = ()
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    of_threshold: bool = False
    classes: tuple[tuple[str, tuple[str, ...]], ...] = ()


def read_table(path: Path) -> PytoTable:
    """Read one of Pyto's tables.

    Raises
    ------
    TableError
        It cannot be read, or a line does not have the numbers that the head promises.
    """
    lines = _lines_of(path)
    heads = [(number, line) for number, line in enumerate(lines) if line.startswith("#")]
    for number, line in heads:
        if re.match(r"#\s*Id\b.*Vesicle density.*Radius", line):
            return _vesicles(path, lines, number)
        if re.match(r"#\s*Id\b.*Density.*(Contacts|Boundaries)", line):
            return _segments(path, lines, number)
        if re.match(r"#\s*Boundary\s+Connectivity\b", line):
            return _clusters(path, lines, number)
    if any(line.startswith("# Number of boundaries contacted") for line in lines) and _number_of(lines) == 0:
        return _segments(path, lines, None)  # Pyto writes no head above nothing
    return PytoTable(path, Kind.OTHER)


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise TableError(f"{path} cannot be read", got=error.strerror or str(error)) from error


def _number_of(lines: Sequence[str]) -> int | None:
    """How many segments the head tells."""
    found = [re.match(r"# Number of segments:\s*(\d+)\s*$", line) for line in lines]
    return next((int(match.group(1)) for match in found if match), None)


def _data(lines: Sequence[str], head: int) -> Iterator[tuple[int, str]]:
    """The lines with numbers below a head, with their line numbers from 1; broken lists are joined again."""
    pending, first = "", 0
    for number, line in enumerate(lines[head + 1 :], start=head + 2):
        text = line.strip()
        if pending:
            pending = f"{pending} {text}"
        elif text and not text.startswith("#"):
            pending, first = text, number
        if pending and pending.count("[") <= pending.count("]"):
            yield first, pending
            pending = ""
    if pending:
        yield first, pending


def _numbers(path: Path, line: int, text: str, names: Sequence[str], *, more: bool = False) -> dict[str, float]:
    """The numbers of a line by their names.

    Raises
    ------
    TableError
    """
    cells = text.split()
    if len(cells) < len(names) or (len(cells) > len(names) and not more):
        raise TableError(
            f"{path}, line {line}, is not a row of one of Pyto's tables",
            expected=f"{len(names)} numbers: {', '.join(names)}",
            got=f"{len(cells)}",
        )
    try:
        return {name: float(cell) for name, cell in zip(names, cells, strict=False)}
    except ValueError as error:
        raise TableError(f"{path}, line {line}, is not a row of one of Pyto's tables", got=str(error)) from None


def _id(path: Path, line: int, value: float) -> int:
    if not (math.isfinite(value) and value == int(value) and value > 0):
        raise TableError(f"{path}, line {line}: not an id", expected="a whole number from 1", got=f"{value:g}")
    return int(value)


def _vesicles(path: Path, lines: Sequence[str], head: int) -> PytoTable:
    words = [match.group() for match in _VESICLE_HEAD.finditer(lines[head].split("X-slice")[0])]
    modes = re.findall(r"[a-z]+", _after(lines, "# Distance mode(s):"))
    number_of_distances = words.count("Distance")
    if len(modes) != number_of_distances:
        modes = [str(i) for i in range(1, number_of_distances + 1)]
    names: list[str] = []
    for word in words:
        names += [f"distance_{modes.pop(0)}"] if word == "Distance" else _VESICLE_WORDS[word]
    rows: dict[int, dict[str, float]] = {}
    for line, text in _data(lines, head):
        values = _numbers(path, line, text, names, more="X-slice" in lines[head])
        number = _id(path, line, values.pop("id"))
        if number in rows:
            raise TableError(f"{path}, line {line}: the vesicle {number} is there already")
        rows[number] = _known(values)
    return PytoTable(
        path,
        Kind.VESICLES,
        ids=_ids_below(lines, "# Vesicle ids"),
        distance_ids=_integers(_after(lines, "# Distance region id:")),
        rows=rows,
    )


def _segments(path: Path, lines: Sequence[str], head: int | None) -> PytoTable:
    segments: list[Segment] = []
    names: list[str] = []
    if head is not None:
        for word in re.findall(r"[A-Z][\w/]*", lines[head]):
            names += _SEGMENT_WORDS.get(word, ())
        segments = [_segment(path, line, text, names) for line, text in _data(lines, head)]
    return PytoTable(
        path,
        Kind.SEGMENTS,
        ids=_ids_below(lines, "# Boundary ids:"),
        distance_ids=_distance_ids(lines),
        segments=tuple(segments),
        of_threshold="threshold" not in names if head is not None else re.search(r"_thr-?\d", path.name) is not None,
        classes=_classes(lines),
    )


def _segment(path: Path, line: int, text: str, names: Sequence[str]) -> Segment:
    brackets = _BRACKETS.search(text)
    if brackets is None or not _INSIDE_LIST.fullmatch(brackets.group(1)):
        raise TableError(f"{path}, line {line}: what the segment touches is missing", expected="ids in brackets")
    values = _numbers(path, line, text[: brackets.start()], names)
    return Segment(_id(path, line, values.pop("id")), _integers(brackets.group(1)), _known(values))


def _clusters(path: Path, lines: Sequence[str], head: int) -> PytoTable:
    """Which cluster each vesicle is in: of those made by connectors, which come first."""
    rows: dict[int, dict[str, float]] = {}
    for line, text in _data(lines, head):
        values = _numbers(path, line, text.split("[")[0], ("id", "cluster"), more=True)
        rows[_id(path, line, values["id"])] = _known({"cluster": values["cluster"]})
    return PytoTable(path, Kind.CLUSTERS, ids=_ids_below(lines, "# Boundary ids:"), rows=rows)


def _known(values: dict[str, float]) -> dict[str, float]:
    """Without what Pyto has not worked out: it writes -1 for lengths, sizes and distances then, or no number."""
    measured = ("distance", "length", "volume", "surface", "radius", "boundary_distance", "membrane_volume", "cluster")
    return {
        name: value
        for name, value in values.items()
        if math.isfinite(value) and not (value < 0 and (name in measured or name.startswith("distance_")))
    }


def _after(lines: Sequence[str], start: str) -> str:
    """What follows some words on their line."""
    return next((line[len(start) :].strip() for line in lines if line.startswith(start)), "")


def _ids_below(lines: Sequence[str], start: str) -> tuple[int, ...]:
    """The ids listed below some words, over several lines where they are many; none if the list is not whole."""
    row = next((number for number, line in enumerate(lines) if line.startswith(start)), None)
    if row is None:
        return ()
    text = ""
    for line in lines[row + 1 :]:
        text += f" {line.lstrip('#').strip()}"
        if text.count("[") <= text.count("]"):
            break
    if text.count("[") != text.count("]") or "..." in text:
        return ()
    span = re.fullmatch(r"range\((\d+), (\d+)\)", text.strip())
    return tuple(range(int(span.group(1)), int(span.group(2)))) if span else _integers(text)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _distance_ids(lines: Sequence[str]) -> tuple[int, ...]:
    """The labels that distances of segments go to."""
    for line in lines:
        match = re.match(r"#\s*-\s*region(?:\(s\)| id):(.*)", line)
        if match:
            return _integers(match.group(1))
    return ()


def _classes(lines: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Types and names of classifications, from lines such as ``- type: volume,  arguments: {...}``."""
    found = []
    for line in lines:
        match = re.match(r"#\s*-\s*type:\s*(\w+),\s*arguments:\s*(\{.*\})\s*$", line)
        if not match:
            continue
        try:
            names = ast.literal_eval(match.group(2)).get("names")
        except (ValueError, SyntaxError):
            continue
        if isinstance(names, (list, tuple)) and names:
            found.append((match.group(1), tuple(str(name) for name in names)))
    return tuple(found)
