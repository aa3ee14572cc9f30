"""What users may give as a video -> an open reader: paths, bytes, open files, URLs and arrays."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast
from urllib.parse import urlsplit

import numpy as np
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.protocol import Protocol
from zoo.settings import offline
from zoo.text import brief, one_line, printable
from zoo.video.array_reader import ArrayReader
from zoo.video.containers import DEFAULT_LIMITS, Limits
from zoo.video.decoding import Reader, open_video, read_with
from zoo.video.frame_reader import FrameReader
from zoo.video.image_sequence import is_image_pattern, list_images
from zoo.video.source import Source
from zoo.video.views import Views, views_of

VideoInput: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | Tensor | Source

SCHEMES = ("http", "https", "hf")
MAX_DOWNLOAD = 4 << 30  # bytes of a video at a URL
MAX_IN_MEMORY = 256 << 20  # bytes of an open file that are read into memory
CHUNK = 1 << 20


def video_name(video: VideoInput) -> str:
    """Return the name of a video in results and messages."""
    if isinstance(video, (str, os.PathLike)):
        return printable(os.fspath(video))
    if isinstance(video, Source):
        return str(video)
    if isinstance(video, bytes):
        return "<bytes>"
    if isinstance(video, (np.ndarray, Tensor)):
        return "<array>"
    return printable(str(getattr(video, "name", "<file>")))


def is_url(video: VideoInput) -> bool:
    """Whether a video is given by a URL that is downloaded."""
    return isinstance(video, str) and urlsplit(video).scheme in SCHEMES and "://" in video


@contextlib.contextmanager
def open_input(
    video: VideoInput,
    *,
    decoder: str = "pyav",
    fps: float = 30.0,
    deadline: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Reader]:
    """Open a video from any supported type of input.

    Args:
        video: path of a video file or of a folder of frames; a pattern of image files (``frames/img_%05d.jpg`` or
            ``frames/*.jpg``), which are the frames of one video; bytes of a video file; a file opened for reading
            bytes; an ``http(s)://`` or ``hf://`` URL; frames ``(T, H, W, 3)``, uint8 RGB.
        decoder: one of ``zoo.video.names.DECODERS``.
        fps: frames per second of arrays, folders of frames and image sequences.
        deadline: on the clock of ``time.monotonic``.
        limits: largest video file that is opened.

    Raises:
        DataError: the video cannot be read.
        ConfigError: ``video`` has another type.
    """
    if isinstance(video, (np.ndarray, Tensor)):
        yield ArrayReader(video, fps)
        return
    if isinstance(video, (str, os.PathLike)) and is_image_pattern(os.fspath(video)):
        pattern = os.fspath(video)
        yield FrameReader(Source("", name=video_name(video)), fps, deadline, list_images(pattern))
        return
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_source(video))
        with open_video(source, decoder, fps, deadline, limits) as reader:
            yield reader


def read_video_views(
    video: VideoInput,
    protocol: Protocol,
    *,
    decoder: str = "pyav",
    fps: float = 30.0,
    time_limit: float | None = 60.0,
    limits: Limits = DEFAULT_LIMITS,
) -> Views:
    """Decode a video into the views of a protocol.

    Args:
        video, decoder, fps, limits: as of ``open_input``.
        time_limit: seconds for the whole video, its download included; None for no limit.

    Raises:
        DataError: the video cannot be read, or takes too long.
    """
    name = video_name(video)
    return read_with(
        lambda deadline: open_input(video, decoder=decoder, fps=fps, deadline=deadline, limits=limits),
        lambda reader: views_of(reader, protocol, name),
        name,
        time_limit,
    )


@contextlib.contextmanager
def _source(video: VideoInput) -> Iterator[Source]:
    name = video_name(video)
    if isinstance(video, Source):
        yield video
    elif isinstance(video, str) and is_url(video):
        with tempfile.TemporaryDirectory(prefix="tempozoo-") as folder:
            path = Path(folder, "video")
            download_video(video, path)
            yield Source(str(path), name=name)
    elif isinstance(video, (str, os.PathLike)):
        yield Source(os.fspath(video))
    elif isinstance(video, bytes):
        yield Source(name, name=name, content=video)
    elif hasattr(video, "read"):
        with _spooled(cast(BinaryIO, video), name) as source:
            yield source
    else:
        raise ConfigError(
            f"A video is {brief(video)}; give a path, a URL, bytes, a binary file, or frames (T, H, W, 3)."
        )


@contextlib.contextmanager
def _spooled(file: BinaryIO, name: str) -> Iterator[Source]:
    """Read the rest of an open file: into memory if it is small, otherwise into a temporary file."""
    content = file.read(MAX_IN_MEMORY + 1)
    if not isinstance(content, bytes):
        raise ConfigError(f"{name} is opened in text mode; open it with mode 'rb'.")
    if len(content) <= MAX_IN_MEMORY:
        yield Source(name, name=name, content=content)
        return
    with tempfile.TemporaryDirectory(prefix="tempozoo-") as folder:
        path = Path(folder, "video")
        with path.open("wb") as copy:
            while content:
                copy.write(content)
                content = file.read(CHUNK)
        yield Source(str(path), name=name)


def download_video(url: str, path: Path, max_bytes: int = MAX_DOWNLOAD) -> None:
    """Download a video to ``path``.

    Args:
        url: ``http(s)://``, or ``hf://datasets/user/repo/file.mp4``.
        max_bytes: larger files are refused.

    Raises:
        DataError: it cannot be downloaded, or is too large.
    """
    import fsspec

    if offline():
        raise DataError(f"{url} must be downloaded, but TEMPOZOO_OFFLINE or HF_HUB_OFFLINE is set.", "unreachable")
    size = 0
    try:
        with fsspec.open(url, "rb") as remote, path.open("wb") as local:
            while block := remote.read(CHUNK):
                size += len(block)
                if size > max_bytes:
                    raise DataError(f"{url} has more than {max_bytes} bytes; download it and pass its path.")
                local.write(block)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{url} does not exist.", "missing") from error
    except Exception as error:  # every store has its own errors
        text = one_line(str(error), 300) or "no answer"
        raise DataError(f"{url} cannot be downloaded ({type(error).__name__}: {text}).", "unreachable") from error
