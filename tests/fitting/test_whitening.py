"""The power spectrum of noise with a known missing wedge is measured from the tomogram alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.fitting.whitening import BOX, FLOOR, estimate_whitening
from deepvesicle.grid import Grid, Tomogram
from tests.fitting.wedge_noise import measured, noise_tomogram, through

SHAPE = (60, 72, 84)


def angles() -> np.ndarray:
    """Angle from x towards z of each weight, degrees."""
    line = np.arange(-BOX // 2, BOX // 2 + 1) / BOX
    angle = np.degrees(np.arctan2(line[:, None, None], np.arange(BOX // 2 + 1)[None, None, :] / BOX))
    return np.broadcast_to(angle, (BOX + 1, BOX + 1, BOX // 2 + 1))


@pytest.mark.parametrize("tilts", [(-60.0, 60.0), (-50.0, 60.0), (-62.0, 45.0), (-40.0, 40.0)])
def test_the_wedge_is_found(tilts, rng):
    whitening = estimate_whitening(noise_tomogram(rng, SHAPE, tilts_deg=tilts))
    assert np.abs(np.subtract(whitening.tilts_deg, tilts)).max() < 3
    missing = (angles() < tilts[0] - 4) | (angles() > tilts[1] + 4)
    inside = (angles() > tilts[0] + 4) & (angles() < tilts[1] - 4)
    inside[BOX // 2, BOX // 2, 0] = False
    assert np.all(whitening.weights[missing] == 0)
    assert np.all(whitening.weights[inside] > 0)
    assert whitening.weights[BOX // 2, BOX // 2, 0] == 0


def test_without_a_wedge_there_is_none(rng):
    whitening = estimate_whitening(noise_tomogram(rng, SHAPE))
    assert whitening.tilts_deg == (-90.0, 90.0)
    assert np.count_nonzero(whitening.weights == 0) == 1  # the mean


@pytest.mark.parametrize("tilts", [(-90.0, 90.0), (-60.0, 60.0), (-50.0, 62.0)])
@pytest.mark.parametrize("shape", [(40, 56, 48), (33, 61, 50)])
def test_white_noise_counts_as_its_measured_values(tilts, shape, rng):
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=tilts)
    weights = estimate_whitening(tomogram).on(shape, tomogram.grid.voxel_nm)
    other = noise_tomogram(rng, shape, tilts_deg=tilts).data
    spectrum = np.abs(np.fft.fftn(other)[:, :, : shape[2] // 2 + 1]) ** 2
    twice = np.full(spectrum.shape[2], 2.0)
    twice[0] = 1
    if shape[2] % 2 == 0:
        twice[-1] = 1
    total = (spectrum * weights * twice).sum() / other.size
    values = (measured(shape, tilts) * twice).sum()
    # Adding FLOOR times the usual power takes as much from what a value counts.
    assert total * (1 + FLOOR) == pytest.approx(values, rel=0.08)


def test_weights_follow_the_power(rng):
    tomogram = noise_tomogram(rng, SHAPE)
    spectrum = np.fft.rfftn(tomogram.data)
    y = np.abs(np.fft.fftfreq(SHAPE[1]))[None, :, None]
    loud = np.fft.irfftn(spectrum * np.where(y > 0.25, 5.0, 1.0), s=SHAPE, axes=(0, 1, 2))
    weights = estimate_whitening(replace(tomogram, data=loud.astype(np.float32))).on((48, 48, 48), 2.0)
    y = np.abs(np.fft.fftfreq(48))[None, :, None] * np.ones(weights.shape)
    quiet, strong = weights[(y < 0.2) & (y > 0.05)].mean(), weights[y > 0.3].mean()
    # Power 1 and 25, and the same floor on both.
    assert 1 / strong - 1 / quiet == pytest.approx(24, rel=0.15)


@pytest.mark.parametrize(("voxel_nm", "binning"), [(0.9, 2), (1.7, 1), (3.1, 1), (1.05, 2)])
def test_voxel_sizes(voxel_nm, binning, rng):
    shape = tuple(n * min(binning, 2) for n in SHAPE)
    tomogram = noise_tomogram(rng, shape, voxel_nm)
    whitening = estimate_whitening(tomogram)
    assert whitening.voxel_nm == pytest.approx(voxel_nm * binning)
    fine = whitening.on((24, 30, 20), whitening.voxel_nm)
    coarse = whitening.on((24, 30, 20), 2 * whitening.voxel_nm)
    assert fine.shape == coarse.shape == (24, 30, 11)
    # Means over 8 voxels vary 8 times less; the first value is that of the mean, with its neighbours.
    assert coarse[6, 6, 4] == pytest.approx(8 * fine[3, 3, 2], rel=1e-4)
    mean = np.median(fine)
    assert mean * (1 + FLOOR) == pytest.approx(binning**3, rel=0.1)
    assert whitening.on((24, 30, 20), whitening.voxel_nm) is fine


@pytest.mark.parametrize("shape", [(20, 72, 84), (9, 40, 33), (2, 2, 2)])
def test_volumes_thinner_than_a_box(shape, rng):
    whitening = estimate_whitening(noise_tomogram(rng, shape))
    assert whitening.weights.shape == (BOX + 1, BOX + 1, BOX // 2 + 1)
    assert np.isfinite(whitening.weights).all() and whitening.weights.max() > 0


@pytest.mark.parametrize("value", [0.0, 17.0])
def test_a_constant_volume_has_finite_weights(value):
    whitening = estimate_whitening(Tomogram(np.full(SHAPE, value, dtype=np.float32), Grid(SHAPE, 2.0)))
    assert np.isfinite(whitening.weights).all()
    assert whitening.tilts_deg == (-90.0, 90.0)


def test_scale_and_offset_of_grey_values_change_the_scale_of_the_weights_alone(rng):
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=(-55.0, 60.0))
    plain = estimate_whitening(tomogram)
    other = estimate_whitening(replace(tomogram, data=tomogram.data * np.float32(40) + np.float32(700)))
    assert other.tilts_deg == pytest.approx(plain.tilts_deg, abs=0.05)
    np.testing.assert_allclose(other.weights * 40**2, plain.weights, rtol=1e-3, atol=1e-6)


def test_inverted_grey_values_have_the_same_spectrum(rng):
    tomogram = noise_tomogram(rng, SHAPE)
    inverted = replace(tomogram, data=-tomogram.data, invert=True)
    np.testing.assert_array_equal(estimate_whitening(inverted).weights, estimate_whitening(tomogram).weights)


def test_a_memory_map_gives_the_same(rng, tmp_path):
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=(-55.0, 60.0))
    tomogram.data.tofile(tmp_path / "grey")
    mapped = np.memmap(tmp_path / "grey", dtype=np.float32, mode="r", shape=SHAPE)
    found = estimate_whitening(replace(tomogram, data=mapped))
    np.testing.assert_array_equal(found.weights, estimate_whitening(tomogram).weights)


def test_one_bad_voxel_does_not_spoil_the_spectrum(rng):
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=(-55.0, 60.0))
    data = tomogram.data.copy()
    data[5, 6, 7] = np.nan
    whitening = estimate_whitening(replace(tomogram, data=data))
    assert np.isfinite(whitening.weights).all() and whitening.weights.max() > 0


def test_a_given_range_of_tilts_narrows_what_is_weighed_and_never_widens_it(rng):
    shape = (64, 80, 96)
    noise = Tomogram(through(rng.normal(size=shape), (-60.0, 60.0)).astype(np.float32), Grid(shape, 2.2))
    seen = estimate_whitening(noise)
    assert estimate_whitening(noise, "y", (-40.0, 30.0)).tilts_deg == (-40.0, 40.0)
    wider = estimate_whitening(noise, "y", (-75.0, 75.0))
    assert wider.tilts_deg == seen.tilts_deg
    np.testing.assert_array_equal(wider.weights, seen.weights)
    narrow = estimate_whitening(noise, "y", (-40.0, 40.0))
    assert np.count_nonzero(narrow.weights) < 0.8 * np.count_nonzero(seen.weights)
