"""MotionClips: a synthetic data set of H.264 files whose classes differ only in the order of frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from datamodules.folder import VideoFolder
from datamodules.motion_render import DRAWING_VERSION, MOTION_CLASSES, check_scene, render_clip, require
from zoo.errors import DataError
from zoo.weights.disk import atomic_path

SPLITS = ("train", "val", "test")
MANIFEST = "motionclips.json"


class MotionClips(VideoFolder):
    """MotionClips, written to ``root`` on first use; the arguments determine its content.

    Twelve classes in six pairs (``MOTION_PAIRS``). The frames of the two classes of a pair have the same distribution:
    one class is the other played backwards.

    Args:
        root: folder to write to; existing clips with the same arguments are used.
        classes: classes to write; default all twelve.
        train_clips: training clips per class.
        val_clips: validation clips per class.
        test_clips: test clips per class.
        seed: random seed of the scenes.
        frames: frames per clip.
        size: side of a frame in pixels.
        style: "a" or "b", two disjoint sets of shapes, textures, backgrounds and hues.
        options: options of VideoDataModule. ``flip`` is off because mirroring would change the labels.
    """

    def __init__(
        self,
        root: str | Path = "data/motionclips",
        classes: Sequence[str] = MOTION_CLASSES,
        train_clips: int = 60,
        val_clips: int = 15,
        test_clips: int = 25,
        seed: int = 0,
        frames: int = 24,
        size: int = 64,
        style: str = "a",
        flip: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root, flip=flip, **options)
        self.arguments: dict[str, Any] = {
            "classes": tuple(classes),
            "clips_per_class": {"train": train_clips, "val": val_clips, "test": test_clips},
            "seed": seed,
            "frames": frames,
            "size": size,
            "style": style,
        }

    def check(self, stage: str) -> None:
        """Do nothing: ``prepare_data`` writes the folder later."""

    def prepare_data(self) -> None:
        """Write the clips, unless they exist."""
        write_motion_clips(Path(self.root), **self.arguments)

    @property
    def class_names(self) -> list[str]:
        """The classes, sorted, as VideoFolder finds them."""
        return sorted(self.arguments["classes"])


def write_video(path: Path, frames: np.ndarray, fps: int = 12) -> None:
    """Write uint8 RGB frames (T, H, W, 3), H and W even, as an H.264 .mp4 of fps frames a second.

    Every frame is coded alone and with the same quantizer, so that compression leaves no trace of
    the direction of time. The file appears under its name only once it is complete.
    """
    path = Path(path)
    require(
        frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3 and len(frames),
        f"{path}: frames must be uint8 (T, H, W, 3), T at least 1; got {frames.dtype} {frames.shape}.",
    )
    height, width = frames.shape[1:3]
    even = height % 2 == 0 and width % 2 == 0
    require(even, f"{path}: cannot write frames of {width}x{height} pixels; both must be even.")
    # ipratio: x264 otherwise gives I frames a finer quantizer than qp.
    x264 = "keyint=1:bframes=0:scenecut=0:ipratio=1:aq-mode=0:mbtree=0"
    options = {"qp": "18", "preset": "fast", "x264-params": x264}
    with atomic_path(path) as partial, av.open(f"file:{partial}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1  # threads slow down encoding of small frames
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _clip_seed(seed: int, split: str, label: str, index: int) -> int:
    digest = hashlib.sha256(f"{seed}/{split}/{label}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def already_written(manifest: Path, arguments: dict[str, object]) -> bool:
    """Return whether the folder is complete; raise an error if it was written with other arguments."""
    if not manifest.exists():
        return False
    try:
        written = json.loads(manifest.read_text(encoding="utf-8"))
        differing = [key for key in arguments if written.get(key) != arguments[key]]
    except (ValueError, AttributeError) as error:
        raise DataError(f"{manifest} is not readable ({error}); delete the folder.") from error
    differences = "; ".join(f"{key} is {written.get(key)!r}, not {arguments[key]!r}" for key in differing)
    require(
        not differing,
        f"{manifest.parent} contains MotionClips written with other arguments: {differences}. "
        "Use another folder, or delete this one.",
    )
    return True


def write_motion_clips(
    root: Path,
    *,
    classes: Sequence[str] = MOTION_CLASSES,
    clips_per_class: Mapping[str, int] = {"train": 60, "val": 15, "test": 25},
    seed: int = 0,
    frames: int = 24,
    size: int = 64,
    fps: int = 12,
    style: str = "a",
    progress: bool = True,
) -> Path:
    """Write root/{split}/{class}/{class}_{i:04d}.mp4 and, last, root/motionclips.json; return root.

    frames is per clip, size the side in pixels (even), fps the frames a second. A folder already
    written with the same arguments is left as it is; with others, it is an error. A folder whose
    writing was interrupted (no motionclips.json) is written again.
    """
    root = Path(root)
    _check_arguments(classes, clips_per_class, seed, frames, size, fps, style)
    arguments: dict[str, object] = dict(
        drawing_version=DRAWING_VERSION, classes=list(classes), clips_per_class=dict(clips_per_class),
        seed=seed, frames=frames, size=size, fps=fps, style=style,
    )  # fmt: skip
    manifest = root / MANIFEST
    if already_written(manifest, arguments):
        return root
    jobs = {
        root / split / label / f"{label}_{i:04d}.mp4": (label, _clip_seed(seed, split, label, i))
        for split, count in clips_per_class.items()
        for label in classes
        for i in range(count)
    }
    # Clips left by an interrupted run with other arguments would become part of this data set.
    unexpected = [p for p in sorted(root.glob("*/*/[!.]*.mp4")) if p not in jobs]
    require(
        not unexpected,
        f"{root} contains {len(unexpected)} videos that do not belong to this data set, such as "
        f"{', '.join(map(str, unexpected[:1]))}. Use another folder, or delete this one.",
    )

    from rich.progress import track

    for path, (label, scene) in track(jobs.items(), description="Drawing MotionClips", disable=not progress):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, render_clip(label, scene, frames=frames, size=size, style=style), fps)
    with atomic_path(manifest) as partial:
        partial.write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
    return root


def _check_arguments(
    classes: Sequence[str], clips_per_class: Mapping[str, int], seed: int, frames: int, size: int, fps: int, style: str
) -> None:
    """Check the arguments of ``write_motion_clips``.

    Raises:
        DataError: a value is out of range or unknown.
    """
    require(classes, f"classes is empty; name some of {', '.join(MOTION_CLASSES)}.")
    for label in classes:
        check_scene(label, frames, size, style, seed)
        require(list(classes).count(label) == 1, f"classes names {label!r} more than once.")
    require(size % 2 == 0, f"size={size}: H.264 files need an even size.")
    require(fps >= 1, f"fps={fps}: needed is at least 1 frame a second.")
    require(clips_per_class, f"clips_per_class is empty; name some of {', '.join(SPLITS)}.")
    for split, count in clips_per_class.items():
        require(split in SPLITS, f"Unknown split {split!r}; known are {', '.join(SPLITS)}.")
        require(count >= 1, f"clips_per_class[{split!r}] is {count}; use 1 or more, or leave it out.")
