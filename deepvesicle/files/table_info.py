"""What a table of vesicles holds."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepvesicle.files.tables import COLUMNS, read_spheres_csv, voxel_nm_of_csv
from deepvesicle.grid import Grid

#: Where a table does not tell the voxel size; nothing in voxels depends on it.
_ANY_VOXEL_NM = 1.0


@dataclass(frozen=True)
class TableInfo:
    """A table.

    Parameters
    ----------
    path : str
    rows : int
    voxel_nm : float, optional
        Of the tomogram that it was made for; None where it does not say.
    radii_px : two floats, optional
        Smallest and largest outer radius, voxels; None without rows.
    rows_of_status : mapping of str to int
        Empty for a table from elsewhere, whose rows have none.
    columns : int
    """

    path: str
    rows: int
    voxel_nm: float | None
    radii_px: tuple[float, float] | None
    rows_of_status: Mapping[str, int]
    columns: int

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary."""
        return asdict(self)


def table_info(path: str | os.PathLike[str]) -> TableInfo:
    """Describe a table of vesicles, of this program or with the columns that others need.

    Raises
    ------
    TableError
        Not such a table; see `deepvesicle.files.tables.read_spheres_csv`.
    """
    voxel_nm = voxel_nm_of_csv(path)
    table = read_spheres_csv(path, Grid((1, 1, 1), voxel_nm or _ANY_VOXEL_NM))
    with open(path, newline="", encoding="utf-8-sig") as file:
        header = [cell.strip() for cell in next(csv.reader(file))]
    ours = all(name in header for name in COLUMNS)
    counts = {status.value: table.status.count(status) for status in dict.fromkeys(table.status)} if ours else {}
    radii = table.radii_vox
    return TableInfo(
        path=str(Path(path)),
        rows=len(table),
        voxel_nm=None if voxel_nm is None else float(f"{voxel_nm:.6g}"),
        radii_px=(float(np.min(radii)), float(np.max(radii))) if len(radii) else None,
        rows_of_status=counts,
        columns=len(header),
    )
