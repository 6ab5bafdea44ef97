"""When each level of the network computes which slices, as a volume streams through it along z."""

from __future__ import annotations

from dataclasses import dataclass

from deepvesicle.network.unet import Ranges, plan_ranges

#: Slices that a 3x3x3 convolution needs again at the next step; that two of them lose.
TAIL, TWO_CONVOLUTIONS = 2, 4


@dataclass(frozen=True)
class Schedule:
    """Which slices every level computes at each step.

    At step i a level computes the slices from ``start + i * count`` to ``start + (i + 1) * count`` of its own grid, 0
    being the tile's first; ``count`` is `slices` divided by the level's pooling. The first slices hold nothing of use.

    Parameters
    ----------
    slices : int
        Of the input per step.
    first : int
        First slice of the input.
    down, up : tuple of int
        Start of each level on the way down and up.
    middle : int
        Start of the lowest level.
    delay : tuple of (int, int)
        How many whole steps, and slices more, the skip of each level waits.
    ranges : Ranges
    """

    slices: int
    first: int
    down: tuple[int, ...]
    middle: int
    up: tuple[int, ...]
    delay: tuple[tuple[int, int], ...]
    ranges: Ranges

    @classmethod
    def of(cls, levels: int, slices: int) -> Schedule:
        """Schedule of a U-Net; `slices` is a multiple of its alignment."""
        if slices % (1 << levels):
            raise ValueError(f"{slices} slices are not a multiple of {1 << levels}")
        ranges = plan_ranges(levels)
        first = -ranges.input_margin
        while any(start % 2 for start in _starts_down(levels, first)):  # pooled in the same pairs as in one pass
            first -= 1
        down = _starts_down(levels, first)
        middle = below = down[-1] // 2 - 2
        up, delay = [0] * levels, [(0, 0)] * levels
        for level in reversed(range(levels)):
            up[level] = 2 * below - 2
            delay[level] = divmod(down[level] - 2 * below, slices >> level)
            below = up[level]
        return cls(slices, first, tuple(down), middle, tuple(up), tuple(delay), ranges)

    @property
    def levels(self) -> int:
        """Number of down-samplings."""
        return len(self.down)

    def steps(self, depth: int) -> int:
        """How many steps a tile of so many slices takes."""
        return -(-(depth - self.up[0]) // self.slices)

    def level(self, stage: int) -> int:
        """Level of a stage; they are numbered from 0 as the volume passes them, down, through the middle and up."""
        return min(stage, 2 * self.levels - stage)

    def margin(self, stage: int) -> int:
        """Voxels about the tile that are needed of a stage's result, on its level's grid."""
        level = self.level(stage)
        if stage < self.levels:
            return self.ranges.down[level]
        return self.ranges.up[level - 1] // 2 if level else 0

    def first_step(self, stage: int) -> int:
        """The step from which on a stage runs.

        Two convolutions hand on slices from one step to the next, so it starts `TWO_CONVOLUTIONS` slices before its own
        are of use.
        """
        start = (*self.down, self.middle, *reversed(self.up))[stage]
        needed = -self.margin(stage) - TWO_CONVOLUTIONS
        return max(0, (needed - start) // (self.slices >> self.level(stage)))


def _starts_down(levels: int, first: int) -> list[int]:
    starts = [first + 2]
    while len(starts) < levels:
        starts.append(starts[-1] // 2 - 2)
    return starts
