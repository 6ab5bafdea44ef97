"""`deepvesicle pyto`: a work folder for Pyto, its check, and Pyto's results joined to the vesicles."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepvesicle.commands.options import InvertOption, OverwriteOption, VoxelSizeOption
from deepvesicle.errors import UsageError

if TYPE_CHECKING:
    from deepvesicle.commands.compared import Source
    from deepvesicle.grid import Grid
    from deepvesicle.handover.handing import HandedOver
    from deepvesicle.vesicles import Vesicles

#: A bilayer of 4 to 5 nm with the blur of a tomogram: what people draw by hand in full is 6 to 7 nm. Thinner, and the
#: membrane's own dark edge lies in the cytosol, where Pyto takes it for segments; thicker, and the label swallows the
#: ends of short tethers.
MEMBRANE_NM = 6.0
#: What else goes with a task other than making a folder.
_GO_WITH = {
    "--check": ("check", "as_json"),
    "--import-results": ("import_results", "output", "table", "segments", "colour_by", "overwrite"),
}
#: Ids named in a line, at most.
_NAMED = 12


def pyto(
    context: typer.Context,
    tomogram: Annotated[
        Path | None,
        typer.Argument(metavar="TOMO", help="Tomogram: MRC file (.mrc, .rec, .nad, .gz ...).", show_default=False),
    ] = None,
    vesicles: Annotated[
        str | None,
        typer.Argument(
            metavar="VESICLES",
            help="Its vesicles: table (.csv) or IMOD model (.mod); FILE:NAME or FILE:1,2 takes some objects.",
            show_default=False,
        ),
    ] = None,
    outline: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:PART]",
            help="The cytosol: closed contours or a closed mesh (.mod, :object) or a label volume (:label).",
            show_default=False,
        ),
    ] = None,
    active_zone: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[:PART]",
            help="Membrane of the active zone: contours or a mesh (.mod, :object) or a label volume (:label).",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="WORKDIR",
            help="Work folder to make; with --import-results, the folder for the joined tables.",
            show_default=False,
        ),
    ] = None,
    membrane_thickness: Annotated[
        float, typer.Option(metavar="NM", help="Thickness, nm, of a membrane that was drawn as lines or a surface.")
    ] = MEMBRANE_NM,
    outside: Annotated[
        bool, typer.Option("--outside", help="The outline surrounds what is not cytosol, such as a mitochondrion.")
    ] = False,
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="NM",
            help="Cut tomogram and labels so far round the active zone, such as 300nm: Pyto is slow on large volumes, "
            "but its layers need 250 nm.",
            show_default=False,
        ),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy/--link", help="Copy the tomogram, or make a link to it where Pyto can read it.")
    ] = False,
    int16: Annotated[
        bool, typer.Option("--int16", help="Labels as signed integers (MRC mode 1), in place of unsigned (mode 6).")
    ] = False,
    cytosol_id: Annotated[int, typer.Option(metavar="ID", help="Label of the cytosol.")] = 1,
    membrane_id: Annotated[int, typer.Option(metavar="ID", help="Label of the membrane.")] = 2,
    first_vesicle: Annotated[
        int,
        typer.Option(metavar="ID", help="Label of vesicle 1 of the table; a table with ids from there on keeps them."),
    ] = 10,
    gap: Annotated[
        int, typer.Option(metavar="N", min=0, help="Voxels of background to leave between vesicles that are nearer.")
    ] = 0,
    keep_cut: Annotated[
        bool, typer.Option("--keep-cut", help="Draw vesicles that a face of the volume cuts: their radii are wrong.")
    ] = False,
    voxel_size: VoxelSizeOption = None,
    invert: InvertOption = False,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="WORKDIR",
            help="Check a work folder, whoever made it; nothing is changed.",
            show_default=False,
        ),
    ] = None,
    import_results: Annotated[
        Path | None,
        typer.Option(
            "--import-results",
            metavar="WORKDIR",
            help="Join Pyto's result tables in a work folder to its vesicles.",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --import-results: the table or model that was handed over gets the columns, too, as a new file.",
            show_default=False,
        ),
    ] = None,
    segments: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="With --import-results: the classes of segments that count, as Pyto named them; by default 'good' "
            "where there is such a class, else all.",
            show_default=False,
        ),
    ] = None,
    colour_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="With --import-results: column by which 3dmod colours; by default the number of connectors.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON instead of text.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a work folder on which Pyto runs, check one, or join Pyto's results to the vesicles.

    deepvesicle pyto TOMO VESICLES --outline FILE --active-zone FILE -o WORKDIR; then Pyto; then
    deepvesicle pyto --import-results WORKDIR.
    """
    asked = [name for name, value in (("--check", check), ("--import-results", import_results)) if value is not None]
    if len(asked) > 1 or (asked and tomogram is not None):
        others = asked[1:] or ["a tomogram"]
        raise UsageError(f"{asked[0]} and {others[0]} exclude one another", remedy="Give one after the other")
    if asked:
        _refuse_others(context, asked[0])
    if check is not None:
        from deepvesicle.commands.pyto_check import check_and_tell

        check_and_tell(check, as_json=as_json)
        return
    if as_json:
        raise UsageError("--json goes with --check")
    if import_results is not None:
        from deepvesicle.commands.pyto_results import join_results

        join_results(import_results, output, table, segments, colour_by, overwrite=overwrite)
        return
    _refuse_import_options(table, segments, colour_by)
    from deepvesicle.handover.handing import Wishes
    from deepvesicle.handover.ids import LabelIds

    wishes = Wishes(
        ids=LabelIds(cytosol_id, membrane_id, first_vesicle),
        signed=int16,
        gap_vox=gap,
        keep_cut=keep_cut,
        crop_nm=None if crop is None else _crop_nm(crop),
        copied=copy,
    )
    _make(
        _needed(tomogram, "the tomogram"),
        _needed(vesicles, "the vesicles"),
        _needed(outline, "the cytosol, with --outline"),
        _needed(active_zone, "the membrane of the active zone, with --active-zone"),
        _needed(output, "the work folder, with -o"),
        wishes,
        thickness_nm=membrane_thickness,
        outside=outside,
        voxel_nm=voxel_size,
        invert=invert,
        overwrite=overwrite,
    )


