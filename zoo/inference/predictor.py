"""Predictor: videos -> predictions, with decoding in threads parallel to the network."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zoo.compiling import compile_network, is_compiled, mark_batch
from zoo.cores import available_cores
from zoo.errors import ConfigError, DataError, check_int
from zoo.inference.compute_options import PRECISIONS
from zoo.inference.fused import WeightVersions, fused_copy
from zoo.inference.inputs import VideoInput, read_video_views, video_name
from zoo.inference.scores import average_views
from zoo.models.features import stage_maps
from zoo.models.network import VideoNetwork
from zoo.protocol import Protocol
from zoo.text import brief
from zoo.training_state import is_untrained
from zoo.video.decoding import check_decoder
from zoo.video.transforms import normalize
from zoo.video.views import Views


@dataclass(frozen=True)
class Prediction:
    """The scores of one video.

    source: the name of the video.
    labels: class names, most probable first; class numbers where the network has no names.
    scores: their probabilities, in the same order.
    probabilities: float32 ``(classes,)`` in the order of ``model.labels``; empty for an unreadable video.
    heads: for networks with several classifiers, such as verb and noun: the prediction of each by its name. ``labels``
        and ``scores`` are then those of the first one.
    error: why the video could not be read, or None.
    """

    source: str
    labels: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    probabilities: Tensor = field(default_factory=lambda: torch.empty(0), compare=False, repr=False)
    heads: dict[str, Prediction] = field(default_factory=dict, repr=False)
    error: str | None = None

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities."""
        return list(zip(self.labels[:count], self.scores[:count], strict=True))

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.source}: {self.error}"
        return f"{self.source}: " + ", ".join(f"{label} {100 * score:.1f} %" for label, score in self.top(3))


def make_prediction(model: VideoNetwork, source: str, probabilities: Tensor) -> Prediction:
    """Sort the classes of ``probabilities`` ``(classes,)`` and name them."""
    names = model.labels or tuple(map(str, range(len(probabilities))))
    heads: dict[str, Prediction] = {}
    start = 0
    for head, size in model.protocol.heads or (("", len(names)),):
        part = probabilities[start : start + size]
        order = part.argsort(descending=True, stable=True).tolist()
        labels = tuple(names[start + index] for index in order)
        heads[head] = Prediction(source, labels, tuple(part[order].tolist()), part)
        start += size
    first = next(iter(heads.values()))
    return replace(first, probabilities=probabilities, heads={} if len(heads) == 1 else heads)


def parse_views(views: str, protocol: Protocol) -> Protocol:
    """Return the protocol with these views: "published", or "CLIPSxCROPS".

    Raises:
        ConfigError: ``views`` has another value.
    """
    if views == "published":
        return protocol
    match = re.fullmatch(r"(\d{1,3})x(1|3|10)", views) if isinstance(views, str) else None
    if match is None or not int(match[1]):
        raise ConfigError(
            f"views is {brief(views)}; give 'published', or CLIPSxCROPS such as '4x3' (crops: 1, 3 or 10)."
        )
    return replace(protocol, clips=int(match[1]), crops=int(match[2]))


def concatenate(views: Sequence[Tensor]) -> Tensor:
    """Concatenate views of several videos; those of frames that need no resizing are uint8 where others are floats."""
    if len({item.dtype for item in views}) > 1:
        views = [item.float() for item in views]
    return torch.cat(list(views))


