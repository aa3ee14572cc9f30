"""``zoo.predict``, ``zoo.timeline``, ``zoo.features``, ``zoo.localize``, ``zoo.explain`` and ``zoo.read_clip``.

Decoders and torchvision are imported when a function is called, so that ``import zoo`` stays light.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from torch import Tensor

from zoo.errors import ConfigError
from zoo.protocol import Protocol

if TYPE_CHECKING:
    import torch

    from zoo.inference.embeddings import WindowFeatures
    from zoo.inference.explanations import Explanation
    from zoo.inference.inputs import VideoInput
    from zoo.inference.predictor import Prediction, Predictor
    from zoo.inference.windows import TimedPrediction
    from zoo.localization.localizer_base import Localizer
    from zoo.localization.segments import Segment
    from zoo.models.network import VideoNetwork

    Model: TypeAlias = VideoNetwork | Predictor | str | os.PathLike[str]


@overload
def predict(model: Model, videos: list[VideoInput] | tuple[VideoInput, ...], **options: Any) -> list[Prediction]: ...
@overload
def predict(model: Model, videos: VideoInput, **options: Any) -> Prediction: ...
def predict(model: Model, videos: Any, *, fps: float = 30.0, **options: Any) -> Prediction | list[Prediction]:
    """Classify one video, or several.

    Args:
        model: a network, a name for ``zoo.load``, or a ``Predictor``, which is faster for repeated calls.
        videos: path of a video file or folder of frames, a pattern of image files that are the frames of a video
            (``frames/img_%05d.jpg`` or ``frames/*.jpg``), bytes of a video file, an open binary file, an
            ``http(s)://`` or ``hf://`` URL, or frames ``(T, H, W, 3)``, uint8 RGB; or a list of these.
        fps: frames per second of frames in memory or in image files.
        options: of ``Predictor``: ``views="published"``, ``device``, ``precision``, ``batch_size``, ...

    Returns:
        The prediction; for a list, one for each video, where an unreadable video has its ``error``.

    Raises:
        DataError: the only video cannot be read.
        ConfigError: an argument with a wrong type or value.
    """
    with _open_predictor(model, options) as predictor:
        if isinstance(videos, (list, tuple)):
            return list(predictor.predict_many(videos, fps))
        return predictor.predict(videos, fps)


def timeline(
    model: Model,
    video: VideoInput | int,
    *,
    window: float = 2.0,
    stride: float | None = None,
    start: float = 0.0,
    fps: float = 30.0,
    **options: Any,
) -> Iterator[TimedPrediction]:
    """Predictions of a window that moves over a video, in constant memory.

    Args:
        model: as of ``predict``.
        video: as of ``predict``; also the number of a camera, or the URL of a stream such as ``rtsp://``.
        window, stride: seconds; the stride is the window by default.
        start: seconds; earlier windows are left out, to resume after an interruption.
        options: of ``Predictor``.

    Raises:
        DataError: the video cannot be read.
        ConfigError: an argument with a wrong type or value.
    """
    from zoo.inference import windows

    windows.check_window(window, stride)
    return _timeline(model, video, options, window=window, stride=stride, start=start, fps=fps)


def _timeline(model: Model, video: Any, options: dict[str, Any], **arguments: Any) -> Iterator[TimedPrediction]:
    from zoo.inference import windows

    with _open_predictor(model, options) as predictor:
        yield from windows.timeline(predictor, video, **arguments)


def features(model: Model, video: VideoInput, *, stage: int | None = None, fps: float = 30.0, **options: Any) -> Tensor:
    """Features of every view of a video.

    Args:
        model, video, fps, options: as of ``predict``.
        stage: number of a stage, -1 for the last, to get its feature maps.

    Returns:
        float32 ``(V, D)``, the input of the classifier; with ``stage``, ``(V, C, T', H', W')``.

    Raises:
        DataError: the video cannot be read.
        ConfigError: an argument with a wrong type or value.
    """
    from zoo.inference.embeddings import video_features

    with _open_predictor(model, options) as predictor:
        return video_features(predictor, video, stage, fps)


def window_features(
    model: Model,
    video: VideoInput | int,
    *,
    window: float = 2.0,
    stride: float | None = None,
    start: float = 0.0,
    stage: int | None = None,
    fps: float = 30.0,
    **options: Any,
) -> Iterator[WindowFeatures]:
    """Features of a window that moves over a video; arguments as of ``timeline`` and ``features``."""
    from zoo.inference import embeddings

    with _open_predictor(model, options) as predictor:
        yield from embeddings.window_features(
            predictor, video, window=window, stride=stride, start=start, stage=stage, fps=fps
        )


def localize(
    model: Localizer | str | os.PathLike[str],
    video: VideoInput,
    *,
    threshold: float = 0.2,
    feature_network: Model | None = None,
    fps: float = 30.0,
    **options: Any,
) -> list[Segment]:
    """Find the actions in an untrimmed video.

    The video is decoded once, and few of its frames are in memory at a time.

    Args:
        model: localizer of ``zoo.localization.load``, or its path.
        video: one video, as of ``predict``.
        threshold: lowest score of a segment.
        feature_network: the network of the features; default: the one named in ``model.spec.features``.
        fps: frames per second of frames in memory or in image files.
        options: of ``Predictor`` for the features: ``device``, ``precision``, ``batch_size``, ...

    Returns:
        Segments with start and end in seconds, label and score, the best ones first.

    Raises:
        DataError: the video cannot be read.
        ConfigError: an argument with a wrong type or value, or the network has other weights than in training.
    """
    from zoo.localization.localizing import localize_video

    return localize_video(model, video, threshold, feature_network, fps, options).segments


def explain(
    model: Model,
    source: VideoInput,
    *,
    label: str | int | None = None,
    span: tuple[float, float] | None = None,
    fps: float = 30.0,
    device: str | torch.device | None = None,
    time_limit: float | None = 60.0,
) -> Explanation:
    """Compute which pixels and frames of a video the score of a class is based on.

    The network sees one clip: the middle one of the protocol's sampling, with a center crop. It runs in float32.

    Args:
        model: as of ``predict``; it is not changed.
        source: one video, as of ``predict``.
        label: name or index of the class; default: the most probable one.
        span: start and end in seconds of the part of the video that is sampled; default: the entire video.
        fps: frames per second of frames in memory or in image files.
        device: such as "cuda:0"; default: the device of the network, or for a name the first GPU if there is one.
        time_limit: seconds that decoding may take; None for no limit.

    Returns:
        The frames with their relevance; ``save("picture.png")`` (or .mp4, .gif) draws it.

    Raises:
        DataError: the video cannot be read, or has no frames.
        UnknownNameError: the network has no class with this name.
        ConfigError: an argument with a wrong type or value, or a network without a classifier or feature maps.
    """
    from zoo.inference.explanations import explain_video

    return explain_video(model, source, label=label, span=span, fps=fps, device=device, time_limit=time_limit)


def read_clip(
    video: VideoInput,
    protocol: Protocol,
    *,
    views: str = "published",
    fps: float = 30.0,
    decoder: str = "pyav",
    time_limit: float | None = 60.0,
) -> Tensor:
    """Decode a video into the normalized clips that a network is tested with.

    Args:
        video, fps: as of ``predict``.
        protocol: such as ``model.protocol``.
        views: "published", or CLIPSxCROPS such as "1x1" (the middle of the video, center crop).
        time_limit: seconds that decoding may take; None for no limit.

    Returns:
        float32 ``(V, C, T, H, W)``; ``model(clip)`` takes it.

    Raises:
        DataError: the video cannot be read.
        ConfigError: an argument with a wrong type or value.
    """
    from zoo.inference.inputs import read_video_views
    from zoo.inference.predictor import parse_views
    from zoo.video.transforms import normalize

    protocol = parse_views(views, protocol)
    frames = read_video_views(video, protocol, decoder=decoder, fps=fps, time_limit=time_limit).frames
    return normalize(frames, protocol.mean, protocol.std).contiguous()


@contextlib.contextmanager
def _open_predictor(model: Model, options: dict[str, Any]) -> Iterator[Predictor]:
    """The caller's ``Predictor``, or one that lasts as long as the context."""
    from zoo.inference.predictor import Predictor

    if not isinstance(model, Predictor):
        with Predictor(model, **options) as predictor:
            yield predictor
        return
    if options:
        raise ConfigError(f"{', '.join(options)}: give these options to the Predictor itself.")
    yield model
