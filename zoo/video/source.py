"""Location of one video: a file, a segment of a file, a member of a shard, or a folder of frames."""

from __future__ import annotations

from dataclasses import dataclass, field

VIDEO_EXTENSIONS = (
    ".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts", ".m2ts",
    ".m2t", ".ogv", ".asf", ".vob", ".divx", ".f4v", ".3g2", ".m2v", ".mxf", ".qt", ".gif",
    ".h264", ".264", ".hevc", ".h265", ".265", ".obu", ".av1", ".ivf",
)  # fmt: skip
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")  # still images


@dataclass(frozen=True)
class Source:
    """Location of one video.

    path: a video file, a folder of frames, or a shard (a path or a URL).
    span: segment ``[start, stop)``, in seconds for a video file, in frame numbers from 0 for a folder of frames; None
        for all.
    byte_span: offset and size in bytes of a video in a shard; None for other videos.
    name: name in messages and reports; default the path.
    content: the bytes of a video file in memory, instead of the file at ``path``.
    open_end: whether the span of a folder of frames may exceed its end, like that of a video file; else it is an error.
    """

    path: str
    span: tuple[float, float] | None = None
    byte_span: tuple[int, int] | None = None
    name: str = ""
    open_end: bool = False
    content: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.name or self.path
