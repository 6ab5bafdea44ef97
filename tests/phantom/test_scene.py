"""Scenes: what is said to be there is there, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from deepvesicle.phantom.scene import SCENE_KINDS, Kind, random_scene
from deepvesicle.phantom.shapes import Bilayer, Canvas, add_ball, add_compartment, curve_distance, random_curve

SHAPE = (40, 72, 88)


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_seed_decides_everything(kind: str) -> None:
    first = random_scene(np.random.default_rng(5), SHAPE, 2.2, kind)
    second = random_scene(np.random.default_rng(5), SHAPE, 2.2, kind)
    other = random_scene(np.random.default_rng(6), SHAPE, 2.2, kind)
    assert np.array_equal(first.density, second.density)
    assert np.array_equal(first.vesicles.centres_vox, second.vesicles.centres_vox)
    assert not np.array_equal(first.density, other.density)
    assert np.all(np.isfinite(first.density))
    assert (len(first.vesicles) == 0) == (kind == "no_vesicles")


def test_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="synapse"):
        random_scene(np.random.default_rng(0), SHAPE, 2.2, "dendrite")


def test_synaptic_vesicles_do_not_overlap_and_have_measured_sizes() -> None:
    scene = random_scene(np.random.default_rng(3), (80, 120, 140), 2.2)
    vesicles = scene.vesicles
    assert len(vesicles) > 20
    gaps = np.linalg.norm(vesicles.centres_nm[:, None] - vesicles.centres_nm[None], axis=-1)
    gaps -= vesicles.radii_nm[:, None] + vesicles.radii_nm[None]
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min() > -0.01
    synaptic = vesicles.select(vesicles.features["kind"] == Kind.SYNAPTIC)
    assert 12 <= synaptic.radii_nm.min() and synaptic.radii_nm.max() <= 31.5
    np.testing.assert_allclose(vesicles.radii_vox, vesicles.membrane_radii_vox + vesicles.thickness_vox / 2, rtol=1e-12)


@pytest.mark.parametrize("voxel_nm", [0.9, 1.7, 2.6])
def test_painted_membrane_lies_at_its_radius(voxel_nm: float) -> None:
    canvas = Canvas(np.zeros(tuple(int(n / voxel_nm) for n in (60, 66, 72)), dtype=np.float32), voxel_nm)
    centre = np.array([29.3, 33.9, 34.6])
    add_compartment(canvas, centre, (18.0, 18.0, 18.0), Bilayer(5.0, 1.0), 0.0, 0.0)
    z, y, x = canvas.coordinates()
    distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    wall = np.average(distance, weights=np.clip(canvas.density, 0, None) / np.maximum(distance, 1) ** 2)
    assert wall == pytest.approx(18.0, abs=0.15)
    centroid = [
        float(np.average(np.broadcast_to(c, distance.shape), weights=np.clip(canvas.density, 0, None)))
        for c in (z, y, x)
    ]
    np.testing.assert_allclose(centroid, centre, atol=0.05 * voxel_nm + 0.05)


def test_leaflets_are_resolved_at_fine_voxels_only() -> None:
    distance = np.linspace(-6, 6, 241).astype(np.float32)
    fine = Bilayer(5.0, 1.0).profile(distance, 0.4)
    coarse = Bilayer(5.0, 1.0).profile(distance, 3.0)
    middle = len(distance) // 2
    assert fine[middle] < 0.7 * fine.max()
    assert coarse[middle] > 0.85 * coarse.max()
    assert fine.sum() == pytest.approx(coarse.sum(), rel=0.12)  # the same mass


def test_ball_has_its_volume_and_misses_are_ignored() -> None:
    canvas = Canvas(np.zeros((30, 34, 38), dtype=np.float32), 1.5)
    add_ball(canvas, (20.2, 25.1, 28.7), 9.0, 2.0)
    assert canvas.density.sum() * 1.5**3 == pytest.approx(2.0 * 4 / 3 * np.pi * 9.0**3, rel=0.03)
    before = canvas.density.copy()
    add_ball(canvas, (500.0, 0.0, 0.0), 9.0, 2.0)
    assert np.array_equal(before, canvas.density)


def test_curve_distance_is_the_distance(rng: np.random.Generator) -> None:
    canvas = Canvas(np.zeros((30, 40, 50), dtype=np.float32), 2.0)
    curve = random_curve(rng, (30.0, 20.0, 10.0), (0.1, 1.0, 1.0), 70.0, 300.0)
    found = curve_distance(canvas, curve, 12.0)
    assert found is not None
    box, distance = found
    z, y, x = canvas.coordinates(box)
    points = np.stack(np.broadcast_arrays(z, y, x), axis=-1)
    exact = np.linalg.norm(points[..., None, :] - curve, axis=-1).min(axis=-1)
    near = exact < 12.0
    np.testing.assert_allclose(distance[near], exact[near], atol=1e-3)
