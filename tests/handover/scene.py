"""A small synapse with a known truth, as the files that a user hands over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import write_tomogram
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import FLAG_OPEN, UNITS_NM, Contour, Model, Object, write_model

GRID = Grid((50, 96, 180), 2.0, (30.0, -8.0, 12.0))
#: x of the middle of the active zone's membrane, and x where the cytosol ends.
ZONE_X, END_X = 20.0, 160.0
#: z, y, x, outer radius; voxels. The first five are whole, far from one another; 6 and 7 touch; 8 is cut by a face; 9
#: is beyond the end of the cytosol; 10 is rejected.
SPHERES = np.array(
    [
        [24.3, 30.4, 35.2, 9.6],
        [26.7, 62.1, 36.8, 10.4],
        [20.2, 45.6, 60.3, 9.1],
        [29.5, 24.2, 70.9, 10.8],
        [25.0, 70.7, 66.4, 9.9],
        [22.5, 40.3, 100.2, 10.0],
        [22.5, 40.3, 120.2, 10.0],
        [4.2, 70.0, 95.0, 9.0],
        [25.0, 50.0, 168.0, 8.0],
        [25.0, 80.0, 110.0, 9.0],
    ]
)
STATUS = (*(Status.REFINED,) * 4, Status.DOUBTFUL, *(Status.MANUAL,) * 4, Status.REJECTED)
#: Ids in the table of those that are drawn, and those that are left out.
DRAWN, LEFT_OUT = [1, 2, 3, 4, 5, 6, 7], [8, 9]
MEMBRANE_NM, NOISE = 5.0, 15.0


def table() -> Vesicles:
    """The vesicles as a user has them."""
    whole = Vesicles.from_spheres(GRID, SPHERES[:, :3], SPHERES[:, 3], status=STATUS)
    return whole.with_features(contrast=np.linspace(0.5, 1, len(SPHERES)))


def grey(rng: np.random.Generator, noise: float = NOISE) -> NDArray[np.float32]:
    """Dark membranes in noise."""
    half = MEMBRANE_NM / 2 / GRID.voxel_nm
    z, y, x = np.indices(GRID.shape_zyx, dtype=np.float32)
    dark = np.exp(-0.5 * ((x - ZONE_X) / half) ** 2)
    for cz, cy, cx, radius in SPHERES:
        distance = np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
        dark += np.exp(-0.5 * ((distance - radius + half) / (half * 0.8)) ** 2)
    return np.asarray(100 - 60 * dark + rng.normal(0, noise, GRID.shape_zyx), dtype=np.float32)


def drawn(path: Path) -> Path:
    """The cytosol as closed contours on every slice, the active zone as open contours on every fifth."""
    nz, ny, _ = GRID.shape_zyx
    corners = np.array([[-1.0, ZONE_X], [-1.0, END_X], [ny + 0.0, END_X], [ny + 0.0, ZONE_X]])
    cell = [index_to_model(np.column_stack([np.full(4, float(z)), corners])) for z in range(nz)]
    line = [
        index_to_model(np.array([[z, -3.0, ZONE_X], [z, ny / 2, ZONE_X], [z, ny + 3.0, ZONE_X]]))
        for z in [*range(0, nz, 5), nz - 1]
    ]
    objects = (
        Object("cell", tuple(map(Contour, cell))),
        Object("az", tuple(map(Contour, line)), flags=FLAG_OPEN),
    )
    size = (GRID.shape_zyx[2], GRID.shape_zyx[1], GRID.shape_zyx[0])
    write_model(path, Model(objects=objects, image_size=size, pixel_size=GRID.voxel_nm, units=UNITS_NM))
    return path


def write_scene(folder: Path, rng: np.random.Generator) -> dict[str, Path]:
    """``tomogram``, ``table``, ``model`` and ``drawn`` (objects ``cell`` and ``az``) in a folder."""
    paths = {
        "tomogram": folder / "tomo.rec",
        "table": folder / "tomo_vesicles.csv",
        "model": folder / "tomo_vesicles.mod",
        "drawn": folder / "drawn.mod",
    }
    write_tomogram(paths["tomogram"], grey(rng), GRID)
    write_vesicles_csv(paths["table"], table())
    write_vesicles_model(paths["model"], table())
    drawn(paths["drawn"])
    return paths
