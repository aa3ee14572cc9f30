"""Compare the speed of loading training clips and test views with decoders used directly and with pytorchvideo.

    python benchmarks/loading.py [--csv FILE]

One process with one thread. Speed is per second of CPU time, which includes hidden threads and excludes other programs.
All loaders read the same clips of the same files; the fastest of several rounds counts. torchcodec needs FFmpeg's
libraries.
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
FILES = {  # title -> height, width, frames between key frames, tuning of x264, number of videos
    "340 x 256, GOP 250": (256, 340, 250, None, 6),
    "340 x 256, GOP 16": (256, 340, 16, None, 6),
    "340 x 256, GOP 16, fastdecode": (256, 340, 16, "fastdecode", 6),  # as `tempozoo data prepare` writes them
    "1280 x 720, GOP 250": (720, 1280, 250, None, 2),
}
CLIP = Protocol.from_dict(
    DEFAULT_PROTOCOL.to_dict() | {"num_frames": 8, "interval": 8, "sampling": "interval", "clips": 10, "crops": 3}
)
SPAN = 64  # frames spanned by a clip of 8 frames with interval 8
LIMIT = 60.0  # seconds
Load = Callable[[Path, np.ndarray], Any]


def write_video(path: Path, height: int, width: int, gop: int, tune: str | None, seed: int) -> Path:
    """Write an H.264 video of textures that drift and fade into each other, at the bit rate of web videos."""
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.rand(1, 3, size, size, generator=generator) for size in (6, 24, 96)]
    texture = sum(interpolate(x, (height + 64, width + 64), mode="bicubic") for x in layers)[0] / 3
    other = texture.flip(-1)
    options = {"g": str(gop), "crf": "23", "preset": "veryfast"} | ({} if tune is None else {"tune": tune})
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options=options)
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
    """Return the loader used in training, with its time limit."""

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
    """Load all frames of the span, as its dataset does; its transforms would then select some of them."""
    from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler
    from pytorchvideo.data.labeled_video_dataset import LabeledVideoDataset
    from torch.utils.data import SequentialSampler

    class Same(ClipSampler):
        def __call__(self, last: Any, duration: Any, annotation: Any) -> ClipInfo:
            start = int(numbers[0]) / RATE
            return ClipInfo(start, start + SPAN / RATE, 0, 0, True)

    data = LabeledVideoDataset([(str(path), {"label": 0})], Same(SPAN / RATE), SequentialSampler, decode_audio=False)
    return next(iter(data))["video"]


LOADERS: dict[str, Load] = {
    "ours, pyav": ours("pyav"),
    "ours, torchcodec": ours("torchcodec"),
    "torchcodec": with_torchcodec,
    "decord": with_decord,
    "pytorchvideo": with_pytorchvideo,
}


def decode_once(path: Path, decoder: str) -> None:
    """Make all views of a video from one decoding."""
    with open_video(path, decoder) as reader:
        clips = np.stack([sample(CLIP, len(reader), reader.fps, (k, CLIP.clips)) for k in range(CLIP.clips)])
        numbers, position = np.unique(clips, return_inverse=True)
        frames = resize_short_side(reader.frames(numbers), CLIP.resize, CLIP.antialias)
        crops = view_crops(frames, CLIP.crop, CLIP.crops)
        torch.stack([crop[rows] for rows in position.reshape(clips.shape) for crop in crops])


def decode_each_view(path: Path, decoder: str) -> None:
    """Decode the video again for every view."""
    for k in range(CLIP.clips):
        for crop in range(CLIP.crops):
            with open_video(path, decoder) as reader:
                frames = reader.frames(sample(CLIP, len(reader), reader.fps, (k, CLIP.clips)))
                view_crops(resize_short_side(frames, CLIP.resize, CLIP.antialias), CLIP.crop, CLIP.crops)[crop].clone()


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def fastest(function: Callable[[Path, str], None], path: Path, decoder: str, rounds: int) -> float:
    return min(seconds(lambda: function(path, decoder)) for _ in range(rounds))


def available_loaders(path: Path) -> dict[str, Load]:
    """Return the loaders that work on this machine; print the others with the reason."""
    available = {}
    for name, load in LOADERS.items():
        try:
            load(path, np.arange(8) * 8)
            available[name] = load
        except (ImportError, OSError, RuntimeError, ZooError) as error:
            print(f"{name} is skipped: {str(error).strip().splitlines()[0]}")
    return available


def clips_per_second(paths: list[Path], loaders: dict[str, Load], rounds: int) -> dict[str, float]:
    """Return the speed of each loader; every round reads four clips of each video."""
    draw = random.Random(0)
    clips = [(path, draw.randrange(LENGTH - SPAN) + 8 * np.arange(8)) for path in paths for _ in range(4)]
    return _speeds(clips, loaders, rounds)


def segments_per_second(paths: list[Path], loaders: dict[str, Load], rounds: int) -> dict[str, float]:
    """Return the speed of each loader for 16 frames of a video, one of each segment; pytorchvideo cannot read these."""
    generator = np.random.default_rng(0)
    starts = np.arange(16) * LENGTH / 16
    clips = [(path, (starts + generator.random(16) * LENGTH / 16).astype(int)) for path in paths for _ in range(2)]
    return _speeds(clips, {name: load for name, load in loaders.items() if name != "pytorchvideo"}, rounds)


def _speeds(clips: list[tuple[Path, np.ndarray]], loaders: dict[str, Load], rounds: int) -> dict[str, float]:
    best = dict.fromkeys(loaders, float("inf"))
    for _ in range(rounds):
        for name, load in loaders.items():
            best[name] = min(best[name], seconds(lambda load=load: [load(*clip) for clip in clips]))
    return {name: len(clips) / value for name, value in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", help="file to write the table to")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for title, (height, width, gop, tune, count) in FILES.items():
            paths = [
                write_video(Path(folder, f"{len(rows)}-{n}.mp4"), height, width, gop, tune, n) for n in range(count)
            ]
            size = sum(path.stat().st_size for path in paths) * 8e-3 / SECONDS / count
            loaders = available_loaders(paths[0])
            for kind, measure in {"clips": clips_per_second, "16 segments": segments_per_second}.items():
                speeds = measure(paths, loaders, args.rounds)
                for name, speed in speeds.items():
                    ratios = [f"{speeds[mine] / speed:.2f}" if mine in speeds else "" for mine in list(LOADERS)[:2]]
                    rows.append([f"{kind}, {title}, {size:.0f} kbit/s", name, f"{speed:.1f}", *ratios])
            for decoder in ("pyav", "torchcodec"):
                if f"ours, {decoder}" in loaders:
                    once, each = (
                        fastest(function, paths[0], decoder, args.rounds)
                        for function in (decode_once, decode_each_view)
                    )
                    kind = f"10 x 3 views, {title}"
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
    if args.csv:
        with Path(args.csv).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([titles, *rows])


if __name__ == "__main__":
    main()
