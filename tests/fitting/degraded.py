"""Probability volumes of known spheres, spoilt in the ways a network's output is spoilt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepvesicle.grid import Grid, Probability
from deepvesicle.vesicles import Vesicles


def crowd(
    rng: np.random.Generator, grid: Grid, radii_nm: NDArray[np.float64], *, touching: float = 0.5, margin: bool = True
) -> Vesicles:
    """Place spheres without overlap; a share of them touches one placed before (gap 0)."""
    extent = grid.extent_nm
    centres: list[NDArray[np.float64]] = []
    radii: list[float] = []
    for r in np.sort(np.asarray(radii_nm))[::-1]:
        for _ in range(400):
            if centres and rng.random() < touching:
                k = int(rng.integers(len(centres)))
                n = rng.normal(size=3)
                c = centres[k] + n / np.linalg.norm(n) * (r + radii[k] + 1e-6)
            else:
                c = rng.uniform(0, extent)
            low, high = (r + 3, extent - r - 3) if margin else (-0.3 * r, extent + 0.3 * r)
            if np.any(c < low) or np.any(c > high):
                continue
            if all(np.linalg.norm(c - o) >= r + q for o, q in zip(centres, radii, strict=True)):
                centres.append(c)
                radii.append(float(r))
                break
    return Vesicles.from_spheres(grid, grid.length_to_vox(np.array(centres)) - 0.5, grid.length_to_vox(radii))


def spoil(
    rng: np.random.Generator,
    truth: Vesicles,
    *,
    squash: tuple[float, float] = (1.0, 1.0),
    caps: float = 1.0,
    hollow_over_nm: float = np.inf,
    pieces_over_nm: float = np.inf,
    bridges_nm: float = 0.0,
    blur_nm: float = 2.0,
    noise: float = 0.0,
    specks: int = 0,
) -> Probability:
    """Draw the spheres' probability.

    Parameters
    ----------
    squash : (low, high)
        The mask's height over the sphere's, drawn per vesicle.
    caps : float
        Nothing is drawn further than this times the radius above and below the centre.
    hollow_over_nm, pieces_over_nm : float
        Spheres larger than this keep a 9 nm shell only; lose about a third of their mask in irregular patches.
    bridges_nm : float
        Radius of the rod that joins neighbours that are nearer than 6 nm.
    blur_nm, noise : float
        Blur of the mask; SD of a smooth noise on the logit scale, before the sigmoid.
    specks : int
        Number of false blobs of 3-5 nm.
    """
    grid = truth.grid
    v = grid.voxel_nm
    inside = np.zeros(grid.shape_zyx, dtype=np.float32)
    patches = ndimage.gaussian_filter(rng.normal(size=grid.shape_zyx).astype(np.float32), 12 / v)
    patches /= patches.std()

    def box(c: NDArray[np.float64], half: float) -> tuple[tuple[slice, ...], list[NDArray[np.float64]]]:
        low = np.maximum(np.floor(c - half - 2), 0).astype(int)
        high = np.minimum(np.ceil(c + half + 3), grid.shape_zyx).astype(int)
        where = tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
        return where, [g - o for g, o in zip(np.ogrid[where], c, strict=True)]

    for c, r in zip(truth.centres_vox, truth.radii_vox, strict=True):
        where, (z, y, x) = box(c, r)
        s = rng.uniform(*squash)
        d = np.sqrt((z / s) ** 2 + y**2 + x**2)
        part = (d <= r) & (np.abs(z) <= caps * r)
        if r * v > hollow_over_nm:
            part &= d > r - 9 / v
        if r * v > pieces_over_nm:
            part &= patches[where] > -0.45
        inside[where] = np.maximum(inside[where], part)
    if bridges_nm:
        for i, j in np.argwhere(np.triu(np.ones((len(truth), len(truth))), 1)):
            a, b = truth.centres_vox[i], truth.centres_vox[j]
            length = float(np.linalg.norm(b - a))
            if (length - truth.radii_vox[i] - truth.radii_vox[j]) * v > 6:
                continue
            where, (z, y, x) = box((a + b) / 2, length / 2)
            n = (b - a) / length
            along = z * n[0] + y * n[1] + x * n[2]
            across2 = z**2 + y**2 + x**2 - along**2
            rod = (across2 <= (bridges_nm / v) ** 2) & (np.abs(along) < length / 2)
            inside[where] = np.maximum(inside[where], rod)
    for _ in range(specks):
        c = rng.uniform(0, grid.shape_zyx)
        r = rng.uniform(3, 5) / v
        where, (z, y, x) = box(c, r)
        inside[where] = np.maximum(inside[where], z**2 + y**2 + x**2 <= r**2)
    soft = ndimage.gaussian_filter(inside, blur_nm / v)
    logit = (soft - 0.5) * 8
    if noise:
        bumps = ndimage.gaussian_filter(rng.normal(size=grid.shape_zyx).astype(np.float32), 0.8)
        logit += noise * bumps / bumps.std()
    probability = 1 / (1 + np.exp(-logit))
    return Probability(np.rint(probability * 255).astype(np.uint8), grid)