def _refuse_others(context: typer.Context, task: str) -> None:
    """Options that do not go with a task are refused, since they would be without effect."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        given = source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
        if given and option.name not in _GO_WITH[task]:
            raise UsageError(f"{option.opts[0]} does not go with {task}", remedy="Leave it out")


def _needed(value: Any, what: str) -> Any:
    if value is None:
        raise UsageError(
            f"something is missing: {what}",
            expected="deepvesicle pyto TOMO VESICLES --outline FILE --active-zone FILE -o WORKDIR",
        )
    return value


def _refuse_import_options(table: str | None, segments: str | None, colour_by: str | None) -> None:
    for name, value in (("--table", table), ("--segments", segments), ("--colour-by", colour_by)):
        if value is not None:
            raise UsageError(f"{name} goes with --import-results")


def length_nm(text: str, option: str) -> float:
    """A length such as ``250``, ``250nm`` or ``250 nm``.

    Raises
    ------
    UsageError
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(?:nm)?\s*", text)
    if match is None:
        raise UsageError(f"{option} {text!r} is not a length", expected="nm, such as 300nm")
    return float(match.group(1))


def _crop_nm(text: str) -> float:
    """How far to cut; a warning where Pyto's layers want more.

    Raises
    ------
    UsageError
        No length above 0.
    """
    from deepvesicle.commands.console import warn
    from deepvesicle.handover.readme import LAYERS_NM

    length = length_nm(text, "--crop")
    if not length > 0:
        raise UsageError("--crop leaves nothing round the active zone", expected="nm above 0, such as 300nm", got=text)
    if length < LAYERS_NM:
        warn(
            f"--crop {length:g}nm: Pyto's layers want {LAYERS_NM:.0f} nm of cytosol round the active zone, and "
            "vesicles that the cut goes through are left out. Give 300nm, unless only what is nearer counts."
        )
    return length


