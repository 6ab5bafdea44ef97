"""Normalisation: both kinds as the config names them, measured and blurred in pieces as on the whole volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from deepvesicle.errors import NetworkError
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.grey import grey_box, measure_normalisation
from deepvesicle.network.inference import predict
from deepvesicle.network.normalise import Normalisation, NormalisationMethod
from deepvesicle.network.resample import sample_all
from deepvesicle.network.unet import UNetShape, build_unet
from deepvesicle.network.zoo import CONFIG_NAME, load_network, save_network
from deepvesicle.settings import PredictionSettings
from tests.network.random_network import random_network

Z_SCORE = NormalisationMethod("z-score", blur_vox=1.0)


def _tomogram(rng: np.random.Generator, shape: tuple[int, int, int] = (31, 44, 53)) -> Tomogram:
    """Noise on a slope, with gold, so that blurs, faces and clipping matter."""
    grid = Grid(shape, 1.9)
    data = rng.normal(100, 7, shape) + 40 * np.linspace(-1, 1, shape[0])[:, None, None]
    data[4:8, 10:15, 20:25] = -4000
    return Tomogram(data.astype(np.float32), grid)


@pytest.mark.parametrize(
    ("entry", "method"),
    [
        ("clipped mean and SD at the network's voxel size", NormalisationMethod()),
        ({"kind": "clipped"}, NormalisationMethod("clipped", 0.0)),
        ({"kind": "z-score", "blur_vox": 1}, Z_SCORE),
        ({"kind": "z-score"}, NormalisationMethod("z-score")),
    ],
)
def test_what_configs_say(entry: Any, method: NormalisationMethod) -> None:
    assert NormalisationMethod.from_json(entry) == method
    assert NormalisationMethod.from_json(json.loads(json.dumps(method.to_json()))) == method


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"kind": "min-max"}, '"clipped" or "z-score"'),
        ("something else", '"clipped" or "z-score"'),
        ({"kind": ["clipped"]}, '"clipped" or "z-score"'),
        (None, '"clipped" or "z-score"'),
        ({"kind": "z-score", "blur": 1.0}, "kind and blur_vox"),
        ({"kind": "z-score", "blur_vox": -1}, "0 to 10 voxels"),
        ({"kind": "z-score", "blur_vox": float("nan")}, "0 to 10 voxels"),
        ({"kind": "z-score", "blur_vox": True}, "0 to 10 voxels"),
        ({"kind": "z-score", "blur_vox": "1"}, "0 to 10 voxels"),
    ],
)
def test_unknown_normalisations_are_refused(entry: Any, word: str) -> None:
    with pytest.raises(NetworkError, match=word) as caught:
        NormalisationMethod.from_json(entry, "a/config.json")
    assert "a/config.json" in str(caught.value)


def test_models_carry_their_normalisation(tmp_path: Path) -> None:
    shape = UNetShape(1, 2)
    model = build_unet(shape)
    plain = save_network(tmp_path / "plain", model, shape, voxel_nm=2.2, threshold=0.5, card="")
    assert plain.normalisation == NormalisationMethod("clipped", 0.0)
    save_network(tmp_path / "z", model, shape, voxel_nm=2.2, threshold=0.5, card="", normalisation=Z_SCORE)
    assert load_network(tmp_path / "z").normalisation == Z_SCORE
    assert load_network("default").normalisation == NormalisationMethod()
    config = json.loads((tmp_path / "z" / CONFIG_NAME).read_text())
    (tmp_path / "z" / CONFIG_NAME).write_text(json.dumps({**config, "normalisation": {"kind": "rank"}}))
    with pytest.raises(NetworkError, match="config.json names an unknown normalisation.*rank"):
        load_network(tmp_path / "z")


def test_z_score_of_parts_is_that_of_the_whole(rng: np.random.Generator) -> None:
    values = (rng.normal(20_000, 3, 60_000) + np.linspace(0, 9, 60_000)).astype(np.float32)
    values[:5] = -20_000
    found = Normalisation.z_score(iter([values[:7], values[7:40_000], values[40_000:]]))
    assert found.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-9)
    assert found.sd == pytest.approx(values.std(dtype=np.float64), rel=1e-6)
    assert found.apply(values).min() < -50  # nothing is cut off
    assert Normalisation.z_score([np.full((4, 4), 3.0, np.float32)]).sd == 1.0


@pytest.mark.parametrize(
    ("start", "size"), [((0, 0, 0), (10, 11, 12)), ((-9, 20, -3), (20, 40, 22)), ((7, -25, 30), (60, 90, 8))]
)
@pytest.mark.parametrize("blur", [0.7, 1.0])
def test_a_blurred_tile_is_part_of_the_blurred_volume(
    rng: np.random.Generator, start: tuple[int, ...], size: tuple[int, ...], blur: float
) -> None:
    tomogram = _tomogram(rng)
    target = tomogram.grid.rescaled(2.2)
    whole = ndimage.gaussian_filter(sample_all(tomogram, target), blur, mode="reflect")
    mirrored = np.pad(whole, 70, mode="symmetric")
    box = tuple(slice(s + 70, s + 70 + n) for s, n in zip(start, size, strict=True))
    np.testing.assert_allclose(grey_box(tomogram, target, start, size, blur), mirrored[box], rtol=1e-5, atol=2e-3)


def test_z_score_is_measured_on_the_whole_blurred_volume(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepvesicle.network.grey._PIECE_VOX", 16)
    tomogram = _tomogram(rng)
    target = tomogram.grid.rescaled(2.2)
    whole = ndimage.gaussian_filter(sample_all(tomogram, target).astype(np.float64), 1.0)
    found = measure_normalisation(tomogram, target, Z_SCORE)
    assert found.mean == pytest.approx(whole.mean(), rel=1e-5) and found.sd == pytest.approx(whole.std(), rel=1e-5)
    assert measure_normalisation(tomogram, target).sd < 0.8 * found.sd  # the other kind leaves the gold out


def test_a_network_with_blur_has_no_seams(rng: np.random.Generator, tmp_path: Path) -> None:
    shape = UNetShape(1, 4)
    model = random_network(shape, seed=5)
    network = save_network(tmp_path / "m", model, shape, voxel_nm=2.2, threshold=0.5, card="", normalisation=Z_SCORE)
    tomogram = _tomogram(rng)
    target = tomogram.grid.rescaled(2.2)
    grey = ndimage.gaussian_filter(sample_all(tomogram, target), 1.0)
    grey = (grey - grey.mean()) / grey.std()
    padded = np.pad(grey, [(20, 20 + n % 2) for n in grey.shape], mode="symmetric")
    whole = np.asarray(model(padded[None, ..., None]))[0, ..., 0]
    expected = 255 * whole[tuple(slice(20, 20 + n) for n in grey.shape)]
    found = predict(tomogram, network, PredictionSettings(precision="fp32", tile_vox=16)).data
    assert expected.std() > 1
    assert np.abs(found - expected).max() < 0.52
