"""Parameter groups and learning-rate schedules of the published recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from zoo.errors import ConfigError

SCHEDULES = ("cosine", "steps", "constant")
OPTIMIZERS = ("sgd", "adamw")


def parameter_groups(
    network: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    head_lr_scale: float = 1.0,
    operator_lr_scale: float = 1.0,
    bias_lr_scale: float = 1.0,
    decay_bias: bool = True,
) -> list[dict[str, Any]]:
    """Parameters by role: norms never decay; the head, the temporal operator and biases have their own rates.

    A head's bias has twice the head's rate where biases have (TAM authors: head weight x5, its bias x10).
    """
    zoo_network: Any = network
    operator = zoo_network.operator_keys()
    norms = {
        f"{name}.{key}" if name else key
        for name, module in network.named_modules()
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm))
        for key, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        scale = 1.0
        if name.startswith(zoo_network.head_prefix):
            scale = head_lr_scale
        elif name in operator:
            scale = operator_lr_scale
        decay = 0.0 if name in norms else weight_decay
        if name.endswith("bias") and name not in norms:
            scale *= bias_lr_scale
            decay = weight_decay if decay_bias else 0.0
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
    milestones: Sequence[float] = (0.5, 0.75, 0.9),
    gamma: float = 0.1,
) -> Callable[[int], float]:
    """step -> multiple of the base learning rate.

    Linear warm-up from ``warmup_start``, then half a cosine to zero, or steps by ``gamma`` at ``milestones``
    (fractions of the run). The warm-up is cut to a tenth of a run too short for it.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule is {schedule!r}; choose from {', '.join(SCHEDULES)}.")
    warmup = min(warmup_epochs * steps_per_epoch, total_steps / 10)

    def factor(step: int) -> float:
        if step < warmup:
            return warmup_start + (1 - warmup_start) * step / warmup
        done = min(step / max(total_steps, 1), 1.0)
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if schedule == "steps":
            return gamma ** sum(done >= milestone for milestone in milestones)
        return 1.0

    return factor
