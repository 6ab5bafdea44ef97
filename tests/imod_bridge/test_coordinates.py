"""Axis order, half voxels, exchanged axes and loaded subsets, against what 3dmod does."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from imod_bridge import ModelFormatError
from imod_bridge.coordinates import (
    ModelFrame,
    exchange_yz,
    frame_of,
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
    with pytest.raises(ModelFormatError, match="MINX"):
        frame_of(model, (10, 20, 30), 10.0)


# ---- the frame of a model on an image

SHAPE = (52, 215, 300)
XYZ = SHAPE[::-1]


def drawn_on(shape_xyz, spacing, **other) -> Model:
    """A model that 3dmod last showed on an image of this size and spacing."""
    triple = (spacing,) * 3 if np.isscalar(spacing) else spacing
    return Model(image_size=shape_xyz, flags=0xFC00, image_reference=reference(triple, (0, 0, 0), (0, 0, 0)), **other)


def test_a_frame_on_the_own_image_is_the_plain_conversion():
    frame = frame_of(drawn_on(XYZ, 12.5), SHAPE, 12.5)
    assert frame == ModelFrame()
    np.testing.assert_array_equal(frame.to_index([[100.5, 80.5, 30.0]]), [[30.0, 80.0, 100.0]])
    np.testing.assert_array_equal(frame.to_stored([[30.0, 80.0, 100.0]]), [[100.5, 80.5, 30.0]])
    np.testing.assert_array_equal(frame.sizes_to_vox([7.25, -1.0]), [7.25, -1.0])
    assert frame.to_index([]).shape == (0, 3)


@pytest.mark.parametrize("binning", [2, 3, 4, 1 / 2, 1 / 4, 1.6])
def test_a_model_drawn_on_the_same_volume_binned(binning):
    # the model's image has voxels `binning` times as large; centres of its voxels lie where those of the blocks do
    shape = tuple(int(n // binning) for n in XYZ)
    frame = frame_of(drawn_on(shape, 10.0 * binning), SHAPE, 10.0)
    assert frame.scale == pytest.approx(binning, rel=1e-12 if binning != 1.6 else 1e-6)
    block = np.array([[4.0, 5.0, 6.0]])  # z, y, x, in the model's image
    np.testing.assert_allclose(frame.to_index(index_to_model(block)), (block + 0.5) * binning - 0.5, atol=1e-5)
    # the outer faces coincide
    np.testing.assert_allclose(frame.to_index([[0.0, 0.0, -0.5]]), [[-0.5, -0.5, -0.5]], atol=1e-12)
    np.testing.assert_allclose(frame.sizes_to_vox([8.0]), [8.0 * binning], rtol=1e-6)
    np.testing.assert_allclose(frame.vox_to_sizes([8.0 * binning]), [8.0], rtol=1e-6)


def test_the_mean_of_the_voxels_of_a_block_is_the_binned_voxel():
    frame = frame_of(drawn_on((150, 107, 26), 20.0), SHAPE, 10.0)
    block = np.array([[z, y, x] for z in (8, 9) for y in (10, 11) for x in (12, 13)], float)
    np.testing.assert_array_equal(frame.to_index(index_to_model([[4.0, 5.0, 6.0]]))[0], block.mean(axis=0))


def test_a_binning_is_a_whole_number_though_the_pixel_sizes_are_rounded():
    assert frame_of(drawn_on((150, 107, 26), 20.1), SHAPE, 10.0).scale == 2.0
    assert frame_of(drawn_on((600, 430, 104), 5.03), SHAPE, 10.0).scale == 0.5


def test_the_pixel_size_of_the_header_counts_where_there_is_no_reference():
    model = Model(image_size=(150, 107, 26), pixel_size=2.0, units=-9)
    assert frame_of(model, SHAPE, 10.0).scale == 2.0
    assert frame_of(Model(image_size=(150, 107, 26), pixel_size=2.0), SHAPE, 10.0).scale == 1.0  # in pixels


@pytest.mark.parametrize(
    ("model", "spacing"),
    [
        (drawn_on(XYZ, 20.0), 10.0),  # the same size: a wrong header
        (drawn_on((150, 107, 26), 10.0), 10.0),  # a loaded part
        (drawn_on((150, 107, 52), 20.0), 10.0),  # binned in x and y only
        (drawn_on((100, 107, 26), 20.0), 10.0),  # another volume
        (drawn_on((150, 107, 26), (20.0, 20.0, 40.0)), 10.0),
        (drawn_on((150, 107, 26), 20.0), None),
        (drawn_on((150, 107, 26), 20.0), 0.0),
        (drawn_on((150, 107, 26), 20.0), float("nan")),
        (drawn_on((0, 0, 0), 20.0), 10.0),
        (Model(image_size=(150, 107, 26), pixel_size=float("inf"), units=-9), 10.0),
        (Model(image_size=(150, 107, 26), pixel_size=-2.0, units=-9), 10.0),
    ],
)
def test_what_is_no_binning_of_the_volume_is_not_scaled(model, spacing):
    assert frame_of(model, SHAPE, spacing).scale == 1.0


def test_exchanged_axes_of_a_binned_model():
    model = drawn_on((150, 26, 107), 20.0)
    model = Model(image_size=model.image_size, flags=0xFC00 | MODEL_YZ_EXCHANGED, image_reference=model.image_reference)
    frame = frame_of(model, SHAPE, 10.0)
    assert frame.scale == 2.0
    x, y, z = 6.5, 5.5, 4.0  # the centre of voxel z 4, y 5, x 6
    np.testing.assert_array_equal(frame.to_index([[x, z, y]]), [[8.5, 10.5, 12.5]])


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 1.6])
@pytest.mark.parametrize("start", [(0.0, 0.0, 0.0), (20.0, 5.0, 10.0)])
def test_a_frame_there_and_back(exchanged, scale, start, rng):
    frame = ModelFrame(exchanged, start, scale)
    points = rng.uniform(-5, 900, (50, 3))
    np.testing.assert_allclose(frame.to_index(frame.to_stored(points)), points, rtol=0, atol=1e-10)
    np.testing.assert_allclose(frame.to_stored(frame.to_index(points)), points, rtol=0, atol=1e-10)


def test_the_start_of_a_loaded_part_counts_in_the_models_voxels():
    frame = ModelFrame(False, (20.0, 0.0, 10.0), 2.0)
    np.testing.assert_array_equal(frame.to_index([[1.5, 2.5, 3.0]]), [[26.5, 4.5, 42.5]])
