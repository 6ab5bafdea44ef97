"""Models as annotations: which objects count, in which frame they lie, and what the user is told."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.annotations import Annotation, annotation_of_model, merged, read_annotation
from deepvesicle.errors import ModelFileError, UsageError
from deepvesicle.files.outline import Outline
from deepvesicle.files.tomogram import write_labels
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import (
    FLAG_OPEN,
    MODEL_ORIGIN_STORED,
    MODEL_YZ_EXCHANGED,
    UNITS_NM,
    Contour,
    ImageReference,
    Model,
    Object,
    write_model,
)
from tests.annotations.scenes import closed, errors, model_of, outlines, spheres_object

GRID = Grid((50, 90, 100), 2.0)
TRUTH = np.array([[12.3, 20.2, 20.6, 9.0], [25.1, 50.4, 60.2, 11.0], [35.7, 25.5, 75.1, 8.0]])


def rings(truth: np.ndarray = TRUTH, name: str = "vesicles", seed: int = 0) -> Object:
    rng = np.random.default_rng(seed)
    drawn = [closed(points) for row in truth for points in outlines(rng, row, np.arange(0, 100, 2), (6, 20))]
    return Object(name, tuple(drawn))


def square(low: float, high: float, slices: tuple[int, ...], name: str = "cell") -> Object:
    corners = [(low, low), (low, high), (high, high), (high, low)]
    return Object(name, tuple(closed(np.array([[z, y, x] for y, x in corners], dtype=float)) for z in slices))


def read(model: Model, grid: Grid = GRID, **options: object) -> Annotation:
    return annotation_of_model("m.mod", model, grid, **options)  # type: ignore[arg-type]


def assert_recovered(annotation: Annotation, truth: np.ndarray = TRUTH, within: float = 0.25) -> None:
    assert len(annotation.vesicles) == len(truth)
    centre, radius = errors(annotation.vesicles.centres_vox, annotation.vesicles.radii_vox, truth)
    assert centre.max() < within and radius.max() < within


def test_points_with_sizes_their_own_or_the_objects() -> None:
    own = spheres_object(TRUTH[:2])
    shared = replace(spheres_object(TRUTH[2:], "same"), pdrawsize=8)
    shared = replace(shared, contours=tuple(replace(contour, sizes=None) for contour in shared.contours))
    annotation = read(model_of(GRID, own, shared))
    assert_recovered(annotation, within=1e-4)
    assert annotation.vesicles.features["object"].tolist() == [1, 1, 2]


def test_points_without_sizes_are_unclear() -> None:
    clicks = replace(spheres_object(TRUTH[2:], "clicks"), contours=(Contour(index_to_model(TRUTH[2:, :3])),))
    annotation = read(model_of(GRID, spheres_object(TRUTH[:2]), clicks))
    assert len(annotation.vesicles) == 2
    assert annotation.unclear.reasons == ("a point without a size",)
    assert annotation.unclear.radii_vox[0] == pytest.approx(10.0)
    assert any("object 2 contour 1" in note for note in annotation.notes)


def test_objects_by_name_and_number_and_an_outline() -> None:
    model = model_of(GRID, square(10, 70, (5, 40)), rings(TRUTH[:2], "SV"), rings(TRUTH[2:], "2"))
    annotation = read(model, outline=["CELL"], vesicles=["SV", "2"])
    assert_recovered(annotation)
    assert isinstance(annotation.region, Outline)
    mask = annotation.region.to_mask(GRID)
    assert mask[5:41, 12:68, 12:68].all() and not mask[:5].any() and not mask[:, :, 72:].any()
    assert_recovered(read(model, outline=["1"]))
    assert len(read(model, outline=["1"], vesicles=["3"]).vesicles) == 1
    with pytest.raises(ModelFileError, match=r"no object 'nothing'.*1 'cell', 2 'SV', 3 '2'"):
        read(model, vesicles=["nothing"])
    with pytest.raises(ModelFileError, match="both"):
        read(model, vesicles=["1"], outline=["cell"])


def test_an_outline_that_was_not_named_is_not_a_vesicle() -> None:
    grid = Grid((20, 700, 700), 2.0)
    annotation = read(model_of(grid, square(20, 650, (5, 10, 15)), rings(TRUTH[:1])), grid)
    assert len(annotation.vesicles) == 1 and len(annotation.unclear) == 0
    assert any("too large for a vesicle" in note and "outline" in note for note in annotation.notes)


def test_lines_are_left_out_and_unclosed_contours_used() -> None:
    membrane = np.column_stack([np.full(20, 10.0), np.linspace(5, 80, 20), 70 + 5 * np.sin(np.arange(20))])
    vesicles = replace(rings(TRUTH[:1]), flags=FLAG_OPEN)
    annotation = read(model_of(GRID, vesicles, Object("plasma", (closed(membrane),), flags=FLAG_OPEN)))
    assert_recovered(annotation, TRUTH[:1])
    assert len(annotation.unclear) == 0
    notes = " ".join(annotation.notes)
    assert "not closed, used as if closed" in notes and "1 line left out" in notes and "object 2 'plasma'" in notes


def test_a_closed_contour_that_was_not_finished_is_named() -> None:
    angle = np.linspace(0, 4.5, 20)
    arc = np.column_stack([np.full(20, 25.0), 45 + 10 * np.sin(angle), 45 + 10 * np.cos(angle)])
    annotation = read(model_of(GRID, Object("v", (closed(arc),))))
    assert any("1 contour not closed, used as if closed: object 1 contour 1" in note for note in annotation.notes)
    assert_recovered(annotation, np.array([[25.0, 45.0, 45.0, 10.0]]))


def test_contours_outside_the_volume() -> None:
    outside, rim = (rings(TRUTH[:1] + [0, 0, shift, 0], str(shift)) for shift in (95, 75))
    annotation = read(model_of(GRID, rings(TRUTH[1:]), outside, rim))
    assert len(annotation.vesicles) == 3
    notes = " ".join(annotation.notes)
    assert "outside the tomogram, by up to 25." in notes and "object 2 contour" in notes
    assert "1 thing drawn wholly outside the tomogram, left out: object 2 contour 1" in notes


def test_a_model_of_another_tomogram_is_refused() -> None:
    far = model_of(Grid((500, 900, 1000), 2.0), rings(TRUTH + [0, 700, 800, 0]))
    with pytest.raises(ModelFileError, match="not drawn on this tomogram"):
        read(far)


def test_a_model_made_on_another_binning() -> None:
    """Points and sizes of a model drawn on the unbinned volume, read on the one binned by 2."""
    fine = Grid((100, 180, 200), 1.0)
    double = np.column_stack([2 * TRUTH[:, :3] + 0.5, 2 * TRUTH[:, 3]])
    for item in (spheres_object(double), rings(double)):
        annotation = read(model_of(fine, item))
        assert_recovered(annotation)
        assert any("voxels of 1 nm" in note and "scaled by 0.5" in note for note in annotation.notes)


def reference(spacing: float, origin: tuple[float, float, float], start: tuple[float, float, float]) -> ImageReference:
    """An image reference: origin of the image in angstrom, and where the loaded part starts in voxels (x, y, z)."""
    translation = [o - spacing * s for o, s in zip(origin, start, strict=True)]
    values = [1.0] * 3 + list(origin) + [0.0] * 3 + [spacing] * 3 + translation + [0.0] * 3
    return ImageReference(struct.pack(">18f", *values))


def test_a_model_made_on_a_part_of_the_tomogram() -> None:
    part = model_of(Grid((30, 60, 70), 2.0), rings(TRUTH - [4, 8, 16, 0]))
    part = replace(part, flags=part.flags | MODEL_ORIGIN_STORED, image_reference=reference(20.0, (0, 0, 0), (16, 8, 4)))
    annotation = read(part)
    assert_recovered(annotation)
    assert any("starts at voxel x 16, y 8, z 4" in note for note in annotation.notes)


def test_a_shifted_origin_is_said() -> None:
    model = model_of(GRID, rings())
    model = replace(
        model, flags=model.flags | MODEL_ORIGIN_STORED, image_reference=reference(20.0, (200.0, 0.0, -400.0), (0, 0, 0))
    )
    annotation = read(model)
    assert_recovered(annotation)
    assert any("x 10.0, y 0.0, z -20.0" in note for note in annotation.notes)
    at_home = read(model, replace(GRID, origin_nm=(-40.0, 0.0, 20.0)))
    assert not any("origin" in note for note in at_home.notes)


def test_exchanged_axes_are_undone() -> None:
    model = model_of(GRID, rings())
    item = model.objects[0]
    contours = tuple(replace(contour, points=contour.points[:, [0, 2, 1]]) for contour in item.contours)
    nx, ny, nz = model.image_size
    turned = replace(
        model,
        objects=(replace(item, contours=contours),),
        image_size=(nx, nz, ny),
        flags=model.flags | MODEL_YZ_EXCHANGED,
    )
    assert_recovered(read(turned))


def test_another_voxel_size_or_image_is_said() -> None:
    wrong = replace(model_of(GRID, rings()), pixel_size=1.2, units=UNITS_NM)
    assert any("1.2 nm" in note and "taken as voxels" in note for note in read(wrong).notes)
    other = replace(model_of(GRID, rings()), image_size=(100, 90, 60))
    assert any("100 x 90 x 60" in note for note in read(other).notes)
    assert read(model_of(GRID, rings())).notes == ()


def test_vesicles_marked_twice_count_once() -> None:
    model = model_of(GRID, rings(), spheres_object(TRUTH[1:2] + [0.5, -1.0, 0.8, 0.6], "again"))
    annotation = read(model)
    assert_recovered(annotation, within=1.6)
    assert any("1 vesicle is marked twice" in note for note in annotation.notes)


def test_several_files_are_put_together() -> None:
    first, second = read(model_of(GRID, rings(TRUTH[:2]))), read(model_of(GRID, rings(TRUTH[1:], seed=3)))
    outline = read(model_of(GRID, square(10, 70, (5, 40))), outline=["1"], vesicles=["cell"][:0])
    whole = merged([first, second, outline])
    assert_recovered(whole)
    assert len(np.unique(whole.vesicles.ids)) == 3
    assert whole.region is outline.region
    assert any("marked twice" in note for note in whole.notes)
    right = read(model_of(GRID, square(75, 85, (5, 40))), outline=["1"])
    united = merged([outline, right]).region
    assert united is not None
    np.testing.assert_array_equal(
        united.to_mask(GRID),
        outline.region.to_mask(GRID) | right.region.to_mask(GRID),  # type: ignore[union-attr]
    )
    assert merged([first]) is first


def test_too_few_points() -> None:
    two = closed(np.array([[20.0, 40.0, 40.0], [20.0, 60.0, 40.0]]))
    annotation = read(model_of(GRID, rings(), Object("pairs", (two,))))
    assert_recovered(annotation)
    assert "only 2 points" in annotation.unclear.reasons[0]
    empty = read(model_of(GRID, Object("nothing", (Contour(np.zeros((0, 3))),))))
    assert len(empty.vesicles) == len(empty.unclear) == 0


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(ModelFileError, match="not numbers"):
        read(model_of(GRID, Object("v", (Contour(np.array([[1.0, np.nan, 2.0]] * 3)),))))
    nan_size = spheres_object(TRUTH[:1] * [1, 1, 1, np.nan])
    with pytest.raises(ModelFileError, match="sizes"):
        read(model_of(GRID, nan_size))


def test_files_by_what_is_in_them(tmp_path: Path) -> None:
    write_model(tmp_path / "drawn.txt", model_of(GRID, rings()))
    assert_recovered(read_annotation(tmp_path / "drawn.txt", GRID))
    truth = Vesicles.from_spheres(GRID, TRUTH[:, :3], TRUTH[:, 3], status=[Status.MANUAL] * 3)
    write_labels(tmp_path / "labels.mrc", rasterize(truth))
    assert_recovered(read_annotation(tmp_path / "labels.mrc", GRID))
    assert len(read_annotation(tmp_path / "labels.mrc", GRID, vesicles=["2", "3"]).vesicles) == 2
    with pytest.raises(UsageError, match="'all'"):
        read_annotation(tmp_path / "labels.mrc", GRID, vesicles=["all"])


def test_real_models_are_understood(shared_data: Callable[[str], Path]) -> None:
    """Two contours like stars, outlines of bent things, scattered points with sizes, and long lines with meshes."""
    two = read_annotation(shared_data("imod_models/two_contour_example.mod"), Grid((128, 128, 128), 0.448))
    assert len(two.vesicles) == 0 and len(two.unclear) > 0
    bent = read_annotation(shared_data("imod_models/meshed_curvature_example.mod"), Grid((256, 91, 221), 0.2156))
    assert len(bent.vesicles) == 0 and bent.unclear.features["object"].tolist() == [1, 2]
    assert any("22 contours not closed" in note for note in bent.notes)
    points = read_annotation(
        shared_data("imod_models/point_sizes_example.mod"), Grid((100, 1298, 1314), 1.24), vesicles=["1"]
    )
    assert len(points.vesicles) == 4
    lines = read_annotation(shared_data("imod_models/meshed_contour_example.mod"), Grid((127, 1440, 1023), 1.068))
    assert len(lines.vesicles) == 0 and any("67 lines left out" in note for note in lines.notes)
