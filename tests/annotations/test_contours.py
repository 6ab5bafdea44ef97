"""Closed contours: the vesicles that they were drawn around come out, however they were drawn."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.annotations import annotation_of_model
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Status
from imod_bridge.model import Object
from tests.annotations.scenes import closed, crowd, errors, model_of, outlines


@pytest.mark.parametrize(
    ("seed", "radii", "voxel_nm"), [(1, (6.0, 11.0), 2.2), (2, (10.0, 22.0), 1.37), (3, (25.0, 45.0), 0.81)]
)
@pytest.mark.parametrize("one_object", [True, False], ids=["one object", "an object each"])
def test_crowded_vesicles_with_every_second_slice_missing(
    seed: int, radii: tuple[float, float], voxel_nm: float, one_object: bool
) -> None:
    rng = np.random.default_rng(seed)
    size = int(8 * radii[1])
    grid = Grid((int(4.1 * radii[1]), size, size + 7), voxel_nm)
    truth = crowd(rng, grid, radii, 30)
    first = rng.integers(2, size=len(truth))
    drawn = [
        outlines(rng, row, np.arange(start, grid.shape_zyx[0], 2)) for row, start in zip(truth, first, strict=True)
    ]
    truth = truth[[len(part) > 1 for part in drawn]]
    drawn = [part for part in drawn if len(part) > 1]
    contours = [[closed(points) for points in part] for part in drawn]
    if one_object:
        everything = [contour for part in contours for contour in part]
        order = rng.permutation(len(everything))
        model = model_of(grid, Object("all", tuple(everything[i] for i in order)))
    else:
        model = model_of(grid, *(Object(str(i), tuple(part)) for i, part in enumerate(contours)))
    annotation = annotation_of_model("m.mod", model, grid)
    assert len(annotation.vesicles) == len(truth) and len(annotation.unclear) == 0
    assert set(annotation.vesicles.status) == {Status.MANUAL}
    centre, radius = errors(annotation.vesicles.centres_vox, annotation.vesicles.radii_vox, truth)
    assert centre.max() < 0.25 and radius.max() < 0.25


def test_a_hand_that_shakes_and_leaves_out_slices_at_random() -> None:
    rng = np.random.default_rng(5)
    grid = Grid((70, 150, 160), 1.9)
    truth = crowd(rng, grid, (8.0, 14.0), 40, margin=-0.5)
    drawn = []
    for row in truth:
        slices = np.flatnonzero(rng.uniform(size=grid.shape_zyx[0]) < 0.4)
        drawn += [closed(points) for points in outlines(rng, row, slices, (8, 25), noise=0.4)]
    annotation = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(drawn))), grid)
    assert len(annotation.vesicles) == len(truth)
    centre, radius = errors(annotation.vesicles.centres_vox, annotation.vesicles.radii_vox, truth)
    assert np.median(centre) < 0.25 and np.median(radius) < 0.15
    assert centre.max() < 1.0 and radius.max() < 0.6


@pytest.mark.parametrize("apart", [1.0, 0.9], ids=["touching", "overlapping a little"])
def test_vesicles_on_top_of_one_another(apart: float) -> None:
    rng = np.random.default_rng(6)
    grid = Grid((80, 60, 60), 2.0)
    truth = np.array([[15.3, 30.2, 29.6, 11.0], [15.3 + 20.0 * apart, 30.9, 29.1, 9.0], [60.0, 30.0, 30.0, 10.0]])
    drawn = [closed(p) for row in truth for p in outlines(rng, row, np.arange(0, 80, 2), (5, 20))]
    annotation = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(drawn))), grid)
    assert len(annotation.vesicles) == 3
    centre, radius = errors(annotation.vesicles.centres_vox, annotation.vesicles.radii_vox, truth)
    assert centre.max() < 0.25 and radius.max() < 0.25


def test_surfaces_tell_vesicles_apart() -> None:
    """Two belts that could be one vesicle, were it not for the numbers that the user gave them."""
    rng = np.random.default_rng(7)
    grid = Grid((40, 60, 60), 2.0)
    belts = [
        outlines(rng, np.array([z, 30.0, 30.0, 10.0]), np.arange(int(z) - 2, int(z) + 3), (9, 9)) for z in (12, 26)
    ]
    drawn = [closed(points, surface) for surface, belt in enumerate(belts, 1) for points in belt]
    annotation = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(drawn))), grid)
    assert len(annotation.vesicles) == 2
    assert sorted(annotation.vesicles.centres_vox[:, 0].round(1)) == [12.0, 26.0]


def test_one_contour_is_the_equator() -> None:
    rng = np.random.default_rng(8)
    grid = Grid((60, 120, 120), 2.0)
    truth = np.array([[10.0, 30.4, 30.7, 9.0], [31.0, 31.0, 31.0, 10.5], [20.0, 80.2, 50.9, 14.0]])
    drawn = [closed(outlines(rng, row, np.array([int(row[0])]), (7, 20))[0]) for row in truth]
    annotation = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(drawn))), grid)
    centre, radius = errors(annotation.vesicles.centres_vox, annotation.vesicles.radii_vox, truth)
    assert len(annotation.vesicles) == 3 and centre.max() < 1e-5 and radius.max() < 1e-5
    rounded = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(drawn))), grid, pyto_rounding=True)
    np.testing.assert_array_equal(rounded.vesicles.centres_vox, np.rint(annotation.vesicles.centres_vox))


def test_two_neighbouring_slices_are_an_equator_not_a_ball_far_away() -> None:
    grid = Grid((60, 80, 80), 2.0)
    rng = np.random.default_rng(9)
    drawn = [
        outlines(rng, np.array([z, 40.0, 40.0, r]), np.array([int(z)]), (20, 20))[0] for z, r in ((30, 10.0), (31, 9.6))
    ]
    annotation = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(map(closed, drawn)))), grid)
    assert len(annotation.vesicles) == 1
    assert abs(annotation.vesicles.centres_vox[0, 0] - 30.5) < 0.6
    assert abs(annotation.vesicles.radii_vox[0] - 9.85) < 0.3


def test_discs_of_one_column_stay_apart_when_told_so() -> None:
    rng = np.random.default_rng(10)
    grid = Grid((60, 80, 80), 2.0)
    drawn = [closed(outlines(rng, np.array([z, 40.0, 40.0, 10.0]), np.array([z]), (20, 20))[0]) for z in (20, 30)]
    model = model_of(grid, Object("v", tuple(drawn)))
    assert len(annotation_of_model("m.mod", model, grid).vesicles) == 1
    assert len(annotation_of_model("m.mod", model, grid, discs=True).vesicles) == 2


def test_uneven_clicks_do_not_move_the_centre() -> None:
    """Many points on one side, few on the other; and a slip of the hand."""
    grid = Grid((60, 80, 80), 2.0)
    angle = np.concatenate([np.linspace(0, 1, 30), np.linspace(1.2, 6.1, 8)])
    drawn = []
    for z in range(24, 37, 2):
        circle = np.sqrt(10.0**2 - (z - 30) ** 2)
        points = np.column_stack([np.full(38, float(z)), 40 + circle * np.sin(angle), 40 + circle * np.cos(angle)])
        if z == 30:
            points[5, 1:] += 6
        drawn.append(closed(points))
    vesicles = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(drawn))), grid).vesicles
    assert len(vesicles) == 1
    assert np.linalg.norm(vesicles.centres_vox[0] - [30, 40, 40]) < 0.25 and abs(vesicles.radii_vox[0] - 10) < 0.1


def test_contours_that_follow_the_faces_of_the_volume() -> None:
    rng = np.random.default_rng(11)
    grid = Grid((40, 70, 80), 2.0)
    truth = np.array(
        [[1.0, 3.0, 40.0, 12.0], [20.0, 66.0, 76.0, 11.0], [20.0, 30.0, -2.0, 9.0], [42.0, 35.0, 40.0, 13.0]]
    )
    drawn = []
    for row in truth:
        for points in outlines(rng, row, np.arange(0, 40, 2), (12, 40)):
            points[:, 1:] = np.clip(points[:, 1:], -0.5, np.array(grid.shape_zyx[1:]) - 0.5)
            drawn.append(closed(points))
    annotation = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(drawn))), grid)
    assert len(annotation.vesicles) == 4
    centre, radius = errors(annotation.vesicles.centres_vox, annotation.vesicles.radii_vox, truth)
    assert centre.max() < 0.25 and radius.max() < 0.25


@pytest.mark.parametrize(
    ("stretch", "words"), [((2.5, 1, 1), "elongated"), ((1, 1, 2.0), "elongated"), ((0.5, 1, 1), "elongated")]
)
def test_what_is_no_sphere_is_unclear_and_covered(stretch: tuple[float, float, float], words: str) -> None:
    rng = np.random.default_rng(12)
    grid = Grid((90, 90, 90), 2.0)
    shape = np.array([45.0, 45.0, 45.0, 10.0])
    drawn = []
    for points in outlines(rng, shape, np.arange(35.0, 55.1, 0.4), (30, 30)):  # type: ignore[arg-type]
        points = shape[:3] + (points - shape[:3]) * stretch
        if abs(points[0, 0] - round(points[0, 0])) < 0.1:
            points[:, 0] = np.round(points[:, 0])
            drawn.append(points)
    annotation = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(map(closed, drawn)))), grid)
    assert len(annotation.vesicles) == 0
    assert all(words in reason for reason in annotation.unclear.reasons)
    assert annotation.unclear.accepted.all()
    apart = np.linalg.norm(np.concatenate(drawn)[:, None] - annotation.unclear.centres_vox[None], axis=2)
    assert (apart <= annotation.unclear.radii_vox + 1e-3).any(axis=1).all()


def test_a_flattened_vesicle_is_still_one_vesicle() -> None:
    rng = np.random.default_rng(13)
    grid = Grid((60, 80, 80), 2.0)
    shape = np.array([30.0, 40.0, 40.0, 12.0])
    drawn = []
    for z in range(20, 41):
        at = 30 + (z - 30) / 0.8
        for points in outlines(rng, shape, np.array([at]), (12, 20), noise=0.2):  # type: ignore[arg-type]
            points[:, 0] = z
            drawn.append(closed(points))
    vesicles = annotation_of_model("m.mod", model_of(grid, Object("v", tuple(drawn))), grid).vesicles
    assert len(vesicles) == 1
    assert np.linalg.norm(vesicles.centres_vox[0] - 30 * np.array([1, 4 / 3, 4 / 3])) < 0.5
    assert 9.6 < vesicles.radii_vox[0] < 12
    assert vesicles.features["axis_ratio"][0] == pytest.approx(1.25, abs=0.08)
