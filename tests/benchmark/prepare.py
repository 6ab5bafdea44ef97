"""What `deepvesicle prepare` costs on a label volume of full size, and how exactly it understands contours.

Run by `bin/benchmark prepare`. The labels are a hand segmentation of an in-situ tomogram (250 x 928 x 928 voxels,
membrane 1, lumen 2), whose grey values were not published: noise of that size takes their place. Vesicles and Golgi
cisternae are in two volumes; the first and both are prepared, in processes whose peak of resident memory is taken. That
includes the pages of the memory-mapped tomogram that were touched.

Contours are drawn round the vesicles of the phantoms of `bin/benchmark refine`, by a hand that shakes, and understood
without and with `--refine`; the fit from the start spheres of that benchmark is the baseline of the same run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepvesicle.annotations import annotation_of_labels, annotation_of_model
from deepvesicle.files.tomogram import read_header, read_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.fitting.refine import refine
from deepvesicle.grid import Grid, Labels
from deepvesicle.phantom.imaging import Imaging
from deepvesicle.preparing import refit
from deepvesicle.scoring.match import dice, match
from deepvesicle.settings import Settings
from deepvesicle.vesicles import Vesicles
from imod_bridge.model import Object
from tests.annotations.scenes import closed, model_of, outlines
from tests.benchmark.refine import Trial, isolated, trial
from tests.benchmark.report import ROOT, SHARED_DATA, markdown, write_section

MAX_GB = 3.0
VESICLES, CISTERNAE = (
    SHARED_DATA / "golgi_vesicles" / f"{name}_membrane1_lumen2.mrc.gz" for name in ("vesicles", "golgi")
)
CASES = {"vesicles": (VESICLES,), "vesicles and cisternae": (VESICLES, CISTERNAE)}
#: Runs a command and prints its peak memory; a process that waits for one child alone measures that child.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("PEAK", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


#: Points of a contour, slices from one drawn to the next, and how far off a click is (SD along each axis, voxels).
POINTS, EVERY, HAND_VOX = (3, 40), 2, 0.4
CONTRASTS, CONTOUR_SEED = (1.2, 0.75), 337_000


PYTO = SHARED_DATA / "pyto_presynaptic"
PYTO_IDS = (36, 48, 49, 50, 52, 58, 59, 60, 61)
DISCS = """Balls from the nine hand-drawn discs of Pyto's example, against its published labels: Dice, at least 0.98
asked without rounding, and the same voxels with `--pyto-rounding`. Without rounding {missed} of 9 miss: the
published balls lie about centres rounded to whole voxels, up to 0.66 voxel off the discs', and two equal balls at
that distance have the Dice of the third column at most, but for their voxels."""


@dataclass(frozen=True)
class Cost:
    """Of preparing a tomogram."""

    name: str
    vesicles: int
    unclear: int
    gigabytes: float
    seconds: float


def write_noise(path: Path, grid: Grid) -> None:
    """A tomogram of noise in 16-bit integers."""
    rng = np.random.default_rng(7)
    section = rng.normal(0, 300, grid.shape_zyx[1:]).astype(np.int16)
    data = np.empty(grid.shape_zyx, dtype=np.int16)
    for plane in data:  # a new order of the same noise, which takes a fraction of the time
        plane[...] = np.roll(section, tuple(rng.integers(0, min(section.shape), 2)), axis=(0, 1))
    write_tomogram(path, data, grid)


def measure(name: str, labels: Sequence[Path], tomogram: Path, folder: Path) -> Cost:
    """Prepare label volumes in a process of its own."""
    command = ["-m", "deepvesicle", "prepare", tomogram, *labels, "-o", folder, "--classes", "1,2"]
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    seconds = time.monotonic() - started
    if run.returncode:
        raise SystemExit(f"{name}: {run.stderr.strip() or run.stdout.strip()}")
    text, _, peak = run.stdout.rpartition("PEAK ")
    print(f"--- {name}\n{text}{run.stderr}", flush=True)
    (entry,) = json.loads((folder / "manifest.json").read_text())["volumes"].values()
    return Cost(name, entry["vesicles"], len(entry["unclear"]), int(peak) * 1024 / 1e9, seconds)


def understood(contrast: float, number: int) -> tuple[Trial, dict[str, Vesicles]]:
    """A phantom of the benchmark of fits; its vesicles from contours, these refined, and fitted from its starts."""
    case = trial(isolated, Imaging(contrast=contrast), (CONTOUR_SEED, number))
    spheres = np.column_stack([case.truth.centres_vox, case.truth.radii_vox])
    rng = np.random.default_rng((CONTOUR_SEED, number, 1))
    slices = np.arange(0, case.truth.grid.shape_zyx[0], EVERY)
    contours = [
        closed(points) for sphere in spheres for points in outlines(rng, sphere, slices, POINTS, noise=HAND_VOX)
    ]
    model = model_of(case.truth.grid, Object("vesicles", tuple(contours)))
    drawn = annotation_of_model("contours.mod", model, case.truth.grid).vesicles
    refined, _ = refit(case.tomogram, drawn)
    return case, {
        "contours": drawn,
        "contours, --refine": refined,
        "fits from start spheres": refine(case.tomogram, case.starts, Settings().refinement),
    }


def contour_rows(phantoms: int) -> list[tuple[str, ...]]:
    """How exact the spheres are."""
    rows = []
    for contrast in CONTRASTS:
        errors: dict[str, list[NDArray[np.float64]]] = {}
        for number in range(phantoms):
            case, tables = understood(contrast, number)
            for name, found in tables.items():
                score = match(found, case.truth)
                p, t = score.pairs.T
                centre = np.linalg.norm(found.centres_vox[p] - case.truth.centres_vox[t], axis=1)
                radius = found.radii_vox[p] - case.truth.radii_vox[t]
                errors.setdefault(name, []).append(np.column_stack([centre, radius]))
        for name, parts in errors.items():
            centre, radius = np.concatenate(parts).T
            rows.append(
                (
                    f"d' {contrast:g}, {len(centre)} vesicles",
                    name,
                    f"{np.median(centre):.3f}",
                    f"{radius.mean():+.3f} / {radius.std():.3f}",
                )
            )
            print(*rows[-1], sep="   ", flush=True)
    return rows


def disc_rows() -> list[tuple[str, ...]]:
    """How nearly balls from hand-drawn discs are the published ones, and what is possible: see `DISCS`."""
    published = read_labels(PYTO / "labels.mrc.gz")
    grid = published.grid
    data = np.frombuffer(gzip.decompress((PYTO / "disks.raw.gz").read_bytes()), np.uint8).reshape(grid.shape_zyx)
    tables = [
        annotation_of_labels(
            Labels(data, grid), grid, vesicle_ids=PYTO_IDS, membrane_id=2, cytosol_id=3, pyto_rounding=rounding
        ).vesicles
        for rounding in (False, True)
    ]
    drawn = [rasterize(table).data for table in tables]
    shifts = np.linalg.norm(tables[0].centres_vox - tables[1].centres_vox, axis=1) / tables[0].radii_vox
    rows = []
    for number, x in zip(PYTO_IDS, shifts, strict=True):
        exact, rounded = (dice(labels == number, published.data == number) for labels in drawn)
        rows.append((f"{number}", f"{exact:.4f}", f"{1 - 0.75 * x + x**3 / 16:.4f}", f"{rounded:.4f}"))
        print(*rows[-1], sep="   ", flush=True)
    return rows


def main() -> None:
    """Measure, print the rows and write the section."""
    parser = argparse.ArgumentParser(prog="bin/benchmark prepare", description="Memory and time of prepare.")
    parser.add_argument("--quick", action="store_true", help="the vesicles alone; nothing is written")
    arguments = parser.parse_args()
    if not all(path.exists() for path in (VESICLES, CISTERNAE, PYTO)):
        raise SystemExit(f"bin/benchmark prepare needs golgi_vesicles and pyto_presynaptic in {SHARED_DATA}")
    discs = disc_rows()
    missed = sum(float(exact) < 0.98 for _, exact, _, _ in discs)
    contours = contour_rows(1 if arguments.quick else 3)
    costs = []
    with tempfile.TemporaryDirectory() as scratch:
        tomogram = Path(scratch) / "noise.mrc"
        write_noise(tomogram, read_header(VESICLES).grid())
        for number, (name, labels) in enumerate(CASES.items()):
            costs.append(measure(name, labels, tomogram, Path(scratch) / f"dataset_{number}"))
            if arguments.quick:
                break
    rows = [
        (c.name, f"{c.vesicles}", f"{c.unclear}", f"{c.gigabytes:.2f} (at most {MAX_GB:g})", f"{c.seconds:.0f}")
        for c in costs
    ]
    lines = [
        "## Preparing training data",
        "",
        "Made by `bin/benchmark prepare`. A hand-drawn label volume of 250 x 928 x 928 voxels (classes membrane and",
        "lumen, compressed) with a tomogram of that size (16-bit noise, since its own was not published) becomes a",
        "dataset at 2.2 nm. Vesicles that are no spheres, such as elongated ones and cisternae, are unclear.",
        "",
        *markdown(("labels", "vesicles", "unclear", "peak memory, GB", "seconds"), rows),
        "",
        *textwrap.wrap(DISCS.format(missed=missed), 118),
        "",
        *markdown(("disc", "Dice, not rounded", "possible", "Dice, `--pyto-rounding`"), discs),
        "",
        f"Contours of {POINTS[0]} to {POINTS[1]} points round isolated vesicles of phantoms (voxels of 1.8 to 2.6 nm)",
        f"on every second slice, each point {HAND_VOX:g} voxels off along x and y (SD). *Fits from start spheres* are",
        "those of `bin/benchmark refine`, from spheres that are 30 % off.",
        "",
        *markdown(
            ("phantoms", "spheres from", "median error of the centre, voxels", "radius: bias / SD, voxels"), contours
        ),
    ]
    if arguments.quick:
        print("\n".join(lines))
        print("not all was run: docs/benchmarks.md stays as it is")
    else:
        write_section("prepare", lines)
    if any(cost.gigabytes > MAX_GB for cost in costs):
        raise SystemExit(f"more than {MAX_GB:g} GB were needed")


if __name__ == "__main__":
    main()
