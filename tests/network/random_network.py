"""Small networks whose output varies, the same at every run."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepvesicle.network.unet import UNetShape, build_unet


def random_network(shape: UNetShape, seed: int) -> Any:
    """A `keras.Model` with kernels that keep the size of what goes through it, and biases that are not zero."""
    model = build_unet(shape)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if type(layer).__name__ == "Conv3D":
            kernel, bias = layer.get_weights()
            spread = np.sqrt(2 / np.prod(kernel.shape[:-1]))
            layer.set_weights([rng.normal(0, spread, kernel.shape), rng.normal(0, 0.1, bias.shape)])
    return model
