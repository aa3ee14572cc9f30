"""VideoFiles: videos without labels, to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.base import VideoDataModule, VideoRecords
from datamodules.decoding import find_videos
from zoo.errors import DataError


class VideoFiles(VideoDataModule):
    """Video files, and all videos below folders.

    Args:
        paths: files and folders.
        options: of VideoDataModule: batch_size, num_workers, clips, crops, ...
    """

    def __init__(self, paths: Sequence[str | Path], **options: Any) -> None:
        super().__init__(**options)
        self.videos: list[Path] = []
        for path in map(Path, paths):
            if not path.exists():
                raise DataError(f"There is no video or folder {path}.")
            found = find_videos(path) if path.is_dir() else [path]
            if not found:
                raise DataError(f"There are no videos below {path}.")
            self.videos += found
        if not self.videos:
            raise DataError("no videos were given: name files or folders.")

    @property
    def class_names(self) -> None:
        """None: the network's own labels are used."""
        return None

    def split_records(self, split: str) -> VideoRecords:
        """All of the videos; only for prediction, as they have no labels."""
        if split != "predict":
            raise DataError("VideoFiles has no labels, so it can only predict; use VideoFolder or VideoList.")
        return VideoRecords.of(self.videos)
