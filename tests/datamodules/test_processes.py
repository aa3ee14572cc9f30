"""What several processes must agree on: the list of videos, and how many of them are bad."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ports import free_port

import zoo
from datamodules import VideoFolder
from lit_modules.scores import gather_by_name
from zoo.errors import DataError


def data_of(root: Path, rank: int) -> Any:
    """A data module as the Trainer of one of two processes would have it."""
    data = VideoFolder(root, num_workers=0, batch_size=1, max_bad_fraction=0.2, allow_overlap=True)
    data.protocol = zoo.create("c2d_r18", width=8, num_classes=4, num_frames=4, image_size=32).protocol
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        training=False, testing=True, predicting=False, global_rank=rank, world_size=2
    )
    return data


def process(rank: int, port: int, roots: list[Path], out: Path) -> None:
    """Of two: refuse another list, then count the bad ones of both."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    with pytest.raises(DataError, match="Process 0 has 12 test videos, and process 1 has 11 or different ones"):
        data_of(roots[rank], rank).setup("test")
    data = data_of(roots[0], rank)
    data.setup("test")
    for batch in data.test_dataloader():
        data.on_before_batch_transfer(batch, 0)
    mine = data.skipped.get("test", {})
    assert len(mine) < 3
    everybody = gather_by_name(mine)
    with pytest.raises(DataError, match="3 of 12 test videos cannot be read"):
        data.check_bad("test", everybody)
    (out / f"done-{rank}").write_text(str(len(mine)))
    torch.distributed.destroy_process_group()


def test_processes_agree_on_the_videos_and_count_the_bad_ones_together(motion_folder: Path, tmp_path: Path) -> None:
    roots = [tmp_path / "whole", tmp_path / "holes"]
    for root in roots:
        shutil.copytree(motion_folder, root)
    for name in ("appears_0000", "appears_0001", "meets_0001"):
        (roots[0] / "test" / name.split("_")[0] / f"{name}.mp4").write_bytes(b"no video")
    next((roots[1] / "test" / "parts").iterdir()).unlink()
    torch.multiprocessing.spawn(process, (free_port(), roots, tmp_path), nprocs=2)
    assert sum(int((tmp_path / f"done-{rank}").read_text()) for rank in (0, 1)) == 3
