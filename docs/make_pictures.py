"""Make the pictures of docs/imod.md: a simulated synapse, segmented, corrected as a user would, and fitted again.

Every circle is one that 3dmod would show: it is read from a model that the program wrote. What the user does is decided
with the truth at hand, which the program does not see.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from deepvesicle.commands.main import main as deepvesicle
from deepvesicle.files.imod import OUR_OBJECTS, empty_model, frame_on, new_object
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_tomogram
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.vesicles import Vesicles
from imod_bridge.model import FLAG_OPEN, SCATTERED_OBJECT, Contour, Model, Object, read_model, write_model
from imod_bridge.update import replace_objects

FOLDER = Path(__file__).parent / "pictures"
SEED, SHAPE = 22, (64, 160, 192)
#: Contrast of membranes over the noise, in a tomogram to correct, and in one that shows well what is drawn.
CONTRAST, CLEAR_CONTRAST = 0.45, 1.5
#: The slice shown before and after.
SLICE = 11
#: A place on it (z, y, x) where there is nothing.
NOTHING = (SLICE, 26, 116)
WIDTH_IN, DPI = 7.2, 100
#: Greys enough for a picture, and shades of each colour, so that the files are small.
GREYS, SHADES = 24, (1.0, 0.7, 0.4)
YELLOW, RED = "#F0E442", "#FF5555"
#: Vesicles are seen best where the membrane stands upright: within this share of the radius from the slice.
NEAR = 0.6


@dataclass(frozen=True)
class Case:
    """A tomogram, the truth about it, and where its model is."""

    folder: Path
    path: Path
    tomogram: Tomogram
    truth: Vesicles

    @property
    def grid(self) -> Grid:
        """Of the tomogram."""
        return self.tomogram.grid

    @property
    def model(self) -> Path:
        """Where `deepvesicle segment` writes it."""
        return self.folder / f"{self.path.stem}_vesicles.mod"


def main() -> None:
    """Write all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        case = simulated(Path(folder) / "a", CONTRAST)
        run("segment", str(case.path), "-o", str(case.folder))
        before = read_model(case.model)
        drawn = correct(case, before)
        run("fix", str(case.path), str(case.model))
        picture_of_slice("before.png", case, before, drawn)
        picture_of_slice("after.png", case, read_model(case.model), {})
        picture_of_marks("marks.png", simulated(Path(folder) / "b", CLEAR_CONTRAST))


def run(*arguments: str) -> None:
    """Run a command of deepvesicle."""
    if deepvesicle(arguments) != 0:
        raise SystemExit(f"deepvesicle {arguments[0]} failed")


def simulated(folder: Path, contrast: float) -> Case:
    """A tomogram with known vesicles."""
    shape = [str(n) for n in SHAPE]
    run("phantom", "-o", str(folder), "--shape", *shape, "--contrast", str(contrast), "--seed", str(SEED))
    (path,) = [p for p in folder.glob("*.mrc") if "labels" not in p.name]
    tomogram = read_tomogram(path)
    truth = read_vesicles_csv(folder / f"{path.stem}_truth.csv", tomogram.grid)
    return Case(folder, path, tomogram, truth)


# --- what the user does


def correct(case: Case, model: Model) -> dict[str, NDArray[np.float64]]:
    """Change the model as a user would; gives the points that were clicked, by the name of the object."""
    truth = case.truth
    found = read_vesicles_csv(case.model.with_suffix(".csv"), case.grid)
    found = found.select(found.accepted)
    apart = np.linalg.norm(truth.centres_vox[:, None] - found.centres_vox[None], axis=2)
    same = apart < 0.6 * truth.radii_vox[:, None]
    rng = np.random.default_rng(SEED)
    missed = truth.centres_vox[~same.any(axis=1) & in_view(case, truth)]
    wrong = found.centres_vox[~same.any(axis=0) & in_view(case, found)]
    clicks = missed.copy()
    clicks[:, 0] = SLICE
    clicks[:, 1:] += rng.uniform(-3, 3, clicks[:, 1:].shape)
    wrong[:, 0] = SLICE
    drawn = {"vesicles": np.vstack([clicks, NOTHING]), "remove": wrong}
    frame = frame_on(case.model, model, case.grid)
    (sure,) = [item for item in model.objects if item.name == "vesicles"]
    contours = [Contour(frame.to_stored(point[None])) for point in drawn["vesicles"]]
    remove = Object("remove", tuple(Contour(frame.to_stored(p[None])) for p in wrong), flags=SCATTERED_OBJECT)
    changed = replace(sure, contours=(*enlarged(case, model, sure), *contours))
    case.model.write_bytes(replace_objects(case.model.read_bytes(), [changed, remove]))
    return drawn


