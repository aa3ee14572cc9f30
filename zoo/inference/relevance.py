"""Relevance of every pixel of a clip for one class, from the feature maps or the attention of a network.

Convolutional networks: HiResCAM (Draelos and Carin 2020, arXiv 2011.08891) of a detailed stage, multiplied with that of
the next stage. Transformers: gradient-weighted attention rollout (Chefer, Gur and Wolf 2021, arXiv 2103.15679, the
rules for self-attention). Both read an unmodified network through hooks and need one backward pass.
docs/explanations.md compares them with alternatives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import ConfigError
from zoo.models.features import as_feature_map
from zoo.models.network import Feature, VideoNetwork

HIRESCAM = "HiResCAM, product of two stages (Draelos and Carin 2020, arXiv 2011.08891)"
ROLLOUT = "gradient-weighted attention rollout (Chefer et al. 2021, arXiv 2103.15679)"
MIN_CELLS = 14  # smallest height and width of a feature map that counts as detailed

Grid = tuple[int, int, int]  # (T, H, W) of patch tokens


@dataclass(frozen=True)
class Trace:
    """A forward pass whose relevance can be computed for any class.

    logits: ``(classes,)``.
    method: name and reference of the method.
    compute: index of a class -> relevance ``(T, H, W)`` of the pixels of the clip, at least 0, not scaled.
    """

    logits: Tensor
    method: str
    compute: Callable[[int], Tensor]


def trace(network: VideoNetwork, clip: Tensor, stages: Sequence[Feature]) -> Trace:
    """Run a network and record the feature maps of some stages, or the attention of a transformer.

    Gradients must be enabled, and autocast disabled.

    Args:
        network: in evaluation mode, float32, without gradient checkpointing. Its parameters need no gradients.
        clip: ``(1, C, T, H, W)``, normalized.
        stages: from ``choose_stages``.

    Raises:
        ConfigError: the logits do not depend on the stages.
    """
    return _trace_features(network, clip, stages) if stages else _trace_attention(network, clip)


def network_name(network: VideoNetwork) -> str:
    """Return the architecture of a network, or its class if it has no spec."""
    return network.spec.arch if network.has_spec else type(network).__name__


def to_pixels(network: VideoNetwork, cells: Tensor, clip_size: Sequence[int]) -> Tensor:
    """Interpolate a map ``(T', H', W')`` linearly to the pixels of a clip.

    Args:
        clip_size: T, H, W of the clip.

    Returns:
        ``(T, H, W)``; its sum is about that of ``cells``.
    """
    frames, height, width = clip_size
    count = len(cells)
    pixels = F.interpolate(cells[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
    if count != frames:
        centers = network.frame_centers(count, frames)
        weights = np.array([np.interp(np.arange(frames), centers, one_hot) for one_hot in np.eye(count)])
        pixels = torch.einsum("ct,chw->thw", torch.from_numpy(weights).to(pixels), pixels)
    return pixels * (cells.numel() / (frames * height * width))


# feature maps ------------------------------------------------------------------------------------------------------


def choose_stages(network: VideoNetwork, size: int) -> list[Feature]:
    """Return the last stage with ``MIN_CELLS`` x ``MIN_CELLS`` positions, or else the first stage, and the next one.

    Args:
        size: height and width of the clip, pixels.

    Returns:
        One or two stages of ``network.feature_info``, without those of a single position; none for transformers, whose
        attention is used instead.

    Raises:
        ConfigError: the network declares no stages, or all maps are smaller than 2 x 2.
    """
    if network.attention_layers is not None:
        return []
    stages = [stage for stage in getattr(network, "feature_info", ()) if size // stage.reduction >= 2]
    if not stages:
        raise ConfigError(
            f"{network_name(network)} cannot be explained: it has no feature map with 2 x 2 positions or more for "
            f"frames of {size} pixels. Explanations work for all networks of `tempozoo list`, and for networks whose "
            "feature_info or attention_layers names the modules to read."
        )
    detailed = [number for number, stage in enumerate(stages) if size // stage.reduction >= MIN_CELLS]
    first = detailed[-1] if detailed else 0
    return stages[first : first + 2]


def _trace_features(network: VideoNetwork, clip: Tensor, stages: Sequence[Feature]) -> Trace:
    """Run a network and record the feature maps of stages, one for each pathway."""
    maps: dict[str, Tensor] = {}  # by module

    def recorder(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def record(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            maps[name] = output if output.requires_grad else output.detach().requires_grad_()
            return maps[name].clone()  # later layers may work in place

        return record

    handles = []
    for name in (name for stage in stages for name in network.stage_modules(stage)):
        module = network.get_submodule(name)
        if isinstance(module, nn.ModuleList):  # is not called itself
            module = module[-1]
        handles.append(module.register_forward_hook(recorder(name)))
    try:
        logits = network(clip)[0]
    finally:
        for handle in handles:
            handle.remove()
    if not logits.requires_grad:
        raise ConfigError(
            f"{network_name(network)} cannot be explained: its logits have no gradient with respect to its stages."
        )

    def compute(index: int) -> Tensor:
        cells = dict(zip(maps, hirescam(list(maps.values()), logits[index]), strict=True))
        product = clip.new_zeros(clip.shape[2:])
        for stage in stages:
            names = network.stage_modules(stage)
            total = torch.stack([to_pixels(network, cells[name], clip.shape[2:]) for name in names]).sum(0).relu()
            total = total / total.max().clamp(min=1e-30)
            if not product.any():
                product = total
            elif (product * total).any():  # otherwise nothing would remain of the detailed stage
                product = product * total
        return product

    return Trace(logits.detach(), HIRESCAM, compute)


def hirescam(maps: Sequence[Tensor], logit: Tensor) -> list[Tensor]:
    """Compute the contribution of every position of feature maps to a logit: activation times gradient, by channel.

    If the logit is a linear function of a map, the contributions of its positions add up to the logit without bias.

    Args:
        maps: outputs of stages for one clip, which the logit depends on; forms as of ``as_feature_map``.

    Returns:
        For each map, ``(T', H', W')``, positive and negative.
    """
    gradients = torch.autograd.grad(logit, maps, retain_graph=True, materialize_grads=True)
    pairs = zip(maps, gradients, strict=True)
    return [as_feature_map(features.detach() * gradient, 1)[0].sum(0) for features, gradient in pairs]


# attention ---------------------------------------------------------------------------------------------------------


@dataclass
class AttentionLayer:
    """The attention of one layer, with class tokens first.

    grid: T, H, W of the patch tokens before pooling, of each item of the batch.
    weights: ``(N, heads, queries, keys)`` after the softmax. Queries and keys may be pooled.
    """

    grid: Grid
    weights: list[Tensor] = field(default_factory=list)


class _AttentionRecorder(TorchFunctionMode):
    """Records the attention weights of layers, whether they call fused attention or a softmax.

    Attributes:
        layers: of the forward pass, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[AttentionLayer] = []
        self._is_inside = False

    def enter_layer(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of an attention layer, whose arguments are tokens and, with pooling, their (T, H, W)."""
        tokens, *rest = args
        side = math.isqrt(tokens.shape[1] - 1)
        grid = tuple(rest[0]) if rest and not isinstance(rest[0], int) else (1, side, side)
        self.layers.append(AttentionLayer(grid))
        self._is_inside = True

    def leave_layer(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Forward hook of an attention layer."""
        self._is_inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._is_inside:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:  # the weights do not exist otherwise
            query, key, value = args
            scale = kwargs.get("scale") or query.shape[-1] ** -0.5
            return self._record((query @ key.transpose(-2, -1) * scale).softmax(-1)) @ value
        result = func(*args, **kwargs)
        return self._record(result) if func is Tensor.softmax else result

    def _record(self, weights: Tensor) -> Tensor:
        if not weights.requires_grad:  # the first layer
            weights = weights.detach().requires_grad_()
        self.layers[-1].weights.append(weights)
        return weights


def _trace_attention(network: VideoNetwork, clip: Tensor) -> Trace:
    """Run a transformer and record the attention of the layers that ``attention_layers`` names."""
    recorder = _AttentionRecorder()
    pattern = re.compile(network.attention_layers or "")
    handles: list[Any] = []
    for name, module in network.named_modules():
        if pattern.fullmatch(name):
            handles.append(module.register_forward_pre_hook(recorder.enter_layer))
            handles.append(module.register_forward_hook(recorder.leave_layer))
    try:
        with recorder:
            logits = network(clip)[0]
    finally:
        for handle in handles:
            handle.remove()

    def compute(index: int) -> Tensor:
        cells = rollout(recorder.layers, logits[index])
        return to_pixels(network, cells, clip.shape[2:])

    return Trace(logits.detach(), ROLLOUT, compute)


def rollout(layers: Sequence[AttentionLayer], logit: Tensor) -> Tensor:
    """Compute the relevance of the patch tokens for a logit that is read from the class tokens.

    ``R = (1 + A_L) ... (1 + A_1)`` with ``A = mean over heads of max(attention * gradient, 0)``. Only the rows of class
    tokens are computed, from the last layer to the first. The relevance of pooled tokens is divided among the tokens
    that were pooled.

    Returns:
        ``(T', H', W')``; the frames of tokens in the batch are concatenated.
    """
    weights = [layer.weights[-1] for layer in layers]
    gradients = torch.autograd.grad(logit, weights, retain_graph=True, materialize_grads=True)
    row = torch.zeros_like(weights[-1][:, 0, :, 0])  # (N, queries)
    row[:, 0] = 1
    for layer, attention, gradient in zip(reversed(layers), reversed(weights), reversed(gradients), strict=True):
        step = (attention.detach() * gradient).relu().mean(1)  # (N, queries, keys)
        row = _unpool(row, layer.grid) + _unpool(torch.einsum("nq,nqk->nk", row, step), layer.grid)
    return row[:, 1:].unflatten(1, layers[0].grid).flatten(0, 1)


def _unpool(row: Tensor, grid: Grid) -> Tensor:
    """Divide the relevance ``(N, 1 + pooled)`` among the tokens of a grid: ``(N, 1 + T*H*W)``."""
    missing = math.prod(grid) + 1 - row.shape[1]
    if not missing:
        return row
    if row.shape[1] == 1:  # the last layer of a network that computes only its class token
        return F.pad(row, (0, missing))
    frames, height, width = grid
    side = math.isqrt((row.shape[1] - 1) // frames)
    pooled = row[:, 1:].unflatten(1, (frames, side, side))
    tokens = F.interpolate(pooled, (height, width), mode="nearest") * (side * side / (height * width))
    return torch.cat([row[:, :1], tokens.flatten(1)], dim=1)
