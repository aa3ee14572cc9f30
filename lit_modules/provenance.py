"""Where the weights of a run come from: what they started as, the recipe, the data; in words that name no file."""

from __future__ import annotations

import math
from typing import Any

import lightning as L

from lit_modules.optim import GROUP_OPTIONS, SCHEDULE_OPTIONS

# settings of a VideoClassifier that define a run; None, False and what is of no effect are left out
SETTINGS = (
    "optimizer", "lr", "lr_batch_size", "momentum", "nesterov", "weight_decay", "schedule", *SCHEDULE_OPTIONS,
    *GROUP_OPTIONS, "label_smoothing", "dropout", "drop_path", "freeze_backbone", "head_warmup_epochs", "ema_decay",
)  # fmt: skip
OF_ALL = ("package",)  # what a network brings along that is true of it however it was initialised,
OF_START = (*OF_ALL, "entry", "file", "sha256", "size")  # and what is true of the published weights it goes back to


def provenance_of(module: L.LightningModule) -> dict[str, Any]:
    """The provenance of a VideoClassifier's network at this moment of its run, plain values throughout."""
    network: Any = module.network
    trainer = module.trainer
    data: Any = getattr(trainer, "datamodule", None)
    counts = {split: len(videos) for split, videos in getattr(data, "datasets", {}).items()}
    measured = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
    started = module.hparams["pretrained"]
    before = {key: v for key, v in network.config["provenance"].items() if key in (OF_START if started else OF_ALL)}
    found = {
        "fine_tuned_from": module.hparams["name"] if started else network.config["arch"],
        "epochs": module.current_epoch + 1,
        "recipe": _recipe(module, trainer),
        "data": {"class": type(data).__name__, "videos": counts} if data is not None else None,
        "metrics": {name: round(value, 4) for name, value in measured.items() if math.isfinite(value)},
    }
    return before | {key: value for key, value in found.items() if value}


def _recipe(module: Any, trainer: L.Trainer) -> dict[str, Any]:
    settings = {name: module.hparams[name] for name in SETTINGS}
    if settings["schedule"] != "steps":
        del settings["milestones"], settings["gamma"]
    settings |= {
        "batch_size": module.total_batch_size(),
        "max_epochs": trainer.max_epochs,
        "precision": str(trainer.precision),
        "gradient_clip_val": trainer.gradient_clip_val,
    }
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {"class": type(module).__name__} | {name: v for name, v in plain.items() if v is not None and v is not False}
