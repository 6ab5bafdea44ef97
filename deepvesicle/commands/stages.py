"""Progress of work that has several stages, each with its own count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from deepvesicle.commands.console import progress

#: What the stages of `deepvesicle.pipeline` are called for the user.
_NAMES = {"network": "network", "fit": "fitting spheres", "store": "storing", "ellipsoids": "fitting ellipsoids"}


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show the stages one after the other.

    Yields
    ------
    callable
        To be called with (stage, done, in all); a new stage ends the one before.
    """
    with ExitStack() as stack:
        state: dict[str, int] = {}
        advance: list[Callable[[int], None]] = []

        def update(stage: str, done: int, total: int) -> None:
            if stage not in state:
                stack.pop_all().close()
                state.clear()
                state[stage] = 0
                advance[:] = [stack.enter_context(progress(_NAMES.get(stage, stage), total))]
            if done > state[stage]:
                advance[0](done - state[stage])
                state[stage] = done

        yield update
