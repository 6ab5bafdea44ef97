"""How fast the network runs: against the paper's way, and against what the convolutions alone could reach.

Run by `bin/benchmark speed`, which also calls `tests.benchmark.streaming` for all of `deepvesicle segment`. The paper's
way: patches of 32 voxels at every 16, one after the other, through the same trainable network with `predict`. Both are
measured in turn in one process, and so are plain convolutions of the network's numbers of channels; ratios are medians
over the turns, as the speed of a shared machine drifts.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.cores import usable_cores
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network import backend, inference
from deepvesicle.network.grey import measure_normalisation
from deepvesicle.network.inference import predict
from deepvesicle.network.phantoms import random_tomogram
from deepvesicle.network.resample import sample_all
from deepvesicle.network.schedule import Schedule
from deepvesicle.network.tiles import column_multiplications, plan_columns
from deepvesicle.network.zoo import Network, load_network
from deepvesicle.settings import PredictionSettings
from tests.benchmark.report import ROOT, markdown, write_section

PATCH_VOX, STRIDE_VOX, SEED = 32, 16, 811
#: What is asked of each precision: times the paper's way, and Dice with one pass over the whole volume.
ASKED = {"fp32": (30, 0.9995), "bf16": (50, 0.9995)}
#: The most that resampling and normalising may take of the network's time: at equal voxel size, and elsewhere.
ASKED_READING = {2.2: 0.10, 2.0: 0.20, 1.1: 0.20}
#: Size of the volume that is predicted, and of that which one pass can take.
VOLUME, PASSED = (300, 464, 464), (64, 128, 128)
#: Peak in GB that is allowed for a budget.
PEAKS_GB = {2.5: 2.5, 1.0: 1.2}
_PEAK = """
import re, sys
import numpy as np
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.inference import predict
from deepvesicle.network.zoo import load_network
from deepvesicle.settings import PredictionSettings
class Enough(Exception): pass
def stop(stage, done, total):
    if done >= min(total, 45): raise Enough
grid = Grid((300, 928, 928), 2.2)
folder, precision, budget = sys.argv[1:]
data, out = (np.memmap(f"{folder}/{name}", np.int8, "w+", shape=grid.shape_zyx) for name in ("in", "out"))
try:
    predict(Tomogram(data, grid), load_network("default"), PredictionSettings(precision=precision),
        out=out.view(np.uint8), memory_bytes=int(float(budget) * 1e9), progress=stop)
except Enough:
    pass
