"""Cytosol and membrane, drawn in every way, against shapes that are known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label

from deepvesicle.errors import BadInputError, ModelFileError, UsageError
from deepvesicle.files.tomogram import write_labels
from deepvesicle.grid import Grid, Labels, Region
from deepvesicle.handover.meshes import MeshSolid, is_closed, mean_thickness
from deepvesicle.handover.regions import Outside, cytosol_region, membrane_region, notes_of
from imod_bridge import fields
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import FLAG_OPEN, SCATTERED_OBJECT, UNITS_NM, Contour, Model, Object, encode_model, write_model

GRID = Grid((40, 66, 75), 1.7, (4.0, -8.0, 30.0))
Z, Y, X = np.ogrid[:40, :66, :75]
Line = NDArray[np.float64]
Mask = NDArray[np.bool_]


def model_of(objects: Sequence[tuple[str, int, Sequence[Line]]]) -> Model:
    return Model(
        objects=tuple(
            Object(name=name, flags=flags, contours=tuple(Contour(index_to_model(line)) for line in lines))
            for name, flags, lines in objects
        ),
        image_size=(75, 66, 40),
        pixel_size=1.7,
        units=UNITS_NM,
    )


def written(tmp_path: Path, lines: Sequence[Line], flags: int = 0, name: str = "drawn") -> Path:
    write_model(tmp_path / "m.mod", model_of([(name, flags, lines)]))
    return tmp_path / "m.mod"


def meshed(tmp_path: Path, *solids: tuple[NDArray[np.float64], NDArray[np.int64]]) -> Path:
    """An object with a mesh; each solid has corners (N, 3; z, y, x) and triangles."""
    vertices = np.concatenate([corners for corners, _ in solids])
    first = np.cumsum([0, *(len(corners) for corners, _ in solids)])
    triangles = np.concatenate([rows + start for (_, rows), start in zip(solids, first[:-1], strict=True)])
    stored = np.column_stack([index_to_model(vertices)] * 2).reshape(-1, 3).astype(">f4")  # normals: anything
    indices = np.array([-25, *(2 * triangles).reshape(-1), -22, -1], dtype=">i4")
    record = {"vsize": len(stored), "lsize": len(indices), "flags": 0}
    chunk = b"MESH" + fields.MESH.pack(record) + stored.tobytes() + indices.tobytes()
    data = encode_model(model_of([("mesh", 0, [])]))
    at = data.index(b"IMAT")
    body = bytearray(data[:at] + chunk + data[at:])
    start = body.index(b"OBJT") + 4 + fields.OBJECT.offsets["meshsize"]
    body[start : start + 4] = (1).to_bytes(4, "big")
    (tmp_path / "mesh.mod").write_bytes(bytes(body))
    return tmp_path / "mesh.mod"


def octahedron(centre: Sequence[float], radius: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    steps = np.concatenate([np.eye(3), -np.eye(3)]) * radius
    return np.asarray(centre) + steps, np.array([(a, b, c) for a in (0, 3) for b in (1, 4) for c in (2, 5)])


def box(low: Sequence[float], high: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    corners = np.array(list(product(*zip(low, high, strict=True))), dtype=float)
    faces = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    return corners, np.array([t for a, b, c, d in faces for t in ((a, b, c), (a, c, d))])


def square(z: float, low: tuple[float, float], high: tuple[float, float]) -> Line:
    (y0, x0), (y1, x1) = low, high
    return np.array([[z, y0, x0], [z, y0, x1], [z, y1, x1], [z, y1, x0]])


def in_parts(region: Region) -> Mask:
    """As the label volume asks: by slabs, and on a crop with a place of its own."""
    whole = region.to_mask(GRID)
    slabs = [region.to_mask(GRID.cropped((z, 0, 0), (min(7, 40 - z), 66, 75))) for z in range(0, 40, 7)]
    assert (np.concatenate(slabs) != whole).sum() <= 3  # of voxels on the very surface rounding decides
    part = region.to_mask(GRID.cropped((9, 20, 31), (11, 30, 27)))
    assert (part != whole[9:20, 20:50, 31:58]).sum() <= 3
    return whole


def test_an_outline_and_what_lies_outside_it(tmp_path: Path) -> None:
    path = written(tmp_path, [square(z, (9.5, 19.5), (49.5, 60.5)) for z in range(6, 31, 4)])
    inside = (Z >= 6) & (Z <= 30) & (Y >= 10) & (Y < 50) & (X >= 20) & (X < 61)
    np.testing.assert_array_equal(in_parts(cytosol_region(path, GRID)), inside)
    outside = (Z >= 6) & (Z <= 30) & ~inside
    np.testing.assert_array_equal(in_parts(cytosol_region(path, GRID, outside=True)), outside)


def test_parts_of_models_and_label_volumes(tmp_path: Path) -> None:
    first = [square(z, (9.5, 9.5), (20.5, 20.5)) for z in (5, 9)]
    second = [square(z, (29.5, 9.5), (40.5, 20.5)) for z in (5, 9)]
    other = square(5, (29.5, 40.5), (40.5, 60.5))
    drawn = [("cell", 0, first), ("a, b", 0, second), ("vesicles", SCATTERED_OBJECT, [other])]
    write_model(tmp_path / "m.mod", model_of(drawn))
    masks = {part: cytosol_region(tmp_path / "m.mod", GRID, part=part).to_mask(GRID) for part in ("cell", "a, b")}
    assert masks["cell"][5, 15, 15] and not masks["cell"][5, 35, 15]
    assert masks["a, b"][5, 35, 15] and not masks["a, b"][5, 15, 15]
    both = masks["cell"] | masks["a, b"]
    for part in ("1,2", None):
        np.testing.assert_array_equal(cytosol_region(tmp_path / "m.mod", GRID, part=part).to_mask(GRID), both)
    with pytest.raises(ModelFileError, match="has no object 'cytoplasm'"):
        cytosol_region(tmp_path / "m.mod", GRID, part="cytoplasm")
    labels = np.where(both, 3, 0).astype(np.uint16) + np.where(masks["cell"], 1, 0).astype(np.uint16)
    write_labels(tmp_path / "l.mrc", Labels(labels, GRID))
    np.testing.assert_array_equal(in_parts(cytosol_region(tmp_path / "l.mrc", GRID, part="3")), masks["a, b"])
    np.testing.assert_array_equal(
        in_parts(cytosol_region(tmp_path / "l.mrc", GRID, part="3", outside=True)), labels != 3
    )
    np.testing.assert_array_equal(
        in_parts(membrane_region(tmp_path / "l.mrc", GRID, part="4", thickness_nm=5)), masks["cell"]
    )
    with pytest.raises(BadInputError, match="empty"):
        cytosol_region(tmp_path / "l.mrc", GRID, part="7")


def test_a_hole_in_an_outline_is_told(tmp_path: Path) -> None:
    """An organelle that is cut out by contours of the same object."""
    outer = [square(z, (9.5, 9.5), (50.5, 60.5)) for z in (5, 9, 13)]
    inner = [square(z, (19.5, 19.5), (30.5, 30.5)) for z in (9, 13)]
    region = cytosol_region(written(tmp_path, outer + inner), GRID)
    mask = in_parts(region)
    assert mask[5, 25, 25] and not mask[9, 25, 25] and mask[9, 15, 15]
    assert notes_of(region) == (f"{tmp_path / 'm.mod'}: contours that lie inside others are holes (slices 10 to 14)",)
    assert notes_of(Outside(region)) == notes_of(region) and not notes_of(
        cytosol_region(written(tmp_path, outer), GRID)
    )


def test_an_outline_on_one_slice_is_no_cytosol(tmp_path: Path) -> None:
    path = written(tmp_path, [square(7, (9.5, 9.5), (20.5, 20.5)), square(7, (30.5, 9.5), (40.5, 20.5))])
    with pytest.raises(BadInputError, match=r"one slice only.*first and the last slice.*slice 8"):
        cytosol_region(path, GRID)


def test_contours_too_far_apart_are_told(tmp_path: Path) -> None:
    """100 nm are 58 slices here, so the slices must be wide: of a coarser tomogram."""
    grid = Grid((40, 66, 75), 5.0)
    lines = [np.array([[z, 10.0, 30.0], [z, 50.0, 30.0]]) for z in (3.0, 15.0, 36.0)]
    model = replace(model_of([("az", FLAG_OPEN, lines)]), pixel_size=5.0)
    write_model(tmp_path / "m.mod", model)
    region = membrane_region(tmp_path / "m.mod", grid, thickness_nm=10.0)
    (note,) = notes_of(region)
    assert "object 'az' is not joined between slices 16 and 37: contours more than 100 nm apart" in note
    mask = region.to_mask(grid)
    assert mask[3:16, 30, 30].all() and not mask[18:34].any()
    write_model(tmp_path / "m.mod", replace(model, objects=model_of([("az", FLAG_OPEN, lines[:2])]).objects))
    assert notes_of(membrane_region(tmp_path / "m.mod", grid, thickness_nm=10.0)) == ()


def test_a_thin_membrane_has_no_slits(tmp_path: Path) -> None:
    y = np.linspace(3, 62, 5)
    for tilt in (0.0, 0.37, 1.0):
        lines = [np.column_stack([np.full(5, z), y, 25 + tilt * (z - 20) + 0.213 * y]) for z in range(4, 36, 3)]
        region = membrane_region(written(tmp_path, lines, FLAG_OPEN), GRID, thickness_nm=1.0)
        mask = region.to_mask(GRID)
        (note,) = notes_of(region)
        assert "3.1 nm thick, not 1: thinner than 1.8 voxels" in note
        inner = ~mask[6:34, 6:60]
        part, _ = label(inner, np.ones((3, 3, 3)))  # no way through it, not over edges and corners either
        assert part[14, 27, 0] and part[14, 27, -1] and part[14, 27, 0] != part[14, 27, -1]
    with pytest.raises(UsageError, match=r"so thick.*at most 30 nm.*31 nm"):
        membrane_region(written(tmp_path, lines, FLAG_OPEN), GRID, thickness_nm=31.0)


def test_labels_and_models_of_another_volume_are_told(tmp_path: Path) -> None:
    labels = np.zeros(GRID.shape_zyx, dtype=np.uint16)
    labels[5:30, 10:50, 10:50] = 1
    for size, told in ((1.7, False), (1.71, False), (1.0, True)):
        write_labels(tmp_path / "l.mrc", Labels(labels, Grid(GRID.shape_zyx, size)), overwrite=True)
        for region in (
            cytosol_region(tmp_path / "l.mrc", GRID),
            cytosol_region(tmp_path / "l.mrc", GRID, outside=True),
        ):
            assert bool(notes_of(region)) == told
            assert all("voxels of 1 nm, the tomogram of 1.7 nm" in note for note in notes_of(region))
    lines = [np.array([[z, 10.0, 30.0], [z, 50.0, 30.0]]) for z in (3.0, 15.0)]
    write_model(tmp_path / "m.mod", replace(model_of([("az", FLAG_OPEN, lines)]), image_size=(75, 80, 40)))
    (note,) = notes_of(membrane_region(tmp_path / "m.mod", GRID, thickness_nm=6.0))
    assert "an image of 75 x 80 x 40 voxels, the tomogram has 75 x 66 x 40" in note


@pytest.mark.parametrize("thickness_nm", [3.4, 5.0, 9.3])
@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("tilt", [0.0, 0.37, -0.93])
def test_a_sheet_is_as_thick_as_asked(tmp_path: Path, thickness_nm: float, every: int, tilt: float) -> None:
    """x = 28 + tilt (z - 20) + 0.213 y, drawn by five points a slice, every other one the other way round."""
    y = np.linspace(3, 62, 5)
    lines = [np.column_stack([np.full(5, z), y, 28 + tilt * (z - 20) + 0.213 * y]) for z in range(4, 36, every)]
    lines = [line[::-1] if i % 2 else line for i, line in enumerate(lines)]
    mask = in_parts(membrane_region(written(tmp_path, lines, FLAG_OPEN), GRID, thickness_nm=thickness_nm))
    along_x = mask[10:26, 12:54].sum(axis=2)
    assert along_x.min() > 0, "there is a hole"
    slanted = np.sqrt(1 + tilt**2 + 0.213**2)
    assert along_x.mean() / slanted == pytest.approx(thickness_nm / 1.7, abs=0.12)
    middle = np.argwhere(mask[10:26, 12:54]) + [10, 12, 0]
    off = (middle[:, 2] - 28 - tilt * (middle[:, 0] - 20) - 0.213 * middle[:, 1]) / slanted
    assert abs(off.mean()) < 0.1 and np.abs(off).max() <= thickness_nm / 3.4 + 0.01
    assert mask.sum() < along_x.mean() * 36 * 64 * 1.2, "it reaches beyond what was drawn"


def test_a_bent_sheet(tmp_path: Path) -> None:
    angles = np.linspace(-1.2, 1.2, 40)
    lines = [
        np.column_stack([np.full(40, z), 33 + 25 * np.sin(angles), 20 + 25 * np.cos(angles)]) for z in range(3, 38, 3)
    ]
    mask = membrane_region(written(tmp_path, lines, FLAG_OPEN), GRID, thickness_nm=6.0).to_mask(GRID)
    radius, angle = np.hypot(Y - 33, X - 20), np.arctan2(Y - 33, X - 20)
    sector = np.broadcast_to((np.abs(angle) < 1.0) & (Z > 8) & (Z < 32), mask.shape)
    area = 2.0 * 25 * 23
    assert (mask & sector).sum() / area == pytest.approx(6.0 / 1.7, abs=0.15)
    deviation = np.broadcast_to(radius, mask.shape)[mask & sector] - 25
    assert abs(deviation.mean()) < 0.1


def test_one_contour_is_a_tube_and_a_closed_one_no_disc(tmp_path: Path) -> None:
    line = np.array([[20.3, 30.2, 5.0], [20.3, 30.2, 70.0]])
    mask = membrane_region(written(tmp_path, [line], FLAG_OPEN), GRID, thickness_nm=10.2).to_mask(GRID)
    assert mask[:, :, 10:60].sum() / 50 == pytest.approx(np.pi * 9, rel=0.05)
    ring = membrane_region(written(tmp_path, [square(20, (10, 10), (50, 60))]), GRID, thickness_nm=5).to_mask(GRID)
    assert ring[20, 30, 10] and ring[20, 10, 30] and ring[20, 30, 60] and ring[20, 50, 30]
    assert not ring[20, 15:45, 15:55].any()


def test_a_closed_mesh_is_a_solid(tmp_path: Path) -> None:
    """An octahedron with a smaller one as hole in it: |z| + |y| + |x| tells what is inside."""
    outer, inner = octahedron((20.2, 30.1, 40.4), 17.3), octahedron((20.2, 30.1, 40.4), 6.15)
    region = cytosol_region(meshed(tmp_path, outer, inner), GRID)
    distance = np.abs(Z - 20.2) + np.abs(Y - 30.1) + np.abs(X - 40.4)
    wanted = (distance < 17.3) & (distance > 6.15)
    mask = in_parts(region)
    assert wanted.sum() > 5000
    np.testing.assert_array_equal(mask, wanted)
    path = meshed(tmp_path, outer)
    np.testing.assert_array_equal(in_parts(cytosol_region(path, GRID, outside=True)), distance >= 17.3)


def test_an_open_mesh_is_no_cytosol(tmp_path: Path) -> None:
    corners, triangles = octahedron((20, 30, 40), 15)
    with pytest.raises(BadInputError, match="not closed"):
        cytosol_region(meshed(tmp_path, (corners, triangles[:-1])), GRID)
    with pytest.raises(BadInputError, match="outline"):
        cytosol_region(written(tmp_path, [square(3, (2, 2), (9, 9))], FLAG_OPEN), GRID)


def test_meshes_as_membrane(tmp_path: Path) -> None:
    corners, triangles = octahedron((20.2, 30.1, 40.4), 16.0)
    for rows in (triangles, triangles[:-1]):  # a closed one that is no sheet, and an open one
        mask = in_parts(membrane_region(meshed(tmp_path, (corners, rows)), GRID, thickness_nm=5.1))
        off = (np.abs(Z - 20.2) + np.abs(Y - 30.1) + np.abs(X - 40.4) - 16.0) / np.sqrt(3)
        face = (Z > 23) & (Y > 33) & (X > 43)  # one of them, away from the edges
        assert (mask & face).sum() > 30 and np.abs(off[mask & face]).max() <= 1.51
        np.testing.assert_array_equal((mask & face)[face & (np.abs(off) < 1.4)], True)
        assert not mask[20, 30, 40]
        assert mask[15, 25, 35] == (len(rows) == 8)  # on the face that is missing
    thin = box((8.2, 10.2, 30.2), (31.7, 55.7, 34.7))
    assert is_closed(thin[0][thin[1]]) and 3 < mean_thickness(MeshSolid(GRID, thin[0][thin[1]])) < 4.5
    mask = membrane_region(meshed(tmp_path, thin), GRID, thickness_nm=5).to_mask(GRID)
    np.testing.assert_array_equal(mask, (Z > 8.2) & (Z < 31.7) & (Y > 10.2) & (Y < 55.7) & (X > 30.2) & (X < 34.7))


def test_what_is_no_membrane(tmp_path: Path) -> None:
    line = np.array([[20.0, 30, 5], [20, 30, 70]])
    with pytest.raises(UsageError, match="thickness"):
        membrane_region(written(tmp_path, [line], FLAG_OPEN), GRID, thickness_nm=0.0)
    for lines, flags, name in (([line], SCATTERED_OBJECT, "clicks"), ([line[:1]], FLAG_OPEN, "az"), ([], 0, "az")):
        with pytest.raises(BadInputError, match="no membrane"):
            membrane_region(written(tmp_path, lines, flags, name), GRID, thickness_nm=5)
    with pytest.raises(BadInputError, match="does not exist"):
        membrane_region(tmp_path / "nothing.mod", GRID, thickness_nm=5)
