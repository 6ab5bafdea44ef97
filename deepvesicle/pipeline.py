"""From a tomogram to vesicles: composition only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import BadInputError, NetworkError
from deepvesicle.fitting.evidence import MASK_SCORE, Evidence
from deepvesicle.fitting.outliers import judge
from deepvesicle.fitting.propose import propose
from deepvesicle.fitting.refine import refine
from deepvesicle.grid import Probability, Tomogram
from deepvesicle.settings import Settings
from deepvesicle.vesicles import Status, Vesicles

if TYPE_CHECKING:
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
    """

    vesicles: Vesicles
    probability: Probability


def segment(
    tomogram: Tomogram,
    settings: Settings,
    *,
    network: Network | None = None,
    evidence: Evidence | None = None,
    probability: Probability | None = None,
    region: Region | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find the vesicles of a tomogram.

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

    Returns
    -------
    Result

    Raises
    ------
    BadInputError
        The probability covers another volume than the tomogram.
    """
    if probability is None:
        if network is None:
            raise ValueError("segment needs a network or a probability")
        from deepvesicle.network.inference import predict

        probability = predict(tomogram, network, settings.prediction, progress=progress)
    _check_same_space(probability, tomogram)
    threshold = settings.proposal.threshold
    if threshold is None:
        threshold = network.threshold if network is not None else 0.5
    vesicles = propose(probability, tomogram.grid, settings.proposal, threshold=threshold)

    def fitted(done: int, total: int) -> None:
        if progress:
            progress("fit", done, total)

    vesicles = refine(tomogram, vesicles, settings.refinement, progress=fitted)
    if evidence is not None:
        vesicles = vesicles.with_features(**{MASK_SCORE: vesicles.scores})
        vesicles = vesicles.replace(scores=evidence.probability(vesicles))
    if region is not None:
        outside = ~region.contains(vesicles.centres_vox)
        vesicles = vesicles.with_status(outside, Status.REJECTED, "the centre lies outside the mask")
    vesicles = judge(vesicles, settings.outliers, settings.proposal)
    return Result(vesicles, probability)


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
