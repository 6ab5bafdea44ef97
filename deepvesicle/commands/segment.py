"""`deepvesicle segment`: from a tomogram to spheres."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepvesicle.commands.options import InvertOption, OverwriteOption, TomogramArgument, VoxelSizeOption

if TYPE_CHECKING:
    from deepvesicle.grid import Tomogram
    from deepvesicle.settings import Settings
    from deepvesicle.vesicles import Vesicles

#: Endings that do not belong to a tomogram's name.
_ENDINGS = (".gz", ".mrc", ".rec", ".nad", ".map", ".st")


def segment(
    tomogram: TomogramArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results; the tomogram's own by default.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Network: the name of a shipped one, or the folder of your own.")
    ] = "default",
    voxel_size: VoxelSizeOption = None,
    invert: InvertOption = False,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Cell outline: closed contours (.mod) or a label volume; only vesicles centred inside count."
        ),
    ] = None,
    min_radius: Annotated[
        float | None, typer.Option(metavar="NM", help="Smallest outer radius, by default 12.")
    ] = None,
    max_radius: Annotated[
        float | None, typer.Option(metavar="NM", help="Largest outer radius, by default 100.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Probability from which a voxel counts; the model's own by default.")
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(metavar="N", help="Mirror images averaged: 1 (default), 2, 4 or 8; N times the time."),
    ] = None,
    save_probability: Annotated[
        bool, typer.Option("--save-probability", help="Also write the network's probability (MRC).")
    ] = False,
    from_probability: Annotated[
        Path | None, typer.Option(metavar="MRC", help="Use a probability written earlier; the network is not run.")
    ] = None,
    tilt_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="Lowest and highest tilt, degrees; by default as the missing wedge shows."
        ),
    ] = None,
    tilt_axis: Annotated[str | None, typer.Option(metavar="y|x", help="Axis of the tilt series, by default y.")] = None,
    ellipsoid: Annotated[
        bool, typer.Option("--ellipsoid", help="Also fit an ellipsoid to each vesicle, for the table.")
    ] = False,
    gap: Annotated[
        int | None, typer.Option(metavar="N", help="Voxels to leave between the labels of vesicles, by default 0.")
    ] = None,
    overwrite: OverwriteOption = False,
    settings: Annotated[
        Path | None, typer.Option(metavar="TOML", help="File with settings; options on the command line win.")
    ] = None,
) -> None:
    """Find the vesicles of a tomogram: IMOD model, labels, table, overview picture and run record."""
    from deepvesicle.files.tomogram import read_tomogram

    chosen = _settings(
        settings,
        prediction={"augment": views},
        proposal={"min_radius_nm": min_radius, "max_radius_nm": max_radius, "threshold": threshold},
        refinement={
            "tilt_range_deg": _tilt_range(tilt_range),
            "tilt_axis": tilt_axis,
            "ellipsoid": ellipsoid or None,
        },
        labels={"gap_vox": gap},
    )
    folder = output or tomogram.parent
    paths = output_paths(folder, stem_of(tomogram), save_probability)
    refuse_existing(paths, overwrite)
    volume = read_tomogram(tomogram, voxel_nm=voxel_size, invert=invert)
    vesicles = run(
        volume,
        tomogram,
        paths,
        chosen,
        model=model,
        mask=mask,
        from_probability=from_probability,
        overwrite=overwrite,
        voxel_source="option" if voxel_size else "header",
    )
    for line in summary_lines(vesicles):
        print(line)
    for path in paths.values():
        print(f"wrote {path}")


def run(
    volume: Tomogram,
    source: Path,
    paths: dict[str, Path],
    settings: Settings,
    *,
    model: str = "default",
    mask: Path | None = None,
    from_probability: Path | None = None,
    overwrite: bool = False,
    voxel_source: str = "header",
) -> Vesicles:
    """Segment a tomogram that has been read, and write all results to `paths` (see `output_paths`)."""
    from deepvesicle.commands.console import warn
    from deepvesicle.commands.stages import stage_progress
    from deepvesicle.files.imod import write_vesicles_model
    from deepvesicle.files.quality import contrast_sign
    from deepvesicle.files.region import read_region
    from deepvesicle.files.run_record import RunRecord
    from deepvesicle.files.tables import write_vesicles_csv
    from deepvesicle.files.tomogram import read_probability, write_labels, write_probability
    from deepvesicle.fitting.rasterize import rasterize, without_label
    from deepvesicle.network.zoo import load_network
    from deepvesicle.pipeline import counts, evidence_of
    from deepvesicle.pipeline import segment as find
    from deepvesicle.report.overview import write_overview

    network = load_network(model)
    inputs = {"tomogram": source, "model": network.folder}
    if mask is not None:
        inputs["mask"] = mask
    if from_probability is not None:
        inputs["probability"] = from_probability
    record = RunRecord.start(
        "segment",
        settings,
        inputs,
        voxel_nm=volume.grid.voxel_nm,
        voxel_source=voxel_source,
        invert=volume.invert,
    )
    region = read_region(mask, volume.grid) if mask is not None else None
    probability = read_probability(from_probability) if from_probability is not None else None
    warnings = list(volume.notes)
    if contrast_sign(volume).sign == "bright":
        warnings.append(
            "dense matter seems to be bright in this tomogram; deepvesicle needs it dark: "
            + ("try without --invert" if volume.invert else "try --invert")
        )
    for text in warnings:
        warn(text)
    with stage_progress() as progress:
        result = find(
            volume,
            settings,
            network=network,
            evidence=evidence_of(network),
            probability=probability,
            region=region,
            progress=progress,
        )
    for text in result.warnings:
        warn(text)
    vesicles = result.vesicles
    if "probability" in paths:
        write_probability(paths["probability"], result.probability, overwrite=overwrite)
    labels = rasterize(vesicles, gap_vox=settings.labels.gap_vox)
    write_labels(paths["labels"], labels, overwrite=overwrite)
    hidden = without_label(vesicles, labels)
    if hidden:
        warnings.append(
            f"{len(hidden)} vesicles have no voxel in the labels, as others and the gap take all of theirs: "
            + ", ".join(str(i) for i in hidden[:10])
        )
        warn(warnings[-1])
    write_vesicles_csv(paths["table"], vesicles, overwrite=overwrite)
    write_overview(paths["overview"], volume, vesicles, overwrite=overwrite)
    write_vesicles_model(paths["model"], vesicles, overwrite=overwrite)
    done = record.finished(
        outputs=list(paths.values()),
        counts=counts(vesicles),
        warnings=[*warnings, *result.warnings],
        notes=result.notes,
    )
    done.write(paths["record"], overwrite=overwrite)
    return vesicles


def stem_of(path: Path) -> str:
    """The tomogram's name without its endings."""
    name = path.name
    while Path(name).suffix.lower() in _ENDINGS and Path(name).stem:
        name = Path(name).stem
    return name


