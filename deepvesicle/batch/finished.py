"""Which units are finished: told by the content of what went in and came out, not by the names of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from deepvesicle.batch.plan import Plan, Unit, deciding
from deepvesicle.batch.state import Print, Stage, State, print_of
from deepvesicle.errors import DeepVesicleError
from deepvesicle.files.atomic import is_temporary
from deepvesicle.files.run_record import RunRecord, read_run_record

#: Corrections are drawn in models; `deepvesicle fix` changes the table as well.
_MODEL_SUFFIX = ".mod"
_CORRECTED_SUFFIXES = (_MODEL_SUFFIX, ".csv")


class Verdict(Enum):
    """What lies in a unit's folder."""

    NOTHING = "nothing"
    REMAINS = "the remains of an attempt that did not end well"
    FINISHED = "the result, as it was written"
    CORRECTED = "the result, which the user has corrected since"
    OTHER = "something else"


@dataclass(frozen=True)
class Finding:
    """What was found in a unit's folder.

    Parameters
    ----------
    verdict : Verdict
    reason : str
        Why, where it is not finished; which corrections, where there are some.
    touched : bool
        Files there are not as they were written, or nobody knows whether they are: they may hold a user's work.
    record : RunRecord, optional
        Of a result.
    """

    verdict: Verdict
    reason: str = ""
    touched: bool = False
    record: RunRecord | None = None


def look(plan: Plan, unit: Unit, state: State) -> Finding:
    """Judge what lies in a unit's folder.

    A result is finished if its run record names the same tomogram, outline and network by their hashes, and the same
    settings, and if all its files are there and as they were written. The tomogram is read only if its size or time
    has changed since the state was written.
    """
    there = [path for path in unit.outputs(plan).values() if os.path.lexists(path)]
    if not there:
        return Finding(Verdict.NOTHING)
    if state.stage in (Stage.RUNNING, Stage.STOPPED, Stage.FAILED) and not unit.record(plan).exists():
        return Finding(Verdict.REMAINS, "an attempt did not end well")
    try:
        record = read_run_record(unit.record(plan))
    except DeepVesicleError:
        return Finding(Verdict.OTHER, "there is no run record", touched=True)
    changed = _changed(unit.outputs(plan), state)
    made = record.to_json() if record.before is None else record.before
    reason = _difference(plan, unit, state, made)
    if reason:
        return Finding(Verdict.OTHER, reason, touched=not state.outputs or bool(changed))
    missing = [name for name, path in unit.outputs(plan).items() if not path.is_file()]
    if record.before is not None and not any(name.endswith(_CORRECTED_SUFFIXES) for name in missing):
        return Finding(Verdict.CORRECTED, f"corrected with `deepvesicle {record.command}`", True, record)
    if missing and not changed and record.before is None:
        return Finding(Verdict.REMAINS, f"{missing[0]} is missing")
    drawn = all(name.endswith(_MODEL_SUFFIX) and _is_model(path) for name, path in changed.items())
    if changed and drawn and not missing:
        return Finding(Verdict.CORRECTED, f"{next(iter(changed))} was changed since it was written", True, record)
    if missing:
        return Finding(Verdict.OTHER, f"{missing[0]} is missing", touched=True)
    if changed:
        return Finding(Verdict.OTHER, f"{next(iter(changed))} is not as it was written", touched=True)
    return Finding(Verdict.FINISHED, record=record)


def clear(plan: Plan, unit: Unit, finding: Finding, *, overwrite: bool = False) -> str:
    """Make room for a new result.

    What a failed attempt left is removed, and so is, with `overwrite`, a result that is as it was written. Anything
    else is kept in a folder ``earlier_1``, ``earlier_2`` and so on.

    Returns
    -------
    str
        Where earlier results went and why, for the notes; empty where there were none.
    """
    folder = unit.folder(plan)
    for path in folder.iterdir():
        if is_temporary(path.name):  # of an attempt that was killed, here or on another machine
            path.unlink(missing_ok=True)
    there = [path for path in unit.outputs(plan).values() if os.path.lexists(path)]
    if not there:
        return ""
    if finding.verdict is Verdict.REMAINS or (overwrite and not finding.touched):
        # The record goes first: without it, nothing that is left passes for a result.
        for path in [unit.record(plan), *there]:
            path.unlink(missing_ok=True)
        return ""
    number = 1
    while (aside := folder / f"earlier_{number}").exists():
        number += 1
    aside.mkdir()
    for path in [path for path in there if path != unit.record(plan)] + [unit.record(plan)]:
        if os.path.lexists(path):
            os.replace(path, aside / path.name)
    return f"earlier results are in {aside.name} ({finding.reason})"


def prints(paths: Mapping[str, Path]) -> dict[str, Print]:
    """Take the prints of files that can be read."""
    taken = {name: print_of(path) for name, path in paths.items()}
    return {name: found for name, found in taken.items() if found is not None}


def sources(unit: Unit) -> dict[str, Path]:
    """The files that a result is made of, as run records and states name them."""
    return {"tomogram": Path(unit.tomogram), **({"mask": Path(unit.mask)} if unit.mask else {})}


def _changed(outputs: Mapping[str, Path], state: State) -> dict[str, Path]:
    """Outputs that are there and not as the state has them; of what the state does not have, nothing can be said."""
    known = {name: path for name, path in outputs.items() if name in state.outputs and path.is_file()}
    now = {name: print_of(path, state.outputs[name]) for name, path in known.items()}
    return {name: known[name] for name, found in now.items() if not _same(found, state.outputs[name])}


def _same(found: Print | None, before: Print) -> bool:
    return found is not None and (found.bytes, found.sha256) == (before.bytes, before.sha256)


def _difference(plan: Plan, unit: Unit, state: State, made: Mapping[str, Any]) -> str:
    """How a result (its run record as JSON) is not the one that is wanted; empty where it is."""
    wanted = plan.wanted
    try:
        hashes = {name: item["sha256"] for name, item in made["inputs"].items()}
        settings = deciding(made["settings"])
        voxel_nm = made["voxel_nm"] if made["voxel_source"] == "option" else None
        invert = bool(made.get("invert", False))
    except (KeyError, TypeError, AttributeError, DeepVesicleError):
        return "its run record cannot be understood"
    if made.get("command") != "segment" or set(hashes) - {"model"} != set(sources(unit)):
        return "it was made in another way"
    if hashes.get("model") != wanted.model_sha256:
        return "made with another model"
    if voxel_nm != wanted.voxel_nm:
        return "made with another voxel size"
    if invert != wanted.invert:
        return "made with the other contrast"
    if settings != wanted.settings:
        return "made with other settings: " + ", ".join(_names_that_differ(settings, wanted.settings))
    for name, path in sources(unit).items():
        found = print_of(path, state.inputs.get(name))
        if found is None:
            return f"the {name} cannot be read"
        if found.sha256 != hashes[name]:
            return f"made of another {name}"
    return ""


def _names_that_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterable[str]:
    for group in sorted(set(one) | set(other)):
        a, b = one.get(group, {}), other.get(group, {})
        yield from (f"{group}.{name}" for name in sorted(set(a) | set(b)) if a.get(name) != b.get(name))


def _is_model(path: Path) -> bool:
    """Whether a file is a whole IMOD model, such as 3dmod saves."""
    from imod_bridge.errors import BridgeError
    from imod_bridge.model import read_model

    try:
        read_model(path)
    except (BridgeError, OSError, ValueError):
        return False
    return True
