"""`deepvesicle pyto --import-results`: what Pyto found, joined to the vesicles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepvesicle.errors import BadInputError, UsageError

if TYPE_CHECKING:
    from deepvesicle.commands.compared import Source
    from deepvesicle.grid import Grid
    from deepvesicle.handover.importing import Imported
    from deepvesicle.vesicles import Vesicles


def join_results(
    root: Path, output: Path | None, table: str | None, segments: str | None, colour_by: str | None, *, overwrite: bool
) -> None:
    """Join Pyto's results to the table of a work folder, and to the user's own, and write them.

    Raises
    ------
    BadInputError, UsageError
        A file cannot be used, or an option does not fit it.
    """
    from deepvesicle.commands.compared import source_of
    from deepvesicle.commands.console import warn
    from deepvesicle.commands.segment import refuse_existing
    from deepvesicle.files.run_record import RunRecord
    from deepvesicle.handover.folder import WorkFolder
    from deepvesicle.handover.importing import import_results, output_paths, source_grid, write_imported

    if not root.is_dir():
        raise BadInputError(f"{root} is not a folder", expected="a work folder that `deepvesicle pyto` made")
    own_source = None if table is None else source_of(table, "a table (.csv) or an IMOD model (.mod)")
    paths = output_paths(output or root, None if own_source is None else own_source.path.stem)
    refuse_existing(paths, overwrite)
    own = None if own_source is None else _own_table(own_source, source_grid(WorkFolder(root)))
    classes = None if segments is None else [name.strip() for name in segments.split(",")]
    found = import_results(root, own=own, classes=classes, colour_by=colour_by)
    files = {"vesicles": WorkFolder(root).table, **{path.name: path for path in found.results}}
    files |= {} if own_source is None else {"table": own_source.path}
    settings = {"segments": classes, "colour_by": found.colour}
    record = RunRecord.start("pyto --import-results", settings, files, voxel_nm=found.vesicles.grid.voxel_nm)
    write_imported(paths, found, record, overwrite=overwrite)
    for note in found.notes:
        warn(note)
    print("\n".join(imported_lines(found)))
    for path in paths.values():
        print(f"wrote {path}")


def _own_table(source: Source, grid: Grid) -> Vesicles:
    from deepvesicle.commands.export import read_all

    if source.is_volume:
        raise UsageError(f"--table {source.path} is a volume", expected="the table or model that was handed over")
    return read_all(source, grid).vesicles


def imported_lines(found: Imported) -> list[str]:
    """What was joined, for the terminal."""
    import numpy as np

    lines = [f"{len(found.vesicles)} vesicles, {len(found.results)} tables of Pyto"]
    for name in found.columns:
        values = found.vesicles.features[name]
        known = values[np.isfinite(values)]
        if len(known):
            spread = f"{known.min():g} to {known.max():g}, mean {known.mean():.4g}"
            lines.append(f"  {name:<28}{len(known):>5} known: {spread}")
    low, high = found.limits()
    return [*lines, f"coloured by {found.colour}: {low:g} to {high:g}"]
