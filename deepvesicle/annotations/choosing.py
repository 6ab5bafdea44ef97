"""What of models, label volumes and tables is meant, as the user picks it, and all of it read as one annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deepvesicle.annotations.annotation import Annotation, merged
from deepvesicle.annotations.frames import volume_notes
from deepvesicle.annotations.labels import annotation_of_labels
from deepvesicle.annotations.models import annotation_of_model, picked
from deepvesicle.annotations.table import annotation_of_table
from deepvesicle.errors import ModelFileError, UsageError
from deepvesicle.files.drawn import is_removing
from deepvesicle.files.imod import OBJECT_OF_STATUS, outline_of, read_model_of
from deepvesicle.files.kinds import MODEL, VOLUME, kind_of
from deepvesicle.files.region import read_region
from deepvesicle.files.tomogram import read_labels
from deepvesicle.grid import Grid
from deepvesicle.marks import NOT_FITTED
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import Model

#: What holds annotations, in words.
EXPECTED = "an IMOD model (.mod), a label volume (.mrc) or a table of vesicles (.csv)"
#: Objects of models of this program that hold no vesicles, besides those that remove some.
NO_VESICLES = (OBJECT_OF_STATUS[Status.REJECTED][0], OBJECT_OF_STATUS[Status.PROPOSED][0], NOT_FITTED)


@dataclass(frozen=True)
class Choice:
    """What of the files is meant, and how.

    Parameters
    ----------
    vesicles, outline : tuple of str
        Objects of models, by name or number from 1; by default all objects are vesicles, except outlines, and those
        of this program's models that hold none. For label volumes a number in `outline` is the label of the region.
    masks : tuple of (Path, str or None)
        Outlines in files of their own, and which object or label of each.
    vesicle_ids : tuple of int
        Labels that are vesicles, one each; by default all that nothing else is said of.
    membrane_id, cytosol_id : int, optional
        Labels of the membrane and of the rest of the analysed region in Pyto's volumes.
    classes : tuple of int
        Labels that are kinds of voxels (membrane, lumen): connected pieces of all of them are the vesicles.
    discs : bool
        Labels are discs through the middle of the vesicles.
    pyto_rounding : bool
        Centres and radii of discs rounded as Pyto does.
    """

    vesicles: tuple[str, ...] = ()
    outline: tuple[str, ...] = ()
    masks: tuple[tuple[Path, str | None], ...] = ()
    vesicle_ids: tuple[int, ...] = ()
    membrane_id: int | None = None
    cytosol_id: int | None = None
    classes: tuple[int, ...] = ()
    discs: bool = False
    pyto_rounding: bool = False

    @property
    def for_labels(self) -> tuple[str, ...]:
        """The options that say something of label volumes alone."""
        given = {
            "--vesicle-ids": self.vesicle_ids,
            "--membrane-id": self.membrane_id is not None,
            "--cytosol-id": self.cytosol_id is not None,
            "--classes": self.classes,
        }
        return tuple(name for name, value in given.items() if value)

    def to_json(self) -> dict[str, Any]:
        """What was said, without what was not."""
        content = {name: value for name, value in asdict(self).items() if value not in ((), None, False)}
        if self.masks:
            content["masks"] = [str(path) if part is None else f"{path}:{part}" for path, part in self.masks]
        return content


def read_annotations(paths: Sequence[Path], grid: Grid, choice: Choice) -> Annotation:
    """Read models, label volumes and tables of one tomogram, and put together what they say.

    Parameters
    ----------
    paths : sequence of Path
    grid : Grid
        The tomogram's.
    choice : Choice

    Raises
    ------
    BadInputError
        A file that cannot be used, or without the objects that were named.
    UsageError
        Options that mean nothing to these files.
    """
    kinds = {path: kind_of(path, EXPECTED) for path in paths}
    models = {path: read_model_of(path) for path in paths if kinds[path] == MODEL}
    volumes = [path for path in paths if kinds[path] == VOLUME]
    _check_choice(choice, paths, list(models), volumes)
    labels = [int(text) for text in choice.outline if text.isdecimal()] if volumes else []
    outline = _owners(models, [text for text in choice.outline if not (volumes and text.isdecimal())])
    vesicles = _owners(models, choice.vesicles)
    parts = []
    for path in paths:
        if path in models:
            parts.append(_of_model(path, models[path], grid, choice, vesicles[path], outline[path]))
        elif path in volumes:
            parts.append(_of_labels(path, grid, choice, labels))
        else:
            parts.append(annotation_of_table(path, grid))
        part = parts[-1]
        if len(paths) > 1 and not (len(part.vesicles) or len(part.unclear) or part.region):
            parts[-1] = replace(part, notes=(*part.notes, f"{path} says nothing of vesicles"))
    masks = [
        Annotation(
            Vesicles.empty(grid),
            Vesicles.empty(grid),
            read_region(path, grid, part),
            tuple(volume_notes(path, grid)) if kind_of(path, EXPECTED) == VOLUME and path not in volumes else (),
        )
        for path, part in choice.masks
    ]
    return merged([*parts, *masks])


def _check_choice(choice: Choice, paths: Sequence[Path], models: Sequence[Path], volumes: Sequence[Path]) -> None:
    """Refuse options that mean nothing to the files that there are."""
    if choice.for_labels and not volumes:
        raise UsageError(f"{choice.for_labels[0]} is for label volumes", got=f"only {', '.join(map(str, paths))}")
    if choice.vesicles and not models:
        raise UsageError(
            "--vesicles picks objects of models",
            got=f"{paths[0]}",
            remedy="Give labels with --vesicle-ids" if volumes else "Leave it out",
        )
    words = [text for text in choice.outline if not text.isdecimal()]
    if words and not models:
        raise UsageError(
            f"--outline {words[0]} is no label and no file", expected="the number of a label, or a file with an outline"
        )


def _owners(models: Mapping[Path, Model], names: Sequence[str]) -> dict[Path, list[str]]:
    """Which of the names, or numbers, of objects each model has.

    Raises
    ------
    ModelFileError
        No model has one of them.
    """
    owned: dict[Path, list[str]] = {path: [] for path in models}
    for name in names:
        errors: list[ModelFileError] = []
        for path, model in models.items():
            try:
                picked(path, model, [name])
            except ModelFileError as error:
                errors.append(error)
            else:
                owned[path].append(name)
        if len(errors) == len(models):
            first = errors[0]
            raise (
                first
                if len(errors) == 1
                else ModelFileError(
                    f"none of the models has an object {name!r}",
                    got="; ".join(f"{path}: {error.got}" for path, error in zip(models, errors, strict=True)),
                )
            )
    return owned


def _of_model(
    path: Path, model: Model, grid: Grid, choice: Choice, vesicles: Sequence[str], outline: Sequence[str]
) -> Annotation:
    """What a model says; nothing but its outline where none of its objects holds vesicles."""
    edges = picked(path, model, outline)
    if not vesicles and not choice.vesicles:
        rows = [
            row
            for row, item in enumerate(model.objects)
            if row not in edges and item.name not in NO_VESICLES and not is_removing(item.name)
        ]
        vesicles = [str(row + 1) for row in rows] if len(rows) + len(edges) < len(model.objects) else []
        outline_alone = not rows
    else:
        outline_alone = not vesicles
    if outline_alone:
        region = outline_of(path, model, [model.objects[row] for row in edges], grid) if edges else None
        return Annotation(Vesicles.empty(grid), Vesicles.empty(grid), region)
    return annotation_of_model(
        path,
        model,
        grid,
        vesicles=vesicles,
        outline=outline,
        discs=choice.discs,
        pyto_rounding=choice.pyto_rounding,
    )


def _of_labels(path: Path, grid: Grid, choice: Choice, outline_ids: Sequence[int]) -> Annotation:
    annotation = annotation_of_labels(
        read_labels(path, grid),
        grid,
        vesicle_ids=choice.vesicle_ids or None,
        membrane_id=choice.membrane_id,
        cytosol_id=choice.cytosol_id,
        classes=choice.classes,
        outline_ids=outline_ids,
        discs=choice.discs,
        pyto_rounding=choice.pyto_rounding,
    )
    return replace(annotation, notes=(*volume_notes(path, grid), *annotation.notes))
