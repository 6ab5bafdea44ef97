"""`deepvesicle info`: what a model, an MRC file or a table holds, so that objects and labels can be picked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deepvesicle.files.model_info import ModelInfo, ObjectInfo
    from deepvesicle.files.table_info import TableInfo
    from deepvesicle.files.volume_info import VolumeInfo

_EXPECTED = "an IMOD model (.mod), a tomogram or label volume (.mrc), or a table of vesicles (.csv)"
#: Labels listed one by one, at most.
_MAX_LISTED = 24


def info(
    file: Annotated[
        Path,
        typer.Argument(
            help="IMOD model, MRC file (a tomogram or a label volume), or table of vesicles.", show_default=False
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List the objects of an IMOD model or the labels of a volume, with sizes, places and what is odd."""
    from deepvesicle.files.kinds import MODEL, TABLE, kind_of

    kind = kind_of(file, _EXPECTED)
    if kind == MODEL:
        from deepvesicle.files.model_info import model_info

        model = model_info(file)
        print(_json(model.to_json()) if as_json else "\n".join(_model_lines(model)))
    elif kind == TABLE:
        from deepvesicle.files.table_info import table_info

        table = table_info(file)
        print(_json(table.to_json()) if as_json else "\n".join(_table_lines(table)))
    else:
        from deepvesicle.files.volume_info import volume_info

        volume = volume_info(file)
        print(_json(volume.to_json()) if as_json else "\n".join(_volume_lines(volume)))


def _json(content: object) -> str:
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def _finite(value: object) -> object:
    """Plain values in which None stands for what is no number, which JSON cannot hold."""
    from math import isfinite

    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _model_lines(model: ModelInfo) -> list[str]:
    nz, ny, nx = model.shape_zyx
    rows = {
        "image": f"{nx} x {ny} x {nz} voxels (x, y, z)" if min(model.shape_zyx) > 0 else "not known",
        "pixel size": "not known" if model.pixel_nm is None else f"{model.pixel_nm:.4g} nm",
    }
    if model.spacing_nm is not None and model.origin_nm is not None:
        z, y, x = model.spacing_nm
        oz, oy, ox = model.origin_nm
        size = f"{x:.4g}" if x == y == z else f"{x:.4g} x {y:.4g} x {z:.4g}"
        rows["drawn on"] = f"voxels of {size} nm, origin {ox:g}, {oy:g}, {oz:g} nm (x, y, z)"
    lines = [f"{model.path}: IMOD model", *_as_rows(rows, model.remarks)]
    for item in model.objects:
        lines += ["", *_object_lines(item)]
    return lines


def _object_lines(item: ObjectInfo) -> list[str]:
    red, green, blue = (round(255 * part) for part in item.colour)
    content = f"{_count(item.contours, 'contour')}, {_count(item.points, 'point')}"
    rows = {"holds": item.kind if item.kind == "nothing" else f"{item.kind}: {content}"}
    if item.meshes:
        rows["meshes"] = str(item.meshes)
    if item.sizes_px is not None:
        low, high = item.sizes_px
        rows["radii"] = f"{_range(low, high)} px"
        if item.sizes_nm is not None:
            rows["radii"] += f", {_range(*item.sizes_nm)} nm"
    if item.slices is not None:
        first, last = item.slices
        rows["slices"] = f"{first} to {last}" if first < last else str(first)
    rows["colour"] = f"{red}, {green}, {blue} (red, green, blue)"
    name = f"'{item.name}'" if item.name else "without name"
    return [f"  object {item.number}  {name}", *(f"  {line}" for line in _as_rows(rows, item.remarks))]


def _volume_lines(volume: VolumeInfo) -> list[str]:
    from math import isfinite

    nz, ny, nx = volume.shape_zyx
    z, y, x = volume.voxel_nm
    oz, oy, ox = volume.origin_nm
    size = f"{x:.6g}" if x == y == z else f"{x:.6g} x {y:.6g} x {z:.6g}"
    rows = {
        "size": f"{nx} x {ny} x {nz} voxels (x, y, z)",
        "voxel size": f"{size} nm" if all(map(isfinite, volume.voxel_nm)) else "not known",
        "origin": f"{ox:g}, {oy:g}, {oz:g} nm (x, y, z)",
        "data type": volume.data_type,
        "values": f"{volume.minimum:.5g} to {volume.maximum:.5g}, mean {volume.mean:.4g}, SD {volume.sd:.4g}",
    }
    counts = volume.voxels_of_id
    if counts is None:
        return [f"{volume.path}: grey values", *_as_rows(rows, volume.remarks)]
    listed = sorted(counts)[:_MAX_LISTED]
    lines = [f"{volume.path}: labels", *_as_rows(rows, volume.remarks), f"  {_count(len(counts), 'label')}"]
    lines += [f"    {number:>6}  {_count(counts[number], 'voxel')}" for number in listed]
    return lines + ([f"    and {len(counts) - len(listed)} more"] if len(counts) > len(listed) else [])


def _table_lines(table: TableInfo) -> list[str]:
    rows = {"holds": f"{_count(table.rows, 'row')} of {_count(table.columns, 'column')}"}
    if table.rows_of_status:
        rows["status"] = ", ".join(f"{count} {status}" for status, count in table.rows_of_status.items())
    rows["voxel size"] = "not known" if table.voxel_nm is None else f"{table.voxel_nm:.6g} nm"
    if table.radii_px is not None:
        low, high = table.radii_px
        rows["radii"] = f"{_range(low, high)} px"
        if table.voxel_nm is not None:
            rows["radii"] += f", {_range(low * table.voxel_nm, high * table.voxel_nm)} nm"
    return [f"{table.path}: table of vesicles", *_as_rows(rows, ())]


def _as_rows(rows: dict[str, str], remarks: tuple[str, ...]) -> list[str]:
    lines = [f"  {name:<12} {text}" for name, text in rows.items()]
    return lines + [f"  {'look at' if i == 0 else '':<12} {remark}" for i, remark in enumerate(remarks)]


def _range(low: float, high: float) -> str:
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
