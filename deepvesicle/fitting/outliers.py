"""Judge fitted spheres: which are doubtful, which are not vesicles, and why.

Lenient on purpose: a true vesicle that is lost costs the user more than a doubtful one that is shown. DOUBTFUL rows
count as vesicles; REJECTED rows keep everything they had, and their reason.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.evidence import MASK_SCORE
from deepvesicle.fitting.likeness import likeness
from deepvesicle.fitting.looks import default_looks
from deepvesicle.settings import OutlierSettings, ProposalSettings
from deepvesicle.spheres import inside_fractions, shared_volume
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: A sphere the network is this sure of is not rejected for its looks, nor for being unlike the others; nor is one
#: without a score that looks so much like a vesicle.
CONFIDENT_SCORE = 0.9
#: One the network is not sure of is rejected if it looks less than this like a vesicle. Of true ones in phantoms one in
#: 100 looks less than 0.5 like one.
HOPELESS_LOOKS = 0.05
#: A sphere without a membrane and with a score below this is rejected.
LOW_SCORE = 0.5
#: How far off a start sphere may be in place and size, as a share of its radius.
START_ERROR = 0.25
#: How far outside the volume the centre of a fitted sphere may lie besides two sigma, voxels.
CENTRE_SLACK_VOX = 0.5
#: Significance below which there is clearly no membrane, and below which it is in doubt (standard errors).
NO_MEMBRANE_Z, WEAK_MEMBRANE_Z = 3.0, 5.0
#: A shell is complete if its weakest side stands out by so many standard errors, its weaker sides have this share of
#: the mean depth, and this share of the directions shows a dark line.
COMPLETE_Z, COMPLETE_SIDE, COMPLETE_SHARE = 8.0, 0.6, 0.97
#: Lumen minus membrane, in SDs of the lumen, below which a sphere to which no membrane could be fitted is solid.
SOLID_CONTRAST = -0.5
#: Share of a sphere inside the tomogram from which a face that cuts it makes no difference.
WHOLE = 0.9
#: Two fits whose centres are closer than this share of the larger radius are one vesicle, unless nested.
DUPLICATE_DISTANCE = 0.6
#: A sphere inside another and smaller than this share of its radius is a vesicle within a vesicle.
NESTED_SIZE = 0.6


def judge(vesicles: Vesicles, settings: OutlierSettings, proposal: ProposalSettings) -> Vesicles:
    """Set DOUBTFUL and REJECTED with their reasons: size, place, duplicates, overlap, looks, membrane and likeness.

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
        The same rows with new statuses and reasons, and the features ``looks``: how much it looks like a vesicle in
        the tomogram alone, 0..1 (`deepvesicle.fitting.looks`; NaN where that is not known), and ``likeness_p``: the
        chi-square p of the robust Mahalanobis distance from the other spheres (1 where it was not tested). MANUAL and
        REJECTED rows keep status and reason.
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
    result = _looks(result, settings)
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


def _failed(vesicles: Vesicles) -> Mask:
    """Spheres that were not fitted: they are where they started."""
    return np.asarray(np.nan_to_num(_feature(vesicles, "fit_failed")) > 0)


def _size(vesicles: Vesicles, proposal: ProposalSettings) -> tuple[Mask, list[str]]:
    """Too small or too large by more than two sigma of the fit, or than start spheres that were not fitted can be."""
    radius = vesicles.radii_nm
    failed = _failed(vesicles)
    slack = 2 * np.nan_to_num(vesicles.grid.length_to_nm(vesicles.sigma_radii_vox))
    slack = np.where(failed, START_ERROR * radius, slack)
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
    # Of vesicles that a face cuts in the middle, the fit puts every second centre outside.
    slack = 2 * np.nan_to_num(vesicles.sigma_centres_vox) + CENTRE_SLACK_VOX
    slack = np.where(_failed(vesicles), START_ERROR * vesicles.radii_vox, slack)
    beyond = vesicles.centres_vox - np.clip(vesicles.centres_vox, -0.5, np.array(vesicles.grid.shape_zyx) - 0.5)
    outside = np.linalg.norm(beyond, axis=1) > slack
    fraction = inside_fractions(vesicles.grid, vesicles.centres_vox, vesicles.radii_vox)
    # A plane through the middle takes off 0.75 of a thin slice's share of the radius.
    least = proposal.min_inside_fraction - 0.75 * slack / vesicles.radii_vox
    reasons = [
        "the centre lies outside the tomogram" if o else f"only {100 * f:.0f} % of it lies in the tomogram"
        for f, o in zip(fraction, outside, strict=True)
    ]
    return outside | (fraction < least), reasons


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
    failed = _failed(vesicles)
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
    failed = _failed(vesicles)
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


