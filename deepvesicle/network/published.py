"""The published network of deep-prepyto / CryoVesNet: its weights file (Keras 2, HDF5) as a model folder.

The file holds a csbdeep U-Net of 2 levels and 16 filters with batch norm, in the layers' own names. Facts about the
network are from Khosrozadeh et al. (CryoVesNet, 2024) and from the file itself.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import NetworkError
from deepvesicle.network.normalise import Z_SCORE, NormalisationMethod
from deepvesicle.network.unet import UNetShape, build_unet
from deepvesicle.network.zoo import Network, save_network

#: Name of a layer -> name of a weight -> its values.
Layers = dict[str, dict[str, NDArray[np.float32]]]

PUBLISHED_SHAPE = UNetShape(levels=2, filters=16)
PUBLISHED_VOXEL_NM = 2.2
PUBLISHED_NORMALISATION = NormalisationMethod(Z_SCORE, blur_vox=1.0)
PUBLISHED_THRESHOLD = 0.5

_EXPECTED = "the HDF5 weights of deep-prepyto or CryoVesNet: a csbdeep U-Net of 2 levels and 16 filters with batch norm"
#: Layers that Keras names by itself, with a number that counts all those of a session.
_NOT_CALIBRATED = """
The scores are not calibrated: a sphere's score is the mean probability inside it, and more false vesicles are left.
"""
_NUMBERED = re.compile(r"(batch_normalization|conv3d)(_\d+)?")

_CARD = """# Model card

The published network of deep-prepyto / CryoVesNet, read from its weights file `{file}` (sha256 `{file_sha256}`): a 3D
U-Net (csbdeep blocks) of {levels} levels and {filters} filters.

It was trained by its authors on nine cryo-electron tomograms of rat synaptosomes with vesicles outlined by hand (see
the CryoVesNet publication, 2024), not by deepvesicle.

- voxel size {voxel_nm:g} nm; dense = dark
- grey values: Gaussian blur of SD 1 voxel, then the mean and SD of the whole volume (z-score), no value cut off
- threshold {threshold:g}: where a voxel is as likely inside as not; what is fainter is looked for as well, where the
  scores are calibrated to tell what it is
{calibration}
## Licence

The weights are under the GPL-3.0, as the program they come from. They do not come with deepvesicle, whose licence does
not cover them.

## Files

`network.weights.h5`, sha256 `{{weights_sha256}}`
"""


def read_published(path: str | os.PathLike[str]) -> tuple[UNetShape, Any]:
    """Read the published weights into the same network built here.

    Parameters
    ----------
    path : path
        `weights.h5`, or the earlier `weights_v1.h5`.

    Returns
    -------
    shape : UNetShape
    model : keras.Model
        From `build_unet(shape)`.

    Raises
    ------
    NetworkError
        The file is missing, no HDF5, or holds another network: layers are missing, or of other shapes.
    """
    layers = _read_layers(path)
    model = build_unet(PUBLISHED_SHAPE)
    _fill(model, layers, os.fspath(path))
    return PUBLISHED_SHAPE, model


def import_published(
    path: str | os.PathLike[str],
    folder: Path,
    *,
    extra: Mapping[str, Any] | None = None,
    calibration: str = _NOT_CALIBRATED,
) -> Network:
    """Write the published weights as a model folder that `load_network` reads.

    Parameters
    ----------
    path : path
        See `read_published`.
    folder : Path
        Made if need be; a model in it is replaced.
    extra : mapping, optional
        More entries for its config, such as ``evidence``.
    calibration : str
        What its card says of the scores.

    Raises
    ------
    NetworkError
        As `read_published`; nothing is written then.
    """
    shape, model = read_published(path)
    source = Path(path)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    card = _CARD.format(
        file=source.name,
        file_sha256=digest,
        levels=shape.levels,
        filters=shape.filters,
        voxel_nm=PUBLISHED_VOXEL_NM,
        threshold=PUBLISHED_THRESHOLD,
        calibration=calibration,
    )
    return save_network(
        folder,
        model,
        shape,
        voxel_nm=PUBLISHED_VOXEL_NM,
        threshold=PUBLISHED_THRESHOLD,
        card=card,
        normalisation=PUBLISHED_NORMALISATION,
        extra={"source": {"file": source.name, "sha256": digest, "licence": "GPL-3.0"}, **(extra or {})},
    )


def _read_layers(path: str | os.PathLike[str]) -> Layers:
    """All layers with weights, in the file's order.

    Raises
    ------
    NetworkError
    """
    import h5py

    layers: Layers = {}
    try:
        with h5py.File(path, "r") as file:
            group = file.get("model_weights", file)
            for name in map(_text, group.attrs["layer_names"]):
                weights = {}
                for entry in map(_text, group[name].attrs["weight_names"]):
                    weights[entry.split("/")[-1].split(":")[0]] = np.asarray(group[name][entry], dtype=np.float32)
                if weights:
                    layers[name] = weights
    except FileNotFoundError:
        raise NetworkError(f"the weights file {os.fspath(path)} does not exist") from None
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise NetworkError(f"{os.fspath(path)} cannot be read as weights ({reason})", expected=_EXPECTED) from error
    return layers


def _fill(model: Any, layers: Layers, source: str) -> None:
    """Set a model's weights from layers of the same names and shapes in the same order.

    Raises
    ------
    NetworkError
        The layers differ from the model's.
    """
    wanted = [layer for layer in model.layers if layer.weights]
    found_names = [_plain_name(name) for name in layers]
    wanted_names = [_plain_name(layer.name) for layer in wanted]
    if found_names != wanted_names:
        missing = [f"no {name}" for name in dict.fromkeys(wanted_names) if name not in found_names]
        strange = [f"also {name}" for name in layers if _plain_name(name) not in wanted_names]
        raise NetworkError(
            f"{source} holds another network",
            expected=_EXPECTED,
            got=", ".join([*missing, *strange][:4]) or f"{len(found_names)} layers with weights in another order",
        )
    for layer, (name, weights) in zip(wanted, layers.items(), strict=True):
        for weight in layer.weights:
            values, shape = weights.get(weight.name), tuple(weight.shape)
            if values is None or values.shape != shape:
                raise NetworkError(
                    f"{source}: {weight.name} of {name} does not fit the network",
                    expected=f"the shape {shape}",
                    got="nothing" if values is None else str(values.shape),
                )
            if not np.isfinite(values).all():
                raise NetworkError(f"{source}: {weight.name} of {name} holds values that are no numbers")
        layer.set_weights([weights[weight.name] for weight in layer.weights])


def _text(name: str | bytes) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else name


def _plain_name(name: str) -> str:
    """A layer's name without the number that Keras gave it."""
    numbered = _NUMBERED.fullmatch(name)
    return numbered[1] if numbered else name
