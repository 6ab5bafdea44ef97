"""From manual segmentations to a dataset that networks are trained on: composition only."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle import __version__
from deepvesicle.annotations import Annotation
from deepvesicle.annotations.choosing import Choice, read_annotations
from deepvesicle.errors import BadInputError, DatasetError, OutputExistsError
from deepvesicle.files.atomic import new_file
from deepvesicle.files.run_record import FileRecord
from deepvesicle.fitting.placement import Placement, check_placement
from deepvesicle.fitting.refine import refine
from deepvesicle.grid import Region, Tomogram
from deepvesicle.network.dataset import MANIFEST_NAME, TrainingVolume, add_volume, check_name, read_manifest
from deepvesicle.report.annotation_picture import annotation_picture
from deepvesicle.settings import Settings
from deepvesicle.vesicles import Status, Vesicles

#: Called with (stage, done, in all).
Progress = Callable[[str, int, int], None]
PICTURE_ENDING = "_annotation.png"
#: Of a dataset that is made, unless another is given: that of the default network.
DEFAULT_VOXEL_NM = 2.2
#: Shapes named one by one in a message, at most.
_NAMED = 3
#: A tomogram whose voxels are larger than the dataset's by more than this factor shows less than the network needs.
_COARSE = 1.5


@dataclass(frozen=True)
class Refined:
    """What the fit changed of the spheres that were drawn.

    Parameters
    ----------
    fitted, kept : int
        Spheres that were fitted, and that stayed as they were drawn, since no fit succeeded.
    radius_change_nm, move_nm : float
        Medians over the fitted ones; the first with its sign.
    """

    fitted: int
    kept: int
    radius_change_nm: float
    move_nm: float


@dataclass(frozen=True)
class Prepared:
    """A tomogram of a dataset, and what was understood of its annotation.

    Parameters
    ----------
    volume : TrainingVolume
    annotation : Annotation
        With the spheres as they are stored, on the tomogram's grid.
    picture : Path
    placement : Placement
    refined : Refined, optional
    warnings : tuple of str
        What the user should look at, one line each.
    """

    volume: TrainingVolume
    annotation: Annotation
    picture: Path
    placement: Placement
    refined: Refined | None
    warnings: tuple[str, ...]


def prepare_volume(
    tomogram: Tomogram,
    paths: Sequence[Path],
    folder: Path,
    name: str,
    choice: Choice,
    *,
    voxel_nm: float | None = None,
    fit: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Add a tomogram with its manual segmentation to a dataset.

    Parameters
    ----------
    tomogram : Tomogram
        Read from a file.
    paths : sequence of Path
        Models, label volumes and tables.
    folder : Path
        The dataset; made if need be.
    name : str
        Of the tomogram in the dataset.
    choice : Choice
    voxel_nm : float, optional
        Of a dataset that is made; that of the dataset by default.
    fit : bool
        Fit the spheres to the tomogram before they are stored.
    overwrite : bool
        Replace a tomogram of that name.
    progress : callable, optional

    Raises
    ------
    DeepVesicleError
        Files that cannot be used, nothing annotated, or a dataset that this tomogram does not fit into. The dataset is
        then as it was.
    """
    if tomogram.path is None:
        raise ValueError("the tomogram must have been read from a file")
    voxel_nm = check_dataset(folder, name, voxel_nm, overwrite=overwrite)
    annotation = read_annotations(paths, tomogram.grid, choice)
    if not len(annotation.vesicles):
        raise nothing_annotated(annotation)
    placement = check_placement(tomogram, annotation.vesicles)
    refined = None
    if fit:
        vesicles, refined = refit(tomogram, annotation.vesicles, _stage(progress, "fit"))
        annotation = replace(annotation, vesicles=vesicles)
    picture = annotation_picture(tomogram, annotation.vesicles, unclear=annotation.unclear, region=annotation.region)
    source = _source(tomogram, paths, choice, annotation, placement, refined)
    warnings = [
        *annotation.notes,
        *_placement_warnings(placement, fit),
        *_too_coarse(tomogram, voxel_nm),
        *_same_tomogram(folder, name, source),
    ]
    with _no_empty_dataset(folder):
        volume = add_volume(
            folder,
            name,
            tomogram,
            annotation.vesicles,
            unclear=annotation.unclear,
            region=annotation.region,
            voxel_nm=voxel_nm,
            source=source,
            overwrite=overwrite,
            progress=_stage(progress, "store"),
        )
    picture_path = folder / f"{name}{PICTURE_ENDING}"
    with new_file(picture_path, overwrite=True) as temporary:
        temporary.write_bytes(picture)
    return Prepared(volume, annotation, picture_path, placement, refined, tuple(warnings))


