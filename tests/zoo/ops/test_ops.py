"""Operators and networks compared with literal implementations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import SMALL
from torch import Tensor

import zoo
from zoo.errors import ConfigError, UnknownNameError
from zoo.ops import TAM, TAdaConv2d, TAdaConvBN
from zoo.ops.average_norm import temporal_average
from zoo.ops.frames import spatial_mean
from zoo.ops.tam import adaptive_temporal_conv, resample_frames


def kernel_per_frame(x: Tensor, alpha: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """TAdaConv as defined in the paper: one kernel per frame, computed as N groups of one convolution."""
    kernels = alpha[:, None, :, None, None] * weight  # (N, O, I, k, k)
    y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), None, stride, padding, groups=len(x))
    return y.unflatten(1, (len(x), -1))[0]


@pytest.mark.parametrize("stride", [1, 2])
def test_tadaconv_equals_a_kernel_per_frame(stride: int) -> None:
    layer = TAdaConv2d(16, 5, 3, stride=stride, padding=1).double().eval()
    torch.nn.init.normal_(layer.routing.b.weight)
    x = torch.randn(2 * 4, 16, 7, 9, dtype=torch.double)
    alpha = layer.routing(spatial_mean(x, 4))[0].transpose(1, 2).flatten(0, 1)
    assert alpha.std() > 0.1
    torch.testing.assert_close(layer(x, 4), kernel_per_frame(x, alpha, layer.weight, stride, 1))


def test_tadaconv_unit_starts_as_convolution_and_norm() -> None:
    unit = TAdaConvBN(6, 8, 3, stride=2).eval()
    x = torch.randn(8, 6, 9, 9)
    assert torch.equal(unit(x, 4), unit.bn(F.conv2d(x, unit.conv.weight, stride=2, padding=1)))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_temporal_average_equals_average_pooling_without_padding(frames: int) -> None:
    y = torch.randn(2, frames, 3, 4, 5)
    clip = F.pad(y.transpose(1, 2), (0, 0, 0, 0, 1, 1))
    expected = F.avg_pool3d(clip, (3, 1, 1), stride=1).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(temporal_average(y.flatten(0, 1), frames), expected)


@pytest.mark.parametrize("taps", [1, 3, 5])
def test_adaptive_temporal_convolution_equals_grouped_convolution(taps: int) -> None:
    batch, frames, channels = 2, 4, 3
    x = torch.randn(batch * frames, channels, 2, 3, dtype=torch.double)
    gate = torch.rand(batch, channels, frames, dtype=torch.double)
    kernel = torch.rand(batch, channels, taps, dtype=torch.double)
    gated = x.unflatten(0, (batch, frames)).transpose(1, 2) * gate[..., None, None]  # (B, C, T, H, W)
    rows = gated.flatten(3).flatten(0, 1)[None]  # (1, B*C, T, HW)
    expected = F.conv2d(rows, kernel.flatten(0, 1)[:, None, :, None], padding=(taps // 2, 0), groups=batch * channels)
    expected = expected[0].unflatten(0, (batch, channels)).unflatten(3, (2, 3)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(adaptive_temporal_conv(x, gate, kernel), expected)
    inputs = [v.requires_grad_() for v in (x, gate, kernel)]
    assert torch.autograd.gradcheck(adaptive_temporal_conv, inputs)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (8, 4), (4, 12)])
def test_resampled_tam_weights_are_invariant_to_playback_speed(old: int, new: int) -> None:
    weight, clip = torch.randn(5, old), torch.randn(old)
    resampled = resample_frames(weight, new)
    torch.testing.assert_close(resampled.sum(1), weight.sum(1))
    if new > old:
        torch.testing.assert_close(resampled @ clip.repeat_interleave(new // old), weight @ clip)
    else:
        short = torch.randn(new)
        torch.testing.assert_close(resampled @ short, weight @ short.repeat_interleave(old // new))


def test_tam_rejects_even_kernels_and_other_frame_counts() -> None:
    with pytest.raises(ConfigError, match="odd"):
        TAM(8, 4, kernel_size=4)
    with pytest.raises(ConfigError, match="built for 4 frames and got 5"):
        TAM(8, 4)(torch.randn(5, 8, 3, 3), 5)


@pytest.mark.parametrize("arch", ["tada2d_r50", "tanet_r50", "c2d_r50", "stam_r50", "nonlocal_r50"])
def test_keys_without_operator_match_torchvision(arch: str) -> None:
    """Without the operator's keys, the state dict has the keys and shapes of an image ResNet-50."""
    import torchvision

    from zoo.weights.converters import CONVERTERS, apply_rules

    with torch.device("meta"):
        image = torchvision.models.resnet50().state_dict()
    conversion = apply_rules(CONVERTERS["torchvision"], image)
    assert not conversion.unknown
    model = zoo.create(arch, num_classes=1000)
    assert set(model.state_dict()) - model.operator_keys() == set(conversion.tensors)
    assert all(model.state_dict()[key].shape == value.shape for key, value in conversion.tensors.items())


def test_untrained_tada2d_averages_the_image_networks_logits() -> None:
    """The operator is initialized as the identity, so the logits of a clip are the mean over its frames."""
    image = zoo.create("c2d_r18", **SMALL, stem_pool=False)
    video = zoo.create("tada2d_r18", **SMALL)
    state = video.state_dict()
    video.load_state_dict(state | image.state_dict())
    x = torch.randn(2, 3, 4, 40, 40)
    frames = torch.stack([image(x[:, :, t : t + 1]) for t in range(4)]).mean(0)
    torch.testing.assert_close(video(x), frames, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": 1}, ConfigError, "num_classes is 1"),
        ({"num_frames": 0}, ConfigError, "num_frames is 0"),
        ({"width": 2.5}, ConfigError, "width is 2.5"),
        ({"drop_rate": 1.0}, ConfigError, "drop_rate is 1.0"),
        ({"depth": 50}, ConfigError, "depth"),
        ({"op_options": {"taps": 3}}, ConfigError, "taps"),
    ],
)
def test_create_names_invalid_options(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        zoo.create("tanet_r18", **options)


def test_unknown_architecture_suggests_similar_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tanet_r50'"):
        zoo.create("tanet_r5O")


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (1, 1, 4, 32, 32)])
def test_clips_with_wrong_shape_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"takes clips \(B, 3, T, H, W\)"):
        zoo.create("c2d_r18", **SMALL)(torch.randn(shape))


def test_tanet_rejects_other_frame_counts() -> None:
    with pytest.raises(ConfigError, match="built for 4 frames and got 6; load it with num_frames=6"):
        zoo.create("tanet_r18", **SMALL)(torch.randn(1, 3, 6, 32, 32))
