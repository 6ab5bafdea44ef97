"""Reading and writing volumes: tomograms, probabilities and labels as MRC files.

The only user of mrcfile. Headers are judged before anything is allocated (`deepvesicle.files.mrc_header`), voxels are
memory-mapped where the file is not compressed, and every check of the voxels goes slab by slab.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Union

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import dtype_from_mode, machine_stamp_from_byte_order, mode_from_dtype
from numpy.typing import NDArray

from deepvesicle import __version__
from deepvesicle.errors import TomogramError
from deepvesicle.files.atomic import new_file
from deepvesicle.files.mrc_header import HEADER_BYTES, Header, interpret, what_it_looks_like
from deepvesicle.grid import Grid, Labels, Probability, Tomogram, nm_to_angstrom
from deepvesicle.memory import drop_pages

#: Voxels that are looked at or written in one go.
SLAB_VOXELS = 1 << 23
_BEYOND_INT32 = 2.0**31
#: gzip cannot compress better than this; more means that the header promises what is not there.
_MAX_GZIP_RATIO = 1040

PathLike = Union[str, "os.PathLike[str]"]
Buffer = Callable[[int], NDArray[np.uint8]]


def read_tomogram(
    path: PathLike,
    *,
    voxel_nm: float | None = None,
    invert: bool = False,
    check: bool = True,
    buffer: Buffer | None = None,
) -> Tomogram:
    """Open a tomogram: memory-mapped, or loaded if it is compressed with gzip.

    Parameters
    ----------
    path : path
        An MRC file of mode 0, 1, 2, 6 or 12, either byte order, with or without extended header.
    voxel_nm : float, optional
        Voxel size, nm, in place of the header's.
    invert : bool
        The file holds dense = high values.
    check : bool
        Look through all voxels for values that are not numbers (`check_grey`).
    buffer : callable, optional
        Gives the place (uint8 array) for so many bytes of a compressed file; memory if not given.

    Raises
    ------
    TomogramError
        The file cannot be used; the message says why.
    VoxelSizeError
        The voxel size is missing, anisotropic or absurd.
    """
    header = read_header(path)
    grid = header.grid(voxel_nm)
    tomogram = Tomogram(read_voxels(header, buffer), grid, path=header.path, invert=invert, notes=header.notes)
    if check:
        check_grey(tomogram)
    return tomogram


def read_header(path: PathLike) -> Header:
    """Read and judge the header of an MRC file; the voxels are not looked at, the voxel size not yet believed.

    Raises
    ------
    TomogramError
        Not a file, empty, truncated, not an MRC file, not a volume of real numbers, or absurd counts.
    """
    path = Path(path)
    with _opened(path) as (stream, stored_bytes, compressed):
        head = stream.read(HEADER_BYTES)
    if not head:
        raise TomogramError(f"{path} is empty", expected="an MRC tomogram")
    if len(head) < HEADER_BYTES:
        looks_like = what_it_looks_like(head, path)
        raise TomogramError(
            f"{path} is not an MRC file" if looks_like else f"{path} is truncated",
            expected=f"an MRC header of {HEADER_BYTES} bytes",
            got=", ".join(part for part in (looks_like, f"{len(head)} bytes") if part),
        )
    raw = np.frombuffer(head, dtype=HEADER_DTYPE.newbyteorder("<"))[0:1].reshape(())
    header = interpret(raw, head, path)
    needed = header.data_offset + header.data_bytes
    available = stored_bytes * _MAX_GZIP_RATIO if compressed else stored_bytes
    if needed > available:
        nz, ny, nx = header.shape_zyx
        raise TomogramError(
            f"{path} is truncated",
            expected=f"{needed} bytes for {nx} x {ny} x {nz} voxels",
            got=f"{stored_bytes} {'compressed ' * compressed}bytes",
        )
    return header


def check_grey(tomogram: Tomogram) -> None:
    """Look through the voxels, slab by slab, for what no tomogram holds.

    Raises
    ------
    TomogramError
        Values that are not finite, or one value everywhere.
    """
    name = tomogram.path or "the tomogram"
    lowest, highest = np.inf, -np.inf
    for z, slab in slabs(tomogram.data):
        low, high = float(slab.min()), float(slab.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            bad = np.argwhere(~np.isfinite(slab))
            bz, by, bx = (int(i) for i in bad[0])
            raise TomogramError(
                f"{name} holds values that are not numbers (NaN or infinite)",
                got=f"{len(bad)} of them in sections {z} to {z + len(slab) - 1}, the first at voxel "
                f"x = {bx}, y = {by}, z = {z + bz}",
            )
        lowest, highest = min(lowest, low), max(highest, high)
    if lowest == highest:
        raise TomogramError(f"{name} is empty: all voxels have one value", got=f"{lowest:g}")


def write_tomogram(path: PathLike, data: NDArray[Any], grid: Grid, *, overwrite: bool = False) -> None:
    """Write a volume as an MRC file, compressed where the name ends in .gz.

    Parameters
    ----------
    path : path
    data : array (z, y, x)
        int8, int16, uint16, float16 and float32 are kept; uint8 becomes int16, other integers int16 or uint16 if they
        fit, booleans int8, float64 becomes float32.
    grid : Grid
        Its voxel size and origin go into the header.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    TomogramError
        Integers that do not fit.
    """
    if tuple(data.shape) != grid.shape_zyx:
        raise ValueError(f"array of shape {data.shape} does not fit a grid of {grid.shape_zyx}")
    _write(path, data, grid, _stored_dtype(data), overwrite)


def write_labels(path: PathLike, labels: Labels, *, signed: bool = False, overwrite: bool = False) -> None:
    """Write labels as 16-bit integers (MRC mode 6, unsigned), which both IMOD and Pyto read.

    Parameters
    ----------
    path : path
    labels : Labels
    signed : bool
        Mode 1 instead, for programs that do not know mode 6.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    TomogramError
        An id is negative or does not fit.
    """
    if labels.data.dtype.kind not in "iub":
        raise ValueError(f"labels must be integers, got {labels.data.dtype}")
    dtype = np.dtype(np.int16 if signed else np.uint16)
    low, high = _range(labels.data)
    if low < 0 or high > np.iinfo(dtype).max:
        raise TomogramError(
            f"the labels do not fit into {path}",
            expected=f"ids from 0 to {np.iinfo(dtype).max}",
            got=f"{low:.0f} to {high:.0f}",
        )
    _write(path, labels.data, labels.grid, dtype, overwrite)


def write_probability(path: PathLike, probability: Probability, *, overwrite: bool = False) -> None:
    """Write a probability map (0..1) as 32-bit floats, which every program reads (float16 is unknown to IMOD)."""
    scale = 1 / 255 if probability.data.dtype == np.uint8 else 1.0
    _write(path, probability.data, probability.grid, np.dtype(np.float32), overwrite, scale)


def read_labels(path: PathLike, grid: Grid | None = None) -> Labels:
    """Read a label volume.

    Parameters
    ----------
    path : path
        Any real MRC mode whose values are whole numbers from 0.
    grid : Grid, optional
        The tomogram's: shapes must agree, and the labels take its voxel size and origin.

    Raises
    ------
    TomogramError
        Not a label volume, or not of the grid's shape.
    VoxelSizeError
        No grid given, and the header has no usable voxel size.
    """
    header = read_header(path)
    grid = _grid_of(header, grid)
    data = read_voxels(header)
    for z, slab in slabs(data):
        bad = slab < 0
        if data.dtype.kind == "f":
            wide = slab.astype(np.float32, copy=False)  # half floats do not hold the limit
            bad |= ~(np.isfinite(wide) & (wide == np.rint(wide)) & (wide < _BEYOND_INT32))
        if bad.any():
            raise TomogramError(
                f"{path} is not a label volume",
                expected="whole numbers from 0",
                got=f"{slab[bad][0]:g} in section {z + int(np.argwhere(bad)[0, 0])}",
            )
    if data.dtype.kind == "f":
        small = _range(data)[1] <= np.iinfo(np.uint16).max
        data = data.astype(np.uint16 if small else np.int32)
    elif not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    return Labels(data, grid)


def read_probability(path: PathLike, grid: Grid | None = None, *, buffer: Buffer | None = None) -> Probability:
    """Read a probability map; `grid` as in `read_labels`, `buffer` as in `read_tomogram`.

    Raises
    ------
    TomogramError
        Values outside 0..1, or not of the grid's shape.
    VoxelSizeError
        No grid given, and the header has no usable voxel size.
    """
    header = read_header(path)
    grid = _grid_of(header, grid)
    data = read_voxels(header, buffer)
    low, high = _range(data)
    if not (low >= 0 and high <= 1):
        raise TomogramError(
            f"{path} is not a probability map", expected="values from 0 to 1", got=f"{low:g} to {high:g}"
        )
    return Probability(data, grid)


def slabs(data: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Cut a volume into slabs of whole sections that are small enough for the memory: first section, slab.

    Of a memory-mapped volume each slab leaves the memory when the next one is asked for.
    """
    step = max(1, SLAB_VOXELS // max(1, int(np.prod(data.shape[1:]))))
    for z in range(0, len(data), step):
        yield z, np.asarray(data[z : z + step])
        drop_pages(data)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int, bool]]:
    """A file's content as a stream, its size on the disk, and whether it is compressed."""
    if not path.exists():
        raise TomogramError(f"{path} does not exist", expected="a tomogram")
    if path.is_dir():
        raise TomogramError(f"{path} is a folder", expected="the file of a tomogram")
    if not path.is_file():
        raise TomogramError(f"{path} is not a file", expected="the file of a tomogram")
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            if not compressed:
                yield file, size, False
                return
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream, size, True  # type: ignore[misc]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TomogramError(f"the compressed file {path} is damaged or truncated", got=str(error)) from error
    except OSError as error:
        raise TomogramError(f"{path} cannot be read", got=error.strerror or str(error)) from error


