"""One video ResNet, many temporal operators.

C2D (TSN), TAda2D and TANet are the ImageNet ResNet of arXiv 1512.03385 with a different temporal operator in its
residual blocks. Frames are folded into the batch, ``(B*T, C, H, W)``, so a 2D ImageNet checkpoint fits without
inflation, and only the operators see ``T``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, UnknownNameError
from zoo.ops import TAM, TAdaConvBN
from zoo.ops.tam import resample_frames

DEPTHS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {  # depth -> (bottleneck?, blocks per stage)
    18: (False, (2, 2, 2, 2)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
}


class ConvBN(nn.Module):
    """Convolution without bias and batch norm, frame by frame."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(N, C_in, H, W)`` -> ``(N, C_out, H', W')``; no activation."""
        return self.bn(self.conv(x))


@dataclass(frozen=True)
class BlockOperator:
    """Where a temporal operator sits in a residual block. Both modules are called with ``(x, num_frames)``.

    spatial_conv: ``(in, out, kernel, stride) -> module``, in place of every 3x3 convolution and its batch norm.
    after_conv1: ``(channels) -> module``, after the block's first convolution, norm and ReLU (TAM's "style b").
    """

    spatial_conv: Callable[[int, int, int, int], nn.Module] = ConvBN
    after_conv1: Callable[[int], nn.Module] | None = None


def _none(num_frames: int) -> BlockOperator:
    return BlockOperator()


def _tadaconv(num_frames: int, **options: Any) -> BlockOperator:
    return BlockOperator(spatial_conv=lambda *conv: TAdaConvBN(*conv, **options))


def _tam(num_frames: int, **options: Any) -> BlockOperator:
    return BlockOperator(after_conv1=lambda channels: TAM(channels, num_frames, **options))


# To add an operator: write it in zoo/ops, and say here where it sits in a block.
OPERATORS: dict[str, Callable[..., BlockOperator]] = {"none": _none, "tadaconv": _tadaconv, "tam": _tam}


