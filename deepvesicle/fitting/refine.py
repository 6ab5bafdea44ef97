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
from threadpoolctl import threadpool_limits

from deepvesicle.cores import usable_cores
from deepvesicle.fitting.features import OUTER_SD_NM, Place, measure, places
from deepvesicle.fitting.joint import EXAMPLES, JointFit
from deepvesicle.fitting.looks import PATCH_FEATURES, patch_features, relative_depth
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
#: A sphere that explains the tomogram better by less than this, in log-likelihood, was not found: five parameters were
#: chosen to make it so.
MIN_GAIN = 7.0
#: Steps of a joint fit, and how many spheres a profile is learned from, clear or not.
_STEPS, _LEAST_EXAMPLES = 8, 4
#: What the SDs of the joint fit, of centre and radius, are multiplied by: clutter and deformation are not in the model;
#: and the log-likelihood gain below which they grow further, as faint membranes have rivals. From simulated tomograms.
_JOINT_SIGMAS, _FAINT_GAIN = (1.0, 1.1), 10.0
#: Fits with a lower log-likelihood gain than this are tried again from the start spheres, scaled by these factors.
_CLEAR_GAIN, _SECOND_LOOKS = 18.0, (1.0, 0.85, 1.18)


def refine(
    tomogram: Tomogram,
    vesicles: Vesicles,
    settings: RefinementSettings,
    *,
    whitening: Whitening | None = None,
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
    whitening : Whitening, optional
        Of the tomogram, if it has been estimated already.
    progress : callable, optional
        Called with the number of fits done and the total.

    Returns
    -------
    Vesicles
        The same rows. Fitted ones are REFINED (or still DOUBTFUL, if they were), with `radii_vox` to the membrane's
        outer edge, `membrane_radii_vox` to its middle, and one-sigma uncertainties of the fit; those without a
        membrane, or whose fit ran away, keep their start sphere and are DOUBTFUL with a reason.
        Features: see `features.measure`, and ``fit_residual_nm``, ``sphericity``, ``coverage``, ``membrane_z``,
        ``likelihood_gain``, ``shift_nm``, ``fit_failed``.
    """
    if whitening is None:
        whitening = estimate_whitening(tomogram, settings.tilt_axis, settings.tilt_range_deg)
    settings = resolved(tomogram, settings, whitening)
    voxel_nm = tomogram.grid.voxel_nm
    half = HALF_BILAYER_NM / voxel_nm
    known = np.where(np.isfinite(vesicles.membrane_radii_vox), vesicles.membrane_radii_vox, vesicles.radii_vox - half)
    work = RayFits.starting(vesicles.centres_vox, np.maximum(known, 1.0), half)
    rejected = vesicles.has_status(Status.REJECTED)
    fixed = vesicles.has_status(Status.MANUAL)
    free = [int(row) for row in np.flatnonzero(~fixed & ~rejected)]
    counter = _Counter(3 * len(free), progress)
    # One matrix product each is small: threads of the linear algebra inside those of the fits only get in the way.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(usable_cores()) as pool:
        template = fit_round(
            Task.SEARCH, tomogram, work, free, ~rejected, Template.generic(), settings, pool.map, counter
        )
        low, high = whitening.tilts_deg
        joint: dict[int, ModelFit] = {}
        common = None
        if high - low < NARROW_DEG:
            template = fit_round(Task.FIT, tomogram, work, free, ~rejected, template, settings, pool.map, counter)
        else:
            joint, common = _fit_together(tomogram, whitening, work, free, fixed, template, settings, pool.map, counter)
            template = fit_round(Task.LOOK, tomogram, work, free, ~rejected, template, settings, pool.map, counter)
    counter.finish()
    failed = _failures(work, joint, free, voxel_nm)
    lies = places(PROFILE_NM, work.profiles, work.profile_halves, trust(work), common)
    return _table(tomogram, vesicles, work, joint, free, failed, lies, settings, template)


class _Counter:
    """Counts fits for a progress display."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def finish(self) -> None:
        """Some ways take fewer fits than others."""
        if self.done < self.total:
            self(self.total - self.done)

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
    template: Template,
    settings: RefinementSettings,
    mapping: Mapping,
    counter: _Counter,
) -> tuple[dict[int, ModelFit], Place | None]:
    """Fit all spheres as one model of the tomogram, from what was found on rays; their places go into `work`.

    Returns
    -------
    fits : dict of row to ModelFit
    place : Place or None
        Of the membranes, as the learned profile has it.
    """
    voxel = tomogram.grid.voxel_nm
    significance = trust(work)
    clear = significance > 0
    present = clear | fixed
    rows = [row for row in free if (ray := work.fits[row]) is not None and ray.amplitude > 0]
    if not rows:
        return {}, None
    spheres = [Sphere(c * voxel, float(r * voxel)) for c, r in zip(work.centres, work.radii, strict=True)]
    fits = JointFit(tomogram, whitening, spheres, mapping)
    best = sorted(rows, key=lambda row: -_significance(work, row))[: max(int(clear.sum()), _LEAST_EXAMPLES)]
    fits.learn(best, present)
    if not np.any(fits.profile.values):
        return {}, None  # no dark membrane on the whole
    # Learned once without neighbours, which cannot be taken out before there is a profile, and once with; then the
    # clearest are fitted first, so that the last profile is learned from spheres in their places.
    fits.learn(best, present)
    fits.fit(best[:EXAMPLES], present, _STEPS)
    fits.learn(best, present)
    fits.fit(rows, present, _STEPS, counter)
    for scale in _SECOND_LOOKS:
        weak = [row for row in rows if (one := fits.fits[row]) is None or one.gain < _CLEAR_GAIN]
        _look_again(fits, work, weak, scale, present, template, settings)
    found = {row: one for row in rows if (one := fits.fits[row]) is not None}
    for row, one in found.items():
        work.centres[row], work.radii[row] = one.sphere.centre_nm / voxel, one.sphere.radius_nm / voxel
    return found, Place.in_profile(fits.profile.offsets_nm(), fits.profile.values)


