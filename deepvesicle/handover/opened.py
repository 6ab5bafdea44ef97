"""The files that ``tomo_info.py`` names, opened as Pyto would, and what it cannot read of them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import DeepVesicleError, VoxelSizeError
from deepvesicle.files.mrc_header import Header
from deepvesicle.files.tomogram import check_grey, read_header, read_voxels, slabs
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.handover.findings import Finding, Severity
from deepvesicle.handover.folder import TomoInfo
from deepvesicle.handover.surfaces import LABELS

#: Names of files without a header, whose type and shape Pyto takes from elsewhere.
_RAW = (".raw", ".dat")
#: How files begin that are compressed with gzip.
_GZIP = b"\x1f\x8b"
#: Voxel sizes that differ by less than this part are the same.
_SAME_SIZE = 0.01
#: Sections of a tomogram that are looked through for values that no tomogram holds.
_SECTIONS = 16
_ON_TOMOGRAM = "Make the labels on the tomogram that image_file_name names"
_AS_MRC = "Write it as an MRC file of 16-bit integers (mode 6 or 1)"


@dataclass(frozen=True, eq=False)
class Opened:
    """A file as far as it could be opened.

    Parameters
    ----------
    findings : tuple of Finding
    data : array (z, y, x) or None
        As Pyto sees it: bytes are unsigned.
    voxel_nm : float or None
    has_header : bool
        It is a file that could say its voxel size.
    """

    findings: tuple[Finding, ...] = ()
    data: NDArray[Any] | None = None
    voxel_nm: float | None = None
    has_header: bool = False


def open_tomogram(info: TomoInfo) -> Opened:
    """The tomogram."""
    path, kind = info.image, "tomogram_type"
    if path is None:
        return Opened()
    missing = _missing(path, "tomogram", "image_file_name")
    if missing is not None:
        return Opened((missing,))
    header = _header(path, "tomogram", kind)
    if isinstance(header, Finding):
        return Opened((header,))
    findings = list(_of_header(header, "tomogram", kind))
    try:
        data = read_voxels(header)
        voxel_nm = _voxel_nm(header)
        some = data[:: max(1, len(data) // _SECTIONS)]
        check_grey(Tomogram(some, Grid(some.shape, voxel_nm or 1.0), path=path))
    except DeepVesicleError as error:
        text = f"the tomogram cannot be used: {error.what}"
        return Opened((*findings, Finding(kind, Severity.ERROR, text, "Write it anew")))
    if data.dtype == np.int8 and any((slab < 0).any() for _, slab in slabs(data)):
        text = "the tomogram has signed bytes (mode 0), which Pyto reads as unsigned: dark becomes bright"
        findings.append(Finding(kind, Severity.ERROR, text, "Write it as 16-bit integers (mode 1)"))
    if voxel_nm is None:
        text = "the header of the tomogram has no voxel size that can be right, which Pyto takes from it"
        findings.append(Finding("voxel_size", Severity.WARNING, text, "Set it in the header (IMOD: alterheader -del)"))
    return Opened(tuple(findings), data, voxel_nm)


def open_labels(info: TomoInfo, tomogram: Opened) -> Opened:
    """The label volume; None where a check of the voxels makes no sense."""
    path, kind = info.labels, "labels_type"
    if path is None:
        return Opened()
    missing = _missing(path, "label volume", "labels_file_name")
    if missing is not None:
        return Opened((missing,))
    if path.suffix.lower() in _RAW:
        return _raw_labels(path, info, tomogram)
    header = _header(path, "label volume", kind)
    if isinstance(header, Finding):
        return Opened((header,))
    findings = list(_of_header(header, "label volume", kind))
    findings += _data_type(info, header.dtype)
    try:
        data = read_voxels(header)
    except DeepVesicleError as error:
        text = f"the label volume cannot be used: {error.what}"
        return Opened((*findings, Finding(kind, Severity.ERROR, text, _AS_MRC)))
    if header.dtype == np.dtype(np.int8) or header.dtype == np.dtype(np.uint8):
        data = data.view(np.uint8)
        findings += _bytes(data)
    opened = _checked(data, findings)
    return replace(opened, voxel_nm=_voxel_nm(header), has_header=True)


def forget_pages(data: NDArray[Any]) -> None:
    """Let go of what of a read-only memory map is in memory; it is read again where it is looked at again."""
    base: Any = data
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise") and not data.flags.writeable:
        base.madvise(mmap.MADV_DONTNEED)


def open_together(tomogram: Opened, labels: Opened) -> Iterator[Finding]:
    """Whether tomogram and labels fit each other."""
    if tomogram.data is not None and labels.data is not None and tomogram.data.shape != labels.data.shape:
        sizes = [" x ".join(str(n) for n in one.data.shape[::-1]) for one in (labels, tomogram) if one.data is not None]
        text = f"the label volume has {sizes[0]} voxels (x, y, z), the tomogram {sizes[1]}"
        yield Finding("shape", Severity.ERROR, text, _ON_TOMOGRAM)
    if tomogram.voxel_nm and labels.data is not None and labels.has_header and not labels.voxel_nm:
        own = f"{tomogram.voxel_nm:g} nm"
        text = f"the header of the label volume has no voxel size that can be right, that of the tomogram {own}"
        yield Finding("voxel_size", Severity.WARNING, text, "Set it in the header (IMOD: alterheader -del)")
    if tomogram.voxel_nm and labels.voxel_nm and abs(labels.voxel_nm / tomogram.voxel_nm - 1) > _SAME_SIZE:
        text = f"voxels of the labels are {labels.voxel_nm:g} nm, those of the tomogram {tomogram.voxel_nm:g} nm"
        yield Finding(
            "voxel_size", Severity.WARNING, text, "Make the labels on the tomogram that is named, or correct a header"
        )


def _missing(path: Path, what: str, variable: str) -> Finding | None:
    if path.is_file():
        return None
    broken = " (a link that leads nowhere)" if path.is_symlink() else ""
    text = f"the {what} that {variable} names does not exist: {path}{broken}"
    remedy = f"Correct {variable}, which is relative to a task's folder such as connectors/, or put the file there"
    return Finding("file_missing", Severity.ERROR, text, remedy)


def _header(path: Path, what: str, kind: str) -> Header | Finding:
    try:
        return read_header(path)
    except DeepVesicleError as error:
        got = f": {error.got}" if error.got else ""
        text = f"the {what} is not looked at, as it is no MRC volume: {error.what}{got}"
        return Finding(
            kind, Severity.WARNING if path.suffix.lower() == ".em" else Severity.ERROR, text, "Write it as MRC"
        )


def _of_header(header: Header, what: str, kind: str) -> Iterator[Finding]:
    """What Pyto cannot read, as the header and the name show it."""
    if is_compressed(header.path):
        text = f"the {what} is compressed, which Pyto does not read: {header.path.name}"
        named = header.path.suffix.lower() == ".gz"
        remedy = "Uncompress it (gunzip), and correct its name in tomo_info.py" if named else "Uncompress it (gunzip)"
        yield Finding(kind, Severity.ERROR, text, remedy)
    if header.dtype.kind == "f" and header.dtype.itemsize == 2:
        text = f"the {what} has 16-bit floats (mode 12), which Pyto does not know"
        yield Finding(
            kind, Severity.ERROR, text, _AS_MRC if kind == "labels_type" else "Write it as 32-bit floats (mode 2)"
        )
    elif header.dtype.kind == "f" and kind == "labels_type":
        text = "the label volume has floats (mode 2), on which every script of Pyto fails"
        yield Finding(kind, Severity.ERROR, text, _AS_MRC)


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed with gzip, whatever its name."""
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def _data_type(info: TomoInfo, dtype: np.dtype[Any]) -> Iterator[Finding]:
    """What `labels_data_type` does to an MRC file: it overrides the header."""
    name = info.labels_data_type
    if name is None:
        return
    remedy = "Set labels_data_type = None, as the file is MRC"
    same = name == dtype.newbyteorder("=").name
    effect = "" if same else f", and the file has {dtype.newbyteorder('=').name}: the labels would be garbled"
    text = f"labels_data_type is {name!r}, which overrides the header of the label volume{effect}"
    yield Finding("data_type", Severity.WARNING if same else Severity.ERROR, text, remedy)


