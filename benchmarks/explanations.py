"""Faithfulness of ``zoo.explain``: relevance on the moving object, and scores while relevant pixels are removed.

    python benchmarks/explanations.py [--videos ROOT test.csv --network CHECKPOINT] [--csv docs/explanations.csv]

Object share: the share of the relevance on the mask of the labeled object, for rendered MotionClips and the bundled
network. Chance is the area of the mask; the center prior is a Gaussian in the middle of the frame.

Deletion and insertion (Petsiuk et al. 2018, arXiv 1806.07421): the most relevant pixels of the clip are replaced by
those of blurred frames, or the reverse, in equal steps. The area under the probability of the predicted class is low
for deletion and high for insertion if the relevance is faithful. The random order has random values at the positions
of the explained feature map, interpolated like the relevance. With shuffled weights, the values of every parameter are
permuted; a method whose picture survives that shows the video rather than the network (arXiv 1810.03292).

With MotionClips, other methods are measured as well: one stage instead of the product of two, Grad-CAM (arXiv
1610.02391) and LayerCAM (Jiang et al. 2021).
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

import zoo
from datamodules.motion_render import object_mask, render_clip
from zoo.inference import relevance as methods
from zoo.inference.relevance import choose_stages, to_pixels, trace
from zoo.models.features import as_feature_map, stage_maps
from zoo.models.network import VideoNetwork
from zoo.video.sampling import sample
from zoo.video.transforms import normalize

BUNDLED = "tanet_r18.motionclips8"
RELEVANCE, CENTER, RANDOM, SHUFFLED, CHANCE = "relevance", "center prior", "random", "shuffled weights", "chance"
FIRST_SEED = 10**6  # of scenes that no training run has seen
BLUR = 0.1  # standard deviation of the blurred frames, as a share of their side
CENTER_WIDTH = 0.25  # standard deviation of the center prior, as a share of the side
COLUMNS = ("measure", "network", "clips", "order", "mean", "95 %", "gain of relevance", "95 % of gain")
BETTER = {"object share": 1, "insertion": 1, "deletion": -1}  # sign of a better value

Values = dict[str, list[float]]  # order of the pixels -> value of each clip


def shuffle_weights(network: VideoNetwork, seed: int = 0) -> VideoNetwork:
    """Copy a network and permute the values within each parameter."""
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return network


def relevance(network: VideoNetwork, clip: Tensor, index: int, stages: int = 2) -> Tensor:
    """Compute the relevance ``(T, H, W)`` of a clip ``(1, C, T, H, W)`` for a class, as ``zoo.explain`` does.

    Args:
        stages: number of stages whose relevance is multiplied.
    """
    return trace(network, clip, choose_stages(network, clip.shape[3])[:stages]).compute(index)


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Weight each channel with its mean gradient, ``(1, C, T, H, W)``."""
    return features * gradient.mean((2, 3, 4), keepdim=True)


