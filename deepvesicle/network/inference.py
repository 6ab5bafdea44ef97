"""Prediction tile by tile, with exact halos and no full-size float volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepvesicle.cores import usable_cores
from deepvesicle.errors import NetworkError
from deepvesicle.grid import Grid, Probability, Tomogram
from deepvesicle.network.normalise import Z_SCORE, Normalisation, NormalisationMethod
from deepvesicle.network.resample import Region, sample_region
from deepvesicle.network.unet import build_tile_network, quiet_tensorflow
from deepvesicle.network.zoo import Network
from deepvesicle.settings import PredictionSettings

Progress = Callable[[str, int, int], None]
#: Sections of the tomogram that the normalisation is measured on.
NORMALISATION_SLABS = 16
#: The Gaussian of a blur ends at this many SDs.
BLUR_REACH_SD = 4.0
#: Longest edge of the pieces that a whole volume is measured in, voxels.
_PIECE_VOX = 160


def set_threads(threads: int) -> None:
    """Tell TensorFlow how many threads to use (0: as many as this process may use); too late if it already runs."""
    quiet_tensorflow()
    import keras

    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow

    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads or usable_cores())
    except RuntimeError:  # it has started; its own choice then stays
        return


def measure_normalisation(tomogram: Tomogram, target: Grid, method: NormalisationMethod | None = None) -> Normalisation:
    """Normalisation of a tomogram at the network's voxel size.

    Parameters
    ----------
    tomogram : Tomogram
    target : Grid
        Of the network's voxel size.
    method : NormalisationMethod, optional
        "clipped", which is measured on sections spread evenly over z, by default; "z-score" is measured on all of it.
    """
    method = method or NormalisationMethod()
    nz, ny, nx = target.shape_zyx
    if method.kind == Z_SCORE:
        _, pieces = plan_tiles(target.shape_zyx, _PIECE_VOX, 1)
        return Normalisation.z_score(
            _grey_box(
                tomogram, target, tuple(r.start for r in piece), tuple(r.stop - r.start for r in piece), method.blur_vox
            )
            for piece in pieces
        )
    sections = np.unique(np.linspace(0, nz - 1, min(nz, NORMALISATION_SLABS) + 2).round().astype(int)[1:-1])
    stride = max(1, int(np.ceil(ny * nx / 250_000)))

    def samples() -> Iterator[NDArray[np.float32]]:
        for z in sections:
            section = _grey_box(tomogram, target, (int(z), 0, 0), (1, ny, nx), method.blur_vox)
            yield section.ravel()[::stride]

    return Normalisation.of(samples())


def plan_tiles(
    shape_zyx: tuple[int, int, int], largest: int, alignment: int
) -> tuple[tuple[int, int, int], list[Region]]:
    """Equal tiles that cover a volume.

    Parameters
    ----------
    shape_zyx : tuple of int
        Of the volume.
    largest : int
        Longest edge of a tile, voxels.
    alignment : int
        Edges and starts are multiples of this.

    Returns
    -------
    inner : tuple of int
        Size of every tile (z, y, x).
    regions : list of tuple of slice
        The part of the volume that each tile fills; those at the far ends may be smaller than `inner`.
    """
    largest = max(alignment, largest // alignment * alignment)
    inner = []
    for n in shape_zyx:
        count = -(-n // largest)
        inner.append(-(-n // (count * alignment)) * alignment)
    regions = [
        (
            slice(z, min(z + inner[0], shape_zyx[0])),
            slice(y, min(y + inner[1], shape_zyx[1])),
            slice(x, min(x + inner[2], shape_zyx[2])),
        )
        for z in range(0, shape_zyx[0], inner[0])
        for y in range(0, shape_zyx[1], inner[1])
        for x in range(0, shape_zyx[2], inner[2])
    ]
    return (inner[0], inner[1], inner[2]), regions


def _padded_region(
    tomogram: Tomogram, target: Grid, start: tuple[int, ...], size: tuple[int, ...]
) -> NDArray[np.float32]:
    """Grey values of a box that may reach over the volume's faces, where they are mirrored."""
    inside = []
    pads = []
    for first, length, n in zip(start, size, target.shape_zyx, strict=True):
        # to mirror across a face, the source must reach as deep as the padding does
        before, after = max(0, -first), max(0, first + length - n)
        low = max(0, min(first, n - after))
        high = min(n, max(first + length, before))
        inside.append(slice(low, high))
        pads.append((low - first if first < 0 else 0, max(0, first + length - n)))
    values = sample_region(tomogram, target, (inside[0], inside[1], inside[2]))
    values = np.pad(values, pads, mode="symmetric")
    cut = tuple(
        slice(first - (part.start - pad[0]), first - (part.start - pad[0]) + length)
        for first, part, pad, length in zip(start, inside, pads, size, strict=True)
    )
    return values[cut]


