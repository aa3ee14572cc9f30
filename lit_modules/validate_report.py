"""The table that ``tempozoo validate`` prints."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from lit_modules.console import print_line
from lit_modules.metric_table import metric_table
from lit_modules.report import classifier

PREFIX = "val_"


class ValidateReport(Callback):
    """Prints the metrics of a validation as a table; on by default in ``tempozoo validate``."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table."""
        if not trainer.is_global_zero or trainer.state.fn != "validate":
            return
        module = classifier(pl_module)
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics = {name.removeprefix(PREFIX): value for name, value in logged.items() if name.startswith(PREFIX)}
        report = module.network.report
        print_line(f"{trainer.ckpt_path or report.name}: {len(module.scores)} validation videos")
        Console().print(metric_table(metrics, module.scores, module.heads, sum(module.head_sizes)))
