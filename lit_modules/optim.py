"""Parameter groups and learning rate schedules of the published recipes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from lit_modules.recipe_options import GroupRules, OptimizerOptions, ScheduleOptions
from zoo.errors import ConfigError
from zoo.models import VideoNetwork, layer_depths
from zoo.models.lora import is_adapter

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def operator_parameters(network: VideoNetwork) -> set[str]:
    """Return the names of the temporal operator's parameters, which the image network does not have.

    The second norms of TAdaConvNeXtV2 are excluded, although they are new: the published runs raise the learning rate
    of the routing functions only.
    """
    return {name for name in network.operator_keys() if ".pool_norm." not in name}


def norm_parameters(network: nn.Module) -> set[str]:
    """Return the names of the parameters of normalization layers."""
    return {
        f"{name}.{key}" if name else key
        for name, module in network.named_modules()
        if isinstance(module, NORMS)
        for key, _ in module.named_parameters(recurse=False)
    }


def parameter_groups(
    network: VideoNetwork, options: OptimizerOptions, rules: GroupRules | None = None
) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay: classifier, temporal operator, biases and depth differ.

    Norms and the network's ``no_weight_decay`` parameters do not decay. Scales multiply: the bias of the classifier has
    ``head_lr_scale`` and a bias scale (in TAM: weight x5, bias x10). Layer decay multiplies both (TAdaFormer): at depth
    d (0: stem), it is ``layer_decay ** (deepest - d)``.

    Args:
        network: network to train.
        options: scales and weight decay; ``lr`` is not used.
        rules: regular expression -> learning rate scale and whether weight decay applies. The first expression that
            matches a parameter's name replaces the values of its role; layer decay still applies.

    Returns:
        Groups for a torch optimizer. Their learning rates are multiples of the base rate.

    Raises:
        ConfigError: ``layer_decay`` is out of range.
    """
    layer_decay = options.layer_decay
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay is {layer_decay}; it must be above 0 and at most 1.")
    operator, norms, undecayed = operator_parameters(network), norm_parameters(network), network.no_weight_decay()
    depths = layer_depths(network) if layer_decay is not None else {}
    deepest = max(depths.values(), default=0)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        is_head = name.startswith(network.head_prefix)
        is_operator = name in operator or is_adapter(name)  # adapters are new layers, like the operator's
        is_bias = name.endswith("bias") and name not in norms
        scale = _lr_scale(options, is_head, is_operator, is_bias)
        decays = name not in norms and name not in undecayed and (options.decay_bias or not is_bias)
        for pattern, values in (rules or {}).items():
            if re.search(pattern, name):
                scale, decays = values
                break
        if layer_decay is not None:
            scale *= layer_decay ** (deepest - depths[name])
        decay = options.weight_decay if decays else 0.0
        group = groups.setdefault(
            (scale, decay),
            {"params": [], "lr": scale, "weight_decay": decay, "name": f"x{scale:g} decay {decay:g}"},
        )
        group["params"].append(parameter)
    return list(groups.values())


def _lr_scale(options: OptimizerOptions, is_head: bool, is_operator: bool, is_bias: bool) -> float:
    """Return the learning rate scale of a parameter's role."""
    scale = 1.0
    if is_head:
        scale = options.head_lr_scale
    elif is_operator:
        scale = options.operator_lr_scale
    if not is_bias:
        return scale
    if (is_head or is_operator) and options.new_bias_lr_scale is not None:
        return scale * options.new_bias_lr_scale
    return scale * options.bias_lr_scale


def lr_factor(options: ScheduleOptions, total_steps: int, steps_per_epoch: float) -> Callable[[int], float]:
    """Return a function: step -> multiple of the base learning rate.

    A linear warm-up from ``warmup_start`` is followed by the schedule: half a cosine down to ``min_lr_scale``, steps of
    ``gamma`` at ``milestones``, or a constant. "cosine" is counted from the start of the run (TAda2D, TAdaConvNeXtV2),
    "cosine_after_warmup" from the end of the warm-up (TAdaFormer). A warm-up of more than a quarter of the run is cut
    to a tenth of it.
    """
    warmup = options.warmup_epochs * steps_per_epoch
    if warmup > total_steps / 4:  # published warm-ups take up to 0.21 of the run; a short fine-tuning needs the rest
        warmup = total_steps / 10
    begin = warmup if options.name == "cosine_after_warmup" else 0.0

    def scheduled(step: float) -> float:
        progress = min((step - begin) / max(total_steps - begin, 1), 1.0)
        if options.name.startswith("cosine"):
            return options.min_lr_scale + (1 - options.min_lr_scale) * 0.5 * (1 + math.cos(math.pi * progress))
        if options.name == "steps":
            return options.gamma ** sum(progress >= milestone for milestone in options.milestones)
        return 1.0

    def factor(step: int) -> float:
        if step >= warmup:
            return scheduled(step)
        return options.warmup_start + (scheduled(warmup) - options.warmup_start) * step / warmup

    return factor
