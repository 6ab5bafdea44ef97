"""A plain imaging model for tests of the fit: dark shells with bright fringes, white noise, a missing wedge.

It shares no code with the program's own phantoms, so that a common mistake cannot cancel out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid, Tomogram

#: From the middle of the membrane to the plane that is its outer edge.
HALF_THICKNESS_NM = 1.35


def line_profile(offset_nm: NDArray[np.float64], voxel_nm: float) -> NDArray[np.float64]:
    """Grey value across a membrane: -1 at its middle, with bright fringes on both sides."""
    sigma = np.hypot(1.5, 0.5 * voxel_nm)
    fringe = np.exp(-0.5 * ((np.abs(offset_nm) - 2.6 * sigma) / (0.9 * sigma)) ** 2)
    return np.asarray(-np.exp(-0.5 * (offset_nm / sigma) ** 2) + 0.3 * fringe)


def wedge_mask(shape_zyx: tuple[int, int, int], half_range_deg: float) -> NDArray[np.float64]:
    """1 where a tilt series about y has measured, in the layout of `numpy.fft.rfftn`."""
    kz = np.fft.fftfreq(shape_zyx[0])[:, None, None]
    kx = np.fft.rfftfreq(shape_zyx[2])[None, None, :]
    seen = np.abs(kz) <= np.tan(np.radians(half_range_deg)) * np.abs(kx) + 0.5 / max(shape_zyx)
    return np.broadcast_to(seen, (shape_zyx[0], shape_zyx[1], seen.shape[2])).astype(float)


def shell_tomogram(
    rng: np.random.Generator,
    shape_zyx: tuple[int, int, int],
    voxel_nm: float,
    centres_vox: NDArray[np.float64],
    middle_radii_vox: NDArray[np.float64],
    *,
    contrast: float = 1.0,
    half_range_deg: float = 60.0,
) -> Tomogram:
    """Shells whose membranes, where resolved, are about `contrast` noise SDs dark (d')."""
    signal = np.zeros(shape_zyx)
    axes = np.ogrid[tuple(slice(0, n) for n in shape_zyx)]
    for centre, radius in zip(centres_vox, middle_radii_vox, strict=True):
        distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)))
        offset = (distance - radius) * voxel_nm
        signal += np.where(np.abs(offset) < 14, line_profile(offset, voxel_nm), 0)
    mask = wedge_mask(shape_zyx, half_range_deg)
    signal = np.fft.irfftn(np.fft.rfftn(signal) * mask, s=shape_zyx, axes=(0, 1, 2))
    noise = np.fft.irfftn(np.fft.rfftn(rng.normal(size=shape_zyx)) * mask, s=shape_zyx, axes=(0, 1, 2))
    grey = contrast / 0.75 * signal + noise / noise.std()  # a membrane's mean is about 0.75 of its middle's depth
    return Tomogram(grey.astype(np.float32), Grid(shape_zyx, voxel_nm))


def scattered(
    rng: np.random.Generator,
    shape_zyx: tuple[int, int, int],
    voxel_nm: float,
    radius_range_nm: tuple[float, float],
    count: int,
    *,
    gap_nm: float = 2.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres and middle radii (voxels) of at most `count` whole shells that do not touch."""
    centres: list[NDArray[np.float64]] = []
    radii: list[float] = []
    for _ in range(400):
        if len(centres) == count:
            break
        radius = rng.uniform(*radius_range_nm) / voxel_nm
        edge = radius + (HALF_THICKNESS_NM + 1) / voxel_nm
        room = np.asarray(shape_zyx) - 1 - 2 * edge
        if np.any(room <= 0):
            continue
        centre = edge + rng.uniform(0, 1, 3) * room
        gap = (gap_nm + 2 * HALF_THICKNESS_NM) / voxel_nm
        if all(np.linalg.norm(centre - c) > radius + r + gap for c, r in zip(centres, radii, strict=True)):
            centres.append(centre)
            radii.append(radius)
    return np.array(centres).reshape(-1, 3), np.array(radii)


def displaced(
    rng: np.random.Generator, centres: NDArray[np.float64], radii: NDArray[np.float64], move: float, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start spheres: centres off by up to `move` of the radius, radii by up to the share `scale`."""
    direction = rng.normal(size=centres.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = move * radii * rng.uniform(0, 1, len(radii)) ** (1 / 3)
    return centres + direction * length[:, None], radii * rng.uniform(1 - scale, 1 + scale, len(radii))
