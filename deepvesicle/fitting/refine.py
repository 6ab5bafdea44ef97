"""Fit spheres to the membranes on the tomogram, to a fraction of a voxel.

Three passes over all vesicles. On rays from each start sphere, with a general membrane profile: robust, and it reaches
far. Then all spheres together as one model of the tomogram (`joint`), with the profile learned from it: exact. Last, on
rays again, what the judgement needs to know of each.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from deepvesicle.cores import usable_cores
from deepvesicle.fitting.features import measure, membrane_thickness
from deepvesicle.fitting.joint import JointFit
from deepvesicle.fitting.profile import HALF_BILAYER_NM, Floats
from deepvesicle.fitting.rays import (
    MAX_MOVE,
    MAX_SCALE,
    MIN_SIGNIFICANCE,
    PROFILE_NM,
    Mapping,
    RayFits,
    Task,
    fit_round,
    trust,
)
from deepvesicle.fitting.shell_fit import Template
from deepvesicle.fitting.shell_model import ModelFit, Sphere
from deepvesicle.fitting.tilts import resolved
from deepvesicle.fitting.whitening import Whitening, estimate_whitening
from deepvesicle.grid import Tomogram
from deepvesicle.settings import RefinementSettings
from deepvesicle.vesicles import Status, Vesicles

_FITTED_COLUMNS = (
    "centres_vox",
    "radii_vox",
    "membrane_radii_vox",
    "thickness_vox",
    "sigma_centres_vox",
    "sigma_radii_vox",
)
#: Where less than this range of tilts shows in the tomogram, degrees, the fit on rays has the last word: along the beam
#: it comes back to the same place more often.
NARROW_DEG = 80.0
#: A sphere that explains the tomogram better by less than this, in log-likelihood, was not found: it has five parameters
#: chosen to make it so.
MIN_GAIN = 7.0
#: Rounds of the joint fit, and steps of each fit in them.
_ROUNDS, _STEPS = 2, 8
#: The joint fit polishes what was found on rays: it has lost the sphere if it goes further, nm and share of the radius.
_MAX_POLISH_NM, _MAX_POLISH = 12.0, 0.6


def refine(
    tomogram: Tomogram,
    vesicles: Vesicles,
    settings: RefinementSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Vesicles:
    """Fit centre, membrane radius and thickness of each vesicle to the tomogram.

    Parameters
    ----------
    tomogram : Tomogram
        May be memory-mapped: only boxes around the vesicles are read.
    vesicles : Vesicles
        Start spheres on the tomogram's grid; they may be off by 30 % of the radius in the centre and 20 % in size.
        MANUAL rows keep their sphere and get features; REJECTED rows are left as they are.
    settings : RefinementSettings
    progress : callable, optional
        Called with the number of fits done and the total.

    Returns
    -------
    Vesicles
        The same rows. Fitted ones are REFINED (or still DOUBTFUL, if they were), with `radii_vox` to the membrane's
        outer edge, `membrane_radii_vox` to its middle, and one-sigma uncertainties of the fit; those without a
        membrane, or whose fit ran away, keep their start sphere and are DOUBTFUL with a reason.
        Features: see `features.measure`, and ``fit_residual_nm``, ``sphericity``, ``coverage``, ``membrane_z``, ``likelihood_gain``,
        ``shift_nm``, ``fit_failed``.
    """
    whitening = estimate_whitening(tomogram, settings.tilt_axis)
    settings = resolved(tomogram, settings, whitening)
    voxel_nm = tomogram.grid.voxel_nm
    half = HALF_BILAYER_NM / voxel_nm
    known = np.where(np.isfinite(vesicles.membrane_radii_vox), vesicles.membrane_radii_vox, vesicles.radii_vox - half)
    work = RayFits.starting(vesicles.centres_vox, np.maximum(known, 1.0), half)
    rejected = vesicles.has_status(Status.REJECTED)
    fixed = vesicles.has_status(Status.MANUAL)
    free = [int(row) for row in np.flatnonzero(~fixed & ~rejected)]
    counter = _Counter(4 * len(free), progress)
    with ThreadPoolExecutor(usable_cores()) as pool:
        template = fit_round(
            Task.SEARCH, tomogram, work, free, ~rejected, Template.generic(), settings, pool.map, counter
        )
        low, high = whitening.tilts_deg
        joint: dict[int, ModelFit] = {}
        if high - low < NARROW_DEG:
            template = fit_round(Task.FIT, tomogram, work, free, ~rejected, template, settings, pool.map, counter)
        else:
            joint = _fit_together(tomogram, whitening, work, free, fixed, pool.map, counter)
            template = fit_round(Task.LOOK, tomogram, work, free, ~rejected, template, settings, pool.map, counter)
    failed = _failures(work, joint, free, voxel_nm)
    thickness = membrane_thickness(PROFILE_NM, work.profiles, work.profile_halves, trust(work), voxel_nm) / voxel_nm
    return _table(tomogram, vesicles, work, joint, free, failed, thickness, settings, template)


class _Counter:
    """Counts fits for a progress display."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, more: int) -> None:
        self.done += more
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)


