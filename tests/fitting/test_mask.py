"""Packed masks and their pieces, beside the plain ways of scipy."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from scipy import ndimage

from deepvesicle.fitting import instances
from deepvesicle.fitting.instances import spheroids_of
from deepvesicle.fitting.mask import PackedMask, Pieces
from deepvesicle.fitting.mask_kernels import depths, fill_closed, fill_round
from deepvesicle.fitting.propose import propose
from deepvesicle.fitting.split_kernels import smoothed
from deepvesicle.grid import Grid
from deepvesicle.scoring.match import match
from deepvesicle.settings import ProposalSettings
from tests.fitting.degraded import crowd, spoil

#: Rows shorter and longer than whole bytes.
SHAPES = [(9, 14, 21), (5, 17, 8), (1, 6, 9), (12, 3, 40)]


def blobs(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> np.ndarray:
    smooth = ndimage.gaussian_filter(rng.random(shape), 0.8)
    return np.asarray(smooth > np.quantile(smooth, 1 - share))


def whole(mask: PackedMask) -> np.ndarray:
    z, y, x = (slice(0, n) for n in mask.shape)
    return mask.box((z, y, x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_packed_mask_is_the_mask(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> None:
    values: np.ndarray = (rng.random(shape) * (255 if dtype is np.uint8 else 1)).astype(dtype)
    level = float(values.reshape(-1)[3]) + (0.5 if dtype is np.uint8 else 0)
    mask = PackedMask.above(values, level)
    plain = values > level
    np.testing.assert_array_equal(whole(mask), plain)
    assert mask.any() and not PackedMask(shape).any()
    other = mask.copy()
    for _ in range(20):
        low = [int(rng.integers(0, n)) for n in shape]
        z, y, x = (slice(a, int(rng.integers(a + 1, n + 1))) for a, n in zip(low, shape, strict=True))
        part = rng.random(plain[z, y, x].shape) < 0.5
        np.testing.assert_array_equal(other.box((z, y, x)), plain[z, y, x])
        if rng.random() < 0.5:
            plain[z, y, x] |= part
            other.add((z, y, x), part)
        else:
            plain[z, y, x] &= part
            other.keep((z, y, x), part)
        np.testing.assert_array_equal(whole(other), plain)
    np.testing.assert_array_equal(whole(mask), values > level)  # a copy is another one


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pieces_are_what_hangs_together(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> None:
    plain = blobs(rng, shape, share)
    labels, count = ndimage.label(plain)
    pieces = Pieces(PackedMask.of(plain))
    found = pieces.of_size(1)
    assert len(found) == count
    seen = np.zeros(shape, dtype=int)
    for piece in found:
        box = piece.box(1, shape)
        part = pieces.part(piece, box)
        (label,) = np.unique(labels[box][part])
        assert part.sum() == piece.count == (labels == label).sum()
        assert [(a, b) for a, b in zip(piece.low, piece.high, strict=True)] == [
            (s.start, s.stop) for s in ndimage.find_objects(labels)[label - 1]
        ]
        seen[box] += part
    np.testing.assert_array_equal(seen, plain)
    assert [p.count for p in pieces.of_size(4)] == [p.count for p in found if p.count >= 4]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.85])
def test_holes_and_depths_are_those_of_scipy(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> None:
    plain = blobs(rng, shape, share)
    depth = depths(plain, 1.25)
    np.testing.assert_array_equal(
        depth, ndimage.distance_transform_edt(plain, sampling=(1.25, 1, 1)).astype(np.float32)
    )
    kernel = np.exp(-0.5 * np.arange(5) ** 2.0)
    kernel /= kernel[0] + 2 * kernel[1:].sum()
    np.testing.assert_allclose(smoothed(depth, kernel), ndimage.gaussian_filter(depth, 1.0), atol=1e-6)
    closed = plain.copy()
    fill_closed(closed)
    np.testing.assert_array_equal(closed, ndimage.binary_fill_holes(plain))


def test_round_holes_are_filled_up_to_a_size() -> None:
    plane = np.ones((1, 60, 90), dtype=bool)
    y, x = np.ogrid[:60, :90]
    small, large = (y - 15) ** 2 + (x - 15) ** 2 <= 36, (y - 30) ** 2 + (x - 45) ** 2 <= 20**2
    slit = (np.abs(y - 30) < 20) & (np.abs(x - 80) < 2)
    plane[0] &= ~(small | large | slit)
    fill_round(plane, 400.0)
    np.testing.assert_array_equal(~plane[0], large | slit)
    fill_round(plane, 4000.0)
    np.testing.assert_array_equal(~plane[0], slit)


def test_a_piece_that_spreads_far_is_cut_without_harm(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid((64, 118, 131), 2.2)
    truth = crowd(rng, grid, np.clip(rng.normal(19, 3, 40), 12, 26), touching=0.95)
    probability = spoil(rng, truth, bridges_nm=6.0, blur_nm=2.0)
    plain = propose(probability, grid, ProposalSettings(), threshold=0.5)
    monkeypatch.setattr(instances, "TILE", 40)
    monkeypatch.setattr(instances, "OVERLAP", 20)
    monkeypatch.setattr(instances, "LARGEST_BOX", 60**3)
    tiles = mock.Mock(side_effect=instances._of_tile)
    monkeypatch.setattr(instances, "_of_tile", tiles)
    cut = propose(probability, grid, ProposalSettings(), threshold=0.5)
    assert tiles.call_count >= 6
    score = match(cut, plain)
    assert score.fp == score.fn == 0
    moved = np.linalg.norm(cut.centres_vox[score.pairs[:, 0]] - plain.centres_vox[score.pairs[:, 1]], axis=1)
    assert moved.max() < 0.5


def test_memory_maps_give_the_same(rng: np.random.Generator, tmp_path) -> None:  # type: ignore[no-untyped-def]
    grid = Grid((40, 70, 60), 2.2)
    probability = spoil(rng, crowd(rng, grid, np.full(8, 18.0), touching=0.9))
    mapped = np.memmap(tmp_path / "p", dtype=np.uint8, mode="w+", shape=grid.shape_zyx)
    mapped[:] = probability.data
    found = []
    for data in (np.asarray(probability.data), mapped):
        mask = PackedMask.above(data, 127.5)
        found.append([s.row() for s in spheroids_of(data, mask, 127.5, 40, 3.8, 50.0, map)])
    np.testing.assert_array_equal(found[0], found[1])
    assert len(found[0]) >= 6
