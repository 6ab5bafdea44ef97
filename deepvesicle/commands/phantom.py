"""`deepvesicle phantom`: a simulated tomogram with known vesicles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepvesicle.commands.options import OverwriteOption

KINDS = "synapse, liposomes, small, shells, no_vesicles or granules"


def phantom(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    shape: Annotated[tuple[int, int, int], typer.Option(metavar="Z Y X", help="Size in voxels.")] = (96, 192, 192),
    voxel_size: Annotated[float, typer.Option("--voxel-size", metavar="NM", help="Voxel size in nm.")] = 2.2,
    kind: Annotated[str, typer.Option(help=f"What is simulated: {KINDS}.")] = "synapse",
    contrast: Annotated[
        float | None,
        typer.Option(
            metavar="D", help="Contrast of the membranes over the noise per voxel (d'); real data: 0.35 to 1."
        ),
    ] = None,
    max_tilt: Annotated[
        float | None, typer.Option(metavar="DEGREES", help="Highest tilt; a random one of 42 to 66 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same phantom.")] = 1,
    overwrite: OverwriteOption = False,
) -> None:
    """Simulate a tomogram, and write it with its true vesicles as IMOD model, labels and table."""
    from deepvesicle.commands.segment import refuse_existing

    paths = phantom_paths(output, f"phantom_{kind}_{seed}")
    refuse_existing(paths, overwrite)
    count = write_phantom(
        paths, shape, voxel_size, kind=kind, contrast=contrast, max_tilt_deg=max_tilt, seed=seed, overwrite=overwrite
    )
    print(f"{count} vesicles")
    for path in paths.values():
        print(f"wrote {path}")


def phantom_paths(folder: Path, stem: str) -> dict[str, Path]:
    """Where the files of a phantom go."""
    return {
        "tomogram": folder / f"{stem}.mrc",
        "truth_model": folder / f"{stem}_truth.mod",
        "truth_labels": folder / f"{stem}_truth_labels.mrc",
        "truth_table": folder / f"{stem}_truth.csv",
    }


def write_phantom(
    paths: dict[str, Path],
    shape_zyx: tuple[int, int, int],
    voxel_nm: float,
    *,
    kind: str,
    contrast: float | None,
    max_tilt_deg: float | None,
    seed: int,
    overwrite: bool,
) -> int:
    """Simulate and write; gives the number of vesicles in view.

    Raises
    ------
    UsageError
        Values that make no tomogram.
    """
    from dataclasses import replace

    import numpy as np

    from deepvesicle.errors import UsageError
    from deepvesicle.files.imod import write_vesicles_model
    from deepvesicle.files.tables import write_vesicles_csv
    from deepvesicle.files.tomogram import write_labels, write_tomogram
    from deepvesicle.fitting.rasterize import rasterize
    from deepvesicle.grid import VOXEL_NM_RANGE
    from deepvesicle.phantom.imaging import image_scene, random_imaging
    from deepvesicle.phantom.scene import SCENE_KINDS, random_scene

    if kind not in SCENE_KINDS:
        raise UsageError(f"--kind {kind} is unknown", expected="one of " + ", ".join(SCENE_KINDS))
    if min(shape_zyx) < 32 or np.prod(shape_zyx, dtype=float) > 3e8:
        raise UsageError("--shape makes no sense", expected="at least 32 voxels each, 300 million in all")
    if not VOXEL_NM_RANGE[0] <= voxel_nm <= VOXEL_NM_RANGE[1]:
        raise UsageError("--voxel-size makes no sense", expected=f"{VOXEL_NM_RANGE[0]} to {VOXEL_NM_RANGE[1]} nm")
    if contrast is not None and not 0.05 <= contrast <= 20:
        raise UsageError("--contrast makes no sense", expected="0.05 to 20")
    if max_tilt_deg is not None and not 10 <= max_tilt_deg <= 85:
        raise UsageError("--max-tilt makes no sense", expected="10 to 85 degrees")
    rng = np.random.default_rng(seed)
    margin = round(50 / voxel_nm)
    nz, ny, nx = shape_zyx
    scene = random_scene(rng, (nz, ny, nx + 2 * margin), voxel_nm, kind)
    imaging = random_imaging(rng)
    if contrast is not None:
        imaging = replace(imaging, contrast=contrast, filter="none", filter_strength=0.0)
    if max_tilt_deg is not None:
        tilts = np.arange(-max_tilt_deg, max_tilt_deg + 1e-6, 2.0)
        imaging = replace(imaging, tilts_deg=tuple(float(t) for t in tilts))
    tomogram, truth = image_scene(scene, imaging, rng, margin)
    write_tomogram(paths["tomogram"], tomogram.data, tomogram.grid, overwrite=overwrite)
    write_labels(paths["truth_labels"], rasterize(truth), overwrite=overwrite)
    write_vesicles_csv(paths["truth_table"], truth, overwrite=overwrite)
    write_vesicles_model(paths["truth_model"], truth, overwrite=overwrite)
    return len(truth)