def output_paths(folder: Path, stem: str, probability: bool = False) -> dict[str, Path]:
    """Where the results of a segmentation go."""
    names = {
        "model": f"{stem}_vesicles.mod",
        "labels": f"{stem}_labels.mrc",
        "table": f"{stem}_vesicles.csv",
        "overview": f"{stem}_overview.png",
        "record": f"{stem}_run.json",
    }
    if probability:
        names["probability"] = f"{stem}_probability.mrc"
    return {key: folder / name for key, name in names.items()}


def refuse_existing(paths: dict[str, Path], overwrite: bool) -> None:
    """Stop before the work rather than after it where a result exists or cannot be written.

    Raises
    ------
    OutputExistsError, UsageError
    """
    from deepvesicle.errors import OutputExistsError
    from deepvesicle.files.atomic import check_output

    existing = [path for path in paths.values() if path.exists()]
    if existing and not overwrite:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise OutputExistsError(
            f"{existing[0]}{more} exists already", remedy="Give --overwrite to replace, or another place with -o"
        )
    for path in paths.values():
        check_output(path, overwrite=overwrite)


def summary_lines(vesicles: Vesicles) -> list[str]:
    """The result in a few words, for the terminal."""
    import numpy as np

    from deepvesicle.pipeline import counts

    numbers = counts(vesicles)
    accepted = int(vesicles.accepted.sum())
    lines = [
        f"{accepted} vesicles ({numbers['refined']:.0f} sure, {numbers['doubtful']:.0f} doubtful); "
        f"{numbers['rejected']:.0f} rejected"
    ]
    if accepted:
        radii = vesicles.radii_nm[vesicles.accepted]
        low, middle, high = np.percentile(radii, (5, 50, 95))
        lines.append(f"outer radius: median {middle:.1f} nm, 5-95 % {low:.1f} to {high:.1f} nm")
    else:
        lines.append(
            "no vesicle found: check the voxel size and the contrast with `deepvesicle check`; "
            "a lower --threshold finds fainter ones"
        )
    return lines


def _settings(
    path: Path | None,
    *,
    prediction: dict[str, Any],
    proposal: dict[str, Any],
    refinement: dict[str, Any],
    labels: dict[str, Any],
) -> Settings:
    """Defaults, then the file, then the options that are given (not None)."""
    from dataclasses import replace

    from deepvesicle.errors import UsageError
    from deepvesicle.settings import MAX_GAP_VOX, TILT_AXES, VIEWS, Settings, read_settings

    settings = read_settings(path) if path is not None else Settings()
    settings = replace(
        settings,
        prediction=replace(settings.prediction, **_given(prediction)),
        proposal=replace(settings.proposal, **_given(proposal)),
        refinement=replace(settings.refinement, **_given(refinement)),
        labels=replace(settings.labels, **_given(labels)),
    )
    limits, axis, gap = settings.proposal, settings.refinement.tilt_axis, settings.labels.gap_vox
    if not 0 < limits.min_radius_nm < limits.max_radius_nm < float("inf"):
        raise UsageError(
            "the limits of the radius make no sense",
            expected="0 < --min-radius < --max-radius, in nm",
            got=f"{limits.min_radius_nm:g} and {limits.max_radius_nm:g}",
        )
    if limits.threshold is not None and not 0 < limits.threshold < 1:
        raise UsageError("--threshold is not a probability", expected="between 0 and 1", got=f"{limits.threshold:g}")
    if axis not in TILT_AXES:
        raise UsageError("--tilt-axis is not an axis of tilting", expected=" or ".join(TILT_AXES), got=repr(axis))
    if settings.prediction.augment not in VIEWS:
        raise UsageError(
            "--views is not a number of mirror images",
            expected=f"one of {', '.join(map(str, VIEWS))}",
            got=f"{settings.prediction.augment}",
        )
    if not 0 <= gap <= MAX_GAP_VOX:
        raise UsageError("--gap is not a number of voxels", expected=f"0 to {MAX_GAP_VOX}", got=f"{gap}")
    return settings


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _tilt_range(text: str | None) -> tuple[float, float] | None:
    """Two numbers with a comma between them.

    Raises
    ------
    UsageError
    """
    from deepvesicle.errors import UsageError
    from deepvesicle.settings import is_tilt_range

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not is_tilt_range((low, high)):
        raise UsageError(
            "--tilt-range is not a range of tilts",
            expected="LOW,HIGH in degrees, between -90 and 90, at least 20 apart, such as -60,60",
            got=text,
        )
    return low, high
