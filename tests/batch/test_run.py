"""Batches of quick made-up work: what is finished, what is tried again, and what never stops the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deepvesicle.batch.child import Ending
from deepvesicle.batch.engine import OneByOne
from deepvesicle.batch.manifest import Manifest, joined, read_manifest
from deepvesicle.batch.plan import Plan, Unit, deciding, settings_as_toml
from deepvesicle.batch.run import progress_in, run_batch
from deepvesicle.batch.state import LOCK_NAME, Stage, State, locked, read_state, write_state
from deepvesicle.batch.work import perform
from deepvesicle.errors import BadInputError
from deepvesicle.files.run_record import read_run_record
from deepvesicle.settings import LabelSettings, PredictionSettings, RefinementSettings, Settings, read_settings
from imod_bridge.model import Model, write_model
from tests.batch.scenes import Watcher, make_batch, plan_of, runs_of, with_settings

ROOT = Path(__file__).resolve().parents[2]


def go(manifest: Manifest, units: list[Unit], *, overwrite: bool = False) -> tuple[dict[str, State], Watcher]:
    view = Watcher()
    return run_batch(manifest, units, OneByOne(cores=1), view, overwrite=overwrite), view


def stages(states: dict[str, State]) -> dict[str, str]:
    return {name: state.stage.value for name, state in states.items()}


def test_one_bad_tomogram_stops_no_other_and_a_second_run_does_nothing_twice(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "good", "b": "fail", "c": "warn"})
    states, view = go(manifest, units)
    assert stages(states) == {"a": "done", "b": "failed", "c": "done"} == view.ended_stages
    assert states["b"].error == "this tomogram is bad."
    assert states["a"].vesicles == 4 and states["c"].warnings == ("look at this",)
    assert states["a"].peak_bytes > 1e6 and states["a"].seconds > 0
    assert "error: this tomogram is bad." in units[1].log(manifest.plan).read_text()
    again, view = go(manifest, units)
    assert view.finished == ["a", "c"] and view.started_names == ["b"]
    assert [runs_of(unit) for unit in units] == [1, 2, 1]
    assert again["a"] == states["a"]


def test_manifest_and_table_tell_of_every_unit(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "good", "b": "fail"})
    go(manifest, units)
    content = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert content["counts"]["done"] == content["counts"]["failed"] == 1
    entry = content["units"][1]
    assert (entry["state"], entry["attempts"], entry["error"]) == ("failed", 1, "this tomogram is bad.")
    assert entry["started"] and entry["ended"] and entry["host"]
    rows = (tmp_path / "out" / "batch.csv").read_text().splitlines()
    assert rows[0].startswith("name,state,vesicles") and rows[1].startswith("a,done,4,3,1,2,20.5,")
    read = read_manifest(tmp_path / "out")
    assert read is not None and read.plan == manifest.plan and read.units == units


def test_each_child_gets_its_cores(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "good"})
    go(manifest, units)
    assert (tmp_path / "a.runs").read_text().split()[1] == "1"


# --- deaths


def test_a_process_that_dies_is_started_once_more(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"once": "die 1", "twice": "die 9", "good": ""})
    states, _ = go(manifest, units)
    assert stages(states) == {"once": "done", "twice": "failed", "good": "done"}
    assert states["once"].attempts == 2 and "SIGKILL" in states["once"].deaths[0]
    assert "died twice" in states["twice"].error and "SIGKILL" in states["twice"].error
    assert [runs_of(unit) for unit in units] == [2, 2, 1]
    assert not list(units[0].folder(manifest.plan).glob(".0*"))  # what the first left half-written


def test_deaths_are_counted_in_each_run_anew(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "die 3"})
    assert stages(go(manifest, units)[0]) == {"a": "failed"}
    assert stages(go(manifest, units)[0]) == {"a": "done"}


def test_a_worker_that_died_counts_as_an_attempt_of_its_run(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": ""})
    folder = unit.folder(manifest.plan)
    folder.mkdir()
    write_state(folder, State(Stage.RUNNING, "one", attempts=2, deaths=("the process was ended by SIGKILL",)))
    state = perform(manifest.plan, unit, "one")
    assert state.stage is Stage.FAILED and "its worker died" in state.error and runs_of(unit) == 0
    assert perform(manifest.plan, unit, "two").stage is Stage.DONE


@pytest.mark.parametrize(
    ("code", "died", "word"), [(0, False, ""), (3, False, ""), (-9, True, "memory"), (143, True, "SIGTERM")]
)
def test_what_counts_as_a_death(code: int, died: bool, word: str) -> None:
    ending = Ending(code, 1.0, 0)
    assert ending.died == died and (not died or word in ending.describe())


# --- what is finished


def test_files_that_exist_are_no_proof(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": ""})
    folder = unit.folder(manifest.plan)
    folder.mkdir()
    for path in unit.outputs(manifest.plan).values():
        path.write_text("of somebody else")
    states, _ = go(manifest, [unit])
    assert states["a"].stage is Stage.DONE and runs_of(unit) == 1
    assert (folder / "earlier_1" / "a_labels.mrc").read_text() == "of somebody else"


def test_another_tomogram_under_the_same_name_is_another(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    go(manifest, [unit])
    path = Path(unit.tomogram)
    os.utime(path)  # only touched: the content decides
    go(manifest, [unit])
    assert runs_of(unit) == 1
    path.write_text("warn")
    states, _ = go(manifest, [unit])
    assert runs_of(unit) == 2 and "another tomogram" in states["a"].notes[0]
    assert "of warn" in (unit.folder(manifest.plan) / "a_labels.mrc").read_text()


def test_other_settings_are_other_results_and_the_earlier_ones_are_kept(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    go(manifest, [unit])
    other = Manifest(plan_of(tmp_path, with_settings(Settings(), min_radius_nm=20.0)), [unit])
    states, _ = go(other, [unit])
    assert runs_of(unit) == 2
    assert states["a"].notes == ("earlier results are in earlier_1 (made with other settings: proposal.min_radius_nm)",)
    kept = read_run_record(unit.folder(other.plan) / "earlier_1" / "a_run.json")
    assert kept.settings["proposal"]["min_radius_nm"] == 12.0
    go(other, [unit])
    assert runs_of(unit) == 2
    go(manifest, [unit], overwrite=True)
    assert runs_of(unit) == 3 and not (unit.folder(other.plan) / "earlier_2").exists()


def test_another_model_is_another_result(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    go(manifest, [unit])
    (tmp_path / "model" / "config.json").write_text("{ }")
    states, _ = go(Manifest(plan_of(tmp_path, Settings()), [unit]), [unit])
    assert runs_of(unit) == 2 and "another model" in states["a"].notes[0]


def test_how_it_is_worked_out_is_no_other_result(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    go(manifest, [unit])
    fewer = replace(Settings(), prediction=PredictionSettings(threads=3, tile_vox=96))
    go(Manifest(plan_of(tmp_path, fewer), [unit]), [unit])
    assert runs_of(unit) == 1


def test_an_outline_is_part_of_the_input(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    go(manifest, [unit])
    outline = tmp_path / "a_outline.mod"
    outline.write_text("one")
    with_outline = replace(unit, mask=str(outline))
    for text, runs in (("one", 2), ("one", 2), ("two", 3)):
        outline.write_text(text)
        go(manifest, [with_outline])
        assert runs_of(unit) == runs


@pytest.mark.parametrize("harm", ["missing", "shorter", "same size", "no record", "half a record"])
def test_a_result_that_is_not_whole_is_made_again(tmp_path: Path, harm: str) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    go(manifest, [unit])
    labels, record = unit.outputs(manifest.plan)["a_labels.mrc"], unit.record(manifest.plan)
    whole = labels.read_text()
    if harm == "missing":
        labels.unlink()
    elif harm == "no record":
        record.unlink()
    elif harm == "half a record":
        record.write_text(record.read_text()[:100])
    else:
        labels.write_text(whole[:-4] + ("" if harm == "shorter" else "evil"))
    states, _ = go(manifest, [unit])
    assert runs_of(unit) == 2 and states["a"].stage is Stage.DONE and labels.read_text() == whole
    assert states["a"].notes == () or "earlier_1" in states["a"].notes[0]


def test_a_state_that_was_lost_is_made_of_the_result(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    before, _ = go(manifest, [unit])
    state = unit.folder(manifest.plan) / "state.json"
    state.write_text("{")
    states, _ = go(manifest, [unit])
    assert runs_of(unit) == 1 and states["a"].outputs == before["a"].outputs
    assert read_state(state.parent).stage is Stage.DONE


def test_corrections_are_kept_and_worked_over_only_when_asked(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    go(manifest, [unit])
    model = unit.outputs(manifest.plan)["a_vesicles.mod"]
    write_model(model, Model(()))  # saved in 3dmod
    drawn = model.read_bytes()
    states, _ = go(manifest, [unit])
    assert runs_of(unit) == 1 and "a_vesicles.mod was changed" in states["a"].notes[0]
    assert model.read_bytes() == drawn
    go(manifest, [unit], overwrite=True)
    assert runs_of(unit) == 2 and (model.parent / "earlier_1" / model.name).read_bytes() == drawn


def test_what_fix_made_of_a_result_is_that_result(tmp_path: Path) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    go(manifest, [unit])
    path = unit.record(manifest.plan)
    first = read_run_record(path)
    replace(first, command="fix", counts={"refined": 9}).following(first).write(path, overwrite=True)
    unit.outputs(manifest.plan)["a_vesicles.csv"].write_text("corrected")
    states, _ = go(manifest, [unit])
    assert runs_of(unit) == 1 and states["a"].vesicles == 9 and "fix" in states["a"].notes[0]
    other = Manifest(plan_of(tmp_path, with_settings(Settings(), threshold=0.3)), [unit])
    go(other, [unit], overwrite=True)
    assert (unit.folder(other.plan) / "earlier_1" / "a_vesicles.csv").read_text() == "corrected"


def test_a_program_that_ends_well_without_its_results_failed(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "half"})
    states, _ = go(manifest, units)
    assert states["a"].stage is Stage.FAILED and "a_labels.mrc is missing" in states["a"].error


# --- stops


def test_a_crash_of_the_batch_ends_its_child_and_the_next_run_goes_on(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "good", "slow": "sleep 60", "c": "good"})
    process = start_elsewhere(manifest)
    wait_for_line(tmp_path / "slow.runs")
    child = int((tmp_path / "slow.runs").read_text().split()[0])
    process.kill()
    process.wait()
    Path(units[1].tomogram).write_text("good")
    states, view = go(manifest, units)
    assert stages(states) == {"a": "done", "slow": "done", "c": "done"} and view.finished == ["a"]
    assert [runs_of(unit) for unit in units] == [1, 2, 1]
    assert not is_alive(child)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_the_child_in_order_and_keeps_what_is_finished(tmp_path: Path, number: signal.Signals) -> None:
    manifest, units = make_batch(tmp_path, {"a": "good", "slow": "sleep 60", "c": "good"})
    process = start_elsewhere(manifest)
    wait_for_line(tmp_path / "slow.runs")
    child = int((tmp_path / "slow.runs").read_text().split()[0])
    process.send_signal(number)
    assert process.wait(20) != 0
    assert not is_alive(child)
    found = read_manifest(tmp_path / "out")
    assert found is not None
    found.read_states()
    assert stages(found.states) == {"a": "done", "slow": "stopped", "c": "waiting"}
    assert found.states["slow"].attempts == 0  # a stop is no death
    assert json.loads(found.path.read_text())["units"][1]["state"] == "stopped"


def start_elsewhere(manifest: Manifest) -> subprocess.Popen[bytes]:
    """Run a batch in a process of its own, until it is at its second tomogram."""
    manifest.write()
    code = (
        "import signal, sys; from pathlib import Path; from deepvesicle.batch.engine import OneByOne;"
        "from deepvesicle.batch.manifest import read_manifest; from deepvesicle.batch.run import run_batch;"
        "from tests.batch.scenes import Watcher;"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "m = read_manifest(Path(sys.argv[1])); run_batch(m, m.units, OneByOne(1), Watcher())"
    )
    return subprocess.Popen([sys.executable, "-c", code, manifest.plan.folder], cwd=ROOT, stderr=subprocess.DEVNULL)


def wait_for_line(path: Path) -> None:
    end = time.monotonic() + 30
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no mere rest that nobody has asked about."""
    for _ in range(50):
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return False
        except OSError:
            return False
        time.sleep(0.02)
    return True


