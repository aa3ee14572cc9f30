"""Options of the Boundary-Matching Network. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.errors import ConfigError, check_int

GROUPS = 4  # of the convolutions over the features
COUNTS = {  # option -> smallest and largest value
    "length": (4, 2000),
    "durations": (1, 1000),
    "samples": (1, 256),
    "width": (4, 2048),
    "proposal_width": (1, 4096),
    "map_width": (1, 2048),
}


@dataclass(frozen=True)
class BoundaryOptions:
    """Options of ``BoundaryLocalizer``. The default values are those of the published EPIC-KITCHENS-100 networks.

    Attributes:
        length: cells of a window; longer videos are cut into windows that overlap by ``durations`` cells.
        durations: longest segment in cells, less than ``length``.
        samples: positions at which the features of a segment are read.
        width: channels of the features over time, a multiple of 4.
        proposal_width: channels of the sampled features of a segment.
        map_width: channels of the layers that score segments.
    """

    length: int = 200
    durations: int = 100
    samples: int = 32
    width: int = 256
    proposal_width: int = 512
    map_width: int = 128

    @property
    def stride(self) -> int:
        """Cells between the starts of two windows; every segment of up to ``durations`` cells is within a window."""
        return self.length - self.durations

    def check(self) -> None:
        """Validate every option.

        Raises:
            ConfigError: a value is invalid; the message names it.
        """
        for name, bounds in COUNTS.items():
            check_int(name, getattr(self, name), *bounds)
        if self.durations >= self.length:
            raise ConfigError(f"durations is {self.durations}; it must be less than length, {self.length}.")
        if self.width % GROUPS:
            raise ConfigError(f"width is {self.width}; it must be a multiple of {GROUPS}.")
