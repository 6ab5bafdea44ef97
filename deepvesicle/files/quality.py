"""What a tomogram is like before anything is done with it: contrast, noise, tilt axis, and what a run will cost.

Everything is estimated from blocks spread over the volume, so the cost does not grow with the tomogram; only
`statistics` of the whole volume streams through it once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.tomogram import statistics
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.memory import ReadPages

Floats = NDArray[np.float64]

#: Membranes are 4-6 nm thick; the band between these two Gaussians shows them and hides noise and shading.
MEMBRANE_SIGMA_NM, BACKGROUND_SIGMA_NM = 3.0, 9.0
#: Skewness of the band below which the sign of the contrast is not called. Noise alone stays under 0.03.
MIN_SKEWNESS = 0.05
#: ... and how many standard errors (over blocks) it must be away from 0.
MIN_SKEWNESS_Z = 3.0
#: Natural logarithm of the ratio of power from which a wedge is called empty. Volumes without a wedge stay under 0.3.
MIN_WEDGE_RATIO = 0.7

_BLOCK_NM = 84.0
_WORK_VOXEL_NM = 1.5  # finer tomograms are binned towards this
_MAX_BLOCKS_PER_AXIS = 8
_MAX_WORK_VOXELS = 8_000_000  # after binning; keeps the look at a large tomogram to seconds

#: The network's grid, and how fast it runs over it: start-up, and voxels per second on two AVX-512 cores, fit included.
#: Another machine differs by a factor of a few, so times are only a guide.
NETWORK_VOXEL_NM = 2.2
START_UP_SECONDS = 8.0
NETWORK_VOXELS_PER_SECOND = 0.35e6
#: Python, TensorFlow and the libraries; activations of a tile of (144 + 2 x 46)^3 voxels, 16 filters, 4 bytes, of which
#: three or so live at once.
_PROGRAM_BYTES = 600_000_000
_TILE_BYTES = (144 + 92) ** 3 * 16 * 4 * 3


@dataclass(frozen=True)
class ContrastSign:
    """Whether dense matter is dark, as it should be.

    Parameters
    ----------
    sign : str
        ``dark`` (dense is dark: right), ``bright`` (inverted) or ``unsure``.
    skewness : float
        Of the grey values in the band of membranes; negative where dense is dark.
    standard_error : float
    """

    sign: Literal["dark", "bright", "unsure"]
    skewness: float
    standard_error: float


@dataclass(frozen=True)
class Quality:
    """What `assess` finds.

    Parameters
    ----------
    minimum, maximum, mean, sd : float
        Of all voxels, as they are used (sign turned where the tomogram is read inverted).
    noise_sd : float
        Of one voxel, from the finest detail; too low where the tomogram was smoothed.
    structure_snr : float
        SD of the structure at the scale of membranes over `noise_sd`.
    contrast : ContrastSign
    tilt_axis : str
        ``y`` (IMOD's convention), ``x`` or ``unsure``: which directions of the power spectrum are empty.
    memory_bytes, seconds : float
        What `segment` will need, roughly, on two cores.
    doubts : tuple of str
        What the user should look at, one line each.
    """

    minimum: float
    maximum: float
    mean: float
    sd: float
    noise_sd: float
    structure_snr: float
    contrast: ContrastSign
    tilt_axis: Literal["x", "y", "unsure"]
    memory_bytes: float
    seconds: float
    doubts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return asdict(self)


def assess(tomogram: Tomogram) -> Quality:
    """Look at a tomogram: grey values, noise, sign of the contrast, tilt axis, cost of a run."""
    low, high, mean, sd = statistics(tomogram.data)
    if tomogram.invert:
        low, high, mean = -high, -low, -mean
    blocks = list(_blocks(tomogram))
    bands = _bands(blocks)
    contrast = _sign_of(bands)
    noise_sd, structure_snr = _noise(blocks, bands)
    tilt_axis = _tilt_axis(blocks)
    return Quality(
        minimum=low,
        maximum=high,
        mean=mean,
        sd=sd,
        noise_sd=noise_sd,
        structure_snr=structure_snr,
        contrast=contrast,
        tilt_axis=tilt_axis,
        memory_bytes=estimated_memory_bytes(tomogram),
        seconds=estimated_seconds(tomogram.grid),
        doubts=(*tomogram.notes, *_doubts(tomogram, contrast, tilt_axis)),
    )


def contrast_sign(tomogram: Tomogram) -> ContrastSign:
    """Estimate whether dense matter is dark, from the skewness of the grey values in the band of membranes.

    Membranes, proteins and gold fill a small part of the volume and lie on one side of the water's grey value, so the
    distribution has its longer tail on the side of dense matter; noise has none. Values are cut at four SD, so that a
    few gold beads do not decide alone.
    """
    return _sign_of(_bands(list(_blocks(tomogram))))


def estimated_memory_bytes(tomogram: Tomogram) -> float:
    """Peak memory of `segment`: program, one tile, labels, and the volume itself where it is not memory-mapped."""
    loaded = 0 if isinstance(tomogram.data, np.memmap) else tomogram.data.nbytes
    return float(_PROGRAM_BYTES + _TILE_BYTES + 2 * tomogram.grid.voxel_count + loaded)


def estimated_seconds(grid: Grid) -> float:
    """Run time of `segment` on two cores."""
    return START_UP_SECONDS + grid.rescaled(NETWORK_VOXEL_NM).voxel_count / NETWORK_VOXELS_PER_SECOND


@dataclass(frozen=True)
class _Block:
    """A part of the tomogram and the voxel size after binning."""

    grey: NDArray[np.float32]
    voxel_nm: float


def _blocks(tomogram: Tomogram) -> Iterator[_Block]:
    """Cubes of `_BLOCK_NM`, spread evenly over the volume, binned towards `_WORK_VOXEL_NM`."""
    grid = tomogram.grid
    factor = max(1, int(_WORK_VOXEL_NM / grid.voxel_nm))
    edge = int(round(_BLOCK_NM / grid.voxel_nm / factor)) * factor
    sizes = [min(edge, n) for n in grid.shape_zyx]
    starts = [
        np.linspace(0, n - size, min(_MAX_BLOCKS_PER_AXIS, max(1, n // size))).astype(int)
        for n, size in zip(grid.shape_zyx, sizes, strict=True)
    ]
    places = np.array(list(product(*starts)))
    count = max(8, int(_MAX_WORK_VOXELS // (np.prod(sizes) / factor**3)))
    if len(places) > count:  # any part of them, but always the same
        places = places[np.sort(np.random.default_rng(0).permutation(len(places))[:count])]
    pages = ReadPages()
    for place in places:
        grey = tomogram.grey(tuple(slice(s, s + size) for s, size in zip(place, sizes, strict=True)))  # type: ignore[arg-type]
        pages.note(tomogram.data, grey.shape)
        if factor > 1 and min(grey.shape) >= factor:
            nz, ny, nx = (n // factor for n in grey.shape)
            grey = grey[: nz * factor, : ny * factor, : nx * factor]
            grey = grey.reshape(nz, factor, ny, factor, nx, factor).mean(axis=(1, 3, 5))
            yield _Block(grey, grid.voxel_nm * factor)
        else:
            yield _Block(grey, grid.voxel_nm)


def _bands(blocks: list[_Block]) -> list[Floats]:
    """Band of membranes of each block, without the margin that its borders spoil; empty blocks are left out."""
    from scipy.ndimage import gaussian_filter

    bands = []
    for block in blocks:
        fine, coarse = _sigmas_vox(block.voxel_nm)
        band = gaussian_filter(block.grey, fine) - gaussian_filter(block.grey, coarse)
        margin = [min(round(coarse), n // 4) for n in band.shape]
        inner = band[tuple(slice(m, n - m) for m, n in zip(margin, band.shape, strict=True))]
        if inner.size and inner.std() > 0:
            bands.append(inner.astype(np.float64))
    return bands


def _sigmas_vox(voxel_nm: float) -> tuple[float, float]:
    fine = max(1.0, MEMBRANE_SIGMA_NM / voxel_nm)
    return fine, max(3 * fine, BACKGROUND_SIGMA_NM / voxel_nm)


def _sign_of(bands: list[Floats]) -> ContrastSign:
    if not bands:
        return ContrastSign("unsure", 0.0, float("inf"))
    sd = np.sqrt(np.mean([np.mean(band**2) for band in bands]))
    # Each block counts as eight octants, which are nearly independent, so that small volumes have an error, too.
    thirds = []
    for band in bands:
        cut = np.clip(band / sd, -4, 4)
        for half in np.array_split(cut * cut * cut, 2, axis=0):
            for quarter in np.array_split(half, 2, axis=1):
                thirds += [float(octant.mean()) for octant in np.array_split(quarter, 2, axis=2) if octant.size]
    skewness = float(np.mean(thirds))
    standard_error = float(np.std(thirds, ddof=1) / np.sqrt(len(thirds))) if len(thirds) > 1 else float("inf")
    if abs(skewness) < MIN_SKEWNESS or abs(skewness) < MIN_SKEWNESS_Z * standard_error:
        return ContrastSign("unsure", skewness, standard_error)
    return ContrastSign("dark" if skewness < 0 else "bright", skewness, standard_error)


def _noise(blocks: list[_Block], bands: list[Floats]) -> tuple[float, float]:
    """Noise SD of a voxel, and SD of the structure in the band of membranes over it.

    The noise is the median absolute value of a mixed second difference in the plane (Immerkaer 1996, Comput. Vis.
    Image Underst. 64:300, with the median in place of the mean), which structure hardly touches.
    """
    kernel_norm = 6.0  # root of the sum of squares of the 3 x 3 kernel [1 -2 1] x [1 -2 1]
    differences = []
    for block in blocks:
        if min(block.grey.shape[1:]) >= 3:
            rows = block.grey[:, 2:] - 2 * block.grey[:, 1:-1] + block.grey[:, :-2]
            mixed = rows[:, :, 2:] - 2 * rows[:, :, 1:-1] + rows[:, :, :-2]
            differences.append(np.median(np.abs(mixed)) / 0.6745 / kernel_norm)
    noise_sd = float(np.median(differences)) if differences else 0.0
    if noise_sd == 0 or not bands:
        return noise_sd, 0.0
    fine, coarse = _sigmas_vox(blocks[0].voxel_nm)
    # Share of white noise's variance that passes the band: the integral of the squared difference of two Gaussians.
    passed = (fine**-3 + coarse**-3 - 2 * (2 / (fine**2 + coarse**2)) ** 1.5) / (4 * np.pi) ** 1.5
    variance = float(np.mean([band.var() for band in bands]))
    return noise_sd, float(np.sqrt(max(0.0, variance - passed * noise_sd**2)) / noise_sd)


def _tilt_axis(blocks: list[_Block]) -> Literal["x", "y", "unsure"]:
    """Which tilt axis leaves the emptier wedge in the power spectrum.

    Tilting about y measures nothing near kx = 0 at steep kz; tilting about x nothing near ky = 0. Each is compared at
    places that the other would have measured.
    """
    ratios = []
    for block in blocks:
        if min(block.grey.shape) < 16:
            continue
        grey = block.grey - block.grey.mean()
        for axis, n in enumerate(grey.shape):
            grey = grey * np.hanning(n).reshape([-1 if a == axis else 1 for a in range(3)])
        power = np.abs(np.fft.rfftn(grey)) ** 2
        kz, ky, kx = np.meshgrid(
            *(np.abs(np.fft.fftfreq(n)) for n in grey.shape[:2]),
            np.fft.rfftfreq(grey.shape[2]),
            indexing="ij",
            sparse=True,
        )
        radius = np.sqrt(kz**2 + ky**2 + kx**2)
        ring = (radius > 0.06) & (radius < 0.3) & (kz > 0.4 * radius) & (kz < 0.85 * radius)
        near_x, near_y = power[ring & (kx < 0.25 * kz)], power[ring & (ky < 0.25 * kz)]
        if near_x.size and near_y.size and near_x.any() and near_y.any():
            ratios.append(float(np.log(near_x.mean() / near_y.mean())))
    if not ratios:
        return "unsure"
    mean = float(np.mean(ratios))
    standard_error = float(np.std(ratios, ddof=1) / np.sqrt(len(ratios))) if len(ratios) > 1 else 0.0
    if abs(mean) < max(MIN_WEDGE_RATIO, 3 * standard_error):
        return "unsure"
    return "y" if mean < 0 else "x"


def _doubts(tomogram: Tomogram, contrast: ContrastSign, tilt_axis: str) -> Iterator[str]:
    grid = tomogram.grid
    if contrast.sign == "bright":
        how = "without --invert" if tomogram.invert else "with --invert"
        yield f"dense matter seems to be bright (inverted contrast): look at the tomogram, and read it {how} if so"
    elif contrast.sign == "unsure":
        yield "the sign of the contrast cannot be told: make sure that membranes are dark"
    if tilt_axis == "x":
        yield "the tilt axis seems to lie along x, not along y"
    if grid.voxel_nm > 1.5 * NETWORK_VOXEL_NM:
        yield f"voxels of {grid.voxel_nm:g} nm hardly resolve a membrane"
    thinnest = float(grid.extent_nm.min())
    if thinnest < 50:
        yield f"the volume is only {thinnest:.0f} nm thick, about a vesicle's diameter"
