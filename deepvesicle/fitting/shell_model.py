"""Spheres rendered into boxes of a tomogram and fitted to it by weighted least squares.

The model of a box is the sum of its spheres, each a profile g (grey value over the distance from the membrane's middle)
swept round a centre. The difference from the tomogram is weighted by frequency (`whitening`), so the missing wedge and
coloured noise are accounted for in both; neighbours are part of the model instead of being masked out. Centre, radius
and depth of a sphere follow by Gauss-Newton steps, with their covariance; the profile itself is linear, and is learned
from all spheres together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from deepvesicle.fitting.profile import Floats, landmarks, read_box, shell_template, working_binning
from deepvesicle.fitting.whitening import Whitening
from deepvesicle.grid import Tomogram

Array = NDArray[np.float32]

#: Reach of the profile on either side of the membrane's middle, nm.
REACH_NM = 13.0
#: Width of the soft edge of a box, working voxels.
_EDGE_VOX = 3
#: Boxes are filled up to multiples of this, voxels.
_SHAPE_STEP = 8
#: Knots of the learned profile, nm, and steps of its table.
_KNOT_STEP_NM = 1.3
_KNOTS_NM = np.arange(-REACH_NM, REACH_NM + 0.01, _KNOT_STEP_NM)
_TABLE_STEP_NM = 0.1
#: SD of a learned profile about the usual one, as share of its depth, and of a sphere's depth about the others'.
_PROFILE_SD, _DEPTH_SD = 0.35, 0.2
#: Longest step of a fit, nm, and the step that ends it.
_MAX_STEP_NM, _LAST_STEP_NM = 2.0, 0.02


@dataclass(frozen=True)
class Profile:
    """The grey value across a membrane: values at even offsets from its middle, 0 beyond the ends.

    Parameters
    ----------
    values : array
        At offsets -REACH_NM to REACH_NM in steps of 0.1 nm.
    """

    values: Floats

    @classmethod
    def from_knots(cls, values: Floats) -> Profile:
        """Interpolate values at the knots linearly."""
        return cls(np.interp(cls.offsets_nm(), _KNOTS_NM, values))

    @classmethod
    def generic(cls, depth: float = 1.0) -> Profile:
        """A dark line between bright fringes."""
        return cls(depth * shell_template(cls.offsets_nm()))

    @staticmethod
    def offsets_nm() -> Floats:
        """Where the values lie."""
        return np.asarray(np.arange(round(2 * REACH_NM / _TABLE_STEP_NM) + 1) * _TABLE_STEP_NM - REACH_NM)

    @cached_property
    def tables(self) -> tuple[Array, Array]:
        """Values and derivative, with a zero at both ends."""
        slope = np.gradient(self.values, _TABLE_STEP_NM)
        padded = [np.concatenate([[0.0], table, [0.0]]).astype(np.float32) for table in (self.values, slope)]
        return padded[0], padded[1]

    def index(self, offsets_nm: Array) -> NDArray[np.int32]:
        """Where offsets lie in `tables`."""
        place = (offsets_nm + np.float32(REACH_NM)) * np.float32(1 / _TABLE_STEP_NM) + np.float32(1.5)
        return np.clip(place, 0, len(self.values) + 1).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Sphere:
    """A sphere to render: centre z, y, x (nm, voxel x voxel size), radius to the membrane's middle (nm), and depth as
    a multiple of the profile.
    """

    centre_nm: Floats
    radius_nm: float
    depth: float = 1.0


@dataclass(frozen=True)
class Patch:
    """A box of the tomogram ready for fits: whitened as a whole, with a soft edge.

    Parameters
    ----------
    values : float32 array (z, y, x)
        Grey values, mean 0 under the mask, times the mask.
    mask : float32 array (z, y, x)
        1 inside, falling to 0 at the edges and 0 outside the tomogram.
    origin_nm : array (3,)
        Place of the first voxel.
    voxel_nm : float
        Size of the working voxels.
    weights : float32 array
        Of the frequencies of `scipy.fft.rfftn`.
    """

    values: Array
    mask: Array
    origin_nm: Floats
    voxel_nm: float
    weights: Array

    def whitened(self, volume: Array) -> Array:
        """A volume with its frequencies weighted."""
        return np.asarray(fft.irfftn(fft.rfftn(volume) * self.weights, s=volume.shape))

    def around(self, sphere: Sphere) -> tuple[tuple[slice, ...], list[Array], Array]:
        """The part of the box within reach of a sphere: region, axes relative to the centre, and distance, nm."""
        reach = sphere.radius_nm + REACH_NM
        region, axes = [], []
        for axis in range(3):
            low = (sphere.centre_nm[axis] - reach - self.origin_nm[axis]) / self.voxel_nm
            high = (sphere.centre_nm[axis] + reach - self.origin_nm[axis]) / self.voxel_nm
            start = int(np.clip(np.ceil(low), 0, self.values.shape[axis]))
            stop = int(np.clip(np.floor(high) + 1, start, self.values.shape[axis]))
            region.append(slice(start, stop))
            line = np.arange(start, stop) * self.voxel_nm + (self.origin_nm[axis] - sphere.centre_nm[axis])
            shape = [1, 1, 1]
            shape[axis] = len(line)
            axes.append(line.astype(np.float32).reshape(shape))
        return tuple(region), axes, np.sqrt(axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2)

    def without(self, spheres: Sequence[Sphere], profile: Profile) -> Array:
        """The values less rendered spheres."""
        values = self.values.copy()
        for sphere in spheres:
            region, _, distance = self.around(sphere)
            if distance.size:
                shell = np.take(profile.tables[0], profile.index(distance - np.float32(sphere.radius_nm)))
                values[region] -= np.float32(sphere.depth) * shell * self.mask[region]
        return values


def cut_patch(
    tomogram: Tomogram, whitening: Whitening, centre_nm: Floats, half_width_nm: float, coarser: int = 1
) -> Patch | None:
    """Cut a box out of a tomogram, in working voxels (or blocks of `coarser` of them); None where nothing is inside."""
    voxel = tomogram.grid.voxel_nm
    binning = working_binning(voxel) * coarser
    size = voxel * binning
    box = read_box(tomogram, np.asarray(centre_nm) / voxel, half_width_nm / voxel, binning)
    if box is None or not np.isfinite(box.values).all():
        return None
    # Few different shapes, so that the weights of each are made once.
    shape = tuple(_SHAPE_STEP * -(-int(n) // _SHAPE_STEP) for n in box.values.shape)
    mask = np.zeros(shape, dtype=np.float32)
    edges = [_soft_edge(n) for n in box.values.shape]
    inside = edges[0][:, None, None] * edges[1][None, :, None] * edges[2][None, None, :]
    region = tuple(slice(0, n) for n in box.values.shape)
    mask[region] = inside
    values = np.zeros(shape, dtype=np.float32)
    values[region] = (box.values - np.average(box.values, weights=inside)) * inside
    return Patch(values, mask, box.origin_vox * voxel, size, whitening.on(shape, size))


def _soft_edge(count: int) -> Array:
    """Weights that rise over the first voxels and fall over the last."""
    depth = np.minimum(np.arange(count) + 1, np.arange(count)[::-1] + 1)
    return np.clip(depth / (_EDGE_VOX + 1), 0, 1).astype(np.float32)


@dataclass(frozen=True)
class ModelFit:
    """A fitted sphere.

    Parameters
    ----------
    sphere : Sphere
    covariance : array (5, 5)
        Of centre (z, y, x) and radius, nm, and depth.
    gain : float
        Rise of the log-likelihood by having the sphere.
    """

    sphere: Sphere
    covariance: Floats
    gain: float


def fit_sphere(
    patch: Patch, start: Sphere, profile: Profile, neighbours: Sequence[Sphere], *, steps: int = 10
) -> ModelFit | None:
    """Fit centre, radius and depth of one sphere, the others staying where they are.

    Parameters
    ----------
    patch : Patch
    start : Sphere
    profile : Profile
    neighbours : sequence of Sphere
        The other spheres in the box.
    steps : int
        At most so many Gauss-Newton steps.

    Returns
    -------
    ModelFit or None
        None where the sphere does not lie in the box.
    """
    rest = patch.without(neighbours, profile)
    sphere = start
    normal = None
    for step in range(steps):
        region, columns, shell = _columns(patch, sphere, profile)
        if not shell.size or not np.any(shell):
            return None
        residual = rest.copy()
        residual[region] -= np.float32(sphere.depth) * shell
        pull = patch.whitened(residual)[region].ravel()
        if normal is None or step == 3:
            normal = _normal_matrix(patch, region, columns)
        gradient = columns.reshape(5, -1) @ pull
        scale = np.array([sphere.depth] * 4 + [1.0])
        hessian = normal * scale[:, None] * scale[None, :]
        gradient = gradient * scale
        # A depth far from that of the others is unlikely, and keeps the steps finite where there is no membrane.
        gradient[4] += (1 - sphere.depth) / _DEPTH_SD**2
        hessian[4, 4] += 1 / _DEPTH_SD**2
        hessian[np.arange(5), np.arange(5)] *= 1.001
        move = np.linalg.solve(hessian, gradient)
        longest = float(np.abs(move[:4]).max())
        move[:4] *= min(1.0, _MAX_STEP_NM / max(longest, 1e-12))
        sphere = Sphere(
            sphere.centre_nm + move[:3],
            max(sphere.radius_nm + float(move[3]), 3.0),
            float(np.clip(sphere.depth + np.clip(move[4], -0.5, 0.5), 0.1, 4.0)),
        )
        if longest < _LAST_STEP_NM and step >= 1:
            break
    region, columns, shell = _columns(patch, sphere, profile)
    if not shell.size:
        return None
    normal = _normal_matrix(patch, region, columns)
    scale = np.array([sphere.depth] * 4 + [1.0])
    covariance = np.linalg.pinv(normal * scale[:, None] * scale[None, :])
    match = float(patch.whitened(rest)[region].ravel() @ shell.ravel())
    gain = sphere.depth * match - 0.5 * sphere.depth**2 * float(normal[4, 4])
    return ModelFit(sphere, covariance, gain)


def rendered_gain(patch: Patch, sphere: Sphere, profile: Profile, neighbours: Sequence[Sphere] = ()) -> float:
    """Rise of the log-likelihood by a sphere at its best depth, where it stands; 0 where it would have to be bright."""
    rest = patch.without(neighbours, profile)
    region, _, distance = patch.around(sphere)
    if not distance.size:
        return 0.0
    volume = np.zeros_like(patch.values)
    shell = np.take(profile.tables[0], profile.index(distance - np.float32(sphere.radius_nm))) * patch.mask[region]
    volume[region] = shell
    whitened = patch.whitened(volume)
    match = float(np.vdot(whitened, rest))
    energy = float(np.vdot(whitened[region], shell))
    return match * match / (2 * energy) if match > 0 and energy > 0 else 0.0


def _columns(patch: Patch, sphere: Sphere, profile: Profile) -> tuple[tuple[slice, ...], Array, Array]:
    """Derivatives of the rendered sphere by centre, radius and depth (5, ...), and the sphere, at depth 1."""
    region, axes, distance = patch.around(sphere)
    mask = patch.mask[region]
    index = profile.index(distance - np.float32(sphere.radius_nm))
    value = np.take(profile.tables[0], index) * mask
    slope = np.take(profile.tables[1], index) * mask
    along = slope / np.maximum(distance, np.float32(1e-3))
    columns = np.empty((5, *value.shape), dtype=np.float32)
    for axis in range(3):
        columns[axis] = -along * axes[axis]
    columns[3] = -slope
    columns[4] = value
    return region, columns, value


def _normal_matrix(patch: Patch, region: tuple[slice, ...], columns: Array) -> Floats:
    """Weighted inner products of the derivatives (5, 5)."""
    spectra = np.zeros((len(columns), *patch.weights.shape), dtype=np.complex64)
    volume = np.zeros_like(patch.values)
    for row, column in enumerate(columns):
        volume[region] = column
        spectra[row] = fft.rfftn(volume)
    return _products(patch, spectra, spectra)


def _products(patch: Patch, left: NDArray[np.complex64], right: NDArray[np.complex64]) -> Floats:
    """Weighted inner products of volumes given by their spectra."""
    nx = patch.values.shape[2]
    twice = np.full(patch.weights.shape[2], 2.0, dtype=np.float32)
    twice[0] = 1
    if nx % 2 == 0:
        twice[-1] = 1
    weights = (patch.weights * twice).ravel()
    a = left.reshape(len(left), -1)
    b = (right.reshape(len(right), -1) * weights).conj()
    return np.asarray((a @ b.T).real, dtype=float) / patch.values.size


def learn_profile(
    fits: Sequence[tuple[Patch, Sphere, Sequence[Sphere]]],
    old: Profile,
    prior: Profile,
    mapping: Callable[..., Iterable[tuple[Floats, Floats]]] = map,
) -> tuple[Profile, float]:
    """The profile that explains spheres best, and how far its middle lies outside theirs.

    Linear least squares for the values at the knots, drawn to a multiple of `prior` where the data say little.

    Parameters
    ----------
    fits : sequence of (Patch, Sphere, neighbours)
    old : Profile
        The neighbours are rendered with it.
    prior : Profile
    mapping : callable
        `map`, or the same of a pool of threads.

    Returns
    -------
    profile : Profile
        With the middle of the membrane at offset 0.
    shift_nm : float
        To be added to the radii that go with it.
    """
    count = len(_KNOTS_NM)
    matrix, vector = np.zeros((count, count)), np.zeros(count)
    for one_matrix, one_vector in mapping(lambda one: _profile_equations(one[0], one[1], one[2], old), fits):
        matrix += one_matrix
        vector += one_vector
    usual = np.interp(_KNOTS_NM, Profile.offsets_nm(), prior.values)
    depth = float(usual @ vector) / max(float(usual @ matrix @ usual), 1e-30)
    if not (np.isfinite(depth) and depth > 0):
        return old, 0.0
    sd = _PROFILE_SD * depth * float(-usual.min())
    # Smooth, and near the usual profile, in units of its depth.
    bend = np.diff(np.eye(count), 2, axis=0)
    precision = (np.eye(count) + bend.T @ bend) / sd**2
    values = np.linalg.solve(matrix + precision, vector + precision @ (depth * usual))
    found = Profile.from_knots(values)
    middle = landmarks(Profile.offsets_nm(), found.values).middle_nm
    if not np.isfinite(middle):
        return Profile(depth * prior.values), 0.0
    offsets = Profile.offsets_nm()
    return Profile(np.interp(offsets + middle, offsets, found.values, left=0.0, right=0.0)), float(middle)


def _profile_equations(
    patch: Patch, sphere: Sphere, neighbours: Sequence[Sphere], old: Profile
) -> tuple[Floats, Floats]:
    """Normal equations (k, k), (k,) of the profile's values at the knots, from one sphere."""
    count = len(_KNOTS_NM)
    vector = np.zeros(count)
    region, _, distance = patch.around(sphere)
    if not distance.size:
        return np.zeros((count, count)), vector
    pull = patch.whitened(patch.without(neighbours, old))[region]
    place = (distance - np.float32(sphere.radius_nm - REACH_NM)) / np.float32(_KNOT_STEP_NM)
    volume = np.zeros_like(patch.values)
    spectra = np.zeros((count, *patch.weights.shape), dtype=np.complex64)
    for knot in range(count):
        hat = np.maximum(1 - np.abs(place - knot), 0) * np.float32(sphere.depth) * patch.mask[region]
        vector[knot] = float(np.vdot(hat, pull))
        volume[region] = hat
        spectra[knot] = fft.rfftn(volume)
    return _products(patch, spectra, spectra), vector
