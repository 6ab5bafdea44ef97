"""`deepvesicle report` as a user runs it, and the verdicts that `deepvesicle fix --review` carries out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.commands.report import write_report
from deepvesicle.files.imod import read_vesicles_model, write_vesicles_model
from deepvesicle.files.run_record import RunRecord, read_run_record
from deepvesicle.files.tables import read_vesicles_csv, write_vesicles_csv
from deepvesicle.files.tomogram import read_labels, read_tomogram, write_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid
from deepvesicle.settings import Settings
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import read_model

GRID = Grid((40, 70, 90), 2.0)
CENTRES = np.array([[20.0, 20, 20], [20, 50, 20], [20, 20, 50], [20, 50, 50], [20, 35, 75]])
STATUS = (Status.REFINED, Status.DOUBTFUL, Status.REJECTED, Status.MANUAL, Status.REJECTED)


def table() -> Vesicles:
    made = Vesicles.from_spheres(GRID, CENTRES, [9.0, 8, 9, 10, 8], status=STATUS, reasons=["", "odd", "no", "", "out"])
    return made.replace(ids=np.array([4, 9, 2, 7, 11]), scores=np.array([0.9, 0.6, 0.3, np.nan, 0.1])).with_features(
        deleted=[0, 0, 0, 0, 1]
    )


@pytest.fixture
def case(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A tomogram and all that a segmentation leaves beside it."""
    write_tomogram(tmp_path / "t.mrc", rng.normal(size=GRID.shape_zyx).astype(np.float32), GRID)
    write_vesicles_csv(tmp_path / "t_vesicles.csv", table())
    write_vesicles_model(tmp_path / "t_vesicles.mod", table())
    write_labels(tmp_path / "t_labels.mrc", rasterize(table()))
    record = RunRecord.start("segment", Settings(), {"tomogram": tmp_path / "t.mrc"}, voxel_nm=2.0)
    record.finished(warnings=["look here"]).write(tmp_path / "t_run.json")
    return tmp_path


def report(folder: Path, *more: str, vesicles: str = "t_vesicles.csv") -> int:
    return main(["report", str(folder / "t.mrc"), str(folder / vesicles), *more])


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_report_lies_beside_the_table_and_knows_its_run(case, capsys):
    assert report(case) == 0
    data = data_of(case / "t_report.html")
    assert [one["id"] for one in data["spheres"]] == [4, 9, 2, 7, 11]
    assert data["table"] == "t_vesicles.csv" and data["tomogram"]["name"] == "t.mrc"
    assert data["run"]["warnings"] == ["look here"]
    assert all(data["profiles"]["rows"])
    assert f"wrote {case / 't_report.html'} (" in capsys.readouterr().out


def test_models_and_labels_can_be_reported_too(case):
    assert report(case, vesicles="t_vesicles.mod") == 0
    data = data_of(case / "t_report.html")
    assert {one["id"]: one["status"] for one in data["spheres"]} == {
        4: "refined",
        9: "doubtful",
        2: "rejected",
        7: "manual",
    }
    assert report(case, "-o", str(case / "labels.html"), vesicles="t_labels.mrc") == 0
    assert {one["id"] for one in data_of(case / "labels.html")["spheres"]} == {4, 9, 7}


def test_a_truth_and_an_earlier_table_are_compared(case):
    truth = table().select([0, 2]).replace(status=(Status.MANUAL,) * 2).replace(features={})
    write_vesicles_csv(case / "truth.csv", truth)
    before = table().replace(radii_vox=np.array([9.0, 9.5, 9, 10, 8]))
    write_vesicles_csv(case / "t_vesicles.csv~", before)
    options = ("--truth", str(case / "truth.csv"), "--before", str(case / "t_vesicles.csv~"))
    assert report(case, *options) == 0
    data = data_of(case / "t_report.html")
    rows = {(one["kind"], one["id"]): one for one in data["spheres"]}
    assert rows["vesicle", 4]["agree"] == "found" and rows["vesicle", 9]["agree"] == "false"
    assert rows["vesicle", 2]["agree"] == "" and rows["missed", 2]["agree"] == "missed"
    assert data["agreement"]["tp"] == 1 and data["agreement"]["fn"] == 1
    assert rows["vesicle", 9]["change"] == "resized" and data["changes"]["resized"] == 1


