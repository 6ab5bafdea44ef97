"""Changing a user's model: our objects read back, everything else is the same byte for byte."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imod_bridge import ModelFormatError
from imod_bridge.binary import Chunk, sized_chunk, walk
from imod_bridge.model import SCATTERED_OBJECT, Contour, Model, Object, decode_model, encode_model, encode_object
from imod_bridge.update import replace_objects
from tests.imod_bridge.test_binary import REAL_FILES
from tests.imod_bridge.test_typed_model import MODELS, OBJECTS, contours

OBJECT_COUNT = slice(148, 152)
#: Places in OBJT (after the id) that may change: contsize, flags, pdrawsize, meshsize and surfsize.
CHANGEABLE = [(128, 136), (156, 160), (168, 176)]


def sphere(x: float, radius: float, surface: int, **other: object) -> Contour:
    return Contour(np.array([[x, 20.5, 7.0]]), np.array([radius]), surface=surface, **other)


def spheres(*contours: Contour, name: str = "vesicles") -> Object:
    return Object(name, contours, colour=(0.0, 0.5, 0.25), flags=SCATTERED_OBJECT, point_limit=1)


def pieces(data: bytes) -> list[tuple[str, bytes]]:
    """All chunks of a file, the number of objects in the header blanked."""
    chunks = [(chunk.id, chunk.data) for chunk in walk(data)]
    header = bytearray(chunks[0][1])
    header[OBJECT_COUNT] = bytes(4)
    return [("IMOD", bytes(header)), *chunks[1:]]


def by_object(data: bytes) -> list[list[Chunk]]:
    """The chunks of each object, up to the next object or the first chunk of the model's own."""
    groups: list[list[Chunk]] = []
    for chunk in walk(data):
        if chunk.id == "OBJT":
            groups.append([])
        elif chunk.id in ("VIEW", "MCLP", "MINX", "SLAN", "OGRP", "MOST", "IEOF"):
            break
        if groups:
            groups[-1].append(chunk)
    return groups


def assert_same_contours(item: Object, expected: Object) -> None:
    """Points, sizes and surfaces agree, as float32."""
    assert len(item.contours) == len(expected.contours)
    for contour, wanted in zip(item.contours, expected.contours, strict=True):
        np.testing.assert_array_equal(contour.points, wanted.points.astype(np.float32))
        assert contour.surface == wanted.surface
        assert (contour.sizes is None) == (wanted.sizes is None)
        if wanted.sizes is not None:
            np.testing.assert_array_equal(contour.sizes, wanted.sizes.astype(np.float32))


@pytest.mark.parametrize("name", REAL_FILES)
def test_an_object_is_added_to_a_real_file_and_changed_there(name, shared_data):
    data = shared_data(f"imod_models/{name}").read_bytes()
    old = pieces(data)
    first = spheres(sphere(10.5, 7.25, 1), sphere(30.125, 8.5, 2))
    added = replace_objects(data, [first])
    new = pieces(added)
    # ours lies behind the last object's last chunk, before the model's own
    ids = [chunk_id for chunk_id, _ in new]
    start = len(ids) - ids[::-1].index("OBJT") - 1
    assert ids[start : start + 6] == ["OBJT", "CONT", "SIZE", "CONT", "SIZE", "IMAT"]
    assert ids[start + 6] == "VIEW"
    assert new[:start] + new[start + 6 :] == old
    count = struct.unpack(">i", data[OBJECT_COUNT])[0]
    assert struct.unpack(">i", added[OBJECT_COUNT])[0] == count + 1
    model = decode_model(added)
    assert [item.name for item in model.objects] == [*(item.name for item in decode_model(data).objects), "vesicles"]
    assert_same_contours(model.objects[-1], first)

    second = spheres(sphere(30.125, 9.75, 2), sphere(50.5, 6.0, 3), sphere(60.5, 6.0, 4))
    changed = replace_objects(added, [second])
    new = pieces(changed)
    assert new[:start] + new[start + 8 :] == old
    assert changed[OBJECT_COUNT] == added[OBJECT_COUNT]
    assert_same_contours(decode_model(changed).objects[-1], second)
    assert replace_objects(changed, [second]) == changed


