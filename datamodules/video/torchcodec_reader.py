"""Frame-exact decoding with torchcodec, by the same numbers as PyAV's."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from datamodules.records import Source
from datamodules.shards import PlaceFile
from datamodules.video.pyav_reader import VideoReader
from zoo.errors import ConfigError

CHUNK = 16  # frames that are decoded between two looks at the clock
REFUSALS = (RuntimeError, ValueError, IndexError)  # of torchcodec, whatever the reason


def video_decoder() -> Any:
    """torchcodec's decoder.

    Raises:
        ConfigError: torchcodec or FFmpeg's libraries are missing.
    """
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder

        if torchcodec.ffmpeg_major_version is None:  # it can be imported all the same
            raise ImportError("FFmpeg's libraries are missing")
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            "decoder 'torchcodec' cannot be loaded: it needs `pip install torchcodec` and the libraries of FFmpeg "
            "4 to 9 (e.g. `apt-get install ffmpeg`); decoder 'pyav' needs neither."
        ) from error
    return VideoDecoder


class TorchcodecReader(VideoReader):
    """An open video: its frames by number, decoded by torchcodec.

    Which frames there are is what PyAV's index of packets says; torchcodec is given that instead of scanning the file
    itself, so that both have the same frames, of parts of videos as well. Where torchcodec fails or yields a frame of
    another time, PyAV decodes, and has the last word on whether the file is damaged; and always where there are no
    display times to name frames by: in AVI files with B frames, as those of HMDB51, torchcodec counts frames that do
    not exist.

    Frames are equal to PyAV's to the bit if both have the same FFmpeg. What cannot be known here is that a decoder
    filled gaps in a damaged frame: PyAV refuses frames marked so, torchcodec does not pass the mark on.

    Raises:
        ConfigError: torchcodec or FFmpeg's libraries are missing.
        DataError: as of ``VideoReader``.
    """

    def __init__(self, source: str | Path | Source, deadline: float | None = None) -> None:
        decoder = video_decoder()
        super().__init__(source, deadline)
        self._decoder: Any = None
        if self._times is None:
            return
        file: Any = self._file
        if isinstance(file, io.BytesIO):
            file = file.getvalue()
        elif isinstance(file, io.BufferedReader):
            file = cast(PlaceFile, file.raw).opened()
        keys = set(self._keys.tolist())
        frames = [{"pts": t, "duration": 1, "key_frame": int(t in keys)} for t in self._times.tolist()]
        with contextlib.suppress(*REFUSALS):
            self._decoder = decoder(
                file,
                stream_index=self._stream.index,
                num_ffmpeg_threads=1,
                custom_frame_mappings=json.dumps({"frames": frames}),
            )

    def _unique(self, wanted: np.ndarray, each: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        if self._decoder is not None:
            chunks = np.split(wanted, range(CHUNK, len(wanted), CHUNK))
            with contextlib.suppress(*REFUSALS):
                frames = [each(self._chunk(chunk)) if each else self._chunk(chunk) for chunk in chunks]
                return frames[0] if len(frames) == 1 else torch.cat(frames)
        return super()._unique(wanted, each)

    def _chunk(self, wanted: np.ndarray) -> Tensor:
        assert self._times is not None
        batch = self._decoder.get_frames_at(wanted.tolist())
        self._check_time()
        times = np.rint(batch.pts_seconds.numpy() / float(self._stream.time_base))
        if not np.array_equal(times, self._times[wanted]):
            raise RuntimeError("other frames than those asked for")
        return batch.data
