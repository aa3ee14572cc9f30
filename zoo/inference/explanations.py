"""``zoo.explain``: the pixels and frames of a video that a prediction is based on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, UnknownNameError, check_int, check_number
from zoo.inference.fused import shared_copy
from zoo.inference.inputs import VideoInput, open_input, video_name
from zoo.inference.operator_views import OperatorView, record_operators
from zoo.inference.predictor import Predictor, make_prediction, parse_views
from zoo.inference.relevance import choose_stages, network_name, trace
from zoo.inference.scores import average_views
from zoo.inference.windows import EPSILON, MAX_SECONDS
from zoo.models.network import VideoNetwork
from zoo.protocol import Protocol
from zoo.text import brief, listing
from zoo.video.decoding import Reader, read_with
from zoo.video.sampling import sample
from zoo.video.transforms import normalize
from zoo.video.views import cut_views, resize_frames

if TYPE_CHECKING:
    from zoo.inference.api import Model

HALF = 0.5  # share of the relevance that `Explanation.span` covers
THIRDS = (("upper left", "top", "upper right"), ("left", "center", "right"), ("lower left", "bottom", "lower right"))


@dataclass(frozen=True)
class Explanation:
    """The relevance of the pixels of a clip for the score of a class.

    frames: uint8 ``(T, H, W, 3)``, RGB: the resized and cropped frames that the network saw.
    times: seconds of the frames from the start of the video, ``(T,)``.
    relevance: float32 ``(T, H, W)``, at least 0, with a maximum of 1; all 0 if no position raises the score
        of the class.
    label, score: the class and its probability for this clip.
    method: name and reference of the method.
    top: the most probable labels with their probabilities.
    operators: what the temporal operators of the network did, see ``OperatorView``.
    source: name of the video.
    """

    frames: np.ndarray
    times: np.ndarray
    relevance: np.ndarray
    label: str
    score: float
    method: str
    top: list[tuple[str, float]]
    operators: list[OperatorView] = field(default_factory=list)
    source: str = ""

    @property
    def frame_relevance(self) -> np.ndarray:
        """Share of each frame in the relevance of the clip, float32 ``(T,)``; adds up to 1, or 0 without relevance."""
        sums = self.relevance.sum((1, 2))
        return sums / max(float(sums.sum()), 1e-12)

    def strip(self, frames: int = 8) -> np.ndarray:
        """Draw a film strip: evenly spaced frames with their relevance, and a bar for the share of each frame.

        Args:
            frames: number of frames; all frames if the clip has fewer.

        Returns:
            uint8 ``(H', W', 3)``, RGB.
        """
        from zoo.inference.explanation_pictures import draw_strip

        return draw_strip(self, frames)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a picture or a video, depending on the file name extension.

        Args:
            path: ``.png``: film strip, relevance over time, and the views of the operators. ``.mp4`` or ``.gif``: the
                frames of the clip with their relevance.

        Raises:
            ConfigError: another extension.
            StorageError: the file cannot be written.
        """
        from zoo.inference.explanation_pictures import save_explanation

        save_explanation(self, Path(path))

    def summary(self) -> str:
        """Describe where and when the relevance is, in one line."""
        shares = self.frame_relevance
        if not shares.any():
            return f"No position of this clip raises the score of {self.label}."
        first, last = self.span()
        height, width = self.relevance.shape[1:]
        rows, columns = (np.arange(size) * 3 // size for size in (height, width))
        thirds = np.zeros((3, 3))
        np.add.at(thirds, (rows[:, None], columns), self.relevance.sum(0))
        row, column = np.unravel_index(thirds.argmax(), thirds.shape)
        share = shares[first : last + 1].sum()
        when = f"{self.times[first]:.1f} s" if first == last else f"{self.times[first]:.1f}-{self.times[last]:.1f} s"
        return (
            f"Most relevant: {when} ({100 * share:.0f} % of the relevance); "
            f"{THIRDS[row][column]} of the frame ({100 * thirds.max() / thirds.sum():.0f} %)"
        )

    def span(self) -> tuple[int, int]:
        """Return the first and last frame of the shortest part of the clip with half of the relevance."""
        totals = np.concatenate([[0.0], np.cumsum(self.frame_relevance)])
        count = len(self.times)
        spans = {
            (first, last): totals[last + 1] - totals[first] for first in range(count) for last in range(first, count)
        }
        large = [span for span, share in spans.items() if share >= min(HALF, totals[-1]) - EPSILON]
        return min(large, key=lambda span: (span[1] - span[0], -spans[span]))


class Clip(NamedTuple):
    """The clip of one view: frames ``(1, T, C, S, S)``, 0 to 255, and their seconds ``(T,)``."""

    frames: Tensor
    times: np.ndarray


def explain_video(
    model: Model,
    source: VideoInput,
    *,
    label: str | int | None = None,
    span: tuple[float, float] | None = None,
    fps: float = 30.0,
    device: str | torch.device | None = None,
    time_limit: float | None = 60.0,
) -> Explanation:
    """Implementation of ``zoo.explain``."""
    with torch.inference_mode(False), torch.enable_grad(), _no_autocast():
        network = _prepare(model, device)
        names = network.labels or tuple(map(str, range(network.spec.num_classes)))
        index = None if label is None else _class_index(network, label, names)  # before the video is decoded
        clip = read_middle_clip(source, network.protocol, span, fps, time_limit)
        frames = clip.frames.to(next(network.parameters()).device, torch.float32)
        pixels = normalize(frames, network.protocol.mean, network.protocol.std).contiguous()
        stages = choose_stages(network, min(pixels.shape[3:]))  # may run the network on the meta device
        with record_operators(network) as operators:
            result = trace(network, pixels, stages)
        probabilities = average_views(result.logits[None], network.protocol).cpu()
        if index is None:
            heads = network.protocol.heads
            index = int(probabilities[: heads[0][1] if heads else len(names)].argmax())
        relevance = result.compute(index).cpu()
    return Explanation(
        frames=clip.frames[0].permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).numpy(),
        times=clip.times,
        relevance=(relevance / relevance.max().clamp(min=1e-30)).numpy(),
        label=names[index],
        score=float(probabilities[index]),
        method=result.method,
        top=make_prediction(network, video_name(source), probabilities).top(5),
        operators=operators.views(),
        source=video_name(source),
    )


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    """Disable autocast on CPUs and GPUs."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def _prepare(model: Any, device: str | torch.device | None) -> VideoNetwork:
    """Return a copy of the network that shares its parameters: float32, in evaluation mode, without gradients.

    Raises:
        ConfigError: ``model`` is no network of the zoo, or has no classifier.
    """
    if isinstance(model, (str, os.PathLike)):
        from zoo.loading import load

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = load(model)
    if isinstance(model, Predictor):
        model = model.model
    if not isinstance(model, VideoNetwork) or not model.has_spec:
        raise ConfigError(
            f"model is a {type(model).__name__}; give a network of zoo.load or zoo.create, a name, or a Predictor."
        )
    if isinstance(model.get_classifier(), nn.Identity):
        raise ConfigError(f"{network_name(model)} has no classifier, so it has no predictions to explain.")
    network = shared_copy(model, device).float().requires_grad_(False)
    network.set_grad_checkpointing(False)  # would run the hooks again in the backward pass
    return network


def read_middle_clip(
    source: VideoInput,
    protocol: Protocol,
    span: tuple[float, float] | None = None,
    fps: float = 30.0,
    time_limit: float | None = 60.0,
) -> Clip:
    """Decode the middle clip of a video, or of a part of it, with a center crop.

    Args:
        span: start and end of the part, seconds; None: the entire video.

    Raises:
        DataError: the video cannot be read, or has no frames.
        ConfigError: ``span`` is invalid or contains no frames.
    """
    if span is not None:
        _check_span(span)
    name, protocol = video_name(source), parse_views("1x1", protocol)

    def read(reader: Reader) -> Clip:
        if not len(reader):
            raise DataError(f"{name} has no frames.")
        times = reader.times()
        first, stop = 0, len(times)
        if span is not None:
            first, stop = np.searchsorted(times, [span[0] - EPSILON, span[1] - EPSILON]).tolist()
            if stop <= first:
                raise ConfigError(
                    f"{name} has no frames from {span[0]:g} to {span[1]:g} s; its last frame is at {times[-1]:.2f} s."
                )
        numbers = first + sample(protocol, stop - first, reader.fps, (0, 1))
        unique, rows = np.unique(numbers, return_inverse=True)
        frames = reader.frames(unique, lambda frames: resize_frames(frames, protocol, name))
        return Clip(cut_views(frames, rows.reshape(1, -1), protocol), times[numbers])

    return read_with(lambda deadline: open_input(source, fps=fps, deadline=deadline), read, name, time_limit)


def _check_span(span: Any) -> None:
    try:
        start, end = span
    except (TypeError, ValueError):
        raise ConfigError(f"span is {brief(span)}; give (start, end) in seconds.") from None
    check_number("the start of span", start, 0.0, MAX_SECONDS)
    check_number("the end of span", end, 0.0, MAX_SECONDS)
    if end <= start:
        raise ConfigError(f"span is {brief(span)}; its end must be later than its start.")


def _class_index(network: VideoNetwork, label: str | int, names: Sequence[str]) -> int:
    """Return the index of a class by name or index.

    Raises:
        UnknownNameError: the network has no class with this name.
        ConfigError: the index is out of range, or ``label`` has another type.
    """
    if isinstance(label, str):
        if label in names:
            return names.index(label)
        if not label.isdecimal():
            hint = f"The classes of {network_name(network)}: {listing(names, 10)}."
            raise UnknownNameError.of("class", label, names, hint)
        label = int(label)
    check_int("label", label, 0, len(names) - 1)
    return label
