"""Fold batch norms, which are affine in evaluation, into the layers before them.

A forward pass with a small clip shows which layer computes the input of a norm and whether anything else reads it. This
works for every architecture, including image networks whose code is not part of this package. The meta device would
need no arithmetic, but importing its decompositions takes seconds.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from zoo.ops.conv3d import Conv3d
from zoo.ops.conv_unit import AggregationBN
from zoo.ops.inflated import InflatedConv2d, InflatedStandIn
from zoo.ops.stam import STHAConv2d
from zoo.ops.stand_in import OperatorConv2d
from zoo.ops.tadaconv import AdaptiveConv2d, TAdaConv3d, TemporalAverage
from zoo.ops.temporal_filter import TemporalFilter

log = logging.getLogger("zoo")

# Scaling the kernel and the bias of these layers scales their output. A subclass could normalize its kernel, for
# instance, so only the exact classes count.
PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv3d, nn.Linear)
# classes of this package with the same property, including subclasses
TEMPORAL = (AdaptiveConv2d, TAdaConv3d, STHAConv2d, InflatedConv2d, InflatedStandIn, OperatorConv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Trace(TorchFunctionMode):
    """Records the layers and batch norms of a forward pass, and how many operations read the output of a layer.

    Attributes:
        inputs: batch norm -> its inputs, one for each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[nn.Module, list[Tensor]] = {}
        self._outputs: dict[nn.Module, list[Tensor]] = {}
        self._layers: dict[int, nn.Module] = {}  # by the id of their output, which `_outputs` keeps alive
        self._readers: dict[int, int] = {}  # by the id of a tensor

    def store_output(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        """Forward hook of a layer."""
        self._outputs.setdefault(layer, []).append(output)
        self._layers[id(output)] = layer

    def store_input(self, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of a batch norm."""
        self.inputs.setdefault(norm, []).append(args[0])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in tree_leaves(result)):  # not a shape or another attribute
            for tensor in {id(value) for value in tree_leaves((args, kwargs)) if id(value) in self._layers}:
                self._readers[tensor] = self._readers.get(tensor, 0) + 1
        return result

    def layer_before(self, norm: nn.Module) -> nn.Module | None:
        """Return the layer whose output only this norm reads; None if another operation computes or reads it."""
        inputs = self.inputs[norm]
        layer = self._layers.get(id(inputs[0]))
        if layer is None or len(inputs) > 1 or len(self._outputs[layer]) > 1 or self._readers[id(inputs[0])] > 1:
            return None
        if isinstance(layer, nn.Linear) and inputs[0].ndim > 2:  # the norm's channels are not the layer's
            return None
        return layer


def fold_batch_norms(network: nn.Module, *clip_shapes: tuple[int, ...]) -> None:
    """Fold the batch norms of a network in evaluation mode, in place. Other references to its parameters stay valid.

    Norms that cannot be folded stay: without running statistics, after other operations than a convolution or a linear
    layer, or with an input that other operations read as well. If the network accepts none of the shapes, only the
    temporal aggregations are folded.

    Args:
        clip_shapes: shapes of inputs; the first one that the network accepts is used.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, AggregationBN):
                _fold_aggregation(module)
        norms = [module for module in network.modules() if _is_static(module)]
        if not norms:
            return
        pairs = next((pairs for shape in clip_shapes if (pairs := _find_pairs(network, norms, shape)) is not None), {})
        for norm, layer in pairs.items():
            _fold(layer, norm)
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if child in pairs:
                setattr(parent, name, nn.Identity())


def _is_static(module: nn.Module | None) -> bool:
    """Whether a module is a batch norm with running statistics and without hooks, which folding would remove."""
    if type(module) not in NORMS:
        return False
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    return module.running_mean is not None and not module._forward_hooks and not module._forward_pre_hooks


def _is_scalable(module: nn.Module) -> bool:
    if type(module) not in PLAIN and not isinstance(module, TEMPORAL):
        return False
    if isinstance(module, AdaptiveConv2d) and getattr(module.routing, "b_bias", None) is not None:
        return False  # the shift of the norm must not be calibrated
    return not module._forward_pre_hooks  # of weight norm or pruning, which recompute the kernel


def _find_pairs(
    network: nn.Module, norms: list[nn.Module], clip_shape: tuple[int, ...]
) -> dict[nn.Module, nn.Module] | None:
    """Return the norms that can be folded, with the layers before them; None if the network refuses the clip."""
    trace = _Trace()
    layers = [module for module in network.modules() if _is_scalable(module)]
    handles = [layer.register_forward_hook(trace.store_output) for layer in layers]
    handles += [norm.register_forward_pre_hook(trace.store_input) for norm in norms]
    parameter = next(p for p in network.parameters() if p.is_floating_point())
    try:
        with trace:
            network(parameter.new_zeros(clip_shape))
    except Exception as error:  # networks refuse a size with many types of errors
        log.debug("no batch norms are folded with clips %s: %s: %s", clip_shape, type(error).__name__, error)
        return None
    finally:
        for handle in handles:
            handle.remove()
    pairs = {norm: layer for norm in trace.inputs if (layer := trace.layer_before(norm)) is not None}
    return {norm: layer for norm, layer in pairs.items() if list(pairs.values()).count(layer) == 1}


def _fold(layer: Any, norm: Any) -> None:
    layer.weight, layer.bias = _folded(layer.weight, layer.bias, norm)


def _folded(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Return kernel and bias of a layer followed by a norm."""
    return fuse_conv_bn_weights(weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)


def _fold_aggregation(unit: AggregationBN) -> None:
    """Replace the norms and the average of TAda2D by one filter, if the aggregation is that average."""
    static = _is_static(unit.bn) and _is_static(unit.pool_bn)
    if not static or not isinstance(unit.aggregation, TemporalAverage):
        return
    bn: Any = unit.bn
    kernels = bn.running_mean.new_zeros(2, bn.num_features, 1, 3)  # of the identity and of the average
    kernels[0, ..., 1], kernels[1] = 1, 1 / 3
    taps, bias = _folded(kernels[0], None, bn)
    average_taps, average_bias = _folded(kernels[1], None, unit.pool_bn)
    unit.filter = TemporalFilter((taps + average_taps)[:, 0], bias + average_bias)
    unit.bn, unit.aggregation, unit.pool_bn = nn.Identity(), None, None
