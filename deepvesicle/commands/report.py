"""`deepvesicle report`: a result as one HTML file, to look at, to trust and to judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepvesicle.commands.options import OverwriteOption, TomogramArgument, VoxelSizeOption

if TYPE_CHECKING:
    import os

    from deepvesicle.files.run_record import RunRecord
    from deepvesicle.grid import Grid, Tomogram
    from deepvesicle.report.page_data import Agreement, Profiles
    from deepvesicle.vesicles import Vesicles

_KINDS = "table (.csv), IMOD model (.mod) or label volume (.mrc)"
#: What the names of models and tables end with.
_ENDING = "_vesicles"
#: Where profiles are sampled: from and to, about the outer edge, and steps, nm.
_PROFILE_NM = (-20.0, 14.0, 0.8)


def report(
    tomogram: TomogramArgument,
    vesicles: Annotated[str, typer.Argument(help=f"The vesicles: {_KINDS}.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="HTML", help="File to write, by default STEM_report.html beside VESICLES."
        ),
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:PART]", help=f"Show what is missed and what is false: {_KINDS}.", show_default=False
        ),
    ] = None,
    before: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Show what changed since: an earlier table (.csv, .csv~) or model.", show_default=False
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="JSON", help="Run record, by default the one beside VESICLES.", show_default=False),
    ] = None,
    voxel_size: VoxelSizeOption = None,
    invert: Annotated[
        bool | None,
        typer.Option("--invert/--no-invert", help="The tomogram holds dense = bright; by default as the record says."),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a report: slices, spheres in space, distributions, and a gallery in which vesicles can be judged.

    One HTML file for any browser, without a network. What you keep and reject there is carried out by
    `deepvesicle fix --review`.
    """
    from deepvesicle.commands.compared import source_of
    from deepvesicle.commands.console import warn
    from deepvesicle.files.atomic import check_output
    from deepvesicle.files.tomogram import read_tomogram

    source = source_of(vesicles)
    target = output or source.path.with_name(f"{report_stem(source.path)}_report.html")
    _refuse_input(target, tomogram, source.path)
    check_output(target, overwrite=overwrite)
    record = _record(run, source.path)
    if voxel_size is None and record is not None and record.voxel_source == "option":
        voxel_size = record.voxel_nm
    if invert is None:
        invert = record is not None and record.invert
    volume = read_tomogram(tomogram, voxel_nm=voxel_size, invert=invert, check=False)
    table, notes = read_table(vesicles, volume.grid)
    judged, more = (None, []) if truth is None else read_table(truth, volume.grid)
    earlier, others = (None, []) if before is None else read_table(str(before), volume.grid)
    for note in [*volume.notes, *notes, *more, *others]:
        warn(note)
    if not len(table):
        warn(f"{source.path} holds no vesicles")
    write_report(
        target,
        volume,
        table,
        table_name=source.path.name,
        record=record,
        truth=judged,
        before=earlier,
        overwrite=overwrite,
    )
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB): open it in a browser")


