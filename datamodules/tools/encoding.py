"""Settings of the encoder of `tempozoo data prepare`."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.errors import ConfigError

LIMITS = {"short_side": (16, 4096), "gop": (1, 1000), "crf": (0, 51)}


@dataclass(frozen=True)
class Encoding:
    """Settings of the encoder.

    short_side: pixels of the shorter side; smaller videos keep their size, rounded to even sides.
    gop: largest number of frames from one key frame to the next.
    crf: constant rate factor of x264, from 0 (best) to 51.

    Raises:
        ConfigError: a value is out of range.
    """

    short_side: int = 256
    gop: int = 16
    crf: int = 20

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from {least} to {most}.")

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of the encoded video."""
        scale = min(1.0, self.short_side / min(width, height))
        return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
