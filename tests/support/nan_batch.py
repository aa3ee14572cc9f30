"""A callback for runs in other processes: one batch of one process contains NaN."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.callbacks import Callback


class NanBatch(Callback):
    """Fills the second training batch of process 1 with NaN."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Change the clips in place."""
        if trainer.global_rank == 1 and batch_idx == 1:
            batch["video"].fill_(math.nan)
