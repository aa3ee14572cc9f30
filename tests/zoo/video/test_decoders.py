"""Both decoders: the same frames of unusual videos, the same errors for bad files, in bounded time and memory.

All tests run twice, the second time with torchcodec in another process. torchcodec needs FFmpeg's libraries. PyAV's
wheel contains them under other names; a folder of links with the usual names makes them loadable.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from odd_videos import BAD_KINDS, FRAMES, ODD_KINDS, _silence, encode, flipped, make_bad, make_odd, pictures

from datamodules.motionclips import write_video
from datamodules.shard_index import pack, scan
from datamodules.tree import Tree
from zoo.errors import ConfigError, DataError
from zoo.video import shard_member
from zoo.video.containers import COVER
from zoo.video.decoding import VideoReader, open_video
from zoo.video.names import DECODERS
from zoo.video.pixels import stack_images
from zoo.video.source import Source
from zoo.video.torchcodec_reader import TorchcodecReader

CHOICE = "TEMPOZOO_TEST_DECODER"
DECODER = os.environ.get(CHOICE, "pyav")


Odd = Callable[[str], bytes]


def put(content: bytes, path: Path) -> Path:
    path.write_bytes(content)
    return path


def ffmpeg_of_pyav(folder: Path) -> Path:
    """Create links to the libraries in PyAV's wheel, with the names that torchcodec searches for."""
    for file in Path(av.__file__).parents[1].joinpath("av.libs").glob("lib*.so.*"):
        name = re.match(r"(lib(?:av|sw)[a-z]+)-\w+\.so\.(\d+)", file.name)
        if name:
            (folder / f"{name[1]}.so.{name[2]}").symlink_to(file)
    return folder


