"""The loop: the user draws in 3dmod, an action answers, and its objects go into the user's model file.

At every moment the model file is whole. Nothing the user saved is overwritten: a save that comes while the action
works makes it start again. If the process ends at any point, a later run goes on from the file.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from imod_bridge.actions import Action, Answer, Request, changed_objects
from imod_bridge.binary import write_atomically
from imod_bridge.errors import LoopError, ModelFormatError, SessionBlockedError, SessionEndedError
from imod_bridge.exchange import (
    backup_of,
    contains,
    decode,
    describe,
    holds,
    read,
    read_when_whole,
    swap,
    uninterrupted,
)
from imod_bridge.model import Model
from imod_bridge.programs import Signature, signature
from imod_bridge.session import Session
from imod_bridge.update import replace_objects

#: The wake-up that means "now", whether or not the model file has changed.
KEY = "key"
#: How often an action starts again when the model changes under it.
_MAX_RUNS = 5
#: A model file that is broken for longer than this is not just being written, s.
_HALF_WRITTEN_S = 3.0

AnyPath = str | os.PathLike[str]
Report = Callable[[str], None]


def polling(interval_s: float = 0.5) -> Iterator[None]:
    """Wake-ups at regular times, for ever."""
    while True:
        yield None
        time.sleep(interval_s)


def polling_with_keys(stream: TextIO, interval_s: float = 0.5) -> Iterator[str | None]:
    """Wake-ups at regular times, and at once, as `KEY`, when the user presses Enter in the terminal `stream`."""
    descriptor: int | None = stream.fileno()
    while True:
        if descriptor is None:
            time.sleep(interval_s)
            yield None
        elif not select.select([descriptor], [], [], interval_s)[0]:
            yield None
        elif os.read(descriptor, 4096):
            yield KEY
        else:  # no more input will come
            descriptor = None


def run_once(
    action: Action,
    tomogram: AnyPath,
    model_path: AnyPath,
    *,
    output: AnyPath | None = None,
    overwrite: bool = False,
    previous: Model | None = None,
) -> Answer:
    """Call an action for a model file, and put its objects into the file, or into a new one.

    Parameters
    ----------
    action : callable
        Called again if the model file changes meanwhile.
    tomogram, model_path : path
        The image, and the model drawn on it.
    output : path, optional
        Where the changed model goes, in place of `model_path`. Without it the model is changed in place, and what it
        was is kept with ``~`` after its name. Where nothing changes nothing is written.
    overwrite : bool
        `output` may exist.
    previous : Model, optional
        Handed on to the action.

    Returns
    -------
    Answer
        Its messages are for the caller to show; `finish` has been called.

    Raises
    ------
    ModelFormatError
        The file is no whole model, or, if there is something to put into it, an ASCII one.
    LoopError
        The model never stopped changing, or `output` cannot be used.
    OSError
        A file cannot be read or written.
    Exception
        Whatever the action raises; the model is then as it was.
    """
    path, target = Path(model_path), None if output is None else Path(output)
    if target is not None:
        _check_output(target, path, overwrite)
    return _run(action, Path(tomogram), path, read(path), previous, target)[0]


def watch(action: Action, tomogram: AnyPath, model_path: AnyPath, *, wakeups: Iterable[object], report: Report) -> None:
    """Call an action whenever the model file was changed by somebody else, until `wakeups` end or Ctrl-C.

    3dmod is not told: the user has to open the model again. Half-written files are left alone until they are whole;
    autosaves and backups are other files. Errors are reported and do not end the loop.

    Parameters
    ----------
    action, tomogram, model_path
        As in `run_once`. The model need not exist yet.
    wakeups : iterable
        At each item the file is looked at: `polling`, or the events of a program that watches folders. The item `KEY`
        calls the action also if nothing has changed.
    report : callable
        Gets lines for the user.
    """
    watcher = _Watcher(action, Path(tomogram), Path(model_path), report)
    try:
        for wakeup in wakeups:
            watcher.look(force=wakeup == KEY)
    except KeyboardInterrupt:
        report("stopped")


def live(action: Action, tomogram: AnyPath, session: Session, *, wakeups: Iterable[object], report: Report) -> None:
    """Call an action whenever the user has saved the model in a 3dmod of ours, and have 3dmod show the result.

    Ends with 3dmod, with `wakeups`, or by Ctrl-C. Errors of the action, and dialogs that keep 3dmod from answering, are
    reported and do not end the loop. What the user does in 3dmod while the action works is kept: it starts again.

    Parameters
    ----------
    action, tomogram
        As in `run_once`.
    session : Session
        A started session; it is not ended here.
    wakeups : iterable
        At each item the loop looks whether there is something to do; the item `KEY` means that the user asks for it,
        saved or not.
    report : callable
        Gets lines for the user.
    """
    loop = _Live(action, Path(tomogram), session, report)
    try:
        for wakeup in wakeups:
            if not loop.look(force=wakeup == KEY):
                break
    except KeyboardInterrupt:
        report("stopped")
    finally:
        loop.conclude()


def _run(
    action: Action, tomogram: Path, path: Path, data: bytes, previous: Model | None, output: Path | None = None
) -> tuple[Answer, Model]:
    """As `run_once`, beginning with the file's content `data`; also gives the model as it was left."""
    for _ in range(_MAX_RUNS):
        answer = action(Request(tomogram, path, data, decode(path, data), previous))
        result = _with_objects(path, data, answer)
        with uninterrupted():
            if output is not None:
                settled = contains(path, data)
                if settled and not contains(output, result):
                    write_atomically(output, result, backup=True)
            elif result != data:
                settled = swap(path, data, result)
            else:
                settled = contains(path, data)
            if settled:
                if answer.finish is not None:
                    answer.finish()
                return answer, decode(path, result)
        data = read_when_whole(path)
    raise LoopError(f"{path} keeps changing: gave up after {_MAX_RUNS} tries. Nothing was written; try again later")


