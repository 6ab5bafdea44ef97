"""How much memory there is, how much a run may take, and giving back what is no longer needed.

Pages of files that are mapped into memory count as memory of the process, although the system could take them back at
any time. Those that have been used are therefore dropped (`drop_pages`); they come back from the system's cache.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import UsageError

#: What a run takes at most if nothing is said, and the share of the free memory that it takes where there is less.
USUAL_BYTES, FREE_SHARE = 2_500_000_000, 0.75
#: With less than this nothing can be done: Python, the libraries, and the smallest pieces.
LEAST_BYTES = 500_000_000
#: Reading boxes here and there, pages are dropped whenever about this much has been read.
READ_BYTES = 64_000_000

_UNITS = {"": 1, "B": 1, "K": 1e3, "KB": 1e3, "M": 1e6, "MB": 1e6, "G": 1e9, "GB": 1e9, "T": 1e12, "TB": 1e12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


def parse_memory(text: str) -> int:
    """Bytes of a size such as ``2GB``, ``1.5G``, ``800 MB`` or ``2GiB``.

    Raises
    ------
    UsageError
        It is no size, or less than any run needs.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise UsageError("--memory is not a size", expected="a number and a unit, such as 2GB or 800MB", got=repr(text))
    size = int(float(match[1]) * unit)
    if size < LEAST_BYTES:
        raise UsageError(
            "--memory is too small", expected=f"at least {in_words(LEAST_BYTES)}", got=text.strip() or repr(text)
        )
    return size


def in_words(size: float) -> str:
    """A number of bytes for the user: ``2.5 GB``, ``740 MB``."""
    return f"{size / 1e9:.3g} GB" if size >= 0.9995e9 else f"{size / 1e6:.3g} MB"


def default_budget() -> int:
    """What a run may take if the user does not say: 2.5 GB, or three quarters of what is free if that is less."""
    return int(max(LEAST_BYTES, min(USUAL_BYTES, FREE_SHARE * free_bytes())))


def free_bytes() -> float:
    """Memory that this process could take: of the machine, of its control group, of its SLURM job; the least of them.

    What it has already counts as free.
    """
    return min(_free_of_machine() + used_bytes(), *_limits(), float(_UNLIMITED))


def used_bytes() -> int:
    """Memory of this process that is resident now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


def release() -> None:
    """Give memory back to the system that was freed: what is left to the program's own keeping counts as taken."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            return


def drop_pages(array: Any) -> None:
    """Take the pages of a memory-mapped array (or a part of it) out of the process; nothing for other arrays.

    Nothing is lost: what was changed is in the system's cache and goes to the file. Other threads may go on reading.
    """
    mapped = _map_of(array)
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    try:
        mapped.madvise(mmap.MADV_DONTNEED)
    except (OSError, ValueError):  # closed, or a file system that does not know this
        return


class ReadPages:
    """Drops the pages of memory-mapped arrays now and then while boxes are read from them."""

    def __init__(self, most_bytes: int = READ_BYTES) -> None:
        self._most, self._read, self._lock = float(most_bytes), 0.0, threading.Lock()

    def box(self, array: NDArray[Any], box: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """Read a box (z, y, x) of an array, as a new array."""
        z, y, x = box
        out = np.empty(tuple(s.stop - s.start for s in box), dtype=np.float32)
        step = max(1, int(len(out) * self._most / 4 / max(1.0, _touched(array, out.shape))))
        for first in range(0, len(out), step):
            part = out[first : first + step]
            part[...] = array[z.start + first : z.start + first + len(part), y, x]
            self.note(array, part.shape)
        return out

    def note(self, array: NDArray[Any], shape_zyx: tuple[int, ...]) -> None:
        """Say that a box of this shape was read from an array."""
        if _map_of(array) is None:
            return
        touched = _touched(array, shape_zyx)
        with self._lock:
            self._read += touched
            full = self._read > self._most
            if full:
                self._read = 0.0
        if full:
            drop_pages(array)


def _touched(array: NDArray[Any], shape_zyx: tuple[int, ...]) -> float:
    """About how many bytes of a memory map come into the process when a box of this shape is read."""
    nz, ny, nx = shape_zyx
    row = max(nx * array.itemsize, min(int(array.strides[1]), mmap.PAGESIZE))
    # The system maps some pages about each that is touched.
    return float(nz * max(ny * row, 16 * mmap.PAGESIZE))


def _map_of(array: Any) -> mmap.mmap | None:
    """The memory map that an array is a part of."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    return array


def _free_of_machine() -> float:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError, AttributeError):
        return float(USUAL_BYTES / FREE_SHARE)


def _limits() -> Iterator[float]:
    """What the control groups and SLURM leave to this process."""
    for limit, usage, cache in _control_groups():
        yield max(0.0, limit - usage + cache) + used_bytes()
    granted = os.environ.get("SLURM_MEM_PER_NODE", "")
    if granted.isdigit() and int(granted) > 0:
        yield int(granted) * 2.0**20
    per_core, cores = os.environ.get("SLURM_MEM_PER_CPU", ""), os.environ.get("SLURM_CPUS_ON_NODE", "1")
    if per_core.isdigit() and int(per_core) > 0:
        yield int(per_core) * 2.0**20 * (int(cores) if cores.isdigit() else 1)


def _control_groups() -> Iterator[tuple[float, float, float]]:
    """Limit, usage and what of that is cache that can go, of each control group that this process is in."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = _CGROUPS / "memory"
        else:
            continue
        folder = root / place.lstrip("/")
        for group in [folder, *folder.parents]:
            limit = _number(group / names[0])
            if limit is not None and limit < _UNLIMITED:
                yield limit, _number(group / names[1]) or 0.0, _entry(group / "memory.stat", names[2])
            if group == root:
                break


def _number(path: Path) -> float | None:
    """The number that a file of the system holds; None for "max" or no file."""
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _entry(path: Path, name: str) -> float:
    """A named number in a file of the system."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)
