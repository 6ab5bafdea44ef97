"""What `bin/benchmark model` compares: networks run over tomograms, their pooled scores, and rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepvesicle.grid import Grid, Probability, Tomogram
from deepvesicle.network.zoo import Network
from deepvesicle.pipeline import Result, evidence_of, segment
from deepvesicle.scoring.match import match
from deepvesicle.settings import Settings
from deepvesicle.vesicles import Vesicles
from tests.benchmark.scenes import is_nested


@dataclass(frozen=True)
class Contender:
    """A network, and what goes with it.

    Parameters
    ----------
    network : Network
    split_at : float
        Probability at which its mask is split without fit.
    """

    network: Network
    split_at: float

    def run(self, tomogram: Tomogram) -> Outcome:
        """Segment a tomogram with the default settings, and split the same mask."""
        result = run(tomogram, self.network)
        return Outcome(result, accepted(result), plain_split(result.probability, tomogram.grid, self.split_at))


@dataclass(frozen=True)
class Outcome:
    """What came out of one tomogram: all, the vesicles that count, and those of the plain split."""

    result: Result
    accepted: Vesicles
    split: Vesicles


@dataclass(frozen=True)
class Aim:
    """The figure asked for."""

    least: float | None = None
    most: float | None = None
    within: float | None = None

    def __str__(self) -> str:
        named = (("at least", self.least), ("at most", self.most), ("within ±", self.within))
        return ", ".join(f"{word}{'' if word.endswith('±') else ' '}{v:g}" for word, v in named if v is not None)

    def met(self, value: float) -> bool:
        """Whether a figure is good enough; one that is not known is not."""
        low = -np.inf if self.least is None else self.least
        high = np.inf if self.most is None else self.most
        return low <= value <= high and (self.within is None or abs(value) <= self.within)


@dataclass(frozen=True)
class Line:
    """A row of the table: cells of our vesicles, our split, the published network's vesicles, its split."""

    case: str
    figure: str
    asked: str
    cells: tuple[str, str, str, str]
    missed: bool = False


def line(
    case: str, figure: str, values: Sequence[float], form: str, aim: Aim | None = None, splits: Sequence[float] = ()
) -> Line:
    """A row of numbers: one for each contender, and of the plain splits where these have the figure."""

    def cell(numbers: Sequence[float], which: int) -> str:
        return format(numbers[which], form) if which < len(numbers) and np.isfinite(numbers[which]) else "-"

    cells = (cell(values, 0), cell(splits, 0), cell(values, 1), cell(splits, 1))
    return Line(case, figure, str(aim or ""), cells, aim is not None and not aim.met(values[0]))


@dataclass
class Pool:
    """Scores of several tomograms together.

    Parameters
    ----------
    false : int
        Wrong ones.
    radii_nm, errors_nm, nested : lists
        Of every vesicle that counts: outer radius, how far off the centre was found (NaN: missed), and whether it
        lies inside another one.
    """

    false: int = 0
    radii_nm: list[float] = field(default_factory=list)
    errors_nm: list[float] = field(default_factory=list)
    nested: list[bool] = field(default_factory=list)

    def add(self, vesicles: Vesicles, truth: Vesicles, counted: NDArray[np.bool_]) -> None:
        """Match what was found in a tomogram with its truth."""
        score = match(vesicles, truth, counted=counted)
        found, true = score.pairs.T
        errors = np.full(len(truth), np.nan)
        centres = vesicles.grid.to_nm(vesicles.centres_vox[found])
        errors[true] = np.linalg.norm(centres - truth.grid.to_nm(truth.centres_vox[true]), axis=1)
        self.false += score.fp
        self.radii_nm += truth.radii_nm[counted].tolist()
        self.errors_nm += errors[counted].tolist()
        self.nested += is_nested(truth)[counted].tolist()

    @property
    def found(self) -> NDArray[np.bool_]:
        """Which of the vesicles were found (N,)."""
        return np.isfinite(np.array(self.errors_nm, dtype=float))

    @property
    def f1(self) -> float:
        """Of all together."""
        hits = int(self.found.sum())
        return 2 * hits / max(hits + self.false + len(self.found), 1)

    def counts(self) -> str:
        """Found, missed and wrong ones."""
        return f"{self.found.sum()} / {(~self.found).sum()} / {self.false}"

    def median_error_nm(self, beyond_nm: float = 0.0) -> float:
        """Median distance of the centres of those found with a radius beyond a limit."""
        errors = np.array(self.errors_nm)[self.found & (np.array(self.radii_nm) > beyond_nm)]
        return float(np.median(errors)) if len(errors) else np.nan


class Pools:
    """A pool for each contender's vesicles, and one for each plain split."""

    def __init__(self, contenders: Sequence[Contender]) -> None:
        self.contenders = contenders
        self.fits, self.splits = ([Pool() for _ in contenders] for _ in range(2))

    def run(self, tomogram: Tomogram, truth: Vesicles, counted: NDArray[np.bool_]) -> list[Outcome]:
        """Segment a tomogram with each contender and add its scores."""
        outcomes = [contender.run(tomogram) for contender in self.contenders]
        for outcome, fit, split in zip(outcomes, self.fits, self.splits, strict=True):
            fit.add(outcome.accepted, truth, counted)
            split.add(outcome.split, truth, counted)
        return outcomes

    def lines(self, case: str, least_f1: float | None) -> Iterator[Line]:
        """Counts and F1."""
        counts = [pool.counts() for pool in self.fits] + ["-"]
        yield Line(case, "found / missed / wrong", "", (counts[0], "", counts[1], ""))
        f1, plain = ([pool.f1 for pool in pools] for pools in (self.fits, self.splits))
        yield line(case, "F1", f1, ".3f", None if least_f1 is None else Aim(least=least_f1), plain)


def run(tomogram: Tomogram, network: Network) -> Result:
    """Segment with the default settings and the network's own calibration, where it has one."""
    return segment(tomogram, Settings(), network=network, evidence=evidence_of(network))


def accepted(result: Result) -> Vesicles:
    """Those that count."""
    return result.vesicles.select(result.vesicles.accepted)


def plain_split(probability: Probability, grid: Grid, threshold: float) -> Vesicles:
    """Spheres at the maxima of the mask's distance transform: at least 9 nm deep and 12 nm apart."""
    depth = ndimage.distance_transform_edt(probability.values() > threshold) * probability.grid.voxel_nm
    size = 2 * round(12 / 2 / probability.grid.voxel_nm) + 1
    peaks = np.argwhere((depth == ndimage.maximum_filter(depth, size=size)) & (depth >= 9.0))
    values = depth[tuple(peaks.T)]
    kept: list[int] = []
    for i in np.argsort(-values, kind="stable"):
        if all(np.linalg.norm(peaks[i] - peaks[j]) * probability.grid.voxel_nm >= 12 for j in kept):
            kept.append(int(i))
    centres = probability.grid.map_points(peaks[kept].astype(float), grid)
    return Vesicles.from_spheres(grid, centres, grid.length_to_vox(values[kept]))
