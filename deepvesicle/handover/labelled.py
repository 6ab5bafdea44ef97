"""What is wrong with the labels of a work folder: gaps, sizes, shapes, contacts, faces; and with the contrast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.quality import contrast_sign
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.handover.balls import Ball, contacts
from deepvesicle.handover.findings import Finding, Severity, named
from deepvesicle.handover.folder import TomoInfo
from deepvesicle.handover.grey import FEWEST_FITS, Sizes, measured_sizes, sign_at, usable
from deepvesicle.handover.sides import Sides, sides_of
from deepvesicle.handover.surfaces import GAP_VOX, Beside, Census, Role
from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]

#: vesicles.py fails on labels of at most so many voxels.
TINY_VOXELS = 19
#: Shares of a surface beside background from which nothing is found there, numbers are wrong, and less; and how much of
#: a membrane's surface may have a gap before it, as at the ends of a drawn line.
_LOST, _PARTLY, _ENDS = 0.5, 0.02, 0.02
#: Background before a membrane is looked through so far, nm. Wide background on more of its side to the cytosol than
#: this is told (less may be an organelle); where less than this touches the cytosol, none does. Cytosol on both sides
#: is told from this share on: membranes that were drawn with steps between slices have some.
_GAP_REACH_NM, _BEFORE, _NOWHERE, _BOTH_SIDES = 60.0, 0.1, 0.05, 0.3
#: Labels are called too small or too large from this on, voxels, and much too small from the second on.
_OFF_VOX, _FAR_OFF_VOX = 0.75, 1.5
#: ... by fits to the tomogram: from so many standard errors on. Single ones from this on, and so many of theirs.
_SURE, _SINGLE_VOX, _SINGLE_SURE = 4.0, 1.25, 5.0
#: A table whose centres agree with fewer labels than this share is of other labels.
_SAME_TABLE = 0.5
#: What to do about inverted contrast.
_DARK = "Dense has to be dark (low values): hand over anew with --invert, or without it if it was given"


@dataclass(frozen=True, eq=False)
class Labelled:
    """A label volume and what was found of it.

    Parameters
    ----------
    data : unsigned array (z, y, x)
    grid : Grid
    info : TomoInfo
    roles : uint8 array (LABELS,)
        `Role` of each label.
    census : Census
    balls : sequence of Ball
        Of the vesicles that are there and not tiny.
    """

    data: NDArray[Any]
    grid: Grid
    info: TomoInfo
    roles: NDArray[np.uint8]
    census: Census
    balls: Sequence[Ball]

    def having(self, role: Role) -> list[int]:
        """The labels of a role that are there."""
        return [number for number in self.census.present if self.roles[number] == role]

    @property
    def has_cytosol(self) -> bool:
        """Whether it is known which label the cytosol is, and it is there; else another finding says so."""
        info = self.info
        others = (*(info.vesicle_ids or ()), *(info.boundary_ids or ()), info.distance_id)
        return bool(self.having(Role.CYTOSOL)) and info.segmentation_region not in others


def label_findings(labelled: Labelled) -> Iterator[Finding]:
    """What is wrong with the labels themselves."""
    yield from _tiny(labelled)
    if labelled.has_cytosol:
        yield from _vesicle_gaps(labelled)
        yield from _membrane_gap(labelled)
    yield from _shapes(labelled)
    yield from _contacts(labelled)
    yield from _faces(labelled)


def _tiny(labelled: Labelled) -> Iterator[Finding]:
    census = labelled.census
    tiny = [number for number in labelled.having(Role.VESICLE) if census.voxels[number] <= TINY_VOXELS]
    if tiny:
        where = census.middles(tiny)
        remarks = [f"{census.voxels[number]} voxels" for number in tiny]
        text = f"too small, so that vesicles.py fails: {named('vesicle', tiny, where, remarks)}"
        remedy = f"Take them out, or draw them with more than {TINY_VOXELS} voxels"
        yield Finding("tiny", Severity.ERROR, text, remedy, tiny, where)


def _vesicle_gaps(labelled: Labelled) -> Iterator[Finding]:
    """By how much of their surface touches background."""
    census = labelled.census
    severe: dict[tuple[str, Severity], list[tuple[int, float]]] = {}
    for number in labelled.having(Role.VESICLE):
        gap, beyond = census.share(number, Beside.GAP), census.share(number, Beside.OPEN)
        share = gap + beyond
        if share == 0:
            continue
        severity = Severity.ERROR if share >= _LOST else Severity.WARNING if share >= _PARTLY else Severity.NOTE
        kind = "vesicle_gap" if gap >= beyond else "vesicle_outside"
        severe.setdefault((kind, severity), []).append((number, share))
    meaning = {
        Severity.ERROR: "no connectors or tethers are found there",
        Severity.WARNING: "connectors and tethers are missed there",
        Severity.NOTE: "hardly matters",
    }
    for (kind, severity), rows in severe.items():
        ids = [number for number, _ in rows]
        where = census.middles(ids)
        what = "background between vesicle and cytosol" if kind == "vesicle_gap" else "surface outside the cytosol"
        remarks = [_percent(share) for _, share in rows]
        text = f"{what} ({meaning[severity]}): {named('vesicle', ids, where, remarks)}"
        remedy = (
            "Make the background that touches vesicles cytosol"
            if kind == "vesicle_gap"
            else "Draw the cytosol farther, or leave these vesicles out"
        )
        yield Finding(kind, severity, text, remedy, ids, where)


def _membrane_gap(labelled: Labelled) -> Iterator[Finding]:
    """Whether the cytosol lies at the membrane, and on one side of it alone."""
    census, membrane = labelled.census, labelled.info.distance_id
    if membrane is None or membrane not in labelled.having(Role.BOUNDARY):
        return
    reach = int(labelled.grid.length_to_vox(_GAP_REACH_NM))
    sides = sides_of(labelled.data, census, labelled.roles, membrane, reach)
    yield from _before_membrane(labelled, sides, membrane)
    both = (sides.gaps >= 0).all(axis=1) & (sides.gaps <= GAP_VOX).all(axis=1)
    share = both.sum() / max((sides.nearest >= 0).sum(), 1)
    if share > _BOTH_SIDES:
        where = _one_of(sides.middles[both])
        which = named("label", [membrane], where, [f"{100 * share:.0f} % of it"])
        text = f"the membrane has cytosol on both sides, so that tethers are looked for outside the cell too: {which}"
        remedy = "End the cytosol at the membrane (the outline), and take a label of the cytosol beyond it away"
        yield Finding("both_sides", Severity.WARNING, text, remedy, (membrane,), where)


def _before_membrane(labelled: Labelled, sides: Sides, membrane: int) -> Iterator[Finding]:
    """Background between the membrane and the cytosol, thin or wide."""
    faces, ids = labelled.census.faces[membrane], (membrane,)
    thin = float(faces[Beside.GAP] / max(faces[[Beside.GAP, Beside.CYTOSOL, Beside.VESICLE]].sum(), 1))
    nearest = sides.nearest
    behind = nearest > 0
    wide = float(behind.sum() / max((nearest >= 0).sum(), 1))
    touching = float((nearest == 0).mean()) if len(nearest) else 1.0
    remedy = "Draw the cytosol up to the membrane; background between them is no cytosol"
    if not faces[Beside.CYTOSOL] or touching < _NOWHERE:
        where = _one_of(sides.middles[behind] if behind.any() else sides.middles)
        almost = "almost " if faces[Beside.CYTOSOL] else ""
        apart = f"; {_apart(labelled, nearest[behind])} of background lie between them" if behind.any() else ""
        which = named("label", ids, where)
        text = f"the membrane touches the cytosol {almost}nowhere, so that no tethers are found{apart}: {which}"
        yield Finding("membrane_gap", Severity.ERROR, text, remedy, ids, where)
    elif thin > _ENDS or wide > _BEFORE:
        share = max(thin, wide)
        severity = Severity.ERROR if share >= _LOST else Severity.WARNING
        lost = "no tethers are found" if severity is Severity.ERROR else "tethers are missed"
        where = _one_of(sides.middles[behind]) if behind.any() else labelled.census.samples[membrane, Beside.GAP]
        apart = f" ({_apart(labelled, nearest[behind])} wide)" if behind.any() else ""
        which = named("label", ids, where, [_percent(share)])
        text = f"background between membrane and cytosol{apart}, where {lost}: {which}"
        yield Finding("membrane_gap", severity, text, remedy, ids, where)


def _apart(labelled: Labelled, gaps_vox: NDArray[np.int64]) -> str:
    """The usual width of a gap in words."""
    middle = float(np.median(gaps_vox))
    unit = "voxel" if middle == 1 else "voxels"
    return f"{middle:.0f} {unit}, {labelled.grid.length_to_nm(middle):.0f} nm,"


def _one_of(points: Floats) -> Floats:
    """The point (1, 3) that is nearest to the middle of all."""
    if not len(points):
        return np.zeros((0, 3))
    nearest = int(np.argmin(np.linalg.norm(points - points.mean(axis=0), axis=1)))
    return np.asarray(points[nearest : nearest + 1], dtype=np.float64)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} % of its surface" if share >= 0.095 else f"{100 * share:.1f} % of its surface"


def _shapes(labelled: Labelled) -> Iterator[Finding]:
    """Labels in pieces, and those that are no balls."""
    for kind, rows in (
        ("pieces", [(ball, _in_pieces(ball)) for ball in labelled.balls if len(ball.pieces) > 1]),
        ("not_a_ball", [(ball, why) for ball in labelled.balls if (why := _no_ball(labelled, ball))]),
    ):
        if not rows:
            continue
        ids, where = [ball.label for ball, _ in rows], [ball.centre_vox for ball, _ in rows]
        which = named("vesicle", ids, where, [why for _, why in rows])
        if kind == "pieces":
            text = f"labels in several pieces, perhaps two vesicles with one id (pairs and radii are wrong): {which}"
            remedy = "Give every vesicle its own id, and erase loose voxels"
        else:
            text = f"labels that are no balls, perhaps two vesicles with one id (pairs and radii are wrong): {which}"
            remedy = "Give every vesicle its own id, and draw it as a ball"
        yield Finding(kind, Severity.WARNING, text, remedy, ids, where)  # type: ignore[arg-type]


def _in_pieces(ball: Ball) -> str:
    sizes = " and ".join(str(size) for size in ball.pieces[:3])
    return f"{len(ball.pieces)} pieces of {sizes}{' ...' if len(ball.pieces) > 3 else ''} voxels"


def _no_ball(labelled: Labelled, ball: Ball) -> str:
    """Why a label is no ball; empty if it is one, or if a face of the volume cuts it."""
    if ball.is_ball:
        return ""
    if ball.too_large:
        return f"{labelled.census.voxels[ball.label]} voxels"
    if ball.parts > 1:
        return f"{ball.parts} balls with a neck between them"
    if labelled.census.on_face([ball.label])[0]:
        return ""
    if not np.isfinite(ball.radius_vox):
        return "flat"
    if ball.is_long:
        return f"{ball.axis_ratio:.1f} times as long as wide" if ball.axis_ratio < 10 else "much longer than wide"
    return f"only {100 * ball.fullness:.0f} % of its ball"


def _contacts(labelled: Labelled) -> Iterator[Finding]:
    census = labelled.census
    touching = [number for number in labelled.having(Role.VESICLE) if census.faces[number, Beside.VESICLE]]
    found = contacts(labelled.data, census, labelled.roles, touching)
    if not found:
        return
    pairs = [f"{one.labels[0]} and {one.labels[1]}" for one in found]
    where = np.array([one.place_vox for one in found])
    ids = sorted({number for one in found for number in one.labels})
    remarks = [f"{one.faces} faces" for one in found]
    text = f"touching vesicles, where connectors of 1 or 2 voxels are found: {named('pair', pairs, where, remarks)}"
    yield Finding(
        "touching", Severity.WARNING, text, "If they do not touch in truth, leave a gap (--gap 1)", ids, where
    )


def _faces(labelled: Labelled) -> Iterator[Finding]:
    census = labelled.census
    vesicles = [i for i in labelled.having(Role.VESICLE) if census.on_face([i])[0]]
    if vesicles:
        where = census.middles(vesicles)
        text = f"cut by a face of the volume, so that radii are wrong: {named('vesicle', vesicles, where)}"
        yield Finding("on_face", Severity.WARNING, text, "Leave these vesicles out", vesicles, where)
    others = [
        i for role in (Role.CYTOSOL, Role.BOUNDARY, Role.OTHER) for i in labelled.having(role) if census.on_face([i])[0]
    ]
    if others:
        text = f"labels on a face of the volume, which Pyto's manual forbids: {named('label', others)}"
        yield Finding("on_face", Severity.NOTE, text, "Set the outermost layer of voxels to 0", others)


# --- beside the tomogram and the table


def contrast_findings(tomogram: Tomogram, balls: Sequence[Ball]) -> Iterator[Finding]:
    """Whether dense matter is bright: what the membranes at the labels say counts most."""
    at_labels = sign_at(tomogram, usable(balls, tomogram.grid.voxel_nm))
    if at_labels == "dark":
        return
    everywhere = contrast_sign(tomogram).sign
    if "bright" in (at_labels, everywhere) and "dark" not in (at_labels, everywhere):
        what = "the membranes of the vesicles are" if at_labels == "bright" else "dense matter seems to be"
        text = f"inverted contrast: {what} bright, so that no connectors are found"
        yield Finding("contrast", Severity.ERROR, text, _DARK)


def size_findings(labelled: Labelled, tomogram: Tomogram | None, table: Vesicles | None) -> Iterator[Finding]:
    """Labels that are too small or too large: beside the table, or else beside the tomogram's membranes."""
    balls = [ball for ball in labelled.balls if np.isfinite(ball.radius_vox) and ball.parts == 1]
    if table is not None and balls:
        excess = _beside_table(labelled, balls, table)
        if len(excess) >= _SAME_TABLE * len(balls):
            yield from _by_table(excess, balls)
            return
        text = f"vesicles.csv is of other labels: {len(excess)} of {len(balls)} vesicles are where it says"
        yield Finding("table", Severity.WARNING, text, "Remove the table, or make it anew; the ids have to be the same")
    if tomogram is not None:
        whole = [ball for ball in balls if not labelled.census.on_face([ball.label])[0]]
        yield from _by_tomogram(measured_sizes(tomogram, usable(whole, tomogram.grid.voxel_nm)), balls)


