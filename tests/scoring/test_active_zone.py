"""The active zone as dense points: planes and tilted sheets drawn as contours, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import KDTree

from deepvesicle.errors import BadInputError
from deepvesicle.files.region import LabelRegion
from deepvesicle.grid import Grid, Labels
from deepvesicle.scoring import statistics
from deepvesicle.scoring.active_zone import STEP_VOX, join_lines, resampled, zone_of_model, zone_of_region
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import FLAG_OPEN, SCATTERED_OBJECT, UNITS_NM, Contour, Model, Object

GRID = Grid((60, 130, 170), 1.7, (4.0, -8.0, 30.0))
REAL_MESH = Path(__file__).parents[2].parent / "shared" / "data" / "imod_models" / "meshed_curvature_example.mod"


def model_of(lines: Sequence[NDArray[np.float64]], flags: int = FLAG_OPEN) -> Model:
    contours = tuple(Contour(index_to_model(np.asarray(line, dtype=float))) for line in lines)
    return Model(
        objects=(Object(name="az", contours=contours, flags=flags),),
        image_size=(170, 130, 60),
        pixel_size=1.7,
        units=UNITS_NM,
    )


def points_of(lines: Sequence[NDArray[np.float64]], flags: int = FLAG_OPEN) -> NDArray[np.float64]:
    return zone_of_model("a.mod", model_of(lines, flags), [0], GRID)[0]


def distances(points: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(KDTree(points).query(places)[0])


def line(z: float, y0: float, y1: float, x0: float, x1: float) -> NDArray[np.float64]:
    """Two points on one slice."""
    return np.array([[z, y0, x0], [z, y1, x1]])


def test_points_along_a_line_are_dense_and_on_it() -> None:
    drawn = np.array([[3.0, 1, 1], [3, 1, 9.3], [3, 40, 9.3], [3, 40, 9.3]])
    points = resampled(drawn)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() <= STEP_VOX + 1e-9
    assert distances(points, drawn).max() < 1e-9
    on_it = ((points[:, 1] == 1) & (points[:, 2] <= 9.3)) | (np.abs(points[:, 2] - 9.3) < 1e-9)
    assert on_it.all() and (points[:, 0] == 3).all()


@pytest.mark.parametrize("turned", [False, True])
def test_a_tilted_sheet_of_few_contours(rng: np.random.Generator, turned: bool) -> None:
    """x = 40 + z, drawn on every tenth slice by two points each, every other one the other way round."""
    lines = [line(z, 20, 110, 40 + z, 40 + z) for z in range(5, 56, 10)]
    if turned:
        lines = [part[::-1] if i % 2 else part for i, part in enumerate(lines)]
    points = points_of(lines)
    assert np.abs(points[:, 2] - points[:, 0] - 40).max() < 1e-4  # no point off the sheet; the file keeps float32
    on_sheet = np.stack([z := rng.uniform(5, 55, 500), rng.uniform(20, 110, 500), 40 + z], axis=1)
    normal = np.array([1, 0, -1]) / np.sqrt(2)
    for off in (0.0, 8.0, -25.0):
        found = distances(points, on_sheet + off * normal)
        np.testing.assert_allclose(found, abs(off), atol=0.36 if off == 0 else 0.02)


def test_lines_of_different_length_are_joined_to_their_ends() -> None:
    lower, upper = resampled(line(0, 0, 100, 0, 0)), resampled(line(20, 40, 60, 0, 0))
    points = join_lines(lower, upper)
    assert distances(points, np.array([[10.0, 20, 0], [10, 50, 0], [10, 80, 0], [20, 40, 0], [0, 0, 0]])).max() < 0.5
    assert distances(points, np.array([[15.0, 5, 0]]))[0] > 5  # outside the trapezium


def test_what_lies_apart_is_not_joined() -> None:
    """Two zones side by side, drawn on the same slices; two above each other, 46 slices (78 nm, then 138 nm) apart."""
    beside = points_of([line(z, 20, 110, x, x) for z in (10, 14, 18) for x in (20, 120)])
    assert not ((beside[:, 2] > 21) & (beside[:, 2] < 119)).any()
    assert distances(beside, np.array([[12.0, 60, 20], [16, 60, 120]])).max() < 0.5
    tall = [line(z, 20, 110, 60, 60) for z in (5, 51)]
    assert distances(points_of(tall), np.array([[28.0, 60, 60]]))[0] < 0.5
    coarse = Grid(GRID.shape_zyx, 3.0)
    model = Model(objects=model_of(tall).objects, image_size=(170, 130, 60), pixel_size=3.0, units=UNITS_NM)
    assert distances(zone_of_model("a.mod", model, [0], coarse)[0], np.array([[28.0, 60, 60]]))[0] > 22


def test_closed_contours_return_and_points_stay_points() -> None:
    square = np.array([[10.0, 20, 20], [10, 20, 80], [10, 80, 80], [10, 80, 20]])
    assert distances(points_of([square], 0), np.array([[10.0, 50, 20]]))[0] < 0.3
    assert distances(points_of([square]), np.array([[10.0, 50, 20]]))[0] > 29
    scattered = points_of([square], SCATTERED_OBJECT)
    np.testing.assert_allclose(scattered, square, atol=1e-5)


def test_lines_that_are_not_on_one_slice() -> None:
    slanted = np.array([[10.0, 20, 20], [40, 20, 20]])
    assert distances(points_of([slanted]), np.array([[25.0, 20, 20]]))[0] < 0.3


def test_nothing_drawn(tmp_path: Path) -> None:
    from imod_bridge.model import write_model

    write_model(tmp_path / "empty.mod", model_of([]))
    with pytest.raises(BadInputError, match="no active zone"):
        zone_of_model(tmp_path / "empty.mod", model_of([]), [0], GRID)


def test_mesh_alone_is_taken_by_its_corners() -> None:
    if not REAL_MESH.exists():
        pytest.skip("no models of IMOD here")
    from dataclasses import replace

    from imod_bridge.mesh import read_mesh_pieces
    from imod_bridge.model import read_model

    model = read_model(REAL_MESH)
    pieces = read_mesh_pieces(REAL_MESH)
    row = next(i for i, listed in enumerate(pieces) if listed)
    objects = tuple(replace(item, contours=()) for item in model.objects)
    grid = Grid(tuple(model.image_size[::-1]), 1.0)  # type: ignore[arg-type]
    points, notes = zone_of_model(REAL_MESH, replace(model, objects=objects), [row], grid)
    assert len(points) == sum(len(piece) for piece in pieces[row]) > 10
    assert len(notes) == 1 and "mesh" in notes[0] and "nm apart" in notes[0]


@pytest.mark.parametrize("slab_voxels", [1 << 23, 130 * 170 * 4])
def test_surface_of_a_label(monkeypatch: pytest.MonkeyPatch, slab_voxels: int) -> None:
    """A sheet of five voxels through all of the volume has two surfaces, and none where the volume ends."""
    monkeypatch.setattr(statistics, "SLAB_VOXELS", slab_voxels)
    data = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    data[:, :, 60:65], data[:, :, 90:] = 7, 2
    region = LabelRegion(Labels(data, GRID), 7)
    points = zone_of_region(region, GRID)
    assert len(points) == 2 * 60 * 130 and set(points[:, 2]) == {60.0, 64.0}
    data[...] = 0
    data[20:30, 40:60, 50:80] = 7
    assert len(zone_of_region(region, GRID)) == 10 * 20 * 30 - 8 * 18 * 28
    data[...] = 7
    with pytest.raises(BadInputError, match="no surface"):
        zone_of_region(region, GRID)
