"""Data modules of the data sets that checkpoints_index.yaml names."""

from __future__ import annotations

from datamodules.activitynet import ActivityNet
from datamodules.base import VideoDataModule
from datamodules.diving48 import Diving48
from datamodules.epic import EpicKitchens100
from datamodules.hmdb51 import HMDB51
from datamodules.hvu import HVU
from datamodules.jester import Jester
from datamodules.kinetics import Kinetics
from datamodules.minikinetics import MiniKinetics
from datamodules.moments import MomentsInTime, MultiMomentsInTime
from datamodules.motionclips import MotionClips
from datamodules.something import SomethingV1, SomethingV2
from datamodules.ucf101 import UCF101

# the data set of an index entry: its class and options but for its root
_OF_INDEX: dict[str, tuple[type[VideoDataModule], dict[str, str]]] = {
    "activitynet": (ActivityNet, {}),
    "diving48": (Diving48, {}),
    "epic_kitchens100": (EpicKitchens100, {}),
    "hmdb51": (HMDB51, {}),
    "hvu": (HVU, {}),
    "jester": (Jester, {}),
    "kinetics400": (Kinetics, {"version": "400"}),
    "kinetics600": (Kinetics, {"version": "600"}),
    "kinetics700": (Kinetics, {"version": "700"}),
    "kinetics710": (Kinetics, {"version": "710"}),
    "minikinetics200": (MiniKinetics, {}),
    "mit": (MomentsInTime, {}),
    "mmit": (MultiMomentsInTime, {}),
    "motionclips": (MotionClips, {}),
    "ssv1": (SomethingV1, {}),
    "ssv2": (SomethingV2, {}),
    "ucf101": (UCF101, {}),
}


def for_dataset(name: str) -> tuple[type[VideoDataModule], dict[str, str]] | None:
    """Class and options of a data set as ``checkpoints_index.yaml`` calls it, or None."""
    return _OF_INDEX.get(name)
