"""How a volume is cut into columns for the network: as much per column as the memory allows, as little work in all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deepvesicle.network.resample import Region
from deepvesicle.network.schedule import TAIL, TWO_CONVOLUTIONS, Schedule
from deepvesicle.network.unet import UNetShape

#: Slices per step that are tried; more make each step cheaper, and cost memory.
SLICES = (8, 16, 32)
#: Slices that are read at once, unless a step takes more.
READ_SLICES = 32
#: Least edge of a column, voxels.
LEAST_EDGE_VOX = 32
#: Copies of what is read that exist at a time.
_READ_COPIES = 3
#: TensorFlow's allocator takes so many times what the tensors alive need, and so much once, whatever their size: the
#: most that was measured, over columns of 32 to 464 voxels, 8 to 32 slices, in both precisions.
_ALLOCATOR, _ONCE_BYTES = 1.75, 145_000_000


@dataclass(frozen=True)
class Tiling:
    """Equal columns that cover a volume.

    Parameters
    ----------
    inner_yx : tuple of int
        Size of a column's result, voxels.
    slices : int
        That are read per step.
    columns : tuple of (slice, slice)
        y and x of each column; those at the far ends may be smaller than `inner_yx`.
    bytes_needed : int
        Memory that the network takes, beyond what the process has before.
    """

    inner_yx: tuple[int, int]
    slices: int
    columns: tuple[tuple[slice, slice], ...]
    bytes_needed: int


def plan_tiles(
    shape_zyx: tuple[int, int, int], largest: int, alignment: int
) -> tuple[tuple[int, int, int], list[Region]]:
    """Equal tiles that cover a volume.

    Parameters
    ----------
    shape_zyx : tuple of int
        Of the volume.
    largest : int
        Longest edge of a tile, voxels.
    alignment : int
        Edges and starts are multiples of this.

    Returns
    -------
    inner : tuple of int
        Size of every tile (z, y, x).
    regions : list of tuple of slice
        The part of the volume that each tile fills; those at the far ends may be smaller than `inner`.
    """
    z, y, x = (_equal_edge(n, largest, alignment) for n in shape_zyx)
    regions = [
        (part, *column) for part in _parts(shape_zyx[0], z) for column in _columns((shape_zyx[1], shape_zyx[2]), (y, x))
    ]
    return (z, y, x), regions


def _equal_edge(length: int, largest: int, alignment: int) -> int:
    count = -(-length // max(alignment, largest // alignment * alignment))
    return -(-length // (count * alignment)) * alignment


def _parts(length: int, edge: int) -> list[slice]:
    return [slice(start, min(start + edge, length)) for start in range(0, length, edge)]


def _columns(shape_yx: tuple[int, int], inner_yx: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for y in _parts(shape_yx[0], inner_yx[0]):
        for x in _parts(shape_yx[1], inner_yx[1]):
            yield y, x


def plan_columns(
    shape_zyx: tuple[int, int, int],
    network: UNetShape,
    budget_bytes: float,
    *,
    value_bytes: int = 4,
    views: int = 1,
    largest: int = 0,
) -> Tiling:
    """The columns that take the least work of those that fit into the memory.

    Parameters
    ----------
    shape_zyx : tuple of int
        Of the volume, voxels of the network's grid.
    network : UNetShape
    budget_bytes : float
        Memory to use, beyond what the process has. Where not even the smallest column fits, that one is taken.
    value_bytes : int
        Of a feature: 4 in float32, 2 in bfloat16.
    views : int
        Mirror images that are averaged.
    largest : int
        Longest edge of a column, voxels; 0: as the memory allows.
    """
    nz, ny, nx = shape_zyx
    unit = network.alignment_vox
    least = max(unit, LEAST_EDGE_VOX // unit * unit)
    plans = [Schedule.of(network.levels, n) for n in SLICES if n % unit == 0] or [Schedule.of(network.levels, unit)]

    def edges(length: int) -> list[int]:
        if largest:
            return [_equal_edge(length, largest, unit)]
        counts = range(1, max(1, length // least) + 1)
        return sorted({-(-length // (count * unit)) * unit for count in counts})

    def needed(plan: Schedule, inner: tuple[int, int]) -> int:
        sums = 4 * nz * inner[0] * inner[1] if views > 1 else 0  # the mean of the views
        return column_bytes(network, plan, inner, value_bytes) + sums

    def work(plan: Schedule, inner: tuple[int, int]) -> float:
        columns = -(-ny // inner[0]) * -(-nx // inner[1])
        return columns * column_work(network, plan, inner, nz)

    choices = [(plan, (y, x)) for plan in plans for y in edges(ny) for x in edges(nx)]
    fitting = [choice for choice in choices if needed(*choice) <= budget_bytes]
    plan, inner = min(fitting, key=lambda c: work(*c)) if fitting else min(choices, key=lambda c: needed(*c))
    return Tiling(inner, plan.slices, tuple(_columns((ny, nx), inner)), needed(plan, inner))


def _area(inner_yx: tuple[int, int], level: int, margin: int) -> float:
    """Voxels per slice of a level's grid, `margin` about the column included."""
    return (inner_yx[0] / 2**level + 2 * margin) * (inner_yx[1] / 2**level + 2 * margin)


def column_multiplications(network: UNetShape, plan: Schedule, inner_yx: tuple[int, int], depth: int) -> list[float]:
    """Multiplications that a column of so many slices takes, on each level of the network."""
    levels, ranges, steps = network.levels, plan.ranges, plan.steps(depth)
    totals, channels = [0.0] * (levels + 1), 1
    for stage in range(2 * levels + 1):
        level = plan.level(stage)
        own = network.filters * 2**level
        if stage < levels:
            middle, result, above = ranges.down[level] + 1, ranges.down[level], own
            taps = 27 * channels
        else:
            result = plan.margin(stage)
            middle, above = result + 1, network.filters * 2 ** max(0, level - 1)
            taps = 27 * channels if stage == levels else 27 * own + 8 * channels
        per_slice = taps * own * _area(inner_yx, level, middle) + 27 * own * above * _area(inner_yx, level, result)
        totals[level] += per_slice * (plan.slices >> level) * (steps - plan.first_step(stage))
        channels = above
    return totals


def column_work(network: UNetShape, plan: Schedule, inner_yx: tuple[int, int], depth: int) -> float:
    """What a column costs, in multiplications: slices that are copied or computed again at each step count, too."""
    return sum(column_multiplications(network, plan, inner_yx, depth)) * (1 + 1 / plan.slices)


def column_bytes(network: UNetShape, plan: Schedule, inner_yx: tuple[int, int], value_bytes: int) -> int:
    """Peak of the memory that a column takes.

    What is alive at once: the skips that wait, and either the results of the first two convolutions, or the last
    level's windows and sums; besides, the grey values that are read. TensorFlow's allocator takes more than that.
    """
    ranges, slices = plan.ranges, plan.slices
    waiting = sum(
        (whole + 2) * (slices >> level) * 2**level * _area(inner_yx, level, ranges.skip[level])
        for level, (whole, _) in enumerate(plan.delay)
    )
    first = (2 * slices + TAIL) * _area(inner_yx, 0, ranges.down[0] + 1)
    last = (5 * slices + 2 * TAIL) * _area(inner_yx, 0, ranges.skip[0])
    features = (waiting + max(first, last)) * network.filters * value_bytes
    read = max(READ_SLICES, slices) + TWO_CONVOLUTIONS
    grey = _READ_COPIES * 4 * read * _area(inner_yx, 0, ranges.input_margin)
    return int(_ALLOCATOR * features + grey + _ONCE_BYTES)
