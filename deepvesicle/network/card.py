"""What a model was trained on and how, in Markdown: its `CARD.md`."""

from __future__ import annotations

from collections.abc import Mapping

from deepvesicle.network.parts import KIND_SHARES, Part
from deepvesicle.network.patches import MIRRORED_SHARE
from deepvesicle.network.phantoms import ORIGINAL_VOXEL_NM, SCENE_SHARES, ZOOM
from deepvesicle.network.training import TrainingData, TrainingSettings
from deepvesicle.phantom.imaging import CONTRASTS, HIGHEST_TILT_DEG, TILT_STEP_DEG


def model_card(
    settings: TrainingSettings,
    last: Mapping[str, float],
    threshold: float,
    best: float,
    dice: float,
    *,
    data: TrainingData | None = None,
    initial: str | None = None,
) -> str:
    """Card of a model; `deepvesicle.network.zoo.save_network` fills in the hash of the weights.

    Parameters
    ----------
    settings : TrainingSettings
    last : mapping
        Last row of the history.
    threshold, best, dice : float
        The model's threshold, the one with the best Dice on what validated it, and that Dice.
    data : TrainingData, optional
        Its datasets.
    initial : str, optional
        Name of the model whose weights it started from.
    """
    shape = settings.shape
    begun = "random weights" if initial is None else f"the weights of model {initial}"
    frozen = f"; first {settings.frozen_levels} levels frozen" if settings.frozen_levels else ""
    validated = "validation phantoms (seeds never trained on)" if data is None else "the validation parts"
    return f"""# Model card

A 3D U-Net (csbdeep blocks) of {shape.levels} levels and {shape.filters} filters that gives every voxel of
{settings.voxel_nm:g} nm the probability of lying inside a vesicle, outer membrane edge included.

## Trained on

{_phantoms(settings) if data is None else _datasets(settings, data)}
- augmentation: flips, quarter turns about z, blur, noise, grey gradients, gain and offset

## Training

- from {begun}{frozen}
- {last["step"]:.0f} of {settings.steps} steps of {settings.batch} patches of {settings.patch_vox}^3 voxels,
  {_duration(last["seconds"])} in all
- Adam, highest rate {settings.learning_rate:g}, falling to 0 over the last {settings.fall:.0%}; {settings.precision}
- loss: {settings.loss}; moving average of the weights (momentum {settings.average:g}), the best one of all validations
- {validated}: Dice {dice:.3f} at threshold {best:g}, the best one there
- threshold of the model: {threshold:g}

## Limits

{_PHANTOM_LIMITS if data is None else _DATASET_LIMITS}

## Files

`network.weights.h5`, sha256 `{{weights_sha256}}`
"""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 150 else f"{seconds / 60:.0f} minutes"


_PHANTOM_LIMITS = """\
Vesicles under 12 nm and over 100 nm radius were not in the training. In unfiltered tomograms of low contrast (d' 0.4)
most of the vesicles can be missed. Tubes seen end-on can be taken for vesicles."""
_DATASET_LIMITS = """\
It knows the kinds of sample, microscope and reconstruction that it was trained on. Look at its first results on
others."""


def _phantoms(settings: TrainingSettings) -> str:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in SCENE_SHARES.items())
    contrasts = ", ".join(f"{low:g} to {high:g} ({share:.0%})" for (low, high), share in CONTRASTS)
    tilt, step = HIGHEST_TILT_DEG, TILT_STEP_DEG
    finest, coarsest = ORIGINAL_VOXEL_NM
    return f"""\
Phantoms made on the fly with `deepvesicle.phantom`, nothing else: no real tomogram, no other simulator, no output of
another network.

- scenes: {shares}
- voxel size of the originals {finest:g} to {coarsest:g} nm, rescaled to the network's with a zoom of
  {ZOOM[0]:g} to {ZOOM[1]:g}
- outer radii 12.5 to 95 nm, tilt ranges +-{tilt[0]:g} to +-{tilt[1]:g} degrees in steps of {step[0]:g} to {step[1]:g},
  defocus 1.8 to 9 um (or phase plate)
- d' {contrasts}
- unfiltered, Gaussian, median and anisotropically diffused; floating point and clipped 8 bit
- patches that reach over the volume's faces, mirrored there, as for prediction ({MIRRORED_SHARE:.0%} for each axis)"""


def _datasets(settings: TrainingSettings, data: TrainingData) -> str:
    def lines(parts: list[Part]) -> str:
        return "\n".join(f"- {part.name()}: {len(part.vesicles())} vesicles" for part in parts)

    kinds = ", ".join(f"{name} {share:.0%}" for name, share in KIND_SHARES.items())
    mixed = f"\n- {settings.phantoms:.0%} of the patches from phantoms made on the fly" if settings.phantoms else ""
    return f"""\
Annotated tomograms:

{lines(data.training)}

and validated on

{lines(data.validation)}

- what was not annotated does not count in the loss
- patches drawn where there are: {kinds}{mixed}"""
