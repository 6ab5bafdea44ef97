"""How sure it is that a sphere is a vesicle: the network's word and the fit's findings as one probability.

A logistic regression over what is known of each fitted sphere. Its weights belong to a network and are learned on
phantoms, where the truth is known; they are kept in the model's config.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.logistic import Logistic, probability
from deepvesicle.fitting.looks import default_looks
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
    "looks_logit",
)


@dataclass(frozen=True)
class Evidence(Logistic):
    """How the traits of a sphere (`evidence_table`) are weighed."""

    traits: ClassVar[tuple[str, ...]] = TRAITS

    def probability(self, vesicles: Vesicles) -> Floats:
        """Probability of each sphere to be a vesicle, (N,); NaN where the network has said nothing."""
        if len(vesicles) == 0:
            return np.zeros(0)
        value = probability(self.log_odds(evidence_table(vesicles)))
        return np.where(np.isfinite(mask_scores(vesicles)), value, np.nan)


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
    looks = np.clip(np.nan_to_num(default_looks().judge(vesicles)[0], nan=0.5), 0.01, 0.99)
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
        np.log(looks / (1 - looks)),
    )
    return np.column_stack(columns)
