"""Damaged videos of any kind give frames or a DataError that names the file: no crash, no hang, bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from odd_videos import B_FRAMES, encode
from paths import PYTHONPATH, SUPPORT

from zoo.errors import DataError
from zoo.video.containers import MAX_PIXELS, read_packets
from zoo.video.decoding import open_video

MEGABYTES = 1024  # that the process may grow by
SECONDS = 10.0  # for one video, whose deadline is 2 s: one call of the decoder may pass it


def run_fuzzer(folder: Path, first_seed: int, seconds: float) -> list[dict[str, Any]]:
    """Outcomes of as many seeds as there is time for.

    Raises:
        AssertionError: the process crashed or hung; the message has the seed.
    """
    command = [sys.executable, str(SUPPORT / "fuzz_videos.py"), str(folder), str(first_seed), str(seconds)]
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w+") as log:
        try:
            # output to a file: encoders write what they like to stderr, and a pipe of a killed process loses lines
            status = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.DEVNULL, timeout=seconds + 60
            ).returncode
        except subprocess.TimeoutExpired:
            status = "a hang"
        log.seek(0)
        lines = [json.loads(line) for line in log if line.startswith("{")]
    assert lines, f"the fuzzer did not start: {status}"
    assert status == 0, f"seed {lines[-1]['seed']} ended the process: {status}"
    return [line for line in lines if "outcome" in line]


def check_outcomes(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        assert outcome["outcome"] in ("frames", "error"), outcome
        assert outcome["seconds"] < SECONDS, outcome
        assert outcome["megabytes"] < MEGABYTES, outcome
    assert {outcome["outcome"] for outcome in outcomes} == {"frames", "error"}


def test_mutated_videos_give_frames_or_an_error(tmp_path: Path) -> None:
    outcomes = run_fuzzer(tmp_path, first_seed=0, seconds=8)
    check_outcomes(outcomes)
    assert len(outcomes) > 200


@pytest.mark.slow
def test_many_mutated_videos_give_frames_or_an_error(tmp_path: Path) -> None:
    check_outcomes(run_fuzzer(tmp_path, first_seed=1_000_000, seconds=300))


def test_a_crash_is_reported_with_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fuzz_videos.py").write_text(
        "import os, signal\nprint('{\"seed\": 7}', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "SUPPORT", tmp_path)
    with pytest.raises(AssertionError, match="seed 7 ended the process: -11"):
        run_fuzzer(tmp_path, first_seed=7, seconds=0)


def test_frames_of_absurd_sizes_are_rejected(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mov", "qtrle", "mov", frames=1, pix_fmt="gray", gray=True)
    data = path.read_bytes()
    at = data.index(b"rle ", data.index(b"stsd")) + 28  # width and height in the sample description
    size = np.array([12000, 12000], ">u2").tobytes()
    path.write_bytes(data[:at] + size + data[at + 4 :])
    with pytest.raises(DataError, match=rf"v.mov has frames of 12000 x 12000 pixels; at most {MAX_PIXELS} pixels"):
        open_video(path)


def test_fragments_that_claim_more_frames_than_bytes_are_rejected(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mp4", options=B_FRAMES, mux={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    at = data.index(b"trun") + 8
    path.write_bytes(data[:at] + (150_000_000).to_bytes(4, "big") + data[at + 4 :])
    with pytest.raises(DataError, match=r"v.mp4 is damaged: a fragment claims 150000000 frames, more than the file"):
        open_video(path)


def test_a_video_whose_edit_list_shows_nothing_has_no_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "v.mp4", options=B_FRAMES)
    data = path.read_bytes()
    at = data.index(b"elst") + 16  # behind version, number of entries and duration: the time of the first frame
    path.write_bytes(data[:at] + (1 << 20).to_bytes(4, "big") + data[at + 4 :])
    with pytest.raises(DataError, match="v.mp4 has no frames"):
        open_video(path)


def test_nothing_is_requested_behind_the_last_packet() -> None:
    """PyAV reads memory that it has not set if another stream begins late in the file, as in recordings."""

    class Container:
        def demux(self, stream: object) -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(size=10, pts=0, dts=0)
            yield SimpleNamespace(size=0, pts=40, dts=40)  # an empty frame, as AVI files have them
            yield SimpleNamespace(size=0, pts=None, dts=None)
            raise IndexError("list index out of range")

    assert [packet.size for packet in read_packets(Container(), None)] == [10, 0, 0]
