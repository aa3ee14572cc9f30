"""Temporal replacements of image convolutions, compared with the convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn

from zoo.errors import ConfigError, UnknownNameError
from zoo.models.temporalize import temporalize
from zoo.ops import OPERATORS
from zoo.ops.stand_in import stand_in

T = 3
SHAPES: list[dict[str, Any]] = [
    {"stride": 2, "padding": 1},
    {"groups": 4, "bias": False},
    {"dilation": 2, "padding": (2, 1)},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "circular", "dilation": 2},
    {"padding": "same", "groups": 2},
]

STAND_INS = [name for name, operator in OPERATORS.items() if operator.stand_in is not None]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", STAND_INS)
def test_stand_ins_equal_the_convolution_up_to_the_operator(op: str, shape: dict[str, Any]) -> None:
    conv, x = nn.Conv2d(8, 12, 3, **shape).double(), torch.randn(2 * T, 8, 9, 10, dtype=torch.double)
    replacement: Any = stand_in(op, conv, T).eval()
    assert isinstance(replacement, nn.Conv2d) and replacement.weight.dtype == torch.double
    if op == "i3d":
        assert replacement.weight.shape == (12, 8 // conv.groups, 3, 3, 3)
        frames = x.unflatten(0, (2, T))
        bias = 0 if conv.bias is None else conv.bias[:, None, None]
        taps = [conv(f.flatten(0, 1)) - bias for f in (frames.roll(1, 1), frames, frames.roll(-1, 1))]
        previous, current, following = (y.unflatten(0, (2, T)) for y in taps)
        previous[:, 0], following[:, -1] = 0, 0
        expected = ((previous + current + following) / 3).flatten(0, 1) + bias
    else:
        assert replacement.weight is conv.weight and replacement.bias is conv.bias
        expected = conv(replacement.temporal(x, T) if hasattr(replacement, "temporal") else x)
    torch.testing.assert_close(replacement(x), expected)


@pytest.mark.parametrize("op", ["tadaconv", "tadaconv_v2"])
@pytest.mark.parametrize("out_channels", [8, 16])
def test_depthwise_convolutions_calibrate_their_output(op: str, out_channels: int) -> None:
    conv = nn.Conv2d(8, out_channels, 5, padding=2, groups=8).double()
    replacement: Any = stand_in(op, conv, T, reduction=1).eval()
    nn.init.normal_(replacement.routing.b.weight)
    if replacement.routing.b_bias is not None:
        nn.init.normal_(replacement.routing.b_bias.weight)
    x = torch.randn(2 * T, 8, 7, 7, dtype=torch.double)
    alpha, beta = replacement.routing(x.mean((2, 3)).unflatten(0, (2, T)).transpose(1, 2))  # (B, C_out, T)
    assert alpha.shape == (2, out_channels, T) and (beta is None) == (op == "tadaconv")
    assert alpha.std() > 0.01
    scales = alpha.transpose(1, 2).flatten(0, 1)
    shifts = torch.ones_like(scales) if beta is None else beta.transpose(1, 2).flatten(0, 1)
    expected = [
        F.conv2d(frame[None], conv.weight * a[:, None, None, None], conv.bias * b, padding=2, groups=8)
        for frame, a, b in zip(x, scales, shifts, strict=True)
    ]
    torch.testing.assert_close(replacement(x), torch.cat(expected))


def test_stand_ins_preserve_mode_dtype_and_device() -> None:
    conv = nn.Conv2d(4, 4, 3, device="meta", dtype=torch.bfloat16).eval()
    conv.weight.requires_grad_(False)
    for op in STAND_INS:
        replacement = stand_in(op, conv, T)
        assert not replacement.training and not replacement.weight.requires_grad
        assert {(p.device.type, p.dtype) for p in replacement.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(("options", "error"), [({"op": None}, UnknownNameError), ({"where": 3}, ConfigError)])
def test_arguments_of_wrong_type_are_named(options: dict, error: type) -> None:
    with pytest.raises(error, match="None|where is 3"):
        temporalize(tv.resnet18(num_classes=4), **options)
