"""What other programs read: the places and radii are those of the table, in the units that each format has."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle.errors import BadInputError, OutputExistsError, UsageError
from deepvesicle.files.exports import NM_COLUMNS, check_star, write_nm_csv, write_picks_json, write_star
from deepvesicle.grid import Grid
from deepvesicle.marks import DELETED
from deepvesicle.vesicles import Status, Vesicles

#: An origin that must not leak into any of the formats: they all count from the first voxel.
GRID = Grid((40, 50, 60), 1.5, (100.0, 200.0, -300.0))
VESICLES = Vesicles(
    GRID,
    [7, 3],
    [[0.0, 10.25, 20.5], [30.123456789, 4.0, 59.0]],
    [8.5, 12.25],
    membrane_radii_vox=[6.5, np.nan],
    scores=[0.75, np.nan],
    status=(Status.REFINED, Status.MANUAL),
)
WRITERS = [write_nm_csv, write_picks_json, pytest.param(write_star, id="write_star")]


def without_starfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "starfile", None)


class _FakeStar:
    """Stands in for the package where it is not installed: keeps what it is to write."""

    def __init__(self) -> None:
        self.blocks: dict[str, Any] = {}

    def write(self, blocks: dict[str, Any], path: Path) -> None:
        self.blocks = blocks
        path.write_text("a STAR file")


@pytest.fixture()
def star(monkeypatch: pytest.MonkeyPatch) -> _FakeStar:
    fake = _FakeStar()
    monkeypatch.setitem(sys.modules, "starfile", fake)  # type: ignore[arg-type]
    return fake


def check_blocks(blocks: dict[str, Any]) -> None:
    optics, particles = blocks["optics"], blocks["particles"]
    assert list(blocks) == ["optics", "particles"]
    assert optics["rlnImagePixelSize"].tolist() == [15.0]  # angstrom
    assert optics["rlnOpticsGroup"].tolist() == [1] and set(particles["rlnOpticsGroup"]) == {1}
    assert particles["rlnTomoName"].tolist() == ["TS_01", "TS_01"]
    # voxels from 0 at the centre of the first, x before y before z
    assert particles["rlnCoordinateX"].tolist() == pytest.approx([20.5, 59.0], abs=1e-6)
    assert particles["rlnCoordinateY"].tolist() == pytest.approx([10.25, 4.0], abs=1e-6)
    assert particles["rlnCoordinateZ"].tolist() == pytest.approx([0.0, 30.123456789], abs=1e-6)
    assert particles["rlnSphereRadius"].tolist() == pytest.approx([8.5, 12.25], abs=1e-6)
    assert particles["deepvesicleId"].tolist() == [7, 3]


def test_star_holds_voxels_from_zero_and_the_pixel_size(star: _FakeStar, tmp_path: Path) -> None:
    write_star(tmp_path / "v.star", VESICLES, "TS_01")
    check_blocks(star.blocks)


def test_the_package_itself_reads_back_what_was_written(tmp_path: Path) -> None:
    starfile = pytest.importorskip("starfile", reason="the extra 'star' is not installed")
    write_star(tmp_path / "v.star", VESICLES, "TS_01")
    check_blocks(starfile.read(tmp_path / "v.star"))
    write_star(tmp_path / "none.star", Vesicles.empty(GRID), "TS_01")
    assert len(starfile.read(tmp_path / "none.star")["particles"]) == 0


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_starfile(monkeypatch)
    for attempt in (check_star, lambda: write_star(tmp_path / "v.star", VESICLES, "TS_01")):
        with pytest.raises(UsageError, match=r"pip install 'deepvesicle\[star\]'"):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "TS 01", "TS\t01", "'TS'", 'a"b', "#1"])
def test_names_that_relion_cannot_read_are_refused(star: _FakeStar, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        write_star(tmp_path / "v.star", VESICLES, name)
    assert not list(tmp_path.iterdir())


def test_csv_is_in_nm_throughout(tmp_path: Path) -> None:
    write_nm_csv(tmp_path / "v.csv", VESICLES, 'TS, "1"')
    with open(tmp_path / "v.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == NM_COLUMNS
    assert [row["tomogram"] for row in rows] == ['TS, "1"'] * 2
    assert [row["id"] for row in rows] == ["7", "3"]
    places = np.array([[float(row[f"{axis}_nm"]) for axis in "zyx"] for row in rows])
    np.testing.assert_array_equal(places, VESICLES.centres_vox * 1.5)  # without any rounding
    assert [float(row["radius_nm"]) for row in rows] == [12.75, 18.375]
    assert [row["membrane_radius_nm"] for row in rows] == ["9.75", ""]
    assert [row["status"] for row in rows] == ["refined", "manual"]


def test_picks_are_in_angstrom_and_of_the_form_that_copick_reads(tmp_path: Path) -> None:
    write_picks_json(tmp_path / "v.json", VESICLES, "TS_01")
    content = json.loads((tmp_path / "v.json").read_text())
    points = content.pop("points")
    assert content == {
        "pickable_object_name": "vesicle",
        "user_id": "deepvesicle",
        "session_id": "0",
        "run_name": "TS_01",
        "voxel_spacing": 15.0,
        "unit": "angstrom",
        "trust_orientation": False,
    }
    places = np.array([[point["location"][axis] for axis in "zyx"] for point in points])
    np.testing.assert_allclose(places, VESICLES.centres_vox * 15, rtol=1e-14)
    assert [point["radius"] for point in points] == pytest.approx([127.5, 183.75])
    assert [point["instance_id"] for point in points] == [7, 3]
    assert [point["score"] for point in points] == [0.75, 1.0]
    assert all(np.array_equal(point["transformation_"], np.eye(4)) for point in points)


@pytest.mark.parametrize("writer", WRITERS)
def test_files_are_replaced_only_when_told_to(star: _FakeStar, tmp_path: Path, writer: Any) -> None:
    path = tmp_path / "there.star"
    path.write_text("precious")
    with pytest.raises(OutputExistsError):
        writer(path, VESICLES, "TS_01")
    assert path.read_text() == "precious"
    writer(path, VESICLES, "TS_01", overwrite=True)
    assert path.read_text() != "precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "change",
    [
        {"radii_vox": [8.5, 0.0]},
        {"radii_vox": [8.5, np.nan]},
        {"centres_vox": [[0.0, 0, 0], [0, np.inf, 0]]},
        {"features": {DELETED: [0.0, 1.0]}},
    ],
)
def test_what_is_no_sphere_is_refused_by_its_id(
    star: _FakeStar, tmp_path: Path, writer: Any, change: dict[str, Any]
) -> None:
    with pytest.raises(BadInputError, match="vesicle 3 cannot be written"):
        writer(tmp_path / "v.out", VESICLES.replace(**change), "TS_01")
    assert not list(tmp_path.iterdir())
