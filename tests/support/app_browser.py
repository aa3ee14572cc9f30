"""A page in the Chromium of this machine that records its requests and errors."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

LOCAL_SCHEMES = ("data", "blob", "about")


@dataclass
class Recording:
    """An open page.

    page: the page of Playwright.
    hosts: hosts of all its requests.
    errors: messages of level "error" on its console, uncaught exceptions, and failed requests.
    """

    page: Any
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


@contextlib.contextmanager
def open_page(url: str, **options: Any) -> Iterator[Recording]:
    """Open a URL; the test is skipped if Playwright or Chromium is missing.

    Args:
        options: of a Playwright context, such as ``viewport`` and ``color_scheme``.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with contextlib.closing(browser):
            page = browser.new_page(**options)
            recording = Recording(page)
            page.on("request", lambda request: add_host(recording, request.url))
            page.on("requestfailed", lambda request: add_failure(recording, request))
            page.on("pageerror", lambda error: recording.errors.append(str(error)))
            page.on("console", lambda message: add_message(recording, message))
            page.goto(url)
            yield recording


def add_host(recording: Recording, url: str) -> None:
    """Record the host of a request to a server."""
    parts = urlsplit(url)
    if parts.scheme not in LOCAL_SCHEMES:
        recording.hosts.add(parts.hostname or url)


def add_failure(recording: Recording, request: Any) -> None:
    """Record a failed request, unless the page ended it, as it does with streams of events."""
    if request.failure != "net::ERR_ABORTED":
        recording.errors.append(f"{request.url}: {request.failure}")


def add_message(recording: Recording, message: Any) -> None:
    """Record an error on the console."""
    if message.type == "error":
        recording.errors.append(message.text)
