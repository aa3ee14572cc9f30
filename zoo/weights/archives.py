"""Zip archives as PyTorch writes them: uncompressed, one part after another, in one folder."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

MAGIC = b"PK\x03\x04"  # at the beginning of a file: torch, too, decides by it
MAX_CODE = 256 << 20  # bytes of the source code in a TorchScript archive, which alone is compressed


class CompressedError(ValueError):
    """A part of an archive is compressed."""


@dataclass(frozen=True)
class Part:
    """Where the bytes of a part are in the file, and their checksum."""

    start: int
    size: int
    crc: int


class Archive:
    """The parts of a zip file in memory, by their names in its only folder, such as ``data.pkl`` or ``data/0``.

    Raises:
        CompressedError: a part is compressed.
        ValueError, zipfile.BadZipFile: it is damaged, or not written by PyTorch.
    """

    def __init__(self, path: Path, content: mmap) -> None:
        self.content = content
        self.parts: dict[str, Part] = {}
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        folder, end = infos[0].filename.split("/")[0] if infos else "", 0
        seen: set[str] = set()
        if not infos or infos[0].header_offset != 0:
            raise ValueError("its parts do not start at its first byte")
        for info in infos:
            code = info.filename.startswith(f"{folder}/code/")
            if info.flag_bits & 1:
                raise ValueError("its parts are encrypted")
            if not code and (info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size):
                raise CompressedError(info.filename)
            names = struct.unpack_from("<HH", content, info.header_offset + 26)
            start = info.header_offset + 30 + sum(names)
            if info.header_offset < end or start + info.compress_size > len(content):
                raise ValueError("its parts overlap")
            end = start + info.compress_size
            # torch compares names without regard to case
            if not info.filename.startswith(f"{folder}/") or info.filename.lower() in seen:
                raise ValueError("its parts are not in one folder, or two have the same name")
            seen.add(info.filename.lower())
            self.parts[info.filename.removeprefix(f"{folder}/")] = Part(start, info.file_size, info.CRC)
        if sum(part.size for name, part in self.parts.items() if name.startswith("code/")) > MAX_CODE:
            raise ValueError("its source code is too large")

    def read(self, name: str) -> bytes:
        """The bytes of a part, compared with their checksum."""
        self.check(name)
        part = self.parts[name]
        return self.content[part.start : part.start + part.size]

    def check(self, name: str) -> None:
        """Compare the bytes of an uncompressed part with their checksum."""
        part = self.parts[name]
        with memoryview(self.content) as view:
            if zlib.crc32(view[part.start : part.start + part.size]) != part.crc:
                raise ValueError(f"the checksum of its part {name} is wrong")
