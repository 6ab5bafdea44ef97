"""Sizes that a user names, what is free, and mapped pages that leave the process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepvesicle import memory
from deepvesicle.errors import UsageError
from deepvesicle.memory import ReadPages, default_budget, drop_pages, free_bytes, in_words, parse_memory, used_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2e9), ("1.5 g", 1.5e9), ("800mb", 8e8), ("2GiB", 2 * 2**30), ("600000000", 6e8), (" 1T ", 1e12)],
)
def test_sizes(text: str, size: float) -> None:
    assert parse_memory(text) == int(size)


@pytest.mark.parametrize("text", ["", "much", "2 XB", "-2GB", "2GB extra", "1e9", "nan", "0", "100MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_memory(text)


def test_words() -> None:
    assert [in_words(n) for n in (2.5e9, 1e9, 740e6)] == ["2.5 GB", "1 GB", "740 MB"]


def test_the_least_of_all_limits_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "used_bytes", lambda: 0)
    monkeypatch.setattr(memory, "_free_of_machine", lambda: 64e9)
    monkeypatch.setattr(memory, "_control_groups", lambda: iter(()))
    assert default_budget() == 2_500_000_000
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2000")  # MiB
    assert free_bytes() == 2000 * 2**20
    assert default_budget() == int(0.75 * 2000 * 2**20)
    monkeypatch.setattr(memory, "_control_groups", lambda: iter([(1.2e9, 0.5e9, 0.1e9)]))
    assert free_bytes() == pytest.approx(0.8e9)
    monkeypatch.setattr(memory, "_control_groups", lambda: iter([(0.2e9, 0.2e9, 0.0)]))
    assert default_budget() == memory.LEAST_BYTES  # no less would do


def test_control_groups_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = tmp_path / "user" / "job"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("3000000000\n")
    (group.parent / "memory.current").write_text("1000000000\n")
    (group.parent / "memory.stat").write_text("anon 5\ninactive_file 400000000\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/user/job\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, **k: real(own if str(self) == "/proc/self/cgroup" else self, **k)
    )
    assert list(memory._control_groups()) == [(3e9, 1e9, 4e8)]


def _mapped(path: Path, megabytes: int) -> np.memmap:
    array = np.memmap(path, dtype=np.int16, mode="w+", shape=(megabytes, 512, 1024))
    array[:] = 3
    array.flush()
    return np.memmap(path, dtype=np.int16, mode="r", shape=array.shape)


@pytest.mark.skipif(used_bytes() == 0, reason="the system does not tell the resident memory")
def test_mapped_pages_leave_the_process_and_come_back(tmp_path: Path) -> None:
    array = _mapped(tmp_path / "a", 100)
    before = used_bytes()
    assert array.sum(dtype=np.int64) == 3 * array.size
    assert used_bytes() > before + 80e6
    drop_pages(array[3:5].view(np.ndarray))
    assert used_bytes() < before + 20e6
    assert array[70, 5, 7] == 3
    drop_pages(np.zeros(5))  # nothing to do


@pytest.mark.skipif(used_bytes() == 0, reason="the system does not tell the resident memory")
def test_boxes_read_all_over_a_file_do_not_pile_up(tmp_path: Path) -> None:
    array = _mapped(tmp_path / "a", 120)
    pages = ReadPages(most_bytes=10_000_000)
    before, most = used_bytes(), 0
    for z in range(0, 120, 10):
        for y in range(0, 512, 64):
            box = (slice(z, z + 10), slice(y, y + 64), slice(100, 150))
            values = pages.box(array, box)
            assert values.dtype == np.float32 and values.shape == (10, 64, 50) and (values == 3).all()
            most = max(most, used_bytes())
    assert most < before + 40e6
