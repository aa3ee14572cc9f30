"""What FSDP asks for, whose processes hold a share of the weights each, and gather them together for every pass."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel


def is_sharded(trainer: Any) -> bool:
    """Whether the processes of a Trainer hold shares of the weights."""
    return isinstance(getattr(trainer, "strategy", None), FSDPStrategy)


def whole_weights(trainer: Any) -> contextlib.AbstractContextManager[Any]:
    """Within it every process sees the whole weights; all of them have to enter it, and none may change them."""
    if not is_sharded(trainer):
        return contextlib.nullcontext()
    return FullyShardedDataParallel.summon_full_params(trainer.strategy.model, writeback=False)


def passes_behind(trainer: Any, passes: int, device: torch.device) -> int:
    """How many passes through the network this process makes less than another in the step that begins.

    Videos may be unreadable, or few left; whoever makes fewer would leave the others waiting for its weights.
    """
    if not is_sharded(trainer):
        return 0
    most = torch.tensor(passes, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most) - passes


def blank_pass(network: Any, device: torch.device) -> None:
    """A pass through the network whose result nobody needs."""
    size, frames = network.protocol.crop, network.protocol.num_frames
    network(torch.zeros(1, 3, frames, size, size, device=device))
