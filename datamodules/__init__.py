"""Video data sets as LightningDataModules."""

from datamodules.base import VideoDataModule
from datamodules.files import VideoFiles
from datamodules.folder import VideoFolder
from datamodules.list import VideoList
from datamodules.motionclips import MotionClips

__all__ = ["MotionClips", "VideoDataModule", "VideoFiles", "VideoFolder", "VideoList"]
