"""What is published of a set of vesicles: sizes, distances to one another and to the active zone, number density.

Distances go from surface to surface; the surface of a vesicle is the outer edge of its membrane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from deepvesicle.grid import Grid, Points, Region
from deepvesicle.spheres import are_cut
from deepvesicle.vesicles import Status, Vesicles

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int64]

#: Distances from the active zone within which the share of vesicles is given, nm.
ZONE_LIMITS_NM = (45, 75, 150, 250)
#: Voxels of a region that are looked at at a time.
SLAB_VOXELS = 1 << 23
#: Distances between vesicles that are in memory at a time.
_PAIRS = 1 << 22
_NM3_PER_UM3 = 1e9


@dataclass(frozen=True)
class Summary:
    """A distribution in a few numbers; NaN where there are no values, `sd` also for a single one.

    `sd` is that of a sample (n - 1); the quartiles interpolate linearly between values.
    """

    number: int
    mean: float
    sd: float
    median: float
    q1: float
    q3: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Floats) -> Summary:
        """Sum up values (N,); those that are not finite are left out."""
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(0, *(float("nan"),) * 7)
        sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        least, q1, median, q3, most = (float(v) for v in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
        return cls(len(values), float(values.mean()), sd, median, q1, q3, least, most)

    def named(self, name: str) -> dict[str, float]:
        """The numbers by their names in tables, for lengths in nm."""
        return {f"{name}_number": self.number} | {
            f"{name}_{field}_nm": getattr(self, field)
            for field in ("mean", "sd", "median", "q1", "q3", "least", "most")
        }


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of each vesicle of a table (N), and of all that count together.

    Parameters
    ----------
    vesicles : Vesicles
        Without rejected rows.
    counts : bool array (N,)
        Those that the figures are of: centred inside the volume, and inside the region if there is one.
    cut : bool array (N,)
        Those that a face of the volume cuts; all False where the volume is not known.
    nearest_nm : float array (N,)
        From each vesicle's surface to the nearest surface of another one, which need not count itself; negative where
        the spheres overlap, NaN where there is no other.
    nearest_ids : int array (N,)
        The id of that vesicle; 0 where there is none.
    near_face : bool array (N,)
        A face of the volume is nearer than that vesicle, so that a nearer one may lie outside.
    zone_nm : float array (N,)
        From each vesicle's surface to the active zone; negative where it lies inside the sphere, NaN without a zone.
    region_um3 : float
        Volume of the region, cubic micrometres; NaN without one.
    faces_known : bool
        Whether the size of the volume is known.
    """

    vesicles: Vesicles
    counts: Mask
    cut: Mask
    nearest_nm: Floats
    nearest_ids: Indices
    near_face: Mask
    zone_nm: Floats
    region_um3: float
    faces_known: bool

    @property
    def number(self) -> int:
        """How many vesicles count."""
        return int(self.counts.sum())

    @property
    def radius(self) -> Summary:
        """Outer radii of those that count, nm."""
        return Summary.of(self.vesicles.radii_nm[self.counts])

    @property
    def nearest(self) -> Summary:
        """Distances to the nearest neighbour of those that count, nm."""
        return Summary.of(self.nearest_nm[self.counts])

    @property
    def zone(self) -> Summary:
        """Distances to the active zone of those that count, nm."""
        return Summary.of(self.zone_nm[self.counts])

    @property
    def density_per_um3(self) -> float:
        """Vesicles that count per cubic micrometre of the region; NaN without one."""
        return self.number / self.region_um3 if self.region_um3 > 0 else float("nan")

    def within(self, limit_nm: float) -> int:
        """How many of those that count have their surface at most so far from the active zone."""
        return int(np.sum(self.zone_nm[self.counts] <= limit_nm))

    def share_within(self, limit_nm: float) -> float:
        """The same as share of all that count; NaN without a zone or without vesicles."""
        known = self.zone.number
        return self.within(limit_nm) / known if known else float("nan")

    def figures(self) -> dict[str, float]:
        """All figures by name; NaN where nothing decides one."""
        within = {f"within_{limit}_nm": self.within(limit) for limit in ZONE_LIMITS_NM}
        return {
            "number": self.number,
            "outside": int(np.sum(~self.counts)),
            "cut": self._where_faces_known(self.cut),
            **self.radius.named("radius"),
            **self.nearest.named("nearest"),
            "nearest_near_face": self._where_faces_known(self.near_face),
            **self.zone.named("active_zone"),
            **(within if self.zone.number else dict.fromkeys(within, np.nan)),
            **{f"share_within_{limit}_nm": self.share_within(limit) for limit in ZONE_LIMITS_NM},
            "outline_um3": self.region_um3,
            "density_per_um3": self.density_per_um3,
        }

    def _where_faces_known(self, rows: Mask) -> float:
        return int(np.sum(rows & self.counts)) if self.faces_known else float("nan")


