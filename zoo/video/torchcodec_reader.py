"""Frame-exact decoding with torchcodec, with the same frame numbers as PyAV."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.video.containers import DEFAULT_LIMITS, Limits
from zoo.video.pixels import orientation
from zoo.video.pyav_reader import VideoReader
from zoo.video.shard_member import MemberFile
from zoo.video.source import Source

CHUNK = 16  # frames decoded between two checks of the deadline
FAILURES = (RuntimeError, ValueError, IndexError)  # raised by torchcodec for any problem


def video_decoder() -> Any:
    """Import torchcodec's decoder class.

    Raises:
        ConfigError: torchcodec or FFmpeg's libraries are missing.
    """
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        if torchcodec.ffmpeg_major_version is None:  # importing succeeds without FFmpeg
            raise ImportError("FFmpeg's libraries are missing")
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            "decoder 'torchcodec' cannot be loaded: it needs `pip install torchcodec` and the libraries of FFmpeg "
            "4 to 9 (e.g. `apt-get install ffmpeg`); decoder 'pyav' needs neither."
        ) from error
    return VideoDecoder


class TorchcodecReader(VideoReader):
    """An open video, with frames by number, decoded by torchcodec.

    PyAV's index of packets defines the frames. torchcodec uses this index instead of scanning the file, so that both
    decoders have the same frames, also in segments. PyAV decodes instead

    - if torchcodec fails or returns a frame with another time, so that PyAV decides whether the file is damaged;
    - if frames have no display times: in AVI files with B-frames, such as those of HMDB51, torchcodec counts frames
      that do not exist;
    - if the display matrix mirrors the video: torchcodec applies only its rotation.

    Frames are identical to PyAV's if both use the same FFmpeg, with two exceptions. PyAV refuses frames in which
    the decoder concealed damage; torchcodec does not report those. A display orientation that is written into the video
    stream itself (H.264 and HEVC SEI messages) is applied by PyAV only.

    Raises:
        ConfigError: torchcodec or FFmpeg's libraries are missing.
        DataError: see ``VideoReader``.
    """

    def __init__(
        self, source: str | Path | Source, deadline: float | None = None, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        decoder = video_decoder()
        super().__init__(source, deadline, limits)
        self._decoder: Any = None
        if self._times is None:
            return
        file: Any = self._file
        if isinstance(file, io.BytesIO):
            file = file.getvalue()
        elif isinstance(file, io.BufferedReader):
            file = cast(MemberFile, file.raw).buffered()
        else:
            file = f"file:{file}"  # FFmpeg interprets a name with a colon as a URL
        keys = set(self._keys.tolist())
        frames = [{"pts": t, "duration": 1, "key_frame": int(t in keys)} for t in self._times.tolist()]
        with contextlib.suppress(*FAILURES):
            self._decoder = decoder(
                file,
                stream_index=self._stream.index,
                num_ffmpeg_threads=1,
                custom_frame_mappings=json.dumps({"frames": frames}),
            )

        rotation = None if self._decoder is None else self._decoder.metadata.rotation
        if rotation is not None and self._is_mirrored():
            self._decoder = None

    def _is_mirrored(self) -> bool:
        """Whether the display matrix mirrors the video; torchcodec applies only the rotation in it."""
        try:
            return orientation(next(self._by_time(np.array([0]))))[0]
        except (DataError, av.FFmpegError):
            return True  # PyAV decodes instead, and reports the damage

    def _stack(self, numbers: np.ndarray, transform: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if self._decoder is not None:
            chunks = np.split(numbers, range(CHUNK, len(numbers), CHUNK))
            with contextlib.suppress(*FAILURES):
                frames = [transform(self._chunk(chunk)) if transform else self._chunk(chunk) for chunk in chunks]
                return frames[0] if len(frames) == 1 else torch.cat(frames)
        return super()._stack(numbers, transform)

    def _chunk(self, numbers: np.ndarray) -> Tensor:
        assert self._times is not None
        batch = self._decoder.get_frames_at(numbers.tolist())
        self._check_time()
        times = np.rint(batch.pts_seconds.numpy() / float(self._stream.time_base))
        if not np.array_equal(times, self._times[numbers]):
            raise RuntimeError("torchcodec returned other frames")
        return batch.data
