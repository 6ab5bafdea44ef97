"""Training, resumable at any moment, free of calls to one particular Keras backend."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import NetworkError
from deepvesicle.network.patches import Example, PhantomPool, random_example
from deepvesicle.network.unet import UNetShape, build_unet, quiet_tensorflow

Weights = list[NDArray[np.float32]]
HISTORY_COLUMNS = ("step", "seconds", "patches", "loss", "dice", "validation_dice", "learning_rate")


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Parameters
    ----------
    shape : UNetShape
    voxel_nm : float
        Voxel size that tomograms are rescaled to.
    patch_vox, batch : int
        Edge and number of the patches of a step.
    steps : int
        Total. The learning rate rises over 200 steps, stays, and falls linearly to nearly zero at the end (Hagele et
        al. 2024), so that a run can be made longer or shorter as long as it has not begun to fall.
    learning_rate : float
        Highest rate of Adam.
    fall : float
        Share of the steps over which the rate falls to zero at the end.
    loss : str
        One of `LOSSES`.
    average : float
        Momentum of the moving average of the weights, which is what is kept.
    precision : str
        "float32", or "mixed_bfloat16" on processors and GPUs that compute with it.
    save_every : int
        Steps between checkpoints and validations.
    seed : int
    """

    shape: UNetShape = field(default_factory=UNetShape)
    voxel_nm: float = 2.2
    patch_vox: int = 64
    batch: int = 2
    steps: int = 11_000
    learning_rate: float = 1e-3
    fall: float = 0.35
    loss: str = "bce"
    average: float = 0.995
    precision: str = "float32"
    save_every: int = 250
    validation_volumes: int = 10
    pool: int = 96
    seed: int = 1

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return asdict(self)

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        rise = min(1.0, (step + 1) / 200)
        left = (1 - step / self.steps) / self.fall
        return self.learning_rate * max(min(rise, left, 1.0), 0.003)


def bce_loss(truth: Any, predicted: Any) -> Any:
    """Binary cross-entropy."""
    from keras import ops

    predicted = ops.clip(ops.cast(predicted, "float32"), 1e-6, 1 - 1e-6)
    return -ops.mean(truth * ops.log(predicted) + (1 - truth) * ops.log(1 - predicted))


def bce_dice_loss(truth: Any, predicted: Any) -> Any:
    """Binary cross-entropy plus one minus the soft Dice over the batch."""
    return bce_loss(truth, predicted) + 1 - soft_dice(truth, predicted)


def focal_loss(truth: Any, predicted: Any) -> Any:
    """Cross-entropy in which voxels that are certain and right count little (Lin et al. 2017, gamma 2), times 3."""
    from keras import ops

    predicted = ops.clip(ops.cast(predicted, "float32"), 1e-6, 1 - 1e-6)
    miss = ops.abs(truth - predicted)
    entropy = -(truth * ops.log(predicted) + (1 - truth) * ops.log(1 - predicted))
    return 3 * ops.mean(miss**2 * entropy)


def bce_tversky_loss(truth: Any, predicted: Any) -> Any:
    """Cross-entropy plus 1 - Tversky index (Salehi et al. 2017): what is missed counts 0.7, what is false 0.3."""
    from keras import ops

    p = ops.cast(predicted, "float32")
    hit = ops.sum(truth * p)
    missed, false = ops.sum(truth * (1 - p)), ops.sum((1 - truth) * p)
    return bce_loss(truth, predicted) + 1 - (hit + 1) / (hit + 0.7 * missed + 0.3 * false + 1)


#: Losses by name; `bin/benchmark training` compares them.
LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "bce": bce_loss,
    "bce_dice": bce_dice_loss,
    "bce_tversky": bce_tversky_loss,
    "focal": focal_loss,
}


def soft_dice(truth: Any, predicted: Any) -> Any:
    """Dice = 2 sum(t p) / (sum t^2 + sum p^2), with one voxel added so that an empty batch is defined."""
    from keras import ops

    predicted = ops.cast(predicted, "float32")
    return (2 * ops.sum(truth * predicted) + 1) / (ops.sum(truth * truth) + ops.sum(predicted * predicted) + 1)


