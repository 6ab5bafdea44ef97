"""The figure of the statistics: bars where the values are, readable without colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepvesicle.errors import OutputExistsError
from deepvesicle.report.statistics_figure import BAR_COLOUR, MEDIAN_COLOUR, bar_edges, draw_statistics


def pixels(path: Path) -> NDArray[np.int_]:
    from matplotlib.image import imread

    return np.rint(imread(path)[..., :3] * 255).astype(int)


def coloured(image: NDArray[np.int_], colour: str) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(axis=2) < 12).sum())


@pytest.mark.parametrize("scale", [0.01, 1, 33, 4e4])
def test_bars_hold_all_values(rng: np.random.Generator, scale: float) -> None:
    values = rng.normal(5, 10, 300) * scale
    edges = bar_edges(values)
    assert np.histogram(values, edges)[0].sum() == 300 and 1 <= len(edges) - 1 <= 24
    assert len(bar_edges(np.array([20.0]))) == 2
    assert np.histogram([20.0], bar_edges(np.array([20.0])))[0].sum() == 1


def test_bars_have_round_edges() -> None:
    edges = bar_edges(np.array([-3.0, 101.0]))
    np.testing.assert_allclose(edges, np.arange(-5, 106, 5))


def test_panels(tmp_path: Path, rng: np.random.Generator) -> None:
    radii, gaps, zone = rng.normal(20, 2, 200), rng.exponential(9, 200), rng.uniform(0, 400, 200)
    draw_statistics(tmp_path / "two.png", radii, gaps)
    draw_statistics(tmp_path / "three.png", radii, gaps, zone, zone_limits_nm=(45, 75, 150, 250))
    two, three = pixels(tmp_path / "two.png"), pixels(tmp_path / "three.png")
    assert abs(three.shape[1] / two.shape[1] - 1.5) < 0.01
    assert coloured(three, BAR_COLOUR) > 1.2 * coloured(two, BAR_COLOUR) > 10000
    assert coloured(two, MEDIAN_COLOUR) > 300
    with pytest.raises(OutputExistsError):
        draw_statistics(tmp_path / "two.png", radii, gaps)


def test_bars_and_median_differ_in_grey() -> None:
    def grey(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.3 * red + 0.59 * green + 0.11 * blue

    assert grey(BAR_COLOUR) - grey(MEDIAN_COLOUR) > 60


def test_nothing_to_draw(tmp_path: Path) -> None:
    none = np.full(3, np.nan)
    draw_statistics(tmp_path / "none.png", none, none, none, zone_limits_nm=(45,))
    assert coloured(pixels(tmp_path / "none.png"), BAR_COLOUR) == 0
