"""Whether spheres that somebody drew lie on the membranes of a tomogram, and if not, where they would.

The mean contrast of thin shells is compared for the spheres as they are, and shifted, mirrored, scaled or with axes
exchanged, as models of another volume would be. The same comparison over the radius tells whether people drew along the
middle of the membrane rather than its outer edge. Cheap: some thousand voxels are looked at for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.profile import HALF_BILAYER_NM
from deepvesicle.grid import Tomogram
from deepvesicle.spheres import mirrored_directions
from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]

AXES = "zyx"
#: Spheres looked at, at most, and directions of each. Membranes that face the beam are not resolved: directions with a
#: larger share along it are left out.
_MAX_SPHERES, _DIRECTIONS, _MAX_Z = 64, 96, 0.6
#: The membrane against what is this far from its middle on both sides, nm.
_ASIDE_NM = 6.0
#: Shifts that are tried, nm: half a membrane apart.
_STEP_NM, _FARTHEST_NM = 2.5, 100.0
#: Radii that are tried, nm from those drawn.
_RADIUS_STEP_NM, _FARTHEST_RADIUS_NM = 0.5, 8.0
#: Of the contrast, in standard deviations over all wrong places: below the first there is no membrane to be seen,
#: from the second on a place is beyond doubt.
_SEEN, _CLEAR = 4.0, 6.0
#: A better place has this many times the contrast, a better radius this many times, and both differ by more than (nm).
_BETTER_PLACE, _BETTER_RADIUS = 1.6, 1.15
_LEAST_SHIFT_NM, _LEAST_RADIUS_NM = 4.0, 1.0
#: Shorter shifts along an axis are not told, nm.
_LEAST_MOVE_NM = 3.0
#: Fewer spheres tell nothing; fewer than the second cannot tell that there is no membrane.
_MIN_SPHERES, _FOR_ABSENCE = 4, 8
#: A sphere is looked at where this share of its points is inside the tomogram, and a place is compared where the
#: spheres have that many times as many points inside as where they were drawn.
_LEAST_INSIDE, _LEAST_POINTS = 0.25, 0.5

_Change = Callable[[Floats, Floats], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Placement:
    """How spheres lie on the membranes.

    Parameters
    ----------
    contrast : float
        Grey beside the membrane less grey in it, in SDs of a voxel, mean over all that is inside the tomogram; NaN
        where there are too few spheres.
    significance : float
        In standard deviations of the same at wrong places.
    radius_nm : float
        By how much the outer edges of the membranes lie outside the spheres, all of them together; 0 where that is
        little. Negative where they lie within.
    warning : str
        What the user should look at; empty where the spheres lie about right, or nothing can be told.
    told : bool
        Whether there were enough spheres, and enough of them inside the tomogram, to say something.
    """

    contrast: float
    significance: float
    radius_nm: float = 0.0
    warning: str = ""
    told: bool = True


def check_placement(tomogram: Tomogram, vesicles: Vesicles) -> Placement:
    """Compare spheres as they were drawn with the same ones elsewhere.

    Parameters
    ----------
    tomogram : Tomogram
        May be memory-mapped.
    vesicles : Vesicles
        On its grid, with outer radii.
    """
    nothing = Placement(float("nan"), float("nan"), told=False)
    if len(vesicles) < _MIN_SPHERES:
        return nothing
    look = _Look(tomogram, vesicles)
    if len(look.centres) < _MIN_SPHERES:
        return nothing
    here = look.contrast(look.centres, look.radii)
    tried = [(name, change, look.contrast(*change(look.centres, look.radii))) for name, change in _changes(tomogram)]
    tried = [item for item in tried if np.isfinite(item[2])]
    if not np.isfinite(here) or not tried:
        return nothing
    elsewhere = np.array([value for _, _, value in tried])
    middle = float(np.median(elsewhere))
    spread = max(1.4826 * float(np.median(np.abs(elsewhere - middle))), 1e-9)
    significance = (here - middle) / spread
    name, change, best = max(tried, key=lambda item: item[2])
    radius_nm, at_radius, lowest = look.best_radius()
    warning = ""
    if (middle - lowest) / spread > _SEEN and -lowest > max(best, at_radius):
        way = "without --invert" if tomogram.invert else "--invert"
        warning = f"the membranes of the spheres are brighter than what is around them: try {way}"
    elif at_radius >= best and (at_radius - middle) / spread > _SEEN:
        if at_radius > _BETTER_RADIUS * here and abs(radius_nm) > _LEAST_RADIUS_NM:
            return Placement(here, significance, radius_nm)
    elif (best - middle) / spread > _CLEAR and best > _BETTER_PLACE * max(here, 0.0):
        warning = f"the spheres fit the membranes far better {look.described(name, change)}: check the model"
    elif significance < _SEEN and len(look.centres) >= _FOR_ABSENCE:
        warning = "no dark membranes are seen where the spheres are: check model and tomogram in 3dmod"
    return Placement(here, significance, warning=warning, told=bool(warning) or significance >= _SEEN)


class _Look:
    """Shell contrast of a set of spheres in a tomogram."""

    def __init__(self, tomogram: Tomogram, vesicles: Vesicles) -> None:
        self.tomogram = tomogram
        directions = mirrored_directions(_DIRECTIONS)
        self.directions = directions[np.abs(directions[:, 0]) < _MAX_Z]
        self.sd, self.least = 1.0, 0.0
        values = self._contrasts(vesicles.centres_vox, vesicles.radii_vox)
        rows = np.flatnonzero(np.isfinite(values).mean(axis=1) >= _LEAST_INSIDE)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(_MAX_SPHERES, len(rows))).astype(int))]
        self.centres, self.radii = vesicles.centres_vox[rows], vesicles.radii_vox[rows]
        self.least = _LEAST_POINTS * float(np.isfinite(values[rows]).sum())
        grey = self._grey(self.centres, self._middle(self.radii))
        self.sd = max(float(np.nanstd(grey)), 1e-9) if np.isfinite(grey).any() else 1.0

    def _vox(self, length_nm: float) -> float:
        return length_nm / self.tomogram.grid.voxel_nm

    def _grey(self, centres: Floats, radii: Floats) -> Floats:
        """Grey values on spheres (N, directions), in SDs; NaN outside the tomogram."""
        points = centres[:, None] + radii[:, None, None] * self.directions
        index = np.rint(points).astype(int)
        inside = np.all((index >= 0) & (index < self.tomogram.grid.shape_zyx), axis=2)
        z, y, x = np.where(inside[..., None], index, 0).transpose(2, 0, 1)
        grey = np.asarray(self.tomogram.data[z, y, x], dtype=float) * (-1 if self.tomogram.invert else 1)
        return np.where(inside, grey, np.nan) / self.sd

    def _middle(self, radii: Floats) -> Floats:
        """Radii to the middle of the bilayer."""
        return np.maximum(radii - self._vox(HALF_BILAYER_NM), 0.0)

    def _contrasts(self, centres: Floats, radii: Floats) -> Floats:
        """Grey on both sides less grey in the membrane (N, directions); NaN where one of them is outside."""
        middle, aside = self._middle(radii), self._vox(_ASIDE_NM)
        inner, outer = np.maximum(middle - aside, 0.3 * middle), middle + aside
        here, inside, outside = (self._grey(centres, r) for r in (middle, inner, outer))
        return (inside + outside) / 2 - here

    def contrast(self, centres: Floats, radii: Floats) -> float:
        """Mean contrast of all points of spheres that are inside; NaN where too few are."""
        values = self._contrasts(centres, radii)
        known = np.isfinite(values)
        return float(values[known].mean()) if known.any() and known.sum() >= self.least else float("nan")

    def described(self, name: str, change: _Change) -> str:
        """A better place in words, after a search for shifts about it along all axes."""
        centres, radii = change(self.centres, self.radii)
        shift, best = np.zeros(3), self.contrast(centres, radii)
        for axis in (0, 1, 2) * 2:
            for step in _steps(self._vox(_STEP_NM), self._vox(_FARTHEST_NM)):
                moved = shift.copy()
                moved[axis] += step
                value = self.contrast(centres + moved, radii)
                if value > best:
                    best, shift = value, moved
        if name.startswith("shift"):
            shift = shift + (centres[0] - self.centres[0])
            name = ""
        moves = [
            f"about {abs(value):.0f} voxels {'further' if value > 0 else 'back'} in {axis}"
            for axis, value in zip(AXES, shift, strict=True)
            if abs(value) > max(1.5, self._vox(_LEAST_MOVE_NM))
        ]
        return ", ".join(([name] if name else []) + moves)

    def best_radius(self) -> tuple[float, float, float]:
        """By how much the radii of all spheres should change, nm, the contrast then, and the lowest one of any."""
        steps = np.arange(-_FARTHEST_RADIUS_NM, _FARTHEST_RADIUS_NM + 1e-6, _RADIUS_STEP_NM)
        values = np.array([self.contrast(self.centres, self.radii + self._vox(step)) for step in steps])
        if not np.isfinite(values).any():
            return 0.0, float("nan"), float("nan")
        best = int(np.nanargmax(values))
        return float(steps[best]), float(values[best]), float(np.nanmin(values))


def _steps(step: float, farthest: float) -> Floats:
    """Shifts to both sides, voxels, without 0."""
    ahead = np.arange(step, farthest, step)
    return np.concatenate([-ahead[::-1], ahead])


def _changes(tomogram: Tomogram) -> Iterator[tuple[str, _Change]]:
    """What a model of another volume might need: its name, and what it does to centres and radii."""
    grid = tomogram.grid
    last = np.asarray(grid.shape_zyx, dtype=float) - 1
    per_nm = 1 / grid.voxel_nm
    shifts = [np.eye(3)[axis] * step for axis in range(3) for step in _steps(_STEP_NM * per_nm, _FARTHEST_NM * per_nm)]
    origin = np.asarray(grid.origin_nm) * per_nm
    shifts += [origin, -origin]
    for shift in shifts:
        if np.linalg.norm(shift) >= _LEAST_SHIFT_NM * per_nm:
            yield "shift", lambda c, r, shift=shift: (c + shift, r)  # type: ignore[misc]
    for count in (1, 2, 3):
        for axes in combinations(range(3), count):
            turned = np.isin(np.arange(3), axes)
            name = "mirrored in " + " and ".join(AXES[axis] for axis in axes)
            yield name, lambda c, r, turned=turned: (np.where(turned, last - c, c), r)  # type: ignore[misc]
    for first, second in combinations(range(3), 2):
        order = list(range(3))
        order[first], order[second] = second, first
        name = f"with {AXES[first]} and {AXES[second]} exchanged"
        yield name, lambda c, r, order=order: (c[:, order], r)  # type: ignore[misc]
    for factor in (0.25, 1 / 3, 0.5, 2.0, 3.0, 4.0):
        name = f"{factor:.3g} times as large (another binning)"
        yield name, lambda c, r, factor=factor: ((c + 0.5) * factor - 0.5, r * factor)  # type: ignore[misc]
