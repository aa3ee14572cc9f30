"""Draw docs/timeline.png: python examples/timeline.py motions docs/timeline.png

Renders six motions of two seconds in sequence as image files, and runs `tempozoo predict --plot` on them with the
bundled network, which has seen other scenes of these classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from cli import main as tempozoo
from datamodules.motion_render import render_clip

LABELS = ("moves_left", "turns_clockwise", "appears", "moves_up", "turns_anticlockwise", "moves_right")
FIRST_SEED = 70  # of the scenes


def main(arguments: list[str] | None = None) -> int:
    """Render the frames and draw the picture; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path, help="folder for the frames of the video")
    parser.add_argument("picture", help="picture to write")
    args = parser.parse_args(arguments)
    args.frames.mkdir(parents=True, exist_ok=True)
    clips = [render_clip(label, FIRST_SEED + number) for number, label in enumerate(LABELS)]
    for number, frame in enumerate(np.concatenate(clips)):
        Image.fromarray(frame).save(args.frames / f"{number:03d}.png")
    command = ["predict", "--from", "tanet_r18.motionclips8", f"{args.frames}/*.png", "--fps", "12"]
    return tempozoo([*command, "--window", "1.5", "--stride", "0.25", "--plot", args.picture])


if __name__ == "__main__":
    raise SystemExit(main())
