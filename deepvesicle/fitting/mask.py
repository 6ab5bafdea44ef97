"""A mask of the whole volume, one bit a voxel, and its connected pieces as runs of voxels along x.

A tomogram's mask is looked at again and again while its pieces are told apart, so it is kept in memory; packed, it
takes an eighth of a byte a voxel. Pieces are found in one pass over their runs, so that the cost goes with the mask's
surface.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.mask_kernels import (
    count_runs,
    draw_piece,
    find_runs,
    join_runs,
    measure_pieces,
)
from deepvesicle.memory import drop_pages

Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

#: Voxels that are read from the probability at a time.
SLAB_VOXELS = 1 << 23


class PackedMask:
    """Voxels (z, y, x) of a volume that belong to something.

    Parameters
    ----------
    shape : tuple of int
        z, y, x.
    bits : uint8 array (z, y, ceil(x / 8)), optional
        As of `numpy.packbits` along x; nothing belongs if not given.
    """

    def __init__(self, shape: tuple[int, ...], bits: NDArray[np.uint8] | None = None) -> None:
        nz, ny, nx = shape
        self.shape = (nz, ny, nx)
        self.bits = np.zeros((nz, ny, -(-nx // 8)), dtype=np.uint8) if bits is None else bits

    @classmethod
    def above(cls, data: NDArray[Any], level: float) -> PackedMask:
        """Voxels of an array, which may be memory-mapped, whose value is above a level."""
        mask = cls(data.shape)
        # Integers are compared with an integer: without conversion, which would take most of the time.
        limit: Any = int(np.floor(level)) if data.dtype.kind in "iu" else level
        for first, last in _slabs(data.shape):
            mask.bits[first:last] = np.packbits(np.asarray(data[first:last]) > limit, axis=2)
            drop_pages(data)
        return mask

    @classmethod
    def of(cls, mask: Mask) -> PackedMask:
        """Of an array."""
        return cls(mask.shape, np.packbits(mask, axis=2))

    def copy(self) -> PackedMask:
        """Another mask that is alike."""
        return PackedMask(self.shape, self.bits.copy())

    def any(self) -> bool:
        """Whether any voxel belongs."""
        return bool(self.bits.any())

    def box(self, box: Box) -> Mask:
        """A part of the mask, as a new array."""
        z, y, x = box
        first = x.start // 8
        bits = self.bits[z, y, first : -(-x.stop // 8)]
        whole = np.unpackbits(bits, axis=2, count=x.stop - 8 * first)
        return whole[:, :, x.start - 8 * first :].view(np.bool_)

    def add(self, box: Box, part: Mask) -> None:
        """Let the voxels of a part belong, too."""
        region, bits = self._packed(box, part)
        self.bits[region] |= bits

    def keep(self, box: Box, part: Mask) -> None:
        """Let only those of a box belong that do so in `part`, too."""
        region, bits = self._packed(box, ~part)
        self.bits[region] &= ~bits

    def slabs(self, thickness: int) -> Iterator[tuple[int, Mask]]:
        """The mask from the lowest to the highest section, so many at a time: first section, part."""
        nz, ny, nx = self.shape
        for first in range(0, nz, thickness):
            yield first, self.box((slice(first, min(nz, first + thickness)), slice(0, ny), slice(0, nx)))

    def _packed(self, box: Box, part: Mask) -> tuple[Box, NDArray[np.uint8]]:
        """The bytes that hold a box, and the bits of a part of its shape in them; all others are 0."""
        z, y, x = box
        first = x.start // 8
        padded = np.pad(part, ((0, 0), (0, 0), (x.start - 8 * first, 0)))
        return (z, y, slice(first, -(-x.stop // 8))), np.packbits(padded, axis=2)


@dataclass(frozen=True)
class Piece:
    """A connected piece of a mask.

    Parameters
    ----------
    number : int
    count : int
        Voxels.
    low, high : tuple of int
        First voxels and ends along z, y, x.
    """

    number: int
    count: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    def box(self, margin: int, shape: tuple[int, ...]) -> Box:
        """The box that holds it, so much wider, as far as the volume reaches."""
        z, y, x = (
            slice(max(0, a - margin), min(n, b + margin)) for a, b, n in zip(self.low, self.high, shape, strict=True)
        )
        return z, y, x


class Pieces:
    """The connected pieces of a mask (neighbours share a face).

    Parameters
    ----------
    mask : PackedMask
        Not kept.
    """

    def __init__(self, mask: PackedMask) -> None:
        nz, ny, nx = mask.shape
        self.shape = mask.shape
        rows = np.zeros(nz * ny + 1, dtype=np.int64)
        bits = mask.bits.reshape(nz * ny, -1)
        count_runs(bits, rows)
        starts, stops = (np.empty(int(rows[-1]), dtype=np.int32) for _ in range(2))
        find_runs(bits, nx, rows, starts, stops)
        self._rows, self._starts, self._stops = rows, starts, stops
        self._labels, count = join_runs(rows, starts, stops, nz, ny, True)
        self._counts, self._boxes = measure_pieces(rows, starts, stops, self._labels, count, ny)

    def of_size(self, smallest: float) -> list[Piece]:
        """Those of at least so many voxels, in the order in which they begin."""
        found = []
        for number in np.flatnonzero(self._counts >= smallest).tolist():
            z0, y0, x0, z1, y1, x1 = self._boxes[number].tolist()
            found.append(Piece(number, int(self._counts[number]), (z0, y0, x0), (z1, y1, x1)))
        return found

    def part(self, piece: Piece, box: Box) -> Mask:
        """The voxels of a piece in a box, as a new array."""
        z, y, x = box
        out = np.zeros((z.stop - z.start, y.stop - y.start, x.stop - x.start), dtype=np.bool_)
        runs = self._labels, self._rows, self._starts, self._stops
        draw_piece(out, piece.number, *runs, self.shape[1], (z.start, y.start, x.start))
        return out


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """First sections and ends of slabs that are small enough for the memory."""
    step = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    for first in range(0, shape[0], step):
        yield first, min(shape[0], first + step)
