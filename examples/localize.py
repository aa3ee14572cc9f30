"""Find actions in untrimmed videos, offline: python examples/localize.py [--out runs/localize]

Renders videos with several motions each, computes features with the bundled network, trains a localizer, and prints its
average mAP beside sliding windows: a logistic regression of the same features, trained on the same videos, whose scores
are merged into segments.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import time
from pathlib import Path

from benchmarks.sliding_windows import METRICS, SlidingWindows, read_measured
from cli import main as tempozoo
from datamodules import LocalizationData
from datamodules.untrimmed_motion import write_untrimmed
from zoo.localization.feature_grid import FeatureGrid

NETWORK = "tanet_r18.motionclips8"
CLASSES = ("approaches", "recedes", "meets", "parts")  # the bundled network was not trained on them


def run(*arguments: str) -> None:
    """Print a tempozoo command as it can be typed, and run it in this process."""
    print("\n$ " + shlex.join(["tempozoo", *arguments]), flush=True)
    if tempozoo(list(arguments)):
        raise SystemExit(1)


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
    module.setup()
    train, test = (list(module.datasets[split]) for split in ("train", "test"))
    grid = FeatureGrid(module.source.window, module.source.stride)
    own = json.loads((out / "test" / "localization.json").read_text(encoding="utf-8"))
    results = {
        "localizer": read_measured(own),
        "sliding windows": SlidingWindows(train, grid).test(test),
        "sliding windows with 4 neighbors on each side": SlidingWindows(train, grid, context=4).test(test),
    }
    print(f"\n{'%':45}" + "".join(f" {name:>26}" for name in METRICS))
    for name, values in results.items():
        print(f"{name:45}" + "".join(f" {value:26.1f}" for value in values.values()))
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"Chart: {out / 'chart.png'}")
    print(f"The example took {time.perf_counter() - start:.0f} seconds for {sum(args.videos)} videos.")


if __name__ == "__main__":
    main()
