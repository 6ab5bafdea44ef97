"""Trained networks on disk: a folder with `config.json`, `network.weights.h5` and `CARD.md`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepvesicle.errors import NetworkError, UsageError
from deepvesicle.network.normalise import NormalisationMethod
from deepvesicle.network.shipped import shipped_models_folder
from deepvesicle.network.unet import Convolution, UNetShape, build_unet, folded_convolutions

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "network.weights.h5"
CARD_NAME = "CARD.md"
DEFAULT_MODEL = "default"
#: Environment variable with the folder for models of one's own.
MODELS_VARIABLE = "DEEPVESICLE_MODELS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Network:
    """A trained network and what is needed to use it.

    Parameters
    ----------
    folder : Path
    voxel_nm : float
        Voxel size that tomograms are rescaled to.
    threshold : float
        Probability above which a voxel counts as vesicle; chosen on validation phantoms.
    shape : UNetShape
    weights_sha256 : str
    normalisation : NormalisationMethod
        How it wants the grey values prepared.
    config : mapping
        All of `config.json`; its entry ``evidence``, where there is one, is for `deepvesicle.fitting.evidence`.
    """

    folder: Path
    voxel_nm: float
    threshold: float
    shape: UNetShape
    weights_sha256: str
    normalisation: NormalisationMethod = field(default_factory=NormalisationMethod)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def model(self) -> Any:
        """The trainable Keras model with its weights."""
        model = build_unet(self.shape)
        try:
            model.load_weights(self.folder / WEIGHTS_NAME)
        except (OSError, ValueError, KeyError) as error:
            raise NetworkError(
                f"the weights of model {self.folder} do not fit its {CONFIG_NAME} ({error})",
                expected=f"a U-Net of {self.shape.levels} levels and {self.shape.filters} filters",
            ) from error
        return model

    def convolutions(self) -> list[Convolution]:
        """Kernels and biases, batch norm folded in, in the order of use."""
        return folded_convolutions(self.model())


def user_models_folder() -> Path:
    """The folder for models of one's own: that of the variable `MODELS_VARIABLE`, or the usual one for user data."""
    given = os.environ.get(MODELS_VARIABLE)
    if given:
        return Path(given).expanduser()
    from platformdirs import user_data_path

    return user_data_path("deepvesicle", appauthor=False) / "models"


def known_models() -> list[tuple[str, Path]]:
    """Name and folder of all models that go by a name: the user's, then the shipped ones.

    A name that is there twice stands for the first.
    """
    folders = (user_models_folder(), shipped_models_folder())
    found = [config.parent for folder in folders for config in sorted(folder.glob(f"*/{CONFIG_NAME}"))]
    return [(folder.name, folder) for folder in found if is_model_name(folder.name)]


def is_model_name(text: str) -> bool:
    """Whether a text can be the name of a model: letters, digits, dots, hyphens and underscores."""
    return _NAME.fullmatch(text) is not None


def model_folder(name_or_path: str | os.PathLike[str]) -> Path:
    """Folder of a model given by name or as a path.

    A name stands for a model in the user's own folder (`user_models_folder`), then for a shipped one; what is neither
    is a path.

    Raises
    ------
    NetworkError
        There is no such model; the message lists those that go by a name.
    """
    if is_model_name(str(name_or_path)):
        for name, folder in known_models():
            if name == str(name_or_path):
                return folder
    path = Path(name_or_path)
    if (path / CONFIG_NAME).is_file():
        return path.resolve()
    names = ", ".join(dict.fromkeys(name for name, _ in known_models()))
    raise NetworkError(
        f"there is no model {str(name_or_path)!r}",
        expected=f"a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, or one of your own or the shipped models: "
        + (names or "none"),
    )


@contextmanager
def new_model(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write a model to, which takes the place of `folder` when the block ends well.

    Raises
    ------
    UsageError
        The folder cannot be written.
    """
    temporary = folder.with_name(f".{secrets.token_hex(6)}")
    old = folder.with_name(f".{secrets.token_hex(6)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise UsageError(f"cannot write {folder}", got=error.strerror or str(error)) from error
    try:
        yield temporary
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    finally:
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)


def load_network(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL) -> Network:
    """Read a model's config and check its weights against it (TensorFlow is not needed for this).

    Raises
    ------
    NetworkError
        Missing or damaged files, or weights that are not those the config names.
    """
    folder = model_folder(name_or_path)
    config_path, weights_path = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        network = Network(
            folder=folder,
            voxel_nm=float(config["voxel_nm"]),
            threshold=float(config["threshold"]),
            shape=UNetShape(int(config["unet"]["levels"]), int(config["unet"]["filters"])),
            weights_sha256=str(config["weights_sha256"]),
            normalisation=NormalisationMethod.from_json(config["normalisation"], str(config_path)),
            config=config,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NetworkError(
            f"{config_path} cannot be used ({type(error).__name__}: {error})",
            expected="JSON with voxel_nm, threshold, unet.levels, unet.filters, normalisation and weights_sha256",
        ) from error
    if not (0.2 <= network.voxel_nm <= 20 and 0 < network.threshold < 1):
        raise NetworkError(
            f"{config_path} holds absurd values",
            expected="0.2 to 20 nm for voxel_nm and 0 to 1 for threshold",
            got=f"{network.voxel_nm} and {network.threshold}",
        )
    if not weights_path.is_file():
        raise NetworkError(f"model {folder} has no {WEIGHTS_NAME}")
    found = hashlib.sha256(weights_path.read_bytes()).hexdigest()
    if found != network.weights_sha256:
        raise NetworkError(
            f"the weights of model {folder} are not those its {CONFIG_NAME} names",
            expected=f"sha256 {network.weights_sha256[:12]}...",
            got=f"{found[:12]}...",
            remedy="The file is damaged or was exchanged: install or copy the model again",
        )
    return network


def save_network(
    folder: Path,
    model: Any,
    shape: UNetShape,
    *,
    voxel_nm: float,
    threshold: float,
    card: str,
    normalisation: NormalisationMethod | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Network:
    """Write a model folder: weights without optimizer state, config, card.

    Parameters
    ----------
    folder : Path
        Made if need be; files of an earlier model in it are replaced.
    model : keras.Model
        From `build_unet(shape)`.
    normalisation : NormalisationMethod, optional
        That of the networks that are trained here ("clipped") by default.
    extra : mapping, optional
        More entries for `config.json`, e.g. the training settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bare = build_unet(shape)  # without optimizer, so that only the network's own weights are stored
    bare.set_weights(model.get_weights())
    temporary = folder / f".new.{WEIGHTS_NAME}"
    bare.save_weights(temporary)
    digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    config = {
        "format": 1,
        "voxel_nm": voxel_nm,
        "threshold": threshold,
        "unet": shape.to_json(),
        "normalisation": (normalisation or NormalisationMethod()).to_json(),
        "weights_sha256": digest,
        **(extra or {}),
    }
    os.replace(temporary, folder / WEIGHTS_NAME)
    new_config = folder / f".new.{CONFIG_NAME}"
    new_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(new_config, folder / CONFIG_NAME)
    (folder / CARD_NAME).write_text(card.replace("{weights_sha256}", digest), encoding="utf-8")
    return load_network(folder)
