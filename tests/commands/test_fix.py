"""`deepvesicle fix` as a user runs it; the fit is replaced by one that knows the truth."""

from __future__ import annotations

import re
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from deepvesicle.commands.fix_action import FixAction, FixOptions, fit_vesicles, side_paths
from deepvesicle.commands.main import main
from deepvesicle.files import labels, tables
from deepvesicle.files.imod import read_vesicles_model, write_vesicles_model
from deepvesicle.files.run_record import RunRecord, read_run_record
from deepvesicle.files.tables import read_vesicles_csv, write_vesicles_csv
from deepvesicle.files.tomogram import read_labels, write_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid
from deepvesicle.settings import LabelSettings, ProposalSettings, Settings
from deepvesicle.spheres import are_cut
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.actions import Request
from imod_bridge.binary import walk
from imod_bridge.model import Contour, Model, Object, read_model, write_model
from imod_bridge.update import replace_objects
from tests.drawing import GRID, TRUTH, contour, scattered, true_fit
from tests.imod_bridge.standin_3dmod import Desk

NOWHERE = [50.0, 20.0, 200.0]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A computer on which the stand-in is IMOD."""
    desk = Desk()
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    yield desk
    desk.clear()


@pytest.fixture(autouse=True)
def fit_that_knows(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """In place of the real fit; gives what it was called with."""
    calls: list[tuple] = []

    def fit_marks(tomogram, centres_vox, radii_vox, known, refinement, proposal, *, whitening=None, progress=None):
        calls.append((tomogram, radii_vox, known, proposal))
        return true_fit(centres_vox, radii_vox, known)

    monkeypatch.setitem(sys.modules, "deepvesicle.fitting.click", types.SimpleNamespace(fit_marks=fit_marks))
    return calls


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A tomogram and the result of a segmentation: the first three vesicles, the third one rejected."""
    write_tomogram(tmp_path / "t.mrc", np.zeros(GRID.shape_zyx, np.int16), GRID)
    status = (Status.REFINED, Status.DOUBTFUL, Status.REJECTED)
    table = Vesicles.from_spheres(GRID, TRUTH[:3, :3] + 0.123, TRUTH[:3, 3] + 0.1, status=status)
    table = table.replace(ids=np.array([4, 9, 2]), sigma_centres_vox=np.full(3, 0.111))
    write_vesicles_model(tmp_path / "t_vesicles.mod", table)
    write_vesicles_csv(tmp_path / "t_vesicles.csv", table)
    write_labels(tmp_path / "t_labels.mrc", rasterize(table))
    settings = replace(Settings(), proposal=ProposalSettings(max_radius_nm=60.0))
    record = RunRecord.start("segment", settings, {"tomogram": tmp_path / "t.mrc"}, voxel_nm=2.0, voxel_source="header")
    record.finished().write(tmp_path / "t_run.json")
    return tmp_path


def run(folder: Path, *more: str) -> int:
    return main(["fix", str(folder / "t.mrc"), str(folder / "t_vesicles.mod"), *more])


def draw(path: Path, *contours: Contour, name: str = "vesicles") -> None:
    """Add contours to an object of a model, as a user does in 3dmod."""
    model = read_model(path)
    item = next((item for item in model.objects if item.name == name), scattered(name))
    changed = replace(item, contours=(*item.contours, *contours))
    path.write_bytes(replace_objects(path.read_bytes(), [changed]))


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()}


