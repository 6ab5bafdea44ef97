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
from math import ceil, floor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from deepvesicle.fitting.kernels import draw_shell, knot_products, shell_products
from deepvesicle.fitting.profile import Floats, landmarks, read_box, shell_template, working_binning
from deepvesicle.fitting.sphere_kernels import fit_inside
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
#: Shapes of a line along z, y and x.
_ALONG = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
#: Inner products are taken from tables where so much outside the membrane's middle lies in the box, nm.
_NEAR_NM = 5.0
#: ... and how far the pull of a sphere on itself is, too: beyond, profiles are next to nothing.
_MOST_NM = 7.5
#: Longest step of a fit, nm, and the step that ends it.
_MAX_STEP_NM, _LAST_STEP_NM = 2.0, 0.03
#: Smallest radius, nm; longest step of the depth, and its bounds.
_LEAST_RADIUS_NM, _DEPTH_STEP, _DEPTHS = 3.0, 0.5, (0.1, 4.0)
#: Factor between the radii of tables of inner products.
LADDER = 1.1


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
    inner : tuple of slice
        Where the mask is 1.
    """

    values: Array
    mask: Array
    origin_nm: Floats
    voxel_nm: float
    weights: Array
    inner: tuple[slice, ...]

    @classmethod
    def empty(cls, whitening: Whitening, half_width_nm: float, voxel_nm: float) -> Patch:
        """A box of zeros, all of it inside."""
        shape = (_SHAPE_STEP * -(-int(2 * half_width_nm / voxel_nm + 1) // _SHAPE_STEP),) * 3
        blank = np.zeros(shape, dtype=np.float32)
        inner = tuple(slice(0, n) for n in shape)
        return cls(blank, np.ones_like(blank), np.zeros(3), voxel_nm, whitening.on(shape, voxel_nm), inner)

    def holds(self, sphere: Sphere, beyond_nm: float) -> bool:
        """Whether a sphere, and so much outside its membrane's middle, lies where the mask is 1."""
        reach = sphere.radius_nm + beyond_nm
        for axis, inner in enumerate(self.inner):
            centre = float(sphere.centre_nm[axis] - self.origin_nm[axis])
            if (centre - reach) < inner.start * self.voxel_nm or (centre + reach) > (inner.stop - 1) * self.voxel_nm:
                return False
        return True

    def reaches(self, sphere: Sphere) -> bool:
        """Whether a part of a sphere's membrane lies in the box."""
        if self.holds(sphere, 0.0):
            return True
        region, _, distance = self.around(sphere)
        return bool(distance.size and np.any(self.mask[region][np.abs(distance - sphere.radius_nm) < REACH_NM]))

    def whitened(self, volume: Array) -> Array:
        """A volume with its frequencies weighted."""
        return np.asarray(fft.irfftn(fft.rfftn(volume) * self.weights, s=volume.shape))

    def around(self, sphere: Sphere) -> tuple[tuple[slice, ...], list[Array], Array]:
        """The part of the box within reach of a sphere: region, axes relative to the centre, and distance, nm."""
        region, axes = [], []
        for axis in range(3):
            centre, start, stop = self._range(sphere, axis)
            region.append(slice(start, stop))
            line = (np.arange(start, stop) * self.voxel_nm - centre).astype(np.float32)
            axes.append(line.reshape(_ALONG[axis]))
        z, y, x = axes
        return tuple(region), axes, np.sqrt((z * z + y * y) + x * x)

    def without(self, spheres: Sequence[Sphere], profile: Profile) -> Array:
        """The values less rendered spheres."""
        values = self.values.copy()
        for sphere in spheres:
            draw_shell(values, self.mask, profile.tables[0], *self._reach_of(sphere), -sphere.depth)
        return values

    def drawn(self, sphere: Sphere, profile: Profile) -> Array:
        """A sphere of depth 1, times the mask."""
        volume = np.zeros_like(self.values)
        draw_shell(volume, self.mask, profile.tables[0], *self._reach_of(sphere), 1.0)
        return volume

    def products(self, volume: Array, sphere: Sphere, profile: Profile) -> Floats:
        """Inner products (5,) of a volume with the derivatives of a sphere by centre, radius and depth, at depth 1."""
        return np.asarray(shell_products(volume, self.mask, *profile.tables, *self._reach_of(sphere)))

    def knot_products(self, volume: Array, sphere: Sphere) -> Floats:
        """Inner products (k,) of a volume with what each knot of the profile adds to a sphere of depth 1."""
        reach = self._reach_of(sphere)[:-1]
        return np.asarray(knot_products(volume, self.mask, len(_KNOTS_NM), *reach, _KNOT_STEP_NM))

    def _range(self, sphere: Sphere, axis: int) -> tuple[float, int, int]:
        """Place of the centre along an axis, nm from the first voxel, and the voxels within reach of the sphere."""
        centre = float(sphere.centre_nm[axis] - self.origin_nm[axis])
        reach = sphere.radius_nm + REACH_NM
        size = self.values.shape[axis]
        start = min(max(ceil((centre - reach) / self.voxel_nm), 0), size)
        stop = min(max(floor((centre + reach) / self.voxel_nm) + 1, start), size)
        return centre, start, stop

    def _reach_of(self, sphere: Sphere) -> tuple[Any, ...]:
        """What the loops over a sphere's voxels need: their range, the sphere, and the steps of voxels and tables."""
        centre, start, stop = zip(*(self._range(sphere, axis) for axis in range(3)), strict=True)
        return start, stop, centre, float(sphere.radius_nm), self.voxel_nm, REACH_NM, _TABLE_STEP_NM


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
    values[region] = (box.values - np.vdot(box.values, inside) / inside.sum()) * inside
    inner = tuple(slice(_EDGE_VOX, n - _EDGE_VOX) for n in box.values.shape)
    return Patch(values, mask, box.origin_vox * voxel, float(size), whitening.on(shape, size), inner)


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


