"""`deepvesicle pyto`: time and memory at full size, and Pyto's own example taken apart and put together again."""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from deepvesicle.annotations import annotation_of_labels
from deepvesicle.commands.main import main as command
from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.files.tables import read_vesicles_csv, write_vesicles_csv
from deepvesicle.files.tomogram import read_labels, write_labels, write_tomogram
from deepvesicle.grid import Grid, Labels
from deepvesicle.handover.check import check_folder
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import FLAG_OPEN, UNITS_NM, Contour, Model, Object, write_model
from tests.benchmark.prepare import _MEASURE, PYTO, PYTO_IDS
from tests.benchmark.report import ROOT, SHARED_DATA, markdown, write_section

MAX_SECONDS, MAX_GB = 20.0, 2.0
GRID, COUNT, SEED = Grid((300, 928, 928), 2.2), 300, 71_000
#: Radii and gaps of synaptic vesicles, nm; dark membranes, and noise, in grey values.
RADIUS_NM, GAP_NM, DARK, NOISE = (18.5, 2.0), 2.0, 600, 300
#: Slices from one drawn contour to the next.
EVERY = 10
CYTOSOL, MEMBRANE = 3, 2


@dataclass(frozen=True)
class Cost:
    """Of a command."""

    name: str
    seconds: float
    gigabytes: float


def placed(rng: np.random.Generator, count: int, inside: NDArray[np.float64]) -> Vesicles:
    """Vesicles thrown into a box (low and high corner, nm) until none overlap."""
    radii = np.clip(rng.normal(*RADIUS_NM, count), 13, 27)
    places: list[NDArray[np.float64]] = []
    for radius in radii:
        others = np.array(places).reshape(-1, 3)
        for _ in range(100_000):
            place = rng.uniform(inside[0] + radius, inside[1] - radius)
            apart = np.linalg.norm(others - place, axis=1) - radii[: len(others)] - radius
            if (apart > GAP_NM).all():
                break
        else:
            raise RuntimeError("the vesicles do not fit into the synapse")
        places.append(place)
    return Vesicles.from_spheres(
        GRID, np.array(places) / GRID.voxel_nm, radii / GRID.voxel_nm, status=(Status.REFINED,) * count
    )


def zone_x(z: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """x of the active zone's membrane, voxels: a curved sheet."""
    return np.asarray(120 + 12 * np.sin(y / 150) + 0.05 * (z - 150))


def write_synapse(folder: Path) -> dict[str, Path]:
    """A synapse of 300 x 928 x 928 voxels as the files that are handed over."""
    rng = np.random.default_rng(SEED)
    nz, ny, nx = GRID.shape_zyx
    table = placed(rng, COUNT, np.array([[20, 200, 150], [280, 720, 480.0]]) * GRID.voxel_nm)
    section = rng.normal(0, NOISE, (ny, nx)).astype(np.int16)
    data = np.empty(GRID.shape_zyx, dtype=np.int16)
    y = np.arange(ny)
    for z, plane in enumerate(data):  # the same noise in another order
        plane[...] = np.roll(section, tuple(rng.integers(0, ny, 2)), axis=(0, 1))
        for step in (-1, 0, 1):
            plane[y, np.rint(zone_x(np.array(float(z)), y)).astype(int) + step] -= DARK
    for centre, radius in zip(table.centres_vox, table.radii_vox, strict=True):
        low, high = np.floor(centre - radius - 2).astype(int), np.ceil(centre + radius + 3).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        away = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.ogrid[box], centre, strict=True)))
        data[box] -= (DARK * np.exp(-0.5 * ((away - radius + 1.1) / 0.9) ** 2)).astype(np.int16)
    paths = {name: folder / f"{name}.{kind}" for name, kind in (("tomo", "mrc"), ("vesicles", "csv"), ("drawn", "mod"))}
    write_tomogram(paths["tomo"], data, GRID)
    write_vesicles_csv(paths["vesicles"], table)
    write_drawn(paths["drawn"])
    return paths


