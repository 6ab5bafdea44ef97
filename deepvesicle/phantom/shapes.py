"""Densities of single structures, added into a volume, each within its own box.

Densities are relative: 1.0 is about that of protein in ice. Lengths are in nm, points in z, y, x nm relative to the
centre of the volume's first voxel. The blur of sampling is part of each profile, so that nothing is aliased.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Field = NDArray[np.float32]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Canvas:
    """A density volume (z, y, x) and its voxel size."""

    density: Field
    voxel_nm: float

    @property
    def size_nm(self) -> NDArray[np.float64]:
        """Edge lengths (z, y, x), nm."""
        return np.asarray(self.density.shape) * self.voxel_nm

    def box(self, low_nm: ArrayLike, high_nm: ArrayLike) -> Box | None:
        """Voxels between two corners, or None where they miss the volume."""
        low = np.maximum(np.floor(np.asarray(low_nm, dtype=float) / self.voxel_nm).astype(int), 0)
        high = np.ceil(np.asarray(high_nm, dtype=float) / self.voxel_nm).astype(int) + 1
        high = np.minimum(high, self.density.shape)
        if np.any(high <= low):
            return None
        return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))  # type: ignore[return-value]

    def coordinates(self, box: Box | None = None) -> tuple[Field, Field, Field]:
        """Open mesh of z, y, x in nm over a box (all of the volume by default)."""
        ranges = [slice(0, n) for n in self.density.shape] if box is None else list(box)
        axes = [np.arange(r.start, r.stop, dtype=np.float32) * np.float32(self.voxel_nm) for r in ranges]
        return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


#: Distance between a bilayer's planes of head groups, as a share of its thickness over all.
HEAD_SHARE = 0.62


@dataclass(frozen=True)
class Bilayer:
    """A lipid bilayer: two leaflets of head groups with the less dense tails between.

    Parameters
    ----------
    thickness_nm : float
        Over all: between the places outside where the density of the head groups has fallen to half. The planes of head
        groups themselves are `HEAD_SHARE` of it apart.
    density : float
        Of the head groups.
    """

    thickness_nm: float
    density: float

    def profile(self, distance_nm: Field, voxel_nm: float) -> Field:
        """Density at signed distances from the bilayer's middle."""
        head_sigma = 0.17 * self.thickness_nm
        sigma = np.float32(np.hypot(head_sigma, 0.35 * voxel_nm))
        shift = np.float32(HEAD_SHARE / 2 * self.thickness_nm)
        scale = np.float32(self.density * head_sigma / sigma)
        d = np.abs(distance_nm).astype(np.float32)
        leaflets = np.exp(-0.5 * ((d - shift) / sigma) ** 2) + np.exp(-0.5 * ((d + shift) / sigma) ** 2)
        tails = np.exp(-0.5 * (d / np.float32(np.hypot(1.3 * head_sigma, 0.35 * voxel_nm))) ** 2)
        return scale * (leaflets - np.float32(0.15) * tails)


def smooth_step(distance_nm: Field, width_nm: float) -> Field:
    """1 deep inside (negative distance), 0 outside, with a soft edge."""
    return np.float32(0.5) * (1 - np.tanh(distance_nm / np.float32(max(width_nm, 1e-3)))).astype(np.float32)


def ellipsoid_distance(canvas: Canvas, box: Box, centre_nm: ArrayLike, semi_axes_nm: ArrayLike) -> Field:
    """Approximate signed distance from an ellipsoid's surface (exact for a sphere), nm."""
    centre = np.asarray(centre_nm, dtype=np.float32)
    axes = np.asarray(semi_axes_nm, dtype=np.float32)
    z, y, x = canvas.coordinates(box)
    dz, dy, dx = z - centre[0], y - centre[1], x - centre[2]
    k0 = np.sqrt((dz / axes[0]) ** 2 + (dy / axes[1]) ** 2 + (dx / axes[2]) ** 2)
    k1 = np.sqrt((dz / axes[0] ** 2) ** 2 + (dy / axes[1] ** 2) ** 2 + (dx / axes[2] ** 2) ** 2)
    return np.where(k1 > 0, k0 * (k0 - 1) / np.maximum(k1, 1e-9), -axes.min()).astype(np.float32)


