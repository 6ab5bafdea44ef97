"""The only conversion between array indices (z, y, x) and IMOD's coordinates (x, y, z and half voxels).

An index point has 0.0 at the centre of the first voxel. In IMOD the centre of voxel (i, j, k) along x, y, z lies at
(i + 0.5, j + 0.5, k): the half voxel is there in x and y, but not in z. Sphere sizes are radii in x/y pixels of the
image that the model was drawn on. `frame_of` puts all rules together for a model and an image. Sources: IMOD's
description of its binary format, "Model Coordinate Conventions", and of the ASCII format for loaded subsets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imod_bridge.errors import ModelFormatError
from imod_bridge.model import MODEL_ORIGIN_STORED, Model

Points = NDArray[np.float64]

_HALF_VOXEL_XYZ = np.array([0.5, 0.5, 0.0])
#: A loaded subset starts at a whole voxel; the float32 values it is computed from miss it by up to this, voxels.
_START_TOLERANCE_VOX = 0.01
#: Pixel sizes that differ by less are taken as the same, as share.
_SAME_PIXEL_SIZE = 0.05
#: A ratio of pixel sizes that is this near to a whole number, or to 1 by a whole number, is a binning, as share.
_BINNING_TOLERANCE = 0.01


@dataclass(frozen=True)
class ModelFrame:
    """How the points of a model lie in an image; made by `frame_of`.

    Parameters
    ----------
    yz_exchanged : bool
        The file has y and z exchanged.
    start_xyz : three floats
        Where the loaded part of the model's image starts, in that image's voxels.
    scale : float
        Voxels of the image per voxel of the model's own image: 2 for a model drawn on the same volume binned by 2.
    """

    yz_exchanged: bool = False
    start_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def to_index(self, points_xyz: ArrayLike) -> Points:
        """Points (N, 3) as the model stores them, as index points (N, 3) in z, y, x of the image, voxels."""
        points = exchange_yz(points_xyz) if self.yz_exchanged else _as_points(points_xyz)
        return _rescale(model_to_index(points + self.start_xyz), self.scale)

    def to_stored(self, points_zyx: ArrayLike) -> Points:
        """Index points (N, 3) in z, y, x of the image as the model stores them; the reverse of `to_index`."""
        points = index_to_model(_rescale(_as_points(points_zyx), 1 / self.scale)) - self.start_xyz
        return exchange_yz(points) if self.yz_exchanged else points

    def sizes_to_vox(self, sizes: ArrayLike) -> NDArray[np.float64]:
        """Sphere radii (N,) as the model stores them, in voxels of the image.

        Sizes are in x/y pixels of the image that the model was drawn on. A trap: 3dmod, which moves the points of a
        model that it opens on an image of another binning, leaves sizes and the default size of an object as they are.
        A model that was saved there has right points and wrong sizes, and nothing in the file tells.
        """
        return np.asarray(sizes, dtype=np.float64) * self.scale

    def vox_to_sizes(self, radii: ArrayLike) -> NDArray[np.float64]:
        """Radii (N,) in voxels of the image as the model stores them; the reverse of `sizes_to_vox`."""
        return np.asarray(radii, dtype=np.float64) / self.scale


def frame_of(model: Model, shape_zyx: tuple[int, int, int], spacing_angstrom: float | None) -> ModelFrame:
    """How the points of a model lie in an image.

    Covers exchanged axes, a part of the image that 3dmod had loaded, and a model that was drawn on the same volume at
    another binning. For the last, both the pixel size and the size of the model's image must say so: a loaded part has
    another size, too, and a header that is wrong another pixel size. The outer faces of the two volumes then coincide.

    Parameters
    ----------
    model : Model
    shape_zyx : three ints
        Shape of the image that the points are wanted on.
    spacing_angstrom : float, optional
        Its voxel size; None where it is not known: then the model is taken as drawn at the same binning.

    Raises
    ------
    ModelFormatError
        As `subset_start`.
    """
    x, y, z = subset_start(model).tolist()
    return ModelFrame(model.yz_exchanged, (x, y, z), _scale(model, shape_zyx, spacing_angstrom))


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


def subset_start_zyx(model: Model) -> tuple[float, float, float]:
    """`subset_start` in the order of arrays."""
    x, y, z = subset_start(model).tolist()
    return z, y, x


def stored_to_index(points_xyz: ArrayLike, model: Model) -> Points:
    """Points (N, 3) as stored in a model, as index points (N, 3) in z, y, x of the whole image.

    Undoes the exchange of y and z and adds the start of a loaded subset.

    Raises
    ------
    ModelFormatError
        As `subset_start`.
    """
    return _frame_of_own_image(model).to_index(points_xyz)


def index_to_stored(points_zyx: ArrayLike, model: Model) -> Points:
    """Index points (N, 3) of the whole image as a model stores them; the reverse of `stored_to_index`."""
    return _frame_of_own_image(model).to_stored(points_zyx)


def image_shape_zyx(model: Model) -> tuple[int, int, int]:
    """Size along z, y, x of the image that the model was last shown on; zeros where the model does not say."""
    nx, ny, nz = model.image_size
    return (ny, nz, nx) if model.yz_exchanged else (nz, ny, nx)


def shape_to_model(shape_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of an array as a model's image size (x, y, z)."""
    nz, ny, nx = shape_zyx
    return nx, ny, nz


def _frame_of_own_image(model: Model) -> ModelFrame:
    return frame_of(model, image_shape_zyx(model), None)


def _scale(model: Model, shape_zyx: tuple[int, int, int], spacing_angstrom: float | None) -> float:
    """Voxels of an image per voxel of the image that a model was drawn on; 1 unless it shows the same volume binned."""
    own_shape = image_shape_zyx(model)
    own_spacing = _own_spacing_angstrom(model)
    if not own_spacing or not spacing_angstrom or min(own_shape) < 1 or own_shape == tuple(shape_zyx):
        return 1.0
    ratio = own_spacing / spacing_angstrom
    if not np.isfinite(ratio) or ratio <= 0 or abs(ratio - 1) < _SAME_PIXEL_SIZE:
        return 1.0
    mismatch = np.abs(np.asarray(own_shape) * ratio - np.asarray(shape_zyx))
    if (mismatch > max(2.0, 2 * ratio)).any():
        return 1.0
    binning = max(ratio, 1 / ratio)
    if abs(binning - round(binning)) < _BINNING_TOLERANCE * binning:
        return float(round(binning)) if ratio > 1 else 1 / round(binning)
    return ratio


def _own_spacing_angstrom(model: Model) -> float | None:
    """Voxel size of the image that a model was drawn on; None where it does not say, or not one for all axes."""
    if model.image_reference is None:
        return None if model.pixel_size_nm is None else 10 * model.pixel_size_nm
    spacing = model.image_reference.spacing
    if not (np.isfinite(spacing).all() and (spacing > 0).all()) or np.ptp(spacing) > _SAME_PIXEL_SIZE * spacing.min():
        return None
    return float(spacing[0])


def _rescale(points_zyx: Points, scale: float) -> Points:
    """Index points in voxels of another size, the outer face of the volume at -0.5 in both."""
    return points_zyx if scale == 1 else (points_zyx + 0.5) * scale - 0.5


def _as_points(points: ArrayLike) -> Points:
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 3))
    array = np.atleast_2d(array)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"points must have shape (N, 3), got {array.shape}")
    return array
