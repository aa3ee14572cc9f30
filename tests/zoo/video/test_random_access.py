"""Random access: frames by number equal those of sequential decoding, for all codecs and containers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.codec import Codec
from av.video.reformatter import VideoReformatter
from odd_videos import B_FRAMES, VARIABLE, encode

from zoo.errors import DataError
from zoo.video.decoding import VideoReader, open_video
from zoo.video.pixels import to_rgb
from zoo.video.source import Source

CONTAINERS = ("mp4", "mov", "matroska", "avi", "nut", "mpegts")

# All software video encoders in PyAV's wheel, with settings that differ from the defaults
ENCODERS: dict[str, dict[str, Any]] = {
    "libx264": {}, "libx264rgb": {}, "libx265": {}, "libsvtav1": {}, "libvpx": {}, "libvpx-vp9": {},
    "mpeg1video": {}, "mpeg2video": {}, "mpeg4": {}, "msmpeg4": {}, "msmpeg4v2": {}, "wmv1": {}, "wmv2": {}, "flv": {},
    "h261": {"size": (144, 176)}, "h263": {"size": (144, 176)}, "h263p": {"size": (144, 176)},
    "mjpeg": {"pix_fmt": "yuvj420p"}, "ljpeg": {"pix_fmt": "yuvj420p"}, "amv": {}, "jpeg2000": {}, "jpegls": {},
    "dirac": {}, "vc2": {}, "snow": {}, "prores": {}, "prores_aw": {}, "prores_ks": {}, "cfhd": {}, "speedhq": {},
    "dvvideo": {"size": (576, 720)}, "dnxhd": {"size": (720, 1280), "options": {"b": "90M"}},
    "asv1": {}, "asv2": {}, "avrp": {}, "cinepak": {}, "cljr": {}, "dpx": {}, "dxv": {}, "exr": {}, "ffv1": {},
    "ffvhuff": {}, "flashsv": {}, "flashsv2": {"container": "flv"}, "gif": {}, "huffyuv": {}, "magicyuv": {},
    "msrle": {"pix_fmt": "pal8"}, "msvideo1": {}, "png": {}, "qtrle": {}, "r10k": {}, "r210": {}, "rawvideo": {},
    "rpza": {}, "sgi": {}, "smc": {"pix_fmt": "pal8"}, "svq1": {}, "targa": {}, "tiff": {}, "utvideo": {}, "v210": {},
    "v308": {}, "v408": {}, "v410": {}, "y41p": {}, "yuv4": {}, "zlib": {}, "zmbv": {"pix_fmt": "bgr0"},
    "apng": {"container": "apng"}, "rv10": {"container": "rm", "size": (144, 176)},
    "rv20": {"container": "rm", "size": (144, 176)},
}  # fmt: skip
# Other names of these encoders, hardware encoders, and image codecs, which video containers do not support
ALIASES = {"av1", "h264", "hevc", "vp8", "vp9", "webp"}
HARDWARE = ("_nvenc", "_qsv", "_amf", "_v4l2m2m", "_cuvid", "_vaapi", "_videotoolbox", "_mf")
PICTURES = {
    "a64multi", "a64multi5", "alias_pix", "bitpacked", "bmp", "fits", "hdr", "libwebp", "libwebp_anim", "pam", "pbm",
    "pcx", "pfm", "pgm", "pgmyuv", "phm", "ppm", "qoi", "roqvideo", "sunrast", "vbn", "vnull", "wbmp",
    "wrapped_avframe", "xbm", "xface", "xwd",
}  # fmt: skip


def decode_sequentially(path: Path) -> torch.Tensor:
    """Decode all frames in order, with PyAV only."""
    reformatter = VideoReformatter()
    with av.open(str(path), metadata_errors="replace") as container:
        frames = [to_rgb(frame, reformatter) for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def check_random_access(path: Path) -> None:
    """Compare single frames, regular steps and scattered frames with sequential decoding."""
    expected = decode_sequentially(path)
    count = len(expected)
    with open_video(path) as reader:
        assert len(reader) == count
        assert torch.equal(reader.frames(range(count)), expected)
    generator = np.random.default_rng(0)
    scattered = [generator.integers(0, count, 5) for _ in range(6)]
    for numbers in ([count - 1], [1], range(1, count, 2), range(0, count, 5), *scattered):
        with open_video(path) as reader:
            assert torch.equal(reader.frames(list(numbers)), expected[list(numbers)]), list(numbers)
    with open_video(path) as reader:
        for number in [*range(1, count, 2), *range(0, count, 2)]:
            assert torch.equal(reader.frames([number])[0], expected[number]), number


def test_frames_after_the_last_of_a_group_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder is drained after the packet of each frame, although it returns frames with a delay."""
    options = {"g": "16", "bf": "0", "x264-params": "scenecut=0"}
    path = encode(tmp_path / "v.mp4", frames=64, options=options)
    expected = decode_sequentially(path)
    read: list[int] = []
    packets = VideoReader._packets

    def count(reader: VideoReader) -> Any:
        for packet in packets(reader):
            read.append(packet.pts)
            yield packet

    numbers = [3, 18, 19, 33]  # frames 0 to 3, 16 to 19, and 32 to 33 are needed
    with VideoReader(path) as reader:
        monkeypatch.setattr(VideoReader, "_packets", count)
        assert torch.equal(reader.frames(numbers), expected[numbers])
    assert len(read) == 4 + 4 + 2


