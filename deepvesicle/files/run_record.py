"""The record beside every output: what was run on what, with which result, so that it can be run again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Union

from deepvesicle import __version__
from deepvesicle.errors import BadInputError
from deepvesicle.files.atomic import new_file, sha256_of
from deepvesicle.settings import Settings

PathLike = Union[str, "os.PathLike[str]"]

#: Raised when a field changes its meaning.
FORMAT = 1
#: Libraries that decide results; where TensorFlow comes under another name, that one is found.
_LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-image",
    "mrcfile",
    "imodmodel",
    "csbdeep",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
)


@dataclass(frozen=True)
class FileRecord:
    """A file or folder that a run used or made.

    Parameters
    ----------
    path : str
        Absolute.
    sha256 : str
        Of its content; empty where it was not worked out.
    bytes : int
    """

    path: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: PathLike, *, hashed: bool = True) -> FileRecord:
        """Record a file that exists, or a folder such as a network's.

        The hash of a folder is over the names and hashes of its files.

        Raises
        ------
        BadInputError
            It cannot be read.
        """
        path = Path(path)
        if not path.is_dir():
            digest = sha256_of(path) if hashed else ""
            return cls(str(path.resolve()), digest, path.stat().st_size)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files] if hashed else []
        digest = hashlib.sha256("".join(lines).encode()).hexdigest() if hashed else ""
        return cls(str(path.resolve()), digest, sum(file.stat().st_size for file in files))


@dataclass(frozen=True)
class RunRecord:
    """What was run.

    Parameters
    ----------
    command : str
        Name of the command, ``segment`` and the like.
    argv : tuple of str
        The whole command line: running it again in `folder` repeats the run.
    folder : str
        Working directory, which relative paths in `argv` refer to.
    settings : mapping
        `Settings.to_json()`.
    inputs : mapping of name to FileRecord
        ``tomogram``, ``model`` and what else decided the result.
    outputs : tuple of str
    seed : int, optional
    voxel_nm : float, optional
        The voxel size that was used.
    voxel_source : str
        ``header`` or ``option``.
    started, ended : str
        ISO 8601, UTC.
    warnings : tuple of str
    notes : tuple of str
        What was found out on the way, such as the range of tilts.
    counts : mapping of name to number
        Of the result: vesicles refined, rejected and so on.
    versions : mapping of name to str
    host : mapping of name to str or int
    invert : bool
        The tomogram was read with its contrast turned.
    before : mapping, optional
        The record that this one takes the place of, as JSON: of the segmentation that was corrected.
    """

    command: str
    argv: tuple[str, ...]
    folder: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, FileRecord]
    outputs: tuple[str, ...] = ()
    seed: int | None = None
    voxel_nm: float | None = None
    voxel_source: str = ""
    started: str = ""
    ended: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, str | int] = field(default_factory=dict)
    invert: bool = False
    before: Mapping[str, Any] | None = None

    @classmethod
    def start(
        cls,
        command: str,
        settings: Settings | Mapping[str, Any],
        inputs: Mapping[str, PathLike | FileRecord],
        *,
        argv: Sequence[str] | None = None,
        seed: int | None = None,
        voxel_nm: float | None = None,
        voxel_source: str = "",
        invert: bool = False,
    ) -> RunRecord:
        """Begin a record: hash the inputs (that are not hashed yet), note the time, the versions and the machine.

        Raises
        ------
        BadInputError
            An input cannot be read.
        """
        return cls(
            command=command,
            argv=tuple(sys.argv if argv is None else argv),
            folder=os.getcwd(),
            settings=settings.to_json() if isinstance(settings, Settings) else dict(settings),
            inputs={
                name: item if isinstance(item, FileRecord) else FileRecord.of(item) for name, item in inputs.items()
            },
            seed=seed,
            voxel_nm=voxel_nm,
            voxel_source=voxel_source,
            invert=invert,
            started=_now(),
            versions=program_versions(),
            host=_host(),
        )

    def finished(
        self,
        *,
        outputs: Sequence[PathLike] = (),
        counts: Mapping[str, float] | None = None,
        warnings: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> RunRecord:
        """Give the record with the result and the time of the end."""
        return replace(
            self,
            outputs=tuple(str(Path(path).resolve()) for path in outputs),
            counts=dict(counts or {}),
            warnings=tuple(warnings),
            notes=tuple(notes),
            ended=_now(),
        )

    def following(self, earlier: RunRecord | None) -> RunRecord:
        """Keep the record of the segmentation that was corrected; of several corrections only the last is kept."""
        if earlier is None:
            return self
        return replace(self, before=earlier.before if earlier.command == self.command else earlier.to_json())

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return {"format": FORMAT, **asdict(self)}

    def write(self, path: PathLike, overwrite: bool = False) -> None:
        """Write the record as JSON.

        Raises
        ------
        OutputExistsError, UsageError
            See `deepvesicle.files.atomic.new_file`.
        """
        text = json.dumps(_plain(self.to_json()), indent=2, ensure_ascii=False, allow_nan=False)
        with new_file(path, overwrite=overwrite) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def read_run_record(path: PathLike) -> RunRecord:
    """Read a record.

    Raises
    ------
    BadInputError
        Not a record, or of a newer format.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read", got=error.strerror or str(error)) from error
    except ValueError as error:
        raise BadInputError(f"{path} is not a run record", expected="JSON", got=str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise BadInputError(f"{path} is not a run record of this program", expected=f"format {FORMAT}", got=f"{got}")
    known = {f.name for f in fields(RunRecord)}
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in content.items() if name in known
    }
    try:
        values["inputs"] = {name: FileRecord(**record) for name, record in values["inputs"].items()}
        return RunRecord(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise BadInputError(f"{path} is not a complete run record", got=str(error)) from error


def program_versions() -> dict[str, str]:
    """Versions of this program, Python and the libraries that decide results, without importing them."""
    found = {"deepvesicle": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _host() -> dict[str, str | int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0
    return {"platform": platform.platform(), "machine": platform.machine(), "node": platform.node(), "cores": cores}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """Turn arrays, numbers of NumPy and paths into what JSON knows; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
