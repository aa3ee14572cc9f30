"""Every published layout, with the official code's answers: logits, gradients, training statistics, operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import golden_weights as gw
import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from zoo.ops import TAM, RouteMLP, tada_conv2d, tada_conv3d

GOLDEN = Path(__file__).parent / "golden"
NETWORKS = {
    "tada2d_r50_k400_8x8": "tada2d_r50.k400_8x8",
    "tada2d_r50_ssv2_8f": "tada2d_r50.ssv2_8f",
    "tanet_r50_k400_8f": "tanet_r50.k400_8f",
    "tanet_r50_ssv2_8f": "tanet_r50.ssv2_8f",
}


def document(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def publish(doc: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Path:
    """Write tensors as their publisher does: prefixed, wrapped, beside what else such files carry."""
    layout = doc["checkpoint"]
    wrapped = {layout["prefix"] + key: value for key, value in tensors.items()}
    extras = {"epoch": 100, "best_prec1": np.float64(76.1), "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]}}
    torch.save({**extras, layout["wrapper"]: wrapped}, path)
    return path


@pytest.fixture(scope="module", params=NETWORKS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    doc = document(request.param)
    file = publish(doc, gw.state_dict_for(doc["state_dict"]), tmp_path_factory.mktemp("golden") / "file.pth.tar")
    return doc, zoo.load(NETWORKS[request.param], weights=file)


def clip(case: dict[str, Any]) -> Tensor:
    batch, _, *rest = case.get("input_shape_BCTHW") or case["shape_BCTHW"]
    return torch.from_numpy(gw.clip_for(case["input_tag"], batch, *rest))


def relative(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


def test_formula_is_the_published_one() -> None:
    assert gw.self_test()


def test_logits_are_the_official_ones(published: tuple[dict[str, Any], Any]) -> None:
    doc, model = published
    for case in doc["cases"]:
        wanted = torch.tensor(case["logits_float64"], dtype=torch.float64)
        with torch.no_grad():
            assert (model(clip(case)) - wanted).abs().max() < case["tol_float32_suggested"], case["case"]
            double = model.double()(clip(case).double())
        model.float()
        assert relative(double, wanted) < 1e-9, case["case"]


def test_report_says_that_all_was_taken_as_it_stood(published: tuple[dict[str, Any], Any]) -> None:
    doc, model = published
    assert model.report.as_trained
    assert sum(p.numel() for p in model.parameters()) == doc["n_params"] == zoo.info(model.report.name).params
    assert len(model.state_dict()) == doc["n_keys"]


@pytest.mark.parametrize("name", ["tada2d_r50_k400_8x8", "tanet_r50_k400_8f"])
@pytest.mark.parametrize("mode", ["grad_eval_mode", "train_mode"])
def test_gradients_and_statistics_are_the_official_ones(name: str, mode: str, tmp_path: Path) -> None:
    """Per parameter: norm of the gradient and its product with a fixed direction, through the converter's names."""
    doc = document(name)
    case = next(c for c in doc["cases"] if mode in c)
    tensors = gw.state_dict_for(doc["state_dict"])
    model = zoo.load(NETWORKS[name], weights=publish(doc, tensors, tmp_path / "file.pth")).double()
    # where each official tensor went: convert a file whose tensors hold their own position instead of a value
    order = list(tensors)
    marks = {key: torch.full_like(value, i, dtype=torch.float32) for i, (key, value) in enumerate(tensors.items())}
    marked = zoo.load(NETWORKS[name], weights=publish(doc, marks, tmp_path / "marks.pth")).state_dict()
    ours = {order[int(value.flatten()[0])]: key for key, value in marked.items()}
    model.train(mode == "train_mode")
    model.dropout.p = 0.0
    x = clip(case).double().requires_grad_()
    logits = model(x)
    direction = torch.from_numpy(gw.z_stream(f"loss:{doc['name']}/{case['case']}", logits.numel())).view_as(logits)
    ((logits * direction).sum() / len(logits)).backward()
    if mode == "train_mode":
        assert relative(logits.detach(), torch.tensor(case[mode]["logits_float64"], dtype=torch.float64)) < 1e-9
    parameters, state = dict(model.named_parameters()), model.state_dict()
    assert len(case[mode]["per_key"]) == len(parameters) + 1
    for key, norm, product in case[mode]["per_key"]:
        if key.startswith("<input"):
            assert x.grad.norm().item() == pytest.approx(norm, rel=1e-7)
            continue
        gradient = parameters[ours[key]].grad.flatten()
        along = torch.from_numpy(gw.z_stream(f"grad:{key}", gradient.numel()))
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-7, abs=1e-10), key
        assert (gradient * along).sum().item() == pytest.approx(product, rel=1e-6, abs=1e-7 * norm + 1e-10), key
    for key, norm, product in case[mode].get("bn_after", []):
        value = state[ours[key]].double().flatten()
        along = torch.from_numpy(gw.z_stream(f"bn:{key}", value.numel()))
        assert value.norm().item() == pytest.approx(norm, rel=1e-9), key
        assert (value * along).sum().item() == pytest.approx(product, rel=1e-7, abs=1e-9 * norm), key


