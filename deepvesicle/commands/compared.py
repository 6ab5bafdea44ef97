"""What `deepvesicle evaluate` compares: models, tables and label volumes read as spheres on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepvesicle.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepvesicle.annotations import Annotation
    from deepvesicle.grid import Grid
    from deepvesicle.scoring.evaluation import Region
    from deepvesicle.vesicles import Vesicles
    from imod_bridge.model import Model

#: Voxel sizes are taken for equal up to this, as share.
_SAME_SIZE = 0.01
_NAME_SIZE = "Name the tomogram with --tomogram, or give the voxel size in nm with --voxel-size"
#: Unclear shapes named in a warning, at most.
_NAMED = 3
#: Places in tables without a volume are on a grid of this shape until it is known how far they reach.
_NO_SHAPE = (1, 1, 1)


@dataclass(frozen=True)
class Source:
    """A file with vesicles or an outline, and which part of it is meant.

    Parameters
    ----------
    path : Path
    kind : str
        `MODEL`, `TABLE` or `VOLUME` of `deepvesicle.files.kinds`.
    part : str, optional
        Objects of a model, or labels of a volume, as the user named them.
    """

    path: Path
    kind: str
    part: str | None = None

    @property
    def is_model(self) -> bool:
        """Whether it is an IMOD model."""
        from deepvesicle.files.kinds import MODEL

        return self.kind == MODEL

    @property
    def is_table(self) -> bool:
        """Whether it is a table (CSV)."""
        from deepvesicle.files.kinds import TABLE

        return self.kind == TABLE

    @property
    def is_volume(self) -> bool:
        """Whether it is a label volume."""
        from deepvesicle.files.kinds import VOLUME

        return self.kind == VOLUME


@dataclass(frozen=True)
class LabelOptions:
    """What the labels of a volume stand for."""

    membrane_id: int | None = None
    cytosol_id: int | None = None
    classes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two tables.

    Parameters
    ----------
    vesicles : Vesicles
    unclear : int array (N,)
        Rows that count neither for nor against, as what was drawn is no sphere: the number of the shape, the same for
        all spheres that cover it; 0 for vesicles.
    notes : tuple of str
        What the user should look at.
    """

    vesicles: Vesicles
    unclear: NDArray[Any]
    notes: tuple[str, ...] = ()


def source_of(
    text: str, expected: str = "an IMOD model (.mod), a table of vesicles (.csv) or a label volume (.mrc)"
) -> Source:
    """Understand ``FILE`` or ``FILE:PART``; `expected` are the kinds that are of use, for the message.

    Raises
    ------
    BadInputError
        There is no such file, or it is of no kind that is understood.
    """
    from deepvesicle.files.kinds import kind_of

    name, _, part = text.rpartition(":")
    whole = Path(text).exists() or not name
    path = Path(text) if whole else Path(name)
    kind = kind_of(path, expected)
    return Source(path, kind, None if whole else part)


def grid_of(sides: Sequence[Source], outline: Source | None, tomogram: Path | None, voxel_nm: float | None) -> Grid:
    """The grid that all is compared on: of the tomogram, else of what knows the volume best.

    Label volumes know it, models know its size and mostly the voxel size, tables the voxel size alone: then the shape
    is that of one voxel (see `on_common_shape`). The voxel size is that of both sides, which must agree; the outline
    is asked where they tell none.

    Raises
    ------
    BadInputError, UsageError
        A file that cannot be used, volumes that do not belong together, or no voxel size anywhere.
    """
    from deepvesicle.files.tomogram import read_header
    from deepvesicle.grid import Grid

    if tomogram is not None:
        return read_header(tomogram).grid(voxel_nm)
    sources = [*sides, *([outline] if outline else [])]
    volumes = [read_header(source.path) for source in sources if source.is_volume]
    for volume in volumes[1:]:
        if volume.shape_zyx != volumes[0].shape_zyx:
            raise BadInputError(
                f"{volumes[0].path} and {volume.path} do not belong to one tomogram",
                expected="volumes of the same size",
                got=f"{_size(volumes[0].shape_zyx)} and {_size(volume.shape_zyx)} voxels (x, y, z)",
            )
    known = voxel_nm or _agreed_voxel_nm(sides) or (_voxel_nm(outline) if outline else None)
    if volumes:
        return volumes[0].grid(known)  # says what is wrong with its voxel size if none is known
    if known is None:
        names = " and ".join(dict.fromkeys(str(source.path) for source in sources))
        raise UsageError(f"the voxel size of {names} is not known", remedy=_NAME_SIZE)
    shape = next((shape for shape in map(_shape_zyx, sources) if shape), _NO_SHAPE)
    return Grid(shape, known)


def _size(shape_zyx: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape_zyx[::-1])


