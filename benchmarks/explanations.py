"""Faithfulness of ``zoo.explain``: relevance on the moving object, and scores while relevant pixels are removed.

    python benchmarks/explanations.py [--transformer FOLDER] [--videos ROOT test.csv --network CHECKPOINT]
        [--csv docs/explanations.csv]

Object share: the share of the relevance on the mask of the labeled object, for rendered MotionClips and the bundled
network. Chance is the area of the mask; the center prior is a Gaussian in the middle of the frame.

Deletion and insertion (Petsiuk et al. 2018, arXiv 1806.07421): patches of a ``GRID`` x ``GRID`` grid in each frame are
replaced by those of blurred frames, or the reverse, in the order of their mean relevance; patches of equal relevance
in random order. The area under the probability of the predicted class is low for deletion and high for insertion if
the relevance is faithful.

Controls (arXiv 1810.03292): networks with shuffled weights, whose parameters are permuted, and with new, untrained
weights. A method whose result survives this shows the video rather than the network.

Other published methods are compared on the selection clips. The figures of the default method are from other clips.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

import zoo
from datamodules.motion_render import object_mask, render_clip
from zoo.inference import relevance as methods
from zoo.inference.relevance import AttentionLayer, choose_stages, trace
from zoo.models.features import as_feature_map
from zoo.models.network import VideoNetwork
from zoo.video.sampling import sample
from zoo.video.transforms import normalize

BUNDLED = "tanet_r18.motionclips8"
RELEVANCE, CENTER, RANDOM, CHANCE = "relevance", "center prior", "random", "chance"
SHUFFLED, NEW = "shuffled weights", "new weights"
SEEDS = {"selection": 2 * 10**6, "test": 4 * 10**6}  # first seed of the scenes of each set; none is used in training
CONTROLS = 3  # networks of each kind of control, used in turn
GRID = 16  # patches of a frame in height and width
BLUR = 0.1  # standard deviation of the blurred frames, as a share of their side
CENTER_WIDTH = 0.25  # standard deviation of the center prior, as a share of the side
COLUMNS = ("set", "measure", "network", "clips", "order", "mean", "95 %", "gain of relevance", "95 % of gain")
BETTER = {"object share": 1, "insertion": 1, "deletion": -1}  # sign of a better value

Values = dict[str, list[float]]  # order of the pixels -> value of each clip
Results = dict[str, Values]  # by measure


class Clip(NamedTuple):
    """A clip ``(1, 3, T, S, S)``; for MotionClips with the mask of its labeled object ``(T, S, S)``."""

    pixels: Tensor
    mask: Tensor | None = None


# orders of pixels --------------------------------------------------------------------------------------------------


def relevance(network: VideoNetwork, clip: Tensor, index: int, stages: int = 2) -> Tensor:
    """Compute the relevance ``(T, H, W)`` of a clip ``(1, C, T, H, W)`` for a class, as ``zoo.explain`` does.

    Args:
        stages: number of stages whose relevance is multiplied.
    """
    return trace(network, clip, choose_stages(network, clip.shape[3])[:stages]).compute(index)


def shuffle_weights(network: VideoNetwork, seed: int) -> VideoNetwork:
    """Copy a network and permute the values within each parameter."""
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return network


def renew_weights(network: VideoNetwork, seed: int) -> VideoNetwork:
    """Create the network again, with new weights."""
    torch.manual_seed(seed)
    return zoo.create(network.spec.arch, **network.spec.options).eval().requires_grad_(False)


def hires_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Weight each position with its gradient (arXiv 2011.08891)."""
    return features * gradient


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Weight each channel with its mean gradient (arXiv 1610.02391)."""
    return features * gradient.mean((2, 3, 4), keepdim=True)


def rough_layer_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """Weight each position with its positive gradient, without smoothing."""
    return features * gradient.relu()


def replace_layercam(weigh: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Sequence[Tensor], Tensor], list[Tensor]]:
    """Return a substitute for ``layercam`` that weights the features ``(1, C, T, H, W)`` in another way."""

    def contributions(maps: Sequence[Tensor], logit: Tensor) -> list[Tensor]:
        gradients = torch.autograd.grad(logit, maps, retain_graph=True)
        pairs = [(as_feature_map(a.detach(), 1), as_feature_map(g, 1)) for a, g in zip(maps, gradients, strict=True)]
        return [weigh(*pair)[0].sum(0) for pair in pairs]

    return contributions


def plain_rollout(layers: Sequence[AttentionLayer], _logit: Tensor) -> Tensor:
    """Multiply the attention of all layers, averaged over heads, without gradients (arXiv 2005.00928)."""
    row = torch.zeros_like(layers[-1].weights[-1][:, 0, :, 0])
    row[:, 0] = 1
    for layer in reversed(layers):
        step = torch.einsum("nq,nqk->nk", row, layer.weights[-1].detach().mean(1))
        row = (F.pad(row, (0, step.shape[1] - row.shape[1])) + step) / 2
    return row[:, 1:].unflatten(1, layers[0].grid).flatten(0, 1)


def integrated_gradients(network: VideoNetwork, clip: Tensor, index: int, steps: int = 16) -> Tensor:
    """Integrate gradients of pixels from the blurred clip to the clip (arXiv 1703.01365); absolute sum of channels."""
    start, total = blurred(clip), torch.zeros_like(clip)
    for step in range(steps):
        pixels = (start + (clip - start) * ((step + 0.5) / steps)).requires_grad_()
        total += torch.autograd.grad(network(pixels)[0, index], pixels)[0]
    return ((clip - start) * total)[0].sum(0).abs()


def alternatives(network: VideoNetwork, clip: Tensor, index: int) -> dict[str, Tensor]:
    """Compute the relevance ``(T, H, W)`` with other methods."""
    maps = {"integrated gradients": integrated_gradients(network, clip, index)}
    if network.attention_layers is not None:
        with mock.patch.object(methods, "rollout", plain_rollout):
            maps["attention rollout without gradients"] = relevance(network, clip, index)
        return maps
    maps["LayerCAM, one stage"] = relevance(network, clip, index, stages=1)
    substitutes = {"LayerCAM without smoothing": rough_layer_cam, "HiResCAM": hires_cam, "Grad-CAM": grad_cam}
    for name, weigh in substitutes.items():
        with mock.patch.object(methods, "layercam", replace_layercam(weigh)):
            maps[f"{name}, two stages"] = relevance(network, clip, index)
    return maps


def center_prior(clip: Tensor) -> Tensor:
    """Return a Gaussian in the middle of every frame, ``(T, H, W)``."""
    frames, height, width = clip.shape[2:]
    rows, columns = torch.linspace(-0.5, 0.5, height)[:, None], torch.linspace(-0.5, 0.5, width)
    return torch.exp(-(rows**2 + columns**2) / (2 * CENTER_WIDTH**2)).expand(frames, -1, -1)


class Orders:
    """Computes the orders of the pixels of clips that are compared.

    Args:
        with_alternatives: also compute other methods, for the trained network and for new weights.
    """

    def __init__(self, network: VideoNetwork, with_alternatives: bool) -> None:
        self.network, self.with_alternatives = network, with_alternatives
        self._controls = {
            SHUFFLED: [shuffle_weights(network, seed) for seed in range(CONTROLS)],
            NEW: [renew_weights(network, seed) for seed in range(CONTROLS)],
        }

    def __call__(self, clip: Tensor, index: int, number: int) -> dict[str, Tensor]:
        """Return maps ``(T, H, W)`` by name, for a class of the clip with a number."""
        maps = {RELEVANCE: relevance(self.network, clip, index), CENTER: center_prior(clip)}
        maps[RANDOM] = torch.rand(clip.shape[2:], generator=torch.Generator().manual_seed(number))
        controls = {name: networks[number % CONTROLS] for name, networks in self._controls.items()}
        maps |= {name: relevance(control, clip, index) for name, control in controls.items()}
        if self.with_alternatives:
            maps |= alternatives(self.network, clip, index)
            others = alternatives(controls[NEW], clip, index)
            maps |= {f"{name}, {NEW}": values for name, values in others.items()}
        return maps


# clips -------------------------------------------------------------------------------------------------------------


def motion_clips(network: VideoNetwork, count: int, first_seed: int) -> Iterator[Clip]:
    """Yield rendered clips."""
    labels, protocol = network.labels or (), network.protocol
    for number in range(count):
        label, seed = labels[number % len(labels)], first_seed + number // len(labels)
        frames = render_clip(label, seed, size=protocol.crop)
        rows = sample(protocol, len(frames), 12, (0, 1))
        pixels = torch.from_numpy(frames[rows]).permute(0, 3, 1, 2)[None]
        mask = object_mask(label, seed, size=protocol.crop)[rows]
        yield Clip(normalize(pixels, protocol.mean, protocol.std), torch.from_numpy(mask).float())


def video_clips(network: VideoNetwork, root: Path, table: Path, count: int) -> Iterator[Clip]:
    """Yield the middle clips of evenly spaced videos of a CSV file (column path)."""
    with table.open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    for number in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int):
        yield Clip(zoo.read_clip(root / paths[number], network.protocol, views="1x1"))


# measures ----------------------------------------------------------------------------------------------------------


def blurred(clip: Tensor) -> Tensor:
    """Blur the frames of a clip ``(1, C, T, H, W)``."""
    sigma = BLUR * clip.shape[3]
    size = 2 * round(2 * sigma) + 1
    return gaussian_blur(clip[0].transpose(0, 1), [size, size], [sigma, sigma]).transpose(0, 1)[None]


def rank_patches(values: Tensor, generator: torch.Generator) -> Tensor:
    """Rank the patches of maps ``(T, H, W)`` by their mean value; equal values in random order.

    Returns:
        for each pixel, the share of patches with higher values, from 0 to below 1, ``(T, H, W)``.
    """
    patches = F.adaptive_avg_pool2d(values[:, None], GRID)
    flat = patches.flatten()
    shuffled = torch.randperm(len(flat), generator=generator)
    order = shuffled[flat[shuffled].argsort(descending=True, stable=True)]
    ranks = torch.empty(len(flat))
    ranks[order] = torch.arange(len(flat)) / len(flat)
    return F.interpolate(ranks.view_as(patches), values.shape[1:], mode="nearest")[:, 0]


@torch.no_grad()
def probabilities(network: VideoNetwork, clips: Tensor, index: int) -> Tensor:
    """Compute the probability of a class for each clip."""
    with torch.autocast(clips.device.type, torch.bfloat16):
        return torch.cat([network(part).float().softmax(1)[:, index] for part in clips.split(4)])


def area(network: VideoNetwork, clip: Tensor, other: Tensor, ranks: Tensor, index: int, steps: int) -> float:
    """Return the area under the probability of a class while a clip is replaced by another one in equal steps."""
    limits = torch.arange(steps + 1) / steps
    mixtures = torch.where(ranks < limits.view(-1, 1, 1, 1, 1), other, clip)
    return float(torch.trapezoid(probabilities(network, mixtures, index)) / steps)


def measure(orders: Orders, clips: Iterator[Clip], steps: int) -> Results:
    """Measure deletion and insertion, and the object share of clips with a mask, for the predicted classes."""
    results: Results = defaultdict(lambda: defaultdict(list))
    network = orders.network
    for number, (clip, mask) in enumerate(clips):
        with torch.no_grad():
            index = int(network(clip).argmax())
        maps = orders(clip, index, number)
        if mask is not None:
            for name, values in (maps | {CHANCE: torch.ones_like(mask)}).items():
                share = float((values * mask).sum() / values.sum().clamp(min=1e-30))
                results["object share"][name].append(share)
        other, generator = blurred(clip), torch.Generator().manual_seed(number)
        for name, values in maps.items():
            ranks = rank_patches(values, generator)
            results["deletion"][name].append(area(network, clip, other, ranks, index, steps))
            results["insertion"][name].append(area(network, other, clip, ranks, index, steps))
    return results


# results -----------------------------------------------------------------------------------------------------------


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval."""
    return statistics.mean(values), 1.96 * statistics.stdev(values) / len(values) ** 0.5


