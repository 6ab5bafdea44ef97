"""A picture of what was understood of a manual segmentation: slices of the tomogram with what was drawn on them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Region, Tomogram
from deepvesicle.report.overview import DPI, PANEL_PX, WIDTH_PX, chosen_planes, scale_bar, thin_slab, thinned
from deepvesicle.vesicles import Vesicles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that are told apart with any colour vision (Okabe & Ito 2008), and lines that are told apart without colour.
VESICLE_LINE: dict[str, Any] = {"ec": "#56B4E9", "ls": "-", "lw": 1.1}
UNCLEAR_LINE: dict[str, Any] = {"ec": "#E69F00", "ls": (0, (3, 2)), "lw": 1.3}
OUTLINE_COLOUR, OUTLINE_STYLE = "#F0E442", (0, (6, 1.5, 1, 1.5))
#: How dark the slices are drawn where nothing was annotated.
_IGNORED_ALPHA = 0.35
ROWS = COLUMNS = 3


def annotation_picture(
    tomogram: Tomogram, vesicles: Vesicles, *, unclear: Vesicles | None = None, region: Region | None = None
) -> bytes:
    """Draw nine xy slices, spread over the depth that holds vesicles, with circles where spheres cut them.

    Vesicles have solid blue circles, what is unclear dashed orange ones; the edge of the annotated region is a yellow
    line of dots and dashes, and all outside it is darker. Slices are averages of three, numbered from 1 as in 3dmod.

    Parameters
    ----------
    tomogram : Tomogram
    vesicles : Vesicles
        On its grid.
    unclear : Vesicles, optional
        On its grid; drawn, but not counted as vesicles.
    region : Region, optional
        What was annotated; all by default.

    Returns
    -------
    bytes
        Of a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = tomogram.grid
    others = unclear if unclear is not None else Vesicles.empty(grid)
    drawn = vesicles if len(vesicles) else others
    planes, _ = chosen_planes(grid, drawn.centres_vox, drawn.radii_vox, ROWS * COLUMNS)
    rows = -(-len(planes) // COLUMNS)
    _, ny, nx = grid.shape_zyx
    height_px = int(np.clip(rows * WIDTH_PX / COLUMNS * ny / nx + 150, 500, 4000))
    figure = Figure(figsize=(WIDTH_PX / DPI, height_px / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    images = [thin_slab(tomogram, 0, z) for z in planes]
    low, high = np.percentile(np.concatenate([i[::4, ::4].ravel() for i in images]), [0.5, 99.5])
    for axis in axes:
        axis.set_axis_off()
    for axis, z, image in zip(axes, planes, images, strict=False):
        axis.imshow(
            thinned(image),
            extent=(-0.5, nx - 0.5, -0.5, ny - 0.5),
            interpolation="antialiased",
            cmap="gray",
            vmin=low,
            vmax=max(high, low + 1e-6),
            origin="lower",
        )
        if region is not None:
            _draw_region(axis, region.to_mask(grid.cropped((z, 0, 0), (1, ny, nx)))[0])
        count = _draw_circles(axis, vesicles, z, VESICLE_LINE)
        _draw_circles(axis, others, z, UNCLEAR_LINE)
        axis.set_title(f"z = {z + 1}: {count} vesicle{'' if count == 1 else 's'}", fontsize=8)
        scale_bar(axis, grid, nx)
    figure.suptitle(_title(vesicles), fontsize=10)
    _legend(figure, vesicles, others, region is not None)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _draw_circles(axis: Axes, spheres: Vesicles, plane: int, line: dict[str, Any]) -> int:
    """Draw where spheres cut an xy plane; how many do."""
    from matplotlib.patches import Circle

    square = spheres.radii_vox**2 - (spheres.centres_vox[:, 0] - plane) ** 2
    cut = np.flatnonzero(square > 0)
    for i in cut:
        circle = Circle((spheres.centres_vox[i, 2], spheres.centres_vox[i, 1]), square[i] ** 0.5, fill=False, **line)
        circle.set_in_layout(False)  # those that stick out must not shrink the panel
        axis.add_patch(circle)
    return len(cut)


def _draw_region(axis: Axes, inside: NDArray[np.bool_]) -> None:
    """Darken what was not annotated, and draw the edge."""
    ny, nx = inside.shape
    step = max(1, max(inside.shape) // PANEL_PX)
    shown = inside[::step, ::step]
    extent = (-0.5, nx - 0.5, -0.5, ny - 0.5)
    shade = np.zeros((*shown.shape, 4), dtype=np.float32)
    shade[..., 3] = np.where(shown, 0.0, _IGNORED_ALPHA)
    axis.imshow(shade, extent=extent, origin="lower", interpolation="nearest")
    if shown.any() and not shown.all() and min(shown.shape) > 1:
        y, x = (np.arange(n) * step for n in shown.shape)
        axis.contour(
            x, y, shown.astype(float), levels=[0.5], colors=OUTLINE_COLOUR, linestyles=[OUTLINE_STYLE], linewidths=1.2
        )
    axis.set(xlim=extent[:2], ylim=extent[2:])


def _title(vesicles: Vesicles) -> str:
    if not len(vesicles):
        return "No vesicles annotated"
    number = f"{len(vesicles)} vesicle{'' if len(vesicles) == 1 else 's'} annotated"
    return f"{number}, median outer radius {np.median(vesicles.radii_nm):.1f} nm"


def _legend(figure: Any, vesicles: Vesicles, unclear: Vesicles, limited: bool) -> None:
    """The lines that occur."""
    from matplotlib.lines import Line2D

    entries = [(VESICLE_LINE["ec"], VESICLE_LINE["ls"], f"{len(vesicles)} vesicles")]
    if len(unclear):
        entries.append((UNCLEAR_LINE["ec"], UNCLEAR_LINE["ls"], "unclear: ignored"))
    if limited:
        entries.append((OUTLINE_COLOUR, OUTLINE_STYLE, "edge of what was annotated; outside: ignored"))
    handles = [Line2D([], [], color=colour, ls=line, label=text) for colour, line, text in entries]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, handlelength=4)
    legend.get_frame().set(facecolor="0.3", edgecolor="none")
    for text in legend.get_texts():
        text.set_color("white")
