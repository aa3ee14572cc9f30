"""Outputs recorded from the official code: logits, gradients and batch statistics of networks and operators."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import golden_weights as gw
import numpy as np
import pytest
import torch
from paths import GOLDEN
from torch import Tensor

import zoo
from zoo.models.convnext import ChannelNorm
from zoo.ops import TAM, RouteMLP, RouteTransformer, TAdaAggregation, TAdaConv2dV2, tada_conv2d, tada_conv3d
from zoo.ops.activation import quick_gelu

NETWORKS = {
    "tada2d_r50_k400_8x8": "tada2d_r50.k400_8x8",
    "tada2d_r50_ssv2_8f": "tada2d_r50.ssv2_8f",
    "tanet_r50_k400_8f": "tanet_r50.k400_8f",
    "tanet_r50_ssv2_8f": "tanet_r50.ssv2_8f",
    "tadaconvnextv2_tiny_k400_16f": "tadaconvnextv2_tiny.in1k_k400_16f",
    "tadaconvnextv2_base_k400_16f": "tadaconvnextv2_base.in1k_k400_16f",
    "tadaformer_b16_k400_16f": "tadaformer_b16.clip_k400_16f",
    "tadaformer_b16_ssv2_16f": "tadaformer_b16.clip_ssv2_16f",
}


def document(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def publish(doc: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Path:
    """Write tensors in the publisher's layout: with key prefix, wrapper and training state."""
    layout = doc["checkpoint"]
    wrapped = {layout["prefix"] + key: value for key, value in tensors.items()}
    extras = {"epoch": 100, "best_prec1": np.float64(76.1), "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]}}
    torch.save({**extras, layout["wrapper"]: wrapped}, path)
    return path


def official(doc: dict[str, Any], case: dict[str, Any]) -> tuple[dict[str, Tensor], int | None]:
    """Return the official tensors of a case, and the image size if it differs from the published one."""
    shapes, size = doc["state_dict"], case.get("config_overrides", {}).get("VIDEO.BACKBONE.INPUT_RES")
    if size is not None:
        embedding = [1 + (size // 16) ** 2, 768]
        shapes = [
            [key, embedding if key.endswith("positional_embedding") else shape, kind] for key, shape, kind in shapes
        ]
    return gw.state_dict_for(shapes), size


def clip(case: dict[str, Any]) -> Tensor:
    batch, _, *rest = case.get("input_shape_BCTHW") or case["shape_BCTHW"]
    return torch.from_numpy(gw.clip_for(case["input_tag"], batch, *rest))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def test_formula_of_golden_weights_is_correct() -> None:
    assert gw.self_test()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_match_the_official_code(name: str, tmp_path: Path) -> None:
    """Every case in float32 and float64; all tensors are loaded without adaptation."""
    doc = document(name)
    built: dict[int | None, Any] = {}
    for case in doc["cases"]:
        tensors, size = official(doc, case)
        if size not in built:
            file = publish(doc, tensors, tmp_path / "file.pth.tar")
            built = {size: zoo.load(NETWORKS[name], weights=file, image_size=size)}
            model = built[size]
            assert model.report.as_trained
            assert len(model.state_dict()) == doc["n_keys"]
            if size is None:
                assert sum(p.numel() for p in model.parameters()) == doc["n_params"] == zoo.info(NETWORKS[name]).params
        model = built[size]
        expected = torch.tensor(case["logits_float64"], dtype=torch.float64)
        with torch.no_grad():
            assert (model(clip(case)) - expected).abs().max() < case["tol_float32_suggested"], case["case"]
            assert relative_error(model.double()(clip(case).double()), expected) < 1e-9, case["case"]
        model.float()


WITH_GRADIENTS = [
    "tada2d_r50_k400_8x8",
    "tanet_r50_k400_8f",
    "tadaconvnextv2_tiny_k400_16f",
    "tadaformer_b16_k400_16f",
    "tadaformer_b16_ssv2_16f",
]


@pytest.mark.parametrize("name", WITH_GRADIENTS)
@pytest.mark.parametrize("mode", ["grad_eval_mode", "train_mode"])
def test_gradients_and_statistics_match_the_official_code(name: str, mode: str, tmp_path: Path) -> None:
    """Compare the norm of each parameter's gradient and its dot product with a fixed direction."""
    doc = document(name)
    case = next(c for c in doc["cases"] if mode in c)
    tensors, size = official(doc, case)
    load = functools.partial(zoo.load, NETWORKS[name], image_size=size)
    model = load(weights=publish(doc, tensors, tmp_path / "file.pth")).double()
    # map official keys to ours: convert a file in which each tensor is filled with its index
    official_keys = list(tensors)
    indices = {key: torch.full_like(value, i, dtype=torch.float32) for i, (key, value) in enumerate(tensors.items())}
    converted = load(weights=publish(doc, indices, tmp_path / "indices.pth")).state_dict()
    ours = {official_keys[int(value.flatten()[0])]: key for key, value in converted.items()}
    model.train(mode == "train_mode")
    model.dropout.p = 0.0
    x = clip(case).double().requires_grad_()
    logits = model(x)
    direction = torch.from_numpy(gw.z_stream(f"loss:{doc['name']}/{case['case']}", logits.numel())).view_as(logits)
    ((logits * direction).sum() / len(logits)).backward()
    if mode == "train_mode":
        assert relative_error(logits.detach(), torch.tensor(case[mode]["logits_float64"], dtype=torch.float64)) < 1e-9
    parameters, state = dict(model.named_parameters()), model.state_dict()
    assert len(case[mode]["per_key"]) == len(parameters) + 1
    for key, norm, product in case[mode]["per_key"]:
        if key.startswith("<input"):
            assert x.grad.norm().item() == pytest.approx(norm, rel=1e-7)
            continue
        if norm == 0 and parameters[ours[key]].grad is None:
            continue  # second TAda block of the last block: skipped, since its output is unused
        gradient = parameters[ours[key]].grad.flatten()
        direction = torch.from_numpy(gw.z_stream(f"grad:{key}", gradient.numel()))
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-7, abs=1e-10), key
        assert (gradient * direction).sum().item() == pytest.approx(product, rel=1e-6, abs=1e-7 * norm + 1e-10), key
    for key, norm, product in case[mode].get("bn_after", []):
        value = state[ours[key]].double().flatten()
        direction = torch.from_numpy(gw.z_stream(f"bn:{key}", value.numel()))
        assert value.norm().item() == pytest.approx(norm, rel=1e-9), key
        assert (value * direction).sum().item() == pytest.approx(product, rel=1e-7, abs=1e-9 * norm), key


def test_mmaction2_files_reproduce_the_authors_logits(tmp_path: Path) -> None:
    doc, authors = document("mma_tanet_r50_k400_8"), document("tanet_r50_k400_8f")
    official = gw.state_dict_for(authors["state_dict"])
    renamed = {theirs: official[ours] for ours, theirs in doc["from_official_tam"]}
    file = publish(doc, renamed, tmp_path / "mma.pth")
    case = doc["case"]
    for name in ("tanet_r50.mma_k400_8f", "tanet_r50.mma0_k400_8f", "tanet_r50.k400_8f"):  # of two publishers
        model = zoo.load(name, weights=file)
        with torch.no_grad():
            expected = torch.tensor(case["logits_float32"])
            assert (model(clip(case)) - expected).abs().max() < 5e-5
        assert model.report.published is (False if "mma" in name else None)  # the index has 8 digits, and they differ


# operators -------------------------------------------------------------------------------------------------------

OPS = {case["name"]: case for case in document("ops")["cases"]}


def values(record: dict[str, Any]) -> Tensor:
    return torch.tensor(record["values"], dtype=torch.float64).view(record["shape"])


def op_tensors(case: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights and inputs by the formula, rounded to float32 and promoted, see SPEC.md of the golden files."""
    name = case["name"]
    weights = {
        key: torch.from_numpy(np.asarray(gw.value_for(f"ops/{name}.{key}", shape, kind))).view(shape)
        for key, shape, kind in case["state_dict"]
    }
    inputs = {}
    for key, shape in case["inputs"].items():
        z = gw.z_stream(f"ops/{name}/{key.replace('feat', 'x')}", int(np.prod(shape))).reshape(shape)
        inputs[key] = torch.from_numpy((1 + 0.3 * z if "alpha" in key else z).astype(np.float32)).double()
    promoted = {k: v.double() if v.is_floating_point() else v for k, v in weights.items()}
    return promoted, inputs


def check(case: dict[str, Any], outputs: Tensor | tuple[Tensor, ...], leaves: dict[str, Tensor]) -> None:
    loss = torch.zeros((), dtype=torch.float64)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == len(case["outputs"])
    for i, (output, record) in enumerate(zip(outputs, case["outputs"], strict=True)):
        assert relative_error(output.detach(), values(record)) < 1e-9
        direction = gw.z_stream(f"ops/{case['name']}/loss{i}", output.numel()).astype(np.float32)
        loss = loss + (output * torch.from_numpy(direction).double().view_as(output)).sum()
    loss.backward()
    assert set(case["grads"]) == set(leaves)
    for key, record in case["grads"].items():
        gradient = leaves[key].grad
        assert gradient is not None
        gradient, expected = gradient.reshape(record["shape"]), values(record)
        if expected.abs().max() < 1e-12:  # the gradient of a bias before a norm in training mode is only rounding error
            assert gradient.abs().max() < 1e-12, key
        else:
            assert relative_error(gradient, expected) < 1e-9, key


def fold(x: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` -> ``(B*T, C, H, W)``."""
    return x.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("name", [n for n in OPS if n.startswith("tada")])
def test_tadaconv_matches_the_official_operator(name: str) -> None:
    case = OPS[name]
    weights, inputs = op_tensors(case)
    leaves = {k: v.requires_grad_() for k, v in (weights | inputs).items()}
    options = eval(case["module"].split("(", 1)[1].split("); ")[0].rstrip(")"))
    x, alpha, weight = leaves["x"], leaves["alpha"].flatten(2), leaves["weight"][0, 0]
    bias = leaves["bias"].flatten() if "bias" in leaves else None
    space = {k: tuple(options.get(k, default)[1:]) for k, default in (("stride", (1, 1, 1)), ("padding", (0, 0, 0)))}
    cal_dim = options.get("cal_dim", "cin")
    if name.startswith("tada3d"):
        output = tada_conv3d(x, alpha, weight, bias, **space, cal_dim=cal_dim)
    else:
        folded, folded_alpha = fold(x), alpha.transpose(1, 2).flatten(0, 1)
        more = {"dilation": tuple(options.get("dilation", (1, 1, 1))[1:]), "groups": options.get("groups", 1)}
        output = tada_conv2d(folded, folded_alpha, weight, bias, **space, **more, cal_dim=cal_dim)
        output = output.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    check(case, output, leaves)


@pytest.mark.parametrize("name", ["rf_mlp", "rf_mlp_train"])
def test_routing_function_matches_the_official_one(name: str) -> None:
    case = OPS[name]
    weights, inputs = op_tensors(case)
    module = RouteMLP(16, 4, (3, 3)).double().train(case["mode"] == "train")
    module.load_state_dict({k: v.flatten(2) if v.ndim == 5 else v for k, v in weights.items()})
    x = inputs["x"].requires_grad_()
    alpha, _ = module(x.mean((3, 4)))
    check(case, alpha[..., None, None], {"x": x} | dict(module.named_parameters()))
    check_running_statistics(case, module)


def our_name(key: str) -> str:
    """Map a key of the authors' TAdaConvV2 to ours."""
    names = {"rf_func": "routing", "norm_transformer": "norm_attn", "qkv_proj": "qkv", "attn_out": "proj"}
    return ".".join(names.get(part, part) for part in key.split("."))


def ours(weights: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape the tensors of the authors' TAdaConvV2."""
    return {our_name(key): value.reshape(like[our_name(key)].shape) for key, value in weights.items()}


@pytest.mark.parametrize("name", [n for n in OPS if n.startswith("rf_tr")])
def test_routing_transformer_matches_the_official_one(name: str) -> None:
    case = OPS[name]
    weights, inputs = op_tensors(case)
    options = eval(case["module"].split("(", 1)[1].rstrip(")"))
    module = RouteTransformer(
        options["c_in"],
        options["ratio"],
        options["kernels"],
        head_dim=options["head_dim"],
        bias_channels=options["c_in"] if options["with_bias_cal"] else None,
        zero_init=options["zero_init_cal"],
    ).double()
    module.load_state_dict(ours(weights, module.state_dict()))
    x = inputs["x"].requires_grad_()
    scales = tuple(scale[..., None, None] for scale in module(x.mean((3, 4))) if scale is not None)
    theirs = {our_name(key): key for key in weights}
    check(case, scales, {"x": x} | {theirs[key]: value for key, value in module.named_parameters()})


@pytest.mark.parametrize("name", [n for n in OPS if n.startswith("v2_internal")])
def test_tadaconv_v2_with_aggregation_matches_the_official_operator(name: str) -> None:
    """As in TAdaFormer, for both input layouts of the authors' module."""
    case = OPS[name]
    weights, inputs = op_tensors(case)
    conv = TAdaConv2dV2(16, 16, 3, padding=1, groups=16, head_dim=4, zero_init=False).double()
    aggregation = TAdaAggregation(16).double().train(case["mode"] == "train")
    conv.load_state_dict(ours({k: v for k, v in weights.items() if not k.startswith("bn")}, conv.state_dict()))
    norms = {k.replace("bn_a", "bn").replace("bn_b", "pool_bn"): v for k, v in weights.items() if k.startswith("bn")}
    aggregation.load_state_dict(norms)
    x = inputs["feat"].requires_grad_()
    tokens = x.ndim == 3  # (H*W, B*T, C)
    y = aggregation(conv(x.permute(1, 2, 0).unflatten(2, (3, 3)) if tokens else fold(x), 4), 4)
    y = y.flatten(2).permute(2, 0, 1) if tokens else y.unflatten(0, (-1, 4)).transpose(1, 2)
    theirs = {our_name(key): key for key in weights}
    leaves = {"feat": x} | {theirs[key]: value for key, value in conv.named_parameters()}
    for key, value in aggregation.named_parameters():
        leaves[key.replace("pool_bn", "bn_b") if "pool" in key else key.replace("bn", "bn_a")] = value
    # without zero_init_cal, the authors' block equals that of TAdaFormer without its activation
    check(case, y, leaves)
    state = {f"bn_a.{k[3:]}": v for k, v in aggregation.state_dict().items() if k.startswith("bn.")}
    state |= {f"bn_b.{k[8:]}": v for k, v in aggregation.state_dict().items() if k.startswith("pool_bn.")}
    for key, expected in case.get("running_after", {}).items():
        assert relative_error(state[key].double(), torch.tensor(expected, dtype=torch.float64)) < 1e-9, key


@pytest.mark.parametrize("name", [n for n in OPS if n.startswith("v2_external")])
def test_tadaconv_v2_with_external_scales_matches_the_official_operator(name: str) -> None:
    case = OPS[name]
    weights, inputs = op_tensors(case)
    leaves = {k: v.requires_grad_() for k, v in (weights | inputs).items()}
    x, weight = leaves["feat"], leaves["weight"][0, 0]
    alpha, beta = (leaves[key].flatten(2).transpose(1, 2).flatten(0, 1) for key in ("w_alpha", "b_alpha"))
    y = tada_conv2d(
        fold(x),
        alpha,
        weight,
        leaves["bias"].flatten(),
        beta=beta,
        padding=weight.shape[-1] // 2,
        groups=6,
        cal_dim="cout",
    )
    check(case, y.unflatten(0, (x.shape[0], -1)).transpose(1, 2), leaves)


def test_norm_and_activation_match_the_official_ones() -> None:
    case = OPS["ln_channels_first"]
    weights, inputs = op_tensors(case)
    module = ChannelNorm(6, 1e-6).double()
    module.load_state_dict(weights)
    x = inputs["x"].requires_grad_()
    y = module(fold(x)).unflatten(0, (2, -1)).transpose(1, 2)
    check(case, y, {"x": x} | dict(module.named_parameters()))
    x = op_tensors(OPS["quickgelu"])[1]["x"].requires_grad_()
    check(OPS["quickgelu"], quick_gelu(x), {"x": x})


def test_every_golden_operator_is_tested() -> None:
    assert all(name.startswith(("tada", "rf_", "v2_", "tam_", "ln_", "quickgelu")) for name in OPS)


@pytest.mark.parametrize("name", ["tam_eval", "tam_train", "tam_eval_8f"])
def test_tam_matches_the_official_operator(name: str) -> None:
    case = OPS[name]
    weights, inputs = op_tensors(case)
    channels, frames = case["inputs"]["x"][1], weights["G.0.weight"].shape[1]
    module = TAM(channels, frames).double().train(case["mode"] == "train")
    module.load_state_dict(weights)
    x = inputs["x"].requires_grad_()
    check(case, module(x, frames), {"x": x} | dict(module.named_parameters()))
    check_running_statistics(case, module)


def check_running_statistics(case: dict[str, Any], module: torch.nn.Module) -> None:
    state = module.state_dict()
    for key, expected in case.get("running_after", {}).items():
        assert relative_error(state[key].double(), torch.tensor(expected, dtype=torch.float64)) < 1e-9, key
