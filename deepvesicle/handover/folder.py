"""Pyto's work folder: what lies where in it, and its parameter file ``common/tomo_info.py``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepvesicle.errors import BadInputError
from deepvesicle.files.atomic import new_file
from deepvesicle.handover.findings import Finding, Severity
from deepvesicle.handover.ids import LabelIds
from deepvesicle.handover.script import Array, Script, read_script

#: Pyto's scripts run inside one of these, and file names in ``tomo_info.py`` are relative to it.
TASKS = ("regions", "vesicles", "layers", "connectors", "cluster")
#: The variables that Pyto's scripts read.
VARIABLES = (
    "image_file_name",
    "labels_file_name",
    "labels_data_type",
    "all_ids",
    "boundary_ids",
    "vesicle_ids",
    "segmentation_region",
    "distance_id",
)
Form = Literal["list", "range", "tuple", "array", "set", "number", "unknown"]
_FORMS: dict[type, Form] = {list: "list", range: "range", Array: "array", tuple: "tuple", set: "set", int: "number"}


@dataclass(frozen=True)
class WorkFolder:
    """The places in a work folder that a hand-over makes.

    Parameters
    ----------
    root : Path
    """

    root: Path

    @property
    def tomogram(self) -> Path:
        """The tomogram, or a link to it."""
        return self.root / "3d" / "tomo.mrc"

    @property
    def labels(self) -> Path:
        """The label volume."""
        return self.root / "3d" / "labels.mrc"

    @property
    def tomo_info(self) -> Path:
        """Pyto's parameters of this tomogram."""
        return self.root / "common" / "tomo_info.py"

    @property
    def table(self) -> Path:
        """The vesicles, whose ids are those of the labels."""
        return self.root / "vesicles.csv"

    @property
    def model(self) -> Path:
        """The same for 3dmod."""
        return self.root / "vesicles.mod"

    @property
    def readme(self) -> Path:
        """What was done, for people."""
        return self.root / "README.txt"

    @property
    def record(self) -> Path:
        """What was done, for programs."""
        return self.root / "run.json"

    @property
    def tasks(self) -> tuple[Path, ...]:
        """Where the user's copies of Pyto's scripts run."""
        return tuple(self.root / name for name in TASKS)


@dataclass(frozen=True)
class TomoInfo:
    """What ``tomo_info.py`` says.

    Parameters
    ----------
    image, labels : Path or None
        The files, as seen from here. None, here and below, where the file says so or says nothing that is understood.
    all_ids, boundary_ids, vesicle_ids : tuple of int or None
        In the order of the file; members of nested lists one by one.
    segmentation_region, distance_id : int or None
    labels_data_type : str or None
        None for MRC.
    vesicle_ids_form : str
        How `vesicle_ids` is written: Pyto needs a list.
    problems : tuple of Finding
        What is missing or not understood.
    unknown : frozenset of str
        The variables that this is about.
    """

    image: Path | None
    labels: Path | None
    all_ids: tuple[int, ...] | None
    boundary_ids: tuple[int, ...] | None
    vesicle_ids: tuple[int, ...] | None
    segmentation_region: int | None
    distance_id: int | None
    labels_data_type: str | None = None
    vesicle_ids_form: Form = "list"
    problems: tuple[Finding, ...] = ()
    unknown: frozenset[str] = frozenset()

    @classmethod
    def of(cls, image: Path, labels: Path, ids: LabelIds, vesicle_ids: Sequence[int]) -> TomoInfo:
        """What belongs to a label volume that holds the cytosol, the membrane and these vesicles."""
        vesicles = tuple(sorted(int(number) for number in vesicle_ids))
        membrane = () if ids.membrane is None else (ids.membrane,)
        return cls(
            image=image,
            labels=labels,
            all_ids=tuple(sorted((*ids.others, *vesicles))),
            boundary_ids=(*membrane, *vesicles),
            vesicle_ids=vesicles,
            segmentation_region=ids.cytosol,
            distance_id=ids.membrane,
        )


def root_of(tomo_info: Path) -> Path:
    """The work folder that a ``common/tomo_info.py`` belongs to."""
    return tomo_info.parent.parent


