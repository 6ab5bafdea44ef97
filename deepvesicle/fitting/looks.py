"""Whether a fitted sphere looks like a closed shell in the tomogram, whatever a network says.

The membrane of a vesicle is there on all sides that are resolved, about equally strong, as deep as that of the others,
and round a lumen like the surroundings. A sheet is there on one side, a tubule on two, a granule or a bead is dark
inside. A logistic regression weighs these traits; its weights were learned on phantoms (`bin/learn-looks`) and stand in
`looks.json`. Two sets: in a tomogram with some clear vesicles a sphere is compared with them, else it is taken alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.logistic import Logistic, probability
from deepvesicle.fitting.shell_fit import CHI2_MEDIAN, ShellFit
from deepvesicle.fitting.shell_model import ModelFit
from deepvesicle.spheres import mirrored_directions
from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Features of a fit that are measured here.
PATCH_FEATURES = (
    "membrane_strength",
    "weakest_side",
    "weakest_side_z",
    "membrane_share",
    "membrane_quadrupole",
    "unevenness",
)
#: Width of a side, over which patches are averaged: sigma of the angle, radians; and how many sides are looked at.
_SIDE_RAD, _SIDES = np.radians(20.0), 48
#: With fewer clear vesicles there is no comparing with them.
MIN_CLEAR = 8
#: Significance of a membrane that is clear.
_CLEAR_Z = 6.0
#: Traits of a sphere by itself, and what is said where one speaks against it.
_ALONE = {
    "log_z": "hardly any membrane",
    "weakest_z": "no membrane on one side",
    "weakest": "no membrane on one side",
    "share": "membrane in too few directions",
    "correlation": "the membrane's profile",
    "unevenness": "not round",
    "quadrupole": "membrane on two sides only",
    "log_depth": "hardly any membrane",
    "lumen": "dense inside",
    "dark_lumen": "dense inside",
    "log_radius": "its size",
    "inside": "cut by the border",
}
#: ... and compared with the clear vesicles of its tomogram.
_RELATIVE = {
    "depth_below": "its membrane is weaker than the others'",
    "depth_above": "denser than the others",
    "strength_above": "denser than the others",
    "unlike": "its membrane is less complete than the others'",
}


@dataclass(frozen=True)
class _Alone(Logistic):
    traits: ClassVar[tuple[str, ...]] = tuple(_ALONE)


@dataclass(frozen=True)
class _Among(Logistic):
    traits: ClassVar[tuple[str, ...]] = (*_ALONE, *_RELATIVE)


@dataclass(frozen=True)
class Looks:
    """How traits are weighed. The bias is such that of the vesicles of phantoms one in 100 comes out below 0.5.

    Parameters
    ----------
    among : Logistic
        For tomograms with clear vesicles.
    alone : Logistic
        For others.
    """

    among: Logistic
    alone: Logistic

    def judge(self, vesicles: Vesicles) -> tuple[Floats, list[str]]:
        """How much each sphere looks like a vesicle, 0..1, NaN where that is not known (N,); and what speaks against.

        Parameters
        ----------
        vesicles : Vesicles
            As `refine` returns them.
        """
        table, compared, known = looks_table(vesicles)
        rule = self.among if compared else self.alone
        table = table[:, : len(rule.traits)]
        words = {**_ALONE, **_RELATIVE}
        parts = rule.contributions(table)
        texts = [words[rule.traits[int(worst)]] for worst in np.argmin(parts, axis=1)] if len(table) else []
        return np.where(known, probability(rule.log_odds(table)), np.nan), texts

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {"among": self.among.to_json(), "alone": self.alone.to_json()}

    @classmethod
    def learn(cls, tables: Sequence[Floats], compared: Sequence[bool], trues: Sequence[Mask], lost: float) -> Looks:
        """Learn from the spheres of several tomograms.

        Parameters
        ----------
        tables : sequence of arrays (N, traits)
            From `looks_table`, one a tomogram.
        compared : sequence of bool
            Likewise; only these teach comparing.
        trues : sequence of bool arrays (N,)
            Which spheres are vesicles.
        lost : float
            Share of the vesicles that may come out below 0.5.
        """
        chosen = [i for i, use in enumerate(compared) if use]
        among = _learned(_Among, [tables[i] for i in chosen], [trues[i] for i in chosen], lost)
        alone = _learned(_Alone, [t[:, : len(_ALONE)] for t in tables], trues, lost)
        return cls(among, alone)


def _learned(kind: type[Logistic], tables: Sequence[Floats], trues: Sequence[Mask], lost: float) -> Logistic:
    """A regression whose bias is set by tomograms that it was not learned from (cross-validation)."""
    folds = min(8, len(tables))
    unseen: list[Floats] = []
    for fold in range(folds):
        learn = [i for i in range(len(tables)) if i % folds != fold]
        rule = kind.learn(np.concatenate([tables[i] for i in learn]), np.concatenate([trues[i] for i in learn]), 3.0)
        unseen += [rule.log_odds(tables[i][trues[i]]) for i in range(fold, len(tables), folds)]
    limit = float(np.quantile(np.concatenate(unseen), lost))
    rule = kind.learn(np.concatenate(list(tables)), np.concatenate(list(trues)), 3.0)
    return kind(rule.middle, rule.spread, rule.weights, rule.bias - limit)


@lru_cache(maxsize=1)
def default_looks() -> Looks:
    """The weights that come with the program."""
    content = json.loads(Path(__file__).with_name("looks.json").read_text())
    return Looks(_Among.from_json(content["among"]), _Alone.from_json(content["alone"]))


@lru_cache(maxsize=32)
def _sides_and_harmonics(patches: bytes) -> tuple[Floats, Floats]:
    """Weights of the patches in each side (s, p), and the harmonics of degree 0 to 2 at the patches (p, 9)."""
    n = np.frombuffer(patches).reshape(-1, 3)
    sides = np.exp((mirrored_directions(_SIDES) @ n.T - 1) / (2 * _SIDE_RAD**2))
    z, y, x = n.T
    harmonics = np.column_stack([np.ones(len(n)), z, y, x, z * y, z * x, y * x, x * x - y * y, 3 * z * z - 1])
    return sides, harmonics


def patch_features(fit: ShellFit) -> dict[str, float]:
    """How evenly a membrane surrounds a fitted sphere.

    Returns
    -------
    dict
        ``membrane_strength``: depth of the membrane, grey values; ``weakest_side``: its depth on the weaker sides (a
        tenth of them are weaker still) over the mean; ``weakest_side_z``: depth on the weakest side, standard errors;
        ``membrane_share``: share of the resolved directions in which there is a dark line; ``membrane_quadrupole``:
        variation of degree two over the mean; ``unevenness``: rms distance of the membrane from the sphere over its
        radius. NaN where too little is seen.
    """
    found = dict.fromkeys(PATCH_FEATURES, np.nan)
    weights = fit.patch_weights
    rms = float(np.sqrt((weights * fit.residuals_nm**2).sum() / max(float(weights.sum()), 1e-12)))
    found["membrane_strength"] = fit.amplitude
    found["unevenness"] = rms / max(fit.radius_nm, 1e-12)
    seen = fit.information > 0
    if seen.sum() < 15:
        return found
    sides, harmonics = _sides_and_harmonics(np.ascontiguousarray(fit.patches).tobytes())
    sides, harmonics = sides[:, seen], harmonics[seen]
    strength, information = fit.strengths[seen], fit.information[seen]
    total = float(information.sum())
    mean = float((information * strength).sum()) / total
    # Variations over the sphere are no noise.
    weighted = harmonics * information[:, None]
    normal = weighted.T @ harmonics + np.diag([0.0] + [1e-3 * total] * 8)
    wave = np.linalg.solve(normal, weighted.T @ strength)
    noise = float(np.median((strength - harmonics @ wave) ** 2 * information)) / CHI2_MEDIAN
    known = sides @ information
    full = known > 0.35 * np.median(known[known > 0.2 * known.max()])
    depth = (sides @ (information * strength))[full] / known[full]
    error = np.sqrt(noise * (sides**2 @ information)[full]) / known[full]
    found["weakest_side_z"] = float((depth / np.maximum(error, 1e-12)).min())
    found["membrane_share"] = float((information * (strength > 0)).sum()) / total
    scale = max(abs(mean), 1e-12)
    found["weakest_side"] = float(np.quantile(depth / scale, 0.1))
    found["membrane_quadrupole"] = float(np.linalg.norm(wave[4:])) / scale if mean > 0 else 9.0
    return found


def relative_depth(fit: ModelFit) -> float:
    """Depth of a sphere's membrane by its own data alone, as a multiple of the profile that all have in common."""
    try:
        power = float(np.linalg.inv(fit.covariance)[4, 4])
    except np.linalg.LinAlgError:
        return np.nan
    depth = fit.sphere.depth
    return fit.gain / (depth * power) + depth / 2 if power > 0 else np.nan