def _make(
    tomogram: Path,
    vesicles: str,
    outline: str,
    active_zone: str,
    output: Path,
    wishes: Any,
    *,
    thickness_nm: float,
    outside: bool,
    voxel_nm: float | None,
    invert: bool,
    overwrite: bool,
) -> None:
    """Read, hand over, tell."""
    from dataclasses import replace

    from deepvesicle.commands.compared import source_of
    from deepvesicle.commands.console import say, warn
    from deepvesicle.commands.stages import stage_progress
    from deepvesicle.files.tomogram import read_header, read_tomogram
    from deepvesicle.handover.findings import Severity
    from deepvesicle.handover.handing import check_place, hand_over
    from deepvesicle.handover.regions import cytosol_region, membrane_region

    regions = "an IMOD model (.mod) or a label volume (.mrc)"
    sources = {
        "vesicles": source_of(vesicles, "a table (.csv) or an IMOD model (.mod)"),
        "outline": source_of(outline, regions),
        "active_zone": source_of(active_zone, regions),
    }
    inputs = {"tomogram": tomogram, **{name: source.path for name, source in sources.items()}}
    _refuse_tables(sources["outline"], sources["active_zone"])
    # Before any work; whether the tomogram has to be written is not known yet.
    check_place(output, inputs, overwrite=overwrite, needs_copy=False)
    volume = read_tomogram(tomogram, voxel_nm=voxel_nm, invert=invert)
    for note in volume.notes:
        warn(note)
    grid = volume.grid
    table, notes = read_vesicles(sources["vesicles"], sources["outline"], sources["active_zone"], grid)
    for note in notes:
        warn(note)
    cytosol = cytosol_region(sources["outline"].path, grid, part=sources["outline"].part, outside=outside)
    zone = sources["active_zone"]
    membrane = membrane_region(zone.path, grid, part=zone.part, thickness_nm=thickness_nm)
    wishes = replace(wishes, other_voxel_size=_is_other(voxel_nm, read_header(tomogram).header_voxel_nm))
    with stage_progress() as progress:
        done = hand_over(
            volume,
            table,
            cytosol,
            membrane,
            output,
            wishes,
            inputs=inputs,
            settings={
                "parts": {name: source.part for name, source in sources.items()},
                "membrane_thickness_nm": thickness_nm,
                "outside": outside,
            },
            overwrite=overwrite,
            progress=lambda number, total: progress("drawing labels", number, total),
        )
    for finding in done.findings:
        if finding.severity is Severity.WARNING:
            warn(f"{finding.text}. {finding.remedy}.")
        else:
            say(str(finding))
    print("\n".join(made_lines(done)))
    print(f"wrote {output}")


def _refuse_tables(outline: Source, zone: Source) -> None:
    for option, source in (("--outline", outline), ("--active-zone", zone)):
        if source.is_table:
            raise UsageError(f"{option} {source.path} is a table", expected="an IMOD model or a label volume")
    if outline.path.samefile(zone.path) and (zone.part is None or outline.part is None):
        what, part = ("label", "1") if zone.is_volume else ("object", "NAME")
        raise UsageError(
            f"{zone.path} holds the outline and the active zone",
            expected=f"the {what} that is meant with each, such as {zone.path}:{part}",
        )


def _is_other(voxel_nm: float | None, header_nm: tuple[float, float, float]) -> bool:
    """Whether a voxel size that was given is not that of the header, beyond its rounding."""
    return voxel_nm is not None and any(not abs(size / voxel_nm - 1) < 1e-3 for size in header_nm)


def read_vesicles(source: Source, outline: Source, zone: Source, grid: Grid) -> tuple[Vesicles, list[str]]:
    """All rows of a table or a model, the rejected ones too, and what the user should look at.

    Raises
    ------
    BadInputError, UsageError
        The file cannot be used.
    """
    from deepvesicle.commands.compared import several
    from deepvesicle.commands.export import read_all, shapes_in
    from deepvesicle.commands.stats import without_parts

    if source.is_volume:
        raise UsageError(
            f"{source.path} is a volume",
            expected="a table (.csv) or an IMOD model (.mod)",
            remedy="`deepvesicle prepare` makes a table of a label volume's vesicles",
        )
    if source.is_table and source.part is not None:
        raise UsageError(f"{source.path} is a table", expected="nothing after its name", got=f":{source.part}")
    found = read_all(without_parts(source, outline, zone)[0], grid)
    notes = [f"{source.path}: {note}" for note in found.notes]
    if len(found.unclear):
        notes.append(f"{source.path}: {several(shapes_in(found), 'shape')} left out, as no sphere fits")
    return found.vesicles, notes


def made_lines(done: HandedOver) -> list[str]:
    """What was made, for the terminal."""
    ids = sorted(done.drawn.ids.tolist())
    lines = [f"{len(ids)} vesicles in the labels, ids {ids[0]} to {ids[-1]}"]
    if len(ids) == 1:
        lines = [f"1 vesicle in the labels, id {ids[0]}"]
    for reason, count in Counter(done.left_out.values()).items():
        numbers = sorted(number for number, why in done.left_out.items() if why == reason)
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        lines.append(f"  {count} left out, {reason}: {', '.join(map(str, numbers[:_NAMED]))}{more} (ids in your table)")
    return [*lines, *(f"  {note}" for note in done.notes)]
