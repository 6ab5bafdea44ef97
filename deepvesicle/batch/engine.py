"""What an engine is, and the plain one: a tomogram after the other, each in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from deepvesicle.batch.plan import Plan, Resources, Unit
from deepvesicle.batch.state import State
from deepvesicle.batch.work import perform

#: How often those who wait are told that time has passed.
TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Event:
    """What happened.

    Parameters
    ----------
    unit : Unit, optional
        None: nothing but that time has passed.
    state : State, optional
        With which the unit ended; None if it began.
    note : str
        What the user should know, such as that workers are waited for.
    """

    unit: Unit | None = None
    state: State | None = None
    note: str = ""


class Engine(Protocol):
    """Carries out the work."""

    def events(self, plan: Plan, units: Sequence[Unit], run: str, overwrite: bool) -> Iterator[Event]:
        """Work on all units, and tell what happens; closing the iterator ends the work in order."""
        ...


@dataclass(frozen=True)
class OneByOne:
    """One tomogram after the other, on this machine.

    Parameters
    ----------
    cores : int
        For each; 0 for all that this process may use.
    """

    cores: int = 0

    def events(self, plan: Plan, units: Sequence[Unit], run: str, overwrite: bool) -> Iterator[Event]:
        """See `Engine`."""
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as pool:
            try:
                for unit in units:
                    resources = Resources(self.cores)
                    future = pool.submit(perform, plan, unit, run, resources=resources, overwrite=overwrite, stop=stop)
                    yield Event(unit)
                    while not wait([future], timeout=TICK_SECONDS).done:
                        yield Event()
                    yield Event(unit, future.result())
            finally:
                stop.set()
