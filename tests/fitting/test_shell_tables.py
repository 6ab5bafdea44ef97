"""Tabulated inner products are those of spheres anywhere between the voxels, at radii between those of the tables."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.fitting import shell_tables
from deepvesicle.fitting.shell_model import (
    REACH_NM,
    Patch,
    Profile,
    Sphere,
    fit_sphere,
    gram_matrix,
    knot_columns,
    normal_matrix,
)
from deepvesicle.fitting.shell_tables import ShellTables
from tests.fitting.test_shell_model import CENTRE, RADIUS_NM, VOXEL_NM, WEDGE, WHOLE, patch_of, scene, white

# About half-way between two radii of the tables, and on one of them.
RADII_NM = (18.4, 1.1**33)


def spheres(radius: float) -> tuple[Patch, list[Sphere]]:
    """A box of zeros, not of the tables' size, and spheres in it, each somewhere else between the voxels."""
    half = radius + REACH_NM + 12.0
    patch = Patch.empty(white(WEDGE), half, VOXEL_NM)
    rng = np.random.default_rng(7)
    return patch, [Sphere(np.full(3, half) + rng.uniform(-1, 1, 3) * VOXEL_NM, radius) for _ in range(6)]


def relative(difference: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Differences of a matrix of inner products, as cosines."""
    length = np.sqrt(np.diag(exact))
    return np.asarray(np.abs(difference) / np.outer(length, length))


@pytest.mark.parametrize("radius", RADII_NM)
def test_normal_equations_are_those_of_rendered_spheres(radius):
    profile = Profile.generic(1.3)
    patch, examples = spheres(radius)
    table = ShellTables(white(WEDGE), VOXEL_NM).normal(profile, radius)
    direct = [normal_matrix(patch, sphere, profile) for sphere in examples]
    assert relative(table - np.mean(direct, axis=0), table).max() < 0.02
    assert max(relative(table - one, table).max() for one in direct) < 0.05
    np.testing.assert_allclose(table, table.T, rtol=1e-5)
    assert np.linalg.eigvalsh(table).min() > 0
    np.testing.assert_array_equal(table[:3, 3:], 0)
    # The wedge is in them: the centre is known worst along the beam.
    assert table[0, 0] < 0.8 * table[2, 2]


@pytest.mark.parametrize("radius", RADII_NM)
def test_products_of_knots_are_those_of_rendered_spheres(radius):
    patch, examples = spheres(radius)
    table = ShellTables(white(WEDGE), VOXEL_NM).gram(radius)
    direct = np.mean([gram_matrix(patch, *knot_columns(patch, sphere)) for sphere in examples[:3]], axis=0)
    off = relative(table - direct, table)
    near = slice(4, -4)  # about the membrane; the shells of the inmost knots have few voxels
    assert off[near, near].max() < 0.05 and off.max() < 0.12
    np.testing.assert_allclose(table, table.T, rtol=1e-5, atol=1e-6 * table.max())
    # A profile's values at the knots give what the sphere of that profile gives.
    values = np.cos(np.arange(len(table)) * 0.4)
    patch, examples = spheres(radius)
    depth = np.mean([normal_matrix(patch, sphere, Profile.from_knots(values))[4, 4] for sphere in examples])
    assert values @ table @ values == pytest.approx(depth, rel=0.05)


def test_each_table_is_made_once(monkeypatch):
    made: list[float] = []

    def counted(patch: Patch, sphere: Sphere, profile: Profile) -> np.ndarray:
        made.append(sphere.radius_nm)
        return normal_matrix(patch, sphere, profile)

    monkeypatch.setattr(shell_tables, "normal_matrix", counted)
    tables = ShellTables(white(), VOXEL_NM)
    shallow, deep = Profile.generic(1.0), Profile.generic(2.0)
    first = tables.normal(shallow, 15.0)
    assert len(made) == 2 and min(made) < 15.0 < max(made) < 1.11 * min(made)
    np.testing.assert_array_equal(tables.normal(shallow, 15.0), first)
    assert not np.allclose(tables.normal(shallow, 15.2), first, rtol=1e-3)
    assert len(made) == 2
    np.testing.assert_allclose(tables.normal(deep, 15.0), 4 * first, rtol=1e-5)
    assert len(made) == 4


def test_profiles_that_are_gone_do_not_leave_their_tables_to_others():
    tables = ShellTables(white(), VOXEL_NM)
    found = [tables.normal(Profile.generic(depth), 12.0)[4, 4] for depth in (1.0, 2.0, 3.0, 4.0)]
    np.testing.assert_allclose(np.array(found) / found[0], [1, 4, 9, 16], rtol=1e-4)


@pytest.mark.parametrize("tilts", [WHOLE, WEDGE])
def test_fits_with_and_without_tables_agree(tilts, rng):
    patch = patch_of(scene([(CENTRE, RADIUS_NM, 1.0)], rng, tilts=tilts), tilts)
    start, profile = Sphere(CENTRE + [1.1, -0.7, 0.4], RADIUS_NM + 1), Profile.generic()
    own = fit_sphere(patch, start, profile, [], steps=20)
    tabled = fit_sphere(patch, start, profile, [], steps=20, tables=ShellTables(white(tilts), VOXEL_NM))
    assert own is not None and tabled is not None
    sigma = np.sqrt(np.diag(own.covariance))
    assert np.all(np.abs(tabled.sphere.centre_nm - own.sphere.centre_nm) < 0.35 * sigma[:3])
    assert abs(tabled.sphere.radius_nm - own.sphere.radius_nm) < 0.35 * sigma[3]
    np.testing.assert_allclose(np.sqrt(np.diag(tabled.covariance)), sigma, rtol=0.05)
    assert tabled.gain == pytest.approx(own.gain, rel=0.05)
