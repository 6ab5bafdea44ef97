"""A small tomogram of dark spherical membranes in noise, with what a person may have drawn on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.imod import empty_model
from deepvesicle.files.tomogram import read_tomogram, write_tomogram
from deepvesicle.fitting.profile import HALF_BILAYER_NM
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.vesicles import Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import Contour, Model, Object, write_model

GRID = Grid((56, 120, 130), 2.0, (10.0, 0.0, -4.0))
#: Half thickness of the membranes, nm.
_HALF_NM = 2.5


def spheres(grid: Grid = GRID, seed: int = 3, count: int = 24) -> Vesicles:
    """Vesicles that touch neither one another nor the faces."""
    rng = np.random.default_rng(seed)
    centres: list[NDArray[np.float64]] = []
    radii: list[float] = []
    while len(centres) < count:
        radius = float(rng.uniform(8, 12))
        place = rng.uniform(radius + 1, np.asarray(grid.shape_zyx) - radius - 2)
        apart = np.linalg.norm(np.array(centres).reshape(-1, 3) - place, axis=1)
        if (apart > np.array(radii) + radius + 2).all():
            centres.append(place)
            radii.append(radius)
    return Vesicles.from_spheres(grid, np.array(centres), np.array(radii))


def tomogram_of(vesicles: Vesicles, noise: float = 0.8, seed: int = 4) -> Tomogram:
    """Dark shells of some 5 nm in white noise, of grey value -1 at the middle of the bilayer."""
    grid = vesicles.grid
    grey = noise * np.random.default_rng(seed).normal(size=grid.shape_zyx)
    for centre, radius in zip(vesicles.centres_nm, vesicles.radii_nm, strict=True):
        places = np.ogrid[tuple(slice(0, n) for n in grid.shape_zyx)]
        square = sum((p * grid.voxel_nm - c) ** 2 for p, c in zip(places, centre, strict=True))
        grey -= np.exp(-(((np.sqrt(square) - radius + HALF_BILAYER_NM) / _HALF_NM) ** 2))
    return Tomogram(grey.astype(np.float32), grid)


def write_shells(path: Path, vesicles: Vesicles) -> Tomogram:
    """Write the tomogram of some vesicles, and read it as a user would."""
    volume = tomogram_of(vesicles)
    write_tomogram(path, volume.data, volume.grid)
    return read_tomogram(path)


def contours(vesicles: Vesicles, step: int = 2, points: int = 14) -> tuple[Contour, ...]:
    """Closed contours on every second slice, as drawn in 3dmod's Zap window."""
    drawn = []
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    for (z, y, x), radius in zip(vesicles.centres_vox, vesicles.radii_vox, strict=True):
        for plane in range(int(np.ceil(z - radius)), int(z + radius) + 1, step):
            wide = np.sqrt(max(radius**2 - (plane - z) ** 2, 0))
            if wide > 2:
                ring = [np.full(points, plane), y + wide * np.sin(angle), x + wide * np.cos(angle)]
                drawn.append(Contour(index_to_model(np.column_stack(ring))))
    return tuple(drawn)


def box(y: tuple[float, float], x: tuple[float, float], planes: tuple[int, ...]) -> tuple[Contour, ...]:
    """A rectangle on some slices, as the outline of a cell; y and x from, to in voxels."""
    corners = np.array([(y[0], x[0]), (y[0], x[1]), (y[1], x[1]), (y[1], x[0])])
    return tuple(Contour(index_to_model(np.column_stack([np.full(4, z), corners]))) for z in planes)


def write_drawn(path: Path, *objects: Object, grid: Grid = GRID) -> Path:
    """Write a model of some objects."""
    empty = empty_model(grid)
    model = Model(objects, image_size=empty.image_size, pixel_size=empty.pixel_size, units=empty.units)
    write_model(path, model)
    return path
