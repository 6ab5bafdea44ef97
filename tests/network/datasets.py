"""Small datasets for tests: noise with dark spheres in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.dataset import Region, TrainingVolume, add_volume
from deepvesicle.network.patches import occupancy
from deepvesicle.vesicles import Vesicles

CENTRES = [[12.2, 14.0, 13.5], [13.0, 15.5, 40.1], [14.5, 40.3, 15.0], [11.0, 41.0, 42.4], [13.3, 28.0, 67.0]]


def drawn_tomogram(seed: int = 1, shape: tuple[int, int, int] = (26, 56, 80)) -> tuple[Tomogram, Vesicles]:
    """Dark balls in noise, at 3 nm, and where they are."""
    grid = Grid(shape, 3.0, (5.0, -7.0, 11.0))
    vesicles = Vesicles.from_spheres(grid, CENTRES, [6.0, 7.0, 5.5, 6.5, 6.0])
    data = np.random.default_rng(seed).normal(40, 5, shape) - 20 / 255 * occupancy(vesicles, grid)
    return Tomogram(data.astype(np.float32), grid), vesicles


def drawn_dataset(
    folder: Path, names: tuple[str, ...] = ("one",), region: Region | None = None
) -> list[TrainingVolume]:
    """A dataset at 3.3 nm with a tomogram for each name."""
    volumes = []
    for seed, name in enumerate(names):
        tomogram, vesicles = drawn_tomogram(seed)
        volumes.append(add_volume(folder, name, tomogram, vesicles, region=region, voxel_nm=3.3, source={}))
    return volumes
