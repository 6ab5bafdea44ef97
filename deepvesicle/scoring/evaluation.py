"""Two tables of vesicles compared in full: two ways of matching, and the overlap of the drawn spheres.

The figures are those of the CryoVesNet paper (Khosrozadeh et al. 2024) and, beside them, those of matching by the
volume that spheres share, which treats both tables alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepvesicle.grid import Grid, Region
from deepvesicle.scoring.match import Indices, Score, match, sphere_iou
from deepvesicle.spheres import are_cut
from deepvesicle.vesicles import Status, Vesicles

#: What two spheres must share at least to be matched by their volume.
LEAST_IOU = 0.5
#: Voxels of a volume that are drawn at a time.
SLAB_VOXELS = 1 << 23

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How two tables of vesicles agree.

    Parameters
    ----------
    predicted, truth : Vesicles
        What was compared, on one grid: the tables without their rejected rows.
    shapes_predicted, shapes_truth : int arrays (N,) and (M,)
        0 for a vesicle; rows of one unclear shape have the same number.
    by_centre : Score
        A vesicle is found if a predicted centre lies inside it.
    by_volume : Score
        A vesicle is found if it and a predicted one share at least `LEAST_IOU` of the volume of both together.
    exchanged_f1 : float
        F1 of `by_centre` if the tables change places.
    dice : float
        Of the voxels inside the drawn spheres, those that count; NaN where there are none.
    """

    predicted: Vesicles
    truth: Vesicles
    shapes_predicted: Indices
    shapes_truth: Indices
    by_centre: Score
    by_volume: Score
    exchanged_f1: float
    dice: float

    @cached_property
    def ious(self) -> Floats:
        """IoU of the pairs of `by_centre` (tp,)."""
        p, t = self.by_centre.pairs.T
        distance = np.linalg.norm(self.predicted.centres_nm[p] - self.truth.centres_nm[t], axis=1)
        return sphere_iou(distance, self.predicted.radii_nm[p], self.truth.radii_nm[t])

    @property
    def ignored_predicted(self) -> Indices:
        """Rows of the prediction that count neither for nor against; of an unclear shape the first one alone."""
        return _each_shape_once(self.by_centre.ignored_rows, self.shapes_predicted)

    @property
    def ignored_truth(self) -> Indices:
        """Rows of the truth that count neither for nor against; of an unclear shape the first one alone."""
        known = np.union1d(self.by_centre.pairs[:, 1], self.by_centre.fn_rows)
        return _each_shape_once(np.setdiff1d(np.arange(len(self.truth)), known), self.shapes_truth)

    def counts(self) -> dict[str, int]:
        """How many vesicles each side has, how many of them count neither for nor against, and unclear shapes."""
        sides = {
            "prediction": (self.shapes_predicted, self.ignored_predicted),
            "truth": (self.shapes_truth, self.ignored_truth),
        }
        return {
            **{f"vesicles_{side}": int(np.sum(shapes == 0)) for side, (shapes, _) in sides.items()},
            **{f"ignored_{side}": int(np.sum(shapes[rows] == 0)) for side, (shapes, rows) in sides.items()},
            **{f"unclear_{side}": len(np.unique(shapes[shapes > 0])) for side, (shapes, _) in sides.items()},
        }

    def figures(self) -> dict[str, float]:
        """All figures by name, lengths in nm; NaN where nothing decides one."""
        centre, volume = self.by_centre, self.by_volume
        return {
            **self.counts(),
            "dice": self.dice,
            **{name: getattr(centre, name) for name in _COUNTS},
            **{name: getattr(centre, name) for name in _LENGTHS},
            "f1_exchanged": self.exchanged_f1,
            **{f"{name}_iou50": getattr(volume, name) for name in _COUNTS},
        }


#: Figures of a `Score` that are given for both ways of matching, and those that are given for matched centres alone.
_COUNTS = ("tp", "fp", "fn", "precision", "recall", "f1")
_LENGTHS = ("delta_d", "delta_c_nm", "median_centre_error_nm", "radius_bias_nm", "radius_sd_nm")


def evaluate(
    predicted: Vesicles,
    truth: Vesicles,
    *,
    region: Region | None = None,
    whole: bool = False,
    unclear_predicted: ArrayLike | None = None,
    unclear_truth: ArrayLike | None = None,
) -> Evaluation:
    """Compare two tables on the same grid.

    Vesicles with their centre outside the volume count neither for nor against.

    Parameters
    ----------
    predicted, truth : Vesicles
        N and M spheres; rejected rows are left out.
    region : Region, optional
        Vesicles with their centre outside count neither for nor against, and voxels outside do not either.
    whole : bool
        Vesicles that a face of the volume cuts count neither for nor against.
    unclear_predicted, unclear_truth : int arrays (N,) and (M,), optional
        Rows that count neither for nor against, as they cover a shape that is no sphere: the number of the shape, the
        same for all that cover it, from 1; 0 for vesicles.

    Raises
    ------
    ValueError
        The grids differ.
    """
    if predicted.grid != truth.grid:
        raise ValueError("the two tables must lie on the same grid")
    predicted, shapes_p, counts_p = _counting(predicted, region, whole, unclear_predicted)
    truth, shapes_t, counts_t = _counting(truth, region, whole, unclear_truth)
    by_centre = match(predicted, truth, counted=counts_t, excused=~counts_p)
    by_volume = match(predicted, truth, counted=counts_t, excused=~counts_p, least_iou=LEAST_IOU)
    exchanged = match(truth, predicted, counted=counts_p, excused=~counts_t)
    drawn_p = predicted.select(np.union1d(by_centre.pairs[:, 0], by_centre.fp_rows))
    dice = spheres_dice(drawn_p, truth.select(counts_t), region)
    return Evaluation(predicted, truth, shapes_p, shapes_t, by_centre, by_volume, exchanged.f1, dice)


