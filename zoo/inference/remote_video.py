"""Download a video from a URL that a client of the server names, without reaching hosts that the server protects.

Every request goes to an address that was checked: the host name is resolved once, and the connection is opened to that
address, so a name that resolves differently the next time has no effect. The checks are repeated for every redirect.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import socket
import ssl
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import h11
from fastapi import HTTPException

from zoo.settings import offline
from zoo.text import brief, one_line

ANY_PUBLIC_HOST = "*"  # in the list of allowed hosts
PORTS = {"http": 80, "https": 443}
MAX_REDIRECTS = 5
MAX_URL = 4096  # characters
CHUNK = 1 << 16
REDIRECTS = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv6 addresses that gateways translate to IPv4


class Target(NamedTuple):
    """One request: the parts of a URL, and the addresses of its host."""

    scheme: str
    host: str
    port: int
    path: str
    addresses: tuple[str, ...]


async def fetch_video(url: str, allowed: Collection[str], max_bytes: int) -> bytes:
    """Download a video. The caller limits the time by cancelling.

    Args:
        allowed: hosts that may be reached, in lower case; ``ANY_PUBLIC_HOST`` stands for every host with public
            addresses. A host that is listed by name may have any address.
        max_bytes: larger videos are refused.

    Raises:
        HTTPException: 400, invalid URL; 403, host or address not allowed; 413, too large; 502, the host failed.
    """
    if not allowed or offline():
        raise HTTPException(403, "URLs are not enabled on this server; upload the video.")
    for _ in range(MAX_REDIRECTS + 1):
        target = await resolve(url, allowed)
        content, location = await _request(target, max_bytes)
        if content is not None:
            return content
        try:
            url = urljoin(url, location)
        except ValueError as error:
            raise HTTPException(502, "The URL redirects to an invalid URL.") from error
        if target.scheme == "https" and url.lower().startswith("http:"):
            raise HTTPException(403, "The URL redirects from https to http.")
    raise HTTPException(502, f"The URL redirects more than {MAX_REDIRECTS} times.")


async def resolve(url: str, allowed: Collection[str]) -> Target:
    """Check a URL and resolve its host.

    Raises:
        HTTPException: as of ``fetch_video``.
    """
    try:
        if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it must be at most 4096 printable ASCII characters, without spaces")
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise HTTPException(400, f"Invalid URL: {one_line(str(error), 200)}.") from error
    if parts.scheme not in PORTS:
        raise HTTPException(403, f"URLs of type {brief(parts.scheme)} are not allowed; use https or http.")
    if not host or parts.username is not None or parts.password is not None:
        raise HTTPException(400, "Invalid URL: it needs a host, and no user name or password.")
    if host not in allowed and ANY_PUBLIC_HOST not in allowed:
        raise HTTPException(403, f"The host {one_line(host)} is not allowed on this server.")
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HTTPException(502, f"The host {one_line(host)} has no address.") from error
    addresses = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
    if host not in allowed and not (addresses and all(map(is_public, addresses))):
        raise HTTPException(403, f"The host {one_line(host)} has an address that is not public.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path, addresses)


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, including an IPv4 address inside of an IPv6 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.teredo is not None or ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


async def _request(target: Target, max_bytes: int) -> tuple[bytes | None, str]:
    """Send a GET request; return the body, or None and the location of a redirect."""
    try:
        reader, writer = await _connect(target)
        try:
            return await _exchange(target, reader, writer, max_bytes)
        finally:
            writer.transport.abort()
    except (OSError, ssl.SSLError, h11.RemoteProtocolError) as error:
        reason = one_line(str(error), 200) or type(error).__name__
        raise HTTPException(502, f"The video cannot be downloaded from {one_line(target.host)}: {reason}.") from error
    except h11.LocalProtocolError as error:  # such as a path with characters that HTTP does not allow
        raise HTTPException(400, f"Invalid URL: {one_line(str(error), 200)}.") from error


async def _connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address that answers; the certificate is verified for the name of the host."""
    context = ssl.create_default_context() if target.scheme == "https" else None
    name = target.host if context else None
    for number, address in enumerate(target.addresses, 1):
        try:
            return await asyncio.open_connection(address, target.port, ssl=context, server_hostname=name)
        except OSError:
            if number == len(target.addresses):
                raise
    raise OSError("no address")


async def _exchange(
    target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_bytes: int
) -> tuple[bytes | None, str]:
    connection = h11.Connection(h11.CLIENT)
    host = f"[{target.host}]" if ":" in target.host else target.host
    host = host if target.port == PORTS[target.scheme] else f"{host}:{target.port}"
    headers = [("Host", host), ("Accept-Encoding", "identity"), ("Connection", "close"), ("User-Agent", "tempozoo")]
    request = connection.send(h11.Request(method="GET", target=target.path, headers=headers))
    end = connection.send(h11.EndOfMessage())
    writer.write((request or b"") + (end or b""))
    await writer.drain()
    body = io.BytesIO()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(CHUNK))
        elif isinstance(event, h11.Response):
            fields = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers}
            if event.status_code in REDIRECTS and "location" in fields:
                return None, fields["location"]
            _check_response(event.status_code, fields, max_bytes)
        elif isinstance(event, h11.Data):
            if body.tell() + len(event.data) > max_bytes:
                raise HTTPException(413, f"The video at the URL has more than {max_bytes} bytes.")
            body.write(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return body.getvalue(), ""
        elif isinstance(event, h11.ConnectionClosed):
            raise OSError("the connection was closed")


def _check_response(status: int, headers: dict[str, str], max_bytes: int) -> None:
    if status != 200:
        raise HTTPException(502, f"The host of the video answers with status {status}.")
    if headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(502, "The host of the video sends it compressed.")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise HTTPException(413, f"The video at the URL has {length} bytes; at most {max_bytes} are allowed.")
