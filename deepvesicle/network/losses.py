"""What a network is trained to make small, and the Dice it is watched by, for any Keras backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def bce_loss(truth: Any, predicted: Any, known: Any = 1.0) -> Any:
    """Binary cross-entropy; as for the others, voxels with `known` 0 do not count."""
    from keras import ops

    predicted = ops.clip(ops.cast(predicted, "float32"), 1e-6, 1 - 1e-6)
    return -ops.mean(known * (truth * ops.log(predicted) + (1 - truth) * ops.log(1 - predicted)))


def bce_dice_loss(truth: Any, predicted: Any, known: Any = 1.0) -> Any:
    """Binary cross-entropy plus one minus the soft Dice over the batch."""
    return bce_loss(truth, predicted, known) + 1 - soft_dice(truth, predicted, known)


def focal_loss(truth: Any, predicted: Any, known: Any = 1.0) -> Any:
    """Cross-entropy in which voxels that are certain and right count little (Lin et al. 2017, gamma 2), times 3."""
    from keras import ops

    predicted = ops.clip(ops.cast(predicted, "float32"), 1e-6, 1 - 1e-6)
    miss = ops.abs(truth - predicted)
    entropy = -(truth * ops.log(predicted) + (1 - truth) * ops.log(1 - predicted))
    return 3 * ops.mean(known * miss**2 * entropy)


def bce_tversky_loss(truth: Any, predicted: Any, known: Any = 1.0) -> Any:
    """Cross-entropy plus 1 - Tversky index (Salehi et al. 2017): what is missed counts 0.7, what is false 0.3."""
    from keras import ops

    p = ops.cast(predicted, "float32")
    hit = ops.sum(known * truth * p)
    missed, false = ops.sum(known * truth * (1 - p)), ops.sum(known * (1 - truth) * p)
    return bce_loss(truth, predicted, known) + 1 - (hit + 1) / (hit + 0.7 * missed + 0.3 * false + 1)


#: Losses by name; `bin/benchmark training` compares them.
LOSSES: dict[str, Callable[..., Any]] = {
    "bce": bce_loss,
    "bce_dice": bce_dice_loss,
    "bce_tversky": bce_tversky_loss,
    "focal": focal_loss,
}


def soft_dice(truth: Any, predicted: Any, known: Any = 1.0) -> Any:
    """Dice = 2 sum(t p) / (sum t^2 + sum p^2), with one voxel added so that an empty batch is defined."""
    from keras import ops

    predicted = ops.cast(predicted, "float32")
    squares = ops.sum(known * truth * truth) + ops.sum(known * predicted * predicted)
    return (2 * ops.sum(known * truth * predicted) + 1) / (squares + 1)


def of_known(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """A loss or metric for Keras, of targets with two channels: the truth, and what of it is known."""

    def of_targets(targets: Any, predicted: Any) -> Any:
        return function(targets[..., :1], predicted, targets[..., 1:])

    of_targets.__name__ = function.__name__
    return of_targets