def rows_of(clip_set: str, network: str, results: Results) -> list[list[str]]:
    """Return a row for each measure and order, with the gain of the relevance over it: positive if it is better."""
    rows = []
    for name, values in results.items():
        for order, numbers in values.items():
            row = [clip_set, name, network, str(len(numbers)), order, *(f"{x:.3f}" for x in interval(numbers))]
            gains = [BETTER[name] * (own - other) for own, other in zip(values[RELEVANCE], numbers, strict=True)]
            row += ["", ""] if order == RELEVANCE else [f"{x:.3f}" for x in interval(gains)]
            rows.append(row)
    return rows


def evaluated(name: str) -> VideoNetwork:
    """Load a network for evaluation without gradients of its parameters."""
    return zoo.load(name).eval().requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformer", help="network of motion_transformer.py, as of zoo.load")
    parser.add_argument("--videos", nargs=2, type=Path, metavar=("ROOT", "CSV"), help="videos for deletion, insertion")
    parser.add_argument("--network", help="network for --videos, as of zoo.load")
    parser.add_argument("--title", help="name of this network in the table (default: its architecture)")
    parser.add_argument("--motion_clips", type=int, default=32, help="rendered clips of each set (default: 32)")
    parser.add_argument("--video_clips", type=int, default=32, help="videos (default: 32)")
    parser.add_argument("--steps", type=int, default=20, help="of deletion and insertion on MotionClips (default: 20)")
    parser.add_argument("--video_steps", type=int, default=6, help="of deletion and insertion on videos (default: 6)")
    parser.add_argument("--csv", type=Path, help="file for the table, such as docs/explanations.csv")
    args = parser.parse_args(arguments)
    if (args.videos is None) != (args.network is None):
        parser.error("give --videos and --network together")
    torch.set_num_threads(1)
    rows: list[list[str]] = [list(COLUMNS)]
    for part in parts(args):
        rows += part
        print("\n".join(" | ".join(row) for row in part), flush=True)
        if args.csv:
            with args.csv.open("w", newline="") as file:
                csv.writer(file).writerows(rows)


def parts(args: argparse.Namespace) -> Iterator[list[list[str]]]:
    """Yield the rows of each network and set of clips."""
    if args.videos is not None:
        network = evaluated(args.network)
        clips = video_clips(network, *args.videos, args.video_clips)
        title = args.title or network.spec.arch
        yield rows_of("test", title, measure(Orders(network, False), clips, args.video_steps))
    for name in filter(None, (BUNDLED, args.transformer)):
        network = evaluated(name)
        title = BUNDLED if name == BUNDLED else f"small {network.spec.arch}"
        for clip_set, seed in SEEDS.items():
            clips = motion_clips(network, args.motion_clips, seed)
            yield rows_of(clip_set, title, measure(Orders(network, clip_set == "selection"), clips, args.steps))


if __name__ == "__main__":
    main()
