"""Frame-exact decoding with PyAV: one decoder per video, opened and closed where it is used.

Opening a damaged file often succeeds and its header may lie about its length, so the length is what the packets
say, and an unreadable frame is an error that names the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError

VIDEO_EXTENSIONS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts")


class VideoReader:
    """An open video: its frames by number.

    ``len(reader)`` is the number of frames, ``reader.fps`` the average frame rate. Use it in a ``with`` block.

    Raises:
        DataError: the file is missing, empty, damaged or has no video stream.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"There is no video {self.path}.")
        if self.path.stat().st_size == 0:
            raise DataError(f"{self.path} is empty (0 bytes).")
        try:
            # HMDB51 has titles that are not UTF-8
            self._container = av.open(str(self.path), metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{self.path} cannot be opened as a video: {_reason(error)}.") from error
        try:
            if not self._container.streams.video:
                raise DataError(f"{self.path} has no video stream.")
            self._stream = self._container.streams.video[0]
            # loader workers are the parallelism; a thread pool for each of them only costs memory
            self._stream.codec_context.thread_count = 1
            self._index_packets()
        except av.FFmpegError as error:
            self._container.close()
            raise DataError(f"{self.path} is damaged: {_reason(error)}.") from error
        except DataError:
            self._container.close()
            raise
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 30)

    def _index_packets(self) -> None:
        packets = [p for p in self._container.demux(self._stream) if p.size and not p.is_discard]
        times = [p.pts for p in packets]
        # AVI has no display times: with B frames those given are in decoding order, and packets may hold two frames
        # or none, so frames can only be counted by decoding them
        ordered = None not in times and all(a < b for a, b in pairwise(times))
        guessed = ordered and self._stream.codec_context.has_b_frames and self._container.format.name == "avi"
        reliable = None not in times and len(set(times)) == len(times) and not guessed
        self._times = np.sort(np.array(times, np.int64)) if reliable else None
        self._keys = np.sort(np.array([p.pts for p in packets if p.is_keyframe and p.pts is not None], np.int64))
        if self._times is not None:
            self._length = len(self._times)
        else:
            self._container.seek(0)
            self._length = sum(1 for _ in self._container.decode(self._stream))
        if self._length == 0:
            raise DataError(f"{self.path} has no frames.")

    def __len__(self) -> int:
        return self._length

    def frames(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Frames by number (repeats allowed) -> uint8 RGB ``(len(indices), 3, H, W)``.

        Raises:
            DataError: a frame cannot be decoded.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"frame numbers {numbers.tolist()} of a video with {len(self)} frames")
        wanted = np.unique(numbers)
        try:
            decoded = self._by_number(wanted) if self._times is None else self._by_time(wanted)
            corrupt = [n for n, frame in decoded.items() if frame.is_corrupt]
            if corrupt:
                raise DataError(f"{self.path} is damaged: frame {corrupt[0]} of {len(self)} is corrupt.")
            pictures = {n: _picture(frame) for n, frame in decoded.items()}
        except (av.FFmpegError, StopIteration) as error:
            raise DataError(f"{self.path} is damaged: {_reason(error)}.") from error
        stacked = np.stack([pictures[n] for n in wanted.tolist()])  # (unique, H, W, 3)
        order = np.searchsorted(wanted, numbers)
        return torch.from_numpy(stacked[order]).permute(0, 3, 1, 2)

    def _by_number(self, wanted: np.ndarray) -> dict[int, av.VideoFrame]:
        left = set(wanted.tolist())
        found = {}
        self._container.seek(0)
        for number, frame in enumerate(self._container.decode(self._stream)):
            if number in left:
                found[number] = frame
                left.discard(number)
            if not left:
                return found
        raise DataError(f"{self.path} is damaged: frame {min(left)} of {len(self)} cannot be decoded.")

    def _by_time(self, wanted: np.ndarray) -> dict[int, av.VideoFrame]:
        assert self._times is not None
        found: dict[int, av.VideoFrame] = {}
        decoded = None
        frame = None
        for number in wanted.tolist():
            time = int(self._times[number])
            key = self._keys[np.searchsorted(self._keys, time, side="right") - 1] if len(self._keys) else None
            # jump only when a key frame lies between here and there; otherwise decoding on is shorter
            if decoded is None or (key is not None and frame is not None and key > frame.pts):
                start = int(key) if key is not None and key <= time else int(self._times[0])
                self._container.seek(start, backward=True, any_frame=False, stream=self._stream)
                decoded = self._container.decode(self._stream)
                frame = None
            while frame is None or frame.pts is None or frame.pts < time:
                frame = next(decoded, None)
                if frame is None:
                    raise DataError(f"{self.path} is damaged: frame {number} of {len(self)} cannot be decoded.")
            if frame.pts != time:
                raise DataError(f"{self.path} is damaged: frame {number} of {len(self)} is missing.")
            found[number] = frame
        return found

    def close(self) -> None:
        """Release the file and its decoder."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _picture(frame: av.VideoFrame) -> np.ndarray:
    picture = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store portrait videos lying down
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).strip().rstrip(".")


def find_videos(folder: Path) -> list[Path]:
    """All videos below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_EXTENSIONS and not p.name.startswith("."))
