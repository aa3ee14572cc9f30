"""The subcommands of ``tempozoo data``: check, describe, re-encode and index the videos of a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from datamodules.tools.encoding import Encoding
from zoo.errors import ConfigError
from zoo.text import printable
from zoo.video.names import DECODERS, SHARD_MANIFEST

DEFAULT = Encoding()


def data(arguments: Sequence[str]) -> None:
    """Run `tempozoo data check|stats|prepare|index|motionclips`.

    Raises:
        ZooError: the command failed.
        SystemExit: with status 1 after `check` has found videos that cannot be read, unless ``--exit-zero`` is given.
    """
    parser = argparse.ArgumentParser("tempozoo data", description="Check and prepare the videos of a data set.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    functions: dict[str, Callable[[Any], None]] = {}
    for command, description, add_options, function in COMMANDS:
        subparser = subparsers.add_parser(command, help=description, description=description)
        add_options(subparser)
        subparser.add_argument("--workers", type=int, help="number of processes (default: one per core)")
        functions[command] = function
    args = parser.parse_args(arguments)
    functions[args.command](args)


def _seconds(text: str) -> float | None:
    """Parse a time limit in seconds; 0 means none."""
    value = float(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value or None


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of videos or of folders of frames; folder or URL of shards")
    parser.add_argument("--out", help="folder for check.csv and exclude.txt (default: runs/check-TIME)")
    parser.add_argument("--decoder", choices=DECODERS, default=DECODERS[0])
    limit = "seconds per video, like data.time_limit in training; 0 for no limit (default: 60)"
    parser.add_argument("--time-limit", type=_seconds, default=60.0, help=limit)
    parser.add_argument(
        "--exit-zero", "--exit_zero", action="store_true", help="exit with status 0 even if videos are unreadable"
    )


def _check(args: Any) -> None:
    from datamodules.tools.check import EXCLUDE, REPORT, check

    report = check(args.root, args.decoder, args.workers, args.time_limit)
    folder = Path(args.out or Path("runs") / f"check-{datetime.now():%Y%m%d-%H%M%S}")
    exclude = report.write(folder)
    print(f"{len(report.rows) - len(report.bad)} of {len(report.rows)} videos can be read.")
    for problem, count in report.problems():
        similar = f" ({count - 1} more like this)" if count > 1 else ""
        print(f"{count:8}  {printable(problem)}{similar}")
    if report.partial:
        print(
            f"{len(report.partial)} videos are too long to decode all of their frames in {args.time_limit:g} s. Only "
            f"a part was checked, see the column decoded of {REPORT}; increase --time-limit to check all frames."
        )
    print(f"Wrote {printable(str(folder / REPORT))}")
    if report.unlistable:
        print(
            f"{len(report.unlistable)} of the unreadable videos have names that {EXCLUDE} cannot represent, such as "
            f"{printable(report.unlistable[0])!r}; rename them."
        )
    if report.bad:
        print(f"Exclude the unreadable videos from training and testing with: --data.exclude {printable(str(exclude))}")
        if not args.exit_zero:
            sys.exit(1)


def _stats_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of videos; folder or URL of shards")
    parser.add_argument("--limit", type=int, help="number of videos to read, evenly spread (default: all)")
    parser.add_argument(
        "--time-limit", type=_seconds, default=60.0, help="seconds per video; 0 for no limit (default: 60)"
    )


def _stats(args: Any) -> None:
    from rich.console import Console

    from datamodules.tools.stats import advice, describe, split_advice, stats

    result = stats(args.root, args.limit, args.workers, args.time_limit)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for section in describe(result):
        console.print(section, markup=False, highlight=False)
    for line in [*split_advice(result), *advice(result)]:
        print(line)


def _prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of videos; it is not changed")
    parser.add_argument("--to", required=True, help="output folder; repeat the command to resume an interrupted run")
    side, gop, crf = DEFAULT.short_side, DEFAULT.gop, DEFAULT.crf
    parser.add_argument(
        "--short-side", type=int, default=side, help=f"pixels; videos are never enlarged (default: {side})"
    )
    parser.add_argument("--gop", type=int, default=gop, help=f"largest distance of key frames (default: {gop})")
    parser.add_argument("--crf", type=int, default=crf, help=f"x264 quality from 0 (best) to 51 (default: {crf})")
    shards = "write WebDataset shards with this number of videos (1000) or bytes (default: 256MB)"
    parser.add_argument("--shards", nargs="?", const="256MB", metavar="SIZE", help=shards)
    parser.add_argument(
        "--time-limit", type=_seconds, default=3600.0, help="seconds per video; 0 for no limit (default: 3600)"
    )


def _prepare(args: Any) -> None:
    from datamodules.tools.prepare import PROBLEMS, prepare

    if "://" in args.root:
        raise ConfigError(f"{args.root} is a URL; prepare needs a local folder. Download the videos first.")
    encoding = Encoding(args.short_side, args.gop, args.crf)
    to = Path(args.to)
    result = prepare(Path(args.root), to, encoding, args.shards, args.workers, args.time_limit)
    target = printable(str(to))
    print(f"{len(result.done)} videos are ready in {target}, {len(result.new)} of them new.")
    print(f"Size: {_size(Path(args.root))} in {printable(args.root)}, {_size(to)} in {target}.")
    if result.gain is not None:
        print(result.gain)
    if result.problems:
        print(f"{len(result.problems)} videos cannot be read and were skipped, see {printable(str(to / PROBLEMS))}")


def _size(folder: Path) -> str:
    from datamodules.tools.stats import format_bytes

    return format_bytes(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def _index_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shards",
        nargs="+",
        help="tar files, folders of tar files, or URLs; braces expand, as in 'train-{000..099}.tar'",
    )
    parser.add_argument(
        "--to", required=True, help=f"output folder for {SHARD_MANIFEST}; use it as the root of the data set"
    )


def _index(args: Any) -> None:
    from datamodules.shard_index import expand, index_shards

    if "://" in args.to:
        raise ConfigError(f"--to is {args.to}; it must be a local folder.")
    manifest = index_shards(expand(args.shards), workers=args.workers)
    file = manifest.write(Path(args.to))
    labeled = sum(map(bool, manifest.label))
    print(f"{len(manifest.path)} videos in {len(manifest.shards)} shards, {labeled} with a label.")
    print(f"Wrote {printable(str(file))}")
    if not labeled:
        print("Shards without labels can be the root of a data set whose annotation files name its videos.")
        print("Folders written by `data prepare --shards` need no index: use them as root directly.")


def _motionclips_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--untrimmed", action="store_true", help="several motions per video, for localization")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="output folder")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="classes of the motions (default: all twelve)")
    parser.add_argument("--style", choices=["a", "b"], default="a", help="shapes and textures (default: a)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--videos",
        type=int,
        nargs=3,
        metavar="N",
        help="with --untrimmed: number of videos for training, validation and test (default: 60 15 25)",
    )
    parser.add_argument("--seconds", type=float, help="with --untrimmed: length of the videos (default: 30)")


def _motionclips(args: Any) -> None:
    from datamodules.motion_render import MOTION_CLASSES
    from datamodules.motionclips import write_motion_clips
    from datamodules.untrimmed_motion import write_untrimmed

    options: dict[str, Any] = {"classes": args.classes or MOTION_CLASSES, "style": args.style, "seed": args.seed}
    if not args.untrimmed and (args.videos is not None or args.seconds is not None):
        raise ConfigError("--videos and --seconds are options of untrimmed videos; add --untrimmed.")
    if args.videos is not None:
        options["videos"] = dict(zip(("train", "val", "test"), args.videos, strict=True))
    if args.seconds is not None:
        options["seconds"] = args.seconds
    path = write_untrimmed(args.out, **options) if args.untrimmed else write_motion_clips(Path(args.out), **options)
    print(f"Written to {printable(str(path))}")


COMMANDS = (
    ("check", "Decode all frames of all videos and list the unreadable videos.", _check_options, _check),
    ("stats", "Describe the videos, and recommend how to split them and speed up reading.", _stats_options, _stats),
    (
        "prepare",
        "Copy a data set as small H.264 videos with many key frames, which decode faster.",
        _prepare_options,
        _prepare,
    ),
    ("index", "Index WebDataset shards: write the position of each video to shards.json.", _index_options, _index),
    ("motionclips", "Write MotionClips, generated videos of motions.", _motionclips_options, _motionclips),
)
