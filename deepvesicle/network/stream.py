"""The network over a column of a volume, slice by slice: z streams through, y and x have one fixed size.

Every convolution keeps the slices that it needs again, every skip connection waits in a queue until the path below it
has caught up. So nothing is computed twice along z, and the memory depends on the column's width alone. Convolutions
are unpadded and skips are cut to what is used: the result equals one pass over the whole volume exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.network import backend
from deepvesicle.network.backend import Tensor
from deepvesicle.network.rounding import diffused, with_exact_biases
from deepvesicle.network.schedule import TAIL, TWO_CONVOLUTIONS, Schedule
from deepvesicle.network.unet import Convolution, UNetShape

#: Reads slices of the normalised volume about a column: the first, and how many.
Reader = Callable[[int, int], NDArray[np.float32]]
Weights = list[tuple[Tensor, ...]]
#: A 3x3x3 convolution of a volume up-sampled by 2 is, at each of the two voxels between the centres of two coarse
#: ones, a sum over these two: [which fine voxel, which coarse voxel, tap of the kernel].
_TAPS = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], dtype=np.float32)


class Stream:
    """The network for columns of one size.

    Parameters
    ----------
    shape : UNetShape
    inner_yx : tuple of int
        Size of the result along y and x; multiples of `shape.alignment_vox`. Columns must start at multiples of it.
    slices : int
        Of the input per step; a multiple of twice the alignment.
    dtype : str
        "float32" or "bfloat16": of the convolutions and of what lies between them.
    as_bytes : bool
        The result as uint8 (0..255 for 0..1), else as float32 (0..1).
    """

    def __init__(
        self,
        shape: UNetShape,
        inner_yx: tuple[int, int],
        slices: int,
        dtype: str = "float32",
        *,
        as_bytes: bool = True,
    ) -> None:
        if any(n % shape.alignment_vox for n in inner_yx):
            raise ValueError(f"column {inner_yx} is not a multiple of {shape.alignment_vox}")
        self.inner_yx, self.dtype = inner_yx, dtype
        self.schedule = plan = Schedule.of(shape.levels, slices)
        ranges, levels = plan.ranges, range(shape.levels)
        self._down = [_Stage(_down(level == 0, ranges.down[level] - ranges.skip[level], dtype)) for level in levels]
        self._middle = _Stage(_middle)
        self._up = [
            _Stage(_up(ranges.up[level] - ranges.skip[level], rest, as_bytes), whole + 2)
            for level, (whole, rest) in enumerate(plan.delay)
        ]

    def weights(self, convolutions: Sequence[Convolution], mirrored: tuple[int, ...] = ()) -> Weights:
        """The convolutions (from `folded_convolutions`) as the stages use them, in their order.

        Parameters
        ----------
        convolutions : sequence of (kernel, bias)
        mirrored : tuple of int
            Axes (of z, y, x) to mirror the network along: it then predicts the mirror image of what it would of the
            mirrored volume.
        """
        levels, exact = self.schedule.levels, self.dtype == "float32"
        given = convolutions if exact else with_exact_biases(convolutions, levels)
        turned = [(np.flip(kernel, mirrored), bias) for kernel, bias in given]
        found = []
        for stage in range(2 * levels + 1):
            (kernel, bias), (kernel_2, bias_2) = turned[2 * stage], turned[2 * stage + 1]
            kernels = [kernel]
            if stage > levels:
                coarse = turned[2 * stage - 1][0].shape[-1]  # so many channels come from below, the others are skips
                kernels = [_fine_kernel(kernel[..., :coarse, :]), kernel[..., coarse:, :]]
            arrays = [*kernels, bias, kernel_2, bias_2]
            if not exact:
                arrays = [diffused(array) if array.ndim == 5 else array for array in arrays]
            found.append([backend.tensor(np.ascontiguousarray(array), self.dtype) for array in arrays])
        kernel, bias = turned[-1]
        found[-1] += [backend.tensor(array, "float32") for array in (kernel.reshape(-1, 1), bias)]
        return [tuple(arrays) for arrays in found]

    def run(self, weights: Weights, read: Reader, depth: int) -> Iterator[tuple[int, NDArray[Any] | None]]:
        """Predict a column, step by step.

        Parameters
        ----------
        weights : list of tuple
            From `weights`.
        read : callable
            ``read(z, count)`` gives the slices z .. z + count of the normalised volume, each as large as `inner_yx` and
            twice the halo; z may be negative, and they may end beyond the volume.
        depth : int
            Slices of the result.

        Yields
        ------
        first : int
            First slice of a piece of the result. It may be negative, and the piece may end beyond `depth`: what is
            outside means nothing.
        piece : array (slices, y, x) or None
            None before the first piece is ready.
        """
        plan, levels = self.schedule, self.schedule.levels
        for stage in (*self._down, self._middle, *self._up):
            stage.reset()
        for step in range(plan.steps(depth)):
            slices = read(plan.first + step * plan.slices, plan.slices + TWO_CONVOLUTIONS)
            piece = backend.tensor(slices[None, ..., None], "float32")
            for level, stage in enumerate(self._down):
                piece, skip = stage.next(piece, *weights[level])
                self._up[level].wait(skip)
            ready = step >= plan.first_step(levels)
            if ready:
                (piece,) = self._middle.next(piece, *weights[levels])
            for level in reversed(range(levels)):
                number = 2 * levels - level
                ready = ready and step >= plan.first_step(number)
                if ready:
                    stage = self._up[level]
                    (piece,) = stage.next(piece, stage.waiting[0], stage.waiting[1], *weights[number])
            yield plan.up[0] + step * plan.slices, np.asarray(piece) if ready else None


class _Stage:
    """A level on its way along z: a compiled function, and what it keeps from one step to the next.

    Parameters
    ----------
    compute : callable
        Takes two tails (None at the first step) and new slices, and returns results and the two tails.
    queue : int
        So many skips wait.
    """

    def __init__(self, compute: Callable[..., tuple[Any, ...]], queue: int = 0) -> None:
        self._compute = backend.compiled(compute)
        self.waiting: deque[Tensor] = deque(maxlen=queue)
        self.reset()

    def reset(self) -> None:
        """Forget the column."""
        self._tails: tuple[Tensor | None, Tensor | None] = (None, None)
        self.waiting.clear()

    def wait(self, skip: Tensor) -> None:
        """Put a skip into the queue, in place of the first one there."""
        if not self.waiting:  # before the volume
            self.waiting.extend([backend.zeros(skip.shape[1], skip)] * (self.waiting.maxlen or 0))
        self.waiting.append(skip)

    def next(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The results of the next slices."""
        *results, tail, middle_tail = self._compute(*self._tails, *given)
        self._tails = (tail, middle_tail)
        return tuple(results)


