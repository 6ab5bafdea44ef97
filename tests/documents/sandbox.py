"""A folder in which the commands of the documents run as they stand there, and what a user does between them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.files.imod import empty_model
from deepvesicle.files.review import NAME, VERSION
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_tomogram
from deepvesicle.grid import Grid
from deepvesicle.vesicles import Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import FLAG_OPEN, SCATTERED_OBJECT, Contour, Object, read_model, write_model
from tests.documents.blocks import reason_not_to_run
from tests.handover.pyto_tables import write_segments, write_vesicles

#: The command whose result all documents share; it is run once.
SHARED = "deepvesicle segment tomo.mrc -o results"
#: Another one that takes long: what it makes in the first document is there for the others.
TRAINING, TRAINED = "deepvesicle train dataset --init default -o my_model", "my_model"
#: What makes a command short enough for a test, where the line does not say otherwise.
SHORTER = {
    "deepvesicle train": ("--steps", "2", "--patch", "32", "--phantoms", "0", "--no-compare"),
    "deepvesicle models import": ("--calibrate", "0"),
    "deepvesicle phantom": ("--shape", "32", "64", "64"),
}
#: Size of the sample and of the small ones.
SHAPE, SMALL = ("48", "128", "128"), ("32", "64", "64")


def make_lab(folder: Path) -> None:
    """Write the files that the documents speak of."""
    phantom(folder / "tomo.mrc", 21, SHAPE, truth=True)
    phantom(folder / "other.mrc", 22, SMALL)
    phantom(folder / "tomos" / "a.mrc", 23, SMALL)  # one: each of a batch starts TensorFlow anew
    shutil.copy(folder / "truth.mod", folder / "by_hand.mod")
    grid = read_tomogram(folder / "tomo.mrc").grid
    draw_cell(folder / "drawn.mod", grid)
    truth = read_vesicles_csv(folder / "truth.csv", grid)
    clicks = Object("clicks", tuple(Contour(index_to_model(p[None])) for p in whole(truth)[:3]), flags=SCATTERED_OBJECT)
    write_model(folder / "points.mod", replace(empty_model(grid), objects=(clicks,)))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run_line(SHARED, folder) == 0
    (folder / "shared.txt").write_text(printed.getvalue(), encoding="utf-8")


def phantom(path: Path, seed: int, shape: tuple[str, ...], *, truth: bool = False) -> None:
    """A simulated synapse under a name of one's own."""
    path.parent.mkdir(exist_ok=True)
    scratch = path.parent / "scratch"
    arguments = ["phantom", "-o", str(scratch), "--seed", str(seed), "--shape", *shape, "--contrast", "0.8"]
    assert main(arguments) == 0
    stem = f"phantom_synapse_{seed}"
    shutil.move(scratch / f"{stem}.mrc", path)
    if truth:
        for ending in (".mod", ".csv"):
            shutil.move(scratch / f"{stem}_truth{ending}", path.parent / f"truth{ending}")
    shutil.rmtree(scratch)


def draw_cell(path: Path, grid: Grid) -> None:
    """The outline of a cell and the membrane of its active zone, drawn on every fourth slice."""
    nz, ny, nx = grid.shape_zyx
    cell, zone = [], []
    for z in range(1, nz - 1, 4):
        corners = [[z, 6, 4], [z, 6, nx - 5], [z, ny - 5, nx - 5], [z, ny - 5, 4]]
        cell.append(Contour(index_to_model(corners)))
        zone.append(Contour(index_to_model([[z, 6, x] for x in range(20, nx - 20, 8)])))
    objects = (Object("cell", tuple(cell)), Object("az", tuple(zone), flags=FLAG_OPEN))
    write_model(path, replace(empty_model(grid), objects=objects))


def whole(truth: Vesicles) -> np.ndarray:
    """Centres of true vesicles of usual size that lie within the tomogram."""
    radii = truth.radii_nm
    return truth.centres_vox[(radii > 14) & (radii < 40) & (truth.features["inside_fraction"] > 0.95)]


