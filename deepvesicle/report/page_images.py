"""Pictures for the HTML report: planes of the tomogram and small views of every vesicle, as JPEG.

All pictures are as 3dmod shows the tomogram: x to the right, y (or z) up. Grey values are averaged over a slab of some
nm, which shows membranes through the noise, and shown between percentiles of the whole.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid, Points, Tomogram
from deepvesicle.memory import ReadPages

Floats = NDArray[np.float64]
Limits = tuple[float, float]

#: Thickness that planes are averaged over, nm: a sphere of 20 nm is 0.4 nm narrower at its faces.
SLAB_NM = 8.0
#: Percentiles of grey values that are shown black and white.
PERCENTILES = (0.5, 99.5)
#: Distance of shown planes, nm, if the size of the file allows it, and their number.
SPACING_NM, MOST_PLANES, FEWEST_PLANES = {"xy": 7.0, "xz": 25.0}, {"xy": 72, "xz": 72}, 12
#: Longest and least edge of a plane, pixels.
EDGE_PX, LEAST_EDGE_PX = 960, 360
#: What is shown about a vesicle, nm, and the edge of its views, pixels: where there are many, and otherwise.
MARGIN_NM, VIEW_PX, SMALL_VIEW_PX, MANY = 12.0, 80, 56, 1200
#: Views are smoothed by so much, nm (sigma): less than half of a membrane, but most of the noise.
SMOOTH_NM = 1.4
PLANE_QUALITY, VIEW_QUALITY = 55, 68


@dataclass(frozen=True)
class Planes:
    """Planes of a tomogram across one axis.

    Parameters
    ----------
    plane : str
        ``xy`` or ``xz``.
    indices : tuple of int
        Rising z or y of the planes, 0 for the first.
    jpegs : tuple of bytes
        One each, all of the same size; they show the whole plane.
    """

    plane: str
    indices: tuple[int, ...]
    jpegs: tuple[bytes, ...]

    @property
    def bytes(self) -> int:
        """Size of all."""
        return sum(map(len, self.jpegs))


def grey_limits(tomogram: Tomogram, plane_count: int = 5) -> Limits:
    """Grey values to show black and white, from a few planes through the middle of the depth."""
    nz = tomogram.grid.shape_zyx[0]
    chosen = np.unique(np.linspace(0.2 * (nz - 1), 0.8 * (nz - 1), plane_count).round().astype(int))
    sample = np.concatenate([slab(tomogram, 0, int(z))[::4, ::4].ravel() for z in chosen])
    low, high = (float(v) for v in np.percentile(sample, PERCENTILES))
    return low, max(high, low + 1e-6)


def slab(tomogram: Tomogram, axis: int, index: int) -> NDArray[np.float32]:
    """Average of the planes within half of `SLAB_NM` of one, across axis 0 (z) or 1 (y)."""
    half = slab_half_vox(tomogram.grid)
    region = [slice(None)] * 3
    region[axis] = slice(max(0, index - half), index + half + 1)
    return np.asarray(tomogram.grey((region[0], region[1], region[2])).mean(axis=axis, dtype=np.float32))


def _slab_shape(grid: Grid, axis: int) -> tuple[int, ...]:
    """Voxels that are read for a plane; across y whole pages of the file are, a line each."""
    nz, ny, nx = grid.shape_zyx
    thick = 2 * slab_half_vox(grid) + 1
    return (thick, ny, nx) if axis == 0 else (nz, thick, nx)


def slab_half_vox(grid: Grid) -> int:
    """Planes on either side that are averaged; at least one."""
    return max(1, round((SLAB_NM / grid.voxel_nm - 1) / 2))


def draw_planes(
    tomogram: Tomogram, plane: str, extent_vox: tuple[float, float], limits: Limits, most_bytes: int
) -> Planes:
    """Draw planes evenly through a depth, as many and as large as fit.

    Parameters
    ----------
    tomogram : Tomogram
    plane : str
        ``xy`` (through z) or ``xz`` (through y).
    extent_vox : tuple of float
        Lowest and highest z or y to show.
    limits : tuple of float
        Grey values shown black and white.
    most_bytes : int
        Of all pictures together. Exceeded only where `FEWEST_PLANES` of the least size take more.
    """
    axis = 0 if plane == "xy" else 1
    last = tomogram.grid.shape_zyx[axis] - 1
    low, high = (int(round(v)) for v in np.clip(extent_vox, 0, last))
    wanted = int(np.clip((high - low) * tomogram.grid.voxel_nm / SPACING_NM[plane], FEWEST_PLANES, MOST_PLANES[plane]))
    middle = (low + high) // 2
    full = slab(tomogram, axis, middle)
    edge = min(EDGE_PX, max(full.shape))
    first = len(_jpeg(_shrunk(full, edge), limits, PLANE_QUALITY))
    if first * wanted > most_bytes:  # smaller ones first, then fewer
        edge = min(edge, max(LEAST_EDGE_PX, int(edge * np.sqrt(most_bytes / (first * wanted)) * 0.95)))
    indices = np.unique(np.linspace(low, high, min(wanted, high - low + 1)).round().astype(int)).tolist()
    pages = ReadPages()
    jpegs = []
    for i in indices:
        jpegs.append(_jpeg(_shrunk(slab(tomogram, axis, i), edge), limits, PLANE_QUALITY))
        pages.note(tomogram.data, _slab_shape(tomogram.grid, axis))
    if sum(map(len, jpegs)) > most_bytes:
        fit = max(FEWEST_PLANES, int(0.97 * most_bytes / max(map(len, jpegs))))
        left = np.unique(np.linspace(0, len(jpegs) - 1, min(fit, len(jpegs))).round().astype(int))
        indices, jpegs = [indices[i] for i in left], [jpegs[i] for i in left]
    return Planes(plane, tuple(indices), tuple(jpegs))


def draw_views(
    tomogram: Tomogram, centres_vox: Points, radii_vox: Floats, limits: Limits, most_bytes: int
) -> list[bytes]:
    """Draw each vesicle's central xy and xz plane side by side, one picture each; empty where it would be too much.

    The views reach `half_field_vox` from the centre; what is outside the tomogram is of a middle grey.

    Parameters
    ----------
    tomogram : Tomogram
    centres_vox : float array (N, 3)
        z, y, x; the most important first.
    radii_vox : float array (N,)
    limits : tuple of float
        Grey values shown black and white.
    most_bytes : int
        Of all pictures together.
    """
    edge = VIEW_PX if len(centres_vox) <= MANY else SMALL_VIEW_PX
    views, used, pages = [], 0, ReadPages()
    for centre, half in zip(centres_vox, half_field_vox(tomogram.grid, radii_vox), strict=True):
        if used >= most_bytes or not np.isfinite([*centre, half]).all():
            views.append(b"")
            continue
        pair = [_view(tomogram, centre, float(half), axis, edge, sum(limits) / 2) for axis in (0, 1)]
        views.append(_jpeg(np.concatenate(pair, axis=1), limits, VIEW_QUALITY))
        used += len(views[-1])
        pages.note(tomogram.data, (2 * int(half) + 5,) * 3)
    return views


def half_field_vox(grid: Grid, radii_vox: Floats) -> Floats:
    """How far the views of vesicles (N,) reach from their centres, voxels."""
    return np.asarray(radii_vox + MARGIN_NM / grid.voxel_nm)


def _view(
    tomogram: Tomogram, centre: Floats, half: float, axis: int, edge_px: int, outside: float
) -> NDArray[np.float32]:
    """A square about a centre (z, y, x), to a fraction of a voxel, averaged across `axis`."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    shape = np.asarray(tomogram.grid.shape_zyx)
    low = np.floor(centre - half).astype(int) - 1
    high = np.ceil(centre + half).astype(int) + 2
    depth = slab_half_vox(tomogram.grid)
    low[axis], high[axis] = round(float(centre[axis])) - depth, round(float(centre[axis])) + depth + 1
    size = high - low
    plane = np.full(np.delete(size, axis), outside, dtype=np.float32)
    start, stop = np.clip(low, 0, shape), np.clip(high, 0, shape)
    if (stop > start).all():
        region = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        place = tuple(
            slice(int(a), int(b))
            for a, b in zip(np.delete(start - low, axis), np.delete(stop - low, axis), strict=True)
        )
        mean = tomogram.grey(region).mean(axis=axis)  # type: ignore[arg-type]
        plane[place] = gaussian_filter(mean, SMOOTH_NM / tomogram.grid.voxel_nm)
    # Pillow counts from the corner of the first pixel.
    v, u = np.delete(centre - low, axis) + 0.5
    box = (float(u - half), float(v - half), float(u + half), float(v + half))
    return np.asarray(Image.fromarray(plane).resize((edge_px, edge_px), Image.Resampling.BICUBIC, box=box))


def _shrunk(image: NDArray[np.float32], edge_px: int) -> NDArray[np.float32]:
    """A plane whose longer edge has at most so many pixels."""
    from PIL import Image

    factor = edge_px / max(image.shape)
    if factor >= 1:
        return image
    height, width = (max(1, round(n * factor)) for n in image.shape)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def _jpeg(image: NDArray[np.float32], limits: Limits, quality: int) -> bytes:
    """Grey values as a JPEG, the first row at the bottom."""
    from PIL import Image

    low, high = limits
    grey = np.clip((image[::-1] - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="JPEG", quality=quality, optimize=True)
    return stream.getvalue()
