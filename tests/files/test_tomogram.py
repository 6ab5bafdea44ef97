"""Reading and writing volumes: headers that lie, files that are broken, and what must survive a round trip."""

from __future__ import annotations

import gzip
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from deepvesicle.errors import OutputExistsError, TomogramError, UsageError, VoxelSizeError
from deepvesicle.files import tomogram as volumes
from deepvesicle.files.atomic import new_file, sha256_of
from deepvesicle.files.tomogram import (
    check_grey,
    read_header,
    read_labels,
    read_probability,
    read_tomogram,
    write_labels,
    write_probability,
    write_tomogram,
)
from deepvesicle.grid import Grid, Labels, Probability

SHAPE = (5, 7, 11)
GRID = Grid(SHAPE, 1.684, (30.0, -12.5, 7.25))


def make_mrc(path: Path, data: np.ndarray, voxel_angstrom: Any = 16.84, **fields: Any) -> Path:
    """Write a file with mrcfile, then set header fields by name."""
    with mrcfile.new(path, data, overwrite=True) as mrc:
        mrc.voxel_size = voxel_angstrom
        for name, value in fields.items():
            mrc.header[name] = value
    return path


def patch(path: Path, offset: int, fmt: str, *values: Any) -> Path:
    """Overwrite bytes of a file."""
    content = bytearray(path.read_bytes())
    struct.pack_into(fmt, content, offset, *values)
    path.write_bytes(content)
    return path


@pytest.fixture
def grey(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=SHAPE).astype(np.float32)


# --- reading what is right ---


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_all_modes_and_byte_orders(tmp_path: Path, rng: np.random.Generator, dtype: str, order: str) -> None:
    values = rng.integers(0 if dtype == "u2" else -100, 100, SHAPE).astype(dtype)
    path = make_mrc(tmp_path / "tomo.mrc", values.astype(np.dtype(dtype).newbyteorder(order)))
    tomogram = read_tomogram(path)
    assert isinstance(tomogram.data, np.memmap)
    np.testing.assert_array_equal(tomogram.data, values)
    np.testing.assert_array_equal(tomogram.grey(), values.astype(np.float32))
    assert tomogram.grid.voxel_nm == 1.684
    assert tomogram.notes == ()
    assert not tomogram.data.flags.writeable


@pytest.mark.parametrize("name", ["t.mrc", "t.rec", "t.nad", "t.map", "t.st", "t.mrc.gz", "t.rec.gz", "no_suffix"])
def test_file_names(tmp_path: Path, grey: np.ndarray, name: str) -> None:
    write_tomogram(tmp_path / name, grey, GRID)
    tomogram = read_tomogram(tmp_path / name)
    np.testing.assert_array_equal(tomogram.data, grey)
    assert tomogram.grid.voxel_nm == GRID.voxel_nm
    np.testing.assert_allclose(tomogram.grid.origin_nm, GRID.origin_nm, rtol=1e-6)
    assert tomogram.path == tmp_path / name


def test_gzip_is_found_by_content_not_by_name(tmp_path: Path, grey: np.ndarray) -> None:
    write_tomogram(tmp_path / "t.mrc.gz", grey, GRID)
    (tmp_path / "t.gz.mrc").write_bytes((tmp_path / "t.mrc.gz").read_bytes())
    np.testing.assert_array_equal(read_tomogram(tmp_path / "t.gz.mrc").data, grey)


@pytest.mark.parametrize("signed", [True, False])
def test_bytes_of_imod_follow_its_flag(tmp_path: Path, signed: bool) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.int64).reshape(SHAPE) % 256
    path = make_mrc(tmp_path / "t.rec", (values.astype(np.uint8)).view(np.int8))
    patch(path, 152, "<2i", 1146047817, int(signed))
    expected = values.astype(np.uint8).view(np.int8) if signed else values
    np.testing.assert_array_equal(read_tomogram(path).data, expected)