def test_voxel_size_and_contrast_are_those_of_the_run(case):
    record = read_run_record(case / "t_run.json")
    changed = replace(record, voxel_nm=1.5, voxel_source="option", invert=True)
    changed.write(case / "t_run.json", overwrite=True)
    other = table().replace(grid=replace(GRID, voxel_nm=1.5))
    write_vesicles_csv(case / "t_vesicles.csv", other, overwrite=True)
    assert report(case) == 0
    data = data_of(case / "t_report.html")
    assert data["tomogram"]["voxel"] == 1.5 and data["tomogram"]["invert"] is True
    assert report(case, "--no-invert", "--overwrite") == 0
    assert data_of(case / "t_report.html")["tomogram"]["invert"] is False


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["t.mrc", "nothere.csv"], 3, "nothere.csv does not exist"),
        (["nothere.mrc", "t_vesicles.csv"], 3, "nothere.mrc"),
        (["t.mrc", "t_vesicles.csv", "--run", "t.mrc"], 3, "t.mrc is not a run record"),
        (["t.mrc", "t_vesicles.csv", "--run", "nothere.json"], 3, "nothere.json cannot be read"),
        (["t.mrc", "t_vesicles.csv", "--truth", "nothere.mod"], 3, "nothere.mod does not exist"),
        (["t.mrc", "t_vesicles.csv", "--before", "nothere.csv"], 3, "nothere.csv does not exist"),
        (["t.mrc", "t_vesicles.csv", "--voxel-size", "3"], 3, "belongs to another tomogram"),
        (["t.mrc", "t_vesicles.csv", "-o", "no/such/r.html"], 2, "does not exist"),
        (["t.mrc", "t_vesicles.csv", "-o", "t_vesicles.csv", "--overwrite"], 2, "is an input"),
        (["t.mrc", "t_vesicles.csv", "-o", "t.mrc", "--overwrite"], 2, "is an input"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(case, capsys, monkeypatch, arguments, code, said):
    monkeypatch.chdir(case)
    before = {path.name: path.read_bytes() for path in case.iterdir()}
    assert main(["report", *arguments]) == code
    line = capsys.readouterr().err.strip()
    assert said in line and line.startswith("error: ") and "\n" not in line
    assert {path.name: path.read_bytes() for path in case.iterdir()} == before


def test_an_existing_report_stays(case, capsys):
    (case / "t_report.html").write_text("mine")
    assert report(case) == 2
    assert "exists already" in capsys.readouterr().err and (case / "t_report.html").read_text() == "mine"
    assert report(case, "--overwrite") == 0


def test_a_table_without_rows_is_reported_with_a_warning(case, capsys):
    write_vesicles_csv(case / "t_vesicles.csv", Vesicles.empty(GRID), overwrite=True)
    assert report(case) == 0
    assert "holds no vesicles" in capsys.readouterr().err


def test_write_report_needs_no_record(case):
    write_report(case / "plain.html", read_tomogram(case / "t.mrc"), table())
    data = data_of(case / "plain.html")
    assert data["run"] is None and data["tilts"]["source"] == "usual"


# --- fix --review


def review(folder: Path, verdicts: dict[int, str], name: str = "t_review.json", **more: Any) -> str:
    """A file as the page saves it."""
    row = {int(number): i for i, number in enumerate(table().ids)}
    decisions = []
    for number, decision in verdicts.items():
        z, y, x = CENTRES[row[number]] if number in row else (1.0, 1.0, 1.0)
        decisions.append({"id": number, "decision": decision, "centre_vox": {"x": x, "y": y, "z": z}})
    tomogram = {"name": "t.mrc", "shape_xyz": [90, 70, 40], "voxel_nm": 2.0}
    content = {"format": "deepvesicle review", "version": 1, "tomogram": tomogram, "table": "t_vesicles.csv"}
    (folder / name).write_text(json.dumps({**content, "decisions": decisions, **more}))
    return str(folder / name)


def fix(folder: Path, *more: str) -> int:
    return main(["fix", str(folder / "t.mrc"), str(folder / "t_vesicles.mod"), *more])


def test_verdicts_go_into_the_table_the_model_and_the_labels(case, capsys):
    assert fix(case, "--review", review(case, {4: "reject", 9: "keep", 2: "keep", 7: "keep", 11: "keep"})) == 0
    result = read_vesicles_csv(case / "t_vesicles.csv", GRID)
    assert result.ids.tolist() == [4, 9, 2, 7, 11]
    assert result.status == (Status.REJECTED, Status.REFINED, Status.MANUAL, Status.MANUAL, Status.MANUAL)
    assert result.reasons[0] == "rejected in review" and result.reasons[2] == "accepted by the user"
    assert result.features["deleted"][4] == 0
    np.testing.assert_array_equal(result.centres_vox, CENTRES)
    np.testing.assert_array_equal(result.scores, table().scores)
    model = read_model(case / "t_vesicles.mod")
    where = {contour.surface: item.name for item in model.objects for contour in item.contours}
    assert where == {4: "rejected", 9: "vesicles", 2: "manual", 7: "manual", 11: "manual"}
    spheres = read_vesicles_model(case / "t_vesicles.mod", GRID)
    assert dict(zip(spheres.ids.tolist(), spheres.status, strict=True)) == dict(
        zip(result.ids.tolist(), result.status, strict=True)
    )
    np.testing.assert_array_equal(read_labels(case / "t_labels.mrc", GRID).data, rasterize(result).data)
    record = read_run_record(case / "t_run.json")
    assert record.inputs["review"].path.endswith("t_review.json") and record.counts["rejected"] == 1
    assert "1 rejected in review, 1 made refined by the user, 2 accepted by the user; 4 vesicles now" in _sorted(
        capsys.readouterr().out
    )


def _sorted(out: str) -> str:
    line = next(line for line in out.splitlines() if "vesicles now" in line)
    parts, now = line.split("; ")
    order = {"rejected": 0, "made": 1, "accepted": 2}
    return ", ".join(sorted(parts.split(", "), key=lambda part: order[part.split()[1]])) + f"; {now}"


def test_the_same_review_twice_changes_nothing(case, capsys):
    path = review(case, {4: "reject", 2: "keep"})
    assert fix(case, "--review", path) == 0
    before = {p.name: p.read_bytes() for p in case.iterdir()}
    capsys.readouterr()
    assert fix(case, "--review", path) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in case.iterdir()} == before


