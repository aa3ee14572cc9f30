"""Recipes: learning rates by role and depth, schedules, and complete runs of the ConvNeXt and transformer families."""

from __future__ import annotations

import inspect
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ON_CPU, QUIET, flags, read_checkpoint, resume
from small_models import FOUR

import zoo
from cli import main
from lit_modules import STAM, TAda2D, TAdaConvNeXt, TAdaConvNeXtV2, TAdaFormer, TANet, VideoClassifier
from lit_modules.optim import lr_factor, norm_parameters, parameter_groups
from lit_modules.recipe_options import OptimizerOptions, ScheduleOptions
from zoo.errors import ConfigError
from zoo.models import ARCHITECTURES, layer_depths
from zoo.models.network import DropPath
from zoo.video.transforms import normalize

FORMER = {"width": 32, "depth": 2, "heads": 2, "patch": 8, "num_classes": 4, "num_frames": 4}
CONVNEXT = {"width": 8, "num_classes": 4, "num_frames": 4}


@dataclass(frozen=True)
class Family:
    recipe: str
    architecture: str
    options: dict[str, int]
    image_size: int


FAMILIES = {
    "former": Family("TAdaFormer", "tadaformer_b16", {"width": 32, "depth": 2, "heads": 2, "patch": 8}, image_size=16),
    "convnext": Family("TAdaConvNeXtV2", "tadaconvnextv2_tiny", {"width": 8}, image_size=32),
}


def create_former(**options: Any) -> Any:
    return zoo.create("tadaformer_b16", image_size=16, **(FORMER | options))


def create_convnext(**options: Any) -> Any:
    return zoo.create("tadaconvnextv2_tiny", image_size=32, **(CONVNEXT | options))


# parameter groups ------------------------------------------------------------------------------------------------


def scales_and_decays(network: Any, rules: Any = None, **options: Any) -> dict[str, tuple[float, float]]:
    """Return the learning rate scale and the weight decay of each parameter, for a weight decay of 0.1."""
    groups = parameter_groups(network, OptimizerOptions(weight_decay=0.1, **options), rules)
    assert len({group["name"] for group in groups}) == len(groups)  # required by LearningRateMonitor
    values = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(values) == len(list(network.parameters()))
    return {name: values[id(p)] for name, p in network.named_parameters()}


def test_layer_decay_lowers_rates_from_the_head_to_the_stem() -> None:
    network = create_former(depth=3)
    values = scales_and_decays(network, layer_decay=0.5)
    for name, power in (
        ("stem.weight", 4),
        ("class_embedding", 4),
        ("blocks.0.attn.qkv.weight", 3),
        ("blocks.1.tada.proj.weight", 2),
        ("blocks.2.fc2.weight", 1),
        ("norm.weight", 0),
        ("fc.weight", 0),
    ):
        scale, _ = values[name]
        assert scale == 0.5**power, name
    assert set(scales_and_decays(network).values()) == {(1.0, 0.1), (1.0, 0.0)}
    with pytest.raises(ConfigError, match=r"layer_decay is 1.5; it must be above 0"):
        parameter_groups(network, OptimizerOptions(layer_decay=1.5))


@pytest.mark.parametrize("arch", ["tada2d_r18", "tanet_r18", "tadaconvnext_tiny", "tadaconvnextv2_tiny"])
def test_layer_decay_follows_the_depth_in_every_family(arch: str) -> None:
    network: Any = zoo.create(arch, width=8, num_classes=4, num_frames=4)
    depths = layer_depths(network)
    deepest = depths["fc.weight"]
    assert deepest == max(depths.values()) == (9 if "r18" in arch else 19)  # 8 or 18 blocks, stem and head
    values = scales_and_decays(network, layer_decay=0.8)
    powers = {name: round(math.log(scale, 0.8)) for name, (scale, _) in values.items()}
    assert powers == {name: deepest - depth for name, depth in depths.items()}


