"""`deepvesicle prepare` as it is typed: what it prints and writes, its warnings, errors and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import write_labels
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Labels
from deepvesicle.network.dataset import read_dataset
from deepvesicle.vesicles import Status
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import FLAG_OPEN, Contour, Object
from tests.shells import GRID, box, contours, spheres, write_drawn, write_shells

TRUTH = spheres()
TRUTH = TRUTH.replace(status=[Status.MANUAL] * len(TRUTH))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tomogram, a model with vesicles, a tube and an outline, and labels as for Pyto."""
    folder = tmp_path_factory.mktemp("lab")
    write_shells(folder / "ts 01.rec", TRUTH)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    tube = tuple(
        Contour(index_to_model(np.column_stack([np.full(20, z), 60 + 7 * np.sin(angle), 65 + 22 * np.cos(angle)])))
        for z in range(24, 34, 2)
    )
    write_drawn(
        folder / "drawn.mod",
        Object("SV", contours(TRUTH)),
        Object("tube", tube),
        Object("cell", box((10, 110), (10, 120), (4, 50))),
    )
    labels = np.zeros(GRID.shape_zyx, np.uint16)
    labels[:, 10:111, 10:121] = 3
    labels[:, 60:64] = 2
    own = rasterize(TRUTH).data
    labels = np.where(own > 0, own + 9, labels)
    write_labels(folder / "pyto.mrc", Labels(labels, GRID))
    write_labels(folder / "classes.mrc", Labels((own > 0).astype(np.uint16), GRID))
    return folder


def run(lab: Path, *arguments: object) -> int:
    return main(["prepare", str(lab / "ts 01.rec"), *map(str, arguments)])


def test_a_model(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    assert run(lab, lab / "drawn.mod", "--outline", "cell", "-o", folder) == 0
    out, err = capsys.readouterr()
    assert f"{len(TRUTH)} vesicles, outer radius: median" in out and "1 unclear" in out
    assert "x 66, y 61, z 29: elongated" in out and "wrote" in out and "ts-01_annotation.png: look at it" in out
    assert "voxels of 2.2 nm" in out and "warning" not in err
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "ts-01.h5", "ts-01_annotation.png"]
    (volume,) = read_dataset(folder).volumes
    share = float(out.split("annotated: ")[1].split("%")[0])
    assert share == pytest.approx(100 * volume.annotated().mean(), abs=0.1)
    assert share < 100 * 47 * 100 * 110 / np.prod(GRID.shape_zyx) + 1
    middle = np.rint(volume.grid.to_vox(GRID.to_nm([28, 60, 65]))[0]).astype(int)
    on_a_vesicle = volume.mask()[tuple(middle)] > 0
    assert on_a_vesicle or not volume.annotated()[tuple(middle)]  # the tube is ignored
    assert (folder / "ts-01_annotation.png").read_bytes()[:4] == b"\x89PNG"


