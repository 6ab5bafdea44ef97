"""Statistics of vesicles as a picture: histograms that can be printed in black and white."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.atomic import new_file

Floats = NDArray[np.float64]

#: Bars, and the line of the median: apart in lightness as well as in hue (Okabe and Ito).
BAR_COLOUR, MEDIAN_COLOUR = "#56b4e9", "#a33b00"
#: Widths of bars, nm; the first that needs no more than this many bars is taken.
_WIDTHS_NM, _MAX_BARS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0), 24
_DPI = 200


def draw_statistics(
    path: Path,
    radii_nm: Floats,
    nearest_nm: Floats,
    zone_nm: Floats | None = None,
    *,
    zone_limits_nm: Sequence[float] = (),
    overwrite: bool = False,
) -> None:
    """Draw histograms of radii, nearest neighbours and distances to the active zone into a PNG file.

    Parameters
    ----------
    path : Path
    radii_nm, nearest_nm : float arrays (N,)
        Values that are not finite are left out.
    zone_nm : float array (N,), optional
        No panel without it.
    zone_limits_nm : sequence of float
        Distances from the active zone to mark.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputExistsError, UsageError
        See `deepvesicle.files.atomic.new_file`.
    """
    from matplotlib.figure import Figure

    panels = [("radius (outer edge), nm", radii_nm), ("nearest neighbour, surface to surface, nm", nearest_nm)]
    panels += [] if zone_nm is None else [("surface to active zone, nm", zone_nm)]
    figure = Figure(figsize=(3.6 * len(panels), 3.2), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, values) in zip(every, panels, strict=True):
        _histogram(axes, values[np.isfinite(values)])
        axes.set_xlabel(title)
    every[0].set_ylabel("vesicles")
    if zone_nm is not None:
        _mark_limits(every[-1], zone_limits_nm)
    with new_file(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png")


def bar_edges(values: Floats) -> Floats:
    """Edges of bars, at multiples of a round width in nm, that hold all values."""
    low, high = float(values.min()), float(values.max())
    for width in _WIDTHS_NM:
        first, last = int(np.floor(low / width)), int(np.floor(high / width)) + 1
        if last - first <= _MAX_BARS:
            return np.asarray(np.arange(first, last + 1) * width, dtype=np.float64)
    return np.linspace(low, high, _MAX_BARS + 1)


def _histogram(axes: Any, values: Floats) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.get_major_locator().set_params(integer=True)
    if not len(values):
        axes.text(0.5, 0.5, "no values", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    axes.hist(values, bins=bar_edges(values), color=BAR_COLOUR, edgecolor="black", linewidth=0.6)
    median = float(np.median(values))
    axes.axvline(median, color=MEDIAN_COLOUR, linestyle="--", linewidth=1.6)
    axes.margins(y=0.18)
    axes.set_title(f"n = {len(values)}, median {median:.1f} nm", fontsize="medium", color="black")


def _mark_limits(axes: Any, limits_nm: Sequence[float]) -> None:
    """Thin dotted lines with their numbers, where the panel reaches that far."""
    left, right = axes.get_xlim()
    for number, limit in enumerate(limits_nm):
        if left <= limit <= right:
            side = -1 if number == 0 else 1  # the first two are near one another
            axes.axvline(limit, color="black", linestyle=":", linewidth=0.9, zorder=0)
            axes.annotate(
                f"{limit:g}",
                (limit, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(2 * side, -2),
                textcoords="offset points",
                ha="right" if side < 0 else "left",
                va="top",
                rotation=90,
                fontsize="x-small",
            )
