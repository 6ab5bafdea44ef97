"""Training examples: truth where the vesicles are, whatever the rescaling and augmentation."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.grid import Grid
from deepvesicle.network.patches import Example, augment, cut_patch, mirrored, occupancy
from deepvesicle.vesicles import Vesicles


def test_occupancy_has_the_spheres_volumes_and_places() -> None:
    source = Grid((50, 60, 70), 1.6)
    spheres = Vesicles.from_spheres(source, [[20.3, 30.8, 35.2], [25.0, 0.0, 10.0]], [12.5, 9.0])
    target = source.rescaled(2.2)
    mask = occupancy(spheres, target) / 255
    whole = occupancy(spheres.select([0]), target) / 255
    assert whole.sum() * 2.2**3 == pytest.approx(4 / 3 * np.pi * 20.0**3, rel=0.02)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in mask.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    found = np.average(target.map_points(index, source), axis=0, weights=whole.ravel())
    np.testing.assert_allclose(found, [20.3, 30.8, 35.2], atol=0.05)
    assert mask.max() == 1 and mask[:, 0].max() > 0.9  # the second one is cut by the low face of y


def test_augmentation_moves_grey_and_mask_together(rng: np.random.Generator) -> None:
    mask = np.zeros((16, 20, 20), dtype=np.float32)
    mask[3:9, 4:11, 12:18] = 1
    for _ in range(12):
        grey, moved, known = augment((-8 * mask, mask, 1 - mask), rng)
        assert moved.sum() == mask.sum()
        np.testing.assert_array_equal(known, 1 - moved)
        assert np.corrcoef(grey.ravel(), moved.ravel())[0, 1] < -0.85


def test_thin_volumes_are_mirrored_to_the_patch(rng: np.random.Generator) -> None:
    example = Example(rng.normal(size=(20, 90, 70)).astype(np.float16), np.full((20, 90, 70), 255, np.uint8))
    grey, mask, known = cut_patch(example, 48, rng)
    assert grey.shape == mask.shape == known.shape == (48, 48, 48)
    assert mask.min() == known.min() == 1 and grey.dtype == np.float32


@pytest.mark.parametrize(("first", "count"), [(-7, 12), (3, 9), (5, 14), (-20, 50)])
def test_indices_beyond_an_end_are_those_of_the_mirror_image(first: int, count: int) -> None:
    padded = np.pad(np.arange(11), 60, mode="symmetric")
    np.testing.assert_array_equal(mirrored(first, count, 11), padded[60 + first : 60 + first + count])


def test_some_patches_reach_over_the_faces() -> None:
    z, y, x = np.indices((40, 44, 48))
    example = Example((z + 0.01 * y).astype(np.float16), np.full(z.shape, 255, np.uint8))
    over = 0
    for seed in range(60):
        grey, _, _ = cut_patch(example, 24, np.random.default_rng(seed))
        over += len(np.unique(np.floor(grey[:, 0, 0] + 1e-3))) < 24  # a plane comes twice
    assert 5 <= over <= 25