def _beside_table(labelled: Labelled, balls: Sequence[Ball], table: Vesicles) -> dict[int, float]:
    """Radius of each label less that in the table, voxels, where the table has the vesicle."""
    centres = table.grid.map_points(table.centres_vox, labelled.grid)
    radii = labelled.grid.length_to_vox(table.radii_nm)
    row_of = {int(number): row for row, number in enumerate(table.ids)}
    excess = {}
    for ball in balls:
        row = row_of.get(ball.label)
        if row is not None and np.linalg.norm(centres[row] - ball.centre_vox) < radii[row]:
            excess[ball.label] = ball.radius_vox - float(radii[row])
    return excess


def _by_table(excess: Mapping[int, float], balls: Sequence[Ball]) -> Iterator[Finding]:
    source = "than in vesicles.csv"
    small = {number: off for number, off in excess.items() if off <= -_OFF_VOX}
    for severity, which in (
        (Severity.ERROR, {number: off for number, off in small.items() if off <= -_FAR_OFF_VOX}),
        (Severity.WARNING, {number: off for number, off in small.items() if off > -_FAR_OFF_VOX}),
    ):
        if which:
            yield _size_finding(severity, which, balls, source)
    large = {number: off for number, off in excess.items() if off >= _OFF_VOX}
    if large:
        yield _size_finding(Severity.WARNING, large, balls, source)


