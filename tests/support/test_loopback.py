"""The simulated internet behaves like real hosts for unpatched clients."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gdown
import pytest
import requests
from gdown.exceptions import DownloadError, FileURLRetrievalError
from loopback import QUOTA, Loopback

URL = "https://download.example.org/models/a.pth"
BYTES = bytes(range(256)) * 1000
FILE, OTHER, FOLDER = "1file_of_a_drive-23456789", "2file_of_a_drive-23456789", "1folder_of_a_drive-456789"
CONTENT = "https://drive.usercontent.google.com/download"


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with Loopback() as loopback:
        for name, value in loopback.environment().items():
            monkeypatch.setenv(name, value)
        yield loopback


def fetch(url: str = URL, **headers: str) -> requests.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(url, headers=names, timeout=(5, 0.5))


def drive(target: Path, file_id: str = FILE, **options: Any) -> bytes:
    options = {"quiet": True, "use_cookies": False, "timeout": (5, 0.5)} | options
    return Path(gdown.download(id=file_id, output=str(target), **options)).read_bytes()


def test_clients_reach_any_host_with_its_certificate(net: Loopback) -> None:
    net.put(URL, BYTES)
    net.put("https://other.example.com/b?x=1", b"b")
    answer = fetch()
    assert (answer.content, answer.headers["Content-Length"]) == (BYTES, "256000")
    with urllib.request.urlopen("https://other.example.com/b?x=1") as opened:
        assert opened.read() == b"b"
    assert requests.head(URL, timeout=5).headers["ETag"] == answer.headers["ETag"]
    assert net.requests == [
        ("download.example.org", "GET", "/models/a.pth", None),
        ("other.example.com", "GET", "/b?x=1", None),
        ("download.example.org", "HEAD", "/models/a.pth", None),
    ]
    assert (net.count(URL), net.count("https://other.example.com/b"), net.count(f"{URL}?y")) == (1, 1, 0)
    assert fetch("https://other.example.com/c").status_code == 404
    with pytest.raises(requests.exceptions.ProxyError):
        fetch("https://unknown.example.com/")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(URL, verify=requests.certs.where(), timeout=5)


def test_other_processes_and_plain_addresses_get_the_same_files(net: Loopback) -> None:
    file = net.put(URL, BYTES)
    code = f"import requests; print(len(requests.get({URL!r}, timeout=5).content))"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | net.environment(), capture_output=True)
    assert (done.stdout, done.returncode) == (b"256000\n", 0)
    base = net.plain("https://download.example.org")
    assert fetch(base.rstrip("/") + "/models/a.pth").content == BYTES
    assert (net.count(URL), file.served, file.sent) == (2, 2, 512000)


def test_ranges_are_honored_or_not(net: Loopback) -> None:
    file = net.put(URL, BYTES)
    tag, date = (fetch().headers[name] for name in ("ETag", "Last-Modified"))
    for asked, start, stop in (("bytes=1000-", 1000, 256000), ("bytes=5-9", 5, 10), ("bytes=-7", 255993, 256000)):
        for condition in ({}, {"If_Range": tag}, {"If_Range": date}):
            part = fetch(Range=asked, **condition)
            assert (part.status_code, part.content) == (206, BYTES[start:stop])
            assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/256000"
    assert net.requests[2].range == "bytes=1000-"
    assert fetch(Range="bytes=256000-").status_code == 416
    file.content = BYTES[::-1]
    whole = fetch(Range="bytes=1000-", If_Range=tag)
    assert (whole.status_code, whole.content) == (200, BYTES[::-1])
    assert whole.headers["ETag"] != tag and whole.headers["Last-Modified"] != date
    file.ranges = file.etag = file.last_modified = False
    whole = fetch(Range="bytes=1000-")
    assert (whole.status_code, whole.content) == (200, BYTES[::-1])
    assert not {"ETag", "Last-Modified", "Accept-Ranges", "Content-Range"} & set(whole.headers)


def received(url: str = URL) -> tuple[int, str]:
    """Return the number of received bytes and how the transfer ended."""
    got = 0
    try:
        with requests.get(url, stream=True, timeout=(5, 0.5)) as answer:
            for chunk in answer.iter_content(1000):
                got += len(chunk)
    except requests.exceptions.RequestException as error:
        return got, type(error).__name__
    return got, "end"


def test_connections_are_cut_stalled_or_of_wrong_length(net: Loopback) -> None:
    file = net.put(URL, BYTES, cut=10000, faulty=2)
    assert [received() for _ in range(3)] == [(10000, "ChunkedEncodingError")] * 2 + [(256000, "end")]
    file.framing, file.faulty = "chunked", 1
    assert [received() for _ in range(2)] == [(10000, "ChunkedEncodingError"), (256000, "end")]
    file.framing, file.faulty = "close", 1
    assert [received() for _ in range(2)] == [(10000, "end"), (256000, "end")]  # this framing cannot reveal the cut
    file.cut, file.faulty, file.framing = None, None, "length"
    file.claim = 256001
    assert received() == (256000, "ChunkedEncodingError")
    file.claim = 1000
    assert received() == (1000, "end")
    file.claim, file.stall = None, 20000
    assert received() == (20000, "ConnectionError")
    file.stall = 0
    assert received() == (0, "ReadTimeout")


def test_throttle_limits_the_speed(net: Loopback) -> None:
    net.put(URL, BYTES[:60000], throttle=100000)
    began = time.monotonic()
    assert fetch().content == BYTES[:60000]
    assert 0.5 < time.monotonic() - began < 3


def test_statuses_pages_and_redirects_replace_a_file(net: Loopback) -> None:
    file = net.put(URL, BYTES, statuses=[429, 503, 500, 403, 404], retry_after="7")
    answers = [fetch() for _ in range(6)]
    assert [a.status_code for a in answers] == [429, 503, 500, 403, 404, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert file.served == 1
    file.page = "<!DOCTYPE html><html>Come back</html>"
    assert fetch().text == file.page and fetch().headers["Content-Type"].startswith("text/html")
    other = net.put("https://elsewhere.example.net/c", b"c", later=b"d")
    file.page, file.redirect = None, "https://elsewhere.example.net/c"
    first, second = fetch(), fetch()
    assert (first.content, second.content, first.url) == (b"c", b"d", file.redirect)
    assert first.headers["ETag"] != second.headers["ETag"]
    assert (other.served, net.count(URL)) == (2, 10)


def test_requests_are_served_concurrently(net: Loopback) -> None:
    net.put(URL, BYTES, throttle=1_000_000)
    lengths: list[int] = []
    threads = [threading.Thread(target=lambda: lengths.append(len(fetch().content))) for _ in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [len(BYTES)] * 8
    assert time.monotonic() - began < 2


# Google Drive --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["direct", "warning"])
def test_drive_serves_files(mode: str, net: Loopback, tmp_path: Path) -> None:
    net.drive_file(FILE, "a.pth", BYTES, mode)
    digest = hashlib.sha256()
    assert drive(tmp_path / "out", hasher=digest) == BYTES
    assert digest.digest() == hashlib.sha256(BYTES).digest()
    assert gdown.download(id=FILE, skip_download=True, quiet=True, use_cookies=False).path == "a.pth"
    confirmed = [request.path for request in net.requests if "confirm=t&uuid=" in request.path]
    assert (len(confirmed) == 2) == (mode == "warning")
    url = f"https://drive.google.com/file/d/{FILE}/view"
    assert Path(gdown.download(url, str(tmp_path / "b"), quiet=True, use_cookies=False)).read_bytes() == BYTES


def test_drive_refuses_requests(net: Loopback, tmp_path: Path) -> None:
    file = net.drive_file(FILE, "a.pth", BYTES, "quota")
    with pytest.raises(FileURLRetrievalError) as caught:
        drive(tmp_path / "out")
    assert QUOTA in " ".join(str(caught.value).split())
    for mode in ("denied", "gone"):
        file.mode = mode
        with pytest.raises(FileURLRetrievalError, match="Cannot retrieve the public link"):
            drive(tmp_path / "out")
    assert fetch(f"https://drive.google.com/uc?id={FILE}").status_code == 404
    with pytest.raises(FileURLRetrievalError, match="Cannot retrieve the public link"):
        drive(tmp_path / "out", OTHER)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["direct", "warning"])
def test_faults_apply_to_drive_content(mode: str, net: Loopback, tmp_path: Path) -> None:
    large, kept = BYTES * 4, 1 << 19  # gdown writes half a MiB at a time, and loses the part that it was reading
    file = net.drive_file(FILE, "a.pth", large, mode, cut=600000, faulty=1)
    assert drive(tmp_path / "a", retries=2) == large
    assert (file.served, file.sent) == (2, 600000 + len(large) - kept)
    assert net.requests[-1].range == f"bytes={kept}-"
    file.faulty = 1
    with pytest.raises(DownloadError, match=f"incomplete: received {kept} bytes but the server announced 1024000"):
        drive(tmp_path / "b")
    file.ranges = False
    with pytest.raises(DownloadError, match="did not honor"):
        drive(tmp_path / "b", resume=True)
    file.ranges = True
    assert drive(tmp_path / "b", resume=True) == large
    file.statuses = [503]
    with pytest.raises(FileURLRetrievalError):
        drive(tmp_path / "c")
    file.stall, file.faulty = 1000, None
    with pytest.raises(requests.exceptions.ConnectionError):
        drive(tmp_path / "c")


def test_drive_serves_folders(net: Loopback, tmp_path: Path) -> None:
    net.drive_file(FILE, "a & b.pth", BYTES, "warning")
    net.drive_file(OTHER, "c.pth", b"c" * 10)
    net.drive_folder(FOLDER, "models", {"a & b.pth": FILE, "c.pth": OTHER})
    options: dict[str, Any] = {"quiet": True, "use_cookies": False}
    listed = gdown.download_folder(id=FOLDER, skip_download=True, **options)
    assert [(each.id, each.path) for each in listed] == [(FILE, "a & b.pth"), (OTHER, "c.pth")]
    got = gdown.download_folder(id=FOLDER, output=str(tmp_path / "models"), **options)
    assert [Path(path).read_bytes() for path in got] == [BYTES, b"c" * 10]
    with pytest.raises(DownloadError, match="status code 404"):
        gdown.download_folder(id=FOLDER[::-1], skip_download=True, **options)
