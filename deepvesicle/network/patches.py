"""Training data made on the fly: phantoms under random conditions, patches cut from them, augmentation."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.normalise import Normalisation
from deepvesicle.network.resample import sample_all
from deepvesicle.phantom.imaging import as_int8, image_scene, random_imaging
from deepvesicle.phantom.scene import random_scene
from deepvesicle.vesicles import Vesicles

#: Kinds of scene and how often each is drawn.
SCENE_SHARES = {"synapse": 0.50, "liposomes": 0.15, "shells": 0.11, "no_vesicles": 0.24}
#: Voxel sizes of the simulated originals, nm.
ORIGINAL_VOXEL_NM = (1.4, 3.6)
#: How often a patch may reach over the faces of an axis, by up to a third of its size.
MIRRORED_SHARE = 0.3
#: The volume is drawn at the network's voxel size times a factor in this range: small zooms.
ZOOM = (0.92, 1.09)


@dataclass(frozen=True)
class Example:
    """A normalised volume and the occupancy of its voxels by vesicles.

    Parameters
    ----------
    grey : float16 array (z, y, x)
    mask : uint8 array (z, y, x)
        0..255: share of the voxel inside a vesicle (outer membrane edge).
    """

    grey: NDArray[np.float16]
    mask: NDArray[np.uint8]


def occupancy(vesicles: Vesicles, grid: Grid) -> NDArray[np.uint8]:
    """Share of each voxel inside any of the spheres, 0..255, soft over one voxel at the edge (z, y, x)."""
    mask = np.zeros(grid.shape_zyx, dtype=np.uint8)
    centres = vesicles.grid.map_points(vesicles.centres_vox, grid)
    radii = grid.length_to_vox(vesicles.radii_nm)
    for centre, radius in zip(centres, radii, strict=True):
        low = np.maximum(np.floor(centre - radius - 1).astype(int), 0)
        high = np.minimum(np.ceil(centre + radius + 2).astype(int), grid.shape_zyx)
        if np.any(high <= low):
            continue
        z, y, x = (np.arange(a, b, dtype=np.float32) - np.float32(c) for a, b, c in zip(low, high, centre, strict=True))
        distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
        depth = np.float32(radius) - distance
        depth += np.float32(0.5)
        share = (np.clip(depth, 0, 1) * 255).astype(np.uint8)
        part = mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        np.maximum(part, share, out=part)
    return mask


def prepare_example(tomogram: Tomogram, truth: Vesicles, voxel_nm: float) -> Example:
    """A tomogram with known vesicles at the network's voxel size, normalised."""
    target = tomogram.grid.rescaled(voxel_nm)
    grey = sample_all(tomogram, target)
    normalisation = Normalisation.of([grey])
    return Example(normalisation.apply(grey).astype(np.float16), occupancy(truth, target))


def random_tomogram(
    rng: np.random.Generator,
    voxel_nm: float,
    size_vox: int = 128,
    kind: str | None = None,
    contrast: float | None = None,
) -> tuple[Tomogram, Vesicles]:
    """A phantom under random conditions, about `size_vox` voxels wide at the network's voxel size, and its truth.

    `kind` is that of the scene and `contrast` its d'; both are drawn at random if not given.
    """
    if kind is None:
        kind = str(rng.choice(list(SCENE_SHARES), p=list(SCENE_SHARES.values())))
    original_nm = float(np.exp(rng.uniform(*np.log(ORIGINAL_VOXEL_NM))))
    if rng.random() < 0.3:
        original_nm = voxel_nm * rng.uniform(0.95, 1.05)
    depth = int(rng.uniform(0.55, 1.0) * size_vox)
    scale = voxel_nm / original_nm
    margin = int(24 * scale)
    shape = (int(depth * scale), int(size_vox * scale), int(size_vox * scale) + 2 * margin)
    scene = random_scene(rng, shape, original_nm, kind)
    imaging = random_imaging(rng)
    if contrast is not None:
        imaging = replace(imaging, contrast=contrast)
    tomogram, truth = image_scene(scene, imaging, rng, margin)
    if rng.random() < 0.4:
        tomogram = as_int8(tomogram, rng)
    return tomogram, truth


def random_example(rng: np.random.Generator, voxel_nm: float, size_vox: int = 128, kind: str | None = None) -> Example:
    """`random_tomogram` at the network's voxel size, give or take a small zoom."""
    tomogram, truth = random_tomogram(rng, voxel_nm, size_vox, kind)
    return prepare_example(tomogram, truth, voxel_nm * rng.uniform(*ZOOM))


