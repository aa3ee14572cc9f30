"""C2D, TAda2D and TANet in one small host on MotionClips: same recipe, same budget, several seeds, unseen clips.

    python benchmarks/motionclips.py [--seeds 0 1 2] [--out runs/motionclips] [--doc docs/motionclips.md]

Trains with ``configs/motionclips.yaml`` through ``tempozoo fit`` and tests through ``tempozoo test``; finished runs
are kept, so it can be interrupted. "Right pair" is how often the predicted class is one of the true class's pair,
"right in pair" how often, of those, it is the true one: guessing gives 50 %, and so does any network that pools
the scores of single frames.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path

import yaml

from cli import main as tempozoo
from datamodules.motion_render import MOTION_PAIRS

RECIPE = Path(__file__).parent.parent / "configs" / "motionclips.yaml"
ARCHS = {"c2d_r18": "C2D (no temporal operator)", "tada2d_r18": "TAda2D", "tanet_r18": "TANet"}
ABOUT = """# MotionClips: what the operator adds

One host, a ResNet-18 of width 16 on 8 frames of 64 x 64, with three operators; the same recipe
(`configs/motionclips.yaml`), 1200 training clips, 16 epochs, 480 unseen test clips, one view, 2 CPU cores.
Made by `python benchmarks/motionclips.py --doc docs/motionclips.md`; one line per run is in `motionclips.csv`.
"""
READING = """The two classes of a pair are each other played backwards. "Right pair" is how often the prediction
falls into the pair of the true class, which single frames can tell; "right in pair" how often, of those, it is the
true class, which only time can tell: guessing gives 50 %.

TAdaConv's calibration sees only descriptors pooled over space, and its temporal pooling is symmetric, so the
direction of a motion can reach it only as position that is left in those descriptors, by zero padding and the frame's
border. In this host of eight blocks, two TAdaConvs each, that is enough.
"""
PARTNER = {a: b for pair in MOTION_PAIRS for a, b in (pair, pair[::-1])}


def run(arch: str, seed: int, out: Path, extra: list[str]) -> dict[str, float]:
    """Train and test one network, unless its result is there."""
    folder = out / f"{arch}-{seed}"
    if not (folder / "test" / "test.json").is_file():
        quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        start = time.perf_counter()
        fit = ["fit", "--config", str(RECIPE), "--model.init_args.name", arch]
        if tempozoo([*fit, "--seed_everything", str(seed), *quiet, *extra, "--out", str(folder)]):
            raise SystemExit(1)
        (folder / "seconds").write_text(f"{time.perf_counter() - start:.0f}")
        last = str(folder / "checkpoints" / "last.ckpt")
        if tempozoo(["test", "--from", last, *data_options(), *quiet, "--out", str(folder / "test")]):
            raise SystemExit(1)
    with (folder / "test" / "predictions.csv").open(newline="") as file:
        rows = [(r["label"], r["prediction1"]) for r in csv.DictReader(file)]
    in_pair = [(label, got) for label, got in rows if got in (label, PARTNER[label])]
    return {
        "top-1": 100 * sum(label == got for label, got in rows) / len(rows),
        "right pair": 100 * len(in_pair) / len(rows),
        "right in pair": 100 * sum(label == got for label, got in in_pair) / len(in_pair),
        "seconds": float((folder / "seconds").read_text()),
    }


def data_options() -> list[str]:
    """The data of the recipe, as command-line options."""
    data = yaml.safe_load(RECIPE.read_text())["data"]
    options = {f"--data.{key}": str(value) for key, value in data["init_args"].items()}
    return ["--data", data["class_path"], *(token for pair in options.items() for token in pair)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/motionclips"))
    parser.add_argument("--doc", type=Path, help="write the table to this Markdown file, and a .csv beside it")
    asked, extra = parser.parse_known_args()

    header = ["network", "top-1 %", "right pair %", "right in pair %", "seconds to train"]
    lines, raw = [], []
    for arch, title in ARCHS.items():
        results = [run(arch, seed, asked.out, extra) for seed in asked.seeds]
        raw += [[arch, seed, *(round(v, 2) for v in r.values())] for seed, r in zip(asked.seeds, results, strict=True)]
        cells = []
        for key in results[0]:
            values = [r[key] for r in results]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 and key != "seconds" else ""
            cells.append(f"{statistics.mean(values):.{0 if key == 'seconds' else 1}f}{spread}")
        lines.append([title, *cells])
    table = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *lines)]
    text = f"Mean ± standard deviation over seeds {', '.join(map(str, asked.seeds))}; chance is 8.3 % top-1.\n\n"
    text += "\n".join(table) + "\n"
    print(text)
    if asked.doc:
        asked.doc.write_text(f"{ABOUT}\n{text}\n{READING}")
        with asked.doc.with_suffix(".csv").open("w", newline="") as file:
            csv.writer(file).writerows([["network", "seed", "top1", "right_pair", "right_in_pair", "seconds"], *raw])


if __name__ == "__main__":
    main()
