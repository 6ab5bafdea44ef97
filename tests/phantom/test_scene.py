"""Scenes: what is said to be there is there, exactly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from deepvesicle.phantom.scene import LOOKALIKES, SCENE_KINDS, Kind, Scene, _Builder, placed_scene, random_scene
from deepvesicle.phantom.shapes import (
    HEAD_SHARE,
    Bilayer,
    Canvas,
    add_ball,
    add_compartment,
    curve_distance,
    random_curve,
)

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
    assert (len(first.vesicles) == 0) == (kind in ("no_vesicles", "granules"))


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
    assert 11.5 <= synaptic.radii_nm.min() and synaptic.radii_nm.max() <= 31.5
    np.testing.assert_allclose(vesicles.radii_vox, vesicles.membrane_radii_vox + vesicles.thickness_vox / 2, rtol=1e-12)


PLACES_NM = np.array([[31.3, 40.2, 44.9], [28.1, 95.6, 51.7], [33.0, 60.4, 120.8], [30.0, 61.0, -4.0]])
RADII_NM = np.array([17.0, 21.5, 25.0, 20.0])


def placed(voxel_nm: float = 1.0, seed: int = 1, **more) -> Scene:
    shape = tuple(int(n / voxel_nm) for n in (64, 124, 152))
    return placed_scene(np.random.default_rng(seed), shape, voxel_nm, PLACES_NM, RADII_NM, **more)


def shell_density(scene: Scene, centre_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean density in shells of 0.4 nm about a place: distances and means."""
    voxel = scene.grid.voxel_nm
    box = tuple(slice(max(int((c - 28) / voxel), 0), int((c + 28) / voxel)) for c in centre_nm)
    distance = np.sqrt(sum((a * voxel - c) ** 2 for a, c in zip(np.ogrid[box], centre_nm, strict=True)))
    bins = np.rint(distance / 0.4).astype(int).ravel()
    counts = np.bincount(bins)
    return 0.4 * np.arange(len(counts)), np.bincount(bins, weights=scene.density[box].ravel()) / np.maximum(counts, 1)


@pytest.mark.parametrize("voxel_nm", [0.8, 2.3])
def test_placed_vesicles_are_where_they_are_wanted(voxel_nm: float) -> None:
    scene = placed(voxel_nm)
    vesicles = scene.vesicles
    np.testing.assert_allclose(vesicles.centres_nm, PLACES_NM, atol=1e-9)
    np.testing.assert_allclose(vesicles.radii_nm, RADII_NM, atol=0.1)
    np.testing.assert_array_equal(vesicles.features["kind"], Kind.SYNAPTIC)
    np.testing.assert_allclose(vesicles.radii_vox, vesicles.membrane_radii_vox + vesicles.thickness_vox / 2)
    inside = vesicles.features["inside_fraction"]
    assert np.all(inside[:3] == 1) and 0.2 < inside[3] < 0.5


def test_the_outer_radius_is_the_outer_plane_of_head_groups() -> None:
    """In a finely sampled scene the density of the membrane has its outer maximum there."""
    scene = placed(0.5, crowding=0.0)
    for centre, outer, middle in zip(
        PLACES_NM[:3], scene.vesicles.radii_nm, scene.vesicles.membrane_radii_vox * 0.5, strict=False
    ):
        distance, density = shell_density(scene, centre)
        outside = (distance > middle) & (distance < middle + 4)
        inside = (distance < middle) & (distance > middle - 4)
        assert distance[outside][np.argmax(density[outside])] == pytest.approx(outer, abs=0.45)
        assert distance[inside][np.argmax(density[inside])] == pytest.approx(2 * middle - outer, abs=0.45)
        assert density[np.argmin(np.abs(distance - middle))] < 0.85 * density[outside].max()


def test_placed_lookalikes_are_drawn_where_asked() -> None:
    places = {"sheet": (30.0, 20.0, 20.0), "tubule": (32.0, 100.0, 20.0), "gold": (25.0, 20.0, 132.0)}
    places["blob"] = (35.0, 104.0, 132.0)
    assert set(places) == set(LOOKALIKES)

    def scene(*kinds: str) -> Scene:
        return placed_scene(
            np.random.default_rng(4), (60, 120, 150), 1.0, [], [], lookalikes=[(k, places[k]) for k in kinds],
            crowding=0.0,
        )  # fmt: skip

    assert not scene().density.any() and len(scene().vesicles) == 0
    for kind, place in places.items():
        found = scene(kind)
        assert len(found.vesicles) == 0
        low, high = np.maximum(np.array(place) - 14, 0).astype(int), (np.array(place) + 15).astype(int)
        near = found.density[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        assert near.max() > 0.15, kind
        if kind in ("gold", "blob"):  # these are small: all of them lies there
            reach = 14 if kind == "gold" else 40
            axes = np.ogrid[:60, :120, :150]
            distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, place, strict=True)))
            assert np.abs(found.density[distance > reach]).max() < 0.01, kind
    assert scene("gold").density.max() > 5  # far denser than anything biological