def test_a_click_becomes_a_vesicle_in_all_files(case, capsys):
    model = case / "t_vesicles.mod"
    draw(model, contour(TRUTH[3, :3] + [2, -3, 4]))
    clicked, csv = model.read_bytes(), (case / "t_vesicles.csv").read_bytes()
    assert run(case) == 0
    table = read_vesicles_csv(case / "t_vesicles.csv", GRID)
    assert table.ids.tolist() == [4, 9, 2, 10]
    np.testing.assert_array_equal(table.centres_vox, [*(TRUTH[:3, :3] + 0.123), TRUTH[3, :3]])
    assert table.sigma_centres_vox[0] == pytest.approx(0.111)
    spheres = read_vesicles_model(model, GRID)
    assert set(spheres.ids) == {4, 9, 2, 10}
    drawn = read_labels(case / "t_labels.mrc", GRID)
    np.testing.assert_array_equal(drawn.data, rasterize(table).data)
    assert mrcfile.validate(str(case / "t_labels.mrc"))
    assert (case / "t_vesicles.mod~").read_bytes() == clicked and (case / "t_vesicles.csv~").read_bytes() == csv
    record = read_run_record(case / "t_run.json")
    assert record.command == "fix" and record.before["command"] == "segment"
    assert record.inputs["tomogram"].sha256 and record.counts["refined"] == 2
    printed = capsys.readouterr().out
    # numbers from 1, as 3dmod shows them
    assert "x 145, y 139, z 43 (click): radius 30.00 ± 0.40 nm, centre ± 0.20 nm, sure; vesicle 10 (new)" in printed
    assert "1 fitted; 3 vesicles now" in printed and f"wrote {model}" in printed


def test_the_gap_of_the_run_before_is_kept(case):
    settings = replace(Settings(), labels=LabelSettings(gap_vox=19))
    record = RunRecord.start("segment", settings, {"tomogram": case / "t.mrc"}, voxel_nm=2.0, voxel_source="header")
    record.finished().write(case / "t_run.json", overwrite=True)
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]))
    assert run(case) == 0
    table = read_vesicles_csv(case / "t_vesicles.csv", GRID)
    drawn = read_labels(case / "t_labels.mrc", GRID).data
    np.testing.assert_array_equal(drawn, rasterize(table, gap_vox=19).data)  # two are 17.8 voxels apart
    assert np.any(drawn != rasterize(table).data)
    assert read_run_record(case / "t_run.json").settings["labels"]["gap_vox"] == 19


def test_fits_leave_a_note_of_the_tilts_and_tell_which_vesicles_are_cut(case):
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]))
    assert run(case) == 0
    (note,) = read_run_record(case / "t_run.json").notes
    assert note == "tilt range -60 to 60 degrees, as usual, since no missing wedge shows"
    table = read_vesicles_csv(case / "t_vesicles.csv", GRID)
    np.testing.assert_array_equal(table.features["cut"], are_cut(GRID, table.centres_vox, table.radii_vox))


def test_a_second_run_touches_no_file(case, capsys):
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]), contour(NOWHERE), contour(TRUTH[0, :3]))
    draw(case / "t_vesicles.mod", contour(TRUTH[1, :3]), name="remove")
    assert run(case) == 0
    before = state(case)
    capsys.readouterr()
    assert run(case) == 0
    assert state(case) == before
    assert capsys.readouterr().out.strip() == "nothing to do"


def test_points_in_an_object_that_nobody_named_are_not_passed_over_in_silence(case, capsys):
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]), name="mine")
    before = state(case)
    assert run(case) == 0
    assert state(case) == before
    first, last = capsys.readouterr().out.splitlines()
    assert "not looked at" in first and "'mine'" in first and "--object" in first and last == "nothing to do"
    assert run(case, "--object", "mine") == 0
    assert "not looked at" not in capsys.readouterr().out


def test_another_model_is_written_and_the_inputs_stay(case, capsys):
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]))
    before = state(case)
    out = case / "out"
    assert run(case, "-o", str(out / "deeper" / "better_vesicles.mod")) == 2  # no such folder
    assert run(case, "-o", str(out / "better_vesicles.mod")) == 0
    assert state(case) == before
    names = {"better_vesicles.mod", "better_vesicles.csv", "better_labels.mrc", "better_run.json"}
    assert {p.name for p in out.iterdir()} == names
    assert run(case, "-o", str(out / "better_vesicles.mod")) == 2
    assert "exists" in capsys.readouterr().err
    assert run(case, "-o", str(out / "better_vesicles.mod"), "--overwrite") == 0
    assert len(read_vesicles_csv(out / "better_vesicles.csv", GRID)) == 4