def test_mmaction2_names_give_the_authors_logits(tmp_path: Path) -> None:
    doc, authors = document("mma_tanet_r50_k400_8"), document("tanet_r50_k400_8f")
    official = gw.state_dict_for(authors["state_dict"])
    renamed = {theirs: official[ours] for ours, theirs in doc["from_official_tam"]}
    file = publish(doc, renamed, tmp_path / "mma.pth")
    case = doc["case"]
    for name in ("tanet_r50.mma_k400_8f", "tanet_r50.mma0_k400_8f", "tanet_r50.k400_8f"):  # any publisher's layout
        model = zoo.load(name, weights=file)
        with torch.no_grad():
            wanted = torch.tensor(case["logits_float32"])
            assert (model(clip(case)) - wanted).abs().max() < 5e-5
        assert model.report.published is (False if "mma" in name else None)  # 8 digits are published, and differ


# operators -------------------------------------------------------------------------------------------------------

OPS = {case["name"]: case for case in document("ops")["cases"]}


def values(record: dict[str, Any]) -> Tensor:
    return torch.tensor(record["values"], dtype=torch.float64).view(record["shape"])


def op_tensors(case: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by the formula, and inputs: float32-rounded, then promoted, as SPEC.md of the golden files says."""
    name = case["name"]
    weights = {
        key: torch.from_numpy(np.asarray(gw.value_for(f"ops/{name}.{key}", shape, kind))).view(shape)
        for key, shape, kind in case["state_dict"]
    }
    inputs = {}
    for key, shape in case["inputs"].items():
        z = gw.z_stream(f"ops/{name}/{key}", int(np.prod(shape))).reshape(shape)
        inputs[key] = torch.from_numpy((1 + 0.3 * z if "alpha" in key else z).astype(np.float32)).double()
    promoted = {k: v.double() if v.is_floating_point() else v for k, v in weights.items()}
    return promoted, inputs


def check(case: dict[str, Any], output: Tensor, leaves: dict[str, Tensor]) -> None:
    wanted = values(case["outputs"][0])
    assert relative(output.detach(), wanted) < 1e-9
    direction = gw.z_stream(f"ops/{case['name']}/loss0", output.numel()).astype(np.float32)
    (output * torch.from_numpy(direction).double().view_as(output)).sum().backward()
    assert set(case["grads"]) == set(leaves)
    for key, record in case["grads"].items():
        gradient = leaves[key].grad
        assert gradient is not None
        gradient, wanted = gradient.reshape(record["shape"]), values(record)
        if wanted.abs().max() < 1e-12:  # a bias in front of a training-mode norm has no gradient but rounding
            assert gradient.abs().max() < 1e-12, key
        else:
            assert relative(gradient, wanted) < 1e-9, key


@pytest.mark.parametrize("name", [n for n in OPS if n.startswith("tada")])
def test_tadaconv_operator(name: str) -> None:
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
        folded, folded_alpha = x.transpose(1, 2).flatten(0, 1), alpha.transpose(1, 2).flatten(0, 1)
        more = {"dilation": tuple(options.get("dilation", (1, 1, 1))[1:]), "groups": options.get("groups", 1)}
        output = tada_conv2d(folded, folded_alpha, weight, bias, **space, **more, cal_dim=cal_dim)
        output = output.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    check(case, output, leaves)


@pytest.mark.parametrize("name", ["rf_mlp", "rf_mlp_train"])
def test_routing_function(name: str) -> None:
    case = OPS[name]
    weights, inputs = op_tensors(case)
    module = RouteMLP(16, 4, (3, 3)).double().train(case["mode"] == "train")
    module.load_state_dict({k: v.flatten(2) if v.ndim == 5 else v for k, v in weights.items()})
    x = inputs["x"].requires_grad_()
    alpha = module(x.transpose(1, 2).flatten(0, 1), x.shape[2])
    check(case, alpha[..., None, None], {"x": x} | dict(module.named_parameters()))
    after_step(case, module)


@pytest.mark.parametrize("name", ["tam_eval", "tam_train", "tam_eval_8f"])
def test_tam_operator(name: str) -> None:
    case = OPS[name]
    weights, inputs = op_tensors(case)
    channels, frames = case["inputs"]["x"][1], weights["G.0.weight"].shape[1]
    module = TAM(channels, frames).double().train(case["mode"] == "train")
    module.load_state_dict(weights)
    x = inputs["x"].requires_grad_()
    check(case, module(x, frames), {"x": x} | dict(module.named_parameters()))
    after_step(case, module)


def after_step(case: dict[str, Any], module: torch.nn.Module) -> None:
    state = module.state_dict()
    for key, wanted in case.get("running_after", {}).items():
        assert relative(state[key].double(), torch.tensor(wanted, dtype=torch.float64)) < 1e-9, key
