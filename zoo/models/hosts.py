"""TAM and TSM in other image networks: ShuffleNetV2, MobileNetV2, InceptionV3 and ResNeXt of torchvision.

Source of TAM: arXiv 2005.06803, table 3, which lists the hosts (ShuffleNetV2 and MobileNetV2 at width 1.0, ResNeXt-50
32x4d) but not the positions of TAM in them. In ResNeXt the position is that of TANet: between the first 1x1 and the 3x3
convolution of every bottleneck. The positions in the others are our choice by analogy:

- ShuffleNetV2, MobileNetV2: before the depthwise 3x3 convolution of every block that has a 1x1 before it (in
  ShuffleNetV2's second branch; in MobileNetV2 after the expansion, which the first block lacks).
- InceptionV3: once in every mixed block, before the second convolution of the longest branch, or of the 3x3 branch in
  the last reduction.

TSM precedes the first 1x1 convolution of every block of MobileNetV2 with a residual connection, as in MMAction2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import check_counts, check_num_classes, check_rate
from zoo.models.temporalize import TemporalNetwork, temporalize
from zoo.ops.operator import OPERATORS


@dataclass(frozen=True)
class Host:
    """An image network of torchvision and the positions of temporal operators in it.

    builder: name of the function in ``torchvision.models``.
    where: names of the convolutions that get an operator, as shell patterns.
    options: arguments of the builder.
    min_size: minimum height and width of its input, pixels.
    shifted: names of the convolutions that get TSM, if they are not those of ``where``.
    """

    builder: str
    where: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    min_size: int = 1
    shifted: Sequence[str] | None = None


HOSTS: dict[str, Host] = {
    "shufflenetv2": Host("shufflenet_v2_x1_0", ("stage?.*.branch2.3",)),
    "mobilenetv2": Host(
        "mobilenet_v2",
        ("features.*.conv.1.0",),
        shifted=("features.[35689].conv.0.0", "features.1[02356].conv.0.0"),
    ),
    "inceptionv3": Host(
        "inception_v3",
        (
            "Mixed_5?.branch3x3dbl_2.conv",
            "Mixed_6a.branch3x3dbl_2.conv",
            "Mixed_6[bcde].branch7x7dbl_2.conv",
            "Mixed_7a.branch3x3_2.conv",
            "Mixed_7[bc].branch3x3dbl_2.conv",
        ),
        # the auxiliary classifier is for training from scratch only; the protocol has the mean and std
        {"aux_logits": False, "transform_input": False, "init_weights": True},
        min_size=75,
    ),
    "resnext50": Host("resnext50_32x4d", ("layer?.*.conv2",)),
    "resnext101": Host("resnet101", ("layer?.*.conv2",), {"groups": 32, "width_per_group": 4}),
}


def build_host(
    name: str,
    op: str = "none",
    *,
    num_classes: int = 400,
    num_frames: int = 8,
    in_channels: int = 3,
    drop_rate: float = 0.5,
    op_options: Mapping[str, Any] | None = None,
) -> TemporalNetwork:
    """Create a video network from a torchvision host, with random weights.

    Args:
        name: a key of ``HOSTS``.
        op: "none", or an operator of ``temporalize``.
        num_frames: T of a clip. TAM requires it; the other operators accept any T.
        drop_rate: probability of dropout before the classifier.
        op_options: options of the operator, e.g. ``{"kernel_size": 5}`` for TAM.

    Raises:
        ConfigError, UnknownNameError: an option is invalid.
    """
    import torchvision  # here, because importing zoo must not import torchvision

    check_num_classes(num_classes)
    check_counts(num_frames=num_frames, in_channels=in_channels)
    check_rate("drop_rate", drop_rate)
    host = HOSTS[name]
    net = getattr(torchvision.models, host.builder)(weights=None, num_classes=num_classes or 1, **host.options)
    if op == "none":
        network = TemporalNetwork(net, num_frames)
    else:
        where = host.shifted if op == "tsm" and host.shifted else host.where
        network = temporalize(net, op, where, num_frames, inplace=True, **(op_options or {}))
    network.min_size, network.dropout.p = host.min_size, drop_rate
    if in_channels != 3:
        network.reset_stem(in_channels)
    network.classifier_std = OPERATORS[op].classifier_std
    network.reset_classifier(num_classes)
    return network
