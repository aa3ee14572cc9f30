"""The recipes: rates by role and depth, schedules, and whole runs of the ConvNeXt and transformer families."""

from __future__ import annotations

import inspect
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FOUR

import zoo
from cli import main
from lit_modules import STAM, TAda2D, TAdaConvNeXt, TAdaConvNeXtV2, TAdaFormer, TANet, VideoClassifier
from lit_modules.optim import SCHEDULE_OPTIONS, lr_factor, parameter_groups
from zoo.errors import ConfigError
from zoo.models import ARCHITECTURES, layer_depths
from zoo.models.network import DropPath
from zoo.video.transforms import normalize

FORMER = {"width": 32, "depth": 2, "heads": 2, "patch": 8, "num_classes": 4, "num_frames": 4}
CONVNEXT = {"width": 8, "num_classes": 4, "num_frames": 4}
FAMILIES = {  # recipe, architecture, options, image size
    "former": ("TAdaFormer", "tadaformer_b16", {k: FORMER[k] for k in ("width", "depth", "heads", "patch")}, 16),
    "convnext": ("TAdaConvNeXtV2", "tadaconvnextv2_tiny", {"width": 8}, 32),
}


def former(**options: Any) -> Any:
    return zoo.create("tadaformer_b16", image_size=16, **(FORMER | options))


def convnext(**options: Any) -> Any:
    return zoo.create("tadaconvnextv2_tiny", image_size=32, **(CONVNEXT | options))


# parameter groups ------------------------------------------------------------------------------------------------


def rates(network: Any, **options: Any) -> dict[str, tuple[float, float]]:
    """Parameter name -> learning rate and weight decay, for lr 1 and weight decay .1."""
    groups = parameter_groups(network, 1.0, 0.1, **options)
    assert len({group["name"] for group in groups}) == len(groups)  # the learning-rate monitor asks for this
    where = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(where) == len(list(network.parameters()))
    return {name: where[id(p)] for name, p in network.named_parameters()}


def test_rates_fall_from_the_head_to_the_stem() -> None:
    network = former(depth=3)
    found = rates(network, layer_decay=0.5)
    for name, power in (
        ("stem.weight", 4), ("class_embedding", 4), ("blocks.0.attn.qkv.weight", 3), ("blocks.1.tada.proj.weight", 2),
        ("blocks.2.fc2.weight", 1), ("norm.weight", 0), ("fc.weight", 0),
    ):  # fmt: skip
        assert found[name][0] == 0.5**power, name
    assert set(rates(network).values()) == {(1.0, 0.1), (1.0, 0.0)}
    with pytest.raises(ConfigError, match=r"layer_decay is 1.5; it must be above 0"):
        parameter_groups(network, 1, 0, layer_decay=1.5)


@pytest.mark.parametrize("arch", ["tada2d_r18", "tanet_r18", "tadaconvnext_tiny", "tadaconvnextv2_tiny"])
def test_rates_fall_with_depth_in_every_family(arch: str) -> None:
    network: Any = zoo.create(arch, width=8, num_classes=4, num_frames=4)
    found, depths = rates(network, layer_decay=0.8), layer_depths(network)
    deepest = depths["fc.weight"]
    assert deepest == max(depths.values()) == (9 if "r18" in arch else 19)  # 8 or 18 blocks, stem and head
    assert {n: round(math.log(rate, 0.8)) for n, (rate, _) in found.items()} == {
        n: deepest - depth for n, depth in depths.items()
    }


def test_a_rule_stands_for_the_role_but_not_for_the_depth() -> None:
    network = former()  # depths: stem 0, blocks 1 and 2, head 3
    given = {"head_lr_scale": 10, "operator_lr_scale": 10, "layer_decay": 0.7, "decay_bias": False}
    found = rates(network, **given, rules={r"blocks\.0\.tada": (2, True), "^fc": (3, False), r"tada\.proj": (9, False)})
    for name, wanted in {
        "blocks.0.tada.pre.weight": (2 * 0.7**2, 0.1),
        "blocks.0.tada.pre.bias": (2 * 0.7**2, 0.1),
        "blocks.0.tada.proj.weight": (2 * 0.7**2, 0.1),  # the first rule that is found counts
        "blocks.1.tada.proj.weight": (9 * 0.7, 0),
        "blocks.1.tada.pre.weight": (10 * 0.7, 0.1),  # rates of roles and of depths are multiplied, too
        "blocks.1.tada.pre.bias": (10 * 0.7, 0),
        "fc.weight": (3, 0),
        "stem.weight": (0.7**3, 0.1),
    }.items():
        assert found[name] == pytest.approx(wanted), name


