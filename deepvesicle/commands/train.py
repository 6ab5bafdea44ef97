"""`deepvesicle train`: a network from annotated tomograms, from phantoms made on the fly, or from both."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepvesicle.commands.calibrating import calibrated

if TYPE_CHECKING:
    from deepvesicle.network.training import TrainingData, TrainingSettings
    from deepvesicle.network.zoo import Network

#: Defaults that depend on what is trained: steps, rate and steps between validations.
FROM_SCRATCH, FINE_TUNING = (11_000, 1e-3, 250), (600, 3e-4, 60)
#: Without a higher validation Dice for so many validations, a training on datasets ends.
PATIENCE = 8
PHANTOM_SHARE = 0.3
#: Steps on phantoms alone until one of them is replaced: two cores simulate about as fast as they train.
STEPS_OF_A_PHANTOM = 6


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write; checkpoints go there too.")],
    datasets: Annotated[
        list[Path] | None,
        typer.Argument(help="Datasets made by prepare. Without any, phantoms alone.", metavar="DATASET..."),
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Start from the weights of this model (name or folder).")
    ] = None,
    phantoms: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help=f"Share of the patches from phantoms, beside datasets. Default: {PHANTOM_SHARE:g}.",
        ),
    ] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Tomogram of the datasets that validates; may be repeated. Default: the one with the fewest vesicles, "
            "more of them in large datasets, or a side of the only one.",
        ),
    ] = None,
    freeze: Annotated[
        int, typer.Option(min=0, metavar="LEVELS", help="First levels of the network that keep their weights.")
    ] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Training steps in all. Default: {FROM_SCRATCH[0]}, or {FINE_TUNING[0]} with --init."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this time, with a checkpoint; go on later with --resume.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="End after so many validations without a higher Dice; 0: never. "
            f"Default: {PATIENCE} with datasets, else 0.",
        ),
    ] = None,
    levels: Annotated[int, typer.Option(min=1, max=5, help="Times the U-Net halves its resolution.")] = 3,
    filters: Annotated[int, typer.Option(min=2, max=128, help="Filters of the first level.")] = 16,
    voxel_size: Annotated[
        float | None,
        typer.Option("--voxel-size", metavar="NM", help="Voxel size the network works at. Default: 2.2, or --init's."),
    ] = None,
    patch: Annotated[int, typer.Option(min=16, metavar="VOXELS", help="Edge of a training patch.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Patches per step.")] = 2,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help=f"Highest learning rate of Adam. Default: {FROM_SCRATCH[1]:g}, or {FINE_TUNING[1]:g} with --init."
        ),
    ] = None,
    loss: Annotated[str, typer.Option(help="bce, bce_dice, bce_tversky or focal.")] = "bce",
    precision: Annotated[
        str, typer.Option(help="float32, or mixed_bfloat16 where the processor or GPU computes with it.")
    ] = "float32",
    threshold: Annotated[
        float | None,
        typer.Option(help="The model's threshold; by default the one with the best Dice on what validates it."),
    ] = None,
    calibrate: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="PHANTOMS",
            help="Phantoms on which the scores are calibrated; 0: not at all. Default: 40 without datasets, else 0, "
            "which keeps the calibration of --init.",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Segment the validation parts before and after, and compare with what is annotated.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the patches, the phantoms and the first weights.")] = 1,
) -> None:
    """Train a network on annotated tomograms, on phantoms, or on both, and write it as a model folder."""
    from deepvesicle.commands.console import progress, say, warn
    from deepvesicle.network.card import model_card
    from deepvesicle.network.checkpoint import steps_done
    from deepvesicle.network.normalise import NormalisationMethod
    from deepvesicle.network.training import TrainingSettings, calibrate_threshold, is_exhausted
    from deepvesicle.network.training import train as train_network
    from deepvesicle.network.unet import UNetShape
    from deepvesicle.network.zoo import load_network, save_network

    begin = None if init is None else load_network(init)
    data = _training_data(datasets, patch, validation or []) if datasets else None
    default_steps, default_rate, save_every = FROM_SCRATCH if begin is None else FINE_TUNING
    share = (PHANTOM_SHARE if phantoms is None else phantoms) if data else 1.0
    settings = TrainingSettings(
        shape=UNetShape(levels, filters) if begin is None else begin.shape,
        voxel_nm=_voxel_nm(voxel_size, begin, data),
        patch_vox=patch,
        batch=batch,
        steps=default_steps if steps is None else steps,
        learning_rate=default_rate if learning_rate is None else learning_rate,
        loss=loss,
        precision=precision,
        save_every=save_every,
        patience=(PATIENCE if data else 0) if patience is None else patience,
        phantoms=share,
        new_phantom_every=round(STEPS_OF_A_PHANTOM / max(share, 0.05)),
        frozen_levels=freeze,
        normalisation=NormalisationMethod() if begin is None else begin.normalisation,
        seed=seed,
    )
    _check(settings, output, threshold, resume)
    if data:
        say(f"training on {_named(data.training)}; validation on {_named(data.validation)}")
    if resume:
        say(_where_it_stands(output, settings.steps))
    with progress("training", settings.steps) as advance, _asked_to_stop() as stop:
        model, rows = train_network(
            settings,
            output,
            data=data,
            resume=resume,
            initial=None if begin is None else begin.model().get_weights(),
            max_minutes=minutes,
            report=_print_row,
            progress=_differences(advance),
            stop=stop,
        )
    done = steps_done(output)
    if is_exhausted(rows, settings.patience):
        say(f"ended after step {done}: {settings.patience} validations without a higher Dice")
    elif done < settings.steps:
        say(f"stopped after step {done} of {settings.steps}; go on with --resume")
    if stop():
        raise KeyboardInterrupt
    if not rows or rows[-1]["step"] == 0:
        say("no validation yet, so no model was written")
        return
    if begin is not None and max(rows, key=lambda row: row["validation_dice"])["step"] == 0:
        warn(f"no validation was better than the first one: the weights are still those of model {begin.name}")
    from deepvesicle.report.training_plot import draw_history

    draw_history(rows, output / "history.png")
    usual = None if begin is None else begin.threshold
    best, dice = calibrate_threshold(model, settings, data, usual=usual)
    threshold = best if threshold is None else threshold
    print(f"threshold {threshold:g}" + (f" as given; {best:g} would be best" if threshold != best else ""))
    extra: dict[str, Any] = {
        "training": settings.to_json(),
        "steps_done": int(rows[-1]["step"]),
        "validation_dice": round(dice, 4),
    }
    if data:
        extra["datasets"] = data.to_json()
    if begin is not None and "evidence" in begin.config:
        extra["evidence"] = begin.config["evidence"]
    card = model_card(
        settings, rows[-1], threshold, best, dice, data=data, initial=None if begin is None else begin.name
    )

    def save() -> Network:
        return save_network(
            output,
            model,
            settings.shape,
            voxel_nm=settings.voxel_nm,
            threshold=threshold,
            card=card,
            normalisation=settings.normalisation,
            extra=extra,
        )

    network = save()
    phantom_count = (0 if data else 40) if calibrate is None else calibrate
    if phantom_count:
        card += calibrated(network, phantom_count, extra)
        network = save()
    elif "evidence" in extra:
        assert begin is not None
        card += f"\nThe calibration of the scores is that of model {begin.name}.\n"
        network = save()
    if data and compare:
        card += _compared(begin, network, data)
        network = save()
    print(f"wrote {network.folder}")


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C, or SIGTERM, end the training after its present step; the second one ends it at once."""
    asked = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, _: Any) -> None:
        asked.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    with contextlib.suppress(ValueError):  # not the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _where_it_stands(folder: Path, steps: int) -> str:
    """What --resume finds."""
    from deepvesicle.network.checkpoint import checkpoint_path, steps_done

    if not checkpoint_path(folder).exists():
        return f"{folder} holds no checkpoint: a new training begins"
    done = steps_done(folder)
    return f"going on from step {done} of {steps}" if done < steps else f"all {steps} steps are done"


