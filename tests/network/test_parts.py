"""What a network is trained on and validated on: split by tomogram or by region, patches balanced and true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from deepvesicle.errors import DatasetError
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.dataset import add_volume, read_dataset
from deepvesicle.network.grey import measure_normalisation
from deepvesicle.network.normalise import Z_SCORE, NormalisationMethod
from deepvesicle.network.parts import DatasetPatches, Part, split
from deepvesicle.vesicles import Vesicles
from tests.network.datasets import drawn_dataset, drawn_tomogram
from tests.network.test_dataset import LeftOf

CLIPPED = NormalisationMethod()


def test_one_tomogram_is_cut_across_its_longest_side(tmp_path: Path) -> None:
    drawn_dataset(tmp_path)
    (first,), (second,) = split([read_dataset(tmp_path)], 16)
    assert first.stop[2] == second.start[2] and first.start == (0, 0, 0) and second.stop == second.volume.grid.shape_zyx
    assert first.stop[:2] == second.stop[:2]
    counts = len(first.vesicles()), len(second.vesicles())
    assert sum(counts) == 5 and counts[1] >= 1 and counts[0] >= 3
    assert min(first.grid.shape_zyx[2], second.grid.shape_zyx[2]) >= 16
    assert f"x {second.start[2] + 1} to {second.stop[2]}" in second.name() and "z" not in second.name()
    # a vesicle is where it was in space
    whole = first.volume.vesicles
    np.testing.assert_allclose(
        np.sort(np.concatenate([p.grid.to_nm(p.vesicles().centres_vox) for p in (first, second)])[:, 2]),
        np.sort(whole.grid.to_nm(whole.centres_vox)[:, 2]),
    )
    np.testing.assert_array_equal(second.tomogram().data, first.volume.grey()[:, :, second.start[2] :])


def test_several_tomograms_are_split_as_wholes(tmp_path: Path) -> None:
    drawn_dataset(tmp_path / "a", ("one", "two"))
    drawn_dataset(tmp_path / "b", ("three",))
    training, validation = split([read_dataset(tmp_path / "a"), read_dataset(tmp_path / "b")], 16)
    names = [part.name() for part in training], [part.name() for part in validation]
    assert len(names[0]) == 2 and len(names[1]) == 1 and {*names[0], *names[1]} == {"one", "two", "three"}
    assert all(part.grid == part.volume.grid for part in (*training, *validation))
    again = split([read_dataset(tmp_path / "a"), read_dataset(tmp_path / "b")], 16)
    assert ([part.name() for part in again[0]], [part.name() for part in again[1]]) == names


def test_many_tomograms_give_a_fifth_of_the_vesicles(tmp_path: Path) -> None:
    drawn_dataset(tmp_path, tuple(f"t{i}" for i in range(10)))
    training, validation = split([read_dataset(tmp_path)], 16)
    assert len(training) == 8 and len(validation) == 2


def test_the_user_says_what_validates(tmp_path: Path) -> None:
    drawn_dataset(tmp_path, ("one", "two", "three"))
    datasets = [read_dataset(tmp_path)]
    training, validation = split(datasets, 16, ["two"])
    assert [part.name() for part in training] == ["one", "three"] and [part.name() for part in validation] == ["two"]
    with pytest.raises(DatasetError, match="no tomogram four; expected one, two, three"):
        split(datasets, 16, ["four"])
    with pytest.raises(DatasetError, match="no vesicles are left to train on"):
        split(datasets, 16, ["one", "two", "three"])


def test_too_few_vesicles(tmp_path: Path) -> None:
    tomogram, vesicles = drawn_tomogram()
    add_volume(tmp_path / "none", "one", tomogram, vesicles.select([]), voxel_nm=3.3, source={})
    with pytest.raises(DatasetError, match="hold 0 vesicles"):
        split([read_dataset(tmp_path / "none")], 16)
    above = Vesicles.from_spheres(tomogram.grid, [[5, 20, 40], [20, 20, 40]], [4.0, 4.0])
    add_volume(tmp_path / "two", "one", tomogram, above, voxel_nm=3.3, source={})
    with pytest.raises(DatasetError, match="cannot be cut"):
        split([read_dataset(tmp_path / "two")], 16)


@pytest.mark.parametrize("method", [CLIPPED, NormalisationMethod(Z_SCORE, blur_vox=1.0)])
def test_patches_show_what_is_there(tmp_path: Path, rng: np.random.Generator, method: NormalisationMethod) -> None:
    drawn_dataset(tmp_path, region=LeftOf(11.0 + 60 * 3.0))
    (volume,) = read_dataset(tmp_path).volumes
    part = Part(volume, (0, 0, 5), (volume.grid.shape_zyx[0], volume.grid.shape_zyx[1], volume.grid.shape_zyx[2]))
    source = DatasetPatches([part], method)
    grey = volume.grey().astype(np.float32)
    normalisation = measure_normalisation(Tomogram(grey, volume.grid), volume.grid, method)
    inside = grey[:, :, 5:]
    if method.blur_vox:
        inside = ndimage.gaussian_filter(inside, method.blur_vox, mode="reflect")
    arrays = normalisation.apply(inside), volume.mask()[:, :, 5:] / 255, volume.annotated()[:, :, 5:]
    padded = [np.pad(a, 24, mode="symmetric") for a in arrays]
    for _ in range(10):
        patch = source.patch(16, rng)
        # found by two of its grey values, it is the same place in all three
        left, right = patch[0][0, 0, :2]
        near = np.isclose(padded[0][..., :-1], left, atol=2e-3) & np.isclose(padded[0][..., 1:], right, atol=2e-3)
        boxes = [tuple(slice(a, a + 16) for a in hit) for hit in np.argwhere(near)]
        grey = [padded[0][box] for box in boxes]
        same = [g.shape == patch[0].shape and np.allclose(g, patch[0], atol=5e-3) for g in grey]
        box = boxes[same.index(True)]
        np.testing.assert_allclose(patch[1], padded[1][box], atol=1e-6)
        np.testing.assert_array_equal(patch[2], padded[2][box])


def test_patches_are_balanced(tmp_path: Path, rng: np.random.Generator) -> None:
    # a large volume with vesicles in one corner, a dark sheet in another, and half of it not annotated
    grid = Grid((40, 40, 240), 3.3)
    _, vesicles = drawn_tomogram()
    vesicles = vesicles.select([0, 1]).replace(grid=grid)
    data = rng.normal(0, 1, grid.shape_zyx)
    data[:, :, 100:103] -= 6
    add_volume(
        tmp_path,
        "one",
        Tomogram(data.astype(np.float32), grid),
        vesicles,
        region=LeftOf(120 * 3.3),
        voxel_nm=3.3,
        source={},
    )
    source = DatasetPatches([Part.whole(v) for v in read_dataset(tmp_path).volumes], CLIPPED)
    patches = [source.patch(16, rng) for _ in range(200)]
    with_vesicle = np.mean([mask.any() for _, mask, _ in patches])
    with_sheet = np.mean([(grey.mean(axis=(0, 1)) < -2).any() for grey, _, _ in patches])
    assert 0.4 < with_vesicle < 0.8 and 0.12 < with_sheet < 0.45
    assert min(known.mean() for _, _, known in patches) > 0.2  # none where nobody has looked


def test_nothing_annotated(tmp_path: Path) -> None:
    drawn_dataset(tmp_path, region=LeftOf(-1000.0))
    with pytest.raises(DatasetError, match="nothing is annotated in one"):
        DatasetPatches([Part.whole(v) for v in read_dataset(tmp_path).volumes], CLIPPED)
