"""Find the sphere around a place: all centres and radii that are possible are tried on rays from it.

Each of them says at which distance the membrane crosses each patch of rays. How well it does is judged patch by patch
with bounded marks, so that a closed weak membrane beats a strong one on one side, as of a mitochondrion nearby.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.profile import (
    Floats,
    direction_set,
    patch_weights,
    read_box,
    sample_polar,
    working_binning,
)
from deepvesicle.fitting.shell_fit import (
    CHI2_MEDIAN,
    TEMPLATE_REACH_NM,
    MatchTables,
    Template,
    fit_shell,
    match_tables,
)
from deepvesicle.grid import Tomogram

#: How far from a vesicle's centre a click may lie, as share of its radius.
MAX_OFFSET = 0.65
#: Radii are tried in steps of this factor, centres on a lattice of this spacing, as share of the radius.
RADIUS_STEP, LATTICE = 1.04, 0.13
#: Radii (to the membrane's middle) above which the tomogram is sampled in blocks of twice the size, nm.
LARGE_NM = 42.0
#: Lowest and highest mark of one patch, in standard errors.
MARKS = (-2.0, 3.0)
#: Standard errors and least radius (nm, membrane's middle) of findings that chance does not make: in noise alone, the
#: best of all spheres of this size and above reached 7.1. Smaller ones are few voxels, and reach more.
SURE, SURE_RADIUS_NM = 8.0, 14.0
#: Findings whose score is less than this share of the best are not looked at closely.
WORTH_A_FIT = 0.3
#: Spheres nearer than these shares in centre and (logarithm of) radius are the same finding.
SAME_CENTRE, SAME_RADIUS = 0.3, 0.13


@dataclass(frozen=True)
class Found:
    """A sphere found near a place.

    Parameters
    ----------
    centre_nm : array (3,)
    radius_nm : float
        To the membrane's middle.
    significance : float
        Depth of the membrane / its standard error over patches.
    """

    centre_nm: Floats
    radius_nm: float
    significance: float


def is_sure(significance: float, radius_nm: float) -> bool:
    """Whether a finding needs no second look."""
    return significance >= SURE and radius_nm >= SURE_RADIUS_NM


def search_sphere(
    tomogram: Tomogram,
    place_nm: Floats,
    radii_nm: tuple[float, float],
    template: Template,
    tilts: tuple[tuple[float, float], str],
    masks_vox: tuple[Floats, Floats] | None = None,
    *,
    max_offset: float = MAX_OFFSET,
    best: int = 10,
) -> list[Found]:
    """Find spheres whose inside holds a place, the most significant first.

    Parameters
    ----------
    tomogram : Tomogram
    place_nm : array (3,)
        z, y, x, voxel x voxel size.
    radii_nm : tuple of float
        Smallest and largest radius to the membrane's middle.
    template : Template
        Profile across a membrane.
    tilts : tuple
        Tilt range (degrees) and axis.
    masks_vox : tuple of arrays (k, 3) and (k,), optional
        Spheres, voxels, whose inside is left out.
    max_offset : float
        How far the place may lie from the centre, as share of the radius.
    best : int
        At most so many.
    """
    low, high = radii_nm
    found: list[Found] = []
    least = 0.0
    for coarser, first, last in ((1, low, min(high, LARGE_NM)), (2, max(low, LARGE_NM), high)):
        if last < first or (coarser == 2 and last < first * 1.02):
            continue
        if any(is_sure(f.significance, f.radius_nm) for f in found):
            break
        limits = (first, last)
        more, least = _search(tomogram, place_nm, limits, template, tilts, masks_vox, max_offset, best, coarser, least)
        found += more
    found.sort(key=lambda f: -f.significance)
    return found[:best]


def _search(
    tomogram: Tomogram,
    place_nm: Floats,
    radii_nm: tuple[float, float],
    template: Template,
    tilts: tuple[tuple[float, float], str],
    masks_vox: tuple[Floats, Floats] | None,
    max_offset: float,
    best: int,
    coarser: int,
    least: float,
) -> tuple[list[Found], float]:
    """Search one range of radii; a score below `least` is not worth a fit, which is returned as it is for the next."""
    voxel = tomogram.grid.voxel_nm
    binning = working_binning(voxel) * coarser
    working = voxel * binning
    low, high = radii_nm
    farthest = (1 + max_offset) * high + TEMPLATE_REACH_NM
    place = np.asarray(place_nm) / voxel
    box = read_box(tomogram, place, farthest / voxel + binning, binning)
    if box is None or not np.isfinite(box.values).all():
        return [], least
    rays = 724 if coarser == 1 else 1024
    set_ = direction_set(rays)
    resolved, shares = patch_weights(rays, *tilts)
    step = 0.5 * working
    ray = np.arange(max(low * (1 - max_offset) - TEMPLATE_REACH_NM, 0.0), farthest, step)
    if masks_vox is not None:
        centres, radii = masks_vox
        near = np.linalg.norm(centres - place, axis=1) < farthest / voxel + radii
        masks_vox = (centres[near], radii[near])
    table = sample_polar(box, place, ray / voxel, set_, masks=masks_vox)
    shifts = np.arange(low * (1 - max_offset), (1 + max_offset) * high + 0.5, 0.5)
    tables = match_tables(table, ray, shifts, template, 0.0)
    count = int(np.floor(np.log(high / low) / np.log(RADIUS_STEP) + 1e-9)) + 1
    ladder = np.asarray(low * RADIUS_STEP ** np.arange(count), dtype=np.float64)
    displacement, scores = _scores(tables, set_.patches, resolved, ladder, max_offset)
    least = max(least, WORTH_A_FIT * float(scores.max()))
    found = []
    for row, column in _peaks(displacement, ladder, scores, best):
        if scores[row, column] < least:
            break
        radius = float(ladder[row])
        start = displacement[column] * radius
        fit = fit_shell(tables, set_.patches, resolved, shares, start, radius, (start, radius, radius), steps=8)
        moved = float(np.linalg.norm(fit.displacement_nm - start))
        if moved < 0.4 * radius and fit.amplitude > 0 and 0.7 < fit.radius_nm / radius < 1.4:
            found.append(Found(fit.displacement_nm + place_nm, fit.radius_nm, fit.significance))
        else:
            found.append(Found(start + place_nm, radius, 0.0))
    return found, least


@lru_cache(maxsize=8)
def _lattice(patches: bytes, max_offset: float) -> tuple[Floats, Floats]:
    """Displacements (k, 3) up to `max_offset`, and distances along patches (k, p), for a sphere of radius 1."""
    directions = np.frombuffer(patches).reshape(-1, 3)
    reach = int(np.floor(max_offset / LATTICE))
    line = np.arange(-reach, reach + 1) * LATTICE
    ball = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = ball[np.linalg.norm(ball, axis=1) <= max_offset + 1e-9]
    along = ball @ directions.T
    return ball, along + np.sqrt(1 - (ball**2).sum(axis=1)[:, None] + along**2)


def _scores(
    tables: MatchTables, patches: Floats, resolved: Floats, ladder_nm: Floats, max_offset: float
) -> tuple[Floats, NDArray[np.float32]]:
    """Log-likelihood gain of each radius at each displacement, (radii, displacements)."""
    ball, distance = _lattice(np.ascontiguousarray(patches).tobytes(), max_offset)
    power = tables.power
    good = power > 0.2 * np.median(power)
    if not good.any():
        return ball, np.zeros((len(ladder_nm), len(ball)), dtype=np.float32)
    noise = float(np.median(tables.match[good] ** 2 / power[good])) / CHI2_MEDIAN
    standard = tables.match / np.sqrt(np.maximum(power, 1e-6 * float(power.max())) * max(noise, 1e-30))
    # What each patch says, bounded, weighted by what it can say at most.
    weight = np.sqrt(np.maximum(power, 0)) * resolved[:, None]
    marks = (np.clip(standard, *MARKS) * weight).astype(np.float32).ravel()
    squares = (weight**2).astype(np.float32).ravel()
    width = tables.match.shape[1]
    start = np.arange(len(patches), dtype=np.int32)[None, :] * width
    scores = np.empty((len(ladder_nm), len(ball)), dtype=np.float32)
    least = 0.2 * float(np.median((weight**2).sum(axis=0)))
    for row, radius in enumerate(ladder_nm):
        column = np.rint((distance * radius - tables.first_nm) / tables.step_nm).astype(np.int32)
        flat = np.clip(column, 0, width - 1) + start
        total = np.take(marks, flat).sum(axis=1)
        spread = np.take(squares, flat).sum(axis=1)
        scores[row] = np.maximum(total, 0) ** 2 / np.maximum(spread, least) / 2
    return ball, scores


def _peaks(ball: Floats, ladder_nm: Floats, scores: NDArray[np.float32], best: int) -> list[tuple[int, int]]:
    """The best-scored spheres that are not the same (row, column)."""
    order = np.argsort(-scores, axis=None, kind="stable")[: 60 * best]
    kept: list[tuple[int, int]] = []
    for row, column in zip(*np.unravel_index(order, scores.shape), strict=True):
        centre, radius = ball[column] * ladder_nm[row], ladder_nm[row]
        for other_row, other_column in kept:
            other = ladder_nm[other_row]
            near = np.linalg.norm(centre - ball[other_column] * other) < SAME_CENTRE * min(radius, other)
            if near and abs(np.log(radius / other)) < SAME_RADIUS:
                break
        else:
            kept.append((int(row), int(column)))
            if len(kept) == best:
                break
    return kept