def test_bytes_without_imod_stamp(tmp_path: Path) -> None:
    values = (np.arange(np.prod(SHAPE)) % 256).astype(np.uint8).reshape(SHAPE)
    path = make_mrc(tmp_path / "t.mrc", values.view(np.int8))
    assert read_tomogram(path).data.min() == -128  # as MRC2014 says
    make_mrc(path, values.view(np.int8), dmin=0, dmax=255)  # signed bytes cannot reach 255
    tomogram = read_tomogram(path)
    np.testing.assert_array_equal(tomogram.data, values)
    assert "unsigned" in tomogram.notes[0]


def test_extended_header_is_skipped(tmp_path: Path, grey: np.ndarray) -> None:
    path = make_mrc(tmp_path / "t.mrc", grey)
    with mrcfile.open(path, "r+") as mrc:
        mrc.set_extended_header(np.frombuffer(b"\x07" * 512, dtype="V1"))
    np.testing.assert_array_equal(read_tomogram(path).data, grey)


def test_missing_map_stamp_is_noted(tmp_path: Path, grey: np.ndarray) -> None:
    path = patch(make_mrc(tmp_path / "t.mrc", grey), 208, "<8s", b"\0" * 8)
    tomogram = read_tomogram(path)
    np.testing.assert_array_equal(tomogram.data, grey)
    assert any("MAP" in note for note in tomogram.notes)


def test_wrong_machine_stamp_is_noted(tmp_path: Path, grey: np.ndarray) -> None:
    path = patch(make_mrc(tmp_path / "t.mrc", grey), 212, "<4B", 0x11, 0x11, 0, 0)
    tomogram = read_tomogram(path)
    np.testing.assert_array_equal(tomogram.data, grey)
    assert any("stamp" in note for note in tomogram.notes)


def test_origin_comes_from_origin_or_start(tmp_path: Path, grey: np.ndarray) -> None:
    path = make_mrc(tmp_path / "t.mrc", grey, 20.0, origin=(100.0, 200.0, -300.0), nxstart=5)
    assert read_tomogram(path).grid.origin_nm == (-30.0, 20.0, 10.0)
    make_mrc(path, grey, 20.0, nxstart=5, nystart=-3, nzstart=2)
    assert read_tomogram(path).grid.origin_nm == (4.0, -6.0, 10.0)
    make_mrc(path, grey, 20.0, origin=(np.nan, 0.0, 0.0))
    tomogram = read_tomogram(path)
    assert tomogram.grid.origin_nm == (0.0, 0.0, 0.0) and "origin" in tomogram.notes[0]


def test_origin_of_older_imod_has_the_other_sign(tmp_path: Path, grey: np.ndarray) -> None:
    path = make_mrc(tmp_path / "t.mrc", grey, 20.0, origin=(100.0, 200.0, -300.0), nversion=0)
    patch(path, 152, "<2i", 1146047817, 1)
    assert read_tomogram(path).grid.origin_nm == (30.0, -20.0, -10.0)
    patch(path, 152, "<2i", 1146047817, 1 | 4)
    assert read_tomogram(path).grid.origin_nm == (-30.0, 20.0, 10.0)


def test_invert_turns_the_sign_of_grey_only(tmp_path: Path, grey: np.ndarray) -> None:
    write_tomogram(tmp_path / "t.mrc", grey, GRID)
    tomogram = read_tomogram(tmp_path / "t.mrc", invert=True)
    np.testing.assert_array_equal(tomogram.grey(), -grey)
    np.testing.assert_array_equal(tomogram.data, grey)


def test_real_files(shared_data: Any) -> None:
    header = read_header(shared_data("pyto_presynaptic/labels.mrc.gz"))
    assert header.shape_zyx == (60, 155, 155) and header.judged_voxel_nm() == 1.684
    assert header.origin_nm == (0.0, 0.0, 0.0)
    ids = np.unique(read_labels(header.path).data)
    assert ids[:3].tolist() == [0, 2, 3] and ids[-1] == 74  # background, membrane, cytosol; the last vesicle
    tomogram = read_tomogram(shared_data("ferritin_shells/ferritin_upper.mrc.gz"))
    assert tomogram.grid.shape_zyx == (52, 215, 320) and tomogram.grid.voxel_nm == 3.5


