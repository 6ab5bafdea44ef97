"""`deepvesicle batch`: many tomograms, one after another, on several workers or as an array of jobs."""

from __future__ import annotations

from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class _Way:
    """How each tomogram is segmented."""

    settings: Settings
    model: str
    voxel_nm: float | None
    invert: bool
    probability: bool
    memory: str


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
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory that each tomogram may take, such as 2GB.", show_default=False),
    ] = None,
    job_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory to ask for each job of a batch system; by default somewhat more than --memory.",
            show_default=False,
        ),
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
    unit_bytes, job_bytes = _memory(memory, job_memory)
    engine = _engine(cluster, cores or 0, unit_bytes, job_bytes, output)
    chosen = _chosen_settings(settings, views, min_radius, max_radius, threshold, tilt_range, tilt_axis, ellipsoid, gap)
    way = _Way(chosen, model, voxel_size, invert, save_probability, memory or "")
    manifest, units = _prepared(output, tomograms, mask, way, cluster)
    if write_sbatch is not None:
        from deepvesicle.batch.clusters import for_job

        _write_script(
            manifest,
            units,
            write_sbatch,
            at_once=at_once,
            cores=cores,
            memory_bytes=job_bytes or for_job(unit_bytes),
            directives=sbatch or [],
            overwrite=overwrite,
        )
        return
    _all(manifest, units, engine, overwrite)


def _memory(memory: str | None, job_memory: str | None) -> tuple[int, int]:
    """Bytes for a tomogram, and for its job (0: not given).

    Raises
    ------
    UsageError
    """
    from deepvesicle.errors import UsageError
    from deepvesicle.memory import USUAL_BYTES, parse_memory

    unit = parse_memory(memory) if memory else USUAL_BYTES
    try:
        job = parse_memory(job_memory) if job_memory else 0
    except UsageError as error:
        raise UsageError("--job-memory is not right", expected=error.expected, got=error.got) from error
    if job and memory and job < unit:
        raise UsageError("--job-memory is less than --memory", expected="somewhat more")
    return unit, job


def _share(cluster: str | None, units: int) -> str:
    """What --memory of each tomogram is to be: its share of what is free where several run here; else empty."""
    from deepvesicle.batch.clusters import number_of_local, parse_cluster
    from deepvesicle.memory import FREE_SHARE, LEAST_BYTES, USUAL_BYTES, free_bytes

    if cluster is None or parse_cluster(cluster).kind != "local":
        return ""
    share = FREE_SHARE * free_bytes() / number_of_local(parse_cluster(cluster), units)
    return f"{max(share, LEAST_BYTES) / 1e6:.0f}MB" if share < USUAL_BYTES else ""


def _engine(cluster: str | None, cores: int, unit_bytes: int, job_bytes: int, output: Path) -> Engine:
    from deepvesicle.batch.engine import OneByOne

    if cluster is None:
        return OneByOne(cores)
    from deepvesicle.batch.clusters import parse_cluster
    from deepvesicle.batch.dask_engine import OnCluster

    spec = replace(parse_cluster(cluster), cores=cores, unit_bytes=unit_bytes, job_bytes=job_bytes)
    return OnCluster(replace(spec, log_folder=str(output.absolute())))


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
    way: _Way,
    cluster: str | None,
) -> tuple[Manifest, list[Unit]]:
    """Check everything that can be checked before the work, and write down what is to be done."""
    from deepvesicle.batch.manifest import MANIFEST_NAME, TABLE_NAME, Manifest, joined, read_manifest
    from deepvesicle.batch.names import find_tomograms, known_names, mask_of
    from deepvesicle.batch.plan import Unit, settings_as_toml
    from deepvesicle.batch.sbatch import LOG_FOLDER
    from deepvesicle.commands.segment import stem_of
    from deepvesicle.files.atomic import check_output, new_file

    paths = find_tomograms(patterns, output)
    folder = output.absolute()
    plan = _plan(folder, replace(way, memory=way.memory or _share(cluster, len(paths))))
    earlier = read_manifest(folder)
    old = {unit.tomogram: unit for unit in earlier.units} if earlier else {}
    ours = (MANIFEST_NAME, TABLE_NAME, SETTINGS_NAME, LOG_FOLDER)
    names = known_names({path: unit.name for path, unit in old.items()}, paths, stem_of, ours)
    masks = {path: str(mask_of(mask, path, stem_of(path))) if mask else None for path in paths}
    check_output(folder / MANIFEST_NAME, overwrite=True)
    units: list[Unit] = []
    number = max((unit.number for unit in old.values()), default=0)
    for path in paths:
        known = old.get(str(path))
        number += known is None
        units.append(Unit(known.number if known else number, names[path], str(path), stem_of(path), masks[path]))
    with new_file(folder / SETTINGS_NAME, overwrite=True) as temporary:
        temporary.write_text(settings_as_toml(way.settings), encoding="utf-8")
    return Manifest(plan, joined(list(old.values()), units)), units


def _plan(folder: Path, way: _Way) -> Plan:
    """The command line of `deepvesicle segment` for every tomogram, and what its result must be of."""
    from deepvesicle.batch.plan import Plan, Wanted, deciding
    from deepvesicle.commands.segment import output_paths
    from deepvesicle.files.mrc_header import checked_voxel_nm
    from deepvesicle.files.run_record import FileRecord
    from deepvesicle.network.zoo import load_network

    voxel_nm = None if way.voxel_nm is None else checked_voxel_nm(way.voxel_nm)
    network = load_network(way.model)
    arguments = ["segment", "{tomogram}", "--output", "{folder}", "--model", str(network.folder)]
    arguments += ["--settings", str(folder / SETTINGS_NAME)]
    arguments += ["--voxel-size", repr(voxel_nm)] if voxel_nm is not None else []
    arguments += ["--memory", way.memory] if way.memory else []
    arguments += ["--invert"] * way.invert + ["--save-probability"] * way.probability
    outputs = output_paths(Path(), "{stem}", way.probability)
    wanted = Wanted(deciding(way.settings), FileRecord.of(network.folder).sha256, voxel_nm, way.invert)
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
    memory_bytes: int,
    directives: list[str],
    overwrite: bool,
) -> None:
    from deepvesicle.batch.sbatch import DEFAULT_CORES, ArrayJob, write_sbatch

    job = ArrayJob(
        Path(manifest.plan.folder),
        [unit.number for unit in units],
        memory_bytes,
        at_once=at_once,
        cores=cores or DEFAULT_CORES,
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
