"""Learning on phantoms, where it is known which spheres are vesicles: a network's scores, and looks without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepvesicle.errors import NetworkError
from deepvesicle.fitting.evidence import MASK_TRAITS, TRAITS, Evidence, Promise, evidence_table, mask_table
from deepvesicle.fitting.looks import Looks, looks_table
from deepvesicle.fitting.propose import propose
from deepvesicle.fitting.refine import refine
from deepvesicle.grid import Tomogram
from deepvesicle.network.phantoms import random_tomogram
from deepvesicle.phantom.imaging import Imaging, image_scene, random_imaging
from deepvesicle.phantom.scene import LOOKALIKES, placed_scene
from deepvesicle.scoring.match import match
from deepvesicle.settings import RefinementSettings, Settings
from deepvesicle.vesicles import Vesicles

if TYPE_CHECKING:
    from deepvesicle.network.zoo import Network

#: First part of the seeds of calibration phantoms; training and validation use others.
SEED = 555_000
#: The same of those that looks are learned on.
LOOKS_SEED = 556_000
#: The d' of calibration phantoms is drawn from this range, evenly in its logarithm: scores must hold at every contrast.
CALIBRATION_CONTRASTS = (0.3, 2.0)
#: Share of the vesicles that were proposed, lost because the mask does not promise enough for a fit.
UNPROMISING = 0.015
#: Share of the vesicles of these phantoms that may come out as looking like something else.
LOST = 0.01
#: Size of these phantoms, nm, and of the beam beyond them along x.
_SIZE_NM, _BEYOND_NM = np.array([150.0, 300.0, 360.0]), 50.0
#: How far start spheres are off: in the centre as a share of the radius, and in size.
_MOVE, _SCALE = 0.3, 0.2


@dataclass(frozen=True)
class FittedPhantom:
    """What was proposed in a phantom, the same spheres fitted, and the truth."""

    proposals: Vesicles
    spheres: Vesicles
    truth: Vesicles


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
    phantoms = []
    for number in range(count):
        phantoms.append(fit_phantom(network, number))
        if progress:
            progress(number + 1, count)
    return learn_scores(phantoms)


def fit_phantom(network: Network, number: int) -> FittedPhantom:
    """Simulate a calibration phantom, and propose and fit all that the network's mask allows."""
    from deepvesicle.network.inference import predict

    settings = Settings()
    rng = np.random.default_rng((SEED, number))
    contrast = float(_log_uniform(rng, *CALIBRATION_CONTRASTS)[0])
    tomogram, truth = random_tomogram(rng, network.voxel_nm, 144, contrast=contrast)
    probability = predict(tomogram, network, settings.prediction)
    proposals = propose(probability, tomogram.grid, settings.proposal, threshold=network.threshold)
    return FittedPhantom(proposals, refine(tomogram, proposals, settings.refinement), truth)


def learn_scores(phantoms: Sequence[FittedPhantom]) -> tuple[Evidence, NDArray[np.float64], NDArray[np.bool_]]:
    """Learn from fitted phantoms; returns and raises as `calibrate_scores`."""
    promise = _learn_promise(phantoms)
    tables, truths = [np.zeros((0, len(TRAITS)))], [np.zeros(0, dtype=bool)]
    for phantom in phantoms:
        fitted = phantom.spheres
        if promise is not None and len(fitted):
            fitted = fitted.select(promise.worth_a_fit(phantom.proposals))
        if len(fitted):
            known, usable = _which_are_true(fitted, phantom.truth)
            tables.append(evidence_table(fitted)[usable])
            truths.append(known[usable])
    table, true = np.concatenate(tables), np.concatenate(truths)
    if true.all() or not true.any():
        raise NetworkError(
            "the scores cannot be calibrated",
            expected="vesicles and other things among what the network finds on phantoms",
            got=f"{true.sum()} vesicles and {(~true).sum()} others",
            remedy="Train longer, or use more phantoms (--calibrate), or none (--calibrate 0)",
        )
    return replace(Evidence.learn(table, true), promise=promise), table, true


def _learn_promise(phantoms: Sequence[FittedPhantom]) -> Promise | None:
    """Learn from proposals and truths which are worth a fit; None where there is nothing to tell apart."""
    tables, trues, faint = [np.zeros((0, len(MASK_TRAITS)))], [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=bool)]
    for phantom in phantoms:
        if len(phantom.proposals):
            known, usable = _which_are_true(phantom.proposals, phantom.truth)
            tables.append(mask_table(phantom.proposals)[usable])
            trues.append(known[usable])
            faint.append(np.asarray(phantom.proposals.features["mask_share"])[usable] < 1)
    true = np.concatenate(trues)
    if true.all() or not true.any():
        return None
    return Promise.learn_cut(np.concatenate(tables), true, np.concatenate(faint), UNPROMISING)