def _training_data(folders: list[Path], patch: int, validation: list[str]) -> TrainingData:
    """The datasets, cut into what is trained on and what validates."""
    from deepvesicle.errors import UsageError
    from deepvesicle.network.dataset import read_dataset
    from deepvesicle.network.parts import split
    from deepvesicle.network.training import TrainingData

    datasets = [read_dataset(folder) for folder in folders]
    sizes = sorted({dataset.voxel_nm for dataset in datasets})
    if len(sizes) > 1:
        raise UsageError(
            "the datasets have different voxel sizes",
            got=" and ".join(f"{nm:g} nm" for nm in sizes),
            remedy="Prepare them with the same --network-voxel-size",
        )
    return TrainingData(*split(datasets, patch, validation))


def _voxel_nm(given: float | None, begin: Network | None, data: TrainingData | None) -> float:
    """The voxel size of the network: what the model, the datasets and the option say must be the same."""
    from deepvesicle.errors import UsageError

    said = {
        "the datasets": data.training[0].grid.voxel_nm if data else None,
        "" if begin is None else f"model {begin.name}": None if begin is None else begin.voxel_nm,
        "--voxel-size": given,
    }
    known = [(who, nm) for who, nm in said.items() if nm is not None]
    for who, nm in known[1:]:
        if nm != known[0][1]:
            raise UsageError(
                f"{who} means {nm:g} nm per voxel, but {known[0][0]} {known[0][1]:g} nm",
                remedy="Prepare the dataset at the model's voxel size (prepare --model)",
            )
    return known[0][1] if known else 2.2


