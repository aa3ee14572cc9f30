"""Video data sets as LightningDataModules."""

from datamodules.base import VideoDataModule
from datamodules.diving48 import Diving48
from datamodules.epic import EpicKitchens100
from datamodules.files import VideoFiles
from datamodules.folder import VideoFolder
from datamodules.hmdb51 import HMDB51
from datamodules.jester import Jester
from datamodules.kinetics import Kinetics
from datamodules.list import VideoList
from datamodules.mmaction import MMActionList
from datamodules.motionclips import MotionClips
from datamodules.shard_list import ShardList
from datamodules.something import SomethingV1, SomethingV2
from datamodules.ucf101 import UCF101

__all__ = [
    "HMDB51",
    "UCF101",
    "Diving48",
    "EpicKitchens100",
    "Jester",
    "Kinetics",
    "MMActionList",
    "MotionClips",
    "ShardList",
    "SomethingV1",
    "SomethingV2",
    "VideoDataModule",
    "VideoFiles",
    "VideoFolder",
    "VideoList",
    "for_dataset",
]

# the data set of an index entry: its class and options but for its root
_OF_INDEX: dict[str, tuple[type[VideoDataModule], dict[str, str]]] = {
    "kinetics400": (Kinetics, {"version": "400"}),
    "kinetics710": (Kinetics, {"version": "710"}),
    "ssv1": (SomethingV1, {}),
    "ssv2": (SomethingV2, {}),
}


def for_dataset(name: str) -> tuple[type[VideoDataModule], dict[str, str]] | None:
    """Class and options of a data set as ``checkpoints_index.yaml`` calls it, or None."""
    return _OF_INDEX.get(name)
