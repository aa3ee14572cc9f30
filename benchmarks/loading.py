"""Compare the speed of loading training clips and test views with decoders used directly and with pytorchvideo.

    python benchmarks/loading.py [--quick] [--csv docs/loading.csv]

One process with one thread. Speed is per second of CPU time, which includes hidden threads and excludes other programs.
All loaders read the same clips of the same files in turns; the table has medians, and the median and spread of the
ratio of each round. Ratios are relative to the CPU time of tempozoo with PyAV, or of decoding every view. torchcodec
needs FFmpeg's libraries.
"""

from __future__ import annotations

import functools
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch.nn.functional import interpolate

from benchmarks.timing import Budget, Results, Timing, benchmark_parser, interleave, relative_spread
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


def clip_positions(paths: list[Path]) -> list[tuple[Path, np.ndarray]]:
    """Draw four clips of each video: its path and the frame numbers."""
    draw = random.Random(0)
    return [(path, draw.randrange(LENGTH - SPAN) + 8 * np.arange(8)) for path in paths for _ in range(4)]


def segment_positions(paths: list[Path]) -> list[tuple[Path, np.ndarray]]:
    """Draw two clips of each video: its path and 16 frame numbers, one of each segment."""
    generator = np.random.default_rng(0)
    starts = np.arange(16) * LENGTH / 16
    return [(path, (starts + generator.random(16) * LENGTH / 16).astype(int)) for path in paths for _ in range(2)]


def load_all(load: Load, clips: list[tuple[Path, np.ndarray]]) -> None:
    for clip in clips:
        load(*clip)


def add_rows(results: Results, case: str, times: dict[str, Timing], other: str, items: int) -> None:
    """Add a row for each loader; ``other`` is the one that the others are compared with."""
    for name, timing in times.items():
        ratios = timing.ratios(times[other])
        results.add(case, name, other, items / timing.median, statistics.median(ratios), relative_spread(ratios))


def main(args: list[str] | None = None) -> None:
    parser = benchmark_parser(__doc__ or "", rounds=7)
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    columns = ["case", "loader", "compared with", "per second of a core", "ratio", "spread %"]
    results = Results("clips or videos loaded", columns, threads=1)
    files = dict(list(FILES.items())[:1]) if options.quick else FILES
    budget = Budget(options.minutes, 4 * len(files))
    measure = functools.partial(interleave, rounds=options.rounds, clock=time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        for title, (height, width, gop, tune, count) in files.items():
            count = 1 if options.quick else count
            names = [Path(folder, f"{height}-{gop}-{tune}-{n}.mp4") for n in range(count)]
            paths = [write_video(path, height, width, gop, tune, n) for n, path in enumerate(names)]
            rate = sum(path.stat().st_size for path in paths) * 8e-3 / SECONDS / count
            loaders = available_loaders(paths[0])
            for kind, clips in {"clips": clip_positions(paths), "16 segments": segment_positions(paths)}.items():
                names_read = [name for name in loaders if kind == "clips" or name != "pytorchvideo"]  # not of segments
                steps = {name: functools.partial(load_all, loaders[name], clips) for name in names_read}
                case = f"{kind}, {title}, {rate:.0f} kbit/s"
                add_rows(results, case, measure(steps, seconds=budget.share()), "ours, pyav", len(clips))
            for decoder in ("pyav", "torchcodec"):
                if f"ours, {decoder}" in loaders:
                    once, each = f"ours, {decoder}, decoded once", f"ours, {decoder}, each view"
                    functions = {once: decode_once, each: decode_each_view}
                    views = {name: functools.partial(f, paths[0], decoder) for name, f in functions.items()}
                    times = measure(views, seconds=budget.share())
                    add_rows(results, f"10 x 3 views, {title}", times, each, 1)
    results.finish(options.csv)


if __name__ == "__main__":
    main()
