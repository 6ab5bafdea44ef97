"""Output files that are there in full or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepvesicle.errors import BadInputError, NoSpaceError, OutputExistsError, UsageError

#: What the system says where there is no more room for a file.
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
#: Names of temporary files: a token, the process that writes, where this runs, and the endings of the file.
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.p(?P<process>\d+)_(?P<place>[0-9a-f]{8})(\..*)?")
#: Those of another machine are left over if nobody has touched them for so long, seconds.
_FORGOTTEN_SECONDS = 24 * 3600.0


@contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` when the block ends without an error.

    The temporary file lies in the same folder, so the last step is one atomic rename; its name begins with a dot and
    keeps the suffixes of `path`, since writers choose formats by them. When the block fails, the temporary file is
    removed and an older `path` stays as it was. What a process that was killed has left in the folder is removed, too.

    Parameters
    ----------
    path : path
        The file to make. Its folder is created if only the last level is missing.
    overwrite : bool
        Replace a file that exists.

    Yields
    ------
    Path
        Where to write. The block must create this file.

    Raises
    ------
    OutputExistsError
        `path` exists and `overwrite` is false.
    UsageError
        The folder is missing or cannot be written to, or `path` is a folder.
    NoSpaceError
        The disk is full.
    """
    path = check_output(path, overwrite=overwrite)
    # A link is followed: the user's link stays, and the file it points to is replaced.
    target = path.resolve() if path.is_symlink() else path
    made_folder = make_folder(target.parent)
    remove_leftovers(target.parent)
    temporary = temporary_beside(target)
    try:
        with no_space_told(path):
            yield temporary
            if not temporary.is_file():
                raise RuntimeError(f"nothing was written to {temporary} for {path}")
            sync(temporary)
            check_output(path, overwrite=overwrite)  # somebody may have made it meanwhile
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if made_folder:
            with contextlib.suppress(OSError):
                target.parent.rmdir()
        raise
    sync(target.parent)


def temporary_beside(target: Path) -> Path:
    """A new name in the folder of a file, with its endings; it tells which process it belongs to."""
    suffixes = "".join(target.suffixes[-2:])
    return target.parent / f".{secrets.token_hex(6)}.p{os.getpid()}_{_place()}{suffixes}"


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that is being written, or was when its process was killed."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files whose process was killed; those of processes that run are left alone."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        with contextlib.suppress(OSError):
            if match and _is_forgotten(folder / name, int(match["process"]), match["place"]):
                (folder / name).unlink()


@contextmanager
def no_space_told(path: Path) -> Iterator[None]:
    """Turn what the system says of a full disk into an error that names a file.

    Raises
    ------
    NoSpaceError
    """
    try:
        yield
    except NoSpaceError as error:  # of a temporary file that was to become this one
        raise NoSpaceError.of(path) from error
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise NoSpaceError.of(path) from error
        raise


def keep_backup(path: str | os.PathLike[str]) -> None:
    """Copy a file to its name with ``~``, as IMOD does, in place of an older copy; nothing where there is no file."""
    path = Path(path)
    if path.is_file():
        with new_file(path.with_name(path.name + "~"), overwrite=True) as temporary:
            shutil.copy2(path, temporary)


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Check that a file can be made at `path`, before the work that leads to it; nothing is created.

    Raises
    ------
    OutputExistsError
        `path` exists and `overwrite` is false.
    UsageError
        `path` is a folder, or its folder is missing by more than one level, is a file or cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"the output {path} is a folder", expected="the name of a file")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists already", remedy="Choose another name, or add --overwrite")
    folder = (path.resolve() if path.is_symlink() else path).parent
    if folder.exists():
        if not folder.is_dir():
            raise UsageError(f"cannot write {path}", expected=f"{folder} to be a folder", got="a file")
        existing = folder
    else:
        existing = folder.parent
        if not existing.is_dir():
            raise UsageError(f"cannot write {path}: the folder {folder} does not exist", remedy="Create it first")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {path}: no permission to write in the folder {existing}")
    return path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises
    ------
    BadInputError
        The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise BadInputError(f"cannot read {path}", got=error.strerror or str(error)) from error
    return digest.hexdigest()


def make_folder(folder: Path) -> bool:
    """Create the last level of a folder; true if it was missing."""
    if folder.is_dir():
        return False
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise UsageError(f"cannot create the folder {folder}", got=error.strerror or str(error)) from error
    return True


def sync(path: Path) -> None:
    """Ask for a file or folder to be on the disk; some file systems refuse this for folders."""
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        if path.is_dir():  # Windows cannot open folders
            return
        raise
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def _is_forgotten(path: Path, process: int, place: str) -> bool:
    """Whether the process that was writing a temporary file is gone."""
    if place != _place() or os.name != "posix":
        return time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    started = _start_of(process)
    # Its number has been given to another process since.
    return started is not None and started > path.stat().st_mtime + 1.0


def _start_of(process: int) -> float | None:
    """When a process was started, seconds since 1970; None where the system does not tell."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:
            uptime = float(file.read().split()[0])
        return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


@functools.lru_cache(maxsize=1)
def _place() -> str:
    """Where numbers of processes mean the same: this machine since it was started, this container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]
