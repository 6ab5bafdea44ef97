"""`deepvesicle stats`: what people publish of their vesicles, as table, JSON and figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepvesicle.commands.options import OverwriteOption, VoxelSizeOption

if TYPE_CHECKING:
    from deepvesicle.commands.compared import Source
    from deepvesicle.grid import Grid, Points
    from deepvesicle.scoring.statistics import Statistics, Summary
    from imod_bridge.model import Model

_WHAT = "IMOD model (.mod), table (.csv) or label volume (.mrc); FILE:NAME or FILE:1,2 takes some objects or labels."


def stats(
    vesicles: Annotated[str, typer.Argument(help=f"The vesicles: {_WHAT}", show_default=False)],
    tomogram: Annotated[
        Path | None, typer.Option(help="Tomogram they belong to: for its size and voxel size.", show_default=False)
    ] = None,
    voxel_size: VoxelSizeOption = None,
    outline: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:PART]",
            help="Only what is inside counts: closed contours (.mod, :object) or a label volume (:label).",
            show_default=False,
        ),
    ] = None,
    active_zone: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:PART]",
            help="Membrane of the active zone: contours, points or a mesh (.mod, :object) or a label volume (:label).",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the table of all vesicles, the figure and the numbers."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Give radii, distances to neighbours and to the active zone, and the number density.

    Distances go from surface to surface. Vesicles count by their centres: those that a face of the tomogram cuts count
    if their centre is inside, those centred outside the tomogram or the outline do not, but are neighbours.
    """
    from deepvesicle.commands.compared import source_of
    from deepvesicle.commands.console import say, warn
    from deepvesicle.commands.evaluate import stem_of_result
    from deepvesicle.commands.segment import refuse_existing

    source = source_of(vesicles)
    limits = None if outline is None else source_of(outline)
    zone = None if active_zone is None else source_of(active_zone)
    paths = {} if output is None else output_paths(output, stem_of_result(source.path))
    refuse_existing(paths, overwrite)
    statistics, notes = measure(source, limits, zone, tomogram=tomogram, voxel_nm=voxel_size)
    for note in notes:
        warn(note)
    if paths:
        files = {"vesicles": source.path}
        files |= {} if tomogram is None else {"tomogram": tomogram}
        files |= {} if limits is None else {"outline": limits.path}
        files |= {} if zone is None else {"active_zone": zone.path}
        _write(paths, statistics, files, notes, voxel_source="option" if voxel_size else "header", overwrite=overwrite)
    print(json.dumps(as_dictionary(statistics, notes), indent=2, allow_nan=False) if as_json else as_text(statistics))
    for path in paths.values():
        (say if as_json else print)(f"wrote {path}")


def measure(
    source: Source, outline: Source | None, zone: Source | None, *, tomogram: Path | None, voxel_nm: float | None
) -> tuple[Statistics, list[str]]:
    """Read the files and measure; the second value is what the user should look at.

    Raises
    ------
    BadInputError, UsageError
        A file cannot be used, or something about the volume must be told.
    """
    from deepvesicle.commands.compared import (
        LabelOptions,
        grid_of,
        has_volume,
        on_common_shape,
        read_limits,
        read_side,
        voxel_size_notes,
    )
    from deepvesicle.errors import UsageError
    from deepvesicle.scoring.statistics import vesicle_statistics

    others = [other for other in (outline, zone) if other is not None]
    # of the two, a volume knows its size best
    knowing = next((other for other in others if other.is_volume), others[0] if others else None)
    grid = grid_of([source], knowing, tomogram, voxel_nm)
    faces_known = has_volume(grid)
    if others and not faces_known:
        raise UsageError("the size of the volume is not known", remedy="Name the tomogram with --tomogram")
    vesicles_of, apart = without_parts(source, outline, zone)
    side = on_common_shape([read_side(vesicles_of, grid, LabelOptions(), apart)])[0]
    notes = [note for other in (outline, zone) for note in voxel_size_notes([source], other, grid)]
    notes += side.notes
    region = None if outline is None else read_limits(outline, grid)
    zone_vox, zone_notes = (None, []) if zone is None else _read_zone(zone, source, grid)
    notes += zone_notes
    if not faces_known:
        notes.append("the size of the volume is not known: cut vesicles are not told apart (--tomogram names it)")
    spheres = side.vesicles.select(side.unclear == 0)
    notes += [] if len(spheres) else [f"{source.path} holds no vesicles"]
    statistics = vesicle_statistics(spheres, region=region, zone_vox=zone_vox, faces_known=faces_known)
    if outline is not None and len(spheres) and not statistics.number:
        notes.append(
            f"no vesicle is centred inside the outline {outline.path}: a label of the cytosol leaves out the vesicles "
            "themselves, all labels together do not (give the file without a label)"
        )
    return statistics, list(dict.fromkeys(notes))


