"""From files to the work folder, and what Pyto's way of looking finds in it: what was planted, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, label

from deepvesicle.commands.main import main
from deepvesicle.files.tomogram import read_labels, read_tomogram, write_tomogram
from deepvesicle.handover.folder import WorkFolder, read_tomo_info
from tests.handover.scene import GRID, SPHERES, ZONE_X, grey, write_scene

#: Vesicles (rows of the scene) that are connected, and tethered ones.
CONNECTED, TETHERED = [(2, 3), (2, 4), (0, 2)], [0, 1]
THRESHOLD = 55.0


def contacts(work: Path) -> list[tuple[int, ...]]:
    """The labels that dark pieces of the cytosol touch: pieces connected through faces, at one threshold, that touch
    exactly two; as Pyto does at each of its thresholds (Lucic et al. 2016, J. Struct. Biol. 196, 503-514).
    """
    folder = WorkFolder(work)
    info = read_tomo_info(folder.tomo_info)
    labels, image = np.asarray(read_labels(folder.labels).data), np.asarray(read_tomogram(folder.tomogram).data)
    pieces, _ = label((image < THRESHOLD) & (labels == info.segmentation_region))
    found = []
    for number, box in enumerate(find_objects(pieces), start=1):
        wide = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
        near = binary_dilation(pieces[wide] == number) & (labels[wide] > 0)
        touched = set(np.unique(labels[wide][near]).tolist()) & set(info.boundary_ids or ())
        if len(touched) == 2:
            found.append(tuple(sorted(touched)))
    return sorted(found)


def rod(image: NDArray[np.float32], start: Sequence[float], end: Sequence[float]) -> None:
    """A dark rod of 3 voxels' thickness."""
    for share in np.linspace(0, 1, 200):
        z, y, x = np.rint(np.asarray(start) + share * (np.asarray(end) - start)).astype(int)
        image[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = 35.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scene, nearly without noise, with rods between vesicles, and from vesicles to the membrane."""
    rng = np.random.default_rng(8)
    paths = write_scene(tmp_path_factory.mktemp("planted"), rng)
    image = grey(rng, noise=3.0)
    centres, radii = SPHERES[:, :3], SPHERES[:, 3]
    for a, b in CONNECTED:
        way = (centres[b] - centres[a]) / np.linalg.norm(centres[b] - centres[a])
        rod(image, centres[a] + way * (radii[a] - 2), centres[b] - way * (radii[b] - 2))
    for row in TETHERED:
        z, y, x = centres[row]
        rod(image, (z, y, ZONE_X), (z, y, x - radii[row] + 2))
    write_tomogram(paths["tomogram"], image, GRID, overwrite=True)
    return paths


@pytest.mark.parametrize(
    "vesicles, options",
    [
        ("table", []),
        ("model", []),
        ("table", ["--crop", "160nm"]),
        ("table", ["--int16", "--first-vesicle", "10"]),
        ("table", ["--gap", "1"]),  # two touch: the gap between them is dark, and must not be taken for a rod
        ("table", ["--gap", "3"]),
    ],
)
def test_what_was_planted_is_found(files: dict[str, Path], tmp_path: Path, vesicles: str, options: list[str]) -> None:
    work = tmp_path / "work"
    zone = ["--outline", f"{files['drawn']}:cell", "--active-zone", f"{files['drawn']}:az"]
    assert main(["pyto", str(files["tomogram"]), str(files[vesicles]), *zone, *options, "-o", str(work)]) == 0
    wanted = [tuple(sorted((a + 10, b + 10))) for a, b in CONNECTED] + [(2, row + 10) for row in TETHERED]
    assert contacts(work) == sorted(wanted)
