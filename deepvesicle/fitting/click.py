"""Fit spheres where a user has marked vesicles: a click somewhere inside is enough.

Every mark is searched by itself (`sphere_search`). Then the profile of the membrane is learned from the clear findings,
and all marks are fitted together with the vesicles around them as one model of the tomogram (`shell_model`), in rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from deepvesicle.cores import usable_cores
from deepvesicle.fitting.features import OUTER_SD_NM, Place
from deepvesicle.fitting.joint import MARGIN_NM, SAME_VESICLE
from deepvesicle.fitting.profile import HALF_BILAYER_NM, Floats, working_binning
from deepvesicle.fitting.rays import fit_shells
from deepvesicle.fitting.shell_fit import Template, learned_template
from deepvesicle.fitting.shell_model import (
    REACH_NM,
    ModelFit,
    Patch,
    Profile,
    Sphere,
    cut_patch,
    fit_sphere,
    learn_profile,
    rendered_gain,
)
from deepvesicle.fitting.shell_tables import ShellTables
from deepvesicle.fitting.sphere_search import MAX_OFFSET, Found, is_sure, search_sphere
from deepvesicle.fitting.tilts import resolved
from deepvesicle.fitting.whitening import Whitening, estimate_whitening
from deepvesicle.grid import Tomogram
from deepvesicle.settings import ProposalSettings, RefinementSettings
from deepvesicle.spheres import inside_fractions
from deepvesicle.vesicles import Status, Vesicles

#: A start radius given by the user may be wrong by this factor, its centre by this share of the radius.
_HINT_FACTOR, _HINT_OFFSET = 1.45, 0.5
#: Clear findings that a profile is learned from, at most, and vesicles already known: usually, and where some marks are
#: unclear.
_LEARN_FROM, _LEARN_KNOWN = (8, 16), (6, 12)
#: Rounds of fits with all spheres in place; more where some marks are unclear, one where all are sure.
_ROUNDS, _MORE_ROUNDS = 2, 3
#: Steps of a fit at most, in the rounds and at the end.
_STEPS, _LAST_STEPS = 8, 30
#: Where less than this range of tilts shows in the tomogram, degrees, the last word is with the fit on rays: along the
#: beam it comes back to the same place more often.
_NARROW_DEG = 80.0
#: Depth of the membrane in standard errors, and log-likelihood gain, of clear fits, and of hardly any. Of 117
#: clicks on nothing in simulated synapses one passed the first.
CLEAR_Z, CLEAR_GAIN = 6.5, 8.0
WEAK_Z, WEAK_GAIN = 4.0, 2.0
#: Standard errors of findings that others may lean on, and below which there is a second search.
_HELPFUL_Z, _AGAIN_Z = 4.5, 6.0
#: How many sizes tell what is usual; the least spread of sizes, as a logarithm.
_MIN_SIZES, _LEAST_SPREAD = 5, 0.12
#: Candidates with less than this share of the best one's standard errors are not looked at.
_WORTH_A_LOOK = 0.6
#: Neighbours are masked to this far outside the middle of their membrane, nm.
_MASK_NM = 3.0
#: What the SDs of the fit are multiplied by: clutter and deformation are not in the model. From simulated tomograms.
_SIGMA_CENTRE, _SIGMA_RADIUS = 1.3, 1.5


@dataclass
class _Mark:
    """A mark and what is known of it so far; lengths in nm, radii to the membrane's middle."""

    place: Floats
    radii: tuple[float, float]
    max_offset: float
    candidates: list[Found] = field(default_factory=list)
    chosen: Found | None = None
    z: float = 0.0
    settled: Sphere | None = None
    patch: Patch | None = None
    fit: ModelFit | None = None

    @property
    def sphere(self) -> Sphere | None:
        """The best that is known."""
        if self.fit is not None:
            return self.fit.sphere
        if self.settled is not None:
            return self.settled
        return None if self.chosen is None else Sphere(self.chosen.centre_nm, self.chosen.radius_nm)

    @property
    def sure(self) -> bool:
        """Whether it needs no second look."""
        return self.sphere is not None and is_sure(self.z, self.sphere.radius_nm)

    @property
    def helps(self) -> bool:
        """Whether others may lean on it."""
        return self.z >= _HELPFUL_Z


