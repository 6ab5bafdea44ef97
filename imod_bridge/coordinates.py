"""The only conversion between array indices (z, y, x) and IMOD's coordinates (x, y, z and half voxels).

An index point has 0.0 at the centre of the first voxel. In IMOD the centre of voxel (i, j, k) along x, y, z lies at
(i + 0.5, j + 0.5, k): the half voxel is there in x and y, but not in z. Sphere sizes are radii in x/y pixels of the
full image and need no conversion. Sources: IMOD's description of its binary format, "Model Coordinate Conventions", and
of the ASCII format for loaded subsets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imod_bridge.errors import ModelFormatError
from imod_bridge.model import MODEL_ORIGIN_STORED, Model

Points = NDArray[np.float64]

_HALF_VOXEL_XYZ = np.array([0.5, 0.5, 0.0])
#: A loaded subset starts at a whole voxel; the float32 values it is computed from miss it by up to this, voxels.
_START_TOLERANCE_VOX = 0.01


def index_to_model(points_zyx: ArrayLike) -> Points:
    """Index points (N, 3) in z, y, x as IMOD points (N, 3) in x, y, z."""
    return _as_points(points_zyx)[:, ::-1] + _HALF_VOXEL_XYZ


def model_to_index(points_xyz: ArrayLike) -> Points:
    """IMOD points (N, 3) in x, y, z as index points (N, 3) in z, y, x."""
    return np.ascontiguousarray((_as_points(points_xyz) - _HALF_VOXEL_XYZ)[:, ::-1])


def exchange_yz(points_xyz: ArrayLike) -> Points:
    """IMOD points (N, 3) with y and z exchanged, as 3dmod stores them when it shows the volume that way."""
    return _as_points(points_xyz)[:, [0, 2, 1]]


def subset_start(model: Model) -> NDArray[np.float64]:
    """Where the part of the image that the model was drawn on starts in the whole image (x, y, z), voxels.

    Zero without image reference, and where the model does not say where the whole image's origin is.

    Raises
    ------
    ModelFormatError
        The reference has a spacing that is not positive, or values that are not finite.
    """
    reference = model.image_reference
    if reference is None or not model.flags & MODEL_ORIGIN_STORED:
        return np.zeros(3)
    spacing, shift = reference.spacing, reference.origin - reference.translation
    if not (np.isfinite(spacing).all() and np.isfinite(shift).all() and (spacing > 0).all()):
        raise ModelFormatError(
            f"the image reference MINX is impossible: spacing {spacing.tolist()}, shift {shift.tolist()}"
        )
    start = shift / spacing
    whole = np.rint(start)
    return np.where(np.abs(start - whole) < _START_TOLERANCE_VOX, whole, start)


def stored_to_index(points_xyz: ArrayLike, model: Model) -> Points:
    """Points (N, 3) as stored in a model, as index points (N, 3) in z, y, x of the whole image.

    Undoes the exchange of y and z and adds the start of a loaded subset.

    Raises
    ------
    ModelFormatError
        As `subset_start`.
    """
    points = exchange_yz(points_xyz) if model.yz_exchanged else _as_points(points_xyz)
    return model_to_index(points + subset_start(model))


def index_to_stored(points_zyx: ArrayLike, model: Model) -> Points:
    """Index points (N, 3) of the whole image as a model stores them; the reverse of `stored_to_index`."""
    points = index_to_model(points_zyx) - subset_start(model)
    return exchange_yz(points) if model.yz_exchanged else points


def image_shape_zyx(model: Model) -> tuple[int, int, int]:
    """Size along z, y, x of the image that the model was last shown on; zeros where the model does not say."""
    nx, ny, nz = model.image_size
    return (ny, nz, nx) if model.yz_exchanged else (nz, ny, nx)


def shape_to_model(shape_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of an array as a model's image size (x, y, z)."""
    nz, ny, nx = shape_zyx
    return nx, ny, nz


def _as_points(points: ArrayLike) -> Points:
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 3))
    array = np.atleast_2d(array)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"points must have shape (N, 3), got {array.shape}")
    return array
