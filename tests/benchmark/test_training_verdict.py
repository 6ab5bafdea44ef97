"""What the comparison of trainings stands on: masks and spheres of a known network are judged rightly."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.grid import Grid, Probability, Tomogram
from deepvesicle.network.patches import occupancy
from deepvesicle.vesicles import Vesicles
from tests.benchmark.training import Scene, Trained, Verdict, cells, head, judge, proposed_f1

GRID = Grid((32, 48, 64), 2.2)
#: Two whole ones and one that a face cuts.
TRUTH = Vesicles.from_spheres(
    GRID,
    [[14.3, 15.2, 14.8], [16.1, 30.4, 44.7], [15.0, 1.0, 40.0]],
    [9.0, 10.0, 8.5],
    features={"inside_fraction": [1.0, 1.0, 0.6]},
)


def scene() -> Scene:
    tomogram = Tomogram(np.zeros(GRID.shape_zyx, dtype=np.float32), GRID)
    return Scene(0.75, tomogram, TRUTH, occupancy(TRUTH, GRID).astype(np.float32) / np.float32(255))


def seen(factor: float, vesicles: Vesicles = TRUTH) -> Probability:
    """What a network would say that knows these vesicles, and is so sure of them."""
    return Probability(np.rint(factor * occupancy(vesicles, GRID)).astype(np.uint8), GRID)


def test_a_perfect_network() -> None:
    verdict = judge([scene()], [seen(1.0)])
    assert (verdict.dice, verdict.f1) == (pytest.approx(1.0, abs=1e-3), 1.0)


def test_a_network_that_is_not_sure_needs_a_low_threshold() -> None:
    verdict = judge([scene()], [seen(0.3)])
    assert verdict.dice == pytest.approx(2 * 0.3 / (1 + 0.3**2), abs=0.01)
    assert verdict.f1 == 1.0 and verdict.threshold < 0.3
    assert proposed_f1([scene()], [seen(0.3)], 0.5) == 0  # `propose` offers them as faint ones: these do not count


def test_phantoms_are_pooled() -> None:
    one = seen(1.0, TRUTH.select(np.array([True, False, False])))
    verdict = judge([scene(), scene()], [seen(1.0), one])
    assert verdict.f1 == pytest.approx(2 * 3 / (2 * 3 + 1))  # three of four found, none wrong
    assert verdict.dice < 0.95


def test_a_row_fills_its_columns() -> None:
    row = Trained("bce", 300, 3.26, {1.2: Verdict(0.9, 0.98, 0.25), 0.4: Verdict(0.6, 0.7, 0.15)}, 1000)
    named = dict(zip(head("loss", [row]), cells(row), strict=True))
    assert named["loss"] == "bce" and named["minutes"] == "3.3"
    assert (named["Dice, d' 0.4"], named["F1, d' 1.2"]) == ("0.600", "0.980 (0.25)")
