"""A Hub with invalid responses: nothing is written outside the cache, and no body is read without a limit."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_hub import LoopbackHub
from small_models import small

import zoo
from zoo.errors import CheckpointError, DownloadError, StorageError, UnknownNameError, ZooError
from zoo.hub import hub_files
from zoo.hub.pull import download_hub_file, download_hub_folder

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
NAME = "hf-hub:alice/net"


@pytest.fixture
def net() -> Any:
    return small("tanet_r18", labels=["a", "b", "c", "d"])


@pytest.fixture
def pushed(hub: LoopbackHub, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """Return a Hub with the network in alice/net."""
    folder = zoo.save(net, tmp_path / "saved")
    hub.put("alice/net", {path.name: path.read_bytes() for path in folder.iterdir()})
    monkeypatch.setattr(hub_files, "WAITS", (0.01, 0.01, 0.01))
    return hub


def files(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


def head(hub: LoopbackHub, **headers: str | None) -> Callable[[Any], None]:
    """Return a HEAD response of the weight file with changed or missing (None) headers."""
    content = hub.repositories["alice/net"].files["model.safetensors"]
    digest, commit = hashlib.sha256(content).hexdigest(), hub.repositories["alice/net"].refs["main"]
    right: dict[str, str | None] = {
        "Location": f"{hub.store}/lfs/{digest}?signature=1", "X-Linked-Etag": f'"{digest}"',
        "X-Linked-Size": str(len(content)), "X-Repo-Commit": commit,
    }  # fmt: skip
    hub.objects[digest] = content

    def answer(handler: Any) -> None:
        changed = {**right, **{name.replace("_", "-"): value for name, value in headers.items()}}
        handler.answer(302, **{name: value for name, value in changed.items() if value is not None})

    return answer


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X_Linked_Etag": '"../../../../NAME"'}, "invalid etag: '../../../../NAME'"),
        ({"X_Linked_Etag": '"' + "a" * 300 + '"'}, "invalid etag"),
        ({"X_Linked_Etag": ""}, "invalid etag"),
        ({"X_Repo_Commit": "../../../../NAME"}, "invalid commit: '../../../../NAME'"),
        ({"X_Repo_Commit": "0" * 40}, "answers with the commit 0000"),
        ({"X_Repo_Commit": None}, "invalid commit"),
        ({"X_Linked_Size": None}, "announces a size of None bytes"),
        ({"X_Linked_Size": str(1 << 50)}, "announces a size of 1125899906842624 bytes"),
        ({"X_Linked_Size": "-5"}, "announces a size of -5 bytes"),
    ],
)
def test_headers_are_validated_before_use_as_path(
    headers: dict[str, str | None], message: str, pushed: LoopbackHub, tmp_path: Path
) -> None:
    cache = tmp_path / "a" / "b" / "c" / "hub"
    commit = pushed.repositories["alice/net"].refs["main"]
    pushed.fail["HEAD .*/resolve/.*model.safetensors", head(pushed, **headers)] = 9
    before = files(tmp_path)
    with pytest.raises(DownloadError, match=message):
        download_hub_folder(NAME, cache, False)
    with pytest.raises(DownloadError, match=message):
        download_hub_file(f"{NAME}@{commit}", "model.safetensors", cache)
    new = {path for path in files(tmp_path) - before if Path(path).is_file()}
    assert not [path for path in new if not Path(path).is_relative_to(cache) or "NAME" in path or "blobs" in path]


def test_response_for_missing_file_is_not_used_as_path(pushed: LoopbackHub, tmp_path: Path) -> None:
    """huggingface_hub would record missing files in a folder named by the response."""

    def missing(handler: Any) -> None:
        handler.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit="../../../../NAME")

    pushed.fail["HEAD .*/resolve/", missing] = 9
    before = files(tmp_path)
    with pytest.raises(ZooError, match="alice/net"):
        download_hub_folder(NAME, tmp_path / "a" / "b" / "c", False)
    assert not [path for path in files(tmp_path) - before if "NAME" in path]


def test_endless_body_is_stopped_at_announced_size(pushed: LoopbackHub, tmp_path: Path) -> None:
    sent = 0

    def endless(handler: Any) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while sent < 1 << 30:
                sent += handler.wfile.write(bytes(1 << 16))
        handler.close_connection = True

    size = len(pushed.repositories["alice/net"].files["model.safetensors"])
    pushed.fail["GET /lfs", endless] = 9
    with pytest.raises(DownloadError, match=f"sends more than the {size} bytes announced"):
        download_hub_folder(NAME, tmp_path / "cache", False)
    assert sent < size + (32 << 20)  # what is in flight
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]


def test_body_of_another_length_or_content_is_an_error(pushed: LoopbackHub, tmp_path: Path) -> None:
    content = pushed.repositories["alice/net"].files["model.safetensors"]
    for body, message in (
        (content[:-10], f"sent {len(content) - 10} bytes of the {len(content)}"),
        (content + b"x", "sends more than"),
        (content[:-1] + bytes([content[-1] ^ 1]), "whose SHA-256 is not the announced"),
    ):
        pushed.fail.clear()
        pushed.fail["GET /lfs", lambda handler, body=body: handler.answer(200, body)] = 9
        with pytest.raises(DownloadError, match=message):
            download_hub_folder(NAME, tmp_path / "cache", False)
        assert not list((tmp_path / "cache").rglob("blobs/*"))


def test_repository_listings_are_validated(pushed: LoopbackHub, tmp_path: Path) -> None:
    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                handler.wfile.write(bytes(1 << 16))
        handler.close_connection = True

    def respond(answer: Any) -> Callable[[Any], None]:
        return lambda handler: handler.answer(200, json.dumps(answer).encode())

    for answer in (
        endless, respond([]), respond({"sha": "main"}), respond({"sha": "../../x"}),
        respond({"sha": "0" * 40, "siblings": [1]}), respond({"sha": "0" * 40, "siblings": 5}),
        lambda handler: handler.answer(200, b"[" * 100_000),
        lambda handler: handler.answer(200, b'{"sha": ' + b"9" * 6000 + b"}"),
    ):  # fmt: skip
        pushed.fail.clear()
        pushed.fail["GET /api/models", answer] = 9
        with pytest.raises(DownloadError, match="/api/models/alice/net"):
            download_hub_folder(NAME, tmp_path / "cache", False)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("target", ["/../lfs", "file:///etc/passwd"])
def test_invalid_redirects_are_errors(target: str, pushed: LoopbackHub, tmp_path: Path) -> None:
    pushed.fail["GET .*/resolve/.*model.safetensors", lambda handler: handler.answer(302, Location=target)] = 9
    with pytest.raises(CheckpointError, match="alice/net"):
        download_hub_folder(NAME, tmp_path / "cache", False)


def test_path_like_revisions_are_rejected(pushed: LoopbackHub) -> None:
    for revision in ("../../x", "/etc", "a/../../b", "a\nb"):
        with pytest.raises(UnknownNameError, match="not a branch, tag or commit of alice/net"):
            download_hub_folder(f"{NAME}@{revision}", progress=False)


def test_busy_file_store_is_retried(pushed: LoopbackHub, net: Any, tmp_path: Path) -> None:
    for status in (500, 503, 429):
        pushed.fail["GET /lfs", status] = 1
        pushed.fail["HEAD .*/resolve/", status] = 1
        cache = tmp_path / f"cache{status}"
        assert torch.equal(zoo.load(NAME, cache_dir=cache, progress=False)(CLIP), net(CLIP))


def test_broken_transfer_is_resumed(pushed: LoopbackHub, net: Any, tmp_path: Path) -> None:
    content = pushed.repositories["alice/net"].files["model.safetensors"]

    def broken(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:300_000])
        handler.close_connection = True

    pushed.fail["GET /lfs", broken] = 1
    assert torch.equal(zoo.load(NAME, cache_dir=tmp_path / "cache", progress=False)(CLIP), net(CLIP))


def test_full_disk_is_an_error_before_the_transfer(
    pushed: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="MB are free"):
        download_hub_folder(NAME, tmp_path / "cache", False)
    assert pushed.asked("GET /lfs") == 0


def test_cache_layout_is_that_of_huggingface_hub(pushed: LoopbackHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    download_hub_folder(NAME, tmp_path / "cache", False)
    path = hf_hub_download("alice/net", "model.safetensors", cache_dir=tmp_path / "cache", local_files_only=True)
    assert Path(path).read_bytes() == pushed.repositories["alice/net"].files["model.safetensors"]
    before = pushed.asked("GET /lfs")
    hf_hub_download("alice/net", "model.safetensors", cache_dir=tmp_path / "cache")
    assert pushed.asked("GET /lfs") == before
    info = scan_cache_dir(tmp_path / "cache")
    assert not info.warnings
    (repository,) = info.repos
    assert repository.repo_id == "alice/net" and list(repository.refs) == ["main"]
