"""Closed shells are told from sheets, tubules, granules and beads in the tomogram alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepvesicle import calibration
from deepvesicle.fitting import looks
from deepvesicle.fitting.logistic import Logistic
from deepvesicle.fitting.looks import MIN_CLEAR, PATCH_FEATURES, Looks, default_looks, looks_table, patch_features
from deepvesicle.fitting.outliers import judge
from deepvesicle.fitting.refine import refine
from deepvesicle.fitting.shell_fit import ShellFit
from deepvesicle.grid import Grid
from deepvesicle.phantom.imaging import Imaging, image_scene
from deepvesicle.phantom.scene import LOOKALIKES, placed_scene
from deepvesicle.settings import OutlierSettings, ProposalSettings, RefinementSettings
from deepvesicle.spheres import mirrored_directions
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((100, 400, 500), 2.0)
PATCHES = mirrored_directions(96)


def shell_fit(strengths, *, seen=None, residuals=None) -> ShellFit:
    """A fit of a sphere of 20 nm whose membrane has these depths, with equal information in all patches seen."""
    seen = np.ones(len(PATCHES), dtype=bool) if seen is None else seen
    return ShellFit(
        displacement_nm=np.zeros(3),
        radius_nm=20.0,
        amplitude=float(np.mean(strengths[seen])),
        significance=20.0,
        covariance_nm2=np.eye(4),
        patch_weights=seen.astype(float),
        residuals_nm=np.zeros(len(PATCHES)) if residuals is None else residuals,
        coverage=1.0,
        patches=PATCHES,
        strengths=np.where(seen, strengths, 0.0),
        information=np.where(seen, 25.0, 0.0),
    )


def noisy(values, rng):
    return np.asarray(values, dtype=float) + rng.normal(0, 0.2, len(PATCHES))


def test_a_closed_shell_has_no_weak_side(rng):
    found = patch_features(shell_fit(noisy(np.ones(96), rng)))
    assert set(found) == set(PATCH_FEATURES)
    assert found["weakest_side"] > 0.8 and found["weakest_side_z"] > 5
    assert found["membrane_share"] > 0.97 and found["membrane_quadrupole"] < 0.3


def test_a_sheet_is_there_on_one_side(rng):
    found = patch_features(shell_fit(noisy(PATCHES[:, 2] > 0.4, rng)))
    assert found["weakest_side"] < 0.2 and found["weakest_side_z"] < 2.5 and found["membrane_share"] < 0.75


def test_a_tubule_is_there_all_round_but_at_its_ends(rng):
    found = patch_features(shell_fit(noisy(np.abs(PATCHES[:, 1]) < 0.45, rng)))
    assert found["weakest_side"] < 0.55 and found["membrane_quadrupole"] > 0.8


def test_directions_that_are_not_seen_do_not_count(rng):
    """Caps in the missing wedge, and the side of a cut vesicle that lies outside."""
    seen = (np.abs(PATCHES[:, 0]) < 0.7) & (PATCHES[:, 1] < 0.5)
    found = patch_features(shell_fit(noisy(np.ones(96), rng), seen=seen))
    assert found["weakest_side"] > 0.8 and found["membrane_share"] > 0.97


def test_next_to_nothing_seen_is_not_known(rng):
    seen = np.arange(96) < 8
    found = patch_features(shell_fit(noisy(np.ones(96), rng), seen=seen))
    assert np.isnan(found["weakest_side"]) and np.isnan(found["membrane_share"]) and np.isfinite(found["unevenness"])


def test_unevenness_is_relative_to_the_radius(rng):
    residuals = rng.normal(0, 2.0, 96)
    found = patch_features(shell_fit(np.ones(96), residuals=residuals))
    assert found["unevenness"] == pytest.approx(np.sqrt(np.mean(residuals**2)) / 20)


def population(rng: np.random.Generator, count: int, **features: float) -> Vesicles:
    """Vesicles with the features of a fit; those given replace the first row's."""
    places = np.stack(np.unravel_index(np.arange(count), (3, 12, 15)), axis=1) * 30.0 + 20
    columns = {
        "membrane_z": rng.normal(16, 2, count),
        "membrane_strength": rng.normal(1.0, 0.08, count),
        "weakest_side": rng.normal(0.75, 0.05, count),
        "weakest_side_z": rng.normal(4.5, 0.7, count),
        "membrane_share": rng.normal(0.96, 0.015, count),
        "membrane_quadrupole": np.exp(rng.normal(-0.9, 0.2, count)),
        "unevenness": np.exp(rng.normal(-3.3, 0.15, count)),
        "relative_depth": rng.normal(1.0, 0.07, count),
        "profile_correlation": np.tanh(rng.normal(1.9, 0.2, count)),
        "membrane_density": rng.normal(-1.0, 0.08, count),
        "lumen_density": rng.normal(0.05, 0.05, count),
        "contrast": rng.normal(0.9, 0.1, count),
        "fit_residual_nm": np.exp(rng.normal(-0.3, 0.15, count)),
        "inside_fraction": np.ones(count),
        "fit_failed": np.zeros(count),
    }
    for name, value in features.items():
        columns[name][0] = value
    return Vesicles.from_spheres(
        GRID,
        places,
        rng.normal(10, 0.8, count),
        thickness_vox=rng.normal(2.0, 0.05, count),
        sigma_radii_vox=np.full(count, 0.05),
        status=(Status.REFINED,) * count,
        features=columns,
    )