def test_two_runs_do_not_work_on_the_same_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, (unit,) = make_batch(tmp_path, {"a": "good"})
    folder = unit.folder(manifest.plan)
    folder.mkdir()
    with locked(folder) as lock:
        assert lock is not None
        monkeypatch.setattr(locked.__wrapped__, "__defaults__", (0.3,))  # type: ignore[attr-defined]
        state = perform(manifest.plan, unit, "one")
    assert state.stage is Stage.FAILED and "another run" in state.error and runs_of(unit) == 0
    assert not (folder / "state.json").exists() and (folder / LOCK_NAME).exists()
    assert perform(manifest.plan, unit, "one").stage is Stage.DONE


# --- the small parts


def test_progress_within_a_tomogram_is_told(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "sleep 1.5"})
    _, view = go(manifest, units)
    assert ("a", "network", 0.4) in view.seen


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("", ("starting", 0.0)),
        ("network ...\nnetwork: 30%\nwarning: x\n", ("network", 0.3)),
        ("network: 90%\nfitting spheres ...\n", ("fitting spheres", 0.0)),
        ("network: 90%\n--- ended with -9\n--- attempt 2\n", ("starting", 0.0)),
    ],
)
def test_progress_is_read_from_the_log(tmp_path: Path, text: str, progress: tuple[str, float]) -> None:
    (tmp_path / "log").write_text(text)
    assert progress_in(tmp_path / "log") == progress
    assert progress_in(tmp_path / "none") == ("starting", 0.0)


