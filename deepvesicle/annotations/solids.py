"""Spheres of solid things on a grid of voxels: balls, filled discs, and what a face of the volume leaves of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.annotations.rounds import axis_ratio, fit_round
from deepvesicle.annotations.shapes import Shape

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Surface points that a fit uses at most.
_MOST_POINTS = 20_000
#: What neighbours cover of a surface is left out if at least this share is free.
_FREE = 0.3
#: A thing whose surrounding ball has more than this many times its volume is covered by several spheres.
_HOLLOW = 5.0
#: Pyto's rule: voxel centres of the rim lie half a voxel inside.
_RIM_VOX = 0.5


@dataclass(frozen=True)
class Faces:
    """Which sides of a box along z, y, x lie at the faces of the volume."""

    low: tuple[bool, bool, bool]
    high: tuple[bool, bool, bool]

    @classmethod
    def of(cls, low: tuple[int, int, int], high: tuple[int, int, int], shape: tuple[int, ...]) -> Faces:
        """From the box's first voxel and end, and the volume's shape."""
        z0, y0, x0 = (a == 0 for a in low)
        z1, y1, x1 = (b == n for b, n in zip(high, shape, strict=True))
        return cls((z0, y0, x0), (z1, y1, x1))

    @property
    def any(self) -> bool:
        """Whether the box is cut."""
        return any(self.low) or any(self.high)


def solid_of(mask: Mask, rivals: Mask, start: tuple[int, int, int], faces: Faces, where: Mapping[str, float]) -> Shape:
    """The sphere nearest to the surface of a thing.

    The surface is where a voxel inside meets one outside, halfway between their centres: on average that is where the
    surface of a ball crosses, so its radius comes out without bias.

    Parameters
    ----------
    mask : bool array (z, y, x)
        Its voxels in its box.
    rivals : bool array (z, y, x)
        Those of other vesicles, which may cut it flat.
    start : three ints
        First voxel of the box in the volume.
    faces : Faces
    where : mapping
        See `Shape`.
    """
    filled = _filled(mask & ~rivals)
    surface, free = _surface(filled, rivals, faces)
    used = free if free.mean() >= _FREE else np.ones(len(surface), dtype=bool)
    points = surface[used]
    points = points[:: -(-len(points) // _MOST_POINTS)]
    inside = np.argwhere(filled).astype(np.float64)
    origin, middle = np.asarray(start, dtype=np.float64), inside.mean(axis=0)
    fit = fit_round(points)
    if fit is None:
        reach = float(np.linalg.norm(surface - middle, axis=1).max())
        return Shape(origin + middle, reach, origin + surface, int(mask.sum()), reason="it is flat", where=where)
    cut = faces.any or not used.all()
    ratio = axis_ratio(points - fit.centre, fit.radius) if cut else _moment_ratio(inside)
    return Shape(
        origin + fit.centre,
        fit.radius,
        origin + surface[:: -(-len(surface) // _MOST_POINTS)],
        int(mask.sum()),
        fit.misfit,
        ratio,
        where=where,
        cover=_cover(inside, origin),
    )


def disc_of(
    mask: Mask, start: tuple[int, int, int], faces: Faces, where: Mapping[str, float], *, pyto_rounding: bool = False
) -> Shape:
    """The sphere whose equator is a filled disc; of several slices the one with the largest disc.

    Centre: the centroid. Radius: mean distance of the rim's voxels from it, and half a voxel, as Pyto does. A disc cut
    by a face of the volume: the circle through the rest of its edge.

    Parameters
    ----------
    mask, start, faces, where
        As in `solid_of`.
    pyto_rounding : bool
        Round the centre to whole voxels after the radius was measured, as Pyto does.
    """
    from scipy.ndimage import binary_erosion

    z = int(np.argmax(mask.sum(axis=(1, 2))))
    disc = _filled(mask[z : z + 1])
    inside = np.argwhere(disc[0]).astype(np.float64)
    flat = Faces((False, *faces.low[1:]), (False, *faces.high[1:]))  # type: ignore[arg-type]
    surface, _ = _surface(disc, np.zeros_like(disc), flat, axes=(1, 2))
    centre, offset = inside.mean(axis=0), np.array([start[0] + z, start[1], start[2]], dtype=np.float64)
    rim = np.argwhere(disc[0] & ~binary_erosion(disc[0])).astype(np.float64)
    distances = np.linalg.norm(rim - centre, axis=1)
    radius, misfit = float(distances.mean()) + _RIM_VOX, float(distances.std())
    cut = fit_round(surface[:, 1:]) if flat.any else None
    if cut is not None:
        centre, radius, misfit = cut.centre, cut.radius, cut.misfit
        ratio = axis_ratio(surface[:, 1:] - centre, radius)
    else:
        ratio = _moment_ratio(inside)
    place = offset + np.array([0.0, *centre])
    place = np.floor(place + 0.5) if pyto_rounding else place
    return Shape(place, radius, offset + surface * [0, 1, 1], int(mask.sum()), misfit, ratio, where=where)


def _filled(mask: Mask) -> Mask:
    """Without holes in any xy slice: a membrane drawn without its lumen becomes solid, open caps or not."""
    from scipy.ndimage import binary_fill_holes

    return np.stack([binary_fill_holes(plane) for plane in mask])


def _surface(mask: Mask, rivals: Mask, faces: Faces, axes: tuple[int, ...] = (0, 1, 2)) -> tuple[Floats, Mask]:
    """Where voxels inside and outside meet, halfway, as points (N, 3); and which of them no rival covers (N,).

    What lies at a face of the volume is no surface.
    """
    points, free = [np.zeros((0, 3))], [np.zeros(0, dtype=bool)]
    for axis in axes:
        pad = [(1, 1) if other == axis else (0, 0) for other in range(3)]
        solid, other_solid = np.pad(mask, pad), np.pad(rivals, pad)
        first = tuple(slice(None, -1) if other == axis else slice(None) for other in range(3))
        second = tuple(slice(1, None) if other == axis else slice(None) for other in range(3))
        change = solid[first] != solid[second]
        if faces.low[axis]:
            change[tuple(0 if other == axis else slice(None) for other in range(3))] = False
        if faces.high[axis]:
            change[tuple(-1 if other == axis else slice(None) for other in range(3))] = False
        place = np.argwhere(change)
        covered = (other_solid[first] | other_solid[second])[change]
        half = np.zeros(3)
        half[axis] = -0.5
        points.append(place + half)
        free.append(~covered)
    return np.concatenate(points), np.concatenate(free)


def _moment_ratio(inside: Floats) -> float:
    """Longest over shortest axis of the ellipsoid (or ellipse) with the second moments of voxels (N, D)."""
    spread = np.cov(inside, rowvar=False) if len(inside) > 1 else np.eye(inside.shape[1])
    variances = np.linalg.eigvalsh(spread)
    return float(np.sqrt(variances.max() / max(variances.min(), 1 / 12)))  # that of one voxel


def _cover(inside: Floats, origin: Floats) -> tuple[Floats, Floats] | None:
    """Spheres about parts of a thing that is long or bent; None where one sphere about it does."""
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
    reach = float(np.linalg.norm(inside - middle, axis=1).max()) + 1
    if 4 / 3 * np.pi * reach**3 <= _HOLLOW * len(inside):
        return None
    edge = max(8.0, (3 * len(inside) / (4 * np.pi)) ** (1 / 3))
    extent = np.ptp(inside, axis=0) + 1
    block = np.floor((inside - inside.min(axis=0)) / extent * np.maximum(1, np.rint(extent / edge))).astype(np.int64)
    parts, member = np.unique(block, axis=0, return_inverse=True)
    centres, radii = np.empty((len(parts), 3)), np.empty(len(parts))
    for number in range(len(parts)):
        voxels = inside[member.reshape(-1) == number]
        centres[number] = (voxels.min(axis=0) + voxels.max(axis=0)) / 2
        radii[number] = np.linalg.norm(voxels - centres[number], axis=1).max() + 1
    return origin + centres, radii
