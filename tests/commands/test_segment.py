"""`deepvesicle segment` and `deepvesicle phantom` as a user runs them; the network's part is replaced by a mask."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from deepvesicle.commands.main import main
from deepvesicle.commands.segment import stem_of
from deepvesicle.files.imod import read_vesicles_model
from deepvesicle.files.run_record import read_run_record
from deepvesicle.files.tables import read_vesicles_csv
from deepvesicle.files.tomogram import read_labels, read_tomogram, write_probability, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Probability
from deepvesicle.network.patches import occupancy
from deepvesicle.network.unet import UNetShape, build_unet
from deepvesicle.network.zoo import save_network
from deepvesicle.settings import LabelSettings, RefinementSettings, Settings
from deepvesicle.spheres import inside_fractions
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import Contour, Model, Object, write_model


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom written by the program, a mask of its vesicles, and an untrained model."""
    folder = tmp_path_factory.mktemp("sample")
    arguments = ["phantom", "-o", str(folder), "--shape", "56", "96", "112", "--contrast", "1.0", "--seed", "4"]
    assert main([*arguments, "--max-tilt", "60"]) == 0
    tomogram = read_tomogram(folder / "phantom_synapse_4.mrc")
    truth = read_vesicles_csv(folder / "phantom_synapse_4_truth.csv", tomogram.grid)
    mask = occupancy(truth, tomogram.grid)
    write_probability(folder / "mask.mrc", Probability(mask, tomogram.grid))
    shape = UNetShape(1, 2)
    save_network(folder / "model", build_unet(shape), shape, voxel_nm=2.2, threshold=0.5, card="untrained")
    return folder


def _run(sample: Path, output: Path, *more: str) -> int:
    return main(
        [
            "segment",
            str(sample / "phantom_synapse_4.mrc"),
            "-o",
            str(output),
            "--model",
            str(sample / "model"),
            "--from-probability",
            str(sample / "mask.mrc"),
            *more,
        ]
    )


