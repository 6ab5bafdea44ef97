"""Inner products of rendered spheres that lie whole in their box.

They depend on the radius and on the profile alone, so each is made once for a tomogram, at radii a few per cent apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from deepvesicle.fitting.profile import Floats
from deepvesicle.fitting.shell_model import (
    LADDER,
    REACH_NM,
    Patch,
    Profile,
    Sphere,
    gram_matrix,
    knot_columns,
    normal_matrix,
)
from deepvesicle.fitting.whitening import Whitening

#: Around a sphere's reach, a box has this much more, nm.
_MARGIN_NM = 8.0


@dataclass
class ShellTables:
    """Tables of one tomogram.

    Parameters
    ----------
    whitening : Whitening
    voxel_nm : float
        Of the boxes that the fits work in.
    """

    whitening: Whitening
    voxel_nm: float
    _normals: dict[tuple[int, int], Floats] = field(default_factory=dict, repr=False)
    _grams: dict[int, Floats] = field(default_factory=dict, repr=False)
    _profiles: dict[int, Profile] = field(default_factory=dict, repr=False)

    def normal(self, profile: Profile, radius_nm: float) -> Floats:
        """Weighted inner products (5, 5) of the derivatives by centre, radius and depth, at depth 1."""
        return self._between(lambda rung: self._normal_at(profile, rung), radius_nm)

    def _normal_at(self, profile: Profile, rung: int) -> Floats:
        """The table of one rung, made when it is first asked for."""
        self._profiles[id(profile)] = profile  # so that no other takes its id
        key = (id(profile), rung)
        if key not in self._normals:
            patch, sphere = self._example(LADDER**rung)
            table = normal_matrix(patch, sphere, profile)
            # A whole sphere is even about its centre; what is left is where this one lies between the voxels.
            table[:3, 3:] = table[3:, :3] = 0.0
            self._normals[key] = table
        return self._normals[key]

    def rungs(self, profile: Profile, radius_nm: float) -> tuple[int, Floats]:
        """What `normal` is interpolated from about a radius: first rung, and tables over squared radii (k, 5, 5)."""
        low = int(np.floor(np.log(radius_nm) / np.log(LADDER)))
        steps = range(low - 1, low + 3)
        return steps.start, np.stack([self._normal_at(profile, rung) / LADDER ** (2 * rung) for rung in steps])

    def gram(self, radius_nm: float) -> Floats:
        """Weighted inner products (k, k) of a sphere's parts that belong to the profile's knots, at depth 1."""

        def make(rung: int) -> Floats:
            if rung not in self._grams:
                patch, sphere = self._example(LADDER**rung)
                region, columns = knot_columns(patch, sphere)
                self._grams[rung] = gram_matrix(patch, region, columns)
            return self._grams[rung]

        return self._between(make, radius_nm)

    def _between(self, make: Callable[[int], Floats], radius_nm: float) -> Floats:
        """A table at a radius; its entries grow about as the sphere's surface."""
        place = float(np.log(radius_nm) / np.log(LADDER))
        low = int(np.floor(place))
        part = place - low
        below, above = (make(rung) / LADDER ** (2 * rung) for rung in (low, low + 1))
        return np.asarray(((1 - part) * below + part * above) * radius_nm**2)

    def _example(self, radius_nm: float) -> tuple[Patch, Sphere]:
        """A sphere in the middle of an empty box, between the voxels."""
        half = radius_nm + REACH_NM + _MARGIN_NM
        patch = Patch.empty(self.whitening, half, self.voxel_nm)
        return patch, Sphere(np.full(3, half) + np.array([0.3, 0.2, 0.1]) * self.voxel_nm, radius_nm)
