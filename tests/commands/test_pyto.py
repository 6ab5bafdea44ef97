"""`deepvesicle pyto` as a user runs it: making a work folder, checking one, importing results; and what is wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.commands.pyto import MEMBRANE_NM, length_nm
from deepvesicle.errors import UsageError
from deepvesicle.files.imod import read_vesicles_model
from deepvesicle.files.tables import read_vesicles_csv, write_vesicles_csv
from deepvesicle.files.tomogram import read_header, read_labels, read_tomogram, write_labels, write_tomogram
from deepvesicle.grid import Labels
from imod_bridge.model import read_model
from imod_bridge.values import FLAG_FALSE_COLOUR, read_values
from tests.handover.pyto_tables import write_segments, write_vesicles
from tests.handover.scene import DRAWN, GRID, SPHERES, table, write_scene

IDS = [number + 9 for number in DRAWN]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_scene(tmp_path_factory.mktemp("scene"), np.random.default_rng(3))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command: exit code, what it prints, and what it says on the side."""

    def command(*arguments: object) -> tuple[int, str, str]:
        code = main(["pyto", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def drawn(files: dict[str, Path]) -> list[object]:
    return ["--outline", f"{files['drawn']}:cell", "--active-zone", f"{files['drawn']}:az"]


@pytest.fixture
def work(files: dict[str, Path], tmp_path: Path, run: Run) -> Path:
    """A work folder as a user makes it."""
    code, _, told = run(files["tomogram"], files["table"], *drawn(files), "-o", tmp_path / "work")
    assert code == 0, told
    return tmp_path / "work"


def pyto_runs(work: Path) -> None:
    """Leave in the folder what Pyto writes: vesicle 10 has two tethers, 15 and 16 are connected."""
    places = {
        number: (round(x), round(y), round(z), radius - 0.36, 20.0, 10.0 + number)
        for number, (z, y, x, radius) in zip(IDS, SPHERES, strict=False)
    }
    write_vesicles(work / "vesicles" / "tomo_vesicles.dat", places)
    boundaries = [2, *IDS]
    tethers = [(1, 30, 4.0, (2, 10)), (2, 40, 6.0, (2, 10))]
    write_segments(work / "connectors" / "tomo_new_tethers_good.dat", boundaries, tethers)
    write_segments(work / "connectors" / "tomo_new_connectors_good.dat", boundaries, [(3, 50, 5.0, (15, 16))])


def test_from_files_to_a_folder_and_what_it_says(files: dict[str, Path], tmp_path: Path, run: Run) -> None:
    code, printed, told = run(files["tomogram"], files["table"], *drawn(files), "-o", tmp_path / "work")
    assert code == 0, told
    assert "7 vesicles in the labels, ids 10 to 16" in printed
    assert "1 left out, cut by the face of the volume: 8 (ids in your table)" in printed
    assert f"wrote {tmp_path / 'work'}" in printed
    labels = read_labels(tmp_path / "work" / "3d" / "labels.mrc")
    assert sorted(np.unique(labels.data).tolist()) == [0, 1, 2, *IDS]
    # 6 nm of membrane, as an outline would have it: about 3 voxels along x
    thickness = (np.asarray(labels.data)[25, 40] == 2).sum() * GRID.voxel_nm
    assert abs(thickness - MEMBRANE_NM) <= GRID.voxel_nm


def test_models_are_read_with_their_ids(files: dict[str, Path], work: Path, tmp_path: Path, run: Run) -> None:
    code, _, told = run(files["tomogram"], files["model"], *drawn(files), "-o", tmp_path / "other")
    assert code == 0, told
    one, two = (np.asarray(read_labels(folder / "3d" / "labels.mrc").data) for folder in (work, tmp_path / "other"))
    np.testing.assert_array_equal(one, two)


def test_some_objects_of_a_model_keep_ids_and_status(
    files: dict[str, Path], work: Path, tmp_path: Path, run: Run
) -> None:
    """The doubtful one is not meant: the others have the labels that they have with the whole model."""
    code, _, told = run(files["tomogram"], f"{files['model']}:vesicles", *drawn(files), "-o", tmp_path / "other")
    assert code == 0, told
    whole, some = (read_vesicles_csv(folder / "vesicles.csv", GRID) for folder in (work, tmp_path / "other"))
    assert some.ids.tolist() == IDS[:4] and some.status == whole.status[:4]
    assert some.features["source_id"].tolist() == DRAWN[:4]
    np.testing.assert_allclose(some.centres_vox, whole.centres_vox[:4], atol=1e-4)
    code, _, told = run(files["tomogram"], f"{files['model']}:doubtful,manual", *drawn(files), "-o", tmp_path / "more")
    assert code == 0, told
    assert sorted(read_vesicles_csv(tmp_path / "more" / "vesicles.csv", GRID).ids.tolist()) == IDS[4:]


def test_all_in_one_model(files: dict[str, Path], tmp_path: Path, run: Run) -> None:
    """Vesicles, cytosol and active zone as objects of the same file, as people draw."""
    from imod_bridge.model import Model, write_model

    both = [read_model(files[name]) for name in ("model", "drawn")]
    model = Model(
        objects=tuple(item for part in both for item in part.objects),
        image_size=both[0].image_size,
        pixel_size=GRID.voxel_nm,
        units=both[0].units,
    )
    path = tmp_path / "all.mod"
    write_model(path, model)
    zone = ["--outline", f"{path}:cell", "--active-zone", f"{path}:az"]
    code, printed, told = run(files["tomogram"], path, *zone, "-o", tmp_path / "work")
    assert code == 0 and "7 vesicles" in printed, told
    code, _, told = run(files["tomogram"], path, "--outline", path, "--active-zone", path, "-o", tmp_path / "no")
    assert code == 2 and "holds the outline and the active zone" in told


def test_label_volumes_as_outline_and_zone(files: dict[str, Path], work: Path, tmp_path: Path, run: Run) -> None:
    """A user's label volume, in which vesicles are holes of the cytosol: the same folder."""
    before = np.asarray(read_labels(work / "3d" / "labels.mrc").data)
    regions = np.where(before > 2, 9, before).astype(np.uint8)
    write_labels(tmp_path / "regions.mrc", Labels(regions, GRID))
    limits = ["--outline", f"{tmp_path / 'regions.mrc'}:1", "--active-zone", f"{tmp_path / 'regions.mrc'}:2"]
    code, _, told = run(files["tomogram"], files["table"], *limits, "-o", tmp_path / "other")
    assert code == 0, told
    after = np.asarray(read_labels(tmp_path / "other" / "3d" / "labels.mrc").data)
    np.testing.assert_array_equal(after * (after > 1), before * (before > 1))
    assert (after != before).mean() < 0.01  # but where vesicles were left out


def test_options_reach_the_labels(files: dict[str, Path], tmp_path: Path, run: Run) -> None:
    options = ["--cytosol-id", 3, "--membrane-id", 5, "--first-vesicle", 100, "--int16", "--gap", 1, "--copy"]
    options += ["--crop", "220 nm", "--membrane-thickness", 9]
    code, printed, told = run(files["tomogram"], files["table"], *drawn(files), *options, "-o", tmp_path / "w")
    assert code == 0, told
    header = read_header(tmp_path / "w" / "3d" / "labels.mrc")
    data = np.asarray(read_labels(tmp_path / "w" / "3d" / "labels.mrc").data)
    assert header.dtype == np.dtype("<i2") and header.shape_zyx[2] < GRID.shape_zyx[2]
    assert set(np.unique(data).tolist()) >= {0, 3, 5, 100, 104} and not (data == 1).any()
    assert "cut to" in printed and (data[25, 40] == 5).sum() in (4, 5)
    assert header.grid().origin_nm == pytest.approx(GRID.origin_nm)


def test_inverted_contrast_is_refused_and_mended_with_invert(files: dict[str, Path], tmp_path: Path, run: Run) -> None:
    bright = tmp_path / "bright.mrc"
    write_tomogram(bright, -np.asarray(read_tomogram(files["tomogram"]).data), GRID)
    code, _, told = run(bright, files["table"], *drawn(files), "-o", tmp_path / "work")
    assert code == 3 and "was not written" in told and "contrast" in told and "Add --invert" in told
    assert told.strip().splitlines()[-1].startswith("error: ") and not (tmp_path / "work").exists()
    code, printed, told = run(bright, files["table"], *drawn(files), "--invert", "-o", tmp_path / "work")
    assert code == 0 and "contrast turned" in printed, told
    np.testing.assert_allclose(
        np.asarray(read_tomogram(tmp_path / "work" / "3d" / "tomo.mrc").data),
        np.asarray(read_tomogram(files["tomogram"]).data),
    )


def test_an_invert_too_many_is_named(files: dict[str, Path], tmp_path: Path, run: Run) -> None:
    code, _, told = run(files["tomogram"], files["table"], *drawn(files), "--invert", "-o", tmp_path / "work")
    assert code == 3 and "Leave out --invert" in told and "Add" not in told


def test_one_vesicle_and_warnings_are_told_in_plain_words(
    files: dict[str, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepvesicle.handover import handing
    from deepvesicle.handover.findings import Finding, Severity

    found = [Finding("a", Severity.WARNING, "one", "Do this"), Finding("b", Severity.NOTE, "two", "Do that")]
    monkeypatch.setattr(handing, "check_folder", lambda root: found)
    write_vesicles_csv(tmp_path / "one.csv", table().select(table().ids == 4))
    code, printed, told = run(files["tomogram"], tmp_path / "one.csv", *drawn(files), "-o", tmp_path / "work")
    assert code == 0 and "1 vesicle in the labels, id 13\n" in printed
    assert told.splitlines()[-2:] == ["warning: one. Do this.", "note: two. Do that."], told
    assert "- 13: 1 vesicle, with" in (tmp_path / "work" / "README.txt").read_text()


def test_a_cut_that_is_too_close_for_the_layers_is_told(files: dict[str, Path], tmp_path: Path, run: Run) -> None:
    crop = [files["tomogram"], files["table"], *drawn(files), "--crop"]
    code, _, told = run(*crop, "150nm", "-o", tmp_path / "near")
    assert code == 0 and "warning: --crop 150nm: Pyto's layers want 250 nm" in told
    code, _, told = run(*crop, "300nm", "-o", tmp_path / "far")
    assert code == 0 and "--crop" not in told


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--import-results", "WORK", "--gap", "2"], "--gap does not go with --import-results"),
        (["--import-results", "WORK", "--outline", "a.mod"], "--outline does not go with --import-results"),
        (["--check", "WORK", "--overwrite"], "--overwrite does not go with --check"),
        (["--check", "WORK", "-o", "x"], "--output does not go with --check"),
    ],
)
def test_options_without_effect_are_refused(tmp_path: Path, run: Run, arguments: list[str], message: str) -> None:
    code, _, told = run(*(str(tmp_path) if word == "WORK" else word for word in arguments))
    assert code == 2 and message in told


def test_what_is_missing_beside_the_labels_of_one_volume(files: dict[str, Path], tmp_path: Path, run: Run) -> None:
    both = tmp_path / "both.mrc"
    write_labels(both, Labels(np.ones(GRID.shape_zyx, np.uint8), GRID))
    code, _, told = run(
        *(files["tomogram"], files["table"], "--outline", both, "--active-zone", both, "-o", tmp_path / "w")
    )
    assert code == 2 and f"such as {both}:1" in told and "label" in told


def test_again_only_with_overwrite(files: dict[str, Path], work: Path, run: Run) -> None:
    (work / "connectors" / "connectors.py").write_text("mine")
    again = [files["tomogram"], files["table"], *drawn(files), "-o", work]
    code, _, told = run(*again)
    assert code == 2 and "--overwrite" in told
    code, _, told = run(*again, "--overwrite")
    assert code == 0, told
    assert (work / "connectors" / "connectors.py").read_text() == "mine"


def test_a_good_folder_passes_the_check(work: Path, run: Run) -> None:
    code, printed, _ = run("--check", work, "--json")
    assert code == 0 and not [finding for finding in json.loads(printed) if finding["severity"] == "error"]


def test_errors_of_a_folder_are_all_named_and_exit_with_3(work: Path, run: Run) -> None:
    info = work / "common" / "tomo_info.py"
    info.write_text(info.read_text().replace("distance_id = 2", "distance_id = None").replace("10, 11,", "10, 11, 99,"))
    code, printed, told = run("--check", work)
    assert code == 3
    assert "distance_id" in printed and "99" in printed
    assert "Pyto would crash or find nothing" in told
    code, printed, _ = run("--check", work, "--json")
    found = [finding for finding in json.loads(printed) if finding["severity"] == "error"]
    assert code == 3 and any(99 in finding["ids"] for finding in found) and all(finding["remedy"] for finding in found)


def test_results_go_to_the_table_and_to_colours(work: Path, run: Run) -> None:
    pyto_runs(work)
    code, printed, told = run("--import-results", work)
    assert code == 0 and not told, told
    assert "coloured by pyto_connectors: 0 to 1" in printed
    with open(work / "vesicles_pyto.csv", newline="") as file:
        rows = {int(row["id"]): row for row in csv.DictReader(file)}
    assert [float(rows[i]["pyto_tethers"]) for i in IDS] == [2, 0, 0, 0, 0, 0, 0]
    assert [float(rows[i]["pyto_connectors"]) for i in IDS] == [0, 0, 0, 0, 0, 1, 1]
    assert float(rows[12]["pyto_distance_min_nm"]) == pytest.approx(22 * GRID.voxel_nm)
    assert (rows[10]["source_id"], rows[10]["pyto_tethers"], rows[15]["pyto_connectors"]) == ("1", "2", "1")
    model = read_model(work / "vesicles_pyto.mod")
    values = {
        model.objects[k].contours[c].surface: value
        for k, of_object in enumerate(read_values((work / "vesicles_pyto.mod").read_bytes()))
        for c, value in of_object.items()
    }
    assert values == {number: float(number in (15, 16)) for number in IDS}
    assert all(item.flags & FLAG_FALSE_COLOUR for item in model.objects)
    assert sorted(read_vesicles_model(work / "vesicles_pyto.mod", GRID).ids.tolist()) == IDS
    record = json.loads((work / "vesicles_pyto.json").read_text())
    assert set(record["inputs"]) >= {"vesicles", "tomo_vesicles.dat", "tomo_new_tethers_good.dat"}


def test_results_go_back_to_ones_own_table(files: dict[str, Path], work: Path, tmp_path: Path, run: Run) -> None:
    pyto_runs(work)
    code, printed, told = run(
        *("--import-results", work, "--table", files["table"], "-o", tmp_path / "out"),
        *("--colour-by", "tethers"),
    )
    assert code == 0, told
    own = read_vesicles_csv(tmp_path / "out" / "tomo_vesicles_pyto.csv", GRID)
    assert own.ids.tolist() == table().ids.tolist() and own.status == table().status
    assert own.features["pyto_tethers"].tolist()[:7] == [2, 0, 0, 0, 0, 0, 0]
    assert np.isnan(own.features["pyto_tethers"][7:]).all()
    np.testing.assert_array_equal(own.features["pyto_label"][:7], IDS)
    assert "coloured by pyto_tethers: 0 to 2" in printed
    assert (
        max(v for item in read_values((tmp_path / "out" / "vesicles_pyto.mod").read_bytes()) for v in item.values())
        == 2
    )
    assert not (work / "vesicles_pyto.csv").exists()


def test_results_of_a_cut_folder_go_back_to_the_places_of_the_whole(
    files: dict[str, Path], tmp_path: Path, run: Run
) -> None:
    work = tmp_path / "work"
    code, _, told = run(files["tomogram"], files["model"], *drawn(files), "--crop", "150", "-o", work)
    assert code == 0, told
    inside = read_vesicles_csv(work / "vesicles.csv", read_header(work / "3d" / "labels.mrc").grid())
    places = {
        int(number): (*(float(round(v)) for v in centre[::-1]), 9.0, 20.0, 10.0)
        for number, centre in zip(inside.ids, inside.centres_vox, strict=True)
    }
    write_vesicles(work / "vesicles" / "tomo_vesicles.dat", places)
    code, _, told = run("--import-results", work, "--table", files["model"])
    assert code == 0 and "elsewhere" not in told, told
    own = read_vesicles_csv(work / "tomo_vesicles_pyto.csv", GRID)
    np.testing.assert_allclose(own.centres_vox, SPHERES[own.ids - 1, :3], atol=1e-4)
    known = np.isfinite(own.features["pyto_radius_nm"])
    assert own.ids[known].tolist() == inside.features["source_id"].astype(int).tolist()


def test_what_does_not_fit_is_a_warning(work: Path, run: Run) -> None:
    pyto_runs(work)
    z, y, x = (float(round(v)) for v in SPHERES[1, :3])
    places = {10: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 11: (x, y, z, 9.0, 5.0, 6.0), 77: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)}
    write_vesicles(work / "vesicles" / "tomo_vesicles.dat", places)
    code, _, told = run("--import-results", work)
    assert code == 0, told
    assert "not in our table: vesicle 77" in told and "other labels: vesicle 10" in told


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ([], 2, "missing: the tomogram"),
        (["TOMO"], 2, "missing: the vesicles"),
        (["TOMO", "TABLE"], 2, "--outline"),
        (["TOMO", "TABLE", "--outline", "DRAWN:cell"], 2, "--active-zone"),
        (["TOMO", "TABLE", "CELL", "AZ"], 2, "-o"),
        (["TOMO", "TABLE", "CELL", "AZ", "-o", "W", "--crop", "far"], 2, "300nm"),
        (["TOMO", "TABLE", "CELL", "AZ", "-o", "W", "--membrane-id", "1"], 2, "same id"),
        (["TOMO", "TABLE", "CELL", "AZ", "-o", "W", "--membrane-thickness", "0"], 2, "positive"),
        (["TOMO", "TABLE", "--outline", "TABLE", "AZ", "-o", "W"], 2, "is a table"),
        (["TOMO", "TOMO", "CELL", "AZ", "-o", "W"], 2, "is a volume"),
        (["TOMO", "none.csv", "CELL", "AZ", "-o", "W"], 3, "expected a table (.csv) or an IMOD model (.mod)."),
        (["TOMO", "TABLE", "CELL", "AZ", "-o", "W", "--crop", "0"], 2, "above 0"),
        (["TOMO", "TABLE", "CELL", "AZ", "-o", "/proc/w"], 2, "cannot make /proc/w"),
        (["TOMO", "TABLE", "CELL", "--active-zone", "DRAWN:none", "-o", "W"], 3, "none"),
        (["TOMO", "TABLE", "CELL", "AZ", "-o", "TOMO"], 2, "is a file"),
        (["TOMO", "TABLE", "CELL", "AZ", "-o", "W", "--json"], 2, "--check"),
        (["TOMO", "TABLE", "CELL", "AZ", "-o", "W", "--colour-by", "x"], 2, "--import-results"),
        (["TOMO", "--check", "."], 2, "exclude"),
        (["--check", "nowhere"], 3, "not a folder"),
        (["--import-results", "nowhere"], 3, "not a folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    files: dict[str, Path], tmp_path: Path, run: Run, arguments: list[str], code: int, message: str
) -> None:
    words = {
        "TOMO": [str(files["tomogram"])],
        "TABLE": [str(files["table"])],
        "DRAWN:cell": [f"{files['drawn']}:cell"],
        "DRAWN:none": [f"{files['drawn']}:none"],
        "CELL": ["--outline", f"{files['drawn']}:cell"],
        "AZ": ["--active-zone", f"{files['drawn']}:az"],
        "W": [str(tmp_path / "w")],
    }
    found, _, told = run(*(part for word in arguments for part in words.get(word, [word])))
    assert found == code, told
    (line,) = [line for line in told.splitlines() if line.startswith("error")]
    assert message in line and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_import(work: Path, run: Run) -> None:
    code, _, told = run("--import-results", work)
    assert code == 3 and "no results of Pyto" in told
    pyto_runs(work)
    code, _, told = run("--import-results", work, "--colour-by", "beauty")
    assert code == 2 and "pyto_tethers" in told
    code, _, told = run("--import-results", work, "--segments", "huge")
    assert code == 2 and "good" in told
    assert not list(work.glob("*_pyto*"))


@pytest.mark.parametrize("text, expected", [("250", 250), ("250nm", 250), (" 87.5 nm ", 87.5)])
def test_lengths(text: str, expected: float) -> None:
    assert length_nm(text, "--crop") == expected


@pytest.mark.parametrize("text", ["", "nm", "-5", "250um", "1e3", "0x10"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(UsageError):
        length_nm(text, "--crop")
