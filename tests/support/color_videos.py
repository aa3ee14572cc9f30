"""Videos of one color each, whose classes any network separates, and a tiny network that counts as trained."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch
from small_models import small

import zoo

COLORS = {"blue": (30, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


def write_color_videos(root: Path, counts: dict[str, int], classes: tuple[str, ...] = tuple(COLORS)) -> Path:
    """Write videos of 6 frames of 32 x 32 pixels in folders ``root/split/class``; returns the root.

    Args:
        counts: split -> videos per class.
    """
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in classes:
            for number in range(count):
                color = np.array(COLORS[name]) + rng.integers(-20, 20, 3)
                _write(root / split / name / f"{name}{number}.mp4", color, rng)
    return root


def _write(path: Path, color: np.ndarray, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(6):
            image = (color + rng.integers(-10, 10, (32, 32, 3))).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def save_trained(folder: Path, arch: str = "c2d_r18", seed: int = 0) -> Path:
    """Save a tiny network whose parameters have changed since they were initialized, as training changes them."""
    torch.manual_seed(seed)
    network = small(arch, image_size=32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.01)
            parameter.add_(1e-3)
    return zoo.save(network, folder)
