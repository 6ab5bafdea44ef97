"""Mirror images averaged: each view is the prediction of the mirrored volume, whatever the tiles."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.grey import measure_normalisation
from deepvesicle.network.inference import mirror_views, predict
from deepvesicle.network.normalise import NormalisationMethod
from deepvesicle.network.resample import sample_all
from deepvesicle.network.unet import UNetShape
from deepvesicle.network.zoo import Network, save_network
from deepvesicle.settings import VIEWS, PredictionSettings
from tests.network.random_network import random_network

SHAPE = UNetShape(levels=2, filters=2)


@pytest.fixture(scope="module")
def model() -> Any:
    """Random weights that make pooling and position matter."""
    return random_network(SHAPE, seed=31)


@pytest.fixture(scope="module")
def network(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Normalised by the whole volume, so that mirrored volumes are normalised alike."""
    folder: Path = tmp_path_factory.mktemp("model")
    method = NormalisationMethod("z-score")
    return save_network(folder, model, SHAPE, voxel_nm=2.2, threshold=0.5, card="", normalisation=method)


def _tomogram(shape: tuple[int, int, int], voxel_nm: float, rng: np.random.Generator) -> Tomogram:
    return Tomogram(rng.normal(size=shape).astype(np.float32), Grid(shape, voxel_nm))


def test_the_views_asked_for() -> None:
    assert [mirror_views(n) for n in (1, 2, 4)] == [[()], [(), (2,)], [(), (2,), (1,), (2, 1)]]
    assert {frozenset(axes) for axes in mirror_views(8)} == {
        frozenset(axis for axis, on in enumerate(chosen) if on) for chosen in product((0, 1), repeat=3)
    }
    assert all(len(mirror_views(n)) == n for n in VIEWS)


@pytest.mark.parametrize("views", VIEWS)
def test_tiles_in_views_are_the_whole_volume_in_views(
    views: int, model: Any, network: Network, rng: np.random.Generator
) -> None:
    tomogram = _tomogram((17, 26, 21), 1.9, rng)  # no multiples of the pooling's blocks
    target = tomogram.grid.rescaled(2.2)
    grey = measure_normalisation(tomogram, target, network.normalisation).apply(sample_all(tomogram, target))
    pad = 24
    padded = np.pad(grey, [(pad, pad + (-n) % 4) for n in grey.shape], mode="symmetric")
    passes = [
        np.flip(np.asarray(model(np.flip(padded, axes)[None, ..., None]))[0, ..., 0], axes)
        for axes in mirror_views(views)
    ]
    inside = tuple(slice(pad, pad + n) for n in grey.shape)
    expected = 255 * np.mean([p[inside] for p in passes], axis=0)
    found = predict(tomogram, network, PredictionSettings(precision="fp32", tile_vox=16, augment=views)).data
    assert expected.std() > 1
    assert np.abs(found - expected).max() < 0.51
    if views > 1:
        assert np.abs(passes[0] - passes[-1])[inside].max() > 0.1  # the views differ, so the mean says something


@pytest.mark.parametrize(("views", "axes"), [(2, (2,)), (4, (1, 2)), (8, (0, 2))])
def test_a_mirrored_volume_gives_the_mirrored_mean(
    views: int, axes: tuple[int, ...], network: Network, rng: np.random.Generator
) -> None:
    tomogram = _tomogram((12, 20, 24), 2.2, rng)
    mirrored = Tomogram(np.ascontiguousarray(np.flip(tomogram.data, axes)), tomogram.grid)
    settings = PredictionSettings(precision="fp32", tile_vox=16, augment=views)
    one, other = (predict(t, network, settings).data.astype(int) for t in (tomogram, mirrored))
    difference = np.abs(np.flip(other, axes) - one)
    assert difference.max() <= 1 and difference.mean() < 0.01  # rounding to 8 bits
    plain = predict(mirrored, network, PredictionSettings(precision="fp32", tile_vox=16)).data.astype(int)
    assert np.abs(np.flip(plain, axes) - one).max() > 10
