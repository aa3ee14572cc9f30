"""Options of all data sets: repeats, seeds, excluded videos, and invalid values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from annotation_files import write_csv
from data_modules import set_up

from datamodules import VideoFolder, VideoList
from datamodules.records import VideoRecords
from zoo.errors import ConfigError, DataError
from zoo.video.decoding import VideoReader


def test_repeats_are_different_clips_of_one_decode(motion_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = set_up(VideoFolder(motion_folder, num_workers=0, batch_size=8, repeats=2, color_jitter=0.4, erasing=1.0))
    calls = []
    original = VideoReader.frames
    monkeypatch.setattr(VideoReader, "frames", lambda self, i, *more: calls.append(i) or original(self, i, *more))
    loader = data.train_dataloader()
    assert len(loader) == 8  # 8 batches of 4 videos each
    batch = next(iter(loader))
    assert len(calls) == 4
    assert batch["video"].shape == (8, 4, 3, 32, 32)
    assert batch["path"][:4] == batch["path"][4:]  # not adjacent, because adjacent clips are mixed
    assert len(set(batch["path"])) == 4
    assert not any(torch.equal(a, b) for a, b in zip(batch["video"][:4], batch["video"][4:], strict=True))
    with pytest.raises(ConfigError, match="repeats is 3; it must be at least 1 and divide batch_size, 8"):
        VideoFolder(motion_folder, repeats=3)


def test_clips_depend_on_the_seed_and_not_on_the_workers(motion_folder: Path) -> None:
    batches = []
    for workers in (0, 2):
        data = set_up(VideoFolder(motion_folder, num_workers=workers, batch_size=8))
        torch.manual_seed(workers)
        before = torch.random.get_rng_state()
        batches.append(list(data.train_dataloader()))
        assert torch.equal(torch.random.get_rng_state(), before)
    for one, two in zip(*batches, strict=True):
        assert one["path"] == two["path"]
        assert torch.equal(one["video"], two["video"])


def test_listed_videos_are_excluded(motion_folder: Path, tmp_path: Path) -> None:
    all_records = set_up(VideoFolder(motion_folder, num_workers=0), "test").datasets["test"].records
    exclude = tmp_path / "exclude.txt"
    exclude.write_text(f"# bad ones\ntest/meets/meets_0000.mp4\n{all_records.paths[-1]}\n\n")
    records = set_up(VideoFolder(motion_folder, num_workers=0, exclude=exclude), "test").datasets["test"].records
    assert (len(records), records.listed) == (10, 12)
    assert set(all_records.paths) - set(records.paths) == {
        str(motion_folder / "test/meets/meets_0000.mp4"),
        all_records.paths[-1],
    }
    exclude.write_text(
        "test/meets/meets_0000.mp4\n", encoding="utf-8-sig"
    )  # with a byte order mark, like some editors write
    assert len(set_up(VideoFolder(motion_folder, num_workers=0, exclude=exclude), "test").datasets["test"]) == 11
    with pytest.raises(DataError, match="none.txt, cannot be read"):
        set_up(VideoFolder(motion_folder, exclude=tmp_path / "none.txt"), "test")
    exclude.write_text("\n".join(all_records.ids))
    with pytest.raises(DataError, match="excludes every test video"):
        set_up(VideoFolder(motion_folder, exclude=exclude), "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "opencv"}, "decoder is 'opencv'; choose from pyav, torchcodec"),
        ({"time_limit": 0}, "time_limit is 0; it must be above 0 seconds"),
        ({"erasing": 1.5}, "erasing is 1.5; it must be from 0 to 1"),
        ({"color_jitter": -1}, "color_jitter is -1; it must be at least 0"),
    ],
)
def test_errors_name_invalid_options(options: dict[str, Any], message: str, motion_folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        VideoFolder(motion_folder, **options)


def test_unsupported_number_of_clips_is_refused_before_reading_videos(motion_folder: Path) -> None:
    with pytest.raises(ConfigError, match="'twice' sampling supports 1 or 2 test clips, not 3; set clips to 1 or 2"):
        set_up(VideoFolder(motion_folder, clips=3), "test", sampling="twice", interval=None)
    set_up(VideoFolder(motion_folder, clips=3), "fit", sampling="twice", interval=None)


def test_missing_decoder_library_is_reported_before_reading_videos(
    motion_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchcodec = pytest.importorskip("torchcodec")  # it can be imported without FFmpeg
    monkeypatch.setattr(torchcodec, "ffmpeg_major_version", None)
    with pytest.raises(ConfigError, match="'torchcodec' cannot be loaded: .* decoder 'pyav' needs neither"):
        set_up(VideoFolder(motion_folder, decoder="torchcodec"))


def test_videos_of_a_list_are_excluded_by_listed_name(motion_folder: Path, tmp_path: Path) -> None:
    names = ["#clap 1.mp4", "sub/b.mp4", "c.mp4", "d.mp4"]
    for name, video in zip(names, sorted(motion_folder.rglob("*.mp4"))[:4], strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(video.read_bytes())
    file = write_csv(tmp_path / "l.csv", [("path", "label"), *((name, "xy"[n % 2]) for n, name in enumerate(names))])
    (tmp_path / "exclude.txt").write_text("# 2 of 4 videos cannot be read, see check.csv\n#clap 1.mp4\nsub/b.mp4\n")
    for root in (None, tmp_path):
        data = VideoList(test=file, root=root, exclude=tmp_path / "exclude.txt", num_workers=0)
        assert [Path(p).name for p in set_up(data, "test").datasets["test"].records.paths] == ["c.mp4", "d.mp4"]


def test_segments_are_excluded_by_name_or_video(tmp_path: Path) -> None:
    (tmp_path / "exclude.txt").write_text("P01/a.mp4\nthree\n")
    data = VideoFolder(tmp_path, exclude=tmp_path / "exclude.txt")
    paths = [tmp_path / "P01" / name for name in ("a.mp4", "a.mp4", "b.mp4", "b.mp4")]
    records = VideoRecords.of(paths, [0, 1, 0, 1], ids=["one", "two", "three", "four"], spans=[(0, 1), (1, 2)] * 2)
    remaining = data._exclude("test", records)
    assert (remaining.ids.tolist(), remaining.listed) == (["four"], 4)
