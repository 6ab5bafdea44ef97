"""The sphere around a place is found among all that could be there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.fitting.shell_fit import Template
from deepvesicle.fitting.sphere_search import search_sphere
from deepvesicle.grid import Grid, Tomogram
from tests.fitting.membrane_shells import line_profile, shell_tomogram
from tests.fitting.wedge_noise import distances_nm, through

TILTS = ((-60.0, 60.0), "y")
SHAPE = (60, 72, 84)
VOXEL_NM = 2.0
CENTRE = np.array([58.6, 71.3, 84.9])
RADII = (8.0, 40.0)


def one_shell(rng, centre_nm=CENTRE, radius_nm=22.3, contrast=1.0, shape=SHAPE, voxel_nm=VOXEL_NM) -> Tomogram:
    centres, radii = np.array([centre_nm]) / voxel_nm, np.array([radius_nm]) / voxel_nm
    return shell_tomogram(rng, shape, voxel_nm, centres, radii, contrast=contrast)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("share", [-0.5, 0.5])
def test_a_click_half_a_radius_off_finds_the_sphere(axis, share, rng):
    radius = 22.3
    tomogram = one_shell(rng, radius_nm=radius)
    place = CENTRE.copy()
    place[axis] += share * radius
    found = search_sphere(tomogram, place, RADII, Template.generic(), TILTS)
    assert np.linalg.norm(found[0].centre_nm - CENTRE) < 1.5
    assert found[0].radius_nm == pytest.approx(radius, abs=0.8)
    assert found[0].significance > 8
    assert all(a.significance >= b.significance for a, b in zip(found, found[1:], strict=False))


@pytest.mark.parametrize(("radius", "voxel_nm"), [(11.0, 1.7), (16.0, 0.9), (35.0, 3.1)])
def test_sizes_and_voxels(radius, voxel_nm, rng):
    shape = tuple(int(n * 2 / voxel_nm) for n in SHAPE)
    tomogram = one_shell(rng, radius_nm=radius, shape=shape, voxel_nm=voxel_nm)
    place = CENTRE + np.array([-0.2, 0.25, 0.2]) * radius
    best = search_sphere(tomogram, place, RADII, Template.generic(), TILTS)[0]
    assert np.linalg.norm(best.centre_nm - CENTRE) < 1.5
    assert best.radius_nm == pytest.approx(radius, abs=0.9)


@pytest.mark.parametrize("radius", [47.0, 60.0])
def test_large_spheres(radius, rng):
    """These are looked for in blocks of twice the size."""
    shape = (60, 90, 96)
    centre = np.array([95.0, 140.3, 151.7])
    tomogram = one_shell(rng, centre, radius, shape=shape, voxel_nm=3.2)
    place = centre + np.array([10.0, -15, 12])
    best = search_sphere(tomogram, place, (10.0, 90.0), Template.generic(), TILTS)[0]
    assert np.linalg.norm(best.centre_nm - centre) < 2.5
    assert best.radius_nm == pytest.approx(radius, abs=1.5)


@pytest.mark.parametrize("seed", range(3))
def test_a_strong_flat_membrane_is_not_preferred_to_a_faint_closed_one(seed):
    rng = np.random.default_rng(seed)
    radius = 20.0
    signal = np.where(np.abs(o := distances_nm(SHAPE, VOXEL_NM, CENTRE) - radius) < 14, line_profile(o, VOXEL_NM), 0)
    flat = np.arange(SHAPE[2])[None, None, :] * VOXEL_NM - (CENTRE[2] + radius + 9) + np.zeros(SHAPE)
    signal = signal + 4 * np.where(np.abs(flat) < 14, line_profile(flat, VOXEL_NM), 0)
    grey = through(signal + rng.normal(size=SHAPE), TILTS[0]).astype(np.float32)
    tomogram = Tomogram(grey, Grid(SHAPE, VOXEL_NM))
    best = search_sphere(tomogram, CENTRE + np.array([3.0, -4, 3]), RADII, Template.generic(), TILTS)[0]
    assert np.linalg.norm(best.centre_nm - CENTRE) < 2
    assert best.radius_nm == pytest.approx(radius, abs=1.2)


def test_a_masked_neighbour_does_not_disturb(rng):
    """A faint shell beside a strong one."""
    radius, other = 18.0, CENTRE + np.array([0.0, 0.0, 18.0 + 24 + 2])
    signal = np.zeros(SHAPE)
    for centre, size, depth in ((CENTRE, radius, 0.8), (other, 24.0, 5.0)):
        offset = distances_nm(SHAPE, VOXEL_NM, centre) - size
        signal += depth * np.where(np.abs(offset) < 14, line_profile(offset, VOXEL_NM), 0)
    grey = through(signal + rng.normal(size=SHAPE), TILTS[0]).astype(np.float32)
    tomogram = Tomogram(grey, Grid(SHAPE, VOXEL_NM))
    masks = (np.array([other / VOXEL_NM]), np.array([27.0 / VOXEL_NM]))
    place = CENTRE - 3
    best = search_sphere(tomogram, place, RADII, Template.generic(), TILTS, masks)[0]
    plain = search_sphere(tomogram, place, RADII, Template.generic(), TILTS)[0]
    assert np.linalg.norm(best.centre_nm - CENTRE) < 1.5
    assert best.radius_nm == pytest.approx(radius, abs=1.0)
    assert best.significance > 1.5 * plain.significance


def test_the_list_is_short_and_of_different_spheres(rng):
    found = search_sphere(one_shell(rng), CENTRE, RADII, Template.generic(), TILTS, best=4)
    assert 1 <= len(found) <= 4
    assert len({(tuple(np.round(f.centre_nm, 1)), round(f.radius_nm, 1)) for f in found}) == len(found)


def test_a_place_outside_the_sphere_that_is_asked_for_does_not_give_it(rng):
    tomogram = one_shell(rng, radius_nm=20.0)
    place = CENTRE + np.array([0, 0, 12.0])
    found = search_sphere(tomogram, place, RADII, Template.generic(), TILTS, max_offset=0.13)
    assert all(np.linalg.norm(f.centre_nm - CENTRE) > 1 or f.significance < 8 for f in found[:1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_box_that_is_not_finite_gives_nothing(bad, rng):
    tomogram = one_shell(rng)
    data = tomogram.data.copy()
    data[30, 35, 40] = bad
    assert search_sphere(replace(tomogram, data=data), CENTRE, RADII, Template.generic(), TILTS) == []


def test_a_place_outside_the_tomogram_gives_nothing(rng):
    far = np.array([1000.0, 1000, 1000])
    assert search_sphere(one_shell(rng), far, RADII, Template.generic(), TILTS) == []


def test_a_flat_tomogram_gives_nothing_significant():
    tomogram = Tomogram(np.full(SHAPE, 3.0, dtype=np.float32), Grid(SHAPE, VOXEL_NM))
    found = search_sphere(tomogram, CENTRE, RADII, Template.generic(), TILTS)
    assert all(f.significance < 3 for f in found)
