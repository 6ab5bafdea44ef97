"""How the grey values of a tomogram vary by themselves: its power spectrum, and the weights that make noise white.

Least squares treats every difference between a model and the data alike. In a tomogram it must not: noise and cellular
clutter are strong at some spatial frequencies and weak at others, and inside the missing wedge there is nothing at all.
Weighting each frequency by the inverse of the tomogram's mean power there is the classical remedy (the pre-whitening
of matched filters; Turin, IRE Trans. Inf. Theory 6 (1960) 311-329). The wedge needs no tilt angles: it shows in the
power itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from deepvesicle.fitting.profile import read_box, working_binning
from deepvesicle.grid import Tomogram

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

#: Edge of the boxes that the spectrum is averaged over, working voxels, 32 of them.
BOX = 48
#: Where those in one corner of the volume lie: shares of the way that the first voxel of a box can take (z, y, x).
_PLACES = np.array([[0.2, 0.08, 0.35], [0.4, 0.2, 0.47]])
#: Cycles per working voxel between which the wedge shows best: long waves leak over its edges, short ones are filtered.
WEDGE_BAND = (0.12, 0.42)
#: The wedge ends where the power rises to this share of what it is beside it. Without a direction along the beam that
#: lies below the second share of what is usual at its wavelength, there is no wedge.
WEDGE_EDGE, NO_WEDGE = 0.6, 0.25
#: Where "beside" begins and ends, degrees from the edge.
EDGE_BAND_DEG = (4.0, 20.0)
#: Times the median power, added to it: frequencies at which hardly anything was recorded say little about a model.
FLOOR = 3.0
#: Times the mean power at the wavelengths that membranes are seen by (frequencies in cycles per nm), added too: where a
#: filter has removed noise and membranes alike, there is nothing left to weigh.
MEMBRANE_FLOOR, MEMBRANE_BAND_NM = 0.2, (0.06, 0.14)


@dataclass(frozen=True)
class Wedge:
    """What the power says of a tilt series about one axis.

    Parameters
    ----------
    tilts_deg : tuple of float
        Lowest and highest angle, towards z, from the axis across the tilt axis that were measured; -90 and 90 where no
        wedge is missing.
    beam_power : float
        Power along the beam, as share of what is usual at its wavelength: near 0 where a wedge is missing.
    """

    tilts_deg: tuple[float, float]
    beam_power: float


@dataclass(frozen=True)
class Whitening:
    """Weights of spatial frequencies: 1 / power where the tomogram has been measured, 0 in the missing wedge.

    Parameters
    ----------
    weights : float32 array (BOX + 1, BOX + 1, BOX // 2 + 1)
        Of frequencies z, y (-0.5 to 0.5 cycles per working voxel) and x (0 to 0.5).
    voxel_nm : float
        Size of the working voxels.
    tilts_deg : tuple of float
        Lowest and highest angle between frequency and the x axis (y, if the tilt axis is x) that were measured; their
        sign is that of z.
    wedges : mapping of str to Wedge
        What shows if the tilt axis were "y", and if it were "x".
    """

    weights: Array
    voxel_nm: float
    tilts_deg: tuple[float, float] = (-90.0, 90.0)
    wedges: Mapping[str, Wedge] = field(default_factory=dict)
    _cache: dict[tuple[tuple[int, ...], float], Array] = field(default_factory=dict, repr=False)

    def on(self, shape_zyx: tuple[int, ...], voxel_nm: float) -> Array:
        """The weights for `scipy.fft.rfftn` of a box (z, y, x // 2 + 1), in voxels of `voxel_nm`.

        Their scale is such that the sum of |rfftn|^2 x weight / number of voxels is the number of independent values
        of white noise, whatever the voxel size.
        """
        key = (tuple(shape_zyx), round(voxel_nm, 6))
        if key not in self._cache:
            nz, ny, nx = shape_zyx
            ratio = self.voxel_nm / voxel_nm
            half = self.weights.shape[0] // 2
            axes = (
                fft.fftfreq(nz) * ratio * BOX + half,
                fft.fftfreq(ny) * ratio * BOX + half,
                fft.rfftfreq(nx) * ratio * BOX,
            )
            where = np.stack(np.meshgrid(*axes, indexing="ij"))
            # A mean over more voxels has less variance.
            found = ndimage.map_coordinates(self.weights, where, order=1, mode="constant") / ratio**3
            self._cache[key] = found.astype(np.float32)
        return self._cache[key]


def estimate_whitening(
    tomogram: Tomogram, tilt_axis: str = "y", tilts_deg: tuple[float, float] | None = None
) -> Whitening:
    """Measure the power spectrum of a tomogram from boxes spread through it.

    Parameters
    ----------
    tomogram : Tomogram
        May be memory-mapped: only the boxes are read.
    tilt_axis : str
        "y" (IMOD's convention) or "x"; the beam is along z.
    tilts_deg : tuple of float, optional
        Lowest and highest tilt: frequencies beyond are left out, even if the spectrum shows something there. Which way
        positive tilts go is not known, so an uneven range counts both ways.

    Returns
    -------
    Whitening
    """
    binning = working_binning(tomogram.grid.voxel_nm)
    power = _mean_power(tomogram, binning)
    # Friedel's law: the power at -k is that at k; and neighbouring frequencies are alike.
    power = np.concatenate([power, power[:1]], axis=0)
    power = np.concatenate([power, power[:, :1]], axis=1)
    power[:, :, 0] = (power[:, :, 0] + power[::-1, ::-1, 0]) / 2
    power = ndimage.gaussian_filter(power, 0.7, mode="nearest")
    half = BOX // 2
    line = np.arange(-half, half + 1) / BOX
    z, y, x = np.meshgrid(line, line, np.arange(half + 1) / BOX, indexing="ij")
    radius = np.sqrt(z * z + y * y + x * x)
    share = power / _usual_power(power, radius)
    wedges = {axis: _wedge(share, z, across, radius) for axis, across in (("y", x), ("x", y))}
    low, high = wedges[tilt_axis].tilts_deg
    if tilts_deg is not None:
        widest = max(abs(tilts_deg[0]), abs(tilts_deg[1]))
        low, high = max(low, -widest), min(high, widest)
    across = x if tilt_axis == "y" else y
    tilt = _tilt(z, across)
    measured = (tilt >= low) & (tilt <= high) | ((across == 0) & ((-tilt >= low) & (-tilt <= high)))
    per_nm = radius / (tomogram.grid.voxel_nm * binning)
    membranes = measured & (per_nm >= MEMBRANE_BAND_NM[0]) & (per_nm <= MEMBRANE_BAND_NM[1])
    floor = (
        FLOOR * np.median(power[measured]) + MEMBRANE_FLOOR * power[membranes if membranes.any() else measured].mean()
    )
    weights = measured / (power + floor)
    weights[half, half, 0] = 0  # the mean grey value means nothing
    return Whitening(weights.astype(np.float32), tomogram.grid.voxel_nm * binning, (low, high), wedges)


def _tilt(z: Floats, across: Floats) -> Floats:
    """Angle of frequencies from the axis across the tilt axis towards z, degrees."""
    return np.asarray(np.degrees(np.arctan2(np.where(across < 0, -z, z), np.abs(across))))


def _wedge(share: Floats, z: Floats, across: Floats, radius: Floats) -> Wedge:
    """What was measured if z and `across` lie in the plane of the tilts; `share` is the power over the usual."""
    band = (np.hypot(z, across) >= WEDGE_BAND[0]) & (radius <= WEDGE_BAND[1])
    angle = _tilt(z[band], across[band])
    share = np.minimum(share[band], 2.0)
    centres = np.arange(-88.0, 89.0, 2.0)
    bins = np.clip(np.rint((angle + 88.0) / 2.0).astype(int), 0, len(centres) - 1)
    counts = np.bincount(bins, minlength=len(centres))
    level = np.bincount(bins, weights=share, minlength=len(centres)) / np.maximum(counts, 1)
    level = np.interp(centres, centres[counts > 0], level[counts > 0])
    beam_power = float(level[0] + level[-1]) / 2
    if min(level[0], level[-1]) > NO_WEDGE:
        return Wedge((-90.0, 90.0), beam_power)
    usual = float(np.median(level[np.abs(centres) < 30]))
    low = _edge(-centres[::-1], level[::-1], usual)
    high = _edge(centres, level, usual)
    return Wedge((-low, high), beam_power)


def _edge(angles: Floats, level: Floats, usual: float) -> float:
    """The angle above 0 at which the power ends; 90 if it does not. `usual` is the level about 0.

    Filters and the thickness of the sample make the level higher or lower towards the edge than it is about 0, so it is
    placed in a second step, by the level next to it.
    """
    first = _falls_below(angles, level, WEDGE_EDGE * usual, 20.0)
    if first is None:
        return 90.0
    beside = (angles > first - EDGE_BAND_DEG[1]) & (angles < first - EDGE_BAND_DEG[0])
    second = _falls_below(angles, level, WEDGE_EDGE * float(level[beside].mean()), first - EDGE_BAND_DEG[1])
    return first if second is None else second


def _falls_below(angles: Floats, level: Floats, limit: float, start: float) -> float | None:
    """The first angle above `start` at which the level falls below a limit, interpolated."""
    below = np.flatnonzero((level < limit) & (angles > start))
    if not len(below):
        return None
    at = int(below[0])
    part = (level[at - 1] - limit) / max(level[at - 1] - level[at], 1e-12)
    return float(angles[at - 1] + np.clip(part, 0, 1) * (angles[at] - angles[at - 1]))


def _mean_power(tomogram: Tomogram, binning: int) -> Floats:
    """Mean |FFT|^2 of windowed boxes per voxel (Welch's method), zero frequency in the middle of z and y."""
    shape = np.asarray(tomogram.grid.shape_zyx)
    edge = np.minimum(BOX * binning, shape)
    room = shape - edge
    # The same boxes in every run, however the volume lies on disk: mirrored along all axes, y and x exchanged.
    places = np.concatenate([_PLACES, _PLACES[:, [0, 2, 1]]])
    near = np.rint(places * room).astype(int)
    sides = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(-1, 1, 3)
    starts = np.where(sides == 1, room - near, near).reshape(-1, 3)
    total = np.zeros((BOX, BOX, BOX // 2 + 1))
    weight = 0.0
    for start in starts:
        box = read_box(tomogram, start + (edge - 1) / 2, (edge - 1) / 2 - 0.25, binning)
        if box is None or not np.isfinite(box.values).all():
            continue
        values = box.values[:BOX, :BOX, :BOX]
        windows = [np.hanning(n + 2)[1:-1].astype(np.float32) for n in values.shape]
        inside = windows[0][:, None, None] * windows[1][None, :, None] * windows[2][None, None, :]
        values = (values - np.average(values, weights=inside)) * inside
        if not np.any(values):
            continue
        spectrum = fft.rfftn(values, s=(BOX, BOX, BOX))
        total += np.abs(spectrum) ** 2
        weight += float((inside**2).sum())
    if weight == 0:
        return np.ones_like(total)
    return np.asarray(np.fft.fftshift(total / weight, axes=(0, 1)))


def _usual_power(power: Floats, radius: Floats) -> Floats:
    """The power of measured frequencies at each wavelength: the upper quartile over directions."""
    shells = np.rint(radius * BOX).astype(int)
    count = int(shells.max()) + 1
    levels = np.array([np.quantile(power[shells == s], 0.75) if np.any(shells == s) else 0.0 for s in range(count)])
    return np.maximum(levels[shells], 1e-9 * float(levels.max()) + 1e-30)
