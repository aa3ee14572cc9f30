"""Unwrap networks from torch.compile, DistributedDataParallel and similar, to save, push and profile them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.models import build_on_meta
from zoo.models.features import FeatureExtractor
from zoo.models.lora import merge_adapters
from zoo.text import brief, listing

COMPILED = "_orig_mod"  # attribute of the original module in the result of torch.compile
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# part of an unexpected key -> how to remove such keys
REMEDIES = (
    ("weight_mask", "make pruning permanent with torch.nn.utils.prune.remove(module, 'weight')"),
    (".parametrizations.", "call torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"),
    ("weight_g", "call torch.nn.utils.remove_weight_norm(module)"),
    ("weight_u", "call torch.nn.utils.remove_spectral_norm(module)"),
    ("lora_", "merge the adapters into the weights first"),
    ("base_layer", "merge the adapters into the weights first"),
    ("_packed_params", "save the network before it is quantized"),
    ("zero_point", "save the network before it is quantized"),
)


def check_module(name: str, value: Any) -> None:
    """Check that ``value`` is an nn.Module.

    Raises:
        ConfigError: anything else.
    """
    if not isinstance(value, nn.Module):
        raise ConfigError(f"{name} is {brief(value)}; it must be a network (nn.Module).")


def _inner_name(module: nn.Module) -> str | None:
    """Attribute name of the wrapped module; None if ``module`` is not a wrapper."""
    if COMPILED in module._modules:
        return COMPILED
    if isinstance(module, FeatureExtractor):
        return "network"
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    return "module" if isinstance(module, wrappers) else None


def unwrap(model: nn.Module) -> nn.Module:
    """Unwrap torch.compile, DataParallel, DistributedDataParallel, AveragedModel and FeatureExtractor."""
    while (name := _inner_name(model)) is not None:
        inner = model._modules[name]
        assert inner is not None
        model = inner
    return model


def unwrap_children(module: nn.Module) -> nn.Module:
    """Unwrap the submodules of a network in place; returns the network."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if (inner := unwrap(child)) is not child:
                parent._modules[name] = inner
    return module


def state_of(network: nn.Module) -> dict[str, Any]:
    """Return a network's state dict with the keys of the unwrapped network and submodules, and merged adapters."""
    wrapped = {}
    for prefix, module in network.named_modules():
        if (name := _inner_name(module)) is not None:
            wrapped[f"{prefix}.{name}." if prefix else f"{name}."] = f"{prefix}." if prefix else ""
    state: Mapping[str, Any] = network.state_dict()
    if not wrapped:
        return merge_adapters(state)
    # innermost first, so that the outer prefixes still match
    order = sorted(wrapped, key=len, reverse=True)
    clean = {}
    for key, value in state.items():
        for prefix in order:
            if key.startswith(prefix):
                key = wrapped[prefix] + key[len(prefix) :]
        clean[key] = value
    return merge_adapters(clean)


def check_savable(tensors: Mapping[str, Any], arch: str, options: Mapping[str, Any], verb: str) -> None:
    """Check that ``load`` could rebuild a network from these tensors.

    Args:
        verb: action of the caller, such as "save", for the message.

    Raises:
        ConfigError: keys, shapes or types differ from those of the architecture.
    """
    expected = build_on_meta(arch, **options).state_dict()
    extra = [key for key in tensors if key not in expected]
    missing = [key for key in expected if key not in tensors]
    others = []
    for key, value in expected.items():
        if key in tensors and (problem := _difference(tensors[key], value)):
            others.append(f"{key} ({problem})")
    groups = (("unexpected", extra), ("missing", missing), ("different", others))
    problems = [f"{title} {listing(keys)}" for title, keys in groups if keys]
    if problems:
        remedies = dict.fromkeys(remedy for sign, remedy in REMEDIES if any(sign in key for key in extra))
        advice = "; ".join(remedies) or "undo the modification, or save its state_dict() with torch.save"
        raise ConfigError(
            f"cannot {verb} this network: its tensors differ from those of {arch}, which load() would build: "
            f"{'; '.join(problems)}. Nothing was written. To fix it: {advice}."
        )


def _difference(value: Any, expected: Tensor) -> str | None:
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__}, not a plain tensor"
    if value.shape != expected.shape:
        return f"{tuple(value.shape)}, expected {tuple(expected.shape)}"
    if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
        return "a tensor without plain values"
    same = value.dtype in FLOATS if expected.is_floating_point() else value.dtype == expected.dtype
    return None if same else f"{value.dtype}, expected {expected.dtype}"


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """List the keys of tensors with NaN or infinite values."""
    return [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
