"""MoSI: clips of pseudo motions, generated from images or single frames of videos, whose motion is the label.

Source: "Self-supervised Motion Learning from Static Images", CVPR 2021, arXiv 2104.00240. Values that the paper leaves
open are those of the configuration files in github.com/alibaba-mmai-research/TAdaConv.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.base import VideoDataModule
from datamodules.dataset import VideoDataset
from datamodules.records import PackedStrings, Source, VideoRecords
from datamodules.shards import ShardTree
from datamodules.splits import split_stratified
from datamodules.tree import split_of, walk
from zoo.errors import DataError, check_rate, check_seed
from zoo.protocol import Protocol
from zoo.video.decoding import open_video, read_with
from zoo.video.source import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from zoo.video.time_limit import within

MAX_SPEED = 2
FRAMES = 16  # published length of a clip, in which the fastest crop crosses the image
# Speeds of the crop on x and y, in the order of the published classifiers: motions along x, motions along y, no motion.
MOTIONS = ((-2, 0), (-1, 0), (1, 0), (2, 0), (0, -2), (0, -1), (0, 1), (0, 2), (0, 0))
MOTION_NAMES = ("x-2", "x-1", "x+1", "x+2", "y-2", "y-1", "y+1", "y+2", "still")
IMAGE_SCALE = 320 / 112  # published sides of the image and of the crop
MASK_SIZES = (0.3, 0.5)  # side of the moving box, as a fraction of that of the crop
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")  # names in Pillow


class MoSI(VideoDataModule):
    """Clips of pseudo motions from all images and videos below a folder, for pretraining without labels.

    A crop moves over a square image. The class is its motion: one of two speeds in one of four directions, or none
    (``MOTION_NAMES``; "x+2" is a crop that crosses the image to the right in 16 frames, "x+1" one of half its speed).
    Only a random box of the clip moves, the rest is a still frame ("static mask"). Of a video, one frame is used: a
    random one for training, the middle one for validation.

    With folders ``train`` and ``val`` below ``root``, their files are the training and validation images. Otherwise,
    ``val_fraction`` of the files is used for validation. The subfolders have no meaning. A validation image is scored
    once with each motion, so chance is exactly one in nine.

    Args:
        root: folder of images and videos, or shards of videos.
        val_fraction: fraction of the files used for validation if ``root`` has no ``train`` and ``val`` folders.
        split_seed: random seed of this split.
        batch_size: clips per batch and device.
        repeats: motions of a training image in a batch; 9 are all of them, as published.
        flip: mirror training images at random, before they move. The labels do not change.
        color_jitter: see ``VideoDataModule``.
        num_workers, decoder, time_limit, exclude, max_bad_fraction: see ``VideoDataModule``.
    """

    generates_clips = True

    def __init__(
        self,
        root: str | Path,
        *,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 36,
        repeats: int = len(MOTIONS),
        flip: bool = True,
        color_jitter: float = 0.5,
        num_workers: int | None = None,
        decoder: str = "pyav",
        time_limit: float | None = 60.0,
        exclude: str | Path | None = None,
        max_bad_fraction: float = 0.1,
    ) -> None:
        # Equal images in two classes are no error: labels are not part of the data.
        super().__init__(
            batch_size=batch_size, repeats=repeats, flip=flip, color_jitter=color_jitter, num_workers=num_workers,
            decoder=decoder, time_limit=time_limit, exclude=exclude, max_bad_fraction=max_bad_fraction,
            allow_overlap=True,
        )  # fmt: skip
        check_rate("val_fraction", val_fraction)
        check_seed("split_seed", split_seed)
        self.root, self.val_fraction, self.split_seed = str(root), val_fraction, split_seed

    @property
    def class_names(self) -> list[str]:
        """Names of the motions."""
        return list(MOTION_NAMES)

    @functools.cached_property
    def _files(self) -> dict[str, list[str]]:
        """Split -> relative paths of its images and videos, sorted."""
        if isinstance(self.tree, ShardTree):
            names = list(self.tree.names)
        else:
            extensions = IMAGE_EXTENSIONS + VIDEO_EXTENSIONS
            files = (below + file for below, names in walk(self.tree.root) for file in names)
            names = sorted(name for name in files if name.lower().endswith(extensions))
        by_split: dict[str, list[str]] = {}
        for name in names:
            split = split_of(name.split("/")[0]) if "/" in name else None
            by_split.setdefault(split or "", []).append(name)
        train = by_split.get("train", names)
        if "train" in by_split and "val" in by_split:
            return {"train": train, "val": by_split["val"]}
        if len(train) < 2:
            raise DataError(
                f"{self.root} has {len(train)} images or videos; at least 2 are needed, for training and validation."
            )
        fractions, one_class = {"train": 1.0, "val": self.val_fraction}, np.zeros(len(train), dtype=np.int64)
        parts = split_stratified(train, one_class, fractions, self.split_seed, [self.tree.root], self.tree.root)
        return {split: [train[number] for number in numbers] for split, numbers in parts.items()}

    def split_records(self, split: str) -> VideoRecords:
        """Return the training images once each, and the validation images once for each motion.

        Raises:
            DataError: ``split`` is "predict".
        """
        if split == "predict":
            raise DataError("MoSI generates its clips, so it cannot predict; give videos: tempozoo predict VIDEOS.")
        names = self._files["train" if split == "train" else "val"]
        count = len(MOTIONS)
        if split == "train":  # the dataset replaces these labels; those of its evaluation remain
            return self.tree.records(names, np.arange(len(names)) % count)
        records = self.tree.records(names).take(np.repeat(np.arange(len(names)), count))
        ids = [f"{name} {MOTION_NAMES[number % count]}" for number, name in enumerate(records.ids)]
        return replace(records, labels=np.arange(len(ids)) % count, ids=PackedStrings(ids))

    def make_dataset(self, records: VideoRecords, protocol: Protocol, split: str, **options: Any) -> VideoDataset:
        """Create a dataset of pseudo motions."""
        return PseudoMotions(records, protocol, split, **options)


class PseudoMotions(VideoDataset):
    """Dataset of pseudo motions, with the interface and the handling of unreadable files of ``VideoDataset``."""

    def _clips(self, source: Source, label: Tensor) -> tuple[list[Tensor], bool, list[Tensor]]:
        protocol, train = self.protocol, self.split == "train"
        if train:
            seed = int(torch.randint(2**62, ()))
        else:  # the same clip in every epoch and on every machine
            seed = zlib.crc32(PurePosixPath(str(source)).name.encode("utf-8", "surrogateescape"))
        generator = Generator().manual_seed(seed)
        size = protocol.train_crop if train else protocol.crop
        image = self._image(source, round(size * IMAGE_SCALE), generator)
        labels = torch.randperm(len(MOTIONS)).repeat(-(-self.repeats // len(MOTIONS)))[: self.repeats]
        clips = []
        for motion in labels.tolist() if train else [int(label)]:
            canvas = v2.ColorJitter(*3 * [self.color_jitter])(image) if train and self.color_jitter else image
            if train and self.flip and float(torch.rand(())) < 0.5:
                canvas = canvas.flip(-1)
            moving = move_crop(canvas, MOTIONS[motion], protocol.num_frames, size, generator if train else None)
            clips.append(mask_static(moving, generator))
        return (clips, False, list(labels)) if train else ([clips[0][None]], False, [label])

    def _image(self, source: Source, side: int, generator: Generator) -> Tensor:
        """Read an image or a frame of a video, and return a square of it, uint8 ``(3, side, side)``."""
        train = self.split == "train"
        if source.byte_span is None and source.path.lower().endswith(IMAGE_EXTENSIONS):
            image = within(self.time_limit, str(source), lambda: read_image(source.path, side))
        else:
            image = read_with(
                lambda deadline: open_video(source, self.decoder, self.frame_rate, deadline),
                lambda reader: reader.frames([_integer(len(reader) - 1, generator if train else None)])[0],
                str(source),
                self.time_limit,
            )
        height, width = image.shape[-2:]
        short = min(height, width)
        top, left = (_integer(length - short, generator if train else None) for length in (height, width))
        square = image[:, top : top + short, left : left + short]
        return F.resize(square, [side, side], antialias=self.protocol.antialias)


def read_image(path: str, side: int) -> Tensor:
    """Read an image: uint8 RGB ``(3, H, W)``. JPEG files may be reduced while decoding, to no less than ``side``.

    Raises:
        DataError: the file is not a valid image.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            image.draft("RGB", (side, side))
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: broken PNGs
        raise DataError(f"{path} cannot be read as an image: {str(error).rstrip('.')}.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def crop_positions(speed: int, space: int, num_frames: int, generator: Generator | None) -> Tensor:
    """Return the positions of a moving crop along one axis, int64 ``(num_frames,)``, from 0 to ``space``.

    Args:
        speed: from -2 to 2; at 2, the crop crosses the space in ``FRAMES`` frames, or in all frames if there are more.
        space: length of the image minus that of the crop.
        generator: draws the position of the path; None centers it.
    """
    distance = round(space * speed / MAX_SPEED * min(1, (num_frames - 1) / (FRAMES - 1)))
    start = max(0, -distance) + _integer(space - abs(distance), generator)
    return torch.linspace(start, start + distance, num_frames).round().long()


def move_crop(
    image: Tensor, motion: tuple[int, int], num_frames: int, size: int, generator: Generator | None
) -> Tensor:
    """Return the frames ``(num_frames, 3, size, size)`` of a crop that moves over an image ``(3, H, W)``.

    Args:
        motion: speeds on x and y, see ``crop_positions``.
        generator: draws the position of the path; None centers it.
    """
    height, width = image.shape[-2:]
    x = crop_positions(motion[0], width - size, num_frames, generator)
    y = crop_positions(motion[1], height - size, num_frames, generator)
    crops = image.unfold(1, size, 1).unfold(2, size, 1)  # a view: (3, rows, columns, size, size)
    return crops[:, y, x].transpose(0, 1).contiguous()


def mask_static(clip: Tensor, generator: Generator) -> Tensor:
    """Replace all but a random box of a clip ``(T, 3, S, S)`` by the pixels of one of its frames."""
    frames, size = len(clip), clip.shape[-1]
    low, high = MASK_SIZES
    side = int(size * (low + (high - low) * float(torch.rand((), generator=generator))))
    frame, top, left = (_integer(last, generator) for last in (frames - 1, size - side, size - side))
    box = (..., slice(top, top + side), slice(left, left + side))
    masked = clip[frame].expand_as(clip).clone()
    masked[box] = clip[box]
    return masked


def _integer(last: int, generator: Generator | None) -> int:
    """Return a random integer from 0 to ``last``, or the middle without a generator."""
    return last // 2 if generator is None else int(torch.randint(last + 1, (), generator=generator))
