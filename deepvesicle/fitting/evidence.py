"""How sure it is that a sphere is a vesicle: the network's word and the fit's findings as one probability.

A logistic regression over what is known of each fitted sphere. Its weights belong to a network and are learned on
phantoms, where the truth is known; they are kept in the model's config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.logistic import Logistic, probability
from deepvesicle.fitting.looks import default_looks
from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]

#: The feature that keeps the network's mean probability inside the sphere once `scores` is the calibrated one.
MASK_SCORE = "mask_score"
#: Columns of `mask_table`.
MASK_TRAITS = ("mask_logit", "mask_outside", "mask_support", "mask_fill", "mask_height", "log_radius")
#: Columns of `evidence_table`.
TRAITS = (
    *MASK_TRAITS,
    "mask_logit_relative",
    "membrane_log_z",
    "membrane_log_z_relative",
    "contrast",
    "profile_correlation",
    "unevenness",
    "fit_failed",
    "inside_fraction",
    "looks_logit",
    "log_gain",
    "log_gain_relative",
    "confirmed",
    "confirmed_where_failed",
)
#: What is taken for the likelihood gain of spheres that were fitted on rays alone; it says little either way.
_NEUTRAL_GAIN = 5.0


@dataclass(frozen=True)
class Promise(Logistic):
    """How promising a proposed sphere is by the mask alone (`mask_table`): whether it is worth a fit.

    Parameters
    ----------
    least : float
        Log-odds below which a faint one is not.
    """

    least: float = -np.inf
    traits: ClassVar[tuple[str, ...]] = MASK_TRAITS

    @classmethod
    def learn_cut(cls, table: Floats, true: NDArray[np.bool_], faint: NDArray[np.bool_], lost: float) -> Promise:
        """Learn the weights on all proposals, and the cut that loses this share of the true ones, all of them faint."""
        bare = cls.learn(table, true)
        odds = np.sort(bare.log_odds(table)[true & faint])
        allowed = int(lost * np.count_nonzero(true))
        least = float(odds[min(allowed, len(odds) - 1)]) if len(odds) else -np.inf
        return replace(bare, least=least)

    def worth_a_fit(self, proposals: Vesicles) -> NDArray[np.bool_]:
        """Which of the proposals should be fitted (N,); all that were found at the full threshold."""
        faint = np.asarray(proposals.features["mask_share"]) < 1
        return ~faint | (self.log_odds(mask_table(proposals)) >= self.least)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {**super().to_json(), "least": None if np.isinf(self.least) else round(self.least, 5)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Promise:
        """Read what `to_json` wrote; raises as `Logistic.from_json`."""
        least = content["least"]
        return replace(super().from_json(content), least=-np.inf if least is None else float(least))


@dataclass(frozen=True)
class Evidence(Logistic):
    """How the traits of a sphere (`evidence_table`) are weighed.

    Parameters
    ----------
    promise : Promise, optional
        Which proposals are worth a fit; all of them without.
    """

    promise: Promise | None = None
    traits: ClassVar[tuple[str, ...]] = TRAITS

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {**super().to_json(), **({} if self.promise is None else {"promise": self.promise.to_json()})}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Evidence:
        """Read what `to_json` wrote; raises as `Logistic.from_json`."""
        promise = content.get("promise")
        return replace(super().from_json(content), promise=None if promise is None else Promise.from_json(promise))

    def worth_a_fit(self, proposals: Vesicles) -> Vesicles:
        """The proposals that should be fitted."""
        return proposals if self.promise is None else proposals.select(self.promise.worth_a_fit(proposals))

    def probability(self, vesicles: Vesicles) -> Floats:
        """Probability of each sphere to be a vesicle, (N,); NaN where the network has said nothing."""
        if len(vesicles) == 0:
            return np.zeros(0)
        value = probability(self.log_odds(evidence_table(vesicles)))
        return np.where(np.isfinite(mask_scores(vesicles)), value, np.nan)


def mask_scores(vesicles: Vesicles) -> Floats:
    """The network's mean probability inside each sphere (N,)."""
    return np.asarray(vesicles.features.get(MASK_SCORE, vesicles.scores), dtype=float)


def _feature(vesicles: Vesicles, name: str, missing: float) -> Floats:
    values = np.asarray(vesicles.features.get(name, np.full(len(vesicles), np.nan)), dtype=float)
    return np.where(np.isfinite(values), values, missing)


def _logit(share: Floats, lowest: float, missing: float) -> Floats:
    value = np.clip(np.nan_to_num(share, nan=missing), lowest, 0.99)
    return np.asarray(np.log(value / (1 - value)))


def mask_table(vesicles: Vesicles) -> Floats:
    """What the mask says of each sphere, (N, len(MASK_TRAITS))."""
    columns = (
        _logit(mask_scores(vesicles), 0.02, 0.5),
        _logit(_feature(vesicles, "mask_outside", 0.1), 0.02, 0.1),
        _feature(vesicles, "mask_support", 0.5),
        _feature(vesicles, "mask_fill", 0.5),
        np.abs(_feature(vesicles, "mask_height", 1.0) - 1.0),
        np.log(np.clip(vesicles.radii_nm, 5.0, 150.0)),
    )
    return np.column_stack(columns)


def evidence_table(vesicles: Vesicles) -> Floats:
    """What is known of each sphere, as numbers that do not depend on the voxel size, (N, len(TRAITS)).

    Some columns are relative to the upper quartile of the same tomogram: where vesicles stand out clearly, one that
    does not is more suspicious than in a noisy tomogram. ``confirmed`` tells of the tomogram as a whole how much of
    what reaches the mask's threshold the fit confirms: where next to nothing, there may be no vesicles at all.
    """
    mask = mask_table(vesicles)
    logit = mask[:, 0]
    log_z = np.log(np.clip(_feature(vesicles, "membrane_z", 1.0), 1.0, 60.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        uneven = np.log(_feature(vesicles, "fit_residual_nm", np.nan) / vesicles.radii_nm)
    uneven = np.where(np.isfinite(uneven), np.clip(uneven, -5.0, -1.0), -1.5)
    failed = _feature(vesicles, "fit_failed", 1.0)
    log_gain = np.log(np.clip(_feature(vesicles, "likelihood_gain", _NEUTRAL_GAIN), 1.0, 60.0))
    clear = _feature(vesicles, "mask_share", 1.0) == 1
    confirmed = np.log((np.count_nonzero(clear & (failed == 0)) + 0.5) / (np.count_nonzero(clear) + 1.0))
    columns = (
        logit - np.quantile(logit, 0.75),
        log_z,
        log_z - np.quantile(log_z, 0.75),
        np.clip(_feature(vesicles, "contrast", 0.0), -1.0, 3.0),
        np.clip(_feature(vesicles, "profile_correlation", 0.0), -0.5, 1.0),
        uneven,
        failed,
        _feature(vesicles, "inside_fraction", 1.0),
        _logit(default_looks().judge(vesicles)[0], 0.01, 0.5),
        log_gain,
        log_gain - np.quantile(log_gain, 0.75),
        np.full(len(vesicles), confirmed),
        confirmed * failed,
    )
    return np.column_stack([mask, *columns])
