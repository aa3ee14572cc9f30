"""Detect truncated and concatenated video files, which FFmpeg does not report.

MP4, AVI and Matroska files contain their size. FFmpeg decodes a truncated file without an error, or reports one only at
the end. In concatenated files (``cat a.mkv b.mkv``), it reads only the first file, or decodes the others with the
settings of the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from zoo.errors import DataError

BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx", b"uuid")
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
DOCTYPES = (b"matroska", b"webm")
# headers of formats without a size, long enough not to occur by chance
FLV = (b"FLV\x01", b"\0\0\0\x09\0\0\0\0")  # before and after a byte of flags
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
PIPED = 0xFFFFFFFF  # the size in AVI files, or 0, if the writer could not go back and fill it in
BLOCK = 1 << 20  # bytes read at a time in a search


def check_whole(file: BinaryIO, name: str, tick: Callable[[], None] = lambda: None) -> None:
    """Refuse empty, truncated and concatenated files; the position is at the start afterwards.

    Files of other formats pass. MPEG files, raw streams and GIF files may be concatenated: all their frames are read.

    Args:
        name: the name of the video in error messages.
        tick: called repeatedly during long searches; it may raise an error.

    Raises:
        DataError: the file is empty, truncated or concatenated, or claims more frames than it can contain.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise DataError(f"{name} is empty (0 bytes).")
    file.seek(0)
    head = file.read(64)
    kind, end, joined = "", 0, False
    if head[4:8] in BOXES:
        kind = "MP4"
        end, joined = _walk_boxes(file, size, name)
    elif head[:4] == b"RIFF":
        kind = "AVI"
        length = int.from_bytes(head[4:8], "little")
        end = 0 if length in (0, PIPED) else 8 + length
        joined = _is_avi(_read_at(file, end + end % 2)) if end else _occurs(file, b"RIFF", _is_avi, tick)
    elif head[:4] == EBML and SEGMENT in head:
        kind = "Matroska or WebM"
        end = _end_of_segment(head)
        joined = _is_ebml(_read_at(file, end)) if end else _occurs(file, EBML, _is_ebml, tick)
    elif _is_flv(head):
        kind = "FLV"
        joined = _occurs(file, FLV[0], _is_flv, tick)
    elif head.startswith(ASF):
        kind = "WMV (ASF)"
        joined = _occurs(file, ASF, lambda _: True, tick)
    if end > size:
        raise DataError(f"{name} is truncated: it has {size} of {end} bytes. Copy or download it again.")
    if joined:
        raise DataError(
            f"{name} consists of several concatenated {kind} files, of which decoders read only the first one "
            "correctly. Keep them as separate videos, or join them with FFmpeg's concat demuxer."
        )
    file.seek(0)


def _read_at(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    return file.read(64)


def _occurs(file: BinaryIO, signature: bytes, accept: Callable[[bytes], bool], tick: Callable[[], None]) -> bool:
    """Whether a signature, followed by bytes that are accepted, occurs anywhere after the start of a file."""
    start = 1
    file.seek(start)
    rest = b""
    while block := file.read(BLOCK):
        tick()
        data = rest + block
        at = data.find(signature)
        while at >= 0:
            if accept(_read_at(file, start + at)):
                return True
            at = data.find(signature, at + 1)
        keep = len(signature) - 1
        start += len(data) - keep
        rest = data[len(data) - keep :]
        file.seek(start + keep)
    return False


def _is_avi(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"AVI "  # large AVI files go on with RIFF chunks of the type AVIX


def _is_ebml(head: bytes) -> bool:
    return head[:4] == EBML and any(doctype in head for doctype in DOCTYPES)


def _is_flv(head: bytes) -> bool:
    return head.startswith(FLV[0]) and head[5:].startswith(FLV[1])


def _walk_boxes(file: BinaryIO, size: int, name: str) -> tuple[int, bool]:
    """End of the last box of an MP4 or MOV file, and whether the file has two headers, each with its own index.

    ISO/IEC 14496-12, 4.2: a box begins with a 32-bit size and a name. Size 1: a 64-bit size follows; size 0: to the
    end. Boxes of other names than ``BOXES`` do not count for the end: decoders do not miss them, or they are garbage.
    """
    end = at = 0
    names: list[bytes] = []
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:
            break
        if head[4:8] == b"moof":
            file.seek(at)
            _check_fragment(file.read(min(length, BLOCK)), size, name)
        at += length
        if head[4:8] in BOXES:
            end = at
            names.append(head[4:8])
    return end, names.count(b"moov") > 1 and b"ftyp" in names[names.index(b"moov") :]


def _check_fragment(moof: bytes, size: int, name: str) -> None:
    """Refuse a fragment that claims more samples than the file has bytes.

    A run of samples (``trun``) need not store anything for each of them, and FFmpeg takes memory for as many as it
    claims: gigabytes for a damaged count in a small file.
    """
    at = moof.find(b"trun")
    while at >= 0:
        count = int.from_bytes(moof[at + 8 : at + 12], "big")  # after version and flags
        if 16 <= int.from_bytes(moof[at - 4 : at], "big") <= len(moof) - at + 4 and count > size:
            raise DataError(f"{name} is damaged: a fragment claims {count} frames, more than the file has bytes.")
        at = moof.find(b"trun", at + 4)


def _end_of_segment(head: bytes) -> int:
    """Matroska, WebM (RFC 8794, 4): the number of leading zero bits is the length of a size; all ones: unknown."""
    at = head.index(SEGMENT) + 4
    length = 9 - int.from_bytes(head[at : at + 1], "big").bit_length()
    if at + length > len(head):
        return at + length  # cut within the size
    mask = (1 << 7 * length) - 1
    size = int.from_bytes(head[at : at + length], "big") & mask
    return 0 if size == mask else at + length + size
