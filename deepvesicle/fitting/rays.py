"""Fits of spheres on rays from their centres: robust, and from starts that are far off.

In rounds over all spheres: a coarse search about the start spheres with a general membrane profile; then fits with the
profile learned from the tomogram itself, each sphere's neighbours masked out at the places found so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.profile import (
    HALF_BILAYER_NM,
    Box,
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

#: A fit that moves the centre by more than this share of the start radius has left its vesicle.
MAX_MOVE = 0.6
#: Largest change of the radius, as a factor.
MAX_SCALE = 1.5
#: Membranes whose depth is less than this many standard errors were not found. Four parameters chosen to make it as
#: deep as possible reach about 4 in noise alone.
MIN_SIGNIFICANCE = 5.0
#: Where profiles are compared, about the middle of the membrane.
PROFILE_NM = np.arange(-14.0, 14.01, 0.25)


Mapping = Callable[..., Iterable[None]]


class Task(Enum):
    """What a round is to do with each sphere."""

    SEARCH = "search"  # look for it within a third of the radius, with a coarse profile, then fit
    FIT = "fit"  # fit it from where it is
    LOOK = "look"  # leave it where it is, and see how well it fits


@dataclass
class RayFits:
    """The state of the fits, lengths in voxels; one row a vesicle."""

    centres: Floats
    radii: Floats  # middle of the membrane
    start_centres: Floats
    start_radii: Floats
    half: float  # half thickness of a membrane
    fits: list[ShellFit | None]
    profiles: Floats  # (n, len(PROFILE_NM)), of the last round
    profile_halves: Floats  # (n, 2, len(PROFILE_NM)): the two halves of the patches

    @classmethod
    def starting(cls, centres: Floats, radii: Floats, half: float) -> RayFits:
        """Nothing fitted yet."""
        n = len(centres)
        profiles = np.full((n, len(PROFILE_NM)), np.nan)
        halves = np.full((n, 2, len(PROFILE_NM)), np.nan)
        return cls(centres.copy(), radii.copy(), centres, radii, half, [None] * n, profiles, halves)

    def has_run_away(self, row: int) -> bool:
        """Whether a fit has left its start sphere, or has no dark membrane."""
        fit = self.fits[row]
        away = np.linalg.norm(self.centres[row] - self.start_centres[row]) > MAX_MOVE * self.start_radii[row]
        scale = self.radii[row] / self.start_radii[row]
        return bool(away or not 1 / MAX_SCALE < scale < MAX_SCALE or (fit is not None and fit.amplitude <= 0))


def fit_shells(
    tomogram: Tomogram,
    centres_vox: Floats,
    radii_vox: Floats,
    count: int,
    settings: RefinementSettings,
    mapping: Mapping = map,
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
    work = RayFits.starting(centres_vox, radii_vox, HALF_BILAYER_NM / tomogram.grid.voxel_nm)
    fit_in_rounds(tomogram, work, list(range(count)), np.ones(len(centres_vox), dtype=bool), settings, mapping, None)
    for row in range(count):
        if work.fits[row] is None or work.has_run_away(row):
            work.centres[row], work.radii[row] = work.start_centres[row], work.start_radii[row]
    return work.centres[:count], work.radii[:count]


def fit_in_rounds(
    tomogram: Tomogram,
    work: RayFits,
    rows: list[int],
    present: NDArray[np.bool_],
    settings: RefinementSettings,
    mapping: Mapping,
    progress: Callable[[int], None] | None,
) -> Template:
    """A search, and a fit with the profile learned from it; returns the profile learned at the end."""
    template = fit_round(Task.SEARCH, tomogram, work, rows, present, Template.generic(), settings, mapping, progress)
    return fit_round(Task.FIT, tomogram, work, rows, present, template, settings, mapping, progress)


def fit_round(
    task: Task,
    tomogram: Tomogram,
    work: RayFits,
    rows: list[int],
    present: NDArray[np.bool_],
    template: Template,
    settings: RefinementSettings,
    mapping: Mapping,
    progress: Callable[[int], None] | None,
) -> Template:
    """One round over some spheres, each with those that are present where they were before.

    Parameters
    ----------
    task : Task
    tomogram : Tomogram
    work : RayFits
        Changed in place.
    rows : list of int
    present : bool array (n,)
        Which spheres hide what lies behind them.
    template : Template
    settings : RefinementSettings
        With the range of tilts.
    mapping : callable
        `map`, or the same of a pool of threads.
    progress : callable, optional
        Called with 1 for each fit.

    Returns
    -------
    Template
        Learned from the fits of all spheres so far.
    """
    places, sizes = work.centres.copy(), work.radii.copy()
    if task is not Task.SEARCH:
        sizes += work.half + 1.5 / tomogram.grid.voxel_nm

    def fit(row: int) -> None:
        _fit_one(task, tomogram, work, row, neighbours(places, sizes, row, present), template, settings)

    for _ in mapping(fit, rows):
        if progress is not None:
            progress(1)
    return _learn(work, template)


def neighbours(places: Floats, radii: Floats, row: int, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
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
    task: Task,
    tomogram: Tomogram,
    work: RayFits,
    row: int,
    masks: tuple[Floats, Floats],
    template: Template,
    settings: RefinementSettings,
) -> None:
    """Fit one sphere from its place in `work`, and put the result there."""
    voxel = tomogram.grid.voxel_nm
    binning = working_binning(voxel)
    centre, radius = work.centres[row].copy(), float(work.radii[row])
    search = task is Task.SEARCH
    margin = (TEMPLATE_REACH_NM + 2 * SLACK_NM) / voxel
    reach = radius * (1.75 if search else 1.1) + margin
    box = read_box(tomogram, centre, reach + binning, binning)
    work.fits[row] = None
    if box is None:
        return
    if search:
        centre, radius = _coarse(box, centre, radius, masks, template, settings, voxel)
    count = _direction_count(radius / binning)
    set_ = direction_set(count)
    seen, shares = patch_weights(count, settings.tilts_deg, settings.tilt_axis)
    step = min(0.5 * voxel * binning, 1.0)
    window = np.arange(-np.ceil((TEMPLATE_REACH_NM + SLACK_NM) / step), np.ceil(14.0 / step) + 1) * step
    shifts = np.arange(-SLACK_NM, SLACK_NM + 1e-9, 0.25)
    start_nm = work.start_radii[row] * voxel
    for _ in range(1 if task is Task.LOOK else max(1, settings.max_iterations)):
        radii_nm = window + radius * voxel
        # Rays converge inwards: samples there are no new information.
        weights = np.clip(radii_nm / (0.7 * radius * voxel), 0, 1) ** 2
        table = sample_polar(box, centre, radii_nm / voxel, set_, weights=weights, masks=masks)
        tables = match_tables(table, window, shifts, template.blurred(0.02 * radius * voxel), radius * voxel)
        offset = (work.start_centres[row] - centre) * voxel
        fit = fit_shell(tables, set_.patches, seen, shares, np.zeros(3), radius * voxel, (offset, start_nm, start_nm))
        if not (np.isfinite(fit.radius_nm) and np.all(np.isfinite(fit.displacement_nm))):
            return
        work.fits[row] = fit
        if task is Task.LOOK:
            break
        moved = float(max(np.abs(fit.displacement_nm).max(), abs(fit.radius_nm - radius * voxel)))
        centre, radius = centre + fit.displacement_nm / voxel, fit.radius_nm / voxel
        work.centres[row], work.radii[row] = centre, radius
        if work.has_run_away(row):
            return  # how far it went tells the reason
        # A displacement this small is exact within one table.
        if moved < (1.0 if search else 0.3):
            break
    middle_nm = radius * voxel - (radii_nm[0] - window[0])  # of the membrane, in the table's columns
    _store_profiles(work, row, table, window - middle_nm, fit)


def _coarse(
    box: Box,
    centre: Floats,
    radius: float,
    masks: tuple[Floats, Floats],
    template: Template,
    settings: RefinementSettings,
    voxel: float,
) -> tuple[Floats, float]:
    """Look for the sphere within a third of the radius; centre and radius, voxels."""
    count = _direction_count(radius / box.binning)
    set_ = direction_set(count)
    seen, shares = patch_weights(count, settings.tilts_deg, settings.tilt_axis)
    radius_nm = radius * voxel
    step = max(0.75 * voxel * box.binning, 0.025 * radius_nm)
    radii_nm = np.arange(0.25 * radius_nm, 1.75 * radius_nm + TEMPLATE_REACH_NM, step)
    table = sample_polar(box, centre, radii_nm / voxel, set_, masks=masks)
    shifts = np.arange(0.35, 1.76, 0.03) * radius_nm
    wide = template.blurred(0.05 * radius_nm)
    tables = match_tables(table, radii_nm - radius_nm, shifts - radius_nm, wide, radius_nm)
    displacement, found = coarse_search(tables, set_.patches, seen, radius_nm)
    start = (np.zeros(3), radius_nm, radius_nm)
    fit = fit_shell(tables, set_.patches, seen, shares, displacement, found, start, steps=6)
    if np.linalg.norm(fit.displacement_nm) < MAX_MOVE * radius_nm and fit.amplitude > 0:
        displacement, found = fit.displacement_nm, fit.radius_nm
    return centre + displacement / voxel, found / voxel


def _store_profiles(work: RayFits, row: int, table: PolarTable, offsets_nm: Floats, fit: ShellFit) -> None:
    """Keep the mean profile of a vesicle about the middle of its membrane, and those of two halves of its patches."""
    even = np.arange(len(table.patches)) % 2 == 0
    for target, weights in (
        (work.profiles[row], fit.patch_weights),
        (work.profile_halves[row, 0], fit.patch_weights * even),
        (work.profile_halves[row, 1], fit.patch_weights * ~even),
    ):
        profile, total = radial_mean(table, weights)
        good = total > 0.02 * max(float(total.max()), 1e-12)
        target[:] = np.interp(PROFILE_NM, offsets_nm[good], profile[good]) if good.sum() > 3 else np.nan


def trust(work: RayFits) -> Floats:
    """Weight of each vesicle's profile in means over vesicles: the squared significance of its membrane."""
    return np.array(
        [0.0 if f is None or f.significance < MIN_SIGNIFICANCE else min(f.significance, 60.0) ** 2 for f in work.fits]
    ) * np.all(np.isfinite(work.profiles), axis=1)


def _mean_profile(work: RayFits) -> Floats | None:
    """Mean of the vesicles' profiles, each with its membrane's depth set to 1."""
    weights = trust(work)
    rows = np.flatnonzero(weights > 0)
    if not len(rows):
        return None
    ends = np.abs(PROFILE_NM) > TEMPLATE_REACH_NM
    scaled = work.profiles[rows] - work.profiles[rows][:, ends].mean(axis=1, keepdims=True)
    depth = np.array([fit.amplitude for fit in (work.fits[r] for r in rows) if fit is not None])
    return np.asarray(np.average(scaled / depth[:, None], axis=0, weights=weights[rows]))


def _learn(work: RayFits, old: Template) -> Template:
    """The template from all fits so far, drawn to the general one where there are few."""
    profile = _mean_profile(work)
    if profile is None:
        return old
    middle = landmarks(PROFILE_NM, profile).middle_nm
    if not np.isfinite(middle):
        return old
    new = learned_template(PROFILE_NM - middle, profile)
    evidence = float(trust(work).sum())
    share = evidence / (evidence + 400.0)
    return Template(new.offsets_nm, share * new.values + (1 - share) * Template.generic().values)