def default_name(stem: str) -> str:
    """A name for a dataset's tomogram from that of a file: other characters than a name may have become hyphens."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "tomogram"


def check_dataset(folder: Path, name: str, voxel_nm: float | None, *, overwrite: bool) -> float:
    """Find out, before the work, whether a tomogram can be added to a dataset; gives its voxel size, nm.

    Raises
    ------
    DatasetError
        There is a dataset that is damaged or of another voxel size, or the name cannot be used.
    OutputExistsError
        It holds such a tomogram already.
    """
    check_name(name)
    if not (folder / MANIFEST_NAME).exists():
        return DEFAULT_VOXEL_NM if voxel_nm is None else voxel_nm
    manifest = read_manifest(folder)
    own_nm = float(manifest["voxel_nm"])
    if voxel_nm is not None and voxel_nm != own_nm:
        raise DatasetError(
            f"{folder} holds a dataset at {own_nm:g} nm per voxel",
            got=f"{voxel_nm:g} nm",
            remedy="Give another folder, or that voxel size",
        )
    if not overwrite and name in manifest["volumes"]:
        raise OutputExistsError(
            f"{folder} already holds a tomogram {name}", remedy="Give --overwrite to replace it, or another --name"
        )
    return own_nm


def refit(
    tomogram: Tomogram, vesicles: Vesicles, progress: Callable[[int, int], None] | None = None
) -> tuple[Vesicles, Refined]:
    """Fit drawn spheres to the tomogram as `deepvesicle segment` does; those without a good fit stay as drawn.

    Parameters
    ----------
    tomogram : Tomogram
    vesicles : Vesicles
        On its grid.
    progress : callable, optional

    Returns
    -------
    Vesicles
        The same rows, all `Status.MANUAL`.
    Refined
    """
    starts = vesicles.replace(status=[Status.PROPOSED] * len(vesicles))
    fitted = refine(tomogram, starts, Settings().refinement, progress=progress)
    good = ~(fitted.features["fit_failed"] > 0)
    centres = np.where(good[:, None], fitted.centres_vox, vesicles.centres_vox)
    radii = np.where(good, fitted.radii_vox, vesicles.radii_vox)
    moves = vesicles.grid.length_to_nm(np.linalg.norm(centres - vesicles.centres_vox, axis=1))[good]
    changes = vesicles.grid.length_to_nm(radii - vesicles.radii_vox)[good]
    middle = [float(np.median(values)) if good.any() else 0.0 for values in (changes, moves)]
    return vesicles.replace(centres_vox=centres, radii_vox=radii), Refined(int(good.sum()), int((~good).sum()), *middle)


def inside(vesicles: Vesicles, region: Region | None) -> NDArray[np.bool_]:
    """Which spheres (N,) have their centre in a region; all without one."""
    if region is None:
        return np.ones(len(vesicles), dtype=bool)
    starts = np.clip(np.rint(vesicles.centres_vox).astype(int), 0, np.asarray(vesicles.grid.shape_zyx) - 1)
    voxels = [vesicles.grid.cropped(start, (1, 1, 1)) for start in starts]
    return np.array([bool(region.to_mask(voxel).any()) for voxel in voxels], dtype=bool)


def unclear_shapes(unclear: Vesicles) -> list[tuple[str, str]]:
    """Where each unclear shape is, as 3dmod counts from 1, and what is wrong with it; one may have several spheres."""
    numbers = unclear.features.get("shape", np.arange(len(unclear), dtype=float))
    _, first = np.unique(numbers, return_index=True)
    places = np.rint(unclear.centres_vox[first]).astype(int) + 1
    labels = unclear.features.get("label", np.full(len(unclear), np.nan))[first]
    names = ["" if np.isnan(label) else f"label {label:.0f}, " for label in labels]
    return [
        (f"{name}x {x}, y {y}, z {z}", unclear.reasons[row])
        for row, name, (z, y, x) in zip(first, names, places.tolist(), strict=True)
    ]


def nothing_annotated(annotation: Annotation) -> BadInputError:
    """What to say where no vesicle was found in what was drawn."""
    unclear = [f"at {place}: {reason}" for place, reason in unclear_shapes(annotation.unclear)]
    more = [f"and {len(unclear) - _NAMED} more"] if len(unclear) > _NAMED else []
    got = "; ".join([*annotation.notes, *unclear[:_NAMED], *more])
    return BadInputError(
        "no vesicles are annotated",
        expected="spheres, contours or labels of vesicles",
        got=got or "none",
        remedy="See with deepvesicle info what the file holds, and name objects with --vesicles, or labels",
    )


def _source(
    tomogram: Tomogram,
    paths: Sequence[Path],
    choice: Choice,
    annotation: Annotation,
    placement: Placement,
    refined: Refined | None,
) -> dict[str, Any]:
    """The entry of the manifest: where it all comes from, and what was understood."""
    vesicles = annotation.vesicles
    masks = [path for path, _ in choice.masks if path not in paths]
    return {
        "program": f"deepvesicle {__version__}",
        "tomogram": asdict(FileRecord.of(tomogram.path or "")),
        "annotations": [asdict(FileRecord.of(path)) for path in [*paths, *masks]],
        "tomogram_grid": tomogram.grid.to_json(),
        "inverted": tomogram.invert,
        "options": choice.to_json(),
        "median_radius_nm": round(float(np.median(vesicles.radii_nm)), 3),
        "unclear": [f"{place}: {reason}" for place, reason in unclear_shapes(annotation.unclear)],
        "limited": annotation.region is not None,
        "notes": list(annotation.notes),
        "refined": None if refined is None else asdict(refined),
        "shell_contrast": round(placement.contrast, 4) if np.isfinite(placement.contrast) else None,
    }


def _placement_warnings(placement: Placement, fit: bool) -> list[str]:
    """What is to be said of where the spheres lie; that radii are off is no matter where they are fitted."""
    if placement.radius_nm and not fit:
        way = "within" if placement.radius_nm < 0 else "outside"
        off = f"{abs(placement.radius_nm):.1f} nm {way} the spheres"
        return [f"the outer edges of the membranes lie about {off}: --refine fits the spheres"]
    if not placement.told:
        return ["too few vesicles in the tomogram to tell whether they lie on its membranes: look at the picture"]
    return [placement.warning] if placement.warning else []


def _too_coarse(tomogram: Tomogram, voxel_nm: float) -> list[str]:
    """A word where the dataset's voxels are much smaller than the tomogram's."""
    own_nm = tomogram.grid.voxel_nm
    if own_nm <= _COARSE * voxel_nm:
        return []
    return [
        f"the tomogram's voxels of {own_nm:.4g} nm are enlarged to the dataset's of {voxel_nm:.4g} nm: it shows less "
        "than the network can use; take a finer binning if there is one"
    ]


@contextmanager
def _no_empty_dataset(folder: Path) -> Iterator[None]:
    """Remove a dataset that was made and stayed empty, when the block fails."""
    made = not folder.exists()
    try:
        yield
    except BaseException:
        if made and {path.name for path in folder.glob("*")} <= {MANIFEST_NAME}:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _same_tomogram(folder: Path, name: str, source: Mapping[str, Any]) -> list[str]:
    """A word where the dataset holds this tomogram under another name."""
    if not (folder / MANIFEST_NAME).exists():
        return []
    digest = source["tomogram"]["sha256"]
    for other, entry in read_manifest(folder)["volumes"].items():
        if other != name and entry.get("tomogram", {}).get("sha256") == digest:
            return [f"{folder} holds this tomogram already, as {other}: training would see it twice"]
    return []


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(stage, done, total)
