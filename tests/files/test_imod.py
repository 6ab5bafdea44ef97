"""Vesicles, points and outlines in IMOD models: read back exactly, at the right place, or refused with a reason."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepvesicle.errors import ModelFileError, OutputExistsError
from deepvesicle.files.imod import read_outline, read_points, read_vesicles_model, write_vesicles_model
from deepvesicle.files.outline import Outline
from deepvesicle.grid import Grid
from deepvesicle.marks import DELETED, NOT_FITTED
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import Contour, ImageReference, Model, Object, read_model, write_model

GRID = Grid((52, 215, 320), 2.237, (10.0, -20.0, 30.0))
SCATTERED = 0x208


def some_vesicles(rng: np.random.Generator, count: int = 12, grid: Grid = GRID) -> Vesicles:
    """Spheres anywhere in the volume, of every status, with ids out of order."""
    status = [list(Status)[i % len(Status)] for i in range(count)]
    return Vesicles(
        grid,
        rng.permutation(np.arange(1, 5 * count + 1))[:count],
        rng.uniform(0, np.array(grid.shape_zyx) - 1, (count, 3)),
        rng.uniform(5.3, 14.8, count),
        status=tuple(status),
    )


def by_id(vesicles: Vesicles) -> Vesicles:
    return vesicles.select(np.argsort(vesicles.ids))


def test_our_models_read_back_exactly(rng, tmp_path):
    path = tmp_path / "v.mod"
    vesicles = some_vesicles(rng)
    write_vesicles_model(path, vesicles)
    back, wanted = by_id(read_vesicles_model(path, GRID)), by_id(vesicles)
    np.testing.assert_array_equal(back.ids, wanted.ids)
    assert back.status == wanted.status
    np.testing.assert_array_equal(back.radii_vox, wanted.radii_vox.astype(np.float32))
    half = np.array([0.0, 0.5, 0.5])
    np.testing.assert_array_equal(back.centres_vox, (wanted.centres_vox + half).astype(np.float32) - half)
    assert back.grid == GRID
    assert read_points(path, GRID).shape == (0, 3)


def test_what_was_read_writes_the_same_bytes(rng, tmp_path):
    write_vesicles_model(tmp_path / "a.mod", some_vesicles(rng))
    write_vesicles_model(tmp_path / "b.mod", read_vesicles_model(tmp_path / "a.mod", GRID))
    assert (tmp_path / "a.mod").read_bytes() == (tmp_path / "b.mod").read_bytes()


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 2**31 - 1),
            st.tuples(st.floats(-40, 90), st.floats(-40, 250), st.floats(-40, 350)),
            st.floats(0.5, 100),
            st.sampled_from(list(Status)),
        ),
        max_size=8,
        unique_by=lambda row: row[0],
    ),
    voxel_nm=st.floats(0.3, 4.0),
)
def test_any_table_reads_back(rows, voxel_nm, tmp_path_factory):
    grid = Grid((52, 215, 320), voxel_nm)
    ids, centres, radii, status = zip(*rows, strict=True) if rows else ((), (), (), ())
    vesicles = Vesicles(grid, np.array(ids, dtype=int), np.array(centres), np.array(radii), status=status)
    path = tmp_path_factory.getbasetemp() / "any.mod"
    write_vesicles_model(path, vesicles, overwrite=True)
    back, wanted = by_id(read_vesicles_model(path, grid)), by_id(vesicles)
    np.testing.assert_array_equal(back.ids, wanted.ids)
    np.testing.assert_allclose(back.centres_vox, wanted.centres_vox, rtol=1e-7, atol=2e-5)
    np.testing.assert_allclose(back.radii_vox, wanted.radii_vox, rtol=1e-7)
    assert back.status == wanted.status


def test_the_model_is_what_3dmod_shows_as_spheres(tmp_path):
    path = tmp_path / "v.mod"
    centres = [[30.0, 80.0, 100.0], [10.25, 20.5, 30.75], [1.0, 2.0, 3.0]]
    status = (Status.REFINED, Status.REJECTED, Status.REFINED)
    vesicles = Vesicles(GRID, np.array([7, 3, 5]), np.array(centres), np.array([9.5, 8.0, 6.0]), status=status)
    write_vesicles_model(path, vesicles)
    model = read_model(path)
    assert model.image_size == (320, 215, 52)
    assert (model.flags, model.units, model.z_scale, model.image_reference) == (0x3C00, -9, 1.0, None)
    assert model.pixel_size == np.float32(2.237)
    assert [item.name for item in model.objects] == ["vesicles", "rejected"]
    for item in model.objects:
        assert (item.flags, item.pdrawsize, item.sphere_quality) == (SCATTERED, 0, 2)
        assert all(contour.points.shape == (1, 3) for contour in item.contours)
    first, last = model.objects[0].contours
    # the middle of voxel x 100, y 80, z 30
    np.testing.assert_array_equal(first.points, [[100.5, 80.5, 30.0]])
    assert (first.surface, first.sizes[0]) == (7, 9.5)
    assert (last.surface, last.sizes[0]) == (5, 6.0)
    np.testing.assert_array_equal(model.objects[1].contours[0].points, [[31.25, 21.0, 10.25]])
    colours = [item.colour for item in model.objects]
    assert len(set(colours)) == 2 and colours[0][1] > max(colours[0][0], colours[0][2])


def test_imodmodel_reads_the_same_spheres(rng, tmp_path):
    from imodmodel import ImodModel

    path = tmp_path / "v.mod"
    vesicles = some_vesicles(rng).with_status(np.ones(12, bool), Status.REFINED, "")
    write_vesicles_model(path, vesicles)
    (item,) = ImodModel.from_file(path).objects
    assert item.header.name == "vesicles"
    points = np.concatenate([contour.points for contour in item.contours])
    np.testing.assert_allclose(points, vesicles.centres_vox[:, ::-1] + [0.5, 0.5, 0], rtol=1e-6)
    sizes = np.concatenate([contour.point_sizes for contour in item.contours])
    np.testing.assert_array_equal(sizes, vesicles.radii_vox.astype(np.float32))
    assert [contour.header.surf for contour in item.contours] == vesicles.ids.tolist()


def test_an_empty_table_is_a_model_with_one_empty_object(tmp_path):
    path = tmp_path / "none.mod"
    write_vesicles_model(path, Vesicles.empty(GRID))
    assert [(item.name, len(item.contours)) for item in read_model(path).objects] == [("vesicles", 0)]
    assert len(read_vesicles_model(path, GRID)) == 0


def test_existing_files_are_kept_without_overwrite(rng, tmp_path):
    path = tmp_path / "v.mod"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExistsError):
        write_vesicles_model(path, some_vesicles(rng))
    assert path.read_bytes() == b"precious"
    write_vesicles_model(path, some_vesicles(rng), overwrite=True)
    assert len(read_vesicles_model(path, GRID)) == 12
    assert [item.name for item in tmp_path.iterdir()] == ["v.mod"]


@pytest.mark.parametrize(
    "change",
    [
        {"radii_vox": np.array([0.0])},
        {"radii_vox": np.array([np.nan])},
        {"centres_vox": np.array([[1.0, np.inf, 2.0]])},
        {"ids": np.array([2**31])},
    ],
)
def test_impossible_spheres_are_not_written(change, tmp_path):
    good = Vesicles.from_spheres(GRID, [[1.0, 2.0, 3.0]], [5.0])
    with pytest.raises(ValueError):
        write_vesicles_model(tmp_path / "v.mod", good.replace(**change))
    assert list(tmp_path.iterdir()) == []


def scattered(name: str, points, sizes=None, **more) -> Object:
    return Object(name, (Contour(np.array(points, float), sizes),), flags=SCATTERED, **more)


def test_models_of_others(tmp_path):
    path = tmp_path / "other.mod"
    sized = scattered("granules", [[100.5, 80.5, 30.0], [50.5, 60.5, 20.0]], np.array([9.0, -1.0]))
    default = scattered("more", [[10.5, 20.5, 5.0]], pdrawsize=6)
    mixed = scattered("mixed", [[11.5, 21.5, 6.0], [12.5, 22.5, 7.0]], np.array([-1.0, 0.0]), pdrawsize=4)
    bare = scattered("clicks", [[200.5, 100.5, 40.0], [201.5, 101.5, 41.0]])
    single = Object("closed by default", (Contour(np.array([[70.5, 60.5, 9.0]])),))
    tube = Object("tube", (Contour(np.full((3, 3), 20.0), np.ones(3)),), flags=8)
    write_model(path, Model((sized, default, mixed, bare, single, tube)))
    spheres = read_vesicles_model(path, GRID)
    np.testing.assert_array_equal(spheres.centres_vox, [[30, 80, 100], [5, 20, 10], [6, 21, 11]])
    np.testing.assert_array_equal(spheres.radii_vox, [9.0, 6.0, 4.0])
    assert spheres.status == (Status.MANUAL,) * 3
    assert spheres.ids.tolist() == [1, 2, 3]
    points = read_points(path, GRID)
    np.testing.assert_array_equal(points, [[20, 60, 50], [7, 22, 12], [40, 100, 200], [41, 101, 201], [9, 60, 70]])


def test_ids_survive_editing(tmp_path):
    path = tmp_path / "edited.mod"

    def one(x: float, surface: int) -> Contour:
        return Contour(np.array([[x, 20.5, 5.0]]), np.array([7.0]), surface=surface)

    theirs = Object("mine", (one(1.5, 40), one(2.5, 9)), flags=SCATTERED)
    ours = Object("vesicles", (one(3.5, 9), one(4.5, 0), one(5.5, 9), one(6.5, 12)), flags=SCATTERED)
    doubtful = Object("doubtful", (one(7.5, -3), one(8.5, 2)), flags=SCATTERED)
    write_model(path, Model((theirs, ours, doubtful)))
    vesicles = read_vesicles_model(path, GRID)
    assert vesicles.centres_vox[:, 2].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    # 9 belongs to the first sphere of ours that has it; those without a number of their own follow the highest
    assert vesicles.ids.tolist() == [40, 41, 9, 42, 43, 12, 44, 2]
    assert vesicles.status[:2] == (Status.MANUAL,) * 2
    assert vesicles.status[2:] == (Status.REFINED,) * 4 + (Status.DOUBTFUL,) * 2


def test_exchanged_axes_and_a_loaded_subset(tmp_path):
    path = tmp_path / "subset.mod"
    stored = struct.pack(
        ">18f", *[np.nan] * 3, 0, 0, 0, *[np.nan] * 3, *[22.37] * 3, -20 * 22.37, 0, -10 * 22.37, 0, 0, 0
    )
    item = scattered("s", [[80.5, 20.0, 80.5]], np.array([9.0]))  # x, z, y: stored with y and z exchanged
    write_model(path, Model((item,), image_size=(200, 30, 150), flags=0x1FC00, image_reference=ImageReference(stored)))
    np.testing.assert_array_equal(read_vesicles_model(path, GRID).centres_vox, [[30.0, 80.0, 100.0]])


def test_real_models(shared_data):
    grid = Grid((100, 1298, 1314), 1.24)
    spheres = read_vesicles_model(shared_data("imod_models/point_sizes_example.mod"), grid)
    model = read_model(shared_data("imod_models/point_sizes_example.mod"))
    contour = model.objects[0].contours[0]
    assert len(spheres) == 4 and spheres.status == (Status.MANUAL,) * 4
    np.testing.assert_allclose(spheres.centres_vox[:, ::-1] + [0.5, 0.5, 0], contour.points)
    np.testing.assert_array_equal(spheres.radii_vox, contour.sizes)
    clicked = read_points(shared_data("imod_models/slicer_angle_example.mod"), Grid((500, 924, 956), 1.6145))
    assert clicked.shape == (4, 3)
    outline = read_outline(shared_data("imod_models/two_contour_example.mod"), Grid((128, 128, 128), 0.448))
    assert sum(len(polygons) for polygons in outline.contours.values()) == 2


def test_a_model_drawn_at_another_binning_is_read(rng, tmp_path):
    path = tmp_path / "v.mod"
    drawn = some_vesicles(rng)
    write_vesicles_model(path, drawn)
    corner = np.array([0.5, 0.5, 0.5])  # the outer faces coincide
    for shape, factor in (((26, 108, 160), 0.5), ((104, 430, 640), 2.0)):
        read = by_id(read_vesicles_model(path, Grid(shape, GRID.voxel_nm / factor)))
        wanted = (by_id(drawn).centres_vox + corner) * factor - corner
        np.testing.assert_allclose(read.centres_vox, wanted, atol=1e-4)
        np.testing.assert_allclose(read.radii_vox, by_id(drawn).radii_vox * factor, rtol=1e-6)


def test_a_model_of_another_volume_is_refused(rng, tmp_path):
    path = tmp_path / "v.mod"
    write_vesicles_model(path, some_vesicles(rng))
    with pytest.raises(ModelFileError, match="not drawn on this tomogram.*20 x 20 x 10.*320 x 215 x 52.*far outside"):
        read_vesicles_model(path, Grid((10, 20, 20), GRID.voxel_nm))
    # a wrong pixel size alone, or another size alone, proves nothing
    assert len(read_vesicles_model(path, replace(GRID, voxel_nm=1.0))) == 12
    assert len(read_vesicles_model(path, Grid((60, 230, 330), GRID.voxel_nm))) == 12


def test_rows_without_a_sphere_are_not_written(rng, tmp_path):
    path = tmp_path / "v.mod"
    drawn = some_vesicles(rng)
    flags = np.full(12, np.nan)
    drawn = drawn.with_features(**{DELETED: np.where(np.arange(12) == 3, 1, flags), NOT_FITTED: flags})
    drawn = drawn.with_features(**{NOT_FITTED: np.where(np.arange(12) == 7, 1, 0)})
    write_vesicles_model(path, drawn)
    assert set(read_vesicles_model(path, GRID).ids) == set(np.delete(drawn.ids, [3, 7]))


def test_damaged_and_missing_files_name_themselves_and_a_remedy(rng, tmp_path):
    path = tmp_path / "v.mod"
    write_vesicles_model(path, some_vesicles(rng))
    data = path.read_bytes()
    for damaged in (b"", data[:-1], data[:300], data[:-4], b"not a model at all", b"imod 1\n"):
        path.write_bytes(damaged)
        for reader in (read_vesicles_model, read_points, read_outline):
            with pytest.raises(ModelFileError, match=r"v\.mod.*expected.*3dmod") as caught:
                reader(path, GRID)
            assert "\n" not in str(caught.value) and caught.value.remedy
    with pytest.raises(ModelFileError, match="does not exist"):
        read_points(tmp_path / "missing.mod", GRID)
    with pytest.raises(ModelFileError, match="cannot read"):
        read_points(tmp_path, GRID)


@pytest.mark.parametrize(("offset", "message"), [(440, "coordinates"), (460, "sizes")])
def test_numbers_that_are_not_numbers_are_refused(offset, message, tmp_path):
    path = tmp_path / "v.mod"
    write_vesicles_model(path, Vesicles.from_spheres(GRID, [[1.0, 2.0, 3.0]], [5.0], status=[Status.REFINED]))
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = struct.pack(">f", float("nan"))
    path.write_bytes(bytes(data))
    with pytest.raises(ModelFileError, match=message):
        read_vesicles_model(path, GRID)


def square(z: float, x0: float, y0: float, edge: float) -> Contour:
    """A closed square in IMOD coordinates; voxel x (from 0) has its centre at x + 0.5."""
    corners = [(x0, y0), (x0 + edge, y0), (x0 + edge, y0 + edge), (x0, y0 + edge)]
    return Contour(np.array([[x, y, z] for x, y in corners]))


SMALL = Grid((12, 30, 41), 2.0)


def test_an_outline_contains_what_was_drawn(tmp_path):
    path = tmp_path / "cell.mod"
    # slice 3: voxels x 10..19, y 5..14. Slice 8: x 20..23, y 5..8, and apart from it x 2..5, y 20..23.
    cell = Object("cell", (square(3, 10, 5, 10), square(8, 20, 5, 4), square(8, 2, 20, 4), Contour(np.zeros((0, 3)))))
    write_model(path, Model((cell, scattered("clicks", [[1.5, 1.5, 1.0]])), image_size=(41, 30, 12)))
    outline = read_outline(path, SMALL)
    wanted = np.zeros(SMALL.shape_zyx, dtype=bool)
    wanted[3:6, 5:15, 10:20] = True  # slices 4 and 5 are nearer to 3
    wanted[6:9, 5:9, 20:24] = True
    wanted[6:9, 20:24, 2:6] = True
    mask = outline.to_mask(SMALL)
    np.testing.assert_array_equal(mask, wanted)
    points = [[3, 9, 15], [3, 15.2, 15], [5.49, 6, 11], [5.51, 6, 11], [2.49, 9, 15], [8.4, 22, 3.3], [8.6, 22, 3.3]]
    np.testing.assert_array_equal(outline.contains(points), [True, False, True, False, False, True, False])
    assert outline.contains(np.zeros((0, 3))).shape == (0,)


def test_a_contour_inside_another_of_its_object_is_a_hole(tmp_path):
    """And one in the hole an island; contours that overlap, and those of other objects, are united."""
    path = tmp_path / "cell.mod"
    nested = (square(3, 2, 2, 20), square(3, 5, 5, 12), square(3, 8, 8, 4))
    crossing = (square(3, 20, 14, 6), square(3, 21, 1, 4))  # over the edge, and beside
    again = (square(8, 2, 2, 20), square(8, 2, 2, 20))  # the same twice
    write_model(path, Model((Object("cell", (*nested[::-1], *crossing, *again)),), image_size=(41, 30, 12)))
    wanted = np.zeros(SMALL.shape_zyx[1:], dtype=bool)
    wanted[2:22, 2:22], wanted[5:17, 5:17], wanted[8:12, 8:12] = True, False, True
    wanted[14:20, 20:26], wanted[1:5, 21:25] = True, True
    outline = read_outline(path, SMALL)
    mask = outline.to_mask(SMALL)
    np.testing.assert_array_equal(mask[3], wanted)
    assert mask[8].sum() == 400 and outline.holes() == (3,)
    centres = np.argwhere(np.ones(SMALL.shape_zyx))
    np.testing.assert_array_equal(outline.contains(centres).reshape(SMALL.shape_zyx), mask)
    write_model(path, Model((Object("cell", nested[:1]), Object("other", nested[1:2])), image_size=(41, 30, 12)))
    assert read_outline(path, SMALL).to_mask(SMALL)[3].sum() == 400


def test_a_contour_that_leaves_a_bent_one_is_no_hole_in_it():
    """All its corners are inside the horseshoe, but it crosses the mouth."""
    shoe = np.array([[2, 2], [2, 30], [25, 30], [25, 20], [8, 20], [8, 12], [25, 12], [25, 2]]) - 0.5
    bar = np.array([[15, 5], [15, 27], [20, 27], [20, 5]]) - 0.5
    mask = Outline(SMALL, {4: (shoe, bar)}).to_mask(SMALL)
    np.testing.assert_array_equal(mask[4, 15:20, 2:30], True)


def test_a_model_of_another_image_is_told(tmp_path):
    path = tmp_path / "cell.mod"
    for size, told in (((41, 30, 12), False), ((41, 35, 12), True), ((0, 0, 0), False)):
        write_model(path, Model((Object("cell", (square(3, 2, 2, 9),)),), image_size=size))
        notes = read_outline(path, SMALL).notes
        assert bool(notes) == told and all("41 x 35 x 12 voxels, the tomogram has 41 x 30 x 12" in n for n in notes)


def test_points_and_mask_agree_on_any_shape(rng):
    angles = np.sort(rng.uniform(0, 2 * np.pi, 17))
    radius = rng.uniform(4, 13, 17)
    polygon = np.column_stack([14.3 + radius * np.sin(angles), 19.7 + radius * np.cos(angles)])
    outline = Outline(SMALL, {2: (polygon,), 6: (polygon * 0.6 + 3.21,), 7: (polygon * 0.5, polygon * 0.5 + 11.3)})
    centres = np.stack(np.meshgrid(*[np.arange(n) for n in SMALL.shape_zyx], indexing="ij"), axis=-1).reshape(-1, 3)
    mask = outline.to_mask(SMALL)
    np.testing.assert_array_equal(outline.contains(centres).reshape(SMALL.shape_zyx), mask)
    assert 0 < mask[2].sum() < mask[2].size
    assert not mask[:2].any() and not mask[8:].any()


def test_the_mask_is_the_polygon_that_others_fill(rng):
    from skimage.measure import grid_points_in_poly

    for _ in range(20):
        polygon = rng.uniform([-4, -4], [34, 45], (int(rng.integers(3, 12)), 2))  # crosses itself and the border
        mask = Outline(SMALL, {4: (polygon,)}).to_mask(SMALL)
        np.testing.assert_array_equal(mask[4], grid_points_in_poly(SMALL.shape_zyx[1:], polygon))


def test_an_outline_on_another_grid_covers_the_same_place():
    outline = Outline(SMALL, {3: (np.array([[5.0, 10.0], [5.0, 20.0], [15.0, 20.0], [15.0, 10.0]]) - 0.5,)})
    fine = SMALL.rescaled(1.0)
    mask = outline.to_mask(fine)
    wanted = np.zeros(fine.shape_zyx, dtype=bool)
    wanted[6:8, 10:30, 20:40] = True
    np.testing.assert_array_equal(mask, wanted)


def test_outlines_by_object_name(tmp_path):
    path = tmp_path / "two.mod"
    write_model(path, Model((Object("cell", (square(3, 10, 5, 10),)), Object("zone", (square(4, 0, 0, 5),)))))
    assert list(read_outline(path, SMALL).contours) == [3, 4]
    assert list(read_outline(path, SMALL, object_name="zone").contours) == [4]
    with pytest.raises(ModelFileError, match="'nucleus'.*'cell', 'zone'"):
        read_outline(path, SMALL, object_name="nucleus")


def test_what_is_not_an_outline_is_refused(tmp_path):
    path = tmp_path / "no.mod"
    opened = Object("open", (square(3, 10, 5, 10),), flags=8)
    short = Object("short", (Contour(np.array([[1.5, 1.5, 1.0], [2.5, 2.5, 1.0]])),))
    write_model(path, Model((opened, short, scattered("points", [[1.5, 1.5, 1.0]]))))
    with pytest.raises(ModelFileError, match="no outline.*closed contours.*points.*scattered"):
        read_outline(path, SMALL)
    tilted = Contour(np.array([[1.5, 1.5, 1.0], [9.5, 1.5, 1.0], [9.5, 9.5, 4.0]]))
    write_model(path, Model((Object("tilted", (tilted,)),)))
    with pytest.raises(ModelFileError, match="not drawn on one slice.*slices 2 to 5"):
        read_outline(path, SMALL)
    with pytest.raises(ValueError, match="contour"):
        Outline(SMALL, {})


def test_importing_it_loads_nothing_heavy():
    code = "import sys, deepvesicle.files.imod; print({'pandas', 'imodmodel', 'skimage'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
