"""What `deepvesicle segment` costs from end to end: by stage, as growth over sizes, and its peak of memory.

Run by `bin/benchmark speed`. The volumes are put together from a phantom synapse and from noise of the same power
spectrum, so that their vesicles grow with them: hundreds in 258 Mvoxels. Each is segmented in a process of its own,
whose largest resident memory is taken, pages of mapped files included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.tomogram import header_bytes
from deepvesicle.grid import Grid
from deepvesicle.phantom.imaging import Imaging, image_scene
from deepvesicle.phantom.scene import random_scene
from tests.benchmark.report import ROOT, markdown

VOXEL_NM, SEED = 2.2, 258
#: A tile of synapse, and how many tiles, all others of noise, make a unit of 32 Mvoxels.
TILE, TILES = (75, 116, 116), (2, 4, 4)
#: Units along z, y, x.
SIZES = {"32": (1, 1, 1), "64": (2, 1, 1), "128": (2, 1, 2), "258": (2, 2, 2)}
#: The largest that is asked for, z, y, x, as 8-bit integers.
LARGEST = (500, 1024, 1440)
#: What is asked of the largest size and of the growth, and how much memory each budget may take at its peak, GB.
MOST_SHARE, MOST_GROWTH = 1 / 3, 1.2
PEAKS_GB = {"": 2.5, "1GB": 1.2}
#: The stages: what they are called here, and the functions that they are made of.
STAGES = {
    "reading and checks": ("files.tomogram.read_tomogram", "files.run_record.sha256_of", "files.quality.contrast_sign"),
    "network": ("network.inference.predict",),
    "first spheres": ("fitting.propose.propose",),
    "fits": ("fitting.whitening.estimate_whitening", "fitting.tilts.find_tilts", "fitting.refine.refine"),
    "judgement": ("fitting.outliers.judge",),
    "labels": ("files.labels.write_drawn_labels",),
    "table, picture, model": (
        "files.tables.write_vesicles_csv",
        "report.overview.write_overview",
        "files.imod.write_vesicles_model",
    ),
}


@dataclass(frozen=True)
class Cost:
    """Of segmenting one volume."""

    size: str
    voxels: int
    memory: str
    seconds: float
    stages: dict[str, float]
    peak_gb: float
    vesicles: int

    @property
    def rest(self) -> float:
        """Seconds that are not the network's."""
        return self.seconds - self.stages.get("network", 0.0)


def unit(rng: np.random.Generator) -> NDArray[np.int16]:
    """A synapse among noise of the same power, (150, 464, 464)."""
    nz, ny, nx = TILE
    margin = round(50 / VOXEL_NM)
    scene = random_scene(rng, (nz, ny, nx + 2 * margin), VOXEL_NM, "synapse")
    tilts = tuple(float(t) for t in np.arange(-60, 61, 2))
    tomogram, _ = image_scene(scene, Imaging(contrast=0.8, tilts_deg=tilts), rng, margin)
    grey = tomogram.data[:nz, :ny, :nx].astype(np.float32)
    grey = (grey - grey.mean()) / grey.std()
    power = np.abs(np.fft.rfftn(grey))
    out = np.empty(np.multiply(TILE, TILES), dtype=np.int16)
    for place in np.ndindex(*TILES):
        phases = np.fft.rfftn(rng.normal(size=TILE))
        noise = np.fft.irfftn(power * phases / np.maximum(np.abs(phases), 1e-12), s=TILE, axes=(0, 1, 2))
        tile = grey if place == (1, 2, 2) else noise
        region = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, TILE, strict=True))
        out[region] = np.clip(np.rint(2000 * tile), -32768, 32767)
    return out