class Predictor:
    """Classifies videos with a network of the zoo.

    Decoding runs in ``workers`` threads while the network computes. The methods may be called from several threads at a
    time. Close it, or use it in a ``with`` block, to end its threads.

    It runs a fused copy (``VideoNetwork.fuse``), whose scores equal those of the network up to rounding. Weights of the
    network that are changed in place later, as by training, are used from the next prediction on; after other changes,
    create a new Predictor.

    Args:
        model: a network of ``zoo.load`` or ``zoo.create``, or a name for ``zoo.load``. The caller's network is never
            changed; on the same device, the copy shares the parameters that fusion does not change.
        device: such as "cuda:0"; default: the device of the network, or for a name the first GPU if there is one.
        precision: "32", "bf16" or "16" (autocast).
        batch_size: views per forward pass.
        views: "1x1" (one clip in the middle of the video, center crop), "published" (the views of the network's test
            protocol) or CLIPSxCROPS, such as "4x3".
        compile: use ``torch.compile`` for scores; features of ``compute_features`` are computed without it.
        workers: decoding threads; default: one per core, at most 8.
        decoder: "pyav" or "torchcodec".
        time_limit: seconds that decoding a video may take; None for no limit.

    Raises:
        ConfigError: an argument with a wrong type or value, or a network without a protocol.
    """

    def __init__(
        self,
        model: VideoNetwork | str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        precision: str = "32",
        batch_size: int = 8,
        views: str = "1x1",
        compile: bool = False,
        workers: int | None = None,
        decoder: str = "pyav",
        time_limit: float | None = 60.0,
    ) -> None:
        check_int("batch_size", batch_size, 1)
        if workers is not None:
            check_int("workers", workers, 1)
        if precision not in PRECISIONS:
            raise ConfigError(f"precision is {brief(precision)}; choose from {', '.join(PRECISIONS)}.")
        check_decoder(decoder)
        is_own = isinstance(model, (str, os.PathLike))
        if isinstance(model, (str, os.PathLike)):
            from zoo.loading import load

            model = load(model)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if not isinstance(model, VideoNetwork) or not model.has_spec:
            raise ConfigError(
                f"model is a {type(model).__name__}; give a network of zoo.load or zoo.create, or a name."
            )
        current = next(model.parameters()).device
        self.device = current if device is None else torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._compile = compile or is_compiled(model)  # copies are not compiled
        self._versions = None if is_own else WeightVersions(model)
        self._is_untrained = is_untrained(model)  # a fused copy has other parameters
        self._use(model.to(self.device).eval().fuse() if is_own else fused_copy(model, self.device))
        self.protocol = parse_views(views, model.protocol)
        self.batch_size, self.decoder, self.time_limit = batch_size, decoder, time_limit
        dtype = PRECISIONS[precision]
        self._dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
        self._lock = threading.Lock()  # one forward pass at a time
        self.workers = workers or min(available_cores(), 8)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")

    @property
    def is_untrained(self) -> bool:
        """Whether the network has untrained parts; see ``zoo.training_state``."""
        return self._is_untrained and (self._versions is None or is_untrained(self._versions.network))

    def _use(self, model: VideoNetwork) -> None:
        self.model = model
        if self._compile:
            compile_network(model, self.device)

    def _refresh(self) -> None:
        """Fuse the network again if its weights were changed in place."""
        if self._versions is not None and self._versions.changed():
            self._use(fused_copy(self._versions.network, self.device))

    def close(self) -> None:
        """End the decoding threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    # one video -----------------------------------------------------------------------------------------------------

    def read(self, video: VideoInput, fps: float = 30.0) -> Views:
        """Decode the views of a video.

        Raises:
            DataError: it cannot be read.
        """
        return read_video_views(video, self.protocol, decoder=self.decoder, fps=fps, time_limit=self.time_limit)

    def predict(self, video: VideoInput, fps: float = 30.0) -> Prediction:
        """Classify one video.

        Args:
            video: path, URL, bytes, open file, or frames; see ``zoo.inference.inputs.open_input``.
            fps: frames per second of frames in memory or in a folder.

        Raises:
            DataError: it cannot be read.
        """
        views = self.read(video, fps).frames
        return make_prediction(self.model, video_name(video), average_views(self.logits(views), self.protocol))

    def logits(self, views: Tensor) -> Tensor:
        """Views ``(V, T, C, H, W)``, 0 to 255 -> logits ``(V, classes)``, float32 on the CPU."""
        return torch.cat([self._compute(self._run, chunk) for chunk in views.split(self.batch_size)])

    def _run(self, clips: Tensor) -> Tensor:
        mark_batch(self.model, clips)
        logits: Tensor = self.model(clips)
        return logits

    def compute_features(self, views: Tensor, stage: int | None = None) -> Tensor:
        """Views ``(V, T, C, H, W)``, 0 to 255, in one forward pass -> features, float32 on the CPU.

        Args:
            stage: number of a stage from 0, or None for the input of the classifier.
        """

        def run(clips: Tensor) -> Tensor:
            if stage is None:
                return self.model.forward_head(self.model.forward_features(clips), pre_logits=True)
            return stage_maps(self.model, clips, [self.model.feature_info[stage]])[0]

        return self._compute(run, views)

    def _compute(self, function: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        with self._lock:
            self._refresh()
            with torch.inference_mode(), torch.autocast(self.device.type, self._dtype, self._dtype is not None):
                clips = normalize(views.to(self.device, non_blocking=True), self.protocol.mean, self.protocol.std)
                return function(clips).float().cpu()

    # many videos ---------------------------------------------------------------------------------------------------

    def predict_many(self, videos: Iterable[VideoInput], fps: float = 30.0) -> Iterator[Prediction]:
        """Classify videos, in their order; an unreadable one gives a Prediction with ``error``.

        Views of consecutive videos share forward passes. At most a few videos are in memory at a time.
        """
        waiting: list[tuple[str, Tensor | str]] = []  # names, with views or the reason for having none
        for name, result in self._decode(videos, fps):
            waiting.append((name, result))
            if sum(len(views) for _, views in waiting if isinstance(views, Tensor)) >= self.batch_size:
                yield from self._score(waiting)
                waiting = []
        yield from self._score(waiting)

    def _decode(self, videos: Iterable[VideoInput], fps: float) -> Iterator[tuple[str, Tensor | str]]:
        def read(video: VideoInput) -> Tensor | str:
            try:
                return self.read(video, fps).frames
            except DataError as error:
                return str(error)

        pending: deque[tuple[str, Future[Tensor | str]]] = deque()
        try:
            for video in videos:
                pending.append((video_name(video), self._pool.submit(read, video)))
                if len(pending) > self.workers:
                    name, future = pending.popleft()
                    yield name, future.result()
            while pending:
                name, future = pending.popleft()
                yield name, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def _score(self, waiting: Sequence[tuple[str, Tensor | str]]) -> Iterator[Prediction]:
        read = [views for _, views in waiting if isinstance(views, Tensor)]
        logits = iter(self.logits(concatenate(read)).split([len(views) for views in read]) if read else ())
        for name, views in waiting:
            if isinstance(views, str):
                yield Prediction(name, error=views)
            else:
                yield make_prediction(self.model, name, average_views(next(logits), self.protocol))