def without_parts(source: Source, outline: Source | None, zone: Source | None) -> tuple[Source, Source | None]:
    """The vesicles without what else is in their file: their source, and labels of that file that are none.

    Raises
    ------
    UsageError
        The file of the vesicles is the active zone, or as a model the outline, as a whole.
    """
    from deepvesicle.annotations.models import picked
    from deepvesicle.commands.compared import chosen_objects
    from deepvesicle.errors import UsageError
    from deepvesicle.files.imod import OUR_OBJECTS, read_model_of

    inner = [other for other in (outline, zone) if other is not None and other.path.samefile(source.path)]
    if not inner or source.is_table:
        return source, None
    if source.is_volume:
        if zone is not None and zone in inner and zone.part is None:
            raise UsageError(
                f"{zone.path} holds the vesicles too", expected=f"the label that is meant, such as {zone.path}:2"
            )
        labels = [other.part for other in inner if other.part is not None]  # all labels may well be the outline
        return source, replace(source, part=",".join(labels)) if labels else None
    model = read_model_of(source.path)
    names = [item.name for item in model.objects]
    if source.part is not None or set(names) & set(OUR_OBJECTS):
        return source, None
    if any(other.part is None for other in inner):
        raise UsageError(
            f"{source.path} holds more than one thing", expected="the objects that are meant, such as FILE:NAME"
        )
    taken = {row for other in inner for row in picked(other.path, model, chosen_objects(other, model))}
    rest = [str(row + 1) for row in range(len(names)) if row not in taken]
    if not rest:
        raise UsageError(f"{source.path} has no objects left for vesicles")
    return replace(source, part=",".join(rest)), None


def _read_zone(zone: Source, source: Source, grid: Grid) -> tuple[Points, list[str]]:
    """Dense points of the active zone, and what to say of them."""
    from deepvesicle.commands.compared import read_limits
    from deepvesicle.errors import UsageError
    from deepvesicle.files.imod import read_model_of
    from deepvesicle.scoring.active_zone import zone_of_model, zone_of_region

    if zone.is_table:
        raise UsageError(f"--active-zone {zone.path} is a table", expected="an IMOD model or a label volume")
    if zone.is_volume:
        return zone_of_region(read_limits(zone, grid), grid), []
    model = read_model_of(zone.path)
    rows = _zone_objects(zone, model)
    points, notes = zone_of_model(zone.path, model, rows, grid)
    told = [f"{zone.path}: {note}" for note in notes]
    if zone.part is None and len(rows) > 1:
        named = ", ".join(repr(model.objects[row].name) for row in rows)
        told.append(f"all objects of {zone.path} are taken for the active zone: {named}")
    return points, told


def _zone_objects(zone: Source, model: Model) -> list[int]:
    """The objects that are meant: all that are not this program's vesicles, where none is named."""
    from deepvesicle.annotations.models import picked
    from deepvesicle.commands.compared import chosen_objects
    from deepvesicle.files.imod import OUR_OBJECTS

    rows = picked(zone.path, model, chosen_objects(zone, model))
    return rows or [row for row, item in enumerate(model.objects) if item.name not in OUR_OBJECTS]


