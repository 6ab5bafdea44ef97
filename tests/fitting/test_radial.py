"""Radial profiles about spheres whose membranes are known."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.fitting.radial import radial_profiles
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((50, 60, 110), 2.0)
OFFSETS = np.arange(-12.0, 10.1, 1.0)


def shells(*spheres: tuple[float, float, float, float], depth_nm: float = 3.0) -> np.ndarray:
    """Dark membranes whose middle lies so deep inside the radius."""
    z, y, x = np.ogrid[:50, :60, :110]
    data = np.zeros(GRID.shape_zyx)
    for cz, cy, cx, radius in spheres:
        distance = np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) - radius
        data -= np.exp(-(((2.0 * distance + depth_nm) / 3.0) ** 2))
    return data.astype(np.float32)


def table(*spheres: tuple[float, float, float, float], **more) -> Vesicles:
    values = np.array(spheres)
    return Vesicles.from_spheres(GRID, values[:, :3], values[:, 3], **more)


@pytest.mark.parametrize("invert", [False, True])
def test_the_membrane_is_where_it_was_drawn(invert):
    one = (24.3, 30.6, 40.2, 10.0)
    data = shells(one)
    tomogram = Tomogram(-data if invert else data, GRID, invert=invert)
    (profile,) = radial_profiles(tomogram, table(one, status=[Status.REFINED]), OFFSETS, (-60, 60))
    assert OFFSETS[np.argmin(profile)] == -3.0
    assert abs(profile[-1]) < 0.6 and profile[np.argmin(profile)] < -2


def test_neighbours_are_left_out_unless_they_count_for_nothing():
    one, other = (24.0, 30.0, 30.0, 10.0), (24.0, 30.0, 51.0, 10.0)
    tomogram = Tomogram(shells(one, other), GRID)
    status = [Status.REFINED, Status.REFINED]
    both = radial_profiles(tomogram, table(one, other, status=status), OFFSETS, (-60, 60))
    alone = radial_profiles(Tomogram(shells(one), GRID), table(one, status=status[:1]), OFFSETS, (-60, 60))
    polluted = radial_profiles(
        tomogram, table(one, other, status=[Status.REFINED, Status.REJECTED]), OFFSETS, (-60, 60)
    )
    outside = OFFSETS > 2

    def depth(profile):
        return (profile[outside].mean() - profile[outside][-1]) / (profile.max() - profile.min())

    assert abs(depth(both[0]) - depth(alone[0])) < abs(depth(polluted[0]) - depth(alone[0])) / 3


def test_unseen_directions_do_not_count():
    one = (24.0, 30.0, 50.0, 10.0)
    z, y, x = np.ogrid[:50, :60, :110]
    distance = np.sqrt((z - 24.0) ** 2 + (y - 30.0) ** 2 + (x - 50.0) ** 2)
    cap = np.abs(z - 24.0) > 0.9 * distance  # the membrane is missing at top and bottom
    data = np.where(cap, 0, shells(one)).astype(np.float32)
    (holed,) = radial_profiles(Tomogram(data, GRID), table(one, status=[Status.REFINED]), OFFSETS, (-55, 55))
    (whole,) = radial_profiles(Tomogram(shells(one), GRID), table(one, status=[Status.REFINED]), OFFSETS, (-55, 55))

    def relative(profile):
        return (profile - profile[-1]) / np.abs(profile).max()

    np.testing.assert_allclose(relative(holed), relative(whole), atol=0.12)


def test_spheres_without_size_place_or_voxels_have_no_profile():
    spheres = [(24.0, 30, 40, 10), (np.nan, 30, 40, 10), (24, 30, 40, np.nan), (24, 30, 900, 10)]
    profiles = radial_profiles(Tomogram(shells(spheres[0]), GRID), table(*spheres), OFFSETS, (-60, 60))
    assert np.isfinite(profiles[0]).all() and np.isnan(profiles[1:]).all()
    flat = Tomogram(np.zeros(GRID.shape_zyx, np.int8), GRID)
    assert np.isnan(radial_profiles(flat, table(spheres[0]), OFFSETS, (-60, 60))).all()
