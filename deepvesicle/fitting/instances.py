"""Connected pieces of a mask taken apart into spheroids, one for each vesicle.

Each piece is looked at in its own box. One that spreads over much of the volume, as faint masks do, is cut into
overlapping tiles, and what it falls into there is taken for pieces; so the memory that is needed does not grow with the
volume.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.mask import Box, Mask, PackedMask, Piece, Pieces
from deepvesicle.fitting.mask_kernels import depths, fill_closed, fill_round
from deepvesicle.fitting.spheroids import SPHEROID_FIT, Spheroid
from deepvesicle.fitting.split_kernels import deep_box, seeds, share_out, smoothed
from deepvesicle.memory import ReadPages

Floats = NDArray[np.float64]
Array = NDArray[np.float32]
#: `map`, or that of a pool of threads.
Mapping = Callable[..., Iterable[Any]]

#: The size limits are applied with this tolerance here, and exactly once the spheres have been refined.
LIMIT_TOLERANCE = (0.7, 1.3)
#: A seed is at least this deep in the mask, as a share of the smallest radius; squashed masks are shallow.
MIN_DEPTH = 0.4
#: Two seeds are one vesicle if the mask between them is nowhere narrower than this share of the lesser depth.
NECK = 0.82
#: Height over width of a mask that the seeds are best found in: a little squashed.
SEED_SQUASH = 1.25
#: Mask voxels further from a centre than this times the radius are no part of that vesicle.
REACH = 1.6
#: Rounds of sharing out and fitting, and the change (voxels) below which a spheroid has settled.
ROUNDS, SETTLED = 4, 0.05
#: Voxels about a piece in its box.
MARGIN = 2
#: Pieces in larger boxes are cut into tiles of this edge, which overlap by this much on either side, voxels. Spheroids
#: whose centre lies in a tile's own part, or this little outside it, are of the tile; two of the same are told apart
#: later, as candidates for one place are.
TILE, OVERLAP, SHARED = 128, 32, 2.0
LARGEST_BOX = (TILE + 2 * OVERLAP) ** 3
#: Voxels of all boxes that are being looked at at a time; each takes some 20 bytes.
MOST_VOXELS = 2 * LARGEST_BOX


def spheroids_of(
    data: NDArray[Any], mask: PackedMask, level: float, smallest: float, r_min: float, r_max: float, mapping: Mapping
) -> list[Spheroid]:
    """Spheroids of all connected pieces of a mask; their holes are filled in the mask.

    Parameters
    ----------
    data : array (z, y, x)
        The probability; may be memory-mapped.
    mask : PackedMask
        Where it is above `level`.
    level : float
    smallest : float
        Pieces of fewer voxels are left out.
    r_min, r_max : float
        Of the vesicles that are looked for, voxels.
    mapping : callable
        `map`, or that of a pool of threads.
    """
    pieces = Pieces(mask)
    lock, room, pages = threading.Lock(), _Room(MOST_VOXELS), ReadPages()

    def look(where: tuple[Piece, Box, Box | None]) -> list[Spheroid]:
        piece, box, core = where
        with room.of(_voxels(box)):
            part = pieces.part(piece, box)
            if not part.any():  # an empty tile
                return []
            values = pages.box(data, box)
            if core is None:
                fill_holes(part, r_max)
                found = split(part, values, level, r_min)
            else:
                found = _of_tile(part, values, level, smallest, r_min, r_max)
            with lock:
                mask.add(box, part)
        offset = np.array([s.start for s in box], dtype=np.float64)
        for shape in found:
            shape.centre = shape.centre + offset
        return found if core is None else [shape for shape in found if _is_in(shape, core)]

    places = [place for piece in pieces.of_size(smallest) for place in _places(piece, mask.shape, r_max)]
    return [shape for found in mapping(look, places) for shape in found]


def _places(piece: Piece, shape: tuple[int, ...], r_max: float) -> Iterator[tuple[Piece, Box, Box | None]]:
    """Where to look at a piece: its own box; or tiles, each with the part that is its own."""
    box = piece.box(MARGIN, shape)
    if _voxels(box) <= LARGEST_BOX:
        yield piece, box, None
        return
    overlap = min(OVERLAP, int(np.ceil(REACH * r_max)))
    lines = []
    for side in box:
        # Edges at multiples of the tile's, wherever the piece begins; what fits into one tile is not cut.
        edges = [side.start, *(e for e in range(0, side.stop, TILE) if e > side.start), side.stop]
        if side.stop - side.start <= TILE + 2 * OVERLAP:
            edges = [side.start, side.stop]
        lines.append(
            [
                (slice(max(side.start, a - overlap), min(side.stop, b + overlap)), slice(a, b))
                for a, b in zip(edges[:-1], edges[1:], strict=True)
            ]
        )
    for z, y, x in product(*lines):
        yield piece, (z[0], y[0], x[0]), (z[1], y[1], x[1])


def _of_tile(part: Mask, values: Array, level: float, smallest: float, r_min: float, r_max: float) -> list[Spheroid]:
    """Spheroids of what a piece falls into in a tile; holes are filled."""
    found = []
    inside = Pieces(PackedMask.of(part))
    for piece in inside.of_size(smallest):
        box = piece.box(MARGIN, part.shape)
        own = inside.part(piece, box)
        fill_holes(own, r_max)
        part[box] |= own
        for shape in split(own, np.ascontiguousarray(values[box]), level, r_min):
            shape.centre = shape.centre + [s.start for s in box]
            found.append(shape)
    return found


def _is_in(shape: Spheroid, core: Box) -> bool:
    return all(s.start - SHARED <= c + 0.5 <= s.stop + SHARED for s, c in zip(core, shape.centre, strict=True))


def _voxels(box: Box) -> int:
    z, y, x = (s.stop - s.start for s in box)
    return z * y * x


class _Room:
    """Lets threads in as long as what they need together is not too much; one alone always."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._changed = most, 0, threading.Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + size <= self._most)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


