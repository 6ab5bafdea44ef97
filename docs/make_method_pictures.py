"""Make the pictures of docs/how-it-works.md: what the method's paper shows of it, from simulated tomograms of our own.

Masks and spheres are those that the program wrote; profiles are read from the tomogram about the spheres in its table.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from make_pictures import DPI, FOLDER, WIDTH_IN, Case, clearest, draw_spheres, run, scale_bar, show_slice, simulated
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image
from scipy.ndimage import gaussian_filter

from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_probability
from deepvesicle.fitting.radial import radial_profiles
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import read_model

CONTRAST, SLICE = 0.8, 32
#: So clear that the missing caps of one vesicle are seen.
WEDGE_CONTRAST = 3.0
TILTS_DEG = (-60.0, 60.0)
#: From the outer edge, nm.
OFFSETS_NM = np.arange(-14.4, 14.5, 0.8)
#: Colours that are told apart with any colour vision, and a name for each status.
BLUE, ORANGE, RED, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
MARKERS = {Status.REFINED: ("o", "refined"), Status.DOUBTFUL: ("^", "doubtful"), Status.REJECTED: ("x", "rejected")}
COLOURS = 64


def main() -> None:
    """Write all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        case = simulated(Path(folder) / "a", CONTRAST)
        run("segment", str(case.path), "-o", str(case.folder), "--save-probability")
        vesicles = read_vesicles_csv(case.model.with_suffix(".csv"), case.grid)
        picture_of_stages("stages.png", case)
        picture_of_profiles("profiles.png", case, vesicles)
        picture_of_outliers("outliers.png", vesicles)
        picture_of_wedge("wedge.png", simulated(Path(folder) / "b", WEDGE_CONTRAST))


def picture_of_stages(name: str, case: Case) -> None:
    """One slice three times: the tomogram, the network's mask, and the spheres."""
    _, ny, nx = case.grid.shape_zyx
    height = WIDTH_IN / 3 * ny / nx
    figure = Figure(figsize=(WIDTH_IN, height + 0.28), dpi=DPI)
    probability = read_probability(case.folder / f"{case.path.stem}_probability.mrc")
    model = read_model(case.model)
    for column, title in enumerate(("tomogram", "probability by the network", "fitted spheres")):
        axis = figure.add_axes((column / 3 + 0.003, 0, 0.327, height / figure.get_figheight()))
        show_slice(axis, case.tomogram, SLICE)
        axis.set_title(title, fontsize=10, pad=4)
        if column == 1:
            show_mask(axis, probability.values(), probability.grid, case.grid)
        if column == 2:
            for item in model.objects:
                draw_spheres(axis, case, model, item, SLICE)
    scale_bar(figure.axes[0], case.grid, 100)
    save(figure, name)


def show_mask(axis: Axes, values: np.ndarray, own: Grid, grid: Grid) -> None:
    """The probability over the picture, as contours at 20, 50 and 80 %."""
    zyx = own.map_points([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], grid)
    first, step = zyx[0], zyx[1] - zyx[0]
    z = int(np.clip(round((SLICE - first[0]) / step[0]), 0, len(values) - 1))
    y, x = (first[i] + step[i] * np.arange(values.shape[i]) for i in (1, 2))
    axis.contourf(x, y, values[z], levels=[0.2, 0.5, 0.8, 1.01], colors=[ORANGE], alpha=0.35)
    axis.contour(x, y, values[z], levels=[0.5], colors=[ORANGE], linewidths=1.2)


