"""load() of published weights from a loopback internet: fetched, resumed, retried, held to digests, refused."""

from __future__ import annotations

import email.utils
import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
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
    CheckpointError,
    DownloadError,
    StorageError,
    WeightsNotFoundError,
)
from zoo.weights import transfer

# what works ------------------------------------------------------------------------------------------------------


def serve(net: Loopback, kind: str) -> None:
    if kind == "web":
        net.put(WEB, FILE)
    elif kind == "two":
        net.put(WEB.replace("tanet", "again"), FILE)
    else:
        net.drive_file(DRIVE_ID, "ckpt.best.pth.tar", FILE, mode="warning")
        net.drive_folder(FOLDER_ID, "TANet", {"log.txt": "3" * 28, "ckpt.best.pth.tar": DRIVE_ID})


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind != "hub"])
def test_every_kind_of_source_is_fetched_once_and_then_cached(
    kind: str, net: Loopback, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(net, kind)
    model: Any = zoo.load(NAMES[kind], progress=False)
    assert same(model)
    assert model.report.as_trained and model.report.published is None
    assert model.spec.provenance["sha256"] == hashlib.sha256(FILE).hexdigest()
    assert files_of(cached().parent) == [f"{NAMES[kind]}/config.json", f"{NAMES[kind]}/model.safetensors"]
    assert f"first file of {NAMES[kind]}: {len(FILE)} bytes" in caplog.text
    asked = len(net.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert same(zoo.load(NAMES[kind], num_classes=4))
    assert len(net.requests) == asked


def test_a_publishers_file_on_the_hub_is_fetched_as_well(
    net: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "home")
        hub.put("alice/raw", {"README.md": b"a pickle of mine"})
        refused("refused", "hf-hub:alice/raw holds no old/tanet.pth", NAMES["hub"])
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
def test_a_cut_connection_is_gone_on_with(kind: str, framing: str, net: Loopback) -> None:
    faults: dict[str, Any] = {"cut": len(FILE) // 2, "faulty": 1, "framing": framing}
    net.put(WEB, FILE, **faults) if kind == "web" else net.drive_file(DRIVE_ID, "x.pth", FILE, **faults)
    assert same(zoo.load(NAMES[kind], progress=False))
    assert any(request.range for request in net.requests)


def half_fetched() -> int:
    return sum(part.stat().st_size for part in cached().parent.rglob("file*.part"))


def leave_half(name: str = NAMES["web"]) -> None:
    """Have another process killed in the middle of a download."""
    process = start(name)
    while half_fetched() < len(FILE) // 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()


@pytest.mark.parametrize("kind", ["web", "drive"])
def test_another_process_goes_on_with_what_a_killed_one_left(kind: str, net: Loopback) -> None:
    slow = {"throttle": len(FILE) // 2}
    file = net.put(WEB, FILE, **slow) if kind == "web" else net.drive_file(DRIVE_ID, "x.pth", FILE, **slow)
    leave_half(NAMES[kind])
    file.throttle, had = None, half_fetched()
    assert same(zoo.load(NAMES[kind], progress=False))
    assert any(request.range == f"bytes={had}-" for request in net.requests)
    assert len(files_of(cached().parent)) == 2


def test_what_was_left_of_another_version_is_not_gone_on_with(net: Loopback) -> None:
    file = net.put(WEB, OTHER, throttle=len(FILE) // 2)
    leave_half()
    file.throttle, file.content = None, FILE
    assert same(zoo.load(NAMES["web"], progress=False))
    assert not any(request.range for request in net.requests)


def test_a_file_put_together_from_two_versions_is_found_out_and_fetched_anew(net: Loopback) -> None:
    """Drive tells no version: what gives two halves of two files away are the archive's own checksums."""
    file = net.drive_file(DRIVE_ID, "x.pth", OTHER, throttle=len(FILE) // 2)
    assert len(OTHER) == len(FILE)
    leave_half(NAMES["drive"])
    file.throttle, file.content = None, FILE
    assert same(zoo.load(NAMES["drive"], progress=False))
    assert any(request.range for request in net.requests)


def test_a_server_that_does_not_resume_sends_all_again(net: Loopback) -> None:
    net.put(WEB, FILE, ranges=False, cut=len(FILE) // 2, faulty=1)
    assert same(zoo.load(NAMES["web"], progress=False))


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("kind", ["web", "drive"])
def test_busy_servers_are_asked_again(status: int, kind: str, net: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    faults: dict[str, Any] = {"statuses": [status, status], "retry_after": "0"}
    net.put(WEB, FILE, **faults) if kind == "web" else net.drive_file(DRIVE_ID, "x.pth", FILE, **faults)
    assert same(zoo.load(NAMES[kind], progress=False))
    assert f"{status}" in caplog.text and "trying again" in caplog.text


@pytest.mark.parametrize("when", ["HEAD", "GET", "Range"])
def test_a_host_that_is_busy_in_between_does_not_cost_what_has_come(when: str, net: Loopback) -> None:
    file, busy = net.put(WEB, FILE, cut=len(FILE) // 2, faulty=1), [503]

    def answer(path: str) -> Any:
        asked = net.requests[-1]
        if file.served and busy and when == ("Range" if asked.range else asked.method):
            return Reply(busy.pop(), "later")
        return file

    net.hosts["files.test"] = answer
    assert same(zoo.load(NAMES["web"], progress=False))
    assert not busy and net.requests[-1].range and file.served <= 4


def test_a_host_that_asks_to_wait_for_long_is_taken_at_its_word(net: Loopback) -> None:
    net.put(WEB, FILE, statuses=[429], retry_after="3600")
    refused("incomplete", "answers 429 .*asks to wait for 60 minutes")


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


def test_a_legacy_file_from_two_halves_is_fetched_anew(net: Loopback) -> None:
    """Nothing in it proves that they belong together."""
    buffer = io.BytesIO()
    state = network().state_dict() | {"momentum": torch.rand(900_000)}
    torch.save({"state_dict": {k: v for k, v in state.items() if k != "momentum"}, "m": state["momentum"]}, buffer,
               _use_new_zipfile_serialization=False)  # fmt: skip
    file = net.drive_file(DRIVE_ID, "x.pth", buffer.getvalue(), throttle=len(FILE) // 2)
    leave_half(NAMES["drive"])
    file.throttle = None
    assert same(zoo.load(NAMES["drive"], progress=False))
    assert any(request.range for request in net.requests) and net.requests[-1].range is None


def test_a_busy_folder_is_asked_again(net: Loopback) -> None:
    net.drive_file(DRIVE_ID, "ckpt.best.pth.tar", FILE)
    net.drive_folder(FOLDER_ID, "TANet", {"ckpt.best.pth.tar": DRIVE_ID})
    pages, asked = net.hosts["drive.google.com"], []

    def busy(path: str) -> Any:
        asked.append(path)
        return Reply(503, "later") if len(asked) == 1 else pages(path)

    net.hosts["drive.google.com"] = busy
    assert same(zoo.load(NAMES["folder"], progress=False))


def test_a_damaged_kept_file_is_named_and_fetched_again(net: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    net.put(WEB, FILE)
    assert main(["download", NAMES["web"], "--keep"]) == 0
    (kept,) = (cached().parent / "published").rglob("*.pth")
    kept.write_bytes(FILE[:-10])
    shutil.rmtree(cached())
    assert same(zoo.load(NAMES["web"], progress=False))
    assert f"{kept} is not the file" in caplog.text and "fetching it from" in caplog.text


def test_a_host_says_how_long_to_wait() -> None:
    assert transfer._retry_after("7") == 7
    assert transfer._retry_after(None) == transfer._retry_after("soon") == 0
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < transfer._retry_after(soon) <= 30


def test_sources_are_tried_in_order(net: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    net.put(WEB_TOO, FILE, statuses=[404] * 9)
    net.put(WEB.replace("tanet", "again"), FILE)
    assert same(zoo.load(NAMES["two"], progress=False))
    assert f"{WEB_TOO} answers 404" in caplog.text


def test_a_file_saved_by_hand_is_used_and_kept(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    with pytest.raises(WeightsNotFoundError, match=r"by hand: save https://drive.* as \S*") as caught:
        zoo.load(NAMES["drive"])
    place = Path(str(caught.value).split(" as ")[1].split(", or run")[0])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(FILE)
    assert same(zoo.load(NAMES["drive"]))
    assert place.read_bytes() == FILE
    assert not net.requests


# what is refused -------------------------------------------------------------------------------------------------


def refused(reason: str | None, message: str, name: str = NAMES["web"]) -> str:
    """The message of the error that load() raises; nothing is left in the cache, and no digest is recorded.

    Args:
        reason: of a DownloadError; None: a CheckpointError, as the file was downloaded, but is not usable.
        message: a regular expression.
    """
    with pytest.raises(CheckpointError, match=message) as caught:
        zoo.load(name, progress=False)
    assert type(caught.value) is (CheckpointError if reason is None else DownloadError)
    assert getattr(caught.value, "reason", None) == reason
    assert files_of(cached().parent) == []
    assert not (Path(os.environ["TEMPOZOO_CONFIG"]) / "digests.yaml").exists()
    assert "By hand: save " in str(caught.value) or reason is None
    assert str(cached().parent / "published") in str(caught.value) or reason is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("faults", "reason", "message"),
    [
        ({"page": "<html>please log in</html>"}, "web page", f"^{WEB} is a web page, not a checkpoint"),
        ({"statuses": [404] * 9}, "refused", "answers 404.*removed or moved"),
        ({"statuses": [403] * 9}, "refused", "answers 403"),
        ({"statuses": [503] * 99}, "incomplete", "answers 503.*6 attempts in a row brought nothing"),
        ({"stall": 0}, "incomplete", "no answer in time from files.test"),
        ({"content": FILE[:-100]}, None, f"^{WEB} is damaged or incomplete"),
        ({"content": b""}, None, f"^{WEB} is empty"),
        ({"content": FILE[:5000] + bytes([FILE[5000] ^ 1]) + FILE[5001:]}, None, "checksum of its part"),
        ({"content": b"hello"}, None, f"^{WEB} is damaged or incomplete"),
    ],
)
def test_each_failure_has_its_error_and_leaves_nothing(
    faults: dict[str, Any], reason: str | None, message: str, net: Loopback
) -> None:
    net.put(WEB, **({"content": FILE} | faults))
    refused(reason, message)


def test_a_length_that_never_comes_is_an_error(net: Loopback) -> None:
    net.put(WEB, FILE, claim=len(FILE) + 10)
    with pytest.raises(DownloadError, match="attempts in a row brought nothing"):
        zoo.load(NAMES["web"], progress=False)
    assert not cached().exists()


def test_unknown_hosts_and_no_network_are_soon_given_up(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("unreachable", "files.test.* cannot be reached")  # the proxy's answer
    monkeypatch.setenv("HTTPS_PROXY", "")
    monkeypatch.setenv("https_proxy", "")
    assert "3 attempts" in refused("unreachable", "files.test cannot be reached")


@pytest.mark.parametrize(
    ("mode", "reason", "message"),
    [
        ("quota", "quota", "quota .*used up.*24 hours"),
        ("denied", "refused", "private, gone, or asks for a person"),
        ("gone", "refused", "private, gone, or asks for a person|404"),
    ],
)
@pytest.mark.parametrize("name", ["drive", "folder"])
def test_drive_says_no_in_several_ways(mode: str, reason: str, message: str, name: str, net: Loopback) -> None:
    net.drive_file(DRIVE_ID, "x.pth", FILE, mode=mode)
    net.drive_folder(FOLDER_ID, "TANet", {"ckpt.best.pth.tar": DRIVE_ID})
    text = refused(reason, message, NAMES[name])
    assert (f"{DRIVE} as" if name == "drive" else f"ckpt.best.pth.tar of the folder {FOLDER} as") in text


def test_a_folder_without_the_file_is_an_error(net: Loopback) -> None:
    net.drive_folder(FOLDER_ID, "TANet", {"log.txt": DRIVE_ID})
    refused("refused", "holds no ckpt.best.pth.tar; it has log.txt", NAMES["folder"])


def test_a_quota_in_the_middle_keeps_what_has_come(net: Loopback) -> None:
    file = net.drive_file(DRIVE_ID, "x.pth", FILE, throttle=len(FILE) // 2)
    leave_half(NAMES["drive"])
    file.mode, had = "quota", half_fetched()
    with pytest.raises(DownloadError) as caught:
        zoo.load(NAMES["drive"], progress=False)
    assert caught.value.reason == "quota"
    assert half_fetched() == had
    file.mode, file.throttle = "direct", None
    assert same(zoo.load(NAMES["drive"], progress=False))


def test_a_full_disk_is_said_before_and_while_writing(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    net.put(WEB, FILE)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage("/")
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(StorageError, match=r"has \d+ MB, but only 0 MB are free"):
            zoo.load(NAMES["web"], progress=False)
        assert files_of(cached().parent) == []
    # a limit on the size of files stands for a disk that runs full
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(FILE) // 2},) * 2)\n{LOAD}"
    run = subprocess.run([sys.executable, "-c", code, NAMES["web"]], capture_output=True, text=True)
    assert "StorageError: No space is left for" in run.stderr
    assert files_of(cached().parent) == []


def test_a_cache_that_may_not_be_written_to_is_named(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    net.put(WEB, FILE)
    (cached().parent.parent / "file").touch()  # root may write to any folder, but not below a file
    monkeypatch.setenv("TEMPOZOO_CACHE", str(cached().parent.parent / "file" / "cache"))
    with pytest.raises(StorageError, match=r"file/cache cannot be written to \(Not a directory\).*TEMPOZOO_CACHE"):
        zoo.load(NAMES["web"], progress=False)
