"""MViT-B, built by pytorchvideo's builder for compatibility with its published files.

Sources: "Multiscale Vision Transformers", ICCV 2021, arXiv 2104.11227; pytorchvideo 0.1.5, ``models/hub``. The first
token is the class token; blocks 1, 3 and 14 halve the height and width of the grid of the others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import ConfigError, check_counts, check_num_classes, check_rate
from zoo.models.network import DropPath, Feature, FixedSizeNetwork
from zoo.models.pytorchvideo import builders
from zoo.models.vit import resample_grid


class _BuilderNumbersOnCpu(TorchFunctionMode):
    """Create the tensors whose values the builder reads on the CPU, even within a meta device context."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = {"device": "cpu"} if func in (torch.ones, torch.linspace) else {}
        return func(*args, **(kwargs or {}), **device)


class PTVMViT(FixedSizeNetwork):
    """MViT-B. Its position embeddings fix the number of frames and the image size.

    Args:
        num_frames: T of a clip, even.
        image_size: height and width of a clip, a multiple of 4.
        width: channels of the first block, a multiple of 8.
        drop_path_rate: drop path rate of the last block; the rates grow linearly from 0 at the first.
    """

    head_prefix = "net.head.proj."
    stem_key = "net.patch_embed.patch_model.weight"
    lora_layers = r"net\.blocks\.\d+\.(attn\.(q|k|v|qkv|proj)|mlp\.(fc1|fc2)|proj)"
    attention_layers = r"net\.blocks\.\d+\.attn"

    def __init__(
        self,
        *,
        num_classes: int = 400,
        num_frames: int = 16,
        in_channels: int = 3,
        image_size: int = 224,
        width: int = 96,
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_counts(num_frames=num_frames, in_channels=in_channels, width=width)
        check_rate("drop_rate", drop_rate)
        check_rate("drop_path_rate", drop_path_rate)
        for option, value, step in (("num_frames", num_frames, 2), ("image_size", image_size, 4), ("width", width, 8)):
            if value < step or value % step:
                raise ConfigError(f"{option} is {value}; for MViT it must be a multiple of {step}.")
        doubled = [[1, 2.0], [3, 2.0], [14, 2.0]]  # (block, factor): channels and heads double before these blocks
        with _BuilderNumbersOnCpu():
            net = builders("vision_transformers").create_multiscale_vision_transformers(
                spatial_size=image_size,
                temporal_size=num_frames,
                input_channels=in_channels,
                patch_embed_dim=width,
                embed_dim_mul=doubled,
                atten_head_mul=doubled,
                pool_q_stride_size=[[block, 1, 2, 2] for block, _ in doubled],
                pool_kv_stride_adaptive=[1, 8, 8],
                pool_kvq_kernel=[3, 3, 3],
                head_dropout_rate=0.0,
                head_num_classes=num_classes or 1,
            )
        self.net: Any = net
        self.num_frames, self.in_channels, self.image_size = num_frames, in_channels, image_size
        self.num_features = net.head.proj.in_features
        for block in self.net.blocks:
            block.drop_path = DropPath(0.0)  # the builder omits it if its rate is zero
        self.set_drop_path(drop_path_rate)
        self.feature_info, reduction = [], 4
        for number, block in enumerate(self.net.blocks):
            reduction *= 1 if block.attn.pool_q is None else block.attn.pool_q.stride[1]
            self.feature_info.append(Feature(f"net.blocks.{number}", block.dim_out, reduction))
        self.dropout = nn.Dropout(drop_rate)
        if not num_classes:
            self.reset_classifier(0)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> tokens ``(B, 1 + T / 2 * H / 32 * W / 32, num_features)``, class token first."""
        self.check_clip(x)
        encoding = self.net.cls_positional_encoding
        x, shape = encoding(self.net.patch_embed(x)), encoding.patch_embed_shape
        for block in self.net.blocks:
            x, shape = self.run_block(block, x, shape)
        return self.net.norm_embed(x)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens -> logits ``(B, num_classes)``, or the class token ``(B, num_features)``."""
        pooled = self.dropout(self.net.head.sequence_pool(features))
        return pooled if pre_logits else self.get_classifier()(pooled)

    def frame_centers(self, count: int, num_frames: int) -> list[float]:
        """Return the frame at the middle of each temporal token's kernel."""
        return [2.0 * step for step in range(count)]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stem and embeddings, then the blocks."""
        return {"stem": r"net\.(patch_embed|cls_positional_encoding)\.", "blocks": r"net\.blocks\.(\d+)\."}

    def adapt_size(self, tensors: dict[str, Tensor]) -> list[str]:
        """Resample the spatial position embedding, bicubic."""
        key = "net.cls_positional_encoding.pos_embed_spatial"
        num_patches = self.net.cls_positional_encoding.num_spatial_patch
        if key not in tensors or tensors[key].shape[1] == num_patches:
            return []
        tensors[key] = resample_grid(tensors[key][0], round(num_patches**0.5))[None]
        return [key]

    def adapt_frames(self, tensors: dict[str, Tensor]) -> list[str]:
        """Resample the temporal position embedding, linear."""
        key = "net.cls_positional_encoding.pos_embed_temporal"
        frames = self.net.cls_positional_encoding.num_temporal_patch
        if key not in tensors or tensors[key].shape[1] == frames:
            return []
        table = tensors[key].float().transpose(1, 2)  # (1, C, T / 2)
        tensors[key] = F.interpolate(table, frames, mode="linear").transpose(1, 2).to(tensors[key].dtype)
        return [key]
