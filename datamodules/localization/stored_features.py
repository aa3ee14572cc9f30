"""The features of untrimmed videos that ``tempozoo features`` wrote: lookup by video, and checks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from datamodules.annotations import shorten
from datamodules.localization.annotations import END_TOLERANCE, UntrimmedVideo
from zoo.errors import ConfigError, DataError
from zoo.inference.feature_files import MANIFEST, SUFFIX, FeatureFolder
from zoo.localization.feature_grid import FeatureGrid
from zoo.localization.localizer_spec import FeatureSource
from zoo.text import listing, printable

READ_ERRORS = (SafetensorError, OSError, KeyError, IndexError, TypeError, ValueError)


class FeatureFile(NamedTuple):
    """A checked file of features: its path, and the end of its last window in seconds."""

    path: Path
    end: float


class StoredFeatures:
    """The feature files of a folder.

    A video is matched by its path. Features from another machine are matched by the end of their path, or by their name
    without folders and extension. The prefix "v_" of ActivityNet's video files may be missing in the annotations.

    Args:
        folder: written by ``tempozoo features --window W --stride S --out FOLDER``.

    Raises:
        DataError: the folder has no manifest, no features, or features without windows; or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = read_source(folder)
        self.grid = FeatureGrid(self.source.window, self.source.stride)
        self._by_path: dict[str, Path] = {}
        self._by_name: dict[str, list[tuple[str, Path]]] = {}
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            video = _video_of(path)
            self._by_path[os.path.realpath(video)] = path
            for name in {os.path.basename(video), _stem(video)}:
                self._by_name.setdefault(name, []).append((video, path))

    def find(self, video: UntrimmedVideo, root: Path) -> Path | None:
        """Return the file of a video, or None.

        Args:
            video: the video.
            root: folder that its path is relative to.

        Raises:
            DataError: several files have the name of the video.
        """
        if video.path is not None:
            path = self._by_path.get(os.path.realpath(root / video.path))
            if path is not None:
                return path
        base = os.path.basename(video.name)
        names = (base, _stem(base), f"v_{base}")
        matches = next((self._by_name[name] for name in names if name in self._by_name), [])
        if len(matches) > 1:
            ending = f"/{video.name.lstrip('./')}"
            matches = [match for match in matches if f"/{match[0]}".endswith(ending)] or matches
        if len(matches) > 1:
            raise DataError(
                f"{self.folder} has features of several videos named {shorten(_stem(base))}: "
                f"{listing([path.name for _, path in matches])}; none of them has the path {printable(video.name)}. "
                "Give the paths of the videos in the annotations."
            )
        return matches[0][1] if matches else None

    def check(self, path: Path, video: UntrimmedVideo) -> FeatureFile:
        """Check the windows and the size of the features of a video.

        Raises:
            DataError: the file is damaged, has other features than the rest, or ends earlier or later than the video.
        """
        try:
            with safe_open(path, "pt") as file:
                shape = file.get_slice("features").get_shape()
                start, end = file.get_tensor("start"), file.get_tensor("end")
        except READ_ERRORS as error:
            raise DataError(f"{path} is damaged ({error}); delete it and compute the features again.") from error
        if len(shape) != 2 or shape[1] != self.source.dim:
            raise DataError(f"{path} has features {tuple(shape)}; other files have {self.source.dim} for each window.")
        self.grid.arrange(torch.zeros(shape[0], 0), start, str(path))
        last = float(end[-1])
        if video.duration is not None and abs(last - video.duration) > END_TOLERANCE + self.source.stride:
            raise DataError(
                f"{path} ends at {last:g} s, but {shorten(video.name)} lasts {video.duration:g} s in the annotations; "
                "the features belong to another video, or the duration is wrong."
            )
        return FeatureFile(path, last)

    def read(self, path: Path) -> Tensor:
        """Read features as float32 ``(D, T)``, see ``FeatureGrid.arrange``.

        Raises:
            DataError: the file is damaged, or a feature is NaN or infinite.
        """
        item = FeatureFolder(self.folder).read_file(path)
        if not item.features.isfinite().all():
            raise DataError(f"{path} has features that are NaN or infinite; delete it and compute the features again.")
        return self.grid.arrange(item.features, item.start, str(path))


def read_source(folder: Path) -> FeatureSource:
    """Read the origin of the features in a folder.

    Raises:
        DataError: the folder has no manifest, no features, or features without windows.
    """
    manifest = FeatureFolder(folder).manifest()
    path = folder / MANIFEST
    if manifest.get("window") is None:
        raise DataError(f"{path}: the features have no windows; compute them with --window and --stride.")
    first = next(iter(sorted(folder.glob(f"*{SUFFIX}"))), None)
    if first is None:
        raise DataError(f"{folder} has no feature files; repeat `tempozoo features`.")
    try:
        with safe_open(first, "pt") as file:
            dim = file.get_slice("features").get_shape()[-1]
    except READ_ERRORS as error:
        raise DataError(f"{first} is damaged ({error}); delete it and compute the features again.") from error
    values = {key: manifest.get(key) for key in ("network", "weights", "window", "stride", "views", "stage")}
    try:
        return FeatureSource.from_dict({**values, "dim": dim}, str(path))
    except ConfigError as error:
        raise DataError(str(error)) from error


def _video_of(path: Path) -> str:
    try:
        with safe_open(path, "pt") as file:
            return str(json.loads(file.metadata()["video"]))
    except READ_ERRORS as error:
        raise DataError(f"{path} is damaged ({error}); delete it and compute the features again.") from error


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]
