"""A user who draws in 3dmod, without 3dmod: models, a fit that knows the truth, and a whole run in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deepvesicle.commands.fix_action import consumed_places
from deepvesicle.files.drawn import corrected_objects, read_drawn
from deepvesicle.files.imod import STATUS_OF_OBJECT, empty_model, frame_on, new_object
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.marks import Drawn
from deepvesicle.pipeline import Fixed, fix
from deepvesicle.settings import Settings
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import Contour, Model, Object, decode_model, encode_model
from imod_bridge.update import replace_objects

GRID = Grid((60, 200, 220), 2.0)
#: True vesicles (z, y, x, outer radius; voxels), none of which touch.
TRUTH = np.array(
    [
        [30.0, 50.3, 50.6, 10.0],
        [31.2, 50.1, 90.4, 12.0],
        [20.4, 90.5, 60.2, 9.0],
        [40.1, 140.7, 140.3, 15.0],
        [15.5, 150.2, 40.8, 8.0],
    ]
)


def true_fit(centres_vox, radii_vox, known: Vesicles) -> Vesicles:
    """The true vesicle that a start lies in; nothing where there is none, or where a neighbour has it."""
    rows = []
    for start in np.asarray(centres_vox):
        apart = np.linalg.norm(TRUTH[:, :3] - start, axis=1)
        best = int(np.argmin(apart / TRUTH[:, 3]))
        rows.append(best if apart[best] < TRUTH[best, 3] else -1)
    found = np.array(rows) >= 0
    centres = np.where(found[:, None], TRUTH[rows, :3], centres_vox)
    radii = np.where(found, TRUTH[rows, 3], 10.0)
    return Vesicles.from_spheres(
        GRID,
        centres,
        radii,
        sigma_centres_vox=np.where(found, 0.1, np.nan),
        sigma_radii_vox=np.where(found, 0.2, np.nan),
        status=[Status.REFINED if ok else Status.REJECTED for ok in found],
        reasons=["" if ok else "no membrane found" for ok in found],
        features={"contrast": np.where(found, 1.5, np.nan)},
    )


def contour(points_zyx, radius: float | None = None, surface: int = 0) -> Contour:
    """A contour from z, y, x voxels; the half voxels are those of IMOD."""
    points = np.atleast_2d(np.asarray(points_zyx, dtype=float))[:, ::-1] + [0.5, 0.5, 0.0]
    return Contour(points, None if radius is None else np.full(len(points), radius), surface=surface)


def scattered(name: str, *contours: Contour, **more) -> Object:
    return Object(name, contours, flags=0x208, **more)


def ours(name: str, *contours: Contour) -> Object:
    return replace(new_object(name), contours=contours)


def model_of(*objects: Object) -> Model:
    return replace(empty_model(GRID), objects=objects)


@dataclass
class Run:
    """What a run left: the file's bytes, the table, and what it said."""

    data: bytes
    fixed: Fixed
    drawn: Drawn
    changed: tuple[Object, ...]

    @property
    def table(self) -> Vesicles:
        return self.fixed.vesicles

    @property
    def model(self) -> Model:
        return decode_model(self.data)

    def object(self, name: str) -> Object:
        return next(item for item in self.model.objects if item.name == name)

    def names(self) -> list[str]:
        return [item.name for item in self.model.objects]

    def row(self, number: int) -> Vesicles:
        return self.table.select(self.table.ids == number)


def run(model: Model | bytes, table: Vesicles | None = None, *, names=(), fitter=true_fit, **options) -> Run:
    """Carry out what is drawn in a model, as `deepvesicle fix` does, in memory."""
    data = encode_model(model) if isinstance(model, Model) else model
    model = decode_model(data)
    drawn = read_drawn("m.mod", model, GRID, names=names)
    tomogram = Tomogram(np.broadcast_to(np.float32(0), GRID.shape_zyx), GRID)
    fixed = fix(tomogram, table, drawn, STATUS_OF_OBJECT, Settings(), fitter=fitter, **options)
    consumed = consumed_places(drawn, fixed)
    changed = corrected_objects(
        model,
        frame_on("m.mod", model, GRID),
        fixed.vesicles,
        spheres=list(zip(drawn.spheres, fixed.sphere_ids, strict=True)),
        unfitted=[(fate.mark, fate.vesicle) for fate in fixed.fates if fate.is_left],
        consumed=consumed,
    )
    return Run(replace_objects(data, changed), fixed, drawn, changed)
