"""Loops over the surfaces of spheroids, compiled by numba; see `kernels`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.kernels import compiled, solve

Floats = NDArray[np.float64]
Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Place = tuple[float, float, float]


@compiled
def _distance(z: float, y: float, x: float, shape: Floats) -> float:
    """Distance from the surface of a spheroid (centre z, y, x, radius, squash2), outwards, in its own metric."""
    z, y, x = z - shape[0], y - shape[1], x - shape[2]
    return np.sqrt(shape[4] * z * z + y * y + x * x) - shape[3]


@compiled
def share_surface(
    mask: Mask, data: Array, level: float, me: Floats, rivals: Floats, reach: float, points: Floats
) -> int:
    """Where the surface of a spheroid's share of a mask lies, as `spheroids.surface_points`; how many points (n, 3).

    Its share are the voxels nearer to its own surface than to that of any rival (k, 5), and within `reach` radii.
    """
    nz, ny, nx = mask.shape
    found = 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if not mask[z, y, x]:
                    continue
                sides = 0
                sides += z + 1 < nz and not mask[min(z + 1, nz - 1), y, x]
                sides += z > 0 and not mask[max(z - 1, 0), y, x]
                sides += y + 1 < ny and not mask[z, min(y + 1, ny - 1), x]
                sides += y > 0 and not mask[z, max(y - 1, 0), x]
                sides += x + 1 < nx and not mask[z, y, min(x + 1, nx - 1)]
                sides += x > 0 and not mask[z, y, max(x - 1, 0)]
                if not sides:
                    continue
                mine = _distance(z, y, x, me)
                if mine > (reach - 1) * me[3]:
                    continue
                own = True
                for k in range(len(rivals)):
                    if mine > _distance(z, y, x, rivals[k]):
                        own = False
                        break
                if not own:
                    continue
                inner = data[z, y, x]
                for axis in range(3):
                    for step in (1, -1):
                        oz, oy, ox = z + step * (axis == 0), y + step * (axis == 1), x + step * (axis == 2)
                        if oz < 0 or oy < 0 or ox < 0 or oz >= nz or oy >= ny or ox >= nx or mask[oz, oy, ox]:
                            continue
                        # In a filled hole the inner value lies below the threshold: take the middle there.
                        part, drop = 0.5, np.float64(inner) - np.float64(data[oz, oy, ox])
                        if inner > level and drop > 0:
                            part = (inner - level) / drop
                        if found < len(points):
                            points[found, 0], points[found, 1], points[found, 2] = z, y, x
                            points[found, axis] += step * part
                        found += 1
    return found


@compiled
def spheroid_through(
    points: Floats, start: Floats, rounds: int, prior: float, prior_weight: float, least: float, most: float
) -> tuple[bool, Floats]:
    """Spheroid (centre z, y, x, radius, squash2) through points (n, 3): see `spheroids.fit_spheroid`."""
    count = len(points)
    found = start.copy()
    if count < 12:
        return False, found
    scale = start[3]
    u = np.empty((count, 3))
    residual, weights = np.empty(count), np.empty(count)
    for i in range(count):
        for axis in range(3):
            u[i, axis] = (points[i, axis] - start[axis]) / scale
        residual[i] = np.sqrt(u[i, 2] ** 2 + u[i, 1] ** 2 + start[4] * u[i, 0] ** 2)
    residual -= np.median(residual)
    for i in range(count):
        weights[i] = max(1 - (residual[i] / 0.6) ** 2, 0.0) ** 2
    matrix, right, row = np.empty((5, 5)), np.empty(5), np.empty(5)
    square = q = 0.0
    bz = by = bx = k = 0.0
    for _ in range(rounds):
        total = weights.sum()
        if total < 8:
            return False, found
        matrix[:] = 0.0
        right[:] = 0.0
        for i in range(count):
            weight = weights[i]
            if weight == 0:
                continue
            row[0], row[1], row[2], row[3], row[4] = 2 * u[i, 0], 2 * u[i, 1], 2 * u[i, 2], -(u[i, 0] ** 2), 1.0
            value = u[i, 2] ** 2 + u[i, 1] ** 2
            for a in range(5):
                right[a] += weight * row[a] * value
                for b in range(a, 5):
                    matrix[a, b] += weight * row[a] * row[b]
        for a in range(5):
            for b in range(a):
                matrix[a, b] = matrix[b, a]
        free, toward = matrix.copy(), right.copy()
        # The squash is weakly known where a cap is missing: a faint prior holds it there and nowhere else.
        free[3, 3] += prior_weight * total
        toward[3] += prior_weight * total * prior
        answer = solve(free, toward)
        bz, by, bx, q, k = answer[0], answer[1], answer[2], answer[3], answer[4]
        if not least <= q <= most:
            q = min(max(q, least), most)
            fewer, rest = np.empty((4, 4)), np.empty(4)
            for a in range(4):
                old = a + (a == 3)
                rest[a] = right[old] - q * matrix[old, 3]
                for b in range(4):
                    fewer[a, b] = matrix[old, b + (b == 3)]
            answer = solve(fewer, rest)
            bz, by, bx, k = answer[0], answer[1], answer[2], answer[3]
        square = k + by**2 + bx**2 + bz**2 / q
        if not (np.isfinite(square) and square > 0.01):
            return False, found
        radius = np.sqrt(square)
        used = 0
        sizes = np.empty(count)
        for i in range(count):
            flat = (u[i, 1] - by) ** 2 + (u[i, 2] - bx) ** 2
            residual[i] = np.sqrt(q * (u[i, 0] - bz / q) ** 2 + flat) - radius
            if weights[i] > 0:
                sizes[used] = abs(residual[i])
                used += 1
        spread = 1.4826 * np.median(sizes[:used]) if used else 0.1
        width = max(4.0 * spread, 0.08 * radius)
        for i in range(count):
            weights[i] = max(1 - (residual[i] / width) ** 2, 0.0) ** 2
    found[0], found[1], found[2] = start[0] + scale * bz / q, start[1] + scale * by, start[2] + scale * bx
    found[3], found[4] = scale * np.sqrt(square), q
    return True, found


@compiled
def ball_sums(data: Array, mask: Mask, shape: Floats, beyond: float) -> Floats:
    """Of the voxels inside a spheroid: number, those of the mask, sum of values; of those just outside: number, sum."""
    found = np.zeros(5)
    nz, ny, nx = mask.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                off = _distance(z, y, x, shape)
                if off <= 0:
                    found[0] += 1
                    found[1] += mask[z, y, x]
                    found[2] += data[z, y, x]
                elif 0.25 * beyond < off <= beyond:
                    found[3] += 1
                    found[4] += data[z, y, x]
    return found


@compiled
def surface_sums(mask: Mask, first: Floats, size: Floats, shape: Floats, directions: Floats, steps: Floats) -> Floats:
    """Of the directions on a spheroid's surface: in how many the mask ends there, goes on beyond, and all that count.

    `mask` is the part of a volume of a size that begins at a voxel; the first half of `steps` (shares of the radius)
    lies inside, the other outside.
    """
    found = np.zeros(3)
    half = len(steps) // 2
    for k in range(len(directions)):
        within = beyond = 0
        usable = True
        for s in range(len(steps)):
            way = shape[3] * (1 + steps[s])
            z = np.rint(shape[0] + directions[k, 0] * way)
            y = np.rint(shape[1] + directions[k, 1] * way)
            x = np.rint(shape[2] + directions[k, 2] * way)
            if z < 0 or y < 0 or x < 0 or z >= size[0] or y >= size[1] or x >= size[2]:
                usable = False
                break
            there = mask[int(z - first[0]), int(y - first[1]), int(x - first[2])]
            if s < half:
                within += there
            else:
                beyond += there
        if usable:
            found[0] += within >= 2 and beyond < 2
            found[1] += beyond >= 2
            found[2] += 1
    return found
