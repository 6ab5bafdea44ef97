"""The list of all units and how far they are: `batch.json` for programs, `batch.csv` for people and spreadsheets.

What counts is the state in each unit's folder; the manifest is made of these, by whoever has changed one of them.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepvesicle import __version__
from deepvesicle.batch.plan import Plan, Unit
from deepvesicle.batch.state import Stage, State, read_state, utc_now
from deepvesicle.errors import BadInputError
from deepvesicle.files.atomic import new_file

FORMAT = 1
MANIFEST_NAME, TABLE_NAME = "batch.json", "batch.csv"
#: Columns of the table.
COLUMNS = (
    "name",
    "state",
    "vesicles",
    "sure",
    "doubtful",
    "rejected",
    "mean_radius_nm",
    "seconds",
    "peak_memory_gb",
    "attempts",
    "warnings",
    "error",
    "tomogram",
    "folder",
)
#: How often a manifest is written again when states changed while it was.
_ROUNDS = 20


@dataclass
class Manifest:
    """All units of a batch.

    Parameters
    ----------
    plan : Plan
    units : list of Unit
        In the order of their numbers; those of earlier runs as well.
    states : dict of str to State
        By name of the unit.
    """

    plan: Plan
    units: list[Unit]
    states: dict[str, State] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where it is written."""
        return Path(self.plan.folder) / MANIFEST_NAME

    def unit(self, number: int) -> Unit:
        """The unit with a number.

        Raises
        ------
        BadInputError
            There is none.
        """
        for unit in self.units:
            if unit.number == number:
                return unit
        raise BadInputError(
            f"the batch in {self.plan.folder} has no tomogram {number}", expected=f"1 to {len(self.units)}"
        )

    def read_states(self) -> None:
        """Read the state of every unit."""
        self.states = {unit.name: read_state(unit.folder(self.plan)) for unit in self.units}

    def write(self) -> None:
        """Write manifest and table, with the states as they are here."""
        folder = Path(self.plan.folder)
        with new_file(folder / TABLE_NAME, overwrite=True) as temporary:
            temporary.write_text(self.table(), encoding="utf-8")
        with new_file(folder / MANIFEST_NAME, overwrite=True) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def refresh(self) -> None:
        """Write both with the states in the folders; right also if several processes do so at the same time.

        The last one to write has looked, after its writing, for states that came meanwhile.
        """
        self.read_states()
        for _ in range(_ROUNDS):
            self.write()
            written = dict(self.states)
            self.read_states()
            if self.states == written:
                return

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        stages = [self.states.get(unit.name, State()).stage for unit in self.units]
        return {
            "format": FORMAT,
            "program": f"deepvesicle {__version__}",
            "argv": sys.argv,
            "updated": utc_now(),
            "counts": {stage.value: stages.count(stage) for stage in Stage},
            "units": [self._entry(unit) for unit in self.units],
            "plan": self.plan.to_json(),
        }

    def _entry(self, unit: Unit) -> dict[str, Any]:
        state = self.states.get(unit.name, State()).to_json()
        return {**asdict(unit), "folder": str(unit.folder(self.plan)), "state": state.pop("stage"), **state}

    def table(self) -> str:
        """The table as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for unit in self.units:
            state = self.states.get(unit.name, State())
            row: dict[str, Any] = {"name": unit.name, "state": state.stage.value, "error": state.error}
            row |= {"tomogram": unit.tomogram, "folder": str(unit.folder(self.plan))}
            if state.stage is Stage.DONE:
                row |= {
                    "vesicles": state.vesicles,
                    "sure": int(state.counts.get("refined", 0)),
                    "doubtful": int(state.counts.get("doubtful", 0)),
                    "rejected": int(state.counts.get("rejected", 0)),
                    "mean_radius_nm": state.counts.get("mean_radius_nm", ""),
                }
            if state.attempts:
                row |= {"attempts": state.attempts, "seconds": state.seconds}
            if state.peak_bytes:
                row["peak_memory_gb"] = round(state.peak_bytes / 1e9, 2)
            row["warnings"] = "; ".join([*state.warnings, *state.notes])
            writer.writerow(row)
        return text.getvalue()


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest in a folder; None if there is none.

    Raises
    ------
    BadInputError
        It cannot be understood.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        plan = Plan.from_json(content["plan"])
        units = [Unit(**_fields(entry)) for entry in content["units"]]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{path} is not the manifest of a batch ({type(error).__name__}: {error})",
            remedy="Choose another folder with -o, or move the file away: finished tomograms are recognised without it",
        ) from error
    return Manifest(plan, units)


def joined(earlier: Sequence[Unit], now: Iterable[Unit]) -> list[Unit]:
    """Units of an earlier run and of this one: those of this one where both have them."""
    units: Mapping[str, Unit] = {unit.name: unit for unit in [*earlier, *now]}
    return sorted(units.values(), key=lambda unit: unit.number)


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("number", "name", "tomogram", "stem", "mask")}
