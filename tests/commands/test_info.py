"""`deepvesicle info` on models and volumes of known content, on real ones, and on files that cannot be used."""

from __future__ import annotations

import json
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import write_labels, write_tomogram
from deepvesicle.files.volume_info import label_counts
from deepvesicle.grid import Grid, Labels
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import (
    FLAG_OPEN,
    MODEL_YZ_EXCHANGED,
    SCATTERED_OBJECT,
    UNITS_NM,
    Contour,
    ImageReference,
    Model,
    Object,
    write_model,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "files"))
from test_tomogram import bad_files  # noqa: E402

SIZE = (200, 180, 60)


def circle(x: float, y: float, z: float, radius: float, points: int = 12) -> Contour:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return Contour(np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle), np.full(points, z)]))


def drawn_model() -> Model:
    spheres = Contour([[20.5, 30.5, 10], [60.5, 70.5, 20]], sizes=[8.0, 11.5])
    return Model(
        objects=(
            Object("cell", (circle(100, 90, 5, 80), circle(100, 90, 40, 80)), colour=(1.0, 0.5, 0.0)),
            Object("vesicles", (spheres,), flags=SCATTERED_OBJECT),
            Object("lines", (circle(50, 50, 9, 10),), flags=FLAG_OPEN),
            Object(""),
        ),
        image_size=SIZE,
        pixel_size=1.5,
        units=UNITS_NM,
    )


