"""Axis order, half voxels, exchanged axes and loaded subsets, against what 3dmod does."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from imod_bridge import ModelFormatError
from imod_bridge.coordinates import (
    exchange_yz,
    image_shape_zyx,
    index_to_model,
    index_to_stored,
    model_to_index,
    shape_to_model,
    stored_to_index,
    subset_start,
)
from imod_bridge.model import MODEL_ORIGIN_STORED, MODEL_YZ_EXCHANGED, ImageReference, Model

GARBAGE = (float("nan"), 1e-42, float("inf"))


def reference(spacing, origin, translation) -> ImageReference:
    """An image reference with nonsense where 3dmod leaves memory uninitialised."""
    return ImageReference(struct.pack(">18f", *GARBAGE, *origin, *GARBAGE, *spacing, *translation, 0, 0, 0))


def test_a_click_in_the_middle_of_a_voxel():
    # 3dmod stores a click in the middle of voxel x 100, y 80 on slice 30 (from 0) as 100.5, 80.5, 30.
    np.testing.assert_array_equal(model_to_index([[100.5, 80.5, 30.0]]), [[30.0, 80.0, 100.0]])
    np.testing.assert_array_equal(index_to_model([[30.0, 80.0, 100.0]]), [[100.5, 80.5, 30.0]])


def test_the_corner_of_the_volume():
    # x and y range from 0, z from -0.5; the outer corner of the first voxel is -0.5 in every index.
    np.testing.assert_array_equal(model_to_index([[0.0, 0.0, -0.5]]), [[-0.5, -0.5, -0.5]])
    nx, ny, nz = 7, 9, 11
    np.testing.assert_array_equal(model_to_index([[nx, ny, nz - 0.5]]), [[nz - 0.5, ny - 0.5, nx - 0.5]])


def test_there_and_back(rng):
    points = rng.uniform(-5, 900, (50, 3))
    np.testing.assert_allclose(model_to_index(index_to_model(points)), points, rtol=0, atol=1e-12)
    assert index_to_model(np.zeros((0, 3))).shape == (0, 3)
    assert model_to_index([]).shape == (0, 3)
    with pytest.raises(ValueError, match="shape"):
        index_to_model([[1.0, 2.0]])


def test_exchanged_axes():
    model = Model(image_size=(300, 52, 215), flags=0x3C00 | MODEL_YZ_EXCHANGED)
    # stored with y and z exchanged: x 100.5, y 80.5, z 30 lies in the file as 100.5, 30, 80.5
    np.testing.assert_array_equal(stored_to_index([[100.5, 30.0, 80.5]], model), [[30.0, 80.0, 100.0]])
    np.testing.assert_array_equal(index_to_stored([[30.0, 80.0, 100.0]], model), [[100.5, 30.0, 80.5]])
    assert image_shape_zyx(model) == (52, 215, 300)
    assert image_shape_zyx(Model(image_size=(300, 215, 52))) == (52, 215, 300)
    assert shape_to_model((52, 215, 300)) == (300, 215, 52)
    np.testing.assert_array_equal(exchange_yz([[1.0, 2.0, 3.0]]), [[1.0, 3.0, 2.0]])


def test_a_loaded_subset():
    # 3dmod, part of the volume from x 20, z 10 at 12.5 angstrom: it stored the translation (-250, 0, -125)
    stored = reference((12.5,) * 3, (0, 0, 0), (-250, 0, -125))
    model = Model(flags=0xFC00, image_reference=stored)
    np.testing.assert_array_equal(subset_start(model), [20.0, 0.0, 10.0])
    np.testing.assert_array_equal(stored_to_index([[1.5, 2.5, 3.0]], model), [[13.0, 2.0, 21.0]])
    np.testing.assert_array_equal(index_to_stored([[13.0, 2.0, 21.0]], model), [[1.5, 2.5, 3.0]])


def test_an_exchanged_subset():
    stored = reference((12.5,) * 3, (0, 0, 0), (-250, 0, -125))
    model = Model(flags=0xFC00 | MODEL_YZ_EXCHANGED, image_reference=stored)
    np.testing.assert_array_equal(stored_to_index([[1.5, 3.0, 2.5]], model), [[13.0, 2.0, 21.0]])
    np.testing.assert_array_equal(index_to_stored([[13.0, 2.0, 21.0]], model), [[1.5, 3.0, 2.5]])


def test_an_origin_alone_moves_nothing():
    shifted = reference((12.5,) * 3, (-1250, 625, 2500), (-1250, 625, 2500))
    np.testing.assert_array_equal(subset_start(Model(flags=0xFC00, image_reference=shifted)), [0, 0, 0])
    np.testing.assert_array_equal(subset_start(Model()), [0, 0, 0])
    # without the flag the origin field means nothing
    unflagged = Model(flags=0xFC00 & ~MODEL_ORIGIN_STORED, image_reference=reference((1,) * 3, (9, 9, 9), (0, 0, 0)))
    np.testing.assert_array_equal(subset_start(unflagged), [0, 0, 0])


def test_float32_noise_of_the_start_is_removed():
    spacing, origin = np.float32(10.68), np.float32(-12345.678)
    model = Model(flags=0xFC00, image_reference=reference((spacing,) * 3, (origin,) * 3, (origin - 137 * spacing,) * 3))
    np.testing.assert_array_equal(subset_start(model), [137.0, 137.0, 137.0])


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_reference_is_refused(spacing):
    model = Model(flags=0xFC00, image_reference=reference((spacing, 1, 1), (0, 0, 0), (5, 0, 0)))
    with pytest.raises(ModelFormatError, match="MINX"):
        stored_to_index([[1.0, 2.0, 3.0]], model)
