"""Calibrating a network's scores on phantoms, where it is known which spheres are vesicles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import NetworkError
from deepvesicle.fitting.evidence import TRAITS, Evidence, evidence_table
from deepvesicle.fitting.propose import propose
from deepvesicle.fitting.refine import refine
from deepvesicle.network.patches import random_tomogram
from deepvesicle.scoring.match import match
from deepvesicle.settings import Settings

if TYPE_CHECKING:
    from deepvesicle.network.zoo import Network

#: First part of the seeds of calibration phantoms; training and validation use others.
SEED = 555_000


def calibrate_scores(
    network: Network, count: int = 40, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Evidence, NDArray[np.float64], NDArray[np.bool_]]:
    """Learn from phantoms which fitted spheres are vesicles.

    Parameters
    ----------
    network : Network
    count : int
        Phantoms, under the random conditions of the training.
    progress : callable, optional
        Called with (done, in all).

    Returns
    -------
    evidence : Evidence
    table : float array (N, traits)
        The spheres it was learned from, and ...
    true : bool array (N,)
        ... which of them are vesicles.

    Raises
    ------
    NetworkError
        The network finds nothing, or vesicles alone: there is nothing to tell apart.
    """
    from deepvesicle.network.inference import predict

    settings = Settings()
    tables, truths = [], []
    for i in range(count):
        rng = np.random.default_rng((SEED, i))
        tomogram, truth = random_tomogram(rng, network.voxel_nm, 144)
        probability = predict(tomogram, network, settings.prediction)
        spheres = propose(probability, tomogram.grid, settings.proposal, threshold=network.threshold)
        spheres = refine(tomogram, spheres, settings.refinement)
        found = match(spheres, truth)
        # a sphere beside the one that was matched, or on one that is cut off, teaches nothing
        usable = np.ones(len(spheres), dtype=bool)
        usable[found.ignored_rows] = False
        true = np.zeros(len(spheres), dtype=bool)
        true[found.pairs[:, 0]] = True
        if len(spheres):
            tables.append(evidence_table(spheres)[usable])
            truths.append(true[usable])
        if progress:
            progress(i + 1, count)
    table = np.concatenate([np.zeros((0, len(TRAITS))), *tables])
    true = np.concatenate([np.zeros(0, dtype=bool), *truths])
    if true.all() or not true.any():
        raise NetworkError(
            "the scores cannot be calibrated",
            expected="vesicles and other things among what the network finds on phantoms",
            got=f"{true.sum()} vesicles and {(~true).sum()} others",
            remedy="Train longer, or use more phantoms (--calibrate), or none (--calibrate 0)",
        )
    return Evidence.learn(table, true), table, true
