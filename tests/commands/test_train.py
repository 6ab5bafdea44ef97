"""`deepvesicle train`: a model folder that `segment` can use; stops and bad options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepvesicle.commands.main import main
from deepvesicle.network.zoo import load_network

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


@pytest.mark.parametrize(
    ("options", "word"), [(("--patch", "17"), "--patch"), (("--precision", "float8"), "--precision")]
)
def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], word: str) -> None:
    assert main(["train", "-o", str(tmp_path / "m"), *options]) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
