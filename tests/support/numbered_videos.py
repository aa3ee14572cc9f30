"""Videos whose frames can be told apart by their brightness."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def numbered_video(path: Path, frames: int, size: tuple[int, int] = (48, 64), **options: str) -> Path:
    """A video whose frame n has brightness about 8 n, with B frames and few key frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "8", "bf": "2", "crf": "12", **options})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((*size, 3), min(8 * number, 255), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
