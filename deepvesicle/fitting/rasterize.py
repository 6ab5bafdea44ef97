"""Spheres to a label volume: each in its own box, so that the cost goes with the vesicles, not with the tomogram."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepvesicle.errors import BadInputError
from deepvesicle.grid import Grid, Labels
from deepvesicle.vesicles import Vesicles

#: A region of a volume along z, y, x.
Box = tuple[slice, slice, slice]

#: Two voxels whose power distances from a radical plane differ by less than this are equally near to it, voxels
#: squared.
_EQUAL = 1e-6


def rasterize(
    vesicles: Vesicles,
    grid: Grid | None = None,
    *,
    dtype: DTypeLike = np.uint16,
    out: NDArray[Any] | None = None,
    gap_vox: int = 0,
) -> Labels:
    """Draw the accepted vesicles as solid balls whose label is the vesicle's id.

    A voxel belongs to a ball if its centre lies within the (outer) radius. A voxel that several balls claim goes to
    the one with the smallest power distance ``d**2 - r**2``, which cuts two overlapping balls along the plane through
    the circle in which their surfaces meet (the radical plane; Aurenhammer 1987, SIAM J. Comput. 16, 78-96); equal
    distances go to the lower id. The result does not depend on the order of the rows, and no sphere is altered.

    With a gap of N, at least N voxels of background lie between two labels, along the axes and the diagonals: no two
    voxels of different labels differ by N or less along all three axes (Chebyshev distance). Of two that would, the
    one nearer to the radical plane of their balls becomes background, or that of the higher id if both are equally
    near; so both labels give up alike. What is taken does not depend on where the grid ends.

    Parameters
    ----------
    vesicles : Vesicles
        N spheres; rows that are not accepted (proposed, rejected) are not drawn.
    grid : Grid, optional
        Grid of the labels; that of the vesicles if not given.
    dtype : integer dtype
        Of the labels; ignored if `out` is given.
    out : array (z, y, x), optional
        Integer array or memory map to draw into; its former content is erased.
    gap_vox : int
        Voxels of `grid` to leave between labels.

    Returns
    -------
    Labels
        On `grid`; 0 is background.

    Raises
    ------
    BadInputError
        An id that the data type cannot hold, or an accepted sphere without a finite centre and a positive radius.
    ValueError
        `out` has another shape than the grid, labels are not integers, or the gap is negative.
    """
    grid = vesicles.grid if grid is None else grid
    labels_type = np.dtype(dtype) if out is None else out.dtype
    if labels_type.kind not in "iu":
        raise ValueError(f"labels must be of an integer type, got {labels_type}")
    if gap_vox < 0:
        raise ValueError(f"the gap must be 0 or more voxels, got {gap_vox}")
    if out is not None and tuple(out.shape) != grid.shape_zyx:
        raise ValueError(f"out has shape {tuple(out.shape)}, expected {grid.shape_zyx}")

    rows = np.flatnonzero(vesicles.accepted)
    ids = vesicles.ids[rows]
    centres = vesicles.grid.map_points(vesicles.centres_vox[rows], grid)
    radii = grid.length_to_vox(vesicles.radii_nm[rows])
    _check(ids, centres, radii, labels_type)

    if out is None:
        out = np.zeros(grid.shape_zyx, dtype=labels_type)
    else:
        for plane in out:
            plane[...] = 0
    row_of_id = dict(zip(ids.tolist(), range(len(ids)), strict=True))
    for row in range(len(ids)):
        _draw(out, row, ids, centres, radii, row_of_id)
    if gap_vox:
        _clear_gaps(out, ids, centres, radii, gap_vox)
    return Labels(out, grid)


def without_label(vesicles: Vesicles, labels: Labels) -> list[int]:
    """Ids of accepted vesicles of which no voxel is left in labels that were drawn from them."""
    grid = labels.grid
    centres = vesicles.grid.map_points(vesicles.centres_vox, grid)
    radii = grid.length_to_vox(vesicles.radii_nm)
    missing = []
    for row in np.flatnonzero(vesicles.accepted):
        low, high = _box(centres[row], radii[row], grid.shape_zyx)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        if not np.any(labels.data[box] == vesicles.ids[row]):
            missing.append(int(vesicles.ids[row]))
    return missing


def draw_slab(vesicles: Vesicles, grid: Grid, out: NDArray[Any], *, gap_vox: int = 0) -> list[tuple[int, int, Box]]:
    """As `rasterize`, for a part of the volume that holds few of the vesicles.

    Returns
    -------
    list of (int, int, Box)
        Of each vesicle that was drawn: its id, its number of voxels in `out`, and the box in `out` that holds them.
    """
    centres = vesicles.grid.map_points(vesicles.centres_vox, grid)
    radii = grid.length_to_vox(vesicles.radii_nm)
    boxes = {}
    reach = radii[:, None] + gap_vox
    near = np.all((centres + reach >= 0) & (centres - reach <= np.asarray(grid.shape_zyx) - 1), axis=1)
    near &= vesicles.accepted
    for row in np.flatnonzero(near):
        low, high = _box(centres[row], radii[row], grid.shape_zyx)
        if (high > low).all():
            z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
            boxes[int(row)] = (z, y, x)
    rasterize(vesicles.select(near), grid, out=out, gap_vox=gap_vox)
    numbers = vesicles.ids.tolist()
    return [(numbers[row], int(np.count_nonzero(out[box] == numbers[row])), box) for row, box in boxes.items()]


def _box(centre: NDArray[np.float64], radius: float, shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """First voxels and ends along z, y, x of the box about a ball; empty where it lies outside."""
    low = np.maximum(np.ceil(centre - radius), 0).astype(int)
    high = np.minimum(np.floor(centre + radius) + 1, shape).astype(int)
    return low, high


def _check(ids: NDArray[np.int64], centres: NDArray[Any], radii: NDArray[Any], labels_type: np.dtype[Any]) -> None:
    """Refuse what cannot be drawn."""
    largest = int(np.iinfo(labels_type).max)
    if len(ids) and int(ids.max()) > largest:
        raise BadInputError(
            f"vesicle ids do not fit into {labels_type} labels",
            expected=f"ids up to {largest}",
            got=str(int(ids.max())),
            remedy="Number the vesicles anew, or use a wider type for the labels",
        )
    bad = ~(np.isfinite(centres).all(axis=1) & np.isfinite(radii) & (radii > 0))
    if bad.any():
        raise BadInputError(
            f"vesicle {int(ids[bad][0])} cannot be drawn", expected="a finite centre and a positive radius"
        )


def _draw(
    out: NDArray[Any],
    row: int,
    ids: NDArray[np.int64],
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
    row_of_id: dict[int, int],
) -> None:
    """Draw one ball into its box of `out`."""
    centre, radius = centres[row], radii[row]
    low, high = _box(centre, radius, out.shape)
    if np.any(high <= low):
        return
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    axes = [np.arange(a, b, dtype=np.float64) for a, b in zip(low, high, strict=True)]
    square = _square_distance(np.ix_(*axes), centre)
    ball = square <= radius**2
    labels = np.asarray(out[box])  # a view, also of a memory map
    contested = np.argwhere(ball & (labels != 0))
    if len(contested):
        place = tuple(contested.T)
        holders = labels[place].astype(np.int64)
        held_by, back = np.unique(holders, return_inverse=True)
        other = np.array([row_of_id[int(i)] for i in held_by])[back]
        other_square = np.sum((contested + low - centres[other]) ** 2, axis=1)
        mine, theirs = square[place] - radius**2, other_square - radii[other] ** 2
        ball[place] = (mine < theirs) | ((mine == theirs) & (ids[row] < holders))
    labels[ball] = ids[row]


def _square_distance(open_grid: tuple[NDArray[Any], ...], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance from `centre`, voxels, on the box spanned by an open grid."""
    z, y, x = (axis - c for axis, c in zip(open_grid, centre, strict=True))
    return np.asarray(z**2 + y**2 + x**2)