@pytest.mark.parametrize(
    ("recipe", "arch", "options", "count"),
    [
        (TAdaConvNeXtV2, "tadaconvnextv2_tiny", {"width": 8}, 18 * (2 + 3 + 1)),
        (TAdaFormer, "tadaformer_b16", {"width": 32, "depth": 2, "heads": 2, "patch": 8, "image_size": 16}, 1),
        (TANet, "tanet_r18", {"width": 8}, 8 * 2),
    ],
)
def test_rules_of_a_recipe_find_their_parameters(recipe: Any, arch: str, options: dict, count: int) -> None:
    names = [name for name, _ in zoo.create(arch, num_classes=4, **options).named_parameters()]
    found = {rule: [name for name in names if re.search(rule, name)] for rule in recipe.group_rules}
    assert all(found.values()), found
    assert sum(map(len, found.values())) == len({name for each in found.values() for name in each}) == count


# recipes ---------------------------------------------------------------------------------------------------------


def rate_at(module: VideoClassifier, epoch: float, epochs: int) -> float:
    """Learning rate of a parameter with scale 1, in a run of the recipe's own batch size, 100 steps an epoch."""
    h = module.hparams
    factor = lr_factor(h["schedule"], 100 * epochs, 100, **{key: h[key] for key in SCHEDULE_OPTIONS})
    return h["lr"] * factor(round(100 * epoch))


def test_tadaconvnextv2_recipe_is_the_released_one() -> None:
    module = TAdaConvNeXtV2("tadaconvnextv2_tiny", options=CONVNEXT)
    h = module.hparams
    assert (h.optimizer, h.lr, h.lr_batch_size, h.weight_decay, h.drop_path) == ("adamw", 5e-4, 512, 0.02, 0.2)
    assert (h.head_lr_scale, h.operator_lr_scale, h.new_bias_lr_scale, h.bias_lr_scale) == (5, 5, 2, 1)
    assert (h.label_smoothing, h.layer_decay, h.decay_bias) == (0, None, False)
    assert module.network.dropout.p == 0.5
    at_end_of_warmup = 2.5e-4 * (1 + math.cos(0.08 * math.pi))  # the cosine counts from the start of the run
    assert rate_at(module, 0, 100) == pytest.approx(1e-6)
    assert rate_at(module, 4, 100) == pytest.approx((1e-6 + at_end_of_warmup) / 2)
    assert rate_at(module, 8, 100) == pytest.approx(at_end_of_warmup)
    assert rate_at(module, 50, 100) == pytest.approx(2.5e-4)
    assert rate_at(module, 100, 100) == pytest.approx(0, abs=1e-12)


def test_tadaformer_recipe_is_the_released_one() -> None:
    module = TAdaFormer("tadaformer_b16", options=FORMER, image_size=16)
    h = module.hparams
    assert (h.optimizer, h.lr, h.lr_batch_size, h.weight_decay, h.drop_path) == ("adamw", 5e-5, 256, 0.05, None)
    assert (h.head_lr_scale, h.operator_lr_scale, h.layer_decay, h.label_smoothing) == (10, 10, 0.7, 0.1)
    assert module.network.dropout.p == 0.5
    for epoch, rate in ((0, 1e-6), (2.5, 2.55e-5), (5, 5e-5), (17.5, 2.55e-5), (30, 1e-6)):
        assert rate_at(module, epoch, 30) == pytest.approx(rate), epoch
    large = TAdaFormer("tadaformer_b16", options=FORMER, image_size=16, lr=2e-5, warmup_start=0.05, min_lr_scale=0.05)
    for epoch, rate in ((0, 1e-6), (4, 1.62e-5), (5, 2e-5), (14.5, 1.05e-5), (24, 1e-6)):  # 5 of 24 epochs warm up
        assert rate_at(large, epoch, 24) == pytest.approx(rate), epoch


def test_recipes_that_are_ours_borrow_a_published_one() -> None:
    def settings(module: VideoClassifier) -> dict[str, Any]:
        return {key: value for key, value in module.hparams.items() if key not in ("name", "options")}

    options = {"width": 8, "num_classes": 4}
    assert settings(STAM("stam_r18", options=options)) == settings(TAda2D("tada2d_r18", options=options))
    one, two = (
        TAdaConvNeXt("tadaconvnext_tiny", options=CONVNEXT),
        TAdaConvNeXtV2("tadaconvnextv2_tiny", options=CONVNEXT),
    )
    assert settings(one) == settings(two)
    faster = {name for name, (rate, _) in rates(one.network, operator_lr_scale=5).items() if rate == 5}
    assert faster == {name for name, _ in one.network.named_parameters() if ".routing." in name}


