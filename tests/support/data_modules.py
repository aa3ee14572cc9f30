"""Set up data modules without a Trainer, and read what they list and load."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from small_models import SMALL

import zoo
from datamodules.records import VideoRecords


def set_up(data: Any, stage: str = "fit", **protocol_changes: Any) -> Any:
    """Set up a data module for a stage like the Trainer does, with the protocol of a small network."""
    data.protocol = replace(zoo.create("c2d_r18", **SMALL, image_size=32).protocol, **protocol_changes)
    data.prepare_data()
    data.trainer = SimpleNamespace(
        training=stage == "fit", testing=stage == "test", predicting=stage == "predict", global_rank=0, world_size=1
    )
    data.setup(stage)
    return data


def transferred_batches(data: Any, loader: Any) -> list[dict[str, Any]]:
    """Load all batches and pass them through the transfer hooks."""
    return [data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0) for batch in loader]


def relative_paths(data: Any, records: VideoRecords) -> list[str]:
    """Paths of the records, relative to the root of the data module."""
    return [str(path).removeprefix(f"{data.root}/") for path in records.paths]


def class_by_path(data: Any, split: str) -> dict[str, str]:
    """Class name of each video of a split, by its relative path."""
    records = data.split_records(split)
    labels = [data.class_names[label] for label in records.labels]
    return dict(zip(relative_paths(data, records), labels, strict=True))
