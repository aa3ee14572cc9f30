"""Features of videos: the input of the classifier, or the feature maps of a stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo.inference.inputs import VideoInput
from zoo.inference.predictor import Predictor, concatenate
from zoo.inference.windows import read_windows
from zoo.text import brief


class WindowFeatures(NamedTuple):
    """Features of a part of a video.

    start, end: seconds from the first frame.
    features: averaged over the views: ``(D,)``, or the feature maps of a stage.
    """

    start: float
    end: float
    features: Tensor


def stage_index(predictor: Predictor, stage: int | None) -> int | None:
    """The number of a stage from 0; negative numbers count from the last one.

    Raises:
        ConfigError: the network has no such stage.
    """
    if stage is None:
        return None
    count = len(predictor.model.feature_info)
    if isinstance(stage, bool) or not isinstance(stage, int) or not -count <= stage < count:
        raise ConfigError(f"stage is {brief(stage)}; the network has stages 0 to {count - 1}.")
    return stage % count


def embed(predictor: Predictor, views: Tensor, stage: int | None = None) -> Tensor:
    """Views ``(V, T, C, H, W)``, 0 to 255 -> features on the CPU.

    Returns:
        float32 ``(V, D)``, the input of the classifier; with ``stage``, its feature maps ``(V, C, T', H', W')``.
    """
    stage = stage_index(predictor, stage)
    return torch.cat([predictor.compute_features(chunk, stage) for chunk in views.split(predictor.batch_size)])


def video_features(predictor: Predictor, video: VideoInput, stage: int | None = None, fps: float = 30.0) -> Tensor:
    """Features of every view of a video, see ``embed``.

    Raises:
        DataError: the video cannot be read.
        ConfigError: the network has no such stage.
    """
    stage_index(predictor, stage)  # before the video is decoded
    return embed(predictor, predictor.read(video, fps).frames, stage)


def window_features(
    predictor: Predictor,
    video: VideoInput | int,
    *,
    window: float = 2.0,
    stride: float | None = None,
    start: float = 0.0,
    stage: int | None = None,
    fps: float = 30.0,
) -> Iterator[WindowFeatures]:
    """Features of a window that moves over a video; arguments and errors as of ``timeline``."""
    stage_index(predictor, stage)
    for batch in read_windows(predictor, video, window, stride, start, fps):
        views = [item.views for item in batch]
        features = embed(predictor, concatenate(views), stage).split([len(item) for item in views])
        for item, part in zip(batch, features, strict=True):
            yield WindowFeatures(item.start, item.end, part.mean(0))
