"""Whether a video file is as long as its header says: MP4, AVI and Matroska files note their size.

FFmpeg opens a file that was cut short, shows what is left and says nothing, or says it at its end only.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from zoo.errors import DataError

BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"styp", b"sidx", b"uuid")
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
PIPED = 0xFFFFFFFF  # what AVI files have for a size, or 0, if nobody could go back and fill it in


def check_whole(file: BinaryIO, name: str) -> None:
    """Refuse an empty file and one that ends before its own end; leaves the file at its start.

    Of other formats (MPEG, FLV, WMV) and of files that were written to a pipe, nothing is known.

    Raises:
        DataError: it is empty or cut short.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise DataError(f"{name} is empty (0 bytes).")
    file.seek(0)
    head = file.read(64)
    if head[4:8] in BOXES:
        end = _end_of_boxes(file, size)
    elif head[:4] == b"RIFF":
        length = int.from_bytes(head[4:8], "little")
        end = 0 if length in (0, PIPED) else 8 + length
    elif head[:4] == EBML and SEGMENT in head:
        end = _end_of_segment(head)
    else:
        end = 0
    if end > size:
        raise DataError(f"{name} is cut short: it has {size} bytes of {end}. Copy or download it again.")
    file.seek(0)


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """MP4, MOV (ISO/IEC 14496-12, 4.2): boxes of 32-bit size and name; size 1: a 64-bit size follows; 0: to the end."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if head[4:8] not in BOXES or length < 8:
            break  # of no use to decoders, or garbage at the end
        at += length
    return at


def _end_of_segment(head: bytes) -> int:
    """Matroska, WebM (RFC 8794, 4): the number of leading zero bits says how long a size is; all ones: not known."""
    at = head.index(SEGMENT) + 4
    length = 9 - int.from_bytes(head[at : at + 1], "big").bit_length()
    if at + length > len(head):
        return at + length  # cut within the size
    mask = (1 << 7 * length) - 1
    size = int.from_bytes(head[at : at + length], "big") & mask
    return 0 if size == mask else at + length + size
