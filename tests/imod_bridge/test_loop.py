"""The loop over a model file: once, and whenever it changes; nothing that the user saved is ever lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imod_bridge import exchange
from imod_bridge.actions import Answer
from imod_bridge.binary import write_atomically
from imod_bridge.errors import ActionError, LoopError, ModelFormatError
from imod_bridge.loop import KEY, polling, polling_with_keys, run_once, watch
from imod_bridge.model import Model, encode_model, write_model
from tests.imod_bridge.toy_action import Guard, ToyAction, clicks, places

A, B, C = (1.5, 2.5, 3.0), (4.5, 5.5, 6.0), (7.5, 8.5, 9.25)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.mod"
    write_model(path, clicks(A, B))
    return path


@pytest.fixture
def tomogram(tmp_path: Path) -> Path:
    return tmp_path / "tomo.mrc"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- once


def test_in_place_the_model_changes_and_its_backup_is_what_it_was(model: Path, tomogram: Path) -> None:
    before = model.read_bytes()
    action = ToyAction()
    answer = run_once(action, tomogram, model)
    assert answer.messages == ("2 fitted",) and action.finished == [1] and action.previous == [None]
    assert places(model, "spheres") == [A, B] and places(model, "clicks") == []
    assert model.with_name("m.mod~").read_bytes() == before
    assert files(model.parent) == ["m.mod", "m.mod~"]


def test_a_second_run_writes_nothing(model: Path, tomogram: Path) -> None:
    run_once(ToyAction(), tomogram, model)
    state, data = model.stat(), model.read_bytes()
    backup = model.with_name("m.mod~").read_bytes()
    answer = run_once(ToyAction(), tomogram, model)
    assert answer.messages == ("nothing to do",)
    assert model.stat().st_mtime_ns == state.st_mtime_ns and model.read_bytes() == data
    assert model.with_name("m.mod~").read_bytes() == backup
    # The same objects once more are no change either.
    same = Answer(exchange.decode(model, data).objects)
    run_once(lambda request: same, tomogram, model)
    assert model.stat().st_ino == state.st_ino


def test_an_output_leaves_the_model_alone(model: Path, tomogram: Path, tmp_path: Path) -> None:
    before, output = model.read_bytes(), tmp_path / "new.mod"
    run_once(ToyAction(), tomogram, model, output=output)
    assert model.read_bytes() == before and places(output, "spheres") == [A, B]
    assert files(tmp_path) == ["m.mod", "new.mod"]
    with pytest.raises(LoopError, match=r"new.mod exists already"):
        run_once(ToyAction(), tomogram, model, output=output)
    action = ToyAction()
    with pytest.raises(LoopError, match="is the model itself"):
        run_once(action, tomogram, model, output=tmp_path / "." / "m.mod", overwrite=True)
    assert action.runs == 0
    state = output.stat()
    run_once(ToyAction(), tomogram, model, output=output, overwrite=True)
    assert output.stat().st_ino == state.st_ino, "the same content is not written again"
    write_model(model, clicks(C))
    run_once(ToyAction(), tomogram, model, output=output, overwrite=True)
    assert places(output, "spheres") == [C]


def test_a_save_while_the_action_works_makes_it_start_again(model: Path, tomogram: Path) -> None:
    def meanwhile(run: int) -> None:
        if run == 1:
            write_model(model, clicks(A, B, C))

    action = ToyAction(meanwhile)
    run_once(action, tomogram, model)
    assert (action.runs, action.finished) == (2, [2])
    assert places(model, "spheres") == [A, B, C]


def test_a_model_that_never_stops_changing_is_given_up_with_nothing_lost(model: Path, tomogram: Path) -> None:
    action = ToyAction(lambda run: write_model(model, clicks(A, (run, 0, 0))))
    with pytest.raises(LoopError, match=r"m.mod keeps changing: gave up after 5 tries"):
        run_once(action, tomogram, model)
    assert action.runs == 5 and action.finished == []
    assert places(model) == [A, (5, 0, 0)] and not model.with_name("m.mod~").exists()


def test_a_save_in_the_very_last_moment_is_put_back(
    model: Path, tomogram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look at the file and its replacement; found in the backup."""
    count = 0

    def write(path: Path, data: bytes, *, backup: bool = False) -> None:
        nonlocal count
        count += 1
        if count == 1:
            model.write_bytes(encode_model(clicks(A, B, C)))
        write_atomically(path, data, backup=backup)

    monkeypatch.setattr(exchange, "write_atomically", write)
    action = ToyAction()
    run_once(action, tomogram, model)
    assert (action.runs, action.finished) == (2, [2])
    assert places(model, "spheres") == [A, B, C]


