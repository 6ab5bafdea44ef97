"""All spheres of a tomogram fitted as one model of it, with the profile of their membranes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.profile import working_binning
from deepvesicle.fitting.shell_model import (
    REACH_NM,
    ModelFit,
    Patch,
    Profile,
    Sphere,
    cut_patch,
    fit_sphere,
    learn_profile,
)
from deepvesicle.fitting.shell_tables import ShellTables
from deepvesicle.fitting.whitening import Whitening
from deepvesicle.grid import Tomogram

#: Around a sphere's reach, a box for its fit has this much more, nm.
MARGIN_NM = 8.0
#: Spheres whose centres are nearer than this share of the larger radius are one vesicle.
SAME_VESICLE = 0.6
#: Spheres that a profile is learned from, at most, and how many of them may lie near the border.
EXAMPLES, _COSTLY_EXAMPLES = 28, 7

Mapping = Callable[..., Iterable[None]]


class JointFit:
    """Spheres, and the profile of their membranes.

    Parameters
    ----------
    tomogram : Tomogram
        May be memory-mapped: boxes around the spheres are read when they are needed, and not kept.
    whitening : Whitening
    spheres : sequence of Sphere
    mapping : callable
        `map`, or the same of a pool of threads.
    """

    def __init__(
        self,
        tomogram: Tomogram,
        whitening: Whitening,
        spheres: Sequence[Sphere],
        mapping: Callable[..., Iterable] = map,  # type: ignore[type-arg]
    ) -> None:
        voxel = tomogram.grid.voxel_nm
        self.tomogram, self.whitening, self.mapping = tomogram, whitening, mapping
        self.tables = ShellTables(whitening, voxel * working_binning(voxel))
        self.spheres = list(spheres)
        self.fits: list[ModelFit | None] = [None] * len(self.spheres)
        # The depth of a generic profile means nothing, so neighbours cannot be taken out with it.
        self.profile = Profile.generic(0.0)

    def learn(self, rows: Sequence[int], present: NDArray[np.bool_]) -> None:
        """Learn the profile from the first spheres of a list, and move all radii to its middle."""
        examples: list[tuple[Patch, Sphere, list[Sphere]]] = []
        costly = 0
        crowd = _Crowd(self.spheres, present)
        for row in rows:
            if len(examples) == EXAMPLES:
                break
            patch, sphere = self._patch(row), self.spheres[row]
            if patch is None:
                continue
            if not patch.holds(sphere, REACH_NM):
                # Their inner products have to be made one by one.
                if costly == _COSTLY_EXAMPLES:
                    continue
                costly += 1
            examples.append((patch, sphere, crowd.around(row)))
        if not examples:
            return
        self.profile, shift = learn_profile(examples, self.profile, Profile.generic(), self.mapping, self.tables)
        self.spheres = [replace(s, radius_nm=s.radius_nm + shift) for s in self.spheres]

    def fit(
        self, rows: Iterable[int], present: NDArray[np.bool_], steps: int, progress: Callable[[int], None] | None = None
    ) -> None:
        """Fit some spheres, each with those others that are present where they were before."""
        crowd = _Crowd(self.spheres, present)

        def one(row: int) -> ModelFit | None:
            patch = self._patch(row)
            if patch is None:
                return None
            around = crowd.around(row)
            return fit_sphere(patch, self.spheres[row], self.profile, around, steps=steps, tables=self.tables)

        rows = list(rows)
        found = []
        for fit in self.mapping(one, rows):
            found.append(fit)
            if progress is not None:
                progress(1)
        for row, fit in zip(rows, found, strict=True):
            self.fits[row] = fit
            if fit is not None:
                self.spheres[row] = fit.sphere

    def _patch(self, row: int) -> Patch | None:
        sphere = self.spheres[row]
        reach = sphere.radius_nm + REACH_NM + MARGIN_NM
        return cut_patch(self.tomogram, self.whitening, sphere.centre_nm, reach)


class _Crowd:
    """Where all spheres are at the moment."""

    def __init__(self, spheres: Sequence[Sphere], present: NDArray[np.bool_]) -> None:
        from scipy.spatial import cKDTree

        self._spheres, self._present = list(spheres), present
        self._centres = np.array([s.centre_nm for s in spheres]).reshape(-1, 3)
        self._radii = np.array([s.radius_nm for s in spheres])
        self._tree = cKDTree(self._centres) if len(self._centres) else None
        self._largest = float(self._radii.max(initial=0.0))

    def around(self, row: int) -> list[Sphere]:
        """Spheres whose profile reaches into that of one, but for those that are the same vesicle."""
        if self._tree is None:
            return []
        own = self._spheres[row]
        reach = own.radius_nm + self._largest + 2 * REACH_NM
        rows = np.array(sorted(self._tree.query_ball_point(own.centre_nm, reach)), dtype=int)
        distance, radii = np.linalg.norm(self._centres[rows] - own.centre_nm, axis=1), self._radii[rows]
        near = self._present[rows] & (rows != row) & (distance < own.radius_nm + radii + 2 * REACH_NM)
        near &= distance > SAME_VESICLE * np.maximum(radii, own.radius_nm)
        return [self._spheres[i] for i in rows[near]]
