"""Files that appear all together or not at all, and a folder whose other files are never touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepvesicle.errors import OutputExistsError, UsageError
from deepvesicle.handover import staging as module
from deepvesicle.handover.staging import staging

FILES = ("3d/a.txt", "b.txt", "common/c.txt")


def content(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def make(new: Path, text: str = "new", names: tuple[str, ...] = FILES) -> None:
    for name in names:
        (new / name).parent.mkdir(exist_ok=True)
        (new / name).write_text(text)


def test_a_new_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    root = tmp_path / "work"
    with staging(root, FILES, ("x", "y"), overwrite=False) as new:
        make(new)
        assert not root.exists() and new.parent == tmp_path
    assert content(root) == dict.fromkeys(FILES, "new")
    assert (root / "x").is_dir() and (root / "y").is_dir()
    assert list(tmp_path.iterdir()) == [root]


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staging(tmp_path / "work", FILES, (), overwrite=False) as new:
        make(new)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of an earlier time, in which the user has worked."""
    root = tmp_path / "work"
    for name, text in {**dict.fromkeys(FILES, "old"), "connectors/mine.py": "mine", "notes.txt": "mine"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_own_files_are_replaced_and_nothing_else(root: Path) -> None:
    with staging(root, FILES, ("x",), overwrite=True) as new:
        make(new)
        assert content(root)["b.txt"] == "old"
    assert content(root) == {**dict.fromkeys(FILES, "new"), "connectors/mine.py": "mine", "notes.txt": "mine"}
    assert (root / "x").is_dir() and not [p for p in root.iterdir() if p.name.startswith(".")]


def test_without_overwrite_nothing_happens(root: Path) -> None:
    before = content(root)
    with (
        pytest.raises(OutputExistsError, match=r"3d/a\.txt, b\.txt.*nothing else"),
        staging(root, FILES, (), overwrite=False),
    ):
        raise AssertionError
    assert content(root) == before


def test_a_folder_without_our_files_may_be_added_to(root: Path) -> None:
    for name in FILES:
        (root / name).unlink()
    with staging(root, FILES, (), overwrite=False) as new:
        make(new)
    assert content(root) == {**dict.fromkeys(FILES, "new"), "connectors/mine.py": "mine", "notes.txt": "mine"}


def test_what_is_not_made_stays(root: Path) -> None:
    with staging(root, FILES, (), overwrite=True) as new:
        make(new, names=FILES[1:])
    assert content(root)["3d/a.txt"] == "old" and content(root)["b.txt"] == "new"


@pytest.mark.parametrize("fails_at", range(1, 5))
def test_all_goes_back_if_one_file_cannot_be_replaced(
    root: Path, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "b.txt").unlink()  # one that is new
    (root / "common" / "c.txt").unlink()
    (root / "common").rmdir()
    before = content(root)
    calls = 0
    replace = os.replace

    def failing(a: Path, b: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError("the disk is full")
        replace(a, b)

    monkeypatch.setattr(module.os, "replace", failing)  # one call for each new file, two for one that is there
    with pytest.raises(OSError, match="full"), staging(root, FILES, (), overwrite=True) as new:
        make(new)
    assert content(root) == before
    assert not (root / "common").exists() and not [p for p in root.iterdir() if p.name.startswith(".")]


def test_a_link_is_replaced_not_what_it_leads_to(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "tomogram"
    precious.write_text("precious")
    (root / "b.txt").unlink()
    (root / "b.txt").symlink_to(precious)
    with staging(root, FILES, (), overwrite=True) as new:
        make(new)
    assert precious.read_text() == "precious" and not (root / "b.txt").is_symlink()


def test_impossible_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root, message in ((tmp_path / "file", "is a file"), (tmp_path / "no" / "work", "does not exist")):
        with pytest.raises(UsageError, match=message), staging(root, FILES, (), overwrite=True):
            raise AssertionError
