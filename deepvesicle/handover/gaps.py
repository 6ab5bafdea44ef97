"""Thin background where Pyto needs cytosol: between membrane and cytosol, and about vesicles.

Pyto finds neither connectors nor tethers across background, be it one voxel. Where people draw, and where programs
label, thin gaps are left; but a wide hole in the cytosol is an organelle, and stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: What is as narrow as this is a gap, and what is wider a thing of its own: a membrane, drawn with care or not.
_GAP_NM = 8.0
_GAP_VOX = 3
#: Ways outwards from a vesicle are looked along in steps of this length, voxels.
_STEP_VOX = 0.5
#: To a voxel's 26 neighbours.
_DIRECTIONS = np.array([offset for offset in product((-1, 0, 1), repeat=3) if any(offset)])
#: Across a sheet leads what is at most so far (squared sine, 33 degrees) from its normal: one of the directions is.
_SLANT = 0.3
#: A piece of a sheet whose second spread is less than this many times the least (variances) is a tube.
_ROUND = 2.5
_ROWS, _COLUMNS = np.triu_indices(3)


def gap_width(grid: Grid) -> float:
    """Width of what counts as a gap, voxels."""
    return max(float(_GAP_VOX), float(grid.length_to_vox(_GAP_NM)))


def between(labels: NDArray[Any], sheet: Integers, end: int, width_vox: float) -> Integers:
    """Background that lies between a sheet and a label, on a straight way of no more than a width, rounded up.

    Ways lead from the voxels of the sheet along those axes and diagonals that go across it, through nothing but
    background, and not through the outermost voxels of the volume. Where the label is on one side only, nothing on the
    other side is between, nor is what lies beyond the sheet's rim.

    Parameters
    ----------
    labels : array (z, y, x)
        May be memory-mapped.
    sheet : int array (N,)
        Flat indices of its voxels, none of them outermost.
    end : int
        The label.
    width_vox : float

    Returns
    -------
    int array (M,)
        Flat indices.
    """
    flat, shape = labels.reshape(-1), labels.shape
    across = _across(np.stack(np.unravel_index(sheet, shape), axis=1), 2 * int(width_vox) + 2)
    found = [np.zeros(0, dtype=np.int64)]
    for direction, leads in zip(_DIRECTIONS, across.T, strict=True):
        dz, dy, dx = direction.tolist()
        stride = (dz * shape[1] + dy) * shape[2] + dx
        way = [sheet[leads] + stride]
        for _ in range(int(np.ceil(width_vox / np.linalg.norm(direction)))):
            open_ways = (flat[way[-1]] == 0) & ~at_faces(way[-1], shape)
            way = [step[open_ways] for step in way]
            way.append(way[-1] + stride)
            arrived = flat[way[-1]] == end
            found += [step[arrived] for step in way[:-1]]
    return np.unique(np.concatenate(found))


def _across(voxels: Integers, edge: int) -> Mask:
    """Which of `_DIRECTIONS` (26,) lead across a sheet at each of its voxels (N, 3).

    They are near to the direction in which the voxels round about spread least; of a tube, to any across its length.
    """
    size = voxels.max(axis=0, initial=0) // edge + 3  # blocks of voxels, with a free one at either end
    strides = np.array([size[1] * size[2], size[2], 1])
    keys, block = np.unique((voxels // edge + 1) @ strides, return_inverse=True)
    counts = np.bincount(block, minlength=len(keys))
    sums = [np.bincount(block, voxels[:, i], len(keys)) for i in range(3)]
    squares = [np.bincount(block, voxels[:, i] * voxels[:, j], len(keys)) for i, j in zip(_ROWS, _COLUMNS, strict=True)]
    own = np.stack([counts, *sums, *squares], axis=1).astype(np.float64)
    moments = own.copy()
    for shift in _DIRECTIONS @ strides:
        at = np.minimum(np.searchsorted(keys, keys + shift), len(keys) - 1)
        moments += np.where((keys[at] == keys + shift)[:, None], own[at], 0.0)
    moments = moments / moments[:, :1]
    spread = np.empty((len(keys), 3, 3))
    spread[:, _ROWS, _COLUMNS] = moments[:, 4:] - moments[:, 1 + _ROWS] * moments[:, 1 + _COLUMNS]
    spread[:, _COLUMNS, _ROWS] = spread[:, _ROWS, _COLUMNS]
    spreads, axes = np.linalg.eigh(spread)
    units = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1)[:, None]
    square = np.einsum("di,bik->bdk", units, axes) ** 2  # cosines to the directions of least, second and most spread
    is_tube = spreads[:, 1] < _ROUND * spreads[:, 0]
    return np.asarray(np.where(is_tube[:, None], square[..., 2] <= _SLANT, square[..., 0] >= 1 - _SLANT)[block])


def at_faces(flat: Integers, shape: tuple[int, ...]) -> Mask:
    """Which voxels (N,), flat indices, are the outermost ones of a volume."""
    rest, x = np.divmod(flat, shape[2])
    z, y = np.divmod(rest, shape[1])
    return np.asarray((z <= 0) | (z >= shape[0] - 1) | (y <= 0) | (y >= shape[1] - 1) | (x <= 0) | (x >= shape[2] - 1))


def ball(shape: tuple[int, ...], centre: Floats, radius: float) -> Mask:
    """The voxels of a box (z, y, x) whose centres are within a radius."""
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    return np.asarray((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2)


def pockets(labels: NDArray[Any], near: Integers) -> Integers:
    """Background that is enclosed in its neighbourhood: holes of which nothing lies outside of it.

    Parameters
    ----------
    labels : array (z, y, x)
        May be memory-mapped.
    near : int array (N,)
        Flat indices of all background of the neighbourhood, ascending, none of them outermost.

    Returns
    -------
    int array (M,)
        Those whose face-connected piece touches no other background.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(near):
        return near
    flat, plane, line = labels.reshape(-1), labels.shape[1] * labels.shape[2], labels.shape[2]
    leaks, links = np.zeros(len(near), dtype=bool), []
    for step in (1, line, plane):
        at = np.minimum(np.searchsorted(near, near + step), len(near) - 1)
        linked = near[at] == near + step
        links.append(np.stack([np.flatnonzero(linked), at[linked]]))
        leaks |= ~linked & (flat[near + step] == 0)
        at = np.searchsorted(near, near - step)
        leaks |= (near[np.minimum(at, len(near) - 1)] != near - step) & (flat[near - step] == 0)
    a, b = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(len(near),) * 2)
    count, piece = connected_components(graph, directed=False)
    open_pieces = np.zeros(count, dtype=bool)
    open_pieces[piece[leaks]] = True
    return near[~open_pieces[piece]]


