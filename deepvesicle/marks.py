"""What a user drew in 3dmod, as plain geometry: spheres, marks for vesicles to fit, points that remove a sphere.

Where it stands in a model file is noted beside each, so that what was done with it can be written back:
`deepvesicle.files.drawn` does both. What follows from it is decided in `deepvesicle.corrections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Points

Floats = NDArray[np.float64]
#: A point in a model: name of the object, number of the contour, number of the point, both from 0.
Place = tuple[str, int, int]

#: Features of rows in the table that have no sphere in the model, 1 where it is so: the user deleted it, or it is a
#: mark that could not be fitted. The second is also the name of the object that such marks are in.
DELETED, NOT_FITTED = "deleted", "not_fitted"
#: Places and radii that differ by less were not changed by the user but rounded by the file or by 3dmod, voxels. Moving
#: a point with the mouse changes it by an eighth of a screen pixel at least.
ROUNDING_VOX = 2e-3
#: Points whose spread along one axis is less than this share of that along others lie in a plane.
_FLAT = 0.1
#: Points of a closed contour within this of one another in z lie on one slice, voxels.
_ONE_SLICE_VOX = 0.5


class Form(str, Enum):
    """How the points of a contour belong together."""

    SCATTERED = "scattered"
    OPEN = "open"
    CLOSED = "closed"


class Kind(str, Enum):
    """What marks mean, the most telling first."""

    MEMBRANE = "membrane points"
    PAIR = "centre and edge"
    DISC = "outline"
    SPHERE = "sphere"
    CLICK = "click"


@dataclass(frozen=True, eq=False)
class DrawnSphere:
    """A point with a radius of its own.

    Parameters
    ----------
    place : Place
    surface : int
        Surface number of its contour, which is the id of a vesicle of ours; 0 or less: none.
    centre_vox : float array (3,)
        z, y, x.
    radius_vox : float
    alone : bool
        It is the only point of its contour.
    """

    place: Place
    surface: int
    centre_vox: Floats
    radius_vox: float
    alone: bool = True


@dataclass(frozen=True, eq=False)
class Mark:
    """Points of one contour that have no radius of their own.

    Parameters
    ----------
    places : tuple of Place
        Of each point.
    points_vox : float array (N, 3)
        z, y, x; at least one.
    form : Form
    surface : int
        Surface number of the contour.
    radius_vox : float
        At which 3dmod shows them all the same, the default of their object; NaN if it does not.
    """

    places: tuple[Place, ...]
    points_vox: Points
    form: Form = Form.SCATTERED
    surface: int = 0
    radius_vox: float = np.nan

    @property
    def object_name(self) -> str:
        """Name of the object they are in."""
        return self.places[0][0]

    @property
    def middle_vox(self) -> Floats:
        """Mean of the points (3,), z, y, x."""
        return np.asarray(self.points_vox.mean(axis=0))

    @property
    def is_ambiguous(self) -> bool:
        """Whether it may also be several clicks: points of a scattered object, where 3dmod need not start contours."""
        return self.form is Form.SCATTERED and len(self.points_vox) > 1

    def split(self) -> tuple[Mark, ...]:
        """Each point as a mark of its own."""
        rows = range(len(self.places))
        return tuple(replace(self, places=self.places[i : i + 1], points_vox=self.points_vox[i : i + 1]) for i in rows)


@dataclass(frozen=True, eq=False)
class Drawn:
    """All that a user may have drawn or changed in a model.

    Parameters
    ----------
    spheres : tuple of DrawnSphere
        In objects of ours, and in those that the user named.
    marks : tuple of Mark
        In the same objects.
    tried : tuple of Mark
        In the object `not_fitted`.
    removals : tuple of Mark
        Points in objects named ``remove`` or ``delete``, one each.
    notes : tuple of str
        What was left alone, and why.
    """

    spheres: tuple[DrawnSphere, ...] = ()
    marks: tuple[Mark, ...] = ()
    tried: tuple[Mark, ...] = ()
    removals: tuple[Mark, ...] = ()
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Reading:
    """A mark understood as a sphere to start from.

    Parameters
    ----------
    kind : Kind
    centre_vox : float array (3,)
        z, y, x.
    radius_vox : float
        NaN where the mark says nothing of it.
    residual_vox : float
        How far the points lie from the sphere, root mean square.
    """

    kind: Kind
    centre_vox: Floats
    radius_vox: float
    residual_vox: float = 0.0


def read_mark(mark: Mark) -> Reading | None:
    """Understand all points of a mark as one vesicle.

    One point is a click, two are the centre and a point of the edge, a closed contour on one slice is an outline (the
    circle of the same area), four points or more lie on the membrane (the sphere that fits them best; where they lie in
    a plane, its centre does as well).

    Returns
    -------
    Reading or None
        None for three points that are no outline, and for points that lie on one another or on a line.
    """
    points = mark.points_vox
    if len(points) == 1:
        return Reading(Kind.CLICK, points[0], mark.radius_vox)
    if mark.form is Form.CLOSED and len(points) > 2 and np.ptp(points[:, 0]) <= _ONE_SLICE_VOX:
        return _disc(points)
    if len(points) == 2:
        radius = float(np.linalg.norm(points[1] - points[0]))
        return Reading(Kind.PAIR, points[0], radius) if radius > 0 else None
    return _sphere_through(points) if len(points) > 3 else None


def lacks_sphere(features: Mapping[str, Floats], count: int) -> NDArray[np.bool_]:
    """Which rows of a table (N,) stand for something that is not a sphere in the model; see `DELETED`."""
    unknown = np.full(count, np.nan)
    return np.asarray((features.get(DELETED, unknown) > 0) | (features.get(NOT_FITTED, unknown) > 0))


def is_same_place(centre_a: Floats, radius_a: float, centre_b: Floats, radius_b: float) -> bool:
    """Whether two spheres differ by rounding alone; lengths in voxels."""
    difference = np.abs(np.append(np.subtract(centre_a, centre_b), radius_a - radius_b))
    scale = np.abs(np.append(centre_b, radius_b))
    return bool((difference <= ROUNDING_VOX + 4 * np.finfo(np.float32).eps * scale).all())


def _disc(points: Points) -> Reading | None:
    """The circle with the area and the centroid of a polygon (shoelace formula)."""
    origin = points.mean(axis=0)
    y, x = (points - origin)[:, 1], (points - origin)[:, 2]
    cross = y * np.roll(x, -1) - np.roll(y, -1) * x
    area = cross.sum() / 2
    radius = float(np.sqrt(abs(area) / np.pi))
    if not radius > 0:
        return None
    shift = [((axis + np.roll(axis, -1)) * cross).sum() / (6 * area) for axis in (y, x)]
    centre = origin + [0.0, *shift]
    if np.linalg.norm(centre - origin) > np.linalg.norm(points - origin, axis=1).max():
        return None  # an eight: the areas of its halves cancel
    return Reading(Kind.DISC, centre, radius)


def _sphere_through(points: Points) -> Reading | None:
    """The least-squares sphere (algebraic; exact where the points lie on one)."""
    origin = points.mean(axis=0)
    offsets = points - origin
    scale = float(np.sqrt((offsets**2).sum(axis=1).mean()))
    if not scale > 0:
        return None
    offsets = offsets / scale
    squares = (offsets**2).sum(axis=1)
    # |p|^2 = 2 p.c + (r^2 - |c|^2); the smallest centre where the points leave it open
    solution, _, rank, _ = np.linalg.lstsq(2 * offsets, squares - squares.mean(), rcond=_FLAT)
    if rank < 2:
        return None
    distances = np.linalg.norm(offsets - solution, axis=1)
    radius = float(np.sqrt((distances**2).mean()))
    residual = float(np.sqrt(((distances - radius) ** 2).mean()))
    return Reading(Kind.MEMBRANE, origin + scale * solution, scale * radius, scale * residual)