def write_report(
    path: str | os.PathLike[str],
    tomogram: Tomogram,
    vesicles: Vesicles,
    *,
    table_name: str = "",
    record: RunRecord | None = None,
    truth: Vesicles | None = None,
    before: Vesicles | None = None,
    overwrite: bool = False,
) -> None:
    """Write the HTML report of a result: a few seconds for some hundred vesicles.

    Parameters
    ----------
    path : path
        Of the HTML file.
    tomogram : Tomogram
    vesicles : Vesicles
        On the tomogram's grid, rejected rows too.
    table_name : str
        Name of the file the vesicles are in, such as ``X_vesicles.csv``; the page's file of verdicts is named after it.
    record : RunRecord, optional
        Of the run that made them.
    truth : Vesicles, optional
        Show what of it is missed, and what is not in it.
    before : Vesicles, optional
        The table as it was before a correction: show what changed.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    from deepvesicle.report.changes import changes_between
    from deepvesicle.report.html import write_html

    write_html(
        path,
        tomogram,
        vesicles,
        table=table_name,
        record=record,
        profiles=_profiles(tomogram, vesicles, record),
        agreement=None if truth is None else agreement_with(vesicles, truth),
        changes=None if before is None else changes_between(before, vesicles),
        overwrite=overwrite,
    )


def report_stem(path: Path) -> str:
    """What results of a file of vesicles are named after: ``X_vesicles.csv`` -> ``X``."""
    from deepvesicle.commands.evaluate import stem_of_result

    stem = stem_of_result(path)
    return stem.removesuffix(_ENDING) or stem


def read_table(text: str, grid: Grid) -> tuple[Vesicles, list[str]]:
    """All rows of a table, rejected ones too, or what another file holds; and what the user should look at.

    Raises
    ------
    BadInputError
        The file cannot be used.
    """
    from deepvesicle.commands.compared import LabelOptions, Source, read_side, source_of, voxel_size_notes
    from deepvesicle.files.imod import OUR_OBJECTS, read_model_of, read_vesicles_model
    from deepvesicle.files.kinds import TABLE
    from deepvesicle.files.tables import read_spheres_csv

    path = Path(text)
    # IMOD's way to name a copy: X.csv~
    is_copy = path.is_file() and path.suffix.lower() == ".csv~"
    source = Source(path, TABLE) if is_copy else source_of(text)
    if source.is_table and source.part is None:
        return read_spheres_csv(source.path, grid), []
    notes = voxel_size_notes([source], None, grid)
    is_ours = source.is_model and source.part is None
    if is_ours and {item.name for item in read_model_of(source.path).objects} & set(OUR_OBJECTS):
        return read_vesicles_model(source.path, grid), notes
    side = read_side(source, grid, LabelOptions(), None)
    return side.vesicles.select(side.unclear == 0), [*notes, *side.notes]


def agreement_with(vesicles: Vesicles, truth: Vesicles) -> Agreement:
    """What of the truth was found, and which vesicles are false; both tables on the same grid."""
    from deepvesicle.marks import lacks_sphere
    from deepvesicle.report.page_data import Agreement
    from deepvesicle.scoring.evaluation import evaluate

    compared = vesicles.accepted & ~lacks_sphere(vesicles.features, len(vesicles))
    counted = truth.accepted & ~lacks_sphere(truth.features, len(truth))
    found = evaluate(vesicles.select(compared), truth.select(counted))
    score = found.by_centre
    outcome = {int(found.predicted.ids[row]): "found" for row in score.pairs[:, 0]}
    outcome |= {int(found.predicted.ids[row]): "false" for row in score.fp_rows}
    outcomes = tuple(
        outcome.get(int(number), "ignored") if is_compared else ""
        for number, is_compared in zip(vesicles.ids, compared, strict=True)
    )
    return Agreement(outcomes, found.truth.select(score.fn_rows), found.figures())


def _profiles(tomogram: Tomogram, vesicles: Vesicles, record: RunRecord | None) -> Profiles:
    """Radial profiles of all rows."""
    import numpy as np

    from deepvesicle.fitting.radial import radial_profiles
    from deepvesicle.report.page_data import Profiles, tilts_of

    low, high, step = _PROFILE_NM
    offsets = np.arange(low, high + step / 2, step)
    tilts, axis, _ = tilts_of(record)
    return Profiles(offsets, radial_profiles(tomogram, vesicles, offsets, tilts, axis))


def _record(path: Path | None, vesicles: Path) -> RunRecord | None:
    """The record that was named, or the one beside the vesicles, if there is one."""
    from deepvesicle.files.run_record import read_run_record

    if path is None:
        path = vesicles.with_name(f"{report_stem(vesicles)}_run.json")
        if not path.exists():
            return None
    return read_run_record(path)


def _refuse_input(target: Path, *inputs: Path) -> None:
    """The report must not take the place of what it is made of.

    Raises
    ------
    UsageError
    """
    from deepvesicle.errors import UsageError

    for path in inputs:
        if target.exists() and path.exists() and target.samefile(path):
            raise UsageError(
                f"{target} is an input, and the report would take its place", remedy="Name another with -o"
            )
