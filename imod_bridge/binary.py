"""The chunks of a binary IMOD file: walked, checked and put together again without loss.

A file that is cut short makes IMOD's own programs, and `imodmodel`, loop for ever. Hence every file passes `walk`
before anything else sees it: it reads each byte once, trusts no count before the bytes are there, and allocates in
proportion to the file's own size.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from imod_bridge import fields
from imod_bridge.errors import ModelFormatError

HEADER_ID = "IMOD"
_HEADER_SIZE = len(fields.MAGIC) + fields.MODEL_HEADER.size
_ID_SIZE = 4
#: Chunks without a size of their own: their length follows from the record.
_UNSIZED = ("OBJT", "CONT", "MESH", "IEOF")
#: What a chunk must follow within its object.
_PARENT = {
    "CONT": "OBJT",
    "MESH": "OBJT",
    "SIZE": "CONT",
    "COST": "CONT",
    "MEST": "MESH",
    "IMAT": "OBJT",
    "OBST": "OBJT",
}
#: imodmodel 0.1.0 declares these sizes, but writes the usual payload; IMOD, which ignores them, reads such files.
_WRONGLY_DECLARED = {("IMAT", 48): fields.MATERIAL.size, ("SLAN", 48): 60}
#: What is read of a file before it is clear that it is a model, bytes.
_START_SIZE = 512
_INT = struct.Struct(">i")


@dataclass(frozen=True)
class Chunk:
    """A piece of a model file.

    Parameters
    ----------
    id : str
        Four characters; the file's header is the chunk ``IMOD``.
    offset : int
        Where it starts in the file, bytes.
    data : bytes
        All its bytes: id, size where it has one, and payload.
    """

    id: str
    offset: int
    data: bytes

    @property
    def payload(self) -> bytes:
        """The bytes after the id, and after the size where the chunk has one."""
        if self.id == HEADER_ID:
            return self.data[len(fields.MAGIC) :]
        return self.data[_ID_SIZE if self.id in _UNSIZED else _ID_SIZE + _INT.size :]


def sized_chunk(chunk_id: str, payload: bytes) -> bytes:
    """The bytes of a chunk that carries its size."""
    return chunk_id.encode("ascii") + _INT.pack(len(payload)) + payload


def walk(data: bytes) -> list[Chunk]:
    """Split a binary IMOD file into its chunks and check that they are whole and agree with one another.

    Parameters
    ----------
    data : bytes
        The whole file.

    Returns
    -------
    list of Chunk
        In file order, from the header to the end mark; their `data` joined is the file, byte for byte.

    Raises
    ------
    ModelFormatError
        Not an IMOD file, cut short, without end mark, or with counts that contradict its content.
    """
    check_magic(data[: len(fields.MAGIC)])
    if len(data) < _HEADER_SIZE:
        raise ModelFormatError(f"the file ends within its header, after {len(data)} of {_HEADER_SIZE} bytes")
    chunks = [Chunk(HEADER_ID, 0, data[:_HEADER_SIZE])]
    position = _HEADER_SIZE
    while chunks[-1].id != "IEOF":
        chunk_id = _chunk_id(data, position)
        length = _chunk_length(data, position, chunk_id)
        if length > len(data) - position:
            raise ModelFormatError(
                f"the chunk {chunk_id} at byte {position} needs {length} bytes, "
                f"but the file ends {len(data) - position} bytes on"
            )
        chunks.append(Chunk(chunk_id, position, data[position : position + length]))
        position += length
    if position != len(data):
        raise ModelFormatError(f"{len(data) - position} bytes follow the end mark at byte {position - _ID_SIZE}")
    _check_tree(chunks)
    return chunks


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a model file, binary or ASCII; a file of another kind is refused by its start, however large.

    Raises
    ------
    ModelFormatError
        Neither a binary IMOD file nor something that looks like one in ASCII form. The rest is not checked.
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(_START_SIZE)
        if not is_ascii(start):
            check_magic(start[: len(fields.MAGIC)])
        return start + file.read()


def read_chunks(path: str | os.PathLike[str]) -> list[Chunk]:
    """Read a binary file and `walk` it.

    Raises
    ------
    ModelFormatError
        As `walk`.
    OSError
        The file cannot be read.
    """
    return walk(read_file(path))


def check_magic(magic: bytes) -> None:
    """Refuse a file by its first eight bytes.

    Raises
    ------
    ModelFormatError
        The file is empty, an ASCII model, or anything else than a binary IMOD model of version 1.2.
    """
    if magic == fields.MAGIC:
        return
    if not magic:
        raise ModelFormatError("the file is empty")
    if fields.MAGIC.startswith(magic):
        raise ModelFormatError(f"the file ends within its header, after {len(magic)} of {_HEADER_SIZE} bytes")
    if is_ascii(magic):
        raise ModelFormatError("it looks like an IMOD model in ASCII form, not a binary one")
    raise ModelFormatError(f"it starts with {magic!r} instead of {fields.MAGIC!r}")


def is_ascii(data: bytes) -> bool:
    """Whether a file, or its first bytes, look like a model in IMOD's ASCII form: ``imod``, or a comment before it."""
    start = data[:_START_SIZE]
    if b"\0" in start:  # an image's first byte may be a #
        return False
    start = start.lstrip()
    return start[:1] == b"#" or (start[:4].lower() == b"imod" and start[4:5].isspace())


