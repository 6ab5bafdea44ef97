"""Where voxels are in space, and the arrays that lie on such grids.

The only place that converts units (angstrom, nm, voxels) and maps points between grids.
Arrays are indexed ``[z, y, x]``; points are ``(N, 3)`` float64 in z, y, x voxel units, where 0.0 is the centre of the
first voxel. IMOD's own axis order and half voxels live in `imod_bridge.coordinates`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

ANGSTROM_PER_NM = 10.0
#: Voxel sizes outside this range (nm) are taken for a mistake: see `check_voxel_nm`.
VOXEL_NM_RANGE = (0.2, 5.0)

Points = NDArray[np.float64]


def angstrom_to_nm(length_angstrom: ArrayLike) -> NDArray[np.float64]:
    """Convert lengths from angstrom to nm."""
    return np.asarray(length_angstrom, dtype=np.float64) / ANGSTROM_PER_NM


def nm_to_angstrom(length_nm: ArrayLike) -> NDArray[np.float64]:
    """Convert lengths from nm to angstrom."""
    return np.asarray(length_nm, dtype=np.float64) * ANGSTROM_PER_NM


def as_points(points: ArrayLike) -> Points:
    """Return points as a ``(N, 3)`` float64 array; a single point and an empty list are accepted."""
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 3))
    array = np.atleast_2d(array)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"points must have shape (N, 3), got {array.shape}")
    return array


@dataclass(frozen=True)
class Grid:
    """A regular, isotropic grid of voxels.

    Parameters
    ----------
    shape_zyx : tuple of int
        Number of voxels along z, y, x.
    voxel_nm : float
        Edge of a voxel, nm.
    origin_nm : tuple of float
        Place of the centre of the first voxel (z, y, x), nm.
    """

    shape_zyx: tuple[int, int, int]
    voxel_nm: float
    origin_nm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape_zyx)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid needs three positive sizes, got {self.shape_zyx}")
        voxel_nm = float(self.voxel_nm)
        if not np.isfinite(voxel_nm) or voxel_nm <= 0:
            raise ValueError(f"a voxel size must be positive, got {self.voxel_nm}")
        origin = tuple(float(o) for o in self.origin_nm)
        object.__setattr__(self, "shape_zyx", shape)
        object.__setattr__(self, "voxel_nm", voxel_nm)
        object.__setattr__(self, "origin_nm", origin)

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        nz, ny, nx = self.shape_zyx
        return nz * ny * nx

    @property
    def extent_nm(self) -> NDArray[np.float64]:
        """Edge lengths of the whole volume (z, y, x), nm."""
        return np.asarray(self.shape_zyx, dtype=np.float64) * self.voxel_nm

    def to_nm(self, points_vox: ArrayLike) -> Points:
        """Voxel points (N, 3) to places in nm; the first voxel's centre is at `origin_nm`."""
        return as_points(points_vox) * self.voxel_nm + np.asarray(self.origin_nm)

    def to_vox(self, points_nm: ArrayLike) -> Points:
        """Places in nm (N, 3) to voxel points of this grid."""
        return (as_points(points_nm) - np.asarray(self.origin_nm)) / self.voxel_nm

    def map_points(self, points_vox: ArrayLike, target: Grid) -> Points:
        """Voxel points of this grid as voxel points of `target`."""
        return target.to_vox(self.to_nm(points_vox))

    def length_to_vox(self, length_nm: ArrayLike) -> NDArray[np.float64]:
        """Lengths in nm as voxels of this grid."""
        return np.asarray(length_nm, dtype=np.float64) / self.voxel_nm

    def length_to_nm(self, length_vox: ArrayLike) -> NDArray[np.float64]:
        """Lengths in voxels of this grid as nm."""
        return np.asarray(length_vox, dtype=np.float64) * self.voxel_nm

    def rescaled(self, voxel_nm: float) -> Grid:
        """The grid of another voxel size that covers the same volume.

        The outer faces at the low end coincide, so the first voxel's centre moves by half the difference of the voxel
        sizes; at the high end the faces agree to half a voxel. The voxel size is exactly the one asked for.
        """
        voxel_nm = float(voxel_nm)
        shape = tuple(max(1, round(n * self.voxel_nm / voxel_nm)) for n in self.shape_zyx)
        shift_nm = (voxel_nm - self.voxel_nm) / 2
        origin = tuple(o + shift_nm for o in self.origin_nm)
        return Grid(shape, voxel_nm, origin)  # type: ignore[arg-type]

    def cropped(self, start_zyx: ArrayLike, shape_zyx: ArrayLike) -> Grid:
        """The part of this grid that starts at voxel `start_zyx` and has `shape_zyx` voxels."""
        start = np.asarray(start_zyx, dtype=int)
        shape = tuple(int(n) for n in np.asarray(shape_zyx))
        origin = tuple(float(v) for v in self.to_nm(start)[0])
        return Grid(shape, self.voxel_nm, origin)  # type: ignore[arg-type]

    def contains(self, points_vox: ArrayLike) -> NDArray[np.bool_]:
        """Which points (N, 3) lie inside the volume, its outer faces included."""
        points = as_points(points_vox)
        high = np.asarray(self.shape_zyx) - 0.5
        return np.asarray(np.all((points >= -0.5) & (points <= high), axis=1))

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for run records."""
        return {"shape_zyx": list(self.shape_zyx), "voxel_nm": self.voxel_nm, "origin_nm": list(self.origin_nm)}


class Region(Protocol):
    """Anything that says which voxels of a grid belong to it, such as `deepvesicle.files.outline.Outline`."""

    def to_mask(self, grid: Grid) -> NDArray[np.bool_]:
        """Which voxels have their centre inside (z, y, x); the grid may be any part of space, at any voxel size."""
        ...


@dataclass(frozen=True)
class _Volume:
    """An array on a grid."""

    data: NDArray[Any]
    grid: Grid

    def __post_init__(self) -> None:
        if tuple(self.data.shape) != self.grid.shape_zyx:
            raise ValueError(f"array of shape {self.data.shape} does not fit a grid of {self.grid.shape_zyx}")


@dataclass(frozen=True)
class Tomogram(_Volume):
    """Grey values, **dense = low** once read; `data` may be a memory map of any real type and is never written to.

    Parameters
    ----------
    data : array (z, y, x)
    grid : Grid
    path : Path, optional
        Where it was read from.
    invert : bool
        True when the file holds dense = high values: `box` and `mean_sd` users must go through `grey`.
    notes : tuple of str
        What was odd about the file but could be read all the same, one line each.
    """

    path: Path | None = None
    invert: bool = False
    notes: tuple[str, ...] = ()

    def grey(self, region: tuple[slice, slice, slice] = (slice(None),) * 3) -> NDArray[np.float32]:
        """Grey values of a region as float32, dense = low (the sign is turned where `invert` is set)."""
        values = np.asarray(self.data[region], dtype=np.float32)
        return -values if self.invert else values


@dataclass(frozen=True)
class Probability(_Volume):
    """Per-voxel probability of being inside a vesicle, outer membrane edge included.

    `data` holds 0..1 as floats, or 0..255 as uint8, which is how the network's result is kept.
    """

    def values(self) -> NDArray[np.float32]:
        """0..1 as float32 (z, y, x), whatever the storage."""
        scale = 1 / 255 if self.data.dtype == np.uint8 else 1.0
        return self.data.astype(np.float32) * np.float32(scale)


@dataclass(frozen=True)
class Labels(_Volume):
    """Integer labels; 0 is background."""
