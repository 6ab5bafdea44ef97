"""`deepvesicle batch` as a user runs it; the network's part is replaced by a quick stand-in, but for one test."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.batch.plan import Plan
from deepvesicle.commands import batch as command
from deepvesicle.commands.batch_view import Lines, duration
from deepvesicle.commands.main import main
from deepvesicle.files.run_record import read_run_record
from deepvesicle.files.tomogram import read_labels, write_tomogram
from deepvesicle.grid import Grid
from deepvesicle.network.unet import UNetShape, build_unet
from deepvesicle.network.zoo import save_network
from imod_bridge.model import Contour, Model, Object, write_model
from tests.batch.fake_segment import OUTPUTS
from tests.batch.scenes import FAKE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-in do the work that the command plans."""
    plan_of = command._plan

    def planned(*arguments: object) -> Plan:
        plan = plan_of(*arguments)  # type: ignore[arg-type]
        return replace(plan, program=(sys.executable, str(FAKE)), outputs=OUTPUTS)

    monkeypatch.setattr(command, "_plan", planned)


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.mrc").write_text(text)
    return folder


def count_runs(folder: Path) -> dict[str, int]:
    return {path.stem: len(path.read_text().splitlines()) for path in sorted(folder.glob("*.runs"))}


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "batch.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.mark.usefixtures("fake")
def test_some_failed_is_4_and_the_table_tells_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tomos, out = write(tmp_path / "tomos", a="warn", b="fail", c="die 9"), tmp_path / "out"
    assert main(["batch", f"{tomos}/*.mrc", "-o", str(out)]) == 4
    said = capsys.readouterr()
    assert re.search(r"^a +done +4 +20.5 +\d+ s +1$", said.out, re.MULTILINE)
    assert "b: failed: this tomogram is bad." in said.out and "c: failed: died twice" in said.out
    assert "a: warning: look at this" in said.out
    errors = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "2 of 3 tomograms failed: b, c" in errors[0]
    assert "[3/3]" in said.err and "a: started" in said.err
    assert {name: row["state"] for name, row in rows(out).items()} == {"a": "done", "b": "failed", "c": "failed"}
    (tomos / "b.mrc").write_text("good")
    (tomos / "c.mrc").write_text("good")
    assert main(["batch", f"{tomos}/*.mrc", "-o", str(out)]) == 0
    assert "done before" in capsys.readouterr().out
    assert count_runs(tomos) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.usefixtures("fake")
def test_all_failed_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tomos = write(tmp_path / "tomos", a="fail", b="fail")
    assert main(["batch", f"{tomos}/*.mrc", "-o", str(tmp_path / "out")]) == 3
    assert "2 of 2 tomograms failed" in capsys.readouterr().err
    assert main(["batch", f"{tomos}/a.mrc", "-o", str(tmp_path / "out")]) == 3
    assert "error: a failed: this tomogram is bad" in capsys.readouterr().err


