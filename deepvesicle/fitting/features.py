"""What is measured of each fitted sphere: membrane thickness, grey values, contrast, share inside the volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.profile import (
    HALF_BILAYER_NM,
    Floats,
    direction_set,
    landmark_table,
    radial_mean,
    read_box,
    resolved_weight,
    sample_polar,
)
from deepvesicle.fitting.shell_fit import Template
from deepvesicle.grid import Tomogram
from deepvesicle.settings import RefinementSettings
from deepvesicle.spheres import inside_fractions
from deepvesicle.vesicles import Vesicles

#: The outer edge of a membrane lies so far outside its middle, nm, where the outer inflection of its (smoothed) profile
#: does so by the second figure; and it moves with it by so much. From simulated tomograms of known outer radii
#: (tests/benchmark/edge.py): the rest has an SD of 0.10 nm over voxel size, defocus, filters and thickness.
OUTER_NM, INFLECTION_NM, OUTER_SLOPE = 1.27, 2.7, 0.50
#: SD of what that leaves open, nm, shared by the vesicles of a tomogram.
OUTER_SD_NM = 0.12
#: What a membrane's half thickness can be, nm.
HALF_THICKNESS_RANGE_NM = (0.9, 3.5)
#: With fewer vesicles their thicknesses are taken to be equal.
MIN_FOR_SPREAD = 10
#: How far the half thickness of one vesicle may lie from that of the others, nm.
MAX_OWN_NM = 0.8
#: Names of the features that `measure` returns.
FEATURES = ("membrane_density", "lumen_density", "contrast", "profile_correlation", "inside_fraction")


def membrane_thickness(
    offsets_nm: Floats, profiles: Floats, halves: Floats, trust: Floats, common_nm: float | None = None
) -> Floats:
    """Thickness of each membrane, nm, from the profiles across it: twice the way from its middle to its outer edge.

    Differences between vesicles count as far as the two halves of each vesicle's directions agree on them.

    Parameters
    ----------
    offsets_nm : array (r,)
    profiles : array (n, r)
        About the middle of each membrane; NaN where there is none.
    halves : array (n, 2, r)
    trust : array (n,)
        Weight in the mean over the tomogram.
    common_nm : float, optional
        Half thickness over the tomogram, where it is known from a better profile than the mean of these.

    Returns
    -------
    array (n,)
    """
    n = len(profiles)
    trusted = trust > 0
    common = HALF_BILAYER_NM if common_nm is None else common_nm
    if not np.any(trusted):
        return np.full(n, 2 * common)
    if common_nm is None:
        usual = np.average(profiles[trusted], axis=0, weights=trust[trusted])
        found = half_thickness(landmark_table(offsets_nm, usual[None, :])[:, 1])[0]
        common = float(found) if np.isfinite(found) else common
    each = half_thickness(landmark_table(offsets_nm, profiles)[:, 1])
    split = half_thickness(landmark_table(offsets_nm, halves.reshape(2 * n, -1))[:, 1]).reshape(n, 2)
    known = trusted & np.isfinite(each) & np.all(np.isfinite(split), axis=1)
    if known.sum() < MIN_FOR_SPREAD:
        return np.full(n, 2 * common)
    noise = (_spread(split[known, 0] - split[known, 1]) / 2) ** 2
    reliability = max(0.0, 1 - noise / max(_spread(each[known]) ** 2, 1e-12))
    own = np.where(known, np.clip(each - np.median(each[known]), -MAX_OWN_NM, MAX_OWN_NM), 0.0)
    return np.asarray(2 * np.clip(common + reliability * own, *HALF_THICKNESS_RANGE_NM))


def _spread(values: Floats) -> float:
    """Robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def half_thickness(inflection_nm: Floats) -> Floats:
    """Way from a membrane's middle to its outer edge (nm), for outer inflections at distances (n,); NaN stays NaN.

    The published method takes the sharpest bend before the outer fringe for the edge, which moves with the blur. The
    inflection moves less, and how far the true edge lies inside it is known from simulations: see `OUTER_NM`.
    """
    half = OUTER_NM + OUTER_SLOPE * (np.asarray(inflection_nm, dtype=float) - INFLECTION_NM)
    return np.asarray(np.clip(half, *HALF_THICKNESS_RANGE_NM))