def test_added_to_replaced_and_refused(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    assert run(lab, lab / "drawn.mod", "--vesicles", "SV", "-o", folder, "--network-voxel-size", "2.5") == 0
    assert run(lab, lab / "drawn.mod", "--vesicles", "1", "-o", folder) == 2
    assert "ts-01" in capsys.readouterr().err
    assert run(lab, lab / "drawn.mod", "--vesicles", "1", "-o", folder, "--overwrite") == 0
    assert run(lab, lab / "drawn.mod", "--vesicles", "SV", "-o", folder, "--name", "second") == 0
    assert "holds this tomogram already, as ts-01" in capsys.readouterr().err
    dataset = read_dataset(folder)
    assert [volume.name for volume in dataset.volumes] == ["ts-01", "second"] and dataset.voxel_nm == 2.5
    assert run(lab, lab / "drawn.mod", "-o", folder, "--name", "third", "--model", "default") == 3
    assert "2.5 nm" in capsys.readouterr().err


def test_labels_of_pyto_and_classes(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lab, lab / "pyto.mrc", "--membrane-id", 2, "--cytosol-id", 3, "-o", tmp_path / "a") == 0
    assert run(lab, lab / "pyto.mrc", "--vesicle-ids", "10,12", "--outline", 3, "-o", tmp_path / "b") == 0
    assert run(lab, lab / "classes.mrc", "--classes", "1", "-o", tmp_path / "c") == 0
    err = capsys.readouterr().err
    assert err.count("warning") == err.count("warning: too few vesicles") == 1  # of the two in b
    volumes = [read_dataset(tmp_path / name).volumes[0] for name in "abc"]
    assert [len(volume.vesicles) for volume in volumes] == [len(TRUTH), 2, len(TRUTH)]
    assert volumes[0].annotated().mean() < 0.9 and volumes[2].annotated().all()
    assert volumes[1].annotated().mean() < volumes[0].annotated().mean()
    options = json.loads((tmp_path / "b" / "manifest.json").read_text())["volumes"]["ts-01"]["options"]
    assert options == {"vesicle_ids": [10, 12], "outline": ["3"]}


def test_vesicles_centred_outside_are_counted_apart(
    lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = TRUTH.centres_vox - [0, 0, TRUTH.centres_vox[:, 2].min() + 3]
    write_vesicles_csv(tmp_path / "v.csv", TRUTH.replace(centres_vox=moved))
    assert run(lab, tmp_path / "v.csv", "-o", tmp_path / "a") == 0
    within = int((moved[:, 2] >= -0.5).sum())
    assert 0 < within < len(TRUTH)
    assert f"{len(TRUTH)} vesicles, {within} of them centred inside the tomogram" in capsys.readouterr().out


def test_refine(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lab, lab / "drawn.mod", "--vesicles", "SV", "--refine", "-o", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert "fitted" in out and "kept as drawn; radii changed by" in out


def test_what_was_drawn_oddly_is_told(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = contours(TRUTH)[0]
    unclosed = Object("open", (Contour(first.points, flags=FLAG_OPEN),), flags=0)
    shifted = TRUTH.replace(centres_vox=TRUTH.centres_vox + [0, 12, 0])
    path = write_drawn(tmp_path / "odd.mod", Object("SV", contours(shifted)), unclosed)
    assert run(lab, path, "-o", tmp_path / "data") == 0
    err = capsys.readouterr().err
    assert "not closed" in err and "about 12 voxels back in y" in err
    assert all(line.startswith(("warning: ", "storing")) for line in err.splitlines())


def test_errors_leave_nothing(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lab / "drawn.mod"
    data = model.read_bytes()
    broken = {"empty": b"", "cut": data[:-300], "text": b"hello", "png": b"\x89PNG\r\n" + bytes(2000)}
    for name, content in broken.items():
        (tmp_path / f"{name}.mod").write_bytes(content)
    (tmp_path / "pyto.dat").write_text("# vesicles\n1 2 3\n")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    folder = tmp_path / "data"
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (2, "Missing argument", ("-o", folder)),
        (2, "Missing option", (model,)),
        (3, "'SV'", (model, "--vesicles", "sv2", "-o", folder)),
        (3, "does not exist", (tmp_path / "gone.mod", "-o", folder)),
        (3, "does not exist", (tmp_path / "gone.mrc", "-o", folder)),
        (3, "not a usable IMOD model", (tmp_path / "empty.mod", "-o", folder)),
        (3, "not a usable IMOD model", (tmp_path / "cut.mod", "-o", folder)),
        (3, "not a usable IMOD model", (tmp_path / "text.mod", "-o", folder)),
        (3, "not a usable IMOD model", (tmp_path / "png.mod", "-o", folder)),
        (3, "not a label volume", (lab / "ts 01.rec", "-o", folder)),
        (3, "expected an IMOD model (.mod), a label volume (.mrc) or", (tmp_path / "pyto.dat", "-o", folder)),
        (3, "is a folder; expected an IMOD model", (lab, "-o", folder)),
        (3, "columns are missing", (tmp_path / "odd.csv", "-o", folder)),
        (2, "Leave it out", (tmp_path / "odd.csv", "--vesicles", "1", "-o", folder)),
        (3, "no label 77", (lab / "pyto.mrc", "--vesicle-ids", "77", "-o", folder)),
        (2, "names no labels", (lab / "pyto.mrc", "--classes", "1;2", "-o", folder)),
        (2, "--classes is for label volumes", (model, "--classes", "1,2", "-o", folder)),
        (2, "cannot be right", (model, "--network-voxel-size", "22", "-o", folder)),
        (2, "exclude one another", (model, "--network-voxel-size", "2", "--model", "default", "-o", folder)),
        (3, "there is no model", (model, "--model", "none", "-o", folder)),
        (3, "cannot name", (model, "--name", "a b", "-o", folder)),
        (2, "--voxel-size", (model, "--voxel-size", "22", "-o", folder)),
    ]
    for code, words, arguments in cases:
        assert run(lab, *arguments) == code, arguments
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("error: ") and words in err, err
        assert not folder.exists()
    (tmp_path / "notes.txt").write_text("mine")
    assert run(lab, model, "-o", tmp_path / "notes.txt") == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "absurd").mkdir()
    (tmp_path / "absurd" / "manifest.json").write_text("{")
    assert run(lab, model, "-o", tmp_path / "absurd") == 3
    assert "manifest.json" in capsys.readouterr().err
