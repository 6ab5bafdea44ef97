"""`Shape`: one thing that was drawn, with the sphere that fits it; which of them are vesicles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Grid
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """What counts as a vesicle.

    Parameters
    ----------
    min_radius_nm, max_radius_nm : float
        Radii beyond these are mistakes, or something else.
    max_axis_ratio : float
        Longest over shortest axis.
    max_misfit : float
        Root mean square distance of what was drawn from the sphere, as share of its radius.
    """

    min_radius_nm: float = 4.0
    max_radius_nm: float = 250.0
    max_axis_ratio: float = 1.6
    max_misfit: float = 0.2


@dataclass(frozen=True, eq=False)
class Shape:
    """One thing that was drawn.

    Parameters
    ----------
    centre_vox : float array (3,)
        z, y, x of the sphere.
    radius_vox : float
    outline_vox : float array (N, 3)
        Points on its surface, as drawn; the spheres about it follow from them.
    points : int
        Points, or voxels, that it was drawn with.
    misfit_vox : float
    axis_ratio : float
    reason : str
        Why it is no sphere, if that is known already.
    where : mapping
        Features that say where it was drawn: ``object`` and ``contour``, or ``label``.
    cover : tuple of float arrays (M, 3) and (M,), optional
        Spheres that cover it, where one about it all would be far too large.
    id : int
        That it had in the file; 0: none.
    """

    centre_vox: Floats
    radius_vox: float
    outline_vox: Floats
    points: int = 1
    misfit_vox: float = 0.0
    axis_ratio: float = 1.0
    reason: str = ""
    where: Mapping[str, float] = field(default_factory=dict)
    cover: tuple[Floats, Floats] | None = None
    id: int = 0

    def covering(self) -> tuple[Floats, Floats]:
        """Centres (M, 3) and radii (M,) of spheres that hold all of it."""
        if self.cover is not None:
            return self.cover
        if not len(self.outline_vox):
            return self.centre_vox[None], np.array([self.radius_vox])
        centre = (self.outline_vox.min(axis=0) + self.outline_vox.max(axis=0)) / 2
        reach = float(np.linalg.norm(self.outline_vox - centre, axis=1).max())
        return centre[None], np.array([max(reach, 1.0)])


def fault_of(shape: Shape, grid: Grid, limits: Limits) -> str:
    """Why a shape is no vesicle, in the user's words; empty if it is one."""
    if shape.reason:
        return shape.reason
    if shape.axis_ratio > limits.max_axis_ratio:
        return f"elongated: its longest axis is {shape.axis_ratio:.1f} times its shortest"
    if shape.misfit_vox > limits.max_misfit * shape.radius_vox:
        misfit_nm = float(grid.length_to_nm(shape.misfit_vox))
        share = shape.misfit_vox / shape.radius_vox
        return f"not round: what was drawn lies {misfit_nm:.2g} nm ({share:.0%} of its radius) from a sphere"
    radius_nm = float(grid.length_to_nm(shape.radius_vox))
    if not limits.min_radius_nm <= radius_nm <= limits.max_radius_nm:
        side = "under" if radius_nm < limits.min_radius_nm else "over"
        limit = limits.min_radius_nm if side == "under" else limits.max_radius_nm
        return f"its radius of {radius_nm:.3g} nm is {side} {limit:g} nm"
    return ""


def tables(shapes: Sequence[Shape], grid: Grid, limits: Limits) -> tuple[Vesicles, Vesicles]:
    """Sort shapes into vesicles and unclear ones; see `deepvesicle.annotations.annotation.Annotation`."""
    faults = [fault_of(shape, grid, limits) for shape in shapes]
    good = [shape for shape, fault in zip(shapes, faults, strict=True) if not fault]
    vesicles = Vesicles(
        grid,
        _ids(good),
        np.array([shape.centre_vox for shape in good]).reshape(-1, 3),
        np.array([shape.radius_vox for shape in good]),
        status=(Status.MANUAL,) * len(good),
        features=_features(good),
    )
    bad = [(shape, fault) for shape, fault in zip(shapes, faults, strict=True) if fault]
    covers = [shape.covering() for shape, _ in bad]
    rows = [number for number, (centres, _) in enumerate(covers) for _ in range(len(centres))]
    unclear = Vesicles.from_spheres(
        grid,
        np.concatenate([np.zeros((0, 3)), *(centres for centres, _ in covers)]),
        np.concatenate([np.zeros(0), *(radii for _, radii in covers)]),
        status=(Status.DOUBTFUL,) * len(rows),
        reasons=tuple(bad[number][1] for number in rows),
        features={**_features([bad[number][0] for number in rows]), "shape": np.array(rows, dtype=float) + 1},
    )
    return vesicles, unclear


def _features(shapes: Sequence[Shape]) -> dict[str, Floats]:
    columns = {
        "points": [float(shape.points) for shape in shapes],
        "misfit_vox": [shape.misfit_vox for shape in shapes],
        "axis_ratio": [shape.axis_ratio for shape in shapes],
    }
    for name in dict.fromkeys(name for shape in shapes for name in shape.where):
        columns[name] = [shape.where.get(name, np.nan) for shape in shapes]
    return {name: np.array(values, dtype=float) for name, values in columns.items()}


def _ids(shapes: Sequence[Shape]) -> NDArray[np.int64]:
    """The files' own ids where each has its own, else 1 to N."""
    own = [shape.id for shape in shapes]
    if all(number > 0 for number in own) and len(set(own)) == len(own):
        return np.array(own, dtype=np.int64)
    return np.arange(1, len(own) + 1)