def write_drawn(path: Path) -> None:
    """The cytosol as closed contours, the active zone as open ones, each on every tenth slice."""
    nz, ny, nx = GRID.shape_zyx
    cell, zone = [], []
    for z in [*range(0, nz, EVERY), nz - 1]:
        y = np.linspace(60.0, ny - 60, 60)
        line = np.column_stack([np.full(60, float(z)), y, zone_x(np.array(float(z)), y)])
        angles = np.linspace(-np.pi / 2, np.pi / 2, 150)
        bulge = np.column_stack(
            [np.full(150, float(z)), ny / 2 + (ny / 2 - 60) * np.sin(angles), 130 + 600 * np.cos(angles)]
        )
        cell.append(Contour(index_to_model(np.concatenate([line, bulge[::-1]]))))
        zone.append(Contour(index_to_model(line[15:-15])))
    objects = (Object("cell", tuple(cell)), Object("az", tuple(zone), flags=FLAG_OPEN))
    write_model(path, Model(objects, image_size=(nx, ny, nz), pixel_size=GRID.voxel_nm, units=UNITS_NM))


def measured(name: str, *arguments: object) -> Cost:
    """Run the program in a process of its own."""
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, sys.executable, "-m", "deepvesicle", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    seconds = time.monotonic() - started
    text, _, peak = run.stdout.rpartition("PEAK ")
    print(f"--- {name}: {seconds:.1f} s\n{text}{run.stderr}", flush=True)
    if run.returncode:
        raise SystemExit(f"{name}: {run.stderr.strip() or run.stdout.strip()}")
    return Cost(name, seconds, int(peak) * 1024 / 1e9)


def costs(folder: Path) -> list[Cost]:
    """Of the hand-over, of the check alone, and of a hand-over of a cut tomogram."""
    paths = write_synapse(folder)
    drawn = ("--outline", f"{paths['drawn']}:cell", "--active-zone", f"{paths['drawn']}:az")
    start = ("pyto", paths["tomo"], paths["vesicles"], *drawn, "-o")
    return [
        measured("whole hand-over", *start, folder / "work"),
        measured("`--check` of it", "pyto", "--check", folder / "work"),
        measured("hand-over with `--crop 300nm`", *start, folder / "cut", "--crop", "300nm"),
    ]


def abutting(labels: NDArray[np.integer], ids: tuple[int, ...], *, cytosol: int, membrane: int) -> tuple[float, int]:
    """Share of the vesicles' surface (faces of voxels) that touches cytosol, but where they touch the membrane, one
    another or the outermost voxels; and the number of vesicles in several pieces or with less than all of it.
    """
    from scipy.ndimage import label

    touching = others = lacking = 0
    outermost = np.ones(labels.shape, dtype=bool)
    outermost[1:-1, 1:-1, 1:-1] = False
    for number in ids:
        own = labels == number
        counts = [0, 0]
        for axis in range(3):
            for step in (1, -1):
                beside = np.roll(labels, step, axis=axis)[own]
                rim = np.roll(outermost, step, axis=axis)[own]  # which Pyto wants empty
                outer = (beside != number) & (beside != membrane) & ~np.isin(beside, ids) & ~rim
                counts[0] += int((outer & (beside == cytosol)).sum())
                counts[1] += int(outer.sum())
        touching, others = touching + counts[0], others + counts[1]
        lacking += counts[0] < counts[1] or label(own)[1] != 1
    return touching / others, lacking


def rebuilt(folder: Path) -> list[tuple[str, ...]]:
    """Pyto's example: from the labels' balls, and from the hand-drawn discs, each through a model or a table."""
    published = read_labels(PYTO / "labels.mrc.gz")
    grid, labels = published.grid, np.asarray(published.data)
    discs = np.frombuffer(gzip.decompress((PYTO / "disks.raw.gz").read_bytes()), np.uint8).reshape(grid.shape_zyx)
    write_labels(folder / "labels.mrc", published)
    write_tomogram(folder / "tomo.mrc", greyscale(labels, PYTO_IDS), grid)
    sides = [("published labels", labels, False), ("hand-drawn discs", discs, True)]
    rows = [("published labels as they are", "-", "-", *shares(labels))]
    for name, data, rounding in sides:
        table = annotation_of_labels(
            Labels(data, grid),
            grid,
            vesicle_ids=PYTO_IDS,
            membrane_id=MEMBRANE,
            cytosol_id=CYTOSOL,
            pyto_rounding=rounding,
        ).vesicles
        for kind, write in (("csv", write_vesicles_csv), ("mod", write_vesicles_model)):
            path, work = folder / f"{name[:4]}.{kind}", folder / f"work_{name[:4]}_{kind}"
            write(path, table)
            arguments = [
                *("pyto", str(folder / "tomo.mrc"), str(path), "-o", str(work)),
                *("--outline", f"{folder / 'labels.mrc'}:{CYTOSOL}"),
                *("--active-zone", f"{folder / 'labels.mrc'}:{MEMBRANE}"),
                *("--cytosol-id", str(CYTOSOL), "--membrane-id", str(MEMBRANE)),
            ]
            if command(arguments):
                raise SystemExit(f"the hand-over of {name} failed")
            found = check_folder(work)
            drawn = np.asarray(read_labels(work / "3d" / "labels.mrc").data)
            ids = read_vesicles_csv(work / "vesicles.csv", grid).ids.tolist()
            survived = ids == sorted(PYTO_IDS) == sorted(set(np.unique(drawn).tolist()) - {0, CYTOSOL, MEMBRANE})
            told = json.dumps([finding.to_json() for finding in found], indent=1)
            print(f"--- {name}, .{kind}: {told}", flush=True)
            kinds = ", ".join(f"{finding.severity.value} ({finding.kind})" for finding in found) or "nothing"
            rows.append((f"{name}, .{kind}", "all" if survived else "no", kinds, *shares(drawn)))
    return rows


