"""First spheres from masks of known spheres, spoilt as a network's output is."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
import pytest

from deepvesicle.fitting.instances import fill_holes
from deepvesicle.fitting.mask import PackedMask
from deepvesicle.fitting.propose import overlap, propose
from deepvesicle.fitting.shells import broken_shells
from deepvesicle.fitting.spheroids import Spheroid, fit_spheroid
from deepvesicle.grid import Grid, Probability
from deepvesicle.scoring.match import Score, match
from deepvesicle.settings import ProposalSettings
from deepvesicle.vesicles import Status, Vesicles
from tests.fitting.degraded import crowd, spoil

GRID = Grid((64, 118, 101), 2.2, (1.1, -4.0, 20.0))


def whole(truth: Vesicles) -> np.ndarray:
    """Which spheres the border does not cut."""
    r = truth.radii_vox[:, None]
    high = np.asarray(truth.grid.shape_zyx) - 0.5
    return np.asarray(np.all((truth.centres_vox - r >= -0.5) & (truth.centres_vox + r <= high), axis=1))


def scored(probability: Probability, truth: Vesicles, threshold: float = 0.5, target: Grid | None = None) -> Score:
    """Propose and score, cut vesicles not counted."""
    found = propose(probability, target or probability.grid, ProposalSettings(), threshold=threshold)
    return match(found, truth, counted=whole(truth))


@pytest.mark.parametrize(
    ("spoiling", "threshold"),
    [
        ({}, 0.5),
        ({"squash": (0.6, 1.0)}, 0.5),
        ({"caps": 0.6}, 0.5),
        ({"bridges_nm": 5.0, "blur_nm": 2.5}, 0.5),
        ({"noise": 2.0, "specks": 30}, 0.5),
        ({"squash": (0.65, 1.0), "caps": 0.8, "bridges_nm": 4.0, "noise": 1.5, "specks": 20}, 0.3),
        ({"squash": (0.65, 1.0), "caps": 0.8, "bridges_nm": 4.0, "noise": 1.5, "specks": 20}, 0.7),
    ],
)
def test_a_crowd_of_touching_vesicles_is_found(
    rng: np.random.Generator, spoiling: dict[str, Any], threshold: float
) -> None:
    truth = crowd(rng, GRID, np.clip(rng.normal(20, 4, 30), 12, 30), touching=0.9)
    assert len(truth) >= 20
    score = scored(spoil(rng, truth, **spoiling), truth, threshold)
    assert score.recall >= 0.97 and score.precision >= 0.97
    assert score.median_centre_error_nm < 1.0
    assert abs(score.radius_bias_nm) < 2.0 and score.radius_sd_nm < 1.0


def test_clean_spheres_are_measured_to_a_fraction_of_a_voxel(rng: np.random.Generator) -> None:
    truth = crowd(rng, GRID, rng.uniform(12, 30, 20), touching=0.8)
    fine = GRID.rescaled(1.3)
    score = scored(spoil(rng, truth), truth, target=fine)
    assert score.f1 == 1
    assert score.median_centre_error_nm < 0.2
    assert abs(score.radius_bias_nm) < 0.2 and score.radius_sd_nm < 0.3


@pytest.mark.parametrize("voxel_nm", [1.5, 3.2])
def test_other_voxel_sizes(rng: np.random.Generator, voxel_nm: float) -> None:
    grid = Grid(tuple(round(e / voxel_nm) for e in (110, 190, 160)), voxel_nm)  # type: ignore[arg-type]
    truth = crowd(rng, grid, np.clip(rng.normal(20, 4, 15), 13, 30), touching=0.9)
    score = scored(spoil(rng, truth, squash=(0.7, 1.0), noise=1.0), truth)
    assert score.f1 >= 0.97


@pytest.mark.parametrize("spoiling", [{"hollow_over_nm": 35.0}, {"pieces_over_nm": 40.0, "noise": 0.5}])
def test_large_vesicles_stay_whole(rng: np.random.Generator, spoiling: dict[str, Any]) -> None:
    grid = Grid((92, 140, 115), 2.2)
    radii = np.concatenate([[84.0, 55.0, 43.0], rng.uniform(14, 28, 20)])
    truth = crowd(rng, grid, radii, touching=0.8)
    assert truth.radii_nm.max() > 80
    score = scored(spoil(rng, truth, squash=(0.8, 1.0), **spoiling), truth)
    assert score.recall == 1 and score.precision >= 0.95
    large = truth.radii_nm[score.pairs[:, 1]] > 40
    assert large.sum() >= 2 and score.delta_c_nm < 2 and score.delta_d < 0.06


def test_those_cut_by_the_border_are_completed(rng: np.random.Generator) -> None:
    centres = [[2.0, 40.3, 30.7], [30.2, 1.5, 60.4], [60.8, 60.0, 98.9], [33.0, 70.0, 45.0]]
    truth = Vesicles.from_spheres(GRID, centres, [9.0, 10.0, 8.0, 9.5])
    found = propose(spoil(rng, truth), GRID, ProposalSettings(), threshold=0.5)
    score = match(found, truth)
    assert (score.tp, score.fp, score.fn) == (4, 0, 0)
    assert score.delta_c_nm < 1.5 and score.delta_d < 0.08
    inside = found.features["inside_fraction"][score.pairs[:, 0][np.argsort(score.pairs[:, 1])]]
    assert np.all(inside[:3] < 0.8) and inside[3] == pytest.approx(1, abs=0.03)


def test_size_limits_have_a_tolerance_and_hold(rng: np.random.Generator) -> None:
    truth = Vesicles.from_spheres(GRID, [[30, 30, 30], [30, 80, 30], [30, 60, 75]], np.array([9, 20, 40]) / 2.2)
    settings = ProposalSettings(min_radius_nm=12, max_radius_nm=30)
    found = propose(spoil(rng, truth, blur_nm=1.0), GRID, settings, threshold=0.5)
    assert np.sort(found.radii_nm) == pytest.approx([9, 20], abs=1.0)
    narrow = ProposalSettings(min_radius_nm=25, max_radius_nm=40)
    found = propose(spoil(rng, truth), GRID, narrow, threshold=0.5)
    assert np.sort(found.radii_nm) == pytest.approx([20, 40], abs=1.0)


def test_what_it_hands_over(rng: np.random.Generator) -> None:
    truth = crowd(rng, GRID, np.full(6, 20.0))
    probability = spoil(rng, truth, squash=(0.75, 0.75))
    found = propose(probability, GRID, ProposalSettings(), threshold=0.5)
    as_float = Probability((probability.data / 255).astype(np.float32), GRID)
    same = propose(as_float, GRID, ProposalSettings(), threshold=0.5)
    np.testing.assert_allclose(same.centres_vox, found.centres_vox, atol=0.05)
    assert set(found.status) == {Status.PROPOSED}
    assert np.all(found.scores > 0.8) and np.all(found.scores <= 1)
    assert np.all(np.diff(found.centres_vox[:, 0]) >= 0)
    np.testing.assert_allclose(found.features["mask_height"], 0.78, atol=0.06)
    assert np.all(found.features["mask_support"] > 0.6) and np.all(found.features["mask_fill"] > 0.85)
    own = propose(probability, GRID, ProposalSettings(threshold=0.9), threshold=0.5)
    assert own.radii_nm.mean() < found.radii_nm.mean() - 0.5


def test_nothing_is_found_in_nothing(rng: np.random.Generator) -> None:
    empty = Probability(np.zeros(GRID.shape_zyx, dtype=np.uint8), GRID)
    assert len(propose(empty, GRID, ProposalSettings(), threshold=0.5)) == 0
    specks = spoil(rng, Vesicles.empty(GRID), specks=60, noise=1.0)
    assert len(propose(specks, GRID, ProposalSettings(), threshold=0.5)) == 0
    full = Probability(np.full((20, 30, 25), 255, dtype=np.uint8), Grid((20, 30, 25), 2.2))
    assert len(propose(full, full.grid, ProposalSettings(), threshold=0.5)) <= 1
    with pytest.raises(ValueError, match="between 0 and 1"):
        propose(empty, GRID, ProposalSettings(), threshold=128)


def test_lumens_are_filled_and_gaps_between_vesicles_are_not() -> None:
    z, y, x = np.ogrid[:25, :60, :60]
    shell = np.abs(np.sqrt((z - 12) ** 2 + (y - 30.0) ** 2 + (x - 30.0) ** 2) - 18) <= 2
    open_shell = shell & (abs(z - 12) < 9)  # its caps are missing: open in 3D, closed in planes
    assert fill_holes(open_shell, 60)[12, 30, 30]
    ring = np.zeros((25, 60, 60), dtype=bool)
    for angle in np.arange(4) * np.pi / 2:
        ring |= (z - 12) ** 2 + (y - 30 - 12 * np.sin(angle)) ** 2 + (x - 30 - 12 * np.cos(angle)) ** 2 <= 9.0**2
    assert ring[12, 30, 20] and not fill_holes(ring, 60)[12, 30, 30]


def test_a_squashed_surface_gives_the_equatorial_radius(rng: np.random.Generator) -> None:
    n = rng.normal(size=(900, 3))
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    points = np.array([20.3, 31.7, 14.1]) + 11.2 * n * [0.7, 1, 1] + rng.normal(0, 0.2, n.shape)
    points[:150] += rng.uniform(2, 6, (150, 1)) * n[:150]  # a neighbour's surface
    fitted = fit_spheroid(points, Spheroid(np.array([18.0, 33.0, 15.5]), 9.0))
    assert fitted is not None
    np.testing.assert_allclose(fitted.centre, [20.3, 31.7, 14.1], atol=0.15)
    assert fitted.radius == pytest.approx(11.2, abs=0.15)
    assert fitted.squash2**-0.5 == pytest.approx(0.7, abs=0.03)
    assert fit_spheroid(points[:5], fitted) is None


def test_broken_shells_are_found_by_their_surface(rng: np.random.Generator) -> None:
    z, y, x = np.indices((70, 95, 88))
    d = np.sqrt((z - 33.3) ** 2 + (y - 50.6) ** 2 + (x - 41.2) ** 2)
    mask = (np.abs(d - 24) <= 2) & (y > 40) | (np.abs(d - 24) <= 2) & (x < 30)
    best = broken_shells(PackedMask.of(mask), smallest=13, largest=45)[0]
    np.testing.assert_allclose(best.centre, [33.3, 50.6, 41.2], atol=1.0)
    assert best.radius == pytest.approx(26, abs=1.0)
    assert broken_shells(PackedMask((20, 30, 25)), smallest=5, largest=9) == []


def test_overlap_is_the_volume_of_the_lens() -> None:
    z, y, x = np.ogrid[-14:15:0.25, -14:15:0.25, -14:25:0.25]
    a, b = Spheroid(np.zeros(3), 10.0), Spheroid(np.array([0, 0, 11.0]), 7.0)
    in_a, in_b = z**2 + y**2 + x**2 <= 100, z**2 + y**2 + (x - 11) ** 2 <= 49
    assert overlap(a, b) == overlap(b, a) == pytest.approx((in_a & in_b).sum() / in_b.sum(), rel=0.01)
    assert overlap(a, Spheroid(np.array([0, 0, 17.0]), 7.0)) == 0
    assert overlap(a, Spheroid(np.array([0, 0, 2.0]), 7.0)) == 1


def test_the_spheres_of_an_independent_synapse(rng: np.random.Generator, shared_data: Any) -> None:
    """Positions and sizes of somebody else's simulated synapse; the mask is drawn and spoilt here."""
    with shared_data("independent/syn_a_truth.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    tomogram = Grid((105, 260, 260), 2.0)
    centres = [[float(r[f"{a}_vox"]) for a in "zyx"] for r in rows]
    grid = tomogram.rescaled(2.2)
    radii = grid.length_to_vox([float(r["radius_outer_nm"]) for r in rows])
    truth = Vesicles.from_spheres(grid, tomogram.map_points(centres, grid), radii)
    probability = spoil(rng, truth, squash=(0.7, 1.0), caps=0.9, hollow_over_nm=50, noise=1.5, specks=50)
    found = propose(probability, tomogram, ProposalSettings(), threshold=0.5)
    score = match(found, truth, counted=[float(r["frac_in_fov"]) >= 0.999 for r in rows])
    assert score.tp + score.fn == 64
    assert score.f1 >= 0.97 and score.delta_c_nm < 1 and score.delta_d < 0.06


def test_faint_vesicles_are_proposed_besides_clear_ones(rng: np.random.Generator) -> None:
    truth = crowd(rng, GRID, rng.uniform(14, 26, 14), touching=0.0)
    data = np.full(GRID.shape_zyx, 0.03)
    heights = np.resize([0.9, 0.3, 0.16], len(truth))
    z, y, x = np.indices(GRID.shape_zyx)
    for (cz, cy, cx), radius, height in zip(truth.centres_vox, truth.radii_vox, heights, strict=True):
        depth = radius - np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
        data = np.maximum(data, height / (1 + np.exp(-3 * depth)))
    found = propose(Probability(data.astype(np.float32), GRID), GRID, ProposalSettings(), threshold=0.5)
    score = match(found, truth, counted=whole(truth))
    assert score.fp == score.fn == 0 and score.median_centre_error_nm < 0.5
    expected = np.choose(np.searchsorted([0.2, 0.5], heights[score.pairs[:, 1]]), [0.25, 0.5, 1.0])
    np.testing.assert_array_equal(found.features["mask_share"][score.pairs[:, 0]], expected)
    outside = found.features["mask_outside"]
    assert np.all(outside < 0.5 * found.scores) and np.all(outside > 0.02)


def test_what_is_left_round_a_clear_vesicle_is_no_faint_one(rng: np.random.Generator) -> None:
    """A blurred mask has a wide faint rim; a crowd of them leaves gaps of middling probability."""
    truth = crowd(rng, GRID, rng.uniform(14, 26, 20), touching=0.9)
    soft = spoil(rng, truth, blur_nm=6.0, noise=1.0)
    found = propose(soft, GRID, ProposalSettings(), threshold=0.5)
    assert match(found, truth, counted=whole(truth)).fp <= 1
