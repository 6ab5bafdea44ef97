"""The loop as a command: errors in IMOD's manner, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import imod_bridge.actions
from imod_bridge.__main__ import main
from imod_bridge.errors import ActionError
from imod_bridge.model import write_model
from tests.imod_bridge.standin_3dmod import Desk
from tests.imod_bridge.toy_action import ToyAction, clicks, places

ROOT = Path(__file__).parents[2]
A, B = (1.5, 2.5, 3.0), (4.5, 5.5, 6.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.mod"
    write_model(path, clicks(A))
    return path


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, str]:
    """An environment in which a package announces the toy action."""
    info = tmp_path / "site" / "toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[imod_bridge.actions]\ntoy = toy:action\n")
    (info.parent / "toy.py").write_text("from tests.imod_bridge.toy_action import ToyAction\naction = ToyAction()\n")
    return {**os.environ, "PYTHONPATH": f"{info.parent}{os.pathsep}{ROOT}"}


def test_run_and_actions(toy: dict[str, str], model: Path, tmp_path: Path) -> None:
    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "imod_bridge", *map(str, arguments)], env=toy, capture_output=True, text=True
        )

    done = command("run", "toy", "t.mrc", model, "-o", tmp_path / "new.mod")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 fitted\n", "")
    assert places(model, "clicks") == [A] and places(tmp_path / "new.mod", "spheres") == [A]
    listed = command("actions")
    assert listed.returncode == 0 and "toy (toy:action)" in listed.stdout
    failed = command("run", "toy", "t.mrc", model, "-o", tmp_path / "new.mod")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"ERROR: imod_bridge - {tmp_path}/new.mod exists already: choose another name\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ActionError("no\nbeads"), "no beads"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_every_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, error: BaseException, line: str
) -> None:
    def fail(run: int) -> None:
        raise error

    monkeypatch.setattr(imod_bridge.actions, "load_action", lambda name: ToyAction(fail))
    assert main(["run", "x", "t.mrc", str(model)]) == 1
    assert capsys.readouterr().err == f"ERROR: imod_bridge - {line}\n"
    assert places(model, "clicks") == [A]


def test_missing_files_and_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    assert main(["run", "no-such", "t.mrc", str(model)]) == 1
    assert "there is no action 'no-such'" in capsys.readouterr().err
    monkeypatch.setattr(imod_bridge.actions, "load_action", lambda name: ToyAction())
    assert main(["run", "x", "t.mrc", str(tmp_path / "none.mod")]) == 1
    assert capsys.readouterr().err == f"ERROR: imod_bridge - {tmp_path}/none.mod: No such file or directory\n"
    monkeypatch.delenv("IMOD_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "t.mrc").touch()
    assert main(["live", "x", str(tmp_path / "t.mrc"), str(model)]) == 1
    assert "ERROR: imod_bridge - IMOD not found" in capsys.readouterr().err
    for arguments in ([], ["run"], ["fly"], ["run", "a", "b", "c", "--bad"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 1 and capsys.readouterr().err.startswith("ERROR: imod_bridge - ")


def test_live_with_enter_and_ctrl_c(desk: Desk, image: Path, model: Path, toy: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "imod_bridge", "live", "toy", str(image), str(model)],
        env={**toy, **desk.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    assert "press Enter" in process.stdout.readline()
    desk.user("click", 1, *B)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "2 fitted\n"
    desk.user("click", 1, 9, 9, 9)
    time.sleep(0.05)
    process.send_signal(2)
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (0, "stopped\n", "")
    assert not desk.is_running(), "3dmod saved and quit"
    assert places(model, "spheres") == [A, B] and places(model, "clicks") == [(9, 9, 9)]
