"""A picture of what was understood of a manual segmentation: slices of the tomogram with what was drawn on them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.grid import Region, Tomogram
from deepvesicle.report.overview import DPI, PANEL_PX, WIDTH_PX, chosen_planes, scale_bar, thinned
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
#: Slices are smoothed by the first, about half a membrane, and what varies over more than the second is evened out;
#: one sigma, nm.
_SMOOTH_NM, _EVEN_NM = 2.5, 60.0
#: The mean vesicle: how many are averaged at most, at which heights (of the radius), how far out, and its pixels.
_MOST_AVERAGED, _HEIGHTS, _REACH, _MEAN_PX = 150, np.linspace(-0.5, 0.5, 7), 1.6, 96
_MIN_AVERAGED = 3


def annotation_picture(
    tomogram: Tomogram, vesicles: Vesicles, *, unclear: Vesicles | None = None, region: Region | None = None
) -> bytes:
    """Draw xy slices, spread over the depth that holds vesicles, with circles where spheres cut them; and their mean.

    Vesicles have solid blue circles, what is unclear dashed orange ones; the edge of the annotated region is a yellow
    line of dots and dashes, and all outside it is darker. Slices are smoothed by about half a membrane and numbered
    from 1 as in 3dmod, with y up. The last panel is the mean of all vesicles, scaled to one size: where the spheres
    lie on membranes, it has a dark ring within its circle, also where noise hides it in the slices.

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
    mean = mean_vesicle(tomogram, vesicles)
    count = ROWS * COLUMNS - (mean is not None)
    planes, _ = chosen_planes(grid, drawn.centres_vox, drawn.radii_vox, count)
    rows = -(-(len(planes) + (mean is not None)) // COLUMNS)
    _, ny, nx = grid.shape_zyx
    height_px = int(np.clip(rows * WIDTH_PX / COLUMNS * ny / nx + 150, 500, 4000))
    figure = Figure(figsize=(WIDTH_PX / DPI, height_px / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    images = [_smoothed(tomogram, z) for z in planes]
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
        cut = _draw_circles(axis, vesicles, z, VESICLE_LINE)
        _draw_circles(axis, others, z, UNCLEAR_LINE)
        axis.set_title(f"z = {z + 1}: {cut} vesicle{'' if cut == 1 else 's'}", fontsize=8)
        scale_bar(axis, grid, nx)
    if mean is not None:
        _draw_mean(axes[len(planes)], mean)
    figure.suptitle(
        f"{_title(vesicles)}\nslices smoothed, z counted from 1 as in 3dmod, x to the right, y up", fontsize=10
    )
    _legend(figure, vesicles, others, region is not None)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def mean_vesicle(tomogram: Tomogram, vesicles: Vesicles) -> NDArray[np.float64] | None:
    """Average of xy slices through the middle part of all vesicles, scaled so that their circles agree.

    Parameters
    ----------
    tomogram : Tomogram
    vesicles : Vesicles
        On its grid.

    Returns
    -------
    float array (y, x), optional
        From -1.6 to 1.6 radii about the middle; NaN where nothing is known. None with too few vesicles inside.
    """
    rows = np.flatnonzero(tomogram.grid.contains(vesicles.centres_vox))
    if len(rows) < _MIN_AVERAGED:
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MOST_AVERAGED)).astype(int))]
    line = np.linspace(-_REACH, _REACH, _MEAN_PX)
    y, x = np.meshgrid(line, line, indexing="ij")
    total, number = np.zeros(y.shape), np.zeros(y.shape, dtype=int)
    last = np.asarray(tomogram.grid.shape_zyx) - 1
    for row in rows:
        radius = vesicles.radii_vox[row]
        for height in _HEIGHTS:
            wide = radius * (1 - height**2) ** 0.5
            place = np.stack([np.full(y.shape, height * radius), wide * y, wide * x], axis=-1)
            index = np.rint(vesicles.centres_vox[row] + place).astype(int)
            inside = ((index >= 0) & (index <= last)).all(axis=-1)
            values = tomogram.data[tuple(np.clip(index, 0, last)[inside].T)].astype(float)
            total[inside] += -values if tomogram.invert else values
            number += inside
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _smoothed(tomogram: Tomogram, plane: int) -> NDArray[np.float32]:
    """An xy slice after a Gaussian along all axes, without slow changes of its background."""
    from scipy.ndimage import gaussian_filter

    sigma = _SMOOTH_NM / tomogram.grid.voxel_nm
    first, end = max(0, plane - int(np.ceil(2 * sigma))), plane + int(np.ceil(2 * sigma)) + 1
    slab = tomogram.grey((slice(first, end), slice(None), slice(None)))
    weights = np.exp(-0.5 * ((np.arange(first, first + len(slab)) - plane) / sigma) ** 2)
    image = np.tensordot(weights / weights.sum(), slab, axes=1)
    even = gaussian_filter(image, _EVEN_NM / tomogram.grid.voxel_nm, mode="nearest")
    return np.asarray(gaussian_filter(image, sigma, mode="nearest") - even, dtype=np.float32)


def _draw_mean(axis: Axes, mean: NDArray[np.float64]) -> None:
    """The mean vesicle with its circle."""
    from matplotlib.patches import Circle

    extent = (-_REACH, _REACH, -_REACH, _REACH)
    axis.imshow(mean, extent=extent, origin="lower", cmap="gray", interpolation="bilinear")
    axis.add_patch(Circle((0, 0), 1, fill=False, **VESICLE_LINE))
    axis.set_title("mean of the vesicles: a dark ring just within the circle?", fontsize=8)


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
