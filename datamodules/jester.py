"""Jester: hand gestures in front of a laptop's camera."""

from __future__ import annotations

from datamodules.something import TwentyBN


class Jester(TwentyBN):
    """Jester V1 (Materzynska et al. 2019, ICCV workshops): 27 gestures, folders of frames, 12 a second.

    ``jester-v1-train.csv`` and ``jester-v1-validation.csv`` with lines "number;gesture" (in the later release
    ``labels/train.csv`` and ``labels/validation.csv``); frames in ``20bn-jester-v1/<number>/00001.jpg``. Files
    ``Train.csv`` and ``Validation.csv`` with the columns video_id and label, and frames in ``Train/<number>/`` and
    ``Validation/<number>/``, are read as well. Testing uses the validation videos, as published figures do.

    Mirroring exchanges left and right, and the sense of rotation of a hand. When a training clip is mirrored, its class
    is exchanged accordingly.
    """

    release, labels = "jester-v1", "jester"
