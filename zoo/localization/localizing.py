"""Localize the actions of a video: features in windows, then the localizer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from zoo.errors import ConfigError, DataError, UnknownNameError, check_number
from zoo.inference.embeddings import window_features
from zoo.inference.inputs import video_name
from zoo.inference.predictor import Predictor
from zoo.loading import load as load_network
from zoo.localization.localizer_base import Localizer
from zoo.localization.localizer_files import load
from zoo.localization.localizer_spec import FeatureSource
from zoo.localization.segments import Segment
from zoo.models.network import VideoNetwork
from zoo.network_names import resolve_network
from zoo.provenance import fingerprint

if TYPE_CHECKING:
    from zoo.inference.api import Model
    from zoo.inference.inputs import VideoInput


class LocalizedVideo(NamedTuple):
    """The segments of a video, the best ones first, and its duration in seconds."""

    segments: list[Segment]
    duration: float


def localize_video(
    model: Localizer | str | os.PathLike[str],
    video: VideoInput,
    threshold: float,
    feature_network: Model | None,
    fps: float,
    options: Mapping[str, Any],
) -> LocalizedVideo:
    """Find the actions of a video; arguments and errors as of ``zoo.localize``."""
    check_number("threshold", threshold, 0.0, 1.0)
    localizer = model if isinstance(model, Localizer) else load(model)
    source = localizer.spec.features
    grid = localizer.grid
    with contextlib.ExitStack() as stack:
        if isinstance(feature_network, Predictor):
            predictor = feature_network
            if not predictor.model.fused:  # fused weights have another fingerprint
                check_weights(predictor.model, source, "feature_network")
        else:
            network = open_feature_network(source, feature_network)
            predictor = stack.enter_context(Predictor(network, **{"views": source.views, **options}))
        windows = list(
            window_features(predictor, video, window=grid.window, stride=grid.stride, stage=source.stage, fps=fps)
        )
    if not windows:
        raise DataError(f"{video_name(video)} has no frames.")
    rows = torch.stack([window.features for window in windows])
    rows = rows.flatten(2).mean(2) if rows.ndim > 2 else rows
    start = torch.tensor([window.start for window in windows])
    device = next(localizer.parameters()).device
    cells = grid.arrange(rows, start, video_name(video))[None].to(device)
    duration = windows[-1].end
    training = localizer.training
    localizer.eval()
    with torch.inference_mode():
        (segments,) = localizer.localize(cells, torch.ones_like(cells[:, 0], dtype=torch.bool), [duration])
    localizer.train(training)
    return LocalizedVideo([segment for segment in segments if segment.score >= threshold], duration)


def open_feature_network(source: FeatureSource, network: VideoNetwork | str | os.PathLike[str] | None) -> VideoNetwork:
    """Load the network of the features and compare its weights with those of the training.

    Raises:
        UnknownNameError: the network does not exist.
        ConfigError: it has other weights.
    """
    if not isinstance(network, VideoNetwork):
        name = resolve_network(os.fspath(network or source.network))
        try:
            network = load_network(name)
        except UnknownNameError as error:
            if network is not None:
                raise
            raise UnknownNameError(
                f"{error} The features of the localizer are from {name}; if it was moved, pass its path as "
                "--feature_network (feature_network in Python)."
            ) from error
    check_weights(network, source, "the network of the features")
    return network


def check_weights(network: VideoNetwork, source: FeatureSource, name: str) -> None:
    """Compare the weights of a network with those that computed the features in training.

    Raises:
        ConfigError: they differ.
    """
    if fingerprint(network.state_dict()) != source.weights:
        raise ConfigError(
            f"{name} has other weights than {source.network} in the training of the localizer; its features would have "
            "no meaning for the localizer. Give the same weights."
        )
