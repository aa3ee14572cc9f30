"""Web servers and Google Drive with wrong headers, sizes or redirects: transfers are bounded and end in a ZooError."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from loopback import Loopback
from small_models import FOUR, small
from tiny_zoo import DRIVE_ID, FOLDER_ID, NAMES, WEB

import zoo
from zoo.errors import CheckpointError, DownloadError, ZooError
from zoo.index import Source
from zoo.weights import transfer
from zoo.weights.locations import path_for
from zoo.weights.model_folder import read_model
from zoo.weights.transfer import _retry_after

LARGE = bytes(24 << 20)


def cached() -> list[str]:
    """List the files in the cache, except locks."""
    root = Path(os.environ["TEMPOZOO_CACHE"])
    return [str(path) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_body_of_unknown_length_stops_at_limit(framing: str, net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_UNANNOUNCED", 1 << 20)
    file = net.put(WEB, LARGE, framing=framing)
    with pytest.raises(DownloadError, match=rf"{WEB} sends more than 1048576 bytes"):
        zoo.load(NAMES["web"], progress=False)
    assert file.sent < len(LARGE)
    assert not cached()


def test_announced_size_beyond_limit_is_rejected(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_SIZE", 1 << 20)
    file = net.put(WEB, LARGE)
    with pytest.raises(DownloadError, match=f"announces {len(LARGE)} bytes; expected at most 1048576"):
        zoo.load(NAMES["web"], progress=False)
    assert file.sent < len(LARGE)
    assert not cached()


def test_large_config_of_mirror_is_rejected(net: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = zoo.save(small("tanet_r18", labels=list(FOUR)), tmp_path / "saved")
    net.put(f"https://mirror.test/zoo/{NAMES['web']}/model.safetensors", (saved / "model.safetensors").read_bytes())
    net.put(f"https://mirror.test/zoo/{NAMES['web']}/config.json", LARGE)
    monkeypatch.setenv("TEMPOZOO_MIRROR", net.plain("https://mirror.test/zoo"))
    with pytest.raises(CheckpointError, match=r"config.json announces 25165824 bytes; expected at most 16777216"):
        zoo.load(NAMES["web"], progress=False)
    assert not cached()


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://files.test/x", "http://files.test/x", "//", "http://[x"]
)
def test_redirects_to_other_schemes_are_errors(target: str, net: Loopback) -> None:
    net.put(WEB, b"", redirect=target)
    net.put("https://files.test/x", b"PK")
    with pytest.raises(DownloadError if target != "//" else ZooError, match="files.test"):
        zoo.load(NAMES["web"], progress=False)
    assert not cached()


DISPOSITIONS = ['attachment; filename="../../../NAME"', "attachment; filename*=UTF-8''..%2F..%2FNAME", "x", '"']


@pytest.mark.parametrize("value", DISPOSITIONS)
@pytest.mark.parametrize("source", ["web", "drive"])
def test_file_names_in_headers_are_ignored(source: str, value: str, net: Loopback, tmp_path: Path) -> None:
    headers = {"Content-Disposition": value, "Last-Modified": "no date"}
    net.put(WEB, b"PK\x03\x04", headers=headers, last_modified=False)
    net.drive_file(DRIVE_ID, "NAME", b"PK\x03\x04", headers=headers, last_modified=False)
    with pytest.raises(ZooError):
        zoo.load(NAMES[source], progress=False)
    assert not [path for path in tmp_path.rglob("*NAME*") if "tanet" not in path.name]
    assert not list(Path.cwd().glob("*NAME*"))


def test_file_names_in_folder_listing_are_not_used_as_paths(net: Loopback, tmp_path: Path) -> None:
    net.drive_folder(FOLDER_ID, "../../NAME", {"../../NAME\x1b[31m": DRIVE_ID, "..": DRIVE_ID})
    with pytest.raises(DownloadError, match="has no file") as caught:
        zoo.load(NAMES["folder"], progress=False)
    assert str(caught.value).isprintable()
    assert not list(tmp_path.rglob("*NAME*"))


def test_paths_of_sources_stay_inside_cache() -> None:
    for kind, url, file in (
        ("https", "https://files.test/../../x.pth", None),
        ("https", "https://files.test/a/../../../x.pth", None),
        ("hf", "hf-hub:../..", ".."),
        ("hf", "hf-hub:a/b", "../../x"),
    ):
        path = path_for(Source(kind, url, file))
        assert not path.is_absolute()
        assert not {".", ".."} & set(path.parts), path


@pytest.mark.parametrize(
    ("value", "seconds"), [("\xb2", 0.0), ("9" * 400, float("inf")), ("Fri, 99 Foo", 0.0), ("5", 5.0)]
)
def test_retry_after_accepts_unusual_values(value: str, seconds: float) -> None:
    assert _retry_after(value) == seconds


@pytest.mark.parametrize(
    "text",
    ["1" * 5000, '{"a": ' + "1" * 5000 + "}", "[" * 200_000, '{"a": ' * 50_000, ""],
)
def test_invalid_json_config_is_rejected(text: str, tmp_path: Path) -> None:
    folder: Any = zoo.save(small("tanet_r18", labels=list(FOUR)), tmp_path / "saved")
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        read_model(folder)
    (folder / "config.json").write_text(json.dumps("x" * (17 << 20)))
    with pytest.raises(CheckpointError, match="is not valid JSON: it is longer than"):
        read_model(folder)
