"""Least-squares fit of an ellipsoidal shell to a polar table of grey values, and what its shape is known to be.

The surface is ``(x - d)' exp(-2 M) (x - d) = 1`` with centre d and a symmetric matrix M, whose eigenvectors are the
axes and whose eigenvalues are the logarithms of the semi-axes. Its six numbers are the logarithm of the mean radius
and five that vanish for a sphere; unlike axes and angles they are well defined for spheres too (log-Euclidean
matrices; Arsigny et al., Magn. Reson. Med. 56 (2006) 411-421). The rest is as in `shell_fit`: each patch of directions
is correlated with the membrane's profile, patches that disagree lose their weight, and the covariance is the sandwich
estimate over patches, to which the prior adds what it holds in place of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from deepvesicle.fitting.profile import DirectionSet, Floats, resolved_weight
from deepvesicle.fitting.shell_fit import CHI2_MEDIAN, MatchTables
from deepvesicle.spheres import mirrored_directions

#: Tilt range in degrees and tilt axis.
Tilt = tuple[tuple[float, float], str]
#: The six numbers of M are its parts along these: the unit matrix, and five orthonormal ones without a trace.
BASIS: Floats = np.array(
    [
        np.eye(3),
        np.diag([2.0, -1.0, -1.0]) / np.sqrt(6),
        np.diag([0.0, 1.0, -1.0]) / np.sqrt(2),
        np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]) / np.sqrt(2),
        np.array([[0.0, 0, 1], [0, 0, 0], [1, 0, 0]]) / np.sqrt(2),
        np.array([[0.0, 0, 0], [0, 0, 1], [0, 1, 0]]) / np.sqrt(2),
    ]
)
#: SD of the prior, relative to the radius: of the centre, of the mean radius, and of the length in any one direction
#: against the mean. It matters only where the data leave something open: above all along z.
CENTRE_SD, SIZE_SD, SHAPE_SD = 0.15, 0.15, 0.15
#: Patches resolved less than this are left out: they are smeared and displaced.
MIN_RESOLVED = 0.4
#: Fewer patches than this do not make an ellipsoid.
MIN_PATCHES = 16
#: Noise of patches closer than about this is alike.
_CORRELATED_RAD = np.radians(25.0)
#: What the estimated SDs are multiplied by: noise reaches further over a shell than patches can tell. The factor brings
#: the SDs to the errors seen in simulated tomograms (voxels of 1 to 2.9 nm, d' of 0.4 to 1.2, tilts to 45 and 60).
_CALIBRATION = 2.1
#: The wedge displaces membranes that face the beam in part: by an unknown share of the radius up to about this, times
#: what is not resolved, times the square of the normal's z. It does so alike in all patches, noise or not.
_DISPLACED = 0.16
#: Shapes tried at the start: logarithm of an axis' stretch against the two others, and of the mean radius; steps of
#: the centre, and where the table is looked up, as shares of the radius.
_STRETCHES = (-0.3, -0.15, 0.15, 0.3)
_SIZES = (-0.12, 0.0, 0.12)
_MOVE = 0.15
_START_GRID: Floats = np.arange(-0.5, 0.7, 0.025)
_LATTICE_DEG = 3.0


def matrix(shape: Floats) -> Floats:
    """M (..., 3, 3) of its six numbers (..., 6)."""
    return np.asarray((shape @ BASIS.reshape(6, 9)).reshape(*shape.shape[:-1], 3, 3))


def quadratic_terms(directions: Floats) -> Floats:
    """Derivatives (n, 6) of ``u' M u``, to first order the logarithm of the length along u, for unit vectors (n, 3)."""
    return np.asarray(np.einsum("ni,kij,nj->nk", directions, BASIS, directions))


@dataclass(frozen=True)
class Surface:
    """An ellipsoid seen along rays from the origin, which lies inside it.

    Parameters
    ----------
    distance : array (p,)
        Along each ray to the surface.
    jacobian : array (p, 9)
        Derivatives of the distance by the centre (z, y, x) and the six numbers of M.
    normals : array (p, 3)
        Of the surface there, unit length.
    """

    distance: Floats
    jacobian: Floats
    normals: Floats


