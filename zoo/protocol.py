"""The protocol: how clips are sampled and preprocessed for training and testing.

It is stored with every network, so that tests use the published views by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from zoo.errors import ConfigError, check_int, check_number
from zoo.text import brief, is_printable, pluralize, printable

if TYPE_CHECKING:
    from zoo.video.views import ClipTransform

CHOICES = {
    "sampling": ("interval", "segment", "dense", "uniform", "twice", "spread", "duration", "offset", "middle"),
    "average": ("prob", "logit"),
    "augment": ("short_side", "multi_scale", "multi_scale_5", "rand_augment", "resized_crop"),
    "pixels": ("plain", "tadaconv", "tam", "mmaction2", "pytorchvideo"),
}
CROPS = (1, 3, 10)
SPANS = (
    "interval",
    "dense",
    "duration",
    "offset",
)  # samplings of a part of the video; its length depends on the interval
# Smallest and largest values: far beyond all published ones, but low enough that a malicious file cannot exhaust memory
# or time.
BOUNDS = {
    "num_frames": (1, 1024),
    "interval": (1, 65536),
    "resize": (1, 8192),
    "crop": (1, 4096),
    "train_crop": (1, 4096),
    "clips": (1, 256),
}
MAX_PIXELS = 2**27  # of a clip: num_frames * side**2, where side is the larger of resize and train_crop
MAX_MEAN = 1000.0  # of mean, in absolute value, and of std
MIN_STD = 1e-4
TEMPERATURES = (0.01, 100.0)
MAX_CLASSES = 100_000
MAX_HEADS = 64
MAX_LABEL = 1000  # characters of a class name or of a head's name


LATER_FIELDS = {"multi_label": False, "temperature": 1.0}  # that earlier versions do not read, with their defaults


@dataclass(frozen=True)
class Protocol:
    """Sampling, preprocessing and views of a network's clips.

    num_frames: frames in a clip.
    sampling: method that picks the frames: "interval" and "segment" of the TAdaConv authors, "dense" and "uniform" of
        the TAM authors, "twice" and "spread" of MMAction2 (TSM, TSN), "duration" and "middle" of pytorchvideo
        0.1.5 (Kinetics, Something-Something), "offset" of PySlowFast (MViT); see ``zoo/video/sampling.py``.
    interval: frames between samples, counted in the file for "dense", otherwise at 30 frames per second; None if a
        clip spans the video.
    mean, std: of RGB in [0, 1].
    resize, crop: short side after resizing and side of the square test crop, pixels.
    antialias: whether resizing applies a low-pass filter (PIL does, the TAdaConv code does not).
    clips, crops: temporal and spatial views of a test video. 1: the center; 3: along the long side; 10: the
        corners, the center, and their mirror images.
    average: scores that are averaged over views: softmax scores ("prob") or raw scores ("logit").
    train_crop: side of the training crop, pixels.
    augment: method of the training crop. "short_side" resizes to a random size, then crops (TAda2D); "multi_scale"
        crops at one of four scales and 13 positions (TAM authors), "multi_scale_5" at five of these positions
        (MMAction2's TSN); "rand_augment" crops 8 to 100 % of the area, then applies RandAugment and sometimes converts
        to gray (TAdaConvNeXtV2, TAdaFormer); "resized_crop" only crops 8 to 100 %.
    flip, flip_pairs: whether training crops are mirrored at random, and the pairs of class indices that are swapped
        when they are.
    heads: names and class counts of parallel classifiers, each with probabilities that sum to 1; empty for a single
        classifier.
    multi_label: whether a video may have several classes or none: scores are sigmoids instead of a softmax.
    temperature: divisor of the logits of each view before the softmax or sigmoid, which `tempozoo calibrate` fits to
        validation videos. Set it to 1 before you train the network further in your own loop.
    pixels: codebase whose arithmetic the views of a test video reproduce: whether frames are resized as floats
        ("tadaconv", "pytorchvideo") or as bytes, how the long side is rounded, and where crops lie; see
        ``zoo/video/transforms.py``. "plain" reproduces none: bytes, and crops from edge to edge.
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
    multi_label: bool = False
    temperature: float = 1.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "protocol") -> Protocol:
        """Create a protocol from the values in YAML or JSON.

        Raises:
            ConfigError: unknown, missing or invalid values; the message begins with ``where``.
        """
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise ConfigError(f"{where}: expected a block of protocol fields, got {brief(values)}.")
        field_names = {f.name for f in fields(cls)}
        optional = {f.name: f.default for f in fields(cls) if f.default is not MISSING and f.name != "flip_pairs"}
        values = optional | dict(values)  # files of earlier versions lack these fields
        for problem, names in (("unknown", set(values) - field_names), ("missing", field_names - set(values))):
            if names:
                listed = ", ".join(printable(name[:80]) for name in sorted(names)[:8])
                raise ConfigError(f"{where}: {problem} protocol fields {listed}.")
        try:
            check_protocol(values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        lists = {
            "mean": tuple(map(float, values["mean"])),
            "std": tuple(map(float, values["std"])),
            "flip_pairs": tuple((a, b) for a, b in values["flip_pairs"]),
            "temperature": float(values["temperature"]),
            "heads": tuple((name, count) for name, count in values["heads"]),
        }
        return cls(**(values | lists))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the inverse of ``from_dict``."""
        values = asdict(self)
        for name, default in LATER_FIELDS.items():
            if values[name] == default:  # earlier versions can read the values
                del values[name]
        return values

    def transform(self, crops: int = 1) -> ClipTransform:
        """Return the test-time transform of the pixels, for custom loops; callable like those of torchvision.

        Args:
            crops: spatial views: 1, 3 or 10.

        Returns:
            Callable: uint8 frames ``(T, 3, H, W)`` -> float32 ``(3, T, S, S)``, or ``(crops, 3, T, S, S)``.

        Raises:
            ConfigError: ``crops`` has another value.
        """
        from zoo.video.views import ClipTransform  # imports torchvision

        if crops not in CROPS:
            raise ConfigError(f"crops is {brief(crops)}; choose from {', '.join(map(str, CROPS))}.")
        return ClipTransform(replace(self, crops=crops))

    def with_frames(self, num_frames: int) -> Protocol:
        """Return the protocol for another number of frames; a clip still covers the same part of the video."""
        interval = self.interval
        if interval is not None:
            interval = max(1, interval * self.num_frames // num_frames)
        return replace(self, num_frames=num_frames, interval=interval)

    def with_size(self, image_size: int) -> Protocol:
        """Return the protocol for another crop size; the ratio of the short side to the test crop stays the same."""
        resize = max(image_size, round(self.resize * image_size / self.crop))
        return replace(self, resize=resize, crop=image_size, train_crop=image_size)

    def with_channels(self, channels: int) -> Protocol:
        """Return the protocol for another number of input channels; mean and std repeat those of RGB."""
        if channels == len(self.mean):
            return self
        cycle = [i % len(self.mean) for i in range(channels)]
        return replace(self, mean=tuple(self.mean[i] for i in cycle), std=tuple(self.std[i] for i in cycle))

    def with_classes(self, order: Sequence[int]) -> Protocol:
        """Return the protocol for a classifier whose output ``i`` is the former output ``order[i]``.

        Flip pairs of other former outputs are dropped: all of them if ``order`` is empty. A new classifier has no
        temperature.
        """
        new_index = {old: i for i, old in enumerate(order)}
        pairs = tuple((new_index[a], new_index[b]) for a, b in self.flip_pairs if a in new_index and b in new_index)
        temperature = self.temperature if len(order) else 1.0
        return replace(self, flip_pairs=pairs, heads=(), temperature=temperature)

    @property
    def score_kind(self) -> str:
        """The scores that are averaged over views: "softmax", "sigmoid" or "raw"."""
        if self.average == "logit":
            return "raw"
        return "sigmoid" if self.multi_label else "softmax"

    @property
    def view_counts(self) -> str:
        """Text with the numbers of clips and crops, such as "10 clips x 1 crop"."""
        return f"{pluralize(self.clips, 'clip')} x {pluralize(self.crops, 'crop')}"

    def __str__(self) -> str:
        step = f", interval {self.interval}" if self.interval else ""
        pixels = "" if self.pixels == "plain" else f" ({self.pixels} pixels)"
        temperature = "" if self.temperature == 1 else f", temperature {self.temperature:.3g}"
        return (
            f"{self.num_frames} frames ({self.sampling}{step}), short side {self.resize}, crop {self.crop}{pixels}, "
            f"{self.view_counts}, {self.score_kind} scores averaged{temperature}"
        )


def check_protocol(values: Mapping[str, Any]) -> None:
    """Check the type and range of every field, and the fields that depend on each other.

    Raises:
        ConfigError: names the field, its value and the valid values.
    """
    for name, allowed in CHOICES.items():
        if not isinstance(values[name], str) or values[name] not in allowed:
            raise ConfigError(f"{name} is {brief(values[name])}; choose from {', '.join(allowed)}.")
    if type(values["crops"]) is not int or values["crops"] not in CROPS:
        raise ConfigError(f"crops is {brief(values['crops'])}; choose from {', '.join(map(str, CROPS))}.")
    values = {**LATER_FIELDS, **values}  # ``to_dict`` leaves out the defaults
    for name in ("antialias", "flip", "multi_label"):
        if not isinstance(values[name], bool):
            raise ConfigError(f"{name} is {brief(values[name])}; it must be true or false.")
    for name, (low, high) in BOUNDS.items():
        if name != "interval" or values[name] is not None:
            check_int(name, values[name], low, high)
    if (values["interval"] is None) == (values["sampling"] in SPANS):
        needs = "needs an" if values["interval"] is None else "has no"
        raise ConfigError(
            f"interval is {values['interval']} with sampling {values['sampling']!r}, which {needs} interval."
        )
    if values["crop"] > values["resize"]:
        raise ConfigError(f"a crop of {values['crop']} does not fit into resize {values['resize']}.")
    side = max(values["resize"], values["train_crop"])
    if values["num_frames"] * side**2 > MAX_PIXELS:
        raise ConfigError(
            f"a clip has {values['num_frames']} frames of {side} x {side} pixels; at most {MAX_PIXELS} are allowed."
        )
    for name, minimum in (("mean", -MAX_MEAN), ("std", MIN_STD)):
        for number, value in enumerate(_check_list(name, values[name])):
            check_number(f"{name}[{number}]", value, minimum, MAX_MEAN)
    if not len(values["mean"]) == len(values["std"]) > 0:
        raise ConfigError(f"mean has {len(values['mean'])} values and std {len(values['std'])}; give one per channel.")
    check_number("temperature", values["temperature"], *TEMPERATURES)
    _check_flip_pairs(values["flip_pairs"])
    _check_heads(values["heads"])
    if values["multi_label"] and values["heads"]:
        raise ConfigError("multi_label is true, but there are several heads, each with one class per video.")


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
            raise ConfigError(f"{name} is {brief(pair)}; it must be two different classes that are in no other pair.")


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


# Protocol of networks of zoo.create, which have no published one: the entire video, one view.
DEFAULT_PROTOCOL = Protocol(
    num_frames=8, sampling="segment", interval=None, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225),
    resize=224, crop=224, antialias=True, clips=1, crops=1, average="prob",
    train_crop=224, augment="short_side", flip=True,
)  # fmt: skip
