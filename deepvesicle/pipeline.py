"""From a tomogram to vesicles: composition only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from deepvesicle.corrections import is_same_table, reconcile, remove
from deepvesicle.errors import BadInputError, NetworkError
from deepvesicle.fitting.evidence import MASK_SCORE, Evidence
from deepvesicle.grid import Probability, Tomogram
from deepvesicle.marks import Drawn, Floats
from deepvesicle.memory import release
from deepvesicle.placing import Fate, Fitter, Limits, place_marks
from deepvesicle.settings import Settings
from deepvesicle.spheres import are_cut
from deepvesicle.vesicles import Status, Vesicles

if TYPE_CHECKING:
    from deepvesicle.fitting.tilts import Tilts
    from deepvesicle.fitting.whitening import Whitening
    from deepvesicle.network.zoo import Network

Progress = Callable[[str, int, int], None]


class Region(Protocol):
    """What limits the analysis: anything that can say which points (N, 3; z, y, x voxels) lie inside."""

    def contains(self, points_zyx: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points lie inside (N,)."""
        ...


@dataclass(frozen=True)
class Result:
    """What `segment` found.

    Parameters
    ----------
    vesicles : Vesicles
        Accepted, doubtful and rejected ones.
    probability : Probability
        The network's mask, on its own grid.
    notes, warnings : tuple of str
        What was found out on the way, for the record; what the user should look at.
    """

    vesicles: Vesicles
    probability: Probability
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def segment(
    tomogram: Tomogram,
    settings: Settings,
    *,
    network: Network | None = None,
    evidence: Evidence | None = None,
    probability: Probability | None = None,
    region: Region | None = None,
    progress: Progress | None = None,
    out: NDArray[np.uint8] | None = None,
    memory_bytes: int | None = None,
) -> Result:
    """Find the vesicles of a tomogram.

    Nothing that grows with the tomogram is held in memory, but for a bit a voxel: the network goes over it piece by
    piece, vesicles are told apart and fitted in boxes, and pages of memory maps are let go of.

    Parameters
    ----------
    tomogram : Tomogram
    settings : Settings
    network : Network, optional
        Needed where `probability` is not given; its threshold is used unless the settings name one.
    evidence : Evidence, optional
        Turns what is known of each sphere into its score, the probability that it is a vesicle. Without, the score is
        the network's mean probability inside the sphere.
    probability : Probability, optional
        A mask made earlier, on any grid over the same space.
    region : Region, optional
        Only vesicles whose centre is inside count; the others are rejected.
    progress : callable, optional
        Called with (stage, done, in all).
    out : uint8 array, optional
        Where the network writes, of the shape of `tomogram.grid.rescaled(network.voxel_nm)`: a memory map, say.
    memory_bytes : int, optional
        What the process may take at its peak; `deepvesicle.memory.default_budget` if not given.

    Returns
    -------
    Result
        The vesicles have the feature ``cut``, besides those of the fit: 1 where a face of the tomogram cuts them.

    Raises
    ------
    BadInputError
        The probability covers another volume than the tomogram.
    """
    # Here, not above: `fix` does without them, and they take half of its time to load.
    from deepvesicle.fitting.outliers import judge
    from deepvesicle.fitting.propose import propose
    from deepvesicle.fitting.refine import refine
    from deepvesicle.fitting.tilts import find_tilts
    from deepvesicle.fitting.whitening import estimate_whitening

    notes: list[str] = []
    if probability is None:
        if network is None:
            raise ValueError("segment needs a network or a probability")
        from deepvesicle.network.inference import predict

        probability = predict(
            tomogram,
            network,
            settings.prediction,
            progress=progress,
            out=out,
            memory_bytes=memory_bytes,
            notify=notes.append,
        )
        release()
    _check_same_space(probability, tomogram)
    threshold = settings.proposal.threshold
    if threshold is None:
        threshold = network.threshold if network is not None else 0.5
    vesicles = propose(probability, tomogram.grid, settings.proposal, threshold=threshold)
    if evidence is not None:
        vesicles = evidence.worth_a_fit(vesicles)

    def telling(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(stage, done, total) if progress else None

    given = settings.refinement
    whitening = estimate_whitening(tomogram, given.tilt_axis, given.tilt_range_deg)
    tilts = find_tilts(tomogram, given, whitening)
    refinement = replace(given, tilt_range_deg=tilts.range_deg)
    vesicles = refine(tomogram, vesicles, refinement, whitening=whitening, progress=telling("fit"))
    if refinement.ellipsoid:
        from deepvesicle.fitting.ellipsoid import fit_ellipsoids

        vesicles = fit_ellipsoids(tomogram, vesicles, refinement, progress=telling("ellipsoids"))
    if evidence is not None:
        vesicles = vesicles.with_features(**{MASK_SCORE: vesicles.scores})
        vesicles = vesicles.replace(scores=evidence.probability(vesicles))
    if region is not None:
        outside = ~region.contains(vesicles.centres_vox)
        vesicles = vesicles.with_status(outside, Status.REJECTED, "the centre lies outside the mask")
    vesicles = judge(vesicles, settings.outliers, settings.proposal)
    warnings = (tilts.warning,) if tilts.warning else ()
    return Result(_with_cut(vesicles), probability, (*notes, tilts.note), warnings)


@dataclass(frozen=True, eq=False)
class Fixed:
    """What `fix` made of a table.

    Parameters
    ----------
    vesicles : Vesicles
        All rows, those without a sphere in the model too.
    sphere_ids : tuple of int
        Id of each sphere that was drawn, in its order.
    fates : tuple of Fate
        What became of each mark.
    removed : tuple of int or None
        For each removing point the id of the sphere that went.
    overruled : tuple of int or None
        For each of those that removed nothing, the id of a sphere that is there now: a mark was there as well.
    changes : mapping of str to int
        How many spheres the user changed in 3dmod, by kind.
    notes : tuple of str
        What was found out on the way, for the record.
    """

    vesicles: Vesicles
    sphere_ids: tuple[int, ...]
    fates: tuple[Fate, ...]
    removed: tuple[int | None, ...]
    overruled: tuple[int | None, ...]
    changes: Mapping[str, int]
    notes: tuple[str, ...] = ()


def fix(
    tomogram: Tomogram,
    table: Vesicles | None,
    drawn: Drawn,
    status_of_object: Mapping[str, Status],
    settings: Settings,
    *,
    radius_nm: float | None = None,
    refit: bool = False,
    fitter: Fitter | None = None,
    progress: Progress | None = None,
) -> Fixed:
    """Carry out what a user drew to correct vesicles.

    Parameters
    ----------
    tomogram : Tomogram
        Read only about the marks.
    table : Vesicles, optional
        As it was before; without it, the spheres that were drawn are all there is.
    drawn : Drawn
    status_of_object : mapping of str to Status
        What it means that a sphere is in an object.
    settings : Settings
        The limits of the radius, and how to fit.
    radius_nm : float, optional
        Where fits of clicks start; found from the tomogram if not given.
    refit : bool
        Also fit what the user placed or changed, and what could not be fitted before.
    fitter : callable, optional
        In place of `deepvesicle.fitting.click.fit_marks`.
    progress : callable, optional
        Called with (stage, done, in all).
    """
    grid = tomogram.grid
    low, high = settings.proposal.min_radius_nm, settings.proposal.max_radius_nm
    hint = float("nan") if radius_nm is None else radius_nm
    limits = Limits(*(float(v) for v in grid.length_to_vox([hint, low, high])))
    state = reconcile(table, grid, drawn.spheres, drawn.tried, status_of_object)
    vesicles, removed = remove(state.vesicles, drawn.removals)
    state = replace(state, vesicles=vesicles)

    measured: list[tuple[Whitening, Tilts]] = []  # once, at the first fit

    def fit(centres_vox: Floats, radii_vox: Floats, known: Vesicles) -> Vesicles:
        from deepvesicle.fitting.click import fit_marks
        from deepvesicle.fitting.tilts import find_tilts
        from deepvesicle.fitting.whitening import estimate_whitening

        if not measured:
            whitening = estimate_whitening(tomogram, settings.refinement.tilt_axis, settings.refinement.tilt_range_deg)
            measured.append((whitening, find_tilts(tomogram, settings.refinement, whitening)))
        whitening, tilts = measured[0]
        return fit_marks(
            tomogram,
            centres_vox,
            radii_vox,
            known,
            replace(settings.refinement, tilt_range_deg=tilts.range_deg),
            settings.proposal,
            whitening=whitening,
            progress=None if progress is None else lambda done, total: progress("fit", done, total),
        )

    vesicles, fates = place_marks(state, drawn.marks, fitter or fit, limits, refit=refit, tried=drawn.tried)
    _, inside = remove(vesicles, drawn.removals)
    overruled = tuple(now if gone is None else None for now, gone in zip(inside, removed, strict=True))
    if table is None or not is_same_table(table, vesicles):
        vesicles = _with_cut(vesicles)
    notes = tuple(tilts.note for _, tilts in measured)
    return Fixed(vesicles, state.sphere_ids, fates, removed, overruled, state.changes, notes)


def _with_cut(vesicles: Vesicles) -> Vesicles:
    """The feature ``cut``: 1 where a face of the tomogram cuts the sphere."""
    return vesicles.with_features(cut=are_cut(vesicles.grid, vesicles.centres_vox, vesicles.radii_vox))


def _check_same_space(probability: Probability, tomogram: Tomogram) -> None:
    """Refuse a mask that was made of another tomogram: it must cover the same volume to a voxel."""
    coarser = max(probability.grid.voxel_nm, tomogram.grid.voxel_nm)
    size = np.abs(probability.grid.extent_nm - tomogram.grid.extent_nm)
    corner = np.abs(probability.grid.to_nm([-0.5] * 3)[0] - tomogram.grid.to_nm([-0.5] * 3)[0])
    if size.max() > coarser or corner.max() > coarser:
        z, y, x = probability.grid.extent_nm
        tz, ty, tx = tomogram.grid.extent_nm
        raise BadInputError(
            "the probability does not belong to this tomogram",
            expected=f"a volume of {tx:.0f} x {ty:.0f} x {tz:.0f} nm (x, y, z) with the same origin",
            got=f"{x:.0f} x {y:.0f} x {z:.0f} nm",
            remedy="Give the probability that was written for it with --save-probability",
        )


def evidence_of(network: Network) -> Evidence | None:
    """The calibration of a network's scores, where its config holds one.

    Raises
    ------
    NetworkError
        It is there, but incomplete.
    """
    content = network.config.get("evidence")
    if content is None:
        return None
    try:
        return Evidence.from_json(content)
    except (KeyError, TypeError, ValueError) as error:
        raise NetworkError(
            f"the evidence in the config of model {network.folder} cannot be used ({type(error).__name__}: {error})",
            expected="bias, and middle, spread and weight of every trait",
            remedy="Calibrate the model again, or remove the entry",
        ) from error


def counts(vesicles: Vesicles) -> dict[str, float]:
    """How many spheres have each status, and the mean outer radius (nm) of those that count."""
    judged = (status for status in Status if status is not Status.PROPOSED)
    numbers: dict[str, float] = {status.value: int(vesicles.has_status(status).sum()) for status in judged}
    radii = vesicles.radii_nm[vesicles.accepted]
    numbers["mean_radius_nm"] = round(float(radii.mean()), 3) if len(radii) else 0.0
    return numbers
