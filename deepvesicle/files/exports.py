"""Spheres for other programs: STAR as RELION counts, CSV in nm, points with radii in JSON as copick has them."""

from __future__ import annotations

import csv
import importlib
import json
import os
from pathlib import Path
from typing import Any, Union

import numpy as np

from deepvesicle.errors import BadInputError, UsageError
from deepvesicle.files.atomic import new_file
from deepvesicle.grid import nm_to_angstrom
from deepvesicle.marks import lacks_sphere
from deepvesicle.vesicles import Floats, Vesicles

PathLike = Union[str, "os.PathLike[str]"]

#: Columns of the table in nm.
NM_COLUMNS = ("tomogram", "id", "x_nm", "y_nm", "z_nm", "radius_nm", "membrane_radius_nm", "status")
#: What the spheres are called where a format wants a name for them, and who made them.
OBJECT_NAME, USER_NAME = "vesicle", "deepvesicle"
#: The session of picks that a tool made and no person, in copick.
_TOOL_SESSION = "0"
_NO_ROTATION = np.eye(4).tolist()
_OPTICS_GROUP = 1


def check_star() -> None:
    """Stop before any work if the package that writes STAR files is missing.

    Raises
    ------
    UsageError
        It is not installed.
    """
    _starfile()


def write_star(path: PathLike, vesicles: Vesicles, tomogram: str, *, overwrite: bool = False) -> None:
    """Write a STAR file: a block ``optics`` with the pixel size, and a block ``particles`` with a row each.

    RELION counts voxels from 0 at the centre of the first, as this program does (``ParticleSet::getPosition`` of
    RELION 5, src/jaz/tomography/particle_set.cpp; its sphere picker stores the points of napari, which counts so too).
    Coordinates and radii are in voxels of the tomogram that the vesicles belong to, with six digits after the point.
    ``rlnSphereRadius``, which RELION's own picker of spheres uses, goes to the outer edge of the membrane.

    Parameters
    ----------
    path : path
    vesicles : Vesicles
        All rows are written.
    tomogram : str
        Its name in RELION (``rlnTomoName``).
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    UsageError
        The package ``starfile`` is not installed, or the name is empty or has blanks or quotes in it, which RELION
        cannot read.
    BadInputError
        A row that is no sphere.
    OutputExistsError
        See `deepvesicle.files.atomic.new_file`.
    """
    starfile = _starfile()
    check_star_name(tomogram)
    _check_spheres(path, vesicles)
    import pandas as pd

    optics = {
        "rlnOpticsGroup": [_OPTICS_GROUP],
        "rlnOpticsGroupName": [f"opticsGroup{_OPTICS_GROUP}"],
        "rlnImagePixelSize": [float(nm_to_angstrom(vesicles.grid.voxel_nm))],
        "rlnImageDimensionality": [3],
    }
    z, y, x = vesicles.centres_vox.T
    particles = {
        "rlnTomoName": [tomogram] * len(vesicles),
        "rlnCoordinateX": x,
        "rlnCoordinateY": y,
        "rlnCoordinateZ": z,
        "rlnSphereRadius": vesicles.radii_vox,
        "rlnOpticsGroup": np.full(len(vesicles), _OPTICS_GROUP),
        "deepvesicleId": vesicles.ids,
    }
    with new_file(path, overwrite=overwrite) as temporary:
        starfile.write({"optics": pd.DataFrame(optics), "particles": pd.DataFrame(particles)}, temporary)


def check_star_name(tomogram: str) -> None:
    """Refuse a tomogram's name that RELION cannot read.

    Raises
    ------
    UsageError
    """
    if not tomogram or any(letter.isspace() or letter in "\"'#" for letter in tomogram):
        raise UsageError(
            f"{tomogram!r} cannot be the name of a tomogram in a STAR file",
            expected="a name without blanks, quotes and #",
            remedy="Give the name that RELION knows the tomogram by with --name",
        )


def write_nm_csv(path: PathLike, vesicles: Vesicles, tomogram: str, *, overwrite: bool = False) -> None:
    """Write a table with `NM_COLUMNS`, in nm throughout: 0 is the centre of the first voxel, as in ours.

    Parameters
    ----------
    path : path
    vesicles : Vesicles
        All rows are written, without loss of precision; a membrane radius that is not known stays empty.
    tomogram : str
        Its name, the same in each row.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    BadInputError
        A row that is no sphere.
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    _check_spheres(path, vesicles)
    radii_nm = vesicles.radii_nm.tolist()
    membranes_nm = vesicles.grid.length_to_nm(vesicles.membrane_radii_vox).tolist()
    with new_file(path, overwrite=overwrite) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(NM_COLUMNS)
        for row, (z, y, x) in enumerate(vesicles.centres_nm.tolist()):
            membrane = "" if np.isnan(membranes_nm[row]) else membranes_nm[row]
            number, status = int(vesicles.ids[row]), vesicles.status[row].value
            writer.writerow([tomogram, number, x, y, z, radii_nm[row], membrane, status])


def write_picks_json(path: PathLike, vesicles: Vesicles, tomogram: str, *, overwrite: bool = False) -> None:
    """Write points with radii, all in angstrom, in the form of a picks file of copick.

    In it, places are index x voxel size, so 0 is the centre of the first voxel; ``instance_id`` is the vesicle's id,
    ``score`` is 1 where none is known, and there are no orientations. ``radius`` (to the outer edge of the membrane) is
    an addition, which copick passes over. See `copick.models.CopickPicksFile`.

    Parameters
    ----------
    path : path
    vesicles : Vesicles
        All rows are written, without loss of precision.
    tomogram : str
        Its name, which is that of the run.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    BadInputError
        A row that is no sphere.
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    _check_spheres(path, vesicles)
    places, radii = nm_to_angstrom(vesicles.centres_nm), nm_to_angstrom(vesicles.radii_nm)
    content = {
        "pickable_object_name": OBJECT_NAME,
        "user_id": USER_NAME,
        "session_id": _TOOL_SESSION,
        "run_name": tomogram,
        "voxel_spacing": float(nm_to_angstrom(vesicles.grid.voxel_nm)),
        "unit": "angstrom",
        "trust_orientation": False,
        "points": [
            _pick(places[row], float(radii[row]), int(vesicles.ids[row]), float(vesicles.scores[row]))
            for row in range(len(vesicles))
        ],
    }
    with new_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _pick(place: Floats, radius: float, number: int, score: float) -> dict[str, Any]:
    z, y, x = place.tolist()
    return {
        "location": {"x": x, "y": y, "z": z},
        "transformation_": _NO_ROTATION,
        "instance_id": number,
        "score": score if np.isfinite(score) else 1.0,
        "radius": radius,
    }


def _check_spheres(path: PathLike, vesicles: Vesicles) -> None:
    """Refuse rows that other programs cannot understand as spheres."""
    radii = vesicles.radii_vox
    bad = ~(np.isfinite(vesicles.centres_vox).all(axis=1) & np.isfinite(radii) & (radii > 0))
    bad |= lacks_sphere(vesicles.features, len(vesicles))
    if bad.any():
        raise BadInputError(
            f"vesicle {vesicles.ids[bad][0]} cannot be written to {Path(path).name}",
            expected="a finite centre and a positive radius",
        )


def _starfile() -> Any:
    """The package, which not everybody has."""
    try:
        return importlib.import_module("starfile")
    except ImportError as error:
        raise UsageError(
            "STAR files need the package starfile",
            got=str(error),
            remedy="Install it with: pip install 'deepvesicle[star]'",
        ) from error