def fill_holes(mask: Mask, largest_radius: float) -> Mask:
    """Fill the lumens of one piece, in place: what it closes in 3D, and round holes within z planes.

    The caps of a vesicle are often missing, so that its lumen is open in 3D and closed in the planes only. The gaps
    that touching vesicles leave between them are closed in planes too, but they are cusped where a lumen is round.
    """
    fill_closed(mask)
    fill_round(mask, float(np.pi * largest_radius**2))
    return mask


def split(mask: Mask, data: Array, level: float, r_min: float) -> list[Spheroid]:
    """Spheroids of one piece (holes filled), in voxels of its box."""
    # The array's own faces are not the end of a vesicle, only of what is known: the transform ignores them.
    depth = depths(mask, SEED_SQUASH)
    enough = MIN_DEPTH * r_min / LIMIT_TOLERANCE[0]
    window = max(1, round(0.25 * r_min))
    # Further out than the kernel reaches from what is deep, nothing is needed of the smoothed depth.
    box = deep_box(depth, enough, window + len(_KERNEL)).tolist()
    if not any(box):
        return []
    depth = np.ascontiguousarray(depth[box[0] : box[3], box[1] : box[4], box[2] : box[5]])
    rows = seeds(depth, smoothed(depth, _KERNEL), enough, window, SEED_SQUASH, NECK)
    rows[:, :3] += box[:3]
    return [Spheroid.of_row(row) for row in share_out(mask, data, level, rows, ROUNDS, REACH, SETTLED, SPHEROID_FIT)]


def _gaussian() -> Floats:
    """A Gaussian of one voxel, to four of its SDs, from its middle outwards."""
    whole = np.exp(-0.5 * np.arange(-4, 5) ** 2.0)
    return np.asarray((whole / whole.sum())[4:])


_KERNEL = _gaussian()
