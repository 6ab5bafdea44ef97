"""Models of vesicles that 3dmod colours by a value."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from deepvesicle.files.atomic import new_file
from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.vesicles import Vesicles
from imod_bridge.model import decode_model
from imod_bridge.values import with_values


def write_coloured_model(
    path: str | os.PathLike[str], vesicles: Vesicles, values: ArrayLike, *, overwrite: bool = False
) -> None:
    """Write spheres as `deepvesicle.files.imod.write_vesicles_model` does, each contour with a value.

    3dmod shows them in false colours, all objects on one scale from the least to the largest value; vesicles whose
    value is not known keep the colour of their object.

    Parameters
    ----------
    path : path
    vesicles : Vesicles
    values : float array (N,)
        Of each row; NaN where it is not known.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputExistsError, UsageError, ValueError
        See `deepvesicle.files.imod.write_vesicles_model`; a value that 32 bits cannot hold.
    """
    of_id = dict(zip(vesicles.ids.tolist(), np.asarray(values, dtype=np.float64).tolist(), strict=True))
    with new_file(path, overwrite=overwrite) as temporary:
        write_vesicles_model(temporary, vesicles)
        data = temporary.read_bytes()
        temporary.write_bytes(with_values(data, _of_contours(data, of_id)))


def _of_contours(data: bytes, of_id: Mapping[int, float]) -> dict[int, dict[int, float]]:
    """The values by object and contour, whose surface number is the id."""
    return {
        number: {row: of_id[contour.surface] for row, contour in enumerate(item.contours)}
        for number, item in enumerate(decode_model(data).objects)
    }
