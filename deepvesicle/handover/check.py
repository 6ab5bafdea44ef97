"""Whether Pyto will run on a work folder, and what it would get wrong; ours or one made by others.

Kinds of findings, and how bad they are:

| kind | what | severity |
|---|---|---|
| ``folder``, ``file_missing`` | something is not there | error |
| ``tomo_info`` | Python fails on it, or a variable is missing or makes no sense; is not understood | error; warning |
| ``labels_type``, ``tomogram_type`` | what Pyto does not read; what it misreads in part | error; warning, note |
| ``data_type`` | `labels_data_type` is not that of the file; is needless | error; warning |
| ``shape``, ``voxel_size`` | tomogram and labels differ, or one has no voxel size | error; warning |
| ``duplicates``, ``zero_listed`` | lists name an id twice, or 0 | warning |
| ``vesicle_ids_form``, ``no_vesicles`` | `vesicle_ids` is no list, or is empty | error |
| ``segmentation_region``, ``distance_id`` | not the cytosol; not the membrane | error |
| ``boundary_ids`` | vesicles are missing; others are in it | error; warning |
| ``absent`` | an id is listed and not in the labels | error |
| ``unlisted`` | a label is not listed, and is needed; is not needed | error; warning |
| ``tiny`` | a vesicle of 19 voxels or fewer | error |
| ``vesicle_gap``, ``vesicle_outside`` | background at half of a surface; at 2 %; at less | error; warning; note |
| ``membrane_gap`` | background between membrane and cytosol, up to 60 nm: at half; at less | error; warning |
| ``both_sides`` | cytosol on both sides of the membrane | warning |
| ``pieces``, ``not_a_ball`` | perhaps two vesicles with one id | warning |
| ``touching`` | vesicles that share faces of voxels | warning |
| ``on_face`` | vesicles that a face of the volume cuts; other labels on it | warning; note |
| ``contrast`` | dense is bright | error |
| ``too_small`` | labels end inside the membrane's outer edge: by 1.5 voxels; by 0.75 | error; warning |
| ``too_large`` | ... outside it by 0.75 voxels | warning |
| ``sizes_unknown`` | there is no table, and the tomogram shows too few of the membranes | note |
| ``table`` | vesicles.csv is of other labels, or cannot be read | warning |
| ``layers`` | the cytosol does not reach 250 nm from the membrane, and the volume does | note |
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import BadInputError, DeepVesicleError, TableError
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.grid import Grid, Labels, Tomogram
from deepvesicle.handover.balls import ball_of
from deepvesicle.handover.findings import Finding, Severity, sorted_by_severity
from deepvesicle.handover.folder import TomoInfo, WorkFolder, read_tomo_info
from deepvesicle.handover.labelled import (
    TINY_VOXELS,
    Labelled,
    contrast_findings,
    label_findings,
    size_findings,
)
from deepvesicle.handover.layers import layer_findings
from deepvesicle.handover.listed import list_findings, presence_findings, roles_of
from deepvesicle.handover.opened import forget_pages, open_labels, open_together, open_tomogram
from deepvesicle.handover.surfaces import LABELS, Role, as_labels, take_census
from deepvesicle.vesicles import Vesicles

__all__ = ["Finding", "Severity", "check_folder", "check_labels"]


def check_folder(root: str | os.PathLike[str]) -> list[Finding]:
    """Look for everything that keeps Pyto from running on a work folder, or makes its numbers wrong.

    Parameters
    ----------
    root : path
        The work folder; its ``common/tomo_info.py`` names the other files, and is read but never run. Where the folder
        holds a ``vesicles.csv`` with the ids of the labels, radii are compared with it, else with the tomogram.

    Returns
    -------
    list of Finding
        The worst first; empty if all is well.

    Raises
    ------
    BadInputError
        There is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing there"
        raise BadInputError(f"{root} is not a work folder", expected="a folder with common/tomo_info.py", got=got)
    folder = WorkFolder(root)
    if not folder.tomo_info.is_file():
        text = "common/tomo_info.py is missing, from which Pyto's scripts read everything"
        return [Finding("folder", Severity.ERROR, text, "Name a work folder, or make one with deepvesicle pyto")]
    try:
        info = read_tomo_info(folder.tomo_info)
    except DeepVesicleError as error:
        return [Finding("tomo_info", Severity.ERROR, f"{error.what}: {error.got}", "Write it anew")]
    return sorted_by_severity(list(_of_folder(folder, info)))