def _looks(vesicles: Vesicles, settings: OutlierSettings) -> Vesicles:
    """Spheres that look like something else, where no calibrated score tells what they are."""
    looks, words = default_looks().judge(vesicles)
    result = vesicles.with_features(looks=looks)
    sure = np.isfinite(vesicles.scores) & ((vesicles.scores >= CONFIDENT_SCORE) | (MASK_SCORE in vesicles.features))
    judged = ~sure & ~vesicles.has_status(Status.MANUAL, Status.REJECTED)
    texts = [f"does not look like a vesicle: {text} ({p:.2f})" for text, p in zip(words, looks, strict=True)]
    known = judged & np.isfinite(looks)
    clear = known & (looks >= settings.doubtful_score) & ~_failed(vesicles)
    # If hardly anything is clear, the tomogram may be too dim, or unlike those that looks were learned on.
    if 2 * int(clear.sum()) >= int(known.sum()):
        wrong = known & (looks < settings.rejected_score) & ~_complete(vesicles)
        result = _mark(result, wrong, Status.REJECTED, texts)
    # Where the network hesitates too, both together are enough.
    hesitant = np.isfinite(vesicles.scores) & (MASK_SCORE in vesicles.features) & (vesicles.scores < CONFIDENT_SCORE)
    result = _mark(result, hesitant & (looks < HOPELESS_LOOKS) & ~_complete(vesicles), Status.REJECTED, texts)
    return _mark(result, judged & (looks < settings.doubtful_score), Status.DOUBTFUL, texts)


def _complete(vesicles: Vesicles) -> Mask:
    """Spheres with a clear membrane on every side that is resolved, and no dense inside: never rejected for looks."""
    z, weakest = _feature(vesicles, "weakest_side_z"), _feature(vesicles, "weakest_side")
    hollow = _feature(vesicles, "lumen_density") > _feature(vesicles, "membrane_density")
    share = _feature(vesicles, "membrane_share")
    return np.asarray((z > COMPLETE_Z) & (weakest > COMPLETE_SIDE) & (share > COMPLETE_SHARE) & hollow)


def _membranes(vesicles: Vesicles) -> Vesicles:
    """Spheres on which no membrane is seen."""
    depth, contrast = _feature(vesicles, "membrane_z"), _feature(vesicles, "contrast")
    failed = _failed(vesicles)
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
    # At the faces networks see half vesicles in noise, as they are shown its mirror image beyond.
    cut = failed & (_feature(vesicles, "inside_fraction") < WHOLE) & (MASK_SCORE in vesicles.features)
    texts = ["cut by a face of the tomogram, and no membrane could be fitted"] * len(vesicles)
    result = _mark(result, cut & (vesicles.scores < CONFIDENT_SCORE), Status.REJECTED, texts)
    # A failed fit has said why already.
    texts = ["" if f and r else "hardly any membrane seen" for f, r in zip(failed, vesicles.reasons, strict=True)]
    return _mark(result, weak & ~reject, Status.DOUBTFUL, texts)


def _likeness(vesicles: Vesicles, settings: OutlierSettings) -> Vesicles:
    """Spheres unlike the others."""
    failed = _failed(vesicles)
    p, texts = likeness(vesicles, ~failed & ~vesicles.has_status(Status.REJECTED))
    # Where there is no score, its looks tell; where they are not known, a person placed it.
    word = np.where(np.isnan(vesicles.scores), _feature(vesicles, "looks"), vesicles.scores)
    sure = ~(word < CONFIDENT_SCORE)
    result = _mark(vesicles, (p < settings.rejected_p) & ~sure, Status.REJECTED, texts)
    result = _mark(result, p < settings.doubtful_p, Status.DOUBTFUL, texts)
    return result.with_features(likeness_p=p)
