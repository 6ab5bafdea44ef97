"""Spheres drawn into white noise by other means are fitted: place, radius, depth, their covariance, and the profile."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.fitting.profile import landmarks
from deepvesicle.fitting.shell_model import (
    REACH_NM,
    Patch,
    Profile,
    Sphere,
    _columns,
    cut_patch,
    fit_sphere,
    learn_profile,
    rendered_gain,
)
from deepvesicle.fitting.whitening import BOX, Whitening
from deepvesicle.grid import Grid, Tomogram
from tests.fitting.wedge_noise import dark_line, distances_nm, through

SHAPE = (56, 66, 74)
VOXEL_NM = 2.0
WHOLE = (-90.0, 90.0)
WEDGE = (-60.0, 60.0)
CENTRE = np.array([54.3, 67.9, 71.1])
RADIUS_NM = 23.7


def white(tilts: tuple[float, float] = WHOLE) -> Whitening:
    """Weights of white noise of variance 1, not estimated but known."""
    line = np.arange(-BOX // 2, BOX // 2 + 1) / BOX
    angle = np.degrees(np.arctan2(line[:, None, None], np.arange(BOX // 2 + 1)[None, None, :] / BOX))
    seen = np.broadcast_to((angle >= tilts[0]) & (angle <= tilts[1]), (BOX + 1, BOX + 1, BOX // 2 + 1))
    return Whitening(seen.astype(np.float32), VOXEL_NM, tilts)


def scene(
    spheres: list[tuple[np.ndarray, float, float]],
    rng: np.random.Generator | None = None,
    *,
    shape: tuple[int, int, int] = SHAPE,
    tilts: tuple[float, float] = WHOLE,
    line=dark_line,
) -> Tomogram:
    """Spheres (centre nm, radius nm, depth), in white noise of SD 1 where a generator is given."""
    grey = np.zeros(shape)
    for centre, radius, depth in spheres:
        offset = distances_nm(shape, VOXEL_NM, centre) - radius
        grey += depth * np.where(np.abs(offset) < REACH_NM, line(offset), 0)
    if rng is not None:
        grey += rng.normal(size=shape)
    return Tomogram(through(grey, tilts).astype(np.float32), Grid(shape, VOXEL_NM))


def patch_of(
    tomogram: Tomogram, tilts: tuple[float, float] = WHOLE, radius_nm: float = RADIUS_NM, centre=CENTRE
) -> Patch:
    patch = cut_patch(tomogram, white(tilts), centre, radius_nm + REACH_NM + 8)
    assert patch is not None
    return patch


def test_derivatives_are_those_of_the_rendered_sphere():
    patch = patch_of(scene([]))
    profile = Profile.generic()
    sphere = Sphere(CENTRE, RADIUS_NM)
    region, columns, shell = _columns(patch, sphere, profile)
    step = 0.4  # nm: several steps of the profile's table

    def drawn(change: np.ndarray) -> np.ndarray:
        moved = Sphere(CENTRE + change[:3], RADIUS_NM + change[3], 1 + change[4])
        return -(patch.without([moved], profile) - patch.values)

    # The columns take the table's nearest value, the drawn sphere interpolates: half a step apart at most.
    half_a_step = 0.51 * float(np.abs(np.diff(profile.values)).max())
    np.testing.assert_allclose(drawn(np.zeros(5))[region], shell, atol=half_a_step)
    assert abs(np.mean(drawn(np.zeros(5))[region] - shell)) < 0.01 * half_a_step
    for parameter in range(5):
        change = np.zeros(5)
        change[parameter] = step
        slope = (drawn(change) - drawn(-change))[region] / (2 * step)
        # The steps of the table are noise to the difference, but not to its size.
        both = float(np.vdot(slope, columns[parameter]))
        assert both / np.vdot(columns[parameter], columns[parameter]) == pytest.approx(1, abs=0.04), parameter
        assert both / (np.linalg.norm(slope) * np.linalg.norm(columns[parameter])) > 0.99, parameter


def test_a_rendered_sphere_is_the_drawn_one():
    tomogram = scene([(CENTRE, RADIUS_NM, 1.3)])
    patch = patch_of(tomogram)
    # The box has lost its mean, which whitening leaves out anyway.
    left = patch.without([Sphere(CENTRE, RADIUS_NM, 1.3)], Profile.generic())
    inside = patch.mask == 1
    assert np.std(left[inside]) < 0.03 * np.std(patch.values[inside])


@pytest.mark.parametrize("tilts", [WHOLE, WEDGE, (-50.0, 60.0)])
def test_place_and_radius_are_recovered(tilts, rng):
    tomogram = scene([(CENTRE, RADIUS_NM, 1.0)], rng, tilts=tilts)
    start = Sphere(CENTRE + [2.1, -1.7, 1.4], RADIUS_NM * 0.94)
    fit = fit_sphere(patch_of(tomogram, tilts), start, Profile.generic(), [], steps=30)
    assert fit is not None
    sigma = np.sqrt(np.diag(fit.covariance))
    error = np.append(fit.sphere.centre_nm - CENTRE, fit.sphere.radius_nm - RADIUS_NM)
    assert np.linalg.norm(error[:3]) < 0.4 and abs(error[3]) < 0.25
    assert np.all(np.abs(error) < 4 * sigma[:4])
    assert fit.sphere.depth == pytest.approx(1, abs=0.12)
    assert fit.gain > 100


def test_the_wedge_costs_precision_along_the_beam(rng):
    whole = fit_sphere(
        patch_of(scene([(CENTRE, RADIUS_NM, 1.0)], rng)), Sphere(CENTRE, RADIUS_NM), Profile.generic(), []
    )
    tomogram = scene([(CENTRE, RADIUS_NM, 1.0)], rng, tilts=WEDGE)
    lost = fit_sphere(patch_of(tomogram, WEDGE), Sphere(CENTRE, RADIUS_NM), Profile.generic(), [])
    assert whole is not None and lost is not None
    ratio = np.sqrt(np.diag(lost.covariance) / np.diag(whole.covariance))
    assert ratio[0] > 1.3 and ratio[0] > ratio[2] and ratio[0] > ratio[1]
    assert np.all(ratio > 0.99)


def test_neighbours_in_the_model_do_not_pull(rng):
    # Two that nearly touch it, one of them much darker.
    beside = (CENTRE + [0, 0, RADIUS_NM + 20 + 3.0], 20.0, 4.0)
    below = (CENTRE + [0, -(RADIUS_NM + 15 + 5.0), 0], 15.0, 1.0)
    neighbours = [Sphere(*beside), Sphere(*below)]
    start = Sphere(CENTRE + [1.0, 1.0, -1.0], RADIUS_NM)

    def error(generator: np.random.Generator | None, others: list[Sphere]) -> tuple[float, float]:
        tomogram = scene([(CENTRE, RADIUS_NM, 1.0), beside, below], generator, tilts=WEDGE)
        fit = fit_sphere(patch_of(tomogram, WEDGE), start, Profile.generic(), others, steps=20)
        assert fit is not None
        return float(np.linalg.norm(fit.sphere.centre_nm - CENTRE)), abs(fit.sphere.radius_nm - RADIUS_NM)

    assert max(error(rng, neighbours)) < 0.3
    # Without noise: what the neighbours alone do to the fit.
    assert error(None, neighbours)[0] < 0.03
    assert error(None, [])[0] > 2 * error(None, neighbours)[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sphere_cut_by_a_face_is_recovered(axis, rng):
    centre = CENTRE.copy()
    centre[axis] = 7.3
    tomogram = scene([(centre, RADIUS_NM, 1.2)], rng)
    start = Sphere(centre + 1.2, RADIUS_NM + 1.0)
    fit = fit_sphere(patch_of(tomogram, centre=centre), start, Profile.generic(), [], steps=20)
    assert fit is not None
    assert np.linalg.norm(fit.sphere.centre_nm - centre) < 0.6
    assert abs(fit.sphere.radius_nm - RADIUS_NM) < 0.4


def test_blocks_of_two_voxels_give_the_same_place(rng):
    tomogram = scene([(CENTRE, 31.0, 1.5)], rng)
    patch = cut_patch(tomogram, white(), CENTRE, 31 + REACH_NM + 8, coarser=2)
    assert patch is not None and patch.voxel_nm == 4.0
    fit = fit_sphere(patch, Sphere(CENTRE + 1, 31.5), Profile.generic(), [], steps=20)
    assert fit is not None
    # A block's centre lies between those of its voxels: a mistake there would be 1 nm along each axis.
    assert np.linalg.norm(fit.sphere.centre_nm - CENTRE) < 0.4


@pytest.mark.parametrize("tilts", [WHOLE, WEDGE])
def test_the_covariance_is_that_of_the_errors(tilts):
    errors = []
    for seed in range(30):
        tomogram = scene([(CENTRE, RADIUS_NM, 0.8)], np.random.default_rng(seed), tilts=tilts)
        profile = Profile.generic(0.8)
        fit = fit_sphere(patch_of(tomogram, tilts), Sphere(CENTRE, RADIUS_NM), profile, [], steps=15)
        assert fit is not None
        error = np.append(fit.sphere.centre_nm - CENTRE, fit.sphere.radius_nm - RADIUS_NM)
        errors.append(error / np.sqrt(np.diag(fit.covariance))[:4])
    z = np.sqrt(np.mean(np.square(errors), axis=0))
    assert np.all((z > 0.6) & (z < 1.6)), z


def thin_line(offset_nm: np.ndarray) -> np.ndarray:
    """Another profile: narrower, with a bright side inside alone."""
    return np.asarray(-np.exp(-0.5 * (offset_nm / 1.7) ** 2) + 0.35 * np.exp(-0.5 * ((offset_nm + 6) / 2) ** 2))


@pytest.mark.parametrize("shift_nm", [0.0, 1.2, -1.5])
def test_a_profile_is_learned_with_its_middle(shift_nm, rng):
    """All radii are wrong by the same length, which must come out as the shift, whatever the sign."""
    places = [(CENTRE, 20.0), (CENTRE + [0, 4.1, -3.3], 26.0), (CENTRE + [3.2, 0, 5.5], 17.0)]
    examples = []
    for centre, radius in places:
        tomogram = scene([(centre, radius, 3.0)], rng, line=thin_line)
        patch = patch_of(tomogram, radius_nm=radius, centre=centre)
        examples.append((patch, Sphere(centre, radius - shift_nm), []))
    profile, shift = learn_profile(examples, Profile.generic(0.0), Profile.generic())
    offsets = Profile.offsets_nm()
    assert landmarks(offsets, profile.values).middle_nm == pytest.approx(0, abs=0.1)
    # Its own middle lies a little outside, because of the bright side.
    own = landmarks(offsets, thin_line(offsets)).middle_nm
    assert shift == pytest.approx(shift_nm + own, abs=0.25)
    inner = np.abs(offsets) < 9
    truth = 3 * thin_line(offsets + own)
    assert np.corrcoef(profile.values[inner], truth[inner])[0, 1] > 0.97
    assert np.sqrt(np.mean((profile.values - truth)[inner] ** 2)) < 0.3


def test_without_a_membrane_no_profile_is_learned(rng):
    bright = scene([(CENTRE, RADIUS_NM, -2.0)], rng)
    old = Profile.generic(0.7)
    profile, shift = learn_profile([(patch_of(bright), Sphere(CENTRE, RADIUS_NM), [])], old, Profile.generic())
    assert profile is old and shift == 0


@pytest.mark.parametrize("tilts", [WHOLE, WEDGE])
def test_gain_is_that_of_a_dark_shell(tilts, rng):
    sphere, profile = Sphere(CENTRE, RADIUS_NM), Profile.generic()
    dark = patch_of(scene([(CENTRE, RADIUS_NM, 1.0)], tilts=tilts), tilts)
    offset = distances_nm(SHAPE, VOXEL_NM, CENTRE) - RADIUS_NM
    signal = np.where(np.abs(offset) < REACH_NM, dark_line(offset), 0)
    seen = through(signal, tilts)
    # Noise of SD 1: half the energy of what was measured of it.
    assert rendered_gain(dark, sphere, profile) == pytest.approx(0.5 * (seen**2).sum(), rel=0.1)
    bright = patch_of(scene([(CENTRE, RADIUS_NM, -1.0)], tilts=tilts), tilts)
    assert rendered_gain(bright, sphere, profile) == 0
    assert rendered_gain(dark, Sphere(CENTRE, RADIUS_NM + 8), profile) < 0.1 * rendered_gain(dark, sphere, profile)
    # What a neighbour explains does not count for the sphere.
    assert rendered_gain(dark, sphere, profile, [sphere]) < 0.01 * rendered_gain(dark, sphere, profile)
    assert rendered_gain(dark, Sphere(CENTRE + 500, RADIUS_NM), profile) == 0


def test_boxes_with_nan_and_boxes_outside_are_none():
    tomogram = scene([])
    tomogram.data[20, 30, 30] = np.nan
    assert cut_patch(tomogram, white(), CENTRE, 40) is None
    assert cut_patch(tomogram, white(), np.array([500.0, 0, 0]), 40) is None
    assert cut_patch(tomogram, white(), np.array([100.0, 120, 130]), 12) is not None


def test_a_sphere_outside_the_box_is_not_fitted():
    patch = patch_of(scene([]))
    assert fit_sphere(patch, Sphere(CENTRE + 300, RADIUS_NM), Profile.generic(), []) is None


def test_a_flat_box_gives_finite_numbers():
    fit = fit_sphere(patch_of(scene([])), Sphere(CENTRE, RADIUS_NM), Profile.generic(), [])
    assert fit is not None
    assert np.isfinite(fit.sphere.centre_nm).all() and np.isfinite(fit.covariance).all() and np.isfinite(fit.gain)
    assert fit.gain <= 0


def test_numbers_of_one_small_case():
    """Without noise: changes of the method show here first."""
    tomogram = scene([(np.array([31.0, 30.2, 29.7]), 15.4, 1.1)], shape=(32, 32, 30), tilts=WEDGE)
    patch = cut_patch(tomogram, white(WEDGE), np.array([31.0, 30, 30]), 40)
    assert patch is not None
    fit = fit_sphere(patch, Sphere(np.array([30.0, 31.0, 30.0]), 16.0), Profile.generic(), [])
    assert fit is not None
    np.testing.assert_allclose(fit.sphere.centre_nm, [31.026, 30.180, 29.691], atol=0.003)
    assert fit.sphere.radius_nm == pytest.approx(15.389, abs=0.003)
    # Less than the 1.1 it was drawn with: a depth other than 1 has to be earned.
    assert fit.sphere.depth == pytest.approx(1.0355, abs=0.003)
    sigma = np.sqrt(np.diag(fit.covariance))
    np.testing.assert_allclose(sigma, [0.1083, 0.0823, 0.0694, 0.0479, 0.0354], rtol=0.02)
    assert fit.gain == pytest.approx(414.5, rel=0.02)
