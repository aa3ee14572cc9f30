"""Parameter groups and learning-rate schedules of the published recipes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from zoo.errors import ConfigError
from zoo.models import VideoNetwork, layer_depths

SCHEDULES = ("cosine", "cosine_after_warmup", "steps", "constant")
OPTIMIZERS = ("sgd", "adamw")
Rules = Mapping[str, tuple[float, bool]]
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
# names that VideoClassifier's options share with the arguments below
GROUP_OPTIONS = (
    "head_lr_scale", "operator_lr_scale", "bias_lr_scale", "new_bias_lr_scale", "decay_bias", "layer_decay"
)  # fmt: skip
SCHEDULE_OPTIONS = ("warmup_epochs", "warmup_start", "min_lr_scale", "milestones", "gamma")


def operator_parameters(network: VideoNetwork) -> set[str]:
    """Names of the temporal operator's parameters: the keys that the image network does not have.

    TAdaConvNeXtV2's second norms, new as they are, stay out: the published runs raise the rate of the routing functions
    and leave these at that of the other norms.
    """
    return {name for name in network.operator_keys() if ".pool_norm." not in name}


def parameter_groups(
    network: VideoNetwork,
    lr: float,
    weight_decay: float,
    *,
    head_lr_scale: float = 1.0,
    operator_lr_scale: float = 1.0,
    bias_lr_scale: float = 1.0,
    new_bias_lr_scale: float | None = None,
    decay_bias: bool = True,
    layer_decay: float | None = None,
    rules: Rules | None = None,
) -> list[dict[str, Any]]:
    """Parameters by role: the head, the temporal operator, biases and depths have their own rates.

    Norms and the network's ``no_weight_decay`` never decay, unless a rule says so. Scales multiply: a head's bias has
    its share of both (TAM authors: head weight x5, its bias x10), and layer decay comes on top of either (TAdaFormer).

    Args:
        network: any network of the zoo.
        lr, weight_decay: of a parameter without a scale of its own.
        head_lr_scale, operator_lr_scale, bias_lr_scale: multiples of lr; of biases, those of norms are left out.
        new_bias_lr_scale: replaces bias_lr_scale in the head and the operator.
        decay_bias: whether biases decay.
        layer_decay: in (0, 1]; the rate at depth d (0: stem) is lr times this to the power of ``deepest - d``.
        rules: regular expression -> multiple of lr and whether it decays, for the parameters in whose names it is
            found, instead of what their role gives; the first that is found counts.

    Raises:
        ConfigError: layer_decay is out of range.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay is {layer_decay}; it must be above 0 and at most 1.")
    operator, undecayed = operator_parameters(network), network.no_weight_decay()
    norms = {
        f"{name}.{key}" if name else key
        for name, module in network.named_modules()
        if isinstance(module, NORMS)
        for key, _ in module.named_parameters(recurse=False)
    }
    depths = layer_depths(network) if layer_decay is not None else {}
    deepest = max(depths.values(), default=0)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        head = name.startswith(network.head_prefix)
        bias = name.endswith("bias") and name not in norms
        scale = head_lr_scale if head else operator_lr_scale if name in operator else 1.0
        if bias:
            new = (head or name in operator) and new_bias_lr_scale is not None
            scale *= new_bias_lr_scale if new else bias_lr_scale  # type: ignore[operator]
        decays = name not in norms and name not in undecayed and (decay_bias or not bias)
        scale, decays = next((to for rule, to in (rules or {}).items() if re.search(rule, name)), (scale, decays))
        if layer_decay is not None:
            scale *= layer_decay ** (deepest - depths[name])
        decay = weight_decay if decays else 0.0
        group = groups.setdefault(
            (scale, decay),
            {"params": [], "lr": lr * scale, "weight_decay": decay, "name": f"x{scale:g} decay {decay:g}"},
        )
        group["params"].append(parameter)
    return list(groups.values())


def lr_factor(
    schedule: str,
    total_steps: int,
    steps_per_epoch: float,
    *,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.01,
    min_lr_scale: float = 0.0,
    milestones: Sequence[float] = (0.5, 0.75, 0.9),
    gamma: float = 0.1,
) -> Callable[[int], float]:
    """step -> multiple of the base learning rate.

    Linear warm-up from ``warmup_start`` to the schedule, which is half a cosine down to ``min_lr_scale``, or steps by
    ``gamma`` at ``milestones`` (fractions of the run), or constant. "cosine" is counted from the start of the run
    (TAda2D, TAdaConvNeXtV2), "cosine_after_warmup" from the end of the warm-up (TAdaFormer). A warm-up that would take
    more than a quarter of the run is cut to a tenth.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule is {schedule!r}; choose from {', '.join(SCHEDULES)}.")
    warmup = warmup_epochs * steps_per_epoch
    if warmup > total_steps / 4:  # recipes have up to .21 (TAdaFormer-L); more is left of them in a short fine-tuning
        warmup = total_steps / 10
    begin = warmup if schedule == "cosine_after_warmup" else 0.0

    def scheduled(step: float) -> float:
        done = min((step - begin) / max(total_steps - begin, 1), 1.0)
        if schedule.startswith("cosine"):
            return min_lr_scale + (1 - min_lr_scale) * 0.5 * (1 + math.cos(math.pi * done))
        if schedule == "steps":
            return gamma ** sum(done >= milestone for milestone in milestones)
        return 1.0

    def factor(step: int) -> float:
        if step >= warmup:
            return scheduled(step)
        return warmup_start + (scheduled(warmup) - warmup_start) * step / warmup

    return factor
