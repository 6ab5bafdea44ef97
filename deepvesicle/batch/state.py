"""How far a unit is, kept in a small file in its folder: whoever works on it writes it, everybody may read it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any

from deepvesicle.files.atomic import new_file, sha256_of

STATE_NAME = "state.json"
LOCK_NAME = ".lock"
#: How long to wait for another process that is about to end; one at work holds the lock for longer.
LOCK_SECONDS = 45.0


class Stage(str, Enum):
    """How far a unit is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Print:
    """What a file was like: enough to see, mostly without reading it, whether it has changed.

    Parameters
    ----------
    bytes, mtime_ns : int
    sha256 : str
    """

    bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path, known: Print | None = None) -> Print:
        """Take a file's print; its content is read unless size and time are those of `known`.

        Raises
        ------
        BadInputError, OSError
            It cannot be read.
        """
        status = path.stat()
        if known is not None and (known.bytes, known.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return known
        return cls(status.st_size, status.st_mtime_ns, sha256_of(path))


@dataclass(frozen=True)
class State:
    """How far a unit is, and what came of it.

    Parameters
    ----------
    stage : Stage
    run : str
        The run of the batch that it was last worked on in.
    attempts : int
        In that run.
    error : str
        Why it failed, one line.
    deaths : tuple of str
        How the processes of that run that died did so.
    started, ended : str
        ISO 8601, UTC; of the last attempt.
    seconds : float
        From start to end.
    host : str
    peak_bytes : int
        The most memory that the process held.
    counts : mapping of str to float
        Of the result, from its run record.
    warnings, notes : tuple of str
    inputs, outputs : mapping of str to Print
        The files it was made of (``tomogram``, ``mask``), and those that were made, by name.
    """

    stage: Stage = Stage.WAITING
    run: str = ""
    attempts: int = 0
    error: str = ""
    deaths: tuple[str, ...] = ()
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    host: str = ""
    peak_bytes: int = 0
    counts: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    inputs: Mapping[str, Print] = field(default_factory=dict)
    outputs: Mapping[str, Print] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return {**asdict(self), "stage": self.stage.value}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> State:
        """Read what `to_json` gave.

        Raises
        ------
        KeyError, TypeError, ValueError
            It is something else.
        """
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in content.items() if name in known
        }
        values["stage"] = Stage(values["stage"])
        for group in ("inputs", "outputs"):
            values[group] = {name: Print(**item) for name, item in values.get(group, {}).items()}
        return cls(**values)

    @property
    def vesicles(self) -> int:
        """How many were found."""
        return int(self.counts.get("refined", 0) + self.counts.get("doubtful", 0) + self.counts.get("manual", 0))


def read_state(folder: Path) -> State:
    """Read the state in a unit's folder; one that is missing or damaged is that of a unit that waits."""
    try:
        return State.from_json(json.loads((folder / STATE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()


def write_state(folder: Path, state: State) -> State:
    """Write the state in a unit's folder, and give it back."""
    with new_file(folder / STATE_NAME, overwrite=True) as temporary:
        temporary.write_text(json.dumps(state.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return state


@contextmanager
def locked(folder: Path, wait_seconds: float = LOCK_SECONDS) -> Iterator[int | None]:
    """Keep other processes, on whichever machine, from working on a unit at the same time.

    Yields
    ------
    int or None
        A file descriptor that holds the lock while any process has it open (a child may inherit it); None where
        another process has the lock and kept it all the time that was waited.
    """
    handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield handle if _lock(handle, wait_seconds) else None
    finally:
        os.close(handle)


def _lock(handle: int, wait_seconds: float) -> bool:
    end = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.2)
        except OSError:  # a file system without locks
            return True


def utc_now() -> str:
    """The time as ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def print_of(path: Path, known: Print | None = None) -> Print | None:
    """As `Print.of`, or None for a file that cannot be read."""
    from deepvesicle.errors import BadInputError

    with suppress(OSError, BadInputError):
        return Print.of(path, known)
    return None