def write_atomically(path: str | os.PathLike[str], data: bytes, *, backup: bool = False) -> None:
    """Write a file so that it is seen either as it was or complete: temporary file beside it, fsync, rename.

    A link is followed; the mode of a file that is replaced is kept.

    Parameters
    ----------
    path : path
    data : bytes
        The file's new content.
    backup : bool
        Keep the file that is replaced under its name with ``~``, as IMOD does, beside the file itself where `path` is a
        link. An older backup is replaced. The file is there and whole at every moment: it is not renamed away first.

    Raises
    ------
    OSError
        The file, or its backup, cannot be written; the file is then as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary_beside(target)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            if backup:
                _keep_backup(target)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _keep_backup(target: Path) -> None:
    """Give the present content of a file a second name, with ``~``: a hard link, or a copy where there are none."""
    temporary = _temporary_beside(target)
    try:
        try:
            os.link(target, temporary)
        except OSError:
            shutil.copy2(target, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target.with_name(target.name + "~"))
    finally:
        # Renaming a link onto another link to the same file does nothing: then the temporary name is still there.
        temporary.unlink(missing_ok=True)


def _temporary_beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power failure, where the system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _chunk_id(data: bytes, position: int) -> str:
    """The id of the chunk at a place; anything that cannot be one means that a size before it was wrong."""
    raw = data[position : position + _ID_SIZE]
    if len(raw) < _ID_SIZE:
        raise ModelFormatError(f"the file ends at byte {len(data)} without the end mark IEOF: it is cut short")
    if not all(0x21 <= byte <= 0x7E for byte in raw):
        raise ModelFormatError(f"no chunk starts at byte {position}, where one must: got {raw!r}")
    return raw.decode("ascii")


def _chunk_length(data: bytes, position: int, chunk_id: str) -> int:
    """All bytes of the chunk at a place, as it declares them; the bytes may not be there."""
    if chunk_id == "IEOF":
        return _ID_SIZE
    start = position + _ID_SIZE
    record = {"OBJT": fields.OBJECT, "CONT": fields.CONTOUR, "MESH": fields.MESH}.get(chunk_id)
    needed = record.size if record else _INT.size
    if needed > len(data) - start:
        raise ModelFormatError(f"the file ends within the chunk {chunk_id} that starts at byte {position}")
    if record is None:
        size = int(_INT.unpack_from(data, start)[0])
        _check_count(size, chunk_id, "size", position)
        return _ID_SIZE + _INT.size + _WRONGLY_DECLARED.get((chunk_id, size), size)
    length = _ID_SIZE + record.size
    if chunk_id == "CONT":
        length += 12 * _check_count(record.get(data, "psize", start), chunk_id, "number of points", position)
    elif chunk_id == "MESH":
        length += 12 * _check_count(record.get(data, "vsize", start), chunk_id, "number of vertices", position)
        length += 4 * _check_count(record.get(data, "lsize", start), chunk_id, "number of indices", position)
    return length


def _check_count(count: int, chunk_id: str, what: str, position: int) -> int:
    if count < 0:
        raise ModelFormatError(f"the chunk {chunk_id} at byte {position} has an impossible {what}: {count}")
    return count


def _check_tree(chunks: list[Chunk]) -> None:
    """Check that chunks stand where they belong and that declared numbers agree with what is there."""
    declared = fields.MODEL_HEADER.get(chunks[0].payload, "objsize")
    objects = [i for i, chunk in enumerate(chunks) if chunk.id == "OBJT"]
    if declared != len(objects):
        raise ModelFormatError(f"the header declares {declared} objects, but there are {len(objects)}")
    ends = [*objects[1:], len(chunks)]
    for number, (start, end) in enumerate(zip(objects, ends, strict=False), start=1):
        for chunk_id, field_name, what in (("CONT", "contsize", "contours"), ("MESH", "meshsize", "meshes")):
            declared = fields.OBJECT.get(chunks[start].payload, field_name)
            present = sum(chunk.id == chunk_id for chunk in chunks[start:end])
            if declared != present:
                raise ModelFormatError(f"object {number} declares {declared} {what}, but has {present}")
    seen: dict[str, Chunk] = {}
    for chunk in chunks:
        parent = _PARENT.get(chunk.id)
        if parent is not None and parent not in seen:
            raise ModelFormatError(f"the chunk {chunk.id} at byte {chunk.offset} does not follow any {parent}")
        if chunk.id == "OBJT":
            seen.pop("CONT", None)
            seen.pop("MESH", None)
        seen[chunk.id] = chunk
        _check_payload(chunk, seen)


def _check_payload(chunk: Chunk, seen: dict[str, Chunk]) -> None:
    """Check the size of a chunk whose content is known."""
    size = len(chunk.payload)
    good, wanted = True, ""
    if chunk.id == "SIZE":
        points = fields.CONTOUR.get(seen["CONT"].payload, "psize")
        good, wanted = size == 4 * points, f"{4 * points}, 4 for each point of its contour"
    elif chunk.id in ("COST", "OBST", "MEST", "MOST"):
        good, wanted = size % fields.STORE_ITEM.size == 0, f"a multiple of {fields.STORE_ITEM.size}"
    elif chunk.id == "IMAT":
        # Files of old versions of IMOD have a shorter one.
        good, wanted = size > fields.MATERIAL.offsets["quality"], f"{fields.MATERIAL.size}"
    elif chunk.id == "MINX":
        good, wanted = size == fields.IMAGE_REFERENCE_SIZE, f"{fields.IMAGE_REFERENCE_SIZE}"
    if not good:
        raise ModelFormatError(f"the chunk {chunk.id} at byte {chunk.offset} holds {size} bytes, expected {wanted}")
