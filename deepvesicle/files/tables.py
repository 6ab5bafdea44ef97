"""The table of vesicles as CSV; its first columns are a contract for other programs."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Union

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import TableError
from deepvesicle.files.atomic import new_file
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Floats, Status, Vesicles

PathLike = Union[str, "os.PathLike[str]"]

#: Voxel columns are of the tomogram (0.0 = centre of the first voxel), nm = voxel x voxel size; `radius` goes to the
#: outer edge of the membrane, `membrane_radius` to the middle of the bilayer. Features follow.
COLUMNS = (
    "id",
    "z_vox",
    "y_vox",
    "x_vox",
    "radius_vox",
    "x_nm",
    "y_nm",
    "z_nm",
    "radius_nm",
    "membrane_radius_nm",
    "thickness_nm",
    "sigma_centre_nm",
    "sigma_radius_nm",
    "score",
    "status",
    "reason",
)
#: Where tables from elsewhere have the outer radius.
_RADIUS_COLUMNS = ("radius_vox", "radius_outer_vox")
_MUST_BE_FINITE = COLUMNS[1:9]
_MAY_BE_EMPTY = COLUMNS[9:14]
#: A table whose nm and voxel columns differ by more than this from the tomogram's voxel size is of another one.
_MAX_VOXEL_DIFFERENCE = 0.01


def write_vesicles_csv(
    path: PathLike, vesicles: Vesicles, *, overwrite: bool = False, whole: Collection[str] = ()
) -> None:
    """Write all vesicles, the rejected ones too, one row each, without loss of precision; unknown values are empty.

    Parameters
    ----------
    path : path
    vesicles : Vesicles
        Its features become columns after those of `COLUMNS`, sorted by name.
    overwrite : bool
        Replace a file that exists.
    whole : collection of str
        Features that are ids or numbers of things: written without a decimal point.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    names = sorted(vesicles.features)
    clash = set(names) & set(COLUMNS)
    if clash:
        raise ValueError(f"features cannot be named like columns of the table: {', '.join(sorted(clash))}")
    to_nm = vesicles.grid.length_to_nm
    numbers = {
        **{f"{axis}_vox": vesicles.centres_vox[:, i] for i, axis in enumerate("zyx")},
        **{f"{axis}_nm": vesicles.centres_nm[:, i] for i, axis in enumerate("zyx")},
        "radius_vox": vesicles.radii_vox,
        "radius_nm": vesicles.radii_nm,
        "membrane_radius_nm": to_nm(vesicles.membrane_radii_vox),
        "thickness_nm": to_nm(vesicles.thickness_vox),
        "sigma_centre_nm": to_nm(vesicles.sigma_centres_vox),
        "sigma_radius_nm": to_nm(vesicles.sigma_radii_vox),
        "score": vesicles.scores,
        **vesicles.features,
    }
    texts = {name: [_text(v, whole=name in whole) for v in column] for name, column in numbers.items()}
    texts["id"] = [str(i) for i in vesicles.ids]
    texts["status"] = [status.value for status in vesicles.status]
    texts["reason"] = list(vesicles.reasons)
    order = (*COLUMNS, *names)
    with new_file(path, overwrite=overwrite) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(order)
        writer.writerows(zip(*(texts[name] for name in order), strict=True))


def read_vesicles_csv(path: PathLike, grid: Grid) -> Vesicles:
    """Read a table that `write_vesicles_csv` made, perhaps edited since.

    Centres and radii are taken from the voxel columns; columns that are not of the contract become features.

    Parameters
    ----------
    path : path
    grid : Grid
        Of the tomogram that the table belongs to.

    Raises
    ------
    TableError
        Not such a table; the message names the line and the column. Or a table of another voxel size.
    """
    path = Path(path)
    header, rows = _read_rows(path)

    def column(name: str, parse: Callable[[Path, int, str, str], float]) -> Floats:
        return np.array([parse(path, line, name, cells[name]) for line, cells in rows], dtype=np.float64)

    required = {name: column(name, _finite) for name in _MUST_BE_FINITE}
    optional = {name: column(name, _finite_or_empty) for name in _MAY_BE_EMPTY}
    features = {name: column(name, _any_number) for name in header if name not in COLUMNS}
    _check_radii(path, rows, required["radius_vox"])
    _check_voxel_size(path, required, grid)
    to_vox = grid.length_to_vox
    return Vesicles(
        grid,
        _ids(path, rows),
        np.stack([required[f"{axis}_vox"] for axis in "zyx"], axis=1),
        required["radius_vox"],
        membrane_radii_vox=to_vox(optional["membrane_radius_nm"]),
        thickness_vox=to_vox(optional["thickness_nm"]),
        sigma_centres_vox=to_vox(optional["sigma_centre_nm"]),
        sigma_radii_vox=to_vox(optional["sigma_radius_nm"]),
        scores=optional["score"],
        status=tuple(_status(path, line, cells["status"]) for line, cells in rows),
        reasons=tuple(cells["reason"] for _, cells in rows),
        features=features,
    )


def voxel_nm_of_csv(path: PathLike) -> float | None:
    """The voxel size of the tomogram that a table was made for, nm; None where it has no rows.

    Raises
    ------
    TableError
        Not such a table.
    """
    path = Path(path)
    header, rows = _read_rows(path, whole=False)
    radius = _radius_column(path, header)
    if radius.replace("_vox", "_nm") not in header:
        return None
    nm, vox = (
        np.array([_finite(path, line, name, cells[name]) for line, cells in rows])
        for name in (radius.replace("_vox", "_nm"), radius)
    )
    return float(np.median(nm / vox)) if len(rows) and (vox > 0).all() else None


