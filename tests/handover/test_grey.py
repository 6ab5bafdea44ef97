"""Labels beside the membranes of simulated tomograms: wrong by a voxel they are called so, right ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Tomogram
from deepvesicle.handover.balls import Ball, ball_of
from deepvesicle.handover.grey import measured_sizes, sign_at, usable
from deepvesicle.handover.surfaces import LABELS, Role, take_census
from deepvesicle.phantom.imaging import Imaging, image_scene
from deepvesicle.phantom.scene import random_scene
from deepvesicle.vesicles import Status, Vesicles

#: A tomogram, its vesicles, and how near to the truth sizes are told, voxels.
Drawn = tuple[Tomogram, Vesicles, float]
IMAGING = {
    "usual": (Imaging(contrast=0.5), 0.25),
    "smoothed": (Imaging(contrast=0.6, filter="gaussian", filter_strength=1.2), 0.3),
}


@pytest.fixture(scope="module", params=list(IMAGING))
def drawn(request: pytest.FixtureRequest) -> Drawn:
    """A synapse, at a contrast that real tomograms have."""
    rng = np.random.default_rng(311)
    imaging, tolerance = IMAGING[request.param]
    scene = random_scene(rng, (56, 110, 150), 2.2)
    return *image_scene(scene, imaging, rng, margin_vox=20), tolerance


def balls_of(vesicles: Vesicles, excess: float) -> list[Ball]:
    """Labels that are so much too large, as a check sees them."""
    manual = (Status.MANUAL,) * len(vesicles)
    radii = np.maximum(vesicles.radii_vox + excess, 2)
    data = rasterize(vesicles.replace(radii_vox=radii, status=manual, ids=vesicles.ids + 9)).data
    roles = np.zeros(LABELS, dtype=np.uint8)
    roles[vesicles.ids + 9] = Role.VESICLE
    census = take_census(data, roles)
    whole = [number for number in census.present if not census.on_face([number])[0] and census.voxels[number] > 19]
    return usable([ball_of(data, census, roles, number) for number in whole], vesicles.grid.voxel_nm)


@pytest.mark.parametrize("excess", [-2, -1, 0, 1, 2])
def test_labels_beside_membranes(drawn: Drawn, excess: int) -> None:
    tomogram, truth, tolerance = drawn
    sizes = measured_sizes(tomogram, balls_of(truth, excess))
    assert len(sizes.labels) >= 8
    assert sizes.typical_vox == pytest.approx(excess, abs=tolerance)
    assert sizes.error_vox < 0.19  # a voxel is four of these and more
    # single ones are called wrong from five standard deviations and 1.25 voxels on
    off = sizes.excess_vox - excess
    assert not np.any((np.abs(off) > 1.25) & (np.abs(off) > 5 * sizes.sigma_vox))


@pytest.mark.parametrize("excess", [-2, 0, 2])
def test_sign_of_the_contrast_at_labels(drawn: Drawn, excess: int) -> None:
    """Wherever in the membrane and its fringes the labels end."""
    tomogram, truth, _ = drawn
    balls = balls_of(truth, excess)
    assert sign_at(tomogram, balls) == "dark"
    assert sign_at(Tomogram(-np.asarray(tomogram.data), tomogram.grid), balls) == "bright"


def test_nothing_to_look_at(drawn: Drawn) -> None:
    tomogram, _, _ = drawn
    sizes = measured_sizes(tomogram, [])
    assert len(sizes.labels) == 0 and sizes.typical_vox == 0 and not np.isfinite(sizes.error_vox)
    assert sign_at(tomogram, []) == "unsure"
