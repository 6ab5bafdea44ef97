"""The loop with a running 3dmod, played by the stand-in, start to end and under every fault we could think of."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imod_bridge import loop as loop_module
from imod_bridge.actions import Answer
from imod_bridge.errors import ActionError
from imod_bridge.loop import KEY, live, watch
from imod_bridge.model import write_model
from imod_bridge.session import Session
from tests.imod_bridge.standin_3dmod import Desk
from tests.imod_bridge.toy_action import RADIUS, Guard, ToyAction, clicks, places

A, B, C, D = (1.5, 2.5, 3.0), (4.5, 5.5, 6.0), (7.5, 8.5, 9.25), (10.5, 11.5, 12.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.mod"
    write_model(path, clicks(A))
    return path


class Script:
    """Wake-ups that play a user: a step is done before each of them; `KEY` and None are wake-ups as they are."""

    def __init__(self, *steps: Callable[[], object] | str | None) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[object]:
        for step in self.steps:
            yield step() if callable(step) else step


def in_memory(desk: Desk, name: str) -> list[tuple[float, ...]]:
    """The points of an object in 3dmod's memory."""
    items = [item for item in desk.state()["items"] if item["name"] == name]
    return sorted(tuple(point) for item in items for contour in item["points"] for point in contour)


def test_from_clicks_to_spheres_in_3dmod(desk: Desk, image: Path, model: Path) -> None:
    action, said = ToyAction(), []

    def click() -> None:
        assert desk.user("click", 1, *B) == "ok"
        assert action.runs == 0, "opening the model is no reason to begin"
        desk.user("save")

    def look() -> None:
        assert in_memory(desk, "spheres") == [A, B] and in_memory(desk, "clicks") == []
        assert desk.state()["model_mode"] and not desk.state()["changed"] and desk.state()["loads"] == 1
        assert places(model, "spheres") == [A, B]
        assert places(model.with_name("m.mod~")) == [A, B], "the backup is what the user drew"
        assert places(model.with_name("m.mod~"), "clicks") == [A, B]

    def click_again() -> None:
        assert desk.user("click", 1, *C) == "ok", "it is in model mode"
        desk.user("click", 1, *D)
        desk.user("save")

    with Guard(model, desk), Session(image, model) as session:
        script = Script(None, click, look, None, click_again, None)
        live(action, image, session, wakeups=script, report=said.append)
        assert in_memory(desk, "spheres") == [A, B, C, D]
    assert said == ["2 fitted", "2 fitted"] and action.finished == [1, 2] and action.runs == 2
    assert places(model, "spheres") == [A, B, C, D] and places(model, "clicks") == []
    assert sorted(path.name for path in model.parent.iterdir()) == ["m.mod", "m.mod#autosave#", "m.mod~", "tomo.mrc"]


def test_a_key_needs_no_save(desk: Desk, image: Path, model: Path) -> None:
    action, said = ToyAction(), []
    with Session(image, model) as session:
        script = Script(lambda: desk.user("click", 1, *B) and None, lambda: KEY, KEY)
        live(action, image, session, wakeups=script, report=said.append)
        assert in_memory(desk, "spheres") == [A, B] and desk.state()["loads"] == 1
    assert said == ["2 fitted", "nothing to do"] and action.runs == 2


