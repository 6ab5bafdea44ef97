"""Fit spheres to the membranes on the tomogram, to a fraction of a voxel.

Three passes over all vesicles. On rays from each start sphere, with a general membrane profile: robust, and it reaches
far. Then all spheres together as one model of the tomogram (`joint`), with the profile learned from it: exact. Last, on
rays again, what the judgement needs to know of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.features import measure, membrane_thickness
from deepvesicle.fitting.profile import (
    HALF_BILAYER_NM,
    Floats,
    PolarTable,
    direction_set,
    landmarks,
    patch_weights,
    radial_mean,
    read_box,
    sample_polar,
    working_binning,
)
from deepvesicle.fitting.shell_fit import (
    SLACK_NM,
    TEMPLATE_REACH_NM,
    ShellFit,
    Template,
    coarse_search,
    fit_shell,
    learned_template,
    match_tables,
)
from deepvesicle.fitting.tilts import resolved
from deepvesicle.grid import Tomogram
from deepvesicle.settings import RefinementSettings
from deepvesicle.vesicles import Status, Vesicles

#: A fit that moves the centre by more than this share of the start radius has left its vesicle.
MAX_MOVE = 0.6
#: Largest change of the radius, as a factor.
MAX_SCALE = 1.5
#: Membranes whose depth is less than this many standard errors were not found. Four parameters chosen to make it as
#: deep as possible reach about 4 in noise alone.
MIN_SIGNIFICANCE = 5.0
#: Rounds with the profile learned from the tomogram.
_LEARNED_ROUNDS = 1
_FITTED_COLUMNS = (
    "centres_vox",
    "radii_vox",
    "membrane_radii_vox",
    "thickness_vox",
    "sigma_centres_vox",
    "sigma_radii_vox",
)
#: Where profiles are compared, about the middle of the membrane.
_PROFILE_NM = np.arange(-14.0, 14.01, 0.25)


@dataclass
class _Work:
    """The state of the fits, lengths in voxels; one row a vesicle."""

    centres: Floats
    radii: Floats  # middle of the membrane
    start_centres: Floats
    start_radii: Floats
    half: float  # half thickness of a membrane
    fits: list[ShellFit | None]
    profiles: Floats  # (n, len(_PROFILE_NM)), of the last round
    profile_halves: Floats  # (n, 2, len(_PROFILE_NM)): the two halves of the patches

    @classmethod
    def starting(cls, centres: Floats, radii: Floats, half: float) -> _Work:
        """Nothing fitted yet."""
        n = len(centres)
        profiles = np.full((n, len(_PROFILE_NM)), np.nan)
        halves = np.full((n, 2, len(_PROFILE_NM)), np.nan)
        return cls(centres.copy(), radii.copy(), centres, radii, half, [None] * n, profiles, halves)

    def has_run_away(self, row: int) -> bool:
        """Whether a fit has left its start sphere, or has no dark membrane."""
        fit = self.fits[row]
        away = np.linalg.norm(self.centres[row] - self.start_centres[row]) > MAX_MOVE * self.start_radii[row]
        scale = self.radii[row] / self.start_radii[row]
        return bool(away or not 1 / MAX_SCALE < scale < MAX_SCALE or (fit is not None and fit.amplitude <= 0))


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
        Features: see `features.measure`, and ``fit_residual_nm``, ``sphericity``, ``coverage``, ``membrane_z``,
        ``shift_nm``, ``fit_failed``.
    """
    settings = resolved(tomogram, settings)
    voxel_nm = tomogram.grid.voxel_nm
    half = HALF_BILAYER_NM / voxel_nm
    known = np.where(np.isfinite(vesicles.membrane_radii_vox), vesicles.membrane_radii_vox, vesicles.radii_vox - half)
    work = _Work.starting(vesicles.centres_vox, np.maximum(known, 1.0), half)
    rejected = vesicles.has_status(Status.REJECTED)
    fixed = vesicles.has_status(Status.MANUAL)
    free = [int(row) for row in np.flatnonzero(~fixed & ~rejected)]
    template = _fit_in_rounds(tomogram, work, free, ~rejected, settings, map, progress)
    failed = _failures(work, free, voxel_nm)
    thickness = membrane_thickness(_PROFILE_NM, work.profiles, work.profile_halves, _trust(work), voxel_nm) / voxel_nm
    return _table(tomogram, vesicles, work, free, failed, thickness, settings, template)


def fit_shells(
    tomogram: Tomogram,
    centres_vox: Floats,
    radii_vox: Floats,
    count: int,
    settings: RefinementSettings,
    mapping: Callable[..., Iterable[None]] = map,
) -> tuple[Floats, Floats]:
    """Fit some spheres among others, and nothing else: the bare rounds of `refine`.

    Parameters
    ----------
    tomogram : Tomogram
    centres_vox, radii_vox : arrays (N, 3) and (N,)
        Start spheres, to the middle of the membrane.
    count : int
        The first so many are fitted; the others are neighbours.
    settings : RefinementSettings
    mapping : callable
        `map`, or the same of a pool of threads.

    Returns
    -------
    centres_vox, radii_vox : arrays (count, 3) and (count,)
        Spheres whose fit failed or ran away are where they were.
    """
    settings = resolved(tomogram, settings)
    work = _Work.starting(centres_vox, radii_vox, HALF_BILAYER_NM / tomogram.grid.voxel_nm)
    _fit_in_rounds(tomogram, work, list(range(count)), np.ones(len(centres_vox), dtype=bool), settings, mapping, None)
    for row in range(count):
        if work.fits[row] is None or work.has_run_away(row):
            work.centres[row], work.radii[row] = work.start_centres[row], work.start_radii[row]
    return work.centres[:count], work.radii[:count]


