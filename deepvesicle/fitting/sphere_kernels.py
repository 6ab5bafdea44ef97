"""The steps of a fit of a sphere that lies whole in its box, compiled by numba; see `kernels` and `shell_model`."""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.kernels import compiled, shell_products, solve

Floats = NDArray[np.float64]
Array = NDArray[np.float32]


@compiled
def fit_inside(
    pull: Array, mask: Array, table: Array, slope: Array, origin: Floats, inner: Floats, state: Floats, step: int,
    steps: int, rungs: Floats, first_rung: int, ladder: float, voxel: float, reach: float, table_step: float,
    margin: float, depth_sd: float, longest: float, last: float, least_radius: float,
    depths: tuple[float, float, float],
) -> tuple[bool, int, Floats, Floats, Floats]:  # fmt: skip
    """Gauss-Newton steps of `shell_model.fit_sphere`, as long as the sphere lies in the box with a margin.

    Parameters
    ----------
    pull : array (z, y, x)
        The whitened box.
    origin : array (3,)
        Place of its first voxel, nm.
    inner : array (2, 3)
        Lowest and highest places between which the mask is 1, nm from the first voxel.
    state : array (5,)
        Centre z, y, x, radius, nm, and depth.
    step, steps : int
        Steps that have been made, and how many are made at most.
    rungs : array (k, 5, 5)
        Inner products over the squared radius at radii ladder**first_rung and so on.
    depths : tuple of float
        Longest step of the depth, and its bounds.

    Returns
    -------
    Whether it has come to an end, the steps that have been made, the state, and for it the inner products of the pull
    (5,) and of the sphere with itself (5, 5).
    """
    state = state.copy()
    match, normal = np.zeros(5), np.zeros((5, 5))
    gradient, hessian, scale = np.empty(5), np.empty((5, 5)), np.ones(5)
    while True:
        wide = state[3] + margin
        for axis in range(3):
            place = state[axis] - origin[axis]
            if place - wide < inner[0, axis] or place + wide > inner[1, axis]:
                return False, step, state, match, normal
        rung = np.log(state[3]) / np.log(ladder)
        low = int(floor(rung))
        if low < first_rung or low + 1 - first_rung >= len(rungs):
            return False, step, state, match, normal
        part = rung - low
        normal = ((1 - part) * rungs[low - first_rung] + part * rungs[low + 1 - first_rung]) * state[3] ** 2
        match = _products(pull, mask, table, slope, origin, state, voxel, reach, table_step)
        if step == steps:
            return True, step, state, match, normal
        scale[:4] = state[4]
        for i in range(5):
            # The derivative by the depth is the sphere itself, so the normal matrix tells how it pulls on itself.
            gradient[i] = (match[i] - state[4] * normal[i, 4]) * scale[i]
            for j in range(5):
                hessian[i, j] = normal[i, j] * scale[i] * scale[j]
        # A depth far from that of the others is unlikely, and keeps the steps finite where there is no membrane.
        gradient[4] += (1 - state[4]) / depth_sd**2
        hessian[4, 4] += 1 / depth_sd**2
        trace = 0.0
        for i in range(5):
            hessian[i, i] *= 1.001
            trace += hessian[i, i]
        for i in range(5):
            hessian[i, i] += 1e-9 * trace
        move = solve(hessian, gradient)
        size = np.abs(move[:4]).max()
        if size < last and step >= 1:
            return True, step, state, match, normal
        move[:4] *= min(1.0, longest / max(size, 1e-12))
        state[:3] += move[:3]
        state[3] = max(state[3] + move[3], least_radius)
        deeper = min(max(move[4], -depths[0]), depths[0])
        state[4] = min(max(state[4] + deeper, depths[1]), depths[2])
        step += 1


@compiled
def _products(
    pull: Array, mask: Array, table: Array, slope: Array, origin: Floats, state: Floats, voxel: float, reach: float,
    table_step: float,
) -> Floats:  # fmt: skip
    """`shell_products` of the voxels within reach of a sphere."""
    start, stop = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    centre = np.empty(3)
    wide = state[3] + reach
    for axis in range(3):
        centre[axis] = state[axis] - origin[axis]
        size = pull.shape[axis]
        start[axis] = min(max(int(ceil((centre[axis] - wide) / voxel)), 0), size)
        stop[axis] = min(max(int(floor((centre[axis] + wide) / voxel)) + 1, start[axis]), size)
    return shell_products(
        pull, mask, table, slope,
        (start[0], start[1], start[2]), (stop[0], stop[1], stop[2]), (centre[0], centre[1], centre[2]),
        state[3], voxel, reach, table_step,
    )  # fmt: skip
