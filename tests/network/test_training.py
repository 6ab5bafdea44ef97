"""Training: it learns, and goes on after a stop exactly where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepvesicle.errors import NetworkError
from deepvesicle.network.training import (
    LOSSES,
    TrainingSettings,
    bce_dice_loss,
    bce_loss,
    bce_tversky_loss,
    calibrate_threshold,
    checkpoint_path,
    focal_loss,
    soft_dice,
    train,
)
from deepvesicle.network.unet import UNetShape, build_unet

TINY = TrainingSettings(
    shape=UNetShape(levels=1, filters=4),
    patch_vox=24,
    batch=2,
    steps=24,
    learning_rate=0.1,  # reached after 200 steps, so 24 of them are seen to help
    save_every=8,
    validation_volumes=1,
    pool=12,
)


def test_loss_and_dice_at_known_values() -> None:
    truth = np.array([1, 1, 0, 0], np.float32)
    assert float(soft_dice(truth, truth)) == pytest.approx(1.0)
    assert float(soft_dice(truth, np.array([1, 0, 0, 0], np.float32))) == pytest.approx((2 * 1 + 1) / (2 + 1 + 1))
    assert float(bce_dice_loss(truth, truth)) == pytest.approx(0.0, abs=1e-4)
    half = np.full(4, 0.5, np.float32)
    assert float(bce_dice_loss(truth, half)) == pytest.approx(np.log(2) + 1 - (2 + 1) / (2 + 1 + 1), rel=1e-4)


def test_the_other_losses_at_known_values() -> None:
    truth, half = np.array([1, 1, 0, 0], np.float32), np.full(4, 0.5, np.float32)
    assert float(bce_loss(truth, half)) == pytest.approx(np.log(2), rel=1e-4)
    # hits 1, missed 1, false 1; one voxel is added to both sides
    assert float(bce_tversky_loss(truth, half)) == pytest.approx(np.log(2) + 1 - 2 / (1 + 0.7 + 0.3 + 1), rel=1e-4)
    assert float(focal_loss(truth, half)) == pytest.approx(3 * 0.25 * np.log(2), rel=1e-4)
    missed, false = np.array([0.5, 1, 0, 0], np.float32), np.array([1, 1, 0.5, 0], np.float32)
    assert float(bce_tversky_loss(truth, missed)) > float(bce_tversky_loss(truth, false))
    # every loss is least where all is right
    for loss in LOSSES.values():
        assert float(loss(truth, truth)) == pytest.approx(0, abs=1e-4) and float(loss(truth, 1 - truth)) > 1


def test_rate_rises_stays_and_falls() -> None:
    settings = TrainingSettings(steps=1000, learning_rate=1e-3, fall=0.4)
    rates = [settings.rate(step) for step in range(0, 1001, 50)]
    assert rates[0] < rates[3] and max(rates) <= 1e-3 and 0 < rates[-1] < 1e-5
    assert rates[4:13] == pytest.approx([1e-3] * 9) and rates[16] == pytest.approx(0.5e-3)


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    shape = TINY.shape
    given = build_unet(shape).get_weights()
    still = TrainingSettings(**{**vars(TINY), "steps": 1, "learning_rate": 0.0})
    model, _ = train(still, tmp_path, initial=given)
    moving = ("moving_mean", "moving_variance")  # batch norm's own means follow the data
    for variable, old, new in zip(model.variables, given, model.get_weights(), strict=True):
        assert variable.name in moving or np.array_equal(old, new)


def test_training_stops_resumes_and_learns(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    train(TINY, tmp_path, max_minutes=0.0, report=rows.append)  # stopped after its first step
    assert rows[-1]["step"] == 1 and checkpoint_path(tmp_path).exists()
    model, history = train(TINY, tmp_path, resume=True, report=rows.append)
    assert [row["step"] for row in history] == [1, 8, 16, 24]
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(0 <= row["validation_dice"] <= 1 for row in history)
    threshold, dice = calibrate_threshold(model, TINY)
    assert 0.2 <= threshold <= 0.8 and 0 <= dice <= 1


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    given = [np.full_like(w, np.nan) for w in build_unet(TINY.shape).get_weights()]
    with pytest.raises(NetworkError, match="diverged: its loss at step 1 is nan.*--learning-rate"):
        train(TINY, tmp_path, initial=given)
    assert not checkpoint_path(tmp_path).exists()
