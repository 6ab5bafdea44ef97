"""What every label of a volume touches, in one pass over all voxels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from deepvesicle.cores import usable_cores
from deepvesicle.files.tomogram import slabs

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Box = tuple[slice, slice, slice]

#: Labels are 16-bit.
LABELS = 1 << 16
#: A layer of background of at most so many voxels between a label and the cytosol is a gap; more is another place.
GAP_VOX = 4
#: Background beside a vesicle parts it from another one if that lies within so many voxels of it, along each axis:
#: gaps that are left between vesicles reach round the rims of their contacts, with cytosol between their two sides.
NEAR_VOX = 4


class Role(IntEnum):
    """What a label stands for in Pyto."""

    BACKGROUND = 0  # 0, and what is not listed
    CYTOSOL = 1
    BOUNDARY = 2  # the membrane of the active zone, and what else connectors hold on to
    VESICLE = 3
    OTHER = 4  # listed, but nothing of these


class Beside(IntEnum):
    """What lies beyond a face of a voxel at the surface of a label."""

    CYTOSOL = 0
    BOUNDARY = 1
    VESICLE = 2  # another one
    GAP = 3  # a thin layer of background, and cytosol or a boundary behind it
    OPEN = 4  # background, or another thing
    FACE = 5  # the face of the volume, or background in its outermost layer
    BETWEEN = 6  # background that parts a vesicle from another one, which is near: see `NEAR_VOX`


# Plain numbers for the compiler.
_BACKGROUND, _CYTOSOL, _BOUNDARY, _VESICLE = (
    int(Role.BACKGROUND),
    int(Role.CYTOSOL),
    int(Role.BOUNDARY),
    int(Role.VESICLE),
)
_GAP, _OPEN, _FACE, _BETWEEN = int(Beside.GAP), int(Beside.OPEN), int(Beside.FACE), int(Beside.BETWEEN)
_SPAN = np.arange(-NEAR_VOX, NEAR_VOX + 1)
_AROUND = np.stack(np.meshgrid(_SPAN, _SPAN, _SPAN, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.int64)
#: Offsets to voxels that are so near, the nearest first.
_NEAR = np.ascontiguousarray(_AROUND[np.argsort((_AROUND**2).sum(axis=1), kind="stable")][1:])
_STEPS = np.array([(0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0)], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Census:
    """What there is of each label, by its number.

    Parameters
    ----------
    shape_zyx : three ints
        Of the volume.
    voxels : int array (LABELS,)
    low, high : int arrays (LABELS, 3)
        First voxel and end of the box about each label.
    faces : int array (LABELS, 7)
        Faces of voxels at the surfaces of vesicles and boundaries, by what is `Beside` them.
    samples : int array (LABELS, 7, 3)
        A voxel with such a face.
    """

    shape_zyx: tuple[int, int, int]
    voxels: Integers
    low: Integers
    high: Integers
    faces: Integers
    samples: Integers

    @property
    def present(self) -> tuple[int, ...]:
        """The labels that are there, without 0."""
        return tuple(int(number) for number in np.flatnonzero(self.voxels))

    def box(self, label: int, margin: int = 0) -> Box:
        """The box about a label, with a margin as far as the volume goes."""
        ends = zip(self.low[label], self.high[label], self.shape_zyx, strict=True)
        z, y, x = (slice(max(int(a) - margin, 0), min(int(b) + margin, n)) for a, b, n in ends)
        return z, y, x

    def middles(self, labels: Any) -> Floats:
        """Middles (N, 3) of the boxes of some labels, z, y, x."""
        rows = np.asarray(labels, dtype=np.int64).reshape(-1)
        return np.asarray((self.low[rows] + self.high[rows] - 1) / 2, dtype=np.float64).reshape(-1, 3)

    def on_face(self, labels: Any) -> NDArray[np.bool_]:
        """Which labels (N,) lie on a face of the volume."""
        rows = np.asarray(labels, dtype=np.int64).reshape(-1)
        at_face = (self.low[rows] == 0) | (self.high[rows] == np.asarray(self.shape_zyx))
        return np.asarray(at_face.any(axis=1))

    def share(self, label: int, *beside: Beside) -> float:
        """Share of a label's surface that has one of these beside it, but for what parts it from other vesicles."""
        whole = int(self.faces[label].sum() - self.faces[label, Beside.BETWEEN])
        return float(self.faces[label, list(beside)].sum() / max(whole, 1))


def as_labels(data: NDArray[Any]) -> NDArray[Any]:
    """Labels of any type as unsigned 8 or 16 bits, without a copy where they have these already.

    Parameters
    ----------
    data : array (z, y, x)
        Whole numbers from 0 to 65535; floats are rounded.
    """
    if data.dtype.isnative and data.dtype.kind in "iu" and data.dtype.itemsize <= 2:
        return np.asarray(data).view(f"u{data.dtype.itemsize}")
    out = np.empty(data.shape, dtype=np.uint16)
    for z, slab in slabs(data):
        out[z : z + len(slab)] = np.rint(slab) if data.dtype.kind == "f" else slab
    return out


