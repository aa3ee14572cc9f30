"""tempozoo serve: answers, limits, URLs and metrics of a running server."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from loopback_http import File, Reply, Server, authority
from numbered_videos import numbered_video
from small_models import small

import zoo
from cli import main
from zoo.errors import ConfigError, DataError
from zoo.inference import batching, remote_video, serve_command, serving
from zoo.inference.listener import bind
from zoo.inference.predictor import Predictor
from zoo.inference.remote_video import is_public
from zoo.inference.serving import ServeOptions
from zoo.video.containers import Limits
from zoo.video.decoding import open_video
from zoo.video.source import Source

VIDEO = {"Content-Type": "video/mp4"}
JSON = {"Content-Type": "application/json"}
TIMEOUT = 60.0  # seconds; more than any test needs


class Client:
    """Requests to a server.

    port: of 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Return the status and the JSON or text of the response."""
        return self.respond(method, path, body, headers)[:2]

    def respond(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, (bytes, str)))
            response = connection.getresponse()
            content = response.read()
            is_json = response.getheader("Content-Type") == "application/json"
            return response.status, json.loads(content) if is_json else content.decode(), response

    def predict(self, body: Any, headers: dict[str, str] = VIDEO, query: str = "") -> tuple[int, Any]:
        return self.send("POST", f"/predict{query}", body, headers)

    def fetch(self, url: Any) -> tuple[int, Any]:
        return self.predict(json.dumps({"url": url}), JSON)

    def open(self, head: str) -> socket.socket:
        """Open a connection and send the beginning of a request."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        connection.sendall(head.replace("\n", "\r\n").encode())
        return connection

    def metric(self, name: str) -> float:
        text = self.send("GET", "/metrics")[1]
        return float(re.findall(rf"^{re.escape(name)} (\S+)$", text, re.M)[0])

    def wait_for_metric(self, name: str, value: float) -> None:
        stop = time.monotonic() + TIMEOUT
        while self.metric(name) != value:
            assert time.monotonic() < stop, self.send("GET", "/metrics")[1]
            time.sleep(0.02)


