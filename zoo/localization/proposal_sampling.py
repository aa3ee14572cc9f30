"""Features of every segment (proposal) of a window, read at equidistant positions by linear interpolation.

A segment is given by its duration index ``d`` and start ``s``: it starts at cell ``s`` and has ``d + 1`` cells. The
features are read around it, from half its length before the start to half its length after the end. The published code
(BMN, arXiv 1907.09702) stores the interpolation weights as a dense matrix of 0.5 GB; more than 99.9 % of its values are
0. Here the matrix is sparse and is computed when it is needed.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

PER_SAMPLE = 3  # positions that are averaged to a sample
MARGIN = 0.5  # of the length of a segment, on both sides


def sampling_weights(length: int, durations: int, samples: int) -> Tensor:
    """Compute the interpolation weights of all segments of a window.

    Positions from -1 to 0 read cell 0, positions further outside of the window read 0, as in the published code.
    Segments that end after the window have no weights.

    Returns:
        Sparse float64 ``(durations * length, samples * length)`` in the COO format, on the CPU. Row ``d * length + s``
        has the weights of a segment; column ``n * length + t`` those of cell ``t`` in sample ``n``.
    """
    count = samples * PER_SAMPLE
    duration = torch.arange(durations, dtype=torch.float64)[:, None, None]
    start = torch.arange(length, dtype=torch.float64)[:, None]
    margin = (duration + 1) * MARGIN
    first, last = start - margin, start + duration + margin
    # The order of these operations determines on which side of -1 a position is after rounding.
    positions = first + (last - first) / max(count - 1, 1) * torch.arange(count)
    lower = positions.trunc()
    fraction = positions - lower
    inside = start + duration < length
    row = (duration * length + start).long().expand_as(positions)
    column = (torch.arange(count) // PER_SAMPLE * length).expand_as(positions)
    parts = []
    for cell, weight in ((lower, 1 - fraction), (positions.ceil(), fraction)):
        used = inside & (cell >= 0) & (cell < length) & (weight != 0)
        parts.append((row[used], column[used] + cell[used].long(), weight[used] / PER_SAMPLE))
    rows, columns, weights = (torch.cat(values) for values in zip(*parts, strict=True))
    shape = (durations * length, samples * length)
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), weights, shape, check_invariants=False).coalesce()


@functools.lru_cache(maxsize=8)
def sampling_matrix(
    length: int, durations: int, samples: int, transposed: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return ``sampling_weights``, or its transpose, in the CSR format on a device."""
    with (
        torch.inference_mode(False),  # the cached matrix is also used in training
        torch.device("cpu"),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        weights = sampling_weights(length, durations, samples).to(dtype)
        matrix = (weights.t().coalesce() if transposed else weights).to_sparse_csr()
        return matrix.to(device)


class SampleProposals(torch.autograd.Function):
    """Product of the sampling matrix and a dense matrix; the gradient uses the transposed sampling matrix."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, length: int, durations: int, samples: int) -> Tensor:
        """``(samples * length, M)`` -> ``(durations * length, M)``."""
        ctx.sizes = (length, durations, samples)
        return sampling_matrix(*ctx.sizes, False, dense.device, dense.dtype) @ dense

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient of the dense matrix."""
        (gradient,) = gradients
        matrix = sampling_matrix(*ctx.sizes, True, gradient.device, gradient.dtype)
        return matrix @ gradient.contiguous(), None, None, None


class ProposalLayer(nn.Module):
    """Sample the features of every segment and combine the samples linearly.

    This equals a product with the dense sampling matrix followed by a convolution over the samples. The weights of the
    convolution are applied to the cells first, which needs a fiftieth of the multiplications and of the memory.

    Args:
        channels: of the features.
        out_channels: of a segment.
        durations: longest segment, in cells.
        samples: positions at which the features of a segment are read.
    """

    def __init__(self, channels: int, out_channels: int, durations: int, samples: int) -> None:
        super().__init__()
        self.durations, self.samples = durations, samples
        convolution = nn.Conv1d(channels, out_channels, samples)  # has the initialization of the published layer
        assert convolution.bias is not None
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, C, T)`` -> ``(B, out_channels, durations, T)``; segments after the window have the bias."""
        batch, _, length = x.shape
        cells = torch.einsum("bct,ocn->ntbo", x, self.weight).flatten(2).flatten(0, 1)
        with torch.autocast(x.device.type, enabled=False):  # sparse products have no low precision
            cells = cells if cells.dtype == torch.float64 else cells.float()
            sampled = SampleProposals.apply(cells, length, self.durations, self.samples)
        maps = sampled.unflatten(1, (batch, -1)).unflatten(0, (self.durations, length)).permute(2, 3, 0, 1)
        return maps + self.bias[:, None, None]
