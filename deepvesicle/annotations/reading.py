"""Manual segmentations read from files, whatever they are."""

from __future__ import annotations

import os
from collections.abc import Sequence

from deepvesicle.annotations.annotation import Annotation
from deepvesicle.annotations.labels import annotation_of_labels
from deepvesicle.annotations.models import annotation_of_model
from deepvesicle.annotations.shapes import Limits
from deepvesicle.errors import UsageError
from deepvesicle.files.imod import read_model_of
from deepvesicle.files.model_info import holds_model
from deepvesicle.files.tomogram import read_labels
from deepvesicle.grid import Grid


def read_annotation(
    path: str | os.PathLike[str],
    grid: Grid,
    *,
    vesicles: Sequence[str] = (),
    outline: Sequence[str] = (),
    membrane_id: int | None = None,
    cytosol_id: int | None = None,
    classes: Sequence[int] = (),
    discs: bool = False,
    pyto_rounding: bool = False,
    limits: Limits | None = None,
) -> Annotation:
    """Read an IMOD model, or a label volume of the tomogram's shape, told apart by what is in the file.

    Parameters
    ----------
    path : path
    grid : Grid
        Of the tomogram.
    vesicles, outline : sequences of str
        Objects of a model, by name or number; labels of a volume, by number.
    membrane_id, cytosol_id, classes
        Of a label volume; see `annotation_of_labels`. A model takes no notice of them.
    discs, pyto_rounding, limits
        See `annotation_of_model` and `annotation_of_labels`.

    Raises
    ------
    BadInputError
        The file cannot be used; see `annotation_of_model`, `annotation_of_labels` and
        `deepvesicle.files.tomogram.read_labels`.
    UsageError
        A label that is no number.
    """
    if holds_model(path):
        return annotation_of_model(
            path,
            read_model_of(path),
            grid,
            vesicles=vesicles,
            outline=outline,
            discs=discs,
            pyto_rounding=pyto_rounding,
            limits=limits,
        )
    return annotation_of_labels(
        read_labels(path, grid),
        grid,
        vesicle_ids=_numbers(path, vesicles) or None,
        outline_ids=_numbers(path, outline),
        membrane_id=membrane_id,
        cytosol_id=cytosol_id,
        classes=classes,
        discs=discs,
        pyto_rounding=pyto_rounding,
        limits=limits,
    )


def _numbers(path: str | os.PathLike[str], names: Sequence[str]) -> list[int]:
    for name in names:
        if not name.strip().isdecimal():
            raise UsageError(f"{name!r} is no label of {path}", expected="the number of a label")
    return [int(name) for name in names]
