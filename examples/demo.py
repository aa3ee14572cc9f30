"""Run the complete workflow offline: python examples/demo.py [--out runs/demo]

Renders videos of four actions, fine-tunes the bundled network on them, trains a C2D the same way, tests both with
several views, tests classifiers of frozen features, classifies a few files, and writes report.html.
"""

from __future__ import annotations

import argparse
import base64
import csv
import html
import io
import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import yaml

import zoo
from cli import main as tempozoo
from zoo.video.decoding import VideoReader

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "demo.yaml"
if CONFIG.is_relative_to(Path.cwd()):
    CONFIG = CONFIG.relative_to(Path.cwd())  # shorter in the printed commands
START = "tanet_r18.motionclips8"
VIEWS = ["--data.clips", "3"]  # the videos are square, so one crop covers them


def run(*arguments: str) -> None:
    """Print a tempozoo command as it can be typed, and run it in this process."""
    print("\n$ " + shlex.join(["tempozoo", *arguments]), flush=True)
    if tempozoo(list(arguments)):
        raise SystemExit(1)


def as_text(value: Any) -> str:
    """Return an option's value as command-line text."""
    return value if isinstance(value, str) else json.dumps(value)


def without_operator(folder: Path) -> Path:
    """Save a C2D with the convolutions of the bundled network: the same start without the temporal operator."""
    bundled: Any = zoo.load(START)
    options = bundled.spec.options
    c2d = zoo.create("c2d_r18", **options, image_size=bundled.protocol.crop)
    c2d.load_state_dict({key: bundled.state_dict()[key] for key in c2d.state_dict()})
    return zoo.save(c2d, folder)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def figure_html(figure: matplotlib.figure.Figure) -> str:
    """Return a figure as an <img> with embedded data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return image_html(buffer.getvalue())


def image_html(png: bytes) -> str:
    """Return PNG bytes as an <img> with embedded data."""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def learning_curves(runs: dict[str, Path]) -> str:
    """Plot training loss and validation accuracy by epoch."""
    figure = matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for title, folder in runs.items():
        rows = rows_of(folder / "metrics.csv")
        for axes, column, scale in ((loss, "train_loss_epoch", 1), (accuracy, "val_top1", 100)):
            points = [(int(r["epoch"]) + 1, scale * float(r[column])) for r in rows if r[column]]
            axes.plot(*zip(*points, strict=True), marker="o", label=title)
    loss.set(xlabel="epoch", ylabel="training loss")
    accuracy.set(xlabel="epoch", ylabel="validation top-1, %", ylim=(0, 102))
    accuracy.axhline(50, color="gray", linestyle=":", label="expected maximum from pooled frames")
    accuracy.legend()
    return figure_html(figure)


def film_strips(predictions: list[dict[str, str]]) -> str:
    """Show eight frames of each video with its class and the two best predictions."""
    figure = matplotlib.figure.Figure(figsize=(10, 1.35 * len(predictions)), layout="constrained")
    for axes, row in zip(figure.subplots(len(predictions)), predictions, strict=True):
        with VideoReader(row["path"]) as reader:
            frames = reader.frames(np.linspace(0, len(reader) - 1, 8).astype(int))
        axes.imshow(np.concatenate([f.permute(1, 2, 0).numpy() for f in frames], axis=1))
        truth = Path(row["path"]).parent.name
        best = ", ".join(f"{row[f'prediction{k}']} {100 * float(row[f'score{k}']):.1f} %" for k in (1, 2))
        axes.set_title(f"{truth}:  {best}", fontsize=9, color="green" if truth == row["prediction1"] else "firebrick")
        axes.set_axis_off()
    return figure_html(figure)


def report(out: Path, runs: dict[str, Path], seconds: float) -> Path:
    """Write report.html and return its path."""
    results = {title: json.loads((folder / "test" / "test.json").read_text()) for title, folder in runs.items()}
    classes = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]["classes"]
    rows = [(title, f"{100 * r['metrics']['test_top1']:.1f} %", r["videos"]) for title, r in results.items()]
    probe = json.loads((out / "probe" / "probe.json").read_text())
    baselines = {"logistic_regression": "logistic regression", "nearest_neighbors": "nearest neighbors"}
    for key, title in baselines.items():
        rows.append((f"TANet, {title} of frozen features", f"{100 * probe[key]['top1']:.1f} %", probe["videos"]))
    rows.append(("chance", f"{100 / len(classes):.1f} %", ""))
    table = "".join(f"<tr><td>{html.escape(t)}</td><td>{a}</td><td>{n}</td></tr>" for t, a, n in rows)
    tuned = next(iter(runs.values()))
    page = f"""<!doctype html><meta charset="utf-8"><title>tempozoo demo</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}img{{max-width:100%}}
td,th{{padding:.2rem 1rem .2rem 0;text-align:left}}</style>
<h1>tempozoo demo</h1>
<p>The bundled network <code>{START}</code> was trained on eight kinds of motion. The demo fine-tunes it on four others,
{", ".join(classes)}, rendered with other shapes and textures, and tests it on unseen videos. The C2D starts from the
same convolutions and is trained the same way, but has no temporal operator. The baselines are two classifiers of the
features of the bundled network without fine-tuning. The classes form pairs that are each other played backwards, so a
network that pools the scores of single frames can only guess within a pair: its expected accuracy is at most 50 %.
The demo took {seconds:.0f} seconds.</p>
<table><tr><th>network</th><th>top-1</th><th>test videos</th></tr>{table}</table>
<h2>Learning curves</h2>{learning_curves(runs)}
<h2>Confusion of the fine-tuned network</h2>{image_html((tuned / "test" / "confusion.png").read_bytes())}
<h2>Predictions</h2>{film_strips(rows_of(out / "predict" / "predictions.csv"))}
<p>Protocol of the test: {html.escape(json.dumps(results[next(iter(runs))]["protocol"]))}</p>
"""
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        help="output folder; results of an earlier demo in it are replaced",
    )
    out = parser.parse_args().out
    start = time.perf_counter()
    for part in ("data", "probe", "tanet", "c2d", "c2d-start", "predict", "report.html"):  # of an earlier demo
        path = out / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    data = ["--data.root", str(out / "data")]
    runs = {"TANet, fine-tuned": out / "tanet", "C2D, trained the same way": out / "c2d"}
    starts = {out / "tanet": START, out / "c2d": str(without_operator(out / "c2d-start"))}
    recipe = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]
    test_data = [token for key, value in recipe.items() for token in (f"--data.{key}", as_text(value))]
    for folder, name in starts.items():
        run("fit", "--config", str(CONFIG), "--model.init_args.name", name, *data, "--out", str(folder),
            "--trainer.enable_model_summary", "false", "--probe", "false")  # fmt: skip
        run("test", "--from", str(folder / "checkpoints" / "last.ckpt"), "--data", "MotionClips", *test_data, *data,
            *VIEWS, "--out", str(folder / "test"))  # fmt: skip
    run("probe", "--from", START, "--data", "MotionClips", *test_data, *data, *VIEWS, "--out", str(out / "probe"))
    run("export-checkpoint", str(out / "tanet" / "checkpoints" / "last.ckpt"), str(out / "tanet" / "model"))
    clips = [str(next((out / "data" / "test" / name).iterdir())) for name in recipe["classes"]]
    run("predict", "--from", str(out / "tanet" / "model"), *clips, *VIEWS, "--out", str(out / "predict"))
    print(f"\nReport: {report(out, runs, time.perf_counter() - start).resolve()}")


if __name__ == "__main__":
    main()
