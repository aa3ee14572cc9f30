"""Stand-ins for the files and networks that the documentation names: small videos and tiny networks.

The pages use the names of published networks. An index with tiny variants of these networks (TEMPOZOO_INDEX), and a
cache with weights for them (TEMPOZOO_CACHE, filled by ``zoo.convert``), make ``zoo.load`` work without downloads.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from numbered_videos import numbered_frames, numbered_video
from safetensors.torch import save_file

import zoo
from zoo.localization import PointLocalizer
from zoo.localization.localizer_spec import FeatureSource, LocalizerSpec, PointOptions
from zoo.models import build, has_option
from zoo.provenance import fingerprint

SIZE = 32  # pixels
SMALL_RESNET = {"width": 8}
SMALL_TRANSFORMER = {"width": 48, "depth": 2, "patch": 8}
# videos and folders of videos that pages name
VIDEOS = ("clip.mp4", "new_clip.mp4", "a.mp4", "b.mp4")
FOLDERS = ("more_clips", "clips", "folder", "videos")
CLASS_FOLDERS = ("my_videos", "VIDEOS")


def named_networks(texts: Iterable[str]) -> list[str]:
    """Return the index names that texts contain, without those of the bundled network."""
    text = "\n".join(texts)
    return [name for name in zoo.list_models(bundled=False) if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", text)]


def write_tiny_index(path: Path, names: Iterable[str]) -> Path:
    """Write the package's index, in which the named networks are tiny and take small videos."""
    content = yaml.safe_load(zoo.index.load_index().path.read_text(encoding="utf-8"))
    for name in names:
        block = content["models"][name]
        if has_option(block["arch"], "patch"):
            block["options"] |= SMALL_TRANSFORMER | {"image_size": SIZE}
        elif has_option(block["arch"], "width"):
            block["options"] |= SMALL_RESNET
        block |= {"sha256": None, "sha256_prefix": None, "converter": None, "params": 1}
        block["protocol"] = block["protocol"] | {"resize": SIZE, "crop": SIZE, "train_crop": SIZE}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def fill_cache(folder: Path, names: Iterable[str]) -> None:
    """Convert weights for networks of the current index into its cache."""
    for name in names:
        entry = zoo.info(name)
        torch.manual_seed(0)
        network: Any = build(entry.arch, **entry.options)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        path = folder / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
        zoo.convert(path, name)


def write_files(root: Path, motion_folder: Path) -> None:
    """Write the files that pages name into a folder.

    Args:
        motion_folder: videos of several classes, in ``SPLIT/CLASS``.
    """
    for name in VIDEOS:
        numbered_video(root / name, 16, (SIZE, SIZE))
    numbered_video(root / "long.mp4", 75, (SIZE, SIZE))  # three seconds
    for name in FOLDERS:
        numbered_video(root / name / "1.mp4", 12, (SIZE, SIZE))
        numbered_video(root / name / "2.mp4", 12, (SIZE, SIZE))
    numbered_frames(root / "frames", range(12))
    (root / "list.txt").write_text("clip.mp4\nnew_clip.mp4\n")
    rows = []
    for folder in CLASS_FOLDERS:
        for path in sorted(motion_folder.glob("*/*/*.mp4")):
            target = root / folder / path.parent.name / f"{path.parent.parent.name}_{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            rows.append((target.relative_to(root).as_posix(), path.parent.name, f"person{len(rows) % 9}"))
    write_table(root / "videos.csv", ("path", "label", "person"), rows)
    write_kinetics(root / "KINETICS400")
    shutil.copytree(root / "KINETICS400", root / "KINETICS")
    write_localizer(root / "runs" / "localizer", "tanet_r50.k400_8f")


def write_localizer(folder: Path, name: str) -> None:
    """Write a small localizer for the features of a network of the current index."""
    network = zoo.load(name)
    weights = fingerprint(network.state_dict())
    source = FeatureSource(name, weights, window=1.0, stride=0.25, dim=network.num_features)
    options = PointOptions(width=16, heads=2, layers=1, levels=2)
    zoo.localization.save(PointLocalizer(LocalizerSpec(source, ("opens a door", "waves"), options)), folder)


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def write_kinetics(root: Path) -> None:
    """Write three videos with the official annotation files of Kinetics-400."""
    frames = 12  # each video has another length, because equal videos in two splits are an error
    for split in ("train", "val"):
        rows = []
        for number, label in enumerate(zoo.index.read_labels("kinetics400")[:3]):
            video = f"{split}{number:06d}"
            rows.append((label, video, "0", "10", split, "0"))
            frames += 1
            numbered_video(root / split / f"{video}_000000_000010.mp4", frames, (SIZE, SIZE))
        write_table(root / f"{split}.csv", ("label", "youtube_id", "time_start", "time_end", "split", "is_cc"), rows)
