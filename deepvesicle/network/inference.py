"""Prediction column by column, with exact halos and no full-size float volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import NetworkError
from deepvesicle.grid import Grid, Probability, Tomogram
from deepvesicle.memory import default_budget, drop_pages, used_bytes
from deepvesicle.network import backend
from deepvesicle.network.grey import grey_box, measure_normalisation
from deepvesicle.network.normalise import Normalisation
from deepvesicle.network.stream import Reader, Stream, Weights
from deepvesicle.network.tiles import READ_SLICES, plan_columns
from deepvesicle.network.unet import Convolution
from deepvesicle.network.zoo import Network
from deepvesicle.settings import PredictionSettings

Progress = Callable[[str, int, int], None]
#: What the network takes at least; with less, most of the work would be done twice.
LEAST_BYTES = 450_000_000
#: Share of a GPU's memory that is used.
_GPU_SHARE = 0.7
#: Masks in bfloat16 and in float32 must agree so well (Dice) in the box where it is tried, ...
LEAST_AGREEMENT = 0.999
#: ... which has edges of so many voxels, and at least so many inside the mask.
_CHECK_EDGE_VOX, _CHECK_LEAST = 64, 500


def mirror_views(count: int) -> list[tuple[int, ...]]:
    """Axes (of z, y, x) along which each of the 1, 2, 4 or 8 views is mirrored, the plain view first.

    One view: as it is; two: also mirrored along x; four: along x, y and both; eight: along all three too.
    """
    axes = {1: (), 2: (2,), 4: (2, 1), 8: (2, 1, 0)}[count]
    return [chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n)]


def choose_dtype(precision: str) -> str:
    """The type that the network calculates in, for a setting "auto", "fp32" or "bf16".

    Raises
    ------
    NetworkError
        bf16 where neither the GPU nor the processor has it: it would be slow there, or end the program.
    """
    if precision == "fp32":
        return "float32"
    if backend.has_bfloat16():
        return "bfloat16"
    if precision == "bf16":
        raise NetworkError(
            "this computer cannot calculate in bf16",
            expected="a processor with avx512_bf16 or amx_bf16, or a GPU of compute capability 8.0 or more",
            remedy="Give --precision fp32, or leave the choice to the program (auto)",
        )
    return "float32"


def predict(
    tomogram: Tomogram,
    network: Network,
    settings: PredictionSettings | None = None,
    *,
    progress: Progress | None = None,
    out: NDArray[np.uint8] | None = None,
    memory_bytes: int | None = None,
    notify: Callable[[str], None] | None = None,
) -> Probability:
    """Probability of every voxel to be inside a vesicle, at the network's voxel size.

    The result equals one pass over the whole volume, mirrored at its faces: there are no seams. With
    `settings.augment` more than 1, the probabilities of so many mirror images are averaged.

    The process's memory stays below `memory_bytes`, unless that leaves less than 0.45 GB (`LEAST_BYTES`) beyond what it
    has when TensorFlow is loaded (0.6 to 0.8 GB): the width of the columns follows from a model of the peak that was
    fitted to measured ones (`deepvesicle.network.tiles.column_bytes`). Memory maps do not count, as their pages are let
    go of. On a GPU, the width follows from its memory.

    Parameters
    ----------
    tomogram : Tomogram
    network : Network
    settings : PredictionSettings, optional
    progress : callable, optional
        Called with (stage, steps done, steps in all).
    out : uint8 array, optional
        Where to write, of the rescaled grid's shape; a memory map, say.
    memory_bytes : int, optional
        Peak of the process's memory; `deepvesicle.memory.default_budget` if not given.
    notify : callable, optional
        Called with what the user should know, one line each.

    Returns
    -------
    Probability
        uint8, 0..255 for 0..1, on `tomogram.grid.rescaled(network.voxel_nm)`.

    Raises
    ------
    NetworkError
        The tomogram is smaller than one voxel block of the network, or bf16 was asked for where it does not exist.
    """
    settings = settings or PredictionSettings()
    target = tomogram.grid.rescaled(network.voxel_nm)
    if min(target.shape_zyx) < network.shape.alignment_vox:
        raise NetworkError(
            "the tomogram is too small for the network",
            expected=f"at least {network.shape.alignment_vox} voxels of {network.voxel_nm} nm along each axis",
            got=f"{target.shape_zyx} (z, y, x) of them",
            remedy="Check the voxel size, and give --voxel-size if the header's is wrong",
        )
    backend.set_threads(settings.threads)
    dtype = choose_dtype(settings.precision)
    job = _Job(
        tomogram,
        target,
        network,
        network.convolutions(),
        measure_normalisation(tomogram, target, network.normalisation),
        mirror_views(settings.augment),
        np.empty(target.shape_zyx, dtype=np.uint8) if out is None else out,
        progress,
    )
    gpu = backend.gpu_bytes()
    budget = max(LEAST_BYTES, (memory_bytes or default_budget()) - used_bytes()) if gpu is None else _GPU_SHARE * gpu
    if not _predicted(job, dtype, budget, settings.tile_vox):
        if notify:
            notify("the network ran in fp32: in bf16 its mask differed from that in fp32 by more than 0.1 %")
        _predicted(job, "float32", budget, settings.tile_vox)
    return Probability(job.out, target)


@dataclass(frozen=True, eq=False)
class _Job:
    """What is predicted, and how its grey values are prepared."""

    tomogram: Tomogram
    target: Grid
    network: Network
    convolutions: list[Convolution]
    normalisation: Normalisation
    views: list[tuple[int, ...]]
    out: NDArray[np.uint8]
    progress: Progress | None

    def read(self, start: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.float32]:
        """Normalised grey values of a box of the network's grid, which may reach over the volume's faces."""
        box = grey_box(self.tomogram, self.target, start, size, self.network.normalisation.blur_vox)
        drop_pages(self.tomogram.data)
        return self.normalisation.apply(box)

    def reader(self, stream: Stream, corner: tuple[int, int, int]) -> Reader:
        """Reader (see `Stream.run`) of a column that starts at a corner; slices of several steps are read at once."""
        halo, step = self.network.shape.halo_vox, stream.schedule.slices
        start_yx = tuple(first - halo for first in corner[1:])
        size_yx = tuple(n + 2 * halo for n in stream.inner_yx)
        more = (max(READ_SLICES, step) // step - 1) * step
        kept_at, kept = 0, np.empty((0, *size_yx), dtype=np.float32)

        def read(z: int, count: int) -> NDArray[np.float32]:
            nonlocal kept_at, kept
            if z < kept_at or z + count > kept_at + len(kept):
                kept = np.empty((0, *size_yx), dtype=np.float32)  # before there are others
                kept_at, kept = z, self.read((corner[0] + z, *start_yx), (count + more, *size_yx))
            return kept[z - kept_at : z - kept_at + count]

        return read


def _predicted(job: _Job, dtype: str, budget: float, largest: int) -> bool:
    """Predict all columns; False if what comes out in bfloat16 is not exact enough."""
    shape, depth = job.network.shape, job.target.shape_zyx[0]
    value_bytes = 2 if dtype == "bfloat16" else 4
    tiling = plan_columns(
        job.target.shape_zyx, shape, budget, value_bytes=value_bytes, views=len(job.views), largest=largest
    )
    stream = Stream(shape, tiling.inner_yx, tiling.slices, dtype, as_bytes=len(job.views) == 1)
    weights = [stream.weights(job.convolutions, view) for view in job.views]
    steps = stream.schedule.steps(depth) * len(job.views)
    unchecked = dtype != "float32"
    for number, (y, x) in enumerate(tiling.columns):

        def step_done(step: int, before: int = number * steps) -> None:
            if job.progress:
                job.progress("network", before + step, steps * len(tiling.columns))

        for z, piece in _column(job, stream, weights, (0, y.start, x.start), depth, step_done):
            job.out[z : z + len(piece), y, x] = piece[:, : y.stop - y.start, : x.stop - x.start]
            drop_pages(job.out)
        corner = _telling_corner(job.out[:, y, x], job.network.threshold) if unchecked else None
        if corner is not None:
            end = (depth, y.stop, x.stop)
            if _agreement(job, (corner[0], y.start + corner[1], x.start + corner[2]), end) < LEAST_AGREEMENT:
                return False
            unchecked = False
    return True


def _column(
    job: _Job,
    stream: Stream,
    weights: Sequence[Weights],
    corner: tuple[int, int, int],
    depth: int,
    step_done: Callable[[int], None] = lambda step: None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Pieces of a column's result from top to bottom: first slice, and 0..255 for 0..1."""
    mean = np.zeros((depth, *stream.inner_yx), dtype=np.float32) if len(weights) > 1 else None
    done = 0
    for view in weights:
        for z, piece in stream.run(view, job.reader(stream, corner), depth):
            first, last = max(0, z), 0 if piece is None else min(depth, z + len(piece))
            if piece is not None and last > first:
                if mean is None:
                    yield first, piece[first - z : last - z]
                else:
                    mean[first:last] += piece[first - z : last - z]
            done += 1
            step_done(done)
    if mean is not None:
        mean *= 255 / len(weights)
        yield 0, np.rint(mean, out=mean).astype(np.uint8)


