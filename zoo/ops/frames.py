"""Fold frames into the batch, convolve channels over time, and inflate image kernels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.errors import ConfigError
from zoo.ops.recompute import record_alias


def check_frames(x: Tensor, num_frames: int) -> None:
    """Raise a ConfigError unless the batch consists of complete clips of ``num_frames`` frames."""
    if x.shape[0] % num_frames:
        raise ConfigError(f"a batch of {x.shape[0]} frames cannot be split into clips of num_frames={num_frames}.")


def unfold_frames(x: Tensor, num_frames: int) -> Tensor:
    """``(B*T, C, H, W)`` -> ``(B, C, T, H, W)``, a view."""
    check_frames(x, num_frames)
    return x.unflatten(0, (-1, num_frames)).transpose(1, 2)


def fold_frames(x: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` -> ``(B*T, C, H, W)``."""
    return x.transpose(1, 2).flatten(0, 1)


def spatial_mean(x: Tensor, num_frames: int) -> Tensor:
    """Compute frame descriptors: ``(B*T, C, H, W)`` -> ``(B, C, T)``."""
    check_frames(x, num_frames)
    return x.mean((2, 3)).unflatten(0, (-1, num_frames)).transpose(1, 2)


def with_spatial_mean(x: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Return ``x``, for a single further operation, and its frame descriptors as from ``spatial_mean``.

    The gradient of the descriptors is added to that of the operation in place; autograd would first expand it to the
    size of ``x``. The operation's backward pass must therefore return a new tensor, as that of a convolution does.
    """
    if is_traced() or not (torch.is_grad_enabled() and x.requires_grad):
        return x, spatial_mean(x, num_frames)
    check_frames(x, num_frames)
    alias, mean = _WithSpatialMean.apply(x)
    return record_alias(alias, x), mean.unflatten(0, (-1, num_frames)).transpose(1, 2)


class _WithSpatialMean(torch.autograd.Function):
    """The input itself and its spatial mean."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.pixels = x.shape[2] * x.shape[3]
        return x.view_as(x), x.mean((2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_x: Tensor, to_mean: Tensor) -> Tensor:
        # vectorized if channels are contiguous
        return to_x.add_((to_mean / ctx.pixels).contiguous()[:, :, None, None])


def depthwise_temporal_conv(x: Tensor, kernel: Tensor, num_frames: int) -> Tensor:
    """Convolve every channel with its own kernel over time, with zero padding.

    Args:
        x: ``(B*T, C, H, W)``. kernel: ``(C, 1, K)``, K odd.
    """
    clip = unfold_frames(x, num_frames)
    taps, channels = kernel.shape[2], kernel.shape[0]
    return fold_frames(F.conv3d(clip, kernel[..., None, None], padding=(taps // 2, 0, 0), groups=channels))


def is_traced() -> bool:
    """Whether the caller is being compiled, exported or traced and must use plain, differentiable operations."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


# PyTorch 2.6 cannot tell an export from a compilation, so both use the operations of an export
is_exported = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def compiles_for_cpu(x: Tensor) -> bool:
    """Whether the caller is being compiled or exported for a CPU and must shift frames with ``neighbor_frames``.

    For frames that are shifted by slicing or padding, inductor generates C++ loops with masked strided loads. The SLP
    vectorizer of GCC 12 miscompiles some of them at -O3: results are silently wrong.
    """
    return torch.compiler.is_compiling() and x.device.type == "cpu"


def neighbor_frames(x: Tensor, num_frames: int, offset: int) -> Tensor:
    """Replace every frame of a clip by the frame ``offset`` steps later, with zeros beyond the ends of the clip.

    For compilers: a rotation and a mask become part of the loop that reads the result, and so do their gradients, which
    have the same form. The frames remain folded, so that this loop follows the memory of convolutions, channels last.

    Args:
        x: ``(B*T, C, H, W)``.
    """
    if offset == 0:
        return x
    source = torch.arange(x.shape[0], device=x.device) % num_frames + offset
    inside = (source >= 0) & (source < num_frames)
    return torch.where(inside[:, None, None, None], x.roll(-offset, 0), 0)


def temporal_product(x: Tensor, kernel: Tensor, num_frames: int) -> Tensor:
    """Convolve over time with zero padding, as a sum of ``neighbor_frames``.

    Slower than in-place operations in eager mode; see ``compiles_for_cpu``.

    Args:
        x: ``(B*T, C, H, W)``.
        kernel: ``(B, C, K)``, K odd; B may be 1.
    """
    frames = x.shape[0] // kernel.shape[0]  # that share a kernel
    factors = kernel[:, None].expand(-1, frames, -1, -1).flatten(0, 1)[..., None, None].unbind(2)
    terms = [neighbor_frames(x, num_frames, tap - len(factors) // 2) * factor for tap, factor in enumerate(factors)]
    return sum(terms[1:], start=terms[0])


def inflate(weight: Tensor, frames: int, how: str = "mean") -> Tensor:
    """Inflate a 2D kernel ``(O, I, kh, kw)`` to ``frames`` frames, ``(O, I, frames, kh, kw)``.

    Args:
        how: "mean" distributes it evenly, so that the output for a still clip equals that for the image (I3D, arXiv
            1705.07750); "center" copies it to the middle frame, with zeros elsewhere, so that every frame is
            processed independently.
    """
    if how == "mean":
        return weight.unsqueeze(2).expand(-1, -1, frames, -1, -1) / frames
    if how != "center":
        raise ConfigError(f"how is {how!r}; choose from 'mean' and 'center'.")
    inflated = torch.zeros(*weight.shape[:2], frames, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    inflated[:, :, frames // 2] = weight
    return inflated
