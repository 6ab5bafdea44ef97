"""Judge fitted spheres: which are doubtful, which are not vesicles, and why.

Lenient on purpose: a true vesicle that is lost costs the user more than a doubtful one that is shown. DOUBTFUL rows
count as vesicles; REJECTED rows keep everything they had, and their reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

from deepvesicle.fitting.evidence import MASK_SCORE
from deepvesicle.settings import OutlierSettings, ProposalSettings
from deepvesicle.spheres import inside_fractions
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: A sphere the network is this sure of is not rejected for its looks; nor is one without a score, which a person
#: placed.
CONFIDENT_SCORE = 0.9
#: A sphere without a membrane and with a score below this is rejected.
LOW_SCORE = 0.5
#: Significance below which there is clearly no membrane, and below which it is in doubt (standard errors).
NO_MEMBRANE_Z, WEAK_MEMBRANE_Z = 3.0, 5.0
#: Lumen minus membrane, in SDs of the lumen, below which a sphere to which no membrane could be fitted is solid.
SOLID_CONTRAST = -0.5
#: Two fits whose centres are closer than this share of the larger radius are one vesicle, unless nested.
DUPLICATE_DISTANCE = 0.6
#: A sphere inside another and smaller than this share of its radius is a vesicle within a vesicle.
NESTED_SIZE = 0.6
#: With fewer spheres there is no telling which is unusual.
MIN_POPULATION = 4


def judge(vesicles: Vesicles, settings: OutlierSettings, proposal: ProposalSettings) -> Vesicles:
    """Set DOUBTFUL and REJECTED with their reasons, by size, place, duplicates, overlap, membrane and likeness.

    Parameters
    ----------
    vesicles : Vesicles
        As `refine` returns them; features that are missing or NaN are not judged.
    settings : OutlierSettings
    proposal : ProposalSettings
        Allowed sizes and the least share inside the volume.

    Returns
    -------
    Vesicles
        The same rows with new statuses and reasons, and the feature ``likeness_p``: the chi-square p of the robust
        Mahalanobis distance from the other spheres (1 where it was not tested). MANUAL and REJECTED rows keep both.
    """
    result = vesicles
    rows, reasons = _size(result, proposal)
    result = _mark(result, rows, Status.REJECTED, reasons)
    rows, reasons = _edge(result, proposal)
    result = _mark(result, rows, Status.REJECTED, reasons)
    rows, reasons = _duplicates(result)
    result = _mark(result, rows, Status.REJECTED, reasons)
    rows, reasons = _overlaps(result, settings)
    result = _mark(result, rows, Status.DOUBTFUL, reasons)
    result = _scores(result, settings)
    result = _membranes(result)
    return _likeness(result, settings)


def _mark(vesicles: Vesicles, rows: Mask, status: Status, reasons: list[str]) -> Vesicles:
    """Set a status where it may be set, not repeating a reason that is already there."""
    rows = rows & ~vesicles.has_status(Status.MANUAL, Status.REJECTED)
    texts = ["" if new in old else new for new, old in zip(reasons, vesicles.reasons, strict=True)]
    return vesicles.with_status(rows, status, texts)


def _feature(vesicles: Vesicles, name: str) -> Floats:
    """A feature, NaN where it is not known."""
    return np.asarray(vesicles.features.get(name, np.full(len(vesicles), np.nan)), dtype=float)


def _size(vesicles: Vesicles, proposal: ProposalSettings) -> tuple[Mask, list[str]]:
    """Too small or too large by more than two sigma of the fit."""
    radius = vesicles.radii_nm
    slack = 2 * np.nan_to_num(vesicles.grid.length_to_nm(vesicles.sigma_radii_vox))
    small = radius + slack < proposal.min_radius_nm
    large = radius - slack > proposal.max_radius_nm
    reasons = [
        f"radius {r:.1f} nm is below {proposal.min_radius_nm:g} nm"
        if s
        else f"radius {r:.1f} nm is above {proposal.max_radius_nm:g} nm"
        for r, s in zip(radius, small, strict=True)
    ]
    return small | large, reasons


def _edge(vesicles: Vesicles, proposal: ProposalSettings) -> tuple[Mask, list[str]]:
    """Too little of the sphere lies inside the volume."""
    fraction = inside_fractions(vesicles.grid, vesicles.centres_vox, vesicles.radii_vox)
    outside = ~vesicles.grid.contains(vesicles.centres_vox)
    reasons = [
        "the centre lies outside the tomogram" if o else f"only {100 * f:.0f} % of it lies in the tomogram"
        for f, o in zip(fraction, outside, strict=True)
    ]
    return outside | (fraction < proposal.min_inside_fraction), reasons


def _pairs(vesicles: Vesicles) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Pairs of spheres not rejected that touch, first < second, and the distance of their centres, voxels."""
    from scipy.spatial import cKDTree

    rows = np.flatnonzero(~vesicles.has_status(Status.REJECTED))
    if len(rows) < 2:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp), np.zeros(0)
    radii = vesicles.radii_vox[rows]
    pairs = cKDTree(vesicles.centres_vox[rows]).query_pairs(2 * float(radii.max()), output_type="ndarray")
    first, second = rows[pairs.min(axis=1)], rows[pairs.max(axis=1)]
    distance = np.linalg.norm(vesicles.centres_vox[first] - vesicles.centres_vox[second], axis=1)
    touch = distance < vesicles.radii_vox[first] + vesicles.radii_vox[second]
    order = np.lexsort((second[touch], first[touch]))
    return first[touch][order], second[touch][order], distance[touch][order]


