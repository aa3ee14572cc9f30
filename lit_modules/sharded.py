"""FSDP: each process holds a shard of the weights and gathers the full weights for every forward pass."""

from __future__ import annotations

import contextlib
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel

from zoo.models import VideoNetwork


def is_sharded(trainer: L.Trainer | None) -> bool:
    """Whether a Trainer shards the weights."""
    return trainer is not None and isinstance(trainer.strategy, FSDPStrategy)


def full_weights(trainer: L.Trainer) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which every process has the full weights.

    All processes must enter it, and none may change the weights.
    """
    if not is_sharded(trainer):
        return contextlib.nullcontext()
    return FullyShardedDataParallel.summon_full_params(trainer.strategy.model, writeback=False)  # type: ignore[arg-type]


def missing_forward_passes(trainer: L.Trainer | None, passes: int, device: torch.device) -> int:
    """Return how many forward passes fewer than another process this one makes in the current step.

    Processes can have fewer videos, because some are unreadable or none remain. With FSDP, a process that makes fewer
    passes would block the others, which wait for its shard.
    """
    if not is_sharded(trainer):
        return 0
    most = torch.tensor(passes, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most) - passes


def dummy_forward(network: VideoNetwork, device: torch.device) -> None:
    """Run a forward pass on zeros, so that other processes receive this process's shard."""
    size, frames = network.protocol.crop, network.protocol.num_frames
    network(torch.zeros(1, 3, frames, size, size, device=device))
