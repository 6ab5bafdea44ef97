"""Accuracy of the fits of `deepvesicle segment`, from start spheres that are off, on phantoms of known truth.

Run by `bin/benchmark refine`. Start spheres are displaced by up to 30 % of the radius, evenly over the ball, and up to
20 % wrong in size. They are fitted and judged without a network's word. The baseline of the same run is the published
scheme (`published`): spherical averages, whole voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Tomogram
from deepvesicle.phantom.imaging import Imaging, image_scene
from deepvesicle.phantom.scene import LOOKALIKES, placed_scene
from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]
#: First part of the seeds; used nowhere else.
SEED = 999_000
SIZE_NM = np.array([150.0, 330.0, 400.0])
#: Beam beyond the tomogram along x, nm.
BEYOND_NM = 50.0
MOVE, SCALE = 0.3, 0.2


@dataclass(frozen=True)
class Trial:
    """A tomogram, its true vesicles, and the spheres that the fit starts from.

    Parameters
    ----------
    tomogram : Tomogram
    truth : Vesicles
    starts : Vesicles
        The first `len(truth)` belong to the true ones, the rest lie on look-alikes.
    """

    tomogram: Tomogram
    truth: Vesicles
    starts: Vesicles


def cells(rng: np.random.Generator, pitch_nm: float, size: Floats = SIZE_NM) -> Floats:
    """Places (N, 3) on a lattice, each a little off."""
    counts = np.maximum((size / pitch_nm).astype(int), 1)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), axis=-1).reshape(-1, 3)
    places = (index + 0.5) * (size / counts)
    return np.asarray(places + rng.uniform(-0.04, 0.04, places.shape) * pitch_nm)


def isolated(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Vesicles with some 20 nm around each."""
    places = cells(rng, 66.0)
    return places, rng.uniform(15, 25, len(places))


def touching(rng: np.random.Generator, count: int = 120) -> tuple[Floats, Floats]:
    """A clump of vesicles, each touching at least one, most several, without gaps where they touch."""
    mean = 20.0
    centres, radii = [SIZE_NM / 2], [mean]
    while len(centres) < count:
        radius = float(np.clip(rng.normal(mean, 2.0), 14, 27))
        best: Floats | None = None
        for _ in range(60):
            a = int(rng.integers(len(centres)))
            known, sizes = np.array(centres), np.array(radii)
            direction = rng.normal(size=3)
            place = known[a] + direction / np.linalg.norm(direction) * (sizes[a] + radius)
            # Roll it towards the middle of the clump along the sphere it lies on, until it touches another.
            for _ in range(40):
                pull = SIZE_NM / 2 - place
                rolled = place + 0.05 * pull
                rolled = known[a] + (rolled - known[a]) / np.linalg.norm(rolled - known[a]) * (sizes[a] + radius)
                gaps = np.linalg.norm(known - rolled, axis=1) - sizes - radius
                gaps[a] = 0
                if gaps.min() < -1e-9:
                    break
                place = rolled
            gaps = np.linalg.norm(known - place, axis=1) - sizes - radius
            gaps[a] = 0
            inside = np.all((place > radius + 2) & (place < SIZE_NM - radius - 2))
            if gaps.min() < -1e-9 or not inside:
                continue
            if best is None or np.linalg.norm(place - SIZE_NM / 2) < np.linalg.norm(best - SIZE_NM / 2):
                best = place
        if best is not None:
            centres.append(best)
            radii.append(radius)
    return np.array(centres), np.array(radii)


def scattered(
    rng: np.random.Generator, draw: Callable[[], tuple[Floats, float]], count: int, gap_nm: float
) -> tuple[Floats, Floats]:
    """Vesicles at random that do not come nearer than a gap."""
    centres: list[Floats] = []
    radii: list[float] = []
    for _ in range(4000):
        place, radius = draw()
        far = np.linalg.norm(np.array(centres).reshape(-1, 3) - place, axis=1) - np.array(radii) - radius
        if not len(far) or far.min() > gap_nm:
            centres.append(place)
            radii.append(radius)
        if len(centres) == count:
            break
    return np.array(centres), np.array(radii)


