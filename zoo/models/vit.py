"""TAdaFormer: CLIP's vision transformer with a temporally adaptive depthwise convolution before every attention layer.

Sources: arXiv 2308.05787, section 4; the host, arXiv 2103.00020. The stem turns every two frames into one temporal
token. Each temporal token has its own class token, and attention is computed within it, so only the TAda blocks mix
information across time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.errors import ConfigError, check_counts, check_num_classes, check_rate
from zoo.models.lora import effective_weight
from zoo.models.network import DropPath, Feature, VideoNetwork, linear_classifier
from zoo.ops import TAdaAggregation, TAdaConv2dV2
from zoo.ops.activation import quick_gelu
from zoo.ops.conv3d import Conv3d
from zoo.ops.frames import compiles_for_cpu, is_traced
from zoo.ops.linear import Linear, linear


class TemporalLinear(nn.Module):
    """A linear layer over each frame and its two neighbors: a 3 x 1 x 1 convolution on tokens."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, 3))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, L, C_in)`` -> ``(B*T, L, C_out)``; zero padding in time."""
        if compiles_for_cpu(x):
            tokens = x.unflatten(0, (-1, num_frames)).permute(0, 2, 3, 1).flatten(0, 1)  # (B*L, C_in, T)
            y = F.conv1d(tokens, self.weight, self.bias, padding=1)
            return y.unflatten(0, (-1, x.shape[1])).permute(0, 3, 1, 2).flatten(0, 1)
        # one matrix product for the three taps, then shifts of the outputs, which are narrower than the inputs
        taps = linear(x, self.weight.permute(2, 0, 1).flatten(0, 1)).unflatten(0, (-1, num_frames))
        previous, current, following = taps.chunk(3, dim=-1)  # (B, T, L, C_out)
        y = current + self.bias
        y = y + F.pad(previous[:, :-1], (0, 0, 0, 0, 1, 0)) + F.pad(following[:, 1:], (0, 0, 0, 0, 0, 1))
        return y.flatten(0, 1)


