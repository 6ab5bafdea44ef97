"""Loaded by dask's workers on this machine as they start."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(_: Any) -> None:
    """Leave Ctrl-C, which a terminal sends to the workers too, to the process that gives them their work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