def _with_objects(path: Path, data: bytes, answer: Answer) -> bytes:
    try:
        return replace_objects(data, answer.objects) if answer.objects else data
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from error


def _check_output(output: Path, path: Path, overwrite: bool) -> None:
    if output.exists() and path.exists() and output.samefile(path):
        raise LoopError(f"the output {output} is the model itself: leave it out to change the model in place")
    if output.exists() and not overwrite:
        raise LoopError(f"{output} exists already: choose another name")


class _Watcher:
    """What `watch` remembers between two looks at the file."""

    def __init__(self, action: Action, tomogram: Path, path: Path, report: Report) -> None:
        self.action, self.tomogram, self.path, self.report = action, tomogram, path, report
        #: The file as it was when there was nothing more to do for it.
        self.seen: Signature = None
        self.left: Model | None = None
        self.broken: tuple[Signature, float] = (None, 0.0)

    def look(self, force: bool) -> None:
        """Do what there is to do for the file as it is now."""
        now = signature(self.path)
        if now is None or (now == self.seen and not force):
            return
        try:
            data = read(self.path)
            model = decode(self.path, data)
        except (ModelFormatError, FileNotFoundError) as error:
            if not self._may_become_whole(now):
                self.report(describe(error))
                self.seen = now
            return
        self.seen = now  # our own writing shows as a change once more, and then as none
        if not (force or self.left is None or changed_objects(self.left, model)):
            return
        try:
            answer, self.left = _run(self.action, self.tomogram, self.path, data, self.left)
        except Exception as error:  # of the action, mostly: the user goes on, and so does the loop
            self.report(describe(error))
        else:
            for message in answer.messages:
                self.report(message)

    def _may_become_whole(self, now: Signature) -> bool:
        """Whether a broken file may be one that is just being written."""
        if self.broken[0] != now:
            self.broken = (now, time.monotonic())
        return time.monotonic() - self.broken[1] < _HALF_WRITTEN_S


@dataclass(frozen=True)
class _Written:
    """An answer that has been written, but of which it is not known yet whether 3dmod took it up."""

    answer: Answer
    model: Model


