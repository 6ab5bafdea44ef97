"""What `deepvesicle batch` shows: how far all tomograms and each of them are, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deepvesicle.commands.console import console, has_terminal, say

if TYPE_CHECKING:
    from deepvesicle.batch.plan import Unit
    from deepvesicle.batch.run import View
    from deepvesicle.batch.state import State

#: Without a terminal, what each tomogram is at is told at such intervals.
_LINE_SECONDS = 30.0


@contextmanager
def batch_view() -> Iterator[View]:
    """Give a moving picture where there is a terminal, else lines."""
    if has_terminal():
        with _bars() as view:
            yield view
    else:
        yield Lines()


class Lines:
    """A line for each thing that happens, for logs."""

    def __init__(self) -> None:
        self._total = self._done = 0
        self._said = time.monotonic()

    def begin(self, total: int, finished: Sequence[Unit]) -> None:
        """See `deepvesicle.batch.run.View`."""
        self._total, self._done = total, len(finished)
        said = f", {len(finished)} of them finished before" if finished else ""
        self.note(f"{total} tomogram{'s' * (total != 1)}{said}")

    def started(self, unit: Unit) -> None:
        """See `deepvesicle.batch.run.View`."""
        self.note(f"{unit.name}: started")

    def ended(self, unit: Unit, state: State) -> None:
        """See `deepvesicle.batch.run.View`."""
        self._done += 1
        self.note(f"[{self._done}/{self._total}] {unit.name}: {result_of(state)}")

    def tick(self, running: Sequence[tuple[Unit, str, float]]) -> None:
        """See `deepvesicle.batch.run.View`."""
        if running and time.monotonic() - self._said >= _LINE_SECONDS:
            self.note("; ".join(f"{unit.name}: {what} {share:.0%}" for unit, what, share in running))

    def note(self, text: str) -> None:
        """See `deepvesicle.batch.run.View`."""
        say(text)
        self._said = time.monotonic()


class _Bars(Lines):
    """A bar for the whole, and one for each tomogram that is worked on."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self._progress = progress
        self._whole = progress.add_task("all tomograms", total=None)
        self._tasks: dict[str, Any] = {}

    def begin(self, total: int, finished: Sequence[Unit]) -> None:
        super().begin(total, finished)
        self._progress.update(self._whole, total=total, completed=len(finished))

    def started(self, unit: Unit) -> None:
        self._forget(unit)
        self._tasks[unit.name] = self._progress.add_task(f"  {unit.name}", total=1.0)

    def ended(self, unit: Unit, state: State) -> None:
        self._forget(unit)
        super().ended(unit, state)
        self._progress.update(self._whole, completed=self._done)

    def tick(self, running: Sequence[tuple[Unit, str, float]]) -> None:
        for unit, what, share in running:
            if unit.name in self._tasks:
                self._progress.update(self._tasks[unit.name], description=f"  {unit.name}: {what}", completed=share)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, soft_wrap=True)

    def _forget(self, unit: Unit) -> None:
        task = self._tasks.pop(unit.name, None)
        if task is not None:
            self._progress.remove_task(task)


@contextmanager
def _bars() -> Iterator[_Bars]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console()) as progress:
        yield _Bars(progress)


def result_of(state: State) -> str:
    """How a unit ended, in a line."""
    from deepvesicle.batch.state import Stage

    if state.stage is not Stage.DONE:
        return f"{state.stage.value}: {state.error}" if state.error else state.stage.value
    words = [f"{state.vesicles} vesicles"]
    if state.vesicles:
        words.append(f"mean radius {state.counts.get('mean_radius_nm', 0):.1f} nm")
    words.append(duration(state.seconds))
    if state.warnings:
        words.append(f"{len(state.warnings)} warning" + "s" * (len(state.warnings) > 1))
    return ", ".join([*words, *state.notes])


def table_lines(units: Sequence[Unit], states: Mapping[str, State], run: str) -> list[str]:
    """The result of a batch as a table, with the warnings and errors below it."""
    from deepvesicle.batch.state import Stage

    rows = [("tomogram", "state", "vesicles", "radius nm", "time", "warnings")]
    below = []
    for unit in units:
        state = states[unit.name]
        stage = state.stage.value
        if state.stage is Stage.DONE:
            stage = "done" if state.run == run else "done before"
            radius = f"{state.counts.get('mean_radius_nm', 0):.1f}" if state.vesicles else "-"
            rows.append((unit.name, stage, str(state.vesicles), radius, duration(state.seconds), _number(state)))
        else:
            rows.append((unit.name, stage, "-", "-", duration(state.seconds) if state.seconds else "-", "-"))
        below += [f"{unit.name}: warning: {text}" for text in state.warnings]
        below += [f"{unit.name}: {text}" for text in state.notes]
        below += [f"{unit.name}: {stage}: {state.error}"] if state.error else []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        left = [text.ljust(width) for text, width in zip(row[:2], widths, strict=False)]
        right = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]))
    return [*lines, *below]


def duration(seconds: float) -> str:
    """A time for people: 42 s, 3:05 min, 1:02 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d} h"


def _number(state: State) -> str:
    return str(len(state.warnings)) if state.warnings else "-"
