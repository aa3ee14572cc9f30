"""The list of videos: compact in memory and when sent to workers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from datamodules.records import PackedStrings, VideoRecords
from zoo.errors import DataError

ODD = ["a b.mp4", "", "grüße/滑冰.mp4", b"caf\xe9.mp4".decode("utf-8", "surrogateescape"), "x" * 1000, "two\nlines"]


def test_packed_strings_round_trip() -> None:
    names = PackedStrings(ODD)
    assert names.tolist() == list(names) == ODD == [names[n] for n in range(len(ODD))]
    assert (len(names), names[-1], names[np.int64(1)]) == (6, "two\nlines", "")
    assert ODD[2] in names
    assert names[np.array([3, 3, 0])].tolist() == [ODD[3], ODD[3], ODD[0]]
    assert names[np.array([], dtype=np.int64)].tolist() == PackedStrings([]).tolist() == []
    assert pickle.loads(pickle.dumps(names[np.arange(2, 4)])).tolist() == ODD[2:4]
    with pytest.raises(IndexError):
        names[6]


def test_packed_strings_are_compact() -> None:
    paths = [f"/data/class/{number:06d}.mp4" for number in range(5000)]
    records = VideoRecords.of([*paths, "/data/" + "x" * 5000])
    assert len(pickle.dumps(records)) < 2 * sum(map(len, paths)) + 30 * len(paths)
    assert records.ids is records.paths
    part = records.take([7, 5000])
    assert (part.source(0).path, str(part.source(1)), part.listed) == (paths[7], "/data/" + "x" * 5000, 2)
    assert part.ids is part.paths


def test_take_selects_all_columns() -> None:
    records = VideoRecords.of(
        ["a.tar", "a.tar", "b.tar"], [0, 1, 2], ids=["x", "y", "z"], byte_spans=[(0, 1), (2, 3), (4, 5)],
        spans=[(0, 1), (1, 2), (2, 3)], listed=5,
    )  # fmt: skip
    part = records.take([2, 0])
    source = part.source(0)
    assert (source.path, str(source), source.byte_span, source.span) == ("b.tar", "z", (4, 5), (2.0, 3.0))
    assert (part.labels.tolist(), part.ids.tolist(), len(part), part.listed) == ([2, 0], ["z", "x"], 2, 4)
    with pytest.raises(DataError, match="^b is listed more than once"):
        VideoRecords.of(["c", "b", "a", "c", "b"])
