"""Fit ellipsoids to vesicles whose spheres are known, and flag those that are clearly not round.

An extra to `refine`, whose spheres stay as they are. Noise makes the longest axis of a sphere come out longer than the
shortest, and the missing wedge leaves the extent along z open. A vesicle is therefore flagged by a test against all
spheres, and another against all ellipsoids of a tolerated elongation, both with the whole covariance of the shape. What
all vesicles are longer or shorter along the beam is put down to the tomogram (wedge, blur, a wrong step in z).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaincc

from deepvesicle.fitting.ellipsoid_fit import (
    EllipsoidFit,
    Tilt,
    fit_ellipsoid,
    matrix,
    quadratic_terms,
    resolved_normals,
    start_shifts,
    start_state,
)
from deepvesicle.fitting.profile import (
    HALF_BILAYER_NM,
    Floats,
    PolarTable,
    direction_set,
    landmarks,
    read_box,
    sample_polar,
    working_binning,
)
from deepvesicle.fitting.rays import neighbours
from deepvesicle.fitting.shell_fit import TEMPLATE_REACH_NM, MatchTables, Template, learned_template, match_tables
from deepvesicle.grid import Tomogram
from deepvesicle.settings import RefinementSettings
from deepvesicle.spheres import mirrored_directions
from deepvesicle.vesicles import Status, Vesicles

#: A vesicle is flagged if it is certainly longer in some direction than in another by more than this factor.
MAX_ELONGATION = 1.2
#: How certainly, in standard deviations.
MIN_SIGMAS = 2.0
#: ... and if a sphere would look like that more seldom than this.
MAX_ROUND_P = 0.001
#: Membranes whose depth is less than this many standard errors were not found: nine parameters chosen to make it as
#: deep as possible reach 5 in noise alone, and seldom 7.
MIN_SIGNIFICANCE = 8.0
#: In noise the fit of a sphere now and then holds on to something beside it: fainter membranes than this flag nothing.
MIN_FLAGGING = 10.0
#: Names of the features that are added.
FEATURES = (
    "semi_axis_a_nm",
    "semi_axis_b_nm",
    "semi_axis_c_nm",
    "axis_a_z",
    "axis_a_y",
    "axis_a_x",
    "eccentricity",
    "elongation",
    "sigma_elongation",
)
#: With fewer vesicles nothing is known of what they have in common.
MIN_POPULATION = 8
#: Range of the tilt where it is not known, degrees.
_USUAL_TILT_DEG = (-60.0, 60.0)
#: Directions along which each vesicle is sampled.
_DIRECTIONS = 512
#: How far a semi-axis may lie from the sphere's radius: shares of it, inwards and outwards, and nm beyond.
_INWARDS, _OUTWARDS, _BEYOND_NM = 0.4, 0.6, 2.0
#: What is masked around neighbours beyond their outer radius, nm.
_NEIGHBOUR_MARGIN_NM = 1.5
#: Blur of the membrane's profile while the shape is searched for and fitted, as share of the radius.
_START_BLUR, _BLUR = 0.06, 0.03
#: The membrane's profile is learned from at most this many vesicles.
_MAX_LEARNED = 40
#: Evidence (squared significance) at which a learned profile counts as much as the general one.
_LEARNED_EVIDENCE = 400.0
#: How far a fitted centre and mean radius may go from those of the sphere, as shares of the radius.
_MAX_MOVE, _MAX_SCALE = 0.4, 1.5
_PROFILE_NM: Floats = np.arange(-14.0, 14.01, 0.25)


@dataclass(frozen=True)
class _Rays:
    """What was sampled around a vesicle: `radius_nm` is that of the middle of its sphere's membrane."""

    table: PolarTable
    window_nm: Floats
    shifts_nm: Floats
    radius_nm: float