class Sandbox:
    """Runs the lines of one document.

    Parameters
    ----------
    folder : Path
        Holds what `make_lab` writes.
    lab : Path
        The folder that it is a copy of.
    capsys : fixture
    """

    def __init__(self, folder: Path, lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._lab, self._capsys = folder, lab, capsys

    def run(self, line: str) -> str:
        """Run a line after what a user would have done before it; gives what it printed.

        Fails where the line does, or where a file that a line for 3dmod names is not there.
        """
        self._as_a_user(line)
        self._capsys.readouterr()
        if reason_not_to_run(line) is not None:
            if line.startswith("3dmod "):
                missing = [word for word in shlex.split(line)[1:] if not (self.folder / word).exists()]
                assert not missing, f"{line}: {missing} are not there"
            return ""
        kept = self._lab / "trained"
        if line == TRAINING and kept.is_dir():
            assert (self.folder / "dataset").is_dir()
            shutil.copytree(kept, self.folder / TRAINED)
            return f"as in another document: {TRAINED}"
        code = run_line(line, self.folder)
        out, err = self._capsys.readouterr()
        assert code == 0, f"{line}\n{out}{err}"
        if line == TRAINING:
            shutil.copytree(self.folder / TRAINED, kept)
        return out

    def have_results(self) -> None:
        """Begin with the sample segmented."""
        assert run_line(SHARED, self.folder) == 0

    def _as_a_user(self, line: str) -> None:
        """What a person does in other programs between the commands."""
        words = shlex.split(line)
        if words[:2] == ["deepvesicle", "fix"] and not {"--new", "--review", "--live", "--watch"} & set(words):
            named = words[words.index("--object") + 1] if "--object" in words else None
            self.correct(self.folder / words[3], named)
        if "--import-results" in words:
            run_pyto(self.folder / words[words.index("--import-results") + 1])
        if words[:3] == ["deepvesicle", "models", "import"]:
            from tests.network.keras2 import random_published, write_keras2

            write_keras2(self.folder / words[3], random_published(5))
        if "--review" in words:
            self.review(self.folder / words[words.index("--review") + 1])

    def correct(self, model: Path, named: str | None) -> None:
        """Delete a sphere and click a missed vesicle, or any, in a model; or in an object of one's own."""
        grid = read_tomogram(self.folder / "tomo.mrc").grid
        found = read_vesicles_csv(model.with_suffix(".csv"), grid)
        centres = whole(read_vesicles_csv(self.folder / "truth.csv", grid))
        there = found.centres_vox[found.accepted]
        far = np.array([np.linalg.norm(there - centre, axis=1).min(initial=np.inf) for centre in centres])
        click = Contour(index_to_model(centres[np.argmax(far)][None] + 0.6))
        content = read_model(model)
        if named is not None:
            write_model(model, replace(content, objects=(*content.objects, Object(named, (click,), flags=FLAG_OPEN))))
            return
        ours = next(item for item in content.objects if item.name == "vesicles")
        changed = replace(ours, contours=(*ours.contours[:-1], click))
        objects = tuple(changed if item is ours else item for item in content.objects)
        write_model(model, replace(content, objects=objects))

    def review(self, path: Path) -> None:
        """Reject one vesicle, and keep another, on the page of the report, and save that."""
        grid = read_tomogram(self.folder / "tomo.mrc").grid
        table = read_vesicles_csv(self.folder / "results" / "tomo_vesicles.csv", grid)
        rows = np.flatnonzero(table.accepted)[:2]
        decisions = [
            {
                "id": int(table.ids[row]),
                "decision": word,
                "centre_vox": dict(zip("zyx", map(float, centre), strict=True)),
            }
            for row, word, centre in zip(rows, ("reject", "keep"), table.centres_vox[rows], strict=True)
        ]
        size = {"shape_xyz": [int(n) for n in grid.shape_zyx[::-1]], "voxel_nm": grid.voxel_nm}
        content = {"format": NAME, "version": VERSION, "tomogram": size, "decisions": decisions}
        path.write_text(json.dumps(content), encoding="utf-8")


def run_line(line: str, folder: Path) -> int:
    """Run a command line in a folder: those of deepvesicle in this process, which has its libraries loaded."""
    words = shlex.split(line)
    if words[0] != "deepvesicle":
        environment = {**os.environ, "PATH": os.pathsep.join([str(folder / "no-programs"), os.environ["PATH"]])}
        return subprocess.run(["bash", "-euo", "pipefail", "-c", line], cwd=folder, env=environment).returncode
    if line == SHARED and (folder / "shared").is_dir():
        assert not (folder / "results").exists(), "the documents make their results once"
        shutil.copytree(folder / "shared", folder / "results")
        print((folder / "shared.txt").read_text(encoding="utf-8"), end="")
        return 0
    for start, extra in SHORTER.items():
        if line.startswith(start) and extra[0] not in words:
            words += extra
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DEEPVESICLE_MODELS", str(folder / "models_of_one's_own"))
        return main(words[1:])


def run_pyto(work: Path) -> None:
    """The tables that Pyto leaves in a work folder: every vesicle, and a tether and a connector."""
    grid = read_tomogram(work / "3d" / "tomo.mrc").grid
    vesicles = read_vesicles_csv(work / "vesicles.csv", grid)
    ids = [int(number) for number in vesicles.ids]
    places = {
        number: (*(float(round(v)) for v in centre[::-1]), float(radius) - 0.36, 20.0, 10.0 + number)
        for number, centre, radius in zip(ids, vesicles.centres_vox, vesicles.radii_vox, strict=True)
    }
    write_vesicles(work / "vesicles" / "tomo_vesicles.dat", places)
    write_segments(work / "connectors" / "tomo_new_tethers_good.dat", [2, *ids], [(1, 30, 4.0, (2, ids[0]))])
    write_segments(work / "connectors" / "tomo_new_connectors_good.dat", [2, *ids], [(2, 50, 5.0, tuple(ids[:2]))])
