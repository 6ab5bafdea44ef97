"""All settings of a run: frozen, typed, with units in the names and the defaults in this one place.

A settings file is TOML with one table per group, e.g. ``[proposal]`` ``min_radius_nm = 15``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from deepvesicle.errors import BadInputError

#: Axes that a specimen can be tilted about.
TILT_AXES = ("y", "x")
#: What the network can calculate in.
PRECISIONS = ("auto", "fp32", "bf16")
#: Numbers of mirror images that a prediction can be averaged over.
VIEWS = (1, 2, 4, 8)


@dataclass(frozen=True)
class PredictionSettings:
    """How the network is run over a tomogram."""

    tile_vox: int = 0  # longest edge of a column that is predicted at a time, network's voxels; 0: as memory allows
    precision: str = "auto"  # "fp32", "bf16", or bf16 where this computer calculates faster in it (auto)
    threads: int = 0  # 0: as many as this process may use
    augment: int = 1  # mirror images that are averaged: 1 (none), 2 (along x), 4 (x, y) or 8 (x, y, z)


@dataclass(frozen=True)
class ProposalSettings:
    """From the probability mask to first spheres."""

    threshold: float | None = None  # probability; None: the model's own
    min_radius_nm: float = 12.0  # outer radius
    max_radius_nm: float = 100.0
    min_inside_fraction: float = 0.5  # share of the sphere's volume that must lie inside the tomogram


@dataclass(frozen=True)
class RefinementSettings:
    """Fitting spheres to the membrane on the tomogram."""

    max_iterations: int = 10
    #: Lowest and highest tilt; None: as the tomogram's missing wedge shows, else -60 to 60.
    tilt_range_deg: tuple[float, float] | None = field(default=None, metadata={"like": (0.0, 0.0)})
    tilt_axis: str = "y"  # "y" (IMOD's convention) or "x"
    ellipsoid: bool = False  # also fit an ellipsoid to each vesicle

    @property
    def tilts_deg(self) -> tuple[float, float]:
        """The tilts, once they are known: see `deepvesicle.fitting.tilts.resolved`."""
        if self.tilt_range_deg is None:
            raise ValueError("the range of tilts has not been worked out")
        return self.tilt_range_deg


@dataclass(frozen=True)
class OutlierSettings:
    """Which fitted spheres are doubtful or rejected."""

    doubtful_p: float = 0.01  # chi-square p of the robust Mahalanobis distance
    rejected_p: float = 1e-6
    rejected_score: float = 0.5  # calibrated score (probability to be a vesicle) below which a sphere is rejected
    doubtful_score: float = 0.7  # ... and below which it is doubtful
    max_overlap_nm: float = 4.0  # spheres that share more than this depth are flagged


@dataclass(frozen=True)
class LabelSettings:
    """How spheres are drawn into the label volume."""

    gap_vox: int = 0  # voxels of background that are left between the labels of different vesicles


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result of `deepvesicle segment`, apart from the tomogram and the model."""

    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    proposal: ProposalSettings = field(default_factory=ProposalSettings)
    refinement: RefinementSettings = field(default_factory=RefinementSettings)
    outliers: OutlierSettings = field(default_factory=OutlierSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)

    def to_json(self) -> dict[str, Any]:
        """Nested plain dictionary, for run records."""
        return asdict(self)

    @classmethod
    def from_dict(cls, tables: dict[str, Any], source: str = "settings") -> Settings:
        """Build settings from nested dictionaries; a name that does not exist is an error that lists those that do.

        Raises
        ------
        BadInputError
            Unknown group or name, or a value of the wrong type, or one that makes no sense.
        """
        settings = cls()
        groups = {f.name for f in fields(cls)}
        for group, values in tables.items():
            if group not in groups:
                raise BadInputError(
                    f"{source} has an unknown group [{group}]", expected="one of " + ", ".join(sorted(groups))
                )
            if not isinstance(values, dict):
                raise BadInputError(f"{source}: {group} must be a table", expected=f"[{group}] and lines below it")
            old = getattr(settings, group)
            known = {f.name: f for f in fields(old)}
            for name, value in values.items():
                if name not in known:
                    raise BadInputError(
                        f"{source} has an unknown setting {group}.{name}",
                        expected="one of " + ", ".join(sorted(known)),
                    )
                default = known[name].default
                if default is None and value is None:
                    continue  # "not given", as a run record has it
                like = known[name].metadata.get("like", default)
                old = replace(old, **{name: _checked(f"{source}: {group}.{name}", like, value)})
            settings = replace(settings, **{group: old})
        _refuse_nonsense(settings, source)
        return settings


