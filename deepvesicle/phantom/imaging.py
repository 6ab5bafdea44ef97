"""How an electron microscope and a reconstruction program would show a scene.

Projections over a tilt range, contrast transfer with defocus, dose noise, misalignment, weighted back-projection, and
optional filtering. Tilt axis along y, beam along z, as IMOD writes tomograms. Every y-slice of a single-axis tilt
series is independent, so projection and back-projection are one sparse matrix applied to all of them at once, and
contrast transfer, ramp filter and shifts are one multiplication in Fourier space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse

from deepvesicle.grid import Grid, Tomogram
from deepvesicle.phantom.scene import Scene
from deepvesicle.phantom.shapes import HEAD_SHARE
from deepvesicle.spheres import inside_fractions
from deepvesicle.vesicles import Vesicles

Field = NDArray[np.float32]

ELECTRON_WAVELENGTH_NM = {200: 0.00251, 300: 0.00197}
#: Ranges of d' that conditions are drawn from, and how often each: most are low, which is what takes learning.
CONTRASTS = (((0.28, 0.65), 0.65), ((0.65, 1.3), 0.23), ((1.3, 3.5), 0.12))
#: Highest tilt, and tilt step, degrees.
HIGHEST_TILT_DEG, TILT_STEP_DEG = (40.0, 66.0), (1.2, 3.0)
#: Filters applied after reconstruction.
FILTERS = ("none", "gaussian", "diffusion", "median")


@dataclass(frozen=True)
class Imaging:
    """One set of imaging conditions.

    Parameters
    ----------
    tilts_deg : tuple of float
        Tilt angles.
    voltage_kv : int
        200 or 300.
    defocus_nm : float
        Underfocus.
    phase_shift_rad : float
        Of a phase plate; 0 without.
    amplitude_contrast : float
    envelope_nm2 : float
        B of the contrast envelope exp(-B k^2 / 4).
    misalignment_nm : float
        SD of the shift of each tilt image.
    contrast : float
        d' = (lumen mean - membrane mean) / SD of the lumen, per voxel, median over vesicles, before filtering:
        decides the noise.
    damage : float
        Relative loss of contrast at the highest tilts (dose-symmetric series).
    sirt_like : float
        0: ramp filter only; above: low frequencies are raised, as iterative reconstruction does (iterations about 1/x).
    cutoff : float
        Where the ramp filter starts to fall off, share of Nyquist.
    filter : str
        One of `FILTERS`.
    filter_strength : float
        Gaussian: sigma in voxels; diffusion: iterations; median: unused.
    ramp : float
        Linear change of grey value over the volume, in its SD.
    """

    tilts_deg: tuple[float, ...] = tuple(np.arange(-60.0, 60.1, 2.0))
    voltage_kv: int = 300
    defocus_nm: float = 5000.0
    phase_shift_rad: float = 0.0
    amplitude_contrast: float = 0.1
    envelope_nm2: float = 10.0
    misalignment_nm: float = 0.3
    contrast: float = 0.75
    damage: float = 0.3
    sirt_like: float = 0.0
    cutoff: float = 0.7
    filter: str = "none"
    filter_strength: float = 0.0
    ramp: float = 0.0


def random_imaging(rng: np.random.Generator) -> Imaging:
    """Draw imaging conditions within the ranges of real cryo-tomography of synapses."""
    half = rng.uniform(*HIGHEST_TILT_DEG)
    step = rng.uniform(*TILT_STEP_DEG)
    tilts = np.arange(-half, half + 1e-6, step) + rng.uniform(-6, 6)
    name = str(rng.choice(FILTERS, p=(0.4, 0.25, 0.25, 0.1)))
    strength = {
        "gaussian": rng.uniform(0.5, 1.4 if rng.random() < 0.75 else 2.4),
        "diffusion": float(rng.integers(3, 16)),
    }.get(name, 0.0)
    plate = rng.random() < 0.12
    (low, high), _ = CONTRASTS[rng.choice(len(CONTRASTS), p=[share for _, share in CONTRASTS])]
    contrast = rng.uniform(low, high)
    return Imaging(
        tilts_deg=tuple(float(t) for t in tilts),
        voltage_kv=int(rng.choice((200, 300))),
        defocus_nm=rng.uniform(300, 900) if plate else rng.uniform(1800, 9000),
        phase_shift_rad=rng.uniform(1.1, 1.9) if plate else 0.0,
        amplitude_contrast=rng.uniform(0.05, 0.15),
        envelope_nm2=rng.uniform(2, 30),
        misalignment_nm=rng.uniform(0, 1.0),
        contrast=contrast,
        damage=rng.uniform(0, 0.6),
        sirt_like=rng.uniform(0.02, 0.15) if rng.random() < 0.25 else 0.0,
        cutoff=rng.uniform(0.4, 0.95),
        filter=name,
        filter_strength=strength,
        ramp=rng.normal(0, 0.5) if rng.random() < 0.3 else 0.0,
    )


def image_scene(
    scene: Scene, imaging: Imaging, rng: np.random.Generator, margin_vox: int = 0
) -> tuple[Tomogram, Vesicles]:
    """The tomogram of a scene and the truth on its grid.

    Parameters
    ----------
    scene : Scene
    imaging : Imaging
    rng : numpy.random.Generator
    margin_vox : int
        Voxels at both ends of x that are in the beam but not in the tomogram: a real sample goes on outside the
        reconstructed field and enters it at high tilt.

    Returns
    -------
    tomogram : Tomogram
        float32, dense = low, mean about 0, SD about 1.
    vesicles : Vesicles
        Truth, with `inside_fraction` in the tomogram.
    """
    geometry = _Geometry(scene.density.shape, imaging, margin_vox)
    voxel_nm = scene.grid.voxel_nm
    transfer = _transfer(imaging, geometry, voxel_nm, rng)
    projections = geometry.project(scene.density)
    projections -= projections.mean(axis=(1, 2), keepdims=True)  # a microscope's grey offset carries no information
    signal = geometry.back_project(projections, transfer)
    tilt_cosine = np.cos(np.deg2rad(imaging.tilts_deg)).astype(np.float32)
    # the sample is thicker along the beam at high tilt, so fewer electrons arrive and noise rises
    shot = rng.normal(0, 1, projections.shape).astype(np.float32) / np.sqrt(tilt_cosine)[:, None, None]
    noise = geometry.back_project(shot.astype(np.float32), _ramp(imaging, geometry))
    truth = _crop_truth(scene.vesicles, signal.shape, margin_vox)
    gain = np.float32(_noise_gain(signal, noise, truth, imaging.contrast, rng))
    grey: Field = _filtered((signal + gain * noise).astype(np.float32), imaging)
    grey /= max(float(grey.std()), 1e-12)
    if imaging.ramp:
        nz, ny, nx = grey.shape
        grey += np.float32(imaging.ramp) * (
            np.linspace(-1, 1, nx, dtype=np.float32) + np.linspace(-1, 1, ny, dtype=np.float32)[:, None]
        )
    return Tomogram(np.ascontiguousarray(grey, dtype=np.float32), truth.grid), truth


class _Geometry:
    """Projection and back-projection of a volume (z, y, x) about the y axis."""

    def __init__(self, shape_zyx: tuple[int, ...], imaging: Imaging, margin_vox: int) -> None:
        self.nz, self.ny, self.nx = shape_zyx
        self.width = self.nx
        self.tilts = np.deg2rad(np.asarray(imaging.tilts_deg))
        self.inner = slice(margin_vox, self.nx - margin_vox)
        self.matrix = self._matrix(np.arange(self.nx))
        self.matrix_inner = self._matrix(np.arange(self.nx)[self.inner]) if margin_vox else self.matrix

    def _matrix(self, columns: NDArray[np.int64]) -> sparse.csr_matrix:
        """Linear interpolation weights: rows are (tilt, detector), columns are (z, x)."""
        z = np.arange(self.nz) - (self.nz - 1) / 2
        x = columns - (self.nx - 1) / 2
        shape = (len(self.tilts), self.nz, len(x))
        place = (
            x[None, None, :] * np.cos(self.tilts)[:, None, None]
            + z[None, :, None] * np.sin(self.tilts)[:, None, None]
            + (self.width - 1) / 2
        )
        left = np.floor(place).astype(np.int64)
        weight = (place - left).astype(np.float32)
        tilt = np.arange(len(self.tilts))[:, None, None]
        column = np.broadcast_to(np.arange(self.nz * len(x)).reshape(1, self.nz, len(x)), shape)
        rows, cols, values = [], [], []
        for shift, value in ((0, 1 - weight), (1, weight)):
            detector = left + shift
            good = (detector >= 0) & (detector < self.width)
            rows.append((tilt * self.width + detector)[good])
            cols.append(column[good])
            values.append(value[good])
        size = (len(self.tilts) * self.width, self.nz * len(x))
        return sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), shape=size)

    def project(self, density: Field) -> Field:
        """Line integrals, (tilt, y, detector)."""
        columns = np.ascontiguousarray(density.transpose(0, 2, 1)).reshape(self.nz * self.nx, self.ny)
        images = (self.matrix @ columns).reshape(len(self.tilts), self.width, self.ny)
        return np.ascontiguousarray(images.transpose(0, 2, 1))

    def back_project(self, images: Field, transfer: NDArray[np.complex64] | Field) -> Field:
        """Filter (tilt, y, detector) images in Fourier space and back-project; (z, y, x) of the inner field."""
        spectrum = fft.rfft2(images, axes=(1, 2))
        filtered = fft.irfft2(spectrum * transfer, s=images.shape[1:], axes=(1, 2)).astype(np.float32)
        columns = np.ascontiguousarray(filtered.transpose(0, 2, 1)).reshape(-1, self.ny)
        nx = self.inner.stop - self.inner.start
        volume = (self.matrix_inner.T @ columns).reshape(self.nz, nx, self.ny)
        return np.ascontiguousarray(volume.transpose(0, 2, 1))


def _frequencies(geometry: _Geometry) -> tuple[Field, Field]:
    """Frequencies along y and along the detector, cycles per voxel."""
    ky = fft.fftfreq(geometry.ny).astype(np.float32)[:, None]
    kx = fft.rfftfreq(geometry.width).astype(np.float32)[None, :]
    return ky, kx


def _ramp(imaging: Imaging, geometry: _Geometry) -> Field:
    """Weighting of back-projection along the detector, with a fall-off at high frequency, (1, y, k)."""
    ky, kx = _frequencies(geometry)
    ramp = np.maximum(kx, 0.2 / geometry.width)
    if imaging.sirt_like:
        ramp = ramp * (1 - (1 - np.clip(imaging.sirt_like / (ramp * 8), 0, 1)) ** 2)
    radius = np.hypot(kx, ky)
    fall = np.exp(-0.5 * (np.maximum(radius - 0.5 * imaging.cutoff, 0) / 0.08) ** 2)
    return (ramp * fall)[None].astype(np.float32)


def _transfer(
    imaging: Imaging, geometry: _Geometry, voxel_nm: float, rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Contrast transfer, envelope, misalignment, damage and weighting of every tilt image, (tilt, y, k).

    Weak-phase contrast transfer -[sqrt(1 - A^2) sin(chi) + A cos(chi)], chi = pi lambda dz k^2 + phase shift: dense
    is dark.
    """
    ky, kx = _frequencies(geometry)
    k2 = (kx**2 + ky**2) / voxel_nm**2
    chi = np.pi * ELECTRON_WAVELENGTH_NM[imaging.voltage_kv] * imaging.defocus_nm * k2 + imaging.phase_shift_rad
    a = imaging.amplitude_contrast
    ctf = -(np.sqrt(1 - a**2) * np.sin(chi) + a * np.cos(chi)) * np.exp(-imaging.envelope_nm2 * k2 / 4)
    count = len(imaging.tilts_deg)
    shifts = rng.normal(0, imaging.misalignment_nm / voxel_nm, (2, count)).astype(np.float32)
    phase = np.exp(-2j * np.pi * (shifts[0][:, None, None] * ky + shifts[1][:, None, None] * kx))
    relative = np.abs(np.asarray(imaging.tilts_deg)) / max(np.abs(imaging.tilts_deg).max(), 1.0)
    fading = (1 - imaging.damage * relative)[:, None, None]
    return (ctf[None] * fading * phase * _ramp(imaging, geometry)).astype(np.complex64)