def test_a_new_model_begins_with_nothing(desk: Desk, image: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.mod"
    action, said = ToyAction(), []
    with Session(image, path) as session:
        session.set_object(1, kind="scattered", point_limit=1)
        script = Script(None, KEY, lambda: desk.user("click", 1, *B), lambda: KEY, None)
        live(action, image, session, wakeups=script, report=said.append)
    assert said == ["nothing to do", "1 fitted"]
    assert places(path, "spheres") == [B]


def test_a_save_without_changes_does_not_call_the_action(desk: Desk, image: Path, model: Path) -> None:
    action = ToyAction()
    with Session(image, model) as session:
        script = Script(KEY, lambda: desk.user("save"), lambda: desk.user("save"), None)
        live(action, image, session, wakeups=script, report=lambda line: None)
    assert action.runs == 1


def test_deleted_and_resized_spheres_reach_the_action(desk: Desk, image: Path, model: Path) -> None:
    seen = []

    def edit() -> None:
        desk.user("delete", 2, 0)
        desk.user("size", 2, 0, 0, 7.5)
        desk.user("save")

    def action(request) -> Answer:
        sizes = [float(c.sizes[0]) for item in request.model.objects for c in item.contours if c.sizes is not None]
        before = request.previous and places(request.previous, "spheres")
        seen.append((before, places(request.model, "spheres"), sizes))
        return ToyAction()(request)

    with Session(image, model) as session:
        script = Script(lambda: desk.user("click", 1, *B), KEY, edit, None)
        live(action, image, session, wakeups=script, report=lambda line: None)
    assert seen[-1] == ([A, B], [B], [7.5]) and len(seen) == 2
    assert RADIUS not in seen[-1][2]


# --- the user goes on while the action works


@pytest.mark.parametrize("saved", [False, True])
def test_what_the_user_does_meanwhile_is_kept(desk: Desk, image: Path, model: Path, saved: bool) -> None:
    def meanwhile(run: int) -> None:
        if run < 3:
            desk.user("click", 1, *(B, C)[run - 1])
            if saved:
                desk.user("save")

    action, said = ToyAction(meanwhile), []
    with Guard(model, desk), Session(image, model) as session:
        live(action, image, session, wakeups=Script(KEY, None), report=said.append)
        assert in_memory(desk, "spheres") == [A, B, C] and in_memory(desk, "clicks") == []
    assert action.runs == 3 and action.finished == [3] and said == ["3 fitted"]


def test_a_user_who_never_pauses_is_told_and_loses_nothing(desk: Desk, image: Path, model: Path) -> None:
    action = ToyAction(lambda run: desk.user("click", 1, run, 0, 0))
    said: list[str] = []
    with Session(image, model) as session:
        live(action, image, session, wakeups=Script(KEY, None), report=said.append)
        assert in_memory(desk, "clicks") == sorted([A, *((run, 0, 0) for run in range(1, 6))])
    assert action.runs == 5 and action.finished == []
    assert said == ["the model keeps changing in 3dmod. Nothing is lost: save again when you pause"]


@pytest.mark.parametrize("answer", ["yes", "no", "cancel"])
@pytest.mark.parametrize("slow", [True, False])
def test_a_click_in_the_last_moment_makes_3dmod_ask(
    desk: Desk, image: Path, model: Path, monkeypatch: pytest.MonkeyPatch, answer: str, slow: bool
) -> None:
    """Between our last save and the reload: whatever the user answers, what they chose to keep is kept."""
    action, said = ToyAction(), []

    with Guard(model, desk), Session(image, model, answer_timeout_s=0.25 if slow else 5.0) as session:
        reload = session.reload

        def click_and_reload() -> None:
            monkeypatch.setattr(session, "reload", reload)
            desk.user("click", 1, *B)
            if not slow:
                child = os.fork()
                if child == 0:
                    desk.wait_for("question", "Save current model?")
                    desk.user("answer", answer)
                    os._exit(0)
            reload()

        monkeypatch.setattr(session, "reload", click_and_reload)

        def reply() -> None:
            if slow:
                assert desk.state()["question"] and action.finished == []
                assert desk.user("answer", answer) == "ok"
                time.sleep(0.1)

        live(action, image, session, wakeups=Script(KEY, None, reply, None, None, KEY), report=said.append)
        expected = [A] if answer == "no" else [A, B]
        assert in_memory(desk, "spheres") == expected and in_memory(desk, "clicks") == []
    assert places(model, "spheres") == expected
    told = [line for line in said if "does not answer" in line]
    assert len(told) == slow, said
    assert said[-1] == "nothing to do" and len(action.finished) == 1


def test_a_dialog_is_told_once_and_waited_for(desk: Desk, image: Path, model: Path) -> None:
    action, said = ToyAction(), []

    def answer() -> None:
        desk.user("answer", "cancel")
        time.sleep(0.1)

    with Session(image, model, answer_timeout_s=0.25) as session:
        script = Script(lambda: desk.user("ask"), KEY, None, KEY, None, answer, None)
        live(action, image, session, wakeups=script, report=said.append)
        assert in_memory(desk, "spheres") == [A]
    assert said == ["3dmod does not answer: it probably asks something in a window; answer it", "1 fitted"]
    assert action.finished == [1]


# --- ends


def test_the_user_closes_3dmod(desk: Desk, image: Path, model: Path) -> None:
    action, said = ToyAction(), []

    def close() -> None:
        desk.user("click", 1, *B)
        desk.user("close")
        desk.user("answer", "yes")
        assert session.wait(5)

    with Session(image, model) as session:
        live(action, image, session, wakeups=Script(None, close, None, None), report=said.append)
    assert said == ["2 fitted", "3dmod has ended"] and places(model, "spheres") == [A, B]


def test_3dmod_crashes_while_the_action_works(desk: Desk, image: Path, model: Path) -> None:
    def meanwhile(run: int) -> None:
        if run == 1:
            desk.user("click", 1, *C)
            desk.user("crash")

    action, said = ToyAction(meanwhile), []

    def save() -> None:
        desk.user("click", 1, *B)
        desk.user("save")

    with Session(image, model) as session:
        live(action, image, session, wakeups=Script(save, None), report=said.append)
    # What was saved is done; C was in 3dmod's memory alone.
    assert said == ["2 fitted", "3dmod has ended"] and places(model, "spheres") == [A, B]


def test_3dmod_crashes_while_it_saves(desk: Desk, image: Path, model: Path) -> None:
    said: list[str] = []

    def crash() -> None:
        desk.user("save_and_die")
        assert session.wait(5)

    with Session(image, model) as session:
        script = Script(lambda: desk.user("click", 1, *B), KEY, crash, None)
        live(ToyAction(), image, session, wakeups=script, report=said.append)
    assert said[0] == "2 fitted" and "m.mod is not a whole IMOD model" in said[1] and said[2] == "3dmod has ended"
    assert places(model.with_name("m.mod~"), "clicks") == [A, B], "what 3dmod damaged is still in the backup"


def test_3dmod_ends_before_it_could_say_that_it_reloaded(
    desk: Desk, image: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action, said = ToyAction(), []
    with Session(image, model) as session:
        monkeypatch.setattr(session, "reload", lambda: desk.user("crash") or session.barrier())
        live(action, image, session, wakeups=Script(KEY, None), report=said.append)
    assert action.finished == [1] and said == ["1 fitted", "3dmod has ended"]
    assert places(model, "spheres") == [A]


def test_ctrl_c_while_the_action_works(desk: Desk, image: Path, model: Path) -> None:
    action = ToyAction(lambda run: os.kill(os.getpid(), signal.SIGINT))
    said: list[str] = []
    with Session(image, model) as session:
        live(action, image, session, wakeups=Script(KEY), report=said.append)
        assert desk.is_running(), "3dmod does not get the Ctrl-C"
        desk.user("click", 1, *B)
    assert said == ["stopped"] and action.finished == []
    assert places(model, "clicks") == [A, B]


def test_ctrl_c_while_3dmod_asks_finishes_what_is_on_the_disk(
    desk: Desk, image: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    action, said = ToyAction(), []
    with Session(image, model) as session:
        monkeypatch.setattr(session, "reload", lambda: os.kill(os.getpid(), signal.SIGINT))
        live(action, image, session, wakeups=Script(KEY), report=said.append)
        assert action.finished == [1] and said == ["stopped", "1 fitted"]
        assert places(model, "spheres") == [A]
        session.detach()


def test_a_failing_action_is_told_and_the_loop_goes_on(desk: Desk, image: Path, model: Path) -> None:
    def meanwhile(run: int) -> None:
        if run == 1:
            raise ActionError("the tomogram is gone")

    action, said = ToyAction(meanwhile), []
    with Session(image, model) as session:
        live(action, image, session, wakeups=Script(KEY, None, lambda: desk.user("save"), None), report=said.append)
    assert said == ["the tomogram is gone", "1 fitted"] and action.runs == 2


# --- we are killed


@pytest.mark.parametrize("step", ["action", "second save", "write", "written", "reload", "reloaded", "finish"])
def test_a_kill_at_any_step_loses_nothing(desk: Desk, image: Path, model: Path, step: str) -> None:
    child = os.fork()
    if child == 0:
        _run_and_die(step, desk, image, model)
    with Guard(model, desk):
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        desk.wait_for("listens", False)
        # The user goes on in the 3dmod that was left, saves, and starts the loop again.
        memory = {*in_memory(desk, "clicks"), *in_memory(desk, "spheres")}
        assert memory == {A, B}
        desk.user("send_to_model_mode")
        assert desk.user("click", 1, *C) == "ok"
        desk.user("save")
        watch(ToyAction(), image, model, wakeups=[None, None], report=lambda line: None)
        assert places(model, "spheres") == [A, B, C] and places(model, "clicks") == []
        desk.user("crash")
        with Session(image, model) as session:
            live(ToyAction(), image, session, wakeups=Script(KEY), report=lambda line: None)
            assert in_memory(desk, "spheres") == [A, B, C]


def _run_and_die(step: str, desk: Desk, image: Path, model: Path) -> None:
    """The loop, killed at a step; never returns."""

    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        session = Session(image, model)
        session.start()
        action = ToyAction(die if step == "action" else lambda run: None)
        swap, reload, save = loop_module.swap, session.reload, session.save
        if step == "second save":
            saves = iter([save, die])
            session.save = lambda: next(saves)()  # type: ignore[assignment,method-assign,misc]
        elif step == "write":
            loop_module.swap = die  # type: ignore[assignment]
        elif step == "written":
            loop_module.swap = lambda *arguments: die(swap(*arguments))  # type: ignore[assignment,return-value]
        elif step == "reload":
            session.reload = lambda: die(session.send(f"7 {model.name} 6 1"))  # type: ignore[method-assign]
        elif step == "reloaded":
            session.reload = lambda: die(reload())  # type: ignore[method-assign,func-returns-value]
        if step == "finish":
            plain = action
            action = lambda request: Answer(plain(request).objects, finish=die)  # type: ignore[assignment] # noqa: E731
        desk.user("click", 1, *B)
        live(action, image, session, wakeups=[KEY], report=lambda line: None)
    finally:
        os._exit(1)


def test_kills_at_random_moments_lose_nothing(desk: Desk, image: Path, model: Path) -> None:
    chance = random.Random(5)
    made = [A]
    with Guard(model, desk) as guard:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                _run_busily(desk, image, model)
            started = time.monotonic()
            while not (desk.folder / "loop").exists():
                assert time.monotonic() - started < 5
                time.sleep(0.002)
            until = time.monotonic() + chance.uniform(0.01, 0.25)
            while time.monotonic() < until:
                point = (len(made) + 20.5, 0.5, 1.0)
                if desk.user("click", 1, *point) == "ok":
                    made.append(point)
                time.sleep(chance.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            (desk.folder / "loop").unlink()
            desk.wait_for("listens", False)
            if desk.state()["question"]:
                desk.user("answer", "yes")
            desk.wait_for("question", "")
            if desk.state()["changed"]:
                desk.user("save")
            desk.user("crash")
            assert places(model) == sorted(made), "each click is there once, as a point or as a sphere"
        watch(ToyAction(), image, model, wakeups=[None], report=lambda line: None)
        assert places(model, "spheres") == sorted(made)
    assert guard.looks > 50


def _run_busily(desk: Desk, image: Path, model: Path) -> None:
    """The loop, over and over, until it is killed; never returns."""

    def wakeups() -> Iterator[str]:
        (desk.folder / "loop").touch()
        while True:
            yield KEY

    try:
        session = Session(image, model, answer_timeout_s=1.0)
        session.start()
        live(ToyAction(lambda run: time.sleep(0.005)), image, session, wakeups=wakeups(), report=lambda line: None)
    finally:
        os._exit(1)
