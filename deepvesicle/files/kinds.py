"""What kind of file a user gave, where several are understood: told by what is in it."""

from __future__ import annotations

import os
from pathlib import Path

from deepvesicle.errors import BadInputError, TomogramError
from deepvesicle.files.model_info import holds_model
from deepvesicle.files.mrc_header import HEADER_BYTES, what_it_looks_like
from deepvesicle.files.tomogram import read_header

MODEL, TABLE, VOLUME = "model", "table", "volume"


def kind_of(path: str | os.PathLike[str], expected: str) -> str:
    """Whether a file is a model, a table (by its name) or a volume: `MODEL`, `TABLE` or `VOLUME`.

    Parameters
    ----------
    path : path
    expected : str
        What is understood, for the message.

    Raises
    ------
    BadInputError
        There is no such file, or it is none of these.
    """
    path = Path(path)
    if not path.is_file():
        missing = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise BadInputError(f"{path} {missing}", expected=expected)
    if holds_model(path):
        return MODEL
    if path.suffix.lower() == ".csv":
        return TABLE
    try:
        read_header(path)
    except TomogramError as error:
        looks_like = _look_of(path)
        if looks_like:
            raise BadInputError(f"{path} cannot be used", expected=expected, got=looks_like) from error
        raise
    return VOLUME


def _look_of(path: Path) -> str:
    """What a file that is no volume looks like; empty if like nothing known."""
    try:
        with open(path, "rb") as file:
            return what_it_looks_like(file.read(HEADER_BYTES), path)
    except OSError:
        return ""
