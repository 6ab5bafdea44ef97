"""The documents as a site: it is built without a warning, and its tables say what is true of the program."""

from __future__ import annotations

import contextlib
import csv
import functools
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepvesicle.fitting.ellipsoid import FEATURES as ELLIPSOID
from deepvesicle.marks import DELETED, NOT_FITTED
from deepvesicle.vesicles import Status
from tests.browser.chromium import WITHOUT_WEBGL, chromium
from tests.documents.blocks import PAGES, ROOT
from tests.test_architecture import FLOORS


def table(text: str, head: str) -> list[list[str]]:
    """The rows of the first table whose head begins so, cell by cell."""
    rows = text.split(f"\n{head}", 1)[1].split("\n")[2:]
    found = []
    for row in rows:
        if not row.startswith("|"):
            break
        found.append([cell.strip() for cell in row.strip("|").split(" | ")])
    return found


def read(name: str) -> str:
    return PAGES[name].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs-material is not installed: pip install '.[docs]', or bin/make-docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_site_is_complete(site: Path) -> None:
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    wanted = {path.with_suffix(".html").name for name, path in PAGES.items() if name != "README.md"}
    assert wanted <= built
    assert {"commands/index.html", "commands/segment.html", "commands/models.html"} <= built
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)", text)
        fetched += re.findall(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?([^\"'\s>]+)", text)
        assert not [url for url in fetched if re.match(r"(https?:)?//", url)], path.name
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder served on this computer."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_site_in_a_browser(site: Path) -> None:
    """No request leaves the computer, nothing is complained about, and the search finds words."""
    with chromium() as start, served(site) as address:
        page = start(WITHOUT_WEBGL).new_page(viewport={"width": 1280, "height": 900})
        requests: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        for name in ("index.html", "how-it-works.html", "commands/segment.html"):
            page.goto(f"{address}/{name}")
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        page.click("input.md-search__input")
        page.keyboard.type("eccentricity", delay=20)
        page.wait_for_selector("a.md-search-result__link[href*='numbers']", state="attached", timeout=20_000)
        assert not complaints
        page.goto((site / "index.html").as_uri())
        page.wait_for_load_state("networkidle")
        assert not [url for url in requests if not url.startswith((address, "file:", "data:", "blob:"))]


def test_columns_in_the_page_on_numbers_are_those_of_the_table(lab: Path) -> None:
    with open(lab / "shared" / "tomo_vesicles.csv", encoding="utf-8") as file:
        header = set(next(csv.reader(file)))
    cells = re.findall(r"^\| (`[^|]+) \|", read("numbers.md"), re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    words = {status.value for status in Status} | {"status", "reason", "score"}
    assert {DELETED, NOT_FITTED} <= set(re.findall(r"`(\w+)`", read("numbers.md")))
    assert header - named <= {"status", "reason", "score"}, "not explained"
    assert named - words - header == set(ELLIPSOID), "not in the table"


def test_reasons_in_the_page_on_numbers_are_those_of_the_program() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "deepvesicle").rglob("*.py"))
    source = re.sub(r"\{[^}]*\}", "{}", source)
    rows = table(read("numbers.md"), "| `reason` |")
    assert len(rows) > 12
    for cell, _ in rows:
        for reason in re.findall(r"`([^`]+)`", cell):
            parts = [part.strip(" (),=;:") for part in re.split(r"\.\.\.|\bN\b", reason)]
            assert all(part in source for part in parts if len(part) > 3), reason


def test_statuses_are_all_explained() -> None:
    rows = {cell.strip("`") for cell, *_ in table(read("numbers.md"), "| `status` |")}
    assert rows == {status.value for status in Status} - {"proposed"}


def test_floors_in_the_page_on_architecture_are_those_of_the_test() -> None:
    floors = {}
    for floor, rooms, _ in table(read("architecture.md"), "| floor |"):
        floors.update({room: int(floor) for room in re.findall(r"`(\w+)`", rooms)})
    assert floors == {room: floor for room, floor in FLOORS.items() if room not in ("deepvesicle", "__main__")}
