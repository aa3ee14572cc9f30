"""TAdaConvNeXt and TAdaConvNeXtV2: ConvNeXt with depthwise convolutions that adapt to every frame.

Sources: version 1, arXiv 2110.06178, section 4.1; version 2, arXiv 2308.05787, section 4; the host, arXiv 2201.03545.
Frames are folded into the batch, as in the video ResNet; the stem halves their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_counts, check_num_classes, check_rate
from zoo.models.network import DropPath, Feature, VideoNetwork, linear_classifier
from zoo.ops import TAdaConv2d, TAdaConv2dV2
from zoo.ops.activation import quick_gelu
from zoo.ops.conv3d import Conv3d
from zoo.ops.frame_norm import norm_with_average
from zoo.ops.frames import fold_frames
from zoo.ops.linear import Linear

EPS = 1e-6


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of ``(N, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize; the shape is unchanged. Channels-last memory is not copied."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise TAdaConv 7x7, temporal aggregation (version 2), norm, two-layer MLP, layer scale, residual.

    Args:
        conv: ``(channels) -> module``, the adaptive depthwise convolution.
        aggregate: add ``LN_0(avgpool_3x1x1(y))`` to the norm; ``LN_0`` starts at zero.
        activation: activation function of the MLP.
        layer_scale: initial value of gamma.
        drop_path: probability of dropping the block, per clip.
    """

    def __init__(
        self,
        channels: int,
        conv: Callable[[int], nn.Module],
        aggregate: bool,
        activation: Callable[[Tensor], Tensor],
        layer_scale: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.conv = conv(channels)
        self.norm = nn.LayerNorm(channels, EPS)
        self.pool_norm = nn.LayerNorm(channels, EPS) if aggregate else None
        self.fc1 = Linear(channels, 4 * channels)
        self.activation = activation
        self.fc2 = Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path)
        if self.pool_norm is not None:
            nn.init.zeros_(self.pool_norm.weight)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C, H, W)`` -> same shape."""
        y = self.conv(x, num_frames)
        if self.pool_norm is None:
            z = self.norm(y.permute(0, 2, 3, 1))  # (B*T, H, W, C)
        else:
            z = norm_with_average(y, self.norm, self.pool_norm, num_frames)
        z = self.drop_path(self.fc2(self.activation(self.fc1(z))), num_frames)
        return torch.addcmul(x, z.permute(0, 3, 1, 2), self.gamma[:, None, None])


class Stem(nn.Module):
    """Embed patches of 4 x 4 pixels and two or three frames; the number of frames is halved."""

    def __init__(self, in_channels: int, channels: int, kernel: tuple[int, int, int], padding: int) -> None:
        super().__init__()
        self.conv = Conv3d(in_channels, channels, kernel, (2, 4, 4), (padding, 0, 0))
        self.norm = ChannelNorm(channels, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` -> ``(B*T', C', H / 4, W / 4)``, channels last."""
        x = fold_frames(self.conv(x))
        return self.norm(x.contiguous(memory_format=torch.channels_last))


