"""What a user sees when something fails: one line, the right exit code, a traceback only with --debug."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import deepvesicle
from deepvesicle.commands import console
from deepvesicle.commands import main as program
from deepvesicle.errors import OutputExistsError, PartialFailure, TomogramError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> type[Exception]:
    """A program with one command, `fail`, that raises what `failing.error` is."""

    class Box:
        error: BaseException = RuntimeError()

    app = typer.Typer(pretty_exceptions_enable=False)

    @app.callback()
    def options() -> None:
        pass

    @app.command()
    def fail(path: str = "") -> None:
        raise Box.error

    monkeypatch.setattr(program, "app", app)
    return Box  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TomogramError("t.mrc is empty"), 3, "error: t.mrc is empty."),
        (OutputExistsError("x exists", remedy="Add --overwrite"), 2, "error: x exists. Add --overwrite."),
        (PartialFailure("1 of 3 failed"), 4, "error: 1 of 3 failed."),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), 3, "error: No space left on device: /tmp/x"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 3, "error: Permission denied: x"),
        (MemoryError("Unable to allocate 9 TiB"), 3, "error: not enough memory. Unable to allocate 9 TiB"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (KeyError("two\nlines"), 1, "error: internal error: KeyError"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_failures(
    failing, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str, debug: bool
) -> None:
    failing.error = error
    assert program.main(["fail"] + ["--debug"] * debug) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert lines[-1].startswith(message)
    assert len(lines) == 1 if not debug else "Traceback" in lines[0]
    assert ("--debug" in err) == (code == 1 and not debug)


@pytest.mark.parametrize("arguments", [["--debug", "fail"], ["fail", "--debug"], ["fail", "--debug", "--path", "x"]])
def test_debug_stands_anywhere(failing, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    failing.error = TomogramError("bad")
    assert program.main(arguments) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "No such command 'chek'"),
        (["--wrong"], "No such option: --wrong"),
        (["check"], "Missing argument"),
        (["check", "a", "b"], "unexpected extra argument"),
        (["check", "a", "--voxel-size", "wide"], "Invalid value for '--voxel-size'"),
        (["check", "a", "--wrong"], "No such option: --wrong"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert program.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert f"Try 'deepvesicle{' check' if arguments[0] == 'check' else ''} --help'." in err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--version"]) == 0
    assert capsys.readouterr().out == f"deepvesicle {deepvesicle.__version__}\n"
    for arguments in (["--help"], ["-h"], []):
        assert program.main(arguments) == 0
        assert "check" in capsys.readouterr().out


def test_module_and_exit_code() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "deepvesicle", "check", "none.mrc"], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 3
    assert run.stderr == "error: none.mrc does not exist; expected a tomogram.\n" and run.stdout == ""


def test_sigterm_removes_half_written_files(tmp_path: Path) -> None:
    """A batch system ends a job: the stack unwinds, and the temporary file goes."""
    code = (
        "import sys, time, typer\n"
        "from deepvesicle.commands import main as program\n"
        "from deepvesicle.files.atomic import new_file\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def work():\n"
        "    with new_file(sys.argv[1]) as temporary:\n"
        "        temporary.write_text('half')\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(30)\n"
        "program.app = app\n"
        "sys.exit(program.main([]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out.txt")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_handler_of_sigterm_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    program.main(["--version"])
    assert signal.getsignal(signal.SIGTERM) is before


# --- progress ---


def test_progress_without_terminal_is_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("network", 10) as advance:
        for _ in range(10):
            advance(1)
    out, err = capsys.readouterr()
    assert out == ""  # results only
    assert err.splitlines() == ["network ...", "network: 20%", "network: 40%", "network: 60%", "network: 80%"]


@pytest.mark.parametrize("no_color", [False, True])
def test_progress_with_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    with console.progress("network", 4) as advance:
        advance(4)
    console.warn("dense [bold]seems[/bold]\nbright")
    out, err = capsys.readouterr()
    assert out == "" and "network" in err and "100%" in err
    assert "warning: dense [bold]seems[/bold] bright" in err
    assert ("\x1b[33m" in err) != no_color


def test_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(os.environ, "TERM", "dumb")
    assert not console.has_terminal()
