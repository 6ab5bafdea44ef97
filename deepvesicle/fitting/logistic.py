"""Logistic regression over a few traits, kept as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Self = TypeVar("Self", bound="Logistic")


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression; subclasses name their traits.

    Parameters
    ----------
    middle, spread, weights : float arrays (len(traits),)
        Traits are shifted and scaled before they are weighted.
    bias : float
    """

    traits: ClassVar[tuple[str, ...]] = ()

    middle: Floats
    spread: Floats
    weights: Floats
    bias: float

    def log_odds(self, table: Floats) -> Floats:
        """Log of the odds for each row (N,) of a table (N, len(traits))."""
        return np.asarray(self.contributions(table).sum(axis=1) + self.bias)

    def contributions(self, table: Floats) -> Floats:
        """What each trait adds to the log-odds, (N, len(traits))."""
        return np.asarray((table - self.middle) / self.spread * self.weights)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        rows = zip(self.middle.tolist(), self.spread.tolist(), self.weights.tolist(), strict=True)
        traits = {
            name: {"middle": round(m, 5), "spread": round(s, 5), "weight": round(w, 5)}
            for name, (m, s, w) in zip(self.traits, rows, strict=True)
        }
        return {"bias": round(self.bias, 5), "traits": traits}

    @classmethod
    def from_json(cls: type[Self], content: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            A trait is missing or not a number.
        """
        rows = [content["traits"][name] for name in cls.traits]
        middle, spread, weights = (
            np.array([float(row[key]) for row in rows]) for key in ("middle", "spread", "weight")
        )
        return cls(middle, spread, weights, float(content["bias"]))

    @classmethod
    def learn(cls: type[Self], table: Floats, true: NDArray[np.bool_], penalty: float = 1.0) -> Self:
        """Fit the weights by penalised maximum likelihood (Newton steps).

        Parameters
        ----------
        table : array (N, len(traits))
        true : bool array (N,)
            Which rows are what is looked for.
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
            value = probability(design @ weights)
            gradient = design.T @ (target - value) - ridge @ weights
            curvature = (design * (value * (1 - value))[:, None]).T @ design + ridge
            step = np.linalg.solve(curvature, gradient)
            weights += np.clip(step, -2.0, 2.0)
            if np.abs(step).max() < 1e-6:
                break
        return cls(middle, spread, weights[:-1], float(weights[-1]))


def probability(log_odds: Floats) -> Floats:
    """From log-odds."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -30, 30))))