def test_no_earlier_result_is_needed(tmp_path, capsys):
    write_tomogram(tmp_path / "synapse.rec", np.zeros(GRID.shape_zyx, np.float32), GRID)
    points = tmp_path / "points.mod"
    unnamed = Object("", (contour(TRUTH[0, :3]), contour(NOWHERE)), flags=0x208)
    other = Object("", (contour(TRUTH[1, :3]),), flags=0)
    write_model(points, Model((unnamed, other, scattered("sized", contour(TRUTH[4, :3], 7.5)))))
    before = points.read_bytes()
    arguments = ["fix", "--new", str(tmp_path / "synapse.rec"), str(points)]
    assert main(arguments) == 0
    assert points.read_bytes() == before and not (tmp_path / "points.mod~").exists()
    table = read_vesicles_csv(tmp_path / "synapse_vesicles.csv", GRID)
    # the sphere that the user made, then the marks in order, one of which could not be fitted
    assert table.status == (Status.MANUAL, Status.REFINED, Status.REJECTED, Status.REFINED)
    model = read_model(tmp_path / "synapse_vesicles.mod")
    assert [(item.name, len(item.contours)) for item in model.objects] == [
        ("vesicles", 2),
        ("manual", 1),
        ("not_fitted", 1),
    ]
    drawn = read_labels(tmp_path / "synapse_labels.mrc", GRID)
    np.testing.assert_array_equal(drawn.data, rasterize(table).data)
    capsys.readouterr()
    assert main(arguments) == 2 and "exists" in capsys.readouterr().err
    # what came out is a result like any other
    assert main(["fix", str(tmp_path / "synapse.rec"), str(tmp_path / "synapse_vesicles.mod")]) == 0
    assert capsys.readouterr().out.strip() == "nothing to do"


def test_the_earlier_run_decides_how_the_tomogram_is_read(case, fit_that_knows):
    record = replace(read_run_record(case / "t_run.json"), voxel_nm=2.0, voxel_source="option", invert=True)
    record.write(case / "t_run.json", overwrite=True)
    with mrcfile.mmap(case / "t.mrc", "r+") as mrc:
        mrc.voxel_size = 7.0
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]))
    assert run(case, "--radius", "25") == 0
    (tomogram, radii, known, proposal) = fit_that_knows[0]
    assert tomogram.grid.voxel_nm == 2.0 and tomogram.invert
    assert proposal.max_radius_nm == 60.0 and proposal.min_radius_nm == 12.0
    np.testing.assert_array_equal(radii, [12.5])
    assert set(known.ids) == {4, 9}
    after = read_run_record(case / "t_run.json")
    assert (after.voxel_source, after.invert) == ("option", True)
    draw(case / "t_vesicles.mod", contour(TRUTH[4, :3]))
    assert run(case, "--no-invert", "--max-radius", "50") == 0
    assert not fit_that_knows[1][0].invert and fit_that_knows[1][3].max_radius_nm == 50.0
    # a record holds the segmentation it follows, however often it was corrected
    again = read_run_record(case / "t_run.json")
    assert again.before["command"] == "segment" and not again.before["before"]


def test_objects_of_the_users_are_fitted_when_named_and_all_else_stays(case, shared_data):
    data = shared_data("imod_models/multiple_objects_example.mod").read_bytes()
    user = case / "mine.mod"
    user.write_bytes(replace_objects(data, [scattered("clicks", contour(TRUTH[0, :3]))]))
    before = [chunk.data for chunk in walk(user.read_bytes())]
    assert main(["fix", str(case / "t.mrc"), str(user), "--object", "clicks"]) == 0
    after = [chunk.data for chunk in walk(user.read_bytes())]
    clicks = next(i for i, chunk in enumerate(before) if chunk[:10] == b"OBJTclicks")
    assert after[1:clicks] == before[1:clicks]
    assert [chunk for chunk in after if chunk[:4] not in (b"IMOD", b"OBJT", b"CONT", b"SIZE", b"IMAT")] == [
        chunk for chunk in before if chunk[:4] not in (b"IMOD", b"OBJT", b"CONT", b"SIZE", b"IMAT")
    ]
    assert len(read_vesicles_csv(case / "mine_vesicles.csv", GRID)) == 1