def shared_volume(distance: Floats, radius_a: Floats, radius_b: Floats) -> Floats:
    """Volume that two balls share; arrays (n,)."""
    d, big, small = np.maximum(distance, 1e-12), np.maximum(radius_a, radius_b), np.minimum(radius_a, radius_b)
    lens = np.pi * (big + small - d) ** 2 * (d * d + 2 * d * (big + small) - 3 * (big - small) ** 2) / (12 * d)
    return np.where(d >= big + small, 0.0, np.where(d <= big - small, 4 / 3 * np.pi * small**3, lens))


def _nested(vesicles: Vesicles, first: NDArray[np.intp], second: NDArray[np.intp], distance: Floats) -> Mask:
    """Pairs of which one is a vesicle of its own inside the other: much smaller, enclosed, and with a membrane."""
    radii = vesicles.radii_vox
    inner = np.where(radii[first] <= radii[second], first, second)
    outer = np.where(radii[first] <= radii[second], second, first)
    small = radii[inner] < NESTED_SIZE * radii[outer]
    enclosed = distance + radii[inner] < 1.05 * radii[outer]
    own = np.nan_to_num(_feature(vesicles, "fit_failed"))[inner] == 0
    return small & enclosed & own


def _duplicates(vesicles: Vesicles) -> tuple[Mask, list[str]]:
    """The worse of two fits to one vesicle."""
    first, second, distance = _pairs(vesicles)
    radii = vesicles.radii_vox
    larger, smaller = np.maximum(radii[first], radii[second]), np.minimum(radii[first], radii[second])
    close = distance < DUPLICATE_DISTANCE * larger
    shared = shared_volume(distance, larger, smaller) > 0.5 * 4 / 3 * np.pi * smaller**3
    same = close & shared & ~_nested(vesicles, first, second, distance)
    manual = vesicles.has_status(Status.MANUAL)
    failed = np.nan_to_num(_feature(vesicles, "fit_failed")) > 0
    score = np.nan_to_num(vesicles.scores, nan=1.0)
    depth = np.nan_to_num(_feature(vesicles, "membrane_z"))
    quality = [
        (bool(m), not f, round(float(s), 1), float(z)) for m, f, s, z in zip(manual, failed, score, depth, strict=True)
    ]
    rejected = np.zeros(len(vesicles), dtype=bool)
    reasons = [""] * len(vesicles)
    # The best first, so that in a chain of duplicates the winner of one pair is not the loser of another.
    pairs = sorted(
        zip(first[same], second[same], strict=True), key=lambda p: max(quality[p[0]], quality[p[1]]), reverse=True
    )
    for a, b in pairs:
        winner, loser = (a, b) if quality[a] >= quality[b] else (b, a)
        if not rejected[winner] and not rejected[loser] and not manual[loser]:
            rejected[loser] = True
            reasons[loser] = f"duplicate of vesicle {vesicles.ids[winner]}"
    return rejected, reasons