# --- the voxel size ---


@pytest.mark.parametrize(
    "voxel_angstrom", [0.0, 1.0, 0.018, 51.0, 1e6, (16.0, 16.0, 17.0), (16.0, 16.0, 0.0), np.nan, -16.0, np.inf]
)
def test_voxel_sizes_that_cannot_be_believed(tmp_path: Path, grey: np.ndarray, voxel_angstrom: Any) -> None:
    path = make_mrc(tmp_path / "t.mrc", grey)
    cell = np.broadcast_to(voxel_angstrom, 3) * np.array([11, 7, 5])
    patch(path, 40, "<3f", *cell)
    with pytest.raises(VoxelSizeError, match="--voxel-size"):
        read_tomogram(path)
    assert read_tomogram(path, voxel_nm=2.1).grid.voxel_nm == 2.1


def test_voxel_size_without_intervals_is_missing(tmp_path: Path, grey: np.ndarray) -> None:
    path = make_mrc(tmp_path / "t.mrc", grey, mx=0)
    with pytest.raises(VoxelSizeError, match="no voxel size"):
        read_tomogram(path)


def test_small_anisotropy_is_tolerated(tmp_path: Path, grey: np.ndarray) -> None:
    assert read_tomogram(make_mrc(tmp_path / "t.mrc", grey, (20.0, 20.0, 20.1))).grid.voxel_nm == pytest.approx(
        2.0033, 1e-4
    )


@pytest.mark.parametrize("voxel_angstrom", [16.84, 13.68, 3.42, 21.0, 10.52, 8.123, 26.44])
def test_voxel_size_is_the_number_that_was_meant(tmp_path: Path, grey: np.ndarray, voxel_angstrom: float) -> None:
    assert read_tomogram(make_mrc(tmp_path / "t.mrc", grey, voxel_angstrom)).grid.voxel_nm == voxel_angstrom / 10


@pytest.mark.parametrize("voxel_nm", [0.0, -2.0, 0.1, 16.84, float("nan"), float("inf")])
def test_voxel_size_of_the_user_is_judged_too(tmp_path: Path, grey: np.ndarray, voxel_nm: float) -> None:
    path = make_mrc(tmp_path / "t.mrc", grey)
    with pytest.raises(VoxelSizeError, match="--voxel-size") as caught:
        read_tomogram(path, voxel_nm=voxel_nm)
    assert isinstance(caught.value, UsageError) and caught.value.exit_code == 2
    assert ("16.84 angstrom would be 1.684 nm" in str(caught.value)) == (voxel_nm == 16.84)


