"""The whole way from a tomogram to spheres, on phantoms whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.errors import BadInputError
from deepvesicle.grid import Grid, Probability, Tomogram
from deepvesicle.network.patches import occupancy
from deepvesicle.phantom.imaging import Imaging, image_scene
from deepvesicle.phantom.scene import Scene
from deepvesicle.phantom.shapes import HEAD_SHARE, Bilayer, Canvas, add_compartment
from deepvesicle.pipeline import counts, segment
from deepvesicle.scoring.match import match
from deepvesicle.settings import ProposalSettings, RefinementSettings, Settings
from deepvesicle.spheres import inside_fractions
from deepvesicle.vesicles import Status, Vesicles

THICKNESS_NM = 2.8  # between the planes of head groups
#: Outer radius and place (z, y, x), nm: alone, touching pair, cluster of three, cut by faces of x, y and z.
SPHERES_NM = (
    (20.0, (60.0, 52.0, 61.0)),
    (19.0, (80.0, 130.0, 60.0)),
    (22.0, (80.0, 130.0, 101.2)),
    (17.0, (50.0, 60.0, 190.0)),
    (18.0, (63.0, 60.0, 222.7)),
    (21.0, (96.0, 83.0, 211.0)),
    (24.0, (70.0, 150.0, 252.0)),
    (20.0, (100.0, 14.0, 130.0)),
    (20.0, (12.0, 110.0, 160.0)),
    (40.0, (76.0, 120.0, 160.5)),
)


def _phantom(voxel_nm: float, seed: int = 3, contrast: float = 1.2) -> tuple[Tomogram, Vesicles]:
    """A tomogram of 130 x 176 x 262 nm with the spheres above; 40 nm more along x lie in the beam."""
    beam_nm = 40.0
    shape = tuple(round(n / voxel_nm) for n in (130.0, 176.0, 262.0 + 2 * beam_nm))
    canvas = Canvas(np.zeros(shape, dtype=np.float32), voxel_nm)
    margin = round(beam_nm / voxel_nm)
    centres = np.array([place for _, place in SPHERES_NM]) + (0, 0, margin * voxel_nm)
    radii = np.array([radius for radius, _ in SPHERES_NM])
    for centre, radius in zip(centres, radii, strict=True):
        membrane = Bilayer(THICKNESS_NM / HEAD_SHARE, 1.0)
        add_compartment(canvas, centre, (radius - THICKNESS_NM / 2,) * 3, membrane, 0.05, 0.0)
    grid = Grid(shape, voxel_nm)  # type: ignore[arg-type]
    truth = Vesicles.from_spheres(
        grid,
        centres / voxel_nm,
        radii / voxel_nm,
        membrane_radii_vox=(radii - THICKNESS_NM / 2) / voxel_nm,
        thickness_vox=np.full(len(radii), THICKNESS_NM / voxel_nm),
    )
    inside = inside_fractions(grid, truth.centres_vox, truth.radii_vox)
    scene = Scene(canvas.density, grid, truth.with_features(inside_fraction=inside))
    tomogram, moved = image_scene(scene, Imaging(contrast=contrast), np.random.default_rng(seed), margin)
    return tomogram, moved


def _mask(tomogram: Tomogram, truth: Vesicles) -> Probability:
    """What a good network would say, on its own grid."""
    grid = tomogram.grid.rescaled(2.2)
    return Probability(occupancy(truth, grid), grid)


@pytest.mark.parametrize("voxel_nm", [1.37, 2.2])
def test_spheres_come_back_where_they_are(voxel_nm: float) -> None:
    tomogram, truth = _phantom(voxel_nm)
    result = segment(tomogram, Settings(), probability=_mask(tomogram, truth))
    found = result.vesicles.select(result.vesicles.accepted)
    score = match(found, truth)
    assert (score.tp, score.fp, score.fn) == (len(SPHERES_NM), 0, 0), score.text()
    whole = truth.features["inside_fraction"] > 0.999
    errors = np.linalg.norm(found.centres_nm[score.pairs[:, 0]] - truth.centres_nm[score.pairs[:, 1]], axis=1)
    inside = whole[score.pairs[:, 1]]
    assert np.median(errors[inside]) < 0.6
    assert errors[inside].max() < 1.6
    assert errors.max() < 5.0
    radius_error = found.radii_nm[score.pairs[:, 0]] - truth.radii_nm[score.pairs[:, 1]]
    assert abs(np.median(radius_error[inside])) < 0.8
    assert np.abs(radius_error[inside]).max() < 2.0


def test_the_axes_are_not_confused() -> None:
    tomogram, truth = _phantom(2.2)
    probability = _mask(tomogram, truth)
    turned_grid = Grid((tomogram.grid.shape_zyx[0], tomogram.grid.shape_zyx[2], tomogram.grid.shape_zyx[1]), 2.2)
    turned = Tomogram(np.ascontiguousarray(tomogram.data.transpose(0, 2, 1)), turned_grid)
    turned_probability = Probability(np.ascontiguousarray(probability.data.transpose(0, 2, 1)), turned_grid)
    straight = segment(tomogram, Settings(), probability=probability).vesicles
    about_x = replace(Settings(), refinement=RefinementSettings(tilt_axis="x"))
    other = segment(turned, about_x, probability=turned_probability).vesicles
    a, b = straight.centres_vox, other.centres_vox[:, [0, 2, 1]]
    assert len(a) == len(b)
    nearest = np.linalg.norm(a[:, None] - b[None], axis=-1).min(axis=1)
    assert np.median(nearest) < 0.15 and nearest.max() < 1.5


def test_size_limits_hold_and_are_explained() -> None:
    tomogram, truth = _phantom(2.2)
    settings = replace(Settings(), proposal=ProposalSettings(min_radius_nm=12, max_radius_nm=30))
    vesicles = segment(tomogram, settings, probability=_mask(tomogram, truth)).vesicles
    radii = vesicles.radii_nm[vesicles.accepted]
    assert radii.max() < 31 and len(radii) == len(SPHERES_NM) - 1
    big = vesicles.select(vesicles.radii_nm > 35)
    assert all(
        status is Status.REJECTED and "30" in reason for status, reason in zip(big.status, big.reasons, strict=True)
    )


class _LeftHalf:
    """Everything with x below a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def contains(self, points_zyx: np.ndarray) -> np.ndarray:
        return points_zyx[:, 2] < self.limit


