"""Cameras and network streams: frames with their times, as they arrive."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TypeGuard
from urllib.parse import urlsplit

import av
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from zoo.errors import DataError
from zoo.text import printable
from zoo.video.containers import FORMATS, reason
from zoo.video.pixels import to_rgb

SCHEMES = ("rtsp", "rtsps", "rtmp", "udp", "tcp", "srt")
# A stream must not make FFmpeg open a file, or a playlist of further addresses.
STREAM_OPTIONS = {
    "format_whitelist": ",".join((*FORMATS, "rtsp", "rtp")),
    "protocol_whitelist": "rtsp,rtp,rtmp,udp,tcp,tls,srt",
}
TIMEOUT = 10.0  # seconds without an answer
CAMERA_FORMATS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}


def is_live(video: object) -> TypeGuard[str | int]:
    """Whether a video is a camera number or the URL of a stream."""
    if isinstance(video, int) and not isinstance(video, bool):
        return True
    if not isinstance(video, str):
        return False
    return (video.isdecimal() and not os.path.exists(video)) or ("://" in video and urlsplit(video).scheme in SCHEMES)


def live_frames(video: str | int) -> Iterator[tuple[float, Tensor]]:
    """Frames of a camera or stream: seconds since the first frame, and uint8 RGB ``(3, H, W)``.

    Args:
        video: the number of a camera, or a URL with one of ``SCHEMES``.

    Raises:
        DataError: it cannot be opened, has no video, or breaks off.
    """
    name = printable(str(video))
    reformatter = VideoReformatter()
    first: float | None = None
    try:
        if isinstance(video, int) or video.isdecimal():
            kind, pattern = CAMERA_FORMATS.get(sys.platform, CAMERA_FORMATS["linux"])
            container = av.open(pattern.format(video), format=kind, timeout=TIMEOUT)
        else:
            container = av.open(video, timeout=TIMEOUT, container_options=STREAM_OPTIONS)
        with container:
            stream = container.streams.best("video")
            if stream is None:
                raise DataError(f"{name} has no video stream.")
            for frame in container.decode(stream):
                if not isinstance(frame, av.VideoFrame) or frame.time is None or frame.is_corrupt:
                    continue
                first = frame.time if first is None else first
                yield frame.time - first, torch.from_numpy(to_rgb(frame, reformatter)).permute(2, 0, 1)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read as a live stream: {reason(error)}.", "unreachable") from error
