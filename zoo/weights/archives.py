"""Zip archives of PyTorch: uncompressed, without overlaps, with a single top-level folder."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

MAGIC = b"PK\x03\x04"  # first bytes of an archive; torch.load uses the same test
MAX_CODE = 256 << 20  # bytes of source code in a TorchScript archive, the only part that may be compressed


class CompressedPart(ValueError):
    """A part of an archive is compressed. ``mapped`` in torch_files.py converts it to a CheckpointError."""


@dataclass(frozen=True)
class Part:
    """Position, size and CRC-32 of a part in the file."""

    start: int
    size: int
    crc: int


class Archive:
    """The parts of a memory-mapped zip file, by their names in its folder, such as ``data.pkl`` or ``data/0``.

    Raises:
        CompressedPart: a part is compressed.
        ValueError, zipfile.BadZipFile: the archive is damaged, or was not written by PyTorch.
    """

    def __init__(self, path: Path, content: mmap) -> None:
        self.content = content
        self.parts: dict[str, Part] = {}
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        folder, end = infos[0].filename.split("/")[0] if infos else "", 0
        names: set[str] = set()
        if not infos or infos[0].header_offset != 0:
            raise ValueError("its first part does not start at its first byte")
        for info in infos:
            is_code = info.filename.startswith(f"{folder}/code/")
            if info.flag_bits & 1:
                raise ValueError("its parts are encrypted")
            if not is_code and (info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size):
                raise CompressedPart(info.filename)
            lengths = struct.unpack_from("<HH", content, info.header_offset + 26)  # of the name and the extra field
            start = info.header_offset + 30 + sum(lengths)
            if info.header_offset < end or start + info.compress_size > len(content):
                raise ValueError("its parts overlap")
            end = start + info.compress_size
            # torch compares names case-insensitively
            if not info.filename.startswith(f"{folder}/") or info.filename.lower() in names:
                raise ValueError("its parts are not in one folder, or two have the same name")
            names.add(info.filename.lower())
            self.parts[info.filename.removeprefix(f"{folder}/")] = Part(start, info.file_size, info.CRC)
        if sum(part.size for name, part in self.parts.items() if name.startswith("code/")) > MAX_CODE:
            raise ValueError("its source code is too large")

    def read(self, name: str) -> bytes:
        """Return the bytes of a part after verifying their checksum."""
        self.check(name)
        part = self.parts[name]
        return self.content[part.start : part.start + part.size]

    def check(self, name: str) -> None:
        """Verify the checksum of an uncompressed part; ValueError if it is wrong."""
        part = self.parts[name]
        with memoryview(self.content) as view:
            if zlib.crc32(view[part.start : part.start + part.size]) != part.crc:
                raise ValueError(f"the checksum of its part {name} is wrong")
