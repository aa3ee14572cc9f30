"""Read mutated videos for some time: ``python fuzz_videos.py FOLDER FIRST_SEED SECONDS``.

Runs in a separate process, because a decoder may crash. Prints the seed before each case and the outcome after it;
``test_video_fuzz.py`` checks them. ``python fuzz_videos.py FOLDER SEED 0`` repeats a single case.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from odd_videos import B_FRAMES, encode

from datamodules.shard_index import pack, scan
from zoo.errors import DataError
from zoo.video.decoding import open_video
from zoo.video.source import Source

LIMIT = 2.0  # deadline of a video in seconds
SPECIAL = (
    b"\0\0\0\0",
    b"\0\0\0\1",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\1\0\0\0",
    b"\xff\xff\xff\x7f",
)
BASES: dict[str, Callable[[Path], Path]] = {
    name: functools.partial(encode, frames=12, **settings)
    for name, settings in {
        "mp4": {"options": B_FRAMES},
        "mp4_index_first": {"options": B_FRAMES, "mux": {"movflags": "faststart"}},
        "mp4_fragmented": {"options": B_FRAMES, "mux": {"movflags": "frag_keyframe+empty_moov"}},
        "mov_mjpeg": {"codec": "mjpeg", "container": "mov", "pix_fmt": "yuvj420p"},
        "mp4_hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=8:pools=1"}},
        "mp4_av1": {"codec": "libsvtav1", "size": (64, 64)},
        "mkv": {"container": "matroska", "options": B_FRAMES},
        "mkv_live": {"container": "matroska", "options": B_FRAMES, "mux": {"live": "1"}},
        "webm_vp9": {"codec": "libvpx-vp9", "container": "webm", "options": {"g": "8"}},
        "webm_vp8": {"codec": "libvpx", "container": "webm", "options": {"g": "8"}},
        "avi": {"codec": "mpeg4", "container": "avi", "options": B_FRAMES},
        "avi_h264": {"container": "avi", "options": B_FRAMES},
        "avi_ffv1": {"codec": "ffv1", "container": "avi"},
        "mpegts": {"container": "mpegts", "options": B_FRAMES},
        "mpeg": {"codec": "mpeg2video", "container": "mpeg", "options": B_FRAMES},
        "m2v": {"codec": "mpeg2video", "container": "mpeg2video"},
        "h264": {"container": "h264", "options": B_FRAMES},
        "hevc": {"codec": "libx265", "container": "hevc", "options": {"x265-params": "log-level=none:pools=1"}},
        "ivf_av1": {"codec": "libsvtav1", "container": "ivf", "size": (64, 64)},
        "flv": {"codec": "flv", "container": "flv", "options": {"g": "8"}},
        "wmv": {"codec": "wmv2", "container": "asf", "options": {"g": "8"}},
        "ogg": {"codec": "libvpx", "container": "ogg", "options": {"g": "8"}},
        "3gp": {"codec": "h263", "container": "3gp", "size": (144, 176)},
        "mxf": {"codec": "mpeg2video", "container": "mxf"},
        "gif": {"codec": "gif", "container": "gif", "pix_fmt": "rgb8"},
        "mov_qtrle": {"codec": "qtrle", "container": "mov", "pix_fmt": "gray"},
    }.items()
}


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Return a copy with one to three kinds of damage."""
    content = bytearray(data)
    for _ in range(random.integers(1, 4)):
        end = (
            len(content) if random.random() < 0.5 else min(len(content), 1500)
        )  # damage to headers has the most effects
        kind = random.integers(6)
        at = int(random.integers(max(1, end)))
        size = int(random.integers(1, 400))
        if kind == 0:
            for position in random.integers(0, max(1, end), random.integers(1, 20)):
                content[position] ^= 1 << int(random.integers(8))
        elif kind == 1:
            content[at : at + 4] = SPECIAL[random.integers(len(SPECIAL))]
        elif kind == 2:
            content[at : at + size] = random.bytes(size)
        elif kind == 3:
            content[at:at] = content[at : at + size]
        elif kind == 4:
            del content[at : at + size]
        else:
            del content[max(1, at) :]
        content = content or bytearray(b"\0")
    return bytes(content)


def read(folder: Path, seed: int) -> str:
    """Read the video of a seed; return "frames", "error", or a description of the wrong behavior."""
    random = np.random.default_rng(seed)
    base = sorted(BASES)[random.integers(len(BASES))]
    original = folder / f"{base}.base"
    if not original.exists():
        BASES[base](original)
    path = folder / f"video_{seed}.mp4"
    path.write_bytes(mutate(original.read_bytes(), random))
    source = Source(str(path), (0.1, 0.3) if random.random() < 0.2 else None)
    if random.random() < 0.2:
        pack(folder, [path.name], folder / "s.tar")
        ((_, offset, size, _),) = scan(str(folder / "s.tar"))[0]
        source = Source(str(folder / "s.tar"), source.span, (offset, size), path.name)
    try:
        with open_video(source, deadline=time.monotonic() + LIMIT) as reader:
            count = len(reader)
            frames = reader.frames([count - 1, count // 3], lambda frames: frames[..., :1, :1])
            assert len(frames) == 2
            reader.frames(range(min(count, 50)), lambda frames: frames[..., :1, :1])
        return "frames"
    except DataError as error:
        return "error" if path.name in str(error) else f"the message does not name the file: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def main() -> None:
    folder, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    read(folder, seed)  # imports and one-time allocations
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + seconds
    while True:
        print(json.dumps({"seed": seed}), flush=True)
        start = time.monotonic()
        outcome = read(folder, seed)
        elapsed = time.monotonic() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        print(
            json.dumps({"seed": seed, "outcome": outcome, "seconds": round(elapsed, 2), "megabytes": grown}), flush=True
        )
        seed += 1
        if time.monotonic() >= end:
            return


if __name__ == "__main__":
    main()