def test_a_later_fix_keeps_what_was_reviewed(case):
    assert fix(case, "--review", review(case, {4: "reject", 11: "keep"})) == 0
    first = read_vesicles_csv(case / "t_vesicles.csv", GRID)
    assert fix(case) == 0
    assert read_vesicles_csv(case / "t_vesicles.csv", GRID).status == first.status


def test_marks_that_could_not_be_fitted_are_not_judged():
    from deepvesicle.corrections import reviewed

    waiting = table().with_features(not_fitted=[0, 0, 1, 0, 0])
    result, changes = reviewed(waiting, {2: True, 999: False})
    assert result.status == STATUS and not changes


@pytest.mark.parametrize(
    "verdicts, more, said",
    [
        ({4: "keep", 50: "reject"}, {}, "vesicle 50 is not in the table"),
        ({4: "keep"}, {"tomogram": {"shape_xyz": [9, 7, 4], "voxel_nm": 2.0}}, "the review of another tomogram"),
        ({4: "keep"}, {"format": "other"}, "is not a review"),
        ({4: "perhaps"}, {}, "is not a review"),
    ],
)
def test_a_review_of_something_else_changes_nothing(case, capsys, verdicts, more, said):
    path = review(case, verdicts, **more)
    before = {p.name: p.read_bytes() for p in case.iterdir()}
    assert fix(case, "--review", path) == 3
    line = capsys.readouterr().err.strip()
    assert said in line and "t_review.json" in line and "\n" not in line
    assert {p.name: p.read_bytes() for p in case.iterdir()} == before


@pytest.mark.parametrize("option", ["--live", "--watch", "--new"])
def test_a_review_is_for_one_run_on_a_result(case, capsys, option):
    assert fix(case, option, "--review", review(case, {4: "keep"})) == 2
    assert "--review is for a single run" in capsys.readouterr().err


def test_a_missing_review_is_told_before_the_work(case, capsys):
    assert fix(case, "--review", str(case / "nothere.json")) == 3
    assert "nothere.json cannot be read" in capsys.readouterr().err
