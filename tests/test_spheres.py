"""Geometry of spheres."""

from __future__ import annotations

import numpy as np

from deepvesicle.grid import Grid
from deepvesicle.spheres import are_cut, fibonacci_directions, inside_fractions


def test_directions_are_unit_vectors_spread_evenly() -> None:
    directions = fibonacci_directions(500)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=5e-3)
    np.testing.assert_allclose(directions.T @ directions / 500, np.eye(3) / 3, atol=5e-3)


def test_inside_fractions_of_cut_spheres() -> None:
    centres = np.array([[20, 25, 30], [-0.5, 25, 30], [20, 49.5, 59.5], [-30, 25, 30]])
    found = inside_fractions(Grid((40, 50, 60), 2.0), centres, np.full(4, 8.0))
    np.testing.assert_allclose(found, [1, 0.5, 0.25, 0], atol=0.04)


def test_balls_that_faces_cut() -> None:
    grid = Grid((40, 50, 60), 2.0)
    inside = [[7.6, 25, 30], [20, 25, 30], [31.4, 41.4, 51.4]]
    cut = [[6.0, 25, 30], [20, 43, 30], [20, 25, 53], [-30, 25, 30]]
    found = are_cut(grid, np.array([*inside, *cut], dtype=float), np.full(7, 8.0))
    assert found.tolist() == [False] * 3 + [True] * 4
    assert are_cut(grid, np.zeros((0, 3)), np.zeros(0)).tolist() == []