@pytest.mark.parametrize("recipe", [STAM, TAda2D, TAdaConvNeXt, TAdaConvNeXtV2, TAdaFormer, TANet])
def test_recipes_begin_with_a_network_of_the_zoo(recipe: type[VideoClassifier]) -> None:
    name = inspect.signature(recipe).parameters["name"].default
    assert name in zoo.list_models() or name in ARCHITECTURES
    if name in zoo.list_models() and not zoo.info(name).init and recipe in (TAdaConvNeXtV2, TAdaFormer):
        assert zoo.info(name).protocol.augment == "rand_augment"


def test_a_long_warm_up_is_cut_only_in_a_short_run() -> None:
    assert lr_factor("constant", 24, 1, warmup_epochs=5, warmup_start=0)(4) == pytest.approx(0.8)
    assert lr_factor("constant", 20, 1, warmup_epochs=5, warmup_start=0)(4) == pytest.approx(0.8)
    assert lr_factor("constant", 19, 1, warmup_epochs=5, warmup_start=0)(1) == pytest.approx(1 / 1.9)


# dropout and memory ----------------------------------------------------------------------------------------------


def drop_rates(network: Any) -> list[float]:
    return [module.rate for module in network.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize("make", [former, convnext])
def test_drop_path_is_that_of_a_network_built_with_it(make: Any, tmp_path: Path) -> None:
    built = make(drop_path_rate=0.3)
    config = built.spec.to_config()
    options = {key: value for key, value in make().spec.options.items() if key != "image_size"}
    size = 16 if make is former else 32
    module = VideoClassifier(config["arch"], options=options, image_size=size, drop_path=0.3)
    assert drop_rates(module.network) == pytest.approx(drop_rates(built))
    assert max(drop_rates(built)) == pytest.approx(0.3)
    again: Any = zoo.load(zoo.save(module.network, tmp_path / "saved"))
    assert drop_rates(again) == pytest.approx(drop_rates(built))


def test_rates_that_cannot_work_are_named() -> None:
    for arch, options, says in (
        ("tanet_r18", {"drop_path": 0.1}, "VideoResNet has no DropPath; leave it out"),
        ("tadaconvnextv2_tiny", {"drop_path": 1.0}, "drop_path is 1.0; it must be at least 0 and below 1"),
        ("tadaconvnextv2_tiny", {"dropout": -0.1}, "dropout is -0.1"),
    ):
        with pytest.raises(ConfigError, match=says):
            VideoClassifier(arch, options={"width": 8, "num_classes": 4}, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_give_the_same_gradients(family: str) -> None:
    _, arch, options, size = FAMILIES[family]
    clip, found = torch.randn(2, 3, 4, size, size), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module = VideoClassifier(
            arch, options={**options, "num_classes": 4, "num_frames": 4, "dropout": 0.0}, image_size=size,
            drop_path=0.5, grad_checkpointing=checkpointing,
        )  # fmt: skip
        assert module.network.grad_checkpointing is checkpointing
        module.network.train()
        torch.manual_seed(1)  # DropPath draws
        module(clip).square().sum().backward()
        found.append({name: p.grad for name, p in module.network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


@pytest.mark.parametrize(
    "arch", ["c2d_r18", "tada2d_r18", "tanet_r18", "stam_r18", "nonlocal_r18", "tadaconvnext_tiny"]
)
def test_other_families_train_with_every_option(arch: str) -> None:
    module = VideoClassifier(
        arch, options={"width": 8}, num_classes=4, num_frames=4, image_size=32, dropout=0.1, grad_checkpointing=True
    )
    protocol = module.network.protocol
    clips = normalize(torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8), protocol.mean, protocol.std)
    groups = parameter_groups(module.network, 0.01, 0.0, operator_lr_scale=2, layer_decay=0.98)
    optimizer = torch.optim.AdamW(groups, 0.01)
    module.network.train()
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    for _ in range(2):  # after the first step, no part is behind a zero any more
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(module(clips), torch.tensor([0, 3]))
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    same = [name for name, p in module.network.named_parameters() if torch.equal(p, before[name])]
    assert not same, same


# whole runs ------------------------------------------------------------------------------------------------------

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


def motion(root: Path) -> list[str]:
    given = {
        "root": root, "classes": json.dumps(FOUR), "train_clips": 8, "val_clips": 3, "test_clips": 3, "frames": 12,
        "size": 32, "batch_size": 8, "num_workers": 0,
    }  # fmt: skip
    return ["--data", "MotionClips", *(text for key, value in given.items() for text in (f"--data.{key}", str(value)))]


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: Any, motion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """One epoch, four steps, in bfloat16, of a tiny network with the family's recipe; and its arguments."""
    recipe, arch, options, size = FAMILIES[request.param]
    out = tmp_path_factory.mktemp("runs") / request.param
    arguments = [
        "--model",
        recipe,
        "--model.name",
        arch,
        "--model.options",
        json.dumps(options),
        "--model.num_frames",
        "4",
    ]
    arguments += ["--model.image_size", str(size), "--model.drop_path", "0.1", "--model.ema_decay", "0.5"]
    arguments += ["--model.lr_batch_size", "null", "--model.grad_checkpointing", "true", *motion(motion_folder)]
    arguments += ["--data.augment", "rand_augment", "--trainer.precision", "bf16-mixed", "--trainer.accelerator", "cpu"]
    assert main(["fit", *arguments, *QUIET, "--trainer.max_epochs", "1", "--out", str(out)]) == 0
    return out, arguments


def test_a_run_trains_every_part_and_keeps_its_rates(run: tuple[Path, list[str]]) -> None:
    out, _ = run
    content = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 4
    groups, h = content["optimizer_states"][0]["param_groups"], content["hyper_parameters"]
    former = "former" in out.name
    found = {(group["initial_lr"] / h["lr"], group["weight_decay"]) for group in groups}
    depths = [(scale, decay) for scale in (0.7, 0.49, 0.343, 7, 4.9, 10) for decay in (0, 0.05)]
    wanted = [(1, 0), *depths] if former else [(1, 0.02), (1, 0), (5, 0.02), (10, 0)]
    assert sorted(found) == [pytest.approx(pair) for pair in sorted(wanted)]
    network = zoo.load(out / "checkpoints" / "last.ckpt")
    assert network.protocol.augment == "rand_augment"  # the run's way of making clips travels with the weights
    assert max(drop_rates(network)) == pytest.approx(0.1)
    moments = content["optimizer_states"][0]["state"]
    assert len(moments) == len(list(network.parameters()))


def test_a_run_goes_on(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    out, _ = run
    last = out / "checkpoints" / "last.ckpt"
    arguments = ["fit", "--config", str(out / "config.yaml"), "--ckpt_path", str(last), "--trainer.max_epochs", "2"]
    assert main([*arguments, "--out", str(tmp_path / "more")]) == 0
    content = torch.load(tmp_path / "more" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (content["epoch"], content["global_step"]) == (1, 8)


def test_a_run_is_tested_with_ten_crops(
    run: tuple[Path, list[str]], motion_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = str(run[0] / "checkpoints" / "best.ckpt")
    views = ["--data.clips", "2", "--data.crops", "10"]
    assert main(["test", "--from", best, *motion(motion_folder), *views, *QUIET, "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "test.json").read_text())
    assert summary["videos"] == 12
    assert (summary["protocol"]["clips"], summary["protocol"]["crops"]) == (2, 10)
    assert "five of ten crops are mirror images" in caplog.text  # MotionClips are never flipped


def test_a_run_predicts_and_exports(
    run: tuple[Path, list[str]], motion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    best = run[0] / "checkpoints" / "best.ckpt"
    one = next((motion_folder / "test" / "meets").iterdir())
    assert main(["predict", "--from", str(best), str(one), *QUIET, "--out", str(tmp_path / "p")]) == 0
    assert "meets" in capsys.readouterr().out
    assert main(["export-checkpoint", str(best), str(tmp_path / "zoo")]) == 0
    exported: Any = zoo.load(tmp_path / "zoo")
    direct: Any = VideoClassifier.load_from_checkpoint(best, weights_only=True).eval()
    size = exported.protocol.crop
    clip = torch.randn(2, 3, 4, size, size)
    with torch.no_grad():
        assert torch.equal(exported(clip), direct(clip))
    assert exported.labels == tuple(sorted(FOUR))


def test_a_run_may_train_the_head_alone(run: tuple[Path, list[str]], motion_folder: Path, tmp_path: Path) -> None:
    out, arguments = run
    best = str(out / "checkpoints" / "best.ckpt")
    more = [
        "--model",
        arguments[1],
        *motion(motion_folder),
        "--trainer.max_epochs",
        "1",
        *QUIET,
        "--out",
        str(tmp_path),
    ]
    assert main(["fit", "--from", best, "--model.freeze_backbone", "true", *more]) == 0
    before, after = (zoo.load(p) for p in (best, tmp_path / "checkpoints" / "last.ckpt"))
    old, new = before.state_dict(), after.state_dict()
    assert {key for key in new if not torch.equal(new[key], old[key])} == {"fc.weight", "fc.bias"}