def add_compartment(
    canvas: Canvas, centre_nm: ArrayLike, semi_axes_nm: ArrayLike, membrane: Bilayer, lumen: float, keep: float
) -> None:
    """Add a closed bilayer; inside, `keep` of what was there stays and `lumen` is added.

    `semi_axes_nm` (z, y, x) reach to the middle of the bilayer.
    """
    centre = np.asarray(centre_nm, dtype=float)
    axes = np.asarray(semi_axes_nm, dtype=float)
    reach = axes + membrane.thickness_nm + 2 * canvas.voxel_nm
    box = canvas.box(centre - reach, centre + reach)
    if box is None:
        return
    distance = ellipsoid_distance(canvas, box, centre, axes)
    inside = smooth_step(distance, membrane.thickness_nm / 3)
    part = canvas.density[box]
    part *= 1 - np.float32(1 - keep) * inside
    part += np.float32(lumen) * inside + membrane.profile(distance, canvas.voxel_nm)


def add_ball(canvas: Canvas, centre_nm: ArrayLike, radius_nm: float, density: float) -> None:
    """Add a solid ball with a soft edge."""
    centre = np.asarray(centre_nm, dtype=float)
    reach = radius_nm + 3 * canvas.voxel_nm
    box = canvas.box(centre - reach, centre + reach)
    if box is None:
        return
    distance = ellipsoid_distance(canvas, box, centre, (radius_nm,) * 3)
    canvas.density[box] += np.float32(density) * smooth_step(distance, 0.5 * canvas.voxel_nm)


def random_curve(
    rng: np.random.Generator, start_nm: ArrayLike, direction: ArrayLike, length_nm: float, bend_nm: float
) -> NDArray[np.float64]:
    """Points 4 nm apart along a curve whose direction wanders with persistence length `bend_nm`; (N, 3)."""
    step = 4.0
    count = max(int(length_nm / step), 2)
    heading = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    turns = rng.normal(0, np.sqrt(step / bend_nm), (count, 3))
    points = np.empty((count, 3))
    points[0] = np.asarray(start_nm, dtype=float)
    for i in range(1, count):
        heading = heading + turns[i]
        heading /= np.linalg.norm(heading)
        points[i] = points[i - 1] + step * heading
    return points


def curve_distance(canvas: Canvas, curve_nm: NDArray[np.float64], reach_nm: float) -> tuple[Box, Field] | None:
    """Distance from a curve within `reach_nm` of it (larger elsewhere) and the box that holds it."""
    box = canvas.box(curve_nm.min(axis=0) - reach_nm, curve_nm.max(axis=0) + reach_nm)
    if box is None:
        return None
    start = np.array([s.start for s in box])
    shape = tuple(s.stop - s.start for s in box)
    squared = np.full(shape, (2 * reach_nm) ** 2, dtype=np.float32)
    local = Canvas(squared, canvas.voxel_nm)
    for point in curve_nm - start * canvas.voxel_nm:
        part = local.box(point - reach_nm, point + reach_nm)
        if part is None:
            continue
        z, y, x = local.coordinates(part)
        d2 = (z - np.float32(point[0])) ** 2 + (y - np.float32(point[1])) ** 2 + (x - np.float32(point[2])) ** 2
        np.minimum(squared[part], d2, out=squared[part])
    return box, np.sqrt(squared)


def add_tube(
    canvas: Canvas, curve_nm: NDArray[np.float64], radius_nm: float, wall: Bilayer, lumen: float, keep: float
) -> Box | None:
    """Add a tube with a bilayer (or protein) wall whose middle lies `radius_nm` from the curve."""
    reach = radius_nm + wall.thickness_nm + 2 * canvas.voxel_nm
    found = curve_distance(canvas, curve_nm, reach)
    if found is None:
        return None
    box, distance = found
    distance -= np.float32(radius_nm)
    inside = smooth_step(distance, wall.thickness_nm / 3)
    part = canvas.density[box]
    part *= 1 - np.float32(1 - keep) * inside
    part += np.float32(lumen) * inside + wall.profile(distance, canvas.voxel_nm)
    return box


def scatter_blobs(
    canvas: Canvas, points_nm: NDArray[np.float64], masses_nm3: NDArray[np.float64], sigma_nm: float
) -> Field:
    """A field of Gaussian blobs of the given masses (density x nm^3) at points (N, 3), one width for all."""
    field = np.zeros(canvas.density.shape, dtype=np.float32)
    index = np.rint(points_nm / canvas.voxel_nm).astype(int)
    good = np.all((index >= 0) & (index < canvas.density.shape), axis=1)
    np.add.at(field, tuple(index[good].T), (masses_nm3[good] / canvas.voxel_nm**3).astype(np.float32))
    return ndimage.gaussian_filter(field, sigma_nm / canvas.voxel_nm, mode="constant", truncate=3.0)