def _significance(work: RayFits, row: int) -> float:
    fit = work.fits[row]
    return 0.0 if fit is None else fit.significance


def _look_again(
    fits: JointFit,
    work: RayFits,
    rows: list[int],
    scale: float,
    present: NDArray[np.bool_],
    template: Template,
    settings: RefinementSettings,
) -> None:
    """Search from the start spheres once more, scaled, with all that is known by now; the better fit stays."""
    voxel = fits.tomogram.grid.voxel_nm
    again = RayFits.starting(
        np.array([s.centre_nm for s in fits.spheres]) / voxel,
        np.array([s.radius_nm for s in fits.spheres]) / voxel,
        work.half,
    )
    again.centres[rows], again.radii[rows] = work.start_centres[rows], scale * work.start_radii[rows]
    again.start_centres, again.start_radii = again.centres.copy(), again.radii.copy()
    fit_round(Task.SEARCH, fits.tomogram, again, rows, present, template, settings, fits.mapping, None)
    rows = [row for row in rows if again.fits[row] is not None and not again.has_run_away(row)]
    before = {row: (fits.spheres[row], fits.fits[row]) for row in rows}
    for row in rows:
        fits.spheres[row] = Sphere(again.centres[row] * voxel, float(again.radii[row] * voxel))
    fits.fit(rows, present, _STEPS)
    for row, (sphere, old) in before.items():
        new = fits.fits[row]
        if new is None or (old is not None and old.gain >= new.gain):
            fits.spheres[row], fits.fits[row] = sphere, old


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
    lies: tuple[Floats, Floats],
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
    middle, outer = (offset[fitted] / voxel_nm for offset in lies)
    columns["membrane_radii_vox"][fitted] = work.radii[fitted] + middle
    columns["thickness_vox"][fitted] = 2 * (outer - middle)
    columns["radii_vox"][fitted] = work.radii[fitted] + outer
    names = ("fit_residual_nm", "sphericity", "coverage", "membrane_z", "likelihood_gain", "shift_nm")
    features = {name: np.full(len(vesicles), np.nan) for name in (*names, *PATCH_FEATURES, "relative_depth")}
    for row in free:
        fit = work.fits[row]
        if fit is None:
            continue
        features["coverage"][row] = fit.coverage
        features["membrane_z"][row] = fit.significance
        features["likelihood_gain"][row] = joint[row].gain if row in joint else np.nan
        features["relative_depth"][row] = relative_depth(joint[row]) if row in joint else np.nan
        for name, value in patch_features(fit).items():
            features[name][row] = value
        features["shift_nm"][row] = np.linalg.norm(work.centres[row] - work.start_centres[row]) * voxel_nm
        if not fitted[row]:
            continue
        covariance = joint[row].covariance if row in joint else fit.covariance_nm2
        factors = np.ones(2)
        if row in joint:
            factors = np.array(_JOINT_SIGMAS) * np.sqrt(1 + _FAINT_GAIN / max(joint[row].gain, 1.0))
        columns["sigma_centres_vox"][row] = factors[0] * np.sqrt(np.trace(covariance[:3, :3]) / 3) / voxel_nm
        # The edge is as uncertain for all vesicles of a tomogram alike.
        columns["sigma_radii_vox"][row] = np.hypot(factors[1] * np.sqrt(covariance[3, 3]), OUTER_SD_NM) / voxel_nm
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