def _joined(tail: Tensor | None, piece: Tensor, count: int = TAIL) -> tuple[Tensor, Tensor]:
    """A piece with the slices before it in front, and those that its successor will need."""
    if tail is None:
        tail = backend.zeros(count, piece)
    whole = backend.concatenate([tail, piece], 1)
    return whole, whole[:, -count:]


def _cut(x: Tensor, margin: int) -> Tensor:
    """A tensor without `margin` voxels at its ends along y and x."""
    return x[:, :, margin:-margin, margin:-margin] if margin else x


def _middle(tail: Tensor | None, middle_tail: Tensor | None, piece: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Two convolutions."""
    kernel, bias, kernel_2, bias_2 = weights
    x, tail = _joined(tail, piece)
    x, middle_tail = _joined(middle_tail, backend.convolve(x, kernel, bias))
    return backend.convolve(x, kernel_2, bias_2), tail, middle_tail


def _down(first: bool, cut: int, dtype: str) -> Callable[..., tuple[Any, ...]]:
    """A level on the way down: its result pooled for the next level, and cut for the skip connection."""

    def compute(tail: Tensor | None, middle_tail: Tensor | None, piece: Tensor, *weights: Tensor) -> tuple[Any, ...]:
        if first:  # its slices overlap, as the convolution of a single channel costs less than keeping its result
            kernel, bias, kernel_2, bias_2 = weights
            x = backend.convolve(backend.cast(piece, dtype), kernel, bias)
            x = backend.convolve(x, kernel_2, bias_2)
        else:
            x, tail, middle_tail = _middle(tail, middle_tail, piece, *weights)
        return backend.max_pool(x), _cut(x, cut), tail, middle_tail

    return compute


def _up(cut: int, rest: int, as_bytes: bool) -> Callable[..., tuple[Any, ...]]:
    """A level on the way up, from the level below and the two skips that the new slices lie in.

    Parameters
    ----------
    cut : int
        Voxels of the up-sampled level below that are not needed at each end.
    rest : int
        Slices that the skips lag behind beyond whole steps.
    as_bytes : bool
        See `Stream`; of use where the weights end with those of the last layer.
    """

    def compute(
        tail: Tensor | None,
        middle_tail: Tensor | None,
        piece: Tensor,
        skip_before: Tensor,
        skip: Tensor,
        *weights: Tensor,
    ) -> tuple[Any, ...]:
        fine_kernel, kernel, bias, kernel_2, bias_2, *last = weights
        slices = skip.shape[1]
        coarse, tail = _joined(tail, piece, 1)
        below = _cut(backend.interleave(backend.convolve(coarse, fine_kernel)), cut)
        window = backend.concatenate([skip_before[:, slices - rest - TAIL :], skip[:, : slices - rest]], 1)
        x = backend.convolve(window, kernel, bias, below)
        x, middle_tail = _joined(middle_tail, x)
        x = backend.convolve(x, kernel_2, bias_2)
        return backend.probability(x, *last, as_bytes=as_bytes) if last else x, tail, middle_tail

    return compute


def _fine_kernel(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Kernel on the coarse grid that gives what `kernel` (3, 3, 3, in, out) gives of the up-sampled volume.

    Returns
    -------
    float32 array (2, 2, 2, in, 8 out)
        Its channels are the results at the eight fine voxels between the centres of eight coarse ones: [z, y, x, out].
    """
    fine = np.einsum("pai,qbj,rck,ijkuo->abcupqro", _TAPS, _TAPS, _TAPS, kernel, optimize=True)
    return np.ascontiguousarray(fine.reshape(*fine.shape[:4], -1), dtype=np.float32)
