"""A data set cannot make FFmpeg open another file or URL; a watched file shows whether it was opened."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from odd_videos import encode

from datamodules.tools.encode import encode as prepare_video
from datamodules.tools.encoding import Encoding
from datamodules.tools.stats import describe_video
from zoo.errors import DataError
from zoo.video.containers import FORMATS
from zoo.video.decoding import open_video
from zoo.video.source import Source

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify watches the file")
IN_OPEN, IN_NONBLOCK = 0x20, 0o4000


class Canary:
    """A video file that records whether it has been opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(IN_NONBLOCK)
        assert self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), IN_OPEN) > 0

    @property
    def opened(self) -> bool:
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    canary = Canary(encode(tmp_path / "canary.ts", container="mpegts"))
    yield canary
    canary.close()


@pytest.fixture
def port() -> Iterator[int]:
    """A port; the test fails if anything connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        yield server.getsockname()[1]
        with pytest.raises(TimeoutError):
            server.accept()


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5.0,\n{}\n#EXT-X-ENDLIST\n"
REFERENCES = {
    "concat.mp4": "ffconcat version 1.0\nfile canary.ts\n",
    "concat_absolute.mkv": "ffconcat version 1.0\nfile '{path}'\n",
    "playlist.m3u8": PLAYLIST.format("canary.ts"),
    "playlist.mp4": PLAYLIST.format("canary.ts"),
    "remote.m3u8": PLAYLIST.format("http://127.0.0.1:{port}/canary.ts"),
    "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet><Representation id="1" '
    'bandwidth="1"><BaseURL>canary.ts</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP/TCP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "redirector.mov": "rtsptextrtsp://127.0.0.1:{port}/canary.ts\n",
    "reference.wmv": "[Reference]\nRef1=http://127.0.0.1:{port}/canary.ts\n",
    "canary.idx": "# VobSub index file, v7 (do not modify this line!)\nsize: 720x480\nid: en, index: 0\n"
    "timestamp: 00:00:01:101, filepos: 000000000\n",
    "composition.xml": '<?xml version="1.0"?><CompositionPlaylist '
    'xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"></CompositionPlaylist>',
}


def test_file_access_of_ffmpeg_is_recorded(canary: Canary) -> None:
    assert not canary.opened
    (canary.path.parent / "list.mp4").write_text(REFERENCES["concat.mp4"])
    with av.open(str(canary.path.parent / "list.mp4")) as container:
        assert container.format.name == "concat"
    assert canary.opened


@pytest.mark.parametrize("name", REFERENCES)
def test_files_that_refer_to_others_are_rejected(name: str, canary: Canary, port: int) -> None:
    path = canary.path.parent / name
    path.write_text(REFERENCES[name].replace("{path}", str(canary.path)).replace("{port}", str(port)))
    for read in (
        open_video,
        lambda path: describe_video(Source(str(path))),
        lambda path: prepare_video(path, path.with_name("out.mp4"), Encoding()),
    ):
        with pytest.raises(DataError, match=name):
            read(path)
    assert not canary.opened


def test_playlist_error_states_the_reason(tmp_path: Path) -> None:
    (tmp_path / "list.mp4").write_text(REFERENCES["concat.mp4"])
    with pytest.raises(DataError, match=r"list.mp4 is not a video in a supported container format.*Playlists"):
        open_video(tmp_path / "list.mp4")


def with_external_track(data: bytes, target: str) -> bytes:
    """Replace the data reference of a QuickTime file by a Macintosh alias to another file."""
    name = target.encode()
    # Alias record: 150 bytes, of which FFmpeg reads the volume and levels, then type 2: the absolute path.
    record = bytes(50) + struct.pack(">hh", 1, 1) + bytes(96) + struct.pack(">HH", 2, len(name)) + name
    record += bytes(len(name) % 2) + struct.pack(">HH", 0xFFFF, 0)
    alias = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    offset = data.index(b"dref") - 4
    size = int.from_bytes(data[offset : offset + 4], "big")
    dref = struct.pack(">I4sII", 16 + len(alias), b"dref", 0, 1) + alias
    grown = len(dref) - size
    data = data[:offset] + dref + data[offset + size :]
    for box in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):  # the enclosing boxes grow with it
        start = data.rindex(box, 0, offset) - 4
        length = int.from_bytes(data[start : start + 4], "big") + grown
        data = data[:start] + length.to_bytes(4, "big") + data[start + 4 :]
    return data


def test_external_tracks_of_quicktime_files_are_not_opened(canary: Canary) -> None:
    path = canary.path.with_name("movie.mov")
    data = encode(path, container="mov").read_bytes()  # the index is at the end, so no offset changes
    path.write_bytes(with_external_track(data, str(canary.path)))
    with pytest.raises(DataError, match=r"movie.mov"), open_video(path) as reader:
        reader.frames([0])
    assert not canary.opened


def test_numbered_images_are_not_read_as_a_video(tmp_path: Path) -> None:
    for name in ("frame1.png", "frame2.png"):
        encode(tmp_path / name, "png", "image2", frames=1, pix_fmt="rgb24", mux={"update": "1"})
    with pytest.raises(DataError, match=r"Video .*frame%d.png does not exist"):
        open_video(tmp_path / "frame%d.png")


def test_formats_that_open_other_files_are_not_allowed() -> None:
    others = {"concat", "hls", "dash", "imf", "sdp", "rtsp", "rtp", "sap", "image2", "vobsub", "lavfi", "mlv"}
    assert not others & set(FORMATS)
