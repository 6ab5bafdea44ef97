"""Debian's Chromium without a window, driven by Playwright; tests skip, with a reason, where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Software rendering, so that WebGL works without a graphics card; the sandbox does not start for root.
WITH_WEBGL = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")
#: That takes seconds for a page, so that it is left out where it does not matter.
WITHOUT_WEBGL = ("--no-sandbox", "--disable-gpu", "--disable-3d-apis")


@contextmanager
def chromium() -> Iterator[Callable[[tuple[str, ...]], Any]]:
    """Gives a function that starts a browser with some arguments; they all end with the block."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed here (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here")
    with playwright.sync_playwright() as driver:
        started = []

        def start(arguments: tuple[str, ...]) -> Any:
            started.append(driver.chromium.launch(executable_path=program, args=list(arguments)))
            return started[-1]

        try:
            yield start
        finally:
            for browser in started:
                browser.close()


class Watched:
    """A page whose complaints and requests are written down.

    Parameters
    ----------
    browser : Browser
    path : Path
        Of the report.
    size : tuple of int
        Of the window, pixels.
    scheme : str
        ``light`` or ``dark``.
    """

    def __init__(self, browser: Any, path: Path, size: tuple[int, int] = (1280, 900), scheme: str = "light") -> None:
        width, height = size
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True, offline=True
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.path = path
        self.open()

    def open(self) -> None:
        """Load the page, anew if it is there."""
        self.page.goto(self.path.as_uri())
        self.page.wait_for_selector("body[data-ready]")
        self.page.wait_for_selector("#canvas3d[data-ready]")

    def _heard(self, message: Any) -> None:
        # software rendering is slow at reading pixels back, and says so; that is no fault of the page
        if message.type in ("error", "warning") and "GL Driver Message" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def close(self) -> None:
        """Nothing may have been complained about, nor asked for from elsewhere."""
        self.context.close()
        assert self.complaints == []
        assert not [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]
