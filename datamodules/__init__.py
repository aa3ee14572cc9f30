"""Video data sets as LightningDataModules. They are imported at their first use."""

from typing import TYPE_CHECKING

from zoo.lazy import lazy_attributes

if TYPE_CHECKING:
    from datamodules.activitynet import ActivityNet
    from datamodules.base import VideoDataModule
    from datamodules.diving48 import Diving48
    from datamodules.epic import EpicKitchens100
    from datamodules.files import VideoFiles
    from datamodules.folder import VideoFolder
    from datamodules.hmdb51 import HMDB51
    from datamodules.hvu import HVU
    from datamodules.index_datasets import for_dataset
    from datamodules.jester import Jester
    from datamodules.kinetics import Kinetics
    from datamodules.list import VideoList
    from datamodules.localization.data import LocalizationData
    from datamodules.minikinetics import MiniKinetics
    from datamodules.mmaction import MMActionList
    from datamodules.moments import MomentsInTime, MultiMomentsInTime
    from datamodules.mosi import MoSI
    from datamodules.motionclips import MotionClips
    from datamodules.shard_list import ShardList
    from datamodules.something import SomethingV1, SomethingV2
    from datamodules.ucf101 import UCF101

__all__ = [
    "HMDB51",
    "HVU",
    "UCF101",
    "ActivityNet",
    "Diving48",
    "EpicKitchens100",
    "Jester",
    "Kinetics",
    "LocalizationData",
    "MMActionList",
    "MiniKinetics",
    "MoSI",
    "MomentsInTime",
    "MotionClips",
    "MultiMomentsInTime",
    "ShardList",
    "SomethingV1",
    "SomethingV2",
    "VideoDataModule",
    "VideoFiles",
    "VideoFolder",
    "VideoList",
    "for_dataset",
]

_MODULES = {
    "HMDB51": "datamodules.hmdb51",
    "HVU": "datamodules.hvu",
    "UCF101": "datamodules.ucf101",
    "ActivityNet": "datamodules.activitynet",
    "Diving48": "datamodules.diving48",
    "EpicKitchens100": "datamodules.epic",
    "Jester": "datamodules.jester",
    "Kinetics": "datamodules.kinetics",
    "LocalizationData": "datamodules.localization.data",
    "MMActionList": "datamodules.mmaction",
    "MiniKinetics": "datamodules.minikinetics",
    "MoSI": "datamodules.mosi",
    "MomentsInTime": "datamodules.moments",
    "MotionClips": "datamodules.motionclips",
    "MultiMomentsInTime": "datamodules.moments",
    "ShardList": "datamodules.shard_list",
    "SomethingV1": "datamodules.something",
    "SomethingV2": "datamodules.something",
    "VideoDataModule": "datamodules.base",
    "VideoFiles": "datamodules.files",
    "VideoFolder": "datamodules.folder",
    "VideoList": "datamodules.list",
    "for_dataset": "datamodules.index_datasets",
}

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES, together=True)