def looks_table(vesicles: Vesicles) -> tuple[Floats, bool, Mask]:
    """The traits of each sphere (N, traits), whether they could be compared, and which rows are known at all (N,).

    Without enough clear vesicles to compare with, the last columns are 0.
    """

    def feature(name: str) -> Floats:
        return np.asarray(vesicles.features.get(name, np.full(len(vesicles), np.nan)), dtype=float)

    radius = vesicles.radii_nm
    depth, share, z = feature("relative_depth"), feature("membrane_share"), feature("membrane_z")
    weakest, correlation = feature("weakest_side"), feature("profile_correlation")
    membrane, lumen = feature("membrane_density"), feature("lumen_density")
    inside = _clipped(feature("inside_fraction"), 0.4, 1, 1)
    log_z = np.log(_clipped(z, 1, 60, 1))
    log_depth = np.log(_clipped(depth, 0.1, 6, 1))
    uneven = np.log(_clipped(feature("unevenness"), 0.005, 0.5, 0.04))
    two_sided = np.log(_clipped(feature("membrane_quadrupole"), 0.05, 5, 0.5))
    weakest_z = _clipped(feature("weakest_side_z"), -3, 12, 4)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = _clipped(lumen / np.maximum(np.abs(membrane), 0.05), -3, 3, 0)
        strength = np.log(np.maximum(feature("membrane_strength"), 1e-9))
    alone = [
        log_z,
        np.sign(weakest_z) * np.sqrt(np.abs(weakest_z)),
        _clipped(weakest, -0.5, 1, 0.7),
        _clipped(share, 0.4, 1, 0.5),
        _clipped(correlation, -0.5, 1, 0.9),
        uneven,
        two_sided,
        log_depth,
        ratio,
        np.minimum(ratio, 0),
        np.log(np.clip(radius, 5, 150)),
        inside,
    ]
    known = np.isfinite(share) & np.isfinite(z)
    clear = known & (z > _CLEAR_Z) & (np.nan_to_num(feature("fit_failed")) == 0)
    compared = int(clear.sum()) >= MIN_CLEAR
    relative = [np.zeros(len(vesicles))] * len(_RELATIVE)
    if compared:
        # A large membrane, and one that is all inside, is more significant.
        expected = np.log(radius) + 0.5 * np.log(inside)
        worse = [
            _beyond(log_z - expected, clear, 0.15),
            _beyond(_clipped(weakest, -1, 1, np.nan), clear, 0.08),
            _beyond(share, clear, 0.04),
            _beyond(np.arctanh(_clipped(correlation, -0.99, 0.99, np.nan)), clear, 0.3),
            _beyond(-two_sided, clear, 0.2),
            _beyond(-uneven, clear, 0.2),
        ]
        deep = np.log(_clipped(depth, 0.05, 9, np.nan))
        relative = [
            _beyond(deep, clear, 0.1),
            _beyond(-deep, clear, 0.1),
            _beyond(-strength, clear, 0.15),
            np.log1p(sum(np.minimum(w, 0) ** 2 for w in worse)),
        ]
    return np.column_stack([*alone, *relative]), compared, known


def _clipped(values: Floats, low: float, high: float, missing: float) -> Floats:
    """Within limits, a value for those that are missing."""
    return np.clip(np.where(np.isnan(values), missing, values), low, high)


def _beyond(values: Floats, usual: Mask, tolerance: float) -> Floats:
    """How far values lie above (below: negative) those of the usual rows, in their spread; -8 to 2, 0 if unknown."""
    population = values[usual & np.isfinite(values)]
    if len(population) < MIN_CLEAR:
        return np.zeros(len(values))
    middle = float(np.median(population))
    spread = 1.4826 * float(np.median(np.abs(population - middle)))
    return np.clip(np.nan_to_num((values - middle) / np.hypot(spread, tolerance)), -8, 2)
