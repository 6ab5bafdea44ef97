"""Steps that `imod_bridge.loop` is made of: looking at a user's model file, and exchanging it without losing a save."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np

from imod_bridge.binary import is_ascii, read_file, walk, write_atomically
from imod_bridge.errors import LoopError, ModelFormatError
from imod_bridge.model import Contour, Model, Object, decode_model

#: How long 3dmod may take to write a model, s.
_WRITING_S = 10.0
_POLL_S = 0.01


def decode(path: Path, data: bytes) -> Model:
    """As `decode_model`, with the file's name in the error."""
    try:
        return decode_model(data)
    except ModelFormatError as error:
        raise ModelFormatError(f"{path} is not a whole IMOD model: {error}") from error


def read(path: Path) -> bytes:
    """As `read_file`, with the file's name in the error."""
    try:
        return read_file(path)
    except ModelFormatError as error:
        raise ModelFormatError(f"{path} is not a whole IMOD model: {error}") from error


def backup_of(path: Path) -> Path:
    """Where the backup of a file is: beside it, with ``~``."""
    target = Path(os.path.realpath(path))
    return target.with_name(target.name + "~")


def contains(path: Path, data: bytes) -> bool:
    """Whether a file holds just these bytes."""
    try:
        return path.read_bytes() == data
    except FileNotFoundError:  # 3dmod renames the old file before it writes the new one
        return False


def read_when_whole(path: Path) -> bytes:
    """The bytes of a model file that somebody may just be writing.

    Raises
    ------
    LoopError
        It does not become whole.
    """
    deadline = time.monotonic() + _WRITING_S
    while True:
        try:
            data = path.read_bytes()
            if not is_ascii(data):
                walk(data)
        except (ModelFormatError, FileNotFoundError) as error:
            if time.monotonic() >= deadline:
                raise LoopError(f"another program writes {path} and does not come to an end: {error}") from None
            time.sleep(_POLL_S)
        else:
            return data


def swap(path: Path, before: bytes, after: bytes) -> bool:
    """Replace the content `before` of a model file by `after`, unless somebody else has written it meanwhile.

    The file is whole at every moment, and what is replaced is kept as backup. A save by 3dmod that falls between the
    check and the replacement ends up in the backup, and is put back.

    Returns
    -------
    bool
        False if the file had changed: it then holds what the other one wrote.

    Raises
    ------
    LoopError
        Such a save does not come to its end.
    OSError
        The file cannot be read or written.
    """
    if not contains(path, before):
        return False
    write_atomically(path, after, backup=True)
    replaced = read_when_whole(backup_of(path))
    if replaced == before:
        return True
    write_atomically(path, replaced)
    return False


def holds(model: Model, objects: tuple[Object, ...]) -> bool:
    """Whether a model has all points and sizes of some objects, under their names; it may have more."""
    for item in objects:
        there = [_key(contour) for other in model.objects if other.name == item.name for contour in other.contours]
        for contour in item.contours:
            if len(contour.points) and _key(contour) not in there:
                return False
            if len(contour.points):
                there.remove(_key(contour))
    return True


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until the block is done; pressed twice, it does not wait."""
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            usual(number, frame)
        pressed = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if pressed:
        raise KeyboardInterrupt


def describe(error: Exception) -> str:
    """One line for the user about an error."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # The messages of Python's own exceptions do not stand alone.
    return f"{type(error).__name__}: {text}" if type(error).__module__ == "builtins" or not text else text


def _key(contour: Contour) -> bytes:
    sizes = b"" if contour.sizes is None else contour.sizes.astype(np.float32).tobytes()
    return contour.points.astype(np.float32).tobytes() + b"/" + sizes