def _check(settings: TrainingSettings, output: Path, threshold: float | None, resume: bool) -> None:
    """Refuse what cannot be trained, before any work."""
    from deepvesicle.errors import UsageError
    from deepvesicle.network.checkpoint import checkpoint_path
    from deepvesicle.network.losses import LOSSES

    shape = settings.shape
    if settings.patch_vox % shape.alignment_vox:
        raise UsageError(
            f"--patch {settings.patch_vox} does not fit {shape.levels} levels",
            expected=f"a multiple of {shape.alignment_vox}",
        )
    if settings.loss not in LOSSES:
        raise UsageError(f"--loss {settings.loss} is unknown", expected=", ".join(LOSSES))
    if settings.precision not in ("float32", "mixed_bfloat16"):
        raise UsageError(f"--precision {settings.precision} is unknown", expected="float32 or mixed_bfloat16")
    if settings.frozen_levels > shape.levels:
        raise UsageError(f"--freeze {settings.frozen_levels} is too much", expected=f"at most {shape.levels} levels")
    if threshold is not None and not 0 < threshold < 1:
        raise UsageError("--threshold is not a probability", expected="between 0 and 1", got=f"{threshold:g}")
    if checkpoint_path(output).exists() and not resume:
        raise UsageError(f"{output} holds a checkpoint", remedy="Give --resume to go on, or another folder")


def _named(parts: Any) -> str:
    return ", ".join(f"{part.name()} ({len(part.vesicles())} vesicles)" for part in parts)


def _differences(advance: Any) -> Any:
    """A callback of (done, in all) for one that wants the steps since the last call."""
    before = [0]

    def done(step: int, _: int) -> None:
        advance(step - before[0])
        before[0] = step

    return done


def _compared(begin: Network | None, network: Network, data: TrainingData) -> str:
    """Print how the network does on the validation parts, beside the one it began as; what the card says of it."""
    from deepvesicle.commands.console import progress, warn
    from deepvesicle.tuning import standing, table

    both = [("before", begin)] if begin is not None else []
    networks = [*both, ("after", network)]
    with progress("comparing on the validation parts", len(networks) * len(data.validation)) as advance:
        standings = [(name, standing(each, data.validation, progress=advance)) for name, each in networks]
    text = table(standings)
    print(text)
    (_, first), (_, last) = standings[0], standings[-1]
    if last.f1 < first.f1 or (last.f1 == first.f1 and last.final_dice < first.final_dice):
        warn(
            f"the new network finds the vesicles of the validation less well than the one before (F1 {last.f1:.3f}, "
            f"not {first.f1:.3f}): it may have seen too little; more annotated vesicles help most"
        )
    return f"\n## On the validation parts, through the whole pipeline\n\n{text}\n"


def _print_row(row: dict[str, float]) -> None:
    if not row["step"]:
        print(f"step 0  validation dice {row['validation_dice']:.4f}", flush=True)
        return
    print(
        f"step {row['step']:.0f}  loss {row['loss']:.4f}  dice {row['dice']:.4f}  "
        f"validation dice {row['validation_dice']:.4f}  {row['patches'] / max(row['seconds'], 1e-9):.1f} patches/s",
        flush=True,
    )
