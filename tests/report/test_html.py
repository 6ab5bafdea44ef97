"""The HTML report: what stands in the file, that nothing in it can break it, and that it stays small."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepvesicle.errors import OutputExistsError
from deepvesicle.files.run_record import FileRecord, RunRecord
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.report import html
from deepvesicle.report.changes import changes_between
from deepvesicle.report.html import page_data, script_json, write_html
from deepvesicle.report.page_data import Agreement, Profiles, doubt, run_facts, settings_rows, shown_rows, tilts_of
from deepvesicle.report.page_images import draw_planes, draw_views, grey_limits, half_field_vox
from deepvesicle.settings import Settings
from deepvesicle.vesicles import Status, Vesicles

GRID = Grid((40, 70, 90), 2.0)
NASTY = 'overlaps </script><script>alert(1)</script><!-- "\u2028 & é'
ALL = (Status.REFINED, Status.DOUBTFUL, Status.MANUAL, Status.REJECTED)


@pytest.fixture
def vesicles() -> Vesicles:
    return Vesicles.from_spheres(
        GRID,
        [[20.25, 30.5, 40.75], [10.0, 50.0, 20.0], [30.0, 20.0, 70.0], [0.5, 60.0, 80.0]],
        [10.0, 8.0, 9.5, 12.0],
        thickness_vox=[2.0, 2.1, np.nan, np.nan],
        scores=[0.95, 0.6, np.nan, 0.3],
        status=ALL,
        reasons=["", NASTY, "placed or changed by the user", "no membrane"],
        features={"likeness_p": [0.4, 0.001, 1.0, 1.0], "membrane_density": [-0.8, -0.4, np.nan, 0.1]},
    )


@pytest.fixture
def tomogram(rng: np.random.Generator) -> Tomogram:
    return Tomogram(rng.normal(size=GRID.shape_zyx).astype(np.float32), GRID, path=Path("t<1>.mrc"))


def parts(text: str) -> tuple[dict, dict]:
    """The data and the pictures of a page, as a browser finds them."""
    found = re.findall(r'<script type="application/json" id="\w+">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 2
    return json.loads(found[0]), json.loads(found[1])


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))), dtype=float)


def test_the_page_holds_every_vesicle_with_places_in_x_y_z(tmp_path, tomogram, vesicles):
    write_html(tmp_path / "r.html", tomogram, vesicles, table="t_vesicles.csv")
    data, images = parts((tmp_path / "r.html").read_text(encoding="utf-8"))
    first, second, third, last = data["spheres"]
    assert first["at"] == [40.75, 30.5, 20.25] and first["r"] == 20.0 and first["rv"] == 10.0
    assert [one["status"] for one in data["spheres"]] == [status.value for status in ALL]
    assert second["why"] == NASTY and third["score"] is None and first["p"] == 0.4
    assert last["p"] is None  # it has no thickness: it was not tested
    assert data["tomogram"]["shape"] == [90, 70, 40] and data["tomogram"]["voxel"] == 2.0
    assert len(images["views"]) == 4 and all(images["views"])


def test_text_of_the_user_never_becomes_markup(tmp_path, tomogram, vesicles):
    write_html(tmp_path / "r.html", tomogram, vesicles)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text and "<1>" not in text
    assert "<title>t&lt;1&gt;.mrc: vesicles</title>" in text
    assert len(re.findall(r"<script[ >]", text)) == len(re.findall("</script>", text)) == 4
    assert not set("<>&\u2028\u2029") & set(script_json({"why": NASTY}))
    assert json.loads(script_json({"why": NASTY})) == {"why": NASTY}


def test_the_page_loads_nothing_from_elsewhere(tmp_path, tomogram, vesicles):
    write_html(tmp_path / "r.html", tomogram, vesicles)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    assert not re.search(r"@import|<link[^>]+stylesheet", text)


def test_an_existing_file_stays_unless_told(tmp_path, tomogram, vesicles):
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(OutputExistsError):
        write_html(tmp_path / "r.html", tomogram, vesicles)
    assert (tmp_path / "r.html").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    write_html(tmp_path / "r.html", tomogram, vesicles, overwrite=True)
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("shape", [(1, 30, 30), (2, 1, 3), (40, 8, 8)])
def test_tomograms_of_any_shape_and_no_vesicles(tmp_path, shape, rng):
    grid = Grid(shape, 1.0)
    flat = Tomogram(np.zeros(shape, np.int8), grid)
    write_html(tmp_path / "r.html", flat, Vesicles.empty(grid))
    data, images = parts((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert data["spheres"] == [] and len(images["xy"]["images"]) == len(images["xy"]["at"]) >= 1
    assert len(images["xz"]["images"]) >= 1


def test_planes_show_what_lies_in_them_with_y_and_z_up():
    data = np.zeros(GRID.shape_zyx, np.float32)
    data[30, 60, 10] = data[29:32, 60, 10] = 100.0
    tomogram = Tomogram(data, GRID)
    xy = draw_planes(tomogram, "xy", (0, 39), (0.0, 50.0), 10**6)
    brightest = max(range(len(xy.indices)), key=lambda i: picture64(xy.jpegs[i]).max())
    assert abs(xy.indices[brightest] - 30) <= 2
    row, column = np.unravel_index(picture64(xy.jpegs[brightest]).argmax(), (70, 90))
    assert (row, column) == (70 - 1 - 60, 10)
    xz = draw_planes(tomogram, "xz", (50, 69), (0.0, 20.0), 10**6)
    brightest = max(range(len(xz.indices)), key=lambda i: picture64(xz.jpegs[i]).max())
    row, column = np.unravel_index(picture64(xz.jpegs[brightest]).argmax(), (40, 90))
    assert abs(xz.indices[brightest] - 60) <= 2 and abs(row - (40 - 1 - 30)) <= 1 and column == 10


def picture64(jpeg: bytes) -> np.ndarray:
    return picture(base64.b64encode(jpeg).decode())


@pytest.mark.parametrize("centre", [(20.0, 35.0, 45.0), (20.4, 35.3, 44.6), (2.0, 67.5, 88.0)])
def test_views_show_a_vesicle_at_their_centre_to_a_fraction_of_a_voxel(centre):
    radius = 12.0
    z, y, x = np.ogrid[:40, :70, :90]
    distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    tomogram = Tomogram((-np.exp(-(((distance - radius) / 1.5) ** 2))).astype(np.float32), GRID)
    (view,) = draw_views(tomogram, np.array([centre]), np.array([radius]), (-1.0, 0.2), 10**6)
    pair = picture64(view)
    edge = pair.shape[0]
    assert pair.shape == (edge, 2 * edge)
    per_pixel = 2 * half_field_vox(GRID, np.array([radius]))[0] / edge
    for half in (pair[:, :edge], pair[:, edge:]):
        dark = half < 60
        rows, columns = np.nonzero(dark)
        off = np.hypot(rows + 0.5 - edge / 2, columns + 0.5 - edge / 2) * per_pixel
        # what is outside the tomogram is grey, so the dark ring is all there is
        assert abs(np.median(off) - radius) < 0.5 and np.percentile(np.abs(off - radius), 95) < 2.0
        if min(centre[0], 69 - centre[1], 89 - centre[2]) > radius:
            assert abs((rows + 0.5).mean() - edge / 2) * per_pixel < 0.25
            assert abs((columns + 0.5).mean() - edge / 2) * per_pixel < 0.25


def test_pictures_keep_to_their_share_of_the_file(rng):
    grid = Grid((120, 300, 300), 2.0)
    noise = Tomogram(rng.integers(-99, 99, grid.shape_zyx, dtype=np.int8), grid)
    limits = grey_limits(noise)
    many, few = (draw_planes(noise, "xy", (0, 119), limits, most) for most in (10**7, 600_000))
    assert 400_000 < few.bytes <= 600_000 < many.bytes
    assert len(few.indices) >= 12 and np.all(np.diff(few.indices) > 0)
    centres = rng.uniform([0, 0, 0], grid.shape_zyx, (60, 3))
    views = draw_views(noise, centres, np.full(60, 10.0), limits, 30_000)
    assert 0 < sum(map(bool, views)) < 60 and sum(map(len, views)) < 36_000
    assert all(views[: sum(map(bool, views))])  # the first ones are those that matter


def test_the_whole_file_is_bounded(tmp_path, monkeypatch, rng):
    grid = Grid((60, 200, 200), 2.0)
    noise = Tomogram(rng.integers(-99, 99, grid.shape_zyx, dtype=np.int8), grid)
    centres = rng.uniform([0, 0, 0], grid.shape_zyx, (300, 3))
    vesicles = Vesicles.from_spheres(grid, centres, np.full(300, 9.0), status=[Status.REFINED] * 300)
    monkeypatch.setattr(html, "MOST_BYTES", 1_900_000)
    write_html(tmp_path / "r.html", noise, vesicles)
    assert (tmp_path / "r.html").stat().st_size < 1_900_000


def test_doubtful_ones_come_first_then_those_judged_narrowly(vesicles):
    order = np.argsort(-doubt(vesicles), kind="stable")
    assert vesicles.ids[order].tolist() == [2, 4, 1, 3]
    narrow = vesicles.replace(scores=np.array([0.71, 0.6, 0.1, 0.05]))
    assert vesicles.ids[np.argsort(-doubt(narrow), kind="stable")].tolist() == [2, 1, 4, 3]
    unknown = Vesicles.from_spheres(GRID, [[1.0, 1, 1]], [3.0], status=[Status.REFINED])
    assert doubt(unknown).tolist() == [0.5]


def test_what_the_user_deleted_is_shown_and_what_was_not_fitted_is_counted(tomogram, vesicles):
    table = vesicles.with_features(deleted=[0, 0, 0, 1], not_fitted=[0, 0, 1, 0])
    assert shown_rows(table).tolist() == [0, 1, 3]
    data = page_data(tomogram, table, "", None, None, None, None)
    assert [one["id"] for one in data["spheres"]] == [1, 2, 4] and data["unfitted"] == 1
    assert data["spheres"][2]["doubt"] == 0


def test_a_truth_adds_the_missed_and_marks_the_false(tomogram, vesicles):
    missed = Vesicles.from_spheres(GRID, [[5.0, 6.0, 7.0]], [9.0], status=[Status.MANUAL]).replace(ids=np.array([41]))
    agreement = Agreement(("found", "false", "ignored", ""), missed, {"f1": 0.5, "delta_d": float("nan")})
    data = page_data(tomogram, vesicles, "", None, None, agreement, None)
    assert [one["agree"] for one in data["spheres"]] == ["found", "false", "ignored", "", "missed"]
    assert data["spheres"][4]["kind"] == "missed" and data["spheres"][4]["at"] == [7.0, 6.0, 5.0]
    assert data["agreement"] == {"f1": 0.5, "delta_d": None}


def test_changes_of_a_round_are_told(tomogram, vesicles):
    before = vesicles.replace(centres_vox=vesicles.centres_vox + [[0, 0, 0], [0, 1.0, 0], [0, 0, 0], [0, 0, 0]])
    extra = Vesicles.from_spheres(GRID, [[35.0, 60.0, 15.0]], [7.0], status=[Status.REFINED]).replace(ids=np.array([9]))
    from deepvesicle.corrections import with_rows

    data = page_data(tomogram, vesicles, "", None, None, None, changes_between(with_rows(before, [extra]), vesicles))
    assert [one["change"] for one in data["spheres"]] == ["", "moved", "", "", "removed"]
    assert data["spheres"][1]["was"] == [20.0, 51.0, 10.0, 8.0] and data["spheres"][0]["was"] is None
    assert data["spheres"][4] == data["spheres"][4] | {"kind": "removed", "id": 9}
    assert data["changes"]["moved"] == 1 and data["changes"]["removed"] == 1


def test_profiles_follow_their_rows(tomogram, vesicles):
    table = vesicles.with_features(not_fitted=[0, 1, 0, 0])
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, np.nan], [np.nan, np.nan]])
    data = page_data(tomogram, table, "", None, Profiles(np.array([-1.0, 1.0]), values), None, None)
    assert data["profiles"] == {"nm": [-1.0, 1.0], "rows": [[1.0, 2.0], [5.0, None], None]}


def record(**more) -> RunRecord:
    made = RunRecord("segment", ("deepvesicle", "segment", "t.mrc"), "/", Settings().to_json(), {})
    from dataclasses import replace

    return replace(made, ended="2026-01-02T03:04:05+00:00", **more)


def test_facts_of_a_run_name_the_network_also_after_a_correction():
    first = record(inputs={"model": FileRecord("/models/mine", "ab" * 32, 1)})
    then = RunRecord("fix", ("fix",), "/", Settings().to_json(), {"model": FileRecord("/t_vesicles.mod", "cd" * 32, 1)})
    facts = run_facts(then.following(first))
    assert facts is not None
    assert facts["model"] == "mine" and facts["modelHash"] == "ab" * 6 and facts["after"] == "segment"
    assert run_facts(None) is None and run_facts(then)["model"] is None  # type: ignore[index]


def test_settings_that_are_not_the_default_are_marked():
    rows = {name: (value, changed) for name, value, changed in settings_rows({"proposal": {"min_radius_nm": 15.0}})}
    assert rows == {"proposal.min_radius_nm": ("15", True)}
    assert not any(changed for _, _, changed in settings_rows(Settings().to_json()))
    as_read = json.loads(json.dumps(Settings().to_json()))
    assert not any(changed for _, _, changed in settings_rows(as_read))


def test_tilts_are_those_given_else_those_estimated_else_the_usual_ones():
    assert tilts_of(None) == ((-60.0, 60.0), "y", "usual")
    note = "tilt range -52 to 61 degrees, estimated from the tomogram"
    assert tilts_of(record(notes=(note,))) == ((-52.0, 61.0), "y", "estimated")
    given = {"refinement": {"tilt_range_deg": [-45, 45], "tilt_axis": "x"}}
    assert tilts_of(record(settings=given, notes=(note,))) == ((-45.0, 45.0), "x", "given")


def test_libraries_come_with_their_licences():
    folder = Path(html.__file__).parent / "assets" / "vendor"
    licences = (folder / "LICENSES.txt").read_text(encoding="utf-8")
    for name in ("three ", "@observablehq/plot ", "d3-scale "):
        assert f"\n{name}" in f"\n{licences}"
    for path in folder.glob("*.js"):
        assert "LICENSES.txt" in path.read_text(encoding="utf-8")[:300]
