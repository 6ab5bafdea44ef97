"""The face-connected pieces of labels, and what becomes of those that are too small.

In a large volume they are found from runs of voxels along x: in one pass, and with little memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.handover.gaps import at_faces, beside

Integers = NDArray[np.int64]

#: Pieces that are smaller than this share of the largest are crumbs.
_CRUMB = 0.01


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of one label, the largest first.

    Parameters
    ----------
    sizes : int array (N,)
        Voxels of each.
    starts, ends : int arrays (M,)
        Flat indices of the first voxel of each run, and of the one after its last.
    piece : int array (M,)
        Which piece a run belongs to.
    """

    sizes: Integers
    starts: Integers
    ends: Integers
    piece: Integers

    def voxels(self, wanted: NDArray[np.bool_]) -> tuple[Integers, Integers]:
        """Flat indices of the voxels of some pieces (a mask (N,)), and the piece that each belongs to."""
        runs = np.flatnonzero(wanted[self.piece]) if len(self.piece) else np.zeros(0, dtype=np.int64)
        lengths = self.ends[runs] - self.starts[runs]
        first = np.repeat(self.starts[runs] - np.cumsum(lengths) + lengths, lengths)
        return first + np.arange(len(first)), np.repeat(self.piece[runs], lengths)


def pieces_of(labels: NDArray[Any], label: int) -> Pieces:
    """The pieces of a label that are connected through faces of voxels.

    Parameters
    ----------
    labels : int array (z, y, x)
        May be memory-mapped; looked at plane by plane.
    label : int
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ny, nx = labels.shape[1:]
    starts, ends, links = [], [], []
    before, count = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0), 0
    padded = np.zeros(1 + ny * (nx + 1), dtype=bool)
    lines, changed = padded[1:].reshape(ny, nx + 1), np.empty(len(padded) - 1, dtype=bool)
    for z, plane in enumerate(labels):
        np.equal(plane, label, out=lines[:, :nx])  # the column more keeps runs of one line from those of the next
        changes = np.flatnonzero(np.not_equal(padded[1:], padded[:-1], out=changed))
        begin, end = changes[::2], changes[1::2]
        links.append(_touching((begin, end, count), before, 0))
        links.append(_touching((begin, end, count), (begin, end, count), nx + 1))
        row = begin // (nx + 1)
        starts.append(begin - row + z * ny * nx)
        ends.append(end - row + z * ny * nx)
        before = (begin, end, count)
        count += len(begin)
    first, last = np.concatenate(starts), np.concatenate(ends)
    a, b = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(count, count))
    number, piece = connected_components(graph, directed=False) if count else (0, np.zeros(0, dtype=np.int64))
    sizes = np.bincount(piece, weights=last - first, minlength=number).astype(np.int64)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(number, dtype=np.int64)
    rank[order] = np.arange(number)
    return Pieces(sizes[order], first, last, rank[piece])


def give_crumbs(
    labels: NDArray[Any], pieces: Pieces, label: int, other: int | None, *, keep_enclosed: bool
) -> tuple[dict[int, int], Integers]:
    """Give small pieces of a label to another one or to the background, whichever they touch more.

    Parameters
    ----------
    labels : array (z, y, x)
        Changed in place; the outermost voxels hold nothing of `label`.
    pieces : Pieces
        Those of the label.
    label : int
    other : int, optional
    keep_enclosed : bool
        Of the pieces that touch something else than `other` and the background (vesicles), those stay that are
        enclosed (they touch no background but the outermost voxels), or that are beside the rest by edges or corners
        of voxels (a layer on a vesicle).

    Returns
    -------
    taken : dict of int to int
        Voxels given to the other label and to the background.
    rest : int array
        Sizes of the pieces that are no crumbs, the largest first.
    """
    if len(pieces.sizes) < 2:
        return {}, pieces.sizes
    flat, number = labels.reshape(-1), len(pieces.sizes)
    crumb = pieces.sizes < _CRUMB * pieces.sizes[0]
    rest = pieces.sizes[~crumb]
    voxels, piece = pieces.voxels(crumb)
    plane, line = labels.shape[1] * labels.shape[2], labels.shape[2]
    near = [flat[voxels + step].astype(np.int64) for step in (-plane, plane, -line, line, -1, 1)]

    def touched(kind: Callable[[Integers], NDArray[np.bool_]]) -> Integers:
        return sum((np.bincount(piece[kind(values)], minlength=number) for values in near), np.zeros(number, np.int64))

    to_other, to_nothing = touched(lambda values: values == other), touched(lambda values: values == 0)
    if keep_enclosed:
        others = touched(lambda values: (values != other) & (values != 0) & (values != label))
        lone = (_open_faces(flat, voxels, piece, labels.shape, number) > 0) & _apart(
            flat, voxels, piece, labels.shape, label, number
        )
        crumb &= (others == 0) | lone
    given = np.where((to_other >= to_nothing) & (other is not None), other or 0, 0)
    taken = crumb[piece]
    flat[voxels[taken]] = given[piece[taken]]
    values, counts = np.unique(given[piece[taken]], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True)), rest


def _open_faces(flat: NDArray[Any], voxels: Integers, piece: Integers, shape: tuple[int, ...], number: int) -> Integers:
    """How often each piece (number,) touches background that is not outermost."""
    count = np.zeros(number, dtype=np.int64)
    for step in (shape[1] * shape[2], shape[2], 1):
        for at in (voxels - step, voxels + step):
            is_open = (flat[at] == 0) & ~at_faces(at, shape)
            count += np.bincount(piece[is_open], minlength=number)
    return count


def _apart(
    flat: NDArray[Any], voxels: Integers, piece: Integers, shape: tuple[int, ...], label: int, number: int
) -> NDArray[np.bool_]:
    """Which pieces (number,) do not reach the pieces that are no crumbs, not over edges and corners of voxels either.

    `voxels` and `piece` are those of all crumbs.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    order = np.argsort(voxels)
    known, of_known = voxels[order], piece[order]
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for dz, dy, dx in product((-1, 0, 1), repeat=3):
        to = voxels + (dz * shape[1] + dy) * shape[2] + dx
        meets = flat[to] == label
        at = np.minimum(np.searchsorted(known, to[meets]), len(known) - 1)
        beyond = np.where(known[at] == to[meets], of_known[at], number)  # the rest has the number after the last
        pairs.append(np.unique(np.stack([piece[meets], beyond]), axis=1))
    a, b = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(number + 1,) * 2)
    group = connected_components(graph, directed=False)[1]
    return np.asarray(group[:-1] != group[-1])


