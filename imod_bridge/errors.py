"""The errors of the bridge. Each message is one line."""

from __future__ import annotations

from collections.abc import Sequence


class BridgeError(Exception):
    """Base of all errors of the bridge that a user can cause and mend."""


class ModelFormatError(BridgeError, ValueError):
    """A file that is not a whole, consistent IMOD model. The message names no file."""


class ProgramNotFoundError(BridgeError):
    """An IMOD program that is not on this computer, or not where IMOD_DIR and PATH lead."""


class ProgramError(BridgeError):
    """An IMOD program that failed.

    Parameters
    ----------
    message : str
    command : sequence of str
        The program and its arguments.
    exit_code : int, optional
        None where the program was stopped because its time was up.
    """

    def __init__(self, message: str, *, command: Sequence[str] = (), exit_code: int | None = None) -> None:
        self.command, self.exit_code = tuple(command), exit_code
        super().__init__(message)


class SessionError(BridgeError):
    """A running 3dmod that refused something, or did not do it."""


class SessionBlockedError(SessionError):
    """A 3dmod that does not answer: it shows a dialog, most likely, and waits for the user."""


class SessionEndedError(SessionError):
    """A 3dmod that is not running any more."""


class ActionError(BridgeError):
    """An action that does not exist, cannot be loaded, or failed."""


class LoopError(BridgeError):
    """The loop between an action and a model file cannot go on."""
