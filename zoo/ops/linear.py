"""Linear layers that run as 1x1 convolutions on CPUs where these are faster.

PyTorch computes matrix products in float32 with Intel's MKL, which uses vectors of 256 bits on processors of other
vendors, and convolutions with oneDNN, which uses 512 bits where the processor has them. There, a convolution takes
half the time of the same matrix product, in both passes. Results differ by rounding.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.ops.frames import is_exported


def mkl_is_slow() -> bool:
    """Whether MKL uses half of the vector width of this machine's processor."""
    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        with Path("/proc/cpuinfo").open() as file:
            processor = file.read(200)  # starts with the vendor
    except OSError:
        processor = platform.processor()  # ends with the vendor on Windows
    return "AuthenticAMD" in processor


MKL_IS_SLOW = mkl_is_slow()


class Linear(nn.Linear):
    """``nn.Linear`` that computes with ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C_in)`` -> ``(..., C_out)``."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.linear``: ``(..., C_in)`` -> ``(..., C_out)``."""
    if MKL_IS_SLOW and convolves_faster(x, weight):
        return convolve(x, weight, bias)
    return F.linear(x, weight, bias)


def convolves_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution uses oneDNN and a matrix product MKL. bfloat16 uses oneDNN in both."""
    return (
        x.ndim > 2
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not (is_exported() or torch.jit.is_tracing())  # exported files contain matrix products
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``F.linear`` as a 1x1 convolution of a channels-last map.

    Args:
        x: maps ``(N, H, W, C_in)``, or other rows, ``(N, ..., C_in)``, which become a map of one column.
    """
    maps = x if x.ndim == 4 else x.flatten(1, -2).unsqueeze(2)
    y = F.conv2d(maps.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))
