"""A proxy that acts as every host: it terminates each ``CONNECT`` itself and serves files with configured faults."""

from __future__ import annotations

import contextlib
import email.utils
import functools
import hashlib
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import trustme


@dataclass
class File:
    """A file at a URL and how it is served. Every field can be changed between requests.

    content: bytes, or anything with a buffer, such as an mmap of a large file.
    later: the content from the second response on.
    headers: sent with the content.
    etag, last_modified: whether these are sent; both follow the content.
    ranges: whether Range and If-Range are honored; otherwise all of the file is sent with status 200.
    framing: how the end of a body is marked: "length", "chunked", or "close" (by closing the connection).
    throttle: bytes a second.
    cut: the connection is closed after this many bytes of a body.
    stall: sending stops after this many bytes of a body; 0: there is no response at all.
    claim: length of the file according to the headers.
    faulty: number of responses to which cut, stall and claim apply; None: all.
    statuses: statuses of the first responses, with Retry-After if ``retry_after`` is set.
    page: web page sent instead, with status 200.
    redirect: URL to redirect to instead, with status 302.
    served, sent: number of responses with content so far, and their bytes.
    """

    content: Any = field(repr=False)
    later: Any = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict)
    etag: bool = True
    last_modified: bool = True
    ranges: bool = True
    framing: str = "length"
    throttle: int | None = None
    cut: int | None = None
    stall: int | None = None
    claim: int | None = None
    faulty: int | None = None
    statuses: list[int] = field(default_factory=list)
    retry_after: str | None = None
    page: str | None = None
    redirect: str | None = None
    served: int = 0
    sent: int = 0
    _digest: tuple[Any, str] = field(default=(None, ""), init=False, repr=False)

    def validators(self) -> dict[str, str]:
        """Return the enabled ones of ETag and Last-Modified."""
        if self._digest[0] is not self.content:
            self._digest = self.content, hashlib.blake2b(self.content, digest_size=16).hexdigest()
        digest = self._digest[1]
        headers = {}
        if self.etag:
            headers["ETag"] = f'"{digest}"'
        if self.last_modified:
            headers["Last-Modified"] = email.utils.formatdate(1.6e9 + int(digest[:6], 16), usegmt=True)
        return headers

    def override(self) -> Reply | None:
        """Return the response that replaces the file in this request, or None."""
        if self.statuses:
            after = {"Retry-After": self.retry_after} if self.retry_after else {}
            return Reply(self.statuses.pop(0), "<html>It did not work.</html>", after)
        if self.page is not None:
            return Reply(200, self.page)
        return None if self.redirect is None else Reply(302, headers={"Location": self.redirect})


@dataclass
class Reply:
    """A short response without faults."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class Request(NamedTuple):
    """A client's request; the path includes the query."""

    host: str
    method: str
    path: str
    range: str | None


def lost(path: str = "") -> Reply:
    """Return the response for an unknown URL."""
    return Reply(404, "<!DOCTYPE html><html><title>Error 404 (Not Found)</title>There is nothing here.</html>")


def split_url(url: str) -> tuple[str, str]:
    """Split a URL into host and path with query."""
    split = urlsplit(url)
    return split.hostname or "", (split.path or "/") + (f"?{split.query}" if split.query else "")


@functools.cache
def authority() -> trustme.CA:
    """Return the authority that signs every host's certificate."""
    return trustme.CA()


@functools.cache
def _tls(host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(host).configure_cert(context)
    return context


class Server(ThreadingHTTPServer):
    """The proxy; every connection has a thread.

    hosts: name -> function that responds to a path.
    requests: all requests in order.
    """

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hosts: dict[str, Callable[[str], File | Reply]] = {}
        self.requests: list[Request] = []
        self.lock, self.closing = threading.Lock(), threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnected or do not trust the certificate."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection: to a host through the proxy, or plain, with the host as the first part of the path."""

    protocol_version = "HTTP/1.1"
    server: Server
    tunnel = ""  # the host that this connection was tunnelled to

    def log_message(self, *_: Any) -> None: ...

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.connection.close()

    def do_CONNECT(self) -> None:
        self.tunnel = self.path.rpartition(":")[0]
        if self.tunnel not in self.server.hosts:
            self.server.requests.append(Request(self.tunnel, "CONNECT", "", None))
            return self.send_error(502, f"there is no host {self.tunnel}")
        self.send_response(200)
        self.end_headers()
        self.request = _tls(self.tunnel).wrap_socket(self.connection, server_side=True)
        self.setup()  # reads and writes use TLS from now on
        self.close_connection = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        host, path = (self.tunnel, self.path) if self.tunnel else split_url(self.path)
        if not host:
            host, _, path = path[1:].partition("/")
            path = f"/{path}"
        self.server.requests.append(Request(host, self.command, path, self.headers.get("Range")))
        answer = self.server.hosts.get(host, lost)(path)
        if isinstance(answer, File):
            with self.server.lock:
                override = answer.override()
            if override is None:
                return self.serve(answer)
            answer = override
        body = answer.body.encode()
        self.head(answer.status, {"Content-Type": "text/html; charset=utf-8", **answer.headers}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def serve(self, file: File) -> None:
        """Send a file, or the requested range of it."""
        with self.server.lock:
            content, tags = file.content, file.validators()
            cut, stall, claim = (None, None, None) if file.faulty == 0 else (file.cut, file.stall, file.claim)
            if self.command != "HEAD":
                file.served += 1
                file.faulty = file.faulty - 1 if file.faulty else file.faulty
                file.content = content if file.later is None else file.later
        if stall == 0:
            self.server.closing.wait()
            return self.drop()
        size, claimed = len(content), len(content) if claim is None else claim
        headers = {"Content-Type": "application/octet-stream", **tags, **file.headers}
        status, start, stop = 200, 0, size
        if file.ranges:
            headers["Accept-Ranges"] = "bytes"
            requested = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if requested and any(requested.groups()) and self.headers.get("If-Range", "") in ("", *tags.values()):
                first, last = requested.groups()
                start = int(first) if first else max(0, size - int(last))
                stop = min(size, int(last) + 1) if first and last else size
                if start >= stop:
                    return self.head(416, {"Content-Range": f"bytes */{claimed}"}, 0)
                status = 206
        end = claimed if stop == size else stop
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{claimed}"
        if file.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif file.framing == "close":
            headers["Connection"] = "close"
        self.head(status, headers, end - start if file.framing == "length" else None)
        if self.command != "HEAD":
            self.send_body(file, memoryview(content)[start:stop], cut, stall)
            if end != stop:
                self.drop()

    def send_body(self, file: File, body: memoryview, cut: int | None, stall: int | None) -> None:
        end = min([len(body)] + [limit for limit in (cut, stall) if limit is not None])
        step = max(1, file.throttle // 20) if file.throttle else 1 << 16
        for start in range(0, end, step):
            piece = bytes(body[start : min(start + step, end)])
            with self.server.lock:  # before writing, so that the count is complete when the client has the whole body
                file.sent += len(piece)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if file.framing == "chunked" else piece)
            if file.throttle:
                time.sleep(len(piece) / file.throttle)
        if end < len(body):
            if end == stall:
                self.server.closing.wait()
            self.drop()
        elif file.framing == "chunked":
            self.wfile.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Close the connection in the middle of a response."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
