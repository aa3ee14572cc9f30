"""save and push: PyTorch's wrappers are removed; networks that load could not build are rejected."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small
from torch import nn
from torch.nn.utils import parametrizations, prune

import zoo
from zoo.errors import ConfigError
from zoo.provenance import fingerprint, provenance_now
from zoo.wrappers import state_of

CLIP = torch.randn(1, 3, 4, 32, 32)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def network() -> Any:
    return small("tanet_r18", labels=list("abcd"))


def compile_parts(model: Any) -> nn.Module:
    model.layer1 = torch.compile(model.layer1)
    model.layer2[0] = torch.compile(model.layer2[0])
    model.fc = torch.compile(model.fc)
    return model


def compile_in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {
    "compiled": torch.compile,
    "compiled with its parts": lambda model: torch.compile(compile_parts(model)),
    "compiled parts": compile_parts,
    "compiled in place": compile_in_place,
    "DataParallel": nn.DataParallel,
    "DataParallel inside": lambda model: torch.compile(nn.DataParallel(compile_parts(model))),
    "averaged": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("kind", list(WRAPPERS))
def test_wrapped_networks_save_and_load(kind: str, tmp_path: Path) -> None:
    model = network()
    wrapped = WRAPPERS[kind](copy.deepcopy(model))
    again: Any = zoo.load(zoo.save(wrapped, tmp_path / "saved"))
    assert again.report.as_trained
    assert torch.equal(again(CLIP), model(CLIP))
    assert again.spec.options == model.spec.options


@pytest.mark.parametrize("kind", list(WRAPPERS))
def test_wrapped_networks_are_profiled_and_traced_to_their_file(kind: str, tmp_path: Path) -> None:
    model: Any = zoo.load(zoo.save(network(), tmp_path / "saved"))
    wrapped = WRAPPERS[kind](copy.deepcopy(model))
    plain, other = zoo.profile(model, (4, 32, 32)), zoo.profile(wrapped, (4, 32, 32))
    assert (other.params, other.macs, other.by_module) == (plain.params, plain.macs, plain.by_module)
    assert provenance_now(wrapped) == provenance_now(model)
    if "Parallel" not in kind and kind != "averaged":
        assert fingerprint(wrapped.state_dict()) == fingerprint(model.state_dict())


def test_checkpoints_of_compiled_networks_load(tmp_path: Path) -> None:
    from zoo.weights.lightning_checkpoint import CONFIG_KEY

    model = network()
    state = {f"network.{key}": value for key, value in torch.compile(model).state_dict().items()}
    torch.save({"state_dict": state, CONFIG_KEY: model.spec.to_config()}, tmp_path / "run.ckpt")
    again: Any = zoo.load(tmp_path / "run.ckpt")
    assert torch.equal(again(CLIP), model(CLIP))


def pruned(model: Any) -> Any:
    prune.l1_unstructured(model.fc, "weight", 0.5)
    return model


def spectrally_normed(model: Any) -> Any:
    nn.utils.spectral_norm(model.fc)
    return model


def weight_normed(model: Any) -> Any:
    nn.utils.weight_norm(model.fc)
    return model


def parametrized(model: Any) -> Any:
    parametrizations.weight_norm(model.fc)
    return model


class LoRA(nn.Linear):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features)
        self.lora_A = nn.Parameter(torch.zeros(2, linear.in_features))


def with_lora(model: Any) -> Any:
    model.fc = LoRA(model.fc)
    return model


def quantized(model: Any) -> Any:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def without_classifier(model: Any) -> Any:
    model.fc = nn.Sequential()
    return model


def other_stage(model: Any) -> Any:
    model.layer1[0].conv1.conv = nn.Conv2d(8, 8, 5)
    return model


def as_integers(model: Any) -> Any:
    model.fc.weight = nn.Parameter(torch.zeros_like(model.fc.weight, dtype=torch.int8), requires_grad=False)
    return model


CHANGES: list[tuple[Callable[[Any], Any], str]] = [
    (pruned, r"unexpected fc.weight_orig, fc.weight_mask; missing fc.weight.*prune.remove\(module, 'weight'\)"),
    (spectrally_normed, r"weight_u.*remove_spectral_norm"),
    (weight_normed, r"weight_g, fc.weight_v.*remove_weight_norm"),
    (parametrized, r"fc.parametrizations.weight.original0.*remove_parametrizations"),
    (with_lora, r"unexpected fc.lora_A\..*merge the adapters"),
    (quantized, r"before it is quantized"),
    (without_classifier, r"the classifier of this VideoResNet is a Sequential; it must be a linear layer"),
    (other_stage, r"layer1.0.conv1.conv.bias; different .*\(8, 8, 5, 5\), expected \(8, 8, 1, 1\)|missing|different"),
    (as_integers, r"fc.weight \(torch.int8, expected torch.float32\)"),
    (lambda model: model.to("meta"), "a tensor without plain values"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_networks_that_load_could_not_build_are_rejected(
    change: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    model = change(network())
    for call in (lambda: zoo.save(model, tmp_path / "saved"), lambda: zoo.push(model, "alice/net")):
        with pytest.raises(ConfigError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_saved_and_loaded_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = network().to(dtype)
    folder = zoo.save(model, tmp_path / "saved")
    assert load_file(folder / "model.safetensors")["fc.weight"].dtype == dtype
    again: Any = zoo.load(folder)
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].to(value.dtype)), key
    count = sum(tensor.is_floating_point() for tensor in model.state_dict().values())
    assert f"{count} tensors cast from {str(dtype)[6:]}" in str(again.report)


def test_non_finite_weights_are_saved_with_a_warning_and_never_pushed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
        model.stem.bn.running_var[0] = float("inf")
    zoo.save(model, tmp_path / "saved")
    assert "stem.bn.running_var, fc.weight have NaN or infinite values" in caplog.text
    with pytest.raises(ConfigError, match="stem.bn.running_var, fc.weight contain NaN or infinite values"):
        zoo.push(model, "alice/net")


def save_changed(model: Any, change: dict[str, Any], folder: Path) -> None:
    for name, value in change.items():
        setattr(model, name, value)
    zoo.save(model, folder)


def test_specs_that_load_would_reject_are_rejected(tmp_path: Path) -> None:
    from dataclasses import replace

    model = network()
    for change, message in (
        ({"protocol": replace(model.protocol, num_frames=8)}, "num_frames is 4 in options and 8 in protocol"),
        ({"protocol": replace(model.protocol, std=(0.0, 1.0, 1.0))}, r"std\[0\] is 0.0"),
        ({"protocol": {}}, "model.protocol is a dict"),
        ({"labels": ("a", "b", "c", "\x1b[31m")}, r"labels\[3\] is '\\x1b"),
        ({"labels": ("a", "b", "c", "a")}, "labels must differ"),
    ):
        other = copy.deepcopy(model)
        with pytest.raises(ConfigError, match=message):  # by the setter or by save
            save_changed(other, change, tmp_path / "saved")
    model.spec = replace(model.spec, provenance={"object": object()})
    assert zoo.load(zoo.save(model, tmp_path / "saved"))  # invalid provenance of untrained weights is dropped


def test_state_of_keeps_the_keys_of_plain_networks() -> None:
    model = network()
    assert list(state_of(model)) == list(model.state_dict())