def fit_marks(
    tomogram: Tomogram,
    centres_vox: ArrayLike,
    radii_vox: ArrayLike,
    known: Vesicles,
    refinement: RefinementSettings,
    proposal: ProposalSettings,
    *,
    whitening: Whitening | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Vesicles:
    """Fit one sphere for each mark.

    Parameters
    ----------
    tomogram : Tomogram
        May be memory-mapped: only boxes around the marks, and a few for the noise, are read.
    centres_vox : array (N, 3)
        z, y, x of the marks: anywhere within about half the radius of the vesicle's centre.
    radii_vox : array (N,)
        Start radii to the membrane's outer edge; NaN where nothing is known.
    known : Vesicles
        Other vesicles in the tomogram, on the same grid; they stay as they are.
    refinement : RefinementSettings
    proposal : ProposalSettings
        Smallest and largest outer radius.
    whitening : Whitening, optional
        Of the tomogram, if it has been estimated already.
    progress : callable, optional
        Called with the number of marks done and the total.

    Returns
    -------
    Vesicles
        A row for each mark, in order, ids from 1. REFINED where a membrane is clearly seen; DOUBTFUL, with the reason,
        where it is not; REJECTED, with the reason, where nothing could be fitted: centre and radius are then those of
        the mark (or the smallest radius). Features: ``membrane_z`` (depth of the membrane in standard errors),
        ``likelihood_gain``, ``shift_nm`` (from the mark to the centre), ``inside_fraction``.
    """
    centres = np.asarray(centres_vox, dtype=float).reshape(-1, 3)
    radii = np.asarray(radii_vox, dtype=float).reshape(-1)
    voxel = tomogram.grid.voxel_nm
    marks = [_mark(c * voxel, r * voxel, proposal) for c, r in zip(centres, radii, strict=True)]
    place = Place(0.0, HALF_BILAYER_NM)
    if marks:
        others = known.select(known.accepted)
        with ThreadPoolExecutor(max_workers=min(usable_cores(), len(marks))) as pool:
            fitter = _Fitter(tomogram, marks, others, refinement, pool, whitening)
            fitter.find(progress)
            fitter.settle()
            fitter.fit_together()
        place = _place(others, fitter.profile)
    return _table(tomogram, marks, centres, radii, place, proposal)


def _mark(place: Floats, radius: float, proposal: ProposalSettings) -> _Mark:
    if not np.isfinite(radius):
        low = max(proposal.min_radius_nm - HALF_BILAYER_NM - 1.0, 4.0)
        high = max(proposal.max_radius_nm - HALF_BILAYER_NM + 1.0, 1.05 * low)
        return _Mark(place, (low, high), MAX_OFFSET)
    middle = max(radius - HALF_BILAYER_NM, 4.0)
    return _Mark(place, (middle / _HINT_FACTOR, middle * _HINT_FACTOR), _HINT_OFFSET)


class _Fitter:
    """Fits marks to a tomogram in which other vesicles are known, which stay where they are."""

    def __init__(
        self,
        tomogram: Tomogram,
        marks: Sequence[_Mark],
        known: Vesicles,
        refinement: RefinementSettings,
        pool: ThreadPoolExecutor,
        whitening: Whitening | None = None,
    ) -> None:
        self.tomogram, self.marks, self.pool = tomogram, marks, pool
        self.whitening = whitening or estimate_whitening(tomogram, refinement.tilt_axis, refinement.tilt_range_deg)
        self.refinement = resolved(tomogram, refinement, self.whitening)
        self.tilts = (self.refinement.tilts_deg, refinement.tilt_axis)
        voxel = tomogram.grid.voxel_nm
        self.tables = ShellTables(self.whitening, voxel * working_binning(voxel))
        self.profile = Profile.generic()
        middle = known.grid.length_to_nm(known.membrane_radii_vox)
        self.known_centres = known.centres_nm
        self.known_radii = np.maximum(np.where(np.isfinite(middle), middle, known.radii_nm - HALF_BILAYER_NM), 3.0)

    def find(self, progress: Callable[[int, int], None] | None) -> None:
        """Search each mark by itself."""

        def search(mark: _Mark) -> None:
            mark.candidates = self._search(mark, Template.generic(), [])
            self._choose(mark, [], lambda radius: 0.0)

        for done, _ in enumerate(self.pool.map(search, self.marks)):
            if progress is not None:
                progress(done + 1, len(self.marks))

    def settle(self) -> None:
        """Bring what was found to the nearest shell on rays from its own centre, whichever place the mark had."""
        found = [mark for mark in self.marks if mark.chosen is not None]
        grid = self.tomogram.grid
        start = [mark.sphere for mark in found]
        places = np.array([s.centre_nm for s in start if s is not None]).reshape(-1, 3)
        sizes = np.array([s.radius_nm for s in start if s is not None])
        centres = grid.length_to_vox(np.concatenate([places, self.known_centres]))
        middle = grid.length_to_vox(np.concatenate([sizes, self.known_radii]))
        places, radii = fit_shells(self.tomogram, centres, middle, len(found), self.refinement, self.pool.map)
        for mark, place, radius in zip(found, places, radii, strict=True):
            moved = Sphere(grid.length_to_nm(place), float(grid.length_to_nm(radius)))
            mark.settled = moved
            mark.patch = self._patch(moved)
            if mark.fit is not None:
                mark.fit = replace(mark.fit, sphere=replace(moved, depth=mark.fit.sphere.depth))

    def fit_together(self) -> None:
        """Learn the membrane's profile and fit all marks with it, in rounds."""
        rounds = 1 if all(mark.sure for mark in self.marks) else _ROUNDS
        for turn in range(_MORE_ROUNDS if self._unclear else rounds):
            shift = self._learn(first=turn == 0)
            if turn > 0:
                self._choose_again()
            self._fit_all(shift)
        self._fit_all(0.0, steps=_LAST_STEPS)
        low, high = self.whitening.tilts_deg
        if high - low < _NARROW_DEG:
            self.settle()

    @property
    def _unclear(self) -> bool:
        """Whether some marks need more care, at the cost of time."""
        return any(mark.z < _AGAIN_Z for mark in self.marks)

    def _fit_all(self, shift_nm: float, steps: int = _STEPS) -> None:
        """One round: each mark with the others where they were after the last round."""
        others = self._helpful()

        def fit(mark: _Mark) -> None:
            if mark.patch is not None and mark.sphere is not None:
                start = replace(mark.sphere, radius_nm=mark.sphere.radius_nm + shift_nm)
                around = self._around(start, [s for m, s in others if m is not mark])
                fit = fit_sphere(mark.patch, start, self.profile, around, steps=steps, tables=self.tables)
                mark.fit = fit or mark.fit

        list(self.pool.map(fit, self.marks))

    def _helpful(self) -> list[tuple[_Mark, Sphere]]:
        """Marks that the others may lean on, and their spheres at this moment."""
        return [(mark, mark.sphere) for mark in self.marks if mark.helps and mark.sphere is not None]

    def _around(self, own: Sphere, marked: Iterable[Sphere]) -> list[Sphere]:
        """Those of the known and the marked spheres that come near one, but for those that are the same vesicle."""
        centres, radii = self._with_known(marked)
        distance = np.linalg.norm(centres - own.centre_nm, axis=1)
        near = distance < own.radius_nm + radii + 2 * REACH_NM
        near &= distance > SAME_VESICLE * np.maximum(radii, own.radius_nm)
        return [Sphere(centres[i], float(radii[i])) for i in np.flatnonzero(near)]

    def _with_known(self, marked: Iterable[Sphere]) -> tuple[Floats, Floats]:
        """Centres and radii of the known spheres, then of marked ones."""
        spheres = list(marked)
        centres = np.array([s.centre_nm for s in spheres]).reshape(-1, 3)
        radii = np.array([s.radius_nm for s in spheres])
        return np.concatenate([self.known_centres, centres]), np.concatenate([self.known_radii, radii])

    def _patch(self, sphere: Sphere) -> Patch | None:
        reach = sphere.radius_nm + REACH_NM + MARGIN_NM
        return cut_patch(self.tomogram, self.whitening, sphere.centre_nm, reach)

    def _search(self, mark: _Mark, template: Template, marked: Sequence[Sphere]) -> list[Found]:
        """Candidates for a mark, with what belongs to known and marked spheres masked out."""
        voxel = self.tomogram.grid.voxel_nm
        centres, radii = self._with_known(marked)
        others = np.linalg.norm(centres - mark.place, axis=1) > radii + _MASK_NM
        masks = (centres[others] / voxel, (radii[others] + _MASK_NM) / voxel)
        return search_sphere(
            self.tomogram, mark.place, mark.radii, template, self.tilts, masks, max_offset=mark.max_offset
        )

    def _choose(self, mark: _Mark, marked: Sequence[Sphere], prior: Callable[[float], float]) -> None:
        """Choose among a mark's candidates by two tests of different kinds: over patches, and by likelihood."""
        best = -1.0
        chosen: Found | None = None
        chosen_patch: Patch | None = None
        top = max((found.significance for found in mark.candidates), default=0.0)
        for found in mark.candidates:
            if found.significance < _WORTH_A_LOOK * top:
                continue
            sphere = Sphere(found.centre_nm, found.radius_nm)
            patch = self._patch(sphere)
            if patch is None:
                continue
            gain = rendered_gain(patch, sphere, self.profile, self._around(sphere, marked))
            worth = found.significance * float(np.sqrt(max(gain + prior(found.radius_nm), 0.0)))
            if worth > best:
                best, chosen, chosen_patch = worth, found, patch
        if chosen is not None and chosen is not mark.chosen:
            mark.chosen, mark.patch, mark.z = chosen, chosen_patch, chosen.significance
            mark.settled, mark.fit = None, None

    def _choose_again(self) -> None:
        """Choose anew for unclear marks, now that membrane, neighbours and usual sizes are known.

        The least clear are searched again, with their neighbours masked out.
        """
        others = self._helpful()
        template = learned_template(Profile.offsets_nm(), self.profile.values)
        prior = _size_prior(self._with_known(s for _, s in others)[1])

        def again(mark: _Mark) -> None:
            if mark.chosen is None or mark.sure:
                return
            marked = [s for m, s in others if m is not mark]
            if mark.z < _AGAIN_Z:
                mark.candidates += self._search(mark, template, marked)
            self._choose(mark, marked, prior)

        list(self.pool.map(again, self.marks))

    def _learn(self, *, first: bool) -> float:
        """Learn the profile from the clearest marks and from known vesicles near them.

        Returns
        -------
        float
            To be added to radii found with the old profile, nm.
        """
        others = self._helpful()
        clearest = sorted(self.marks, key=lambda mark: -mark.z)[: _LEARN_FROM[self._unclear]]
        examples = []
        for mark in clearest:
            if mark.patch is not None and mark.sphere is not None and (mark.helps or len(self.marks) < 4):
                around = self._around(mark.sphere, [s for m, s in others if m is not mark])
                examples.append((mark.patch, mark.sphere, around))
        for sphere in self._nearest_known():
            patch = self._patch(sphere)
            if patch is not None:
                examples.append((patch, sphere, self._around(sphere, [])))
        if not examples:
            return 0.0
        # The depth of a generic profile means nothing yet, so neighbours cannot be taken out with it.
        old = Profile.generic(0.0) if first else self.profile
        self.profile, shift = learn_profile(examples, old, Profile.generic(), self.pool.map, self.tables)
        return shift

    def _nearest_known(self) -> list[Sphere]:
        places = np.array([mark.place for mark in self.marks])
        apart = np.linalg.norm(self.known_centres[:, None] - places[None], axis=-1).min(axis=1)
        nearest = np.argsort(apart, kind="stable")[: _LEARN_KNOWN[self._unclear]]
        return [Sphere(self.known_centres[i], float(self.known_radii[i])) for i in nearest]


def _size_prior(radii_nm: Floats) -> Callable[[float], float]:
    """Log-likelihood of a radius, up to a constant, from those seen: long-tailed, as populations mix."""
    if len(radii_nm) < _MIN_SIZES:
        return lambda radius: 0.0
    sizes = np.log(radii_nm)
    middle = float(np.median(sizes))
    spread = max(1.4826 * float(np.median(np.abs(sizes - middle))), _LEAST_SPREAD)
    return lambda radius: -1.5 * float(np.log1p((np.log(radius) - middle) ** 2 / (2 * spread**2)))


def _place(known: Vesicles, profile: Profile) -> Place:
    """Where the membranes lie: as the profile has it, and as thick as those of the vesicles already there."""
    place = Place.in_profile(profile.offsets_nm(), profile.values) or Place(0.0, HALF_BILAYER_NM)
    thickness = known.grid.length_to_nm(known.thickness_vox[np.isfinite(known.thickness_vox)])
    if len(thickness):
        return Place(place.middle_nm, place.middle_nm + float(np.median(thickness)) / 2)
    return place


def _table(
    tomogram: Tomogram,
    marks: Sequence[_Mark],
    centres: Floats,
    radii: Floats,
    lies: Place,
    proposal: ProposalSettings,
) -> Vesicles:
    """The fits as rows."""
    voxel = tomogram.grid.voxel_nm
    n = len(marks)
    smallest = tomogram.grid.length_to_vox(proposal.min_radius_nm)
    out_centres, out_radii = centres.copy(), np.where(np.isfinite(radii) & (radii > 0), radii, smallest)
    middle, thickness, sigma_centre, sigma_radius = (np.full(n, np.nan) for _ in range(4))
    features = {name: np.full(n, np.nan) for name in ("membrane_z", "likelihood_gain", "shift_nm")}
    status, reasons = [], []
    for row, mark in enumerate(marks):
        verdict, reason = _verdict(mark, lies.outer_nm, proposal)
        status.append(verdict)
        reasons.append(reason)
        features["membrane_z"][row] = mark.z
        if mark.fit is not None:
            features["likelihood_gain"][row] = mark.fit.gain
        if verdict is Status.REJECTED or mark.fit is None:
            continue
        sphere = mark.fit.sphere
        out_centres[row] = sphere.centre_nm / voxel
        out_radii[row] = (sphere.radius_nm + lies.outer_nm) / voxel
        middle[row] = (sphere.radius_nm + lies.middle_nm) / voxel
        thickness[row] = 2 * (lies.outer_nm - lies.middle_nm) / voxel
        variance = np.diag(mark.fit.covariance)
        sigma_centre[row] = _SIGMA_CENTRE * np.sqrt(max(variance[:3].mean(), 0.0)) / voxel
        sigma_radius[row] = np.hypot(_SIGMA_RADIUS * np.sqrt(max(variance[3], 0.0)), OUTER_SD_NM) / voxel
        features["shift_nm"][row] = np.linalg.norm(sphere.centre_nm - mark.place)
    inside = inside_fractions(tomogram.grid, out_centres, out_radii)
    features["inside_fraction"] = inside
    vesicles = Vesicles.from_spheres(
        tomogram.grid,
        out_centres,
        out_radii,
        membrane_radii_vox=middle,
        thickness_vox=thickness,
        sigma_centres_vox=sigma_centre,
        sigma_radii_vox=sigma_radius,
        status=tuple(status),
        reasons=tuple(reasons),
        features=features,
    )
    cut = vesicles.has_status(Status.REFINED) & (inside < proposal.min_inside_fraction)
    return vesicles.with_status(
        cut, Status.DOUBTFUL, [f"only {100 * f:.0f} % of it lies in the tomogram" for f in inside]
    )


def _verdict(mark: _Mark, outer_nm: float, proposal: ProposalSettings) -> tuple[Status, str]:
    """How good a fit is, and why not better."""
    if mark.fit is None:
        return Status.REJECTED, "not fitted: no membrane found around it"
    sphere, gain = mark.fit.sphere, mark.fit.gain
    radius = sphere.radius_nm + outer_nm
    if np.linalg.norm(sphere.centre_nm - mark.place) > radius:
        return Status.REJECTED, "not fitted: the fit ran away from the mark"
    slack = _SIGMA_RADIUS * float(np.sqrt(max(mark.fit.covariance[3, 3], 0.0)))
    if radius + slack < proposal.min_radius_nm:
        return Status.REJECTED, f"not fitted: radius {radius:.1f} nm is below {proposal.min_radius_nm:g} nm"
    if radius - slack > proposal.max_radius_nm:
        return Status.REJECTED, f"not fitted: radius {radius:.1f} nm is above {proposal.max_radius_nm:g} nm"
    if mark.z < WEAK_Z or gain < WEAK_GAIN:
        return Status.REJECTED, f"not fitted: no membrane found (contrast {mark.z:.1f} standard errors)"
    if mark.z < CLEAR_Z or gain < CLEAR_GAIN:
        return Status.DOUBTFUL, f"the membrane is hardly seen (contrast {mark.z:.1f} standard errors)"
    return Status.REFINED, ""
