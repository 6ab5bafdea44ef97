"""`deepvesicle batch`: many tomograms, one after another, on several workers or as an array of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepvesicle.commands.options import (
    EllipsoidOption,
    GapOption,
    InvertOption,
    MaxRadiusOption,
    MinRadiusOption,
    ModelOption,
    SaveProbabilityOption,
    SettingsOption,
    ThresholdOption,
    TiltAxisOption,
    TiltRangeOption,
    ViewsOption,
    VoxelSizeOption,
)

if TYPE_CHECKING:
    from deepvesicle.batch.engine import Engine
    from deepvesicle.batch.manifest import Manifest
    from deepvesicle.batch.plan import Plan, Unit
    from deepvesicle.batch.state import State
    from deepvesicle.settings import Settings

#: The settings of a batch, as every one of its tomograms is segmented with them.
SETTINGS_NAME = "batch_settings.toml"


def batch(
    tomograms: Annotated[
        list[str] | None,
        typer.Argument(help="Tomograms, or patterns such as 'tomos/*.mrc' (in quotes).", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results: in it, a folder for each tomogram."),
    ] = None,
    model: ModelOption = "default",
    voxel_size: VoxelSizeOption = None,
    invert: InvertOption = False,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Cell outline of each tomogram, such as '{stem}_outline.mod' (beside it): see segment --mask.",
        ),
    ] = None,
    min_radius: MinRadiusOption = None,
    max_radius: MaxRadiusOption = None,
    threshold: ThresholdOption = None,
    views: ViewsOption = None,
    save_probability: SaveProbabilityOption = False,
    tilt_range: TiltRangeOption = None,
    tilt_axis: TiltAxisOption = None,
    ellipsoid: EllipsoidOption = False,
    gap: GapOption = None,
    settings: SettingsOption = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace results made with other settings; without it they are kept in earlier_1, ..."
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="KIND[:N]",
            help="Work on N tomograms at the same time: local, slurm, pbs, lsf, sge, or the tcp:// address of a dask "
            "scheduler. One after another without it.",
            show_default=False,
        ),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cores for each tomogram.", show_default=False)
    ] = None,
    job_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of each job of a batch system, such as 4GB.", show_default=False),
    ] = None,
    write_sbatch: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only write a SLURM job script, an array with a task for each tomogram."),
    ] = None,
    at_once: Annotated[
        int, typer.Option(min=0, metavar="N", help="With --write-sbatch: tasks at the same time; 0 for no limit.")
    ] = 0,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="With --write-sbatch: one more, as --partition=short; may be repeated."),
    ] = None,
    task: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="NUMBER", help="Only the tomogram of that number in batch.json.", show_default=False
        ),
    ] = None,
) -> None:
    """Segment many tomograms: what is finished is left alone, and one bad tomogram does not stop the others."""
    from deepvesicle.errors import UsageError

    if output is None:
        raise UsageError("batch needs a folder for the results", expected="-o FOLDER")
    if task is not None:
        if tomograms:
            raise UsageError("--task takes the tomograms from batch.json", expected="no tomograms with it")
        _one(output, task, overwrite)
        return
    if not tomograms:
        raise UsageError("batch needs tomograms", expected="such as deepvesicle batch 'tomos/*.mrc' -o results")
    if write_sbatch is not None and cluster is not None:
        raise UsageError("--write-sbatch and --cluster exclude one another")
    engine = _engine(cluster, cores or 0, job_memory or "", output)
    chosen = _chosen_settings(settings, views, min_radius, max_radius, threshold, tilt_range, tilt_axis, ellipsoid, gap)
    manifest, units = _prepared(
        output, tomograms, mask, chosen, model=model, voxel_nm=voxel_size, invert=invert, probability=save_probability
    )
    if write_sbatch is not None:
        _write_script(
            manifest,
            units,
            write_sbatch,
            at_once=at_once,
            cores=cores,
            memory=job_memory,
            directives=sbatch or [],
            overwrite=overwrite,
        )
        return
    _all(manifest, units, engine, overwrite)


def _engine(cluster: str | None, cores: int, job_memory: str, output: Path) -> Engine:
    from dataclasses import replace

    from deepvesicle.batch.engine import OneByOne

    if cluster is None:
        return OneByOne(cores)
    from deepvesicle.batch.clusters import parse_cluster
    from deepvesicle.batch.dask_engine import OnCluster

    spec = replace(parse_cluster(cluster), cores=cores, job_memory=job_memory, log_folder=str(output.absolute()))
    return OnCluster(spec)


def _chosen_settings(
    path: Path | None,
    views: int | None,
    min_radius: float | None,
    max_radius: float | None,
    threshold: float | None,
    tilt_range: str | None,
    tilt_axis: str | None,
    ellipsoid: bool,
    gap: int | None,
) -> Settings:
    from deepvesicle.commands import segment

    return segment._settings(
        path,
        prediction={"augment": views},
        proposal={"min_radius_nm": min_radius, "max_radius_nm": max_radius, "threshold": threshold},
        refinement={
            "tilt_range_deg": segment._tilt_range(tilt_range),
            "tilt_axis": tilt_axis,
            "ellipsoid": ellipsoid or None,
        },
        labels={"gap_vox": gap},
    )


def _prepared(
    output: Path,
    patterns: list[str],
    mask: str | None,
    settings: Settings,
    *,
    model: str,
    voxel_nm: float | None,
    invert: bool,
    probability: bool,
) -> tuple[Manifest, list[Unit]]:
    """Check everything that can be checked before the work, and write down what is to be done."""
    from deepvesicle.batch.manifest import MANIFEST_NAME, Manifest, joined, read_manifest
    from deepvesicle.batch.names import find_tomograms, known_names, mask_of
    from deepvesicle.batch.plan import Unit, settings_as_toml
    from deepvesicle.commands.segment import stem_of
    from deepvesicle.files.atomic import check_output, new_file

    paths = find_tomograms(patterns, output)
    folder = output.absolute()
    plan = _plan(folder, settings, model=model, voxel_nm=voxel_nm, invert=invert, probability=probability)
    earlier = read_manifest(folder)
    old = {unit.tomogram: unit for unit in earlier.units} if earlier else {}
    names = known_names({path: unit.name for path, unit in old.items()}, paths, stem_of)
    masks = {path: str(mask_of(mask, path, stem_of(path))) if mask else None for path in paths}
    check_output(folder / MANIFEST_NAME, overwrite=True)
    units: list[Unit] = []
    number = max((unit.number for unit in old.values()), default=0)
    for path in paths:
        known = old.get(str(path))
        number += known is None
        units.append(Unit(known.number if known else number, names[path], str(path), stem_of(path), masks[path]))
    with new_file(folder / SETTINGS_NAME, overwrite=True) as temporary:
        temporary.write_text(settings_as_toml(settings), encoding="utf-8")
    return Manifest(plan, joined(list(old.values()), units)), units


def _plan(
    folder: Path, settings: Settings, *, model: str, voxel_nm: float | None, invert: bool, probability: bool
) -> Plan:
    """The command line of `deepvesicle segment` for every tomogram, and what its result must be of."""
    from deepvesicle.batch.plan import Plan, Wanted, deciding
    from deepvesicle.commands.segment import output_paths
    from deepvesicle.files.mrc_header import checked_voxel_nm
    from deepvesicle.files.run_record import FileRecord
    from deepvesicle.network.zoo import load_network

    voxel_nm = None if voxel_nm is None else checked_voxel_nm(voxel_nm)
    network = load_network(model)
    arguments = ["segment", "{tomogram}", "--output", "{folder}", "--model", str(network.folder)]
    arguments += ["--settings", str(folder / SETTINGS_NAME)]
    if voxel_nm is not None:
        arguments += ["--voxel-size", repr(voxel_nm)]
    arguments += ["--invert"] * invert + ["--save-probability"] * probability
    outputs = output_paths(Path(), "{stem}", probability)
    wanted = Wanted(deciding(settings), FileRecord.of(network.folder).sha256, voxel_nm, invert)
    return Plan(
        str(folder),
        tuple(arguments),
        tuple(path.name for path in outputs.values()),
        outputs["record"].name,
        wanted,
    )


def _all(manifest: Manifest, units: list[Unit], engine: Engine, overwrite: bool) -> None:
    """Work on all units, print the table, and end with an error if some failed."""
    from deepvesicle.batch.manifest import TABLE_NAME
    from deepvesicle.batch.run import new_run_name, run_batch
    from deepvesicle.commands.batch_view import batch_view, table_lines
    from deepvesicle.commands.console import say

    run = new_run_name()
    try:
        with batch_view() as view:
            states = run_batch(manifest, units, engine, view, run=run, overwrite=overwrite)
    except (KeyboardInterrupt, SystemExit):
        say(f"stopped; {_finished(manifest, units)} of {len(units)} are finished; the same command goes on from here")
        raise
    for line in table_lines(units, states, run):
        print(line)
    print(f"wrote {manifest.path} and {TABLE_NAME}")
    _complain(units, states)


def _finished(manifest: Manifest, units: list[Unit]) -> int:
    from deepvesicle.batch.state import Stage, State

    return sum(manifest.states.get(unit.name, State()).stage is Stage.DONE for unit in units)


def _complain(units: list[Unit], states: dict[str, State]) -> None:
    """Raise what tells that units failed: one error if it is some of them, another if it is all.

    Raises
    ------
    PartialFailure, BadInputError
    """
    from deepvesicle.batch.state import Stage
    from deepvesicle.errors import BadInputError, PartialFailure

    failed = [unit.name for unit in units if states[unit.name].stage is not Stage.DONE]
    if not failed:
        return
    if len(units) == 1:
        raise BadInputError(f"{failed[0]} failed: {states[failed[0]].error or 'it was stopped'}")
    kind = BadInputError if len(failed) == len(units) else PartialFailure
    named = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
    raise kind(
        f"{len(failed)} of {len(units)} tomograms failed: {named}",
        remedy="The same command tries these again; each has its log in its folder",
    )


def _write_script(
    manifest: Manifest,
    units: list[Unit],
    path: Path,
    *,
    at_once: int,
    cores: int | None,
    memory: str | None,
    directives: list[str],
    overwrite: bool,
) -> None:
    from deepvesicle.batch.sbatch import DEFAULT_CORES, DEFAULT_MEMORY, ArrayJob, write_sbatch

    job = ArrayJob(
        Path(manifest.plan.folder),
        [unit.number for unit in units],
        at_once=at_once,
        cores=cores or DEFAULT_CORES,
        memory=(memory or DEFAULT_MEMORY).upper().removesuffix("B"),
        directives=directives,
        overwrite=overwrite,
    )
    write_sbatch(path, job, overwrite=overwrite)
    manifest.refresh()
    print(f"wrote {path}: submit it with `sbatch {path}`, and again if some fail")


def _one(output: Path, number: int, overwrite: bool) -> None:
    """A task of an array: one unit of the manifest."""
    import os

    from deepvesicle.batch.manifest import read_manifest
    from deepvesicle.batch.run import new_run_name
    from deepvesicle.batch.work import perform
    from deepvesicle.commands.batch_view import result_of
    from deepvesicle.errors import BadInputError

    manifest = read_manifest(output.absolute())
    if manifest is None:
        raise BadInputError(f"there is no batch in {output}", expected="a folder with batch.json")
    unit = manifest.unit(number)
    print(f"{unit.name}: {unit.tomogram}; log: {unit.log(manifest.plan)}", flush=True)
    # SLURM runs a task again whose machine was lost: its deaths are counted over both.
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    try:
        state = perform(manifest.plan, unit, f"slurm-{job}" if job else new_run_name(), overwrite=overwrite)
    finally:
        manifest.refresh()
    print(f"{unit.name}: {result_of(state)}")
    _complain([unit], {unit.name: state})