@pytest.mark.skipif(DECODER != "pyav", reason="runs in that process")
def test_torchcodec_passes_the_same_tests(tmp_path: Path) -> None:
    if importlib.util.find_spec("torchcodec") is None or not any(ffmpeg_of_pyav(tmp_path).iterdir()):
        pytest.skip("torchcodec, or a wheel of PyAV with FFmpeg's libraries, is not installed")
    environment = os.environ | {CHOICE: "torchcodec", "LD_LIBRARY_PATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout
    assert re.search(r"(\d+) passed, 1 skipped", process.stdout), process.stdout[-500:]


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Odd:
    """A function that returns the bytes of an odd video; each is encoded once."""
    folder = tmp_path_factory.mktemp("odd")
    return functools.cache(lambda kind: make_odd(kind, folder / kind).read_bytes())


# the same frames -------------------------------------------------------------------------------------------------


def encoded_frames(kind: str) -> np.ndarray:
    """The encoded frames ``(n, H, W, 3)``, as players show them."""
    size = (48, 64)
    if "odd_size" in kind:
        size = (37, 53)
    elif kind.startswith("av1"):
        size = (64, 64)
    video = pictures(1 if kind == "single_frame" else FRAMES, size, gray=kind in ("gray", "paletted"))
    if kind == "bottom_up_avi":
        video = video[:, ::-1]
    if kind == "copied_from_within":
        video = video[13:]
    shown = {
        "turned_90": lambda video: np.rot90(video, -1, axes=(1, 2)),
        "turned_180": lambda video: video[:, ::-1, ::-1],
        "turned_270": lambda video: np.rot90(video, 1, axes=(1, 2)),
        "mirrored": lambda video: video[:, :, ::-1],
        "upside_down": lambda video: video[:, ::-1],
        "transposed": lambda video: video.swapaxes(1, 2),
        "transposed_back": lambda video: video[:, ::-1, ::-1].swapaxes(1, 2),
    }
    return shown[kind](video) if kind in shown else video


@pytest.mark.parametrize("kind", ODD_KINDS)
def test_unusual_videos_decode_to_the_written_frames(kind: str, tmp_path: Path, odd: Odd) -> None:
    path = put(odd(kind), tmp_path / "v.mp4")
    expected = torch.from_numpy(encoded_frames(kind).copy()).permute(0, 3, 1, 2)
    with open_video(path, DECODER) as reader:
        assert len(reader) == len(expected)
        frames = reader.frames(range(len(reader)))
        assert frames.dtype == torch.uint8 and frames.shape == expected.shape
        decoded, encoded = frames[:, None, :, ::3, ::4].float(), expected[None, :, :, ::3, ::4].float()
        distance = (decoded - encoded).abs().mean((2, 3, 4))  # (decoded, encoded)
        assert distance.argmin(1).tolist() == list(range(len(expected)))
        assert distance.diagonal().max() < 7
        numbers = torch.randint(len(reader), (9,))
        assert torch.equal(reader.frames(numbers.numpy()), frames[numbers])
        fps = reader.fps
    for number in {len(expected) // 2, len(expected) - 1}:
        with open_video(path, DECODER) as reader:
            assert torch.equal(reader.frames([number])[0], frames[number])
    with VideoReader(path) as reader:  # bit-identical with both decoders
        assert (len(reader), reader.fps) == (len(expected), fps)
        assert torch.equal(reader.frames(range(len(reader))), frames)


@pytest.mark.skipif(DECODER != "torchcodec", reason="torchcodec only")
@pytest.mark.parametrize("kind", ["h264", "hevc", "vp9", "mpeg4_mp4", "mpeg4_avi_without_b_frames", "turned_90"])
def test_torchcodec_decodes_common_files_without_fallback(kind: str, tmp_path: Path, odd: Odd) -> None:
    with TorchcodecReader(put(odd(kind), tmp_path / "v.mp4")) as reader:
        numbers = np.arange(FRAMES)
        assert torch.equal(reader._chunk(numbers), VideoReader._stack(reader, numbers))


def test_frame_rate_is_the_average_rate(tmp_path: Path, odd: Odd) -> None:
    with open_video(put(odd("h264"), tmp_path / "v.mp4"), DECODER) as reader:
        assert reader.fps == 25
    with open_video(put(odd("variable_rate"), tmp_path / "w.mp4"), DECODER) as reader:
        assert reader.fps == pytest.approx(FRAMES / 1.27, rel=0.02)  # a gap of .3 s in 24 frames of .04 s


@pytest.mark.parametrize(
    "kind", ["h264", "h264_open_gop", "hevc", "vp9", "mpegts", "starts_late", "starts_late_mkv", "sound_first"]
)
def test_spans_are_the_frames_between_two_times(kind: str, tmp_path: Path, odd: Odd) -> None:
    path = put(odd(kind), tmp_path / "v.mp4")
    with open_video(path, DECODER) as reader:
        all_frames = reader.frames(range(FRAMES))
    for start, stop in [(0.0, 0.2), (0.4, 0.41), (0.35, 0.61), (0.88, 9.0)]:
        with open_video(Source(str(path), (start, stop)), DECODER) as reader:
            numbers = [n for n in range(FRAMES) if start <= n / 25 < stop]
            assert len(reader) == len(numbers)
            assert torch.equal(reader.frames(range(len(numbers))), all_frames[numbers])
            assert torch.equal(reader.frames([len(numbers) - 1])[0], all_frames[numbers[-1]])
            assert reader.fps == 25
    for span in [(1.0, 2.0), (0.41, 0.42), (0.5, 0.2), (-2.0, -1.0)]:
        with pytest.raises(DataError, match=r"v.mp4 has no frames from -?[\d.]+ s to"):
            open_video(Source(str(path), span), DECODER)


def test_frames_are_transformed_a_few_at_a_time(tmp_path: Path, odd: Odd) -> None:
    path = encode(tmp_path / "long.mp4", frames=2 * FRAMES)

    def halve(frames: torch.Tensor) -> torch.Tensor:
        sizes.append(len(frames))
        return frames[..., ::2, ::2].float()

    for video in (path, put(odd("mpeg4_avi"), tmp_path / "b.avi")):
        sizes: list[int] = []
        with open_video(video, DECODER) as reader:
            numbers = [5, 3, 3, *range(len(reader))]
            assert torch.equal(reader.frames(numbers, halve), reader.frames(numbers)[..., ::2, ::2].float())
        assert sum(sizes) == len(reader)
        assert max(sizes) <= 16


def test_frames_are_not_copied(tmp_path: Path, odd: Odd) -> None:
    class RecordingReader(VideoReader):
        def _stack(
            self, numbers: np.ndarray, transform: Callable[[torch.Tensor], torch.Tensor] | None = None
        ) -> torch.Tensor:
            self.decoded = super()._stack(numbers, transform)
            return self.decoded

    with RecordingReader(put(odd("h264"), tmp_path / "v.mp4")) as reader:
        frames = reader.frames(range(FRAMES))
        assert frames is reader.decoded
        assert torch.equal(reader.frames([3, 1, 3]), frames[[3, 1, 3]])
    tracemalloc.start()
    stack_images((np.full((64, 64, 3), n, np.uint8) for n in range(FRAMES)), FRAMES, "v.mp4")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * FRAMES * 64 * 64 * 3


def test_spans_read_only_their_packets(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mp4", "mpeg4", frames=400, size=(16, 16), options={"g": "10"})
    packets = []

    class Counting(VideoReader):
        def _packets(self):
            for packet in super()._packets():
                packets.append(packet)
                yield packet

    with Counting(Source(str(path), (12.0, 13.0))) as reader:
        assert len(reader) == 25
        reader.frames([0, 24])
    assert len(packets) < 100  # of 400, which are read twice


@pytest.mark.parametrize("kind", ["mpeg4_avi", "mpeg1"])
def test_spans_need_display_times(kind: str, tmp_path: Path, odd: Odd) -> None:
    path = put(odd(kind), tmp_path / "v.avi")
    with pytest.raises(DataError, match=r"v.avi has no reliable display times"):
        open_video(Source(str(path), (0.0, 0.5)), DECODER)


def test_videos_in_shards_have_the_same_frames(tmp_path: Path) -> None:
    videos = [make_odd(kind, tmp_path / f"{kind}.mp4") for kind in ("vp9", "h264")]
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for video in videos:
            shard.add(video, video.name)
    with tarfile.open(tmp_path / "s.tar") as shard:
        byte_spans = {member.name: (member.offset_data, member.size) for member in shard}
    for video in videos:
        source = Source(str(tmp_path / "s.tar"), (0.2, 0.6), byte_spans[video.name], name=video.name)
        with open_video(source, DECODER) as inside, open_video(Source(str(video), (0.2, 0.6)), DECODER) as outside:
            assert len(inside) == len(outside) == 10
            assert torch.equal(inside.frames(range(10)), outside.frames(range(10)))


@pytest.mark.parametrize("kind", ["lossless_rgb", "odd_size", "huge_gop", "fragmented", "mpegts", "paletted"])
def test_large_videos_inside_a_shard_are_read_block_by_block(
    kind: str, tmp_path: Path, odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_member, "BLOCK", 512)  # blocks much smaller than the video
    monkeypatch.setattr(shard_member, "CACHED_BLOCKS", 2)
    video = put(odd(kind), tmp_path / "v.mp4")
    pack(tmp_path, [video.name], tmp_path / "s.tar")
    ((_, offset, size, _),) = scan(str(tmp_path / "s.tar"))[0]
    for span in (None, (0.2, 0.6)) if kind != "paletted" else (None,):
        source = Source(str(tmp_path / "s.tar"), span, (offset, size), "v.mp4")
        with open_video(source, DECODER) as inside, open_video(Source(str(video), span), DECODER) as outside:
            assert isinstance(inside, VideoReader) and isinstance(inside._file, io.BufferedReader)
            assert getattr(inside, "_decoder", None) is None or DECODER == "torchcodec"
            numbers = [len(outside) - 1, 0, len(outside) // 2]
            assert len(inside) == len(outside)
            assert torch.equal(inside.frames(numbers), outside.frames(numbers))
            all_frames = outside.frames(range(len(outside)))
            assert torch.equal(inside.frames(range(len(outside))), all_frames)
    os.truncate(tmp_path / "s.tar", offset + size // 2)
    with pytest.raises(DataError, match=r"^v.mp4 in .*s.tar ends \d+ bytes too early"):
        decode(Source(str(tmp_path / "s.tar"), None, (offset, size), "v.mp4"))


@pytest.mark.skipif(DECODER != "torchcodec", reason="torchcodec only")
def test_both_decoders_of_a_large_video_have_separate_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_member, "BLOCK", 4096)
    noise = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "v.mp4", noise)
    pack(tmp_path, ["v.mp4"], tmp_path / "s.tar")
    ((_, offset, size, _),) = scan(str(tmp_path / "s.tar"))[0]
    all_frames = decode(tmp_path / "v.mp4")
    with open_video(Source(str(tmp_path / "s.tar"), None, (offset, size), "v.mp4"), DECODER) as reader:
        assert isinstance(reader, TorchcodecReader) and reader._decoder is not None
        for n in range(200):  # PyAV continues after failures of torchcodec
            assert torch.equal(reader.frames([199 - n])[0], all_frames[199 - n])
            assert torch.equal(VideoReader._stack(reader, np.array([n]))[0], all_frames[n])


def test_cover_image_is_not_a_video(tmp_path: Path) -> None:
    if int(av.__version__.split(".")[0]) < 15:
        pytest.skip("This version of PyAV does not distinguish cover pictures from videos")
    for name, flags in (("song.mp4", COVER), ("video.mp4", 0)):
        with av.open(str(tmp_path / name), "w") as out:
            sound = out.add_stream("aac", rate=16000)
            stream = out.add_stream("mjpeg", rate=1, width=64, height=48, pix_fmt="yuvj420p")
            stream.disposition = av.stream.Disposition(flags)
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            out.mux([*stream.encode(picture.reformat(format="yuvj420p")), *stream.encode()])
            out.mux([*sound.encode(_silence(0)), *sound.encode()])
    assert decode(tmp_path / "video.mp4").shape == (1, 3, 48, 64)
    with pytest.raises(DataError, match=r"song.mp4 has no video stream, only a cover picture"):
        decode(tmp_path / "song.mp4")


@pytest.mark.parametrize(
    ("ending", "codec", "container"),
    [
        (".mts", "libx264", "mpegts"), (".m2ts", "mpeg2video", "mpegts"), (".m2t", "mpeg2video", "mpegts"),
        (".ogv", "libvpx", "ogg"), (".asf", "msmpeg4", "asf"), (".vob", "mpeg2video", "vob"), (".divx", "mpeg4", "avi"),
        (".f4v", "libx264", "mp4"), (".3g2", "mpeg4", "3g2"), (".m2v", "mpeg2video", "mpeg2video"),
        (".mxf", "mpeg2video", "mxf"), (".qt", "mpeg4", "mov"), (".h264", "libx264", "h264"),
        (".264", "libx264", "h264"),
        (".hevc", "libx265", "hevc"), (".h265", "libx265", "hevc"), (".265", "libx265", "hevc"),
        (".obu", "libsvtav1", "obu"), (".av1", "libsvtav1", "obu"), (".ivf", "libsvtav1", "ivf"),
    ],
)  # fmt: skip
def test_videos_with_rare_extensions_are_read(ending: str, codec: str, container: str, tmp_path: Path) -> None:
    path = encode(tmp_path / f"v{ending.upper()}", codec, container, size=(64, 64))
    assert Tree(tmp_path).names == [path.name]
    assert decode(path).shape[:2] == (FRAMES, 3)


def test_frames_of_different_sizes_are_rejected(tmp_path: Path) -> None:
    parts = [encode(tmp_path / str(h), "mpeg1video", "mpeg", size=(h, 64)).read_bytes() for h in (48, 32)]
    (tmp_path / "v.mpg").write_bytes(b"".join(parts))
    with open_video(tmp_path / "v.mpg", DECODER) as reader:
        assert len(reader) > FRAMES + 17
        assert reader.frames([0, 5]).shape == (2, 3, 48, 64)
        with pytest.raises(DataError, match=r"v.mpg differ in size: \(32, 64\) and \(48, 64\)"):
            reader.frames([0, 40])


# bad files -------------------------------------------------------------------------------------------------------


def decode(path: Path | Source, seconds: float = 60.0, decoder: str = DECODER) -> torch.Tensor:
    with open_video(path, decoder, deadline=time.monotonic() + seconds) as reader:
        return reader.frames(range(len(reader)))


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_bad_files_raise_errors_in_bounded_time(kind: str, tmp_path: Path) -> None:
    path = make_bad(kind, tmp_path / f"{kind}.mp4")
    start = time.monotonic()
    with pytest.raises(DataError, match=f"{kind}.mp4"):
        decode(path, seconds=0.5)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("kind", ["mpegts", "vp9", "mpeg4_avi_without_b_frames"])
def test_decoding_stops_at_the_deadline(kind: str, tmp_path: Path, odd: Odd) -> None:
    path = put(odd(kind), tmp_path / "v.mp4")
    size = path.stat().st_size
    os.truncate(path, size // 3)
    os.truncate(path, 1 << 40)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"v.mp4 took longer than 0\.\d+ s to decode"):
        decode(path, seconds=0.3)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("percent", [10, 50, 90])
@pytest.mark.parametrize("kind", ["h264", "fragmented", "vp9", "mpeg4_avi", "mjpeg_avi"])
def test_truncated_files_are_rejected(kind: str, percent: int, tmp_path: Path, odd: Odd) -> None:
    path = put(odd(kind), tmp_path / "v.mp4")
    os.truncate(path, path.stat().st_size * percent // 100)
    with pytest.raises(DataError, match=r"v.mp4"):
        decode(path)


@pytest.mark.parametrize("kind", ["vp9", "sound_first"])
def test_matroska_files_cut_in_their_first_bytes_are_rejected(kind: str, tmp_path: Path, odd: Odd) -> None:
    data = odd(kind)
    segment = data.index(b"\x18\x53\x80\x67")
    for size in range(segment, segment + 16):
        with pytest.raises(DataError, match=r"v.mp4"):
            decode(put(data[:size], tmp_path / "v.mp4"))


@pytest.mark.parametrize("kind", ["h264", "hevc", "vp9", "mpeg4_mp4", "mjpeg_avi", "flv"])
def test_damaged_files_give_the_same_outcome_each_time(kind: str, tmp_path: Path, odd: Odd) -> None:
    """Both decoders return the same, except for frames with concealed damage, which torchcodec does not report."""
    path = put(odd(kind), tmp_path / "v.mp4")
    data, verdicts = path.read_bytes(), []

    def verdict(decoder: str) -> str:
        try:
            return f"{len(decode(path, decoder=decoder))} frames"
        except DataError as error:
            return str(error)

    for seed in range(6):
        path.write_bytes(flipped(data, 0.004, seed))
        outcome = verdict(DECODER)
        assert verdict(DECODER) == outcome
        reference = verdict("pyav")
        assert outcome == reference or "is corrupt" in reference
        verdicts.append(reference)
    assert any("v.mp4" in verdict for verdict in verdicts)


def test_deadline_in_the_past_raises_an_error(tmp_path: Path, odd: Odd) -> None:
    path = put(odd("h264"), tmp_path / "v.mp4")
    with pytest.raises(DataError, match=r"v.mp4 took longer than 0 s"):
        open_video(path, DECODER, deadline=time.monotonic() - 1)
    with open_video(path, DECODER, deadline=time.monotonic() + 0.2) as reader:
        time.sleep(0.2)
        with pytest.raises(DataError, match=r"v.mp4 took longer than 0\.\d+ s"):
            reader.frames([0])


def test_missing_files_and_decoders_are_reported(tmp_path: Path, odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(odd("h264"), tmp_path / "v.mp4")
    with pytest.raises(ConfigError, match="decoder is 'decord'; choose from pyav, torchcodec"):
        open_video(path, "decord")
    with pytest.raises(DataError, match="Video .*none.mp4 does not exist"):
        open_video(tmp_path / "none.mp4", DECODER)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match="pip install torchcodec.*apt-get install ffmpeg"):
        open_video(path, "torchcodec")
    assert DECODER in DECODERS


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_videos(tmp_path: Path) -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    path = encode(tmp_path / "v.mp4", frames=3, size=(32, 32))
    for _ in range(500):
        decode(path)
    before = resident()
    for _ in range(10_000):
        decode(path)
    assert resident() - before < 4
