"""Whether the cytosol goes as far from the membrane as Pyto's layers have to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from deepvesicle.handover.findings import Finding, Severity
from deepvesicle.handover.labelled import Labelled
from deepvesicle.handover.surfaces import Box, Census, Role

Floats = NDArray[np.float64]

#: Pyto's layers have to span so much, nm.
LAYERS_NM = 250.0
#: Of the cytosol so many voxels are looked at for their distance from so many of the membrane (which makes it wrong by
#: less than a voxel), and then what lies around the farthest few.
_LATTICE_POINTS, _MEMBRANE_POINTS, _FARTHEST = 20_000, 8000, 20


def layer_findings(labelled: Labelled) -> Iterator[Finding]:
    """Whether the cytosol goes far enough from the membrane for Pyto's layers, if the volume does."""
    info, grid = labelled.info, labelled.grid
    if info.distance_id is None or info.segmentation_region is None:
        return
    if not (labelled.having(Role.CYTOSOL) and info.distance_id in labelled.having(Role.BOUNDARY)):
        return
    membrane = KDTree(_some_points(labelled.data, labelled.census, info.distance_id))
    corners = np.array(np.meshgrid(*((0, n - 1) for n in grid.shape_zyx))).reshape(3, -1).T
    if float(grid.length_to_nm(membrane.query(corners)[0].max())) < LAYERS_NM:
        return
    reach_nm, place = _reach(labelled, membrane, info.segmentation_region)
    if reach_nm < LAYERS_NM:
        text = f"the cytosol reaches {reach_nm:.0f} nm from the membrane; Pyto's layers have to span {LAYERS_NM:.0f} nm"
        remedy = "Draw the cytosol farther, if distances to the active zone matter"
        yield Finding("layers", Severity.NOTE, text, remedy, (info.segmentation_region,), place)


def _reach(labelled: Labelled, membrane: KDTree, cytosol: int) -> tuple[float, Floats]:
    """The largest distance of cytosol from the membrane (nm), and where: on lattices that get finer at its best."""
    data, census = labelled.data, labelled.census
    step = max(1, round((census.voxels[cytosol] / _LATTICE_POINTS) ** (1 / 3)))
    points = _on_lattice(data, census.box(cytosol), step, cytosol)
    if not len(points):
        points = census.middles([cytosol])
    while True:
        distances = membrane.query(points)[0]
        best = int(np.argmax(distances))
        reach_nm = float(labelled.grid.length_to_nm(distances[best]))
        if step == 1 or reach_nm >= LAYERS_NM:
            return reach_nm, points[best]
        around, step = step, max(1, step // 4)
        finer = [points]
        for place in points[np.argsort(-distances)[:_FARTHEST]].astype(int):
            z, y, x = (slice(max(p - around, 0), p + around + 1) for p in place.tolist())
            finer.append(_on_lattice(data, (z, y, x), step, cytosol))
        points = np.concatenate(finer)


def _on_lattice(data: NDArray[Any], box: Box, step: int, label: int) -> Floats:
    """Voxels (N, 3) of a label in a box, every so many along each axis."""
    z, y, x = (slice(part.start, part.stop, step) for part in box)
    return np.asarray(np.argwhere(np.asarray(data[z, y, x]) == label) * step + [z.start, y.start, x.start], dtype=float)


def _some_points(data: NDArray[Any], census: Census, label: int) -> Floats:
    """Voxels (N, 3) of a label, spread over all of it."""
    box = census.box(label)
    step = max(1, int(census.voxels[label] // (8 * _MEMBRANE_POINTS)))
    parts = []
    for z in range(box[0].start, box[0].stop, step):
        points = np.argwhere(np.asarray(data[(z, *box[1:])]) == label)
        parts.append(np.column_stack([np.full(len(points), z), points + [box[1].start, box[2].start]]))
    points = np.concatenate(parts)
    if not len(points):
        return census.middles([label])
    return np.asarray(points[:: max(1, len(points) // _MEMBRANE_POINTS)], dtype=np.float64)