@pytest.mark.parametrize("broken", ["table", "labels"])
def test_a_run_that_was_stopped_is_made_good_by_the_next(case, monkeypatch, broken):
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]), contour(NOWHERE))
    draw(case / "t_vesicles.mod", contour(TRUTH[1, :3]), name="remove")

    def fail(*_, **__):
        raise KeyboardInterrupt

    where = tables if broken == "table" else labels
    name = "write_vesicles_csv" if broken == "table" else "write_drawn_labels"
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail)
        assert run(case) == 130
    assert len(read_vesicles_csv(case / "t_vesicles.csv", GRID)) == 3
    assert run(case) == 0
    table = read_vesicles_csv(case / "t_vesicles.csv", GRID)
    assert table.ids.tolist()[:4] == [4, 9, 2, 10] and table.accepted.tolist()[:4] == [True, False, False, True]
    np.testing.assert_array_equal(read_labels(case / "t_labels.mrc", GRID).data, rasterize(table).data)
    assert [
        len(item.contours) for item in read_model(case / "t_vesicles.mod").objects if item.name == "not_fitted"
    ] == [1]
    before = state(case)
    assert run(case) == 0 and state(case) == before


def test_lost_side_files_are_made_again(case):
    (case / "t_labels.mrc").unlink()
    (case / "t_vesicles.csv").unlink()
    before = (case / "t_vesicles.mod").read_bytes()
    assert run(case) == 0
    assert (case / "t_vesicles.mod").read_bytes() == before and not (case / "t_vesicles.mod~").exists()
    table = read_vesicles_csv(case / "t_vesicles.csv", GRID)
    assert table.status == (Status.REFINED, Status.DOUBTFUL, Status.REJECTED)
    np.testing.assert_array_equal(read_labels(case / "t_labels.mrc", GRID).data, rasterize(table).data)


def test_labels_can_be_left_alone(case):
    before = (case / "t_labels.mrc").read_bytes()
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]))
    assert run(case, "--no-labels") == 0
    assert (case / "t_labels.mrc").read_bytes() == before
    assert len(read_vesicles_csv(case / "t_vesicles.csv", GRID)) == 4


def test_ids_that_labels_cannot_hold_are_refused_before_anything_is_written(case, capsys):
    (case / "t_vesicles.csv").unlink()
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3], 9.0, 70000), contour(TRUTH[4, :3]))
    before = state(case)
    assert run(case) == 3
    assert "--no-labels" in capsys.readouterr().err and state(case) == before
    assert run(case, "--no-labels") == 0
    assert read_vesicles_csv(case / "t_vesicles.csv", GRID).ids.tolist()[-1] == 70001


def test_only_what_is_near_the_marks_is_read(case, monkeypatch):
    from deepvesicle.files import tomogram as volumes

    def fail(*_):
        raise AssertionError("all voxels were read")

    monkeypatch.setattr(volumes, "check_grey", fail)
    monkeypatch.setattr(volumes, "statistics", fail)
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]))
    assert run(case) == 0


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--object", "clicks"], 3, "no object named 'clicks'.*'vesicles', 'doubtful', 'rejected'"),
        (["--radius", "200"], 2, "--radius is outside the limits.*12 to 60 nm"),
        (["--min-radius", "70"], 2, "limits of the radius"),
        (["--live", "--watch"], 2, "exclude one another"),
        (["--live", "--new"], 2, "in place"),
        (["--watch", "-o", "x.mod"], 2, "in place"),
        (["--new", "--object", "a"], 2, "all objects"),
    ],
)
def test_impossible_wishes_are_refused_in_one_line(case, capsys, more, code, message):
    before = state(case)
    assert run(case, *more) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and state(case) == before
    assert re.search(message, error), error


