"""What an MRC header says, judged: the header is a witness, not an authority.

Follows the MRC2014 format (Cheng et al. 2015, J. Struct. Biol. 192:146) and IMOD's additions to it (signed bytes,
direction of the origin). Reading bytes from files is the work of `deepvesicle.files.tomogram`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import TomogramError, VoxelSizeError, VoxelSizeOptionError
from deepvesicle.grid import VOXEL_NM_RANGE, Grid, angstrom_to_nm

HEADER_BYTES = 1024
#: No tomogram has more voxels along an axis; a larger number comes from a damaged or foreign header.
MAX_AXIS = 100_000
#: Voxel edges that differ by more than this part are not taken for equal.
MAX_ANISOTROPY = 0.01

REAL_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_OTHER_MODES = {
    3: "complex numbers (a Fourier transform)",
    4: "complex numbers (a Fourier transform)",
    7: "32-bit integers",
    16: "RGB colours",
    101: "4-bit integers",
}
_IMOD_STAMP = 1146047817
_IMOD_SIGNED_BYTES, _IMOD_STANDARD_ORIGIN = 1, 4
_VOLUME_STACKS = range(401, 631)  # space groups

_MAGIC = (
    (b"\x89PNG", "a PNG picture"),
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"II+\0", "a BigTIFF file"),
    (b"MM\0+", "a BigTIFF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"IMODV1", "an IMOD model"),
    (b"\x93NUMPY", "a NumPy array file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"BZh", "a file compressed with bzip2"),
    (b"\xfd7zXZ", "a file compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "a file compressed with zstd"),
    (b"%PDF", "a PDF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)


@dataclass(frozen=True)
class Header:
    """The checked header of an MRC file.

    Parameters
    ----------
    path : Path
    shape_zyx : tuple of int
    dtype : numpy dtype
        Of the voxels in the file, byte order included.
    data_offset : int
        Where the voxels begin, bytes.
    header_voxel_nm : tuple of float
        Voxel edges along z, y, x as the file says; not judged.
    origin_nm : tuple of float
        Place of the first voxel's centre (z, y, x).
    notes : tuple of str
        What is odd but does not prevent reading.
    """

    path: Path
    shape_zyx: tuple[int, int, int]
    dtype: np.dtype[Any]
    data_offset: int
    header_voxel_nm: tuple[float, float, float]
    origin_nm: tuple[float, float, float]
    notes: tuple[str, ...] = ()

    @property
    def data_bytes(self) -> int:
        """Bytes that the voxels take in the file."""
        nz, ny, nx = self.shape_zyx
        return nz * ny * nx * self.dtype.itemsize

    def grid(self, voxel_nm: float | None = None) -> Grid:
        """The grid of the file, with the voxel size given by the user, if any.

        Raises
        ------
        VoxelSizeError
            The voxel size is missing, anisotropic or absurd.
        """
        return Grid(
            self.shape_zyx, self.judged_voxel_nm() if voxel_nm is None else checked_voxel_nm(voxel_nm), self.origin_nm
        )

    def judged_voxel_nm(self) -> float:
        """The file's voxel size, nm, if it can be believed.

        Raises
        ------
        VoxelSizeError
            It is missing, anisotropic (over 1 %), or outside `VOXEL_NM_RANGE`.
        """
        low, high = VOXEL_NM_RANGE
        sizes = np.array(self.header_voxel_nm)
        got = " x ".join(f"{size:.4g}" for size in sizes[::-1]) + " nm (x, y, z)"
        remedy = "Give the voxel size in nm with --voxel-size"
        if not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
            raise VoxelSizeError(f"the header of {self.path} has no voxel size", got=got, remedy=remedy)
        if sizes.max() / sizes.min() > 1 + MAX_ANISOTROPY:
            raise VoxelSizeError(
                f"the voxels of {self.path} are not cubes", expected="one voxel size", got=got, remedy=remedy
            )
        voxel_nm = float(sizes[0] if sizes.min() == sizes.max() else sizes.mean())
        if not low <= voxel_nm <= high:
            raise VoxelSizeError(
                f"the voxel size in the header of {self.path} cannot be right",
                expected=f"{low} to {high} nm",
                got=f"{voxel_nm:.4g} nm",
                remedy=remedy,
            )
        return voxel_nm


def checked_voxel_nm(voxel_nm: float) -> float:
    """A voxel size given by the user, nm.

    Raises
    ------
    VoxelSizeOptionError
        It is outside `VOXEL_NM_RANGE`.
    """
    low, high = VOXEL_NM_RANGE
    if not low <= voxel_nm <= high:  # false for NaN as well
        in_nm = float(angstrom_to_nm(voxel_nm))
        hint = f"; {voxel_nm:g} angstrom would be {in_nm:g} nm" if low <= in_nm <= high else ""
        raise VoxelSizeOptionError(f"--voxel-size {voxel_nm:g} cannot be right", expected=f"{low} to {high} nm{hint}")
    return float(voxel_nm)


def interpret(raw: NDArray[Any], head: bytes, path: Path) -> Header:
    """Judge the first bytes of a file.

    Parameters
    ----------
    raw : structured scalar array
        The first 1024 bytes as a little-endian MRC header.
    head : bytes
        The same bytes.
    path : Path
        For the messages.

    Raises
    ------
    TomogramError
        Not an MRC volume of real numbers, or absurd counts.
    """
    notes: list[str] = []
    header = _in_byte_order(raw, head, path, notes)
    shape = tuple(int(header[n]) for n in ("nz", "ny", "nx"))
    nz, ny, nx = shape
    counts = f"{nx} x {ny} x {nz} (x, y, z)"
    if min(shape) < 1 or max(shape) > MAX_AXIS:
        raise TomogramError(
            f"the header of {path} is damaged: its voxel counts are absurd",
            expected=f"1 to {MAX_AXIS} along each axis",
            got=counts,
        )
    extended_bytes = int(header["nsymbt"])
    if extended_bytes < 0:
        raise TomogramError(
            f"the header of {path} is damaged: its extended header has an absurd length", got=f"{extended_bytes} bytes"
        )
    mode = int(header["mode"])
    if mode not in REAL_MODES:
        raise TomogramError(
            f"{path} cannot be used: its voxels are {_OTHER_MODES.get(mode, 'of an unknown type')} (mode {mode})",
            expected="real numbers (mode 0, 1, 2, 6 or 12)",
        )
    if nz == 1:
        raise TomogramError(f"{path} is a 2D image", expected="a tomogram of several sections", got=counts)
    if int(header["ispg"]) in _VOLUME_STACKS and int(header["mz"]) != nz:
        raise TomogramError(f"{path} is a stack of several volumes", expected="one tomogram", got=counts)
    if int(header["ispg"]) == 0 and int(header["mz"]) == 1:
        raise TomogramError(
            f"{path} is a stack of 2D images, such as a tilt series",
            expected="a reconstructed tomogram",
            got=f"{counts}, mz = 1 in the header",
        )
    dtype = np.dtype(REAL_MODES[mode]).newbyteorder(header.dtype["nx"].byteorder)
    if mode == 0 and not _bytes_are_signed(header, notes):
        dtype = np.dtype("u1")
    return Header(
        path=path,
        shape_zyx=(nz, ny, nx),
        dtype=dtype,
        data_offset=HEADER_BYTES + extended_bytes,
        header_voxel_nm=_voxel_nm(header),
        origin_nm=_origin_nm(header, notes),
        notes=tuple(notes),
    )


def what_it_looks_like(head: bytes, path: Path) -> str:
    """Name a file that is not an MRC file from its first bytes, or an empty string."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head and b"\0" not in head:
        try:
            head[:1020].decode()  # a multi-byte character may be cut at the end
        except UnicodeDecodeError as error:
            if error.start < len(head[:1020]) - 4:
                return ""
        return "a text file"
    if head[:4] in (b"\0\0\0\x03", b"\0\0\0\x04"):
        return "a Digital Micrograph file"
    if path.suffix.lower() == ".em":
        return "an EM file"
    if head and not any(head):
        return "a file of zeros"
    return ""


