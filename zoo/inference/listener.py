"""The socket of a server."""

from __future__ import annotations

import socket

from zoo.errors import ConfigError


def bind(host: str, port: int) -> socket.socket:
    """Reserve the address of the server.

    Raises:
        ConfigError: it cannot be used.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        raise ConfigError(f"The server cannot use {host}:{port} ({error}); give another --host or --port.") from error
    return listener


def server_url(listener: socket.socket, host: str) -> str:
    """Return the URL of a server that listens on this socket."""
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{listener.getsockname()[1]}"