def test_group_rule_replaces_the_scale_of_the_role_but_not_layer_decay() -> None:
    network = create_former()  # depths: stem 0, blocks 1 and 2, head 3
    values = scales_and_decays(
        network,
        head_lr_scale=10,
        operator_lr_scale=10,
        layer_decay=0.7,
        decay_bias=False,
        rules={r"blocks\.0\.tada": (2, True), "^fc": (3, False), r"tada\.proj": (9, False)},
    )
    for name, expected in {
        "blocks.0.tada.pre.weight": (2 * 0.7**2, 0.1),
        "blocks.0.tada.pre.bias": (2 * 0.7**2, 0.1),
        "blocks.0.tada.proj.weight": (2 * 0.7**2, 0.1),  # the first matching rule applies
        "blocks.1.tada.proj.weight": (9 * 0.7, 0),
        "blocks.1.tada.pre.weight": (10 * 0.7, 0.1),  # no rule: scales of role and depth are multiplied
        "blocks.1.tada.pre.bias": (10 * 0.7, 0),
        "fc.weight": (3, 0),
        "stem.weight": (0.7**3, 0.1),
    }.items():
        assert values[name] == pytest.approx(expected), name


@pytest.mark.parametrize(
    ("recipe", "arch", "options", "count"),
    [
        (TAdaConvNeXtV2, "tadaconvnextv2_tiny", {"width": 8}, 18 * (2 + 3 + 1) + 4),
        (TAdaFormer, "tadaformer_b16", {"width": 32, "depth": 2, "heads": 2, "patch": 8, "image_size": 16}, 1),
        (TANet, "tanet_r18", {"width": 8}, 8 * 2),
    ],
)
def test_group_rules_of_a_recipe_match_disjoint_parameters(recipe: Any, arch: str, options: dict, count: int) -> None:
    names = [name for name, _ in zoo.create(arch, num_classes=4, **options).named_parameters()]
    matches = {rule: [name for name in names if re.search(rule, name)] for rule in recipe.recipe.group_rules}
    assert all(matches.values()), matches
    matched_names = [name for names_of_rule in matches.values() for name in names_of_rule]
    assert len(matched_names) == len(set(matched_names)) == count


# recipes ---------------------------------------------------------------------------------------------------------


def rate_at(module: VideoClassifier, epoch: float, epochs: int) -> float:
    """Return the learning rate with the recipe's batch size and 100 steps per epoch, for parameters of scale 1."""
    factor = lr_factor(module.recipe.schedule, 100 * epochs, 100)
    return module.recipe.optimizer.lr * factor(round(100 * epoch))


def test_tadaconvnextv2_recipe_is_the_released_one() -> None:
    module = TAdaConvNeXtV2("tadaconvnextv2_tiny", options=CONVNEXT)
    optimizer, regularization = module.recipe.optimizer, module.recipe.regularization
    assert (optimizer.name, optimizer.lr, optimizer.lr_batch_size) == ("adamw", 5e-4, 512)
    assert (optimizer.head_lr_scale, optimizer.operator_lr_scale) == (5, 5)
    assert (optimizer.new_bias_lr_scale, optimizer.bias_lr_scale) == (2, 1)
    assert (optimizer.weight_decay, optimizer.decay_bias, optimizer.layer_decay) == (0.02, False, None)
    assert (regularization.label_smoothing, regularization.drop_path_rate) == (0, 0.2)
    assert module.network.dropout.p == 0.5
    at_end_of_warmup = 2.5e-4 * (1 + math.cos(0.08 * math.pi))  # the cosine counts from the start of the run
    assert rate_at(module, 0, 100) == pytest.approx(1e-6)
    assert rate_at(module, 4, 100) == pytest.approx((1e-6 + at_end_of_warmup) / 2)
    assert rate_at(module, 8, 100) == pytest.approx(at_end_of_warmup)
    assert rate_at(module, 50, 100) == pytest.approx(2.5e-4)
    assert rate_at(module, 100, 100) == pytest.approx(0, abs=1e-12)


