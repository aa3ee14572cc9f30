"""``tempozoo serve`` under load: answers, latency, throughput and memory, with hostile requests among the valid ones.

    python benchmarks/serve.py --requests 1000 --clients 32

The server runs in a process of its own, with a TAda2D-18 of random weights for clips of 8 x 112 x 112 pixels. The
clients send generated videos (320 x 240, H.264). One request in 20 is hostile. Every answer to a valid request is
compared with ``zoo.predict``. The throughput is compared with a loop over ``Predictor.predict`` in this process, which
is measured before the server starts.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.client
import io
import json
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

import zoo
from zoo.inference.predictor import Predictor

FPS = 25
SIZE = (240, 320)
MAX_UPLOAD = 16_000_000
VIDEO = {"Content-Type": "video/mp4"}


def write_video(number: int) -> bytes:
    """Moving gradients, 2 to 6 seconds long; the numbers differ in direction and length."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    rng = np.random.default_rng(number)
    speeds = rng.integers(-5, 6, 3)
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "g": "50"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for time_step in range(50 + 5 * (number % 20)):
            shifts = speeds * time_step + rng.integers(0, 3, 3)
            frame = np.stack([rows + shifts[0], columns + shifts[1], rows + columns + shifts[2]], -1) % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def large_frame(side: int = 10_000) -> bytes:
    """A frame of 100 million pixels in a small file."""
    content = io.BytesIO()
    with av.open(content, "w", format="mov") as container:
        stream = container.add_stream("png", rate=FPS)
        stream.height = stream.width = side
        stream.pix_fmt = "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((side, side, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def many_frames(frames: int = 250_000) -> bytes:
    """Almost three hours of an unchanging picture in a small file."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height = stream.width = 16
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(16, 16, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        packets = list(stream.encode(frame))
        data = bytes(packets[0])
        for number in range(frames):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, FPS), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return content.getvalue()


def claimed_frames(video: bytes, count: int = 20_000_000) -> bytes:
    """A file whose index claims frames that it does not contain."""
    content = bytearray(video)
    position = content.index(b"stsz")
    content[position + 8 : position + 16] = struct.pack(">II", 1, count)
    return bytes(content)


class Server:
    """The server in a process.

    port: of 127.0.0.1.
    """

    def __init__(self, network: Path, args: argparse.Namespace) -> None:
        cli = Path(__file__).parents[1] / "cli.py"
        options = {name: getattr(args, name) for name in ("queue", "batch_size", "timeout")}
        options |= {"port": 0, "max_upload": MAX_UPLOAD}
        command = [sys.executable, str(cli), "serve", str(network), "--allow_untrained", "--allow_url", "*"]
        command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        match = re.search(r":(\d+)$", self.process.stdout.readline().strip())
        assert match is not None, "the server did not start"
        self.port = int(match[1])
        assert self.send("/health", None, method="GET")[0] == 200

    def send(self, path: str, body: object, headers: dict[str, str] = VIDEO, method: str = "POST") -> tuple[int, bytes]:
        """Return status and body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers, encode_chunked=not isinstance(body, bytes))  # type: ignore[arg-type]
            response = connection.getresponse()
            return response.status, response.read()

    def memory(self, key: str) -> int:
        """Return VmRSS (now) or VmHWM (peak) in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{key}:\s+(\d+) kB", status)[0]) // 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)  # minus the number of the signal

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(1 << 16)


def send_slowly(server: Server) -> int:
    """Send a byte every 0.2 seconds until the server answers."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.2) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nContent-Length: 1000\r\n\r\n"
        )
        while True:
            connection.send(b"x")
            with contextlib.suppress(TimeoutError):
                return int(connection.recv(100).split()[1])


def send_hostile(server: Server, kind: str, body: object, headers: dict[str, str]) -> int:
    """Return the status; a connection that the server closes during an upload counts as status 413."""
    if kind == "slow sender":
        return send_slowly(server)
    try:
        return server.send("/predict", body, headers)[0]
    except ConnectionError:
        return 413


def hostile_requests(video: bytes) -> dict[str, tuple[int, Callable[[], object], dict[str, str]]]:
    """Kind -> expected status, function that returns the body, headers."""
    large, many, claimed = large_frame(), many_frames(), claimed_frames(video)
    as_json = {"Content-Type": "application/json"}

    def url(text: str) -> Callable[[], bytes]:
        return lambda: json.dumps({"url": text}).encode()

    return {
        "oversized": (413, lambda: bytes(2 * MAX_UPLOAD), VIDEO),
        "endless chunked": (413, endless, VIDEO),
        "slow sender": (408, bytes, VIDEO),
        "frame of 10^8 pixels": (422, lambda: large, VIDEO),
        "250,000 frames": (422, lambda: many, VIDEO),
        "20 million claimed frames": (422, lambda: claimed, VIDEO),
        "truncated": (422, lambda: video[:-1000], VIDEO),
        "noise": (422, lambda: random.Random(0).randbytes(100_000), VIDEO),
        "text": (415, lambda: b"text", {"Content-Type": "text/plain"}),
        "invalid JSON": (400, lambda: b"{", as_json),
        "URL of 127.0.0.1": (403, url(f"http://127.0.0.1:{1}/"), as_json),
        "URL of metadata": (403, url("http://169.254.169.254/latest/meta-data"), as_json),
        "URL of localhost": (403, url("http://localhost/v.mp4"), as_json),
        "file URL": (403, url("file:///etc/passwd"), as_json),
    }


