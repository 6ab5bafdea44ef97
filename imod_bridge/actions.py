"""What is done with the user's points: named actions, which any package can add.

A package announces an action under the entry-point group ``imod_bridge.actions``. `imod_bridge.loop` calls it with the
model as it is on the disk, and puts the objects of its answer into the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imod_bridge.errors import ActionError
from imod_bridge.model import FLAG_OPEN, SCATTERED_OBJECT, Contour, Model, Object

#: The group of entry points that actions are announced in.
GROUP = "imod_bridge.actions"


@dataclass(frozen=True, eq=False)
class Request:
    """What an action is given.

    Parameters
    ----------
    tomogram : Path
        The image that the model was drawn on.
    model_path : Path
        The model file. It may have changed since it was read: use `model`.
    data : bytes
        The model file as it was read.
    model : Model
        Its content.
    previous : Model, optional
        The model as the loop left it the last time; None the first time.
    """

    tomogram: Path
    model_path: Path
    data: bytes
    model: Model
    previous: Model | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What an action wants done.

    Parameters
    ----------
    objects : tuple of Object
        Each takes the place of the object of the same name, or is added; all others stay as they are.
    messages : tuple of str
        Lines for the user.
    finish : callable, optional
        Called once, after the model on the disk holds `objects`: the place to write other files that go with it.
        An answer that is given up, as the user changed the model meanwhile, is never finished.
    """

    objects: tuple[Object, ...] = ()
    messages: tuple[str, ...] = ()
    finish: Callable[[], None] | None = None


#: An action has no effect of its own before `Answer.finish`. Given its own result, it finds nothing left to do.
Action = Callable[[Request], Answer]


def available_actions() -> dict[str, str]:
    """The actions that the installed packages announce: name, and where it comes from. Loads none of them."""
    return {name: " and ".join(_origin(point) for point in points) for name, points in sorted(_entry_points().items())}


def load_action(name: str) -> Action:
    """The action of a name.

    Raises
    ------
    ActionError
        No package, or more than one, announces it, or it cannot be loaded.
    """
    announced = _entry_points()
    points = announced.get(name, [])
    if not points:
        known = ", ".join(sorted(announced)) or "none"
        raise ActionError(f"there is no action {name!r}; installed are: {known}")
    if len(points) > 1:
        raise ActionError(
            f"several packages announce the action {name!r}: {available_actions()[name]}. Remove all but one of them"
        )
    try:
        action = points[0].load()
    except Exception as error:  # whatever a package does when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ActionError(f"the action {name!r} of {_origin(points[0])} cannot be loaded: {reason}") from error
    if not callable(action):
        raise ActionError(f"the action {name!r} of {_origin(points[0])} is no function, but {type(action).__name__}")
    return action  # type: ignore[no-any-return]


def changed_objects(previous: Model | None, model: Model) -> tuple[str, ...]:
    """The names of the objects in which two models differ, as far as a user can change points and spheres.

    Points, sizes, default sizes, surfaces, and whether contours are closed, open or scattered count; colours and the
    like do not. Objects of the same name are compared in their order. Objects that only one model has are changed,
    unless they are empty.
    """
    old, new = _numbered(previous), _numbered(model)
    keys = [*new, *(key for key in old if key not in new)]
    changed = [key[0] for key in keys if not _is_same(old.get(key), new.get(key))]
    return tuple(dict.fromkeys(changed))


def _entry_points() -> dict[str, list[EntryPoint]]:
    """All announcements by name; a package that is found twice on the path counts once."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        points = found.setdefault(point.name, [])
        if not any(_origin(point) == _origin(other) for other in points):
            points.append(point)
    return found


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else "an unknown package"
    return f"{package} ({point.value})"


def _numbered(model: Model | None) -> dict[tuple[str, int], Object]:
    """The objects of a model by name and number among those of that name."""
    numbered: dict[tuple[str, int], Object] = {}
    counts: dict[str, int] = {}
    for item in model.objects if model is not None else ():
        counts[item.name] = counts.get(item.name, 0) + 1
        numbered[item.name, counts[item.name]] = item
    return numbered


def _is_same(old: Object | None, new: Object | None) -> bool:
    if old is None or new is None:
        return not any(item.contours for item in (old, new) if item is not None)
    kind = SCATTERED_OBJECT
    return (
        (old.flags & kind, old.pdrawsize) == (new.flags & kind, new.pdrawsize)
        and len(old.contours) == len(new.contours)
        and all(map(_is_same_contour, old.contours, new.contours))
    )


def _is_same_contour(old: Contour, new: Contour) -> bool:
    return (
        (old.surface, old.flags & FLAG_OPEN) == (new.surface, new.flags & FLAG_OPEN)
        and _equal(old.points, new.points)
        and _equal(old.sizes, new.sizes)
    )


def _equal(old: NDArray[np.float64] | None, new: NDArray[np.float64] | None) -> bool:
    """Whether two arrays hold the same float32 numbers."""
    if old is None or new is None:
        return old is new
    return np.array_equal(old.astype(np.float32), new.astype(np.float32), equal_nan=True)