def picture_of_wedge(name: str, case: Case) -> None:
    """A vesicle from above and from the side, where its caps are missing; the circle is that of the truth."""
    row = clearest(case, 1)[0]
    (z, y, x), radius = case.truth.centres_vox[row], float(case.truth.radii_vox[row])
    half = 1.7 * radius
    grey = gaussian_filter(np.asarray(case.tomogram.grey((slice(None),) * 3), dtype=np.float32), 0.8)
    planes = {
        "from above (x, y)": (grey[round(z) - 1 : round(z) + 2].mean(axis=0), (x, y)),
        "from the side (x, z)": (grey[:, round(y) - 1 : round(y) + 2].mean(axis=1), (x, z)),
    }
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / 4 + 0.28), dpi=DPI)
    height = 1 - 0.28 / figure.get_figheight()
    for column, (title, (image, (across, up))) in enumerate(planes.items()):
        for circle in (False, True):
            place = (2 * column + circle) / 4
            axis = figure.add_axes((place + 0.003, 0, 0.244, height))
            near = image[_around(up, half, image.shape[0]), _around(across, half, image.shape[1])]
            low, high = np.percentile(near, [0.5, 99.5])
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bilinear")
            axis.set(xlim=(across - half, across + half), ylim=(up - half, up + half))
            axis.set_axis_off()
            if circle:
                axis.add_patch(Circle((across, up), radius, fill=False, ec=ORANGE, lw=2))
            else:
                axis.set_title(title, fontsize=10, pad=4, loc="left")
    save(figure, name)


def _around(middle: float, half: float, size: int) -> slice:
    return slice(max(0, int(middle - half)), min(size, int(middle + half) + 1))


def picture_of_profiles(name: str, case: Case, vesicles: Vesicles) -> None:
    """Profiles of all vesicles about their outer edges, their mean, and where the membrane is taken to be."""
    rows = np.flatnonzero(vesicles.accepted & np.isfinite(vesicles.membrane_radii_vox))
    chosen = vesicles.select(rows)
    profiles = radial_profiles(case.tomogram, vesicles, OFFSETS_NM, TILTS_DEG)[rows]
    mean = np.nanmedian(profiles, axis=0)
    middle = float(np.median(chosen.grid.length_to_nm(chosen.membrane_radii_vox - chosen.radii_vox)))
    figure = Figure(figsize=(WIDTH_IN, 2.9), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    axis.plot(OFFSETS_NM, profiles.T, color="0.8", lw=0.7)
    axis.plot(OFFSETS_NM, mean, color=BLUE, lw=2.4, label=f"median of {len(rows)} vesicles")
    axis.axvline(middle, color=RED, lw=1.4, ls="--", label="middle of the membrane")
    axis.axvline(0, color=GREEN, lw=1.8, label="outer edge: the radius")
    axis.set(xlabel="distance from the outer edge, nm", ylabel="grey value, SD", xlim=OFFSETS_NM[[0, -1]])
    axis.text(-14, 0.97, "lumen", transform=axis.get_xaxis_transform(), va="top", fontsize=9)
    axis.text(14, 0.97, "cytoplasm", transform=axis.get_xaxis_transform(), va="top", ha="right", fontsize=9)
    axis.legend(fontsize=9, frameon=False, loc="lower left")
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, name)


def picture_of_outliers(name: str, vesicles: Vesicles) -> None:
    """Radius and densities; the colour is the p of being as far from the others as it is."""
    p = np.clip(vesicles.features["likeness_p"], 1e-4, 1)
    figure = Figure(figsize=(WIDTH_IN, 3.0), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, 2)
    points = None
    for axis, feature in zip(axes, ("membrane_density", "lumen_density"), strict=True):
        values = vesicles.features[feature]
        for status, (marker, text) in MARKERS.items():
            which = vesicles.has_status(status) & np.isfinite(values)
            if status is Status.REJECTED:
                axis.plot(vesicles.radii_nm[which], values[which], "x", color="0.6", ms=5, label=text)
                continue
            points = axis.scatter(
                vesicles.radii_nm[which],
                values[which],
                c=p[which],
                norm=LogNorm(1e-4, 1),
                cmap="cividis",
                marker=marker,
                s=34,
                edgecolors="0.25",
                linewidths=0.5,
                label=text,
            )
        axis.set(xlabel="outer radius, nm", ylabel=f"{feature}, SD")
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(fontsize=9, frameon=False)
    figure.colorbar(points, ax=axes, label="likeness_p", pad=0.01)
    save(figure, name)


def save(figure: Figure, name: str) -> None:
    """Write a PNG of few colours."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)
    print(f"wrote {FOLDER / name}")


if __name__ == "__main__":
    main()