# --- files that cannot be used ---


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """One file of each kind that cannot be used, and what its message must say."""
    rng = np.random.default_rng(5)
    grey = rng.normal(size=SHAPE).astype(np.float32)
    good = make_mrc(folder / "good.mrc", grey).read_bytes()
    files: dict[str, tuple[Path, str]] = {}

    def add(name: str, content: bytes, message: str) -> Path:
        path = folder / name
        path.write_bytes(content)
        files[name] = (path, message)
        return path

    files["missing.mrc"] = (folder / "missing.mrc", "does not exist")
    (folder / "folder.mrc").mkdir()
    files["folder.mrc"] = (folder / "folder.mrc", "is a folder")
    add("empty.mrc", b"", "is empty")
    add("empty.mrc.gz", gzip.compress(b""), "is empty")
    add("half_header.mrc", good[:600], "is truncated")
    add("truncated.mrc", good[:-1], "is truncated")
    add("truncated.mrc.gz", gzip.compress(good)[:-300], "damaged or truncated")
    add("short_inside.mrc.gz", gzip.compress(good[:-4]), "is truncated")
    damaged = bytearray(gzip.compress(good))
    damaged[-6] ^= 0xFF
    add("checksum.mrc.gz", bytes(damaged), "damaged or truncated")
    add("text.mrc", b"x,y,z\n1,2,3\n" * 200, "text file")
    add("short.txt", b"hello", "text file")
    add("picture.mrc", b"\x89PNG\r\n\x1a\n" + bytes(2000), "PNG")
    add("picture.tif", b"II*\0" + bytes(2000), "TIFF")
    add("data.h5", b"\x89HDF\r\n\x1a\n" + bytes(2000), "HDF5")
    add("model.mod", b"IMODV1.2" + bytes(2000), "IMOD model")
    add("zeros.mrc", bytes(4000), "zeros")
    add("noise.mrc", rng.bytes(4000), "unknown format")
    make_mrc(folder / "flat.mrc", grey[0])
    files["flat.mrc"] = (folder / "flat.mrc", "2D image")
    with mrcfile.new(folder / "stack.mrc", grey) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = 16.84
    files["stack.mrc"] = (folder / "stack.mrc", "stack of 2D images")
    with mrcfile.new(folder / "volumes.mrc", np.stack([grey, grey])) as mrc:
        mrc.voxel_size = 16.84
    files["volumes.mrc"] = (folder / "volumes.mrc", "stack of several volumes")
    make_mrc(folder / "complex.mrc", grey.astype(np.complex64))
    files["complex.mrc"] = (folder / "complex.mrc", "complex")
    patch(add("complex_integers.mrc", good, "complex"), 12, "<i", 3)
    patch(add("colours.mrc", good, "RGB"), 12, "<i", 16)
    patch(add("negative.mrc", good, "absurd"), 0, "<i", -5)
    patch(add("zero_count.mrc", good, "absurd"), 4, "<i", 0)
    patch(add("huge.mrc", good, "absurd"), 0, "<3i", 2**31 - 1, 2**31 - 1, 2**31 - 1)
    patch(add("large.mrc", good, "truncated"), 0, "<3i", 90_000, 90_000, 90_000)
    large = bytearray(good)
    struct.pack_into("<3i", large, 0, 90_000, 90_000, 90_000)
    add("large.mrc.gz", gzip.compress(bytes(large)), "truncated")
    patch(add("negative_extension.mrc", good, "extended header"), 92, "<i", -8)
    patch(add("huge_extension.mrc", good, "truncated"), 92, "<i", 2**31 - 1)
    make_mrc(folder / "constant.mrc", np.full(SHAPE, 3, np.int16))
    files["constant.mrc"] = (folder / "constant.mrc", "one value")
    for name, value in (("nan", np.nan), ("inf", -np.inf)):
        broken = grey.copy()
        broken[3, 2, 9] = value
        make_mrc(folder / f"{name}.mrc", broken)
        files[f"{name}.mrc"] = (folder / f"{name}.mrc", "x = 9, y = 2, z = 3")
    return files


