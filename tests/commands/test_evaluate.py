"""`deepvesicle evaluate` as a user runs it: every kind of file on either side, outlines, outputs, what goes wrong."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle.commands.evaluate import stem_of_result
from deepvesicle.commands.main import main
from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.files.run_record import read_run_record
from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import write_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid, Labels
from deepvesicle.scoring.evaluation import evaluate
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import SCATTERED_OBJECT, UNITS_NM, Contour, Model, Object, read_model, write_model

GRID = Grid((60, 90, 110), 1.9, (2.0, 7.0, -3.0))
CENTRES = np.array([[20.3, 20, 30], [30, 40.4, 60], [35, 65, 70.2], [25, 65, 25], [30, 20, 90]])
RADII = np.array([9.2, 10.4, 8.8, 9.7, 11.1])
TRUTH = Vesicles.from_spheres(GRID, CENTRES, RADII, status=(Status.MANUAL,) * 5)
#: Two moved by a voxel, one found not at all, one wrong, one that was rejected.
FOUND = Vesicles(
    GRID,
    [11, 12, 13, 14, 15, 16],
    [*(CENTRES[:4] + [0, 0, 1]), [48, 40, 20], CENTRES[4]],
    [*RADII[:4], 8.0, RADII[4]],
    status=(*(Status.REFINED,) * 3, Status.DOUBTFUL, Status.REFINED, Status.REJECTED),
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two segmentations as table, model and labels, their tomogram, and an outline of y below 55."""
    folder = tmp_path_factory.mktemp("sample")
    write_tomogram(folder / "tomo.mrc", np.zeros(GRID.shape_zyx, np.int8) + np.arange(110, dtype=np.int8), GRID)
    for name, table in (("truth", TRUTH), ("found", FOUND)):
        write_vesicles_csv(folder / f"{name}.csv", table)
        write_vesicles_model(folder / f"{name}.mod", table)
        write_labels(folder / f"{name}.mrc", rasterize(table))
    corners = np.array([[-1.0, -1.0], [-1.0, 111.0], [54.5, 111.0], [54.5, -1.0]])
    contours = tuple(Contour(index_to_model(np.column_stack([np.full(4, float(z)), corners]))) for z in range(60))
    outline = Object(name="cell", contours=contours)
    other = Object(name="other", contours=(Contour(index_to_model(np.array([[3.0, 1, 1], [3, 1, 5], [3, 5, 5]]))),))
    write_model(
        folder / "outline.mod",
        Model(objects=(other, outline), image_size=(110, 90, 60), pixel_size=1.9, units=UNITS_NM),
    )
    cell = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    cell[:, :55], cell[:, 55:] = 3, 2
    write_labels(folder / "cell.mrc", Labels(cell, GRID))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def check_figures(figures: dict[str, Any], tolerance: float = 1e-4) -> None:
    assert (figures["tp"], figures["fp"], figures["fn"]) == (4, 1, 1)
    assert (figures["tp_iou50"], figures["fp_iou50"], figures["fn_iou50"]) == (4, 1, 1)
    assert figures["f1"] == figures["f1_exchanged"] == figures["precision"] == pytest.approx(0.8)
    assert figures["delta_c_nm"] == pytest.approx(1.9, abs=tolerance)
    assert figures["median_centre_error_nm"] == pytest.approx(1.9, abs=tolerance)
    assert figures["radius_bias_nm"] == pytest.approx(0, abs=tolerance)
    assert figures["delta_d"] == pytest.approx(0, abs=tolerance)


@pytest.mark.parametrize("truth", ["truth.csv", "truth.mod"])
@pytest.mark.parametrize("found", ["found.csv", "found.mod"])
def test_tables_and_models_compare_without_a_tomogram(
    sample: Path, capsys: pytest.CaptureFixture[str], found: str, truth: str
) -> None:
    figures = run(capsys, sample / found, sample / truth)
    check_figures(figures)
    assert figures["voxel_nm"] == pytest.approx(1.9)
    assert figures["dice"] == pytest.approx(evaluate(FOUND, TRUTH).dice, abs=1e-4)
    assert figures["missed_ids"] == [5] and figures["false_ids"] == [15]
    with_volume = run(capsys, sample / found, sample / truth, "--tomogram", sample / "tomo.mrc")
    assert {name: pytest.approx(value, abs=1e-6) for name, value in with_volume.items()} == figures


