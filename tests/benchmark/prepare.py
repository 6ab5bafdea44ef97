"""What `deepvesicle prepare` costs on a label volume of full size, in memory and time.

Run by `bin/benchmark prepare`. The labels are a hand segmentation of an in-situ tomogram (250 x 928 x 928 voxels,
membrane 1, lumen 2), whose grey values were not published: noise of that size takes their place. Vesicles and Golgi
cisternae are in two volumes; the first and both are prepared, in processes whose peak of resident memory is taken. That
includes the pages of the memory-mapped tomogram that were touched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepvesicle.files.tomogram import read_header, write_tomogram
from deepvesicle.grid import Grid
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


def main() -> None:
    """Measure, print the rows and write the section."""
    parser = argparse.ArgumentParser(prog="bin/benchmark prepare", description="Memory and time of prepare.")
    parser.add_argument("--quick", action="store_true", help="the vesicles alone; nothing is written")
    arguments = parser.parse_args()
    if not VESICLES.exists() or not CISTERNAE.exists():
        raise SystemExit(f"bin/benchmark prepare needs the label volumes in {SHARED_DATA / 'golgi_vesicles'}")
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
