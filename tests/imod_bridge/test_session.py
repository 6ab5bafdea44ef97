"""A running 3dmod, played by the stand-in: every trap of its line protocol, and nothing of the user's is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from imod_bridge.binary import walk
from imod_bridge.errors import ProgramNotFoundError, SessionBlockedError, SessionEndedError, SessionError
from imod_bridge.model import decode_model
from imod_bridge.session import Session
from tests.imod_bridge.standin_3dmod import DELAY, LOAD, Desk


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "m.mod"


def points_in(data: bytes) -> list[list[float]]:
    """All points of a model file."""
    model = decode_model(data)
    return [point for item in model.objects for contour in item.contours for point in contour.points.tolist()]


# --- how the stand-in behaves: what a program that takes no care would run into


class Careless:
    """A 3dmod that is written to without any care."""

    def __init__(self, image: Path, model: Path) -> None:
        self.process = subprocess.Popen(
            [Path(os.environ["IMOD_DIR"]) / "bin" / "3dmod", "-W", "-L", image, model.name],
            cwd=model.parent,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while not self.line().startswith("Window id"):
            pass

    def line(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode().strip()

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def silent(self, seconds: float = 0.1) -> bool:
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        time.sleep(seconds)
        said = self.process.stderr.read()
        os.set_blocking(self.process.stderr.fileno(), True)
        return not said


@pytest.fixture
def careless(desk: Desk, image: Path, model: Path):
    program = Careless(image, model)
    yield program
    program.process.kill()
    program.process.communicate()


def test_standin_answers_before_it_has_saved(careless: Careless, desk: Desk, model: Path) -> None:
    desk.user("click", 1, 1, 2, 3)
    careless.write("2\n")
    assert careless.line() == "OK"
    with pytest.raises((FileNotFoundError, ValueError)):
        walk(model.read_bytes())
    careless.write("10\n")
    assert careless.line().startswith("Rubberband:") and careless.line() == "OK"
    assert points_in(model.read_bytes()) == [[1, 2, 3]]


def test_standin_keeps_the_second_of_two_lines(careless: Careless, desk: Desk) -> None:
    careless.write("6 0\n6 1\n")
    assert careless.line() == "OK" and careless.silent()
    assert not desk.state()["model_mode"]
    careless.write("5\n")
    assert careless.line() == "OK" and careless.line() == "OK"
    assert desk.state()["model_mode"]


def test_standin_splits_long_lines_and_names_with_blanks(careless: Careless, desk: Desk) -> None:
    careless.write("7 my own.mod\n")
    assert [careless.line(), careless.line()] == ["OK", "imodExecuteMessage: action 0 not recognized"]
    assert careless.line() == "ERROR"
    assert desk.state()["name"] == "my"
    careless.write("6 1 " * 64 + "\n")
    assert careless.line() == "OK" and careless.silent()


def test_standin_stops_listening_after_an_empty_line(careless: Careless, desk: Desk) -> None:
    careless.write("\n")
    assert careless.line() == "OK" and "noise" in careless.line()
    careless.write("6 0\n")
    assert careless.silent() and not desk.state()["listens"] and desk.state()["model_mode"]


def test_standin_asks_about_unsaved_changes_and_answers_nothing_meanwhile(careless: Careless, desk: Desk) -> None:
    desk.user("click", 1, 1, 2, 3)
    careless.write("7 other.mod 6 1\n")
    assert careless.line() == "OK"
    careless.write("10\n")
    assert careless.silent()
    assert desk.user("click", 1, 1, 2, 3) == "blocked"
    desk.user("answer", "cancel")
    assert careless.line().startswith("Rubberband")
    assert desk.state()["name"] == "m.mod" and desk.state()["changed"]


def test_standin_dies_of_a_broken_pipe(careless: Careless, desk: Desk) -> None:
    assert careless.process.stderr is not None and careless.process.stdin is not None
    careless.process.stderr.close()
    careless.process.stdin.close()
    assert careless.process.wait(5) == -signal.SIGPIPE
    careless.process.stderr = None


# --- Session


def test_a_session_saves_reloads_and_quits(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model) as session:
        assert session.is_alive and session.window_id == 29360135
        session.set_object(1, kind="scattered", symbol="circle", symbol_size=4, sphere_radius=0, point_limit=1)
        (item,) = desk.state()["items"]
        assert (item["flags"], item["symbol"], item["symsize"], item["limit"]) == (0x208, 0, 4, 1)
        desk.user("click", 1, 10.5, 20.5, 3)
        desk.user("click", 1, 11.5, 20.5, 4.25)
        data = session.save()
        assert data == model.read_bytes()
        (clicks,) = decode_model(data).objects
        assert clicks.is_scattered and [contour.points.tolist() for contour in clicks.contours] == [
            [[10.5, 20.5, 3]],
            [[11.5, 20.5, 4.25]],
        ]
        session.set_object(1, kind="closed", point_limit=9)
        assert (desk.state()["items"][0]["flags"], desk.state()["items"][0]["limit"]) == (0x208, 1), "it has contours"
        session.set_object(1, kind="open", point_limit=0, only_if_empty=False)
        assert (desk.state()["items"][0]["flags"], desk.state()["items"][0]["limit"]) == (8, 0)
        session.save()
        assert desk.state()["loads"] == 0
        session.reload()
        assert desk.state()["loads"] == 1 and desk.state()["model_mode"]
        assert desk.user("click", 1, 5, 5, 5) == "ok"
        session.send("6 0")
        assert desk.user("click", 1, 5, 5, 5) == "movie mode"
        session.model_mode()
        desk.user("click", 1, 6, 6, 6)
    assert not session.is_alive and not desk.is_running()
    assert len(points_in(model.read_bytes())) == 4, "quitting saves"
    assert len(points_in(model.with_name("m.mod~").read_bytes())) == 2


def test_many_saves_are_each_complete(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model) as session:
        for number in range(8):
            desk.user("click", 1, number, 0, 0)
            assert len(points_in(session.save())) == number + 1


def test_loading_is_waited_for(desk: Desk, image: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it loads, 3dmod answers at once, and saves later with one answer too many."""
    monkeypatch.setenv(LOAD, "0.4")
    started = time.monotonic()
    with Session(image, model) as session:
        assert time.monotonic() - started > 0.4
        desk.user("click", 1, 1, 1, 1)
        assert len(points_in(session.save())) == 1
    with pytest.raises(SessionError, match="not ready within 0.2 s: "):
        Session(image, model, start_timeout_s=0.2).start()
    assert not desk.is_running()