def _which_are_true(spheres: Vesicles, truth: Vesicles) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which spheres are vesicles, and which of them all teach something: not those on one that is cut off."""
    found = match(spheres, truth)
    usable = np.ones(len(spheres), dtype=bool)
    usable[found.ignored_rows] = False
    true = np.zeros(len(spheres), dtype=bool)
    true[found.pairs[:, 0]] = True
    return true, usable


def learn_looks(count: int = 120, *, progress: Callable[[int, int], None] | None = None) -> Looks:
    """Learn from phantoms how fitted vesicles look, and how sheets, tubules, granules and beads do.

    Parameters
    ----------
    count : int
        Phantoms.
    progress : callable, optional
        Called with (done, in all).
    """
    tables, compared, trues = [], [], []
    for i in range(count):
        rng = np.random.default_rng((LOOKS_SEED, i))
        tomogram, truth, starts = _beside_lookalikes(rng) if rng.random() < 0.72 else _in_a_cell(rng)
        if len(starts):
            fitted = refine(tomogram, starts, RefinementSettings())
            failed = fitted.features["fit_failed"] > 0
            table, others, known = looks_table(fitted)
            true = np.arange(len(fitted)) < len(truth)
            distance = np.linalg.norm(fitted.centres_vox[:, None] - truth.centres_vox[None], axis=2)
            # a wrong start that led to a vesicle after all teaches nothing
            found = (distance < 0.5 * truth.radii_vox[None]).any(axis=1)
            usable = known & (true | ~found)
            # nor does a tomogram in which next to nothing can be seen
            if failed.mean() < 0.5:
                tables.append(table[usable])
                compared.append(others)
                trues.append(true[usable])
        if progress:
            progress(i + 1, count)
    return Looks.learn(tables, compared, trues, LOST)


def _beside_lookalikes(rng: np.random.Generator) -> tuple[Tomogram, Vesicles, Vesicles]:
    """A tomogram of vesicles and look-alikes, its truth, and start spheres: first those of the true ones."""
    voxel = float(_log_uniform(rng, 1.5, 3.0)[0])
    if rng.random() < 0.6:
        half = rng.uniform(45, 62)
        imaging = Imaging(contrast=float(rng.uniform(0.35, 1.4)), tilts_deg=tuple(np.arange(-half, half + 0.1, 2.0)))
    else:
        imaging = random_imaging(rng)
    wide = rng.random() < 0.3  # all sizes
    gap = 0.0 if rng.random() < 0.3 else float(rng.uniform(2, 22))
    border = rng.random() < 0.4  # some are cut, down to half
    centres, radii = _clump(rng, 40 if wide else 70, (12.0, 60.0) if wide else (14.0, 26.0), gap, border)
    false = np.zeros(len(centres), dtype=bool)
    false[rng.permutation(len(centres))[: max(1, round(float(rng.choice([0.05, 0.15, 0.3])) * len(centres)))]] = True
    kinds = [str(rng.choice(LOOKALIKES)) for _ in range(int(false.sum()))]
    beyond = round(_BEYOND_NM / voxel)
    nz, ny, nx = (int(n) for n in np.round(_SIZE_NM / voxel))
    shift = np.array([0.0, 0.0, beyond * voxel]) - voxel / 2
    scene = placed_scene(
        rng,
        (nz, ny, nx + 2 * beyond),
        voxel,
        centres[~false] + shift,
        radii[~false],
        lookalikes=[(kind, place + shift) for kind, place in zip(kinds, centres[false], strict=True)],
    )
    tomogram, truth = image_scene(scene, imaging, rng, beyond)
    # a sheet is taken for a vesicle that leans against it
    reach = np.where(np.array(kinds) == "sheet", 1.0, _MOVE)
    wrong = (centres[false] - voxel / 2) / voxel
    return tomogram, truth, _starts(rng, truth, wrong, radii[false] / voxel, reach)


def _clump(
    rng: np.random.Generator, count: int, radii_nm: tuple[float, float], gap_nm: float, border: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spheres of which each has another at a distance, touching if it is 0; centres (N, 3) and radii (N,), nm."""
    centres, radii = [_SIZE_NM * rng.uniform(0.35, 0.65, 3)], [float(_log_uniform(rng, *radii_nm)[0])]
    for _ in range(40 * count):
        radius = float(_log_uniform(rng, *radii_nm)[0])
        beside = int(rng.integers(len(centres)))
        direction = rng.normal(size=3)
        away = radii[beside] + radius + gap_nm * rng.uniform(1, 1.5)
        place = centres[beside] + direction / np.linalg.norm(direction) * away
        free = np.linalg.norm(np.array(centres) - place, axis=1) - np.array(radii) - radius
        margin = 0.1 * radius if border else radius + 2
        inside = np.all((place > margin) & (place < _SIZE_NM - margin))
        # cut by two faces, less than half would be left
        cut = int(np.sum((place < radius) | (place > _SIZE_NM - radius)))
        if inside and cut <= 1 and free.min() > gap_nm - 1e-6:
            centres.append(place)
            radii.append(radius)
        if len(centres) == count:
            break
    return np.array(centres), np.array(radii)


