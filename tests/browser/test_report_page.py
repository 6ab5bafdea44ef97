"""The report's page in a browser: everything a user does with it, with the mouse and with the keys alone."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepvesicle.commands.main import main
from deepvesicle.commands.report import write_report
from deepvesicle.files.imod import write_vesicles_model
from deepvesicle.files.tables import read_vesicles_csv, write_vesicles_csv
from deepvesicle.files.tomogram import read_tomogram, write_tomogram
from deepvesicle.grid import Grid, Tomogram
from deepvesicle.vesicles import Status, Vesicles
from tests.browser.chromium import WITH_WEBGL, WITHOUT_WEBGL, Watched, chromium

GRID = Grid((60, 140, 180), 2.0)
COUNT = 90


def made_up(rng: np.random.Generator) -> tuple[Tomogram, Vesicles]:
    """Shells on a lattice with some jitter, of every status."""
    places = np.stack(np.meshgrid([15, 40], np.arange(18, 130, 24), np.arange(16, 170, 18), indexing="ij"), -1)
    centres = places.reshape(-1, 3)[:COUNT] + rng.uniform(-1, 1, (COUNT, 3))
    radii = rng.uniform(6.0, 9.0, COUNT)
    data = rng.normal(scale=0.5, size=GRID.shape_zyx).astype(np.float32)
    z, y, x = np.ogrid[:60, :140, :180]
    for (cz, cy, cx), radius in zip(centres, radii, strict=True):
        distance = np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
        data -= 2 * np.exp(-((distance - radius + 1) ** 2))
    status = [Status.REFINED] * COUNT
    status[3], status[4] = Status.DOUBTFUL, Status.DOUBTFUL
    status[5:15] = [Status.REJECTED] * 10
    status[20] = Status.MANUAL
    reasons = [""] * COUNT
    reasons[3] = "overlaps vesicle 5 by 4.2 nm <b>bold</b>"
    reasons[4] = "hardly any membrane seen"
    reasons[5:15] = ["probably no vesicle (score 0.20)"] * 10
    scores = np.where([s is Status.REJECTED for s in status], 0.2, rng.uniform(0.8, 1, COUNT))
    scores[3], scores[4] = 0.51, 0.66
    vesicles = Vesicles.from_spheres(
        GRID,
        centres,
        radii,
        thickness_vox=rng.normal(2.0, 0.1, COUNT),
        sigma_radii_vox=np.full(COUNT, 0.1),
        scores=scores,
        status=status,
        reasons=reasons,
        features={"likeness_p": rng.uniform(0.01, 1, COUNT), "membrane_density": rng.normal(-0.8, 0.1, COUNT)},
    )
    return Tomogram(data, GRID, path=Path("t.mrc")), vesicles


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result with its report; a report with a truth and an earlier table."""
    folder = tmp_path_factory.mktemp("page")
    tomogram, vesicles = made_up(np.random.default_rng(5))
    write_tomogram(folder / "t.mrc", tomogram.data, GRID)
    write_vesicles_csv(folder / "t_vesicles.csv", vesicles)
    write_vesicles_model(folder / "t_vesicles.mod", vesicles)
    tomogram = read_tomogram(folder / "t.mrc")
    write_report(folder / "t_report.html", tomogram, vesicles, table_name="t_vesicles.csv")
    truth = vesicles.select(np.arange(6, COUNT)).replace(status=(Status.MANUAL,) * (COUNT - 6))
    before = vesicles.replace(radii_vox=np.where(np.arange(COUNT) == 30, 1.1, 1.0) * vesicles.radii_vox)
    before = before.select(np.arange(COUNT) != 31)
    write_report(folder / "compared.html", tomogram, vesicles, truth=truth, before=before)
    return folder


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[tuple[str, ...]], Any]]:
    with chromium() as start:
        yield start


@pytest.fixture(scope="module")
def browser(start: Callable[[tuple[str, ...]], Any]) -> Any:
    return start(WITHOUT_WEBGL)


@pytest.fixture
def space(start: Callable[[tuple[str, ...]], Any], folder: Path) -> Iterator[Any]:
    """A page with the spheres in space."""
    watched = Watched(start(WITH_WEBGL), folder / "t_report.html")
    yield watched.page
    watched.close()


@pytest.fixture
def watched(browser: Any, folder: Path) -> Iterator[Watched]:
    watched = Watched(browser, folder / "t_report.html")
    yield watched
    watched.close()


@pytest.fixture
def page(watched: Watched) -> Any:
    return watched.page


def until(page: Any, condition: str) -> None:
    """Wait for a condition; the page's content policy lets Playwright not wait by itself."""
    for _ in range(100):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


