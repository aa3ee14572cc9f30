"""Initial values of the layers that image weights do not have, against figures measured on the released networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small
from torch import Tensor

import zoo
from zoo.models import build

FORMS = {"k400": {}, "ssv2": {"temporal_projection": True, "double_tada": True}}


def matching(network: Any, *endings: str) -> list[Tensor]:
    """Return the parameters whose names end in one of ``endings``; at least one matches."""
    parameters = [value.detach() for name, value in network.named_parameters() if name.endswith(endings)]
    assert parameters
    return parameters


def std(*values: Tensor) -> float:
    return float(torch.cat([value.detach().flatten() for value in values]).std())


def assert_zero(values: list[Tensor]) -> None:
    assert not any(value.any() for value in values)


def assert_uniform(linear: Any, bound: float, expected_std: float) -> None:
    """Weight and bias are uniform up to ``bound``."""
    for values in (linear.weight, linear.bias):
        assert values.abs().max() <= bound
        assert values.abs().max() > 0.97 * bound
        assert std(values) == pytest.approx(expected_std, rel=0.1)
    assert std(linear.weight) == pytest.approx(expected_std, rel=0.01)


@pytest.fixture(scope="module")
def tada2d() -> Any:
    torch.manual_seed(0)
    return build("tada2d_r50", num_classes=400)


def test_tada2d_routing_is_kaiming_normal(tada2d: Any) -> None:
    """Means over the 16 layers of a ResNet-50: 0.1095 and 0.1262 in the released code."""
    for ending, expected in ((".routing.g.weight", 0.1095), (".routing.a.weight", 0.1262)):
        deviations = [std(value) for value in matching(tada2d, ending)]
        assert len(deviations) == 16
        assert sum(deviations) / 16 == pytest.approx(expected, rel=0.01)
    assert_zero(matching(tada2d, ".routing.g.bias", ".routing.a.bias"))
    assert_zero(matching(tada2d, ".routing.b.weight"))  # alpha is one


def test_tada2d_routing_deviation_follows_the_width(tada2d: Any) -> None:
    """fan_out of a 1x1x1 kernel is C, that of a 3x1x1 kernel to C / 4 channels is 3 C / 4."""
    for layer, channels in ((1, 64), (2, 128), (3, 256), (4, 512)):
        routing = tada2d.get_submodule(f"layer{layer}.0.conv2.conv.routing")
        assert std(routing.g.weight) == pytest.approx((2 / channels) ** 0.5, rel=0.05)
        assert std(routing.a.weight) == pytest.approx((2 / (0.75 * channels)) ** 0.5, rel=0.05)


def test_tada2d_starts_as_the_image_network() -> None:
    """Routing functions of random weights leave the kernels unchanged."""
    network = small("tada2d_r18")
    routing = network.layer1[0].conv1.conv.routing
    alpha, beta = routing(torch.randn(2, 8, 4))
    assert torch.equal(alpha, torch.ones(2, 8, 4))
    assert beta is None


def test_tada2d_classifier_is_uniform(tada2d: Any) -> None:
    assert_uniform(tada2d.fc, 2048**-0.5, 0.0128)


def test_tadaconvnextv2_classifier_is_uniform() -> None:
    torch.manual_seed(0)
    network: Any = build("tadaconvnextv2_tiny", num_classes=400)
    assert_uniform(network.fc, 768**-0.5, 0.0208)
    assert std(*matching(network, ".routing.a.weight", ".qkv.weight", ".fc1.weight")) == pytest.approx(0.02, rel=0.02)
    assert_zero(matching(network, ".routing.b.weight", ".routing.b_bias.weight"))


@pytest.mark.parametrize("form", FORMS)
def test_tadaformer_starts_with_the_released_values(form: str) -> None:
    torch.manual_seed(0)
    network: Any = build("tadaformer_b16", num_classes=400, depth=2, **FORMS[form])
    assert_uniform(network.fc, 768**-0.5, 0.0208)
    for endings in (("tada.conv.weight", "tada2.conv.weight"), (".routing.b.weight",), (".routing.b_bias.weight",)):
        assert std(*matching(network, *endings)) == pytest.approx(0.02, rel=0.03)
    assert std(*matching(network, ".pre.weight")) == pytest.approx(0.02, rel=0.01)
    assert_zero(matching(network, ".tada.conv.bias", ".pre.bias", ".tada.proj.bias", ".routing.proj.bias"))
    assert_zero(matching(network, "tada.proj.weight"))


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("tanet_r50", 0.001),
        ("tanet_mobilenetv2", 0.001),
        ("tsm_r50", 0.001),  # MMAction2, configs/_base_/models/tsm_r50.py: init_std
        ("c2d_r50", 0.01),  # tsn_r50.py
    ],
)
def test_classifier_is_normal(arch: str, expected: float) -> None:
    torch.manual_seed(0)
    classifier: Any = build(arch, num_classes=400).get_classifier()
    assert std(classifier.weight) == pytest.approx(expected, rel=0.01)
    assert_zero([classifier.bias])


def reset(network: Any, folder: Path) -> Any:
    network.reset_classifier(1000)
    return network


def load_with_other_classes(network: Any, folder: Path) -> Any:
    return zoo.load(zoo.save(network, folder / "saved"), num_classes=1000)


@pytest.mark.parametrize("replace_head", [reset, load_with_other_classes])
@pytest.mark.parametrize("arch", ["tada2d_r18", "tadaconvnextv2_tiny", "tadaformer_b16", "tanet_r18"])
def test_replaced_classifier_starts_like_a_new_one(
    arch: str, replace_head: Callable[[Any, Path], Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = replace_head(small(arch), tmp_path)
    classifier = network.get_classifier()
    if arch == "tanet_r18":
        assert std(classifier.weight) == pytest.approx(0.001, rel=0.02)
        assert_zero([classifier.bias])
    else:
        bound = classifier.in_features**-0.5
        assert_uniform(classifier, bound, bound / 3**0.5)
