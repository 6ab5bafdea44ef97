"""The label volume for Pyto: cytosol, the membrane over it, vesicles over both, and no gaps between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deepvesicle.errors import BadInputError
from deepvesicle.files.atomic import new_file
from deepvesicle.files.labels import label_statistics
from deepvesicle.files.mrc_header import HEADER_BYTES
from deepvesicle.files.tomogram import header_bytes, slabs
from deepvesicle.fitting.rasterize import draw_slab
from deepvesicle.grid import Grid, Region
from deepvesicle.handover.gaps import Surroundings, ball, beside, between, gap_width, pockets, surroundings
from deepvesicle.handover.ids import SOURCE_ID, LabelIds
from deepvesicle.handover.regions import notes_of
from deepvesicle.handover.runs import give_crumbs, keep_one_piece, pieces_of
from deepvesicle.spheres import are_cut
from deepvesicle.vesicles import Vesicles

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

#: Pyto cannot work on smaller vesicles.
_LEAST_VOXELS = 20
#: A vesicle is outside if less than this share of its surface is inside, and wholly inside from the second share on:
#: what an outline lacks then is a slip of the hand.
_INSIDE, _WHOLLY = 0.5, 0.95
#: Ids that a note names one by one.
_NAMED = 12
_CUT, _AT_FACE, _BEYOND = "cut by the face of the volume", "touches the face of the volume", "outside the volume"
_OUTSIDE, _NOTHING, _SMALL = "outside the outline", "no voxel left", f"fewer than {_LEAST_VOXELS} voxels"


@dataclass(frozen=True)
class Painted:
    """What was done to make the label volume.

    Parameters
    ----------
    left_out : mapping of int to str
        Id in the user's table (the feature ``source_id``; without it the id) of each accepted vesicle that was not
        drawn, and why.
    notes : tuple of str
        What was mended, and what the user should look at, a line each; ids are those of the labels.
    drawn : Vesicles
        Those in the labels, with the ids of the labels.
    """

    left_out: Mapping[int, str]
    notes: tuple[str, ...]
    drawn: Vesicles


def paint_labels(
    path: str | os.PathLike[str],
    vesicles: Vesicles,
    cytosol: Region,
    membrane: Region | None,
    ids: LabelIds,
    *,
    dtype: DTypeLike = np.uint16,
    gap_vox: int = 0,
    keep_cut: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Painted:
    """Write the label volume that Pyto works on, as MRC file.

    The rules, in their order:

    1. Cytosol, and the membrane over it. The outermost voxels of the volume stay background, as Pyto's manual asks.
    2. Background between membrane and cytosol that is no wider than a membrane (8 nm, at least 3 voxels) becomes
       cytosol.
    3. Vesicles over both: balls of the outer radius, neither centre nor radius rounded (`rasterize` says how overlap is
       shared and gaps are made). What a gap clears becomes background: two membranes meet there, which Pyto would take
       for a connector if it were cytosol. Left out are vesicles that a face of the volume
       cuts or touches (unless `keep_cut`), those that lie outside (see 5), and those of fewer than 20 voxels.
    4. Each vesicle is one piece, connected through faces: smaller pieces go to what surrounds them.
    5. The surface of a vesicle must meet cytosol, membrane or another vesicle. Background about it that is a thin hole
       (`surroundings`) becomes cytosol. What of the surface then still meets background decides, other vesicles and
       faces of the volume left aside: a vesicle is outside if that is more than half of it; partly outside, and named,
       if more than 5 %; below that this one layer of voxels becomes cytosol, or membrane where it is connected to it.
       No other background is filled: organelles stay what they are.
    6. Vesicles left out at faces or outside are background, as Pyto would take their membranes for connectors; but what
       touches a drawn vesicle stays cytosol.
    7. Crumbs of membrane and of cytosol (under 1 % of the largest piece) go to what surrounds them: also what became
       cytosol between vesicles at the edge of an outline, apart from it. Cytosol enclosed between vesicles stays: Pyto
       takes the region as a whole, and there it touches what is around it anyway.

    Parameters
    ----------
    path : path
        Of the file, not compressed.
    vesicles : Vesicles
        Ids are those of the labels; rows that are not accepted are ignored. Their grid is that of the file.
    cytosol : Region
    membrane : Region, optional
    ids : LabelIds
    dtype : dtype
        uint16 or int16.
    gap_vox : int
        Voxels of background between any two vesicles.
    keep_cut : bool
        Draw vesicles that a face of the volume cuts or touches.
    overwrite : bool
        Replace a file that exists.
    progress : callable, optional
        Called with what is done and the total.

    Raises
    ------
    BadInputError
        No cytosol or no membrane in the volume, or an id that does not fit into the type.
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    ValueError
        Another type, or a membrane without id.
    """
    stored = np.dtype(dtype).newbyteorder("<")
    if stored not in (np.dtype("<u2"), np.dtype("<i2")):
        raise ValueError(f"labels for Pyto are uint16 or int16, not {np.dtype(dtype)}")
    if membrane is not None and ids.membrane is None:
        raise ValueError("the membrane needs an id")
    _check_ids(vesicles, ids, int(np.iinfo(stored).max))
    grid = vesicles.grid
    with new_file(path, overwrite=overwrite) as temporary:
        with open(temporary, "wb") as file:
            file.truncate(HEADER_BYTES + grid.voxel_count * stored.itemsize)
        labels = np.memmap(temporary, dtype=stored, mode="r+", offset=HEADER_BYTES, shape=grid.shape_zyx)
        painter = _Painter(np.asarray(labels), grid, ids, gap_vox, progress or (lambda done, total: None))
        painter.notes += dict.fromkeys((*notes_of(cytosol), *notes_of(membrane)))  # one file may have both
        painted = painter.paint(vesicles.select(vesicles.accepted), cytosol, membrane, keep_cut=keep_cut)
        labels.flush()
        del painter.labels, labels
        with open(temporary, "r+b") as file:
            file.write(header_bytes(grid, stored, label_statistics(painter.counts, grid.voxel_count)))
    return painted


def _check_ids(vesicles: Vesicles, ids: LabelIds, largest: int) -> None:
    used = [*ids.others, *vesicles.ids[vesicles.accepted].tolist()]
    if max(used) > largest:
        raise BadInputError("an id does not fit into the labels", expected=f"ids up to {largest}", got=str(max(used)))
    if len(set(used)) < len(used):
        raise ValueError("a vesicle has the id of the cytosol or the membrane")


@dataclass
class _Painter:
    """The volume while it is painted."""

    labels: NDArray[Any]
    grid: Grid
    ids: LabelIds
    gap_vox: int
    progress: Callable[[int, int], None]
    counts: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cleared: int = 0

    def paint(self, table: Vesicles, cytosol: Region, membrane: Region | None, *, keep_cut: bool) -> Painted:
        """See `paint_labels`; the steps have its order."""
        # Stands for what a gap clears, so that no later step fills it.
        used = {*self.ids.others, *table.ids.tolist()}
        self.cleared = next(label for label in range(1, int(np.iinfo(self.labels.dtype).max)) if label not in used)
        starts = list(range(0, len(self.labels), len(next(slabs(self.labels))[1])))
        self.done, self.total = 0, 2 * len(starts) + len(table)
        edges = self._paint_regions(cytosol, membrane)
        self._close_membrane_gap(edges)
        reasons = self._cut(table, keep_cut)
        holes = table.select([reason in (_CUT, _AT_FACE) for reason in reasons])
        chosen = [row for row, reason in enumerate(reasons) if not reason]
        candidates = table.select(chosen)
        for row in range(len(candidates)):
            if not self._is_inside(candidates, row):
                reasons[chosen[row]] = _OUTSIDE
        outside = table.select([reason == _OUTSIDE for reason in reasons])
        if 2 * len(outside) > len(candidates):
            self.notes.append(
                f"{len(outside)} of {len(candidates)} vesicles lie outside the cytosol: is it the right outline, and "
                "drawn about the cytosol, not about what is not (--outside)?"
            )
        self._draw(table.select([not reason for reason in reasons]))
        for row, reason in enumerate(reasons):
            reasons[row] = reason or self._keep_one_piece(table, row)
            self._tick()
        drawn = table.select([not reason for reason in reasons])
        self._close_holes(drawn)
        for left in (holes, outside):
            self._blank(left)
        self._tidy()
        self._clear(table)
        for row in range(len(drawn)):
            number = int(drawn.ids[row])
            self.counts[number] = int((self._box(drawn, row, 1.0)[0] == number).sum())
        source = table.features.get(SOURCE_ID, table.ids)
        left_out = {int(number): reason for number, reason in zip(source, reasons, strict=True) if reason}
        return Painted(left_out, tuple(self.notes), drawn)

    def _tick(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)

    def _paint_regions(self, cytosol: Region, membrane: Region | None) -> Integers:
        """Step 1: cytosol and membrane; flat indices of the membrane's voxels."""
        edges = [np.zeros(0, dtype=np.int64)]
        at_faces_count = 0
        found = [False, membrane is None]
        for z, slab in slabs(self.labels):
            part = self.grid.cropped((z, 0, 0), slab.shape)
            rim = _rim(slab.shape, z, len(self.labels))
            for number, region, label in ((0, cytosol, self.ids.cytosol), (1, membrane, self.ids.membrane)):
                if region is None or label is None:
                    continue
                mask = region.to_mask(part)
                for side in rim:
                    at_faces_count += int(np.count_nonzero(mask[side]))
                    mask[side] = False
                if mask.any():
                    found[number] = True
                    np.copyto(slab, label, where=mask, casting="unsafe")
                    if number:
                        edges.append(np.flatnonzero(mask) + z * slab[0].size)
            self._tick()
        for there, name in zip(found, ("cytosol", "membrane"), strict=True):
            if not there:
                raise BadInputError(
                    f"there is no {name} in the volume",
                    expected=f"a {name} that lies in it, and not only at its faces",
                    remedy="Look at the model or labels on this tomogram",
                )
        if at_faces_count:
            self.notes.append(
                f"{at_faces_count} voxels of cytosol or membrane at the faces of the volume became background, as "
                "Pyto's manual asks"
            )
        return np.concatenate(edges)

    def _close_membrane_gap(self, edges: Integers) -> None:
        """Step 2."""
        if not len(edges):
            return
        gap = between(self.labels, edges, self.ids.cytosol, gap_width(self.grid))
        self.labels.reshape(-1)[gap] = self.ids.cytosol
        if len(gap):
            self.notes.append(f"{len(gap)} voxels between membrane and cytosol became cytosol")

    def _cut(self, table: Vesicles, keep_cut: bool) -> list[str]:
        """Why vesicles are left out for where they are in the volume; empty for the others."""
        shape = np.asarray(self.grid.shape_zyx)
        centres, radii = table.centres_vox, table.radii_vox
        nearest = np.clip(centres, -0.5, shape - 0.5)
        beyond = np.linalg.norm(centres - nearest, axis=1) >= radii
        cut = are_cut(self.grid, centres, radii)
        touches = np.zeros(len(table), dtype=bool)
        for axis in range(3):
            for face in (0, int(shape[axis]) - 1):
                voxel = np.clip(np.rint(centres), 0, shape - 1)
                voxel[:, axis] = face
                touches |= np.linalg.norm(voxel - centres, axis=1) <= radii
        reasons = np.where(touches, _AT_FACE, np.full(len(table), "", dtype=object))
        reasons = np.where(cut, _CUT, reasons)
        return np.where(beyond, _BEYOND, np.where(keep_cut, "", reasons)).tolist()

    def _is_inside(self, table: Vesicles, row: int) -> bool:
        """Whether a vesicle, not drawn yet, lies inside: step 5."""
        width = gap_width(self.grid)
        box, low = self._box(table, row, width + 2)
        whole = ball(box.shape, table.centres_vox[row] - low, table.radii_vox[row])
        if box[beside(whole)].all():
            return True
        others = np.zeros(box.shape, dtype=np.int64)
        draw_slab(table, self.grid.cropped(low, box.shape), others, gap_vox=self.gap_vox)
        own = others == table.ids[row]
        about = self._surroundings(np.where(others > 0, others, box), own if own.any() else whole, low, table, row)
        return about.share >= _INSIDE

    def _draw(self, table: Vesicles) -> None:
        """Step 3."""
        in_membrane: set[int] = set()
        for z, slab in slabs(self.labels):
            drawn = np.empty_like(slab)
            part = self.grid.cropped((z, 0, 0), slab.shape)
            for number, _, box in draw_slab(table, part, drawn, gap_vox=self.gap_vox):
                view, own = slab[box], drawn[box] == number
                if self.ids.membrane is not None and (view[own] == self.ids.membrane).any():
                    in_membrane.add(number)
                view[own] = number
            self._tick()
        if self.gap_vox:
            for row in range(len(table)):
                view, low = self._box(table, row, 1.0)
                whole = ball(view.shape, table.centres_vox[row] - low, table.radii_vox[row])
                view[whole & np.isin(view, (0, self.ids.cytosol))] = self.cleared
        if in_membrane:
            what = "runs into the membrane and takes" if len(in_membrane) == 1 else "run into the membrane and take"
            self.notes.append(f"{_vesicles(sorted(in_membrane))} {what} its place")

    def _clear(self, table: Vesicles) -> None:
        """What a gap has cleared becomes background."""
        for row in range(len(table) if self.gap_vox else 0):
            view = self._box(table, row, 1.0)[0]
            view[view == self.cleared] = 0

    def _keep_one_piece(self, table: Vesicles, row: int) -> str:
        """Step 4; why nothing is left of a vesicle, else an empty string."""
        number = int(table.ids[row])
        left, given = keep_one_piece(self._box(table, row, 2.0)[0], number, _LEAST_VOXELS)
        if left and given:
            self.notes.append(f"vesicle {number}: {given} voxels cut off from the rest given to what surrounds them")
        return "" if left else _SMALL if given else _NOTHING

    def _close_holes(self, table: Vesicles) -> None:
        """Step 5, of drawn vesicles."""
        width, filled = gap_width(self.grid), 0
        near = [np.zeros(0, dtype=np.int64)]
        for row in range(len(table)):
            view, low = self._box(table, row, width + 2)
            about = self._surroundings(view, view == table.ids[row], low, table, row)
            view[about.gap] = self.ids.cytosol
            filled += int(about.gap.sum())
            about_it = ball(view.shape, table.centres_vox[row] - low, float(table.radii_vox[row]) + width)
            places = np.argwhere(about_it & (view == 0) & ~self._outermost(low, view.shape)) + low
            near.append(np.ravel_multi_index(tuple(places.T), self.labels.shape))
        free, flat = np.unique(np.concatenate(near)), self.labels.reshape(-1)
        closed = pockets(self.labels, free[flat[free] == 0])
        flat[closed] = self.ids.cytosol
        filled += len(closed)
        partly: dict[int, float] = {}
        for row in range(len(table)):
            view, low = self._box(table, row, width + 2)
            about = self._surroundings(view, view == table.ids[row], low, table, row)
            if about.share < _WHOLLY:
                partly[int(table.ids[row])] = about.share
            elif about.open.any():
                filled += int(about.open.sum())
                self._close_layer(view, about.open)
        if filled:
            self.notes.append(f"{filled} voxels of thin background about vesicles became cytosol")
        if partly:
            shares = ", ".join(f"{number} ({share:.0%} inside)" for number, share in list(partly.items())[:_NAMED])
            more = f" and {len(partly) - _NAMED} more" if len(partly) > _NAMED else ""
            self.notes.append(f"partly outside the outline, look at them: vesicle {shares}{more}")

    def _close_layer(self, view: NDArray[Any], layer: Mask) -> None:
        """The little that an outline lacks at a vesicle: membrane where it is connected to it, else cytosol."""
        from scipy.ndimage import label

        view[layer] = self.ids.cytosol
        if self.ids.membrane is not None:
            membrane = view == self.ids.membrane
            part, _ = label(membrane | layer, structure=np.ones((3, 3, 3)))
            layer &= np.isin(part, part[membrane])
            view[layer | ((view == 0) & beside(layer) & beside(membrane))] = self.ids.membrane

    def _blank(self, table: Vesicles) -> None:
        """Step 6: cytosol where vesicles are that were left out."""
        for row in range(len(table)):
            view, low = self._box(table, row, 2.0)
            whole = ball(view.shape, table.centres_vox[row] - low, table.radii_vox[row])
            others = ~np.isin(view, [0, *self.ids.others])
            view[whole & (view == self.ids.cytosol) & ~beside(others)] = 0

    def _tidy(self) -> None:
        """Step 7."""
        if self.ids.membrane is not None:
            self._tidy_one(self.ids.membrane, "membrane", self.ids.cytosol)
        self._tidy_one(self.ids.cytosol, "cytosol", self.ids.membrane)

    def _tidy_one(self, label: int, name: str, other: int | None) -> None:
        pieces = pieces_of(self.labels, label)
        taken, rest = give_crumbs(self.labels, pieces, label, other, keep_enclosed=label == self.ids.cytosol)
        self.counts[label] = int(pieces.sizes.sum()) - sum(taken.values())
        if other is not None and other in self.counts:
            self.counts[other] += taken.get(other, 0)
        if taken:
            self.notes.append(f"{sum(taken.values())} voxels of {name} apart from the rest given to what is round them")
        if len(rest) > 1:
            self.notes.append(
                f"the {name} is in {len(rest)} pieces, of {int(rest[0])} voxels and of {int(rest[1:].max())} or fewer. "
                f"Pyto takes them together: no harm if all of them are {name}"
            )

    def _box(self, table: Vesicles, row: int, margin: float) -> tuple[NDArray[Any], Integers]:
        """The part of the volume about a vesicle, to be read and painted, and its first voxel."""
        centre, reach = table.centres_vox[row], table.radii_vox[row] + margin
        low = np.clip(np.floor(centre - reach), 0, np.asarray(self.grid.shape_zyx) - 1).astype(np.int64)
        high = np.clip(np.ceil(centre + reach) + 1, low + 1, self.grid.shape_zyx).astype(np.int64)
        z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return self.labels[z, y, x], low

    def _surroundings(self, labels: NDArray[Any], own: Mask, low: Integers, table: Vesicles, row: int) -> Surroundings:
        centre, reach = table.centres_vox[row] - low, table.radii_vox[row] + gap_width(self.grid)
        return surroundings(labels, own, self._outermost(low, labels.shape), self.ids.others, centre, float(reach))

    def _outermost(self, low: Integers, shape: tuple[int, ...]) -> Mask:
        """Which voxels of a box are the outermost ones of the volume."""
        mask = np.zeros(shape, dtype=bool)
        for axis, (first, length, size) in enumerate(zip(low, shape, self.grid.shape_zyx, strict=True)):
            at = np.arange(int(first), int(first) + length)
            index = np.flatnonzero((at == 0) | (at == size - 1))
            mask[(slice(None),) * axis + (index,)] = True
        return mask


def _rim(shape: tuple[int, ...], z: int, planes: int) -> list[Any]:
    """The outermost voxels of a volume in a slab that begins at a plane."""
    sides: list[Any] = [np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]]
    return sides + [np.s_[0]] * (z == 0) + [np.s_[-1]] * (z + shape[0] == planes)


def _vesicles(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"vesicle{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:_NAMED]))}{more}"