def _distance(along: Floats, centre: Floats, square: Floats) -> Floats:
    """Distance along rays in the frame of the axes: the larger root of a quadratic equation."""
    a = along**2 @ square
    b = along @ (square * centre)
    c = float(centre**2 @ square) - 1
    return np.asarray((b + np.sqrt(np.maximum(b * b - a * c, 0))) / a)


def surface(rays: Floats, state: Floats) -> Surface:
    """Distance, its derivatives and normals of an ellipsoid along rays.

    Parameters
    ----------
    rays : array (p, 3)
        Unit vectors.
    state : array (9,)
        Centre z, y, x and the six numbers of M, in the unit of the distances.
    """
    logs, axes = np.linalg.eigh(matrix(state[3:]))
    square = np.exp(-2 * logs)
    along, centre = rays @ axes, state[:3] @ axes
    distance = _distance(along, centre, square)
    place = distance[:, None] * along - centre
    gradient = place * square
    steep = np.maximum((along * gradient).sum(axis=1), 1e-12)
    # Derivative of exp(-2 M) in the frame of its axes (Daletskii and Krein): divided differences of exp(-2 l).
    gap = logs[:, None] - logs[None, :]
    mean = np.exp(-(logs[:, None] + logs[None, :]))
    ratio = -2 * mean * np.where(np.abs(gap) > 1e-6, np.sinh(gap) / np.where(gap == 0, 1.0, gap), 1.0)
    turned = ratio * (axes.T @ BASIS @ axes)
    squares = (place[:, :, None] * place[:, None, :]).reshape(-1, 9)
    by_shape = -(squares @ turned.reshape(6, 9).T) / (2 * steep[:, None])
    by_centre = (gradient @ axes.T) / steep[:, None]
    normals = gradient @ axes.T
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return Surface(distance, np.concatenate([by_centre, by_shape], axis=1), normals)


@lru_cache(maxsize=8)
def _resolved_table(tilt_range_deg: tuple[float, float], tilt_axis: str) -> Floats:
    """`resolved_weight` over elevation and azimuth, in steps of `_LATTICE_DEG`: it is the same in all octants."""
    angles = np.radians(np.arange(0, 90.1, _LATTICE_DEG))
    up, round_ = np.meshgrid(angles, angles, indexing="ij")
    directions = np.stack([np.sin(up), np.cos(up) * np.sin(round_), np.cos(up) * np.cos(round_)], axis=-1)
    return resolved_weight(directions.reshape(-1, 3), tilt_range_deg, tilt_axis).reshape(up.shape)


def resolved_normals(normals: Floats, tilt_range_deg: tuple[float, float], tilt_axis: str) -> Floats:
    """`profile.resolved_weight` of normals (p, 3), from a table."""
    table = _resolved_table(tilt_range_deg, tilt_axis)
    z, y, x = np.abs(normals).T
    places = np.degrees(np.stack([np.arcsin(np.minimum(z, 1)), np.arctan2(y, x)])) / _LATTICE_DEG
    return np.asarray(map_coordinates(table, places, order=1, mode="nearest"))


def start_shifts(radius_nm: float) -> Floats:
    """Distances less the radius, nm, that `start_state` wants a table of."""
    return _START_GRID * radius_nm


