"""Write small videos that are difficult for decoders: unusual but valid ("odd"), or damaged ("bad").

``make_odd(kind, path)`` and ``make_bad(kind, path)`` write one of ``ODD_KINDS`` or ``BAD_KINDS`` to ``path``, whatever
its extension, and return the path. The files are deterministic.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FRAMES = 24
IDENTITY = ((1, 0), (0, 1))
MATRICES = {  # ((a, b), (c, d)) of the display matrix: (x, y) is displayed at (ax + cy, bx + dy)
    "turned_90": ((0, 1), (-1, 0)),
    "turned_180": ((-1, 0), (0, -1)),
    "turned_270": ((0, -1), (1, 0)),
    "mirrored": ((-1, 0), (0, 1)),
    "upside_down": ((1, 0), (0, -1)),
    "transposed": ((0, 1), (1, 0)),
    "transposed_back": ((0, -1), (-1, 0)),
}
FAST = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1:keyint=16"},
}
os.environ.setdefault("SVT_LOG", "1")  # errors only
B_FRAMES = {"g": "8", "bf": "2", "crf": "16"}


def pictures(frames: int, size: tuple[int, int], gray: bool = False) -> np.ndarray:
    """Images ``(frames, H, W, 3)``, uint8: brightness 8 n in frame n, a moving square, colors and noise."""
    height, width = size
    noise = np.random.default_rng(0).integers(-8, 9, (frames, height, width, 3))
    tint = np.linspace(0, 30, width)[None, :, None] * np.array([1, -1, 2])
    video = 8 * np.arange(frames)[:, None, None, None] + 24 + noise + tint
    for n in range(frames):
        left = 2 * n % (width - 8)
        video[n, 8:20, left : left + 8] = (200, 40, 90)
    video = video.clip(0, 255).astype(np.uint8)
    return video[..., :1].repeat(3, -1) if gray else video


@contextlib.contextmanager
def same_scheduling() -> Iterator[None]:
    """Restore the scheduling policy of this thread.

    The encoder SVT-AV1 sets real-time priority if root runs it. Child processes would inherit it, and a busy one would
    stop all others on its core.
    """
    if not hasattr(os, "sched_setscheduler"):  # macOS
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


@same_scheduling()
def encode(
    path: Path,
    codec: str = "libx264",
    container: str = "mp4",
    *,
    frames: int = FRAMES,
    size: tuple[int, int] = (48, 64),
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    gray: bool = False,
    to: Any = None,
) -> Path:
    """Write a video of ``pictures`` to ``path``, or to the file object ``to``.

    ``times`` are display times in 1/100 s; without them, the video has 25 frames per second.
    """
    with av.open(to or str(path), "w", format=container, container_options=mux or {}) as out:
        stream: Any = out.add_stream(codec, rate=25, options=FAST.get(codec, {}) | {"b": "2000000"} | (options or {}))
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        if aspect is not None:
            stream.sample_aspect_ratio = aspect
        for n, picture in enumerate(pictures(frames, size, gray)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts = n if times is None else times[n]
            frame.time_base = Fraction(1, 25 if times is None else 100)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def with_matrix(path: Path, kind: str) -> Path:
    """Write a video with a display matrix in the header of its track, like phones do."""
    data = encode(path).read_bytes()
    one, end = 1 << 16, (1 << 30).to_bytes(4, "big")

    def matrix(turn: tuple[tuple[int, int], tuple[int, int]]) -> bytes:
        rows = [b"".join((one * v).to_bytes(4, "big", signed=True) for v in row) + bytes(4) for row in turn]
        return b"".join(rows) + bytes(8) + end

    at = data.index(matrix(IDENTITY), data.index(b"tkhd"))
    path.write_bytes(data[:at] + matrix(MATRICES[kind]) + data[at + 36 :])
    return path


def _copied_from(path: Path, seconds: float) -> Path:
    """Copy a video from a time between key frames; the file contains earlier frames that must not be displayed."""
    content = io.BytesIO(_faststart())
    with av.open(content) as source, av.open(str(path), "w", format="mp4") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        shift = round(seconds / stream.time_base)
        source.seek(shift, stream=stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                out.mux(packet)
    return path


def _with_sound(path: Path) -> Path:
    with av.open(str(path), "w", format="matroska") as out:
        sound: Any = out.add_stream("aac", rate=16000)
        stream: Any = out.add_stream("libx264", rate=25, options=B_FRAMES)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for n, picture in enumerate(pictures(FRAMES, (48, 64))):
            out.mux(sound.encode(_silence(n * 1024)))
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux([*sound.encode(), *stream.encode()])
    return path


class _Pipe:
    """A file object that only supports writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(b"")

    def write(self, data: bytes) -> int:
        with self._path.open("ab") as file:
            return file.write(data)