def layer_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Weight each position with its positive gradient, ``(1, C, T, H, W)``."""
    return features * gradient.relu()


def replace_hirescam(weigh: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Sequence[Tensor], Tensor], list[Tensor]]:
    """Return a substitute for ``hirescam`` that weights the features in another way."""

    def contributions(maps: Sequence[Tensor], logit: Tensor) -> list[Tensor]:
        gradients = torch.autograd.grad(logit, maps, retain_graph=True)
        pairs = [(as_feature_map(a.detach(), 1), as_feature_map(g, 1)) for a, g in zip(maps, gradients, strict=True)]
        return [weigh(*pair)[0].sum(0) for pair in pairs]

    return contributions


def alternatives(network: VideoNetwork, clip: Tensor, index: int) -> dict[str, Tensor]:
    """Compute the relevance ``(T, H, W)`` with other methods."""
    maps = {"HiResCAM, one stage": relevance(network, clip, index, stages=1)}
    for name, weigh in (("Grad-CAM", grad_cam), ("LayerCAM", layer_cam)):
        with mock.patch.object(methods, "hirescam", replace_hirescam(weigh)):
            maps[f"{name}, one stage"] = relevance(network, clip, index, stages=1)
            maps[f"{name}, two stages"] = relevance(network, clip, index)
    return maps


def center_prior(clip: Tensor) -> Tensor:
    """Return a Gaussian in the middle of every frame, ``(T, H, W)``."""
    frames, height, width = clip.shape[2:]
    rows, columns = torch.linspace(-0.5, 0.5, height)[:, None], torch.linspace(-0.5, 0.5, width)
    return torch.exp(-(rows**2 + columns**2) / (2 * CENTER_WIDTH**2)).expand(frames, -1, -1)


def random_order(network: VideoNetwork, clip: Tensor, generator: torch.Generator) -> Tensor:
    """Return random values with the resolution of the relevance, ``(T, H, W)``."""
    stage = (choose_stages(network, clip.shape[3]) or network.feature_info)[0]
    with torch.no_grad():
        cells = stage_maps(network, clip, [stage])[0].shape[2:]
    return to_pixels(network, torch.rand(cells, generator=generator), clip.shape[2:])


# object share ------------------------------------------------------------------------------------------------------


def motion_clips(network: VideoNetwork, count: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield rendered clips ``(1, 3, T, S, S)``, masks of their labeled objects ``(T, S, S)`` and class indices."""
    labels, protocol = network.labels or (), network.protocol
    for number in range(count):
        index, seed = number % len(labels), FIRST_SEED + number // len(labels)
        frames = render_clip(labels[index], seed, size=protocol.crop)
        rows = sample(protocol, len(frames), 12, (0, 1))
        pixels = torch.from_numpy(frames[rows]).permute(0, 3, 1, 2)[None]
        mask = object_mask(labels[index], seed, size=protocol.crop)[rows]
        yield normalize(pixels, protocol.mean, protocol.std), torch.from_numpy(mask).float(), index


def object_shares(network: VideoNetwork, count: int) -> Values:
    """Measure the share of the relevance on the labeled object, for the true class of rendered clips."""
    shuffled, values = shuffle_weights(network), defaultdict(list)
    for clip, mask, index in motion_clips(network, count):
        maps = {
            RELEVANCE: relevance(network, clip, index),
            CHANCE: torch.ones_like(mask),
            CENTER: center_prior(clip),
            SHUFFLED: relevance(shuffled, clip, index),
            **alternatives(network, clip, index),
        }
        for order, values_of_pixels in maps.items():
            values[order].append(float((values_of_pixels * mask).sum() / values_of_pixels.sum().clamp(min=1e-30)))
    return values


# deletion and insertion --------------------------------------------------------------------------------------------


def blurred(clip: Tensor) -> Tensor:
    """Blur the frames of a clip ``(1, C, T, H, W)``."""
    sigma = BLUR * clip.shape[3]
    size = 2 * round(2 * sigma) + 1
    return gaussian_blur(clip[0].transpose(0, 1), [size, size], [sigma, sigma]).transpose(0, 1)[None]


def mixtures(clip: Tensor, other: Tensor, order: Tensor, steps: int) -> Tensor:
    """Replace the pixels with the highest values by those of another clip, ``1 / steps`` of them at a time.

    Returns:
        ``(steps - 1, C, T, H, W)``, without the two clips themselves.
    """
    ranks = order.flatten().argsort(descending=True, stable=True).argsort().view(order.shape)
    limits = torch.arange(1, steps).view(-1, 1, 1, 1, 1) * order.numel() / steps
    return torch.where(ranks < limits, other, clip)


@torch.no_grad()
def probabilities(network: VideoNetwork, clips: Tensor, index: int) -> Tensor:
    """Compute the probability of a class for each clip."""
    with torch.autocast(clips.device.type, torch.bfloat16):
        return torch.cat([network(part).float().softmax(1)[:, index] for part in clips.split(4)])


def area(start: Tensor, between: Tensor, end: Tensor) -> float:
    """Return the area under equally spaced values."""
    values = torch.cat([start[None], between, end[None]])
    return float(torch.trapezoid(values) / (len(values) - 1))


