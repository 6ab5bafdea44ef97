"""`deepvesicle stats` as a user runs it: every kind of file for vesicles, outline and active zone; what is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.files.run_record import read_run_record
from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import write_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid, Labels
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.coordinates import index_to_model
from imod_bridge.model import FLAG_OPEN, SCATTERED_OBJECT, UNITS_NM, Contour, Model, Object, read_model, write_model

GRID = Grid((60, 90, 210), 1.9, (2.0, 7.0, -3.0))
#: A row along x; the last but one is cut by a face, the one before is nearer to one than to its neighbour, the last is
#: rejected.
CENTRES = np.array([[30, 45, 30], [30, 45, 60.5], [30, 45, 90], [30, 45, 140], [30, 84, 180], [30, 20, 120.0]])
RADII = np.array([9.0, 10.0, 9.5, 11.0, 10.0, 9.0])
STATUS = (*(Status.REFINED,) * 3, Status.MANUAL, Status.DOUBTFUL, Status.REJECTED)
TABLE = Vesicles.from_spheres(GRID, CENTRES, RADII, status=STATUS)
#: The active zone is the plane x = 10.
ZONE_NM = (CENTRES[:5, 2] - 10 - RADII[:5]) * 1.9


def saved(path: Path, *objects: Object) -> None:
    write_model(path, Model(objects=objects, image_size=(210, 90, 60), pixel_size=1.9, units=UNITS_NM))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vesicles as table, model and labels, the tomogram, active zone and outline (x below 115) in both kinds."""
    folder = tmp_path_factory.mktemp("sample")
    write_tomogram(folder / "tomo.mrc", np.zeros(GRID.shape_zyx, np.int8) + np.arange(210).astype(np.int8), GRID)
    write_vesicles_csv(folder / "v.csv", TABLE)
    write_vesicles_model(folder / "v.mod", TABLE)
    labels = np.array(rasterize(TABLE).data)
    write_labels(folder / "v.mrc", Labels(labels, GRID))
    lines = [index_to_model(np.array([[z, -20, 10], [z, 110, 10]])) for z in (0.0, 15, 30, 45, 59)]
    zone = Object(name="az", contours=tuple(map(Contour, lines)), flags=FLAG_OPEN)
    corners = np.array([[-1.0, -1.0], [-1.0, 114.5], [91.0, 114.5], [91.0, -1.0]])
    edges = [index_to_model(np.column_stack([np.full(4, float(z)), corners])) for z in range(60)]
    cell = Object(name="cell", contours=tuple(map(Contour, edges)))
    saved(folder / "drawn.mod", zone, cell)
    theirs = Contour(index_to_model(CENTRES[:5]), RADII[:5])
    saved(folder / "people.mod", zone, Object(name="v", contours=(theirs,), flags=SCATTERED_OBJECT), cell)
    write_model(
        folder / "ours.mod",
        Model(
            objects=(*read_model(folder / "v.mod").objects, zone),
            image_size=(210, 90, 60),
            pixel_size=1.9,
            units=UNITS_NM,
        ),
    )
    regions = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    regions[:, :, 11:115], regions[:, :, 115:], regions[:, :, 8:11] = 3, 4, 5
    write_labels(folder / "regions.mrc", Labels(regions, GRID))
    labels[:, :, 8:11] = 50
    write_labels(folder / "both.mrc", Labels(labels, GRID))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    assert main(["stats", *map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def check(figures: dict[str, Any], tolerance: float = 0.02) -> None:
    """The numbers that follow from `CENTRES` and `RADII`, lengths to a tolerance in nm."""
    radii = 1.9 * RADII[:5]
    gaps = 1.9 * np.array([11.5, 10, 10, 29.5, np.hypot(39, 40) - 21])
    assert figures["number"] == figures["radius_number"] == figures["nearest_number"] == 5
    assert figures["radius_mean_nm"] == pytest.approx(radii.mean(), abs=tolerance)
    assert figures["radius_sd_nm"] == pytest.approx(radii.std(ddof=1), abs=tolerance)
    assert figures["radius_median_nm"] == pytest.approx(np.median(radii), abs=tolerance)
    assert figures["nearest_mean_nm"] == pytest.approx(gaps.mean(), abs=tolerance)
    assert (figures["outside"], figures["cut"], figures["nearest_near_face"]) == (0, 1, 2)


def check_zone(figures: dict[str, Any], tolerance: float = 0.03) -> None:
    assert figures["active_zone_mean_nm"] == pytest.approx(ZONE_NM.mean(), abs=tolerance)
    assert figures["active_zone_least_nm"] == pytest.approx(ZONE_NM.min(), abs=tolerance)
    counts = [figures[f"within_{limit}_nm"] for limit in (45, 75, 150, 250)]
    assert counts == [1, 1, 3, 4]
    assert figures["share_within_150_nm"] == pytest.approx(0.6)


@pytest.mark.parametrize("zone", ["drawn.mod:az", "drawn.mod:1"])
@pytest.mark.parametrize("vesicles", ["v.csv", "v.mod"])
def test_tables_and_models(sample: Path, capsys: pytest.CaptureFixture[str], vesicles: str, zone: str) -> None:
    figures = run(capsys, sample / vesicles, "--tomogram", sample / "tomo.mrc", "--active-zone", sample / zone)
    check(figures)
    check_zone(figures)
    assert figures["density_per_um3"] is None and figures["warnings"] == []


def test_the_zone_model_tells_the_size(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(capsys, sample / "v.csv", "--active-zone", f"{sample}/drawn.mod:az")
    check(figures)
    check_zone(figures)


def test_label_volumes(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spheres are fitted to labels; the surface of a label is half a voxel within its edge."""
    figures = run(capsys, sample / "v.mrc", "--active-zone", f"{sample}/regions.mrc:5")
    assert figures["number"] == 5
    assert figures["radius_mean_nm"] == pytest.approx(1.9 * RADII[:5].mean(), abs=0.5)
    assert figures["active_zone_mean_nm"] == pytest.approx(ZONE_NM.mean(), abs=0.6)
    table = run(capsys, sample / "v.csv", "--active-zone", f"{sample}/regions.mrc:5")
    check(table)
    check_zone(table)


@pytest.mark.parametrize("outline", ["drawn.mod:cell", "regions.mrc:3"])
def test_number_density(sample: Path, capsys: pytest.CaptureFixture[str], outline: str) -> None:
    figures = run(capsys, sample / "v.csv", "--tomogram", sample / "tomo.mrc", "--outline", sample / outline)
    columns = 115 if "mod" in outline else 104
    volume = 60 * 90 * columns * 1.9e-3**3
    assert (figures["number"], figures["outside"]) == (3, 2)
    assert figures["outline_um3"] == pytest.approx(volume)
    assert figures["density_per_um3"] == pytest.approx(3 / volume)
    assert figures["nearest_mean_nm"] == pytest.approx(1.9 * 31.5 / 3)


def test_zone_and_outline_in_the_file_of_the_vesicles(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = f"{sample}/people.mod"
    figures = run(capsys, file, "--active-zone", f"{file}:az", "--outline", f"{file}:cell")
    assert (figures["number"], figures["outside"], figures["within_150_nm"]) == (3, 2, 3)
    check_zone(run(capsys, f"{file}:v", "--active-zone", f"{file}:az"))
    check_zone(run(capsys, f"{sample}/ours.mod", "--active-zone", f"{sample}/ours.mod:az"))
    check_zone(run(capsys, f"{sample}/ours.mod", "--active-zone", f"{sample}/ours.mod"))
    figures = run(capsys, f"{sample}/both.mrc", "--active-zone", f"{sample}/both.mrc:50")
    assert figures["number"] == 5 and figures["active_zone_mean_nm"] == pytest.approx(ZONE_NM.mean(), abs=0.6)
    for name in ("people.mod", "both.mrc"):
        assert main(["stats", f"{sample}/{name}", "--active-zone", f"{sample}/{name}"]) == 2
        assert "meant" in capsys.readouterr().err


def test_an_outline_of_labels_must_hold_the_vesicles(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Pyto has it: 2 is the membrane, 3 the cytosol without the vesicles in it."""
    labels = np.array(rasterize(TABLE).data) * 10
    labels[:, :, 2:120] = np.where(labels[:, :, 2:120] == 0, 3, labels[:, :, 2:120])
    labels[:, :, 8:11], labels[:, :, :2] = 2, 0
    labels[:, :, 120:] = 0
    write_labels(tmp_path / "pyto.mrc", Labels(labels, GRID))
    file = f"{tmp_path}/pyto.mrc"
    figures = run(capsys, f"{file}:10,20,30", "--outline", file, "--active-zone", f"{file}:2")
    assert (figures["number"], figures["within_150_nm"]) == (3, 3)
    assert figures["outline_um3"] == pytest.approx(60 * 90 * 118 * 1.9e-3**3)
    figures = run(capsys, f"{file}:10,20,30", "--outline", f"{file}:3", "--active-zone", f"{file}:2")
    assert figures["number"] == 0 and any("without a label" in note for note in figures["warnings"])


def test_without_a_volume(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(capsys, sample / "v.csv")
    assert figures["number"] == 5 and figures["cut"] is None and figures["nearest_near_face"] is None
    assert len(figures["warnings"]) == 1 and "--tomogram" in figures["warnings"][0]


def test_voxel_size(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(capsys, sample / "v.mod", "--voxel-size", 3.8)
    assert figures["voxel_nm"] == 3.8 and figures["radius_mean_nm"] == pytest.approx(3.8 * RADII[:5].mean())
    (tmp_path / "bare.csv").write_text("z_vox,y_vox,x_vox,radius_vox\n30,45,30,9\n")
    assert main(["stats", f"{tmp_path}/bare.csv"]) == 2
    assert "--voxel-size" in capsys.readouterr().err
    figures = run(capsys, tmp_path / "bare.csv", "--voxel-size", 2)
    assert figures["radius_mean_nm"] == 18 and figures["radius_sd_nm"] is None and figures["nearest_mean_nm"] is None
    arguments = ["stats", f"{tmp_path}/bare.csv", "--voxel-size", "2", "--active-zone"]
    (tmp_path / "az.csv").write_text("z_vox,y_vox,x_vox,radius_vox\n30,45,30,9\n")
    assert main([*arguments, f"{tmp_path}/az.csv"]) == 2
    assert "--tomogram" in capsys.readouterr().err


def test_text(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tomogram", f"{sample}/tomo.mrc", "--active-zone", f"{sample}/drawn.mod:az"]
    assert main(["stats", f"{sample}/v.csv", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 vesicles" and "1 cut by a face" in lines[1]
    assert lines[3].split()[:5] == ["radius", "5", "18.81", "1.41", "19.00"]
    assert any(line.split() == ["within", "150", "nm", "3", "60.0", "%"] for line in lines)
    assert main(["stats", f"{sample}/v.csv", *arguments, "--outline", f"{sample}/drawn.mod:cell"]) == 0
    out = capsys.readouterr().out
    assert "2 vesicles centred outside not counted" in out and "per um^3" in out


def test_everything_is_written_and_nothing_replaced(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["stats", f"{sample}/v.csv", "--active-zone", f"{sample}/drawn.mod:az", "-o", f"{tmp_path}/out"]
    assert main(arguments) == 0
    assert "v_statistics.png" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(before) == {f"v_statistics.{ending}" for ending in ("csv", "png", "json")}
    assert before["v_statistics.png"].startswith(b"\x89PNG")
    with open(tmp_path / "out" / "v_statistics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["active_zone_nm"]) for row in rows], ZONE_NM, atol=0.03)
    assert [row["cut"] for row in rows] == ["0", "0", "0", "0", "1"]
    record = read_run_record(tmp_path / "out" / "v_statistics.json")
    assert record.counts["number"] == 5 and set(record.inputs) == {"vesicles", "active_zone"}
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert main([*arguments, "--overwrite", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["number"] == 5 and "wrote" in err


def test_no_vesicles(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vesicles_csv(tmp_path / "none.csv", Vesicles.empty(GRID))
    arguments = ["--tomogram", f"{sample}/tomo.mrc", "--active-zone", f"{sample}/drawn.mod:az", "-o", f"{tmp_path}/o"]
    arguments += ["--outline", f"{sample}/drawn.mod:cell"]
    assert main(["stats", f"{tmp_path}/none.csv", *arguments]) == 0
    out, err = capsys.readouterr()
    assert "holds no vesicles" in err and out.startswith("0 vesicles") and " 0.0 per um^3" in out


@pytest.mark.parametrize(
    ("zone", "code", "said"),
    [
        ("drawn.mod:nothing", 3, "nothing"),
        ("regions.mrc:9", 3, "label 9"),
        ("regions.mrc:x", 3, "'x'"),
        ("v.csv", 2, "is a table"),
        ("missing.mod", 3, "missing.mod"),
    ],
)
def test_what_is_wrong_is_one_line(
    sample: Path, capsys: pytest.CaptureFixture[str], zone: str, code: int, said: str
) -> None:
    arguments = ["stats", f"{sample}/v.mod", "--tomogram", f"{sample}/tomo.mrc", "--active-zone", f"{sample}/{zone}"]
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert said in err and err.startswith("error:") and err.count("\n") == 1


def test_a_zone_without_a_name_is_all_that_is_drawn(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(capsys, sample / "v.csv", "--active-zone", sample / "drawn.mod")
    assert any("'az', 'cell'" in note for note in figures["warnings"])


def test_distances_are_those_of_pyto(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of real vesicles to a real membrane; Pyto measures from voxels of the vesicle, up to half a voxel within."""
    data = Path(__file__).parents[2].parent / "shared" / "data" / "pyto_presynaptic"
    if not data.exists():
        pytest.skip("no labels of Pyto here")
    lines = [line.split() for line in (data / "tomo_vesicles.dat").read_text().splitlines() if line[:1] == " "]
    pyto = {int(cells[0]): float(cells[16]) for cells in lines if len(cells) > 20}
    assert len(pyto) == 9
    labels = f"{data}/labels.mrc.gz"
    names = ",".join(map(str, pyto))
    arguments = [f"{labels}:{names}", "--active-zone", f"{labels}:2", "--voxel-size", 1.684, "-o", tmp_path / "out"]
    assert run(capsys, *arguments)["number"] == 9
    with open(tmp_path / "out" / "labels_statistics.csv", newline="") as file:
        ours = {int(row["id"]): float(row["active_zone_nm"]) / 1.684 for row in csv.DictReader(file)}
    np.testing.assert_allclose([ours[i] for i in pyto], list(pyto.values()), atol=0.5)