def _bytes(data: NDArray[np.uint8]) -> Iterator[Finding]:
    """Signed or not, bytes are unsigned for Pyto."""
    high: set[int] = set()
    for _, slab in slabs(data):
        if slab.max() > np.iinfo(np.int8).max:
            high |= set(np.unique(slab[slab > np.iinfo(np.int8).max]).tolist())
    if high:
        ids = sorted(high)
        text = "the label volume has bytes (mode 0), and labels above 127: Pyto reads them as unsigned, others do not"
        yield Finding("labels_type", Severity.WARNING, text, _AS_MRC, ids)
    else:
        text = "the label volume has bytes (mode 0), which holds no labels above 127 for all programs"
        yield Finding("labels_type", Severity.NOTE, text, _AS_MRC + " if there will be more")


def _checked(data: NDArray[Any], findings: list[Finding]) -> Opened:
    """Labels as whole numbers that 16 bits hold, or none."""
    if data.dtype.kind == "u" and data.dtype.itemsize <= 2:
        return Opened(tuple(findings), data)
    for z, slab in slabs(data):
        if data.dtype.kind == "f" and not np.all(slab == np.rint(slab)):  # false for NaN as well
            text = f"the label volume holds values that are no whole numbers, in sections {z + 1} to {z + len(slab)}"
            findings.append(Finding("labels_type", Severity.ERROR, text, "Name the label volume in labels_file_name"))
            return Opened(tuple(findings))
        low, high = float(slab.min()), float(slab.max())
        if low < 0 or high >= LABELS:
            text = f"the label volume holds values from {low:g} to {high:g} in sections {z + 1} to {z + len(slab)}"
            remedy = f"Write labels from 0 to {LABELS - 1}"
            findings.append(Finding("labels_type", Severity.ERROR, text, remedy))
            return Opened(tuple(findings))
    return Opened(tuple(findings), data)


