"""3D ResNets of the TAdaConv authors: ir-CSN-152, and R-2D3D-18 and R(2+1)D-10 of MoSI.

Sources: "Video Classification with Channel-Separated Convolutional Networks", ICCV 2019, arXiv 1904.02811; "A Closer
Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, arXiv 1711.11248; "Self-supervised Motion
Learning from Static Images", CVPR 2021, arXiv 2104.00240. Depths, widths and strides are those of the published
networks, which differ from those of the first two papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import check_counts, check_num_classes, check_rate
from zoo.models.network import Feature, VideoNetwork, linear_classifier
from zoo.ops.conv3d import Conv3d

Size = tuple[int, int, int]  # frames, height, width
POINT: Size = (1, 1, 1)


class ConvNorm(nn.Module):
    """A 3D convolution without bias, padded to the same size, and batch norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size,
        stride: Size = POINT,
        groups: int = 1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = Conv3d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, T, H, W)`` -> ``(B, C_out, T', H', W')``."""
        return self.bn(self.conv(x))


class FactorizedConvNorm(nn.Module):
    """A convolution over space, then one over time, with about as many weights as the 3D convolution they replace."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size, stride: Size, eps: float) -> None:
        super().__init__()
        frames, area = kernel[0], kernel[1] * kernel[2]
        inner = frames * area * in_channels * out_channels // (area * in_channels + frames * out_channels)
        self.spatial = ConvNorm(in_channels, inner, (1, *kernel[1:]), (1, *stride[1:]), eps=eps)
        self.temporal = ConvNorm(inner, out_channels, (frames, 1, 1), (stride[0], 1, 1), eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, T, H, W)`` -> ``(B, C_out, T', H', W')``."""
        return self.temporal(F.relu(self.spatial(x), inplace=True))


@dataclass(frozen=True)
class Layout:
    """Layers of a 3D ResNet.

    Attributes:
        blocks: number of blocks in each of the four stages.
        channels: of the stem and of the stages, at width 64.
        kernels: of the stem and of the 3x3 or 3x3x3 convolutions in the stages.
        strides: of the stages. The stem has stride 2 in space.
        separated: blocks are bottlenecks with a depthwise 3x3x3 convolution (ir-CSN); otherwise they have two
            convolutions.
        factorized: convolutions are split into space and time (R(2+1)D).
        stem_pool: max-pooling over space after the stem.
        eps: of batch norms.
    """

    blocks: tuple[int, int, int, int]
    channels: tuple[int, int, int, int, int]
    kernels: tuple[Size, Size, Size, Size, Size]
    strides: tuple[Size, Size, Size, Size]
    separated: bool = False
    factorized: bool = False
    stem_pool: bool = True
    eps: float = 1e-5


_PLANE, _CUBE, _HALF = (1, 3, 3), (3, 3, 3), (2, 2, 2)
LAYOUTS = {
    "csn": Layout(
        (3, 8, 36, 3),
        (64, 256, 512, 1024, 2048),
        ((3, 7, 7), _CUBE, _CUBE, _CUBE, _CUBE),
        (POINT, _HALF, _HALF, _HALF),
        separated=True,
    ),
    "r2d3d": Layout(
        (2, 2, 2, 2),
        (64, 64, 128, 256, 256),
        ((1, 7, 7), _PLANE, _PLANE, _CUBE, _CUBE),
        (POINT, (1, 2, 2), _HALF, _HALF),
        eps=1e-3,
    ),
    "r2plus1d": Layout(
        (1, 1, 1, 1),
        (64, 64, 128, 256, 512),
        ((3, 7, 7), _CUBE, _CUBE, _CUBE, _CUBE),
        (POINT, _HALF, _HALF, _HALF),
        factorized=True,
        stem_pool=False,
        eps=1e-3,
    ),
}


class Block(nn.Module):
    """A residual block: two convolutions, or a bottleneck with a depthwise 3x3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size, stride: Size, layout: Layout) -> None:
        super().__init__()
        eps = layout.eps
        self.conv3: nn.Module | None = None
        if layout.separated:
            inner = out_channels // 4
            self.conv1: nn.Module = ConvNorm(in_channels, inner, POINT, eps=eps)
            self.conv2: nn.Module = ConvNorm(inner, inner, kernel, stride, groups=inner, eps=eps)
            self.conv3 = ConvNorm(inner, out_channels, POINT, eps=eps)
        else:
            conv = conv_of(layout)
            self.conv1 = conv(in_channels, out_channels, kernel, stride, eps=eps)
            self.conv2 = conv(out_channels, out_channels, kernel, POINT, eps=eps)
        same_shape = in_channels == out_channels and stride == POINT
        self.downsample = None if same_shape else ConvNorm(in_channels, out_channels, POINT, stride, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, T, H, W)`` -> ``(B, C_out, T', H', W')``."""
        y = self.conv2(F.relu(self.conv1(x), inplace=True))
        if self.conv3 is not None:
            y = self.conv3(F.relu(y, inplace=True))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(y + shortcut, inplace=True)


def conv_of(layout: Layout) -> Callable[..., nn.Module]:
    """Return the class of the stem and of the convolutions with a kernel larger than 1."""
    return FactorizedConvNorm if layout.factorized else ConvNorm


class ResNet3D(VideoNetwork):
    """A 3D ResNet; it accepts any number of frames and any image size.

    Args:
        layout: a key of ``LAYOUTS``.
        width: channels of the stem, 64 in the published networks.
        drop_rate: probability of dropout before the classifier.
    """

    def __init__(
        self,
        layout: str,
        *,
        num_classes: int = 400,
        num_frames: int = 16,
        in_channels: int = 3,
        width: int = 64,
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_counts(num_frames=num_frames, in_channels=in_channels, width=width)
        check_rate("drop_rate", drop_rate)
        layers = LAYOUTS[layout]
        self.num_frames, self.in_channels, self.stem_pool = num_frames, in_channels, layers.stem_pool
        channels, *stage_channels = (max(count * width // 64, 1) for count in layers.channels)
        stem_kernel, *kernels = layers.kernels
        self.stem = conv_of(layers)(in_channels, channels, stem_kernel, (1, 2, 2), eps=layers.eps)
        self.stem_key = "stem.spatial.conv.weight" if layers.factorized else "stem.conv.weight"
        self.feature_info = []
        reduction = 4 if layers.stem_pool else 2
        stages = zip(layers.blocks, stage_channels, kernels, layers.strides, strict=True)
        for number, (count, out_channels, kernel, stride) in enumerate(stages, start=1):
            stage = nn.ModuleList()
            for index in range(count):
                stage.append(Block(channels, out_channels, kernel, POINT if index else stride, layers))
                channels = out_channels
            self.add_module(f"layer{number}", stage)
            reduction *= stride[1]
            self.feature_info.append(Feature(f"layer{number}", channels, reduction))
        self.num_features = channels
        self.dropout = nn.Dropout(drop_rate)
        self.fc = linear_classifier(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> feature maps ``(B, num_features, T', H', W')``."""
        self.check_clip(x)
        x = F.relu(self.stem(x), inplace=True)
        if self.stem_pool:
            x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in cast(nn.ModuleList, stage):
                x = self.run_block(block, x)
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps -> logits ``(B, num_classes)``, or pooled features ``(B, num_features)``."""
        pooled = self.dropout(features.mean((2, 3, 4)))
        return pooled if pre_logits else self.fc(pooled)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stem, then the residual blocks (or stages)."""
        return {"stem": r"stem\.", "blocks": r"layer(\d+)\." if coarse else r"layer(\d+)\.(\d+)\."}
