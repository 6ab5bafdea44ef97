"""The baseline of `bin/benchmark refine`: spheres fitted by the published scheme, as its paper describes it.

Spherical averages about whole voxels, centres moved by cross-correlation: no masks, no weights for the missing wedge,
nothing between voxels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import correlate

from deepvesicle.fitting.profile import read_box
from deepvesicle.grid import Tomogram
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]

MAX_ITERATIONS = 10
#: A box reaches so much further than the start sphere: that share of its radius, and nm.
BOX_SHARE, BOX_NM = 0.25, 8.0
#: Sigma of the smoothing of profiles, voxels.
SMOOTH_VOX = 1.0
#: The membrane is looked for from this share of the start radius on: nearer the centre a mean is of few voxels.
INNERMOST = 0.5


def fit_published(tomogram: Tomogram, starts: Vesicles) -> Vesicles:
    """Fit each sphere by itself.

    Parameters
    ----------
    tomogram : Tomogram
    starts : Vesicles
        Start spheres on the tomogram's grid.

    Returns
    -------
    Vesicles
        The same rows, REFINED, with whole centres and radii (`radii_vox`, `membrane_radii_vox`, `thickness_vox`).
        Those without a membrane, or with too little of them in the tomogram, are as they were.
    """
    voxel = tomogram.grid.voxel_nm
    centres, radii = starts.centres_vox.copy(), starts.radii_vox.copy()
    middles, thickness = starts.membrane_radii_vox.copy(), starts.thickness_vox.copy()
    fitted = np.zeros(len(starts), dtype=bool)
    for row, radius in enumerate(starts.radii_vox):
        reach = int(np.ceil((1 + BOX_SHARE) * radius + BOX_NM / voxel))
        found = _fit(tomogram, starts.centres_vox[row], float(radius), reach)
        if found is not None:
            centres[row], middle, half = found
            radii[row], middles[row], thickness[row] = middle + half, middle, 2 * half
            fitted[row] = True
    status = tuple(Status.REFINED if ok else old for ok, old in zip(fitted, starts.status, strict=True))
    return starts.replace(
        centres_vox=centres, radii_vox=radii, membrane_radii_vox=middles, thickness_vox=thickness, status=status
    )


def _fit(tomogram: Tomogram, start: Floats, radius: float, reach: int) -> tuple[Floats, int, int] | None:
    """Centre in the tomogram, radius of the membrane's middle and half its thickness, in whole voxels."""
    box = read_box(tomogram, np.rint(start), reach, 1)
    if box is None:
        return None
    values = box.values - box.values.mean()
    centre = np.rint(start - box.origin_vox).astype(int)
    if np.any(centre < 0) or np.any(centre >= values.shape):
        return None
    for _ in range(MAX_ITERATIONS):
        profile = radial_average(values, centre, reach)
        # Where the average fits best is the new centre; it lies in the box, as only its voxels are tried.
        match = correlate(values, rotated(profile, reach), mode="same", method="fft")
        best = np.array(np.unravel_index(int(np.argmax(match)), match.shape))
        if np.array_equal(best, centre):
            break
        centre = best
    found = membrane(radial_average(values, centre, reach), int(np.ceil(INNERMOST * radius)))
    return None if found is None else (centre + box.origin_vox, *found)


def radial_average(values: NDArray[np.float32], centre: NDArray[np.int64], reach: int) -> Floats:
    """Mean grey value of the voxels at each whole distance (reach + 1,), lightly smoothed."""
    z, y, x = (np.arange(n) - c for n, c in zip(values.shape, centre, strict=True))
    distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
    bins = np.rint(distance).astype(int).ravel()
    near = bins <= reach
    counts = np.bincount(bins[near], minlength=reach + 1)
    sums = np.bincount(bins[near], weights=values.ravel()[near], minlength=reach + 1)
    known = np.flatnonzero(counts)
    means = np.interp(np.arange(reach + 1), known, sums[known] / counts[known])
    return np.asarray(gaussian_filter1d(means, SMOOTH_VOX, mode="nearest"))


def rotated(profile: Floats, reach: int) -> NDArray[np.float32]:
    """A profile swept round the middle of a cube of 2 reach + 1 voxels, with mean 0 within its reach and 0 beyond."""
    line = np.arange(-reach, reach + 1)
    distance = np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None, :] ** 2)
    swept = np.interp(distance, np.arange(reach + 1), profile)
    inside = distance <= reach
    return np.where(inside, swept - swept[inside].mean(), 0).astype(np.float32)


def membrane(profile: Floats, innermost: int) -> tuple[int, int] | None:
    """Where the middle of the membrane lies, and half its thickness, in steps of the profile; None where there is none.

    The middle is the minimum; the outer edge the sharpest bend between it and the maximum of the fringe outside.
    """
    if innermost + 2 >= len(profile):
        return None
    middle = innermost + int(np.argmin(profile[innermost:]))
    rising = np.diff(profile[middle:]) > 0
    fringe = middle + (len(rising) if rising.all() else int(np.argmin(rising)))
    if fringe == middle:
        return None
    bend = np.gradient(np.gradient(profile))
    return middle, 1 + int(np.argmin(bend[middle + 1 : fringe + 1]))
