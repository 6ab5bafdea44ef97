"""Loops over masks, compiled by numba: runs of voxels along x, connected pieces, holes, depths; see `kernels`.

A row is all voxels of one y in one z; runs are the unbroken stretches of voxels that belong to the mask in it, from
`start` to before `stop`. Rows are counted from 0 through the volume; the runs of row i are `rows[i]` to before
`rows[i + 1]`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.kernels import compiled

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Longs = NDArray[np.int64]
Ints = NDArray[np.int32]
Triple = tuple[int, int, int]


@compiled
def count_runs(bits: Bytes, rows: Longs) -> None:
    """Fill in `rows` for packed rows (n, bytes)."""
    total = 0
    rows[0] = 0
    for i in range(bits.shape[0]):
        before = 0
        for k in range(bits.shape[1]):
            byte = int(bits[i, k])
            begins = byte & ~((byte >> 1) | (before << 7)) & 255
            while begins:
                begins &= begins - 1
                total += 1
            before = byte & 1
        rows[i + 1] = total


@compiled
def find_runs(bits: Bytes, length: int, rows: Longs, starts: Ints, stops: Ints) -> None:
    """The runs of packed rows (n, bytes) of so many voxels."""
    for i in range(bits.shape[0]):
        if rows[i] == rows[i + 1]:
            continue
        run = rows[i]
        inside = False
        for k in range(bits.shape[1]):
            byte = int(bits[i, k])
            if (byte == 0 and not inside) or (byte == 255 and inside):
                continue
            for j in range(8):
                one = (byte >> (7 - j)) & 1 == 1
                if one and not inside:
                    starts[run] = 8 * k + j
                elif inside and not one:
                    stops[run] = 8 * k + j
                    run += 1
                inside = one
        if inside:
            stops[run] = length


@compiled
def runs_of(mask: Mask, value: bool) -> tuple[Longs, Ints, Ints]:
    """Rows, starts and stops of the runs of one value in a mask (z, y, x)."""
    nz, ny, nx = mask.shape
    rows = np.zeros(nz * ny + 1, dtype=np.int64)
    total = 0
    for z in range(nz):
        for y in range(ny):
            before = not value
            for x in range(nx):
                total += mask[z, y, x] == value and before != value
                before = mask[z, y, x]
            rows[z * ny + y + 1] = total
    starts, stops = np.empty(total, dtype=np.int32), np.empty(total, dtype=np.int32)
    run = -1
    for z in range(nz):
        for y in range(ny):
            before = not value
            for x in range(nx):
                if mask[z, y, x] == value:
                    if before != value:
                        run += 1
                        starts[run] = x
                    stops[run] = x + 1
                before = mask[z, y, x]
    return rows, starts, stops


@compiled
def _root(parents: Ints, one: int) -> int:
    while parents[one] != one:
        parents[one] = parents[parents[one]]
        one = parents[one]
    return one


@compiled
def _join_rows(parents: Ints, starts: Ints, stops: Ints, a: int, a_end: int, b: int, b_end: int) -> None:
    """Join the runs of two neighbouring rows that touch."""
    while a < a_end and b < b_end:
        if starts[a] < stops[b] and starts[b] < stops[a]:
            one, two = _root(parents, a), _root(parents, b)
            if one < two:
                parents[two] = one
            elif two < one:
                parents[one] = two
        if stops[a] < stops[b]:
            a += 1
        else:
            b += 1


@compiled
def join_runs(rows: Longs, starts: Ints, stops: Ints, nz: int, ny: int, across: bool) -> tuple[Ints, int]:
    """The number of the piece that each run belongs to, from 0 as they begin, and how many pieces there are.

    Pieces hang together by faces of voxels; if not `across`, within sections only.
    """
    labels = np.arange(len(starts)).astype(np.int32)
    for z in range(nz):
        for y in range(ny):
            i = z * ny + y
            if rows[i] == rows[i + 1]:
                continue
            if y:
                _join_rows(labels, starts, stops, rows[i], rows[i + 1], rows[i - 1], rows[i])
            if z and across:
                _join_rows(labels, starts, stops, rows[i], rows[i + 1], rows[i - ny], rows[i - ny + 1])
    count = 0
    for run in range(len(labels)):
        # The first run of a piece is its root, so the root has got its number already.
        if labels[run] == run:
            labels[run] = count
            count += 1
        else:
            labels[run] = labels[labels[run]]
    return labels, count


@compiled
def measure_pieces(rows: Longs, starts: Ints, stops: Ints, labels: Ints, count: int, ny: int) -> tuple[Longs, Ints]:
    """Voxels of each piece (n,), and the box about it (n, 6): first z, y, x, and ends."""
    counts = np.zeros(count, dtype=np.int64)
    boxes = np.zeros((count, 6), dtype=np.int32)
    for i in range(len(rows) - 1):
        z, y = i // ny, i % ny
        for run in range(rows[i], rows[i + 1]):
            label = labels[run]
            box = boxes[label]
            if counts[label] == 0:
                box[0], box[1], box[2], box[3], box[4], box[5] = z, y, starts[run], z + 1, y + 1, stops[run]
            else:
                box[3] = z + 1
                box[1], box[4] = min(box[1], y), max(box[4], y + 1)
                box[2], box[5] = min(box[2], starts[run]), max(box[5], stops[run])
            counts[label] += stops[run] - starts[run]
    return counts, boxes


@compiled
def draw_piece(
    out: Mask, number: int, labels: Ints, rows: Longs, starts: Ints, stops: Ints, ny: int, first: Triple
) -> None:
    """Draw the voxels of a piece into a box that begins at a voxel of the volume."""
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            i = (z + first[0]) * ny + y + first[1]
            for run in range(rows[i], rows[i + 1]):
                if labels[run] != number:
                    continue
                for x in range(max(starts[run] - first[2], 0), min(stops[run] - first[2], out.shape[2])):
                    out[z, y, x] = True


@compiled
def fill_closed(mask: Mask) -> None:
    """Fill what a mask closes in three dimensions; what reaches the array's faces is open."""
    nz, ny, nx = mask.shape
    rows, starts, stops = runs_of(mask, False)
    labels, count = join_runs(rows, starts, stops, nz, ny, True)
    is_open = np.zeros(count, dtype=np.bool_)
    for i in range(nz * ny):
        z, y = i // ny, i % ny
        edge = z == 0 or z == nz - 1 or y == 0 or y == ny - 1
        for run in range(rows[i], rows[i + 1]):
            if edge or starts[run] == 0 or stops[run] == nx:
                is_open[labels[run]] = True
    for i in range(nz * ny):
        for run in range(rows[i], rows[i + 1]):
            if not is_open[labels[run]]:
                mask[i // ny, i % ny, starts[run] : stops[run]] = True


@compiled
def fill_round(mask: Mask, most_area: float) -> None:
    """Fill round holes of sections, up to an area; holes with cusps stay."""
    nz, ny, nx = mask.shape
    rows, starts, stops = runs_of(mask, False)
    labels, count = join_runs(rows, starts, stops, nz, ny, False)
    areas, boxes = measure_pieces(rows, starts, stops, labels, count, ny)
    fills = np.zeros(count, dtype=np.bool_)
    for label in range(count):
        z, y0, x0, _, y1, x1 = boxes[label]
        if areas[label] > most_area or y0 == 0 or x0 == 0 or y1 == ny or x1 == nx:
            continue
        # No circle in the hole is larger than its box; a one-voxel hole counts as a circle of radius 1.
        widest = (min(y1 - y0, x1 - x0) + 1) / 2
        if areas[label] > 1.35 * np.pi * widest**2 + 2:
            continue
        hole = np.zeros((1, y1 - y0 + 2, x1 - x0 + 2), dtype=np.bool_)
        draw_piece(hole, label, labels, rows, starts, stops, ny, (z, y0 - 1, x0 - 1))
        inscribed = depths(hole, 1.0).max()
        fills[label] = areas[label] <= 1.35 * np.pi * inscribed**2 + 2
    for i in range(nz * ny):
        for run in range(rows[i], rows[i + 1]):
            if fills[labels[run]]:
                mask[i // ny, i % ny, starts[run] : stops[run]] = True


@compiled
def depths(mask: Mask, height: float) -> NDArray[np.float32]:
    """Distance of each voxel of a mask (z, y, x) to the next that does not belong; voxels are so high, and 1 wide.

    What lies outside the array is not known, and no end of the mask. Exact: the least over all sums of squares, axis by
    axis, each looked for no further than it can matter.
    """
    nz, ny, nx = mask.shape
    far = np.float32(1e12)
    square = np.empty((nz, ny, nx), dtype=np.float32)
    for z in range(nz):
        for y in range(ny):
            since = far
            for x in range(nx):
                since = since + 1 if mask[z, y, x] else np.float32(0)
                square[z, y, x] = since
            since = far
            for x in range(nx - 1, -1, -1):
                since = since + 1 if mask[z, y, x] else np.float32(0)
                nearest = min(square[z, y, x], since)
                square[z, y, x] = nearest * nearest
    # Only voxels of the mask have a depth, and most are shallow, so that each is soon done.
    flat = np.zeros((nz, ny, nx), dtype=np.float32)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                best = square[z, y, x]
                for k in range(1, ny):
                    way = np.float32(k * k)
                    if way >= best:
                        break
                    if y >= k:
                        best = min(best, square[z, y - k, x] + way)
                    if y + k < ny:
                        best = min(best, square[z, y + k, x] + way)
                flat[z, y, x] = best
    step = np.float32(height * height)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                best = flat[z, y, x]
                for k in range(1, nz):
                    way = k * k * step
                    if way >= best:
                        break
                    if z >= k:
                        best = min(best, flat[z - k, y, x] + way)
                    if z + k < nz:
                        best = min(best, flat[z + k, y, x] + way)
                square[z, y, x] = np.sqrt(np.float64(best))
    return square
