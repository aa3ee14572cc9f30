"""Train a small TAdaFormer on rendered MotionClips, for ``explanations.py --transformer``.

    python benchmarks/motion_transformer.py /tmp/transformer --minutes 10

It has the classes and the protocol of the bundled network. Every clip is rendered once, so it cannot overfit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import zoo
from datamodules.motion_render import render_clip
from zoo.models.network import VideoNetwork
from zoo.video.transforms import normalize

BUNDLED = "tanet_r18.motionclips8"
BATCH, LEARNING_RATE, WARMUP = 32, 1.5e-3, 0.05  # warmup: share of the time
OPTIONS = {"image_size": 64, "patch": 8, "width": 96, "depth": 4, "heads": 4, "drop_rate": 0.0}


def render_batch(network: VideoNetwork, first: int) -> tuple[Tensor, Tensor]:
    """Render clips ``(B, 3, T, S, S)`` with the seeds from ``first``, and their class indices."""
    labels: Sequence[str] = network.labels or ()
    targets = torch.arange(first, first + BATCH) % len(labels)
    seeds = range(first, first + BATCH)
    clips = [render_clip(labels[index], seed, frames=8) for index, seed in zip(targets.tolist(), seeds, strict=True)]
    pixels = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)
    return normalize(pixels, network.protocol.mean, network.protocol.std), targets


def train(network: VideoNetwork, seconds: float) -> None:
    """Train a network for a time, with AdamW and a cosine schedule."""
    groups = [
        {"params": [value for value in network.parameters() if value.ndim > 1], "weight_decay": 0.05},
        {"params": [value for value in network.parameters() if value.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE)
    network.train()
    start, step, accuracy = time.perf_counter(), 0, 0.0
    while (progress := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, progress / WARMUP) * (1 + np.cos(np.pi * progress)) / 2
        clips, targets = render_batch(network, BATCH * step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(clips.contiguous()).float()
        optimizer.zero_grad()
        F.cross_entropy(logits, targets).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        accuracy += 0.02 * (float((logits.argmax(1) == targets).float().mean()) - accuracy)
        step += 1
        if step % 100 == 0:
            print(f"step {step}: {100 * accuracy:.1f} % of the last clips", flush=True)
    network.eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the weights")
    parser.add_argument("--minutes", type=float, default=10.0, help="time of training (default: 10)")
    args = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    bundled = zoo.load(BUNDLED)
    network = zoo.create("tadaformer_b16", num_classes=len(bundled.labels or ()), num_frames=8, **OPTIONS)
    network.labels, network.protocol = bundled.labels, bundled.protocol
    train(network, 60 * args.minutes)
    zoo.save(network, args.out)


if __name__ == "__main__":
    main()