SHEET = {
    "membrane_z": 4.5,
    "weakest_side": -0.1,
    "weakest_side_z": -0.5,
    "membrane_share": 0.68,
    "membrane_quadrupole": 2.5,
    "unevenness": 0.12,
    "relative_depth": 0.3,
    "membrane_strength": 0.4,
    "profile_correlation": 0.3,
    "membrane_density": -0.2,
}


@pytest.mark.parametrize("count", [3, 7, 12, 60])
def test_a_sheet_among_vesicles_is_rejected_without_any_score(count, rng):
    table = population(rng, count, **SHEET)
    judged = judge(table, OutlierSettings(), ProposalSettings())
    assert judged.status[0] is Status.REJECTED and "does not look like a vesicle" in judged.reasons[0]
    assert judged.accepted[1:].all() and judged.has_status(Status.DOUBTFUL).sum() <= 1 + count // 30
    assert judged.features["looks"][0] < 0.5 and judged.features["looks"][1:].min() > 0.5
    # a rejected row keeps everything
    assert judged.features["weakest_side"][0] == -0.1 and judged.radii_vox[0] == table.radii_vox[0]


def test_manual_rows_and_confident_scores_stay(rng):
    table = population(rng, 30, **SHEET)
    manual = table.replace(status=(Status.MANUAL,) + (Status.REFINED,) * 29)
    assert judge(manual, OutlierSettings(), ProposalSettings()).status[0] is Status.MANUAL
    scored = table.replace(scores=np.full(30, 0.95))
    assert judge(scored, OutlierSettings(), ProposalSettings()).status[0] is not Status.REJECTED
    unsure = table.replace(scores=np.full(30, 0.7))
    assert judge(unsure, OutlierSettings(), ProposalSettings()).status[0] is Status.REJECTED
    # a calibrated score has the last word where it is sure; where it hesitates, looks that are hopeless decide
    for score, rejected in ((0.95, False), (0.8, True)):
        calibrated = table.replace(scores=np.full(30, score)).with_features(mask_score=np.full(30, score))
        assert ("look" in judge(calibrated, OutlierSettings(), ProposalSettings()).reasons[0]) is rejected


def test_where_nothing_looks_like_a_vesicle_nothing_is_thrown_away(rng):
    table = population(rng, 12)
    table = table.with_features(**{k: np.full(12, v) for k, v in SHEET.items()})
    judged = judge(table, OutlierSettings(), ProposalSettings())
    assert judged.has_status(Status.DOUBTFUL).all()
    assert all("does not look like a vesicle" in reason for reason in judged.reasons)


def test_in_a_tomogram_in_which_most_fits_fail_looks_reject_nothing(rng):
    failed = np.arange(40) >= 15
    table = population(rng, 40, **SHEET).with_features(fit_failed=failed.astype(float))
    judged = judge(table, OutlierSettings(), ProposalSettings())
    assert judged.status[0] is Status.DOUBTFUL and judged.accepted.all()


def test_only_vesicles(rng):
    for count in range(1, 21):
        judged = judge(population(rng, count), OutlierSettings(), ProposalSettings())
        assert judged.accepted.all()


def test_unknown_features_judge_nothing(rng):
    bare = Vesicles.from_spheres(GRID, [[30, 40, 50], [30, 80, 90]], [10.0, 11.0])
    looked, words = default_looks().judge(bare)
    assert np.isnan(looked).all() and len(words) == 2
    assert judge(bare, OutlierSettings(), ProposalSettings()).status == (Status.PROPOSED,) * 2
    table = population(rng, 20)
    names = list(table.features)
    for row, name in enumerate(names):
        values = table.features[name].copy()
        values[row] = np.nan
        table = table.with_features(**{name: values})
    judged = judge(table, OutlierSettings(), ProposalSettings())
    assert judged.accepted.all()
    assert np.isfinite(default_looks().judge(Vesicles.empty(GRID))[0]).all()


def test_comparing_needs_enough_clear_vesicles(rng):
    few, enough = (looks_table(population(rng, n)) for n in (MIN_CLEAR - 1, MIN_CLEAR))
    assert not few[1] and enough[1]
    relative = -len(looks._RELATIVE)
    assert np.all(few[0][:, relative:] == 0) and np.any(enough[0][:, relative:] != 0)


