"""What the tomogram says of vesicle labels: whether membranes are dark, and whether the labels end where they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.profile import (
    direction_set,
    radial_mean,
    read_box,
    resolved_weight,
    sample_polar,
    shell_template,
)
from deepvesicle.fitting.refine import refine
from deepvesicle.grid import Tomogram
from deepvesicle.handover.balls import Ball
from deepvesicle.settings import RefinementSettings
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]

#: Radii of labels that are compared with the tomogram, nm: smaller ones are too few voxels, larger ones are rare.
_RADII_NM = (8.0, 60.0)
#: As many labels are looked at for the sign of the contrast, and for their size.
_PROFILES, _FITS = 40, 32
#: Profiles reach so far to both sides of a label's edge, in such steps, and a membrane is looked for so near to it; nm.
_REACH_NM, _STEP_NM, _NEAR_NM = 12.0, 0.5, 5.0
#: The sign is called from this many standard errors on, over so many groups of vesicles.
_SURE, _GROUPS = 3.5, 6
#: Tilts of most tomograms, degrees; which directions are left out is not critical here.
_TILTS_DEG = (-60.0, 60.0)
#: Fits start at the label's radius, and at others (voxels more) if they succeed at fewer labels than this share.
_STARTS_VOX, _ENOUGH = (0.0, 1.5, -1.5), 0.5
#: Fewer fits than this say nothing of all labels.
FEWEST_FITS = 5


@dataclass(frozen=True, eq=False)
class Sizes:
    """Labels beside the membranes that the tomogram shows there.

    Parameters
    ----------
    labels : int array (N,)
        Those whose membrane was found.
    excess_vox : float array (N,)
        Radius of the label less that of the membrane's outer edge.
    sigma_vox : float array (N,)
        Uncertainty of the latter.
    looked_at : int
        How many labels were tried.
    """

    labels: NDArray[np.int64]
    excess_vox: Floats
    sigma_vox: Floats
    looked_at: int

    @property
    def typical_vox(self) -> float:
        """The median excess."""
        return float(np.median(self.excess_vox)) if len(self.labels) else 0.0

    @property
    def error_vox(self) -> float:
        """Standard error of the median."""
        if len(self.labels) < 2:
            return float("inf")
        spread = 1.4826 * float(np.median(np.abs(self.excess_vox - self.typical_vox)))
        return 1.2533 * max(spread, float(np.median(self.sigma_vox))) / len(self.labels) ** 0.5


def usable(balls: Sequence[Ball], voxel_nm: float) -> list[Ball]:
    """Labels that are whole balls of a usual size."""
    low, high = _RADII_NM
    return [
        ball for ball in balls if ball.is_ball and len(ball.pieces) == 1 and low <= ball.radius_vox * voxel_nm <= high
    ]


def sign_at(tomogram: Tomogram, balls: Sequence[Ball]) -> Literal["dark", "bright", "unsure"]:
    """Whether the edges of labels are darker or brighter than what lies inside and outside.

    A line between fringes of the other sign is looked for near the edge; groups of vesicles must agree on its sign.

    Parameters
    ----------
    tomogram : Tomogram
    balls : sequence of Ball
        See `usable`.
    """
    chosen = _spread(balls, _PROFILES)
    offsets = np.arange(-_REACH_NM, _REACH_NM + 1e-9, _STEP_NM)
    profiles = [profile for ball in chosen if (profile := _profile(tomogram, ball, offsets)) is not None]
    if len(profiles) < _GROUPS:
        return "unsure"
    shifts = np.arange(-_NEAR_NM, _NEAR_NM + 1e-9, _STEP_NM)
    templates = np.array([shell_template(offsets - shift) for shift in shifts])
    balance = []
    for first in range(_GROUPS):
        match = templates @ np.mean(profiles[first::_GROUPS], axis=0)
        balance.append(float(match.max() + match.min()))  # dark lines match with a plus, bright ones with a minus
    error = float(np.std(balance, ddof=1)) / _GROUPS**0.5
    if abs(float(np.mean(balance))) < _SURE * error or error == 0:
        return "unsure"
    return "dark" if np.mean(balance) > 0 else "bright"


def measured_sizes(tomogram: Tomogram, balls: Sequence[Ball]) -> Sizes:
    """Fit spheres to the membranes at labels, and compare.

    Parameters
    ----------
    tomogram : Tomogram
        Dense = dark.
    balls : sequence of Ball
        See `usable`. Those that are farthest from others are fitted, as far as `_FITS` go.
    """
    chosen = _lonely(balls, _FITS)
    found: dict[int, tuple[float, float]] = {}
    for start_vox in _STARTS_VOX:
        rest = [ball for ball in chosen if ball.label not in found]
        if len(found) >= _ENOUGH * len(chosen) or not rest:
            break
        found |= _fitted(tomogram, rest, start_vox)
    labels = sorted(found)
    columns = np.array([found[label] for label in labels]).reshape(-1, 2)
    return Sizes(np.array(labels, dtype=np.int64), columns[:, 0], columns[:, 1], len(chosen))


def _fitted(tomogram: Tomogram, balls: Sequence[Ball], start_vox: float) -> dict[int, tuple[float, float]]:
    """Excess and uncertainty, voxels, of labels at which a fit found a membrane; starts are so much larger."""
    radii = np.array([ball.radius_vox for ball in balls])
    vesicles = Vesicles(
        tomogram.grid,
        np.array([ball.label for ball in balls]),
        np.array([ball.centre_vox for ball in balls]),
        radii + start_vox,
        status=(Status.PROPOSED,) * len(balls),
    )
    fitted = refine(tomogram, vesicles, RefinementSettings())
    good = (fitted.features["fit_failed"] == 0) & np.isfinite(fitted.sigma_radii_vox)
    rows = zip(fitted.ids[good], (radii - fitted.radii_vox)[good], fitted.sigma_radii_vox[good], strict=True)
    return {int(label): (float(excess), float(sigma)) for label, excess, sigma in rows}


def _profile(tomogram: Tomogram, ball: Ball, offsets_nm: Floats) -> Floats | None:
    """Grey values about a label's edge, where the membrane is resolved, in SDs of the box, without mean."""
    voxel_nm = tomogram.grid.voxel_nm
    box = read_box(tomogram, ball.centre_vox, ball.radius_vox + (_REACH_NM + 1) / voxel_nm, 1)
    if box is None:
        return None
    set_ = direction_set(512)
    table = sample_polar(box, ball.centre_vox, ball.radius_vox + offsets_nm / voxel_nm, set_)
    profile, weight = radial_mean(table, resolved_weight(set_.patches, _TILTS_DEG))
    known = (weight > 0) & (ball.radius_vox + offsets_nm / voxel_nm > 0)
    scale = float(box.values.std())
    if known.sum() < len(offsets_nm) / 2 or scale == 0:
        return None
    return np.asarray(np.where(known, profile - profile[known].mean(), 0.0) / scale)


def _spread(balls: Sequence[Ball], most: int) -> list[Ball]:
    """Some of many, evenly."""
    if len(balls) <= most:
        return list(balls)
    return [balls[index] for index in np.linspace(0, len(balls) - 1, most).astype(int)]


def _lonely(balls: Sequence[Ball], most: int) -> list[Ball]:
    """Those farthest from the surface of any other."""
    from scipy.spatial import KDTree

    if len(balls) <= most:
        return list(balls)
    centres = np.array([ball.centre_vox for ball in balls])
    radii = np.array([ball.radius_vox for ball in balls])
    distances, others = KDTree(centres).query(centres, k=min(9, len(balls)))
    gaps = (distances[:, 1:] - radii[others[:, 1:]]).min(axis=1) - radii
    return [balls[index] for index in sorted(np.argsort(-gaps)[:most].tolist())]
