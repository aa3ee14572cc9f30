"""Compare the speed of our operators with the literal forms of the papers and the official code.

    python benchmarks/operators.py [--device cpu|cuda] [--quick] [--csv docs/operators.csv]

Prints the milliseconds of a forward pass and of a forward and backward pass of both forms with the same weights and
inputs, in float32. Both take turns; the table has medians, and the median and spread of the ratio of each round.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from benchmarks.timing import Budget, Results, benchmark_parser, interleave, relative_spread
from zoo.ops import TAM, TAdaConv2d, TAdaConv2dV2
from zoo.ops.frames import spatial_mean
from zoo.ops.shift import TemporalShift
from zoo.ops.tadaconv import AdaptiveConv2d


class KernelPerFrame(AdaptiveConv2d):
    """TAdaConv as written in the papers: one kernel per frame, in one convolution with B*T times the groups."""

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        alpha, beta = (
            None if scale is None else scale.transpose(1, 2).flatten(0, 1)
            for scale in self.routing(spatial_mean(x, num_frames))
        )
        alpha = alpha[:, None, :, None, None] if self.cal_dim == "cin" else alpha[:, :, None, None, None]
        kernels = (alpha * self.weight).flatten(0, 1)  # (B*T*C_out, C_in / groups, kh, kw)
        rows, groups = x.flatten(0, 1)[None], len(x) * self.groups
        y = F.conv2d(rows, kernels, None, self.stride, self.padding, self.dilation, groups).unflatten(1, (len(x), -1))[
            0
        ]
        if self.bias is None:
            return y
        return y + (self.bias if beta is None else self.bias * beta).expand(len(x), -1)[:, :, None, None]


class GroupedTAM(TAM):
    """TAM as released: gate, then one depthwise temporal convolution with B*C groups on a transposed copy."""

    def forward(self, x: Tensor, num_frames: int | None = None) -> Tensor:
        descriptor = spatial_mean(x, self.num_frames)
        kernel = self.G(descriptor.flatten(0, 1))[:, None, :, None]
        clips = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2).contiguous()
        gated = clips * self.L(descriptor)[..., None, None]
        batch, channels, frames, height, width = gated.shape
        rows = gated.view(1, batch * channels, frames, height * width)
        y = F.conv2d(rows, kernel, padding=(self.kernel_size // 2, 0), groups=batch * channels)
        return y.view_as(gated).transpose(1, 2).flatten(0, 1).contiguous()


class SlicedShift(TemporalShift):
    """TSM as released: slices of the clip are written into zeros."""

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        frames, fold = x.unflatten(0, (-1, num_frames)), x.shape[1] // self.divisor
        shifted = torch.zeros_like(frames)
        shifted[:, :-1, :fold] = frames[:, 1:, :fold]
        shifted[:, 1:, fold : 2 * fold] = frames[:, :-1, fold : 2 * fold]
        shifted[:, :, 2 * fold :] = frames[:, :, 2 * fold :]
        return shifted.flatten(0, 1)


LITERAL_FORMS = ((AdaptiveConv2d, KernelPerFrame), (TAM, GroupedTAM), (TemporalShift, SlicedShift))


def literal(network: nn.Module) -> nn.Module:
    """Return a copy of a network with the same weights and its operators in their literal form."""
    network_copy = copy.deepcopy(network)
    for module in network_copy.modules():
        for operator, form in LITERAL_FORMS:
            if isinstance(module, operator):
                module.__class__ = form
    return network_copy


class OperatorCase(NamedTuple):
    """A layer or network and its input; ``args`` are the other arguments of its ``forward``."""

    title: str
    module: nn.Module
    x: Tensor
    args: tuple[int, ...] = ()


def cases(quick: bool) -> list[OperatorCase]:
    """Return operators on 2 clips of 8 frames, as in two stages of a ResNet, and networks on 1 clip."""
    operators, frames = [], 8
    for channels, side in ((8, 4),) if quick else ((64, 56), (256, 14)):
        x = torch.randn(2 * frames, channels, side, side).contiguous(memory_format=torch.channels_last)
        for title, operator in (
            ("TAdaConv 3x3", TAdaConv2d(channels, channels, 3, padding=1)),
            ("TAdaConvV2 depthwise 7x7", TAdaConv2dV2(channels, channels, 7, padding=3, groups=channels)),
            ("TAM", TAM(channels, frames)),
            ("TSM", TemporalShift()),
        ):
            operators.append(OperatorCase(f"{title}, 2x8x{channels}x{side}x{side}", operator, x, (frames,)))
    if quick:
        network = zoo.create("tanet_r18", num_frames=4, width=8, num_classes=4)
        return [*operators, OperatorCase("tanet_r18, 1x4x32x32", network, torch.randn(1, 3, 4, 32, 32))]
    networks = []
    for arch, frames in (("tada2d_r50", 8), ("tanet_r50", 8), ("tadaconvnextv2_tiny", 16), ("tadaformer_b16", 16)):
        network = zoo.create(arch, num_frames=frames, image_size=224)
        networks.append(OperatorCase(f"{arch}, 1x{frames}x224x224", network, torch.randn(1, 3, frames, 224, 224)))
    return operators + networks


def passes(module: nn.Module, case: OperatorCase, device: str) -> dict[str, Callable[[], Tensor]]:
    """Return the forward pass, and the forward and backward pass, of a form of a case."""
    module = module.to(device).eval()
    x = case.x.to(device).requires_grad_(bool(case.args))  # the pixels of a network need no gradient

    @torch.no_grad()
    def forward() -> Tensor:
        return module(x, *case.args)

    def backward() -> Tensor:
        module.zero_grad()
        loss = module(x, *case.args).square().mean()
        loss.backward()
        return loss

    return {"forward": forward, "forward + backward": backward}


def main(args: list[str] | None = None) -> None:
    parser = benchmark_parser(__doc__ or "", rounds=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    columns = ["case", "pass", "compared with", "ms", "other ms", "ratio", "spread %"]
    results = Results("operators and their literal form", columns, options.threads, options.device)
    every_case = cases(options.quick)
    budget = Budget(options.minutes, 2 * len(every_case))
    for case in every_case:
        ours = passes(case.module, case, options.device)
        theirs = passes(literal(case.module), case, options.device)
        torch.testing.assert_close(ours["forward"](), theirs["forward"](), rtol=1e-3, atol=1e-3)
        for name in ours:
            times = interleave({"ours": ours[name], "theirs": theirs[name]}, options.rounds, budget.share())
            ratios = times["ours"].ratios(times["theirs"])
            medians = times["ours"].ms, times["theirs"].ms, statistics.median(ratios)
            results.add(case.title, name, "literal form", *medians, relative_spread(ratios))
    results.finish(options.csv)


if __name__ == "__main__":
    main()
