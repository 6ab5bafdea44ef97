"""The line protocol of a running 3dmod (``3dmod -W -L``), of IMOD 4.8 and later.

One line of blank-separated actions at a time goes to 3dmod's standard input; it answers ``OK`` or ``ERROR`` a line on
standard error. The traps, which `Conversation` keeps from its users:

- opening and saving a model are answered *before* they are done. A query behind them, whose report comes only when
  3dmod gets to it, tells when they are;
- a line that is sent before the last one was answered waits until yet another one comes;
- while 3dmod shows a dialog it answers nothing. An answer that was given up comes later, and must not be taken for the
  answer to the next line;
- while 3dmod loads the image it answers at once, and does the work later;
- lines over 255 bytes are cut in two, and an empty line ends the conversation for good.

3dmod's messages go to a file, not to a pipe: if this process is killed, a pipe would break and take 3dmod, with the
user's unsaved work, along.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import IO

from imod_bridge.errors import SessionBlockedError, SessionEndedError, SessionError

MAX_LINE_BYTES = 254  # with the line end, 255
_POLL_S = 0.01
_LAST_LINES = 3
_QUERY = "10"
_REPORTS = ("Rubberband:", "ERROR:")  # to that query
_WINDOW_ID = re.compile(r"Window id = (\d+)")


@dataclass
class _Expected:
    """The answers that are still due to the line that was sent last."""

    replies: int
    #: A report comes before the reply: replies before it belong to earlier lines.
    after_report: bool = False
    refused: bool = False
    said: list[str] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Count a line that 3dmod wrote; true when nothing more is due."""
        if line not in ("OK", "ERROR"):
            self.said.append(line)
            self.after_report &= not line.startswith(_REPORTS)
            return False
        if self.after_report:
            return False
        self.refused |= line == "ERROR"
        self.replies -= 1
        return self.refused or self.replies <= 0


class Conversation:
    """The exchange of lines with one 3dmod.

    Parameters
    ----------
    process : Popen
        The running 3dmod, its standard input a pipe.
    messages : binary file
        What its standard error goes to. Closed together with the conversation.
    answer_timeout_s : float
        How long 3dmod may take for each answer before it counts as blocked.
    """

    def __init__(self, process: subprocess.Popen[bytes], messages: IO[bytes], answer_timeout_s: float) -> None:
        self._process, self._messages, self._answer_timeout_s = process, messages, answer_timeout_s
        self._read_bytes = 0
        self._partial = b""
        self._lines: deque[str] = deque()
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._expected: _Expected | None = None
        self._lock = threading.Lock()

    def send(self, actions: str, *, replies: int = 1, timeout_s: float | None = None) -> tuple[str, ...]:
        """Send one line of actions and wait until it is answered; as `imod_bridge.session.Session.send`."""
        return self._exchange(actions, _Expected(replies), timeout_s)

    def barrier(self, timeout_s: float | None = None) -> None:
        """Wait until 3dmod has done everything that it was told so far; raises as `send`."""
        self._exchange(_QUERY, _Expected(1, after_report=True), timeout_s)

    def settle(self, timeout_s: float | None = None) -> None:
        """Wait for the answer that was given up as 3dmod was blocked, if there is one; raises as `send`."""
        with self._lock:
            self._settle(self._deadline(timeout_s))

    def wait_until_loaded(self, timeout_s: float) -> int:
        """Wait until a 3dmod that was just started has a window and its image; gives the window's id."""
        deadline = time.monotonic() + timeout_s
        window = None
        while window is None:
            window = _WINDOW_ID.fullmatch(self._next_line(deadline))
        # The answer may come while the image is being loaded, but the report does not.
        said = list(self.send(_QUERY, timeout_s=deadline - time.monotonic()))
        while not any(line.startswith(_REPORTS) for line in said):
            said.append(self._next_line(deadline))
        return int(window.group(1))

    def tail(self) -> str:
        """The last things that 3dmod wrote besides answers."""
        return " / ".join(self._last_lines) or "it said nothing"

    def close(self) -> None:
        """End the conversation; 3dmod may go on without."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._messages.close()

    def _exchange(self, actions: str, expected: _Expected, timeout_s: float | None) -> tuple[str, ...]:
        line = _checked_line(actions)
        with self._lock:
            self._settle(self._deadline(timeout_s))
            self._read_lines()
            self._lines.clear()  # noise, and answers that nobody waits for
            self._expected = expected
            self._write(line)
            self._settle(self._deadline(timeout_s))
        if expected.refused:
            said = " / ".join(expected.said[-_LAST_LINES:]) or "it did not say why"
            raise SessionError(f"3dmod refused {actions!r}: {said}")
        return tuple(expected.said)

    def _settle(self, deadline: float) -> None:
        while self._expected is not None:
            if self._expected.take(self._next_line(deadline)):
                self._expected = None

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self._answer_timeout_s if timeout_s is None else timeout_s)

    def _write(self, line: bytes) -> None:
        try:
            if self._process.stdin is None or self._process.stdin.closed:
                raise BrokenPipeError
            self._process.stdin.write(line)
        except OSError:
            self._expected = None
            raise self._ended() from None

    def _next_line(self, deadline: float) -> str:
        """The next line that 3dmod writes."""
        while True:
            # Asked first: what it wrote before its end is still to be read.
            ended = self._process.poll() is not None or self._messages.closed
            self._read_lines()
            if self._lines:
                return self._lines.popleft()
            if ended:
                raise self._ended()
            if time.monotonic() >= deadline:
                raise SessionBlockedError("3dmod does not answer: it probably asks something in a window; answer it")
            time.sleep(_POLL_S)

    def _read_lines(self) -> None:
        """Take in what 3dmod has written since the last time."""
        if self._messages.closed:
            return
        size = os.fstat(self._messages.fileno()).st_size
        # Not read(): 3dmod writes at the place in the file that it shares with us.
        new = os.pread(self._messages.fileno(), size - self._read_bytes, self._read_bytes)
        self._read_bytes += len(new)
        *lines, self._partial = (self._partial + new).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", errors="replace").strip()
            self._lines.append(text)
            if text not in ("", "OK", "ERROR"):
                self._last_lines.append(text)

    def _ended(self) -> SessionEndedError:
        if self._messages.closed:
            return SessionEndedError("the conversation with 3dmod is over")
        return SessionEndedError(f"3dmod has ended (exit status {self._process.poll()}): {self.tail()}")


def _checked_line(actions: str) -> bytes:
    """A line of actions as it is sent."""
    line = actions.strip().encode()
    if not line or b"\n" in line or b"\r" in line or len(line) > MAX_LINE_BYTES:
        raise ValueError(
            f"a line for 3dmod must have 1 to {MAX_LINE_BYTES} bytes and no line break, got {len(line)}: {actions!r}"
        )
    return line + b"\n"
