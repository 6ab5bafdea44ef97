"""IMOD's programs: found in the right order, and every way to fail is noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imod_bridge.errors import ProgramError, ProgramNotFoundError
from imod_bridge.programs import find_program, run_program, signature, was_written

MakeProgram = Callable[..., Path]


@pytest.fixture
def make_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeProgram:
    """Write a shell script as a program in IMOD_DIR/bin, or in a folder of PATH."""
    monkeypatch.setenv("IMOD_DIR", str(tmp_path / "imod"))
    monkeypatch.setenv("PATH", str(tmp_path / "other"), prepend=os.pathsep)

    def make(name: str, body: str, folder: str = "imod/bin") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return make


def test_imod_dir_comes_before_path(make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = make_program("point2model", "", folder="other")
    assert find_program("point2model") == elsewhere
    own = make_program("point2model", "")
    assert find_program("point2model") == own
    monkeypatch.delenv("IMOD_DIR")
    assert find_program("point2model") == elsewhere


def test_a_missing_program_is_told_with_what_to_do(make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProgramNotFoundError, match=r"IMOD not found: IMOD_DIR \(.*imod\).*source its start-up file"):
        find_program("no-such-program")
    make_program("plain-file", "").chmod(0o644)
    with pytest.raises(ProgramNotFoundError):
        run_program("plain-file")
    monkeypatch.delenv("IMOD_DIR")
    with pytest.raises(ProgramNotFoundError, match="IMOD_DIR is not set"):
        find_program("no-such-program")


def test_arguments_reach_the_program_as_they_are(make_program: MakeProgram, tmp_path: Path) -> None:
    make_program("show", 'for a in "$@"; do echo "[$a]"; done; pwd; cat')
    text = run_program(
        "show", ["a b", "$HOME;ls", Path("x'y"), ""], cwd=tmp_path, input_text="Option 1\n", timeout_s=10
    )
    assert text == f"[a b]\n[$HOME;ls]\n[x'y]\n[]\n{tmp_path}\nOption 1\n"


def test_standard_input_is_empty_if_not_given(make_program: MakeProgram) -> None:
    make_program("reader", "cat; echo end")
    assert run_program("reader", timeout_s=10) == "end\n"


@pytest.mark.parametrize(
    ("body", "message", "status"),
    [
        ("echo 'ERROR: IMODMOP - no model'; exit 1", "ERROR: IMODMOP - no model", 1),
        ("echo 'ERROR: IMODMOP - no model' >&2; echo more; exit 0", "ERROR: IMODMOP - no model", 0),
        ("echo 'some words' >&2; exit 3", "exit status 3: some words", 3),
        ("exit 7", "exit status 7: it said nothing", 7),
        ("kill -SEGV $$", "exit status -11", -11),
    ],
)
def test_every_failure_is_noticed(make_program: MakeProgram, body: str, message: str, status: int) -> None:
    path = make_program("imodmop", body)
    with pytest.raises(ProgramError, match=message) as caught:
        run_program("imodmop", ["-mode", "1"])
    assert caught.value.exit_code == status
    assert caught.value.command == (str(path), "-mode", "1")
    assert "\n" not in str(caught.value)


def test_a_warning_and_the_word_error_are_no_failure(make_program: MakeProgram) -> None:
    make_program("chatty", "echo 'WARNING: x'; echo 'mean ERROR: 0.3'")
    assert "mean ERROR" in run_program("chatty")


def test_outputs_must_be_new(make_program: MakeProgram, tmp_path: Path) -> None:
    make_program("good", 'echo new > "$1"')
    make_program("lazy", "exit 0")
    run_program("good", ["out.mrc"], outputs=["out.mrc"], cwd=tmp_path)
    with pytest.raises(ProgramError, match=r"missing.mrc does not exist"):
        run_program("lazy", outputs=[tmp_path / "missing.mrc"])
    os.utime(tmp_path / "out.mrc", (1e9, 1e9))
    with pytest.raises(ProgramError, match=r"out.mrc is as it was before"):
        run_program("lazy", outputs=["out.mrc"], cwd=tmp_path)
    run_program("good", ["out.mrc"], outputs=["out.mrc"], cwd=tmp_path)


def test_signatures_tell_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert signature(path) is None and not was_written(path, None, 0.0)
    path.write_text("1")
    old = signature(path)
    assert was_written(path, old, time.time()), "too young to tell"
    assert not was_written(path, old, time.time() + 60)
    path.replace(tmp_path / "b")
    path.write_text("2")
    assert signature(path) != old


def test_a_program_that_takes_too_long_is_killed_with_its_children(make_program: MakeProgram, tmp_path: Path) -> None:
    make_program("slow", f"(sleep 1; echo late > {tmp_path}/late) & sleep 30")
    started = time.monotonic()
    with pytest.raises(ProgramError, match=r"slow was stopped: not done after 0.1 s") as caught:
        run_program("slow", timeout_s=0.1)
    assert caught.value.exit_code is None
    assert time.monotonic() - started < 0.9, "the child holds the output open, and must be gone too"
    assert not (tmp_path / "late").exists()


def test_a_program_that_cannot_be_started(make_program: MakeProgram, tmp_path: Path) -> None:
    path = make_program("broken", "")
    path.write_text("#!/no/such/shell\n")
    with pytest.raises(ProgramError, match="cannot be started"):
        run_program("broken")
    make_program("fine", "exit 0")
    with pytest.raises(ProgramError, match="cannot be started"):
        run_program("fine", cwd=tmp_path / "missing")