def _has_map_stamp(header: NDArray[Any]) -> bool:
    return bytes(header["map"])[:3] == b"MAP"


def _in_byte_order(raw: NDArray[Any], head: bytes, path: Path, notes: list[str]) -> NDArray[Any]:
    """The header in the byte order in which it makes sense; the machine stamp only decides which is tried first."""
    stamp = tuple(int(b) for b in raw["machst"][:2])
    declared: Literal["<", ">"] = ">" if stamp == (0x11, 0x11) else "<"
    other: Literal["<", ">"] = "<" if declared == ">" else ">"

    def in_order(order: Literal["<", ">"]) -> NDArray[Any]:
        return raw.view(raw.dtype.newbyteorder(order))

    def mode_is_known(header: NDArray[Any]) -> bool:
        return int(header["mode"]) in REAL_MODES or int(header["mode"]) in _OTHER_MODES

    def counts_are_sane(header: NDArray[Any]) -> bool:
        return all(1 <= int(header[n]) <= MAX_AXIS for n in ("nx", "ny", "nz"))

    has_map = _has_map_stamp(raw)
    looks_like = what_it_looks_like(head, path)
    for order in (declared, other):
        header = in_order(order)
        if mode_is_known(header) and counts_are_sane(header):
            if not has_map:
                notes.append("the MAP stamp of an MRC header is missing (an old or foreign file)")
            if order == other:
                notes.append("the machine stamp contradicts the byte order of the header")
            return header
    if looks_like or not (has_map or any(mode_is_known(in_order(order)) for order in (declared, other))):
        raise TomogramError(
            f"{path} is not an MRC file",
            expected="an MRC tomogram (.mrc, .rec, .nad, .map, .st)",
            got=looks_like or "an unknown format",
        )
    return in_order(declared)


