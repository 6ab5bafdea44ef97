"""What to say of a file that was not made on the tomogram as it is: another binning, a part of it, a shift."""

from __future__ import annotations

import os

import numpy as np

from deepvesicle.files.tomogram import read_header
from deepvesicle.grid import VOXEL_NM_RANGE, Grid, angstrom_to_nm
from imod_bridge.coordinates import ModelFrame, image_shape_zyx, shape_to_model
from imod_bridge.model import MODEL_ORIGIN_STORED, Model

#: Voxel sizes that differ by less are the same, as share; origins, in voxels.
_SAME_SIZE, _SAME_PLACE_VOX = 0.05, 1.0


def frame_notes(model: Model, frame: ModelFrame, grid: Grid) -> list[str]:
    """What the user should know of how a model's coordinates were taken over, one line each.

    Parameters
    ----------
    model : Model
    frame : ModelFrame
        Of the model on the tomogram.
    grid : Grid
        Of the tomogram.
    """
    own_nm = _own_voxel_nm(model)
    own_shape, shape = image_shape_zyx(model), grid.shape_zyx
    of_part = any(frame.start_xyz)
    notes = []
    if frame.scale != 1:
        notes.append(
            f"the model was made on voxels of {own_nm:.4g} nm, the tomogram has {grid.voxel_nm:.4g} nm: points and "
            f"sizes are scaled by {frame.scale:.4g} (3dmod leaves sizes as they are when it shows a model at another "
            "binning: look whether they are right)"
        )
    elif own_nm is not None and abs(own_nm / grid.voxel_nm - 1) > _SAME_SIZE:
        notes.append(
            f"the model says that voxels have {own_nm:.4g} nm, but the tomogram's have {grid.voxel_nm:.4g} nm: its "
            "coordinates are taken as voxels of the tomogram"
        )
    if frame.scale == 1 and not of_part and min(own_shape) > 0 and own_shape != shape:
        notes.append(
            f"the model was made on an image of {_size(own_shape)} voxels, the tomogram has {_size(shape)}: is it the "
            "right one?"
        )
    if of_part:
        x, y, z = frame.start_xyz
        notes.append(
            f"the model was made on a part of the tomogram that starts at voxel x {x:g}, y {y:g}, z {z:g}: it is "
            "shifted by that"
        )
    shift = _origin_shift(model, grid)
    if shift is not None:
        x, y, z = shift
        notes.append(
            f"the origin of the model's image and that of the tomogram differ by x {x:.1f}, y {y:.1f}, z {z:.1f} "
            "voxels: 3dmod would show the model shifted; its coordinates are taken as they are"
        )
    return notes


def volume_notes(path: str | os.PathLike[str], grid: Grid) -> list[str]:
    """What the user should know of a label volume of the tomogram's shape: that its header has another voxel size.

    Parameters
    ----------
    path : path
        MRC file; its header alone is read.
    grid : Grid
        Of the tomogram.

    Raises
    ------
    TomogramError
        Not an MRC file.
    """
    sizes = np.array(read_header(path).header_voxel_nm)
    low, high = VOXEL_NM_RANGE
    known = np.isfinite(sizes).all() and (sizes >= low).all() and (sizes <= high).all()
    if not known or np.abs(sizes / grid.voxel_nm - 1).max() <= _SAME_SIZE:
        return []
    return [
        f"{path} has voxels of {sizes[2]:.4g} nm, the tomogram of {grid.voxel_nm:.4g} nm: of the same shape, so taken "
        "as the same voxels"
    ]


def _own_voxel_nm(model: Model) -> float | None:
    """Voxel size of the image that a model was made on, along x; None where it does not say."""
    if model.image_reference is None:
        return model.pixel_size_nm
    spacing = float(model.image_reference.spacing[0])
    return float(angstrom_to_nm(spacing)) if np.isfinite(spacing) and spacing > 0 else None


def _origin_shift(model: Model, grid: Grid) -> tuple[float, float, float] | None:
    """How far the origins of both images are apart (x, y, z), voxels; None where they agree or are not known.

    Older and newer files give the origin with opposite signs: both count as agreeing.
    """
    reference = model.image_reference
    if reference is None or not model.flags & MODEL_ORIGIN_STORED:
        return None
    own = angstrom_to_nm(reference.origin)
    if not np.isfinite(own).all():
        return None
    z, y, x = grid.origin_nm
    theirs = np.array([x, y, z])
    shifts = [(own - theirs) / grid.voxel_nm, (own + theirs) / grid.voxel_nm]
    if min(float(np.abs(shift).max()) for shift in shifts) <= _SAME_PLACE_VOX:
        return None
    along_x, along_y, along_z = (float(v) for v in shifts[0])
    return along_x, along_y, along_z


def _size(shape_zyx: tuple[int, int, int]) -> str:
    return " x ".join(str(n) for n in shape_to_model(shape_zyx))