@pytest.mark.usefixtures("fake")
def test_same_stems_and_later_tomograms_keep_their_own_folders(tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, two = write(tmp_path / "one", t="good"), write(tmp_path / "two", t="warn", batch="good", jobs="good")
    assert main(["batch", f"{one}/t.mrc", "-o", str(out)]) == 0
    assert main(["batch", f"{one}/t.mrc", f"{two}/t.mrc", f"{two}/jobs.mrc", "-o", str(out)]) == 0
    assert count_runs(one) == {"t": 1} and set(rows(out)) == {"t", "two_t", "two_jobs"}
    assert "of warn" in (out / "two_t" / "t_labels.mrc").read_text()
    assert main(["batch", f"{two}/batch.mrc", "-o", str(out)]) == 0  # the others stay in the manifest
    content = json.loads((out / "batch.json").read_text())
    assert [(unit["number"], unit["name"]) for unit in content["units"]] == [
        (1, "t"),
        (2, "two_t"),
        (3, "two_jobs"),
        (4, "batch"),
    ]


@pytest.mark.usefixtures("fake")
def test_settings_from_file_and_options_decide(tmp_path: Path) -> None:
    tomos, out = write(tmp_path / "tomos", a="good"), tmp_path / "out"
    (tmp_path / "s.toml").write_text("[proposal]\nmin_radius_nm = 25.0\n[prediction]\nthreads = 1\n")
    arguments = ["batch", f"{tomos}/a.mrc", "-o", str(out), "--settings", str(tmp_path / "s.toml")]
    assert main([*arguments, "--max-radius", "60", "--views", "2", "--tilt-range", "-50,60"]) == 0
    settings = read_run_record(out / "a" / "a_run.json").settings
    assert settings["proposal"] == {"threshold": None, "min_radius_nm": 25.0, "max_radius_nm": 60.0} | {
        "min_inside_fraction": settings["proposal"]["min_inside_fraction"]
    }
    assert settings["prediction"]["augment"] == 2 and settings["refinement"]["tilt_range_deg"] == [-50.0, 60.0]
    assert main([*arguments, "--max-radius", "60", "--views", "2"]) == 0
    assert count_runs(tomos) == {"a": 2} and (out / "a" / "earlier_1" / "a_run.json").exists()


def test_the_command_line_of_each_tomogram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that decides the result goes to `deepvesicle segment`, which knows every option that is used."""
    from typer.main import get_command

    from deepvesicle.commands.main import app

    seen: list[tuple[Plan, list[str]]] = []
    monkeypatch.setattr(
        command, "_all", lambda manifest, units, *_: seen.append((manifest.plan, units[0].arguments(manifest.plan)))
    )
    tomos = write(tmp_path / "tomos", a="")
    (tomos / "a_cell.mod").write_text("")
    arguments = ["batch", f"{tomos}/a.mrc", "-o", str(tmp_path / "out"), "--mask", "{stem}_cell.mod", "--invert"]
    assert main([*arguments, "--voxel-size", "1.5", "--save-probability"]) == 0
    plan, line = seen[0]
    assert line[:2] == ["segment", f"{tomos}/a.mrc"]
    assert line[line.index("--mask") + 1] == f"{tomos}/a_cell.mod"
    assert line[line.index("--voxel-size") + 1] == "1.5" and "--invert" in line and "--save-probability" in line
    assert "{stem}_probability.mrc" in plan.outputs and plan.wanted.voxel_nm == 1.5 and plan.wanted.invert
    segment = get_command(app).commands["segment"]  # type: ignore[attr-defined]
    known = {option for parameter in segment.params for option in parameter.opts}
    assert {word for word in line if word.startswith("--")} <= known


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["no_such.mrc", "-o", "out"], 3, "no_such.mrc"),
        (["tomos", "-o", "out"], 3, "'tomos/*.mrc'"),
        (["tomos/a.mrc"], 2, "-o"),
        (["-o", "out"], 2, "batch needs tomograms"),
        (["tomos/a.mrc", "-o", "no/such/out"], 2, "no/such"),
        (["tomos/a.mrc", "-o", "out", "--model", "no_such"], 3, "no_such"),
        (["tomos/a.mrc", "-o", "out", "--voxel-size", "0.01"], 2, "--voxel-size"),
        (["tomos/a.mrc", "-o", "out", "--min-radius", "30", "--max-radius", "20"], 2, "--min-radius"),
        (["tomos/a.mrc", "-o", "out", "--settings", "none.toml"], 3, "none.toml"),
        (["tomos/a.mrc", "-o", "out", "--mask", "{name}.mod"], 2, "{name}"),
        (["tomos/a.mrc", "-o", "out", "--cluster", "cloud"], 2, "--cluster cloud"),
        (["tomos/a.mrc", "-o", "out", "--memory", "much"], 2, "--memory"),
        (["tomos/a.mrc", "-o", "out", "--job-memory", "much"], 2, "--job-memory"),
        (["tomos/a.mrc", "-o", "out", "--cluster", "local", "--write-sbatch", "x"], 2, "exclude"),
        (["tomos/a.mrc", "-o", "out", "--write-sbatch", "x", "--sbatch", "a\nb"], 2, "--sbatch"),
        (["tomos/a.mrc", "-o", "out", "--task", "1"], 2, "--task"),
        (["-o", "out", "--task", "1"], 3, "no batch in out"),
    ],
)
def test_wrong_options_end_with_one_line_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    tomos = write(tmp_path / "tomos", a="good")
    assert main(["batch", *options]) == code
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error:") and word in errors[0]
    assert count_runs(tomos) == {} and not list((tmp_path / "out").glob("a"))


# --- arrays of jobs


@pytest.mark.usefixtures("fake")
def test_a_job_script_and_its_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script is run as SLURM would run it, a task at a time."""
    tomos, out, script = write(tmp_path / "tomos", a="good", b="fail", c="good"), tmp_path / "o ut", tmp_path / "job.sh"
    arguments = ["batch", f"{tomos}/*.mrc", "-o", str(out), "--write-sbatch", str(script), "--at-once", "2"]
    assert main([*arguments, "--memory", "1GB", "--cores", "3", "--sbatch", "--partition=short"]) == 0
    lines = script.read_text().splitlines()
    for line in ("--array=1-3%2", "--cpus-per-task=3", "--mem=1669M", "--partition=short"):
        assert f"#SBATCH {line}" in lines
    assert f'#SBATCH --output="{out}/jobs/%A_%a.txt"' in lines and (out / "jobs").is_dir()
    assert count_runs(tomos) == {}
    codes, errors = {}, {}
    for number in (1, 2, 3, 1):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_JOB_ID": "77"}
        done = subprocess.run([str(script)], env=environment, capture_output=True, text=True, timeout=60)
        codes[number], errors[number] = done.returncode, done.stderr
    assert codes == {1: 0, 2: 3, 3: 0} and "error: b failed: this tomogram is bad" in errors[2]
    assert count_runs(tomos) == {"a": 1, "b": 1, "c": 1}
    assert {name: row["state"] for name, row in rows(out).items()} == {"a": "done", "b": "failed", "c": "done"}
    assert json.loads((out / "batch.json").read_text())["units"][0]["run"] == "slurm-77"
    capsys.readouterr()
    assert main(["batch", "-o", str(out), "--task", "9"]) == 3
    assert "no tomogram 9" in capsys.readouterr().err
    assert main(arguments) == 2  # the script is there
    (tomos / "b.mrc").write_text("good")
    assert main(["batch", f"{tomos}/*.mrc", "-o", str(out)]) == 0  # either way goes on from the other
    assert count_runs(tomos) == {"a": 1, "b": 2, "c": 1}


# --- what is shown


def test_a_terminal_shows_bars(tmp_path: Path) -> None:
    """On a terminal: a bar for all, one for the tomogram at work, and the lines of those that have ended."""
    tomos = write(tmp_path / "tomos", a="sleep 1", b="fail")
    code = (
        "import sys; from dataclasses import replace; from deepvesicle.commands import batch; plan = batch._plan\n"
        f"batch._plan = lambda *a: replace(plan(*a), program=(sys.executable, {str(FAKE)!r}), outputs={OUTPUTS!r})\n"
        "from deepvesicle.commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    inner, outer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    arguments = ["batch", f"{tomos}/*.mrc", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=outer, stdout=subprocess.PIPE, env=environment
    )
    os.close(outer)
    shown = b""
    try:
        while block := os.read(inner, 65536):
            shown += block
    except OSError:  # the other side is closed
        pass
    os.close(inner)
    assert process.wait(30) == 4
    text = shown.decode()
    for words in ("all tomograms", "a: network", "40%", "[1/2] a: 4 vesicles", "[2/2] b: failed"):
        assert words in text


def test_lines_tell_now_and_then_what_each_is_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deepvesicle.batch.plan import Unit

    view = Lines()
    unit = Unit(1, "a", "/a.mrc", "a")
    view.tick([(unit, "network", 0.4)])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("deepvesicle.commands.batch_view._LINE_SECONDS", 0.0)
    view.tick([(unit, "network", 0.4)])
    assert capsys.readouterr().err == "a: network 40%\n"


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59, 65, 3720)] == ["0 s", "59 s", "1:05 min", "1:02 h"]


# --- with the program itself


def test_the_program_itself_with_outlines_and_a_bad_file(
    tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    shape, grid = UNetShape(1, 2), Grid((32, 40, 48), 2.2)
    save_network(tmp_path / "model", build_unet(shape), shape, voxel_nm=2.2, threshold=0.999, card="untrained")
    tomos, out = tmp_path / "tomos", tmp_path / "out"
    tomos.mkdir()
    write_tomogram(tomos / "t.mrc", rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    write_tomogram(tomos / "no_outline.mrc", rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    shutil.copy(tomos / "t.mrc", tomos / "bad.mrc")
    with (tomos / "bad.mrc").open("r+b") as file:
        file.truncate(5000)
    corners = np.array([[5.0, 5.0], [40.0, 5.0], [40.0, 35.0], [5.0, 35.0]])
    contours = tuple(Contour(np.column_stack([corners, np.full(4, z)])) for z in (3.0, 25.0))
    for stem in ("t", "bad"):
        write_model(tomos / f"{stem}_cell.mod", Model((Object("cell", contours),)))
    arguments = ["batch", f"{tomos}/*.mrc", "-o", str(out), "--model", str(tmp_path / "model")]
    arguments += ["--mask", "{stem}_cell.mod", "--min-radius", "15"]
    assert main(arguments) == 4
    table = rows(out)
    assert {name: row["state"] for name, row in table.items()} == {"bad": "failed", "no_outline": "failed", "t": "done"}
    assert "bad.mrc" in table["bad"]["error"] and "no_outline_cell.mod" in table["no_outline"]["error"]
    record = read_run_record(out / "t" / "t_run.json")
    assert record.inputs["mask"].path == f"{tomos}/t_cell.mod" and record.settings["proposal"]["min_radius_nm"] == 15.0
    assert read_labels(out / "t" / "t_labels.mrc").grid.voxel_nm == pytest.approx(2.2)
    capsys.readouterr()
    before = (out / "t" / "t_run.json").stat().st_mtime_ns
    assert main(arguments) == 4
    assert "1 of them finished before" in capsys.readouterr().err
    assert (out / "t" / "t_run.json").stat().st_mtime_ns == before