class Load:
    """Sends the requests and records the results."""

    def __init__(self, server: Server, videos: list[bytes], expected: list[dict[str, float]]) -> None:
        self.server, self.videos, self.expected = server, videos, expected
        self.hostile = hostile_requests(videos[0])
        self.lock = threading.Lock()
        self.seconds: list[float] = []
        self.statuses: collections.Counter[tuple[str, int]] = collections.Counter()
        self.wrong: list[str] = []

    def request(self, number: int) -> None:
        if number % 20 == 10:
            kinds = list(self.hostile)
            kind = kinds[number // 20 % len(kinds)]
            status, body, headers = self.hostile[kind]
            answer = send_hostile(self.server, kind, body(), headers)
            with self.lock:
                self.statuses[kind, answer] += 1
                if answer != status:
                    self.wrong.append(f"{kind}: {answer} instead of {status}")
            return
        video = number % len(self.videos)
        start = time.perf_counter()
        while True:
            answer, content = self.server.send("/predict?top=400", self.videos[video])
            with self.lock:
                self.statuses["valid", answer] += 1
            if answer != 503:
                break
            time.sleep(1)
        seconds = time.perf_counter() - start
        with self.lock:
            self.seconds.append(seconds)
            if answer != 200 or not equal(json.loads(content)["predictions"], self.expected[video]):
                self.wrong.append(f"video {video}: {answer} {content[:200]!r}")


def equal(answer: list[dict[str, float]], expected: dict[str, float]) -> bool:
    scores = {item["label"]: item["score"] for item in answer}
    return scores.keys() == expected.keys() and all(abs(scores[key] - expected[key]) <= 1e-5 for key in scores)


def measure_loop(predictor: Predictor, videos: list[bytes], count: int) -> tuple[float, list[dict[str, float]]]:
    """Return videos per second of a loop, and the scores of each video by class."""
    predictions = [zoo.predict(predictor, video) for video in videos]  # also warms up
    start = time.perf_counter()
    for number in range(count):
        predictor.predict(videos[number % len(videos)])
    rate = count / (time.perf_counter() - start)
    return rate, [dict(zip(p.labels, p.scores, strict=True)) for p in predictions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--timeout", type=int, default=10, help="of the server, in seconds")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = zoo.create("tada2d_r18", num_classes=400, num_frames=8).eval()
    model.protocol = model.protocol.with_size(112)
    videos = [write_video(number) for number in range(args.videos)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        zoo.save(model, Path(folder, "network"))
        with Predictor(model) as predictor:
            rate, expected = measure_loop(predictor, videos, args.requests // 2)
        server = stack.enter_context(Server(Path(folder, "network"), args))
        load = Load(server, videos, expected)
        load.request(0)
        load.seconds.clear()
        load.statuses.clear()
        memory = server.memory("VmRSS")
        start = time.perf_counter()
        with ThreadPoolExecutor(args.clients) as pool:
            list(pool.map(load.request, range(1, args.requests + 1)))
        seconds = time.perf_counter() - start
        peak, end = server.memory("VmHWM"), server.memory("VmRSS")
        batches = server.send("/metrics", None, method="GET")[1].decode()
        status = server.stop()
    report(args, load, rate, seconds)
    views, count = (
        float(re.findall(rf"^tempozoo_batch_size_{key} (\S+)$", batches, re.M)[0]) for key in ("sum", "count")
    )
    print(f"views per batch: {views / count:.1f}")
    print(f"memory of the server: start {memory} MB, peak {peak} MB, end {end} MB; exit status {status}")


def report(args: argparse.Namespace, load: Load, rate: float, seconds: float) -> None:
    print(
        f"{args.requests} requests, {args.clients} clients, {args.videos} videos, {torch.get_num_threads()} CPU threads"
    )
    for (kind, answer), count in sorted(load.statuses.items()):
        print(f"  {kind:26} {answer}  {count:4}")
    print(f"wrong answers: {len(load.wrong)}")
    for line in load.wrong[:10]:
        print(f"  {line}")
    p50, p95, p99 = np.percentile(load.seconds, (50, 95, 99))
    served = len(load.seconds) / seconds
    print(f"latency of valid requests: p50 {p50:.3f} s, p95 {p95:.3f} s, p99 {p99:.3f} s")
    print(f"throughput: {served:.1f} valid requests/s in {seconds:.1f} s; loop over zoo.predict: {rate:.1f} videos/s")
    print(f"throughput / loop: {served / rate:.2f}")


if __name__ == "__main__":
    main()
