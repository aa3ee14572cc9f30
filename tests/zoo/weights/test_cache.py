"""The cache of published weights: verified, repaired, listed, cleared, filled from mirrors, and copied to mirrors."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from load_errors import load_error
from loopback import Loopback
from loopback_hub import LoopbackHub
from tiny_zoo import DRIVE_ID, FILE, NAMES, OTHER, WEB, WEB_TOO, cached, files_of, same, start, write_index

import zoo
from cli import main
from zoo.errors import CheckpointError, ConfigError, DownloadError, UnknownNameError, WeightsNotFoundError

# digests ---------------------------------------------------------------------------------------------------------


def reindex(**changes: Any) -> None:
    path = Path(os.environ["TEMPOZOO_INDEX"])
    os.environ["TEMPOZOO_INDEX"] = str(write_index(path.with_name(f"{len(str(changes))}.yaml"), **changes))


@pytest.mark.parametrize("field", ["sha256", "sha256_prefix"])
def test_digest_of_index_is_enforced(field: str, net: Loopback) -> None:
    digest = hashlib.sha256(FILE).hexdigest()
    net.put(WEB, OTHER)
    reindex(**{field: digest[: 64 if field == "sha256" else 8]})
    text = load_error("digest", f"^{WEB} is not the published file of tanet_r18.web: its SHA-256 is")
    assert digest[:8] in text
    net.put(WEB, FILE)
    assert zoo.load(NAMES["web"], progress=False).report.published is True
    recorded = Path(os.environ["TEMPOZOO_CONFIG"]) / "digests.yaml"
    assert recorded.exists() == (field == "sha256_prefix")  # a prefix is completed by the first download


def test_digest_of_first_download_is_enforced(net: Loopback) -> None:
    net.put(WEB, FILE)
    zoo.load(NAMES["web"], progress=False)
    lock = Path(os.environ["TEMPOZOO_CONFIG"]) / "digests.yaml"
    record = yaml.safe_load(lock.read_text())[NAMES["web"]]
    assert (
        record["sha256"] == hashlib.sha256(FILE).hexdigest() and record["size"] == len(FILE) and record["source"] == WEB
    )
    before = lock.read_bytes()
    shutil.rmtree(cached())
    net.put(WEB, OTHER)
    with pytest.raises(
        DownloadError, match=f"not the file of tanet_r18.web that was downloaded first.*{WEB}.*remove tanet"
    ):
        zoo.load(NAMES["web"], progress=False)
    assert not cached().exists() and lock.read_bytes() == before
    other = Path(os.environ["TEMPOZOO_CACHE"]) / "other.pth"
    other.write_bytes(OTHER)
    with pytest.raises(DownloadError, match=r"other.pth is not the file of .* give an output folder: --out"):
        zoo.convert(other, NAMES["web"])
    assert same(zoo.load(zoo.convert(other, NAMES["web"], other.parent / "mine")), 2)
    lock.write_text(lock.read_text().replace(NAMES["web"], "other"))
    assert same(zoo.load(NAMES["web"], progress=False), 2)


def test_unreadable_digests_file_is_an_error(net: Loopback) -> None:
    net.put(WEB, FILE)
    lock = Path(os.environ["TEMPOZOO_CONFIG"]) / "digests.yaml"
    lock.parent.mkdir()
    lock.write_text("tanet_r18.web: [")
    with pytest.raises(ConfigError, match=r"(?s)digests.yaml cannot be read.*Correct or remove"):
        zoo.load(NAMES["web"], progress=False)


def test_cache_of_outdated_file_is_replaced(net: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    net.put(WEB, OTHER)
    zoo.load(NAMES["web"], progress=False)
    net.put(WEB, FILE)
    reindex(sha256=hashlib.sha256(FILE).hexdigest())
    assert same(zoo.load(NAMES["web"], progress=False))
    assert f"Downloading {NAMES['web']} again" in caplog.text


# the cache -------------------------------------------------------------------------------------------------------


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def pickle_it(file: Path) -> None:
    file.write_bytes(FILE)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", [truncate, flip, empty, pickle_it, Path.unlink])
def test_damaged_cache_is_named_and_downloaded_again(
    damage: Any, file: str, net: Loopback, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.put(WEB, FILE)
    zoo.load(NAMES["web"], progress=False)
    damage(cached() / file)
    with monkeypatch.context() as offline:
        offline.setenv("TEMPOZOO_OFFLINE", "1")
        absent = damage is Path.unlink and file == "model.safetensors"
        with pytest.raises(WeightsNotFoundError, match="are not on this machine" if absent else str(cached())):
            zoo.load(NAMES["web"])
    assert main(["verify"]) == 1
    caplog.clear()
    assert same(zoo.load(NAMES["web"], progress=False))
    if not absent:
        assert str(cached()) in caplog.text and file in caplog.text and "again" in caplog.text
    assert net.count(WEB) == 2
    assert main(["verify"]) == 0


def test_eight_processes_download_once(net: Loopback) -> None:
    file = net.put(WEB, FILE, throttle=len(FILE))
    processes = [start() for _ in range(8)]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, results
    assert len({out for out, _ in results}) == 1
    assert file.served == 1 == net.count(WEB)


# commands --------------------------------------------------------------------------------------------------------


def test_download_keep_list_and_clear(net: Loopback, capsys: pytest.CaptureFixture[str]) -> None:
    net.put(WEB, FILE)
    net.drive_file(DRIVE_ID, "x.pth", FILE, mode="quota")
    assert main(["download", "tanet_r18.web", "tanet_r18.dr*", "--keep"]) == 1
    out, err = capsys.readouterr()
    assert f"tanet_r18.web: {cached()}" in out
    assert (
        "tanet_r18.drive: FAILED: Google Drive's download quota" in out
        and "1 of 2 networks could not be downloaded" in err
    )
    published_file = cached().parent / "published" / "files.test" / "models" / "tanet.pth"
    assert published_file.read_bytes() == FILE
    assert main(["cache", "list"]) == 0
    out = capsys.readouterr().out
    assert f"converted         {cached()}" in out and f"published file    {published_file}" in out
    assert main(["list", "tanet_r18.web"]) == 0
    assert "cached" in capsys.readouterr().out
    assert main(["verify"]) == 0
    assert "tanet_r18.web: OK (SHA-256 recorded on 20" in capsys.readouterr().out
    assert main(["info", "tanet_r18.web"]) == 0
    assert f": {hashlib.sha256(FILE).hexdigest()}" in capsys.readouterr().out
    published_file.write_bytes(OTHER)
    assert main(["verify", "tanet_r18.web"]) == 1
    assert (
        f"FAILED: {published_file} is not the file of tanet_r18.web that was downloaded first"
        in capsys.readouterr().out
    )
    assert main(["cache", "clear", "other*"]) == 1
    assert main(["cache", "clear", "*"]) == 0
    assert not cached().exists() and published_file.exists()
    assert main(["cache", "clear", "tanet_r18.web", "--files"]) == 0
    assert files_of(cached().parent) == []
    assert main(["verify"]) == 1
    assert main(["download", "tanet_r19"]) == 1
    assert "Unknown model 'tanet_r19'. Did you mean" in capsys.readouterr().err


def test_manual_conversion_is_recorded_and_used(net: Loopback, tmp_path: Path) -> None:
    (tmp_path / "by_hand.pth").write_bytes(FILE)
    assert main(["convert", str(tmp_path / "by_hand.pth"), NAMES["drive"]]) == 0
    assert same(zoo.load(NAMES["drive"])) and not net.requests
    record = yaml.safe_load((Path(os.environ["TEMPOZOO_CONFIG"]) / "digests.yaml").read_text())
    assert record[NAMES["drive"]]["source"] == "by_hand.pth, converted by hand"


# mirrors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(net: Loopback, tmp_path: Path) -> Path:
    """A folder with one entry, which its publisher no longer serves."""
    net.put(WEB, FILE)
    assert main(["mirror", "tanet_r18.web", "--to", str(tmp_path / "mirror")]) == 0
    assert files_of(tmp_path / "mirror") == ["tanet_r18.web/config.json", "tanet_r18.web/model.safetensors"]
    net.put(WEB, FILE, statuses=[404] * 99)
    shutil.rmtree(cached().parent)
    net.requests.clear()
    return tmp_path / "mirror"


def serve(net: Loopback, mirror: Path, address: str) -> None:
    for file in mirror.rglob("*.*"):
        if file.is_file():
            net.put(f"{address}/{file.relative_to(mirror)}", file.read_bytes())


@pytest.mark.parametrize("kind", ["folder", "https", "http", "config"])
def test_mirrors_are_tried_first(kind: str, net: Loopback, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://lab.test/weights"
    serve(net, mirror, address)
    location = {"folder": str(mirror), "config": str(mirror), "https": address, "http": net.plain(address)}[kind]
    if kind == "config":
        config = Path(os.environ["TEMPOZOO_CONFIG"]) / "config.yaml"
        config.write_text(f"mirror: {location}\n")
    else:
        monkeypatch.setenv("TEMPOZOO_MIRROR", location)
    if kind in ("folder", "config"):
        monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    assert same(zoo.load(NAMES["web"], progress=False))
    assert {request.host for request in net.requests} <= {"lab.test"}
    monkeypatch.setenv("TEMPOZOO_MIRROR", "")
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "1")
    assert same(zoo.load(NAMES["web"]))
    assert len(files_of(cached().parent)) == 2
    assert len(files_of(mirror)) == 2


@pytest.mark.parametrize("to", ["hf-hub:alice", "hf-hub:alice/weights"])
def test_mirrors_on_the_hub(
    to: str, net: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net.put(WEB, FILE)
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "home")
        assert main(["mirror", "tanet_r18.web", "--to", to]) == 0
        (name,) = hub.repositories
        assert name == to.removeprefix("hf-hub:") + ("" if "/" in to else "/tanet_r18.web")
        assert hub.repositories[name].private
        assert ("README.md" in hub.repositories[name].files) == ("/" not in to)
        shutil.rmtree(cached())
        net.put(WEB, FILE, statuses=[404] * 99)
        monkeypatch.setenv("TEMPOZOO_MIRROR", to)
        assert same(zoo.load(NAMES["web"], progress=False))
        if "/" not in to:
            assert same(zoo.load(f"hf-hub:{name}", progress=False))
    assert len(files_of(cached().parent)) == 2


@pytest.mark.parametrize("damage", ["absent", "flipped", "other"])
def test_publisher_is_tried_after_a_defective_mirror(
    damage: str, net: Loopback, mirror: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The digest of the published file in a mirror's config is verified against the recorded one."""
    if damage == "absent":
        shutil.rmtree(mirror / NAMES["web"])
    elif damage == "flipped":
        flip(mirror / NAMES["web"] / "model.safetensors")
    else:
        (tmp_path / "other.pth").write_bytes(OTHER)
        zoo.convert(tmp_path / "other.pth", NAMES["web"], mirror / NAMES["web"])
    monkeypatch.setenv("TEMPOZOO_MIRROR", str(mirror))
    with pytest.raises(CheckpointError, match=r"(?s)(mirror.*answers 404)"):
        zoo.load(NAMES["web"], progress=False)
    net.put(WEB, FILE)
    assert same(zoo.load(NAMES["web"], progress=False))


