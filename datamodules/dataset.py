"""Dataset of clips: decoding, sampling, cropping and augmentation of one video in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.loading import Draw, derived_seed
from datamodules.records import Source, VideoRecords
from zoo.errors import DataError
from zoo.inference.inputs import read_video_views
from zoo.protocol import Protocol
from zoo.video.decoding import Reader, open_video, read_with
from zoo.video.sampling import sample
from zoo.video.transforms import train_clip

MAX_ATTEMPTS = 10  # videos tried for one item of a training batch: the video itself and its replacements


class VideoDataset(Dataset[dict[str, Any]]):
    """Dataset of clips, which decodes each video once for all of its views.

    A training item has ``repeats`` clips ``(T, 3, S, S)``, RGB. An item of the other splits has all views of a video in
    one tensor ``(V, T, 3, S, S)``. Both are uint8, or float32 from 0 to 255 if the protocol resizes floats.

    An unreadable video is listed in the item's ``skipped``. In training it is replaced, deterministically, by another
    video; in the other splits the item has no clip. A later access tries to read it again. Training, where a video
    that reaches the time limit would cost a minute in every epoch, does so only at accesses 2, 4, 8, ... of a worker.

    Args:
        flip_pairs: pairs of class indices that are exchanged when a clip is mirrored.
        erasing, color_jitter: see ``VideoDataModule``.
        time_limit: seconds per video; None for no limit.
        multi_label: whether labels have a 0 or 1 for each class.

    Attributes:
        records: the videos.
        protocol: frames, pixels and views of the clips.
        flip: whether training clips are mirrored at random.
        mirror: class index -> class index of the mirrored clip, for the classes that change.
    """

    def __init__(
        self,
        records: VideoRecords,
        protocol: Protocol,
        split: str,
        *,
        flip: bool,
        flip_pairs: Sequence[tuple[int, int]] = (),
        decoder: str = "pyav",
        frame_rate: float = 30.0,
        time_limit: float | None = 60.0,
        repeats: int = 1,
        erasing: float = 0.0,
        color_jitter: float = 0.0,
        multi_label: bool = False,
    ) -> None:
        self.records, self.protocol, self.split, self.flip = records, protocol, split, flip
        self.mirror = dict(flip_pairs) | {b: a for a, b in flip_pairs}
        self.decoder, self.frame_rate, self.time_limit = decoder, frame_rate, time_limit
        self.repeats, self.erasing, self.color_jitter = repeats, erasing, color_jitter
        self.multi_label = multi_label
        # unreadable video -> number of accesses by this process, and the reason
        self._failed: dict[int, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: int | Draw) -> dict[str, Any]:
        if isinstance(draw, tuple):  # does not change the random state of the process
            with torch.random.fork_rng(devices=[]):
                return self._item(*draw)
        return self._item(draw)

    def _item(self, number: int, seed: int | None = None) -> dict[str, Any]:
        skipped: list[tuple[str, str]] = []
        for attempt in range(MAX_ATTEMPTS if self.split == "train" else 1):
            # replaced by a random video, as neighbors of an unreadable video are often unreadable too
            index = derived_seed(number, attempt) % len(self) if attempt else number
            source, label = self.records.source(index), torch.as_tensor(self.records.labels[index]).long()
            if seed is not None:  # anew, so that a failed attempt does not change the next one
                torch.manual_seed(derived_seed(seed, attempt))
            accesses, reason = self._failed.get(index, (0, ""))
            try:
                if accesses & (accesses + 1):  # only accesses 1, 2, 4, 8, ... read it
                    raise DataError(reason)
                clips, repeated, labels = self._clips(source, label)
            except DataError as error:
                if self.split == "train" and error.reason != "unreachable":
                    self._failed[index] = accesses + 1, str(error)
                skipped.append((str(source), str(error)))
                continue
            self._failed.pop(index, None)
            return {"video": clips, "label": labels, "path": str(source), "repeated": repeated, "skipped": skipped}
        return {"video": [], "label": [], "path": str(source), "repeated": False, "skipped": skipped}

    def _mirrored(self, label: Tensor) -> Tensor:
        if self.multi_label:
            return label[[self.mirror.get(number, number) for number in range(len(label))]]
        return torch.tensor(self.mirror.get(int(label), int(label))) if label.ndim == 0 else label

    def _clips(self, source: Source, label: Tensor) -> tuple[list[Tensor], bool, list[Tensor]]:
        """Return clips, whether they repeat frames of a short video, and the label of each clip."""
        if self.split == "train":
            clips, repeated, mirrored = self._train_clips(source)
            return clips, repeated, [self._mirrored(label) if m else label for m in mirrored]
        views = read_video_views(
            source, self.protocol, decoder=self.decoder, fps=self.frame_rate, time_limit=self.time_limit
        )
        return [views.frames], views.repeated, [label]

    def _train_clips(self, source: Source) -> tuple[list[Tensor], bool, list[bool]]:
        """Return clips, whether they repeat frames of a short video, and which of them are mirrored."""
        protocol = self.protocol

        def read(reader: Reader) -> tuple[bool, np.ndarray, Tensor]:
            clips = [sample(protocol, len(reader), reader.fps) for _ in range(self.repeats)]
            numbers, rows = np.unique(np.concatenate(clips), return_inverse=True)
            return len(reader) < protocol.num_frames, rows.reshape(len(clips), -1), reader.frames(numbers)

        # clip_rows (clips, T) are indices into frames (n, 3, H, W), which has every frame once
        repeated, clip_rows, frames = read_with(
            lambda deadline: open_video(source, self.decoder, self.frame_rate, deadline),
            read,
            str(source),
            self.time_limit,
        )
        results = [train_clip(frames[rows], protocol, self.flip, self.erasing, self.color_jitter) for rows in clip_rows]
        return [clip for clip, _ in results], repeated, [mirrored for _, mirrored in results]


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Combine items into a batch. Items without clips contribute to ``skipped`` only, so a batch may have no clips."""
    # first clips of all videos, then second clips: MixUp and CutMix mix neighbors, which must be different videos
    numbers = range(max((len(item["video"]) for item in items), default=0))
    order = [(item, number) for number in numbers for item in items if item["video"]]
    clips = [item["video"][number] for item, number in order]
    if len(clips) > 1:
        video = torch.stack(clips)
    elif clips:
        video = clips[0][None]  # without a copy: the views of a long test video are large
    else:
        video = torch.empty(0, dtype=torch.uint8)
    return {
        "video": video,
        "label": torch.stack([item["label"][number] for item, number in order]) if clips else torch.empty(0).long(),
        "path": [item["path"] for item, _ in order],
        "repeated": [item["path"] for item in items if item["repeated"]],
        "skipped": [video_and_reason for item in items for video_and_reason in item["skipped"]],
    }
