"""configs/: the command line takes every file, and the recipes make the published optimizers and schedules."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import lightning as L
import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from paths import ROOT
from torch.optim import SGD, AdamW

import datamodules
import lit_modules
import zoo
from cli import main
from zoo.models.network import DropPath

CONFIGS = ROOT / "configs"
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))


class Published(NamedTuple):
    """Learning rates are absolute; ``gpus`` is what the file names, ``clips`` the batch that ``lr`` was for."""

    optimizer: str
    lr: float
    clips: int
    gpus: int
    decay: float
    epochs: int
    warmup: float
    start: float
    end: float
    dropout: float
    drop_path: float
    smoothing: float
    layer_decay: float | None


# github.com/alibaba-mmai-research/TAdaConv, configs/projects/{tada,tadaconvnextv2,tadaformer}, and
# github.com/liu-zhy/temporal-adaptive-module, scripts/train_tam_*.sh. Rows without a file of their own there have the
# values of the row that their comment names.
#                              optimizer lr  clips gpus decay epochs warm-up start  end  dropout drop path, smoothing
TADA_8 = Published("sgd", 0.24, 128, 8, 1e-4, 100, 8, 1e-2, 0, 0.5, 0, 0, None)
TADA_16 = Published("sgd", 0.12, 64, 8, 1e-4, 100, 8, 1e-2, 0, 0.5, 0, 0, None)
TADA_SSV_8 = Published("sgd", 0.48, 128, 8, 1e-4, 64, 4, 1e-4, 0, 0.5, 0, 0, None)
TADA_SSV_16 = Published("sgd", 0.24, 64, 8, 1e-4, 64, 4, 1e-4, 0, 0.5, 0, 0, None)
NEXT_T = Published("adamw", 5e-4, 512, 32, 0.02, 100, 8, 1e-6, 0, 0.5, 0.2, 0, None)
NEXT_S = Published("adamw", 2.5e-4, 256, 32, 0.02, 100, 8, 1e-6, 0, 0.5, 0.4, 0, None)
NEXT_B = Published("adamw", 2.5e-4, 256, 32, 0.02, 100, 8, 1e-6, 0, 0.5, 0.6, 0, None)
NEXT_SSV_T = Published("adamw", 5e-4, 512, 32, 0.02, 64, 2.5, 1e-6, 0, 0.5, 0.3, 0, None)
NEXT_SSV_S = Published("adamw", 2.5e-4, 256, 32, 0.02, 64, 2.5, 1e-6, 0, 0.5, 0.5, 0, None)
NEXT_SSV_B = Published("adamw", 2.5e-4, 256, 32, 0.02, 64, 2.5, 1e-6, 0, 0.5, 0.6, 0, None)
FORMER_B = Published("adamw", 5e-5, 256, 8, 0.05, 30, 5, 1e-6, 1e-6, 0.5, 0, 0.1, 0.7)
FORMER_L = Published("adamw", 2e-5, 64, 16, 0.05, 24, 5, 1e-6, 1e-6, 0.5, 0, 0.1, 0.85)
FORMER_SSV_B = Published("adamw", 5e-4, 256, 8, 0.05, 24, 4, 1e-8, 1e-6, 0.5, 0, 0.1, 0.7)
FORMER_SSV_L = Published("adamw", 2.5e-4, 128, 8, 0.05, 24, 4, 1e-8, 1e-6, 0.5, 0.2, 0.1, 0.85)
TAM = Published("sgd", 0.01, 64, 8, 1e-4, 100, 0, 0.01, 0, 0.5, 0, 0, None)
TAM_SSV1 = Published("sgd", 0.01, 64, 4, 1e-3, 50, 0, 0.01, 0, 0.6, 0, 0, None)
TAM_SSV2 = Published("sgd", 0.02, 128, 4, 5e-4, 50, 0, 0.02, 0, 0.5, 0, 0, None)

RECIPES = {
    "k400/tada2d_r50_8x8": TADA_8, "k400/tada2d_r50_16x5": TADA_16,
    "k400/tadaconvnextv2_tiny_16f": NEXT_T, "k400/tadaconvnextv2_tiny_32f": NEXT_T,
    "k400/tadaconvnextv2_small_16f": NEXT_S, "k400/tadaconvnextv2_small_32f": NEXT_S,
    "k400/tadaconvnextv2_small_in21k_32f": NEXT_S,
    "k400/tadaconvnextv2_base_16f": NEXT_B, "k400/tadaconvnextv2_base_32f": NEXT_B,
    "k400/tadaconvnextv2_base_in21k_32f": NEXT_B,
    "k400/tadaformer_b16_16f": FORMER_B, "k400/tadaformer_b16_k710_16f": FORMER_B,
    "k400/tadaformer_l14_16f": FORMER_L, "k400/tadaformer_l14_k710_16f": FORMER_L,
    "k400/tadaformer_l14_k710_32f": FORMER_L, "k400/tadaformer_l14_k710_64f": FORMER_L,
    "k400/tanet_r50_8f": TAM, "k400/tanet_r50_16f": TAM,
    "ssv2/tada2d_r50_8f": TADA_SSV_8, "ssv2/tada2d_r50_16f": TADA_SSV_16,
    "ssv1/tanet_r50_8f": TAM_SSV1, "ssv1/tanet_r50_16f": TAM_SSV1,
    "ssv2/tanet_r50_8f": TAM_SSV2, "ssv2/tanet_r50_16f": TAM_SSV2,
}  # fmt: skip
for data in ("ssv1", "ssv2"):
    RECIPES |= {
        f"{data}/tadaconvnextv2_tiny_16f": NEXT_SSV_T, f"{data}/tadaconvnextv2_tiny_32f": NEXT_SSV_T,
        f"{data}/tadaconvnextv2_small_16f": NEXT_SSV_S, f"{data}/tadaconvnextv2_small_32f": NEXT_SSV_S,
        f"{data}/tadaconvnextv2_small_in21k_32f": NEXT_SSV_S, f"{data}/tadaconvnextv2_base_in21k_32f": NEXT_SSV_B,
        f"{data}/tadaformer_b16_16f": FORMER_SSV_B, f"{data}/tadaformer_b16_32f": FORMER_SSV_B,
        f"{data}/tadaformer_l14_16f": FORMER_SSV_L, f"{data}/tadaformer_l14_32f": FORMER_SSV_L,
    }  # fmt: skip

# by recipe: parameter -> its rate in multiples of the run's, layer decay apart, and whether it decays
GROUPS: dict[str, dict[str, tuple[float, bool]]] = {
    # models/utils/optimizer.py without LR_REDUCE: one rate; norms and biases do not decay
    "TAda2D": {
        "stem.conv.weight": (1, True), "stem.bn.weight": (1, False), "layer4.1.conv2.conv.weight": (1, True),
        "layer4.1.conv2.pool_bn.weight": (1, False), "layer4.1.conv2.conv.routing.g.weight": (1, True),
        "layer4.1.conv2.conv.routing.g.bias": (1, False), "layer4.1.conv2.conv.routing.bn.bias": (1, False),
        "fc.weight": (1, True), "fc.bias": (1, False),
    },
    # the same with LR_REDUCE: "rf" and "head" x5, what has "bias" in its name x10; "norm" outside of "rf" apart
    "TAdaConvNeXtV2": {
        "stem.conv.weight": (1, True), "stem.conv.bias": (1, False), "stem.norm.weight": (1, False),
        "stages.2.8.gamma": (1, True), "stages.2.8.conv.weight": (1, True), "stages.2.8.conv.bias": (1, False),
        "stages.2.8.conv.routing.a.weight": (5, True), "stages.2.8.conv.routing.a.bias": (10, False),
        "stages.2.8.conv.routing.norm.weight": (5, True), "stages.2.8.conv.routing.norm.bias": (10, False),
        "stages.2.8.conv.routing.norm_attn.weight": (5, True), "stages.2.8.conv.routing.norm_attn.bias": (10, False),
        "stages.2.8.conv.routing.qkv.weight": (5, True), "stages.2.8.conv.routing.b.weight": (5, True),
        "stages.2.8.conv.routing.b_bias.weight": (10, False), "stages.2.8.pool_norm.weight": (1, False),
        "stages.2.8.fc1.bias": (1, False), "norm.weight": (1, False), "fc.weight": (5, True), "fc.bias": (10, False),
    },
    # the same with LAYER_WISE_LR_DECAY: "tada" and "head" x10; one dimension or "bias": no decay
    "TAdaFormer": {
        "stem.weight": (1, True), "class_embedding": (1, False), "pos_embed": (1, True), "norm_pre.weight": (1, False),
        "blocks.0.tada.pre.weight": (10, True), "blocks.0.tada.pre.bias": (10, False),
        "blocks.0.tada.conv.bias": (10, False), "blocks.0.tada.conv.routing.b_bias.weight": (10, True),
        "blocks.0.tada.conv.routing.norm.weight": (10, False), "blocks.0.tada.aggregation.bn.weight": (10, False),
        "blocks.1.tada.proj.weight": (10, True), "blocks.1.attn.qkv.weight": (1, True), "norm.weight": (1, False),
        "fc.weight": (10, True), "fc.bias": (10, False),
    },
    # ops/models.py, get_optim_policies: every linear layer x5, so TAM's global branch too
    "TANet": {
        "stem.conv.weight": (1, True), "stem.bn.bias": (1, False), "layer4.1.conv2.conv.weight": (1, True),
        "layer4.1.temporal.G.0.weight": (5, True), "layer4.1.temporal.G.1.weight": (1, False),
        "layer4.1.temporal.G.3.weight": (5, True), "layer4.1.temporal.L.0.weight": (1, True),
        "fc.weight": (5, True), "fc.bias": (10, False),
    },
}  # fmt: skip
DEPTHS = {"tadaformer_b16": 12, "tadaformer_l14": 24}
STAND_INS: dict[str, dict[str, Any]] = {"TAdaFormer": {"width": 16, "heads": 2, "patch": 8}, "TANet": {"num_frames": 4}}


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    """As the command line's, but built once: what a file may say of model, data and trainer."""
    made = LightningArgumentParser()
    made.add_argument("--seed_everything", type=int)
    made.add_lightning_class_args(lit_modules.VideoClassifier, "model", subclass_mode=True)
    made.add_lightning_class_args(datamodules.VideoDataModule, "data", subclass_mode=True)
    made.add_lightning_class_args(L.Trainer, "trainer")
    return made


