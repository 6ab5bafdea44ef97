"""The few operations that the network needs, under whichever backend Keras has; threads, devices and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.cores import usable_cores
from deepvesicle.network.unet import quiet_tensorflow

#: A tensor of the backend, (1, z, y, x, channels).
Tensor = Any
#: What a processor calls its instructions for bfloat16; without them TensorFlow's are slow, or abort.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_CPUINFO = Path("/proc/cpuinfo")


def is_tensorflow() -> bool:
    """Whether Keras runs on TensorFlow."""
    quiet_tensorflow()
    import keras

    return bool(keras.backend.backend() == "tensorflow")


def set_threads(threads: int) -> None:
    """Tell TensorFlow how many threads to use (0: as many as this process may use); too late if it already runs."""
    if not is_tensorflow():
        return
    import tensorflow

    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads or usable_cores())
    except RuntimeError:  # it has started; its own choice then stays
        return


def has_bfloat16() -> bool:
    """Whether this computer calculates faster in bfloat16: the GPU in use, or else the processor."""
    gpu = gpu_capability()
    return gpu >= (8, 0) if gpu else cpu_has_bfloat16()


@cache
def cpu_has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 (Linux; elsewhere no)."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not _BFLOAT16_FLAGS.isdisjoint(flags.split())


def gpu_capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU that TensorFlow sees, (0, 0) if it does not say; None without a GPU."""
    if not is_tensorflow():
        return None
    import tensorflow

    gpus = tensorflow.config.list_physical_devices("GPU")
    if not gpus:
        return None
    details = tensorflow.config.experimental.get_device_details(gpus[0])
    return tuple(details.get("compute_capability", (0, 0)))


def gpu_bytes() -> int | None:
    """Memory of the first GPU that TensorFlow may use; None without a GPU."""
    if gpu_capability() is None:
        return None
    from tensorflow.python.client import device_lib

    sizes = [device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"]
    return int(sizes[0]) if sizes else None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors of fixed shapes, compiled; without XLA under TensorFlow: it is far slower on processors."""
    if is_tensorflow():
        import tensorflow

        return tensorflow.function(function, jit_compile=False, autograph=False)  # type: ignore[no-any-return]
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def tensor(values: NDArray[np.float32], dtype: str) -> Tensor:
    """An array for the network."""
    import keras

    return keras.ops.convert_to_tensor(values, dtype=dtype)


def zeros(slices: int, like: Tensor) -> Tensor:
    """So many slices of zeros, of the size and type of those of a tensor."""
    import keras

    return keras.ops.zeros((1, slices, *like.shape[2:]), dtype=like.dtype)


def cast(x: Tensor, dtype: str) -> Tensor:
    """A tensor as another type."""
    import keras

    return keras.ops.cast(x, dtype)


def concatenate(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors one behind the other."""
    import keras

    return keras.ops.concatenate(parts, axis)


def max_pool(x: Tensor) -> Tensor:
    """The largest of every 2 x 2 x 2 voxels."""
    import keras

    return keras.ops.max_pool(x, 2, 2)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None, more: Tensor | None = None) -> Tensor:
    """An unpadded convolution; with a bias it is followed by ReLU, before which `more` is added."""
    if is_tensorflow():
        import tensorflow

        x = tensorflow.nn.conv3d(x, kernel, [1] * 5, "VALID")
        if bias is None:
            return x
        x = tensorflow.nn.bias_add(x, bias)  # in this form it becomes part of the convolution, as ReLU does
        return tensorflow.nn.relu(x if more is None else x + more)
    import keras

    x = keras.ops.conv(x, kernel, padding="valid")
    if bias is None:
        return x
    return keras.ops.relu(x + bias if more is None else x + bias + more)


def interleave(x: Tensor) -> Tensor:
    """Voxels of twice the resolution that are stored as channels [z, y, x, channel] (two along each axis)."""
    import keras

    _, nz, ny, nx, channels = x.shape
    x = keras.ops.reshape(x, (nz, ny, nx, 2, 2, 2, channels // 8))
    x = keras.ops.transpose(x, (0, 3, 1, 4, 2, 5, 6))
    return keras.ops.reshape(x, (1, 2 * nz, 2 * ny, 2 * nx, channels // 8))


def probability(x: Tensor, kernel: Tensor, bias: Tensor, *, as_bytes: bool) -> Tensor:
    """Sigmoid of one weighted sum of the channels (z, y, x): 0..1 in float32, or 0..255 in uint8."""
    import keras

    _, *size, channels = x.shape
    x = keras.ops.cast(keras.ops.reshape(x, (-1, channels)), "float32")
    x = keras.ops.sigmoid(keras.ops.matmul(x, kernel) + bias)
    if as_bytes:
        x = keras.ops.cast(keras.ops.round(x * 255), "uint8")
    return keras.ops.reshape(x, size)
