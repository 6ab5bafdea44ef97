"""Files, types and lists with which Pyto cannot run: each planted in a good work folder, and found."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.errors import BadInputError
from deepvesicle.files.tomogram import read_header, read_voxels
from deepvesicle.grid import Grid
from deepvesicle.handover.check import check_folder
from deepvesicle.handover.findings import Severity
from tests.handover.folders import GRID, LISTS, Made, good, labels_of, only, rewrite, shell_of, summary, truth

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
IDS = tuple(int(number) for number in truth().ids)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return good(tmp_path / "work")


# --- types and shapes of files


def test_float_labels(made: Made) -> None:
    """And what else is wrong is told all the same."""
    made.labels[shell_of(made.labels == IDS[0])] = 0
    made.write()
    rewrite(made.folder.labels, made.labels.astype(np.float32))
    assert summary(check_folder(made.root)) == [("labels_type", ERROR, ()), ("vesicle_gap", ERROR, (IDS[0],))]


def test_half_float_labels(made: Made) -> None:
    made.write()
    rewrite(made.folder.labels, made.labels.astype(np.float16))
    finding = only(check_folder(made.root))
    assert finding.kind == "labels_type" and finding.severity is ERROR and "mode 12" in finding.text


def test_labels_that_are_grey_values(made: Made) -> None:
    made.write()
    rewrite(made.folder.labels, made.grey)
    assert [f.kind for f in check_folder(made.root)] == ["labels_type", "labels_type"]
    rewrite(made.folder.labels, np.where(made.labels == 1, -1, made.labels).astype(np.int16))
    assert "from -1 to" in only(check_folder(made.root)).text


@pytest.mark.parametrize("first, severity", [(100, NOTE), (120, WARNING)])
def test_byte_labels(made: Made, first: int, severity: Severity) -> None:
    """Pyto reads bytes as unsigned, other programs do not."""
    moved = truth().replace(ids=truth().ids - 10 + first)
    ids = tuple(int(i) for i in moved.ids)
    made.labels, made.table = labels_of(moved), moved
    made.change(vesicle_ids=ids, boundary_ids=(2, *ids), all_ids=(1, 2, *ids))
    made.write()
    rewrite(made.folder.labels, made.labels.astype(np.uint8).view(np.int8))
    above = tuple(i for i in ids if i > 127)
    assert summary(check_folder(made.root)) == [("labels_type", severity, above)]


def test_other_byte_order(made: Made) -> None:
    made.write()
    path = made.folder.labels
    header = read_header(path)
    body = np.asarray(read_voxels(header)).astype(">u2").tobytes()
    head = np.frombuffer(path.read_bytes()[:1024], dtype="<i4").astype(">i4").tobytes()
    head = head[:208] + b"MAP \x11\x11\0\0" + head[216:]
    path.write_bytes(head + body)
    assert read_header(path).dtype == np.dtype(">u2")
    assert [f for f in check_folder(made.root) if f.kind != "voxel_size"] == []


def test_compressed_files(made: Made) -> None:
    folder = made.write()
    for path in (folder.labels, folder.tomogram):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    text = folder.tomo_info.read_text().replace(".mrc'", ".mrc.gz'")
    folder.tomo_info.write_text(text)
    assert summary(check_folder(made.root)) == [("tomogram_type", ERROR, ()), ("labels_type", ERROR, ())]


def test_compressed_files_under_other_names(made: Made) -> None:
    folder = made.write()
    for path in (folder.labels, folder.tomogram):
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    assert summary(check_folder(made.root)) == [("tomogram_type", ERROR, ()), ("labels_type", ERROR, ())]


def test_raw_labels(made: Made) -> None:
    folder = made.write()
    raw = folder.labels.with_suffix(".raw")
    made.labels[shell_of(made.labels == IDS[0])] = 0
    raw.write_bytes(made.labels.astype("<u2").tobytes())
    text = folder.tomo_info.read_text().replace("labels.mrc", "labels.raw")
    folder.tomo_info.write_text(text)
    assert summary(check_folder(made.root)) == [("data_type", ERROR, ())]
    folder.tomo_info.write_text(text + "labels_data_type = 'uint16'\n")
    assert summary(check_folder(made.root)) == [("vesicle_gap", ERROR, (IDS[0],))]
    folder.tomo_info.write_text(text + "labels_data_type = 'uint8'\n")
    assert summary(check_folder(made.root)) == [("shape", ERROR, ())]
    folder.tomo_info.write_text(text + "labels_data_type = 'no such type'\n")
    assert summary(check_folder(made.root)) == [("data_type", ERROR, ())]


@pytest.mark.parametrize("name, severity", [("uint16", WARNING), ("uint8", ERROR)])
def test_data_type_that_overrides_the_header(made: Made, name: str, severity: Severity) -> None:
    made.change(labels_data_type=name)
    assert summary(made.findings()) == [("data_type", severity, ())]


def test_labels_of_another_shape(made: Made) -> None:
    made.labels = made.labels[:, 1:-1]
    made.table = None
    found = made.findings()
    assert found[0].kind == "shape" and found[0].severity is ERROR
    assert "130 x 74 x 54" in found[0].text and "130 x 76 x 54" in found[0].text
    assert {f.kind for f in found} <= {"shape", "on_face", "vesicle_outside"}


def test_voxel_sizes_that_differ(made: Made) -> None:
    made.grid = Grid(GRID.shape_zyx, 2.4)
    made.table = None
    assert ("voxel_size", WARNING, ()) in summary(made.findings())


def test_tomograms_that_pyto_misreads(made: Made) -> None:
    folder = made.write()
    small = np.clip(made.grey * 20, -127, 127)
    rewrite(folder.tomogram, small.astype(np.int8))
    assert summary(check_folder(made.root)) == [("tomogram_type", ERROR, ())]
    rewrite(folder.tomogram, np.abs(small).astype(np.int8))
    assert "tomogram_type" not in {f.kind for f in check_folder(made.root)}
    rewrite(folder.tomogram, made.grey.astype(np.float16))
    assert summary(check_folder(made.root)) == [("tomogram_type", ERROR, ())]
    rewrite(folder.tomogram, np.zeros_like(made.grey))
    assert summary(check_folder(made.root)) == [("tomogram_type", ERROR, ())]


def test_tomogram_without_a_voxel_size(made: Made) -> None:
    folder = made.write()
    data = bytearray(folder.tomogram.read_bytes())
    data[40:52] = bytes(12)  # the edges of the cell
    folder.tomogram.write_bytes(bytes(data))
    assert summary(check_folder(made.root)) == [("voxel_size", WARNING, ())]
    whole = folder.labels.read_bytes()
    folder.labels.write_bytes(folder.labels.read_bytes()[:40] + bytes(12) + folder.labels.read_bytes()[52:])
    assert summary(check_folder(made.root)) == [("voxel_size", WARNING, ())]
    rewrite(folder.tomogram, made.grey)
    folder.labels.write_bytes(whole[:40] + bytes(12) + whole[52:])
    assert "label volume has no voxel size" in only(check_folder(made.root)).text


# --- files and folders


def test_missing_files(made: Made, tmp_path: Path) -> None:
    folder = made.write()
    folder.tomogram.rename(tmp_path / "elsewhere.mrc")
    finding = only(check_folder(made.root))
    assert finding.kind == "file_missing" and "image_file_name" in finding.text and str(folder.tomogram) in finding.text
    folder.tomogram.symlink_to("nowhere.mrc")
    assert "a link that leads nowhere" in only(check_folder(made.root)).text
    folder.tomogram.unlink()
    folder.tomogram.symlink_to("../../elsewhere.mrc")
    assert check_folder(made.root) == []
    folder.labels.unlink()
    assert summary(check_folder(made.root)) == [("file_missing", ERROR, ())]
    folder.tomo_info.unlink()
    assert summary(check_folder(made.root)) == [("folder", ERROR, ())]
    with pytest.raises(BadInputError, match="not a work folder"):
        check_folder(made.root / "no")


def test_files_that_are_no_volumes(made: Made) -> None:
    folder = made.write()
    folder.labels.write_bytes(b"II*\0" + bytes(2000))
    assert summary(check_folder(made.root)) == [("labels_type", ERROR, ())]
    folder.tomogram.write_text("nothing")
    assert {f.kind for f in check_folder(made.root)} == {"labels_type", "tomogram_type"}
    folder.tomo_info.write_text("print 'old'")
    assert summary(check_folder(made.root)) == [("tomo_info", ERROR, ())]


def test_seen_from_another_folder(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.labels[made.labels == IDS[0]] = 0
    made.write()
    monkeypatch.chdir(made.root.parent)
    assert summary(check_folder("work")) == [("absent", ERROR, (IDS[0],))]
    monkeypatch.chdir(made.root)
    assert summary(check_folder(".")) == [("absent", ERROR, (IDS[0],))]


# --- lists

ALL = str([1, 2, *IDS])


@pytest.mark.parametrize(
    "line, expected",
    [
        (f"vesicle_ids = range({IDS[0]}, {IDS[-1] + 1})", [("vesicle_ids_form", ERROR, ())]),
        (f"vesicle_ids = {IDS}", [("vesicle_ids_form", ERROR, ())]),
        (f"import numpy\nvesicle_ids = numpy.arange({IDS[0]}, {IDS[-1] + 1})", [("vesicle_ids_form", ERROR, ())]),
        ("distance_id = None", [("distance_id", ERROR, ())]),
        (f"distance_id = {IDS[0]}", [("distance_id", ERROR, (IDS[0],)), ("boundary_ids", WARNING, (2,))]),
        ("boundary_ids = boundary_ids[1:]", [("distance_id", ERROR, (2,))]),
        ("boundary_ids = boundary_ids[:-2]", [("boundary_ids", ERROR, IDS[-2:])]),
        ("segmentation_region = 5", [("absent", ERROR, (5,))]),
        (f"segmentation_region = {IDS[1]}", [("segmentation_region", ERROR, (IDS[1],))]),
        ("segmentation_region = 2", [("segmentation_region", ERROR, (2,))]),
        *((f"segmentation_region = {value}", [("tomo_info", ERROR, ())]) for value in ("None", "'1'", "[1]")),
        ("del segmentation_region", [("tomo_info", WARNING, ())]),
        ("segmentation_region = 0", [("segmentation_region", ERROR, (0,))]),
        ("all_ids = [0] + all_ids", [("zero_listed", WARNING, (0,))]),
        ("all_ids = all_ids + all_ids[:3]", [("duplicates", WARNING, (1, 2, IDS[0]))]),
        ("vesicle_ids = vesicle_ids + vesicle_ids[-1:]", [("duplicates", WARNING, IDS[-1:])]),
        ("all_ids.remove(1)", [("unlisted", ERROR, (1,))]),
        (f"all_ids.remove({IDS[4]})", [("unlisted", ERROR, (IDS[4],))]),
        ("all_ids = all_ids + [200, 201]", [("absent", ERROR, (200, 201))]),
        ("from elsewhere import find\nall_ids = find()", [("tomo_info", WARNING, ())]),
        ("boundary_ids = [2] + below\nbelow = vesicle_ids", [("tomo_info", ERROR, ())]),
        ("all_ids = [1, 2] + range(10, 20)", [("tomo_info", ERROR, ())]),
        ("vesicle_ids = []", [("no_vesicles", ERROR, ())]),
        ("boundary_ids = [[2], vesicle_ids]", []),
    ],
)
def test_lists(made: Made, line: str, expected: list[tuple[str, Severity, tuple[int, ...]]]) -> None:
    made.text = line
    found = summary(made.findings())
    for one in expected:
        assert one in found
    if not expected:
        assert found == []
    if "segmentation_region" in line:  # the gaps are not to blame
        assert [(kind, severity) for kind, severity, _ in found if severity is not NOTE] == [
            (kind, severity) for kind, severity, _ in expected
        ]
    # what follows from it is told too, but nothing worse than it
    errors = {kind for kind, severity, _ in found if severity is ERROR}
    if expected and expected[0][1] is WARNING:
        assert not errors


def test_ids_that_are_not_listed(made: Made) -> None:
    """Pyto takes them for background: their neighbours and the cytosol are not to blame."""
    gone = IDS[2]
    made.change(**{name: tuple(i for i in getattr(made.info, name) if i != gone) for name in LISTS})
    finding = only(made.findings())
    assert summary([finding]) == [("unlisted", WARNING, (gone,))]
    np.testing.assert_allclose(finding.places, [truth().centres_vox[2]], atol=0.6)


def test_another_listed_label_and_another_boundary(made: Made) -> None:
    """A mitochondrion, say: listed it is nothing; as a boundary it is worth a word."""
    corner = made.labels[5:12, 5:12, -14:-4]
    assert (corner == 1).all()
    corner[...] = 7
    made.change(all_ids=(*made.info.all_ids, 7))
    assert made.findings() == []
    again = good(made.root.with_name("again"))
    again.labels = made.labels
    again.change(all_ids=made.info.all_ids, boundary_ids=(*again.info.boundary_ids, 7))
    assert summary(again.findings()) == [("boundary_ids", WARNING, (7,))]
