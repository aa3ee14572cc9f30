"""The published training recipes, as defaults of VideoClassifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_modules.base import VideoClassifier


class TAda2D(VideoClassifier):
    """TAda2D with the recipe of its Kinetics-400 8x8 run (arXiv 2110.06178, appendix; the released YAML).

    SGD with Nesterov momentum .9, lr .24 for a batch of 128, cosine over 100 epochs with 8 of warm-up from .01 of
    it, weight decay 1e-4 (none on norms), dropout .5.
    """

    def __init__(
        self,
        name: str = "tada2d_r50.k400_8x8",
        *,
        lr: float = 0.24,
        lr_batch_size: int | None = 128,
        nesterov: bool = True,
        weight_decay: float = 1e-4,
        schedule: str = "cosine",
        warmup_epochs: float = 8,
        warmup_start: float = 0.01 / 0.24,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            name,
            lr=lr,
            lr_batch_size=lr_batch_size,
            nesterov=nesterov,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            warmup_start=warmup_start,
            **kwargs,
        )


class TANet(VideoClassifier):
    """TANet with the recipe of its Kinetics-400 run (arXiv 2005.06803, section 4; the released script).

    SGD momentum .9, lr .01 for a batch of 64, divided by 10 at 50, 75 and 90 of 100 epochs, weight decay 1e-4,
    dropout .5; classifier weight x5 and bias x10, biases x2 without decay. Its gradient clipping at 20 is a Trainer
    setting (``--trainer.gradient_clip_val 20``), which ``configs/tanet_r50_k400.yaml`` sets.
    """

    def __init__(
        self,
        name: str = "tanet_r50.k400_8f",
        *,
        lr: float = 0.01,
        lr_batch_size: int | None = 64,
        head_lr_scale: float = 5,
        bias_lr_scale: float = 2,
        decay_bias: bool = False,
        weight_decay: float = 1e-4,
        schedule: str = "steps",
        milestones: Sequence[float] = (0.5, 0.75, 0.9),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            name,
            lr=lr,
            lr_batch_size=lr_batch_size,
            head_lr_scale=head_lr_scale,
            bias_lr_scale=bias_lr_scale,
            decay_bias=decay_bias,
            weight_decay=weight_decay,
            schedule=schedule,
            milestones=milestones,
            **kwargs,
        )
