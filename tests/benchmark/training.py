"""Losses and sizes of network compared by short trainings.

Run by `bin/benchmark training`; writes its section of `docs/benchmarks.md`. Takes more than an hour on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepvesicle.cores import usable_cores
from deepvesicle.fitting.propose import propose
from deepvesicle.grid import Grid, Probability, Tomogram
from deepvesicle.network.checkpoint import Weights
from deepvesicle.network.inference import predict
from deepvesicle.network.patches import occupancy
from deepvesicle.network.training import TrainingSettings, train
from deepvesicle.network.unet import UNetShape
from deepvesicle.network.zoo import Network, load_network, save_network
from deepvesicle.phantom.imaging import image_scene
from deepvesicle.phantom.scene import random_scene
from deepvesicle.scoring.match import dice
from deepvesicle.settings import ProposalSettings
from deepvesicle.vesicles import Vesicles
from tests.benchmark import scenes
from tests.benchmark.contest import Pool
from tests.benchmark.report import markdown, write_section

#: First part of the seeds of the validation phantoms, used nowhere else; and the seed of the trainings: not that of
#: the default model, whose phantoms these shall not be.
PHANTOM_SEED, TRAINING_SEED = 335_000, 77
#: Contrasts d' of the validation phantoms, and how many there are of each.
CONTRASTS, PHANTOMS = (1.2, 0.75, 0.4), 3
PHANTOM_SHAPE, VOXEL_NM = (80, 144, 144), 2.2
#: Probabilities that spheres are proposed at.
THRESHOLDS = (0.15, 0.25, 0.4, 0.6)
#: Those compared.
LOSSES = ("bce_dice", "bce", "bce_tversky", "focal")
#: Highest learning rate where the training goes on from the shipped model; the usual one from scratch.
GOING_ON_RATE = 5e-4
USUAL_SHAPE = UNetShape(3, 16)
SHAPES = (UNetShape(2, 16), UNetShape(3, 8), USUAL_SHAPE, UNetShape(3, 32))


@dataclass(frozen=True)
class Extent:
    """How much is computed, apart from the steps.

    Parameters
    ----------
    phantoms : tuple of (float, int)
        Contrast and number of each validation phantom.
    phantom_shape : tuple of int
        Of each.
    settings : TrainingSettings
        What all trainings have in common.
    warm_up, timed : int
        Steps before the speed of a training is measured, and while it is.
    speed_shape : tuple of int
        Of the volume that the speed of the prediction is measured on; cut into several equal tiles.
    """

    phantoms: tuple[tuple[float, int], ...]
    phantom_shape: tuple[int, int, int]
    settings: TrainingSettings
    warm_up: int
    timed: int
    speed_shape: tuple[int, int, int]


def precision() -> str:
    """The faster precision where the processor computes with it, as for the default model."""
    path = Path("/proc/cpuinfo")
    words = set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
    return "mixed_bfloat16" if words & {"avx512_bf16", "amx_bf16"} else "float32"


def full_extent() -> Extent:
    """What the page shows."""
    # no phantoms of the training's own validation: the networks are judged here
    settings = TrainingSettings(seed=TRAINING_SEED, voxel_nm=VOXEL_NM, precision=precision(), validation_volumes=0)
    phantoms = tuple((contrast, number) for contrast in CONTRASTS for number in range(PHANTOMS))
    # four tiles as large as the default settings make them
    return Extent(phantoms, PHANTOM_SHAPE, settings, 10, 30, (96, 288, 288))


def quick_extent() -> Extent:
    """Enough to see that all of it runs."""
    full = full_extent()
    # on patches of 16, bfloat16 gives NaN as the gradient of the lowest of three levels (2 x 2 x 2 voxels)
    settings = replace(full.settings, patch_vox=32, batch=1, pool=2)
    return Extent(((1.2, 0),), (48, 72, 72), settings, 1, 1, (16, 16, 288))


@dataclass(frozen=True)
class Scene:
    """A validation phantom.

    Parameters
    ----------
    contrast : float
        d'.
    tomogram : Tomogram
    truth : Vesicles
    occupied : float32 array (z, y, x)
        Share of each voxel inside a vesicle, on the grid of the prediction.
    """

    contrast: float
    tomogram: Tomogram
    truth: Vesicles
    occupied: NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """How good a network is on the phantoms of one contrast: soft Dice, best F1 and the threshold that gives it."""

    dice: float
    f1: float
    threshold: float


@dataclass(frozen=True)
class Trained:
    """A training that was done: its name, how long it was, how good the network is at each contrast."""

    name: str
    steps: int
    minutes: float
    verdicts: dict[float, Verdict]
    parameters: int
    mega_voxels_per_s: float = np.nan


def make_scene(contrast: float, number: int, shape: tuple[int, int, int]) -> Scene:
    """A synapse, unfiltered, under otherwise random conditions.

    The same number is the same scene at every contrast.
    """
    rng = np.random.default_rng((PHANTOM_SEED, number))
    margin = round(scenes.BEYOND_NM / VOXEL_NM)
    scene = random_scene(rng, (*shape[:2], shape[2] + 2 * margin), VOXEL_NM)
    tomogram, truth = image_scene(scene, scenes.unfiltered(rng, contrast), rng, margin)
    return Scene(contrast, tomogram, truth, occupancy(truth, tomogram.grid).astype(np.float32) / np.float32(255))


def judge(judged: Sequence[Scene], probabilities: Sequence[Probability]) -> Verdict:
    """Soft Dice of the masks and best F1 of the spheres proposed, over all these phantoms together."""
    values = [probability.values() for probability in probabilities]
    overlap = dice(np.concatenate(values), np.concatenate([scene.occupied for scene in judged]))
    f1 = {threshold: proposed_f1(judged, probabilities, threshold) for threshold in THRESHOLDS}
    best = max(f1, key=lambda threshold: f1[threshold])
    return Verdict(overlap, f1[best], best)


def proposed_f1(judged: Sequence[Scene], probabilities: Sequence[Probability], threshold: float) -> float:
    """F1 of the spheres proposed at a threshold, without those that only a lower one shows."""
    pool = Pool()
    for scene, probability in zip(judged, probabilities, strict=True):
        spheres = propose(probability, scene.tomogram.grid, ProposalSettings(), threshold=threshold)
        if len(spheres):
            spheres = spheres.select(spheres.features["mask_share"] == 1)
        pool.add(spheres, scene.truth, scenes.is_whole(scene.truth))
    return pool.f1


def judge_all(network: Network, phantoms: Sequence[Scene]) -> dict[float, Verdict]:
    """Verdicts on the phantoms of each contrast."""
    verdicts = {}
    for contrast in dict.fromkeys(scene.contrast for scene in phantoms):
        group = [scene for scene in phantoms if scene.contrast == contrast]
        verdicts[contrast] = judge(group, [predict(scene.tomogram, network) for scene in group])
    return verdicts


def train_and_judge(
    name: str,
    settings: TrainingSettings,
    phantoms: Sequence[Scene],
    initial: Weights | None = None,
    speed_shape: tuple[int, int, int] | None = None,
) -> Trained:
    """Train a network and judge it; with `speed_shape`, also measure its speed on a volume of that shape."""
    with tempfile.TemporaryDirectory() as folder:
        model, rows = train(replace(settings, save_every=settings.steps), Path(folder) / "run", initial=initial)
        network = save_network(
            Path(folder) / "model", model, settings.shape, voxel_nm=VOXEL_NM, threshold=0.5, card=name
        )
        return Trained(
            name,
            int(rows[-1]["step"]),
            rows[-1]["seconds"] / 60,
            judge_all(network, phantoms),
            model.count_params(),
            mega_voxels_per_s(network, speed_shape) if speed_shape else np.nan,
        )


def seconds_per_step(settings: TrainingSettings, warm_up: int, timed: int) -> float:
    """How long a step of a training takes once it runs."""
    settings = replace(settings, steps=warm_up + timed, save_every=warm_up)
    with tempfile.TemporaryDirectory() as folder:
        _, rows = train(settings, Path(folder))
    return (rows[-1]["seconds"] - rows[0]["seconds"]) / (rows[-1]["step"] - rows[0]["step"])


def mega_voxels_per_s(network: Network, shape: tuple[int, int, int]) -> float:
    """Speed of the prediction, without the first tile, which waits until the network is built; the better of two."""
    grey = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tomogram = Tomogram(grey, Grid(shape, network.voxel_nm))
    speeds = []
    for _ in range(2):
        times: list[float] = []
        predict(tomogram, network, progress=lambda *_, times=times: times.append(time.monotonic()))
        tiles = len(times) - 1
        speeds.append(1e-6 * grey.size * (tiles - 1) / tiles / (times[-1] - times[1]))
    return max(speeds)


def losses(extent: Extent, phantoms: Sequence[Scene], steps: int) -> Iterator[Trained]:
    """The shipped model as it is, and trained further with each loss."""
    shipped = load_network()
    model = shipped.model()
    yield Trained("none: as shipped", 0, 0.0, judge_all(shipped, phantoms), model.count_params())
    common = replace(extent.settings, shape=shipped.shape, steps=steps, learning_rate=GOING_ON_RATE)
    for loss in LOSSES:
        yield train_and_judge(loss, replace(common, loss=loss), phantoms, model.get_weights())


def sizes(extent: Extent, phantoms: Sequence[Scene], minutes: float) -> Iterator[Trained]:
    """Networks of several sizes from scratch, as many steps each as fit into the same time."""
    for shape in SHAPES:
        settings = replace(extent.settings, shape=shape)
        pace = seconds_per_step(settings, extent.warm_up, extent.timed)
        steps = max(1, round(60 * minutes / pace))
        name = f"{shape.levels} levels, {shape.filters} filters"
        yield train_and_judge(name, replace(settings, steps=steps), phantoms, speed_shape=extent.speed_shape)


def cells(row: Trained) -> list[str]:
    """Name, length and verdicts."""
    length = [f"{row.steps}", f"{row.minutes:.1f}"]
    overlaps = [f"{verdict.dice:.3f}" for verdict in row.verdicts.values()]
    f1 = [f"{verdict.f1:.3f} ({verdict.threshold:g})" for verdict in row.verdicts.values()]
    return [row.name, *length, *overlaps, *f1]


def head(first: str, rows: Sequence[Trained]) -> list[str]:
    """Names of the columns that `cells` fills."""
    contrasts = [f"d' {contrast:g}" for contrast in rows[0].verdicts]
    return [first, "steps", "minutes", *(f"Dice, {c}" for c in contrasts), *(f"F1, {c}" for c in contrasts)]


def losses_table(rows: Sequence[Trained]) -> list[str]:
    """In Markdown."""
    return markdown(head("loss", rows), [cells(row) for row in rows])


def sizes_table(rows: Sequence[Trained]) -> list[str]:
    """In Markdown, with the speeds."""
    usual = rows[SHAPES.index(USUAL_SHAPE)].mega_voxels_per_s
    speeds = [[f"{row.mega_voxels_per_s:.2f}", f"{row.mega_voxels_per_s / usual:.2f}"] for row in rows]
    weights = [f"{row.parameters / 1000:.0f}" for row in rows]
    full = [[*cells(row), n, *speed] for row, n, speed in zip(rows, weights, speeds, strict=True)]
    columns = [*head("network", rows), "weights, thousand", "million voxels/s", "speed, relative"]
    return markdown(columns, full)


SHORT = """These trainings are short: minutes, where the default model had hours. They can tell which choice is ahead
after so long, and show a choice that fails. They cannot tell which is best in the end: a large network may gain for
longer than a small one. Each was trained once, and judged on few phantoms of the simulator that it was trained on,
{whole} whole vesicles at each contrast; small differences can be chance, and nothing is said of real tomograms."""

JUDGED = """Judged on {count} phantom synapses ({size} voxels of {voxel:g} nm, unfiltered, random otherwise; the same
scenes at every contrast), their seeds used for nothing else. *Dice* is the soft one of the probability against the
share of each voxel inside a vesicle. *F1* is that of the spheres proposed from the mask, without fit or judgement; it
is no figure of the whole program. Behind it stands the threshold that gives it, the best of {thresholds} on the same
phantoms. Vesicles that the border cuts count neither for nor against."""

TRAINED = """All trainings: seed {seed}, {batch} patches of {patch}^3 voxels a step, {precision}, a learning rate that
rises over 200 steps and falls to zero at the end, the moving average of the weights. The phantoms are the same in all
and come in the same order, but when each is there to be drawn from depends on how fast it is simulated beside the
training. *Minutes* are those of the steps alone, on {cores} cores."""

OF_LOSSES = """Trained further from the shipped model `{name}` (weights sha256 `{sha256}`; its loss: {loss}), with equal
steps and a highest rate of {rate:g}. A start from a model that is good already favours the loss it was made with, and
shows where each loss moves it rather than what each would have made from scratch."""

OF_SIZES = """From scratch, with the loss {loss} and a highest rate of {rate:g}, for about equal time: the steps that
fit into it were reckoned from the pace of a short trial. *Million voxels/s* is the speed of the prediction on {cores}
cores in 32 bits, on a volume of {volume} voxels, tiles after the first; *relative* to the size of the default model."""


def paragraphs(*texts: str) -> list[str]:
    """Wrapped, with an empty line after each."""
    return [line for text in texts for line in (*textwrap.wrap(text, 118), "")]


def section(
    extent: Extent, phantoms: Sequence[Scene], by_loss: Sequence[Trained], by_size: Sequence[Trained]
) -> list[str]:
    """The section of the page, or of it what was computed."""
    settings, cores = extent.settings, usable_cores()
    contrast = phantoms[0].contrast
    whole = sum(int(scenes.is_whole(scene.truth).sum()) for scene in phantoms if scene.contrast == contrast)
    lines = ["## Trainings compared", ""]
    lines += paragraphs(
        "Made by `bin/benchmark training`. " + SHORT.format(whole=whole),
        JUDGED.format(
            count=len(phantoms),
            size=" x ".join(map(str, extent.phantom_shape)),
            voxel=VOXEL_NM,
            thresholds=", ".join(f"{threshold:g}" for threshold in THRESHOLDS),
        ),
        TRAINED.format(
            seed=settings.seed,
            batch=settings.batch,
            patch=settings.patch_vox,
            precision=settings.precision,
            cores=cores,
        ),
    )
    if by_loss:
        shipped = load_network()
        loss = shipped.config.get("training", {}).get("loss", "bce_dice")  # older records do not name it
        words = OF_LOSSES.format(name=shipped.name, sha256=shipped.weights_sha256[:16], loss=loss, rate=GOING_ON_RATE)
        lines += ["### Losses", "", *paragraphs(words), *losses_table(by_loss), ""]
    if by_size:
        volume = " x ".join(map(str, extent.speed_shape))
        words = OF_SIZES.format(loss=settings.loss, rate=settings.learning_rate, cores=cores, volume=volume)
        lines += ["### Sizes", "", *paragraphs(words), *sizes_table(by_size), ""]
    return lines[:-1]


def show(rows: Iterator[Trained]) -> list[Trained]:
    """All rows, printed as they come."""
    done = []
    started = time.monotonic()
    for row in rows:
        took = time.monotonic() - started
        speed = f" | {row.mega_voxels_per_s:.2f} million voxels/s" if np.isfinite(row.mega_voxels_per_s) else ""
        print(f"{' | '.join(cells(row))}{speed}   ({took:.0f} s in all)", flush=True)
        done.append(row)
        started = time.monotonic()
    return done


def main() -> None:
    """Train, judge, print the rows, and write the tables if all was run."""
    parser = argparse.ArgumentParser(prog="bin/benchmark training", description="Losses and sizes compared.")
    parser.add_argument("--steps", type=int, default=300, help="steps with each loss (300)")
    parser.add_argument("--minutes", type=float, default=8.0, help="time of steps with each size (8)")
    parser.add_argument("--only", choices=("losses", "sizes"), help="one table; it is printed and not written")
    parser.add_argument("--quick", action="store_true", help="one phantom, small patches; nothing is written")
    arguments = parser.parse_args()
    if arguments.steps < 1 or not 0 < arguments.minutes < np.inf:
        parser.error("--steps must be at least 1 and --minutes more than 0")
    extent = quick_extent() if arguments.quick else full_extent()
    phantoms = [make_scene(contrast, number, extent.phantom_shape) for contrast, number in extent.phantoms]
    wanted = (arguments.only,) if arguments.only else ("losses", "sizes")
    by_loss = show(losses(extent, phantoms, arguments.steps)) if "losses" in wanted else []
    by_size = show(sizes(extent, phantoms, arguments.minutes)) if "sizes" in wanted else []
    lines = section(extent, phantoms, by_loss, by_size)
    if by_loss and by_size and not arguments.quick:
        write_section("training", lines)
    else:
        print("\n".join(lines))
        print("not all was run: docs/benchmarks.md stays as it is")


if __name__ == "__main__":
    main()
