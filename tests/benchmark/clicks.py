"""Accuracy and speed of fits to clicks, on phantoms, on another simulator's synapse and on real shells.

Run by `bin/benchmark clicks`. Every whole vesicle of 12 to 40 nm is clicked once, up to half its radius off in a random
direction, with nothing known of the others; all clicks of a tomogram are fitted in one run, as `deepvesicle fix --new`
does. The baseline of the same run starts the fit of `deepvesicle segment` at the same clicks with a radius of 20 nm.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.tomogram import read_tomogram, write_tomogram
from deepvesicle.fitting.click import fit_marks
from deepvesicle.fitting.refine import refine
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.phantom.imaging import Imaging, image_scene, random_imaging
from deepvesicle.phantom.scene import random_scene
from deepvesicle.settings import ProposalSettings, RefinementSettings
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import SCATTERED_OBJECT, UNITS_NM, Contour, Model, Object, write_model
from tests.benchmark.report import SHARED_DATA, Row, table, write_section
from tests.benchmark.scenes import truth_of

Floats = NDArray[np.float64]
#: Phantoms per contrast and condition; their seeds are used nowhere else.
PHANTOMS, PHANTOM_SEED = 6, 444_000
CONTRASTS = (1.2, 0.75, 0.4)
RADII_NM = (12.0, 40.0)
#: The volume of the timing, voxels, and how often both commands are run.
BIG_SHAPE, RUNS = (300, 928, 928), 7
BASELINE_COMMAND = "import numpy, scipy.ndimage, pandas, typer"


def phantom(contrast: float, number: int, *, usual: bool) -> tuple[Tomogram, Vesicles]:
    """A phantom synapse, imaged under the usual conditions or random harder ones, unfiltered."""
    rng = np.random.default_rng((PHANTOM_SEED, number))
    voxel_nm = float(rng.uniform(1.8, 2.6))
    margin = round(50 / voxel_nm)
    scene = random_scene(rng, (80, 144, 144 + 2 * margin), voxel_nm)
    imaging = Imaging(contrast=contrast)
    if not usual:
        imaging = replace(random_imaging(rng), contrast=contrast, filter="none", filter_strength=0.0)
    return image_scene(scene, imaging, rng, margin)


def clicked(truth: Vesicles) -> Vesicles:
    """The whole vesicles of 12 to 40 nm."""
    radii = truth.radii_nm
    whole = truth.features["inside_fraction"] > 0.999
    return truth.select(whole & (radii >= RADII_NM[0]) & (radii <= RADII_NM[1]))


def clicks_on(truth: Vesicles, rng: np.random.Generator) -> Floats:
    """A place in each vesicle, up to half its radius from the centre."""
    directions = rng.normal(size=(len(truth), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return truth.centres_vox + directions * (rng.uniform(0, 0.5, len(truth)) * truth.radii_vox)[:, None]


def fit_both(tomogram: Tomogram, clicks: Floats) -> tuple[Vesicles, Vesicles]:
    """Fits of ours and of the baseline."""
    unknown = np.full(len(clicks), np.nan)
    none = Vesicles.empty(tomogram.grid)
    ours = fit_marks(tomogram, clicks, unknown, none, RefinementSettings(), ProposalSettings())
    start = np.full(len(clicks), float(tomogram.grid.length_to_vox(20.0)))
    return ours, refine(tomogram, Vesicles.from_spheres(tomogram.grid, clicks, start), RefinementSettings())


def errors(fit: Vesicles, truth: Vesicles) -> Floats:
    """Distance of the centre and error of the radius of each, voxels (N, 2)."""
    centre = np.linalg.norm(fit.centres_vox - truth.centres_vox, axis=1)
    return np.stack([centre, fit.radii_vox - truth.radii_vox], axis=1)


def _figures(case: str, ours: list[Floats], plain: list[Floats], sure: list[NDArray[np.bool_]]) -> Iterator[Row]:
    a, b, called = np.concatenate(ours), np.concatenate(plain), np.concatenate(sure)
    good = [(e[:, 0] <= 1) & (np.abs(e[:, 1]) <= 1) for e in (a, b)]
    case = f"{case}, {len(a)} clicks"
    yield Row(case, "centre and radius within 1 voxel", *(f"{g.mean():.3f}" for g in good))
    yield Row(case, "median error of the centre, voxels", *(f"{np.median(e[:, 0]):.2f}" for e in (a, b)))
    yield Row(case, "median error of the radius, voxels", *(f"{np.median(e[:, 1]):+.2f}" for e in (a, b)))
    yield Row(case, "called sure; of these within 1 voxel", f"{called.mean():.3f}; {good[0][called].mean():.3f}")


def simulated(case: str, volumes: list[tuple[Tomogram, Vesicles]]) -> Iterator[Row]:
    """Clicks on tomograms with known truth."""
    ours, plain, sure = [], [], []
    for number, (tomogram, truth) in enumerate(volumes):
        whole = clicked(truth)
        both = fit_both(tomogram, clicks_on(whole, np.random.default_rng((PHANTOM_SEED, 1, number))))
        ours.append(errors(both[0], whole))
        plain.append(errors(both[1], whole))
        sure.append(both[0].has_status(Status.REFINED))
    yield from _figures(case, ours, plain, sure)


def phantoms() -> Iterator[Row]:
    """Phantom synapses: tilts of +-60 degrees, and under random conditions (down to +-42, SIRT-like, phase plates)."""
    for usual, name in ((True, "phantoms"), (False, "phantoms, random imaging")):
        for contrast in CONTRASTS:
            volumes = [phantom(contrast, i, usual=usual) for i in range(PHANTOMS)]
            yield from simulated(f"{name}, d' {contrast:g}", volumes)


def other_simulator() -> Iterator[Row]:
    """Synaptic vesicles of a simulator that has nothing in common with the phantoms."""
    tomogram = read_tomogram(SHARED_DATA / "independent" / "syn_a.mrc.gz")
    truth = truth_of(SHARED_DATA / "independent" / "syn_a_truth.csv", tomogram.grid)
    yield from simulated("syn_a (independent simulator)", [(tomogram, truth)])


def shells() -> Iterator[Row]:
    """Real shells: five clicks round each reference point, up to 3 voxels off; how far the fits lie apart."""
    folder = SHARED_DATA / "ferritin_shells"
    tomogram = read_tomogram(folder / "ferritin_upper.mrc.gz")
    with open(folder / "reference_upper.csv", newline="") as stream:
        reference = np.array([[float(row[f"{a}_vox"]) for a in "zyx"] for row in csv.DictReader(stream)])
    rng = np.random.default_rng(PHANTOM_SEED)
    centres: list[list[Floats]] = [[], []]
    for _ in range(5):
        step = rng.normal(size=reference.shape)
        step *= 3 * rng.uniform(0, 1, (len(step), 1)) ** (1 / 3) / np.linalg.norm(step, axis=1, keepdims=True)
        for found, fit in zip(centres, fit_both(tomogram, reference + step), strict=True):
            found.append(fit.centres_vox)
    spread = [np.sqrt(np.stack(found).var(axis=0, ddof=1).mean(axis=1)) for found in centres]
    case = f"ferritin shells (real), 5 x {len(reference)} clicks"
    yield Row(case, "SD of the centre per axis at most 0.2 voxel", *(f"{(s <= 0.2).mean():.3f}" for s in spread))
    yield Row(case, "median SD of the centre per axis, voxels", *(f"{np.median(s):.3f}" for s in spread))


def speed() -> Iterator[Row]:
    """Ten clicks in a large tomogram: the whole command against the import of its largest libraries."""
    volumes = (phantom(0.75, number, usual=True) for number in range(PHANTOMS))
    tomogram, truth = next(v for v in volumes if len(clicked(v[1])) >= 10)
    whole = clicked(truth).select(np.arange(10))
    repeats = [-(-big // small) for big, small in zip(BIG_SHAPE, tomogram.grid.shape_zyx, strict=True)]
    nz, ny, nx = BIG_SHAPE
    data = np.tile(np.round(tomogram.data * 20).astype(np.int8), repeats)[:nz, :ny, :nx]
    grid = Grid(BIG_SHAPE, tomogram.grid.voxel_nm)
    rng = np.random.default_rng(PHANTOM_SEED)
    shifts = rng.integers(0, np.array(BIG_SHAPE) // tomogram.grid.shape_zyx, (10, 3)) * tomogram.grid.shape_zyx
    places = index_to_model(clicks_on(whole, rng) + shifts)
    picks = Object("picks", tuple(Contour(p[None]) for p in places), flags=SCATTERED_OBJECT, point_limit=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tomogram(folder / "big.mrc", data, grid)
        model = Model((picks,), image_size=(nx, ny, nz), pixel_size=grid.voxel_nm, units=UNITS_NM)
        write_model(folder / "points.mod", model)
        command = [sys.executable, "-m", "deepvesicle", "fix", "--new", "big.mrc", "points.mod", "--overwrite"]
        seconds: list[tuple[float, float]] = []
        for _ in range(RUNS):
            seconds.append((_timed(command, folder), _timed([sys.executable, "-c", BASELINE_COMMAND], folder)))
    ours, plain = np.min(seconds, axis=0)
    figure = f"whole command, multiples of `{BASELINE_COMMAND}` (best of {RUNS})"
    yield Row("10 clicks in 300 x 928 x 928 voxels", figure, f"{ours / plain:.1f}", "1")


def _timed(command: list[str], folder: Path) -> float:
    start = time.monotonic()
    root = str(Path(__file__).resolve().parents[2])
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": root})
    return time.monotonic() - start


def main() -> None:
    """Run all cases and write the section."""
    rows: list[Row] = []
    for case in (other_simulator, shells, phantoms, speed):
        if case in (other_simulator, shells) and not SHARED_DATA.exists():
            print(f"{case.__name__}: left out, its data are not here")
            continue
        started = time.monotonic()
        for row in case():
            print(f"{row.case}: {row.figure}: {row.ours}   (baseline: {row.plain})", flush=True)
            rows.append(row)
        print(f"{case.__name__} took {time.monotonic() - started:.0f} s", flush=True)
    lines = [
        "## Fits to clicks",
        "",
        "Made by `bin/benchmark clicks`. Every whole vesicle of 12 to 40 nm outer radius was clicked once, up to half",
        "its radius off the centre in any direction, with nothing known of the others. The phantoms have voxels of 1.8",
        "to 2.6 nm and are unfiltered; d' is the contrast of the membrane per voxel, in SDs of the noise.",
        "*Random imaging* has tilt ranges down to +-42 degrees, SIRT-like noise, phase plates and beam damage.",
        "",
        "*One start* is the baseline of the same run: the fit of `deepvesicle segment`, started at the click with a",
        "radius of 20 nm.",
        "",
        "The aims were 0.99, 0.97 and 0.80 on the phantoms, 0.97 on syn_a, 0.90 on the shells, and 3 times the",
        "import. Missed are the time, half of which is the fits on two cores, and d' 0.4: there, half of the true",
        "membranes stand out by less than 6.5 standard errors, as does most of what is found where no vesicle is.",
        "The one start does better there: its radius of 20 nm is nearly right, which the fit to a click does not know.",
        "The aims are applied to the phantoms with tilts of +-60 degrees; under random imaging d' 0.75 misses too.",
        "The fit was made on other phantoms; these were run twice before, after which the fits were changed, but not",
        "to suit them. syn_a and the shells were looked at all along. That the fit on rays has the last word where few",
        "tilts show was decided on the shells, so their figure is no independent one.",
        "",
        *table(rows, "one start"),
    ]
    write_section("clicks", lines)


if __name__ == "__main__":
    main()
