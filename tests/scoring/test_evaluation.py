"""Evaluations whose outcome is known: both ways of matching, Dice, regions, and what stays when the sides change."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepvesicle.errors import OutputExistsError
from deepvesicle.files.outline import Outline
from deepvesicle.files.region import LabelRegion
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid, Labels
from deepvesicle.scoring import evaluation as module
from deepvesicle.scoring.evaluation import evaluate, spheres_dice
from deepvesicle.scoring.match import dice, match, sphere_iou
from deepvesicle.scoring.outputs import COLUMNS, write_evaluation_csv, write_evaluation_model
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import stored_to_index
from imod_bridge.model import read_model

GRID = Grid((50, 70, 90), 1.7, (3.0, -4.0, 5.0))
TRUTH = Vesicles.from_spheres(GRID, [[10, 20, 30], [30, 40, 60], [35, 15, 70], [25, 55, 15]], [8, 9.5, 7, 6])


def shifted(table: Vesicles, step: list[float], scale: float = 1.0) -> Vesicles:
    return table.replace(centres_vox=table.centres_vox + step, radii_vox=table.radii_vox * scale)


def random_table(rng: np.random.Generator, count: int) -> Vesicles:
    centres = rng.uniform(-2, np.array(GRID.shape_zyx) + 1, (count, 3))
    return Vesicles.from_spheres(GRID, centres, rng.uniform(3, 12, count), status=(Status.MANUAL,) * count)


def test_a_table_agrees_with_itself() -> None:
    figures = evaluate(TRUTH, TRUTH).figures()
    for name in ("dice", "f1", "precision", "recall", "f1_exchanged", "f1_iou50"):
        assert figures[name] == 1
    for name in ("delta_d", "delta_c_nm", "median_centre_error_nm", "radius_bias_nm", "radius_sd_nm", "fp", "fn"):
        assert figures[name] == pytest.approx(0)


def test_iou_of_spheres_by_counting_voxels(rng: np.random.Generator) -> None:
    for _ in range(10):
        a, b = rng.uniform(8, 15, 2)
        step = rng.uniform(-9, 9, 3)
        z, y, x = np.ogrid[-30:31, -30:31, -30:31]
        first = z**2 + y**2 + x**2 <= a**2
        second = (z - step[0]) ** 2 + (y - step[1]) ** 2 + (x - step[2]) ** 2 <= b**2
        counted = np.count_nonzero(first & second) / np.count_nonzero(first | second)
        assert sphere_iou(np.linalg.norm(step), a, b) == pytest.approx(counted, abs=0.01)


def test_half_the_volume_decides_for_the_second_way_of_matching() -> None:
    # a concentric sphere of radius q shares q^3 of the volume: the centre is inside all the same
    for scale, found in ((0.8, 4), (0.78, 0), (1.25, 4), (1.27, 0)):
        result = evaluate(shifted(TRUTH, [0, 0, 0], scale), TRUTH)
        assert (result.by_centre.tp, result.by_volume.tp) == (4, found)
        np.testing.assert_allclose(result.ious, min(scale, 1 / scale) ** 3)


def test_most_pairs_by_volume_go_before_the_best_pair() -> None:
    truth = Vesicles.from_spheres(GRID, [[25, 30, 30], [25, 30, 33]], [10, 10])
    predicted = Vesicles.from_spheres(GRID, [[25, 30, 32.5], [25, 30, 35]], [10, 10])
    score = match(predicted, truth, least_iou=0.5)
    assert score.pairs.tolist() == [[0, 0], [1, 1]]  # the first would lie better on the second, which the other needs
    assert match(predicted, truth, least_iou=0.75).tp == 1


def test_dice_is_that_of_the_drawn_labels(rng: np.random.Generator) -> None:
    a, b = random_table(rng, 25), random_table(rng, 30)
    drawn = [rasterize(table).data > 0 for table in (a, b)]
    assert 0.1 < dice(*drawn) < 0.9
    assert spheres_dice(a, b) == pytest.approx(dice(*drawn), abs=1e-12)


def test_dice_in_slabs_is_the_same(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_table(rng, 25), random_table(rng, 30)
    mask = rng.random(GRID.shape_zyx) < 0.5
    region = LabelRegion(Labels(mask.astype(np.uint8), GRID))
    drawn = [(rasterize(table).data > 0) & mask for table in (a, b)]
    for voxels in (1, 20_000, 1 << 30):
        monkeypatch.setattr(module, "SLAB_VOXELS", voxels)
        assert spheres_dice(a, b, region) == pytest.approx(dice(*drawn), abs=1e-12)
    assert math.isnan(spheres_dice(a.select([]), b.select([])))
    assert spheres_dice(a, b.select([])) == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_symmetrical_figures_stay_when_the_sides_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    last = np.array(GRID.shape_zyx) - 1  # of a pair at a face, the truth alone decides whether it counts
    a = random_table(rng, 12)
    a = a.replace(centres_vox=np.clip(a.centres_vox, 0, last))
    keep = rng.random(12) < 0.8
    b = shifted(a.select(keep), [0, 0, 0]).replace(
        centres_vox=np.clip(a.centres_vox[keep] + rng.normal(0, 2, (keep.sum(), 3)), 0, last),
        radii_vox=a.radii_vox[keep] * rng.uniform(0.7, 1.4, keep.sum()),
    )
    one, other = evaluate(a, b), evaluate(b, a)
    assert one.exchanged_f1 == other.by_centre.f1 and other.exchanged_f1 == one.by_centre.f1
    assert one.by_volume.pairs.tolist() == sorted(other.by_volume.pairs[:, ::-1].tolist())
    assert (one.by_volume.precision, one.by_volume.recall) == (other.by_volume.recall, other.by_volume.precision)
    assert one.dice == other.dice or (math.isnan(one.dice) and math.isnan(other.dice))


def test_rejected_rows_do_not_count_on_either_side() -> None:
    spoiled = TRUTH.with_status([True, False, False, False], Status.REJECTED, "far off")
    result = evaluate(spoiled, TRUTH)
    assert (result.by_centre.tp, result.by_centre.fn, result.by_centre.fp) == (3, 1, 0)
    assert len(result.predicted) == 3 and result.dice < 1
    result = evaluate(TRUTH, spoiled)
    assert (result.by_centre.tp, result.by_centre.fn, result.by_centre.fp) == (3, 0, 1)


def test_outside_the_region_nothing_counts() -> None:
    box = {z: (np.array([[-1.0, -1.0], [-1.0, 95.0], [45.0, 95.0], [45.0, -1.0]]),) for z in range(50)}
    outline = Outline(GRID, box)  # y below 45: without the last vesicle
    mask = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    mask[:, :45] = 4
    wrong = Vesicles(GRID, np.array([8, 9]), [[25, 60, 70], [10, 20, 80]], [5, 5])
    predicted = Vesicles.from_spheres(
        GRID,
        np.concatenate([TRUTH.centres_vox[:2], wrong.centres_vox]),
        np.concatenate([TRUTH.radii_vox[:2], wrong.radii_vox]),
        status=(Status.REFINED,) * 4,
    )
    truth = TRUTH.with_status(np.ones(4, dtype=bool), Status.MANUAL, "")
    drawn = [(rasterize(table).data > 0) & (mask > 0) for table in (predicted, truth)]
    for region in (outline, LabelRegion(Labels(mask, GRID)), LabelRegion(Labels(mask, GRID), 4)):
        result = evaluate(predicted, truth, region=region)
        assert (result.by_centre.tp, result.by_centre.fp, result.by_centre.fn) == (2, 1, 1)
        assert result.ignored_truth.tolist() == [3] and result.ignored_predicted.tolist() == [2]
        # the vesicle of which a part reaches into the region belongs to nobody
        inner = rasterize(truth.select([0, 1, 2])).data > 0
        assert result.dice == pytest.approx(dice(drawn[0], inner & (mask > 0)), abs=1e-12)
    nothing = evaluate(predicted, truth, region=LabelRegion(Labels(mask, GRID), 3))
    assert nothing.by_centre.tp + nothing.by_centre.fp + nothing.by_centre.fn == 0 and math.isnan(nothing.dice)


def test_cut_and_unclear_vesicles_neither_help_nor_hurt() -> None:
    truth = Vesicles.from_spheres(GRID, [[25, 30, 30], [1, 30, 60], [25, 50, 60]], [8, 8, 8])
    predicted = truth.replace(centres_vox=truth.centres_vox + [0, 1, 0])
    strange = Vesicles.from_spheres(GRID, [[25, 30, 30], [45, 60, 88]], [8, 8])
    result = evaluate(predicted, truth, whole=True)
    assert (result.by_centre.tp, result.by_centre.fp, result.by_centre.fn) == (2, 0, 0)
    assert evaluate(predicted.select([0, 2]), truth, whole=True).by_centre.f1 == 1
    result = evaluate(strange, truth.select([0]), whole=True)  # a cut one that the truth does not know
    assert (result.by_centre.tp, result.by_centre.fp) == (1, 0)
    assert evaluate(strange, truth.select([0])).by_centre.fp == 1
    result = evaluate(predicted, truth, unclear_truth=[False, False, True])
    assert (result.by_centre.tp, result.by_centre.fp, result.by_centre.fn) == (2, 0, 0)
    result = evaluate(predicted, truth.select([0]), unclear_predicted=[False, True, False])
    assert (result.by_centre.tp, result.by_centre.fp) == (1, 1)


def test_centres_outside_the_volume_neither_help_nor_hurt() -> None:
    beyond = Vesicles.from_spheres(GRID, [[25, -0.6, 30], [25, 30, 95], [25, -0.4, 60]], [8, 8, 8])
    result = evaluate(TRUTH.select([0]), beyond)
    assert (result.by_centre.tp, result.by_centre.fp, result.by_centre.fn) == (0, 1, 1)
    assert result.by_centre.fn_rows.tolist() == [2] and result.ignored_truth.tolist() == [0, 1]
    result = evaluate(beyond, TRUTH.select([0]))
    assert (result.by_centre.fp_rows.tolist(), result.ignored_predicted.tolist()) == ([2], [0, 1])
    result = evaluate(beyond.select([2]), shifted(beyond.select([2]), [0, -1, 0]))
    assert (result.by_centre.fp, result.by_volume.fp, result.by_centre.fn) == (0, 0, 0)


def test_shapes_count_once_whatever_covers_them() -> None:
    covers = Vesicles.from_spheres(GRID, [[10, 20, 30], [45, 10, 10], [45, 10, 16], [45, 60, 80]], [8, 5, 5, 5])
    result = evaluate(TRUTH, covers, unclear_truth=[0, 3, 3, 7])
    counts = result.counts()
    assert (counts["vesicles_prediction"], counts["vesicles_truth"]) == (4, 1)
    assert (counts["unclear_prediction"], counts["unclear_truth"], counts["ignored_truth"]) == (0, 2, 0)
    assert result.ignored_truth.tolist() == [1, 3]
    result = evaluate(covers, TRUTH, unclear_predicted=[0, 3, 3, 7])
    assert result.ignored_predicted.tolist() == [1, 3] and (result.by_centre.fp, result.by_centre.fn) == (0, 3)
    spoiled = covers.with_status([False, True, False, False], Status.REJECTED, "far off")
    assert evaluate(spoiled, TRUTH, unclear_predicted=[0, 3, 3, 7]).ignored_predicted.tolist() == [1, 2]


def test_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="same grid"):
        evaluate(TRUTH.replace(grid=Grid((50, 70, 90), 2.0)), TRUTH)


# --- what is written


def example() -> module.Evaluation:
    """Two found, one missed, one false, one cut on each side."""
    truth = Vesicles(GRID, [3, 5, 7, 9], [[10, 20, 30], [30, 40, 60], [35, 15, 70], [0, 50, 50]], [8, 9.5, 7, 6])
    predicted = Vesicles(GRID, [2, 4, 6, 8], [[30, 40, 61], [10, 22, 30], [25, 60, 15], [48, 60, 70]], [10, 8, 6, 5])
    return evaluate(predicted, truth, whole=True)


def test_every_vesicle_is_in_the_table(tmp_path: Path) -> None:
    write_evaluation_csv(tmp_path / "e.csv", example())
    with open(tmp_path / "e.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    told = [(row["outcome"], row["prediction_id"], row["truth_id"]) for row in rows]
    assert sorted(told) == sorted(
        [
            ("found", "2", "5"),
            ("found", "4", "3"),
            ("missed", "", "7"),
            ("false", "6", ""),
            ("ignored", "8", ""),
            ("ignored", "", "9"),
        ]
    )
    by_truth = {row["truth_id"]: row for row in rows}
    found = by_truth["3"]
    assert [float(found[f"{a}_vox"]) for a in "zyx"] == [10, 20, 30]
    assert [float(found[f"{a}_nm"]) for a in "zyx"] == pytest.approx([17, 34, 51])
    assert float(found["distance_nm"]) == pytest.approx(3.4) and float(found["radius_difference_nm"]) == 0
    assert float(found["iou"]) == pytest.approx(sphere_iou(2, 8, 8), abs=1e-4)
    assert float(by_truth["5"]["radius_difference_nm"]) == pytest.approx(0.85)
    missed = by_truth["7"]
    assert missed["distance_nm"] == missed["iou"] == ""
    assert float(missed["nearest_nm"]) == pytest.approx(1.7 * np.linalg.norm([5, 25, 9]), abs=1e-4)
    with pytest.raises(OutputExistsError):
        write_evaluation_csv(tmp_path / "e.csv", example())


def test_model_shows_the_three_kinds_in_three_colours(tmp_path: Path) -> None:
    write_evaluation_model(tmp_path / "e.mod", example())
    model = read_model(tmp_path / "e.mod")
    assert [item.name for item in model.objects] == ["found", "missed", "false"]
    assert len({item.colour for item in model.objects}) == 3
    assert all(item.is_scattered for item in model.objects)
    ids = [[contour.surface for contour in item.contours] for item in model.objects]
    assert [sorted(numbers) for numbers in ids] == [[3, 5], [7], [6]]
    (contour,) = model.objects[1].contours
    np.testing.assert_allclose(stored_to_index(contour.points, model), [[35, 15, 70]], atol=1e-5)
    assert contour.sizes is not None and contour.sizes.tolist() == [7]


def test_tables_of_nothing_can_be_written(tmp_path: Path) -> None:
    empty = evaluate(TRUTH.select([]), TRUTH.select([]))
    assert all(math.isnan(empty.figures()[name]) for name in ("dice", "f1", "f1_exchanged"))
    write_evaluation_csv(tmp_path / "e.csv", empty)
    write_evaluation_model(tmp_path / "e.mod", empty)
    assert (tmp_path / "e.csv").read_text().strip() == ",".join(COLUMNS)
    write_evaluation_csv(tmp_path / "f.csv", evaluate(TRUTH.select([]), TRUTH))
    assert (tmp_path / "f.csv").read_text().count("missed") == 4
