"""What the HTML report tells of each vesicle and of the run, as plain values for JSON.

Places are given twice: in voxels (0.0 = centre of the first one) for drawing, and in the numbers that 3dmod shows (from
1) for reading. Lengths that are read are in nm. What is not known is None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.run_record import RunRecord
from deepvesicle.grid import Grid
from deepvesicle.marks import DELETED, NOT_FITTED
from deepvesicle.settings import Settings
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]

#: Features that the report shows, by the name that the page uses.
FEATURES = {
    "p": "likeness_p",
    "density": "membrane_density",
    "contrast": "contrast",
    "looks": "looks",
    "cut": "cut",
}
#: Tilts that are taken where the record tells none, degrees.
USUAL_TILTS = (-60.0, 60.0)
_TILT_NOTE = re.compile(r"tilt range (-?[\d.]+) to (-?[\d.]+) degrees")


@dataclass(frozen=True, eq=False)
class Profiles:
    """Mean grey value about each vesicle.

    Parameters
    ----------
    offsets_nm : float array (r,)
        Distance from the outer edge of the membrane, negative inside.
    values : float array (N, r)
        NaN where nothing is known.
    """

    offsets_nm: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class Agreement:
    """How the vesicles agree with a truth.

    Parameters
    ----------
    outcomes : tuple of str
        Of each row (N): ``found``, ``false``, ``ignored``; empty for rows that were not compared.
    missed : Vesicles
        Those of the truth that were not found, on the tomogram's grid.
    figures : mapping of str to float
        As of `deepvesicle.scoring.evaluation.Evaluation.figures`.
    """

    outcomes: tuple[str, ...]
    missed: Vesicles
    figures: Mapping[str, float]


def doubt(vesicles: Vesicles) -> Floats:
    """How much each vesicle (N,) deserves a look: the larger the more.

    Doubtful ones come first, from 1 to 2. Of the others it is how probable it is that they are judged wrongly: of those
    that count, that they are no vesicle; of rejected ones, that they are one. What a person decided is 0.
    """
    unknown = np.full(len(vesicles), np.nan)
    looks = vesicles.features.get("looks", unknown)
    word = np.where(np.isfinite(vesicles.scores), vesicles.scores, looks)
    word = np.clip(np.where(np.isfinite(word), word, 0.5), 0, 1)
    rejected = vesicles.has_status(Status.REJECTED)
    value = np.where(rejected, word, 1 - word)
    value = np.where(vesicles.has_status(Status.DOUBTFUL), 2 - word, value)
    by_hand = vesicles.has_status(Status.MANUAL) | (vesicles.features.get(DELETED, unknown) > 0)
    return np.asarray(np.where(by_hand, 0.0, value), dtype=np.float64)


def shown_rows(vesicles: Vesicles) -> NDArray[np.int64]:
    """Rows that are spheres, those that the user deleted included; marks that could not be fitted are none."""
    unfitted = vesicles.features.get(NOT_FITTED, np.zeros(len(vesicles))) > 0
    finite = np.isfinite(vesicles.centres_vox).all(axis=1) & (vesicles.radii_vox > 0) & np.isfinite(vesicles.radii_vox)
    return np.flatnonzero(finite & ~unfitted)


def vesicle_rows(vesicles: Vesicles) -> list[dict[str, Any]]:
    """What is told of each vesicle, in the table's order."""
    to_nm = vesicles.grid.length_to_nm
    columns: dict[str, Any] = {
        "r": vesicles.radii_nm,
        "sr": to_nm(vesicles.sigma_radii_vox),
        "sc": to_nm(vesicles.sigma_centres_vox),
        "t": to_nm(vesicles.thickness_vox),
        "rv": vesicles.radii_vox,
        "score": vesicles.scores,
        "doubt": doubt(vesicles),
    }
    unknown = np.full(len(vesicles), np.nan)
    columns |= {short: vesicles.features.get(name, unknown) for short, name in FEATURES.items()}
    # it is 1 where it was not tested
    columns["p"] = np.where(np.isfinite(columns["t"]), columns["p"], np.nan)
    rows = []
    for row in range(len(vesicles)):
        values = {name: number(column[row]) for name, column in columns.items()}
        z, y, x = (number(v, 6) for v in vesicles.centres_vox[row])
        rows.append(
            {
                "id": int(vesicles.ids[row]),
                "status": vesicles.status[row].value,
                "why": vesicles.reasons[row],
                "at": [x, y, z],
                **values,
            }
        )
    return rows


