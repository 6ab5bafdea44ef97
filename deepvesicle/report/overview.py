"""One picture of a tomogram with the circles of its vesicles: the quickest check of a result."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.files.atomic import new_file
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.memory import drop_pages
from deepvesicle.vesicles import Status, Vesicles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colour (as in the IMOD model; Okabe & Ito 2008, told apart with any colour vision) and line of each status.
LINES = {
    Status.REFINED: ("#009E73", "-"),
    Status.MANUAL: ("#56B4E9", "-"),
    Status.DOUBTFUL: ("#E69F00", "--"),
    Status.PROPOSED: ("#CC79A7", "-"),
    Status.REJECTED: ("#D55E00", ":"),
}
COLUMNS, ROWS = 3, 2
WIDTH_PX, DPI = 1950, 150
#: Larger planes are thinned out to about this many pixels a side before drawing.
PANEL_PX = 900


def write_overview(
    path: str | os.PathLike[str], tomogram: Tomogram, vesicles: Vesicles, *, overwrite: bool = False
) -> None:
    """Write a PNG of five xy planes and one xz plane, with each sphere's circle of intersection.

    The planes are averages of three, shown between the 0.5th and 99.5th percentile of grey values. Planes are numbered
    from 1, as in 3dmod. Accepted and proposed vesicles have solid lines, doubtful ones dashed, rejected
    ones dotted lines.

    Parameters
    ----------
    path : path
        Of the PNG.
    tomogram : Tomogram
    vesicles : Vesicles
        On any grid; mapped to the tomogram's.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputExistsError
        `path` exists and `overwrite` is false.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = tomogram.grid
    centres = vesicles.grid.map_points(vesicles.centres_vox, grid)
    radii = grid.length_to_vox(vesicles.radii_nm)
    shown = ~vesicles.has_status(Status.REJECTED)
    planes, row = chosen_planes(grid, centres[shown], radii[shown])
    nz, ny, nx = grid.shape_zyx

    # Room for the title and the panels' headings; the panels keep the tomogram's proportions.
    side = WIDTH_PX / COLUMNS
    height_px = int(np.clip(ROWS * side * ny / nx + 150, 700, 3000))
    figure = Figure(figsize=(WIDTH_PX / DPI, height_px / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(ROWS, COLUMNS).ravel()
    images = [thin_slab(tomogram, 0, z) for z in planes]
    low, high = np.percentile(np.concatenate([i[::4, ::4].ravel() for i in images]), [0.5, 99.5])
    grey: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6), "origin": "lower"}
    for axis in axes:
        axis.set_axis_off()
    for axis, z, image in zip(axes, planes, images, strict=False):
        axis.imshow(thinned(image), extent=(-0.5, nx - 0.5, -0.5, ny - 0.5), interpolation="antialiased", **grey)
        count = _circles(axis, centres, radii, vesicles.status, axis_normal=0, plane=z)
        axis.set_title(f"xy, z = {z + 1}: {count}", fontsize=8)
        scale_bar(axis, grid, nx)
    axis = axes[len(planes)]
    axis.set_anchor("N")
    image = thin_slab(tomogram, 1, row)
    axis.imshow(thinned(image), extent=(-0.5, nx - 0.5, -0.5, nz - 0.5), interpolation="antialiased", **grey)
    count = _circles(axis, centres, radii, vesicles.status, axis_normal=1, plane=row)
    axis.set_title(f"xz, y = {row + 1}: {count}", fontsize=8)
    scale_bar(axis, grid, nx)
    figure.suptitle(_title(vesicles), fontsize=10)
    _legend(figure, vesicles)
    with new_file(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def chosen_planes(
    grid: Grid, centres: NDArray[np.float64], radii: NDArray[np.float64], count: int = COLUMNS * ROWS - 1
) -> tuple[list[int], int]:
    """The xy planes to show, evenly through the depth that holds vesicles, and the xz plane that cuts most of them.

    Parameters
    ----------
    grid : Grid
    centres : float array (N, 3)
        Voxels of the grid.
    radii : float array (N,)
    count : int
        Number of xy planes; fewer where the tomogram has fewer.

    Returns
    -------
    planes : list of int
        Rising z indices.
    row : int
        y index.
    """
    nz, ny, _ = grid.shape_zyx
    low, high = (0.1 * (nz - 1), 0.9 * (nz - 1))
    if len(centres) >= 3:
        low, high = np.percentile(centres[:, 0], [5, 95])
    low, high = np.clip([low, high], 0, nz - 1)
    if high - low < count:
        middle = (low + high) / 2
        low, high = max(0.0, middle - 2 * count), min(nz - 1.0, middle + 2 * count)
    planes = np.unique(np.rint(np.linspace(low, high, min(count, nz))).astype(int))
    rows = np.arange(ny)
    cut = np.zeros(ny, dtype=int)
    for y, r in zip(centres[:, 1], radii, strict=True):
        cut[np.abs(rows - y) < r] += 1
    best = np.flatnonzero(cut == cut.max())
    return planes.tolist(), int(best[np.argmin(np.abs(best - (ny - 1) / 2))])


def thin_slab(tomogram: Tomogram, axis: int, index: int) -> NDArray[np.float32]:
    """Average of three neighbouring planes."""
    region = [slice(None)] * 3
    region[axis] = slice(max(0, index - 1), index + 2)
    slab = np.asarray(tomogram.grey((region[0], region[1], region[2])).mean(axis=axis))
    drop_pages(tomogram.data)
    return slab


def thinned(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of blocks, so that a large plane takes about `PANEL_PX` pixels; no smaller than half of that."""
    by = max(1, max(image.shape) // PANEL_PX)
    if by == 1 or min(image.shape) < by:
        return image
    ny, nx = (n // by for n in image.shape)
    return np.asarray(image[: ny * by, : nx * by].reshape(ny, by, nx, by).mean(axis=(1, 3)))


def _circles(
    axis: Axes,
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
    status: tuple[Status, ...],
    *,
    axis_normal: int,
    plane: int,
) -> str:
    """Draw where the spheres cut a plane; return how many do, in words."""
    from matplotlib.patches import Circle

    square = radii**2 - (centres[:, axis_normal] - plane) ** 2
    vertical = 1 if axis_normal == 0 else 0
    counts = {True: 0, False: 0}
    for i in np.flatnonzero(square > 0):
        colour, line = LINES[status[i]]
        where = (centres[i, 2], centres[i, vertical])
        width = 1.0 if line == "-" else 1.3
        circle = Circle(where, float(np.sqrt(square[i])), fill=False, ec=colour, ls=line, lw=width)
        circle.set_in_layout(False)  # those that stick out must not shrink the panel
        axis.add_patch(circle)
        counts[status[i] is Status.REJECTED] += 1
    rejected = f", {counts[True]} rejected" if counts[True] else ""
    return f"{counts[False]} vesicle{'' if counts[False] == 1 else 's'}{rejected}"


def scale_bar(axis: Axes, grid: Grid, nx: int) -> None:
    """A bar of a round length in nm, about a fifth of the plane wide, with its length."""
    left, right = axis.get_xlim()
    wanted = 0.22 * nx * grid.voxel_nm
    power = 10 ** np.floor(np.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    start = left + 0.04 * nx
    end = start + length / grid.voxel_nm
    bottom, top = axis.get_ylim()
    place = bottom + 0.05 * (top - bottom)
    for colour, width in (("black", 4.5), ("white", 2.5)):
        axis.plot([start, end], [place, place], color=colour, lw=width, solid_capstyle="butt")
    axis.text(
        (start + end) / 2,
        place + 0.02 * (top - bottom),
        f"{length:g} nm",
        color="white",
        fontsize=7,
        ha="center",
        va="bottom",
        bbox={"facecolor": "black", "alpha": 0.5, "pad": 1.0, "linewidth": 0},
    )
    axis.set(xlim=(left, right), ylim=(bottom, top))


def _title(vesicles: Vesicles) -> str:
    """How many vesicles of which size."""
    counted = vesicles.radii_nm[~vesicles.has_status(Status.REJECTED)]
    if not len(counted):
        return "No vesicles"
    number = f"{len(counted)} vesicle{'' if len(counted) == 1 else 's'}"
    return f"{number}, median outer radius {np.median(counted):.1f} nm"


def _legend(figure: Any, vesicles: Vesicles) -> None:
    """The lines of those statuses that occur."""
    from matplotlib.lines import Line2D

    handles = []
    for status, (colour, line) in LINES.items():
        count = int(vesicles.has_status(status).sum())
        if count:
            handles.append(Line2D([], [], color=colour, ls=line, label=f"{count} {status.value}"))
    if handles:
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
        legend.get_frame().set(facecolor="0.3", edgecolor="none")
        for text in legend.get_texts():
            text.set_color("white")