def check_labels(
    labels: Labels, info: TomoInfo, tomogram: Tomogram | None = None, vesicles: Vesicles | None = None
) -> list[Finding]:
    """As `check_folder`, of what is at hand; files, and what they are called, are not looked at.

    Parameters
    ----------
    labels : Labels
        Integers; may be a memory map, of which only one pass and the boxes of the vesicles are read.
    info : TomoInfo
    tomogram : Tomogram, optional
        On the same grid.
    vesicles : Vesicles, optional
        With the ids of the labels; without, radii are compared with the tomogram.
    """
    return sorted_by_severity([*list_findings(info), *_of_labels(labels.data, labels.grid, info, tomogram, vesicles)])


def _of_folder(folder: WorkFolder, info: TomoInfo) -> Iterator[Finding]:
    yield from list_findings(info)
    tomogram = open_tomogram(info)
    yield from tomogram.findings
    labels = open_labels(info, tomogram)
    yield from labels.findings
    yield from open_together(tomogram, labels)
    if labels.data is None:
        return
    voxel_nm = tomogram.voxel_nm or labels.voxel_nm
    grid = Grid(_three(labels.data), voxel_nm or 1.0)
    same = tomogram.data is not None and tomogram.data.shape == labels.data.shape
    grey = Tomogram(tomogram.data, grid) if same and voxel_nm and tomogram.data is not None else None
    table, problem = _table(folder, grid) if voxel_nm else (None, None)
    if problem is not None:
        yield problem
    yield from _of_labels(labels.data, grid, info, grey, table, has_scale=bool(voxel_nm))


def _three(data: NDArray[Any]) -> tuple[int, int, int]:
    nz, ny, nx = (int(n) for n in data.shape)
    return nz, ny, nx


def _table(folder: WorkFolder, grid: Grid) -> tuple[Vesicles | None, Finding | None]:
    """The accepted vesicles of the folder's table, if it has one."""
    if not folder.table.is_file():
        return None, None
    try:
        table = read_vesicles_csv(folder.table, grid)
    except TableError as error:
        remedy = "Remove the table, or make it anew"
        return None, Finding("table", Severity.WARNING, f"vesicles.csv cannot be used: {error.what}", remedy)
    return table.select(table.accepted), None


def _of_labels(
    data: NDArray[Any],
    grid: Grid,
    info: TomoInfo,
    tomogram: Tomogram | None,
    table: Vesicles | None,
    *,
    has_scale: bool = True,
) -> Iterator[Finding]:
    """What the voxels say."""
    data = as_labels(data)
    present = () if info.all_ids is not None else take_census(data, np.zeros(LABELS, dtype=np.uint8)).present
    roles = roles_of(info, present)
    census = take_census(data, roles)
    yield from presence_findings(info, census)
    vesicles = [number for number in census.present if roles[number] == Role.VESICLE]
    whole = [number for number in vesicles if census.voxels[number] > TINY_VOXELS]
    labelled = Labelled(data, grid, info, roles, census, [ball_of(data, census, roles, number) for number in whole])
    yield from label_findings(labelled)
    if has_scale:
        yield from layer_findings(labelled)
    forget_pages(data)
    inverted = []
    if tomogram is not None:
        inverted = list(contrast_findings(tomogram, labelled.balls))
        forget_pages(tomogram.data)
        yield from inverted
        if inverted:
            tomogram = Tomogram(tomogram.data, tomogram.grid, invert=not tomogram.invert)
    yield from size_findings(labelled, tomogram, table)
