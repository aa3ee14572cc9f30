"""Videos that look almost the same: perceptual hashes of a few frames, compared by their Hamming distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from zoo.video.decoding import Reader

POSITIONS = (0.25, 0.5, 0.75)  # of the hashed frames, as fractions of the video
ROWS, COLUMNS = 8, 8  # bits of a hash
MIN_CONTRAST = 4.0  # standard deviation of the gray values; the hash of an almost uniform frame is noise
MAX_DISTANCE = 5.0  # mean number of different bits, of 64, up to which two videos are near-duplicates
MIN_FRAMES = 2  # frames with enough contrast that two videos must share
MAX_COMPARED = 20_000  # videos; the number of pairs grows with the square
BLOCK = 256  # videos compared with all others at a time


class FrameHashes(NamedTuple):
    """Difference hashes of frames, 64 bits each, and whether each frame has enough contrast."""

    hashes: tuple[int, ...]
    valid: tuple[bool, ...]


def hash_frames(reader: Reader) -> FrameHashes:
    """Hash the frames of an open video at ``POSITIONS``.

    A bit is set if a cell of an 8 x 9 grid is brighter than its left neighbor (a difference hash, "dHash"). The hash
    does not change much if a video is resized, compressed or brightened.

    Raises:
        DataError: a frame cannot be decoded.
    """
    numbers = [round(position * (len(reader) - 1)) for position in POSITIONS]
    grids = reader.frames(numbers, transform=_gray_grid)[:, 0]
    bits = (grids[:, :, 1:] > grids[:, :, :-1]).flatten(1).numpy()
    hashes = np.packbits(bits, axis=1).view(">u8")[:, 0]
    contrast = grids.flatten(1).std(1)
    return FrameHashes(tuple(hashes.tolist()), tuple((contrast >= MIN_CONTRAST).tolist()))


def _gray_grid(frames: torch.Tensor) -> torch.Tensor:
    """Average frames ``(n, 3, H, W)`` over the cells of a grid: gray values ``(n, 1, ROWS, COLUMNS + 1)``."""
    return adaptive_avg_pool2d(frames.float().mean(1, keepdim=True), (ROWS, COLUMNS + 1))


def find_near_duplicates(videos: Sequence[FrameHashes]) -> list[tuple[int, int]]:
    """Return the pairs of videos whose frames look almost the same, as indices, the smaller one first.

    Of more than ``MAX_COMPARED`` videos, an evenly spread part is compared.
    """
    if len(videos) < 2:
        return []
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(len(videos), MAX_COMPARED)).astype(int))
    hashes = np.array([videos[number].hashes for number in chosen], dtype=np.uint64)
    valid = np.array([videos[number].valid for number in chosen])
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(chosen), BLOCK):
        rows = slice(start, start + BLOCK)
        both = valid[rows, None] & valid[None, start:]
        bits = np.bitwise_count(hashes[rows, None] ^ hashes[None, start:])
        frames = both.sum(-1)
        similar = ((bits * both).sum(-1) <= MAX_DISTANCE * frames) & (frames >= MIN_FRAMES)
        one, two = np.nonzero(np.triu(similar, 1))
        pairs += zip(chosen[start + one].tolist(), chosen[start + two].tolist(), strict=True)
    return pairs
