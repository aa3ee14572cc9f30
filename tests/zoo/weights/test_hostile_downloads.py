"""Hostile files from the network: published files, mirrors, and repositories on the Hub."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hostile import containers, payloads
from loopback import Loopback
from loopback_hub import LoopbackHub
from small_models import FOUR, small
from tiny_zoo import DRIVE_ID, FOLDER_ID, NAMES, WEB

import zoo
from zoo.errors import CheckpointError, ZooError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the pickles call posix.mkdir")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A network's folder."""
    return zoo.save(small("tanet_r18", labels=list(FOUR)), tmp_path / "saved")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def left_in_cache() -> list[str]:
    """List all weight files in the cache."""
    root = Path(os.environ["TEMPOZOO_CACHE"])
    return [str(path) for path in root.rglob("*") if path.is_file() and path.suffix not in (".lock", "")]


@pytest.mark.parametrize("source", ["web", "drive", "folder"])
def test_published_files_are_rejected(source: str, net: Loopback, canary: Path) -> None:
    for kind in ("reduce", "build"):
        for container in ("plain", "zip", "legacy", "torchscript", "two data.pkl"):
            content = containers(payloads(canary)[kind])[container]
            net.put(WEB, content)
            net.drive_file(DRIVE_ID, "ckpt.best.pth.tar", content, "warning")
            net.drive_folder(FOLDER_ID, "models", {"ckpt.best.pth.tar": DRIVE_ID})
            with pytest.raises(CheckpointError, match=r"files\.test|drive\.google\.com"):
                zoo.load(NAMES[source], progress=False)
            assert not left_in_cache()
            assert not (Path(os.environ["TEMPOZOO_CONFIG"]) / "digests.yaml").exists()
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["folder", "web", "repository", "organization"])
def test_mirrors_are_rejected(
    kind: str, net: Loopback, saved: Path, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher is tried next, but has no file, so the mirror's error is reported."""
    name = NAMES["web"]
    config = json.loads((saved / "config.json").read_text())
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "hf")
        for container in ("plain", "zip", "legacy", "torchscript"):
            content = containers(payloads(canary)["reduce"])[container]
            config["sha256"] = hashlib.sha256(content).hexdigest()
            files = {"model.safetensors": content, "config.json": json.dumps(config).encode()}
            (tmp_path / "mirror" / name).mkdir(parents=True, exist_ok=True)
            for file, data in files.items():
                (tmp_path / "mirror" / name / file).write_bytes(data)
                net.put(f"https://mirror.test/zoo/{name}/{file}", data)
            hub.put("alice/zoo", {f"{name}/{file}": data for file, data in files.items()})
            hub.put(f"lab/{name}", files)
            mirrors = {
                "folder": str(tmp_path / "mirror"),
                "web": net.plain("https://mirror.test/zoo"),
                "repository": "hf-hub:alice/zoo",
                "organization": "hf-hub:lab",
            }
            monkeypatch.setenv("TEMPOZOO_MIRROR", mirrors[kind])
            with pytest.raises(CheckpointError, match="not a complete safetensors file"):
                zoo.load(name, progress=False)
            assert not left_in_cache()
    assert not canary.exists()


def test_repositories_are_rejected(saved: Path, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, config = ((saved / file).read_bytes() for file in ("model.safetensors", "config.json"))
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "hf")
        for container in ("plain", "zip", "legacy", "torchscript"):
            content = containers(payloads(canary)["reduce"])[container]
            hub.put("alice/model", {"model.safetensors": content, "config.json": config})
            with pytest.raises(CheckpointError, match="safetensors"):
                zoo.load("hf-hub:alice/model", progress=False)
            hub.put("alice/config", {"model.safetensors": weights, "config.json": content})
            with pytest.raises(ZooError, match="config"):
                zoo.load("hf-hub:alice/config", progress=False)
    assert not canary.exists()
