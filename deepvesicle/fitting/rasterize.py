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


def rasterize(
    vesicles: Vesicles,
    grid: Grid | None = None,
    *,
    dtype: DTypeLike = np.uint16,
    out: NDArray[Any] | None = None,
) -> Labels:
    """Draw the accepted vesicles as solid balls whose label is the vesicle's id.

    A voxel belongs to a ball if its centre lies within the (outer) radius. A voxel that several balls claim goes to
    the one with the smallest power distance ``d**2 - r**2``, which cuts two overlapping balls along the plane through
    the circle in which their surfaces meet (the radical plane; Aurenhammer 1987, SIAM J. Comput. 16, 78-96); equal
    distances go to the lower id. The result does not depend on the order of the rows, and no sphere is altered.

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

    Returns
    -------
    Labels
        On `grid`; 0 is background.

    Raises
    ------
    BadInputError
        An id that the data type cannot hold, or an accepted sphere without a finite centre and a positive radius.
    ValueError
        `out` has another shape than the grid, or labels are not integers.
    """
    grid = vesicles.grid if grid is None else grid
    labels_type = np.dtype(dtype) if out is None else out.dtype
    if labels_type.kind not in "iu":
        raise ValueError(f"labels must be of an integer type, got {labels_type}")
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
    return Labels(out, grid)


def draw_slab(vesicles: Vesicles, grid: Grid, out: NDArray[Any]) -> list[tuple[int, int, Box]]:
    """As `rasterize`, for a part of the volume that holds few of the vesicles.

    Returns
    -------
    list of (int, int, Box)
        Of each vesicle that was drawn: its id, its number of voxels in `out`, and the box in `out` that holds them.
    """
    centres = vesicles.grid.map_points(vesicles.centres_vox, grid)
    radii = grid.length_to_vox(vesicles.radii_nm)
    boxes = {}
    for row in np.flatnonzero(vesicles.accepted):
        low, high = _box(centres[row], radii[row], grid.shape_zyx)
        if (high > low).all():
            z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
            boxes[int(row)] = (z, y, x)
    rasterize(vesicles.select(list(boxes)), grid, out=out)
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
