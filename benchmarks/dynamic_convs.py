"""Compare the costs of adaptive convolutions that calibrate one kernel and of those that mix several.

    python benchmarks/dynamic_convs.py [--frames 8] [--size 224] [--csv FILE]

Prints the parameters and multiply-accumulates that each operator adds to the same ResNet-50 (C2D, no max-pool after the
stem), in which it replaces or follows the sixteen 3x3 convolutions. ``zoo.profile`` counts layers, matrix products, the
mixing of kernels, and the elementwise operations of TAM and STAM. Scaling by one factor per channel is not counted.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import zoo


class MixedConv2d(nn.Module):
    """A convolution whose kernel is a mixture of K kernels, different for every image; same arguments as ``nn.Conv2d``.

    A subclass defines ``mixture``, images ``(N, C_in, H, W)`` -> weights ``(N, K)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        kernels: int = 4,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.kernels = stride, padding, kernels
        self.weight = nn.Parameter(torch.empty(kernels, out_channels, in_channels, kernel_size, kernel_size))
        for weight in self.weight:
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")

    def mixture(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def convolve(self, x: Tensor, mixture: Tensor, taps: Tensor | None = None) -> Tensor:
        """Convolve image n with ``sum_k mixture[n, k] weight[k]``, its taps scaled by ``taps[n]``, ``(kh, kw)``."""
        kernels = (mixture @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])  # (N, O, I, kh, kw)
        if taps is not None:
            kernels = kernels * taps[:, None, None]
        rows = x.reshape(1, -1, *x.shape[2:])
        y = F.conv2d(rows, kernels.flatten(0, 1), None, self.stride, self.padding, groups=len(x))
        return y.unflatten(1, (len(x), -1))[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.mixture(x))


class CondConv2d(MixedConv2d):
    """CondConv (arXiv 1904.04971, section 3): kernel weights are sigmoids of a linear layer on the pooled image."""

    def __init__(self, in_channels: int, *args: Any, **options: Any) -> None:
        super().__init__(in_channels, *args, **options)
        self.route = nn.Linear(in_channels, self.kernels)

    def mixture(self, x: Tensor) -> Tensor:
        return self.route(x.mean((2, 3))).sigmoid()


class DyConv2d(MixedConv2d):
    """Dynamic convolution (arXiv 1912.03458, section 3): kernel weights are a softmax of two linear layers.

    Args:
        reduction: ratio of input to hidden channels.
        temperature: of the softmax; the paper starts training at 30 and ends at 1.
    """

    def __init__(
        self, in_channels: int, *args: Any, reduction: int = 4, temperature: float = 30.0, **options: Any
    ) -> None:
        super().__init__(in_channels, *args, **options)
        self.temperature = temperature
        hidden = max(in_channels // reduction, 1)
        self.route = nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, self.kernels))

    def mixture(self, x: Tensor) -> Tensor:
        return (self.route(x.mean((2, 3))) / self.temperature).softmax(1)


class ODConv2d(MixedConv2d):
    """Omni-dimensional dynamic convolution (arXiv 2209.07947, section 3.2): attention to four dimensions of the kernel.

    Input channels, output channels and taps are scaled by sigmoids, the same for all kernels, and a softmax weighs the
    kernels. Channels are scaled on the input and the output, which is the same as on the kernel.

    Args:
        reduction: ratio of input to hidden channels; at least 16 channels are hidden.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *args: Any, reduction: int = 16, **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **options)
        hidden = max(in_channels // reduction, 16)
        self.squeeze = nn.Sequential(nn.Linear(in_channels, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())
        self.to_inputs = nn.Linear(hidden, in_channels)
        self.to_outputs = nn.Linear(hidden, out_channels)
        self.to_taps = nn.Linear(hidden, kernel_size**2)
        self.to_kernels = nn.Linear(hidden, self.kernels)

    def forward(self, x: Tensor) -> Tensor:
        z = self.squeeze(x.mean((2, 3)))
        taps = self.to_taps(z).sigmoid().unflatten(1, self.weight.shape[3:])
        x = x * self.to_inputs(z).sigmoid()[:, :, None, None]
        y = self.convolve(x, self.to_kernels(z).softmax(1), taps)
        return y * self.to_outputs(z).sigmoid()[:, :, None, None]

    def extra_macs(self, x: Tensor) -> int:
        """Count the scaling of every frame's kernel by tap."""
        return len(x) * self.weight[0].numel()


DYNAMIC: dict[str, Callable[..., MixedConv2d]] = {"CondConv": CondConv2d, "DyConv": DyConv2d, "ODConv": ODConv2d}


def with_dynamic_convs(conv: Callable[..., MixedConv2d], num_frames: int = 8, **options: Any) -> nn.Module:
    """Build a video ResNet-50 without stem pool whose 3x3 convolutions are replaced: one kernel per frame."""
    network = zoo.create("c2d_r50", num_frames=num_frames, stem_pool=False)
    for block in network.modules():
        if hasattr(block, "conv2"):
            old = block.conv2.conv
            block.conv2.conv = conv(old.in_channels, old.out_channels, 3, old.stride[0], old.padding[0], **options)
    return network


def added_costs(num_frames: int = 8, size: int = 224, kernels: int = 4) -> dict[str, tuple[int, int]]:
    """Return the parameters and multiply-accumulates that each operator adds to the forward pass of one clip."""
    shape = (num_frames, size, size)
    with torch.device("meta"):
        networks = {
            name: zoo.create(arch, num_frames=num_frames, stem_pool=False)
            for name, arch in {"": "c2d_r50", "TAdaConv": "tada2d_r50", "TAM": "tanet_r50", "STAM": "stam_r50"}.items()
        }
        for name, conv in DYNAMIC.items():
            networks[f"{name} x{kernels}"] = with_dynamic_convs(conv, num_frames, kernels=kernels)
    host, *others = [zoo.profile(network, shape) for network in networks.values()]
    return {
        name: (other.params - host.params, other.macs - host.macs)
        for name, other in zip(list(networks)[1:], others, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--csv")
    args = parser.parse_args()
    header = ["operator", "parameters added, M", "GMACs added"]
    rows = [
        [name, f"{params / 1e6:.3f}", f"{macs / 1e9:.3f}"]
        for name, (params, macs) in added_costs(args.frames, args.size).items()
    ]
    table = Table(*header, title=f"added to a ResNet-50, one clip of {args.frames} x {args.size} x {args.size}")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    main()
