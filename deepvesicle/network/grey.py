"""Grey values as a network wants them: at its voxel size, blurred, normalised; box by box, never the whole volume."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepvesicle.grid import Grid, Tomogram
from deepvesicle.memory import drop_pages
from deepvesicle.network.normalise import Z_SCORE, Normalisation, NormalisationMethod
from deepvesicle.network.resample import sample_region
from deepvesicle.network.tiles import plan_tiles

#: Sections of the tomogram that the normalisation is measured on.
NORMALISATION_SLABS = 16
#: The Gaussian of a blur ends at this many SDs.
BLUR_REACH_SD = 4.0
#: Longest edge of the pieces that a whole volume is measured in, voxels.
_PIECE_VOX = 160


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

        def parts() -> Iterator[NDArray[np.float32]]:
            for piece in pieces:
                start, size = tuple(r.start for r in piece), tuple(r.stop - r.start for r in piece)
                yield grey_box(tomogram, target, start, size, method.blur_vox)
                drop_pages(tomogram.data)

        return Normalisation.z_score(parts())
    sections = np.unique(np.linspace(0, nz - 1, min(nz, NORMALISATION_SLABS) + 2).round().astype(int)[1:-1])
    stride = max(1, int(np.ceil(ny * nx / 250_000)))

    def samples() -> Iterator[NDArray[np.float32]]:
        for z in sections:
            section = grey_box(tomogram, target, (int(z), 0, 0), (1, ny, nx), method.blur_vox)
            drop_pages(tomogram.data)
            yield section.ravel()[::stride]

    return Normalisation.of(samples())


def padded_region(
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


def grey_box(
    tomogram: Tomogram, target: Grid, start: tuple[int, ...], size: tuple[int, ...], blur_vox: float
) -> NDArray[np.float32]:
    """`padded_region` of the volume blurred as a whole (Gaussian, mirrored at the faces)."""
    if not blur_vox:
        return padded_region(tomogram, target, start, size)
    reach = int(np.ceil(BLUR_REACH_SD * blur_vox))
    wider = padded_region(tomogram, target, tuple(s - reach for s in start), tuple(n + 2 * reach for n in size))
    blurred = ndimage.gaussian_filter(wider, blur_vox, truncate=BLUR_REACH_SD)
    return np.ascontiguousarray(blurred[tuple(slice(reach, reach + n) for n in size)])