def test_missing_mirror_folder_is_named(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPOZOO_MIRROR", "/no/such/folder")
    with pytest.raises(ConfigError, match="mirror '/no/such/folder' is not an existing folder"):
        zoo.load(NAMES["web"])
    monkeypatch.delenv("TEMPOZOO_MIRROR")
    config = Path(os.environ["TEMPOZOO_CONFIG"]) / "config.yaml"
    config.parent.mkdir()
    for text, message in (("mirrors: x", "expected `key: value` lines with mirror"), ("mirror: [", "cannot be read")):
        config.write_text(text)
        with pytest.raises(ConfigError, match=message):
            zoo.load(NAMES["web"])


# hosts that cannot be reached ------------------------------------------------------------------------------------


def test_unreachable_host_is_skipped_afterwards(
    net: Loopback, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = WEB.replace("tanet", "again")
    net.put(WEB, FILE, statuses=[404] * 9)
    net.put(again, FILE)
    names = [NAMES[kind] for kind in ("web", "two", "drive", "folder")]
    assert main(["mirror", *names, "--to", str(tmp_path / "mirror")]) == 1
    out, err = capsys.readouterr()
    assert f"{NAMES['web']}: FAILED: {WEB} answers 404" in out
    assert f"{NAMES['two']}: {tmp_path}" in out  # an error for one file does not exclude its host
    assert out.count("cannot be reached") == 2 and f"{NAMES['drive']}: FAILED: https://drive" in out
    assert f"Skipped because their hosts cannot be reached: {NAMES['folder']}\n" in out
    assert "3 of 4 networks could not be mirrored" in err
    assert sorted(r.host for r in net.requests if r.method == "CONNECT") == ["drive.google.com", "other.test"]


def test_each_command_tries_unreachable_hosts_once(
    net: Loopback, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "")
    for run in (1, 2):  # the next command tries again
        assert main(["download", NAMES["web"], NAMES["two"]]) == 1
        assert caplog.text.count("files.test cannot be reached; trying again") == 2 * run
        assert caplog.text.count("other.test cannot be reached; trying again") == 2 * run
    assert "2 of 2 networks could not be downloaded" in capsys.readouterr().err


def test_unreachable_mirror_is_reported_once(
    net: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    net.put(WEB, FILE)
    net.put(WEB_TOO, FILE)
    with LoopbackHub() as hub:
        hub.point(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("TEMPOZOO_MIRROR", "hf-hub:alice/weights")
    assert main(["download", NAMES["web"], NAMES["two"]]) == 0
    assert caplog.text.count("hf-hub:alice/weights could not be downloaded") == 1


# unknown names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["info", "xyz"], "Unknown model 'xyz'. `tempozoo list` lists all names."),
        (["download", "xyz"], "Unknown model 'xyz'. `tempozoo list` lists all names."),
        (["convert", "file.pth", "xyz"], "Unknown model 'xyz'. `tempozoo list` lists all names."),
        (["mirror", "xyz*", "--to", "x"], "No network matches 'xyz*'. `tempozoo list` shows all networks."),
        (["verify", "x[yz]"], "No network matches 'x[yz]'. `tempozoo list` shows all networks."),
    ],
)
def test_unknown_names_are_reported_in_terms_of_the_command_line(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1
    assert capsys.readouterr().err == f"tempozoo: {message}\n"
    with pytest.raises(UnknownNameError, match=r"zoo.list_models\(\) lists all names"):
        zoo.info("xyz")
