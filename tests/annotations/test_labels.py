"""Label volumes: drawn balls come out without bias, whole or cut, and what is no ball is set aside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.annotations import annotation_of_labels
from deepvesicle.annotations import pieces as pieces_module
from deepvesicle.annotations.pieces import pieces_by_id, pieces_of_classes
from deepvesicle.errors import BadInputError
from deepvesicle.files.tomogram import read_labels
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid, Labels
from deepvesicle.vesicles import Status, Vesicles
from tests.annotations.scenes import ball, crowd, errors


def drawn(grid: Grid, spheres: np.ndarray) -> Labels:
    vesicles = Vesicles.from_spheres(grid, spheres[:, :3], spheres[:, 3], status=[Status.MANUAL] * len(spheres))
    return rasterize(vesicles)


@pytest.mark.parametrize("radii", [(6.0, 7.0), (10.0, 16.0), (28.0, 40.0)])
def test_whole_balls_without_bias(radii: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    size = int(7 * radii[1])
    grid = Grid((int(5 * radii[1]), size, size + 5), 1.3)
    truth = crowd(rng, grid, radii, 25, margin=-1.05)
    annotation = annotation_of_labels(drawn(grid, truth), grid)
    assert len(annotation.vesicles) == len(truth) and len(annotation.unclear) == 0
    np.testing.assert_array_equal(annotation.vesicles.ids, np.arange(1, len(truth) + 1))
    differences = annotation.vesicles.radii_vox - truth[:, 3]
    assert abs(differences.mean()) < 0.03 and np.abs(differences).max() < 0.15
    assert np.abs(annotation.vesicles.centres_vox - truth[:, :3]).max() < 0.15


def test_balls_that_faces_cut() -> None:
    grid = Grid((40, 90, 100), 1.7)
    truth = np.array(
        [[-3.0, 20.0, 20.0, 12.0], [20.0, 89.0, 50.0, 11.0], [42.0, 50.0, 101.0, 15.0], [20.0, 50.0, 50.0, 9.0]]
    )
    annotation = annotation_of_labels(drawn(grid, truth), grid)
    assert len(annotation.vesicles) == 4
    centre, radius = errors(annotation.vesicles.centres_vox, annotation.vesicles.radii_vox, truth)
    assert centre.max() < 0.2 and radius.max() < 0.15


def test_balls_that_cut_each_other_flat() -> None:
    grid = Grid((50, 60, 80), 1.7)
    truth = np.array([[25.0, 30.0, 25.0, 13.0], [25.0, 30.0, 47.0, 13.0]])
    annotation = annotation_of_labels(drawn(grid, truth), grid)
    assert np.abs(annotation.vesicles.radii_vox - 13).max() < 0.1
    assert np.abs(annotation.vesicles.centres_vox - truth[:, :3]).max() < 0.15


def test_classes_of_membrane_and_lumen() -> None:
    """Each piece is a vesicle, also where the slabs that are looked at one after the other cut it."""
    rng = np.random.default_rng(2)
    grid = Grid((60, 120, 120), 2.0)
    truth = crowd(rng, grid, (8.0, 13.0), 20, margin=-1.1)
    truth[:, 3] -= 1.0  # so that they do not touch
    inner = truth - [0, 0, 0, 2.5]
    data = (drawn(grid, truth).data > 0).astype(np.uint8) + (drawn(grid, inner).data > 0)
    data[0, 0, :3] = 1  # a slip of the pen
    annotation = annotation_of_labels(Labels(data, grid), grid, classes=(1, 2))
    assert len(annotation.vesicles) == len(truth)
    centre, radius = errors(annotation.vesicles.centres_vox, annotation.vesicles.radii_vox, truth)
    assert centre.max() < 0.15 and radius.max() < 0.15
    assert any("1 speck of at most 3 voxels" in note for note in annotation.notes)


def test_pieces_do_not_depend_on_the_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one call for the whole volume, on noise, where pieces wind through many slabs."""
    import cc3d

    rng = np.random.default_rng(3)
    data = (rng.uniform(size=(23, 19, 21)) < 0.33).astype(np.uint8) * rng.integers(
        1, 3, size=(23, 19, 21), dtype=np.uint8
    )
    whole = cc3d.connected_components(data > 0, connectivity=6)
    monkeypatch.setattr(pieces_module, "_SLAB_VOXELS", 2 * 19 * 21)
    found = pieces_of_classes(data, (1, 2))
    assert len(found) == whole.max()
    for piece in found:
        mask = whole == whole[piece.seed]
        where = np.argwhere(mask)
        assert piece.voxels == mask.sum()
        assert piece.low == tuple(where.min(axis=0)) and piece.high == tuple(where.max(axis=0) + 1)
    for piece in pieces_by_id(data, lambda ids: ids == 2):
        where = np.argwhere(data == 2)
        assert piece.voxels == len(where) and piece.high == tuple(where.max(axis=0) + 1)


