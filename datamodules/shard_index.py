"""Shards written, and looked through: what is where in them. ``shards.py`` reads videos by what is found here."""

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

BLOCK = 1 << 16  # bytes read for each header of a distant shard
TEXT = 1 << 20  # bytes; no label is larger
LABELS = ("label", "cls", "class")  # names it goes by in a sample's .json
BRACES = re.compile(r"\{([^{}]*)\}")


class Member(NamedTuple):
    """One video of a shard; ``path`` is as in the manifest, or the member's name."""

    path: str
    offset: int
    size: int
    label: str


def split_member(name: str) -> tuple[str, str]:
    """Key and ending of a member: WebDataset parts them at the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, f".{ending.lower()}"


def member_key(path: str) -> str:
    """The key of a video by its relative path. Further dots in its name are written %2E, and % as %25."""
    folder, slash, base = path.rpartition("/")
    return folder + slash + PurePosixPath(base).stem.replace("%", "%25").replace(".", "%2E")


# writing ---------------------------------------------------------------------------------------------------------


def pack(root: Path, names: Sequence[str], target: Path) -> None:
    """One shard of videos below a folder: for each a ``.json`` with its path, then its bytes.

    Raises:
        StorageError: it cannot be written.
    """
    with written(target) as temporary, tarfile.open(temporary, "w") as shard:
        for name in names:
            key, about = member_key(name), json.dumps({"path": name}).encode()
            for ending, size in ((".json", len(about)), (PurePosixPath(name).suffix, (root / name).stat().st_size)):
                member = tarfile.TarInfo(key + ending)
                member.size = size  # no times and no owners: the same videos make the same shard
                if ending == ".json":
                    shard.addfile(member, io.BytesIO(about))
                else:
                    with (root / name).open("rb") as file:
                        shard.addfile(member, file)


# looking through -------------------------------------------------------------------------------------------------


def scan(shard: str) -> tuple[list[Member], list[str]]:
    """The videos of a shard, a path or URL, and the names of its other files; only headers, labels and paths are read.

    Raises:
        DataError: it is no tar file, damaged, cut short, compressed, or served only as a whole.
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
                raise DataError(f"{shard} is served only as a whole: the host has to answer range requests.")
            if file.read(2) == b"\x1f\x8b":
                raise DataError(f"{shard} is compressed, so that no video can be read by its place; unpack it.")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                found = _videos(shard, tar, size)
                _check_end(shard, file, tar.offset)
                return found
    except ZooError:
        raise
    except Exception as error:  # of tarfile, and of each kind of store
        raise DataError(f"{shard} cannot be read as a tar file ({error}).") from error


def _check_end(shard: str, file: Any, end: int) -> None:
    """Where the members end there are zeros, and nothing else: Python stops at a damaged header as at the end."""
    file.seek(end)
    rest = file.read(TEXT)
    if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
        raise DataError(f"{shard} is damaged, cut short, or joined from several at byte {end}; fetch or pack it again.")


def _videos(shard: str, tar: tarfile.TarFile, size: int) -> tuple[list[Member], list[str]]:
    # of each key; what belongs together may be apart
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
                raise DataError(f"{shard} is truncated in {member.name}; fetch it again.")
            videos.setdefault(key, []).append(member)
            continue
        others.setdefault(key, []).append(member.name)
        if ending in (".cls", ".json", ".txt") and member.size <= TEXT:
            content: Any = tar.extractfile(member)
            texts.setdefault(key, {})[ending] = content.read().decode("utf-8", "replace")
    found = []
    for key, members in videos.items():
        known = texts.get(key, {})
        about = _json(known.get(".json", ""))
        labels = [str(about[n]) for n in LABELS if isinstance(about.get(n), (str, int, float))]
        label = known.get(".cls") or next(iter(labels), known.get(".txt", ""))
        path = about.get("path")
        written = path if len(members) == 1 and isinstance(path, str) and member_key(path) == key else ""
        for member in members:  # several, if their names differ behind a first dot: the label is of all of them
            name = written or str(PurePosixPath(member.name))
            found.append(Member(name, member.offset_data, member.size, label.strip()))
    return found, [name for key, names in others.items() if key not in videos for name in names]


def _json(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def index_shards(shards: Sequence[str], names: Sequence[str] | None = None, workers: int | None = None) -> Manifest:
    """Look through shards, several at a time.

    Args:
        shards: paths or URLs.
        names: what the manifest calls them; default the same.

    Raises:
        DataError: one cannot be read, or there is no video in any.
    """
    results = each(scan, list(shards), "looking through shards", workers)
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
    """Paths of videos; where keys begin anew in every shard, behind as much of the shards' own as tells them apart.

    Raises:
        DataError: a shard was given twice.
    """
    places = [(urlsplit(shard).path if "://" in shard else shard).lstrip("/") for shard in shards]
    homes = [PurePosixPath(place).with_suffix("").parts for place in places]
    paths = [video.path for _, video in rows]
    for depth in range(1, max(map(len, homes)) + 1):
        if len(set(paths)) == len(paths):
            break
        paths = [str(PurePosixPath(*homes[number][-depth:], video.path)) for number, video in rows]
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        raise DataError(f"{repeated[0]} is more than once in the shards; give each shard once.")
    return paths


def expand(given: Sequence[str]) -> list[str]:
    """Folders, and brace patterns such as ``train-{000000..000099}.tar`` or ``{a,b}.tar``, -> shards, in order.

    Raises:
        DataError: a folder has none; ConfigError: there is no sense in the braces.
    """
    shards = []
    for place in given:
        if "://" not in place and Path(place).is_dir():
            inside = sorted(str(file.resolve()) for file in Path(place).glob("*.tar"))
            if not inside:
                raise DataError(f"There are no shards (*.tar) in {place}.")
            shards += inside
        elif "://" not in place and Path(place).is_file():  # braces may be part of a name
            shards.append(str(Path(place).resolve()))
        else:
            shards += [name if "://" in name else str(Path(name).resolve()) for name in _braces(place)]
    return shards


def _braces(pattern: str) -> list[str]:
    found = BRACES.search(pattern)
    if not found:
        return [pattern]
    first, dots, last = found[1].partition("..")
    if dots:
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ConfigError(f"{pattern!r} needs numbers in its braces, the smaller first, as in {{000..099}}.")
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = found[1].split(",")
    return [name for choice in choices for name in _braces(pattern[: found.start()] + choice + pattern[found.end() :])]
