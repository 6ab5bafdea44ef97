"""Pyto's results written beside our own: as columns of the table, and as colours in a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepvesicle.errors import BadInputError, UsageError
from deepvesicle.files.coloured import write_coloured_model
from deepvesicle.files.run_record import RunRecord, read_run_record
from deepvesicle.files.tables import read_vesicles_csv, write_vesicles_csv
from deepvesicle.files.tomogram import read_header
from deepvesicle.grid import Grid
from deepvesicle.handover.folder import WorkFolder, read_tomo_info
from deepvesicle.handover.handing import JOINED, SOURCE_GRID
from deepvesicle.handover.own_table import joined_by_source
from deepvesicle.handover.results import COLOURS, PREFIX, WHOLE, joined, read_results
from deepvesicle.vesicles import Vesicles

#: Name of the joined table and model without endings.
NAME = f"vesicles{JOINED}"


@dataclass(frozen=True)
class Imported:
    """What was joined.

    Parameters
    ----------
    vesicles : Vesicles
        Of the work folder, with Pyto's columns.
    own : Vesicles or None
        The user's own table with them.
    columns : tuple of str
        Names of the new columns.
    colour : str
        The column by which the models are coloured.
    results : tuple of Path
        Pyto's tables that were used.
    notes : tuple of str
    """

    vesicles: Vesicles
    own: Vesicles | None
    columns: tuple[str, ...]
    colour: str
    results: tuple[Path, ...]
    notes: tuple[str, ...]

    def limits(self) -> tuple[float, float]:
        """The values that have the first and the last colour."""
        values = self.vesicles.features[self.colour]
        return float(np.nanmin(values)), float(np.nanmax(values))


def import_results(
    root: Path, *, own: Vesicles | None = None, classes: Sequence[str] | None = None, colour_by: str | None = None
) -> Imported:
    """Join Pyto's results in a work folder to its table, and to the table that was handed over.

    Parameters
    ----------
    root : Path
        The work folder.
    own : Vesicles, optional
        The table that was handed over.
    classes : sequence of str, optional
        See `deepvesicle.handover.results.read_results`.
    colour_by : str, optional
        Column for the colours, with or without `PREFIX`; the first of `COLOURS` that is there if not given.

    Raises
    ------
    BadInputError
        Not such a folder, or its tables cannot be used.
    UsageError
        There is no such column or class.
    """
    folder = WorkFolder(root)
    vesicles = read_table_of(folder)
    results = read_results(root, membrane_ids=_membrane_ids(folder), classes=classes)
    table, notes = joined(vesicles, results)
    columns = tuple(name for name in table.features if name.startswith(PREFIX))
    colour = _colour(table, columns, colour_by)
    if own is not None:
        own, more = joined_by_source(own, table)
        notes += more
    return Imported(table, own, columns, colour, results.files, notes)


def read_table_of(folder: WorkFolder) -> Vesicles:
    """The vesicles of a work folder, on the grid of its labels.

    Raises
    ------
    BadInputError
        The folder was not made by a hand-over of this program, or is not whole.
    """
    for path in (folder.table, folder.labels):
        if not path.is_file():
            raise BadInputError(
                f"{folder.root} is not a work folder of deepvesicle: {path.relative_to(folder.root)} is missing",
                expected="a folder that `deepvesicle pyto` made",
            )
    return read_vesicles_csv(folder.table, read_header(folder.labels).grid())


def source_grid(folder: WorkFolder) -> Grid:
    """The grid of the tomogram that was handed over, which its table refers to.

    Raises
    ------
    BadInputError
        The record is missing, or does not tell.
    """
    told = read_run_record(folder.record).settings.get(SOURCE_GRID)
    try:
        return Grid(**{name: tuple(v) if isinstance(v, list) else v for name, v in dict(told).items()})  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadInputError(f"{folder.record} does not tell of the tomogram", got=str(error)) from error


def output_paths(folder: Path, own_stem: str | None = None) -> dict[str, Path]:
    """Where the results go; with the stem of the user's own table, that too."""
    paths = {
        "table": folder / f"{NAME}.csv",
        "model": folder / f"{NAME}.mod",
        "record": folder / f"{NAME}.json",
    }
    if own_stem is not None:
        stem = f"{own_stem}{JOINED}" if f"{own_stem}{JOINED}" != NAME else f"{own_stem}_given{JOINED}"
        paths |= {"own_table": folder / f"{stem}.csv", "own_model": folder / f"{stem}.mod"}
    return paths


def write_imported(paths: dict[str, Path], found: Imported, record: RunRecord, *, overwrite: bool = False) -> None:
    """Write the tables, the models and the record.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    tables = {"": found.vesicles} | ({"own_": found.own} if found.own is not None else {})
    for name, table in tables.items():
        write_vesicles_csv(paths[f"{name}table"], table, overwrite=overwrite, whole=WHOLE)
        write_coloured_model(paths[f"{name}model"], table, table.features[found.colour], overwrite=overwrite)
    done = record.finished(
        outputs=list(paths.values()), counts={"vesicles": len(found.vesicles)}, warnings=list(found.notes)
    )
    done.write(paths["record"], overwrite=overwrite)


def _membrane_ids(folder: WorkFolder) -> tuple[int, ...]:
    """What ``tomo_info.py`` says, for tables that say nothing."""
    if not folder.tomo_info.is_file():
        return ()
    number = read_tomo_info(folder.tomo_info).distance_id
    return () if number is None else (number,)


def _colour(table: Vesicles, columns: Sequence[str], wanted: str | None) -> str:
    known = [name for name in columns if np.isfinite(table.features[name]).any()]
    if wanted is not None:
        name = wanted if wanted in known else f"{PREFIX}{wanted}"
        if name not in known:
            raise UsageError(f"there is no column {wanted!r} to colour by", expected=f"one of {', '.join(known)}")
        return name
    if not known:
        raise BadInputError(
            "Pyto's results say nothing of these vesicles",
            got=f"{len(table)} vesicles whose ids are not in them",
            remedy="Are the results those of this folder's labels?",
        )
    return next((name for name in COLOURS if name in known), known[0])