def _agreed_voxel_nm(sides: Sequence[Source]) -> float | None:
    """The voxel size that both sides tell, nm; None where neither does."""
    told = {source.path: size for source in sides if (size := _voxel_nm(source))}
    if told and max(told.values()) > (1 + _SAME_SIZE) * min(told.values()):
        names = " and ".join(str(path) for path in told)
        sizes = " and ".join(f"{size:.4g}" for size in told.values())
        raise UsageError(f"{names} have different voxel sizes", got=f"{sizes} nm", remedy=_NAME_SIZE)
    return next(iter(told.values()), None)


def _voxel_nm(source: Source) -> float | None:
    """The voxel size that a file tells, nm; None where that cannot be right."""
    from deepvesicle.errors import VoxelSizeError
    from deepvesicle.files.imod import read_model_of
    from deepvesicle.files.tables import voxel_nm_of_csv
    from deepvesicle.files.tomogram import read_header
    from deepvesicle.grid import VOXEL_NM_RANGE

    if source.is_volume:
        try:
            return read_header(source.path).grid().voxel_nm
        except VoxelSizeError:
            return None
    size = voxel_nm_of_csv(source.path) if source.is_table else read_model_of(source.path).pixel_size_nm
    low, high = VOXEL_NM_RANGE
    return size if size is not None and low <= size <= high else None


def voxel_size_notes(sides: Sequence[Source], outline: Source | None, grid: Grid) -> list[str]:
    """What to say of files that tell another voxel size than the one that is used; see `read_side` for models."""
    sources = [source for source in sides if not source.is_model] + ([outline] if outline else [])
    told = ((source, _voxel_nm(source)) for source in sources)
    return [
        f"{source.path} says that voxels have {size:.4g} nm, not {grid.voxel_nm:.4g} nm: its coordinates are taken as "
        "voxels all the same"
        for source, size in told
        if size is not None and abs(size / grid.voxel_nm - 1) > _SAME_SIZE
    ]


def _shape_zyx(source: Source) -> tuple[int, int, int] | None:
    """The size of the image that a model was drawn on."""
    from deepvesicle.files.imod import read_model_of
    from imod_bridge.coordinates import image_shape_zyx

    if not source.is_model:
        return None
    shape = image_shape_zyx(read_model_of(source.path))
    return shape if min(shape) > 0 else None


def read_side(source: Source, grid: Grid, options: LabelOptions, outline: Source | None) -> Side:
    """Read one of the two tables; rows that stand for no sphere, and rejected ones, are left out.

    Raises
    ------
    BadInputError
        The file cannot be used.
    """
    import numpy as np

    from deepvesicle.annotations.annotation import joined
    from deepvesicle.files.tables import read_spheres_csv
    from deepvesicle.marks import lacks_sphere
    from deepvesicle.vesicles import Status

    if source.is_table:
        if source.part is not None:
            raise UsageError(f"{source.path} is a table", expected="nothing after its name", got=f":{source.part}")
        found = _no_annotation(read_spheres_csv(source.path, grid))
    elif source.is_model:
        found = read_drawn_model(source, grid, _inner(outline, source))
    else:
        found = _read_labels(source, grid, options, _inner(outline, source))
    table = joined([found.vesicles, found.unclear])
    shapes = found.unclear.features.get("shape", np.arange(1.0, len(found.unclear) + 1))
    unclear = np.concatenate([np.zeros(len(found.vesicles)), shapes]).astype(np.int64)
    counts = ~(lacks_sphere(table.features, len(table)) | table.has_status(Status.REJECTED))
    notes = [*found.notes, *_unclear_note(found.unclear, shapes)]
    return Side(table.select(counts), unclear[counts], tuple(f"{source.path}: {note}" for note in notes))


