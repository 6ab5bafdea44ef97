"""Least-squares fit of a shell with a known cross-section to a polar table of grey values.

Model: the grey value of patch p at radius rho is ``b + a w_p g(rho - s_p)``, with g the profile across the membrane,
w_p how well membranes facing that way are resolved, and ``s_p = n_p.d + sqrt(R^2 - d^2 + (n_p.d)^2)`` the distance from
the rays' origin to a sphere of radius R whose centre is displaced by d. Patches that disagree with the sphere are given
less weight (Tukey's biweight; Holland and Welsch, Commun. Stat. A6 (1977) 813-827). The covariance is the sandwich
estimate over patches (White, Econometrica 48 (1980) 817-838), so correlated noise within a patch does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deepvesicle.fitting.kernels import candidate_sums, shell_steps, shell_summary
from deepvesicle.fitting.profile import Floats, PolarTable, shell_template

#: Reach of the template on either side of the membrane's middle, nm.
TEMPLATE_REACH_NM = 9.0
#: How far a patch may lie from the current sphere in the fine fit, nm.
SLACK_NM = 4.0
#: Median of the chi-square distribution of one degree of freedom.
CHI2_MEDIAN = 0.455
#: Noise of patches closer than about this is alike: wedge, filters and uneven shapes act over such angles.
_CORRELATED_RAD = np.radians(25.0)
#: What the estimated SDs of centre (z, y, x) and radius are multiplied by. Noise and deformation reach further over a
#: sphere than patches can tell; the factors bring the SDs to the errors seen in simulated tomograms.
_CALIBRATION = np.array([1.7, 1.7, 1.7, 2.5])
#: Longest step of a fit, nm.
_LONGEST_NM = 1.5
_SHIFT_STEP_NM = 0.25


def sphere_distance(patches: Floats, displacement: Floats, radius: float) -> Floats:
    """Distance along rays (p, 3) from the origin to a displaced sphere's surface, seen from inside."""
    along = patches @ displacement
    return np.asarray(along + np.sqrt(np.maximum(radius**2 - displacement @ displacement + along**2, 0)))


@dataclass(frozen=True)
class Template:
    """The membrane's profile on even offsets, with no mean, -1 at its middle (offset 0).

    Parameters
    ----------
    offsets_nm : array (r,)
    values : array (r,)
    """

    offsets_nm: Floats
    values: Floats

    @classmethod
    def generic(cls) -> Template:
        """The cross-section that is taken before that of the tomogram is known."""
        offsets = np.arange(-TEMPLATE_REACH_NM, TEMPLATE_REACH_NM + 1e-9, _SHIFT_STEP_NM)
        return cls(offsets, _tapered(offsets, shell_template(offsets)))

    def blurred(self, sigma_nm: float) -> Template:
        """Smoothed, for shells that are not quite spheres."""
        if sigma_nm <= 0:
            return self
        reach = int(np.ceil(3 * sigma_nm / _SHIFT_STEP_NM))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * _SHIFT_STEP_NM / sigma_nm) ** 2)
        values = np.convolve(self.values, kernel / kernel.sum(), mode="full")
        offsets = self.offsets_nm[0] + (np.arange(len(values)) - reach) * _SHIFT_STEP_NM
        return Template(offsets, values)

    def at(self, offsets_nm: Floats) -> Floats:
        """Values at any offsets; 0 beyond the ends."""
        return np.asarray(np.interp(offsets_nm, self.offsets_nm, self.values, left=0.0, right=0.0))


def _tapered(offsets: Floats, values: Floats) -> Floats:
    """Let a profile fade out towards its ends, take its mean away and make its middle -1."""
    fade = np.clip((TEMPLATE_REACH_NM - np.abs(offsets)) / 2.5, 0, 1)
    fade = fade * fade * (3 - 2 * fade)
    values = fade * (values - (fade * values).sum() / fade.sum())
    return np.asarray(values / max(-float(values[np.argmin(np.abs(offsets))]), 1e-12))


def learned_template(offsets_nm: Floats, profile: Floats) -> Template:
    """A template from a mean profile whose membrane's middle is at offset 0."""
    offsets = Template.generic().offsets_nm
    return Template(offsets, _tapered(offsets, np.interp(offsets, offsets_nm, profile)))


