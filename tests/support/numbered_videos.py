"""Videos and folders of frames in which the brightness of a frame encodes its number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image


def numbered_video(path: Path, frames: int, size: tuple[int, int] = (48, 64), **options: str) -> Path:
    """Write a video whose frame n has brightness about 8 n, with B frames and few key frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "8", "bf": "2", "crf": "12", **options})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            image = np.full((*size, 3), min(8 * number, 255), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def remux(source: Path, target: Path) -> Path:
    """Copy the packets of a video into another container, such as MPEG-TS, which can be streamed."""
    with av.open(str(source)) as video, av.open(str(target), "w") as container:
        track = container.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video.streams.video[0]):
            if packet.dts is not None:
                packet.stream = track
                container.mux(packet)
    return target


def numbered_frames(folder: Path, numbers: Sequence[int], template: str = "img_{:05}.jpg") -> None:
    """Write frames of brightness 8 n as images; file names count from 1."""
    folder.mkdir(parents=True)
    for number in numbers:
        image = np.full((40, 48, 3), 8 * number, np.uint8)
        Image.fromarray(image).save(folder / template.format(number + 1), quality=95)


def frame_numbers(frames: torch.Tensor) -> list[int]:
    """Read the numbers of frames ``(n, 3, H, W)`` from their brightness."""
    return (frames.float().mean((1, 2, 3)) / 8).round().int().tolist()