def test_a_save_that_is_under_way_in_the_last_moment_is_waited_for(
    model: Path, tomogram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = encode_model(clicks(A, B, C))
    threads = []

    def go_on(file) -> None:
        time.sleep(0.05)
        with file:
            file.write(saved[300:])

    def write(path: Path, data: bytes, *, backup: bool = False) -> None:
        if not threads:
            file = model.open("wb", buffering=0)
            file.write(saved[:300])
            threads.append(threading.Thread(target=go_on, args=(file,)))
            threads[0].start()
        write_atomically(path, data, backup=backup)

    monkeypatch.setattr(exchange, "write_atomically", write)
    run_once(ToyAction(), tomogram, model)
    threads[0].join()
    assert places(model, "spheres") == [A, B, C]


def test_a_failing_action_changes_nothing(model: Path, tomogram: Path) -> None:
    before = model.read_bytes()

    def fail(request) -> Answer:
        raise ActionError("no")

    with pytest.raises(ActionError):
        run_once(fail, tomogram, model)
    assert model.read_bytes() == before and files(model.parent) == ["m.mod"]


@pytest.mark.parametrize("data", [b"", b"IMODV1.2", b"\x89PNG", encode_model(clicks(A))[:-4]])
def test_a_damaged_model_is_refused_by_name(tmp_path: Path, tomogram: Path, data: bytes) -> None:
    path = tmp_path / "bad.mod"
    path.write_bytes(data)
    action = ToyAction()
    with pytest.raises(ModelFormatError, match="bad.mod is not a whole IMOD model: "):
        run_once(action, tomogram, path)
    assert action.runs == 0 and path.read_bytes() == data


def test_ctrl_c_waits_until_the_files_agree(model: Path, tomogram: Path) -> None:
    done = []

    def finish() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append(places(model))

    with pytest.raises(KeyboardInterrupt):
        run_once(lambda request: Answer(clicks(C).objects, finish=finish), tomogram, model)
    assert done == [[C]]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_twice_does_not_wait(model: Path, tomogram: Path) -> None:
    done = []

    def finish() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        run_once(lambda request: Answer(finish=finish), tomogram, model)
    assert done == []


# --- whenever it changes


class Script:
    """Wake-ups that play a user: before each of them a step is done; a step may return the wake-up."""

    def __init__(self, *steps) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[object]:
        for step in self.steps:
            yield step() if step is not None else None


def test_a_watched_model_is_done_at_once_and_after_each_change(model: Path, tomogram: Path) -> None:
    action, said, states = ToyAction(), [], []

    def note() -> None:
        states.append((action.runs, places(model, "spheres")))

    def click() -> None:
        data = model.read_bytes()
        assert places(data, "clicks") == []
        write_model(model, Model((*clicks(C).objects, *exchange.decode(model, data).objects[1:])))

    watch(action, tomogram, model, wakeups=Script(None, note, note, click, note, note), report=said.append)
    assert states == [(1, [A, B]), (1, [A, B]), (2, [A, B, C]), (2, [A, B, C])]
    assert said == ["2 fitted", "1 fitted"] and action.finished == [1, 2]
    assert action.previous[0] is None and action.previous[1] is not None
    assert places(action.previous[1], "spheres") == [A, B]


def test_what_is_no_change_of_the_model_does_not_call_the_action(model: Path, tomogram: Path) -> None:
    action = ToyAction()

    def save_again() -> None:
        data = bytearray(model.read_bytes())
        data[200:204] = b"\0\0\0\7"  # the current contour
        model.write_bytes(bytes(data))

    def others() -> None:
        model.with_name("m.mod#autosave#").write_bytes(b"IMODV1.2 half of it")
        model.with_name("m.mod~").write_bytes(b"older")

    watch(action, tomogram, model, wakeups=Script(None, None, save_again, others, None), report=lambda line: None)
    assert action.runs == 1
    watch(action, tomogram, model, wakeups=Script(None, lambda: KEY, lambda: KEY), report=lambda line: None)
    assert action.runs == 4


def test_a_half_written_model_is_waited_for(model: Path, tomogram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    action, said = ToyAction(), []
    data = encode_model(clicks(A, B, C))

    def begin() -> None:
        model.write_bytes(data[: len(data) // 2])

    def end() -> None:
        model.write_bytes(data)

    steps = (model.unlink, None, begin, None, None, end, None)
    watch(action, tomogram, model, wakeups=Script(*steps), report=said.append)
    assert said == ["3 fitted"] and places(model, "spheres") == [A, B, C]

    monkeypatch.setattr("imod_bridge.loop._HALF_WRITTEN_S", 0.02)
    said.clear()
    watch(
        action,
        tomogram,
        model,
        wakeups=Script(begin, None, lambda: time.sleep(0.03), None, None),
        report=said.append,
    )
    (line,) = said
    assert "m.mod is not a whole IMOD model" in line, "told once"


def test_a_model_that_does_not_exist_yet_is_waited_for(tmp_path: Path, tomogram: Path) -> None:
    path = tmp_path / "later.mod"
    action, said = ToyAction(), []
    steps = (None, None, lambda: write_model(path, clicks(A)), None)
    watch(action, tomogram, path, wakeups=Script(*steps), report=said.append)
    assert said == ["1 fitted"] and places(path, "spheres") == [A]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ActionError("the tomogram\nis gone"), "the tomogram is gone"),
        (KeyError("radius"), "KeyError: 'radius'"),
        (FileNotFoundError(2, "No such file", "t.mrc"), "t.mrc: No such file"),
        (ModelFormatError("its label"), "its label"),
        (AssertionError(), "AssertionError: "),
    ],
)
def test_a_failing_action_is_told_once_and_the_loop_goes_on(
    model: Path, tomogram: Path, error: Exception, line: str
) -> None:
    said: list[str] = []

    def meanwhile(run: int) -> None:
        if run == 1:
            raise error

    action = ToyAction(meanwhile)
    steps = (None, None, lambda: write_model(model, clicks(A, B, C)), None)
    watch(action, tomogram, model, wakeups=Script(*steps), report=said.append)
    assert said == [line, "3 fitted"]


def test_ctrl_c_ends_watching(model: Path, tomogram: Path) -> None:
    said: list[str] = []

    def stop() -> None:
        raise KeyboardInterrupt

    watch(ToyAction(), tomogram, model, wakeups=Script(None, stop, None), report=said.append)
    assert said == ["2 fitted", "stopped"]


def test_a_user_who_saves_all_the_time_loses_nothing(model: Path, tomogram: Path) -> None:
    """Another program writes the model, in pieces, while it is watched; each click ends up as a sphere, once."""
    made = [A, B]
    stop = threading.Event()
    writing = threading.Lock()

    def user() -> None:
        for number in range(12):
            with writing:  # as 3dmod would: read what is there, add a click, write in pieces
                objects = exchange.decode(model, model.read_bytes()).objects
                bare = [*places(Model(objects), "clicks"), (number + 20.0, 0.0, 0.0)]
                made.append(bare[-1])
                data = encode_model(Model((*clicks(*bare).objects, *objects[1:])))
                os.replace(model, model.with_name("m.mod~"))
                with model.open("wb", buffering=0) as file:
                    for start in range(0, len(data), 200):
                        file.write(data[start : start + 200])
                        time.sleep(0.001)
            time.sleep(0.02)
        stop.set()

    def wakeups() -> Iterator[None]:
        while not stop.is_set():
            yield None
            time.sleep(0.001)
        yield None
        yield None

    # The user's program does not know of ours: it must not read before and write after we have written.
    def meanwhile(run: int) -> None:
        time.sleep(0.004)

    original = exchange.swap

    def locked(*arguments) -> bool:
        with writing:
            return original(*arguments)

    thread = threading.Thread(target=user)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imod_bridge.loop.swap", locked)
        thread.start()
        watch(ToyAction(meanwhile), tomogram, model, wakeups=wakeups(), report=said.append)
    thread.join()
    assert places(model, "spheres") == sorted(made) and places(model, "clicks") == []
    assert all("fitted" in line or "keeps changing" in line for line in said), said


# --- killed at any moment


@pytest.mark.parametrize("step", ["action", "fsync", "chmod", "link", "replace", "replaced", "finish"])
def test_a_kill_at_any_step_leaves_a_whole_model_and_a_later_run_goes_on(
    model: Path, tomogram: Path, step: str
) -> None:
    child = os.fork()
    if child == 0:
        _die_at(step, model, tomogram)
    with Guard(model):
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert places(model) == [A, B]
        run_once(ToyAction(), tomogram, model)
        assert places(model, "spheres") == [A, B] and places(model, "clicks") == []


def _die_at(step: str, model: Path, tomogram: Path) -> None:
    """Run the loop once and be killed at a step; never returns."""

    def die(*arguments: object, **others: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        action = ToyAction(die if step == "action" else lambda run: None)  # type: ignore[arg-type]
        if step in ("fsync", "chmod", "link", "replace"):
            setattr(os, step, die)
        if step == "replaced":
            replace = os.replace
            os.replace = lambda *names: (replace(*names), die() if Path(names[1]) == model else None)  # type: ignore
        if step == "finish":
            plain = action.__call__
            run_once(lambda request: Answer(plain(request).objects, finish=die), tomogram, model)
        run_once(action, tomogram, model)
    finally:
        os._exit(1)


# --- wake-ups


def test_polling_waits_in_between() -> None:
    wakeups = polling(0.02)
    started = time.monotonic()
    assert [next(wakeups) for _ in range(3)] == [None, None, None]
    assert 0.035 < time.monotonic() - started < 0.5


def test_enter_wakes_up_at_once_and_a_closed_terminal_does_no_harm() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader) as stream:
        wakeups = polling_with_keys(stream, 0.02)
        assert next(wakeups) is None
        os.write(writer, b"\n\n")
        assert [next(wakeups), next(wakeups)] == [KEY, None]
        os.close(writer)
        started = time.monotonic()
        assert [next(wakeups) for _ in range(3)] == [None] * 3
        assert time.monotonic() - started > 0.035, "no busy waiting"
