"""The shipped model through the whole pipeline: on the demo, and on tomograms that nobody here made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_tomogram
from deepvesicle.network.zoo import load_network
from deepvesicle.scoring.match import match, match_points
from tests.benchmark.contest import accepted, run
from tests.benchmark.scenes import truth_of

SharedData = Callable[[str], Path]


def test_the_model_is_small_and_says_what_it_is() -> None:
    network = load_network()
    assert sum(p.stat().st_size for p in network.folder.iterdir()) < 20e6
    card = (network.folder / "CARD.md").read_text()
    assert network.weights_sha256 in card and "phantoms" in card.lower()
    assert network.config["evidence"]


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    grid = read_tomogram(tmp_path / "synapse.mrc").grid
    truth = read_vesicles_csv(tmp_path / "synapse_truth.csv", grid)
    found = read_vesicles_csv(tmp_path / "synapse_vesicles.csv", grid)
    whole = truth.features["inside_fraction"] > 0.999
    score = match(found.select(found.accepted), truth, counted=whole)
    assert score.f1 > 0.9 and score.median_centre_error_nm < 1.0, score.text()
    assert score.text() in printed
    assert (tmp_path / "synapse_overview.png").exists() and "3dmod" in printed


def test_independent_synapse(shared_data: SharedData) -> None:
    tomogram = read_tomogram(shared_data("independent/syn_a.mrc.gz"))
    truth = truth_of(shared_data("independent/syn_a_truth.csv"), tomogram.grid)
    result = run(tomogram, load_network())
    score = match(accepted(result), truth, counted=truth.features["inside_fraction"] >= 0.999)
    assert score.f1 >= 0.95, score.text()
    assert score.median_centre_error_nm <= 0.5
    assert score.delta_d <= 0.05


def test_real_shells(shared_data: SharedData) -> None:
    tomogram = read_tomogram(shared_data("ferritin_shells/ferritin_upper.mrc.gz"))
    table = np.genfromtxt(shared_data("ferritin_shells/reference_upper.csv"), delimiter=",", names=True)
    reference = np.stack([table["z_vox"], table["y_vox"], table["x_vox"]], axis=1)
    found = accepted(run(tomogram, load_network()))
    assert len(match_points(found.centres_vox, reference, 3.0)) >= 0.75 * len(reference)
    # the reference ends some voxels from the faces, where there are shells, too
    low, high = reference.min(axis=0) - 1, reference.max(axis=0) + 1
    inner = found.select(np.all((found.centres_vox >= low) & (found.centres_vox <= high), axis=1))
    near = np.linalg.norm(inner.centres_vox[:, None] - reference[None], axis=-1).min(axis=1) <= 3.0
    assert near.mean() >= 0.88
    radii = found.membrane_radii_vox[np.isfinite(found.membrane_radii_vox)]  # unknown where only the mask is sure
    assert len(radii) > 0.9 * len(found)
    assert 1.4826 * np.median(np.abs(radii - np.median(radii))) < 0.25


def test_real_tomograms_without_vesicles(shared_data: SharedData) -> None:
    count = 0
    for name in ("13pf_MT", "spindle_patch"):
        tomogram = read_tomogram(shared_data(f"microtubules_negative/{name}.mrc.gz"))
        count += len(accepted(run(tomogram, load_network())))
    assert count <= 2  # doubtful ones