def _bottom_up(path: Path) -> Path:
    """Write pixel rows from bottom to top, like Windows bitmaps; a positive height in the header declares it."""
    data = encode(path, "rawvideo", "avi", pix_fmt="bgr24").read_bytes()
    at = data.index(b"strf") + 16  # height in BITMAPINFOHEADER, after size and width
    height = int.from_bytes(data[at : at + 4], "little", signed=True)
    path.write_bytes(data[:at] + abs(height).to_bytes(4, "little") + data[at + 4 :])
    return path


VARIABLE = [n * 4 + (n * n) % 3 + 30 * (n > 10) for n in range(FRAMES)]  # in 1/100 s, with a gap

ODD: dict[str, Callable[[Path], Path]] = {
    "h264": lambda p: encode(p, options=B_FRAMES),
    "h264_open_gop": lambda p: encode(p, options=B_FRAMES | {"x264-params": "open-gop=1:scenecut=0"}),
    "h264_10_bit": lambda p: encode(p, pix_fmt="yuv420p10le", options=B_FRAMES),
    "h264_full_range": lambda p: encode(p, pix_fmt="yuvj420p"),
    "h264_422": lambda p: encode(p, pix_fmt="yuv422p"),
    "h264_interlaced": lambda p: encode(p, options=B_FRAMES | {"x264-params": "interlaced=1"}),
    "h264_bt709": lambda p: encode(p, options={"x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709"}),
    "hevc": lambda p: encode(p, "libx265", options={"x265-params": "log-level=none:keyint=8:bframes=3:pools=1"}),
    "hevc_10_bit": lambda p: encode(
        p, "libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=none:keyint=8:pools=1"}
    ),
    "vp9": lambda p: encode(p, "libvpx-vp9", "webm", options={"g": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}),
    "vp9_odd_size": lambda p: encode(p, "libvpx-vp9", "webm", size=(37, 53), options={"g": "8"}),
    "vp8": lambda p: encode(p, "libvpx", "webm", options={"g": "8"}),
    "mpeg4_mp4": lambda p: encode(p, "mpeg4", options=B_FRAMES),
    "mpeg4_avi": lambda p: encode(p, "mpeg4", "avi", options=B_FRAMES),
    "mpeg4_avi_without_b_frames": lambda p: encode(p, "mpeg4", "avi", options={"g": "8"}),
    "mjpeg_avi": lambda p: encode(p, "mjpeg", "avi", pix_fmt="yuvj420p"),
    "mpeg1": lambda p: encode(p, "mpeg1video", "mpeg", options=B_FRAMES),
    "mpegts": lambda p: encode(p, container="mpegts", options=B_FRAMES),
    "wmv": lambda p: encode(p, "wmv2", "asf", options={"g": "8"}),
    "flv": lambda p: encode(p, "flv", "flv", options={"g": "8"}),
    "variable_rate": lambda p: encode(p, times=VARIABLE, options=B_FRAMES),
    "variable_rate_mkv": lambda p: encode(p, container="matroska", times=VARIABLE, options=B_FRAMES),
    "starts_late": lambda p: encode(p, times=[200 + 4 * n for n in range(FRAMES)], options=B_FRAMES),
    "starts_late_mkv": lambda p: encode(
        p, container="matroska", times=[200 + 4 * n for n in range(FRAMES)], options=B_FRAMES
    ),
    "copied_from_within": lambda p: _copied_from(p, 0.5),
    "fragmented": lambda p: encode(p, options=B_FRAMES, mux={"movflags": "frag_keyframe+empty_moov"}),
    "sound_first": _with_sound,
    **{kind: functools.partial(with_matrix, kind=kind) for kind in MATRICES},
    "av1": lambda p: encode(p, "libsvtav1", size=(64, 64)),
    "av1_webm": lambda p: encode(p, "libsvtav1", "webm", size=(64, 64)),
    "av1_ivf": lambda p: encode(p, "libsvtav1", "ivf", size=(64, 64)),
    "av1_obu": lambda p: encode(p, "libsvtav1", "obu", size=(64, 64)),
    "h264_raw": lambda p: encode(p, container="h264", options=B_FRAMES),
    "hevc_raw": lambda p: encode(p, "libx265", "hevc", options={"x265-params": "log-level=none:keyint=8:pools=1"}),
    "odd_size": lambda p: encode(p, size=(37, 53), pix_fmt="yuv444p"),
    "wide_pixels": lambda p: encode(p, aspect=Fraction(4, 3)),
    "single_frame": lambda p: encode(p, frames=1),
    "gray": lambda p: encode(p, "ffv1", "matroska", pix_fmt="gray", gray=True),
    "lossless_rgb": lambda p: encode(p, "ffv1", "matroska", pix_fmt="bgr0"),
    "paletted": lambda p: encode(p, "qtrle", "mov", pix_fmt="gray", gray=True),
    "bottom_up_avi": _bottom_up,
    "avi_piped": lambda p: encode(p, "mpeg4", "avi", to=_Pipe(p), options={"g": "8"}),
    "huge_gop": lambda p: encode(p, options={"g": "250", "bf": "0"}),
}  # fmt: skip