class ResidualBlock(nn.Module):
    """Bottleneck (1x1, 3x3, 1x1) or basic (3x3, 3x3) block; the stride sits in the 3x3 and in the shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, bottleneck: bool, op: BlockOperator) -> None:
        super().__init__()
        out_channels = width * (4 if bottleneck else 1)
        if bottleneck:
            self.conv1: nn.Module = ConvBN(in_channels, width, 1)
            self.conv2 = op.spatial_conv(width, width, 3, stride)
            self.conv3: nn.Module | None = ConvBN(width, out_channels, 1)
        else:
            self.conv1 = op.spatial_conv(in_channels, width, 3, stride)
            self.conv2 = op.spatial_conv(width, width, 3, 1)
            self.conv3 = None
        self.temporal = op.after_conv1(width) if op.after_conv1 else None
        same = stride == 1 and in_channels == out_channels
        self.downsample = None if same else ConvBN(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        y = F.relu(self.conv1(x, num_frames), inplace=True)
        if self.temporal is not None:
            y = self.temporal(y, num_frames)
        y = self.conv2(y, num_frames)
        if self.conv3 is not None:
            y = self.conv3(F.relu(y, inplace=True), num_frames)
        shortcut = x if self.downsample is None else self.downsample(x, num_frames)
        return F.relu(y + shortcut, inplace=True)


class VideoResNet(nn.Module):
    """A ResNet over folded frames with a temporal operator in every residual block.

    Args:
        op: "none" (C2D), "tadaconv" (TAda2D) or "tam" (TANet).
        depth: 18, 50 or 101.
        num_frames: T of a clip. TAM is built for it; the other operators take T from the clip.
        width: channels of the first stage, 64 in the published networks.
        dropout: before the classifier.
        stem_pool: max-pool after the stem, as in image ResNets. TAda2D has none: its first block has stride 2
            instead, at no cost in parameters, and weights trained one way are wrong the other way.
        op_options: of the operator, e.g. ``{"kernel_size": 5}`` for TAM.
    """

    def __init__(
        self,
        op: str = "none",
        depth: int = 50,
        *,
        num_classes: int = 400,
        num_frames: int = 8,
        in_channels: int = 3,
        width: int = 64,
        dropout: float = 0.5,
        stem_pool: bool = True,
        op_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for what, value, least in (
            ("num_classes", num_classes, 2),
            ("num_frames", num_frames, 1),
            ("in_channels", in_channels, 1),
            ("width", width, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{what} is {value!r}; it must be a whole number of at least {least}.")
        if op not in OPERATORS:
            raise UnknownNameError.of("temporal operator", op, OPERATORS)
        if depth not in DEPTHS:
            raise ConfigError(f"depth is {depth}; a video ResNet has depth {', '.join(map(str, DEPTHS))}.")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout is {dropout}; it must be at least 0 and below 1.")
        operator = OPERATORS[op](num_frames, **(op_options or {}))
        bottleneck, blocks = DEPTHS[depth]
        self.op, self.depth, self.width, self.stem_pool = op, depth, width, stem_pool
        self.num_frames, self.in_channels = num_frames, in_channels
        self.stem = ConvBN(in_channels, width, 7, stride=2)
        channels = width
        for stage, count in enumerate(blocks):
            stage_width = width * 2**stage
            layer = nn.ModuleList()
            for block in range(count):
                stride = 2 if block == 0 and (stage > 0 or not stem_pool) else 1
                layer.append(ResidualBlock(channels, stage_width, stride, bottleneck, operator))
                channels = stage_width * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", layer)
        self.num_features = channels
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            # the operators initialise themselves: identity, where they have one, must survive
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(self.fc.out_features)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by an untrained one for ``num_classes`` classes."""
        self.fc = nn.Linear(self.num_features, num_classes).to(self.fc.weight)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> feature maps ``(B, num_features, T, H', W')``."""
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ConfigError(
                f"the network takes clips (B, {self.in_channels}, T, H, W), normalised floats; got {tuple(x.shape)}."
            )
        if self.op == "tam" and x.shape[2] != self.num_frames:
            raise ConfigError(
                f"this TANet was built for {self.num_frames} frames and got {x.shape[2]}; "
                f"load it with num_frames={x.shape[2]} (TAM's frame-sized layers are then interpolated)."
            )
        num_frames = x.shape[2]
        x = x.transpose(1, 2).flatten(0, 1)  # (B*T, C, H, W)
        x = x.contiguous(memory_format=torch.channels_last)  # every layer keeps it; 10 to 25 % faster on a CPU
        x = F.relu(self.stem(x, num_frames), inplace=True)
        if self.stem_pool:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in cast(nn.ModuleList, stage):
                x = block(x, num_frames)
        return x.unflatten(0, (-1, num_frames)).transpose(1, 2)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps -> logits ``(B, num_classes)``, or pooled features ``(B, num_features)``."""
        frames = features.mean((3, 4))  # (B, C, T)
        if self.op == "tadaconv":
            pooled = self.dropout(frames.mean(2))
        else:
            # C2D and TANet classify frames and average scores; the classifier is linear, so averaging first is
            # the same, but dropout must act on each frame as it was trained
            pooled = self.dropout(frames).mean(2)
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)``, normalised floats -> logits ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))

    # what loading needs to know about any network of the zoo
    stem_key = "stem.conv.weight"
    head_prefix = "fc."

    def operator_keys(self) -> set[str]:
        """State-dict keys that the image network of the same shape does not have."""
        with torch.device("meta"):
            host = VideoResNet("none", self.depth, width=self.width, num_classes=2, in_channels=self.in_channels)
        return set(self.state_dict()) - set(host.state_dict())

    def options_for_frames(self, options: dict[str, Any], num_frames: int) -> dict[str, Any]:
        """Options of the network that ``adapt_frames`` fits this one's weights to."""
        made = dict(options, num_frames=num_frames)
        if self.op == "tam":
            hidden = next(m.G[0].out_features for m in self.modules() if isinstance(m, TAM))
            made["op_options"] = dict(options.get("op_options") or {}, hidden=hidden)
        return made

    def adapt_frames(self, tensors: dict[str, Tensor]) -> list[str]:
        """Fit tensors trained with another frame count to this network, in place; returns the keys it changed."""
        keys = [key for key in tensors if self.op == "tam" and key.endswith(".temporal.G.0.weight")]
        for key in keys:
            tensors[key] = resample_frames(tensors[key], self.num_frames)
        return keys
