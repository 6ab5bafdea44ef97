"""Spheroids through the surface of a probability mask.

The missing wedge leaves the top and bottom of a vesicle unresolved, so a network's mask of a sphere is often squashed
along z. Each instance is therefore fitted with a spheroid whose axis is z: its equatorial radius is the vesicle's, its
centre is the centre of symmetry, and the squash is a free number that absorbs whatever happened to the caps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Square of equatorial radius over half height: where the fit starts, how firmly it is held there, and its bounds.
SQUASH2_PRIOR, SQUASH2_RANGE = 1.2, (0.8, 5.0)
#: Weight of that start, as a share of the points.
PRIOR_WEIGHT = 0.002


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


def surface_points(mask: NDArray[np.bool_], own: NDArray[np.bool_], probability: Floats, threshold: float) -> Floats:
    """Where the probability crosses the threshold, on the lines from voxels of an instance to the background.

    Parameters
    ----------
    mask, own : bool arrays (z, y, x)
        All instances together (holes filled); the one whose surface is wanted. Contacts with other instances and the
        array's faces are no surface.
    probability : array (z, y, x)
    threshold : float
        In the probability's unit.

    Returns
    -------
    float array (N, 3)
        Points z, y, x, between voxel centres (linear interpolation).
    """
    found = []
    for axis in range(3):
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        last = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        for step, here, there in ((1, first, last), (-1, last, first)):
            at = np.argwhere(own[here] & ~mask[there])
            if not len(at):
                continue
            place = tuple(at.T)
            inner, outer = probability[here][place].astype(np.float64), probability[there][place].astype(np.float64)
            # In a filled hole the inner value lies below the threshold: take the middle there.
            drop = inner - outer
            crosses = (inner > threshold) & (drop > 0)
            fraction = np.where(crosses, (inner - threshold) / np.where(crosses, drop, 1.0), 0.5)
            points = at.astype(np.float64)
            points[:, axis] += (0.0 if step == 1 else 1.0) + step * fraction
            found.append(points)
    return np.concatenate(found) if found else np.zeros((0, 3))


def fit_spheroid(points: Floats, start: Spheroid, rounds: int = 6) -> Spheroid | None:
    """Robust least-squares spheroid through surface points.

    With the squash ``q`` free the surface ``x**2 + y**2 + q z**2 = 2 a x + 2 b y + 2 c z + k`` is linear in its five
    unknowns; points far from it lose their weight (Tukey's biweight on the residuals, reweighted each round).

    Parameters
    ----------
    points : float array (N, 3)
        z, y, x, voxels.
    start : Spheroid
        First guess; points whose distance from its centre is far from its radius count less from the beginning.
    rounds : int
        Number of reweightings.

    Returns
    -------
    Spheroid or None
        None where the points do not determine one.
    """
    if len(points) < 12:
        return None
    scale = start.radius
    u = (points - start.centre) / scale
    uz, uy, ux = u.T
    rho = np.sqrt(ux**2 + uy**2 + start.squash2 * uz**2)
    weights = _tukey(rho - np.median(rho), 0.6)
    ridge = np.zeros((1, 5))
    target = np.zeros(1)
    b_z, b_y, b_x, q, k = 0.0, 0.0, 0.0, start.squash2, 1.0
    for _ in range(rounds):
        total = weights.sum()
        if total < 8:
            return None
        # The squash is weakly known where a cap is missing: a faint prior holds it there and nowhere else.
        ridge[0, 3] = np.sqrt(PRIOR_WEIGHT * total)
        target[0] = ridge[0, 3] * SQUASH2_PRIOR
        root = np.sqrt(weights)
        design = np.column_stack([2 * uz, 2 * uy, 2 * ux, -(uz**2), np.ones_like(uz)]) * root[:, None]
        right = (ux**2 + uy**2) * root
        b_z, b_y, b_x, q, k = np.linalg.lstsq(np.vstack([design, ridge]), np.append(right, target), rcond=None)[0]
        if not SQUASH2_RANGE[0] <= q <= SQUASH2_RANGE[1]:
            q = float(np.clip(q, *SQUASH2_RANGE))
            reduced = np.delete(design, 3, axis=1)
            b_z, b_y, b_x, k = np.linalg.lstsq(reduced, right + q * uz**2 * root, rcond=None)[0]
        square = k + b_y**2 + b_x**2 + b_z**2 / q
        if not np.isfinite(square) or square <= 0.01:
            return None
        radius = np.sqrt(square)
        residual = np.sqrt(q * (uz - b_z / q) ** 2 + (uy - b_y) ** 2 + (ux - b_x) ** 2) - radius
        spread = 1.4826 * np.median(np.abs(residual[weights > 0])) if np.any(weights > 0) else 0.1
        weights = _tukey(residual, max(4.0 * spread, 0.08 * radius))
    centre = start.centre + scale * np.array([b_z / q, b_y, b_x])
    return Spheroid(centre, float(scale * radius), float(q))


def own_voxels(
    me: Spheroid, others: Sequence[Spheroid], box: tuple[slice, slice, slice], mask: NDArray[np.bool_], reach: float
) -> NDArray[np.bool_]:
    """Mask voxels of a box that belong to a spheroid rather than to a neighbour.

    Parameters
    ----------
    me, others : Spheroid
        A voxel belongs to the spheroid to whose surface it is nearest (or inside which it lies deepest).
    box : slices
        Of the array that the spheroids' centres refer to.
    mask : bool array
        That part of the mask.
    reach : float
        Voxels further than this times the radius from the centre belong to nobody.
    """
    z, y, x = np.ogrid[box]
    mine = me.distance(z, y, x) - me.radius
    own = mask & (mine <= (reach - 1) * me.radius)
    for other in others:
        own &= mine <= other.distance(z, y, x) - other.radius
    return np.asarray(own)


def _tukey(residual: Floats, width: float) -> Floats:
    """Biweight: 1 at zero residual, 0 beyond `width`."""
    return np.asarray(np.clip(1 - (residual / width) ** 2, 0, None) ** 2)
