"""Sources of a command -> its videos: files, folders, patterns, lists, URLs, cameras and streams."""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from zoo.command_line import expand_home
from zoo.errors import ConfigError, DataError
from zoo.inference.inputs import is_url
from zoo.text import printable
from zoo.video.image_sequence import is_image_pattern, list_images
from zoo.video.live import is_live
from zoo.video.names import SHARD_MANIFEST
from zoo.video.source import VIDEO_EXTENSIONS

LISTS = (".txt", ".csv")
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def list_videos(sources: Sequence[str]) -> list[str]:
    """List the videos of a command, each once.

    A folder stands for all videos below it, sorted; without videos, it is one folder of frames. A pattern stands for
    the matching videos, a pattern of image files for one video. A ``.txt`` or ``.csv`` file is a list of sources, whose
    relative paths start at the folder of the list.

    Raises:
        ConfigError: a pattern matches no file, a file is a still image, or a folder contains shards.
        DataError: a list or folder cannot be read, or no source exists.
    """
    videos: dict[str, str] = {}  # real path -> path
    for source in sources:
        for video in _expand(source):
            videos.setdefault(video if is_url(video) or is_live(video) else os.path.realpath(video), video)
    _check_any_exists(videos.values())
    return list(videos.values())


def _expand(source: str) -> Iterator[str]:
    """Yield the videos of one source of the command line."""
    path = source if is_url(source) or is_live(source) else expand_home(source)
    if path.lower().endswith(LISTS) and os.path.isfile(path):
        for entry in _read_list(Path(path)):
            is_remote = is_url(entry) or "://" in entry
            yield from _expand_path(entry if is_remote else os.path.join(os.path.dirname(path), entry))
    else:
        yield from _expand_path(path)


def _expand_path(path: str) -> Iterator[str]:
    """Yield the videos of a folder or pattern, or the path itself."""
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, SHARD_MANIFEST)):
            raise ConfigError(f"{printable(path)} contains shards; add --out FOLDER to predict the videos in shards.")
        videos = sorted(_walk(path))
        yield from videos or [path]
    elif "://" in path or os.path.lexists(path) or is_image_pattern(path) or not glob.has_magic(path):
        _reject_still_image(path)
        yield path
    else:
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise ConfigError(f"No file matches {path!r}.")
        for match in matches:  # each exists
            yield from _expand_path(match)


def _reject_still_image(path: str) -> None:
    if not path.lower().endswith(IMAGES) or not os.path.isfile(path):
        return
    try:
        with Image.open(path) as image:
            if getattr(image, "is_animated", False):
                return
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return  # reported when it is read as a video
    raise ConfigError(
        f"{printable(path)} is a still image. Give videos, a folder of frames, or a quoted pattern of the frames of "
        "one video, such as 'frames/*.jpg'."
    )


def _walk(folder: str) -> Iterator[str]:
    """Yield the videos below a folder without hidden ones. Links are followed, each folder is visited once."""
    visited: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_raise_unreadable, followlinks=True):
        visited.add(os.path.realpath(root))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(root, name)) not in visited
        ]
        for name in files:
            if name.lower().endswith(VIDEO_EXTENSIONS) and not name.startswith("."):
                yield os.path.join(root, name)


def _raise_unreadable(error: OSError) -> None:
    raise DataError(
        f"The folder {printable(str(error.filename))} cannot be read ({error.strerror}). Fix its permissions or use "
        "another folder."
    ) from error


def _read_list(path: Path) -> list[str]:
    """Read the sources in a text file, one per line, or in the column ``path`` of a CSV file."""
    name = printable(str(path))
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}.") from error
    if path.suffix.lower() == ".txt":
        entries = [line.rstrip("\r") for line in text.split("\n")]
    else:
        entries = _read_column(text, name)
    entries = [entry for entry in entries if entry.strip()]
    if not entries:
        raise DataError(f"{name} lists no videos.")
    return entries


def _read_column(text: str, name: str) -> list[str]:
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if "path" not in (rows.fieldnames or ()):
            columns = ", ".join(rows.fieldnames or ()) or "none"
            raise DataError(
                f"{name} has no column `path` (columns: {printable(columns)}); add a first line with names."
            )
        return [row["path"] or "" for row in rows]
    except csv.Error as error:
        raise DataError(f"{name} cannot be read as CSV: {error}.") from error


def _check_any_exists(videos: Iterable[str]) -> None:
    """Raise the error of the first video if none exists; a command with other videos reports it when it reads them."""
    first: DataError | None = None
    for video in videos:
        try:
            if is_image_pattern(video):
                list_images(video)
            elif not (is_url(video) or is_live(video) or "://" in video or os.path.lexists(video)):
                raise DataError(f"{printable(video)} does not exist.", "missing")
            return
        except DataError as error:
            first = first or error
    if first is not None:
        raise first
