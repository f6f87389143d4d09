"""A real browser, and what it must never have seen when a test is over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PATIENCE_MS = 30_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, headless: $CHROMIUM, or what is installed."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert path, "no Chromium is found: apt install chromium, or set CHROMIUM to its path"
    with sync_api.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=path, args=FLAGS.split())
        yield launched
        launched.close()


class Screen:
    """One window; it keeps what it has asked for and complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.forgiven = False  # the server is to go away in this test: that is complained of
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on(
            "console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text)
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(f"a dialog: {dialog.message}"), dialog.dismiss()))

    @contextmanager
    def at(self, address: str) -> Iterator[None]:
        """The page that is served there; it is left before its server ends."""
        self.page.goto(address, wait_until="domcontentloaded")
        yield
        self.page.goto("about:blank")

    def until(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript expression is true."""
        self.page.wait_for_function(condition, arg=argument)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found


@pytest.fixture
def screen(browser: Any) -> Iterator[Screen]:
    """A window of 1920 x 1080 that must have nothing to complain of, and ask nobody else for anything."""
    page = browser.new_page(viewport={"width": 1920, "height": 1080})
    found = Screen(page)
    yield found
    page.close()
    home = {url.split("/")[2] for url in found.asked if url != "about:blank"}
    assert len(home) <= 1, f"the page asked elsewhere: {home}"
    assert found.forgiven or not found.complaints
