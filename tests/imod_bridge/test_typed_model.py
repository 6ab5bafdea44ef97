"""Models as typed objects: written bytes at their documented places, read back exactly, by imodmodel too."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from imodmodel import ImodModel

from imod_bridge.binary import walk
from imod_bridge.model import (
    Contour,
    ImageReference,
    Model,
    Object,
    decode_model,
    encode_model,
    read_model,
    write_model,
)

FLOAT32 = st.floats(-1e6, 1e6, width=32)
NAMES = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=63)


@st.composite
def contours(draw):
    count = draw(st.integers(0, 4))
    points = draw(hnp.arrays(np.float64, (count, 3), elements=FLOAT32))
    sizes = draw(st.none() | hnp.arrays(np.float64, (count,), elements=FLOAT32))
    return Contour(
        points,
        sizes,
        surface=draw(st.integers(-(2**31), 2**31 - 1)),
        flags=draw(st.integers(0, 2**32 - 1)),
        time=draw(st.integers(0, 1000)),
    )


OBJECTS = st.builds(
    Object,
    name=NAMES,
    contours=st.lists(contours(), max_size=3).map(tuple),
    colour=st.tuples(*[st.floats(0, 1, width=32)] * 3),
    flags=st.integers(0, 2**32 - 1),
    pdrawsize=st.integers(0, 1000),
    point_limit=st.integers(0, 1000),
    symbol=st.integers(0, 255),
    symbol_size=st.integers(0, 255),
    line_width=st.integers(0, 255),
    transparency=st.integers(0, 100),
    sphere_quality=st.integers(0, 3),
)
MODELS = st.builds(
    Model,
    objects=st.lists(OBJECTS, max_size=3).map(tuple),
    name=NAMES,
    image_size=st.tuples(*[st.integers(0, 10_000)] * 3),
    flags=st.integers(0, 2**32 - 1),
    pixel_size=st.floats(0.0625, 128, width=32),
    units=st.sampled_from([0, 3, 1, -2, -3, -6, -9, -10, -12]),
    z_scale=st.floats(0.125, 8, width=32),
    image_reference=st.none() | st.binary(min_size=72, max_size=72).map(ImageReference),
)


@settings(deadline=None, max_examples=80)
@given(model=MODELS)
def test_any_model_reads_back_exactly_and_encodes_to_the_same_bytes(model):
    data = encode_model(model)
    back = decode_model(data)
    for name in ("name", "image_size", "flags", "pixel_size", "units", "z_scale", "image_reference"):
        assert getattr(back, name) == getattr(model, name)
    assert len(back.objects) == len(model.objects)
    for item, expected in zip(back.objects, model.objects, strict=True):
        for name in ("name", "colour", "flags", "pdrawsize", "point_limit", "symbol", "symbol_size", "line_width"):
            assert getattr(item, name) == getattr(expected, name)
        assert (item.transparency, item.sphere_quality) == (expected.transparency, expected.sphere_quality)
        for contour, wanted in zip(item.contours, expected.contours, strict=True):
            np.testing.assert_array_equal(contour.points, wanted.points)
            assert (contour.sizes is None) == (wanted.sizes is None)
            if wanted.sizes is not None:
                np.testing.assert_array_equal(contour.sizes, wanted.sizes)
            assert (contour.surface, contour.flags, contour.time) == (wanted.surface, wanted.flags, wanted.time)
    assert encode_model(back) == data


def test_fields_lie_where_the_format_has_them():
    contour = Contour(np.array([[100.5, 80.5, 30.0]]), np.array([12.25]), surface=17, flags=8, time=2)
    item = Object(
        "spheres",
        (contour,),
        colour=(0.25, 0.5, 0.75),
        flags=0x208,
        pdrawsize=9,
        point_limit=1,
        symbol=1,
        symbol_size=3,
        line_width=2,
        transparency=40,
        sphere_quality=2,
    )
    model = Model((item,), "golden", (320, 215, 52), 0x3C00, 2.25, -9, 1.0, ImageReference(bytes(range(72))))
    data = encode_model(model)

    def at(code: str, offset: int):
        values = struct.unpack_from(">" + code, data, offset)
        return values[0] if len(values) == 1 else values

    assert data[:8] == b"IMODV1.2"
    assert data[8:136] == b"golden".ljust(128, b"\0")
    assert at("3i", 136) == (320, 215, 52)
    assert at("i", 148) == 1
    assert at("I", 152) == 0x3C00
    assert at("4i", 156) == (1, 2, 0, 255)  # draw mode, mouse mode, black and white level
    assert at("6f", 172) == (0, 0, 0, 1, 1, 1)  # offsets, scales
    assert at("3i", 196) == (0, -1, -1)  # current object, contour, point
    assert at("2i", 208) == (3, 128)
    assert at("f", 216) == 2.25 and at("i", 220) == -9
    assert at("i", 224) == 0 and at("3f", 228) == (0, 0, 0)

    assert data[240:244] == b"OBJT"
    assert data[244:308] == b"spheres".ljust(64, b"\0")
    assert at("16I", 308) == (1, *[0] * 15)
    assert at("i", 372) == 1 and at("I", 376) == 0x208
    assert at("2i", 380) == (0, 1)  # axis, draw mode
    assert at("3f", 388) == (0.25, 0.5, 0.75)
    assert at("i", 400) == 9
    assert at("8B", 404) == (1, 3, 1, 2, 0, 0, 0, 40)
    assert at("2i", 412) == (0, 17)  # meshes, largest surface

    assert data[420:424] == b"CONT"
    assert at("iIii", 424) == (1, 8, 2, 17)
    assert at("3f", 440) == (100.5, 80.5, 30.0)
    assert data[452:456] == b"SIZE" and at("i", 456) == 4 and at("f", 460) == 12.25
    assert data[464:468] == b"IMAT" and at("i", 468) == 16
    assert at("8B", 472) == (102, 255, 127, 4, 0, 0, 0, 2)
    assert at("4B", 484) == (0, 255, 0, 0)
    assert data[488:492] == b"MINX" and at("i", 492) == 72 and data[496:568] == bytes(range(72))
    assert data[568:] == b"IEOF"


def test_imodmodel_reads_what_is_written(tmp_path):
    path = tmp_path / "ours.mod"
    sized = Contour(np.array([[1.25, 2.5, 3.0], [4.5, 5.75, -0.5]]), np.array([7.125, -1.0]), surface=5)
    bare = Contour(np.array([[9.5, 8.5, 7.0]]))
    item = Object("vesicles", (sized, bare), colour=(0.0, 0.5, 1.0), flags=0x208, pdrawsize=3, sphere_quality=2)
    reference = ImageReference(struct.pack(">18f", *range(18)))
    write_model(path, Model((item, Object("none")), "m", (11, 12, 13), 0x3C00, 0.5, -9, 1.0, reference))
    read = ImodModel.from_file(path)
    header = read.header
    assert (header.xmax, header.ymax, header.zmax, header.objsize) == (11, 12, 13, 2)
    assert (header.pixelsize, header.units, header.zscale, int(header.flags)) == (0.5, -9, 1.0, 0x3C00)
    first, second = read.objects
    assert (first.header.name, second.header.name) == ("vesicles", "none")
    assert first.header.flags.scattered and first.header.flags.open
    assert first.color == (0.0, 0.5, 1.0) and first.header.pdrawsize == 3
    assert first.imat.quality == 2 and first.imat.valwhite == 255
    np.testing.assert_array_equal(first.contours[0].points, sized.points)
    np.testing.assert_array_equal(first.contours[0].point_sizes, sized.sizes)
    assert first.contours[0].header.surf == 5
    np.testing.assert_array_equal(first.contours[1].points, bare.points)
    assert first.contours[1].point_sizes is None
    assert read.minx.ctrans == (12.0, 13.0, 14.0)


@pytest.mark.parametrize(
    "name",
    [
        "meshed_contour_example.mod",
        "meshed_curvature_example.mod",
        "multiple_objects_example.mod",
        "point_sizes_example.mod",
        "slicer_angle_example.mod",
        "two_contour_example.mod",
    ],
)
def test_real_files_read_as_imodmodel_reads_them(name, shared_data):
    path = shared_data(f"imod_models/{name}")
    ours, theirs = read_model(path), ImodModel.from_file(path)
    assert ours.image_size == (theirs.header.xmax, theirs.header.ymax, theirs.header.zmax)
    assert [item.name for item in ours.objects] == [item.header.name for item in theirs.objects]
    np.testing.assert_array_equal(ours.image_reference.spacing, theirs.minx.cscale)
    np.testing.assert_array_equal(ours.image_reference.origin, theirs.minx.otrans)
    np.testing.assert_array_equal(ours.image_reference.translation, theirs.minx.ctrans)
    for mine, its in zip(ours.objects, theirs.objects, strict=True):
        assert len(mine.contours) == len(its.contours)
        assert mine.flags == int(its.header.flags)
        for a, b in zip(mine.contours, its.contours, strict=True):
            np.testing.assert_array_equal(a.points, b.points)
            assert (a.sizes is None) == (b.point_sizes is None)
            if a.sizes is not None:
                np.testing.assert_array_equal(a.sizes, b.point_sizes)
    written = [c.data for c in walk(encode_model(ours)) if c.id in ("CONT", "SIZE", "MINX")]
    assert written == [c.data for c in walk(path.read_bytes()) if c.id in ("CONT", "SIZE", "MINX")]


def test_names_in_latin_1_and_high_flag_bits_survive():
    item = Object("vésicules µ", flags=0xE0000208)
    back = decode_model(encode_model(Model((item,), "modèle", flags=0x80003C00)))
    assert back.name == "modèle" and back.flags == 0x80003C00
    assert back.objects[0].name == "vésicules µ" and back.objects[0].flags == 0xE0000208


@pytest.mark.parametrize(
    "model",
    [
        Model(name="x" * 128),
        Model((Object("名"),)),
        Model((Object("x" * 64),)),
        Model((Object("a\0b"),)),
        Model((Object("o", (Contour(np.array([[np.nan, 0, 0]])),)),)),
        Model((Object("o", (Contour(np.zeros((1, 3)), np.array([np.inf])),)),)),
        Model((Object("o", (Contour(np.array([[1e39, 0, 0]])),)),)),
        Model((Object("o", (Contour(np.zeros((1, 3)), surface=2**31),)),)),
        Model((Object("o", symbol=300),)),
        Model(image_size=(2**31, 1, 1)),
    ],
)
def test_what_the_format_cannot_hold_is_refused_before_a_file_is_touched(model, tmp_path):
    path = tmp_path / "a.mod"
    path.write_bytes(b"older")
    with pytest.raises(ValueError):
        write_model(path, model)
    assert path.read_bytes() == b"older"


def test_contours_check_their_shapes():
    with pytest.raises(ValueError, match="shape"):
        Contour(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="sizes"):
        Contour(np.zeros((3, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="72"):
        ImageReference(b"short")


def test_radii_take_the_default_for_negative_sizes_only():
    item = Object(pdrawsize=6)
    np.testing.assert_array_equal(item.radii(Contour(np.zeros((3, 3)), np.array([-1.0, 0.0, 2.5]))), [6.0, 0.0, 2.5])
    np.testing.assert_array_equal(item.radii(Contour(np.zeros((2, 3)))), [6.0, 6.0])
    np.testing.assert_array_equal(Object().radii(Contour(np.zeros((1, 3)), np.array([-1.0]))), [0.0])


@pytest.mark.parametrize(
    ("size", "units", "nm"), [(1.5, -9, 1.5), (15.0, -10, 1.5), (1.5e-3, -6, 1.5), (1500.0, -12, 1.5), (7.0, 0, None)]
)
def test_pixel_size_in_nm(size, units, nm):
    assert Model(pixel_size=size, units=units).pixel_size_nm == (None if nm is None else pytest.approx(nm))


def test_closed_and_open_contours():
    plain, opened = Contour(np.zeros((3, 3))), Contour(np.zeros((3, 3)), flags=8)
    assert Object(flags=0).is_closed(plain) and not Object(flags=0).is_closed(opened)
    assert not Object(flags=8).is_closed(plain) and not Object(flags=0x208).is_closed(plain)
    assert Object(flags=0x208).is_scattered and Object(flags=0x200).is_scattered and not Object(flags=8).is_scattered
