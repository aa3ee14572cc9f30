"""Published networks in plain PyTorch with the publishers' key names, as references for converted weights.

MMAction2's TSM and TSN, and ViViT and 3D ResNets of the TAdaConv authors. All map clips ``(B, 3, T, H, W)`` to logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# MMAction2 -------------------------------------------------------------------------------------------------------


class ConvModule(nn.Module):
    """A convolution, a batch norm, and optionally an activation."""

    def __init__(self, conv: nn.Module, channels: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.bn, self.activation = conv, nn.BatchNorm2d(channels), activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return y if self.activation is None else self.activation(y)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> ConvModule:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return ConvModule(conv, outputs, act() if act else None)


class Shifted(nn.Module):
    """A module whose input channels are shifted in time: an eighth from the next frame, an eighth from the previous."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.frames = net, 1

    def forward(self, x: Tensor) -> Tensor:
        clips = x.reshape(-1, self.frames, *x.shape[1:])
        count = x.shape[1] // 8
        after = torch.cat([clips[:, 1:, :count], torch.zeros_like(clips[:, :1, :count])], 1)
        before = torch.cat([torch.zeros_like(clips[:, :1, :count]), clips[:, :-1, count : 2 * count]], 1)
        return self.net(torch.cat([after, before, clips[:, :, 2 * count :]], 2).reshape(x.shape))


class MMABlock(nn.Module):
    """A bottleneck or basic block of MMAction2's ResNet."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool, shift: bool) -> None:
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        if bottleneck:
            self.conv1, self.conv2 = conv_bn(inputs, width, 1), conv_bn(width, width, 3, stride)
            self.conv3 = conv_bn(width, outputs, 1, act=None)
        else:
            self.conv1, self.conv2 = conv_bn(inputs, width, 3, stride), conv_bn(width, width, 3, act=None)
        if shift:
            self.conv1.conv = Shifted(self.conv1.conv)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = conv_bn(inputs, outputs, 1, stride, act=None)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        if hasattr(self, "conv3"):
            y = self.conv3(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Conv3dModule(nn.Module):
    """A 1x1x1 convolution, and optionally a batch norm."""

    def __init__(self, inputs: int, outputs: int, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 1, bias=not norm)
        self.bn = nn.BatchNorm3d(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class MMANonLocal(nn.Module):
    """A non-local block with subsampled keys and values."""

    def __init__(self, channels: int, mode: str) -> None:
        super().__init__()
        inner, self.mode = channels // 2, mode

        def pooled(conv: nn.Module) -> nn.Module:
            return nn.Sequential(conv, nn.MaxPool3d((1, 2, 2)))

        self.g = pooled(Conv3dModule(channels, inner))
        self.conv_out = Conv3dModule(inner, channels, norm=True)
        if mode == "gaussian":
            self.phi: nn.Module = nn.MaxPool3d((1, 2, 2))
        else:
            self.theta, self.phi = Conv3dModule(channels, inner), pooled(Conv3dModule(channels, inner))

    def forward(self, x: Tensor) -> Tensor:
        value = self.g(x).flatten(2).transpose(1, 2)
        query = (x if self.mode == "gaussian" else self.theta(x)).flatten(2).transpose(1, 2)
        scores = query @ self.phi(x).flatten(2)
        weights = scores / scores.shape[-1] if self.mode == "dot_product" else scores.softmax(-1)
        y = (weights @ value).transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
        return x + self.conv_out(y)


class WithNonLocal(nn.Module):
    """A residual block followed by a non-local block over all frames of a clip."""

    def __init__(self, block: nn.Module, channels: int, mode: str) -> None:
        super().__init__()
        self.block, self.non_local_block, self.frames = block, MMANonLocal(channels, mode), 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        clips = y.reshape(-1, self.frames, *y.shape[1:]).transpose(1, 2)
        return self.non_local_block(clips).transpose(1, 2).reshape(y.shape)


class MMAResNet(nn.Module):
    """ResNet of TSN, or of TSM with a shift in every ``shift``-th block."""

    def __init__(
        self, blocks: Sequence[int], bottleneck: bool, width: int, shift: int = 0, mode: str | None = None
    ) -> None:
        super().__init__()
        self.conv1, self.maxpool = conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, count in enumerate(blocks):
            layer = nn.Sequential()
            for index in range(count):
                stride = 2 if index == 0 and stage > 0 else 1
                shifted = bool(shift) and index % shift == 0
                block: nn.Module = MMABlock(channels, width * 2**stage, stride, bottleneck, shifted)
                channels = width * 2**stage * (4 if bottleneck else 1)
                if mode and index in ((), (0, 2), (0, 2, 4), ())[stage]:
                    block = WithNonLocal(block, channels, mode)
                layer.append(block)
            self.add_module(f"layer{stage + 1}", layer)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(self.maxpool(self.conv1(x))))))


class InvertedResidual(nn.Module):
    """A block of MobileNetV2; the shift precedes the expansion of blocks with a residual connection."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner, act = inputs * expansion, nn.ReLU6
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = [conv_bn(inputs, inner, 1, act=act)] if expansion > 1 else []
        layers += [conv_bn(inner, inner, 3, stride, inner, act=act), conv_bn(inner, outputs, 1, act=None)]
        if self.residual:
            layers[0] = Shifted(layers[0])
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MMAMobileNetV2(nn.Module):
    """MobileNetV2 with TSM."""

    out_channels = 1280

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_bn(3, 32, 3, 2, act=nn.ReLU6)
        channels = 32
        stages = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        for number, (expansion, outputs, count, stride) in enumerate(stages, start=1):
            layer = nn.Sequential()
            for index in range(count):
                layer.append(InvertedResidual(channels, outputs, 1 if index else stride, expansion))
                channels = outputs
            self.add_module(f"layer{number}", layer)
        self.conv2 = conv_bn(channels, 1280, 1, act=nn.ReLU6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in range(1, 8):
            x = self.get_submodule(f"layer{number}")(x)
        return self.conv2(x)


class ResNeXtBlock(nn.Module):
    """A bottleneck of MMClassification's ResNeXt, with torchvision's names."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNeXt(nn.Module):
    """ResNeXt with 32 groups of 4 channels in its first stage."""

    def __init__(self, blocks: Sequence[int], groups: int = 32, per_group: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(blocks):
            layer, outputs = nn.Sequential(), 256 * 2**stage
            for index in range(count):
                stride = 2 if index == 0 and stage > 0 else 1
                layer.append(ResNeXtBlock(channels, groups * per_group * 2**stage, outputs, stride, groups))
                channels = outputs
            self.add_module(f"layer{stage + 1}", layer)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class MMARecognizer(nn.Module):
    """A backbone over frames and MMAction2's head: TSM averages the logits of frames, TSN their features."""

    def __init__(self, backbone: nn.Module, classes: int, average_logits: bool) -> None:
        super().__init__()
        self.backbone, self.pool, self.average_logits = backbone, nn.AdaptiveAvgPool2d(1), average_logits
        self.cls_head = nn.Module()
        self.cls_head.fc_cls = nn.Linear(backbone.out_channels, classes)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, Shifted | WithNonLocal):
                module.frames = x.shape[2]
        y = self.pool(self.backbone(x.transpose(1, 2).flatten(0, 1))).flatten(1)
        if self.average_logits:
            return self.cls_head.fc_cls(y).reshape(len(x), x.shape[2], -1).mean(1)
        return self.cls_head.fc_cls(y.reshape(len(x), x.shape[2], -1).mean(1))


