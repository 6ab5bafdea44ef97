"""How much a fitted sphere is like the others of its tomogram: a robust Mahalanobis distance with a chi-square p."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, gammaincc

from deepvesicle.fitting.evidence import mask_scores
from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: With fewer spheres there is no telling which is unusual.
MIN_POPULATION = 8
#: The spread that is estimated from n spheres is as certain as the variance of this many times n values.
_SPREAD_SHARE = 0.6


@dataclass(frozen=True)
class _Trait:
    """A feature in which vesicles resemble one another.

    Parameters
    ----------
    words : str
        For the user.
    values : array (n,)
    tolerance : float
        Least spread (SD) that counts as usual, whatever the population's.
    """

    words: str
    values: Floats
    tolerance: float


def likeness(vesicles: Vesicles, rows: Mask) -> tuple[Floats, list[str]]:
    """The p of each sphere to be as unlike the others as it is, or more, and what is unusual about it.

    Parameters
    ----------
    vesicles : Vesicles
    rows : bool array (N,)
        Those that are compared with each other.

    Returns
    -------
    p : array (N,)
        1 where it was not tested: other rows, and all where there are too few.
    words : list of str
    """
    p, words = np.ones(len(vesicles)), [""] * len(vesicles)
    traits = _traits(vesicles, rows) if rows.sum() >= MIN_POPULATION else []
    if not traits:
        return p, words
    values = np.stack([t.values[rows] for t in traits], axis=1)
    tolerances = np.array([max(t.tolerance, 1e-9) for t in traits])
    p[rows] = chance(values, tolerances)
    unusual = np.abs(values - np.nanmedian(values, axis=0)) / tolerances
    for row, which in zip(np.flatnonzero(rows), np.argmax(np.nan_to_num(unusual), axis=1), strict=True):
        words[row] = f"unlike the others, mostly in its {traits[which].words} (p = {p[row]:.1g})"
    return p, words


def _traits(vesicles: Vesicles, rows: Mask) -> list[_Trait]:
    """The features to compare. Being better than the others is not unusual: quality counts one way.

    Sphericity is 1 - residual / radius: one trait with the fit's residual.
    """

    def feature(name: str) -> Floats:
        return np.asarray(vesicles.features.get(name, np.full(len(vesicles), np.nan)), dtype=float)

    def level(values: Floats) -> float:
        known = values[rows & np.isfinite(values)]
        return float(np.median(known)) if len(known) else np.nan

    membrane, lumen, contrast = feature("membrane_density"), feature("lumen_density"), feature("contrast")
    alike = np.arctanh(np.clip(feature("profile_correlation"), -0.999, 0.999))
    with np.errstate(divide="ignore", invalid="ignore"):
        uneven = np.log(feature("fit_residual_nm") / vesicles.radii_nm)
        size = np.log(vesicles.radii_nm)
    uneven[~np.isfinite(uneven)] = np.nan
    score = np.clip(mask_scores(vesicles), 0.02, 0.98)
    score = np.log(score / (1 - score))
    depth = abs(level(membrane))
    found = [
        # Real populations mix vesicles of 20 and 60 nm.
        _Trait("radius", size, 0.4),
        _Trait("membrane thickness", vesicles.grid.length_to_nm(vesicles.thickness_vox), 0.6),
        _Trait("membrane density", membrane, 0.25 * depth + 0.05),
        # Dense cores, and what else vesicles are filled with.
        _Trait("lumen density", lumen, 0.4 * depth + 0.1),
        _Trait("contrast", contrast, 0.3 * abs(level(contrast)) + 0.05),
        _Trait("membrane profile", np.minimum(alike, level(alike)), 0.5),
        _Trait("roundness", np.maximum(uneven, level(uneven)), 0.35),
        _Trait("network score", np.minimum(score, level(score)), 1.0),
    ]
    return [t for t in found if np.isfinite(t.values[rows]).sum() >= MIN_POPULATION]


def chance(values: Floats, tolerances: Floats) -> Floats:
    """The p of robust Mahalanobis distances, degrees of freedom = number of known values in the row.

    From the chi-square distribution where the tolerances are the spread, which are known; as far as the spread was
    estimated from few rows, from the F distribution that takes its place (Hardin and Rocke, J. Comput. Graph. Stat. 14
    (2005) 928-946).

    Parameters
    ----------
    values : array (n, k)
        NaN counts as usual.
    tolerances : array (k,)

    Returns
    -------
    array (n,)
    """
    known = np.maximum(np.isfinite(values).sum(axis=1), 1)
    squared = robust_distances(values, tolerances)
    estimated = float(np.mean(_mad(values) > tolerances))
    if estimated == 0:
        return np.asarray(gammaincc(known / 2, squared / 2))
    return np.asarray(fdtrc(known, _SPREAD_SHARE * len(values) / estimated, squared / known))


def _mad(values: Floats) -> Floats:
    """Median absolute deviation of each column, as an SD."""
    return np.asarray(1.4826 * np.nanmedian(np.abs(values - np.nanmedian(values, axis=0)), axis=0))


def robust_distances(values: Floats, tolerances: Floats) -> Floats:
    """Squared robust Mahalanobis distances of the rows of a table from its bulk.

    Location and scatter come from the half of the rows nearest the medians, refined by concentration steps (the
    FAST-MCD idea; Rousseeuw and Van Driessen, Technometrics 41 (1999) 212-223), in units of MAD or tolerance,
    whichever is larger. With few rows the scatter is drawn towards a diagonal one and widened.

    Parameters
    ----------
    values : array (n, k)
        NaN counts as usual.
    tolerances : array (k,)
        Least SD of each column.

    Returns
    -------
    array (n,)
    """
    n, k = values.shape
    middle = np.nanmedian(values, axis=0)
    scaled = np.nan_to_num((values - middle) / np.maximum(_mad(values), tolerances))
    half = (n + k + 1) // 2
    distances = (scaled**2).sum(axis=1)
    location, scatter = np.zeros(k), np.eye(k)
    if n > 4 * k:
        for _ in range(5):
            bulk = scaled[np.argsort(distances, kind="stable")[:half]]
            location = bulk.mean(axis=0)
            covariance = np.cov(bulk, rowvar=False).reshape(k, k)
            sd = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
            # Only the correlations are taken from the bulk: its spread is that of its middle half.
            correlation = covariance / np.outer(sd, sd)
            trust = n / (n + 10.0 * k)
            scatter = trust * correlation + (1 - trust) * np.eye(k)
            np.fill_diagonal(scatter, 1.0)
            offsets = scaled - location
            distances = np.einsum("ij,ij->i", offsets @ np.linalg.inv(scatter), offsets)
    return np.asarray(distances / (1 + 4.0 / max(n, 1)) ** 2)
