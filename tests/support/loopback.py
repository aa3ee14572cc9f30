"""A simulated internet on 127.0.0.1 for unpatched clients (requests, urllib, gdown, httpx).

Environment variables direct the clients to a proxy (loopback_http.py) that serves files at any https URL. Google
Drive's pages are imitated.
"""

from __future__ import annotations

import hashlib
import html
import re
import tempfile
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from loopback_http import File, Reply, Server, authority, lost, split_url

DRIVE, CONTENT, LOGIN = "drive.google.com", "drive.usercontent.google.com", "accounts.google.com"
MODES = ("direct", "warning", "quota", "denied", "gone")
LONG = re.compile(r"[-\w]{25,}")  # gdown overlooks shorter ids in folders
QUOTA = (
    "Too many users have viewed or downloaded this file recently. Please try accessing the file again later. "
    "It may take up to 24 hours to be able to view or download the file."
)


@dataclass
class DriveFile(File):
    """A file on Google Drive; ``mode`` selects the response (see ``drive_file``) and can be changed at any time."""

    mode: str = "direct"


class Loopback:
    """Hosts, their files, and the requests received. A context manager; the server runs in threads.

    hosts: name -> function that responds to a path; ``put`` and the methods for Drive add to it.
    requests: host, method, path with query, and Range header of each request.
    address: URL of the proxy.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], File] = {}
        self._drive: dict[str, DriveFile] = {}
        self._folders: dict[str, tuple[str, Mapping[str, str]]] = {}

    def __enter__(self) -> Loopback:
        self._folder = tempfile.TemporaryDirectory()
        self.authority = str(Path(self._folder.name, "authority.pem"))  # clients trust this certificate
        authority().cert_pem.write_to_path(self.authority)
        self._server = Server()
        self.hosts, self.requests = self._server.hosts, self._server.requests
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        urllib.request.install_opener(None)  # urllib reads the proxies of ``environment`` only once
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._folder.cleanup()
        urllib.request.install_opener(None)

    def environment(self) -> dict[str, str]:
        """Return variables that direct clients here. They reach 127.0.0.1 directly, so other servers can run there."""
        proxies = {"http_proxy": self.address, "https_proxy": self.address, "all_proxy": "", "no_proxy": "127.0.0.1"}
        trust = dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"), self.authority)
        return proxies | {name.upper(): value for name, value in proxies.items()} | trust

    def put(self, url: str, content: Any, **faults: Any) -> File:
        """Serve a file at a URL. ``faults`` are fields of the returned File and can be changed there later."""
        host, path = split_url(url)
        file = self._files[host, path] = File(content, **faults)
        self.hosts.setdefault(host, lambda requested: self._files.get((host, requested)) or lost())
        return file

    def plain(self, url: str) -> str:
        """Return the URL of the same file or folder without a proxy: http://127.0.0.1:port/host/path."""
        host, path = split_url(url)
        return f"{self.address}/{host}{path}"

    def count(self, url: str) -> int:
        """Count the GET requests of a URL; a URL without a query matches all queries."""
        host, path = split_url(url)
        paths = [request.path for request in self.requests if request[:2] == (host, "GET")]
        return sum(path in (other, other.partition("?")[0]) for other in paths)

    # Google Drive ----------------------------------------------------------------------------------------------------

    def drive_file(self, file_id: str, name: str, content: Any, mode: str = "direct", **faults: Any) -> DriveFile:
        """Add a file to Drive. Faults apply to its content, behind the redirect and the warning.

        mode: "direct"; "warning" of a file too large to be scanned for viruses; "quota"; "denied" (log in); "gone".
        """
        assert mode in MODES and LONG.fullmatch(file_id), (mode, file_id)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        self._drive[file_id] = DriveFile(content, **({"etag": False, "headers": headers} | faults), mode=mode)
        self.hosts |= {DRIVE: self._drive_page, CONTENT: self._drive_content, LOGIN: _log_in}
        return self._drive[file_id]

    def drive_folder(self, folder_id: str, name: str, files: Mapping[str, str]) -> None:
        """Add a folder to Drive: file names with their ids."""
        assert all(LONG.fullmatch(each) for each in (folder_id, *files.values())), files
        self._folders[folder_id] = (name, files)
        self.hosts |= {DRIVE: self._drive_page, CONTENT: self._drive_content, LOGIN: _log_in}

    def _drive_page(self, path: str) -> Reply:
        route, _, query = path.partition("?")
        file_id = parse_qs(query).get("id", [""])[0]
        if route == "/embeddedfolderview" and file_id in self._folders:
            name, files = self._folders[file_id]
            links = [f'<a href="https://{DRIVE}/file/d/{i}/view">{html.escape(n)}</a>' for n, i in files.items()]
            return _page(name, "\n".join(f"<div>{link}</div>" for link in links))
        viewed = re.match(r"/file/d/([-\w]+)", route)
        file_id = viewed[1] if viewed else file_id
        if file_id not in self._drive or self._drive[file_id].mode == "gone":
            return lost()
        if self._drive[file_id].mode == "denied":
            return _to(f"https://{LOGIN}/ServiceLogin?" + urlencode({"continue": f"https://{DRIVE}{path}"}))
        if viewed:
            return _page("Google Drive", "<p>This page needs scripts.</p>")
        if route == "/open":
            return _to(f"https://{DRIVE}/file/d/{file_id}/view")
        return _to(f"https://{CONTENT}/download?id={file_id}&export=download") if route == "/uc" else lost()

    def _drive_content(self, path: str) -> File | Reply:
        query = parse_qs(urlsplit(path).query)
        file_id = query.get("id", [""])[0]
        file = self._drive.get(file_id)
        if file is None or file.mode == "gone":
            return lost()
        if file.mode == "denied":
            return _to(f"https://{LOGIN}/ServiceLogin")
        if file.mode == "quota":
            apology = '<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>'
            return _page("Google Drive - Quota exceeded", f'{apology}\n<p class="uc-error-subcaption">{QUOTA}</p>')
        if file.mode == "warning" and query.get("confirm") != ["t"]:
            uuid = hashlib.md5(file_id.encode()).hexdigest()
            hidden = {"id": file_id, "export": "download", "confirm": "t", "uuid": uuid}
            inputs = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in hidden.items())
            button = '<input type="submit" id="uc-download-link" value="Download anyway"/>'
            form = f'<form id="download-form" action="https://{CONTENT}/download" method="get">{button}{inputs}</form>'
            return _page("Google Drive - Virus scan warning", f"<p>This file is too large to be scanned.</p>\n{form}")
        return file


def _page(title: str, body: str) -> Reply:
    head = f"<head><title>{html.escape(title)}</title></head>"
    return Reply(200, f"<!DOCTYPE html><html>{head}<body>\n{body}\n</body></html>")


def _to(url: str) -> Reply:
    return Reply(302, headers={"Location": url})


def _log_in(path: str) -> Reply:
    return _page("Google Drive: Sign-in", '<form><input type="email" name="identifier"></form>')
