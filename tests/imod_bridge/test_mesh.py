"""Meshes: their vertices come out piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.annotations import read_annotation
from deepvesicle.grid import Grid
from imod_bridge import fields
from imod_bridge.coordinates import index_to_model
from imod_bridge.mesh import read_mesh_pieces, read_mesh_triangles
from imod_bridge.model import Model, Object, encode_model


def icosphere(centre: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (x, y, z) and triangles of an octahedron, divided twice."""
    points = [np.array(p, dtype=float) for p in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))]
    triangles = [(a, b, c) for a in (0, 1) for b in (2, 3) for c in (4, 5)]
    for _ in range(2):
        finer = []
        for a, b, c in triangles:
            middle = []
            for p, q in ((a, b), (b, c), (c, a)):
                points.append((points[p] + points[q]) / np.linalg.norm(points[p] + points[q]))
                middle.append(len(points) - 1)
            ab, bc, ca = middle
            finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        triangles = finer
    return centre + radius * np.array(points), np.array(triangles)


def mesh_chunk(spheres: list[tuple[np.ndarray, float]], command: int, flags: int = 0) -> bytes:
    """``MESH``: vertices and normals in turn, and the triangles of one polygon list."""
    vertices, indices = [], [command]
    for centre, radius in spheres:
        points, triangles = icosphere(index_to_model(centre)[0], radius)
        first = 2 * sum(len(v) for v in vertices)
        vertices.append(points)
        for index in (2 * triangles + first).reshape(-1):
            indices += [int(index) + 1, int(index)] if command == -23 else [int(index)]
    pairs = np.concatenate([np.column_stack([v, v]).reshape(-1, 3) for v in vertices]).astype(">f4")
    indices += [-22, -1]
    record = {"vsize": len(pairs), "lsize": len(indices), "flags": flags}
    return b"MESH" + fields.MESH.pack(record) + pairs.tobytes() + np.array(indices, dtype=">i4").tobytes()


def with_meshes(*chunks: bytes) -> bytes:
    data = encode_model(Model(objects=(Object("meshed"),), image_size=(80, 70, 60), pixel_size=2.0, units=-9))
    at = data.index(b"IMAT")
    size = data[: data.index(b"OBJT")]
    body = bytearray(size + data[len(size) : at] + b"".join(chunks) + data[at:])
    start = body.index(b"OBJT") + 4 + fields.OBJECT.offsets["meshsize"]
    body[start : start + 4] = len(chunks).to_bytes(4, "big")
    return bytes(body)


@pytest.mark.parametrize("command", [-25, -23])
def test_two_balls_in_one_mesh_are_two_vesicles(tmp_path: Path, command: int) -> None:
    balls = [(np.array([20.0, 30.0, 25.0]), 10.0), (np.array([30.5, 45.2, 60.1]), 12.0)]
    (tmp_path / "m.mod").write_bytes(with_meshes(mesh_chunk(balls, command), mesh_chunk(balls, command, 1 << 20)))
    (pieces,) = read_mesh_pieces(tmp_path / "m.mod")
    assert sorted(len(piece) for piece in pieces) == [66, 66]
    vesicles = read_annotation(tmp_path / "m.mod", Grid((60, 70, 80), 2.0)).vesicles
    order = np.argsort(vesicles.radii_vox)
    np.testing.assert_allclose(vesicles.radii_vox[order], [10, 12], atol=1e-3)
    np.testing.assert_allclose(vesicles.centres_vox[order], [centre for centre, _ in balls], atol=1e-3)


@pytest.mark.parametrize("command", [-25, -23])
def test_triangles_are_those_of_the_mesh(tmp_path: Path, command: int) -> None:
    balls = [(np.array([20.0, 30.0, 25.0]), 10.0), (np.array([30.5, 45.2, 60.1]), 12.0)]
    (tmp_path / "m.mod").write_bytes(with_meshes(mesh_chunk(balls, command), mesh_chunk(balls, command, 1 << 20)))
    (triangles,) = read_mesh_triangles(tmp_path / "m.mod")
    drawn = [icosphere(index_to_model(centre)[0], radius) for centre, radius in balls]
    wanted = np.concatenate([points[rows] for points, rows in drawn])
    assert triangles.shape == wanted.shape == (256, 3, 3)

    def in_order(corners: np.ndarray) -> np.ndarray:
        """Corners and triangles in an order that does not depend on the file's."""
        rows = np.array([sorted(triangle) for triangle in np.round(corners, 4).tolist()]).reshape(len(corners), -1)
        return rows[np.lexsort(rows.T)]

    np.testing.assert_allclose(in_order(triangles), in_order(wanted), atol=2e-4)


def test_real_meshes(shared_data: Callable[[str], Path]) -> None:
    pieces = read_mesh_pieces(shared_data("imod_models/meshed_curvature_example.mod"))
    assert [len(piece) for of_object in pieces for piece in of_object] == [129, 89]
    tubes = read_mesh_pieces(shared_data("imod_models/meshed_contour_example.mod"))
    assert len(tubes[0]) == 67