def _telling_corner(probability: NDArray[np.uint8], threshold: float) -> tuple[int, int, int] | None:
    """Where the box starts that holds most of a column's mask; None if that is next to nothing."""
    every = 4
    mask = probability[::every, ::every, ::every] >= 255 * threshold
    counts = mask.astype(np.int64)
    for axis in range(3):
        starts = np.arange(0, counts.shape[axis], _CHECK_EDGE_VOX // every)
        counts = np.add.reduceat(counts, starts, axis=axis)
    z, y, x = (int(i) * _CHECK_EDGE_VOX for i in np.unravel_index(counts.argmax(), counts.shape))
    return (z, y, x) if counts.max() * every**3 >= _CHECK_LEAST else None


def _agreement(job: _Job, corner: tuple[int, int, int], end: tuple[int, int, int]) -> float:
    """Dice of the mask that was written and of that in float32, in a box that starts at a corner."""
    edge, unit = _CHECK_EDGE_VOX, job.network.shape.alignment_vox
    stream = Stream(job.network.shape, (edge, edge), 2 * unit, as_bytes=len(job.views) == 1)
    weights = [stream.weights(job.convolutions, view) for view in job.views]
    exact = np.concatenate([piece for _, piece in _column(job, stream, weights, corner, edge)])
    box = tuple(slice(start, min(start + edge, stop)) for start, stop in zip(corner, end, strict=True))
    found = job.out[box]
    exact = exact[tuple(slice(0, n) for n in found.shape)]
    one, other = (values >= 255 * job.network.threshold for values in (found, exact))
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))
