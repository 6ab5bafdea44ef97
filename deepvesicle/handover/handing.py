"""A work folder for Pyto from a tomogram, its vesicles, the cytosol and the membrane of the active zone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepvesicle.errors import BadInputError, UsageError
from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.files.run_record import FileRecord, RunRecord
from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.grid import Grid, Region, Tomogram
from deepvesicle.handover import image
from deepvesicle.handover.check import check_folder
from deepvesicle.handover.crop import Box, box_round, grid_of_box, moved_into, whole
from deepvesicle.handover.findings import Finding, Severity
from deepvesicle.handover.folder import TASKS, TomoInfo, WorkFolder, write_tomo_info
from deepvesicle.handover.ids import SOURCE_ID, LabelIds, numbered
from deepvesicle.handover.paint import paint_labels
from deepvesicle.handover.readme import readme_text
from deepvesicle.handover.staging import check_root, staging
from deepvesicle.marks import lacks_sphere
from deepvesicle.vesicles import Vesicles

#: What is called with (done, in all) while the labels are drawn.
Progress = Callable[[int, int], None]
#: Where the record has the grid of the tomogram that was given.
SOURCE_GRID = "source_grid"
#: What the names of tables and models with Pyto's results end with.
JOINED = "_pyto"
#: Why a vesicle that the user's table has is not in a cut tomogram.
OUTSIDE_CUT = "outside the cut tomogram"


@dataclass(frozen=True)
class Wishes:
    """How a work folder shall be made.

    Parameters
    ----------
    ids : LabelIds
    signed : bool
        Labels of mode 1 (int16) in place of mode 6 (uint16).
    gap_vox : int
        Voxels to leave between vesicles that touch.
    keep_cut : bool
        Draw the vesicles that a face of the volume cuts, too.
    crop_nm : float, optional
        Cut the volume so far round the membrane of the active zone.
    copied : bool
        Copy the tomogram instead of making a link.
    other_voxel_size : bool
        The tomogram's voxel size was given by the user, and is not that of the header.
    """

    ids: LabelIds = field(default_factory=LabelIds)
    signed: bool = False
    gap_vox: int = 0
    keep_cut: bool = False
    crop_nm: float | None = None
    copied: bool = False
    other_voxel_size: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the labels."""
        return np.dtype(np.int16 if self.signed else np.uint16)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for the record."""
        return {
            "cytosol_id": self.ids.cytosol,
            "membrane_id": self.ids.membrane,
            "first_vesicle": self.ids.first_vesicle,
            "int16": self.signed,
            "gap_vox": self.gap_vox,
            "keep_cut": self.keep_cut,
            "crop_nm": self.crop_nm,
            "copy": self.copied,
        }


@dataclass(frozen=True)
class HandedOver:
    """What was made.

    Parameters
    ----------
    folder : WorkFolder
    grid : Grid
        Of the tomogram and the labels in the folder.
    start_zyx : tuple of int
        Voxel of the given tomogram that is the first in the folder.
    drawn : Vesicles
        With the ids of the labels.
    left_out : dict of int to str
        Ids in the given table, and why these vesicles are not there.
    findings : tuple of Finding
        Of the check of the folder; none of them is an error.
    notes : tuple of str
        What was done to the tomogram and mended in the labels.
    """

    folder: WorkFolder
    grid: Grid
    start_zyx: tuple[int, int, int]
    drawn: Vesicles
    left_out: Mapping[int, str]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def own_files(root: Path) -> tuple[str, ...]:
    """The relative names of all files that a hand-over makes, the one that tells Pyto of the others last."""
    folder = WorkFolder(root)
    paths = (
        *(folder.tomogram, folder.labels, folder.table, folder.model),
        *(folder.readme, folder.record, folder.tomo_info),
    )
    return tuple(path.relative_to(root).as_posix() for path in paths)


def check_place(root: Path, inputs: Mapping[str, Path], *, overwrite: bool, needs_copy: bool) -> None:
    """Check before the work that the folder can be made; nothing is touched.

    Parameters
    ----------
    root : Path
    inputs : mapping of str to Path
        What is read; ``tomogram`` may be the very file that the folder has, if it can stay there.
    overwrite : bool
    needs_copy : bool
        The tomogram has to be written anew.

    Raises
    ------
    OutputExistsError, UsageError
        There are files that would be replaced, an input is one of them, or the folder cannot be written to.
    """
    names = own_files(root)
    stays = not needs_copy and lies_in_folder(inputs["tomogram"], root)
    check_root(root, names[1:] if stays else names, overwrite=overwrite)
    for role, path in inputs.items():
        if role == "tomogram" and stays:
            continue
        for name in names:
            # What a link leads to is safe.
            if (root / name).is_file() and not (root / name).is_symlink() and (root / name).samefile(path):
                raise UsageError(
                    f"{path} is read, and would be replaced",
                    expected=f"the {role} in another folder",
                    remedy="Choose another folder with -o, or give the file that the folder was made from",
                )


def lies_in_folder(tomogram: Path, root: Path) -> bool:
    """Whether the tomogram that was given is the file (not a link) that the work folder has."""
    own = WorkFolder(root).tomogram
    return own.exists() and not own.is_symlink() and own.samefile(tomogram)


def hand_over(
    tomogram: Tomogram,
    vesicles: Vesicles,
    cytosol: Region,
    membrane: Region,
    root: Path,
    wishes: Wishes | None = None,
    *,
    inputs: Mapping[str, Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> HandedOver:
    """Make a work folder, check it, and put it in its place if Pyto can work with it.

    Parameters
    ----------
    tomogram : Tomogram
        Read from a file.
    vesicles : Vesicles
        All rows of the user's table, on the tomogram's grid. The accepted ones are drawn; the others keep the
        numbering the same: see `deepvesicle.handover.ids.numbered`.
    cytosol, membrane : Region
        On the tomogram's grid.
    root : Path
        The folder to make, or one whose files of an earlier hand-over are replaced. All else in it stays.
    wishes : Wishes, optional
    inputs : mapping of str to Path, optional
        Files that were read, for the record.
    settings : mapping, optional
        More for the record.
    overwrite : bool
        Replace the files of an earlier hand-over.
    progress : callable, optional

    Returns
    -------
    HandedOver

    Raises
    ------
    BadInputError
        Pyto would crash on the folder, or find nothing in it, or there is no vesicle to draw. Nothing is written.
    OutputExistsError, UsageError
        See `check_place`.
    """
    wishes = wishes or Wishes()
    source = _path_of(tomogram)
    inputs = {"tomogram": source, **{name: path for name, path in (inputs or {}).items() if name != "tomogram"}}
    box = whole(tomogram.grid)
    if wishes.crop_nm is not None:
        box = box_round(membrane, tomogram.grid, wishes.crop_nm)
    reasons = image.reasons_to_write(tomogram, box, other_voxel_size=wishes.other_voxel_size)
    check_place(root, inputs, overwrite=overwrite, needs_copy=bool(reasons))
    grid = grid_of_box(tomogram.grid, box)
    chosen, left_out = _chosen(vesicles, wishes, grid)
    record = RunRecord.start(
        "pyto",
        {
            **wishes.to_json(),
            **(settings or {}),
            SOURCE_GRID: tomogram.grid.to_json(),
            "start_zyx": [part.start for part in box],
        },
        {name: FileRecord.of(path) for name, path in inputs.items()},
        voxel_nm=grid.voxel_nm,
        voxel_source="option" if wishes.other_voxel_size else "header",
        invert=tomogram.invert,
    )
    old_results = _results_in(root)
    stays = not reasons and lies_in_folder(source, root)
    with staging(root, own_files(root)[stays:], TASKS, overwrite=overwrite) as new:
        folder = WorkFolder(new)
        for path in (folder.tomogram, folder.tomo_info):
            path.parent.mkdir()
        painted = paint_labels(
            folder.labels,
            chosen,
            cytosol,
            membrane,
            wishes.ids,
            dtype=wishes.dtype,
            gap_vox=wishes.gap_vox,
            keep_cut=wishes.keep_cut,
            progress=progress,
        )
        left_out |= dict(painted.left_out)
        _refuse_none(painted.drawn, left_out)
        image_note = _put_image(folder.tomogram, tomogram, box, reasons, copied=wishes.copied and not stays)
        write_vesicles_csv(folder.table, painted.drawn, whole=[SOURCE_ID])
        write_vesicles_model(folder.model, painted.drawn)
        write_tomo_info(
            folder.tomo_info, TomoInfo.of(folder.tomogram, folder.labels, wishes.ids, painted.drawn.ids.tolist())
        )
        findings = tuple(check_folder(new))
        _refuse_errors(findings, root, inverted=tomogram.invert)
        notes = (image_note, *_cut_note(tomogram.grid, grid, wishes.crop_nm), *painted.notes, *old_results)
        start = tuple(int(part.start) for part in box)
        done = HandedOver(WorkFolder(root), grid, start, painted.drawn, left_out, findings, notes)  # type: ignore[arg-type]
        folder.readme.write_text(readme_text(done, wishes, tomogram, inputs), encoding="utf-8")
        finished = record.finished(
            outputs=[root / name for name in own_files(root)],
            counts={"vesicles": len(painted.drawn), "left_out": len(left_out)},
            warnings=[str(finding) for finding in findings],
            notes=notes,
        )
        finished.write(folder.record)
        _settle_image(folder.tomogram, root, source, stays=stays)
    return done


def _path_of(tomogram: Tomogram) -> Path:
    if tomogram.path is None:
        raise ValueError("a hand-over needs the tomogram's file")
    return tomogram.path


def _chosen(vesicles: Vesicles, wishes: Wishes, grid: Grid) -> tuple[Vesicles, dict[int, str]]:
    """The vesicles to draw, with their ids in the labels; those that lie outside a cut volume, by their source."""
    largest = int(np.iinfo(wishes.dtype).max)
    table = numbered(vesicles, wishes.ids, largest)
    accepted = table.select(table.accepted & ~lacks_sphere(table.features, len(table)))
    if grid == vesicles.grid:
        return accepted, {}
    inside = moved_into(accepted, grid)
    there = set(inside.ids.tolist())
    sources = accepted.features[SOURCE_ID].astype(int).tolist()
    outside = [source for number, source in zip(accepted.ids.tolist(), sources, strict=True) if number not in there]
    return inside, dict.fromkeys(outside, OUTSIDE_CUT)


def _refuse_none(drawn: Vesicles, left_out: Mapping[int, str]) -> None:
    if len(drawn):
        return
    reasons = Counter(left_out.values())
    raise BadInputError(
        "no vesicle can be drawn",
        expected="at least one that counts, inside the outline",
        got="; ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none that counts in the table",
        remedy="Look at the vesicles and the outline on the tomogram in 3dmod",
    )


def _put_image(path: Path, tomogram: Tomogram, box: Box, reasons: Sequence[str], *, copied: bool) -> str:
    """Make the tomogram of the folder; gives what was done."""
    source = _path_of(tomogram)
    if reasons:
        image.write(path, tomogram, box)
        return f"the tomogram was written anew: {', '.join(reasons)}"
    if not copied:
        try:
            image.link(path, source)
            return f"the tomogram is a link to {source}"
        except OSError:  # a file system that has no links
            pass
    image.copy(path, source)
    return f"the tomogram is a copy of {source}"


def _settle_image(path: Path, root: Path, source: Path, *, stays: bool) -> None:
    """Turn a link that is right in the temporary folder into one that is right in the end."""
    if not path.is_symlink():
        return
    path.unlink()
    if not stays:
        image.link(path, source, seen_from=WorkFolder(root.resolve()).tomogram.parent)


def _cut_note(before: Grid, after: Grid, margin_nm: float | None) -> list[str]:
    if margin_nm is None:
        return []
    sizes = [" x ".join(str(n) for n in grid.shape_zyx[::-1]) for grid in (after, before)]
    return [f"tomogram and labels are cut to {sizes[0]} of {sizes[1]} voxels, {margin_nm:g} nm round the active zone"]


def _results_in(root: Path) -> list[str]:
    """A warning where Pyto has run on the labels that are to be replaced, or its results are joined to them."""
    joined = sorted(path.name for path in root.glob(f"*{JOINED}.*") if path.suffix in (".csv", ".mod", ".json"))
    notes = [f"{', '.join(joined)} are those of the labels before: import the results again"] if joined else []
    found = [name for name in TASKS if any(path.suffix in (".dat", ".pkl") for path in (root / name).glob("*"))]
    if found:
        notes.insert(0, f"Pyto's results in {', '.join(found)} are those of the labels before: let it run again")
    return notes


def _refuse_errors(findings: Sequence[Finding], root: Path, *, inverted: bool) -> None:
    mended = "Leave out --invert" if inverted else "Add --invert, which turns the contrast"
    errors = [
        replace(finding, remedy=mended) if finding.kind == "contrast" else finding
        for finding in findings
        if finding.severity is Severity.ERROR
    ]
    if not errors:
        return
    told = " ".join(f"({number}) {finding.text}. {finding.remedy}." for number, finding in enumerate(errors, start=1))
    raise BadInputError(
        f"{root} was not written, since Pyto would crash on it or find nothing: {told}",
    )