def test_tadaconvnextv2_norms_between_stages_decay() -> None:
    """The released optimizer exempts names with "norm" or "bias"; only norms of routing functions decay as well."""
    module = TAdaConvNeXtV2("tadaconvnextv2_tiny", options=CONVNEXT)
    groups = parameter_groups(module.network, module.recipe.optimizer, module.recipe.group_rules)
    values = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    norms = {
        name: values[id(p)] for name, p in module.network.named_parameters() if name in norm_parameters(module.network)
    }
    assert {name for name, (_, decay) in norms.items() if decay and ".routing." not in name} == {
        "stem.norm.weight", "downsamples.0.0.weight", "downsamples.1.0.weight", "downsamples.2.0.weight"
    }  # fmt: skip
    assert {value for name, value in norms.items() if ".routing." not in name} == {(1, 0.02), (1, 0)}


def test_tadaformer_recipe_is_the_released_one() -> None:
    module = TAdaFormer("tadaformer_b16", options=FORMER, image_size=16)
    optimizer, regularization = module.recipe.optimizer, module.recipe.regularization
    assert (optimizer.name, optimizer.lr, optimizer.lr_batch_size) == ("adamw", 5e-5, 256)
    assert (optimizer.head_lr_scale, optimizer.operator_lr_scale) == (10, 10)
    assert (optimizer.weight_decay, optimizer.layer_decay) == (0.05, 0.7)
    assert (regularization.label_smoothing, regularization.drop_path_rate) == (0.1, None)
    assert module.network.dropout.p == 0.5
    for epoch, rate in ((0, 1e-6), (2.5, 2.55e-5), (5, 5e-5), (17.5, 2.55e-5), (30, 1e-6)):
        assert rate_at(module, epoch, 30) == pytest.approx(rate), epoch
    large = TAdaFormer(
        "tadaformer_b16", options=FORMER, image_size=16, optimizer={"lr": 2e-5},
        schedule={"warmup_start": 0.05, "min_lr_scale": 0.05},
    )  # fmt: skip
    for epoch, rate in ((0, 1e-6), (4, 1.62e-5), (5, 2e-5), (14.5, 1.05e-5), (24, 1e-6)):  # 5 of 24 epochs warm up
        assert rate_at(large, epoch, 24) == pytest.approx(rate), epoch


def test_unpublished_recipes_equal_a_published_one() -> None:
    def settings(module: VideoClassifier) -> dict[str, Any]:
        return {key: value for key, value in module.hparams.items() if key not in ("name", "options")}

    options = {"width": 8, "num_classes": 4}
    assert settings(STAM("stam_r18", options=options)) == settings(TAda2D("tada2d_r18", options=options))
    v1 = TAdaConvNeXt("tadaconvnext_tiny", options=CONVNEXT)
    v2 = TAdaConvNeXtV2("tadaconvnextv2_tiny", options=CONVNEXT)
    assert settings(v1) == settings(v2)


def test_operator_lr_scale_applies_to_the_routing_of_tadaconvnext() -> None:
    network = TAdaConvNeXt("tadaconvnext_tiny", options=CONVNEXT).network
    scaled = {name for name, (scale, _) in scales_and_decays(network, operator_lr_scale=5).items() if scale == 5}
    assert scaled == {name for name, _ in network.named_parameters() if ".routing." in name}


@pytest.mark.parametrize("recipe", [STAM, TAda2D, TAdaConvNeXt, TAdaConvNeXtV2, TAdaFormer, TANet])
def test_default_network_of_a_recipe_exists(recipe: type[VideoClassifier]) -> None:
    name = inspect.signature(recipe).parameters["name"].default
    assert name in zoo.list_models() or name in ARCHITECTURES
    if name in zoo.list_models() and not zoo.info(name).init and recipe in (TAdaConvNeXtV2, TAdaFormer):
        assert zoo.info(name).protocol.augment == "rand_augment"


def test_warmup_is_shortened_only_in_a_short_run() -> None:
    schedule = ScheduleOptions("constant", warmup_epochs=5, warmup_start=0)
    assert lr_factor(schedule, 24, 1)(4) == pytest.approx(0.8)
    assert lr_factor(schedule, 20, 1)(4) == pytest.approx(0.8)
    assert lr_factor(schedule, 19, 1)(1) == pytest.approx(1 / 1.9)


# dropout and memory ----------------------------------------------------------------------------------------------