def test_only_centres_inside_the_region_count() -> None:
    tomogram, truth = _phantom(2.2)
    limit = 140 / 2.2
    vesicles = segment(tomogram, Settings(), probability=_mask(tomogram, truth), region=_LeftHalf(limit)).vesicles
    assert np.all(vesicles.centres_vox[vesicles.accepted, 2] < limit)
    assert all("outside the mask" in vesicles.reasons[i] for i in np.flatnonzero(vesicles.centres_vox[:, 2] >= limit))
    assert vesicles.accepted.sum() == np.count_nonzero(truth.centres_vox[:, 2] < limit)


def test_an_empty_mask_gives_an_empty_table() -> None:
    tomogram, truth = _phantom(2.2)
    nothing = Probability(np.zeros_like(_mask(tomogram, truth).data), tomogram.grid.rescaled(2.2))
    vesicles = segment(tomogram, Settings(), probability=nothing).vesicles
    assert len(vesicles) == 0
    assert counts(vesicles)["mean_radius_nm"] == 0


def test_a_network_or_a_probability_is_needed() -> None:
    tomogram, _ = _phantom(2.2)
    with pytest.raises(ValueError, match="network"):
        segment(tomogram, Settings())


def test_a_mask_of_another_tomogram_is_refused() -> None:
    tomogram, truth = _phantom(2.2)
    other = Grid((60, 80, 90), 2.2)
    with pytest.raises(BadInputError, match="does not belong"):
        segment(tomogram, Settings(), probability=Probability(np.zeros(other.shape_zyx, np.uint8), other))
