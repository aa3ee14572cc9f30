"""Open pages in a headless Chromium, through its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
           "--disable-dev-shm-usage", "--remote-debugging-port=0")  # fmt: skip
TIMEOUT = 180.0  # seconds; Chromium is slow to start on a busy machine


@dataclass
class Visit:
    """What a browser reports about a page.

    Attributes:
        value: result of the script.
        requests: URLs that the page requested, without data URLs.
        errors: messages of the console, exceptions and blocked resources.
        screenshot: PNG file of the whole page.
    """

    value: Any = None
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    screenshot: bytes = b""


def find_browser() -> str:
    """Return the path of Chromium; skip the test if it is not installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    return path


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
    with _running_browser(find_browser()) as address:
        return asyncio.run(asyncio.wait_for(_visit(address, url, script, schemes, width), TIMEOUT))


@contextlib.contextmanager
def _running_browser(path: str) -> Iterator[str]:
    """Run Chromium; yield its DevTools address."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [path, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            file, end = Path(profile, "DevToolsActivePort"), time.monotonic() + TIMEOUT
            while not (file.exists() and file.read_text().count("\n")):
                assert process.poll() is None, f"{path} ended with status {process.returncode}"
                assert time.monotonic() < end, f"{path} did not start"
                time.sleep(0.05)
            yield f"http://127.0.0.1:{file.read_text().splitlines()[0]}"
        finally:
            process.terminate()
            process.wait(30)


class Connection:
    """Connection to a page: sends commands and collects the events that arrive meanwhile."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.events: list[Mapping[str, Any]] = []

    async def send(self, method: str, **parameters: Any) -> Mapping[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self.events.append(message)

    async def wait_for(self, event: str) -> None:
        """Wait until an event has arrived."""
        while not any(message.get("method") == event for message in self.events):
            self.events.append(await self._socket.receive_json())


@contextlib.asynccontextmanager
async def _connect(address: str) -> AsyncIterator[Connection]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{address}/json/list") as response:
            targets = await response.json()
        url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        async with session.ws_connect(url, max_msg_size=0) as socket:
            yield Connection(socket)


async def _visit(address: str, url: str, script: str, schemes: Sequence[str], width: int) -> dict[str, Visit]:
    visits = {}
    async with _connect(address) as page:
        for domain in ("Page", "Runtime", "Network", "Log"):
            await page.send(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await page.send("Emulation.setDeviceMetricsOverride", **size)
        for scheme in schemes:
            page.events.clear()
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await page.send("Emulation.setEmulatedMedia", features=features)
            await page.send("Page.navigate", url=url)
            await page.wait_for("Page.loadEventFired")
            answer = await page.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
            assert "exceptionDetails" not in answer, answer
            image = await page.send("Page.captureScreenshot", captureBeyondViewport=True)
            visits[scheme] = Visit(
                answer["result"].get("value"), *_requests_and_errors(page.events), base64.b64decode(image["data"])
            )
    return visits


def _requests_and_errors(events: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    requests, errors = [], []
    for event in events:
        method, content = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent" and not content["request"]["url"].startswith("data:"):
            requests.append(content["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            errors.append(str(content["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            errors.append(str(content["args"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            errors.append(f"{content['entry']['text']} {content['entry'].get('url', '')}")
    return requests, errors