def _unclear_note(unclear: Vesicles, shapes: NDArray[Any]) -> list[str]:
    """Which shapes are no spheres, and why; nothing if there are none."""
    import numpy as np

    rows = np.unique(shapes, return_index=True)[1]
    if not len(rows):
        return []
    told = [f"{_drawn_as(unclear, row)}: {unclear.reasons[row]}" for row in rows[:_NAMED]]
    told += [f"and {len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    verb = "is no sphere, and counts" if len(rows) == 1 else "are no spheres, and count"
    return [f"{several(len(rows), 'shape')} {verb} neither for nor against: {'; '.join(told)}"]


def _drawn_as(unclear: Vesicles, row: int) -> str:
    """Where something was drawn: its label, or its object and contour, and the place as 3dmod counts, from 1."""
    import numpy as np

    drawn = {name: unclear.features[name][row] for name in ("label", "object", "contour") if name in unclear.features}
    named = ", ".join(f"{name} {int(number)}" for name, number in drawn.items() if np.isfinite(number))
    z, y, x = np.rint(unclear.centres_vox[row]).astype(int) + 1
    return f"{named} at x {x}, y {y}, z {z}".strip()


def several(number: int, thing: str) -> str:
    """A number of things, in words: "1 vesicle", "2 vesicles"."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _no_annotation(vesicles: Vesicles, notes: Sequence[str] = ()) -> Annotation:
    """A table in which nothing is unclear."""
    from deepvesicle.annotations import Annotation
    from deepvesicle.vesicles import Vesicles

    return Annotation(vesicles, Vesicles.empty(vesicles.grid), notes=tuple(notes))


def read_drawn_model(source: Source, grid: Grid, outline: Source | None) -> Annotation:
    """Spheres of a model, the program's own as they are; `outline` names objects of the same file that are none."""
    from deepvesicle.annotations.frames import frame_notes
    from deepvesicle.files.imod import OUR_OBJECTS, frame_on, read_model_of, read_vesicles_model

    model = read_model_of(source.path)
    names = {item.name for item in model.objects}
    ours = _chosen_of_ours(source, model)
    if ours or (source.part is None and names & set(OUR_OBJECTS)):
        table = read_vesicles_model(source.path, grid, objects=ours or None)
        return _no_annotation(table, frame_notes(model, frame_on(source.path, model, grid), grid))
    from deepvesicle.annotations import annotation_of_model

    return annotation_of_model(
        source.path,
        model,
        grid,
        vesicles=chosen_objects(source, model),
        outline=() if outline is None else chosen_objects(outline, model),
    )


def _chosen_of_ours(source: Source, model: Model) -> list[int]:
    """The objects that are meant, if all of them are the program's own spheres: these keep ids and status."""
    from deepvesicle.annotations.models import picked
    from deepvesicle.files.imod import STATUS_OF_OBJECT

    rows = picked(source.path, model, chosen_objects(source, model))
    items = [model.objects[row] for row in rows]
    return rows if all(item.name in STATUS_OF_OBJECT and item.is_scattered for item in items) else []


def chosen_objects(source: Source, model: Model) -> Sequence[str]:
    """Names or numbers of the objects that are meant; none for all of them."""
    if source.part is None:
        return ()
    names = {item.name for item in model.objects}
    return (source.part,) if source.part in names else tuple(part.strip() for part in source.part.split(","))


def _inner(outline: Source | None, source: Source) -> Source | None:
    """The outline, if it is a part of this file."""
    return outline if outline and outline.part is not None and outline.path.samefile(source.path) else None


def read_limits(outline: Source, grid: Grid) -> Region:
    """Read what limits the evaluation.

    Raises
    ------
    BadInputError, UsageError
        The file cannot be used, or it marks nothing.
    """
    from deepvesicle.annotations.models import picked
    from deepvesicle.files.imod import outline_of, read_model_of
    from deepvesicle.files.region import read_region

    if outline.is_table:
        raise UsageError(f"--outline {outline.path} is a table", expected="an IMOD model or a label volume")
    if outline.is_volume:
        return read_region(outline.path, grid, outline.part)
    model = read_model_of(outline.path)
    rows = picked(outline.path, model, chosen_objects(outline, model)) or range(len(model.objects))
    return outline_of(outline.path, model, [model.objects[row] for row in rows], grid)


def _read_labels(source: Source, grid: Grid, options: LabelOptions, outline: Source | None) -> Annotation:
    from deepvesicle.files.tomogram import read_labels

    wanted = None if source.part is None else numbers(source.part, f"{source.path}:{source.part}")
    labels = read_labels(source.path, grid)
    from deepvesicle.annotations import annotation_of_labels

    return annotation_of_labels(
        labels,
        grid,
        vesicle_ids=wanted,
        membrane_id=options.membrane_id,
        cytosol_id=options.cytosol_id,
        classes=options.classes,
        outline_ids=() if outline is None else numbers(outline.part or "", "--outline"),
    )


def numbers(text: str, name: str) -> tuple[int, ...]:
    """Labels with commas between them.

    Raises
    ------
    UsageError
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{name} names no labels", expected="numbers from 1, with commas between them")
    return tuple(int(part) for part in parts)


def on_common_shape(sides: Sequence[Side]) -> list[Side]:
    """Where no file told the size of the volume, take one that holds all spheres."""
    import numpy as np

    grid = sides[0].vesicles.grid
    if grid.shape_zyx != _NO_SHAPE:
        return list(sides)
    ends = [np.ceil(s.vesicles.centres_vox + s.vesicles.radii_vox[:, None]).astype(int) + 1 for s in sides]
    z, y, x = np.maximum(np.concatenate([*ends, [[1, 1, 1]]]).max(axis=0), 1)
    covering = replace(grid, shape_zyx=(int(z), int(y), int(x)))
    return [replace(side, vesicles=side.vesicles.replace(grid=covering)) for side in sides]


def has_volume(grid: Grid) -> bool:
    """Whether the size of the volume is known."""
    return grid.shape_zyx != _NO_SHAPE
