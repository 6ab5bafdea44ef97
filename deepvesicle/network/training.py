"""Training, resumable at any moment, free of calls to one particular Keras backend."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.cores import usable_cores
from deepvesicle.errors import NetworkError
from deepvesicle.network.checkpoint import (
    HISTORY_COLUMNS,
    HISTORY_NAME,
    State,
    Weights,
    checkpoint_path,
    load_state,
    save_state,
    write_history,
)
from deepvesicle.network.losses import LOSSES, of_known, soft_dice
from deepvesicle.network.normalise import NormalisationMethod
from deepvesicle.network.parts import DatasetPatches, Part
from deepvesicle.network.patches import Patch, augment
from deepvesicle.network.phantoms import PhantomPool, random_example
from deepvesicle.network.unet import CONVOLUTIONS_PER_LEVEL, UNetShape, build_unet, quiet_tensorflow

#: Steps between two contributions to the moving average of the weights.
AVERAGED_EVERY = 4
VALIDATION_SEED = 987_654
#: Dice by which another threshold must be better than that of the network a training went on from.
CLEARLY_BETTER = 0.01
#: Longest time between checkpoints.
SAVE_SECONDS = 60.0


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
    patience : int
        Stop after so many validations without a higher Dice; 0: never.
    validation_volumes, validation_patches : int
        Phantoms, or patches of a dataset, that a validation sees.
    pool, new_phantom_every, phantom_vox : int
        Phantoms to draw patches from at a time, steps until the oldest is replaced, and width of one in voxels.
    phantoms : float
        Share of the patches that are of phantoms where there are datasets; without datasets, all are.
    frozen_levels : int
        First levels of the down path that keep their weights.
    normalisation : NormalisationMethod
        Of the grey values.
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
    patience: int = 0
    validation_volumes: int = 10
    validation_patches: int = 32
    pool: int = 96
    new_phantom_every: int = 6
    phantom_vox: int = 128
    phantoms: float = 0.0
    frozen_levels: int = 0
    normalisation: NormalisationMethod = field(default_factory=NormalisationMethod)
    seed: int = 1

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return asdict(self)

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        rise = min(1.0, (step + 1) / 200)
        left = (1 - step / self.steps) / self.fall
        return self.learning_rate * max(min(rise, left, 1.0), 0.003)


def is_exhausted(rows: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether so many validations (0: any number) have passed without a higher Dice."""
    scores = [row["validation_dice"] for row in rows]
    return bool(scores) and 0 < patience <= len(scores) - 1 - int(np.argmax(scores))


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from beside phantoms.

    Parameters
    ----------
    training, validation : list of Part
        From `deepvesicle.network.parts.split`.
    """

    training: list[Part]
    validation: list[Part]

    def to_json(self) -> list[dict[str, Any]]:
        """What tells these data from others: names, places and the files' sha256."""
        return [
            {"name": part.name(), "sha256": part.volume.source.get("sha256"), "use": use}
            for use, parts in (("training", self.training), ("validation", self.validation))
            for part in parts
        ]


