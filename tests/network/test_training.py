"""Training: it learns, and goes on after a stop, or a kill, exactly where it was."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.errors import NetworkError, UsageError
from deepvesicle.network.checkpoint import checkpoint_path, steps_done
from deepvesicle.network.dataset import add_volume, read_dataset
from deepvesicle.network.losses import LOSSES, bce_dice_loss, bce_loss, bce_tversky_loss, focal_loss, soft_dice
from deepvesicle.network.parts import split
from deepvesicle.network.training import TrainingData, TrainingSettings, calibrate_threshold, train
from deepvesicle.network.unet import UNetShape, build_unet
from tests.network.datasets import drawn_dataset, drawn_tomogram
from tests.network.test_dataset import LeftOf

TINY = TrainingSettings(
    shape=UNetShape(levels=1, filters=4),
    patch_vox=24,
    batch=2,
    steps=24,
    learning_rate=0.1,  # reached after 200 steps, so 24 of them are seen to help
    save_every=8,
    validation_volumes=1,
    pool=12,
    phantom_vox=48,
)


def drawn_data(folder: Path) -> TrainingData:
    """A dataset of two small tomograms, split."""
    drawn_dataset(folder, ("one", "two"))
    return TrainingData(*split([read_dataset(folder)], TINY.patch_vox))


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
    still = replace(TINY, steps=1, learning_rate=0.0)
    model, _ = train(still, tmp_path, initial=given)
    moving = ("moving_mean", "moving_variance")  # batch norm's own means follow the data
    for variable, old, new in zip(model.variables, given, model.get_weights(), strict=True):
        assert variable.name in moving or np.array_equal(old, new)


def test_training_stops_resumes_and_learns(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    train(TINY, tmp_path, max_minutes=0.0, report=rows.append)  # stopped after its first step
    assert not rows and checkpoint_path(tmp_path).exists()
    model, history = train(TINY, tmp_path, resume=True, report=rows.append)
    assert [row["step"] for row in history] == [8, 16, 24] and rows == history
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(0 <= row["validation_dice"] <= 1 for row in history)
    threshold, dice = calibrate_threshold(model, TINY)
    assert 0.2 <= threshold <= 0.8 and 0 <= dice <= 1


def test_a_network_learns_from_a_dataset(tmp_path: Path) -> None:
    data = drawn_data(tmp_path / "set")
    settings = replace(TINY, steps=60, save_every=20, validation_patches=4)
    model, rows = train(settings, tmp_path / "run", data=data)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"] and rows[-1]["validation_dice"] > 0.5
    # the best weights of all validations are kept
    threshold, dice = calibrate_threshold(model, settings, data)
    assert dice > 0.6 and 0.2 <= threshold <= 0.8


def test_what_is_not_annotated_teaches_nothing(tmp_path: Path) -> None:
    """The loss is that of the annotated voxels alone, whatever is said of the others."""
    truth, guess = np.zeros((1, 4, 4, 4, 1), np.float32), np.full((1, 4, 4, 4, 1), 0.5, np.float32)
    known = np.zeros_like(truth)
    known[:, :2] = 1
    for loss in LOSSES.values():
        right = np.where(known > 0, guess, 0.9)  # another guess where nobody knows
        assert float(loss(truth, right, known)) == pytest.approx(float(loss(truth, guess, known)), rel=1e-5)
        assert float(loss(truth, right)) > float(loss(truth, guess)) * 1.05
    # the vesicle on the right lies where nothing is annotated, so it makes no difference whether it is drawn
    histories = []
    for name, drawn in (("with", [0, 1, 2, 3, 4]), ("without", [0, 1, 2, 3])):
        for seed, volume in enumerate(("one", "two")):
            tomogram, vesicles = drawn_tomogram(seed)
            region, chosen = LeftOf(160.0), vesicles.select(drawn)
            add_volume(tmp_path / name, volume, tomogram, chosen, region=region, voxel_nm=3.3, source={})
        data = TrainingData(*split([read_dataset(tmp_path / name)], TINY.patch_vox))
        settings = replace(TINY, steps=8, save_every=4, validation_patches=4)
        histories.append(train(settings, tmp_path / f"run {name}", data=data)[1])
    for one, other in zip(*histories, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["validation_dice"] == pytest.approx(other["validation_dice"], rel=1e-3)


def test_first_levels_can_be_frozen(tmp_path: Path) -> None:
    settings = replace(TINY, shape=UNetShape(levels=2, filters=2), steps=8, save_every=8, frozen_levels=1)
    given = build_unet(settings.shape).get_weights()
    model, _ = train(settings, tmp_path, data=drawn_data(tmp_path / "set"), initial=given)
    moved = [not np.allclose(a, b) for a, b in zip(given, model.get_weights(), strict=True)]
    per_convolution = 6  # kernel and bias, and batch norm's gain, offset, mean and variance
    assert not any(moved[: 2 * per_convolution]) and any(moved[2 * per_convolution : 3 * per_convolution])


def test_a_training_ends_when_it_gains_no_more(tmp_path: Path) -> None:
    settings = replace(TINY, steps=200, save_every=2, learning_rate=0.0, patience=2, validation_patches=2)
    _, rows = train(settings, tmp_path / "run", data=drawn_data(tmp_path / "set"))
    best = max(rows, key=lambda row: row["validation_dice"])
    assert len(rows) < 60 and rows[-1]["step"] == best["step"] + 4
    again, same = train(settings, tmp_path / "run", data=drawn_data(tmp_path / "again"), resume=True)
    assert same == rows  # resumed, it is done


def test_initial_weights_that_are_best_are_kept(tmp_path: Path) -> None:
    data = drawn_data(tmp_path / "set")
    settings = replace(TINY, steps=40, save_every=20, validation_patches=4)
    good, rows = train(settings, tmp_path / "first", data=data)
    harmful = replace(settings, steps=8, save_every=4, learning_rate=1.0)
    again, rows = train(harmful, tmp_path / "second", data=data, initial=good.get_weights())
    assert [row["step"] for row in rows] == [0, 4, 8] and np.isnan(rows[0]["loss"])
    best = int(np.argmax([row["validation_dice"] for row in rows]))
    if best == 0:
        for one, other in zip(good.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    else:
        assert rows[best]["validation_dice"] > rows[0]["validation_dice"]
    _, same = train(harmful, tmp_path / "second", data=data, initial=good.get_weights(), resume=True)
    assert [row["step"] for row in same] == [0, 4, 8]


def test_a_training_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    data, asked = drawn_data(tmp_path / "set"), []
    settings = replace(TINY, steps=20, save_every=10, validation_patches=2)

    def after_three() -> bool:
        asked.append(0)
        return len(asked) == 3

    train(settings, tmp_path / "run", data=data, stop=after_three)
    assert steps_done(tmp_path / "run") == 3 and len(asked) == 3
    _, resumed = train(settings, tmp_path / "run", data=data, resume=True)
    _, whole = train(settings, tmp_path / "whole", data=data)
    for one, other in zip(resumed, whole, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_a_threshold_stays_unless_another_one_is_clearly_better(tmp_path: Path) -> None:
    data = drawn_data(tmp_path / "set")
    settings = replace(TINY, steps=60, save_every=20, validation_patches=4)
    model, _ = train(settings, tmp_path / "run", data=data)
    best, dice = calibrate_threshold(model, settings, data)
    assert dice > 0.5
    near = calibrate_threshold(model, settings, data, usual=round(best + 0.003, 3))
    assert near[0] == round(best, 2) and near[1] == pytest.approx(dice, abs=0.01)
    far, better = calibrate_threshold(model, settings, data, usual=1.0)  # nothing is over it
    assert far == best and better == dice


def test_another_training_is_not_resumed(tmp_path: Path) -> None:
    settings = replace(TINY, steps=2, save_every=2, validation_patches=2)
    data = drawn_data(tmp_path / "set")
    train(settings, tmp_path / "run", data=data)
    for other, said in (
        (replace(settings, learning_rate=0.5), "another learning rate; expected 0.1; got 0.5"),
        (replace(settings, seed=5), "another seed"),
    ):
        with pytest.raises(UsageError, match=said):
            train(other, tmp_path / "run", data=data, resume=True)
    with pytest.raises(UsageError, match="begun with other datasets"):
        train(settings, tmp_path / "run", resume=True)
    _, rows = train(replace(settings, steps=4), tmp_path / "run", data=data, resume=True)  # longer is the same one
    assert [row["step"] for row in rows] == [2, 4]
    checkpoint_path(tmp_path / "run").write_bytes(checkpoint_path(tmp_path / "run").read_bytes()[:5000])
    with pytest.raises(NetworkError, match="expected a checkpoint of this version"):
        train(settings, tmp_path / "run", data=data, resume=True)


_KILLED = """
import sys
from pathlib import Path
from dataclasses import replace
from tests.network.test_training import KILLED, TrainingData, read_dataset, split, train
if __name__ == "__main__":
    data = TrainingData(*split([read_dataset(Path(sys.argv[1]))], KILLED.patch_vox))
    train(KILLED, Path(sys.argv[2]), data=data, resume=True, progress=lambda step, steps: print(step, flush=True))
    print("end", flush=True)
