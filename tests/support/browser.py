"""Pages in the Chromium of this machine, which record their requests and errors."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCAL_SCHEMES = ("data", "blob", "about")


@dataclass
class Recording:
    """An open page.

    Attributes:
        page: the page of Playwright.
        requests: URLs that the page requested, without data URLs.
        errors: errors of the console, uncaught exceptions, and failed requests.
        warnings: warnings of the console.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        """Hosts of the requests."""
        return {urlsplit(url).hostname or url for url in self.requests}

    def add_request(self, request: Any) -> None:
        """Record a request to a server."""
        if urlsplit(request.url).scheme not in LOCAL_SCHEMES:
            self.requests.append(request.url)

    def add_failure(self, request: Any) -> None:
        """Record a failed request, unless the page ended it, as it does with streams of events."""
        if request.failure != "net::ERR_ABORTED":
            self.errors.append(f"{request.url}: {request.failure}")

    def add_message(self, message: Any) -> None:
        """Record an error or a warning on the console."""
        if message.type in ("error", "assert"):
            self.errors.append(message.text)
        elif message.type == "warning":
            self.warnings.append(message.text)


@dataclass
class Visit:
    """Result of a visit to a page.

    Attributes:
        value: result of the script.
        requests: URLs that the page requested, without data URLs.
        errors: errors and warnings.
        screenshot: PNG file of the whole page.
    """

    value: Any
    requests: list[str]
    errors: list[str]
    screenshot: bytes


def find_browser() -> str:
    """Return the path of Chromium; skip the test if it or Playwright is not installed."""
    pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    return path


@contextlib.contextmanager
def open_page(url: str, **options: Any) -> Iterator[Recording]:
    """Open a URL; the test is skipped if Playwright or Chromium is missing.

    Args:
        url: address of the page.
        options: of a Playwright context, such as ``viewport`` and ``color_scheme``.
    """
    path = find_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with contextlib.closing(browser):
            page = browser.new_page(**options)
            recording = Recording(page)
            page.on("request", recording.add_request)
            page.on("requestfailed", recording.add_failure)
            page.on("pageerror", lambda error: recording.errors.append(str(error)))
            page.on("console", recording.add_message)
            page.goto(url)
            yield recording


def visit(
    url: str, script: str = "null", schemes: Sequence[str] = ("light", "dark"), width: int = 1280
) -> dict[str, Visit]:
    """Open a page in each color scheme.

    Args:
        url: address of the page.
        script: JavaScript expression that is evaluated when the page is loaded; promises are awaited.
        schemes: values of ``prefers-color-scheme``.
        width: width of the window in pixels.
    """
    visits = {}
    for scheme in schemes:
        with open_page(url, color_scheme=scheme, viewport={"width": width, "height": 900}) as recording:
            value = recording.page.evaluate(script)
            image = recording.page.screenshot(full_page=True)
            visits[scheme] = Visit(value, recording.requests, recording.errors + recording.warnings, image)
    return visits
