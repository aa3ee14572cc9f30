"""Train a small TAdaFormer on rendered MotionClips, for ``explanations.py --transformer``.

    python benchmarks/motion_transformer.py runs/transformer --minutes 7

It has the classes and the protocol of the bundled network. Clips are mirrored, rotated, reversed and shifted at random,
and their labels change accordingly.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
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
FIRST_SEED, CLIPS = 1000, 1600
BATCH, LEARNING_RATE, WARMUP = 32, 1.5e-3, 50  # warmup: steps
TURN = ("turns_clockwise", "turns_anticlockwise")
SIDES, HEIGHTS = ("moves_left", "moves_right"), ("moves_up", "moves_down")
AUGMENTATIONS: tuple[tuple[Callable[[Tensor], Tensor], tuple[tuple[str, str], ...]], ...] = (
    (lambda clips: clips.flip(4), (SIDES, TURN)),
    (lambda clips: clips.flip(3), (HEIGHTS, TURN)),
    (lambda clips: clips.flip(2), (SIDES, HEIGHTS, TURN, ("appears", "vanishes"))),
    (lambda clips: clips.transpose(3, 4), ((SIDES[0], HEIGHTS[0]), (SIDES[1], HEIGHTS[1]), TURN)),
)
OPTIONS = {"image_size": 64, "patch": 8, "width": 96, "depth": 4, "heads": 4, "drop_rate": 0.0}


def render_batches(network: VideoNetwork) -> list[tuple[Tensor, Tensor]]:
    """Render batches of clips ``(B, 3, T, S, S)`` and their class indices."""
    labels, batches = network.labels or (), []
    for first in range(FIRST_SEED, FIRST_SEED + CLIPS, BATCH):
        indices = [seed % len(labels) for seed in range(first, first + BATCH)]
        clips = [render_clip(labels[index], first + row, frames=8) for row, index in enumerate(indices)]
        pixels = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)
        clip = normalize(pixels, network.protocol.mean, network.protocol.std)
        batches.append((clip, torch.tensor(indices)))
    return batches


def augment(clips: Tensor, targets: Tensor, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Mirror, transpose or reverse a batch, each with a probability of 0.5, and shift it by up to 4 pixels."""
    for transform, swaps in AUGMENTATIONS:
        if torch.rand(()) < 0.5:
            clips = transform(clips)
            swapped = dict([*swaps, *((second, first) for first, second in swaps)])
            targets = torch.tensor([labels.index(swapped.get(label, label)) for label in labels])[targets]
    down, right = torch.randint(-4, 5, (2,)).tolist()
    return clips.roll((down, right), (3, 4)).contiguous(), targets


def train(network: VideoNetwork, seconds: float) -> None:
    """Train a network for a time, with AdamW and a cosine schedule."""
    groups = [
        {"params": [value for value in network.parameters() if value.ndim > 1], "weight_decay": 0.05},
        {"params": [value for value in network.parameters() if value.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE)
    batches = render_batches(network)
    network.train()
    start, step, accuracy = time.perf_counter(), 0, 0.0
    while (progress := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARMUP) * (1 + np.cos(np.pi * progress)) / 2
        clips, targets = augment(*batches[int(torch.randint(len(batches), ()))], network.labels or ())
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(clips).float()
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
    parser.add_argument("--minutes", type=float, default=7.0, help="time of training (default: 7)")
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