def _clear_gaps(
    out: NDArray[Any], ids: NDArray[np.int64], centres: NDArray[np.float64], radii: NDArray[np.float64], gap: int
) -> None:
    """Erase what lies too near to another label; see `rasterize`."""
    pairs = _close_pairs(centres, radii, np.sqrt(3) * gap)
    neighbours: dict[int, set[int]] = {}
    for first, second in pairs:
        neighbours.setdefault(first, {first}).add(second)
        neighbours.setdefault(second, {second}).add(first)
    limit = np.asarray(out.shape)
    for first, second in pairs:
        low, high = _box_between(centres, radii + np.sqrt(3) * gap, first, second)
        # A gap's width outside there are voxels that decide what becomes of those inside.
        low, high = np.maximum(low, -gap), np.minimum(high, limit + gap)
        if np.any(high <= low):
            continue
        rows = np.array(sorted(neighbours[first] | neighbours[second]))
        labels = _labels_in(low, high, ids[rows], centres[rows], radii[rows])
        lower, higher = (first, second) if ids[first] < ids[second] else (second, first)
        grid = np.ix_(*(np.arange(a, b, dtype=np.float64) for a, b in zip(low, high, strict=True)))
        powers = [_square_distance(grid, centres[row]) - radii[row] ** 2 for row in (lower, higher)]
        erased = _too_near(labels == ids[lower], labels == ids[higher], np.abs(powers[0] - powers[1]), gap)
        places = np.argwhere(erased) + low
        places = places[np.all((places >= 0) & (places < limit), axis=1)]
        out[tuple(places.T)] = 0