def test_every_bad_file_has_its_own_message(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mrcfile, on making the bad files
        files = bad_files(tmp_path)
    wrong = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (path, message) in files.items():
            try:
                read_tomogram(path)
                wrong[name] = "was read"
            except TomogramError as error:
                if (
                    message not in str(error)
                    or path.name not in str(error)
                    or "\n" in str(error)
                    or error.exit_code != 3
                ):
                    wrong[name] = str(error)
    assert wrong == {}


def test_unreadable_file(tmp_path: Path, grey: np.ndarray) -> None:
    path = make_mrc(tmp_path / "t.mrc", grey)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(TomogramError, match="Permission denied"):
        read_tomogram(path)


def test_check_goes_through_every_slab(tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "SLAB_VOXELS", 80)  # one section at a time
    broken = grey.copy()
    broken[4, 6, 10] = np.nan
    path = tmp_path / "t.mrc"
    write_tomogram(path, broken, GRID)
    with pytest.raises(TomogramError, match="x = 10, y = 6, z = 4"):
        read_tomogram(path)
    tomogram = read_tomogram(path, check=False)
    with pytest.raises(TomogramError):
        check_grey(tomogram)
    step = np.zeros(SHAPE, np.int16)
    step[4] = 1  # each section is constant, the volume is not
    assert read_tomogram(make_mrc(path, step)).data.max() == 1


# --- writing ---


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("i1", "i1"),
        ("u1", "i2"),
        ("i2", "i2"),
        ("u2", "u2"),
        ("i8", "i2"),
        ("f2", "f2"),
        ("f4", "f4"),
        ("f8", "f4"),
        ("?", "i1"),
    ],
)
def test_written_files_are_valid(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, dtype: str, stored: str
) -> None:
    monkeypatch.setattr(volumes, "SLAB_VOXELS", 160)
    values = rng.integers(0, 2, SHAPE).astype(dtype)
    path = tmp_path / "t.mrc"
    write_tomogram(path, values, GRID)
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        assert mrc.data.dtype == np.dtype(stored)
        np.testing.assert_array_equal(mrc.data, values)
        assert mrc.is_volume()
        np.testing.assert_allclose(mrc.voxel_size.tolist(), 16.84, rtol=1e-6)
        np.testing.assert_allclose(mrc.header.origin.tolist(), (72.5, -125.0, 300.0))
        assert float(mrc.header.dmean) == pytest.approx(values.astype(float).mean())
        assert float(mrc.header.rms) == pytest.approx(values.astype(float).std())


def test_statistics_survive_a_large_offset(tmp_path: Path, rng: np.random.Generator) -> None:
    values = (30_000 + rng.integers(0, 3, SHAPE)).astype(np.uint16)
    write_tomogram(tmp_path / "t.mrc", values, GRID)
    with mrcfile.open(tmp_path / "t.mrc") as mrc:
        assert float(mrc.header.rms) == pytest.approx(values.std(), rel=1e-6)


