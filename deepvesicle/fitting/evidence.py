"""How sure it is that a sphere is a vesicle: the network's word and the fit's findings as one probability.

A logistic regression over what is known of each fitted sphere. Its weights belong to a network and are learned on
phantoms, where the truth is known; they are kept in the model's config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]

#: The feature that keeps the network's mean probability inside the sphere once `scores` is the calibrated one.
MASK_SCORE = "mask_score"
#: Columns of `evidence_table`.
TRAITS = (
    "mask_logit",
    "mask_logit_relative",
    "mask_support",
    "mask_fill",
    "mask_height",
    "membrane_log_z",
    "membrane_log_z_relative",
    "contrast",
    "profile_correlation",
    "unevenness",
    "fit_failed",
    "inside_fraction",
    "log_radius",
)


@dataclass(frozen=True)
class Evidence:
    """A fitted logistic regression.

    Parameters
    ----------
    middle, spread, weights : float arrays (len(TRAITS),)
        A sphere's traits are shifted and scaled before they are weighted.
    bias : float
    """

    middle: Floats
    spread: Floats
    weights: Floats
    bias: float

    def probability(self, vesicles: Vesicles) -> Floats:
        """Probability of each sphere to be a vesicle, (N,); NaN where the network has said nothing."""
        if len(vesicles) == 0:
            return np.zeros(0)
        table = (evidence_table(vesicles) - self.middle) / self.spread
        value = 1 / (1 + np.exp(-np.clip(table @ self.weights + self.bias, -30, 30)))
        return np.where(np.isfinite(mask_scores(vesicles)), value, np.nan)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for a model's config."""
        rows = zip(self.middle.tolist(), self.spread.tolist(), self.weights.tolist(), strict=True)
        traits = {
            name: {"middle": round(m, 5), "spread": round(s, 5), "weight": round(w, 5)}
            for name, (m, s, w) in zip(TRAITS, rows, strict=True)
        }
        return {"bias": round(self.bias, 5), "traits": traits}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Evidence:
        """Read what `to_json` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            A trait is missing or not a number.
        """
        rows = [content["traits"][name] for name in TRAITS]
        middle, spread, weights = (
            np.array([float(row[key]) for row in rows]) for key in ("middle", "spread", "weight")
        )
        return cls(middle, spread, weights, float(content["bias"]))

    @classmethod
    def learn(cls, table: Floats, true: NDArray[np.bool_], penalty: float = 1.0) -> Evidence:
        """Fit the weights by penalised maximum likelihood (Newton steps).

        Parameters
        ----------
        table : array (N, len(TRAITS))
            From `evidence_table`, of several tomograms.
        true : bool array (N,)
            Which rows are vesicles.
        penalty : float
            Of the squared weights (ridge).
        """
        middle, spread = table.mean(axis=0), table.std(axis=0)
        spread = np.where(spread > 1e-3, spread, 1.0)  # a constant trait tells nothing
        design = np.column_stack([(table - middle) / spread, np.ones(len(table))])
        ridge = np.diag([penalty] * table.shape[1] + [1e-6])
        weights = np.zeros(design.shape[1])
        target = true.astype(float)
        for _ in range(50):
            value = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
            gradient = design.T @ (target - value) - ridge @ weights
            curvature = (design * (value * (1 - value))[:, None]).T @ design + ridge
            step = np.linalg.solve(curvature, gradient)
            weights += np.clip(step, -2.0, 2.0)
            if np.abs(step).max() < 1e-6:
                break
        return cls(middle, spread, weights[:-1], float(weights[-1]))


def mask_scores(vesicles: Vesicles) -> Floats:
    """The network's mean probability inside each sphere (N,)."""
    return np.asarray(vesicles.features.get(MASK_SCORE, vesicles.scores), dtype=float)


def evidence_table(vesicles: Vesicles) -> Floats:
    """What is known of each sphere, as numbers that do not depend on the voxel size, (N, len(TRAITS)).

    Two columns are relative to the upper quartile of the same tomogram: where vesicles stand out clearly, one that does
    not is more suspicious than in a noisy tomogram.
    """

    def feature(name: str, missing: float) -> Floats:
        values = np.asarray(vesicles.features.get(name, np.full(len(vesicles), np.nan)), dtype=float)
        return np.where(np.isfinite(values), values, missing)

    score = np.clip(np.nan_to_num(mask_scores(vesicles), nan=0.5), 0.02, 0.99)
    logit = np.log(score / (1 - score))
    failed = feature("fit_failed", 1.0)
    log_z = np.log(np.clip(feature("membrane_z", 1.0), 1.0, 60.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        uneven = np.log(feature("fit_residual_nm", np.nan) / vesicles.radii_nm)
    uneven = np.where(np.isfinite(uneven), np.clip(uneven, -5.0, -1.0), -1.5)
    columns = (
        logit,
        logit - np.quantile(logit, 0.75),
        feature("mask_support", 0.5),
        feature("mask_fill", 0.5),
        np.abs(feature("mask_height", 1.0) - 1.0),
        log_z,
        log_z - np.quantile(log_z, 0.75),
        np.clip(feature("contrast", 0.0), -1.0, 3.0),
        np.clip(feature("profile_correlation", 0.0), -0.5, 1.0),
        uneven,
        failed,
        feature("inside_fraction", 1.0),
        np.log(np.clip(vesicles.radii_nm, 5.0, 150.0)),
    )
    return np.column_stack(columns)
