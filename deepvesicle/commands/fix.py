"""`deepvesicle fix`: what the user drew in 3dmod becomes spheres; once, or again after every save."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepvesicle.commands.fix_action import FixAction, FixOptions, side_paths
from deepvesicle.commands.options import OverwriteOption, TomogramArgument, VoxelSizeOption
from deepvesicle.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from imod_bridge.actions import Answer


def fix(
    tomogram: TomogramArgument,
    model: Annotated[
        Path | None,
        typer.Argument(
            help="IMOD model with the vesicles and what you drew (with --new: your points).", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Model to write, in place of MODEL, which keeps a copy with ~ otherwise."),
    ] = None,
    objects: Annotated[
        list[str] | None,
        typer.Option("--object", metavar="NAME", help="Another object that holds points to fit; may be repeated."),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="No earlier result: all points in MODEL are vesicles to fit; it is only read.")
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Also fit spheres that you changed, and points that could not be fitted.")
    ] = False,
    radius: Annotated[
        float | None, typer.Option(metavar="NM", help="Outer radius to start from at single points.")
    ] = None,
    min_radius: Annotated[
        float | None, typer.Option(metavar="NM", help="Smallest outer radius, by default as before, or 12.")
    ] = None,
    max_radius: Annotated[
        float | None, typer.Option(metavar="NM", help="Largest outer radius, by default as before, or 100.")
    ] = None,
    voxel_size: VoxelSizeOption = None,
    invert: Annotated[
        bool | None,
        typer.Option("--invert/--no-invert", help="The tomogram holds dense = bright; by default as before."),
    ] = None,
    review: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON", help="Verdicts saved by the page of `deepvesicle report`: kept and rejected vesicles."
        ),
    ] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Leave the label file as it is.")] = False,
    overwrite: OverwriteOption = False,
    live: Annotated[
        bool, typer.Option("--live", help="Open 3dmod, and fit after every save or when you press Enter here.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Fit whenever MODEL changes, until Ctrl-C.")] = False,
) -> None:
    """Fit the vesicles that you marked in 3dmod, and carry out what you deleted and changed there."""
    options = FixOptions(
        voxel_nm=voxel_size,
        invert=invert,
        radius_nm=radius,
        min_radius_nm=min_radius,
        max_radius_nm=max_radius,
        refit=refit,
        names=tuple(objects or ()),
        labels=not no_labels,
        new=new,
        output=output,
        review=review,
    )
    _check_combination(options, model, live, watch)
    if tomogram.suffix == ".mod" and model is not None and model.suffix != ".mod":
        raise UsageError(
            f"{tomogram} is a model, not a tomogram", expected="the tomogram first: deepvesicle fix TOMOGRAM MODEL"
        )
    if live:
        _live(FixAction(options), tomogram, model)
    elif model is None:
        raise UsageError(
            "fix needs a model", expected="deepvesicle fix TOMOGRAM MODEL", remedy="Or open one with --live"
        )
    elif watch:
        _watch(FixAction(options), tomogram, model)
    elif new:
        _new(options, tomogram, model, overwrite)
    else:
        _once(options, tomogram, model, overwrite)


def _check_combination(options: FixOptions, model: Path | None, live: bool, watch: bool) -> None:
    """Refuse options that contradict one another."""
    if live and watch:
        raise UsageError("--live and --watch exclude one another", remedy="--live opens 3dmod, --watch does not")
    if (live or watch) and (options.new or options.output is not None):
        raise UsageError("--live and --watch change the model in place", expected="neither --new nor --output")
    if (live or watch) and options.refit:
        raise UsageError("--refit is for a single run", expected="no --live or --watch with it")
    if options.review is not None and (live or watch or options.new):
        raise UsageError("--review is for a single run on an earlier result", expected="no --live, --watch or --new")
    if options.new and options.names:
        raise UsageError("--new fits the points of all objects", expected="no --object with it")
    if model is not None and not model.exists() and not live and not watch:
        raise ModelFileError(f"{model} does not exist", expected="an IMOD model")


def _once(options: FixOptions, tomogram: Path, model: Path, overwrite: bool) -> None:
    """Fit once, in place or into another model."""
    from deepvesicle.commands.segment import refuse_existing
    from deepvesicle.commands.stages import stage_progress
    from imod_bridge.loop import run_once

    if options.output is not None:
        _check_targets(options, options.output, tomogram)
        refuse_existing({"model": options.output, **_written(options, options.output)}, overwrite)
        options.output.parent.mkdir(exist_ok=True)
    else:
        _check_targets(options, model, tomogram)
    with _model_errors(), stage_progress() as progress:
        action = FixAction(options, progress=progress)
        answer = run_once(action, tomogram, model, output=options.output, overwrite=overwrite)
    _report(answer, options, options.output or model)


def _new(options: FixOptions, tomogram: Path, points: Path, overwrite: bool) -> None:
    """Make a first result of the points in a model, which is only read."""
    from dataclasses import replace

    from deepvesicle.commands.segment import output_paths, refuse_existing, stem_of
    from deepvesicle.commands.stages import stage_progress
    from deepvesicle.files.atomic import new_file
    from imod_bridge.actions import Request
    from imod_bridge.exchange import decode, read

    target = options.output or output_paths(points.parent, stem_of(tomogram))["model"]
    if target.exists() and target.samefile(points):
        raise UsageError(f"{points} is only read by --new", remedy="Name another model with -o, or leave out --new")
    options = replace(options, output=target)
    _check_targets(options, target, tomogram)
    refuse_existing({"model": target, **_written(options, target)}, overwrite)
    with _model_errors(), stage_progress() as progress:
        data = read(points)
        action = FixAction(options, progress=progress)
        answer = action(Request(tomogram, points, data, decode(points, data)))
        content = action.new_model(tomogram, answer)
    with new_file(target, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)
    if answer.finish is not None:
        answer.finish()
    _report(answer, options, target)


def _watch(action: FixAction, tomogram: Path, model: Path) -> None:
    """Fit whenever the model changes."""
    import watchfiles

    from imod_bridge.loop import watch

    if not model.parent.is_dir():
        raise UsageError(f"the folder {model.parent} does not exist")
    _check_targets(action.options, model, tomogram)
    print(f"watching {model}; Ctrl-C ends it", flush=True)
    # Each event and each second: some file systems, those of a network above all, send no events.
    events = watchfiles.watch(model.parent, recursive=False, yield_on_timeout=True, rust_timeout=1000)
    watch(action, tomogram, model, wakeups=_after(None, events), report=_say)


def _live(action: FixAction, tomogram: Path, model: Path | None) -> None:
    """Open 3dmod and fit after every save."""
    from deepvesicle.commands.segment import output_paths, stem_of
    from imod_bridge.loop import KEY, live, polling, polling_with_keys
    from imod_bridge.session import Session

    path = model or output_paths(tomogram.parent, stem_of(tomogram))["model"]
    _check_targets(action.options, path, tomogram)
    with _model_errors():
        action.prepare(tomogram, path)
        with Session(tomogram, path) as session:
            session.model_mode()
            print(
                f"3dmod shows {path}: click vesicles, then save there or press Enter here; Ctrl-C ends it", flush=True
            )
            wakeups: Iterable[object] = polling_with_keys(sys.stdin) if _can_be_waited_for() else polling()
            live(action, tomogram, session, wakeups=_after(KEY, wakeups), report=_say)


def _after(first: object, wakeups: Iterable[object]) -> Iterator[object]:
    """A wake-up to begin with, so that what was drawn before is done at once, then those given."""
    yield first
    yield from wakeups


def _can_be_waited_for() -> bool:
    """Whether keys can come from the standard input."""
    try:
        return sys.stdin is not None and sys.stdin.fileno() >= 0
    except (OSError, ValueError):
        return False


@contextmanager
def _model_errors() -> Iterator[None]:
    """Give errors of the bridge the form and the exit code of this program's own."""
    from imod_bridge.errors import BridgeError

    try:
        yield
    except BridgeError as error:
        raise ModelFileError(str(error)) from error


def _check_targets(options: FixOptions, model: Path, tomogram: Path) -> None:
    """Refuse, before the work, a result that would take the tomogram's place or cannot be written."""
    from deepvesicle.commands.segment import stem_of
    from deepvesicle.files.atomic import check_output

    if model == options.output and stem_of(model) != model.name:
        raise UsageError(f"{model} has the name of a tomogram", expected="the name of a model, such as X_vesicles.mod")
    for path in (model, *_written(options, model).values()):
        if path.exists() and tomogram.exists() and path.samefile(tomogram):
            raise UsageError(
                f"{path} is the tomogram, and the result would take its place", remedy="Name another model with -o"
            )
        check_output(path, overwrite=True)


def _written(options: FixOptions, model: Path) -> dict[str, Path]:
    paths = side_paths(model)
    return {name: path for name, path in paths.items() if name != "labels" or options.labels}


def _report(answer: Answer, options: FixOptions, model: Path) -> None:
    for line in answer.messages:
        print(line)
    if answer.finish is not None:
        changed = [model] if answer.objects or options.output is not None else []
        for path in [*changed, *_written(options, model).values()]:
            print(f"wrote {path}")


def _say(line: str) -> None:
    print(line, flush=True)