def told(capsys: pytest.CaptureFixture[str], path: Path) -> dict:
    assert main(["info", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_objects_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "drawn.mod"
    write_model(path, drawn_model())
    content = told(capsys, path)
    assert content["shape_zyx"] == [60, 180, 200] and content["pixel_nm"] == 1.5 and content["remarks"] == []
    cell, vesicles, lines, empty = content["objects"]
    assert [item["number"] for item in content["objects"]] == [1, 2, 3, 4]
    assert [item["kind"] for item in content["objects"]] == [
        "closed contours",
        "scattered points",
        "open contours",
        "nothing",
    ]
    assert (cell["contours"], cell["points"], cell["slices"]) == (2, 24, [6, 41])
    assert vesicles["sizes_px"] == [8.0, 11.5] and vesicles["sizes_nm"] == pytest.approx([12.0, 17.25])
    assert vesicles["slices"] == [11, 21] and lines["sizes_px"] is None
    assert empty["slices"] is None and empty["name"] == ""
    assert all(item["remarks"] == [] for item in content["objects"])

    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    for part in ("200 x 180 x 60 voxels", "object 2  'vesicles'", "8 to 11.5 px, 12 to 17.25 nm", "255, 128, 0"):
        assert part in text
    assert "look at" not in text


def test_what_is_odd_in_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "odd.mod"
    slanted = Contour([[10, 10, 5], [30, 10, 5], [30, 30, 9]])
    unclosed = replace(circle(90, 90, 20, 10), flags=FLAG_OPEN)
    outside = circle(195, 90, 20, 15.5)
    objects = (
        Object("a", (circle(50, 50, 9, 10), slanted, unclosed, Contour(np.zeros((0, 3))))),
        Object("a", (outside,)),
        Object("b", (Contour([[5, 5, 5], [9, 5, 5]]),)),
    )
    write_model(path, Model(objects=objects, image_size=SIZE, z_scale=2.0))
    content = told(capsys, path)
    assert content["remarks"] == [
        "it does not say how large a pixel was",
        "z is stretched 2 times for display",
        "2 objects are named 'a': pick them by number",
    ]
    remarks = [item["remarks"] for item in content["objects"]]
    assert remarks[0] == ["1 contour not closed", "1 contour not on one slice of z", "1 contour without points"]
    assert len(remarks[1]) == 1 and "outside the image, by up to 10.5 voxels" in remarks[1][0]
    assert remarks[2] == ["1 closed contour of two points"]


def test_exchanged_axes_and_image_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "turned.mod"
    contour = circle(50, 60, 9, 10)
    turned = Contour(contour.points[:, [0, 2, 1]])
    reference = ImageReference(struct.pack(">18f", *[1.0] * 3, *[30.0, 0, 0], *[0.0] * 3, *[20.0] * 3, *[0.0] * 6))
    model = Model(
        objects=(Object("v", (turned,)),),
        image_size=(200, 60, 180),
        flags=Model.flags | MODEL_YZ_EXCHANGED,
        pixel_size=1.0,
        units=UNITS_NM,
        image_reference=reference,
    )
    write_model(path, model)
    content = told(capsys, path)
    assert content["shape_zyx"] == [60, 180, 200] and content["objects"][0]["slices"] == [10, 10]
    assert content["spacing_nm"] == [2.0, 2.0, 2.0] and content["origin_nm"] == [0.0, 0.0, 3.0]
    assert content["objects"][0]["remarks"] == []
    assert any("exchanged" in remark for remark in content["remarks"])
    assert any("1 nm, is not the 2 nm" in remark for remark in content["remarks"])


def test_real_models(shared_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    names = {}
    for path in sorted(shared_data("imod_models").glob("*.mod")):
        content = told(capsys, path)
        names[path.stem] = [(item["name"], item["meshes"]) for item in content["objects"]]
        assert main(["info", str(path)]) == 0
        assert capsys.readouterr().out.count("object ") == len(content["objects"])
    assert names["multiple_objects_example"] == [("", 0), ("chemo-array", 1), ("chemo-array", 1)]
    assert len(names) == 6


def test_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.zeros((20, 30, 40), np.uint16)
    data[2:8, 5:12, 5:15] = 3
    data[10:15, 5:12, 5:15] = 700
    path = tmp_path / "labels.mrc"
    write_labels(path, Labels(data, Grid(data.shape, 1.7)))
    content = told(capsys, path)
    assert content["kind"] == "labels" and content["voxels_of_id"] == {"3": 420, "700": 350}
    assert content["mean"] == pytest.approx(data.mean()) and content["sd"] == pytest.approx(data.std())
    assert (content["minimum"], content["maximum"]) == (0, 700) and content["remarks"] == []
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "2 labels" in text and "700  350 voxels" in text and "40 x 30 x 20 voxels" in text
    write_labels(path, Labels(np.repeat(np.arange(100), 8).reshape(10, 10, 8), Grid((10, 10, 8), 2.0)), overwrite=True)
    assert main(["info", str(path)]) == 0
    assert "and 75 more" in capsys.readouterr().out


def test_grey_values_are_no_labels(rng: np.random.Generator) -> None:
    counts = rng.poisson(3, (20, 30, 40))
    assert label_counts(counts.astype(np.uint16)) is None
    assert label_counts(counts.astype(np.float32)) is None
    assert label_counts(np.where(counts > 2, 0.5, 0.0)) is None
    assert label_counts(np.full((3, 4, 5), np.nan)) is None
    assert label_counts(-np.ones((3, 4, 5), np.int8)) is None
    assert label_counts(np.zeros((3, 4, 5), np.int8)) == {}


def test_tomogram(tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.mrc"
    data = rng.normal(100, 10, (30, 40, 50)).astype(np.int16)
    write_tomogram(path, data, Grid(data.shape, 2.0, (3.0, 2.0, 1.0)))
    content = told(capsys, path)
    assert content["kind"] == "grey values" and content["voxels_of_id"] is None
    assert content["voxel_nm"] == [2.0] * 3 and content["origin_nm"] == [3.0, 2.0, 1.0]
    assert content["mean"] == pytest.approx(data.mean()) and content["data_type"] == "int16"
    assert main(["info", str(path)]) == 0
    assert "1, 2, 3 nm (x, y, z)" in capsys.readouterr().out
    write_tomogram(path, data, Grid(data.shape, 90.0), overwrite=True)
    assert any("cannot be right" in remark for remark in told(capsys, path)["remarks"])


def test_every_bad_file_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = {name: path for name, (path, _) in bad_files(tmp_path).items()}
    write_model(tmp_path / "whole.mod", drawn_model())
    data = (tmp_path / "whole.mod").read_bytes()
    for length in (0, 5, 100, 300, len(data) - 4):
        files[f"cut {length}"] = tmp_path / f"cut_{length}.mod"
        files[f"cut {length}"].write_bytes(data[:length])
    files["gone"] = tmp_path / "gone.mod"
    wrong = {}
    for name, path in files.items():
        code = main(["info", str(path)])
        out, err = capsys.readouterr()
        # what is wrong with voxel sizes and values alone can be told
        described = code == 0 and "look at" in out and err == ""
        if not described and (code != 3 or out or err.count("\n") != 1 or not err.startswith("error: ")):
            wrong[name] = (code, out, err)
    assert wrong == {}


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = [Status.MANUAL, Status.REJECTED, Status.MANUAL]
    table = Vesicles.from_spheres(Grid((40, 40, 40), 2.5), np.full((3, 3), 20.0), [8.0, 9.0, 10.0], status=status)
    path = tmp_path / "v.csv"
    write_vesicles_csv(path, table)
    content = told(capsys, path)
    assert (content["rows"], content["voxel_nm"], content["radii_px"]) == (3, 2.5, [8.0, 10.0])
    assert content["rows_of_status"] == {"manual": 2, "rejected": 1}
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "2 manual, 1 rejected" in out and "8 to 10 px, 20 to 25 nm" in out
    path.write_text("z_vox,y_vox,x_vox,radius_vox\n1,2,3,4\n")
    content = told(capsys, path)
    assert content["voxel_nm"] is None and content["rows_of_status"] == {} and content["columns"] == 4


def test_what_is_understood_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of texts with comments, such as Pyto's tables, which models in ASCII form may start with."""
    (tmp_path / "pyto.dat").write_text("#\n# ids centres\n" + "1 2 3\n" * 40)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n" + bytes(2000))
    cases = {"pyto.dat": "a text file", "a.png": "a PNG picture", "gone.mrc": "does not exist", ".": "is a folder"}
    for name, words in cases.items():
        assert main(["info", str(tmp_path / name)]) == 3
        err = capsys.readouterr().err
        assert words in err and "a tomogram or label volume (.mrc), or a table of vesicles (.csv)" in err
    ascii_model = tmp_path / "model.txt"
    ascii_model.write_text("# imod ascii file version 2.0\n" + "# a comment\n" * 80 + "imod 0\nmax 10 10 10\n")
    assert main(["info", str(ascii_model)]) == 0