@pytest.mark.parametrize("name", REAL_FILES)
def test_an_object_of_a_real_file_is_replaced_by_name(name, shared_data):
    data = shared_data(f"imod_models/{name}").read_bytes()
    old_objects = decode_model(data).objects
    target = next(i for i, item in enumerate(old_objects) if item.contours)
    target = [item.name for item in old_objects].index(old_objects[target].name)  # the first of that name
    ours = spheres(sphere(10.5, 7.25, 1), name=old_objects[target].name)
    changed = replace_objects(data, [ours])
    old, new = by_object(data), by_object(changed)
    for i, (before, after) in enumerate(zip(old, new, strict=True)):
        if i != target:
            assert [chunk.data for chunk in before] == [chunk.data for chunk in after]
    kept = ("IMAT", "MEPA", "CLIP", "OLBL", "OBST")
    assert [c.data for c in old[target] if c.id in kept] == [c.data for c in new[target] if c.id in kept]
    assert [c.id for c in new[target] if c.id not in kept] == ["OBJT", "CONT", "SIZE"]
    item = decode_model(changed).objects[target]
    assert_same_contours(item, ours)
    assert item.is_scattered
    assert (item.colour, item.symbol, item.pdrawsize) == (
        old_objects[target].colour,
        old_objects[target].symbol,
        old_objects[target].pdrawsize,
    )
    tail_old, tail_new = data[old[-1][-1].offset :], changed[new[-1][-1].offset :]
    assert tail_old[len(old[-1][-1].data) :] == tail_new[len(new[-1][-1].data) :]
    assert data[:240] == changed[:240]


@pytest.mark.parametrize("name", REAL_FILES)
def test_unchanged_objects_change_nothing(name, shared_data):
    data = shared_data(f"imod_models/{name}").read_bytes()
    assert replace_objects(data, decode_model(data).objects) == data
    assert replace_objects(data, []) == data


# ---- made files with every kind of chunk

LABELS = sized_chunk("LABL", b"contour label")
VALUES = sized_chunk("COST", struct.pack(">hHif", 10, 4, 0, 0.5))
MESH = b"MESH" + struct.pack(">iiIhh3fi", 1, 1, 0, 0, 0, 1.0, 2.0, 3.0, -1)
OF_OBJECT = [
    sized_chunk("CLIP", b"\1\0\0\0" + bytes(24)),
    sized_chunk("MEPA", bytes(76)),
    sized_chunk("XOBJ", b"of an object, not known"),
]
OF_MODEL = [
    sized_chunk("VIEW", struct.pack(">i", 1)),
    sized_chunk("MCLP", bytes(28)),
    sized_chunk("OGRP", b"group of objects 0"),
    sized_chunk("XMOD", b"of the model, not known"),
    sized_chunk("MOST", struct.pack(">hHii", 10, 0, 0, 1)),
]


def assemble(draw_chunks, model: Model) -> bytes:
    """The bytes of a model with further chunks put among its own; `draw_chunks` chooses some of a list."""
    parts: list[bytes] = []
    chunks = walk(encode_model(model))
    in_objects = False
    for number, chunk in enumerate(chunks):
        following = chunks[number + 1].id if number + 1 < len(chunks) else ""
        if chunk.id == "OBJT":
            in_objects = True
            meshes = len(draw_chunks([MESH]))
            data = chunk.data[:172] + struct.pack(">i", meshes) + chunk.data[176:]
            parts.append(data)
            parts += draw_chunks([sized_chunk("OLBL", b"surface label")])
        elif chunk.id == "IMAT":
            parts += [MESH + b"".join(draw_chunks([sized_chunk("MEST", bytes(12))]))] * meshes
            parts += [chunk.data, *draw_chunks(OF_OBJECT)]
        elif chunk.id == "CONT":
            parts += [chunk.data, *draw_chunks([LABELS])]
            if following != "SIZE":
                parts += draw_chunks([VALUES])
        elif chunk.id == "SIZE":
            parts += [chunk.data, *draw_chunks([VALUES])]
        elif chunk.id == "IEOF":
            # the first one is known, so that where the objects end is not open to doubt
            parts += [OF_MODEL[0], *draw_chunks(OF_MODEL[1:]), chunk.data] if in_objects else [chunk.data]
        else:
            parts.append(chunk.data)
    return b"".join(parts)


@st.composite
def files(draw):
    model = draw(MODELS)
    return assemble(lambda options: [option for option in options if draw(st.booleans())], model)


