"""Where the models that come with the program are."""

from __future__ import annotations

from pathlib import Path

import deepvesicle
from deepvesicle.errors import NetworkError


def shipped_models_folder() -> Path:
    """The folder that holds one folder per shipped model.

    Installed, it is ``shipped_models`` inside the package; in a checkout (also with an editable install) it is
    ``models`` beside the package.

    Raises
    ------
    NetworkError
        If neither exists, as after a package was made without its models.
    """
    package = Path(deepvesicle.__file__).resolve().parent
    installed = package / "shipped_models"
    checkout = package.parent / "models"
    for folder in (installed, checkout):
        if folder.is_dir():
            return folder
    raise NetworkError(
        "the models that come with deepvesicle are missing",
        expected=f"the folder {installed}",
        remedy="Install deepvesicle again, or give the folder of a model with --model",
    )