def test_membranes_drawn_without_lumen_are_filled() -> None:
    grid = Grid((50, 60, 60), 2.0)
    shell = ball(grid, np.array([25.0, 30.3, 29.8, 14.0])) & ~ball(grid, np.array([25.0, 30.3, 29.8, 11.5]))
    shell[:18] = shell[33:] = False  # the caps that the missing wedge hides
    annotation = annotation_of_labels(Labels(shell.astype(np.uint16), grid), grid)
    assert len(annotation.vesicles) + len(annotation.unclear) == 1
    ring = ball(grid, np.array([25.0, 30.3, 29.8, 14.0])) & ~ball(grid, np.array([25.0, 30.3, 29.8, 11.5]))
    whole = annotation_of_labels(Labels(ring.astype(np.uint16), grid), grid).vesicles
    assert whole.radii_vox[0] == pytest.approx(14.0, abs=0.1)


def test_discs_and_balls_in_one_volume() -> None:
    grid = Grid((40, 80, 80), 2.0)
    truth = np.array([[20.0, 25.2, 24.7, 10.0], [15.0, 58.6, 50.1, 12.0]])
    data = drawn(grid, truth).data.copy()
    disc = data == 1
    disc[:20] = disc[21:] = False
    data[(data == 1) & ~disc] = 0
    vesicles = annotation_of_labels(Labels(data, grid), grid).vesicles
    assert np.abs(vesicles.radii_vox - truth[:, 3]).max() < 0.2
    assert np.abs(vesicles.centres_vox - truth[:, :3]).max() < 0.2
    rounded = annotation_of_labels(Labels(data, grid), grid, pyto_rounding=True).vesicles
    notes = annotation_of_labels(Labels(data, grid), grid).notes
    assert notes == ("1 flat label (1) taken as a disc through the middle of a vesicle",)
    np.testing.assert_array_equal(rounded.centres_vox[0], [20, 25, 25])
    assert rounded.radii_vox[0] == vesicles.radii_vox[0]


def test_regions_and_other_labels() -> None:
    grid = Grid((30, 60, 60), 2.0)
    data = np.zeros(grid.shape_zyx, dtype=np.uint16)
    data[:, 5:50, 5:50] = 3
    data[:, 3:5] = 2
    data[ball(grid, np.array([15.0, 25.0, 25.0, 10.0]))] = 10
    labels = Labels(data, grid)
    annotation = annotation_of_labels(labels, grid, membrane_id=2, cytosol_id=3)
    assert annotation.vesicles.ids.tolist() == [10]
    assert annotation.region is not None
    np.testing.assert_array_equal(annotation.region.to_mask(grid), data != 0)
    part = grid.cropped((7, 0, 0), (5, 60, 60)).rescaled(4.0)
    np.testing.assert_array_equal(annotation.region.to_mask(part)[:, 5:20, 5:20], True)
    only = annotation_of_labels(labels, grid, outline_ids=[3], vesicle_ids=[10])
    assert only.region is not None
    np.testing.assert_array_equal(only.region.to_mask(grid), data == 3)
    careless = annotation_of_labels(labels, grid)
    assert careless.vesicles.ids.tolist() == [10] and any("label 3 fills" in note for note in careless.notes)


