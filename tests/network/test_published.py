"""The published weights: read layer by layer, other files refused with a reason, vesicles found with the real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from deepvesicle.errors import NetworkError
from deepvesicle.files.tomogram import read_labels, read_tomogram
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.inference import predict
from deepvesicle.network.normalise import NormalisationMethod
from deepvesicle.network.published import import_published, read_published
from deepvesicle.network.unet import UNetShape, build_unet
from deepvesicle.network.zoo import Network, load_network
from deepvesicle.settings import PredictionSettings
from tests.network.keras2 import random_published, write_keras2


@pytest.fixture(scope="module")
def random_model() -> Any:
    """The published network's shape with weights that all differ."""
    return random_published(2)


@pytest.fixture
def weights_file(random_model: Any, tmp_path: Path) -> Path:
    """A right file."""
    write_keras2(tmp_path / "weights.h5", random_model)
    return tmp_path / "weights.h5"


def test_every_array_finds_its_place(random_model: Any, weights_file: Path, tmp_path: Path) -> None:
    shape, model = read_published(weights_file)
    assert shape == UNetShape(levels=2, filters=16)
    for found, wanted in zip(model.get_weights(), random_model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted.astype(np.float32))
    write_keras2(tmp_path / "bare.h5", random_model, group="/", first_number=0)  # `save_weights` has no group
    np.testing.assert_array_equal(read_published(tmp_path / "bare.h5")[1].get_weights()[5], model.get_weights()[5])


def test_import_makes_a_model_folder(random_model: Any, weights_file: Path, tmp_path: Path) -> None:
    network = import_published(weights_file, tmp_path / "published")
    assert load_network(tmp_path / "published") == network
    assert network.voxel_nm == 2.2 and network.threshold == 0.5 and network.shape == UNetShape(2, 16)
    assert network.normalisation == NormalisationMethod("z-score", blur_vox=1.0)
    assert network.config["source"]["sha256"] == hashlib.sha256(weights_file.read_bytes()).hexdigest()
    card = (network.folder / "CARD.md").read_text()
    assert "GPL-3.0" in card and network.weights_sha256 in card and network.config["source"]["sha256"] in card
    for found, wanted in zip(network.model().get_weights(), random_model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted.astype(np.float32))


def _text(path: Path) -> None:
    path.write_text("no weights at all")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4000])


def _without_names(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["model_weights"].attrs["layer_names"]


def _without_layer(path: Path) -> None:
    with h5py.File(path, "a") as file:
        names = file["model_weights"].attrs["layer_names"]
        file["model_weights"].attrs["layer_names"] = names[names != b"middle_0"]


def _lost_layer(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["model_weights/middle_0"]


def _other_kernel(path: Path) -> None:
    with h5py.File(path, "a") as file:
        layer = file["model_weights/up_level_1_no_0/up_level_1_no_0_6"]
        del layer["kernel:0"]
        layer["kernel:0"] = np.zeros((3, 3, 3, 32, 32), np.float32)


def _no_bias(path: Path) -> None:
    with h5py.File(path, "a") as file:
        layer = file["model_weights/middle_2"]
        layer.attrs["weight_names"] = layer.attrs["weight_names"][:1]


def _not_a_number(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["model_weights/batch_normalization_63/batch_normalization_63_6/gamma:0"][3] = np.nan


def _text_for_numbers(path: Path) -> None:
    with h5py.File(path, "a") as file:
        layer = file["model_weights/middle_2/middle_2_6"]
        del layer["bias:0"]
        layer["bias:0"] = "hello"


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_text, "cannot be read as weights"),
        (_cut, "cannot be read as weights"),
        (_without_names, "layer_names"),
        (_without_layer, "no middle_0"),
        (_lost_layer, "middle_0"),
        (_other_kernel, r"kernel of up_level_1_no_0.*\(3, 3, 3, 64, 32\).*\(3, 3, 3, 32, 32\)"),
        (_no_bias, "bias of middle_2.*nothing"),
        (_not_a_number, "gamma of batch_normalization_63.*no numbers"),
        (_text_for_numbers, "cannot be read as weights"),
        (Path.unlink, "does not exist"),
    ],
)
def test_wrong_files_are_named_and_nothing_is_written(
    weights_file: Path, tmp_path: Path, spoil: Callable[[Path], None], word: str
) -> None:
    spoil(weights_file)
    with pytest.raises(NetworkError, match=word) as caught:
        import_published(weights_file, tmp_path / "published")
    assert "weights.h5" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    ("shape", "word"), [(UNetShape(2, 8), r"\(3, 3, 3, 1, 8\)"), (UNetShape(3, 16), "down_level_2_no_0")]
)
def test_other_networks_are_refused(tmp_path: Path, shape: UNetShape, word: str) -> None:
    write_keras2(tmp_path / "other.h5", build_unet(shape))
    with pytest.raises(NetworkError, match=word):
        read_published(tmp_path / "other.h5")


@pytest.fixture(scope="module", params=["weights.h5", "weights_v1.h5"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    """The real weights, where they are."""
    path = Path(__file__).parents[2].parent / "shared" / "data" / "cryovesnet_weights" / request.param
    if not path.exists():
        pytest.skip(f"the published weights are not here: {path}")
    return import_published(path, tmp_path_factory.mktemp("published"))


def test_the_published_network_finds_vesicles_that_are_dark(
    published: Network, shared_data: Callable[[str], Path]
) -> None:
    whole = read_tomogram(shared_data("independent/syn_a.mrc.gz"))
    labels = read_labels(shared_data("independent/syn_a_labels.mrc.gz")).data
    box = (slice(30, 70), slice(80, 180), slice(80, 180))
    grid = Grid((40, 100, 100), whole.grid.voxel_nm)
    target = grid.rescaled(published.voxel_nm)
    places = np.stack(np.meshgrid(*[np.arange(n) for n in target.shape_zyx], indexing="ij"), axis=-1).reshape(-1, 3)
    nearest = np.rint(target.map_points(places, grid)).astype(int)
    nearest = np.clip(nearest, 0, np.array(grid.shape_zyx) - 1)
    inside = (np.asarray(labels[box]) > 0)[tuple(nearest.T)].reshape(target.shape_zyx)
    assert 0.05 < inside.mean() < 0.8

    def dice(invert: bool) -> float:
        tomogram = Tomogram(np.array(whole.data[box]), grid, invert=invert)
        p = predict(tomogram, published, PredictionSettings(tile_vox=64)).values().astype(np.float64)
        return float(2 * (p * inside).sum() / ((p**2).sum() + inside.sum()))

    assert dice(invert=False) > 0.6
    assert dice(invert=True) < dice(invert=False)