def take_census(data: NDArray[Any], roles: NDArray[np.uint8]) -> Census:
    """Count what there is of each label, and what its surface touches.

    Parameters
    ----------
    data : uint8 or uint16 array (z, y, x)
        May be a memory map.
    roles : uint8 array (LABELS,)
        `Role` of each label.
    """
    shape = tuple(int(n) for n in data.shape)
    parts = max(1, min(usable_cores(), shape[0]))
    cuts = np.linspace(0, shape[0], parts + 1).astype(int).tolist()
    array = np.asarray(data)

    def count(start: int, stop: int) -> tuple[Integers, ...]:
        found = (
            np.zeros(LABELS, np.int64),
            np.full((LABELS, 3), np.iinfo(np.int64).max),
            np.zeros((LABELS, 3), np.int64),
            np.zeros((LABELS, len(Beside)), np.int64),
            np.zeros((LABELS, len(Beside), 3), np.int64),
        )
        _count(array, np.asarray(roles, dtype=np.uint8), start, stop, GAP_VOX, *found)
        return found

    with ThreadPoolExecutor(parts) as pool:
        found = list(pool.map(count, cuts[:-1], cuts[1:]))
    voxels, low, high, faces, samples = found[0]
    for more in found[1:]:
        new = (faces == 0) & (more[3] > 0)
        samples[new] = more[4][new]
        voxels, faces = voxels + more[0], faces + more[3]
        low, high = np.minimum(low, more[1]), np.maximum(high, more[2])
    low[voxels == 0] = 0
    return Census(shape, voxels, low, high, faces, samples)  # type: ignore[arg-type]


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _count(
    data: Any, roles: Any, start: int, stop: int, reach: int, voxels: Any, low: Any, high: Any, faces: Any, samples: Any
) -> None:
    """Go along the rows, run of equal labels by run."""
    ny, nx = data.shape[1], data.shape[2]
    for z in range(start, stop):
        for y in range(ny):
            x = 0
            while x < nx:
                label = data[z, y, x]
                if label == 0:
                    x += 1
                    continue
                first = x
                while x < nx and data[z, y, x] == label:
                    x += 1
                voxels[label] += x - first
                low[label, 0], high[label, 0] = min(low[label, 0], z), max(high[label, 0], z + 1)
                low[label, 1], high[label, 1] = min(low[label, 1], y), max(high[label, 1], y + 1)
                low[label, 2], high[label, 2] = min(low[label, 2], first), max(high[label, 2], x)
                if roles[label] != _VESICLE and roles[label] != _BOUNDARY:
                    continue
                for at in range(first, x):
                    for k in range(6):
                        if (k == 0 and at > first) or (k == 1 and at < x - 1):
                            continue
                        beside = _beside(data, roles, label, z, y, at, k, reach)
                        if beside < 0:
                            continue
                        if (beside == _GAP or beside == _OPEN) and roles[label] == _VESICLE:
                            if _parts(data, roles, label, z, y, at, k):
                                beside = _BETWEEN
                        if faces[label, beside] == 0:
                            samples[label, beside, 0] = z
                            samples[label, beside, 1] = y
                            samples[label, beside, 2] = at
                        faces[label, beside] += 1


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _beside(data: Any, roles: Any, label: int, z: int, y: int, x: int, k: int, reach: int) -> int:
    """What lies from a voxel in a direction; -1 for the label itself."""
    for step in range(1, reach + 2):
        z, y, x = z + _STEPS[k, 0], y + _STEPS[k, 1], x + _STEPS[k, 2]
        if not (0 <= z < data.shape[0] and 0 <= y < data.shape[1] and 0 <= x < data.shape[2]):
            return _FACE if step == 1 else _OPEN
        other = data[z, y, x]
        if other == label:
            return -1 if step == 1 else _OPEN
        role = roles[other]
        if role == _BACKGROUND:
            if step == 1 and (_is_end(z, data.shape[0]) or _is_end(y, data.shape[1]) or _is_end(x, data.shape[2])):
                return _FACE
            continue
        known = role == _CYTOSOL or role == _BOUNDARY or role == _VESICLE
        if step == 1 and known:
            return role - 1
        if step > 1 and role == _VESICLE:
            return _BETWEEN
        return _GAP if step > 1 and known else _OPEN
    return _OPEN


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _parts(data: Any, roles: Any, label: int, z: int, y: int, x: int, k: int) -> bool:
    """Whether background beside a voxel of a vesicle parts it from another vesicle."""
    z, y, x = z + _STEPS[k, 0], y + _STEPS[k, 1], x + _STEPS[k, 2]
    if roles[data[z, y, x]] != _BACKGROUND:
        return False
    for i in range(len(_NEAR)):
        dz, dy, dx = _NEAR[i, 0], _NEAR[i, 1], _NEAR[i, 2]
        if not (0 <= z + dz < data.shape[0] and 0 <= y + dy < data.shape[1] and 0 <= x + dx < data.shape[2]):
            continue
        other = data[z + dz, y + dy, x + dx]
        if other != label and roles[other] == _VESICLE:
            return True
    return False


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _is_end(index: int, size: int) -> bool:
    return index == 0 or index == size - 1