def ids(page: Any) -> list[str]:
    return page.evaluate("Gallery.ids()")


def plane(page: Any) -> dict[str, Any]:
    return page.evaluate("Slices.place()")


def selected(page: Any) -> int | None:
    return page.evaluate("Core.state.selected && Core.state.selected.id")


def test_the_summary_tells_the_counts_and_the_radii(page, folder):
    text = page.inner_text("#summary")
    vesicles = read_vesicles_csv(folder / "t_vesicles.csv", GRID)
    radii = vesicles.radii_nm[vesicles.accepted]
    assert f"{len(radii)}\n" in text and "10 rejected" in text and "2 doubtful" in text and "1 manual" in text
    shown = [float(value) for value in re.findall(r"([\d.]+) nm", text)]
    assert min(abs(np.median(radii) - value) for value in shown) < 0.051
    assert f"{radii.mean():.2f} nm" in text and "180 × 140 × 60" in text


def test_the_slider_the_buttons_and_the_keys_change_the_plane(page):
    shown = "document.querySelector('#slices image').getAttribute('href')"
    first, picture = plane(page), page.evaluate(shown)
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    assert plane(page)["z"] == 0 and page.inner_text("#slices .planeLabel") == f"z {plane(page)['index'] + 1} of 60"
    until(page, f"{shown} !== {json.dumps(picture)}")
    page.keyboard.press("ArrowRight")
    assert plane(page)["z"] == 1
    page.click("#slices button:has-text('−')")
    assert plane(page)["z"] == 0
    page.locator("#slices .stage").focus()
    page.keyboard.press("PageUp")
    assert plane(page)["z"] == 1
    page.locator("h1").click()
    page.keyboard.press(".")
    assert plane(page)["z"] == 2 and plane(page)["plane"] == first["plane"] == "xy"


def test_circles_are_where_the_spheres_cut_the_plane(page, folder):
    vesicles = read_vesicles_csv(folder / "t_vesicles.csv", GRID)
    for name, axis, up, height in (("xy", 0, 1, 140), ("xz", 1, 0, 60)):
        page.click(f"[data-plane={name}]")
        here = plane(page)["index"]
        circles = page.eval_on_selector_all(
            "#slices g.sphere .hit",
            "all => all.map(c => [Number(c.parentNode.dataset.row), c.cx.baseVal.value, c.cy.baseVal.value,"
            " c.r.baseVal.value])",
        )
        square = vesicles.radii_vox**2 - (vesicles.centres_vox[:, axis] - here) ** 2
        expected = np.flatnonzero((square > 0) & vesicles.accepted)
        assert sorted(int(row) for row, *_ in circles) == expected.tolist() and len(expected) > 5
        for row, cx, cy, r in circles:
            place = vesicles.centres_vox[int(row)]
            assert (cx, cy, r) == pytest.approx((place[2], height - 1 - place[up], np.sqrt(square[int(row)])), abs=1e-3)


def test_the_xz_view_shows_the_missing_wedge(page):
    page.locator("h1").click()
    page.keyboard.press("x")
    assert "Missing wedge: with tilts from -60° to 60°" in page.inner_text("#slices .caption")
    faint = page.locator("#slices .unseen").first.get_attribute("d")
    assert faint.count("A") == 2
    # the arcs that are not seen are the top and the bottom: their ends are 60 degrees from the horizontal
    x0, y0 = (float(v) for v in faint[1:].split("A")[0].split())
    hit = page.eval_on_selector(
        "#slices .unseen",
        "p => { const c = p.parentNode.querySelector('.hit'); return [c.cx.baseVal.value, c.cy.baseVal.value]; }",
    )
    assert np.degrees(np.arctan2(hit[1] - y0, x0 - hit[0])) == pytest.approx(60, abs=0.1)


def test_zooming_and_moving(page):
    stage = page.locator("#slices .stage")
    box = "document.querySelector('#slices .stage').getAttribute('viewBox').split(' ').map(Number)"
    whole = page.evaluate(box)
    stage.focus()
    page.keyboard.press("+")
    zoomed = page.evaluate(box)
    assert zoomed[2] == pytest.approx(whole[2] / 1.25)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(box)[0] > zoomed[0]
    bounds = stage.bounding_box()
    page.mouse.move(bounds["x"] + 200, bounds["y"] + 200)
    page.mouse.down()
    page.mouse.move(bounds["x"] + 260, bounds["y"] + 200, steps=5)
    page.mouse.up()
    assert page.evaluate(box)[0] < zoomed[0] + 0.11 * zoomed[2]
    page.keyboard.press("0")
    assert page.evaluate(box) == whole
    assert "nm" in page.inner_text("#slices .scale")


