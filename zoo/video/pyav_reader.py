"""Frame-exact decoding with PyAV.

Opening a damaged file often succeeds, and the length in its header may be wrong. The number of frames is therefore
counted from the packets, and an unreadable frame is an error that names the file.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from zoo.errors import DataError
from zoo.video.containers import DEFAULT_LIMITS, Limits, open_container, read_packets, reason, video_stream
from zoo.video.integrity import check_integrity
from zoo.video.pixels import stack_images, to_rgb
from zoo.video.source import Source

NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS, the flag of raw streams
# Decoders that can skip non-reference frames packet by packet, and that return all frames in order when they are
# drained. Others ignore the setting, read it only once (libdav1d), or lose frames (dirac).
SKIPPING = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
# Codecs whose packets may be marked as key frames incorrectly.
FALSE_KEYS = frozenset({"dirac", "gif", "rpza"})
DELAY = 4  # number of frames that other decoders may buffer for reordering, which seeking discards


class VideoReader:
    """An open video, used in a ``with`` block, with frames by number.

    ``len(reader)`` is the number of frames, ``reader.key_frames`` the number of key frames, and ``reader.fps`` the
    average frame rate of the whole video. If the source has a span, only its packets are read, and frame 0 is the first
    frame at or after its start. Times are relative to the first frame of the video.

    Args:
        source: a path, or the location of a segment or of a video in a shard.
        deadline: value of ``time.monotonic()`` after which reading raises an error; None for no limit.
        limits: largest video that is opened.

    Raises:
        DataError: the file is missing, empty, truncated, damaged, too large or not a video; the span is empty; or the
            deadline has passed.
    """

    def __init__(
        self, source: str | Path | Source, deadline: float | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.source = source if isinstance(source, Source) else Source(str(source))
        self._limits = limits
        self._deadline, self._opened = deadline, time.monotonic()
        self._file, self._seekable, self.key_frames = self._open_file(), True, 0
        self._open_container()
        try:
            self._stream: Any = video_stream(self._container, str(self.source), limits)
            self._index_packets()
        except (av.FFmpegError, OSError) as error:
            self.close()
            raise self._damaged(error) from error
        except BaseException:
            self.close()
            raise
        self.fps = float(self._stream.average_rate or self._stream.guessed_rate or 30)
        self._reformatter = VideoReformatter()

    def _open_file(self) -> str | io.BytesIO | io.BufferedReader:
        """Check that the file is not truncated; return its path, or a file object for other sources."""
        if self.source.content is not None:
            content = io.BytesIO(self.source.content)
            check_integrity(content, str(self.source), self._check_time, self._limits.frames)
            return content
        if self.source.byte_span is not None:
            from zoo.video.shard_member import open_member

            has_span = self.source.span is not None
            file = open_member(self.source.path, self.source.byte_span, str(self.source), has_span)
            check_integrity(file, str(self.source), self._check_time, self._limits.frames)
            return file
        path = Path(self.source.path)
        try:
            if not path.exists():
                raise DataError(f"Video {self.source} does not exist{': broken link' if path.is_symlink() else ''}.")
            if not path.is_file():  # opening a pipe would block
                raise DataError(f"{self.source} is not a regular file.")
            with path.open("rb") as opened:
                check_integrity(opened, str(self.source), self._check_time, self._limits.frames)
        except OSError as error:
            raise DataError(f"{self.source} cannot be read: {reason(error)}.") from error
        return str(path)

    def _open_container(self) -> None:
        try:
            self._container: Any = open_container(self._file, str(self.source), self._time_left(), self._limits)
        except DataError as error:
            if isinstance(error.__cause__, av.FFmpegError):
                self._check_time()  # FFmpeg fails with an unspecific error when it is interrupted
            raise

    def _has_palette(self) -> bool:
        return self._stream.codec_context.pix_fmt == "pal8"

    def _rewind(self) -> None:
        """Reopen the container, positioned at its first packet.

        Seeking to the start is not equivalent: raw streams cannot seek, concatenated files are then read only up to the
        end of the first, and FFmpeg returns the palette of a video only once, with the first packet.
        """
        self._container.close()
        if not isinstance(self._file, str):
            self._file.seek(0)
        self._open_container()
        self._stream = video_stream(self._container, str(self.source), self._limits)

    def _seek(self, target: int) -> None:
        """Seek to a key frame at or before a time, or to the first packet if the container cannot seek."""
        if self._seekable:
            try:
                self._container.seek(target, stream=self._stream)
                return
            except av.FFmpegError:
                self._check_time()
                self._seekable = False
        self._rewind()

    def _time_left(self) -> float | None:
        self._check_time()
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            limit = max(0.0, self._deadline - self._opened)
            raise DataError(f"{self.source} took longer than {limit:.3g} s to decode.")

    def _damaged(self, error: Exception) -> DataError:
        try:
            self._check_time()  # at the deadline, FFmpeg fails with an unspecific error
        except DataError as late:
            return late
        return DataError(f"{self.source} is damaged: {reason(error)}.")

    def _packets(self) -> Iterator[Any]:
        for packet in read_packets(self._container, self._stream):
            self._check_time()
            yield packet

    def _decoded(self, times: Collection[int] | None = None) -> Iterator[av.VideoFrame]:
        """Decode from the current position.

        If ``times`` are given, only frames with these times are needed: skip other non-reference frames, and end after
        the last of them. The decoder is then drained instead of decoding the frames that it reorders, and needs a seek.
        """
        codec = self._stream.codec_context
        can_skip = codec.name in SKIPPING
        missing = set(times) if times is not None else set()
        drains = bool(missing) and can_skip
        for packet in self._packets():
            if packet.size and can_skip:
                skip = times is not None and packet.pts not in times
                codec.skip_frame = "NONREF" if skip else "DEFAULT"
            missing.discard(packet.pts)
            is_last = drains and not missing
            for frame in [*packet.decode(), *codec.decode(None)] if is_last else packet.decode():
                self._check_time()
                yield frame
            if is_last:
                return

    def _index_packets(self) -> None:
        """Count the frames, and record their display times if these are reliable (``_times`` is None otherwise)."""
        first, last = self._seek_span() if self.source.span is not None else (-math.inf, math.inf)
        times: list[int] = []
        keys: dict[int, int] = {}  # display time of a key frame -> its decoding time
        reliable, latest, corrupt = True, -math.inf, -1
        for packet in self._packets():
            if not packet.size:
                continue
            pts, dts = packet.pts, packet.dts
            restarts = dts is not None and dts < latest
            if (
                corrupt >= 0 and restarts
            ):  # where MPEG streams are joined, the last packets of a part are marked as well
                corrupt = -1
            if packet.is_corrupt and corrupt < 0:
                corrupt = len(times)
            if 0 <= corrupt < len(times) - 1:
                break
            earliest = pts if dts is None else dts  # lower bound of the display times of this and later packets
            if earliest is not None and earliest >= last:
                break
            reliable = reliable and pts is not None and not restarts
            latest = latest if dts is None else dts
            if pts is not None and packet.is_keyframe:
                keys[pts] = pts if dts is None else min(pts, dts)
            if not packet.is_discard and (pts is None or first <= pts < last):
                times.append(pts)
                self.key_frames += packet.is_keyframe
                if self._limits.frames is not None and len(times) > self._limits.frames:
                    raise DataError(f"{self.source} has more than {self._limits.frames} frames.")
        if corrupt >= 0:
            raise DataError(f"{self.source} is damaged: a packet near frame {corrupt} is corrupt.")
        # AVI has no display times: with B-frames FFmpeg guesses them, and a packet may contain two frames or none, so
        # frames are counted by decoding. Times in MPEG program streams change after seeking; FFmpeg invents those of
        # raw streams.
        name = self._container.format.name
        guessed = name == "mpeg" or (name == "avi" and self._stream.codec_context.has_b_frames)
        guessed = (
            guessed
            or bool(self._container.format.flags & NO_TIMESTAMPS)
            or self._stream.codec_context.name in FALSE_KEYS
        )
        reliable = reliable and len(set(times)) == len(times) and not guessed and not self._has_palette()
        if self.source.span is not None:
            self._check_span(reliable, len(times))
        self._times = np.sort(np.array(times, np.int64)) if reliable else None
        self._keys = np.array(sorted(keys), np.int64)
        self._key_starts = np.array([keys[key] for key in sorted(keys)], np.int64)
        self._drop_undecodable()
        self._length = len(times) if self._times is None else len(self._times)
        if not reliable:
            self._rewind()
            self._length = sum(1 for _ in self._decoded())
        if self._length == 0:
            raise DataError(f"{self.source} has no frames.")

    def _drop_undecodable(self) -> None:
        """Drop frames before the first key frame that cannot be decoded.

        Recordings and copied segments may start in the middle of a group of pictures, or with frames that refer to the
        previous group.
        """
        if self._times is None or self.source.span is not None or not len(self._times) or not len(self._keys):
            return
        if self._times[0] >= self._keys[0]:
            return
        self._rewind()
        decodable: list[int] = []
        for frame in self._decoded():
            if frame.pts is not None and frame.pts >= self._keys[0]:
                break
            if frame.pts is not None:
                decodable.append(frame.pts)
        self._times = self._times[(self._times >= self._keys[0]) | np.isin(self._times, decodable)]

    def _seek_span(self) -> tuple[float, float]:
        """Seek to a key frame before the span; return its start and stop in the time base of the stream."""
        assert self.source.span is not None
        base, unit = self._stream.start_time or 0, float(self._stream.time_base)
        # annotations are rounded: a frame exactly at the start is inside the span, one exactly at the stop is outside
        start, stop = (math.ceil(base + seconds / unit - 1e-3) for seconds in self.source.span)
        # some containers seek by decoding time or imprecisely and may arrive too late: then seek further back
        for target in (start, start - round(1 / unit), start - round(10 / unit)):
            if target <= base:
                break
            self._seek(target)
            packet = next(self._packets(), None)
            if packet is not None and packet.pts is not None and packet.pts <= start:
                self._seek(target)
                return start, stop
        self._rewind()
        return start, stop

    def _check_span(self, reliable: bool, count: int) -> None:
        start, stop = self.source.span or (0.0, 0.0)
        if not reliable:
            raise DataError(
                f"{self.source} has no reliable display times, so a part of it cannot be read; re-encode it as H.264."
            )
        if not count:
            length = (self._container.duration or 0) / av.time_base
            raise DataError(f"{self.source} has no frames from {start:g} s to {stop:g} s; it lasts {length:.2f} s.")

    @property
    def codec(self) -> str:
        """FFmpeg's name for the codec, such as "h264"."""
        codec = self._stream.codec_context.codec
        return str(getattr(codec, "canonical_name", codec.name))  # before PyAV 15: name of the decoder

    def __len__(self) -> int:
        return self._length

    def frames(
        self, indices: Sequence[int] | np.ndarray, transform: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Decode frames by number, see ``zoo.video.decoding.Reader.frames``.

        Raises:
            DataError: a frame cannot be decoded, frames differ in size, or the deadline has passed.
            IndexError: a number is out of range.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"frame numbers {numbers.tolist()} of a video with {len(self)} frames")
        unique, order = np.unique(numbers, return_inverse=True)
        frames = self._stack(unique, transform)
        return frames if np.array_equal(numbers, unique) else frames[torch.from_numpy(order)]

    def _stack(self, numbers: np.ndarray, transform: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        try:
            return stack_images(self._images(numbers), len(numbers), str(self.source), transform)
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(error) from error

    def _images(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
        """Decode frames with increasing numbers, as RGB images ``(H, W, 3)``."""
        frames = self._by_number(numbers) if self._times is None else self._by_time(numbers)
        for number, frame in zip(numbers.tolist(), frames, strict=True):
            if frame.is_corrupt:
                raise DataError(f"{self.source} is damaged: frame {number} of {len(self)} is corrupt.")
            yield to_rgb(frame, self._reformatter)

    def _by_number(self, numbers: np.ndarray) -> Iterator[av.VideoFrame]:
        """Decode the video from its start and count frames."""
        self._rewind()
        frames = enumerate(self._decoded())
        for number in numbers.tolist():
            frame = next((frame for position, frame in frames if position == number), None)
            if frame is None:
                raise DataError(f"{self.source} is damaged: frame {number} of {len(self)} cannot be decoded.")
            yield frame

    def _by_time(self, numbers: np.ndarray) -> Iterator[av.VideoFrame]:
        """Seek to key frames and decode until the display times of the frames."""
        assert self._times is not None
        frames: Iterator[av.VideoFrame] = iter(())
        targets = self._times[numbers]
        keys = np.searchsorted(self._keys, targets, side="right") - 1
        stops = self._stops(numbers, keys)
        for at, (number, target) in enumerate(zip(numbers.tolist(), targets.tolist(), strict=True)):
            is_first = at == 0 or (at in stops and self._seekable)
            frame = None if is_first else _first_from(frames, target)
            for attempt, start in enumerate(self._starts(int(keys[at]))):
                if frame is not None and frame.pts == target:
                    break
                self._seek(start)
                stop = next(stop for stop in stops if stop > at) if self._seekable else None
                frames = self._decoded(None if attempt else set(targets[at:stop].tolist()))
                frame = _first_from(frames, target)
            if frame is None or frame.pts != target:
                raise DataError(f"{self.source} is damaged: frame {number} of {len(self)} cannot be decoded.")
            yield frame

    def _stops(self, numbers: np.ndarray, keys: np.ndarray) -> list[int]:
        """Return the positions in ``numbers`` at which to seek instead of decoding on, and ``len(numbers)``.

        Args:
            keys: index of the last key frame at or before each frame; -1 for none.
        """
        assert self._times is not None
        delay = 1 if self._stream.codec_context.name in SKIPPING else DELAY
        before = self._times[np.minimum(numbers[:-1] + delay, len(self) - 1)]
        seeks = (keys[1:] >= 0) & (self._keys[keys[1:]] > before) if len(self._keys) else np.zeros(len(before), bool)
        return [*(np.flatnonzero(seeks) + 1).tolist(), len(numbers)]

    def _starts(self, key: int) -> list[int]:
        """Times to seek to, in the order of attempts: seeking by decoding time or imprecisely may arrive too late."""
        assert self._times is not None
        starts = [int(self._keys[key]), int(self._key_starts[key])] if key >= 0 else []
        return [*dict.fromkeys([*starts, int(self._times[0]), min(0, int(self._times[0]))])]

    def times(self) -> np.ndarray:
        """Return the times of the frames in seconds, ``(len(reader),)``, relative to the first frame of the video."""
        if self._times is None:
            return np.arange(len(self)) / self.fps
        start = self._stream.start_time if self.source.span is not None else self._times[0]
        return (self._times - (start or 0)) * float(self._stream.time_base)

    def iterate(self, indices: np.ndarray) -> Iterator[Tensor]:
        """Yield frames with increasing numbers, uint8 RGB ``(3, H, W)``.

        Raises:
            DataError: a frame cannot be decoded, or the deadline has passed.
        """
        try:
            for image in self._images(indices):
                yield torch.from_numpy(image).permute(2, 0, 1)
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Release the file and its decoder."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def _first_from(frames: Iterator[av.VideoFrame], start: int) -> av.VideoFrame | None:
    """Return the next frame displayed at ``start`` or later."""
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= start), None)
