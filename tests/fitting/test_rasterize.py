"""Balls drawn against a plain definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepvesicle.errors import BadInputError
from deepvesicle.fitting.rasterize import draw_slab, rasterize, without_label
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


# --- gaps between labels


def too_near(labels: np.ndarray, gap: int) -> int:
    """Pairs of voxels of two labels that differ by `gap` or less along all axes, by the definition."""
    count = 0
    steps = np.indices((2 * gap + 1,) * 3).reshape(3, -1).T - gap
    padded = np.pad(labels, gap)
    for step in steps:
        place = tuple(slice(gap + s, gap + s + n) for s, n in zip(step, labels.shape, strict=True))
        other = padded[place]
        count += int(np.count_nonzero((labels != other) & (labels > 0) & (other > 0)))
    return count // 2


def crowded(rng: np.random.Generator, grid: Grid, count: int = 25) -> Vesicles:
    """Balls that overlap, touch and stick out of the grid, with ids in no order."""
    vesicles = Vesicles.from_spheres(
        grid,
        rng.uniform(-3, np.array(grid.shape_zyx) + 3, (count, 3)),
        rng.uniform(2.5, 8, count),
        status=[Status.REFINED] * count,
    )
    return vesicles.replace(ids=rng.permutation(300)[:count] + 1)


@pytest.mark.parametrize("gap", [1, 2, 3])
def test_no_two_labels_are_nearer_than_the_gap(gap: int, rng: np.random.Generator) -> None:
    vesicles = crowded(rng, Grid((30, 41, 52), 1.3, (4.0, 5.0, 6.0)))
    whole, apart = rasterize(vesicles).data, rasterize(vesicles, gap_vox=gap).data
    assert too_near(whole, gap) > 1000
    assert too_near(apart, gap) == 0
    kept = apart > 0
    np.testing.assert_array_equal(apart[kept], whole[kept])
    # What was taken had another label nearby; of this little could be put back.
    padded, after = (np.pad(labels, gap) for labels in (rasterize(vesicles).data, apart))
    needless = spare = 0
    inner = np.argwhere((whole > 0) & ~kept)
    inner = inner[np.all((inner >= gap) & (inner < np.array(whole.shape) - gap), axis=1)]
    for place in inner:
        around = tuple(slice(p, p + 2 * gap + 1) for p in place)
        own = whole[tuple(place)]
        needless += not np.any((padded[around] > 0) & (padded[around] != own))
        spare += not np.any((after[around] > 0) & (after[around] != own))
    assert len(inner) > 500 and needless == 0
    assert spare < 0.2 * len(inner)


def test_no_gap_is_as_before(rng: np.random.Generator) -> None:
    vesicles = crowded(rng, GRID)
    np.testing.assert_array_equal(rasterize(vesicles, gap_vox=0).data, plain(vesicles, GRID))


@pytest.mark.parametrize("gap", [1, 2, 4])
def test_vesicles_far_enough_apart_are_not_touched_by_a_gap(gap: int) -> None:
    # Nearest voxels of the first two: x = 14 and x = 15 + gap.
    apart = spheres([[11, 20, 9], [11, 20, 15 + gap + 5], [11, 34, 9]], [5.2, 5.3, 2.0])
    np.testing.assert_array_equal(rasterize(apart, gap_vox=gap).data, rasterize(apart).data)
    near = spheres([[11, 20, 9], [11, 20, 15 + gap + 4]], [5.2, 5.3])
    whole, cut = rasterize(near).data, rasterize(near, gap_vox=gap).data
    assert whole[11, 20, 14] == 1 and whole[11, 20, 14 + gap] == 2  # they do not overlap
    lost = np.count_nonzero(whole) - np.count_nonzero(cut)
    assert 0 < lost < 0.05 * np.count_nonzero(whole) and too_near(cut, gap) == 0


@pytest.mark.parametrize(("apart", "gap"), [(10, 1), (10, 3), (11, 2), (16, 3), (17, 2)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_equal_spheres_lose_alike(apart: int, gap: int, axis: int) -> None:
    grid = Grid((40, 40, 40), 2.0)
    centres = np.full((2, 3), 19.0)
    centres[1, axis] += apart - apart // 2
    centres[0, axis] -= apart // 2
    vesicles = Vesicles.from_spheres(grid, centres, [8.3, 8.3], status=[Status.REFINED] * 2)
    labels = np.moveaxis(rasterize(vesicles, gap_vox=gap).data, axis, 0)
    first, second = (np.flatnonzero((labels == number).any(axis=(1, 2))) for number in (1, 2))
    assert second.min() - first.max() == gap + 1
    # The second is the mirror image of the first.
    low, high = int(centres[0, axis]), int(centres[1, axis])
    for step in range(-9, apart + 1):
        np.testing.assert_array_equal(labels[low + step] == 1, labels[high - step] == 2)


def test_with_a_gap_neither_the_order_of_rows_nor_the_part_drawn_matters(rng: np.random.Generator) -> None:
    grid = Grid((30, 41, 52), 1.3, (4.0, 5.0, 6.0))
    vesicles = crowded(rng, grid)
    whole = rasterize(vesicles, gap_vox=2).data
    np.testing.assert_array_equal(rasterize(vesicles.select(rng.permutation(25)), gap_vox=2).data, whole)
    part = grid.cropped((7, 12, 20), (13, 20, 18))
    np.testing.assert_array_equal(rasterize(vesicles, part, gap_vox=2).data, whole[7:20, 12:32, 20:38])
    for start in range(0, 30, 4):
        out = np.full((min(4, 30 - start), 41, 52), 99, np.uint16)
        drawn = draw_slab(vesicles, grid.cropped((start, 0, 0), out.shape), out, gap_vox=2)
        np.testing.assert_array_equal(out, whole[start : start + 4])
        assert all(count == np.count_nonzero(out[box] == number) for number, count, box in drawn)
        assert sum(count for _, count, _ in drawn) == np.count_nonzero(out)


def test_a_gap_alters_no_sphere_and_cannot_be_negative() -> None:
    before = OVERLAPPING.centres_vox.copy(), OVERLAPPING.radii_vox.copy()
    rasterize(OVERLAPPING, gap_vox=3)
    np.testing.assert_array_equal(OVERLAPPING.centres_vox, before[0])
    np.testing.assert_array_equal(OVERLAPPING.radii_vox, before[1])
    with pytest.raises(ValueError, match="gap"):
        rasterize(OVERLAPPING, gap_vox=-1)
    for few in (Vesicles.empty(GRID), OVERLAPPING.select([0])):
        np.testing.assert_array_equal(rasterize(few, gap_vox=2).data, rasterize(few).data)


def test_nested_spheres_with_a_gap() -> None:
    nested = spheres([[11, 20, 15], [11, 20, 15], [11, 21.5, 16]], [9, 4, 3])
    assert too_near(rasterize(nested, gap_vox=2).data, 2) == 0


def test_vesicles_without_a_voxel_are_named() -> None:
    grid = Grid((30, 40, 50), 2.0)
    inside = Vesicles.from_spheres(grid, [[15, 20, 12], [15, 20, 12.5], [15, 20, 38]], [8.0, 3.0, 6.0])
    accepted = inside.with_status([True] * 3, Status.REFINED, "")
    assert without_label(accepted, rasterize(accepted)) == [2]
    assert without_label(accepted.with_status([False, True, False], Status.REJECTED, ""), rasterize(accepted)) == []
