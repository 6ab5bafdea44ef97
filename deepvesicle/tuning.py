"""How well a network does on annotated parts of datasets: the table of before and after a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid
from deepvesicle.network.parts import Part
from deepvesicle.network.zoo import Network
from deepvesicle.pipeline import evidence_of, segment
from deepvesicle.settings import Settings


@dataclass(frozen=True)
class Standing:
    """What a network reaches on annotated parts, all of them together. NaN where nothing decides a figure.

    Parameters
    ----------
    mask_dice : float
        Of the thresholded mask, where something is annotated.
    final_dice : float
        Of the voxels inside the final spheres, there too.
    f1, precision, recall : float
        Of the final vesicles; a vesicle is found if a centre lies inside it.
    delta_d, centre_nm : float
        Mean relative difference of the matched diameters; mean distance of the matched centres, nm.
    """

    mask_dice: float
    final_dice: float
    f1: float
    precision: float
    recall: float
    delta_d: float
    centre_nm: float


#: Names of the figures of `Standing` for a table.
FIGURES = {
    "mask_dice": "mask Dice",
    "final_dice": "final Dice",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "delta_d": "delta_d",
    "centre_nm": "centre error (nm)",
}


@dataclass(frozen=True)
class _Known:
    """What is annotated of a part, as a region."""

    known: NDArray[np.bool_]
    grid: Grid

    def to_mask(self, grid: Grid) -> NDArray[np.bool_]:
        """The slab of the array that a grid cropped from the part's is."""
        low = np.rint(self.grid.to_vox([grid.origin_nm])[0]).astype(int)
        z, y, x = (slice(a, a + n) for a, n in zip(low, grid.shape_zyx, strict=True))
        return self.known[z, y, x]


def standing(
    network: Network,
    parts: Sequence[Part],
    settings: Settings | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Standing:
    """Segment parts of datasets with a network and compare with what is annotated.

    Parameters
    ----------
    network : Network
        At the voxel size of the parts.
    parts : sequence of Part
    settings : Settings, optional
    progress : callable, optional
        Called with 1 after each part.
    """
    from deepvesicle.scoring.evaluation import evaluate

    settings = settings or Settings()
    mask_sums, dice_sums = np.zeros(2), np.zeros(2)
    tp = fp = fn = 0
    deltas: list[tuple[int, float, float]] = []
    for part in parts:
        result = segment(part.tomogram(), settings, network=network, evidence=evidence_of(network))
        known = part.volume.read("annotated", part.box) > 0
        truth = (part.volume.read("mask", part.box) > 127) & known
        found = (result.probability.values() > network.threshold) & known
        mask_sums += (2 * np.count_nonzero(found & truth), np.count_nonzero(found) + np.count_nonzero(truth))
        accepted = result.vesicles.select(result.vesicles.accepted)
        evaluation = evaluate(accepted, part.vesicles(), region=_Known(known, part.grid))
        score = evaluation.by_centre
        tp, fp, fn = tp + score.tp, fp + score.fp, fn + score.fn
        if score.tp:
            deltas.append((score.tp, score.delta_d, score.delta_c_nm))
        if np.isfinite(evaluation.dice):
            weight = np.count_nonzero(truth)
            dice_sums += (weight * evaluation.dice, weight)
        if progress:
            progress(1)
    counts, delta_d, centre = np.array(deltas).reshape(-1, 3).T
    return Standing(
        mask_dice=_ratio(*mask_sums),
        final_dice=_ratio(*dice_sums),
        f1=_ratio(2 * tp, 2 * tp + fp + fn),
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, tp + fn),
        delta_d=_ratio(float(counts @ delta_d), tp),
        centre_nm=_ratio(float(counts @ centre), tp),
    )


def table(standings: Sequence[tuple[str, Standing]]) -> str:
    """Figures of several networks side by side, in Markdown; one row a figure, one column a network."""
    lines = ["| |" + "".join(f" {name} |" for name, _ in standings), "|---|" + "---|" * len(standings)]
    for figure, label in FIGURES.items():
        values = (getattr(s, figure) for _, s in standings)
        lines.append(f"| {label} |" + "".join(f" {_text(v)} |" for v in values))
    return "\n".join(lines)


def _text(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
