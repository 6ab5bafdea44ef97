"""The course of a training as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepvesicle.files.atomic import new_file


def draw_history(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss and Dice over the steps into a PNG file, which is replaced.

    Parameters
    ----------
    rows : sequence of mapping
        The training's history: step, loss, dice, validation_dice.
    path : Path
    """
    from matplotlib.figure import Figure

    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(steps, [row["loss"] for row in rows], color="#0072b2", marker=".")
    above.set(ylabel="loss (training)", ylim=(0, None), xlim=(0, 1.02 * steps[-1]))
    below.plot(steps, [row["dice"] for row in rows], color="#0072b2", marker=".", label="training patches")
    below.plot(steps, [row["validation_dice"] for row in rows], color="#d55e00", marker="s", ms=3, label="validation")
    best = max(rows, key=lambda row: row["validation_dice"])
    below.plot(best["step"], best["validation_dice"], "o", ms=11, mfc="none", color="#d55e00", label="kept")
    below.set(xlabel="step", ylabel="Dice (soft)", ylim=(0, 1))
    below.legend(loc="lower right")
    with new_file(path, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=120)