class TAdaConvNeXt(VideoNetwork):
    """TAdaConvNeXt (version 1) and TAdaConvNeXtV2.

    Args:
        version: version of TAdaConv and of the network, 1 or 2.
        depths: number of blocks in each of the four stages.
        width: channels of the first stage; they double at every later stage.
        num_frames: T of a clip; ``forward`` accepts any T of 2 or more.
        drop_path_rate: drop path rate of the last block; the rates grow linearly from 0 at the first.
        layer_scale: initial value of the layer scale of the blocks.
        routing: options of the routing function. Version 1: ``{"norm": "layer", "calibrate_bias": True}`` selects
            the second variant of the paper. Version 2: ``head_dim``.
    """

    classifier_std = None

    def __init__(
        self,
        version: int,
        depths: Sequence[int],
        *,
        num_classes: int = 400,
        num_frames: int = 16,
        in_channels: int = 3,
        width: int = 96,
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-6,
        routing: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_counts(num_frames=num_frames, in_channels=in_channels, width=width)
        check_rate("drop_rate", drop_rate)
        check_rate("drop_path_rate", drop_path_rate)
        if version not in (1, 2):
            raise ConfigError(f"version is {version!r}; TAdaConvNeXt has versions 1 and 2.")
        self.version, self.depths, self.num_frames, self.in_channels = version, tuple(depths), num_frames, in_channels
        operator: Callable[..., nn.Module] = TAdaConv2d
        options: dict[str, Any] = {"bias": True}
        if version == 2:
            operator, options["head_dim"] = (
                TAdaConv2dV2,
                width // 2,
            )  # one head in the first stage; the number doubles at every later stage
        options |= routing or {}

        def conv(channels: int) -> nn.Module:
            return operator(channels, channels, 7, padding=3, groups=channels, **options)

        # ConvNeXt's stem is copied to the middle one of three frames, as published, or to both of two (our choice)
        self.inflation = "center" if version == 2 else "mean"
        self.stem = Stem(in_channels, width, (3, 4, 4) if version == 2 else (2, 4, 4), padding=version - 1)
        self.downsamples, self.stages = nn.ModuleList(), nn.ModuleList()
        self.feature_info = []
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        activation = quick_gelu if version == 2 else F.gelu
        for number, depth in enumerate(depths):
            channels = width * 2**number
            if number:
                self.downsamples.append(
                    nn.Sequential(ChannelNorm(channels // 2, EPS), nn.Conv2d(channels // 2, channels, 2, 2))
                )
            blocks = [
                ConvNeXtBlock(channels, conv, version == 2, activation, layer_scale, rates.pop(0)) for _ in range(depth)
            ]
            self.stages.append(nn.ModuleList(blocks))
            self.feature_info.append(Feature(f"stages.{number}", channels, 4 * 2**number))
        self.num_features = channels
        self.norm = nn.LayerNorm(channels, EPS)
        self.dropout = nn.Dropout(drop_rate)
        self.fc = linear_classifier(channels, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        """Initialize as ConvNeXt, except the classifier and the zero weights of the routing functions' last layers."""
        for name, module in self.named_modules():
            linear = isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
            if linear and name != "fc" and not name.endswith((".routing.b", ".routing.b_bias")):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> feature maps ``(B, num_features, T', H / 32, W / 32)``.

        T' is ``(T + 1) // 2`` in version 2, ``T // 2`` in version 1, which ignores an odd last frame.
        """
        self.check_clip(x)
        if x.shape[2] < 2 or min(x.shape[3:]) < 32:
            raise ConfigError(f"TAdaConvNeXt takes clips of 2 frames and 32 x 32 pixels or more; got {tuple(x.shape)}.")
        num_frames = (x.shape[2] + self.version - 1) // 2  # version 1 has no padding and ignores an odd last frame
        x = self.stem(x)
        for number, stage in enumerate(self.stages):
            if number:
                x = self.downsamples[number - 1](x)
            for block in cast(nn.ModuleList, stage):
                x = self.run_block(block, x, num_frames)
        return x.unflatten(0, (-1, num_frames)).transpose(1, 2)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps -> logits ``(B, num_classes)``, or pooled and normalized features ``(B, num_features)``."""
        pooled = self.dropout(self.norm(features.mean((2, 3, 4))))
        return pooled if pre_logits else self.fc(pooled)

    def frame_centers(self, count: int, num_frames: int) -> list[float]:
        """Return the middle of the frames that the stem combines: three in version 2, two in version 1."""
        return [2 * step + (0.0 if self.version == 2 else 0.5) for step in range(count)]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stem, then the blocks (or stages); downsampling layers belong to the first block after them."""
        blocks = r"stages\.(\d+)\." if coarse else r"stages\.(\d+)\.(\d+)\."
        return {"stem": r"stem\.", "blocks": [blocks, (r"downsamples\.(\d+)\.", 1)]}

    def no_weight_decay(self) -> set[str]:
        """Return the names of the layer scales."""
        return {name for name, _ in self.named_parameters() if name.endswith(".gamma")}

    def operator_keys(self) -> set[str]:
        """Return the state-dict keys of the routing functions and second norms, which ConvNeXt does not have."""
        return {key for key in self.state_dict() if ".routing." in key or ".pool_norm." in key}