@dataclass
class _State:
    """What a checkpoint holds."""

    step: int
    seconds: float
    weights: Weights
    average: Weights
    optimizer: Weights


def _save_state(path: Path, state: _State) -> None:
    temporary = path.with_name("." + path.name)
    arrays: dict[str, Any] = {"step": state.step, "seconds": state.seconds}
    for name in ("weights", "average", "optimizer"):
        for i, value in enumerate(getattr(state, name)):
            arrays[f"{name}_{i:03d}"] = value
    with open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _load_state(path: Path) -> _State:
    with np.load(path) as file:
        parts = {
            name: [file[key] for key in sorted(file.files) if key.startswith(name + "_")]
            for name in ("weights", "average", "optimizer")
        }
        return _State(int(file["step"]), float(file["seconds"]), **parts)


def checkpoint_path(folder: Path) -> Path:
    """Where a training folder keeps its checkpoint."""
    return folder / "checkpoint.npz"


def train(
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool = False,
    initial: Weights | None = None,
    max_minutes: float | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> tuple[Any, list[dict[str, float]]]:
    """Train on phantoms made on the fly.

    Parameters
    ----------
    settings : TrainingSettings
    folder : Path
        Receives `checkpoint.npz` and `history.csv` after every `save_every` steps.
    resume : bool
        Go on from the folder's checkpoint where there is one.
    initial : list of arrays, optional
        Weights to start from, of a network of the same shape (`keras.Model.get_weights`); at random otherwise.
    max_minutes : float, optional
        Stop (with a checkpoint) after this time; go on later with `resume`.
    report : callable, optional
        Called with a row of the history.

    Returns
    -------
    model : keras.Model
        With the averaged weights.
    rows : list of dict
        The whole history, earlier runs of the folder included.

    Raises
    ------
    NetworkError
        The loss is no number any more.
    """
    quiet_tensorflow()
    import keras

    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(settings.seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(settings.precision)
    try:
        model = build_unet(settings.shape)
    finally:
        keras.config.set_dtype_policy(policy)
    if initial is not None:
        model.set_weights(initial)
    optimizer = keras.optimizers.Adam(settings.learning_rate, clipnorm=1.0)
    model.compile(optimizer=optimizer, loss=LOSSES[settings.loss], metrics=[soft_dice], jit_compile=False)
    optimizer.build(model.trainable_variables)
    state = _State(0, 0.0, model.get_weights(), model.get_weights(), [])
    if resume and checkpoint_path(folder).exists():
        state = _load_state(checkpoint_path(folder))
        model.set_weights(state.weights)
        for variable, value in zip(optimizer.variables, state.optimizer, strict=True):
            variable.assign(value)

    if state.step >= settings.steps:  # done before; only the model is wanted
        model.set_weights(state.average)
        return model, read_history(folder)
    pool = PhantomPool(settings.voxel_nm, (settings.seed, state.step), settings.pool)
    try:
        validation = _validation_set(settings)
        pool.fill(12)
        rng = np.random.default_rng((settings.seed, state.step, 7))
        batches = pool.batches(settings.patch_vox, settings.batch, rng)
        started, before = time.monotonic(), state.seconds
        losses: list[float] = []
        dices: list[float] = []
        while state.step < settings.steps:
            optimizer.learning_rate = settings.rate(state.step)
            grey, mask = next(batches)
            values = model.train_on_batch(grey, mask, return_dict=True)
            model.reset_metrics()
            losses.append(float(values["loss"]))
            if not np.isfinite(losses[-1]):
                raise NetworkError(
                    f"the training diverged: its loss at step {state.step + 1} is {losses[-1]}",
                    expected="a finite number",
                    remedy="Give larger patches, a lower --learning-rate or --precision float32; --resume goes on from "
                    "the last checkpoint",
                )
            dices.append(float(values["soft_dice"]))
            state.step += 1
            if state.step % 4 == 0:
                _average_into(state.average, model.get_weights(), settings.average, state.step)
            if state.step % 4 == 0 or len(pool.examples) < settings.pool:
                pool.renew()
            state.seconds = before + time.monotonic() - started
            timed_out = max_minutes is not None and time.monotonic() - started > 60 * max_minutes
            if state.step % settings.save_every == 0 or state.step == settings.steps or timed_out:
                state.weights = model.get_weights()
                state.optimizer = [np.asarray(keras.ops.convert_to_numpy(v)) for v in optimizer.variables]
                _save_state(checkpoint_path(folder), state)
                model.set_weights(state.average)
                score = _validate(model, validation)
                model.set_weights(state.weights)
                row = {
                    "step": float(state.step),
                    "seconds": state.seconds,
                    "patches": float(state.step * settings.batch),
                    "loss": float(np.mean(losses)),
                    "dice": float(np.mean(dices)),
                    "validation_dice": score,
                    "learning_rate": float(settings.rate(state.step)),
                }
                _append_history(folder / "history.csv", row)
                if report:
                    report(row)
                losses, dices = [], []
            if timed_out:
                break
        model.set_weights(state.average)
        return model, read_history(folder)
    finally:
        pool.close()


def _average_into(average: Weights, weights: Weights, momentum: float, step: int) -> None:
    """Moving average in place; short memory at first, so that the start is forgotten."""
    m = np.float32(min(momentum, 1 - 8 / (step + 8)))
    for mean, value in zip(average, weights, strict=True):
        mean *= m
        mean += (1 - m) * value


def _validation_set(settings: TrainingSettings) -> list[Example]:
    """Phantoms with seeds that training never uses, all kinds and conditions, cut to whole multiples."""
    kinds = ("synapse", "synapse", "liposomes", "synapse", "shells", "no_vesicles")
    examples = []
    for i in range(settings.validation_volumes):
        rng = np.random.default_rng((987_654, i))
        example = random_example(rng, settings.voxel_nm, 96, kinds[i % len(kinds)])
        a = settings.shape.alignment_vox
        box = tuple(slice(0, min(n, 80) // a * a) for n in example.grey.shape)
        examples.append(Example(example.grey[box], example.mask[box]))
    return examples


def _predicted(model: Any, example: Example) -> NDArray[np.float32]:
    """Probability (z, y, x) of a whole example; float32 even where the network computes with bfloat16."""
    batch = example.grey.astype(np.float32)[None, ..., None]
    return np.asarray(model.predict_on_batch(batch)).astype(np.float32)[0, ..., 0]


def _validate(model: Any, examples: list[Example]) -> float:
    """Soft Dice over all voxels of the validation set."""
    product, squares = 0.0, 0.0
    for example in examples:
        predicted = _predicted(model, example)
        truth = example.mask.astype(np.float32) / 255
        product += float((truth * predicted).sum())
        squares += float((truth**2).sum() + (predicted**2).sum())
    return 2 * product / max(squares, 1e-9)


def calibrate_threshold(model: Any, settings: TrainingSettings) -> tuple[float, float]:
    """Find the threshold with the best Dice on the validation phantoms; that Dice (hard, over all voxels), too."""
    thresholds = np.arange(0.2, 0.85, 0.05)
    both = np.zeros(len(thresholds))
    total = np.zeros(len(thresholds))
    for example in _validation_set(settings):
        predicted = _predicted(model, example)
        truth = example.mask > 127
        for i, threshold in enumerate(thresholds):
            found = predicted > threshold
            both[i] += np.count_nonzero(found & truth)
            total[i] += np.count_nonzero(found) + np.count_nonzero(truth)
    scores = 2 * both / np.maximum(total, 1)
    best = int(np.argmax(scores))
    return round(float(thresholds[best]), 2), float(scores[best])


def read_history(folder: Path) -> list[dict[str, float]]:
    """Rows of a training folder's `history.csv`."""
    with open(folder / "history.csv", newline="") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def _append_history(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with open(path, "a", newline="") as stream:
        writer = csv.DictWriter(stream, HISTORY_COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{float(v):.6g}" for k, v in row.items()})