def read(file: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / file).read_text())


def stand_in(file: str) -> Any:
    """The recipe of a file with a narrow network of the same depth, in a run on as many GPUs as published."""
    config, row = read(f"{file}.yaml"), RECIPES[file]
    model = dict(config["model"]["init_args"])
    arch, recipe = model.pop("name").split(".")[0], config["model"]["class_path"]
    del model["protocol"]
    options = {"width": 8, "num_classes": 4} | STAND_INS.get(recipe, {})
    if recipe == "TAdaFormer" and "ssv" in file:
        options |= {"temporal_projection": True, "double_tada": True}
    module = getattr(lit_modules, recipe)(arch, options=options, image_size=16 if "patch" in options else None, **model)
    batch = config["data"]["init_args"]["batch_size"]
    assert batch * row.gpus == row.clips
    module._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(batch_size=batch), train_dataloader=None, world_size=row.gpus,
        accumulate_grad_batches=1, max_epochs=config["trainer"]["max_epochs"],
        estimated_stepping_batches=100 * config["trainer"]["max_epochs"], num_training_batches=100,
        fit_loop=SimpleNamespace(setup_data=lambda: None), strategy=None,
    )  # fmt: skip
    module.setup("fit")
    return module


def published_rate(row: Published, cosine_after_warmup: bool, epoch: float) -> float:
    """The released schedules, as a rate at an epoch of ``row``: half a cosine (tadaconv/models/utils/lr_policy.py)."""

    def cosine(epoch: float) -> float:
        offset = row.warmup if cosine_after_warmup else 0.0
        share = (epoch - offset) / (row.epochs - offset)
        return row.end + (row.lr - row.end) * 0.5 * (1 + math.cos(math.pi * share))

    if epoch < row.warmup:
        return row.start + (cosine(row.warmup) - row.start) * epoch / row.warmup
    return cosine(epoch)