def drop_rates(network: Any) -> list[float]:
    return [module.rate for module in network.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize(("create", "image_size"), [(create_former, 16), (create_convnext, 32)])
def test_drop_path_rate_of_a_recipe_equals_that_of_create(create: Any, image_size: int, tmp_path: Path) -> None:
    expected = drop_rates(create(drop_path_rate=0.3))
    assert max(expected) == pytest.approx(0.3)

    spec = create().spec
    options = {key: value for key, value in spec.options.items() if key != "image_size"}
    module = VideoClassifier(spec.arch, options=options, image_size=image_size, regularization={"drop_path_rate": 0.3})
    assert drop_rates(module.network) == pytest.approx(expected)
    assert drop_rates(zoo.load(zoo.save(module.network, tmp_path / "saved"))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arch", "regularization", "message"),
    [
        ("tanet_r18", {"drop_path_rate": 0.1}, "VideoResNet has no DropPath; leave it out"),
        (
            "tadaconvnextv2_tiny",
            {"drop_path_rate": 1.0},
            "regularization.drop_path_rate is 1.0; it must be at least 0 and below 1",
        ),
        ("tadaconvnextv2_tiny", {"drop_rate": -0.1}, "regularization.drop_rate is -0.1"),
    ],
)
def test_invalid_drop_rates_are_refused(arch: str, regularization: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VideoClassifier(arch, options={"width": 8, "num_classes": 4}, regularization=regularization)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(family: Family) -> None:
    clip = torch.randn(2, 3, 4, family.image_size, family.image_size)

    def gradients(grad_checkpointing: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        module = VideoClassifier(
            family.architecture,
            options={**family.options, "num_classes": 4, "num_frames": 4, "drop_rate": 0.0},
            image_size=family.image_size,
            regularization={"drop_path_rate": 0.5},
            grad_checkpointing=grad_checkpointing,
        )
        assert module.network.grad_checkpointing is grad_checkpointing
        module.network.train()
        torch.manual_seed(1)  # for DropPath
        module(clip).square().sum().backward()
        return {name: p.grad for name, p in module.network.named_parameters() if p.grad is not None}

    expected = gradients(grad_checkpointing=False)
    recomputed = gradients(grad_checkpointing=True)
    assert recomputed.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradient, recomputed[name])


@pytest.mark.parametrize(
    "arch", ["c2d_r18", "tada2d_r18", "tanet_r18", "stam_r18", "nonlocal_r18", "tadaconvnext_tiny"]
)
def test_every_parameter_of_other_families_is_trained_with_all_options(arch: str) -> None:
    module = VideoClassifier(
        arch, options={"width": 8}, num_classes=4, num_frames=4, image_size=32, regularization={"drop_rate": 0.1},
        grad_checkpointing=True,
    )  # fmt: skip
    protocol = module.network.protocol
    clips = normalize(torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8), protocol.mean, protocol.std)
    options = OptimizerOptions(weight_decay=0.0, operator_lr_scale=2, layer_decay=0.98)
    groups = [{**group, "lr": 0.01 * group["lr"]} for group in parameter_groups(module.network, options)]
    optimizer = torch.optim.AdamW(groups, 0.01)
    module.network.train()
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    for _ in range(2):  # layers initialized with zero pass no gradients in the first step
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(module(clips), torch.tensor([0, 3]))
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    unchanged = [name for name, p in module.network.named_parameters() if torch.equal(p, before[name])]
    assert not unchanged, unchanged


# complete runs ---------------------------------------------------------------------------------------------------


def motion_clips(root: Path, **options: object) -> list[str]:
    """Return the arguments of the data set in ``motion_folder``."""
    size = {"train_clips": 8, "val_clips": 3, "test_clips": 3, "frames": 12, "size": 32}
    loading = {"batch_size": 8, "num_workers": 0}
    return ["--data", "MotionClips", *flags("data", root=root, classes=FOUR, **size, **loading, **options)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: Any) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def run(family: Family, motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one epoch, four steps, in bfloat16, of a tiny network with the recipe of its family."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = [
        "fit",
        *("--model", family.recipe),
        *flags("model", name=family.architecture, options=family.options),
        *flags("model", num_frames=4, image_size=family.image_size, ema_decay=0.5, grad_checkpointing=True),
        *flags("model.regularization", drop_path_rate=0.1),
        *flags("model.optimizer", lr_batch_size=None),
        *motion_clips(motion_folder, augment="rand_augment"),
        *flags("trainer", precision="bf16-mixed", max_epochs=1),
        *ON_CPU,
        *QUIET,
    ]
    assert main([*arguments, "--out", str(out)]) == 0
    return out


def test_run_trains_every_parameter_at_the_rates_of_its_recipe(family: Family, run: Path) -> None:
    content = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert content["global_step"] == 4
    (optimizer,) = content["optimizer_states"]
    lr = content["hyper_parameters"]["optimizer"]["lr"]
    scales = {(group["initial_lr"] / lr, group["weight_decay"]) for group in optimizer["param_groups"]}
    if family.recipe == "TAdaFormer":  # layer decay 0.7; 10 times the rate for the classifier and the operator
        depths = [(scale, decay) for scale in (0.7, 0.49, 0.343, 7, 4.9, 10) for decay in (0, 0.05)]
        expected = [(1, 0), *depths]
    else:
        expected = [(1, 0.02), (1, 0), (5, 0.02), (10, 0)]
    assert sorted(scales) == [pytest.approx(pair) for pair in sorted(expected)]

    network = zoo.load(run / "checkpoints" / "last.ckpt")
    assert network.protocol.augment == "rand_augment"  # the augmentation of the run is stored with the weights
    assert max(drop_rates(network)) == pytest.approx(0.1)
    assert len(optimizer["state"]) == len(list(network.parameters()))


def test_run_is_resumed(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    arguments = ["fit", "--config", str(run / "config.yaml"), *resume(last), *flags("trainer", max_epochs=2)]
    assert main([*arguments, "--out", str(tmp_path / "resumed")]) == 0
    content = read_checkpoint(tmp_path / "resumed" / "checkpoints" / "last.ckpt")
    assert (content["epoch"], content["global_step"]) == (1, 8)


def test_run_is_tested_with_ten_crops(
    run: Path, motion_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = str(run / "checkpoints" / "best.ckpt")
    data = motion_clips(motion_folder, clips=2, crops=10)
    assert main(["test", "--from", best, *data, *QUIET, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "test.json").read_text())
    assert summary["videos"] == 12
    assert (summary["protocol"]["clips"], summary["protocol"]["crops"]) == (2, 10)
    assert "five of the ten crops are mirrored" in caplog.text  # MotionClips are never flipped


def test_run_predicts_and_is_exported(
    run: Path, motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    video = next((motion_folder / "test" / "meets").iterdir())
    assert main(["predict", "--from", str(best), str(video), *QUIET, "--out", str(tmp_path / "predictions")]) == 0
    assert "meets" in capsys.readouterr().out

    assert main(["export-checkpoint", str(best), str(tmp_path / "exported")]) == 0
    exported: Any = zoo.load(tmp_path / "exported")
    assert exported.labels == tuple(sorted(FOUR))
    module: Any = VideoClassifier.load_from_checkpoint(best, weights_only=True).eval()
    clip = torch.randn(2, 3, 4, exported.protocol.crop, exported.protocol.crop)
    with torch.no_grad():
        assert torch.equal(exported(clip), module(clip))


def test_run_fine_tunes_the_head_only(family: Family, run: Path, motion_folder: Path, tmp_path: Path) -> None:
    best = run / "checkpoints" / "best.ckpt"
    arguments = ["fit", "--from", str(best), "--model", family.recipe, *flags("model", freeze_backbone=True)]
    arguments += [*motion_clips(motion_folder), *flags("trainer", max_epochs=1), *QUIET, "--out", str(tmp_path)]
    assert main(arguments) == 0
    old, new = (zoo.load(path).state_dict() for path in (best, tmp_path / "checkpoints" / "last.ckpt"))
    assert {key for key in new if not torch.equal(new[key], old[key])} == {"fc.weight", "fc.bias"}
