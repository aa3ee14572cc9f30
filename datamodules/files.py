"""VideoFiles: unlabeled videos for prediction."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.base import VideoDataModule
from datamodules.records import Source, VideoRecords
from datamodules.tree import OTHER_EXTENSIONS, open_tree
from zoo.errors import DataError
from zoo.video.decoding import open_video
from zoo.video.source import VIDEO_EXTENSIONS

ACCEPTED = (
    "Give videos, animated GIFs, folders of these, or shards; for folders of frames, a list of them: "
    "--data MMActionList --data.kind frames --data.test LIST."
)
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # names in Pillow


class VideoFiles(VideoDataModule):
    """Video files, and all videos below folders or in shards, without duplicates.

    In folders, files without the extension of a video are ignored; a file given by name must be a video. Animated GIFs
    are videos, still images are not.

    Names of videos are their paths; in shards, the paths inside the shards, with the root added if they are not unique.

    Args:
        paths: files, folders, and URLs of shards.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, ...
    """

    def __init__(self, paths: Sequence[str | Path], **options: Any) -> None:
        super().__init__(**options)
        self.inputs: list[tuple[str, VideoRecords]] = []  # root and videos of each path
        for path in map(str, paths):
            if "://" in path or Path(path).is_dir():
                tree = open_tree(path)
                if not tree.names:
                    raise DataError(f"There are no videos below {path}. {ACCEPTED}")
                self.inputs.append((tree.root, tree.records(tree.names)))
            elif Path(path).exists():
                check_video(path)
                self.inputs.append((path, VideoRecords.of([path])))
            else:
                raise DataError(f"{path} does not exist.")
        if not self.inputs:
            raise DataError("No videos given; pass files or folders.")
        if len({records.byte_spans is None for _, records in self.inputs}) > 1:
            raise DataError("Videos in shards and video files cannot be mixed in one command; predict them separately.")

    @property
    def class_names(self) -> None:
        """None: the network's own labels are used."""
        return None

    def split_records(self, split: str) -> VideoRecords:
        """Return all videos for "predict"; other splits need labels."""
        if split != "predict":
            raise DataError("VideoFiles has no labels, so it can only predict; use VideoFolder or VideoList.")
        unique: dict[Any, tuple[str, Source]] = {}
        for root, records in self.inputs:
            for source in map(records.source, range(len(records))):
                real = source.path if "://" in source.path else os.path.realpath(source.path)
                unique.setdefault((real, source.byte_span), (root, source))
        counts = Counter(video.name for _, video in unique.values())
        ids = [video.name if counts[video.name] == 1 else f"{root}/{video.name}" for root, video in unique.values()]
        videos = [video for _, video in unique.values()]
        byte_spans = [video.byte_span for video in videos if video.byte_span is not None]
        return VideoRecords.of([video.path for video in videos], ids=ids, byte_spans=byte_spans or None)


def check_video(path: str) -> None:
    """Check a GIF, or a file without the extension of a video.

    Other files are only checked when they are decoded.

    Raises:
        DataError: it is not a video, or cannot be decoded.
    """
    extension = Path(path).suffix.lower()
    if not Path(path).is_file() or (extension in VIDEO_EXTENSIONS and extension != ".gif"):
        return
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            kind, animated = image.format, getattr(image, "is_animated", False)
    except Image.DecompressionBombError:
        kind, animated = "large image", False
    except OSError:  # not an image
        kind, animated = None, False
    if kind == "WEBP" and animated:
        raise DataError(f"{path} is an animated WebP, which cannot be decoded. Convert it to MP4 or GIF.")
    if kind is not None and not (animated and kind in ("GIF", "PNG")):
        raise DataError(f"{path} is a still image. {ACCEPTED}")
    if kind is None and extension in OTHER_EXTENSIONS:
        raise DataError(f"{path} is not a video. {ACCEPTED}")
    try:
        open_video(path).close()
    except DataError as error:
        raise DataError(f"{error} {ACCEPTED}") from error
