"""Output files that are there in full or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepvesicle.errors import BadInputError, OutputExistsError, UsageError


@contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` when the block ends without an error.

    The temporary file lies in the same folder, so the last step is one atomic rename; its name begins with a dot and
    keeps the suffixes of `path`, since writers choose formats by them. When the block fails, the temporary file is
    removed and an older `path` stays as it was.

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
    """
    path = check_output(path, overwrite=overwrite)
    # A link is followed: the user's link stays, and the file it points to is replaced.
    target = path.resolve() if path.is_symlink() else path
    made_folder = _make_folder(target.parent)
    temporary = target.parent / f".{secrets.token_hex(6)}{''.join(target.suffixes[-2:])}"
    try:
        yield temporary
        if not temporary.is_file():
            raise RuntimeError(f"nothing was written to {temporary} for {path}")
        _sync(temporary)
        check_output(path, overwrite=overwrite)  # somebody may have made it meanwhile
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if made_folder:
            with contextlib.suppress(OSError):
                target.parent.rmdir()
        raise
    _sync(target.parent)


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


def _make_folder(folder: Path) -> bool:
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


def _sync(path: Path) -> None:
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
