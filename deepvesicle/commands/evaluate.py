"""`deepvesicle evaluate`: how well two segmentations agree, in numbers, vesicle by vesicle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepvesicle.commands.options import OverwriteOption, VoxelSizeOption

if TYPE_CHECKING:
    from deepvesicle.commands.compared import Source
    from deepvesicle.scoring.evaluation import Evaluation

_WHAT = "IMOD model (.mod), table (.csv) or label volume (.mrc); FILE:NAME or FILE:1,2 takes some objects or labels."


def evaluate(
    prediction: Annotated[str, typer.Argument(help=f"What is judged: {_WHAT}", show_default=False)],
    truth: Annotated[str, typer.Argument(help="What it is judged by: the same kinds of files.", show_default=False)],
    tomogram: Annotated[
        Path | None, typer.Option(help="Tomogram both belong to: for its size and voxel size.", show_default=False)
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
    whole: Annotated[
        bool, typer.Option("--whole", help="Vesicles that a face of the tomogram cuts count neither for nor against.")
    ] = False,
    membrane_id: Annotated[
        int | None, typer.Option(metavar="ID", help="Label of the membrane in label volumes.", show_default=False)
    ] = None,
    cytosol_id: Annotated[
        int | None, typer.Option(metavar="ID", help="Label of the cytosol in label volumes.", show_default=False)
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="ID,ID",
            help="These labels are classes, such as membrane and lumen: each connected piece of both is a vesicle.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for the table of all vesicles, a model in three colours and the figures."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Compare two segmentations, of a program or a person, with each other.

    Neither side is special: Dice, F1 and distances stay as they are when two annotators change places (the F1 by
    centres may change a little, and is given both ways); precision and recall change places too. Vesicles centred
    outside the tomogram count neither for nor against.
    """
    from deepvesicle.commands.compared import LabelOptions, numbers, source_of
    from deepvesicle.commands.console import say, warn
    from deepvesicle.commands.segment import refuse_existing

    sources = (source_of(prediction), source_of(truth))
    limits = None if outline is None else source_of(outline)
    paths = {} if output is None else output_paths(output, stem_of_result(sources[0].path))
    refuse_existing(paths, overwrite)
    options = LabelOptions(membrane_id, cytosol_id, () if classes is None else numbers(classes, "--classes"))
    evaluation, notes = compare(sources, limits, options, tomogram=tomogram, voxel_nm=voxel_size, whole=whole)
    for note in notes:
        warn(note)
    if paths:
        files = {"prediction": sources[0].path, "truth": sources[1].path}
        files |= {} if tomogram is None else {"tomogram": tomogram}
        files |= {} if limits is None else {"outline": limits.path}
        _write(paths, evaluation, files, notes, voxel_source="option" if voxel_size else "header", overwrite=overwrite)
    print(json.dumps(as_dictionary(evaluation, notes), indent=2, allow_nan=False) if as_json else as_text(evaluation))
    for path in paths.values():
        (say if as_json else print)(f"wrote {path}")


def compare(
    sources: tuple[Source, Source],
    outline: Source | None,
    options: Any,
    *,
    tomogram: Path | None,
    voxel_nm: float | None,
    whole: bool,
) -> tuple[Evaluation, list[str]]:
    """Read both sides and compare them; the second value is what the user should look at.

    Raises
    ------
    BadInputError, UsageError
        A file cannot be used, or something about the volume must be told.
    """
    from deepvesicle.commands.compared import (
        grid_of,
        has_volume,
        on_common_shape,
        read_limits,
        read_side,
        voxel_size_notes,
    )
    from deepvesicle.errors import UsageError
    from deepvesicle.scoring.evaluation import evaluate as judge

    grid = grid_of(sources, outline, tomogram, voxel_nm)
    if whole and not has_volume(grid):
        raise UsageError("--whole needs the size of the volume", remedy="Name the tomogram with --tomogram")
    region = None if outline is None else read_limits(outline, grid)
    sides = on_common_shape([read_side(source, grid, options, outline) for source in sources])
    notes = [*voxel_size_notes(sources, outline, grid), *(note for side in sides for note in side.notes)]
    notes += [
        f"{source.path} holds no vesicles"
        for source, side in zip(sources, sides, strict=True)
        if len(side.vesicles) == 0
    ]
    evaluation = judge(
        sides[0].vesicles,
        sides[1].vesicles,
        region=region,
        whole=whole,
        unclear_predicted=sides[0].unclear,
        unclear_truth=sides[1].unclear,
    )
    return evaluation, list(dict.fromkeys(notes))  # a file may be compared with itself