#: A tilt series covers at least so much, degrees; less is a slip of the pen.
LEAST_TILTS_DEG = 20.0
#: Labels further apart than this would lose whole vesicles.
MAX_GAP_VOX = 20


def is_tilt_range(range_deg: tuple[float, float]) -> bool:
    """Whether two numbers are the lowest and the highest tilt of a series, degrees."""
    low, high = range_deg
    return -90 <= low and high <= 90 and high - low >= LEAST_TILTS_DEG


#: Outlier settings that are probabilities.
_SHARES = ("doubtful_p", "rejected_p", "rejected_score", "doubtful_score")


def _refuse_nonsense(settings: Settings, source: str) -> None:
    """Values of the right type that cannot be used."""
    refinement, gap = settings.refinement, settings.labels.gap_vox
    tilts = refinement.tilt_range_deg
    if tilts is not None and not is_tilt_range(tilts):
        raise BadInputError(
            f"{source}: refinement.tilt_range_deg is not a range of tilts",
            expected=f"the lowest and the highest, between -90 and 90 degrees, at least {LEAST_TILTS_DEG:g} apart",
            got=f"{tilts[0]:g} and {tilts[1]:g}",
        )
    if refinement.tilt_axis not in TILT_AXES:
        raise BadInputError(
            f"{source}: refinement.tilt_axis is not valid",
            expected=" or ".join(TILT_AXES),
            got=repr(refinement.tilt_axis),
        )
    if not 0 <= gap <= MAX_GAP_VOX:
        raise BadInputError(
            f"{source}: labels.gap_vox is not valid", expected=f"0 to {MAX_GAP_VOX} voxels", got=f"{gap}"
        )
    if settings.prediction.augment not in VIEWS:
        raise BadInputError(
            f"{source}: prediction.augment is not valid",
            expected=f"one of {', '.join(map(str, VIEWS))}",
            got=f"{settings.prediction.augment}",
        )
    if settings.prediction.precision not in PRECISIONS:
        raise BadInputError(
            f"{source}: prediction.precision is not valid",
            expected=f"one of {', '.join(PRECISIONS)}",
            got=repr(settings.prediction.precision),
        )
    shares = {"proposal.min_inside_fraction": settings.proposal.min_inside_fraction}
    shares |= {f"outliers.{name}": getattr(settings.outliers, name) for name in _SHARES}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise BadInputError(f"{source}: {name} is not valid", expected="between 0 and 1", got=f"{value:g}")
    least = {
        "prediction.tile_vox": (settings.prediction.tile_vox or 16, 16),
        "prediction.threads": (settings.prediction.threads, 0),
        "refinement.max_iterations": (refinement.max_iterations, 1),
        "outliers.max_overlap_nm": (settings.outliers.max_overlap_nm, 0),
    }
    for name, (number, lowest) in least.items():
        if not lowest <= number < float("inf"):
            raise BadInputError(f"{source}: {name} is not valid", expected=f"{lowest} or more", got=f"{number:g}")


def _checked(name: str, default: Any, value: Any) -> Any:
    """A value of the default's type, or an error that names the setting."""
    if default is None or isinstance(default, float):
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if good:
            return float(value)
        wanted = "a number"
    elif isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and len(value) == len(default):
            return tuple(_checked(name, d, v) for d, v in zip(default, value, strict=True))
        wanted = f"{len(default)} values"
    else:
        if isinstance(value, type(default)) and (isinstance(default, bool) or not isinstance(value, bool)):
            return value
        wanted = f"a value of type {type(default).__name__}"
    raise BadInputError(f"{name} is not valid", expected=wanted, got=repr(value))


def read_settings(path: str | os.PathLike[str]) -> Settings:
    """Read a TOML settings file.

    Raises
    ------
    BadInputError
        It is missing or not TOML, or names settings that do not exist.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with open(path, "rb") as stream:
            tables = tomllib.load(stream)
    except FileNotFoundError:
        raise BadInputError(f"the settings file {path} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInputError(f"the settings file {path} cannot be read ({error})", expected="TOML") from error
    return Settings.from_dict(tables, str(path))