def test_a_refused_line_says_why(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model) as session:
        with pytest.raises(SessionError, match="refused '99': imodExecuteMessage: action 99 not recognized"):
            session.send("99")
        with pytest.raises(SessionError, match="not enough values"):
            session.send("11 1")
        with pytest.raises(SessionError, match="illegal object"):
            session.set_object(7, kind="open")
        with pytest.raises(SessionError):
            session.send("2 99", replies=2)
        assert session.send("13") == ("ERROR: No slicer windows open",)
        # One answer more than expected must not be taken for that of the next line.
        session.send("2 99")
        desk.user("click", 1, 1, 2, 3)
        assert points_in(session.save()) == [[1, 2, 3]]


@pytest.mark.parametrize("line", ["", "  ", "6 1\n6 0", "7 " + "x" * 253])
def test_lines_that_the_protocol_cannot_carry_are_not_sent(desk: Desk, image: Path, model: Path, line: str) -> None:
    session = Session(image, model)
    with pytest.raises(SessionEndedError, match="not been started"):
        session.send("6 1")
    with session:
        with pytest.raises(ValueError, match="1 to 254 bytes"):
            session.send(line)
        session.send("6 1 " * 63 + "5")
        assert desk.state()["listens"]


def test_a_dialog_is_told_and_its_late_answer_is_not_mistaken(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model, answer_timeout_s=0.15) as session:
        desk.user("ask")
        with pytest.raises(SessionBlockedError, match="asks something in a window; answer it"):
            session.send("6 0")
        with pytest.raises(SessionBlockedError):
            session.save()
        with pytest.raises(SessionBlockedError):
            session.settle(0.05)
        desk.user("answer", "cancel")
        session.settle()
        assert not desk.state()["model_mode"], "the first line was carried out, the second never sent"
        assert desk.state()["saves"] == 0
        with pytest.raises(SessionError, match="action 98"):
            session.send("98")
        session.send("6 1")
        desk.user("click", 1, 1, 1, 1)
        assert len(points_in(session.save())) == 1


def test_a_reload_over_unsaved_changes_waits_for_the_user(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model, answer_timeout_s=0.15) as session:
        desk.user("click", 1, 1, 1, 1)
        session.save()
        desk.user("click", 1, 2, 2, 2)
        with pytest.raises(SessionBlockedError):
            session.reload()
        assert desk.state()["question"] == "Save current model?"
        desk.user("answer", "yes")
        session.settle()
        assert len(points_in(session.save())) == 2
        assert desk.state()["loads"] == 1


