"""What the page of the bridge says is true: its examples run, its commands exist."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import mrcfile
import numpy as np
import pytest

from imod_bridge.actions import GROUP
from imod_bridge.coordinates import index_to_model, model_to_index
from imod_bridge.loop import run_once
from imod_bridge.model import SCATTERED_OBJECT, Contour, Model, Object, read_model, write_model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = (Path(__file__).parents[2] / "docs" / "imod_bridge.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
VOXEL_ANGSTROM = 8.0
BEADS = np.array([[10.3, 14.6, 18.2], [19.8, 25.1, 9.5], [12.0, 8.25, 30.7]])


@pytest.fixture
def package() -> ModuleType:
    """The module that the page prints in full."""
    (code,) = [block for block in PYTHON if "def centre_beads" in block]
    module = ModuleType("centre_beads")
    exec(compile(code, "docs/imod_bridge.md", "exec"), module.__dict__)
    return module


@pytest.fixture
def tomogram(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Dark beads of 2 voxels' width at known places between voxels."""
    grid = np.indices((30, 36, 40)).reshape(3, -1).T
    volume = sum(-np.exp(-((grid - bead) ** 2).sum(1) / (2 * 1.5**2)) for bead in BEADS) * 100.0
    volume = volume.reshape(30, 36, 40) + rng.normal(0, 1, (30, 36, 40)) + 50
    path = tmp_path / "tomo.mrc"
    with mrcfile.new(path, volume.astype(np.float32)) as mrc:
        mrc.voxel_size = VOXEL_ANGSTROM
    return path


def test_the_example_centres_points_on_beads(package: ModuleType, tomogram: Path, tmp_path: Path) -> None:
    clicks = index_to_model(BEADS + [[1.4, -2.0, 1.0], [-1.0, 2.2, -1.7], [0.0, 0.0, 2.4]])
    contours = tuple(Contour(np.array([click]), surface=number) for number, click in enumerate(clicks, start=1))
    other = Object("mine", (Contour(np.array([[1.0, 2.0, 3.0]])),))
    path = tmp_path / "beads.mod"
    write_model(path, Model((other, Object("beads", contours, flags=SCATTERED_OBJECT)), image_size=(40, 36, 30)))
    answer = run_once(package.centre_beads, tomogram, path)
    assert answer.messages == ("3 contours centred",)
    kept, beads = read_model(path).objects
    found = np.concatenate([model_to_index(contour.points) for contour in beads.contours])
    np.testing.assert_allclose(found, BEADS, atol=0.15)
    np.testing.assert_array_equal(kept.contours[0].points, [[1.0, 2.0, 3.0]])

    state = path.stat()
    run_once(package.centre_beads, tomogram, path)
    assert path.stat().st_mtime_ns == state.st_mtime_ns, "its own result leaves nothing to do"


def test_the_example_takes_clicks_outside_and_models_without_beads(
    package: ModuleType, tomogram: Path, tmp_path: Path
) -> None:
    path = tmp_path / "odd.mod"
    write_model(path, Model((Object("else"),)))
    assert run_once(package.centre_beads, tomogram, path).messages == ("the model has no object 'beads'",)
    write_model(path, Model((Object("beads", (Contour(np.array([[-4.0, 900.0, 3.0]])), Contour(np.zeros((0, 3))))),)))
    assert run_once(package.centre_beads, tomogram, path).messages == ("2 contours centred",)
    np.testing.assert_array_equal(package.darkest(np.ones((9, 9, 9)), np.array([4.2, 4.0, 1.0])), [4.2, 4.0, 1.0])


def test_the_example_announces_its_action(package: ModuleType) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (target,) = tomllib.loads(text)["project"]["entry-points"][GROUP].values()
    module, function = target.split(":")
    assert f"`{module}.py`" in PAGE and callable(getattr(package, function))


def test_names_in_the_page_exist() -> None:
    for block in PYTHON:
        compile(block, "docs/imod_bridge.md", "exec")
        for module, names in re.findall(r"^from (imod_bridge\S*) import (.+)$", block, re.MULTILINE):
            for name in names.split(", "):
                assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    for module in re.findall(r"`(imod_bridge(?:\.\w+)+)`", PAGE):
        importlib.import_module(module.removesuffix(".actions") if module == GROUP else module)
