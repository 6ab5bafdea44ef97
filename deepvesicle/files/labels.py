"""Labels drawn into a new file: the cost goes with the vesicles, not with the volume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.atomic import new_file
from deepvesicle.files.mrc_header import HEADER_BYTES
from deepvesicle.files.tomogram import PathLike, header_bytes
from deepvesicle.grid import Grid

#: Voxels that are drawn at a time.
_SLAB_VOXELS = 1 << 24
#: Draws what lies in a part of the volume, given as a grid and an array (z, y, x) of anything on it, into this array;
#: gives label, number of voxels and box of all that it drew.
Draw = Callable[[Grid, NDArray[np.uint16]], Iterable[tuple[int, int, tuple[slice, slice, slice]]]]


def write_drawn_labels(path: PathLike, grid: Grid, draw: Draw, *, overwrite: bool = False) -> None:
    """Write labels as `deepvesicle.files.tomogram.write_labels` does, but only where something is drawn.

    The rest of the file are holes, which read as zeros and take neither time nor space (on file systems that know
    them). The volume is never in memory as a whole.

    Parameters
    ----------
    path : path
        Not compressed.
    grid : Grid
    draw : callable
        See `Draw`.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    nz, ny, nx = grid.shape_zyx
    dtype = np.dtype("<u2")
    step = min(nz, max(1, _SLAB_VOXELS // (ny * nx)))
    buffer = np.empty((step, ny, nx), dtype)
    counts: dict[int, int] = {}
    with new_file(path, overwrite=overwrite) as temporary, open(temporary, "wb", buffering=0) as file:
        for start in range(0, nz, step):
            out = buffer[: nz - start]
            drawn = list(draw(grid.cropped((start, 0, 0), out.shape), out))
            for label, count, _ in drawn:
                counts[label] = counts.get(label, 0) + count
            for z, first, last in _row_spans(box for _, _, box in drawn):
                file.seek(HEADER_BYTES + ((start + z) * ny + first) * nx * dtype.itemsize)
                file.write(out[z, first:last].data.cast("B"))
        file.truncate(HEADER_BYTES + grid.voxel_count * dtype.itemsize)
        file.seek(0)
        file.write(header_bytes(grid, dtype, label_statistics(counts, grid.voxel_count)))


def _row_spans(boxes: Iterable[tuple[slice, slice, slice]]) -> Iterator[tuple[int, int, int]]:
    """The rows (section, first, end) that boxes cover, each row once."""
    spans = sorted((z, y.start, y.stop) for zs, y, _ in boxes for z in range(zs.start, zs.stop))
    current: tuple[int, int, int] | None = None
    for z, first, last in spans:
        if current is not None and current[0] == z and first <= current[2]:
            current = (z, current[1], max(last, current[2]))
            continue
        if current is not None:
            yield current
        current = (z, first, last)
    if current is not None:
        yield current


def label_statistics(counts: Mapping[int, int], voxel_count: int) -> tuple[float, float, float, float]:
    """As `statistics`, from the number of voxels of each label; the others are 0."""
    present = {label: count for label, count in counts.items() if count}
    rest = voxel_count - sum(present.values())
    labels = [*present, *([0] if rest else [])]
    mean = sum(label * count for label, count in present.items()) / voxel_count
    squares = sum((label - mean) ** 2 * count for label, count in [*present.items(), (0, rest)]) / voxel_count
    return float(min(labels)), float(max(labels)), mean, squares**0.5