def _crop_truth(vesicles: Vesicles, shape_zyx: tuple[int, ...], margin_vox: int) -> Vesicles:
    """Truth on the grid of the inner field; those with no part in it are left out."""
    grid = Grid(shape_zyx, vesicles.grid.voxel_nm)  # type: ignore[arg-type]
    moved = vesicles.replace(grid=grid, centres_vox=vesicles.centres_vox - np.array([0.0, 0.0, margin_vox]))
    moved = moved.with_features(inside_fraction=inside_fractions(grid, moved.centres_vox, moved.radii_vox))
    kept = moved.select(moved.features["inside_fraction"] > 0)
    return kept.replace(ids=np.arange(1, len(kept) + 1))


def _noise_gain(signal: Field, noise: Field, truth: Vesicles, contrast: float, rng: np.random.Generator) -> float:
    """Gain of the noise at which the median per-voxel contrast d' of the vesicles is `contrast`.

    Only the equatorial belt counts, where the missing wedge leaves the membrane visible. Without vesicles the noise
    is set against the signal's SD.
    """
    noise_sd = float(noise.std())
    whole = truth.select(truth.features["inside_fraction"] > 0.999) if len(truth) else truth
    gains = []
    for i in range(min(len(whole), 40)):
        belt = _belt(signal, whole.centres_vox[i], whole.membrane_radii_vox[i], whole.thickness_vox[i] / HEAD_SHARE)
        if belt is None:
            continue
        step, structure_variance = belt
        free = max((step / contrast) ** 2 - structure_variance, 0.0)
        gains.append(np.sqrt(free) / noise_sd if step > 0 else 0.0)
    if gains:
        return float(max(np.median(gains), 0.1 * signal.std() / noise_sd))
    return float(rng.uniform(0.5, 1.5) * signal.std() / (noise_sd * contrast))