def write_tomo_info(path: str | os.PathLike[str], info: TomoInfo, *, overwrite: bool = False) -> None:
    """Write Pyto's parameter file.

    Parameters
    ----------
    path : path
        ``WORKDIR/common/tomo_info.py``.
    info : TomoInfo
        Its files are named relative to a task's folder of the same work folder.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    path = Path(path)
    root = root_of(path)
    text = _TEMPLATE.format(
        image=repr(_from_task(info.image, root)),
        labels=repr(_from_task(info.labels, root)),
        data_type=repr(info.labels_data_type),
        all_ids=_list_text("all_ids", info.all_ids),
        boundary_ids=_list_text("boundary_ids", info.boundary_ids),
        vesicle_ids=_list_text("vesicle_ids", info.vesicle_ids),
        region=info.segmentation_region,
        distance=info.distance_id,
    )
    with new_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_tomo_info(path: str | os.PathLike[str]) -> TomoInfo:
    """Read Pyto's parameter file, perhaps one that people wrote, without running it.

    Parameters
    ----------
    path : path
        ``WORKDIR/common/tomo_info.py``.

    Raises
    ------
    BadInputError
        There is no such file, or it is no Python 3.
    """
    path = Path(path)
    script = _script(path)
    problems: list[Finding] = []

    def value(name: str, expected: str, convert: Callable[[Any], Any]) -> Any:
        problem, known = _known(path, script, name, expected, convert)
        if problem is not None:
            problems.append(problem)
            unknown.add(name)
        return known

    unknown: set[str] = set()
    problems += _failures(path, script)
    file_name, ids = "the name of a file, in quotation marks", "a list of whole numbers, such as [10, 11, 12]"
    root = root_of(path)
    return TomoInfo(
        image=_to_path(value("image_file_name", file_name, _text), root),
        labels=_to_path(value("labels_file_name", file_name, _text), root),
        labels_data_type=value("labels_data_type", "None, or the name of a type in quotation marks", _text_or_none),
        all_ids=value("all_ids", ids, _numbers),
        boundary_ids=value("boundary_ids", ids, _numbers),
        vesicle_ids=value("vesicle_ids", ids, _numbers),
        segmentation_region=value("segmentation_region", "the id of the cytosol, a whole number", _number),
        distance_id=value("distance_id", "the id of the active-zone membrane, a whole number", _number_or_none),
        vesicle_ids_form=_FORMS.get(type(script.values.get("vesicle_ids")), "unknown"),
        problems=tuple(problems),
        unknown=frozenset(unknown),
    )


def _script(path: Path) -> Script:
    remedy = "See docs/pyto.md for what it has to hold"
    try:
        return read_script(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read", got=error.strerror or str(error), remedy=remedy) from error
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        raise BadInputError(f"{path} is not Python 3{where}", got=error.msg, remedy=remedy) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadInputError(f"{path} is not Python 3", got=str(error) or "endless nesting", remedy=remedy) from error


def _failures(path: Path, script: Script) -> list[Finding]:
    """That Python fails on the file, if no variable says so."""
    told = {script.problems[name][0] for name in VARIABLES if name in script.problems}
    rest = [why for why in script.failures if why not in told]
    if not rest:
        return []
    text = f"{path.name} fails, so that no script of Pyto runs: {rest[0]}"
    return [Finding("tomo_info", Severity.ERROR, text, "Correct this line, or take it away")]


def _known(
    path: Path, script: Script, name: str, expected: str, convert: Callable[[Any], Any]
) -> tuple[Finding | None, Any]:
    """The value of a variable, or what is wrong with it."""
    remedy = f"Set {name} to {expected}"
    if name in script.problems:
        why, fails = script.problems[name]
        severity = Severity.ERROR if fails else Severity.WARNING
        verb = "fails" if fails else "cannot be understood, so it was not checked"
        return Finding("tomo_info", severity, f"{name} in {path.name} {verb}: {why}", remedy), None
    if name not in script.values:
        return Finding("tomo_info", Severity.ERROR, f"{path.name} does not set {name}", remedy), None
    try:
        return None, convert(script.values[name])
    except ValueError as error:
        return Finding("tomo_info", Severity.ERROR, f"{name} in {path.name} is {error}", remedy), None


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError(_shortened(value))


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(_shortened(value))


def _number_or_none(value: Any) -> int | None:
    return None if value is None else _number(value)


def _numbers(value: Any) -> tuple[int, ...]:
    """Ids one by one; a single one counts as a list, and lists may be nested."""
    if not isinstance(value, (list, tuple, range, set)):
        return (_number(value),)
    found: list[int] = []
    for element in value:
        found += _numbers(element)
    return tuple(found)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _to_path(name: str | None, root: Path) -> Path | None:
    """A file that is named relative to a task's folder, which need not exist."""
    return None if name is None else Path(os.path.normpath(root / TASKS[0] / name))


def _from_task(path: Path | None, root: Path) -> str | None:
    """A file's name relative to a task's folder."""
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path, root / TASKS[0])).as_posix()
    except ValueError:  # on another drive
        return Path(path).absolute().as_posix()


def _list_text(name: str, ids: Sequence[int] | None) -> str:
    """An assignment of a list, in lines that can be read."""
    numbers = [str(number) for number in ids or ()]
    if len(numbers) <= _IN_LINE:
        return f"{name} = [{', '.join(numbers)}]"
    lines = [", ".join(numbers[i : i + _IN_LINE]) for i in range(0, len(numbers), _IN_LINE)]
    return f"{name} = [\n    " + ",\n    ".join(lines) + ",\n]"


#: Ids in one line of the file.
_IN_LINE = 16
_TEMPLATE = """\
# Parameters of this tomogram for Pyto's scripts, written by deepvesicle.
# Names of files are relative to the folder that a script runs in, such as ../connectors.

# The tomogram; dense is dark.
image_file_name = {image}

# The label volume.
labels_file_name = {labels}

# None: the header of the MRC file says what type its voxels have.
labels_data_type = {data_type}

# Every label that is in the volume. What is not listed here counts as background.
{all_ids}

# What connectors and tethers hold on to: the membrane of the active zone and the vesicles.
{boundary_ids}

# The vesicles. This has to be a list.
{vesicle_ids}

# The cytosol, in which connectors and tethers are looked for.
segmentation_region = {region}

# The membrane of the active zone, from which distances are measured.
distance_id = {distance}
"""