def test_a_class_taken_for_a_vesicle_is_said_so() -> None:
    grid = Grid((40, 100, 100), 2.0)
    truth = np.array([[20.0, 25.0, 25.0, 10.0], [20.0, 70.0, 70.0, 11.0], [20.0, 25.0, 70.0, 9.0]])
    data = (drawn(grid, truth).data > 0).astype(np.uint8)
    annotation = annotation_of_labels(Labels(data, grid), grid)
    assert len(annotation.vesicles) == 0
    assert "class" in annotation.unclear.reasons[0]


@pytest.mark.parametrize(
    "options", [{"vesicle_ids": [1, 7]}, {"classes": (1, 7)}, {"cytosol_id": 7}, {"outline_ids": [7]}]
)
def test_labels_that_are_not_there(options: dict) -> None:
    grid = Grid((30, 40, 40), 2.0)
    labels = drawn(grid, np.array([[15.0, 20.0, 20.0, 9.0]]))
    with pytest.raises(BadInputError, match="no label 7"):
        annotation_of_labels(labels, grid, **options)


def test_vesicles_of_the_golgi(shared_data: Callable[[str], Path]) -> None:
    """Thirty vesicles segmented by hand, of which seven are elongated."""
    labels = read_labels(shared_data("golgi_vesicles/vesicles_membrane1_lumen2.mrc.gz"))
    z = slice(30, 185)
    part = Labels(labels.data[z, 240:570, :620], labels.grid.cropped((30, 240, 0), (155, 330, 620)))
    annotation = annotation_of_labels(part, part.grid, classes=(1, 2))
    assert len(annotation.vesicles) == 23
    assert len(np.unique(annotation.unclear.features["shape"])) == 7
    assert all("elongated" in reason for reason in annotation.unclear.reasons)
    table = np.genfromtxt(shared_data("golgi_vesicles/vesicles.csv"), delimiter=",", names=True)
    truth = np.column_stack([table["z_vox"] - 30, table["y_vox"] - 240, table["x_vox"], table["r_equiv_vox"]])
    apart = np.linalg.norm(annotation.vesicles.centres_vox[:, None] - truth[None, :, :3], axis=2)
    assert apart.min(axis=1).max() < 1.5
    nearest = truth[np.argmin(apart, axis=1), 3]
    assert (np.abs(annotation.vesicles.radii_vox / nearest - 1) < 0.08).all()


def test_undone_discs_among_pytos_balls_are_told(shared_data: Callable[[str], Path]) -> None:
    labels = read_labels(shared_data("pyto_presynaptic/labels.mrc.gz"))
    annotation = annotation_of_labels(labels, labels.grid, membrane_id=2, cytosol_id=3)
    assert annotation.notes == ("4 flat labels (35, 47, 72, 74) taken as discs through the middle of a vesicle",)
    asked = annotation_of_labels(labels, labels.grid, membrane_id=2, cytosol_id=3, discs=True)
    assert asked.notes == ()


def test_what_looks_like_no_vesicle_is_to_be_named() -> None:
    grid = Grid((30, 90, 90), 2.0)
    data = drawn(grid, np.array([[15.0, 20.0, 20.0, 9.0]])).data.copy()
    data[10:14, 60:64, 10:80] = 7
    notes = annotation_of_labels(Labels(data, grid), grid).notes
    assert len(notes) == 1 and "label 7 looks like no vesicle" in notes[0]
    assert annotation_of_labels(Labels(data, grid), grid, membrane_id=7).notes == ()
