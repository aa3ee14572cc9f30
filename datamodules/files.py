"""VideoFiles: videos without labels, to predict."""

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
    """Video files, and all videos below folders or in shards; each once, however it is named.

    In folders, files without the ending of a video are left out; a file that is given by name must be a video.
    Animated GIFs are videos, still images are not.

    Names are the paths; of videos in shards those in there, with the shards' folder before those that are not unique.

    Args:
        paths: files, folders, and addresses of shards.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, ...
    """

    def __init__(self, paths: Sequence[str | Path], **options: Any) -> None:
        super().__init__(**options)
        self.found: list[tuple[str, VideoRecords]] = []
        for path in map(str, paths):
            if "://" in path or Path(path).is_dir():
                tree = open_tree(path)
                if not tree.names:
                    raise DataError(f"There are no videos below {path}. {ACCEPTED}")
                self.found.append((tree.root, tree.records(tree.names)))
            elif Path(path).exists():
                check_video(path)
                self.found.append((path, VideoRecords.of([path])))
            else:
                raise DataError(f"There is no video or folder {path}.")
        if not self.found:
            raise DataError("no videos were given: name files or folders.")
        if len({records.places is None for _, records in self.found}) > 1:
            raise DataError("videos in shards and in files cannot be predicted in one go; do one, then the other.")

    @property
    def class_names(self) -> None:
        """None: the network's own labels are used."""
        return None

    def split_records(self, split: str) -> VideoRecords:
        """All of the videos; only for prediction, as they have no labels."""
        if split != "predict":
            raise DataError("VideoFiles has no labels, so it can only predict; use VideoFolder or VideoList.")
        found: dict[Any, tuple[str, Source]] = {}
        for root, records in self.found:
            for source in map(records.source, range(len(records))):
                real = source.path if "://" in source.path else os.path.realpath(source.path)
                found.setdefault((real, source.place), (root, source))
        counts = Counter(video.name for _, video in found.values())
        ids = [video.name if counts[video.name] == 1 else f"{root}/{video.name}" for root, video in found.values()]
        videos = [video for _, video in found.values()]
        places = [video.place for video in videos if video.place is not None]
        return VideoRecords.of([video.path for video in videos], ids=ids, places=places or None)


def check_video(path: str) -> None:
    """Check a file that has no ending of a video, or one that still images have as well.

    Files with the ending of a video are only checked when they are decoded.

    Raises:
        DataError: it is not a video, or cannot be decoded.
    """
    ending = Path(path).suffix.lower()
    if not Path(path).is_file() or (ending in VIDEO_EXTENSIONS and ending != ".gif"):
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
    if kind is None and ending in OTHER_EXTENSIONS:
        raise DataError(f"{path} is not a video. {ACCEPTED}")
    try:
        open_video(path).close()
    except DataError as error:
        raise DataError(f"{error} {ACCEPTED}") from error