def train(
    settings: TrainingSettings,
    folder: Path,
    *,
    data: TrainingData | None = None,
    resume: bool = False,
    initial: Weights | None = None,
    max_minutes: float | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[Any, list[dict[str, float]]]:
    """Train on phantoms made on the fly, on datasets, or on both.

    Every step depends on the settings, the data and its number alone: a training that is killed and resumed goes on as
    if it had not been, to the rounding of the processor.

    Parameters
    ----------
    settings : TrainingSettings
    folder : Path
        Receives `history.csv` after every `save_every` steps, and `checkpoint.npz` then and every minute.
    data : TrainingData, optional
        Without it, phantoms are all there is.
    resume : bool
        Go on from the folder's checkpoint where there is one.
    initial : list of arrays, optional
        Weights to start from, of a network of the same shape (`keras.Model.get_weights`); at random otherwise.
    max_minutes : float, optional
        Stop (with a checkpoint) after this time; go on later with `resume`.
    report : callable, optional
        Called with a row of the history.
    progress : callable, optional
        Called with (steps done, steps in all).
    stop : callable, optional
        Asked after every step; the training stops, with a checkpoint, when it says so.

    Returns
    -------
    model : keras.Model
        With the averaged weights of the validation with the highest Dice, the initial weights among them.
    rows : list of dict
        The whole history, earlier runs of the folder included; with initial weights, it begins with theirs (step 0).

    Raises
    ------
    NetworkError
        The loss is no number any more, or the checkpoint cannot be read.
    UsageError
        The checkpoint is of another training.
    """
    quiet_tensorflow()
    import keras

    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(settings.seed)
    _share_among_gpus(settings.batch)
    model = _build(settings)
    if initial is not None:
        model.set_weights(initial)
    optimizer = _compile(model, settings)
    identity = {**settings.to_json(), "data": data.to_json() if data else None, "initial": _digest(initial)}
    start = model.get_weights()
    state = State(0, start, [w.copy() for w in start], start, [])
    if resume and checkpoint_path(folder).exists():
        state = load_state(checkpoint_path(folder), identity)
        model.set_weights(state.weights)
        for variable, value in zip(optimizer.variables, state.optimizer, strict=True):
            variable.assign(value)

    def is_done() -> bool:
        return state.step >= settings.steps or is_exhausted(state.rows, settings.patience)

    def save() -> None:
        state.weights = model.get_weights()
        state.optimizer = [np.asarray(keras.ops.convert_to_numpy(v)) for v in optimizer.variables]
        save_state(checkpoint_path(folder), state, identity)
        write_history(folder / HISTORY_NAME, state.rows)

    if is_done():  # done before; only the model is wanted
        model.set_weights(state.best)
        return model, state.rows
    source = _Source(settings, data)
    try:
        validation = _validation_batches(settings, data)
        if initial is not None and not state.rows and state.step == 0:
            unknown = float("nan")
            first = (0.0, 0.0, 0.0, unknown, unknown, _validate(model, validation), 0.0)
            state.rows.append(dict(zip(HISTORY_COLUMNS, first, strict=True)))
            if report:
                report(state.rows[0])
        started, before = time.monotonic(), state.seconds
        saved = started
        while not is_done():
            optimizer.learning_rate = settings.rate(state.step)
            grey, targets = source.batch(state.step)
            values = model.train_on_batch(grey, targets, return_dict=True)
            model.reset_metrics()
            loss = float(values["loss"])
            if not np.isfinite(loss):
                raise NetworkError(
                    f"the training diverged: its loss at step {state.step + 1} is {loss}",
                    expected="a finite number",
                    remedy="Give larger patches, a lower --learning-rate or --precision float32; --resume goes on from "
                    "the last checkpoint",
                )
            state.sums += (1, loss, float(values["soft_dice"]))
            state.step += 1
            if state.step % AVERAGED_EVERY == 0:
                _average_into(state.average, model.get_weights(), settings.average, state.step)
            state.seconds = before + time.monotonic() - started
            if progress:
                progress(state.step, settings.steps)
            if state.step % settings.save_every == 0 or state.step == settings.steps:
                weights = model.get_weights()
                model.set_weights(state.average)
                score = _validate(model, validation)
                model.set_weights(weights)
                if score > state.best_dice():
                    state.best = [w.copy() for w in state.average]
                steps, losses, dices = state.sums
                row = {
                    "step": float(state.step),
                    "seconds": state.seconds,
                    "patches": float(state.step * settings.batch),
                    "loss": losses / steps,
                    "dice": dices / steps,
                    "validation_dice": score,
                    "learning_rate": float(settings.rate(state.step)),
                }
                state.rows.append(row)
                state.sums = np.zeros(3)
                save()
                saved = time.monotonic()
                if report:
                    report(row)
            now = time.monotonic()
            stopped = (stop is not None and stop()) or (max_minutes is not None and now - started > 60 * max_minutes)
            if (stopped or now - saved > SAVE_SECONDS) and not is_done():
                save()
                saved = now
            if stopped:
                break
        model.set_weights(state.best if state.rows else state.average)
        return model, state.rows
    finally:
        source.close()


def _build(settings: TrainingSettings) -> Any:
    """The network with random weights, computing in the precision asked for; its first levels frozen if asked for."""
    import keras

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(settings.precision)
    try:
        model = build_unet(settings.shape)
    finally:
        keras.config.set_dtype_policy(policy)
    convolutions = 0
    for layer in model.layers:
        convolutions += type(layer).__name__ == "Conv3D"
        if convolutions > settings.frozen_levels * CONVOLUTIONS_PER_LEVEL:
            break
        layer.trainable = False
    return model


def _compile(model: Any, settings: TrainingSettings) -> Any:
    import keras

    optimizer = keras.optimizers.Adam(settings.learning_rate, clipnorm=1.0)
    model.compile(
        optimizer=optimizer, loss=of_known(LOSSES[settings.loss]), metrics=[of_known(soft_dice)], jit_compile=False
    )
    optimizer.build(model.trainable_variables)
    return optimizer


def _share_among_gpus(batch: int) -> None:
    """Let several GPUs share each batch, where the backend can (JAX) and the batch can be divided."""
    import keras

    if keras.backend.backend() != "jax":
        return
    devices = keras.distribution.list_devices()
    if len(devices) > 1 and batch % len(devices) == 0:
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


def _digest(weights: Weights | None) -> str | None:
    if weights is None:
        return None
    digest = hashlib.sha256()
    for value in weights:
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


class _Source:
    """Batches of a training: which one belongs to a step depends on its number alone."""

    def __init__(self, settings: TrainingSettings, data: TrainingData | None) -> None:
        self._settings = settings
        self._patches = DatasetPatches(data.training, settings.normalisation) if data else None
        self._phantom_share = settings.phantoms if data else 1.0
        self._pool: PhantomPool | None = None
        if self._phantom_share > 0:
            self._pool = PhantomPool(
                settings.voxel_nm,
                settings.seed,
                capacity=settings.pool,
                every=settings.new_phantom_every,
                size_vox=settings.phantom_vox,
                workers=max(1, usable_cores() // 2),
                method=settings.normalisation,
            )

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Grey values (batch, z, y, x, 1), and occupancy and what is known of it (batch, z, y, x, 2)."""
        rng = np.random.default_rng((self._settings.seed, step, 7))
        if self._pool:
            self._pool.go_to(step)
        patches = [augment(self._patch(rng), rng) for _ in range(self._settings.batch)]
        return _stacked(patches)

    def _patch(self, rng: np.random.Generator) -> Patch:
        if self._pool and (self._patches is None or rng.random() < self._phantom_share):
            return self._pool.patch(self._settings.patch_vox, rng)
        assert self._patches is not None
        return self._patches.patch(self._settings.patch_vox, rng)

    def close(self) -> None:
        """End the processes that simulate."""
        if self._pool:
            self._pool.close()


def _stacked(patches: Sequence[Patch]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    grey, mask, known = (np.stack(arrays) for arrays in zip(*patches, strict=True))
    return grey[..., None], np.stack([mask, known], axis=-1)


def _average_into(average: Weights, weights: Weights, momentum: float, step: int) -> None:
    """Moving average in place; short memory at first, so that the start is forgotten."""
    m = np.float32(min(momentum, 1 - 8 / (step + 8)))
    for mean, value in zip(average, weights, strict=True):
        mean *= m
        mean += (1 - m) * value


def _validation_batches(settings: TrainingSettings, data: TrainingData | None, *, balanced: bool = True) -> list[Patch]:
    """What a training is validated on: patches of the data's validation parts, or phantoms where there are none.

    Balanced, as in the training, they tell steps apart; a threshold is chosen on patches from anywhere.
    """
    if data is None:
        return validation_phantoms(settings)
    source = DatasetPatches(data.validation, settings.normalisation)
    rng = np.random.default_rng(VALIDATION_SEED)
    count = settings.validation_patches * (1 if balanced else 2)
    return [source.patch(settings.patch_vox, rng, balanced=balanced) for _ in range(count)]


def validation_phantoms(settings: TrainingSettings) -> list[Patch]:
    """Phantoms with seeds that training never uses, all kinds and conditions, cut to whole multiples."""
    kinds = ("synapse", "synapse", "liposomes", "synapse", "shells", "no_vesicles")
    phantoms = []
    for i in range(settings.validation_volumes):
        rng = np.random.default_rng((VALIDATION_SEED, i))
        example = random_example(rng, settings.voxel_nm, 96, kinds[i % len(kinds)], settings.normalisation)
        a = settings.shape.alignment_vox
        phantoms.append(example.part(np.ix_(*(np.arange(min(n, 80) // a * a) for n in example.grey.shape))))
    return phantoms


def _predicted(model: Any, grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability (z, y, x) of a whole patch; float32 even where the network computes with bfloat16."""
    return np.asarray(model.predict_on_batch(grey[None, ..., None])).astype(np.float32)[0, ..., 0]


def _validate(model: Any, patches: Sequence[Patch]) -> float:
    """Soft Dice over all known voxels of the validation set."""
    product, squares = 0.0, 0.0
    for grey, truth, known in patches:
        predicted = _predicted(model, grey)
        product += float((known * truth * predicted).sum())
        squares += float((known * truth**2).sum() + (known * predicted**2).sum())
    return 2 * product / max(squares, 1e-9)


def calibrate_threshold(
    model: Any, settings: TrainingSettings, data: TrainingData | None = None, *, usual: float | None = None
) -> tuple[float, float]:
    """Find the threshold with the best Dice on what validates.

    Parameters
    ----------
    model : keras.Model
    settings : TrainingSettings
    data : TrainingData, optional
    usual : float, optional
        Threshold to keep if no other one is clearly better: that of the network the training went on from.

    Returns
    -------
    threshold : float
    dice : float
        With it; hard, over all known voxels.
    """
    thresholds = np.append(np.arange(0.2, 0.85, 0.05), 0.5 if usual is None else usual)
    both = np.zeros(len(thresholds))
    total = np.zeros(len(thresholds))
    for grey, share, known in _validation_batches(settings, data, balanced=False):
        predicted = _predicted(model, grey)
        truth, counts = (share > 0.5) & (known > 0), known > 0
        for i, threshold in enumerate(thresholds):
            found = (predicted > threshold) & counts
            both[i] += np.count_nonzero(found & truth)
            total[i] += np.count_nonzero(found) + np.count_nonzero(truth)
    scores = 2 * both / np.maximum(total, 1)
    best = int(np.argmax(scores))
    if usual is not None and scores[best] < scores[-1] + CLEARLY_BETTER:
        best = len(thresholds) - 1
    return round(float(thresholds[best]), 2), float(scores[best])