def test_a_click_on_a_circle_selects_its_vesicle_everywhere(page):
    circle = page.locator("#slices g.sphere").nth(3)
    row = int(circle.get_attribute("data-row"))
    circle.locator(".hit").click()
    assert selected(page) == row + 1
    assert f"#{row + 1}" in page.inner_text("#selected")
    assert page.locator("#slices g.sphere.chosen").get_attribute("data-row") == str(row)
    page.keyboard.press("g")
    page.locator(f"#card{row}.chosen").wait_for()
    page.keyboard.press("Escape")
    assert selected(page) is None


def test_places_are_those_that_3dmod_shows(page, folder):
    vesicles = read_vesicles_csv(folder / "t_vesicles.csv", GRID)
    page.fill("#search", "4")
    z, y, x = np.rint(vesicles.centres_vox[3]).astype(int) + 1
    assert f"3dmod: x {x}, y {y}, z {z}" in page.text_content("#cards")


def test_reasons_are_text_not_markup(page):
    page.fill("#search", "#4")
    assert "<b>bold</b>" in page.text_content("#cards .why") and page.locator("#cards .why b").count() == 0


def test_the_doubtful_ones_come_first_and_other_orders_can_be_had(page, folder):
    assert ids(page)[:2] == ["4", "5"]
    vesicles = read_vesicles_csv(folder / "t_vesicles.csv", GRID)
    page.select_option("#order", "large")
    assert ids(page) == [str(vesicles.ids[row]) for row in np.argsort(-vesicles.radii_nm, kind="stable")]
    page.select_option("#order", "id")
    assert ids(page) == [str(number) for number in vesicles.ids]


def test_filters_by_status_score_radius_and_words(page, folder):
    vesicles = read_vesicles_csv(folder / "t_vesicles.csv", GRID)
    assert len(ids(page)) == COUNT and page.inner_text("#count") == f"{COUNT} of {COUNT} shown"
    page.click("[data-switch='status rejected']")
    assert len(ids(page)) == COUNT - 10
    page.click("[data-switch='status doubtful']", modifiers=["Alt"])
    assert set(ids(page)) == {"4", "5"}
    page.click("#reset")
    page.fill("#score-least", "0.5")
    page.fill("#score-most", "0.7")
    assert set(ids(page)) == {"4", "5"}
    page.click("#reset")
    page.fill("#r-most", "14")
    assert len(ids(page)) == int((vesicles.radii_nm <= 14).sum()) < COUNT
    page.click("#reset")
    page.fill("#search", "hardly membrane")
    assert ids(page) == ["5"]
    page.fill("#search", "12")
    assert ids(page) == ["12"]  # a number is an id, not a word
    page.fill("#search", "no such words")
    assert ids(page) == [] and page.locator(".card").count() == 0
    page.click("#reset")
    assert len(ids(page)) == COUNT and page.input_value("#search") == ""


def test_cards_are_made_as_they_are_needed(page):
    made = page.locator(".card").count()
    assert 0 < made < COUNT
    for least in (made + 1, made + 25, COUNT):  # the end comes nearer as it is made
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        until(page, f"document.querySelectorAll('.card').length >= {min(least, COUNT)}")
    last = page.locator(".card").last
    last.scroll_into_view_if_needed()
    assert last.locator(".views image").count() == 2 and last.locator(".spark .profile").count() == 1


def test_circles_in_cards_have_the_size_of_their_vesicle(page, folder):
    vesicles = read_vesicles_csv(folder / "t_vesicles.csv", GRID)
    page.fill("#search", "50")
    r = page.eval_on_selector("#card49 .own", "c => c.r.baseVal.value")
    field = vesicles.radii_nm[49] + 12.0
    assert r == pytest.approx(50 * vesicles.radii_nm[49] / field, rel=1e-3)