def _silence(time: int) -> av.AudioFrame:
    frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
    frame.sample_rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), time
    frame.planes[0].update(bytes(4096))
    return frame


def _only_sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as out:
        stream: Any = out.add_stream("aac", rate=16000)
        for n in range(4):
            out.mux(stream.encode(_silence(n * 1024)))
        out.mux(stream.encode())


def _no_frames(path: Path) -> None:
    """Write the header of a video without any frames."""
    with av.open(str(path), "w", format="matroska") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        out.start_encoding()


@functools.cache
def _faststart() -> bytes:
    """Return a file whose index comes first, so that it can be opened when the rest is truncated or changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = encode(Path(folder, "faststart.mp4"), options=B_FRAMES, mux={"movflags": "faststart"})
        return path.read_bytes()


def _cut(path: Path, percent: int) -> None:
    path.write_bytes(_faststart()[: len(_faststart()) * percent // 100])


def flipped(data: bytes, share: float = 0.02, seed: int = 0) -> bytes:
    """Change a share of the bytes, at random positions in the second half."""
    changed = np.frombuffer(data, dtype=np.uint8).copy()
    generator = np.random.default_rng(seed)
    positions = generator.integers(len(data) // 2, len(data), max(1, int(share * len(data))))
    changed[positions] ^= generator.integers(1, 256, len(positions), dtype=np.uint8)
    return changed.tobytes()


def _endless(path: Path) -> None:
    """Write a valid start and a sparse terabyte of zeros, which takes no disk space."""
    encode(path, "mpeg1video", "mpeg")
    os.truncate(path, 1 << 40)


def _unreadable(path: Path) -> None:
    encode(path).chmod(0)
    if os.access(path, os.R_OK):  # root ignores file modes, but cannot read the start of this file
        path.unlink()
        path.symlink_to("/proc/self/mem")


BAD: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "cut_10": lambda p: _cut(p, 10),
    "cut_50": lambda p: _cut(p, 50),
    "cut_90": lambda p: _cut(p, 90),
    "flipped": lambda p: p.write_bytes(flipped(_faststart())),
    "only_sound": _only_sound,
    "no_frames": _no_frames,
    "unreadable": _unreadable,
    "text": lambda p: p.write_text("this is not a video\n" * 100),
    "link_to_nowhere": lambda p: p.symlink_to(p.with_name("nowhere")),
    "folder": lambda p: p.mkdir(),
    "pipe": lambda p: os.mkfifo(p),
    "endless": _endless,
}

ODD_KINDS = tuple(ODD)
BAD_KINDS = tuple(BAD)


def make_odd(kind: str, path: Path) -> Path:
    """Write an unusual, valid video."""
    ODD[kind](path)
    return path


def make_bad(kind: str, path: Path) -> Path:
    """Write a damaged video, or a file that is not a video."""
    BAD[kind](path)
    return path
