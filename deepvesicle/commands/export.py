"""`deepvesicle export`: vesicles in the formats of other programs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepvesicle.commands.options import OverwriteOption, VoxelSizeOption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepvesicle.annotations import Annotation
    from deepvesicle.commands.compared import Source
    from deepvesicle.grid import Grid
    from deepvesicle.vesicles import Status, Vesicles

_NAME_TOMOGRAM = "Name the tomogram with --tomogram"
#: Ids named in a warning, at most.
_NAMED = 5


class Format(str, Enum):
    """What can be written."""

    STAR = "star"
    CSV = "csv"
    JSON = "json"
    LABELS = "labels"
    MOD = "mod"


#: Endings by which a format is known; the first is that of new files.
_ENDINGS = {
    Format.STAR: (".star",),
    Format.CSV: (".csv",),
    Format.JSON: (".json",),
    Format.LABELS: (".mrc", ".rec", ".map"),
    Format.MOD: (".mod", ".imod"),
}


def export(
    vesicles: Annotated[
        str,
        typer.Argument(
            help="Table (.csv) or IMOD model (.mod); FILE:NAME or FILE:1,2 takes some objects of a model.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File or folder to write; a folder needs --format.", show_default=False),
    ],
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="STAR (RELION), CSV in nm, JSON (copick), label volume or IMOD model; else by the file's ending.",
            show_default=False,
        ),
    ] = None,
    tomogram: Annotated[
        Path | None, typer.Option(help="Tomogram they belong to: for its size and voxel size.", show_default=False)
    ] = None,
    voxel_size: VoxelSizeOption = None,
    status: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="What is written: accepted (refined, doubtful and manual), all, or some, with commas between them.",
        ),
    ] = "accepted",
    name: Annotated[
        str | None,
        typer.Option(help="Name of the tomogram in the file, in place of that of the file.", show_default=False),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write vesicles for other programs: RELION STAR, CSV in nm, copick JSON, labels or an IMOD model."""
    from deepvesicle.commands.compared import several, source_of
    from deepvesicle.commands.console import warn
    from deepvesicle.files.atomic import check_output

    wanted = wanted_status(status)
    source = source_of(vesicles)
    stem = _stem(source.path)
    form, path = target_of(output, form, stem)
    title = name if name is not None else _title(stem, tomogram)
    _refuse_inputs(path, [source.path, *([tomogram] if tomogram else [])])
    check_output(path, overwrite=overwrite)
    _check_format(form, title)
    chosen, notes = read_chosen(source, wanted, tomogram, voxel_size)
    notes += write(path, form, chosen, title, overwrite=overwrite)
    for note in notes:
        warn(note)
    print(several(len(chosen), "vesicle"))
    print(f"wrote {path}")


def wanted_status(text: str) -> tuple[Status, ...]:
    """The statuses that a user named.

    Raises
    ------
    UsageError
        There is no such status.
    """
    from deepvesicle.errors import UsageError
    from deepvesicle.vesicles import ACCEPTED, Status

    groups = {"accepted": ACCEPTED, "all": tuple(Status), **{status.value: (status,) for status in Status}}
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in groups]
    if unknown:
        raise UsageError(f"--status {unknown[0]!r} is not known", expected=f"some of {', '.join(groups)}")
    return tuple(dict.fromkeys(status for name in names for status in groups[name]))


def target_of(output: Path, form: Format | None, stem: str) -> tuple[Format, Path]:
    """What is to be written, and where: `output` is a folder if it is there as one, or has no ending.

    Raises
    ------
    UsageError
        The format is not told, or told in two ways.
    """
    from deepvesicle.errors import UsageError

    ending = output.suffix.lower()
    if output.is_dir() or not ending:
        if form is None:
            raise UsageError(
                f"what to write into the folder {output} is not known",
                remedy=f"Choose with --format one of {', '.join(item.value for item in Format)}",
            )
        return form, output / f"{stem}_export{_ENDINGS[form][0]}"
    told = next((item for item, endings in _ENDINGS.items() if ending in endings), None)
    if told is None or form not in (None, told):
        endings = _ENDINGS[form] if form else tuple(known[0] for known in _ENDINGS.values())
        what = f"for --format {form.value}" if form else "that tells the format"
        raise UsageError(f"{output} is not a name {what}", expected=f"one that ends with {' or '.join(endings)}")
    return told, output


def read_chosen(
    source: Source, wanted: tuple[Status, ...], tomogram: Path | None, voxel_nm: float | None
) -> tuple[Vesicles, list[str]]:
    """The spheres to write, and what the user should look at.

    Raises
    ------
    BadInputError, UsageError
        A file cannot be used, or something about the volume must be told.
    """
    from deepvesicle.commands.compared import grid_of, several, voxel_size_notes
    from deepvesicle.errors import UsageError
    from deepvesicle.marks import lacks_sphere

    if source.is_volume:
        raise UsageError(f"{source.path} is a volume", expected="a table (.csv) or an IMOD model (.mod)")
    if source.is_table and source.part is not None:
        raise UsageError(f"{source.path} is a table", expected="nothing after its name", got=f":{source.part}")
    grid = grid_of([source], None, tomogram, voxel_nm)
    found = read_all(source, grid if tomogram else _as_drawn(source, grid))
    table = found.vesicles.replace(grid=grid)
    chosen = table.select(table.has_status(*wanted) & ~lacks_sphere(table.features, len(table)))
    notes = [*voxel_size_notes([source], None, grid), *(f"{source.path}: {note}" for note in found.notes)]
    if len(found.unclear):
        notes.append(f"{source.path}: {several(shapes_in(found), 'shape')} left out, as no sphere fits")
    if not len(chosen):
        notes.append(f"{source.path} holds no vesicles of the wanted status")
    return chosen, notes


