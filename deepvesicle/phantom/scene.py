"""Scenes: a synapse full of vesicles and of what looks like them, with exact truth.

Ranges follow published measurements: synaptic vesicles of 13 to 27 nm outer radius, mean 18 to 21 nm, 5 to 95 % of the
gaps to the nearest neighbour between 0 and 26 nm (cryo-tomograms of synapses distributed with Pyto); dense-core
vesicles, endosomes, transport and extracellular vesicles up to 100 nm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepvesicle.grid import Grid
from deepvesicle.phantom.shapes import (
    HEAD_SHARE,
    Bilayer,
    Field,
    add_ball,
    add_compartment,
    add_tube,
    scatter_blobs,
    smooth_step,
)
from deepvesicle.phantom.surroundings import Surroundings
from deepvesicle.spheres import fibonacci_directions, inside_fractions
from deepvesicle.vesicles import Status, Vesicles

#: Kinds of scene that `random_scene` knows.
SCENE_KINDS = ("synapse", "liposomes", "small", "shells", "no_vesicles", "granules")
#: Things of a vesicle's size that are none: a membrane sheet, a tubule, a gold bead, a granule.
LOOKALIKES = ("sheet", "tubule", "gold", "blob")


class Kind(IntEnum):
    """What a true sphere is; the feature `kind` of a scene's vesicles."""

    SYNAPTIC = 1
    DENSE_CORE = 2
    ENDOSOME = 3
    LIPOSOME = 4
    SHELL = 5


@dataclass(frozen=True)
class Scene:
    """A density volume and the true vesicles in it.

    Parameters
    ----------
    density : float32 array (z, y, x)
        Relative mass density above ice; protein is about 1.
    grid : Grid
    vesicles : Vesicles
        All spheres, those cut by the border too; features `kind` and `inside_fraction`.
    """

    density: Field
    grid: Grid
    vesicles: Vesicles


def random_scene(
    rng: np.random.Generator, shape_zyx: tuple[int, int, int], voxel_nm: float, kind: str = "synapse"
) -> Scene:
    """Draw a scene.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape_zyx : tuple of int
        Voxels of the volume.
    voxel_nm : float
    kind : str
        One of `SCENE_KINDS`: a synapse; lipid vesicles of 12 to 95 nm in ice; mostly small ones, in ice or in a cell;
        crowds of small equal shells; a cell without vesicles; one full of granules.

    Returns
    -------
    Scene
    """
    if kind not in SCENE_KINDS:
        raise ValueError(f"unknown kind of scene {kind!r}, expected one of {', '.join(SCENE_KINDS)}")
    builder = _Builder(rng, shape_zyx, voxel_nm)
    getattr(builder, kind)()
    return builder.finish()


def placed_scene(
    rng: np.random.Generator,
    shape_zyx: tuple[int, int, int],
    voxel_nm: float,
    centres_nm: ArrayLike,
    radii_nm: ArrayLike,
    *,
    lookalikes: Sequence[tuple[str, ArrayLike]] = (),
    crowding: float = 0.3,
    spread: float = 0.0,
) -> Scene:
    """Put vesicles and look-alikes where they are wanted, into cytosol that fills the volume.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape_zyx : tuple of int
        Voxels of the volume.
    voxel_nm : float
    centres_nm : array (N, 3)
        Of the vesicles, z, y, x; they may lie outside the volume.
    radii_nm : array (N,)
        Outer radii; the true ones come within 0.1 nm, as thicknesses vary.
    lookalikes : sequence of (str, array (3,))
        What, one of `LOOKALIKES`, and where.
    crowding : float
        Protein between the vesicles; 1.0 is about 15 % by volume.
    spread : float
        Relative SD of the vesicles' semi-axes.

    Returns
    -------
    Scene
        Its vesicles are in the order given.
    """
    builder = _Builder(rng, shape_zyx, voxel_nm)
    builder.slab = (-np.inf, np.inf)
    builder._cytosol(crowding)
    for what, place in lookalikes:
        if what not in LOOKALIKES:
            raise ValueError(f"unknown look-alike {what!r}, expected one of {', '.join(LOOKALIKES)}")
        builder._lookalike(what, np.asarray(place, dtype=float))
    # From the outer plane of head groups to where the density ends, which is what the builder counts in.
    beyond = (1 - HEAD_SHARE) / 2 * builder.membrane.thickness_nm
    for centre, radius in zip(np.asarray(centres_nm, dtype=float).reshape(-1, 3), np.ravel(radii_nm), strict=True):
        builder._add(Kind.SYNAPTIC, centre, float(radius) + beyond, spread)
    return builder.finish()