def _overlaps(vesicles: Vesicles, settings: OutlierSettings) -> tuple[Mask, list[str]]:
    """Spheres that reach into one another further than membranes can."""
    first, second, distance = _pairs(vesicles)
    radii = vesicles.radii_vox
    depth_nm = vesicles.grid.length_to_nm(radii[first] + radii[second] - distance)
    deep = (depth_nm > settings.max_overlap_nm) & ~_nested(vesicles, first, second, distance)
    failed = np.nan_to_num(_feature(vesicles, "fit_failed")) > 0
    worst: dict[int, tuple[float, int]] = {}
    for a, b, depth in zip(first[deep], second[deep], depth_nm[deep], strict=True):
        for one, other in ((int(a), int(b)), (int(b), int(a))):
            # A sphere that found no membrane casts no doubt on one that did.
            if failed[other] and not failed[one]:
                continue
            worst[one] = max(worst.get(one, (0.0, 0)), (float(depth), other))
    rows = np.zeros(len(vesicles), dtype=bool)
    reasons = [""] * len(vesicles)
    for row, (depth, other) in worst.items():
        rows[row] = True
        reasons[row] = f"overlaps vesicle {vesicles.ids[other]} by {depth:.1f} nm"
    return rows, reasons


def _scores(vesicles: Vesicles, settings: OutlierSettings) -> Vesicles:
    """Spheres that are probably something else, where the score is a calibrated probability."""
    if MASK_SCORE not in vesicles.features:
        return vesicles
    score = vesicles.scores
    texts = [f"probably no vesicle (score {value:.2f})" for value in score]
    result = _mark(vesicles, score < settings.rejected_score, Status.REJECTED, texts)
    texts = [f"perhaps no vesicle (score {value:.2f})" for value in score]
    return _mark(result, score < settings.doubtful_score, Status.DOUBTFUL, texts)


def _membranes(vesicles: Vesicles) -> Vesicles:
    """Spheres on which no membrane is seen."""
    depth, contrast = _feature(vesicles, "membrane_z"), _feature(vesicles, "contrast")
    failed = np.nan_to_num(_feature(vesicles, "fit_failed")) > 0
    weak = failed | (depth < WEAK_MEMBRANE_Z) | (contrast <= 0)
    # Where vesicles stand out clearly, one that does not is more suspicious than in a noisy tomogram.
    known = depth[np.isfinite(depth) & ~failed]
    clear = float(np.clip(0.35 * np.median(known), NO_MEMBRANE_Z, WEAK_MEMBRANE_Z)) if len(known) else NO_MEMBRANE_Z
    none = (depth < clear) | ((contrast <= 0) & (depth < WEAK_MEMBRANE_Z))
    reject = none & (vesicles.scores < LOW_SCORE)
    texts = ["no membrane seen and a low score"] * len(vesicles)
    result = _mark(vesicles, reject, Status.REJECTED, texts)
    # A dense core has a membrane around it, to which the fit holds; a granule has none.
    solid = failed & (contrast < SOLID_CONTRAST)
    result = _mark(result, solid, Status.REJECTED, ["solid: dense inside, and no membrane around it"] * len(vesicles))
    # A failed fit has said why already.
    texts = ["" if f and r else "hardly any membrane seen" for f, r in zip(failed, vesicles.reasons, strict=True)]
    return _mark(result, weak & ~reject, Status.DOUBTFUL, texts)


@dataclass(frozen=True)
class _Trait:
    """A feature in which vesicles resemble one another.

    Parameters
    ----------
    words : str
        For the user.
    values : array (n,)
    tolerance : float
        Least spread (SD) that counts as usual, whatever the population's.
    """

    words: str
    values: Floats
    tolerance: float


