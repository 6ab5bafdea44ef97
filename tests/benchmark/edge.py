"""Where the outer edge of a membrane lies in its learned profile: how the constants of `fitting.features` were found.

Run by hand: ``python -m tests.benchmark.edge [first seed] [number of phantoms]``. Phantoms under random imaging
conditions and voxel sizes of 0.9 to 3 nm are fitted; the true outer radius less that of the profile's minimum is
regressed robustly on the outer inflection of the profile, and the true radius of the middle on both inflections.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np

from deepvesicle.fitting import features, refine
from deepvesicle.fitting.joint import JointFit
from deepvesicle.fitting.profile import landmarks
from deepvesicle.phantom.imaging import random_imaging
from deepvesicle.settings import RefinementSettings
from deepvesicle.vesicles import Status, Vesicles
from tests.benchmark.refine import Floats, cells, trial

SEED = 997_000
SIZE_NM = np.array([110.0, 170.0, 230.0])
#: Vesicles and log-likelihood gain from which a phantom counts.
LEAST, CLEAR_GAIN = 8, 15.0


@dataclass(frozen=True)
class Sample:
    """What one phantom tells, nm."""

    voxel: float
    defocus: float
    filtered: bool
    outer: float  # way to the outer inflection of the profile
    inner: float  # ... and to the inner one
    edge: float  # outer edge less the minimum of the profile
    middle: float  # middle of the membrane less that minimum


def sample(number: int) -> Sample | None:
    """Simulate and fit a phantom, from starts that are nearly right; None where too little is seen."""
    rng = np.random.default_rng((SEED, number))
    imaging = replace(random_imaging(rng), contrast=float(rng.uniform(0.4, 1.6)))
    if number % 2:
        imaging = replace(imaging, filter="none", filter_strength=0.0, sirt_like=0.0)
    voxel = float(np.exp(rng.uniform(np.log(0.9), np.log(3.0))))

    def place(rng: np.random.Generator) -> tuple[Floats, Floats]:
        places = cells(rng, 56.0, SIZE_NM)
        return places, rng.uniform(15, 25, len(places))

    case = trial(place, imaging, (SEED, 1, number), voxel_nm=voxel, size_nm=SIZE_NM)
    truth, count = case.truth, len(case.truth)
    starts = Vesicles.from_spheres(
        truth.grid,
        truth.centres_vox + rng.normal(0, 0.8 / voxel, (count, 3)),
        truth.radii_vox + rng.normal(0, 0.8 / voxel, count),
    )
    fits: list[JointFit] = []

    class Recorded(JointFit):
        def __init__(self, *args: object, **more: object) -> None:
            super().__init__(*args, **more)  # type: ignore[arg-type]
            fits.append(self)

    original = refine.JointFit
    refine.JointFit = Recorded  # type: ignore[misc]
    try:
        fit = refine.refine(case.tomogram, starts, RefinementSettings())
    finally:
        refine.JointFit = original  # type: ignore[misc]
    good = fit.has_status(Status.REFINED)
    if not fits or good.sum() < LEAST or np.nanmedian(fit.features["likelihood_gain"]) < CLEAR_GAIN:
        return None
    profile = fits[0].profile
    outer, inner = (
        landmarks(profile.offsets_nm(), values).inflection_nm for values in (profile.values, profile.values[::-1])
    )
    place = features.Place.in_profile(profile.offsets_nm(), profile.values)
    if place is None:
        return None
    lowest = fit.membrane_radii_vox * voxel - place.middle_nm
    edge = float(np.median((truth.radii_nm - lowest)[good]))
    middle = float(np.median((truth.membrane_radii_vox * voxel - lowest)[good]))
    return Sample(voxel, imaging.defocus_nm, imaging.filter != "none", outer, inner, edge, middle)


def robust_line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Value at 0, slope, and robust SD of the rest, of a line through points (n,), (n,)."""
    design = np.column_stack([np.ones(len(x)), x])
    weights = np.ones(len(x))
    for _ in range(50):
        line = np.linalg.solve((design * weights[:, None]).T @ design, (design * weights[:, None]).T @ y)
        rest = y - design @ line
        spread = 1.4826 * float(np.median(np.abs(rest)))
        weights = 1 / (1 + (rest / (1.5 * spread)) ** 2)
    return float(line[0]), float(line[1]), spread


def main() -> None:
    """Print the constants and what they leave."""
    first, count = (int(word) for word in (sys.argv[1:] + ["0", "150"])[:2])
    found = [one for one in (sample(first + i) for i in range(count)) if one is not None]
    outer, inner = np.array([one.outer for one in found]), np.array([one.inner for one in found])
    edge, middle = np.array([one.edge for one in found]), np.array([one.middle for one in found])
    value, slope, spread = robust_line(outer - features.INFLECTION_NM, edge)
    print(f"{len(found)} phantoms: OUTER_NM = {value:.3f}, OUTER_SLOPE = {slope:.3f}, robust SD {spread:.3f} nm")
    value, slope, spread = robust_line(outer - inner, middle)
    print(f"MIDDLE_NM = {value:.3f}, MIDDLE_SLOPE = {slope:.3f}, robust SD {spread:.3f} nm")
    rest = edge - features.outer_offset(outer)
    groups = {
        "all": np.ones(len(found), dtype=bool),
        "filtered": np.array([one.filtered for one in found]),
        "defocus below 3 um": np.array([one.defocus < 3000 for one in found]),
        "defocus above 6 um": np.array([one.defocus > 6000 for one in found]),
        "voxels below 1.3 nm": np.array([one.voxel < 1.3 for one in found]),
        "voxels above 2.2 nm": np.array([one.voxel > 2.2 for one in found]),
    }
    for name, rows in groups.items():
        left = rest[rows]
        spread = 1.4826 * float(np.median(np.abs(left - np.median(left))))
        print(
            f"{name}: {rows.sum()} phantoms, edge outside the one in use by {np.median(left):+.3f} nm, "
            f"robust SD {spread:.3f}, within 0.3 nm {np.mean(np.abs(left) < 0.3):.2f}"
        )


if __name__ == "__main__":
    main()