def test_unusable_files_are_refused_and_nothing_is_lost(case, capsys):
    model = case / "t_vesicles.mod"
    whole = model.read_bytes()
    for content in (b"", whole[:-4], whole[:400], b"IMODV1.2"):
        model.write_bytes(content)
        before = state(case)
        assert run(case) == 3
        assert "t_vesicles.mod" in capsys.readouterr().err and state(case) == before
    model.write_bytes(whole)
    (case / "t_vesicles.csv").write_text("id,what\n1,2\n")
    before = state(case)
    assert run(case) == 3 and "t_vesicles.csv" in capsys.readouterr().err and state(case) == before
    assert main(["fix", str(case / "t.mrc"), str(case / "none.mod")]) == 3
    assert main(["fix", str(case / "none.mrc"), str(model)]) == 3
    assert main(["fix", str(case / "t.mrc")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_results_of_another_tomogram_are_refused(case, capsys):
    """One of the same voxel size in which the spheres would lie, too."""
    smaller = Grid((GRID.shape_zyx[0], GRID.shape_zyx[1], GRID.shape_zyx[2] - 3), GRID.voxel_nm)
    write_tomogram(case / "t.mrc", np.zeros(smaller.shape_zyx, np.int16), smaller, overwrite=True)
    draw(case / "t_vesicles.mod", contour(TRUTH[3, :3]))
    before = state(case)
    assert run(case) == 3
    assert "another tomogram" in capsys.readouterr().err
    assert state(case) == before


def test_tomogram_and_model_in_the_wrong_order(case, capsys):
    before = state(case)
    assert main(["fix", str(case / "t_vesicles.mod"), str(case / "t.mrc")]) == 2
    error = capsys.readouterr().err
    assert "is a model, not a tomogram" in error and error.count("\n") == 1
    assert state(case) == before


def test_the_action_of_the_loop_keeps_the_tomogram_open(case, monkeypatch):
    from deepvesicle.files import tomogram as volumes

    opened = []
    read = volumes.read_tomogram
    monkeypatch.setattr(volumes, "read_tomogram", lambda *a, **k: opened.append(a) or read(*a, **k))
    action, path = FixAction(FixOptions()), case / "t_vesicles.mod"
    draw(path, contour(TRUTH[3, :3]))

    def request() -> Request:
        return Request(case / "t.mrc", path, path.read_bytes(), read_model(path))

    before = state(case)
    first, second = action(request()), action(request())
    assert state(case) == before  # nothing is written before the answer is taken
    assert first.messages == second.messages and len(opened) == 1
    assert [item.name for item in first.objects] == ["vesicles"]
    assert fit_vesicles(request()).messages == first.messages


def test_watching_fits_after_each_change(case, monkeypatch, capsys):
    import watchfiles

    path = case / "t_vesicles.mod"

    def events(folder, **options):
        assert Path(folder) == case and options["yield_on_timeout"]
        draw(path, contour(TRUTH[3, :3]))
        yield {("changed", str(path))}
        yield set()
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])  # being written
        yield set()
        path.write_bytes(whole)
        draw(path, contour(TRUTH[4, :3]))
        yield set()
        raise KeyboardInterrupt

    monkeypatch.setattr(watchfiles, "watch", events)
    assert run(case, "--watch") == 0
    table = read_vesicles_csv(case / "t_vesicles.csv", GRID)
    assert table.ids.tolist() == [4, 9, 2, 10, 11]
    printed = capsys.readouterr().out
    assert printed.count("(new)") == 2 and "stopped" in printed


