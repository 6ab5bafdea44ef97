"""Models in ASCII form: all that is kept of them, the same as from the binary form, and damaged ones."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imod_bridge import ModelFormatError
from imod_bridge.ascii import decode_ascii, is_ascii
from imod_bridge.binary import read_chunks
from imod_bridge.model import (
    MODEL_ORIGIN_STORED,
    MODEL_TILTS_STORED,
    MODEL_YZ_EXCHANGED,
    NEW_MODEL_FLAGS,
    Model,
    Object,
    decode_model,
    encode_model,
    read_model,
)
from imod_bridge.update import replace_objects
from tests.imod_bridge.test_binary import REAL_FILES
from tests.imod_bridge.test_typed_model import MODELS

SAMPLE = """\
# imod ascii file version 2.0

imod 3
max 320 215 52
offsets 0 0 0
angles 0 0 0
scale 1 1 2.5
mousemode  1
drawmode   1
b&w_level  51,232
resolution 3
threshold  128
pixsize    1.25
units      nm
flipped    1
refcurscale 12.5 12.5 12.5
refcurtrans -250 0 -125
refcurrot 1 2 3
refoldtrans 4 5 6
slicerAngle 0 1 2 3 10 20 30 object like this
currentview  1
view 1
viewfovy  0
viewlabel name of a view
globalclips 1 1 0 0
0 0 1 5 6 7

object 0 3 0
name vésicules µ # 2
color 0.25 0.5 0.75 40
Fillcolor 1 2 3
open
scattered
fill
nolines
usevalue
linewidth 2
surfsize  9
pointsize 6
axis      0
drawmode  1
width2D   1
symbol    3
symsize   5
symflags  1
ambient   102
obquality 2
valblack  0
objclips 1 1 0 0
0 0 1 5 6 7
valminmax 0 1
newdirective of a later version
contour 0 17 2 0.5
100.5 80.5 30 12.25
# a comment, and an empty line

1e2 -80.5 +.5
contflags 16
conttime 4
contour 1 0 1
1 2 3 -1 0.75
contour 2 3 0

object 1 1 1
name
color 1 0 0
closed
nodraw
contour 0 0 3
1 1 5
2 1 5
2 2 5
mesh 0 2 3
1 1 5
0 0 1
-25
0
-22
Meshflags 65536

