"""All operators in one small host on MotionClips: same recipe, same budget, several seeds, unseen clips.

    python benchmarks/ablation.py [--seeds 0 1 2] [--jobs 2] [--out runs/ablation] [--doc docs/ablation.md]

Trains with ``configs/motionclips.yaml`` through ``tempozoo fit`` and tests through ``tempozoo test``; finished runs
are kept, so it can be interrupted. "Right pair" is how often the predicted class is one of the true class's pair,
"right in pair" how often, of those, it is the true one: guessing gives 50 %, and so does any network that pools
the scores of single frames.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import multiprocessing
import os
import shutil
import statistics
from pathlib import Path

import torch
import yaml

import zoo
from cli import main as tempozoo
from datamodules.motion_render import MOTION_PAIRS

RECIPE = Path(__file__).parent.parent / "configs" / "motionclips.yaml"
# architecture -> name, Kinetics-400 top-1 of its ResNet-50 as published: 8 frames, and whose number it is
OPERATORS = {
    "c2d_r18": ("none (C2D)", "70.2 [1]"),
    "c2d_pool_r18": ("average pooling (C2D-Pool)", ""),
    "c2d_tconv_r18": ("temporal convolution (C2D-TConv)", "below I3D [1]"),
    "i3d_r18": ("inflated convolution (I3D)", "74.3 [1]"),
    "tsm_r18": ("shift (TSM)", "73.2 [2]"),
    "teinet_r18": ("TEI (TEINet)", ""),
    "nonlocal_r18": ("non-local blocks", "74.4 [1]"),
    "tanet_r18": ("TAM (TANet)", "76.1 [1]"),
    "tada2d_r18": ("TAdaConv (TAda2D)", "76.7 [3]"),
    "tada2dv2_r18": ("TAdaConvV2 in TAda2D's place", ""),
    "stam_r18": ("STAM, our reading", ""),
}
SOURCES = """Published: ResNet-50, Kinetics-400 top-1, each with its own recipe and views: [1] arXiv 2005.06803, table
2; [2] MMAction2's list; [3] the TAdaConv authors' list. They are there for their order; nothing else compares."""
ABOUT = """# MotionClips: all operators in one host

A ResNet-18 of width 16 on 8 frames of 64 x 64 with each of the operators; the same recipe (`configs/motionclips.yaml`),
1200 training clips, {epochs} epochs, 480 unseen test clips, one view, {threads} CPU thread(s) per run.
Made by `python benchmarks/ablation.py --doc docs/ablation.md`; one line per run is in `ablation.csv`.
"""
READING = """The two classes of a pair are each other played backwards. "Right pair" is how often the prediction
falls into the pair of the true class, which single frames can tell; "right in pair" how often, of those, it is the
true class, which only time can tell: guessing gives 50 %.

Pooling and non-local attention do not know the order of frames, so they stay at 50 %. Operators that convolve
features over time, or shift them, read a direction of motion off directly. TAdaConv's and STAM's calibrations see
only descriptors pooled over space, and their temporal pooling is symmetric, so the direction can reach them only as
position that is left in those descriptors, by zero padding and the frame's border; TAM's kernel is the same for all
places and frames of a clip. The order is therefore not that of Kinetics, where motion is rarely all there is to see:
this data set asks one question only.

In a host of basic blocks both 3x3 convolutions are replaced; I3D's first one spans three frames (in a bottleneck it
would be the 1x1 that does).
"""
PARTNER = {a: b for pair in MOTION_PAIRS for a, b in (pair, pair[::-1])}


def run(arch: str, seed: int, out: Path, epochs: int, threads: int) -> dict[str, float]:
    """Train and test one network, unless its result is there."""
    folder = out / f"{arch}-{seed}-{epochs}"
    if not (folder / "test" / "test.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
        torch.set_num_threads(threads)
        quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        fit = ["fit", "--config", str(RECIPE), "--model.init_args.name", arch, "--trainer.max_epochs", str(epochs)]
        if tempozoo([*fit, "--seed_everything", str(seed), *quiet, "--out", str(folder)]):
            raise SystemExit(1)
        last = str(folder / "checkpoints" / "last.ckpt")
        if tempozoo(["test", "--from", last, *data_options(), *quiet, "--out", str(folder / "test")]):
            raise SystemExit(1)
    with (folder / "test" / "predictions.csv").open(newline="") as file:
        rows = [(r["label"], r["prediction1"]) for r in csv.DictReader(file)]
    in_pair = [(label, got) for label, got in rows if got in (label, PARTNER[label])] or [("", "none")]
    return {
        "top-1": 100 * sum(label == got for label, got in rows) / len(rows),
        "right pair": 100 * len(in_pair) / len(rows),
        "right in pair": 100 * sum(label == got for label, got in in_pair) / len(in_pair),
    }


def data_options() -> list[str]:
    """The data of the recipe, as command-line options."""
    data = yaml.safe_load(RECIPE.read_text())["data"]
    options = {f"--data.{key}": str(value) for key, value in data["init_args"].items()}
    return ["--data", data["class_path"], *(token for pair in options.items() for token in pair)]


def parameters(arch: str) -> float:
    """Millions of parameters in the host of the recipe, operator included."""
    options = yaml.safe_load(RECIPE.read_text())["model"]["init_args"]["options"]
    return sum(p.numel() for p in zoo.create(arch, num_classes=12, **options).parameters()) / 1e6


def table(results: dict[tuple[str, int], dict[str, float]], archs: list[str], seeds: list[int]) -> str:
    """Mean and standard deviation over seeds, as Markdown."""
    header = ["operator", "M parameters", "top-1 %", "right pair %", "right in pair %", "published"]
    lines = []
    for arch in archs:
        runs = [results[arch, seed] for seed in seeds]
        cells = []
        for key in runs[0]:
            values = [r[key] for r in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        title, published = OPERATORS[arch]
        lines.append([title, f"{parameters(arch):.2f}", *cells, published])
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--archs", nargs="+", default=list(OPERATORS), choices=list(OPERATORS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each has its share of the CPU's cores")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--doc", type=Path, help="write the table to this Markdown file, and a .csv beside it")
    asked = parser.parse_args()

    jobs = [(arch, seed) for seed in asked.seeds for arch in asked.archs]
    threads = max((os.cpu_count() or 1) // asked.jobs, 1)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(asked.jobs, spawn) as pool:
        started = {job: pool.submit(run, *job, asked.out, asked.epochs, threads) for job in jobs}
        results = {job: future.result() for job, future in started.items()}
    text = f"Mean ± standard deviation over seeds {', '.join(map(str, asked.seeds))}; chance is 8.3 % top-1.\n\n"
    text += f"{table(results, asked.archs, asked.seeds)}\n"
    print(text)
    if asked.doc:
        asked.doc.write_text(f"{ABOUT.format(epochs=asked.epochs, threads=threads)}\n{text}\n{SOURCES}\n\n{READING}")
        with asked.doc.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["network", "seed", "top1", "right_pair", "right_in_pair"])
            writer.writerows([*job, *(round(v, 2) for v in r.values())] for job, r in results.items())


if __name__ == "__main__":
    main()
