"""How well vesicles agree with a reference: one-to-one matching, and the figures the field reports.

Definitions follow the CryoVesNet paper (Khosrozadeh et al. 2024): a vesicle is found if the predicted centre lies
inside a reference vesicle, each used once. All lengths are compared in nm, so the two tables may lie on grids of
different voxel size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepvesicle.grid import Labels, as_points
from deepvesicle.spheres import shared_volume
from deepvesicle.vesicles import Status, Vesicles

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """Agreement of predicted vesicles with a reference. A figure that nothing decides is NaN (None in JSON).

    Parameters
    ----------
    tp, fp, fn : int
        Found, wrong and missed vesicles.
    precision, recall, f1 : float
        tp / (tp + fp), tp / (tp + fn), 2 tp / (2 tp + fp + fn).
    delta_d : float
        Mean over the matched of 1 - min / max of the two diameters.
    delta_c_nm, median_centre_error_nm : float
        Mean and median distance of matched centres, nm.
    radius_bias_nm, radius_sd_nm : float
        Mean and standard deviation of predicted minus reference radius over the matched, nm.
    pairs : int array (tp, 2)
        Rows of the matched: predicted, reference.
    fp_rows, fn_rows : int arrays
        Rows of the wrong ones in the prediction, and of the missed ones in the reference.
    ignored_rows : int array
        Predicted rows that neither help nor hurt: on a reference vesicle that is not counted, or outside the region.
    """

    tp: int
    fp: int
    fn: int
    precision: float
    recall: float
    f1: float
    delta_d: float
    delta_c_nm: float
    median_centre_error_nm: float
    radius_bias_nm: float
    radius_sd_nm: float
    pairs: Indices
    fp_rows: Indices
    fn_rows: Indices
    ignored_rows: Indices

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for run records and reports."""

        def plain(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return value.tolist()
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return {name: plain(getattr(self, name)) for name in self.__dataclass_fields__}

    def text(self) -> str:
        """One paragraph for a terminal."""
        found = f"{self.tp} of {self.tp + self.fn} vesicles found, {self.fp} wrong"
        if self.tp + self.fp + self.fn == 0:
            return "No vesicles predicted and none in the reference."
        rates = f"precision {_number(self.precision)}, recall {_number(self.recall)}, F1 {_number(self.f1)}"
        if self.tp == 0:
            return f"{found}: {rates}."
        return (
            f"{found}: {rates}. Of those found, the centres lie {self.delta_c_nm:.2f} nm off on average "
            f"(median {self.median_centre_error_nm:.2f} nm), the diameters differ by {100 * self.delta_d:.1f} % "
            f"(delta_d), and the radii by {self.radius_bias_nm:+.2f} nm on average (SD {self.radius_sd_nm:.2f} nm)."
        )


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Soft Dice coefficient of two volumes: ``2 sum(a b) / (sum a**2 + sum b**2)``.

    Parameters
    ----------
    a, b : arrays of the same shape
        Masks or probabilities (label volumes must be compared to 0 first). Memory maps are read plane by plane.

    Returns
    -------
    float
        1 for equal volumes, 0 for disjoint ones; 1 if both are empty.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    first = a if isinstance(a, np.ndarray) else np.asarray(a)
    second = b if isinstance(b, np.ndarray) else np.asarray(b)
    if first.shape != second.shape:
        raise ValueError(f"volumes of shapes {first.shape} and {second.shape} cannot be compared")
    common = total = 0.0
    for p, q in zip(np.atleast_1d(first), np.atleast_1d(second), strict=True):
        p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
        common += float(np.sum(p * q))
        total += float(np.sum(p * p) + np.sum(q * q))
    return 2 * common / total if total > 0 else 1.0


def match(
    predicted: Vesicles,
    truth: Vesicles,
    *,
    counted: ArrayLike | None = None,
    excused: ArrayLike | None = None,
    region: Labels | None = None,
    least_iou: float | None = None,
) -> Score:
    """Match predicted vesicles one-to-one with a reference and score them.

    A pair is allowed where the predicted centre lies inside the reference sphere. Among all one-to-one assignments
    the one with most pairs is taken, and among those the one with the smallest sum of distances (Hungarian method).
    Rejected rows of either table are left out.

    With `least_iou` a pair is allowed where the two spheres share so much instead, and of the assignments with most
    pairs the one with the largest sum of IoU is taken; this does not change when the tables are exchanged.

    Parameters
    ----------
    predicted, truth : Vesicles
        On any grids; compared in nm, the grids' origins included.
    counted : bool array (N of truth,), optional
        False for reference vesicles that neither help nor hurt, such as those the border cuts: missing one is no
        error, and a prediction with its centre inside one is no false positive.
    excused : bool array (N of predicted,), optional
        True for predictions that are no false positives where they match nothing.
    region : Labels, optional
        Analysis region (non-zero inside). Reference vesicles with their centre outside do not count, and predictions
        outside are no false positives.
    least_iou : float, optional
        Volume of the intersection by that of the union, 0 to 1.

    Returns
    -------
    Score
        Its row indices refer to the tables as given.

    Raises
    ------
    ValueError
        `counted` has not one entry for each row of `truth`, or `excused` for each of `predicted`.
    """
    counts = np.ones(len(truth), dtype=bool) if counted is None else np.asarray(counted, dtype=bool).reshape(-1)
    if len(counts) != len(truth):
        raise ValueError(f"counted has {len(counts)} entries for {len(truth)} reference vesicles")
    harmless = np.zeros(len(predicted), dtype=bool) if excused is None else np.asarray(excused, dtype=bool).reshape(-1)
    if len(harmless) != len(predicted):
        raise ValueError(f"excused has {len(harmless)} entries for {len(predicted)} predicted vesicles")
    exists = ~truth.has_status(Status.REJECTED)
    counts = counts & exists & _in_region(truth, region)
    columns, others = np.flatnonzero(counts), np.flatnonzero(~counts & exists)
    rows = np.flatnonzero(~predicted.has_status(Status.REJECTED))

    centres_p, centres_t = predicted.grid.to_nm(predicted.centres_vox), truth.grid.to_nm(truth.centres_vox)
    radii_p, radii_t = predicted.radii_nm, truth.radii_nm

    distance = _distances(centres_p[rows], centres_t[columns])
    if least_iou is None:
        chosen = _assign(distance, distance <= radii_t[columns][None, :])
    else:
        iou = sphere_iou(distance, radii_p[rows][:, None], radii_t[columns][None, :])
        chosen = _assign(1 - iou, iou >= least_iou)
    pairs = np.column_stack([rows[chosen[:, 0]], columns[chosen[:, 1]]])

    left = np.setdiff1d(rows, pairs[:, 0])
    neutral = harmless[left] | ~_in_region(predicted, region)[left]
    neutral |= np.any(_distances(centres_p[left], centres_t[others]) <= radii_t[others][None, :], axis=1)
    fp_rows, ignored, fn_rows = left[~neutral], left[neutral], np.setdiff1d(columns, pairs[:, 1])

    centre_error = np.linalg.norm(centres_p[pairs[:, 0]] - centres_t[pairs[:, 1]], axis=1)
    r_p, r_t = radii_p[pairs[:, 0]], radii_t[pairs[:, 1]]
    tp, fp, fn = len(pairs), len(fp_rows), len(fn_rows)
    return Score(
        tp=tp,
        fp=fp,
        fn=fn,
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        delta_d=_mean(1 - np.minimum(r_p, r_t) / np.maximum(r_p, r_t)),
        delta_c_nm=_mean(centre_error),
        median_centre_error_nm=float(np.median(centre_error)) if tp else float("nan"),
        radius_bias_nm=_mean(r_p - r_t),
        radius_sd_nm=float(np.std(r_p - r_t)) if tp else float("nan"),
        pairs=pairs,
        fp_rows=fp_rows,
        fn_rows=fn_rows,
        ignored_rows=ignored,
    )


def sphere_iou(distance: ArrayLike, radius_a: ArrayLike, radius_b: ArrayLike) -> NDArray[np.float64]:
    """Volume that two spheres share, by the volume of both together.

    Parameters
    ----------
    distance, radius_a, radius_b : arrays that broadcast
        In one unit; distance of the centres.
    """
    d, a, b = (np.asarray(v, dtype=np.float64) for v in (distance, radius_a, radius_b))
    shared = shared_volume(d, a, b)
    return np.asarray(shared / (4 / 3 * np.pi * (a**3 + b**3) - shared))


def match_points(points_pred: ArrayLike, points_ref: ArrayLike, max_distance: float) -> Indices:
    """Match points one-to-one: most pairs first, then the smallest sum of distances.

    Parameters
    ----------
    points_pred, points_ref : arrays (N, 3) and (M, 3)
        In the same unit.
    max_distance : float
        Largest distance of a pair, in that unit.

    Returns
    -------
    int array (K, 2)
        Rows of the matched: predicted, reference.
    """
    distance = _distances(as_points(points_pred), as_points(points_ref))
    return _assign(distance, distance <= max_distance)


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances (N, M) of two sets of points."""
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(a, b)) if len(a) and len(b) else np.zeros((len(a), len(b)))


def _assign(distance: NDArray[np.float64], allowed: NDArray[np.bool_]) -> Indices:
    """Allowed one-to-one pairs (K, 2): as many as can be, with the smallest sum of distances."""
    from scipy.optimize import linear_sum_assignment

    if not allowed.any():
        return np.zeros((0, 2), dtype=np.int64)
    # A pair that is not allowed costs more than all allowed ones together, so it is used only where it must be.
    forbidden = (min(distance.shape) + 1.0) * (float(distance[allowed].max()) + 1.0)
    rows, columns = linear_sum_assignment(np.where(allowed, distance, forbidden))
    good = allowed[rows, columns]
    return np.column_stack([rows[good], columns[good]]).astype(np.int64)


def _in_region(vesicles: Vesicles, region: Labels | None) -> NDArray[np.bool_]:
    """Which centres lie inside the region (N,)."""
    if region is None:
        return np.ones(len(vesicles), dtype=bool)
    points = vesicles.grid.map_points(vesicles.centres_vox, region.grid)
    inside = region.grid.contains(points)
    nearest = np.clip(np.rint(points), 0, np.asarray(region.grid.shape_zyx) - 1).astype(int)
    return inside & np.array([bool(region.data[tuple(p)]) for p in nearest], dtype=bool)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "undefined"