def _belt(signal: Field, centre: NDArray[np.float64], middle: float, thickness: float) -> tuple[float, float] | None:
    """Lumen mean minus membrane mean, and the lumen's variance, within 30 degrees of the equator."""
    reach = int(np.ceil(middle + thickness))
    base = np.rint(centre).astype(int)
    low, high = np.maximum(base - reach, 0), np.minimum(base + reach + 1, signal.shape)
    part = signal[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    z, y, x = (np.arange(a, b, dtype=np.float32) - np.float32(c) for a, b, c in zip(low, high, centre, strict=True))
    distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
    equatorial = np.abs(z[:, None, None]) < 0.5 * distance
    wall = part[equatorial & (np.abs(distance - middle) < thickness / 4 + 0.25)]
    lumen = part[distance < max(middle - thickness, 1.5)]
    if wall.size < 10 or lumen.size < 5:
        return None
    return float(lumen.mean() - wall.mean()), float(lumen.var())


def _filtered(grey: Field, imaging: Imaging) -> Field:
    """Apply the conditions' filter."""
    if imaging.filter == "none":
        return grey
    if imaging.filter == "gaussian":
        return ndimage.gaussian_filter(grey, imaging.filter_strength)
    if imaging.filter == "median":
        return ndimage.median_filter(grey, size=3)
    if imaging.filter == "diffusion":
        return _anisotropic_diffusion(grey, int(imaging.filter_strength))
    raise ValueError(f"unknown filter {imaging.filter!r}, expected one of {', '.join(FILTERS)}")


def _anisotropic_diffusion(grey: Field, iterations: int) -> Field:
    """Edge-preserving smoothing (Perona and Malik 1990), the conductance from a slightly smoothed gradient."""
    volume = grey.astype(np.float32, copy=True)
    for _ in range(iterations):
        smooth = ndimage.gaussian_filter(volume, 0.7)
        change = np.zeros_like(volume)
        for axis in range(3):
            guide = np.diff(smooth, axis=axis)
            kappa2 = np.float32(2.0 * np.mean(guide[::4] ** 2) + 1e-12)
            flow = np.diff(volume, axis=axis) / (1 + guide**2 / kappa2)
            low = [slice(None)] * 3
            high = [slice(None)] * 3
            low[axis], high[axis] = slice(None, -1), slice(1, None)
            change[tuple(low)] += flow
            change[tuple(high)] -= flow
        volume += np.float32(0.14) * change
    return volume


def as_int8(tomogram: Tomogram, rng: np.random.Generator) -> Tomogram:
    """Quantise to 8 bits with some clipping, as many labs store tomograms."""
    limit = float(np.quantile(np.abs(tomogram.data[::3, ::3, ::3]), rng.uniform(0.985, 0.9999)))
    data = np.clip(np.rint(tomogram.data / limit * 127), -127, 127).astype(np.int8)
    return replace(tomogram, data=data)