def measure(
    tomogram: Tomogram,
    vesicles: Vesicles,
    settings: RefinementSettings,
    offsets_nm: Floats,
    template: Template,
    profiles: Floats,
    *,
    skip: NDArray[np.bool_],
) -> dict[str, Floats]:
    """Grey-value features of every sphere.

    Parameters
    ----------
    tomogram : Tomogram
    vesicles : Vesicles
        Where `membrane_radii_vox` is unknown, half a usual bilayer is taken off the radius.
    settings : RefinementSettings
    offsets_nm : array (r,)
        Where profiles are compared, about the membrane's middle.
    template : Template
        The tomogram's mean profile.
    profiles : array (n, r)
        Those of the fit; sampled here where NaN.
    skip : bool array (n,)
        Rows that keep the features they have.

    Returns
    -------
    dict of name to array (n,)
        ``membrane_density``, ``lumen_density``: mean grey value less that of the surroundings, in SD of a voxel of the
        surroundings; ``contrast``: d' = (mean of lumen - mean of membrane) / SD of lumen, per voxel, over directions in
        which the membrane is resolved; ``profile_correlation``: with the mean profile; ``inside_fraction``. NaN where
        there are too few voxels.
    """
    voxel = tomogram.grid.voxel_nm
    unknown = np.full(len(vesicles), np.nan)
    out = {name: np.array(vesicles.features.get(name, unknown), dtype=float) for name in FEATURES}
    half = HALF_BILAYER_NM / voxel
    middle = np.where(np.isfinite(vesicles.membrane_radii_vox), vesicles.membrane_radii_vox, vesicles.radii_vox - half)
    middle = np.maximum(middle, 0.5)
    inside = inside_fractions(tomogram.grid, vesicles.centres_vox, vesicles.radii_vox)
    within = np.abs(offsets_nm) <= 9.0
    near = offsets_nm[within]
    wanted = template.at(near)
    set_ = direction_set(512)
    resolved = resolved_weight(set_.patches, settings.tilts_deg, settings.tilt_axis)
    for row in np.flatnonzero(~skip):
        centre, radius = vesicles.centres_vox[row], float(middle[row])
        out["inside_fraction"][row] = inside[row]
        box = read_box(tomogram, centre, radius + 13.0 / voxel, 1)
        if box is None:
            continue
        densities = _densities(box.values, centre - box.origin_vox, radius, voxel, settings)
        out["membrane_density"][row], out["lumen_density"][row], out["contrast"][row] = densities
        profile = profiles[row][within]
        if not np.all(np.isfinite(profile)):
            table = sample_polar(box, centre, radius + near / voxel, set_)
            profile, total = radial_mean(table, np.where(resolved >= 0.4, resolved, 0))
            profile = np.where(total > 0, profile, np.nan)
        good = np.isfinite(profile)
        if good.sum() > 3 and np.std(profile[good]) > 0:
            out["profile_correlation"][row] = np.corrcoef(profile[good], wanted[good])[0, 1]
    return out


def _densities(
    values: NDArray[np.float32], centre: Floats, radius: float, voxel_nm: float, settings: RefinementSettings
) -> tuple[float, float, float]:
    """Membrane and lumen against the surroundings, and d'."""
    # Large vesicles have far more voxels than means need.
    stride = max(1, int(radius // 25))
    axes = [np.arange(0, n, stride) - c for n, c in zip(values.shape, centre, strict=True)]
    z, y, x = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    values = values[::stride, ::stride, ::stride]
    across = x if settings.tilt_axis == "y" else y
    distance = np.sqrt(z * z + y * y + x * x)
    steepest = np.tan(np.radians(min(abs(settings.tilts_deg[0]), abs(settings.tilts_deg[1]), 85.0)))
    # Inside the measured wedge and not near the poles, whose normals turn into the missing one.
    seen = (np.abs(z) <= steepest * np.abs(across)) & (np.abs(z) <= 0.7 * distance)
    off_nm = (distance - radius) * voxel_nm
    membrane = values[seen & (np.abs(off_nm) <= max(HALF_BILAYER_NM, 0.6 * voxel_nm))]
    lumen = values[distance < max(radius - 5.0 / voxel_nm, 0.5 * radius)]
    around = values[(off_nm > 5.0) & (off_nm < 13.0)]
    if len(membrane) < 8 or len(lumen) < 8 or len(around) < 8:
        return np.nan, np.nan, np.nan
    noise = max(float(around.std()), 1e-12)
    contrast = (float(lumen.mean()) - float(membrane.mean())) / max(float(lumen.std()), 1e-12)
    level = float(np.median(around))
    return (float(membrane.mean()) - level) / noise, (float(lumen.mean()) - level) / noise, contrast
