"""Compare the speed of our operators with the literal forms of the papers and the official code.

    python benchmarks/operators.py [--device cpu|cuda] [--threads N] [--csv FILE]

Prints milliseconds of a forward pass and of a training step (best of several), and the speedup for the same inputs.
"""

from __future__ import annotations

import argparse
import copy
import csv
import platform
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import zoo
from zoo.ops import TAM, TAdaConv2d, TAdaConv2dV2
from zoo.ops.frames import spatial_mean
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


def literal(network: nn.Module) -> nn.Module:
    """Return a copy of a network with the same weights and its operators in their literal form."""
    network_copy = copy.deepcopy(network)
    for module in network_copy.modules():
        if isinstance(module, AdaptiveConv2d):
            module.__class__ = KernelPerFrame
        elif isinstance(module, TAM):
            module.__class__ = GroupedTAM
    return network_copy


def milliseconds(step: Callable[[], object], device: str, seconds: float) -> float:
    """Return the best time of a call; the first two calls are warm-up."""
    best, end, calls = float("inf"), time.perf_counter() + seconds, 0
    while calls < 4 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        calls += 1
        if calls > 2:
            best = min(best, time.perf_counter() - start)
    return 1000 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--csv")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    cases: list[tuple[str, nn.Module, nn.Module, tuple, bool]] = []
    for channels, side in ((64, 56), (256, 14)):
        for name, ours in (
            ("TAdaConv 3x3", TAdaConv2d(channels, channels, 3, padding=1)),
            ("TAdaConvV2 depthwise 7x7", TAdaConv2dV2(channels, channels, 7, padding=3, groups=channels)),
            ("TAM", TAM(channels, 8)),
        ):
            x = torch.randn(2 * 8, channels, side, side).contiguous(memory_format=torch.channels_last)
            cases.append((f"{name} {channels} x {side}^2, 2 clips", ours, literal(ours), (x, 8), True))
    for arch, frames in (("tada2d_r50", 8), ("tanet_r50", 8), ("tadaconvnextv2_tiny", 16), ("tadaformer_b16", 16)):
        network = zoo.create(arch, num_frames=frames, image_size=args.size)
        clip = torch.randn(1, 3, frames, args.size, args.size)
        cases.append((f"{arch} {frames} x {args.size}^2, 1 clip", network, literal(network), (clip,), False))

    rows = []
    for name, ours, theirs, inputs, with_grad in cases:
        inputs = tuple(i.to(args.device) if isinstance(i, Tensor) else i for i in inputs)
        times = {}
        for form, module in (("ours", ours.to(args.device).eval()), ("literal", theirs.to(args.device).eval())):
            x = inputs[0].clone().requires_grad_(with_grad)
            rest = inputs[1:]

            def forward(module: nn.Module = module, x: Tensor = x, rest: tuple = rest) -> Tensor:
                with torch.no_grad():
                    return module(x, *rest)

            def train(module: nn.Module = module, x: Tensor = x, rest: tuple = rest) -> None:
                module.zero_grad()
                module(x, *rest).square().mean().backward()

            times[form] = [milliseconds(step, args.device, args.seconds) for step in (forward, train)]
            times[form + " output"] = forward()
        torch.testing.assert_close(times["ours output"], times["literal output"], rtol=1e-3, atol=1e-3)
        for step_name, a, b in zip(("forward", "forward + backward"), times["ours"], times["literal"], strict=True):
            rows.append([name, step_name, round(a, 2), round(b, 2), round(b / a, 2)])

    hardware = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()} CPU"
    header = ["case", "pass", "ours ms", "literal ms", "times faster"]
    table = Table(*header, title=f"{hardware}, {args.threads} threads, float32, torch {torch.__version__}")
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    main()
