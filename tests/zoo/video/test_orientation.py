"""Display matrices: rotated and mirrored videos are decoded as players show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from odd_videos import MATRICES, with_matrix

from zoo.video.pixels import orientation


@pytest.mark.parametrize("kind", MATRICES)
def test_orientation_follows_the_definition_of_the_matrix(kind: str, tmp_path: Path) -> None:
    """The matrix maps each corner of an image to its position."""
    with av.open(str(with_matrix(tmp_path / "v.mp4", kind))) as container:
        mirrored, turns = orientation(next(container.decode(video=0)))
    corners = np.arange(4).reshape(2, 2)
    shown = np.rot90(corners[:, ::-1] if mirrored else corners, turns)
    (a, b), (c, d) = MATRICES[kind]
    for row in (0, 1):
        for column in (0, 1):
            x, y = 2 * column - 1, 2 * row - 1  # around the center
            to_x, to_y = a * x + c * y, b * x + d * y
            assert shown[(to_y + 1) // 2, (to_x + 1) // 2] == corners[row, column]


def test_frames_with_unknown_side_data_keep_their_rotation() -> None:
    class Frame:
        rotation = 90

        @property
        def side_data(self) -> Any:
            raise ValueError("31 is not a valid Type")

    assert orientation(cast(av.VideoFrame, Frame())) == (False, 1)
