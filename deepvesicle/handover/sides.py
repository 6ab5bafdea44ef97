"""What lies on the two sides of a membrane, and how far the cytosol is from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepvesicle.grid import Points, as_points
from deepvesicle.handover.surfaces import Census, Role

Integers = NDArray[np.int64]

_BACKGROUND, _CYTOSOL, _VESICLE = int(Role.BACKGROUND), int(Role.CYTOSOL), int(Role.VESICLE)


@dataclass(frozen=True, eq=False)
class Sides:
    """Columns through a membrane: runs of its voxels along the axis on which it is thinnest there.

    Parameters
    ----------
    middles : float array (N, 3)
        z, y, x of each column.
    gaps : int array (N, 2)
        Voxels of background between its two ends and cytosol or a vesicle; -1 where there is none within reach.
    """

    middles: Points
    gaps: Integers

    @property
    def nearest(self) -> Integers:
        """Voxels of background on the nearer side (N,); -1 where neither has cytosol."""
        far = np.iinfo(np.int64).max
        best = np.where(self.gaps < 0, far, self.gaps).min(axis=1, initial=far)
        return np.where(best == far, -1, best)


def sides_of(data: NDArray[Any], census: Census, roles: NDArray[np.uint8], label: int, reach: int) -> Sides:
    """Look from a membrane to both sides.

    Parameters
    ----------
    data : uint8 or uint16 array (z, y, x)
        May be a memory map.
    census : Census
    roles : uint8 array (LABELS,)
        `Role` of each label.
    label : int
        The membrane's, which is there.
    reach : int
        So many voxels of background are looked through.
    """
    ends = [[part.start, part.stop] for part in census.box(label)]
    found = _columns(np.asarray(data), np.asarray(roles, dtype=np.uint8), label, np.array(ends, dtype=np.int64), reach)
    rows = np.array(found, dtype=np.int64).reshape(-1, 5)
    return Sides(as_points(rows[:, :3].astype(np.float64)), rows[:, 3:])


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _columns(data: Any, roles: Any, label: int, ends: Any, reach: int) -> Any:
    """Rows of z, y, x and the two gaps."""
    found = [(0, 0, 0, 0, 0)][:0]
    for z in range(ends[0, 0], ends[0, 1]):
        for y in range(ends[1, 0], ends[1, 1]):
            for x in range(ends[2, 0], ends[2, 1]):
                if data[z, y, x] != label:
                    continue
                for axis in range(3):
                    before, after = _run(data, label, z, y, x, axis)
                    # once for each run, at its middle, and only if no other axis is shorter there
                    if not 0 <= before - after <= 1:
                        continue
                    shortest = True
                    for other in range(3):
                        if other != axis:
                            one, two = _run(data, label, z, y, x, other)
                            shortest = shortest and one + two >= before + after
                    if shortest:
                        low = _gap(data, roles, z, y, x, axis, -1, before, reach)
                        high = _gap(data, roles, z, y, x, axis, 1, after, reach)
                        found.append((z, y, x, low, high))
    return found


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _run(data: Any, label: int, z: int, y: int, x: int, axis: int) -> tuple[int, int]:
    """How many voxels of the label follow one another before and after a voxel."""
    before = 0
    while _at(data, z, y, x, axis, -before - 1) == label:
        before += 1
    after = 0
    while _at(data, z, y, x, axis, after + 1) == label:
        after += 1
    return before, after


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _at(data: Any, z: int, y: int, x: int, axis: int, step: int) -> int:
    """The label so many steps away; -1 outside the volume."""
    if axis == 0:
        z += step
    elif axis == 1:
        y += step
    else:
        x += step
    if 0 <= z < data.shape[0] and 0 <= y < data.shape[1] and 0 <= x < data.shape[2]:
        return int(data[z, y, x])
    return -1


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _gap(data: Any, roles: Any, z: int, y: int, x: int, axis: int, sign: int, own: int, reach: int) -> int:
    """Voxels of background from the end of a run to cytosol or a vesicle; -1 if there is none within reach."""
    for gap in range(reach + 1):
        label = _at(data, z, y, x, axis, sign * (own + 1 + gap))
        if label < 0:
            return -1
        role = roles[label]
        if role == _CYTOSOL or role == _VESICLE:
            return gap
        if role != _BACKGROUND:
            return -1
    return -1
