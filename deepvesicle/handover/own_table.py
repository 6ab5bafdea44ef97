"""Pyto's results brought back to the table that was handed over, through the ids that its vesicles had."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import BadInputError
from deepvesicle.handover.ids import SOURCE_ID
from deepvesicle.handover.results import PREFIX, SAME_PLACE_VOX, listed, without_results
from deepvesicle.vesicles import Vesicles

#: Our own places are exact; a vesicle that was fitted again moves less than this share of its radius.
_SAME_PLACE_RADII = 0.5


def joined_by_source(own: Vesicles, joined_table: Vesicles) -> tuple[Vesicles, tuple[str, ...]]:
    """The user's own table with the columns of the joined one, through the ids that the vesicles had in it.

    Parameters
    ----------
    own : Vesicles
        The table that was handed over.
    joined_table : Vesicles
        From `joined`; its feature `SOURCE_ID` has the ids of `own`.

    Returns
    -------
    vesicles : Vesicles
        All rows of `own`; NaN where a vesicle was not handed over, or is at another place now.
    notes : tuple of str

    Raises
    ------
    BadInputError
        The joined table does not know the ids of another one, or more than half of the vesicles that both have are at
        other places: the ids are those of another table.
    """
    if SOURCE_ID not in joined_table.features:
        raise BadInputError(f"the table of the work folder has no column {SOURCE_ID}")
    row_of = {int(number): row for row, number in enumerate(joined_table.features[SOURCE_ID])}
    rows = [row_of.get(number, -1) for number in own.ids.tolist()]
    known = np.array([row >= 0 for row in rows], dtype=bool)
    there = known & ~_elsewhere(own, joined_table, rows)
    moved = own.ids[known & ~there].tolist()
    if len(moved) > known.sum() / 2:
        raise BadInputError(
            f"your table is not the one that was handed over: {len(moved)} of {known.sum()} vesicles with the same id "
            "are at other places in it",
            expected="the ids of the table from which the work folder was made",
            got=listed(moved),
            remedy="Give that table, or hand this one over again and let Pyto run on it",
        )
    columns = {"label": joined_table.ids.astype(np.float64)} | {
        name: values for name, values in joined_table.features.items() if name.startswith(PREFIX)
    }
    new = {name: np.where(there, values[rows] if len(values) else np.nan, np.nan) for name, values in columns.items()}
    new[f"{PREFIX}label"] = new.pop("label")
    missing = set(row_of) - set(own.ids.tolist())
    notes = [f"in the work folder, but not in your table: source {listed(missing)}"] if missing else []
    if moved:
        notes.append(f"at another place in your table than in the work folder, left empty: {listed(moved)}")
    notes += [] if known.any() else ["none of the ids in your table is that of a vesicle that was handed over"]
    return without_results(own).with_features(**new), tuple(notes)


def _elsewhere(own: Vesicles, joined_table: Vesicles, rows: Sequence[int]) -> NDArray[np.bool_]:
    """Which rows of the user's table are not at the place of the row of the joined one that their id leads to."""
    if not len(joined_table):
        return np.zeros(len(own), dtype=bool)
    # The work folder's grid is the user's, or a part of it: they differ by whole voxels.
    shift = np.rint(joined_table.grid.map_points([[0.0, 0.0, 0.0]], own.grid)[0])
    apart = np.linalg.norm(own.centres_vox - joined_table.centres_vox[rows] - shift, axis=1)
    limit = np.maximum(SAME_PLACE_VOX, _SAME_PLACE_RADII * joined_table.radii_vox[rows])
    return np.asarray((np.asarray(rows) >= 0) & ~(apart <= limit))