def fit_ellipsoids(
    tomogram: Tomogram,
    vesicles: Vesicles,
    settings: RefinementSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Vesicles:
    """Fit an ellipsoid to the membrane of each vesicle, beginning with its sphere.

    Parameters
    ----------
    tomogram : Tomogram
        May be memory-mapped: only boxes around the vesicles are read.
    vesicles : Vesicles
        Fitted spheres on the tomogram's grid. REFINED, DOUBTFUL and MANUAL rows are fitted.
    settings : RefinementSettings
        Tilt range (±60 degrees where it is None) and axis.
    progress : callable, optional
        Called with the number of fits done and the total.

    Returns
    -------
    Vesicles
        The same rows with the same spheres, and the features (NaN where nothing was fitted)
        ``semi_axis_a_nm`` >= ``semi_axis_b_nm`` >= ``semi_axis_c_nm``, to the membrane's outer edge;
        ``axis_a_z``, ``axis_a_y``, ``axis_a_x``, the unit direction of the longest, its largest part positive;
        ``eccentricity`` = sqrt(1 - c^2 / a^2) and ``elongation`` = a / c, as fitted: noise makes those of a sphere
        larger than 0 and 1; ``sigma_elongation``, one standard deviation of it, what the missing wedge leaves open
        included. REFINED rows that are clearly not round become DOUBTFUL, with the axes as the reason; DOUBTFUL ones
        get the reason added. A stretch along the beam that they share (eight or more) flags none. MANUAL and REJECTED
        rows keep status and reason.
    """
    tilt = (settings.tilt_range_deg or _USUAL_TILT_DEG, settings.tilt_axis)
    rows = [int(row) for row in np.flatnonzero(vesicles.accepted)]
    voxel_nm = tomogram.grid.voxel_nm
    half = np.where(np.isfinite(vesicles.thickness_vox), vesicles.thickness_vox * voxel_nm / 2, HALF_BILAYER_NM)
    middle = vesicles.membrane_radii_vox * voxel_nm
    middle = np.maximum(np.where(np.isfinite(middle), middle, vesicles.radii_nm - half), 2 * voxel_nm)
    present = ~vesicles.has_status(Status.REJECTED)
    outer = vesicles.radii_vox + _NEIGHBOUR_MARGIN_NM / voxel_nm

    def sampled(row: int) -> _Rays | None:
        hidden = neighbours(vesicles.centres_vox, outer, row, present)
        return _sample(tomogram, vesicles.centres_vox[row], float(middle[row]), hidden)

    kept = {row: sampled(row) for row in rows[:: max(1, -(-len(rows) // _MAX_LEARNED))]}
    template = _learn(list(kept.values()), tilt)
    features = {name: np.full(len(vesicles), np.nan) for name in FEATURES}
    fits: dict[int, EllipsoidFit] = {}
    for done, row in enumerate(rows):
        rays = kept[row] if row in kept else sampled(row)
        fit = _fit(rays, template, tilt)
        if fit is not None:
            fits[row] = fit
            for name, value in zip(FEATURES, _describe(fit, float(half[row])), strict=True):
                features[name][row] = value
        if progress is not None:
            progress(done + 1, len(rows))
    return _flagged(vesicles.with_features(**features), fits)


def _flagged(vesicles: Vesicles, fits: dict[int, EllipsoidFit]) -> Vesicles:
    """Make rows DOUBTFUL where that may be; what an earlier call said of roundness is replaced."""
    rows = np.zeros(len(vesicles), dtype=bool)
    common = _common_shape(list(fits.values()))
    for row, fit in fits.items():
        rows[row] = _is_not_round(fit, common)
    axes = zip(*(vesicles.features[name] for name in FEATURES[:3]), strict=True)
    reasons = [f"not round: axes {a:.1f}, {b:.1f} and {c:.1f} nm" for a, b, c in axes]
    may = vesicles.has_status(Status.REFINED, Status.DOUBTFUL)
    kept = tuple(
        "; ".join(part for part in old.split("; ") if not part.startswith("not round: ")) if m and r else old
        for old, m, r in zip(vesicles.reasons, may, rows, strict=True)
    )
    return vesicles.replace(reasons=kept).with_status(rows & may, Status.DOUBTFUL, reasons)


def _sample(tomogram: Tomogram, centre_vox: Floats, radius_nm: float, masks: tuple[Floats, Floats]) -> _Rays | None:
    """Sample the tomogram about a sphere; None where all of it lies outside."""
    voxel = tomogram.grid.voxel_nm
    binning = working_binning(voxel)
    step = min(0.5 * voxel * binning, 1.0)
    inwards = np.ceil(_INWARDS * radius_nm + _BEYOND_NM)
    outwards = np.ceil(_OUTWARDS * radius_nm + _BEYOND_NM)
    window = np.arange(-inwards - TEMPLATE_REACH_NM, outwards + TEMPLATE_REACH_NM, step)
    box = read_box(tomogram, centre_vox, (radius_nm + window[-1]) / voxel + binning, binning)
    if box is None:
        return None
    radii_nm = window + radius_nm
    # Rays converge inwards: samples there are no new information.
    weights = np.clip(radii_nm / (0.7 * radius_nm), 0, 1) ** 2
    table = sample_polar(box, centre_vox, radii_nm / voxel, direction_set(_DIRECTIONS), weights=weights, masks=masks)
    return _Rays(table, window, np.arange(-inwards, outwards + 1e-9, 0.5), radius_nm)


def _fit(rays: _Rays | None, template: Template, tilt: Tilt) -> EllipsoidFit | None:
    """Fit an ellipsoid; None where no membrane is found, or too little of it."""
    if rays is None:
        return None
    radius = rays.radius_nm

    def tables(blur: float, shifts_nm: Floats) -> MatchTables:
        # Blurs in steps, so that vesicles of nearly one size share their templates.
        blurred = template.blurred(round(blur * radius * 5) / 5)
        return match_tables(rays.table, rays.window_nm, shifts_nm, blurred, radius)

    set_ = direction_set(_DIRECTIONS)
    resolved = resolved_normals(set_.patches, *tilt)
    start = start_state(tables(_START_BLUR, start_shifts(radius)), set_.patches, resolved, radius)
    fit = fit_ellipsoid(tables(_BLUR, rays.shifts_nm), set_, tilt, start, radius)
    if fit is None or not np.all(np.isfinite(fit.covariance)) or fit.significance < MIN_SIGNIFICANCE:
        return None
    moved = float(np.linalg.norm(fit.displacement_nm)) / radius
    scaled = abs(float(fit.shape[0]) - np.log(radius))
    return None if moved > _MAX_MOVE or scaled > np.log(_MAX_SCALE) else fit


def _learn(found: list[_Rays | None], tilt: Tilt) -> Template:
    """The mean profile across membranes fitted with the general one, drawn to that where there are few."""
    total, evidence = np.zeros(len(_PROFILE_NM)), 0.0
    for rays in found:
        fit = _fit(rays, Template.generic(), tilt)
        profile = None if rays is None or fit is None else _profile(rays, fit)
        if fit is not None and profile is not None:
            trust = min(fit.significance, 60.0) ** 2
            total += trust * profile / fit.amplitude
            evidence += trust
    generic = Template.generic()
    middle = landmarks(_PROFILE_NM, total / evidence).middle_nm if evidence > 0 else np.nan
    if not np.isfinite(middle):
        return generic
    new = learned_template(_PROFILE_NM - middle, total / evidence)
    share = evidence / (evidence + _LEARNED_EVIDENCE)
    return Template(new.offsets_nm, share * new.values + (1 - share) * generic.values)


def _profile(rays: _Rays, fit: EllipsoidFit) -> Floats | None:
    """Mean profile about a fitted surface, its ends at 0; None where it has gaps."""
    window, table = rays.window_nm, rays.table
    place = (fit.distance_nm[:, None] - rays.radius_nm + _PROFILE_NM - window[0]) / (window[1] - window[0])
    column = np.clip(np.rint(place), 0, len(window) - 1).astype(np.intp)
    inside = (place >= 0) & (place <= len(window) - 1)
    means = np.take_along_axis(table.means, column, axis=1)
    weights = np.take_along_axis(table.counts, column, axis=1) * inside * fit.patch_weights[:, None]
    total = weights.sum(axis=0)
    if total.min() < 0.02 * max(float(total.max()), 1e-12):
        return None
    profile = (weights * means).sum(axis=0) / total
    ends = np.abs(_PROFILE_NM) > TEMPLATE_REACH_NM
    return np.asarray(profile - profile[ends].mean())


def _describe(fit: EllipsoidFit, half_nm: float) -> Floats:
    """The features of a fit, in the order of `FEATURES`."""
    logs, axes = np.linalg.eigh(matrix(fit.shape))
    a, b, c = np.exp(logs[::-1]) + half_nm
    longest = axes[:, 2] * np.sign(axes[np.argmax(np.abs(axes[:, 2])), 2])
    # Axes swap places within the noise, so that derivatives say little: points about the fit, spread as its
    # covariance, are carried through (the unscented transform; Julier and Uhlmann, Proc. SPIE 3068 (1997) 182-193).
    variances, directions = np.linalg.eigh(fit.covariance[3:, 3:])
    spread = (directions * np.sqrt(len(variances) * np.maximum(variances, 0))).T
    lengths = np.exp(np.linalg.eigvalsh(matrix(np.concatenate([fit.shape + spread, fit.shape - spread])))) + half_nm
    ratios = lengths[:, 2] / lengths[:, 0]
    sigma = np.sqrt(np.mean((ratios - a / c) ** 2))
    return np.array([a, b, c, *longest, np.sqrt(max(1 - (c / a) ** 2, 0.0)), a / c, sigma])


def _common_shape(fits: list[EllipsoidFit]) -> Floats:
    """What the vesicles of a tomogram share (5,): the median stretch along the beam; 0 where they are few."""
    common = np.zeros(5)
    if len(fits) >= MIN_POPULATION:
        common[0] = np.median([fit.shape[1] for fit in fits])
    return common


def _is_not_round(fit: EllipsoidFit, common: Floats) -> bool:
    """Whether no sphere looks like this, and no pair of directions within `MAX_ELONGATION` does either."""
    if fit.significance < MIN_FLAGGING:
        return False
    shape, covariance = fit.shape[1:] - common, fit.covariance[4:, 4:]
    p = float(gammaincc(len(shape) / 2, shape @ np.linalg.pinv(covariance) @ shape / 2))
    lattice = mirrored_directions(192)
    terms = quadratic_terms(lattice[lattice[:, 0] > 0])[:, 1:]
    lengths, spread = terms @ shape, terms @ covariance @ terms.T
    variance = np.diag(spread)[:, None] + np.diag(spread)[None, :] - 2 * spread
    longer = lengths[:, None] - lengths[None, :] - np.log(MAX_ELONGATION)
    sigmas = longer / np.sqrt(np.maximum(variance, 1e-12))
    return p < MAX_ROUND_P and float(sigmas.max()) > MIN_SIGMAS
