"""TAM in torchvision's networks, as in table 3 of its paper: positions, files, saving."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

import zoo
from zoo.errors import CheckpointError, ConfigError
from zoo.models import build
from zoo.ops import TAM

HOSTS = {  # architecture -> function of torchvision, number of TAMs, height and width of frames
    "shufflenetv2": (tv.shufflenet_v2_x1_0, 16, 32),
    "mobilenetv2": (tv.mobilenet_v2, 16, 32),
    "inceptionv3": (functools.partial(tv.inception_v3, init_weights=False), 11, 75),
    "resnext50": (tv.resnext50_32x4d, 16, 32),
}


def frame_by_frame(host: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([host(frame) for frame in x.unbind(2)]).mean(0)


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_load_torchvision_files_and_can_be_saved(name: str, tmp_path: Path) -> None:
    image: Any = HOSTS[name][0](weights=None).eval()
    torch.save(image.state_dict(), tmp_path / "image.pth")
    video: Any = zoo.load(f"tanet_{name}.in1k", weights=tmp_path / "image.pth")
    assert set(video.report.initialized) == video.operator_keys() and not video.report.published
    assert all(key.startswith("AuxLogits.") for key in video.report.ignored)
    tams = [m for m in video.modules() if isinstance(m, TAM)]
    assert len(tams) == HOSTS[name][1]

    host: Any = zoo.create(f"c2d_{name}", num_classes=1000, num_frames=2)
    image_tensors = {key: value for key, value in video.state_dict().items() if key not in video.operator_keys()}
    host.load_state_dict(image_tensors)
    x = torch.randn(1, 3, 2, HOSTS[name][2], HOSTS[name][2])
    with torch.no_grad():
        if name == "inceptionv3":  # the protocol's mean and std replace transform_input
            assert video.protocol.mean == video.protocol.std == (0.5, 0.5, 0.5)
        torch.testing.assert_close(host(x), frame_by_frame(image, x), rtol=1e-4, atol=1e-5)

        again: Any = zoo.load(zoo.save(video, tmp_path / "saved"))
        assert again.report.as_trained and again.spec.options == video.spec.options
        x = torch.randn(1, 3, 8, HOSTS[name][2], HOSTS[name][2])
        assert torch.equal(again(x), video(x))


def test_hosts_adapt_to_classes_frames_and_channels(tmp_path: Path) -> None:
    video: Any = zoo.create("tanet_mobilenetv2", num_classes=5, num_frames=4, drop_rate=0.3)
    assert video.dropout.p == 0.3 and video.dropout is video.net.classifier[0]
    folder = zoo.save(video, tmp_path / "saved")
    adapted: Any = zoo.load(folder, num_classes=3, num_frames=6, in_channels=2)
    assert adapted(torch.randn(1, 2, 6, 32, 32)).shape == (1, 3)
    assert set(adapted.report.initialized) == {"net.classifier.1.weight", "net.classifier.1.bias"}
    first = "net.features.2.conv.1.0.temporal.G.0.weight"
    assert {first, "net.features.0.0.weight"} <= set(adapted.report.adapted)
    torch.testing.assert_close(adapted.state_dict()[first].sum(1), video.state_dict()[first].sum(1))


def test_tam_follows_the_first_1x1_of_a_resnext_bottleneck() -> None:
    video: Any = zoo.create("tanet_resnext50", num_classes=2, num_frames=2, op_options={"kernel_size": 5})
    block, x = video.net.layer2[0], torch.randn(4, 256, 8, 8)
    with torch.no_grad():
        tam = block.conv2.temporal
        assert tam.kernel_size == 5
        y = F.relu(block.bn1(block.conv1(x)))
        y = F.conv2d(tam(y, 2), block.conv2.weight, stride=2, padding=1, groups=32)
        y = block.bn3(block.conv3(F.relu(block.bn2(y)))) + block.downsample(x)
        torch.testing.assert_close(block(x), F.relu(y))


def test_inception_rejects_small_frames() -> None:
    with torch.device("meta"):
        video = build("tanet_inceptionv3", num_classes=2, num_frames=2)
        assert video(torch.empty(1, 3, 2, 75, 80)).shape == (1, 2)
        with pytest.raises(ConfigError, match="at least 75 x 75 pixels"):
            video(torch.empty(1, 3, 2, 80, 74))


def test_file_of_another_network_is_rejected(tmp_path: Path) -> None:
    torch.save(tv.squeezenet1_1().state_dict(), tmp_path / "image.pth")
    with pytest.raises(CheckpointError, match="not a file of tanet_mobilenetv2.in1k"):
        zoo.load("tanet_mobilenetv2.in1k", weights=tmp_path / "image.pth")