def _close_pairs(centres: NDArray[np.float64], radii: NDArray[np.float64], reach: float) -> list[tuple[int, int]]:
    """Balls whose surfaces come nearer to each other than `reach`, or that overlap."""
    from scipy.spatial import cKDTree

    if len(radii) < 2:
        return []
    pairs = cKDTree(centres).query_pairs(2 * float(radii.max()) + reach, output_type="ndarray")
    apart = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
    near = apart <= radii[pairs].sum(axis=1) + reach
    return [(int(a), int(b)) for a, b in pairs[near]]


def _box_between(
    centres: NDArray[np.float64], radii: NDArray[np.float64], first: int, second: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """First voxels and ends of the box about what two balls share."""
    offset = centres[second] - centres[first]
    apart = float(np.linalg.norm(offset))
    along = (apart**2 + radii[first] ** 2 - radii[second] ** 2) / (2 * max(apart, 1e-12))
    if 0 <= along <= apart:
        # The lens fits into the ball about the circle in which the surfaces meet.
        centre = centres[first] + offset * (along / max(apart, 1e-12))
        radius = float(np.sqrt(max(radii[first] ** 2 - along**2, 0.0)))
    else:
        small = first if radii[first] < radii[second] else second
        centre, radius = centres[small], float(radii[small])
    low = np.maximum(centre - radius, np.maximum(centres[first] - radii[first], centres[second] - radii[second]))
    high = np.minimum(centre + radius, np.minimum(centres[first] + radii[first], centres[second] + radii[second]))
    return np.floor(low).astype(int), np.ceil(high).astype(int) + 1


def _labels_in(
    low: NDArray[Any],
    high: NDArray[Any],
    ids: NDArray[np.int64],
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
) -> NDArray[np.int64]:
    """The labels of a box without gaps, from the balls alone."""
    meets = np.all((centres + radii[:, None] >= low) & (centres - radii[:, None] < high), axis=1)
    ids, centres, radii = ids[meets], centres[meets] - low, radii[meets]
    labels = np.zeros(high - low, dtype=np.int64)
    row_of_id = dict(zip(ids.tolist(), range(len(ids)), strict=True))
    for row in range(len(ids)):
        _draw(labels, row, ids, centres, radii, row_of_id)
    return labels


def _too_near(
    lower: NDArray[np.bool_], higher: NDArray[np.bool_], depth: NDArray[np.float64], gap: int
) -> NDArray[np.bool_]:
    """Of any voxels of two labels that are too near to each other, the less deep one; if alike, that of `higher`."""
    from scipy.ndimage import maximum_filter

    if not (lower.any() and higher.any()):
        return np.zeros(lower.shape, dtype=bool)
    width = 2 * gap + 1

    def deepest_near(label: NDArray[np.bool_], depths: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(maximum_filter(np.where(label, depths, -1.0), size=width, mode="constant", cval=-1.0))

    # The same numbers are compared both ways, so that one of the two always goes.
    of_lower = depth + _EQUAL
    return (lower & (deepest_near(higher, depth) > of_lower)) | (higher & (deepest_near(lower, of_lower) >= depth))
