"""Closed contours as spheres: drawn on several slices of each vesicle, or once, at its equator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deepvesicle.annotations.grouping import Circles, group_circles
from deepvesicle.annotations.rounds import Round, axis_ratio, fit_round, lengths_of
from deepvesicle.annotations.shapes import Limits, Shape
from deepvesicle.grid import Grid

Floats = NDArray[np.float64]

#: Points of a contour within this of one another in z lie on one slice, voxels.
_ONE_SLICE_VOX = 0.75
#: Points this near to a face of the volume may follow the face instead of the membrane, voxels.
_FACE_VOX = 1.0
#: Points at a face are left out if the others fit better by this factor, and this much, voxels.
_BETTER, _BETTER_VOX = 1.5, 0.15
#: A centre in z that is less certain than this share of the radius is taken from where the contours are.
_VAGUE = 0.25
#: How far a hand is off, voxels, where the contours themselves do not show it.
_HAND_VOX = 0.3
#: A sphere with a radius over this many times that of the largest contour was seen by a small cap only.
_CAP = 2.5
#: A contour of which a face left little belongs to a sphere if its points are off by no more than this share of the
#: radius, or this many voxels.
_SLACK, _SLACK_VOX = 0.12, 1.0
_TOO_FEW = "only {} points: a contour needs three"
_ON_A_LINE = "its points lie on a line"


@dataclass(frozen=True, eq=False)
class Outlined:
    """One closed contour.

    Parameters
    ----------
    points_vox : float array (N, 3)
        z, y, x, in the order in which they were drawn.
    item, number : int
        Of the object and the contour, as 3dmod counts them, from 1.
    surface : int
        Surface number of the contour.
    grid : Grid
    """

    points_vox: Floats
    item: int
    number: int
    surface: int
    grid: Grid

    @property
    def where(self) -> dict[str, float]:
        """Features that say where it was drawn."""
        return {"object": float(self.item), "contour": float(self.number)}

    @property
    def is_level(self) -> bool:
        """Whether it lies on one slice of constant z."""
        return bool(np.ptp(self.points_vox[:, 0]) <= _ONE_SLICE_VOX)

    @cached_property
    def axes(self) -> Floats:
        """Two unit vectors (2, 3) that span its plane: y and x where it is level."""
        if self.is_level:
            return np.eye(3)[1:]
        return np.linalg.svd(self.points_vox - self.points_vox.mean(axis=0), full_matrices=False)[2][:2]

    @cached_property
    def weights(self) -> Floats:
        """How much of the membrane each point (N,) stands for; 0 for points that follow a face of the volume."""
        lengths, flat, rest = lengths_of(self.points_vox), self._flat, ~self.at_face
        if (~rest).sum() < 2 or rest.sum() < 3:
            return lengths
        whole, part = fit_round(flat, lengths), fit_round(flat[rest], lengths[rest])
        return np.where(rest, lengths, 0.0) if fits_better(part, whole) else lengths

    @property
    def is_weak(self) -> bool:
        """Whether it is cut so much that what is left of it does not make a circle."""
        return bool(self.at_face.sum() >= 2 and (~self.at_face).sum() < 3)

    @cached_property
    def circle(self) -> Round | None:
        """The circle through it in its plane; None where it has too few points, or they lie on a line."""
        used = self.weights > 0
        return fit_round(self._flat[used], self.weights[used])

    @property
    def centre_vox(self) -> Floats:
        """Centre (3,) of its circle, which must be there."""
        assert self.circle is not None
        return np.asarray(self._middle + self.circle.centre @ self.axes)

    @property
    def _middle(self) -> Floats:
        return np.asarray(self.points_vox.mean(axis=0))

    @property
    def _flat(self) -> Floats:
        """Its points (N, 2) in its plane, from their mean."""
        return np.asarray((self.points_vox - self._middle) @ self.axes.T)

    @cached_property
    def at_face(self) -> NDArray[np.bool_]:
        """Which points (N,) lie at a face in y or x; in z, slices end there anyway."""
        high = np.asarray(self.grid.shape_zyx[1:]) - 0.5
        yx = self.points_vox[:, 1:]
        return np.asarray((np.minimum(np.abs(yx + 0.5), np.abs(yx - high)) <= _FACE_VOX).any(axis=1))


def shapes_of(
    contours: Sequence[Outlined], grid: Grid, limits: Limits, *, discs: bool = False, pyto_rounding: bool = False
) -> list[Shape]:
    """Spheres through closed contours.

    Contours of one object, or of one of its surfaces, that lie on a sphere are one vesicle. Others are sorted by
    `group_circles`. A vesicle with one contour has its centre on that slice.

    Parameters
    ----------
    contours : sequence of Outlined
    grid : Grid
    limits : Limits
    discs : bool
        Each contour is the equator of a vesicle of its own.
    pyto_rounding : bool
        Round the centres of vesicles with one contour to whole voxels, as Pyto does.
    """
    weak = [contour for contour in contours if contour.circle is None or (contour.is_weak and not discs)]
    strong = [contour for contour in contours if contour.circle is not None and (discs or not contour.is_weak)]
    groups = [[contour] for contour in strong] if discs else _groups(strong, limits)
    rest = _not_attached(weak, groups)
    groups += _groups([contour for contour in rest if contour.circle is not None], limits)
    shapes = [_shape(group, pyto_rounding) for group in groups]
    return shapes + [_unusable(contour) for contour in rest if contour.circle is None]


def fits_better(part: Round | None, whole: Round | None) -> bool:
    """Whether a fit without the points at a face is so much better that these do not belong to the membrane."""
    return part is not None and (whole is None or whole.misfit > _BETTER * part.misfit + _BETTER_VOX)


def _not_attached(weak: Sequence[Outlined], groups: list[list[Outlined]]) -> list[Outlined]:
    """Give what is left of contours at a face to the vesicles that they lie on; those that lie on none come back."""
    at_face = [contour for contour in weak if contour.at_face.any()]
    rest = [contour for contour in weak if not contour.at_face.any()]
    large = [group for group in groups if len(group) >= 3] if at_face else []
    spheres = [(group, _sphere(group)) for group in large]
    for contour in at_face:
        points, free = contour.points_vox, ~contour.at_face
        best, least = None, 1.0
        for group, sphere in spheres:
            if sphere is None or group[0].item != contour.item:
                continue
            off = np.linalg.norm(points - sphere.centre, axis=1) - sphere.radius
            off = np.where(free, np.abs(off), np.maximum(off, 0.0))  # those at the face lie within it
            misfit = float(off.max()) / max(_SLACK_VOX, _SLACK * sphere.radius)
            if misfit < least:
                best, least = group, misfit
        (rest if best is None else best).append(contour)
    return rest


def _groups(contours: Iterable[Outlined], limits: Limits) -> list[list[Outlined]]:
    """Contours sorted into vesicles."""
    by_surface: dict[tuple[int, int], list[Outlined]] = {}
    for contour in contours:
        by_surface.setdefault((contour.item, contour.surface), []).append(contour)
    surfaces = {item: len({surface for other, surface in by_surface if other == item}) for item, _ in by_surface}
    groups: list[list[Outlined]] = []
    unsorted: dict[int, list[Outlined]] = {}
    for (item, _), members in by_surface.items():
        if len(members) > 1 and _is_one(members, limits, numbered=surfaces[item] > 1):
            groups.append(members)
            continue
        unsorted.setdefault(item, []).extend(contour for contour in members if contour.is_level)
        groups += [[contour] for contour in members if not contour.is_level]
    for members in unsorted.values():
        circles = Circles(
            np.array([contour.centre_vox for contour in members]).reshape(-1, 3),
            np.array([_radius(contour) for contour in members]),
        )
        groups += [[members[row] for row in rows] for rows in group_circles(circles)]
    return groups


def _is_one(members: list[Outlined], limits: Limits, *, numbered: bool) -> bool:
    """Whether all contours of an object or surface lie on one sphere.

    A surface that the user numbered may be as irregular as a vesicle may be; an object must not be two vesicles.
    """
    sphere = _sphere(members)
    if sphere is None:
        return False
    largest = max(contour.circle.radius for contour in members if contour.circle is not None)
    z = np.sort([contour.centre_vox[0] for contour in members])
    share = limits.max_misfit if numbered else limits.max_misfit / 2
    return bool(
        sphere.misfit <= share * sphere.radius
        and sphere.radius <= 1.5 * largest
        and np.diff(z).max(initial=0) <= 1.25 * sphere.radius
    )


def _sphere(members: Sequence[Outlined]) -> Round | None:
    """The sphere through contours, without their points at faces if these do not lie on it."""
    points = np.concatenate([contour.points_vox for contour in members])
    weights = np.concatenate([contour.weights for contour in members])
    rest = ~np.concatenate([contour.at_face for contour in members])
    used = weights > 0
    whole = fit_round(points[used], weights[used])
    if rest[used].all() or (rest & used).sum() < 4:
        return whole
    part = fit_round(points[rest & used], weights[rest & used])
    return part if fits_better(part, whole) else whole


def _shape(group: list[Outlined], pyto_rounding: bool) -> Shape:
    """The sphere of the contours of one vesicle."""
    round_ones = [contour for contour in group if contour.circle is not None]
    largest = max(round_ones, key=_radius)
    first = min(group, key=lambda contour: (contour.item, contour.number))
    outline = np.concatenate([contour.points_vox for contour in group])
    sphere = _sphere(group) if len(group) > 1 and not _is_vague(round_ones) else None
    reason = ""
    if sphere is None:
        centre, radius, misfit, ratio = _equator(round_ones, largest)
        if pyto_rounding:
            centre = np.rint(centre)
    else:
        centre, radius, misfit = sphere.centre, sphere.radius, sphere.misfit
        weights = np.concatenate([contour.weights for contour in group])
        used = (weights > 0) & ~np.concatenate([contour.at_face for contour in group])
        used = used if used.sum() > 3 else weights > 0
        ratio = axis_ratio(outline[used] - centre, radius, weights[used])
        if radius > _CAP * _radius(largest):
            reason = "only a small cap of it is drawn"
    return Shape(centre, radius, outline, len(outline), misfit, ratio, reason, first.where)


def _equator(group: list[Outlined], largest: Outlined) -> tuple[Floats, float, float, float]:
    """Centre, radius, misfit and axis ratio of a vesicle drawn at its equator, on one slice or on few near ones."""
    circle = largest.circle
    assert circle is not None
    used = largest.weights > 0
    offsets = (largest.points_vox - largest.centre_vox)[used] @ largest.axes.T
    ratio = axis_ratio(offsets, circle.radius, largest.weights[used])
    shares = np.array([_radius(contour) for contour in group])
    centre = np.average([contour.centre_vox for contour in group], axis=0, weights=shares)
    heights = np.array([contour.centre_vox[0] for contour in group]) - centre[0]
    radius = float(np.sqrt(np.average(shares**2 + heights**2, weights=shares)))
    return centre, radius, circle.misfit, ratio


def _is_vague(group: Sequence[Outlined]) -> bool:
    """Whether the contours leave open where along z the centre is.

    On a sphere ``r^2 + z^2 = 2 z z0 + constant``: the error of the slope, from that of the radii, is the one of z0.
    """
    r = np.array([_radius(contour) for contour in group])
    z = np.array([contour.centre_vox[0] for contour in group])
    misfits = [contour.circle.misfit for contour in group if contour.circle is not None]
    hand = max(_HAND_VOX, float(np.median(misfits)))
    spread = float(((z - z.mean()) ** 2).sum())
    if spread < 0.1:
        return True
    level = all(contour.is_level for contour in group)
    sigma = hand * float(r.max()) / spread**0.5
    return level and sigma > _VAGUE * float(np.sqrt(np.max(r**2 + (z - z.mean()) ** 2)))


def _radius(contour: Outlined) -> float:
    assert contour.circle is not None
    return contour.circle.radius


def _unusable(contour: Outlined) -> Shape:
    """A contour through which no circle goes."""
    points = contour.points_vox
    middle = points.mean(axis=0)
    reach = float(np.linalg.norm(points - middle, axis=1).max())
    reason = _TOO_FEW.format(len(points)) if len(points) < 3 else _ON_A_LINE
    return Shape(middle, max(reach, 1.0), points, len(points), reason=reason, where=contour.where)
