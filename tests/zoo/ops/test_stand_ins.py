"""What stands for a convolution of an image network, against the convolution itself."""

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
def test_stand_ins_keep_the_shape_of_a_convolution(op: str, shape: dict[str, Any]) -> None:
    conv, x = nn.Conv2d(8, 12, 3, **shape).double(), torch.randn(2 * T, 8, 9, 10, dtype=torch.double)
    made: Any = stand_in(op, conv, T).eval()
    assert isinstance(made, nn.Conv2d) and made.weight.dtype == torch.double
    if op == "i3d":
        assert made.weight.shape == (12, 8 // conv.groups, 3, 3, 3)
        frames = x.unflatten(0, (2, T))
        bias = 0 if conv.bias is None else conv.bias[:, None, None]
        taps = [conv(f.flatten(0, 1)) - bias for f in (frames.roll(1, 1), frames, frames.roll(-1, 1))]
        before, here, after = (y.unflatten(0, (2, T)) for y in taps)
        before[:, 0], after[:, -1] = 0, 0
        wanted = ((before + here + after) / 3).flatten(0, 1) + bias
    else:
        assert made.weight is conv.weight and made.bias is conv.bias
        wanted = conv(made.temporal(x, T) if hasattr(made, "temporal") else x)
    torch.testing.assert_close(made(x), wanted)


@pytest.mark.parametrize("op", ["tadaconv", "tadaconv_v2"])
@pytest.mark.parametrize("out_channels", [8, 16])
def test_depthwise_convolutions_are_calibrated_on_their_output(op: str, out_channels: int) -> None:
    conv = nn.Conv2d(8, out_channels, 5, padding=2, groups=8).double()
    made: Any = stand_in(op, conv, T, reduction=1).eval()
    nn.init.normal_(made.routing.b.weight)
    if made.routing.b_bias is not None:
        nn.init.normal_(made.routing.b_bias.weight)
    x = torch.randn(2 * T, 8, 7, 7, dtype=torch.double)
    alpha, beta = made.routing(x.mean((2, 3)).unflatten(0, (2, T)).transpose(1, 2))  # (B, C_out, T)
    assert alpha.shape == (2, out_channels, T) and (beta is None) == (op == "tadaconv")
    assert alpha.std() > 0.01
    scales = alpha.transpose(1, 2).flatten(0, 1)
    shifts = torch.ones_like(scales) if beta is None else beta.transpose(1, 2).flatten(0, 1)
    wanted = [
        F.conv2d(frame[None], conv.weight * a[:, None, None, None], conv.bias * b, padding=2, groups=8)
        for frame, a, b in zip(x, scales, shifts, strict=True)
    ]
    torch.testing.assert_close(made(x), torch.cat(wanted))


def test_stand_ins_keep_mode_type_and_device() -> None:
    conv = nn.Conv2d(4, 4, 3, device="meta", dtype=torch.bfloat16).eval()
    conv.weight.requires_grad_(False)
    for op in STAND_INS:
        made = stand_in(op, conv, T)
        assert not made.training and not made.weight.requires_grad
        assert {(p.device.type, p.dtype) for p in made.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(("wrong", "error"), [({"op": None}, UnknownNameError), ({"where": 3}, ConfigError)])
def test_wrong_types_are_named(wrong: dict, error: type) -> None:
    with pytest.raises(error, match="None|where is 3"):
        temporalize(tv.resnet18(num_classes=4), **wrong)
