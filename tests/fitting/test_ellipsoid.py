"""Known ellipsoids are recovered, spheres are not flagged, and what the missing wedge hides is said to be unknown."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from numpy.typing import NDArray

from deepvesicle.fitting.ellipsoid import FEATURES, fit_ellipsoids
from deepvesicle.fitting.ellipsoid_fit import matrix, quadratic_terms, resolved_normals, surface
from deepvesicle.fitting.profile import direction_set, resolved_weight
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.settings import RefinementSettings
from deepvesicle.vesicles import Status, Vesicles
from tests.fitting.membrane_shells import HALF_THICKNESS_NM, line_profile, scattered, wedge_mask

#: Logarithms of the three semi-axes for an elongation of e, the mean radius being 1.
KINDS = {"prolate": (2 / 3, -1 / 3, -1 / 3), "oblate": (1 / 3, 1 / 3, -2 / 3), "tri-axial": (1 / 2, 0.0, -1 / 2)}
Z, Y, X = np.eye(3)


def settings_for(half_range_deg: float, tilt_axis: str = "y") -> RefinementSettings:
    return RefinementSettings(tilt_range_deg=(-half_range_deg, half_range_deg), tilt_axis=tilt_axis)


def in_plane(rng: np.random.Generator) -> NDArray[np.float64]:
    """Axes (columns, longest first) of which the longest and the shortest lie in the plane of x and y."""
    angle = rng.uniform(0, np.pi)
    return np.stack([np.cos(angle) * X + np.sin(angle) * Y, Z, np.cos(angle) * Y - np.sin(angle) * X], axis=1)


def along_z(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.stack([Z, X, Y], axis=1)


def squashed_in_z(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.stack([X, Y, Z], axis=1)


def any_way(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


def ellipsoid_tomogram(
    rng: np.random.Generator,
    shape_zyx: tuple[int, int, int],
    voxel_nm: float,
    centres_vox: NDArray[np.float64],
    semi_axes_nm: NDArray[np.float64],
    axes: list[NDArray[np.float64]],
    *,
    contrast: float,
    half_range_deg: float = 60.0,
) -> Tomogram:
    """As `membrane_shells.shell_tomogram`, for the middles of membranes with semi-axes (n, 3) along columns of axes."""
    signal = np.zeros(shape_zyx)
    for centre, lengths, directions in zip(centres_vox, semi_axes_nm, axes, strict=True):
        reach = lengths.max() / voxel_nm + 10 / voxel_nm
        low = np.clip(np.floor(centre - reach).astype(int), 0, None)
        high = np.minimum(np.ceil(centre + reach).astype(int) + 1, shape_zyx)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        place = (np.stack(np.mgrid[box], axis=-1) - centre) * voxel_nm @ directions
        size = np.linalg.norm(place / lengths, axis=-1)
        offset = size * (size - 1) / np.maximum(np.linalg.norm(place / lengths**2, axis=-1), 1e-9)
        signal[box] += np.where(np.abs(offset) < 10, line_profile(offset, voxel_nm), 0)
    mask = wedge_mask(shape_zyx, half_range_deg)

    def measured(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.fft.irfftn(np.fft.rfftn(values) * mask, s=shape_zyx, axes=(0, 1, 2))

    noise = measured(rng.normal(size=shape_zyx))
    grey = contrast / 0.75 * measured(signal) + noise / noise.std()
    return Tomogram(grey.astype(np.float32), Grid(shape_zyx, voxel_nm))


class Scene:
    """Ellipsoids of one elongation, and the spheres a fit might have made of them."""

    def __init__(
        self, rng, kind, elongation, turned, *, shape, voxel, contrast, tilt, radii_nm=(15, 25), count=12, gap_nm=14.0
    ):
        self.centres, radii = scattered(rng, shape, voxel, radii_nm, count, gap_nm=gap_nm)
        stretch = elongation ** np.array(KINDS[kind])
        self.middle = radii[:, None] * voxel * stretch  # semi-axes (n, 3), longest first
        self.axes = [turned(rng) for _ in radii]
        self.tomogram = ellipsoid_tomogram(
            rng, shape, voxel, self.centres, self.middle, self.axes, contrast=contrast, half_range_deg=tilt
        )
        self.start = Vesicles.from_spheres(
            self.tomogram.grid,
            self.centres + rng.normal(0, 0.2, self.centres.shape),
            radii + (HALF_THICKNESS_NM + rng.normal(0, 0.3, len(radii))) / voxel,
            status=[Status.REFINED] * len(radii),
        )
        self.elongation = (self.middle[:, 0] + HALF_THICKNESS_NM) / (self.middle[:, 2] + HALF_THICKNESS_NM)


def semi_axes(fitted: Vesicles) -> NDArray[np.float64]:
    return np.stack([fitted.features[f"semi_axis_{name}_nm"] for name in "abc"], axis=1)


def long_axes(fitted: Vesicles) -> NDArray[np.float64]:
    return np.stack([fitted.features[f"axis_a_{name}"] for name in "zyx"], axis=1)


def flags(fitted: Vesicles) -> NDArray[np.bool_]:
    return np.array(["not round" in reason for reason in fitted.reasons])


SCENES = {
    # name: kind, turned, shape, voxel nm, d', tilt, largest median error: axes (relative), direction (degrees)
    "prolate": ("prolate", in_plane, (70, 131, 120), 2.2, 1.2, 60, 0.06, 5),
    "prolate, narrow tilt": ("prolate", in_plane, (70, 131, 120), 2.2, 0.75, 45, 0.09, 10),
    "oblate": ("oblate", in_plane, (70, 131, 120), 2.2, 1.2, 60, 0.06, None),
    "tri-axial": ("tri-axial", in_plane, (70, 131, 120), 2.2, 0.75, 60, 0.05, 8),
    "tri-axial, narrow tilt": ("tri-axial", in_plane, (70, 131, 120), 2.2, 0.75, 45, 0.07, 12),
    "any way": ("tri-axial", any_way, (70, 131, 120), 2.2, 0.75, 60, 0.06, 12),
    "fine voxels": ("tri-axial", in_plane, (80, 181, 190), 1.0, 0.75, 60, 0.05, 8),
    "coarse voxels": ("prolate", in_plane, (66, 110, 101), 2.9, 0.75, 60, 0.07, 12),
}


@pytest.mark.parametrize("name", SCENES)
def test_ellipsoids_are_recovered_and_flagged(name, rng):
    kind, turned, shape, voxel, contrast, tilt, limit, limit_deg = SCENES[name]
    scene = Scene(rng, kind, 1.4, turned, shape=shape, voxel=voxel, contrast=contrast, tilt=tilt)
    fitted = fit_ellipsoids(scene.tomogram, scene.start, settings_for(tilt))
    # The half thickness that is added is that of the table: compare the middles.
    relative = (semi_axes(fitted) - 1.9) / scene.middle - 1
    # The middle axis is that along z where the others lie in the plane.
    limits = limit * np.array([1.0, 1.5 if turned is in_plane else 1.0, 1.0])
    assert np.all(np.abs(np.median(relative, axis=0)) < limits)
    assert np.all(np.median(np.abs(relative), axis=0) < limits)
    if limit_deg is not None:
        truth = np.stack([axes[:, 0] for axes in scene.axes])
        between = np.degrees(np.arccos(np.clip(np.abs((long_axes(fitted) * truth).sum(axis=1)), 0, 1)))
        assert np.median(between) < limit_deg and np.quantile(between, 0.8) < 2 * limit_deg
    error = (fitted.features["elongation"] - scene.elongation) / fitted.features["sigma_elongation"]
    assert np.mean(np.abs(error) < 2) >= 0.7
    if turned is in_plane:
        assert flags(fitted).mean() >= 0.9
    a, b, c = semi_axes(fitted).T
    assert np.all((a >= b) & (b >= c))
    np.testing.assert_allclose(fitted.features["elongation"], a / c)
    np.testing.assert_allclose(fitted.features["eccentricity"], np.sqrt(1 - (c / a) ** 2))
    np.testing.assert_allclose(np.linalg.norm(long_axes(fitted), axis=1), 1)
    row = int(np.argmax(flags(fitted)))
    assert fitted.status[row] is Status.DOUBTFUL
    assert fitted.reasons[row] == f"not round: axes {a[row]:.1f}, {b[row]:.1f} and {c[row]:.1f} nm"
    for column in ("centres_vox", "radii_vox", "membrane_radii_vox", "thickness_vox", "ids"):
        np.testing.assert_array_equal(getattr(fitted, column), getattr(scene.start, column))


def test_spheres_are_not_flagged(rng):
    """At most 2 % of them, although noise makes them all look somewhat elongated."""
    flagged, elongation, errors = [], [], []
    for contrast, tilt, voxel in ((0.75, 60, 2.2), (0.75, 45, 2.2), (0.75, 60, 2.9), (0.4, 60, 2.2)):
        seen = {"shape": (66, 121, 130), "voxel": voxel, "contrast": contrast, "tilt": tilt}
        scene = Scene(rng, "prolate", 1.0, any_way, **seen, count=25, gap_nm=2)
        fitted = fit_ellipsoids(scene.tomogram, scene.start, settings_for(tilt))
        flagged.extend(flags(fitted))
        elongation.extend(fitted.features["elongation"])
        errors.extend((fitted.features["elongation"] - 1) / fitted.features["sigma_elongation"])
    assert len(flagged) >= 60 and np.isfinite(elongation).mean() > 0.98
    assert np.mean(flagged) <= 0.02
    assert np.nanmedian(elongation) < 1.1
    assert np.nanmean(np.array(errors) < 3) > 0.95


def test_slightly_elongated_ones_are_tolerated(rng):
    scene = Scene(rng, "prolate", 1.1, in_plane, shape=(70, 131, 120), voxel=2.2, contrast=0.75, tilt=60)
    fitted = fit_ellipsoids(scene.tomogram, scene.start, settings_for(60))
    assert not flags(fitted).any()
    assert abs(np.median(fitted.features["elongation"] - scene.elongation)) < 0.07


@pytest.mark.parametrize(("kind", "turned"), [("prolate", along_z), ("oblate", squashed_in_z)])
@pytest.mark.parametrize("tilt", [60, 45])
def test_lengths_along_z_are_uncertain(rng, kind, turned, tilt):
    shape = (80, 121, 110)
    scene = Scene(rng, kind, 1.4, turned, shape=shape, voxel=2.2, contrast=0.75, tilt=tilt)
    fitted = fit_ellipsoids(scene.tomogram, scene.start, settings_for(tilt))
    sigma = fitted.features["sigma_elongation"]
    error = fitted.features["elongation"] - scene.elongation
    assert np.mean(np.abs(error) < 2.5 * sigma) >= 0.75
    # More uncertain than ellipsoids of which the plane shows two axes, above all if they are flat.
    side = Scene(rng, "tri-axial", 1.4, in_plane, shape=shape, voxel=2.2, contrast=0.75, tilt=60, count=8)
    seen = fit_ellipsoids(side.tomogram, side.start, settings_for(60)).features["sigma_elongation"]
    factor = 1.1 if kind == "prolate" else 1.7
    assert np.median(sigma) > factor * np.median(seen)


def test_spheres_beside_the_vesicle_will_do_to_begin_with(rng):
    """With a narrow tilt a fit of spheres may hold on to one side of an ellipsoid."""
    scene = Scene(rng, "tri-axial", 1.4, in_plane, shape=(70, 131, 120), voxel=2.2, contrast=0.75, tilt=45)
    away = rng.normal(size=(len(scene.start), 3)) * np.array([0.3, 1, 1])
    away *= 0.25 * scene.start.radii_vox[:, None] / np.linalg.norm(away, axis=1, keepdims=True)
    scales = rng.uniform(0.88, 1.12, len(away))
    start = scene.start.replace(
        centres_vox=scene.centres + away, radii_vox=scene.start.radii_vox * scales, reasons=[""] * len(away)
    )
    fitted = fit_ellipsoids(scene.tomogram, start, settings_for(45))
    relative = (semi_axes(fitted) - 1.9) / scene.middle - 1
    assert np.all(np.nanmedian(np.abs(relative), axis=0) < (0.06, 0.1, 0.06))
    assert flags(fitted).mean() >= 0.75


def test_a_stretch_that_all_share_is_the_tomogram_s(rng):
    """A wrong step in z makes no vesicle doubtful, nor does it hide one that is long in the plane."""
    voxel, shape = 2.2, (80, 131, 120)
    centres, radii = scattered(rng, shape, voxel, (15, 21), 12, gap_nm=14)
    lengths = radii[:, None] * voxel * np.array([1.35, 1.0, 1.0])
    lengths[0, 1:] *= 1.25, 0.85
    axes = [np.stack([Z, X, Y], axis=1)] * len(radii)
    tomogram = ellipsoid_tomogram(rng, shape, voxel, centres, lengths, axes, contrast=1.2)
    status = [Status.REFINED] * len(radii)
    start = Vesicles.from_spheres(tomogram.grid, centres, 1.05 * radii + HALF_THICKNESS_NM / voxel, status=status)
    fitted = fit_ellipsoids(tomogram, start, settings_for(60))
    assert list(flags(fitted)) == [True] + [False] * (len(radii) - 1)
    assert np.median(fitted.features["elongation"]) > 1.2


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_any_sphere_between_the_axes_will_do_to_begin_with(rng, share):
    """A fit of spheres may take the waist of a long vesicle for the whole, or its mean, and be off its centre."""
    scene = Scene(rng, "prolate", 1.4, in_plane, shape=(66, 111, 120), voxel=2.2, contrast=0.75, tilt=60)
    radii_nm = (1 - share) * scene.middle[:, 2] + share * scene.middle[:, 0] + HALF_THICKNESS_NM
    places = scene.centres + rng.normal(0, 0.05 * scene.start.radii_vox[:, None], (len(radii_nm), 3))
    start = scene.start.replace(centres_vox=places, radii_vox=radii_nm / 2.2)
    fitted = fit_ellipsoids(scene.tomogram, start, settings_for(60))
    relative = (semi_axes(fitted) - 1.9) / scene.middle - 1
    assert np.all(np.abs(np.median(relative, axis=0)) < 0.07)
    assert flags(fitted).mean() >= 0.9


def test_spheres_that_touch_or_are_cut_are_round(rng):
    voxel, radius_nm = 2.2, 19.0
    step = 2 * (radius_nm + HALF_THICKNESS_NM) / voxel + 0.2
    y, x = np.meshgrid(3.0 + step * np.arange(4), 2.0 + step * np.arange(4), indexing="ij")
    centres = np.stack([np.full(16, 22.3), y.ravel(), x.ravel()], axis=1) + rng.normal(0, 0.1, (16, 3))
    tomogram = ellipsoid_tomogram(
        rng, (47, 66, 75), voxel, centres, np.full((16, 3), radius_nm), [np.eye(3)] * 16, contrast=0.75
    )
    radii = np.full(16, (radius_nm + HALF_THICKNESS_NM) / voxel)
    start = Vesicles.from_spheres(tomogram.grid, centres, radii, status=[Status.REFINED] * 16)
    fitted = fit_ellipsoids(tomogram, start, settings_for(60))
    assert flags(fitted).sum() == 0
    known = np.isfinite(fitted.features["elongation"])
    assert known.mean() >= 0.8
    cut = (y.ravel() < 4) | (x.ravel() < 4)
    assert np.nanmedian(fitted.features["elongation"][~cut]) < 1.12
    assert np.nanmedian(fitted.features["sigma_elongation"][cut]) > np.nanmedian(
        fitted.features["sigma_elongation"][~cut]
    )


def test_an_elongated_one_among_touching_neighbours(rng):
    voxel = 2.2
    lengths = np.array([[26.0, 17, 18], [19, 19, 19], [19, 19, 19], [19, 19, 19], [19, 19, 19]])
    apart = 2 * HALF_THICKNESS_NM + 1
    offsets_nm = np.array([[0, 0, 0], [0, 0, 45 + apart], [0, 0, -45 - apart], [0, 36 + apart, 0], [0, -36 - apart, 0]])
    centres = np.array([23.4, 39.2, 46.7]) + offsets_nm / voxel
    axes = [np.stack([X, Y, Z], axis=1)] * 5
    tomogram = ellipsoid_tomogram(rng, (48, 79, 94), voxel, centres, lengths, axes, contrast=0.75)
    radii = (np.cbrt(lengths.prod(axis=1)) + HALF_THICKNESS_NM) / voxel
    start = Vesicles.from_spheres(tomogram.grid, centres, radii, status=[Status.REFINED] * 5)
    fitted = fit_ellipsoids(tomogram, start, settings_for(60))
    assert list(flags(fitted)) == [True, False, False, False, False]
    assert semi_axes(fitted)[0, 0] == pytest.approx(26 + 1.9, rel=0.08)
    assert abs(long_axes(fitted)[0] @ X) > 0.98


@pytest.fixture
def pair(rng):
    """Two ellipsoids and a sphere in a volume of three different sides."""
    voxel = 2.2
    centres = np.array([[20.3, 22.7, 25.1], [23.6, 49.2, 28.4], [22.1, 33.5, 66.8]])
    lengths = np.array([[25.0, 18, 18], [26, 21, 17], [20, 20, 20]])
    axes = [any_way(rng), in_plane(rng), np.eye(3)]
    tomogram = ellipsoid_tomogram(rng, (46, 74, 91), voxel, centres, lengths, axes, contrast=1.2)
    radii = (np.cbrt(lengths.prod(axis=1)) + HALF_THICKNESS_NM) / voxel
    return tomogram, Vesicles.from_spheres(tomogram.grid, centres, radii, status=[Status.REFINED] * 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirrored_data_give_the_mirrored_fit(pair, axis):
    tomogram, start = pair
    places = start.centres_vox.copy()
    places[:, axis] = tomogram.grid.shape_zyx[axis] - 1 - places[:, axis]
    plain = fit_ellipsoids(tomogram, start, settings_for(60))
    flipped = Tomogram(np.flip(tomogram.data, axis), tomogram.grid)
    mirrored = fit_ellipsoids(flipped, start.replace(centres_vox=places), settings_for(60))
    np.testing.assert_allclose(semi_axes(mirrored), semi_axes(plain), rtol=1e-3)
    back = long_axes(mirrored) * np.where(np.arange(3) == axis, -1, 1)
    np.testing.assert_allclose(np.abs((back * long_axes(plain)).sum(axis=1)), 1, atol=1e-3)


def test_a_quarter_turn_about_z_turns_the_fit(pair):
    tomogram, start = pair
    data = np.rot90(tomogram.data, axes=(1, 2))  # new y = nx - 1 - x, new x = y
    z, y, x = start.centres_vox.T
    turned = Vesicles.from_spheres(
        Grid(data.shape, tomogram.grid.voxel_nm),
        np.stack([z, tomogram.grid.shape_zyx[2] - 1 - x, y], axis=1),
        start.radii_vox,
        status=start.status,
    )
    plain = fit_ellipsoids(tomogram, start, settings_for(60))
    other = fit_ellipsoids(Tomogram(data, turned.grid), turned, settings_for(60, "x"))
    np.testing.assert_allclose(semi_axes(other), semi_axes(plain), rtol=1e-3)
    np.testing.assert_allclose(other.features["sigma_elongation"], plain.features["sigma_elongation"], rtol=0.02)
    assert other.status == plain.status


def test_grey_scale_inversion_and_an_unknown_tilt_do_not_matter(pair):
    tomogram, start = pair
    plain = fit_ellipsoids(tomogram, start, settings_for(60))
    bright = Tomogram(300 - 50 * tomogram.data, tomogram.grid, invert=True)
    other = fit_ellipsoids(bright, start, RefinementSettings(tilt_range_deg=None))
    np.testing.assert_allclose(semi_axes(other), semi_axes(plain), rtol=1e-3)
    assert list(flags(plain)) == [True, True, False]


def test_each_status_is_kept_but_refined(pair):
    tomogram, start = pair
    mixed = start.replace(
        status=(Status.MANUAL, Status.DOUBTFUL, Status.REJECTED), reasons=("mine", "overlaps", "too small")
    )
    fitted = fit_ellipsoids(tomogram, mixed, settings_for(60))
    assert fitted.status == mixed.status
    assert (fitted.reasons[0], fitted.reasons[2]) == ("mine", "too small")
    assert fitted.reasons[1].startswith("overlaps; not round: axes ")
    known = np.isfinite(np.stack([fitted.features[name] for name in FEATURES]))
    assert known[:, :2].all() and not known[:, 2].any()
    # A second call says it once.
    again = fit_ellipsoids(tomogram, fitted, settings_for(60))
    assert again.reasons == fitted.reasons


def test_one_vesicle(pair):
    tomogram, start = pair
    seen: list[tuple[int, int]] = []
    fitted = fit_ellipsoids(tomogram, start.select([1]), settings_for(60), progress=lambda *at: seen.append(at))
    assert semi_axes(fitted)[0] == pytest.approx([26 + 1.9, 21 + 1.9, 17 + 1.9], rel=0.06)
    assert seen == [(1, 1)]


def test_nothing_to_fit(pair, rng):
    tomogram, start = pair
    grid = tomogram.grid
    empty = fit_ellipsoids(tomogram, Vesicles.empty(grid), settings_for(60))
    assert len(empty) == 0 and set(FEATURES) <= set(empty.features)
    flat = Tomogram(np.zeros(grid.shape_zyx, np.float32), grid)
    noise = Tomogram(rng.normal(size=grid.shape_zyx).astype(np.float32), grid)
    rejected = start.replace(status=[Status.REJECTED] * 3)
    outside = start.replace(centres_vox=start.centres_vox + 500)
    for data, table in ((flat, start), (noise, start), (tomogram, rejected), (tomogram, outside)):
        fitted = fit_ellipsoids(data, table, settings_for(60))
        assert fitted.status == table.status and fitted.reasons == table.reasons
        assert np.all(np.isnan(semi_axes(fitted)))


def test_surface_is_that_of_geometry(rng):
    rays = direction_set(400).patches
    state = np.array([1.5, -2.0, 0.7, 3.0, 0.1, -0.2, 0.05, 0.15, -0.1])
    seen = surface(rays, state)
    inverse = np.linalg.inv(matrix_exponential(matrix(state[3:])))
    place = rays * seen.distance[:, None] - state[:3]
    np.testing.assert_allclose(np.linalg.norm(place @ inverse, axis=1), 1)
    for column in range(9):
        step = np.zeros(9)
        step[column] = 1e-5
        slope = (surface(rays, state + step).distance - surface(rays, state - step).distance) / 2e-5
        np.testing.assert_allclose(seen.jacobian[:, column], slope, atol=1e-5)
    round_ = surface(rays, np.array([0, 0, 0, np.log(20.0), 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(round_.distance, 20)
    np.testing.assert_allclose(round_.normals, rays, atol=1e-12)
    np.testing.assert_allclose(round_.jacobian[:, 3:], 20 * quadratic_terms(rays), atol=1e-9)


def matrix_exponential(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.linalg import expm

    return expm(values)


@pytest.mark.parametrize(("tilt", "axis"), [((-60.0, 60.0), "y"), ((-40.0, 65.0), "x")])
def test_resolution_of_normals_is_that_of_patches(rng, tilt, axis):
    normals = rng.normal(size=(300, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    expected = resolved_weight(normals, tilt, axis)
    np.testing.assert_allclose(resolved_normals(normals, tilt, axis), expected, atol=0.02)


def test_independent_simulation(shared_data):
    """A synapse simulated by others: the elongation of its vesicles is found to what it is said to be known to."""
    from deepvesicle.files.tomogram import read_tomogram

    tomogram = read_tomogram(shared_data("independent/syn_a.mrc.gz"))
    with open(shared_data("independent/syn_a_truth.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    centres = np.array([[float(r["z_vox"]), float(r["y_vox"]), float(r["x_vox"])] for r in rows])
    outer = np.array([float(r["radius_outer_vox"]) for r in rows])
    axes = np.array([[float(r[f"ax{k}_nm"]) for k in (1, 2, 3)] for r in rows])
    truth = axes.max(axis=1) / axes.min(axis=1)
    whole = np.array([r["kind"] == "SV" and float(r["frac_in_fov"]) > 0.999 for r in rows])
    start = Vesicles.from_spheres(tomogram.grid, centres, outer, status=[Status.REFINED] * len(rows))
    fitted = fit_ellipsoids(tomogram, start, settings_for(60))
    found = fitted.features["elongation"][whole]
    assert np.isfinite(found).all() and not flags(fitted)[whole].any()
    assert np.corrcoef(found, truth[whole])[0, 1] > 0.6
    assert np.mean(np.abs(found - truth[whole]) < 2 * fitted.features["sigma_elongation"][whole]) > 0.85
