"""Circles and spheres through points that people drew: the points lie on the membrane, with a hand's error.

Spheres are fitted to the points, never to the area inside a polygon: that of few points lies well within its circle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ITERATIONS = 30
_CONVERGED_VOX = 1e-5
#: Keeps the equations of a step solvable, share of their trace.
_TINY = 1e-12
#: Points farther off than this many standard deviations count less (Huber); a hand's error is at least the second,
#: voxels.
_HUBER_SIGMAS, _HAND_VOX = 1.5, 0.1
#: Directions with less weight than this are filled up with "round", share of that of all points.
_RIDGE = 0.004
#: Axes beyond this many radii are not told apart.
_LONGEST_AXIS = 10.0


@dataclass(frozen=True, eq=False)
class Round:
    """A circle in a plane, or a sphere.

    Parameters
    ----------
    centre : float array (D,)
        D is 2 or 3; voxels.
    radius : float
    residuals : float array (N,)
        Distance of each point from the circle or sphere, positive outside.
    misfit : float
        Their weighted root mean square.
    """

    centre: Floats
    radius: float
    residuals: Floats
    misfit: float


def fit_round(points: Floats, weights: Floats | None = None) -> Round | None:
    """The circle (D = 2) or sphere (D = 3) nearest to points, in the sense of least squares of their distances.

    The algebraic fit (Coope, J. Optim. Theory Appl. 76 (1993) 381-388) is the start, Gauss-Newton steps on the true
    distances follow. Points far off count less (Huber's weights), so that one slip of the hand does not move the rest.

    Parameters
    ----------
    points : float array (N, D)
    weights : float array (N,), optional
        How much of the curve or surface each point stands for.

    Returns
    -------
    Round or None
        None where the points do not say: fewer than D + 1, or in a line (in a plane, for a sphere).
    """
    count, dimensions = points.shape
    if count <= dimensions:
        return None
    weights = np.ones(count) if weights is None else np.maximum(weights, 1e-9 * max(float(weights.max()), 1e-9))
    start = _algebraic(points, weights)
    if start is None:
        return None
    centre, radius = start
    slopes = np.ones((count, dimensions + 1))
    for _ in range(_ITERATIONS):
        offsets = points - centre
        distances = np.maximum(np.linalg.norm(offsets, axis=1), 1e-12)
        residuals = distances - radius
        slopes[:, :-1] = offsets / distances[:, None]
        weighted = slopes * (weights * _huber(residuals))[:, None]
        matrix = weighted.T @ slopes
        step = np.linalg.solve(matrix + _TINY * np.trace(matrix) * np.eye(dimensions + 1), weighted.T @ residuals)
        if not np.isfinite(step).all() or np.abs(step).max() > 10 * radius:
            return None
        centre, radius = centre + step[:-1], radius + float(step[-1])
        if np.abs(step).max() < _CONVERGED_VOX:
            break
    residuals = np.linalg.norm(points - centre, axis=1) - radius
    if not (np.isfinite(residuals).all() and radius > 0):
        return None
    return Round(centre, radius, residuals, float(np.sqrt(np.average(residuals**2, weights=weights))))


def lengths_of(polygon: Floats) -> Floats:
    """How much of a closed polygon (M, D) belongs to each corner (M,): half of the two edges that meet there.

    As weights, they make up for a hand that clicked more densely on one side than on the other.
    """
    edges = np.linalg.norm(np.roll(polygon, -1, axis=0) - polygon, axis=1)
    return np.asarray((edges + np.roll(edges, 1)) / 2)


def axis_ratio(offsets: Floats, radius: float, weights: Floats | None = None) -> float:
    """Longest over shortest axis of what points lie on, as far as they say so.

    In the direction n, a point of an ellipsoid lies at the distance d with ``1 / d^2 = n.A n``. A is fitted, with a
    ridge, so that directions in which nothing was drawn count as round.

    Parameters
    ----------
    offsets : float array (N, D)
        Points less the centre.
    radius : float
    weights : float array (N,), optional
    """
    count, dimensions = offsets.shape
    weights = np.ones(count) if weights is None else weights / max(float(weights.mean()), 1e-12)
    distances = np.maximum(np.linalg.norm(offsets, axis=1), 1e-12)
    n = offsets / distances[:, None]
    pairs = [(i, j) for i in range(dimensions) for j in range(i, dimensions)]
    columns = np.column_stack([n[:, i] * n[:, j] * (1 if i == j else 2) for i, j in pairs])
    normal = columns.T @ (columns * weights[:, None]) + _RIDGE * count * np.eye(len(pairs))
    solution = np.linalg.solve(normal, columns.T @ (weights * ((radius / distances) ** 2 - 1)))
    matrix = np.zeros((dimensions, dimensions))
    for (i, j), value in zip(pairs, solution, strict=True):
        matrix[i, j] = matrix[j, i] = value
    inverse_squares = np.maximum(1 + np.linalg.eigvalsh(matrix), _LONGEST_AXIS**-2)
    return float(np.sqrt(inverse_squares.max() / inverse_squares.min()))


def _algebraic(points: Floats, weights: Floats) -> tuple[Floats, float] | None:
    """The least-squares solution of ``|p|^2 = 2 p.c + (r^2 - |c|^2)``; None where it is not determined."""
    origin = np.average(points, axis=0, weights=weights)
    offsets = points - origin
    scale = float(np.sqrt(np.average((offsets**2).sum(axis=1), weights=weights)))
    if not (np.isfinite(scale) and scale > 0):
        return None
    offsets = offsets / scale
    root = np.sqrt(weights / weights.sum())[:, None]
    squares = (offsets**2).sum(axis=1)
    design = np.column_stack([2 * offsets, np.ones(len(points))]) * root
    solution, _, rank, _ = np.linalg.lstsq(design, squares * root[:, 0], rcond=1e-5)
    square = float(solution[-1] + solution[:-1] @ solution[:-1])
    if rank < design.shape[1] or square <= 0:
        return None
    return origin + scale * solution[:-1], scale * square**0.5


def _huber(residuals: Floats) -> Floats:
    off = np.abs(residuals)
    middle = len(off) // 2
    sigma = max(1.4826 * float(np.partition(off, middle)[middle]), _HAND_VOX)
    return np.minimum(1.0, _HUBER_SIGMAS * sigma / np.maximum(off, 1e-12))
