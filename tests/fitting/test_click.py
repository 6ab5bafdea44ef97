"""Clicks somewhere inside vesicles become their spheres, on tomograms that share no code with the fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepvesicle.fitting import click
from deepvesicle.fitting.click import fit_marks
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.settings import ProposalSettings, RefinementSettings
from deepvesicle.vesicles import Status, Vesicles
from tests.fitting.membrane_shells import HALF_THICKNESS_NM, shell_tomogram
from tests.fitting.wedge_noise import noise_tomogram

SHAPE = (60, 72, 84)
VOXEL_NM = 2.0
#: Three that do not touch: places (nm) and radii to the membrane's middle.
CENTRES = np.array([[45.3, 41.1, 44.7], [72.6, 98.3, 61.9], [60.2, 70.9, 122.4]])
RADII = np.array([22.3, 18.6, 25.7])


def fit(tomogram: Tomogram, places_nm, radii_nm=None, known: Vesicles | None = None, **proposal) -> Vesicles:
    """Fit marks that are given in nm; `proposal` are its settings, by default with radii up to 40 nm."""
    voxel = tomogram.grid.voxel_nm
    places = np.asarray(places_nm, dtype=float).reshape(-1, 3) / voxel
    radii = np.full(len(places), np.nan) if radii_nm is None else np.asarray(radii_nm) / voxel
    if known is None:
        known = Vesicles.empty(tomogram.grid)
    settings = ProposalSettings(**{"max_radius_nm": 40.0, **proposal})
    return fit_marks(tomogram, places, radii, known, RefinementSettings(), settings)


def tomogram_of(rng, centres_nm=CENTRES, radii_nm=RADII, *, shape=SHAPE, voxel_nm=VOXEL_NM, contrast=1.0) -> Tomogram:
    return shell_tomogram(
        rng, shape, voxel_nm, np.asarray(centres_nm) / voxel_nm, np.asarray(radii_nm) / voxel_nm, contrast=contrast
    )


def errors_nm(fitted: Vesicles, centres_nm=CENTRES, radii_nm=RADII) -> tuple[np.ndarray, np.ndarray]:
    voxel = fitted.grid.voxel_nm
    distance = np.linalg.norm(fitted.centres_vox * voxel - centres_nm, axis=1)
    radius = fitted.membrane_radii_vox * voxel - radii_nm
    return distance, radius


def off(rng, share: float = 0.5, radii=RADII) -> np.ndarray:
    """Displacements by a share of the radius, in any direction."""
    direction = rng.normal(size=(len(radii), 3))
    return share * np.asarray(radii)[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_clicks_off_the_centre(share, rng):
    places = CENTRES + off(rng, share)
    fitted = fit(tomogram_of(rng), places)
    distance, radius = errors_nm(fitted)
    assert set(fitted.status) == {Status.REFINED} and set(fitted.reasons) == {""}
    assert list(fitted.ids) == [1, 2, 3]
    assert distance.max() < 0.6 and np.abs(radius).max() < 0.4
    # The outer edge lies half a membrane outside its middle.
    assert np.abs(fitted.radii_nm - RADII - HALF_THICKNESS_NM).max() < 1.2
    np.testing.assert_allclose(fitted.radii_vox - fitted.membrane_radii_vox, fitted.thickness_vox / 2, atol=1e-9)
    shift = np.linalg.norm(fitted.centres_vox * VOXEL_NM - places, axis=1)
    np.testing.assert_allclose(fitted.features["shift_nm"], shift, atol=1e-6)
    assert np.all(fitted.features["membrane_z"] > 10) and np.all(fitted.features["likelihood_gain"] > 50)
    assert np.all(fitted.features["inside_fraction"] > 0.99)
    sigma = fitted.sigma_centres_vox * VOXEL_NM
    assert np.all((sigma > 0.02) & (sigma < 0.5)) and np.all(distance < 6 * sigma)


@pytest.mark.parametrize(("voxel_nm", "tolerance"), [(0.9, 0.5), (1.7, 0.6), (3.1, 1.2)])
def test_odd_voxel_sizes(voxel_nm, tolerance, rng):
    centres = CENTRES[[0]] + 0.31
    shape = tuple(round(n / voxel_nm) for n in (90, 88, 104))
    tomogram = tomogram_of(rng, centres, RADII[[0]], shape=shape, voxel_nm=voxel_nm)
    fitted = fit(tomogram, centres + off(rng, 0.4, RADII[[0]]))
    distance, radius = errors_nm(fitted, centres, RADII[[0]])
    assert fitted.status == (Status.REFINED,)
    assert distance.max() < tolerance and np.abs(radius).max() < tolerance


def test_faint_membranes(rng):
    fitted = fit(tomogram_of(rng, contrast=0.45), CENTRES + off(rng, 0.3))
    distance, radius = errors_nm(fitted)
    assert Status.REJECTED not in fitted.status
    assert distance.max() < 1.5 and np.abs(radius).max() < 0.8


def test_vesicles_that_touch(rng):
    """Three in a row: their outer edges meet."""
    radii = np.array([20.0, 24.0, 17.0])
    gap = 2 * HALF_THICKNESS_NM
    x = 35.2 + np.cumsum([0.0, radii[0] + radii[1] + gap, radii[1] + radii[2] + gap])
    centres = np.column_stack([np.full(3, 58.7), [70.3, 76.1, 70.3], x])
    tomogram = tomogram_of(rng, centres, radii)
    fitted = fit(tomogram, centres + off(rng, 0.4, radii))
    distance, radius = errors_nm(fitted, centres, radii)
    assert set(fitted.status) == {Status.REFINED}
    assert distance.max() < 0.8 and np.abs(radius).max() < 0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", ["low", "high"])
def test_vesicles_cut_by_a_face(axis, side, rng):
    centre = np.array([61.3, 70.9, 84.2])
    extent = (SHAPE[axis] - 1) * VOXEL_NM
    centre[axis] = 9.3 if side == "low" else extent - 9.3
    tomogram = tomogram_of(rng, [centre], [22.3])
    towards = 4.0 if side == "low" else -4.0
    place = centre + np.where(np.arange(3) == axis, towards, 3.0)
    fitted = fit(tomogram, place)
    distance, radius = errors_nm(fitted, centre[None], np.array([22.3]))
    assert fitted.status[0] is not Status.REJECTED
    assert distance[0] < 1.2 and abs(radius[0]) < 0.8
    assert 0.5 < fitted.features["inside_fraction"][0] < 0.95


@pytest.mark.parametrize("given", ["known", "marked", "rejected", "not at all"])
def test_neighbours(given, rng):
    """A neighbour may be known, be marked too, or be nothing to the fit: the sphere is the same."""
    radii = np.array([20.0, 24.0])
    centres = np.array([[58.7, 70.3, 55.2], [58.7, 70.3, 55.2 + 44 + 4.5]])
    tomogram = tomogram_of(rng, centres, radii)
    status = Status.REJECTED if given == "rejected" else Status.REFINED
    known = None
    if given in ("known", "rejected"):
        known = Vesicles.from_spheres(
            tomogram.grid, centres[[1]] / VOXEL_NM, (radii[[1]] + 2) / VOXEL_NM, status=(status,)
        )
    rows = 2 if given == "marked" else 1
    fitted = fit(tomogram, (centres + off(rng, 0.4, radii))[:rows], known=known)
    distance, radius = errors_nm(fitted, centres[:rows], radii[:rows])
    assert fitted.status[0] is Status.REFINED
    assert distance.max() < 0.7 and np.abs(radius).max() < 0.5


def test_clicks_into_noise_are_not_taken_for_vesicles():
    verdicts = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        tomogram = noise_tomogram(rng, SHAPE, VOXEL_NM, (-60.0, 60.0))
        fitted = fit(tomogram, rng.uniform(0.3, 0.7, 3) * tomogram.grid.extent_nm)
        verdicts.append(fitted.status[0])
        assert (fitted.reasons[0] == "") == (fitted.status[0] is Status.REFINED)
    assert verdicts.count(Status.REFINED) <= 1
    assert verdicts.count(Status.REJECTED) >= 3


def test_a_click_between_vesicles_does_not_spoil_them(rng):
    tomogram = tomogram_of(rng)
    nowhere = np.array([95.0, 20.0, 110.0])
    fitted = fit(tomogram, [*(CENTRES + off(rng, 0.4)), nowhere])
    distance, radius = errors_nm(fitted.select(np.arange(4) < 3))
    assert distance.max() < 0.6 and np.abs(radius).max() < 0.4
    assert fitted.status[3] is not Status.REFINED
    assert fitted.reasons[3]


def test_a_rejected_mark_keeps_its_place(rng):
    """Whatever a user has marked keeps its row, its place and its radius."""
    tomogram = Tomogram(np.full(SHAPE, np.nan, dtype=np.float32), Grid(SHAPE, VOXEL_NM))
    places = np.array([[50.0, 60.0, 70.0], [40.0, 42.0, 43.0]])
    fitted = fit(tomogram, places, [np.nan, 25.0])
    assert fitted.status == (Status.REJECTED, Status.REJECTED)
    assert all("no membrane" in reason for reason in fitted.reasons)
    np.testing.assert_allclose(fitted.centres_vox * VOXEL_NM, places)
    np.testing.assert_allclose(fitted.radii_nm, [ProposalSettings().min_radius_nm, 25.0])
    assert np.isnan(fitted.membrane_radii_vox).all()


def test_nan_far_away_does_not_matter(rng):
    tomogram = tomogram_of(rng)
    data = tomogram.data.copy()
    data[-4:, -4:, -4:] = np.nan
    fitted = fit(replace(tomogram, data=data), CENTRES[[0]] + 4)
    assert fitted.status == (Status.REFINED,)


def test_places_outside_and_flat_tomograms_are_rejected():
    flat = Tomogram(np.full(SHAPE, 5.0, dtype=np.float32), Grid(SHAPE, VOXEL_NM))
    fitted = fit(flat, [[60.0, 70.0, 80.0], [1000.0, 1000.0, 1000.0], [-300.0, 0.0, 0.0]])
    assert set(fitted.status) == {Status.REJECTED}
    assert all(fitted.reasons)
    assert np.isfinite(fitted.centres_vox).all() and np.all(fitted.radii_vox > 0)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_a_hint_of_the_radius(factor, rng):
    fitted = fit(tomogram_of(rng), CENTRES + off(rng, 0.3), factor * (RADII + HALF_THICKNESS_NM))
    distance, radius = errors_nm(fitted)
    assert set(fitted.status) == {Status.REFINED}
    assert distance.max() < 0.6 and np.abs(radius).max() < 0.4


def test_a_hint_chooses_between_shells_within_each_other(rng):
    """An organelle around a vesicle: both are there, and the start radius says which is meant."""
    centres, radii = np.array([[59.1, 71.3, 84.2]] * 2), np.array([16.0, 36.0])
    tomogram = tomogram_of(rng, centres, radii)
    for radius in radii:
        fitted = fit(tomogram, centres[0] + 3, [radius + 2])
        assert fitted.membrane_radii_vox[0] * VOXEL_NM == pytest.approx(radius, abs=0.6)


def test_limits_of_the_radius(rng):
    tomogram = tomogram_of(rng, CENTRES[[0]], RADII[[0]])
    outer = RADII[0] + HALF_THICKNESS_NM
    inside = fit(tomogram, CENTRES[0] + 3, min_radius_nm=outer - 5, max_radius_nm=outer + 5)
    assert inside.status == (Status.REFINED,)
    for limits in ({"min_radius_nm": 32.0, "max_radius_nm": 45.0}, {"min_radius_nm": 10.0, "max_radius_nm": 17.0}):
        fitted = fit(tomogram, CENTRES[0] + 3, **limits)
        print(fitted.status, fitted.reasons, fitted.radii_nm)
        low, high = limits["min_radius_nm"], limits["max_radius_nm"]
        assert fitted.status[0] is Status.REJECTED or low - 1 < fitted.radii_nm[0] < high + 1
        assert fitted.status[0] is not Status.REFINED


def test_a_hint_outside_the_limits_says_so(rng):
    tomogram = tomogram_of(rng, CENTRES[[0]], RADII[[0]])
    small = fit(tomogram, CENTRES[0], [RADII[0]], min_radius_nm=32.0)
    large = fit(tomogram, CENTRES[0], [RADII[0]], max_radius_nm=15.0)
    assert small.status == large.status == (Status.REJECTED,)
    assert "below 32 nm" in small.reasons[0] and "above 15 nm" in large.reasons[0]


def test_no_marks():
    fitted = fit(Tomogram(np.zeros(SHAPE, dtype=np.float32), Grid(SHAPE, VOXEL_NM)), [])
    assert len(fitted) == 0


def test_the_order_of_marks_does_not_matter(rng):
    tomogram = tomogram_of(rng)
    places = CENTRES + off(rng, 0.4)
    order = [2, 0, 1]
    plain, other = fit(tomogram, places), fit(tomogram, places[order])
    assert np.abs(other.centres_vox - plain.centres_vox[order]).max() < 0.02
    assert np.abs(other.radii_vox - plain.radii_vox[order]).max() < 0.02


@pytest.mark.parametrize("change", ["scale and offset", "inverted", "int16"])
def test_grey_scale_does_not_matter(change, rng):
    tomogram = tomogram_of(rng)
    places = CENTRES + off(rng, 0.4)
    plain = fit(tomogram, places)
    if change == "scale and offset":
        other = replace(tomogram, data=tomogram.data * np.float32(37.0) + np.float32(1200))
    elif change == "inverted":
        other = replace(tomogram, data=-tomogram.data, invert=True)
    else:
        other = replace(tomogram, data=np.rint(tomogram.data * 800).astype(np.int16))
    found = fit(other, places)
    assert found.status == plain.status
    assert np.abs(found.centres_vox - plain.centres_vox).max() < 0.02
    assert np.abs(found.radii_vox - plain.radii_vox).max() < 0.02
    np.testing.assert_allclose(found.features["membrane_z"], plain.features["membrane_z"], rtol=0.02)


def test_threads_do_not_change_the_result(rng, monkeypatch):
    tomogram = tomogram_of(rng)
    places = CENTRES + off(rng, 0.4)
    results = []
    for count in (1, 2):
        monkeypatch.setattr(click, "usable_cores", lambda count=count: count)
        results.append(fit(tomogram, places))
    np.testing.assert_array_equal(results[0].centres_vox, results[1].centres_vox)
    np.testing.assert_array_equal(results[0].radii_vox, results[1].radii_vox)
    assert results[0].status == results[1].status


def test_progress_counts_the_marks(rng):
    seen: list[tuple[int, int]] = []
    tomogram = tomogram_of(rng)
    fit_marks(
        tomogram,
        CENTRES / VOXEL_NM,
        np.full(3, np.nan),
        Vesicles.empty(tomogram.grid),
        RefinementSettings(),
        ProposalSettings(max_radius_nm=40),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


class Watched(np.ndarray):
    """An array that notes which voxels are taken from it."""

    seen: np.ndarray

    def __getitem__(self, key):  # type: ignore[no-untyped-def]
        self.seen[key] = True
        return np.asarray(self)[key]


def test_only_boxes_are_read(rng):
    shape = (150, 400, 420)
    data = rng.integers(-50, 50, size=shape, dtype=np.int8).view(Watched)
    data.seen = np.zeros(shape, dtype=bool)
    places = np.array([[150.0, 200.0, 200.0], [120.0, 500.0, 300.0], [180.0, 300.0, 700.0]])
    fit(Tomogram(data, Grid(shape, VOXEL_NM)), places, max_radius_nm=30.0)
    # 32 boxes of 48 voxels for the noise, some of which overlap, and one or two around each mark.
    share = data.seen.mean()
    assert 0.05 < share < 0.2
    centre = tuple(np.rint(places[0] / VOXEL_NM).astype(int))
    assert data.seen[centre]


def test_a_large_vesicle_within_the_usual_limits(rng):
    centre, radius = np.array([[95.3, 141.1, 152.7]]), np.array([52.0])
    tomogram = tomogram_of(rng, centre, radius, shape=(60, 90, 96), voxel_nm=3.2)
    fitted = fit(tomogram, centre + [10.0, -15.0, 12.0], max_radius_nm=100.0)
    distance, error = errors_nm(fitted, centre, radius)
    assert fitted.status == (Status.REFINED,)
    assert distance[0] < 1.0 and abs(error[0]) < 0.6


def test_the_origin_of_the_grid_plays_no_part(rng):
    tomogram = tomogram_of(rng)
    moved = Tomogram(tomogram.data, Grid(SHAPE, VOXEL_NM, (500.0, -300.0, 80.0)))
    places = CENTRES + off(rng, 0.4)
    results = []
    for volume in (tomogram, moved):
        known = Vesicles.from_spheres(volume.grid, CENTRES[1:] / VOXEL_NM, (RADII[1:] + 2) / VOXEL_NM)
        results.append(fit(volume, places[:1], known=known))
    np.testing.assert_array_equal(results[0].centres_vox, results[1].centres_vox)
    np.testing.assert_array_equal(results[0].radii_vox, results[1].radii_vox)


@pytest.mark.parametrize("contrast", [1.0, 0.5])
def test_a_narrow_range_of_tilts(contrast, rng):
    centres, radii = CENTRES / VOXEL_NM, RADII / VOXEL_NM
    tomogram = shell_tomogram(rng, SHAPE, VOXEL_NM, centres, radii, contrast=contrast, half_range_deg=38)
    fitted = fit(tomogram, CENTRES + off(rng, 0.4))
    distance, radius = errors_nm(fitted)
    assert Status.REJECTED not in fitted.status
    assert distance.max() < 2 and np.abs(radius).max() < 1


def test_a_tilt_axis_along_x(rng):
    """The same tomogram with y and x exchanged gives the same spheres, exchanged."""
    tomogram = tomogram_of(rng)
    turned = np.ascontiguousarray(tomogram.data.transpose(0, 2, 1))
    grid = Grid((SHAPE[0], SHAPE[2], SHAPE[1]), VOXEL_NM)
    places = (CENTRES + off(rng, 0.4))[:, [0, 2, 1]] / VOXEL_NM
    fitted = fit_marks(
        Tomogram(turned, grid),
        places,
        np.full(3, np.nan),
        Vesicles.empty(grid),
        RefinementSettings(tilt_axis="x"),
        ProposalSettings(max_radius_nm=40),
    )
    distance, radius = errors_nm(fitted, CENTRES[:, [0, 2, 1]])
    assert set(fitted.status) == {Status.REFINED}
    assert distance.max() < 0.8 and np.abs(radius).max() < 0.4


def test_two_clicks_into_one_vesicle_give_the_same_sphere(rng):
    fitted = fit(tomogram_of(rng), [*(CENTRES + 5), CENTRES[0] - 6])
    rows = [0, 1, 2, 0]
    distance, radius = errors_nm(fitted, CENTRES[rows], RADII[rows])
    assert set(fitted.status) == {Status.REFINED}
    assert distance.max() < 0.6 and np.abs(radius).max() < 0.4
    assert np.linalg.norm(fitted.centres_nm[3] - fitted.centres_nm[0]) < 0.1