@lru_cache(maxsize=8)
def _candidates(patches: bytes, used: bytes) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """States to try (k, 9), the radius being 1, what the prior has against them, and their places in a table (k, u)."""
    rays = np.frombuffer(patches).reshape(-1, 3)
    which = np.flatnonzero(np.frombuffer(used, dtype=bool))
    axes = mirrored_directions(48)
    axes = axes[axes[:, 0] > 0]
    spindle = np.einsum("ni,nj->nij", axes, axes) - np.eye(3) / 3
    parts = np.einsum("nij,kij->nk", spindle, BASIS) * np.array([0.0, 1, 1, 1, 1, 1])
    shapes = np.concatenate([np.zeros((1, 6)), *(stretch * parts for stretch in _STRETCHES)])
    shapes = np.concatenate([shapes + size * np.eye(6)[0] for size in _SIZES])
    line = np.arange(-2, 3) * _MOVE
    centres = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    centres = centres[np.linalg.norm(centres, axis=1) < 2.1 * _MOVE]
    states = np.concatenate([np.repeat(centres, len(shapes), axis=0), np.tile(shapes, (len(centres), 1))], axis=1)
    against = 0.5 * (states**2 / _prior_sd() ** 2).sum(axis=1)
    distance = np.exp(shapes @ quadratic_terms(rays[which]).T) + (centres @ rays[which].T)[:, None, :]
    columns = np.rint((distance.reshape(len(states), -1) - 1 - _START_GRID[0]) / (_START_GRID[1] - _START_GRID[0]))
    places = np.clip(columns, 0, len(_START_GRID) - 1) + np.arange(len(which)) * len(_START_GRID)
    return states, against, places.astype(np.int32)


def start_state(tables: MatchTables, patches: Floats, resolved: Floats, radius_nm: float) -> Floats:
    """The most likely of a set of spheroids about the start sphere: where the fit begins (9,).

    Parameters
    ----------
    tables : MatchTables
        At the distances of `start_shifts`.
    patches : array (p, 3)
    resolved : array (p,)
        How well membranes that face that way are resolved.
    radius_nm : float
        Of the start sphere.
    """
    used = resolved >= MIN_RESOLVED
    states, against, places = _candidates(np.ascontiguousarray(patches).tobytes(), used.tobytes())
    shares = resolved[used, None]
    match = (tables.match[used] * shares).astype(np.float32).ravel().take(places).sum(axis=1)
    power = float((tables.power[used] * shares**2).max(axis=1).sum())
    good = tables.power > 0.2 * np.median(tables.power)
    noise = float(np.median(tables.match[good] ** 2 / tables.power[good])) / CHI2_MEDIAN if good.any() else 1.0
    gain = np.maximum(match, 0) ** 2 / max(power * noise, 1e-12) / 2
    best = states[int(np.argmax(gain - against))]
    return np.concatenate([best[:3] * radius_nm, best[3:] + np.log(radius_nm) * np.eye(6)[0]])


def _prior_sd() -> Floats:
    """SD of centre (in radii) and the numbers of M."""
    # Five equal ones of this SD give the logarithm of the length in any direction an SD of SHAPE_SD.
    return np.array([CENTRE_SD] * 3 + [SIZE_SD] + [SHAPE_SD * np.sqrt(1.5)] * 5)


def _patch_means(set_: DirectionSet, state: Floats) -> Floats:
    """Mean distance (p,) to an ellipsoid over the directions of each patch: less than at its middle near a tip."""
    logs, axes = np.linalg.eigh(matrix(state[3:]))
    distance = _distance(set_.directions @ axes, state[:3] @ axes, np.exp(-2 * logs))
    counts = np.diff(np.append(set_.first, len(set_.directions)))
    return np.asarray(np.add.reduceat(distance, set_.first) / counts)


@dataclass(frozen=True)
class EllipsoidFit:
    """A fitted ellipsoid, relative to the origin of the rays.

    Parameters
    ----------
    displacement_nm : array (3,)
        Its centre.
    shape : array (6,)
        Of M, lengths in nm, of the middle of the membrane.
    covariance : array (9, 9)
        Of both, nm and logarithms.
    amplitude : float
        Depth of the membrane, grey values.
    significance : float
        Amplitude / its standard error over patches.
    distance_nm : array (p,)
        From the origin to the surface along each patch's direction.
    patch_weights : array (p,)
        Resolution x robust weight; 0 for patches that were not used.
    """

    displacement_nm: Floats
    shape: Floats
    covariance: Floats
    amplitude: float
    significance: float
    distance_nm: Floats
    patch_weights: Floats


