"""The compiled loops compute what plain numpy and scipy do, on small random cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from deepvesicle.fitting.kernels import (
    candidate_sums,
    draw_shell,
    knot_products,
    polar_sums,
    shell_products,
    shell_steps,
    solve,
)
from deepvesicle.fitting.profile import direction_set, mirrored_directions
from deepvesicle.fitting.shell_fit import sphere_distance

SHAPE = (17, 21, 19)
VOXEL_NM = 1.7
CENTRE = (13.1, 18.4, 15.2)
RADIUS_NM, REACH_NM, STEP_NM = 9.3, 5.0, 0.02
OFFSETS_NM = np.arange(round(2 * REACH_NM / STEP_NM) + 1) * STEP_NM - REACH_NM
PROFILE = -np.cos(OFFSETS_NM * 1.1) * np.cos(OFFSETS_NM * np.pi / 2 / REACH_NM) ** 2


def padded(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], values, [0.0]]).astype(np.float32)


@pytest.fixture
def volumes(rng) -> tuple[np.ndarray, np.ndarray]:
    """A volume and a mask, both random."""
    return rng.normal(size=SHAPE).astype(np.float32), rng.uniform(0.2, 1, SHAPE).astype(np.float32)


def drawn(centre=CENTRE, radius: float = RADIUS_NM, *, mask=None, factor: float = 1.0) -> np.ndarray:
    """What `draw_shell` puts into an empty volume."""
    out = np.zeros(SHAPE, dtype=np.float32)
    mask = np.ones_like(out) if mask is None else mask
    draw_shell(
        out, mask, padded(PROFILE), (0, 0, 0), SHAPE, centre, radius, VOXEL_NM, REACH_NM, STEP_NM, factor
    )  # fmt: skip
    return out.astype(float)


def distances(centre=CENTRE) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    return np.asarray(np.sqrt(sum((a * VOXEL_NM - c) ** 2 for a, c in zip(axes, centre, strict=True))))


@pytest.mark.parametrize("binning", [1, 2])
def test_samples_along_rays_are_those_of_scipy(binning, rng):
    values = rng.normal(size=(12, 15, 18)).astype(np.float32)
    origin = np.array([4.5, 7.5, -2.5])
    low, high = origin - 0.5 * binning, origin + (np.array(values.shape) - 0.5) * binning
    # Near a corner, so that rays leave through three faces.
    centre = low + np.array([0.35, 0.4, 0.6]) * (high - low)
    radii = np.array([-2.0, 0.0, 1.3, 4.0, 7.7, 9.1]) * binning
    set_ = direction_set(500)
    hides = centre + np.array([[0, 6.0, 0], [3.0, -3.0, 2.0], [0, 0, -40.0]]) * binning
    sizes = np.array([3.5, 2.0, 34.0]) * binning
    sums, numbers = polar_sums(
        values, origin, float(binning), low, high, centre, set_.directions, set_.first, radii, hides, sizes
    )
    places = centre + set_.directions[:, None, :] * radii[None, :, None]
    seen = np.all((places >= low) & (places <= high), axis=2) & (radii >= 0)
    inside = seen.sum()
    seen &= np.all(np.linalg.norm(places[:, :, None, :] - hides, axis=3) >= sizes, axis=2)
    assert 0 < seen.sum() < 0.9 * inside < 0.9 * seen[:, 1:].size  # both masks and faces take their share
    samples = map_coordinates(
        values.astype(float), np.moveaxis((places - origin) / binning, 2, 0), order=1, mode="nearest"
    )
    np.testing.assert_array_equal(numbers, np.add.reduceat(seen, set_.first, axis=0, dtype=int))
    np.testing.assert_allclose(sums, np.add.reduceat(samples * seen, set_.first, axis=0), atol=1e-5)


def test_sums_over_patches_are_those_of_the_nearest_columns(rng):
    distance = rng.uniform(0, 30, (40, 11)).astype(np.float32)
    match, power = rng.normal(size=(2, 11, 25)).astype(np.float32)
    scale, first, step = 1.3, 4.0, 1.1
    found = candidate_sums(distance, match, power, scale, first, step)
    column = np.clip(np.rint((distance.astype(float) * scale - first) / step), 0, 24).astype(int)
    assert (column == 0).any() and (column == 24).any()
    for row, table in enumerate((match, power)):
        np.testing.assert_allclose(found[row], table[np.arange(11), column].sum(axis=1), atol=1e-5)


def test_a_drawn_shell_is_its_profile_over_the_distance(volumes):
    _, mask = volumes
    offset = distances() - RADIUS_NM
    wanted = np.where(np.abs(offset) <= REACH_NM, np.interp(offset, OFFSETS_NM, PROFILE), 0)
    assert np.any(wanted[0] != 0) and np.any(wanted == 0)  # it is cut by a face, and does not fill the volume
    np.testing.assert_allclose(drawn(), wanted, atol=2e-6)
    np.testing.assert_allclose(drawn(mask=mask, factor=-1.4), -1.4 * wanted * mask, atol=2e-6)


def test_a_shell_is_added_within_its_region_only(volumes):
    values, mask = volumes
    out = values.copy()
    start, stop = (3, 2, 5), (14, 20, 12)
    draw_shell(
        out, mask, padded(PROFILE), start, stop, CENTRE, RADIUS_NM, VOXEL_NM, REACH_NM, STEP_NM, 1.0
    )  # fmt: skip
    region = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    change = np.zeros(SHAPE)
    change[region] = drawn(mask=mask)[region]
    np.testing.assert_allclose(out - values, change, atol=2e-6)


def test_a_shell_smaller_than_its_reach_is_drawn():
    small = drawn(radius=3.0)
    offset = distances() - 3.0
    wanted = np.where(np.abs(offset) <= REACH_NM, np.interp(offset, OFFSETS_NM, PROFILE), 0)
    np.testing.assert_allclose(small, wanted, atol=2e-6)


def test_shell_products_are_derivatives_of_the_overlap(volumes):
    pull, mask = volumes
    slope = np.gradient(PROFILE, STEP_NM)
    found = shell_products(
        pull, mask, padded(PROFILE), padded(slope), (0, 0, 0), SHAPE, CENTRE, RADIUS_NM, VOXEL_NM, REACH_NM, STEP_NM
    )  # fmt: skip

    def overlap(change: np.ndarray) -> float:
        centre = tuple(float(v) for v in np.add(CENTRE, change[:3]))
        return float(np.vdot(drawn(centre, RADIUS_NM + change[3], mask=mask, factor=1 + change[4]), pull))

    step = 0.05
    for parameter in range(5):
        change = np.zeros(5)
        change[parameter] = step
        numerical = (overlap(change) - overlap(-change)) / (2 * step)
        # The table's values and their slope are each interpolated by themselves.
        assert found[parameter] == pytest.approx(numerical, rel=0.02, abs=0.05), parameter
    assert np.abs(found).min() > 0.5  # so that none of them is right by being small


def test_a_shell_about_a_voxel_has_finite_products(volumes):
    pull, mask = volumes
    centre = tuple(VOXEL_NM * n for n in (8, 9, 10))
    slope = padded(np.gradient(PROFILE, STEP_NM))
    found = shell_products(
        pull, mask, padded(PROFILE), slope, (0, 0, 0), SHAPE, centre, 3.0, VOXEL_NM, REACH_NM, STEP_NM
    )  # fmt: skip
    assert np.isfinite(found).all()


def test_knot_products_are_those_of_hats_over_the_distance(volumes):
    pull, mask = volumes
    knots, step = 11, 1.0
    found = knot_products(pull, mask, knots, (0, 0, 0), SHAPE, CENTRE, RADIUS_NM, VOXEL_NM, REACH_NM, step)
    offset = distances() - RADIUS_NM
    hats = [np.maximum(1 - np.abs(offset + REACH_NM - k * step) / step, 0) for k in range(knots)]
    np.testing.assert_allclose(found, [np.vdot(hat, pull * mask) for hat in hats], atol=1e-4)
    part = knot_products(pull, mask, knots, (2, 3, 4), (9, 20, 15), CENTRE, RADIUS_NM, VOXEL_NM, REACH_NM, step)
    region = (slice(2, 9), slice(3, 20), slice(4, 15))
    np.testing.assert_allclose(part, [np.vdot(hat[region], (pull * mask)[region]) for hat in hats], atol=1e-4)


@pytest.mark.parametrize("size", [1, 4, 21])
def test_systems_are_solved(size, rng):
    root = rng.normal(size=(size, size + 3))
    matrix, vector = root @ root.T, rng.normal(size=size)
    before = matrix.copy(), vector.copy()
    np.testing.assert_allclose(solve(matrix, vector), np.linalg.solve(matrix, vector), rtol=1e-8)
    np.testing.assert_array_equal(matrix, before[0])
    np.testing.assert_array_equal(vector, before[1])


# -- steps of the fit on rays: patches whose membranes lie on a known sphere -----------------------------------------

PATCHES = mirrored_directions(96)
SHIFT_NM, LARGE_NM, DEPTH, WIDTH_NM = np.array([1.3, -0.8, 0.6]), 20.0, 2.5, 2.0
FIRST_NM, SPACING_NM = 10.0, 0.1
DISTANCES_NM = FIRST_NM + SPACING_NM * np.arange(200)


def match_tables(membranes_nm: np.ndarray, power: np.ndarray, width_nm: float = WIDTH_NM) -> np.ndarray:
    """Tables (5, p, s) as for a template whose correlation with itself is a Gaussian: all is known of it."""
    u = (DISTANCES_NM[None, :] - membranes_nm[:, None]) / width_nm
    height = DEPTH * power[:, None] * np.exp(-0.5 * u**2)
    flat = np.repeat(power[:, None], len(DISTANCES_NM), axis=1)
    return np.stack([height, -u / width_nm * height, flat, 0 * flat, flat / width_nm**2])


def stepped(tables: np.ndarray, *, shares=None, start=(0.0, 0.0, 0.0, 18.5), steps: int = 12, prior=(6, 6, 6, 4)):
    shares = np.ones(len(PATCHES)) if shares is None else shares
    start = np.array(start)
    return shell_steps(
        tables, FIRST_NM, SPACING_NM, PATCHES, shares, 1.0, start, start.copy(), np.array(prior, dtype=float),
        steps, 1e-4, 1.5, 0.455,
    )  # fmt: skip


def true_membranes() -> np.ndarray:
    return sphere_distance(PATCHES, SHIFT_NM, LARGE_NM)


def test_steps_end_on_the_sphere():
    state, amplitude, hessian, robust, _, residual, match, power = stepped(
        match_tables(true_membranes(), np.ones(len(PATCHES)))
    )
    np.testing.assert_allclose(state, [*SHIFT_NM, LARGE_NM], atol=0.02)
    assert amplitude[0] == pytest.approx(DEPTH, rel=1e-3)
    assert np.abs(residual).max() < 0.02 and robust.min() > 0.9
    np.testing.assert_allclose(match, DEPTH, rtol=1e-3)
    np.testing.assert_allclose(power, 1)
    # The curvature of the misfit, summed over the patches.
    design = np.column_stack([PATCHES, np.ones(len(PATCHES))])
    np.testing.assert_allclose(hessian, DEPTH**2 / WIDTH_NM**2 * design.T @ design, rtol=0.01, atol=0.5)


def test_uneven_sampling_and_faint_caps_do_not_pull():
    """More samples further out, and less of the membrane's depth near the poles: as the fit is told of both."""
    slope, membranes = 0.06, true_membranes()[:, None]
    shares = 1 - 0.6 * np.abs(PATCHES[:, 0])
    count = 1 + slope * (DISTANCES_NM - 20)
    u = (DISTANCES_NM - membranes) / WIDTH_NM
    bell, between = DEPTH * shares[:, None] * np.exp(-0.5 * u**2), 1 + slope * ((DISTANCES_NM + membranes) / 2 - 20)
    power = np.repeat(count[None, :], len(PATCHES), axis=0)
    tables = np.stack(
        [bell * between, bell * (slope / 2 - u / WIDTH_NM * between), power, 0 * power + slope, power / WIDTH_NM**2]
    )
    state, amplitude, *_ = stepped(tables, shares=shares)
    np.testing.assert_allclose(state, [*SHIFT_NM, LARGE_NM], atol=0.01)
    assert amplitude[0] == pytest.approx(DEPTH, rel=1e-3)


