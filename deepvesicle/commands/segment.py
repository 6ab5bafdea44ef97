"""`deepvesicle segment`: from a tomogram to spheres."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepvesicle.commands.options import (
    EllipsoidOption,
    GapOption,
    InvertOption,
    MaxRadiusOption,
    MemoryOption,
    MinRadiusOption,
    ModelOption,
    OverwriteOption,
    PrecisionOption,
    SaveProbabilityOption,
    SettingsOption,
    ThresholdOption,
    TiltAxisOption,
    TiltRangeOption,
    TomogramArgument,
    ViewsOption,
    VoxelSizeOption,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    import numpy as np
    from numpy.typing import NDArray

    from deepvesicle.files.staged import StagedFiles
    from deepvesicle.grid import Grid, Tomogram
    from deepvesicle.settings import Settings
    from deepvesicle.vesicles import Vesicles

#: Endings that do not belong to a tomogram's name.
_ENDINGS = (".gz", ".mrc", ".rec", ".nad", ".map", ".st")


def segment(
    tomogram: TomogramArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results; the tomogram's own by default.")
    ] = None,
    model: ModelOption = "default",
    voxel_size: VoxelSizeOption = None,
    invert: InvertOption = False,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Cell outline: closed contours (.mod) or a label volume; only vesicles centred inside count."
        ),
    ] = None,
    min_radius: MinRadiusOption = None,
    max_radius: MaxRadiusOption = None,
    threshold: ThresholdOption = None,
    views: ViewsOption = None,
    precision: PrecisionOption = None,
    save_probability: SaveProbabilityOption = False,
    from_probability: Annotated[
        Path | None, typer.Option(metavar="MRC", help="Use a probability written earlier; the network is not run.")
    ] = None,
    tilt_range: TiltRangeOption = None,
    tilt_axis: TiltAxisOption = None,
    ellipsoid: EllipsoidOption = False,
    gap: GapOption = None,
    memory: MemoryOption = None,
    overwrite: OverwriteOption = False,
    settings: SettingsOption = None,
) -> None:
    """Find the vesicles of a tomogram: IMOD model, labels, table, overview picture and run record."""
    from contextlib import ExitStack

    from deepvesicle.files.tomogram import read_tomogram
    from deepvesicle.memory import parse_memory

    chosen = merged_settings(
        settings,
        prediction={"augment": views, "precision": precision},
        proposal={"min_radius_nm": min_radius, "max_radius_nm": max_radius, "threshold": threshold},
        refinement={
            "tilt_range_deg": tilt_range_of(tilt_range),
            "tilt_axis": tilt_axis,
            "ellipsoid": ellipsoid or None,
        },
        labels={"gap_vox": gap},
    )
    budget = parse_memory(memory) if memory is not None else None
    folder = output or tomogram.parent
    paths = output_paths(folder, stem_of(tomogram), save_probability)
    refuse_existing(paths, overwrite)
    with ExitStack() as stack:
        buffer = scratch_buffer(stack, folder)
        vesicles = run(
            read_tomogram(tomogram, voxel_nm=voxel_size, invert=invert, buffer=buffer),
            tomogram,
            paths,
            chosen,
            model=model,
            mask=mask,
            from_probability=from_probability,
            overwrite=overwrite,
            voxel_source="option" if voxel_size else "header",
            memory_bytes=budget,
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
    memory_bytes: int | None = None,
) -> Vesicles:
    """Segment a tomogram that has been read, and write all results to `paths` (see `output_paths`).

    They appear together at the end, or none of them does.
    """
    from contextlib import ExitStack

    from deepvesicle.commands.console import warn
    from deepvesicle.commands.stages import stage_progress
    from deepvesicle.files.quality import contrast_sign
    from deepvesicle.files.region import read_region
    from deepvesicle.files.run_record import RunRecord
    from deepvesicle.files.staged import staged_files
    from deepvesicle.files.tomogram import read_probability, write_probability
    from deepvesicle.memory import default_budget
    from deepvesicle.network.zoo import load_network
    from deepvesicle.pipeline import counts, evidence_of
    from deepvesicle.pipeline import segment as find

    memory_bytes = memory_bytes or default_budget()
    network = load_network(model)
    inputs = {"tomogram": source, "model": network.folder}
    if mask is not None:
        inputs["mask"] = mask
    if from_probability is not None:
        inputs["probability"] = from_probability
    with staged_files(paths, overwrite=overwrite) as staged, ExitStack() as stack:
        folder = paths["labels"].parent
        mask_grid = volume.grid.rescaled(network.voxel_nm) if from_probability is None else None
        check_room(folder, volume.grid, mask_grid, "probability" in paths)
        record = RunRecord.start(
            "segment",
            settings,
            inputs,
            voxel_nm=volume.grid.voxel_nm,
            voxel_source=voxel_source,
            invert=volume.invert,
        )
        region = read_region(mask, volume.grid) if mask is not None else None
        probability = None
        if from_probability is not None:
            probability = read_probability(from_probability, buffer=scratch_buffer(stack, folder))
        warnings = list(volume.notes)
        if contrast_sign(volume).sign == "bright":
            warnings.append(
                "dense matter seems to be bright in this tomogram; deepvesicle needs it dark: "
                + ("try without --invert" if volume.invert else "try --invert")
            )
        for text in warnings:
            warn(text)
        with ExitStack() as scratch:
            out = None
            if mask_grid is not None:
                out = scratch_buffer(scratch, folder)(mask_grid.voxel_count).reshape(mask_grid.shape_zyx)
            with stage_progress() as progress:
                result = find(
                    volume,
                    settings,
                    network=network,
                    evidence=evidence_of(network),
                    probability=probability,
                    region=region,
                    progress=progress,
                    out=out,
                    memory_bytes=memory_bytes,
                )
            for text in result.warnings:
                warn(text)
            vesicles, notes, doubts = result.vesicles, result.notes, result.warnings
            if "probability" in paths:
                with staged.place("probability") as place:
                    write_probability(place, result.probability)
            del result, out, probability
        hidden = _write_results(staged, volume, vesicles, settings.labels.gap_vox)
        if hidden:
            warnings.append(hidden)
            warn(hidden)
        done = record.finished(
            outputs=list(paths.values()), counts=counts(vesicles), warnings=[*warnings, *doubts], notes=notes
        )
        with staged.place("record") as place:
            done.write(place)
    return vesicles


def _write_results(staged: StagedFiles, volume: Tomogram, vesicles: Vesicles, gap_vox: int) -> str:
    """Write labels, table, picture and model; gives what the user should know of the labels."""
    from deepvesicle.files.imod import write_vesicles_model
    from deepvesicle.files.labels import write_drawn_labels
    from deepvesicle.files.tables import write_vesicles_csv
    from deepvesicle.fitting.rasterize import draw_slab
    from deepvesicle.report.overview import write_overview

    seen: set[int] = set()

    def draw(grid: Grid, out: NDArray[np.uint16]) -> list[tuple[int, int, tuple[slice, slice, slice]]]:
        drawn = draw_slab(vesicles, grid, out, gap_vox=gap_vox)
        seen.update(number for number, count, _ in drawn if count)
        return drawn

    with staged.place("labels") as place:
        write_drawn_labels(place, vesicles.grid, draw)
    with staged.place("table") as place:
        write_vesicles_csv(place, vesicles)
    with staged.place("overview") as place:
        write_overview(place, volume, vesicles)
    with staged.place("model") as place:
        write_vesicles_model(place, vesicles)
    hidden = [number for number in vesicles.ids[vesicles.accepted].tolist() if number not in seen]
    if not hidden:
        return ""
    return (
        f"{len(hidden)} vesicles have no voxel in the labels, as others and the gap take all of theirs: "
        + ", ".join(str(i) for i in hidden[:10])
    )


def scratch_buffer(stack: ExitStack, folder: Path) -> Callable[[int], NDArray[np.uint8]]:
    """Give a function that makes places for so many bytes on the disk of a folder, gone when `stack` is closed."""
    from deepvesicle.files.scratch import scratch_array

    there = folder if folder.is_dir() else folder.parent

    def make(size: int) -> NDArray[np.uint8]:
        return stack.enter_context(scratch_array(there, (size,), "u1"))

    return make


def check_room(folder: Path, grid: Grid, mask_grid: Grid | None, save_probability: bool) -> None:
    """Refuse to begin where the disk is too full for what will be written.

    Raises
    ------
    NoSpaceError
    """
    from deepvesicle.files.scratch import check_space

    scratch = mask_grid.voxel_count if mask_grid is not None else 0
    kept = 4 * (mask_grid or grid).voxel_count if save_probability else 0
    # The probability is gone before the labels are drawn.
    check_space(folder, max(scratch, 2 * grid.voxel_count) + kept, "the results")


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
    }
    if probability:
        names["probability"] = f"{stem}_probability.mrc"
    names["record"] = f"{stem}_run.json"  # the last: it says that all are there
    return {key: folder / name for key, name in names.items()}


def refuse_existing(paths: dict[str, Path], overwrite: bool) -> None:
    """Stop before the work rather than after it where a result exists or cannot be written.

    Raises
    ------
    OutputExistsError, UsageError
    """
    from deepvesicle.files.staged import check_outputs

    check_outputs(list(paths.values()), overwrite=overwrite)


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


def merged_settings(
    path: Path | None,
    *,
    prediction: dict[str, Any],
    proposal: dict[str, Any],
    refinement: dict[str, Any],
    labels: dict[str, Any],
) -> Settings:
    """Defaults, then the file, then the options that are given (not None).

    Raises
    ------
    UsageError
        An option makes no sense.
    BadInputError
        The file cannot be read, or makes no sense.
    """
    from dataclasses import replace

    from deepvesicle.errors import UsageError
    from deepvesicle.settings import MAX_GAP_VOX, PRECISIONS, TILT_AXES, VIEWS, Settings, read_settings

    settings = read_settings(path) if path is not None else Settings()
    settings = replace(
        settings,
        prediction=replace(settings.prediction, **_given(prediction)),
        proposal=replace(settings.proposal, **_given(proposal)),
        refinement=replace(settings.refinement, **_given(refinement)),
        labels=replace(settings.labels, **_given(labels)),
    )
    _check_proposal(settings, path, proposal)
    axis, gap = settings.refinement.tilt_axis, settings.labels.gap_vox
    if axis not in TILT_AXES:
        raise UsageError("--tilt-axis is not an axis of tilting", expected=" or ".join(TILT_AXES), got=repr(axis))
    if settings.prediction.augment not in VIEWS:
        raise UsageError(
            "--views is not a number of mirror images",
            expected=f"one of {', '.join(map(str, VIEWS))}",
            got=f"{settings.prediction.augment}",
        )
    if settings.prediction.precision not in PRECISIONS:
        raise UsageError(
            "--precision is not one that the network can calculate in",
            expected=f"one of {', '.join(PRECISIONS)}",
            got=repr(settings.prediction.precision),
        )
    if not 0 <= gap <= MAX_GAP_VOX:
        raise UsageError("--gap is not a number of voxels", expected=f"0 to {MAX_GAP_VOX}", got=f"{gap}")
    return settings


def _check_proposal(settings: Settings, path: Path | None, options: dict[str, Any]) -> None:
    """Refuse limits and thresholds that make no sense; says whether the file or an option is to blame."""
    from deepvesicle.errors import BadInputError, UsageError

    limits = settings.proposal
    if not 0 < limits.min_radius_nm < limits.max_radius_nm < float("inf"):
        got = f"{limits.min_radius_nm:g} and {limits.max_radius_nm:g}"
        if options.get("min_radius_nm") is None and options.get("max_radius_nm") is None:
            raise BadInputError(
                f"{path}: the limits of the radius make no sense",
                expected="0 < proposal.min_radius_nm < proposal.max_radius_nm",
                got=got,
            )
        raise UsageError(
            "the limits of the radius make no sense", expected="0 < --min-radius < --max-radius, in nm", got=got
        )
    if limits.threshold is not None and not 0 < limits.threshold < 1:
        expected, got = "more than 0 and less than 1", f"{limits.threshold:g}"
        if options.get("threshold") is None:
            raise BadInputError(f"{path}: proposal.threshold is not valid", expected=expected, got=got)
        raise UsageError("--threshold cannot be used", expected=expected, got=got)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def tilt_range_of(text: str | None) -> tuple[float, float] | None:
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


# What `deepvesicle.commands.batch` calls them.
_settings, _tilt_range = merged_settings, tilt_range_of
