"""What commands say while they work: to stderr, with colours and a moving bar only where there is a terminal.

Results go to stdout with plain `print`. Rich honours NO_COLOR by itself, and is imported only when it is used.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: Without a terminal, a line is written at every such share of the work, but not more often than this.
_LINE_SHARE, _LINE_SECONDS = 0.1, 5.0


def has_terminal() -> bool:
    """Whether stderr is a terminal that can show a moving bar."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def console() -> Console:
    """Give a rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Write one line of what is being done."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Write one line of what the user should look at."""
    text = f"warning: {' '.join(message.split())}"
    if has_terminal():
        console().print(text, style="yellow", markup=False, soft_wrap=True)
    else:
        say(text)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a piece of work is.

    Parameters
    ----------
    description : str
        What is being done, a few words.
    total : int
        Number of steps.

    Yields
    ------
    callable
        To be called with the number of steps done since the last call.
    """
    if has_terminal():
        with _bar(description, total) as advance:
            yield advance
    else:
        yield _Lines(description, total)


@contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(description, total=total)

        def advance(steps: int = 1) -> None:
            bar.advance(task, steps)

        yield advance


class _Lines:
    """Progress as lines, for logs."""

    def __init__(self, description: str, total: int) -> None:
        self._description, self._total = description, max(1, total)
        self._done, self._said_share = 0, 0.0
        self._said_time = time.monotonic()
        say(f"{description} ...")

    def __call__(self, steps: int = 1) -> None:
        self._done += steps
        share, now = self._done / self._total, time.monotonic()
        rested = now - self._said_time >= _LINE_SECONDS
        if share - self._said_share >= _LINE_SHARE and rested and share < 1:
            say(f"{self._description}: {share:.0%}")
            self._said_share, self._said_time = share, now