def in_view(case: Case, vesicles: Vesicles) -> NDArray[np.bool_]:
    """Which of some vesicles are well seen on the slice, and lie whole within it."""
    z, centres = vesicles.centres_vox[:, 0], vesicles.centres_vox[:, 1:]
    edge = np.minimum(centres, np.array(case.grid.shape_zyx[1:]) - 1 - centres).min(axis=1)
    return (np.abs(z - SLICE) < NEAR * vesicles.radii_vox) & (edge > 0.8 * vesicles.radii_vox)


def enlarged(case: Case, model: Model, item: Object) -> tuple[Contour, ...]:
    """The contours of an object, the sphere that is nearest to the middle of the slice with a size of the user's."""
    frame = frame_on(case.model, model, case.grid)
    centres = np.vstack([frame.to_index(contour.points) for contour in item.contours])
    off = np.linalg.norm(centres[:, 1:] - np.array(case.grid.shape_zyx[1:]) / 2, axis=1)
    nearest = int(np.argmin(np.where(np.abs(centres[:, 0] - SLICE) < 4, off, np.inf)))
    contours = list(item.contours)
    sizes = contours[nearest].sizes
    assert sizes is not None
    contours[nearest] = replace(contours[nearest], sizes=sizes + 2)
    return tuple(contours)


def ways_to_mark(centre: NDArray[np.float64], radius: float) -> dict[str, tuple[int, NDArray[np.float64]]]:
    """What a user may draw for a vesicle: flags of the object, and points (N, 3); each a little off."""
    angles = np.radians([20, 80, 150, 215, 300])
    ring = np.column_stack([0 * angles, np.sin(angles), np.cos(angles)])
    cap = np.array([[0.6, 0.55, 0.58], [-0.6, -0.7, 0.38]])
    outline = np.radians(np.arange(10, 370, 30))
    wobble = 1 + 0.06 * np.sin(3 * outline)
    outline = wobble[:, None] * np.column_stack([0 * outline, np.sin(outline), np.cos(outline)])
    return {
        "a point inside": (SCATTERED_OBJECT, centre + radius * np.array([[0, 0.3, -0.25]])),
        "centre and edge": (FLAG_OPEN, centre + radius * np.array([[0, 0.08, 0.05], [0, 0.65, 0.8]])),
        "points on the membrane": (FLAG_OPEN, centre + radius * np.vstack([ring, cap])),
        "a closed contour": (0, centre + radius * outline),
    }


# --- pictures


def picture_of_slice(name: str, case: Case, model: Model, drawn: dict[str, NDArray[np.float64]]) -> None:
    """The slice with the spheres of a model as 3dmod draws them, and with what the user clicked."""
    _, ny, nx = case.grid.shape_zyx
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN * ny / nx + 0.45), dpi=DPI)
    axis = figure.add_axes((0, 0.45 / figure.get_figheight(), 1, 1 - 0.45 / figure.get_figheight()))
    show_slice(axis, case.tomogram, SLICE)
    used = [item.name for item in model.objects if draw_spheres(axis, case, model, item, SLICE)]
    handles = [
        Line2D([], [], ls="", marker="o", mfc="none", ms=11, mew=2, color=new_object(item).colour, label=item)
        for item in OUR_OBJECTS
        if item in used and item != "not_fitted"
    ]
    if "not_fitted" in used:
        handles.append(Line2D([], [], ls="", marker="^", mfc="none", ms=9, mew=2, color=YELLOW, label="not_fitted"))
    for kind, colour, marker, text in (("vesicles", "white", "+", "clicked"), ("remove", RED, "x", "point in remove")):
        if len(drawn.get(kind, [])):
            draw_points(axis, drawn[kind], colour, marker, 13)
            handles.append(Line2D([], [], ls="", marker=marker, ms=10, mew=2.2, color=colour, label=text))
    scale_bar(axis, case.grid, 100)
    legend = figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        fontsize=10,
        frameon=True,
        handletextpad=0.3,
        columnspacing=1.4,
        borderpad=0.5,
    )
    legend.get_frame().set(facecolor="0.25", edgecolor="none")
    for text_ in legend.get_texts():
        text_.set_color("white")
    save(figure, name)


