"""`deepvesicle train`: a network from phantoms made on the fly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deepvesicle.network.training import TrainingSettings
    from deepvesicle.network.zoo import Network


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write; checkpoints go there too.")],
    steps: Annotated[int, typer.Option(help="Training steps in all.")] = 11_000,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this time, with a checkpoint; go on later with --resume.")
    ] = None,
    levels: Annotated[int, typer.Option(min=1, max=5, help="Times the U-Net halves its resolution.")] = 3,
    filters: Annotated[int, typer.Option(min=2, max=128, help="Filters of the first level.")] = 16,
    voxel_size: Annotated[
        float, typer.Option("--voxel-size", metavar="NM", help="Voxel size the network works at.")
    ] = 2.2,
    patch: Annotated[int, typer.Option(min=16, metavar="VOXELS", help="Edge of a training patch.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Patches per step.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate of Adam.")] = 1e-3,
    init: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Start from the weights of this model (name or folder).")
    ] = None,
    loss: Annotated[str, typer.Option(help="bce, bce_dice, bce_tversky or focal.")] = "bce",
    precision: Annotated[
        str, typer.Option(help="float32, or mixed_bfloat16 where the processor or GPU computes with it.")
    ] = "float32",
    threshold: Annotated[
        float | None,
        typer.Option(help="The model's threshold; by default the one with the best Dice on validation phantoms."),
    ] = None,
    calibrate: Annotated[
        int, typer.Option(min=0, metavar="PHANTOMS", help="Phantoms on which the scores are calibrated; 0: not at all.")
    ] = 40,
    seed: Annotated[int, typer.Option(help="Of the phantoms and of the first weights.")] = 1,
) -> None:
    """Train a network on phantoms made on the fly, and write it as a model folder."""
    from deepvesicle.calibration import CALIBRATION_CONTRASTS, calibrate_scores
    from deepvesicle.commands.console import progress
    from deepvesicle.errors import UsageError
    from deepvesicle.network.normalise import NormalisationMethod
    from deepvesicle.network.training import LOSSES, TrainingSettings, calibrate_threshold, checkpoint_path
    from deepvesicle.network.training import train as train_network
    from deepvesicle.network.unet import UNetShape
    from deepvesicle.network.zoo import load_network, save_network

    start = None if init is None else load_network(init)
    if start is not None and start.normalisation != NormalisationMethod():
        raise UsageError(
            f"training cannot go on from model {start.name}: its grey values are prepared in another way",
            expected=f"a model with the normalisation {NormalisationMethod().kind}",
            got=start.normalisation.kind,
        )
    if start is not None and voxel_size != start.voxel_nm:
        raise UsageError(f"model {start.name} works at {start.voxel_nm:g} nm", remedy="Give that --voxel-size")
    shape = UNetShape(levels, filters) if start is None else start.shape
    if patch % shape.alignment_vox:
        raise UsageError(
            f"--patch {patch} does not fit {shape.levels} levels", expected=f"a multiple of {shape.alignment_vox}"
        )
    if loss not in LOSSES:
        raise UsageError(f"--loss {loss} is unknown", expected=", ".join(LOSSES))
    if precision not in ("float32", "mixed_bfloat16"):
        raise UsageError(f"--precision {precision} is unknown", expected="float32 or mixed_bfloat16")
    if threshold is not None and not 0 < threshold < 1:
        raise UsageError("--threshold is not a probability", expected="between 0 and 1", got=f"{threshold:g}")
    if checkpoint_path(output).exists() and not resume:
        raise UsageError(f"{output} holds a checkpoint", remedy="Give --resume to go on, or another folder")
    settings = TrainingSettings(
        shape=shape,
        voxel_nm=voxel_size,
        patch_vox=patch,
        batch=batch,
        steps=steps,
        learning_rate=learning_rate,
        loss=loss,
        precision=precision,
        seed=seed,
    )
    initial = None if start is None else start.model().get_weights()
    model, rows = train_network(
        settings, output, resume=resume, initial=initial, max_minutes=minutes, report=_print_row
    )
    best, dice = calibrate_threshold(model, settings)
    print(f"best threshold {best:g} (Dice on validation phantoms {dice:.3f})")
    threshold = best if threshold is None else threshold
    extra: dict[str, Any] = {
        "training": settings.to_json(),
        "steps_done": int(rows[-1]["step"]),
        "validation_dice": round(dice, 4),
    }
    card = model_card(settings, rows[-1], threshold, best, dice)

    def save() -> Network:
        return save_network(output, model, shape, voxel_nm=voxel_size, threshold=threshold, card=card, extra=extra)

    network = save()
    if calibrate:
        with progress("calibrating the scores on phantoms", calibrate) as advance:
            evidence, table, true = calibrate_scores(network, calibrate, progress=lambda done, total: advance(1))
        extra["evidence"] = evidence.to_json()
        low, high = CALIBRATION_CONTRASTS
        card += f"""