def beside(mask: Mask) -> Mask:
    """Which voxels share a face with some of a mask (z, y, x), without these."""
    near = np.zeros_like(mask)
    near[1:] |= mask[:-1]
    near[:-1] |= mask[1:]
    near[:, 1:] |= mask[:, :-1]
    near[:, :-1] |= mask[:, 1:]
    near[:, :, 1:] |= mask[:, :, :-1]
    near[:, :, :-1] |= mask[:, :, 1:]
    return near & ~mask


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What lies about a vesicle, in a box.

    Parameters
    ----------
    gap : bool array (z, y, x)
        Thin background about it.
    open : bool array (z, y, x)
        Other background that touches it.
    inside : int
        Number of voxels touching it that show that it lies in the cell: cytosol, membrane, gaps before these.
    """

    gap: Mask
    open: Mask
    inside: int

    @property
    def share(self) -> float:
        """Share of its surface that is inside, where neither vesicles nor the faces of the volume hide it; 0..1."""
        outside = int(self.open.sum())
        return self.inside / (self.inside + outside) if outside else 1.0


def surroundings(
    labels: NDArray[Any], vesicle: Mask, outermost: Mask, cell: tuple[int, ...], centre: Floats, reach: float
) -> Surroundings:
    """What the surface of a vesicle meets.

    Background is a gap if it is connected to the vesicle through such, and if on the straight way outwards from it,
    away from the centre, there is something else (cytosol, membrane, another vesicle) before `reach`. So the hole of a
    vesicle that was drawn larger, or a bit aside, is a gap all round; the space beyond the edge of an outline is not,
    nor is an organelle.

    Parameters
    ----------
    labels : int array (z, y, x)
        Of a box that holds the vesicle and what is near, this vesicle drawn or not.
    vesicle : bool array (z, y, x)
        Its voxels.
    outermost : bool array (z, y, x)
        The outermost voxels of the volume, which stay background.
    cell : tuple of int
        Labels that are part of the cell: cytosol and membrane.
    centre : float array (3,)
        In the box.
    reach : float
        Farthest distance from the centre of the far side of a gap.
    """
    from scipy.ndimage import label

    surface = beside(vesicle)
    empty = (labels == 0) & ~vesicle & ~outermost
    gap, met = np.zeros_like(vesicle), np.where(vesicle, 0, labels)
    if (surface & empty).any():
        places = np.argwhere(empty & ball(labels.shape, centre, reach))
        ends = _outwards(labels, places.astype(np.float64), centre, reach)
        gap[tuple(places[ends != 0].T)] = True
        part, _ = label(gap | vesicle)
        gap &= part == (part[vesicle].max() if vesicle.any() else -1)
        met[tuple(places.T)] = ends
    inside = int(np.isin(met[surface & ~outermost], cell).sum())
    return Surroundings(gap, surface & empty & ~gap, inside)


def _outwards(labels: NDArray[Any], places: Floats, centre: Floats, reach: float) -> Integers:
    """The first label other than 0 (N,) on the straight ways from places (N, 3) away from a centre; 0 for none."""
    offsets = places - centre
    distances = np.linalg.norm(offsets, axis=1)
    directions = offsets / np.maximum(distances, 1e-9)[:, None]
    found = np.zeros(len(places), dtype=np.int64)
    limit = np.asarray(labels.shape) - 1
    away = distances + _STEP_VOX
    while (searching := (found == 0) & (away <= reach + 1)).any():
        at = np.rint(centre + directions[searching] * away[searching, None]).astype(np.int64)
        known = ((at >= 0) & (at <= limit)).all(axis=1)
        at = np.clip(at, 0, limit)
        found[searching] = np.where(known, labels[tuple(at.T)], 0)
        away += _STEP_VOX
    return found
