"""`deepvesicle export` as a user runs it: every format from either kind of file, and what goes wrong."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle.commands.compared import source_of
from deepvesicle.commands.export import Format, read_chosen, target_of, wanted_status
from deepvesicle.commands.main import main
from deepvesicle.errors import BadInputError, UsageError
from deepvesicle.files.imod import read_vesicles_model, write_vesicles_model
from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import read_labels, write_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid
from deepvesicle.marks import DELETED
from deepvesicle.vesicles import ACCEPTED, Status, Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import SCATTERED_OBJECT, UNITS_NM, Contour, Model, Object, write_model

GRID = Grid((40, 60, 80), 1.5, (2.0, 7.0, -3.0))
FOUND = Vesicles(
    GRID,
    [11, 12, 13, 14, 15, 16],
    [[20.25, 20, 20.5], [20, 40, 20], [20, 20, 60], [20, 45, 60], [10, 10, 40], [30, 50, 40]],
    [8.5, 9.25, 7.0, 8.0, 6.0, 6.5],
    status=(*(Status.REFINED,) * 2, Status.DOUBTFUL, Status.MANUAL, Status.REJECTED, Status.PROPOSED),
    features={DELETED: [0.0, 1.0, 0, 0, 0, 0]},
)
#: The second is refined, but the user deleted it.
ACCEPTED_IDS = [11, 13, 14]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_tomogram(folder / "tomo.mrc", np.zeros(GRID.shape_zyx, np.int8) + np.arange(80, dtype=np.int8), GRID)
    write_vesicles_csv(folder / "tomo_vesicles.csv", FOUND)
    write_vesicles_model(folder / "tomo_vesicles.mod", FOUND)
    return folder


def export(*arguments: Any) -> int:
    return main(["export", *map(str, arguments)])


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("source", ["tomo_vesicles.csv", "tomo_vesicles.mod"])
@pytest.mark.parametrize("with_tomogram", [False, True])
def test_the_same_numbers_from_a_table_and_a_model(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, with_tomogram: bool
) -> None:
    more = ["--tomogram", sample / "tomo.mrc"] if with_tomogram else []
    assert export(sample / source, "-o", tmp_path / "v.csv", *more) == 0
    out, err = capsys.readouterr()
    assert "3 vesicles" in out and f"wrote {tmp_path / 'v.csv'}" in out and not err
    rows = {int(row["id"]): row for row in rows_of(tmp_path / "v.csv")}
    assert sorted(rows) == ACCEPTED_IDS
    assert {row["tomogram"] for row in rows.values()} == {"tomo"}
    for number, row in rows.items():
        place = FOUND.centres_vox[list(FOUND.ids).index(number)] * 1.5
        assert [float(row[f"{axis}_nm"]) for axis in "zyx"] == pytest.approx(place, abs=1e-4)
        assert float(row["radius_nm"]) == pytest.approx(FOUND.radii_nm[list(FOUND.ids).index(number)], abs=1e-4)


@pytest.mark.parametrize(
    ("status", "ids"),
    [
        ("all", [11, 13, 14, 15, 16]),
        ("rejected", [15]),
        ("manual, proposed", [14, 16]),
        ("accepted,manual", [11, 13, 14]),
    ],
)
def test_status_chooses_the_rows(sample: Path, tmp_path: Path, status: str, ids: list[int]) -> None:
    assert export(sample / "tomo_vesicles.csv", "-o", tmp_path / "v.json", "--status", status) == 0
    points = json.loads((tmp_path / "v.json").read_text())["points"]
    assert [point["instance_id"] for point in points] == ids


def test_an_unknown_status_is_named(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(sample / "tomo_vesicles.csv", "-o", tmp_path / "v.json", "--status", "manual,good") == 2
    assert "--status 'good' is not known" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(UsageError):
        wanted_status("")


def test_labels_are_those_of_the_chosen_spheres(sample: Path, tmp_path: Path) -> None:
    tomogram = ["--tomogram", sample / "tomo.mrc"]
    assert export(sample / "tomo_vesicles.csv", "-o", tmp_path / "v.mrc", *tomogram) == 0
    labels = read_labels(tmp_path / "v.mrc")
    assert labels.grid.voxel_nm == pytest.approx(1.5) and labels.grid.origin_nm == pytest.approx(GRID.origin_nm)
    kept = FOUND.select(np.isin(FOUND.ids, ACCEPTED_IDS))
    np.testing.assert_array_equal(labels.data, rasterize(kept).data)
    assert export(sample / "tomo_vesicles.csv", "-o", tmp_path / "r.mrc", *tomogram, "--status", "rejected") == 0
    assert np.unique(read_labels(tmp_path / "r.mrc").data).tolist() == [0, 15]


def test_a_vesicle_without_a_voxel_is_told(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = FOUND.select([0, 2]).replace(centres_vox=[[20.0, 20, 20], [20, 20, 500]])
    write_vesicles_csv(tmp_path / "t.csv", outside)
    assert export(tmp_path / "t.csv", "-o", tmp_path / "v.mrc", "--tomogram", sample / "tomo.mrc") == 0
    assert "no voxel of v.mrc is in the vesicles 13" in capsys.readouterr().err


def test_models_keep_ids_and_status(sample: Path, tmp_path: Path) -> None:
    arguments = ["-o", tmp_path / "v.mod", "--tomogram", sample / "tomo.mrc", "--status", "accepted,rejected"]
    assert export(sample / "tomo_vesicles.csv", *arguments) == 0
    read = read_vesicles_model(tmp_path / "v.mod", GRID)
    expected = FOUND.select(np.isin(FOUND.ids, [*ACCEPTED_IDS, 15]))
    order = np.argsort(read.ids)
    assert read.ids[order].tolist() == expected.ids.tolist()
    assert [read.status[i] for i in order] == list(expected.status)
    np.testing.assert_allclose(read.centres_vox[order], expected.centres_vox, atol=1e-4)


def test_named_objects_keep_ids_and_status(sample: Path, tmp_path: Path) -> None:
    tomogram = ["--tomogram", sample / "tomo.mrc"]
    assert export(f"{sample / 'tomo_vesicles.mod'}:doubtful,manual", "-o", tmp_path / "v.mod", *tomogram) == 0
    found = read_vesicles_model(tmp_path / "v.mod", GRID)
    assert dict(zip(found.ids.tolist(), found.status, strict=True)) == {13: Status.DOUBTFUL, 14: Status.MANUAL}


@pytest.mark.parametrize("ending", ["mrc", "mod"])
def test_a_table_alone_does_not_tell_the_volume(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    assert export(sample / "tomo_vesicles.csv", "-o", tmp_path / f"v.{ending}") == 2
    assert "--tomogram" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert export(sample / "tomo_vesicles.mod", "-o", tmp_path / f"v.{ending}") == 0  # a model does


def test_star_has_the_name_of_the_tomogram(sample: Path, tmp_path: Path) -> None:
    starfile = pytest.importorskip("starfile", reason="the extra 'star' is not installed")
    assert export(sample / "tomo_vesicles.mod", "-o", tmp_path, "--format", "star", "--name", "TS_01") == 0
    blocks = starfile.read(tmp_path / "tomo_export.star")
    assert set(blocks["particles"]["rlnTomoName"]) == {"TS_01"}
    assert blocks["optics"]["rlnImagePixelSize"].tolist() == pytest.approx([15.0])
    assert blocks["particles"]["rlnCoordinateX"].tolist() == pytest.approx([20.5, 60, 60], abs=1e-4)


def test_star_without_its_package_stops_before_anything_is_read(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "starfile", None)
    assert export(sample / "tomo_vesicles.csv", "-o", tmp_path / "v.star") == 2
    assert "pip install 'deepvesicle[star]'" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_a_person_drew_is_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = index_to_model(np.array([[20.0, 30, 40], [10, 12, 14]]))
    spheres = tuple(Contour(points[i : i + 1], np.array([7.0 + i])) for i in range(2))
    mine = Object(name="mine", contours=spheres, flags=SCATTERED_OBJECT)
    other = Object(name="other", contours=spheres[:1], flags=SCATTERED_OBJECT)
    path = tmp_path / "drawn.mod"
    write_model(path, Model(objects=(other, mine), image_size=(80, 60, 40), pixel_size=1.5, units=UNITS_NM))
    assert export(f"{path}:mine", "-o", tmp_path / "v.csv") == 0, capsys.readouterr().err
    rows = rows_of(tmp_path / "v.csv")
    assert sorted(float(row["x_nm"]) for row in rows) == pytest.approx([21, 60], abs=1e-4)
    assert sorted(float(row["radius_nm"]) for row in rows) == pytest.approx([10.5, 12], abs=1e-4)


def test_of_a_model_alone_nothing_is_said_of_a_shift(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """The model has an origin of its own, which is no shift where no tomogram is named."""
    path = shared_data("imod_models") / "point_sizes_example.mod"
    chosen, notes = read_chosen(source_of(str(path)), ACCEPTED, None, None)
    assert len(chosen) == 9 and chosen.grid.origin_nm == (0, 0, 0)
    assert not [note for note in notes if "origin" in note]
    write_tomogram(tmp_path / "t.mrc", np.zeros((90, 30, 30), np.int8), Grid((90, 30, 30), chosen.grid.voxel_nm))
    with pytest.raises(BadInputError, match="was not drawn on this tomogram"):
        read_chosen(source_of(str(path)), ACCEPTED, tmp_path / "t.mrc", None)


def test_a_voxel_size_that_differs_is_told(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(sample / "tomo_vesicles.mod", "-o", tmp_path / "v.json", "--voxel-size", 2.0) == 0
    assert "warning" in capsys.readouterr().err
    assert json.loads((tmp_path / "v.json").read_text())["voxel_spacing"] == pytest.approx(20)


def test_nothing_is_replaced_unless_told_and_inputs_never(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes((sample / "tomo_vesicles.csv").read_bytes())
    (tmp_path / "v.json").write_text("precious")
    assert export(table, "-o", tmp_path / "v.json") == 2
    assert (tmp_path / "v.json").read_text() == "precious" and "--overwrite" in capsys.readouterr().err
    assert export(table, "-o", tmp_path / "v.json", "--overwrite") == 0
    assert (tmp_path / "v.json").read_text() != "precious"
    capsys.readouterr()
    assert export(table, "-o", table, "--overwrite") == 2
    assert "is what is read" in capsys.readouterr().err
    assert table.read_bytes() == (sample / "tomo_vesicles.csv").read_bytes()


def test_what_is_not_vesicles_is_refused(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(tmp_path / "labels.mrc", rasterize(FOUND))
    assert export(tmp_path / "labels.mrc", "-o", tmp_path / "v.csv") == 2
    assert "is a volume" in capsys.readouterr().err
    assert export(tmp_path / "missing.csv", "-o", tmp_path / "v.csv") == 3
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("ending", "number"), [("mrc", 70_000), ("mod", 2**31)])
def test_ids_that_a_format_cannot_hold_are_bad_input(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, number: int
) -> None:
    write_vesicles_csv(tmp_path / "t.csv", FOUND.select([0]).replace(ids=[number]))
    arguments = ["-o", tmp_path / f"v.{ending}", "--tomogram", sample / "tomo.mrc"]
    assert export(tmp_path / "t.csv", *arguments) == 3
    assert str(number) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert export(tmp_path / "t.csv", "-o", tmp_path / "v.json") == 0  # has room for any number


def test_an_empty_table_writes_an_empty_file_and_says_so(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vesicles_csv(tmp_path / "t.csv", Vesicles.empty(GRID))
    assert export(tmp_path / "t.csv", "-o", tmp_path / "v.json", "--tomogram", sample / "tomo.mrc") == 0
    assert "holds no vesicles" in capsys.readouterr().err
    assert json.loads((tmp_path / "v.json").read_text())["points"] == []


def test_where_the_file_goes(tmp_path: Path) -> None:
    assert target_of(tmp_path / "a.STAR", None, "t") == (Format.STAR, tmp_path / "a.STAR")
    assert target_of(tmp_path / "a.mrc", Format.LABELS, "t") == (Format.LABELS, tmp_path / "a.mrc")
    assert target_of(tmp_path, Format.LABELS, "t") == (Format.LABELS, tmp_path / "t_export.mrc")
    assert target_of(tmp_path / "new", Format.JSON, "t") == (Format.JSON, tmp_path / "new" / "t_export.json")
    for output, form in (("a.txt", None), ("a.star", Format.CSV), (".", None), ("new", None), ("a.mrc.gz", None)):
        with pytest.raises(UsageError):
            target_of(tmp_path / output, form, "t")
