"""The 3D U-Net, built from csbdeep's blocks (Weigert et al. 2018; Cicek et al. 2016).

Two or more levels, two 3x3x3 convolutions with batch norm and ReLU at each, concatenating skips, sigmoid output.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONVOLUTIONS_PER_LEVEL = 2


@dataclass(frozen=True)
class UNetShape:
    """What defines the network's graph.

    Parameters
    ----------
    levels : int
        Number of 2x down-samplings.
    filters : int
        Of the first level; doubled at each further one.
    """

    levels: int = 3
    filters: int = 16

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for the model's config."""
        return asdict(self)

    @property
    def alignment_vox(self) -> int:
        """Sizes of the network's input must be multiples of this."""
        return int(2**self.levels)

    @property
    def halo_vox(self) -> int:
        """Voxels around a tile that its prediction depends on: 22 for two levels, 46 for three."""
        return int(plan_ranges(self.levels).input_margin)


@dataclass(frozen=True)
class Ranges:
    """Margins round the inner tile, in voxels of each level, that each part of the network must compute.

    `skip[n]` is the margin at which level n's skip connection is used, `up[n]` that of level n's up-sampled input,
    which is cut to `skip[n]`, and `input_margin` that of the network's input. From the output back to the input: a
    3x3x3 convolution needs one voxel more, an up-sampling half of it (rounded up), a pooling twice.
    """

    skip: tuple[int, ...]
    up: tuple[int, ...]
    down: tuple[int, ...]
    input_margin: int


def plan_ranges(levels: int) -> Ranges:
    """Margins of a U-Net with `levels` down-samplings and two convolutions per level."""
    margin = 0
    skip, up = [], []
    for _ in range(levels):
        margin += CONVOLUTIONS_PER_LEVEL
        skip.append(margin)
        margin = -(-margin // 2)
        up.append(2 * margin)
    margin += CONVOLUTIONS_PER_LEVEL
    down = [0] * levels
    for level in reversed(range(levels)):
        margin *= 2
        down[level] = margin  # of the level's last convolution, before pooling
        margin += CONVOLUTIONS_PER_LEVEL
    return Ranges(tuple(skip), tuple(up), tuple(down), margin)


def quiet_tensorflow() -> None:
    """Import Keras and its backend without the start-up messages that TensorFlow writes past Python's stderr.

    They are shown where the import fails, or where the user has set TF_CPP_MIN_LOG_LEVEL.
    """
    if "keras" in sys.modules:
        return
    with _without_jax():
        _import_keras()


@contextmanager
def _without_jax() -> Iterator[None]:
    """Hide JAX, if it is installed, from TensorFlow: it would load it for nothing, 0.1 GB and most of a second."""
    hidden = _chosen_backend() == "tensorflow" and "jax" not in sys.modules
    if hidden:
        sys.modules["jax"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["jax"]


def _chosen_backend() -> str:
    """The backend that Keras will take, as its documentation says."""
    if "KERAS_BACKEND" in os.environ:
        return os.environ["KERAS_BACKEND"]
    config = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
    try:
        return str(json.loads(config.read_text(encoding="utf-8")).get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError):
        return "tensorflow"


def _import_keras() -> None:
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        import keras  # noqa: F401

        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import keras  # noqa: F401
        except BaseException:
            messages.seek(0)
            os.write(kept, messages.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def build_unet(shape: UNetShape) -> Any:
    """A trainable `keras.Model` for input (batch, z, y, x, 1) of any size that is a multiple of the alignment."""
    quiet_tensorflow()
    try:
        from csbdeep.internals.nets import custom_unet
    except ImportError:  # csbdeep needs TensorFlow
        return plain_unet(shape)
    return custom_unet(
        (None, None, None, 1),
        "sigmoid",
        n_depth=shape.levels,
        n_filter_base=shape.filters,
        kernel_size=(3, 3, 3),
        n_conv_per_depth=CONVOLUTIONS_PER_LEVEL,
        pool_size=(2, 2, 2),
        batch_norm=True,
    )


def plain_unet(shape: UNetShape) -> Any:
    """The graph of `build_unet` without csbdeep, for JAX or torch where there is no TensorFlow; the weights are shared.

    As there, the last convolution of a level that is left upwards has the next level's number of filters.
    """
    import keras
    from keras import layers

    def convolve(x: Any, filters: int, name: str) -> Any:
        x = layers.Conv3D(filters, 3, padding="same", name=name)(x)
        return layers.Activation("relu")(layers.BatchNormalization()(x))

    depth, last = shape.levels, CONVOLUTIONS_PER_LEVEL
    filters = [shape.filters * 2**level for level in range(depth + 1)]
    inputs = x = keras.Input((None, None, None, 1), name="input")
    skips = []
    for level in range(depth):
        for i in range(last):
            x = convolve(x, filters[level], f"down_level_{level}_no_{i}")
        skips.append(x)
        x = layers.MaxPooling3D(2, name=f"max_{level}")(x)
    for i in range(last - 1):
        x = convolve(x, filters[depth], f"middle_{i}")
    x = convolve(x, filters[max(0, depth - 1)], f"middle_{last}")
    for level in reversed(range(depth)):
        x = layers.Concatenate()([layers.UpSampling3D(2)(x), skips[level]])
        for i in range(last - 1):
            x = convolve(x, filters[level], f"up_level_{level}_no_{i}")
        x = convolve(x, filters[max(0, level - 1)], f"up_level_{level}_no_{last}")
    x = layers.Conv3D(1, 1, activation="linear")(x)
    return keras.Model(inputs, layers.Activation("sigmoid")(x))


Convolution = tuple[NDArray[np.float32], NDArray[np.float32]]


def folded_convolutions(model: Any) -> list[Convolution]:
    """Kernels and biases in the order of use, with every batch norm folded into the convolution before it."""
    found: list[Convolution] = []
    for layer in model.layers:
        name = type(layer).__name__
        if name == "Conv3D":
            kernel, bias = layer.get_weights()
            found.append((kernel, bias))
        elif name == "BatchNormalization":
            gamma, beta, mean, variance = layer.get_weights()
            gain = gamma / np.sqrt(variance + layer.epsilon)
            kernel, bias = found[-1]
            found[-1] = (kernel * gain, (bias - mean) * gain + beta)
    return found
