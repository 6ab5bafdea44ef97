"""A running 3dmod: started, told to save and to reload, and ended without losing the user's work."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from imod_bridge.binary import walk
from imod_bridge.errors import ModelFormatError, SessionBlockedError, SessionEndedError, SessionError
from imod_bridge.programs import find_program, signature, stop_group, was_written
from imod_bridge.protocol import MAX_LINE_BYTES, Conversation

_MAX_IMAGE_PATH_BYTES = 200
_POLL_S = 0.01
#: A model that 3dmod has just written may be a moment late on a network file system, s.
_SETTLING_S = 1.0
_OBJECT_TYPES = {"closed": 0, "open": 1, "scattered": 2}
_SYMBOLS = {"none": 0, "circle": 1, "square": 2, "triangle": 3}
_UNCHANGED = -1


class Session:
    """A 3dmod of one's own, with an image and a model.

    Used as a context manager it starts 3dmod, and quits it at the end after saving the model. If that cannot be done,
    for example since a dialog is open, 3dmod is left to the user.

    Parameters
    ----------
    image : path
        The image file.
    model : path
        The model file, which need not exist: then 3dmod begins a new one. Links are followed, since 3dmod would replace
        a link by a file.
    options : sequence of str
        More options for 3dmod, such as ``["-B", "2"]``.
    start_timeout_s : float
        How long 3dmod may take to load the image.
    answer_timeout_s : float
        How long it may take for each answer before it counts as blocked.

    Raises
    ------
    SessionError
        The model's name cannot be told to 3dmod, or its folder or the image does not exist.
    """

    def __init__(
        self,
        image: str | os.PathLike[str],
        model: str | os.PathLike[str],
        *,
        options: Sequence[str] = (),
        start_timeout_s: float = 120.0,
        answer_timeout_s: float = 10.0,
    ) -> None:
        self.image = Path(os.path.abspath(image))
        self.model_path = Path(os.path.realpath(model))
        self.options = tuple(options)
        self.start_timeout_s, self.answer_timeout_s = start_timeout_s, answer_timeout_s
        self.window_id = 0
        _check_model_name(self.model_path.name)
        if not self.image.is_file():
            raise SessionError(f"there is no image {self.image}")
        if not self.model_path.parent.is_dir():
            raise SessionError(f"the folder of the model, {self.model_path.parent}, does not exist")
        self._process: subprocess.Popen[bytes] | None = None
        self._conversation: Conversation | None = None
        self._links: Path | None = None

    # --- start and end

    def start(self) -> None:
        """Start 3dmod and wait until it has loaded the image.

        Raises
        ------
        ProgramNotFoundError
            No IMOD on this computer.
        SessionError
            3dmod ended at once (`SessionEndedError`), or was not ready in time.
        """
        program = find_program("3dmod")
        if self._process is not None:
            raise SessionError("this session has been started already")
        command = [str(program), "-W", "-L", *self.options, str(self._image_name()), self.model_path.name]
        messages = tempfile.TemporaryFile()
        try:
            # A group of its own: Ctrl-C in the terminal is not meant for 3dmod, which may hold unsaved work.
            self._process = subprocess.Popen(
                command,
                cwd=self.model_path.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            messages.close()
            raise SessionError(f"{program} cannot be started: {error.strerror or error}") from error
        self._conversation = Conversation(self._process, messages, self.answer_timeout_s)
        try:
            self.window_id = self._conversation.wait_until_loaded(self.start_timeout_s)
        except BaseException as error:
            stop_group(self._process, signal.SIGTERM)
            self.wait(_SETTLING_S)
            self.detach()
            if isinstance(error, SessionBlockedError):
                tail = self._conversation.tail()
                raise SessionError(f"3dmod was not ready within {self.start_timeout_s:g} s: {tail}") from None
            raise

    def __enter__(self) -> Session:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(SessionError):
            self.quit()
        self.detach()

    @property
    def is_alive(self) -> bool:
        """Whether 3dmod is running."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until 3dmod has ended, by the user for example; false if it is still running after `timeout_s`."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def quit(self) -> None:
        """Save the model and end 3dmod; nothing happens if it has ended already.

        Raises
        ------
        SessionError
            3dmod did not save, does not answer (`SessionBlockedError`), or asks the user something instead of ending.
            It is never killed: it may hold unsaved work.
        """
        if not self.is_alive:
            return
        with contextlib.suppress(SessionEndedError):
            self.save()
            self.send("4")
            if not self.wait(self.answer_timeout_s):
                raise SessionBlockedError("3dmod does not quit: it probably asks something in a window; answer it")

    def detach(self) -> None:
        """End the conversation and leave 3dmod, if it is running, to the user."""
        if self._conversation is not None:
            self._conversation.close()
        # A 3dmod that goes on may read the image again: then its link stays, for the system to clean up.
        if self._links is not None and not self.is_alive:
            shutil.rmtree(self._links, ignore_errors=True)

    # --- talking

    def send(self, actions: str, *, replies: int = 1, timeout_s: float | None = None) -> tuple[str, ...]:
        """Send one line of actions and wait until it is answered.

        Parameters
        ----------
        actions : str
            Such as ``"6 1"``; numbers and arguments as 3dmod defines them.
        replies : int
            How many answers 3dmod gives: the number of actions 1, 2 and 7 in the line, 1 if there are none.
        timeout_s : float, optional
            `answer_timeout_s` if not given.

        Returns
        -------
        tuple of str
            What else 3dmod wrote meanwhile, such as the report of action 10. An answer to the actions 1, 2 and 7
            does not mean that they are done: see `barrier`.

        Raises
        ------
        SessionBlockedError
            No answer in time, to this line or still to the one before; in the latter case this one was not sent.
        SessionEndedError
            3dmod is not running.
        SessionError
            3dmod answered ``ERROR``.
        ValueError
            A line that the protocol cannot carry.
        """
        return self._talk().send(actions, replies=replies, timeout_s=timeout_s)

    def barrier(self, timeout_s: float | None = None) -> None:
        """Wait until 3dmod has done everything that it was told so far; raises as `send`."""
        self._talk().barrier(timeout_s)

    def settle(self, timeout_s: float | None = None) -> None:
        """Wait for the answer that was given up as 3dmod was blocked, if there is one; raises as `send`."""
        self._talk().settle(timeout_s)

    # --- what 3dmod can do

    def save(self) -> bytes:
        """Have 3dmod save the model, wait until it is done, and give the file's bytes.

        Raises
        ------
        SessionError
            Nothing was written, or the file is not whole; otherwise as `send`.
        """
        before, started = signature(self.model_path), time.time()
        self.send("2")
        self.barrier()
        if not was_written(self.model_path, before, started):
            raise SessionError(
                f"3dmod did not write {self.model_path}. Is the folder writable, and the disk not full? "
                "Or was the model saved under another name?"
            )
        return self._read_whole()

    def reload(self) -> None:
        """Have 3dmod open the model anew, keeping the contrast, and go back to model mode; raises as `send`.

        If the user has changed something since the last save, 3dmod asks what to do with it.
        """
        self.send(f"7 {self.model_path.name} 6 1")
        self.barrier()

    def model_mode(self) -> None:
        """Switch 3dmod to model mode, in which clicks make points; raises as `send`."""
        self.send("6 1")

    def set_object(
        self,
        number: int = 1,
        *,
        kind: str | None = None,
        symbol: str | None = None,
        symbol_size: int | None = None,
        sphere_radius: int | None = None,
        point_limit: int | None = None,
        only_if_empty: bool = True,
    ) -> None:
        """Set how an object is drawn and how clicks go into it; what is not given stays as it is.

        Parameters
        ----------
        number : int
            The object, from 1; 0 is the current one.
        kind : str, optional
            ``"closed"``, ``"open"`` or ``"scattered"``.
        symbol : str, optional
            ``"none"``, ``"circle"``, ``"square"`` or ``"triangle"``.
        symbol_size : int, optional
            In screen pixels.
        sphere_radius : int, optional
            Radius in pixels of the spheres at points without a size of their own.
        point_limit : int, optional
            Number of points after which a new contour begins; 0: none.
        only_if_empty : bool
            Leave an object that has contours alone.

        Raises
        ------
        SessionError
            There is no such object; otherwise as `send`.
        """
        if any(value is not None for value in (kind, symbol, symbol_size, sphere_radius)):
            shape = _UNCHANGED if kind is None else _OBJECT_TYPES[kind]
            sign = _UNCHANGED if symbol is None else _SYMBOLS[symbol]
            sizes = [_UNCHANGED if size is None else size for size in (symbol_size, sphere_radius)]
            self.send(f"{12 if only_if_empty else 11} {number} {shape} {sign} {sizes[0]} {sizes[1]}")
        if point_limit is not None:
            action = 16 if only_if_empty else 15
            self.send(f"{action} {number} {point_limit} {_UNCHANGED} {_UNCHANGED}")

    # --- inside

    def _talk(self) -> Conversation:
        if self._conversation is None:
            raise SessionEndedError("this session has not been started")
        return self._conversation

    def _read_whole(self) -> bytes:
        deadline = time.monotonic() + _SETTLING_S
        while True:
            try:
                data = self.model_path.read_bytes()
                walk(data)
            except (ModelFormatError, FileNotFoundError) as error:
                if time.monotonic() >= deadline:
                    raise SessionError(f"3dmod saved {self.model_path}, but the file is not whole: {error}") from error
                time.sleep(_POLL_S)
            else:
                return data

    def _image_name(self) -> Path:
        """The image under a name that 3dmod can take: its own, or a link in a private folder."""
        name = str(self.image)
        if not re.search(r"\s", name) and len(os.fsencode(name)) <= _MAX_IMAGE_PATH_BYTES:
            return self.image
        self._links = Path(tempfile.mkdtemp(prefix="imod_bridge-"))
        link = self._links / re.sub(r"[^\w.+-]", "_", self.image.name)[-_MAX_IMAGE_PATH_BYTES // 2 :]
        link.symlink_to(self.image)
        return link


def _check_model_name(name: str) -> None:
    """Refuse a model name that would reach 3dmod as something else."""
    if re.search(r"[\s\\]", name) or name.startswith("-"):
        fitting = re.sub(r"[\s\\]+", "_", name).lstrip("-")
        raise SessionError(
            f"3dmod cannot be told the name {name!r}: it must have no blanks or backslashes and not begin with '-'. "
            f"Rename the model, for example to {fitting}"
        )
    if len(f"7 {name} 6 1".encode()) > MAX_LINE_BYTES:
        raise SessionError(f"the name of the model is too long for 3dmod: {name}. Rename it")
