"""Calibrated scores: learned probabilities are probabilities, and survive the model's config."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.fitting.evidence import MASK_SCORE, TRAITS, Evidence, Promise, evidence_table, mask_table
from deepvesicle.fitting.outliers import judge
from deepvesicle.grid import Grid
from deepvesicle.settings import OutlierSettings, ProposalSettings
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((400, 500, 600), 2.0)


def _population(rng: np.random.Generator, count: int) -> tuple[Vesicles, np.ndarray]:
    """Spheres of which some are vesicles: these tend to have high scores and clear membranes."""
    true = rng.random(count) < 0.6
    score = np.clip(np.where(true, 0.85, 0.6) + rng.normal(0, 0.1, count), 0.05, 0.98)
    depth = np.exp(np.where(true, 2.8, 1.8) + rng.normal(0, 0.5, count))
    centres = np.stack(np.unravel_index(np.arange(count), (10, 30, 30)), axis=1) * 15.0 + 20
    vesicles = Vesicles.from_spheres(
        GRID,
        centres,
        np.full(count, 7.0),
        scores=score,
        status=(Status.REFINED,) * count,
        features={
            "membrane_z": depth,
            "mask_support": np.where(true, 0.85, 0.8) + rng.normal(0, 0.08, count),
            "mask_fill": np.full(count, 0.9),
            "mask_height": np.ones(count),
            "contrast": np.where(true, 1.0, 0.6) + rng.normal(0, 0.3, count),
            "profile_correlation": np.full(count, 0.9),
            "fit_residual_nm": np.full(count, 0.5),
            "fit_failed": np.zeros(count),
            "inside_fraction": np.ones(count),
        },
    )
    return vesicles, true


def test_learned_probabilities_are_calibrated_on_unseen_spheres(rng: np.random.Generator) -> None:
    vesicles, true = _population(rng, 3000)
    evidence = Evidence.learn(evidence_table(vesicles), true)
    fresh, fresh_true = _population(rng, 3000)
    p = evidence.probability(fresh)
    assert np.mean((p > 0.5) == fresh_true) > 0.85
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        chosen = (p >= low) & (p <= high)
        assert chosen.sum() > 20
        sigma = 0.5 / np.sqrt(chosen.sum())
        assert fresh_true[chosen].mean() == pytest.approx(p[chosen].mean(), abs=3 * sigma + 0.02)


def test_more_evidence_means_more_certainty(rng: np.random.Generator) -> None:
    vesicles, true = _population(rng, 2000)
    evidence = Evidence.learn(evidence_table(vesicles), true)
    pair, _ = _population(rng, 400)
    deeper = pair.with_features(membrane_z=pair.features["membrane_z"] * np.where(np.arange(400) == 7, 3.0, 1.0))
    assert evidence.probability(deeper)[7] > evidence.probability(pair)[7]


def test_config_keeps_the_evidence(rng: np.random.Generator) -> None:
    vesicles, true = _population(rng, 500)
    evidence = Evidence.learn(evidence_table(vesicles), true)
    again = Evidence.from_json(json.loads(json.dumps(evidence.to_json())))
    np.testing.assert_allclose(again.probability(vesicles), evidence.probability(vesicles), atol=2e-3)
    content = evidence.to_json()
    del content["traits"][TRAITS[0]]
    with pytest.raises(KeyError):
        Evidence.from_json(content)


def test_missing_features_and_empty_tables_are_safe(rng: np.random.Generator) -> None:
    vesicles, true = _population(rng, 500)
    evidence = Evidence.learn(evidence_table(vesicles), true)
    bare = Vesicles.from_spheres(GRID, [[50, 60, 70], [90, 100, 110]], [7, 8], scores=[0.9, np.nan])
    p = evidence.probability(bare)
    assert np.isfinite(p[0]) and np.isnan(p[1])  # a sphere that the network never saw has no score
    assert len(evidence.probability(Vesicles.empty(GRID))) == 0


def test_probable_errors_are_rejected_and_doubts_are_marked() -> None:
    spheres = Vesicles.from_spheres(
        GRID,
        [[50, 60, 70], [90, 100, 110], [150, 160, 170], [200, 210, 220]],
        [8.0, 8.0, 8.0, 8.0],
        scores=[0.1, 0.65, 0.99, 0.1],
        status=(Status.REFINED, Status.REFINED, Status.REFINED, Status.MANUAL),
        features={MASK_SCORE: [0.7, 0.8, 0.9, 0.6]},
    )
    judged = judge(spheres, OutlierSettings(), ProposalSettings())
    assert judged.status == (Status.REJECTED, Status.DOUBTFUL, Status.REFINED, Status.MANUAL)
    assert "0.10" in judged.reasons[0] and "0.65" in judged.reasons[1] and judged.reasons[2] == ""
    plain = spheres.replace(features={})
    assert judge(plain, OutlierSettings(), ProposalSettings()).status[0] is not Status.REJECTED


def test_faint_proposals_without_promise_are_not_fitted(rng: np.random.Generator) -> None:
    vesicles, true = _population(rng, 3000)
    faint = rng.random(3000) < 0.7
    vesicles = vesicles.with_features(mask_share=np.where(faint, 0.5, 1.0))
    promise = Promise.learn_cut(mask_table(vesicles), true, faint, lost=0.02)
    worth = promise.worth_a_fit(vesicles)
    assert worth[~faint].all()  # what reaches the threshold is always fitted
    assert np.mean(~worth[true]) == pytest.approx(0.02, abs=0.002)
    assert np.mean(~worth[~true & faint]) > 0.2
    evidence = replace(Evidence.learn(evidence_table(vesicles), true), promise=promise)
    again = Evidence.from_json(json.loads(json.dumps(evidence.to_json())))
    assert len(again.worth_a_fit(vesicles)) == pytest.approx(worth.sum(), abs=3)
    assert len(replace(evidence, promise=None).worth_a_fit(vesicles)) == 3000


def test_a_promise_learned_without_faint_ones_keeps_all(rng: np.random.Generator) -> None:
    vesicles, true = _population(rng, 300)
    promise = Promise.learn_cut(mask_table(vesicles), true, np.zeros(300, dtype=bool), lost=0.02)
    assert json.loads(json.dumps(promise.to_json()))["least"] is None
    again = Promise.from_json(promise.to_json())
    assert again.worth_a_fit(vesicles.with_features(mask_share=np.full(300, 0.25))).all()


def test_a_tomogram_in_which_fits_confirm_nothing_is_suspicious(rng: np.random.Generator) -> None:
    vesicles, _ = _population(rng, 40)
    column = TRAITS.index("confirmed")
    all_fitted = evidence_table(vesicles)[:, column]
    none_fitted = evidence_table(vesicles.with_features(fit_failed=np.ones(40)))[:, column]
    np.testing.assert_allclose(np.exp([all_fitted[0], none_fitted[0]]), [40.5 / 41, 0.5 / 41])
    # faint proposals, which may well be nothing, do not count
    faint = vesicles.with_features(fit_failed=np.arange(40) >= 10, mask_share=np.where(np.arange(40) < 10, 1.0, 0.5))
    np.testing.assert_allclose(np.exp(evidence_table(faint)[:, column]), 10.5 / 11)


def test_half_spheres_at_a_face_need_a_fit_or_a_high_score() -> None:
    spheres = Vesicles.from_spheres(
        GRID,
        [[50.0, 60 + 40 * i, 70] for i in range(4)],
        [10.0] * 4,
        scores=[0.75, 0.95, 0.75, 0.75],
        status=(Status.REFINED,) * 4,
        features={MASK_SCORE: [0.7] * 4, "fit_failed": [1.0, 1, 0, 1], "inside_fraction": [0.5, 0.5, 0.5, 1.0]},
    )
    judged = judge(spheres, OutlierSettings(), ProposalSettings())
    assert [s is Status.REJECTED for s in judged.status] == [True, False, False, False]
    assert "cut by a face" in judged.reasons[0]
