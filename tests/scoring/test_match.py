"""Scores of tables whose agreement is known."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from deepvesicle.grid import Grid, Labels
from deepvesicle.scoring.match import dice, match, match_points
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((60, 80, 110), 2.0, (4.0, -6.0, 10.0))
TRUTH = Vesicles.from_spheres(GRID, [[10, 20, 30], [30, 40, 60], [40, 70, 90], [20, 60, 10]], [10, 8, 12, 9])


def test_a_table_agrees_with_itself() -> None:
    score = match(TRUTH, TRUTH)
    assert (score.tp, score.fp, score.fn, score.f1) == (4, 0, 0, 1.0)
    assert score.delta_d == score.delta_c_nm == score.radius_bias_nm == 0
    assert score.pairs.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_known_errors_are_measured_in_nm() -> None:
    moved = TRUTH.replace(centres_vox=TRUTH.centres_vox + [0, 3, 4], radii_vox=TRUTH.radii_vox * 0.8)
    score = match(moved, TRUTH)
    assert score.tp == 4
    assert score.delta_c_nm == pytest.approx(10.0) and score.median_centre_error_nm == pytest.approx(10.0)
    assert score.delta_d == pytest.approx(0.2)
    assert score.radius_bias_nm == pytest.approx(-0.2 * TRUTH.radii_nm.mean())
    assert score.radius_sd_nm == pytest.approx(0.2 * TRUTH.radii_nm.std())


def test_grids_of_other_voxel_size_and_origin_compare_in_space() -> None:
    other = GRID.rescaled(3.3)
    same = Vesicles.from_spheres(other, GRID.map_points(TRUTH.centres_vox, other), other.length_to_vox(TRUTH.radii_nm))
    score = match(same, TRUTH)
    assert score.tp == 4 and score.delta_c_nm == pytest.approx(0, abs=1e-9)
    assert score.delta_d == pytest.approx(0, abs=1e-12)


def test_wrong_and_missed_ones_are_named() -> None:
    predicted = Vesicles.from_spheres(GRID, [[50, 5, 5], [30, 41, 60], [10, 22, 30], [10, 18, 30]], [8, 8, 10, 10])
    score = match(predicted, TRUTH)
    assert (score.tp, score.fp, score.fn) == (2, 2, 2)
    assert score.precision == 0.5 and score.recall == 0.5 and score.f1 == 0.5
    assert score.fn_rows.tolist() == [2, 3] and 0 in score.fp_rows


def test_most_matches_go_before_short_distances() -> None:
    # Row 0 is nearest to the only reference that row 1 can have: it must take its second choice.
    truth = Vesicles.from_spheres(GRID, [[30, 40, 40], [30, 40, 52]], [9, 9])
    predicted = Vesicles.from_spheres(GRID, [[30, 40, 45], [30, 40, 32]], [9, 9])
    assert match(predicted, truth).pairs.tolist() == [[0, 1], [1, 0]]


def test_matching_equals_trying_everything(rng: np.random.Generator) -> None:
    for _ in range(20):
        truth = Vesicles.from_spheres(GRID, rng.uniform(20, 45, (5, 3)), rng.uniform(6, 14, 5))
        predicted = Vesicles.from_spheres(GRID, rng.uniform(20, 45, (4, 3)), rng.uniform(6, 14, 4))
        d = np.linalg.norm(predicted.centres_vox[:, None] - truth.centres_vox[None], axis=2)
        inside = d <= truth.radii_vox
        best = (0, 0.0)
        for order in itertools.permutations(range(5), 4):
            used = [(i, j) for i, j in enumerate(order) if inside[i, j]]
            best = max(best, (len(used), -sum(float(d[p]) for p in used)))
        score = match(predicted, truth)
        assert score.tp == best[0]
        assert d[score.pairs[:, 0], score.pairs[:, 1]].sum() == pytest.approx(-best[1])


def test_a_cut_reference_neither_helps_nor_hurts() -> None:
    counted = np.array([True, True, False, True])
    with_it, without = TRUTH, TRUTH.select([0, 1, 3])
    for predicted in (with_it, without):
        score = match(predicted, TRUTH, counted=counted)
        assert (score.tp, score.fp, score.fn) == (3, 0, 0)
    assert match(with_it, TRUTH, counted=counted).ignored_rows.tolist() == [2]


def test_rejected_rows_do_not_take_part() -> None:
    predicted = TRUTH.with_status([True, False, False, False], Status.REJECTED, "far off")
    assert (match(predicted, TRUTH).tp, match(predicted, TRUTH).fn, match(predicted, TRUTH).fp) == (3, 1, 0)
    assert match(TRUTH, predicted).fp_rows.tolist() == [0]


def test_only_the_analysis_region_counts() -> None:
    region = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    region[:, :50] = 1
    predicted = Vesicles.from_spheres(GRID, [[10, 20, 30], [50, 75, 20], [50, 10, 90]], [10, 8, 8])
    score = match(predicted, TRUTH, region=Labels(region, GRID))
    assert (score.tp, score.fp, score.fn) == (1, 1, 1)
    assert score.ignored_rows.tolist() == [1]


@pytest.mark.parametrize(("n", "m"), [(0, 0), (4, 0), (0, 4)])
def test_empty_tables(n: int, m: int) -> None:
    score = match(TRUTH.select(np.arange(n)), TRUTH.select(np.arange(m)))
    assert (score.tp, score.fp, score.fn) == (0, n, m)
    assert np.isnan(score.delta_d) and score.text()
    stored = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert stored["delta_c_nm"] is None and stored["fp"] == n


def test_a_wrong_number_of_flags_is_refused() -> None:
    with pytest.raises(ValueError, match="counted"):
        match(TRUTH, TRUTH, counted=[True])


def test_text_says_what_was_found() -> None:
    text = match(TRUTH.select([0, 1, 2]), TRUTH).text()
    assert "3 of 4 vesicles found, 0 wrong" in text and "recall 0.750" in text


def test_dice_of_known_overlaps(rng: np.random.Generator) -> None:
    a = np.zeros((7, 9, 11))
    b = np.zeros_like(a)
    a[2:5], b[3:6] = 1, 1
    assert dice(a, b) == pytest.approx(2 / 3)
    assert dice(a, a) == 1 and dice(a, 1 - a) == 0 and dice(0 * a, 0 * a) == 1
    p = rng.random(a.shape)
    assert dice(p, a.astype(bool)) == pytest.approx(2 * (p * a).sum() / ((p**2).sum() + a.sum()))
    with pytest.raises(ValueError, match="shapes"):
        dice(a, a[1:])


def test_dice_of_small_integers_does_not_overflow() -> None:
    labels = np.full((3, 40, 50), 200, dtype=np.uint8)
    assert dice(labels, labels) == 1


def test_points_are_matched_once_and_not_too_far() -> None:
    pairs = match_points([[0, 0, 0], [0, 0, 1], [9, 9, 9]], [[0, 0, 0.9], [0, 0, 5], [9, 9, 20]], max_distance=4.5)
    assert pairs.tolist() == [[0, 0], [1, 1]]
    assert match_points([], [[1, 2, 3]], 5.0).shape == (0, 2)
