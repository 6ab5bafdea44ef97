"""What a label volume holds, piece by piece: counted slab by slab, so that memory does not grow with the volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Voxel = tuple[int, int, int]
Mask = NDArray[np.bool_]

#: Voxels that are looked at in one go.
_SLAB_VOXELS = 1 << 22


@dataclass(frozen=True)
class Piece:
    """Voxels that belong together.

    Parameters
    ----------
    label : int
        Of an instance; 0 for a piece of classes.
    voxels : int
    low, high : three ints
        First voxel and end of the box about it, z, y, x.
    seed : three ints
        One of its voxels.
    """

    label: int
    voxels: int
    low: Voxel
    high: Voxel
    seed: Voxel

    @property
    def shape_zyx(self) -> Voxel:
        """Size of its box."""
        z, y, x = (b - a for a, b in zip(self.low, self.high, strict=True))
        return z, y, x

    def united(self, other: Piece) -> Piece:
        """Both as one."""
        low = tuple(map(min, self.low, other.low))
        high = tuple(map(max, self.high, other.high))
        return Piece(self.label, self.voxels + other.voxels, low, high, self.seed)  # type: ignore[arg-type]


def pieces_by_id(data: NDArray[Any], wanted: Callable[[NDArray[Any]], Mask]) -> list[Piece]:
    """All voxels of each label that is wanted as one piece, by label.

    Parameters
    ----------
    data : integer array (z, y, x)
        May be memory-mapped.
    wanted : callable
        Which labels of an array count.
    """
    found: dict[int, Piece] = {}
    for z, slab in _slabs(data):
        ids = np.unique(slab)
        ids = ids[(ids != 0) & wanted(ids)]
        if not len(ids):
            continue
        number = np.zeros(slab.shape, dtype=np.uint32)
        inside = np.isin(slab, ids)
        number[inside] = np.searchsorted(ids, slab[inside]) + 1
        for index, piece in _measured(number, z):
            label = int(ids[index - 1])
            piece = Piece(label, piece.voxels, piece.low, piece.high, piece.seed)
            found[label] = found[label].united(piece) if label in found else piece
    return [found[label] for label in sorted(found)]


def pieces_of_classes(data: NDArray[Any], classes: Sequence[int]) -> list[Piece]:
    """The pieces, connected through the faces of voxels, of everything that has one of some labels.

    Each slab is sorted into pieces for itself; those that touch across the border are united.

    Parameters
    ----------
    data : integer array (z, y, x)
        May be memory-mapped.
    classes : sequence of int
    """
    import cc3d

    parts: list[Piece] = []
    parent: list[int] = []
    border: NDArray[np.int64] | None = None

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for z, slab in _slabs(data):
        number = cc3d.connected_components(np.isin(slab, classes), connectivity=6, out_dtype=np.uint32)
        offset = len(parts)
        for _, piece in _measured(number, z):
            parent.append(len(parts))
            parts.append(piece)
        if border is not None:
            touch = (border > 0) & (number[0] > 0)
            for above, below in np.unique(np.column_stack([number[0][touch] + offset, border[touch]]), axis=0).tolist():
                parent[root(above - 1)] = root(below - 1)
        border = np.where(number[-1] > 0, number[-1].astype(np.int64) + offset, 0)
    united: dict[int, Piece] = {}
    for index, piece in enumerate(parts):
        first = root(index)
        united[first] = united[first].united(piece) if first in united else piece
    return sorted(united.values(), key=lambda piece: piece.seed)


def mask_of(data: NDArray[Any], piece: Piece, labels: Sequence[int]) -> tuple[Mask, NDArray[Any], int]:
    """The voxels of a piece, in its box.

    Parameters
    ----------
    data : integer array (z, y, x)
    piece : Piece
    labels : sequence of int
        Those whose voxels may belong to it.

    Returns
    -------
    mask : bool array (z, y, x)
        Of a piece of classes; or the largest connected part of a label.
    box : array (z, y, x)
        All labels there.
    second : int
        Voxels of the next largest part of a label; 0 for classes.
    """
    import cc3d

    box = np.asarray(data[tuple(slice(a, b) for a, b in zip(piece.low, piece.high, strict=True))])
    wanted = np.isin(box, labels)
    if piece.label == 0:
        number = cc3d.connected_components(wanted, connectivity=6)
        seed = tuple(a - b for a, b in zip(piece.seed, piece.low, strict=True))
        return number == number[seed], box, 0
    number = cc3d.connected_components(wanted, connectivity=26)
    counts = np.bincount(number.reshape(-1))[1:]
    if len(counts) == 1:
        return wanted, box, 0
    order = np.argsort(-counts)
    return number == order[0] + 1, box, int(counts[order[1]])


def _slabs(data: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    step = max(1, _SLAB_VOXELS // max(1, data.shape[1] * data.shape[2]))
    for z in range(0, len(data), step):
        yield z, np.asarray(data[z : z + step])


def _measured(number: NDArray[Any], start: int) -> Iterator[tuple[int, Piece]]:
    """Each number of a slab that starts at a section, with what it fills; numbers run from 1."""
    import cc3d

    if not number.any():
        return
    statistics = cc3d.statistics(number)
    present = np.flatnonzero(statistics["voxel_counts"])
    for index in present[present > 0].tolist():
        z, y, x = statistics["bounding_boxes"][index]
        first = np.argwhere(number[z.start, y, x] == index)[0]
        low, high = (z.start + start, y.start, x.start), (z.stop + start, y.stop, x.stop)
        seed = (z.start + start, y.start + int(first[0]), x.start + int(first[1]))
        yield index, Piece(0, int(statistics["voxel_counts"][index]), low, high, seed)