def picture_of_marks(name: str, case: Case) -> None:
    """Four ways to mark a vesicle, each with the sphere that was fitted."""
    chosen = clearest(case, 4)
    objects, marks = [], []
    points_model = empty_model(case.grid)
    frame = frame_on(case.path, points_model, case.grid)
    for row, number in enumerate(chosen):
        centre, radius = case.truth.centres_vox[number].copy(), float(case.truth.radii_vox[number])
        centre[0] = round(centre[0])
        text, (flags, points) = list(ways_to_mark(centre, radius).items())[row]
        objects.append(Object(text, (Contour(frame.to_stored(points)),), flags=flags))
        marks.append((text, flags, points, centre, radius))
    path, result = case.folder / "points.mod", case.folder / "marks_vesicles.mod"
    write_model(path, replace(points_model, objects=tuple(objects)))
    run("fix", "--new", str(case.path), str(path), "-o", str(result))
    model = read_model(result)
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / 4 + 0.28), dpi=DPI)
    height = 1 - 0.28 / figure.get_figheight()
    for row, (text, flags, points, centre, radius) in enumerate(marks):
        axis = figure.add_axes((row / 4 + 0.003, 0, 0.244, height))
        show_slice(axis, case.tomogram, int(centre[0]))
        for item in model.objects:
            draw_spheres(axis, case, model, item, int(centre[0]))
        if flags == 0:
            line = np.vstack([points, points[:1]])
            axis.plot(line[:, 2], line[:, 1], color="white", lw=1)
        draw_points(axis, points, "white", "+", 9)
        half = 1.9 * radius
        axis.set(xlim=(centre[2] - half, centre[2] + half), ylim=(centre[1] - half, centre[1] + half))
        axis.set_title(text, fontsize=10, pad=4)
    save(figure, name)


def clearest(case: Case, count: int) -> list[int]:
    """Rows of vesicles well inside that no other comes near."""
    centres, radii = case.truth.centres_vox, case.truth.radii_vox
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2) - radii[:, None] - radii[None]
    np.fill_diagonal(gaps, np.inf)
    edge = np.minimum(centres, np.array(case.grid.shape_zyx) - 1 - centres).min(axis=1)
    alone = np.where(edge > 2 * radii, gaps.min(axis=1), -np.inf)
    return np.argsort(-alone)[:count].tolist()


def show_slice(axis: Axes, tomogram: Tomogram, z: int) -> None:
    """The mean of five planes, slightly smoothed, as grey values."""
    image = np.asarray(tomogram.grey((slice(z - 2, z + 3), slice(None), slice(None))).mean(axis=0))
    image = gaussian_filter(image, 0.8)
    low, high = np.percentile(image, [0.5, 99.5])
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bilinear")
    axis.set_axis_off()
    axis.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(-0.5, image.shape[0] - 0.5))


def draw_spheres(axis: Axes, case: Case, model: Model, item: Object, z: int) -> bool:
    """Circles where the spheres of an object cut a slice; triangles for points without one. Whether there were any."""
    frame = frame_on(case.model, model, case.grid)
    drawn = False
    for contour in item.contours:
        for centre, radius in zip(frame.to_index(contour.points), frame.sizes_to_vox(item.radii(contour)), strict=True):
            square = radius**2 - (centre[0] - z) ** 2
            if radius > 0 and square > 0:
                axis.add_patch(Circle((centre[2], centre[1]), square**0.5, fill=False, ec=item.colour, lw=2))
                drawn = True
            elif item.name == "not_fitted" and abs(centre[0] - z) < 0.5:
                draw_points(axis, centre[None], YELLOW, "^", 10)
                drawn = True
    return drawn


def draw_points(axis: Axes, points: NDArray[np.float64], colour: ArrayLike, marker: str, size: float) -> None:
    """Points (N, 3) with a dark rim, so that they are seen on any grey."""
    rim = [withStroke(linewidth=4, foreground="black")]
    axis.plot(
        points[:, 2], points[:, 1], ls="", marker=marker, ms=size, mew=2, mfc="none", color=colour, path_effects=rim
    )


def scale_bar(axis: Axes, grid: Grid, length_nm: float) -> None:
    """A white bar with its length."""
    length = float(grid.length_to_vox(length_nm))
    rim = [withStroke(linewidth=6, foreground="black")]
    axis.plot([6, 6 + length], [6, 6], color="white", lw=4, solid_capstyle="butt", path_effects=rim)
    rim = [withStroke(linewidth=3, foreground="black")]
    axis.text(
        6 + length / 2, 8, f"{length_nm:g} nm", color="white", ha="center", va="bottom", fontsize=11, path_effects=rim
    )


def save(figure: Figure, name: str) -> None:
    """Write a PNG with few colours."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    image.quantize(palette=palette(), dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)
    print(f"wrote {FOLDER / name}")


def palette() -> Image.Image:
    """An image with the colours that the pictures may have."""
    names: list[Any] = [*(new_object(name).colour for name in OUR_OBJECTS), YELLOW, RED]
    colours = np.array([to_rgb(name) for name in names])
    greys = np.repeat(np.linspace(0, 1, GREYS)[:, None], 3, axis=1)
    table = np.vstack([greys, *(share * colours + (1 - share) * 0.4 for share in SHADES)])
    image = Image.new("P", (1, 1))
    image.putpalette(np.rint(255 * table).astype(int).ravel().tolist())
    return image


if __name__ == "__main__":
    main()