def _log_uniform(rng: np.random.Generator, low: float, high: float, count: int = 1) -> NDArray[np.float64]:
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def _in_a_cell(rng: np.random.Generator) -> tuple[Tomogram, Vesicles, Vesicles]:
    """A phantom as networks are trained on, its truth, and start spheres; wrong ones on what else is in the cell."""
    from scipy.ndimage import gaussian_filter

    tomogram, everything = random_tomogram(rng, 2.2, 144, str(rng.choice(["synapse", "liposomes", "shells"])))
    grid = tomogram.grid
    whole = (everything.features["inside_fraction"] > 0.5) & grid.contains(everything.centres_vox)
    truth = everything.select(whole & (everything.radii_nm > 11))
    places = rng.uniform(0, 1, (400, 3)) * (np.array(grid.shape_zyx) - 1)
    radii = _log_uniform(rng, 13, 32, 400) / grid.voxel_nm
    distance = np.linalg.norm(places[:, None] - everything.centres_vox[None], axis=2)
    places, radii = (a[np.all(distance > everything.radii_vox + 0.5 * radii[:, None], axis=1)] for a in (places, radii))
    # half of them on dark places, as a network would be wrong
    smooth = gaussian_filter(np.asarray(tomogram.data, dtype=np.float32), 4 / grid.voxel_nm)
    dark = np.argsort(smooth[tuple(np.rint(places).astype(int).T)])
    wanted = max(4, len(truth) // 8)
    chosen = rng.permutation(dark[: len(dark) // 6])[: wanted // 2]
    others = rng.permutation(np.setdiff1d(dark, chosen))[: wanted - len(chosen)]
    rows = np.concatenate([chosen, others]).astype(int)
    return tomogram, truth, _starts(rng, truth, places[rows], radii[rows], np.zeros(len(rows)))


def _starts(
    rng: np.random.Generator,
    truth: Vesicles,
    wrong_vox: NDArray[np.float64],
    radii_vox: NDArray[np.float64],
    reach: NDArray[np.float64],
) -> Vesicles:
    """Start spheres that are off: of the true vesicles, then wrong ones, displaced by up to `reach` x radius."""
    n = len(truth)
    centres = np.concatenate([truth.centres_vox, wrong_vox.reshape(-1, 3)])
    radii = np.concatenate([truth.radii_vox * rng.uniform(1 - _SCALE, 1 + _SCALE, n), radii_vox])
    direction = rng.normal(size=centres.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    far = np.concatenate([_MOVE * truth.radii_vox, reach * radii_vox]) * rng.uniform(0, 1, len(radii)) ** (1 / 3)
    return Vesicles.from_spheres(truth.grid, centres + direction * far[:, None], radii)


def _main() -> None:
    """`bin/learn-looks`."""
    import argparse
    import json
    from pathlib import Path

    from deepvesicle.fitting import looks

    parser = argparse.ArgumentParser(description="Learn how fitted vesicles and look-alikes look.")
    parser.add_argument("--phantoms", type=int, default=120)
    parser.add_argument("--output", type=Path, default=Path(looks.__file__).with_name("looks.json"))
    arguments = parser.parse_args()
    found = learn_looks(arguments.phantoms, progress=lambda done, of: print(f"phantom {done} of {of}", flush=True))
    arguments.output.write_text(json.dumps(found.to_json(), indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    _main()
