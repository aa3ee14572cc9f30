"""`tempozoo data stats` reports groups of names in several splits, and videos that look almost the same."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from cli import main
from datamodules.tools.duplicates import FrameHashes, find_near_duplicates, hash_frames
from datamodules.tools.leaks import describe_leaks
from zoo.video.decoding import VideoReader
from zoo.video.source import Source


def pattern_video(path: Path, seed: int, side: int = 64, crf: str = "18", brightness: int = 0, frames: int = 6) -> Path:
    """Write a video of a random pattern, which moves by a cell per frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(30, 200, (8, 8), dtype=np.uint8) + np.uint8(brightness)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": crf})
        stream.height = stream.width = side
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            image = np.kron(np.roll(cells, number, 1), np.ones((side // 8, side // 8), np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image[..., None].repeat(3, 2), format="rgb24")))
        container.mux(stream.encode())
    return path


def hashes_of(path: Path) -> FrameHashes:
    with VideoReader(Source(str(path))) as reader:
        return hash_frames(reader)


def test_reencoded_copies_are_near_duplicates_and_other_videos_are_not(tmp_path: Path) -> None:
    videos = [pattern_video(tmp_path / f"{seed}.mp4", seed) for seed in range(6)]
    videos.append(pattern_video(tmp_path / "copy.mp4", 2, side=128, crf="34", brightness=20))
    pairs = find_near_duplicates([hashes_of(path) for path in videos])
    assert pairs == [(2, 6)]


def test_uniform_videos_are_not_compared() -> None:
    image = FrameHashes((0, 0, 0), (False, False, True))
    assert find_near_duplicates([image, image]) == []
    assert find_near_duplicates([image._replace(valid=(True, False, True))] * 2) == [(0, 1)]
    assert find_near_duplicates([]) == []


def test_pairs_of_all_blocks_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.tools.duplicates.BLOCK", 4)
    rng = np.random.default_rng(0)
    videos = [FrameHashes(tuple(rng.integers(0, 2**63, 3).tolist()), (True,) * 3) for _ in range(18)]
    videos[17], videos[9] = videos[1], videos[8]._replace(hashes=tuple(h ^ 0b10101 for h in videos[8].hashes))
    assert sorted(find_near_duplicates(videos)) == [(1, 17), (8, 9)]


def test_stats_print_near_duplicates_across_splits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for seed in range(3):
        pattern_video(tmp_path / "train" / "a" / f"{seed}.mp4", seed)
    pattern_video(tmp_path / "val" / "a" / "again.mp4", 1, crf="30")
    pattern_video(tmp_path / "val" / "a" / "new.mp4", 9)
    assert main(["data", "stats", str(tmp_path), "--workers", "1"]) == 0
    output = capsys.readouterr().out
    assert "1 validation videos look almost like training videos (val/a/again.mp4 = train/a/1.mp4)" in output


def test_groups_of_names_are_reported_with_the_option_that_keeps_them_together() -> None:
    names = [f"{c}/v_{c}_g{g:02}_c{n:02}.avi" for c in "ab" for g in range(5) for n in range(3)]
    (line,) = describe_leaks(names, [])
    assert line.startswith("The names suggest 5 groups of 6 videos, such as g00.")
    assert line.endswith(r"--data.group '_(g\d+)_'")
    same, other = (names[0], names[1]), (names[0], names[4])
    assert "all of these pairs are in one of the groups" in describe_leaks(names, [same])[1]
    assert "--data.group COLUMN" in describe_leaks(names, [same, other])[1]


def test_groups_in_two_split_folders_are_reported() -> None:
    names = [f"{split}/a/v_g{g:02}_c{n:02}.avi" for split in ("train", "val") for g in range(5) for n in range(3)]
    (line,) = describe_leaks(names, [])
    assert line.startswith("5 of 5 groups of similar names are in several splits, such as g00 in train and val.")
    separate = [name.replace("val/a/v_g", "val/a/v_g1") for name in names]
    assert describe_leaks(separate, []) == []