def _fit_in_rounds(
    tomogram: Tomogram,
    work: _Work,
    free: list[int],
    present: NDArray[np.bool_],
    settings: RefinementSettings,
    mapping: Callable[..., Iterable[None]],
    progress: Callable[[int, int], None] | None,
) -> Template:
    """All fits, first with a general membrane profile, then with that learned from the tomogram, which is returned."""
    voxel_nm = tomogram.grid.voxel_nm
    template = Template.generic()
    total = len(free) * (_LEARNED_ROUNDS + 1)
    for turn in range(_LEARNED_ROUNDS + 1):
        places, sizes = work.centres.copy(), work.radii.copy()
        sizes += 0.0 if turn == 0 else work.half + 1.5 / voxel_nm

        def fit(
            row: int, turn: int = turn, places: Floats = places, sizes: Floats = sizes, template: Template = template
        ) -> None:
            masks = _neighbours(places, sizes, row, present)
            _fit_one(tomogram, work, row, masks, template, settings, coarse=turn == 0, last=turn == _LEARNED_ROUNDS)

        for done, _ in enumerate(mapping(fit, free)):
            if progress is not None:
                progress(turn * len(free) + done + 1, total)
        template = _learn(work, free, template)
    return template


def _neighbours(places: Floats, radii: Floats, row: int, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Spheres (k, 3), (k,) that hide a part of the tomogram from the fit of a row: those next to it.

    Spheres that share their centre with it are second proposals of one vesicle, or nested: not neighbours.
    """
    distance = np.linalg.norm(places - places[row], axis=1)
    near = present & (distance < 2.0 * radii[row] + radii) & (distance > np.maximum(0.6 * radii[row], radii))
    near[row] = False
    return places[near], radii[near]


def _direction_count(radius_work_vox: float) -> int:
    """As many directions as leave about 1.5 working voxels between them on the membrane, in steps of a factor 1.4."""
    wanted = 4 * np.pi * radius_work_vox**2 / 2
    return int(2 ** (np.clip(np.round(2 * np.log2(max(wanted, 1))), 18, 23) / 2))


def _fit_one(
    tomogram: Tomogram,
    work: _Work,
    row: int,
    masks: tuple[Floats, Floats],
    template: Template,
    settings: RefinementSettings,
    *,
    coarse: bool,
    last: bool,
) -> None:
    """Fit one vesicle from its place in `work`, and put the result there."""
    voxel = tomogram.grid.voxel_nm
    binning = working_binning(voxel)
    centre, radius = work.centres[row].copy(), float(work.radii[row])
    count = _direction_count(radius / binning)
    set_ = direction_set(count)
    resolved, shares = patch_weights(count, settings.tilts_deg, settings.tilt_axis)
    margin = (TEMPLATE_REACH_NM + 2 * SLACK_NM) / voxel
    reach = radius * (1.75 if coarse else 1.1) + margin
    box = read_box(tomogram, centre, reach + binning, binning)
    work.fits[row] = None
    if box is None:
        return
    if coarse:
        radius_nm = radius * voxel
        step = max(0.75 * voxel * binning, 0.025 * radius_nm)
        radii_nm = np.arange(0.25 * radius_nm, 1.75 * radius_nm + TEMPLATE_REACH_NM, step)
        table = sample_polar(box, centre, radii_nm / voxel, set_, masks=masks)
        shifts = np.arange(0.35, 1.76, 0.03) * radius_nm
        wide = template.blurred(0.05 * radius_nm)
        tables = match_tables(table, radii_nm - radius_nm, shifts - radius_nm, wide, radius_nm)
        displacement, found = coarse_search(tables, set_.patches, resolved, radius_nm)
        fit = fit_shell(
            tables, set_.patches, resolved, shares, displacement, found, (np.zeros(3), radius_nm, radius_nm), steps=6
        )
        if np.linalg.norm(fit.displacement_nm) < MAX_MOVE * radius_nm and fit.amplitude > 0:
            displacement, found = fit.displacement_nm, fit.radius_nm
        centre, radius = centre + displacement / voxel, found / voxel
    step = min(0.5 * voxel * binning, 1.0)
    window = np.arange(-np.ceil((TEMPLATE_REACH_NM + SLACK_NM) / step), np.ceil(14.0 / step) + 1) * step
    shifts = np.arange(-SLACK_NM, SLACK_NM + 1e-9, 0.25)
    start_nm = work.start_radii[row] * voxel
    limit = max(1, settings.max_iterations)
    for _ in range(limit):
        radii_nm = window + radius * voxel
        # Rays converge inwards: samples there are no new information.
        weights = np.clip(radii_nm / (0.7 * radius * voxel), 0, 1) ** 2
        table = sample_polar(box, centre, radii_nm / voxel, set_, weights=weights, masks=masks)
        tables = match_tables(table, window, shifts, template.blurred(0.02 * radius * voxel), radius * voxel)
        offset = (work.start_centres[row] - centre) * voxel
        fit = fit_shell(
            tables, set_.patches, resolved, shares, np.zeros(3), radius * voxel, (offset, start_nm, start_nm)
        )
        if not (np.isfinite(fit.radius_nm) and np.all(np.isfinite(fit.displacement_nm))):
            return
        moved = float(max(np.abs(fit.displacement_nm).max(), abs(fit.radius_nm - radius * voxel)))
        centre, radius = centre + fit.displacement_nm / voxel, fit.radius_nm / voxel
        work.fits[row] = fit
        work.centres[row], work.radii[row] = centre, radius
        if work.has_run_away(row):
            return  # `_failures` finds the reason from how far it went
        # A displacement this small is exact within one table.
        if moved < (0.3 if last else 1.0):
            break
    _store_profiles(work, row, table, window - (radius * voxel - (radii_nm[0] - window[0])), fit)


def _store_profiles(work: _Work, row: int, table: PolarTable, offsets_nm: Floats, fit: ShellFit) -> None:
    """Keep the mean profile of a vesicle about the middle of its membrane, and those of two halves of its patches."""
    even = np.arange(len(table.patches)) % 2 == 0
    for target, weights in (
        (work.profiles[row], fit.patch_weights),
        (work.profile_halves[row, 0], fit.patch_weights * even),
        (work.profile_halves[row, 1], fit.patch_weights * ~even),
    ):
        profile, total = radial_mean(table, weights)
        good = total > 0.02 * max(float(total.max()), 1e-12)
        target[:] = np.interp(_PROFILE_NM, offsets_nm[good], profile[good]) if good.sum() > 3 else np.nan


def _trust(work: _Work) -> Floats:
    """Weight of each vesicle's profile in means over vesicles: the squared significance of its membrane."""
    return np.array(
        [0.0 if f is None or f.significance < MIN_SIGNIFICANCE else min(f.significance, 60.0) ** 2 for f in work.fits]
    ) * np.all(np.isfinite(work.profiles), axis=1)


def _mean_profile(work: _Work) -> Floats | None:
    """Mean of the vesicles' profiles, each with its membrane's depth set to 1."""
    trust = _trust(work)
    rows = np.flatnonzero(trust > 0)
    if not len(rows):
        return None
    ends = np.abs(_PROFILE_NM) > TEMPLATE_REACH_NM
    scaled = work.profiles[rows] - work.profiles[rows][:, ends].mean(axis=1, keepdims=True)
    depth = np.array([fit.amplitude for fit in (work.fits[r] for r in rows) if fit is not None])
    return np.asarray(np.average(scaled / depth[:, None], axis=0, weights=trust[rows]))


def _learn(work: _Work, rows: list[int], old: Template) -> Template:
    """The template from all fits so far, drawn to the general one where there are few."""
    profile = _mean_profile(work)
    if profile is None:
        return old
    middle = landmarks(_PROFILE_NM, profile).middle_nm
    if not np.isfinite(middle):
        return old
    new = learned_template(_PROFILE_NM - middle, profile)
    evidence = float(_trust(work).sum())
    share = evidence / (evidence + 400.0)
    return Template(new.offsets_nm, share * new.values + (1 - share) * Template.generic().values)


def _failures(work: _Work, rows: list[int], voxel_nm: float) -> dict[int, str]:
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
        elif fit.amplitude <= 0 or fit.significance < needed:
            reasons[row] = f"no membrane found (contrast {fit.significance:.1f} standard errors)"
        if row in reasons:
            work.centres[row], work.radii[row] = work.start_centres[row], work.start_radii[row]
    return reasons


def _table(
    tomogram: Tomogram,
    vesicles: Vesicles,
    work: _Work,
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
    names = ("fit_residual_nm", "sphericity", "coverage", "membrane_z", "shift_nm")
    features = {name: np.full(len(vesicles), np.nan) for name in names}
    for row in free:
        fit = work.fits[row]
        if fit is None:
            continue
        features["coverage"][row] = fit.coverage
        features["membrane_z"][row] = fit.significance
        features["shift_nm"][row] = np.linalg.norm(work.centres[row] - work.start_centres[row]) * voxel_nm
        if not fitted[row]:
            continue
        columns["sigma_centres_vox"][row] = np.sqrt(np.trace(fit.covariance_nm2[:3, :3]) / 3) / voxel_nm
        columns["sigma_radii_vox"][row] = np.sqrt(fit.covariance_nm2[3, 3]) / voxel_nm
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
        tomogram, result, settings, _PROFILE_NM, template, profiles, skip=vesicles.has_status(Status.REJECTED)
    )
    return result.with_features(**features, **measured)