class TAdaBlock(nn.Module):
    """Half-width projection, depthwise TAdaConv 3x3, temporal aggregation, QuickGELU, zero-initialized projection.

    Args:
        temporal_projection: the first projection spans three frames, as in the Something-Something networks.
    """

    def __init__(self, channels: int, temporal_projection: bool) -> None:
        super().__init__()
        inner = channels // 2
        self.pre: nn.Module = TemporalLinear(channels, inner) if temporal_projection else Linear(channels, inner)
        # not zero-initialized: alpha is the output of the routing function, without the usual addition of one
        self.conv = TAdaConv2dV2(inner, inner, 3, padding=1, groups=inner, zero_init=False)
        self.aggregation = TAdaAggregation(inner)
        self.proj = Linear(inner, channels)
        for module in (self.pre, self.conv):
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, num_frames: int, grid: int) -> Tensor:
        """Tokens ``(B*T, 1 + grid * grid, C)`` -> output for the patch tokens, ``(B*T, grid * grid, C)``."""
        # the class token is projected too: to select the patch tokens, which costs a copy, is cheaper afterwards
        y = self.pre(x, num_frames) if isinstance(self.pre, TemporalLinear) else self.pre(x)
        y = y[:, 1:].transpose(1, 2).unflatten(2, (grid, grid))  # (B*T, C / 2, grid, grid), channels last
        y = quick_gelu(self.aggregation(self.conv(y, num_frames), num_frames))
        return self.proj(y.flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Multi-head self-attention within a temporal token."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)

    def forward(self, x: Tensor, queries: int) -> Tensor:
        """``(N, L, C)`` -> ``(N, queries, C)``: the attention of the first ``queries`` tokens to all."""
        channels = x.shape[2]
        if queries == x.shape[1]:
            q, k, v = self.qkv(x).chunk(3, dim=2)
        else:
            weight, bias = effective_weight(self.qkv), self.qkv.bias
            q = linear(x[:, :queries], weight[:channels], bias[:channels])
            k, v = linear(x, weight[channels:], bias[channels:]).chunk(2, dim=2)
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TAdaFormerBlock(nn.Module):
    """``x += TAda(patches)``; ``x += attention(LN x)``; (``x += TAda2(patches)``;) ``x += MLP(LN x)``.

    Drop path drops each branch independently with the same probability, as in the official code.
    """

    def __init__(
        self, channels: int, heads: int, temporal_projection: bool, double_tada: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.tada = TAdaBlock(channels, temporal_projection)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.tada2 = TAdaBlock(channels, temporal_projection) if double_tada else None
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = Linear(channels, 4 * channels)
        self.fc2 = Linear(4 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, num_frames: int, grid: int, class_only: bool = False) -> Tensor:
        """Tokens ``(B*T, 1 + grid * grid, C)`` -> same shape, or only the class tokens, ``(B*T, 1, C)``."""
        x = self._add_tada(self.tada, x, num_frames, grid)
        queries = 1 if class_only else x.shape[1]
        x = x[:, :queries] + self.drop_path(self.attn(self.norm1(x), queries), num_frames)
        if self.tada2 is not None and not class_only:
            x = self._add_tada(self.tada2, x, num_frames, grid)
        y = self.fc2(quick_gelu(self.fc1(self.norm2(x))))
        return x + self.drop_path(y, num_frames)

    def _add_tada(self, tada: TAdaBlock, x: Tensor, num_frames: int, grid: int) -> Tensor:
        """Add a TAda block's output to the patch tokens; class tokens, without position in the frame, do not change."""
        return add_to_patches(x, self.drop_path(tada(x, num_frames, grid), num_frames))


def add_to_patches(x: Tensor, y: Tensor) -> Tensor:
    """Add ``y``, ``(N, L, C)``, to the patch tokens of ``x``, ``(N, 1 + L, C)``."""
    if is_traced() or x.dtype != y.dtype:
        return torch.cat([x[:, :1], x[:, 1:] + y], dim=1)
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        return _AddToPatches.apply(x, y)
    return _add_to_patches(x, y)


def _add_to_patches(x: Tensor, y: Tensor) -> Tensor:
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    total[:, :1] = x[:, :1]
    torch.add(x[:, 1:], y, out=total[:, 1:])
    return total


class _AddToPatches(torch.autograd.Function):
    """``_add_to_patches`` whose backward pass returns views; that of ``torch.cat`` and slices copies five times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return _add_to_patches(x, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad[:, 1:]


class TAdaFormer(VideoNetwork):
    """TAdaFormer.

    Args:
        num_frames: T of a clip; ``forward`` accepts any T of 2 or more.
        image_size: height and width of a clip, a multiple of ``patch``; determines the size of the position embedding.
        patch: side of a patch in pixels.
        width, depth, heads: size of the transformer.
        temporal_projection: the first projection of a TAda block spans three frames.
        double_tada: a second TAda block follows attention. The published Something-Something networks have both this
            and ``temporal_projection``, the Kinetics networks neither.
        drop_path_rate: drop path rate of the last block; the rates grow linearly from 0 at the first.
    """

    stem_key = "stem.weight"
    classifier_std = None
    lora_layers = r"blocks\.\d+\.(attn\.(qkv|proj)|fc1|fc2)"
    attention_layers = r"blocks\.\d+\.attn"
    inflation = "center"  # the middle one of three frames gets CLIP's stem, as published

    def __init__(
        self,
        *,
        num_classes: int = 400,
        num_frames: int = 16,
        in_channels: int = 3,
        image_size: int = 224,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        temporal_projection: bool = False,
        double_tada: bool = False,
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_counts(num_frames=num_frames, in_channels=in_channels)
        check_counts(patch=patch, width=width, depth=depth, heads=heads)
        check_rate("drop_rate", drop_rate)
        check_rate("drop_path_rate", drop_path_rate)
        self.patch = patch
        if image_size < patch or image_size % patch:
            near = self._near(image_size)
            raise ConfigError(f"image_size is {image_size}; it must be a multiple of the patch, {patch}: try {near}.")
        if width % heads or width % 4:
            raise ConfigError(f"width is {width}; it must be a multiple of 4 and of the number of heads, {heads}.")
        self.num_frames, self.in_channels, self.image_size = num_frames, in_channels, image_size
        self.grid, self.num_features = image_size // patch, width
        self.stem = Conv3d(in_channels, width, (3, patch, patch), (2, patch, patch), (1, 0, 0), bias=False)
        self.class_embedding = nn.Parameter(nn.init.normal_(torch.empty(width), std=width**-0.5))
        self.pos_embed = nn.Parameter(nn.init.normal_(torch.empty(1 + self.grid**2, width), std=width**-0.5))
        self.norm_pre = nn.LayerNorm(width)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            TAdaFormerBlock(width, heads, temporal_projection, double_tada, rate) for rate in rates
        )
        self.feature_info = [Feature(f"blocks.{number}", width, patch) for number in range(depth)]
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(drop_rate)
        self.fc = linear_classifier(width, num_classes)

    def _near(self, size: int) -> int:
        """Return the multiple of the patch size nearest to ``size``, in pixels."""
        return max(round(size / self.patch), 1) * self.patch

    def _tokens(self, x: Tensor, class_only: bool) -> Tensor:
        self.check_clip(x)
        if x.shape[2] < 2:
            raise ConfigError(f"TAdaFormer takes clips of 2 frames or more; got {tuple(x.shape)}.")
        if tuple(x.shape[3:]) != (self.image_size, self.image_size):
            near = self._near(max(x.shape[3:]))
            raise ConfigError(
                f"this network was built for frames of {self.image_size} x {self.image_size} pixels and got "
                f"{tuple(x.shape)}; crop frames to squares and load it with image_size={near}, which resamples its "
                "position embedding."
            )
        y = self.stem(x)  # (B, C, T', grid, grid)
        num_frames = y.shape[2]
        y = y.transpose(1, 2).flatten(3).flatten(0, 1).transpose(1, 2)  # (B*T', grid * grid, C)
        y = torch.cat([self.class_embedding.expand(y.shape[0], 1, -1), y], dim=1) + self.pos_embed
        y = self.norm_pre(y)
        for block in self.blocks:
            y = self.run_block(block, y, num_frames, self.grid, class_only and block is self.blocks[-1])
        return y.unflatten(0, (-1, num_frames))

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> tokens ``(B, T', 1 + patches, num_features)``, class token first.

        T' is ``(T + 1) // 2``.
        """
        return self._tokens(x, class_only=False)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> logits ``(B, num_classes)``, or averaged and normalized class tokens ``(B, num_features)``."""
        pooled = self.dropout(self.norm(features[:, :, 0].mean(1)))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)``, normalized floats -> logits ``(B, num_classes)``."""
        # Only class tokens reach the classifier, so the last block need not compute the others, which saves 6 % of B/16
        # and 3 % of L/14. In training it does, because DDP expects a gradient, even if zero, for every parameter.
        return self.forward_head(self._tokens(x, class_only=not self.training))

    def frame_centers(self, count: int, num_frames: int) -> list[float]:
        """Return the frame at the middle of each temporal token's kernel."""
        return [2.0 * step for step in range(count)]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stem and embeddings, then the blocks."""
        return {"stem": r"stem\.|class_embedding|pos_embed|norm_pre\.", "blocks": r"blocks\.(\d+)\."}

    def no_weight_decay(self) -> set[str]:
        """Return the names of the embeddings."""
        return {"class_embedding", "pos_embed"}

    def operator_keys(self) -> set[str]:
        """Return the state-dict keys of the TAda blocks."""
        return {key for key in self.state_dict() if ".tada." in key or ".tada2." in key}

    def adapt_size(self, tensors: dict[str, Tensor]) -> list[str]:
        """Resample the spatial position embedding, except the row of the class token."""
        table = tensors.get("pos_embed")
        if table is None or table.shape == self.pos_embed.shape:
            return []
        tensors["pos_embed"] = torch.cat([table[:1], resample_grid(table[1:], self.grid)])
        return ["pos_embed"]


def resample_grid(table: Tensor, grid: int) -> Tensor:
    """Resample position embeddings ``(old * old, C)`` to ``(grid * grid, C)``, bicubic."""
    old = round(table.shape[0] ** 0.5)
    if old * old != table.shape[0]:
        raise ConfigError(f"a position embedding with {table.shape[0]} rows does not belong to a square image.")
    maps = table.float().T.unflatten(1, (old, old))[None]
    maps = F.interpolate(maps, (grid, grid), mode="bicubic", antialias=True)
    return maps[0].flatten(1).T.to(table.dtype)
