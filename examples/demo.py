"""Run the complete workflow offline: python examples/demo.py [--out runs/demo]

Renders videos of four actions, fine-tunes the bundled network on them, trains a C2D the same way, tests both with
several views, tests classifiers of frozen features, classifies a few files, and writes report.html with all results.

The classes form pairs that are each other played backwards. A network that pools the scores of single frames, such as
C2D, can only guess within a pair: its expected accuracy is at most 50 %.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

import zoo
from cli import main as tempozoo

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
    starts = {out / "tanet": START, out / "c2d": str(without_operator(out / "c2d-start"))}
    recipe = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]
    test_data = [token for key, value in recipe.items() for token in (f"--data.{key}", as_text(value))]
    for folder, name in starts.items():
        run("fit", "--config", str(CONFIG), "--model.init_args.name", name, *data, "--out", str(folder),
            "--trainer.enable_model_summary", "false", "--probe", "false", "--report", "false")  # fmt: skip
        run("test", "--from", str(folder / "checkpoints" / "last.ckpt"), "--data", "MotionClips", *test_data, *data,
            *VIEWS, "--report", "false", "--out", str(folder / "test"))  # fmt: skip
    run("probe", "--from", START, "--data", "MotionClips", *test_data, *data, *VIEWS, "--out", str(out / "probe"))
    run("export-checkpoint", str(out / "tanet" / "checkpoints" / "last.ckpt"), str(out / "tanet" / "model"))
    clips = [str(next((out / "data" / "test" / name).iterdir())) for name in recipe["classes"]]
    run("predict", "--from", str(out / "tanet" / "model"), *clips, *VIEWS, "--out", str(out / "predict"))
    run("report", *(str(out / name) for name in ("tanet", "c2d", "probe")), "--out", str(out / "report.html"))
    print(f"The demo took {time.perf_counter() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
