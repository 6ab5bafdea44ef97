"""The range of tilts: given, else read from the missing wedge, else the usual one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from deepvesicle.files.tomogram import read_tomogram
from deepvesicle.fitting import tilts
from deepvesicle.fitting.tilts import USUAL_TILTS, find_tilts, resolved, tilt_range
from deepvesicle.fitting.whitening import Whitening, estimate_whitening
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.phantom.imaging import Imaging, image_scene
from deepvesicle.phantom.scene import Scene
from deepvesicle.phantom.shapes import Bilayer, Canvas, add_compartment
from deepvesicle.settings import RefinementSettings
from deepvesicle.vesicles import Vesicles
from tests.fitting.wedge_noise import noise_tomogram

SHAPE = (60, 76, 90)
ESTIMATE = RefinementSettings()
DATA = Path(__file__).parents[2].parent / "shared" / "data"


def turned(tomogram: Tomogram) -> Tomogram:
    """With y and x exchanged: a wedge about y becomes one about x."""
    nz, ny, nx = tomogram.grid.shape_zyx
    data = np.ascontiguousarray(tomogram.data.transpose(0, 2, 1))
    return Tomogram(data, Grid((nz, nx, ny), tomogram.grid.voxel_nm))


def phantom(max_tilt: float, **imaging: float | str) -> Tomogram:
    """Vesicles seen through simulated optics."""
    rng = np.random.default_rng(5)
    voxel_nm, shape, count = 2.2, (56, 90, 130), 15
    canvas = Canvas(np.zeros(shape, dtype=np.float32), voxel_nm)
    centres, radii = rng.uniform(0, 1, (count, 3)) * shape * np.array(voxel_nm), rng.uniform(15, 25, count)
    for centre, radius in zip(centres, radii, strict=True):
        add_compartment(canvas, centre, (radius - 2.2,) * 3, Bilayer(4.4, 1.0), 0.05, 0.0)
    grid = Grid(shape, voxel_nm)
    truth = Vesicles.from_spheres(
        grid,
        centres / voxel_nm,
        radii / voxel_nm,
        membrane_radii_vox=(radii - 2.2) / voxel_nm,
        thickness_vox=np.full(count, 4.4 / voxel_nm),
    ).with_features(inside_fraction=np.ones(count))
    angles = tuple(float(t) for t in np.arange(-max_tilt, max_tilt + 0.1, 2.0))
    conditions = Imaging(tilts_deg=angles, **imaging)  # type: ignore[arg-type]
    return image_scene(Scene(canvas.density, grid, truth), conditions, rng, 12)[0]


@pytest.mark.parametrize("wedge", [(-45.0, 45.0), (-60.0, 60.0), (-40.0, 65.0), (-70.0, 70.0), (-35.0, 35.0)])
@pytest.mark.parametrize("voxel_nm", [0.9, 2.2])
def test_the_wedge_of_noise_is_measured(wedge, voxel_nm, rng):
    shape = tuple(n * (2 if voxel_nm < 1 else 1) for n in SHAPE)
    tomogram = noise_tomogram(rng, shape, voxel_nm, wedge)
    found = find_tilts(tomogram, ESTIMATE)
    assert np.abs(np.subtract(found.range_deg, wedge)).max() <= 3
    assert found.range_deg == tuple(np.round(found.range_deg))
    assert "estimated from the tomogram" in found.note and f"{found.range_deg[1]:.0f} degrees" in found.note
    assert found.warning == ""


@pytest.mark.parametrize("max_tilt", [45.0, 60.0])
@pytest.mark.parametrize(
    "imaging",
    [{}, {"filter": "gaussian", "filter_strength": 1.2}, {"filter": "diffusion", "filter_strength": 5.0}],
    ids=["unfiltered", "gaussian", "diffusion"],
)
def test_the_wedge_of_phantoms_is_measured(max_tilt, imaging):
    tomogram = phantom(max_tilt, **imaging)
    for volume, axis in ((tomogram, "y"), (turned(tomogram), "x")):
        found = find_tilts(volume, RefinementSettings(tilt_axis=axis))
        assert np.abs(np.abs(found.range_deg) - max_tilt).max() <= 3
        assert "estimated" in found.source and found.warning == ""


def test_whole_numbers_in_the_file_do_no_harm(rng):
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=(-52.0, 60.0))
    coarse = Tomogram(np.clip(np.rint(tomogram.data * 20), -128, 127).astype(np.int8), tomogram.grid)
    assert np.abs(np.subtract(tilt_range(coarse, ESTIMATE), (-52, 60))).max() <= 3


def test_without_a_wedge_the_usual_range_holds(rng):
    found = find_tilts(noise_tomogram(rng, SHAPE), ESTIMATE)
    assert found.range_deg == USUAL_TILTS == (-60.0, 60.0)
    assert "no missing wedge shows" in found.note and found.warning == ""
    constant = Tomogram(np.zeros(SHAPE, np.float32), Grid(SHAPE, 2.0))
    assert tilt_range(constant, ESTIMATE) == USUAL_TILTS
    tiny = Tomogram(rng.normal(size=(3, 4, 5)).astype(np.float32), Grid((3, 4, 5), 2.0))
    assert tilt_range(tiny, ESTIMATE) == USUAL_TILTS


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_a_blur_along_the_beam_is_no_wedge(sigma, rng):
    noise = noise_tomogram(rng, SHAPE)
    blurred = Tomogram(ndimage.gaussian_filter1d(noise.data, sigma, axis=0), noise.grid)
    found = find_tilts(blurred, ESTIMATE)
    assert found.range_deg == USUAL_TILTS and found.warning == ""


@pytest.mark.parametrize("wedge", [(-45.0, 45.0), (-60.0, 60.0), (-40.0, 62.0)])
def test_a_wedge_about_the_other_axis_is_a_warning(wedge, rng):
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=wedge)
    about_x = turned(tomogram)
    found = find_tilts(about_x, ESTIMATE)
    assert found.range_deg == USUAL_TILTS
    assert found.warning == "the missing wedge seems to lie about the x axis: give --tilt-axis x"
    assert find_tilts(about_x, RefinementSettings(tilt_range_deg=wedge)).warning == found.warning
    right = find_tilts(about_x, RefinementSettings(tilt_axis="x"))
    assert np.abs(np.subtract(right.range_deg, wedge)).max() <= 3 and right.warning == ""
    assert "--tilt-axis y" in find_tilts(tomogram, RefinementSettings(tilt_axis="x")).warning


def test_what_is_given_counts_and_nothing_is_read_for_it(rng, monkeypatch):
    given = RefinementSettings(tilt_range_deg=(-48.0, 53.5))
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=(-60.0, 60.0))
    assert find_tilts(tomogram, given).note == "tilt range -48 to 53.5 degrees, as given"
    monkeypatch.setattr(tilts, "estimate_whitening", None)
    assert tilt_range(tomogram, given) == (-48.0, 53.5)
    assert resolved(tomogram, given) == given


def test_an_estimate_that_is_there_is_used(rng, monkeypatch):
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=(-55.0, 60.0))
    whitening = estimate_whitening(tomogram)
    expected = find_tilts(tomogram, ESTIMATE)
    monkeypatch.setattr(tilts, "estimate_whitening", None)
    assert find_tilts(tomogram, ESTIMATE, whitening) == expected
    settings = resolved(tomogram, ESTIMATE, whitening)
    assert settings.tilts_deg == expected.range_deg and settings.tilt_axis == "y"
    # Weights made without a tomogram tell nothing.
    assert tilt_range(tomogram, ESTIMATE, Whitening(whitening.weights, 2.0)) == USUAL_TILTS
    with pytest.raises(ValueError, match="tilts"):
        _ = ESTIMATE.tilts_deg


def test_flips_and_a_turn_give_the_same_range(rng):
    tomogram = noise_tomogram(rng, SHAPE, tilts_deg=(-60.0, 60.0))
    plain = tilt_range(tomogram, ESTIMATE)
    for axis in range(3):
        flipped = Tomogram(np.ascontiguousarray(np.flip(tomogram.data, axis)), tomogram.grid)
        assert np.abs(np.subtract(tilt_range(flipped, ESTIMATE), plain)).max() <= 1
    other = tilt_range(turned(tomogram), RefinementSettings(tilt_axis="x"))
    assert np.abs(np.subtract(other, plain)).max() <= 1


@pytest.mark.parametrize(
    ("name", "expected", "within"),
    [
        ("independent/syn_a.mrc.gz", (-60, 60), 4),
        # An image stack of which z was compressed: what is missing is no wedge.
        ("ferritin_shells/ferritin_upper.mrc.gz", USUAL_TILTS, 0),
    ],
)
def test_tomograms_of_others(name, expected, within):
    path = DATA / name
    if not path.exists():
        pytest.skip("the shared data are not here")
    found = find_tilts(read_tomogram(path), ESTIMATE)
    assert np.abs(np.subtract(found.range_deg, expected)).max() <= within
    assert found.warning == ""