def read_voxels(header: Header, buffer: Buffer | None = None) -> NDArray[Any]:
    """The voxels of a checked file, read-only; those of a compressed one in memory, or in a `buffer` of that size."""
    with _opened(header.path) as (stream, _, compressed):
        if not compressed:
            return np.memmap(
                header.path, dtype=header.dtype, mode="r", offset=header.data_offset, shape=header.shape_zyx
            )
        stream.seek(header.data_offset)
        content = np.empty(header.data_bytes, dtype=np.uint8) if buffer is None else buffer(header.data_bytes)
        view, filled = content.data, 0
        while filled < len(view):
            count = stream.readinto(view[filled : filled + (1 << 24)])  # type: ignore[attr-defined]
            if not count:
                raise TomogramError(
                    f"{header.path} is truncated", expected=f"{header.data_bytes} bytes of voxels", got=f"{filled}"
                )
            filled += count
            drop_pages(content)
        while stream.read(1 << 20):  # to the end, where the checksum is
            pass
    data = content.view(header.dtype).reshape(header.shape_zyx)
    data.flags.writeable = False
    return data


def _grid_of(header: Header, grid: Grid | None) -> Grid:
    if grid is None:
        return header.grid()
    if header.shape_zyx != grid.shape_zyx:
        raise TomogramError(
            f"{header.path} does not fit the tomogram",
            expected=" x ".join(str(n) for n in grid.shape_zyx[::-1]) + " voxels (x, y, z)",
            got=" x ".join(str(n) for n in header.shape_zyx[::-1]),
        )
    return grid


