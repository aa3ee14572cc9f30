"""VideoClassifier: a network of the zoo as a LightningModule that trains, tests and predicts."""

from __future__ import annotations

import functools
import io
import logging
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

from lit_modules.batch_statistics import FirstStatistics
from lit_modules.checkpoints import update_average
from lit_modules.class_results import UNCALIBRATED, detailed_metrics
from lit_modules.finite_steps import FiniteSteps
from lit_modules.head_init import check_head_init, initialize_head
from lit_modules.heads import heads_loss
from lit_modules.interfaces import batch_size, video_data
from lit_modules.linear_probe import LinearProbe
from lit_modules.losses import multi_label_loss
from lit_modules.mixing import Mixing
from lit_modules.network import (
    build_for_data,
    check_classes,
    check_trained,
    declares_untrained,
    set_drop_rates,
)
from lit_modules.optim import lr_factor, parameter_groups
from lit_modules.provenance import provenance_of
from lit_modules.recipe_options import (
    LossOptions,
    OptimizerOptions,
    Recipe,
    RegularizationOptions,
    ScheduleOptions,
    check_recipe_options,
    nest_old_names,
)
from lit_modules.scores import (
    Scores,
    accuracies,
    compute_metrics,
    gather_by_name,
    gather_scores,
    replace_nonfinite,
)
from lit_modules.sharded import dummy_forward, is_sharded, missing_forward_passes
from lit_modules.trained_parts import BatchNormMode, TrainedPart, TrainedParts, check_trained_part
from zoo.compiling import mark_batch
from zoo.errors import ConfigError
from zoo.inference.scores import average_views
from zoo.models import VideoNetwork
from zoo.models.lora import add_adapters
from zoo.text import listing
from zoo.training_state import is_untrained
from zoo.weights.lightning_checkpoint import CONFIG_KEY

log = logging.getLogger("lit_modules")


