"""The work folder as a whole: what is in it is what was handed over, and it is there in full or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle.annotations import annotation_of_labels
from deepvesicle.errors import BadInputError, OutputExistsError, UsageError
from deepvesicle.files.imod import read_vesicles_model
from deepvesicle.files.region import LabelRegion
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_header, read_labels, read_tomogram, write_tomogram
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.handover import handing
from deepvesicle.handover.check import check_folder
from deepvesicle.handover.crop import box_round, grid_of_box, moved_into
from deepvesicle.handover.findings import Severity
from deepvesicle.handover.folder import WorkFolder, read_tomo_info
from deepvesicle.handover.handing import OUTSIDE_CUT, HandedOver, Wishes, hand_over, own_files
from deepvesicle.handover.ids import LabelIds
from deepvesicle.handover.regions import cytosol_region, membrane_region
from deepvesicle.vesicles import Status, Vesicles
from tests.handover.scene import DRAWN, GRID, LEFT_OUT, SPHERES, ZONE_X, table, write_scene


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_scene(tmp_path_factory.mktemp("scene"), np.random.default_rng(3))


def make(
    files: dict[str, Path], root: Path, wishes: Wishes | None = None, vesicles: Vesicles | None = None, **options: Any
) -> HandedOver:
    """Hand over the scene; `read` are options of reading the tomogram."""
    tomogram = read_tomogram(options.pop("path", files["tomogram"]), **options.pop("read", {}))
    cytosol = cytosol_region(files["drawn"], GRID, part="cell")
    membrane = membrane_region(files["drawn"], GRID, part="az", thickness_nm=6.0)
    return hand_over(
        tomogram, table() if vesicles is None else vesicles, cytosol, membrane, root, wishes, inputs=files, **options
    )


@pytest.fixture(scope="module")
def made(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> HandedOver:
    return make(files, tmp_path_factory.mktemp("made") / "work")


def errors(root: Path) -> list[str]:
    return [str(finding) for finding in check_folder(root) if finding.severity is Severity.ERROR]


def test_one_id_for_each_vesicle_everywhere(made: HandedOver) -> None:
    folder = made.folder
    ids = [number + 9 for number in DRAWN]
    labels = read_labels(folder.labels)
    assert sorted(set(np.unique(labels.data).tolist()) - {0}) == [1, 2, *ids]
    rows = read_vesicles_csv(folder.table, labels.grid)
    spheres = read_vesicles_model(folder.model, labels.grid)
    info = read_tomo_info(folder.tomo_info)
    assert rows.ids.tolist() == ids == sorted(spheres.ids.tolist()) == list(info.vesicle_ids or ())
    assert rows.features["source_id"].tolist() == DRAWN
    np.testing.assert_allclose(rows.centres_vox, SPHERES[: len(DRAWN), :3])
    np.testing.assert_allclose(rows.radii_vox, SPHERES[: len(DRAWN), 3])
    for number, (z, y, x) in zip(ids, np.rint(SPHERES[:, :3]).astype(int), strict=False):
        assert labels.data[z, y, x] == number
    assert made.left_out == {8: "cut by the face of the volume", 9: "outside the outline"}
    assert rows.status[4] is Status.DOUBTFUL


def test_the_check_is_content_and_gave_its_word_before(made: HandedOver) -> None:
    assert errors(made.folder.root) == []
    assert not [finding for finding in made.findings if finding.severity is Severity.ERROR]


def test_the_tomogram_is_a_relative_link(made: HandedOver, files: dict[str, Path]) -> None:
    link = made.folder.tomogram
    assert link.is_symlink() and not os.path.isabs(os.readlink(link)) and link.samefile(files["tomogram"])


def test_grids_agree_to_the_origin(made: HandedOver) -> None:
    grid = read_header(made.folder.labels).grid()
    assert grid.shape_zyx == GRID.shape_zyx
    np.testing.assert_allclose(grid.origin_nm, GRID.origin_nm, atol=1e-5)
    assert grid.voxel_nm == pytest.approx(GRID.voxel_nm)


def test_a_record_and_a_page_for_people(made: HandedOver, files: dict[str, Path]) -> None:
    record = json.loads(made.folder.record.read_text())
    assert record["counts"] == {"vesicles": len(DRAWN), "left_out": len(LEFT_OUT)}
    assert record["settings"]["source_grid"]["shape_zyx"] == list(GRID.shape_zyx)
    assert set(record["inputs"]) == set(files) and all(
        len(entry["sha256"]) == 64 for entry in record["inputs"].values()
    )
    text = " ".join(made.folder.readme.read_text().split())
    for words in (
        "10 to 16: 7 vesicles",
        "cut by the face of the volume: 8",
        "outside the outline: 9",
        "262 to 400 voxels here (2100 to 3200 nm^3)",
        "membrane_thick = 2",
        "at least 125 of them",
        str(files["drawn"]),
    ):
        assert words in text, words


def test_folders_for_the_scripts(made: HandedOver) -> None:
    assert all(task.is_dir() for task in made.folder.tasks)
    assert not [path for path in made.folder.root.parent.iterdir() if path.name.startswith(".")]


def test_the_table_of_the_folder_hands_over_again_with_its_ids(
    made: HandedOver, files: dict[str, Path], tmp_path: Path
) -> None:
    rows = read_vesicles_csv(made.folder.table, GRID)
    again = make(files, tmp_path / "again", vesicles=rows)
    assert again.drawn.ids.tolist() == rows.ids.tolist() == again.drawn.features["source_id"].tolist()
    before, after = (np.asarray(read_labels(done.folder.labels).data) for done in (made, again))
    np.testing.assert_array_equal(before * (before >= 10), after * (after >= 10))


def test_a_round_of_corrections_renumbers_nobody(made: HandedOver, files: dict[str, Path], tmp_path: Path) -> None:
    rejected = table().with_status(table().ids == 1, Status.REJECTED, "looked at")
    fewer = make(files, tmp_path / "fewer", vesicles=rejected)
    assert fewer.drawn.ids.tolist() == [number + 9 for number in DRAWN[1:]]


def test_ids_of_ones_own_choice_and_signed_labels(files: dict[str, Path], tmp_path: Path) -> None:
    wishes = Wishes(ids=LabelIds(cytosol=3, membrane=7, first_vesicle=300), signed=True)
    done = make(files, tmp_path / "work", wishes)
    header = read_header(done.folder.labels)
    assert header.dtype == np.dtype("<i2")
    assert sorted(np.unique(read_labels(done.folder.labels).data).tolist()) == [0, 3, 7, *range(300, 307)]
    info = read_tomo_info(done.folder.tomo_info)
    assert (info.segmentation_region, info.distance_id) == (3, 7) and errors(done.folder.root) == []


def test_cut_round_the_active_zone_everything_stays_in_its_place(files: dict[str, Path], tmp_path: Path) -> None:
    done = make(files, tmp_path / "work", Wishes(crop_nm=120.0))
    grid = read_header(done.folder.labels).grid()
    full = read_tomogram(files["tomogram"])
    own = read_tomogram(done.folder.tomogram)
    z, y, x = done.start_zyx
    assert (z, y) == (0, 0) and x == 0 and grid.shape_zyx[2] == pytest.approx(ZONE_X + 2 + 60, abs=1.5)
    assert own.grid.shape_zyx == grid.shape_zyx == done.grid.shape_zyx
    np.testing.assert_allclose(own.grid.origin_nm, np.add(GRID.origin_nm, np.multiply(done.start_zyx, 2.0)), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(own.data), np.asarray(full.data)[:, :, : grid.shape_zyx[2]])
    rows = read_vesicles_csv(done.folder.table, grid)
    wanted = dict(zip(DRAWN, SPHERES[:, :3] - done.start_zyx, strict=False))
    for source, centre in zip(rows.features["source_id"].astype(int).tolist(), rows.centres_vox, strict=True):
        np.testing.assert_allclose(centre, wanted[source])
    assert {source for source, why in done.left_out.items() if why == OUTSIDE_CUT} == {6, 7, 8, 9}
    assert not done.folder.tomogram.is_symlink()
    assert "of the tomogram that was given" in done.folder.readme.read_text()
    assert errors(done.folder.root) == []


def test_the_box_reaches_the_margin_on_all_sides_and_not_beyond_the_volume() -> None:
    class Cube:
        def to_mask(self, grid: Grid) -> Any:
            start = np.rint(GRID.to_vox(grid.origin_nm)[0]).astype(int)
            mask = np.zeros(GRID.shape_zyx, dtype=bool)
            mask[20:23, 40:45, 3:9] = True
            parts = tuple(slice(a, a + n) for a, n in zip(start, grid.shape_zyx, strict=True))
            return mask[parts]

    box = box_round(Cube(), GRID, 21.0)  # 10.5 voxels, so 11
    assert box == (slice(9, 34), slice(29, 56), slice(0, 20))
    part = grid_of_box(GRID, box)
    np.testing.assert_allclose(part.origin_nm, np.add(GRID.origin_nm, [18.0, 58.0, 0.0]))
    moved = moved_into(table(), part)
    np.testing.assert_allclose(
        GRID.map_points(table().select(np.isin(table().ids, moved.ids)).centres_vox, part), moved.centres_vox, atol=1e-9
    )


def stored(path: Path, data: np.ndarray, grid: Grid = GRID) -> Path:
    write_tomogram(path, data, grid)
    return path


def levels(files: dict[str, Path]) -> np.ndarray:
    """The scene in whole numbers within a byte."""
    return np.clip(np.rint(np.asarray(read_tomogram(files["tomogram"]).data)), -120, 120)


@pytest.mark.parametrize(
    "name, dtype, read, expected, mode",
    [
        ("a.mrc", np.int8, {}, 1, "<i2"),
        ("a.mrc", np.float16, {}, 1, "<f4"),
        ("a.mrc.gz", np.int16, {}, 1, "<i2"),
        ("a.mrc", np.int16, {"invert": True}, -1, "<i2"),
        ("a.mrc", np.float32, {"invert": True}, -1, "<f4"),
        ("a.mrc", np.float32, {"voxel_nm": 2.0}, 1, "<f4"),
    ],
)
def test_what_pyto_cannot_read_is_written_anew(
    files: dict[str, Path],
    tmp_path: Path,
    name: str,
    dtype: type,
    read: dict[str, Any],
    expected: int,
    mode: str,
) -> None:
    values = levels(files)
    grid = replace(GRID, voxel_nm=4.0) if "voxel_nm" in read else GRID
    path = stored(tmp_path / name, (values * expected).astype(dtype), grid)
    wishes = Wishes(other_voxel_size="voxel_nm" in read)
    done = make(files, tmp_path / "work", wishes, path=path, read=read)
    header = read_header(done.folder.tomogram)
    assert not done.folder.tomogram.is_symlink() and header.dtype == np.dtype(mode)
    assert header.grid().voxel_nm == pytest.approx(2.0)
    np.testing.assert_array_equal(np.asarray(read_tomogram(done.folder.tomogram).data), values)
    assert done.notes[0].startswith("the tomogram was written anew") and errors(done.folder.root) == []


def test_unsigned_numbers_are_turned_within_their_range(files: dict[str, Path], tmp_path: Path) -> None:
    values = (levels(files) + 200).astype(np.uint16)
    path = stored(tmp_path / "a.mrc", np.iinfo(np.uint16).max - values)
    done = make(files, tmp_path / "work", path=path, read={"invert": True})
    written = read_tomogram(done.folder.tomogram)
    assert written.data.dtype == np.uint16
    np.testing.assert_array_equal(np.asarray(written.data), values)
    mean = float(np.asarray(written.data).mean())
    header = np.fromfile(done.folder.tomogram, dtype="<f4", count=256)
    assert header[21] == pytest.approx(mean, rel=1e-5) and header[19:21].tolist() == [values.min(), values.max()]


def test_a_copy_where_one_is_wanted(files: dict[str, Path], tmp_path: Path) -> None:
    done = make(files, tmp_path / "work", Wishes(copied=True))
    assert not done.folder.tomogram.is_symlink()
    assert done.folder.tomogram.read_bytes() == files["tomogram"].read_bytes()


def test_a_copy_where_there_are_no_links(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refused)
    done = make(files, tmp_path / "work")
    assert done.folder.tomogram.read_bytes() == files["tomogram"].read_bytes()


def test_again_replaces_our_files_and_nothing_of_the_user(files: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "work"
    make(files, root)
    mine = {"connectors/connectors.py": "script", "connectors/tomo.dat": "results", "notes.txt": "notes"}
    mine["tomo_vesicles_pyto.csv"] = "joined"
    for name, text in mine.items():
        (root / name).write_text(text)
    with pytest.raises(OutputExistsError, match=r"3d/tomo\.mrc.*nothing else"):
        make(files, root)
    fewer = table().select(table().ids != 3)
    done = make(files, root, vesicles=fewer, overwrite=True)
    assert {name: (root / name).read_text() for name in mine} == mine
    assert 12 not in np.unique(read_labels(done.folder.labels).data)
    assert any("results in connectors are those of the labels before" in note for note in done.notes)
    assert any("tomo_vesicles_pyto.csv are those of the labels before" in note for note in done.notes)
    assert done.folder.tomogram.samefile(files["tomogram"]) and errors(root) == []


def test_a_tomogram_that_lies_in_the_folder_stays(files: dict[str, Path], tmp_path: Path) -> None:
    own = WorkFolder(tmp_path / "work").tomogram
    own.parent.mkdir(parents=True)
    own.write_bytes(files["tomogram"].read_bytes())
    done = make(files, tmp_path / "work", path=own)
    assert not own.is_symlink() and own.read_bytes() == files["tomogram"].read_bytes()
    assert errors(done.folder.root) == []
    with pytest.raises(UsageError, match="would be replaced"):
        make(files, tmp_path / "work", Wishes(crop_nm=100.0), path=own, overwrite=True)
    assert own.read_bytes() == files["tomogram"].read_bytes()


def test_what_is_read_is_never_replaced(files: dict[str, Path], tmp_path: Path) -> None:
    done = make(files, tmp_path / "work")
    before = done.folder.table.read_text()
    with pytest.raises(UsageError, match="would be replaced"):
        make({**files, "table": done.folder.table}, tmp_path / "work", overwrite=True)
    assert done.folder.table.read_text() == before


def folder_state(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_pyto_cannot_work_on_is_not_written(files: dict[str, Path], tmp_path: Path) -> None:
    """Bright membranes: the program would find nothing, and say nothing."""
    path = stored(tmp_path / "bright.mrc", -np.asarray(read_tomogram(files["tomogram"]).data))
    with pytest.raises(BadInputError, match=r"was not written.*\(1\).*contrast"):
        make(files, tmp_path / "work", path=path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bright.mrc"]
    make(files, tmp_path / "work")
    before = folder_state(tmp_path / "work")
    with pytest.raises(BadInputError, match="was not written"):
        make(files, tmp_path / "work", path=path, overwrite=True)
    assert folder_state(tmp_path / "work") == before


@pytest.mark.parametrize("step", ["check_folder", "write_vesicles_csv", "readme_text", "paint_labels"])
def test_nothing_is_left_where_it_fails(
    files: dict[str, Path], tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(handing, step, fails)
    with pytest.raises(KeyboardInterrupt):
        make(files, tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


def test_no_vesicle_is_an_error_that_says_why(files: dict[str, Path], tmp_path: Path) -> None:
    for rows, message in ((np.isin(table().ids, LEFT_OUT), "1 cut by"), (table().ids == 10, "none that counts")):
        with pytest.raises(BadInputError, match=message):
            make(files, tmp_path / "work", vesicles=table().select(rows))
    assert list(tmp_path.iterdir()) == []


def test_the_last_file_is_the_one_that_names_the_others() -> None:
    assert own_files(Path("w"))[0] == "3d/tomo.mrc" and own_files(Path("w"))[-1] == "common/tomo_info.py"


def test_real_labels_taken_apart_and_put_together(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """The ids survive, the check finds no fault, and the vesicles are those that were measured."""
    published = read_labels(shared_data("pyto_presynaptic/labels.mrc.gz"))
    ids = (36, 48, 49, 50, 52, 58, 59, 60, 61)
    found = annotation_of_labels(published, published.grid, vesicle_ids=ids, membrane_id=2, cytosol_id=3).vesicles
    rng = np.random.default_rng(5)
    grey = np.where(np.asarray(published.data) == 3, 1850.0, 1400.0) + rng.normal(0, 700, published.grid.shape_zyx)
    path = stored(tmp_path / "tomo.mrc", grey.astype(np.float32), published.grid)
    tomogram: Tomogram = read_tomogram(path)
    done = hand_over(
        tomogram,
        found,
        LabelRegion(published, 3),
        LabelRegion(published, 2),
        tmp_path / "work",
        Wishes(ids=LabelIds(cytosol=3, membrane=2, first_vesicle=10)),
    )
    assert done.drawn.ids.tolist() == sorted(ids) and not done.left_out
    assert errors(done.folder.root) == []
    drawn = read_labels(done.folder.labels)
    for number in ids:
        own, theirs = np.asarray(drawn.data) == number, np.asarray(published.data) == number
        assert 2 * (own & theirs).sum() / (own.sum() + theirs.sum()) > 0.97
