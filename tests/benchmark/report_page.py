"""What the HTML report of a full-size result costs: time to make, size, and time to open in a browser.

Run by `bin/benchmark report_page`. A small phantom is repeated to 300 x 928 x 928 voxels with fresh noise, and of its
true vesicles 500 are reported, with the features that a segmentation has made up. The report is made by the command, in
a process of its own, and opened in Chromium without a graphics card.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import write_tomogram
from deepvesicle.grid import Grid
from deepvesicle.phantom.imaging import image_scene, random_imaging
from deepvesicle.phantom.scene import random_scene
from deepvesicle.vesicles import Status, Vesicles
from tests.benchmark.report import ROOT, markdown, write_section
from tests.browser.chromium import WITH_WEBGL, chromium

SHAPE_ZYX, VOXEL_NM, COUNT, SEED = (300, 928, 928), 2.2, 500, 41
SMALL_ZYX = (100, 160, 160)
#: What must hold: seconds to make, seconds to open, bytes.
MAKE_S, OPEN_S, MOST_BYTES = 15.0, 3.0, 15e6
_SHARES = {Status.REFINED: 0.85, Status.DOUBTFUL: 0.07, Status.REJECTED: 0.08}


@dataclass(frozen=True)
class Cost:
    """Of a report: seconds to make it, until the page can be used, until the spheres are drawn too; bytes."""

    make_s: float
    open_s: float
    all_s: float
    bytes: int

    @property
    def holds(self) -> bool:
        """Whether it is as quick and small as it must be."""
        return self.make_s <= MAKE_S and self.open_s <= OPEN_S and self.bytes < MOST_BYTES


def write_sample(folder: Path, shape_zyx: tuple[int, int, int] = SHAPE_ZYX, count: int = COUNT) -> tuple[Path, Path]:
    """A tomogram and a table of `count` of its vesicles."""
    rng = np.random.default_rng(SEED)
    margin = round(50 / VOXEL_NM)
    nz, ny, nx = SMALL_ZYX
    scene = random_scene(rng, (nz, ny, nx + 2 * margin), VOXEL_NM, "synapse")
    small, truth = image_scene(scene, random_imaging(rng), rng, margin)
    grey = np.asarray(small.data, dtype=np.float32)
    grid = Grid(shape_zyx, VOXEL_NM)
    repeats = [-(-n // m) for n, m in zip(shape_zyx, grey.shape, strict=True)]
    data = np.tile(grey, repeats)[tuple(slice(n) for n in shape_zyx)]
    for plane in data:
        plane += rng.normal(scale=0.3 * grey.std(), size=plane.shape).astype(np.float32)
    shifts = np.stack(np.meshgrid(*(np.arange(n) for n in repeats), indexing="ij"), -1).reshape(-1, 3) * grey.shape
    centres = (truth.centres_vox[None] + shifts[:, None]).reshape(-1, 3)
    radii = np.tile(truth.radii_vox, len(shifts))
    whole = np.flatnonzero(
        np.all((centres > radii[:, None]) & (centres < np.array(shape_zyx) - radii[:, None]), axis=1)
    )
    rows = rng.permutation(whole)[:count]
    kinds = list(_SHARES)
    status = [kinds[i] for i in rng.choice(len(kinds), size=len(rows), p=list(_SHARES.values()))]
    vesicles = Vesicles.from_spheres(
        grid,
        centres[rows],
        radii[rows],
        thickness_vox=rng.normal(2.0, 0.1, len(rows)),
        sigma_radii_vox=np.full(len(rows), 0.1),
        scores=rng.uniform(0.3, 1, len(rows)),
        status=status,
        reasons=[
            "" if s is Status.REFINED else "overlaps vesicle 7 by 4.3 nm; hardly any membrane seen" for s in status
        ],
        features={"likeness_p": rng.uniform(size=len(rows)), "membrane_density": rng.normal(-0.8, 0.1, len(rows))},
    )
    write_tomogram(folder / "t.mrc", data, grid)
    write_vesicles_csv(folder / "t_vesicles.csv", vesicles)
    return folder / "t.mrc", folder / "t_vesicles.csv"


def measure(folder: Path, tomogram: Path, table: Path) -> Cost:
    """Make a report and open it."""
    path = folder / "t_report.html"
    command = [sys.executable, "-m", "deepvesicle", "report", str(tomogram), str(table), "-o", str(path), "--overwrite"]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    make_s = time.perf_counter() - start
    with chromium() as run:
        page = run(WITH_WEBGL).new_page(viewport={"width": 1280, "height": 900})
        start = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("body[data-ready]", state="attached")
        open_s = time.perf_counter() - start
        page.wait_for_selector("#canvas3d[data-ready]", state="attached")
        all_s = time.perf_counter() - start
    return Cost(make_s, open_s, all_s, path.stat().st_size)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the section of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="print only")
    parser.add_argument("--repeat", type=int, default=3, help="the median of so many counts")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tomogram, table = write_sample(folder)
        costs = [measure(folder, tomogram, table) for _ in range(given.repeat)]
    middle = Cost(*(float(np.median([getattr(cost, f) for cost in costs])) for f in Cost.__dataclass_fields__))  # type: ignore[arg-type]
    rows = [
        ("made in", f"{middle.make_s:.1f} s", f"{MAKE_S:.0f} s"),
        ("open in Chromium, to be used", f"{middle.open_s:.1f} s", f"{OPEN_S:.0f} s"),
        ("with the spheres in space (drawn without a graphics card)", f"{middle.all_s:.1f} s", ""),
        ("size", f"{middle.bytes / 1e6:.1f} MB", f"{MOST_BYTES / 1e6:.0f} MB"),
    ]
    shape = " x ".join(str(n) for n in SHAPE_ZYX)
    lines = [
        "## The HTML report",
        "",
        f"{COUNT} vesicles in {shape} voxels (float32); median of {given.repeat} on this machine.",
        "",
        *markdown(("figure", "measured", "at most"), rows),
    ]
    print("\n".join(lines))
    if not given.quick:
        write_section("report_page", lines)
    return 0 if middle.holds else 1


if __name__ == "__main__":
    sys.exit(main())