def _fit_together(
    tomogram: Tomogram,
    whitening: Whitening,
    work: RayFits,
    free: list[int],
    fixed: NDArray[np.bool_],
    mapping: Mapping,
    counter: _Counter,
) -> dict[int, ModelFit]:
    """Fit all spheres as one model of the tomogram, from what was found on rays; those that stay near it count."""
    voxel = tomogram.grid.voxel_nm
    significance = trust(work)
    clear = significance > 0
    present = clear | fixed
    best = np.argsort(-significance, kind="stable")[: int(clear.sum())].tolist()
    rows = [row for row in free if (fit := work.fits[row]) is not None and fit.amplitude > 0]
    if not rows:
        return {}
    spheres = [Sphere(c * voxel, float(r * voxel)) for c, r in zip(work.centres, work.radii, strict=True)]
    fits = JointFit(tomogram, whitening, spheres, mapping)
    fits.learn(best, present)
    for _ in range(_ROUNDS):
        fits.learn(best, present)
        fits.fit(rows, present, _STEPS, counter)
    found = {}
    for row in rows:
        joint = fits.fits[row]
        if joint is None:
            continue
        limit = max(_MAX_POLISH_NM, _MAX_POLISH * float(work.radii[row]) * voxel)
        moved = np.append(
            joint.sphere.centre_nm - spheres[row].centre_nm, joint.sphere.radius_nm - spheres[row].radius_nm
        )
        if np.linalg.norm(moved) < limit:
            found[row] = joint
            work.centres[row], work.radii[row] = joint.sphere.centre_nm / voxel, joint.sphere.radius_nm / voxel
    return found


def _failures(work: RayFits, joint: dict[int, ModelFit], rows: list[int], voxel_nm: float) -> dict[int, str]:
    """Fits that are no good, with the reason; they get their start sphere back."""
    reasons: dict[int, str] = {}
    for row in rows:
        fit = work.fits[row]
        start = float(work.start_radii[row])
        moved = float(np.linalg.norm(work.centres[row] - work.start_centres[row]))
        # The further the search went, the more chances it had to find something in the noise.
        needed = MIN_SIGNIFICANCE + 5 * (moved / start + abs(float(np.log(work.radii[row] / start))))
        if fit is None:
            reasons[row] = "not fitted: too little of it lies in the tomogram"
        elif moved > MAX_MOVE * start:
            reasons[row] = f"not fitted: the centre ran away by {moved * voxel_nm:.1f} nm"
        elif not 1 / MAX_SCALE < work.radii[row] / start < MAX_SCALE:
            reasons[row] = (
                f"not fitted: the radius ran from {start * voxel_nm:.1f} to {work.radii[row] * voxel_nm:.1f} nm"
            )
        elif row in joint:
            if joint[row].gain < MIN_GAIN:
                reasons[row] = f"no membrane found (log-likelihood gain {joint[row].gain:.1f})"
        elif fit.amplitude <= 0 or fit.significance < needed:
            reasons[row] = f"no membrane found (contrast {fit.significance:.1f} standard errors)"
        if row in reasons:
            work.centres[row], work.radii[row] = work.start_centres[row], work.start_radii[row]
    return reasons


def _table(
    tomogram: Tomogram,
    vesicles: Vesicles,
    work: RayFits,
    joint: dict[int, ModelFit],
    free: list[int],
    failed: dict[int, str],
    thickness: Floats,
    settings: RefinementSettings,
    template: Template,
) -> Vesicles:
    """Put the fits into a copy of the table."""
    voxel_nm = tomogram.grid.voxel_nm
    fitted = np.zeros(len(vesicles), dtype=bool)
    fitted[free] = True
    fitted[list(failed)] = False
    columns = {name: np.array(getattr(vesicles, name)) for name in _FITTED_COLUMNS}
    columns["centres_vox"][fitted] = work.centres[fitted]
    columns["membrane_radii_vox"][fitted] = work.radii[fitted]
    columns["thickness_vox"][fitted] = thickness[fitted]
    columns["radii_vox"][fitted] = work.radii[fitted] + thickness[fitted] / 2
    names = ("fit_residual_nm", "sphericity", "coverage", "membrane_z", "likelihood_gain", "shift_nm")
    features = {name: np.full(len(vesicles), np.nan) for name in names}
    for row in free:
        fit = work.fits[row]
        if fit is None:
            continue
        features["coverage"][row] = fit.coverage
        features["membrane_z"][row] = fit.significance
        features["likelihood_gain"][row] = joint[row].gain if row in joint else np.nan
        features["shift_nm"][row] = np.linalg.norm(work.centres[row] - work.start_centres[row]) * voxel_nm
        if not fitted[row]:
            continue
        covariance = joint[row].covariance if row in joint else fit.covariance_nm2
        columns["sigma_centres_vox"][row] = np.sqrt(np.trace(covariance[:3, :3]) / 3) / voxel_nm
        columns["sigma_radii_vox"][row] = np.sqrt(covariance[3, 3]) / voxel_nm
        weights = fit.patch_weights
        rms = float(np.sqrt((weights * fit.residuals_nm**2).sum() / max(float(weights.sum()), 1e-12)))
        features["fit_residual_nm"][row] = rms
        features["sphericity"][row] = 1 - min(rms / max(fit.radius_nm, 1e-12), 1.0)
    features["fit_failed"] = np.zeros(len(vesicles))
    features["fit_failed"][list(failed)] = 1.0
    status = list(vesicles.status)
    reasons = list(vesicles.reasons)
    for row in free:
        if row in failed:
            status[row] = Status.DOUBTFUL
            reasons[row] = "; ".join(part for part in (reasons[row], failed[row]) if part)
        elif status[row] is Status.PROPOSED:
            status[row] = Status.REFINED
    # Profiles of failed fits are about another sphere than the one that is kept.
    profiles = np.where(fitted[:, None], work.profiles, np.nan)
    result = vesicles.replace(**columns, status=tuple(status), reasons=tuple(reasons))
    measured = measure(
        tomogram, result, settings, PROFILE_NM, template, profiles, skip=vesicles.has_status(Status.REJECTED)
    )
    return result.with_features(**features, **measured)
