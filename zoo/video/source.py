"""Where one video is: a file, a part of one, a member of a shard, or a folder of frames."""

from __future__ import annotations

from dataclasses import dataclass, field

VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts", ".m2ts",
    ".m2t", ".ogv", ".asf", ".vob", ".divx", ".f4v", ".3g2", ".m2v", ".mxf", ".qt", ".gif",
    ".h264", ".264", ".hevc", ".h265", ".265", ".obu", ".av1", ".ivf",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where one video is.

    path: a video file, a folder of frames, or a shard (a path or a URL).
    span: of a longer video, seconds ``[start, stop)``; of a folder of frames, frame numbers ``[start, stop)`` from 0.
    place: of a video in a shard, the offset and the number of its bytes.
    name: what messages and reports call it; the path, if not given.
    content: the bytes of a video file in memory, instead of the file at ``path``.
    open_end: the span of a folder of frames may pass its end, as that of a video file may; else that is an error.
    """

    path: str
    span: tuple[float, float] | None = None
    place: tuple[int, int] | None = None
    name: str = ""
    open_end: bool = False
    content: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.name or self.path
