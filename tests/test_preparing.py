"""From what was drawn to a dataset: what is stored, what is said of it, and what a failure leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepvesicle import preparing
from deepvesicle.annotations.choosing import Choice
from deepvesicle.errors import BadInputError, DatasetError, ModelFileError, OutputExistsError, TableError, UsageError
from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.files.tables import write_vesicles_csv
from deepvesicle.files.tomogram import write_labels, write_tomogram
from deepvesicle.fitting.rasterize import rasterize
from deepvesicle.grid import Grid, Labels, Tomogram
from deepvesicle.network.dataset import read_dataset
from deepvesicle.preparing import default_name, inside, prepare_volume, refit
from deepvesicle.vesicles import Status, Vesicles
from imod_bridge.model import Object
from tests.shells import GRID, box, contours, spheres, tomogram_of, write_drawn, write_shells

TRUTH = spheres()
TRUTH = TRUTH.replace(status=[Status.MANUAL] * len(TRUTH))


@pytest.fixture(scope="module")
def tomogram(tmp_path_factory: pytest.TempPathFactory) -> Tomogram:
    return write_shells(tmp_path_factory.mktemp("tomogram") / "t.mrc", TRUTH)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    return write_drawn(tmp_path / "drawn.mod", Object("SV", contours(TRUTH)))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def nearest(found: Vesicles, truth: Vesicles) -> np.ndarray:
    """The true row of each found one."""
    return np.linalg.norm(found.centres_vox[:, None] - truth.centres_vox, axis=2).argmin(axis=1)


def test_dataset_holds_what_was_drawn(tmp_path: Path, tomogram: Tomogram, drawn: Path) -> None:
    prepared = prepare_volume(tomogram, [drawn], tmp_path / "data", "a", Choice(), voxel_nm=2.6)
    assert prepared.warnings == () and prepared.refined is None
    (volume,) = read_dataset(tmp_path / "data").volumes
    assert volume.name == "a" and volume.grid.voxel_nm == 2.6 and len(volume.vesicles) == len(TRUTH)
    rows = nearest(prepared.annotation.vesicles, TRUTH)
    assert sorted(rows) == list(range(len(TRUTH)))
    assert np.abs(volume.vesicles.radii_nm - TRUTH.radii_nm[rows]).max() < 0.25 * GRID.voxel_nm
    mask = volume.mask() / 255
    expected = 4 / 3 * np.pi * (TRUTH.radii_nm**3).sum() / 2.6**3
    assert mask.sum() == pytest.approx(expected, rel=0.02)
    middles = np.rint(volume.grid.to_vox(GRID.to_nm(TRUTH.centres_vox))).astype(int)
    assert (mask[tuple(middles.T)] == 1).all()
    assert volume.annotated().all()
    # dense is dark, and it is about the vesicles
    grey = volume.grey().astype(float)
    assert grey[mask > 0.5].mean() < grey[mask == 0].mean() - 0.1


def test_manifest_tells_where_it_comes_from(tmp_path: Path, tomogram: Tomogram, drawn: Path) -> None:
    prepare_volume(tomogram, [drawn], tmp_path / "data", "a", Choice(vesicles=("SV",)))
    entry = json.loads((tmp_path / "data" / "manifest.json").read_text())["volumes"]["a"]
    assert entry["tomogram"]["path"] == str(tomogram.path) and len(entry["tomogram"]["sha256"]) == 64
    assert [item["path"] for item in entry["annotations"]] == [str(drawn)]
    assert entry["options"] == {"vesicles": ["SV"]} and entry["limited"] is False
    assert entry["median_radius_nm"] == pytest.approx(np.median(TRUTH.radii_nm), abs=0.2)
    assert entry["shell_contrast"] > 0.5 and entry["tomogram_grid"]["voxel_nm"] == 2.0


def test_outline_limits_what_is_annotated(tmp_path: Path, tomogram: Tomogram) -> None:
    cell = Object("cell", box((20, 100), (30, 110), (10, 40)))
    path = write_drawn(tmp_path / "drawn.mod", Object("SV", contours(TRUTH)), cell)
    beside = write_drawn(tmp_path / "cell.mod", cell)
    results = []
    for number, (paths, choice) in enumerate(
        (
            ([path], Choice(outline=("cell",))),
            ([path], Choice(vesicles=("1",), outline=("2",))),
            ([path, beside], Choice(vesicles=("SV",), outline=("cell",))),
            ([path], Choice(vesicles=("SV",), masks=((beside, None),))),
            ([path], Choice(vesicles=("SV",), masks=((path, "cell"),))),
        )
    ):
        prepared = prepare_volume(tomogram, paths, tmp_path / str(number), "a", choice, voxel_nm=2.0)
        (volume,) = read_dataset(tmp_path / str(number)).volumes
        results.append((volume.annotated(), volume.vesicles.radii_vox))
        within = inside(prepared.annotation.vesicles, prepared.annotation.region)
        z, y, x = prepared.annotation.vesicles.centres_vox.T
        expected = (z > 9.5) & (z < 40.5) & (y > 20) & (y < 100) & (x > 30) & (x < 110)
        clear = np.abs(np.stack([z - 9.5, z - 40.5, y - 20, y - 100, x - 30, x - 110])).min(axis=0) > 0.6
        assert (within == expected)[clear].all() and 3 < within.sum() < len(TRUTH)
    annotated = results[0][0]
    assert annotated[10:41, 21:99, 31:109].all() and annotated.sum() == pytest.approx(31 * 80 * 80, rel=0.02)
    for other, radii in results[1:]:
        assert np.array_equal(other, annotated) and np.allclose(radii, results[0][1])


def test_labels_and_models_together(tmp_path: Path, tomogram: Tomogram) -> None:
    half = np.arange(len(TRUTH)) % 2 == 0
    write_labels(tmp_path / "labels.mrc", rasterize(TRUTH.select(half)))
    write_labels(tmp_path / "empty.mrc", rasterize(Vesicles.empty(GRID)))
    model = write_drawn(tmp_path / "rest.mod", Object("SV", contours(TRUTH.select(~half))))
    paths = [tmp_path / "labels.mrc", model, tmp_path / "empty.mrc"]
    prepared = prepare_volume(tomogram, paths, tmp_path / "data", "a", Choice())
    assert prepared.warnings == (f"{paths[2]} says nothing of vesicles",)
    found = prepared.annotation.vesicles
    rows = nearest(found, TRUTH)
    assert sorted(rows) == list(range(len(TRUTH)))
    assert np.abs(found.radii_vox - TRUTH.radii_vox[rows]).max() < 0.25


def test_tables(tmp_path: Path, tomogram: Tomogram) -> None:
    """Rejected and proposed rows are background, as in models; what is outside is left out and told."""
    status = [Status.REFINED, Status.MANUAL, Status.DOUBTFUL, Status.REJECTED, Status.PROPOSED] * 5
    table = TRUTH.replace(status=status[: len(TRUTH)])
    write_vesicles_csv(tmp_path / "v.csv", table)
    prepared = prepare_volume(tomogram, [tmp_path / "v.csv"], tmp_path / "data", "a", Choice())
    found = prepared.annotation.vesicles
    assert prepared.warnings == () and found.has_status(Status.MANUAL).all()
    wanted = table.select(table.accepted)
    assert found.ids.tolist() == wanted.ids.tolist() and np.array_equal(found.centres_vox, wanted.centres_vox)
    lines = [f"{z},{y},{x},{r}" for (z, y, x), r in zip(TRUTH.centres_vox, TRUTH.radii_vox, strict=True)]
    theirs = tmp_path / "theirs.csv"
    theirs.write_text("\n".join(["z_vox,y_vox,x_vox,radius_vox", *lines, "10,10,-40,9"]))
    prepared = prepare_volume(tomogram, [theirs], tmp_path / "theirs", "a", Choice())
    assert len(prepared.annotation.vesicles) == len(TRUTH)
    assert any(f"1 vesicle wholly outside the tomogram, left out: id {len(TRUTH) + 1}" in w for w in prepared.warnings)
    other = Grid(GRID.shape_zyx, 1.1)
    write_vesicles_csv(tmp_path / "other.csv", Vesicles.from_spheres(other, TRUTH.centres_vox, TRUTH.radii_vox))
    with pytest.raises(TableError, match="another tomogram"):
        prepare_volume(tomogram, [tmp_path / "other.csv"], tmp_path / "data", "b", Choice())


def test_labels_of_another_voxel_size_are_told(tmp_path: Path, tomogram: Tomogram) -> None:
    labels = rasterize(TRUTH)
    write_labels(tmp_path / "labels.mrc", Labels(labels.data, Grid(GRID.shape_zyx, 1.0)))
    prepared = prepare_volume(tomogram, [tmp_path / "labels.mrc"], tmp_path / "data", "a", Choice())
    assert len(prepared.warnings) == 1 and "has voxels of 1 nm, the tomogram of 2 nm" in prepared.warnings[0]
    model = write_drawn(tmp_path / "drawn.mod", Object("SV", contours(TRUTH)))
    mask = Choice(masks=((tmp_path / "labels.mrc", None),))
    assert "1 nm" in " ".join(prepare_volume(tomogram, [model], tmp_path / "data2", "a", mask).warnings)


def test_few_vesicles_and_coarse_tomograms_are_told(tmp_path: Path, tomogram: Tomogram) -> None:
    few = write_drawn(tmp_path / "few.mod", Object("SV", contours(TRUTH.select(np.arange(2)))))
    prepared = prepare_volume(tomogram, [few], tmp_path / "data", "a", Choice(), voxel_nm=1.3)
    first, second = prepared.warnings
    assert "too few vesicles" in first and "2 nm are enlarged to the dataset's of 1.3 nm" in second
    entry = json.loads((tmp_path / "data" / "manifest.json").read_text())["volumes"]["a"]
    assert entry["shell_contrast"] is None


def test_objects_that_are_empty_are_told(tmp_path: Path, tomogram: Tomogram) -> None:
    path = write_drawn(tmp_path / "m.mod", Object("vesicles"), Object("manual", contours(TRUTH)))
    with pytest.raises(BadInputError, match=r"object 1 'vesicles' is empty \(not empty: 2 'manual'\)"):
        prepare_volume(tomogram, [path], tmp_path / "data", "a", Choice(vesicles=("vesicles",)))
    assert prepare_volume(tomogram, [path], tmp_path / "data", "a", Choice()).warnings == ()


def test_a_model_of_this_program_after_correction(tmp_path: Path, tomogram: Tomogram) -> None:
    """What was rejected or only proposed is background, whatever object it is in."""
    status = [Status.REFINED, Status.MANUAL, Status.DOUBTFUL, Status.REJECTED, Status.PROPOSED] * 5
    table = TRUTH.replace(status=status[: len(TRUTH)])
    write_vesicles_model(tmp_path / "v.mod", table)
    prepared = prepare_volume(tomogram, [tmp_path / "v.mod"], tmp_path / "data", "a", Choice())
    assert len(prepared.annotation.vesicles) == table.accepted.sum() < len(TRUTH)
    assert (np.isin(nearest(prepared.annotation.vesicles, TRUTH), np.flatnonzero(table.accepted))).all()
    named = prepare_volume(
        tomogram, [tmp_path / "v.mod"], tmp_path / "data", "b", Choice(vesicles=("rejected", "manual"))
    )
    assert len(named.annotation.vesicles) == table.has_status(Status.REJECTED, Status.MANUAL).sum()


def test_warnings_of_a_model_that_lies_elsewhere(tmp_path: Path, tomogram: Tomogram, drawn: Path) -> None:
    shifted = TRUTH.replace(centres_vox=TRUTH.centres_vox - [0, 0, 15])
    path = write_drawn(tmp_path / "shifted.mod", Object("SV", contours(shifted)))
    warnings = prepare_volume(tomogram, [path], tmp_path / "data", "a", Choice()).warnings
    assert any("about 15 voxels further in x" in text for text in warnings)
    again = prepare_volume(tomogram, [drawn], tmp_path / "data", "b", Choice()).warnings
    assert again == (f"{tmp_path / 'data'} holds this tomogram already, as a: training would see it twice",)


def test_small_radii_are_mended_by_a_fit(tmp_path: Path, tomogram: Tomogram) -> None:
    """Somebody drew along the middle of the membrane."""
    thin = TRUTH.replace(radii_vox=TRUTH.radii_vox - 1.0)
    path = write_drawn(tmp_path / "thin.mod", Object("SV", contours(thin)))
    as_drawn = prepare_volume(tomogram, [path], tmp_path / "data", "a", Choice())
    assert any("outside the spheres: --refine" in text for text in as_drawn.warnings)
    fitted = prepare_volume(tomogram, [path], tmp_path / "data", "a", Choice(), fit=True, overwrite=True)
    assert not any("--refine" in text for text in fitted.warnings)
    assert fitted.refined is not None and fitted.refined.fitted > 0.8 * len(TRUTH)
    assert fitted.refined.radius_change_nm > 1.0
    rows = nearest(fitted.annotation.vesicles, TRUTH)
    errors = [
        float(np.median(np.abs(part.annotation.vesicles.radii_nm - TRUTH.radii_nm[rows])))
        for part in (as_drawn, fitted)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert fitted.annotation.vesicles.has_status(Status.MANUAL).all()


def test_what_cannot_be_fitted_stays_as_drawn(tomogram: Tomogram) -> None:
    noise = Tomogram(np.random.default_rng(1).normal(size=GRID.shape_zyx).astype(np.float32), GRID)
    few = TRUTH.select(np.arange(6))
    fitted, info = refit(noise, few)
    assert info.kept >= 5 and info.fitted + info.kept == 6
    same = np.all(fitted.centres_vox == few.centres_vox, axis=1) & (fitted.radii_vox == few.radii_vox)
    assert same.sum() == info.kept


def test_nothing_is_half_written(
    tmp_path: Path, tomogram: Tomogram, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, and Ctrl-C, leave the dataset as it was."""
    folder = tmp_path / "data"

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "store":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_volume(tomogram, [drawn], folder, "a", Choice(), progress=stop)
    assert not folder.exists()
    prepare_volume(tomogram, [drawn], folder, "a", Choice())
    before = content(folder)
    for overwrite, name in ((True, "a"), (False, "b")):
        with pytest.raises(KeyboardInterrupt):
            prepare_volume(tomogram, [drawn], folder, name, Choice(), overwrite=overwrite, progress=stop)
        assert content(folder) == before

    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("no picture")

    monkeypatch.setattr(preparing, "annotation_picture", fail)
    with pytest.raises(RuntimeError):
        prepare_volume(tomogram, [drawn], folder, "b", Choice())
    assert content(folder) == before


