"""Statistics of vesicles whose answers are known: lattices, planes, and volumes that can be counted by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.files.outline import Outline
from deepvesicle.grid import Grid, Labels
from deepvesicle.scoring import statistics as module
from deepvesicle.scoring.statistics import Summary, inside_region, nearest_surfaces, vesicle_statistics
from deepvesicle.scoring.statistics_table import COLUMNS, write_statistics_csv
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((60, 130, 170), 1.7, (4.0, -8.0, 30.0))


def lattice(grid: Grid = GRID, spacing: float = 25.5, radius: float = 8.25) -> Vesicles:
    """Spheres on a cubic lattice: 2 x 5 x 6 of them, none cut."""
    axes = [np.arange(radius + 1, n - radius - 1, spacing) for n in grid.shape_zyx]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return Vesicles.from_spheres(grid, centres, np.full(len(centres), radius), status=(Status.MANUAL,) * len(centres))


def half(grid: Grid, end: float) -> Outline:
    """All of a grid with x below `end`, on slices 10 to 39."""
    corners = np.array([[-1.0, -1.0], [-1.0, end], [grid.shape_zyx[1], end], [grid.shape_zyx[1], -1.0]])
    return Outline(grid, {z: (corners,) for z in range(10, 40)})


def test_summary_of_known_values() -> None:
    values = np.array([4.0, 1.0, 3.0, 2.0, 10.0, np.nan])
    assert Summary.of(values) == Summary(5, 4.0, float(np.sqrt(12.5)), 3.0, 2.0, 4.0, 1.0, 10.0)
    one = Summary.of(np.array([7.0]))
    assert (one.number, one.mean, one.q1, one.q3) == (1, 7.0, 7.0, 7.0) and np.isnan(one.sd)
    assert Summary.of(np.zeros(0)).number == 0 and np.isnan(Summary.of(np.zeros(0)).mean)


def test_lattice() -> None:
    found = vesicle_statistics(lattice())
    assert found.number == 60
    assert found.radius.mean == pytest.approx(8.25 * 1.7) and found.radius.sd == pytest.approx(0, abs=1e-9)
    assert found.nearest.number == 60
    np.testing.assert_allclose(found.nearest_nm, (25.5 - 16.5) * 1.7)
    assert np.isnan(found.zone_nm).all() and np.isnan(found.density_per_um3)
    assert np.isnan(found.figures()["within_45_nm"]) and np.isnan(found.figures()["share_within_45_nm"])


def test_the_nearest_surface_is_not_that_of_the_nearest_centre() -> None:
    """A large sphere farther off is nearer than a small one; those that overlap have a negative distance."""
    centres = np.array([[0.0, 0, 0], [0, 0, 15], [0, 0, -20.0]])
    gaps, rows = nearest_surfaces(centres, np.array([5.0, 1.0, 12.0]))
    assert rows.tolist() == [2, 0, 0]
    np.testing.assert_allclose(gaps, [3, 9, 3])
    gaps, _ = nearest_surfaces(centres[:2], np.array([9.0, 8.0]))
    np.testing.assert_allclose(gaps, [-2, -2])


def test_few_vesicles_have_no_neighbour() -> None:
    for count in (0, 1):
        found = vesicle_statistics(lattice().select(np.arange(count)), zone_vox=np.zeros((1, 3)))
        assert found.number == count and found.nearest.number == 0
        assert np.isnan(found.nearest_nm).all() and not found.nearest_ids.any()
        assert set(found.figures()) == set(vesicle_statistics(lattice()).figures())


def test_neighbours_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    centres, radii = rng.uniform(0, 200, (50, 3)), rng.uniform(5, 15, 50)
    whole = nearest_surfaces(centres, radii)
    monkeypatch.setattr(module, "_PAIRS", 130)
    for one, other in zip(whole, nearest_surfaces(centres, radii), strict=True):
        np.testing.assert_array_equal(one, other)


def test_plane_as_active_zone() -> None:
    """Distances to a plane at x = 2 follow from x alone; one vesicle is pierced by it."""
    y, z = np.meshgrid(np.arange(-20.0, 150, 0.5), np.arange(-20.0, 80, 0.5))
    plane = np.stack([z, y, np.full(z.shape, 2.0)], axis=-1).reshape(-1, 3)
    table = lattice()
    found = vesicle_statistics(table, zone_vox=plane)
    truth = (np.abs(table.centres_vox[:, 2] - 2) - 8.25) * 1.7
    np.testing.assert_allclose(found.zone_nm, truth, atol=0.03)
    assert truth.min() < 0
    for limit in (45, 75, 150, 250):
        assert found.within(limit) == np.sum(truth <= limit)
        assert found.share_within(limit) == pytest.approx(np.mean(truth <= limit))
    assert 0 < found.share_within(45) < found.share_within(150) < 1
    with pytest.raises(ValueError, match="no points"):
        vesicle_statistics(table, zone_vox=np.zeros((0, 3)))


@pytest.mark.parametrize("slab_voxels", [1 << 23, 130 * 170 * 7])
def test_density_within_an_outline(monkeypatch: pytest.MonkeyPatch, slab_voxels: int) -> None:
    """30 slices of 130 x 86 voxels; of the lattice, one layer and three columns of 5 have their centres in them."""
    monkeypatch.setattr(module, "SLAB_VOXELS", slab_voxels)
    found = vesicle_statistics(lattice(), region=half(GRID, 85.5))
    volume = 30 * 130 * 86 * (1.7e-3) ** 3
    assert found.region_um3 == pytest.approx(volume)
    inside = (lattice().centres_vox[:, 2] < 85.5) & (np.abs(lattice().centres_vox[:, 0] - 24.5) < 15)
    assert found.number == inside.sum() == 15
    assert found.density_per_um3 == pytest.approx(15 / volume)
    np.testing.assert_array_equal(found.counts, inside)


def test_density_of_random_points_has_no_edge_effect(rng: np.random.Generator) -> None:
    """Counted by centres, the density in an outline is that of the whole, though many spheres are cut by its edge."""
    grid = Grid((40, 200, 240), 2.0)
    centres = rng.uniform([-20, -20, -20], [60, 220, 260], (12000, 3))
    table = Vesicles.from_spheres(grid, centres, rng.uniform(6, 14, 12000), status=(Status.MANUAL,) * 12000)
    truth = 12000 / (80 * 240 * 280 * 8e-9)
    corners = np.array([[30.5, 40.5], [30.5, 180.5], [150.5, 180.5], [150.5, 40.5]])
    outline = Outline(grid, {z: (corners,) for z in range(40)})
    found = vesicle_statistics(table, region=outline)
    assert found.density_per_um3 == pytest.approx(truth, rel=0.1)
    assert found.radius.mean == pytest.approx(10 * 2.0, rel=0.02)
    assert found.figures()["cut"] > 300


def test_neighbours_outside_the_outline_are_neighbours() -> None:
    found = vesicle_statistics(lattice().select([0, 1]), region=half(GRID, 25.5))
    assert found.number == 0  # z = 9.25 is below the first slice
    shifted = lattice().replace(centres_vox=lattice().centres_vox + [5, 0, 0]).select([0, 1])
    found = vesicle_statistics(shifted, region=half(GRID, 25.5))
    assert found.counts.tolist() == [True, False] and found.nearest_ids.tolist() == [2, 1]
    assert found.nearest.mean == pytest.approx(9 * 1.7)


def test_faces_of_the_volume() -> None:
    """A cut vesicle counts by its centre; where a face is nearer than the neighbour, this is told."""
    centres = [[30, 60, 60], [30, 60, 80], [30, 125, 100], [30, 131, 150], [30, -6, 20]]
    table = Vesicles.from_spheres(GRID, centres, [8.0] * 5, status=(Status.MANUAL,) * 5)
    found = vesicle_statistics(table)
    assert found.counts.tolist() == [True, True, True, False, False]
    assert found.cut.tolist() == [False, False, True, True, True]
    assert found.near_face.tolist()[:3] == [False, False, True]
    figures = found.figures()
    assert (figures["number"], figures["outside"], figures["cut"], figures["nearest_near_face"]) == (3, 2, 1, 1)
    unknown = vesicle_statistics(table, faces_known=False).figures()
    assert np.isnan(unknown["cut"]) and np.isnan(unknown["nearest_near_face"])


def test_rejected_rows_are_nothing() -> None:
    table = lattice().with_status(np.arange(60) == 1, Status.REJECTED, "no")
    found = vesicle_statistics(table)
    assert found.number == 59 and 2 not in found.nearest_ids
    assert vesicle_statistics(table.select([0, 1])).nearest.number == 0


def test_a_label_region_of_another_grid_counts_the_same(rng: np.random.Generator) -> None:
    from deepvesicle.files.region import LabelRegion

    labels = (rng.random(GRID.shape_zyx) < 0.3).astype(np.uint8) * 3
    inside, voxels = inside_region(GRID, LabelRegion(Labels(labels, GRID), 3), np.array([[-0.4, 5.2, 9.9]]))
    assert voxels == np.count_nonzero(labels) and inside[0] == (labels[0, 5, 10] == 3)


def test_table_of_all_vesicles(tmp_path: Path) -> None:
    found = vesicle_statistics(lattice(), region=half(GRID, 85.5), zone_vox=np.array([[0.0, 0, 0]]))
    write_statistics_csv(tmp_path / "a.csv", found)
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 60
    assert [int(row["id"]) for row in rows if row["counts"] == "1"] == found.vesicles.ids[found.counts].tolist()
    np.testing.assert_array_equal([float(row["active_zone_nm"]) for row in rows], found.zone_nm)
    np.testing.assert_array_equal([int(row["nearest_id"]) for row in rows], found.nearest_ids)
    alone = vesicle_statistics(lattice().select([0]), faces_known=False)
    write_statistics_csv(tmp_path / "b.csv", alone)
    with open(tmp_path / "b.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["nearest_id"] == row["nearest_nm"] == row["cut"] == row["active_zone_nm"] == ""
