"""The published training recipes, as subclasses of VideoClassifier.

A recipe contains the values of the first published run of its family. The files in ``configs/``, one for each published
result, contain what the other runs change. ``docs/recipes.md`` lists the sources of the values. ``group_rules`` are for
parameters that the released optimizers treat differently from others of the same role.

The classes share their names with network families because ``--model``, configuration files and checkpoints refer to
them by these names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from lit_modules.base import VideoClassifier
from lit_modules.recipe_options import OptimizerOptions, Recipe, RegularizationOptions, ScheduleOptions
from lit_modules.scores import Scores, predicted_scores, true_labels

MOTION_NAME = re.compile(r"[xy][+-]\d|still")  # classes of datamodules.MoSI


class TAda2D(VideoClassifier):
    """TAda2D with the recipe of its Kinetics-400 8x8 run (arXiv 2110.06178, appendix; the released YAML).

    SGD with Nesterov momentum 0.9, lr 0.24 for a batch of 128, cosine over 100 epochs with 8 epochs of warm-up from
    0.01, weight decay 1e-4 (none on norms and biases), dropout 0.5.
    """

    recipe = Recipe(
        optimizer=OptimizerOptions(lr=0.24, lr_batch_size=128, nesterov=True, decay_bias=False, weight_decay=1e-4),
        schedule=ScheduleOptions("cosine", warmup_epochs=8, warmup_start=0.01 / 0.24),
    )

    def __init__(
        self,
        name: str = "tada2d_r50.k400_8x8",
        *,
        optimizer: OptimizerOptions = recipe.optimizer,
        schedule: ScheduleOptions = recipe.schedule,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, optimizer=optimizer, schedule=schedule, **kwargs)


class TANet(VideoClassifier):
    """TANet with the recipe of its Kinetics-400 run (arXiv 2005.06803, section 4; the released script).

    SGD with momentum 0.9, lr 0.01 for a batch of 64, divided by 10 at epochs 50, 75 and 90 of 100, weight decay 1e-4,
    dropout 0.5; classifier weight x5, classifier bias x10, other biases x2, no decay of biases. Its gradient clipping
    at 20 is an option of the Trainer (``--trainer.gradient_clip_val 20``), which the files in ``configs/`` set.
    """

    recipe = Recipe(
        optimizer=OptimizerOptions(
            lr=0.01, lr_batch_size=64, head_lr_scale=5, bias_lr_scale=2, decay_bias=False, weight_decay=1e-4
        ),
        schedule=ScheduleOptions("steps", milestones=(0.5, 0.75, 0.9)),
        # the released optimizer trains every linear layer at x5, so TAM's global branch as well as the classifier
        group_rules={r"\.G\.[03]\.weight$": (5, True)},
    )

    def __init__(
        self,
        name: str = "tanet_r50.k400_8f",
        *,
        optimizer: OptimizerOptions = recipe.optimizer,
        schedule: ScheduleOptions = recipe.schedule,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, optimizer=optimizer, schedule=schedule, **kwargs)


class STAM(TAda2D):
    """STAM in a ResNet, with the recipe of TAda2D: the recipe of its paper is not public.

    No weights are published; the default starts from an ImageNet ResNet-50.
    """

    def __init__(self, name: str = "stam_r50.in1k", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)


class TAdaConvNeXtV2(VideoClassifier):
    """TAdaConvNeXtV2 with the recipe of the tiny network's Kinetics-400 run (the YAML released with arXiv 2308.05787).

    AdamW, lr 5e-4 for a batch of 512 (4 machines of 128), cosine over 100 epochs with 8 epochs of warm-up from 1e-6,
    weight decay 0.02 (none on biases and most norms), dropout 0.5, drop path 0.2; routing functions and classifier x5,
    their biases x10. Training clips use "rand_augment", which is part of the published networks' protocol.
    """

    recipe = Recipe(
        optimizer=OptimizerOptions(
            "adamw", lr=5e-4, lr_batch_size=512, weight_decay=0.02, decay_bias=False,
            head_lr_scale=5, operator_lr_scale=5, new_bias_lr_scale=2,
        ),
        schedule=ScheduleOptions("cosine", warmup_epochs=8, warmup_start=1e-6 / 5e-4),
        regularization=RegularizationOptions(drop_path_rate=0.2),
        # The released optimizer selects parameters by name: in the routing functions, norms count as other weights and
        # biases, and the layer "b_bias", which calibrates the bias, counts as a bias. The names of the four norms of
        # `downsample_layers`, that of the stem and three between stages, lack "norm": their weights decay.
        group_rules={
            r"\.routing\.norm(_attn)?\.weight$": (5, True),
            r"\.routing\.(norm(_attn)?\.bias|b_bias\.weight)$": (10, False),
            r"\.gamma$": (1, True),
            r"^(stem\.norm|downsamples\.\d+\.0)\.weight$": (1, True),
        },
    )  # fmt: skip

    def __init__(
        self,
        name: str = "tadaconvnextv2_tiny.in1k_k400_16f",
        *,
        optimizer: OptimizerOptions = recipe.optimizer,
        schedule: ScheduleOptions = recipe.schedule,
        regularization: RegularizationOptions = recipe.regularization,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, optimizer=optimizer, schedule=schedule, regularization=regularization, **kwargs)


class TAdaConvNeXt(TAdaConvNeXtV2):
    """TAdaConvNeXt, version 1 (arXiv 2110.06178, section 4.1), with the recipe of version 2.

    The recipe of its own runs is not published in full, and no weights are released. It has the sizes and the image
    network of TAdaConvNeXtV2-T, so that recipe is a starting point; expect to tune it.
    """

    def __init__(self, name: str = "tadaconvnext_tiny.in1k", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)


class TAdaFormer(VideoClassifier):
    """TAdaFormer with the recipe of the B/16 network's Kinetics-400 run (the YAML released with arXiv 2308.05787).

    AdamW, lr 5e-5 for a batch of 256 (from the YAML; the number of machines is not published), 30 epochs: 5 of warm-up
    from 1e-6, then a cosine to 1e-6; weight decay 0.05 (none on norms, biases and the class embedding), dropout 0.5,
    label smoothing 0.1. The learning rate decreases by 0.7 from block to block toward the stem; TAda blocks and the
    classifier have x10. Training clips use "rand_augment", which is part of the published networks' protocol.
    """

    recipe = Recipe(
        optimizer=OptimizerOptions(
            "adamw", lr=5e-5, lr_batch_size=256, weight_decay=0.05, decay_bias=False,
            head_lr_scale=10, operator_lr_scale=10, layer_decay=0.7,
        ),
        schedule=ScheduleOptions(
            "cosine_after_warmup", warmup_epochs=5, warmup_start=1e-6 / 5e-5, min_lr_scale=1e-6 / 5e-5
        ),
        regularization=RegularizationOptions(label_smoothing=0.1),
        # the released optimizer exempts one-dimensional parameters from decay; position embeddings have more
        group_rules={r"^pos_embed$": (1, True)},
    )  # fmt: skip

    def __init__(
        self,
        name: str = "tadaformer_b16.clip_k400_16f",
        *,
        optimizer: OptimizerOptions = recipe.optimizer,
        schedule: ScheduleOptions = recipe.schedule,
        regularization: RegularizationOptions = recipe.regularization,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, optimizer=optimizer, schedule=schedule, regularization=regularization, **kwargs)


class MoSI(VideoClassifier):
    """Pretraining without labels: the network classifies the motions of the clips that ``datamodules.MoSI`` generates.

    The recipe is that of the R-2D3D-18 runs (arXiv 2104.00240; the released YAML): lr 1e-3 for a step of 1440 clips,
    cosine over 100 epochs with 10 epochs of warm-up from 1e-4, weight decay 1e-4 (none on norms and biases), dropout
    0.5. The published optimizer is Adam; this one is AdamW.

    Besides the metrics of ``VideoClassifier``, validation and testing log ``x_top1`` and ``y_top1``, the share of clips
    whose speed along one axis is predicted correctly, and ``x_majority_class`` and ``y_majority_class``, those of never
    predicting a motion along the axis.
    """

    recipe = Recipe(
        optimizer=OptimizerOptions("adamw", lr=1e-3, lr_batch_size=1440, weight_decay=1e-4, decay_bias=False),
        schedule=ScheduleOptions("cosine", warmup_epochs=10, warmup_start=0.1),
    )

    def __init__(
        self,
        name: str = "r2d3d_r18",
        *,
        optimizer: OptimizerOptions = recipe.optimizer,
        schedule: ScheduleOptions = recipe.schedule,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, optimizer=optimizer, schedule=schedule, **kwargs)

    def _log_metrics(self, prefix: str) -> None:
        super()._log_metrics(prefix)
        metrics = axis_metrics(self.scores, self.network.labels or ())
        self.log_dict({prefix + key: value for key, value in metrics.items()})


def axis_metrics(scores: Scores, labels: Sequence[str]) -> dict[str, float]:
    """Return the accuracies of predicted motions along x and along y, and those of never predicting a motion there.

    Args:
        scores: scores of the clips.
        labels: names of the classes. If they are not names of motions, there are no metrics.
    """
    if not scores or not labels or not all(MOTION_NAME.fullmatch(name) for name in labels):
        return {}
    metrics: dict[str, float] = {}
    expected, predicted = true_labels(scores), predicted_scores(scores).argmax(1)
    for axis in "xy":
        # motion number -> speed along the axis; 0 for motions along the other axis
        speeds = torch.tensor([int(name[1:]) if name[0] == axis else 0 for name in labels])
        metrics[f"{axis}_top1"] = float((speeds[predicted] == speeds[expected]).double().mean())
        metrics[f"{axis}_majority_class"] = float((speeds[expected] == 0).double().mean())
    return metrics
