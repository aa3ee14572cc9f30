"""Untrained parts: they are named, survive saving, and keep validate, test, predict and push from being misleading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from loopback_hub import LoopbackHub
from small_models import SMALL, small
from tiny_zoo import NAMES, write_index

import zoo
from cli import main
from datamodules import VideoFiles, VideoFolder
from lit_modules import VideoClassifier
from lit_modules.network import match_classes
from zoo.adapt import name_parts
from zoo.errors import ConfigError
from zoo.hub.push import push
from zoo.weights.lightning_checkpoint import read_checkpoint

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--data.num_workers", "0"]
LABELS = ["a", "b", "c", "d"]


def train(network: Any) -> Any:
    """Change every parameter, as an optimizer does."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    return network


def write_start(folder: Path, monkeypatch: pytest.MonkeyPatch, arch: str = "tanet_r18", image: str = "c2d_r18") -> str:
    """Put an index entry of image weights without the operator of ``arch`` into the cache; returns its name."""
    path = write_index(folder / "index.yaml", arch=arch, init=True, labels=None)
    content = yaml.safe_load(path.read_text())
    content["models"] = {f"{arch}.start": content["models"][NAMES["web"]]}
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("TEMPOZOO_INDEX", str(path))
    torch.save(zoo.create(image, **SMALL).state_dict(), folder / "image.pth")
    zoo.convert(folder / "image.pth", f"{arch}.start")
    return f"{arch}.start"


@pytest.mark.parametrize(
    ("arch", "parts"),
    [
        ("tanet_r18", ("8 TAM modules",)),
        ("tada2d_r50", ("pool_bn of 16 TAdaConvBN modules", "routing of 16 TAdaConv2d modules")),
        ("tadaformer_b16", ("2 TAdaBlock modules",)),
        ("tadaconvnext_tiny", ("routing of 18 TAdaConv2d modules",)),
    ],
)
def test_name_parts_names_modules_and_counts_them(arch: str, parts: tuple[str, ...]) -> None:
    network = small(arch)
    operator = network.operator_keys()
    assert name_parts(network, operator) == parts
    assert name_parts(network, {*operator, "fc.weight", "fc.bias"}) == (*parts, "classifier")
    assert name_parts(network, network.state_dict()) == ("all weights",)
    assert name_parts(network, ["no such key"]) == ()


