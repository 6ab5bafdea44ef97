"""Known spheres are recovered from tomograms that share no code with the fit."""

from __future__ import annotations

import csv
import gzip

import numpy as np
import pytest

from deepvesicle.fitting.refine import refine
from deepvesicle.fitting.shell_fit import Template, learned_template, sphere_distance
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.settings import RefinementSettings
from deepvesicle.vesicles import Status, Vesicles
from tests.fitting.membrane_shells import HALF_THICKNESS_NM, displaced, scattered, shell_tomogram

FULL = RefinementSettings(tilt_range_deg=(-60.0, 60.0))


def settings_for(half_range_deg: float, tilt_axis: str = "y") -> RefinementSettings:
    return RefinementSettings(tilt_range_deg=(-half_range_deg, half_range_deg), tilt_axis=tilt_axis)


def errors_nm(fitted: Vesicles, centres: np.ndarray, middle_radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    voxel = fitted.grid.voxel_nm
    distance = np.linalg.norm(fitted.centres_vox - centres, axis=1) * voxel
    return distance, (fitted.membrane_radii_vox - middle_radii) * voxel


SCENES = {
    # name: shape, voxel nm, radii nm, count, d', tilt, start error of the centre, largest median error nm
    "good": ((64, 104, 121), 2.0, (15, 28), 8, 1.2, 60, 0.3, 0.25),
    "fine voxels": ((80, 110, 131), 1.0, (13, 20), 6, 0.75, 60, 0.3, 0.25),
    "coarse voxels, narrow tilt": ((60, 90, 81), 2.6, (18, 30), 8, 0.75, 45, 0.25, 0.6),
    "noisy": ((64, 104, 121), 2.0, (16, 28), 8, 0.4, 60, 0.15, 0.5),
    "large": ((60, 91, 80), 3.0, (45, 60), 2, 0.75, 60, 0.3, 0.6),
    "small": ((50, 90, 101), 2.0, (12, 14), 12, 1.2, 60, 0.3, 0.4),
}


@pytest.mark.parametrize("name", SCENES)
def test_spheres_are_recovered(name, rng):
    shape, voxel, radii_nm, count, contrast, tilt, move, limit = SCENES[name]
    centres, middle = scattered(rng, shape, voxel, radii_nm, count)
    tomogram = shell_tomogram(rng, shape, voxel, centres, middle, contrast=contrast, half_range_deg=tilt)
    outer = middle + HALF_THICKNESS_NM / voxel
    start = displaced(rng, centres, outer, move, 0.2 * move / 0.3)
    fitted = refine(tomogram, Vesicles.from_spheres(tomogram.grid, *start), settings_for(tilt))
    distance, radius = errors_nm(fitted, centres, middle)
    assert set(fitted.status) == {Status.REFINED} and set(fitted.reasons) == {""}
    assert np.median(distance) < limit and distance.max() < 4 * limit
    assert abs(np.median(radius)) < 0.3
    assert np.mean(1 - np.minimum(fitted.radii_vox, outer) / np.maximum(fitted.radii_vox, outer)) < 0.04
    # The uncertainties are of the size of the errors.
    rms = np.sqrt(np.mean(distance**2) / 3)
    assert 0.4 * rms < np.sqrt(np.mean((fitted.sigma_centres_vox * voxel) ** 2)) < 4 * rms
    assert np.all(fitted.sigma_radii_vox > 0)
    # So are the features what they claim to be.
    assert np.median(fitted.features["contrast"]) == pytest.approx(contrast, rel=0.35)
    assert np.all(fitted.features["membrane_density"] < 0)
    assert np.median(fitted.features["profile_correlation"]) > 0.8
    np.testing.assert_allclose(fitted.features["inside_fraction"], 1)
    np.testing.assert_allclose(fitted.radii_vox - fitted.membrane_radii_vox, fitted.thickness_vox / 2, atol=1e-9)
    assert np.all((fitted.thickness_vox * voxel >= 1.8) & (fitted.thickness_vox * voxel <= 7))


def test_touching_spheres_are_kept_apart(rng):
    voxel, middle_nm = 2.0, 20.0
    step = (2 * (middle_nm + HALF_THICKNESS_NM) + 0.5) / voxel
    z, y, x = np.meshgrid([25.0], 20 + step * np.arange(4), 22 + step * np.arange(4), indexing="ij")
    centres = np.stack([z.ravel(), y.ravel(), x.ravel()], axis=1) + rng.normal(0, 0.1, (16, 3))
    middle = np.full(len(centres), middle_nm / voxel)
    tomogram = shell_tomogram(rng, (51, 110, 115), voxel, centres, middle, contrast=0.75)
    start = displaced(rng, centres, middle + 1, 0.3, 0.2)
    fitted = refine(tomogram, Vesicles.from_spheres(tomogram.grid, *start), FULL)
    distance, radius = errors_nm(fitted, centres, middle)
    assert np.median(distance) < 0.5 and np.mean(distance < 1.5) >= 0.9
    assert abs(np.median(radius)) < 0.3


def test_spheres_cut_by_the_border(rng):
    voxel, shape = 2.0, (50, 100, 91)
    middle = np.array([11.0, 10.0, 12.0, 9.5])
    centres = np.array([[25.0, 2.5, 30.3], [4.2, 50.6, 45.1], [28.4, 93.0, 60.2], [24.7, 60.3, 88.9]])
    tomogram = shell_tomogram(rng, shape, voxel, centres, middle, contrast=1.2)
    start = displaced(rng, centres, middle + 1, 0.2, 0.1)
    fitted = refine(tomogram, Vesicles.from_spheres(tomogram.grid, *start), FULL)
    distance, radius = errors_nm(fitted, centres, middle)
    assert distance.max() < 2.0 and np.abs(radius).max() < 1.0
    assert np.all(fitted.features["inside_fraction"] < 0.9)
    assert np.all(fitted.features["coverage"] < 0.72)


@pytest.fixture
def small_case(rng):
    """A tomogram, start spheres and the truth: two neighbours and one apart, in a volume with three different sides."""
    voxel = 2.2
    centres = np.array([[20.3, 22.7, 25.1], [23.6, 45.2, 28.4], [22.1, 33.5, 64.8]])
    middle = np.array([9.2, 10.4, 11.6])
    tomogram = shell_tomogram(rng, (46, 66, 91), voxel, centres, middle, contrast=0.9)
    start = displaced(rng, centres, middle + 0.9, 0.2, 0.1)
    return tomogram, Vesicles.from_spheres(tomogram.grid, *start), centres, middle


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirrored_data_give_the_mirrored_fit(small_case, axis):
    tomogram, start, _, _ = small_case
    last = tomogram.grid.shape_zyx[axis] - 1
    places = start.centres_vox.copy()
    places[:, axis] = last - places[:, axis]
    plain = refine(tomogram, start, FULL)
    mirrored = refine(Tomogram(np.flip(tomogram.data, axis), tomogram.grid), start.replace(centres_vox=places), FULL)
    back = mirrored.centres_vox.copy()
    back[:, axis] = last - back[:, axis]
    np.testing.assert_allclose(back, plain.centres_vox, atol=4e-3)
    np.testing.assert_allclose(mirrored.radii_vox, plain.radii_vox, atol=1e-3)


def test_a_quarter_turn_about_z_turns_the_fit(small_case):
    tomogram, start, _, _ = small_case
    data = np.rot90(tomogram.data, axes=(1, 2))  # new y = nx - 1 - x, new x = y
    nx = tomogram.grid.shape_zyx[2]

    def turn(points: np.ndarray) -> np.ndarray:
        return np.stack([points[:, 0], nx - 1 - points[:, 2], points[:, 1]], axis=1)

    grid = Grid(data.shape, tomogram.grid.voxel_nm)
    plain = refine(tomogram, start, FULL)
    turned_start = Vesicles.from_spheres(grid, turn(start.centres_vox), start.radii_vox)
    turned = refine(Tomogram(data, grid), turned_start, settings_for(60, "x"))
    np.testing.assert_allclose(turned.centres_vox, turn(plain.centres_vox), atol=4e-3)
    np.testing.assert_allclose(turned.features["contrast"], plain.features["contrast"], rtol=3e-3)


def test_grey_scale_and_inversion_do_not_matter(small_case):
    tomogram, start, _, _ = small_case
    plain = refine(tomogram, start, FULL)
    bright = Tomogram(300 - 50 * tomogram.data, tomogram.grid, invert=True)
    other = refine(bright, start, FULL)
    np.testing.assert_allclose(other.centres_vox, plain.centres_vox, atol=1e-2)
    np.testing.assert_allclose(other.radii_vox, plain.radii_vox, atol=1e-2)


def test_read_only_integers_and_progress(small_case):
    tomogram, start, centres, _ = small_case
    data = np.clip(tomogram.data * 20, -127, 127).astype(np.int8)
    data.setflags(write=False)
    seen: list[tuple[int, int]] = []
    fitted = refine(Tomogram(data, tomogram.grid), start, FULL, progress=lambda done, total: seen.append((done, total)))
    assert np.linalg.norm(fitted.centres_vox - centres, axis=1).max() < 0.3
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_golden_result(small_case):
    """The fit of a small case, to a hundredth of a voxel: changes only on purpose."""
    tomogram, start, centres, middle = small_case
    fitted = refine(tomogram, start, FULL)
    assert np.linalg.norm(fitted.centres_vox - centres, axis=1).max() < 0.3
    found = np.column_stack([fitted.centres_vox, fitted.membrane_radii_vox, fitted.radii_vox])
    np.testing.assert_allclose(found, GOLDEN, atol=5e-3)


# z, y, x, middle and outer radius, voxels
GOLDEN = np.array(
    [
        [20.498, 22.740, 25.100, 9.190, 9.744],
        [23.627, 45.178, 28.394, 10.369, 10.923],
        [22.128, 33.499, 64.762, 11.583, 12.137],
    ]
)


def test_manual_and_rejected_rows_stay(small_case):
    tomogram, start, _, _ = small_case
    status = (Status.MANUAL, Status.REJECTED, Status.PROPOSED)
    table = start.replace(status=status, reasons=("mine", "too small", ""))
    fitted = refine(tomogram, table, FULL)
    np.testing.assert_array_equal(fitted.centres_vox[:2], start.centres_vox[:2])
    np.testing.assert_array_equal(fitted.radii_vox[:2], start.radii_vox[:2])
    assert fitted.status == (Status.MANUAL, Status.REJECTED, Status.REFINED)
    assert fitted.reasons == ("mine", "too small", "")
    assert np.isfinite(fitted.features["contrast"][[0, 2]]).all() and np.isnan(fitted.features["contrast"][1])
    np.testing.assert_array_equal(fitted.ids, start.ids)


def test_no_membrane_is_doubtful_and_keeps_its_place(rng):
    grid = Grid((50, 60, 71), 2.0)
    noise = Tomogram(rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    start = Vesicles.from_spheres(grid, [[25, 30, 20], [24, 28, 50]], [11.0, 10.0])
    fitted = refine(noise, start, FULL)
    assert set(fitted.status) == {Status.DOUBTFUL} and all("no" in reason for reason in fitted.reasons)
    np.testing.assert_array_equal(fitted.centres_vox, start.centres_vox)
    np.testing.assert_array_equal(fitted.radii_vox, start.radii_vox)
    np.testing.assert_array_equal(fitted.features["fit_failed"], 1)


def test_a_sphere_outside_the_volume_is_not_fitted(small_case):
    tomogram, start, _, _ = small_case
    far = start.replace(centres_vox=np.array([[20.0, 22, 25], [400, 0, 0], [22, 33, 65]]))
    fitted = refine(tomogram, far, FULL)
    assert fitted.status[1] is Status.DOUBTFUL and "too little of it" in fitted.reasons[1]
    assert fitted.status[0] is Status.REFINED


def test_constant_and_empty_input():
    grid = Grid((40, 50, 60), 2.0)
    flat = Tomogram(np.zeros(grid.shape_zyx, np.float32), grid)
    assert len(refine(flat, Vesicles.empty(grid), FULL)) == 0
    fitted = refine(flat, Vesicles.from_spheres(grid, [[20, 25, 30]], [9.0]), FULL)
    assert fitted.status == (Status.DOUBTFUL,)


def test_sphere_distance_is_that_of_geometry(rng):
    rays = rng.normal(size=(50, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    shift = np.array([1.0, -2.0, 0.5])
    places = rays * sphere_distance(rays, shift, 8.0)[:, None]
    np.testing.assert_allclose(np.linalg.norm(places - shift, axis=1), 8.0)


def test_templates_have_no_mean_and_their_middle_at_zero():
    generic = Template.generic()
    learned = learned_template(np.arange(-14, 14.1, 0.25), 3 - 2 * np.exp(-0.5 * (np.arange(-14, 14.1, 0.25) / 2) ** 2))
    for template in (generic, learned, generic.blurred(1.0)):
        assert abs(template.values.sum()) < 1e-6 * np.abs(template.values).sum()
        assert template.offsets_nm[np.argmin(template.values)] == pytest.approx(0)
        np.testing.assert_allclose(template.at(np.array([-30.0, 30.0])), 0)


def test_independent_simulation(shared_data):
    """A synapse simulated by others: every whole vesicle is found again, to a fraction of a voxel."""
    from deepvesicle.files.tomogram import read_tomogram

    tomogram = read_tomogram(shared_data("independent/syn_a.mrc.gz"))
    with open(shared_data("independent/syn_a_truth.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    centres = np.array([[float(r["z_vox"]), float(r["y_vox"]), float(r["x_vox"])] for r in rows])
    middle = np.array([float(r["radius_mid_vox"]) for r in rows])
    outer = np.array([float(r["radius_outer_vox"]) for r in rows])
    whole = np.array([r["kind"] == "SV" and float(r["frac_in_fov"]) > 0.999 for r in rows])
    start = displaced(np.random.default_rng(1), centres, outer, 0.3, 0.2)
    fitted = refine(tomogram, Vesicles.from_spheres(tomogram.grid, *start), FULL)
    distance, radius = errors_nm(fitted, centres, middle)
    assert np.mean(distance[whole] < 1.0) >= 0.98
    assert np.median(distance[whole]) < 0.3
    assert abs(np.median(radius[whole])) < 0.3
    assert np.mean(1 - np.minimum(fitted.radii_vox, outer)[whole] / np.maximum(fitted.radii_vox, outer)[whole]) < 0.04


def test_real_identical_shells_have_one_radius(shared_data):
    import mrcfile

    with gzip.open(shared_data("ferritin_shells/ferritin_upper.mrc.gz")) as file:
        data = mrcfile.mrcinterpreter.MrcInterpreter(iostream=file, permissive=True).data
        grid = Grid(data.shape, 3.5)
        tomogram = Tomogram(np.array(data), grid)
    with open(shared_data("ferritin_shells/reference_upper.csv"), newline="") as file:
        centres = np.array([[float(r["z_vox"]), float(r["y_vox"]), float(r["x_vox"])] for r in csv.DictReader(file)])
    centres = centres[::4]
    fitted = refine(tomogram, Vesicles.from_spheres(grid, centres, np.full(len(centres), 6.0)), FULL)
    good = fitted.has_status(Status.REFINED)
    radii = fitted.membrane_radii_vox[good]
    assert good.mean() > 0.95
    assert 1.4826 * np.median(np.abs(radii - np.median(radii))) < 0.25
    assert 4.3 < np.median(radii) < 5.5 < np.median(fitted.radii_vox[good]) + 0.3