@pytest.mark.parametrize(("found", "truth"), [("found.mrc", "truth.csv"), ("found.mod", "truth.mrc")])
def test_label_volumes_on_either_side(sample: Path, capsys: pytest.CaptureFixture[str], found: str, truth: str) -> None:
    figures = run(capsys, sample / found, sample / truth)
    check_figures(figures, tolerance=0.2)
    assert figures["dice"] == pytest.approx(evaluate(FOUND, TRUTH).dice, abs=0.02)


def test_sides_change_places(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = run(capsys, sample / "found.csv", sample / "truth.mod")
    other = run(capsys, sample / "truth.mod", sample / "found.csv")
    assert (one["fp"], one["fn"]) == (other["fn"], other["fp"])
    for name in ("f1", "f1_iou50", "dice", "delta_c_nm", "delta_d"):
        assert one[name] == pytest.approx(other[name])


@pytest.mark.parametrize("outline", ["outline.mod:cell", "outline.mod:2", "cell.mrc:3"])
def test_only_what_is_in_the_outline_counts(sample: Path, capsys: pytest.CaptureFixture[str], outline: str) -> None:
    figures = run(capsys, sample / "found.csv", sample / "truth.csv", "--outline", sample / outline)
    assert (figures["tp"], figures["fp"], figures["fn"]) == (2, 1, 1)
    whole = run(capsys, sample / "found.csv", sample / "truth.csv", "--outline", sample / "cell.mrc")
    assert (whole["tp"], whole["fp"], whole["fn"]) == (4, 1, 1)


def test_everything_is_written_and_nothing_replaced(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(sample / "found.csv"), str(sample / "truth.csv"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "F1" in printed and "0.800" in printed and "found_evaluation.mod" in printed
    with open(tmp_path / "out" / "found_evaluation.csv", newline="") as file:
        outcomes = [row["outcome"] for row in csv.DictReader(file)]
    assert outcomes == ["found"] * 4 + ["missed", "false"]
    record = read_run_record(tmp_path / "out" / "found_evaluation.json")
    assert record.counts["f1"] == pytest.approx(0.8) and set(record.inputs) == {"prediction", "truth"}
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(before) == {f"found_evaluation.{ending}" for ending in ("csv", "mod", "json")}
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert main([*arguments, "--overwrite", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["tp"] == 4 and "wrote" in err


def test_what_cut_vesicles_do(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = TRUTH.replace(centres_vox=np.where(np.arange(5)[:, None] == 4, [30.0, 2.0, 90.0], TRUTH.centres_vox))
    write_vesicles_csv(tmp_path / "cut.csv", cut)
    arguments = [sample / "found.csv", tmp_path / "cut.csv", "--tomogram", sample / "tomo.mrc"]
    assert run(capsys, *arguments)["fn"] == 1
    assert run(capsys, *arguments, "--whole")["fn"] == 0
    assert main(["evaluate", *map(str, arguments[:2]), "--whole"]) == 2
    assert "--tomogram" in capsys.readouterr().err


def test_objects_of_other_models_are_picked(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points, sizes = index_to_model(TRUTH.centres_vox), TRUTH.radii_vox
    right = Object(name="mine", contours=(Contour(points, sizes),), flags=SCATTERED_OBJECT)
    wrong = Object(name="nucleus", contours=(Contour(points[:1] + 38, np.array([15.0])),), flags=SCATTERED_OBJECT)
    model = Model(objects=(wrong, right), image_size=(110, 90, 60), pixel_size=1.9, units=UNITS_NM)
    write_model(tmp_path / "people.mod", model)
    for part in (":mine", ":2"):
        check_figures(run(capsys, sample / "found.csv", f"{tmp_path}/people.mod{part}"))
    assert run(capsys, sample / "found.csv", tmp_path / "people.mod")["fn"] == 2
    assert main(["evaluate", str(sample / "found.csv"), f"{tmp_path}/people.mod:yours"]) == 3
    assert "yours" in capsys.readouterr().err


def test_an_outline_in_the_same_file_is_no_vesicle(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = index_to_model(TRUTH.centres_vox)
    mine = Object(name="mine", contours=(Contour(points, TRUTH.radii_vox),), flags=SCATTERED_OBJECT)
    cell = read_model(sample / "outline.mod").objects[1]
    write_model(
        tmp_path / "both.mod", Model(objects=(mine, cell), image_size=(110, 90, 60), pixel_size=1.9, units=UNITS_NM)
    )
    for part in ("cell", "2"):
        figures = run(capsys, sample / "found.csv", tmp_path / "both.mod", "--outline", f"{tmp_path}/both.mod:{part}")
        assert (figures["tp"], figures["fp"], figures["fn"]) == (2, 1, 1)
    labels = np.array(rasterize(TRUTH).data)
    labels[58:] = 40
    write_labels(tmp_path / "both.mrc", Labels(labels, GRID))
    both = f"{tmp_path}/both.mrc"
    figures = run(capsys, both, both, "--outline", f"{both}:40")
    assert (figures["tp"], figures["fp"], figures["fn"]) == (0, 0, 0)


def test_tables_with_nothing_in_them(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vesicles_csv(tmp_path / "none.csv", Vesicles.empty(GRID))
    assert main(["evaluate", str(tmp_path / "none.csv"), str(sample / "truth.csv")]) == 0
    out, err = capsys.readouterr()
    assert "holds no vesicles" in err and "undefined" in out
    assert main(["evaluate", str(tmp_path / "none.csv"), str(tmp_path / "none.csv")]) == 2
    assert "--voxel-size" in capsys.readouterr().err
    assert main(["evaluate", *[str(tmp_path / "none.csv")] * 2, "--voxel-size", "1.9"]) == 0


def test_rows_that_are_no_spheres_do_not_count(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deleted = FOUND.with_status(np.ones(6, dtype=bool), Status.REFINED, "").with_features(deleted=[0, 0, 0, 0, 1, 1])
    write_vesicles_csv(tmp_path / "deleted.csv", deleted)
    figures = run(capsys, tmp_path / "deleted.csv", sample / "truth.csv")
    assert (figures["tp"], figures["fp"], figures["fn"]) == (4, 0, 1)


def test_centres_outside_the_volume_do_not_count(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beyond = Vesicles.from_spheres(
        GRID, np.vstack([CENTRES, [[30, -4.9, 60], [63, 40, 20]]]), [*RADII, 9, 9], status=(Status.MANUAL,) * 7
    )
    write_vesicles_csv(tmp_path / "beyond.csv", beyond)
    figures = run(capsys, sample / "found.csv", tmp_path / "beyond.csv", "--tomogram", sample / "tomo.mrc")
    check_figures(figures)
    assert (figures["vesicles_prediction"], figures["vesicles_truth"]) == (5, 7)
    assert (figures["ignored_prediction"], figures["ignored_truth"], figures["unclear_truth"]) == (0, 2, 0)
    exchanged = run(capsys, tmp_path / "beyond.csv", sample / "found.csv", "--tomogram", sample / "tomo.mrc")
    assert (exchanged["tp"], exchanged["fp"], exchanged["fn"]) == (4, 1, 1)
    assert main(["evaluate", str(sample / "found.csv"), str(tmp_path / "beyond.csv")]) == 0  # no volume: y alone
    assert "neither for nor against: 1 vesicle of the truth\n" in capsys.readouterr().out


def test_unclear_shapes_are_counted_and_named_once(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.array(rasterize(TRUTH).data)
    labels[2:5, 2:88, 4:8] = 40  # a sheet: many spheres cover it
    write_labels(tmp_path / "sheet.mrc", Labels(labels, GRID))
    arguments = ["evaluate", str(sample / "found.csv"), str(tmp_path / "sheet.mrc"), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    check_figures(figures, tolerance=0.2)
    assert (figures["vesicles_truth"], figures["unclear_truth"], figures["ignored_truth"]) == (5, 1, 0)
    (warning,) = (text for text in figures["warnings"] if "sphere" in text)
    assert "1 shape is no sphere" in warning and "label 40 at x " in warning and "elongated" in warning
    assert warning in err
    with open(tmp_path / "out" / "found_evaluation.csv", newline="") as file:
        assert [row["outcome"] for row in csv.DictReader(file)].count("ignored") == 1
    assert main(["evaluate", *[str(tmp_path / "sheet.mrc")] * 2]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("5 vesicles in the prediction, 5 in the truth\n") and err.count("is no sphere") == 1
    assert "neither for nor against: 1 unclear shape of the prediction, 1 unclear shape of the truth\n" in out
    named = run(capsys, sample / "found.csv", tmp_path / "sheet.mrc", "--membrane-id", 40)
    assert named["unclear_truth"] == 0 and named["warnings"] == []


def test_other_voxel_sizes_are_told(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(tmp_path / "one.mrc", Labels(rasterize(TRUTH).data, replace(GRID, voxel_nm=1.0)))
    (tmp_path / "own.csv").write_text("z_vox,y_vox,x_vox,radius_vox,radius_nm\n20.3,20,30,9.2,9.2\n")
    pairs = (("truth.mrc", "one.mrc"), ("one.mrc", "truth.mod"), ("own.csv", "truth.mrc"))
    for names in pairs:
        paths = [tmp_path / name if (tmp_path / name).exists() else sample / name for name in names]
        assert main(["evaluate", *map(str, paths)]) == 2
        assert "have different voxel sizes" in capsys.readouterr().err
        for options in (["--voxel-size", 1.9], ["--tomogram", sample / "tomo.mrc"]):
            figures = run(capsys, *paths, *options)
            assert figures["voxel_nm"] == pytest.approx(1.9)
            (warning,) = (text for text in figures["warnings"] if " not 1.9 nm" in text)
            assert "says that voxels have 1 nm" in warning and str(tmp_path) in warning
    figures = run(capsys, sample / "found.mod", sample / "truth.mod", "--voxel-size", 1.0)
    assert figures["delta_c_nm"] == pytest.approx(1.0)
    assert len([text for text in figures["warnings"] if "voxels have 1.9 nm" in text]) == 2


def _garbage(folder: Path, sample: Path) -> list[str]:
    (folder / "garbage.mod").write_bytes(b"IMODV1.2" + bytes(40))
    return [str(folder / "garbage.mod"), str(sample / "truth.csv")]


def _missing(folder: Path, sample: Path) -> list[str]:
    return [str(folder / "nothing.mod"), str(sample / "truth.csv")]


def _folder(folder: Path, sample: Path) -> list[str]:
    return [str(folder), str(sample / "truth.csv")]


def _text(folder: Path, sample: Path) -> list[str]:
    (folder / "notes.txt").write_text("Pyto found 9 vesicles\n" * 90)
    return [str(folder / "notes.txt"), str(sample / "truth.csv")]


def _other_voxel(folder: Path, sample: Path) -> list[str]:
    write_vesicles_csv(folder / "other.csv", TRUTH.replace(grid=replace(GRID, voxel_nm=2.5)))
    return [str(folder / "other.csv"), str(sample / "truth.csv")]


def _other_shape(folder: Path, sample: Path) -> list[str]:
    write_labels(folder / "small.mrc", Labels(np.ones((4, 5, 6), dtype=np.uint8), Grid((4, 5, 6), 1.9)))
    return [str(folder / "small.mrc"), str(sample / "truth.mrc")]


def _no_labels(folder: Path, sample: Path) -> list[str]:
    return [f"{sample}/truth.mrc:a", str(sample / "truth.csv")]


def _table_as_outline(folder: Path, sample: Path) -> list[str]:
    return [str(sample / "truth.csv"), str(sample / "truth.csv"), "--outline", str(sample / "truth.csv")]


def _no_such_object(folder: Path, sample: Path) -> list[str]:
    return [str(sample / "truth.csv"), str(sample / "truth.csv"), "--outline", f"{sample}/outline.mod:nucleus"]


def _empty_label(folder: Path, sample: Path) -> list[str]:
    return [str(sample / "truth.csv"), str(sample / "truth.csv"), "--outline", f"{sample}/cell.mrc:9"]


def _part_of_a_table(folder: Path, sample: Path) -> list[str]:
    return [f"{sample}/truth.csv:3", str(sample / "truth.csv")]


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (_garbage, 3, "garbage.mod"),
        (_missing, 3, "nothing.mod does not exist"),
        (_folder, 3, "is a folder"),
        (_text, 3, "or a label volume (.mrc); got a text file"),
        (_other_voxel, 2, "different voxel sizes; got 2.5 and 1.9 nm"),
        (_other_shape, 3, "volumes of the same size; got 6 x 5 x 4 and 110 x 90 x 60 voxels"),
        (_no_labels, 2, "names no labels"),
        (_table_as_outline, 2, "is a table"),
        (_no_such_object, 3, "'cell'"),
        (_empty_label, 3, "label 9"),
        (_part_of_a_table, 2, "is a table"),
    ],
)
def test_what_goes_wrong_is_one_line(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, code: int, words: str
) -> None:
    assert main(["evaluate", *make(tmp_path, sample), "-o", str(tmp_path / "out")]) == code
    out, err = capsys.readouterr()
    assert out == "" and words in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("t_vesicles.mod", "t_vesicles"),
        ("t.v2.csv", "t.v2"),
        ("labels.mrc.gz", "labels"),
        ("t.rec", "t"),
        ("a.b", "a.b"),
    ],
)
def test_results_are_named_after_the_prediction(name: str, stem: str) -> None:
    assert stem_of_result(Path(name)) == stem