# TAdaConv authors ------------------------------------------------------------------------------------------------


class Heads(nn.Module):
    """One linear layer per name; the outputs are concatenated."""

    def __init__(self, features: int, **classes: int) -> None:
        super().__init__()
        for name, count in classes.items():
            self.add_module(name, nn.Linear(features, count))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.children()], 1)


class WithHeads(nn.Module):
    """A backbone and its heads."""

    def __init__(self, backbone: nn.Module, features: int, **classes: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, Heads(features, **classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.backbone(x)
        return self.head(y.mean((2, 3, 4)) if y.ndim == 5 else y)


class ViTAttention(nn.Module):
    """Multi-head self-attention, one head at a time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.to_qkv, self.proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.to_qkv(x).split(x.shape[2], dim=2)
        size = x.shape[2] // self.heads
        outputs = []
        for start in range(0, x.shape[2], size):
            head = slice(start, start + size)
            scores = queries[..., head] @ keys[..., head].transpose(1, 2) / math.sqrt(size)
            outputs.append(scores.softmax(-1) @ values[..., head])
        return self.proj(torch.cat(outputs, 2))


class ViTFeedForward(nn.Module):
    """Two linear layers with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width), nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ViTLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width, eps=1e-6), ViTAttention(width, heads)
        self.norm_ffn, self.ffn = nn.LayerNorm(width, eps=1e-6), ViTFeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.ffn(self.norm_ffn(x))