def _imod(header: NDArray[Any]) -> tuple[bool, int]:
    """Whether IMOD wrote the header, and its flags (words 39 and 40)."""
    words = np.frombuffer(header["extra2"].tobytes(), dtype=np.dtype("i4").newbyteorder(header.dtype["nx"].byteorder))
    is_imod = int(words[10]) == _IMOD_STAMP
    return is_imod, int(words[11]) if is_imod else 0


def _bytes_are_signed(header: NDArray[Any], notes: list[str]) -> bool:
    """Mode 0 is signed in MRC2014; IMOD says so in a flag, and older programs wrote unsigned bytes without a word."""
    is_imod, flags = _imod(header)
    if is_imod:
        return bool(flags & _IMOD_SIGNED_BYTES)
    if float(header["dmin"]) >= 0 and float(header["dmax"]) > np.iinfo(np.int8).max:
        notes.append("bytes are read as unsigned, since the header's maximum is above 127")
        return False
    return True


def _voxel_nm(header: NDArray[Any]) -> tuple[float, float, float]:
    """Voxel edges (z, y, x) in nm; NaN where the header has none."""
    cells = [float(header["cella"][axis]) for axis in "zyx"]
    intervals = [int(header[name]) for name in ("mz", "my", "mx")]
    if min(intervals) < 1 or not np.all(np.isfinite(cells)):
        return (float("nan"),) * 3
    sizes = [_meant(cell / n) for cell, n in zip(cells, intervals, strict=True)]
    z, y, x = (float(size) for size in angstrom_to_nm(sizes))
    return z, y, x


def _meant(size: float) -> float:
    """Give the shortest decimal number that agrees to float32: 16.84 for a header's 16.8400002."""
    return next(
        v for v in (float(f"{size:.{digits}g}") for digits in range(1, 18)) if abs(v - size) <= 2e-7 * abs(size)
    )


def _origin_nm(header: NDArray[Any], notes: list[str]) -> tuple[float, float, float]:
    """Place of the first voxel (z, y, x), nm, in the sense of MRC2014."""
    if not _has_map_stamp(header):
        return (0.0, 0.0, 0.0)  # the words meant something else before MRC2000
    origin = np.array([float(header["origin"][axis]) for axis in "zyx"])
    if not np.all(np.isfinite(origin)):
        notes.append("the origin in the header is not a number; 0 is used")
        return (0.0, 0.0, 0.0)
    is_imod, flags = _imod(header)
    if is_imod and not flags & _IMOD_STANDARD_ORIGIN and int(header["nversion"]) // 10 != 2014:
        origin = -origin  # older IMOD kept the place of the coordinate origin relative to the volume
    if not origin.any():
        start = np.array([int(header[name]) for name in ("nzstart", "nystart", "nxstart")])
        sizes = np.array(_voxel_nm(header))
        if start.any() and np.all(np.isfinite(sizes)):
            z, y, x = (float(v) for v in start * sizes)
            return z, y, x
    z, y, x = (float(v) + 0.0 for v in angstrom_to_nm(origin))
    return z, y, x