def _traits(vesicles: Vesicles, rows: Mask) -> list[_Trait]:
    """The features to compare. Being better than the others is not unusual: correlation and residual count one way."""

    def level(values: Floats) -> float:
        known = values[rows & np.isfinite(values)]
        return float(np.median(known)) if len(known) else np.nan

    membrane, contrast = _feature(vesicles, "membrane_density"), _feature(vesicles, "contrast")
    alike = np.arctanh(np.clip(_feature(vesicles, "profile_correlation"), -0.999, 0.999))
    with np.errstate(divide="ignore", invalid="ignore"):
        uneven = np.log(_feature(vesicles, "fit_residual_nm") / vesicles.radii_nm)
        size = np.log(vesicles.radii_nm)
    uneven[~np.isfinite(uneven)] = np.nan
    found = [
        # Real populations mix vesicles of 20 and 60 nm.
        _Trait("radius", size, 0.4),
        _Trait("membrane thickness", vesicles.grid.length_to_nm(vesicles.thickness_vox), 0.6),
        _Trait("membrane density", membrane, 0.25 * abs(level(membrane)) + 0.05),
        _Trait("contrast", contrast, 0.3 * abs(level(contrast)) + 0.05),
        _Trait("membrane profile", np.minimum(alike, level(alike)), 0.5),
        _Trait("roundness", np.maximum(uneven, level(uneven)), 0.35),
    ]
    return [t for t in found if np.isfinite(t.values[rows]).sum() >= MIN_POPULATION]


def robust_distances(values: Floats, tolerances: Floats) -> Floats:
    """Squared robust Mahalanobis distances of the rows of a table from its bulk.

    Location and scatter come from the half of the rows nearest the medians, refined by concentration steps (the
    FAST-MCD idea; Rousseeuw and Van Driessen, Technometrics 41 (1999) 212-223), in units of MAD or tolerance,
    whichever is larger. With few rows the scatter is drawn towards a diagonal one and widened.

    Parameters
    ----------
    values : array (n, k)
        NaN counts as usual.
    tolerances : array (k,)
        Least SD of each column.

    Returns
    -------
    array (n,)
    """
    n, k = values.shape
    middle = np.nanmedian(values, axis=0)
    mad = 1.4826 * np.nanmedian(np.abs(values - middle), axis=0)
    scaled = np.nan_to_num((values - middle) / np.maximum(mad, tolerances))
    half = (n + k + 1) // 2
    distances = (scaled**2).sum(axis=1)
    location, scatter = np.zeros(k), np.eye(k)
    if n > 4 * k:
        for _ in range(5):
            bulk = scaled[np.argsort(distances, kind="stable")[:half]]
            location = bulk.mean(axis=0)
            covariance = np.cov(bulk, rowvar=False).reshape(k, k)
            sd = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
            # Only the correlations are taken from the bulk: its spread is that of its middle half.
            correlation = covariance / np.outer(sd, sd)
            trust = n / (n + 10.0 * k)
            scatter = trust * correlation + (1 - trust) * np.eye(k)
            np.fill_diagonal(scatter, 1.0)
            offsets = scaled - location
            distances = np.einsum("ij,ij->i", offsets @ np.linalg.inv(scatter), offsets)
    return np.asarray(distances / (1 + 4.0 / max(n, 1)) ** 2)


def _likeness(vesicles: Vesicles, settings: OutlierSettings) -> Vesicles:
    """Spheres unlike the others."""
    failed = np.nan_to_num(_feature(vesicles, "fit_failed")) > 0
    rows = ~failed & ~vesicles.has_status(Status.REJECTED)
    p = np.ones(len(vesicles))
    texts = [""] * len(vesicles)
    traits = _traits(vesicles, rows) if rows.sum() >= MIN_POPULATION else []
    if traits:
        values = np.stack([t.values[rows] for t in traits], axis=1)
        tolerances = np.array([max(t.tolerance, 1e-9) for t in traits])
        p[rows] = gammaincc(len(traits) / 2, robust_distances(values, tolerances) / 2)
        spread = np.abs(values - np.nanmedian(values, axis=0)) / tolerances
        for row, which in zip(np.flatnonzero(rows), np.argmax(np.nan_to_num(spread), axis=1), strict=True):
            texts[row] = f"unlike the others, mostly in its {traits[which].words} (p = {p[row]:.1g})"
    sure = ~(vesicles.scores < CONFIDENT_SCORE)
    result = _mark(vesicles, (p < settings.rejected_p) & ~sure, Status.REJECTED, texts)
    result = _mark(result, p < settings.doubtful_p, Status.DOUBTFUL, texts)
    return result.with_features(likeness_p=p)
