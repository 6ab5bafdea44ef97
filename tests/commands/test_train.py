"""`deepvesicle train`: a model folder that `segment` can use; stops and bad options."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.network.checkpoint import steps_done
from deepvesicle.network.zoo import load_network
from tests.network.datasets import drawn_dataset

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--levels", "1", "--filters", "2", "--patch", "16", "--batch", "1", "--calibrate", "0")


def test_a_tiny_training_makes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    assert main(["train", "-o", str(folder), "--steps", "2", *TINY]) == 0
    network = load_network(folder)
    assert network.shape.levels == 1 and network.config["steps_done"] == 2
    assert network.weights_sha256 in (folder / "CARD.md").read_text()
    assert json.loads((folder / "config.json").read_text())["training"]["patch_vox"] == 16
    assert main(["train", "-o", str(folder), "--steps", "3", *TINY]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "-o", str(folder), "--steps", "3", "--resume", *TINY]) == 0
    assert load_network(folder).config["steps_done"] == 3


def test_a_training_starts_from_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", "-o", str(first), "--steps", "1", *TINY]) == 0
    rest = ("--patch", "16", "--batch", "1", "--calibrate", "0", "--steps", "1")
    assert main(["train", "-o", str(second), "--init", str(first), "--learning-rate", "0", *rest]) == 0
    # no step was made, and the shape is that of the model, not the options' default
    old, new = (load_network(f).convolutions()[0][0] for f in (first, second))
    assert load_network(second).shape.levels == 1 and np.allclose(old, new, atol=1e-3 * np.abs(old).max())
    assert main(["train", "-o", str(tmp_path / "m"), "--init", str(first), "--voxel-size", "3", *rest]) == 2
    assert "--voxel-size means 3 nm per voxel, but model first 2.2 nm" in capsys.readouterr().err


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    drawn_dataset(tmp_path / "set", ("one", "two"))
    rest = ["--steps", "3000", "--phantoms", "0", "--no-compare", *TINY]
    command = [sys.executable, "-m", "deepvesicle", "train", str(tmp_path / "set"), "-o", str(tmp_path / "m"), *rest]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line.strip())
            if line.startswith("training: "):
                process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    (stopped,) = [line for line in said if line.startswith("stopped after step")]
    assert stopped.endswith("of 3000; go on with --resume") and said[-1] == "error: interrupted"
    assert not any("Traceback" in line or "Process" in line for line in said)
    done = steps_done(tmp_path / "m")
    assert f"after step {done} of" in stopped and done > 0
    again = subprocess.run([*command, "--resume", "--minutes", "0"], capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0 and f"going on from step {done} of 3000" in again.stderr
    assert steps_done(tmp_path / "m") == done + 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--patch", "17"), "--patch"),
        (("--precision", "float8"), "--precision"),
        (("--loss", "hinge"), "bce_tversky"),
    ],
)
def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], word: str) -> None:
    assert main(["train", "-o", str(tmp_path / "m"), *options]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