class _Live:
    """What `live` remembers between two wake-ups."""

    def __init__(self, action: Action, tomogram: Path, session: Session, report: Report) -> None:
        self.action, self.tomogram, self.session, self.report = action, tomogram, session, report
        self.path = session.model_path
        self.seen = signature(self.path)
        self.left: Model | None = None
        self.written: _Written | None = None
        self.blocked = False
        #: A cycle has begun, and has not come to its end.
        self.busy = False

    def look(self, force: bool) -> bool:
        """Do what there is to do; false when 3dmod has ended."""
        if not self.session.is_alive:
            return self._end()
        force |= self.blocked
        if not force and signature(self.path) in (None, self.seen):
            return True
        try:
            if self.blocked:
                self.session.settle(timeout_s=0)
                self.blocked = False
            self.busy = True
            self._cycle(force)
            self.busy = False
        except SessionBlockedError as error:
            if not self.blocked:
                self.report(str(error))
            self.blocked = True
        except SessionEndedError:
            return self._end()
        except Exception as error:  # of the action, mostly: the user goes on, and so does the loop
            self.report(describe(error))
            self.seen = signature(self.path)
            self.busy = False
        return True

    def conclude(self) -> None:
        """Finish an answer that is on the disk, if 3dmod has not been able to say that it took it up."""
        if self.written is None:
            return
        try:
            self._settle_written(decode(self.path, read(self.path)))
        except Exception as error:
            self.report(describe(error))

    def _cycle(self, force: bool) -> None:
        """From what the user drew to what 3dmod shows."""
        for _ in range(_MAX_RUNS):
            data, model = self._save()
            self._settle_written(model)
            if not (force or self.left is None or changed_objects(self.left, model)):
                return
            answer = self.action(Request(self.tomogram, self.path, data, model, self.left))
            data, now = self._save()
            if changed_objects(model, now):
                continue  # the user went on while the action worked
            result = _with_objects(self.path, data, answer)
            if result == data:
                self.left = now
                self._finish(answer)
                return
            if self._hand_over(data, result, answer):
                return
        raise LoopError("the model keeps changing in 3dmod. Nothing is lost: save again when you pause")

    def _hand_over(self, data: bytes, result: bytes, answer: Answer) -> bool:
        """Write the result and have 3dmod take it up; false if something else happened to the model meanwhile."""
        model = decode(self.path, result)
        with uninterrupted():
            if not swap(self.path, data, result):
                return False
            self.written = _Written(answer, model)
        self.session.reload()
        # If the user changed something in the last moment, 3dmod has asked what to do, and may hold another model than
        # the one on the disk: only what it saves tells.
        _, after = self._save()
        if contains(backup_of(self.path), result):
            write_atomically(backup_of(self.path), data)  # 3dmod's save has put our own result there
        return self._settle_written(after) and not changed_objects(model, after)

    def _settle_written(self, model: Model) -> bool:
        """Finish the answer that was written if a model shows that it arrived, else forget it; true if it arrived."""
        written, self.written = self.written, None
        if written is None or not holds(model, written.answer.objects):
            return False
        self.left = written.model
        self._finish(written.answer)
        return True

    def _finish(self, answer: Answer) -> None:
        with uninterrupted():
            if answer.finish is not None:
                answer.finish()
        for message in answer.messages:
            self.report(message)

    def _save(self) -> tuple[bytes, Model]:
        """Have 3dmod save; the file's content, which is known from here on."""
        data = self.session.save()
        self.seen = signature(self.path)
        if not contains(self.path, data):
            self.seen = None  # the user saved in this instant: look again
        return data, decode(self.path, data)

    def _end(self) -> bool:
        """After 3dmod's end: do what is left to do for what the user saved."""
        self.conclude()
        try:
            if self.busy or signature(self.path) not in (None, self.seen):
                data = read(self.path)
                model = decode(self.path, data)
                if self.left is None or changed_objects(self.left, model):
                    answer, _ = _run(self.action, self.tomogram, self.path, data, self.left)
                    for message in answer.messages:
                        self.report(message)
        except Exception as error:
            self.report(describe(error))
        self.report("3dmod has ended")
        return False
