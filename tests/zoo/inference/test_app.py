"""tempozoo app: functions of the page, limits, its server, and the page in a browser."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch
from browser import open_page
from loopback import Loopback
from numbered_videos import numbered_video
from paths import PYTHONPATH
from small_models import small, small_trained
from tiny_zoo import FILE, NAMES, WEB

import zoo
from cli import main
from zoo.errors import ConfigError, WeightsNotFoundError, ZooError
from zoo.index import load_index
from zoo.inference import app_networks
from zoo.inference.app_networks import AppNetworks
from zoo.inference.listener import bind, server_url
from zoo.inference.predictor import make_prediction
from zoo.video.containers import Limits

gr = pytest.importorskip("gradio", reason='needs `pip install "tempozoo[app]"`')
uvicorn = pytest.importorskip("uvicorn")
from zoo.inference import app  # noqa: E402

LABELS = ["opens <door>", "shuts", "lifts", "drops"]
MAX_UPLOAD = 200_000


@pytest.fixture(scope="module")
def network_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(zoo.save(small_trained(labels=LABELS), tmp_path_factory.mktemp("networks") / "net"))


@pytest.fixture
def networks(network_folder: str) -> AppNetworks:
    return AppNetworks([network_folder])


@pytest.fixture
def page(networks: AppNetworks, tmp_path: Path) -> app.VideoApp:
    return app.VideoApp(networks, tmp_path)


@contextlib.contextmanager
def serving(networks: AppNetworks, folder: Path) -> Iterator[str]:
    """Serve the page in a thread; yields its URL."""
    folder.mkdir()
    with bind("127.0.0.1", 0) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        application = app.create_app(networks, folder, MAX_UPLOAD)
        server = uvicorn.Server(uvicorn.Config(application, log_level="critical", timeout_graceful_shutdown=1))
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield server_url(listener, "127.0.0.1")
        finally:
            server.should_exit = True
            thread.join()


def call(server: str, network: str, path: str, **fields: Any) -> str:
    """Send a path or URL in place of an upload, without the client, which uploads files; returns the events."""
    data = {"path": path, "meta": {"_type": "gradio.FileData"}, **fields}
    body = json.dumps({"data": [data, network]}).encode()
    request = urllib.request.Request(f"{server}/gradio_api/call/classify", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{server}/gradio_api/call/classify/{event}", timeout=60) as response:
        return str(response.read().decode())


# functions of the page -------------------------------------------------------------------------------------------


def test_labels_equal_those_of_predict(page: app.VideoApp, network_folder: str, tmp_path: Path) -> None:
    video = str(numbered_video(tmp_path / "clip.mp4", 30))
    expected = zoo.predict(network_folder, video)
    assert page.classify(video, network_folder) == dict(zip(expected.labels, expected.scores, strict=True))


def test_labels_of_every_classifier() -> None:
    network = small("tanet_r18")
    protocol = SimpleNamespace(heads=(("verb", 2), ("noun", 2)))
    model: Any = SimpleNamespace(labels=("opens", "shuts", "door", "box"), protocol=protocol)
    prediction = make_prediction(model, "clip", torch.tensor([0.9, 0.1, 0.25, 0.75]))
    assert network.labels is None
    assert app.best_classes(prediction, top=4) == pytest.approx(
        {"verb: opens": 0.9, "verb: shuts": 0.1, "noun: box": 0.75, "noun: door": 0.25}
    )


def test_scores_over_time_are_those_of_the_timeline(page: app.VideoApp, network_folder: str, tmp_path: Path) -> None:
    video = str(numbered_video(tmp_path / "clip.mp4", 75))  # 3 seconds; the window has 2
    table = page.over_time(video, network_folder)
    assert table is not None
    windows = list(zoo.timeline(network_folder, video, window=2.0, stride=1.0))
    assert sorted(set(table["seconds"])) == [(window.start + window.end) / 2 for window in windows]
    first = table[table["seconds"] == table["seconds"].min()]
    expected = dict(zip(windows[0].labels, windows[0].scores, strict=True))
    assert dict(zip(first["class"], first["score"], strict=True)) == pytest.approx(expected, abs=1e-4)
    assert table["end"].max() == 3.0


def test_short_videos_have_no_timeline(page: app.VideoApp, network_folder: str, tmp_path: Path) -> None:
    assert page.over_time(str(numbered_video(tmp_path / "clip.mp4", 30)), network_folder) is None


def test_long_videos_have_longer_windows(
    page: app.VideoApp, network_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_WINDOWS", 4)
    table = page.over_time(str(numbered_video(tmp_path / "clip.mp4", 250)), network_folder)
    assert table is not None
    assert sorted(set(table["seconds"])) == [2.5, 5.0, 7.5]


def test_timeline_ends_at_the_time_limit(
    page: app.VideoApp, network_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(gr, "Warning", messages.append)
    times = iter([time.monotonic()])  # of the first call; later calls are after the limit
    monkeypatch.setattr(app, "time", SimpleNamespace(monotonic=lambda: next(times, time.monotonic() + 1000)))
    predictor = page.networks.predictor(network_folder)
    source = app.uploaded(str(numbered_video(tmp_path / "clip.mp4", 125)), tmp_path)
    assert len(app.predict_windows(predictor, source)) == 1
    assert messages == ["The chart ends at 2 s: the time limit of 60 s has passed."]


def test_explanation_is_a_video_of_the_best_class(page: app.VideoApp, network_folder: str, tmp_path: Path) -> None:
    video = str(numbered_video(tmp_path / "clip.mp4", 30))
    path, text = page.explain(video, network_folder)
    assert text.startswith(f"{zoo.predict(network_folder, video).labels[0]}, ")
    assert Path(path).is_relative_to(page.folder)
    with av.open(path) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


# errors ------------------------------------------------------------------------------------------------------------


def damaged(folder: Path, kind: str) -> str | None:
    """Create an upload that is refused."""
    path = folder / "my <clip>.mp4"
    if kind == "nothing":
        return None
    if kind == "expired":
        return str(path)
    if kind == "text":
        path.write_text("not a video")
        return str(path)
    if kind == "playlist":
        numbered_video(folder / "part.mp4", 8)
        path.write_text(f"#EXTM3U\n#EXTINF:1,\n{folder}/part.mp4\n#EXT-X-ENDLIST\n")
        return str(path)
    numbered_video(path, 75)
    if kind == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    return str(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing", "No video is selected. Upload or record one."),
        ("expired", "The upload expired after 15 minutes. Upload the video again."),
        ("text", "my &lt;clip&gt;.mp4 cannot be opened as a video"),
        ("playlist", "my &lt;clip&gt;.mp4 cannot be opened as a video"),
        ("truncated", "my &lt;clip&gt;.mp4 is truncated"),
        ("long", "my &lt;clip&gt;.mp4 lasts 0.1 minutes; at most 0.03"),
        ("large", "has frames of 64 x 48 pixels; at most 1000 pixels are supported."),
    ],
)
def test_errors_are_messages_without_paths(
    kind: str, message: str, page: app.VideoApp, network_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = damaged(tmp_path, kind)
    if kind == "long":
        monkeypatch.setattr(app, "MAX_SECONDS", 2.0)
    if kind == "large":
        monkeypatch.setattr(app, "LIMITS", Limits(pixels=1000))
    for function in (page.classify, page.over_time, page.explain):
        with pytest.raises(gr.Error) as caught:
            function(video, network_folder)
        assert message in caught.value.message
        assert str(tmp_path) not in caught.value.message
        assert not caught.value.print_exception


def test_networks_outside_the_page_are_refused(page: app.VideoApp, tmp_path: Path) -> None:
    video = str(numbered_video(tmp_path / "clip.mp4", 8))
    for name in ("/etc/passwd", "hf-hub:user/net", "tanet_r18.motionclips8"):
        with pytest.raises(gr.Error, match="is not a network of this page"):
            page.classify(video, name)


# networks ----------------------------------------------------------------------------------------------------------


def test_default_networks_are_the_trained_ones_of_the_index() -> None:
    names = AppNetworks().names
    entries = load_index().entries
    assert names[0] == "tanet_r18.motionclips8"
    assert set(names) == {name for name, entry in entries.items() if not entry.init}


def test_untrained_networks_are_refused(tmp_path: Path) -> None:
    folder = str(zoo.save(small("tanet_r18"), tmp_path / "untrained"))
    with pytest.raises(ConfigError, match=r"untrained.* Fine-tune it with `tempozoo fit --from"):
        AppNetworks([folder])


def test_networks_without_classifier_are_refused(tmp_path: Path) -> None:
    folder = str(zoo.save(small_trained(num_classes=0), tmp_path / "features"))
    with pytest.raises(ConfigError, match="has no classifier"):
        AppNetworks([folder])


def test_network_of_the_index_is_downloaded_when_it_is_used(net: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    net.put(WEB, FILE)
    monkeypatch.setattr(app_networks, "MAX_LOADED", 1)
    networks = AppNetworks()
    assert set(networks.names) == set(NAMES.values())
    name = NAMES["web"]
    assert "not downloaded yet: the first prediction downloads them from https:" in networks.describe(name)
    assert net.count(WEB) == 0
    predictor = networks.predictor(name)
    assert net.count(WEB) == 1
    assert "downloaded from https:" in networks.describe(name)
    assert networks.predictor(name) is predictor
    with pytest.raises(ZooError, match="could not be downloaded|cannot be downloaded|failed"):
        networks.predictor(NAMES["two"])


def test_failed_download_is_a_message(tmp_path: Path) -> None:
    networks = AppNetworks()
    page = app.VideoApp(networks, tmp_path)
    with pytest.raises(WeightsNotFoundError) as expected:
        networks.predictor("tada2d_r50.k400_8x8")
    with pytest.raises(gr.Error, match="tada2d_r50.k400_8x8"):
        page.classify(str(numbered_video(tmp_path / "clip.mp4", 8)), "tada2d_r50.k400_8x8")
    assert "TEMPOZOO_OFFLINE" in str(expected.value)


def test_description_has_no_local_paths(networks: AppNetworks, network_folder: str) -> None:
    text = networks.describe(network_folder)
    assert "- **classes:** 4" in text
    assert "a local file" in text
    assert "/" not in text
    assert networks.describe("unknown") == ""


# server ------------------------------------------------------------------------------------------------------------


def test_server_limits_uploads_and_forbids_other_hosts(
    networks: AppNetworks, network_folder: str, tmp_path: Path
) -> None:
    gradio_client = pytest.importorskip("gradio_client")
    with serving(networks, tmp_path / "uploads") as url:
        with urllib.request.urlopen(url) as response:
            assert "default-src 'self'" in response.headers["content-security-policy"]
            assert "fonts.googleapis.com" not in response.read().decode()
        large = tmp_path / "large.mp4"
        large.write_bytes(bytes(MAX_UPLOAD + 1))
        options: Any = {"verbose": False, "httpx_kwargs": {"timeout": 60}}
        client = gradio_client.Client(url, download_files=str(tmp_path / "files"), **options)
        with pytest.raises(Exception, match="size|413"):
            client.predict(gradio_client.handle_file(str(large)), network_folder, api_name="/classify")
        video = str(numbered_video(tmp_path / "outside.mp4", 8))
        for path in (video, f"{tmp_path}/uploads/../outside.mp4", "http://127.0.0.1:9/clip.mp4"):
            for fields in ({}, {"is_stream": True}, {"url": path}):
                assert "Only uploaded files are accepted" in call(url, network_folder, path, **fields)
        assert [item for item in (tmp_path / "uploads").rglob("*") if item.is_file()] == []
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{url}/gradio_api/file={video}")
        labels = client.predict(gradio_client.handle_file(video), network_folder, api_name="/classify")[0]
        assert labels["label"] in LABELS


def test_page_in_a_browser(networks: AppNetworks, network_folder: str, tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "clip.mp4", 75)
    best = zoo.predict(network_folder, str(video)).labels[0]
    with serving(networks, tmp_path / "uploads") as url, open_page(url) as recording:
        page = recording.page
        page.get_by_role("button", name="Classify").wait_for()
        page.get_by_role("button", name="Classify").click()
        page.get_by_text("No video is selected. Upload or record one.").wait_for()
        page.set_input_files("input[type=file]", str(video))
        page.get_by_label("Video").first.wait_for()
        page.locator("video").first.wait_for()
        page.get_by_role("button", name="Classify").click()
        page.get_by_role("heading", name=best).wait_for()
        page.locator(".legend").get_by_text(LABELS[0]).wait_for()
        page.get_by_text("Pixels that the best label is based on").wait_for(timeout=60_000)
        assert recording.hosts == {"127.0.0.1"}
        assert recording.errors == []


# command -----------------------------------------------------------------------------------------------------------


def test_command_serves_until_sigterm_and_removes_its_files(network_folder: str, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "cli", "app", "--from", network_folder, "--port", "0", "--no_browser"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:")
        with urllib.request.urlopen(line.split()[1]) as response:
            assert response.status == 200
        assert len(list(temporary.glob("tempozoo-app-*"))) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert not list(temporary.glob("tempozoo-app-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "missing.ckpt"], "File missing.ckpt does not exist."),
        (["--max_upload", "many"], "The size 'many' is invalid"),
        (["--views", "many"], "views is 'many'"),
    ],
)
def test_command_reports_wrong_arguments(
    arguments: list[str], message: str, network_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--from" not in arguments:
        arguments = [*arguments, "--from", network_folder]
    assert main(["app", "--no_browser", "--port", "0", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_command_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "zoo.inference.app")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--no_browser"]) == 1
    assert '`tempozoo app` needs gradio: pip install "tempozoo[app]"' in capsys.readouterr().err


def test_used_port_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        port = str(listener.getsockname()[1])
        assert main(["app", "--no_browser", "--port", port]) == 1
    assert f"The server cannot use 127.0.0.1:{port}" in capsys.readouterr().err
