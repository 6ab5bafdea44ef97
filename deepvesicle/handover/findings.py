"""What a check of a work folder has to say: what is wrong, how bad, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from deepvesicle.grid import Points, as_points

#: Things that a text names one by one.
_NAMED = 6


class Severity(str, Enum):
    """How bad a finding is."""

    ERROR = "error"  # Pyto crashes, or silently finds nothing
    WARNING = "warning"  # it runs, and numbers are wrong
    NOTE = "note"  # worth knowing

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that is wrong with a work folder.

    Parameters
    ----------
    kind : str
        A word for programs, such as ``vesicle_gap``.
    severity : Severity
    text : str
        What is wrong, with ids and places, in one line.
    remedy : str
        What to do about it.
    ids : sequence of int
        The labels that it is about, all of them; kept as a tuple.
    places : float array (N, 3)
        Where to look, z, y, x in voxels.
    """

    kind: str
    severity: Severity
    text: str
    remedy: str
    ids: Sequence[int] = ()
    places: Points = field(default_factory=lambda: np.zeros((0, 3)))

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(int(number) for number in self.ids))
        object.__setattr__(self, "places", as_points(self.places))

    def __str__(self) -> str:
        return f"{self.severity.value}: {self.text}. {self.remedy}."

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; places in 3dmod's numbering (x, y, z; each from 1)."""
        return {
            "kind": self.kind,
            "severity": self.severity.value,
            "text": self.text,
            "remedy": self.remedy,
            "ids": list(self.ids),
            "places": [dict(zip("xyz", shown(place), strict=True)) for place in self.places],
        }


def shown(place: ArrayLike) -> tuple[int, int, int]:
    """A place (z, y, x; voxels) as 3dmod shows it: x, y and section, each from 1."""
    z, y, x = (int(round(v)) + 1 for v in np.asarray(place, dtype=float).tolist())
    return x, y, z


def place_text(place: ArrayLike) -> str:
    """A place (z, y, x; voxels) in words."""
    x, y, z = shown(place)
    return f"x {x}, y {y}, z {z}"


def named(what: str, ids: Sequence[object], places: ArrayLike = (), remarks: Sequence[str] = ()) -> str:
    """Labels by name, the first of many with place and remark: ``2 vesicles: 12 (half; x 3, y 4, z 5), 13 (...)``.

    Parameters
    ----------
    what : str
        One of them, in the singular.
    ids : sequence
    places : array (N, 3), optional
        As many as ids.
    remarks : sequence of str, optional
        As many as ids.
    """
    where = [place_text(place) for place in as_points(places)]
    parts = []
    for index, number in enumerate(list(ids)[:_NAMED]):
        about = [column[index] for column in (remarks, where) if len(column)]
        parts.append(f"{number} ({'; '.join(about)})" if about else str(number))
    if len(ids) == 1:
        return f"{what} {parts[0]}"
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{len(ids)} {plural(what)}: {', '.join(parts)}{more}"


def plural(noun: str) -> str:
    """The plural of a regular noun."""
    return f"{noun}s"


def sorted_by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first; else in the order given."""
    return sorted(findings, key=lambda finding: finding.severity.rank)