@dataclass(frozen=True)
class MatchTables:
    """Correlation of each patch with the template at each distance, all (p, s).

    Parameters
    ----------
    step_nm, first_nm : float
        Distances are first_nm + step_nm * column.
    match, match_slope : arrays
        Sum of counts x template x grey value, and its derivative.
    power, power_slope : arrays
        Sum of counts x template squared, and its derivative.
    stiffness : array
        Sum of counts x derivative of the template, squared.
    """

    first_nm: float
    step_nm: float
    match: Floats
    match_slope: Floats
    power: Floats
    power_slope: Floats
    stiffness: Floats

    def at(self, distances_nm: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """All five tables at a distance for each patch (p,), linearly interpolated."""
        rows, width = self.match.shape
        position = np.clip((distances_nm - self.first_nm) / self.step_nm, 0, width - 1.001)
        column = position.astype(np.intp)
        part = position - column
        flat = column + np.arange(0, rows * width, width)
        tables = (self.match, self.match_slope, self.power, self.power_slope, self.stiffness)
        found = (t.take(flat) * (1 - part) + t.take(flat + 1) * part for t in tables)
        return tuple(found)  # type: ignore[return-value]


@lru_cache(maxsize=64)
def _matrices(key: bytes, radii: bytes, shifts: bytes) -> tuple[Floats, Floats]:
    """Template and its derivative at all pairs of radius and distance, side by side, and their squares and product.

    Cached, as all vesicles share them.
    """
    template = Template(*np.frombuffer(key).reshape(2, -1))
    offsets = np.frombuffer(radii)[:, None] - np.frombuffer(shifts)[None, :]
    step = 0.05
    value, slope = template.at(offsets), (template.at(offsets + step) - template.at(offsets - step)) / (2 * step)
    return np.hstack([value, slope]), np.hstack([value**2, value * slope, slope**2])


def match_tables(
    table: PolarTable, offsets_nm: Floats, shifts_nm: Floats, template: Template, centre_nm: float
) -> MatchTables:
    """Correlate a polar table with a template.

    Parameters
    ----------
    table : PolarTable
    offsets_nm, shifts_nm : arrays
        Radii of the table's columns, and distances to try, both less `centre_nm`.
    template : Template
    centre_nm : float
    """
    key = np.stack([template.offsets_nm, template.values]).tobytes()
    single, squared = _matrices(key, np.round(offsets_nm, 6).tobytes(), np.round(shifts_nm, 6).tobytes())
    background = float((table.counts * table.means).sum() / max(float(table.counts.sum()), 1e-12))
    grey = table.counts * (table.means - background)
    match, match_slope = np.hsplit(grey @ single, 2)
    power, product, stiffness = np.hsplit(table.counts @ squared, 3)
    first, step = float(shifts_nm[0]) + centre_nm, float(shifts_nm[1] - shifts_nm[0])
    return MatchTables(first, step, match, -match_slope, power, -2 * product, stiffness)


@lru_cache(maxsize=4)
def _candidates(patches: bytes) -> tuple[Floats, Floats, NDArray[np.float32], Floats]:
    """Displacements (k, 3), radii (k,) and ray distances (k, p) to try, all as shares of the start radius.

    Also minus the logarithm of how probable each is beforehand (k,).
    """
    directions = np.frombuffer(patches).reshape(-1, 3)
    line = np.arange(-4, 5) * 0.1
    ball = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = ball[np.linalg.norm(ball, axis=1) <= 0.405]
    radii = np.exp(np.arange(-7, 8) * 0.04)
    displacement = np.repeat(ball, len(radii), axis=0)
    radius = np.tile(radii, len(ball))
    along = displacement @ directions.T
    inside = radius[:, None] ** 2 - (displacement**2).sum(axis=1)[:, None] + along**2
    # Student's t with two degrees of freedom: most start spheres are nearly right, some are far off.
    prior = 2.5 * np.log1p((displacement**2).sum(axis=1) / (2 * 0.08**2)) + 1.5 * np.log1p(
        np.log(radius) ** 2 / (2 * 0.07**2)
    )
    return displacement, radius, (along + np.sqrt(np.maximum(inside, 0))).astype(np.float32), prior


def coarse_search(tables: MatchTables, patches: Floats, resolved: Floats, radius_nm: float) -> tuple[Floats, float]:
    """Try displacements up to 0.4 of the radius and radii up to +-30 %, and return the best of them, nm.

    The gain in log-likelihood of each is weighed against a long-tailed prior about the start sphere.
    """
    displacement, radius, distance, prior = _candidates(np.ascontiguousarray(patches).tobytes())
    match, power = candidate_sums(
        distance,
        (tables.match * resolved[:, None]).astype(np.float32),
        (tables.power * resolved[:, None] ** 2).astype(np.float32),
        radius_nm,
        tables.first_nm,
        tables.step_nm,
    )
    good = tables.power > 0.2 * np.median(tables.power)
    noise = float(np.median(tables.match[good] ** 2 / tables.power[good])) / CHI2_MEDIAN if good.any() else 1.0
    gain = np.maximum(match, 0) ** 2 / np.maximum(power, 1e-3 * float(power.max()) + 1e-12) / max(noise, 1e-12) / 2
    best = int(np.argmax(gain - prior))
    return displacement[best] * radius_nm, float(radius[best] * radius_nm)


@lru_cache(maxsize=8)
def _alike(patches: bytes) -> Floats:
    """How alike the noise of each pair of patches is (p, p)."""
    directions = np.frombuffer(patches).reshape(-1, 3)
    angle = np.arccos(np.clip(directions @ directions.T, -1, 1))
    return np.asarray(np.exp(-0.5 * (angle / _CORRELATED_RAD) ** 2))


@dataclass(frozen=True)
class ShellFit:
    """A fitted sphere, relative to the origin of the rays.

    Parameters
    ----------
    displacement_nm : array (3,)
    radius_nm : float
        Of the template's offset 0, the middle of the membrane.
    amplitude : float
        Depth of the membrane, grey values.
    significance : float
        Amplitude / its standard error over patches.
    covariance_nm2 : array (4, 4)
        Of displacement (z, y, x) and radius.
    patch_weights : array (p,)
        Resolution x robust weight; 0 for patches that were not used.
    residuals_nm : array (p,)
        How far the membrane lies outside the sphere at each patch; 0 for patches that were not used.
    coverage : float
        Share of all directions that were used.
    patches : array (p, 3)
        Directions.
    strengths : array (p,)
        Depth of the membrane in each patch by itself, grey values; 0 for patches that are hidden or not resolved.
    information : array (p,)
        What the strengths are to be weighted with: 1 / variance but for a common factor; 0 where they are 0.
    """

    displacement_nm: Floats
    radius_nm: float
    amplitude: float
    significance: float
    covariance_nm2: Floats
    patch_weights: Floats
    residuals_nm: Floats
    coverage: float
    patches: Floats
    strengths: Floats
    information: Floats


def fit_shell(
    tables: MatchTables,
    patches: Floats,
    resolved: Floats,
    sizes: NDArray[np.float64],
    displacement_nm: Floats,
    radius_nm: float,
    prior_nm: tuple[Floats, float, float],
    *,
    steps: int = 8,
    tolerance_nm: float = 0.02,
) -> ShellFit:
    """Fit displacement and radius by damped Gauss-Newton steps.

    Parameters
    ----------
    tables : MatchTables
    patches : array (p, 3)
    resolved : array (p,)
        0..1, see `profile.resolved_weight`.
    sizes : array (p,)
        Share of all directions in each patch.
    displacement_nm, radius_nm
        Start.
    prior_nm : tuple
        Displacement (3,) and radius expected, and the start radius: the prior has SD 0.3 of it in the centre and 0.2
        in the radius, and matters only for directions that the data leave open.
    steps : int
        At most so many.
    tolerance_nm : float
        Steps smaller than this are the end.
    """
    # Caps that are hardly resolved are smeared and displaced: leave them out.
    shares = np.where((resolved >= 0.4) & (tables.power.max(axis=1) > 0), resolved, 0.0)
    target = np.append(prior_nm[0], prior_nm[1])
    prior = np.array([0.3, 0.3, 0.3, 0.2]) * prior_nm[2]
    typical = max(float(np.median(tables.power[shares > 0].max(axis=1))) if (shares > 0).any() else 0.0, 1e-12)
    reach = tables.step_nm * tables.match.shape[1] / 2
    state, depth, hessian, robust, force, residual, match, power = shell_steps(
        np.stack([tables.match, tables.match_slope, tables.power, tables.power_slope, tables.stiffness]),
        tables.first_nm,
        tables.step_nm,
        patches,
        shares,
        typical,
        np.append(displacement_nm, radius_nm),
        target,
        prior,
        steps,
        tolerance_nm,
        _LONGEST_NM,
        CHI2_MEDIAN,
    )
    amplitude = float(depth[0])
    covariance, told, weights, residuals, strengths, information = shell_summary(
        patches,
        shares,
        sizes,
        _alike(np.ascontiguousarray(patches).tobytes()),
        robust,
        force,
        residual,
        match,
        power,
        amplitude,
        hessian,
        _CALIBRATION,
        typical,
        reach,
    )
    return ShellFit(
        state[:3],
        float(state[3]),
        amplitude,
        float(told[0]),
        covariance,
        weights,
        residuals,
        float(told[1]),
        patches,
        strengths,
        information,
    )
