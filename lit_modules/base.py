"""VideoClassifier: a network of the zoo as a LightningModule that trains, tests and predicts."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torchmetrics import MeanMetric

from lit_modules.checkpoints import update_average
from lit_modules.heads import heads_loss, heads_scores
from lit_modules.mixing import Mixing
from lit_modules.network import (
    build_network,
    check_class_count,
    check_classes,
    declares_untrained,
    frames_of,
    is_untrained,
    match_classes,
    refuse_untrained,
    set_dropout,
    set_heads,
    take_protocol,
)
from lit_modules.optim import GROUP_OPTIONS, OPTIMIZERS, SCHEDULE_OPTIONS, SCHEDULES, Rules, lr_factor, parameter_groups
from lit_modules.provenance import provenance_of
from lit_modules.recipe_options import check_recipe_options
from lit_modules.scores import Scores, accuracies, measured, merged, merged_scores
from lit_modules.sharded import blank_pass, is_sharded, passes_behind
from zoo.errors import ConfigError
from zoo.models import ARCHITECTURES
from zoo.weights.lightning_checkpoint import CONFIG_KEY

log = logging.getLogger("lit_modules")


class VideoClassifier(L.LightningModule):
    """Fine-tunes, tests and predicts with any network of the zoo.

    Args:
        name: index name ("tanet_r50.k400_8f"), folder written by the package, ``hf-hub:user/repo``, Lightning
            ``.ckpt`` of this package, or a bare architecture ("tanet_r18") for random weights.
        weights: published checkpoint file of that index entry, already on disk. These are the weights to *start*
            from; Lightning's ``ckpt_path`` resumes a run.
        pretrained: False starts from random weights.
        class_names: classes in label order; the command line takes them from the data.
        num_classes: instead of class_names, where there are no names.
        heads: names and class counts of several classifiers side by side, such as EPIC-Kitchens' verbs and nouns; the
            command line takes them from the data. Their losses are added.
        protocol: an index name whose protocol (frames, sampling, sizes, views) is to be used instead of that of
            ``name``: what is published for ImageNet weights says nothing of videos.
        num_frames: frames per clip, if not as published.
        image_size: side of the crops, if not as published.
        options: of a bare architecture, such as ``{"width": 16}``.
        optimizer: "sgd" (Nesterov optional) or "adamw".
        lr: peak learning rate for a batch of ``lr_batch_size`` clips; scaled to the batch in use, over all devices.
        lr_batch_size: clips of a step that lr is for; None takes lr as it is.
        momentum: of SGD.
        nesterov: use Nesterov's form of it.
        head_lr_scale: multiple of lr for the classifier.
        operator_lr_scale: multiple of lr for the temporal operator.
        bias_lr_scale: multiple of lr for biases, on top of either; those of norms are left out.
        new_bias_lr_scale: instead of ``bias_lr_scale``, for the biases of the classifier and the operator.
        layer_decay: the rate of each block is this times that of the block behind it.
        weight_decay: of weights; norms never decay, unless the recipe's ``group_rules`` say so.
        decay_bias: whether biases decay as well.
        schedule: "cosine", "cosine_after_warmup", "steps" or "constant"; see ``lit_modules.optim.lr_factor``.
        milestones: where "steps" has its steps, as fractions of the run.
        gamma: what "steps" multiplies the rate with at each of them.
        warmup_epochs: of linear warm-up; one of more than a quarter of the run is cut to a tenth of it.
        warmup_start: multiple of lr at which the warm-up begins.
        min_lr_scale: multiple of lr at which the cosine ends.
        label_smoothing: of the cross-entropy.
        mixup: alpha of MixUp, 0 for none.
        cutmix: alpha of CutMix, 0 for none; with both, each batch takes one of them at random.
        dropout: before the classifier, if not as published.
        drop_path: rate of leaving out the last block's branches, 0 at the first, of networks that have it.
        grad_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        freeze_backbone: train the classifier only.
        head_warmup_epochs: train the classifier only for the first epochs.
        ema_decay: average the weights over the run with this decay, lower at first; validation and checkpoints use the
            average.
        view_chunk: clips per forward pass when a test video has many views; lower it if memory runs out.
    """

    group_rules: ClassVar[Rules] = {}  # of recipes that treat parameters by name, see lit_modules.optim
    allow_untrained = False  # validate, test and predict with untrained parts rather than raise a ConfigError

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
        optimizer: str = "sgd",
        lr: float = 0.01,
        lr_batch_size: int | None = 64,
        momentum: float = 0.9,
        nesterov: bool = False,
        head_lr_scale: float = 1.0,
        operator_lr_scale: float = 1.0,
        bias_lr_scale: float = 1.0,
        new_bias_lr_scale: float | None = None,
        layer_decay: float | None = None,
        weight_decay: float = 1e-4,
        decay_bias: bool = True,
        schedule: str = "cosine",
        milestones: Sequence[float] = (0.5, 0.75, 0.9),
        gamma: float = 0.1,
        warmup_epochs: float = 0.0,
        warmup_start: float = 0.01,
        min_lr_scale: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        dropout: float | None = None,
        drop_path: float | None = None,
        grad_checkpointing: bool = False,
        freeze_backbone: bool = False,
        head_warmup_epochs: int = 0,
        ema_decay: float | None = None,
        view_chunk: int = 16,
    ) -> None:
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer is {optimizer!r}; choose from {', '.join(OPTIMIZERS)}.")
        if schedule not in SCHEDULES:
            raise ConfigError(f"schedule is {schedule!r}; choose from {', '.join(SCHEDULES)}.")
        check_class_count(num_classes, class_names)
        self.save_hyperparameters()
        check_recipe_options(self.hparams)
        by_name = class_names is not None and pretrained and name not in ARCHITECTURES  # with the classifier it has
        self.network: Any = build_network(
            name,
            weights=weights,
            pretrained=pretrained,
            num_classes=None if by_name else len(class_names) if class_names is not None else num_classes,
            num_frames=frames_of(protocol) if num_frames is None and protocol is not None else num_frames,
            image_size=image_size,
            options=options,
        )
        self.matched = None if class_names is None else match_classes(self.network, class_names)
        if self.matched:
            log.warning("%s: the classifier was %s", name, self.matched)
        if protocol is not None:
            take_protocol(self.network, protocol, image_size)
        if heads is not None:
            set_heads(self.network, heads)
        self.untrained = is_untrained(self.network)
        set_dropout(self.network, dropout, drop_path)
        self.network.set_grad_checkpointing(grad_checkpointing)
        classes = self.network.spec.num_classes
        if self.heads and (mixup or cutmix):
            raise ConfigError("mixup and cutmix need one label for each clip, not several heads; set them to 0.")
        self.mixing = Mixing(mixup, cutmix, classes)
        self.train_loss = MeanMetric()
        self.train_metrics = accuracies(classes, "train_")
        self.scores: Scores = {}  # of the videos validated or tested; of all processes when that has ended

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)``, normalized -> logits ``(B, classes)``."""
        return self.network(clips)

    def score_views(self, views: Tensor) -> Tensor:
        """Views ``(B, V, 3, T, H, W)`` -> scores ``(B, classes)``, averaged over views as the protocol says.

        The scores are probabilities: those that were averaged, or the softmax of averaged logits.
        """
        flat = views.flatten(0, 1)
        logits = torch.cat([self.network(chunk) for chunk in flat.split(self.hparams["view_chunk"])])
        logits = logits.float().unflatten(0, views.shape[:2])  # (B, V, classes)
        if self.network.protocol.average == "prob":
            return heads_scores(logits, self.head_sizes).mean(1)
        return heads_scores(logits.mean(1), self.head_sizes)

    @property
    def heads(self) -> dict[str, int] | None:
        """Names and class counts of several classifiers side by side, or None."""
        return dict(self.network.protocol.heads) or None

    @property
    def head_sizes(self) -> list[int]:
        """Class counts of the classifiers; of the one there usually is."""
        return list((self.heads or {"": self.network.spec.num_classes}).values())

    # training ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if stage != "fit":
            self.untrained = self.untrained and is_untrained(self.network)  # processes that "ddp_spawn" starts train it
            return
        if self.hparams["ema_decay"] and is_sharded(self.trainer):
            raise ConfigError("ema_decay needs whole weights, which FSDP shards: set it to null, or train with DDP.")
        self.network.train()  # the zoo hands networks out in eval mode
        options = {key: self.hparams[key] for key in GROUP_OPTIONS}  # now: FSDP will change names and shapes
        decay = self.hparams["weight_decay"]
        self._groups = parameter_groups(self.network, 1.0, decay, **options, rules=self.group_rules)
        partly = self.hparams["freeze_backbone"] or self.hparams["head_warmup_epochs"]
        if partly and isinstance(self.trainer.strategy, DDPStrategy):  # which otherwise waits for every gradient
            self.trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

    def trains_classifier_only(self) -> bool:
        return self.hparams["freeze_backbone"] or self.current_epoch < self.hparams["head_warmup_epochs"]

    def on_train_start(self) -> None:
        self.untrained = False
        self._set_trained()  # a run resumed in mid-epoch begins no epoch

    def on_fit_start(self) -> None:
        """Note in the protocol how clips are made and mirrored in this run, so that it travels with the weights."""
        train = getattr(getattr(self.trainer, "datamodule", None), "datasets", {}).get("train")
        if train is not None:
            pairs = tuple(sorted((a, b) for a, b in train.mirror.items() if a < b))
            how = {"augment": train.protocol.augment, "flip": train.flip, "flip_pairs": pairs}
            self.network.protocol = replace(self.network.protocol, **how)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout, mixing and the like follow from (seed, epoch, step, process): a resumed run draws the same."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        parts = (seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))

    def on_train_epoch_start(self) -> None:
        self._set_trained()

    def _set_trained(self) -> None:
        """Freeze or release the backbone; frozen batch norms keep their statistics."""
        head_only = self.trains_classifier_only()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not head_only or name.startswith(self.network.head_prefix))
        self.network.train(not head_only)
        self.network.dropout.train()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        clips, labels = self.mixing(batch["video"], batch["label"])
        logits = self(clips)
        loss = heads_loss(logits, labels, self.head_sizes, self.hparams["label_smoothing"])
        self.log("train_loss_step", loss, prog_bar=True)
        self.train_loss.update(loss.detach(), len(labels))
        if labels.ndim == 1:  # not of mixed clips, nor of several heads
            self.train_metrics.update(logits.detach().float(), labels)
        return loss

    def on_train_epoch_end(self) -> None:
        self._merge_skipped("train")
        # as numbers, the same in all processes: what Lightning has to reduce, a progress bar may ask one process for
        found = {"train_loss_epoch": self.train_loss.compute()} if self.train_loss.update_called else {}
        if any(metric.update_called for metric in self.train_metrics.values()):
            found |= self.train_metrics.compute()
        self.log_dict({name: float(value) for name, value in found.items()})
        self.train_loss.reset()
        self.train_metrics.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        """SGD or AdamW over the recipe's parameter groups, with its schedule stepped every batch."""
        h = self.hparams
        lr = h["lr"] * (self.total_batch_size() / h["lr_batch_size"] if h["lr_batch_size"] else 1.0)
        groups = [{**group, "lr": group["lr"] * lr} for group in self._groups]
        optimizer: torch.optim.Optimizer
        if h["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(groups, lr, momentum=h["momentum"], nesterov=h["nesterov"])
        else:
            optimizer = torch.optim.AdamW(groups, lr)
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise ConfigError("the schedule needs the length of the run: set trainer.max_epochs or trainer.max_steps.")
        self.trainer.fit_loop.setup_data()  # which max_steps alone does not ask for
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        factor = lr_factor(h["schedule"], int(total), per_epoch, **{key: h[key] for key in SCHEDULE_OPTIONS})
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def total_batch_size(self) -> int:
        """Clips per step, over all devices and accumulated batches."""
        data = getattr(self.trainer, "datamodule", None)
        loader = self.trainer.train_dataloader
        per_device = getattr(data, "batch_size", None) or getattr(loader, "batch_size", None) or 1
        return per_device * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """As Lightning does; with FSDP also by norm, which only FSDP knows, as every process has a share of it."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm") and is_sharded(self.trainer):
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[union-attr, operator]
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_callbacks(self) -> list[Callback]:
        """The averaging of weights, if asked for."""
        decay = self.hparams["ema_decay"]
        return [WeightAveraging(avg_fn=functools.partial(update_average, decay=decay))] if decay else []

    # validation, testing, prediction -----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.scores = {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._score(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._log_measured("val_")

    def _check_trained(self) -> None:
        if self.untrained and self.trainer.state.fn != "fit":  # fit validates as well
            refuse_untrained(self.network, self.hparams["name"], self.matched, self.allow_untrained)

    on_validation_start = on_test_start = on_predict_start = _check_trained

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._score(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_measured("test_")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Paths of the batch's videos and their scores ``(B, classes)``."""
        views = batch["video"]  # none where every video was unreadable, or the process has read all of its own
        passes = -(-views.shape[:2].numel() // self.hparams["view_chunk"])
        behind = passes_behind(self._trainer, passes, self.device)
        scores = self.score_views(views) if passes else torch.empty(0)
        for _ in range(behind):
            blank_pass(self.network, self.device)
        return {"path": batch["path"], "scores": scores}

    def _score(self, batch: dict[str, Any], batch_idx: int) -> None:
        found = self.predict_step(batch, batch_idx)
        pairs = zip(batch["label"].cpu(), found["scores"].cpu(), strict=True)
        self.scores |= dict(zip(found["path"], pairs, strict=True))

    def _log_measured(self, prefix: str) -> None:
        """The metrics of all processes' videos, each counted once; beside them, how many videos these are."""
        self.scores = merged_scores(self.scores)
        found = {prefix + key: value for key, value in measured(self.scores, self.heads).items()}
        skipped = self._merge_skipped(prefix[:-1])
        if skipped:
            log.warning("%d videos were scored, %d could not be read", len(self.scores), len(skipped))
        if skipped or f"{prefix}left_out" in self.trainer.callback_metrics:  # of an earlier pass
            found[f"{prefix}left_out"] = float(len(skipped))
        shown = [prefix + key for key in ("top1", "majority_class") if prefix + key in found]
        self.log_dict({name: found.pop(name) for name in shown}, prog_bar=True)
        self.log_dict(found)

    def _merge_skipped(self, split: str) -> dict[str, str]:
        """The unreadable videos of all processes, which may be too many; their data modules then know of all."""
        data: Any = getattr(self.trainer, "datamodule", None)
        skipped = merged(getattr(data, "skipped", {}).get(split, {}))
        if skipped:
            data.check_bad(split, skipped)
        return skipped

    # checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the network's config beside its weights, so that the file explains itself."""
        checkpoint[CONFIG_KEY] = replace(self.network.spec, provenance=self.provenance()).to_config()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a run of other parameter groups: its optimizer's state would be that of other parameters.

        Raises:
            ConfigError: it was written by another recipe, or an earlier version of this one.
        """
        self.untrained = declares_untrained(checkpoint.get(CONFIG_KEY) or {})
        check_classes(self.network, checkpoint.get(CONFIG_KEY) or {})
        saved = [len(g["params"]) for state in checkpoint.get("optimizer_states", []) for g in state["param_groups"]]
        resumed = self._trainer is not None and self.trainer.state.fn == "fit"
        if resumed and saved and saved != [len(group["params"]) for group in self._groups]:
            raise ConfigError(
                "the run to go on with has other parameter groups: it is of another recipe, or of an earlier version "
                "of this one. Start a new run from its weights with --from."
            )

    def provenance(self) -> dict[str, Any]:
        """Where the network's weights come from; ``zoo.push`` asks for it."""
        return provenance_of(self)
