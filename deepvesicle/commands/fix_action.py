"""The action `fit-vesicles`: what is done with a model each time its user has saved it.

`deepvesicle fix` runs it once; the loops of `imod_bridge` run it again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from deepvesicle.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from deepvesicle.files.review import Review
    from deepvesicle.files.run_record import FileRecord, RunRecord
    from deepvesicle.grid import Tomogram
    from deepvesicle.marks import Drawn, Mark
    from deepvesicle.pipeline import Fixed, Progress
    from deepvesicle.placing import Fate, Fitter
    from deepvesicle.settings import Settings
    from deepvesicle.vesicles import Vesicles
    from imod_bridge.actions import Answer, Request

_MODEL_ENDING = "_vesicles"
#: The object that users click in.
_MARKED = "vesicles"
_LARGEST_LABEL = 2**16 - 1
NOTHING_TO_DO = "nothing to do"


@dataclass(frozen=True)
class FixOptions:
    """What the user asked for; lengths in nm, None: not given.

    Parameters
    ----------
    voxel_nm, invert
        As for `deepvesicle.files.tomogram.read_tomogram`; by default those of the record beside the model.
    radius_nm, min_radius_nm, max_radius_nm
        Start radius of clicks, and limits.
    refit : bool
        Also fit what the user placed or changed, and what could not be fitted.
    names : tuple of str
        Objects that hold marks, besides ours.
    labels : bool
        Write the labels.
    new : bool
        All objects hold marks, there is no earlier result, and the model is only read.
    output : Path, optional
        The model to write, in place of the one that was read.
    review : Path, optional
        Verdicts that the page of a report saved.
    """

    voxel_nm: float | None = None
    invert: bool | None = None
    radius_nm: float | None = None
    min_radius_nm: float | None = None
    max_radius_nm: float | None = None
    refit: bool = False
    names: tuple[str, ...] = ()
    labels: bool = True
    new: bool = False
    output: Path | None = None
    review: Path | None = None


def fit_vesicles(request: Request) -> Answer:
    """Fit the vesicles that the user marked, with the default options: the entry point for `imod_bridge`."""
    return FixAction(FixOptions())(request)


def side_paths(model: Path) -> dict[str, Path]:
    """The files that go with a model: ``X_vesicles.mod`` or ``X.mod`` -> ``X_labels.mrc`` and so on."""
    stem = model.stem.removesuffix(_MODEL_ENDING) or model.stem
    names = {"labels": f"{stem}_labels.mrc", "table": f"{stem}_vesicles.csv", "record": f"{stem}_run.json"}
    return {key: model.parent / name for key, name in names.items()}


class FixAction:
    """Fits what is marked in a model; the tomogram stays open (memory-mapped) from one call to the next.

    Parameters
    ----------
    options : FixOptions
    fitter : callable, optional
        As for `deepvesicle.pipeline.fix`.
    progress : callable, optional
        As for `deepvesicle.pipeline.fix`.
    """

    def __init__(self, options: FixOptions, *, fitter: Fitter | None = None, progress: Progress | None = None) -> None:
        self.options, self._fitter, self._progress = options, fitter, progress
        self._tomogram: tuple[tuple[object, ...], Tomogram] | None = None

    def __call__(self, request: Request) -> Answer:
        """What must change in the model; `Answer.finish` writes labels, record and table.

        Raises
        ------
        DeepVesicleError
            The tomogram, the model, its table or its record cannot be used.
        """
        from deepvesicle.corrections import is_same_table
        from deepvesicle.files.drawn import corrected_objects, read_drawn
        from deepvesicle.files.imod import STATUS_OF_OBJECT, empty_model, frame_on
        from deepvesicle.files.review import read_review
        from deepvesicle.pipeline import fix
        from imod_bridge.actions import Answer

        options = self.options
        source, target = side_paths(request.model_path), side_paths(options.output or request.model_path)
        record = None if options.new else _read_record(source["record"])
        settings = _settings(options, record)
        tomogram = self._open(request.tomogram, record)
        if not options.new:
            _refuse_other_tomogram(source["labels"], tomogram)
        table = None if options.new else _read_table(source["table"], tomogram)
        review = None if options.review is None else read_review(options.review)
        drawn = read_drawn(
            request.model_path, request.model, tomogram.grid, names=options.names, everything=options.new
        )
        fixed = fix(
            tomogram,
            table,
            drawn,
            STATUS_OF_OBJECT,
            settings,
            radius_nm=options.radius_nm,
            refit=options.refit,
            fitter=self._fitter,
            progress=self._progress,
        )
        if review is not None:
            fixed = _with_review(fixed, review)
        if options.labels:
            _check_label_range(fixed.vesicles)
        model = empty_model(tomogram.grid) if options.new else request.model
        objects = corrected_objects(
            model,
            frame_on(request.model_path, model, tomogram.grid),
            fixed.vesicles,
            spheres=[] if options.new else list(zip(drawn.spheres, fixed.sphere_ids, strict=True)),
            unfitted=[(fate.mark, fate.vesicle) for fate in fixed.fates if fate.is_left],
            consumed=consumed_places(drawn, fixed),
        )
        lines = tuple(_lines(tomogram, drawn, fixed))
        written = [name for name in target if name != "labels" or options.labels]
        if table is None and not options.new and not len(fixed.vesicles) and not drawn.removals:
            return Answer(messages=(*lines, NOTHING_TO_DO, "(the model has no vesicles; --new fits all its points)"))
        changed = objects or table is None or not is_same_table(table, fixed.vesicles)
        if not (changed or options.output or any(not target[name].exists() for name in written)):
            return Answer(messages=(*lines, NOTHING_TO_DO))

        def finish() -> None:
            self._finish(request, tomogram, fixed, settings, record)

        return Answer(objects, (*lines, *_summary(fixed)), finish)

    def new_model(self, tomogram: Path, answer: Answer) -> bytes:
        """The bytes of a model that holds the objects of an answer alone."""
        from deepvesicle.files.imod import empty_model, new_object
        from imod_bridge.model import encode_model

        objects = answer.objects
        if not any(item.name == _MARKED for item in objects):
            objects = (new_object(_MARKED), *objects)
        return encode_model(replace(empty_model(self._open(tomogram, None).grid), objects=objects))

    def prepare(self, tomogram: Path, model: Path) -> None:
        """Make sure that a model is there, and has an object for the user's clicks.

        Raises
        ------
        DeepVesicleError, BridgeError
            The tomogram or the model cannot be used.
        """
        from deepvesicle.files.imod import new_object, write_vesicles_model
        from deepvesicle.vesicles import Vesicles
        from imod_bridge.binary import write_atomically
        from imod_bridge.exchange import decode, read
        from imod_bridge.update import replace_objects

        grid = self._open(tomogram, _read_record(side_paths(model)["record"])).grid
        if not model.exists():
            write_vesicles_model(model, Vesicles.empty(grid))
            return
        data = read(model)
        if not any(item.name == _MARKED for item in decode(model, data).objects):
            write_atomically(model, replace_objects(data, [new_object(_MARKED)]), backup=True)

    def _open(self, path: Path, record: RunRecord | None) -> Tomogram:
        """The tomogram, read as before unless the options say otherwise."""
        from deepvesicle.files.tomogram import read_tomogram

        voxel_nm, invert = self.options.voxel_nm, self.options.invert
        if voxel_nm is None and record is not None and record.voxel_source == "option":
            voxel_nm = record.voxel_nm
        if invert is None:
            invert = record is not None and record.invert
        state = path.stat() if path.exists() else None
        key = (path, voxel_nm, invert, state and (state.st_mtime_ns, state.st_size, state.st_ino))
        if self._tomogram is None or self._tomogram[0] != key:
            # not all voxels are looked at: that would take longer than all the rest
            self._tomogram = key, read_tomogram(path, voxel_nm=voxel_nm, invert=invert, check=False)
        return self._tomogram[1]

    def _finish(
        self,
        request: Request,
        tomogram: Tomogram,
        fixed: Fixed,
        settings: Settings,
        earlier: RunRecord | None,
    ) -> None:
        """Write what goes with the model. The table comes last: while it is the old one, a later run does the rest."""
        from deepvesicle.files.atomic import keep_backup
        from deepvesicle.files.run_record import FileRecord, RunRecord
        from deepvesicle.files.tables import write_vesicles_csv
        from deepvesicle.pipeline import counts

        model, vesicles = self.options.output or request.model_path, fixed.vesicles
        paths = side_paths(model)
        if self.options.labels:
            _write_labels(paths["labels"], vesicles, settings.labels.gap_vox)
        from_option = self.options.voxel_nm is not None or (earlier is not None and earlier.voxel_source == "option")
        record = RunRecord.start(
            "fix",
            settings,
            {
                "tomogram": _tomogram_record(request.tomogram, earlier),
                "model": FileRecord(
                    str(request.model_path.resolve()), hashlib.sha256(request.data).hexdigest(), len(request.data)
                ),
            },
            voxel_nm=tomogram.grid.voxel_nm,
            voxel_source="option" if from_option else "header",
            invert=tomogram.invert,
        )
        if self.options.review is not None:
            record = replace(record, inputs={**record.inputs, "review": FileRecord.of(self.options.review)})
        outputs = [model, paths["table"], *([paths["labels"]] if self.options.labels else [])]
        done = record.finished(outputs=outputs, counts=counts(vesicles), warnings=tomogram.notes, notes=fixed.notes)
        done.following(earlier).write(paths["record"], overwrite=True)
        keep_backup(paths["table"])
        write_vesicles_csv(paths["table"], vesicles, overwrite=True)


def _read_record(path: Path) -> RunRecord | None:
    from deepvesicle.files.run_record import read_run_record

    return read_run_record(path) if path.exists() else None


def _with_review(fixed: Fixed, review: Review) -> Fixed:
    """Carry out the verdicts of a review after all that was drawn.

    Raises
    ------
    BadInputError
        It is of another tomogram or table.
    """
    from deepvesicle.corrections import reviewed

    review.check(fixed.vesicles)
    vesicles, more = reviewed(fixed.vesicles, {one.id: one.keep for one in review.decisions})
    changes = {what: fixed.changes.get(what, 0) + more.get(what, 0) for what in {**fixed.changes, **more}}
    return replace(fixed, vesicles=vesicles, changes=changes)


def _refuse_other_tomogram(labels: Path, tomogram: Tomogram) -> None:
    """Labels of another shape belong to another tomogram, and so do the model and the table beside them."""
    from deepvesicle.errors import BadInputError
    from deepvesicle.files.tomogram import read_header

    if not labels.exists():
        return
    nz, ny, nx = read_header(labels).shape_zyx
    z, y, x = tomogram.grid.shape_zyx
    if (nz, ny, nx) != (z, y, x):
        raise BadInputError(
            f"the results are of another tomogram than the one given: see {labels}",
            expected=f"{nx} x {ny} x {nz} voxels",
            got=f"{x} x {y} x {z}",
            remedy="Give the tomogram that was segmented",
        )


def _read_table(path: Path, tomogram: Tomogram) -> Vesicles | None:
    from deepvesicle.files.tables import read_vesicles_csv

    return read_vesicles_csv(path, tomogram.grid) if path.exists() else None


def _settings(options: FixOptions, record: RunRecord | None) -> Settings:
    """Those of the run that made the result, changed by the options."""
    from deepvesicle.settings import Settings

    settings = Settings() if record is None else Settings.from_dict(dict(record.settings), "the run record")
    limits = {"min_radius_nm": options.min_radius_nm, "max_radius_nm": options.max_radius_nm}
    proposal = replace(settings.proposal, **{name: value for name, value in limits.items() if value is not None})
    if not 0 < proposal.min_radius_nm < proposal.max_radius_nm:
        raise UsageError(
            "the limits of the radius make no sense",
            expected="0 < --min-radius < --max-radius, in nm",
            got=f"{proposal.min_radius_nm:g} and {proposal.max_radius_nm:g}",
        )
    radius = options.radius_nm
    if radius is not None and not proposal.min_radius_nm <= radius <= proposal.max_radius_nm:
        raise UsageError(
            "--radius is outside the limits",
            expected=f"{proposal.min_radius_nm:g} to {proposal.max_radius_nm:g} nm",
            got=f"{radius:g}",
            remedy="Set the limits with --min-radius and --max-radius",
        )
    return replace(settings, proposal=proposal)


def _tomogram_record(path: Path, earlier: RunRecord | None) -> FileRecord:
    """Not hashed, which would mean to read it all; the hash of the earlier record where it is of the same file."""
    from deepvesicle.files.run_record import FileRecord

    now = FileRecord.of(path, hashed=False)
    before = earlier.inputs.get("tomogram") if earlier is not None else None
    same = before is not None and (before.path, before.bytes) == (now.path, now.bytes)
    return before if before is not None and same else now


def _check_label_range(vesicles: Vesicles) -> None:
    """Refuse ids that no label file can hold before anything is written."""
    largest = int(vesicles.ids[vesicles.accepted].max(initial=0))
    if largest > _LARGEST_LABEL:
        raise BadInputError(
            "the ids of the vesicles, which are the surface numbers of the model, do not fit into a label file",
            expected=f"at most {_LARGEST_LABEL}",
            got=f"{largest}",
            remedy="Number the surfaces anew in 3dmod, or leave out the labels with --no-labels",
        )


def _write_labels(path: Path, vesicles: Vesicles, gap_vox: int) -> None:
    """Draw the accepted spheres into a new label file."""
    from deepvesicle.files.labels import write_drawn_labels
    from deepvesicle.fitting.rasterize import draw_slab

    write_drawn_labels(
        path, vesicles.grid, lambda grid, out: draw_slab(vesicles, grid, out, gap_vox=gap_vox), overwrite=True
    )


def consumed_places(drawn: Drawn, fixed: Fixed) -> set[tuple[str, int, int]]:
    """Points that leave their objects, since something came of them."""
    marks = [fate.mark for fate in fixed.fates if not fate.is_left]
    done = (gone is not None or there is not None for gone, there in zip(fixed.removed, fixed.overruled, strict=True))
    marks += [mark for mark, is_done in zip(drawn.removals, done, strict=True) if is_done]
    return {place for mark in marks for place in mark.places}


def _lines(tomogram: Tomogram, drawn: Drawn, fixed: Fixed) -> Iterator[str]:
    """A line for each point or contour that something was done with, and for each that is odd."""
    yield from drawn.notes
    for mark, gone, there in zip(drawn.removals, fixed.removed, fixed.overruled, strict=True):
        what = f"no sphere was there; the point stays in '{mark.object_name}'"
        if gone is not None:
            what = f"vesicle {gone} removed"
        elif there is not None:
            what = f"no sphere was there; vesicle {there} was marked there as well and stays"
        yield f"{_where(mark)} (remove): {what}"
    rows = {int(number): row for row, number in enumerate(fixed.vesicles.ids)}
    for fate in fixed.fates:
        yield f"{_where(fate.mark)}{_kind(fate)}: " + _fate_text(tomogram, fixed.vesicles, rows[fate.vesicle], fate)


def _where(mark: Mark) -> str:
    """The place as 3dmod shows it: numbers of pixels and of the section, from 1."""
    z, y, x = (int(round(v)) + 1 for v in mark.middle_vox.tolist())
    return f"x {x}, y {y}, z {z}"


def _kind(fate: Fate) -> str:
    return f" ({fate.kind.value})" if fate.kind is not None else ""


def _fate_text(tomogram: Tomogram, vesicles: Vesicles, row: int, fate: Fate) -> str:
    from deepvesicle.placing import Result

    if fate.result is Result.NOT_FITTED:
        where = "; it is in the object not_fitted now" if fate.is_left else ""
        return f"not fitted: {fate.note}{where}"
    if fate.result is Result.MERGED:
        return f"vesicle {fate.vesicle}: {fate.note}"
    to_nm = tomogram.grid.length_to_nm
    radius = _with_sigma(f"radius {vesicles.radii_nm[row]:.2f}", float(to_nm(vesicles.sigma_radii_vox[row])))
    centre = _with_sigma("centre", float(to_nm(vesicles.sigma_centres_vox[row])))
    sure = f"doubtful: {fate.note}" if fate.note else "sure"
    done = "refitted" if fate.result is Result.REFITTED else "new"
    return f"{radius}, {centre}, {sure}; vesicle {fate.vesicle} ({done})"


def _with_sigma(text: str, sigma_nm: float) -> str:
    return f"{text} ± {sigma_nm:.2f} nm" if isfinite(sigma_nm) else f"{text} (uncertainty unknown)"


def _summary(fixed: Fixed) -> list[str]:
    """How many of what, in one line."""
    numbers: dict[str, int] = {}
    for fate in fixed.fates:
        numbers[fate.result.value] = numbers.get(fate.result.value, 0) + 1
    gone = {number for number in fixed.removed if number is not None}
    if gone:
        numbers["removed"] = len(gone)
    numbers.update(fixed.changes)
    done = ", ".join(f"{count} {what}" for what, count in numbers.items() if count) or "nothing changed"
    now = int(fixed.vesicles.accepted.sum())
    return [f"{done}; {now} vesicle{'' if now == 1 else 's'} now"]
