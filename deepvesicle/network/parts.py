"""Parts of datasets to train on and to validate on, and balanced patches from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepvesicle.errors import DatasetError
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.network.dataset import Dataset, TrainingVolume
from deepvesicle.network.grey import BLUR_REACH_SD, measure_normalisation
from deepvesicle.network.normalise import Normalisation, NormalisationMethod
from deepvesicle.network.patches import MIRRORED_SHARE, Patch, mirrored
from deepvesicle.vesicles import Vesicles

#: Share of the vesicles that validation gets.
VALIDATION_SHARE = 0.2
#: How often a patch is drawn where there are vesicles, where it is dark without any, and anywhere.
KIND_ANYWHERE = "anywhere"
KIND_SHARES = {"vesicles": 0.5, "membranes": 0.25, KIND_ANYWHERE: 0.25}
#: Edge of the blocks that these kinds are told apart in, voxels.
BLOCK_VOX = 16
#: Dark: this many SDs under the mean. Of the blocks without vesicles, this share is the darkest, or "membranes".
_DARK_SD, _DARKEST = -1.5, 0.25


@dataclass(frozen=True)
class Part:
    """A box of a dataset's tomogram, which is treated as a volume of its own.

    Parameters
    ----------
    volume : TrainingVolume
    start, stop : tuple of int
        z, y, x.
    """

    volume: TrainingVolume
    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @classmethod
    def whole(cls, volume: TrainingVolume) -> Part:
        """All of a tomogram."""
        return cls(volume, (0, 0, 0), volume.grid.shape_zyx)

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where it is in the volume."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def grid(self) -> Grid:
        """The part's own."""
        return self.volume.grid.cropped(self.start, np.subtract(self.stop, self.start))

    def vesicles(self) -> Vesicles:
        """Those with their centre in the part, on its grid."""
        everything = self.volume.vesicles
        centres = everything.grid.map_points(everything.centres_vox, self.grid)
        inside = self.grid.contains(centres)
        return everything.replace(grid=self.grid, centres_vox=centres).select(inside)

    def tomogram(self) -> Tomogram:
        """Its grey values."""
        return Tomogram(self.volume.read("grey", self.box), self.grid)

    def name(self) -> str:
        """For messages: the tomogram, and where in it if it is not all of it."""
        if self.start == (0, 0, 0) and self.stop == self.volume.grid.shape_zyx:
            return self.volume.name
        axes = (
            f"{axis} {a + 1} to {b}"
            for axis, a, b, n in zip("zyx", self.start, self.stop, self.volume.grid.shape_zyx, strict=True)
            if (a, b) != (0, n)
        )
        return f"{self.volume.name}, {', '.join(axes)}"


def split(datasets: Sequence[Dataset], patch_vox: int, names: Sequence[str] = ()) -> tuple[list[Part], list[Part]]:
    """Parts for training and for validation: whole tomograms where there are several, else a side of the only one.

    Of several, that with the fewest vesicles validates, and others as long as they have a fifth of all together.

    Parameters
    ----------
    datasets : sequence of Dataset
    patch_vox : int
        Neither side of a tomogram that is cut gets narrower, if that can be.
    names : sequence of str
        Tomograms that shall validate.

    Raises
    ------
    DatasetError
        Fewer than two vesicles in all: nothing to learn from, or nothing to validate on; or a name that is not there.
    """
    volumes = [volume for dataset in datasets for volume in dataset.volumes]
    total = sum(len(volume.vesicles) for volume in volumes)
    if total < 2:
        raise DatasetError(
            f"the datasets hold {total} vesicles", expected="at least two, better a hundred", remedy="Annotate more"
        )
    if names:
        return _named(volumes, names)
    with_any = sorted((v for v in volumes if len(v.vesicles)), key=lambda v: (len(v.vesicles), v.name))
    if len(with_any) == 1:
        first, second = _cut(with_any[0], patch_vox)
        return [first, *(Part.whole(v) for v in volumes if v is not with_any[0])], [second]
    kept = [with_any[0]]
    for volume in reversed(with_any[1:]):  # the larger ones first: they fill the share best
        if len(kept) + 1 < len(with_any) and sum(len(v.vesicles) for v in (*kept, volume)) <= VALIDATION_SHARE * total:
            kept.append(volume)
    return [Part.whole(v) for v in volumes if not any(v is k for k in kept)], [Part.whole(v) for v in kept]


def _named(volumes: Sequence[TrainingVolume], names: Sequence[str]) -> tuple[list[Part], list[Part]]:
    """What validates as the user wants it."""
    known = [volume.name for volume in volumes]
    for name in names:
        if name not in known:
            raise DatasetError(f"the datasets hold no tomogram {name}", expected=", ".join(known))
    kept = [Part.whole(v) for v in volumes if v.name in names]
    rest = [Part.whole(v) for v in volumes if v.name not in names]
    for parts, use in ((rest, "train"), (kept, "validate")):
        if not sum(len(part.volume.vesicles) for part in parts):
            raise DatasetError(f"no vesicles are left to {use} on", remedy="Choose other tomograms for validation")
    return rest, kept