def augment(
    grey: NDArray[np.float32], mask: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flips, quarter turns about z, grey-scale changes, blur and noise on one patch (z, y, x)."""
    for axis in range(3):
        if rng.random() < 0.5:
            grey, mask = np.flip(grey, axis), np.flip(mask, axis)
    if rng.random() < 0.5:
        grey, mask = grey.swapaxes(1, 2), mask.swapaxes(1, 2)
    if rng.random() < 0.25:
        grey = ndimage.gaussian_filter(grey, rng.uniform(0.3, 1.0))
    if rng.random() < 0.3:
        grey = grey + rng.normal(0, rng.uniform(0.05, 0.5), grey.shape).astype(np.float32)
    if rng.random() < 0.15:
        slope = rng.normal(0, 0.4, 3)
        for axis, value in enumerate(slope):
            line = np.linspace(-1, 1, grey.shape[axis], dtype=np.float32) * np.float32(value)
            grey = grey + line.reshape([-1 if a == axis else 1 for a in range(3)])
    grey = grey * np.float32(np.exp(rng.normal(0, 0.2))) + np.float32(rng.normal(0, 0.15))
    return np.ascontiguousarray(grey, dtype=np.float32), np.ascontiguousarray(mask, dtype=np.float32)


def cut_patch(example: Example, size: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A random cube of `size` voxels, most of them with vesicles.

    Some reach over a face of the volume, where it is mirrored, as it is for prediction; so do all larger than it.
    """
    grey, mask = example.grey, example.mask
    wanted = rng.random() < 0.75
    over = [size // 3 if rng.random() < MIRRORED_SHARE else 0 for _ in grey.shape]
    for _ in range(6):
        ranges = [(min(0, n - size) - o, max(0, n - size) + o) for n, o in zip(grey.shape, over, strict=True)]
        starts = [int(rng.integers(low, high + 1)) for low, high in ranges]
        box = np.ix_(*(mirrored(first, size, n) for first, n in zip(starts, grey.shape, strict=True)))
        if not wanted or np.count_nonzero(mask[box]) > 0.01 * size**3:
            break
    return augment(grey[box].astype(np.float32), mask[box].astype(np.float32) / np.float32(255), rng)


def mirrored(first: int, count: int, size: int) -> NDArray[np.int64]:
    """Indices into an axis of `size` voxels from `first` on, mirrored at its ends as by `np.pad` ("symmetric")."""
    index = np.arange(first, first + count) % (2 * size)
    return np.asarray(np.where(index < size, index, 2 * size - 1 - index))


def _produce(results: Any, seed: tuple[int, ...], voxel_nm: float, size_vox: int) -> None:
    """Body of the process that simulates: examples go into a bounded queue until the parent ends, killed or not."""
    parent = multiprocessing.parent_process()
    os.nice(15)  # the training waits for its slowest thread: simulate in what it leaves
    rng = np.random.default_rng(seed)
    while True:
        example = random_example(rng, voxel_nm, size_vox)
        while True:
            try:
                results.put(example, timeout=5)
                break
            except queue.Full:
                if parent is not None and not parent.is_alive():
                    results.cancel_join_thread()  # nobody will take what is still in the queue
                    return


class PhantomPool:
    """A pool of examples that another process keeps renewing.

    Parameters
    ----------
    voxel_nm : float
        Of the network.
    seed : tuple of int
    capacity : int
        Examples held at once; a new one replaces the oldest.
    """

    def __init__(self, voxel_nm: float, seed: tuple[int, ...], capacity: int = 96, size_vox: int = 128) -> None:
        context = multiprocessing.get_context("spawn")
        self.capacity = capacity
        self.examples: list[Example] = []
        self._queue = context.Queue(maxsize=2)
        self._process = context.Process(target=_produce, args=(self._queue, seed, voxel_nm, size_vox), daemon=True)
        self._process.start()

    def fill(self, at_least: int) -> None:
        """Wait until the pool holds `at_least` examples."""
        while len(self.examples) < min(at_least, self.capacity):
            try:
                self.examples.append(self._queue.get(timeout=10))
            except queue.Empty:
                if not self._process.is_alive():
                    raise RuntimeError("the process that simulates phantoms has ended") from None

    def renew(self) -> None:
        """Take one newly simulated example, if there is one, in place of the oldest once the pool is full."""
        try:
            example = self._queue.get_nowait()
        except queue.Empty:
            return
        if len(self.examples) >= self.capacity:
            self.examples.pop(0)
        self.examples.append(example)

    def batches(self, size: int, count: int, rng: np.random.Generator) -> Iterator[tuple[Any, Any]]:
        """Endless batches (count, z, y, x, 1) of grey values and occupancies."""
        while True:
            chosen = rng.integers(0, len(self.examples), count)
            patches = [cut_patch(self.examples[i], size, rng) for i in chosen]
            yield np.stack([p[0] for p in patches])[..., None], np.stack([p[1] for p in patches])[..., None]

    def close(self) -> None:
        """End the simulating process."""
        self._process.terminate()
        self._process.join()
