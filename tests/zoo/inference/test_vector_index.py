"""Search with FAISS: the results of the exact search, from an index that follows the features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from zoo.errors import DataError
from zoo.inference.feature_files import VideoFeatures, search
from zoo.inference.vector_index import VectorIndex, load_or_build

pytest.importorskip("faiss")


def make_features(videos: int, rows: int, *, windows: bool = False) -> list[VideoFeatures]:
    generator = torch.Generator().manual_seed(0)
    start = torch.arange(rows, dtype=torch.float32) if windows else torch.empty(0)
    return [
        VideoFeatures(f"{number}.mp4", torch.randn(rows, 16, generator=generator), start, start + 1)
        for number in range(videos)
    ]


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("top", [1, 7, 1000])
def test_flat_index_equals_torch(rows: int, top: int) -> None:
    items = make_features(30, rows, windows=rows > 1)
    query = items[3].features[0] + 0.1
    expected = search(items, query, top)
    matches = VectorIndex.build(items).search(query, top)
    assert [(match.video, match.start, match.end) for match in matches] == [
        (match.video, match.start, match.end) for match in expected
    ]
    assert [match.similarity for match in matches] == pytest.approx([match.similarity for match in expected], abs=1e-6)


def test_videos_with_many_similar_windows_do_not_hide_others() -> None:
    items = make_features(5, 1)
    query = items[0].features[0]
    similar = VideoFeatures("similar.mp4", query.repeat(500, 1), torch.arange(500.0), torch.arange(500.0) + 1)
    matches = VectorIndex.build([similar, *items]).search(query, 4)
    assert [match.video for match in matches] == [match.video for match in search([similar, *items], query, 4)]


def test_clustered_index_returns_the_nearest_videos() -> None:
    items = make_features(100, 40)
    index = VectorIndex.build(items, max_flat=1000)
    assert type(index.index).__name__ == "IndexIVFFlat"
    results = [index.search(item.features[0], 1)[0] for item in items]
    assert [match.video for match in results] == [item.video for item in items]
    assert [match.similarity for match in results] == pytest.approx([1] * len(items), abs=1e-5)


def test_index_is_saved_and_rebuilt_when_the_features_change(tmp_path: Path) -> None:
    items, path = make_features(4, 2, windows=True), tmp_path / "faiss.npz"
    reads: list[int] = []

    def read(count: int) -> list[VideoFeatures]:
        reads.append(count)
        return items[:count]

    query = items[3].features[1]
    first = load_or_build(path, "a", lambda: read(3)).search(query, 10)
    assert load_or_build(path, "a", lambda: read(3)).search(query, 10) == first
    assert reads == [3] and len(first) == 3
    best = load_or_build(path, "b", lambda: read(4)).search(query, 10)[0]
    assert (best.video, best.start, best.end) == ("3.mp4", 1, 2)
    path.write_bytes(path.read_bytes()[:300])  # damaged
    assert load_or_build(path, "b", lambda: read(4)).search(query, 10)[0] == best
    assert reads == [3, 4, 4]


def test_empty_and_other_features_are_errors() -> None:
    with pytest.raises(DataError, match="No features to search"):
        VectorIndex.build([])
    with pytest.raises(DataError, match="The query has 3 features, the videos have 16"):
        VectorIndex.build(make_features(2, 1)).search(torch.ones(3), 1)
