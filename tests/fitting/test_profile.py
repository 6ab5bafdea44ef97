"""Sampling along radii, weights by direction, and landmarks of a membrane's profile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.fitting.profile import (
    direction_set,
    landmark_table,
    landmarks,
    mirrored_directions,
    patch_weights,
    radial_mean,
    read_box,
    resolved_weight,
    sample_polar,
    shell_template,
    working_binning,
)
from deepvesicle.grid import Grid, Tomogram


def as_set(points: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(p) for p in np.round(points, 9) + 0.0}


def radial_tomogram(shape, centre, function, voxel_nm=2.0) -> Tomogram:
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)))
    return Tomogram(function(distance).astype(np.float32), Grid(shape, voxel_nm))


@pytest.mark.parametrize("count", [16, 96, 700])
def test_directions_are_unit_and_keep_their_set_under_mirrors(count):
    directions = mirrored_directions(count)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    assert abs(len(directions) - count) <= 0.2 * count + 16
    for turned in (directions * [-1, 1, 1], directions * [1, -1, 1], directions * [1, 1, -1], directions[:, [0, 2, 1]]):
        assert as_set(turned) == as_set(directions)


def test_directions_are_quasi_uniform():
    directions = mirrored_directions(2000)
    # Mean of n n^T over the sphere is 1/3 of the unit matrix, and every cap holds its share.
    np.testing.assert_allclose(directions.T @ directions / len(directions), np.eye(3) / 3, atol=0.01)
    caps = mirrored_directions(100)
    share = (directions @ caps.T > np.cos(np.radians(30))).mean(axis=0)
    np.testing.assert_allclose(share, (1 - np.cos(np.radians(30))) / 2, rtol=0.2)


def test_patches_hold_all_directions_nearest_to_them():
    set_ = direction_set(1000)
    counts = np.diff(np.append(set_.first, len(set_.directions)))
    assert counts.sum() == len(set_.directions) and counts.min() >= 1
    owner = np.repeat(np.arange(len(counts)), counts)
    assert np.all((set_.directions * set_.patches[owner]).sum(axis=1) > np.cos(np.radians(25)))


def test_resolution_follows_the_missing_wedge():
    axes = np.array([[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]])  # along x, y, z
    along_x, along_y, along_z = resolved_weight(axes, (-60, 60))
    assert along_x > 0.99 and 0.5 < along_y < 1 and along_z < 0.05
    turned = resolved_weight(axes[:, [0, 2, 1]], (-60, 60), "x")
    np.testing.assert_allclose(turned, [along_x, along_y, along_z], atol=1e-9)
    np.testing.assert_allclose(resolved_weight(axes, (-90, 90)), 1, atol=1e-9)
    oblique = np.array([[np.sin(np.radians(50)), 0, np.cos(np.radians(50))]])
    assert resolved_weight(oblique, (-60, 60))[0] > resolved_weight(oblique, (-40, 40))[0] + 0.3
    with pytest.raises(ValueError, match="tilt axis"):
        resolved_weight(axes, (-60, 60), "z")


def test_uneven_tilt_ranges_count_both_ways():
    up = np.array([[0.8, 0, 0.6], [-0.8, 0, 0.6]])
    first, second = resolved_weight(up, (-40, 65))
    assert first == pytest.approx(second) and 0.2 < first < 0.8


@pytest.mark.parametrize(("voxel_nm", "binning"), [(2.2, 1), (1.1, 1), (1.0, 2), (0.7, 3), (0.37, 5), (3.0, 1)])
def test_working_binning(voxel_nm, binning):
    assert working_binning(voxel_nm) == binning


@pytest.mark.parametrize("binning", [1, 2, 3])
def test_samples_of_a_linear_ramp_are_exact(binning):
    shape = (41, 47, 36)
    z, y, x = np.ogrid[:41, :47, :36]
    tomogram = Tomogram((0.5 * z - 0.25 * y + 2 * x).astype(np.float32), Grid(shape, 1.5))
    centre = np.array([18.3, 25.1, 17.7])
    box = read_box(tomogram, centre, 15.0, binning)
    set_ = direction_set(400)
    radii = np.array([0.0, 2.5, 7.25])
    table = sample_polar(box, centre, radii, set_)
    # The mean of a linear function over points is its value at their mean.
    ends = np.append(set_.first[1:], len(set_.directions))
    means = np.array([set_.directions[a:b].mean(axis=0) for a, b in zip(set_.first, ends, strict=True)])
    places = centre + means[:, None, :] * radii[None, :, None]
    np.testing.assert_allclose(table.means, places @ [0.5, -0.25, 2], rtol=1e-4)


def test_outside_and_masked_samples_do_not_count():
    tomogram = radial_tomogram((30, 40, 50), (15, 20, 2), lambda d: np.where(d < 100, 1.0, 0.0))
    centre = np.array([15.0, 20.0, 2.0])
    set_ = direction_set(512)
    radii = np.array([1.0, 8.0])
    box = read_box(tomogram, centre, 12, 1)
    free = sample_polar(box, centre, radii, set_)
    outside = set_.patches[:, 2] < -0.6  # 8 voxels that way leave the volume at x = -0.5
    assert np.all(free.counts[outside, 1] == 0) and np.all(free.counts[:, 0] > 0)
    masks = (np.array([[15.0, 30.0, 2.0]]), np.array([6.0]))
    masked = sample_polar(box, centre, radii, set_, masks=masks)
    towards = set_.patches[:, 1] > 0.95
    assert np.all(masked.counts[towards, 1] == 0)
    np.testing.assert_array_equal(masked.counts[set_.patches[:, 1] < 0.5], free.counts[set_.patches[:, 1] < 0.5])
    # Whatever lies under a mask cannot change the profile.
    dirty = np.array(tomogram.data)
    dirty[10:21, 26:35, 0:6] = 99
    again = sample_polar(read_box(Tomogram(dirty, tomogram.grid), centre, 12, 1), centre, radii, set_, masks=masks)
    profile, _ = radial_mean(again, np.ones(len(set_.patches)))
    assert profile[1] < 20


@pytest.mark.parametrize("binning", [1, 2, 3])
def test_boxes_end_at_the_faces_with_whole_blocks(binning, rng):
    grey = rng.normal(size=(31, 32, 34)).astype(np.float32)
    tomogram = Tomogram(-grey, Grid(grey.shape, 1.0), invert=True)
    box = read_box(tomogram, np.array([2.3, 16.0, 29.7]), 9.0, binning)
    assert box is not None
    start = np.rint(box.low_vox + 0.5).astype(int)
    stop = np.rint(box.high_vox + 0.5).astype(int)
    np.testing.assert_array_equal((stop - start) % binning, 0)
    assert start[0] == 0 and np.all(stop <= grey.shape) and grey.shape[2] - stop[2] < binning
    # Symmetric about the centre where no face is near, to a block.
    assert abs((start[1] + stop[1] - 1) / 2 - 16.0) <= 0.5 * binning and stop[1] - start[1] > 19 - binning
    np.testing.assert_allclose(box.origin_vox, start + (binning - 1) / 2)
    for place in ((0, 0, 0), (1, 2, 1), tuple(n - 1 for n in box.values.shape)):
        first = start + np.array(place) * binning
        block = tuple(slice(a, a + binning) for a in first)
        assert box.values[place] == pytest.approx(grey[block].mean(), abs=1e-6)


def test_weights_of_radii_and_patches_are_those_of_the_mean():
    tomogram = radial_tomogram((30, 30, 30), (15, 15, 15), lambda d: d)
    box = read_box(tomogram, np.full(3, 15.0), 12, 1)
    assert box is not None
    set_, radii = direction_set(512), np.array([-1.0, 4.0, 8.0])
    plain = sample_polar(box, np.full(3, 15.0), radii, set_)
    weighted = sample_polar(box, np.full(3, 15.0), radii, set_, weights=np.array([1.0, 0.5, 0.0]))
    np.testing.assert_array_equal(weighted.means, plain.means)
    np.testing.assert_array_equal(weighted.counts, plain.counts * [1.0, 0.5, 0.0])
    np.testing.assert_array_equal(plain.counts[:, 0], 0)  # behind the centre there is nothing
    assert plain.counts[:, 1].sum() == plain.total == len(set_.directions)
    half = set_.patches[:, 0] > 0
    grey = plain.means + np.where(half, 3.0, 0.0)[:, None]
    profile, total = radial_mean(replace(plain, means=grey), np.where(half, 1.0, 2.0))
    upper = plain.counts[half, 1].sum()
    share = upper / (upper + 2 * plain.counts[~half, 1].sum())
    np.testing.assert_allclose(profile, [0, 4 + 3 * share, 8 + 3 * share], atol=0.1)
    assert total[0] == 0 and total[1] == pytest.approx(2 * len(set_.directions) - upper)


def test_a_box_off_the_volume_is_none():
    tomogram = radial_tomogram((20, 20, 20), (10, 10, 10), lambda d: d)
    assert read_box(tomogram, np.array([10.0, 80.0, 10.0]), 12, 1) is None


def test_radial_profile_of_an_off_centre_shell():
    centre = (17.4, 31.8, 22.1)
    tomogram = radial_tomogram((37, 61, 48), centre, lambda d: shell_template((d - 11.3) * 2.0))
    box = read_box(tomogram, np.array(centre), 16, 1)
    radii = np.arange(6, 16, 0.25)
    profile, _ = radial_mean(sample_polar(box, np.array(centre), radii, direction_set(1000)), np.ones(96))
    assert landmarks(2 * (radii - 11.3), profile, smooth_nm=0.6).middle_nm == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("shift_nm", [-1.3, 0.0, 0.77])
@pytest.mark.parametrize("step_nm", [0.25, 0.4])
def test_landmarks_of_a_known_line(shift_nm, step_nm):
    offsets = np.arange(-14, 14.01, step_nm)
    sigma, smooth = 2.0, 1.2
    line = -np.exp(-0.5 * ((offsets - shift_nm) / sigma) ** 2)
    found = landmarks(offsets, line, smooth_nm=smooth)
    total = np.hypot(sigma, smooth)
    assert found.middle_nm == pytest.approx(shift_nm, abs=0.03)
    assert found.inflection_nm == pytest.approx(total, abs=0.05)  # a Gaussian's inflection lies at its sigma
    assert found.curvature_nm == pytest.approx(np.sqrt(3) * total, abs=0.1)  # and its sharpest bend at sqrt(3) sigma


def test_resolved_leaflets_have_one_middle():
    offsets = np.arange(-14, 14.01, 0.25)
    leaflets = -np.exp(-0.5 * ((offsets - 1.6) / 0.8) ** 2) - 1.1 * np.exp(-0.5 * ((offsets + 1.6) / 0.8) ** 2)
    assert abs(landmarks(offsets, leaflets, smooth_nm=0.3).middle_nm) > 1.3
    assert abs(landmarks(offsets, leaflets, smooth_nm=1.6).middle_nm) < 0.6


def test_profiles_without_a_membrane_have_no_landmarks():
    offsets = np.arange(-14, 14.01, 0.25)
    table = landmark_table(offsets, np.stack([offsets, np.full(len(offsets), np.nan), shell_template(offsets)]))
    assert np.all(np.isnan(table[:2])) and np.all(np.isfinite(table[2]))


def test_patch_weights_are_shares():
    resolved, shares = patch_weights(512, (-60.0, 60.0), "y")
    assert shares.sum() == pytest.approx(1) and resolved.min() >= 0 and resolved.max() <= 1 + 1e-9