@settings(deadline=None, max_examples=60)
@given(data=files(), new=OBJECTS, pick=st.integers(0, 5), extra=st.lists(contours(), max_size=2), keep=st.booleans())
def test_any_file_keeps_all_that_is_not_ours(data, new, pick, extra, keep):
    present = decode_model(data).objects
    assert replace_objects(data, present) == data
    if pick < len(present):  # an object that is there; perhaps with some of its contours kept
        old = present[pick]
        new = replace(new, name=old.name, contours=(*old.contours[1:], *extra) if keep else new.contours)
    names = [item.name for item in present]
    place = names.index(new.name) if new.name in names else len(present)
    changed = replace_objects(data, [new])
    assert_same_contours(decode_model(changed).objects[place], new)
    assert replace_objects(changed, [new]) == changed

    old_groups, new_groups = by_object(data), by_object(changed)
    assert pieces(data)[0] == pieces(changed)[0]
    assert struct.unpack(">i", changed[OBJECT_COUNT])[0] == len(new_groups) == max(len(present), place + 1)
    for i, group in enumerate(old_groups):
        if i != place:
            assert [chunk.data for chunk in group] == [chunk.data for chunk in new_groups[i]]
    old_count, new_count = sum(map(len, old_groups)), sum(map(len, new_groups))
    assert pieces(data)[1 + old_count :] == pieces(changed)[1 + new_count :]
    if place == len(present):
        assert b"".join(chunk.data for chunk in new_groups[-1]) == encode_object(new)
        return
    before, after = old_groups[place], new_groups[place]
    of_object = ("OLBL", "IMAT", "CLIP", "MEPA", "XOBJ")
    assert [c.data for c in before if c.id in of_object] == [c.data for c in after if c.id in of_object]
    record, changed_record = bytearray(before[0].payload), bytearray(after[0].payload)
    for start, end in CHANGEABLE:
        record[start:end] = changed_record[start:end] = bytes(end - start)
    assert record == changed_record
    item = decode_model(changed).objects[place]
    assert item.is_scattered == new.is_scattered
    for contour, wanted in zip(item.contours, new.contours, strict=True):
        np.testing.assert_array_equal(item.radii(contour), new.radii(wanted).astype(np.float32))


