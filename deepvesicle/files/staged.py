"""Several output files that belong together: all of them are made first, then all get their names."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deepvesicle.errors import OutputExistsError
from deepvesicle.files.atomic import (
    check_output,
    make_folder,
    no_space_told,
    remove_leftovers,
    sync,
    temporary_beside,
)


class StagedFiles:
    """Places to write files to; see `staged_files`."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._finals = dict(paths)
        # A link is followed: the user's link stays, and the file it points to is replaced.
        self._targets = {key: path.resolve() if path.is_symlink() else path for key, path in paths.items()}
        self._temporaries = {key: temporary_beside(target) for key, target in self._targets.items()}

    @contextmanager
    def place(self, key: str) -> Iterator[Path]:
        """Where to write a file; an error in the block that says that the disk is full names the file to be."""
        with no_space_told(self._finals[key]):
            yield self._temporaries[key]
            sync(self._temporaries[key])

    def commit(self, overwrite: bool) -> None:
        """Give all files that were made their names, in their order."""
        made = [key for key, path in self._temporaries.items() if path.exists()]
        check_outputs(list(self._finals.values()), overwrite=overwrite)  # somebody may have made one meanwhile
        journal = _journal_of(list(self._finals.values()))
        new = [self._finals[key].name for key in made if not self._finals[key].exists()]
        with no_space_told(journal), open(journal, "w", encoding="utf-8") as file:
            json.dump(new, file)
        try:
            sync(journal)
            for key in made:
                os.replace(self._temporaries[key], self._targets[key])
            for folder in {self._targets[key].parent for key in made}:
                sync(folder)
        finally:
            journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what was made and has no name yet."""
        for path in self._temporaries.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextmanager
def staged_files(paths: Mapping[str, Path], *, overwrite: bool = False) -> Iterator[StagedFiles]:
    """Make several files that get their names, one directly after the other, when the block ends without an error.

    Otherwise none is there, and older files stay as they were. A process that is killed leaves nothing but temporary
    files, which the next one in that folder removes.

    Parameters
    ----------
    paths : mapping of str to Path
        The files, in one folder or several, in the order in which they get their names. A folder is created if only the
        last level is missing.
    overwrite : bool
        Replace files that exist.

    Yields
    ------
    StagedFiles
        Those that are not written in the block are not made.

    Raises
    ------
    OutputExistsError
        A file exists and `overwrite` is false.
    UsageError
        A folder cannot be made or written to.
    NoSpaceError
        The disk is full.
    """
    check_outputs(list(paths.values()), overwrite=overwrite)
    folders = list(dict.fromkeys((path.resolve() if path.is_symlink() else path).parent for path in paths.values()))
    made = [folder for folder in folders if make_folder(folder)]
    try:
        for folder in folders:
            remove_leftovers(folder)
        staged = StagedFiles(paths)
        try:
            yield staged
            staged.commit(overwrite)
        finally:
            staged.discard()
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def check_outputs(paths: Sequence[Path], *, overwrite: bool = False) -> None:
    """Check that files can be made, before the work that leads to them; nothing is created.

    Files that a process gave their names to, and was killed before it came to the last of them, do not count as
    existing.

    Parameters
    ----------
    paths : sequence of Path
        As for `staged_files`.
    overwrite : bool
        Replace files that exist.

    Raises
    ------
    OutputExistsError, UsageError
    """
    unfinished = _unfinished(paths)
    existing = [path for path in paths if path.exists() and path not in unfinished]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise OutputExistsError(
            f"{existing[0]}{more} exists already", remedy="Give --overwrite to replace, or another place with -o"
        )
    for path in paths:
        check_output(path, overwrite=overwrite or path in unfinished)


def _journal_of(paths: Sequence[Path]) -> Path:
    """Holds the names that are being given, while they are, for the case that the process is killed."""
    return paths[-1].with_name(f".{paths[-1].name}.unfinished")


def _unfinished(paths: Sequence[Path]) -> list[Path]:
    """Which of some files are there although their set is not complete, and have not been touched since."""
    if not paths or paths[-1].exists():
        return []
    journal = _journal_of(paths)
    try:
        names, written = json.loads(journal.read_text(encoding="utf-8")), journal.stat().st_mtime
    except (OSError, ValueError):
        return []
    return [p for p in paths if p.name in names and p.exists() and p.stat().st_mtime <= written]
