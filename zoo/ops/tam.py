"""TAM, the temporal adaptive module: a location-sensitive gate and a clip-adaptive temporal kernel.

Source: "TAM: Temporal Adaptive Module for Video Recognition", ICCV 2021, arXiv 2005.06803, section 3:
``Y = G(X) (*) (L(X) . X)``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.errors import ConfigError
from zoo.ops.tadaconv import spatial_mean


class TAM(nn.Module):
    """Temporal adaptive module on folded frames.

    Args:
        channels: C of the input.
        num_frames: T. The global branch's layers have this size, so another T needs other weights.
        kernel_size: K, taps of the temporal kernel, odd.
        alpha: width of the global branch's hidden layer, in units of T.
        beta: channel reduction of the local branch.
        hidden: width of the global branch's hidden layer, where it is not ``alpha * num_frames``: a network whose
            frame count was changed keeps the hidden units it was trained with.
    """

    def __init__(
        self,
        channels: int,
        num_frames: int,
        kernel_size: int = 3,
        alpha: int = 2,
        beta: int = 4,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ConfigError(f"TAM's kernel_size is {kernel_size}; it must be odd so that frames keep their place.")
        self.num_frames, self.kernel_size = num_frames, kernel_size
        hidden = hidden or alpha * num_frames
        reduced = max(channels // beta, 1)
        self.G = nn.Sequential(
            nn.Linear(num_frames, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, kernel_size, bias=False),
            nn.Softmax(-1),
        )
        self.L = nn.Sequential(
            nn.Conv1d(channels, reduced, 3, padding=1, bias=False),
            nn.BatchNorm1d(reduced),
            nn.ReLU(inplace=True),
            nn.Conv1d(reduced, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, num_frames: int | None = None) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape. Both branches read the pooled map of the ungated input."""
        if num_frames not in (None, self.num_frames) or x.shape[0] % self.num_frames:
            raise ConfigError(
                f"this TAM was built for {self.num_frames} frames and got {num_frames or x.shape[0]}; its layers have "
                f"that size: load the network with num_frames={num_frames} (the layers are then interpolated)."
            )
        descriptor = spatial_mean(x, self.num_frames)  # (B, C, T)
        kernel = self.G(descriptor.flatten(0, 1)).unflatten(0, descriptor.shape[:2])  # (B, C, K)
        gate = self.L(descriptor)  # (B, C, T)
        return adaptive_temporal_conv(x, gate, kernel)


def adaptive_temporal_conv(x: Tensor, gate: Tensor, kernel: Tensor) -> Tensor:
    """``y_t = sum_k kernel_k gate_{t+k-K//2} x_{t+k-K//2}`` per clip and channel, zeros beyond the ends.

    Computed as K shifted multiply-adds, each with one fused coefficient per (clip, frame, channel).

    Args:
        x: ``(B*T, C, H, W)``. gate: ``(B, C, T)``. kernel: ``(B, C, K)``.
    """
    taps = kernel.shape[2]
    gates = F.pad(gate, (taps // 2, taps // 2)).unfold(2, taps, 1)  # (B, C, T, K)
    # coefficient[b, t, c, 0, 0, k] multiplies x_{t+k-K//2} in y_t
    coefficient = (gates * kernel.unsqueeze(2)).transpose(1, 2)[:, :, :, None, None]
    frames = x.unflatten(0, (gate.shape[0], gate.shape[2]))  # (B, T, C, H, W)
    if torch.is_grad_enabled() and (frames.requires_grad or coefficient.requires_grad):
        return _ShiftedSum.apply(frames, coefficient).flatten(0, 1)
    return _shifted_sum(frames, coefficient).flatten(0, 1)


def _shifted_sum(frames: Tensor, coefficient: Tensor) -> Tensor:
    middle = coefficient.shape[-1] // 2
    y = frames * coefficient[..., middle]
    for shift in range(1, middle + 1):
        y[:, shift:].addcmul_(frames[:, :-shift], coefficient[:, shift:, ..., middle - shift])
        y[:, :-shift].addcmul_(frames[:, shift:], coefficient[:, :-shift, ..., middle + shift])
    return y


class _ShiftedSum(torch.autograd.Function):
    """``_shifted_sum`` with its gradients by hand: autograd copies the whole clip for each slice written in place."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, coefficient: Tensor) -> Tensor:
        ctx.save_for_backward(frames, coefficient)
        return _shifted_sum(frames, coefficient)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        frames, coefficient = ctx.saved_tensors
        middle = coefficient.shape[-1] // 2
        to_frames = grad * coefficient[..., middle]
        to_coefficient = torch.zeros_like(coefficient)
        to_coefficient[..., middle] = (grad * frames).sum((3, 4), keepdim=True)
        for shift in range(1, middle + 1):
            earlier, later = coefficient[:, shift:, ..., middle - shift], coefficient[:, :-shift, ..., middle + shift]
            to_frames[:, :-shift].addcmul_(grad[:, shift:], earlier)
            to_frames[:, shift:].addcmul_(grad[:, :-shift], later)
            to_coefficient[:, shift:, ..., middle - shift] = (grad[:, shift:] * frames[:, :-shift]).sum((3, 4), True)
            to_coefficient[:, :-shift, ..., middle + shift] = (grad[:, :-shift] * frames[:, shift:]).sum((3, 4), True)
        return to_frames, to_coefficient


def resample_frames(weight: Tensor, num_frames: int) -> Tensor:
    """Adapt a layer that reads T frame descriptors, ``(hidden, T)``, to another T.

    Each weight is spread over the stretch of time its frame stood for, so the weights of every hidden unit keep
    their sum, and a clip whose frames are each shown twice gives what the clip itself gave.
    """
    old = weight.shape[1]
    edges_old = torch.arange(old + 1, dtype=torch.float64) / old
    edges_new = torch.arange(num_frames + 1, dtype=torch.float64) / num_frames
    overlap = torch.minimum(edges_old[None, 1:], edges_new[1:, None])
    overlap = overlap - torch.maximum(edges_old[None, :-1], edges_new[:-1, None])
    return (weight.double() @ (overlap.clamp(min=0) * old).T.to(weight.device)).to(weight.dtype)