"""
KILLED = TrainingSettings(
    shape=UNetShape(levels=1, filters=4),
    voxel_nm=3.3,
    patch_vox=16,
    steps=60,
    learning_rate=0.03,
    save_every=5,
    validation_patches=4,
    pool=4,
    new_phantom_every=4,
    phantom_vox=24,
    phantoms=0.4,
)


def run_until(folder: Path, dataset: Path, last: int) -> bool:
    """Train in a process of its own and kill it after a step; whether it ended before."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", _KILLED, str(dataset), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "end":
                return True
            if int(line) >= last:
                process.kill()
        assert process.wait() == -9, "it ended by itself, with an error"
    return False


def test_a_training_killed_five_times_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    drawn_dataset(tmp_path / "set", ("one", "two"))
    rng = np.random.default_rng()
    kills = np.sort(rng.choice(np.arange(3, 58), 5, replace=False))
    print("killed after the steps", kills)  # shown when the test fails
    for last in kills:
        assert not run_until(tmp_path / "killed", tmp_path / "set", int(last))
    assert run_until(tmp_path / "killed", tmp_path / "set", 1000)
    assert run_until(tmp_path / "whole", tmp_path / "set", 1000)

    def history(name: str) -> list[dict[str, float]]:
        with open(tmp_path / name / "history.csv", newline="") as stream:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]

    killed, whole = history("killed"), history("whole")
    assert [row["step"] for row in whole] == list(range(5, 61, 5))
    for one, other in zip(killed, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert whole[0]["loss"] != whole[-1]["loss"]


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    given = [np.full_like(w, np.nan) for w in build_unet(TINY.shape).get_weights()]
    with pytest.raises(NetworkError, match="diverged: its loss at step 1 is nan.*--learning-rate"):
        train(TINY, tmp_path, initial=given)
    assert not checkpoint_path(tmp_path).exists()
