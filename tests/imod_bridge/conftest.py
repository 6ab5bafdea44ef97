"""Fixtures for the tests that need an IMOD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.imod_bridge.standin_3dmod import Desk


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A computer on which the stand-in is IMOD."""
    desk = Desk()
    for name, value in desk.environment.items():
        monkeypatch.setenv(name, value)
    yield desk
    desk.clear()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file to show; the stand-in does not look into it."""
    path = tmp_path / "tomo.mrc"
    path.write_bytes(b"image")
    return path
