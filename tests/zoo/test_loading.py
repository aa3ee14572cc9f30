"""load, create, save and convert: loaded, adapted and rejected files and arguments."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import SMALL

import zoo
from zoo import loading
from zoo.errors import CheckpointError, ConfigError, StorageError, UnknownNameError, WeightsNotFoundError
from zoo.index import load_index
from zoo.weights.disk import sha256_of

CLIP = torch.randn(2, 3, 4, 32, 32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Save a small TANet that is trained for four named classes; return its folder."""
    network: Any = zoo.create("tanet_r18", **SMALL, labels=["a", "b", "c", "d"])
    network.fc.bias.data += 0.1  # changed parameters count as trained
    return zoo.save(network, tmp_path / "saved")


@pytest.fixture
def resnet50(tmp_path: Path) -> Path:
    """Write a file with torchvision's ImageNet ResNet-50."""
    import torchvision

    path = tmp_path / "resnet50.pth"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    return path


@pytest.mark.parametrize("arch", ["tanet_r18", "tada2d_r18", "c2d_r18"])
def test_saved_networks_are_loaded_bit_for_bit(arch: str, tmp_path: Path) -> None:
    model = zoo.create(arch, **SMALL, labels=list("abcd"), image_size=64)
    for parameter in model.buffers():
        if parameter.is_floating_point():
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    folder = zoo.save(model, tmp_path / "m")
    for path in (folder, folder / "model.safetensors"):
        again = zoo.load(path)
        assert torch.equal(again(CLIP), model(CLIP))
        assert again.spec.to_config() == model.spec.to_config()
        assert again.report.as_trained
        assert not again.training
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "config.json"}


def test_num_classes_replaces_only_the_head(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = zoo.load(saved, num_classes=7)
    assert model(CLIP).shape == (2, 7)
    assert model.labels is None
    assert model.report.initialized == ("fc.weight", "fc.bias")
    assert caplog.messages == [str(model.report)]
    assert str(model.report).endswith("; untrained: classifier.")
    before, after = zoo.load(saved).state_dict(), model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if not key.startswith("fc."))
    assert zoo.load(saved, num_classes=4).report.as_trained


def test_num_frames_interpolates_tam(saved: Path) -> None:
    """A clip in which each frame is repeated gets the same kernels."""
    model, slow = zoo.load(saved), zoo.load(saved, num_frames=8)
    assert slow(torch.randn(1, 3, 8, 32, 32)).shape == (1, 4)
    keys = [key for key in model.state_dict() if key.endswith("temporal.G.0.weight")]
    assert sorted(slow.report.adapted) == sorted(keys)
    assert "interpolated from 4 to 8 frames" in str(slow.report)
    assert slow.protocol.num_frames == 8
    x = torch.randn(4, 8, 5, 5)
    descriptor = x.mean((2, 3)).T[None]  # (1, C, T)
    fast_kernel = model.layer1[0].temporal.G(descriptor.flatten(0, 1))
    slow_kernel = slow.layer1[0].temporal.G(descriptor.repeat_interleave(2, 2).flatten(0, 1))
    torch.testing.assert_close(slow_kernel, fast_kernel)
    assert zoo.load(zoo.save(slow, saved.parent / "slow")).report.as_trained


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_in_channels_preserves_logits_of_gray_clips(saved: Path, channels: int) -> None:
    model, other = zoo.load(saved), zoo.load(saved, in_channels=channels)
    gray = torch.randn(2, 1, 4, 32, 32)
    torch.testing.assert_close(
        other(gray.expand(-1, channels, -1, -1, -1)), model(gray.expand(-1, 3, -1, -1, -1)), rtol=1e-3, atol=1e-4
    )
    assert list(other.report.adapted) == ["stem.conv.weight"]
    assert len(other.protocol.mean) == channels


