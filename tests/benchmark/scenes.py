"""The phantoms of `bin/benchmark model`, and truth tables of simulated tomograms from elsewhere."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from deepvesicle.files.tomogram import read_tomogram, write_tomogram
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.phantom.imaging import Imaging, as_int8, image_scene, random_imaging
from deepvesicle.phantom.scene import placed_scene, random_scene
from deepvesicle.vesicles import Vesicles

#: First parts of the seeds; used nowhere else.
SYNAPSE_SEED, LIPOSOME_SEED, VERSION_SEED, NEGATIVE_SEED = 224_100, 223_200, 223_300, 224_400
#: Beam beyond the tomogram along x, nm.
BEYOND_NM = 50.0
#: Outer radii of vesicles that count in phantoms, nm: from the program's default limit on.
COUNTED_RADII_NM = (12.0, 90.0)
#: Outer radii of liposomes that are placed, nm; how many are tried; the smallest that may hold another, and the least
#: distance between the two.
LIPOSOME_RADII_NM = (12.5, 90.0)
PLACED = 160
HOST_RADIUS_NM, NESTED_GAP_NM = 40.0, 5.0
#: Voxel sizes that a scene is written at, nm; it is simulated at the first.
VERSION_VOXELS_NM = (1.2, 1.7, 2.2, 2.8)
#: The data types, the inversion and the ramp are tried at this one.
USUAL_VOXEL_NM = 2.2
#: d' at the first voxel size; about 0.75 at the usual one, as there is less noise in larger voxels.
VERSION_CONTRAST = 0.4
#: Change of grey along x and along y, from one face to the other, in SDs of the grey values.
RAMP_SD = 2.0
#: A scene with fewer whole vesicles than this is drawn again.
FEWEST_WHOLE = 30

Drawn = tuple[Tomogram, Vesicles]


def truth_of(path: Path, grid: Grid) -> Vesicles:
    """The truth table of a simulated synapse, with the share of each vesicle in view."""
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return Vesicles.from_spheres(
        grid,
        [[float(row[f"{axis}_vox"]) for axis in "zyx"] for row in rows],
        [float(row["radius_outer_vox"]) for row in rows],
        membrane_radii_vox=[float(row["radius_mid_vox"]) for row in rows],
        features={"inside_fraction": [float(row["frac_in_fov"]) for row in rows]},
    )


def is_whole(truth: Vesicles) -> NDArray[np.bool_]:
    """Those that no face of the tomogram cuts (N,)."""
    return np.asarray(truth.features["inside_fraction"] > 0.999)


def counts(truth: Vesicles) -> NDArray[np.bool_]:
    """Those of a phantom that are asked for: whole, and of a size that is looked for (N,)."""
    low, high = COUNTED_RADII_NM
    return np.asarray(is_whole(truth) & (truth.radii_nm >= low) & (truth.radii_nm <= high))


def is_nested(truth: Vesicles) -> NDArray[np.bool_]:
    """Those that lie inside another one (N,)."""
    distance = np.linalg.norm(truth.centres_vox[:, None] - truth.centres_vox[None], axis=2)
    inside = distance + truth.radii_vox[:, None] < truth.radii_vox[None] + 1e-6
    np.fill_diagonal(inside, False)
    return np.asarray(inside.any(axis=1))


def unfiltered(rng: np.random.Generator, contrast: float) -> Imaging:
    """Random conditions without a filter."""
    return replace(random_imaging(rng), contrast=contrast, filter="none", filter_strength=0.0)


def synapse(number: int, contrast: float) -> Drawn:
    """A synapse of 80 x 144 x 144 voxels of 1.8 to 2.6 nm; the same number is the same scene at every contrast."""
    rng = np.random.default_rng((SYNAPSE_SEED, number))
    voxel_nm = float(rng.uniform(1.8, 2.6))
    margin = round(BEYOND_NM / voxel_nm)
    scene = random_scene(rng, (80, 144, 144 + 2 * margin), voxel_nm)
    return image_scene(scene, unfiltered(rng, contrast), rng, margin)


def liposomes(number: int) -> Drawn:
    """Lipid vesicles in 300 x 450 x 450 nm, at 2.6 nm/voxel and a contrast d' of 0.75 to 1.2.

    Every other one is drawn as for the training, with proteins, tubules and gold; the rest hold radii of all sizes,
    with another one inside some of the large ones.
    """
    rng = np.random.default_rng((LIPOSOME_SEED, number))
    voxel_nm = 2.6
    margin = round(BEYOND_NM / voxel_nm)
    shape = (115, 173, 173 + 2 * margin)
    if number % 2:
        size_nm = np.array(shape) * voxel_nm
        centres, radii = placed_liposomes(rng, size_nm)
        scene = placed_scene(rng, shape, voxel_nm, centres, radii, crowding=rng.uniform(0, 0.2), spread=0.02)
    else:
        scene = random_scene(rng, shape, voxel_nm, "liposomes")
    return image_scene(scene, unfiltered(rng, float(rng.uniform(0.75, 1.2))), rng, margin)


def placed_liposomes(rng: np.random.Generator, size_nm: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[float]]:
    """Centres (N, 3) and outer radii, nm, of liposomes of all sizes that do not touch; some lie in others."""
    low, high = LIPOSOME_RADII_NM
    # small ones are more; the large ones first, or they would find no room
    wanted = sorted(low * (high / low) ** (rng.uniform(0, 1, PLACED) ** 2), reverse=True)
    centres: list[NDArray[np.float64]] = []
    radii: list[float] = []
    for radius in wanted:
        for _ in range(40):
            place = rng.uniform(0.2 * radius, size_nm - 0.2 * radius)
            gap = rng.exponential(8.0) + 2
            if all(np.linalg.norm(place - c) > radius + r + gap for c, r in zip(centres, radii, strict=True)):
                centres.append(place)
                radii.append(float(radius))
                break
    for centre, radius in list(zip(centres, radii, strict=True)):
        room = radius - 2 * NESTED_GAP_NM
        if radius > HOST_RADIUS_NM and rng.random() < 0.25:
            small = float(rng.uniform(low, min(30.0, room)))
            direction = rng.normal(size=3)
            away = rng.uniform(0, room - small) / np.linalg.norm(direction)
            centres.append(centre + direction * away)
            radii.append(small)
    return np.array(centres), radii


def negative(number: int) -> Tomogram:
    """A cell without vesicles, 100 x 160 x 160 voxels of 2.2 nm, under random conditions, filters among them."""
    rng = np.random.default_rng((NEGATIVE_SEED, number))
    margin = round(BEYOND_NM / 2.2)
    scene = random_scene(rng, (100, 160, 160 + 2 * margin), 2.2, "no_vesicles")
    return image_scene(scene, random_imaging(rng), rng, margin)[0]


def masters(number: int, fewest: int) -> Iterator[Drawn]:
    """Synapses of 160 x 330 x 330 nm at 1.2 nm/voxel, from that number on, until `fewest` that count were in them."""
    voxel_nm = VERSION_VOXELS_NM[0]
    margin = round(BEYOND_NM / voxel_nm)
    count = 0
    while count < fewest:
        rng = np.random.default_rng((VERSION_SEED, number))
        number += 1
        scene = random_scene(rng, (133, 275, 275 + 2 * margin), voxel_nm)
        tomogram, truth = image_scene(scene, Imaging(contrast=VERSION_CONTRAST), rng, margin)
        whole = int(counts(truth).sum())
        if whole >= FEWEST_WHOLE:
            count += whole
            yield tomogram, truth


def coarser(tomogram: Tomogram, voxel_nm: float) -> Tomogram:
    """The tomogram at a larger voxel size: all that the new voxels cannot hold is taken out, then a cubic spline.

    This is independent of how the program rescales. The cosine transform mirrors the volume at its faces.
    """
    ratio = voxel_nm / tomogram.grid.voxel_nm
    target = tomogram.grid.rescaled(voxel_nm)
    grey = np.asarray(tomogram.data, dtype=np.float32)
    spectrum = fft.dctn(grey, workers=1)
    for axis, n in enumerate(grey.shape):
        nyquists = np.arange(n) / n * ratio  # frequency, in the new voxels' Nyquist frequency
        fall = 0.5 * (1 + np.cos(np.pi * np.clip((nyquists - 0.85) / 0.15, 0, 1)))
        spectrum *= fall.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    smooth = fft.idctn(spectrum, workers=1)
    first = target.map_points([[0.0, 0.0, 0.0]], tomogram.grid)[0]
    data = ndimage.affine_transform(
        smooth, [ratio] * 3, first, output_shape=target.shape_zyx, order=3, mode="nearest", output=np.float32
    )
    return Tomogram(data, target)


def versions(master: Tomogram, folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Tomogram]]:
    """A simulated tomogram as different labs would store it, each written to a file in the folder and read again.

    Parameters
    ----------
    master : Tomogram
        At the smallest voxel size.
    folder : Path
    rng : numpy.random.Generator
        Decides how much the 8-bit one is clipped.

    Yields
    ------
    name : str
    tomogram : Tomogram
    """
    path = folder / "version.mrc"

    def stored(data: NDArray[np.generic], grid: Grid, *, invert: bool = False) -> Tomogram:
        path.unlink(missing_ok=True)  # the one before may still be mapped
        write_tomogram(path, data, grid)
        return read_tomogram(path, invert=invert)

    usual = master
    for voxel_nm in VERSION_VOXELS_NM:
        sized = master if voxel_nm == VERSION_VOXELS_NM[0] else coarser(master, voxel_nm)
        if voxel_nm == USUAL_VOXEL_NM:
            usual = sized
        yield f"{voxel_nm:g} nm/voxel, float32", stored(sized.data, sized.grid)
    grey, grid = np.asarray(usual.data), usual.grid
    sd = float(grey.std())
    at = f"{USUAL_VOXEL_NM:g} nm/voxel"
    yield f"{at}, int8, clipped", stored(as_int8(usual, rng).data, grid)
    yield f"{at}, int16", stored(np.rint(12_000 + 1500 / sd * grey).astype(np.int16), grid)
    yield f"{at}, contrast inverted, read with `--invert`", stored(-grey, grid, invert=True)
    _, ny, nx = grey.shape
    half = np.float32(RAMP_SD / 2 * sd)
    ramp = half * (np.linspace(-1, 1, nx, dtype=np.float32) + np.linspace(-1, 1, ny, dtype=np.float32)[:, None])
    yield f"{at}, linear grey ramp", stored(grey + ramp, grid)