def spheres_dice(a: Vesicles, b: Vesicles, region: Region | None = None) -> float:
    """Dice coefficient of the voxels inside two sets of spheres on the same grid: ``2 |A and B| / (|A| + |B|)``.

    A voxel is inside where its centre is within the outer radius of any sphere. Slab by slab: the memory does not grow
    with the volume. Only voxels of the grid, and of the region, count; NaN where none of them is inside any sphere.
    """
    common = total = 0
    for start, slab in _slabs(a.grid, a, b):
        masks = [_draw(table, start, slab) for table in (a, b)]
        if region is not None:
            inside = region.to_mask(slab)
            masks = [mask & inside for mask in masks]
        common += int(np.count_nonzero(masks[0] & masks[1]))
        total += sum(int(np.count_nonzero(mask)) for mask in masks)
    return 2 * common / total if total else float("nan")


def _counting(
    table: Vesicles, region: Region | None, whole: bool, unclear: ArrayLike | None
) -> tuple[Vesicles, Indices, Mask]:
    """The table without its rejected rows, the unclear shapes that these belong to, and which of them count."""
    exists = ~table.has_status(Status.REJECTED)
    shapes = np.zeros(len(table), dtype=np.int64) if unclear is None else np.asarray(unclear, dtype=np.int64)
    table, shapes = table.select(exists), shapes[exists]
    counts = (shapes == 0) & table.grid.contains(table.centres_vox)
    if whole:
        counts = counts & ~are_cut(table.grid, table.centres_vox, table.radii_vox)
    if region is not None:
        counts = counts & _centres_inside(table, region)
    return table, shapes, counts


def _each_shape_once(rows: Indices, shapes: Indices) -> Indices:
    """Rows without those that belong to the same unclear shape as an earlier one."""
    first = np.unique(shapes[rows], return_index=True)[1]
    again = (shapes[rows] > 0) & ~np.isin(np.arange(len(rows)), first)
    return rows[~again]


def _centres_inside(table: Vesicles, region: Region) -> Mask:
    """Which centres lie in a voxel of the region (N,)."""
    inside = np.zeros(len(table), dtype=bool)
    within = table.grid.contains(table.centres_vox)
    nearest = np.clip(np.rint(table.centres_vox).astype(int), 0, np.asarray(table.grid.shape_zyx) - 1)
    for start, slab in _slabs(table.grid, table):
        rows = np.flatnonzero(within & (nearest[:, 0] >= start) & (nearest[:, 0] < start + slab.shape_zyx[0]))
        if len(rows):
            z, y, x = nearest[rows].T
            inside[rows] = region.to_mask(slab)[z - start, y, x]
    return inside


def _slabs(grid: Grid, *tables: Vesicles) -> Iterator[tuple[int, Grid]]:
    """Slabs of whole sections that hold the spheres of all tables: first section, and the slab's grid."""
    nz, ny, nx = grid.shape_zyx
    lows = [float((t.centres_vox[:, 0] - t.radii_vox).min()) for t in tables if len(t)]
    highs = [float((t.centres_vox[:, 0] + t.radii_vox).max()) for t in tables if len(t)]
    if not lows:
        return
    first, last = max(0, int(np.floor(min(lows)))), min(nz - 1, int(np.ceil(max(highs))))
    step = max(1, SLAB_VOXELS // (ny * nx))
    for start in range(first, last + 1, step):
        yield start, grid.cropped((start, 0, 0), (min(step, last + 1 - start), ny, nx))


def _draw(table: Vesicles, start: int, slab: Grid) -> Mask:
    """Voxels of a slab inside any sphere, each sphere drawn in its own box."""
    mask = np.zeros(slab.shape_zyx, dtype=bool)
    centres = table.centres_vox - np.array([start, 0, 0])
    lows = np.maximum(np.ceil(centres - table.radii_vox[:, None]), 0).astype(int)
    highs = np.minimum(np.floor(centres + table.radii_vox[:, None]) + 1, slab.shape_zyx).astype(int)
    for row in np.flatnonzero((highs > lows).all(axis=1)):
        box = tuple(slice(a, b) for a, b in zip(lows[row], highs[row], strict=True))
        z, y, x = (axis - c for axis, c in zip(np.ogrid[box], centres[row], strict=True))
        mask[box] |= z**2 + y**2 + x**2 <= table.radii_vox[row] ** 2
    return mask
