"""Find actions in untrimmed videos, offline: python examples/localize.py [--out runs/localize]

Renders videos with several motions each, computes features with the bundled network, trains a localizer, and prints its
average mAP beside a sliding window: a logistic regression of the same features, trained on the same videos, whose
scores are merged into segments.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from cli import main as tempozoo
from datamodules.localization.data import LocalizationData
from datamodules.untrimmed_motion import write_untrimmed
from lit_modules.localization.average_precision import ACTIVITYNET, THUMOS, mean_average_precision
from zoo.inference.feature_files import FeatureFolder
from zoo.localization.segments import Segment, nms

NETWORK = "tanet_r18.motionclips8"
CLASSES = ("approaches", "recedes", "meets", "parts")  # the bundled network was not trained on them
BACKGROUND = "background"
LEVELS = tuple(np.arange(0.1, 0.95, 0.1))  # of the scores that cut the timeline into segments


def run(*arguments: str) -> None:
    """Print a tempozoo command as it can be typed, and run it in this process."""
    print("\n$ " + shlex.join(["tempozoo", *arguments]), flush=True)
    if tempozoo(list(arguments)):
        raise SystemExit(1)


class SlidingWindow:
    """Logistic regression of the features of windows, with a class for background.

    A window has the label of the action at its center. Neighbors of a window, ``context`` on each side, are part of
    its features if ``context`` is above 0.
    """

    def __init__(self, data: LocalizationData, context: int = 0) -> None:
        self.data, self.context = data, context
        self.grid = (data.source.window, data.source.stride)
        rows, labels = [], []
        for video in data.datasets["train"].videos:
            table = self._rows(video.features.T.numpy())
            names = np.full(len(table), BACKGROUND, dtype=object)
            for start, end, label in video.truth:
                centers = self._centers(len(table))
                names[(centers >= start) & (centers < end)] = label
            rows.append(table)
            labels.append(names)
        table = np.concatenate(rows)
        self.mean, self.scale = table.mean(0), table.std(0) + 1e-6
        self.model = LogisticRegression(C=0.1, max_iter=500)
        self.model.fit((table - self.mean) / self.scale, np.concatenate(labels).astype(str))

    def _centers(self, count: int) -> np.ndarray:
        window, stride = self.grid
        return np.arange(count) * stride + window / 2

    def _rows(self, features: np.ndarray) -> np.ndarray:
        padded = np.pad(features, ((self.context, self.context), (0, 0)), mode="edge")
        count = len(features)
        return np.concatenate([padded[shift : shift + count] for shift in range(2 * self.context + 1)], axis=1)

    def segments(self, features: torch.Tensor, duration: float) -> list[Segment]:
        """Merge runs of windows whose score of a class is above a level; the score is the mean over the run."""
        table = (self._rows(features.T.numpy()) - self.mean) / self.scale
        scores = self.model.predict_proba(table)
        centers, half = self._centers(len(table)), self.grid[1] / 2
        merged: list[Segment] = []
        for column, label in enumerate(self.model.classes_):
            if label == BACKGROUND:
                continue
            candidates = []
            for level in LEVELS:
                active = np.concatenate([[0], scores[:, column] >= level, [0]]).astype(int)
                starts, stops = np.flatnonzero(np.diff(active) == 1), np.flatnonzero(np.diff(active) == -1)
                for first, stop in zip(starts, stops, strict=True):
                    mean = float(scores[first:stop, column].mean())
                    bounds = (max(centers[first] - half, 0.0), min(centers[stop - 1] + half, duration))
                    candidates.append(Segment(*map(float, bounds), str(label), mean))
            if candidates:
                table_of_bounds = torch.tensor([one[:2] for one in candidates])
                order = nms(table_of_bounds, torch.tensor([one.score for one in candidates]), iou_threshold=0.5)
                merged += [candidates[index] for index in order.tolist()]
        return merged

    def test(self) -> dict[str, float]:
        """Return the average mAP on the test videos."""
        videos = self.data.datasets["test"].videos
        predictions = {video.name: self.segments(video.features, video.duration) for video in videos}
        truth = {video.name: [tuple(one) for one in video.truth] for video in videos}
        ranges = {"0.3:0.1:0.7": THUMOS, "0.5:0.05:0.95": ACTIVITYNET}
        return {
            name: float(np.mean(list(mean_average_precision(predictions, truth, thresholds).values())))  # type: ignore[arg-type]
            for name, thresholds in ranges.items()
        }


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/localize"), help="output folder")
    parser.add_argument("--videos", type=int, nargs=3, default=(60, 15, 30), help="training, validation, test videos")
    parser.add_argument("--epochs", default="40", help="epochs of the localizer")
    args = parser.parse_args()
    start = time.perf_counter()
    out: Path = args.out
    for folder in ("run", "test"):
        shutil.rmtree(out / folder, ignore_errors=True)
    counts = dict(zip(("train", "val", "test"), args.videos, strict=True))
    table = write_untrimmed(out / "videos", classes=CLASSES, videos=counts, style="b")
    features = out / "features"
    run("features", str(out / "videos"), "--from", NETWORK, "--window", "1", "--stride", "0.25", "--out", str(features),
        "--batch_size", "32")  # fmt: skip
    data = ["--data.annotations", str(table), "--data.features", str(features)]
    run("fit", "--config", "localize/folder", *data, "--trainer.max_epochs", args.epochs, "--out", str(out / "run"))
    run("test", "--from", str(out / "run"), "--config", str(out / "run" / "config.yaml"), "--out", str(out / "test"))
    example = str(out / "videos" / "test" / "0000.mp4")
    run("localize", example, "--from", str(out / "run"), "--plot", str(out / "chart.png"))

    module = LocalizationData(table, features)
    module.setup("fit")
    module.setup("test")
    own = json.loads((out / "test" / "localization.json").read_text())
    results = {"localizer": {name: own[name]["average"] for name in ("0.3:0.1:0.7", "0.5:0.05:0.95")}}
    results["sliding window, logistic regression"] = SlidingWindow(module).test()
    results["the same, with 4 neighbors on each side"] = SlidingWindow(module, context=4).test()
    print(f"\n{'average mAP, %, at tIoU':42} {'0.3:0.1:0.7':>12} {'0.5:0.05:0.95':>14}")
    for name, values in results.items():
        print(f"{name:42} {100 * values['0.3:0.1:0.7']:12.1f} {100 * values['0.5:0.05:0.95']:14.1f}")
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(
        f"{len(list(FeatureFolder(features).folder.glob('*.safetensors')))} videos, {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