def test_image_size_changes_only_the_protocol(saved: Path) -> None:
    model = zoo.load(saved, image_size=96)
    assert (model.protocol.crop, model.protocol.train_crop, model.protocol.resize) == (96, 96, 96)
    assert model.report.as_trained


def test_pretrained_false_builds_the_architecture_of_the_entry(saved: Path) -> None:
    model = zoo.load("tanet_r50.ssv2_8f", pretrained=False, num_classes=3)
    assert model.report.source is None
    assert not model.report.as_trained
    assert model.protocol.sampling == "uniform"


@pytest.mark.parametrize("name", ["c2d_r50.in1k", "tada2d_r50.in1k", "tanet_r50.in1k"])
def test_imagenet_weights_initialize_all_but_operator_and_head(name: str, resnet50: Path) -> None:
    model = zoo.load(name, weights=resnet50, num_classes=5)
    initialized = set(model.report.initialized)
    assert initialized == model.operator_keys() | {"fc.weight", "fc.bias"}
    source = torch.load(resnet50, weights_only=True)
    assert torch.equal(model.layer3[2].conv2.conv.weight, source["layer3.2.conv2.weight"])


def test_half_precision_files_without_counters_load(resnet50: Path, tmp_path: Path) -> None:
    tensors = {k: v.half() for k, v in torch.load(resnet50, weights_only=True).items() if "num_batches" not in k}
    save_file(tensors, tmp_path / "half.safetensors")
    model = zoo.load("c2d_r50.in1k", weights=tmp_path / "half.safetensors")
    assert model.fc.weight.dtype == torch.float32
    assert set(model.report.adapted.values()) == {"cast from float16", "set to 0"}


