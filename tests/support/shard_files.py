"""Write and read shards of videos."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from datamodules.records import VideoRecords
from datamodules.shard_index import pack, scan
from datamodules.shards import Manifest
from datamodules.tree import Tree
from zoo.video.shard_member import read_member


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_manifest(shards: Sequence[Path], label_by_folder: bool = False) -> None:
    """Write shards.json next to the shards; labels are those in the shards, or the first folder of each path."""
    videos = [(number, video) for number, shard in enumerate(shards) for video in scan(str(shard))[0]]
    Manifest(
        [shard.name for shard in shards],
        [video.path for _, video in videos],
        [number for number, _ in videos],
        [video.offset for _, video in videos],
        [video.size for _, video in videos],
        [video.path.split("/")[0] if label_by_folder else video.label for _, video in videos],
    ).write(shards[0].parent)


def pack_folder(root: Path, target: Path) -> Path:
    """Pack all videos below a folder into two shards with a manifest."""
    names = Tree(root).names
    target.mkdir()
    shards = [target / "shards-0.tar", target / "shards-1.tar"]
    for number, shard in enumerate(shards):
        pack(root, names[number::2], shard)
    write_manifest(shards)
    return target


def read_members(records: VideoRecords) -> dict[str, bytes]:
    """The content of each video in shards, by its name."""
    sources = [records.source(number) for number in range(len(records))]
    return {str(source): read_member(source.path, source.byte_span or (0, 0)) for source in sources}
