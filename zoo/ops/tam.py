"""TAM, the temporal adaptive module: a location-sensitive gate and a clip-adaptive temporal kernel.

Source: "TAM: Temporal Adaptive Module for Video Recognition", ICCV 2021, arXiv 2005.06803, section 3:
``Y = G(X) (*) (L(X) . X)``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.errors import ConfigError, check_counts, check_odd
from zoo.ops.frames import compiles_for_cpu, temporal_product, with_spatial_mean
from zoo.ops.operator import POSITIONS, BlockModules, BlockPosition, Operator, register_operator
from zoo.ops.recompute import load, save
from zoo.ops.stand_in import insert_before

BRANCHES = ("both", "global", "local", "global_se")
ORDERS = ("local_first", "global_first")


class TAM(nn.Module):
    """Temporal adaptive module on folded frames.

    Args:
        channels: C of the input.
        num_frames: T. The global branch has a layer of this size, so another T requires other weights.
        kernel_size: K, taps of the temporal kernel, odd.
        alpha: width of the global branch's hidden layer divided by T.
        beta: channel reduction of the local branch.
        branches: "both", "global" (kernel only), "local" (gate only), or "global_se" (instead of
            the local gate, a squeeze-and-excitation gate for the entire clip).
        order: "local_first" as in TANet, or "global_first", ``L(X) . (G(X) (*) X)``, as in TANet-R.
        hidden: width of the global branch's hidden layer; default: ``alpha * num_frames``. A network that was adapted
            to another number of frames keeps its trained hidden units.
    """

    def __init__(
        self,
        channels: int,
        num_frames: int,
        kernel_size: int = 3,
        alpha: int = 2,
        beta: int = 4,
        branches: str = "both",
        order: str = "local_first",
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        check_odd("TAM's kernel_size", kernel_size)
        for option, value, choices in (("branches", branches, BRANCHES), ("order", order, ORDERS)):
            if value not in choices:
                raise ConfigError(f"TAM's {option} is {value!r}; choose from {', '.join(choices)}.")
        check_counts(num_frames=num_frames, alpha=alpha, beta=beta, hidden=hidden or 1)
        self.num_frames, self.kernel_size, self.local_first = num_frames, kernel_size, order == "local_first"
        self.G = self.L = None
        if branches != "local":
            hidden = hidden or alpha * num_frames
            self.G = nn.Sequential(
                nn.Linear(num_frames, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
                nn.Linear(hidden, kernel_size, bias=False),
                nn.Softmax(-1),
            )
        if branches != "global":
            # squeeze-and-excitation has the same two layers, applied to the descriptor of the clip
            taps, reduced = (3 if branches != "global_se" else 1), max(channels // beta, 1)
            self.L = nn.Sequential(
                nn.Conv1d(channels, reduced, taps, padding=taps // 2, bias=False),
                nn.BatchNorm1d(reduced),
                nn.ReLU(inplace=True),
                nn.Conv1d(reduced, channels, 1, bias=False),
                nn.Sigmoid(),
            )
        self.whole_clip = branches == "global_se"

    def forward(self, x: Tensor, num_frames: int | None = None) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape. The input of both branches is the spatial mean of ``x``."""
        frames = num_frames or self.num_frames
        if self.G is not None and (frames != self.num_frames or x.shape[0] % frames):
            raise ConfigError(
                f"this TAM was built for {self.num_frames} frames and got {num_frames or x.shape[0]}; build or load it "
                "with that num_frames."
            )
        x, descriptor = with_spatial_mean(x, frames)  # (B, C, T)
        gate = torch.ones_like(descriptor)  # (B, C, T)
        if self.L is not None:
            gate = self.L(descriptor.mean(2, keepdim=True) if self.whole_clip else descriptor).expand_as(descriptor)
        if self.G is None:
            return x * gate.transpose(1, 2).flatten(0, 1)[:, :, None, None]
        kernel = self.G(descriptor.flatten(0, 1)).unflatten(0, descriptor.shape[:2])  # (B, C, K)
        return adaptive_temporal_conv(x, gate, kernel, self.local_first)

    def frame_sized_keys(self) -> tuple[str, ...]:
        """Key of the layer with T inputs, if there is a global branch."""
        return () if self.G is None else ("G.0.weight",)

    def resample(self, weight: Tensor) -> Tensor:
        """Adapt the weight of that layer, trained with another number of frames, to this module."""
        return resample_frames(weight, self.num_frames)

    def options_for_frames(self) -> dict[str, Any]:
        """The hidden width, which does not change with the number of frames."""
        return {} if self.G is None else {"hidden": self.G[0].out_features}

    def extra_macs(self, x: Tensor, num_frames: int | None = None) -> int:
        """Multiply-accumulates of the element-wise temporal kernel: K for every value."""
        return 0 if self.G is None else self.kernel_size * x.numel()