class _Builder(Surroundings):
    """One scene in the making: its surroundings, and the spheres so far."""

    def __init__(self, rng: np.random.Generator, shape_zyx: tuple[int, int, int], voxel_nm: float) -> None:
        super().__init__(rng, shape_zyx, voxel_nm)
        self.centres: list[NDArray[np.float64]] = []
        self.rows: list[tuple[float, float, Kind]] = []  # middle radius, thickness over all, kind
        self.decor: list[NDArray[np.float64]] = []  # protein places on membranes

    # -- scenes ------------------------------------------------------------------------------------------------------

    def synapse(self) -> None:
        rng = self.rng
        self._cytosol(rng.uniform(0.15, 0.9))
        self._plasma_membranes(int(rng.integers(0, 3)))
        if rng.random() < 0.45:
            self._mitochondrion()
        if rng.random() < 0.2:
            self._cisternae()
        for _ in range(int(rng.poisson(1.4))):
            self._tubule()
        for _ in range(int(rng.poisson(1.2))):
            self._microtubule()
        if rng.random() < 0.5:
            self._actin(int(rng.integers(1, 10)))
        for _ in range(int(rng.poisson(0.7))):
            self._place(Kind.ENDOSOME, rng.uniform(27, 70), gap_nm=4, spread=0.06)
        for _ in range(int(rng.poisson(0.7))):
            self._place(Kind.DENSE_CORE, rng.uniform(25, 50), gap_nm=3, spread=0.03)
        mean = rng.uniform(16.5, 23)
        spread = rng.uniform(1.0, 3.2)
        volume = float(np.prod(self.size)) / 1e6
        count = int(min(rng.uniform(2, 18) * volume, 400))
        self._crowd(Kind.SYNAPTIC, count, lambda: float(np.clip(rng.normal(mean, spread), 12.5, 31)))
        if rng.random() < 0.12:
            self._clumps()
        self._complexes(rng.uniform(0, 2.0) if rng.random() < 0.7 else rng.uniform(2, 8))
        self._extras()

    def liposomes(self) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            self._cytosol(rng.uniform(0.02, 0.4))
        big = rng.uniform(30, 95)
        small = rng.uniform(12.5, 25)
        for _ in range(int(rng.integers(1, 7))):
            self._place(Kind.LIPOSOME, rng.uniform(small, big), gap_nm=2, spread=0.04)
        count = int(rng.uniform(1, 8) * float(np.prod(self.size)) / 1e6)
        self._crowd(Kind.LIPOSOME, min(count, 200), lambda: float(np.exp(rng.uniform(np.log(12.5), np.log(big)))))
        for _ in range(int(rng.choice([0, 1, 2, 4], p=[0.55, 0.2, 0.15, 0.1]))):
            self._nested()
        if rng.random() < 0.3:
            self._tubule()
        self._complexes(rng.uniform(0, 1.0))
        self._extras()

    def small(self) -> None:
        rng = self.rng
        self._cytosol(rng.uniform(0.02, 0.9))
        if rng.random() < 0.3:
            self._plasma_membranes(1)
        for _ in range(int(rng.poisson(0.7))):
            self._tubule()
        most = rng.uniform(14, 22)
        count = int(rng.uniform(4, 25) * float(np.prod(self.size)) / 1e6)
        self._crowd(Kind.LIPOSOME, min(count, 400), lambda: float(rng.uniform(12.3, most)))
        self._complexes(rng.uniform(0, 4))
        if rng.random() < 0.3:
            self._granules(rng.uniform(0, 5))
        self._extras()

    def shells(self) -> None:
        rng = self.rng
        radius = rng.uniform(12.5, 26)
        self.membrane = Bilayer(rng.uniform(4.0, 9.0), rng.uniform(0.8, 1.3))
        volume = float(np.prod(self.size)) / 1e6
        self._crowd(Kind.SHELL, int(min(rng.uniform(3, 40) * volume, 400)), lambda: float(rng.normal(radius, 0.2)))
        self._extras()

    def no_vesicles(self) -> None:
        rng = self.rng
        self._cytosol(rng.uniform(0.1, 1.0) if rng.random() < 0.6 else rng.uniform(1.0, 2.5))
        self._plasma_membranes(int(rng.integers(0, 3)))
        if rng.random() < 0.5:
            self._mitochondrion()
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.5, 0.3, 0.1, 0.1]))):
            self._cisternae()
        for _ in range(int(rng.integers(0, 5))):
            self._tubule()
        for _ in range(int(rng.integers(0, 6))):
            self._microtubule()
        if rng.random() < 0.4:
            self._bundle(int(rng.integers(3, 40)))
        self._actin(int(rng.integers(0, 25)))
        self._complexes(rng.uniform(0, 25))
        if rng.random() < 0.5:
            self._clumps()
        self._extras()

    def granules(self) -> None:
        rng = self.rng
        self._cytosol(rng.uniform(0.05, 1.0))
        self._plasma_membranes(int(rng.integers(0, 2)))
        if rng.random() < 0.3:
            self._mitochondrion()
        for _ in range(int(rng.integers(0, 4))):
            self._tubule()
        if rng.random() < 0.3:
            self._cisternae()
        self._granules(rng.uniform(2, 20))
        self._complexes(rng.uniform(0, 12))
        self._extras()

    # -- vesicles ----------------------------------------------------------------------------------------------------

    def _is_free(self, centre: NDArray[np.float64], outer: float, gap: float) -> bool:
        if not self.slab[0] + outer < centre[0] < self.slab[1] - outer:
            return False
        if self.centres:
            others = np.array(self.centres)
            radii = np.array([mid + thickness / 2 for mid, thickness, _ in self.rows])
            if np.any(np.linalg.norm(others - centre, axis=1) < radii + outer + gap):
                return False
        surface = centre + _DIRECTIONS * outer
        middle = centre + _DIRECTIONS * (outer / 2)
        return not any(self.taken[self._voxel(p)] for p in (centre, *surface, *middle))

    def _add(self, kind: Kind, centre: NDArray[np.float64], outer: float, spread: float) -> None:
        """Paint a vesicle; `spread` is the relative SD of its semi-axes, whose geometric mean stays the truth."""
        rng = self.rng
        thickness = self.membrane.thickness_nm * rng.uniform(0.93, 1.07)
        middle = outer - thickness / 2
        stretch = np.exp(np.clip(rng.normal(0, spread, 3), -2 * spread, 2 * spread))
        axes = middle * stretch / np.prod(stretch) ** (1 / 3)
        membrane = Bilayer(thickness, self.membrane.density * rng.uniform(0.85, 1.15))
        lumen = {Kind.SYNAPTIC: rng.uniform(0, 0.15), Kind.LIPOSOME: rng.uniform(0, 0.08)}.get(
            kind, rng.uniform(0, 0.2)
        )
        if rng.random() < 0.1:  # a dense lumen
            lumen = rng.uniform(0.1, 0.4)
        add_compartment(self.canvas, centre, axes, membrane, lumen, 0.1)
        if kind is Kind.DENSE_CORE:
            core = (middle - thickness / 2) * rng.uniform(0.6, 0.92)
            add_ball(self.canvas, centre, core, rng.uniform(0.15, 0.5))
            grains = centre + rng.normal(0, 1, (60, 3)) * core / 2.2
            for grain in grains[np.linalg.norm(grains - centre, axis=1) < core]:
                add_ball(self.canvas, grain, rng.uniform(1.5, 3.5), rng.uniform(0.2, 0.7))
        if kind is not Kind.SHELL:
            count = int(rng.poisson({Kind.SYNAPTIC: 12}.get(kind, 4) * (outer / 20) ** 2))
            directions = rng.normal(0, 1, (count, 3))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            self.decor.append(centre + directions * (outer + rng.uniform(0.5, 4.0, (count, 1))))
        self.centres.append(centre)
        self.rows.append((middle, thickness, kind))

    def _place(self, kind: Kind, outer: float, gap_nm: float, spread: float) -> None:
        """One vesicle anywhere it fits, its centre possibly up to half a radius outside the volume."""
        for _ in range(30):
            centre = self.rng.uniform(-0.5 * outer, self.size + 0.5 * outer)
            if self._is_free(centre, outer, gap_nm):
                self._add(kind, centre, outer, spread)
                return

    def _crowd(self, kind: Kind, count: int, draw_radius) -> None:  # type: ignore[no-untyped-def]
        """Many vesicles, most of them beside one already there, with exponential gaps (touching ones included)."""
        rng = self.rng
        mean_gap = rng.uniform(1.0, 9.0)
        cohesion = rng.uniform(0.2, 0.95)
        spread = rng.uniform(0.0, 0.035) if rng.random() < 0.75 else rng.uniform(0.035, 0.08)
        first = len(self.centres)
        for _ in range(count):
            outer = draw_radius()
            for _attempt in range(12):
                gap = rng.exponential(mean_gap)
                if len(self.centres) > first and rng.random() < cohesion:
                    near = int(rng.integers(first, len(self.centres)))
                    middle, thickness, _ = self.rows[near]
                    direction = rng.normal(0, 1, 3)
                    direction /= np.linalg.norm(direction)
                    centre = self.centres[near] + direction * (middle + thickness / 2 + outer + gap + 0.01)
                else:
                    centre = rng.uniform(-0.5 * outer, self.size + 0.5 * outer)
                inside = np.all(centre > -0.6 * outer) and np.all(centre < self.size + 0.6 * outer)
                if inside and self._is_free(centre, outer, min(gap, 0.0)):
                    self._add(kind, centre, outer, spread)
                    break

    def _nested(self) -> None:
        """A small vesicle inside the largest one, beside others that are there already."""
        if not self.rows:
            return
        rng = self.rng
        outers = np.array([middle + thickness / 2 for middle, thickness, _ in self.rows])
        host = int(np.argmax(outers))
        middle, thickness, kind = self.rows[host]
        room = middle - thickness - 4
        for _ in range(10):
            outer = rng.uniform(12.5, 30)
            direction = rng.normal(0, 1, 3)
            place = self.centres[host] + direction / np.linalg.norm(direction) * rng.uniform(0, max(room - outer, 0))
            apart = np.linalg.norm(np.array(self.centres) - place, axis=1) > outers + outer + 2
            apart[host] = room >= outer + 3
            if apart.all():
                self._add(kind, place, outer, 0.02)
                return

    # -- look-alikes of about a vesicle's size -----------------------------------------------------------------------

    def _lookalike(self, what: str, place: NDArray[np.float64]) -> None:
        draw = {"sheet": self._sheet, "tubule": self._piece_of_tubule, "gold": self._gold, "blob": self._blob}
        draw[what](place)

    def _sheet(self, place: NDArray[np.float64]) -> None:
        """A gently bent piece of membrane, 80 to 120 nm across, in any direction."""
        rng, canvas = self.rng, self.canvas
        half = rng.uniform(40, 60)
        box = canvas.box(place - half, place + half)
        if box is None:
            return
        normal = rng.normal(0, 1, 3)
        normal /= np.linalg.norm(normal)
        z, y, x = (c - np.float32(p) for c, p in zip(canvas.coordinates(box), place, strict=True))
        away2 = z * z + y * y + x * x
        height = z * np.float32(normal[0]) + y * np.float32(normal[1]) + x * np.float32(normal[2])
        flat2 = np.maximum(away2 - height**2, 0)
        height = height + flat2 * np.float32(rng.uniform(-1, 1) / 240)  # radius of curvature at least 120 nm
        edge = smooth_step(np.sqrt(flat2) - np.float32(half - 4), 2.0)
        canvas.density[box] += edge * self.membrane.profile(height, canvas.voxel_nm)

    def _piece_of_tubule(self, place: NDArray[np.float64]) -> None:
        """A straight tubule or microtubule, 90 to 130 nm long, in any direction."""
        rng = self.rng
        heading = rng.normal(0, 1, 3)
        heading /= np.linalg.norm(heading)
        curve = place + np.arange(-1, 1.01, 0.05)[:, None] * rng.uniform(45, 65) * heading
        add_tube(self.canvas, curve, rng.uniform(9, 25), self.membrane, rng.uniform(0, 0.2), 0.2)

    def _gold(self, place: NDArray[np.float64]) -> None:
        add_ball(self.canvas, place, self.rng.uniform(2.5, 7.5), self.rng.uniform(10, 30))

    def _blob(self, place: NDArray[np.float64]) -> None:
        """A solid granule."""
        rng = self.rng
        radius = rng.uniform(8, 20)
        for _ in range(int(rng.integers(1, 6))):
            add_ball(
                self.canvas, place + rng.normal(0, 0.3 * radius, 3), radius * rng.uniform(0.5, 1), rng.uniform(0.2, 0.6)
            )

    # -- result ------------------------------------------------------------------------------------------------------

    def finish(self) -> Scene:
        """Add the proteins on membranes and make the truth table."""
        canvas = self.canvas
        grid = Grid(canvas.density.shape, canvas.voxel_nm)  # type: ignore[arg-type]
        if self.decor:
            points = np.concatenate(self.decor)
            mass = 15.75 * 2.0**3 * self.rng.uniform(0.3, 1.0, len(points))
            canvas.density[...] += scatter_blobs(canvas, points, mass, 2.0)
        if not self.rows:
            return Scene(canvas.density, grid, Vesicles.empty(grid))
        middle = np.array([row[0] for row in self.rows])
        # The outer edge is the outer plane of head groups, as where the thickness of bilayers is measured.
        thickness = HEAD_SHARE * np.array([row[1] for row in self.rows])
        vesicles = Vesicles.from_spheres(
            grid,
            np.array(self.centres) / canvas.voxel_nm,
            (middle + thickness / 2) / canvas.voxel_nm,
            membrane_radii_vox=middle / canvas.voxel_nm,
            thickness_vox=thickness / canvas.voxel_nm,
            status=(Status.MANUAL,) * len(middle),
            features={"kind": [int(row[2]) for row in self.rows]},
        )
        inside = inside_fractions(grid, vesicles.centres_vox, vesicles.radii_vox)
        return Scene(canvas.density, grid, vesicles.with_features(inside_fraction=inside))


_DIRECTIONS = fibonacci_directions(40)
