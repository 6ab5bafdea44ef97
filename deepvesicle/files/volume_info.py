"""What an MRC file holds, grey values or labels, and what is odd about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import TomogramError
from deepvesicle.files.labels import label_statistics
from deepvesicle.files.mrc_header import Header
from deepvesicle.files.quality import assess
from deepvesicle.files.tomogram import check_grey, read_header, read_voxels, slabs, statistics
from deepvesicle.grid import Tomogram

#: Of labelled voxels, this share has the same label as the next along x; grey values are not so even.
_SAME_LABEL = 0.4
_MAX_ID = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class VolumeInfo:
    """A volume.

    Parameters
    ----------
    path : str
    kind : str
        ``labels`` (whole numbers from 0 in patches) or ``grey values``.
    shape_zyx : three ints
    voxel_nm : three floats
        z, y, x, as the header says; NaN where it says nothing.
    origin_nm : three floats
        z, y, x.
    data_type : str
    minimum, maximum, mean, sd : float
    voxels_of_id : mapping of int to int, optional
        How many voxels each label has, background left out; None for grey values.
    remarks : tuple of str
        What is odd.
    """

    path: str
    kind: str
    shape_zyx: tuple[int, int, int]
    voxel_nm: tuple[float, float, float]
    origin_nm: tuple[float, float, float]
    data_type: str
    minimum: float
    maximum: float
    mean: float
    sd: float
    voxels_of_id: Mapping[int, int] | None
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary; sizes that are not known are None."""
        content = asdict(self)
        content["voxel_nm"] = [v if np.isfinite(v) else None for v in self.voxel_nm]
        return content


def volume_info(path: str | os.PathLike[str]) -> VolumeInfo:
    """Describe an MRC file; all voxels are looked at once or twice.

    Raises
    ------
    TomogramError
        Not a volume of real numbers.
    """
    header = read_header(path)
    data = read_voxels(header)
    counts = label_counts(data)
    low, high, mean, sd = statistics(data) if counts is None else label_statistics(counts, data.size)
    return VolumeInfo(
        path=str(header.path),
        kind="grey values" if counts is None else "labels",
        shape_zyx=header.shape_zyx,
        voxel_nm=header.header_voxel_nm,
        origin_nm=header.origin_nm,
        data_type=str(header.dtype.newbyteorder("=")),
        minimum=low,
        maximum=high,
        mean=mean,
        sd=sd,
        voxels_of_id=counts,
        remarks=_remarks(header, data, counts),
    )


def _remarks(header: Header, data: NDArray[Any], counts: Mapping[int, int] | None) -> tuple[str, ...]:
    """What is odd, in a few words each: of the header, and of grey values what `deepvesicle check` would say."""
    try:
        tomogram = Tomogram(data, header.grid(), path=header.path, notes=header.notes)
        if counts is None:
            check_grey(tomogram)
            return assess(tomogram).doubts
    except TomogramError as error:
        return (*header.notes, f"{error.what}: {error.got}" if error.got else error.what)
    if not counts:
        return (*header.notes, "nothing is labelled")
    return (*header.notes, "all voxels have the same label") if data.size in counts.values() else header.notes


def label_counts(data: NDArray[Any]) -> dict[int, int] | None:
    """How many voxels each id of a label volume has, or None where an array holds grey values.

    Labels are whole numbers from 0 in patches: neighbours along x mostly share theirs.

    Parameters
    ----------
    data : array (z, y, x)
        Of any real type; may be a memory map.

    Returns
    -------
    dict of int to int
        Without the background 0; empty where nothing is labelled.
    """
    counts = np.zeros(_MAX_ID + 1, dtype=np.int64)
    same = 0
    for _, slab in slabs(data):
        if data.dtype.kind == "f" and not np.all(slab == np.rint(slab)):  # false for NaN as well
            return None
        if slab.min() < 0 or slab.max() > _MAX_ID:
            return None
        counts += np.bincount(slab[slab != 0].astype(np.uint16), minlength=len(counts))
        left, right = slab[..., :-1], slab[..., 1:]
        same += int(np.count_nonzero((left == right) & (left != 0)))
    if same < _SAME_LABEL * counts.sum():
        return None
    return {int(number): int(counts[number]) for number in np.flatnonzero(counts)}
