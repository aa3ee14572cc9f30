"""Film strips of videos as JPEG images in data URLs."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from zoo.errors import ZooError
from zoo.video.decoding import Reader, open_video, read_with
from zoo.video.source import Source

FRAMES, FRAME_HEIGHT = 8, 96
TIME_LIMIT = 10.0  # seconds per video
QUALITY = 82  # of the JPEG images

ExplainVideo = Callable[[Source, str], np.ndarray | None]  # video and predicted label -> strip, uint8 (H, W, 3)


@dataclass(frozen=True)
class FilmStrip:
    """Frames of a video, or the reason why they are missing.

    Attributes:
        image: frames side by side, uint8 ``(H, W, 3)``; None if the video cannot be read.
        explanation: the clip of the network with the relevance of its pixels and frames, or None.
        problem: why the image or the explanation is missing.
    """

    image: np.ndarray | None = None
    explanation: np.ndarray | None = None
    problem: str = ""


def film_strip(source: Source, label: str, explain: ExplainVideo | None = None, folder: str = "") -> FilmStrip:
    """Return frames of a video, evenly distributed over its length.

    Args:
        source: location of the video.
        label: predicted label, which is explained.
        explain: explains predictions; None for no explanations.
        folder: folder of relative paths; the current one is tried first.
    """
    source = locate(source, folder)
    if "://" not in source.path and not os.path.lexists(source.path):
        return FilmStrip(problem=f"The video does not exist any more: {source.path}")

    def read(reader: Reader) -> Tensor:
        numbers = np.linspace(0, len(reader) - 1, FRAMES).round().astype(int)
        return reader.frames(numbers, _shrink)

    try:
        frames = read_with(lambda deadline: open_video(source, deadline=deadline), read, str(source), TIME_LIMIT)
    except ZooError as error:
        return FilmStrip(problem=str(error))
    image = np.concatenate(list(frames.permute(0, 2, 3, 1).numpy()), axis=1)
    try:
        return FilmStrip(image, None if explain is None else explain(source, label))
    except ZooError as error:
        return FilmStrip(image, problem=str(error))


def locate(source: Source, folder: str) -> Source:
    """Return a source whose relative path is joined to ``folder`` if it does not exist in the current folder."""
    path = Path(source.path)
    other = Path(folder) / path
    if path.is_absolute() or os.path.lexists(path) or not folder or not os.path.lexists(other):
        return source
    return Source(str(other), source.span, source.byte_span, str(source), source.open_end)


def _shrink(frames: Tensor) -> Tensor:
    """Resize frames ``(n, 3, H, W)`` to the height of a strip."""
    height, width = frames.shape[-2:]
    size = (FRAME_HEIGHT, max(1, round(width * FRAME_HEIGHT / height)))
    resized = F.interpolate(frames.float(), size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(frames.dtype)


def jpeg_url(image: np.ndarray) -> str:
    """Return an image ``(H, W, 3)`` as a data URL of a JPEG file."""
    return _data_url(Image.fromarray(image), "JPEG", quality=QUALITY)


def heatmap_url(shares: np.ndarray, color: tuple[int, int, int]) -> str:
    """Return a matrix of shares from 0 to 1 as a data URL of a PNG file, with transparent zeros."""
    pixels = np.empty((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = color
    pixels[..., 3] = (255 * shares.clip(0, 1)).round()
    return _data_url(Image.fromarray(pixels, "RGBA"), "PNG", optimize=True)


def _data_url(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