def _range(data: NDArray[Any]) -> tuple[float, float]:
    """Lowest and highest value; NaN if there is one."""
    lows, highs = zip(*((float(slab.min()), float(slab.max())) for _, slab in slabs(data)), strict=True)
    return float(np.min(lows)), float(np.max(highs))


def _stored_dtype(data: NDArray[Any]) -> np.dtype[Any]:
    """The type in which MRC keeps an array."""
    if data.dtype.kind == "b":
        return np.dtype(np.int8)
    if data.dtype.kind == "f":
        return np.dtype(np.float16 if data.dtype.itemsize == 2 else np.float32)
    if data.dtype.kind not in "iu":
        raise ValueError(f"an MRC file cannot hold {data.dtype}")
    if data.dtype.itemsize <= 2 and data.dtype != np.uint8:
        return data.dtype.newbyteorder("=")
    low, high = _range(data)
    for dtype in (np.int16, np.uint16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise TomogramError(
        "the values do not fit into an MRC file", expected="16-bit integers", got=f"{low:g} to {high:g}"
    )


def _write(
    path: PathLike, data: NDArray[Any], grid: Grid, dtype: np.dtype[Any], overwrite: bool, scale: float = 1.0
) -> None:
    """Write header and voxels, slab by slab; the values times a scale."""
    stored = dtype.newbyteorder("<")
    low, high, mean, sd = (scale * value for value in statistics(data))
    head = header_bytes(grid, stored, (low, high, mean, sd))
    with new_file(path, overwrite=overwrite) as temporary, open(temporary, "wb") as file:
        # A fixed time and no name make the same volume the same bytes.
        compressor = gzip.GzipFile("", "wb", 3, file, mtime=0) if Path(path).suffix == ".gz" else None
        stream: Any = compressor or file
        stream.write(head)
        for _, slab in slabs(data):
            values = slab if scale == 1 else slab.astype(np.float32) * np.float32(scale)
            stream.write(np.ascontiguousarray(values, dtype=stored).data.cast("B"))
        if compressor:
            compressor.close()


def header_bytes(grid: Grid, dtype: np.dtype[Any], values: tuple[float, float, float, float]) -> bytes:
    """An MRC2014 header for voxels of a little-endian type with these `statistics`."""
    header = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
    nz, ny, nx = grid.shape_zyx
    spacing = float(nm_to_angstrom(grid.voxel_nm))
    for axis, count, order, origin_nm in zip("xyz", (nx, ny, nz), (1, 2, 3), grid.origin_nm[::-1], strict=True):
        header[f"n{axis}"] = header[f"m{axis}"] = count
        header["cella"][axis] = spacing * count
        header["map" + "crs"[order - 1]] = order
        header["origin"][axis] = nm_to_angstrom(origin_nm)
    for angle in ("alpha", "beta", "gamma"):
        header["cellb"][angle] = 90
    mode = mode_from_dtype(dtype)
    if dtype_from_mode(mode).itemsize != dtype.itemsize:
        raise ValueError(f"MRC has no mode for {dtype}")
    header["mode"] = mode
    header["ispg"] = 1  # a volume, not a stack of images
    header["nversion"] = 20141
    header["map"] = b"MAP "
    header["machst"] = list(machine_stamp_from_byte_order("<"))
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = values
    header["nlabl"] = 1
    header["label"][0] = f"deepvesicle {__version__}".encode()[:80]
    return header.tobytes()


def statistics(data: NDArray[Any]) -> tuple[float, float, float, float]:
    """Minimum, maximum, mean and standard deviation."""
    low, high = np.inf, -np.inf
    total = squares = 0.0
    shift = float(data.flat[0])  # near the values, so that the squares do not cancel
    for _, slab in slabs(data):
        low, high = min(low, float(slab.min())), max(high, float(slab.max()))
        values = slab.reshape(-1)
        for start in range(0, values.size, 1 << 16):  # pieces that stay in the processor's cache
            piece = values[start : start + (1 << 16)].astype(np.float64) - shift
            total += float(piece.sum())
            squares += float(piece @ piece)
    mean = total / data.size
    return low, high, shift + mean, max(0.0, squares / data.size - mean**2) ** 0.5