def test_traits_do_not_depend_on_the_voxel_size_nor_on_the_grey_scale(rng):
    table = population(rng, 20)
    finer = Vesicles.from_spheres(
        Grid((200, 800, 1000), 1.0), 2 * table.centres_vox, 2 * table.radii_vox, features=dict(table.features)
    ).with_features(membrane_strength=7 * table.features["membrane_strength"])
    np.testing.assert_allclose(looks_table(finer)[0], looks_table(table)[0], atol=1e-9)


def test_what_is_learned_loses_as_many_as_were_allowed_and_survives_json(rng):
    tables, trues = [], []
    for _ in range(16):
        true = rng.random(120) < 0.85
        tables.append(
            np.where(true, 1.0, -1.5)[:, None] + rng.normal(0, 1, (120, len(looks_table(population(rng, 1))[0][0])))
        )
        trues.append(true)
    learned = Looks.learn(tables, [True] * 15 + [False], trues, 0.01)
    for rule in (learned.among, learned.alone):
        odds = rule.log_odds(np.concatenate(tables)[:, : len(rule.traits)])
        lost = np.mean(odds[np.concatenate(trues)] < 0)
        assert 0.002 < lost < 0.02
        again = type(rule).from_json(json.loads(json.dumps(rule.to_json())))
        np.testing.assert_allclose(again.weights, rule.weights, atol=1e-5)


def test_a_constant_trait_tells_nothing(rng):
    true = rng.random(200) < 0.5
    rule = Logistic.learn(np.column_stack([true + rng.normal(0, 0.5, 200), np.full(200, 3.0)]), true)
    assert rule.weights[0] > 1 and abs(rule.weights[1]) < 1e-6


@pytest.fixture(scope="module")
def scene() -> tuple[Vesicles, int, list[str]]:
    """Fits to 30 vesicles and 8 look-alikes, from starts that are off."""
    rng = np.random.default_rng(20)
    voxel, size = 2.2, np.array([130.0, 270.0, 330.0])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (2, 4, 5)), indexing="ij"), axis=-1).reshape(-1, 3)
    places = (index + 0.5) * (size / (2, 4, 5))
    kinds = list(LOOKALIKES) * 2
    false = rng.permutation(len(places))[: len(kinds)]
    vesicles = np.setdiff1d(np.arange(len(places)), false)
    radii = rng.uniform(16, 24, len(vesicles))
    shape = tuple(int(n) for n in np.round(size / voxel))
    scene = placed_scene(
        rng, shape, voxel, places[vesicles], radii, lookalikes=list(zip(kinds, places[false], strict=True))
    )
    tomogram, truth = image_scene(scene, Imaging(contrast=1.0), rng)
    centres = np.concatenate([places[vesicles], places[false]]) + rng.normal(0, 2.5, (len(places), 3))
    sizes = np.concatenate([radii, rng.uniform(16, 24, len(kinds))]) * rng.uniform(0.85, 1.15, len(places))
    starts = Vesicles.from_spheres(tomogram.grid, centres / voxel, sizes / voxel)
    fitted = refine(tomogram, starts, RefinementSettings())
    return judge(fitted, OutlierSettings(), ProposalSettings()), len(truth), kinds


def test_lookalikes_given_as_start_spheres_are_rejected(scene):
    judged, true, _ = scene
    assert judged.accepted[:true].all()
    assert (~judged.accepted[true:]).mean() >= 0.75
    assert not any(
        s is Status.REFINED and look < 0.5 for s, look in zip(judged.status, judged.features["looks"], strict=True)
    )


def test_rejected_lookalikes_keep_row_reason_and_features(scene):
    judged, true, kinds = scene
    assert len(judged) == true + len(kinds)
    for row in np.flatnonzero(judged.has_status(Status.REJECTED)):
        assert judged.reasons[row]
        assert np.isfinite([judged.features[name][row] for name in ("membrane_z", "membrane_share", "looks")]).all()


def test_a_few_of_them_alone_are_judged_too(scene):
    judged, true, _ = scene
    for rows in ([0], [0, 1, true], [2, 5, 9, true + 1, true + 2]):
        few = judged.select(rows)
        few = few.replace(status=(Status.REFINED,) * len(rows), reasons=("",) * len(rows))
        again = judge(few, OutlierSettings(), ProposalSettings())
        assert again.accepted[: sum(r < true for r in rows)].all()


@pytest.mark.parametrize(("gap", "border"), [(0.0, False), (8.0, True)])
def test_clumps_that_looks_are_learned_on(gap, border, rng):
    centres, radii = calibration._clump(rng, 40, (14.0, 26.0), gap, border)
    size = calibration._SIZE_NM
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) - radii[:, None] - radii[None]
    np.fill_diagonal(apart, np.inf)
    assert len(radii) > 30 and apart.min() > gap - 1e-5
    assert np.all(apart.min(axis=1) < 1.5 * gap + 1e-5)
    least = 0.0 if border else radii[1:, None]
    assert np.all((centres[1:] > least) & (centres[1:] < size - least))
    cut = ((centres[1:] < radii[1:, None]) | (centres[1:] > size - radii[1:, None])).sum(axis=1)
    assert cut.max() == int(border)
