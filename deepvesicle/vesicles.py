"""`Vesicles`: the table of spheres that every part of the program reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepvesicle.grid import Grid, as_points

Floats = NDArray[np.float64]


class Status(str, Enum):
    """What is known of a sphere. All but REJECTED and PROPOSED count as vesicles in the outputs."""

    PROPOSED = "proposed"  # from the network's mask alone, not yet fitted to the tomogram
    REFINED = "refined"  # fitted, and like the others
    DOUBTFUL = "doubtful"  # fitted, but some feature is unusual: look at it
    MANUAL = "manual"  # placed or changed by the user; never moved
    REJECTED = "rejected"  # not a vesicle; keeps its row and its reason


#: Those that count as vesicles.
ACCEPTED = (Status.REFINED, Status.DOUBTFUL, Status.MANUAL)


@dataclass(frozen=True)
class Vesicles:
    """A table of N spheres on a grid. Immutable: use `replace`, `select`, `with_status`.

    Parameters
    ----------
    grid : Grid
        The tomogram's grid, which all voxel units refer to.
    ids : int array (N,)
        Unique, positive and stable.
    centres_vox : float array (N, 3)
        z, y, x; 0.0 = centre of the first voxel. Never rounded.
    radii_vox : float array (N,)
        To the outer edge of the membrane.
    membrane_radii_vox, thickness_vox : float arrays (N,), optional
        To the middle of the bilayer; thickness of the membrane. NaN where unknown.
    sigma_centres_vox, sigma_radii_vox : float arrays (N,), optional
        One-sigma uncertainties (of a centre: per axis, root mean square). NaN where unknown.
    scores : float array (N,), optional
        0..1, how sure the network is that this is a vesicle. NaN where unknown.
    status : sequence of Status, optional
    reasons : sequence of str, optional
        Why doubtful or rejected, in the user's words.
    features : mapping of name to float array (N,), optional
        Anything else known of each sphere.
    """

    grid: Grid
    ids: NDArray[np.int64]
    centres_vox: Floats
    radii_vox: Floats
    membrane_radii_vox: Floats = None  # type: ignore[assignment]
    thickness_vox: Floats = None  # type: ignore[assignment]
    sigma_centres_vox: Floats = None  # type: ignore[assignment]
    sigma_radii_vox: Floats = None  # type: ignore[assignment]
    scores: Floats = None  # type: ignore[assignment]
    status: tuple[Status, ...] = None  # type: ignore[assignment]
    reasons: tuple[str, ...] = None  # type: ignore[assignment]
    features: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "ids", np.asarray(self.ids, dtype=np.int64).reshape(-1))
        n = len(self.ids)
        put(self, "centres_vox", as_points(self.centres_vox))
        for name in _FLOAT_COLUMNS:
            value = getattr(self, name)
            column = np.full(n, np.nan) if value is None else np.asarray(value, dtype=np.float64).reshape(-1)
            put(self, name, column)
        put(
            self, "status", tuple(Status(s) for s in self.status) if self.status is not None else (Status.PROPOSED,) * n
        )
        put(self, "reasons", tuple(self.reasons) if self.reasons is not None else ("",) * n)
        put(self, "features", {k: np.asarray(v, dtype=np.float64).reshape(-1) for k, v in self.features.items()})
        columns: dict[str, Any] = {
            name: getattr(self, name) for name in (*_FLOAT_COLUMNS, "centres_vox", "status", "reasons")
        }
        for name, column in {**columns, **self.features}.items():
            if len(column) != n:
                raise ValueError(f"column {name} has {len(column)} rows, expected {n}")
        if len(np.unique(self.ids)) != n or (n and self.ids.min() < 1):
            raise ValueError("vesicle ids must be unique and positive")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def empty(cls, grid: Grid) -> Vesicles:
        """A table without rows."""
        return cls(grid, np.zeros(0, dtype=np.int64), np.zeros((0, 3)), np.zeros(0))

    @classmethod
    def from_spheres(cls, grid: Grid, centres_vox: ArrayLike, radii_vox: ArrayLike, **columns: Any) -> Vesicles:
        """Number spheres from 1 and make a table of them; `columns` as in the class."""
        radii = np.asarray(radii_vox, dtype=np.float64).reshape(-1)
        return cls(grid, np.arange(1, len(radii) + 1), as_points(centres_vox), radii, **columns)

    @property
    def centres_nm(self) -> Floats:
        """Centres (N, 3) in z, y, x, as voxel x voxel size (the grid's origin is not added), nm."""
        return self.grid.length_to_nm(self.centres_vox)

    @property
    def radii_nm(self) -> Floats:
        """Outer radii (N,), nm."""
        return self.grid.length_to_nm(self.radii_vox)

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Which rows count as vesicles (N,)."""
        return self.has_status(*ACCEPTED)

    def has_status(self, *wanted: Status) -> NDArray[np.bool_]:
        """Which rows have one of the statuses (N,)."""
        return np.array([s in wanted for s in self.status], dtype=bool)

    def select(self, rows: ArrayLike) -> Vesicles:
        """The rows of a boolean mask or of indices, in that order; ids are kept."""
        rows = np.asarray(rows)
        index = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        columns = {name: getattr(self, name)[index] for name in (*_FLOAT_COLUMNS, "centres_vox", "ids")}
        return replace(
            self,
            **columns,
            status=tuple(self.status[i] for i in index),
            reasons=tuple(self.reasons[i] for i in index),
            features={k: v[index] for k, v in self.features.items()},
        )

    def replace(self, **columns: Any) -> Vesicles:
        """A copy with some columns exchanged."""
        return replace(self, **columns)

    def with_status(self, rows: ArrayLike, status: Status, reason: str | Sequence[str]) -> Vesicles:
        """A copy in which the rows of a mask have `status`; `reason` is appended to theirs (one, or one for each)."""
        mask = np.asarray(rows, dtype=bool)
        texts = [reason] * len(self) if isinstance(reason, str) else list(reason)
        new_status = tuple(status if m else s for m, s in zip(mask, self.status, strict=True))
        new_reasons = tuple(
            "; ".join(part for part in (old, text) if part) if m else old
            for m, old, text in zip(mask, self.reasons, texts, strict=True)
        )
        return replace(self, status=new_status, reasons=new_reasons)

    def with_features(self, **features: ArrayLike) -> Vesicles:
        """A copy with features (N,) added or exchanged."""
        new = {name: np.asarray(values, dtype=np.float64) for name, values in features.items()}
        return replace(self, features={**self.features, **new})


_FLOAT_COLUMNS = (
    "radii_vox",
    "membrane_radii_vox",
    "thickness_vox",
    "sigma_centres_vox",
    "sigma_radii_vox",
    "scores",
)
