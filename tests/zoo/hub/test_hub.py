"""``hf-hub:`` names with the real client and a Hub on 127.0.0.1: one commit, cached, offline, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from small_models import small

import zoo
from zoo.errors import CheckpointError, DownloadError, UnknownNameError, WeightsNotFoundError
from zoo.hub.pull import download_hub_file, download_hub_folder
from zoo.hub.push import push

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Any:
    return small("tanet_r18", labels=["a", "b", "c", "d"])


def quiet(model: Any, repo: str, **options: Any) -> str:
    return push(model, repo, progress=False, **options)


def test_cached_networks_need_no_network(
    hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quiet(net, "alice/net")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPOZOO_OFFLINE", "1")
        with pytest.raises(WeightsNotFoundError, match="alice/net is not completely in the local Hub cache"):
            zoo.load("hf-hub:alice/net")
    zoo.load("hf-hub:alice/net", progress=False)
    hub.requests.clear()
    for variable in ("TEMPOZOO_OFFLINE", "HF_HUB_OFFLINE"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, "1")
            patch.setattr(constants, "HF_HUB_OFFLINE", variable == "HF_HUB_OFFLINE")
            assert torch.equal(zoo.load("hf-hub:alice/net")(CLIP), net(CLIP))
    commit = hub.repositories["alice/net"].refs["main"]
    zoo.load(f"hf-hub:alice/net@{commit}")  # a commit cannot change
    assert hub.requests == []
    zoo.load("hf-hub:alice/net")
    assert len(hub.requests) == 1  # checks for a newer commit
    for status in (503, 401):
        hub.fail["GET /api/models", status] = 1
        zoo.load("hf-hub:alice/net")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert torch.equal(zoo.load("hf-hub:alice/net")(CLIP), net(CLIP))
    assert sum("using the cached copy" in message for message in caplog.messages) == 3


def test_weights_and_config_are_of_one_commit(hub: LoopbackHub, net: Any) -> None:
    quiet(net, "alice/net")
    old = dict(hub.repositories["alice/net"].files)

    def push_meanwhile(handler: Any) -> None:
        hub.put("alice/net", {"config.json": b"{}", "model.safetensors": b"other"})
        handler.serve()

    hub.fail["GET .*/resolve/|HEAD .*/resolve/", push_meanwhile] = 1
    folder = download_hub_folder("hf-hub:alice/net", progress=False)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        k: old[k] for k in ("config.json", "model.safetensors")
    }


def test_failed_update_keeps_old_copy(hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(net, "alice/net")
    zoo.load("hf-hub:alice/net", progress=False)
    quiet(small("tanet_r18"), "alice/net")
    hub.fail["GET /lfs", 403] = 9
    with pytest.raises(CheckpointError, match="hf-hub:alice/net could not be downloaded"):
        zoo.load("hf-hub:alice/net", progress=False)
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    assert torch.equal(zoo.load("hf-hub:alice/net")(CLIP), net(CLIP))


def test_busy_hub_is_retried(hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(net, "alice/net")
    monkeypatch.setattr("zoo.hub.hub_files.WAITS", (0.01, 0.01))
    hub.fail["GET /api/models", 503] = 2
    zoo.load("hf-hub:alice/net", progress=False)
    assert hub.asked("GET /api/models") == 1 + 1  # the push's, and the third of the load's


def test_damaged_copy_is_named_and_downloaded_again(
    hub: LoopbackHub, net: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(net, "alice/net")
    file = download_hub_folder("hf-hub:alice/net", progress=False) / "model.safetensors"
    content = file.read_bytes()
    for damaged in (b"", content[:100], content[:-1] + bytes([content[-1] ^ 1]), b"\x80\x04."):
        file.resolve().write_bytes(damaged)
        caplog.clear()
        assert torch.equal(zoo.load("hf-hub:alice/net", progress=False)(CLIP), net(CLIP))
        assert any(str(file) in message and "again" in message for message in caplog.messages)
        assert file.read_bytes() == content
    file.resolve().write_bytes(content[:100])
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="model.safetensors"):
        zoo.load("hf-hub:alice/net")


def test_other_repositories_are_rejected(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.put("bob/pickle", {"pytorch_model.bin": b"x", "config.json": b"{}"})
    hub.put("bob/empty", {})
    hub.put("bob/foreign", {"model.safetensors": b"x"})
    hub.put("bob/gated", {"model.safetensors": b"x", "config.json": b"{}"}, gated=True)
    for repo, kind, message in (
        ("bob/pickle", CheckpointError, r"has no model.safetensors.*pickles \(pytorch_model.bin\).*never loaded"),
        ("bob/empty", CheckpointError, "has no model.safetensors and no config.json, so it was not written by"),
        ("bob/foreign", CheckpointError, "has no config.json"),
        ("bob/gated", DownloadError, "bob/gated is gated: ask for access at https://huggingface.co/bob/gated"),
        ("bob/nothing", UnknownNameError, "no repository 'bob/nothing'"),
        ("a/b/c", UnknownNameError, "not a repository name"),
    ):
        with pytest.raises(kind, match=message):
            zoo.load(f"hf-hub:{repo}", progress=False)
    assert hub.asked("GET .*pytorch_model") == 0
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    assert download_hub_file("hf-hub:bob/pickle", "pytorch_model.bin", tmp_path / "parts", False).read_bytes() == b"x"
    with pytest.raises(DownloadError, match="bob/pickle has no file other.bin"):
        download_hub_file("hf-hub:bob/pickle", "other.bin", tmp_path / "parts", False)


def test_bad_token_is_reported(hub: LoopbackHub, net: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quiet(net, "alice/net")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError, match="refused the token"):
        zoo.load("hf-hub:alice/net", cache_dir=tmp_path / "fresh", progress=False)
    monkeypatch.setenv("HF_TOKEN", "hf_älice")
    for fetch in (zoo.load, lambda name, **_: download_hub_file(name, "config.json", tmp_path / "parts", False)):
        with pytest.raises(DownloadError, match="HF_TOKEN has an invalid character: 'ä'"):
            fetch("hf-hub:alice/net", cache_dir=tmp_path / "fresh", progress=False)
