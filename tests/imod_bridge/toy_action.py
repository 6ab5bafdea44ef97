"""A toy action for the tests of the loop, and a guard that watches the user's model file meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from imod_bridge.actions import Answer, Request
from imod_bridge.binary import walk
from imod_bridge.errors import ModelFormatError
from imod_bridge.model import SCATTERED_OBJECT, Contour, Model, Object, decode_model
from tests.imod_bridge.standin_3dmod import Desk

RADIUS = 5.0


class ToyAction:
    """Each bare point of the object ``clicks`` becomes a sphere of the object ``spheres`` at the same place.

    Parameters
    ----------
    meanwhile : callable, optional
        Called with the number of the run while the action works.
    """

    def __init__(self, meanwhile: Callable[[int], None] = lambda run: None) -> None:
        self.meanwhile = meanwhile
        self.runs = 0
        self.finished: list[int] = []
        self.previous: list[Model | None] = []

    def __call__(self, request: Request) -> Answer:
        self.runs += 1
        run = self.runs
        self.previous.append(request.previous)
        self.meanwhile(run)
        clicks = request.model.objects[0]
        new = [point for contour in clicks.contours for point in contour.points]
        if not new:
            return Answer(messages=("nothing to do",))
        old = next((item for item in request.model.objects if item.name == "spheres"), None)
        kept = old.contours if old is not None else ()
        spheres = [
            Contour(point[None], np.array([RADIUS]), surface=len(kept) + number)
            for number, point in enumerate(new, start=1)
        ]
        return Answer(
            (
                replace(clicks, contours=()),
                Object("spheres", (*kept, *spheres), flags=SCATTERED_OBJECT),
            ),
            (f"{len(new)} fitted",),
            lambda: self.finished.append(run),
        )


def clicks(*points: tuple[float, float, float]) -> Model:
    """A model with an object ``clicks``."""
    contours = tuple(Contour(np.array([point], dtype=float)) for point in points)
    return Model((Object("clicks", contours, flags=SCATTERED_OBJECT, point_limit=1),))


def places(source: Path | bytes | Model, name: str | None = None) -> list[tuple[float, ...]]:
    """All points of a model, or of its objects of one name, in order."""
    if isinstance(source, Path):
        source = source.read_bytes()
    model = decode_model(source) if isinstance(source, bytes) else source
    return sorted(
        tuple(point)
        for item in model.objects
        if name in (None, item.name)
        for contour in item.contours
        for point in contour.points.tolist()
    )


class Guard:
    """Reads the model file over and over, and notes each time that it was not whole without 3dmod writing it."""

    def __init__(self, path: Path, desk: Desk | None = None) -> None:
        self.path, self.desk = path, desk
        self.faults: list[str] = []
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Guard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self.faults, self.faults[:3]
        assert self.looks > 0

    def _run(self) -> None:
        while not self._stop.is_set():
            before = self.desk.writing() if self.desk else 0
            fault = ""
            try:
                walk(self.path.read_bytes())
            except (ModelFormatError, FileNotFoundError) as error:
                fault = str(error)
            # An even number that has not changed: 3dmod was not writing while we looked.
            if fault and before % 2 == 0 and (self.desk is None or self.desk.writing() == before):
                self.faults.append(fault)
            self.looks += 1
            time.sleep(0.0005)
