"""Tables in the form in which Pyto writes its results, from known numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

#: id, volume, length (voxels), labels touched.
Piece = tuple[int, int, float, Sequence[int]]


def write_vesicles(path: Path, places: Mapping[int, tuple[float, ...]], *, distance_id: int | None = 2) -> Path:
    """Vesicles by their id: x, y, z, radius, mean and least distance."""
    modes = "('mean', 'min')" if distance_id else "min"
    head = [
        "#",
        "# Machine: here ['Linux', 'x86_64', '']",
        "# Image: ../3d/tomo.mrc (Tue Jan 14 17:09:39 2020)",
        "# Vesicle ids: ",
        f"#     {list(places)}",
        "#",
        "# Membrane thickness: 2",
        "#",
        f"# Distance region id: {distance_id}",
        f"# Distance mode(s): {modes}",
        "#",
        "",
        "# Id      Vesicle density                  Membrane density              Interior density         "
        f"Vesicle Membrane   {'Distance Distance ' if distance_id else ''}    Center              Radius         ",
        "#     mean    std    min    max        mean   std    min    max        mean   std    min    max       "
        f"{'     mean      min  ' if distance_id else ''} x     y     z   mean  std    min   max  ",
    ]
    rows = []
    for number, (x, y, z, radius, mean, least) in places.items():
        grey = "  ".join(f"{100 + k + number:6.2f}  5.00 -10.00 200.00" for k in (0, 1000, 2000))
        distances = f"   {mean:6.1f}   {least:6.1f}" if distance_id else ""
        rows.append(
            f"{number:3d}  {grey}  {4000 + number:6d} {2000 + number:6d}{distances} "
            f"{x:5.0f} {y:5.0f} {z:5.0f} {radius:5.1f}  0.25  {radius - 1:5.1f} {radius + 1:5.1f}"
        )
    tail = [
        "",
        "# All together: ",
        "#  0  0.0 0.0",
        "# bkg 1 2 3 4",
        "# tot 1 2 3 4",
        "",
        "# Average values: ",
        "# av  1",
    ]
    return _write(path, [*head, *rows, *tail])


def write_segments(
    path: Path,
    boundaries: Sequence[int],
    pieces: Sequence[Piece],
    *,
    membrane: int = 2,
    classes: bool = True,
    length: bool = True,
    threshold: bool = True,
) -> Path:
    """Segments of one class, as in the name of the file."""
    head = [
        "#",
        "# Boundary ids: ",
        f"#     {list(boundaries)}",
        "#",
        "# Number of boundaries contacted: 2",
        "# Segmentation region: 3",
        "#",
        "# Distance:",
        f"#   - region(s): {membrane}",
        "#   - mode: mean",
        "#",
        f"# Number of segments: {len(pieces)}",
        "#",
        "# Classification: ",
    ]
    if classes:
        head += [
            "# \t- type: keep,  arguments: {'mode': 'new'}",
            f"# \t- type: contacted_ids,  arguments: {{'ids': [{membrane}], 'rest': True, "
            "'names': ['tethers', 'connectors']}",
            "# \t- type: volume,  arguments: {'volumes': [0, 3, 600, 100000], 'names': ['small', 'good', 'big']}",
        ]
    if not pieces:
        return _write(path, [*head, "#"])  # as Pyto: no table, not even its head
    words = (
        f"# Id {' Thresh' if threshold else ''}         Density               Volume Surface  S/V  Euler Loops Holes"
    )
    words += f"{' Length' if length else ''} Boundary  Distance    Contacts "
    rows = []
    for number, volume, far, touched in pieces:
        cells = [f" {number:3d}", *([" 800.000"] if threshold else []), " 679.243 94.462 546.290 783.432"]
        cells += [f" {volume:6d} {volume - 1:6d}  0.999     1     0     0", *([f" {far:6.1f}"] if length else [])]
        rows.append("".join([*cells, "    1.7      1.3    2  ", f" {np.array2string(np.array(touched))}"]))
    tail = ["", "# All segments together:", "#   0 -50000.000 818.114", "", "# Whole segmentation region:", "#  1857.1"]
    return _write(path, [*head, "#", words, "#             mean    std     min     max", *rows, *tail])


def write_clusters(path: Path, cluster_of: Mapping[int, int]) -> Path:
    """Clusters of vesicles."""
    head = [
        "# Boundary ids: ",
        f"#     {np.array(list(cluster_of))}",  # broken into lines where there are many, without a #
        "#",
        " Clustered items:",
        f"#   - number of boundaries: {len(cluster_of)}",
        "#",
        "# Boundary  Connectivity   Hierarchy   Dual Hierarchy Connector ids",
        "#    id      cluster id    cluster id    cluster id                ",
        "#",
    ]
    return _write(
        path, [*head, *(f"       {i}          {c}      6      -1      [ 3 15]" for i, c in cluster_of.items())]
    )


def _write(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path