object 2 0 0
# end of IMOD model
"""


def encoded(text: str) -> bytes:
    return text.encode("latin-1")


def line_of(text: str, part: str) -> int:
    """Number of the first line that has this part, counted from 1."""
    return next(i for i, line in enumerate(text.split("\n"), start=1) if part in line)


def test_a_file_with_every_directive():
    model = decode_ascii(encoded(SAMPLE))
    assert model.image_size == (320, 215, 52)
    assert (model.pixel_size, model.units, model.z_scale) == (1.25, -9, 2.5)
    assert model.flags == NEW_MODEL_FLAGS | MODEL_YZ_EXCHANGED | MODEL_TILTS_STORED | MODEL_ORIGIN_STORED
    assert model.image_reference.spacing.tolist() == [12.5, 12.5, 12.5]
    assert model.image_reference.translation.tolist() == [-250, 0, -125]
    assert model.image_reference.origin.tolist() == [4, 5, 6]
    spheres, outline, empty = model.objects
    expected = Object("vésicules µ # 2", (), (0.25, 0.5, 0.75), 0x1B08, 6, 0, 3, 5, 2, 40, 2)
    assert vars(replace(spheres, contours=())) == vars(expected)
    first, second, third = spheres.contours
    np.testing.assert_array_equal(first.points, [[100.5, 80.5, 30.0], [100.0, -80.5, 0.5]])
    np.testing.assert_array_equal(first.sizes, [12.25, -1.0])
    assert (first.surface, first.flags, first.time) == (17, 16, 4)
    np.testing.assert_array_equal(second.points, [[1.0, 2.0, 3.0]])
    assert second.sizes is None and (second.surface, second.flags) == (0, 0)
    assert third.points.shape == (0, 3) and third.surface == 3
    assert outline.name == "" and outline.flags == 2 and outline.colour == (1.0, 0.0, 0.0)
    assert outline.is_closed(outline.contours[0]) and len(outline.contours[0].points) == 3
    assert empty.contours == () and empty.name == ""
    # it can be written in binary form
    back = decode_model(encode_model(model))
    assert_same(back, model)
    assert back.flags == model.flags and back.image_reference == model.image_reference


def test_reading_takes_either_form(tmp_path):
    path = tmp_path / "a.mod"
    for data in (encoded(SAMPLE), encoded(SAMPLE).replace(b"\n", b"\r\n"), encoded(SAMPLE).rstrip(b"\n")):
        assert is_ascii(data)
        path.write_bytes(data)
        assert_same(read_model(path), decode_ascii(encoded(SAMPLE)))
        assert_same(decode_model(data), decode_ascii(encoded(SAMPLE)))
        with pytest.raises(ModelFormatError, match="ASCII"):
            read_chunks(path)
        with pytest.raises(ModelFormatError, match="ASCII"):
            replace_objects(data, [])
    binary = encode_model(decode_ascii(encoded(SAMPLE)))
    assert not is_ascii(binary)
    path.write_bytes(binary)
    assert_same(read_model(path), decode_ascii(encoded(SAMPLE)))


def assert_same(model: Model, expected: Model) -> None:
    """Objects of two models agree in all that the ASCII form has."""
    assert len(model.objects) == len(expected.objects)
    for item, wanted in zip(model.objects, expected.objects, strict=True):
        assert vars(replace(item, contours=())) == vars(replace(wanted, contours=()))
        for contour, other in zip(item.contours, wanted.contours, strict=True):
            np.testing.assert_array_equal(contour.points, other.points)
            assert (contour.surface, contour.flags, contour.time) == (other.surface, other.flags, other.time)
            assert (contour.sizes is None) == (other.sizes is None)
            if other.sizes is not None:
                np.testing.assert_array_equal(contour.sizes, other.sizes)


WORDS = {
    1: "nodraw", 3: "open", 5: "insideout", 6: "pntusefill", 7: "pntonsec", 8: "fill", 9: "scattered", 10: "drawmesh",
    11: "nolines", 12: "usevalue", 14: "usefill", 15: "antialias", 17: "valcolor", 18: "hastimes", 19: "bothsides",
}  # fmt: skip
UNITS = {0: "pixels", 3: "km", 1: "m", -2: "cm", -3: "mm", -6: "um", -9: "nm", -10: "A", -12: "pm"}


def as_text(model: Model) -> str:
    """A model in ASCII form, with enough digits for float32."""
    lines = ["# made by a test", f"imod {len(model.objects)}", "max {} {} {}".format(*model.image_size)]
    lines += [f"scale 1 1 {model.z_scale!r}", f"pixsize {model.pixel_size!r}", f"units {UNITS[model.units]}"]
    for number, item in enumerate(model.objects):
        lines += ["", f"object {number} {len(item.contours)} 0", f"name {item.name}"]
        lines += ["color {!r} {!r} {!r}".format(*item.colour) + f" {item.transparency}"]
        lines += [word for bit, word in WORDS.items() if item.flags >> bit & 1]
        lines += [f"linewidth {item.line_width}", f"pointsize {item.pdrawsize}", f"symbol {item.symbol}"]
        lines += [f"symsize {item.symbol_size}", f"obquality {item.sphere_quality}"]
        for place, contour in enumerate(item.contours):
            lines.append(f"contour {place} {contour.surface} {len(contour.points)}")
            sizes = [None] * len(contour.points) if contour.sizes is None else contour.sizes
            for point, size in zip(contour.points, sizes, strict=True):
                lines.append(" ".join(f"{value:.9g}" for value in (*point, *([] if size is None else [size]))))
            lines += [f"contflags {contour.flags}"] * (contour.flags != 0)
            lines += [f"conttime {contour.time}"] * (contour.time != 0)
    return "\n".join([*lines, "# end of IMOD model", ""])


def as_ascii_has_it(model: Model) -> Model:
    """What of a model its ASCII form can hold."""
    known = sum(1 << bit for bit in WORDS)

    def contour(old):
        sizes = old.sizes if old.sizes is not None and (old.sizes >= 0).any() else None
        return replace(old, sizes=None if sizes is None else np.where(sizes < 0, -1.0, sizes))

    objects = tuple(
        replace(item, flags=item.flags & known, point_limit=0, contours=tuple(map(contour, item.contours)))
        for item in model.objects
    )
    return replace(model, objects=objects)


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_models_are_the_same_in_both_forms(name, shared_data):
    model = read_model(shared_data(f"imod_models/{name}"))
    back = decode_ascii(encoded(as_text(model)))
    assert_same(back, as_ascii_has_it(model))
    assert (back.image_size, back.units, back.z_scale) == (model.image_size, model.units, model.z_scale)


# Lines end at these, in any text.
PLAIN_NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=63)


@settings(deadline=None, max_examples=60)
@given(model=MODELS, name=PLAIN_NAMES)
def test_any_model_is_the_same_in_both_forms(model, name):
    model = replace(model, objects=tuple(replace(item, name=name) for item in model.objects))
    wanted = as_ascii_has_it(decode_model(encode_model(model)))
    assert_same(decode_ascii(encoded(as_text(model))), wanted)


# ---- damaged files


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("imod 3", "imod three", "imod three", "number of objects"),
        ("imod 3", "imod -1", "object 0", "numbered from 0"),
        ("imod 3", "imod 4", "# end", "declares 4 objects, but has 3"),
        ("imod 3", "imod 2", "object 2", "numbered from 0"),
        ("imod 3", "imod 2000000000", "# end", "declares 2000000000"),
        ("imod 3", "imod 3.5", "imod 3.5", "number of objects"),
        ("imod 3", "model 3", "model 3", "expected 'imod'"),
        ("max 320", "max many", "max many", "max x y z"),
        ("scale 1 1 2.5", "scale 1 1", "scale 1 1", "scale x y z"),
        ("refoldtrans 4 5 6", "refoldtrans 4 nan 6", "refoldtrans", "refoldtrans x y z"),
        ("pixsize    1.25", "pixsize 1_000", "pixsize", "pixsize"),
        ("object 1 1 1", "object 0 1 1", "object 0 1 1", "twice"),
        ("object 1 1 1", "object -1 1 1", "object -1", "numbered from 0"),
        ("object 1 1 1", "object 1", "object 1", "object"),
        ("object 1 1 1", "object 1 2 1", "# end", "declares 2 contours, but has 1"),
        ("object 1 1 1", "object 1 1 2", "# end", "declares 2 meshes, but has 1"),
        ("object 0 3 0", "object 0 2000000000 0", "# end", "declares 2000000000 contours"),
        ("contour 0 17 2 0.5", "contour 0 17 2000000000", "contflags", "a point"),
        ("contour 0 17 2 0.5", "contour 0 17 -2", "contour 0 17", "impossible"),
        ("contour 0 17 2 0.5", "contour 0 17 1e99", "contour 0 17", "contour"),
        ("contour 0 17 2 0.5", "contour 0 3000000000 2", "contour 0 3", "impossible"),
        ("contour 0 17 2 0.5", "contour 7 17 2", "contour 7", "numbered from 0"),
        ("contour 0 17 2 0.5", "contour 0 17 3", "contflags", "a point"),
        ("contour 1 0 1", "contour 0 0 1", "contour 0 0 1", "twice"),
        ("100.5 80.5 30 12.25", "100.5 80.5", "100.5 80.5", "a point"),
        ("100.5 80.5 30 12.25", "100.5 x 30", "100.5 x", "a point"),
        ("100.5 80.5 30 12.25", "100.5 80.5 inf", "100.5 80.5 inf", "a point"),
        ("100.5 80.5 30 12.25", "1 2 3 4 5 6", "1 2 3 4 5 6", "a point"),
        ("100.5 80.5 30 12.25", "1e39 2 3", "1e2", "too large"),
        ("100.5 80.5 30 12.25", "1e9999 2 3", "1e9999", "a point"),
        ("conttime 4", "conttime soon", "conttime", "whole number"),
        ("symbol    3", "symbol star", "symbol", "whole number"),
        ("color 0.25", "color red", "color red", "color"),
        ("mesh 0 2 3", "mesh 0 2000000000 3", "Meshflags", "vertex"),
        ("mesh 0 2 3", "mesh 0 -2 3", "mesh 0", "impossible"),
        ("mesh 0 2 3", "mesh 1 2 3", "mesh 1", "numbered from 0"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old, new, where, message):
    text = SAMPLE.replace(old, new, 1)
    assert text != SAMPLE
    last = len(SAMPLE.split("\n"))
    line = last if where == "# end" else line_of(text, where)
    with pytest.raises(ModelFormatError, match=message) as caught:
        decode_ascii(encoded(text))
    assert f"line {line}:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_contours_and_meshes_need_an_object():
    for text in ("imod 1\ncontour 0 0 0\n", "imod 1\nmesh 0 0 0\n"):
        with pytest.raises(ModelFormatError, match="line 2: .* before any object"):
            decode_ascii(encoded(text))


def test_a_file_cut_anywhere_before_the_last_object_is_refused():
    data = encoded(SAMPLE)
    end = data.index(b"object 2 0 0") + len("object 2 ")
    for length in range(1, end):
        with pytest.raises(ModelFormatError, match="line|starts with|empty|header"):
            decode_model(data[:length])


def test_a_cut_within_a_contour_says_so():
    text = SAMPLE[: SAMPLE.index("2 2 5\n")]
    with pytest.raises(ModelFormatError, match="after 2 of the 3 points of a contour: it is cut short"):
        decode_ascii(encoded(text))


@pytest.mark.parametrize(
    "text",
    [
        "imod 2000000000\n",
        "imod 1\nobject 0 2000000000 2000000000\n",
        "imod 1\nobject 0 1 0\ncontour 0 0 2000000000\n",
        "imod 1\nobject 0 0 1\nmesh 0 2000000000 2000000000\n",
        "imod 1" + "0" * 100_000 + "\n",
        "imod 1\nobject 0 1 0\ncontour 0 0 1\n" + "1" * 100_000 + " 2 3\n",
    ],
)
def test_absurd_counts_take_neither_memory_nor_time(text):
    data = encoded(text)
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFormatError) as caught:
            decode_ascii(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 + 10 * len(data)
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5
    assert len(str(caught.value)) < 300


@settings(deadline=None, max_examples=150)
@given(places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_file_with_wrong_bytes_gives_a_model_or_the_error(places):
    data = bytearray(encoded(SAMPLE))
    for place, value in places:
        data[place % len(data)] = value
    try:
        decode_model(bytes(data))
    except ModelFormatError as error:
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=100)
@given(lines=st.lists(st.sampled_from(SAMPLE.split("\n")), max_size=30))
def test_lines_in_any_order_give_a_model_or_the_error(lines):
    try:
        decode_ascii(encoded("\n".join(["imod 3", *lines])))
    except ModelFormatError:
        pass


def test_an_image_whose_first_byte_is_a_comment_sign_is_no_model(tmp_path):
    header = (803).to_bytes(4, "little") + bytes(1020)  # an MRC file 803 voxels wide
    assert header[:1] == b"#" and not is_ascii(header)
    path = tmp_path / "tomogram.mrc"
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(1 << 40)  # sparse: no space is used
    with pytest.raises(ModelFormatError, match="starts with"):
        read_model(path)


@pytest.mark.parametrize(
    ("data", "ascii_form"),
    [
        (b"imod 2\n", True),
        (b"  imod 2", True),
        (b"\n# note\nimod 2", True),
        (b"IMODV1.2" + bytes(300), False),
        (b"imodel", False),
        (b"", False),
        (b"name,x,y\n", False),
    ],
)
def test_which_files_look_like_it(data, ascii_form):
    assert is_ascii(data) is ascii_form


def test_words_of_other_programs_are_understood():
    # eTomo's RAPTOR writes the symbol's name
    text = "imod 1\nobject 0 0 0\nname beads\nsymbol circle\nsize 7\n"
    assert decode_ascii(encoded(text)).objects[0].symbol == 0
    assert decode_ascii(encoded(text)).image_reference is None