@settings(deadline=None, max_examples=40)
@given(data=files(), fraction=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(data, fraction):
    cut = data[: int(fraction * len(data))]
    for use in (walk, decode_model, lambda cut: replace_objects(cut, [Object("a")])):
        with pytest.raises(ModelFormatError):
            use(cut)


@settings(deadline=None, max_examples=60)
@given(data=files(), flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_file_with_wrong_bytes_gives_a_model_or_the_error(data, flips):
    damaged = bytearray(data)
    for place, mask in flips:
        damaged[place % len(damaged)] ^= mask
    try:
        objects = decode_model(bytes(damaged)).objects
    except ModelFormatError:
        return
    assert replace_objects(bytes(damaged), objects) == damaged


# ---- single rules


def file_of(*objects: bytes, tail: bytes = OF_MODEL[0] + OF_MODEL[2]) -> bytes:
    header = encode_model(Model())[:240]
    return header[:148] + struct.pack(">i", len(objects)) + header[152:] + b"".join(objects) + tail + b"IEOF"


def with_chunks(data: bytes, after: str, *extra: bytes) -> bytes:
    """An object's bytes with chunks put behind its first chunk of a kind."""
    chunks = walk(file_of(data, tail=b""))[1:-1]
    place = [chunk.id for chunk in chunks].index(after) + 1
    return b"".join([*(c.data for c in chunks[:place]), *extra, *(c.data for c in chunks[place:])])


def test_a_contour_that_is_carried_on_keeps_flags_time_labels_and_values():
    old = spheres(sphere(10.5, 5.0, 7, flags=1 << 4, time=3), sphere(20.5, 6.0, 8))
    data = file_of(with_chunks(encode_object(old), "SIZE", VALUES, LABELS))
    for surface, x, carried in [(7, 10.5, True), (8, 10.5, False), (7, 10.75, False)]:
        changed = replace_objects(data, [spheres(sphere(x, 9.5, surface))])
        contour = decode_model(changed).objects[0].contours[0]
        assert contour.sizes.tolist() == [9.5]
        assert (contour.flags, contour.time) == ((1 << 4, 3) if carried else (0, 0))
        ids = [chunk.id for chunk in by_object(changed)[0]]
        assert ids == (["OBJT", "CONT", "SIZE", *(["COST", "LABL"] if carried else []), "IMAT"])


def test_contours_that_stay_keep_their_labels_when_another_goes():
    # users' own contours have surface 0: that they are the same tells which they are
    old = Object("clicks", tuple(Contour(np.array([[float(i), 2, 3]])) for i in range(4)), flags=SCATTERED_OBJECT)
    chunks = walk(file_of(encode_object(old), tail=b""))[1:-1]
    labels = [sized_chunk("LABL", f"label {i}".encode()) for i in range(4)]
    conts = [chunk.data + label for chunk, label in zip(chunks[1:5], labels, strict=True)]
    data = file_of(chunks[0].data + b"".join(conts) + chunks[5].data)
    changed = replace_objects(data, [replace(old, contours=(*old.contours[2:], old.contours[0]))])
    kept = [chunk.payload for chunk in walk(changed) if chunk.id == "LABL"]
    assert kept == [b"label 2", b"label 3", b"label 0"]


def test_unknown_chunks_of_contours_go_with_them_and_of_objects_stay():
    old = spheres(sphere(1, 5, 1), sphere(2, 5, 2))
    chunks = [chunk.data for chunk in walk(file_of(encode_object(old), tail=b""))[1:-1]]
    mine, its = sized_chunk("XCON", b"of the first"), sized_chunk("XCON", b"of the second")
    data = file_of(b"".join([*chunks[:3], mine, *chunks[3:5], its, chunks[5], OF_OBJECT[2]]))
    changed = replace_objects(data, [spheres(sphere(2, 8, 2), sphere(3, 8, 3))])
    assert [c.id for c in by_object(changed)[0]] == "OBJT CONT SIZE XCON CONT SIZE IMAT XOBJ".split()
    assert its in changed and mine not in changed


def test_properties_by_contour_number_follow_their_contours():
    def item(index: int, value: int, flags: int = 0) -> bytes:
        return struct.pack(">hHii", 10, flags, index, value)

    old = spheres(*(sphere(float(i), 5, i + 1) for i in range(4)))
    surface, limits = item(2, 99, 1 << 6), item(0x3F800000, 0x40000000, 0b10101)
    stored = sized_chunk("OBST", item(0, 10) + item(1, 11) + surface + item(3, 13) + limits)
    data = file_of(encode_object(old) + stored)
    wanted = (old.contours[3], sphere(50.0, 5, 9), old.contours[1])
    changed = replace_objects(data, [spheres(*wanted)])
    payload = next(chunk.payload for chunk in walk(changed) if chunk.id == "OBST")
    assert payload == item(0, 13) + item(2, 11) + surface + limits
    appended = replace_objects(data, [spheres(*old.contours, sphere(50.0, 5, 9))])
    assert stored in appended
    data = file_of(encode_object(old) + sized_chunk("OBST", item(0, 10)))
    assert "OBST" not in [chunk.id for chunk in walk(replace_objects(data, [spheres()]))]


def test_meshes_go_when_contours_change_and_stay_when_they_do_not():
    old = Object("tube", (Contour(np.zeros((3, 3))),))
    body = with_chunks(encode_object(old), "CONT", MESH, sized_chunk("MEST", bytes(12)))
    data = file_of(body[:172] + struct.pack(">i", 1) + body[176:])
    assert replace_objects(data, [replace(old, colour=(1.0, 0.0, 0.0), symbol=3)]) == data
    changed = replace_objects(data, [replace(old, contours=(Contour(np.ones((3, 3))),))])
    assert [chunk.id for chunk in by_object(changed)[0]] == ["OBJT", "CONT", "IMAT"]
    early = body[:172] + struct.pack(">i", 2) + body[176:180] + MESH + body[180:]  # before the contours
    changed = replace_objects(file_of(early), [replace(old, contours=(Contour(np.ones((3, 3))),))])
    assert [chunk.id for chunk in by_object(changed)[0]] == ["OBJT", "CONT", "IMAT"]


def test_a_contour_that_could_not_be_written_anew_stays_as_it_is():
    body = encode_object(spheres(sphere(1, 5, 0), sphere(2, 5, 0)))
    spoilt = body[:200] + struct.pack(">f", np.nan) + body[204:]  # x of the first point
    data = file_of(spoilt)
    old = decode_model(data).objects[0]
    assert np.isnan(old.contours[0].points[0, 0])
    changed = replace_objects(data, [replace(old, contours=(*old.contours, sphere(3, 5, 1)))])
    assert [chunk.data for chunk in by_object(changed)[0][1:5]] == [chunk.data for chunk in by_object(data)[0][1:5]]
    assert len(decode_model(changed).objects[0].contours) == 3


def test_the_display_is_the_users():
    theirs = Object("vesicles", (sphere(1, 5, 1),), (1.0, 0.0, 0.0), 0x902 | SCATTERED_OBJECT, 4, 3, 2, 9, 5, 50, 3)
    ours = spheres(sphere(2, 5, 1))
    item = decode_model(replace_objects(file_of(encode_object(theirs)), [ours])).objects[0]
    assert item.contours[0].points[0, 0] == 2
    assert vars(replace(item, contours=())) == vars(replace(theirs, contours=()))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (0x900, 0x208, 0xB08),  # closed, becomes scattered
        (0x908, 0x208, 0xB08),
        (0xB08, 0x208, 0xB08),
        (0xB00, 0x208, 0xB00),  # scattered without the bit for open: as scattered
        (0xB08, 0x000, 0x900),  # becomes closed
        (0xB08, 0x008, 0x908),
        (0x900, 0x008, 0x908),
    ],
)
def test_the_type_follows_the_new_points(old, new, expected):
    data = file_of(encode_object(Object("a", (Contour(np.zeros((1, 3))),), flags=old)))
    item = Object("a", (Contour(np.ones((1, 3))),), flags=new)
    assert decode_model(replace_objects(data, [item])).objects[0].flags == expected


