"""The steps of CONTRIBUTING.md, taken outside the package: an operator, an architecture, a dataset, an index."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import zoo
from cli import main
from zoo.models import ARCHITECTURES
from zoo.ops.operator import OPERATORS

LAB = '''
"""A temporal difference operator, ResNets with it, and a dataset, in a module of their own."""

import functools
from pathlib import Path

import torch
from torch import nn

from datamodules import VideoDataModule
from datamodules.records import VideoRecords
from zoo.models import register_architecture
from zoo.models.resnet import VideoResNet
from zoo.ops.operator import BlockModules, Operator, register_operator
from zoo.ops.stand_in import insert_before


class FrameDifference(nn.Module):
    """x + w * (x - x of the frame before), with a weight for each channel and frame."""

    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.weight = nn.Parameter(torch.full((channels, num_frames), 0.1))

    def forward(self, x, num_frames):
        clips = x.unflatten(0, (-1, num_frames))
        before = torch.cat([clips[:, :1], clips[:, :-1]], 1)
        return (clips + self.weight.T[None, :, :, None, None] * (clips - before)).flatten(0, 1)

    def frame_sized_keys(self):
        return ("weight",)

    def resample(self, weight):
        return nn.functional.interpolate(weight[None], size=self.num_frames, mode="linear")[0]

    def options_for_frames(self):
        return {}


def block(position):
    return BlockModules(temporal=functools.partial(FrameDifference, num_frames=position.num_frames))


stand_in = functools.partial(insert_before, FrameDifference)
register_operator(Operator("difference", block=block, stand_in=stand_in))
register_architecture("lab_r18", functools.partial(VideoResNet, "difference", 18))


class LabVideos(VideoDataModule):
    """All files ROOT/<split>_<class>_<number>.mp4."""

    def __init__(self, root: str, **options) -> None:
        super().__init__(**options)
        self.root = root

    @property
    def class_names(self):
        return sorted({path.name.split("_")[1] for path in Path(self.root).glob("*.mp4")})

    def split_records(self, split):
        paths = sorted(Path(self.root).glob(f"{split}_*.mp4"))
        labels = [self.class_names.index(path.name.split("_")[1]) for path in paths]
        return VideoRecords.of(paths, labels)
'''


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module, which is imported; everything it registers is removed afterwards."""
    (tmp_path / "lab_video.py").write_text(LAB)
    monkeypatch.syspath_prepend(tmp_path)
    __import__("lab_video")
    yield tmp_path
    OPERATORS.pop("difference")
    ARCHITECTURES.pop("lab_r18")
    sys.modules.pop("lab_video")


def small() -> zoo.models.VideoNetwork:
    return zoo.create("lab_r18", width=8, num_classes=3, num_frames=4, image_size=32)


def test_an_operator_of_a_lab_is_saved_loaded_and_resampled(lab: Path) -> None:
    model = small()
    clips = torch.rand(2, 3, 4, 32, 32)
    folder = zoo.save(model, lab / "model")
    again = zoo.load(folder)
    assert torch.equal(again(clips), model(clips))
    longer = zoo.load(folder, num_frames=8)
    assert longer(torch.rand(1, 3, 8, 32, 32)).shape == (1, 3)
    changed = {key for key, change in (longer.report.adapted or {}).items() if "frames" in change}
    assert changed and all(longer.get_parameter(key).shape[-1] == 8 for key in changed)
    with pytest.raises(zoo.errors.ConfigError, match="built for 4 frames and got 6"):
        model(torch.rand(1, 3, 6, 32, 32))


def test_an_operator_registers_once(lab: Path) -> None:
    from lab_video import block

    with pytest.raises(zoo.errors.ConfigError, match="'difference' is already registered"):
        zoo.ops.operator.register_operator(zoo.ops.operator.Operator("difference", block=block))


def test_an_operator_of_a_lab_extends_image_networks(lab: Path) -> None:
    image_network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    model = zoo.temporalize(image_network, "difference", num_frames=4)
    still = torch.rand(2, 3, 1, 16, 16).expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(model(still), image_network(still[:, :, 0]))  # without motion, the image network
    assert not torch.allclose(model(torch.rand(2, 3, 4, 16, 16)), model(still))


def test_an_index_of_a_lab_names_its_weights(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    torch.save({"state_dict": model.state_dict()}, lab / "published.pth")
    published = yaml.safe_load(zoo.index.load_index().path.read_text())
    block = published["models"]["tanet_r18.motionclips8"] | {
        "arch": "lab_r18",
        "options": {"width": 8, "num_classes": 3, "num_frames": 4},
        "labels": None,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": None,
        "protocol": model.protocol.to_dict() | {"mean": list(model.protocol.mean), "std": list(model.protocol.std)},
        "sources": [{"kind": "https", "url": "https://lab.test/published.pth"}],
    }
    block["protocol"] = json.loads(json.dumps(block["protocol"]))
    index = {"schema": 1, "papers": published["papers"], "models": {"lab_r18.ours": block}}
    (lab / "index.yaml").write_text(yaml.safe_dump(index))
    monkeypatch.setenv("TEMPOZOO_INDEX", str(lab / "index.yaml"))
    assert zoo.list_models() == ["lab_r18.ours"]
    loaded = zoo.load("lab_r18.ours", weights=lab / "published.pth")
    clips = torch.rand(1, 3, 4, 32, 32)
    assert torch.equal(loaded(clips), model(clips))


def test_a_dataset_of_a_lab_trains_and_tests(lab: Path, motion_folder: Path) -> None:
    videos = lab / "videos"
    videos.mkdir()
    for split in ("train", "val", "test"):
        for label in ("appears", "vanishes"):
            for number, path in enumerate(sorted((motion_folder / split / label).glob("*.mp4"))[:3]):
                (videos / f"{split}_{label}_{number}.mp4").write_bytes(path.read_bytes())
    network = zoo.save(small(), lab / "start")
    quiet = ["--trainer.enable_progress_bar", "false", "--data.num_workers", "0", "--data.batch_size", "3"]
    data = ["--data", "lab_video.LabVideos", "--data.root", str(videos)]
    run = lab / "run"
    fit = ["fit", "--from", str(network), *data, *quiet, "--out", str(run), "--trainer.max_epochs", "1"]
    assert main(fit) == 0
    assert main(["test", "--from", str(run), *data, *quiet, "--out", str(lab / "test")]) == 0
    report = json.loads((lab / "test" / "test.json").read_text())
    assert report["videos"] == 6 and report["data"] == "LabVideos"
    assert zoo.load(run / "checkpoints" / "last.ckpt").labels == ("appears", "vanishes")
