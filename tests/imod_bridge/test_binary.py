"""The chunk walk: real files come back byte for byte, damaged ones are refused."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imod_bridge import ModelFormatError
from imod_bridge.binary import read_chunks, sized_chunk, walk, write_atomically
from imod_bridge.model import Contour, ImageReference, Model, Object, decode_model, encode_model, encode_object

REAL_FILES = [
    "meshed_contour_example.mod",
    "meshed_curvature_example.mod",
    "multiple_objects_example.mod",
    "point_sizes_example.mod",
    "slicer_angle_example.mod",
    "two_contour_example.mod",
]


def small_model() -> bytes:
    """Two objects; sized, unsized and empty contours; an unknown chunk; an image reference."""
    sized = Contour(np.array([[1.5, 2.5, 3.0], [4.5, 5.5, 6.25]]), np.array([7.5, -1.0]), surface=3)
    bare = Contour(np.array([[9.5, 8.5, 7.0]]))
    first = Object("spheres", (sized, bare), flags=0x208)
    second = Object("outline", (Contour(np.zeros((0, 3))),))
    data = encode_model(Model((first, second), image_reference=ImageReference(bytes(range(72)))))
    assert data.endswith(b"IEOF")
    return data[:-4] + sized_chunk("ABCD", b"unknown") + sized_chunk("VIEW", struct.pack(">i", 1)) + b"IEOF"


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_walk_to_their_own_bytes(name, shared_data):
    path = shared_data(f"imod_models/{name}")
    data = path.read_bytes()
    chunks = read_chunks(path)
    assert b"".join(chunk.data for chunk in chunks) == data
    assert [chunk.offset for chunk in chunks] == list(np.cumsum([0, *(len(chunk.data) for chunk in chunks[:-1])]))
    assert chunks[0].id == "IMOD" and chunks[-1].id == "IEOF"
    sized = {"IMAT": 16, "MINX": 72, "SLAN": 60}
    assert all(len(chunk.payload) == sized[chunk.id] for chunk in chunks if chunk.id in sized)


def test_walk_names_every_chunk_and_gives_its_payload():
    chunks = walk(small_model())
    assert [chunk.id for chunk in chunks] == (
        "IMOD OBJT CONT SIZE CONT IMAT OBJT CONT IMAT MINX ABCD VIEW IEOF".split()
    )
    assert len(chunks[0].payload) == 232 and len(chunks[1].payload) == 176
    assert chunks[3].payload == struct.pack(">2f", 7.5, -1.0)
    assert chunks[9].payload == bytes(range(72))
    assert chunks[10].payload == b"unknown"
    assert chunks[-1].payload == b""


def test_every_truncation_is_refused_quickly():
    data = small_model()
    start = time.perf_counter()
    for length in range(len(data)):
        with pytest.raises(ModelFormatError) as caught:
            walk(data[:length])
        assert "\n" not in str(caught.value)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("name", REAL_FILES)
def test_truncations_of_a_real_file_are_refused(name, shared_data, rng):
    data = shared_data(f"imod_models/{name}").read_bytes()
    if len(data) < 10_000:
        cuts = np.arange(len(data))
    else:  # all borders of chunks, the bytes round them, and others
        borders = np.array([chunk.offset for chunk in walk(data)])
        near = (borders[:, None] + [-4, -1, 0, 1, 4, 7, 8, 9, 20]).ravel()
        cuts = np.unique(np.concatenate([near, rng.integers(0, len(data), 200)]).clip(0, len(data) - 1))
    start = time.perf_counter()
    for length in cuts:
        with pytest.raises(ModelFormatError):
            walk(data[:length])
    assert time.perf_counter() - start < 20


def test_without_its_end_mark_a_file_is_refused():
    data = small_model()
    with pytest.raises(ModelFormatError, match="end mark"):
        walk(data[:-4])
    with pytest.raises(ModelFormatError, match="end mark"):
        decode_model(data[:-4])


@pytest.mark.parametrize(("chunk_id", "field_offset"), [("CONT", 0), ("SIZE", 0), ("MEPA", 0), ("OBJT", 128)])
def test_a_huge_count_allocates_nothing(chunk_id, field_offset):
    item = Object("a", (Contour(np.zeros((1, 3)), np.ones(1)),))
    data = encode_model(Model((item,)))
    data = bytearray(data[:-4] + sized_chunk("MEPA", bytes(16)) + b"IEOF")
    place = offset_of(bytes(data), chunk_id, field_offset)
    data[place : place + 4] = struct.pack(">i", 2**31 - 1)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFormatError):
            decode_model(bytes(data))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"IMODV1.1" + bytes(300), "IMODV1.1"),
        (b"imod 2\nobject 0 3 0\n", "ASCII"),
        (b"# IMOD ascii file\nimod 1\n", "ASCII"),
        (bytes(5000), "starts with"),
    ],
)
def test_other_kinds_of_file_are_refused_by_their_first_bytes(data, message, tmp_path):
    with pytest.raises(ModelFormatError, match=message):
        walk(data)
    path = tmp_path / "other.mod"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError, match=message):
        read_chunks(path)


def test_a_huge_file_of_another_kind_is_not_read(tmp_path):
    path = tmp_path / "tomogram.mrc"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # sparse: no space is used
    with pytest.raises(ModelFormatError):
        read_chunks(path)


def offset_of(data: bytes, chunk_id: str, field_offset: int, which: int = 0) -> int:
    """Place of a field, counted from the end of the id of the n-th chunk of a kind."""
    return [chunk.offset for chunk in walk(data) if chunk.id == chunk_id][which] + 4 + field_offset


@pytest.mark.parametrize("value", [-1, -(2**31), 0, 7, 2**24, 2**31 - 1])
@pytest.mark.parametrize(
    ("chunk_id", "field_offset"),
    [
        ("IMOD", 144),  # number of objects: byte 148 of the file
        ("OBJT", 128),  # number of contours
        ("OBJT", 168),  # number of meshes
        ("CONT", 0),  # number of points
        ("SIZE", 0),  # sizes of chunks
        ("IMAT", 0),
        ("MINX", 0),
        ("ABCD", 0),
    ],
)
def test_wrong_counts_are_refused(chunk_id, field_offset, value):
    data = bytearray(small_model())
    place = offset_of(bytes(data), chunk_id, field_offset)
    right = struct.unpack_from(">i", data, place)[0]
    if value == right:
        value += 1
    data[place : place + 4] = struct.pack(">i", value)
    with pytest.raises(ModelFormatError):
        walk(bytes(data))


@pytest.mark.parametrize("field_offset", [0, 4])
def test_wrong_mesh_counts_are_refused(field_offset, shared_data):
    data = bytearray(shared_data("imod_models/point_sizes_example.mod").read_bytes())
    place = offset_of(bytes(data), "MESH", field_offset)
    for value in (-1, 2**31 - 1):
        data[place : place + 4] = struct.pack(">i", value)
        with pytest.raises(ModelFormatError):
            walk(bytes(data))


def test_chunks_out_of_place_and_bytes_after_the_end_are_refused():
    data = small_model()
    header, rest = data[:240], data[240:]
    no_objects = header[:148] + struct.pack(">i", 0) + header[152:]
    assert [chunk.id for chunk in walk(no_objects + b"IEOF")] == ["IMOD", "IEOF"]
    for stray in (sized_chunk("SIZE", b""), sized_chunk("IMAT", bytes(16)), sized_chunk("COST", b"")):
        with pytest.raises(ModelFormatError, match="follow"):
            walk(no_objects + stray + b"IEOF")
    with pytest.raises(ModelFormatError, match="after|follow"):
        walk(data + b"\0")
    with pytest.raises(ModelFormatError):
        walk(header + b"\0\0\0\0" + rest)


@settings(deadline=None, max_examples=300)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_never_gives_anything_but_a_model_or_the_error(place, value):
    data = bytearray(small_model())
    data[place % len(data)] = value
    try:
        chunks = walk(bytes(data))
    except ModelFormatError:
        return
    assert b"".join(chunk.data for chunk in chunks) == data
    decode_model(bytes(data))


@pytest.mark.parametrize("name", REAL_FILES)
def test_wrong_bytes_in_a_real_file_give_a_model_or_the_error(name, shared_data, rng):
    data = shared_data(f"imod_models/{name}").read_bytes()
    start = time.perf_counter()
    for _ in range(40):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        try:
            decode_model(bytes(damaged))
        except ModelFormatError as error:
            assert "\n" not in str(error)
    assert time.perf_counter() - start < 20


@settings(deadline=None, max_examples=200)
@given(tail=st.binary(max_size=300))
def test_noise_after_the_header_never_gives_anything_but_a_model_or_the_error(tail):
    data = small_model()[:240] + tail
    with pytest.raises(ModelFormatError):
        walk(data)  # the header declares two objects: noise does not make them


@pytest.mark.filterwarnings("ignore::DeprecationWarning:imodmodel")
def test_wrong_sizes_of_imodmodel_files_are_understood():
    # imodmodel 0.1.0 declares 48 bytes for IMAT (16 follow) and SLAN (60 follow).
    from imodmodel.models import IMAT, SLAN, ImodModel
    from imodmodel.models import Contour as ImodContour
    from imodmodel.models import Object as ImodObject
    from imodmodel.writers import write_model

    item = ImodObject(contours=[ImodContour(points=np.array([[1.0, 2.0, 3.0]]))], imat=IMAT(quality=3))
    angle = SLAN(time=1, angles=(1.0, 2.0, 3.0), center=(4.0, 5.0, 6.0), label="tilted")
    file = io.BytesIO()
    write_model(file, ImodModel(objects=[item, item], slicer_angles=[angle, angle]))
    chunks = walk(file.getvalue())
    assert b"".join(chunk.data for chunk in chunks) == file.getvalue()
    assert [chunk.id for chunk in chunks] == "IMOD OBJT CONT IMAT OBJT CONT IMAT SLAN SLAN IEOF".split()
    assert decode_model(file.getvalue()).objects[1].sphere_quality == 3


def test_an_object_can_be_put_among_the_untouched_chunks_of_a_file():
    data = small_model()
    chunks = walk(data)
    new = encode_object(Object("mine", (Contour(np.array([[1.0, 2.0, 3.0]]), np.array([4.0])),), flags=0x208))
    cut = next(chunk.offset for chunk in chunks if chunk.id == "MINX")
    changed = data[:148] + struct.pack(">i", 3) + data[152:cut] + new + data[cut:]
    assert [item.name for item in decode_model(changed).objects] == ["spheres", "outline", "mine"]


def test_atomic_writing_replaces_follows_links_and_leaves_nothing_behind(tmp_path, monkeypatch):
    target = tmp_path / "a.mod"
    write_atomically(target, b"one")
    target.chmod(0o640)
    link = tmp_path / "link.mod"
    link.symlink_to(target)
    write_atomically(link, b"two")
    assert link.is_symlink() and target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o640

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"three")
    assert target.read_bytes() == b"two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mod", "link.mod"]


def no_links(*_):
    raise OSError("this file system has no hard links")


@pytest.mark.parametrize("links", [True, False])
def test_the_file_that_is_replaced_is_kept_under_its_name_with_a_tilde(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("os.link", no_links)
    target, kept = tmp_path / "a.mod", tmp_path / "a.mod~"
    write_atomically(target, b"one", backup=True)
    assert not kept.exists()
    target.chmod(0o640)
    for old, new in [(b"one", b"two"), (b"two", b"three"), (b"three", b"four")]:
        write_atomically(target, new, backup=True)
        assert (target.read_bytes(), kept.read_bytes()) == (new, old)
        assert target.stat().st_mode & 0o777 == kept.stat().st_mode & 0o777 == 0o640
    write_atomically(target, b"five")
    assert kept.read_bytes() == b"three"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mod", "a.mod~"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("failing_call", range(1, 12))
def test_the_file_is_whole_at_every_moment_and_after_any_failure(tmp_path, monkeypatch, links, failing_call):
    """Every call that touches the disk finds the file whole, and fails in turn."""
    folder = tmp_path / "real"
    folder.mkdir()
    target = folder / "a.mod"
    target.write_bytes(b"one")
    (folder / "a.mod~").write_bytes(b"zero")
    link = tmp_path / "link.mod"
    link.symlink_to(target)
    calls = []

    def watched(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            assert target.read_bytes() in (b"one", b"two")
            assert (folder / "a.mod~").read_bytes() in (b"zero", b"one")
            calls.append(name)
            if len(calls) == failing_call:
                raise OSError("broken")
            return real(*args, **kwargs)

        return call

    if not links:
        monkeypatch.setattr("os.link", no_links)
    for name in ("open", "fsync", "chmod", "replace", *(["link"] if links else [])):
        monkeypatch.setattr(f"os.{name}", watched(name))
    try:
        write_atomically(link, b"two", backup=True)
    except OSError:
        assert target.read_bytes() == b"one"
    else:
        assert (target.read_bytes(), (folder / "a.mod~").read_bytes()) == (b"two", b"one")
    monkeypatch.undo()
    assert link.is_symlink()
    assert sorted(path.name for path in folder.iterdir()) == ["a.mod", "a.mod~"]
    write_atomically(link, b"three", backup=True)  # also where the last try had made the backup already
    assert target.read_bytes() == b"three"
    assert sorted(path.name for path in folder.iterdir()) == ["a.mod", "a.mod~"]
