"""Sets of files that appear together, arrays on the disk for a while, and what killed processes leave behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepvesicle.errors import NoSpaceError, OutputExistsError, UsageError
from deepvesicle.files import atomic, scratch
from deepvesicle.files.atomic import is_temporary, new_file, remove_leftovers, temporary_beside
from deepvesicle.files.scratch import check_space, scratch_array
from deepvesicle.files.staged import check_outputs, staged_files

ROOT = Path(__file__).resolve().parents[2]


def _paths(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}.txt" for name in ("one", "two", "last")}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_appear_at_the_end(tmp_path: Path) -> None:
    paths = _paths(tmp_path / "new")
    with staged_files(paths) as staged:
        for name in paths:
            with staged.place(name) as place:
                place.write_text(name)
        assert not any(path.exists() for path in paths.values())
        assert all(is_temporary(name) for name in _names(tmp_path / "new"))
    assert {name: path.read_text() for name, path in paths.items()} == {name: name for name in paths}
    assert len(_names(tmp_path / "new")) == 3


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_none_appears_where_one_fails(tmp_path: Path, error: type[BaseException]) -> None:
    paths = _paths(tmp_path / "new")
    with pytest.raises(error), staged_files(paths) as staged:
        with staged.place("one") as place:
            place.write_text("one")
        raise error
    assert _names(tmp_path) == []
    (tmp_path / "last.txt").write_text("old")
    with pytest.raises(error), staged_files(_paths(tmp_path), overwrite=True) as staged:
        with staged.place("last") as place:
            place.write_text("half")
        raise error
    assert _names(tmp_path) == ["last.txt"] and (tmp_path / "last.txt").read_text() == "old"


def test_existing_files_and_folders_that_cannot_be_made_are_told_first(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("old")
    with pytest.raises(OutputExistsError, match="two.txt"), staged_files(_paths(tmp_path)):
        pytest.fail("the work has begun")
    with pytest.raises(UsageError), staged_files(_paths(Path("/proc/nothing"))):
        pytest.fail("the work has begun")
    with staged_files(_paths(tmp_path), overwrite=True) as staged, staged.place("two") as place:
        place.write_text("new")
    assert (tmp_path / "two.txt").read_text() == "new"


def test_a_full_disk_names_the_file_that_was_to_be(tmp_path: Path) -> None:
    with (
        pytest.raises(NoSpaceError, match=r"two\.txt: the disk is full") as caught,
        staged_files(_paths(tmp_path)) as s,
    ):
        with s.place("one") as place:
            place.write_text("one")
        with s.place("two") as place, new_file(place) as inner:
            inner.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.exit_code == 3 and _names(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from deepvesicle.files import staged
folder, at = Path(sys.argv[1]), sys.argv[2]
paths = {name: folder / f"{name}.txt" for name in ("one", "two", "last")}
real, count = os.replace, []
def replace(*a):
    count.append(1)
    if at == f"rename {len(count)}":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*a)
os.replace = replace
with staged.staged_files(paths) as s:
    for name in paths:
        with s.place(name) as place:
            place.write_text("of the killed")
            if at == name:
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("at", ["one", "last", "rename 1", "rename 2", "rename 3"])
def test_a_killed_process_leaves_nothing_that_stops_the_next(tmp_path: Path, at: str) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), at], cwd=ROOT, check=False)
    assert run.returncode == -9
    # Under a final name there are whole files only.
    assert all((tmp_path / name).read_text() == "of the killed" for name in _names(tmp_path) if name[0] != ".")
    with staged_files(_paths(tmp_path)) as staged:
        for name in _paths(tmp_path):
            with staged.place(name) as place:
                place.write_text("new")
    assert _names(tmp_path) == ["last.txt", "one.txt", "two.txt"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"new"}


def test_files_that_the_user_touched_since_are_not_replaced(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "rename 2"], cwd=ROOT, check=False)
    check_outputs(list(_paths(tmp_path).values()))
    later = time.time() + 60
    os.utime(tmp_path / "one.txt", (later, later))
    with pytest.raises(OutputExistsError, match=r"one\.txt"):
        check_outputs(list(_paths(tmp_path).values()))


def test_only_what_dead_processes_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = temporary_beside(tmp_path / "a.b.mrc.gz")
    assert mine.name.endswith(".mrc.gz") and is_temporary(mine.name)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    of_dead = mine.with_name(mine.name.replace(f".p{os.getpid()}_", f".p{dead.stdout.strip()}_"))
    elsewhere = mine.with_name(mine.name.replace(f"_{atomic._place()}", "_01234567"))
    for path in (mine, of_dead, elsewhere, tmp_path / ".hidden", tmp_path / ".0123456789ab.mrc"):
        path.write_text("x")
    remove_leftovers(tmp_path)
    assert not of_dead.exists()
    assert len(_names(tmp_path)) == 4
    os.utime(elsewhere, (0, 0))
    remove_leftovers(tmp_path)
    assert not elsewhere.exists() and mine.exists()
    # The number of a process that is gone may be that of another one.
    monkeypatch.setattr(atomic, "_start_of", lambda process: time.time() + 100)
    of_other = mine.with_name(mine.name.replace(f".p{os.getpid()}_", f".p{os.getppid()}_"))
    of_other.write_text("x")
    remove_leftovers(tmp_path)
    assert not of_other.exists()


# --- scratch arrays ---


def test_a_scratch_array_leaves_nothing(tmp_path: Path) -> None:
    with scratch_array(tmp_path, (5, 60, 70), np.uint8) as array:
        assert array.shape == (5, 60, 70) and not array.any()
        array[2] = 7
        assert array.sum() == 7 * 60 * 70
        assert os.name != "posix" or _names(tmp_path) == []  # not even while it is there
    with pytest.raises(KeyboardInterrupt), scratch_array(tmp_path, (5,), np.uint8):
        raise KeyboardInterrupt
    assert _names(tmp_path) == []


def test_a_disk_without_room_for_it_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, first: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scratch.os, "posix_fallocate", full)
    with pytest.raises(NoSpaceError, match="disk is full"), scratch_array(tmp_path, (50,), np.uint8):
        pytest.fail("there was room")
    assert _names(tmp_path) == []


def test_room_is_looked_at_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(tmp_path / "new", 1000, "the results")
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda folder: SimpleNamespace(free=50_000_000))
    check_space(tmp_path, 10_000_000, "the results")
    with pytest.raises(NoSpaceError, match=r"not enough room .* for the results; expected 1.02 GB; got 50 MB free"):
        check_space(tmp_path, 1_000_000_000, "the results")
