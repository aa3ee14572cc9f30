"""The published training recipes, as defaults of VideoClassifier.

A class has what the first run of its family used; what another run changes is in ``configs/``, a file for each
published row. ``docs/recipes.md`` says where the values are from. ``group_rules`` are for parameters that the released
optimizers treat otherwise than their role would have it; see ``lit_modules.optim.parameter_groups``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lit_modules.base import VideoClassifier
from lit_modules.optim import Rules


class TAda2D(VideoClassifier):
    """TAda2D with the recipe of its Kinetics-400 8x8 run (arXiv 2110.06178, appendix; the released YAML).

    SGD with Nesterov momentum .9, lr .24 for a batch of 128, cosine over 100 epochs with 8 of warm-up from .01, weight
    decay 1e-4 (none on norms and biases), dropout .5.
    """

    def __init__(
        self,
        name: str = "tada2d_r50.k400_8x8",
        *,
        lr: float = 0.24,
        lr_batch_size: int | None = 128,
        nesterov: bool = True,
        decay_bias: bool = False,
        weight_decay: float = 1e-4,
        schedule: str = "cosine",
        warmup_epochs: float = 8,
        warmup_start: float = 0.01 / 0.24,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            name,
            lr=lr,
            lr_batch_size=lr_batch_size,
            nesterov=nesterov,
            decay_bias=decay_bias,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            warmup_start=warmup_start,
            **kwargs,
        )


class TANet(VideoClassifier):
    """TANet with the recipe of its Kinetics-400 run (arXiv 2005.06803, section 4; the released script).

    SGD momentum .9, lr .01 for a batch of 64, divided by 10 at 50, 75 and 90 of 100 epochs, weight decay 1e-4,
    dropout .5; classifier weight x5 and bias x10, biases x2 without decay. Its gradient clipping at 20 is a Trainer
    setting (``--trainer.gradient_clip_val 20``), which the files in ``configs/`` make.
    """

    # the released optimizer has every linear layer at x5: TAM's global branch with the classifier
    group_rules: ClassVar[Rules] = {r"\.G\.[03]\.weight$": (5, True)}

    def __init__(
        self,
        name: str = "tanet_r50.k400_8f",
        *,
        lr: float = 0.01,
        lr_batch_size: int | None = 64,
        head_lr_scale: float = 5,
        bias_lr_scale: float = 2,
        decay_bias: bool = False,
        weight_decay: float = 1e-4,
        schedule: str = "steps",
        milestones: Sequence[float] = (0.5, 0.75, 0.9),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            name,
            lr=lr,
            lr_batch_size=lr_batch_size,
            head_lr_scale=head_lr_scale,
            bias_lr_scale=bias_lr_scale,
            decay_bias=decay_bias,
            weight_decay=weight_decay,
            schedule=schedule,
            milestones=milestones,
            **kwargs,
        )


class STAM(TAda2D):
    """STAM in a ResNet, with TAda2D's recipe: its paper's own is not open, so this choice is ours.

    No weights are published either; the default starts from an ImageNet ResNet-50.
    """

    def __init__(self, name: str = "stam_r50.in1k", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)


class TAdaConvNeXtV2(VideoClassifier):
    """TAdaConvNeXtV2 with the recipe of the tiny network's Kinetics-400 run (the YAML released with arXiv 2308.05787).

    AdamW, lr 5e-4 for a batch of 512 (4 machines of 128), cosine over 100 epochs with 8 of warm-up from 1e-6, weight
    decay .02 (none on norms and biases), dropout .5, drop path .2; routing functions and classifier x5, their biases
    x10. Clips are made with "rand_augment", which is part of the published networks' protocol.
    """

    # the released optimizer goes by name: in the routing functions, norms are weights and biases like all others, and
    # the layer that calibrates the bias, "b_bias", counts as a bias
    group_rules: ClassVar[Rules] = {
        r"\.routing\.norm(_attn)?\.weight$": (5, True),
        r"\.routing\.(norm(_attn)?\.bias|b_bias\.weight)$": (10, False),
        r"\.gamma$": (1, True),
    }

    def __init__(
        self,
        name: str = "tadaconvnextv2_tiny.in1k_k400_16f",
        *,
        optimizer: str = "adamw",
        lr: float = 5e-4,
        lr_batch_size: int | None = 512,
        head_lr_scale: float = 5,
        operator_lr_scale: float = 5,
        new_bias_lr_scale: float | None = 2,
        decay_bias: bool = False,
        weight_decay: float = 0.02,
        schedule: str = "cosine",
        warmup_epochs: float = 8,
        warmup_start: float = 1e-6 / 5e-4,
        drop_path: float | None = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            name,
            optimizer=optimizer,
            lr=lr,
            lr_batch_size=lr_batch_size,
            head_lr_scale=head_lr_scale,
            operator_lr_scale=operator_lr_scale,
            new_bias_lr_scale=new_bias_lr_scale,
            decay_bias=decay_bias,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            warmup_start=warmup_start,
            drop_path=drop_path,
            **kwargs,
        )


class TAdaConvNeXt(TAdaConvNeXtV2):
    """TAdaConvNeXt, version 1 (arXiv 2110.06178, section 4.1), with the recipe of version 2.

    The recipe of its own runs is not published in full: no configuration or weights of it were released. Sizes and host
    are those of TAdaConvNeXtV2-T, so we take that recipe; expect to tune it.
    """

    def __init__(self, name: str = "tadaconvnext_tiny.in1k", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)


class TAdaFormer(VideoClassifier):
    """TAdaFormer with the recipe of the B/16 network's Kinetics-400 run (the YAML released with arXiv 2308.05787).

    AdamW, lr 5e-5 for a batch of 256 (the YAML's; on how many machines is not said), 30 epochs: 5 of warm-up from 1e-6,
    then a cosine to 1e-6; weight decay .05 (none on norms, biases, the class embedding), dropout .5, label smoothing
    .1. The rate falls by .7 from block to block toward the stem, and is x10 in the TAda blocks and the classifier.
    Clips are made with "rand_augment", which is part of the published networks' protocol.
    """

    # the released optimizer spares what has one dimension, so the positions decay
    group_rules: ClassVar[Rules] = {r"^pos_embed$": (1, True)}

    def __init__(
        self,
        name: str = "tadaformer_b16.clip_k400_16f",
        *,
        optimizer: str = "adamw",
        lr: float = 5e-5,
        lr_batch_size: int | None = 256,
        head_lr_scale: float = 10,
        operator_lr_scale: float = 10,
        layer_decay: float | None = 0.7,
        decay_bias: bool = False,
        weight_decay: float = 0.05,
        schedule: str = "cosine_after_warmup",
        warmup_epochs: float = 5,
        warmup_start: float = 1e-6 / 5e-5,
        min_lr_scale: float = 1e-6 / 5e-5,
        label_smoothing: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            name,
            optimizer=optimizer,
            lr=lr,
            lr_batch_size=lr_batch_size,
            head_lr_scale=head_lr_scale,
            operator_lr_scale=operator_lr_scale,
            layer_decay=layer_decay,
            decay_bias=decay_bias,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            warmup_start=warmup_start,
            min_lr_scale=min_lr_scale,
            label_smoothing=label_smoothing,
            **kwargs,
        )
