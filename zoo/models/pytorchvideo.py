"""Baselines built by pytorchvideo, for compatibility with its published files.

C2D, I3D, Slow, SlowFast, R(2+1)D, CSN and X3D; MViT is in ``zoo.models.mvit``.

Source: pytorchvideo 0.1.5; its ``models/hub`` has the builder arguments of each published file. The library has been
unmaintained since 2022. It is imported only when such a network is built, and only its builders are used.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, check_counts, check_num_classes, check_odd, check_rate
from zoo.models.network import Feature, VideoNetwork
from zoo.ops.conv3d import use_conv3d

SIDE = 7  # pooling window of the heads: the feature map of a 224-pixel training crop


def builders(module: str) -> Any:
    """Import the module ``pytorchvideo.models.<module>``.

    Raises:
        ConfigError: pytorchvideo or one of its dependencies is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch.jit.script, in an unused layer
            return importlib.import_module(f"pytorchvideo.models.{module}")
    except ImportError as error:
        raise ConfigError(
            f"this network is built by pytorchvideo, which cannot be imported ({error}). "
            "Install it: pip install pytorchvideo==0.1.5"
        ) from error


class HeadPool(nn.Module):
    """Average over all frames and over windows of ``side`` x ``side`` positions, with stride 1.

    Replaces the pooling of the builders' heads, whose fixed size fails for fewer frames or smaller feature maps. This
    class averages the entire map if it is smaller than the window.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` -> ``(B, C, 1, H', W')``."""
        frames, height, width = x.shape[2:]
        return F.avg_pool3d(x, (frames, min(self.side, height), min(self.side, width)), stride=1)