def output_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Where the results go."""
    return {
        "table": folder / f"{stem}_statistics.csv",
        "figure": folder / f"{stem}_statistics.png",
        "record": folder / f"{stem}_statistics.json",
    }


def _write(
    paths: dict[str, Path],
    statistics: Statistics,
    inputs: dict[str, Path],
    notes: list[str],
    *,
    voxel_source: str,
    overwrite: bool,
) -> None:
    from deepvesicle.files.run_record import RunRecord
    from deepvesicle.report.statistics_figure import draw_statistics
    from deepvesicle.scoring.statistics import ZONE_LIMITS_NM
    from deepvesicle.scoring.statistics_table import write_statistics_csv

    table, counts = statistics.vesicles, statistics.counts
    record = RunRecord.start("stats", {}, inputs, voxel_nm=table.grid.voxel_nm, voxel_source=voxel_source)
    write_statistics_csv(paths["table"], statistics, overwrite=overwrite)
    draw_statistics(
        paths["figure"],
        table.radii_nm[counts],
        statistics.nearest_nm[counts],
        statistics.zone_nm[counts] if "active_zone" in inputs else None,
        zone_limits_nm=ZONE_LIMITS_NM,
        overwrite=overwrite,
    )
    done = record.finished(outputs=list(paths.values()), counts=statistics.figures(), warnings=notes)
    done.write(paths["record"], overwrite=overwrite)


def as_dictionary(statistics: Statistics, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The figures and the warnings; None where nothing decides one."""
    from math import isfinite

    figures = {name: value if isfinite(value) else None for name, value in statistics.figures().items()}
    return {"voxel_nm": statistics.vesicles.grid.voxel_nm, **figures, "warnings": list(notes)}


def as_text(statistics: Statistics) -> str:
    """The figures for a terminal."""
    from deepvesicle.commands.compared import several
    from deepvesicle.scoring.statistics import ZONE_LIMITS_NM

    figures = statistics.figures()
    outside = int(figures["outside"])
    lines = [several(statistics.number, "vesicle")]
    lines += [f"  {several(outside, 'vesicle')} centred outside not counted"] if outside else []
    lines += [f"  {int(figures['cut'])} cut by a face of the volume, counted"] if figures["cut"] > 0 else []
    lines.append(f"{'nm':<22}{'number':>8}{'mean':>9}{'SD':>9}{'median':>9}   {'quartiles'}")
    rows = {"radius": statistics.radius, "nearest neighbour": statistics.nearest}
    rows |= {"active zone": statistics.zone} if statistics.zone.number else {}
    lines += [_row(name, summary) for name, summary in rows.items()]
    if figures["nearest_near_face"] > 0:
        number = int(figures["nearest_near_face"])
        lines.append(f"  {several(number, 'vesicle')} nearer to a face of the volume than to the neighbour")
    if statistics.zone.number:
        for limit in ZONE_LIMITS_NM:
            share = f"{100 * statistics.share_within(limit):.1f} %"
            lines.append(f"  {f'within {limit} nm':<20}{statistics.within(limit):>8}{share:>9}")
    if statistics.region_um3 > 0:
        lines.append(f"  {'outline':<20}{statistics.region_um3:>17.5f} um^3")
        lines.append(f"  {'number density':<20}{statistics.density_per_um3:>17.1f} per um^3")
    return "\n".join(lines)


def _row(name: str, summary: Summary) -> str:
    from math import isnan

    mean, sd, median, q1, q3 = (
        "-" if isnan(value) else f"{value:.2f}"
        for value in (summary.mean, summary.sd, summary.median, summary.q1, summary.q3)
    )
    return f"  {name:<20}{summary.number:>8}{mean:>9}{sd:>9}{median:>9}   {q1} to {q3}"
