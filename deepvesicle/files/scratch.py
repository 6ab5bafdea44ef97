"""Large arrays on the disk for the time of a run, and whether there is room for them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepvesicle.errors import NoSpaceError
from deepvesicle.files.atomic import no_space_told, temporary_beside
from deepvesicle.memory import in_words

#: What is left free beside what a run needs, bytes.
_RESERVE_BYTES = 20_000_000


@contextmanager
def scratch_array(folder: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
    """Give a memory-mapped array of zeros in a file that is gone when the block ends, however it does.

    The file has no name any more once it is open, so that not even a process that is killed leaves it behind; where
    the system does not know that, it is removed at the end, and by the next run otherwise. The disk's blocks are asked
    for at once: a full disk is told here, not by a crash while the array is written to.

    Parameters
    ----------
    folder : Path
        Where the file is made.
    shape : tuple of int
    dtype : dtype

    Raises
    ------
    NoSpaceError
        The disk has not so much room.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    path = temporary_beside(folder / "scratch.tmp")
    with no_space_told(folder), contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "xb+"))
        stack.callback(_remove, path)
        if os.name == "posix":
            _remove(path)
        _allocate(file.fileno(), size)
        array: NDArray[Any] = np.memmap(file, dtype=dtype, mode="r+", shape=shape)
        yield array


def check_space(folder: Path, needed_bytes: float, what: str) -> None:
    """Refuse to begin where the disk has less room than is needed.

    Parameters
    ----------
    folder : Path
        Of the outputs; where it does not exist, the one that it will be made in.
    needed_bytes : float
    what : str
        What the room is for.

    Raises
    ------
    NoSpaceError
    """
    existing = folder if folder.exists() else folder.parent
    try:
        free = shutil.disk_usage(existing).free
    except OSError:  # a file system that does not tell
        return
    if free < needed_bytes + _RESERVE_BYTES:
        raise NoSpaceError(
            f"there is not enough room on the disk of {folder} for {what}",
            expected=f"{in_words(needed_bytes + _RESERVE_BYTES)}",
            got=f"{in_words(free)} free",
            remedy="Make room, or choose another place with -o",
        )


def _allocate(handle: int, size: int) -> None:
    """Make a file so long, with blocks of its own where the system can do so."""
    try:
        os.posix_fallocate(handle, 0, size)
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", errno.EINVAL) not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        os.truncate(handle, size)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
