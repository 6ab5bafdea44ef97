"""Spheres on membranes, and the same ones where a wrong model would put them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from deepvesicle.fitting.placement import check_placement
from deepvesicle.fitting.profile import HALF_BILAYER_NM
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.vesicles import Vesicles
from tests.shells import GRID, spheres, tomogram_of

LAST = np.asarray(GRID.shape_zyx, dtype=float) - 1


@pytest.fixture(scope="module")
def truth() -> Vesicles:
    return spheres()


@pytest.fixture(scope="module")
def tomogram(truth: Vesicles) -> Tomogram:
    return tomogram_of(truth)


def moved(truth: Vesicles, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Vesicles:
    return truth.replace(centres_vox=change(truth.centres_vox))


def test_spheres_on_their_membranes(tomogram: Tomogram, truth: Vesicles) -> None:
    placement = check_placement(tomogram, truth)
    assert placement.warning == "" and placement.radius_nm == 0
    assert placement.contrast == pytest.approx(1 / 0.8, rel=0.2) and placement.significance > 10


def test_rough_drawing_is_no_fault(tomogram: Tomogram, truth: Vesicles, rng: np.random.Generator) -> None:
    rough = moved(truth, lambda c: c + rng.normal(0, 0.7, c.shape))
    placement = check_placement(tomogram, rough)
    assert placement.warning == "" and placement.radius_nm == 0


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda c: c - [11, 0, 0], "about 11 voxels further in z"),
        (lambda c: c + [0, 0, 20], "about 20 voxels back in x"),
        (lambda c: np.where([False, True, False], LAST - c, c), "mirrored in y"),
        (lambda c: np.where([True, True, False], LAST - c, c), "mirrored in z and y"),
        (lambda c: c + np.asarray(GRID.origin_nm) / GRID.voxel_nm, "about 5 voxels back in z"),
        (lambda c: c[:, [0, 2, 1]], "with y and x exchanged"),
    ],
)
def test_models_that_lie_elsewhere(tomogram: Tomogram, truth: Vesicles, change: Callable, finding: str) -> None:
    placement = check_placement(tomogram, moved(truth, change))
    assert "far better" in placement.warning and finding in placement.warning


def test_model_of_another_binning(tomogram: Tomogram, truth: Vesicles) -> None:
    half = truth.replace(centres_vox=(truth.centres_vox + 0.5) / 2 - 0.5, radii_vox=truth.radii_vox / 2)
    assert "2 times as large (another binning)" in check_placement(tomogram, half).warning


@pytest.mark.parametrize("off_nm", [HALF_BILAYER_NM, -1.6])
def test_radii_that_are_all_too_small_or_too_large(tomogram: Tomogram, truth: Vesicles, off_nm: float) -> None:
    drawn = truth.replace(radii_vox=truth.radii_vox - off_nm / GRID.voxel_nm)
    placement = check_placement(tomogram, drawn)
    assert placement.radius_nm == pytest.approx(off_nm, abs=0.6) and placement.warning == ""


def test_inverted_contrast(tomogram: Tomogram, truth: Vesicles) -> None:
    assert "--invert" in check_placement(replace(tomogram, invert=True), truth).warning
    turned = Tomogram(-tomogram.data, tomogram.grid, invert=True)
    assert check_placement(turned, truth).warning == ""
    small = truth.replace(radii_vox=truth.radii_vox - 1.0)
    assert "--invert" in check_placement(replace(tomogram, invert=True), small).warning


def test_vesicles_cut_by_the_faces_count_with_what_is_inside(tomogram: Tomogram, truth: Vesicles) -> None:
    """A section through the middle of the vesicles, in which hardly one is whole."""
    cut = truth.select(np.abs(truth.centres_vox[:, 0] - 28) < 16)
    section = Tomogram(tomogram.data[22:34], Grid((12, *GRID.shape_zyx[1:]), GRID.voxel_nm))
    spheres = Vesicles.from_spheres(section.grid, cut.centres_vox - [22, 0, 0], cut.radii_vox)
    z, radii = spheres.centres_vox[:, 0], spheres.radii_vox
    assert ((z - radii > 0) & (z + radii < 11)).sum() == 0 and len(cut) > 8
    right = check_placement(section, spheres)
    assert right.told and right.warning == "" and right.contrast > 0.8
    assert "--invert" in check_placement(replace(section, invert=True), spheres).warning
    beside = spheres.replace(centres_vox=spheres.centres_vox + [0, 12, 0])
    assert "about 12 voxels back in y" in check_placement(section, beside).warning
    other = spheres.replace(centres_vox=np.random.default_rng(5).uniform(0, 1, (len(cut), 3)) * [11, 119, 129])
    assert "no dark membranes" in check_placement(section, other).warning


def test_nothing_there(truth: Vesicles, rng: np.random.Generator) -> None:
    noise = Tomogram(rng.normal(size=GRID.shape_zyx).astype(np.float32), GRID)
    assert "no dark membranes" in check_placement(noise, truth).warning


def test_nothing_can_be_told(tomogram: Tomogram, truth: Vesicles) -> None:
    for few in (Vesicles.empty(GRID), truth.select(np.arange(3))):
        placement = check_placement(tomogram, few)
        assert np.isnan(placement.contrast) and placement.warning == "" and not placement.told
    outside = check_placement(tomogram, moved(truth, lambda c: c + 500))
    assert outside.warning == "" and not outside.told
    small = Grid((6, 7, 8), 2.0)
    even = Tomogram(np.ones(small.shape_zyx, np.float32), small)
    inside = Vesicles.from_spheres(small, np.full((9, 3), 3.0), np.full(9, 3.0))
    assert not check_placement(even, inside).told
