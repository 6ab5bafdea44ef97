"""Training: it learns, and goes on after a stop exactly where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepvesicle.network.training import (
    TrainingSettings,
    bce_dice_loss,
    calibrate_threshold,
    checkpoint_path,
    soft_dice,
    train,
)
from deepvesicle.network.unet import UNetShape

TINY = TrainingSettings(
    shape=UNetShape(levels=1, filters=4), patch_vox=24, batch=2, steps=24, save_every=8, validation_volumes=1, pool=12
)


def test_loss_and_dice_at_known_values() -> None:
    truth = np.array([1, 1, 0, 0], np.float32)
    assert float(soft_dice(truth, truth)) == pytest.approx(1.0)
    assert float(soft_dice(truth, np.array([1, 0, 0, 0], np.float32))) == pytest.approx((2 * 1 + 1) / (2 + 1 + 1))
    assert float(bce_dice_loss(truth, truth)) == pytest.approx(0.0, abs=1e-4)
    half = np.full(4, 0.5, np.float32)
    assert float(bce_dice_loss(truth, half)) == pytest.approx(np.log(2) + 1 - (2 + 1) / (2 + 1 + 1), rel=1e-4)


def test_rate_rises_and_falls() -> None:
    settings = TrainingSettings(steps=1000, learning_rate=1e-3)
    rates = [settings.rate(step) for step in range(0, 1001, 50)]
    assert rates[0] < rates[3] and max(rates) <= 1e-3 and 0 < rates[-1] < 1e-5


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
