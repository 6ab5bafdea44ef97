"""Columns streamed along z equal one pass over the whole volume; so do mirrored ones, and those in bfloat16 nearly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deepvesicle.network.backend import cpu_has_bfloat16
from deepvesicle.network.rounding import diffused, rounded, with_exact_biases
from deepvesicle.network.schedule import Schedule
from deepvesicle.network.stream import Stream
from deepvesicle.network.unet import Convolution, UNetShape, folded_convolutions
from tests.network.random_network import random_network

needs_bfloat16 = pytest.mark.skipif(not cpu_has_bfloat16(), reason="the processor has no bfloat16")


def _volume(shape: UNetShape, inner: Sequence[int]) -> tuple[NDArray[np.float32], int]:
    """Noise about a tile, so far that the zeros beyond it do not reach; and how far."""
    pad = -(-shape.halo_vox // shape.alignment_vox) * shape.alignment_vox
    return np.random.default_rng(0).normal(size=[n + 2 * pad for n in inner]).astype(np.float32), pad


def _streamed(
    stream: Stream,
    convolutions: list[Convolution],
    volume: NDArray[np.float32],
    pad: int,
    mirrored: tuple[int, ...] = (),
) -> NDArray[np.float32]:
    depth = volume.shape[0] - 2 * pad
    halo, far = pad - stream.schedule.ranges.input_margin, 200
    beyond = np.pad(volume, [(far, far), (0, 0), (0, 0)], constant_values=np.nan)  # nothing there may be used

    def read(z: int, count: int) -> NDArray[np.float32]:
        window = beyond[far + pad + z : far + pad + z + count]
        return np.nan_to_num(window[:, halo : window.shape[1] - halo, halo : window.shape[2] - halo], nan=1e3)

    found = np.full((depth, *stream.inner_yx), np.nan, dtype=np.float32)
    for z, piece in stream.run(stream.weights(convolutions, mirrored), read, depth):
        first, last = max(0, z), 0 if piece is None else min(depth, z + len(piece))
        if piece is not None and last > first:
            found[first:last] = piece[first - z : last - z]
    return found


def _whole(model: Any, volume: NDArray[np.float32], pad: int, mirrored: tuple[int, ...] = ()) -> NDArray[np.float32]:
    passed = np.asarray(model(np.flip(volume, mirrored)[None, ..., None]))[0, ..., 0]
    return np.flip(passed, mirrored)[pad:-pad, pad:-pad, pad:-pad]


@pytest.mark.parametrize(("levels", "slices"), [(1, 2), (1, 8), (2, 4), (2, 16), (3, 8), (3, 16), (3, 32)])
def test_a_streamed_column_equals_the_whole_volume_pass(levels: int, slices: int) -> None:
    shape = UNetShape(levels=levels, filters=2)
    model = random_network(shape, seed=3)
    unit = shape.alignment_vox
    inner = (unit * 5, unit, unit * 3)
    volume, pad = _volume(shape, inner)
    stream = Stream(shape, inner[1:], slices, as_bytes=False)
    expected = _whole(model, volume, pad)
    assert expected.std() > 0.01
    np.testing.assert_allclose(_streamed(stream, folded_convolutions(model), volume, pad), expected, atol=1e-5)
    # a second column through the same stream: nothing is left of the first
    other = np.ascontiguousarray(volume[::-1])
    np.testing.assert_allclose(
        _streamed(stream, folded_convolutions(model), other, pad), _whole(model, other, pad), atol=1e-5
    )


@pytest.mark.parametrize("mirrored", [(0,), (1, 2), (0, 1, 2)])
def test_a_mirrored_network_is_that_of_the_mirrored_volume(mirrored: tuple[int, ...]) -> None:
    shape = UNetShape(levels=2, filters=2)
    model = random_network(shape, seed=4)
    volume, pad = _volume(shape, (12, 8, 16))
    stream = Stream(shape, (8, 16), 8, as_bytes=False)
    expected = _whole(model, volume, pad, mirrored)
    assert np.abs(expected - _whole(model, volume, pad)).max() > 0.1
    np.testing.assert_allclose(
        _streamed(stream, folded_convolutions(model), volume, pad, mirrored), expected, atol=1e-5
    )


def test_bytes_are_the_rounded_probability() -> None:
    shape = UNetShape(levels=1, filters=2)
    model = random_network(shape, seed=5)
    volume, pad = _volume(shape, (10, 8, 8))
    found = _streamed(Stream(shape, (8, 8), 4), folded_convolutions(model), volume, pad)
    assert np.abs(found - 255 * _whole(model, volume, pad)).max() < 0.501


def test_columns_and_steps_must_be_aligned() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        Stream(UNetShape(2, 2), (8, 10), 8)
    with pytest.raises(ValueError, match="multiple of 8"):
        Stream(UNetShape(3, 2), (8, 8), 12)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_levels_pool_the_slices_that_one_pass_pools(levels: int) -> None:
    plan = Schedule.of(levels, 2 << levels)
    assert all(start % 2 == 0 for start in plan.down)
    assert plan.first <= -plan.ranges.input_margin
    last = plan.up[0] + plan.steps(37) * plan.slices
    assert 37 <= last < 37 + plan.slices


def test_scaling_makes_biases_exact_and_changes_nothing() -> None:
    shape = UNetShape(levels=2, filters=2)
    model = random_network(shape, seed=6)
    plain = folded_convolutions(model)
    scaled = with_exact_biases(plain, shape.levels)
    for _, bias in scaled[:-1]:
        np.testing.assert_allclose(bias, rounded(bias), rtol=1e-6)
    assert max(np.abs(b - rounded(b)).max() for _, b in plain[:-1]) > 1e-5
    volume, pad = _volume(shape, (8, 8, 8))
    stream = Stream(shape, (8, 8), 8, as_bytes=False)
    one, other = (_streamed(stream, convolutions, volume, pad) for convolutions in (plain, scaled))
    assert one.std() > 0.01
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_diffused_kernels_keep_their_sums(rng: np.random.Generator) -> None:
    kernel = rng.normal(size=(3, 3, 3, 4, 5)).astype(np.float32)
    found, plain = diffused(kernel), rounded(kernel)
    np.testing.assert_array_equal(found, rounded(found))
    np.testing.assert_allclose(found, kernel, atol=0.02)
    off = [np.abs(k.sum((0, 1, 2)) - kernel.sum((0, 1, 2))).mean() for k in (found, plain)]
    assert off[0] < 0.6 * off[1]


@needs_bfloat16
def test_bfloat16_is_nearly_the_same() -> None:
    shape = UNetShape(levels=2, filters=8)
    model = random_network(shape, seed=7)
    volume, pad = _volume(shape, (16, 16, 16))
    expected = _whole(model, volume, pad)
    found = _streamed(Stream(shape, (16, 16), 8, "bfloat16", as_bytes=False), folded_convolutions(model), volume, pad)
    assert 0 < np.abs(found - expected).max() < 0.03
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.02 * expected.std()