def test_all_results_agree_with_one_another(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(sample, tmp_path, "--save-probability") == 0
    printed = capsys.readouterr().out
    stem = "phantom_synapse_4"
    tomogram = read_tomogram(sample / f"{stem}.mrc")
    table = read_vesicles_csv(tmp_path / f"{stem}_vesicles.csv", tomogram.grid)
    model = read_vesicles_model(tmp_path / f"{stem}_vesicles.mod", tomogram.grid)
    labels = read_labels(tmp_path / f"{stem}_labels.mrc", tomogram.grid)
    record = read_run_record(tmp_path / f"{stem}_run.json")
    assert table.accepted.sum() > 5
    assert f"{table.accepted.sum()} vesicles" in printed
    assert sorted(model.ids) == sorted(table.ids)
    rows = {int(i): k for k, i in enumerate(model.ids)}
    order = [rows[int(i)] for i in table.ids]
    np.testing.assert_allclose(model.centres_vox[order], table.centres_vox, atol=1e-4)
    np.testing.assert_allclose(model.radii_vox[order], table.radii_vox, atol=1e-4)
    assert set(np.unique(labels.data)) - {0} == set(table.ids[table.accepted])
    for identity, centre in zip(table.ids[table.accepted], table.centres_vox[table.accepted], strict=True):
        place = tuple(np.rint(centre).astype(int))
        if all(0 <= p < n for p, n in zip(place, labels.data.shape, strict=True)):
            assert labels.data[place] == identity
    assert record.counts["refined"] + record.counts["doubtful"] == table.accepted.sum()
    assert record.voxel_nm == pytest.approx(2.2) and record.inputs["tomogram"].sha256
    with mrcfile.open(tmp_path / f"{stem}_labels.mrc") as file:
        assert float(file.voxel_size.x) == pytest.approx(22.0)
        assert file.header.mode == 6
    assert (tmp_path / f"{stem}_overview.png").stat().st_size > 10_000
    assert json.loads((tmp_path / f"{stem}_run.json").read_text())["command"] == "segment"


def test_existing_results_are_safe(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(sample, tmp_path) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert _run(sample, tmp_path) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert _run(sample, tmp_path, "--overwrite") == 0
    table = "phantom_synapse_4_vesicles.csv"
    assert (tmp_path / table).read_bytes() == before[table]  # the same input gives the same table


def test_network_is_run_where_no_mask_is_given(sample: Path, tmp_path: Path) -> None:
    arguments = [
        "segment",
        str(sample / "phantom_synapse_4.mrc"),
        "-o",
        str(tmp_path),
        "--model",
        str(sample / "model"),
    ]
    arguments += ["--threshold", "0.999", "--save-probability"]
    assert main(arguments) == 0
    probability = tmp_path / "phantom_synapse_4_probability.mrc"
    with mrcfile.open(probability) as file:
        assert file.data.shape == (56, 96, 112)
        assert 0 <= file.data.min() and file.data.max() <= 1
        plain = file.data.copy()
    record = tmp_path / "phantom_synapse_4_run.json"
    assert read_run_record(record).settings["prediction"]["augment"] == 1
    assert main([*arguments, "--views", "2", "--overwrite"]) == 0
    assert read_run_record(record).settings["prediction"]["augment"] == 2
    with mrcfile.open(probability) as file:
        assert 0.001 < np.abs(file.data - plain).mean() < 0.5  # another mean, of the same vesicles


def test_mask_of_labels_limits_the_result(sample: Path, tmp_path: Path) -> None:
    tomogram = read_tomogram(sample / "phantom_synapse_4.mrc")
    half = np.zeros(tomogram.grid.shape_zyx, dtype=np.uint16)
    half[:, :, :56] = 1
    write_tomogram(tmp_path / "half.mrc", half, tomogram.grid)
    assert _run(sample, tmp_path, "--mask", str(tmp_path / "half.mrc")) == 0
    table = read_vesicles_csv(tmp_path / "phantom_synapse_4_vesicles.csv", tomogram.grid)
    assert table.accepted.any() and np.all(table.centres_vox[table.accepted, 2] <= 55.5)


def test_outline_drawn_in_imod_limits_the_result(sample: Path, tmp_path: Path) -> None:
    grid = read_tomogram(sample / "phantom_synapse_4.mrc").grid
    # contours on the lowest and the highest slice, as drawn in 3dmod: x from 0 to 56, all of y
    corners = np.array([[0.0, 0.0], [56.0, 0.0], [56.0, 96.0], [0.0, 96.0]])
    contours = tuple(Contour(np.column_stack([corners, np.full(4, z)])) for z in (0.0, 55.0))
    write_model(tmp_path / "cell.mod", Model((Object("cell", contours),)))
    assert _run(sample, tmp_path, "--mask", str(tmp_path / "cell.mod")) == 0
    table = read_vesicles_csv(tmp_path / "phantom_synapse_4_vesicles.csv", grid)
    assert table.accepted.any() and np.all(table.centres_vox[table.accepted, 2] <= 55.5)
    assert any("outside the mask" in reason for reason in table.reasons)


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--min-radius", "30", "--max-radius", "20"), 2, "--min-radius"),
        (("--threshold", "1.5"), 2, "--threshold"),
        (("--model", "no_such_model"), 3, "no_such_model"),
        (("--mask", "no_such.mod"), 3, "no_such.mod"),
        (("--settings", "no_such.toml"), 3, "no_such.toml"),
        (("--voxel-size", "0.01"), 2, "--voxel-size"),
        (("--from-probability", "no_such.mrc"), 3, "no_such.mrc"),
        (("--tilt-range", "60"), 2, "--tilt-range"),
        (("--tilt-range", "60,-60"), 2, "--tilt-range"),
        (("--tilt-range", "-60,abc"), 2, "--tilt-range"),
        (("--tilt-range", "-60,95"), 2, "--tilt-range"),
        (("--tilt-range", "nan,60"), 2, "--tilt-range"),
        (("--tilt-axis", "z"), 2, "--tilt-axis"),
        (("--gap", "-1"), 2, "--gap"),
        (("--views", "3"), 2, "--views"),
        (("--views", "0"), 2, "--views"),
    ],
)
def test_wrong_options_end_with_one_line_and_nothing_written(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: int, word: str
) -> None:
    output = tmp_path / "out"
    assert _run(sample, output, *options) == code
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    assert len(errors) == 1 and word in errors[0]
    assert not output.exists() or not list(output.iterdir())