def test_quitting_over_a_dialog_leaves_3dmod_to_the_user(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model, answer_timeout_s=0.1) as session:
        desk.user("click", 1, 1, 1, 1)
        desk.user("ask")
        with pytest.raises(SessionBlockedError):
            session.quit()
    assert desk.is_running()
    desk.user("answer", "cancel")
    desk.wait_for("listens", False)
    assert len(desk.state()["items"][0]["points"]) == 1, "nothing is lost"
    with pytest.raises(SessionEndedError, match="over"):
        session.send("6 1")


def test_3dmod_that_ends_is_noticed_at_once(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model) as session:
        desk.user("crash")
        started = time.monotonic()
        with pytest.raises(SessionEndedError, match="exit status -9"):
            session.save()
        with pytest.raises(SessionEndedError):
            session.send("6 1")
        assert time.monotonic() - started < 2
        assert session.wait(1) and not session.is_alive
        session.quit()


def test_the_user_can_close_3dmod(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model) as session:
        assert not session.wait(0.01)
        desk.user("click", 1, 1, 1, 1)
        desk.user("close")
        desk.user("answer", "yes")
        assert session.wait(5)
    assert len(points_in(model.read_bytes())) == 1


def test_3dmod_that_does_not_start_says_why(
    desk: Desk, image: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = desk.imod / "bin" / "3dmod"
    program.write_text("#!/bin/sh\necho 'cannot connect to X server' >&2\nexit 1\n")
    with pytest.raises(SessionEndedError, match=r"exit status 1\): cannot connect to X server"):
        Session(image, model).start()
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(SessionError, match="cannot be started"):
        Session(image, model).start()
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramNotFoundError, match="IMOD not found"):
        Session(image, model).start()


@pytest.mark.parametrize("name", ["my own.mod", "tab\t.mod", "back\\slash.mod", "-x.mod", "l" * 248 + ".mod"])
def test_names_that_3dmod_cannot_be_told_are_refused(desk: Desk, image: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(SessionError, match="Rename"):
        Session(image, tmp_path / name)


def test_missing_files_are_told(desk: Desk, image: Path, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="no image"):
        Session(tmp_path / "missing.mrc", tmp_path / "m.mod")
    with pytest.raises(SessionError, match="does not exist"):
        Session(image, tmp_path / "missing" / "m.mod")


def test_blanks_in_folders_and_in_the_image_do_no_harm(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "my own data"
    folder.mkdir()
    (folder / "a tomogram.mrc").write_bytes(b"image")
    with Session(folder / "a tomogram.mrc", folder / "m.mod") as session:
        desk.user("click", 1, 1, 1, 1)
        session.save()
        session.reload()
        assert len(points_in(session.save())) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["a tomogram.mrc", "m.mod", "m.mod#autosave#", "m.mod~"]


def test_a_linked_model_stays_linked(desk: Desk, image: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.mod"
    link.symlink_to(tmp_path / "real" / "m.mod")
    with Session(image, link) as session:
        desk.user("click", 1, 1, 1, 1)
        session.save()
        desk.user("click", 1, 2, 2, 2)
    assert link.is_symlink() and len(points_in(link.read_bytes())) == 2


def test_a_save_that_fails_is_told_although_3dmod_says_ok(desk: Desk, image: Path, model: Path) -> None:
    with Session(image, model) as session:
        session.save()
        desk.user("click", 1, 1, 1, 1)
        model.unlink()
        model.mkdir()  # nothing can be written under this name
        os.utime(model, (1e9, 1e9))
        with pytest.raises(SessionError, match="did not write .*m.mod"):
            session.save()
        with pytest.raises(SessionError):
            session.quit()
        assert desk.is_running() and desk.state()["changed"], "it still holds the user's work"
        model.rmdir()
        assert len(points_in(session.save())) == 1


def test_our_death_leaves_3dmod_alive_with_the_users_work(
    desk: Desk, image: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DELAY, "0.02")
    child = os.fork()
    if child == 0:
        session = Session(image, model)
        session.start()
        (desk.folder / "ready").touch()
        time.sleep(20)
        os._exit(0)
    deadline = time.monotonic() + 5
    while not (desk.folder / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    desk.user("click", 1, 1, 1, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    desk.wait_for("listens", False)
    time.sleep(0.05)
    assert desk.user("click", 1, 2, 2, 2) == "ok"
    desk.user("save")
    assert len(points_in(model.read_bytes())) == 2
