"""One sample for all documents, and a copy of it for each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.documents.sandbox import Sandbox, make_lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the documents speak of; the sample is segmented once."""
    folder = tmp_path_factory.mktemp("lab")
    make_lab(folder)
    (folder / "results").rename(folder / "shared")
    return folder


@pytest.fixture
def sandbox(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sandbox:
    """A folder of one's own with these files."""
    shutil.copytree(lab, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("trained"))
    return Sandbox(tmp_path, lab, capsys)
