"""White noise, with and without a missing wedge, and spheres drawn into it: what the click fit is tested on.

Nothing here is shared with the program but the grid, so that a common mistake cannot cancel out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid, Tomogram

Floats = NDArray[np.float64]


def measured(shape_zyx: tuple[int, int, int], tilts_deg: tuple[float, float]) -> Floats:
    """1 at frequencies whose angle from x towards z lies between the tilts, in the layout of `numpy.fft.rfftn`."""
    z = np.fft.fftfreq(shape_zyx[0])[:, None, None]
    x = np.fft.rfftfreq(shape_zyx[2])[None, None, :]
    angle = np.degrees(np.arctan2(z, x))
    seen = (angle >= tilts_deg[0]) & (angle <= tilts_deg[1])
    return np.broadcast_to(seen, (shape_zyx[0], shape_zyx[1], seen.shape[2])).astype(float)


def through(volume: Floats, tilts_deg: tuple[float, float]) -> Floats:
    """A volume without the frequencies of the missing wedge."""
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    spectrum = np.fft.rfftn(volume) * measured(shape, tilts_deg)
    return np.asarray(np.fft.irfftn(spectrum, s=shape, axes=(0, 1, 2)))


def noise_tomogram(
    rng: np.random.Generator,
    shape_zyx: tuple[int, int, int],
    voxel_nm: float = 2.0,
    tilts_deg: tuple[float, float] = (-90.0, 90.0),
) -> Tomogram:
    """White noise, of SD 1 before the wedge is taken out."""
    noise = through(rng.normal(size=shape_zyx), tilts_deg)
    return Tomogram(noise.astype(np.float32), Grid(shape_zyx, voxel_nm))


def distances_nm(shape_zyx: tuple[int, int, int], voxel_nm: float, centre_nm: Floats) -> Floats:
    """Distance of each voxel from a place (z, y, x), nm; the first voxel lies at 0."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape_zyx)]
    return np.asarray(np.sqrt(sum((a * voxel_nm - c) ** 2 for a, c in zip(axes, centre_nm, strict=True))))


def dark_line(offset_nm: Floats, sigma_nm: float = 2.2) -> Floats:
    """-1 in the middle, bright fringes on both sides."""
    share = (offset_nm / sigma_nm) ** 2
    return np.asarray((share - 1) * np.exp(-share / 2))
