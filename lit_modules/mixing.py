"""MixUp and CutMix of whole clips, on the device of the batch."""

from __future__ import annotations

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from zoo.errors import ConfigError


class Mixing:
    """Mixes the clips of a batch in pairs, all frames alike; torchvision's MixUp and CutMix.

    Args:
        mixup, cutmix: alpha of the Beta distribution of shares; 0 leaves it out. With both, a batch takes either.
        num_classes: of the labels.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if alpha < 0:
                raise ConfigError(f"{name} is {alpha}; it must be at least 0.")
        made = [kind(alpha=a, num_classes=num_classes) for kind, a in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if a]
        self.mix = v2.RandomChoice(made) if made else None

    def __call__(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Clips ``(B, C, T, H, W)`` and labels ``(B,)`` -> clips and shares of classes ``(B, classes)``.

        Without mixing, both as they are.
        """
        if self.mix is None:
            return clips, labels
        mixed, shares = self.mix(tv_tensors.Video(clips), labels)
        return mixed.as_subclass(Tensor), shares
