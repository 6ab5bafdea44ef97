"""Geometry of spheres that several rooms need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid

Floats = NDArray[np.float64]

#: A ball is cut by the faces of a volume if less than this share of it lies inside.
WHOLE = 1 - 1e-3


def fibonacci_directions(count: int) -> Floats:
    """Unit vectors spread evenly over the sphere on a spiral (González, Math. Geosci. 42 (2010) 49-64).

    Parameters
    ----------
    count : int

    Returns
    -------
    array (count, 3)
        z, y, x.
    """
    i = np.arange(count) + 0.5
    z = 1 - 2 * i / count
    angle = np.pi * (1 + np.sqrt(5)) * i
    ring = np.sqrt(1 - z * z)
    return np.stack([z, ring * np.sin(angle), ring * np.cos(angle)], axis=1)


def mirrored_directions(count: int) -> Floats:
    """Quasi-uniform unit vectors that map onto themselves when an axis is turned round or y and x are exchanged.

    A Fibonacci lattice (González, Math. Geosci. 42 (2010) 49-64) is cut to one sixteenth of the sphere and mirrored,
    so that a fit does not depend on how the volume lies on disk.

    Parameters
    ----------
    count : int
        Wanted number; the result has the nearest number that the lattice allows, at least 16.

    Returns
    -------
    array (n, 3)
        z, y, x.
    """
    lattice = fibonacci_directions(max(count, 16))
    part = lattice[(lattice[:, 0] > 0) & (lattice[:, 2] > 0) & (lattice[:, 1] > lattice[:, 2])]
    if not len(part):
        part = np.array([[0.5, 0.75, 0.4]]) / np.linalg.norm([0.5, 0.75, 0.4])
    part = np.concatenate([part, part[:, [0, 2, 1]]])
    signs = np.array(np.meshgrid([1, -1], [1, -1], [1, -1], indexing="ij"), dtype=float).reshape(3, -1).T
    return np.asarray((part[None, :, :] * signs[:, None, :]).reshape(-1, 3))


def inside_fractions(grid: Grid, centres_vox: Floats, radii_vox: Floats) -> Floats:
    """Share of each ball's volume that lies inside a grid's volume.

    Parameters
    ----------
    grid : Grid
    centres_vox : array (N, 3)
        z, y, x, voxels of the grid.
    radii_vox : array (N,)

    Returns
    -------
    array (N,)
        0..1, from points spread evenly through each ball.
    """
    directions = mirrored_directions(256)
    depth = ((np.arange(6) + 0.5) / 6) ** (1 / 3)
    ball = (directions[:, None, :] * depth[None, :, None]).reshape(-1, 3)
    return np.array(
        [grid.contains(centre + radius * ball).mean() for centre, radius in zip(centres_vox, radii_vox, strict=True)]
    )


def are_cut(grid: Grid, centres_vox: Floats, radii_vox: Floats) -> NDArray[np.bool_]:
    """Which balls (N,) the faces of a grid's volume cut, or leave outside altogether.

    Parameters
    ----------
    grid : Grid
    centres_vox : array (N, 3)
        z, y, x, voxels of the grid.
    radii_vox : array (N,)
    """
    low, high = centres_vox - radii_vox[:, None], centres_vox + radii_vox[:, None]
    cut = np.any((low < -0.5) | (high > np.asarray(grid.shape_zyx) - 0.5), axis=1)
    cut[cut] = inside_fractions(grid, centres_vox[cut], radii_vox[cut]) < WHOLE
    return np.asarray(cut)


def shared_volume(distance: Floats, radius_a: Floats, radius_b: Floats) -> Floats:
    """Volume that two balls share.

    Parameters
    ----------
    distance : array (n,)
        Of their centres, in the unit of the radii.
    radius_a, radius_b : arrays (n,)
    """
    d, big, small = np.maximum(distance, 1e-12), np.maximum(radius_a, radius_b), np.minimum(radius_a, radius_b)
    lens = np.pi * (big + small - d) ** 2 * (d * d + 2 * d * (big + small) - 3 * (big - small) ** 2) / (12 * d)
    return np.where(d >= big + small, 0.0, np.where(d <= big - small, 4 / 3 * np.pi * small**3, lens))
