"""Large vesicles that a probability mask shows as a hollow shell or in pieces.

Each place on the mask's surface votes for the centres that lie along its inward normal, at a ladder of radii: the
generalised Hough transform for spheres (Ballard 1981, Pattern Recognition 13, 111-122), on a binned mask, so that the
cost goes with the surface of the mask. Normals of a hollow shell's inner surface vote at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from deepvesicle.fitting.spheroids import Spheroid, fit_spheroid

Floats = NDArray[np.float64]

#: Factor between neighbouring radii of the ladder.
LADDER = 1.12
#: Size of a vote's cell, as a share of the radius: normals on a coarse mask are known to about ten degrees.
CELL = 0.25
#: The vote is held for spheres and for masks that are squashed along z: space is stretched by these factors.
STRETCHES = (1.0, 1.4)
#: A centre needs votes from this share of a full sphere's surface.
MIN_VOTES = 0.2


def broken_shells(
    mask: NDArray[np.bool_], *, smallest: float, largest: float, known: Sequence[Spheroid] = ()
) -> list[Spheroid]:
    """Find large spheres whose outer surface the mask shows in part.

    Parameters
    ----------
    mask : bool array (z, y, x)
    smallest, largest : float
        Range of radii, voxels.
    known : sequence of Spheroid
        Those found already, which need not be found again.

    Returns
    -------
    list of Spheroid
        Best supported first; several may describe the same vesicle, and some are chance.
    """
    if largest <= smallest or not mask.any():
        return []
    bin_by = max(1, int(smallest // 6))
    points, outward = _surface(mask, bin_by)
    if len(points) < 30:
        return []
    shape = np.array(mask.shape) / bin_by
    peaks: list[tuple[float, Spheroid]] = []
    for stretch in STRETCHES:
        scale = np.array([stretch, 1.0, 1.0])
        normals = _stretched(outward, stretch)
        radius = smallest / bin_by
        while radius <= largest / bin_by * LADDER:
            for share, centre in _peaks_at(points * scale, normals, radius, shape * scale):
                peaks.append((share, Spheroid(centre / scale, radius, stretch**2)))
            radius *= LADDER
    peaks.sort(key=lambda p: -p[0])
    tree = cKDTree(points)
    kept: list[Spheroid] = []
    # Binned voxel i covers voxels i * b .. i * b + b - 1, so its centre lies (b - 1) / 2 further on.
    shift = (bin_by - 1) / 2
    seen = [Spheroid((k.centre - shift) / bin_by, k.radius / bin_by, k.squash2) for k in known]
    for _, start in peaks:
        # A vote's cell is coarse, so what is taken for known here is generous; a refined one is compared strictly.
        if _is_among(start, seen, 0.3, 0.3):
            continue
        refined = _refined(points, outward, tree, start)
        if refined is None or not smallest <= refined.radius * bin_by <= largest:
            continue
        if not _is_among(refined, seen + kept, 0.2, 0.15):
            kept.append(refined)
    return [Spheroid(k.centre * bin_by + shift, k.radius * bin_by, k.squash2) for k in kept]


def _stretched(normals: Floats, stretch: float) -> Floats:
    """Unit normals of a surface once space is stretched along z."""
    changed = normals / np.array([stretch, 1.0, 1.0])
    return np.asarray(changed / np.linalg.norm(changed, axis=1, keepdims=True))


def _is_among(shape: Spheroid, others: list[Spheroid], far: float, larger: float) -> bool:
    """Whether one of the others has nearly the same centre and radius (as shares of its radius)."""
    return any(
        abs(shape.radius / o.radius - 1) <= larger and np.linalg.norm(shape.centre - o.centre) <= far * o.radius
        for o in others
    )


def _surface(mask: NDArray[np.bool_], bin_by: int) -> tuple[Floats, Floats]:
    """Surface points (N, 3) of the binned mask and their outward unit normals."""
    from scipy import ndimage

    share = _binned(mask, bin_by)
    inside = share >= 0.5
    surface = inside & ~ndimage.binary_erosion(inside, border_value=1)
    smooth = ndimage.gaussian_filter(share, 1.0)
    at = np.argwhere(surface)
    top = np.array(share.shape) - 1
    normals = np.empty(at.shape)
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        after, before = np.minimum(at + step, top), np.maximum(at - step, 0)
        normals[:, axis] = smooth[tuple(before.T)] - smooth[tuple(after.T)]
    length = np.linalg.norm(normals, axis=1)
    good = length > 1e-3
    normals = normals[good] / length[good, None]
    # The voxels of the surface layer are inside: the surface is about half a voxel further out.
    return at[good] + 0.5 * normals, normals


def _binned(mask: NDArray[np.bool_], bin_by: int) -> NDArray[np.float32]:
    """Share of mask in blocks of `bin_by` voxels a side; incomplete blocks at the high end are left out."""
    nz, ny, nx = (max(1, n // bin_by) for n in mask.shape)
    out = np.zeros((nz, ny, nx), dtype=np.float32)
    for k in range(nz):
        slab = mask[k * bin_by : (k + 1) * bin_by, : ny * bin_by, : nx * bin_by].sum(axis=0, dtype=np.float32)
        b_y, b_x = min(bin_by, slab.shape[0]), min(bin_by, slab.shape[1])
        out[k] = slab.reshape(ny, b_y, nx, b_x).sum(axis=(1, 3)) / (b_y * b_x * min(bin_by, mask.shape[0]))
    return out


def _peaks_at(points: Floats, outward: Floats, radius: float, shape: Floats) -> list[tuple[float, Floats]]:
    """Centres of spheres of one radius, each with its share of a whole sphere's votes."""
    from scipy import ndimage

    cell = CELL * radius
    low = -0.5 * radius
    cells = np.ceil((shape + radius) / cell).astype(int) + 1
    votes = points - radius * outward
    index = np.floor((votes - low) / cell).astype(int)
    good = np.all((index >= 0) & (index < cells), axis=1)
    flat = np.ravel_multi_index(tuple(index[good].T), tuple(cells))
    counts = np.bincount(flat, minlength=int(np.prod(cells))).reshape(tuple(cells)).astype(np.float32)
    around = ndimage.uniform_filter(counts, 3, mode="constant") * 27
    share = around / (4 * np.pi * radius**2)
    peak = (share >= MIN_VOTES) & (share == ndimage.maximum_filter(share, 3))
    result = []
    for at in np.argwhere(peak):
        first = np.maximum(at - 1, 0)
        block = counts[tuple(slice(a, b + 2) for a, b in zip(first, at, strict=True))]
        middle = np.array(ndimage.center_of_mass(block)) + first + 0.5
        result.append((float(share[tuple(at)]), low + cell * middle))
    return result


def _refined(points: Floats, outward: Floats, tree: cKDTree, start: Spheroid) -> Spheroid | None:
    """Fit to the surface points near the sphere whose normals point away from its centre."""
    for inner, outer in ((0.7, 1.35), (0.82, 1.22), (0.88, 1.14)):  # from a coarse vote to a surface
        index = np.array(tree.query_ball_point(start.centre, 1.5 * start.radius), dtype=int)
        stretch = np.sqrt(start.squash2)
        step = (points[index] - start.centre) * np.array([stretch, 1.0, 1.0])
        distance = np.linalg.norm(step, axis=1)
        near = (distance > inner * start.radius) & (distance < outer * start.radius)
        near &= np.sum(step * _stretched(outward[index], stretch), axis=1) > 0.7 * distance
        fitted = fit_spheroid(points[index[near]], start)
        if fitted is None or np.linalg.norm(fitted.centre - start.centre) > 0.6 * start.radius:
            return None
        start = fitted
    return start
