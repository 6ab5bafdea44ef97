"""Files made in a folder of their own first, then put in their places, all of them or none."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepvesicle.errors import OutputExistsError, UsageError

#: Existing files that a message names.
_NAMED = 3


@contextmanager
def staging(root: Path, files: Sequence[str], folders: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to make files in, which become files of `root` when the block ends without an error.

    A new `root` appears with all its files at once, by one rename. In one that exists only files of these names are
    touched: each is replaced by a rename, and all get back what they were if one of these fails. When the block
    fails, everything is as it was before.

    Parameters
    ----------
    root : Path
        Folder to make, or to add to. Its own folder must exist.
    files : sequence of str
        Relative names of all that may be made; those that are not made in the block stay as they are.
    folders : sequence of str
        Relative names of folders that shall be there in the end.
    overwrite : bool
        Replace files of these names.

    Raises
    ------
    OutputExistsError
        There are such files, and `overwrite` is not set.
    UsageError
        `root` cannot be made or written to.
    """
    check_root(root, files, overwrite=overwrite)
    inside = root.is_dir()
    # In the same folder as the end, so that nothing has to be copied over file systems.
    new = (root if inside else root.parent) / f".deepvesicle-{secrets.token_hex(6)}"
    try:
        new.mkdir()
    except OSError as error:  # of the folder, not of a name that the user has never seen
        raise UsageError(f"cannot make {root}", got=error.strerror or str(error)) from error
    try:
        yield new
        for name in folders:
            (new / name).mkdir(parents=True, exist_ok=True)
        if inside:
            _replace(root, new, files, folders)
        elif root.exists():  # somebody has made it meanwhile
            raise OutputExistsError(f"{root} exists already", remedy="Choose another folder, or add --overwrite")
        else:
            new.rename(root)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_root(root: Path, files: Iterable[str], *, overwrite: bool) -> None:
    """Check that the files can be made; nothing is touched.

    Raises
    ------
    OutputExistsError, UsageError
        See `staging`.
    """
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file", expected="a folder to make or to add to")
    parent = root.resolve().parent
    if not root.is_dir() and not parent.is_dir():
        raise UsageError(f"cannot make {root}: the folder {parent} does not exist", remedy="Create it first")
    existing = root if root.is_dir() else parent
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"cannot make {root}: no permission to write in {existing}")
    there = [name for name in files if os.path.lexists(root / name)]
    if there and not overwrite:
        more = f" and {len(there) - _NAMED} more files" if len(there) > _NAMED else ""
        raise OutputExistsError(
            f"{root} holds {', '.join(there[:_NAMED])}{more} already",
            remedy="Choose another folder, or add --overwrite, which replaces these files and nothing else",
        )


def _replace(root: Path, new: Path, files: Sequence[str], folders: Sequence[str]) -> None:
    """Exchange the files; what was there before is kept aside until all is done."""
    old = new / ".before"
    done: list[str] = []
    made: list[Path] = []
    try:
        for name in [*folders, *{str(Path(name).parent) for name in files}]:
            folder = root / name
            if not folder.is_dir():
                folder.mkdir(parents=True)
                made.append(folder)
        for name in files:
            if not os.path.lexists(new / name):
                continue
            done.append(name)
            if os.path.lexists(root / name):
                (old / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(root / name, old / name)
            os.replace(new / name, root / name)
    except BaseException:
        for name in reversed(done):
            if os.path.lexists(old / name):
                os.replace(old / name, root / name)
            elif not os.path.lexists(new / name):
                (root / name).unlink(missing_ok=True)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
