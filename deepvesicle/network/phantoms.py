"""Training data made on the fly: phantoms under random conditions, made by processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections import deque
from dataclasses import replace
from itertools import count
from typing import Any, cast

import numpy as np
from scipy import ndimage

from deepvesicle.grid import Tomogram
from deepvesicle.network.normalise import Z_SCORE, Normalisation, NormalisationMethod
from deepvesicle.network.patches import Example, Patch, cut_patch, occupancy
from deepvesicle.network.resample import sample_all
from deepvesicle.phantom.imaging import as_int8, image_scene, random_imaging
from deepvesicle.phantom.scene import random_scene
from deepvesicle.vesicles import Vesicles

#: Kinds of scene and how often each is drawn.
SCENE_SHARES = {
    "synapse": 0.44,
    "liposomes": 0.13,
    "small": 0.12,
    "shells": 0.10,
    "no_vesicles": 0.14,
    "granules": 0.07,
}
#: Voxel sizes of the simulated originals, nm.
ORIGINAL_VOXEL_NM = (1.4, 3.6)
#: The volume is drawn at the network's voxel size times a factor in this range: small zooms.
ZOOM = (0.92, 1.09)


def prepare_example(
    tomogram: Tomogram, truth: Vesicles, voxel_nm: float, method: NormalisationMethod | None = None
) -> Example:
    """A tomogram with known vesicles at the network's voxel size, normalised ("clipped" by default)."""
    method = method or NormalisationMethod()
    target = tomogram.grid.rescaled(voxel_nm)
    grey = sample_all(tomogram, target)
    if method.blur_vox:
        grey = ndimage.gaussian_filter(grey, method.blur_vox)
    normalisation = Normalisation.z_score([grey]) if method.kind == Z_SCORE else Normalisation.of([grey])
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


def random_example(
    rng: np.random.Generator,
    voxel_nm: float,
    size_vox: int = 128,
    kind: str | None = None,
    method: NormalisationMethod | None = None,
) -> Example:
    """`random_tomogram` at the network's voxel size, give or take a small zoom."""
    tomogram, truth = random_tomogram(rng, voxel_nm, size_vox, kind)
    return prepare_example(tomogram, truth, voxel_nm * rng.uniform(*ZOOM), method)


def _produce(
    results: Any, first: int, step: int, seed: int, voxel_nm: float, size_vox: int, method: NormalisationMethod
) -> None:
    """Body of a process that simulates every `step`-th phantom, until the parent ends, killed or not."""
    parent = multiprocessing.parent_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends this process
    os.nice(15)  # the training waits for its slowest thread: simulate in what it leaves
    for number in count(first, step):
        # of its number alone, whoever makes it and in whatever order
        example = random_example(np.random.default_rng((seed, number)), voxel_nm, size_vox, method=method)
        while True:
            try:
                results.put(example, timeout=5)
                break
            except queue.Full:
                if parent is not None and not parent.is_alive():
                    results.cancel_join_thread()  # nobody will take what is still in the queue
                    return


class PhantomPool:
    """The phantoms that a training draws from at each step, made by other processes meanwhile.

    What the pool holds at a step depends on the step alone, so that a training that is resumed sees what it would have
    seen. A pool that starts late makes the phantoms of that step first, which takes a second or two for each.

    Parameters
    ----------
    voxel_nm : float
        Of the network.
    seed : int
    capacity : int
        Phantoms held at once; a new one replaces the oldest.
    every : int
        Steps for which a new one is made.
    at_first : int
        Phantoms at step 0.
    size_vox : int
        Width of a phantom.
    workers : int
        Processes.
    method : NormalisationMethod, optional
    """

    def __init__(
        self,
        voxel_nm: float,
        seed: int,
        *,
        capacity: int = 96,
        every: int = 6,
        at_first: int = 12,
        size_vox: int = 128,
        workers: int = 1,
        method: NormalisationMethod | None = None,
    ) -> None:
        self.examples: deque[Example] = deque(maxlen=capacity)
        self._every, self._at_first, self._workers = every, min(at_first, capacity), workers
        self._arguments = (seed, voxel_nm, size_vox, method or NormalisationMethod())
        self._next = -1  # number of the phantom to take next; the processes start with the first call
        self._queues: list[Any] = []
        self._processes: list[Any] = []

    def go_to(self, step: int) -> None:
        """Hold what belongs to a step, which is not before that of an earlier call; waits for what is being made."""
        end = self._at_first + step // self._every
        if self._next < 0:
            self._start(max(0, end - (self.examples.maxlen or end)))
        while self._next < end:
            self.examples.append(self._take(self._next % self._workers))
            self._next += 1

    def patch(self, size: int, rng: np.random.Generator) -> Patch:
        """A random patch of what is held, without augmentation."""
        return cut_patch(self.examples[int(rng.integers(len(self.examples)))], size, rng)

    def close(self) -> None:
        """End the simulating processes."""
        for process in self._processes:
            process.terminate()
            process.join()

    def _start(self, first: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._next = first
        for worker in range(self._workers):
            results = context.Queue(maxsize=2)
            number = first + (worker - first) % self._workers
            arguments = (results, number, self._workers, *self._arguments)
            process = context.Process(target=_produce, args=arguments, daemon=True)
            process.start()
            self._queues.append(results)
            self._processes.append(process)

    def _take(self, worker: int) -> Example:
        while True:
            try:
                return cast(Example, self._queues[worker].get(timeout=10))
            except queue.Empty:
                if not self._processes[worker].is_alive():
                    raise RuntimeError("a process that simulates phantoms has ended") from None
