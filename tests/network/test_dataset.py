"""Datasets: what goes in comes out at the network's voxel size, and damage is noticed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepvesicle.errors import DatasetError, OutputExistsError
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.dataset import add_volume, read_dataset
from deepvesicle.network.patches import occupancy
from tests.network.datasets import drawn_dataset, drawn_tomogram


@dataclass(frozen=True)
class LeftOf:
    """All voxels whose centre is left of a place, nm."""

    x_nm: float

    def to_mask(self, grid: Grid) -> NDArray[np.bool_]:
        x = grid.to_nm([[0, 0, i] for i in range(grid.shape_zyx[2])])[:, 2]
        return np.broadcast_to(x < self.x_nm, grid.shape_zyx)


def test_a_tomogram_comes_back_at_the_networks_voxel_size(tmp_path: Path) -> None:
    tomogram, vesicles = drawn_tomogram()
    add_volume(tmp_path / "set", "one", tomogram, vesicles, voxel_nm=3.3, source={"tomogram": "a.mrc"})
    dataset = read_dataset(tmp_path / "set")
    (volume,) = dataset.volumes
    assert dataset.voxel_nm == 3.3 and volume.name == "one" and volume.source["tomogram"] == "a.mrc"
    assert volume.grid == tomogram.grid.rescaled(3.3)
    # the same places and sizes in space
    np.testing.assert_allclose(
        volume.grid.to_nm(volume.vesicles.centres_vox), tomogram.grid.to_nm(vesicles.centres_vox), atol=1e-9
    )
    np.testing.assert_allclose(volume.vesicles.radii_nm, vesicles.radii_nm)
    np.testing.assert_array_equal(volume.mask(), occupancy(vesicles, volume.grid))
    assert volume.annotated().all() and volume.source["annotated_share"] == 1
    # standardised grey values: noise about 0 with SD 1 outside, dark inside
    grey, inside = volume.grey().astype(float), volume.mask() > 250
    assert grey.dtype == float and -4.5 < grey[inside].mean() < -2 and abs(grey[volume.mask() == 0].mean()) < 0.4


def test_what_is_unclear_or_outside_the_region_is_not_annotated(tmp_path: Path) -> None:
    tomogram, vesicles = drawn_tomogram()
    clear, unclear = vesicles.select([0, 1, 2]), vesicles.select([3, 4])
    edge = 11.0 + 60 * 3.0  # nm: the last vesicle lies outside
    volume = add_volume(
        tmp_path / "set", "one", tomogram, clear, unclear=unclear, region=LeftOf(edge), voxel_nm=3.3, source={}
    )
    expected = LeftOf(edge).to_mask(volume.grid) & (occupancy(unclear, volume.grid) == 0)
    np.testing.assert_array_equal(volume.annotated(), expected)
    assert 0.5 < expected.mean() < 0.8 and volume.source["annotated_share"] == pytest.approx(expected.mean(), abs=1e-4)


def test_a_vesicle_that_touches_something_unclear_stays_annotated(tmp_path: Path) -> None:
    tomogram, vesicles = drawn_tomogram()
    beside = vesicles.select([0]).replace(centres_vox=[[12.2, 14.0, 20.0]])
    volume = add_volume(tmp_path / "set", "one", tomogram, vesicles, unclear=beside, voxel_nm=3.3, source={})
    assert volume.annotated()[volume.mask() > 0].all() and not volume.annotated().all()


def test_names_are_kept_apart(tmp_path: Path) -> None:
    drawn_dataset(tmp_path / "set", ("one", "two"))
    tomogram, vesicles = drawn_tomogram(7)
    with pytest.raises(OutputExistsError, match="already holds a tomogram one"):
        add_volume(tmp_path / "set", "one", tomogram, vesicles, voxel_nm=3.3, source={})
    before = read_dataset(tmp_path / "set").volumes[1].grey()
    replaced = add_volume(
        tmp_path / "set", "one", tomogram, vesicles.select([0]), voxel_nm=3.3, source={}, overwrite=True
    )
    dataset = read_dataset(tmp_path / "set")
    assert [len(v.vesicles) for v in dataset.volumes] == [1, 5] and len(replaced.vesicles) == 1
    np.testing.assert_array_equal(dataset.volumes[1].grey(), before)
    for name in ("../one", "", "a b", ".hidden"):
        with pytest.raises(DatasetError, match="cannot name"):
            add_volume(tmp_path / "set", name, tomogram, vesicles, voxel_nm=3.3, source={})
    with pytest.raises(DatasetError, match=r"dataset at 3.3 nm per voxel; got 2.2 nm"):
        add_volume(tmp_path / "set", "three", tomogram, vesicles, voxel_nm=2.2, source={})


def test_damage_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(DatasetError, match="no dataset"):
        read_dataset(folder)
    (volume,) = drawn_dataset(folder)
    whole, manifest = volume.path.read_bytes(), (folder / "manifest.json").read_text()
    volume.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="not the file that manifest.json names"):
        read_dataset(folder)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_dataset(folder, verify=False)
    volume.path.unlink()
    with pytest.raises(DatasetError, match=r"lacks the file one\.h5"):
        read_dataset(folder)
    volume.path.write_bytes(whole)
    for text, said in (
        (manifest[:40], "is damaged; expected what deepvesicle prepare wrote"),
        ("[]", "is damaged"),
        (json.dumps(json.loads(manifest) | {"format": 99}), "expected format 1"),
        (json.dumps(json.loads(manifest) | {"volumes": {}}), "holds no tomogram"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(DatasetError, match=said):
            read_dataset(folder)
    (folder / "manifest.json").write_text(manifest)
    assert len(read_dataset(folder).volumes) == 1


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_dataset(tmp_path / "set")
    tomogram, vesicles = drawn_tomogram(3)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_volume(tmp_path / "set", "two", tomogram, vesicles, voxel_nm=3.3, source={}, progress=stop)
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["manifest.json", "one.h5"]
    assert len(read_dataset(tmp_path / "set").volumes) == 1


def test_a_file_left_from_a_crash_is_replaced(tmp_path: Path) -> None:
    drawn_dataset(tmp_path / "set")
    (tmp_path / "set" / "two.h5").write_bytes(b"of a crash between the file and the manifest")
    tomogram, vesicles = drawn_tomogram(3)
    add_volume(tmp_path / "set", "two", tomogram, vesicles, voxel_nm=3.3, source={})
    assert len(read_dataset(tmp_path / "set").volumes) == 2


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.h5").write_bytes(b"somebody's")
    tomogram, vesicles = drawn_tomogram()
    with pytest.raises(DatasetError, match=r"no dataset \(it has no manifest"):
        add_volume(tmp_path, "other", tomogram, vesicles, voxel_nm=3.3, source={})
    assert (tmp_path / "other.h5").read_bytes() == b"somebody's"


def test_inverted_tomograms_are_stored_dense_is_low(tmp_path: Path) -> None:
    tomogram, vesicles = drawn_tomogram()
    turned = Tomogram(-tomogram.data, tomogram.grid, invert=True)
    plain = add_volume(tmp_path / "a", "one", tomogram, vesicles, voxel_nm=3.3, source={})
    again = add_volume(tmp_path / "b", "one", turned, vesicles, voxel_nm=3.3, source={})
    np.testing.assert_allclose(plain.grey().astype(float), again.grey().astype(float), atol=0.01)