class VideoClassifier(L.LightningModule):
    """Fine-tunes, tests and predicts with any network of the zoo.

    The class attribute ``recipe`` contains the defaults of the option groups. In Python,
    ``TANet(name, optimizer={"lr": 0.1})`` changes single options of the recipe, and
    ``TANet(name, optimizer=OptimizerOptions(lr=0.1))`` replaces the group.

    Args:
        name: index name ("tanet_r50.k400_8f"), folder written by the package, ``hf-hub:user/repo``, Lightning
            ``.ckpt`` of this package, or an architecture ("tanet_r18") for random weights.
        weights: published checkpoint file of that index entry on this machine. Training *starts* from these weights;
            use Lightning's ``ckpt_path`` to resume a run.
        pretrained: False starts from random weights.
        class_names: classes in label order; the command line takes them from the data.
        num_classes: number of classes, if they have no names.
        heads: names and class counts of several classifiers side by side, such as EPIC-Kitchens' verbs and nouns; the
            command line takes them from the data. Their losses are added.
        protocol: index name whose protocol (frames, sampling, sizes, views) replaces that of ``name``, for example
            because ImageNet weights have no protocol for videos.
        num_frames: frames per clip; None uses the protocol's.
        image_size: side of the crops in pixels; None uses the protocol's.
        options: options of an architecture, such as ``{"width": 16}``.
        optimizer: optimizer, learning rate and parameter groups.
        schedule: learning rate schedule.
        regularization: label smoothing, mixing of clips, dropout and stochastic depth.
        loss: cross-entropy or focal loss. ``balance`` of the data module can weight the classes.
        multi_label: whether a video may have several classes; the command line takes it from the data. None keeps the
            setting of the network.
        head_init: "default" keeps the classifier of the network, random for new classes; "probe" replaces it, at the
            start of training, by a logistic regression of the training videos.
        grad_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        train: trained parameters: "all"; "operator": the temporal operator and the classifier; "head": the classifier;
            "lora": low-rank adapters of a transformer's linear layers, the temporal operator and the classifier.
        batch_norm: "train"; "frozen": batch norms use their running statistics and do not update them; or
            "frozen_except_first". Untrained batch norms are never frozen.
        freeze_backbone: earlier name of ``train="head"``.
        head_warmup_epochs: number of first epochs in which only the classifier is trained.
        ema_decay: decay of the moving average of the weights, lower at first. Validation and checkpoints use the
            average. None turns it off.
        view_chunk: clips per forward pass when a test video has many views; lower it if memory runs out.
        **old_options: options by their names of earlier versions, such as ``lr``; see ``OLD_NAMES``.
    """

    network: VideoNetwork
    recipe: Recipe = Recipe()
    skip_nonfinite = False  # skip training steps with a loss or gradient that is not finite instead of stopping
    allow_untrained = False  # validate, test and predict with untrained parts instead of raising a ConfigError

    def __init__(
        self,
        name: str = "tanet_r18.motionclips8",
        *,
        weights: str | None = None,
        pretrained: bool = True,
        class_names: list[str] | None = None,
        num_classes: int | None = None,
        heads: dict[str, int] | None = None,
        protocol: str | None = None,
        num_frames: int | None = None,
        image_size: int | None = None,
        options: dict[str, Any] | None = None,
        optimizer: OptimizerOptions = recipe.optimizer,
        schedule: ScheduleOptions = recipe.schedule,
        regularization: RegularizationOptions = recipe.regularization,
        loss: LossOptions = recipe.loss,
        multi_label: bool | None = None,
        head_init: str = "default",
        grad_checkpointing: bool = False,
        train: TrainedPart = "all",
        batch_norm: BatchNormMode = "train",
        freeze_backbone: bool = False,
        head_warmup_epochs: int = 0,
        ema_decay: float | None = None,
        view_chunk: int = 16,
        **old_options: Any,
    ) -> None:
        super().__init__()
        groups = {"optimizer": optimizer, "schedule": schedule, "regularization": regularization, "loss": loss}
        self.recipe = self.recipe.override(groups, old_options)
        self.save_hyperparameters(ignore=list(old_options))
        self.save_hyperparameters(self.recipe.to_dict())  # plain values, which torch loads with weights_only=True
        check_recipe_options(self.recipe, self.hparams)
        check_head_init(head_init, heads)
        self.network, self.head_change = build_for_data(
            name, weights=weights, pretrained=pretrained, class_names=class_names, num_classes=num_classes, heads=heads,
            protocol=protocol, num_frames=num_frames, image_size=image_size, options=options, multi_label=multi_label,
        )  # fmt: skip
        if self.recipe.loss.name == "asymmetric" and not self.multi_label:
            raise ConfigError("loss.name asymmetric is for videos with several labels; choose cross_entropy or focal.")
        check_trained_part(self.network, self.trained_part)
        if self.trained_part == "lora":
            add_adapters(self.network)
        self.untrained = is_untrained(self.network)
        set_drop_rates(self.network, self.recipe.regularization.drop_rate, self.recipe.regularization.drop_path_rate)
        self.network.set_grad_checkpointing(grad_checkpointing)
        self.mixing = Mixing(self.recipe.regularization.mixup, self.recipe.regularization.cutmix, self.head_sizes)
        self.train_loss = MeanMetric()
        self.train_metrics = accuracies(sum(self.head_sizes), "train_")
        self._finite_steps = FiniteSteps(self.network, skip=False)
        self._class_weights: Tensor | None = None  # in the training loss
        self.scores: Scores = {}  # by video; of all processes after an epoch
        self.uncalibrated_scores: Scores = {}  # the same without the temperature, if the network has one
        self.probe: LinearProbe | None = None  # of the training videos, if it was fitted at the start of the run

    def forward(self, clips: Tensor) -> Tensor:
        """Normalized clips ``(B, 3, T, H, W)`` -> logits ``(B, classes)``."""
        return self.network(clips)

    def score_views(self, views: Tensor) -> Tensor:
        """Views ``(B, V, 3, T, H, W)`` -> probabilities ``(B, classes)``.

        Probabilities or logits are averaged over views, as the protocol specifies.
        """
        return average_views(self._view_logits(views), self.network.protocol)

    def _view_logits(self, views: Tensor) -> Tensor:
        """Views ``(B, V, 3, T, H, W)`` -> logits ``(B, V, classes)``."""
        flat = views.flatten(0, 1)
        logits = torch.cat([self._run_any_batch(chunk) for chunk in flat.split(self.hparams["view_chunk"])])
        return logits.unflatten(0, views.shape[:2])

    def _run_any_batch(self, clips: Tensor) -> Tensor:
        mark_batch(self.network, clips)
        logits: Tensor = self.network(clips)
        return logits

    @property
    def heads(self) -> dict[str, int] | None:
        """Names and class counts of several classifiers side by side, or None."""
        return dict(self.network.protocol.heads) or None

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several classes."""
        return self.network.protocol.multi_label

    @property
    def trained_part(self) -> TrainedPart:
        """Parameters that are trained after ``head_warmup_epochs``."""
        return "head" if self.hparams["freeze_backbone"] else self.hparams["train"]

    @property
    def head_sizes(self) -> list[int]:
        """Class counts of the classifiers; usually there is one."""
        return list((self.heads or {"": self.network.spec.num_classes}).values())

    # training ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        data = video_data(self.trainer)
        if data is not None and stage != "predict" and data.multi_label != self.multi_label:
            raise ConfigError(
                f"The network {'has' if self.multi_label else 'does not have'} several labels per video, the data "
                f"{'have' if data.multi_label else 'do not'}; see --data.label_separator (multi_label in Python)."
            )
        if stage != "fit":
            self.untrained = self.untrained and is_untrained(self.network)  # "ddp_spawn" trains it in other processes
            return
        if self.hparams["ema_decay"] and is_sharded(self.trainer):
            raise ConfigError("ema_decay does not work with FSDP, which shards weights; set it to null, or use DDP.")
        if self.hparams["head_init"] == "probe" and is_sharded(self.trainer):
            raise ConfigError("head_init=probe does not work with FSDP, which shards weights; use DDP.")
        self.network.train()  # networks of the zoo are in eval mode
        # before FSDP changes names and shapes of parameters
        self._first_statistics = FirstStatistics(self.network)
        self._groups = parameter_groups(self.network, self.recipe.optimizer, self.recipe.group_rules)
        if self.trained_part == "lora" and is_sharded(self.trainer):
            raise ConfigError("model.train lora does not work with FSDP, which shards weights; use DDP or one device.")
        self._parts = TrainedParts(self.network, self.trained_part, self.hparams["batch_norm"])
        self._parts.warn_untrained()
        partly = self.trained_part != "all" or self.hparams["head_warmup_epochs"]
        if partly and isinstance(self.trainer.strategy, DDPStrategy):  # else it waits for the missing gradients
            self.trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

    def trains_classifier_only(self) -> bool:
        return self.trained_part == "head" or self.current_epoch < self.hparams["head_warmup_epochs"]

    def on_train_start(self) -> None:
        self.untrained = False
        self._finite_steps = FiniteSteps(self.network, self.skip_nonfinite)
        self._parts.apply(
            self.trains_classifier_only()
        )  # on_train_epoch_start is not called for a run that is resumed mid-epoch

    def on_fit_start(self) -> None:
        """Initialize the classifier, read class weights, and record the augmentation of clips in the protocol.

        The temperature, which belongs to the weights before training, is removed.
        """
        self.network.protocol = replace(self.network.protocol, temperature=1.0)
        if self.hparams["head_init"] == "probe":
            initialize_head(self.trainer, self)
        data = video_data(self.trainer)
        weights = None if data is None else data.class_weights
        self._class_weights = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        train = data.datasets.get("train") if data is not None else None
        if train is not None:
            pairs = tuple(sorted((a, b) for a, b in train.mirror.items() if a < b))
            self.network.protocol = replace(
                self.network.protocol, augment=train.protocol.augment, flip=train.flip, flip_pairs=pairs
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout and mixing by (seed, epoch, step, process), so that a resumed run draws the same numbers."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        parts = (seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
        self._first_statistics.start_batch()
        self._finite_steps.start_batch()

    def on_train_epoch_start(self) -> None:
        self._parts.apply(self.trains_classifier_only())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        labels = batch["label"].float() if self.multi_label else batch["label"]
        clips, labels = self.mixing(batch["video"], labels)
        logits = self(clips)
        if self._class_weights is not None:
            self._class_weights = self._class_weights.to(logits.device)
        options = (self.recipe.loss, self.recipe.regularization.label_smoothing, self._class_weights)
        if self.multi_label:
            loss = multi_label_loss(logits, labels, *options)
        else:
            loss = heads_loss(logits, labels, self.head_sizes, *options)
        self.log("train_loss_step", loss, prog_bar=True)
        self._finite_steps.add(loss, batch.get("path", []))
        finite = loss.detach().isfinite()
        self.train_loss.update(loss.detach().where(finite, 0), finite * len(labels))
        if labels.ndim == 1:  # accuracy is not defined for mixed clips or several heads
            self.train_metrics.update(logits.detach().float(), labels)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._finite_steps.check(self.trainer, optimizer)

    def on_train_end(self) -> None:
        self._finite_steps.report(self.trainer)

    def on_train_epoch_end(self) -> None:
        self._gather_skipped("train")
        # Logged as numbers, the same in all processes: a progress bar may read them in one process only, which would
        # block if Lightning had to reduce them.
        metrics = {"train_loss_epoch": self.train_loss.compute()} if self.train_loss.update_called else {}
        if any(metric.update_called for metric in self.train_metrics.values()):
            metrics |= self.train_metrics.compute()
        self.log_dict({name: float(value) for name, value in metrics.items()})
        self.train_loss.reset()
        self.train_metrics.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Create the optimizer with the recipe's parameter groups, and its schedule, stepped every batch."""
        options = self.recipe.optimizer
        scale = self.total_batch_size() / options.lr_batch_size if options.lr_batch_size else 1.0
        lr = options.lr * scale
        groups = [{**group, "lr": group["lr"] * lr} for group in self._groups]
        optimizer: torch.optim.Optimizer
        if options.name == "sgd":
            optimizer = torch.optim.SGD(groups, lr, momentum=options.momentum, nesterov=options.nesterov)
        else:
            optimizer = torch.optim.AdamW(groups, lr)
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ConfigError("The schedule needs the length of the run: set trainer.max_epochs or trainer.max_steps.")
        self.trainer.fit_loop.setup_data()  # with max_steps alone, Lightning has not set num_training_batches yet
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        factor = lr_factor(self.recipe.schedule, int(total), per_epoch)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def set_lr(self, lr: float) -> None:
        """Replace the learning rate of the recipe, before training."""
        self.recipe = replace(self.recipe, optimizer=replace(self.recipe.optimizer, lr=lr))
        self.save_hyperparameters(self.recipe.to_dict())

    def total_batch_size(self) -> int:
        """Return the number of clips per step, over all devices and accumulated batches."""
        return batch_size(self.trainer) * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning does; with FSDP also by norm, over the shards of all processes."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm") and is_sharded(self.trainer):
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[union-attr, operator]
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback that averages the weights, if ``ema_decay`` is set."""
        decay = self.hparams["ema_decay"]
        return [WeightAveraging(avg_fn=functools.partial(update_average, decay=decay))] if decay else []

    # validation, testing, prediction -----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.scores, self.uncalibrated_scores = {}, {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._score(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val_")

    def _check_trained(self) -> None:
        if self.untrained and self.trainer.state.fn != "fit":  # fit validates as well
            check_trained(self.network, self.hparams["name"], self.head_change, self.allow_untrained)

    on_validation_start = on_test_start = on_predict_start = _check_trained

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._score(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test_")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return the paths of the batch's videos and their scores ``(B, classes)``.

        If the network has a temperature, ``uncalibrated_scores`` are those without it.
        """
        views = batch["video"]  # empty if all videos are unreadable, or the process has read all its videos
        passes = -(-views.shape[:2].numel() // self.hparams["view_chunk"])
        missing = missing_forward_passes(self._trainer, passes, self.device)
        protocol, scores = self.network.protocol, {"scores": torch.empty(0)}
        if passes:
            logits = self._view_logits(views)
            scores["scores"] = average_views(logits, protocol)
            if protocol.temperature != 1:
                scores["uncalibrated_scores"] = average_views(logits, replace(protocol, temperature=1.0))
        for _ in range(missing):
            dummy_forward(self.network, self.device)
        return {"path": batch["path"], **scores}

    def _score(self, batch: dict[str, Any], batch_idx: int) -> None:
        prediction = self.predict_step(batch, batch_idx)
        labels, paths = batch["label"].cpu(), prediction["path"]
        self.scores |= dict(zip(paths, zip(labels, prediction["scores"].cpu(), strict=True), strict=True))
        if "uncalibrated_scores" in prediction:
            uncalibrated = zip(labels, prediction["uncalibrated_scores"].cpu(), strict=True)
            self.uncalibrated_scores |= dict(zip(paths, uncalibrated, strict=True))

    def _log_metrics(self, prefix: str) -> None:
        """Log the metrics of the videos of all processes, each counted once, and the number of unreadable ones."""
        self.scores, nonfinite = replace_nonfinite(gather_scores(self.scores))
        if nonfinite:
            log.warning(
                "%d of %d videos have scores that are not finite and count as guesses. If training has just begun, the "
                "batch statistics may not fit the weights yet; otherwise lower the learning rate. Videos: %s",
                len(nonfinite), len(self.scores), listing(nonfinite),
            )  # fmt: skip
        metrics = {
            prefix + key: value for key, value in compute_metrics(self.scores, self.heads, self.multi_label).items()
        }
        if prefix == "test_" and not self.heads:
            details = detailed_metrics(self.scores, self.multi_label)
            if "calibration_error" in details and self.network.protocol.temperature != 1:
                uncalibrated = replace_nonfinite(gather_scores(self.uncalibrated_scores))[0]
                details[UNCALIBRATED] = detailed_metrics(uncalibrated)["calibration_error"]
            metrics |= {prefix + key: value for key, value in details.items()}
        skipped = self._gather_skipped(prefix[:-1])
        if skipped:
            log.warning("%d videos were scored, %d could not be read", len(self.scores), len(skipped))
        if skipped or f"{prefix}left_out" in self.trainer.callback_metrics:  # from an earlier epoch
            metrics[f"{prefix}left_out"] = float(len(skipped))
        in_progress_bar = [prefix + key for key in ("top1", "map") if prefix + key in metrics]
        self.log_dict({name: metrics.pop(name) for name in in_progress_bar}, prog_bar=True)
        self.log_dict(metrics)

    def _gather_skipped(self, split: str) -> dict[str, str]:
        """Gather the unreadable videos of all processes and report them to the data module, which limits them."""
        data = video_data(self.trainer)
        skipped = gather_by_name(data.skipped.get(split, {}) if data is not None else {})
        if skipped and data is not None:
            data.check_bad(split, skipped)
        return skipped

    # checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the network's config, so that the file can be loaded without other information."""
        checkpoint[CONFIG_KEY] = replace(self.network.spec, provenance=self.provenance()).to_config()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check classes and parameter groups: the optimizer's state is stored by position in the groups.

        Raises:
            ConfigError: the checkpoint has other classes, or was written by another recipe or an earlier version of it.
        """
        self.untrained = declares_untrained(checkpoint.get(CONFIG_KEY) or {})
        check_classes(self.network, checkpoint.get(CONFIG_KEY) or {})
        saved = [len(g["params"]) for state in checkpoint.get("optimizer_states", []) for g in state["param_groups"]]
        resumed = self._trainer is not None and self.trainer.state.fn == "fit"
        if resumed and saved and saved != [len(group["params"]) for group in self._groups]:
            raise ConfigError(
                "The checkpoint to resume from has other parameter groups: another recipe wrote it, or an earlier "
                "version of this one. Start a new run from its weights with --from."
            )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load as Lightning does; hyperparameters of earlier versions are converted."""
        if isinstance(checkpoint_path, (str, os.PathLike)) and Path(checkpoint_path).is_file():
            checkpoint_path = _convert_hyperparameters(Path(checkpoint_path))
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def provenance(self) -> dict[str, Any]:
        """Return the origin of the network's weights, for checkpoints and ``zoo.push``."""
        return provenance_of(self)


def _convert_hyperparameters(path: Path) -> Path | io.BytesIO:
    """Return a checkpoint with the current names of hyperparameters: the path itself if it has no earlier names."""
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:  # other objects than tensors and plain values: not written by this package
        return path
    hparams = content.get(VideoClassifier.CHECKPOINT_HYPER_PARAMS_KEY, {})
    current = nest_old_names(hparams)
    if current == hparams:
        return path
    content[VideoClassifier.CHECKPOINT_HYPER_PARAMS_KEY] = current
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    return buffer
