"""How many training clips a core loads a second, against decoders used directly and pytorchvideo; and views of a test.

One process, one thread; a second is one of CPU time, so that what else the machine does and hidden threads do not
count in favor of anybody. All ways read the same clips of the same files in turn; of several rounds the fastest
counts. torchcodec needs FFmpeg's libraries. Run: python benchmarks/loading.py [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import interpolate

from zoo.errors import ZooError
from zoo.protocol import DEFAULT_PROTOCOL, Protocol
from zoo.video.decoding import open_video
from zoo.video.sampling import sample
from zoo.video.time_limit import within
from zoo.video.transforms import resize_short_side, view_crops

SECONDS, RATE = 10, 30
LENGTH = SECONDS * RATE
FILES = {  # what: height, width, frames between key frames, videos
    "340 x 256, GOP 250": (256, 340, 250, 6),
    "340 x 256, GOP 16": (256, 340, 16, 6),
    "1280 x 720, GOP 250": (720, 1280, 250, 2),
}
CLIP = Protocol.from_dict(
    DEFAULT_PROTOCOL.to_dict() | {"num_frames": 8, "interval": 8, "sampling": "interval", "clips": 10, "crops": 3}
)
SPAN = 64  # frames that a clip of 8 frames, interval 8, comes from
LIMIT = 60.0  # seconds
Load = Callable[[Path, np.ndarray], Any]


def write_video(path: Path, height: int, width: int, gop: int, seed: int) -> Path:
    """H.264 of textures that drift and fade into one another, at the bit rates of web videos."""
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.rand(1, 3, size, size, generator=generator) for size in (6, 24, 96)]
    texture = sum(interpolate(x, (height + 64, width + 64), mode="bicubic") for x in layers)[0] / 3
    other = texture.flip(-1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"g": str(gop), "crf": "23", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for n in range(LENGTH):
            share = n / LENGTH
            top, left = int(32 + 30 * np.sin(n / 20)), int(64 * share)
            mixed = (1 - share) * texture[:, top : top + height, left : left + width]
            mixed = mixed + share * other[:, left : left + height, top : top + width]
            picture = (mixed.clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous().numpy()
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return path


def ours(decoder: str) -> Load:
    """As in training, with a limit on the time."""

    def load(path: Path, numbers: np.ndarray) -> Any:
        def read() -> torch.Tensor:
            with open_video(path, decoder, deadline=time.monotonic() + LIMIT) as reader:
                return reader.frames(numbers)

        return within(LIMIT, str(path), read)

    return load


def with_torchcodec(path: Path, numbers: np.ndarray) -> Any:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(path, num_ffmpeg_threads=1).get_frames_at(numbers.tolist()).data


def with_decord(path: Path, numbers: np.ndarray) -> Any:
    import decord

    return decord.VideoReader(str(path), num_threads=1).get_batch(numbers).asnumpy()


def with_pytorchvideo(path: Path, numbers: np.ndarray) -> Any:
    """Its data set yields all frames of the span, from which its transforms would choose."""
    from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler
    from pytorchvideo.data.labeled_video_dataset import LabeledVideoDataset
    from torch.utils.data import SequentialSampler

    class Same(ClipSampler):
        def __call__(self, last: Any, duration: Any, annotation: Any) -> ClipInfo:
            start = int(numbers[0]) / RATE
            return ClipInfo(start, start + SPAN / RATE, 0, 0, True)

    data = LabeledVideoDataset([(str(path), {"label": 0})], Same(SPAN / RATE), SequentialSampler, decode_audio=False)
    return next(iter(data))["video"]


WAYS: dict[str, Load] = {
    "ours, pyav": ours("pyav"),
    "ours, torchcodec": ours("torchcodec"),
    "torchcodec": with_torchcodec,
    "decord": with_decord,
    "pytorchvideo": with_pytorchvideo,
}


def at_once(path: Path, decoder: str) -> None:
    with open_video(path, decoder) as reader:
        clips = np.stack([sample(CLIP, len(reader), reader.fps, (k, CLIP.clips)) for k in range(CLIP.clips)])
        wanted, position = np.unique(clips, return_inverse=True)
        frames = resize_short_side(reader.frames(wanted), CLIP.resize, CLIP.antialias)
        crops = view_crops(frames, CLIP.crop, CLIP.crops)
        torch.stack([crop[rows] for rows in position.reshape(clips.shape) for crop in crops])


def one_by_one(path: Path, decoder: str) -> None:
    for k in range(CLIP.clips):
        for crop in range(CLIP.crops):
            with open_video(path, decoder) as reader:
                frames = reader.frames(sample(CLIP, len(reader), reader.fps, (k, CLIP.clips)))
                view_crops(resize_short_side(frames, CLIP.resize, CLIP.antialias), CLIP.crop, CLIP.crops)[crop].clone()


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def fastest(way: Callable[[Path, str], None], path: Path, decoder: str, rounds: int) -> float:
    return min(seconds(lambda: way(path, decoder)) for _ in range(rounds))


def loadable(path: Path) -> dict[str, Load]:
    """The ways that work here; the others are named."""
    found = {}
    for name, load in WAYS.items():
        try:
            load(path, np.arange(8) * 8)
            found[name] = load
        except (ImportError, OSError, RuntimeError, ZooError) as error:
            print(f"{name} is left out: {str(error).strip().splitlines()[0]}")
    return found


def clips_per_second(paths: list[Path], ways: dict[str, Load], rounds: int) -> dict[str, float]:
    """Of each way; every round reads four clips of each video."""
    draw = random.Random(0)
    clips = [(path, draw.randrange(LENGTH - SPAN) + 8 * np.arange(8)) for path in paths for _ in range(4)]
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, load in ways.items():
            best[name] = min(best[name], seconds(lambda load=load: [load(*clip) for clip in clips]))
    return {name: len(clips) / value for name, value in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", help="file to write the table to")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for what, (height, width, gop, count) in FILES.items():
            paths = [write_video(Path(folder, f"{len(rows)}-{n}.mp4"), height, width, gop, n) for n in range(count)]
            size = sum(path.stat().st_size for path in paths) * 8e-3 / SECONDS / count
            ways = loadable(paths[0])
            found = clips_per_second(paths, ways, asked.rounds)
            for name, speed in found.items():
                ratios = [f"{found[mine] / speed:.2f}" if mine in found else "" for mine in list(WAYS)[:2]]
                rows.append([f"clips, {what}, {size:.0f} kbit/s", name, f"{speed:.1f}", *ratios])
            for decoder in ("pyav", "torchcodec"):
                if f"ours, {decoder}" in ways:
                    once, each = (fastest(way, paths[0], decoder, asked.rounds) for way in (at_once, one_by_one))
                    kind = f"10 x 3 views, {what}"
                    rows.append([kind, f"ours, {decoder}, decoded once", f"{1 / once:.2f}", f"{each / once:.1f}", ""])
                    rows.append([kind, f"ours, {decoder}, each view", f"{1 / each:.2f}", "1.0", ""])
    titles = [
        "what",
        "how",
        "per second of a core",
        "ratio: ours (pyav), or once",
        "of ours (torchcodec)",
    ]
    table = Table(*titles, title="videos or clips; 2 CPU cores, of which one is used")
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)
    if asked.csv:
        with Path(asked.csv).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([titles, *rows])


if __name__ == "__main__":
    main()