COMMON: dict[str, dict[str, Any]] = {
    "h264": {"options": B_FRAMES},
    "h264_pyramid": {"options": {"bf": "4", "x264-params": "b-pyramid=normal:ref=4"}, "frames": 40},
    "h264_open_gop": {"options": B_FRAMES | {"x264-params": "open-gop=1:scenecut=0"}},
    "h264_open_gop_ts": {"options": B_FRAMES | {"x264-params": "open-gop=1:scenecut=0"}, "container": "mpegts"},
    "h264_10_bit_mkv": {"options": B_FRAMES, "pix_fmt": "yuv420p10le", "container": "matroska"},
    "h264_variable_rate": {"options": B_FRAMES, "times": VARIABLE},
    "h264_variable_rate_mkv": {"options": B_FRAMES, "times": VARIABLE, "container": "matroska"},
    "h264_interlaced_ts": {"options": B_FRAMES | {"x264-params": "interlaced=1"}, "container": "mpegts"},
    "h264_raw": {"options": B_FRAMES, "container": "h264"},
    "hevc_open_gop": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=8:bframes=3:pools=1"}},
    "hevc_closed_gop_mkv": {
        "codec": "libx265", "container": "matroska",
        "options": {"x265-params": "log-level=none:keyint=8:bframes=3:open-gop=0:pools=1"},
    },
    "hevc_10_bit_ts": {
        "codec": "libx265", "container": "mpegts", "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "log-level=none:keyint=8:bframes=4:temporal-layers=3:pools=1"},
    },
    "hevc_raw": {"codec": "libx265", "container": "hevc", "options": {"x265-params": "log-level=none:pools=1"}},
    "av1": {"codec": "libsvtav1", "size": (64, 64), "frames": 60},
    "av1_mkv": {"codec": "libsvtav1", "size": (64, 64), "container": "matroska", "frames": 40},
    "av1_webm": {"codec": "libsvtav1", "size": (64, 64), "container": "webm", "frames": 40},
    "av1_10_bit": {"codec": "libsvtav1", "size": (64, 64), "pix_fmt": "yuv420p10le"},
    "av1_open_gop": {
        "codec": "libsvtav1", "size": (64, 64), "frames": 40,
        "options": {"svtav1-params": "lp=1:keyint=15:irefresh-type=1"},
    },
    "av1_variable_rate": {"codec": "libsvtav1", "size": (64, 64), "times": VARIABLE, "container": "matroska"},
    "vp9": {
        "codec": "libvpx-vp9", "container": "webm", "options": {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "8"},
    },
    "vp9_mp4": {"codec": "libvpx-vp9", "options": {"g": "8"}},
    "vp8": {"codec": "libvpx", "container": "webm", "options": {"g": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}},
    "mpeg4": {"codec": "mpeg4", "options": B_FRAMES},
    "mpeg4_avi": {"codec": "mpeg4", "options": B_FRAMES, "container": "avi"},
    "mpeg2_ts": {"codec": "mpeg2video", "options": B_FRAMES, "container": "mpegts"},
    "mpeg2_vob": {"codec": "mpeg2video", "options": B_FRAMES, "container": "vob"},
    "mpeg2_raw": {"codec": "mpeg2video", "options": B_FRAMES, "container": "mpeg2video"},
    "mpeg1_mkv": {"codec": "mpeg1video", "options": B_FRAMES, "container": "matroska"},
    "mjpeg_avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "container": "avi"},
    "wmv": {"codec": "wmv2", "options": {"g": "8"}, "container": "asf"},
    "flv": {"codec": "flv", "options": {"g": "8"}, "container": "flv"},
    "ogg": {"codec": "libvpx", "options": {"g": "8"}, "container": "ogg"},
    "h263_raw": {"codec": "h263", "options": {"g": "8"}, "container": "h263", "size": (144, 176)},
    "dirac": {"codec": "dirac"},
    "dirac_mkv": {"codec": "dirac", "container": "matroska"},  # FFmpeg cannot seek in it
    "rpza": {"codec": "rpza", "container": "mov", "pix_fmt": "rgb555le"},
}  # fmt: skip


