"""The page on training is true: its commands run in their order, and the loop that it describes closes."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_tomogram
from deepvesicle.network.dataset import read_dataset
from deepvesicle.network.zoo import load_network
from deepvesicle.vesicles import Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import SCATTERED_OBJECT, Contour, Object, read_model, write_model
from tests.documents.blocks import PAGES, blocks_of

PAGE = PAGES["train.md"]


def commands() -> list[str]:
    """The lines of the page's shell blocks."""
    return [
        line for block in blocks_of(PAGE.read_text(encoding="utf-8")) if block.language == "sh" for line in block.lines
    ]


def missed(found: Vesicles, truth: Vesicles) -> np.ndarray:
    """Centres (N, 3) of true vesicles, most of which is in view, that are not among those found."""
    usual = (truth.radii_nm > 13) & (truth.radii_nm < 40) & (truth.features["inside_fraction"] > 0.7)
    centres = truth.centres_vox[usual]
    there = found.centres_vox[found.accepted]
    nearest = np.array([np.linalg.norm(there - centre, axis=1).min(initial=np.inf) for centre in centres])
    return centres[nearest > 5]


def click(model: Path, points: np.ndarray) -> None:
    """Add points to a model as a user of 3dmod would: an object of their own, each in a contour."""
    content = read_model(model)
    contours = tuple(Contour(index_to_model(point[None])) for point in points)
    mine = Object("vesicles", contours, flags=SCATTERED_OBJECT)
    first = next(item for item in content.objects if item.name == mine.name)
    joined = replace(first, contours=(*first.contours, *contours))
    others = tuple(joined if item is first else item for item in content.objects)
    write_model(model, replace(content, objects=others))


def test_every_command_of_the_page_runs_and_the_loop_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results" / "phantom_synapse_23_vesicles.csv"
    before = 0
    for line in commands():
        words = shlex.split(line)
        assert words[0] == "deepvesicle"
        if words[1] == "fix":
            grid = read_tomogram(tmp_path / "new" / "phantom_synapse_23.mrc").grid
            found = read_vesicles_csv(results, grid)
            truth = read_vesicles_csv(tmp_path / "new" / "phantom_synapse_23_truth.csv", grid)
            left = missed(found, truth)[:4] + 0.7
            assert len(left), "nothing was missed: the page needs a harder phantom"
            click(results.with_suffix(".mod"), left)
            before = int(found.accepted.sum())
        assert main(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
    said = capsys.readouterr().out
    assert "F1" in said and "mask Dice" in said and "phantom_synapse_21_truth.mod: IMOD model" in said
    # the corrected vesicles are in the dataset, and the second network has learnt from it, on from the first
    volumes = {volume.name: volume for volume in read_dataset(tmp_path / "dataset").volumes}
    assert len(volumes) == 3
    assert before < len(volumes["phantom_synapse_23"].vesicles) <= before + 4  # not every click can be fitted
    card = load_network(tmp_path / "mine2").folder / "CARD.md"
    assert "the weights of model mine" in card.read_text() and "| before | after |" in card.read_text()
    names = {entry["name"].split(",")[0] for entry in load_network(tmp_path / "mine2").config["datasets"]}
    assert names == set(volumes)
