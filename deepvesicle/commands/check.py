"""`deepvesicle check`: what a tomogram is like, what is doubtful about it, and what a run will cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepvesicle.commands.options import InvertOption, TomogramArgument, VoxelSizeOption

if TYPE_CHECKING:
    from deepvesicle.files.quality import Quality
    from deepvesicle.grid import Tomogram

_SIGNS = {
    "dark": "dense is dark, as it should be",
    "bright": "dense seems to be bright (inverted)",
    "unsure": "cannot be told",
}
#: Below this share of all grey variation the finest detail was filtered away, and says nothing about the noise.
_SMOOTHED = 0.1


def check(
    tomogram: TomogramArgument,
    voxel_size: VoxelSizeOption = None,
    invert: InvertOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Look at a tomogram: size, voxel size, contrast, noise, what is doubtful, memory and time of a run."""
    from deepvesicle.files.quality import assess
    from deepvesicle.files.tomogram import read_tomogram

    volume = read_tomogram(tomogram, voxel_nm=voxel_size, invert=invert)
    quality = assess(volume)
    if as_json:
        print(json.dumps(_as_json(volume, quality, voxel_size), indent=2, allow_nan=False))
    else:
        print(_as_text(volume, quality, voxel_size))


def _voxel_source(voxel_size: float | None) -> str:
    return "header" if voxel_size is None else "option"


def _data_type(volume: Tomogram) -> str:
    dtype = volume.data.dtype
    kind = {"i": "signed integers", "u": "unsigned integers", "f": "floats"}[dtype.kind]
    return f"{8 * dtype.itemsize}-bit {kind}"


def _as_json(volume: Tomogram, quality: Quality, voxel_size: float | None) -> dict[str, Any]:
    from math import isfinite

    content = {
        "path": str(volume.path),
        **volume.grid.to_json(),
        "voxel_source": _voxel_source(voxel_size),
        "data_type": _data_type(volume),
        "inverted": volume.invert,
        **quality.to_json(),
    }
    error = content["contrast"]["standard_error"]
    content["contrast"]["standard_error"] = error if isfinite(error) else None
    return content


def _as_text(volume: Tomogram, quality: Quality, voxel_size: float | None) -> str:
    grid, contrast = volume.grid, quality.contrast
    nz, ny, nx = grid.shape_zyx
    z_nm, y_nm, x_nm = grid.extent_nm
    oz, oy, ox = grid.origin_nm
    source = "from the header" if voxel_size is None else "as given"
    noise = f"SD {quality.noise_sd:.4g} per voxel; structure at membrane scale {quality.structure_snr:.2f} of that"
    if quality.noise_sd < _SMOOTHED * quality.sd:
        noise = "hidden: the tomogram was smoothed or denoised"
    axis = {"y": "along y", "x": "along x", "unsure": "cannot be told"}[quality.tilt_axis]
    rows = {
        "size": f"{nx} x {ny} x {nz} voxels (x, y, z), {x_nm:.0f} x {y_nm:.0f} x {z_nm:.0f} nm",
        "voxel size": f"{grid.voxel_nm:.6g} nm ({source})",
        "origin": f"{ox:g}, {oy:g}, {oz:g} nm (x, y, z)",
        "data type": _data_type(volume) + (", contrast turned" if volume.invert else ""),
        "grey values": f"{quality.minimum:.5g} to {quality.maximum:.5g}, mean {quality.mean:.4g}, SD {quality.sd:.4g}",
        "contrast": f"{_SIGNS[contrast.sign]} (skewness {contrast.skewness:+.2f} ± {contrast.standard_error:.2f})",
        "noise": noise,
        "tilt axis": axis,
        "memory": f"about {quality.memory_bytes / 1e9:.1f} GB for deepvesicle segment",
        "time": f"about {_duration(quality.seconds)} on two cores",
    }
    lines = [str(volume.path), *(f"  {name:<12} {text}" for name, text in rows.items())]
    lines += [f"  {'doubtful' if i == 0 else '':<12} {doubt}" for i, doubt in enumerate(quality.doubts)]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"
