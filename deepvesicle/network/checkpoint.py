"""Where a training stands, on disk: what the next step depends on, and the history so far."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import NetworkError, UsageError
from deepvesicle.files.atomic import new_file

Weights = list[NDArray[np.float32]]
HISTORY_NAME = "history.csv"
HISTORY_COLUMNS = ("step", "seconds", "patches", "loss", "dice", "validation_dice", "learning_rate")


@dataclass
class State:
    """What a checkpoint holds: all that the next step depends on, and the history so far."""

    step: int
    weights: Weights
    average: Weights
    best: Weights
    optimizer: Weights
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    #: Sums since the last row: steps, losses, Dices.
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def best_dice(self) -> float:
        """Highest validation Dice so far; that of `best`."""
        return max((row["validation_dice"] for row in self.rows), default=-1.0)


_WEIGHTS = ("weights", "average", "best", "optimizer")


def save_state(path: Path, state: State, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint; `identity` is what tells this training from others, in plain values."""
    arrays: dict[str, Any] = {"step": state.step, "seconds": state.seconds, "sums": state.sums}
    arrays["rows"] = np.array([[row[name] for name in HISTORY_COLUMNS] for row in state.rows])
    arrays["identity"] = np.frombuffer(json.dumps(identity, sort_keys=True).encode(), dtype=np.uint8)
    for name in _WEIGHTS:
        for i, value in enumerate(getattr(state, name)):
            arrays[f"{name}_{i:03d}"] = value
    with new_file(path, overwrite=True) as temporary:
        np.savez(temporary, **arrays)


def load_state(path: Path, identity: Mapping[str, Any]) -> State:
    """Read a checkpoint of the same training; the number of steps alone may be another one."""
    try:
        with np.load(path) as file:
            parts = {name: [file[key] for key in sorted(file.files) if key.startswith(name + "_")] for name in _WEIGHTS}
            rows = [dict(zip(HISTORY_COLUMNS, map(float, row), strict=True)) for row in file["rows"]]
            before = json.loads(file["identity"].tobytes())
            state = State(int(file["step"]), **parts, rows=rows, seconds=float(file["seconds"]), sums=file["sums"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise NetworkError(
            f"{path} is damaged, or of another version",
            expected="a checkpoint of this version",
            remedy="Train in a new folder; a model that the old one holds can be its --init",
        ) from error
    wanted = json.loads(json.dumps(identity))
    for name in sorted(before.keys() | wanted.keys()):
        if name != "steps" and before.get(name) != wanted.get(name):
            long = name in _LONG
            raise UsageError(
                f"the training in {path.parent} was begun with {_LONG[name] if long else 'another ' + _in_words(name)}",
                expected="" if long else str(before.get(name)),
                got="" if long else str(wanted.get(name)),
                remedy="Resume with what it was begun with, or train in a new folder",
            )
    return state


#: What is too long to be printed when it differs.
_LONG = {"data": "other datasets", "initial": "other initial weights"}


def _in_words(name: str) -> str:
    return {"patch_vox": "size of patches", "voxel_nm": "voxel size", "shape": "network"}.get(
        name, name.replace("_", " ")
    )


def steps_done(folder: Path) -> int:
    """Steps that a training folder's checkpoint has behind it; 0 where there is none that can be read."""
    try:
        with np.load(checkpoint_path(folder)) as file:
            return int(file["step"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return 0


def checkpoint_path(folder: Path) -> Path:
    """Where a training folder keeps its checkpoint."""
    return folder / "checkpoint.npz"


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the history as CSV, in place of an older one."""
    with new_file(path, overwrite=True) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, HISTORY_COLUMNS)
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