def keep_one_piece(labels: NDArray[Any], label: int, least: int) -> tuple[int, int]:
    """Give all pieces of a label but the largest, and this one too if it is too small, to what they touch most.

    Parameters
    ----------
    labels : array (z, y, x)
        Of a box that holds the label; changed in place.
    label : int
    least : int
        Voxels that the largest piece must have.

    Returns
    -------
    left, given : int
        Numbers of voxels.
    """
    from scipy.ndimage import label as connected

    part, count = connected(labels == label)
    sizes = np.bincount(part.reshape(-1), minlength=2)[1:]
    largest = int(sizes.argmax())
    left = int(sizes[largest]) if sizes[largest] >= least else 0
    for number in range(count):
        if number != largest or not left:
            piece = part == number + 1
            near = labels[beside(piece)]
            others, counts = np.unique(near[near != label], return_counts=True)
            labels[piece] = others[counts.argmax()] if len(others) else 0
    return left, int(sizes.sum()) - left


def _touching(
    runs: tuple[Integers, Integers, int], others: tuple[Integers, Integers, int], shift: int
) -> NDArray[np.int64]:
    """Pairs (2, K) of numbers of runs and of others that share a place when these are moved on by a shift."""
    begin, end, number = runs
    other_begin, other_end, other_number = others
    first = np.searchsorted(other_end + shift, begin, side="right")
    last = np.searchsorted(other_begin + shift, end, side="left")
    count = np.maximum(last - first, 0)
    which = np.repeat(np.arange(len(begin)), count)
    other = np.arange(len(which)) + np.repeat(first - np.cumsum(count) + count, count)
    return np.stack([which + number, other + other_number])