def test_without_imod_live_says_so(case, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(case))
    monkeypatch.delenv("IMOD_DIR", raising=False)
    path = case / "fresh.mod"
    assert main(["fix", "--live", str(case / "t.mrc"), str(path)]) == 3
    assert "IMOD" in capsys.readouterr().err
    # the model that 3dmod would have shown has the object to click in
    (item,) = read_model(path).objects
    assert (item.name, item.point_limit, item.is_scattered) == ("vesicles", 1, True)


def test_names_of_the_files_beside_a_model():
    names = {key: path.name for key, path in side_paths(Path("a/x_vesicles.mod")).items()}
    assert names == {"labels": "x_labels.mrc", "table": "x_vesicles.csv", "record": "x_run.json"}
    assert side_paths(Path("a/x.mod"))["table"] == Path("a/x_vesicles.csv")
    assert side_paths(Path("_vesicles.mod"))["table"].name == "_vesicles_vesicles.csv"


def test_live_from_an_empty_model_to_the_end(case, desk, monkeypatch, capsys):
    """Clicks, a deletion and a size changed in (a stand-in for) 3dmod, each followed by a save; then it is closed."""
    for name in ("t_vesicles.mod", "t_vesicles.csv", "t_labels.mrc", "t_run.json"):
        (case / name).unlink()
    monkeypatch.setattr("imod_bridge.loop.polling", lambda: iter(lambda: time.sleep(0.01), 0))
    model, table = case / "t_vesicles.mod", case / "t_vesicles.csv"
    failed: list[BaseException] = []

    def saved_until(done) -> None:
        deadline = time.monotonic() + 10
        desk.user("save")
        while not (table.exists() and done(read_vesicles_csv(table, GRID))):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def user() -> None:
        try:
            desk.wait_for("model_mode", True)
            for z, y, x in (TRUTH[0, :3] + 1, TRUTH[1, :3]):
                assert desk.user("click", 1, x + 0.5, y + 0.5, z) == "ok"
            saved_until(lambda vesicles: vesicles.accepted.sum() == 2)
            desk.wait_for("model_mode", True)
            assert desk.user("click", 1, 200.5, 20.5, 50) == "ok"
            saved_until(lambda vesicles: len(vesicles) == 3)
        except BaseException as error:
            failed.append(error)
        finally:
            desk.user("close")

    player = threading.Thread(target=user)
    player.start()
    try:
        assert main(["fix", "--live", str(case / "t.mrc")]) == 0
    finally:
        player.join()
    assert not failed, failed
    spheres = read_vesicles_model(model, GRID)
    np.testing.assert_allclose(spheres.centres_vox, TRUTH[:2, :3], atol=1e-4)
    assert [item.name for item in read_model(model).objects] == ["vesicles", "not_fitted"]
    vesicles = read_vesicles_csv(table, GRID)
    np.testing.assert_array_equal(read_labels(case / "t_labels.mrc", GRID).data, rasterize(vesicles).data)
    assert "3dmod has ended" in capsys.readouterr().out


def test_tomogram_is_never_overwritten(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tomogram, model = case / "a_labels.mrc", case / "a_vesicles.mod"
    (case / "t.mrc").rename(tomogram)
    (case / "t_vesicles.mod").rename(model)
    draw(model, contour(TRUTH[3, :3]))
    before = tomogram.read_bytes()
    for more in ([], ["-o", str(tomogram), "--overwrite"], ["--new", "-o", str(tomogram), "--overwrite"], ["--watch"]):
        assert main(["fix", str(tomogram), str(model), *more]) == 2, more
        assert "tomogram" in capsys.readouterr().err
        assert tomogram.read_bytes() == before


def test_points_without_new_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tomogram(tmp_path / "t.mrc", np.zeros(GRID.shape_zyx, np.int16), GRID)
    write_model(tmp_path / "points.mod", Model((scattered("mine", contour(TRUTH[0, :3])),), image_size=(1, 1, 1)))
    before = state(tmp_path)
    assert main(["fix", str(tmp_path / "t.mrc"), str(tmp_path / "points.mod")]) == 0
    assert "--new" in capsys.readouterr().out
    assert state(tmp_path) == before
