"""Video ResNet with interchangeable temporal operators.

TAda2D, TANet, STAM-R50, C2D (TSN) and the comparison networks of the papers are the ImageNet ResNet of arXiv 1512.03385
with a different temporal operator in its residual blocks. Frames are folded into the batch, ``(B*T, C, H, W)``, so a
2D ImageNet checkpoint fits without inflation. Only the operators use ``T``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, UnknownNameError, check_counts, check_num_classes, check_rate
from zoo.models.network import Feature, VideoNetwork, linear_classifier
from zoo.ops.conv_unit import ConvBN
from zoo.ops.non_local import non_local_at
from zoo.ops.operator import OPERATORS, BlockModules, BlockPosition
from zoo.ops.recompute import relu

DEPTHS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {  # depth -> (bottleneck?, blocks per stage)
    18: (False, (2, 2, 2, 2)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
}
STAGES = (2, 3, 4, 5)


class ResidualBlock(nn.Module):
    """Bottleneck (1x1, 3x3, 1x1) or basic (3x3, 3x3) block; the first 3x3 and the shortcut have the stride."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        bottleneck: bool,
        op: BlockModules,
        non_local: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        out_channels = width * (4 if bottleneck else 1)
        spatial_conv = op.spatial_conv or ConvBN
        if bottleneck:
            self.conv1 = (op.first_conv or ConvBN)(in_channels, width, 1, 1)
            self.conv2 = spatial_conv(width, width, 3, stride)
            self.conv3: nn.Module | None = ConvBN(width, out_channels, 1)
        else:
            self.conv1 = (op.first_conv or spatial_conv)(in_channels, width, 3, stride)
            self.conv2 = spatial_conv(width, width, 3, 1)
            self.conv3 = None
        self.temporal, self.position = None, op.position
        if op.temporal is not None:
            if op.position == "after_conv3" and not bottleneck:
                raise ConfigError(
                    "a basic block (ResNet-18) has no third convolution; use a bottleneck network or style c."
                )
            channels = {"before_conv1": in_channels, "after_conv1": width, "after_conv2": width}
            self.temporal = op.temporal(channels.get(op.position, out_channels))
        self.non_local = non_local(out_channels) if non_local else None
        same_shape = stride == 1 and in_channels == out_channels
        self.downsample = None if same_shape else ConvBN(in_channels, out_channels, 1, stride)

    def _at(self, position: str, x: Tensor, num_frames: int) -> Tensor:
        if self.temporal is None or self.position != position:
            return x
        return self.temporal(x, num_frames)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B*T, C_in, H, W)`` -> ``(B*T, C_out, H', W')``."""
        y = self._at("before_conv1", x, num_frames)
        y = self._at("after_conv1", relu(self.conv1(y, num_frames)), num_frames)
        y = self.conv2(y, num_frames)
        if self.conv3 is None:
            y = self._at("after_conv2", y, num_frames)
        else:
            y = self._at("after_conv2", relu(y), num_frames)
            y = self._at("after_conv3", self.conv3(y, num_frames), num_frames)
        shortcut = x if self.downsample is None else self.downsample(x, num_frames)
        y = F.relu(y.add_(shortcut), inplace=True)
        return y if self.non_local is None else self.non_local(y, num_frames)


class VideoResNet(VideoNetwork):
    """A ResNet over folded frames with a temporal operator in its residual blocks.

    Args:
        op: a key of ``zoo.ops.operator.OPERATORS``: "none" (C2D), "tadaconv" (TAda2D), "tadaconv_v2",
            "tam" (TANet), "stam", "pool", "tconv", "tsm", "tei", "i3d".
        depth: 18, 50 or 101.
        num_frames: T of a clip. TAM requires it; the other operators accept any T.
        width: channels of the first stage, 64 in the published networks.
        drop_rate: probability of dropout before the classifier.
        stem_pool: max-pooling after the stem, as in image ResNets. In TAda2D, the first block has stride 2 instead.
            Both have the same parameters, but weights trained with one are wrong for the other. Default: that of the
            published networks with this operator.
        op_stages: stages with the operator, from 2 to 5.
        op_options: options of the operator, e.g. ``{"kernel_size": 5}`` for TAM.
        non_local: options of additional non-local blocks, see ``zoo.ops.non_local.non_local_at``; ``{}`` for defaults.
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
        drop_rate: float = 0.5,
        stem_pool: bool | None = None,
        op_stages: Sequence[int] = STAGES,
        op_options: Mapping[str, Any] | None = None,
        non_local: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_counts(num_frames=num_frames, in_channels=in_channels, width=width)
        check_rate("drop_rate", drop_rate)
        if op not in OPERATORS:
            raise UnknownNameError.of("temporal operator", op, OPERATORS)
        if depth not in DEPTHS:
            raise ConfigError(f"depth is {depth}; a video ResNet has depth {', '.join(map(str, DEPTHS))}.")
        if not isinstance(op_stages, (list, tuple)) or not set(op_stages) <= set(STAGES):
            raise ConfigError(f"op_stages is {op_stages!r}; it must be a list of stages from 2 to 5.")
        if stem_pool is None:
            stem_pool = OPERATORS[op].stem_pool
        bottleneck, blocks = DEPTHS[depth]
        self.op, self.depth, self.width, self.stem_pool = op, depth, width, stem_pool
        self.pools_time_first, self.classifier_std = OPERATORS[op].pools_time_first, OPERATORS[op].classifier_std
        self.num_frames, self.in_channels = num_frames, in_channels
        self.stem = ConvBN(in_channels, width, 7, stride=2)
        self.feature_info = []
        channels, reduction = width, 4 if stem_pool else 2
        for number, count in enumerate(blocks):
            stage_width = width * 2**number
            layer = nn.ModuleList()
            for index in range(count):
                stride = 2 if index == 0 and (number > 0 or not stem_pool) else 1
                position = BlockPosition(STAGES[number], index, count, num_frames)
                modules = OPERATORS[op].block(position, **(op_options or {}))  # in all stages, to validate the options
                if position.stage not in op_stages:
                    modules = BlockModules()
                attention = None if non_local is None else non_local_at(position, **non_local)
                layer.append(ResidualBlock(channels, stage_width, stride, bottleneck, modules, attention))
                channels, reduction = stage_width * (4 if bottleneck else 1), reduction * stride
            self.add_module(f"layer{number + 1}", layer)
            self.feature_info.append(Feature(f"layer{number + 1}", channels, reduction))
        self.num_features = channels
        self.dropout = nn.Dropout(drop_rate)
        self.fc = linear_classifier(channels, num_classes)
        self._initialize(num_classes)

    def _initialize(self, num_classes: int) -> None:
        for module in self.modules():
            # the operators initialize themselves, many of them as the identity
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> feature maps ``(B, num_features, T, H', W')``."""
        self.check_clip(x)
        num_frames = x.shape[2]
        x = x.transpose(1, 2).flatten(0, 1)  # (B*T, C, H, W)
        x = x.contiguous(memory_format=torch.channels_last)  # preserved by every layer; 10 to 25 % faster on a CPU
        x = self.stem(x, num_frames)
        if self.stem_pool:
            x = F.max_pool2d(F.relu(x, inplace=True), 3, stride=2, padding=1)
        else:
            x = relu(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in cast(nn.ModuleList, stage):
                x = self.run_block(block, x, num_frames)
        return x.unflatten(0, (-1, num_frames)).transpose(1, 2)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps -> logits ``(B, num_classes)``, or pooled features ``(B, num_features)``."""
        frames = features.mean((3, 4))  # (B, C, T)
        if self.pools_time_first:
            pooled = self.dropout(frames.mean(2))
        else:
            # C2D and TANet classify frames and average the scores. The classifier is linear, so averaging first is
            # equivalent, but dropout must be applied to each frame, as in training.
            pooled = self.dropout(frames).mean(2)
        return pooled if pre_logits else self.fc(pooled)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stem, then the residual blocks (or stages)."""
        return {"stem": r"stem\.", "blocks": r"layer(\d+)\." if coarse else r"layer(\d+)\.(\d+)\."}

    def operator_keys(self) -> set[str]:
        """Return the state-dict keys that the image network of the same shape does not have."""
        with torch.device("meta"):
            host = VideoResNet("none", self.depth, width=self.width, num_classes=2, in_channels=self.in_channels)
        return set(self.state_dict()) - set(host.state_dict())
