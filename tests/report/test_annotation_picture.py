"""The picture of what was annotated: circles and edges of the right colour at the right place."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from deepvesicle.files.outline import Outline
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.report.annotation_picture import (
    OUTLINE_COLOUR,
    UNCLEAR_LINE,
    VESICLE_LINE,
    annotation_picture,
    mean_vesicle,
)
from deepvesicle.vesicles import Vesicles
from tests.shells import spheres, tomogram_of

GRID = Grid((37, 90, 120), 2.3)


def pixels(png: bytes) -> NDArray[np.int_]:
    """8-bit RGB."""
    from matplotlib.image import imread

    return np.rint(imread(io.BytesIO(png))[..., :3] * 255).astype(int)


def coloured(image: NDArray[np.int_], colour: str) -> int:
    """Number of pixels near a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(axis=2) < 12).sum())


def grey(rng: np.random.Generator, grid: Grid = GRID) -> Tomogram:
    return Tomogram(rng.normal(size=grid.shape_zyx).astype(np.float32), grid)


def test_vesicles_and_unclear_shapes(rng: np.random.Generator) -> None:
    vesicles = Vesicles.from_spheres(GRID, [[18, 40, 30], [20, 50, 90]], [12, 14])
    unclear = Vesicles.from_spheres(GRID, [[18, 70, 60]], [13])
    both = pixels(annotation_picture(grey(rng), vesicles, unclear=unclear))
    assert 1200 <= both.shape[1] <= 2000
    assert coloured(both, VESICLE_LINE["ec"]) > 2000 and coloured(both, UNCLEAR_LINE["ec"]) > 500
    assert coloured(both, OUTLINE_COLOUR) == 0
    alone = pixels(annotation_picture(grey(rng), vesicles))
    assert coloured(alone, UNCLEAR_LINE["ec"]) == 0


def test_what_was_not_annotated_is_dark(rng: np.random.Generator) -> None:
    """The left half of every slice is outside: it becomes darker, and has an edge."""
    half = np.array([[-1.0, 60.0], [-1.0, 125.0], [95.0, 125.0], [95.0, 60.0]])
    region = Outline(GRID, {z: (half,) for z in range(37)})
    even = Tomogram(np.tile(np.linspace(0, 1, 90)[:, None], (37, 1, 120)).astype(np.float32), GRID)
    vesicles = Vesicles.from_spheres(GRID, [[18, 40, 30]], [6])
    limited, free = (pixels(annotation_picture(even, vesicles, region=r)) for r in (region, None))
    assert coloured(limited, OUTLINE_COLOUR) > 300
    panel = slice(80, 420), slice(20, 630)
    left, right = slice(0, 260), slice(340, 600)
    with_region, without = limited[panel].mean(axis=2), free[panel].mean(axis=2)
    assert with_region[:, left].mean() < 0.75 * without[:, left].mean()
    assert abs(with_region[:, right].mean() / without[:, right].mean() - 1) < 0.05


def test_few_slices_and_no_vesicles(rng: np.random.Generator) -> None:
    thin = Grid((2, 40, 64), 1.9)
    two = pixels(annotation_picture(grey(rng, thin), Vesicles.empty(thin)))
    nine = pixels(annotation_picture(grey(rng), Vesicles.empty(GRID)))
    assert two.shape[0] < nine.shape[0]
    even = Tomogram(np.zeros(thin.shape_zyx, np.float32), thin)
    assert pixels(annotation_picture(even, Vesicles.empty(thin))).shape[1] > 1000


def test_mean_vesicle_tells_right_from_wrong_spheres() -> None:
    """In noise that hides single membranes: a dark ring within the circle, or nothing."""
    truth = spheres()
    tomogram = tomogram_of(truth, noise=2.0)
    y, x = np.mgrid[-1.6:1.6:96j, -1.6:1.6:96j]
    radius = np.hypot(y, x)
    ring, beside = (radius > 0.72) & (radius < 0.92), ((radius < 0.5) | (radius > 1.15))

    def contrast(vesicles: Vesicles, turned: bool = False) -> float:
        mean = mean_vesicle(replace(tomogram, invert=turned), vesicles)
        assert mean is not None
        return float(np.nanmean(mean[beside]) - np.nanmean(mean[ring]))

    right = contrast(truth)
    assert right > 0.4 and contrast(truth, turned=True) == pytest.approx(-right)
    wrong = truth.replace(centres_vox=truth.centres_vox[:, [0, 2, 1]])
    assert abs(contrast(wrong)) < 0.3 * right
    assert mean_vesicle(tomogram, truth.select(np.arange(2))) is None
    assert mean_vesicle(tomogram, truth.replace(centres_vox=truth.centres_vox + 500)) is None
