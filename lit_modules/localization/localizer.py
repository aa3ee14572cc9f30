"""ActionLocalizer: a localizer as a LightningModule that trains, validates and tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lit_modules.interfaces import segment_data
from lit_modules.localization.boundary_matching_loss import boundary_loss, boundary_targets, training_windows
from lit_modules.localization.metrics import (
    THRESHOLDS,
    DetectionMetrics,
    ProposalMetrics,
    detection_map,
    epic_map,
    proposal_recall,
)
from lit_modules.localization.point_loss import point_loss
from lit_modules.optim import lr_factor
from lit_modules.recipe_options import ScheduleOptions
from lit_modules.scores import gather_by_name
from zoo.errors import ConfigError, check_number
from zoo.localization.boundary_matching import BoundaryLocalizer
from zoo.localization.boundary_options import BoundaryOptions
from zoo.localization.localizer_base import Localizer
from zoo.localization.localizer_files import create_localizer, load
from zoo.localization.localizer_spec import FeatureSource, LocalizerSpec, PointOptions
from zoo.localization.segments import Segment
from zoo.weights.lightning_checkpoint import CONFIG_KEY

# benchmark -> its thresholds of the temporal IoU in tables and files
TIOU = {"epic": "0.1:0.1:0.5", "thumos14": "0.3:0.1:0.7", "activitynet": "0.5:0.05:0.95", "hacs": "0.5:0.05:0.95"}


class ActionLocalizer(L.LightningModule):
    """Trains and tests a localizer.

    Args:
        name: localizer to start from: a folder of ``zoo.localization.save``, a ``.ckpt`` file or a run. None: random
            weights.
        class_names: labels of the segments; the command line takes them from the data.
        features: origin of the features, as of ``FeatureSource``; the command line takes it from the data.
        width: channels of the pyramid.
        layers: transformer blocks in front of the pyramid.
        levels: levels of the pyramid; each covers segments of twice the length of the level below it.
        attention_window: cells that a cell attends to, odd.
        dropout: dropout in training.
        input_dropout: probability that a feature is 0 in all cells of a video in training.
        lr: peak learning rate.
        weight_decay: of weights; biases, norms and scales do not decay.
        warmup_epochs: epochs of linear warm-up; half a cosine follows.
        distance_weight: weight of the DIoU loss of starts and ends.
        center_radius: points of a segment are positive up to this distance from its center, in strides of their level.
        boundary: options of a Boundary-Matching Network, which then replaces the point network; the options of the
            point network and of its loss are not used.
    """

    network: Localizer
    selection_metric = "val_map"  # that selects best.ckpt

    def __init__(
        self,
        name: str | None = None,
        *,
        class_names: list[str] | None = None,
        features: dict[str, str | int | float | None] | None = None,
        width: int = 192,
        layers: int = 2,
        levels: int = 5,
        attention_window: int = 19,
        dropout: float = 0.1,
        input_dropout: float = 0.0,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_epochs: float = 3.0,
        distance_weight: float = 1.0,
        center_radius: float = 1.5,
        boundary: BoundaryOptions | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["boundary"])  # checkpoints have plain values; the config has the options
        check_number("lr", lr, 0.0, 1e3)
        check_number("weight_decay", weight_decay, 0.0, 1e3)
        check_number("distance_weight", distance_weight, 0.0, 1e3)
        check_number("center_radius", center_radius, 0.1, 1e3)
        if name is not None:
            self.network = load(name)
            check_source(self.network.spec, class_names, features, name)
        elif class_names is None or features is None:
            raise ConfigError("ActionLocalizer needs class_names and features, or the name of a localizer.")
        else:
            options = boundary or PointOptions(
                width=width,
                layers=layers,
                levels=levels,
                attention_window=attention_window,
                dropout=dropout,
                input_dropout=input_dropout,
            )
            source = FeatureSource.from_dict(features, "ActionLocalizer")
            self.network = create_localizer(LocalizerSpec(source, tuple(class_names), options))
        self.predictions: dict[str, list[Segment]] = {}  # by video; of all processes after an epoch
        self.truth: dict[str, list[tuple[float, float, str]]] = {}

    @property
    def spec(self) -> LocalizerSpec:
        """Features, labels and options of the network."""
        return self.network.spec

    def logged_metrics(self, validates: bool) -> list[str]:
        """Names of the metrics that ``fit`` logs."""
        parts = ["boundaries", "overlap", "actions"] if isinstance(self.network, BoundaryLocalizer) else ["distances"]
        names = ["train_loss", "train_loss_classes", *(f"train_loss_{part}" for part in parts)]
        return names + (["val_map", "val_map_activitynet"] if validates else [])

    def setup(self, stage: str) -> None:
        """Compare labels and features of the data with those of the network."""
        data = segment_data(self.trainer)
        check_source(self.spec, data.class_names, asdict(data.source), "the localizer")
        self.label_numbers = torch.tensor([self.spec.labels.index(name) for name in data.class_names])
        self.network.train()

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Replace the class numbers of the data by those of the network, which may have more classes."""
        self.label_numbers = self.label_numbers.to(batch["mask"].device)
        return {**batch, "labels": [self.label_numbers[numbers] for numbers in batch["labels"]]}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        total, losses = self.compute_losses(batch)
        parts = {f"train_loss_{name}": value for name, value in losses.items()}
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(batch["mask"])}
        self.log_dict(parts, **options)
        self.log("train_loss", total, prog_bar=True, **options)
        return total

    def compute_losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and its parts."""
        if isinstance(self.network, BoundaryLocalizer):
            windows = training_windows(batch, self.network.options)
            output = self.network(torch.stack([window.features for window in windows]))
            losses = boundary_loss(output, boundary_targets(windows, self.network.options))
            return losses.total(), losses._asdict()
        points = self.network(batch["features"], batch["mask"])
        loss = point_loss(points, batch["segments"], batch["labels"], self.hparams["center_radius"])
        return loss.classes + self.hparams["distance_weight"] * loss.distances, loss._asdict()

    def on_validation_epoch_start(self) -> None:
        """Forget the segments of the last epoch."""
        self.predictions, self.truth = {}, {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Localize the segments of a batch."""
        self.predictions |= dict(zip(batch["name"], self.localize(batch), strict=True))
        self.truth |= dict(zip(batch["name"], batch["truth"], strict=True))

    test_step = validation_step

    def localize(self, batch: dict[str, Any]) -> list[list[Segment]]:
        """Return the segments of each video of a batch."""
        return self.network.localize(batch["features"], batch["mask"], batch["duration"])

    def on_validation_epoch_end(self) -> None:
        """Log the average mAP."""
        self._log_metrics("val_")

    def on_test_epoch_end(self) -> None:
        """Log the average mAP."""
        self._log_metrics("test_")

    def _log_metrics(self, prefix: str) -> None:
        self.predictions, self.truth = gather_by_name(self.predictions), gather_by_name(self.truth)
        if self.trainer.sanity_checking:  # the first batches may have no segments
            return
        benchmarks = {"map": segment_data(self.trainer).benchmarks[0], "map_activitynet": "activitynet"}
        for name, benchmark in benchmarks.items():
            average = self.detections(THRESHOLDS[benchmark]).average
            self.log(prefix + name, average, prog_bar=name == "map", batch_size=1)

    def detections(self, thresholds: Sequence[float]) -> DetectionMetrics:
        """Return the average precision of the last validation or test at thresholds of the temporal IoU."""
        return detection_map(self.truth, self.predictions, thresholds)

    def epic_detections(self) -> dict[str, DetectionMetrics]:
        """Return the average precision of verbs, nouns and actions of the last validation or test.

        Labels must be actions of EPIC-KITCHENS-100.
        """
        return epic_map(self.truth, self.predictions)

    def proposals(self) -> ProposalMetrics:
        """Return the average recall of the segments of the last validation or test; their labels are not used."""
        return proposal_recall(self.truth, self.predictions)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with linear warm-up and a cosine, stepped every batch."""
        decayed = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.network.parameters() if parameter.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.hparams["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, self.hparams["lr"])
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ConfigError("The schedule needs the length of the run: set trainer.max_epochs or trainer.max_steps.")
        self.trainer.fit_loop.setup_data()  # with max_steps alone, Lightning has not set num_training_batches yet
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        schedule = ScheduleOptions(warmup_epochs=self.hparams["warmup_epochs"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(schedule, int(total), per_epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the config of the network, so that the file can be loaded without other information."""
        metrics = {
            name: round(float(value), 4)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("val_") and math.isfinite(float(value))
        }
        provenance = {"epochs": self.trainer.current_epoch + 1, "metrics": metrics}
        checkpoint[CONFIG_KEY] = replace(self.spec, provenance=provenance).to_config()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare labels and features of a checkpoint with those of the network."""
        spec = LocalizerSpec.from_config(checkpoint.get(CONFIG_KEY), "the checkpoint")
        if spec.labels != self.spec.labels:
            raise ConfigError("The checkpoint has other labels than the data; start a new run with another --out.")
        check_source(spec, None, asdict(self.spec.features), "the checkpoint")


def check_source(
    spec: LocalizerSpec, class_names: list[str] | None, features: Mapping[str, Any] | None, name: str
) -> None:
    """Compare a localizer with the labels and features of data.

    Raises:
        ConfigError: the data have other labels or features.
    """
    if class_names is not None and not set(class_names) <= set(spec.labels):
        unknown = sorted(set(class_names) - set(spec.labels))
        raise ConfigError(f"The data have labels that {name} does not have: {', '.join(unknown)[:200]}.")
    own = asdict(spec.features)
    for key in ("weights", "window", "stride", "dim", "views", "stage"):
        if features is not None and features[key] != own[key]:
            described = f"network {features['network']}" if key == "weights" else f"{key} {features[key]}"
            expected = own["network"] if key == "weights" else own[key]
            raise ConfigError(
                f"The features of the data are from {described}, those of {name} from {expected}; compute the features "
                "with the network, window and stride of the localizer."
            )