def _raw_labels(path: Path, info: TomoInfo, tomogram: Opened) -> Opened:
    """Labels without a header: type from `labels_data_type`, shape from the tomogram, x fastest, little-endian."""
    name = info.labels_data_type
    try:
        dtype = np.dtype(name).newbyteorder("<") if name is not None else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "iuf":
        text = f"labels_data_type is {name!r}, and {path.name} has no header that says its type"
        return Opened((Finding("data_type", Severity.ERROR, text, "Name its type, such as 'uint16', or use MRC"),))
    findings = []
    if dtype.kind == "f":
        text = "the label volume has floats, on which every script of Pyto fails"
        findings.append(Finding("labels_type", Severity.ERROR, text, _AS_MRC))
    if tomogram.data is None:
        text = f"{path.name} has no header, and there is no tomogram to take its shape from: it is not looked at"
        findings.append(Finding("labels_type", Severity.WARNING, text, _AS_MRC))
        return Opened(tuple(findings))
    shape = tomogram.data.shape
    expected, got = int(np.prod(shape)) * dtype.itemsize, path.stat().st_size
    if expected != got:
        sizes = " x ".join(str(n) for n in shape[::-1])
        text = f"{path.name} has {got} bytes, and a tomogram of {sizes} voxels needs {expected} of type {name}"
        return Opened(
            (*findings, Finding("shape", Severity.ERROR, text, "Make the labels on the tomogram that is named"))
        )
    data = np.memmap(path, dtype=dtype, mode="r", shape=shape)
    return _checked(data, findings)


def _voxel_nm(header: Header) -> float | None:
    try:
        return header.judged_voxel_nm()
    except VoxelSizeError:
        return None
