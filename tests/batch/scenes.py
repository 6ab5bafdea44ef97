"""Batches of made-up tomograms for tests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepvesicle.batch.manifest import Manifest
from deepvesicle.batch.plan import Plan, Unit, Wanted, deciding, settings_as_toml
from deepvesicle.batch.state import State
from deepvesicle.files.run_record import FileRecord
from deepvesicle.settings import Settings
from tests.batch import fake_segment

FAKE = Path(fake_segment.__file__)


def make_batch(folder: Path, texts: dict[str, str], settings: Settings | None = None) -> tuple[Manifest, list[Unit]]:
    """Write tomograms that tell the stand-in what to do, and plan a batch of them."""
    settings = settings or Settings()
    model, out = folder / "model", folder / "out"
    model.mkdir(parents=True)
    out.mkdir()
    (model / "config.json").write_text("{}")
    units = []
    for number, (name, text) in enumerate(texts.items(), start=1):
        tomogram = folder / f"{name}.mrc"
        tomogram.write_text(text)
        units.append(Unit(number, name, str(tomogram), name))
    return Manifest(plan_of(folder, settings), units), units


def plan_of(folder: Path, settings: Settings) -> Plan:
    """The plan of such a batch with other settings."""
    path = folder / "out" / "batch_settings.toml"
    path.write_text(settings_as_toml(settings))
    options = ("--output", "{folder}", "--model", str(folder / "model"), "--settings", str(path))
    return Plan(
        folder=str(folder / "out"),
        arguments=("segment", "{tomogram}", *options),
        outputs=fake_segment.OUTPUTS,
        record="{stem}_run.json",
        wanted=Wanted(deciding(settings), FileRecord.of(folder / "model").sha256),
        program=(sys.executable, str(FAKE)),
    )


def with_settings(settings: Settings, **proposal: float) -> Settings:
    """Settings with other proposal settings."""
    return replace(settings, proposal=replace(settings.proposal, **proposal))  # type: ignore[arg-type]


def runs_of(unit: Unit) -> int:
    """How often the stand-in has been run for a tomogram."""
    path = Path(unit.tomogram).with_suffix(".runs")
    return len(path.read_text().splitlines()) if path.exists() else 0


class Watcher:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.finished: list[str] = []
        self.started_names: list[str] = []
        self.ended_stages: dict[str, str] = {}
        self.seen: set[tuple[str, str, float]] = set()
        self.notes: list[str] = []

    def begin(self, total: int, finished: Sequence[Unit]) -> None:
        self.finished = [unit.name for unit in finished]

    def started(self, unit: Unit) -> None:
        self.started_names.append(unit.name)

    def ended(self, unit: Unit, state: State) -> None:
        self.ended_stages[unit.name] = state.stage.value

    def tick(self, running: Sequence[tuple[Unit, str, float]]) -> None:
        self.seen |= {(unit.name, what, share) for unit, what, share in running}

    def note(self, text: str) -> None:
        self.notes.append(text)
