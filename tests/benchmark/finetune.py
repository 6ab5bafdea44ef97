"""What fine-tuning gains: the shipped network, trained on some tomograms of a kind that it has not seen, on others.

Run by `bin/benchmark finetune`. The kind: strong anisotropic diffusion and an underfocus half as large again as any
that the shipped network was trained on. Everything goes the way of a user: models and tomograms on disk, `deepvesicle
prepare`, `deepvesicle train --init default`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.files.tomogram import write_tomogram
from deepvesicle.grid import Tomogram
from deepvesicle.network.dataset import read_dataset
from deepvesicle.network.parts import Part
from deepvesicle.network.zoo import load_network
from deepvesicle.phantom.imaging import Imaging, image_scene
from deepvesicle.phantom.scene import random_scene
from deepvesicle.tuning import FIGURES, Standing, standing
from deepvesicle.vesicles import Status, Vesicles
from tests.benchmark.report import ROOT, markdown, write_section

#: First part of the seeds; used nowhere else.
SEED = 336_000
#: Tomograms to train on, and as many to judge by.
HALF = 3
VOXEL_NM, SHAPE, BEYOND_NM = 2.4, (84, 160, 160), 50.0
#: Outside what the shipped network was trained on: see `deepvesicle.phantom.imaging.random_imaging`.
FAMILY = Imaging(
    contrast=0.45, defocus_nm=14_000, envelope_nm2=2.0, cutoff=0.95, filter="diffusion", filter_strength=30.0
)


HOW = """Made by `bin/benchmark finetune`. Phantoms of a kind that the shipped network was not trained on: voxels of
{voxel_nm:g} nm, d' {contrast:g} before {iterations:.0f} iterations of anisotropic diffusion (3 to 15 in the training),
{defocus_um:.0f} um underfocus +-10 % (at most 9 in the training). `deepvesicle train --init default`, with its
defaults, on {half} of them, which hold {count} vesicles, took {minutes:.0f} minutes on two cores for {steps} steps, its
own comparison included. (That a training killed by SIGKILL at five random moments ends where an unbroken one does is
a test: `tests/network/test_training.py`.) On {half} others:"""


def member(number: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Tomogram, Vesicles]:
    """A synapse of this kind."""
    rng = np.random.default_rng((SEED, number))
    margin = round(BEYOND_NM / VOXEL_NM)
    scene = random_scene(rng, (shape[0], shape[1], shape[2] + 2 * margin), VOXEL_NM)
    return image_scene(scene, replace(FAMILY, defocus_nm=FAMILY.defocus_nm * rng.uniform(0.9, 1.1)), rng, margin)


def prepared(folder: Path, name: str, numbers: range, shape: tuple[int, int, int]) -> Path:
    """A dataset of these tomograms, made by the command from files."""
    dataset = folder / name
    for number in numbers:
        tomogram, truth = member(number, shape)
        path = folder / f"{name}{number}.mrc"
        write_tomogram(path, np.asarray(tomogram.data), tomogram.grid)
        manual = truth.replace(status=(Status.MANUAL,) * len(truth))
        write_vesicles_model(path.with_suffix(".mod"), manual)
        run("prepare", str(path), str(path.with_suffix(".mod")), "-o", str(dataset))
    return dataset


def run(*arguments: str) -> None:
    """One of our commands, as a user runs it."""
    subprocess.run([sys.executable, "-m", "deepvesicle", *arguments], check=True, cwd=ROOT)


def judged(model: str | Path, dataset: Path) -> Standing:
    """A network on all of a dataset."""
    return standing(load_network(model), [Part.whole(volume) for volume in read_dataset(dataset).volumes])


def main() -> None:
    """Fine-tune, compare, write the section."""
    parser = argparse.ArgumentParser(prog="bin/benchmark finetune", description="What fine-tuning gains.")
    parser.add_argument("--quick", action="store_true", help="small tomograms, a few steps; nothing is written")
    parser.add_argument("--steps", type=int, help="in place of the command's own number")
    quick = parser.parse_args()
    shape = (48, 96, 96) if quick.quick else SHAPE
    more = ("--steps", "8", "--patch", "32") if quick.quick else ()
    more = ("--steps", str(quick.steps)) if quick.steps else more
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        learning = prepared(folder, "learning", range(HALF), shape)
        judging = prepared(folder, "judging", range(HALF, 2 * HALF), shape)
        before = judged("default", judging)
        started = time.monotonic()
        run("train", str(learning), "--init", "default", "-o", str(folder / "tuned"), *more)
        minutes = (time.monotonic() - started) / 60
        after = judged(folder / "tuned", judging)
        count = sum(len(volume.vesicles) for volume in read_dataset(learning).volumes)
        steps = int(load_network(folder / "tuned").config["steps_done"])
    rows = [(label, f"{getattr(before, f):.3f}", f"{getattr(after, f):.3f}") for f, label in FIGURES.items()]
    words = HOW.format(
        voxel_nm=VOXEL_NM,
        contrast=FAMILY.contrast,
        iterations=FAMILY.filter_strength,
        defocus_um=FAMILY.defocus_nm / 1000,
        half=HALF,
        count=count,
        minutes=minutes,
        steps=steps,
    )
    lines = [
        "## Fine-tuning",
        "",
        *textwrap.wrap(words, 118),
        "",
        *markdown(("", "shipped", "fine-tuned"), rows),
    ]
    print("\n".join(lines))
    if not quick.quick:
        write_section("finetune", lines)


if __name__ == "__main__":
    main()
