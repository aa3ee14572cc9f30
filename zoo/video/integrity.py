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
# Headers of formats that do not store the file size. They are long enough not to occur by chance.
FLV = (b"FLV\x01", b"\0\0\0\x09\0\0\0\0")  # the bytes before and after the byte of flags
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
UNKNOWN_SIZE = (0, 0xFFFFFFFF)  # the size in AVI files whose writer could not seek back to fill it in
BLOCK = 1 << 20  # bytes per read of a search
MAX_INDEX = 256 << 20  # bytes of the index of an MP4 file that are searched


def check_integrity(
    file: BinaryIO, name: str, tick: Callable[[], None] = lambda: None, max_frames: int | None = None
) -> None:
    """Refuse empty, truncated and concatenated files, then seek to the start.

    Other formats are not checked. MPEG, raw streams and GIF may be concatenated, as decoders read all of their frames.

    Args:
        name: the name of the video in error messages.
        tick: called repeatedly during long searches; it may raise an error.
        max_frames: frames that the index of an MP4 file may claim; None for as many as the file has bytes.

    Raises:
        DataError: the file is empty, truncated or concatenated, or its header claims more frames than fit into it.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise DataError(f"{name} is empty (0 bytes).")
    file.seek(0)
    head = file.read(64)
    kind, end, concatenated = "", 0, False
    if head[4:8] in BOXES:
        kind = "MP4"
        end, concatenated = _scan_boxes(file, size, name, max_frames)
    elif head[:4] == b"RIFF":
        kind = "AVI"
        length = int.from_bytes(head[4:8], "little")
        end = 0 if length in UNKNOWN_SIZE else 8 + length
        if end:
            concatenated = _is_avi(_read_at(file, end + end % 2))
        else:
            concatenated = _contains(file, b"RIFF", _is_avi, tick)
    elif head[:4] == EBML and SEGMENT in head:
        kind = "Matroska or WebM"
        end = _end_of_segment(head)
        concatenated = _is_ebml(_read_at(file, end)) if end else _contains(file, EBML, _is_ebml, tick)
    elif _is_flv(head):
        kind = "FLV"
        concatenated = _contains(file, FLV[0], _is_flv, tick)
    elif head.startswith(ASF):
        kind = "WMV (ASF)"
        concatenated = _contains(file, ASF, lambda _: True, tick)
    if end > size:
        raise DataError(f"{name} is truncated: it has {size} of {end} bytes. Copy or download it again.")
    if concatenated:
        raise DataError(
            f"{name} consists of several concatenated {kind} files, of which decoders read only the first one "
            "correctly. Keep them as separate videos, or join them with FFmpeg's concat demuxer."
        )
    file.seek(0)


def _read_at(file: BinaryIO, position: int) -> bytes:
    file.seek(position)
    return file.read(64)


def _contains(file: BinaryIO, signature: bytes, accept: Callable[[bytes], bool], tick: Callable[[], None]) -> bool:
    """Whether the signature occurs after the first byte of a file, in a header that ``accept`` confirms."""
    start = 1
    file.seek(start)
    carry = b""  # the end of the last block, where a signature may begin
    while block := file.read(BLOCK):
        tick()
        data = carry + block
        offset = data.find(signature)
        while offset >= 0:
            if accept(_read_at(file, start + offset)):
                return True
            offset = data.find(signature, offset + 1)
        overlap = len(signature) - 1
        start += len(data) - overlap
        carry = data[len(data) - overlap :]
        file.seek(start + overlap)
    return False


def _is_avi(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"AVI "  # large AVI files continue in RIFF chunks of type AVIX


def _is_ebml(head: bytes) -> bool:
    return head[:4] == EBML and any(doctype in head for doctype in DOCTYPES)


def _is_flv(head: bytes) -> bool:
    return head.startswith(FLV[0]) and head[5:].startswith(FLV[1])


def _scan_boxes(file: BinaryIO, size: int, name: str, max_frames: int | None) -> tuple[int, bool]:
    """Return the end of the last box of an MP4 or MOV file, and whether the file has a second header with an index.

    A box begins with a 32-bit size and a name (ISO/IEC 14496-12, 4.2). Size 1 means that a 64-bit size follows, size 0
    that the box extends to the end of the file. Boxes whose names are not in ``BOXES`` do not move the end: decoders do
    not need them, or they are garbage.
    """
    end = offset = 0
    names: list[bytes] = []
    while offset + 8 <= size:
        file.seek(offset)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:
            break
        if head[4:8] == b"moof":
            file.seek(offset)
            _check_fragment(file.read(min(length, BLOCK)), size, name)
        if head[4:8] == b"moov":
            file.seek(offset)
            _check_sample_counts(file.read(min(length, MAX_INDEX)), size, max_frames, name)
        offset += length
        if head[4:8] in BOXES:
            end = offset
            names.append(head[4:8])
    return end, names.count(b"moov") > 1 and b"ftyp" in names[names.index(b"moov") :]


def _check_fragment(moof: bytes, size: int, name: str) -> None:
    """Refuse a fragment that claims more samples than the file has bytes.

    A run of samples (``trun``) can claim samples without storing any data for them, and FFmpeg allocates memory for all
    claimed samples: a damaged count in a small file would cost gigabytes.
    """
    offset = moof.find(b"trun")
    while offset >= 0:
        count = int.from_bytes(moof[offset + 8 : offset + 12], "big")  # after version and flags
        box_size = int.from_bytes(moof[offset - 4 : offset], "big")
        if 16 <= box_size <= len(moof) - offset + 4 and count > size:
            raise DataError(f"{name} is damaged: a fragment claims {count} frames, more than the file has bytes.")
        offset = moof.find(b"trun", offset + 4)


def _check_sample_counts(moov: bytes, size: int, max_frames: int | None, name: str) -> None:
    """Refuse an index in which a track claims more frames than the file has bytes, or more than ``max_frames``.

    If all samples have the same size, the box ``stsz`` stores only their number. FFmpeg allocates memory for all of
    them, and seeks among them without checking a time limit. The number of audio samples is checked only with
    ``max_frames``, because compressed audio may have more samples than bytes.
    """
    if max_frames is not None and b"cmov" in moov:
        raise DataError(f"{name} has a compressed index, whose size cannot be checked. Convert it with FFmpeg.")
    for track in moov.split(b"trak")[1:]:
        is_video = b"vide" in track
        if not is_video and max_frames is None:
            continue
        limit = min(size, max_frames) if is_video and max_frames is not None else size
        offset = track.find(b"stsz")
        while offset >= 0:
            count = int.from_bytes(track[offset + 12 : offset + 16], "big")  # after version, flags and the common size
            box_size = int.from_bytes(track[offset - 4 : offset], "big")
            if 20 <= box_size <= len(track) - offset + 4 and count > limit:
                raise DataError(f"{name} claims {count} frames in a track; at most {limit} are possible or allowed.")
            offset = track.find(b"stsz", offset + 4)


def _end_of_segment(head: bytes) -> int:
    """Return the end of the segment of a Matroska or WebM file, or 0 if its size is not stored.

    The number of leading zero bits of a size determines its length; a size of ones is unknown (RFC 8794, 4).
    """
    offset = head.index(SEGMENT) + 4
    length = 9 - int.from_bytes(head[offset : offset + 1], "big").bit_length()
    if offset + length > len(head):
        return offset + length  # the file is truncated within the size
    mask = (1 << 7 * length) - 1
    size = int.from_bytes(head[offset : offset + length], "big") & mask
    return 0 if size == mask else offset + length + size
