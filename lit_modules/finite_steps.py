"""Training steps whose loss or gradient is not finite: they stop the run, or are skipped with ``--skip_nonfinite``."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from lit_modules.scores import gather_by_name
from lit_modules.sharded import is_sharded
from zoo.errors import ConfigError
from zoo.text import listing

if TYPE_CHECKING:
    from lit_modules.base import VideoClassifier

log = logging.getLogger("lit_modules")

MAX_SKIPPED = 10  # steps in a row


class SkipNonfinite(Callback):
    """Skips training steps with a loss or gradient that is not finite: ``--skip_nonfinite``.

    A callback, so that ``config.yaml`` contains it and a resumed run skips such steps as well.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set ``skip_nonfinite`` of the module."""
        cast("VideoClassifier", pl_module).skip_nonfinite = True


class FiniteSteps:
    """Checks the loss and the gradient of every optimizer step before the weights change.

    A step whose loss or gradient is NaN or infinite raises an error. With ``skip``, the step is skipped instead: the
    weights, the optimizer's state and the batch statistics stay those of the previous step. All processes decide alike.
    A gradient that overflows in half precision is left to the gradient scaler, which skips such steps by design.

    Args:
        network: its batch statistics are restored after a skipped step.
        skip: skip steps, but at most ``MAX_SKIPPED`` in a row.

    Attributes:
        skipped: number of skipped steps.
    """

    def __init__(self, network: nn.Module, skip: bool) -> None:
        self.skip, self.skipped = skip, 0
        self._in_row = 0
        self._losses: list[Tensor] = []  # of the batches of this step
        self._videos: list[list[str]] = []
        self._last: tuple[int, float, float] | None = None  # step, loss and gradient norm of the last finite step
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] if skip else []
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self._saved = [buffer.clone() for buffer in self._statistics]

    def start_batch(self) -> None:
        """Store the batch statistics before the first batch of a step."""
        if not self._losses:
            _copy(self._statistics, self._saved)

    def add(self, loss: Tensor, videos: Iterable[str]) -> None:
        """Record the loss of a batch and the paths of its videos."""
        self._losses.append(loss.detach())
        self._videos.append(list(videos))

    def check(self, trainer: L.Trainer, optimizer: torch.optim.Optimizer) -> None:
        """Check the step after its backward passes. To skip it, the gradients are removed.

        Raises:
            ConfigError: the loss or the gradient is not finite, and ``skip`` is off or has reached its limit.
        """
        losses = torch.stack(self._losses).float()
        *values, norm = torch.cat([losses, _gradient_norm(trainer, optimizer)[None]]).tolist()  # one synchronization
        finite_videos = {
            path: math.isfinite(value) for value, paths in zip(values, self._videos, strict=True) for path in paths
        }
        self._losses, self._videos = [], []
        loss = sum(values) / len(values)
        scales_gradients = getattr(trainer.precision_plugin, "scaler", None) is not None
        finite = math.isfinite(loss) and (scales_gradients or math.isfinite(norm))
        if not trainer.strategy.reduce_boolean_decision(not finite, all=False):
            self._last, self._in_row = (trainer.global_step + 1, loss, norm), 0
            return
        mean_loss = float(trainer.strategy.reduce(losses.mean(), reduce_op="mean"))  # over all processes
        finite_videos = gather_by_name(finite_videos)
        suspects = [path for path, ok in finite_videos.items() if not ok] or finite_videos
        videos = listing(sorted(suspects), most=8)
        problem = _describe_step(trainer, mean_loss, max(group["lr"] for group in optimizer.param_groups))
        self._in_row += 1
        if not self.skip or self._in_row > MAX_SKIPPED:
            raise ConfigError(f"{problem}{self._describe_last()} {self._advice(trainer, videos)}")
        self.skipped += 1
        if trainer.is_global_zero:
            log.warning("%s The step is skipped. Videos of the batch: %s", problem, videos)
        optimizer.zero_grad()  # the optimizer does not change parameters without gradient, nor their state
        _copy(self._saved, self._statistics)

    def report(self, trainer: L.Trainer) -> None:
        """Log the number of skipped steps, if there are any."""
        if self.skipped and trainer.is_global_zero:
            log.warning("Skipped steps, whose loss or gradient was not finite: %d", self.skipped)

    def _describe_last(self) -> str:
        count = f" {MAX_SKIPPED} steps in a row were skipped before it." if self._in_row > MAX_SKIPPED else ""
        if self._last is None:
            return f"{count} No earlier step of this run had finite values."
        step, loss, norm = self._last
        return f"{count} The last finite values are loss {loss:.4g} and gradient norm {norm:.4g} in step {step}."

    def _advice(self, trainer: L.Trainer, videos: str) -> str:
        remedies = ["lower --model.optimizer.lr"]
        if not trainer.gradient_clip_val:
            remedies.append("clip gradients (--trainer.gradient_clip_val 1)")
        if not str(trainer.precision).startswith(("32", "64")):
            remedies.append("use --trainer.precision 32-true")
        skip = "" if self.skip else " To skip single steps like this one, add --skip_nonfinite."
        return f"To avoid it, {', '.join(remedies)}, or check the videos of this batch: {videos}.{skip}"


def _describe_step(trainer: L.Trainer, loss: float, rate: float) -> str:
    step = f"step {trainer.global_step + 1} (epoch {trainer.current_epoch + 1}, learning rate {rate:.3g})"
    if math.isfinite(loss):
        return f"The gradient is not finite in {step}; the loss is {loss:.4g}."
    return f"The loss is {loss} in {step}."


def _gradient_norm(trainer: L.Trainer, optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the norm of all gradients; with FSDP over the shards of all processes."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).float().to(trainer.strategy.root_device)
    if is_sharded(trainer):
        total = norm.square()
        torch.distributed.all_reduce(total)
        norm = total.sqrt()
    return norm


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    with torch.no_grad():
        for old, new in zip(source, target, strict=True):
            new.copy_(old)
