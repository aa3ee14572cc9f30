"""``--model.train`` and ``--model.batch_norm``: what changes in training, resuming, and the saved networks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import assert_same_last_weights, fit_arguments, flags, model, read_checkpoint, resume
from small_models import small
from torch.utils.data import DataLoader

import zoo
from cli import main
from lit_modules import VideoClassifier
from lit_modules.trained_parts import TrainedParts
from zoo.errors import CheckpointError, ConfigError
from zoo.models.lora import is_adapter, merge_adapters
from zoo.weights.lightning_checkpoint import read_checkpoint as read_network

TINY_VIT = {"width": 48, "depth": 2, "patch": 8, "drop_rate": 0.0}
TADA = "pool_bn of 16 TAdaConvBN modules, routing of 16 TAdaConv2d modules, 1 ConvBN module"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def save_trained(folder: Path, arch: str, **options: Any) -> str:
    """Save a small network that counts as trained, with batch statistics that fit its activations."""
    network = small(arch, **options).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.001)
        for _ in range(20):
            network(torch.randn(2, 3, 4, 32, 32))
    return str(zoo.save(network, folder))


def train(name: str, **options: Any) -> tuple[VideoClassifier, dict[str, torch.Tensor]]:
    """Train two steps; return the module and the network's state before."""
    settings: dict[str, Any] = {"name": "sgd", "lr": 0.01, "lr_batch_size": None}
    module = VideoClassifier(name, optimizer=settings, **options)
    before = {key: value.clone() for key, value in module.network.state_dict().items()}
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    batches = [
        {"video": torch.randn(2, 3, 4, 32, 32, generator=generator), "label": torch.tensor([0, 1]), "path": []}
        for _ in range(2)
    ]
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return module, before


def changed_keys(module: VideoClassifier, before: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in module.network.state_dict().items() if not torch.equal(value, before[key])}


def statistics_of(keys: set[str]) -> set[str]:
    return {key for key in keys if key.endswith(STATISTICS)}


@pytest.mark.parametrize("option", [{"train": "head"}, {"freeze_backbone": True}])
def test_head_trains_the_classifier_only(option: dict[str, Any], tmp_path: Path) -> None:
    module, before = train(save_trained(tmp_path, "tada2d_r18"), **option)
    assert changed_keys(module, before) == {"fc.weight", "fc.bias"}


def test_operator_trains_the_operator_with_its_norms_and_the_classifier(tmp_path: Path) -> None:
    module, before = train(save_trained(tmp_path, "tada2d_r18"), train="operator")
    changed = changed_keys(module, before)
    assert changed <= module.network.operator_keys() | {"fc.weight", "fc.bias"}
    assert any(".pool_bn.running_mean" in key for key in changed)
    assert any(".pool_bn.weight" in key for key in changed)
    assert any(".routing." in key for key in changed)
    assert {"fc.weight", "fc.bias"} <= changed


def test_operator_trains_the_second_norms_of_tadaconvnextv2(tmp_path: Path) -> None:
    module, before = train(save_trained(tmp_path, "tadaconvnextv2_tiny"), train="operator")
    assert any(".pool_norm." in key for key in changed_keys(module, before))


def test_lora_trains_adapters_operator_and_classifier(tmp_path: Path) -> None:
    module, before = train(save_trained(tmp_path, "tadaformer_b16"), train="lora")
    changed = changed_keys(module, before)
    allowed = module.network.operator_keys() | {"fc.weight", "fc.bias"}
    adapters = {key for key in before if is_adapter(key)}
    assert {key.removeprefix("blocks.0.") for key in adapters if key.startswith("blocks.0.")} == {
        f"{layer}.{part}" for layer in ("attn.qkv", "attn.proj", "fc1", "fc2") for part in ("lora_a", "lora_b")
    }
    assert changed <= allowed | adapters
    assert {key for key in adapters if key.endswith("lora_b")} <= changed
    assert any(".tada." in key for key in changed)


def test_new_adapters_do_not_change_the_logits(tmp_path: Path) -> None:
    name = save_trained(tmp_path, "tadaformer_b16")
    clips = torch.randn(1, 3, 4, 32, 32)
    module = VideoClassifier(name, train="lora")
    assert torch.equal(module.network.eval()(clips), zoo.load(name)(clips))


def test_lora_network_is_saved_with_merged_weights(tmp_path: Path) -> None:
    start = save_trained(tmp_path / "start", "tadaformer_b16")
    module, _ = train(start, train="lora")
    network = module.network.eval()
    saved = zoo.load(zoo.save(network, tmp_path / "saved"))
    assert set(saved.state_dict()) == set(zoo.load(start).state_dict())
    clips = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(saved(clips), network(clips))
    assert not torch.allclose(saved(clips), zoo.load(start)(clips), atol=1e-3)


@pytest.mark.parametrize(
    ("arch", "part", "message"),
    [
        ("tada2d_r18", "lora", "model.train is lora, but tada2d_r18 is not a transformer"),
        (
            "c2d_r18",
            "operator",
            "model.train is operator, but c2d_r18 has no temporal operator; choose from all, head.",
        ),
    ],
)
def test_part_that_the_network_lacks_is_refused(arch: str, part: str, message: str) -> None:
    options = {"width": 8, "num_classes": 2}
    with pytest.raises(ConfigError, match=message):
        VideoClassifier(arch, options=options, num_frames=4, image_size=32, train=part)  # type: ignore[arg-type]