def output_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Where the results of an evaluation go."""
    return {
        "table": folder / f"{stem}_evaluation.csv",
        "model": folder / f"{stem}_evaluation.mod",
        "record": folder / f"{stem}_evaluation.json",
    }


def stem_of_result(path: Path) -> str:
    """The file's name without its endings."""
    from deepvesicle.commands.segment import stem_of

    name = stem_of(path)
    return Path(name).stem if Path(name).suffix.lower() in (".mod", ".imod", ".csv") else name


def _write(
    paths: dict[str, Path],
    evaluation: Evaluation,
    inputs: dict[str, Path],
    notes: list[str],
    *,
    voxel_source: str,
    overwrite: bool,
) -> None:
    from deepvesicle.files.run_record import RunRecord
    from deepvesicle.scoring.outputs import write_evaluation_csv, write_evaluation_model

    record = RunRecord.start("evaluate", {}, inputs, voxel_nm=evaluation.truth.grid.voxel_nm, voxel_source=voxel_source)
    write_evaluation_csv(paths["table"], evaluation, overwrite=overwrite)
    write_evaluation_model(paths["model"], evaluation, overwrite=overwrite)
    done = record.finished(outputs=list(paths.values()), counts=evaluation.figures(), warnings=notes)
    done.write(paths["record"], overwrite=overwrite)


def as_dictionary(evaluation: Evaluation, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The figures, the ids of the missed and the false vesicles, and the warnings; None where nothing decides one."""
    from math import isfinite

    score = evaluation.by_centre
    figures = {name: value if isfinite(value) else None for name, value in evaluation.figures().items()}
    return {
        "voxel_nm": evaluation.truth.grid.voxel_nm,
        **figures,
        "missed_ids": evaluation.truth.ids[score.fn_rows].tolist(),
        "false_ids": evaluation.predicted.ids[score.fp_rows].tolist(),
        "warnings": list(notes),
    }


def as_text(evaluation: Evaluation) -> str:
    """The figures for a terminal."""
    from deepvesicle.commands.compared import several

    centre, volume = evaluation.by_centre, evaluation.by_volume
    counts = evaluation.counts()
    predicted = several(counts["vesicles_prediction"], "vesicle")
    lines = [
        f"{predicted} in the prediction, {counts['vesicles_truth']} in the truth",
        *_uncounted(counts),
        f"{'':<22}{'centre inside':>14}{'IoU at least 0.5':>18}",
    ]
    for name, kind in (("tp", "found"), ("fn", "missed"), ("fp", "false")):
        lines.append(f"  {kind:<20}{getattr(centre, name):>14}{getattr(volume, name):>18}")
    for name, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1")):
        lines.append(f"  {title:<20}{_number(getattr(centre, name)):>14}{_number(getattr(volume, name)):>18}")
    if round(evaluation.exchanged_f1, 3) != round(centre.f1, 3):
        lines.append(f"  {'F1, sides exchanged':<20}{_number(evaluation.exchanged_f1):>14}")
    rows = {
        "Dice of the spheres": _number(evaluation.dice),
        "delta_d": _number(centre.delta_d),
        "Delta_c": _number(centre.delta_c_nm, "{:.2f} nm"),
        "median centre error": _number(centre.median_centre_error_nm, "{:.2f} nm"),
        "radius bias": _number(centre.radius_bias_nm, "{:+.2f} nm"),
        "radius SD": _number(centre.radius_sd_nm, "{:.2f} nm"),
    }
    lines += [f"  {name:<20}{value:>14}" for name, value in rows.items()]
    return "\n".join(lines)


def _uncounted(counts: Mapping[str, int]) -> list[str]:
    """What counts neither for nor against, if anything does."""
    from deepvesicle.commands.compared import several

    parts = []
    for side in ("prediction", "truth"):
        kinds = {"vesicle": counts[f"ignored_{side}"], "unclear shape": counts[f"unclear_{side}"]}
        named = [several(number, kind) for kind, number in kinds.items() if number]
        parts += [f"{' and '.join(named)} of the {side}"] if named else []
    return [f"neither for nor against: {', '.join(parts)}"] if parts else []


def _number(value: float, form: str = "{:.3f}") -> str:
    from math import isfinite

    return form.format(value) if isfinite(value) else "undefined"
