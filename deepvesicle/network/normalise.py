"""Grey values to the range that the network was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import NetworkError

#: Share of the darkest and of the brightest voxels that is cut off before mean and SD are taken: gold, ice, rims.
CLIPPED_SHARE = 0.005
#: Normalised values beyond this many SDs are cut off.
LIMIT_SD = 6.0

CLIPPED = "clipped"
Z_SCORE = "z-score"
KINDS = (CLIPPED, Z_SCORE)
#: What models of the first format say for `CLIPPED`.
_CLIPPED_TEXT = "clipped mean and SD at the network's voxel size"
#: A blur beyond this is no preparation for a network of this kind any more.
_MOST_BLUR_VOX = 10.0


@dataclass(frozen=True)
class NormalisationMethod:
    """How a network wants its grey values prepared.

    Parameters
    ----------
    kind : str
        "clipped": mean and SD without gold, ice and padding, and values cut off at +-`LIMIT_SD`. "z-score": the plain
        mean and SD of the whole volume, and no value cut off.
    blur_vox : float
        SD of a Gaussian blur before anything is measured, voxels of the network's grid; 0: none.
    """

    kind: str = CLIPPED
    blur_vox: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for the model's config."""
        return {"kind": self.kind, **({"blur_vox": self.blur_vox} if self.blur_vox else {})}

    @classmethod
    def from_json(cls, entry: Any, source: str = "the model's config") -> NormalisationMethod:
        """The method that a config's entry ``normalisation`` names; `source` is what an error calls the config.

        Raises
        ------
        NetworkError
            A kind or a detail that this version does not know.
        """
        if entry == _CLIPPED_TEXT:
            return cls()
        if not isinstance(entry, dict) or entry.get("kind") not in KINDS:
            raise NetworkError(
                f"{source} names an unknown normalisation",
                expected="an object whose kind is " + " or ".join(f'"{kind}"' for kind in KINDS),
                got=repr(entry),
            )
        unknown = sorted(set(entry) - {"kind", "blur_vox"})
        if unknown:
            raise NetworkError(
                f"{source} has unknown details of the normalisation",
                expected="kind and blur_vox",
                got=", ".join(unknown),
            )
        blur = entry.get("blur_vox", 0.0)
        if isinstance(blur, bool) or not isinstance(blur, (int, float)) or not 0 <= blur <= _MOST_BLUR_VOX:
            raise NetworkError(
                f"{source}: normalisation.blur_vox is not valid",
                expected=f"0 to {_MOST_BLUR_VOX:g} voxels",
                got=repr(blur),
            )
        return cls(entry["kind"], float(blur))


@dataclass(frozen=True)
class Normalisation:
    """Affine map of grey values, value -> (value - mean) / sd, cut off at +-`limit_sd` where there is one."""

    mean: float
    sd: float
    limit_sd: float | None = LIMIT_SD

    @classmethod
    def of(cls, samples: Iterable[NDArray[np.float32]]) -> Normalisation:
        """Measure on parts of a volume (already at the network's voxel size), gold and ice left out.

        Exactly constant padding, as rotated or trimmed tomograms have at their rims, is left out too.
        """
        values = np.concatenate([np.asarray(s, dtype=np.float32).ravel() for s in samples])
        if values.size > 4_000_000:
            values = values[:: values.size // 4_000_000 + 1]
        low, high = np.quantile(values, (CLIPPED_SHARE, 1 - CLIPPED_SHARE))
        values = np.clip(values, low, high)
        middle = np.median(values)
        padding = values == middle
        if 0.05 < padding.mean() < 0.9:
            values = values[~padding]
        sd = float(values.std())
        return cls(float(values.mean()), sd if sd > 0 else 1.0)

    @classmethod
    def z_score(cls, parts: Iterable[NDArray[np.float32]]) -> Normalisation:
        """Plain mean and SD of a volume given in parts that cover it once; no value is cut off."""
        rows = np.array([(part.size, part.mean(dtype=np.float64), part.var(dtype=np.float64)) for part in parts])
        sizes, means, variances = rows.T
        mean = np.average(means, weights=sizes)
        sd = float(np.sqrt(np.average(variances + (means - mean) ** 2, weights=sizes)))
        return cls(float(mean), sd if sd > 0 else 1.0, limit_sd=None)

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised copy, float32."""
        scaled = (values - np.float32(self.mean)) * np.float32(1 / self.sd)
        return scaled if self.limit_sd is None else np.clip(scaled, -self.limit_sd, self.limit_sd, out=scaled)