def test_settings_survive_as_toml(tmp_path: Path) -> None:
    settings = Settings(
        refinement=RefinementSettings(tilt_range_deg=(-50.0, 62.5), tilt_axis="x", ellipsoid=True),
        labels=LabelSettings(gap_vox=2),
    )
    (tmp_path / "s.toml").write_text(settings_as_toml(settings))
    assert read_settings(tmp_path / "s.toml") == settings
    assert deciding(settings) == deciding(json.loads(json.dumps(settings.to_json())))
    assert deciding({}) == deciding(Settings())  # of a version that had fewer


def test_a_manifest_of_something_else_is_told_in_a_line(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    for text in ("[1]", "{", '{"format": 99}', '{"format": 1, "plan": {}, "units": []}'):
        (tmp_path / "batch.json").write_text(text)
        with pytest.raises(BadInputError, match="not the manifest"):
            read_manifest(tmp_path)


def test_units_of_earlier_runs_stay_in_the_manifest(tmp_path: Path) -> None:
    manifest, units = make_batch(tmp_path, {"a": "", "b": ""})
    new = replace(units[1], mask="/m.mod")
    assert joined(units, [new]) == [units[0], new]
    with pytest.raises(BadInputError, match="no tomogram 3"):
        manifest.unit(3)


def test_the_last_of_several_writers_has_seen_all_states(tmp_path: Path) -> None:
    """Tasks of an array end at the same time, and each writes the whole manifest."""
    manifest, units = make_batch(tmp_path, {f"t{i}": "" for i in range(8)})
    ready = threading.Barrier(len(units))

    def end(unit: Unit) -> None:
        mine = Manifest(manifest.plan, list(units))
        unit.folder(manifest.plan).mkdir()
        ready.wait()
        write_state(unit.folder(manifest.plan), State(Stage.DONE))
        mine.refresh()

    threads = [threading.Thread(target=end, args=(unit,)) for unit in units]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(manifest.path.read_text())["counts"]["done"] == len(units)


def test_plans_survive_as_json(tmp_path: Path) -> None:
    manifest, _ = make_batch(tmp_path, {"a": ""})
    assert Plan.from_json(json.loads(json.dumps(manifest.plan.to_json()))) == manifest.plan