def read_spheres_csv(path: PathLike, grid: Grid) -> Vesicles:
    """Read a table of this program, or one from elsewhere that has centres and radii.

    Of the latter ``z_vox``, ``y_vox``, ``x_vox``, ``radius_vox`` (or ``radius_outer_vox``) and, where it is there,
    ``id`` are used; all rows count, as `Status.MANUAL`.

    Raises
    ------
    TableError
        As `read_vesicles_csv`.
    """
    path = Path(path)
    header, rows = _read_rows(path, whole=False)
    if all(name in header for name in COLUMNS):
        return read_vesicles_csv(path, grid)
    names = ("z_vox", "y_vox", "x_vox", _radius_column(path, header))
    table = np.array([[_finite(path, line, name, cells[name]) for name in names] for line, cells in rows])
    table = table.reshape(-1, 4)
    _check_radii(path, rows, table[:, 3])
    ids = _ids(path, rows) if "id" in header else np.arange(1, len(rows) + 1)
    return Vesicles(grid, ids, table[:, :3], table[:, 3], status=(Status.MANUAL,) * len(rows))


def _radius_column(path: Path, header: list[str]) -> str:
    """The column with the outer radii in voxels, of a table that has centres."""
    radius = next((name for name in _RADIUS_COLUMNS if name in header), None)
    missing = [name for name in ("z_vox", "y_vox", "x_vox") if name not in header]
    if radius is None or missing:
        raise TableError(
            f"{path} is not a table of vesicles: columns are missing",
            expected=", ".join([*missing, *([] if radius else [_RADIUS_COLUMNS[0]])]),
            got=", ".join(header)[:120],
        )
    return radius


def _read_rows(path: Path, *, whole: bool = True) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Names of the columns, `COLUMNS` all among them if `whole`; number and cells of each line below them."""
    header: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    for line, cells in _lines(path):
        if not header:
            header = _checked_header(path, cells, COLUMNS if whole else ())
            continue
        if len(cells) != len(header):
            raise TableError(f"{path}, line {line}", expected=f"{len(header)} values", got=f"{len(cells)}")
        rows.append((line, dict(zip(header, cells, strict=True))))
    if not header:
        raise TableError(f"{path} is empty", expected="a table of vesicles")
    return header, rows


def _text(value: float, *, whole: bool = False) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if whole and value == int(value) else repr(float(value))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines of a CSV file that are not blank, with their numbers."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark at the beginning
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
    except OSError as error:
        raise TableError(f"{path} cannot be read", got=error.strerror or str(error)) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise TableError(f"{path} is not a table", expected="a CSV file in UTF-8", got=str(error)) from error


def _checked_header(path: Path, cells: list[str], wanted: Sequence[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise TableError(
            f"{path} is not a table of vesicles: columns are missing",
            expected=", ".join(missing),
            got=", ".join(header)[:120],
        )
    double = sorted({name for name in header if header.count(name) > 1})
    if double or "" in header:
        raise TableError(
            f"{path}, line 1", expected="a different name for each column", got=", ".join(double) or "no name"
        )
    return header


def _any_number(path: Path, line: int, name: str, text: str) -> float:
    if not text.strip():
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise TableError(f"{path}, line {line}: {name} is not a number", got=repr(text)) from None


def _finite_or_empty(path: Path, line: int, name: str, text: str) -> float:
    value = _any_number(path, line, name, text)
    if text.strip() and not math.isfinite(value):
        raise TableError(f"{path}, line {line}: {name} is not a number", got=repr(text))
    return value


def _finite(path: Path, line: int, name: str, text: str) -> float:
    value = _finite_or_empty(path, line, name, text)
    if math.isnan(value):
        raise TableError(f"{path}, line {line}: {name} is empty", expected="a number")
    return value


def _check_radii(path: Path, rows: list[tuple[int, dict[str, str]]], radii: Floats) -> None:
    for (line, _), radius in zip(rows, radii, strict=True):
        if radius <= 0:
            raise TableError(
                f"{path}, line {line}: radius_vox is not a radius", expected="a positive number", got=f"{radius:g}"
            )


def _ids(path: Path, rows: list[tuple[int, dict[str, str]]]) -> NDArray[np.int64]:
    seen: dict[int, int] = {}
    for line, cells in rows:
        text = cells["id"].strip()
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**63):
            raise TableError(f"{path}, line {line}: id is not valid", expected="a whole number from 1", got=repr(text))
        if int(text) in seen:
            raise TableError(f"{path}, line {line}: the id {text} is there already", got=f"line {seen[int(text)]}")
        seen[int(text)] = line
    return np.array(list(seen), dtype=np.int64)


def _status(path: Path, line: int, text: str) -> Status:
    try:
        return Status(text.strip())
    except ValueError:
        expected = ", ".join(status.value for status in Status)
        raise TableError(
            f"{path}, line {line}: unknown status", expected=f"one of {expected}", got=repr(text)
        ) from None


def _check_voxel_size(path: Path, columns: dict[str, Floats], grid: Grid) -> None:
    """The median over rows, so that a radius changed by hand in one of the two columns does no harm."""
    if len(columns["radius_vox"]) == 0:
        return
    voxel_nm = float(np.median(columns["radius_nm"] / columns["radius_vox"]))
    if abs(voxel_nm / grid.voxel_nm - 1) > _MAX_VOXEL_DIFFERENCE:
        raise TableError(
            f"{path} belongs to another tomogram",
            expected=f"a voxel size of {grid.voxel_nm:g} nm",
            got=f"radius_nm / radius_vox = {voxel_nm:.4g} nm",
        )
