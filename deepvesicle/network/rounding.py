"""A network's convolutions in bfloat16, with less error than rounding each number gives.

The features between ReLUs may be multiplied by any positive number that the next convolution divides by. So every
channel is scaled, by 0.4 % at most, such that its bias is a number that bfloat16 has. And the errors of a kernel's
numbers are passed on from one to the next, so that they cancel where the features vary little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepvesicle.network.unet import Convolution

Array = NDArray[np.float32]


def rounded(values: NDArray[np.floating]) -> Array:
    """The nearest numbers that bfloat16 has, as float32."""
    from ml_dtypes import bfloat16

    return values.astype(bfloat16).astype(np.float32)


def with_exact_biases(convolutions: Sequence[Convolution], levels: int) -> list[Convolution]:
    """The same network with biases, all but the last one, that bfloat16 holds exactly."""
    scales = [_scale(bias) for _, bias in convolutions[:-1]] + [np.ones(1, dtype=np.float32)]
    found = []
    for number, (kernel, bias) in enumerate(convolutions):
        before = scales[number - 1] if number else np.ones(1, dtype=np.float32)
        stage = number // 2
        if stage > levels and number % 2 == 0 and stage <= 2 * levels:  # the skips come after what is from below
            before = np.concatenate([before, scales[2 * (2 * levels - stage) + 1]])
        found.append((kernel * scales[number] / before[:, None], bias * scales[number]))
    return found


def _scale(bias: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = rounded(bias) / bias
    return np.where(np.isfinite(scale) & (scale > 0), scale, np.float32(1))


def diffused(kernel: Array) -> Array:
    """A kernel (z, y, x, in, out) rounded to what bfloat16 has, such that sums over z, y, x keep their value."""
    taps = kernel.reshape(-1, *kernel.shape[3:]).astype(np.float64)
    found = np.empty(taps.shape, dtype=np.float32)
    rest = np.zeros(taps.shape[1:])
    for tap, value in enumerate(taps):
        found[tap] = rounded(value + rest)
        rest += value - found[tap]
    return found.reshape(kernel.shape)
