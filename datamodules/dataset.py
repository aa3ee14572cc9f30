"""Videos -> clips: what one worker does with one video."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.loading import Draw, derived_seed
from datamodules.records import Source, VideoRecords
from zoo.errors import DataError, ZooError
from zoo.protocol import Protocol
from zoo.video.decoding import open_video
from zoo.video.sampling import sample
from zoo.video.time_limit import within
from zoo.video.transforms import resize_short_side, train_clip, view_crops

LONGEST = 20  # times the short side: a frame longer than that would be gigabytes when resized
REPLACEMENTS = 10  # videos tried in place of an unreadable one before training gives up on its place in the batch


class VideoDataset(Dataset[dict[str, Any]]):
    """Videos -> clips. One decoder a video, one decode for all of its views.

    An item of a training split holds ``repeats`` clips ``(T, 3, S, S)``, uint8 RGB; of the other splits all views of a
    video in one tensor ``(V, T, 3, S, S)``, uint8, or float32 from 0 to 255 where the protocol resizes floats. A video
    that cannot be read is replaced in training, deterministically, by another one that can; in the other splits its
    item has no clip. Either way ``skipped`` names it. It is tried again whenever it is asked for; in training, where an
    endless one would cost a minute in every epoch, at its turns 2, 4, 8, ... in a worker.

    Args:
        flip_pairs: classes that trade places when a clip is mirrored.
        erasing, color_jitter: see ``VideoDataModule``.
        time_limit: seconds that a video may take.
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
    ) -> None:
        self.records, self.protocol, self.split, self.flip = records, protocol, split, flip
        self.mirror = dict(flip_pairs) | {b: a for a, b in flip_pairs}
        self.decoder, self.frame_rate, self.time_limit = decoder, frame_rate, time_limit
        self.repeats, self.erasing, self.color_jitter = repeats, erasing, color_jitter
        # in this process, of videos that could not be read: how many turns they had since, and why
        self._failed: dict[int, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: int | Draw) -> dict[str, Any]:
        if isinstance(draw, tuple):  # the clip's own randomness; the process's is left as it was
            with torch.random.fork_rng(devices=[]):
                return self._item(*draw)
        return self._item(draw)

    def _item(self, number: int, seed: int | None = None) -> dict[str, Any]:
        skipped: list[tuple[str, str]] = []
        for attempt in range(REPLACEMENTS if self.split == "train" else 1):
            # not its neighbor: bad videos come in rows
            at = derived_seed(number, attempt) % len(self) if attempt else number
            source, label = self.records.source(at), torch.as_tensor(self.records.labels[at])
            if seed is not None:  # for each attempt: how far one got before it failed leaves no trace
                torch.manual_seed(derived_seed(seed, attempt))
            turns, reason = self._failed.get(at, (0, ""))
            try:
                # it may be well again, but may take a minute to fail: its turns 1, 2, 4, 8, ... are tried
                if turns & (turns + 1):
                    raise DataError(reason)
                clips, repeated, mirrored = self._clips(source)
            except DataError as error:
                if self.split == "train" and error.reason != "unreachable":
                    self._failed[at] = turns + 1, str(error)
                skipped.append((str(source), str(error)))
                continue
            self._failed.pop(at, None)
            labels = [self._mirrored(label) if m else label for m in mirrored]
            return {"video": clips, "label": labels, "path": str(source), "repeated": repeated, "skipped": skipped}
        return {"video": [], "label": [], "path": str(source), "repeated": False, "skipped": skipped}

    def _mirrored(self, label: Tensor) -> Tensor:
        return torch.tensor(self.mirror.get(int(label), int(label))) if label.ndim == 0 else label

    def _clips(self, source: Source) -> tuple[list[Tensor], bool, list[bool]]:
        """Clips, whether they repeat frames for want of enough, and which of them are mirrored."""
        protocol, train = self.protocol, self.split == "train"
        views = [None] * self.repeats if train else [(k, protocol.clips) for k in range(protocol.clips)]
        deadline = None if self.time_limit is None else time.monotonic() + self.time_limit

        def resized(frames: Tensor) -> Tensor:
            check_shape(frames.shape[-2], frames.shape[-1], str(source))
            return resize_short_side(frames, protocol.resize, protocol.antialias, protocol.pixels)

        def read() -> tuple[bool, np.ndarray, Tensor]:
            try:
                with open_video(source, self.decoder, self.frame_rate, deadline=deadline) as reader:
                    repeated = len(reader) < protocol.num_frames
                    clips = [sample(protocol, len(reader), reader.fps, view) for view in views]
                    wanted, position = np.unique(np.concatenate(clips), return_inverse=True)
                    frames = reader.frames(wanted, None if train else resized)
                    return repeated, position.reshape(len(clips), -1), frames
            except ZooError:
                raise
            except Exception as error:  # a damaged file may raise anything
                raise DataError(f"{source} cannot be read ({type(error).__name__}: {error}).") from error

        repeated, position, frames = within(self.time_limit, str(source), read)  # frames: (unique, 3, H, W)
        if train:
            made = [train_clip(frames[rows], protocol, self.flip, self.erasing, self.color_jitter) for rows in position]
            return [clip for clip, _ in made], repeated, [mirrored for _, mirrored in made]
        crops = view_crops(frames, protocol.crop, protocol.crops, protocol.pixels)
        made_of = [(rows, crop) for rows in position for crop in crops]
        video = torch.empty((len(made_of), position.shape[1], *crops[0].shape[1:]), dtype=frames.dtype)
        for place, (rows, crop) in zip(video, made_of, strict=True):  # torch.stack would hold them all twice
            place.copy_(crop[rows])
        return [video], repeated, [False]


def check_shape(height: int, width: int, name: str) -> None:
    """Refuse frames that are too narrow to be resized and cropped.

    Raises:
        DataError: one side is more than ``LONGEST`` times the other.
    """
    if max(height, width) > LONGEST * min(height, width):
        raise DataError(f"{name} has frames of {width} x {height} pixels, too narrow to be cut into views.")


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items -> batch; those without a clip stay only in ``skipped``. A batch may be empty but for that."""
    # all first clips, then all second ones: MixUp and CutMix take neighbors, which must not be of one video
    turns = range(max((len(item["video"]) for item in items), default=0))
    order = [(item, turn) for turn in turns for item in items if item["video"]]
    clips = [item["video"][turn] for item, turn in order]
    video = torch.stack(clips) if len(clips) > 1 else clips[0][None] if clips else torch.empty(0, dtype=torch.uint8)
    return {
        "video": video,
        "label": torch.stack([item["label"][turn] for item, turn in order]) if clips else torch.empty(0).long(),
        "path": [item["path"] for item, _ in order],
        "repeated": [item["path"] for item in items if item["repeated"]],
        "skipped": [bad for item in items for bad in item["skipped"]],
    }
