"""Features of many videos on disk: one safetensors file per video and a manifest, written by several processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.errors import ConfigError, DataError
from zoo.text import printable, read_json
from zoo.weights.disk import atomic_path, disk_errors

MANIFEST = "manifest.json"
FORMAT = 1
SUFFIX = ".safetensors"
MANIFEST_KEY = "tempozoo"  # of the metadata of a Parquet file


class VideoFeatures(NamedTuple):
    """Features of one video.

    video: its name.
    features: float32 ``(N, D)``; one row for each view, or for each window.
    start, end: seconds of the windows, ``(N,)``; empty without windows.
    """

    video: str
    features: Tensor
    start: Tensor
    end: Tensor


class FeatureFolder:
    """A folder with the features of videos.

    Args:
        folder: created by ``start``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def start(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, or compare it with the one of an earlier command.

        Raises:
            ConfigError: the earlier command had other settings.
            StorageError: the folder cannot be written.
        """
        manifest = json.loads(json.dumps({"format": FORMAT, **manifest}))
        path = self.folder / MANIFEST
        if path.exists():
            existing = self.manifest()
            different = sorted(key for key in manifest | existing if manifest.get(key) != existing.get(key))
            # "weights" identifies the network, whatever its path
            different = [key for key in different if key not in ("network", "versions")]
            if different:
                raise ConfigError(
                    f"{self.folder} has features with another {', '.join(different)}; choose another folder with --out."
                )
            return
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    def manifest(self) -> dict[str, Any]:
        """Model, protocol, settings and versions.

        Raises:
            DataError: there is none.
        """
        path = self.folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{self.folder} has no {MANIFEST}; write features with `tempozoo features` first.")
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{path} is not a manifest of `tempozoo features`, or of another version.")
        return content

    def path(self, video: str) -> Path:
        """The file of a video: its name, with a digest of the full path, as names occur in several folders."""
        digest = hashlib.sha256(os.fsencode(video)).hexdigest()[:12]
        stem = PurePosixPath(video.replace(os.sep, "/")).name[:100] or "video"
        return self.folder / f"{printable(stem)}-{digest}{SUFFIX}"

    def has(self, video: str) -> bool:
        """Whether the features of a video are complete."""
        return self.path(video).is_file()

    def write(self, item: VideoFeatures) -> None:
        """Write the features of a video in one step.

        Raises:
            StorageError: the folder cannot be written.
        """
        tensors = {"features": item.features.contiguous(), "start": item.start, "end": item.end}
        path = self.path(item.video)
        with disk_errors(self.folder), atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"video": json.dumps(item.video)})

    def read(self) -> Iterator[VideoFeatures]:
        """All features, by file name.

        Raises:
            DataError: a file is damaged.
        """
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            yield self.read_file(path)

    def read_video(self, video: str) -> VideoFeatures:
        """Features of one video, for which ``has`` is true.

        Raises:
            DataError: the file is damaged.
        """
        return self.read_file(self.path(video))

    def read_file(self, path: Path) -> VideoFeatures:
        """Features in a file of the folder.

        Raises:
            DataError: the file is damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                video = json.loads(file.metadata()["video"])
                return VideoFeatures(video, *(file.get_tensor(key) for key in ("features", "start", "end")))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it and repeat the command.") from error

    def digest(self) -> str:
        """Identify the features by names, sizes and modification times of the files."""
        return _digest_files(sorted(self.folder.glob(f"*{SUFFIX}")))

    def write_parquet(self, path: Path) -> None:
        """Combine all features into one Parquet file with columns video, start, end, features, and the manifest.

        Raises:
            ConfigError: pyarrow is not installed.
            StorageError: the file cannot be written.
        """
        pyarrow, parquet = _import_pyarrow()
        fields = {"video": pyarrow.string(), "start": pyarrow.float64(), "end": pyarrow.float64()}
        schema = pyarrow.schema(
            [*fields.items(), ("features", pyarrow.list_(pyarrow.float32()))],
            {MANIFEST_KEY: json.dumps(self.manifest())},
        )
        with (
            disk_errors(path.parent),
            atomic_path(path) as temporary,
            parquet.ParquetWriter(temporary, schema) as writer,
        ):
            for item in self.read():
                count = len(item.features)
                times = [part.double().tolist() or [None] * count for part in (item.start, item.end)]
                columns = [[item.video] * count, *times, item.features.tolist()]
                writer.write_table(pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema=schema))


class FeatureTable:
    """Features in one Parquet file, written by ``FeatureFolder.write_parquet``.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: the file cannot be read, or is another Parquet file.
    """

    def __init__(self, path: str | Path) -> None:
        _, parquet = _import_pyarrow()
        self.path = Path(path)
        try:
            self._file = parquet.ParquetFile(self.path)
            content = json.loads((self._file.schema_arrow.metadata or {})[MANIFEST_KEY.encode()])
        except (OSError, KeyError, ValueError) as error:
            raise DataError(f"{self.path} is not a file of `tempozoo features --parquet`.") from error
        self._manifest: dict[str, Any] = content

    def manifest(self) -> dict[str, Any]:
        """Model, protocol, settings and versions."""
        return self._manifest

    def digest(self) -> str:
        """Identify the features by size and modification time of the file."""
        return _digest_files([self.path])

    def read(self) -> Iterator[VideoFeatures]:
        """All features, in the order of the file; one row group per video."""
        for number in range(self._file.num_row_groups):
            columns = self._file.read_row_group(number).to_pydict()
            times = [
                torch.tensor([seconds for seconds in columns[key] if seconds is not None]) for key in ("start", "end")
            ]
            yield VideoFeatures(columns["video"][0], torch.tensor(columns["features"]), *times)


def open_features(path: str | Path) -> FeatureFolder | FeatureTable:
    """Open a folder of features or a Parquet file."""
    return FeatureTable(path) if Path(path).is_file() else FeatureFolder(path)


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError("Parquet files need pyarrow: pip install 'tempozoo[parquet]'") from error
    return pyarrow, parquet


def _digest_files(files: Sequence[Path]) -> str:
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


class Match(NamedTuple):
    """A video that is similar to a query: cosine similarity, and the seconds of its best window (or None)."""

    video: str
    similarity: float
    start: float | None
    end: float | None


def search(items: Sequence[VideoFeatures], query: Tensor, top: int) -> list[Match]:
    """Return the videos whose best row has the highest cosine similarity to a query; exact search.

    Args:
        query: features ``(D,)``.
        top: number of videos.

    Raises:
        DataError: there are no features, or their size differs from the query's.
    """
    if not items:
        raise DataError("No features to search. Compute them with `tempozoo features`.")
    table = torch.cat([item.features for item in items]).float()
    if table.shape[1] != len(query):
        raise DataError(f"The query has {len(query)} features, the videos have {table.shape[1]}.")
    similarities = torch.nn.functional.cosine_similarity(table, query[None].float(), dim=1)
    matches = []
    for item, part in zip(items, similarities.split([len(item.features) for item in items]), strict=True):
        best = int(part.argmax())
        window = (float(item.start[best]), float(item.end[best])) if len(item.start) else (None, None)
        matches.append(Match(item.video, float(part[best]), *window))
    return sorted(matches, key=lambda match: -match.similarity)[:top]
