"""Mean grey values about given spheres, for people to look at: nothing is fitted here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.profile import Floats, direction_set, radial_mean, read_box, resolved_weight, sample_polar
from deepvesicle.fitting.rays import neighbours
from deepvesicle.grid import Tomogram
from deepvesicle.memory import ReadPages
from deepvesicle.vesicles import Vesicles

#: Directions that a profile is averaged over, and how well a direction must be resolved to count.
_DIRECTIONS, _RESOLVED = 384, 0.4


def radial_profiles(
    tomogram: Tomogram,
    vesicles: Vesicles,
    offsets_nm: Floats,
    tilt_range_deg: tuple[float, float],
    tilt_axis: str = "y",
    *,
    present: NDArray[np.bool_] | None = None,
) -> Floats:
    """Radial mean of the tomogram about each sphere, in the directions in which a membrane is resolved.

    Parameters
    ----------
    tomogram : Tomogram
        Only boxes about the spheres are read.
    vesicles : Vesicles
        On the tomogram's grid.
    offsets_nm : float array (r,)
        Distances from the outer edge, negative inside.
    tilt_range_deg : tuple of float
    tilt_axis : str
    present : bool array (N,), optional
        Spheres whose inside does not count for others; those that are accepted by default.

    Returns
    -------
    float array (N, r)
        In standard deviations of the voxels of the box about the mean of the box, so that profiles from places of
        different grey values compare. NaN where there are no samples, and for spheres without a place or size.
    """
    set_ = direction_set(_DIRECTIONS)
    resolved = resolved_weight(set_.patches, tilt_range_deg, tilt_axis)
    weights = np.where(resolved >= _RESOLVED, resolved, 0.0)
    others = vesicles.accepted if present is None else present
    steps = np.asarray(offsets_nm) / tomogram.grid.voxel_nm
    centres, radii = vesicles.centres_vox, vesicles.radii_vox
    profiles, pages = np.full((len(vesicles), len(steps)), np.nan), ReadPages()
    for row in range(len(vesicles)):
        if not (np.isfinite(radii[row]) and radii[row] > 0):
            continue
        reach = radii[row] + steps
        box = read_box(tomogram, centres[row], float(reach.max()) + 1, 1)
        pages.note(tomogram.data, (2 * int(reach.max()) + 3,) * 3)
        spread = 0.0 if box is None else float(box.values.std())
        if box is None or not spread > 0:
            continue
        masks = neighbours(centres, radii, row, others)
        mean, total = radial_mean(sample_polar(box, centres[row], reach, set_, masks=masks), weights)
        profiles[row] = np.where(total > 0, (mean - float(box.values.mean())) / spread, np.nan)
    return profiles
