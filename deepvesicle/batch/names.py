"""Which tomograms are meant, and a name for each of them that no other one has."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from deepvesicle.errors import BadInputError, UsageError

_PLACEHOLDER = re.compile(r"\{(.*?)\}")
#: What a folder's name is made of; everything else becomes a hyphen, so that names need no quotes anywhere.
_UNSAFE = re.compile(r"[^\w.+-]+")


def find_tomograms(patterns: Sequence[str], output: Path) -> list[Path]:
    """Files that names and patterns stand for, each once, as absolute paths.

    Parameters
    ----------
    patterns : sequence of str
        Paths, or patterns such as ``tomos/*.mrc`` and ``tomos/**/*.rec``.
    output : Path
        The folder of the results: files in it are no input.

    Raises
    ------
    BadInputError
        A path or pattern stands for nothing, or for a folder.
    """
    found: dict[str, Path] = {}
    inside = output.resolve()
    for pattern in patterns:
        matches = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        paths = [Path(os.path.abspath(match)) for match in sorted(matches, key=_natural)]
        if len(matches) == 1 and paths[0].is_dir():
            raise BadInputError(f"{pattern} is a folder", expected=f"tomograms, such as '{pattern.rstrip('/')}/*.mrc'")
        paths = [path for path in paths if not path.is_dir() and inside not in path.resolve().parents]
        if not paths:
            raise BadInputError(f"there is no tomogram {pattern}", expected="files, or a pattern such as 'tomos/*.mrc'")
        for path in paths:
            found.setdefault(str(path.resolve()), path)
    return list(found.values())


def unique_names(paths: Sequence[Path], stem_of: Callable[[Path], str], taken: Iterable[str] = ()) -> dict[Path, str]:
    """Name each tomogram: by its stem where that is unique, else with its folder, its ending or a hash in addition.

    Parameters
    ----------
    paths : sequence of Path
        Absolute.
    stem_of : callable
        Gives a path's name without the endings of tomograms.
    taken : iterable of str
        Names that others have.
    """
    ways: tuple[Callable[[Path], str], ...] = (
        stem_of,
        lambda path: f"{path.parent.name}_{stem_of(path)}",
        lambda path: path.name,
        lambda path: f"{stem_of(path)}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}",
    )
    names: dict[Path, str] = {}
    # Some file systems take upper and lower case for the same.
    used = {name.casefold() for name in taken}
    for way in ways:
        proposed = {path: _safe(way(path)) for path in paths if path not in names}
        frequency = Counter(name.casefold() for name in proposed.values())
        for path, name in proposed.items():
            if frequency[name.casefold()] == 1 and name.casefold() not in used:
                names[path] = name
        used |= {name.casefold() for name in names.values()}
    return {path: names[path] for path in paths}


def mask_of(pattern: str, tomogram: Path, stem: str) -> Path:
    """The outline that belongs to a tomogram.

    Parameters
    ----------
    pattern : str
        A path in which ``{stem}`` stands for the tomogram's name without its endings. One that is not absolute is
        looked for beside the tomogram, then from the current folder.
    tomogram : Path
        Absolute.
    stem : str

    Raises
    ------
    UsageError
        Another word in braces.
    """
    unknown = [word for word in _PLACEHOLDER.findall(pattern) if word != "stem"]
    if unknown:
        raise UsageError(f"--mask {pattern} has an unknown {{{unknown[0]}}}", expected="{stem} alone")
    name = pattern.replace("{stem}", stem)
    beside = tomogram.parent / name
    return beside if beside.exists() or not os.path.exists(name) else Path(os.path.abspath(name))


def known_names(
    earlier: Mapping[str, str], paths: Sequence[Path], stem_of: Callable[[Path], str], taken: Iterable[str] = ()
) -> dict[Path, str]:
    """Names as an earlier run of the batch gave them, and new ones for what is new.

    Parameters
    ----------
    earlier : mapping of str to str
        Name of each tomogram's path.
    paths, stem_of, taken
        As for `unique_names`.
    """
    old = {path: earlier[str(path)] for path in paths if str(path) in earlier}
    new = unique_names([path for path in paths if path not in old], stem_of, [*earlier.values(), *taken])
    return {path: old.get(path) or new[path] for path in paths}


def _safe(name: str) -> str:
    """A name for a folder: not hidden, and without anything a shell or a batch system would take for its own."""
    return _UNSAFE.sub("-", name).lstrip(".-") or "tomogram"


def _natural(text: str) -> list[tuple[int, str]]:
    """Order in which tomo_2 stands before tomo_10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]
