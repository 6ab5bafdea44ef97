"""What is measured of each fitted sphere: membrane thickness, grey values, contrast, share inside the volume."""

from __future__ import annotations

from dataclasses import dataclass

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

#: Where a membrane lies about the minimum of its (smoothed) profile. Its outer edge: so far outside, nm, where the
#: outer inflection of the profile is the second figure away; and it moves with that by so much. Its middle: so far
#: outside where both inflections are equally far; and it moves by so much where the outer one is the further one.
#: From simulated tomograms of known radii (tests/benchmark/edge.py), over voxel size, defocus, filters and thickness.
OUTER_NM, INFLECTION_NM, OUTER_SLOPE = 1.21, 2.7, 0.54
MIDDLE_NM, MIDDLE_SLOPE = -0.05, 0.71
#: SD of what that leaves open, nm, shared by the vesicles of a tomogram.
OUTER_SD_NM = 0.08
#: How far the outer edge can lie outside the middle of a membrane, nm.
HALF_THICKNESS_RANGE_NM = (0.8, 3.5)
#: With fewer vesicles their membranes are taken to be equal.
MIN_FOR_SPREAD = 10
#: How far the edge of one vesicle may lie from where those of the others do, nm.
MAX_OWN_NM = 0.8
#: Names of the features that `measure` returns.
FEATURES = ("membrane_density", "lumen_density", "contrast", "profile_correlation", "inside_fraction")


def places(
    offsets_nm: Floats, profiles: Floats, halves: Floats, trust: Floats, common: Place | None = None
) -> tuple[Floats, Floats]:
    """Where the membranes lie about the minima of their profiles, nm.

    Differences between vesicles count as far as the two halves of each vesicle's directions agree on them.

    Parameters
    ----------
    offsets_nm : array (r,)
    profiles : array (n, r)
        About the minimum of each membrane; NaN where there is none.
    halves : array (n, 2, r)
    trust : array (n,)
        Weight in the mean over the tomogram.
    common : Place, optional
        Over the tomogram, where it is known from a better profile than the mean of these.

    Returns
    -------
    middle, outer : arrays (n,)
        How far middle and outer edge lie outside the minimum.
    """
    n = len(profiles)
    trusted = trust > 0
    if common is None and np.any(trusted):
        common = Place.in_profile(offsets_nm, np.average(profiles[trusted], axis=0, weights=trust[trusted]))
    if common is None:
        common = Place(0.0, HALF_BILAYER_NM)
    middle, outer = np.full(n, common.middle_nm), np.full(n, common.outer_nm)
    if not np.any(trusted):
        return middle, outer
    each = outer_offset(landmark_table(offsets_nm, profiles)[:, 1])
    split = outer_offset(landmark_table(offsets_nm, halves.reshape(2 * n, -1))[:, 1]).reshape(n, 2)
    known = trusted & np.isfinite(each) & np.all(np.isfinite(split), axis=1)
    if known.sum() < MIN_FOR_SPREAD:
        return middle, outer
    noise = (_spread(split[known, 0] - split[known, 1]) / 2) ** 2
    reliability = max(0.0, 1 - noise / max(_spread(each[known]) ** 2, 1e-12))
    own = np.where(known, np.clip(each - np.median(each[known]), -MAX_OWN_NM, MAX_OWN_NM), 0.0)
    return middle, middle + np.clip(outer + reliability * own - middle, *HALF_THICKNESS_RANGE_NM)


@dataclass(frozen=True)
class Place:
    """Where a membrane lies about the minimum of its profile, nm.

    Parameters
    ----------
    middle_nm : float
        How far its middle lies outside.
    outer_nm : float
        How far its outer edge does.
    """

    middle_nm: float
    outer_nm: float

    @classmethod
    def in_profile(cls, offsets_nm: Floats, values: Floats) -> Place | None:
        """From a mean profile (r,) whose minimum is at offset 0; None where there is no dark line between flanks."""
        outer = float(landmark_table(offsets_nm, values[None, :])[0, 1])
        inner = float(landmark_table(offsets_nm, values[None, ::-1])[0, 1])
        if not (np.isfinite(outer) and np.isfinite(inner)):
            return None
        middle = float(np.clip(MIDDLE_NM + MIDDLE_SLOPE * (outer - inner), -MAX_OWN_NM, MAX_OWN_NM))
        edge = float(outer_offset(np.array([outer]))[0])
        return cls(middle, max(edge, middle + HALF_THICKNESS_RANGE_NM[0]))


def _spread(values: Floats) -> float:
    """Robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def outer_offset(inflection_nm: Floats) -> Floats:
    """Way from the minimum of a membrane's profile to its outer edge (nm), for outer inflections at distances (n,).

    The published method takes the sharpest bend before the outer fringe for the edge, which moves with the blur. The
    inflection moves less, and how far the true edge lies inside it is known from simulations: see `OUTER_NM`. NaN stays
    NaN.
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
