"""What surrounds vesicles in a cell, and what looks like them: drawn into a scene before the vesicles are placed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from deepvesicle.phantom.shapes import (
    Bilayer,
    Canvas,
    Field,
    add_ball,
    add_compartment,
    add_tube,
    ellipsoid_distance,
    random_curve,
    scatter_blobs,
    smooth_step,
)


class Surroundings:
    """A density volume in the making, and which of its space is taken.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape_zyx : tuple of int
    voxel_nm : float
    """

    def __init__(self, rng: np.random.Generator, shape_zyx: tuple[int, int, int], voxel_nm: float) -> None:
        self.rng = rng
        self.canvas = Canvas(np.zeros(shape_zyx, dtype=np.float32), float(voxel_nm))
        self.taken = np.zeros(shape_zyx, dtype=bool)
        self.membrane = Bilayer(rng.uniform(3.2, 5.5), rng.uniform(0.8, 1.3))
        self.size = self.canvas.size_nm
        self.slab = self._draw_slab()

    def _voxel(self, point_nm: NDArray[np.float64]) -> tuple[int, int, int]:
        index = np.clip(
            np.rint(point_nm / self.canvas.voxel_nm).astype(int), 0, np.asarray(self.canvas.density.shape) - 1
        )
        return int(index[0]), int(index[1]), int(index[2])

    def _draw_slab(self) -> tuple[float, float]:
        """Where there is a sample along z (nm): all of the volume, or a slab with nothing above or below."""
        rng, depth = self.rng, self.size[0]
        if rng.random() < 0.45:
            return (-50.0, depth + 50.0)
        low = rng.uniform(0, 0.25) * depth if rng.random() < 0.7 else -50.0
        high = depth - rng.uniform(0, 0.25) * depth if rng.random() < 0.7 else depth + 50.0
        return (low, high)

    def _in_slab(self) -> Field:
        z = self.canvas.coordinates()[0]
        low, high = (np.float32(v) for v in self.slab)
        return smooth_step(low - z, 3.0) * smooth_step(z - high, 3.0)

    def _cytosol(self, crowding: float) -> None:
        """Proteins of several sizes; `crowding` 1.0 is about 15 % by volume."""
        rng, canvas = self.rng, self.canvas
        volume = float(np.prod(self.size))
        for sigma_nm, share in ((1.4, 0.45), (2.2, 0.35), (3.4, 0.2)):
            mass = 15.75 * sigma_nm**3  # a Gaussian ball of peak density 1
            count = int(crowding * share * 0.15 * volume / mass)
            points = rng.uniform(0, 1, (count, 3)) * self.size
            canvas.density[...] += scatter_blobs(canvas, points, mass * rng.lognormal(0, 0.4, count), sigma_nm)
        canvas.density[...] *= self._in_slab()

    def _plasma_membranes(self, count: int) -> None:
        """Undulating sheets across the volume, some with an active zone and a cleft."""
        rng, canvas = self.rng, self.canvas
        z, y, x = canvas.coordinates()
        for _ in range(count):
            angle = rng.uniform(0, 2 * np.pi)
            tip = rng.normal(0, 0.15)
            normal = np.array([np.sin(tip), np.cos(tip) * np.sin(angle), np.cos(tip) * np.cos(angle)])
            across = np.array([0.0, np.cos(angle), -np.sin(angle)])
            offset = rng.uniform(0.05, 0.95, 3) * self.size
            dz, dy, dx = (c - np.float32(o) for c, o in zip((z, y, x), offset, strict=True))
            along = dy * np.float32(across[1]) + dx * np.float32(across[2])
            distance = dz * np.float32(normal[0]) + dy * np.float32(normal[1]) + dx * np.float32(normal[2])
            distance = distance + np.float32(rng.uniform(0, 12)) * np.sin(
                along * np.float32(2 * np.pi / rng.uniform(80, 400)) + np.float32(rng.uniform(0, 6.3))
            )
            distance = distance + (along**2 + dz**2) * np.float32(rng.normal(0, 1 / 900))
            cleft = rng.uniform(14, 35) if rng.random() < 0.7 else 0.0
            sheet = Bilayer(
                self.membrane.thickness_nm * rng.uniform(0.9, 1.3), self.membrane.density * rng.uniform(0.9, 1.5)
            )
            if cleft:
                gap = smooth_step(-distance, 2.0) * smooth_step(distance - np.float32(cleft), 2.0)
                canvas.density[...] *= 1 - np.float32(rng.uniform(0.3, 1.0)) * gap
                canvas.density[...] += np.float32(rng.uniform(0, 0.25)) * gap
                canvas.density[...] += sheet.profile(distance - np.float32(cleft), canvas.voxel_nm) * self._in_slab()
            canvas.density[...] += sheet.profile(distance, canvas.voxel_nm) * self._in_slab()
            self.taken |= (distance > -sheet.thickness_nm) & (distance < cleft + sheet.thickness_nm)
            if rng.random() < 0.5:  # dense protein of an active zone, or of a postsynaptic density
                patch = np.exp(-0.5 * ((along / np.float32(rng.uniform(40, 120))) ** 2 + (dz / np.float32(60)) ** 2))
                layer = np.exp(-0.5 * ((distance + np.float32(rng.uniform(6, 14))) / np.float32(5)) ** 2)
                rough = self._roughness(canvas.density.shape, 3.0)
                canvas.density[...] += np.float32(rng.uniform(0.2, 0.8)) * patch * layer * np.clip(rough + 0.5, 0, None)

    def _roughness(self, shape: tuple[int, ...], sigma_nm: float) -> Field:
        """Smooth noise of SD 1."""
        noise = self.rng.normal(0, 1, shape).astype(np.float32)
        rough = ndimage.gaussian_filter(noise, sigma_nm / self.canvas.voxel_nm)
        return (rough / rough.std()).astype(np.float32)

    def _mitochondrion(self) -> None:
        """Two membranes, a dense matrix, cristae; usually only partly in view."""
        rng, canvas = self.rng, self.canvas
        axes = rng.uniform(70, 220, 3)
        centre = self.size / 2 + rng.choice([-1, 1], 3) * rng.uniform(0.2, 0.75, 3) * self.size
        box = canvas.box(centre - axes - 30, centre + axes + 30)
        if box is None:
            return
        distance = ellipsoid_distance(canvas, box, centre, axes)
        inner = distance + np.float32(rng.uniform(10, 18))
        inside = smooth_step(distance, 2.0)
        matrix = smooth_step(inner, 2.0)
        part = canvas.density[box]
        part *= 1 - np.float32(0.8) * inside
        rough = self._roughness(part.shape, 2.0)
        part += np.float32(rng.uniform(0.2, 0.5)) * matrix * (1 + np.float32(0.6) * rough)
        membrane = Bilayer(self.membrane.thickness_nm * 1.1, self.membrane.density * 1.2)
        part += membrane.profile(distance, canvas.voxel_nm) + membrane.profile(inner, canvas.voxel_nm)
        z, y, x = canvas.coordinates(box)
        normal = rng.normal(0, 1, 3) * (0.4, 1, 1)
        normal /= np.linalg.norm(normal)
        period = np.float32(rng.uniform(30, 70))
        phase = z * np.float32(normal[0]) + y * np.float32(normal[1]) + x * np.float32(normal[2])
        phase = phase + np.float32(8) * np.sin(y / np.float32(35)) + np.float32(8) * np.sin(x / np.float32(41))
        sheet = np.abs(phase % period - period / 2)  # distance from the middle of a crista
        part += membrane.profile(sheet - np.float32(rng.uniform(5, 8)), canvas.voxel_nm) * matrix
        self.taken[box] |= distance < membrane.thickness_nm

    def _cisternae(self) -> None:
        """A stack of flat, bent, closed sacs with swollen rims, as of Golgi and endoplasmic reticulum."""
        rng, canvas = self.rng, self.canvas
        count = int(rng.choice([1, 2, 3, 4, 5], p=[0.3, 0.2, 0.2, 0.15, 0.15]))
        normal = rng.normal(0, 1, 3) * (rng.choice([0.3, 1.0]), 1, 1)
        normal /= np.linalg.norm(normal)
        centre = rng.uniform(0.0, 1.0, 3) * self.size
        spacing = rng.uniform(18, 35)
        bend = rng.normal(0, 1 / 800)
        wall = Bilayer(self.membrane.thickness_nm, self.membrane.density * rng.uniform(0.9, 1.2))
        lumen, keep = rng.uniform(0, 0.3), 0.2
        widest = rng.uniform(40, 180)
        for i in range(count):
            half, rim = rng.uniform(4.5, 9), rng.uniform(0, 9)
            radius = widest * rng.uniform(0.6, 1.0)
            middle = centre + normal * spacing * (i - (count - 1) / 2) + rng.normal(0, 6, 3)
            reach = radius + half + rim + 2 * wall.thickness_nm
            box = canvas.box(middle - reach, middle + reach)
            if box is None:
                continue
            z, y, x = (c - np.float32(m) for c, m in zip(canvas.coordinates(box), middle, strict=True))
            height = z * np.float32(normal[0]) + y * np.float32(normal[1]) + x * np.float32(normal[2])
            flat2 = np.maximum(z**2 + y**2 + x**2 - height**2, 0)
            height = height - np.float32(bend) * flat2
            flat = np.sqrt(flat2)
            swollen = np.float32(half) + np.float32(rim) * np.minimum(flat / np.float32(radius), 1) ** 4
            distance = np.hypot(height, np.maximum(flat - np.float32(radius), 0)) - swollen
            sample = self._in_slab()[box[0]]
            inside = smooth_step(distance, wall.thickness_nm / 3) * sample
            part = canvas.density[box]
            part *= 1 - np.float32(1 - keep) * inside
            part += np.float32(lumen) * inside + wall.profile(distance, canvas.voxel_nm) * sample
            self.taken[box] |= distance < wall.thickness_nm

    def _random_line(self, bend_nm: float, flat: float) -> NDArray[np.float64]:
        rng = self.rng
        start = rng.uniform(-0.1, 1.1, 3) * self.size
        target = rng.uniform(0.2, 0.8, 3) * self.size
        heading = (target - start) * (flat, 1, 1) + 1e-3
        return random_curve(rng, start, heading, rng.uniform(0.4, 1.6) * self.size.max(), bend_nm)

    def _tubule(self) -> None:
        rng = self.rng
        radius = rng.uniform(9, 28)
        upright = rng.random() < 0.25
        curve = self._random_line(rng.uniform(80, 600), 4.0 if upright else 0.4)
        self._tube(curve, radius, Bilayer(self.membrane.thickness_nm, self.membrane.density), rng.uniform(0, 0.25), 0.2)

    def _microtubule(self) -> None:
        upright = self.rng.random() < 0.2
        curve = self._random_line(20000.0, 4.0 if upright else 0.3)
        self._tube(curve, self.rng.uniform(9.5, 11.0), Bilayer(4.5, self.rng.uniform(1.0, 1.6)), 0.05, 0.1)

    def _bundle(self, count: int) -> None:
        """Parallel microtubules, as in spindles and axons, in any direction."""
        rng = self.rng
        heading = rng.normal(0, 1, 3) * (rng.choice([0.2, 1.0, 5.0]), 1, 1)
        middle = rng.uniform(0.3, 0.7, 3) * self.size
        spread = rng.uniform(12, 25) * np.sqrt(count)
        length = 2 * float(np.linalg.norm(self.size))
        for _ in range(count):
            tilted = heading + rng.normal(0, 0.05, 3) * np.linalg.norm(heading)
            start = middle + rng.normal(0, spread, 3) - tilted / np.linalg.norm(tilted) * length / 2
            curve = random_curve(rng, start, tilted, length, 20000.0)
            self._tube(curve, rng.uniform(9.5, 11.0), Bilayer(4.5, rng.uniform(1.0, 1.6)), 0.05, 0.1)

    def _tube(self, curve: NDArray[np.float64], radius: float, wall: Bilayer, lumen: float, keep: float) -> None:
        curve = curve[(curve[:, 0] > self.slab[0] + radius) & (curve[:, 0] < self.slab[1] - radius)]
        if len(curve) < 3:
            return
        add_tube(self.canvas, curve, radius, wall, lumen, keep)
        marks = Canvas(np.zeros(self.canvas.density.shape, dtype=np.float32), self.canvas.voxel_nm)
        for point in curve[:: max(1, int(radius / 8))]:
            add_ball(marks, point, radius + wall.thickness_nm, 1.0)
        self.taken |= marks.density > 0.4

    def _actin(self, count: int) -> None:
        for _ in range(count):
            add_tube(
                self.canvas, self._random_line(9000.0, 0.4), 1.0, Bilayer(6.0, self.rng.uniform(0.3, 0.7)), 0.0, 1.0
            )

    def _complexes(self, density: float) -> None:
        """Ribosome-like blobs, hollow protein shells and rings at true scale: round, but no vesicles.

        `density` is the number in a cube of 100 nm; 8 to 20 are usual for ribosomes in a busy cytoplasm.
        """
        rng = self.rng
        for _ in range(int(rng.poisson(density * float(np.prod(self.size)) / 1e6))):
            centre = rng.uniform(0, 1, 3) * self.size
            if not self.slab[0] < centre[0] < self.slab[1] or self.taken[self._voxel(centre)]:
                continue
            kind = rng.random()
            if kind < 0.12:  # granules: solid, of a vesicle's size
                radius = rng.uniform(7, 18)
                for _ in range(int(rng.integers(2, 6))):
                    place = centre + rng.normal(0, 0.35 * radius, 3)
                    add_ball(self.canvas, place, radius * rng.uniform(0.5, 1.0), rng.uniform(0.2, 0.6))
            elif kind < 0.85:
                for _ in range(3):
                    add_ball(self.canvas, centre + rng.normal(0, 4, 3), rng.uniform(5, 9), rng.uniform(0.4, 0.9))
            else:
                axes = np.full(3, rng.uniform(4.5, 8.0))
                add_compartment(self.canvas, centre, axes, Bilayer(2.8, rng.uniform(0.8, 1.4)), 0.0, 0.3)

    def _granules(self, density: float) -> None:
        """Solid things of a vesicle's size, lumpy or round: a fringe looks like a membrane on them.

        `density` is the number in a cube of 100 nm.
        """
        rng = self.rng
        for _ in range(int(rng.poisson(density * float(np.prod(self.size)) / 1e6))):
            centre = rng.uniform(0, 1, 3) * self.size
            if not self.slab[0] < centre[0] < self.slab[1] or self.taken[self._voxel(centre)]:
                continue
            radius, lumps = rng.uniform(8, 20), int(rng.choice([1, 2, 3, 4], p=[0.5, 0.2, 0.2, 0.1]))
            for _ in range(lumps):
                place = centre + (rng.normal(0, 0.35 * radius, 3) if lumps > 1 else 0.0)
                size = radius * (rng.uniform(0.5, 1.0) if lumps > 1 else 1.0)
                add_ball(self.canvas, place, size, rng.uniform(0.2, 0.9))

    def _clumps(self) -> None:
        """Dense material without form, as between the fibres of a spindle."""
        grain = np.clip(self._roughness(self.canvas.density.shape, self.rng.uniform(3.5, 9.0)) - 0.9, 0, None)
        self.canvas.density[...] += np.float32(self.rng.uniform(0.3, 1.2)) * grain * self._in_slab()

    def _extras(self) -> None:
        """Gold, a carbon edge, slow density changes of the ice."""
        rng, canvas = self.rng, self.canvas
        if rng.random() < 0.3:
            for _ in range(int(rng.integers(1, 6))):
                centre = rng.uniform(0, 1, 3) * self.size
                add_ball(canvas, centre, rng.uniform(2.5, 7.5), rng.uniform(10, 30))
        if rng.random() < 0.06:
            z, y, x = canvas.coordinates()
            angle = rng.uniform(0, 2 * np.pi)
            edge = (y - self.size[1] / 2) * np.float32(np.sin(angle)) + (x - self.size[2] / 2) * np.float32(
                np.cos(angle)
            )
            film = smooth_step(edge + np.float32(rng.uniform(0.2, 0.5) * self.size[2]), 3.0)
            bottom = np.float32(max(self.slab[0], 0.0))
            canvas.density[...] += (
                film * smooth_step(z - bottom - np.float32(15), 2.0) * np.float32(rng.uniform(0.6, 1.5))
            )