def perturbation_areas(
    network: VideoNetwork, clips: Iterator[Tensor], steps: int, with_alternatives: bool
) -> dict[str, Values]:
    """Measure deletion and insertion for the predicted classes of clips."""
    shuffled, generator = shuffle_weights(network), torch.Generator().manual_seed(0)
    values: dict[str, Values] = {"deletion": defaultdict(list), "insertion": defaultdict(list)}
    for clip in clips:
        with torch.no_grad():
            index = int(network(clip).argmax())
        other = blurred(clip)
        sharp, vague = probabilities(network, torch.cat([clip, other]), index)
        orders = {
            RELEVANCE: relevance(network, clip, index),
            CENTER: center_prior(clip),
            RANDOM: random_order(network, clip, generator),
            SHUFFLED: relevance(shuffled, clip, index),
        }
        if with_alternatives:
            orders |= alternatives(network, clip, index)
        for name, order in orders.items():
            deleted = probabilities(network, mixtures(clip, other, order, steps), index)
            inserted = probabilities(network, mixtures(other, clip, order, steps), index)
            values["deletion"][name].append(area(sharp, deleted, vague))
            values["insertion"][name].append(area(vague, inserted, sharp))
    return values


def video_clips(network: VideoNetwork, root: Path, table: Path, count: int) -> Iterator[Tensor]:
    """Yield the middle clips ``(1, 3, T, S, S)`` of evenly spaced videos of a CSV file (column path)."""
    with table.open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    for number in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int):
        yield zoo.read_clip(root / paths[number], network.protocol, views="1x1")


# results -----------------------------------------------------------------------------------------------------------


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval."""
    return statistics.mean(values), 1.96 * statistics.stdev(values) / len(values) ** 0.5


def rows_of(measure: str, network: str, values: Values) -> list[list[str]]:
    """Return a row for each order, with the gain of the relevance over it: positive if the relevance is better."""
    rows = []
    for order, results in values.items():
        row = [measure, network, str(len(results)), order, *(f"{value:.3f}" for value in interval(results))]
        gains = [BETTER[measure] * (own - other) for own, other in zip(values[RELEVANCE], results, strict=True)]
        row += ["", ""] if order == RELEVANCE else [f"{value:.3f}" for value in interval(gains)]
        rows.append(row)
    return rows


def evaluated(name: str) -> VideoNetwork:
    """Load a network for evaluation without gradients of its parameters."""
    return zoo.load(name).eval().requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", nargs=2, type=Path, metavar=("ROOT", "CSV"), help="videos for deletion, insertion")
    parser.add_argument("--network", help="network for --videos, as of zoo.load")
    parser.add_argument("--title", help="name of this network in the table (default: its architecture)")
    parser.add_argument("--motion_clips", type=int, default=64, help="rendered clips (default: 64)")
    parser.add_argument("--video_clips", type=int, default=40, help="videos (default: 40)")
    parser.add_argument("--steps", type=int, default=5, help="of deletion and insertion (default: 5)")
    parser.add_argument("--csv", type=Path, help="file for the table, such as docs/explanations.csv")
    args = parser.parse_args(arguments)
    if (args.videos is None) != (args.network is None):
        parser.error("give --videos and --network together")
    torch.set_num_threads(1)
    network = evaluated(BUNDLED)
    rows = rows_of("object share", BUNDLED, object_shares(network, args.motion_clips))
    clips = (clip for clip, _, _ in motion_clips(network, args.motion_clips))
    for measure, values in perturbation_areas(network, clips, args.steps, with_alternatives=True).items():
        rows += rows_of(measure, BUNDLED, values)
    if args.videos is not None:
        network = evaluated(args.network)
        clips = video_clips(network, *args.videos, args.video_clips)
        for measure, values in perturbation_areas(network, clips, args.steps, with_alternatives=False).items():
            rows += rows_of(measure, args.title or network.spec.arch, values)
    print("\n".join("| " + " | ".join(row) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)))
    if args.csv:
        with args.csv.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
