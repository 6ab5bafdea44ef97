"""The meshes of a model's objects: their vertices, and their triangles.

Source: IMOD's description of its binary format. A mesh is a list of vertices and normals, and a list of indices into it
in which negative numbers are commands: which kind of polygons begins, where it ends.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from imod_bridge import fields
from imod_bridge.binary import Chunk, is_ascii, read_file, walk

#: Commands of the list of indices: triangles by pairs of normal and vertex, and triangles by vertices alone.
_TRIANGLES_WITH_NORMALS, _TRIANGLES = -23, -25
#: Bits of the mesh's flags that hold its resolution: 0 is the full one.
_RESOLUTION = 0xF << 20


def read_mesh_pieces(path: str | os.PathLike[str]) -> list[list[NDArray[np.float64]]]:
    """The vertices of the meshes of each object, sorted into connected pieces.

    Parameters
    ----------
    path : path
        A binary model; the meshes of one in ASCII form are not read.

    Returns
    -------
    list of lists of float arrays (N, 3)
        For each object its pieces, as x, y, z in pixels, as stored. Each vertex is there once.

    Raises
    ------
    ModelFormatError
        Not a whole, consistent model.
    OSError
        The file cannot be read.
    """
    return [[piece for chunk in chunks for piece in _pieces(chunk)] for chunks in _meshes(path)]


def read_mesh_triangles(path: str | os.PathLike[str]) -> list[NDArray[np.float64]]:
    """The triangles of the meshes of each object.

    Parameters
    ----------
    path : path
        As in `read_mesh_pieces`.

    Returns
    -------
    list of float arrays (N, 3, 3)
        For each object the three corners of its triangles, as x, y, z in pixels, as stored.

    Raises
    ------
    ModelFormatError, OSError
        As `read_mesh_pieces`.
    """
    nothing = np.zeros((0, 3, 3))
    return [
        np.concatenate([nothing, *(places[corners] for places, corners in map(_read, chunks))])
        for chunks in _meshes(path)
    ]


def _meshes(path: str | os.PathLike[str]) -> list[list[Chunk]]:
    """The chunks that hold the meshes of each object."""
    data = read_file(path)
    if is_ascii(data):
        return []
    found: list[list[Chunk]] = []
    for chunk in walk(data):
        if chunk.id == "OBJT":
            found.append([])
        elif chunk.id == "MESH":
            found[-1].append(chunk)
    return found


def _pieces(chunk: Chunk) -> list[NDArray[np.float64]]:
    """Connected pieces of one mesh; none of a mesh of lower resolution."""
    places, corners = _read(chunk)
    if not len(corners):
        return []
    part = _connected(corners, len(places))
    return [places[part == number] for number in range(part.max() + 1)]


def _read(chunk: Chunk) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The places (N, 3) of a mesh and its triangles (M, 3) as numbers of these; none of a mesh of lower resolution."""
    nothing = np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)
    record = fields.MESH.unpack(chunk.payload)
    if record["flags"] & _RESOLUTION:
        return nothing
    count, listed = record["vsize"], record["lsize"]
    start = fields.MESH.size
    vertices = np.frombuffer(chunk.payload, dtype=">f4", count=3 * count, offset=start).reshape(-1, 3)
    indices = np.frombuffer(chunk.payload, dtype=">i4", count=listed, offset=start + 12 * count)
    triangles = _triangles(indices.astype(np.int64))
    triangles = triangles[((triangles >= 0) & (triangles < count)).all(axis=1)]
    if not len(triangles):
        return nothing
    points = vertices.astype(np.float64)
    used = np.unique(triangles)
    places, back = np.unique(points[used], axis=0, return_inverse=True)
    return places, back.reshape(-1)[np.searchsorted(used, triangles)]


def _triangles(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vertex indices (N, 3) of all triangles of a list of indices and commands."""
    commands = np.flatnonzero(indices < 0)
    ends = np.append(commands[1:], len(indices))
    parts = [np.zeros((0, 3), dtype=np.int64)]
    for begin, end in zip(commands, ends, strict=True):
        listed = indices[begin + 1 : end]
        if indices[begin] == _TRIANGLES_WITH_NORMALS:
            listed = listed[1::2]
        elif indices[begin] != _TRIANGLES:
            continue
        parts.append(listed[: len(listed) // 3 * 3].reshape(-1, 3))
    return np.concatenate(parts)


def _connected(triangles: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Number of the connected piece that each of some points is in, through triangles that share corners."""
    part = np.arange(count)
    while True:  # each point takes the lowest number of its triangles, until nothing changes
        lowest = part[triangles].min(axis=1)
        new = part.copy()
        for corner in range(3):
            np.minimum.at(new, triangles[:, corner], lowest)
        new = new[new]
        if (new == part).all():
            return np.unique(part, return_inverse=True)[1].reshape(-1)
        part = new
