"""The overview picture: it is looked at for circles of the right place, size and colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepvesicle.errors import OutputExistsError
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.report.overview import LINES, chosen_planes, write_overview
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((37, 90, 120), 2.3)


def pixels(path: Path) -> np.ndarray:
    """Read a PNG as 8-bit RGB."""
    from matplotlib.image import imread

    return np.rint(imread(path)[..., :3] * 255).astype(int)


def coloured(image: np.ndarray, status: Status) -> int:
    """Number of pixels near the colour of a status."""
    wanted = np.array([int(LINES[status][0][i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(axis=2) < 12).sum())


def test_circles_are_drawn_in_the_colours_of_their_status(tmp_path: Path, rng: np.random.Generator) -> None:
    tomogram = Tomogram(rng.normal(size=GRID.shape_zyx).astype(np.float32), GRID)
    vesicles = Vesicles.from_spheres(GRID, [[18, 40, 30], [18, 50, 90]], [12, 14], status=["refined", "doubtful"])
    write_overview(tmp_path / "a.png", tomogram, vesicles)
    image = pixels(tmp_path / "a.png")
    assert 1200 <= image.shape[1] <= 2000
    assert coloured(image, Status.REFINED) > 1000 and coloured(image, Status.DOUBTFUL) > 500
    assert coloured(image, Status.REJECTED) == 0
    both = vesicles.with_status([True, False], Status.REJECTED, "no membrane")
    write_overview(tmp_path / "b.png", tomogram, both)
    assert coloured(pixels(tmp_path / "b.png"), Status.REFINED) == 0
    assert coloured(pixels(tmp_path / "b.png"), Status.REJECTED) > 200


def test_planes_lie_where_the_vesicles_are(rng: np.random.Generator) -> None:
    centres = np.column_stack([rng.uniform(20, 34, 40), rng.uniform(60, 80, 40), rng.uniform(0, 119, 40)])
    planes, row = chosen_planes(GRID, centres, np.full(40, 6.0))
    assert len(planes) == 5 and planes == sorted(planes)
    assert min(planes) >= 19 and max(planes) <= 35 and 60 <= row <= 80
    flat, row = chosen_planes(Grid((2, 8, 9), 2.0), np.zeros((0, 3)), np.zeros(0))
    assert flat == [0, 1] and 3 <= row <= 4


def test_thin_empty_and_inverted_tomograms(tmp_path: Path) -> None:
    thin = Grid((1, 40, 64), 1.9)
    write_overview(tmp_path / "thin.png", Tomogram(np.zeros(thin.shape_zyx), thin, invert=True), Vesicles.empty(thin))
    assert pixels(tmp_path / "thin.png").shape[1] > 1000


def test_a_file_that_exists_is_kept_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"mine")
    tomogram = Tomogram(np.zeros(GRID.shape_zyx), GRID)
    with pytest.raises(OutputExistsError):
        write_overview(path, tomogram, Vesicles.empty(GRID))
    assert path.read_bytes() == b"mine"
    write_overview(path, tomogram, Vesicles.empty(GRID), overwrite=True)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