def _grey_box(
    tomogram: Tomogram, target: Grid, start: tuple[int, ...], size: tuple[int, ...], blur_vox: float
) -> NDArray[np.float32]:
    """`_padded_region` of the volume blurred as a whole (Gaussian, mirrored at the faces)."""
    if not blur_vox:
        return _padded_region(tomogram, target, start, size)
    reach = int(np.ceil(BLUR_REACH_SD * blur_vox))
    wider = _padded_region(tomogram, target, tuple(s - reach for s in start), tuple(n + 2 * reach for n in size))
    blurred = ndimage.gaussian_filter(wider, blur_vox, truncate=BLUR_REACH_SD)
    return np.ascontiguousarray(blurred[tuple(slice(reach, reach + n) for n in size)])


def mirror_views(count: int) -> list[tuple[int, ...]]:
    """Axes (of z, y, x) along which each of the 1, 2, 4 or 8 views is mirrored, the plain view first.

    One view: as it is; two: also mirrored along x; four: along x, y and both; eight: along all three too.
    """
    axes = {1: (), 2: (2,), 4: (2, 1), 8: (2, 1, 0)}[count]
    return [chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n)]


def predict(
    tomogram: Tomogram,
    network: Network,
    settings: PredictionSettings | None = None,
    *,
    progress: Progress | None = None,
    out: NDArray[np.uint8] | None = None,
) -> Probability:
    """Probability of every voxel to be inside a vesicle, at the network's voxel size.

    With `settings.augment` more than 1, every tile is predicted in so many mirror images and the probabilities are
    averaged. Tiles end, as they start, at multiples of the alignment, so that a mirrored tile is pooled in the same
    blocks of voxels as the tile itself: there are no seams, as without.

    Parameters
    ----------
    tomogram : Tomogram
    network : Network
    settings : PredictionSettings, optional
    progress : callable, optional
        Called with (stage, tiles done, tiles in all).
    out : uint8 array, optional
        Where to write, of the rescaled grid's shape; a memory map, say.

    Returns
    -------
    Probability
        uint8, 0..255 for 0..1, on `tomogram.grid.rescaled(network.voxel_nm)`.

    Raises
    ------
    NetworkError
        The tomogram is smaller than one voxel block of the network.
    """
    settings = settings or PredictionSettings()
    target = tomogram.grid.rescaled(network.voxel_nm)
    if min(target.shape_zyx) < network.shape.alignment_vox:
        raise NetworkError(
            "the tomogram is too small for the network",
            expected=f"at least {network.shape.alignment_vox} voxels of {network.voxel_nm} nm along each axis",
            got=f"{target.shape_zyx} (z, y, x) of them",
            remedy="Check the voxel size, and give --voxel-size if the header's is wrong",
        )
    set_threads(settings.threads)
    method = network.normalisation
    normalisation = measure_normalisation(tomogram, target, method)
    views = mirror_views(settings.augment)
    shape, halo = network.shape, network.shape.halo_vox
    inner, regions = plan_tiles(target.shape_zyx, settings.tile_vox, shape.alignment_vox)
    tile_network = build_tile_network(shape, network.convolutions(), inner)
    evaluate = _compiled(tile_network)
    result = np.empty(target.shape_zyx, dtype=np.uint8) if out is None else out
    size = tuple(n + 2 * halo for n in inner)
    for done, region in enumerate(regions):
        if progress:
            progress("network", done, len(regions))
        start = tuple(r.start - halo for r in region)
        grey = normalisation.apply(_grey_box(tomogram, target, start, size, method.blur_vox))
        probability = _mean_of_views(evaluate, grey, views)
        part = probability[tuple(slice(0, r.stop - r.start) for r in region)]
        result[region] = np.rint(part * 255).astype(np.uint8)
    if progress:
        progress("network", len(regions), len(regions))
    return Probability(result, target)


def _mean_of_views(
    evaluate: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    grey: NDArray[np.float32],
    views: list[tuple[int, ...]],
) -> NDArray[np.float32]:
    """Probability of a tile, averaged over mirror images of it."""

    def seen(axes: tuple[int, ...]) -> NDArray[np.float32]:
        mirrored = np.ascontiguousarray(np.flip(grey, axes))
        return np.flip(evaluate(mirrored[None, ..., None])[0, ..., 0], axes)

    return reduce(np.add, map(seen, views)) / np.float32(len(views))


def _compiled(model: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The network as one compiled function of a fixed shape; without XLA, which is far slower on processors."""
    model.compile(jit_compile=False)

    def evaluate(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(model.predict_on_batch(batch), dtype=np.float32)

    return evaluate
