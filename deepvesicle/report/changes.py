"""What a correction round changed: two tables of one tomogram compared, vesicle by vesicle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepvesicle.marks import is_same_place, lacks_sphere
from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]

ADDED, REMOVED, MOVED, RESIZED, BOTH, JUDGED = "added", "removed", "moved", "resized", "moved and resized", "judged"
#: All kinds of changes, in the order in which they are told.
KINDS = (ADDED, REMOVED, MOVED, RESIZED, BOTH, JUDGED)
#: Those that changed the sphere itself.
ELSEWHERE = (MOVED, RESIZED, BOTH)


@dataclass(frozen=True, eq=False)
class Changes:
    """What became of a table.

    Parameters
    ----------
    kinds : tuple of str
        Of each row of the later table (N): one of `KINDS`, empty where nothing changed.
    notes : tuple of str
        By how much, in words (N).
    earlier : float array (N, 4)
        z, y, x and radius before, voxels; NaN where the vesicle was not there.
    gone : Vesicles
        Vesicles of the earlier table that have no row in the later one.
    """

    kinds: tuple[str, ...]
    notes: tuple[str, ...]
    earlier: Floats
    gone: Vesicles

    def counts(self) -> dict[str, int]:
        """How many of each kind, those without a row included."""
        numbers = {kind: self.kinds.count(kind) for kind in KINDS}
        numbers[REMOVED] += len(self.gone)
        return numbers


def changes_between(before: Vesicles, after: Vesicles) -> Changes:
    """Compare two tables of one tomogram.

    A row is the same vesicle where the id is the same and the spheres meet; what is left over is paired by place, each
    with the nearest whose centre lies inside it. Rows that do not count as vesicles on either side did not change.

    Parameters
    ----------
    before, after : Vesicles
        On grids of the same voxel size.
    """
    partner = _partners(before, after)
    counted_before, counted_after = _counting(before), _counting(after)
    kinds, notes = [], []
    earlier = np.full((len(after), 4), np.nan)
    for row, old in enumerate(partner):
        was = old >= 0 and bool(counted_before[old])
        if was:
            earlier[row] = [*before.centres_vox[old], before.radii_vox[old]]
        kind, note = _difference(before, old, after, row, was, bool(counted_after[row]))
        kinds.append(kind)
        notes.append(note)
    paired = set(partner)
    left = [row for row in np.flatnonzero(counted_before) if int(row) not in paired]
    return Changes(tuple(kinds), tuple(notes), earlier, before.select(np.array(left, dtype=int)))


def _counting(vesicles: Vesicles) -> NDArray[np.bool_]:
    return vesicles.accepted & ~lacks_sphere(vesicles.features, len(vesicles))


def _difference(before: Vesicles, old: int, after: Vesicles, row: int, was: bool, is_now: bool) -> tuple[str, str]:
    """The kind of a change, and by how much."""
    if was and not is_now:
        return REMOVED, after.reasons[row] or f"was {before.status[old].value}"
    if not was:
        return (ADDED, f"was {before.status[old].value}" if old >= 0 else "") if is_now else ("", "")
    here, there = after.centres_vox[row], before.centres_vox[old]
    radius, old_radius = float(after.radii_vox[row]), float(before.radii_vox[old])
    moved, resized = not is_same_place(here, 0.0, there, 0.0), not is_same_place(here, radius, here, old_radius)
    apart_nm = float(after.grid.length_to_nm(np.linalg.norm(here - there)))
    parts = [f"centre by {apart_nm:.2f} nm"] if moved else []
    parts += [f"radius {before.radii_nm[old]:.2f} to {after.radii_nm[row]:.2f} nm"] if resized else []
    if parts:
        return (BOTH if moved and resized else MOVED if moved else RESIZED), ", ".join(parts)
    if before.status[old] is not after.status[row]:
        return JUDGED, f"{before.status[old].value} to {after.status[row].value}"
    return "", ""


def _partners(before: Vesicles, after: Vesicles) -> Sequence[int]:
    """The row in `before` of each row of `after`; -1 where there is none."""
    row_of_id = {int(number): row for row, number in enumerate(before.ids)}
    partner = [-1] * len(after)
    free = np.ones(len(before), dtype=bool)
    for row, number in enumerate(after.ids):
        old = row_of_id.get(int(number))
        if old is None:
            continue
        apart = np.linalg.norm(after.centres_vox[row] - before.centres_vox[old])
        if apart < after.radii_vox[row] + before.radii_vox[old]:
            partner[row], free[old] = old, False
    for row in range(len(after)):
        rows = np.flatnonzero(free)
        if partner[row] >= 0 or not len(rows):
            continue
        apart = np.linalg.norm(before.centres_vox[rows] - after.centres_vox[row], axis=1)
        inside = apart < np.maximum(before.radii_vox[rows], after.radii_vox[row])
        if inside.any():
            nearest = int(rows[np.argmin(np.where(inside, apart, np.inf))])
            partner[row], free[nearest] = nearest, False
    return partner
