"""Loops that take one piece of a mask apart, compiled by numba; see `kernels` and `instances`.

Spheroids are rows: centre z, y, x, radius, squash2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.kernels import compiled
from deepvesicle.fitting.spheroid_kernels import share_surface, spheroid_through

Floats = NDArray[np.float64]
Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@compiled
def smoothed(values: Array, kernel: Floats) -> Array:
    """Values smoothed along all axes with a symmetric kernel (from its middle outwards), mirrored at the faces.

    As `scipy.ndimage.gaussian_filter`, to the last bit.
    """
    nz, ny, nx = values.shape
    reach = len(kernel) - 1
    first, second = np.empty_like(values), np.empty_like(values)
    line = np.empty(nx)
    for axis in range(2):
        source, target = (values, first) if axis == 0 else (first, second)
        length = nz if axis == 0 else ny
        for z in range(nz):
            for y in range(ny):
                here = z if axis == 0 else y
                for x in range(nx):
                    line[x] = source[z, y, x] * kernel[0]
                for k in range(reach, 0, -1):
                    low, high = _mirrored(here - k, length), _mirrored(here + k, length)
                    one, two = (source[low, y], source[high, y]) if axis == 0 else (source[z, low], source[z, high])
                    for x in range(nx):
                        line[x] += (np.float64(one[x]) + np.float64(two[x])) * kernel[k]
                for x in range(nx):
                    target[z, y, x] = line[x]
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                total = second[z, y, x] * kernel[0]
                for k in range(reach, 0, -1):
                    low, high = _mirrored(x - k, nx), _mirrored(x + k, nx)
                    total += (np.float64(second[z, y, low]) + np.float64(second[z, y, high])) * kernel[k]
                first[z, y, x] = total
    return first


@compiled
def _mirrored(at: int, length: int) -> int:
    """Where a place outside a line of voxels is found in it, if its ends are mirrors."""
    at = at % (2 * length)
    return at if at < length else 2 * length - 1 - at


@compiled
def deep_box(depth: Array, enough: float, margin: int) -> NDArray[np.int64]:
    """First voxels and ends (6,) of the box about all that is deep enough, so much wider; zeros where there is none."""
    nz, ny, nx = depth.shape
    box = np.array([nz, ny, nx, 0, 0, 0])
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if depth[z, y, x] >= enough:
                    box[0], box[1], box[2] = min(box[0], z), min(box[1], y), min(box[2], x)
                    box[3], box[4], box[5] = max(box[3], z + 1), max(box[4], y + 1), max(box[5], x + 1)
    if box[3] == 0:
        return np.zeros(6, dtype=np.int64)
    for axis in range(3):
        box[axis] = max(box[axis] - margin, 0)
        box[axis + 3] = min(box[axis + 3] + margin, depth.shape[axis])
    return box


@compiled
def seeds(depth: Array, smooth: Array, enough: float, reach: int, squash: float, neck: float) -> Floats:
    """Spheroids about the maxima of a smoothed depth within `reach` voxels, those without a neck between them as one.

    The deepest first; one that is near a deeper one, and has no narrower place on the way to it, is left out.
    """
    nz, ny, nx = depth.shape
    found = np.empty((64, 3))
    count = 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if depth[z, y, x] < enough or not _is_peak(smooth, z, y, x, reach):
                    continue
                if count == len(found):
                    more = np.empty((2 * count, 3))
                    more[:count] = found
                    found = more
                found[count, 0], found[count, 1], found[count, 2] = z, y, x
                count += 1
    values = np.empty(count)
    for i in range(count):
        values[i] = smooth[int(found[i, 0]), int(found[i, 1]), int(found[i, 2])]
    order = np.argsort(-values, kind="mergesort")
    kept = np.empty((count, 5))
    number = 0
    for i in order:
        alone = True
        for j in range(number):
            dz, dy, dx = kept[j, 0] - found[i, 0], kept[j, 1] - found[i, 1], kept[j, 2] - found[i, 2]
            distance = np.sqrt((squash * dz) ** 2 + dy**2 + dx**2)
            if distance >= 1.5 * kept[j, 3]:
                continue
            if distance < 0.4 * kept[j, 3] or _least_between(smooth, found[i], kept[j]) > neck * values[i]:
                alone = False
                break
        if alone:
            kept[number, 0], kept[number, 1], kept[number, 2] = found[i, 0], found[i, 1], found[i, 2]
            kept[number, 3], kept[number, 4] = values[i], 1.0
            number += 1
    kept = kept[:number].copy()
    for j in range(number):
        kept[j, 3] = max(kept[j, 3], 1.0)
    return kept


@compiled
def _is_peak(smooth: Array, z: int, y: int, x: int, reach: int) -> bool:
    nz, ny, nx = smooth.shape
    value = smooth[z, y, x]
    for k in range(max(z - reach, 0), min(z + reach + 1, nz)):
        for j in range(max(y - reach, 0), min(y + reach + 1, ny)):
            for i in range(max(x - reach, 0), min(x + reach + 1, nx)):
                if smooth[k, j, i] > value:
                    return False
    return True


@compiled
def _least_between(depth: Array, a: Floats, b: Floats) -> float:
    """The least depth on the straight line between two places."""
    dz, dy, dx = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    count = max(3, int(np.ceil(2 * np.sqrt(dz * dz + dy * dy + dx * dx))))
    step = 1 / (count - 1)
    least = np.float32(np.inf)
    for i in range(count):
        part = 1.0 if i == count - 1 else i * step
        z, y, x = np.rint(a[0] + dz * part), np.rint(a[1] + dy * part), np.rint(a[2] + dx * part)
        least = min(least, depth[int(z), int(y), int(x)])
    return float(least)


@compiled
def share_out(
    mask: Mask, data: Array, level: float, shapes: Floats, rounds: int, reach: float, settled: float,
    fit: tuple[int, float, float, float, float],
) -> Floats:  # fmt: skip
    """Share a mask out among spheroids (n, 5) and fit each to the surface of its share, in rounds; those that are left.

    Those that have settled are not fitted again; one whose centre lies deep in a larger one goes.
    """
    moving = np.ones(len(shapes), dtype=np.bool_)
    points = np.empty((4096, 3))
    for _ in range(rounds):
        if not moving.any():
            break
        fitted = shapes.copy()
        for i in range(len(shapes)):
            if not moving[i]:
                continue
            me = shapes[i]
            half = reach * me[3] + 3
            low, high = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
            for axis in range(3):
                low[axis] = max(0, int(np.floor(me[axis] - half)))
                high[axis] = min(mask.shape[axis], int(np.ceil(me[axis] + half)) + 1)
            own = me.copy()
            own[:3] -= low
            rivals = np.empty((len(shapes), 5))
            count = 0
            for j in range(len(shapes)):
                gap = np.sqrt(((shapes[j, :3] - me[:3]) ** 2).sum()) - shapes[j, 3]
                if j != i and gap < reach * me[3]:
                    rivals[count] = shapes[j]
                    rivals[count, :3] -= low
                    count += 1
            part = mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            values = data[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            number = share_surface(part, values, level, own, rivals[:count], reach, points)
            if number > len(points):
                points = np.empty((2 * number, 3))
                number = share_surface(part, values, level, own, rivals[:count], reach, points)
            for k in range(number):
                for axis in range(3):
                    points[k, axis] += low[axis]
            good, new = spheroid_through(points[:number], me, fit[0], fit[1], fit[2], fit[3], fit[4])
            moved = np.sqrt(((new[:3] - me[:3]) ** 2).sum())
            # It stays as it is where its share does not determine one.
            if good and 0.5 < new[3] / me[3] < 2.0 and moved <= me[3]:
                fitted[i] = new
        kept = _distinct(fitted)
        still = np.zeros(len(kept), dtype=np.bool_)
        for k in range(len(kept)):
            change = fitted[kept[k]] - shapes[kept[k]]
            # One that has settled is fitted again only if it lost a rival, which is rare: then its share is larger.
            still[k] = max(np.sqrt((change[:3] ** 2).sum()), abs(change[3])) > settled
        shapes, moving = fitted[kept], still
    return shapes


@compiled
def _distinct(shapes: Floats) -> NDArray[np.int64]:
    """The rows of spheroids whose centre does not lie deep in a larger one."""
    dropped = np.zeros(len(shapes), dtype=np.bool_)
    for i in np.argsort(-shapes[:, 3], kind="mergesort"):
        if dropped[i]:
            continue
        for j in range(len(shapes)):
            if j == i or shapes[j, 3] > shapes[i, 3]:
                continue
            away = (shapes[j, 0] - shapes[i, 0]) ** 2
            away += (shapes[j, 1] - shapes[i, 1]) ** 2 + (shapes[j, 2] - shapes[i, 2]) ** 2
            if away <= (0.5 * shapes[i, 3]) ** 2:
                dropped[j] = True
    return np.flatnonzero(~dropped)
