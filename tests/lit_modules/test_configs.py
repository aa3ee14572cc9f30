"""configs/: the command line accepts every file, and the recipes have the published optimizers and schedules."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from paths import ROOT
from torch.optim import SGD, AdamW

import datamodules
import lit_modules
import zoo
from cli import main
from lit_modules.trainer_cli import RunTrainer
from zoo.models.network import DropPath

CONFIGS = ROOT / "configs"
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))


class Published(NamedTuple):
    """Published training options of a row. Learning rates are absolute, for ``clips`` per step on all ``gpus``."""

    optimizer: str
    lr: float
    clips: int
    gpus: int
    weight_decay: float
    epochs: int
    warmup_epochs: float
    start_lr: float
    end_lr: float = 0
    drop_rate: float = 0.5
    drop_path_rate: float = 0
    label_smoothing: float = 0
    layer_decay: float | None = None


# github.com/alibaba-mmai-research/TAdaConv, configs/projects/{tada,tadaconvnextv2,tadaformer}, and
# github.com/liu-zhy/temporal-adaptive-module, scripts/train_tam_*.sh. Rows without a released file have the
# values of the row that the comment in our file names.
TADA_8 = Published("sgd", lr=0.24, clips=128, gpus=8, weight_decay=1e-4, epochs=100, warmup_epochs=8, start_lr=1e-2)
TADA_16 = TADA_8._replace(lr=0.12, clips=64)
TADA_SSV_8 = TADA_8._replace(lr=0.48, epochs=64, warmup_epochs=4, start_lr=1e-4)
TADA_SSV_16 = TADA_SSV_8._replace(lr=0.24, clips=64)
NEXT_T = Published(
    "adamw", 5e-4, clips=512, gpus=32, weight_decay=0.02, epochs=100, warmup_epochs=8, start_lr=1e-6, drop_path_rate=0.2
)
NEXT_S = NEXT_T._replace(lr=2.5e-4, clips=256, drop_path_rate=0.4)
NEXT_B = NEXT_S._replace(drop_path_rate=0.6)
NEXT_SSV_T = NEXT_T._replace(epochs=64, warmup_epochs=2.5, drop_path_rate=0.3)
NEXT_SSV_S = NEXT_S._replace(epochs=64, warmup_epochs=2.5, drop_path_rate=0.5)
NEXT_SSV_B = NEXT_SSV_S._replace(drop_path_rate=0.6)
FORMER_B = Published(
    "adamw", 5e-5, clips=256, gpus=8, weight_decay=0.05, epochs=30, warmup_epochs=5, start_lr=1e-6, end_lr=1e-6,
    label_smoothing=0.1, layer_decay=0.7,
)  # fmt: skip
FORMER_L = FORMER_B._replace(lr=2e-5, clips=64, gpus=16, epochs=24, layer_decay=0.85)
FORMER_SSV_B = FORMER_B._replace(lr=5e-4, epochs=24, warmup_epochs=4, start_lr=1e-8)
FORMER_SSV_L = FORMER_SSV_B._replace(lr=2.5e-4, clips=128, drop_path_rate=0.2, layer_decay=0.85)
TAM = Published("sgd", lr=0.01, clips=64, gpus=8, weight_decay=1e-4, epochs=100, warmup_epochs=0, start_lr=0.01)
TAM_SSV1 = TAM._replace(gpus=4, weight_decay=1e-3, epochs=50, drop_rate=0.6)
TAM_SSV2 = TAM._replace(lr=0.02, start_lr=0.02, clips=128, gpus=4, weight_decay=5e-4, epochs=50)

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

# recipe -> parameter -> (learning rate scale without layer decay, whether weight decay applies)
GROUPS: dict[str, dict[str, tuple[float, bool]]] = {
    # models/utils/optimizer.py without LR_REDUCE: one rate; norms and biases do not decay
    "TAda2D": {
        "stem.conv.weight": (1, True), "stem.bn.weight": (1, False), "layer4.1.conv2.conv.weight": (1, True),
        "layer4.1.conv2.pool_bn.weight": (1, False), "layer4.1.conv2.conv.routing.g.weight": (1, True),
        "layer4.1.conv2.conv.routing.g.bias": (1, False), "layer4.1.conv2.conv.routing.bn.bias": (1, False),
        "fc.weight": (1, True), "fc.bias": (1, False),
    },
    # the same with LR_REDUCE: "rf" and "head" x5, names with "bias" x10, names with "norm" outside "rf" in a group of
    # their own; those of the norms in "downsample_layers" lack "norm"
    "TAdaConvNeXtV2": {
        "stem.conv.weight": (1, True), "stem.conv.bias": (1, False), "stem.norm.weight": (1, True),
        "stem.norm.bias": (1, False), "downsamples.2.0.weight": (1, True), "downsamples.2.0.bias": (1, False),
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
NARROW_OPTIONS: dict[str, dict[str, Any]] = {
    "TAdaFormer": {"width": 16, "heads": 2, "patch": 8},
    "TANet": {"num_frames": 4},
}


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    """A parser of the same options as the command line. It is created once, because this takes long."""
    parser = LightningArgumentParser()
    parser.add_argument("--seed_everything", type=int)
    parser.add_lightning_class_args(lit_modules.VideoClassifier, "model", subclass_mode=True)
    parser.add_lightning_class_args(datamodules.VideoDataModule, "data", subclass_mode=True)
    parser.add_lightning_class_args(RunTrainer, "trainer")
    return parser


def read_config(file: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / file).read_text())


def narrow_module(file: str) -> Any:
    """Return the recipe of a file with a narrow network of the same depth, set up for the published number of GPUs."""
    config, row = read_config(f"{file}.yaml"), RECIPES[file]
    model = dict(config["model"]["init_args"])
    arch, recipe = model.pop("name").split(".")[0], config["model"]["class_path"]
    del model["protocol"]
    options = {"width": 8, "num_classes": 4} | NARROW_OPTIONS.get(recipe, {})
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
    """Return the learning rate of the released cosine schedule at an epoch (tadaconv/models/utils/lr_policy.py)."""

    def cosine(epoch: float) -> float:
        offset = row.warmup_epochs if cosine_after_warmup else 0.0
        share = (epoch - offset) / (row.epochs - offset)
        return row.end_lr + (row.lr - row.end_lr) * 0.5 * (1 + math.cos(math.pi * share))

    if epoch < row.warmup_epochs:
        return row.start_lr + (cosine(row.warmup_epochs) - row.start_lr) * epoch / row.warmup_epochs
    return cosine(epoch)


def test_every_published_row_has_a_file() -> None:
    rows = {file.removesuffix(".yaml") for file in FILES if file.split("/")[0] in ("k400", "ssv1", "ssv2")}
    assert rows == set(RECIPES)


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("localize/")])
def test_parser_accepts_every_file(file: str, parser: LightningArgumentParser) -> None:
    config = read_config(file)
    config["data"]["init_args"].setdefault("root", "videos")
    parsed = parser.parse_object(config)
    assert parsed.model.class_path.endswith(f".{config['model']['class_path']}")
    for key, value in config["model"]["init_args"].items():
        parsed_value = parsed.model.init_args[key]
        assert parsed_value == value or {name: parsed_value[name] for name in value} == value, key
    text = (CONFIGS / file).read_text()
    if "/" in file:
        assert f"tempozoo fit --config {file.removesuffix('.yaml')} --data.root " in text


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("localize/")])
def test_fit_command_accepts_every_file_of_a_localizer(file: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", "--config", file.removesuffix(".yaml"), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for section in ("model", "data"):
        expected, options = read_config(file)[section], printed[section]["init_args"]
        assert printed[section]["class_path"].endswith(f".{expected['class_path']}")
        for key, value in expected.get("init_args", {}).items():
            assert options[key] == value, key
    assert f"tempozoo fit --config {file.removesuffix('.yaml')} " in (CONFIGS / file).read_text()


def test_fit_command_accepts_a_file(capsys: pytest.CaptureFixture) -> None:
    """The test above uses a simplified parser. This one uses the complete command."""
    file = str(CONFIGS / "ssv2" / "tadaformer_l14_32f.yaml")
    assert main(["fit", "--config", file, "--data.root", "videos", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["class_path"].endswith("SomethingV2")
    assert (printed["model"]["init_args"]["optimizer"]["layer_decay"], printed["trainer"]["max_epochs"]) == (0.85, 24)


@pytest.mark.parametrize("file", RECIPES)
def test_protocol_entry_of_a_recipe_matches_its_row(file: str) -> None:
    """The index entry that provides the protocol has the row's architecture, frames, data, views and accuracy."""
    config, text = read_config(f"{file}.yaml"), (CONFIGS / f"{file}.yaml").read_text()
    model, row = config["model"]["init_args"], RECIPES[file]
    start, entry = zoo.info(model["name"]), zoo.info(model["protocol"])
    assert start.arch == entry.arch
    data, stem = file.split("/")
    assert config["data"]["class_path"] == {"k400": "Kinetics", "ssv1": "SomethingV1", "ssv2": "SomethingV2"}[data]
    sampling = stem.split("_")[-1]
    frames = {"8x8": 8, "16x5": 16}.get(sampling) or int(sampling.removesuffix("f"))
    assert entry.protocol.num_frames == frames
    is_unreleased = data == "ssv1" and "tanet" not in file  # uses the protocol of the entry for ssv2
    assert entry.dataset == {"k400": "kinetics400", "ssv1": "ssv2" if is_unreleased else "ssv1", "ssv2": "ssv2"}[data]
    if not is_unreleased:
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
def test_recipe_has_the_published_optimizer_and_schedule(file: str) -> None:
    module, row = narrow_module(file), RECIPES[file]
    configuration = module.configure_optimizers()
    optimizer, factor = configuration["optimizer"], configuration["lr_scheduler"]["scheduler"].lr_lambdas[0]
    recipe = type(module).__name__
    if row.optimizer == "sgd":
        assert type(optimizer) is SGD
        for group in optimizer.param_groups:
            assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.9, 0, recipe == "TAda2D")
    else:
        assert type(optimizer) is AdamW
        assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}

    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    group_of = {name: groups[id(p)] for name, p in module.network.named_parameters()}
    depth = DEPTHS.get(module.network.spec.arch, 0)
    for name, (scale, decays) in GROUPS[recipe].items():
        name = name.replace("blocks.1.", f"blocks.{depth - 1}.")
        if row.layer_decay:
            if name.startswith("blocks"):
                layer = int(name.split(".")[1]) + 1
            else:
                layer = 0 if name.startswith(("stem", "norm_pre", "class", "pos")) else depth + 1
            scale *= row.layer_decay ** (depth + 1 - layer)
        assert group_of[name]["initial_lr"] == pytest.approx(row.lr * scale), name
        assert group_of[name]["weight_decay"] == (row.weight_decay if decays else 0), name

    if recipe == "TANet":
        steps = {100: (50, 75, 90), 50: (30, 40, 45)}[row.epochs]
        for epoch in range(row.epochs):
            assert factor(100 * epoch) == pytest.approx(0.1 ** sum(epoch >= step for step in steps)), epoch
    else:
        warmup, end = row.warmup_epochs, row.epochs
        for epoch in (0, warmup / 2, warmup - 0.01, warmup, end / 2, end - 1, end):
            expected = published_rate(row, recipe == "TAdaFormer", epoch)
            assert row.lr * factor(round(100 * epoch)) == pytest.approx(expected, rel=1e-4, abs=1e-12), epoch

    network, regularization = module.network, module.recipe.regularization
    assert regularization.label_smoothing == row.label_smoothing
    assert network.dropout.p == row.drop_rate
    rates = [part.rate for part in network.modules() if isinstance(part, DropPath)]
    assert max(rates, default=0) == pytest.approx(row.drop_path_rate)
    assert (regularization.mixup, regularization.cutmix) == (0, 0)
    assert (module.hparams["ema_decay"], module.hparams["grad_checkpointing"]) == (None, False)


def test_learning_rate_is_proportional_to_the_total_batch_size() -> None:
    module = narrow_module("k400/tada2d_r50_8x8")
    module.trainer.world_size, module.trainer.accumulate_grad_batches = 2, 2

    def rate() -> float:
        return module.configure_optimizers()["optimizer"].param_groups[0]["initial_lr"]

    assert rate() == pytest.approx(0.12)  # 16 clips x 2 devices x 2 batches per step: half of 128
    module.recipe = module.recipe.override({"optimizer": {"lr_batch_size": None}}, {})
    assert rate() == pytest.approx(0.24)
