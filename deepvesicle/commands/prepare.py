"""`deepvesicle prepare`: a manual segmentation, in whatever form it was drawn, becomes training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepvesicle.commands.options import InvertOption, TomogramArgument, VoxelSizeOption
from deepvesicle.errors import UsageError

if TYPE_CHECKING:
    from deepvesicle.preparing import Prepared

#: Unclear shapes listed one by one, at most.
_MAX_LISTED = 12


def prepare(
    tomogram: TomogramArgument,
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="IMOD models and label volumes (MRC) drawn on it, or tables of its vesicles (CSV).",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DATASET", help="Folder of the dataset; made, or added to."),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name in the dataset; by default that of the tomogram's file.", show_default=False),
    ] = None,
    vesicles: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|NUMBER",
            help="Object of a model that holds vesicles; may be repeated. By default all but the outline "
            "(nor those that deepvesicle names rejected, proposed and not_fitted).",
            show_default=False,
        ),
    ] = None,
    outline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|NUMBER|FILE",
            help="Where all vesicles were marked; what is outside is ignored in training. An object of a model, a "
            "label of a volume, or a file of its own, FILE:PART for one object or label; may be repeated.",
            show_default=False,
        ),
    ] = None,
    vesicle_ids: Annotated[
        str | None,
        typer.Option(metavar="ID,ID", help="Labels of vesicles; by default all others.", show_default=False),
    ] = None,
    membrane_id: Annotated[
        int | None, typer.Option(metavar="ID", help="Label of the membrane in a volume for Pyto.", show_default=False)
    ] = None,
    cytosol_id: Annotated[
        int | None,
        typer.Option(
            metavar="ID",
            help="Label of the cytosol in a volume for Pyto; what has no label at all is then ignored.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="ID,ID",
            help="These labels are classes, such as membrane and lumen: each connected piece of them is a vesicle.",
            show_default=False,
        ),
    ] = None,
    discs: Annotated[
        bool, typer.Option("--discs", help="Every contour or label is a disc through the middle of one vesicle.")
    ] = False,
    pyto_rounding: Annotated[
        bool, typer.Option("--pyto-rounding", help="Round the centres and radii of discs as Pyto does.")
    ] = False,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine/--no-refine",
            help="Fit the spheres to the membranes; what cannot be fitted stays as drawn. Off by default: careful "
            "drawings are more exact than fits. Worth it where a warning says that all radii are off.",
        ),
    ] = False,
    voxel_size: VoxelSizeOption = None,
    invert: InvertOption = False,
    network_voxel_size: Annotated[
        float | None,
        typer.Option(
            metavar="NM", help="Voxel size of the dataset; by default its own, or that of --model.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Network that will be trained on; default if nothing is given.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace this tomogram in the dataset.")] = False,
) -> None:
    """Turn manual segmentations of a tomogram into training data, and show what was understood."""
    from deepvesicle.annotations.choosing import Choice
    from deepvesicle.commands.compared import numbers
    from deepvesicle.commands.console import warn
    from deepvesicle.commands.segment import stem_of
    from deepvesicle.commands.stages import stage_progress
    from deepvesicle.files.tomogram import read_tomogram
    from deepvesicle.preparing import check_dataset, default_name, prepare_volume

    names, masks = _outlines(outline or [])
    choice = Choice(
        vesicles=tuple(vesicles or ()),
        outline=names,
        masks=masks,
        vesicle_ids=() if vesicle_ids is None else numbers(vesicle_ids, "--vesicle-ids"),
        membrane_id=membrane_id,
        cytosol_id=cytosol_id,
        classes=() if classes is None else numbers(classes, "--classes"),
        discs=discs,
        pyto_rounding=pyto_rounding,
    )
    name = default_name(stem_of(tomogram)) if name is None else name
    wanted_nm = _voxel_nm(network_voxel_size, model)
    check_dataset(output, name, wanted_nm, overwrite=overwrite)
    volume = read_tomogram(tomogram, voxel_nm=voxel_size, invert=invert)
    with stage_progress() as progress:
        prepared = prepare_volume(
            volume,
            models,
            output,
            name,
            choice,
            voxel_nm=wanted_nm,
            fit=refine,
            overwrite=overwrite,
            progress=progress,
        )
    for warning in prepared.warnings:
        warn(warning)
    for line in summary(prepared):
        print(line)


def summary(prepared: Prepared) -> list[str]:
    """What was understood and stored, for the terminal."""
    import numpy as np

    from deepvesicle.preparing import inside, unclear_shapes

    annotation = prepared.annotation
    low, middle, high = np.percentile(annotation.vesicles.radii_nm, (5, 50, 95))
    number = len(annotation.vesicles)
    within = int(annotation.vesicles.grid.contains(annotation.vesicles.centres_vox).sum())
    counted = f"{number} vesicle{'' if number == 1 else 's'}"
    counted += f", {within} of them centred inside the tomogram" if within < number else ""
    lines = [f"{counted}, outer radius: median {middle:.1f} nm, 5-95 % {low:.1f} to {high:.1f} nm"]
    beyond = int((~inside(annotation.vesicles, annotation.region)).sum())
    if beyond:
        lines.append(f"{beyond} of them centred outside the outline")
    unclear = unclear_shapes(annotation.unclear)
    if unclear:
        lines.append(f"{len(unclear)} unclear, ignored in training:")
        lines += [f"  {place}: {reason}" for place, reason in unclear[:_MAX_LISTED]]
        lines += [f"  and {len(unclear) - _MAX_LISTED} more"] if len(unclear) > _MAX_LISTED else []
    refined = prepared.refined
    if refined is not None:
        lines.append(
            f"{refined.fitted} fitted, {refined.kept} kept as drawn; radii changed by {refined.radius_change_nm:+.2f} "
            f"nm, centres by {refined.move_nm:.2f} nm (medians)"
        )
    share = float(prepared.volume.source["annotated_share"])
    nz, ny, nx = prepared.volume.grid.shape_zyx
    lines.append(f"annotated: {share:.1%} of {nx} x {ny} x {nz} voxels of {prepared.volume.grid.voxel_nm:.4g} nm")
    return [*lines, f"wrote {prepared.volume.path}", f"wrote {prepared.picture}: look at it"]


def _outlines(texts: list[str]) -> tuple[tuple[str, ...], tuple[tuple[Path, str | None], ...]]:
    """Sort what --outline says into names or numbers, and files with the part that is meant."""
    names: list[str] = []
    files: list[tuple[Path, str | None]] = []
    for text in texts:
        before, _, part = text.rpartition(":")
        if Path(text).is_file():
            files.append((Path(text), None))
        elif before and Path(before).is_file():
            files.append((Path(before), part))
        else:
            names.append(text)
    return tuple(names), tuple(files)


def _voxel_nm(given: float | None, model: str | None) -> float | None:
    """Voxel size of the dataset, nm, if the user says something of it.

    Raises
    ------
    NetworkError, UsageError
    """
    from deepvesicle.grid import VOXEL_NM_RANGE
    from deepvesicle.network.zoo import load_network

    if given is not None and model is not None:
        raise UsageError("--network-voxel-size and --model exclude one another")
    low, high = VOXEL_NM_RANGE
    if given is not None and not low <= given <= high:
        raise UsageError(f"--network-voxel-size {given:g} cannot be right", expected=f"{low} to {high} nm")
    return load_network(model).voxel_nm if model is not None else given
