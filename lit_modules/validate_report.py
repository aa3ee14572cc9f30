"""The table that ``tempozoo validate`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

PREFIX = "val_"
ACCURACIES = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class accuracy"}


class ValidateReport(Callback):
    """Prints the metrics of ``validate``, rounded as those of a test; on by default in ``tempozoo validate``."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table."""
        if not trainer.is_global_zero or trainer.state.fn != "validate":
            return
        module: Any = pl_module
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        table = Table("metric", "measured")
        table.columns[1].justify = "right"
        for row in metric_rows(metrics, module.head_sizes, module.heads or {}):
            table.add_row(*row)
        console = Console()
        words = f"{trainer.ckpt_path or module.network.report.name}: {len(module.scores)} validation videos"
        console.print(words, highlight=False, markup=False, soft_wrap=True)
        console.print(table)


def metric_rows(metrics: Mapping[str, float], head_sizes: list[int], heads: Mapping[str, int]) -> list[tuple[str, str]]:
    """Lines of the table: name and value of each metric.

    Args:
        metrics: values by their logged names ("val_top1", ...); accuracies as fractions.
        head_sizes: class counts of the classifiers.
        heads: names and class counts, if there are several classifiers.
    """
    words = dict(ACCURACIES)
    if heads:
        words = {
            f"{head}_{key}": f"{head} {ACCURACIES[key]}" for head in ("action", *heads) for key in ("top1", "top5")
        }
    elif head_sizes[0] < 5:
        words["top5"] = f"top-{head_sizes[0]}"
    rows = [(text, f"{100 * metrics[PREFIX + key]:.2f} %") for key, text in words.items() if PREFIX + key in metrics]
    if f"{PREFIX}loss" in metrics:
        rows.append(("loss", f"{metrics[f'{PREFIX}loss']:.4f}"))
    if not heads:
        rows.append(("chance", f"{100 / head_sizes[0]:.2f} %"))
    return rows