def _cut(volume: TrainingVolume, patch_vox: int) -> tuple[Part, Part]:
    """A tomogram cut across the longer of y and x, so that most of the vesicles are in the first part."""
    shape = volume.grid.shape_zyx
    axis = 1 if shape[1] > shape[2] else 2
    places = np.sort(volume.vesicles.centres_vox[:, axis])
    at = int(np.quantile(places, 1 - VALIDATION_SHARE)) + 1
    at = int(np.clip(at, places[0] + 1, places[-1]))
    if shape[axis] >= 2 * patch_vox:
        at = int(np.clip(at, patch_vox, shape[axis] - patch_vox))
    stop, start = list(shape), [0, 0, 0]
    stop[axis] = start[axis] = max(1, at)
    first, second = (
        Part(volume, (0, 0, 0), (stop[0], stop[1], stop[2])),
        Part(volume, (start[0], start[1], start[2]), shape),
    )
    if not len(first.vesicles()) or not len(second.vesicles()):
        raise DatasetError(
            f"tomogram {volume.name} cannot be cut into a part to train on and one to validate on",
            expected="vesicles on both sides",
            remedy="Add another tomogram to the dataset",
        )
    return first, second


class DatasetPatches:
    """Random patches from parts of datasets, balanced between places with vesicles, with membranes, and any.

    Parameters
    ----------
    parts : sequence of Part
    method : NormalisationMethod
        Of the network.
    """

    def __init__(self, parts: Sequence[Part], method: NormalisationMethod) -> None:
        self._method = method
        self._parts = list(parts)
        self._normalisations = [
            measure_normalisation(Tomogram(v.grey(), v.grid), v.grid, method) for v in (p.volume for p in parts)
        ]
        blocks = [_kinds_of_blocks(p, n) for p, n in zip(self._parts, self._normalisations, strict=True)]
        #: For each kind: part and centre (z, y, x) of the blocks, one row each.
        self._places = {
            kind: np.concatenate(
                [np.column_stack([np.full(len(b[kind]), i), b[kind]]) for i, b in enumerate(blocks)], dtype=np.int64
            )
            for kind in KIND_SHARES
        }
        self._present = [kind for kind in KIND_SHARES if len(self._places[kind])]
        if not self._present:
            names = ", ".join(part.name() for part in parts)
            raise DatasetError(f"nothing is annotated in {names}", remedy="Check the outline given to prepare")

    def patch(self, size: int, rng: np.random.Generator, *, balanced: bool = True) -> Patch:
        """A random patch of `size` voxels along each axis, without augmentation; from anywhere if not balanced."""
        kinds = self._present if balanced else [KIND_ANYWHERE]
        shares = np.array([KIND_SHARES[kind] for kind in kinds])
        rows = self._places[kinds[int(rng.choice(len(shares), p=shares / shares.sum()))]]
        number, *place = rows[int(rng.integers(len(rows)))]
        part = self._parts[number]
        starts = []
        for centre, n in zip(place, part.grid.shape_zyx, strict=True):
            over = size // 3 if rng.random() < MIRRORED_SHARE else 0
            low, high = min(0, n - size) - over, max(0, n - size) + over
            wanted = centre - size // 2 + rng.integers(-size // 4, size // 4 + 1)
            starts.append(int(np.clip(wanted, low, high)))
        return self._read(number, starts, size)

    def _read(self, number: int, starts: Sequence[int], size: int) -> Patch:
        part = self._parts[number]
        reach = int(np.ceil(BLUR_REACH_SD * self._method.blur_vox))
        wide = [mirrored(s - reach, size + 2 * reach, n) for s, n in zip(starts, part.grid.shape_zyx, strict=True)]
        low = [int(index.min()) for index in wide]
        z, y, x = (
            slice(int(a + index.min()), int(a + index.max()) + 1) for a, index in zip(part.start, wide, strict=True)
        )
        around = np.ix_(*(index - first for index, first in zip(wide, low, strict=True)))
        inner = (slice(reach, reach + size),) * 3
        grey = part.volume.read("grey", (z, y, x))[around].astype(np.float32)
        if reach:
            grey = ndimage.gaussian_filter(grey, self._method.blur_vox, truncate=BLUR_REACH_SD)[inner]
        mask, known = (part.volume.read(name, (z, y, x))[around][inner] for name in ("mask", "annotated"))
        share = mask.astype(np.float32) / np.float32(255)
        return self._normalisations[number].apply(grey), share, known.astype(np.float32)


def _kinds_of_blocks(part: Part, normalisation: Normalisation) -> dict[str, NDArray[np.int64]]:
    """Centres (N, 3) of the blocks of each kind of `KIND_SHARES`, voxels of the part."""
    nz, ny, nx = part.grid.shape_zyx
    found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    y, x = part.box[1:]
    for start in range(0, nz, BLOCK_VOX):
        slab = (slice(part.start[0] + start, part.start[0] + min(nz, start + BLOCK_VOX)), y, x)
        grey = normalisation.apply(part.volume.read("grey", slab).astype(np.float32))
        arrays = (part.volume.read("annotated", slab) > 0, part.volume.read("mask", slab) > 127, grey < _DARK_SD)
        rows, columns = np.arange(0, ny, BLOCK_VOX), np.arange(0, nx, BLOCK_VOX)
        sums = [
            np.add.reduceat(np.add.reduceat(a.sum(axis=0, dtype=np.int64), rows, axis=0), columns, axis=1)
            for a in arrays
        ]
        places = np.stack(np.meshgrid([start], rows, columns, indexing="ij"), axis=-1).reshape(-1, 3) + BLOCK_VOX // 2
        found.append((places, np.column_stack([s.ravel() / BLOCK_VOX**3 for s in sums])))
    places = np.concatenate([p for p, _ in found])
    known, vesicle, dark = np.concatenate([s for _, s in found]).T
    usable = known > 0.25
    empty = usable & (vesicle == 0)
    darkest = empty & (dark > max(0.0, float(np.quantile(dark[empty], 1 - _DARKEST)))) if empty.any() else empty
    return {
        "vesicles": places[usable & (vesicle > 0.01)],
        "membranes": places[darkest],
        KIND_ANYWHERE: places[usable],
    }
