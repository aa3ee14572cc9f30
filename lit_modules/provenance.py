"""Where the weights of a run come from: what they started as, the recipe, the data; in words that name no file."""

from __future__ import annotations

import math
from typing import Any

import lightning as L

from lit_modules.optim import GROUP_OPTIONS, SCHEDULE_OPTIONS
from zoo.provenance import ALWAYS_VALID_KEYS, SOURCE_KEYS, provenance_now

# settings of a VideoClassifier that define a run; None, what is off by default, and what is of no effect are left out
SETTINGS = (
    "optimizer", "lr", "lr_batch_size", "momentum", "nesterov", "weight_decay", "schedule", *SCHEDULE_OPTIONS,
    *GROUP_OPTIONS, "label_smoothing", "dropout", "drop_path", "freeze_backbone", "head_warmup_epochs", "ema_decay",
)  # fmt: skip
# and those, of the module or its data, that are told of where they are not what they are by default
CHANGES = {"mixup": 0, "cutmix": 0, "erasing": 0, "color_jitter": 0, "repeats": 1}


def provenance_of(module: L.LightningModule) -> dict[str, Any]:
    """The provenance of a VideoClassifier's network at this moment of its run, plain values throughout.

    Where the module's trainer has taken no step, that is what the network itself may say.
    """
    network: Any = module.network
    trainer = module._trainer
    if trainer is None or trainer.global_step == 0:
        return provenance_now(network)
    data: Any = getattr(trainer, "datamodule", None)
    counts = {split: len(videos) for split, videos in getattr(data, "datasets", {}).items()}
    measured = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
    started = module.hparams["pretrained"]
    before = {
        key: v for key, v in network.spec.provenance.items() if key in (SOURCE_KEYS if started else ALWAYS_VALID_KEYS)
    }
    found = {
        "fine_tuned_from": module.hparams["name"] if started else network.spec.arch,
        "epochs": _epochs(trainer),
        "recipe": _recipe(module, trainer),
        "data": {"class": type(data).__name__, "videos": counts} if data is not None else None,
        "metrics": {name: round(value, 4) for name, value in measured.items() if math.isfinite(value)},
    }
    return before | {key: value for key, value in found.items() if value}


def _epochs(trainer: L.Trainer) -> float:
    """How often the training data were gone through; a part of an epoch counts as such."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.total.processed
    epochs = round(batches / trainer.num_training_batches, 2)
    return int(epochs) if epochs.is_integer() else epochs


def _recipe(module: Any, trainer: L.Trainer) -> dict[str, Any]:
    settings = {name: module.hparams[name] for name in SETTINGS}
    idle = ["momentum", "nesterov"] if settings["optimizer"] != "sgd" else []
    idle += ["warmup_start"] if not settings["warmup_epochs"] else []
    idle += ["min_lr_scale"] if not settings["schedule"].startswith("cosine") else []
    idle += ["milestones", "gamma"] if settings["schedule"] != "steps" else []
    settings = {name: value for name, value in settings.items() if name not in idle}
    settings |= {
        "batch_size": module.total_batch_size(),
        "max_epochs": trainer.max_epochs,
        "precision": str(trainer.precision),
        "gradient_clip_val": trainer.gradient_clip_val,
    }
    changes = {**module.hparams, **getattr(getattr(trainer, "datamodule", None), "reading", {})}
    settings |= {name: changes[name] for name, off in CHANGES.items() if changes.get(name, off) != off}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    kept = {name: v for name, v in plain.items() if v is not None and (v is not False or name == "decay_bias")}
    return {"class": type(module).__name__} | kept
