"""Rescaling: exact places, no aliasing, region by region the same as in one piece."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.normalise import LIMIT_SD, Normalisation
from deepvesicle.network.resample import sample_all, sample_region


def _blob(grid: Grid, place_nm: np.ndarray, sigma_nm: float) -> np.ndarray:
    axes = [np.arange(n) * grid.voxel_nm + o for n, o in zip(grid.shape_zyx, grid.origin_nm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    squared = (z - place_nm[0]) ** 2 + (y - place_nm[1]) ** 2 + (x - place_nm[2]) ** 2
    return np.exp(-0.5 * squared / sigma_nm**2).astype(np.float32)


@pytest.mark.parametrize("target_nm", [1.1, 2.2, 3.7])
def test_a_blob_keeps_its_place_in_nm(target_nm: float) -> None:
    grid = Grid((44, 60, 52), 1.7, (12.0, -30.0, 5.0))
    place = np.array([12 + 36.3, -30 + 57.1, 5 + 41.9])
    target = grid.rescaled(target_nm)
    values = sample_all(Tomogram(_blob(grid, place, 7.0), grid), target)
    assert values.shape == target.shape_zyx
    index = np.stack(np.meshgrid(*[np.arange(n) for n in values.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    found = np.average(target.to_nm(index), axis=0, weights=values.ravel())
    np.testing.assert_allclose(found, place, atol=0.08)


def test_equal_voxel_size_is_the_identity(rng: np.random.Generator) -> None:
    grid = Grid((9, 12, 15), 2.2)
    data = rng.normal(size=grid.shape_zyx).astype(np.float32)
    np.testing.assert_allclose(sample_all(Tomogram(data, grid), grid.rescaled(2.2)), data, atol=1e-6)
    np.testing.assert_allclose(sample_all(Tomogram(data, grid, invert=True), grid), -data, atol=1e-6)


def test_what_is_read_is_no_part_of_the_tomogram(rng: np.random.Generator) -> None:
    grid = Grid((9, 12, 15), 2.2)
    data = rng.normal(size=grid.shape_zyx).astype(np.float32)
    values = sample_all(Tomogram(data, grid), grid)
    assert values.flags.writeable and not np.may_share_memory(values, data)


@pytest.mark.parametrize("target_nm", [0.9, 1.7, 2.6])
def test_pieces_of_bounded_size_are_the_same(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, target_nm: float
) -> None:
    grid = Grid((30, 41, 52), 1.7)
    tomogram = Tomogram(rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    whole = sample_all(tomogram, grid.rescaled(target_nm))
    monkeypatch.setattr("deepvesicle.network.resample._SOURCE_VOXELS", 9_000)
    np.testing.assert_allclose(sample_all(tomogram, grid.rescaled(target_nm)), whole, atol=1e-6)


@pytest.mark.parametrize("target_nm", [1.3, 4.1])
def test_regions_equal_the_whole(rng: np.random.Generator, target_nm: float) -> None:
    grid = Grid((30, 41, 52), 2.0)
    tomogram = Tomogram(rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    target = grid.rescaled(target_nm)
    whole = sample_all(tomogram, target)
    region = (slice(2, 9), slice(0, 11), slice(target.shape_zyx[2] - 6, target.shape_zyx[2]))
    np.testing.assert_allclose(sample_region(tomogram, target, region), whole[region], atol=1e-5)


def test_coarser_sampling_averages_noise_away(rng: np.random.Generator) -> None:
    grid = Grid((60, 60, 60), 1.0)
    tomogram = Tomogram(rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    coarse = sample_all(tomogram, grid.rescaled(3.0))
    assert coarse.std() < 0.25  # 27 voxels of unit noise; a plain pick would keep 1


def test_normalisation_leaves_gold_and_padding_out(rng: np.random.Generator) -> None:
    data = rng.normal(100, 7, (20, 60, 60)).astype(np.float32)
    plain = Normalisation.of([data])
    assert plain.mean == pytest.approx(100, abs=0.2) and plain.sd == pytest.approx(7, rel=0.03)
    gold = data.copy()
    gold[:2, :5, :5] = -5000
    padded = np.concatenate([gold, np.full((15, 60, 60), 100.0, np.float32)])
    robust = Normalisation.of([gold, padded])
    assert robust.sd == pytest.approx(7, rel=0.05)
    values = robust.apply(gold)
    assert values.min() == -LIMIT_SD and abs(values.mean()) < 0.05
    assert Normalisation.of([np.full((4, 4, 4), 3.0, np.float32)]).sd == 1.0
