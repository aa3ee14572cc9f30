"""The published training recipes, as defaults of VideoClassifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_modules.base import VideoClassifier


class TAda2D(VideoClassifier):
    """TAda2D with the recipe of its Kinetics-400 8x8 run (arXiv 2110.06178, appendix; the released YAML).

    SGD with Nesterov momentum .9, lr .24 for a batch of 128, cosine over 100 epochs with 8 of warm-up from .01 of
    it, weight decay 1e-4 (none on norms), dropout .5.

    16x5: lr .12 for a batch of 64, which is the same for each clip. Something-Something V2: lr .48, 64 epochs, 4 of
    warm-up from 1e-4 (``warmup_start`` 1e-4 / .48); ``flip_pairs`` as in ``configs/tadaformer_b16_ssv2.yaml``.
    """

    def __init__(
        self,
        name: str = "tada2d_r50.k400_8x8",
        *,
        lr: float = 0.24,
        lr_batch_size: int | None = 128,
        nesterov: bool = True,
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
    setting (``--trainer.gradient_clip_val 20``), which ``configs/tanet_r50_k400.yaml`` sets.

    Something-Something: 50 epochs, ``milestones`` .6, .8 and .9, weight decay 1e-3 (V2: 5e-4, lr .02), dropout .5 to
    .6; ``flip_pairs`` as in ``configs/tadaformer_b16_ssv2.yaml``.
    """

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
    decay .02 (none on norms, biases, layer scales), dropout .5, drop path .2; routing functions and classifier x5,
    their biases x10. Clips are made with "rand_augment", which is part of the published networks' protocol.

    The small and base networks: drop path .4 and .6, lr 2.5e-4 for a batch of 256, the same for each clip.
    Something-Something V2: from the Kinetics weights, drop path .3, .5, .6, 64 epochs, 2.5 of them warm-up; with the
    ``flip_pairs`` of ``configs/tadaformer_b16_ssv2.yaml``.
    """

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
    then a cosine to 1e-6; weight decay .05 (none on norms, biases, embeddings), dropout .5, label smoothing .1. TAda
    blocks and classifier x10; on the rest, the rate falls by .7 from block to block towards the stem. Clips are made
    with "rand_augment", which is part of the published networks' protocol.

    L/14: lr 2e-5, layer decay .85, 24 epochs (``warmup_start`` and ``min_lr_scale`` .05: of lr, 1e-6). On
    Something-Something V2, 24 epochs, 4 of warm-up from 1e-8, cosine to 1e-6: B/16 with lr 5e-4 (``warmup_start``
    2e-5, ``min_lr_scale`` 2e-3); L/14 with lr 2.5e-4 for a batch of 128 and drop path .2 (4e-5, 4e-3). There, classes
    that name left and right trade places when a clip is mirrored: ``configs/tadaformer_b16_ssv2.yaml`` lists them.
    """

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
