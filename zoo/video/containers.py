"""Open video containers with FFmpeg, restricted to formats that cannot refer to other files or URLs."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from zoo.errors import DataError

# FFmpeg's names of self-contained video formats. Playlists (hls, dash, concat, sdp, imf, ...), image sequences (image2)
# and devices are excluded, because FFmpeg would open the files or URLs that they refer to.
FORMATS = (
    "3g2", "3gp", "4xm", "amv", "apng", "asf", "av1", "avi", "avs2", "avs3", "bink", "cavsvideo", "cdxl", "dhav",
    "dirac", "dnxhd", "dv", "evc", "film_cpk", "filmstrip", "flic", "flv", "gif", "gxf", "h261", "h263", "h264", "hevc",
    "ivf", "jpeg_pipe", "kux", "live_flv", "lmlm4", "m4v", "matroska", "mjpeg", "mov", "mp4", "mpeg", "mpegts",
    "mpegtsraw", "mpegvideo", "mpjpeg", "mxf", "nsv", "nut", "nuv", "obu", "ogg", "png_pipe", "pva", "rm", "roq",
    "smjpeg", "smk", "swf", "thp", "ty", "vc1", "vc1test", "vivo", "vvc", "webm", "webp_pipe", "wtv", "yuv4mpegpipe",
)  # fmt: skip
OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
MAX_PIXELS = 1 << 25  # 8192 x 4096 per frame; a damaged header may claim any size
COVER = 0x400  # AV_DISPOSITION_ATTACHED_PIC


@dataclass(frozen=True)
class Limits:
    """Largest video that is opened; a small file may claim any size.

    pixels: pixels of a frame.
    frames: frames of the video; None for any number.
    streams: video, audio and other streams in the file. FFmpeg decodes a frame of each when it opens the file.
    """

    pixels: int = MAX_PIXELS
    frames: int | None = None
    streams: int = 1000


DEFAULT_LIMITS = Limits()


def open_container(
    file: str | io.IOBase, name: str, timeout: float | None = None, limits: Limits = DEFAULT_LIMITS
) -> Any:
    """Open a path or a file object as a video container.

    Args:
        name: the name of the video in error messages.
        timeout: seconds for opening the container, and for each later read; None for no limit.
        limits: ``pixels`` and ``streams`` apply.

    Raises:
        DataError: the file is not a video, is damaged, or has a format outside of ``FORMATS``.
    """
    # without the prefix, FFmpeg interprets a name with a colon as a URL
    target = f"file:{file}" if isinstance(file, str) else file
    # FFmpeg decodes a frame to detect the format. It then ignores the size in the header, which messages need.
    options = {"max_pixels": str(limits.pixels)} if limits.pixels < MAX_PIXELS else None
    try:
        return av.open(
            target,
            options=options,
            container_options=OPTIONS | {"max_streams": str(limits.streams)},
            metadata_errors="replace",  # titles may have any encoding
            timeout=timeout,
        )
    except DataError:  # of a video in a shard
        raise
    except av.FFmpegError as error:
        if error.errno != errno.EINVAL:
            raise DataError(f"{name} cannot be opened as a video: {reason(error)}.") from error
        # this is also what FFmpeg raises for a format that is not in the list
        raise DataError(
            f"{name} is not a video in a supported container format, or its header is damaged. Playlists and other "
            "files that refer to other files are not supported; use the video files themselves."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be opened as a video: {reason(error)}.") from error


def video_stream(container: Any, name: str, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Return the video stream of a container.

    Args:
        name: the name of the video in error messages.
        limits: ``pixels`` applies.

    Raises:
        DataError: the container has no video stream except a cover image, FFmpeg has no decoder for it, or its frames
            are too large.
    """
    stream = container.streams.best("video")
    if stream is None:
        raise DataError(f"{name} has no video stream.")
    flags = getattr(stream, "disposition", None)  # since PyAV 15
    if getattr(flags, "value", 0) & COVER:
        raise DataError(f"{name} has no video stream, only a cover picture.")
    if stream.codec_context is None:
        raise DataError(f"{name} has a video stream that FFmpeg has no decoder for. Convert it to H.264.")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.pixels:
        raise DataError(
            f"{name} has frames of {width} x {height} pixels; at most {limits.pixels} pixels are supported."
        )
    if width * height == 0 and limits.pixels < MAX_PIXELS:
        raise DataError(f"{name} has frames of more than {limits.pixels} pixels or of unknown size.")
    stream.codec_context.options = {"max_pixels": str(limits.pixels)}  # the size may change within the stream
    # loader workers are the parallelism; a thread pool for each of them only costs memory
    stream.codec_context.thread_count = 1
    return stream


def read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream, and finally an empty packet that flushes the decoder.

    Demuxing stops there: PyAV may raise an error afterwards if streams start at different positions in the file.
    """
    for packet in container.demux(stream):
        yield packet
        if not packet.size and packet.pts is None and packet.dts is None:
            return


def reason(error: Exception) -> str:
    """Return the text of an error, without a final period."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).strip().rstrip(".")
