"""Fits on rays reach shells that their starts are far off; the published scheme, too, to whole voxels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.fitting.profile import HALF_BILAYER_NM, landmark_table
from deepvesicle.fitting.rays import (
    MIN_SIGNIFICANCE,
    PROFILE_NM,
    RayFits,
    Task,
    fit_round,
    fit_shells,
    neighbours,
    trust,
)
from deepvesicle.fitting.shell_fit import Template
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.settings import RefinementSettings
from deepvesicle.vesicles import Status, Vesicles
from tests.benchmark.published import fit_published
from tests.fitting.membrane_shells import shell_tomogram

SETTINGS = RefinementSettings(tilt_range_deg=(-60.0, 60.0))
VOXEL_NM = 2.1
SHAPE = (46, 92, 107)
CENTRES = np.array([[21.3, 23.4, 26.2], [23.8, 64.1, 30.7], [22.4, 41.2, 76.9]])
MIDDLES = np.array([9.4, 11.2, 12.6])
ALL = np.ones(3, dtype=bool)


@pytest.fixture(scope="module")
def tomogram() -> Tomogram:
    return shell_tomogram(np.random.default_rng(11), SHAPE, VOXEL_NM, CENTRES, MIDDLES, contrast=1.0)


def starting(centres=CENTRES, radii=MIDDLES) -> RayFits:
    return RayFits.starting(np.array(centres), np.array(radii), HALF_BILAYER_NM / VOXEL_NM)


def round_of(task: Task, tomogram: Tomogram, work: RayFits, rows=(0, 1, 2), present=ALL) -> Template:
    return fit_round(task, tomogram, work, list(rows), present, Template.generic(), SETTINGS, map, None)


@pytest.mark.parametrize("scale", [0.8, 1.2])
@pytest.mark.parametrize("direction", [(1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, -0.8, -0.6), (0.58, 0.58, -0.58)])
def test_a_search_reaches_starts_that_are_far_off(tomogram, direction, scale):
    """By 30 % of the radius in any direction, and 20 % in size."""
    moved = CENTRES + 0.3 * MIDDLES[:, None] * np.array(direction)
    work = starting(moved, MIDDLES * scale)
    template = round_of(Task.SEARCH, tomogram, work)
    assert np.linalg.norm(work.centres - CENTRES, axis=1).max() < 0.5
    assert np.abs(work.radii - MIDDLES).max() < 0.4
    assert all(fit is not None and fit.significance > 10 for fit in work.fits)
    # The profiles it leaves are about the middle of the membrane, and so is the template made of them.
    lowest = PROFILE_NM[np.argmin(work.profiles, axis=1)]
    assert np.abs(lowest).max() < 1.2
    assert template.offsets_nm[np.argmin(template.values)] == pytest.approx(0, abs=0.3)


def test_a_fit_is_closer_than_a_search(tomogram):
    work = starting(CENTRES + 0.2, MIDDLES + 0.3)
    round_of(Task.FIT, tomogram, work)
    assert np.linalg.norm(work.centres - CENTRES, axis=1).max() < 0.2
    assert np.abs(work.radii - MIDDLES).max() < 0.15
    for row, fit in enumerate(work.fits):
        assert fit is not None
        sigma_vox = np.sqrt(np.diag(fit.covariance_nm2)) / VOXEL_NM
        assert np.all(np.abs(work.centres[row] - CENTRES[row]) < 4 * sigma_vox[:3])


def test_profiles_are_about_the_sphere_that_was_found(tomogram):
    """Though they were sampled about the one that the fit began with."""
    work = starting(CENTRES, MIDDLES + 0.4)
    once = replace(SETTINGS, max_iterations=1)
    fit_round(Task.FIT, tomogram, work, [0, 1, 2], ALL, Template.generic(), once, map, None)
    assert np.abs(work.radii - MIDDLES).max() < 0.2
    middles = landmark_table(PROFILE_NM, work.profiles)[:, 0]
    np.testing.assert_allclose(middles, (MIDDLES - work.radii) * VOXEL_NM, atol=0.3)
    halves = landmark_table(PROFILE_NM, work.profile_halves.reshape(6, -1))[:, 0]
    np.testing.assert_allclose(halves, np.repeat(middles, 2), atol=0.4)


def test_a_look_moves_nothing(tomogram):
    moved, sizes = CENTRES + [0.6, -0.4, 0.5], MIDDLES + 0.4
    work = starting(moved, sizes)
    round_of(Task.LOOK, tomogram, work)
    np.testing.assert_array_equal(work.centres, moved)
    np.testing.assert_array_equal(work.radii, sizes)
    assert all(fit is not None and fit.significance > MIN_SIGNIFICANCE for fit in work.fits)
    # What it sees is about the sphere that it was given, whose membrane is further in.
    lowest = PROFILE_NM[np.argmin(work.profiles, axis=1)]
    np.testing.assert_allclose(lowest, -0.4 * VOXEL_NM, atol=0.6)
    for fit in work.fits:  # and it says how far that is off
        assert fit is not None
        np.testing.assert_allclose(fit.displacement_nm, np.array([-0.6, 0.4, -0.5]) * VOXEL_NM, atol=0.4)


def test_only_the_rows_asked_for_are_touched(tomogram):
    work = starting(CENTRES + 1.0)
    round_of(Task.SEARCH, tomogram, work, [1])
    np.testing.assert_array_equal(work.centres[[0, 2]], CENTRES[[0, 2]] + 1.0)
    assert work.fits[0] is None and work.fits[1] is not None
    assert np.isnan(work.profiles[[0, 2]]).all() and np.isfinite(work.profiles[1]).all()


@pytest.mark.parametrize("task", Task)
def test_a_sphere_outside_the_volume_is_left_alone(tomogram, task):
    places = CENTRES.copy()
    places[1] = [20.0, 60.0, 900.0]
    work = starting(places)
    round_of(task, tomogram, work)
    assert work.fits[1] is None and work.fits[0] is not None and work.fits[2] is not None
    np.testing.assert_array_equal(work.centres[1], places[1])
    assert work.radii[1] == MIDDLES[1] and np.isnan(work.profiles[1]).all()
    assert trust(work)[1] == 0 and trust(work)[0] > 0


def test_the_profile_is_not_learned_from_noise(rng):
    noise = Tomogram(rng.normal(size=SHAPE).astype(np.float32), Grid(SHAPE, VOXEL_NM))
    work = starting()
    generic = Template.generic()
    found = fit_round(Task.LOOK, noise, work, [0, 1, 2], ALL, generic, SETTINGS, map, None)
    assert found is generic and not trust(work).any()


def test_those_next_to_a_sphere_are_its_neighbours():
    places = np.array([[0, 0, 0], [0, 0, 21], [0, 0, 2], [0, 0, 29], [0, 0, 31], [0, 22, 0], [0, 0, 9.0]])
    radii = np.array([10, 9, 8, 9.5, 9.5, 30, 4.0])
    present = np.array([True] * 7)
    centres, sizes = neighbours(places, radii, 0, present)
    # Not itself, nor one in the same place, nor one too far away, nor one that it lies in.
    np.testing.assert_array_equal(sizes, [9, 9.5, 4])
    np.testing.assert_array_equal(centres[:, 2], [21, 29, 9])
    present[1] = False
    np.testing.assert_array_equal(neighbours(places, radii, 0, present)[1], [9.5, 4])


def test_neighbours_that_are_known_do_not_pull():
    """Three much darker shells touch it on one side; where they are known, their voxels are left out."""
    centre, side = np.array([23.0, 46.0, 40.0]), np.array([[0, 0, 1], [0, 0.8, 0.6], [0, -0.8, 0.6]])
    places = np.concatenate([[centre], centre + side * (9.4 + 8.0 + 4.0 / VOXEL_NM)])
    radii = np.array([9.4, 8.0, 8.0, 8.0])
    # With the same noise, so that it is gone from the difference.
    one, four = (
        shell_tomogram(np.random.default_rng(2), SHAPE, VOXEL_NM, places[:n], radii[:n], contrast=1.0).data
        for n in (1, 4)
    )
    tomogram = Tomogram(one + 5 * (four - one), Grid(SHAPE, VOXEL_NM))

    def error(known: bool) -> float:
        work = starting(places, radii)
        round_of(Task.FIT, tomogram, work, [0], np.array([True, known, known, known]))
        return float(np.abs(work.centres[0] - centre).max())

    assert error(True) < 0.15 < 0.2 < error(False)


def test_shells_are_fitted_among_others(tomogram):
    centres, radii = CENTRES + [0.0, 1.2, -1.2], MIDDLES * 1.1
    before = centres.copy()
    found, sizes = fit_shells(tomogram, centres, radii, 2, SETTINGS)
    assert found.shape == (2, 3) and sizes.shape == (2,)
    assert np.linalg.norm(found - CENTRES[:2], axis=1).max() < 0.25
    assert np.abs(sizes - MIDDLES[:2]).max() < 0.2
    np.testing.assert_array_equal(centres, before)


def test_shells_that_are_not_found_come_back_as_they_were(tomogram):
    centres = np.array([[20.0, 60.0, 900.0], CENTRES[0] + [0, 0, 9.0], CENTRES[2]])
    radii = np.array([10.0, 4.0, MIDDLES[2] + 1])
    found, sizes = fit_shells(tomogram, centres, radii, 3, SETTINGS)
    np.testing.assert_array_equal(found[0], centres[0])
    assert sizes[0] == 10.0
    # One that ran off to a shell much larger than itself is put back; it does not spoil the other.
    np.testing.assert_array_equal(found[1], centres[1])
    assert np.linalg.norm(found[2] - CENTRES[2]) < 0.3
    nothing, none = fit_shells(tomogram, np.zeros((0, 3)), np.zeros(0), 0, SETTINGS)
    assert nothing.shape == (0, 3) and none.shape == (0,)


def test_the_published_scheme_finds_whole_voxels(tomogram):
    """The baseline of the benchmark is a fair one: it finds clear spheres apart from others, as well as it can."""
    starts = Vesicles.from_spheres(
        tomogram.grid,
        np.concatenate([CENTRES + 0.3 * MIDDLES[:, None] * [0.6, 0.0, 0.8], [[20.0, 60.0, 900.0]]]),
        np.append(MIDDLES + 1, 9.0),
    )
    fit = fit_published(tomogram, starts)
    assert fit.status == (Status.REFINED,) * 3 + (Status.PROPOSED,)
    for column in (fit.centres_vox, fit.radii_vox, fit.membrane_radii_vox, fit.thickness_vox):
        np.testing.assert_array_equal(column[:3], np.rint(column[:3]))
    np.testing.assert_array_equal(fit.centres_vox[3], starts.centres_vox[3])
    assert np.abs(fit.centres_vox[:3] - CENTRES).max() <= 1
    assert np.abs(fit.membrane_radii_vox[:3] - MIDDLES).max() <= 1
    np.testing.assert_array_equal(fit.radii_vox[:3], (fit.membrane_radii_vox + fit.thickness_vox / 2)[:3])
    assert np.all((fit.thickness_vox[:3] >= 2) & (fit.thickness_vox[:3] <= 6))
