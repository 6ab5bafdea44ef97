"""The lists of ``tomo_info.py`` beside one another, and beside the labels that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from deepvesicle.handover.findings import Finding, Severity, named
from deepvesicle.handover.folder import TomoInfo
from deepvesicle.handover.surfaces import LABELS, Census, Role


def roles_of(info: TomoInfo, present: Sequence[int]) -> NDArray[np.uint8]:
    """What each label stands for (LABELS,) once Pyto has read the file: labels that are not listed are background.

    Where the list of all labels is not understood, those that are there count as listed.
    """
    roles = np.zeros(LABELS, dtype=np.uint8)
    listed = _within(info.all_ids if info.all_ids is not None else present)
    for ids, role in (
        (listed, Role.OTHER),
        (_boundaries(info), Role.BOUNDARY),
        (_within(info.vesicle_ids), Role.VESICLE),
        (_within((info.segmentation_region,)), Role.CYTOSOL),
    ):
        roles[ids] = role
    unlisted = np.ones(LABELS, dtype=bool)
    unlisted[listed] = False
    roles[unlisted] = Role.BACKGROUND
    return roles


def _within(ids: Sequence[int | None] | None) -> list[int]:
    """Ids that a label can have."""
    return [number for number in ids or () if number is not None and 0 < number < LABELS]


def _boundaries(info: TomoInfo) -> list[int]:
    return _within((*(info.boundary_ids or ()), info.distance_id))


def list_findings(info: TomoInfo) -> Iterator[Finding]:
    """What is wrong with the lists, whatever the labels are."""
    yield from info.problems
    for name in ("all_ids", "boundary_ids", "vesicle_ids"):
        ids = getattr(info, name) or ()
        double = sorted({number for number in ids if ids.count(number) > 1})
        if double:
            text = f"{name} names {named('id', double)} more than once"
            yield Finding("duplicates", Severity.WARNING, text, "Name every id once", double)
        if 0 in ids:
            text = f"{name} contains 0, which is the background"
            yield Finding("zero_listed", Severity.WARNING, text, f"Take 0 out of {name}", (0,))
    if info.vesicle_ids is not None:
        yield from _vesicle_list(info)
    yield from _region(info)
    yield from _distance(info)
    yield from _boundary_list(info)


def _vesicle_list(info: TomoInfo) -> Iterator[Finding]:
    form = info.vesicle_ids_form
    if form not in ("list", "unknown"):
        text = f"vesicle_ids is {'an' if form == 'array' else 'a'} {form}, on which layers.py fails"
        yield Finding(
            "vesicle_ids_form", Severity.ERROR, text, "Write vesicle_ids as a list, such as list(range(10, 20))"
        )
    if not info.vesicle_ids:
        yield Finding("no_vesicles", Severity.ERROR, "vesicle_ids is empty", "List the ids of the vesicles")


def _region(info: TomoInfo) -> Iterator[Finding]:
    region = info.segmentation_region
    if region is None:
        return
    remedy = "Set segmentation_region to the id of the cytosol"
    taken = [name for name in ("vesicle_ids", "boundary_ids") if region in (getattr(info, name) or ())]
    if region == info.distance_id:
        taken.append("distance_id")
    if taken:
        text = f"segmentation_region is {region}, which is in {' and '.join(taken)} too"
        yield Finding("segmentation_region", Severity.ERROR, text, remedy, (region,))
    if region == 0:
        text = "segmentation_region is 0, the background, in which other things lie too"
        yield Finding("segmentation_region", Severity.ERROR, text, remedy, (region,))


def _distance(info: TomoInfo) -> Iterator[Finding]:
    if "distance_id" in info.unknown:
        return
    distance = info.distance_id
    remedy = "Set distance_id to the id of the active-zone membrane, and name it in boundary_ids too"
    if distance is None:
        text = "distance_id is None, on which layers.py and connectors.py fail"
        yield Finding("distance_id", Severity.ERROR, text, remedy)
        return
    if distance in (info.vesicle_ids or ()):
        text = f"distance_id is {distance}, which is a vesicle"
        yield Finding("distance_id", Severity.ERROR, text, remedy, (distance,))
    if info.boundary_ids is not None and distance not in info.boundary_ids:
        text = f"distance_id is {distance}, which is not in boundary_ids, so that no tethers are found"
        yield Finding("distance_id", Severity.ERROR, text, remedy, (distance,))


def _boundary_list(info: TomoInfo) -> Iterator[Finding]:
    """Boundaries are the membrane and the vesicles."""
    if info.boundary_ids is None or info.vesicle_ids is None:
        return
    remedy = "Set boundary_ids to [distance_id] + vesicle_ids"
    missing = sorted(set(info.vesicle_ids) - set(info.boundary_ids))
    if missing:
        text = f"no connectors are found at {named('vesicle', missing)}: not in boundary_ids"
        yield Finding("boundary_ids", Severity.ERROR, text, remedy, missing)
    others = {info.distance_id, info.segmentation_region, 0}
    more = sorted(set(info.boundary_ids) - set(info.vesicle_ids) - {i for i in others if i is not None})
    if more and "distance_id" not in info.unknown:
        text = f"boundary_ids names {named('label', more)}, neither membrane nor vesicle; connectors to it count too"
        yield Finding("boundary_ids", Severity.WARNING, text, remedy, more)


def presence_findings(info: TomoInfo, census: Census) -> Iterator[Finding]:
    """Ids that are listed and not there, and the other way round."""
    present = set(census.present)
    names: dict[int, list[str]] = {}
    for name in ("all_ids", "vesicle_ids", "boundary_ids"):
        for number in getattr(info, name) or ():
            names.setdefault(number, []).append(name)
    for name in ("segmentation_region", "distance_id"):
        number = getattr(info, name)
        if number is not None:
            names.setdefault(number, []).append(name)
    absent = sorted(number for number in names if number not in present and number != 0)
    if absent:
        remarks = [" and ".join(dict.fromkeys(names[number])) for number in absent]
        which = named("id", absent, (), remarks)
        text = f"listed but not in the labels, on which layers.py and connectors.py fail: {which}"
        yield Finding("absent", Severity.ERROR, text, "Take them out of tomo_info.py, or draw them", absent)
    if info.all_ids is None:
        return
    needed = sorted(number for number in names if number in present and number not in info.all_ids)
    if needed:
        text = f"needed but not in all_ids, so that Pyto removes them: {named('label', needed, census.middles(needed))}"
        yield Finding("unlisted", Severity.ERROR, text, "Name them in all_ids", needed, census.middles(needed))
    unlisted = sorted(present - set(names))
    if unlisted:
        where = census.middles(unlisted)
        text = f"in the labels but not listed, so that they count as background: {named('label', unlisted, where)}"
        remedy = "Name them in all_ids, and vesicles in vesicle_ids and boundary_ids too"
        yield Finding("unlisted", Severity.WARNING, text, remedy, unlisted, where)