print("PEAK", int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@dataclass
class Turns:
    """Seconds of wall and processor time per voxel, a pair for every turn."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @contextmanager
    def turn(self, voxels: float) -> Any:
        """Measure what is done inside."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall.append((time.perf_counter() - wall) / voxels)
        self.processor.append((time.process_time() - processor) / voxels)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Overlap of two masks."""
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def in_bytes(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities rounded as they are kept."""
    return np.asarray(np.rint(probability * 255) / 255)


def made_up(network: Network, shape: tuple[int, int, int]) -> Tomogram:
    """A phantom at the network's voxel size, mirrored until it fills a volume."""
    tomogram, _ = random_tomogram(np.random.default_rng(SEED), network.voxel_nm, 144, "synapse", contrast=0.9)
    target = tomogram.grid.rescaled(network.voxel_nm)
    data = sample_all(tomogram, target)
    data = np.pad(data, [(0, max(0, n - have)) for n, have in zip(shape, data.shape, strict=True)], mode="symmetric")
    return Tomogram(data[tuple(slice(0, n) for n in shape)].copy(), Grid(shape, network.voxel_nm))


class PapersWay:
    """Patches one after the other through the trainable network."""

    def __init__(self, network: Network) -> None:
        self.model = network.model()
        self.threshold = network.threshold

    def patches(self, count: int, turns: Turns) -> None:
        """Predict so many; each yields `STRIDE_VOX` voxels along every axis."""
        patch = np.random.default_rng(0).normal(size=(1, *(PATCH_VOX,) * 3, 1)).astype(np.float32)
        with turns.turn(count * STRIDE_VOX**3):
            for _ in range(count):
                self.model.predict(patch, verbose=0)

    def volume(self, grey: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability of a volume (edges multiples of the stride): the middle of every patch."""
        margin = (PATCH_VOX - STRIDE_VOX) // 2
        padded = np.pad(grey, margin, mode="symmetric")
        found = np.empty(grey.shape, dtype=np.float32)
        middle = slice(margin, margin + STRIDE_VOX)
        for z, y, x in np.ndindex(*(n // STRIDE_VOX for n in grey.shape)):
            place = tuple(slice(i * STRIDE_VOX, i * STRIDE_VOX + PATCH_VOX) for i in (z, y, x))
            patch = self.model.predict_on_batch(padded[place][None, ..., None])[0, ..., 0]
            found[tuple(slice(i * STRIDE_VOX, (i + 1) * STRIDE_VOX) for i in (z, y, x))] = patch[middle, middle, middle]
        return found


class Plain:
    """Convolutions of as many channels as the network's levels have, as large as they can be done well."""

    def __init__(self, network: Network, dtype: str) -> None:
        self.filters = [network.shape.filters * 2**level for level in range(network.shape.levels + 1)]
        self.dtype = dtype
        self.rates: list[list[float]] = [[] for _ in self.filters]

    def turn(self) -> None:
        """Multiplications per second of each."""
        rng = np.random.default_rng(1)
        for level, channels in enumerate(self.filters):
            edge = max(24, 240 >> level)
            size = (24, edge, edge)
            x = backend.tensor(rng.normal(size=(1, *size, channels)).astype(np.float32), self.dtype)
            kernel = backend.tensor(rng.normal(size=(3, 3, 3, channels, channels)).astype(np.float32), self.dtype)
            bias = backend.tensor(np.zeros(channels, dtype=np.float32), self.dtype)
            run = backend.compiled(backend.convolve)
            run(x, kernel, bias)
            started = time.process_time()
            run(x, kernel, bias)
            work = 27 * channels**2 * np.prod([n - 2 for n in size])
            self.rates[level].append(float(work / (time.process_time() - started)))


def least_seconds(network: Network, plain: Plain, shape: tuple[int, int, int], inner: Any, slices: int) -> float:
    """Processor time that the multiplications of a prediction would take at the rates of plain convolutions."""
    work = column_multiplications(network.shape, Schedule.of(network.shape.levels, slices), inner, shape[0])
    columns = -(-shape[1] // inner[0]) * -(-shape[2] // inner[1])
    return columns * sum(w / np.median(rate) for w, rate in zip(work, plain.rates, strict=True))


def one_pass(network: Network, tomogram: Tomogram) -> NDArray[np.float32]:
    """Probability from the trainable network over the whole mirrored volume at once."""
    grey = measure_normalisation(tomogram, tomogram.grid).apply(tomogram.data)
    pad = -(-network.shape.halo_vox // network.shape.alignment_vox) * network.shape.alignment_vox
    model = network.model()
    model.compile(jit_compile=False)
    whole = model.predict_on_batch(np.pad(grey, pad, mode="symmetric")[None, ..., None])[0, ..., 0]
    return np.asarray(whole[pad:-pad, pad:-pad, pad:-pad])


def predict_in_turn(tomogram: Tomogram, network: Network, precision: str, out: NDArray[np.uint8], turns: Turns) -> None:
    """Predict a volume; measured is what comes after the first step, without reading the weights and compiling."""
    done = [0.0, 0.0, 0.0]

    def note(stage: str, step: int, total: int) -> None:
        if not done[0]:
            done[:] = [1 - step / total, time.perf_counter(), time.process_time()]

    predict(tomogram, network, PredictionSettings(precision=precision), out=out, progress=note)
    voxels = done[0] * out.size
    turns.wall.append((time.perf_counter() - done[1]) / voxels)
    turns.processor.append((time.process_time() - done[2]) / voxels)


def reading_share(network: Network, voxel_nm: float, precision: str) -> float:
    """Share of a prediction's processor time that goes into reading, resampling and normalising."""
    shape = tuple(round(n * network.voxel_nm / voxel_nm) for n in (96, 240, 240))
    data = np.random.default_rng(3).integers(-90, 90, shape, dtype=np.int8)
    spent = 0.0
    read = inference._Job.read

    def timed(self: Any, *place: Any) -> NDArray[np.float32]:
        nonlocal spent
        started = time.process_time()
        values = read(self, *place)
        spent += time.process_time() - started
        return values

    inference._Job.read = timed  # type: ignore[assignment,method-assign]
    try:
        steps: list[float] = []
        tomogram = Tomogram(data, Grid(shape, voxel_nm))  # type: ignore[arg-type]
        predict(
            tomogram,
            network,
            PredictionSettings(precision=precision),
            progress=lambda stage, done, total: steps.append(time.process_time()),
        )
    finally:
        inference._Job.read = read  # type: ignore[method-assign]
    # from the first full step on, when everything is compiled
    return spent / len(steps) / float(np.median(np.diff(steps)))


def peak_gb(folder: str, precision: str, budget_gb: float) -> float:
    """Peak of a process that predicts part of 258 Mvoxel."""
    command = [sys.executable, "-c", _PEAK, folder, precision, str(budget_gb)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return int(run.stdout.split("PEAK")[1]) / 1e9


def network_part(turns: int, patches: int, shape: tuple[int, int, int], peaks: bool) -> list[str]:
    """The section on the network alone."""
    import tempfile

    backend.set_threads(0)
    network = load_network()
    precisions = ["fp32"] + (["bf16"] if backend.has_bfloat16() else [])
    paper, volume = PapersWay(network), made_up(network, shape)
    out = np.empty(shape, dtype=np.uint8)
    papers, ours = Turns(), {precision: Turns() for precision in precisions}
    plains = {p: Plain(network, {"fp32": "float32", "bf16": "bfloat16"}[p]) for p in precisions}
    paper.patches(2, Turns())
    for number in range(turns):
        paper.patches(patches, papers)
        for precision in precisions:
            predict_in_turn(volume, network, precision, out, ours[precision])
            plains[precision].turn()
        print(f"turn {number + 1} of {turns}", flush=True)
    small = made_up(network, PASSED)
    passed = one_pass(network, small)
    mask = in_bytes(passed) >= network.threshold
    grey = measure_normalisation(small, small.grid).apply(small.data)
    rows = [
        (
            "the paper's way",
            f"{1e-6 / np.median(papers.wall):.3f}",
            "1",
            "1",
            f"{dice(in_bytes(paper.volume(grey)) >= network.threshold, mask):.4f}",
            "",
        )
    ]
    missed = []
    for precision in precisions:
        found = predict(small, network, PredictionSettings(precision=precision)).values() >= network.threshold
        gain = float(np.median(np.divide(papers.wall, ours[precision].wall)))
        processor = float(np.median(np.divide(papers.processor, ours[precision].processor)))
        tiling = plan_columns(shape, network.shape, 1.7e9, value_bytes=4 if precision == "fp32" else 2)
        least = least_seconds(network, plains[precision], shape, tiling.inner_yx, tiling.slices)
        share = least / (float(np.median(ours[precision].processor)) * np.prod(shape))
        agreement = dice(found, mask)
        rows.append(
            (
                precision,
                f"{1e-6 / np.median(ours[precision].wall):.2f}",
                f"**{gain:.0f}**",
                f"{processor:.0f}",
                f"{agreement:.5f}",
                f"{100 * share:.0f} %",
            )
        )
        wanted, exact = ASKED[precision]
        if gain < wanted:
            missed.append(f"{precision}: {gain:.0f} times the paper's way, asked at least {wanted}")
        if agreement < exact:
            missed.append(f"{precision}: Dice {agreement:.5f} with one pass, asked at least {exact}")
    head = ("way", "Mvoxel/s", "times faster", "in processor time", "Dice with one pass", "of plain convolutions")
    lines = [
        "## Speed of the network",
        "",
        f"Made by `bin/benchmark speed` with the model `{network.name}` ({network.shape.levels} levels, "
        f"{network.shape.filters} filters) on {usable_cores()} cores; {shape[0]} x {shape[1]} x {shape[2]} voxels, "
        f"{turns} turns, medians. Counted is all that `predict` does from reading grey values to writing the result, "
        "once the network is compiled; of the paper's way, the patches alone. *Dice*: of masks in 8 bits. *Of plain "
        "convolutions*: the processor time that the network's multiplications would take at the rate of plain "
        "convolutions of as many channels, timed in between, as a share of ours.",
        "",
        *markdown(head, rows),
        "",
    ]
    shares = []
    for voxel_nm, most in ASKED_READING.items():
        found_shares = [reading_share(network, voxel_nm, precision) for precision in precisions]
        shares.append((f"{voxel_nm} nm", *(f"{100 * s:.0f} %" for s in found_shares), f"at most {100 * most:.0f} %"))
        missed += [
            f"reading at {voxel_nm} nm in {p}: {100 * s:.0f} % of the time, asked at most {100 * most:.0f} %"
            for s, p in zip(found_shares, precisions, strict=True)
            if s > most
        ]
    lines += ["Processor time of reading, resampling and normalising, as a share of all:", ""]
    lines += [*markdown(("voxel size of the tomogram", *precisions, "asked"), shares), ""]
    if peaks:
        found_peaks = []
        with tempfile.TemporaryDirectory() as folder:
            for budget, most in PEAKS_GB.items():
                values = [peak_gb(folder, precision, budget) for precision in precisions]
                found_peaks.append((f"{budget} GB", *(f"{v:.2f} GB" for v in values), f"at most {most} GB"))
                missed += [f"the peak at {budget} GB is {v:.2f} GB, allowed {most} GB" for v in values if v > most]
        lines += ["Peak memory of a process that predicts 300 x 928 x 928 voxels, TensorFlow included:", ""]
        lines += [*markdown(("memory given", *precisions, "allowed"), found_peaks), ""]
    lines.append(f"Missed: {'; '.join(missed)}." if missed else "All that was asked is reached.")
    return lines


def main() -> None:
    """Measure the network, then `segment` as a whole; write the page, but not with --quick."""
    parser = argparse.ArgumentParser(prog="tests.benchmark.speed", description="Speed and memory.")
    parser.add_argument("--quick", action="store_true", help="print the figures of small volumes")
    parser.add_argument("--only", choices=("network", "segment"), help="one of the two parts")
    options = parser.parse_args()
    lines: list[str] = []
    if options.only != "segment":
        sizes = (2, 10, (64, 240, 240)) if options.quick else (3, 40, VOLUME)
        lines += network_part(*sizes, peaks=not options.quick)  # type: ignore[arg-type]
    if options.only != "network":
        streaming = importlib.import_module("tests.benchmark.streaming")
        section, missed = streaming.section(quick=options.quick)
        lines += [*([""] if lines else []), *section]
        lines.append(f"Missed: {'; '.join(missed)}." if missed else "All that was asked is reached.")
    if options.quick or options.only:
        print("\n".join(lines))
    else:
        write_section("speed", lines)


if __name__ == "__main__":
    main()
