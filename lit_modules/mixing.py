"""MixUp and CutMix of video clips, on the device of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from zoo.errors import ConfigError


class Mixing:
    """Mixes the clips of a batch in pairs, all frames alike, with torchvision's MixUp and CutMix.

    Args:
        mixup: alpha of MixUp's Beta distribution; 0 turns it off.
        cutmix: alpha of CutMix's Beta distribution; 0 turns it off. With both, each batch uses one of them at random.
        head_sizes: class counts of the classifiers.

    Raises:
        ConfigError: a negative alpha, or mixing with several classifiers.
    """

    def __init__(self, mixup: float, cutmix: float, head_sizes: Sequence[int]) -> None:
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if alpha < 0:
                raise ConfigError(f"{name} is {alpha}; it must be at least 0.")
        if len(head_sizes) > 1 and (mixup or cutmix):
            raise ConfigError("mixup and cutmix need one label for each clip, not several heads; set them to 0.")
        transforms = [
            transform(alpha=alpha, num_classes=sum(head_sizes))
            for transform, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            if alpha
        ]
        self.mix = v2.RandomChoice(transforms) if transforms else None

    def __call__(self, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix clips ``(B, C, T, H, W)`` with labels ``(B,)``, or float ``(B, classes)`` of videos with several labels.

        Returns:
            Mixed clips and class probabilities, or mixed labels, ``(B, classes)``; the arguments if mixing is off.
        """
        if self.mix is None:
            return clips, labels
        mixed, probabilities = self.mix(tv_tensors.Video(clips), labels)
        return mixed.as_subclass(Tensor), probabilities