def write_volume(path: Path, part: NDArray[Any], shape: tuple[int, int, int], dtype: str = "<i2") -> None:
    """A tomogram of repeated parts, section by section."""
    values = (float(part.min()), float(part.max()), float(part.mean()), float(part.std()))
    with path.open("wb") as file:
        file.write(header_bytes(Grid(shape, VOXEL_NM), np.dtype(dtype), values))
        for z in range(shape[0]):
            times = [-(-n // m) for n, m in zip(shape[1:], part.shape[1:], strict=True)]
            section = np.tile(part[z % len(part)], times)[: shape[1], : shape[2]]
            file.write(np.ascontiguousarray(section, dtype=dtype).data.cast("B"))


@contextmanager
def timed(found: dict[str, float]) -> Iterator[None]:
    """Take the time of the functions of each stage."""

    def wrapped(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                found[stage] = found.get(stage, 0.0) + time.monotonic() - started

        return run

    places = []
    for stage, names in STAGES.items():
        for name in names:
            module_name, _, function = name.rpartition(".")
            module = importlib.import_module(f"deepvesicle.{module_name}")
            places.append((module, function, getattr(module, function)))
            setattr(module, function, wrapped(getattr(module, function), stage))
    try:
        yield
    finally:
        for module, function, original in places:
            setattr(module, function, original)


def quick_network(tomogram: Any, network: Any, *_: Any, out: NDArray[np.uint8] | None = None, **__: Any) -> Any:
    """In place of the network where only memory is of interest: sure of what is very dark, and in doubt of the dark."""
    from scipy import ndimage

    from deepvesicle.grid import Probability
    from deepvesicle.memory import drop_pages

    grid = tomogram.grid.rescaled(network.voxel_nm)
    data = np.empty(grid.shape_zyx, dtype=np.uint8) if out is None else out
    for z in range(0, len(data), 16):
        level = ndimage.gaussian_filter(tomogram.grey((slice(z, z + 16), slice(None), slice(None))), 3.0)
        level /= level.std()
        data[z : z + 16] = np.select([level < -3.3, level < -2.2], [250, 24], 3)
        drop_pages(tomogram.data)
        drop_pages(data)
    return Probability(data, grid)


def child(arguments: list[str]) -> None:
    """Segment in this process, and print what it cost."""
    tomogram, folder, memory, fake = arguments
    if fake == "quick":
        importlib.import_module("deepvesicle.network.inference").predict = quick_network  # type: ignore[attr-defined]
    from deepvesicle.commands.main import main as deepvesicle

    stages: dict[str, float] = {}
    started = time.monotonic()
    options = ["--memory", memory] if memory else []
    with timed(stages):
        code = deepvesicle(["segment", tomogram, "-o", folder, *options])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    seconds = time.monotonic() - started
    print("COST", json.dumps({"code": code, "seconds": seconds, "stages": stages, "peak_gb": peak}))


def measure(tomogram: Path, size: str, voxels: int, memory: str = "", *, quick: bool = False) -> Cost:
    """Segment a volume in a process of its own."""
    with tempfile.TemporaryDirectory(dir=tomogram.parent) as folder:
        command = [sys.executable, "-m", "tests.benchmark.streaming", "--child", str(tomogram), folder, memory]
        run = subprocess.run(
            [*command, "quick" if quick else ""],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        text, _, found = run.stdout.rpartition("COST ")
        if run.returncode or not found or json.loads(found)["code"]:
            raise SystemExit(f"{size}: {run.stderr.strip()[-2000:]}")
        cost = json.loads(found)
        vesicles = int(text.split(" vesicles")[0].split()[-1])
    result = Cost(size, voxels, memory, cost["seconds"], cost["stages"], cost["peak_gb"], vesicles)
    print(
        f"{size} Mvoxel {memory or 'default'}: {result.seconds:.1f} s, "
        f"peak {result.peak_gb:.2f} GB, {vesicles} vesicles; "
        + ", ".join(f"{name} {seconds:.1f}" for name, seconds in result.stages.items()),
        flush=True,
    )
    return result


def section(*, quick: bool = False, largest: bool = True) -> tuple[list[str], list[str]]:
    """Measure; the lines of the report, and what was asked for and not reached.

    Parameters
    ----------
    quick : bool
        The smallest size alone.
    largest : bool
        Also the memory of 1440 x 1024 x 500, with something quick in place of the network.
    """
    part = unit(np.random.default_rng(SEED))
    costs, peaks = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for size, units in SIZES.items():
            shape = tuple(int(n) for n in np.multiply(part.shape, units))
            path = Path(scratch) / f"made_up_{size}.mrc"
            write_volume(path, part, shape)  # type: ignore[arg-type]
            costs.append(measure(path, size, int(np.prod(shape))))
            if quick:
                break
            if size == "258":
                peaks.append(measure(path, size, int(np.prod(shape)), "1GB"))
            path.unlink()
        if largest and not quick:
            path = Path(scratch) / "made_up_737.mrc"
            write_volume(path, np.clip(part // 80, -127, 127), LARGEST, "<i1")
            for memory in PEAKS_GB:
                peaks.append(measure(path, "737", int(np.prod(LARGEST)), memory, quick=True))
    return _lines(costs, peaks), _failures(costs, peaks)


def _failures(costs: list[Cost], peaks: list[Cost]) -> list[str]:
    """What is not as it should be."""
    found = [
        f"{c.size} Mvoxel with {c.memory or 'the usual memory'}: {c.peak_gb:.2f} GB at the peak"
        for c in (*costs, *peaks)
        if c.peak_gb > PEAKS_GB[c.memory]
    ]
    last = costs[-1]
    if last.size == "258":
        if last.rest > MOST_SHARE * last.stages["network"]:
            found.append(f"all but the network takes {last.rest / last.stages['network']:.2f} of the network's time")
        if _growth(costs) > MOST_GROWTH:
            found.append(f"a voxel of 258 Mvoxels costs {_growth(costs):.2f} times one of 32")
    return found


def _growth(costs: list[Cost]) -> float:
    """Time per voxel of the largest volume over that of the smallest."""
    first, last = costs[0], costs[-1]
    return (last.seconds / last.voxels) / (first.seconds / first.voxels)


def _lines(costs: list[Cost], peaks: list[Cost]) -> list[str]:
    names = [name for name in STAGES if any(name in c.stages for c in costs)]
    rows = [
        (
            f"{c.size} Mvoxel",
            f"{c.vesicles}",
            f"{c.seconds:.1f}",
            *(f"{c.stages.get(name, 0.0):.1f}" for name in names),
            f"{c.rest / max(c.stages.get('network', 0.0), 1e-9):.2f}",
            f"{1e6 * c.seconds / c.voxels:.2f}",
            f"{c.peak_gb:.2f}",
        )
        for c in costs
    ]
    head = ("volume", "vesicles", "seconds", *names, "all but network / network", "s per Mvoxel", "peak, GB")
    lines = [
        "Synapses among noise of the same power spectrum, 16-bit, 2.2 nm a voxel, `deepvesicle segment` as it is; each",
        "in a new process. *All but the network* includes the start of the program.",
        "",
        *markdown(head, rows),
        "",
    ]
    if len(costs) > 1:
        lines += [f"A voxel of the largest volume costs {_growth(costs):.2f} times one of the smallest.", ""]
    if peaks:
        rows = [
            (f"{c.size} Mvoxel", c.memory or "default", f"{c.peak_gb:.2f}", f"{PEAKS_GB[c.memory]:g}") for c in peaks
        ]
        lines += [
            "Peak memory with a budget; 737 Mvoxel is 1440 x 1024 x 500 in 8 bits, with something quick in place of",
            "the network.",
            "",
            *markdown(("volume", "--memory", "peak, GB", "at most"), rows),
            "",
        ]
    return lines


def main() -> None:
    """Measure and print; `bin/benchmark speed` writes the page."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        prog="tests.benchmark.streaming", description="Cost of segment, by stage and size."
    )
    parser.add_argument("--quick", action="store_true", help="the smallest volume alone")
    arguments = parser.parse_args()
    lines, failures = section(quick=arguments.quick)
    print("\n".join(lines))
    if failures:
        raise SystemExit("not reached: " + "; ".join(failures))


if __name__ == "__main__":
    main()
