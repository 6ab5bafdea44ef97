"""Weights files of the published network's kind, as Keras 2 wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from deepvesicle.network.unet import UNetShape, build_unet


def random_published(seed: int) -> Any:
    """The published network's shape with weights that all differ."""
    model = build_unet(UNetShape(2, 16))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    return model


def write_keras2(path: Path, model: Any, group: str = "model_weights", first_number: int = 60) -> None:
    """A model as Keras 2 writes it: layers without weights too, numbers that count a whole session."""
    with h5py.File(path, "w") as file:
        parent = file.require_group(group)
        names, counts = [], {"batch_normalization": first_number, "conv3d": 6}
        for layer in model.layers:
            kind = next((kind for kind in counts if layer.name.startswith(kind)), None)
            name = layer.name if kind is None else f"{kind}_{counts[kind]}"
            if kind:
                counts[kind] += 1
            names.append(name)
            weights = parent.create_group(name)
            entries = []
            for variable, values in zip(layer.weights, layer.get_weights(), strict=True):
                entries.append(f"{name}_6/{variable.name}:0")
                weights[entries[-1]] = values
            weights.attrs["weight_names"] = np.array(entries, dtype="S64")
        parent.attrs["layer_names"] = np.array(names, dtype="S64")
