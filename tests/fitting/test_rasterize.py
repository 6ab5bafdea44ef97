"""Balls drawn against a plain definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepvesicle.errors import BadInputError
from deepvesicle.fitting.rasterize import draw_slab, rasterize
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((23, 41, 34), 1.7, (3.0, -2.0, 0.5))


def spheres(centres: list[list[float]], radii: list[float], ids: list[int] | None = None) -> Vesicles:
    """Accepted vesicles on `GRID`."""
    return Vesicles(
        GRID,
        np.arange(1, len(radii) + 1) if ids is None else np.array(ids),
        np.array(centres),
        np.array(radii),
        status=(Status.REFINED,) * len(radii),
    )


def plain(vesicles: Vesicles, grid: Grid) -> np.ndarray:
    """The definition, over the whole volume: smallest power distance among the balls that hold the voxel."""
    z, y, x = np.indices(grid.shape_zyx)
    labels = np.zeros(grid.shape_zyx, dtype=int)
    best = np.full(grid.shape_zyx, np.inf)
    centres = vesicles.grid.map_points(vesicles.centres_vox, grid)
    for i in np.argsort(vesicles.ids):
        r2 = grid.length_to_vox(vesicles.radii_nm[i]) ** 2
        d2 = (z - centres[i, 0]) ** 2 + (y - centres[i, 1]) ** 2 + (x - centres[i, 2]) ** 2
        take = (d2 <= r2) & (d2 - r2 < best)
        labels[take], best[take] = vesicles.ids[i], (d2 - r2)[take]
    return labels


OVERLAPPING = spheres(
    [[9.3, 15.2, 12.8], [12.1, 22.7, 15.4], [10.6, 19.9, 21.3], [21.5, 39.2, 1.1], [-2.4, 5.0, 30.0]],
    [7.6, 5.1, 6.3, 5.5, 4.2],
    [7, 300, 2, 41, 5],
)


def test_it_follows_the_definition() -> None:
    labels = rasterize(OVERLAPPING)
    assert labels.data.dtype == np.uint16 and labels.grid == GRID
    np.testing.assert_array_equal(labels.data, plain(OVERLAPPING, GRID))
    assert set(np.unique(labels.data)) == {0, 2, 5, 7, 41, 300}


def test_the_order_of_rows_does_not_matter(rng: np.random.Generator) -> None:
    expected = rasterize(OVERLAPPING).data
    for _ in range(5):
        np.testing.assert_array_equal(rasterize(OVERLAPPING.select(rng.permutation(5))).data, expected)


def test_equal_claims_go_to_the_lower_id() -> None:
    twins = spheres([[10, 20, 12], [10, 20, 18]], [5, 5], [9, 4])
    for order in ([0, 1], [1, 0]):
        assert rasterize(twins.select(order)).data[10, 20, 15] == 4


def test_volume_is_that_of_the_spheres() -> None:
    labels = rasterize(spheres([[11.37, 20.81, 16.24]], [9.43])).data
    assert labels.astype(bool).sum() == pytest.approx(4 / 3 * np.pi * 9.43**3, rel=0.01)
    centre = np.argwhere(labels).mean(axis=0)
    np.testing.assert_allclose(centre, [11.37, 20.81, 16.24], atol=0.05)


def test_other_grids_keep_places_and_sizes() -> None:
    fine = GRID.rescaled(1.1)
    np.testing.assert_array_equal(rasterize(OVERLAPPING, fine).data, plain(OVERLAPPING, fine))
    part = GRID.cropped((4, 10, 5), (15, 20, 22))
    np.testing.assert_array_equal(rasterize(OVERLAPPING, part).data, rasterize(OVERLAPPING).data[4:19, 10:30, 5:27])


def test_only_accepted_vesicles_are_drawn_and_nothing_is_altered() -> None:
    some = OVERLAPPING.with_status([False, True, False, False, False], Status.REJECTED, "dark")
    before = some.centres_vox.copy(), some.radii_vox.copy()
    assert 300 not in rasterize(some).data
    np.testing.assert_array_equal(some.centres_vox, before[0])
    np.testing.assert_array_equal(some.radii_vox, before[1])
    assert not rasterize(Vesicles.from_spheres(GRID, [[10, 20, 12]], [5])).data.any()
    assert not rasterize(Vesicles.empty(GRID)).data.any()


def test_a_memory_map_is_cleared_and_filled(tmp_path: Path) -> None:
    out = np.memmap(tmp_path / "labels.raw", dtype=np.int32, mode="w+", shape=GRID.shape_zyx)
    out[:] = 99
    labels = rasterize(OVERLAPPING, out=out)
    assert labels.data is out
    out.flush()
    stored = np.fromfile(tmp_path / "labels.raw", dtype=np.int32).reshape(GRID.shape_zyx)
    np.testing.assert_array_equal(stored, plain(OVERLAPPING, GRID))


def test_ids_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(BadInputError, match="up to 255.*got 300"):
        rasterize(OVERLAPPING, dtype=np.uint8)


def test_bad_spheres_and_arrays_are_refused() -> None:
    with pytest.raises(BadInputError, match="vesicle 1 cannot be drawn"):
        rasterize(spheres([[np.nan, 1, 2]], [4]))
    with pytest.raises(BadInputError, match="positive radius"):
        rasterize(spheres([[3, 1, 2]], [0]))
    with pytest.raises(ValueError, match="shape"):
        rasterize(OVERLAPPING, out=np.zeros((3, 4, 5), dtype=np.uint16))
    with pytest.raises(ValueError, match="integer"):
        rasterize(OVERLAPPING, dtype=np.float32)


def test_slabs_together_are_the_whole(rng):
    grid = Grid((30, 41, 52), 1.3, (4.0, 5.0, 6.0))
    status = [Status.REFINED] * 9 + [Status.REJECTED]
    vesicles = Vesicles.from_spheres(grid, rng.uniform(-4, 50, (10, 3)), rng.uniform(2, 9, 10), status=status)
    labels = rasterize(vesicles)
    found = dict.fromkeys(vesicles.ids.tolist(), 0)
    for start in range(0, 30, 7):
        out = np.full((min(7, 30 - start), 41, 52), 99, np.uint16)
        drawn = draw_slab(vesicles, grid.cropped((start, 0, 0), out.shape), out)
        np.testing.assert_array_equal(out, labels.data[start : start + 7])
        for number, count, box in drawn:
            found[number] += count
            out[box] = 0
        assert not out.any()
    assert found == {number: np.count_nonzero(labels.data == number) for number in found}
