"""Concatenated files (``cat a b``): all frames if the format allows it, otherwise an error that states the cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from odd_videos import encode

from datamodules.tools.encode import encode as prepare_video
from datamodules.tools.encoding import Encoding
from zoo.errors import DataError
from zoo.video.decoding import open_video

JOINABLE: dict[str, dict[str, Any]] = {
    "mpegts": {"container": "mpegts", "options": {"g": "8", "bf": "2"}},
    "mpegts_mpeg2": {"codec": "mpeg2video", "container": "mpegts", "options": {"g": "8"}},
    "mpeg_program_stream": {"codec": "mpeg2video", "container": "mpeg"},
    "h264_raw": {"container": "h264", "options": {"g": "8", "bf": "2"}},
    "mpeg4_raw": {"codec": "mpeg4", "container": "m4v"},
    "gif": {"codec": "gif", "container": "gif", "pix_fmt": "rgb8"},
}
REFUSED: dict[str, dict[str, Any]] = {
    "mp4": {},
    "mp4_index_first": {"mux": {"movflags": "faststart"}},
    "mp4_fragmented": {"mux": {"movflags": "frag_keyframe+empty_moov"}},
    "mov": {"container": "mov"},
    "mkv": {"container": "matroska"},
    "mkv_live": {"container": "matroska", "mux": {"live": "1"}},
    "webm": {"codec": "libvpx-vp9", "container": "webm"},
    "avi": {"codec": "mpeg4", "container": "avi"},
    "flv": {"codec": "flv", "container": "flv"},
    "wmv": {"codec": "wmv2", "container": "asf"},
}


def read(path: Path) -> torch.Tensor:
    with open_video(path) as reader:
        return reader.frames(range(len(reader)))


def encode_parts(folder: Path, settings: dict[str, Any]) -> tuple[Path, Path]:
    return encode(folder / "a", frames=40, **settings), encode(folder / "b", frames=30, **settings)


@pytest.mark.parametrize("kind", JOINABLE)
def test_concatenated_streams_have_the_frames_of_all_parts(kind: str, tmp_path: Path) -> None:
    first, second = encode_parts(tmp_path, JOINABLE[kind])
    joined = tmp_path / "joined"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    expected = torch.cat([read(first), read(second)])
    with open_video(joined) as reader:
        assert len(reader) == 70
        assert torch.equal(reader.frames(range(70)), expected)
        assert torch.equal(reader.frames([69, 3, 41, 39, 40]), expected[[69, 3, 41, 39, 40]])


def test_concatenated_streams_are_prepared_completely(tmp_path: Path) -> None:
    first, second = encode_parts(tmp_path, JOINABLE["mpegts"])
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert prepare_video(joined, tmp_path / "out.mp4", Encoding(short_side=48)) == 70
    assert len(read(tmp_path / "out.mp4")) == 70


@pytest.mark.parametrize("kind", REFUSED)
def test_concatenated_files_with_headers_are_refused(kind: str, tmp_path: Path) -> None:
    first, second = encode_parts(tmp_path, REFUSED[kind])
    assert len(read(first)) == 40
    for content in (first.read_bytes() + second.read_bytes(), 2 * first.read_bytes()):
        (tmp_path / "joined.x").write_bytes(content)
        with pytest.raises(DataError, match=r"joined.x consists of several concatenated .* files"):
            read(tmp_path / "joined.x")


def test_trailing_bytes_are_ignored(tmp_path: Path) -> None:
    for kind in ("mp4", "mkv", "avi"):
        path = encode(tmp_path / kind, frames=10, **REFUSED[kind])
        path.write_bytes(path.read_bytes() + b"\0" * 100 + b"some tool's notes")
        assert len(read(path)) == 10


def test_missing_packet_is_reported_as_damage(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.ts", container="mpegts", options={"g": "8", "bf": "0"}, frames=40)
    data = path.read_bytes()
    middle = len(data) // 2 // 188 * 188
    path.write_bytes(data[:middle] + data[middle + 188 :])
    with pytest.raises(DataError, match=r"v.ts is damaged: a packet near frame \d+ is corrupt"):
        read(path)