class PTVNet(VideoNetwork):
    """A stem, four stages of residual blocks and a head: all networks in this module except SlowFast.

    Args:
        module, builder: ``pytorchvideo.models.<module>.<builder>``.
        arguments: arguments of the builder, as in pytorchvideo's hub.
        num_frames: T of a clip; ``forward`` accepts any T.
        width: channels of the stem (of X3D: before its width factor of 2).
    """

    stem_key = "net.blocks.0.conv.weight"

    def __init__(
        self,
        module: str,
        builder: str,
        arguments: Mapping[str, Any],
        *,
        num_classes: int = 400,
        num_frames: int = 8,
        in_channels: int = 3,
        width: int = 64,
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_counts(num_frames=num_frames, in_channels=in_channels, width=width)
        check_rate("drop_rate", drop_rate)
        self.num_frames, self.in_channels = num_frames, in_channels
        sizes = self.sizes(in_channels, width) | {"model_num_class": num_classes or 1}
        # the head's dropout is disabled: `dropout` below replaces it
        net = getattr(builders(module), builder)(**arguments, **sizes, dropout_rate=0, head_activation=None)
        use_conv3d(net)
        self.net: Any = net
        self.head_prefix = f"net.blocks.{len(net.blocks) - 1}.proj."
        self.num_features = net.blocks[-1].proj.in_features
        self.feature_info = []
        for number, stage in enumerate(net.blocks):
            if blocks := getattr(stage, "res_blocks", None):
                name = f"net.blocks.{number}.res_blocks.{len(blocks) - 1}"
                channels = blocks[-1].branch2.conv_c.out_channels
                self.feature_info.append(Feature(name, channels, 4 * 2 ** len(self.feature_info)))
        head = net.blocks[-1]
        if hasattr(head.pool, "pre_conv"):  # X3D has convolutions before and after the pooling
            head.pool.pool = HeadPool(head.pool.pool.kernel_size[1])
        else:
            head.pool = HeadPool(SIDE)
        self.dropout = nn.Dropout(drop_rate)
        if not num_classes:
            self.reset_classifier(0)

    @staticmethod
    def sizes(in_channels: int, width: int) -> dict[str, Any]:
        """Return the builder arguments for these sizes."""
        return {"input_channel": in_channels, "stem_dim_out": width}

    def check_clip(self, x: Tensor) -> None:
        """Raise a ConfigError unless ``x`` is a batch of clips that this network accepts."""
        super().check_clip(x)
        if x.shape[2] < 2 and any(isinstance(block, nn.MaxPool3d) for block in self.net.blocks):
            raise ConfigError(
                f"this network pools pairs of frames; clips must have 2 frames or more, got {x.shape[2]}."
            )

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> feature maps ``(B, num_features, T', H / 32, W / 32)``."""
        self.check_clip(x)
        for part in self.net.blocks[:-1]:
            for block in getattr(part, "res_blocks", [part]):
                x = self.run_block(block, x)
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps -> logits ``(B, num_classes)``, or the input of the classifier ``(B, num_features)``."""
        # the builders' heads classify every position and average the scores; the classifier is linear, so averaging
        # first is equivalent, but dropout is applied to each position as in training
        pooled = self.dropout(self.net.blocks[-1].pool(features)).mean((2, 3, 4))
        return pooled if pre_logits else self.get_classifier()(pooled)

    def frame_centers(self, count: int, num_frames: int) -> list[float]:
        """Return the frames at the middle of the kernels; networks that pool pairs have the middle of each pair."""
        if any(isinstance(block, nn.MaxPool3d) for block in self.net.blocks):
            return super().frame_centers(count, num_frames)
        stride = round(num_frames / count)
        return [float(step * stride) for step in range(count)]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stem, then the residual blocks (or stages)."""
        blocks = r"net\.blocks\.(\d+)\.res_blocks\." + ("" if coarse else r"(\d+)\.")
        return {"stem": r"net\.blocks\.0\.", "blocks": blocks}


class PTVX3D(PTVNet):
    """X3D (arXiv 2004.04730); its head averages over the feature map of the training crop.

    The head's convolutions widen the maps of ``forward_features`` to ``num_features``.

    Args:
        crop: side of the training crop, pixels.
        depth_factor: 2.2, or 5 for X3D-L.
    """

    stem_key = "net.blocks.0.conv.conv_t.weight"  # the spatial convolution, despite its name

    def __init__(self, crop: int, depth_factor: float = 2.2, **options: Any) -> None:
        # nn.SiLU replaces the builder's Swish, an equivalent function with a hand-written gradient
        arguments = {"input_crop_size": crop, "depth_factor": depth_factor, "inner_act": nn.SiLU}
        super().__init__("x3d", "create_x3d", arguments, **options)

    @staticmethod
    def sizes(in_channels: int, width: int) -> dict[str, Any]:
        """Return the builder arguments for these sizes."""
        return {"input_channel": in_channels, "stem_dim_in": width}


class PTVSlowFast(PTVNet):
    """SlowFast (arXiv 1812.03982): a wide pathway for few frames and a narrow pathway for all frames.

    Args:
        depth: 50 or 101.
        num_frames: T of the fast pathway, a multiple of ``alpha``; the slow pathway has ``T / alpha`` frames.
        width: channels of the slow pathway's stem, a multiple of 8; the fast pathway has an eighth of them.
        alpha: ratio of the frame rates of the pathways: 4, or 8 in the published R50 4x16.
        fusion_kernel: frames of the convolutions from the fast to the slow pathway: 7, or 5 as in the published R101
            and R50 4x16.
        arguments: other arguments of ``create_slowfast``.
    """

    stem_keys = tuple(f"net.blocks.0.multipathway_blocks.{pathway}.conv.weight" for pathway in range(2))
    stem_key = stem_keys[0]

    def __init__(
        self,
        depth: int,
        arguments: Mapping[str, Any] | None = None,
        *,
        num_frames: int = 32,
        width: int = 64,
        alpha: int = 4,
        fusion_kernel: int = 7,
        **options: Any,
    ) -> None:
        check_counts(num_frames=num_frames, width=width, alpha=alpha)
        if width % 8:
            raise ConfigError(
                f"width is {width}; it must be a multiple of 8, since the fast pathway has an eighth of it."
            )
        check_odd("fusion_kernel", fusion_kernel)
        arguments = dict(
            arguments or {},
            model_depth=depth,
            slowfast_fusion_conv_kernel_size=(fusion_kernel, 1, 1),
            slowfast_fusion_conv_stride=(alpha, 1, 1),
        )
        super().__init__("slowfast", "create_slowfast", arguments, num_frames=num_frames, width=width, **options)
        self.alpha = alpha
        self._check_frames(num_frames)
        for number in range(1, 5):
            name = f"net.blocks.{number}.multipathway_blocks.0"  # the slow pathway's stage
            last = len(self.get_submodule(name).res_blocks) - 1  # type: ignore[arg-type]
            self.feature_info.append(Feature(f"{name}.res_blocks.{last}", 2 * width * 2**number, 2 * 2**number))

    @staticmethod
    def sizes(in_channels: int, width: int) -> dict[str, Any]:
        """Return the builder arguments for these sizes."""
        return {"input_channels": (in_channels, in_channels), "stem_dim_outs": (width, width // 8)}

    def _check_frames(self, frames: int) -> None:
        if frames % self.alpha or not frames:
            near = max(round(frames / self.alpha), 1) * self.alpha
            raise ConfigError(
                f"num_frames is {frames}; it must be a multiple of {self.alpha} for the slow pathway: try {near}."
            )

    def pathways(self, x: Tensor) -> list[Tensor]:
        """Return the inputs of the slow pathway, ``T / alpha`` frames from first to last, and of the fast pathway."""
        frames = x.shape[2]
        slow = frames // self.alpha
        # linspace(0, frames - 1, slow) truncated as published, in integer arithmetic
        return [x[:, :, [i * (frames - 1) // max(slow - 1, 1) for i in range(slow)]], x]

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` -> feature maps ``(B, num_features, T / alpha, H / 32, W / 32)``.

        The channels of the slow pathway come first. Those of the fast pathway are averaged over ``alpha`` frames.
        """
        self.check_clip(x)
        self._check_frames(x.shape[2])
        paths = self.pathways(x)
        for part in self.net.blocks[:-2]:
            for pathway, stage in enumerate(part.multipathway_blocks):
                for block in getattr(stage, "res_blocks", [stage]):
                    paths[pathway] = self.run_block(block, paths[pathway])
            paths = part.multipathway_fusion(paths)
        slow, fast = paths
        return torch.cat([slow, fast.unflatten(2, (-1, self.alpha)).mean(3)], dim=1)

    def stage_modules(self, stage: Feature) -> tuple[str, ...]:
        """Return the modules of the stage in the slow and in the fast pathway."""
        fast = stage.module.replace(".multipathway_blocks.0.", ".multipathway_blocks.1.")
        return stage.module, fast

    def frame_centers(self, count: int, num_frames: int) -> list[float]:
        """Return the frames of the slow pathway, or all frames for maps of the fast pathway."""
        return [step * (num_frames - 1) / max(count - 1, 1) for step in range(count)]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group the stems, then the blocks (or stages) of both pathways; fusion layers belong to the next stage."""
        blocks = r"net\.blocks\.(\d+)\.multipathway_blocks\.\d+\.res_blocks\." + ("" if coarse else r"(\d+)\.")
        fusion = (r"net\.blocks\.(\d+)\.multipathway_fusion\.", 1)
        return {"stem": r"net\.blocks\.0\.", "blocks": [blocks, fusion]}


_POINT, _LINE = (1, 1, 1), (3, 1, 1)
SLOW = {"stem_conv_kernel_size": (1, 7, 7)}
_POOLED = {"stage1_pool": nn.MaxPool3d}  # over pairs of frames, after the first stage
_C2D = SLOW | _POOLED | {"stage_conv_a_kernel_size": (_POINT,) * 4}
_ALTERNATING = (_LINE, [_LINE, _POINT], [_LINE, _POINT], [_POINT, _LINE])
_I3D = {"stem_conv_kernel_size": (5, 7, 7)} | _POOLED | {"stage_conv_a_kernel_size": _ALTERNATING}
_CSN = {"model_depth": 101, "stem_pool": nn.MaxPool3d}
_RES4 = (_LINE,) * 6 + (_POINT,) * 17  # R101_50_50: temporal kernels in six of the 23 blocks
_R101_50_50 = {"stage_conv_a_kernel_sizes": ((_POINT, _POINT, _RES4, _LINE), (_LINE, _LINE, _RES4, _LINE))}

c2d = functools.partial(PTVNet, "resnet", "create_resnet", _C2D)
i3d = functools.partial(PTVNet, "resnet", "create_resnet", _I3D)
slow = functools.partial(PTVNet, "resnet", "create_resnet", SLOW)
csn = functools.partial(PTVNet, "csn", "create_csn", _CSN)
slowfast_16x8 = functools.partial(PTVSlowFast, 101, _R101_50_50)
