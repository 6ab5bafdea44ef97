"""Spheres drawn by other means are fitted as one model: touching ones do not pull on each other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deepvesicle.fitting.joint import JointFit
from deepvesicle.fitting.profile import landmarks
from deepvesicle.fitting.shell_model import Profile, Sphere
from deepvesicle.grid import Grid, Tomogram
from tests.fitting.test_shell_model import CENTRE, SHAPE, VOXEL_NM, WEDGE, scene, thin_line, white

BOTH = np.array([True, True])
#: Two that touch: their membranes' middles are 4 nm apart, in no special direction.
RADII = (19.3, 16.1)
_ALONG = np.array([0.3, 0.62, -0.725])
PAIR = (
    np.array([55.0, 46.0, 90.0]),
    np.array([55.0, 46.0, 90.0]) + _ALONG / np.linalg.norm(_ALONG) * (RADII[0] + RADII[1] + 4.0),
)


def pair(depth: float = 1.0, rng: np.random.Generator | None = None, **more) -> Tomogram:
    return scene([(c, r, depth) for c, r in zip(PAIR, RADII, strict=True)], rng, tilts=WEDGE, **more)


def starts(move: float = 0.0, grow: float = 0.0) -> list[Sphere]:
    """Both spheres, moved along all axes towards each other, and grown; nm."""
    towards = np.sign(PAIR[1] - PAIR[0]) * move
    return [Sphere(PAIR[0] + towards, RADII[0] + grow), Sphere(PAIR[1] - towards, RADII[1] + grow)]


def errors(found: Sequence[Sphere]) -> np.ndarray:
    """Errors (2, 2) of centres and radii, nm."""
    return np.array(
        [(np.linalg.norm(s.centre_nm - c), abs(s.radius_nm - r)) for s, c, r in zip(found, PAIR, RADII, strict=True)]
    )


def joint(tomogram: Tomogram, spheres: Sequence[Sphere], profile: Profile | None = None) -> JointFit:
    fits = JointFit(tomogram, white(WEDGE), spheres)
    if profile is not None:
        fits.profile = profile
    return fits


def test_touching_spheres_do_not_pull_on_each_other():
    """Without noise, so that what is left is what they do to each other."""
    tomogram = pair()
    together = joint(tomogram, starts(0.8, -0.7), Profile.generic())
    for _ in range(4):
        together.fit([0, 1], BOTH, 8)
    alone = [joint(tomogram, [start], Profile.generic()) for start in starts(0.8, -0.7)]
    for fit in alone:
        for _ in range(4):
            fit.fit([0], np.array([True]), 8)
    left, pulled = errors(together.spheres), errors([fit.spheres[0] for fit in alone])
    assert left.max() < 0.02
    assert np.all(pulled > 5 * left) and pulled[:, 0].min() > 0.06


def test_in_noise_the_errors_are_those_that_it_says(rng):
    tomogram = pair(1.5, rng)
    fits = joint(tomogram, starts(1.0, 1.0), Profile.generic(1.5))
    for _ in range(3):
        fits.fit([0, 1], BOTH, 8)
    for sphere, fit, centre, radius in zip(fits.spheres, fits.fits, PAIR, RADII, strict=True):
        assert fit is not None and fit.sphere is sphere
        sigma = np.sqrt(np.diag(fit.covariance))
        error = np.append(sphere.centre_nm - centre, sphere.radius_nm - radius)
        assert np.all(np.abs(error) < 3.5 * sigma[:4]) and sigma[:4].max() < 0.2
        assert fit.gain > 100
        assert fit.sphere.depth == pytest.approx(1, abs=0.1)


def test_the_profile_is_learned_and_radii_move_to_its_middle(rng):
    tomogram = pair(3.0, rng, line=thin_line)
    fits = joint(tomogram, starts(0.3, 1.5))
    for _ in range(3):
        fits.learn([0, 1], BOTH)
        fits.fit([0, 1], BOTH, 8)
    offsets = Profile.offsets_nm()
    assert landmarks(offsets, fits.profile.values).middle_nm == pytest.approx(0, abs=0.1)
    own = landmarks(offsets, thin_line(offsets)).middle_nm
    inner = np.abs(offsets) < 9
    assert np.corrcoef(fits.profile.values[inner], thin_line(offsets + own)[inner])[0, 1] > 0.97
    assert fits.profile.values.min() == pytest.approx(-3, abs=0.4)
    for sphere, centre, radius in zip(fits.spheres, PAIR, RADII, strict=True):
        assert np.linalg.norm(sphere.centre_nm - centre) < 0.2
        assert sphere.radius_nm - own == pytest.approx(radius, abs=0.2)


def test_learning_from_some_moves_the_radii_of_all(rng):
    tomogram = pair(2.0, rng)
    before = starts(grow=1.2)
    fits = joint(tomogram, before)
    fits.learn([0], BOTH)
    change = [after.radius_nm - old.radius_nm for after, old in zip(fits.spheres, before, strict=True)]
    assert change[0] == change[1] and change[0] == pytest.approx(-1.2, abs=0.3)
    for after, old in zip(fits.spheres, before, strict=True):
        np.testing.assert_array_equal(after.centre_nm, old.centre_nm)
    assert fits.fits == [None, None]


def test_many_near_the_border_do_not_crowd_out_the_others(monkeypatch):
    """Their equations take long, so only some of them are used; whole ones further down the list still are."""
    used: list[Sphere] = []

    def recorded(examples, old, *_):
        used.extend(sphere for _, sphere, _ in examples)
        return old, 0.0

    monkeypatch.setattr("deepvesicle.fitting.joint.learn_profile", recorded)
    cut = [Sphere(np.array([5.0 + n, 60.0, 70.0]), 18.0) for n in range(20)]
    whole = starts()
    fits = joint(pair(), [*cut, *whole])
    fits.learn(range(22), np.zeros(22, dtype=bool))
    assert 1 < len(used) - 2 < 20 and used[-2:] == whole


def test_bright_shells_teach_nothing():
    fits = joint(pair(-2.0), starts())
    fits.learn([0, 1], BOTH)
    assert not np.any(fits.profile.values)
    assert [s.radius_nm for s in fits.spheres] == list(RADII)


def test_spheres_that_are_not_fitted_stay():
    before = starts(0.5, 0.5)
    fits = joint(pair(), before, Profile.generic())
    fits.fit([1], BOTH, 8)
    assert fits.spheres[0] is before[0] and fits.fits[0] is None
    assert fits.fits[1] is not None and fits.spheres[1] is fits.fits[1].sphere


def test_absent_spheres_are_not_in_the_model():
    tomogram = pair()
    fits = joint(tomogram, starts(0.5), Profile.generic())
    fits.fit([0], np.array([True, False]), 8)
    alone = joint(tomogram, starts(0.5)[:1], Profile.generic())
    alone.fit([0], np.array([True]), 8)
    np.testing.assert_array_equal(fits.spheres[0].centre_nm, alone.spheres[0].centre_nm)
    assert fits.spheres[0].radius_nm == alone.spheres[0].radius_nm
    beside = joint(tomogram, starts(0.5), Profile.generic())
    beside.fit([0], BOTH, 8)
    assert np.linalg.norm(beside.spheres[0].centre_nm - alone.spheres[0].centre_nm) > 0.05


def test_all_are_fitted_with_the_others_where_they_were():
    """So that the order does not matter."""
    fits, turned = (joint(pair(), starts(0.6, 0.4), Profile.generic()) for _ in range(2))
    fits.fit([0, 1], BOTH, 3)
    turned.fit([1, 0], BOTH, 3)
    for one, other in zip(fits.spheres, turned.spheres, strict=True):
        np.testing.assert_array_equal(one.centre_nm, other.centre_nm)
        assert one.radius_nm == other.radius_nm


def test_a_second_sphere_on_the_same_vesicle_is_no_neighbour():
    """Else the two would share it, each with half of the depth."""
    tomogram = scene([(CENTRE, 20.0, 1.0)], tilts=WEDGE)
    twice = joint(tomogram, [Sphere(CENTRE + 0.5, 20.5), Sphere(CENTRE - 4, 19.0)], Profile.generic())
    twice.fit([0], BOTH, 10)
    once = joint(tomogram, [Sphere(CENTRE + 0.5, 20.5)], Profile.generic())
    once.fit([0], BOTH[:1], 10)
    assert twice.spheres[0].depth == once.spheres[0].depth
    np.testing.assert_array_equal(twice.spheres[0].centre_nm, once.spheres[0].centre_nm)


def test_a_sphere_outside_the_volume_is_none_and_stays():
    away = Sphere(np.array([55.0, 46.0, 900.0]), 18.0)
    fits = joint(pair(), [*starts(0.3), away], Profile.generic())
    present = np.ones(3, dtype=bool)
    fits.learn([2, 0], present)
    fits.fit([0, 2], present, 8)
    assert fits.fits[2] is None and fits.spheres[2].centre_nm is away.centre_nm
    assert fits.fits[0] is not None


def test_nothing_to_fit():
    fits = JointFit(Tomogram(np.zeros(SHAPE, np.float32), Grid(SHAPE, VOXEL_NM)), white(), [])
    fits.learn([], np.zeros(0, dtype=bool))
    fits.fit([], np.zeros(0, dtype=bool), 8)
    assert fits.spheres == [] and fits.fits == [] and not np.any(fits.profile.values)


def test_progress_counts_the_fits_in_a_pool_too():
    seen: list[int] = []
    one, many = joint(pair(), starts(0.6), Profile.generic()), joint(pair(), starts(0.6), Profile.generic())
    one.fit([0, 1], BOTH, 4, seen.append)
    assert seen == [1, 1]
    with ThreadPoolExecutor(2) as pool:
        many.mapping = pool.map
        many.fit([0, 1], BOTH, 4)
    for a, b in zip(one.spheres, many.spheres, strict=True):
        np.testing.assert_array_equal(a.centre_nm, b.centre_nm)
