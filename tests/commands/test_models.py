"""`deepvesicle models`: what is listed and shown, where models are looked for, and the import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle import calibration
from deepvesicle.commands.main import main
from deepvesicle.fitting.evidence import TRAITS, Evidence
from deepvesicle.network.shipped import shipped_models_folder
from deepvesicle.network.unet import UNetShape, build_unet
from deepvesicle.network.zoo import Network, load_network, save_network
from deepvesicle.pipeline import evidence_of
from tests.network.keras2 import random_published, write_keras2

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for models of one's own, which is not there yet."""
    folder = tmp_path / "data" / "models"
    monkeypatch.setenv("DEEPVESICLE_MODELS", str(folder))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the published network's kind."""
    path = tmp_path_factory.mktemp("weights") / "weights_v1.h5"
    write_keras2(path, random_published(2))
    return path


def small_model(folder: Path, card: str = "# Model card\n\nFor tests. Nothing else.\n") -> None:
    shape = UNetShape(1, 2)
    save_network(folder, build_unet(shape), shape, voxel_nm=3.1, threshold=0.45, card=card)


def test_without_own_models_the_shipped_ones_are_listed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert "default  shipped  2.2 nm" in out and load_network("default").weights_sha256[:12] in out
    assert str(own) in out and "twice" not in out
    assert not own.exists()


def test_own_models_come_first_and_twice_is_said(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model(own / "mine")
    small_model(own / "default")
    (own / "broken").mkdir()
    (own / "broken" / "config.json").write_text("{}")
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in reversed(out.splitlines()) if line}
    assert "3.1 nm" in lines["mine"] and "1 levels, 2 filters" in lines["mine"] and "For tests" in lines["mine"]
    assert "3.1 nm" in lines["default"] and "own" in lines["default"]
    assert f"default is there twice: {own / 'default'} is used" in out
    assert "cannot be used" in lines["broken"]
    assert main(["models", "path", "default"]) == 0
    assert capsys.readouterr().out.strip() == str(own / "default")


def test_show_tells_config_and_card(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model(own / "mine")
    assert main(["models", "show", "mine"]) == 0
    out = capsys.readouterr().out
    for words in ("3.1 nm", "0.45", "1 levels, 2 filters", "not calibrated", "For tests. Nothing else."):
        assert words in out
    assert main(["models", "show"]) == 0
    assert "calibrated on phantoms" in capsys.readouterr().out
    assert main(["models", "show", "nothing"]) == 3
    assert "default" in capsys.readouterr().err


def test_paths(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "path"]) == 0
    assert capsys.readouterr().out.strip() == str(own)
    assert main(["models", "path", "default"]) == 0
    assert capsys.readouterr().out.strip() == str(shipped_models_folder() / "default")


def test_import(own: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "import", str(weights), "--calibrate", "0"]) == 0
    assert "GPL-3.0" in capsys.readouterr().out
    network = load_network("cryovesnet")
    assert network.folder == own / "cryovesnet" and network.voxel_nm == 2.2
    assert network.normalisation.kind == "z-score" and network.normalisation.blur_vox == 1
    before = {path.name: path.read_bytes() for path in network.folder.iterdir()}
    assert main(["models", "import", str(weights)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["models", "import", str(ROOT / "README.md"), "--overwrite"]) == 3
    assert main(["models", "import", str(weights.parent), "--name", "other"]) == 2
    assert main(["models", "import", str(weights), "--name", "../other"]) == 2
    assert {path.name: path.read_bytes() for path in network.folder.iterdir()} == before
    assert [path.name for path in own.iterdir()] == ["cryovesnet"], "something half-made is left"
    assert main(["models", "import", str(weights), "--calibrate", "0", "--overwrite"]) == 0
    assert main(["models", "import", str(weights), "--calibrate", "0", "--name", "default"]) == 0
    assert "no longer" in capsys.readouterr().err
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert "[GPL-3.0]" in out and "default is there twice" in out


def test_scores_are_calibrated_at_the_import(
    own: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    table, true = rng.normal(size=(60, len(TRAITS))), np.arange(60) < 40
    evidence = Evidence.learn(table, true)
    asked = []

    def pretend(network: Network, count: int, *, progress: Any) -> Any:
        asked.append((network.name, count))
        return evidence, table, true

    monkeypatch.setattr(calibration, "calibrate_scores", pretend)
    assert main(["models", "import", str(weights), "--calibrate", "5"]) == 0
    assert len(asked) == 1 and asked[0][1] == 5
    network = load_network("cryovesnet")
    learned = evidence_of(network)
    assert learned is not None and learned.to_json() == evidence.to_json()
    card = (network.folder / "CARD.md").read_text()
    assert "5 phantoms" in card and "not calibrated" not in card and network.weights_sha256 in card
    assert network.config["source"]["licence"] == "GPL-3.0"

    def fail(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "calibrate_scores", fail)
    before = {path.name: path.read_bytes() for path in network.folder.iterdir()}
    assert main(["models", "import", str(weights), "--overwrite"]) == 130
    assert {path.name: path.read_bytes() for path in network.folder.iterdir()} == before
    assert [path.name for path in own.iterdir()] == ["cryovesnet"]


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["show"], ["path", "default"]], ids=lambda a: a[0])
def test_only_the_import_needs_the_network_libraries(own: Path, arguments: list[str]) -> None:
    code = (
        "import json, sys; from deepvesicle.commands.main import main; code = main(['models', *sys.argv[1:]]);"
        "print(json.dumps([code, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    exit_code, loaded = json.loads(run.stdout.splitlines()[-1])
    assert exit_code == 0 and not {"tensorflow", "keras", "csbdeep"} & set(loaded)