def read_all(source: Source, grid: Grid) -> Annotation:
    """All that a table or a model holds: spheres of any status, and what is no sphere."""
    from deepvesicle.annotations import Annotation
    from deepvesicle.commands.compared import read_drawn_model
    from deepvesicle.files.tables import read_spheres_csv
    from deepvesicle.vesicles import Vesicles

    if source.is_model:
        return read_drawn_model(source, grid, None)
    return Annotation(read_spheres_csv(source.path, grid), Vesicles.empty(grid))


def _as_drawn(source: Source, grid: Grid) -> Grid:
    """A grid at the origin that a model tells, so that nothing is said of a shift against a tomogram not known."""
    from dataclasses import replace

    from deepvesicle.files.model_info import model_info

    own = model_info(source.path).origin_nm if source.is_model else None
    return grid if own is None else replace(grid, origin_nm=own)


def shapes_in(found: Annotation) -> int:
    """How many shapes the unclear spheres stand for."""
    import numpy as np

    rows = found.unclear
    return len(np.unique(rows.features["shape"])) if "shape" in rows.features else len(rows)


def write(path: Path, form: Format, vesicles: Vesicles, title: str, *, overwrite: bool) -> list[str]:
    """Write all of the spheres; gives what the user should look at.

    Raises
    ------
    BadInputError, UsageError
        They cannot be written in this format.
    """
    from deepvesicle.files.exports import write_nm_csv, write_picks_json, write_star

    if form is Format.LABELS:
        return _write_labels(path, vesicles, overwrite)
    if form is Format.MOD:
        from deepvesicle.errors import BadInputError
        from deepvesicle.files.imod import write_vesicles_model

        _check_volume(vesicles.grid, "a model")
        try:
            write_vesicles_model(path, vesicles, overwrite=overwrite)
        except ValueError as error:  # an id that the format cannot hold
            raise BadInputError(f"the vesicles cannot be written to {path}", got=str(error)) from error
        return []
    writer = {Format.STAR: write_star, Format.CSV: write_nm_csv, Format.JSON: write_picks_json}[form]
    writer(path, vesicles, title, overwrite=overwrite)
    return []


def _write_labels(path: Path, vesicles: Vesicles, overwrite: bool) -> list[str]:
    """Draw the spheres into a new file; those of which no voxel came are told."""
    from collections import Counter

    from deepvesicle.files.labels import write_drawn_labels
    from deepvesicle.fitting.rasterize import draw_slab
    from deepvesicle.vesicles import Status

    _check_volume(vesicles.grid, "a label volume")
    # Only what counts as a vesicle is drawn, but here the user has chosen.
    drawable = vesicles.replace(status=(Status.MANUAL,) * len(vesicles))
    counts: Counter[int] = Counter()

    def draw(grid: Grid, out: NDArray[np.uint16]) -> list[tuple[int, int, tuple[slice, slice, slice]]]:
        drawn = draw_slab(drawable, grid, out)
        for label, count, _ in drawn:
            counts[label] += count
        return drawn

    write_drawn_labels(path, vesicles.grid, draw, overwrite=overwrite)
    missing = [int(number) for number in vesicles.ids if not counts[int(number)]]
    if not missing:
        return []
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [f"no voxel of {path.name} is in the vesicles {', '.join(map(str, missing[:_NAMED]))}{more}"]


def _check_volume(grid: Grid, what: str) -> None:
    from deepvesicle.commands.compared import has_volume
    from deepvesicle.errors import UsageError

    if not has_volume(grid):
        raise UsageError(f"{what} needs the size of the volume, which a table does not tell", remedy=_NAME_TOMOGRAM)


def _check_format(form: Format, title: str) -> None:
    """Stop before the work where a format cannot be written."""
    if form is Format.STAR:
        from deepvesicle.files.exports import check_star, check_star_name

        check_star()
        check_star_name(title)


def _refuse_inputs(path: Path, inputs: list[Path]) -> None:
    """An input is never replaced, not even with --overwrite."""
    from deepvesicle.errors import UsageError

    for file in inputs:
        if path.exists() and file.exists() and path.samefile(file):
            raise UsageError(f"{path} is what is read", remedy="Choose another name with -o")


def _stem(path: Path) -> str:
    """The file's name without its endings, and without what this program adds to a tomogram's name."""
    return path.stem.removesuffix("_vesicles") or path.stem


def _title(stem: str, tomogram: Path | None) -> str:
    """The tomogram's name."""
    from deepvesicle.commands.segment import stem_of

    return stem if tomogram is None else stem_of(tomogram)