class FactorizedViT(nn.Module):
    """ViViT: a spatial transformer for each pair of frames, then a temporal one."""

    def __init__(self, frames: int, size: int, patch: int, width: int, depths: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = nn.Conv3d(3, width, (2, patch, patch), (2, patch, patch))
        self.pos_embd = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.temp_embd = nn.Parameter(torch.zeros(1, 1 + frames // 2, width))
        self.cls_token, self.cls_token_out = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.layers, self.layers_temporal = (
            nn.Sequential(*(ViTLayer(width, heads) for _ in range(depth))) for depth in depths
        )
        self.norm, self.norm_out = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        pairs = []
        for frames in x.split(2, dim=2):
            patches = self.stem.conv1(frames).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.cls_token.repeat(len(x), 1, 1), patches], 1) + self.pos_embd
            pairs.append(self.norm(self.layers(tokens))[:, :1])
        tokens = torch.cat([self.cls_token_out.repeat(len(x), 1, 1), *pairs], 1) + self.temp_embd
        return self.norm_out(self.layers_temporal(tokens))[:, 0]


Size = tuple[int, int, int]


class Convs3d(nn.Module):
    """Convolutions and batch norms in sequence, with a ReLU between them.

    Args:
        layers: (name, input channels, output channels, kernel, stride, groups).
    """

    def __init__(self, layers: Sequence[tuple[str, int, int, Size, Size, int]], eps: float, final_relu: bool) -> None:
        super().__init__()
        self.names, self.final_relu = [layer[0] for layer in layers], final_relu
        for name, inputs, outputs, kernel, stride, groups in layers:
            padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
            self.add_module(name, nn.Conv3d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm3d(outputs, eps))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
            if self.final_relu or name != self.names[-1]:
                x = F.relu(x)
        return x


def split_conv(name: str, inputs: int, outputs: int, kernel: Size, stride: Size) -> list[Any]:
    """Layers of a (2+1)D convolution."""
    k, volume = kernel[1] * kernel[2], kernel[0] * kernel[1] * kernel[2]
    inner = math.floor(volume * inputs * outputs / (k * inputs + kernel[0] * outputs))
    return [
        (f"{name}1", inputs, inner, (1, *kernel[1:]), (1, *stride[1:]), 1),
        (f"{name}2", inner, outputs, (kernel[0], 1, 1), (stride[0], 1, 1), 1),
    ]


class Block3d(nn.Module):
    """A residual block of ``kind`` csn, r2d3d or r2plus1d."""

    def __init__(self, kind: str, inputs: int, outputs: int, kernel: Size, stride: Size, eps: float) -> None:
        super().__init__()
        one: Size = (1, 1, 1)
        if kind == "csn":
            inner = outputs // 4
            layers: list[Any] = [
                ("a", inputs, inner, one, one, 1),
                ("b", inner, inner, kernel, stride, inner),
                ("c", inner, outputs, one, one, 1),
            ]
        elif kind == "r2d3d":
            layers = [("a", inputs, outputs, kernel, stride, 1), ("b", outputs, outputs, kernel, one, 1)]
        else:
            layers = split_conv("a", inputs, outputs, kernel, stride) + split_conv("b", outputs, outputs, kernel, one)
        self.conv_branch = Convs3d(layers, eps, final_relu=False)
        if inputs != outputs or stride != one:
            self.short_cut = nn.Conv3d(inputs, outputs, 1, stride, bias=False)
            self.short_cut_bn = nn.BatchNorm3d(outputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.short_cut_bn(self.short_cut(x)) if hasattr(self, "short_cut") else x
        return F.relu(shortcut + self.conv_branch(x))


# kind -> blocks, channels of the stem and stages in 1/64 of the width, kernels, temporal strides of the stages, epsilon
RESNETS_3D: dict[str, tuple[Any, ...]] = {
    "csn": ((3, 8, 36, 3), (64, 256, 512, 1024, 2048), ((3, 7, 7), *[(3, 3, 3)] * 4), (1, 2, 2, 2), 1e-5),
    "r2d3d": (
        (2, 2, 2, 2), (64, 64, 128, 256, 256), ((1, 7, 7), *[(1, 3, 3)] * 2, *[(3, 3, 3)] * 2), (1, 1, 2, 2), 1e-3,
    ),
    "r2plus1d": ((1, 1, 1, 1), (64, 64, 128, 256, 512), ((3, 7, 7), *[(3, 3, 3)] * 4), (1, 2, 2, 2), 1e-3),
}  # fmt: skip


class PlainResNet3d(nn.Module):
    """ir-CSN-152, R-2D3D-18 or R(2+1)D-10."""

    def __init__(self, kind: str, width: int = 64) -> None:
        super().__init__()
        blocks, channels, kernels, temporal, eps = RESNETS_3D[kind]
        channels = [count * width // 64 for count in channels]
        self.pool = kind != "r2plus1d"
        stem: list[Any] = [("a", 3, channels[0], kernels[0], (1, 2, 2), 1)]
        if kind == "r2plus1d":
            stem = split_conv("a", 3, channels[0], kernels[0], (1, 2, 2))
        self.conv1 = Convs3d(stem, eps, final_relu=True)
        for stage, count in enumerate(blocks):
            layer = nn.Module()
            for index in range(count):
                stride = (1, 1, 1) if index or stage == 0 else (temporal[stage], 2, 2)
                inputs = channels[stage + 1] if index else channels[stage]
                block = Block3d(kind, inputs, channels[stage + 1], kernels[stage + 1], stride, eps)
                layer.add_module(f"res_{index + 1}", block)
            self.add_module(f"conv{stage + 2}", layer)
        self.out_channels = channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.pool:
            x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage in (self.conv2, self.conv3, self.conv4, self.conv5):
            for block in stage.children():
                x = block(x)
        return x