def greyscale(labels: NDArray[np.integer], ids: tuple[int, ...]) -> NDArray[np.float32]:
    """Dark membranes at the edges of labels, in noise as in that tomogram, which was not published."""
    rng = np.random.default_rng(SEED)
    depth = distance_transform_edt(np.isin(labels, ids))
    dark = np.exp(-0.5 * ((depth - 1.5) / 1.0) ** 2) * (depth > 0) + (labels == MEMBRANE)
    return np.asarray(1850 - 600 * dark + rng.normal(0, 600, labels.shape), dtype=np.float32)


def shares(labels: NDArray[np.integer]) -> tuple[str, str]:
    """What `abutting` says, for the table."""
    share, lacking = abutting(labels, PYTO_IDS, cytosol=CYTOSOL, membrane=MEMBRANE)
    return f"{100 * share:.2f} %", str(lacking)


def main() -> None:
    """Measure, print the rows and write the section."""
    parser = argparse.ArgumentParser(prog="bin/benchmark handover", description="The hand-over to Pyto.")
    parser.add_argument("--quick", action="store_true", help="Pyto's example alone; nothing is written")
    arguments = parser.parse_args()
    if not PYTO.exists():
        raise SystemExit(f"bin/benchmark handover needs pyto_presynaptic in {SHARED_DATA}")
    with tempfile.TemporaryDirectory() as scratch:
        rows = rebuilt(Path(scratch))
    found: list[Cost] = []
    if not arguments.quick:
        with tempfile.TemporaryDirectory() as scratch:
            found = costs(Path(scratch))
    about = f"""Made by `bin/benchmark handover`. A synapse of {COUNT} vesicles in 300 x 928 x 928 voxels (noise with
    dark membranes, 16 bit); outline and active zone drawn on every tenth slice as an IMOD model; two cores, the start
    of the program and the check included. At most {MAX_SECONDS:g} s and {MAX_GB:g} GB were asked for."""
    apart = """Pyto's example (155 x 155 x 60 voxels, nine vesicles): balls from its published labels, and from the
    hand-drawn discs with Pyto's rounding, written as table or model and handed over with the cytosol and the membrane
    of the labels. *Touching*: share of the vesicles' surface that touches cytosol, but where they touch the membrane,
    one another or the outermost voxels, which Pyto wants empty; *lacking*: vesicles in several pieces or with less than
    all of it. Its tomogram was not published: the check saw noise with dark membranes where the published labels have
    them."""
    timing = [(c.name, f"{c.seconds:.1f}", f"{c.gigabytes:.2f}") for c in found]
    lines = [
        "## Hand-over to Pyto",
        "",
        *textwrap.wrap(" ".join(about.split()), 118),
        "",
        *markdown(("command", "seconds", "peak memory, GB"), timing),
        "",
        *textwrap.wrap(" ".join(apart.split()), 118),
        "",
        *markdown(("vesicles from", "ids survive", "the check finds", "touching", "lacking"), rows),
    ]
    if arguments.quick:
        print("\n".join(lines))
        print("not all was run: docs/benchmarks.md stays as it is")
        return
    write_section("handover", lines)
    if found[0].seconds > MAX_SECONDS or found[0].gigabytes > MAX_GB:
        raise SystemExit(f"the hand-over took {found[0].seconds:.1f} s and {found[0].gigabytes:.2f} GB")


if __name__ == "__main__":
    main()