## Calibration of the scores

{calibrate} more phantoms (seeds used nowhere else; d' {low:g} to {high:g}, evenly in its logarithm): {len(true)}
spheres were fitted on them, {true.mean():.1%} of them vesicles. Their traits and the network's word were weighed by
logistic regression.
The weights are in `config.json`.
"""
        network = save()
    print(f"wrote {network.folder}")


def _print_row(row: dict[str, float]) -> None:
    print(
        f"step {row['step']:.0f}  loss {row['loss']:.4f}  dice {row['dice']:.4f}  "
        f"validation dice {row['validation_dice']:.4f}  {row['patches'] / max(row['seconds'], 1e-9):.1f} patches/s",
        flush=True,
    )


def model_card(settings: TrainingSettings, last: dict[str, Any], threshold: float, best: float, dice: float) -> str:
    """What a model was trained on and how, in Markdown; `save_network` fills in the hash of the weights."""
    from deepvesicle.network.patches import MIRRORED_SHARE, ORIGINAL_VOXEL_NM, SCENE_SHARES, ZOOM
    from deepvesicle.phantom.imaging import CONTRASTS, HIGHEST_TILT_DEG, TILT_STEP_DEG

    shares = ", ".join(f"{name} {share:.0%}" for name, share in SCENE_SHARES.items())
    contrasts = ", ".join(f"{low:g} to {high:g} ({share:.0%})" for (low, high), share in CONTRASTS)
    tilt, step = HIGHEST_TILT_DEG, TILT_STEP_DEG
    shape = settings.shape
    finest, coarsest = ORIGINAL_VOXEL_NM
    return f"""# Model card

A 3D U-Net (csbdeep blocks) of {shape.levels} levels and {shape.filters} filters that gives every voxel of
{settings.voxel_nm:g} nm the probability of lying inside a vesicle, outer membrane edge included.

## Trained on

Phantoms made on the fly with `deepvesicle.phantom`, nothing else: no real tomogram, no other simulator, no output of
another network.

- scenes: {shares}
- voxel size of the originals {finest:g} to {coarsest:g} nm, rescaled to the network's with a zoom of
  {ZOOM[0]:g} to {ZOOM[1]:g}
- outer radii 12.5 to 95 nm, tilt ranges +-{tilt[0]:g} to +-{tilt[1]:g} degrees in steps of {step[0]:g} to {step[1]:g},
  defocus 1.8 to 9 um (or phase plate)
- d' {contrasts}
- unfiltered, Gaussian, median and anisotropically diffused; floating point and clipped 8 bit
- patches that reach over the volume's faces, mirrored there, as for prediction ({MIRRORED_SHARE:.0%} for each axis)
- augmentation: flips, quarter turns about z, blur, noise, grey gradients, gain and offset

## Training

- {last["step"]:.0f} of {settings.steps} steps of {settings.batch} patches of {settings.patch_vox}^3 voxels,
  {last["seconds"] / 60:.0f} minutes in all
- Adam, highest rate {settings.learning_rate:g}, falling to 0 over the last {settings.fall:.0%}; {settings.precision}
- loss: {settings.loss}; moving average of the weights (momentum {settings.average:g})
- validation phantoms (seeds never trained on): Dice {dice:.3f} at threshold {best:g}, the best one there
- threshold of the model: {threshold:g}

## Limits

Vesicles under 12 nm and over 100 nm radius were not in the training. In unfiltered tomograms of low contrast (d' 0.4)
most of the vesicles can be missed. Tubes seen end-on can be taken for vesicles.

## Files

`network.weights.h5`, sha256 `{{weights_sha256}}`
"""
