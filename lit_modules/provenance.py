"""Provenance of the weights of a run: start, recipe, data and metrics, without paths of files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import lightning as L

from lit_modules.interfaces import video_data
from lit_modules.recipe_options import OLD_NAMES
from zoo.models import VideoNetwork
from zoo.provenance import ALWAYS_VALID_KEYS, SOURCE_KEYS, provenance_now

if TYPE_CHECKING:
    from lit_modules.base import VideoClassifier

# Options of a VideoClassifier that define a run, by the names that published records use. None, switched off and unused
# options are not recorded.
SETTINGS = (
    *(name for name in OLD_NAMES if name not in ("mixup", "cutmix")), "freeze_backbone", "head_warmup_epochs",
    "ema_decay",
)  # fmt: skip
# Options of the module or its data that are recorded only if they differ from these defaults.
CHANGES = {
    "head_init": "default", "mixup": 0, "cutmix": 0, "erasing": 0, "color_jitter": 0, "repeats": 1, "balance": "none",
    "loss": "cross_entropy", "train": "all", "batch_norm": "train",
}  # fmt: skip


def provenance_of(module: VideoClassifier) -> dict[str, Any]:
    """Return the current provenance of a VideoClassifier's network as plain values.

    Before the first training step, this is the provenance of the network itself.
    """
    network: VideoNetwork = module.network
    trainer = module._trainer
    if trainer is None or trainer.global_step == 0:
        return provenance_now(network)
    data = video_data(trainer)
    counts = {} if data is None else {split: len(videos) for split, videos in data.datasets.items()}
    measured = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
    started = module.hparams["pretrained"]
    keys = SOURCE_KEYS if started else ALWAYS_VALID_KEYS
    before = {key: value for key, value in network.spec.provenance.items() if key in keys}
    current = {
        "fine_tuned_from": module.hparams["name"] if started else network.spec.arch,
        "epochs": _epochs(trainer),
        "recipe": _recipe(module, trainer),
        "data": {"class": type(data).__name__, "videos": counts} if data is not None else None,
        "metrics": {name: round(value, 4) for name, value in measured.items() if math.isfinite(value)},
    }
    return before | {key: value for key, value in current.items() if value}


def _epochs(trainer: L.Trainer) -> float:
    """Return the number of epochs, with two decimals for a partial epoch."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total  # a _ProcessedTracker
    batches = total.processed
    epochs = round(batches / trainer.num_training_batches, 2)
    return int(epochs) if epochs.is_integer() else epochs


def _recipe(module: VideoClassifier, trainer: L.Trainer) -> dict[str, Any]:
    options = {**module.hparams, **module.recipe.flat_options()}
    settings = {name: options[name] for name in SETTINGS}
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
    data = video_data(trainer)
    changes = {**options, "loss": module.recipe.loss.name}
    if data is not None:
        changes |= {**data.reading, "balance": data.balance}
    settings |= {name: changes[name] for name, off in CHANGES.items() if changes.get(name, off) != off}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    used = {name: v for name, v in plain.items() if v is not None and (v is not False or name == "decay_bias")}
    return {"class": type(module).__name__} | used
