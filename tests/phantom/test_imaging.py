"""Imaging: places stay, dense is dark, the missing wedge is missing, noise is as asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.grid import Grid
from deepvesicle.phantom.imaging import FILTERS, Imaging, as_int8, image_scene, random_imaging
from deepvesicle.phantom.scene import Scene, random_scene
from deepvesicle.phantom.shapes import Bilayer, Canvas, add_ball, add_compartment
from deepvesicle.vesicles import Vesicles

VOXEL_NM = 2.0
GOLDEN = (0.3062343, 0.4590411, -0.870163, -0.5585408, 0.7413908, 1.115882, 1, 30.36254, -4.11605, 1.821228)
CLEAN = Imaging(contrast=50.0, misalignment_nm=0.0, damage=0.0)


def _scene(shape: tuple[int, int, int], centre: tuple[float, float, float], radius_nm: float | None) -> Scene:
    """One vesicle (or, without radius, a small dense ball) at a place in voxels."""
    canvas = Canvas(np.zeros(shape, dtype=np.float32), VOXEL_NM)
    place = np.array(centre) * VOXEL_NM
    grid = Grid(shape, VOXEL_NM)
    if radius_nm is None:
        add_ball(canvas, place, 5.0, 5.0)
        return Scene(canvas.density, grid, Vesicles.empty(grid))
    add_compartment(canvas, place, (radius_nm,) * 3, Bilayer(4.5, 1.0), 0.0, 0.0)
    middle = radius_nm / VOXEL_NM
    vesicles = Vesicles.from_spheres(
        grid,
        [centre],
        [middle + 2.25 / VOXEL_NM],
        membrane_radii_vox=[middle],
        thickness_vox=[4.5 / VOXEL_NM],
        features={"inside_fraction": [1.0]},
    )
    return Scene(canvas.density, grid, vesicles)


@pytest.mark.parametrize("centre", [(20.0, 30.0, 40.0), (14.3, 41.7, 52.2)])
def test_a_dense_ball_stays_in_its_place_and_is_dark(centre: tuple[float, float, float]) -> None:
    tomogram, _ = image_scene(_scene((40, 60, 88), centre, None), CLEAN, np.random.default_rng(0), 8)
    grey = tomogram.data
    assert grey.shape == (40, 60, 72)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grey.shape], indexing="ij"), axis=-1)
    found = np.array(np.unravel_index(np.argmin(grey), grey.shape), dtype=float)
    assert np.abs(found - (np.array(centre) - (0, 0, 8))).max() < 2.5  # inside the ball, whose rim may be darkest
    for _ in range(5):  # centre of mass in a round window that follows it
        weight = np.clip(-grey, 0, None) * np.exp(-0.5 * ((index - found) ** 2).sum(axis=-1) / 2.0**2)
        found = np.average(index.reshape(-1, 3), axis=0, weights=weight.ravel())
    np.testing.assert_allclose(found, np.array(centre) - (0, 0, 8), atol=0.15)


def test_truth_moves_with_the_margin() -> None:
    _, truth = image_scene(_scene((40, 60, 88), (20.0, 30.0, 44.0), 20.0), CLEAN, np.random.default_rng(0), 8)
    np.testing.assert_allclose(truth.centres_vox, [[20.0, 30.0, 36.0]])
    assert truth.grid.shape_zyx == (40, 60, 72)


def test_missing_wedge_hides_the_caps_and_the_fourier_wedge() -> None:
    tomogram, truth = image_scene(_scene((48, 64, 64), (24.0, 32.0, 32.0), 20.0), CLEAN, np.random.default_rng(0))
    grey, radius = tomogram.data, float(truth.membrane_radii_vox[0])
    around = grey[24, 32, 32]
    equator = around - grey[24, 32, int(round(32 + radius))]
    cap = around - grey[int(round(24 + radius)), 32, 32]
    assert equator > 0
    assert cap < 0.5 * equator
    power = np.abs(np.fft.fftn(grey)) ** 2
    kz, kx = np.fft.fftfreq(48)[:, None, None], np.fft.fftfreq(64)[None, None, :]
    radius_k = np.hypot(kz, kx)
    band = (radius_k > 0.08) & (radius_k < 0.3)
    angle = np.degrees(np.arctan2(np.abs(kz), np.abs(kx)))  # of the frequency from the kx axis
    shape = power.shape
    sampled = power[np.broadcast_to(band & (angle < 50), shape)].mean()
    missing = power[np.broadcast_to(band & (angle > 72), shape)].mean()
    assert missing < 0.15 * sampled


@pytest.mark.parametrize("contrast", [0.5, 1.0])
def test_noise_gives_the_contrast_asked_for(contrast: float) -> None:
    tomogram, truth = image_scene(
        _scene((64, 80, 80), (31.6, 40.2, 39.7), 30.0), replace(CLEAN, contrast=contrast), np.random.default_rng(2)
    )
    z, y, x = np.meshgrid(*[np.arange(n) for n in tomogram.data.shape], indexing="ij")
    centre, middle = truth.centres_vox[0], truth.membrane_radii_vox[0]
    distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    belt = np.abs(z - centre[0]) < 0.5 * distance
    wall = tomogram.data[belt & (np.abs(distance - middle) < 0.8)]
    lumen = tomogram.data[distance < middle - 3]
    assert (lumen.mean() - wall.mean()) / lumen.std() == pytest.approx(contrast, rel=0.12)


def test_phase_plate_and_defocus_both_give_dark_membranes_with_bright_fringes() -> None:
    for conditions in (CLEAN, replace(CLEAN, defocus_nm=500.0, phase_shift_rad=1.5)):
        tomogram, truth = image_scene(
            _scene((48, 72, 72), (24.0, 36.0, 36.0), 20.0), conditions, np.random.default_rng(0)
        )
        row = tomogram.data[24, 36, 36:]
        wall = int(round(truth.membrane_radii_vox[0]))
        assert row[wall] < row[wall + 4] and row[wall] < row[wall - 5]


def test_random_conditions_stay_in_range_and_every_filter_runs() -> None:
    drawn = [random_imaging(np.random.default_rng(i)) for i in range(200)]
    assert {d.filter for d in drawn} == set(FILTERS)
    assert all(0.28 <= d.contrast <= 3.5 and 10 < len(d.tilts_deg) < 112 for d in drawn)
    low = np.mean([d.contrast < 0.65 for d in drawn])
    assert low == pytest.approx(0.65, abs=0.1)  # most are of low contrast
    tilts = np.array([(min(d.tilts_deg), max(d.tilts_deg)) for d in drawn])
    assert np.ptp(tilts, axis=1).min() > 75 and np.abs(tilts).max() <= 72
    scene = _scene((32, 40, 40), (16.0, 20.0, 20.0), 16.0)
    plain, _ = image_scene(scene, replace(CLEAN, contrast=0.8), np.random.default_rng(1))
    for name, strength in (("gaussian", 1.0), ("diffusion", 5.0), ("median", 0.0)):
        conditions = replace(CLEAN, contrast=0.8, filter=name, filter_strength=strength)
        smooth, _ = image_scene(scene, conditions, np.random.default_rng(1))
        assert np.abs(np.diff(smooth.data, axis=2)).mean() < np.abs(np.diff(plain.data, axis=2)).mean()
    with pytest.raises(ValueError, match="unknown filter"):
        image_scene(scene, replace(CLEAN, filter="magic"), np.random.default_rng(1))


def test_eight_bits_keep_the_picture() -> None:
    tomogram, _ = image_scene(
        _scene((32, 40, 40), (16.0, 20.0, 20.0), 16.0), replace(CLEAN, contrast=0.8), np.random.default_rng(1)
    )
    stored = as_int8(tomogram, np.random.default_rng(0))
    assert stored.data.dtype == np.int8
    assert np.corrcoef(stored.data.ravel().astype(float), tomogram.data.ravel())[0, 1] > 0.99


def test_golden_tomogram() -> None:
    """Figures of one small tomogram, so that a change of the simulation is noticed; made by this program."""
    scene = random_scene(np.random.default_rng(7), (32, 48, 64), 2.2)
    tomogram, truth = image_scene(scene, Imaging(contrast=0.8), np.random.default_rng(8), 8)
    assert tomogram.data.shape == (32, 48, 48)
    found = [
        scene.density.mean(),
        scene.density.std(),
        *tomogram.data[16, 24, 20:24],
        len(truth),
        *truth.centres_vox[0],
    ]
    np.testing.assert_allclose(found, GOLDEN, rtol=5e-4)
