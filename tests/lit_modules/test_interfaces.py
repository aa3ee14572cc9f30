"""The data module interface of VideoClassifier."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import lightning as L
from torch.utils.data import DataLoader

from datamodules import VideoFolder
from lit_modules.interfaces import batch_size, video_data


def test_video_data_module_has_the_interface(tmp_path: Path) -> None:
    data = VideoFolder(tmp_path, batch_size=3)
    trainer = SimpleNamespace(datamodule=data, train_dataloader=None)
    assert video_data(trainer) is data
    assert batch_size(trainer) == 3


def test_other_data_modules_and_loaders_have_a_batch_size_only() -> None:
    trainer = SimpleNamespace(datamodule=L.LightningDataModule(), train_dataloader=DataLoader([1, 2], batch_size=2))
    assert video_data(trainer) is None
    assert batch_size(trainer) == 2
    assert batch_size(SimpleNamespace(train_dataloader=[1, 2])) == 1
