"""The innermost loops of the fits, compiled by numba; without the interpreter's lock, so that threads run side by side.

Compiled code is kept beside this file (or in the user's cache folder), so only the first run waits for the compiler.
Arrays of grey values are float32, everything else float64. What the functions compute is told where they are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[np.float32]
Integers = NDArray[np.int64]
Triple = tuple[int, int, int]
Place = tuple[float, float, float]


def compiled(function: Any) -> Any:
    """Compile a function for the types that it is called with."""
    return njit(cache=True, nogil=True, error_model="numpy")(function)


@compiled
def polar_sums(
    values: Array,
    origin: Floats,
    binning: float,
    low: Floats,
    high: Floats,
    centre: Floats,
    directions: Floats,
    first: Integers,
    radii: Floats,
    mask_centres: Floats,
    mask_radii: Floats,
) -> tuple[Floats, Floats]:
    """Sums and numbers (p, r) of linearly interpolated samples along rays, patch by patch, hidden ones left out."""
    patches, count, masks = len(first), len(radii), len(mask_radii)
    nz, ny, nx = values.shape
    sums, numbers = np.zeros((patches, count)), np.zeros((patches, count))
    near, far = np.empty(masks), np.empty(masks)
    for patch in range(patches):
        stop = first[patch + 1] if patch + 1 < patches else len(directions)
        for ray in range(first[patch], stop):
            dz, dy, dx = directions[ray, 0], directions[ray, 1], directions[ray, 2]
            hidden = 0
            for k in range(masks):
                oz, oy, ox = (
                    mask_centres[k, 0] - centre[0],
                    mask_centres[k, 1] - centre[1],
                    mask_centres[k, 2] - centre[2],
                )
                along = dz * oz + dy * oy + dx * ox
                half2 = mask_radii[k] ** 2 - (oz * oz + oy * oy + ox * ox - along * along)
                if along > 0 and half2 > 0:
                    near[hidden], far[hidden] = along - np.sqrt(half2), along + np.sqrt(half2)
                    hidden += 1
            for r in range(count):
                radius = radii[r]
                if radius < 0:
                    continue
                z, y, x = centre[0] + dz * radius, centre[1] + dy * radius, centre[2] + dx * radius
                if not (low[0] <= z <= high[0] and low[1] <= y <= high[1] and low[2] <= x <= high[2]):
                    continue
                seen = True
                for k in range(hidden):
                    if near[k] < radius < far[k]:
                        seen = False
                        break
                if not seen:
                    continue
                z = min(max((z - origin[0]) / binning, 0.0), nz - 1.0)
                y = min(max((y - origin[1]) / binning, 0.0), ny - 1.0)
                x = min(max((x - origin[2]) / binning, 0.0), nx - 1.0)
                iz, iy, ix = min(int(z), nz - 2), min(int(y), ny - 2), min(int(x), nx - 2)
                fz, fy, fx = z - iz, y - iy, x - ix
                c00 = values[iz, iy, ix] * (1 - fx) + values[iz, iy, ix + 1] * fx
                c01 = values[iz, iy + 1, ix] * (1 - fx) + values[iz, iy + 1, ix + 1] * fx
                c10 = values[iz + 1, iy, ix] * (1 - fx) + values[iz + 1, iy, ix + 1] * fx
                c11 = values[iz + 1, iy + 1, ix] * (1 - fx) + values[iz + 1, iy + 1, ix + 1] * fx
                sums[patch, r] += (c00 * (1 - fy) + c01 * fy) * (1 - fz) + (c10 * (1 - fy) + c11 * fy) * fz
                numbers[patch, r] += 1
    return sums, numbers


@compiled
def candidate_sums(distance: Array, match: Array, power: Array, scale: float, first: float, step: float) -> Array:
    """Sums of two tables (p, s) over the patches, at the ray distances (k, p) x scale of each candidate; (2, k)."""
    candidates, patches = distance.shape
    last = match.shape[1] - 1
    found = np.empty((2, candidates), dtype=np.float32)
    for k in range(candidates):
        a = b = np.float32(0)
        for p in range(patches):
            column = int((distance[k, p] * scale - first) / step + 0.5)
            column = min(max(column, 0), last)
            a += match[p, column]
            b += power[p, column]
        found[0, k], found[1, k] = a, b
    return found


@compiled
def draw_shell(
    out: Array, mask: Array, table: Array, start: Triple, stop: Triple, centre: Place, radius: float,
    voxel: float, reach: float, step: float, factor: float,
) -> None:  # fmt: skip
    """Add a profile swept round a centre to a volume, times a mask and a factor; places in nm from the first voxel."""
    inner2, outer2 = max(radius - reach, 0.0) ** 2, (radius + reach) ** 2
    last = len(table) - 2
    for i in range(start[0], stop[0]):
        z = i * voxel - centre[0]
        for j in range(start[1], stop[1]):
            y = j * voxel - centre[1]
            flat2 = z * z + y * y
            if flat2 > outer2:
                continue
            width = np.sqrt(outer2 - flat2)
            first = max(start[2], int(np.floor((centre[2] - width) / voxel)))
            for k in range(first, min(stop[2], int(np.ceil((centre[2] + width) / voxel)) + 1)):
                x = k * voxel - centre[2]
                square = flat2 + x * x
                if square < inner2 or square > outer2:
                    continue
                place = (np.sqrt(square) - radius + reach) / step + 1
                low = min(max(int(place), 0), last)
                part = place - low
                out[i, j, k] += factor * ((1 - part) * table[low] + part * table[low + 1]) * mask[i, j, k]


@compiled
def shell_products(
    pull: Array, mask: Array, table: Array, slope: Array, start: Triple, stop: Triple, centre: Place,
    radius: float, voxel: float, reach: float, step: float,
) -> Floats:  # fmt: skip
    """Inner products (5,) of a volume with the derivatives of a rendered shell by z, y, x, radius and depth."""
    inner2, outer2 = max(radius - reach, 0.0) ** 2, (radius + reach) ** 2
    last = len(table) - 2
    found = np.zeros(5)
    for i in range(start[0], stop[0]):
        z = i * voxel - centre[0]
        for j in range(start[1], stop[1]):
            y = j * voxel - centre[1]
            flat2 = z * z + y * y
            if flat2 > outer2:
                continue
            plain = steep = steep_x = 0.0
            width = np.sqrt(outer2 - flat2)
            first = max(start[2], int(np.floor((centre[2] - width) / voxel)))
            for k in range(first, min(stop[2], int(np.ceil((centre[2] + width) / voxel)) + 1)):
                x = k * voxel - centre[2]
                square = flat2 + x * x
                if square < inner2 or square > outer2:
                    continue
                distance = np.sqrt(square)
                place = (distance - radius + reach) / step + 1
                low = min(max(int(place), 0), last)
                part = place - low
                weight = pull[i, j, k] * mask[i, j, k]
                plain += ((1 - part) * table[low] + part * table[low + 1]) * weight
                force = ((1 - part) * slope[low] + part * slope[low + 1]) * weight
                found[3] -= force
                force /= max(distance, 1e-3)
                steep += force
                steep_x += force * x
            found[0] -= steep * z
            found[1] -= steep * y
            found[2] -= steep_x
            found[4] += plain
    return found


@compiled
def knot_products(
    pull: Array, mask: Array, knots: int, start: Triple, stop: Triple, centre: Place, radius: float,
    voxel: float, reach: float, step: float,
) -> Floats:  # fmt: skip
    """Inner products (knots,) of a volume with the shells that each knot of a piecewise linear profile stands for."""
    found = np.zeros(knots)
    for i in range(start[0], stop[0]):
        z = i * voxel - centre[0]
        for j in range(start[1], stop[1]):
            y = j * voxel - centre[1]
            for k in range(start[2], stop[2]):
                x = k * voxel - centre[2]
                place = (np.sqrt(z * z + y * y + x * x) - radius + reach) / step
                low = int(np.floor(place))
                if low < -1 or low >= knots:
                    continue
                weight = pull[i, j, k] * mask[i, j, k]
                part = place - low
                if low >= 0:
                    found[low] += (1 - part) * weight
                if low + 1 < knots:
                    found[low + 1] += part * weight
    return found


@compiled
def solve(matrix: Floats, vector: Floats) -> Floats:
    """Solve a small symmetric positive definite system by elimination."""
    a, b = matrix.copy(), vector.copy()
    n = len(b)
    for i in range(n):
        for j in range(i + 1, n):
            factor = a[j, i] / a[i, i]
            for k in range(i, n):
                a[j, k] -= factor * a[i, k]
            b[j] -= factor * b[i]
    for i in range(n - 1, -1, -1):
        for j in range(i + 1, n):
            b[i] -= a[i, j] * b[j]
        b[i] /= a[i, i]
    return b


@compiled
def shell_steps(
    tables: Floats, first: float, spacing: float, patches: Floats, shares: Floats, typical: float, state: Floats,
    target: Floats, prior: Floats, steps: int, tolerance: float, longest: float, chi2_median: float,
) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats, Floats]:  # fmt: skip
    """The Gauss-Newton steps of `shell_fit.fit_shell`.

    Returns
    -------
    state (4,), amplitude (1,), hessian (4, 4), and for each patch (p,): robust weight, force, residual, match, power.
    The robust weight is negative where a patch is not used.
    """
    count, width = tables.shape[1], tables.shape[2]
    state = state.copy()
    robust = np.ones(count)
    seen, used = np.zeros(count, dtype=np.bool_), np.zeros(count, dtype=np.bool_)
    found = np.zeros((5, count))
    force, residual, stiff = np.zeros(count), np.zeros(count), np.zeros(count)
    hessian, gradient = np.zeros((4, 4)), np.zeros(4)
    row = np.ones(4)
    amplitude = noise = 0.0
    for step in range(steps + 1):
        above = below = 0.0
        square = state[3] ** 2 - state[0] ** 2 - state[1] ** 2 - state[2] ** 2
        for p in range(count):
            along = patches[p, 0] * state[0] + patches[p, 1] * state[1] + patches[p, 2] * state[2]
            distance = along + np.sqrt(max(square + along * along, 0.0))
            position = min(max((distance - first) / spacing, 0.0), width - 1.001)
            column = int(position)
            part = position - column
            for t in range(5):
                found[t, p] = tables[t, p, column] * (1 - part) + tables[t, p, column + 1] * part
            # A patch mostly hidden by a neighbour or by the volume's face says little about where the membrane is.
            seen[p] = shares[p] > 0 and found[2, p] > 0.35 * typical
            weight = shares[p] * robust[p] if seen[p] else 0.0
            used[p] = weight > 0
            above += weight * found[0, p]
            below += weight * shares[p] * found[2, p]
        amplitude = above / max(below, 1e-12)
        usable = 0
        for p in range(count):
            scale = amplitude * shares[p]
            force[p] = scale * found[1, p] - 0.5 * scale**2 * found[3, p]
            stiff[p] = max(scale**2 * found[4, p], 1e-12)
            residual[p] = force[p] / stiff[p] if seen[p] else 0.0
            usable += used[p]
        if (step == 0 or step == 3 or step == steps) and usable > 4:
            noise = np.median(force[used] ** 2 / stiff[used]) / chi2_median
        hessian[:] = 0.0
        for i in range(4):
            penalty = noise / prior[i] ** 2
            hessian[i, i] = penalty + 1e-9 * stiff.max()
            gradient[i] = -penalty * (state[i] - target[i])
        for p in range(count):
            if not used[p]:
                continue
            row[:3] = patches[p]
            for i in range(4):
                gradient[i] += row[i] * robust[p] * force[p]
                for j in range(4):
                    hessian[i, j] += row[i] * row[j] * robust[p] * stiff[p]
        if step == steps or amplitude <= 0:
            break
        move = solve(hessian, gradient)
        size = np.abs(move).max()
        # A template is only steep near its place: steps longer than that are guesses.
        move *= min(1.0, longest / max(size, 1e-12))
        if step >= 4 and size < tolerance:
            break
        state += move
        state[3] = max(state[3], prior[3])
        if step >= 2:
            spread = 1.4826 * np.median(np.abs(residual[seen])) if usable > 0 else 0.0
            cut = 4.685 * max(spread, 0.02 * state[3], 0.25)
            for p in range(count):
                # Those dropped before too: they may come back, and must not do so by turns.
                robust[p] = max(1 - (residual[p] / cut) ** 2, 0.0) ** 2 if seen[p] else 1.0
    return state, np.array([amplitude]), hessian, np.where(used, robust, -1.0), force, residual, found[0], found[2]


@compiled
def shell_summary(
    patches: Floats, shares: Floats, sizes: Floats, alike: Floats, robust: Floats, force: Floats, residual: Floats,
    match: Floats, power: Floats, amplitude: float, hessian: Floats, calibration: Floats, typical: float, reach: float,
) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:  # fmt: skip
    """What `shell_fit.fit_shell` tells of the last of its `shell_steps`.

    Returns
    -------
    covariance (4, 4), significance and coverage (2,), and for each patch (p,): weight, residual, strength, information.
    """
    count = len(shares)
    weights, residuals = np.zeros(count), np.zeros(count)
    strengths, information = np.zeros(count), np.zeros(count)
    score = np.zeros((count, 4))
    used, coverage, matched, pulls = 0, 0.0, 0.0, 0.0
    for p in range(count):
        if robust[p] >= 0:
            used += 1
            weights[p] = shares[p] * robust[p]
            residuals[p] = min(max(residual[p], -reach), reach)
            score[p, :3] = patches[p] * (robust[p] * force[p])
            score[p, 3] = robust[p] * force[p]
            matched += weights[p] * match[p]
            pulls += (weights[p] * (match[p] - amplitude * shares[p] * power[p])) ** 2
            if robust[p] > 0.3:
                coverage += sizes[p]
        # Outlying patches too: where there is no membrane is what tells a sheet from a sphere.
        if shares[p] > 0 and power[p] > 0.1 * typical:
            information[p] = shares[p] ** 2 * power[p]
            strengths[p] = match[p] / (shares[p] * power[p])
    small_sample = used / max(used - 4, 1)
    middle = np.zeros((4, 4))
    for p in range(count):
        if robust[p] <= 0:
            continue
        for q in range(count):
            if robust[q] <= 0:
                continue
            for i in range(4):
                part = alike[p, q] * score[p, i]
                for j in range(4):
                    middle[i, j] += part * score[q, j]
    inverse = np.empty((4, 4))
    for i in range(4):
        unit = np.zeros(4)
        unit[i] = 1.0
        inverse[:, i] = solve(hessian, unit)
    covariance = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            for k in range(4):
                for m in range(4):
                    covariance[i, j] += inverse[i, k] * middle[k, m] * inverse[m, j]
            covariance[i, j] *= small_sample * calibration[i] * calibration[j]
    error = np.sqrt(pulls * small_sample)
    significance = matched / error if error > 0 and used > 4 else 0.0
    return covariance, np.array([significance, coverage]), weights, residuals, strengths, information
