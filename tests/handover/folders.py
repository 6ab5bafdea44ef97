"""A work folder in which all is well, small and quick, for tests that spoil it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import write_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid, Labels
from deepvesicle.handover.check import check_folder
from deepvesicle.handover.findings import Finding, Severity
from deepvesicle.handover.folder import TomoInfo, WorkFolder, write_tomo_info
from deepvesicle.handover.ids import LabelIds
from deepvesicle.vesicles import Status, Vesicles
from tests.fitting.membrane_shells import HALF_THICKNESS_NM, scattered, shell_tomogram

GRID = Grid((54, 76, 130), 2.2, (10.0, -20.0, 30.0))
#: d' of the membranes: what tomograms of synaptosomes have.
CONTRAST = 0.6
#: Where the membrane of the active zone lies along x; the cytosol follows.
MEMBRANE = slice(2, 5)
#: The variables that are lists.
LISTS = ("all_ids", "vesicle_ids", "boundary_ids")


@lru_cache(maxsize=1)
def truth() -> Vesicles:
    """Vesicles with the ids of their labels, none of which touch."""
    rng = np.random.default_rng(77)
    room = (GRID.shape_zyx[0] - 6, GRID.shape_zyx[1] - 6, GRID.shape_zyx[2] - 12)
    centres, middles = scattered(rng, room, GRID.voxel_nm, (16.0, 22.0), 16, gap_nm=6.0)
    radii = middles + HALF_THICKNESS_NM / GRID.voxel_nm
    ids = np.arange(10, 10 + len(radii))
    return Vesicles(GRID, ids, centres + [3, 3, 8], radii, middles, status=(Status.MANUAL,) * len(radii))


@lru_cache(maxsize=1)
def grey() -> NDArray[np.float32]:
    """What a microscope shows of them."""
    rng = np.random.default_rng(78)
    middles = truth().membrane_radii_vox
    tomogram = shell_tomogram(rng, GRID.shape_zyx, GRID.voxel_nm, truth().centres_vox, middles, contrast=CONTRAST)
    return np.asarray(tomogram.data, dtype=np.float32)


def surroundings() -> NDArray[np.uint16]:
    """Cytosol and membrane, none of them on a face of the volume."""
    data = np.zeros(GRID.shape_zyx, dtype=np.uint16)
    data[1:-1, 1:-1, MEMBRANE.stop : -1] = 1
    data[1:-1, 1:-1, MEMBRANE] = 2
    return data


def labels_of(vesicles: Vesicles) -> NDArray[np.uint16]:
    """The whole label volume."""
    data, balls = surroundings(), rasterize(vesicles).data
    data[balls > 0] = balls[balls > 0]
    return data


@lru_cache(maxsize=1)
def _good_labels() -> NDArray[np.uint16]:
    return labels_of(truth())


@dataclass
class Made:
    """A work folder in the making: change what is to be wrong, then `findings`."""

    root: Path
    labels: NDArray[Any]
    info: TomoInfo
    grey: NDArray[Any]
    grid: Grid = GRID
    table: Vesicles | None = None
    text: str = ""

    @property
    def folder(self) -> WorkFolder:
        return WorkFolder(self.root)

    def change(self, **values: Any) -> None:
        """Other variables in the parameter file."""
        self.info = replace(self.info, **values)

    def write(self) -> WorkFolder:
        folder = self.folder
        for place in (folder.tomogram, folder.tomo_info):
            place.parent.mkdir(parents=True)
        write_tomo_info(folder.tomo_info, self.info)
        if self.text:  # assigned last
            folder.tomo_info.write_text(folder.tomo_info.read_text() + self.text + "\n")
        write_tomogram(folder.tomogram, self.grey, self.grid)
        write_labels(folder.labels, Labels(self.labels, Grid(self.labels.shape, GRID.voxel_nm)))
        if self.table is not None:
            write_vesicles_csv(folder.table, self.table)
        return folder

    def findings(self) -> list[Finding]:
        return check_folder(self.write().root)


def good(root: Path) -> Made:
    """All is well here."""
    folder = WorkFolder(root)
    ids = [int(number) for number in truth().ids]
    info = TomoInfo.of(folder.tomogram, folder.labels, LabelIds(), ids)
    return Made(root, _good_labels().copy(), info, grey(), table=truth())


def summary(findings: list[Finding]) -> list[tuple[str, Severity, tuple[int, ...]]]:
    """What is compared in tests."""
    return [(finding.kind, finding.severity, tuple(finding.ids)) for finding in findings]


def only(findings: list[Finding]) -> Finding:
    """The one that there is."""
    (finding,) = findings
    return finding


def shell_of(mask: NDArray[np.bool_], thickness: int = 1) -> NDArray[np.bool_]:
    """Voxels just outside a mask."""
    return binary_dilation(mask, iterations=thickness) & ~mask


def rewrite(path: Path, data: NDArray[Any], grid: Grid = GRID) -> None:
    """Other voxels in a file."""
    write_tomogram(path, data, grid, overwrite=True)
