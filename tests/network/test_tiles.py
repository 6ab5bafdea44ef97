"""Columns: they cover the volume, fit into the memory, and take the least work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepvesicle.network.schedule import Schedule
from deepvesicle.network.tiles import Tiling, column_bytes, column_work, plan_columns, plan_tiles
from deepvesicle.network.unet import UNetShape

SHAPE = UNetShape(3, 16)
VOLUME = (300, 928, 928)


def _work(tiling: Tiling, depth: int) -> float:
    return len(tiling.columns) * column_work(SHAPE, Schedule.of(3, tiling.slices), tiling.inner_yx, depth)


def test_tiles_cover_every_voxel_once() -> None:
    inner, regions = plan_tiles((37, 150, 61), 48, 8)
    seen = np.zeros((37, 150, 61), dtype=int)
    for region in regions:
        seen[region] += 1
        assert all(r.start % 8 == 0 for r in region)
    assert seen.min() == seen.max() == 1
    assert all(n % 8 == 0 and n <= 48 for n in inner)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(8, 400), st.integers(8, 700), st.integers(8, 700), st.floats(3e8, 3e9), st.integers(1, 3), st.booleans()
)
def test_columns_cover_every_voxel_once(nz: int, ny: int, nx: int, budget: float, levels: int, views: bool) -> None:
    shape = UNetShape(levels, 16)
    tiling = plan_columns((nz, ny, nx), shape, budget, views=8 if views else 1)
    seen = np.zeros((ny, nx), dtype=int)
    for y, x in tiling.columns:
        seen[y, x] += 1
        assert y.start % shape.alignment_vox == x.start % shape.alignment_vox == 0
        assert y.stop - y.start <= tiling.inner_yx[0] and x.stop - x.start <= tiling.inner_yx[1]
    assert seen.min() == seen.max() == 1
    assert all(n % shape.alignment_vox == 0 for n in tiling.inner_yx)
    assert tiling.slices % shape.alignment_vox == 0


@pytest.mark.parametrize("value_bytes", [2, 4])
def test_more_memory_means_less_work(value_bytes: int) -> None:
    budgets = np.array([0.4, 0.6, 0.9, 1.3, 1.8, 3.0, 6.0]) * 1e9
    tilings = [plan_columns(VOLUME, SHAPE, budget, value_bytes=value_bytes) for budget in budgets]
    assert all(tiling.bytes_needed <= budget for tiling, budget in zip(tilings, budgets, strict=True))
    work = [_work(tiling, VOLUME[0]) for tiling in tilings]
    assert work == sorted(work, reverse=True) and work[-1] < 0.75 * work[0]


def test_columns_may_be_oblong_where_that_saves_work() -> None:
    tiling = plan_columns((300, 160, 1600), SHAPE, 1.8e9)
    assert tiling.inner_yx[0] == 160 and tiling.inner_yx[1] > 200


def test_the_edge_asked_for_is_kept() -> None:
    assert plan_columns(VOLUME, SHAPE, 1e10, largest=144).inner_yx == (136, 136)  # 7 equal ones
    assert plan_columns((50, 30, 30), SHAPE, 1e10, largest=16).inner_yx == (16, 16)


def test_the_smallest_column_is_taken_where_none_fits() -> None:
    tiling = plan_columns(VOLUME, SHAPE, 1e6)
    assert max(tiling.inner_yx) <= 40 and tiling.bytes_needed > 1e6


def test_the_model_of_the_memory_is_above_what_was_measured() -> None:
    """Peaks of the process beyond what it had before, GB, measured on two cores: edge, slices, bytes of a value."""
    measured = {
        (32, 8, 4): 0.159,
        (96, 8, 4): 0.275,
        (128, 16, 4): 0.479,
        (184, 8, 4): 0.604,
        (232, 8, 4): 0.848,
        (232, 16, 4): 0.988,
        (320, 8, 4): 1.534,
        (320, 16, 4): 2.042,
        (232, 16, 2): 0.596,
        (320, 8, 2): 0.847,
        (320, 32, 2): 1.748,
        (464, 8, 2): 1.535,
        (464, 16, 2): 2.125,
    }
    for (edge, slices, value_bytes), gigabytes in measured.items():
        model = column_bytes(SHAPE, Schedule.of(3, slices), (edge, edge), value_bytes) / 1e9
        assert gigabytes <= model < 1.35 * gigabytes + 0.06, (edge, slices, value_bytes, model)