def number(value: float, digits: int = 5) -> float | None:
    """A number with so many significant digits, for JSON; None if it is not finite."""
    value = float(value)
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def numbers(values: Floats, digits: int = 4) -> list[float | None]:
    """Numbers (n,) for JSON."""
    return [number(v, digits) for v in values]


def profile_data(profiles: Profiles | None) -> dict[str, Any] | None:
    """Offsets, the profile of each row (None where unknown), for JSON."""
    if profiles is None:
        return None
    values = profiles.values
    return {
        "nm": numbers(profiles.offsets_nm),
        "rows": [numbers(row, 3) if np.isfinite(row).any() else None for row in values],
    }


def tilts_of(record: RunRecord | None) -> tuple[tuple[float, float], str, str]:
    """Lowest and highest tilt, the axis, and where that is from: ``given``, ``estimated`` or ``usual``."""
    axis, given, notes = "y", None, []
    for one in _with_earlier(record):
        refinement = one.get("settings", {}).get("refinement", {})
        axis = refinement.get("tilt_axis", axis)
        given = given or refinement.get("tilt_range_deg")
        notes += list(one.get("notes", ()))
    if given and len(given) == 2:
        return (float(given[0]), float(given[1])), axis, "given"
    for note in notes:
        found = _TILT_NOTE.search(str(note))
        if found and "estimated" in str(note):
            return (float(found[1]), float(found[2])), axis, "estimated"
    return USUAL_TILTS, axis, "usual"


def run_facts(record: RunRecord | None) -> dict[str, Any] | None:
    """What a record tells of a run: command, model, settings, versions, warnings and notes."""
    if record is None:
        return None
    network = next(
        (
            one["inputs"]["model"]
            for one in reversed(_with_earlier(record))
            if one.get("command") != "fix" and "model" in one.get("inputs", {})
        ),
        None,
    )
    return {
        "command": record.command,
        "line": " ".join(record.argv),
        "started": record.started,
        "ended": record.ended,
        "model": None if network is None else Path(network["path"]).name,
        "modelHash": "" if network is None else network["sha256"][:12],
        "settings": settings_rows(record.settings),
        "versions": [[name, str(version)] for name, version in record.versions.items()],
        "warnings": list(record.warnings),
        "notes": list(record.notes),
        "inputs": [[name, item.path, item.sha256[:12]] for name, item in record.inputs.items()],
        "after": None if record.before is None else str(record.before.get("command", "")),
    }


def settings_rows(settings: Mapping[str, Any]) -> list[list[Any]]:
    """Name, value and whether it is not the default, of each setting."""
    defaults = Settings().to_json()
    rows = []
    for group, values in settings.items():
        for name, value in values.items() if isinstance(values, Mapping) else ():
            default = defaults.get(group, {}).get(name)
            rows.append([f"{group}.{name}", _words(value), _words(value) != _words(default)])
    return rows


def tomogram_facts(grid: Grid, path: Path | None, notes: Sequence[str], invert: bool) -> dict[str, Any]:
    """Name, size and voxel size of the tomogram; sizes in x, y, z."""
    nz, ny, nx = grid.shape_zyx
    return {
        "name": path.name if path is not None else "tomogram",
        "shape": [nx, ny, nz],
        "voxel": grid.voxel_nm,
        "notes": list(notes),
        "invert": invert,
    }


def _with_earlier(record: RunRecord | None) -> list[Mapping[str, Any]]:
    """A record and the one that it takes the place of, as plain dictionaries."""
    if record is None:
        return []
    return [record.to_json(), *([record.before] if record.before is not None else [])]


def _words(value: Any) -> str:
    """A setting's value for people."""
    if value is None:
        return "automatic"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " to ".join(_words(part) for part in value)
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
