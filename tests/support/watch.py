"""A callback for runs in other processes: records the videos of every step, and can kill its process at a step."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback


class Watch(Callback):
    """Appends a line to ``folder/seen-RANK.jsonl`` for each training step.

    Args:
        kill: "RANK EPOCH BATCH": kill the process with SIGKILL after this step.
        stop: "EPOCH BATCH": raise an exception after this step.
        pause: "EPOCH BATCH": sleep for more than a second after this step.
    """

    def __init__(self, folder: str, kill: str = "", stop: str = "", pause: str = "") -> None:
        self.folder = Path(folder)
        self.kill, self.stop, self.pause = ([int(part) for part in text.split()] for text in (kill, stop, pause))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the step, then kill, sleep or raise if configured."""
        rank = trainer.global_rank
        step = {"epoch": trainer.current_epoch, "batch": batch_idx, "paths": batch["path"]}
        with (self.folder / f"seen-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(step | {"loss": float(outputs["loss"])}) + "\n")
        if self.kill == [rank, trainer.current_epoch, batch_idx]:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.pause == [trainer.current_epoch, batch_idx]:
            time.sleep(1.1)
        if self.stop == [trainer.current_epoch, batch_idx]:
            raise RuntimeError("stopped")

    def seen(self) -> list[dict[str, Any]]:
        """The recorded steps of all processes."""
        files = sorted(self.folder.glob("seen-*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]
