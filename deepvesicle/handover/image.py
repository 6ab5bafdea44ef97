"""The tomogram of a work folder: a link where Pyto can read the file as it is, else a copy that it can."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.atomic import new_file
from deepvesicle.files.mrc_header import HEADER_BYTES
from deepvesicle.files.tomogram import header_bytes, slabs, statistics
from deepvesicle.grid import Tomogram
from deepvesicle.handover.crop import Box, grid_of_box, whole

#: Types of voxels, by kind and bytes, that Pyto reads as they are: its bytes have no sign, and half floats it has not.
_READ_BY_PYTO = ("u1", "i2", "u2", "f4")


def reasons_to_write(tomogram: Tomogram, box: Box, *, other_voxel_size: bool) -> list[str]:
    """Why Pyto cannot read the very file, a few words each; none if it can.

    Parameters
    ----------
    tomogram : Tomogram
        Read from a file.
    box : Box
        What is wanted of it.
    other_voxel_size : bool
        The user has given a voxel size that is not in the header.
    """
    reasons = []
    if box != whole(tomogram.grid):
        reasons.append("cut round the active zone")
    if tomogram.invert:
        reasons.append("contrast turned, so that dense is dark")
    if not isinstance(tomogram.data, np.memmap):
        reasons.append("unpacked")
    dtype = tomogram.data.dtype
    if f"{dtype.kind}{dtype.itemsize}" not in _READ_BY_PYTO:
        reasons.append("voxels of a type that Pyto knows")
    if other_voxel_size:
        reasons.append("the voxel size that was given")
    return reasons


def link(path: Path, target: Path, *, seen_from: Path | None = None) -> None:
    """Make a relative link; an absolute one where there is no relative way.

    Parameters
    ----------
    path, target : Path
    seen_from : Path, optional
        Folder that the link will be moved to; its own if not given.

    Raises
    ------
    OSError
        The file system has no links.
    """
    target = target.resolve()
    try:
        name = os.path.relpath(target, seen_from or path.parent.resolve())
    except ValueError:  # another drive
        name = str(target)
    path.symlink_to(name)


def copy(path: Path, source: Path) -> None:
    """Copy the file as it is."""
    with new_file(path) as temporary:
        shutil.copyfile(source, temporary)


def write(path: Path, tomogram: Tomogram, box: Box) -> None:
    """Write a part of a tomogram slab by slab, dense = low, in a type that Pyto reads; the origin goes with it.

    Parameters
    ----------
    path : path
        Not compressed.
    tomogram : Tomogram
    box : Box
    """
    grid = grid_of_box(tomogram.grid, box)
    stored = _stored(tomogram.data.dtype)
    values = _Statistics()
    with new_file(path) as temporary, open(temporary, "wb") as file:
        file.seek(HEADER_BYTES)
        for slab in _converted(tomogram, box, stored):
            values.add(slab)
            file.write(np.ascontiguousarray(slab).data.cast("B"))
        file.seek(0)
        file.write(header_bytes(grid, stored, values.all()))


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type to write."""
    if dtype.kind == "f":
        return np.dtype("<f4")
    return np.dtype("<u2" if dtype.newbyteorder("=") == np.uint16 else "<i2")


def _converted(tomogram: Tomogram, box: Box, stored: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Slabs of the box as they are stored."""
    for _, slab in slabs(tomogram.data[box]):
        if not tomogram.invert:
            yield slab.astype(stored)
        elif stored.kind == "f":
            yield -slab.astype(stored)
        elif stored.kind == "u":
            yield np.iinfo(stored).max - slab.astype(stored)
        else:  # -32768 has no counterpart
            yield np.negative(np.maximum(slab.astype(stored), -np.iinfo(stored).max))


class _Statistics:
    """Minimum, maximum, mean and standard deviation, put together from slabs."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, slab: NDArray[Any]) -> None:
        """Take a slab into account (Chan et al. 1983, Am. Stat. 37, 242: means and squares of parts)."""
        low, high, mean, sd = statistics(slab)
        self._low, self._high = min(self._low, low), max(self._high, high)
        total = self._count + slab.size
        shift = mean - self._mean
        self._squares += sd**2 * slab.size + shift**2 * self._count * slab.size / total
        self._mean += shift * slab.size / total
        self._count = total

    def all(self) -> tuple[float, float, float, float]:
        """Of all that was added."""
        return self._low, self._high, self._mean, float((self._squares / max(self._count, 1)) ** 0.5)