@contextlib.contextmanager
def running(predictor: Predictor, **options: Any) -> Iterator[Client]:
    """A server in a thread."""
    settings = ServeOptions(name="small", **options)
    server = serving.create_server(serving.create_app(predictor, settings), settings)
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Client(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [numbered_video(folder / f"{frames}.mp4", frames) for frames in (9, 20, 33)]


@pytest.fixture(scope="module")
def predictor() -> Iterator[Predictor]:
    torch.manual_seed(0)
    model = small("tanet_r18", width=8)
    model.labels = ["run", "jump", "sit", "stand"]
    model.protocol = replace(model.protocol.with_size(32), clips=2, crops=3)
    with Predictor(model, views="2x1", batch_size=8, workers=2) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[Client]:
    with running(predictor, max_upload=300_000, timeout=TIMEOUT, queue=30) as client:
        yield client


def post(length: str = "Content-Length: 1000", kind: str = "video/mp4") -> str:
    return f"POST /predict HTTP/1.1\nHost: x\nContent-Type: {kind}\n{length}\n\n"


def read_status(connection: socket.socket) -> int:
    """Read a response to its end, which closes the connection; return its status."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


# answers -------------------------------------------------------------------------------------------------------------


def test_concurrent_requests_share_batches_and_equal_predict(
    client: Client, predictor: Predictor, videos: list[Path]
) -> None:
    requests = videos * 8
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda path: client.predict(path.read_bytes()), requests))
    for path, (status, answer) in zip(requests, answers, strict=True):
        assert status == 200, answer
        expected = zoo.predict(predictor, path)
        assert [item["label"] for item in answer["predictions"]] == list(expected.labels)
        assert [item["score"] for item in answer["predictions"]] == pytest.approx(list(expected.scores), abs=1e-5)
    assert answer["model"] == "small" and answer["views"] == {"clips": 2, "crops": 1}
    assert set(answer["seconds"]) == {"receive", "decode", "network", "total"}
    assert client.metric("tempozoo_batch_size_count") < client.metric("tempozoo_batch_size_sum") / 2


def test_chunked_uploads_and_uploads_without_a_type_are_accepted(client: Client, videos: list[Path]) -> None:
    content = videos[0].read_bytes()
    expected = client.predict(content)[1]["predictions"]
    for body, headers in (
        (iter([content[:100], content[100:]]), VIDEO),
        (content, {}),
        (content, {"Content-Type": "application/octet-stream"}),
        (content, {"Content-Type": "VIDEO/Quicktime; codecs=x"}),
    ):
        status, answer = client.predict(body, headers)
        assert (status, answer["predictions"]) == (200, expected)


def test_top_selects_the_number_of_classes(client: Client, videos: list[Path]) -> None:
    content = videos[0].read_bytes()
    assert len(client.predict(content, query="?top=2")[1]["predictions"]) == 2
    for value in ("0", "x", "-1"):
        status, answer = client.predict(content, query=f"?top={value}")
        assert status == 422 and "top" in answer["error"]


def test_a_network_with_heads_answers_all_of_them(videos: list[Path]) -> None:
    model = small("tanet_r18", num_classes=5)
    model.labels = ["open", "close", "door", "box", "jar"]
    model.protocol = replace(model.protocol.with_size(32), heads=(("verb", 2), ("noun", 3)))
    with Predictor(model) as predictor, running(predictor) as client:
        answer = client.predict(videos[0].read_bytes())[1]
        expected = zoo.predict(predictor, videos[0])
    assert {name: [item["label"] for item in items] for name, items in answer["heads"].items()} == {
        name: list(head.labels) for name, head in expected.heads.items()
    }


def test_health_and_description(client: Client) -> None:
    assert client.send("GET", "/health") == (200, {"status": "ready", "model": "small", "device": "cpu"})
    status, answer = client.send("GET", "/")
    assert status == 200 and answer["labels"] == ["run", "jump", "sit", "stand"]
    assert answer["protocol"]["num_frames"] == 4 and answer["max_upload"] == 300_000


def test_metrics_count_requests_by_status(client: Client, videos: list[Path]) -> None:
    def count(path: str, status: int) -> float:
        return client.metric(f'tempozoo_requests_total{{path="{path}",status="{status}"}}')

    client.predict(videos[0].read_bytes())
    client.predict(b"no video")
    client.send("GET", "/x")
    before = count("/predict", 200), count("/predict", 422), count("other", 404)
    client.predict(videos[0].read_bytes())
    client.predict(b"no video")
    client.send("GET", "/y")
    assert (count("/predict", 200), count("/predict", 422), count("other", 404)) == tuple(n + 1 for n in before)
    assert client.metric("tempozoo_queue_length") == 0
    assert client.metric("tempozoo_predict_seconds_count") > 0


# bad requests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"text", "text/plain", 415, "content type is text/plain"),
        (b"--x", "multipart/form-data; boundary=x", 415, "multipart/form-data"),
        (b"\x89PNG", "image/png", 415, "image/png"),
        (b"", "video/mp4", 400, "empty"),
        (b"no video at all", "video/mp4", 422, "upload cannot be opened as a video"),
        (b"#EXTM3U\n#EXTINF:5.0,\nfile:///etc/passwd\n", "video/mp4", 422, "a video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "video/mp4", 422, "a video"),
        (b"{", "application/json", 400, "not valid JSON"),
        (b"\xff", "application/json", 400, "not valid JSON"),
        (b"[" * 10_000, "application/json", 400, "not valid JSON"),
        (b'{"path": "/etc/passwd"}', "application/json", 400, "one key"),
        (b'{"url": 3}', "application/json", 400, "one key"),
        (b'{"url": "https://example.org/v.mp4"}', "application/json", 403, "not enabled"),
        (b" " * 20_000, "application/json", 413, "20000 bytes"),
    ],
)
def test_bad_bodies_have_a_json_error(client: Client, body: bytes, kind: str, status: int, message: str) -> None:
    answer = client.predict(body, {"Content-Type": kind})
    assert answer[0] == status and message in answer[1]["error"]


def test_truncated_and_compressed_uploads_are_refused(client: Client, videos: list[Path]) -> None:
    content = videos[0].read_bytes()
    assert client.predict(content[:-100])[0] == 422
    assert client.predict(content, VIDEO | {"Content-Encoding": "gzip"})[0] == 415
    assert client.predict(content)[0] == 200


def test_unknown_paths_and_methods_have_a_json_error(client: Client) -> None:
    assert client.send("GET", "/none") == (404, {"error": "Not Found"})
    assert client.send("GET", "/predict") == (405, {"error": "Method Not Allowed"})


def test_a_large_upload_is_refused_by_its_header(client: Client) -> None:
    with client.open(post("Content-Length: 300001")) as connection:
        assert read_status(connection) == 413
    with client.open(post("Content-Length: 300001\nExpect: 100-continue")) as connection:
        assert connection.recv(12) == b"HTTP/1.1 413"  # without 100 Continue


def test_a_large_chunked_upload_is_refused_while_it_is_received(client: Client) -> None:
    status, answer, response = client.respond("POST", "/predict", iter([bytes(10_000)] * 40), VIDEO)
    assert status == 413 and "300000" in answer["error"]
    assert response.getheader("Connection") == "close"


def test_an_endless_upload_ends(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "LINGER", 0.2)
    with client.open(post("Transfer-Encoding: chunked")) as connection:
        chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(chunk)
    client.wait_for_metric("tempozoo_queue_length", 0)


# time limits and the queue -------------------------------------------------------------------------------------------


def test_slow_senders_time_out(predictor: Predictor, videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "LINGER", 0.1)
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
    with running(predictor, timeout=0.5) as client:
        with client.open(post()) as body, client.open("POST /predict HTTP/1.1\nHost:") as head:
            body.sendall(b"some bytes")
            assert head.recv(100) == b""  # closed
            assert read_status(body) == 408
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=TIMEOUT)
        with contextlib.closing(connection):  # the head of the second request of a connection
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            connection.sock.sendall(b"GET /hea")
            assert connection.sock.recv(100) == b""
        client.wait_for_metric("tempozoo_queue_length", 0)


def decode_too_late(*args: Any, time_limit: float, **options: Any) -> None:
    time.sleep(time_limit)
    raise DataError("too late")


def test_decoding_and_computing_have_a_time_limit(
    predictor: Predictor, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, release = videos[0].read_bytes(), threading.Event()
    logits = predictor.logits
    monkeypatch.setattr(predictor, "logits", lambda views: release.wait(TIMEOUT) and logits(views))
    with running(predictor, timeout=0.3) as client:
        status, answer = client.predict(content)
        assert status == 504 and "longer than 0.3 s" in answer["error"]
        release.set()
        client.wait_for_metric("tempozoo_queue_length", 0)
        assert client.predict(content)[0] == 200
        monkeypatch.setattr(batching, "read_video_views", decode_too_late)
        assert client.predict(content)[0] == 504
        client.wait_for_metric("tempozoo_queue_length", 0)


def test_requests_beyond_the_queue_are_refused(
    predictor: Predictor, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = videos[0].read_bytes()
    with running(predictor, queue=1, timeout=TIMEOUT) as client:
        uploads = [client.open(post(f"Content-Length: {len(content)}")) for _ in range(3)]  # 2 workers, 1 in the queue
        client.wait_for_metric("tempozoo_queue_length", 3)
        status, answer, response = client.respond("POST", "/predict", content, VIDEO)
        assert status == 503 and "queue" in answer["error"] and response.getheader("Retry-After") == "1"
        assert client.metric("tempozoo_rejected_total") == 1
        uploads[0].close()  # a client that disconnects frees its slot
        client.wait_for_metric("tempozoo_queue_length", 2)
        assert client.predict(content)[0] == 200
        for upload in uploads[1:]:
            upload.sendall(content)
            assert upload.recv(12) == b"HTTP/1.1 200"
            upload.close()


def test_disconnected_clients_free_their_slots_before_their_turn(
    predictor: Predictor, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, release = videos[0].read_bytes(), threading.Event()
    read = batching.read_video_views
    monkeypatch.setattr(batching, "read_video_views", lambda *a, **o: release.wait(TIMEOUT) and read(*a, **o))
    with running(predictor, queue=8, timeout=TIMEOUT) as client:
        uploads = [client.open(post(f"Content-Length: {len(content)}")) for _ in range(10)]
        for upload in uploads:
            upload.sendall(content)
        client.wait_for_metric("tempozoo_queue_length", 10)
        for upload in uploads:
            upload.close()
        client.wait_for_metric("tempozoo_queue_length", 2)  # those that are being decoded
        release.set()
        client.wait_for_metric("tempozoo_queue_length", 0)


def test_a_failed_batch_is_an_internal_error(
    predictor: Predictor, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(views: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory at 0x1234")

    with running(predictor) as client:
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "logits", fail)
            status, answer = client.predict(videos[0].read_bytes())
        assert status == 500 and "0x1234" not in answer["error"]
        assert client.predict(videos[0].read_bytes())[0] == 200
        client.wait_for_metric("tempozoo_queue_length", 0)


# hostile videos ------------------------------------------------------------------------------------------------------


def claim_frames(path: Path, count: int) -> bytes:
    """A video file whose index claims ``count`` frames of one byte each."""
    content = bytearray(path.read_bytes())
    position = content.index(b"stsz")
    content[position + 8 : position + 16] = struct.pack(">II", 1, count)
    return bytes(content)


def large_frame(path: Path, side: int) -> bytes:
    """A small file with one black frame, which FFmpeg decodes to detect its format."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.height = stream.width = side
        stream.pix_fmt = "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((side, side, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def test_videos_that_claim_more_frames_than_bytes_are_refused(videos: list[Path]) -> None:
    """FFmpeg would seek among the claimed frames for minutes, without checking a time limit."""
    with pytest.raises(DataError, match="v claims 20000000 frames in a track; at most"):
        open_video(Source("v", content=claim_frames(videos[0], 20_000_000)))
    with pytest.raises(DataError, match="v claims 500 frames in a track; at most 400"):
        open_video(Source("v", content=claim_frames(videos[0], 500)), limits=Limits(frames=400))
    with pytest.raises(DataError, match="v has a compressed index"):
        open_video(Source("v", content=videos[0].read_bytes().replace(b"udta", b"cmov")), limits=Limits(frames=400))
    audio = claim_frames(videos[0], 20_000_000).replace(b"vide", b"soun")
    with pytest.raises(DataError, match="v claims 20000000 frames in a track"):
        open_video(Source("v", content=audio), limits=Limits(frames=400))


def test_decoding_limits(client: Client, videos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="v has more than 8 frames|v claims 9 frames"):
        open_video(Source("v", content=videos[0].read_bytes()), limits=Limits(frames=8))
    with pytest.raises(DataError, match="48 x|64 x|pixels"):
        open_video(videos[0], limits=Limits(pixels=1000))
    assert len(open_video(videos[0], limits=Limits(pixels=48 * 64, frames=9, streams=1))) == 9
    status, answer = client.predict(large_frame(tmp_path / "large.mov", 4000))
    assert status == 422 and "pixels" in answer["error"]
    assert client.predict(claim_frames(videos[0], 20_000_000))[0] == 422


# URLs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server on 127.0.0.1 whose hosts are the first part of the path."""
    monkeypatch.delenv("TEMPOZOO_OFFLINE")
    with Server() as server:
        content = videos[1].read_bytes()
        files = {
            "/clip.mp4": File(content),
            "/chunked": File(content, framing="chunked"),
            "/stall": File(content, stall=500),
            "/endless": File(bytes(500_000), framing="close"),
            "/large": File(bytes(500_000)),
            "/cut": File(content, cut=500),
            "/gone": Reply(404, "gone"),
            "/to-clip": Reply(302, headers={"Location": "clip.mp4"}),
            "/to-file": Reply(302, headers={"Location": "file:///etc/passwd"}),
            "/to-loopback": Reply(302, headers={"Location": f"http://127.0.0.1:{server.server_port}/web/clip.mp4"}),
            "/to-metadata": Reply(301, headers={"Location": "http://169.254.169.254/latest"}),
            "/loop": Reply(302, headers={"Location": "loop"}),
            "/invalid": Reply(302, headers={"Location": "http://[x"}),
        }
        server.hosts["web"] = lambda path: files.get(path, Reply(404))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def use_names(monkeypatch: pytest.MonkeyPatch, **names: list[list[str]]) -> list[str]:
    """Define names in the domain ``example`` by the addresses of each look-up; returns the later look-ups."""
    lookups: list[str] = []
    original = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        name, _, domain = str(host).partition(".")
        if domain != "example":
            return original(host, *args, **options)
        lookups.append(name)
        answers = names[name]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [info for address in addresses for info in original(address, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return lookups


def test_a_video_at_an_allowed_url_is_classified(
    web: Server, predictor: Predictor, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_names(monkeypatch, videos=[["127.0.0.1"]])
    expected = pytest.approx(list(zoo.predict(predictor, videos[1]).scores), abs=1e-5)
    with running(predictor, allow_url=("Videos.example",)) as client:
        for path in ("clip.mp4", "chunked", "to-clip"):
            status, answer = client.fetch(f"http://VIDEOS.example:{web.server_port}/web/{path}")
            assert status == 200, answer
            assert [item["score"] for item in answer["predictions"]] == expected


def test_failing_hosts_have_a_status(web: Server, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(predictor, allow_url=("127.0.0.1",), max_upload=300_000, timeout=0.5) as client:
        statuses = {
            path: client.fetch(f"http://127.0.0.1:{web.server_port}/web/{path}")[0]
            for path in ("stall", "endless", "large", "cut", "gone", "loop", "invalid", "to-file", "to-metadata")
        }
        assert statuses == {
            "stall": 504, "endless": 413, "large": 413, "cut": 502, "gone": 502, "loop": 502, "invalid": 502,
            "to-file": 403, "to-metadata": 403,
        }  # fmt: skip
        assert client.fetch("http://127.0.0.1:1/")[0] == 502  # no server
        client.wait_for_metric("tempozoo_queue_length", 0)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("file:///etc/passwd", 403),
        ("/etc/passwd", 403),
        ("concat:/etc/passwd", 403),
        ("ftp://example.org/v.mp4", 403),
        ("rtsp://example.org/v", 403),
        ("http:///v.mp4", 400),
        ("http://user:password@example.org/", 400),
        ("http://example.org:99999/", 400),
        ("http://[::1", 400),
        ("http://example.org/\r\nHost: x", 400),
        ("http://ex\u00e4mple.org/", 400),
        ("http://example.org/" + "a" * 5000, 400),
        ("http://127.0.0.1:{port}/web/clip.mp4", 403),
        ("http://localhost:{port}/web/clip.mp4", 403),
        ("http://localhost.:{port}/web/clip.mp4", 403),
        ("http://2130706433:{port}/web/clip.mp4", 403),
        ("http://127.1:{port}/web/clip.mp4", 403),
        ("http://[::ffff:127.0.0.1]:{port}/web/clip.mp4", 403),
        ("http://0.0.0.0:{port}/web/clip.mp4", 403),
        ("http://10.0.0.1/", 403),
        ("http://169.254.169.254/latest/meta-data", 403),
        ("http://[fe80::1]/", 403),
        ("http://private.example:{port}/web/clip.mp4", 403),
        ("http://mixed.example:{port}/web/clip.mp4", 403),
    ],
)
def test_urls_that_are_not_public_are_refused(
    web: Server, url: str, status: int, any_host: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_names(monkeypatch, private=[["127.0.0.1"]], mixed=[["8.8.8.8", "127.0.0.1"]])
    answer = any_host.fetch(url.format(port=web.server_port))
    assert answer[0] == status and answer[1]["error"]
    assert not web.requests


@pytest.fixture(scope="module")
def any_host(predictor: Predictor) -> Iterator[Client]:
    with running(predictor, allow_url=("*",)) as client:
        yield client


def test_other_hosts_are_refused(web: Server, predictor: Predictor) -> None:
    with running(predictor, allow_url=("videos.example",)) as client:
        for host in (f"127.0.0.1:{web.server_port}", "example.org", "sub.videos.example"):
            status, answer = client.fetch(f"http://{host}/web/clip.mp4")
            assert status == 403 and "not allowed on this server" in answer["error"]
    assert not web.requests


def test_redirects_are_checked(web: Server, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    use_names(monkeypatch, videos=[["127.0.0.1"]])
    url = f"http://videos.example:{web.server_port}/web/"
    for allowed, message in ((("videos.example",), "not allowed on this server"), (("*", "videos.example"), "public")):
        with running(predictor, allow_url=allowed) as client:
            for path in ("to-loopback", "to-metadata"):
                status, answer = client.fetch(url + path)
                assert status == 403 and message in answer["error"]
    assert {request.path for request in web.requests} == {"/to-loopback", "/to-metadata"}


def test_the_connection_goes_to_the_address_that_was_checked(
    web: Server, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups = use_names(monkeypatch, changing=[["127.0.0.1"], ["127.0.0.2"]])
    monkeypatch.setattr(remote_video, "is_public", lambda address: address == "127.0.0.1")
    with running(predictor, allow_url=("*",)) as client:
        assert client.fetch(f"http://changing.example:{web.server_port}/web/clip.mp4")[0] == 200
        assert lookups == ["changing"]
        assert client.fetch(f"http://changing.example:{web.server_port}/web/clip.mp4")[0] == 403


def test_certificates_are_verified(
    videos: list[Path], predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEMPOZOO_OFFLINE")
    use_names(monkeypatch, videos=[["127.0.0.1"]], other=[["127.0.0.1"]])
    authority().cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("videos.example").configure_cert(context)
    with Server() as server, running(predictor, allow_url=("videos.example", "other.example")) as client:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.hosts["web"] = lambda path: File(videos[0].read_bytes())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        assert client.fetch(f"https://videos.example:{server.server_port}/web/v")[0] == 200
        status, answer = client.fetch(f"https://other.example:{server.server_port}/web/v")
        assert status == 502 and "certificate" in answer["error"]
        server.shutdown()
        thread.join()


def test_addresses() -> None:
    for address in ("8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(address), address
    for address in (
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fec0::1", "ff02::1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:0:7f00:1::", "2001:db8::1",
    ):  # fmt: skip
        assert not is_public(address), address


# the command ---------------------------------------------------------------------------------------------------------


def test_sigterm_completes_running_requests(videos: list[Path]) -> None:
    command = [sys.executable, "cli.py", "serve", "tanet_r18.motionclips8", "--port", "0"]
    content = videos[0].read_bytes()
    root = Path(zoo.__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"Serving tanet_r18.motionclips8 at http://127.0.0.1:(\d+)", line)
        assert match, line + process.stdout.read()
        client = Client(int(match[1]))
        assert client.send("GET", "/health")[0] == 200
        with client.open(post(f"Content-Length: {len(content)}")) as upload:
            client.wait_for_metric("tempozoo_queue_length", 1)
            process.send_signal(signal.SIGTERM)
            while True:  # until the server does not accept connections any more
                try:
                    socket.create_connection(("127.0.0.1", client.port), timeout=1).close()
                except OSError:
                    break
            upload.sendall(content)
            assert read_status(upload) == 200
        assert process.wait(TIMEOUT) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stdout.read()


def test_errors_of_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        assert main(["serve", "tanet_r18.motionclips8", "--port", str(used.getsockname()[1])]) == 1
    assert "give another --host or --port" in capsys.readouterr().err
    for option, value in (("--max_upload", "x"), ("--queue", "-1"), ("--timeout", "0"), ("--top", "0")):
        assert main(["serve", "tanet_r18.motionclips8", option, value]) == 1
        assert option.strip("-") in capsys.readouterr().err or option == "--max_upload"
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "zoo.inference.serving")
    monkeypatch.delattr("zoo.inference.serving", raising=False)
    assert main(["serve", "tanet_r18.motionclips8"]) == 1
    assert 'pip install "tempozoo[serve]"' in capsys.readouterr().err


def test_sizes() -> None:
    sizes = {"64MB": 64_000_000, "1 kb": 1000, "7": 7, "2gb": 2_000_000_000, "5B": 5}
    assert {text: serve_command.parse_size(text) for text in sizes} == sizes
    for text in ("", "0", "MB", "-1MB", "1.5MB", "1TB"):
        with pytest.raises(ConfigError, match="size"):
            serve_command.parse_size(text)