def test_settings_file(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[proposal]\nmin_radius_nm = 25.0\n")
    assert _run(sample, tmp_path / "a", "--settings", str(path)) == 0
    record = read_run_record(tmp_path / "a" / "phantom_synapse_4_run.json")
    assert record.settings["proposal"]["min_radius_nm"] == 25.0
    path.write_text("[proposal]\nmin_radius = 25.0\n")
    capsys.readouterr()
    assert _run(sample, tmp_path / "b", "--settings", str(path)) == 3
    assert "min_radius_nm" in capsys.readouterr().err


@pytest.fixture(scope="module")
def plain_run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with no options."""
    folder = tmp_path_factory.mktemp("plain")
    assert _run(sample, folder) == 0
    return folder


@pytest.fixture(scope="module")
def full_run(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a gap, ellipsoids, and tilts that are not those of the tomogram."""
    folder = tmp_path_factory.mktemp("full")
    assert _run(sample, folder, "--gap", "2", "--ellipsoid", "--tilt-range", "-50,62.5", "--tilt-axis", "x") == 0
    return folder


def _table(folder: Path, sample: Path) -> Vesicles:
    grid = read_tomogram(sample / "phantom_synapse_4.mrc").grid
    return read_vesicles_csv(folder / "phantom_synapse_4_vesicles.csv", grid)


def test_a_gap_is_left_between_labels(sample: Path, full_run: Path) -> None:
    labels = read_labels(full_run / "phantom_synapse_4_labels.mrc").data
    table = _table(full_run, sample)
    np.testing.assert_array_equal(labels, rasterize(table, gap_vox=2).data)
    assert np.any(labels != rasterize(table).data)  # some are near one another
    record = read_run_record(full_run / "phantom_synapse_4_run.json")
    assert record.settings["labels"]["gap_vox"] == 2


def test_the_tilts_that_were_used_are_in_the_record(plain_run: Path, full_run: Path) -> None:
    record = read_run_record(plain_run / "phantom_synapse_4_run.json")
    (note,) = record.notes
    found = re.fullmatch(r"tilt range (-?\d+) to (\d+) degrees, estimated from the tomogram", note)
    assert found is not None and record.settings["refinement"]["tilt_range_deg"] is None
    assert abs(int(found[1]) + 60) <= 3 and abs(int(found[2]) - 60) <= 3
    assert not any("wedge" in warning for warning in record.warnings)
    record = read_run_record(full_run / "phantom_synapse_4_run.json")
    assert record.notes == ("tilt range -50 to 62.5 degrees, as given",)
    assert record.settings["refinement"]["tilt_range_deg"] == [-50.0, 62.5]
    assert record.settings["refinement"]["tilt_axis"] == "x"
    assert "the missing wedge seems to lie about the y axis: give --tilt-axis y" in record.warnings


def test_vesicles_that_the_border_cuts_are_told_apart(sample: Path, plain_run: Path) -> None:
    table = _table(plain_run, sample)
    cut, faces = table.features["cut"], np.array(table.grid.shape_zyx) - 0.5
    radii = table.radii_vox[:, None]
    outside = np.maximum(-0.5 - (table.centres_vox - radii), table.centres_vox + radii - faces)
    depth = outside.max(axis=1) / table.radii_vox
    assert set(cut) == {0.0, 1.0}
    assert np.all(cut[depth <= 0] == 0) and np.all(cut[depth > 0.1] == 1)
    kept = table.accepted & (cut == 1)
    # At least half, as far as the fit can tell.
    assert np.all(inside_fractions(table.grid, table.centres_vox[kept], table.radii_vox[kept]) >= 0.35)


def test_ellipsoids_on_request(sample: Path, plain_run: Path, full_run: Path) -> None:
    assert "eccentricity" not in _table(plain_run, sample).features
    table = _table(full_run, sample)
    assert np.isfinite(table.features["eccentricity"][table.has_status(Status.REFINED)]).mean() > 0.8
    record = read_run_record(full_run / "phantom_synapse_4_run.json")
    assert record.settings["refinement"]["ellipsoid"] is True


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[refinement]\ntilt_range_deg = [60, -60]\n", "tilt_range_deg"),
        ("[refinement]\ntilt_range_deg = [-60, 120]\n", "tilt_range_deg"),
        ("[refinement]\ntilt_range_deg = 60\n", "2 values"),
        ("[refinement]\ntilt_range_deg = ['a', 'b']\n", "a number"),
        ("[refinement]\ntilt_axis = 'z'\n", "y or x"),
        ("[labels]\ngap_vox = -2\n", "gap_vox"),
        ("[labels]\ngap_vox = 1.5\n", "gap_vox"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, word: str
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    assert _run(sample, tmp_path / "out", "--settings", str(path)) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and word in error and "settings.toml" in error


def test_settings_come_back_from_a_record() -> None:
    for refinement in (RefinementSettings(), RefinementSettings(tilt_range_deg=(-50.0, 62.5), tilt_axis="x")):
        settings = Settings(refinement=refinement, labels=LabelSettings(gap_vox=3))
        assert Settings.from_dict(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.mrc", "a"), ("a.b.rec", "a.b"), ("t1.mrc.gz", "t1"), ("cell.nad", "cell"), ("x", "x"), (".mrc", ".mrc")],
)
def test_stems(name: str, stem: str) -> None:
    assert stem_of(Path("folder") / name) == stem


@pytest.mark.parametrize(
    "options",
    [
        ("--kind", "brain"),
        ("--shape", "4", "90", "90"),
        ("--voxel-size", "90"),
        ("--contrast", "-1"),
        ("--max-tilt", "2"),
    ],
)
def test_absurd_phantoms_are_refused(
    tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", "-o", str(tmp_path / "out"), *options]) == 2
    assert options[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--gap", "50"),
        ("--gap", "1000000000"),
        ("--tilt-range", "10,11"),
        ("--max-radius", "inf"),
        ("--precision", "fp64"),
    ],
)
def test_values_beyond_reason_are_refused_before_the_work(
    sample: Path, tmp_path: Path, arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(sample / "phantom_synapse_4.mrc"), "-o", str(tmp_path), *arguments]) == 2
    told = capsys.readouterr().err
    assert arguments[0] in told and arguments[1] in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "[prediction]\nthreads = -4\n",
        "[prediction]\ntile_vox = 9\n",
        "[prediction]\nprecision = 'fp64'\n",
        "[prediction]\naugment = 3\n",
        "[outliers]\ndoubtful_p = nan\n",
        "[outliers]\nrejected_score = -3\n",
        "[proposal]\nmin_inside_fraction = 3\n",
        "[refinement]\nmax_iterations = -1\n",
    ],
)
def test_settings_beyond_reason_are_refused(
    sample: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    assert main(["segment", str(sample / "phantom_synapse_4.mrc"), "-o", str(tmp_path), "--settings", str(file)]) == 3
    group, name = text.split("\n")[0].strip("[]"), text.split("\n")[1].split(" ")[0]
    assert f"{group}.{name}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]