def test_errors(tmp_path: Path, tomogram: Tomogram, drawn: Path) -> None:
    folder = tmp_path / "data"
    prepare_volume(tomogram, [drawn], folder, "a", Choice(), voxel_nm=3.0)
    before = content(folder)
    labels = tmp_path / "labels.mrc"
    write_labels(labels, rasterize(TRUTH))
    other = tmp_path / "other.mrc"
    write_labels(other, rasterize(spheres(Grid((40, 60, 70), 2.0), count=2)))
    empty = write_drawn(tmp_path / "empty.mod", Object("SV"))
    cases = [
        (OutputExistsError, [drawn], "a", Choice(), None, "already holds a tomogram a"),
        (DatasetError, [drawn], "b", Choice(), 2.2, "at 3 nm per voxel"),
        (DatasetError, [drawn], "../b", Choice(), None, "cannot name"),
        (ModelFileError, [drawn], "b", Choice(vesicles=("sv2",)), None, "'SV'"),
        (ModelFileError, [drawn, empty], "b", Choice(outline=("cell",)), None, "none of the models"),
        (UsageError, [drawn], "b", Choice(cytosol_id=3), None, "--cytosol-id is for label volumes"),
        (UsageError, [labels], "b", Choice(vesicles=("SV",)), None, "--vesicle-ids"),
        (UsageError, [labels], "b", Choice(outline=("cell",)), None, "no label and no file"),
        (BadInputError, [labels], "b", Choice(classes=(900,)), None, "no label 900"),
        (BadInputError, [other], "b", Choice(), None, "130 x 120 x 56"),
        (BadInputError, [empty], "b", Choice(), None, "no vesicles are annotated"),
    ]
    for error, paths, name, choice, voxel_nm, words in cases:
        with pytest.raises(error, match=words):
            prepare_volume(tomogram, paths, folder, name, choice, voxel_nm=voxel_nm)
        assert content(folder) == before


def test_inverted_tomograms_are_stored_dark(tmp_path: Path, drawn: Path) -> None:
    volume = tomogram_of(TRUTH)
    write_tomogram(tmp_path / "bright.mrc", -volume.data, volume.grid)
    bright = Tomogram(-volume.data, volume.grid, path=tmp_path / "bright.mrc")
    warnings = prepare_volume(bright, [drawn], tmp_path / "data", "a", Choice()).warnings
    assert any("--invert" in text for text in warnings)
    turned = prepare_volume(replace(bright, invert=True), [drawn], tmp_path / "data2", "a", Choice())
    assert turned.warnings == ()
    grey, mask = turned.volume.grey().astype(float), turned.volume.mask()
    assert grey[mask > 128].mean() < grey[mask == 0].mean() - 0.1


@pytest.mark.parametrize(
    ("stem", "name"), [("TS_01 bin4", "TS_01-bin4"), ("a.b", "a.b"), ("..x", "x"), ("ä", "tomogram"), ("-1", "1")]
)
def test_names(stem: str, name: str) -> None:
    assert default_name(stem) == name
