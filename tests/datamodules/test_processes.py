"""Several processes agree on the list of videos and on the number of unreadable ones."""

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


def data_module_of(root: Path, rank: int) -> Any:
    """A data module attached to the Trainer of one of two processes."""
    data = VideoFolder(root, num_workers=0, batch_size=1, max_bad_fraction=0.2, allow_overlap=True)
    data.protocol = zoo.create("c2d_r18", width=8, num_classes=4, num_frames=4, image_size=32).protocol
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        training=False, testing=True, predicting=False, global_rank=rank, world_size=2
    )
    return data


def run_process(rank: int, port: int, roots: list[Path], out: Path) -> None:
    """Check that different lists are refused, and that unreadable videos of both processes are counted."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    with pytest.raises(DataError, match="Process 0 has 12 test videos, and process 1 has 11 or different ones"):
        data_module_of(roots[rank], rank).setup("test")
    data = data_module_of(roots[0], rank)
    data.setup("test")
    for batch in data.test_dataloader():
        data.on_before_batch_transfer(batch, 0)
    skipped = data.skipped.get("test", {})
    assert len(skipped) < 3
    all_skipped = gather_by_name(skipped)
    with pytest.raises(DataError, match="3 of 12 test videos cannot be read"):
        data.check_bad("test", all_skipped)
    (out / f"done-{rank}").write_text(str(len(skipped)))
    torch.distributed.destroy_process_group()


def test_processes_agree_on_videos_and_unreadable_ones(motion_folder: Path, tmp_path: Path) -> None:
    roots = [tmp_path / "complete", tmp_path / "incomplete"]
    for root in roots:
        shutil.copytree(motion_folder, root)
    for name in ("appears_0000", "appears_0001", "meets_0001"):
        (roots[0] / "test" / name.split("_")[0] / f"{name}.mp4").write_bytes(b"no video")
    next((roots[1] / "test" / "parts").iterdir()).unlink()
    torch.multiprocessing.spawn(run_process, (free_port(), roots, tmp_path), nprocs=2)
    assert sum(int((tmp_path / f"done-{rank}").read_text()) for rank in (0, 1)) == 3