class Normals(Protocol):
    """Tables of inner products (`deepvesicle.fitting.shell_tables`)."""

    def normal(self, profile: Profile, radius_nm: float) -> Floats:
        """Weighted inner products (5, 5) of the derivatives of a sphere, at depth 1."""
        ...

    def rungs(self, profile: Profile, radius_nm: float) -> tuple[int, Floats]:
        """What `normal` is interpolated from about a radius: powers of `LADDER` from the first on."""
        ...

    def gram(self, radius_nm: float) -> Floats:
        """Weighted inner products (k, k) of a sphere's parts that belong to the profile's knots, at depth 1."""
        ...


def fit_sphere(
    patch: Patch,
    start: Sphere,
    profile: Profile,
    neighbours: Sequence[Sphere],
    *,
    steps: int = 10,
    tables: Normals | None = None,
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
    tables : Normals, optional
        Save the making of inner products for spheres that lie whole in their box.

    Returns
    -------
    ModelFit or None
        None where the sphere does not lie in the box.
    """
    pull = patch.whitened(patch.without(neighbours, profile))
    sphere = start
    own: Floats | None = None
    step = 0
    while True:
        if tables is not None and patch.holds(sphere, _MOST_NM):
            done, step, sphere, match, normal = _steps_inside(patch, pull, sphere, profile, tables, step, steps)
            pulled = normal[:, 4]
            if done:
                break
        if not patch.reaches(sphere):
            return None
        if tables is not None and patch.holds(sphere, _NEAR_NM):
            normal = tables.normal(profile, sphere.radius_nm)
        else:
            if own is None or step == 3:
                own = normal_matrix(patch, sphere, profile)
            normal = own
        match = patch.products(pull, sphere, profile)
        # The derivative by the depth is the sphere itself, so the normal matrix tells how it pulls on itself.
        pulled = normal[:, 4]
        if tables is None or not patch.holds(sphere, _MOST_NM):
            pulled = patch.products(patch.whitened(patch.drawn(sphere, profile)), sphere, profile)
        if step == steps:
            break
        scale = np.array([sphere.depth] * 4 + [1.0])
        gradient = (match - sphere.depth * pulled) * scale
        hessian = normal * scale[:, None] * scale[None, :]
        # A depth far from that of the others is unlikely, and keeps the steps finite where there is no membrane.
        gradient[4] += (1 - sphere.depth) / _DEPTH_SD**2
        hessian[4, 4] += 1 / _DEPTH_SD**2
        hessian[np.arange(5), np.arange(5)] *= 1.001
        hessian[np.arange(5), np.arange(5)] += 1e-9 * float(np.trace(hessian))
        move = np.linalg.solve(hessian, gradient)
        longest = float(np.abs(move[:4]).max())
        if longest < _LAST_STEP_NM and step >= 1:
            break
        move[:4] *= min(1.0, _MAX_STEP_NM / max(longest, 1e-12))
        sphere = Sphere(
            sphere.centre_nm + move[:3],
            max(sphere.radius_nm + float(move[3]), _LEAST_RADIUS_NM),
            float(np.clip(sphere.depth + np.clip(move[4], -_DEPTH_STEP, _DEPTH_STEP), *_DEPTHS)),
        )
        step += 1
    scale = np.array([sphere.depth] * 4 + [1.0])
    covariance = np.linalg.pinv(normal * scale[:, None] * scale[None, :])
    gain = sphere.depth * float(match[4]) - 0.5 * sphere.depth**2 * float(pulled[4])
    return ModelFit(sphere, covariance, gain)


def _steps_inside(
    patch: Patch, pull: Array, start: Sphere, profile: Profile, tables: Normals, step: int, steps: int
) -> tuple[bool, int, Sphere, Floats, Floats]:
    """The steps of a fit while the sphere lies whole in its box; see `sphere_kernels.fit_inside`."""
    first, rungs = tables.rungs(profile, start.radius_nm)
    inner = np.array([[s.start for s in patch.inner], [s.stop - 1 for s in patch.inner]]) * patch.voxel_nm
    state = np.array([*start.centre_nm, start.radius_nm, start.depth])
    done, step, state, match, normal = fit_inside(
        pull, patch.mask, *profile.tables, patch.origin_nm, inner, state, step, steps, rungs, first, LADDER,
        patch.voxel_nm, REACH_NM, _TABLE_STEP_NM, _MOST_NM, _DEPTH_SD, _MAX_STEP_NM, _LAST_STEP_NM, _LEAST_RADIUS_NM,
        (_DEPTH_STEP, *_DEPTHS),
    )  # fmt: skip
    return bool(done), int(step), Sphere(state[:3], float(state[3]), float(state[4])), match, normal


def rendered_gain(patch: Patch, sphere: Sphere, profile: Profile, neighbours: Sequence[Sphere] = ()) -> float:
    """Rise of the log-likelihood by a sphere at its best depth, where it stands; 0 where it would have to be bright."""
    shell = patch.drawn(sphere, profile)
    whitened = patch.whitened(shell)
    match = float(np.vdot(whitened, patch.without(neighbours, profile)))
    energy = float(np.vdot(whitened, shell))
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


def normal_matrix(patch: Patch, sphere: Sphere, profile: Profile) -> Floats:
    """Weighted inner products (5, 5) of the derivatives by centre, radius and depth, at depth 1."""
    region, columns, _ = _columns(patch, sphere, profile)
    return gram_matrix(patch, region, columns)


def _products(patch: Patch, left: NDArray[np.complex64], right: NDArray[np.complex64]) -> Floats:
    """Weighted inner products (a, b) of volumes given by their spectra."""
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
    tables: Normals | None = None,
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
    tables : Normals, optional
        Save the making of inner products for spheres that lie whole in their box.

    Returns
    -------
    profile : Profile
        With the middle of the membrane at offset 0.
    shift_nm : float
        To be added to the radii that go with it.
    """
    count = len(_KNOTS_NM)
    matrix, vector = np.zeros((count, count)), np.zeros(count)
    for one_matrix, one_vector in mapping(lambda one: _profile_equations(one[0], one[1], one[2], old, tables), fits):
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


def knot_columns(patch: Patch, sphere: Sphere) -> tuple[tuple[slice, ...], Array]:
    """What each knot of the profile adds to a rendered sphere of depth 1: region, and volumes (k, ...)."""
    region, _, distance = patch.around(sphere)
    place = (distance - np.float32(sphere.radius_nm - REACH_NM)) / np.float32(_KNOT_STEP_NM)
    columns = np.empty((len(_KNOTS_NM), *distance.shape), dtype=np.float32)
    for knot, column in enumerate(columns):
        np.maximum(1 - np.abs(place - np.float32(knot)), 0, out=column)
        column *= patch.mask[region]
    return region, columns


def _profile_equations(
    patch: Patch, sphere: Sphere, neighbours: Sequence[Sphere], old: Profile, tables: Normals | None
) -> tuple[Floats, Floats]:
    """Normal equations (k, k), (k,) of the profile's values at the knots, from one sphere."""
    if not patch.reaches(sphere):
        return np.zeros((len(_KNOTS_NM),) * 2), np.zeros(len(_KNOTS_NM))
    pull = patch.whitened(patch.without(neighbours, old))
    vector = sphere.depth * patch.knot_products(pull, sphere)
    if tables is not None and patch.holds(sphere, REACH_NM):
        return sphere.depth**2 * tables.gram(sphere.radius_nm), vector
    return sphere.depth**2 * gram_matrix(patch, *knot_columns(patch, sphere)), vector


def gram_matrix(patch: Patch, region: tuple[slice, ...], columns: Array) -> Floats:
    """Weighted inner products (n, n) of volumes (n, ...) that lie in a region of a box."""
    spectra = np.zeros((len(columns), *patch.weights.shape), dtype=np.complex64)
    volume = np.zeros_like(patch.values)
    for row, column in enumerate(columns):
        volume[region] = column
        spectra[row] = fft.rfftn(volume)
    return _products(patch, spectra, spectra)
