"""The hand-drawn discs of Pyto's example become the balls of its published labels."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.annotations import Annotation, annotation_of_labels
from deepvesicle.files.tomogram import read_labels
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Labels
from deepvesicle.scoring.match import dice

IDS = (36, 48, 49, 50, 52, 58, 59, 60, 61)


@pytest.fixture
def published(shared_data: Callable[[str], Path]) -> Labels:
    return read_labels(shared_data("pyto_presynaptic/labels.mrc.gz"))


@pytest.fixture
def discs(shared_data: Callable[[str], Path], published: Labels) -> Labels:
    data = gzip.decompress(shared_data("pyto_presynaptic/disks.raw.gz").read_bytes())
    return Labels(np.frombuffer(data, np.uint8).reshape(published.grid.shape_zyx), published.grid)


def balls(discs: Labels, **options: bool) -> tuple[Annotation, Labels]:
    annotation = annotation_of_labels(discs, discs.grid, vesicle_ids=IDS, membrane_id=2, cytosol_id=3, **options)
    return annotation, rasterize(annotation.vesicles)


def test_identical_with_the_centres_rounded_as_pyto_does(discs: Labels, published: Labels) -> None:
    annotation, drawn = balls(discs, pyto_rounding=True)
    assert annotation.vesicles.ids.tolist() == list(IDS)
    for number in IDS:
        np.testing.assert_array_equal(drawn.data == number, published.data == number)


def test_without_rounding_they_differ_by_the_rounding_alone(discs: Labels, published: Labels) -> None:
    """The published balls are up to 0.66 voxel off their discs: Dice of two such balls is at most 0.96 to 0.99."""
    annotation, drawn = balls(discs)
    rounded, _ = balls(discs, pyto_rounding=True)
    np.testing.assert_array_equal(annotation.vesicles.radii_vox, rounded.vesicles.radii_vox)
    shifts = np.linalg.norm(annotation.vesicles.centres_vox - rounded.vesicles.centres_vox, axis=1)
    assert 0.2 < shifts.max() < 0.7
    for number, shift, radius in zip(IDS, shifts, annotation.vesicles.radii_vox, strict=True):
        score = dice(drawn.data == number, published.data == number)
        possible = 1 - 0.75 * shift / radius + (shift / radius) ** 3 / 16  # of two equal balls at that distance
        assert score == pytest.approx(possible, abs=0.006)
        assert score > 0.96


def test_the_rest_of_pytos_volume_is_no_vesicle(discs: Labels) -> None:
    annotation, _ = balls(discs)
    assert len(annotation.vesicles) == 9 and len(annotation.unclear) == 0
    assert annotation.region is not None
    share = annotation.region.to_mask(discs.grid).mean()
    assert share == pytest.approx((discs.data != 0).mean())


def test_the_published_labels_themselves(published: Labels) -> None:
    """Balls in, balls out: radii to 0.1 voxel of those that made them."""
    annotation = annotation_of_labels(published, published.grid, vesicle_ids=IDS, membrane_id=2, cytosol_id=3)
    made = np.array([12.557, 11.3, 12.52, 12.824, 13.912, 12.653, 12.851, 12.742, 13.011])
    np.testing.assert_allclose(annotation.vesicles.radii_vox, made, atol=0.1)
    np.testing.assert_allclose(annotation.vesicles.centres_vox, np.rint(annotation.vesicles.centres_vox), atol=0.02)
