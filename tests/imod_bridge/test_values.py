"""Values per contour: as IMOD's own programs write them, and nothing else of a file changes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imod_bridge import fields
from imod_bridge.binary import walk
from imod_bridge.model import SCATTERED_OBJECT, Contour, Model, Object, decode_model, encode_model
from imod_bridge.update import replace_objects
from imod_bridge.values import FLAG_FALSE_COLOUR, FLAG_VALUES, read_values, with_values


def balls(name: str, count: int) -> Object:
    contours = tuple(Contour(np.full((1, 3), float(i)), np.array([3.0]), surface=10 + i) for i in range(count))
    return Object(name, contours, flags=SCATTERED_OBJECT)


@pytest.fixture
def data() -> bytes:
    return encode_model(Model((balls("a", 3), balls("b", 2)), image_size=(30, 20, 10)))


def test_values_come_back_and_mark_the_object_alone(data: bytes) -> None:
    changed = with_values(data, {0: {0: 1.5, 2: -2.0}})
    assert read_values(data) == [{}, {}]
    assert read_values(changed) == [{0: 1.5, 2: -2.0}, {}]
    first, second = decode_model(changed).objects
    assert first.flags == SCATTERED_OBJECT | FLAG_VALUES | FLAG_FALSE_COLOUR and second.flags == SCATTERED_OBJECT
    assert [c.surface for c in first.contours] == [10, 11, 12]
    before, after = walk(data), walk(changed)
    assert [c.data for c in after if c.id not in ("OBST", "OBJT")] == [c.data for c in before if c.id != "OBJT"]
    assert [c.id for c in after] == [
        *("IMOD", "OBJT", *("CONT", "SIZE") * 3, "IMAT", "OBST"),
        *("OBJT", *("CONT", "SIZE") * 2, "IMAT", "IEOF"),
    ]


def test_objects_share_their_limits_which_come_last(data: bytes) -> None:
    changed = with_values(data, {0: {1: 4.0, 0: 2.0}, 1: {1: 9.0, 0: float("nan")}})
    stores = [chunk.payload for chunk in walk(changed) if chunk.id == "OBST"]
    assert [struct.unpack(">hHff", store[-12:]) for store in stores] == [(11, 21, 2.0, 9.0)] * 2
    assert [struct.unpack(">hHif", stores[0][i : i + 12]) for i in (0, 12)] == [(10, 4, 0, 2.0), (10, 4, 1, 4.0)]
    assert read_values(changed)[1] == {1: 9.0}


def test_the_form_is_that_of_a_file_of_imod(shared_data: Callable[[str], Path]) -> None:
    """imodcurvature's values: the same types and flags, the same flags of the object."""
    real = shared_data("imod_models/meshed_curvature_example.mod").read_bytes()
    limits = [chunk.payload for chunk in walk(real) if chunk.id == "OBST"]
    assert [struct.unpack(">hH", payload[:4]) for payload in limits] == [(11, 21)] * 2
    points = next(chunk.payload for chunk in walk(real) if chunk.id == "COST")
    assert struct.unpack(">hH", points[:4]) == (10, 4)
    flags = fields.OBJECT.get(next(c.payload for c in walk(real) if c.id == "OBJT"), "flags")
    assert flags & FLAG_VALUES and flags & FLAG_FALSE_COLOUR


def test_a_file_of_imod_keeps_every_other_chunk(shared_data: Callable[[str], Path]) -> None:
    real = shared_data("imod_models/meshed_curvature_example.mod").read_bytes()
    changed = with_values(real, {1: {0: 7.0}})
    assert read_values(changed) == [{}, {0: 7.0}]
    kept = [c.data for c in walk(real) if c.id not in ("OBST", "OBJT")]
    assert [c.data for c in walk(changed) if c.id not in ("OBST", "OBJT")] == kept
    ids = [c.id for c in walk(changed)]
    assert ids == [c.id for c in walk(real)]  # the limits were there, in the same place
    assert with_values(changed, {1: {0: 7.0}}) == changed


def test_other_properties_of_the_object_stay_in_order(data: bytes) -> None:
    once = with_values(data, {0: {0: 1.0, 1: 2.0}})
    red = fields.STORE_ITEM.pack({"type": 1, "flags": 12, "index": 1, "value": b"\xff\0\0\0"})
    chunks = walk(once)
    store = next(c for c in chunks if c.id == "OBST")
    put = once.replace(store.data, b"OBST" + struct.pack(">i", len(store.payload) + 12) + red + store.payload)
    twice = with_values(put, {0: {0: 5.0, 1: 6.0}})
    items = next(c.payload for c in walk(twice) if c.id == "OBST")
    kinds = [struct.unpack(">hHi", items[i : i + 8])[::2] for i in range(0, len(items) - 12, 12)]
    assert kinds == [(10, 0), (1, 1), (10, 1)]


def test_one_value_alone_has_a_range(data: bytes) -> None:
    store = next(c.payload for c in walk(with_values(data, {0: {0: 3.0}})) if c.id == "OBST")
    assert struct.unpack(">ff", store[-8:]) == (3.0, 4.0)
    given = next(c.payload for c in walk(with_values(data, {0: {0: 3.0}}, limits=(0, 10))) if c.id == "OBST")
    assert struct.unpack(">ff", given[-8:]) == (0.0, 10.0)


def test_values_follow_their_contours_when_objects_are_replaced(data: bytes) -> None:
    """As after a round of corrections: the first contour is deleted."""
    changed = with_values(data, {0: {0: 1.0, 2: 3.0}})
    item = decode_model(changed).objects[0]
    shorter = Object(item.name, item.contours[1:], flags=item.flags)
    assert read_values(replace_objects(changed, [shorter]))[0] == {1: 3.0}


@pytest.mark.parametrize(
    "values, message",
    [({2: {0: 1.0}}, "2 objects"), ({0: {3: 1.0}}, "3 contours"), ({0: {0: 1e39}}, "32 bits")],
)
def test_what_is_not_there_is_refused(data: bytes, values: dict[int, dict[int, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_values(data, values)
