"""What a batch is to do: the same work for every tomogram, each of them a unit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepvesicle.settings import Settings

#: Settings that say how a result is worked out, not what comes out.
_RESOURCES = ("threads", "tile_vox", "memory")


@dataclass(frozen=True)
class Wanted:
    """What decides a result, apart from the tomogram and its outline.

    Parameters
    ----------
    settings : mapping
        `deciding(settings)`.
    model_sha256 : str
        Of the network's folder, as run records have it.
    voxel_nm : float, optional
        In place of the header's.
    invert : bool
    """

    settings: Mapping[str, Any]
    model_sha256: str
    voxel_nm: float | None = None
    invert: bool = False


@dataclass(frozen=True)
class Plan:
    """The work that is done for every tomogram.

    Parameters
    ----------
    folder : str
        Absolute; each unit has a folder of its own in it.
    arguments : tuple of str
        Of the program, in which ``{tomogram}`` and ``{folder}`` stand for those of the unit; ``--mask`` is added.
    outputs : tuple of str
        Names of the files that the program makes, in which ``{stem}`` stands for the unit's.
    record : str
        The one of them that is its run record.
    wanted : Wanted
    program : tuple of str
        Begins the command; empty for this program under the Python that runs it.
    """

    folder: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    record: str
    wanted: Wanted
    program: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        """Read what `to_json` gave; a KeyError or TypeError if it is something else."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**{**values, "wanted": Wanted(**content["wanted"])})


@dataclass(frozen=True)
class Unit:
    """One tomogram of a batch.

    Parameters
    ----------
    number : int
        From 1; it stays the same when the batch is run again.
    name : str
        Of its folder; no other unit has it.
    tomogram : str
        Absolute path.
    stem : str
        What the names of its results begin with.
    mask : str, optional
        Absolute path of its outline.
    """

    number: int
    name: str
    tomogram: str
    stem: str
    mask: str | None = None

    def folder(self, plan: Plan) -> Path:
        """Where its results go."""
        return Path(plan.folder) / self.name

    def outputs(self, plan: Plan) -> dict[str, Path]:
        """Path of each output by its name."""
        names = (name.replace("{stem}", self.stem) for name in plan.outputs)
        return {name: self.folder(plan) / name for name in names}

    def record(self, plan: Plan) -> Path:
        """Path of the run record, which is written last."""
        return self.folder(plan) / plan.record.replace("{stem}", self.stem)

    def log(self, plan: Plan) -> Path:
        """Path of the log, to which every attempt is added."""
        return self.folder(plan) / f"{self.stem}_log.txt"

    def arguments(self, plan: Plan) -> list[str]:
        """The program's arguments for this tomogram."""
        places = {"{tomogram}": self.tomogram, "{folder}": str(self.folder(plan))}
        mask = ["--mask", self.mask] if self.mask else []
        return [places.get(argument, argument) for argument in plan.arguments] + mask


@dataclass(frozen=True)
class Resources:
    """What a unit may use where it runs.

    Parameters
    ----------
    cores : int
        0 for all that the process may use, divided by `share`.
    share : int
        How many units run on the same machine at the same time.
    """

    cores: int = 0
    share: int = field(default=1)


def deciding(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide a result, as plain JSON: without those that say how many threads, how much memory.

    Settings of an earlier version get the defaults of what it did not have.
    """
    full = settings if isinstance(settings, Settings) else Settings.from_dict(dict(settings))
    tables: dict[str, dict[str, Any]] = json.loads(json.dumps(full.to_json()))
    return {
        group: {name: value for name, value in table.items() if not name.startswith(_RESOURCES)}
        for group, table in tables.items()
    }


def settings_as_toml(settings: Settings) -> str:
    """The text of a settings file."""
    lines = []
    for group, table in settings.to_json().items():
        lines.append(f"[{group}]")
        # Numbers, texts, booleans and lists of them look the same in JSON and TOML; what is None is left out.
        lines += [f"{name} = {json.dumps(value)}" for name, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"