def adaptive_temporal_conv(x: Tensor, gate: Tensor, kernel: Tensor, local_first: bool = True) -> Tensor:
    """``y_t = sum_k kernel_k gate_{t+k-K//2} x_{t+k-K//2}`` for each clip and channel, with zero padding.

    With ``local_first=False`` the gate is applied to the output: ``y_t = gate_t sum_k kernel_k x_{t+k-K//2}``.

    Computed as K shifted multiply-adds, each with one fused coefficient per (clip, frame, channel); if compiled for a
    CPU, as matrix products.

    Args:
        x: ``(B*T, C, H, W)``. gate: ``(B, C, T)``. kernel: ``(B, C, K)``.
    """
    taps = kernel.shape[2]
    if compiles_for_cpu(x):
        scale = gate.transpose(1, 2).flatten(0, 1)[..., None, None]  # (B*T, C, 1, 1)
        num_frames = gate.shape[2]
        if local_first:
            return temporal_product(x * scale, kernel, num_frames)
        return temporal_product(x, kernel, num_frames) * scale
    if local_first:
        gates = F.pad(gate, (taps // 2, taps // 2)).unfold(2, taps, 1)  # (B, C, T, K)
    else:
        gates = gate.unsqueeze(3)
    # coefficient[k, b, t, c, 0, 0] multiplies x_{t+k-K//2} in y_t; products are vectorized if channels are contiguous
    coefficient = (gates * kernel.unsqueeze(2)).permute(3, 0, 2, 1).contiguous()[..., None, None]
    if torch.is_grad_enabled() and (x.requires_grad or coefficient.requires_grad):
        return _ShiftedSum.apply(x, coefficient)
    return _shifted_sum(x, coefficient)


def _overlaps(frames: Tensor, taps: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield each tap with the frames t of the output and the frames t + tap - taps // 2 that it reads.

    The taps of a frame follow each other, the middle one first. On a CPU, frames are processed one by one, because
    those of all taps then remain in the cache.
    """
    count = frames.shape[1]
    step = 1 if frames.device.type == "cpu" else count
    for first in range(0, count, step):
        for tap in sorted(range(taps), key=lambda tap: abs(tap - taps // 2)):
            offset = tap - taps // 2
            start, stop = max(first, -offset), min(first + step, count, count - offset)
            if start < stop:
                yield tap, slice(start, stop), slice(start + offset, stop + offset)


def _shifted_sum(x: Tensor, coefficient: Tensor) -> Tensor:
    taps = len(coefficient)
    y = torch.empty_like(x, dtype=torch.result_type(x, coefficient))
    frames, sums = (v.unflatten(0, coefficient.shape[1:3]) for v in (x, y))
    for tap, output, source in _overlaps(frames, taps):
        if tap == taps // 2:
            torch.mul(frames[:, source], coefficient[tap, :, output], out=sums[:, output])
        else:
            sums[:, output].addcmul_(frames[:, source], coefficient[tap, :, output])
    return y


class _ShiftedSum(torch.autograd.Function):
    """``_shifted_sum`` with a manual backward pass: autograd copies the clip for each in-place write to a slice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: Tensor) -> Tensor:
        save(ctx, x, coefficient)
        return _shifted_sum(x, coefficient)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, coefficient = load(ctx)
        frames, grad = (v.unflatten(0, coefficient.shape[1:3]) for v in (x, grad))
        taps = len(coefficient)
        to_frames, to_coefficient = torch.empty_like(grad), torch.zeros_like(coefficient)
        for tap, output, source in _overlaps(frames, taps):
            product = grad[:, output] * frames[:, source]
            to_coefficient[tap, :, output] = product.sum((3, 4), keepdim=True)
            # the gradient of frame `output` is read through the mirrored tap
            mirrored = coefficient[taps - 1 - tap, :, source]
            if tap == taps // 2:
                torch.mul(grad[:, source], mirrored, out=to_frames[:, output])
            else:
                to_frames[:, output].addcmul_(grad[:, source], mirrored)
        return to_frames.flatten(0, 1).to(x.dtype), to_coefficient


def resample_frames(weight: Tensor, num_frames: int) -> Tensor:
    """Resample the weight of a layer with T inputs, ``(hidden, T)``, to another T.

    Each weight is distributed over the time interval of its frame. Therefore the sum of weights of every hidden unit is
    preserved, and repeating each frame of a clip does not change the output.
    """
    old = weight.shape[1]
    edges_old = torch.arange(old + 1, dtype=torch.float64) / old
    edges_new = torch.arange(num_frames + 1, dtype=torch.float64) / num_frames
    overlap = torch.minimum(edges_old[None, 1:], edges_new[1:, None])
    overlap = overlap - torch.maximum(edges_old[None, :-1], edges_new[:-1, None])
    return (weight.double() @ (overlap.clamp(min=0) * old).T.to(weight.device)).to(weight.dtype)


STYLES = dict(zip("abcd", POSITIONS, strict=True))  # positions of TAM in a block, as named in the TANet paper


def _block(position: BlockPosition, style: str = "b", **options: Any) -> BlockModules:
    if style not in STYLES:
        raise ConfigError(
            f"style is {style!r}; choose from a (before conv1), b, c and d (after conv1, conv2 and conv3)."
        )
    return BlockModules(temporal=lambda channels: TAM(channels, position.num_frames, **options), position=STYLES[style])


register_operator(Operator("tam", block=_block, stand_in=functools.partial(insert_before, TAM), classifier_std=0.001))