def test_ticks_are_saved_and_fix_carries_them_out(page, folder, tmp_path):
    page.fill("#search", "#4")
    page.click("#card3 button.reject")
    page.fill("#search", "#8")
    page.click("#card7 button.keep")
    page.click("#card7 button.keep")  # a second time takes it back
    page.click("#card7 button.keep")
    page.fill("#search", "#9")
    page.click("#card8 button.keep")
    page.click("#card8 button.keep")
    assert page.inner_text("#save") == "Save 2 verdicts"
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "t_review.json"
    download.value.save_as(tmp_path / "t_review.json")
    content = json.loads((tmp_path / "t_review.json").read_text())
    assert [(one["id"], one["decision"]) for one in content["decisions"]] == [(4, "reject"), (8, "keep")]
    assert "deepvesicle fix t.mrc t_vesicles.mod --review t_review.json" in page.inner_text("#toast")
    for name in ("t.mrc", "t_vesicles.csv", "t_vesicles.mod"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    files = [str(tmp_path / name) for name in ("t.mrc", "t_vesicles.mod", "t_review.json")]
    assert main(["fix", files[0], files[1], "--review", files[2]]) == 0
    after = read_vesicles_csv(tmp_path / "t_vesicles.csv", GRID)
    before = read_vesicles_csv(folder / "t_vesicles.csv", GRID)
    assert after.status[3] is Status.REJECTED and after.status[7] is Status.MANUAL
    changed = [row for row in range(COUNT) if after.status[row] is not before.status[row]]
    assert changed == [3, 7]


def test_the_queue_can_be_worked_through_with_the_keys_alone(page):
    page.locator("#cards .card").first.focus()
    page.keyboard.press("n")
    assert selected(page) == 4
    page.keyboard.press("k")
    assert selected(page) == 5  # the next one
    page.keyboard.press("r")
    page.keyboard.press("p")
    assert selected(page) == 5
    assert page.evaluate("Review.counts()") == {"keep": 1, "reject": 1}
    page.keyboard.press("u")
    assert page.evaluate("Review.counts()") == {"keep": 1, "reject": 0}
    page.keyboard.press("f")
    page.keyboard.type("kr")  # letters in a field are text
    assert page.evaluate("Review.counts()") == {"keep": 1, "reject": 0} and page.input_value("#search") == "kr"
    page.keyboard.press("Escape")
    with page.expect_download():
        page.keyboard.press("s")
    page.keyboard.press("?")
    assert page.locator("#help[open]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#help[open]").count() == 0


def test_verdicts_survive_a_reload_and_can_be_filtered_and_loaded(watched, page, tmp_path):
    page.fill("#search", "#6")
    page.click("#card5 button.keep")
    watched.open()
    assert page.inner_text("#save") == "Save 1 verdict"
    page.click("[data-switch='verdict open']")
    assert ids(page) == ["6"]
    earlier = page.evaluate("Review.asJson()")
    page.evaluate("Review.clear()")
    assert ids(page) == [] and page.inner_text("#save") == "Save verdicts"
    (tmp_path / "r.json").write_text(json.dumps(earlier))
    page.set_input_files("#loaded", str(tmp_path / "r.json"))
    until(page, "Review.counts().keep === 1")
    assert ids(page) == ["6"]
    (tmp_path / "r.json").write_text(json.dumps({**earlier, "tomogram": {"shape_xyz": [1, 2, 3]}}))
    page.set_input_files("#loaded", str(tmp_path / "r.json"))
    until(page, "document.getElementById('toast').innerText.includes('another tomogram')")
    page.evaluate("Review.clear()")


def test_spheres_in_space_turn_and_can_be_picked(space):
    page = space
    canvas = page.locator("#canvas3d canvas")
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(100)
    shot = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"), dtype=int)
    green = (shot[..., 1] > shot[..., 0] + 40) & (shot[..., 1] > 60)
    assert green.mean() > 0.05  # something is drawn
    assert page.get_attribute("#canvas3d", "data-ready") == "yes"
    assert page.evaluate("Spheres.shown()") == COUNT - 10
    before = page.evaluate("Spheres.camera()")
    bounds = canvas.bounding_box()
    page.mouse.move(bounds["x"] + 100, bounds["y"] + 100)
    page.mouse.down()
    page.mouse.move(bounds["x"] + 180, bounds["y"] + 120, steps=4)
    page.mouse.up()
    after = page.evaluate("Spheres.camera()")
    assert before != after and selected(page) is None
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("Spheres.camera()") != after
    page.keyboard.press("0")
    assert page.evaluate("Spheres.camera()") == pytest.approx(before)
    # the nearest sphere to the eye cannot be hidden by others
    row, x, y = page.evaluate(
        """() => { const eye = Spheres.camera(), v = Core.data.tomogram.voxel, size = Core.data.tomogram.shape;
        const far = (one) => Math.hypot(...one.at.map((a, i) => (a + 0.5 - size[i] / 2) * v - eye[i]));
        const near = Core.spheres.filter(Core.isDrawn).sort((a, b) => far(a) - far(b))[0];
        return [near.row, ...Spheres.spot(near)]; }"""
    )
    page.mouse.click(bounds["x"] + x, bounds["y"] + y)
    assert selected(page) == row + 1
    page.locator("#rejected").check()
    assert page.evaluate("Spheres.shown()") == COUNT


def test_plots_are_drawn_and_their_dots_select(page):
    for name in ("radius", "profile", "thickness", "density"):
        page.locator(f"#plot-{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#plot-{name} svg")
    bars = page.locator("#plot-radius svg g[aria-label=rect] rect").count()
    assert bars > 3
    assert page.locator("#plot-thickness svg circle").count() == COUNT - 10
    page.locator("#plot-thickness svg circle").nth(5).hover()
    until(page, "document.querySelector('#plot-thickness svg').value")
    page.locator("#plot-thickness svg circle").nth(5).click(force=True)
    assert selected(page) is not None
    assert page.locator("#plots .chosenMark").count() == 4


def test_colours_and_circles_can_be_changed(page):
    page.select_option("#colours", "score")
    strokes = page.eval_on_selector_all(
        "#slices g.sphere circle[stroke]", "all => all.map(c => c.getAttribute('stroke'))"
    )
    assert len(set(strokes)) > 3 and all(colour.startswith("rgb") for colour in strokes)
    page.locator("#circles").uncheck()
    assert page.locator("#slices g.sphere").first.is_hidden()
    page.locator("h1").click()
    page.keyboard.press("c")
    assert page.locator("#slices g.sphere").first.is_visible() and page.locator("#circles").is_checked()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_it_fits_the_window_light_and_dark(browser, folder, scheme, width):
    watched = Watched(browser, folder / "compared.html", (width, 1000), scheme)
    page = watched.page
    page.keyboard.press("n")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert (sum(page.evaluate(lightness)) < 200) == (scheme == "dark")
    page.click("#theme")
    assert (sum(page.evaluate(lightness)) < 200) != (scheme == "dark")
    wide = page.evaluate(
        "[...document.querySelectorAll('main article, .tools, .top')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
        ".map((e) => e.id + e.className)"
    )
    assert wide == []
    watched.close()


def test_comparisons_can_be_seen_and_filtered(browser, folder):
    watched = Watched(browser, folder / "compared.html")
    page = watched.page
    summary = page.inner_text("#summary")
    assert "Against the truth" in summary and "1 added" in summary and "1 resized" in summary
    assert page.evaluate("Core.state.colour") == "agree"
    page.click("[data-switch='agree missed']", modifiers=["Alt"])
    missed = ids(page)
    assert missed and all(name.startswith("truth ") for name in missed)
    assert page.locator(".card button").count() == 0  # there is no row to judge
    page.click("#reset")
    page.click("[data-switch='agree false']", modifiers=["Alt"])
    assert set(ids(page)) == {"1", "2", "3", "4", "5"}
    page.click("#reset")
    page.click("[data-switch='change resized']", modifiers=["Alt"])
    assert ids(page) == ["31"] and page.locator("#card30 .was").count() == 2
    assert "resized: radius" in page.text_content("#card30")
    watched.close()


def test_without_webgl_a_message_takes_the_place_of_the_spheres(page):
    assert page.get_attribute("#canvas3d", "data-ready") == "no"
    assert "no WebGL" in page.inner_text("#canvas3d")
    page.keyboard.press("n")
    assert selected(page) == 4


def test_an_empty_result_has_a_page_too(browser, folder, tmp_path):
    write_report(tmp_path / "r.html", read_tomogram(folder / "t.mrc"), Vesicles.empty(GRID))
    watched = Watched(browser, tmp_path / "r.html")
    for key in "nkrxcg.,":
        watched.page.keyboard.press(key)
    watched.page.locator("#plots").scroll_into_view_if_needed()
    watched.page.wait_for_selector("#plot-density .empty")
    assert "0 of 0 shown" in watched.page.inner_text("#count")
    watched.close()


def test_a_model_without_features_has_a_page_too(browser, folder, tmp_path):
    vesicles = read_vesicles_csv(folder / "t_vesicles.csv", GRID)
    plain = Vesicles(GRID, vesicles.ids, vesicles.centres_vox, vesicles.radii_vox, status=vesicles.status)
    tomogram = replace(read_tomogram(folder / "t.mrc"), invert=True)
    write_report(tmp_path / "r.html", tomogram, plain)
    watched = Watched(browser, tmp_path / "r.html")
    watched.page.keyboard.press("n")
    watched.page.locator("#plot-density").scroll_into_view_if_needed()
    watched.page.wait_for_selector("#plot-density .empty")
    watched.page.wait_for_selector("#plot-radius svg")
    assert selected(watched.page) is not None and "contrast turned" in watched.page.inner_text("#summary")
    watched.close()
