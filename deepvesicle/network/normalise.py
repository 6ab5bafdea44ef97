"""Grey values to the range that the network was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Share of the darkest and of the brightest voxels that is cut off before mean and SD are taken: gold, ice, rims.
CLIPPED_SHARE = 0.005
#: Normalised values beyond this many SDs are cut off.
LIMIT_SD = 6.0


@dataclass(frozen=True)
class Normalisation:
    """Affine map of grey values, value -> (value - mean) / sd, cut off at +-`LIMIT_SD`."""

    mean: float
    sd: float

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

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised copy, float32."""
        scaled = (values - np.float32(self.mean)) * np.float32(1 / self.sd)
        return np.clip(scaled, -LIMIT_SD, LIMIT_SD, out=scaled)
