"""``README.txt`` of a work folder: what was done, and how to go on in Pyto."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deepvesicle import __version__
from deepvesicle.grid import Tomogram
from deepvesicle.handover.ids import SOURCE_ID

if TYPE_CHECKING:
    from deepvesicle.handover.handing import HandedOver, Wishes

_WIDTH = 100
#: Upper limits of the volume of a connector in use, nm^3 (Lucic et al. 2016 and data sets since).
CONNECTOR_NM3 = (2100.0, 3200.0)
#: Membrane of a vesicle that Pyto measures, and how far its layers have to reach from the active zone.
MEMBRANE_THICK_VOX, LAYERS_NM = 2, 250.0
#: Grey thresholds of the search for connectors, about.
THRESHOLDS = 20


def readme_text(done: HandedOver, wishes: Wishes, tomogram: Tomogram, inputs: Mapping[str, Path]) -> str:
    """The text.

    Parameters
    ----------
    done : HandedOver
    wishes : Wishes
    tomogram : Tomogram
        That was given.
    inputs : mapping of str to Path
        What was read.
    """
    sections = {
        "": _head(),
        "What is here": _files(),
        "What it was made from": _made_from(done, tomogram, inputs),
        "Labels": _labels(done, wishes),
        "Left out": _left_out(done),
        "What was done": (f"- {note}" for note in done.notes),
        "What the check says": _findings(done),
        "How to go on in Pyto": _next(done, wishes),
    }
    lines: list[str] = []
    for title, content in sections.items():
        lines += ["", title, "-" * len(title), ""] if title else []
        lines += [part for line in content for part in _wrapped(line)]
    return "\n".join(lines) + "\n"


def _wrapped(line: str) -> list[str]:
    start = len(line) - len(line.lstrip(" -"))
    return textwrap.wrap(line, _WIDTH, subsequent_indent=" " * start, break_on_hyphens=False) or [""]


def _head() -> Iterator[str]:
    yield f"A work folder for Pyto, made by deepvesicle {__version__} (`deepvesicle pyto`)."


def _files() -> Iterator[str]:
    yield "- 3d/tomo.mrc: the tomogram; dense is dark (low values)"
    yield "- 3d/labels.mrc: the label volume"
    yield "- common/tomo_info.py: the files and ids, which Pyto's scripts read"
    yield f"- vesicles.csv: the vesicles; `id` is their label, `{SOURCE_ID}` their id in the table that was given"
    yield "- vesicles.mod: the same for 3dmod, to be opened on 3d/tomo.mrc"
    yield "- regions, vesicles, layers, connectors, cluster: for your copies of Pyto's scripts, and their results"
    yield "- run.json: what was run, with which files and settings"


def _made_from(done: HandedOver, tomogram: Tomogram, inputs: Mapping[str, Path]) -> Iterator[str]:
    for name, path in inputs.items():
        yield f"- {name.replace('_', ' ')}: {path.resolve()}"
    x, y, z = done.grid.shape_zyx[::-1]
    yield f"- {x} x {y} x {z} voxels (x, y, z) of {done.grid.voxel_nm:.4g} nm"
    if done.grid.shape_zyx != tomogram.grid.shape_zyx:
        z0, y0, x0 = (start + 1 for start in done.start_zyx)
        yield f"- the first voxel here is x {x0}, y {y0}, z {z0} of the tomogram that was given (from 1, as in 3dmod)"


def _labels(done: HandedOver, wishes: Wishes) -> Iterator[str]:
    ids = sorted(done.drawn.ids.tolist())
    yield "- 0: background"
    yield f"- {wishes.ids.cytosol}: cytosol"
    yield f"- {wishes.ids.membrane}: membrane of the active zone"
    if len(ids) == 1:
        yield f"- {ids[0]}: 1 vesicle, with the id that it has in vesicles.csv and vesicles.mod"
        return
    yield f"- {ids[0]} to {ids[-1]}: {len(ids)} vesicles, each with the id that it has in vesicles.csv and vesicles.mod"


def _left_out(done: HandedOver) -> Iterator[str]:
    if not done.left_out:
        yield "Nothing: every vesicle that counts in the table is in the labels."
        return
    for reason in dict.fromkeys(done.left_out.values()):
        numbers = sorted(number for number, why in done.left_out.items() if why == reason)
        yield f"- {reason}: {', '.join(map(str, numbers))} (ids in the table that was given)"


def _findings(done: HandedOver) -> Iterator[str]:
    if not done.findings:
        yield "Nothing is wrong with this folder. `deepvesicle pyto --check` checks it again, as after changes by hand."
    for finding in done.findings:
        yield f"- {finding}"


def _next(done: HandedOver, wishes: Wishes) -> Iterator[str]:
    voxel_nm = done.grid.voxel_nm
    low, high = (round(volume / voxel_nm**3) for volume in CONNECTOR_NM3)
    layers = -(-LAYERS_NM // voxel_nm)
    yield "Copy Pyto's scripts into the folders of their names and run each inside its folder, in this order:"
    yield "- regions/regions.py: the grey values of all labels"
    yield f"- vesicles/vesicles.py: set membrane_thick = {MEMBRANE_THICK_VOX} (voxels)"
    yield (
        f"- layers/layers.py: layers that are one voxel thick, at least {layers:.0f} of them: they have to reach "
        f"{LAYERS_NM:.0f} nm from the active zone"
    )
    yield (
        f"- connectors/connectors.py: about {THRESHOLDS} thresholds, from one at which nothing is found up to about "
        "the mean grey value of the cytosol (regions.py tells it). In the classification by volume, the upper limit "
        f"of a good connector is {low} to {high} voxels here ({CONNECTOR_NM3[0]:.0f} to {CONNECTOR_NM3[1]:.0f} nm^3). "
        f"In the classification by contacts, tethers are what touches {wishes.ids.membrane}"
    )
    yield "- cluster/cluster.py: clusters of connected vesicles"
    yield ""
    yield (
        "Then `deepvesicle pyto --import-results` with this folder writes vesicles_pyto.csv, the table with what Pyto "
        "found of each vesicle, and vesicles_pyto.mod, in which 3dmod shows it in colours."
    )
    yield ""
    yield (
        "No connectors at all? Nearly always the thresholds are too low, or the labels were changed by hand and no "
        "longer touch the cytosol: run `deepvesicle pyto --check` with this folder."
    )
