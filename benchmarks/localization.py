"""Localize actions in videos that are concatenated from labeled clips: average mAP beside sliding windows, and costs.

    python benchmarks/localization.py CLIPS [--network c2d_r50.in1k --weights FILE] [--csv docs/localization.csv]

CLIPS has train.csv and test.csv with the columns path,label. The last classes by name are background: their clips
separate the actions, and have no labels. Training and validation videos use clips of train.csv, test videos those of
test.csv. Cuts between clips make the bounds of the actions easier to find than in real videos.

The features of all methods are the same. Times are CPU seconds of this process, which include hidden threads and
exclude other programs. Memory is the peak of ``zoo.localize`` in a new process, above that of the loaded networks.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import zoo
from benchmarks.memory import peak_memory
from benchmarks.sliding_windows import METRICS, SlidingWindows, read_measured
from benchmarks.timing import Results
from cli import main as tempozoo
from datamodules import LocalizationData
from datamodules.motionclips import write_video
from zoo.inference.predictor import Predictor
from zoo.localization import load as load_localizer
from zoo.localization.feature_grid import FeatureGrid
from zoo.video.decoding import open_video
from zoo.video.transforms import resize_short_side, view_crops

Clips = dict[str, list[Path]]  # label -> videos
ACTION_SHARE = 0.5  # of the clips of a video
MODELS: dict[str, tuple[str, ...]] = {  # method -> options of fit
    "localizer": (),
    "small localizer with input dropout": (
        "--model.width=64", "--model.layers=1", "--model.levels=4", "--model.dropout=0.3", "--model.input_dropout=0.5",
    ),
}  # fmt: skip
COLUMNS = ("method", "training videos", *METRICS, "CPU s per hour of video", "video s", "MiB")


def read_clips(root: Path, name: str) -> Clips:
    """Read a list of labeled clips, sorted by path."""
    clips: Clips = {}
    with (root / name).open(newline="", encoding="utf-8") as file:
        for row in sorted(csv.DictReader(file), key=lambda row: row["path"]):
            clips.setdefault(row["label"], []).append(root / row["path"])
    return clips


def split_clips(clips: Clips) -> tuple[Clips, Clips]:
    """Use the last fifth of the clips of each class for validation."""
    cuts = {label: max(1, len(paths) // 5) for label, paths in clips.items()}
    return (
        {label: paths[: -cuts[label]] for label, paths in clips.items()},
        {label: paths[-cuts[label] :] for label, paths in clips.items()},
    )


def shuffled(paths: list[Path], rng: random.Random) -> Iterator[Path]:
    """Yield clips in random order, all of them before one is repeated."""
    while True:
        yield from rng.sample(paths, len(paths))


def read_frames(path: Path, size: int, fps: int) -> np.ndarray:
    """Read a clip as uint8 ``(T, size, size, 3)`` with another frame rate."""
    with open_video(path) as reader:
        times = reader.times()
        moments = np.arange(0, times[-1] + 1 / reader.fps, 1 / fps)
        numbers = np.searchsorted(times, moments + 1e-6, side="right") - 1
        frames = reader.frames(numbers)
    frames = view_crops(resize_short_side(frames, size, antialias=True), size, 1)[0]
    return frames.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


class Composer:
    """Concatenates clips to untrimmed videos.

    Args:
        clips: of a split.
        background: labels of the clips without actions.
        size, fps: of the videos.
        seed: random seed.
    """

    def __init__(self, clips: Clips, background: set[str], size: int, fps: int, seed: int) -> None:
        self.size, self.fps, self.rng = size, fps, random.Random(seed)
        self.pools = {label: shuffled(paths, self.rng) for label, paths in clips.items()}
        self.background = sorted(background)
        self.actions = sorted(set(clips) - background)

    def write(self, path: Path, seconds: float) -> list[tuple[str, str, str]]:
        """Write a video of at least ``seconds``; return its segments as start, end and label."""
        parts: list[np.ndarray] = []
        segments = []
        total = 0
        while total < seconds * self.fps:
            label = self.rng.choice(self.actions if self.rng.random() < ACTION_SHARE else self.background)
            frames = read_frames(next(self.pools[label]), self.size, self.fps)
            if label in self.actions:
                segments.append((f"{total / self.fps:.3f}", f"{(total + len(frames)) / self.fps:.3f}", label))
            parts.append(frames)
            total += len(frames)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.concatenate(parts), self.fps)
        return segments


def write_videos(args: argparse.Namespace, composers: dict[str, Composer]) -> Path:
    """Write the videos of all splits and their annotations; an existing table is left as it is."""
    table: Path = args.out / "videos" / "segments.csv"
    if table.exists():
        return table
    rows = []
    for (split, composer), count in zip(composers.items(), args.videos, strict=True):
        for number in range(count):
            name = f"{split}/{number:03d}.mp4"
            segments = composer.write(table.parent / name, args.seconds)
            rows += [(name, *segment, split) for segment in segments or [("", "", "")]]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "start", "end", "label", "split"), *rows])
    return table


def run(*arguments: str) -> float:
    """Run a tempozoo command in this process; return its CPU seconds."""
    start = time.process_time()
    if tempozoo(list(arguments)):
        raise SystemExit(1)
    return time.process_time() - start


def train(args: argparse.Namespace, table: Path, method: str, seed: int) -> tuple[Path, dict[str, float], float]:
    """Train and test a localizer; return its folder, metrics and CPU seconds of the training."""
    number = list(MODELS).index(method)
    folder, tested = args.out / f"run{number}_{seed}", args.out / f"test{number}_{seed}"
    for path in (folder, tested):
        shutil.rmtree(path, ignore_errors=True)
    data = ["--data.annotations", str(table), "--data.features", str(args.out / "features")]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    options = ["--seed_everything", str(seed), "--trainer.max_epochs", str(args.epochs), *MODELS[method], *quiet]
    seconds = run("fit", "--config", "localize/folder", *data, *options, "--out", str(folder))
    run("test", "--from", str(folder), "--config", str(folder / "config.yaml"), "--out", str(tested), *quiet)
    return folder, read_measured(json.loads((tested / "localization.json").read_text())), seconds


def prepare_localization(localizer: Path, network: Path, video: Path) -> Callable[[], object]:
    """Load the networks; return the localization of a video."""
    loaded, predictor = load_localizer(localizer), Predictor(zoo.load(network))
    return lambda: zoo.localize(loaded, video, feature_network=predictor)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder of the clips, train.csv and test.csv")
    parser.add_argument("--network", default="c2d_r50.in1k", help="network of the features")
    parser.add_argument("--weights", help="local file with the published weights of the network")
    parser.add_argument("--frames", type=int, default=4, help="frames per window, default 4")
    parser.add_argument("--size", type=int, default=112, help="side of the frames in pixels, default 112")
    parser.add_argument("--fps", type=int, default=16, help="frames per second of the videos, default 16")
    parser.add_argument("--background", type=int, default=4, help="number of classes without labels, default 4")
    parser.add_argument("--videos", type=int, nargs=3, default=(24, 6, 14), help="training, validation, test videos")
    parser.add_argument("--seconds", type=float, default=40.0, help="minimum length of a video, default 40")
    parser.add_argument("--window", default="1", help="seconds of a window, default 1")
    parser.add_argument("--stride", default="0.5", help="seconds between two windows, default 0.5")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3, help="training runs, default 3")
    parser.add_argument("--lengths", type=float, nargs="*", default=(30, 120, 360), help="video seconds, for memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/localization"), help="output folder")
    parser.add_argument("--csv", type=Path, help="file to write the table to")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    args = parse()
    torch.set_num_threads(args.threads)
    clips = read_clips(args.clips, "train.csv")
    background = set(sorted(clips)[-args.background :])
    parts = dict(zip(("train", "val"), split_clips(clips), strict=True)) | {"test": read_clips(args.clips, "test.csv")}
    composers = {
        split: Composer(part, background, args.size, args.fps, seed) for seed, (split, part) in enumerate(parts.items())
    }
    table = write_videos(args, composers)
    network = zoo.save(
        zoo.load(args.network, weights=args.weights, num_frames=args.frames, image_size=args.size),
        args.out / "network",
    )
    features = args.out / "features"
    grid = ["--window", args.window, "--stride", args.stride]
    seconds = run("features", str(table.parent), "--from", str(network), *grid, "--out", str(features))
    data = LocalizationData(table, features)
    data.setup()
    hours = sum(video.duration for split in data.datasets.values() for video in split.videos) / 3600

    results = Results("Localization of concatenated clips", COLUMNS, args.threads)
    results.add(f"features of {args.network}", CPU_s_per_hour_of_video=seconds / hours)
    test_items, train_items = (list(data.datasets[split]) for split in ("test", "train"))  # type: ignore[call-overload]
    trained_hours = sum(video.duration for video, _ in train_items) / 3600
    for context in (0, 4):
        start = time.process_time()
        windows = SlidingWindows(train_items, FeatureGrid(data.source.window, data.source.stride), context)
        cost = (time.process_time() - start) / trained_hours
        name = f"sliding windows, {context} neighbors on each side" if context else "sliding windows"
        results.add(name, args.videos[0], *windows.test(test_items).values(), cost)
    runs: list[tuple[Path, dict[str, float], float]] = []
    for method in reversed(MODELS):  # memory is measured with the last one, the default
        runs = [train(args, table, method, seed) for seed in range(args.seeds)]
        for seed, (_, metrics, cost) in enumerate(runs):
            results.add(f"{method}, seed {seed}", args.videos[0], *metrics.values(), cost / trained_hours)
        means = [statistics.mean(metrics[name] for _, metrics, _ in runs) for name in METRICS]
        cost = statistics.mean(seconds for *_, seconds in runs) / trained_hours
        results.add(f"{method}, mean", args.videos[0], *means, cost)
    for length in args.lengths:
        video = args.out / "long" / f"{length:g}.mp4"
        if not video.exists():
            composers["test"].write(video, length)
        memory = peak_memory(prepare_localization, runs[0][0], network, video, threads=args.threads)
        results.add("memory of zoo.localize", video_s=length, MiB=memory)
    results.finish(args.csv)


if __name__ == "__main__":
    main()
