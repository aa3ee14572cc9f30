"""What the temporal operators of a network did with a clip: calibrations, temporal kernels, gates and mixtures."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zoo.ops.stam import FilterMixture
from zoo.ops.tadaconv import AdaptiveConv2d, TAdaConv3d
from zoo.ops.tadaconv_v2 import RouteTransformer
from zoo.ops.tam import TAM

OFFSET = "frame offset of the tap"  # name of columns that count from the middle one


class OperatorView(NamedTuple):
    """A table of values of an operator.

    title: what the values are.
    values: float32, two-dimensional.
    axes: names of the rows and of the columns. Layers are in the order of the forward pass. Rows and columns are
        numbered from 1; columns named ``OFFSET`` from the middle one, which is 0.
    """

    title: str
    values: np.ndarray
    axes: tuple[str, str]


class OperatorRecorder:
    """Collects a row for each layer while a network runs."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[Tensor]] = defaultdict(list)  # by title and name of the columns

    def add(self, title: str, columns: str, row: Tensor) -> None:
        """Add the row of a layer."""
        self._rows[title, columns].append(row.detach().float().cpu())

    def views(self) -> list[OperatorView]:
        """Return a view for each title; layers with other numbers of frames have their own."""
        result = []
        for (title, columns), rows in self._rows.items():
            sizes = sorted({len(row) for row in rows}, reverse=True)
            for size in sizes:
                values = torch.stack([row for row in rows if len(row) == size]).numpy()
                suffix = f", layers with {size} frames" if len(sizes) > 1 else ""
                result.append(OperatorView(title + suffix, values, ("layer", columns)))
        return result


@contextlib.contextmanager
def record_operators(network: nn.Module) -> Iterator[OperatorRecorder]:
    """Record the operators of a network that processes one clip within the context."""
    recorder = OperatorRecorder()
    handles: list[Any] = []
    for module in network.modules():
        for part, hook in _hooks(module):

            def record(
                _module: nn.Module, _args: Any, output: Any, hook: Callable[[OperatorRecorder, Any], None] = hook
            ) -> None:
                hook(recorder, output)

            handles.append(part.register_forward_hook(record))
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _hooks(module: nn.Module) -> Iterator[tuple[nn.Module, Callable[[OperatorRecorder, Any], None]]]:
    """Yield the parts of an operator whose outputs are recorded."""
    if isinstance(module, (AdaptiveConv2d, TAdaConv3d)):
        routing = module.routing
        yield routing, _record_relative if _has_no_neutral_value(routing) else _record_calibration
    elif isinstance(module, TAM):
        if module.G is not None:
            yield module.G, _record_kernel
        if module.L is not None:
            yield module.L, _record_gate
    elif isinstance(module, FilterMixture):
        yield module, _record_taps
        yield module.mix, _record_mixture


def _has_no_neutral_value(routing: nn.Module) -> bool:
    """Whether alpha is the output of the last layer, as in TAdaFormer, instead of one plus this output."""
    return isinstance(routing, RouteTransformer) and not routing.zero_init


def _record_calibration(recorder: OperatorRecorder, output: Any) -> None:
    alpha = output[0]  # (1, C, T)
    recorder.add("TAdaConv: mean |alpha - 1| over channels", "frame", (alpha[0] - 1).abs().mean(0))


def _record_relative(recorder: OperatorRecorder, output: Any) -> None:
    alpha = output[0][0]  # (C, T)
    deviation = (alpha - alpha.mean(1, keepdim=True)).abs().mean(0)
    recorder.add("TAdaConv: mean |alpha - its mean over frames| over channels", "frame", deviation)


def _record_kernel(recorder: OperatorRecorder, kernel: Tensor) -> None:
    recorder.add("TAM: temporal kernel, mean over channels", OFFSET, kernel.mean(0))  # (C, K)


def _record_gate(recorder: OperatorRecorder, gate: Tensor) -> None:
    recorder.add("TAM: local gate, mean over channels", "frame", gate[0].mean(0))  # (1, C, T)


def _record_taps(recorder: OperatorRecorder, calibration: Tensor) -> None:
    recorder.add("STAM: mean |A - 1| over channels and taps", "frame", (calibration - 1).abs().mean((1, 2, 3)))


def _record_mixture(recorder: OperatorRecorder, logits: Tensor) -> None:
    weights = logits.softmax(1)  # (T, N)
    recorder.add("STAM: weight of each filter, mean over frames", "filter", weights.mean(0))
    spread = (weights - weights.mean(0)).abs().mean(1)
    recorder.add("STAM: mean |weight - its mean over frames| over filters", "frame", spread)
