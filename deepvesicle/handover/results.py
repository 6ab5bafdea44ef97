"""What Pyto found of each vesicle, joined by id to our table: distances, connectors, tethers, clusters.

Pyto's text tables (``*.dat``) are read: see `deepvesicle.handover.tables_of_pyto`. Its pickles are not, nor the tables
of regions and layers, which say nothing of single vesicles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import BadInputError, UsageError
from deepvesicle.handover.ids import SOURCE_ID
from deepvesicle.handover.tables_of_pyto import Kind, PytoTable, Segment, read_table
from deepvesicle.vesicles import Vesicles

#: What the names of all columns begin with.
PREFIX = "pyto_"
#: Columns by which a model is coloured if nothing is asked for: the first that is there.
COLOURS = ("pyto_connectors", "pyto_tethers", "pyto_distance_min_nm", "pyto_distance_mean_nm", "pyto_radius_nm")
#: Columns that are ids or numbers of things.
WHOLE = (
    SOURCE_ID,
    *(PREFIX + name for name in ("label", "connectors", "tethers", "connected_vesicles", "cluster", "cluster_size")),
)
#: Kinds of segments: between vesicles, and between a vesicle and the membrane.
CONNECTOR, TETHER = "connector", "tether"
#: The class of segments that counts where Pyto sorted them by size: neither too small nor too big.
GOOD = "good"
#: Grey values of a table of vesicles that are kept.
_GREY = {"density": "grey", "membrane_density": "grey_membrane", "lumen_density": "grey_lumen"}
#: Pyto's centres are rounded to whole voxels, in labels; farther off than this, a vesicle is another one. Voxels.
SAME_PLACE_VOX = 3.0
_NAMED = 8


@dataclass(frozen=True)
class PytoResults:
    """Numbers of each vesicle, in Pyto's units (voxels).

    Parameters
    ----------
    vesicles : dict of int to dict of str to float
        Label, and what the table of vesicles says of it.
    clusters : dict of int to float
        Label, and the cluster that it is in, by its connectors.
    segments : tuple of Segment, optional
        Those that count, each once; None where there is no table of segments.
    membrane_ids : tuple of int
        Labels of the membrane: what touches one of these and a vesicle is a tether.
    kinds : frozenset of str
        Which of `CONNECTOR` and `TETHER` these tables tell of.
    looked_at : frozenset of int
        Labels between which Pyto looked for segments; empty where it does not say.
    files : tuple of Path
        What was read.
    notes : tuple of str
        What the user should know.
    """

    vesicles: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    clusters: Mapping[int, float] = field(default_factory=dict)
    segments: tuple[Segment, ...] | None = None
    membrane_ids: tuple[int, ...] = ()
    kinds: frozenset[str] = frozenset()
    looked_at: frozenset[int] = frozenset()
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> set[int]:
        """Labels of all vesicles that anything is said of."""
        touched = {number for segment in self.segments or () for number in segment.contacts}
        return (set(self.vesicles) | set(self.clusters) | touched | self.looked_at) - set(self.membrane_ids)


def read_results(root: Path, *, membrane_ids: Sequence[int] = (), classes: Sequence[str] | None = None) -> PytoResults:
    """Read all of Pyto's tables in a work folder.

    Segments are those of the tables of all thresholds; tables of single thresholds have the same ones again. Where
    classes are named `GOOD` in Pyto's own sorting by size, only these count.

    Parameters
    ----------
    root : Path
        The work folder; its folders are searched for ``*.dat``.
    membrane_ids : sequence of int
        Labels of the membrane, where Pyto's tables do not tell.
    classes : sequence of str, optional
        Names of the classes of segments that count, as they are in the names of Pyto's files.

    Raises
    ------
    BadInputError
        There is no such table, or no table of segments to choose `classes` from, or one is damaged, or several
        contradict one another.
    UsageError
        No table of segments is of one of the `classes`.
    """
    paths = sorted(path for path in root.rglob("*.dat") if path.is_file() and not _hidden(path, root))
    tables = [table for table in map(read_table, paths) if table.kind is not Kind.OTHER]
    if not tables:
        raise BadInputError(
            f"{root} holds no results of Pyto",
            expected="its text tables of vesicles, connectors or clusters (*.dat)",
            got=f"{len(paths)} other files *.dat" if paths else "no files *.dat",
            remedy="Run Pyto's scripts vesicles.py and connectors.py in the folder first",
        )
    vesicle_tables = [table for table in tables if table.kind is Kind.VESICLES]
    cluster_tables = [table for table in tables if table.kind is Kind.CLUSTERS]
    counted, notes = _counted([table for table in tables if table.kind is Kind.SEGMENTS], classes)
    told = {number for table in tables for number in table.distance_ids}
    clusters = _only_one(cluster_tables)
    return PytoResults(
        vesicles=_only_one(vesicle_tables),
        clusters={number: values["cluster"] for number, values in clusters.items() if "cluster" in values},
        segments=_once(counted) if counted else None,
        membrane_ids=tuple(sorted(told or set(membrane_ids))),
        kinds=frozenset(kind for table in counted for kind in _kinds(table)),
        looked_at=frozenset(number for table in counted for number in table.ids),
        files=tuple(table.path for table in [*vesicle_tables, *counted, *cluster_tables]),
        notes=tuple(notes),
    )


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _only_one(tables: Sequence[PytoTable]) -> dict[int, dict[str, float]]:
    """The rows of the tables of one kind; several must not say different things of one vesicle.

    Raises
    ------
    BadInputError
    """
    rows: dict[int, dict[str, float]] = {}
    origin: dict[int, Path] = {}
    for table in tables:
        for number, values in table.rows.items():
            if number in rows and rows[number] != values:
                raise BadInputError(
                    f"{origin[number]} and {table.path} say different things of vesicle {number}",
                    expected=f"one table of {table.kind.value} in the folder",
                    remedy="Put that of an earlier run elsewhere",
                )
            rows[number] = values
            origin[number] = table.path
    return rows


def _counted(tables: Sequence[PytoTable], classes: Sequence[str] | None) -> tuple[list[PytoTable], list[str]]:
    """The tables whose segments count, and what to say of the others."""
    whole = [table for table in tables if not table.of_threshold]
    single = [table for table in tables if table.of_threshold]
    notes = []
    if single and not whole:
        notes.append(
            f"{len(single)} tables of segments at single thresholds are not counted, and there is none of all of them: "
            "let Pyto's connectors.py classify the segments (class_1_type = 'keep')"
        )
    chosen = whole
    if classes:
        chosen = [table for table in whole if set(classes) & _names(table)]
        if not whole:
            raise BadInputError(
                f"there are no segments to choose the class {' or '.join(classes)} from",
                expected="tables of connectors or tethers (*.dat) in the folder",
                got="none",
                remedy="Run Pyto's connectors.py first, or leave out --segments",
            )
        if not chosen:
            raise UsageError(
                f"no table of segments is of the class {' or '.join(classes)}",
                expected=f"some of {', '.join(sorted({name for table in whole for name in _names(table)}))}",
            )
    elif any(GOOD in _names(table) for table in whole):
        chosen = [table for table in whole if GOOD in _names(table)]
    if len(chosen) < len(whole):
        named = ", ".join(table.path.name for table in whole if table not in chosen)
        notes.append(f"segments of other classes are not counted: {named}")
    return chosen, notes


def _names(table: PytoTable) -> set[str]:
    """The classes that a table is of: those that its name has parts of, and all parts where the head names none."""
    parts = set(table.path.stem.split("_"))
    known = {name for _, names in table.classes for name in names}
    return parts & known if known else parts


def _kinds(table: PytoTable) -> set[str]:
    """Which kinds of segments a table is of: Pyto sorts by the labels touched, those named first and the rest."""
    names = next((names for kind, names in table.classes if kind == "contacted_ids" and len(names) > 1), ())
    mine = _names(table) & set(names)
    return {CONNECTOR if name == names[-1] else TETHER for name in mine} or {CONNECTOR, TETHER}


def _once(tables: Iterable[PytoTable]) -> tuple[Segment, ...]:
    """The segments of several tables of one run, each once.

    Raises
    ------
    BadInputError
        One id stands for different segments: the tables are of several runs.
    """
    seen: dict[int, tuple[Segment, Path]] = {}
    for table in tables:
        for segment in table.segments:
            before, path = seen.setdefault(segment.id, (segment, table.path))
            if before != segment:
                raise BadInputError(
                    f"{path} and {table.path} say different things of the segment {segment.id}",
                    expected="the tables of one run of Pyto in the folder",
                    remedy="Put those of an earlier run elsewhere",
                )
    return tuple(segment for segment, _ in seen.values())


def joined(vesicles: Vesicles, results: PytoResults) -> tuple[Vesicles, tuple[str, ...]]:
    """Our table with the columns that Pyto's results give.

    Parameters
    ----------
    vesicles : Vesicles
        Of the work folder: the ids are those of the labels.
    results : PytoResults

    Returns
    -------
    vesicles : Vesicles
        All rows, with features whose names begin with `PREFIX`, lengths in nm; NaN where Pyto says nothing. A vesicle
        that no connector touches has none (0), if Pyto looked at it.
    notes : tuple of str
        Ids that are in one of the two only, and places that differ.

    Raises
    ------
    BadInputError
        Pyto has more than half of the vesicles elsewhere: its results are of other labels.
    """
    ids = vesicles.ids.tolist()
    to_nm = vesicles.grid.voxel_nm
    columns: dict[str, NDArray[np.float64]] = {}
    notes = list(results.notes)

    def column(name: str, values: Mapping[int, float], scale: float = 1.0) -> None:
        if values:
            columns[PREFIX + name] = np.array([values.get(number, np.nan) for number in ids]) * scale

    of_all = results.vesicles
    lengths = sorted({name for values in of_all.values() for name in values if name.startswith("distance_")})
    for name in (*lengths, "radius"):
        column(f"{name}_nm", {number: values[name] for number, values in of_all.items() if name in values}, to_nm)
    for name, ours in _GREY.items():
        column(ours, {number: values[name] for number, values in of_all.items() if name in values})
    if results.segments is not None:
        columns |= _of_segments(vesicles, results)
    if results.clusters:
        sizes = dict(zip(*np.unique(list(results.clusters.values()), return_counts=True), strict=True))
        column("cluster", results.clusters)
        column("cluster_size", {number: float(sizes[cluster]) for number, cluster in results.clusters.items()})
    notes += _differences(vesicles, results)
    return without_results(vesicles).with_features(**columns), tuple(notes)


def without_results(vesicles: Vesicles) -> Vesicles:
    """Without the columns of an earlier import."""
    kept = {name: values for name, values in vesicles.features.items() if not name.startswith(PREFIX)}
    return vesicles.replace(features=kept)


def _of_segments(vesicles: Vesicles, results: PytoResults) -> dict[str, NDArray[np.float64]]:
    """Numbers and mean lengths of the connectors and tethers of each vesicle."""
    ids = vesicles.ids.tolist()
    membrane = set(results.membrane_ids)
    found: dict[str, dict[int, list[Segment]]] = {CONNECTOR: {}, TETHER: {}}
    partners: dict[int, set[int]] = {}
    for segment in results.segments or ():
        kind = TETHER if membrane & set(segment.contacts) else CONNECTOR
        touched = set(segment.contacts) - membrane
        for number in touched:
            found[kind].setdefault(number, []).append(segment)
            if kind == CONNECTOR:
                partners.setdefault(number, set()).update(touched - {number})
    # Where Pyto does not say what it looked at, it looked at all.
    looked_at = np.array([not results.looked_at or number in results.looked_at for number in ids], dtype=bool)

    def counts(values: Mapping[int, int]) -> NDArray[np.float64]:
        return np.where(looked_at, np.array([float(values.get(number, 0)) for number in ids]), np.nan)

    columns = {}
    if CONNECTOR in results.kinds:
        columns[f"{PREFIX}connected_vesicles"] = counts({number: len(others) for number, others in partners.items()})
    for kind, of_vesicle in found.items():
        if kind not in results.kinds or (kind == TETHER and not membrane):
            continue
        columns[f"{PREFIX}{kind}s"] = counts({number: len(segments) for number, segments in of_vesicle.items()})
        lengths = {
            number: np.mean(known)
            for number, segments in of_vesicle.items()
            if (known := [segment.values["length"] for segment in segments if "length" in segment.values])
        }
        nm = [float(lengths.get(number, np.nan)) * vesicles.grid.voxel_nm for number in ids]
        columns[f"{PREFIX}{kind}_length_nm"] = np.array(nm, dtype=np.float64)
    return columns


def _differences(vesicles: Vesicles, results: PytoResults) -> list[str]:
    """What does not fit together."""
    ours, theirs = set(vesicles.ids.tolist()), results.ids
    notes = []
    if theirs - ours:
        notes.append(f"in Pyto's results, but not in our table: {listed(theirs - ours)}")
    known = {"the table of vesicles": set(results.vesicles), "the tables of clusters": set(results.clusters)}
    known["the tables of segments"] = set(results.looked_at)
    for where, there in known.items():
        if there and ours - there:
            notes.append(f"in our table, but not in {where} of Pyto: {listed(ours - there)}")
    notes += [] if results.vesicles else ["there is no table of vesicles: no distances, radii and grey values"]
    if results.segments is None:
        notes.append("there is no table of segments: no connectors and tethers")
    elif len(results.kinds) == 1:
        (kind,) = {CONNECTOR, TETHER} - results.kinds
        notes.append(f"there is no table of {kind}s")
    if results.segments is not None and not results.membrane_ids:
        notes.append("the label of the active zone is not known: tethers are not told apart from connectors")
    return [*notes, *_moved(vesicles, results)]


def _moved(vesicles: Vesicles, results: PytoResults) -> list[str]:
    """Vesicles that Pyto has elsewhere.

    Raises
    ------
    BadInputError
        They are more than half of those whose places it tells.
    """
    moved, compared = [], 0
    for row, number in enumerate(vesicles.ids.tolist()):
        place = results.vesicles.get(number, {})
        if {"x", "y", "z"} <= set(place):
            centre = np.array([place["z"], place["y"], place["x"]])
            compared += 1
            if np.linalg.norm(centre - vesicles.centres_vox[row]) > SAME_PLACE_VOX:
                moved.append(number)
    if len(moved) > compared / 2:
        raise BadInputError(
            f"Pyto's results are of other labels: it has {len(moved)} of {compared} vesicles elsewhere than our table",
            expected=f"centres within {SAME_PLACE_VOX:g} voxels",
            got=listed(moved),
            remedy="Let Pyto run again on the labels that are in the folder",
        )
    if not moved:
        return []
    return [f"Pyto has these vesicles elsewhere than our table, so its results are of other labels: {listed(moved)}"]


def listed(numbers: Iterable[int]) -> str:
    """Ids for a message, the first of many."""
    ordered = sorted(numbers)
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return f"{'vesicle' if len(ordered) == 1 else 'vesicles'} {', '.join(map(str, ordered[:_NAMED]))}{more}"