def _by_tomogram(sizes: Sizes, balls: Sequence[Ball]) -> Iterator[Finding]:
    """All labels by their median; or single ones, where the others are right."""
    off, count = sizes.typical_vox, len(sizes.labels)
    rows = list(zip(sizes.labels.tolist(), sizes.excess_vox.tolist(), sizes.sigma_vox.tolist(), strict=True))
    if count >= FEWEST_FITS and abs(off) >= max(_OFF_VOX, _SURE * sizes.error_vox):
        severity = Severity.ERROR if off <= -_FAR_OFF_VOX else Severity.WARNING
        which = {number: one for number, one, _ in rows if one * off > 0 and abs(one) >= _OFF_VOX}
        source = f"than their membranes in the tomogram, by {abs(off):.1f} voxel on the whole, of {count} looked at"
        yield _size_finding(severity, which, balls, source)
        return
    if count < min(FEWEST_FITS, sizes.looked_at):
        text = f"sizes could not be checked: the tomogram shows the membranes of {count} of {sizes.looked_at} vesicles"
        remedy = "Look whether the labels fill the vesicles, up to the outer edge of the membrane"
        yield Finding("sizes_unknown", Severity.NOTE, text, remedy)
    for sign in (-1, 1):
        which = {number: one for number, one, sigma in rows if sign * one >= max(_SINGLE_VOX, _SINGLE_SURE * sigma)}
        if which:
            source = f"than their membranes in the tomogram, of {count} looked at"
            yield _size_finding(Severity.WARNING, which, balls, source)


def _size_finding(severity: Severity, excess: Mapping[int, float], balls: Sequence[Ball], source: str) -> Finding:
    ids = sorted(excess)
    centres = {ball.label: ball.centre_vox for ball in balls}
    where = np.array([centres[number] for number in ids])
    remarks = [f"{excess[number]:+.1f} voxel" for number in ids]
    small = excess[ids[0]] < 0
    meaning = "spurious connectors are found"
    if small:
        meaning = "no connectors are found" if severity is Severity.ERROR else "connectors are missed"
    text = f"labels {'smaller' if small else 'larger'} {source} ({meaning}): {named('vesicle', ids, where, remarks)}"
    remedy = "Draw the balls up to the outer edge of the membrane"
    return Finding("too_small" if small else "too_large", severity, text, remedy, ids, where)
