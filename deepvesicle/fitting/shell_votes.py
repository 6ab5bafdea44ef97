"""Loops of the votes for centres of large shells, compiled by numba; see `kernels` and `shells`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.kernels import compiled
from deepvesicle.fitting.spheroid_kernels import spheroid_through

Floats = NDArray[np.float64]
Array = NDArray[np.float32]
Counts = NDArray[np.uint16]
Longs = NDArray[np.int64]


@compiled
def bin_counts(bits: NDArray[np.uint8], size: int, out: Counts) -> None:
    """Voxels of a packed mask (z, y, bytes) in blocks of so many voxels a side; incomplete ones are left out."""
    nz, ny, nx = out.shape
    for z in range(min(bits.shape[0], nz * size)):
        for y in range(min(bits.shape[1], ny * size)):
            line = out[z // size, y // size]
            for k in range(bits.shape[2]):
                byte = bits[z, y, k]
                if byte == 0:
                    continue
                for j in range(8):
                    x = (8 * k + j) // size
                    if (byte >> (7 - j)) & 1 and x < nx:
                        line[x] += 1


@compiled
def surface_voxels(counts: Counts, full: float, first: int, last: int, rows: Longs, places: NDArray[np.int32]) -> int:
    """Voxels at least half full, in sections `first` to before `last`, that have a neighbour that is not: z, y, x.

    With places of length 0 they are counted only. `rows` gets the number of those before each row of the volume.
    """
    nz, ny, nx = counts.shape
    half = 0.5 * full
    found = 0
    for z in range(first, last):
        for y in range(ny):
            for x in range(nx):
                if counts[z, y, x] < half:
                    continue
                if (
                    (z == 0 or counts[z - 1, y, x] >= half)
                    and (z == nz - 1 or counts[z + 1, y, x] >= half)
                    and (y == 0 or counts[z, y - 1, x] >= half)
                    and (y == ny - 1 or counts[z, y + 1, x] >= half)
                    and (x == 0 or counts[z, y, x - 1] >= half)
                    and (x == nx - 1 or counts[z, y, x + 1] >= half)
                ):
                    continue
                if len(places):
                    places[found, 0], places[found, 1], places[found, 2] = z, y, x
                found += 1
            rows[z * ny + y + 1] = found
    return found


@compiled
def cast_votes(
    points: Array, outward: Array, stretch: float, radius: float, low: float, cell: float, votes: Counts
) -> None:
    """Count for each cell how many places of a surface (n, 3) have the centre of a sphere of a radius in it.

    Space is stretched along z by a factor; cells begin at `low` along each axis.
    """
    nz, ny, nx = votes.shape
    for i in range(len(points)):
        nz_, ny_, nx_ = outward[i, 0] / stretch, np.float64(outward[i, 1]), np.float64(outward[i, 2])
        way = radius / np.sqrt(nz_ * nz_ + ny_ * ny_ + nx_ * nx_)
        z = int(np.floor((points[i, 0] * stretch - way * nz_ - low) / cell))
        y = int(np.floor((points[i, 1] - way * ny_ - low) / cell))
        x = int(np.floor((points[i, 2] - way * nx_ - low) / cell))
        if 0 <= z < nz and 0 <= y < ny and 0 <= x < nx and votes[z, y, x] < 65535:
            votes[z, y, x] += 1


@compiled
def vote_peaks(votes: Counts, least: float) -> tuple[NDArray[np.int64], Floats]:
    """Cells about which the votes of 27 cells are most: their sum, at least `least`; and the mean place of these votes.

    Sections are gone through in order, so that no second volume is needed.
    """
    nz, ny, nx = votes.shape
    flat = np.zeros((5, ny, nx), dtype=np.int32)  # sums of 9 cells of sections z - 2 .. z + 2
    around = np.zeros((3, ny, nx), dtype=np.int32)  # sums of 27 cells of sections z - 1 .. z + 1
    sums, places = [0], [(0.0, 0.0, 0.0)]
    for last in range(nz + 3):
        layer = flat[last % 5]
        layer[:] = 0
        if last < nz:
            _sum_of_nine(votes[last], layer)
        z = last - 1
        if z >= 0:
            here = around[z % 3]
            for y in range(ny):
                for x in range(nx):
                    total = flat[z % 5, y, x] + flat[(z + 1) % 5, y, x]
                    here[y, x] = total + (flat[(z - 1) % 5, y, x] if z else 0) if z < nz else -1
        z = last - 2
        if z < 0 or z >= nz:
            continue
        here = around[z % 3]
        for y in range(ny):
            for x in range(nx):
                value = here[y, x]
                if value < least or not _is_highest(around, z, nz, y, x):
                    continue
                total, cz, cy, cx = 0, 0.0, 0.0, 0.0
                for k in range(max(z - 1, 0), min(z + 2, nz)):
                    for j in range(max(y - 1, 0), min(y + 2, ny)):
                        for i in range(max(x - 1, 0), min(x + 2, nx)):
                            total += votes[k, j, i]
                            cz += k * votes[k, j, i]
                            cy += j * votes[k, j, i]
                            cx += i * votes[k, j, i]
                sums.append(value)
                places.append((cz / total, cy / total, cx / total))
    count = len(sums) - 1
    found, where = np.empty(count, dtype=np.int64), np.empty((count, 3))
    for i in range(count):
        found[i] = sums[i + 1]
        where[i, 0], where[i, 1], where[i, 2] = places[i + 1]
    return found, where


@compiled
def _sum_of_nine(section: Counts, out: NDArray[np.int32]) -> None:
    ny, nx = section.shape
    for y in range(ny):
        for x in range(nx):
            if section[y, x] == 0:
                continue
            for j in range(max(y - 1, 0), min(y + 2, ny)):
                for i in range(max(x - 1, 0), min(x + 2, nx)):
                    out[j, i] += section[y, x]


@compiled
def _is_highest(around: NDArray[np.int32], z: int, nz: int, y: int, x: int) -> bool:
    _, ny, nx = around.shape
    value = around[z % 3, y, x]
    for k in range(max(z - 1, 0), min(z + 2, nz)):
        for j in range(max(y - 1, 0), min(y + 2, ny)):
            for i in range(max(x - 1, 0), min(x + 2, nx)):
                if around[k % 3, j, i] > value:
                    return False
    return True


@compiled
def shell_about(
    points: Array, outward: Array, rows: Longs, shape: tuple[int, int, int], start: Floats, within: Floats,
    fit: tuple[int, float, float, float, float],
) -> tuple[bool, Floats]:  # fmt: skip
    """Fit a spheroid to the places of a surface near it whose normals point away from its centre.

    `rows` are those of the voxels that the places (n, 3) belong to, less than a voxel away; `within` (k, 2) are the
    distances that count in each round, as shares of the radius; `fit` is what `spheroid_through` needs besides.
    """
    found = start.copy()
    for step in range(len(within)):
        reach = 1.5 * found[3]
        stretch = np.sqrt(found[4])
        near = np.empty((256, 3))
        count = 0
        for z in range(max(int(found[0] - reach) - 1, 0), min(int(found[0] + reach) + 3, shape[0])):
            for y in range(max(int(found[1] - reach) - 1, 0), min(int(found[1] + reach) + 3, shape[1])):
                i = z * shape[1] + y
                for k in range(rows[i], rows[i + 1]):
                    dz, dy, dx = points[k, 0] - found[0], points[k, 1] - found[1], points[k, 2] - found[2]
                    if dz * dz + dy * dy + dx * dx > reach * reach:
                        continue
                    dz *= stretch
                    distance = np.sqrt(dz * dz + dy * dy + dx * dx)
                    if not within[step, 0] * found[3] < distance < within[step, 1] * found[3]:
                        continue
                    oz, oy, ox = outward[k, 0] / stretch, outward[k, 1], outward[k, 2]
                    if dz * oz + dy * oy + dx * ox <= 0.7 * distance * np.sqrt(oz * oz + oy * oy + ox * ox):
                        continue
                    if count == len(near):
                        more = np.empty((2 * count, 3))
                        more[:count] = near
                        near = more
                    near[count, 0], near[count, 1], near[count, 2] = points[k, 0], points[k, 1], points[k, 2]
                    count += 1
        good, new = spheroid_through(near[:count], found, fit[0], fit[1], fit[2], fit[3], fit[4])
        moved = np.sqrt((new[0] - found[0]) ** 2 + (new[1] - found[1]) ** 2 + (new[2] - found[2]) ** 2)
        if not good or moved > 0.6 * found[3]:
            return False, found
        found = new
    return True, found
