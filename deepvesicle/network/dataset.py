"""Datasets on disk: tomograms with annotated vesicles at a network's voxel size, to train on.

A folder with `manifest.json` and one HDF5 file for each tomogram: compressed chunks of grey values, of the share of
each voxel inside a vesicle, and of what was annotated at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import DatasetError, OutputExistsError
from deepvesicle.files.atomic import new_file, sha256_of
from deepvesicle.grid import Grid, Region, Tomogram
from deepvesicle.network.grey import measure_normalisation
from deepvesicle.network.patches import occupancy
from deepvesicle.network.resample import sample_region
from deepvesicle.vesicles import Status, Vesicles

MANIFEST_NAME = "manifest.json"
FORMAT = 1
ARRAYS = ("grey", "mask", "annotated")
#: Of the arrays on disk, voxels: a patch of 64 touches few of them.
_CHUNK = (32, 64, 64)
#: Grey values are stored in SDs from the mean, as half floats; beyond this there is only gold.
_LIMIT_SD = 100.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class TrainingVolume:
    """One tomogram of a dataset.

    Parameters
    ----------
    name : str
    path : Path
        The HDF5 file.
    grid : Grid
        At the voxel size of the dataset.
    vesicles : Vesicles
        Those annotated, on `grid`.
    source : mapping
        Its entry in the manifest: files it was made from with their sha256, counts, notes.
    """

    name: str
    path: Path
    grid: Grid
    vesicles: Vesicles
    source: Mapping[str, Any]

    def read(self, array: str, box: tuple[slice, slice, slice] | None = None) -> NDArray[Any]:
        """A part (z, y, x) of one of `ARRAYS`, all of it by default.

        Raises
        ------
        DatasetError
            The file cannot be read.
        """
        try:
            with h5py.File(self.path, "r") as file:
                return np.asarray(file[array][box or ()])
        except (OSError, KeyError) as error:
            raise _damaged(self.path, error) from error

    def grey(self) -> NDArray[np.float16]:
        """Grey values (z, y, x) in SDs from the mean, dense = low."""
        return np.asarray(self.read("grey"), dtype=np.float16)

    def mask(self) -> NDArray[np.uint8]:
        """Share of each voxel inside a vesicle, 0..255 (z, y, x)."""
        return np.asarray(self.read("mask"), dtype=np.uint8)

    def annotated(self) -> NDArray[np.bool_]:
        """Which voxels somebody has looked at (z, y, x)."""
        return self.read("annotated").astype(bool)


@dataclass(frozen=True)
class Dataset:
    """Tomograms to train on, all at one voxel size."""

    folder: Path
    voxel_nm: float
    volumes: tuple[TrainingVolume, ...]


def add_volume(
    folder: Path,
    name: str,
    tomogram: Tomogram,
    vesicles: Vesicles,
    *,
    unclear: Vesicles | None = None,
    region: Region | None = None,
    voxel_nm: float,
    source: Mapping[str, Any],
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingVolume:
    """Add a tomogram to a dataset, which is made if need be; slab by slab, so that memory stays bounded.

    Parameters
    ----------
    folder : Path
    name : str
        Of the tomogram in the dataset: letters, digits, dots, hyphens and underscores.
    tomogram : Tomogram
    vesicles : Vesicles
        On the tomogram's grid.
    unclear : Vesicles, optional
        Their voxels are stored as not annotated, where no vesicle is.
    region : Region, optional
        What was annotated; all by default.
    voxel_nm : float
        Of the dataset.
    source : mapping
        For the manifest: plain values only.
    overwrite : bool
        Replace a tomogram of that name.
    progress : callable, optional
        Called with (sections done, sections in all).

    Raises
    ------
    DatasetError
        The folder holds a dataset of another voxel size, something else, or the name cannot be used.
    OutputExistsError
        There is such a tomogram already.
    """
    check_name(name)
    entries = _entries(folder, voxel_nm)
    if name in entries and not overwrite:
        raise OutputExistsError(
            f"{folder} already holds a tomogram {name}", remedy="Give --overwrite to replace it, or another --name"
        )
    target = tomogram.grid.rescaled(voxel_nm)
    mapped = _on_grid(vesicles, target)
    path = folder / f"{name}.h5"
    if not (folder / MANIFEST_NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_manifest(folder, voxel_nm, {})
    with new_file(path, overwrite=True) as temporary:  # a file that the manifest does not name is left from a crash
        share = _write_arrays(temporary, tomogram, target, mapped, unclear, region, progress)
    entries[name] = {
        "file": path.name,
        "sha256": sha256_of(path),
        "grid": target.to_json(),
        "vesicles": len(mapped),
        "annotated_share": round(share, 6),
        **source,
    }
    _write_manifest(folder, voxel_nm, entries)
    return TrainingVolume(name, path, target, mapped, entries[name])


def check_name(name: str) -> None:
    """Refuse, with a DatasetError, what cannot name a tomogram of a dataset."""
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"{name!r} cannot name a tomogram of a dataset", expected="letters, digits, dots, hyphens and underscores"
        )


def read_dataset(folder: Path, *, verify: bool = True) -> Dataset:
    """Read a dataset's manifest and its tables of vesicles, and check its files.

    Parameters
    ----------
    folder : Path
    verify : bool
        Compare the files' sha256 with those of the manifest.

    Raises
    ------
    DatasetError
        No dataset, or one that is damaged.
    """
    manifest = read_manifest(folder)
    volumes = []
    for name, entry in manifest["volumes"].items():
        path = folder / str(entry.get("file", ""))
        if not path.is_file():
            raise DatasetError(f"{folder} lacks the file {path.name} of its tomogram {name}", remedy="Prepare it again")
        if verify and sha256_of(path) != entry.get("sha256"):
            raise DatasetError(
                f"{path} is not the file that {MANIFEST_NAME} names", remedy="Prepare the tomogram again"
            )
        volumes.append(_open_volume(name, path, entry))
    if not volumes:
        raise DatasetError(f"{folder} holds no tomogram", remedy="Add one with deepvesicle prepare")
    return Dataset(folder, float(manifest["voxel_nm"]), tuple(volumes))


def _on_grid(vesicles: Vesicles, target: Grid) -> Vesicles:
    """Spheres on another grid: numbers and radii alone."""
    return Vesicles(
        target,
        vesicles.ids,
        vesicles.grid.map_points(vesicles.centres_vox, target),
        target.length_to_vox(vesicles.radii_nm),
        status=(Status.MANUAL,) * len(vesicles),
    )


def _write_arrays(
    path: Path,
    tomogram: Tomogram,
    target: Grid,
    vesicles: Vesicles,
    unclear: Vesicles | None,
    region: Region | None,
    progress: Callable[[int, int], None] | None,
) -> float:
    """Write the HDF5 file; the annotated share of its voxels."""
    normalisation = measure_normalisation(tomogram, target)
    nz, ny, nx = target.shape_zyx
    chunk = tuple(min(a, b) for a, b in zip(_CHUNK, target.shape_zyx, strict=True))
    known_voxels = 0
    with h5py.File(path, "w") as file:
        kinds = dict(zip(ARRAYS, (np.float16, np.uint8, np.uint8), strict=True))
        arrays = {
            name: file.create_dataset(
                name, target.shape_zyx, kind, chunks=chunk, compression="gzip", compression_opts=2, shuffle=True
            )
            for name, kind in kinds.items()
        }
        for start in range(0, nz, chunk[0]):
            stop = min(nz, start + chunk[0])
            slab = target.cropped((start, 0, 0), (stop - start, ny, nx))
            grey = sample_region(tomogram, target, (slice(start, stop), slice(0, ny), slice(0, nx)))
            # May be a view of the file, which cannot be changed in place.
            grey = (grey - np.float32(normalisation.mean)) / np.float32(normalisation.sd)
            mask = occupancy(vesicles, slab)
            known = np.ones(slab.shape_zyx, dtype=bool) if region is None else region.to_mask(slab)
            if unclear is not None and len(unclear):
                known = known & ((occupancy(unclear, slab) == 0) | (mask > 0))
            arrays["grey"][start:stop] = np.clip(grey, -_LIMIT_SD, _LIMIT_SD).astype(np.float16)
            arrays["mask"][start:stop] = mask
            arrays["annotated"][start:stop] = known
            known_voxels += int(np.count_nonzero(known))
            if progress:
                progress(stop, nz)
        file["ids"] = vesicles.ids
        file["spheres"] = np.column_stack([vesicles.centres_vox, vesicles.radii_vox])
        file["spheres"].attrs["columns"] = "z_vox, y_vox, x_vox, radius_vox"
        file.attrs.update(format=FORMAT, voxel_nm=target.voxel_nm, origin_nm=target.origin_nm)
    return known_voxels / target.voxel_count


def _open_volume(name: str, path: Path, entry: Mapping[str, Any]) -> TrainingVolume:
    try:
        with h5py.File(path, "r") as file:
            shapes = {tuple(file[array].shape) for array in ARRAYS}
            grid = Grid(shapes.pop(), float(file.attrs["voxel_nm"]), tuple(file.attrs["origin_nm"]))
            if shapes:
                raise ValueError("its arrays have different shapes")
            spheres, ids = np.asarray(file["spheres"]).reshape(-1, 4), np.asarray(file["ids"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    vesicles = Vesicles(grid, ids, spheres[:, :3], spheres[:, 3], status=(Status.MANUAL,) * len(ids))
    return TrainingVolume(name, path, grid, vesicles, entry)


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read ({' '.join(str(error).split())})",
        expected="a file written by deepvesicle prepare",
        remedy="Prepare the tomogram again",
    )


def _entries(folder: Path, voxel_nm: float) -> dict[str, Any]:
    """The tomograms that a folder holds already; none where there is no dataset yet."""
    if not (folder / MANIFEST_NAME).exists():
        if folder.exists() and (not folder.is_dir() or any(p.suffix == ".h5" for p in folder.iterdir())):
            raise DatasetError(f"{folder} is no dataset (it has no {MANIFEST_NAME})", remedy="Give a new folder")
        return {}
    manifest = read_manifest(folder)
    if manifest["voxel_nm"] != voxel_nm:
        raise DatasetError(
            f"{folder} holds a dataset at {manifest['voxel_nm']:g} nm per voxel",
            got=f"{voxel_nm:g} nm",
            remedy="Give another folder, or that voxel size",
        )
    return dict(manifest["volumes"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a dataset says of itself: ``format``, ``voxel_nm`` and ``volumes``, of which there may be none yet.

    Raises
    ------
    DatasetError
        No dataset, or a manifest that is damaged.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise DatasetError(
            f"{folder} is no dataset (it has no {MANIFEST_NAME})", remedy="Make one with deepvesicle prepare"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        good = (
            manifest["format"] == FORMAT and float(manifest["voxel_nm"]) > 0 and isinstance(manifest["volumes"], dict)
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DatasetError(
            f"{path} is damaged", expected="what deepvesicle prepare wrote", remedy="Prepare the tomograms again"
        ) from error
    if not good:
        raise DatasetError(f"{path} is not a manifest that this version knows", expected=f"format {FORMAT}")
    return dict(manifest)


def _write_manifest(folder: Path, voxel_nm: float, entries: Mapping[str, Any]) -> None:
    with new_file(folder / MANIFEST_NAME, overwrite=True) as temporary:
        manifest = {"format": FORMAT, "voxel_nm": voxel_nm, "volumes": dict(entries)}
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
