"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_interrupts() -> None:
    """A shell that starts the tests in the background lets them ignore SIGINT; some tests send it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_models_of_ones_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Names of models mean the shipped ones, whatever is in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPVESICLE_MODELS", str(tmp_path_factory.mktemp("no_models")))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded random generator."""
    return np.random.default_rng(20241)


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Find a file of the real and independent data beside the checkout, or skip the test."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"the independent test data are not here: {path}")
        return path

    return find
