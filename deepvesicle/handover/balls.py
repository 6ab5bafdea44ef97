"""The shapes of vesicle labels, each in its own box: pieces, radius as Pyto has it, how far from a ball."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.annotations.rounds import axis_ratio, fit_round
from deepvesicle.grid import Points, as_points
from deepvesicle.handover.surfaces import Box, Census, Role

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: How much farther out than the centres of its surface voxels the surface of a ball is, voxels, if a sphere is fitted
#: to these. The radius in Pyto's tables, a mean distance of surface voxels, is 0.36 less than that of the ball.
SURFACE_VOX = 0.41
#: A label with a larger box is no vesicle, voxels.
_LARGEST_BOX = 1 << 24
#: If less of the surface than this is free of neighbours and faces of the volume, all of it is used.
_FREE = 0.3
#: The surface voxels of a ball lie 0.25 voxels from a sphere (root mean square); from this on a label is looked at.
_BALL_MISFIT = 0.55
#: Of the balls in one label the smallest is this deep at least, voxels, and the neck has this share of its depth.
_DEEP_VOX, _NECK = 2.5, 0.72
#: A label this many times as long as wide, or that fills less than this share of its ball, is none.
_LONG, _HOLLOW = 1.5, 0.5


@dataclass(frozen=True, eq=False)
class Ball:
    """A vesicle label as a sphere.

    Parameters
    ----------
    label : int
    pieces : tuple of int
        Voxels of its face-connected pieces, the largest first.
    centre_vox : float array (3,)
        z, y, x.
    radius_vox : float
        Of the ball that has this surface; NaN where there is none.
    axis_ratio : float
        Longest over shortest axis.
    parts : int
        Into how many balls it falls at its necks.
    fullness : float
        Its voxels, as a share of that ball's volume.
    too_large : bool
        It was not looked at.
    """

    label: int
    pieces: tuple[int, ...]
    centre_vox: Floats
    radius_vox: float = float("nan")
    axis_ratio: float = 1.0
    parts: int = 1
    fullness: float = 1.0
    too_large: bool = False

    @property
    def is_ball(self) -> bool:
        """Whether one sphere describes it."""
        return self.parts == 1 and not self.is_long and bool(np.isfinite(self.radius_vox)) and self.fullness > _HOLLOW

    @property
    def is_long(self) -> bool:
        """Whether it is much longer one way than another."""
        return self.axis_ratio > _LONG


@dataclass(frozen=True, eq=False)
class Contact:
    """Two vesicles that touch.

    Parameters
    ----------
    labels : two ints
        The lower one first.
    faces : int
        Faces of voxels that they share.
    place_vox : float array (3,)
        The middle of these.
    """

    labels: tuple[int, int]
    faces: int
    place_vox: Floats


def ball_of(data: NDArray[Any], census: Census, roles: NDArray[np.uint8], label: int) -> Ball:
    """Look at one vesicle label.

    Parameters
    ----------
    data : unsigned array (z, y, x)
        May be a memory map; only the box of the label is read.
    census : Census
    roles : uint8 array (LABELS,)
        `Role` of each label.
    label : int
        One that is there.
    """
    import cc3d

    box = census.box(label)
    middle = census.middles([label])[0]
    if int(np.prod([part.stop - part.start for part in box])) > _LARGEST_BOX:
        return Ball(label, (int(census.voxels[label]),), middle, too_large=True)
    low = np.array([part.start for part in box]) - 1
    labels, inside = _padded(data, box, census)
    own = labels == label
    number = cc3d.connected_components(own, connectivity=6)
    sizes = np.bincount(number.reshape(-1))[1:]
    largest = number == int(np.argmax(sizes)) + 1
    pieces = tuple(sorted((int(size) for size in sizes), reverse=True))
    surface = largest & _touching(~largest)
    rivals = ~inside | ((np.isin(roles[labels], (Role.VESICLE, Role.BOUNDARY))) & ~own)
    free = surface & ~_touching(rivals)
    if free.sum() < _FREE * surface.sum():
        free = surface
    points = np.argwhere(free).astype(np.float64) + low
    sphere = fit_round(points)
    if sphere is None:
        return Ball(label, pieces, middle)
    ratio, parts = 1.0, 1
    if sphere.misfit > _BALL_MISFIT:
        ratio = axis_ratio(points - sphere.centre, sphere.radius)
        parts = _parts(largest)
    radius = sphere.radius + SURFACE_VOX
    return Ball(label, pieces, sphere.centre, radius, ratio, parts, pieces[0] / (4 / 3 * np.pi * radius**3))


def contacts(data: NDArray[Any], census: Census, roles: NDArray[np.uint8], labels: Iterable[int]) -> list[Contact]:
    """Pairs of vesicles that share faces of voxels, by label."""
    shared: dict[tuple[int, int], list[Points]] = {}
    for label in labels:
        box = census.box(label, margin=1)
        low = np.array([part.start for part in box])
        part = np.asarray(data[box])
        for axis in range(3):
            near, far = (np.delete(part, edge, axis) for edge in (-1, 0))
            for mine, other in ((near, far), (far, near)):
                # each pair once, in the box of the lower one
                touch = (mine == label) & (other > label) & (roles[other] == Role.VESICLE)
                if not touch.any():
                    continue
                places = np.argwhere(touch) + low + 0.5 * (np.arange(3) == axis)
                for number in np.unique(other[touch]).tolist():
                    shared.setdefault((label, number), []).append(as_points(places[other[touch] == number]))
    return [
        Contact(pair, sum(map(len, parts)), np.concatenate(parts).mean(axis=0))
        for pair, parts in sorted(shared.items())
    ]


def _padded(data: NDArray[Any], box: Box, census: Census) -> tuple[NDArray[Any], Mask]:
    """The labels of a box and one voxel around it; and which of these voxels lie inside the volume."""
    shape = [part.stop - part.start + 2 for part in box]
    labels, inside = np.zeros(shape, dtype=data.dtype), np.zeros(shape, dtype=bool)
    source, target = [], []
    for part, n in zip(box, census.shape_zyx, strict=True):
        start, stop = max(part.start - 1, 0), min(part.stop + 1, n)
        source.append(slice(start, stop))
        target.append(slice(start - part.start + 1, stop - part.start + 1))
    labels[tuple(target)] = data[tuple(source)]
    inside[tuple(target)] = True
    return labels, inside


def _touching(mask: Mask) -> Mask:
    """Which voxels share a face with one of a mask."""
    found = np.zeros_like(mask)
    found[1:] |= mask[:-1]
    found[:-1] |= mask[1:]
    found[:, 1:] |= mask[:, :-1]
    found[:, :-1] |= mask[:, 1:]
    found[:, :, 1:] |= mask[:, :, :-1]
    found[:, :, :-1] |= mask[:, :, 1:]
    return found


def _parts(mask: Mask) -> int:
    """Into how many deep parts a mask falls where its narrow places are cut."""
    import cc3d
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(mask)
    most = 1
    for level in np.linspace(0.3, 0.95, 14) * float(depth.max()):
        number = cc3d.connected_components(depth > level, connectivity=26)
        count = int(number.max())
        if count < 2:
            continue
        peaks = _peaks(depth, number, count)
        most = max(most, sum(1 for peak in peaks if peak >= max(_DEEP_VOX, level / _NECK)))
    return most


def _peaks(depth: Floats, number: NDArray[Any], count: int) -> Sequence[float]:
    from scipy.ndimage import maximum

    return [float(peak) for peak in maximum(depth, number, np.arange(1, count + 1))]
