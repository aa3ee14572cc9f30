"""VideoClassifier: its optimizer and schedule, averaging of views, and the classes of the data."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small_models import FOUR

import zoo
from datamodules import VideoFolder
from lit_modules import TAda2D, TANet, VideoClassifier
from lit_modules.checkpoints import update_average
from lit_modules.network import match_classes
from lit_modules.optim import lr_factor, parameter_groups
from lit_modules.recipe_options import OptimizerOptions, ScheduleOptions
from lit_modules.scores import accuracies
from zoo.errors import ConfigError


def tiny_classifier(**options: Any) -> VideoClassifier:
    return VideoClassifier("tanet_r18", options={"width": 8, "drop_rate": 0.0}, num_frames=4, num_classes=5, **options)


def test_tada2d_recipe_is_the_released_one() -> None:
    """Released YAML: SGD with Nesterov momentum, cosine with 8 epochs of warm-up."""
    recipe = TAda2D("tada2d_r18", options={"width": 8}, num_classes=5).recipe
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.lr_batch_size) == ("sgd", 0.24, 128)
    assert (optimizer.nesterov, optimizer.weight_decay) == (True, 1e-4)
    assert (recipe.schedule.name, recipe.schedule.warmup_epochs) == ("cosine", 8)


def test_tanet_recipe_is_the_released_one() -> None:
    """README: SGD in steps. ``get_optim_policies``: a faster classifier, biases without weight decay."""
    recipe = TANet("tanet_r18", options={"width": 8}, num_classes=5).recipe
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.lr_batch_size) == ("sgd", 0.01, 64)
    assert (optimizer.weight_decay, optimizer.decay_bias) == (1e-4, False)
    assert (optimizer.head_lr_scale, optimizer.bias_lr_scale) == (5, 2)
    assert (recipe.schedule.name, list(recipe.schedule.milestones)) == ("steps", [0.5, 0.75, 0.9])


def test_parameter_groups_contain_every_parameter_once() -> None:
    network = tiny_classifier().network
    options = OptimizerOptions(
        weight_decay=0.01, head_lr_scale=5, operator_lr_scale=3, bias_lr_scale=2, decay_bias=False
    )
    groups = parameter_groups(network, options)
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(group_of) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    for name, scale, decay in (
        ("fc.weight", 5, 0.01),
        ("fc.bias", 10, 0),
        ("stem.conv.weight", 1, 0.01),
        ("stem.bn.weight", 1, 0),
        ("stem.bn.bias", 1, 0),
        ("layer1.0.temporal.L.0.weight", 3, 0.01),
        ("layer1.0.temporal.G.1.weight", 3, 0),
    ):
        group = group_of[id(network.get_parameter(name))]
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(scale), decay), name


def test_cosine_schedule_with_warmup() -> None:
    factor = lr_factor(ScheduleOptions("cosine", warmup_epochs=0.5, warmup_start=0.1), 100, 10)
    end_of_warmup = 0.5 * (1 + math.cos(math.pi * 0.05))
    assert [factor(step) for step in (0, 5, 50, 100)] == pytest.approx([0.1, end_of_warmup, 0.5, 0], abs=5e-4)


def test_step_schedule_multiplies_by_gamma_at_milestones() -> None:
    factor = lr_factor(ScheduleOptions("steps", milestones=(0.5, 0.75, 0.9)), 100, 10)
    factors = [factor(step) for step in (0, 49, 50, 75, 90, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.001], abs=5e-7)


def test_constant_schedule() -> None:
    assert lr_factor(ScheduleOptions("constant"), 10, 1)(9) == 1


def test_warmup_longer_than_the_run_is_shortened_to_a_tenth_of_it() -> None:
    schedule = ScheduleOptions("cosine", warmup_epochs=99, warmup_start=0.0)
    assert lr_factor(schedule, 100, 10)(10) > 0.97


@pytest.mark.parametrize("average", ["prob", "logit"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_views_are_averaged_according_to_the_protocol(average: str, chunk: int) -> None:
    module = tiny_classifier(view_chunk=chunk).eval()
    module.network.protocol = replace(module.network.protocol, average=average)
    views = torch.randn(2, 3, 3, 4, 32, 32)
    with torch.no_grad():
        scores = module.score_views(views)
        logits = torch.stack([module(views[:, view]) for view in range(3)], 1)
    expected = logits.softmax(-1).mean(1) if average == "prob" else logits.mean(1).softmax(-1)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_accuracies_are_separate_metrics_although_they_agree_on_the_first_batch() -> None:
    """torchmetrics merges metrics whose states are equal after the first update."""
    metrics = accuracies(6, "")
    metrics.update(torch.eye(6)[:4], torch.tensor([0, 1, 2, 3]))  # all correct: top-1 equals top-5
    metrics.update(torch.eye(6)[[1, 1, 1, 5]] * 9 - torch.arange(6.0), torch.tensor([0, 5, 4, 5]))
    values = {key: value.item() for key, value in metrics.compute().items()}
    assert values == pytest.approx({"top1": 5 / 8, "top5": 7 / 8, "mean_class": (1 / 2 + 1 + 1 + 1 + 0 + 1 / 2) / 6})


def test_classifier_is_reordered_by_the_class_names_of_the_data() -> None:
    names = ["b", "c", "a"]
    network: Any = zoo.create("c2d_r18", width=8, num_classes=3, num_frames=2, labels=["a", "b", "c"])
    clip = torch.randn(1, 3, 2, 32, 32)
    before = network(clip)
    assert match_classes(network, ["a", "b", "c"]) is None
    assert match_classes(network, names).startswith("reordered")
    torch.testing.assert_close(network(clip), before[:, [1, 2, 0]])
    weight = network.fc.weight.clone()
    assert match_classes(network, ["x", "y", "z"]).startswith("re-initialized")  # the same number of other classes
    assert not torch.equal(network.fc.weight, weight)
    assert network.spec.labels == ("x", "y", "z")


def test_flip_pairs_follow_the_order_of_the_classes() -> None:
    labels = list(zoo.info("tada2d_r50.ssv2_8f").class_names())

    def matched_protocol(class_names: list[str]) -> Any:
        network: Any = zoo.load("tada2d_r50.ssv2_8f", pretrained=False)
        match_classes(network, class_names)
        assert network.spec.protocol.to_dict() == network.protocol.to_dict()
        return network.protocol

    assert matched_protocol(labels).flip_pairs == ((86, 87), (93, 94), (166, 167))
    assert matched_protocol(labels[::-1]).flip_pairs == ((87, 86), (80, 79), (7, 6))
    assert matched_protocol([f"new class {number}" for number in range(174)]).flip_pairs == ()
    assert zoo.load("tada2d_r50.ssv2_8f", pretrained=False, num_classes=200).protocol.flip_pairs == ()


def test_reinitialized_classifier_is_in_the_load_report(tmp_path: Path) -> None:
    created = zoo.create("c2d_r18", width=8, num_classes=2, labels=["a", "b"])
    network: Any = zoo.load(zoo.save(created, tmp_path / "network"))
    assert network.report.as_trained
    match_classes(network, ["x", "y"])
    assert network.report.initialized == ("fc.weight", "fc.bias")


def test_nameless_classes_get_the_names_of_the_data_and_a_note(tmp_path: Path) -> None:
    network: Any = zoo.create("c2d_r18", width=8, num_classes=3, num_frames=2)
    network.fc.bias.data += 0.1  # changed, so that it counts as trained
    folder = zoo.save(network, tmp_path / "nameless")
    network = zoo.load(folder)
    assert match_classes(zoo.load(folder, num_classes=4), list("abcd")) is None  # a new classifier
    weight = network.fc.weight.clone()
    assert "because its own classes have no names" in match_classes(network, ["x", "y", "z"])
    assert torch.equal(network.fc.weight, weight)


def test_head_warmup_trains_only_the_head_at_first(motion_folder: Path, tmp_path: Path) -> None:
    module = VideoClassifier(
        "tada2d_r18", options={"width": 8}, num_frames=4, image_size=32, class_names=sorted(FOUR), head_warmup_epochs=1
    )
    initial = {key: tensor.clone() for key, tensor in module.network.state_dict().items()}
    changed_by_epoch: list[set[str]] = []

    class CompareWeights(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            state = pl_module.network.state_dict()
            changed_by_epoch.append({key for key, tensor in initial.items() if not torch.equal(tensor, state[key])})

    trainer = L.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        callbacks=[CompareWeights()],
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=VideoFolder(motion_folder, batch_size=8, num_workers=0))
    assert changed_by_epoch[0] == {"fc.weight", "fc.bias"}
    assert len(changed_by_epoch[1]) > len(initial) - 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": {"name": "adam"}}, "optimizer.name is 'adam'; choose from sgd, adamw"),
        ({"schedule": {"name": "flat"}}, "schedule.name is 'flat'"),
        ({"view_chunk": 0}, "view_chunk is 0"),
        ({"class_names": ["a", "b"]}, "num_classes is 5, but the data has 2 classes"),
        ({"weights": "x.pth"}, "tanet_r18 is an architecture"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_classifier(**options)


def test_architecture_options_of_an_index_entry_are_refused() -> None:
    with pytest.raises(ConfigError, match="options= needs the name of an architecture"):
        VideoClassifier("tanet_r50.k400_8f", options={"width": 8})


def test_moving_average_starts_with_a_lower_decay() -> None:
    """The average no longer contains the initial weights after 20 steps."""
    average = torch.tensor(1.0)
    for updates in range(1, 21):
        average = update_average(average, torch.tensor(0.0), updates, decay=0.999)
    assert average < 1e-3
    assert update_average(torch.tensor(1.0), torch.tensor(0.0), 10**6, decay=0.999) == pytest.approx(0.999)
