"""Vesicles that are known, and what a person would draw of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.imod import empty_model
from deepvesicle.grid import Grid
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import SCATTERED_OBJECT, Contour, Model, Object

Floats = NDArray[np.float64]


def crowd(
    rng: np.random.Generator, grid: Grid, radii_vox: tuple[float, float], count: int, margin: float = 0.3
) -> Floats:
    """Spheres (N, 4; z, y, x, radius) that may touch but do not overlap; some are cut by the faces."""
    spheres: list[Floats] = []
    for _ in range(200 * count):
        radius = rng.uniform(*radii_vox)
        centre = rng.uniform(-margin * radius, np.array(grid.shape_zyx) - 1 + margin * radius)
        if all(np.linalg.norm(centre - other[:3]) > radius + other[3] for other in spheres):
            spheres.append(np.array([*centre, radius]))
        if len(spheres) == count:
            break
    return np.array(spheres)


def outlines(
    rng: np.random.Generator,
    sphere: Floats,
    slices: NDArray[np.int64],
    points: tuple[int, int] = (3, 40),
    noise: float = 0.0,
) -> list[Floats]:
    """Closed contours (N, 3; z, y, x) of a sphere on some slices: points on the circle, off by a hand's error."""
    z, y, x, radius = sphere
    drawn = []
    for level in slices:
        if abs(level - z) >= radius:
            continue
        count = int(rng.integers(points[0], points[1] + 1))
        angle = 2 * np.pi * (np.arange(count) + rng.uniform()) / count
        circle = np.sqrt(radius**2 - (level - z) ** 2)
        yx = np.column_stack([y + circle * np.sin(angle), x + circle * np.cos(angle)])
        drawn.append(np.column_stack([np.full(count, float(level)), yx + noise * rng.normal(size=yx.shape)]))
    return drawn


def closed(points_zyx: Floats, surface: int = 0) -> Contour:
    return Contour(index_to_model(points_zyx), surface=surface)


def spheres_object(spheres: Floats, name: str = "points") -> Object:
    """Scattered points with their radii as sizes."""
    contours = tuple(Contour(index_to_model(row[None, :3]), row[3:]) for row in np.atleast_2d(spheres))
    return Object(name, contours, flags=SCATTERED_OBJECT)


def model_of(grid: Grid, *objects: Object) -> Model:
    empty = empty_model(grid)
    return Model(
        objects=objects, image_size=empty.image_size, pixel_size=empty.pixel_size, units=empty.units, name="drawn"
    )


def errors(found_centres: Floats, found_radii: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """How far the nearest found sphere is from each true one: centres and radii (N,), voxels."""
    apart = np.linalg.norm(found_centres[None] - truth[:, None, :3], axis=2)
    nearest = np.argmin(apart, axis=1)
    return apart[np.arange(len(truth)), nearest], np.abs(found_radii[nearest] - truth[:, 3])


def ball(grid: Grid, sphere: Floats) -> NDArray[np.bool_]:
    z, y, x = np.ogrid[tuple(slice(n) for n in grid.shape_zyx)]
    return np.asarray((z - sphere[0]) ** 2 + (y - sphere[1]) ** 2 + (x - sphere[2]) ** 2 <= sphere[3] ** 2)