def fit_ellipsoid(
    tables: MatchTables,
    set_: DirectionSet,
    tilt: Tilt,
    start: Floats,
    radius_nm: float,
    *,
    steps: int = 12,
    tolerance: float = 0.001,
) -> EllipsoidFit | None:
    """Fit centre and shape by damped Gauss-Newton steps.

    Parameters
    ----------
    tables : MatchTables
        Of rays from the centre of the fitted sphere.
    set_ : DirectionSet
        Directions in which they were sampled.
    tilt : Tilt
    start : array (9,)
        Centre and numbers of M to begin with.
    radius_nm : float
        Of the fitted sphere, about which the prior lies.
    steps : int
        At most so many.
    tolerance : float
        Steps smaller than this share of the radius are the end.

    Returns
    -------
    EllipsoidFit or None
        None where too little is seen to determine one.
    """
    patches = set_.patches
    target = np.concatenate([np.zeros(3), [np.log(radius_nm)], np.zeros(5)])
    unit = np.concatenate([np.full(3, radius_nm), np.ones(6)])
    prior = _prior_sd() * unit
    state = start
    robust = np.ones(len(patches))
    typical = float(np.median(tables.power.max(axis=1)))
    noise, beyond = 0.0, np.zeros(len(patches))
    for step in range(steps + 1):
        seen = surface(patches, state)
        if step in (2, 4, 7, 10):
            beyond = _patch_means(set_, state) - seen.distance
        match, match_slope, power, power_slope, stiffness = tables.at(seen.distance + beyond)
        resolved = resolved_normals(seen.normals, *tilt)
        shares = np.where(resolved >= MIN_RESOLVED, resolved, 0.0)
        weights = shares * robust * (power > 0.35 * typical)
        used = weights > 0
        if used.sum() < MIN_PATCHES:
            return None
        amplitude = float((weights * match).sum() / max(float((weights * shares * power).sum()), 1e-12))
        if not amplitude > 0:
            return None
        scale = amplitude * shares
        force = scale * match_slope - 0.5 * scale**2 * power_slope
        stiffness = np.maximum(scale**2 * stiffness, 1e-12)
        residual = np.where(used, force / stiffness, 0.0)
        noise = float(np.median(force[used] ** 2 / stiffness[used])) / CHI2_MEDIAN
        penalty = noise / prior**2
        trust = robust * used
        hessian = (seen.jacobian * (trust * stiffness)[:, None]).T @ seen.jacobian + np.diag(penalty)
        if step == steps:
            break
        gradient = seen.jacobian.T @ (trust * force) - penalty * (state - target)
        move = np.linalg.solve(hessian, gradient)
        # A template is only steep near its place: steps longer than that are guesses.
        size = float(np.abs(move / unit).max())
        move *= min(1.0, 1.5 / max(size * radius_nm, 1e-12))
        if step >= 4 and size < tolerance:
            break
        state = state + move
        if step >= 2:
            spread = 1.4826 * float(np.median(np.abs(residual[used])))
            cut = 4.685 * max(spread, 0.02 * radius_nm, 0.25)
            robust = np.clip(1 - (residual / cut) ** 2, 0, None) ** 2
            robust[~used] = 1.0
    scores = seen.jacobian * (trust * force)[:, None]
    inverse = np.linalg.pinv(hessian)
    count = int(used.sum())
    small_sample = count / max(count - 9, 1)
    near = np.exp(-0.5 * (np.arccos(np.clip(patches @ patches.T, -1, 1)) / _CORRELATED_RAD) ** 2)
    # What the prior decided is as uncertain as the prior: the mean squared error of a ridge estimate.
    middle = (scores.T @ near @ scores) * small_sample * _CALIBRATION**2 + np.diag(noise * penalty)
    pulls = weights * (match - amplitude * shares * power)
    error = float(np.sqrt((pulls**2).sum() * small_sample))
    significance = float((weights * match).sum()) / error if error > 0 else 0.0
    displaced = _DISPLACED * radius_nm * (1 - resolved) * seen.normals[:, 0] ** 2
    common = inverse @ (seen.jacobian.T @ (trust * stiffness * displaced))
    covariance = inverse @ middle @ inverse + np.outer(common, common)
    return EllipsoidFit(state[:3], state[3:], covariance, amplitude, significance, seen.distance, weights)