def test_load_names_the_parts_in_its_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network: Any = zoo.load(write_start(tmp_path, monkeypatch), num_classes=7)
    assert "; a start for fine-tuning; untrained: 8 TAM modules, classifier." in caplog.messages[-1]
    assert set(network.report.untrained) == network.operator_keys() | {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("kind", ["random", "start", "start without operator keys", "new classifier"])
def test_saved_networks_stay_untrained_until_they_are_trained(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network: Any
    if kind == "random":
        network = zoo.create("tanet_r18", **SMALL)
    elif kind == "new classifier":
        network = zoo.load(zoo.save(train(zoo.create("tanet_r18", **SMALL)), tmp_path / "trained"))
        assert not network.report.untrained
        network.reset_classifier(5)
        assert network.report.untrained_parts == ("classifier",)
    else:
        network = zoo.load(write_start(tmp_path, monkeypatch, "tanet_r18" if kind == "start" else "tsm_r18"))
    report = network.report
    assert report.untrained or report.start_only

    again: Any = zoo.load(zoo.save(network, tmp_path / "again"))
    assert (set(again.report.untrained), again.report.start_only) == (set(report.untrained), report.start_only)
    assert again.report.untrained_parts == report.untrained_parts
    once_more: Any = zoo.load(zoo.save(again, tmp_path / "once more"))
    assert once_more.report.untrained == again.report.untrained

    trained: Any = zoo.load(zoo.save(train(once_more), tmp_path / "trained later"))
    assert not trained.report.untrained and not trained.report.start_only


def test_a_trained_head_on_a_frozen_network_counts_as_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = zoo.load(write_start(tmp_path, monkeypatch), num_classes=3)
    train(network.fc)
    assert not zoo.load(zoo.save(network, tmp_path / "saved")).report.untrained


def test_rows_of_a_trained_classifier_stay_trained(tmp_path: Path) -> None:
    random = zoo.create("c2d_r18", **SMALL, labels=LABELS)
    assert match_classes(random, ["b", "a"]).startswith("cut down")
    assert random.report.untrained_parts == ("all weights",)
    network: Any = zoo.load(zoo.save(train(zoo.create("c2d_r18", **SMALL, labels=LABELS)), tmp_path / "saved"))
    assert match_classes(network, ["b", "a"]).startswith("cut down")
    assert not network.report.untrained


@pytest.fixture(params=["index entry", "saved", "hub", "step 0", "architecture"])
def untrained(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: LoopbackHub
) -> tuple[list[str], str]:
    """Options that choose an untrained network, and how a message describes it."""
    if request.param == "architecture":
        return ["--model.name", "tanet_r18"], "tanet_r18 has random weights."
    name = start = write_start(tmp_path, monkeypatch)
    if request.param == "saved":
        name = str(zoo.save(zoo.load(start), tmp_path / "saved"))
    elif request.param == "hub":
        push(zoo.load(start), "alice/start", progress=False)
        name = "hf-hub:alice/start"
    elif request.param == "step 0":
        name = str(tmp_path / "step0.ckpt")
        trainer = L.Trainer(max_epochs=0, logger=False, accelerator="cpu", default_root_dir=tmp_path)
        trainer.strategy.connect(VideoClassifier(start))
        trainer.save_checkpoint(name)
    return ["--model.name", name], f"{name} is a start for fine-tuning; untrained: 8 TAM modules."


def test_predict_rejects_untrained_parts_unless_allowed(
    untrained: tuple[list[str], str],
    motion_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options, description = untrained
    monkeypatch.setenv("TEMPOZOO_OFFLINE", "0")
    options = ["--model", "VideoClassifier", *options, *QUIET, "--out", str(tmp_path / "out")]
    if "tanet_r18" in options:
        options += ["--model.options", '{"width": 8}', "--model.image_size", "32"]
    command = ["predict", str(next((motion_folder / "test" / "meets").iterdir())), *options]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert description in said and "--allow_untrained" in said
    assert not (tmp_path / "out").exists()
    assert main([*command, "--allow_untrained"]) == 0
    assert f"{description} The scores are not those of a trained network." in caplog.messages
    assert (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.parametrize("command", ["test", "validate"])
def test_test_and_validate_reject_untrained_parts_unless_allowed(
    command: str, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    classes = sorted(path.name for path in (motion_folder / "test").iterdir())
    folder = zoo.save(zoo.create("tanet_r18", **SMALL, labels=classes, image_size=32), tmp_path / "random")
    arguments = [command, "--from", str(folder), "--data", "VideoFolder", "--data.root", str(motion_folder)]
    arguments += [*QUIET, "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert f"{folder} has random weights. Fine-tune with" in capsys.readouterr().err
    assert main([*arguments, "--allow_untrained"]) == 0


def test_labels_of_images_are_named_in_the_refusal(
    tmp_path: Path, motion_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    import torchvision

    video = str(next((motion_folder / "test" / "meets").iterdir()))
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "image.pth")
    weights = ["--model.weights", str(tmp_path / "image.pth")]
    for name, parts in (("tanet_mobilenetv2.in1k", "; untrained: 16 TAM modules."), ("c2d_mobilenetv2.in1k", ".")):
        assert main(["predict", "--from", name, *weights, video, "--out", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        expected = f"{name} is a start for fine-tuning{parts} Its labels are those of images (ImageNet-1k)"
        assert expected in said


def test_python_users_get_an_error_before_a_fit_and_none_after(motion_folder: Path, tmp_path: Path) -> None:
    module = VideoClassifier("tanet_r18", options={"width": 8}, num_frames=4, image_size=32, num_classes=4)

    def trainer(**options: Any) -> L.Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        return L.Trainer(logger=False, accelerator="cpu", default_root_dir=tmp_path, **quiet, **options)

    files = VideoFiles([motion_folder / "test"], num_workers=0)
    with pytest.raises(ConfigError, match="tanet_r18 has random weights"):
        trainer().predict(module, files)
    trained = trainer(max_steps=1)
    trained.fit(module, datamodule=VideoFolder(motion_folder, batch_size=8, num_workers=0))
    assert len(trained.predict(module, files) or []) == 2
    trained.save_checkpoint(tmp_path / "last.ckpt")
    assert not {"initialized", "start_only"} & set(read_checkpoint(tmp_path / "last.ckpt")[1]["provenance"])
    assert not VideoClassifier(str(tmp_path / "last.ckpt")).untrained


def test_weights_that_another_process_trained_are_not_rejected(motion_folder: Path, tmp_path: Path) -> None:
    """With "ddp_spawn" and "ddp_fork", the module of the first process gets the weights and nothing else."""
    module = VideoClassifier("tanet_r18", options={"width": 8}, num_frames=4, image_size=32, num_classes=4)
    train(module.network)
    trainer = L.Trainer(logger=False, accelerator="cpu", default_root_dir=tmp_path, enable_progress_bar=False)
    assert trainer.predict(module, VideoFiles([motion_folder / "test"], num_workers=0))


def test_cards_of_untrained_networks_name_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: LoopbackHub
) -> None:
    start = write_start(tmp_path, monkeypatch)
    for network, expected in (
        (zoo.create("tanet_r18", **SMALL), ["**Not a trained network.**", "Untrained: all weights."]),
        (zoo.load(start, num_classes=3), ["**A start for fine-tuning", "Untrained: 8 TAM modules, classifier."]),
    ):
        push(network, "alice/net", progress=False)
        files = hub.repositories["alice/net"].files
        card = files["README.md"].decode()
        assert all(text in card for text in expected)
        assert "tempozoo predict" not in card
        assert json.loads(files["config.json"])["provenance"]["initialized"]
    push(train(zoo.create("tanet_r18", **SMALL)), "alice/net", progress=False)
    card = hub.repositories["alice/net"].files["README.md"].decode()
    assert "Untrained" not in card and "tempozoo predict" in card


def test_push_by_name_rejects_untrained_networks(tmp_path: Path, hub: LoopbackHub) -> None:
    folder = zoo.save(zoo.create("tanet_r18", **SMALL), tmp_path / "random")
    with pytest.raises(ConfigError, match=r"random is not a trained video network \(untrained: all weights\)"):
        push(folder, "alice/net", progress=False)
    assert not hub.requests


def test_folders_of_version_0_1_keep_their_untrained_parts(tmp_path: Path) -> None:
    folder = zoo.save(small("tanet_r18"), tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    config["provenance"]["initialised"] = config["provenance"].pop("initialized")  # the spelling of that version
    config["options"]["dropout"] = config["options"].pop("drop_rate")
    (folder / "config.json").write_text(json.dumps(config))
    model = zoo.load(folder)
    assert model.report.untrained_parts == ("all weights",)
    assert model.spec.options["drop_rate"] == 0.0
