"""The network: tiles equal one pass over the whole, folding changes nothing, models survive the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle.errors import NetworkError
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.grey import measure_normalisation, padded_region
from deepvesicle.network.inference import predict
from deepvesicle.network.resample import sample_all
from deepvesicle.network.unet import UNetShape, build_unet, plain_unet, plan_ranges
from deepvesicle.network.zoo import CONFIG_NAME, WEIGHTS_NAME, load_network, save_network
from deepvesicle.settings import PredictionSettings


@pytest.fixture(scope="module")
def small() -> tuple[UNetShape, Any]:
    """A small network with weights and batch norms that are far from trivial."""
    shape = UNetShape(levels=2, filters=4)
    model = build_unet(shape)
    rng = np.random.default_rng(8)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            n = layer.get_weights()[0].shape
            layer.set_weights(
                [rng.uniform(0.5, 1.5, n), rng.normal(0, 0.3, n), rng.normal(0, 0.3, n), rng.uniform(0.5, 2, n)]
            )
    return shape, model


def test_halos_are_those_of_the_literature() -> None:
    assert plan_ranges(2).input_margin == 22 and plan_ranges(3).input_margin == 46


@pytest.mark.parametrize("levels", [1, 3])
def test_the_graph_without_csbdeep_is_the_same(levels: int, tmp_path: Path, rng: np.random.Generator) -> None:
    ours, theirs = (build(UNetShape(levels, 2)) for build in (plain_unet, build_unet))
    names = [
        [layer.name for layer in model.layers if layer.name.startswith(("down", "up_l", "mid"))]
        for model in (ours, theirs)
    ]
    assert names[0] == names[1] and len(names[0]) == 4 * levels + 2
    theirs.set_weights([rng.normal(0.2, 0.3, w.shape) ** 2 for w in theirs.get_weights()])
    theirs.save_weights(tmp_path / "x.weights.h5")
    ours.load_weights(tmp_path / "x.weights.h5")
    grey = rng.normal(size=(1, 16, 8, 24, 1)).astype(np.float32)
    np.testing.assert_allclose(ours(grey), theirs(grey), atol=1e-5)


@pytest.mark.parametrize(("start", "size"), [((-9, -3, 2), (20, 30, 20)), ((4, 10, -30), (60, 44, 90))])
def test_faces_are_mirrored(rng: np.random.Generator, start: tuple[int, ...], size: tuple[int, ...]) -> None:
    grid = Grid((24, 36, 40), 2.2)
    tomogram = Tomogram(rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    pad = 70
    mirrored = np.pad(tomogram.data, pad, mode="symmetric")
    box = tuple(slice(s + pad, s + pad + n) for s, n in zip(start, size, strict=True))
    np.testing.assert_allclose(padded_region(tomogram, grid, start, size), mirrored[box], atol=1e-6)


def test_no_seams_between_tiles(small: tuple[UNetShape, Any], tmp_path: Path, rng: np.random.Generator) -> None:
    shape, model = small
    network = save_network(tmp_path / "m", model, shape, voxel_nm=2.2, threshold=0.5, card="card")
    grid = Grid((30, 44, 52), 1.9)
    tomogram = Tomogram(rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    pieces = predict(tomogram, network, PredictionSettings(precision="fp32", tile_vox=16))
    target = grid.rescaled(2.2)
    assert pieces.grid == target and pieces.data.dtype == np.uint8
    grey = measure_normalisation(tomogram, target).apply(sample_all(tomogram, target))
    pad = 48
    padded = np.pad(grey, [(pad, pad + (-n) % 4) for n in grey.shape], mode="symmetric")
    whole = np.asarray(model(padded[None, ..., None]))[0, ..., 0]
    expected = whole[tuple(slice(pad, pad + n) for n in grey.shape)] * 255
    assert np.abs(pieces.data.astype(float) - expected).max() < 0.51


def test_a_tiny_tomogram_is_refused_with_the_reason(small: tuple[UNetShape, Any], tmp_path: Path) -> None:
    shape, model = small
    network = save_network(tmp_path / "m", model, shape, voxel_nm=2.2, threshold=0.5, card="card")
    tomogram = Tomogram(np.zeros((3, 40, 40), np.float32), Grid((3, 40, 40), 2.2))
    with pytest.raises(NetworkError, match="too small"):
        predict(tomogram, network)


def test_models_survive_the_disk(small: tuple[UNetShape, Any], tmp_path: Path) -> None:
    shape, model = small
    saved = save_network(
        tmp_path / "mine", model, shape, voxel_nm=1.9, threshold=0.4, card="sha {weights_sha256}", extra={"note": 1}
    )
    loaded = load_network(tmp_path / "mine")
    assert loaded == saved and loaded.voxel_nm == 1.9 and loaded.threshold == 0.4 and loaded.config["note"] == 1
    for a, b in zip(model.get_weights(), loaded.model().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert saved.weights_sha256 in (tmp_path / "mine" / "CARD.md").read_text()


def test_damaged_models_are_named(small: tuple[UNetShape, Any], tmp_path: Path) -> None:
    shape, model = small
    folder = tmp_path / "m"
    save_network(folder, model, shape, voxel_nm=2.2, threshold=0.5, card="")
    with pytest.raises(NetworkError, match="no_such_model.*shipped models"):
        load_network("no_such_model")
    weights = (folder / WEIGHTS_NAME).read_bytes()
    (folder / WEIGHTS_NAME).write_bytes(weights[:-100])
    with pytest.raises(NetworkError, match="sha256"):
        load_network(folder)
    (folder / WEIGHTS_NAME).unlink()
    with pytest.raises(NetworkError, match=WEIGHTS_NAME):
        load_network(folder)
    config = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**config, "threshold": 7}))
    with pytest.raises(NetworkError, match="absurd"):
        load_network(folder)
    (folder / CONFIG_NAME).write_text("{")
    with pytest.raises(NetworkError, match="JSON"):
        load_network(folder)
