"""The statistics of each vesicle as a table (CSV)."""

from __future__ import annotations

import csv
import math
import os

from deepvesicle.files.atomic import new_file
from deepvesicle.scoring.statistics import Statistics

#: Columns of the table: 1 or 0 for yes or no, empty where not known. Those that do not count have their row too.
COLUMNS = (
    "id",
    "z_vox",
    "y_vox",
    "x_vox",
    "radius_nm",
    "counts",
    "cut",
    "nearest_id",
    "nearest_nm",
    "nearest_near_face",
    "active_zone_nm",
)


def write_statistics_csv(path: str | os.PathLike[str], statistics: Statistics, *, overwrite: bool = False) -> None:
    """Write one row for each vesicle, see `COLUMNS`; the meaning of each is that of `Statistics`.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    table, faces = statistics.vesicles, statistics.faces_known
    columns = {
        "id": table.ids,
        **{f"{axis}_vox": table.centres_vox[:, i] for i, axis in enumerate("zyx")},
        "radius_nm": table.radii_nm,
        "counts": statistics.counts.astype(int),
        "cut": statistics.cut.astype(int) if faces else [math.nan] * len(table),
        "nearest_id": [number or math.nan for number in statistics.nearest_ids.tolist()],
        "nearest_nm": statistics.nearest_nm,
        "nearest_near_face": statistics.near_face.astype(int) if faces else [math.nan] * len(table),
        "active_zone_nm": statistics.zone_nm,
    }
    with new_file(path, overwrite=overwrite) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in zip(*(columns[name] for name in COLUMNS), strict=True):
            writer.writerow([_text(value) for value in row])


def _text(value: float) -> str:
    if math.isnan(value):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(int(value))
