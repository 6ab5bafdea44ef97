"""Tables of vesicles, as this program writes them, as annotations."""

from __future__ import annotations

import os

import numpy as np

from deepvesicle.annotations.annotation import Annotation, without_duplicates
from deepvesicle.annotations.models import near_volume
from deepvesicle.annotations.shapes import Limits, Shape, tables
from deepvesicle.files.tables import read_spheres_csv
from deepvesicle.grid import Grid
from deepvesicle.marks import lacks_sphere


def annotation_of_table(path: str | os.PathLike[str], grid: Grid, *, limits: Limits | None = None) -> Annotation:
    """Understand a table of spheres; what is rejected, or was only proposed, is background.

    Parameters
    ----------
    path : path
        See `deepvesicle.files.tables.read_spheres_csv`.
    grid : Grid
        Of the tomogram.
    limits : Limits, optional
        What counts as a vesicle.

    Raises
    ------
    TableError
        Not such a table, or one of another voxel size.
    """
    table = read_spheres_csv(path, grid)
    table = table.select(table.accepted & ~lacks_sphere(table.features, len(table)))
    none = np.zeros((0, 3))
    shapes = [
        Shape(centre, float(radius), none, id=int(number))
        for centre, radius, number in zip(table.centres_vox, table.radii_vox, table.ids, strict=True)
    ]
    inside, far = near_volume(shapes, grid)
    vesicles, unclear = tables(inside, grid, limits or Limits())
    vesicles, notes = without_duplicates(vesicles)
    if far:
        plural = "s" if len(far) > 1 else ""
        numbers = ", ".join(str(shape.id) for shape in far[:5]) + (", ..." if len(far) > 5 else "")
        notes = (f"{path}: {len(far)} vesicle{plural} wholly outside the tomogram, left out: id {numbers}", *notes)
    return Annotation(vesicles, unclear, None, notes)
