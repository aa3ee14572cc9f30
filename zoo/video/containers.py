"""Opening a video container with FFmpeg, such that no other file or address is ever opened."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from typing import Any

import av

from zoo.errors import DataError

# FFmpeg's names of the formats that hold a video in the file itself. Playlists (hls, dash, concat, sdp, imf, ...),
# numbered pictures (image2) and devices are not among them: those make FFmpeg open whatever they name.
FORMATS = (
    "3g2", "3gp", "4xm", "amv", "apng", "asf", "av1", "avi", "avs2", "avs3", "bink", "cavsvideo", "cdxl", "dhav",
    "dirac", "dnxhd", "dv", "evc", "film_cpk", "filmstrip", "flic", "flv", "gif", "gxf", "h261", "h263", "h264", "hevc",
    "ivf", "jpeg_pipe", "kux", "live_flv", "lmlm4", "m4v", "matroska", "mjpeg", "mov", "mp4", "mpeg", "mpegts",
    "mpegtsraw", "mpegvideo", "mpjpeg", "mxf", "nsv", "nut", "nuv", "obu", "ogg", "png_pipe", "pva", "rm", "roq",
    "smjpeg", "smk", "swf", "thp", "ty", "vc1", "vc1test", "vivo", "vvc", "webm", "webp_pipe", "wtv", "yuv4mpegpipe",
)  # fmt: skip
OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
MAX_PIXELS = 1 << 25  # of a frame: 8192 x 4096. A damaged header may give any size
COVER = 0x400  # AV_DISPOSITION_ATTACHED_PIC


def open_container(file: str | io.IOBase, name: str, timeout: float | None = None) -> Any:
    """Open a path or a file object as a video container.

    Args:
        name: the name of the video in error messages.
        timeout: seconds that FFmpeg may take for opening it, and for each later read.

    Raises:
        DataError: it is not a video, is damaged, or its format is not one of ``FORMATS``.
    """
    # without the prefix, FFmpeg takes a name with a colon for an address
    target = f"file:{file}" if isinstance(file, str) else file
    try:
        # titles may have any encoding
        return av.open(target, container_options=OPTIONS, metadata_errors="replace", timeout=timeout)
    except DataError:  # of a video in a shard
        raise
    except av.FFmpegError as error:
        if error.errno != errno.EINVAL:
            raise DataError(f"{name} cannot be opened as a video: {reason(error)}.") from error
        # this is also what FFmpeg raises for a format that is not in the list
        raise DataError(
            f"{name} is not a video in a supported container format, or its header is damaged. Playlists and other "
            "files that refer to further files are not read; give the videos themselves."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be opened as a video: {reason(error)}.") from error


def video_stream(container: Any, name: str) -> Any:
    """The video stream of a container.

    Raises:
        DataError: there is none, only the cover picture of a song, FFmpeg has no decoder for it, or its frames are too
            large.
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
    if width * height > MAX_PIXELS:
        raise DataError(f"{name} has frames of {width} x {height} pixels; at most {MAX_PIXELS} pixels are supported.")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change within the stream
    # loader workers are the parallelism; a thread pool for each of them only costs memory
    stream.codec_context.thread_count = 1
    return stream


def read_packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, and then an empty one with which a decoder gives the frames that it still holds.

    Nothing is requested behind that: PyAV may then raise an error for streams that begin later in the file than others.
    """
    for packet in container.demux(stream):
        yield packet
        if not packet.size and packet.pts is None and packet.dts is None:
            return


def reason(error: Exception) -> str:
    """The text of an error, without a full stop."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).strip().rstrip(".")
