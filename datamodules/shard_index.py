"""Write shards, and index the videos in them for ``shards.py``."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from datamodules.shards import Manifest
from datamodules.tools.outputs import written
from datamodules.tools.parallel import each
from datamodules.tree import warn_unread
from zoo.errors import ConfigError, DataError, ZooError
from zoo.video.shard_member import file_system
from zoo.video.source import VIDEO_EXTENSIONS

BLOCK = 1 << 16  # bytes read for each header of a remote shard
MAX_TEXT = 1 << 20  # bytes of a label or JSON file
LABELS = ("label", "cls", "class")  # keys of the label in a sample's .json
BRACES = re.compile(r"\{([^{}]*)\}")


class Member(NamedTuple):
    """One video of a shard; ``path`` is as in the manifest, or the member's name."""

    path: str
    offset: int
    size: int
    label: str


def split_member(name: str) -> tuple[str, str]:
    """Split the name of a member at the first dot of its base name, like WebDataset; returns key and extension."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, f".{ending.lower()}"


def member_key(path: str) -> str:
    """Return the key of a video with a relative path. Further dots in its name become %2E, and % becomes %25."""
    folder, slash, base = path.rpartition("/")
    return folder + slash + PurePosixPath(base).stem.replace("%", "%25").replace(".", "%2E")


# writing ---------------------------------------------------------------------------------------------------------


def pack(root: Path, names: Sequence[str], target: Path) -> None:
    """Write a shard of videos below a folder: for each, a ``.json`` with its path, then the video.

    Raises:
        StorageError: the shard cannot be written.
    """
    with written(target) as temporary, tarfile.open(temporary, "w") as shard:
        for name in names:
            key, about = member_key(name), json.dumps({"path": name}).encode()
            for ending, size in ((".json", len(about)), (PurePosixPath(name).suffix, (root / name).stat().st_size)):
                member = tarfile.TarInfo(key + ending)
                member.size = size  # without times and owners, so that equal videos result in equal shards
                if ending == ".json":
                    shard.addfile(member, io.BytesIO(about))
                else:
                    with (root / name).open("rb") as file:
                        shard.addfile(member, file)


# indexing -------------------------------------------------------------------------------------------------


def scan(shard: str) -> tuple[list[Member], list[str]]:
    """List the videos of a shard (path or URL) and the names of its other files, from headers, labels and paths.

    Raises:
        DataError: not a tar file, damaged, truncated, compressed, or on a host without range requests.
    """
    try:
        if "://" in shard:
            system, inner = file_system(shard)
            file: Any = system.open(inner, "rb", block_size=BLOCK)
            size = file.size
        else:
            file = Path(shard).open("rb")  # noqa: SIM115, closed below
            size = Path(shard).stat().st_size
        with file:
            if size is None:
                raise DataError(f"{shard} cannot be read in parts: its host does not support range requests.")
            if file.read(2) == b"\x1f\x8b":
                raise DataError(f"{shard} is compressed, so single videos cannot be read; decompress it.")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                videos = _videos(shard, tar, size)
                _check_end(shard, file, tar.offset)
                return videos
    except ZooError:
        raise
    except Exception as error:  # tarfile and each storage driver have their own types
        raise DataError(f"{shard} cannot be read as a tar file ({error}).") from error


def _check_end(shard: str, file: Any, end: int) -> None:
    """Check that only zeros follow the last member: tarfile stops at a damaged header as at the end."""
    file.seek(end)
    rest = file.read(MAX_TEXT)
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise DataError(f"{shard} is damaged, truncated or concatenated at byte {end}; download or pack it again.")


def _videos(shard: str, tar: tarfile.TarFile, size: int) -> tuple[list[Member], list[str]]:
    # by key, as the files of a sample need not be adjacent
    videos: dict[str, list[tarfile.TarInfo]] = {}
    texts: dict[str, dict[str, str]] = {}
    others: dict[str, list[str]] = {}
    seen = set()
    for member in tar:
        if not member.isfile() or any(part.startswith(".") for part in PurePosixPath(member.name).parts):
            continue
        if member.name in seen:
            raise DataError(f"{shard} has {member.name} more than once; pack it again with different names.")
        seen.add(member.name)
        key, ending = split_member(member.name)
        if ending.endswith(VIDEO_EXTENSIONS):
            if member.offset_data + member.size > size:
                raise DataError(f"{shard} is truncated in {member.name}; download it again.")
            videos.setdefault(key, []).append(member)
            continue
        others.setdefault(key, []).append(member.name)
        if ending in (".cls", ".json", ".txt") and member.size <= MAX_TEXT:
            content: Any = tar.extractfile(member)
            texts.setdefault(key, {})[ending] = content.read().decode("utf-8", "replace")
    entries = []
    for key, members in videos.items():
        sidecars = texts.get(key, {})
        about = _json(sidecars.get(".json", ""))
        labels = [str(about[n]) for n in LABELS if isinstance(about.get(n), (str, int, float))]
        label = sidecars.get(".cls") or next(iter(labels), sidecars.get(".txt", ""))
        path = about.get("path")
        written = path if len(members) == 1 and isinstance(path, str) and member_key(path) == key else ""
        for member in members:  # several, if their names differ behind a first dot: the label is of all of them
            name = written or str(PurePosixPath(member.name))
            entries.append(Member(name, member.offset_data, member.size, label.strip()))
    return entries, [name for key, names in others.items() if key not in videos for name in names]


def _json(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def index_shards(shards: Sequence[str], names: Sequence[str] | None = None, workers: int | None = None) -> Manifest:
    """Index shards in parallel.

    Args:
        shards: paths or URLs.
        names: their names in the manifest; default ``shards``.
        workers: number of processes; default one per core.

    Raises:
        DataError: a shard cannot be read, or no shard has a video.
    """
    results = each(scan, list(shards), "indexing shards", workers)
    for result in results:
        if isinstance(result, ZooError):
            raise result
    scanned: list[Any] = results
    warn_unread("the shards", [name for _, others in scanned for name in others])
    rows = [(number, video) for number, (videos, _) in enumerate(scanned) for video in videos]
    if not rows:
        raise DataError(f"There is no video in {shards[0]} or the {len(shards) - 1} other shards.")
    paths = _unique(shards, rows)
    columns = [[getattr(video, name) for _, video in rows] for name in ("offset", "size", "label")]
    return Manifest(list(names or shards), paths, [number for number, _ in rows], *columns)


def _unique(shards: Sequence[str], rows: Sequence[tuple[int, Member]]) -> list[str]:
    """Return unique paths of videos; if shards repeat keys, with as much of the shard's path in front as necessary.

    Raises:
        DataError: a shard is listed twice.
    """
    locations = [(urlsplit(shard).path if "://" in shard else shard).lstrip("/") for shard in shards]
    prefixes = [PurePosixPath(location).with_suffix("").parts for location in locations]
    paths = [video.path for _, video in rows]
    for depth in range(1, max(map(len, prefixes)) + 1):
        if len(set(paths)) == len(paths):
            break
        paths = [str(PurePosixPath(*prefixes[number][-depth:], video.path)) for number, video in rows]
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        raise DataError(f"{repeated[0]} is more than once in the shards; give each shard once.")
    return paths


def expand(patterns: Sequence[str]) -> list[str]:
    """Expand folders and brace patterns like ``train-{000000..000099}.tar`` or ``{a,b}.tar`` to shards, in order.

    Raises:
        DataError: a folder has no shards.
        ConfigError: a range in braces is invalid.
    """
    shards = []
    for pattern in patterns:
        if "://" not in pattern and Path(pattern).is_dir():
            inside = sorted(str(file.resolve()) for file in Path(pattern).glob("*.tar"))
            if not inside:
                raise DataError(f"There are no shards (*.tar) in {pattern}.")
            shards += inside
        elif "://" not in pattern and Path(pattern).is_file():  # braces may be part of a name
            shards.append(str(Path(pattern).resolve()))
        else:
            shards += [name if "://" in name else str(Path(name).resolve()) for name in _braces(pattern)]
    return shards


def _braces(pattern: str) -> list[str]:
    match = BRACES.search(pattern)
    if not match:
        return [pattern]
    first, dots, last = match[1].partition("..")
    if dots:
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ConfigError(f"{pattern!r} needs numbers in its braces, the smaller first, as in {{000..099}}.")
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    return [name for choice in choices for name in _braces(pattern[: match.start()] + choice + pattern[match.end() :])]
