"""Spheroids through the surface of a probability mask.

The missing wedge leaves the top and bottom of a vesicle unresolved, so a network's mask of a sphere is often squashed
along z. Each instance is therefore fitted with a spheroid whose axis is z: its equatorial radius is the vesicle's, its
centre is the centre of symmetry, and the squash is a free number that absorbs whatever happened to the caps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.spheroid_kernels import spheroid_through

Floats = NDArray[np.float64]

#: Square of equatorial radius over half height: where the fit starts, how firmly it is held there, and its bounds.
SQUASH2_PRIOR, SQUASH2_RANGE = 1.2, (0.8, 5.0)
#: Weight of that start, as a share of the points.
PRIOR_WEIGHT = 0.002
#: What the compiled loops need for a fit: rounds of reweighting, and the above.
SPHEROID_FIT = (6, SQUASH2_PRIOR, PRIOR_WEIGHT, *SQUASH2_RANGE)


@dataclass
class Spheroid:
    """A spheroid about the z axis, in voxels of the mask it was fitted to.

    Parameters
    ----------
    centre : float array (3,)
        z, y, x.
    radius : float
        Equatorial.
    squash2 : float
        (equatorial radius / half height)**2.
    """

    centre: Floats
    radius: float
    squash2: float = 1.0

    def distance(self, z: Floats, y: Floats, x: Floats) -> Floats:
        """Distance from the centre in the spheroid's own metric: equals `radius` on the surface."""
        cz, cy, cx = self.centre
        return np.asarray(np.sqrt(self.squash2 * (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2))

    def row(self) -> Floats:
        """As the compiled loops have it: centre, radius and squash2 (5,)."""
        return np.array([*self.centre, self.radius, self.squash2], dtype=np.float64)

    @classmethod
    def of_row(cls, row: Floats) -> Spheroid:
        """From what `row` gives."""
        return cls(row[:3].copy(), float(row[3]), float(row[4]))

    @property
    def half_height(self) -> float:
        """Half of its extent along z."""
        return float(self.radius / np.sqrt(self.squash2))


def fit_spheroid(points: Floats, start: Spheroid) -> Spheroid | None:
    """Robust least-squares spheroid through surface points.

    With the squash ``q`` free the surface ``x**2 + y**2 + q z**2 = 2 a x + 2 b y + 2 c z + k`` is linear in its five
    unknowns; points far from it lose their weight (Tukey's biweight on the residuals, reweighted each round).

    Parameters
    ----------
    points : float array (N, 3)
        z, y, x, voxels.
    start : Spheroid
        First guess; points whose distance from its centre is far from its radius count less from the beginning.

    Returns
    -------
    Spheroid or None
        None where the points do not determine one.
    """
    points = np.ascontiguousarray(points, dtype=np.float64)
    good, row = spheroid_through(points, start.row(), *SPHEROID_FIT)
    return Spheroid.of_row(row) if good else None
