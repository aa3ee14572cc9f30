"""Data modules of the data sets that checkpoints_index.yaml names."""

from __future__ import annotations

from datamodules.activitynet import ActivityNet
from datamodules.base import VideoDataModule
from datamodules.hvu import HVU
from datamodules.kinetics import Kinetics
from datamodules.minikinetics import MiniKinetics
from datamodules.moments import MomentsInTime, MultiMomentsInTime
from datamodules.something import SomethingV1, SomethingV2

# the data set of an index entry: its class and options but for its root
_OF_INDEX: dict[str, tuple[type[VideoDataModule], dict[str, str]]] = {
    "activitynet": (ActivityNet, {}),
    "hvu": (HVU, {}),
    "kinetics400": (Kinetics, {"version": "400"}),
    "kinetics710": (Kinetics, {"version": "710"}),
    "minikinetics200": (MiniKinetics, {}),
    "mit": (MomentsInTime, {}),
    "mmit": (MultiMomentsInTime, {}),
    "ssv1": (SomethingV1, {}),
    "ssv2": (SomethingV2, {}),
}


def for_dataset(name: str) -> tuple[type[VideoDataModule], dict[str, str]] | None:
    """Class and options of a data set as ``checkpoints_index.yaml`` calls it, or None."""
    return _OF_INDEX.get(name)
