"""`Annotation`: what a person marked in a tomogram, understood as spheres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid, Region
from deepvesicle.spheres import shared_volume
from deepvesicle.vesicles import Vesicles

#: Two spheres are the same vesicle, marked twice, if they share this part of the smaller one's volume.
_SAME_SHARE = 0.5


@dataclass(frozen=True)
class Annotation:
    """What a person marked in a tomogram.

    Parameters
    ----------
    vesicles : Vesicles
        Spheres on the tomogram's grid, all `Status.MANUAL`. Features: ``points`` (drawn points, or voxels of a label),
        ``misfit_vox`` (root mean square distance of what was drawn from the sphere), ``axis_ratio`` (longest to
        shortest axis), ``object`` and ``contour`` (of the first contour, as 3dmod counts them, from 1) or ``label``.
        NaN where there is none.
    unclear : Vesicles
        What was drawn but is no sphere, as spheres about it, with the reason; all `Status.DOUBTFUL`, so that
        they are drawn like vesicles where they are to be left out. A long shape has several spheres. Features as
        above, and ``shape``: the same number for all spheres of one shape.
    region : Region, optional
        Where all vesicles were marked; None where nothing limits it.
    notes : tuple of str
        What the user should look at, one line each.
    """

    vesicles: Vesicles
    unclear: Vesicles
    region: Region | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitedRegion:
    """All that belongs to any of several regions."""

    parts: tuple[Region, ...]

    def to_mask(self, grid: Grid) -> NDArray[np.bool_]:
        """Boolean array (z, y, x); see `Region.to_mask`."""
        mask = self.parts[0].to_mask(grid)
        for part in self.parts[1:]:
            mask |= part.to_mask(grid)
        return mask


def merged(annotations: Sequence[Annotation]) -> Annotation:
    """Put together what was marked in one tomogram in several files.

    Vesicles marked in more than one of them count once, the first time. The regions are united; a file without region
    takes those of the others, so that the outline may be in a model of its own. Ids are kept where they are free.

    Parameters
    ----------
    annotations : sequence of Annotation
        At least one, all on the same grid.
    """
    if not annotations:
        raise ValueError("there is nothing to merge")
    if len(annotations) == 1:
        return annotations[0]
    vesicles, notes = without_duplicates(joined([part.vesicles for part in annotations]))
    unclear = joined([part.unclear for part in _with_own_shapes(annotations)])
    regions = tuple(part.region for part in annotations if part.region is not None)
    region = UnitedRegion(regions) if len(regions) > 1 else (regions[0] if regions else None)
    return Annotation(vesicles, unclear, region, (*(note for part in annotations for note in part.notes), *notes))


def joined(tables: Sequence[Vesicles]) -> Vesicles:
    """The rows of several tables on one grid; an id that an earlier row has is exchanged for a new, higher one."""
    grid = tables[0].grid
    if any(table.grid != grid for table in tables):
        raise ValueError("tables of different grids cannot be joined")
    names = dict.fromkeys(name for table in tables for name in table.features)
    ids = np.concatenate([table.ids for table in tables])
    again = np.ones(len(ids), dtype=bool)
    again[np.unique(ids, return_index=True)[1]] = False
    ids[again] = max(ids.tolist(), default=0) + 1 + np.arange(again.sum())
    return Vesicles(
        grid,
        ids,
        np.concatenate([table.centres_vox for table in tables]),
        np.concatenate([table.radii_vox for table in tables]),
        status=tuple(status for table in tables for status in table.status),
        reasons=tuple(reason for table in tables for reason in table.reasons),
        features={
            name: np.concatenate([table.features.get(name, np.full(len(table), np.nan)) for table in tables])
            for name in names
        },
    )


def without_duplicates(vesicles: Vesicles) -> tuple[Vesicles, tuple[str, ...]]:
    """Leave each vesicle once that is marked more than once; the first row stays.

    Returns
    -------
    Vesicles, tuple of str
        What is left, and a note of what went.
    """
    from scipy.spatial import cKDTree

    if len(vesicles) < 2:
        return vesicles, ()
    centres, radii = vesicles.centres_vox, vesicles.radii_vox
    pairs = cKDTree(centres).query_pairs(2 * float(radii.max()), output_type="ndarray")
    apart = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
    smaller = radii[pairs].min(axis=1)
    same = shared_volume(apart, radii[pairs[:, 0]], radii[pairs[:, 1]]) > _SAME_SHARE * 4 / 3 * np.pi * smaller**3
    keep = np.ones(len(vesicles), dtype=bool)
    twice = []
    for first, second in sorted((min(pair), max(pair)) for pair in pairs[same].tolist()):
        if keep[first] and keep[second]:
            keep[second] = False
            twice.append(_place(vesicles, second))
    if not twice:
        return vesicles, ()
    shown = "; ".join(twice[:5]) + (f"; and {len(twice) - 5} more" if len(twice) > 5 else "")
    plural = "vesicles are" if len(twice) > 1 else "vesicle is"
    return vesicles.select(keep), (f"{len(twice)} {plural} marked twice, and counted once: {shown}",)


def _place(vesicles: Vesicles, row: int) -> str:
    """Where a sphere is, as 3dmod counts: x, y, z from 1."""
    z, y, x = np.rint(vesicles.centres_vox[row]).astype(int) + 1
    return f"at x {x}, y {y}, z {z}"


def _with_own_shapes(annotations: Sequence[Annotation]) -> list[Annotation]:
    """The annotations with the numbers of their unclear shapes made different from one another."""
    result, offset = [], 0.0
    for part in annotations:
        shapes = part.unclear.features.get("shape", np.arange(1.0, len(part.unclear) + 1)) + offset
        result.append(replace(part, unclear=part.unclear.with_features(shape=shapes)))
        offset = max([offset, *shapes.tolist()])
    return result
