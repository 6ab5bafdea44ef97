"""A process per tomogram: a crash, or an end for want of memory, is the end of that one and of no other.

Run as a module it takes the place of itself with the command given, after having seen to it that the process does not
outlive the one that started it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: How often a process is looked at, and how long it may take to tidy up once it is told to end.
_POLL_SECONDS, _GRACE_SECONDS = 0.1, 20.0
_PR_SET_PDEATHSIG = 1
#: The kernel, short of memory, ends this process rather than the one that watches over it.
_OOM_SCORE = "500"


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Parameters
    ----------
    code : int
        Exit code; negative for the signal that ended it.
    seconds : float
    peak_bytes : int
        The most memory that it held.
    """

    code: int
    seconds: float
    peak_bytes: int

    @property
    def died(self) -> bool:
        """Whether something ended the process, rather than the program itself."""
        return self.code < 0 or self.code >= 128

    def describe(self) -> str:
        """How it died, for the user."""
        number = -self.code if self.code < 0 else self.code - 128
        try:
            name = signal.Signals(number).name
        except ValueError:
            return f"the process ended with code {self.code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{hint}"


def run_child(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str],
    keep_open: Sequence[int] = (),
    stop: threading.Event | None = None,
) -> Ending:
    """Run a command to its end, with its output added to a log.

    Parameters
    ----------
    command : sequence of str
    log : Path
    environment : mapping of str to str
        All of its variables.
    keep_open : sequence of int
        File descriptors that it inherits.
    stop : threading.Event, optional
        When it is set, the process is ended; so it is when an exception comes up here, such as KeyboardInterrupt.
    """
    stop = stop or threading.Event()
    wrapper = [sys.executable, "-m", "deepvesicle.batch.child", str(os.getpid())]
    start = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*wrapper, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            pass_fds=tuple(keep_open),
            start_new_session=True,  # Ctrl-C is for us, who end it in order
        )
    try:
        while True:
            identity, status, usage = os.wait4(process.pid, os.WNOHANG)
            if identity:
                process.returncode = os.waitstatus_to_exitcode(status)
                return Ending(process.returncode, time.monotonic() - start, usage.ru_maxrss * 1024)
            if stop.wait(_POLL_SECONDS):
                end(process)
                return Ending(-signal.SIGTERM, time.monotonic() - start, 0)
    except BaseException:
        end(process)
        raise


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: it is asked, then forced."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)


def limited_to(cores: int) -> dict[str, str]:
    """Give the variables of this process, with those that keep a program to so many cores."""
    from deepvesicle.cores import CORES_VARIABLE

    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    return {
        **os.environ,
        **{name: str(cores) for name in (CORES_VARIABLE, *threads)},
        "OPENBLAS_NUM_THREADS": "1",  # as the program itself has it: the fits have threads of their own
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
    }


def _end_with(parent: int) -> None:
    """Have this process ended when its parent is (Linux; the setting outlives `exec`)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


if __name__ == "__main__":
    _end_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