def test_steps_are_no_longer_than_allowed():
    state = stepped(match_tables(true_membranes() + 3.0, np.ones(len(PATCHES))), steps=1)[0]
    assert np.abs(state - [0, 0, 0, 18.5]).max() == pytest.approx(1.5)


@pytest.mark.parametrize("steps", [24, 25])
def test_patches_that_disagree_are_dropped_and_stay_so(steps):
    membranes = true_membranes()
    wrong = PATCHES @ np.array([0.36, 0.48, 0.8]) > 0.75  # all on one side, where they pull most
    membranes[wrong] += 5.0
    assert 0.08 < wrong.mean() < 0.2
    # With a wide template, which they could pull on from afar; after an even and an odd number of steps.
    state, _, _, robust, *_ = stepped(match_tables(membranes, np.ones(len(PATCHES)), 4.5), steps=steps)
    np.testing.assert_allclose(state, [*SHIFT_NM, LARGE_NM], atol=0.03)
    assert np.all(robust[wrong] < 0.01) and np.all(robust[~wrong] > 0.9)


def test_hidden_patches_have_no_say():
    membranes, power = true_membranes(), np.ones(len(PATCHES))
    hidden = PATCHES[:, 1] > 0.6
    membranes[hidden] -= 2.0
    power[hidden] = 0.2
    state, _, _, robust, *_ = stepped(match_tables(membranes, power))
    np.testing.assert_allclose(state, [*SHIFT_NM, LARGE_NM], atol=0.02)
    np.testing.assert_array_equal(robust < 0, hidden)


def test_without_a_dark_membrane_the_start_stays():
    tables = match_tables(true_membranes(), np.ones(len(PATCHES)))
    tables[:2] *= -1
    state, amplitude, *_ = stepped(tables)
    assert amplitude[0] < 0
    np.testing.assert_array_equal(state, [0, 0, 0, 18.5])


def test_what_no_patch_sees_stays_as_expected(rng):
    """Only a belt is resolved, and its membranes are noisy: along z the prior alone decides."""
    belt = np.abs(PATCHES[:, 0]) < 0.15
    membranes = sphere_distance(PATCHES, SHIFT_NM * [0, 1, 1], LARGE_NM) + rng.normal(0, 0.3, len(PATCHES))
    tables = match_tables(membranes, np.ones(len(PATCHES)))
    free = stepped(tables, shares=belt.astype(float))[0]
    tight = stepped(tables, shares=belt.astype(float), prior=(0.05, 6, 6, 4))[0]
    np.testing.assert_allclose(free[1:3], SHIFT_NM[1:], atol=0.4)
    np.testing.assert_allclose(tight[1:3], SHIFT_NM[1:], atol=0.4)
    assert abs(tight[0]) < 0.3 * abs(free[0]) + 0.02