def test_unknown_values_and_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="train is 'none'; choose from all, operator, head, lora"):
        VideoClassifier("tada2d_r18", train="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_norm is 'off'; choose from train, frozen, frozen_except_first"):
        VideoClassifier("tada2d_r18", batch_norm="off")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="freeze_backbone is true, but train is lora"):
        VideoClassifier("tada2d_r18", train="lora", freeze_backbone=True)


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weight, down, up = torch.zeros(6, 4), torch.zeros(2, 5), torch.zeros(6, 2)
    tensors = {"fc1.weight": weight, "fc1.lora_a": down, "fc1.lora_b": up}
    assert set(merge_adapters(tensors)) == set(tensors)

    start = save_trained(tmp_path / "start", "tadaformer_b16")
    module, _ = train(start, train="lora")
    trainer = module.trainer
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    content = read_checkpoint(tmp_path / "x.ckpt")
    content["state_dict"]["network.blocks.0.fc1.lora_a"] = torch.zeros(3, 7)
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"unexpected blocks\.0\.fc1\.lora_a"):
        zoo.load(tmp_path / "x.ckpt")


def warnings_of(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.name == "lit_modules")


@pytest.mark.parametrize(
    ("arch", "part", "names", "advice"),
    [
        ("tanet_r18", "head", "8 TAM modules", "operator or all"),
        (
            "tada2d_r18",
            "head",
            TADA,
            "operator or all",
        ),
        ("tada2d_r18", "operator", None, None),
        ("tada2d_r18", "all", None, None),
    ],
)
def test_untrained_parts_that_are_not_trained_are_named(
    arch: str, part: Any, names: str | None, advice: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = VideoClassifier(save_trained(tmp_path, arch), train=part)
    network = module.network
    network.report = network.report.with_initialized(network, network.operator_keys())
    with caplog.at_level(logging.WARNING, "lit_modules"):
        TrainedParts(network, part, "train").warn_untrained()
    expected = (
        f"--model.train head does not train all untrained parts: {names} stay at their initial values. Train them with "
        f"--model.train {advice}."
    )
    assert warnings_of(caplog) == (expected if names else "")


def test_random_weights_that_are_not_trained_are_named(caplog: pytest.LogCaptureFixture) -> None:
    options = {"width": 8, "num_classes": 2, "drop_rate": 0.0}
    with caplog.at_level(logging.WARNING, "lit_modules"):
        train("tanet_r18", options=options, num_frames=4, image_size=32, train="head")
    assert "all weights except the classifier stay at their initial values" in warnings_of(caplog)


def test_trained_network_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lit_modules"):
        train(save_trained(tmp_path, "tanet_r18"), train="head")
    assert "untrained" not in warnings_of(caplog)


# batch norms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "frozen", "frozen_except_first"])
def test_frozen_norms_keep_their_statistics_and_train_their_scale(mode: Any, tmp_path: Path) -> None:
    module, before = train(save_trained(tmp_path, "tada2d_r18"), batch_norm=mode)
    changed = changed_keys(module, before)
    everything = statistics_of(set(before))
    expected = {"train": everything, "frozen": set(), "frozen_except_first": {f"stem.bn.{key}" for key in STATISTICS}}
    assert statistics_of(changed) == expected[mode]
    scales = {key.removesuffix("running_mean") + "weight" for key in everything if key.endswith("running_mean")}
    assert scales <= changed


def test_untrained_norms_are_not_frozen(tmp_path: Path) -> None:
    network = small("tada2d_r18")
    zoo.save(network, tmp_path)  # declares all parts as untrained
    module, before = train(str(tmp_path), batch_norm="frozen")
    assert statistics_of(changed_keys(module, before)) == statistics_of(set(before))


# runs ------------------------------------------------------------------------------------------------------------


def vit_run(folder: Path, out: Path, *extra: str, **options: Any) -> list[str]:
    arguments = fit_arguments(folder, out, *extra, **options)
    return [*arguments, *model("VideoClassifier", "tadaformer_b16"), *flags("model", options=TINY_VIT, train="lora")]


def test_lora_run_resumes_exactly_and_its_checkpoints_load(
    motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, first, second = tmp_path / "whole", tmp_path / "first", tmp_path / "second"
    assert main(vit_run(motion_folder, whole)) == 0
    with pytest.raises(RuntimeError, match="stopped"):
        main(vit_run(motion_folder, first, stop=(1, 2)))
    assert main(vit_run(motion_folder, second, *resume(first / "checkpoints" / "step.ckpt"))) == 0
    assert_same_last_weights(second, whole)

    saved = read_checkpoint(whole / "checkpoints" / "last.ckpt")["state_dict"]
    assert any(is_adapter(key) for key in saved)
    assert not any(is_adapter(key) for key in read_network(whole / "checkpoints" / "last.ckpt")[0])
    network = zoo.load(whole / "checkpoints" / "best.ckpt")
    assert main(["export-checkpoint", str(whole / "checkpoints" / "best.ckpt"), str(tmp_path / "exported")]) == 0
    clips = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(zoo.load(tmp_path / "exported")(clips), network(clips))


@pytest.mark.parametrize(
    "options", [{"batch_norm": "frozen"}, {"batch_norm": "frozen_except_first"}, {"train": "operator"}]
)
def test_frozen_norms_resume_exactly(options: dict[str, Any], motion_folder: Path, tmp_path: Path) -> None:
    start = save_trained(tmp_path / "start", "tada2d_r18")

    def arguments(out: Path, *extra: str, **places: Any) -> list[str]:
        run = fit_arguments(motion_folder, out, *extra, **places)
        return [*run, *flags("model", name=start, options=None, **options)]

    whole, first, second = tmp_path / "whole", tmp_path / "first", tmp_path / "second"
    assert main(arguments(whole)) == 0
    with pytest.raises(RuntimeError, match="stopped"):
        main(arguments(first, stop=(1, 2)))
    assert main(arguments(second, *resume(first / "checkpoints" / "step.ckpt"))) == 0
    assert_same_last_weights(second, whole)