def use_index_with(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use an index whose digest of the ImageNet ResNet-50 is that of ``file``."""
    text = re.sub(
        r"(?<=sha256_prefix: )\W*0676ba61\W*(?=\n)", f'"{sha256_of(file)[:8]}"', load_index().path.read_text()
    )
    (tmp_path / "index.yaml").write_text(text)
    monkeypatch.setenv("TEMPOZOO_INDEX", str(tmp_path / "index.yaml"))


def test_converted_weights_can_be_loaded_by_name(
    resnet50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_index_with(resnet50, monkeypatch, tmp_path)
    with pytest.raises(WeightsNotFoundError):
        zoo.load("c2d_r50.in1k")
    folder = zoo.convert(resnet50, "c2d_r50.in1k")
    assert folder == tmp_path / "cache" / "c2d_r50.in1k"
    model = zoo.load("c2d_r50.in1k")
    assert len(model.labels) == 1000
    assert model.report.published is True
    config = json.loads((folder / "config.json").read_text())
    assert config["provenance"]["entry"] == "c2d_r50.in1k"
    assert config["provenance"]["file"] == "resnet50.pth"
    assert config["provenance"]["sha256"] == sha256_of(resnet50)
    assert config["sha256"] == sha256_of(folder / "model.safetensors")
    source = torch.load(resnet50, weights_only=True)
    converted = load_file(folder / "model.safetensors")
    assert len(converted) == len(source)
    assert torch.equal(converted["layer4.0.downsample.conv.weight"], source["layer4.0.downsample.0.weight"])


def test_cached_image_weights_report_the_untrained_operator(
    resnet50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_index_with(resnet50, monkeypatch, tmp_path)
    zoo.convert(resnet50, "tanet_r50.in1k")
    direct = zoo.load("tanet_r50.in1k", weights=resnet50)
    cached = zoo.load("tanet_r50.in1k")
    assert cached.report.initialized == direct.report.initialized == tuple(sorted(cached.operator_keys()))
    assert torch.equal(cached.fc.weight, direct.fc.weight)
    # a saved copy contains the operator
    again = zoo.load(zoo.save(cached, tmp_path / "trained"))
    assert again.report.as_trained
    # an untrained operator is built for the requested frames, as published: hidden = 2 T
    for model in (
        zoo.load("tanet_r50.in1k", num_frames=16),
        zoo.load("tanet_r50.in1k", weights=resnet50, num_frames=16),
    ):
        assert model.layer1[0].temporal.G[0].weight.shape == (32, 16)
        assert not model.report.adapted


def test_missing_weights_name_source_and_cache_path(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError) as caught:
        zoo.load("tada2d_r50.k400_8x8", cache_dir=tmp_path)
    text = str(caught.value)
    assert zoo.info("tada2d_r50.k400_8x8").sources[0].url in text
    assert "TEMPOZOO_OFFLINE" in text and f"{tmp_path}/published/drive.google.com/" in text
    assert "\n" not in text


# errors ----------------------------------------------------------------------------------------------------------


def test_unknown_names_suggest_similar_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean .*'tada2d_r50.k400_8x8'"):
        zoo.load("tada2d_r50.k400_8x9")
    with pytest.raises(UnknownNameError, match=r"Its checkpoints: .*tanet_r50.ssv2_16f"):
        zoo.load("tanet_r50")
    with pytest.raises(CheckpointError, match="Folder or file .* does not exist"):
        zoo.load("nowhere/model")


def test_published_file_as_name_explains_the_weights_argument(tmp_path: Path) -> None:
    (tmp_path / "best.pth.tar").touch()
    with pytest.raises(CheckpointError, match=r"best.pth.tar is neither a .safetensors nor a .ckpt file.*weights="):
        zoo.load(tmp_path / "best.pth.tar")


def test_checkpoint_of_another_architecture_is_rejected(saved: Path, resnet50: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(3), "decoder.weight": torch.zeros(3)}, other)
    with pytest.raises(CheckpointError, match=r"other.pth is not a file of tada2d.*2 of its 2 keys.*encoder.weight"):
        zoo.load("tada2d_r50.k400_8x8", weights=other)
    with pytest.raises(CheckpointError, match=r"does not fit.*missing .*temporal.G.0.weight.*wrong shape fc.weight"):
        zoo.load("tanet_r50.k400_8f", weights=resnet50)
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), other)
    with pytest.raises(CheckpointError, match="other.pth does not fit the network: missing layer1.0.conv3"):
        zoo.load("c2d_r50.in1k", weights=other)


def test_one_missing_or_extra_key_is_an_error(resnet50: Path, tmp_path: Path) -> None:
    tensors = torch.load(resnet50, weights_only=True)
    incomplete = {k: v for k, v in tensors.items() if k != "layer2.1.bn2.bias"}
    torch.save(incomplete, tmp_path / "incomplete.pth")
    with pytest.raises(CheckpointError, match=r"missing layer2.1.conv2.bn.bias\. Nothing was loaded"):
        zoo.load("c2d_r50.in1k", weights=tmp_path / "incomplete.pth")
    torch.save(tensors | {"layer2.9.conv1.weight": torch.zeros(1)}, tmp_path / "extra.pth")
    with pytest.raises(CheckpointError, match=r"unexpected layer2.9.conv1.conv.weight"):
        zoo.load("tada2d_r50.in1k", weights=tmp_path / "extra.pth")


@pytest.mark.parametrize("size", [0, 10, 2000, -100])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_rejected_and_leave_no_output(kind: str, size: int, resnet50: Path, tmp_path: Path) -> None:
    tensors = torch.load(resnet50, weights_only=True)
    file = tmp_path / ("cut.safetensors" if kind == "safetensors" else "cut.pth")
    if kind == "safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=kind == "zip")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"cut\.\w+ (is|holds)"):
        zoo.convert(file, "c2d_r50.in1k", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_that_would_run_code_is_rejected(legacy: bool, tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "evil.pth"
    content = {"state_dict": {"conv1.weight": torch.zeros(1)}, "more": Canary(canary)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"evil.pth would run code .*posix.mkdir.*Nothing was run"):
        zoo.load("tanet_r50.k400_8f", weights=file)
    file.write_bytes(pickle.dumps(content["more"]))
    with pytest.raises(CheckpointError, match="evil.pth"):
        zoo.load("tanet_r50.k400_8f", weights=file)
    assert not canary.exists()
    pickle.loads(file.read_bytes())
    assert canary.exists()  # the payload works


def test_web_pages_and_texts_are_rejected(tmp_path: Path) -> None:
    page = tmp_path / "page.pth"
    page.write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    with pytest.raises(CheckpointError, match="web page, not a checkpoint.*quota"):
        zoo.load("tanet_r50.k400_8f", weights=page)
    page.write_text("hello")
    with pytest.raises(CheckpointError, match="page.pth"):
        zoo.load("tanet_r50.k400_8f", weights=page)
    with pytest.raises(CheckpointError, match="Weight file .* does not exist"):
        zoo.load("tanet_r50.k400_8f", weights=tmp_path / "none.pth")


def test_numpy_scalars_of_old_checkpoints_are_ignored(resnet50: Path, tmp_path: Path) -> None:
    tensors = torch.load(resnet50, weights_only=True)
    extras = {"best": np.float64(0.7), "epoch": np.int64(3), "lr": np.float32(0.1), "curve": np.arange(3.0)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}, **extras}, tmp_path / "old.pth")
    assert zoo.load("c2d_r50.in1k", weights=tmp_path / "old.pth").report.as_trained


def test_invalid_arguments_are_named(saved: Path, tmp_path: Path) -> None:
    for arguments, message in (({"num_classes": 1}, "num_classes is 1"), ({"image_size": 3}, "image_size is 3")):
        with pytest.raises(ConfigError, match=message):
            zoo.load(saved, **arguments)
    with pytest.raises(ConfigError, match="has weights of its own"):
        zoo.load(saved, weights=saved / "model.safetensors")
    with pytest.raises(ConfigError, match="Linear has no spec"):
        zoo.save(torch.nn.Linear(2, 2), tmp_path / "x")
    with pytest.raises(CheckpointError, match="is a file. Give a folder"):
        zoo.save(zoo.load(saved), saved / "config.json")
    with pytest.raises(CheckpointError, match="has no model.safetensors"):
        zoo.load(tmp_path)


def test_configs_of_other_formats_are_rejected(saved: Path) -> None:
    file = saved / "config.json"
    config = json.loads(file.read_text())
    for change, message in (
        ({"tempozoo": 2}, "written in format 2"),
        ({"options": {}}, "lacks options.num_classes"),
        ({"protocol": config["protocol"] | {"sampling": "guess"}}, "sampling is 'guess'; choose from"),
    ):
        file.write_text(json.dumps(config | change))
        with pytest.raises(ConfigError, match=message):
            zoo.load(saved)


@pytest.mark.skipif(os.name != "posix", reason="requires POSIX permissions")
def test_config_and_weights_have_the_same_permissions(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        folder = zoo.save(zoo.create("tanet_r18", **SMALL), tmp_path / "shared")
    finally:
        os.umask(umask)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
        "config.json": "0o640",
        "model.safetensors": "0o640",
    }


def test_failed_write_keeps_the_previous_files(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = (saved / "model.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.weights.model_folder.save_file", full)
    with pytest.raises(StorageError, match="No space left on the disk of .*saved"):
        zoo.save(zoo.create("tanet_r18", **SMALL), saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert len(list(saved.iterdir())) == 2


def test_report_is_one_line() -> None:
    report = loading.LoadReport(
        "n",
        "f.pth",
        "0",
        False,
        adapted={"a": "halved", "b": "halved"},
        ignored=("c",),
        untrained_parts=("classifier",),
    )
    assert (
        str(report)
        == "n: weights from f.pth; SHA-256 differs from the index; untrained: classifier; a, b halved; not used: c."
    )
