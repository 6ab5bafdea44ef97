"""What the benchmark of the model stands on: a tomogram at another voxel size is the same one, and sums are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepvesicle.grid import Grid, Tomogram
from deepvesicle.vesicles import Vesicles
from tests.benchmark.contest import Aim, Pool, line
from tests.benchmark.scenes import LIPOSOME_RADII_NM, coarser, is_nested, placed_liposomes, versions

#: A dark ball at a place between voxels, and its width (Gaussian sigma), nm.
PLACE_NM, SIGMA_NM = np.array([21.37, 30.11, 41.93]), 5.0


def ball(voxel_nm: float, shape: tuple[int, int, int], noise: float, rng: np.random.Generator) -> Tomogram:
    grid = Grid(shape, voxel_nm)
    away = np.moveaxis(np.indices(shape), 0, -1) * voxel_nm - PLACE_NM
    data = -np.exp(-0.5 * (away**2).sum(axis=-1) / SIGMA_NM**2) + noise * rng.normal(size=shape)
    return Tomogram(data.astype(np.float32), grid)


def centre_nm(tomogram: Tomogram) -> np.ndarray:
    """Centre of mass of what is dark."""
    weight = np.clip(-tomogram.grey() + np.median(tomogram.grey()), 0, None) ** 2
    points = np.indices(weight.shape).reshape(3, -1).T
    return tomogram.grid.to_nm(points).T @ weight.ravel() / weight.sum()


@pytest.mark.parametrize("voxel_nm", [1.7, 2.2, 2.8])
def test_larger_voxels_show_the_same_place_and_depth(voxel_nm: float, rng: np.random.Generator) -> None:
    small = ball(1.2, (40, 52, 67), 0.0, rng)
    large = coarser(small, voxel_nm)
    assert large.grid.voxel_nm == voxel_nm
    assert np.allclose(large.grid.to_nm([-0.5] * 3), small.grid.to_nm([-0.5] * 3))
    assert np.abs(centre_nm(large) - PLACE_NM).max() < 0.03
    points = np.indices(large.grid.shape_zyx).reshape(3, -1).T
    away = large.grid.to_nm(points) - PLACE_NM
    # what came out is the ball as it would have been computed there
    wanted = -np.exp(-0.5 * (away**2).sum(axis=1) / SIGMA_NM**2).reshape(large.grid.shape_zyx)
    assert np.abs(large.data - wanted).max() < 0.02


def test_what_larger_voxels_cannot_hold_is_gone(rng: np.random.Generator) -> None:
    noise = Tomogram(rng.normal(size=(44, 66, 66)).astype(np.float32), Grid((44, 66, 66), 1.0))
    large = coarser(noise, 2.2)
    # of white noise the share of the frequencies that are left, less the soft edge: no more, or it were aliased
    assert 0.5 * 2.2**-3 < np.var(large.data) < 2.2**-3


def test_versions_are_one_image(tmp_path: Path, rng: np.random.Generator) -> None:
    found = {name: (t.grid, centre_nm(t)) for name, t in versions(ball(1.2, (40, 52, 67), 0.002, rng), tmp_path, rng)}
    assert len(found) == 8
    assert {round(grid.voxel_nm, 3) for grid, _ in found.values()} == {1.2, 1.7, 2.2, 2.8}
    for name, (_, centre) in found.items():
        if "ramp" not in name:
            assert np.abs(centre - PLACE_NM).max() < 0.5, name


def test_liposomes_keep_apart(rng: np.random.Generator) -> None:
    size = np.array([300.0, 450.0, 450.0])
    centres, radii = placed_liposomes(rng, size)
    spheres = Vesicles.from_spheres(Grid((300, 450, 450), 1.0), centres, radii)
    nested = is_nested(spheres)
    assert 0 < nested.sum() < 0.2 * len(radii)
    assert min(radii) >= LIPOSOME_RADII_NM[0] and 60 < max(radii) <= LIPOSOME_RADII_NM[1]
    outer = spheres.select(~nested)
    gaps = np.linalg.norm(outer.centres_vox[:, None] - outer.centres_vox[None], axis=2)
    gaps -= outer.radii_vox[:, None] + outer.radii_vox[None]
    assert gaps[~np.eye(len(outer), dtype=bool)].min() >= 2


def test_pool_adds_tomograms_up() -> None:
    grid = Grid((100, 100, 100), 2.0)
    truth = Vesicles.from_spheres(grid, [[20, 20, 20], [60, 60, 60], [90, 90, 90]], [10.0, 25.0, 8.0])
    found = Vesicles.from_spheres(grid, [[20, 20, 21], [60, 62, 60], [5, 80, 5], [90, 90, 90]], [10.0] * 4)
    pool = Pool()
    counted = np.array([True, True, False])
    pool.add(found, truth, counted)
    pool.add(Vesicles.empty(grid), truth, counted)
    assert pool.counts() == "2 / 2 / 1" and pool.f1 == pytest.approx(4 / 7)
    assert pool.median_error_nm() == pytest.approx(3.0)
    assert pool.median_error_nm(40.0) == pytest.approx(4.0)
    assert np.isnan(pool.median_error_nm(60.0))


def test_aims() -> None:
    assert Aim(least=0.98).met(0.98) and not Aim(least=0.98).met(0.979)
    assert Aim(within=0.3).met(-0.3) and not Aim(within=0.3).met(-0.31)
    assert not Aim(most=1.0).met(float("nan"))
    assert (str(Aim(least=0.98)), str(Aim(within=0.3))) == ("at least 0.98", "within ±0.3")
    row = line("a", "b", [0.5, float("nan")], ".2f", Aim(most=0.4), [0.25])
    assert row.cells == ("0.50", "0.25", "-", "-") and row.missed