@pytest.mark.parametrize("kind", COMMON)
def test_random_access_is_exact(kind: str, tmp_path: Path) -> None:
    check_random_access(encode(tmp_path / "video", **COMMON[kind]))


def test_every_encoder_of_pyav_is_listed() -> None:
    available = set()
    for name in av.codecs_available:
        try:
            codec = Codec(name, "w")
        except ValueError:  # decodes only
            continue
        if codec.type == "video" and not name.endswith(HARDWARE):
            available.add(name)
    assert available <= set(ENCODERS) | ALIASES | PICTURES


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_random_access_is_exact_for_every_encoder_and_container(encoder: str, tmp_path: Path) -> None:
    settings = {"options": {} if encoder == "libsvtav1" else {"g": "8"}, "size": (64, 64)} | ENCODERS[encoder]
    formats = [f.name for f in Codec(encoder, "w").video_formats or []]
    pix_fmt = "yuv420p" if "yuv420p" in formats or not formats else formats[0]
    settings = {"pix_fmt": pix_fmt} | settings
    containers = [settings.pop("container")] if "container" in settings else CONTAINERS
    checked = []
    for container in containers:
        try:
            path = encode(tmp_path / container, encoder, container, **settings)
            decode_sequentially(path)
        except (av.FFmpegError, ValueError, OSError, IndexError):  # the container cannot hold this codec
            continue
        check_random_access(path)
        checked.append(container)
    assert checked or encoder in ("flashsv2", "msrle", "smc", "zmbv", "ljpeg", "dnxhd")


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9", "dirac"])
def test_skipping_is_only_set_for_decoders_that_support_it(codec: str, tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mkv", codec, "matroska", size=(64, 64))
    with VideoReader(path) as reader:
        reader.frames([11])
        assert str(reader._stream.codec_context.skip_frame) == "DEFAULT"


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="needs Linux")
def test_encoded_test_videos_leave_the_priority_of_the_process_unchanged(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    encode(tmp_path / "v.mp4", "libsvtav1", size=(64, 64))
    assert (os.sched_getscheduler(0), os.sched_getparam(0)) == before


def test_h264_frames_without_references_are_skipped(tmp_path: Path) -> None:
    class Counting(VideoReader):
        decoded = 0

        def _decoded(self, wanted: Any = None) -> Any:
            for frame in super()._decoded(wanted):
                self.decoded += 1
                yield frame

    path = encode(tmp_path / "v.mp4", options={"g": "60", "bf": "3", "x264-params": "scenecut=0"}, frames=60)
    with Counting(path) as reader:
        reader.frames([59])
        assert reader.decoded < 40


@pytest.mark.parametrize("container", ["matroska", "swf"])
def test_containers_that_cannot_seek_are_decoded_from_the_start(container: str, tmp_path: Path) -> None:
    path = encode(tmp_path / "video", "dirac" if container == "matroska" else "flv", container)
    check_random_access(path)


CUT: dict[str, dict[str, Any]] = {
    "h264_closed_gop": {"container": "mpegts", "options": B_FRAMES},
    "h264_open_gop": {"container": "mpegts", "options": B_FRAMES | {"x264-params": "open-gop=1:scenecut=0"}},
    "mpeg2": {"codec": "mpeg2video", "container": "mpegts", "options": B_FRAMES},
    "hevc": {
        "codec": "libx265", "container": "matroska",
        "options": {"x265-params": "log-level=none:keyint=8:min-keyint=8:scenecut=0:bframes=3:pools=1:open-gop=1"},
    },
}  # fmt: skip


@pytest.mark.parametrize("first", ["key frame", "frame 3"])
@pytest.mark.parametrize("kind", CUT)
def test_streams_cut_without_encoding_have_their_decodable_frames(kind: str, first: str, tmp_path: Path) -> None:
    complete = encode(tmp_path / "whole", frames=40, **CUT[kind])
    path = tmp_path / "cut"
    with av.open(str(complete)) as source, av.open(str(path), "w", format=CUT[kind]["container"]) as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        copied = False
        for number, packet in enumerate(source.demux(stream)):
            copied = copied or (number > 3 and packet.is_keyframe if first == "key frame" else number == 3)
            if copied and packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    check_random_access(path)


@pytest.mark.parametrize("container", ["h264", "hevc"])
def test_spans_of_raw_streams_are_rejected_with_the_reason(container: str, tmp_path: Path) -> None:
    path = encode(tmp_path / f"v.{container}", "libx264" if container == "h264" else "libx265", container)
    with pytest.raises(DataError, match=rf"v.{container} has no reliable display times"):
        open_video(Source(str(path), (0.0, 0.4)))
