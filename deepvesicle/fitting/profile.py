"""Sampling a tomogram along radii, and the landmarks of a membrane's radial profile.

Everything works on boxes of the tomogram's own grid, one vesicle at a time. Directions are grouped into patches, so
that a whole sphere becomes a small table of grey values (patch, radius): see `PolarTable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from deepvesicle.fitting.kernels import polar_sums
from deepvesicle.grid import Tomogram
from deepvesicle.memory import ReadPages
from deepvesicle.spheres import mirrored_directions

Floats = NDArray[np.float64]

#: Number of patches of directions that a sphere is divided into.
PATCHES = 96
#: Tomograms finer than this are averaged in blocks up to it before sampling, nm: a membrane is not narrower.
WORKING_VOXEL_NM = 2.1
#: Half thickness of a lipid bilayer, nm: half of the head-to-head distance of fluid phosphatidylcholine bilayers,
#: 3.7-3.8 nm (Nagle and Tristram-Nagle, Biochim. Biophys. Acta 1469 (2000) 159-195).
HALF_BILAYER_NM = 1.9
#: Profiles are smoothed with this sigma, nm, before landmarks are looked for: the leaflets of a bilayer, 2 to 3.7 nm
#: apart, make one minimum then, whether they are resolved or not.
MERGE_LEAFLETS_NM = 2.0
#: Boxes are read from all over a tomogram: what has been read of a memory-mapped one is let go of.
_PAGES = ReadPages()


@dataclass(frozen=True)
class DirectionSet:
    """Directions sorted by the patch they belong to.

    Parameters
    ----------
    directions : array (n, 3)
        Unit vectors z, y, x.
    first : int array (p,)
        Index of the first direction of each patch.
    patches : array (p, 3)
        Mean direction of each patch, unit length.
    """

    directions: Floats
    first: NDArray[np.intp]
    patches: Floats


@lru_cache(maxsize=32)
def direction_set(count: int) -> DirectionSet:
    """About `count` quasi-uniform directions in `PATCHES` patches (fewer where a patch would be empty)."""
    centres = mirrored_directions(PATCHES)
    directions = mirrored_directions(max(count, 4 * PATCHES))
    nearest = np.argmax(directions @ centres.T, axis=1)
    order = np.argsort(nearest, kind="stable")
    _, first = np.unique(nearest[order], return_index=True)
    directions = directions[order]
    sums = np.add.reduceat(directions, first, axis=0)
    return DirectionSet(directions, first, sums / np.linalg.norm(sums, axis=1, keepdims=True))


@lru_cache(maxsize=8)
def _wedge_lattice(tilt_range_deg: tuple[float, float], tilt_axis: str) -> tuple[Floats, Floats]:
    """Directions on the sphere and whether a plane wave along each was measured (0, 0.5 or 1)."""
    lattice = mirrored_directions(4096)
    across = lattice[:, 2] if tilt_axis == "y" else lattice[:, 1]
    angle = np.degrees(np.arctan2(lattice[:, 0] * np.where(across < 0, -1, 1), np.abs(across)))
    low, high = min(tilt_range_deg), max(tilt_range_deg)
    # Which way round positive angles go depends on the microscope: an uneven range counts both ways, half each.
    seen = ((angle >= low) & (angle <= high)).astype(float) + ((-angle >= low) & (-angle <= high))
    return lattice, seen / 2


@lru_cache(maxsize=32)
def patch_weights(count: int, tilt_range_deg: tuple[float, float], tilt_axis: str) -> tuple[Floats, Floats]:
    """How well each patch of `direction_set(count)` is resolved, and its share of all directions, both (p,)."""
    set_ = direction_set(count)
    shares = np.diff(np.append(set_.first, len(set_.directions))) / len(set_.directions)
    return resolved_weight(set_.patches, tilt_range_deg, tilt_axis), shares


def resolved_weight(directions: Floats, tilt_range_deg: tuple[float, float], tilt_axis: str = "y") -> Floats:
    """How well membranes with these normals are resolved by a tilt series, 0 (not at all) to 1.

    A flat membrane is resolved where its normal lies outside the missing double wedge about z. A patch of a curved
    one holds normals of some spread, here 12 degrees, over which the wedge is averaged.

    Parameters
    ----------
    directions : array (n, 3)
        Unit normals z, y, x.
    tilt_range_deg : tuple of float
        Lowest and highest tilt.
    tilt_axis : str
        "y" (IMOD's convention) or "x"; the beam is along z.

    Returns
    -------
    array (n,)

    Raises
    ------
    ValueError
        Another tilt axis.
    """
    if tilt_axis not in ("x", "y"):
        raise ValueError(f"the tilt axis must be x or y, got {tilt_axis!r}")
    lattice, seen = _wedge_lattice((float(tilt_range_deg[0]), float(tilt_range_deg[1])), tilt_axis)
    spread = np.radians(12.0)
    kernel = np.exp((np.asarray(directions) @ lattice.T - 1) / spread**2)
    return np.asarray((kernel @ seen) / kernel.sum(axis=1))


@dataclass(frozen=True)
class Box:
    """A part of a tomogram, averaged over blocks of `binning` voxels.

    Parameters
    ----------
    values : float32 array (z, y, x)
    origin_vox : array (3,)
        Centre of the first block, voxels of the tomogram.
    binning : int
    low_vox, high_vox : arrays (3,)
        Places at least this high and at most this high have values.
    """

    values: NDArray[np.float32]
    origin_vox: Floats
    binning: int
    low_vox: Floats
    high_vox: Floats


def read_box(tomogram: Tomogram, centre_vox: Floats, half_width_vox: float, binning: int) -> Box | None:
    """The part of the tomogram within `half_width_vox` of a centre along each axis; None where nothing is inside."""
    shape = np.asarray(tomogram.grid.shape_zyx)
    if not np.isfinite(centre_vox).all():
        return None
    start = np.clip(np.floor(centre_vox - half_width_vox).astype(int), 0, shape)
    stop = np.clip(np.ceil(centre_vox + half_width_vox).astype(int) + 1, 0, shape)
    # Whole blocks only: up to binning - 1 voxels at the far side are left out.
    blocks = (stop - start) // binning
    if np.any(blocks < 2):
        return None
    stop = start + blocks * binning
    region = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    values = tomogram.grey(region)  # type: ignore[arg-type]
    _PAGES.note(tomogram.data, values.shape)
    if binning > 1:
        nz, ny, nx = (int(n) for n in blocks)
        values = values.reshape(nz, binning, ny, binning, nx, binning).mean(axis=(1, 3, 5))
    return Box(values, start + (binning - 1) / 2, binning, start - 0.5, stop - 0.5)


@dataclass(frozen=True)
class PolarTable:
    """Grey values about a centre, averaged over patches of directions.

    Parameters
    ----------
    means : array (p, r)
        Mean grey value of the samples of a patch at a radius; 0 where there is none.
    counts : array (p, r)
        Number of samples that count, weighted.
    patches : array (p, 3)
        Mean direction of each patch.
    total : int
        Number of directions.
    """

    means: Floats
    counts: Floats
    patches: Floats
    total: int


def sample_polar(
    box: Box,
    centre_vox: Floats,
    radii_vox: Floats,
    set_: DirectionSet,
    *,
    weights: Floats | None = None,
    masks: tuple[Floats, Floats] | None = None,
) -> PolarTable:
    """Sample a box along rays from a centre by linear interpolation, leaving out what is outside or masked.

    Parameters
    ----------
    box : Box
    centre_vox : array (3,)
    radii_vox : array (r,)
        Negative radii have no samples.
    set_ : DirectionSet
    weights : array (r,), optional
        Weight of the samples at each radius.
    masks : tuple of arrays (k, 3) and (k,), optional
        Centres and radii of spheres, voxels, whose inside is left out.

    Returns
    -------
    PolarTable
    """
    places, sizes = masks if masks is not None else (np.zeros((0, 3)), np.zeros(0))
    sums, counts = polar_sums(
        np.asarray(box.values, dtype=np.float32),
        box.origin_vox,
        float(box.binning),
        box.low_vox,
        box.high_vox,
        np.asarray(centre_vox, dtype=float),
        set_.directions,
        set_.first,
        np.asarray(radii_vox, dtype=float),
        np.asarray(places, dtype=float).reshape(-1, 3),
        np.asarray(sizes, dtype=float),
    )
    means = sums / np.maximum(counts, 1)
    if weights is not None:
        counts = counts * weights
    return PolarTable(means, counts, set_.patches, len(set_.directions))


def radial_mean(table: PolarTable, patch_weights: Floats) -> tuple[Floats, Floats]:
    """The mean profile (r,) of a table, its patches weighted, and the sum of the weights (r,)."""
    weights = table.counts * patch_weights[:, None]
    total = weights.sum(axis=0)
    return (weights * table.means).sum(axis=0) / np.maximum(total, 1e-12), total


def working_binning(voxel_nm: float) -> int:
    """Block size that brings a tomogram near `WORKING_VOXEL_NM`, never coarser."""
    return max(1, int(WORKING_VOXEL_NM / voxel_nm + 1e-6))


def shell_template(offsets_nm: Floats, sigma_nm: float = 2.2) -> Floats:
    """The profile across a membrane before it is known: a dark line between bright fringes (second derivative of a
    Gaussian), -1 at its middle, with no mean.
    """
    x2 = (np.asarray(offsets_nm) / sigma_nm) ** 2
    return np.asarray((x2 - 1) * np.exp(-x2 / 2))


@dataclass(frozen=True)
class Landmarks:
    """Where the membrane lies in a radial profile, nm.

    Parameters
    ----------
    middle_nm : float
        The minimum of the profile.
    inflection_nm : float
        Distance from the middle to the outer inflection point, where the second derivative changes its sign.
    curvature_nm : float
        Distance from the middle to the minimum of the second derivative before the outer fringe's maximum ends: how
        the published method defines half the thickness. In a tomogram of some 2 nm a voxel it lies in the fringe,
        2 to 3 nm outside the bilayer.
    """

    middle_nm: float
    inflection_nm: float
    curvature_nm: float


def landmarks(
    offsets_nm: Floats, profiles: Floats, *, window_nm: float = 3.0, smooth_nm: float = MERGE_LEAFLETS_NM
) -> Landmarks:
    """Find the middle and the outer flank of a membrane in a profile, to a fraction of the sampling step.

    Parameters
    ----------
    offsets_nm : array (r,)
        Even steps, about the expected middle.
    profiles : array (r,)
    window_nm : float
        The middle is looked for within this distance of offset 0.
    smooth_nm : float
        Sigma of a Gaussian the profile is smoothed with, so that two leaflets that are resolved have one middle.

    Returns
    -------
    Landmarks
        NaN where a landmark does not exist.
    """
    found = landmark_table(offsets_nm, np.asarray(profiles)[None, :], window_nm=window_nm, smooth_nm=smooth_nm)
    return Landmarks(*(float(v) for v in found[0]))


def landmark_table(
    offsets_nm: Floats, profiles: Floats, *, window_nm: float = 3.0, smooth_nm: float = MERGE_LEAFLETS_NM
) -> Floats:
    """`landmarks` of many profiles (n, r) at once: middle, inflection and curvature (n, 3), nm; NaN where missing."""
    offsets = np.asarray(offsets_nm, dtype=float)
    profiles = np.asarray(profiles, dtype=float)
    found = np.full((len(profiles), 3), np.nan)
    rows = np.flatnonzero(np.all(np.isfinite(profiles), axis=1))
    near = np.flatnonzero(np.abs(offsets) <= window_nm + 1e-9)
    if not len(rows) or len(near) < 3:
        return found
    step = offsets[1] - offsets[0]
    values = gaussian_filter1d(profiles[rows], smooth_nm / step, axis=1, mode="nearest")
    second = gaussian_filter1d(profiles[rows], smooth_nm / step, axis=1, order=2, mode="nearest")
    lowest = near[np.argmin(values[:, near], axis=1)]
    inner = (lowest > near[0]) & (lowest < near[-1])
    rows, values, second, lowest = rows[inner], values[inner], second[inner], lowest[inner]
    line = np.arange(len(rows))
    middle = offsets[lowest] + step * _parabola_peak(*(-values[line, lowest + k] for k in (-1, 0, 1)))
    found[rows, 0] = middle
    columns = np.arange(len(offsets))[None, :]
    outside = (columns >= lowest[:, None]) & (offsets[None, :] <= middle[:, None] + 9.0)
    # From the middle outwards: the first change of sign, the fringe's maximum, and the sharpest bend between them.
    falls = outside[:, :-1] & (second[:, :-1] > 0) & (second[:, 1:] <= 0)
    crossing = np.argmax(falls, axis=1)
    part = second[line, crossing] / np.maximum(second[line, crossing] - second[line, crossing + 1], 1e-300)
    has = falls.any(axis=1)
    found[rows[has], 1] = (offsets[crossing] + step * part - middle)[has]
    fringe = np.argmax(np.where(outside, values, -np.inf), axis=1)
    between = (columns > crossing[:, None]) & (columns <= np.maximum(fringe, crossing + 1)[:, None])
    bend = np.clip(np.argmin(np.where(between, second, np.inf), axis=1), 1, len(offsets) - 2)
    peak = _parabola_peak(*(-second[line, bend + k] for k in (-1, 0, 1)))
    found[rows[has], 2] = (offsets[bend] + step * peak - middle)[has]
    return found


def _parabola_peak(before: Floats, at: Floats, after: Floats) -> Floats:
    """Place of the maximum of parabolas through values at -1, 0, 1."""
    bend = before - 2 * at + after
    return np.where(bend < 0, np.clip(0.5 * (before - after) / np.where(bend < 0, bend, -1), -1, 1), 0.0)
