"""The protocol: how clips were cut from videos when weights were trained and tested.

It travels with every network, so that testing uses the published views unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from zoo.errors import IndexFileError

CHOICES = {
    "sampling": ("interval", "segment", "dense", "uniform", "twice", "spread", "duration", "offset", "middle"),
    "average": ("prob", "logit"),
    "augment": ("short_side", "multi_scale", "rand_augment", "resized_crop"),
    "pixels": ("plain", "tadaconv", "tam", "mmaction2", "pytorchvideo"),
}
CROPS = (1, 3, 10)
SPANS = ("interval", "dense", "duration", "offset")  # samplings of a stretch, whose length needs an interval


@dataclass(frozen=True)
class Protocol:
    """Frames, pixels and views of a network.

    num_frames: frames in a clip.
    sampling: which frames, as released: "interval" and "segment" by the TAdaConv authors, "dense" and "uniform" by the
        TAM authors, "twice" and "spread" by MMAction2 (TSM, TSN), "duration" and "middle" by pytorchvideo (Kinetics,
        Something-Something), "offset" by PySlowFast (MViT); see ``datamodules/sampling.py``.
    interval: frames between samples, of the file for "dense", else at 30 frames a second; None where a clip spans the
        video.
    mean, std: of RGB in [0, 1].
    resize, crop: short side after resizing and side of the square test crop, pixels.
    antialias: whether resizing filters before it shrinks (PIL does, the TAdaConv code does not).
    clips, crops: temporal and spatial views of a test video. 1 crop is the centre; 3 lie along the long side; 10 are
        the corners, the centre, and the mirror images of these five.
    average: over views, of softmax scores ("prob") or of raw scores ("logit").
    train_crop, augment, flip, flip_pairs: side of the training crop, how it is made, whether it is mirrored, and
        which class indices trade places when it is. "short_side" crops a clip of random size (TAda2D), "multi_scale"
        one of four scales (TAM authors); "rand_augment" crops 8 to 100 % of the area, then applies RandAugment and
        sometimes turns grey (TAdaConvNeXtV2, TAdaFormer); "resized_crop" does the first half of that.
    heads: names and class counts of several classifiers side by side, whose probabilities add up to 1 each; empty for
        the one there usually is.
    pixels: whose arithmetic makes the views of a test video: whether frames are resized as floats ("tadaconv",
        "pytorchvideo") or as bytes, how the long side is rounded, and where crops lie; see
        ``datamodules/transforms.py``. "plain" is nobody's: bytes, and crops from edge to edge.
    """

    num_frames: int
    sampling: str
    interval: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    crop: int
    antialias: bool
    clips: int
    crops: int
    average: str
    train_crop: int
    augment: str
    flip: bool
    flip_pairs: tuple[tuple[int, int], ...] = ()
    heads: tuple[tuple[str, int], ...] = ()
    pixels: str = "plain"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "protocol") -> Protocol:
        """Build from YAML or JSON; unknown, missing or impossible values are errors that name ``where``."""
        known = {f.name for f in fields(cls)}
        later = {f.name: f.default for f in fields(cls) if f.default is not MISSING and f.name != "flip_pairs"}
        values = later | dict(values)  # files of earlier versions do not have them
        for problem, names in (("unknown", set(values) - known), ("missing", known - set(values))):
            if names:
                raise IndexFileError(f"{where}: {problem} protocol fields {', '.join(sorted(names))}.")
        for name, allowed in CHOICES.items():
            if values[name] not in allowed:
                raise IndexFileError(f"{where}: {name} is {values[name]!r}; choose from {', '.join(allowed)}.")
        if values["crops"] not in CROPS:
            raise IndexFileError(f"{where}: crops is {values['crops']!r}; choose from {', '.join(map(str, CROPS))}.")
        for name in ("num_frames", "resize", "crop", "clips", "crops", "train_crop"):
            if not isinstance(values[name], int) or values[name] < 1:
                raise IndexFileError(f"{where}: {name} is {values[name]!r}; it must be a whole number of at least 1.")
        if (values["interval"] is None) == (values["sampling"] in SPANS):
            raise IndexFileError(f"{where}: interval is {values['interval']} with sampling {values['sampling']!r}.")
        for name in ("mean", "std", "flip_pairs"):
            if not isinstance(values[name], Sequence):
                raise IndexFileError(f"{where}: {name} is {values[name]!r}; it must be a list.")
        if values["crop"] > values["resize"]:
            raise IndexFileError(f"{where}: a crop of {values['crop']} does not fit into resize {values['resize']}.")
        made = dict(values)
        try:
            made["mean"], made["std"] = tuple(map(float, values["mean"])), tuple(map(float, values["std"]))
            made["flip_pairs"] = tuple((int(a), int(b)) for a, b in values["flip_pairs"])
            made["heads"] = tuple((str(name), int(count)) for name, count in values["heads"])
        except (TypeError, ValueError) as error:
            raise IndexFileError(
                f"{where}: mean, std, flip_pairs or heads are not what they should be: {error}."
            ) from error
        return cls(**made)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of ``from_dict``."""
        return asdict(self)

    def with_frames(self, num_frames: int) -> Protocol:
        """The same stretch of video cut into another number of frames."""
        interval = self.interval
        if interval is not None:
            interval = max(1, interval * self.num_frames // num_frames)
        return replace(self, num_frames=num_frames, interval=interval)

    def with_size(self, image_size: int) -> Protocol:
        """Train and test at another size; the short side keeps its ratio to the test crop."""
        resize = max(image_size, round(self.resize * image_size / self.crop))
        return replace(self, resize=resize, crop=image_size, train_crop=image_size)

    def with_channels(self, channels: int) -> Protocol:
        """Mean and std for another number of input channels, cycling through those of RGB."""
        if channels == len(self.mean):
            return self
        cycle = [i % len(self.mean) for i in range(channels)]
        return replace(self, mean=tuple(self.mean[i] for i in cycle), std=tuple(self.std[i] for i in cycle))

    def with_classes(self, order: Sequence[int]) -> Protocol:
        """For a classifier whose output i is the old output ``order[i]``; none of the old ones: no pairs are left."""
        new = {old: i for i, old in enumerate(order)}
        pairs = tuple((new[a], new[b]) for a, b in self.flip_pairs if a in new and b in new)
        return replace(self, flip_pairs=pairs, heads=())

    def __str__(self) -> str:
        step = f", interval {self.interval}" if self.interval else ""
        pixels = "" if self.pixels == "plain" else f" ({self.pixels} pixels)"
        return (
            f"{self.num_frames} frames ({self.sampling}{step}), short side {self.resize}, crop {self.crop}{pixels}, "
            f"{self.clips} clips x {self.crops} crops, {'softmax' if self.average == 'prob' else 'raw'} scores averaged"
        )


# Of a network made by zoo.create: nobody has published how it is tested, so the whole video, one view.
DEFAULT_PROTOCOL = Protocol(
    num_frames=8, sampling="segment", interval=None, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225),
    resize=224, crop=224, antialias=True, clips=1, crops=1, average="prob",
    train_crop=224, augment="short_side", flip=True,
)  # fmt: skip
