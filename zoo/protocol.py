"""The protocol: how clips were cut from videos when weights were trained and tested.

It travels with every network, so that testing uses the published views unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, check_int, check_number
from zoo.text import brief, is_printable, printable

if TYPE_CHECKING:
    from zoo.video.views import ClipTransform

CHOICES = {
    "sampling": ("interval", "segment", "dense", "uniform", "twice", "spread", "duration", "offset", "middle"),
    "average": ("prob", "logit"),
    "augment": ("short_side", "multi_scale", "rand_augment", "resized_crop"),
    "pixels": ("plain", "tadaconv", "tam", "mmaction2", "pytorchvideo"),
}
CROPS = (1, 3, 10)
SPANS = ("interval", "dense", "duration", "offset")  # samplings of a stretch, whose length needs an interval
# Smallest and largest values. They leave a wide margin around published ones and keep a file from asking for
# more memory or time than a machine has.
BOUNDS = {
    "num_frames": (1, 1024),
    "interval": (1, 65536),
    "resize": (1, 8192),
    "crop": (1, 4096),
    "train_crop": (1, 4096),
    "clips": (1, 256),
}
MAX_PIXELS = 2**27  # of a clip: num_frames x side x side, where side is the larger of resize and train_crop
MAX_MEAN = 1000.0  # of mean, in absolute value, and of std
MIN_STD = 1e-4
MAX_CLASSES = 100_000
MAX_HEADS = 64
MAX_LABEL = 1000  # characters of a class name or of a head's name


@dataclass(frozen=True)
class Protocol:
    """Frames, pixels and views of a network.

    num_frames: frames in a clip.
    sampling: which frames, as released: "interval" and "segment" by the TAdaConv authors, "dense" and "uniform" by the
        TAM authors, "twice" and "spread" by MMAction2 (TSM, TSN), "duration" and "middle" by pytorchvideo (Kinetics,
        Something-Something), "offset" by PySlowFast (MViT); see ``zoo/video/sampling.py``.
    interval: frames between samples, of the file for "dense", else at 30 frames a second; None where a clip spans the
        video.
    mean, std: of RGB in [0, 1].
    resize, crop: short side after resizing and side of the square test crop, pixels.
    antialias: whether resizing filters before it shrinks (PIL does, the TAdaConv code does not).
    clips, crops: temporal and spatial views of a test video. 1 crop is the center; 3 lie along the long side; 10 are
        the corners, the center, and the mirror images of these five.
    average: over views, of softmax scores ("prob") or of raw scores ("logit").
    train_crop, augment, flip, flip_pairs: side of the training crop, how it is made, whether it is mirrored, and
        which class indices trade places when it is. "short_side" crops a clip of random size (TAda2D), "multi_scale"
        one of four scales (TAM authors); "rand_augment" crops 8 to 100 % of the area, then applies RandAugment and
        sometimes turns gray (TAdaConvNeXtV2, TAdaFormer); "resized_crop" does the first half of that.
    heads: names and class counts of several classifiers side by side, whose probabilities add up to 1 each; empty for
        the one there usually is.
    pixels: whose arithmetic makes the views of a test video: whether frames are resized as floats ("tadaconv",
        "pytorchvideo") or as bytes, how the long side is rounded, and where crops lie; see
        ``zoo/video/transforms.py``. "plain" is nobody's: bytes, and crops from edge to edge.
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
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise ConfigError(f"{where}: expected a block of protocol fields, got {brief(values)}.")
        known = {f.name for f in fields(cls)}
        later = {f.name: f.default for f in fields(cls) if f.default is not MISSING and f.name != "flip_pairs"}
        values = later | dict(values)  # files of earlier versions do not have them
        for problem, names in (("unknown", set(values) - known), ("missing", known - set(values))):
            if names:
                few = ", ".join(printable(name[:80]) for name in sorted(names)[:8])
                raise ConfigError(f"{where}: {problem} protocol fields {few}.")
        try:
            check_protocol(values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        lists = {
            "mean": tuple(map(float, values["mean"])),
            "std": tuple(map(float, values["std"])),
            "flip_pairs": tuple((a, b) for a, b in values["flip_pairs"]),
            "heads": tuple((name, count) for name, count in values["heads"]),
        }
        return cls(**(values | lists))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the inverse of ``from_dict``."""
        return asdict(self)

    def transform(self, crops: int = 1) -> ClipTransform:
        """The pixel transform of testing, as a callable like those of torchvision, for custom loops.

        Args:
            crops: spatial views: 1, 3 or 10.

        Returns:
            a callable: uint8 frames ``(T, 3, H, W)`` -> float32 ``(3, T, S, S)``, or ``(crops, 3, T, S, S)``.

        Raises:
            ConfigError: another number of crops.
        """
        from zoo.video.views import ClipTransform  # imports torchvision

        if crops not in CROPS:
            raise ConfigError(f"crops is {brief(crops)}; choose from {', '.join(map(str, CROPS))}.")
        return ClipTransform(replace(self, crops=crops))

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


def check_protocol(values: Mapping[str, Any]) -> None:
    """Check the type and range of every field, and the fields that depend on each other.

    Raises:
        ConfigError: naming the field, its value and what it may be.
    """
    for name, allowed in CHOICES.items():
        if not isinstance(values[name], str) or values[name] not in allowed:
            raise ConfigError(f"{name} is {brief(values[name])}; choose from {', '.join(allowed)}.")
    if type(values["crops"]) is not int or values["crops"] not in CROPS:
        raise ConfigError(f"crops is {brief(values['crops'])}; choose from {', '.join(map(str, CROPS))}.")
    for name in ("antialias", "flip"):
        if not isinstance(values[name], bool):
            raise ConfigError(f"{name} is {brief(values[name])}; it must be true or false.")
    for name, (low, high) in BOUNDS.items():
        if name != "interval" or values[name] is not None:
            check_int(name, values[name], low, high)
    if (values["interval"] is None) == (values["sampling"] in SPANS):
        raise ConfigError(f"interval is {values['interval']} with sampling {values['sampling']!r}.")
    if values["crop"] > values["resize"]:
        raise ConfigError(f"a crop of {values['crop']} does not fit into resize {values['resize']}.")
    side = max(values["resize"], values["train_crop"])
    if values["num_frames"] * side**2 > MAX_PIXELS:
        raise ConfigError(
            f"a clip has {values['num_frames']} frames of {side} x {side} pixels; at most {MAX_PIXELS} are allowed."
        )
    for name, least in (("mean", -MAX_MEAN), ("std", MIN_STD)):
        for number, value in enumerate(_check_list(name, values[name])):
            check_number(f"{name}[{number}]", value, least, MAX_MEAN)
    if not len(values["mean"]) == len(values["std"]) > 0:
        raise ConfigError(f"mean has {len(values['mean'])} values and std {len(values['std'])}; give one per channel.")
    _check_flip_pairs(values["flip_pairs"])
    _check_heads(values["heads"])


def _check_list(name: str, value: Any, length: int | None = None) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
        raise ConfigError(f"{name} is {brief(value)}; it must be a list" + (f" of {length}." if length else "."))
    return value


def _check_flip_pairs(pairs: Any) -> None:
    partners: dict[int, int] = {}
    for number, pair in enumerate(_check_list("flip_pairs", pairs)):
        name = f"flip_pairs[{number}]"
        a, b = _check_list(name, pair, 2)
        for index in (a, b):
            check_int(name, index, 0, MAX_CLASSES - 1)
        if a == b or partners.setdefault(a, b) != b or partners.setdefault(b, a) != a:
            raise ConfigError(f"{name} is {brief(pair)}; it must be two classes that are in no other pair.")


def _check_heads(heads: Any) -> None:
    names = []
    for number, head in enumerate(_check_list("heads", heads)):
        name, count = _check_list(f"heads[{number}]", head, 2)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_LABEL or not is_printable(name):
            raise ConfigError(f"the name of heads[{number}] is {brief(name)}; it must be one line of text.")
        check_int(f"the class count of heads[{number}]", count, 1, MAX_CLASSES)
        names.append(name)
    if len(names) > MAX_HEADS or len(set(names)) < len(names):
        raise ConfigError(f"heads has {len(names)} classifiers; give at most {MAX_HEADS}, with different names.")


# Of a network made by zoo.create: nobody has published how it is tested, so the whole video, one view.
DEFAULT_PROTOCOL = Protocol(
    num_frames=8, sampling="segment", interval=None, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225),
    resize=224, crop=224, antialias=True, clips=1, crops=1, average="prob",
    train_crop=224, augment="short_side", flip=True,
)  # fmt: skip
