"""ViViT with a factorized encoder: a transformer over the patches of each frame pair, then one over the frame pairs.

Sources: "ViViT: A Video Vision Transformer", ICCV 2021, arXiv 2103.15691, model 2; the layers are those of the networks
that the TAdaConv authors published.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_counts, check_num_classes, check_rate
from zoo.models.network import DropPath, Feature, FixedSizeNetwork, linear_classifier
from zoo.models.vit import Attention
from zoo.ops.linear import Linear

TUBELET = 2  # frames of a patch


class TransformerBlock(nn.Module):
    """``x += attention(LN x)``; ``x += MLP(LN x)``."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = Linear(channels, 4 * channels)
        self.fc2 = Linear(4 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, class_only: bool = False) -> Tensor:
        """Tokens ``(N, L, C)`` -> same shape, or only the class tokens, ``(N, 1, C)``."""
        queries = 1 if class_only else x.shape[1]
        x = x[:, :queries] + self.drop_path(self.attn(self.norm1(x), queries))
        return x + self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class ViViT(FixedSizeNetwork):
    """ViViT with a factorized encoder. Its position embeddings fix the number of frames and the image size.

    Args:
        num_frames: T of a clip, even.
        image_size: height and width of a clip, a multiple of ``patch``.
        patch: side of a patch in pixels.
        width, heads: size of both transformers.
        depth, temporal_depth: blocks of the spatial and of the temporal transformer.
        drop_path_rate: drop path rate of the last block; the rates grow linearly from 0 at the first.
    """

    stem_key = "stem.weight"
    classifier_std = 0.02
    lora_layers = r"(temporal_)?blocks\.\d+\.(attn\.(qkv|proj)|fc1|fc2)"
    attention_layers = r"blocks\.\d+\.attn"  # their gradients pass through the temporal transformer
    inflation = "center"

    def __init__(
        self,
        *,
        num_classes: int = 400,
        num_frames: int = 32,
        in_channels: int = 3,
        image_size: int = 224,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        temporal_depth: int = 4,
        heads: int = 12,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_counts(num_frames=num_frames, in_channels=in_channels)
        check_counts(patch=patch, width=width, depth=depth, temporal_depth=temporal_depth, heads=heads)
        check_rate("drop_rate", drop_rate)
        check_rate("drop_path_rate", drop_path_rate)
        for option, value, step in (("num_frames", num_frames, TUBELET), ("image_size", image_size, patch)):
            if value < step or value % step:
                near = max(round(value / step), 1) * step
                raise ConfigError(f"{option} is {value}; it must be a multiple of {step}: try {near}.")
        if width % heads:
            raise ConfigError(f"width is {width}; it must be a multiple of the number of heads, {heads}.")
        self.num_frames, self.in_channels, self.image_size = num_frames, in_channels, image_size
        self.grid, self.num_features = image_size // patch, width
        size = (TUBELET, patch, patch)
        self.stem = nn.Conv3d(in_channels, width, size, size)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.pos_embed = nn.Parameter(torch.zeros(1 + self.grid**2, width))
        self.temporal_class_embedding = nn.Parameter(torch.zeros(width))
        self.temporal_pos_embed = nn.Parameter(torch.zeros(1 + num_frames // TUBELET, width))
        rates = torch.linspace(0, drop_path_rate, depth + temporal_depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, rate) for rate in rates[:depth])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.temporal_blocks = nn.ModuleList(TransformerBlock(width, heads, rate) for rate in rates[depth:])
        self.temporal_norm = nn.LayerNorm(width, eps=1e-6)
        self.feature_info = [Feature(f"blocks.{number}", width, patch) for number in range(depth)]
        self.dropout = nn.Dropout(drop_rate)
        self.fc = linear_classifier(width, num_classes)
        self._initialize(num_classes)

    def _initialize(self, num_classes: int) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("_embedding") or name.endswith("pos_embed"):
                nn.init.trunc_normal_(parameter, std=0.02)
        for module in (*self.blocks.modules(), *self.temporal_blocks.modules()):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.reset_classifier(num_classes)

    def _encode(self, x: Tensor, class_only: bool) -> Tensor:
        self.check_clip(x)
        y = self.stem(x)  # (B, C, T / 2, grid, grid)
        y = y.transpose(1, 2).flatten(3).flatten(0, 1).transpose(1, 2)  # (B * T / 2, grid * grid, C)
        y = torch.cat([self.class_embedding.expand(y.shape[0], 1, -1), y], dim=1) + self.pos_embed
        for block in self.blocks:
            y = self.run_block(block, y, class_only and block is self.blocks[-1])
        y = self.norm(y[:, 0]).unflatten(0, (-1, self.num_frames // TUBELET))  # (B, T / 2, C)
        y = torch.cat([self.temporal_class_embedding.expand(y.shape[0], 1, -1), y], dim=1) + self.temporal_pos_embed
        for block in self.temporal_blocks:
            y = self.run_block(block, y)
        return y

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> tokens of frame pairs ``(B, 1 + T / 2, num_features)``, class token first."""
        return self._encode(x, class_only=False)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> logits ``(B, num_classes)``, or the normalized class token ``(B, num_features)``."""
        pooled = self.dropout(self.temporal_norm(features[:, 0]))
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)``, normalized floats -> logits ``(B, num_classes)``."""
        # Only class tokens leave the spatial transformer. In training, its last block computes all tokens, because DDP
        # expects a gradient, even if zero, for every parameter.
        return self.forward_head(self._encode(x, class_only=not self.training))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stem and embeddings, then the blocks of both transformers."""
        stem = r"stem\.|class_embedding|pos_embed|temporal_class_embedding|temporal_pos_embed"
        return {"stem": stem, "blocks": [r"blocks\.(\d+)\.", (r"temporal_blocks\.(\d+)\.", len(self.blocks))]}

    def no_weight_decay(self) -> set[str]:
        """Return the names of the embeddings."""
        return {"class_embedding", "pos_embed", "temporal_class_embedding", "temporal_pos_embed"}

    def adapt_size(self, tensors: dict[str, Tensor]) -> list[str]:
        """Resample the spatial position embedding, except the row of the class token; bilinear, as published."""
        table = tensors.get("pos_embed")
        if table is None or table.shape == self.pos_embed.shape:
            return []
        old = round((table.shape[0] - 1) ** 0.5)
        if old * old != table.shape[0] - 1:
            raise ConfigError(
                f"a position embedding with {table.shape[0]} rows does not belong to a square image and a class token."
            )
        maps = table[1:].float().T.unflatten(1, (old, old))[None]
        maps = F.interpolate(maps, (self.grid, self.grid), mode="bilinear")
        tensors["pos_embed"] = torch.cat([table[:1], maps[0].flatten(1).T.to(table.dtype)])
        return ["pos_embed"]

    def adapt_frames(self, tensors: dict[str, Tensor]) -> list[str]:
        """Resample the temporal position embedding, except the row of the class token; linear, as published."""
        table = tensors.get("temporal_pos_embed")
        if table is None or table.shape == self.temporal_pos_embed.shape:
            return []
        rows = F.interpolate(table[1:].float().T[None], self.num_frames // TUBELET, mode="linear")
        tensors["temporal_pos_embed"] = torch.cat([table[:1], rows[0].T.to(table.dtype)])
        return ["temporal_pos_embed"]
