"""Running a batch: what is finished is left alone, the rest is given to an engine, and the manifest follows."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from deepvesicle.batch.engine import Engine, Event
from deepvesicle.batch.manifest import Manifest
from deepvesicle.batch.plan import Unit
from deepvesicle.batch.state import Stage, State, locked, read_state, utc_now, write_state
from deepvesicle.batch.work import settled

_SHARE = re.compile(r"(.+?)(?: \.\.\.|: (\d+)%)")
_TAIL_BYTES = 2048


class View(Protocol):
    """Shows how far a batch is."""

    def begin(self, total: int, finished: Sequence[Unit]) -> None:
        """There are so many tomograms, of which these need no work."""

    def started(self, unit: Unit) -> None:
        """A unit is being worked on."""

    def ended(self, unit: Unit, state: State) -> None:
        """A unit has come to its end."""

    def tick(self, running: Sequence[tuple[Unit, str, float]]) -> None:
        """Time has passed: the units that are worked on, each with what is being done and its share (0 to 1)."""

    def note(self, text: str) -> None:
        """Something the user should know."""


def new_run_name() -> str:
    """A name for a run of a batch that no other one has."""
    return f"{utc_now()}-{secrets.token_hex(3)}"


def run_batch(
    manifest: Manifest,
    units: Sequence[Unit],
    engine: Engine,
    view: View,
    *,
    run: str | None = None,
    overwrite: bool = False,
) -> dict[str, State]:
    """Bring units to their end.

    Parameters
    ----------
    manifest : Manifest
        Of all units, `units` among them; it is written whenever something changes.
    units : sequence of Unit
    engine : Engine
        Starts nothing if all is finished.
    view : View
    run : str, optional
        Name of this run.
    overwrite : bool
        See `deepvesicle.batch.work.perform`.

    Returns
    -------
    dict of str to State
        By name; also of the units that were finished before.
    """
    plan, run = manifest.plan, run or new_run_name()
    manifest.read_states()
    ready: dict[str, State] = {}
    for unit in units:
        state = settled(plan, unit, overwrite=overwrite)
        if state is not None:
            ready[unit.name] = state
    manifest.states |= ready
    manifest.write()
    todo = [unit for unit in units if unit.name not in ready]
    view.begin(len(units), [unit for unit in units if unit.name in ready])
    running: dict[str, Unit] = {}
    try:
        if todo:
            events = cast("Generator[Event]", engine.events(plan, todo, run, overwrite))
            with closing(events):
                for event in events:
                    _follow(event, manifest, running, view)
    finally:
        for unit in running.values():
            manifest.states[unit.name] = _stopped(unit.folder(plan), run)
        manifest.write()
    return {unit.name: manifest.states[unit.name] for unit in units}


def _follow(event: Event, manifest: Manifest, running: dict[str, Unit], view: View) -> None:
    unit, state = event.unit, event.state
    if event.note:
        view.note(event.note)
    if unit is None:
        view.tick([(one, *progress_in(one.log(manifest.plan))) for one in running.values()])
        return
    if state is None:
        running[unit.name] = unit
        manifest.states[unit.name] = State(Stage.RUNNING, started=utc_now())
        view.started(unit)
    else:
        running.pop(unit.name, None)
        manifest.states[unit.name] = state
        view.ended(unit, state)
    manifest.write()


def _stopped(folder: Path, run: str) -> State:
    """The state of a unit that was being worked on when the run was stopped."""
    state = read_state(folder)
    if state.run != run or state.stage is not Stage.RUNNING:
        return state
    with contextlib.suppress(OSError), locked(folder, 5.0) as lock:
        state = read_state(folder)
        if lock is not None and state.stage is Stage.RUNNING:
            return write_state(folder, replace(state, stage=Stage.STOPPED, ended=utc_now()))
    return state


def progress_in(log: Path) -> tuple[str, float]:
    """What a unit is doing, and how far it is with that (0 to 1), from the end of its log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "starting", 0.0
    for line in reversed(lines):
        if line.startswith("---"):
            break
        found = _SHARE.fullmatch(line)
        if found:
            return found[1], int(found[2] or 0) / 100
    return "starting", 0.0
