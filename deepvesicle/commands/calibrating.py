"""Scores calibrated on phantoms, with progress, for the commands that make a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepvesicle.network.zoo import Network


def calibrated(network: Network, count: int, extra: dict[str, Any]) -> str:
    """Calibrate the scores on phantoms, into `extra`; what the card says of it."""
    from deepvesicle.calibration import CALIBRATION_CONTRASTS, calibrate_scores
    from deepvesicle.commands.console import progress

    with progress("calibrating the scores on phantoms", count) as advance:
        evidence, _, true = calibrate_scores(network, count, progress=lambda done, total: advance(1))
    extra["evidence"] = evidence.to_json()
    low, high = CALIBRATION_CONTRASTS
    return f"""
## Calibration of the scores

{count} phantoms (seeds used nowhere else; d' {low:g} to {high:g}, evenly in its logarithm): {len(true)}
spheres were fitted on them, {true.mean():.1%} of them vesicles. Their traits and the network's word were weighed by
logistic regression.
The weights are in `config.json`.
"""