def test_placed_scenes_follow_their_seed() -> None:
    lookalikes = [("sheet", (30.0, 20.0, 130.0)), ("blob", (30.0, 110.0, 20.0))]
    first, second, other = (placed(2.0, seed, lookalikes=lookalikes, spread=0.05) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.density, second.density)
    np.testing.assert_array_equal(first.vesicles.radii_vox, second.vesicles.radii_vox)
    assert not np.array_equal(first.density, other.density)
    # What was asked for is the same whatever the seed; uneven axes keep the mean radius.
    np.testing.assert_array_equal(first.vesicles.centres_vox, other.vesicles.centres_vox)
    np.testing.assert_allclose(other.vesicles.radii_nm, RADII_NM, atol=0.1)


def test_uneven_vesicles_keep_their_mean_radius() -> None:
    """Their walls are as far from the centre, over all directions, as those of even ones."""

    def walls(spread: float, seed: int) -> np.ndarray:
        scene = placed(1.0, seed, crowding=0.0, spread=spread)
        found = []
        for centre, middle in zip(PLACES_NM[:3], scene.vesicles.membrane_radii_vox, strict=False):
            distance, density = shell_density(scene, centre)
            near = np.abs(distance - middle) < 7
            found.append(np.average(distance[near], weights=density[near]) - middle)
        return np.array(found)

    for seed in range(2):
        np.testing.assert_allclose(walls(0.06, seed), walls(0.0, seed), atol=0.1)


def test_unknown_lookalike_is_named() -> None:
    with pytest.raises(ValueError, match="'bead'.*sheet.*gold"):
        placed(2.0, lookalikes=[("bead", (30.0, 20.0, 20.0))])


def test_cytosol_fills_placed_scenes() -> None:
    """From face to face, however the specimen lies in other scenes."""
    for seed in range(4):
        density = placed(2.3, seed, crowding=1.0).density
        levels = density.mean(axis=(1, 2))
        assert levels[[0, 1, -2, -1]].min() > 0.02, seed
    assert placed(2.3, crowding=0.0).density[:, 0, -1].max() < 1e-3


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


@pytest.mark.parametrize("thickness_nm", [3.3, 4.0, 5.5])
def test_head_groups_lie_on_their_planes(thickness_nm: float) -> None:
    distance = np.arange(-6, 6.0001, 0.01).astype(np.float32)
    density = Bilayer(thickness_nm, 1.2).profile(distance, 0.2)
    np.testing.assert_allclose(density, density[::-1], atol=1e-5)
    outer = distance[len(distance) // 2 :][np.argmax(density[len(distance) // 2 :])]
    assert outer == pytest.approx(HEAD_SHARE / 2 * thickness_nm, abs=0.06 * thickness_nm)
    # And the thickness over all is to where their density has fallen to half.
    beyond = distance[distance > outer][np.argmin(density[distance > outer] > 0.5 * density.max())]
    assert beyond == pytest.approx(thickness_nm / 2, abs=0.06 * thickness_nm)


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


def test_liposomes_are_apart_or_one_inside_another() -> None:
    nested = 0
    for seed in range(12):
        vesicles = random_scene(np.random.default_rng(seed), (90, 130, 130), 2.6, "liposomes").vesicles
        distance = np.linalg.norm(vesicles.centres_nm[:, None] - vesicles.centres_nm[None], axis=2)
        small, large = (f(vesicles.radii_nm[:, None], vesicles.radii_nm[None]) for f in (np.minimum, np.maximum))
        apart, inside = distance > small + large - 0.01, distance + small < large
        np.fill_diagonal(apart, True)
        assert np.all(apart | inside)
        nested += int(inside.sum()) // 2
    assert nested >= 3


def test_flat_sacs_are_closed_and_take_their_space(rng: np.random.Generator) -> None:
    for _ in range(6):
        builder = _Builder(rng, (60, 90, 90), 2.5)
        builder.slab = (-np.inf, np.inf)
        builder._cisternae()
        density, taken = builder.canvas.density, builder.taken
        assert np.all(np.abs(density[~taken]) < 0.2)  # hardly anything is drawn where a vesicle may come
        membrane = density > 0.4 * builder.membrane.density
        assert taken[membrane].all()
        if taken.any():
            lumen = taken & ~membrane & (ndimage.distance_transform_edt(~membrane) < 4)
            assert membrane.any() and lumen.any()
