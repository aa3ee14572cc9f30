"""load() of published weights from a loopback internet: downloaded, resumed, retried, verified or refused."""

from __future__ import annotations

import email.utils
import hashlib
import io
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from load_errors import load_error
from loopback import Loopback
from loopback_http import Reply
from loopback_hub import LoopbackHub
from tiny_zoo import (
    DRIVE,
    DRIVE_ID,
    FILE,
    FOLDER,
    FOLDER_ID,
    LOAD,
    NAMES,
    OTHER,
    WEB,
    WEB_TOO,
    cached,
    files_of,
    network,
    same,
    start,
)

import zoo
from cli import main
from zoo.errors import (
    DownloadError,
    StorageError,
    WeightsNotFoundError,
)
from zoo.weights import transfer

# downloads that succeed -------------------------------------------------------------------------------------------


def serve(net: Loopback, kind: str) -> None:
    if kind == "web":
        net.put(WEB, FILE)
    elif kind == "two":
        net.put(WEB.replace("tanet", "again"), FILE)
    else:
        net.drive_file(DRIVE_ID, "ckpt.best.pth.tar", FILE, mode="warning")
        net.drive_folder(FOLDER_ID, "TANet", {"log.txt": "3" * 28, "ckpt.best.pth.tar": DRIVE_ID})


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind != "hub"])
def test_every_kind_of_source_is_downloaded_once_and_then_cached(
    kind: str, net: Loopback, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(net, kind)
    model: Any = zoo.load(NAMES[kind], progress=False)
    assert same(model)
    assert model.report.as_trained and model.report.published is None
    assert model.spec.provenance["sha256"] == hashlib.sha256(FILE).hexdigest()
    assert files_of(cached().parent) == [f"{NAMES[kind]}/config.json", f"{NAMES[kind]}/model.safetensors"]
    assert f"first file of {NAMES[kind]}: {len(FILE)} bytes" in caplog.text
    requests = len(net.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert same(zoo.load(NAMES[kind], num_classes=4))
    assert len(net.requests) == requests


def test_published_file_on_hub_is_downloaded(net: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "home")
        hub.put("alice/raw", {"README.md": b"a pickle of mine"})
        load_error("refused", "hf-hub:alice/raw has no file old/tanet.pth", NAMES["hub"])
        hub.put("alice/raw", {"old/tanet.pth": FILE})
        assert same(zoo.load(NAMES["hub"], progress=False))
    assert files_of(cached().parent) == [f"{NAMES['hub']}/config.json", f"{NAMES['hub']}/model.safetensors"]


def test_progress_shows_size_and_speed(net: Loopback, capfd: pytest.CaptureFixture[str]) -> None:
    net.put(WEB, FILE)
    zoo.load(NAMES["web"])
    shown = capfd.readouterr().err
    assert "files.test" in shown and "MB" in shown and "/s" in shown


@pytest.mark.parametrize("kind", ["web", "drive"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_cut_connection_is_resumed(kind: str, framing: str, net: Loopback) -> None:
    faults: dict[str, Any] = {"cut": len(FILE) // 2, "faulty": 1, "framing": framing}
    net.put(WEB, FILE, **faults) if kind == "web" else net.drive_file(DRIVE_ID, "x.pth", FILE, **faults)
    assert same(zoo.load(NAMES[kind], progress=False))
    assert any(request.range for request in net.requests)


def partial_bytes() -> int:
    return sum(part.stat().st_size for part in cached().parent.rglob("file*.part"))


def leave_partial_download(name: str = NAMES["web"]) -> None:
    """Kill another process in the middle of a download."""
    process = start(name)
    while partial_bytes() < len(FILE) // 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()


@pytest.mark.parametrize("kind", ["web", "drive"])
def test_download_of_killed_process_is_resumed(kind: str, net: Loopback) -> None:
    slow = {"throttle": len(FILE) // 2}
    file = net.put(WEB, FILE, **slow) if kind == "web" else net.drive_file(DRIVE_ID, "x.pth", FILE, **slow)
    leave_partial_download(NAMES[kind])
    file.throttle, received = None, partial_bytes()
    assert same(zoo.load(NAMES[kind], progress=False))
    assert any(request.range == f"bytes={received}-" for request in net.requests)
    assert len(files_of(cached().parent)) == 2


def test_partial_download_of_another_version_is_not_resumed(net: Loopback) -> None:
    file = net.put(WEB, OTHER, throttle=len(FILE) // 2)
    leave_partial_download()
    file.throttle, file.content = None, FILE
    assert same(zoo.load(NAMES["web"], progress=False))
    assert not any(request.range for request in net.requests)


def test_resumed_file_of_two_versions_is_detected_and_downloaded_again(net: Loopback) -> None:
    """Drive announces no version: only the checksums in the archive reveal two halves of different files."""
    file = net.drive_file(DRIVE_ID, "x.pth", OTHER, throttle=len(FILE) // 2)
    assert len(OTHER) == len(FILE)
    leave_partial_download(NAMES["drive"])
    file.throttle, file.content = None, FILE
    assert same(zoo.load(NAMES["drive"], progress=False))
    assert any(request.range for request in net.requests)


def test_server_without_ranges_sends_whole_file_again(net: Loopback) -> None:
    net.put(WEB, FILE, ranges=False, cut=len(FILE) // 2, faulty=1)
    assert same(zoo.load(NAMES["web"], progress=False))


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("kind", ["web", "drive"])
def test_busy_servers_are_retried(status: int, kind: str, net: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    faults: dict[str, Any] = {"statuses": [status, status], "retry_after": "0"}
    net.put(WEB, FILE, **faults) if kind == "web" else net.drive_file(DRIVE_ID, "x.pth", FILE, **faults)
    assert same(zoo.load(NAMES[kind], progress=False))
    assert f"{status}" in caplog.text and "trying again" in caplog.text


@pytest.mark.parametrize("when", ["HEAD", "GET", "Range"])
def test_busy_host_in_between_keeps_received_bytes(when: str, net: Loopback) -> None:
    file, busy = net.put(WEB, FILE, cut=len(FILE) // 2, faulty=1), [503]

    def answer(path: str) -> Any:
        request = net.requests[-1]
        if file.served and busy and when == ("Range" if request.range else request.method):
            return Reply(busy.pop(), "later")
        return file

    net.hosts["files.test"] = answer
    assert same(zoo.load(NAMES["web"], progress=False))
    assert not busy and net.requests[-1].range and file.served <= 4


def test_long_retry_after_is_reported(net: Loopback) -> None:
    net.put(WEB, FILE, statuses=[429], retry_after="3600")
    load_error("incomplete", "answers 429 .*asks to wait for 60 minutes")


def test_an_interrupted_conversion_keeps_the_download(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    net.put(WEB, FILE)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zoo.weights.files.read_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            zoo.load(NAMES["web"], progress=False)
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    assert same(zoo.load(NAMES["web"]))
    assert len(files_of(cached().parent)) == 2


def test_resumed_legacy_file_is_downloaded_again(net: Loopback) -> None:
    """The legacy format has no checksums that could verify the two halves."""
    buffer = io.BytesIO()
    state = network().state_dict() | {"momentum": torch.rand(900_000)}
    torch.save({"state_dict": {k: v for k, v in state.items() if k != "momentum"}, "m": state["momentum"]}, buffer,
               _use_new_zipfile_serialization=False)  # fmt: skip
    file = net.drive_file(DRIVE_ID, "x.pth", buffer.getvalue(), throttle=len(FILE) // 2)
    leave_partial_download(NAMES["drive"])
    file.throttle = None
    assert same(zoo.load(NAMES["drive"], progress=False))
    assert any(request.range for request in net.requests) and net.requests[-1].range is None


def test_busy_folder_is_retried(net: Loopback) -> None:
    net.drive_file(DRIVE_ID, "ckpt.best.pth.tar", FILE)
    net.drive_folder(FOLDER_ID, "TANet", {"ckpt.best.pth.tar": DRIVE_ID})
    pages, paths = net.hosts["drive.google.com"], []

    def busy(path: str) -> Any:
        paths.append(path)
        return Reply(503, "later") if len(paths) == 1 else pages(path)

    net.hosts["drive.google.com"] = busy
    assert same(zoo.load(NAMES["folder"], progress=False))


def test_damaged_kept_file_is_named_and_downloaded_again(net: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    net.put(WEB, FILE)
    assert main(["download", NAMES["web"], "--keep"]) == 0
    (published_file,) = (cached().parent / "published").rglob("*.pth")
    published_file.write_bytes(FILE[:-10])
    shutil.rmtree(cached())
    assert same(zoo.load(NAMES["web"], progress=False))
    assert f"{published_file} is not the file" in caplog.text and "Downloading" in caplog.text


def test_retry_after_is_parsed() -> None:
    assert transfer._retry_after("7") == 7
    assert transfer._retry_after(None) == transfer._retry_after("soon") == 0
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < transfer._retry_after(soon) <= 30


def test_sources_are_tried_in_order(net: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    net.put(WEB_TOO, FILE, statuses=[404] * 9)
    net.put(WEB.replace("tanet", "again"), FILE)
    assert same(zoo.load(NAMES["two"], progress=False))
    assert f"{WEB_TOO} answers 404" in caplog.text


def test_file_saved_by_hand_is_used_and_kept(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    with pytest.raises(WeightsNotFoundError, match=r"by hand: save https://drive.* as \S*") as caught:
        zoo.load(NAMES["drive"])
    path = Path(str(caught.value).split(" as ")[1].split(", or run")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FILE)
    assert same(zoo.load(NAMES["drive"]))
    assert path.read_bytes() == FILE
    assert not net.requests


# downloads that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "reason", "message"),
    [
        ({"page": "<html>please log in</html>"}, "web page", f"^{WEB} is a web page, not a checkpoint"),
        ({"statuses": [404] * 9}, "refused", "answers 404.*removed or moved"),
        ({"statuses": [403] * 9}, "refused", "answers 403"),
        ({"statuses": [503] * 99}, "incomplete", "answers 503.*6 attempts in a row received no new data"),
        ({"stall": 0}, "incomplete", "no answer in time from files.test"),
        ({"content": FILE[:-100]}, None, f"^{WEB} is damaged or incomplete"),
        ({"content": b""}, None, f"^{WEB} is empty"),
        ({"content": FILE[:5000] + bytes([FILE[5000] ^ 1]) + FILE[5001:]}, None, "checksum of its part"),
        ({"content": b"hello"}, None, f"^{WEB} is damaged or incomplete"),
    ],
)
def test_each_failure_has_its_error_and_leaves_no_files(
    faults: dict[str, Any], reason: str | None, message: str, net: Loopback
) -> None:
    net.put(WEB, **({"content": FILE} | faults))
    load_error(reason, message)


def test_body_shorter_than_announced_is_an_error(net: Loopback) -> None:
    net.put(WEB, FILE, claim=len(FILE) + 10)
    with pytest.raises(DownloadError, match="attempts in a row received no new data"):
        zoo.load(NAMES["web"], progress=False)
    assert not cached().exists()


def test_unreachable_hosts_are_given_up_soon(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    load_error("unreachable", "files.test.* cannot be reached")  # the proxy's answer
    monkeypatch.setenv("HTTPS_PROXY", "")
    monkeypatch.setenv("https_proxy", "")
    assert "3 attempts" in load_error("unreachable", "files.test cannot be reached")


@pytest.mark.parametrize(
    ("mode", "reason", "message"),
    [
        ("quota", "quota", "quota .*exceeded.*24 hours"),
        ("denied", "refused", "private, was removed, or requires a login"),
        ("gone", "refused", "private, was removed, or requires a login|404"),
    ],
)
@pytest.mark.parametrize("name", ["drive", "folder"])
def test_drive_refusals_have_their_reasons(mode: str, reason: str, message: str, name: str, net: Loopback) -> None:
    net.drive_file(DRIVE_ID, "x.pth", FILE, mode=mode)
    net.drive_folder(FOLDER_ID, "TANet", {"ckpt.best.pth.tar": DRIVE_ID})
    text = load_error(reason, message, NAMES[name])
    assert (f"{DRIVE} as" if name == "drive" else f"ckpt.best.pth.tar from the folder {FOLDER} as") in text


def test_folder_without_the_file_is_an_error(net: Loopback) -> None:
    net.drive_folder(FOLDER_ID, "TANet", {"log.txt": DRIVE_ID})
    load_error("refused", "has no file ckpt.best.pth.tar; it has log.txt", NAMES["folder"])


def test_quota_in_the_middle_keeps_received_bytes(net: Loopback) -> None:
    file = net.drive_file(DRIVE_ID, "x.pth", FILE, throttle=len(FILE) // 2)
    leave_partial_download(NAMES["drive"])
    file.mode, received = "quota", partial_bytes()
    with pytest.raises(DownloadError) as caught:
        zoo.load(NAMES["drive"], progress=False)
    assert caught.value.reason == "quota"
    assert partial_bytes() == received
    file.mode, file.throttle = "direct", None
    assert same(zoo.load(NAMES["drive"], progress=False))


def test_full_disk_raises_before_and_during_transfer(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    net.put(WEB, FILE)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage("/")
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(StorageError, match=r"has \d+ MB, but only 0 MB are free"):
            zoo.load(NAMES["web"], progress=False)
        assert files_of(cached().parent) == []
    # a limit on the file size simulates a full disk
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(FILE) // 2},) * 2)\n{LOAD}"
    run = subprocess.run([sys.executable, "-c", code, NAMES["web"]], capture_output=True, text=True)
    assert "StorageError: No space left on the disk of" in run.stderr
    assert files_of(cached().parent) == []


def test_unwritable_cache_is_named(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    net.put(WEB, FILE)
    (cached().parent.parent / "file").touch()  # root may write to any folder, but not below a file
    monkeypatch.setenv("TEMPOZOO_CACHE", str(cached().parent.parent / "file" / "cache"))
    with pytest.raises(StorageError, match=r"file/cache cannot be written to \(Not a directory\).*TEMPOZOO_CACHE"):
        zoo.load(NAMES["web"], progress=False)
