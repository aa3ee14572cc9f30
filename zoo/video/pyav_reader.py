"""Frame-exact decoding with PyAV.

Opening a damaged file often succeeds, and its header may claim a wrong length. The number of frames is therefore
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
from zoo.video.containers import open_container, read_packets, reason, video_stream
from zoo.video.integrity import check_integrity
from zoo.video.pixels import stack_images, to_rgb
from zoo.video.source import Source

NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS, the flag of raw streams
# Decoders that can skip frames that no other frame refers to, packet by packet. Others ignore the setting, keep that of
# the first packet (libdav1d), or lose frames (dirac).
SKIPPING = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
# Formats whose packets may be marked as key frames although they are not.
FALSE_KEYS = frozenset({"dirac", "gif", "rpza"})
DELAY = 4  # number of frames that a decoder may buffer for reordering; seeking discards them


class VideoReader:
    """An open video, used in a ``with`` block, with frames by number.

    ``len(reader)`` is the number of frames, ``reader.key_frames`` the number of key frames, and ``reader.fps`` the
    average frame rate of the whole video. If the source has a span, only its packets are read, and frame 0 is the first
    frame at or after its start. Second 0 is the first frame of the video, whatever its time in the file is.

    Args:
        source: a path, or the location of a segment or of a video in a shard.
        deadline: value of ``time.monotonic()`` after which reading raises an error; None for no limit.

    Raises:
        DataError: the file is missing, empty, truncated, damaged or not a video; the span is empty; or the deadline has
            passed.
    """

    def __init__(self, source: str | Path | Source, deadline: float | None = None) -> None:
        self.source = source if isinstance(source, Source) else Source(str(source))
        self._deadline, self._opened = deadline, time.monotonic()
        self._file, self._seekable, self.key_frames = self._open_file(), True, 0
        self._open_container()
        try:
            self._stream: Any = video_stream(self._container, str(self.source))
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
            check_integrity(content, str(self.source), self._check_time)
            return content
        if self.source.byte_span is not None:
            from zoo.video.shard_member import open_member

            part = self.source.span is not None
            file = open_member(self.source.path, self.source.byte_span, str(self.source), part)
            check_integrity(file, str(self.source), self._check_time)
            return file
        path = Path(self.source.path)
        try:
            if not path.exists():
                raise DataError(f"There is no video {self.source}{': a broken link' if path.is_symlink() else ''}.")
            if not path.is_file():  # opening a pipe would block
                raise DataError(f"{self.source} is not a regular file.")
            with path.open("rb") as opened:
                check_integrity(opened, str(self.source), self._check_time)
        except OSError as error:
            raise DataError(f"{self.source} cannot be read: {reason(error)}.") from error
        return str(path)

    def _open_container(self) -> None:
        try:
            self._container: Any = open_container(self._file, str(self.source), self._time_left())
        except DataError as error:
            if isinstance(error.__cause__, av.FFmpegError):
                self._check_time()  # FFmpeg fails with an unspecific error when it is interrupted
            raise

    def _has_palette(self) -> bool:
        return self._stream.codec_context.pix_fmt == "pal8"

    def _rewind(self) -> None:
        """Reopen the container, at its first packet.

        Seeking is not equivalent: raw streams cannot seek, concatenated files are read only up to the end of the first,
        and FFmpeg returns the palette of a video once, with the first packet.
        """
        self._container.close()
        if not isinstance(self._file, str):
            self._file.seek(0)
        self._open_container()
        self._stream = video_stream(self._container, str(self.source))

    def _seek(self, time: int) -> None:
        """Seek to a key frame at or before a time, or to the first packet if the container cannot seek."""
        if self._seekable:
            try:
                self._container.seek(time, stream=self._stream)
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

    def _decoded(self, wanted: Collection[int] | None = None) -> Iterator[av.VideoFrame]:
        """Decode from the current position; skip frames outside of ``wanted`` that no other frame refers to."""
        can_skip = self._stream.codec_context.name in SKIPPING
        for packet in self._packets():
            if packet.size and can_skip:
                unwanted = wanted is not None and packet.pts not in wanted
                self._stream.codec_context.skip_frame = "NONREF" if unwanted else "DEFAULT"
            for frame in packet.decode():
                self._check_time()
                yield frame

    def _index_packets(self) -> None:
        first, last = self._seek_span() if self.source.span is not None else (-math.inf, math.inf)
        times: list[int] = []
        keys: dict[int, int] = {}  # display time of a key frame -> its decoding time
        known, latest, corrupt = True, -math.inf, -1
        for packet in self._packets():
            if not packet.size:
                continue
            pts, dts = packet.pts, packet.dts
            restarts = dts is not None and dts < latest
            if corrupt >= 0 and restarts:  # where MPEG streams were joined, the last packets of a part are marked too
                corrupt = -1
            if packet.is_corrupt and corrupt < 0:
                corrupt = len(times)
            if 0 <= corrupt < len(times) - 1:
                break
            earliest = pts if dts is None else dts  # what follows is not shown before this
            if earliest is not None and earliest >= last:
                break
            known = known and pts is not None and not restarts
            latest = latest if dts is None else dts
            if pts is not None and packet.is_keyframe:
                keys[pts] = pts if dts is None else min(pts, dts)
            if not packet.is_discard and (pts is None or first <= pts < last):
                times.append(pts)
                self.key_frames += packet.is_keyframe
        if corrupt >= 0:
            raise DataError(f"{self.source} is damaged: a packet near frame {corrupt} is corrupt.")
        # AVI has no display times: with B frames those given are guesses, and packets may hold two frames or none, so
        # frames can only be counted by decoding them; those of MPEG program streams differ after seeking, and those of
        # raw streams are made up by FFmpeg
        name = self._container.format.name
        guessed = name == "mpeg" or (name == "avi" and self._stream.codec_context.has_b_frames)
        guessed = (
            guessed
            or bool(self._container.format.flags & NO_TIMESTAMPS)
            or self._stream.codec_context.name in FALSE_KEYS
        )
        known = known and len(set(times)) == len(times) and not guessed and not self._has_palette()
        if self.source.span is not None:
            self._check_span(known, len(times))
        self._times = np.sort(np.array(times, np.int64)) if known else None
        self._keys = np.array(sorted(keys), np.int64)
        self._key_starts = np.array([keys[key] for key in sorted(keys)], np.int64)
        self._drop_undecodable()
        self._length = len(times) if self._times is None else len(self._times)
        if not known:
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
        shown: list[int] = []
        for frame in self._decoded():
            if frame.pts is not None and frame.pts >= self._keys[0]:
                break
            if frame.pts is not None:
                shown.append(frame.pts)
        self._times = self._times[(self._times >= self._keys[0]) | np.isin(self._times, shown)]

    def _seek_span(self) -> tuple[float, float]:
        """Seek to a key frame before the span; return its start and stop in the time base of the stream."""
        assert self.source.span is not None
        base, unit = self._stream.start_time or 0, float(self._stream.time_base)
        # annotations are rounded: a frame at their very start is in, at their very stop it is out
        start, stop = (math.ceil(base + seconds / unit - 1e-3) for seconds in self.source.span)
        # some containers seek by decoding time, or roughly, and so arrive late: then from further back
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

    def _check_span(self, known: bool, count: int) -> None:
        start, stop = self.source.span or (0.0, 0.0)
        if not known:
            raise DataError(f"{self.source} has no display times to find a part by; encode it again, as H.264.")
        if not count:
            length = (self._container.duration or 0) / av.time_base
            raise DataError(f"{self.source} has no frames from {start:g} s to {stop:g} s; it lasts {length:.2f} s.")

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec, such as "h264"."""
        codec = self._stream.codec_context.codec
        return str(getattr(codec, "canonical_name", codec.name))  # since PyAV 15; before, that of the decoder

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
        wanted, order = np.unique(numbers, return_inverse=True)
        frames = self._unique(wanted, transform)
        return frames if np.array_equal(numbers, wanted) else frames[torch.from_numpy(order)]

    def _unique(self, wanted: np.ndarray, transform: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        try:
            return stack_images(self._pictures(wanted), len(wanted), str(self.source), transform)
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(error) from error

    def _pictures(self, wanted: np.ndarray) -> Iterator[np.ndarray]:
        found = self._by_number(wanted) if self._times is None else self._by_time(wanted)
        for number, frame in zip(wanted.tolist(), found, strict=True):
            if frame.is_corrupt:
                raise DataError(f"{self.source} is damaged: frame {number} of {len(self)} is corrupt.")
            yield to_rgb(frame, self._reformatter)

    def _by_number(self, wanted: np.ndarray) -> Iterator[av.VideoFrame]:
        self._rewind()
        frames = enumerate(self._decoded())
        for number in wanted.tolist():
            frame = next((frame for at, frame in frames if at == number), None)
            if frame is None:
                raise DataError(f"{self.source} is damaged: frame {number} of {len(self)} cannot be decoded.")
            yield frame

    def _by_time(self, wanted: np.ndarray) -> Iterator[av.VideoFrame]:
        assert self._times is not None
        frames: Iterator[av.VideoFrame] = iter(())
        frame: av.VideoFrame | None = None
        times, last = set(self._times[wanted].tolist()), 0
        for number in wanted.tolist():
            due = int(self._times[number])
            at = int(np.searchsorted(self._keys, due, side="right")) - 1
            # jump only when a key frame lies between here and there, and not at once; otherwise decoding on is shorter
            near = self._times[min(last + DELAY, len(self) - 1)]
            on = frame is not None and (at < 0 or self._keys[at] <= near or not self._seekable)
            frame = _first_from(frames, due) if on else None
            for attempt, start in enumerate(self._starts(at)):
                if frame is not None and frame.pts == due:
                    break
                self._seek(start)
                frames = self._decoded(None if attempt else times)
                frame = _first_from(frames, due)
            if frame is None or frame.pts != due:
                raise DataError(f"{self.source} is damaged: frame {number} of {len(self)} cannot be decoded.")
            last = number
            yield frame

    def _starts(self, key: int) -> list[int]:
        """Times to seek to, nearest first; containers that seek by decoding time or imprecisely may arrive too late."""
        assert self._times is not None
        starts = [int(self._keys[key]), int(self._key_starts[key])] if key >= 0 else []
        return [*dict.fromkeys([*starts, int(self._times[0]), min(0, int(self._times[0]))])]

    def times(self) -> np.ndarray:
        """Seconds of the frames, ``(len(reader),)``, relative to the first frame of the video."""
        if self._times is None:
            return np.arange(len(self)) / self.fps
        start = self._stream.start_time if self.source.span is not None else self._times[0]
        return (self._times - (start or 0)) * float(self._stream.time_base)

    def iterate(self, indices: np.ndarray) -> Iterator[Tensor]:
        """The frames of increasing numbers, one after another, uint8 RGB ``(3, H, W)``.

        Raises:
            DataError: a frame cannot be decoded, or the deadline has passed.
        """
        try:
            for picture in self._pictures(indices):
                yield torch.from_numpy(picture).permute(2, 0, 1)
        except (av.FFmpegError, OSError) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Release the file and its decoder."""
        self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def _first_from(frames: Iterator[av.VideoFrame], due: int) -> av.VideoFrame | None:
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= due), None)
