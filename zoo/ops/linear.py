"""Linear layers that run as 1x1 convolutions on CPUs where these are faster.

PyTorch computes matrix products in float32 with Intel's MKL, which uses vectors of 256 bits on processors of other
vendors, and convolutions with oneDNN, which uses 512 bits where the processor has them. There, a convolution takes
half the time of the same matrix product, in both passes. Results differ by rounding.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

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
    if not (MKL_IS_SLOW and convolves_faster(x, weight)):
        return F.linear(x, weight, bias)
    if x.ndim != 4 and torch.compiler.is_compiling():
        return _convolve_rows(x, weight, bias)
    return convolve(x, weight, bias)


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
    y = F.conv2d(_maps(x), weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _maps(x: Tensor) -> Tensor:
    """``(N, ..., C)`` -> ``(N, C, H, W)`` in channels-last format."""
    maps = x if x.ndim == 4 else x.flatten(1, -2).unsqueeze(2)
    return maps.permute(0, 3, 1, 2)


@torch.library.custom_op("tempozoo::linear", mutates_args=())
def _convolve_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``convolve`` as a single operation for compilers, which copy the input of a convolution of rows."""
    return convolve(x, weight, bias)


@_convolve_rows.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


@torch.library.custom_op("tempozoo::linear_gradients", mutates_args=())
def _gradients(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, weight and bias of ``_convolve_rows``."""
    maps, kernel = _maps(x), weight[:, :, None, None]
    to_maps, to_kernel, to_bias = torch.ops.aten.convolution_backward(
        _maps(grad), maps, kernel, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True]
    )
    to_x = to_maps.permute(0, 2, 3, 1).reshape(x.shape).contiguous()
    return to_x, to_kernel.flatten(1).contiguous(), to_bias


@_gradients.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(len(weight))


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    to_x, to_weight, to_bias = _gradients(grad, *ctx.saved_tensors)
    return to_x, to_weight, to_bias if ctx.has_bias else None


_convolve_rows.register_autograd(_backward, setup_context=_save_inputs)
