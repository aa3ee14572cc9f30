"""Search of features with FAISS: an index in one file beside the features, rebuilt when they change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.inference.feature_files import Match, VideoFeatures
from zoo.inference.parsers import MAX_FLAT
from zoo.weights.disk import atomic_path, disk_errors

INDEX_FILE = "faiss.npz"  # in the folder of the features
PROBES = 32  # clusters that a query visits
TRAINING_ROWS, TRAINING_ITERATIONS = 64, 10  # rows per cluster; FAISS recommends at least 39


def import_faiss() -> ModuleType:
    """Import FAISS.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError("--index faiss needs faiss-cpu: pip install 'tempozoo[faiss]'") from error
    return faiss


class VectorIndex:
    """Rows of features of many videos, searched by cosine similarity.

    Args:
        index: FAISS index of the rows, normalized.
        videos: names of the videos.
        ends: number of rows up to and including each video, ``(videos,)``.
        times: start and end of each row in seconds, ``(rows, 2)``; NaN without windows.
    """

    def __init__(self, index: Any, videos: list[str], ends: np.ndarray, times: np.ndarray) -> None:
        self.index, self.videos, self.ends, self.times = index, videos, ends, times

    @classmethod
    def build(cls, items: Iterable[VideoFeatures], max_flat: int = MAX_FLAT) -> VectorIndex:
        """Create an index: exact for up to ``max_flat`` rows, otherwise approximate (inverted file).

        Raises:
            DataError: there are no features.
        """
        faiss = import_faiss()
        videos: list[str] = []
        counts: list[int] = []
        rows: list[np.ndarray] = []
        times: list[np.ndarray] = []
        for item in items:
            videos.append(item.video)
            counts.append(len(item.features))
            rows.append(_normalize(item.features))
            no_times = np.full((len(item.features), 2), np.nan)
            times.append(torch.stack([item.start, item.end], 1).double().numpy() if len(item.start) else no_times)
        if not videos:
            raise DataError("No features to search. Compute them with `tempozoo features`.")
        table = np.concatenate(rows)
        size = table.shape[1]
        index: Any = faiss.IndexFlatIP(size)
        if len(table) > max_flat:
            clusters = int(2 * len(table) ** 0.5)
            index = faiss.IndexIVFFlat(index, size, clusters, faiss.METRIC_INNER_PRODUCT)
            index.cp.niter = TRAINING_ITERATIONS
            step = max(1, len(table) // (TRAINING_ROWS * clusters))
            index.train(np.ascontiguousarray(table[::step]))
            index.nprobe = min(PROBES, clusters)
        index.add(table)
        return cls(index, videos, np.cumsum(counts), np.concatenate(times))

    def search(self, query: Tensor, top: int) -> list[Match]:
        """Return the videos whose best row has the highest cosine similarity to a query ``(D,)``.

        Raises:
            DataError: the size of the query differs from that of the features.
        """
        if self.index.d != len(query):
            raise DataError(f"The query has {len(query)} features, the videos have {self.index.d}.")
        matches: dict[int, Match] = {}
        count, total = top, self.index.ntotal
        while True:
            count = min(count, total)
            similarities, rows = self.index.search(_normalize(query[None]), count)
            for similarity, row in zip(similarities[0].tolist(), rows[0].tolist(), strict=True):
                video = int(np.searchsorted(self.ends, row, side="right"))
                if row < 0 or video in matches:  # -1: the visited clusters have fewer rows
                    continue
                start, end = self.times[row].tolist()
                window = (None, None) if np.isnan(start) else (start, end)
                matches[video] = Match(self.videos[video], similarity, *window)
            if len(matches) >= top or count == total or rows[0][-1] < 0:
                ordered = sorted(matches.items(), key=lambda item: (-item[1].similarity, item[0]))
                return [match for _, match in ordered[:top]]
            count *= 4  # several of the nearest rows belong to one video

    def save(self, path: Path, digest: str) -> None:
        """Write the index to a file.

        Args:
            digest: identifies the features, see ``load_or_build``.

        Raises:
            StorageError: the file cannot be written.
        """
        names = np.frombuffer(json.dumps(self.videos).encode(), np.uint8)
        with disk_errors(path.parent), atomic_path(path) as temporary:
            np.savez(
                temporary,
                digest=np.frombuffer(digest.encode(), np.uint8),
                index=import_faiss().serialize_index(self.index),
                videos=names,
                ends=self.ends,
                times=self.times,
            )

    @classmethod
    def load(cls, path: Path, digest: str) -> VectorIndex | None:
        """Read an index; None if the file is missing, damaged, or has another digest."""
        faiss = import_faiss()
        try:
            with np.load(path, allow_pickle=False) as content:
                if content["digest"].tobytes().decode() != digest:
                    return None
                index = faiss.deserialize_index(content["index"])
                return cls(index, json.loads(content["videos"].tobytes()), content["ends"], content["times"])
        except Exception:  # numpy, zipfile and FAISS raise many types for a damaged file
            return None


def load_or_build(path: Path, digest: str, items: Callable[[], Iterable[VideoFeatures]]) -> VectorIndex:
    """Read the index of features, or build and save it if they have changed.

    Args:
        path: the file of the index.
        digest: changes with the features.
        items: reads the features.
    """
    index = VectorIndex.load(path, digest)
    if index is None:
        index = VectorIndex.build(items())
        index.save(path, digest)
    return index


def _normalize(features: Tensor) -> np.ndarray:
    """Rows of length 1, float32."""
    return np.ascontiguousarray(torch.nn.functional.normalize(features.float(), dim=1, eps=1e-8).numpy())