def test_the_default_size_stays_unless_a_point_would_become_a_sphere_by_it():
    data = file_of(encode_object(replace(spheres(sphere(1, 5, 1)), pdrawsize=6)))
    assert decode_model(replace_objects(data, [spheres(sphere(2, 5, 1))])).objects[0].pdrawsize == 6
    bare = replace(spheres(), contours=(Contour(np.ones((1, 3))),))
    assert decode_model(replace_objects(data, [bare])).objects[0].pdrawsize == 0
    unsized = replace(spheres(), contours=(Contour(np.ones((1, 3)), np.array([-1.0])),), pdrawsize=3)
    assert decode_model(replace_objects(data, [unsized])).objects[0].pdrawsize == 3


def test_objects_of_one_name_are_taken_in_turn():
    data = file_of(*(encode_object(spheres(sphere(float(i), 5, i))) for i in (1, 2)))
    new = [spheres(sphere(float(i), 5, i)) for i in (11, 12, 13)]
    model = decode_model(replace_objects(data, new))
    assert [item.contours[0].surface for item in model.objects] == [11, 12, 13]
    model = decode_model(replace_objects(data, new[:1]))
    assert [item.contours[0].surface for item in model.objects] == [11, 2]


def test_names_in_latin_1_are_found_and_bytes_behind_the_name_kept():
    body = bytearray(encode_object(spheres(sphere(1, 5, 1), name="vésicules µ")))
    body[40:44] = b"junk"  # left in memory behind the NUL
    changed = replace_objects(file_of(bytes(body)), [spheres(sphere(2, 6, 1), name="vésicules µ")])
    assert len(decode_model(changed).objects) == 1
    assert by_object(changed)[0][0].data[4:68] == body[4:68]


def test_a_model_without_objects_takes_some():
    data = file_of(tail=OF_MODEL[0] + OF_MODEL[3])
    changed = replace_objects(data, [spheres(sphere(1, 5, 1)), Object("b")])
    assert [item.name for item in decode_model(changed).objects] == ["vesicles", "b"]
    assert changed.endswith(OF_MODEL[0] + OF_MODEL[3] + b"IEOF")


def test_many_contours_take_no_time():
    many = spheres(*(sphere(float(i), 5, i) for i in range(1, 5001)))
    data = file_of(encode_object(many))
    moved = spheres(*many.contours[1:], sphere(0.5, 5, 6000))
    assert len(decode_model(replace_objects(data, [moved])).objects[0].contours) == 5000


def test_what_cannot_be_changed_is_refused():
    with pytest.raises(ModelFormatError, match="open it in 3dmod and save it"):
        replace_objects(b"# imod ascii file version 2.0\n\nimod 0\n", [])
    with pytest.raises(ModelFormatError):
        replace_objects(b"MRC", [])
    data = file_of(encode_object(spheres(sphere(1, 5, 1))))
    for bad in (
        Object("名"),
        spheres(sphere(np.nan, 5, 1)),
        spheres(sphere(1, np.inf, 1)),
        spheres(sphere(1, 5, 2**31)),
    ):
        with pytest.raises(ValueError):
            replace_objects(data, [bad])
