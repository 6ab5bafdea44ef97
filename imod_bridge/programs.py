"""IMOD's programs: found, run without a shell, and not believed before what they were to write is there.

IMOD's programs report a failure as a line that starts with ``ERROR:``, with an exit status other than 0, or with both;
either one counts here. Source: IMOD's guide to its parameter input (PIP).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imod_bridge.errors import ProgramError, ProgramNotFoundError

#: What a file looks like from outside: time of the last change (ns), size, number on the disk. None: no such file.
Signature = tuple[int, int, int] | None
#: File systems round times, to 2 s at worst: a file this young may have been written again without a sign of it, s.
_COARSE_TIME_S = 3.0
_LAST_LINES = 3


def find_program(name: str) -> Path:
    """Where an IMOD program is: in ``$IMOD_DIR/bin``, or else where PATH leads.

    Raises
    ------
    ProgramNotFoundError
        In neither.
    """
    folder = os.environ.get("IMOD_DIR")
    found = (folder and shutil.which(name, path=os.path.join(folder, "bin"))) or shutil.which(name)
    if found:
        return Path(found).absolute()
    where = f"IMOD_DIR ({folder}) has no bin/{name}" if folder else "IMOD_DIR is not set"
    raise ProgramNotFoundError(
        f"IMOD not found: {where}, and {name} is not in PATH. Install IMOD, or source its start-up file "
        "(IMOD-linux.sh) in this shell, or set IMOD_DIR to its folder"
    )


def run_program(
    name: str,
    arguments: Sequence[str | os.PathLike[str]] = (),
    *,
    outputs: Sequence[str | os.PathLike[str]] = (),
    cwd: str | os.PathLike[str] | None = None,
    input_text: str | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run an IMOD program to its end and check that it did what it was to do.

    Parameters
    ----------
    name : str
        The program, as `find_program` takes it.
    arguments : sequence of str or path
        Passed on as they are; no shell sees them.
    outputs : sequence of path
        Files that the program must write, relative to `cwd`.
    cwd : path, optional
        The folder to run it in.
    input_text : str, optional
        What it reads from its standard input, such as the lines after ``-StandardInput``; nothing if not given.
    timeout_s : float, optional
        The program is killed after this time.

    Returns
    -------
    str
        Its standard output.

    Raises
    ------
    ProgramNotFoundError
        As `find_program`.
    ProgramError
        A line ``ERROR:``, an exit status other than 0, an output that was not written, or the time was up.
    """
    command = [str(find_program(name)), *(os.fspath(argument) for argument in arguments)]
    paths = [Path(cwd or ".") / output for output in outputs]
    before, started = [signature(path) for path in paths], time.time()
    status, output, errors = _run(command, cwd, input_text, timeout_s)
    complaint = next((line for line in (output + "\n" + errors).splitlines() if line.lstrip().startswith("ERROR:")), "")
    if complaint or status != 0:
        last_lines = " / ".join((errors or output).strip().splitlines()[-_LAST_LINES:])
        said = complaint.strip() or last_lines or "it said nothing"
        raise _failure(command, f"{name} failed with exit status {status}: {said}", status)
    for path, old in zip(paths, before, strict=True):
        if not was_written(path, old, started):
            state = "is as it was before" if path.exists() else "does not exist"
            raise _failure(command, f"{name} ended without an error, but {path} {state}", status)
    return output


def signature(path: str | os.PathLike[str]) -> Signature:
    """What tells a file from the same file after it was written again; None if there is no such file."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


def was_written(path: str | os.PathLike[str], before: Signature, started: float) -> bool:
    """Whether a file was written after its signature `before` was taken, at the time `started` (s since the epoch).

    A file that was there already and looks the same counts as written only if it is too young to tell.
    """
    now = signature(path)
    if now is None:
        return False
    return now != before or now[0] * 1e-9 > started - _COARSE_TIME_S


def stop_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Send a signal to a process that leads its own group, and to what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _run(
    command: list[str], cwd: str | os.PathLike[str] | None, input_text: str | None, timeout_s: float | None
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.PIPE if input_text is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise _failure(command, f"{command[0]} cannot be started: {error.strerror or error}", None) from error
    try:
        output, errors = process.communicate(input_text, timeout_s)
    except subprocess.TimeoutExpired:
        stop_group(process, signal.SIGKILL)
        process.communicate()
        raise _failure(command, f"{Path(command[0]).name} was stopped: not done after {timeout_s:g} s", None) from None
    except BaseException:  # the user stops the wait: the program must not go on unseen
        stop_group(process, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, output, errors


def _failure(command: list[str], message: str, status: int | None) -> ProgramError:
    return ProgramError(f"{' '.join(message.split())} ({shlex.join(command)})", command=command, exit_code=status)