def vesicle_statistics(
    vesicles: Vesicles, *, region: Region | None = None, zone_vox: Points | None = None, faces_known: bool = True
) -> Statistics:
    """Measure what is published of vesicles.

    A vesicle counts by its centre, which lies in exactly one place, so that neither the number density nor the radii
    favour small or large ones at the edges: those that a face cuts count if their centre is inside. Those that do not
    count are neighbours all the same.

    Parameters
    ----------
    vesicles : Vesicles
        Rejected rows are left out.
    region : Region, optional
        Only vesicles with their centre inside count.
    zone_vox : float array (M, 3), optional
        Points that lie densely on the active zone: z, y, x in voxels. See `deepvesicle.scoring.active_zone`.
    faces_known : bool
        Whether the grid has the size of the volume, rather than one that holds all spheres.

    Raises
    ------
    ValueError
        An active zone without points.
    """
    vesicles = vesicles.select(~vesicles.has_status(Status.REJECTED))
    grid, centres, radii = vesicles.grid, vesicles.centres_vox, vesicles.radii_vox
    counts = grid.contains(centres)
    volume = float("nan")
    if region is not None:
        inside, voxels = inside_region(grid, region, centres)
        counts = counts & inside
        volume = voxels * grid.voxel_nm**3 / _NM3_PER_UM3
    gaps, partners = nearest_surfaces(centres, radii)
    cut = are_cut(grid, centres, radii) if faces_known else np.zeros(len(vesicles), dtype=bool)
    near_face = (gaps > _face_distances(vesicles)) if faces_known else np.zeros(len(vesicles), dtype=bool)
    zone = np.full(len(vesicles), np.nan) if zone_vox is None else point_distances(centres, zone_vox) - radii
    ids = np.where(partners >= 0, vesicles.ids[partners], 0) if len(vesicles) else np.zeros(0, dtype=np.int64)
    to_nm = grid.length_to_nm
    return Statistics(vesicles, counts, cut, to_nm(gaps), ids, near_face, to_nm(zone), volume, faces_known)


def nearest_surfaces(centres: Points, radii: Floats) -> tuple[Floats, Indices]:
    """Distance (N,) from each sphere's surface to the nearest other surface, and the row (N,) of that sphere.

    Of spheres of different sizes it need not be the one with the nearest centre. Negative where two overlap; NaN and
    -1 where there is no other.
    """
    count = len(radii)
    gaps, partners = np.full(count, np.nan), np.full(count, -1, dtype=np.int64)
    if count < 2:
        return gaps, partners
    step = max(1, _PAIRS // count)
    for start in range(0, count, step):
        rows = np.arange(start, min(start + step, count))
        distances = cdist(centres[rows], centres) - radii[rows, None] - radii[None, :]
        distances[np.arange(len(rows)), rows] = np.inf
        partners[rows] = distances.argmin(axis=1)
        gaps[rows] = distances.min(axis=1)
    return gaps, partners


def point_distances(centres: Points, points: Points) -> Floats:
    """Distance (N,) from each centre (N, 3) to the nearest of some points (M, 3).

    Raises
    ------
    ValueError
        There are no points.
    """
    if not len(points):
        raise ValueError("distances to no points are not defined")
    return np.asarray(KDTree(points).query(centres)[0], dtype=np.float64).reshape(len(centres))


def inside_region(grid: Grid, region: Region, centres_vox: Points) -> tuple[Mask, int]:
    """Which centres (N, 3) lie in a voxel of a region (N,), and the number of voxels of the grid that belong to it."""
    inside = np.zeros(len(centres_vox), dtype=bool)
    within = grid.contains(centres_vox)
    nearest = np.clip(np.rint(centres_vox).astype(int), 0, np.asarray(grid.shape_zyx) - 1)
    voxels = 0
    for start, end in sections(grid):
        mask = region.to_mask(grid.cropped((start, 0, 0), (end - start, *grid.shape_zyx[1:])))
        voxels += int(np.count_nonzero(mask))
        rows = np.flatnonzero(within & (nearest[:, 0] >= start) & (nearest[:, 0] < end))
        z, y, x = nearest[rows].T
        inside[rows] = mask[z - start, y, x]
    return inside, voxels


def sections(grid: Grid) -> Iterator[tuple[int, int]]:
    """First section and end of slabs that cover a grid, each of few enough voxels."""
    nz, ny, nx = grid.shape_zyx
    step = max(1, SLAB_VOXELS // (ny * nx))
    for start in range(0, nz, step):
        yield start, min(start + step, nz)


def _face_distances(vesicles: Vesicles) -> Floats:
    """Distance (N,) from each sphere's surface to the nearest face of the volume, voxels; negative if it is cut."""
    centres = vesicles.centres_vox
    sides = np.concatenate([centres + 0.5, np.asarray(vesicles.grid.shape_zyx) - 0.5 - centres], axis=1)
    return np.asarray(sides.min(axis=1) - vesicles.radii_vox)