def test_integers_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(TomogramError, match="70000"):
        write_tomogram(tmp_path / "t.mrc", np.full(SHAPE, 70_000), GRID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", ["l.mrc", "l.mrc.gz"])
def test_labels_round_trip(tmp_path: Path, rng: np.random.Generator, signed: bool, name: str) -> None:
    labels = Labels(rng.integers(0, 30_000, SHAPE), GRID)
    write_labels(tmp_path / name, labels, signed=signed)
    with mrcfile.open(tmp_path / name) as mrc:
        assert int(mrc.header.mode) == (1 if signed else 6)
    read = read_labels(tmp_path / name)
    np.testing.assert_array_equal(read.data, labels.data)
    assert read.grid.voxel_nm == GRID.voxel_nm
    assert read_labels(tmp_path / name, GRID).grid == GRID


def test_too_many_labels(tmp_path: Path) -> None:
    data = np.zeros(SHAPE, np.int64)
    data[2, 3, 4] = 65_535
    write_labels(tmp_path / "l.mrc", Labels(data, GRID))
    assert read_labels(tmp_path / "l.mrc").data[2, 3, 4] == 65_535
    for signed, value in ((False, 65_536), (True, 32_768), (False, -1)):
        data[2, 3, 4] = value
        with pytest.raises(TomogramError, match="do not fit"):
            write_labels(tmp_path / "other.mrc", Labels(data, GRID), signed=signed)
    assert [p.name for p in tmp_path.iterdir()] == ["l.mrc"]


def test_labels_of_another_shape_or_kind(tmp_path: Path, grey: np.ndarray) -> None:
    path = make_mrc(tmp_path / "l.mrc", np.ones(SHAPE, np.float32), 1.0)  # float labels, as some programs write
    assert read_labels(path, GRID).data.dtype == np.uint16
    with pytest.raises(VoxelSizeError):
        read_labels(path)
    with pytest.raises(TomogramError, match="does not fit the tomogram; expected 11 x 7 x 6"):
        read_labels(path, Grid((6, 7, 11), 1.684))
    with pytest.raises(TomogramError, match="not a label volume"):
        read_labels(make_mrc(path, grey), GRID)
    with pytest.raises(TomogramError, match="not a label volume"):
        read_labels(make_mrc(path, np.full(SHAPE, -3, np.int16)), GRID)


@pytest.mark.filterwarnings("error::RuntimeWarning:deepvesicle", "ignore:Data array contains:RuntimeWarning")
def test_labels_in_half_floats(tmp_path: Path, rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2000, SHAPE)
    np.testing.assert_array_equal(
        read_labels(make_mrc(tmp_path / "l.mrc", labels.astype(np.float16)), GRID).data, labels
    )
    for value in (np.inf, np.nan, 1.5):
        data = labels.astype(np.float16)
        data[2, 3, 4] = value
        with pytest.raises(TomogramError, match="not a label volume"):
            read_labels(make_mrc(tmp_path / "l.mrc", data), GRID)
    with pytest.raises(TomogramError, match="not a label volume"):
        read_labels(make_mrc(tmp_path / "l.mrc", np.full(SHAPE, 2.0**31, np.float32)), GRID)


def test_probability_round_trip(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.random(SHAPE).astype(np.float32)
    write_probability(tmp_path / "p.mrc", Probability(values, GRID))
    read = read_probability(tmp_path / "p.mrc")
    np.testing.assert_array_equal(read.data, values)
    for bad in (1.5, -0.1, np.nan):
        values[0, 1, 2] = bad
        write_tomogram(tmp_path / "bad.mrc", values, GRID, overwrite=True)
        with pytest.raises(TomogramError, match="not a probability map"):
            read_probability(tmp_path / "bad.mrc")


def test_old_output_survives(tmp_path: Path, grey: np.ndarray) -> None:
    path = tmp_path / "t.mrc"
    write_tomogram(path, grey, GRID)
    before = sha256_of(path)
    with pytest.raises(OutputExistsError, match="--overwrite") as caught:
        write_tomogram(path, -grey, GRID)
    assert caught.value.exit_code == 2
    assert sha256_of(path) == before
    write_tomogram(path, -grey, GRID, overwrite=True)
    assert sha256_of(path) != before


# --- outputs that are there in full or not at all ---


def test_failed_output_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_file(tmp_path / "new" / "a.txt") as temporary:
        assert temporary.parent == tmp_path / "new" and temporary.name.startswith(".") and temporary.suffix == ".txt"
        temporary.write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    old = tmp_path / "old.mrc.gz"
    old.write_text("old")
    with pytest.raises(KeyboardInterrupt), new_file(old, overwrite=True) as temporary:
        assert temporary.name.endswith(".mrc.gz")
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert old.read_text() == "old" and list(tmp_path.iterdir()) == [old]


def test_output_folder(tmp_path: Path) -> None:
    with new_file(tmp_path / "made" / "a.txt") as temporary:
        temporary.write_text("a")
    assert (tmp_path / "made" / "a.txt").read_text() == "a"
    with pytest.raises(UsageError, match="does not exist"), new_file(tmp_path / "x" / "y" / "a.txt"):
        pass
    with pytest.raises(UsageError, match="is a folder"), new_file(tmp_path / "made", overwrite=True):
        pass
    with pytest.raises(UsageError, match="to be a folder"), new_file(tmp_path / "made" / "a.txt" / "b.txt"):
        pass
    with pytest.raises(RuntimeError, match="nothing was written"), new_file(tmp_path / "b.txt"):
        pass


def test_file_made_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError), new_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("mine")
        (tmp_path / "a.txt").write_text("theirs")
    assert (tmp_path / "a.txt").read_text() == "theirs" and len(list(tmp_path.iterdir())) == 1


def test_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "a.txt").symlink_to(tmp_path / "real" / "a.txt")
    with new_file(tmp_path / "a.txt", overwrite=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").is_symlink() and (tmp_path / "real" / "a.txt").read_text() == "new"
