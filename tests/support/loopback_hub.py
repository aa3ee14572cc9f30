"""A Hugging Face Hub on 127.0.0.1 for the unpatched huggingface_hub, in this process or another.

It has users with tokens, and repositories with commits, branches and pull requests. Large files are on a separate host,
as on the real Hub. All state is in memory and can be read and changed at any time.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from loopback_hub_api import ATTRIBUTES, Commit, HubHandler, Repository, Request, StoreHandler, User

__all__ = ["Commit", "LoopbackHub", "Repository", "User"]


class LoopbackHub:
    """The Hub. ``with LoopbackHub() as hub: hub.point(monkeypatch, tmp_path)`` sends huggingface_hub here.

    tokens: token -> user. repositories: "user/repo" or "spaces/user/space" -> Repository. objects: sha256 -> large
    file.
    fail: (pattern of "METHOD path", status or function) -> number of requests that fail. A function is called with the
    handler instead of sending the status; it may close the connection.
    """

    def __init__(self) -> None:
        self.tokens = {
            "hf_alice": User("alice", orgs={"lab": "write", "club": "read"}),
            "hf_reader": User("alice", role="read"),
            "hf_bob": User("bob"),
        }
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.fail: dict[tuple[str, int | Callable[[Any], None]], int] = {}

    def __enter__(self) -> LoopbackHub:
        self._servers = []
        for handler in (HubHandler, StoreHandler):
            kind = type(handler.__name__, (handler,), {"hub": self})
            server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self._servers.append(server)
        self.address, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def environment(self, home: Path, token: str | None = "hf_alice") -> dict[str, str]:
        """Return variables that direct another process's huggingface_hub here."""
        variables = {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return variables | ({"HF_TOKEN": token} if token else {})

    def point(self, monkeypatch: pytest.MonkeyPatch, home: Path, token: str | None = "hf_alice") -> None:
        """Direct this process's huggingface_hub here, with a separate cache. It has read its environment already."""
        from huggingface_hub import constants

        values = {
            "ENDPOINT": self.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TEMPOZOO_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)

    def put(self, name: str, files: Mapping[str, bytes], ref: str = "main", **more: Any) -> str:
        """Commit files to a repository, created if necessary. Returns the commit's id."""
        repository = self.repositories.setdefault(name, Repository(**more))
        if "main" not in repository.refs:
            repository.add("main", Commit(dict(ATTRIBUTES)))
        parent = repository.refs.get(ref, repository.refs["main"])
        return repository.add(ref, Commit(repository.commits[parent].files | dict(files), "put", parent))

    def asked(self, pattern: str) -> int:
        """Count the requests that match a pattern, such as "POST .*/commit/"."""
        return sum(bool(re.match(pattern, f"{request.method} {request.path}")) for request in self.requests)