def cut(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Vesicles that a face of the volume cuts, up to the half."""

    def draw() -> tuple[Floats, float]:
        radius = float(rng.uniform(15, 25))
        place = rng.uniform(30, SIZE_NM - 30)
        axis, far = int(rng.integers(3)), bool(rng.integers(2))
        depth = radius * rng.uniform(0.0, 0.9)
        place[axis] = SIZE_NM[axis] - depth if far else depth
        return place, radius

    return scattered(rng, draw, 60, 8.0)


def of_all_sizes(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Vesicles of 12 to 60 nm, all inside."""

    def draw() -> tuple[Floats, float]:
        radius = float(np.exp(rng.uniform(np.log(12), np.log(60))))
        return rng.uniform(radius + 4, SIZE_NM - radius - 4), radius

    return scattered(rng, draw, 40, 6.0)


def displaced(rng: np.random.Generator, centres: Floats, radii: Floats) -> tuple[Floats, Floats]:
    """Start spheres."""
    direction = rng.normal(size=centres.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = MOVE * radii * rng.uniform(0, 1, len(radii)) ** (1 / 3)
    return centres + direction * length[:, None], radii * rng.uniform(1 - SCALE, 1 + SCALE, len(radii))


def trial(
    place: Callable[[np.random.Generator], tuple[Floats, Floats]],
    imaging: Imaging,
    seed: tuple[int, ...],
    *,
    voxel_nm: float | None = None,
    lookalikes: float = 0.0,
    size_nm: Floats = SIZE_NM,
) -> Trial:
    """Simulate a case: vesicles placed by a function, a share of the places given to look-alikes."""
    rng = np.random.default_rng(seed)
    voxel = float(rng.uniform(1.8, 2.6)) if voxel_nm is None else voxel_nm
    centres, radii = place(rng)
    beyond = round(BEYOND_NM / voxel)
    shape = np.round(size_nm / voxel).astype(int)
    false = np.zeros(len(centres), dtype=bool)
    false[rng.permutation(len(centres))[: round(lookalikes * len(centres))]] = True
    kinds = [str(rng.choice(LOOKALIKES)) for _ in range(int(false.sum()))]
    # A voxel's place is that of its centre.
    shift = np.array([0.0, 0.0, beyond * voxel]) - voxel / 2
    scene = placed_scene(
        rng,
        (int(shape[0]), int(shape[1]), int(shape[2]) + 2 * beyond),
        voxel,
        centres[~false] + shift,
        radii[~false],
        lookalikes=[(kind, c + shift) for kind, c in zip(kinds, centres[false], strict=True)],
    )
    tomogram, truth = image_scene(scene, imaging, rng, beyond)
    start_centres, start_radii = displaced(rng, truth.centres_vox, truth.radii_vox)
    wrong_centres, wrong_radii = _starts_on(rng, kinds, (centres[false] - voxel / 2) / voxel, radii[false] / voxel)
    starts = Vesicles.from_spheres(
        tomogram.grid,
        np.concatenate([start_centres, wrong_centres]),
        np.concatenate([start_radii, wrong_radii]),
    )
    return Trial(tomogram, truth, starts)


def _starts_on(rng: np.random.Generator, kinds: list[str], places: Floats, radii: Floats) -> tuple[Floats, Floats]:
    """Spheres as a network might propose them: centred on beads, blobs and tubules, or leaning against a sheet."""
    centres = places.reshape(-1, 3).copy()
    for row, kind in enumerate(kinds):
        direction = rng.normal(size=3)
        reach = 1.0 if kind == "sheet" else 0.3
        centres[row] += direction / np.linalg.norm(direction) * reach * rng.uniform(0, 1) * radii[row]
    return centres, radii


def kept(fit: Vesicles, truth: Vesicles) -> NDArray[np.bool_]:
    """Which truths have an accepted sphere centred in them that is not further off than half the radius (N,)."""
    mine = fit.select(np.arange(len(truth)))
    away = np.linalg.norm(mine.centres_vox - truth.centres_vox, axis=1)
    return np.asarray(mine.accepted & (away < 0.5 * truth.radii_vox))
