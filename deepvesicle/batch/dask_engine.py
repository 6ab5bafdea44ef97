"""The engine with workers of dask.distributed.

A unit is given to one worker that is there and idle, and to no queue: which units a worker takes down with it, and how
many cores and how much memory are in use, is then known at any time.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepvesicle.batch.clusters import ClusterSpec, Workers, workers_of
from deepvesicle.batch.engine import TICK_SECONDS, Event
from deepvesicle.batch.plan import Plan, Resources, Unit
from deepvesicle.batch.state import Stage, State, read_state
from deepvesicle.batch.work import perform_in_worker, stop_all, why_worn_out, worn_out, write_failure

if TYPE_CHECKING:
    from distributed import Future

#: How often lost workers are replaced, and how long a stop may take.
_REPLACE_SECONDS, _STOP_SECONDS = 5.0, 25.0
#: Without a worker for so long, the user is told; and again after each such time.
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class OnCluster:
    """Several tomograms at the same time, each on a worker of its own.

    Parameters
    ----------
    spec : ClusterSpec
    """

    spec: ClusterSpec

    def events(self, plan: Plan, units: Sequence[Unit], run: str, overwrite: bool) -> Iterator[Event]:
        """See `deepvesicle.batch.engine.Engine`."""
        with workers_of(self.spec, len(units)) as workers:
            yield Event(note=f"workers: {self._describe(workers)}")
            yield from _Dispatch(plan, run, overwrite, workers).events(units)

    def _describe(self, workers: Workers) -> str:
        if workers.cluster is None:
            return f"{len(workers.addresses())} of {self.spec.address}"
        return f"{workers.wanted} of {self.spec.kind}, {workers.cores} cores each"


class _Dispatch:
    """Hands out units, and takes back those whose worker is lost."""

    def __init__(self, plan: Plan, run: str, overwrite: bool, workers: Workers) -> None:
        self._plan, self._run, self._overwrite, self._workers = plan, run, overwrite, workers
        self._busy: dict[str, tuple[Unit, Future]] = {}  # by the worker's address
        self._replaced = self._seen = time.monotonic()
        self._handed_out = 0

    def events(self, units: Sequence[Unit]) -> Iterator[Event]:
        waiting = deque(units)
        try:
            while waiting or self._busy:
                there = self._workers.addresses()
                yield from self._collect(waiting, there)
                for address in there:
                    if waiting and address not in self._busy:
                        unit = waiting.popleft()
                        self._hand_out(unit, address, there)
                        yield Event(unit)
                yield from self._tend(there)
                yield Event()
                time.sleep(TICK_SECONDS)
        finally:
            if self._busy:
                self._stop()

    def _hand_out(self, unit: Unit, address: str, there: Sequence[str]) -> None:
        hosts = Counter(_host(one) for one in there)
        resources = Resources(self._workers.cores, hosts[_host(address)])
        self._handed_out += 1
        future = self._workers.client.submit(
            perform_in_worker,
            self._plan,
            unit,
            self._run,
            resources,
            self._overwrite,
            key=f"{unit.name}-{self._run}-{self._handed_out}",
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self._busy[address] = (unit, future)

    def _collect(self, waiting: deque[Unit], there: Sequence[str]) -> Iterator[Event]:
        """Take what is done from workers, and the units of those that are lost."""
        for address, (unit, future) in list(self._busy.items()):
            if future.status == "finished":
                del self._busy[address]
                yield Event(unit, future.result())
            elif address not in there or future.status in ("lost", "cancelled") or _killed(future):
                del self._busy[address]
                with suppress(Exception):
                    future.cancel(force=True)
                yield from self._lost(unit, waiting)
            elif future.status == "error":
                del self._busy[address]
                error: Any = future.exception()
                state = State(Stage.FAILED, self._run, error=f"internal error: {type(error).__name__}: {error}")
                yield Event(unit, state)

    def _lost(self, unit: Unit, waiting: deque[Unit]) -> Iterator[Event]:
        """Put a unit back in front, unless its workers have died as often as they may."""
        state = read_state(unit.folder(self._plan))
        if worn_out(state, self._run) and state.stage is Stage.RUNNING:
            yield Event(unit, write_failure(self._plan, unit, state, why_worn_out(state)))
            return
        yield Event(note=f"{unit.name}: its worker was lost; it is given to another one")
        waiting.appendleft(unit)

    def _tend(self, there: Sequence[str]) -> Iterator[Event]:
        now = time.monotonic()
        if there:
            self._seen = now
        elif now - self._seen > _PATIENCE_SECONDS:
            self._seen = now
            yield Event(note="no worker is there yet; jobs may wait in a queue, and their logs say if they fail")
        if now - self._replaced > _REPLACE_SECONDS:
            refused = self._workers.replace_lost()
            if refused:
                yield Event(note=f"no new worker: {refused}")
            self._replaced = time.monotonic() + (_PATIENCE_SECONDS if refused else 0.0)

    def _stop(self) -> None:
        """Have the workers end what they work on, so that nothing runs on and no state says that it does."""
        client = self._workers.client
        with suppress(Exception):
            client.run(stop_all, self._run, workers=list(self._busy), on_error="ignore")
            end = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < end and not all(future.done() for _, future in self._busy.values()):
                time.sleep(TICK_SECONDS)


def _killed(future: Future) -> bool:
    """Whether dask itself gave a task up because its workers died."""
    from distributed import KilledWorker

    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _host(address: str) -> str:
    return address.rsplit(":", 1)[0]