def test_every_row_has_a_file() -> None:
    rows = {file.removesuffix(".yaml") for file in FILES if file.split("/")[0] in ("k400", "ssv1", "ssv2")}
    assert rows == set(RECIPES)


@pytest.mark.parametrize("file", FILES)
def test_the_command_line_takes_a_file(file: str, parser: LightningArgumentParser) -> None:
    config = read(file)
    config["data"]["init_args"].setdefault("root", "videos")
    parsed = parser.parse_object(config)
    assert parsed.model.class_path.endswith(f".{config['model']['class_path']}")
    for key, value in config["model"]["init_args"].items():
        given = parsed.model.init_args[key]
        assert given == value or {name: given[name] for name in value} == value, key
    text = (CONFIGS / file).read_text()
    if "/" in file:
        assert f"tempozoo fit --config {file.removesuffix('.yaml')} --data.root " in text


def test_the_command_line_prints_a_file(capsys: pytest.CaptureFixture) -> None:
    """And really does: as the test above, with all that the command adds."""
    file = str(CONFIGS / "ssv2" / "tadaformer_l14_32f.yaml")
    assert main(["fit", "--config", file, "--data.root", "videos", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["class_path"].endswith("SomethingV2")
    assert (printed["model"]["init_args"]["optimizer"]["layer_decay"], printed["trainer"]["max_epochs"]) == (0.85, 24)


@pytest.mark.parametrize("file", RECIPES)
def test_a_recipe_names_its_row(file: str) -> None:
    """The entry whose protocol a run takes is that of the row: its architecture, frames, data, views and accuracy."""
    config, text = read(f"{file}.yaml"), (CONFIGS / f"{file}.yaml").read_text()
    model, row = config["model"]["init_args"], RECIPES[file]
    start, entry = zoo.info(model["name"]), zoo.info(model["protocol"])
    assert start.arch == entry.arch
    data, stem = file.split("/")
    assert config["data"]["class_path"] == {"k400": "Kinetics", "ssv1": "SomethingV1", "ssv2": "SomethingV2"}[data]
    frames = {"8x8": 8, "16x5": 16}.get(stem.split("_")[-1]) or int(stem.split("_")[-1].removesuffix("f"))
    assert entry.protocol.num_frames == frames
    ours = data == "ssv1" and "tanet" not in file  # no entry: nothing of it is released
    assert entry.dataset == {"k400": "kinetics400", "ssv1": "ssv2" if ours else "ssv1", "ssv2": "ssv2"}[data]
    if not ours:
        assert f"{entry.reported.top1} top-1 with {entry.reported.views} views" in text
    if "tadaformer" in file:
        assert ("double_tada" in start.options) == ("ssv" in file)
    if "tadaconvnextv2" in file and "ssv" in file:
        assert start.dataset == "kinetics400" and not start.init
    assert f"published on {row.gpus} GPUs" in text
    assert config["trainer"].get("gradient_clip_val") == (20 if "tanet" in file else None)
    assert not {"mixup", "cutmix"} & set(model.get("regularization", {}))  # off in every released file
    assert not {"erasing", "color_jitter", "repeats"} & set(config["data"]["init_args"])


@pytest.mark.parametrize("file", RECIPES)
def test_a_recipe_makes_the_published_optimizer(file: str) -> None:
    module, row = stand_in(file), RECIPES[file]
    made = module.configure_optimizers()
    optimizer, factor = made["optimizer"], made["lr_scheduler"]["scheduler"].lr_lambdas[0]
    recipe = type(module).__name__
    if row.optimizer == "sgd":
        assert type(optimizer) is SGD
        assert {(g["momentum"], g["dampening"], g["nesterov"]) for g in optimizer.param_groups} == {
            (0.9, 0, recipe == "TAda2D")
        }
    else:
        assert type(optimizer) is AdamW
        assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}

    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {name: groups[id(p)] for name, p in module.network.named_parameters()}
    depth = DEPTHS.get(module.network.spec.arch, 0)
    for name, (scale, decays) in GROUPS[recipe].items():
        name = name.replace("blocks.1.", f"blocks.{depth - 1}.")
        if row.layer_decay:
            at = 0 if name.startswith(("stem", "norm_pre", "class", "pos")) else depth + 1
            at = int(name.split(".")[1]) + 1 if name.startswith("blocks") else at
            scale *= row.layer_decay ** (depth + 1 - at)
        assert found[name]["initial_lr"] == pytest.approx(row.lr * scale), name
        assert found[name]["weight_decay"] == (row.decay if decays else 0), name

    if recipe == "TANet":
        steps = {100: (50, 75, 90), 50: (30, 40, 45)}[row.epochs]
        for epoch in range(row.epochs):
            assert factor(100 * epoch) == pytest.approx(0.1 ** sum(epoch >= step for step in steps)), epoch
    else:
        for epoch in (0, row.warmup / 2, row.warmup - 0.01, row.warmup, row.epochs / 2, row.epochs - 1, row.epochs):
            wanted = published_rate(row, recipe == "TAdaFormer", epoch)
            assert row.lr * factor(round(100 * epoch)) == pytest.approx(wanted, rel=1e-4, abs=1e-12), epoch

    network, regularization = module.network, module.recipe.regularization
    assert regularization.label_smoothing == row.smoothing
    assert network.dropout.p == row.dropout
    rates = [part.rate for part in network.modules() if isinstance(part, DropPath)]
    assert max(rates, default=0) == pytest.approx(row.drop_path)
    assert (regularization.mixup, regularization.cutmix) == (0, 0)
    assert (module.hparams["ema_decay"], module.hparams["grad_checkpointing"]) == (None, False)


def test_the_rate_follows_the_batch() -> None:
    module = stand_in("k400/tada2d_r50_8x8")
    module.trainer.world_size, module.trainer.accumulate_grad_batches = 2, 2

    def rate() -> float:
        return module.configure_optimizers()["optimizer"].param_groups[0]["initial_lr"]

    assert rate() == pytest.approx(0.12)  # 16 clips x 2 devices x 2 batches a step, half of 128
    module.recipe = module.recipe.override({"optimizer": {"lr_batch_size": None}}, {})
    assert rate() == pytest.approx(0.24)
