"""The verbs of ``tempozoo data``: what is in a data set, what is wrong with it, and copies that are quick to read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from datamodules.shards import MANIFEST
from datamodules.tools.encode import Encoding
from zoo.errors import ConfigError
from zoo.text import printable
from zoo.video.decoding import DECODERS

DEFAULT = Encoding()


def data(arguments: Sequence[str]) -> None:
    """`tempozoo data check|stats|prepare|index`.

    Raises:
        ZooError: the command failed.
        SystemExit: with status 1 after `check` has found videos that cannot be read, unless ``--exit-zero`` is given.
    """
    parser = argparse.ArgumentParser("tempozoo data", description="Look at data sets, and make them ready.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    acts: dict[str, Callable[[Any], None]] = {}
    for verb, help_line, options, act in VERBS:
        sub = verbs.add_parser(verb, help=help_line, description=help_line)
        options(sub)
        sub.add_argument("--workers", type=int, help="processes (default: one per core)")
        acts[verb] = act
    asked = parser.parse_args(arguments)
    acts[asked.verb](asked)


def _seconds(text: str) -> float | None:
    """Of a time limit; 0 is none."""
    value = float(text)
    if value < 0:
        raise argparse.ArgumentTypeError("it must not be negative")
    return value or None


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of videos or of folders of frames; folder or URL of shards")
    parser.add_argument("--out", help="folder for check.csv and exclude.txt (default: a new one below runs)")
    parser.add_argument("--decoder", choices=DECODERS, default=DECODERS[0])
    limit = "seconds for a video, as data.time_limit of a run; 0: none (default: 60)"
    parser.add_argument("--time-limit", type=_seconds, default=60.0, help=limit)
    parser.add_argument(
        "--exit-zero", "--exit_zero", action="store_true", help="exit with status 0 although videos cannot be read"
    )


def _check(asked: Any) -> None:
    from datamodules.tools.check import EXCLUDE, REPORT, check

    report = check(asked.root, asked.decoder, asked.workers, asked.time_limit)
    folder = Path(asked.out or Path("runs") / f"check-{datetime.now():%Y%m%d-%H%M%S}")
    exclude = report.write(folder)
    print(f"{len(report.rows) - len(report.bad)} of {len(report.rows)} videos can be read.")
    for problem, count in report.problems():
        more = f" ({count - 1} more like this)" if count > 1 else ""
        print(f"{count:8}  {printable(problem)}{more}")
    if report.partial:
        print(
            f"{len(report.partial)} videos are too long to decode all of their frames in {asked.time_limit:g} s. Only "
            f"a part was checked, see the column decoded of {REPORT}; increase --time-limit to check all."
        )
    print(f"Wrote {printable(str(folder / REPORT))}")
    if report.nameless:
        print(
            f"{len(report.nameless)} of them have names that {EXCLUDE} cannot hold, such as "
            f"{printable(report.nameless[0])!r}: rename them."
        )
    if report.bad:
        print(f"Leave the bad videos out of training and testing with: --data.exclude {printable(str(exclude))}")
        if not asked.exit_zero:
            sys.exit(1)


def _stats_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of videos; folder or URL of shards")
    parser.add_argument("--limit", type=int, help="number of videos to read, evenly spread (default: all)")
    parser.add_argument("--time-limit", type=_seconds, default=60.0, help="seconds for a video; 0: none (default: 60)")


def _stats(asked: Any) -> None:
    from rich.console import Console

    from datamodules.tools.stats import advice, describe, stats

    found = stats(asked.root, asked.limit, asked.workers, asked.time_limit)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for part in describe(found):
        console.print(part, markup=False, highlight=False)
    for line in advice(found):
        print(line)


def _prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of videos; it is only read")
    parser.add_argument("--to", required=True, help="folder to write; the same command goes on where it was stopped")
    side, gop, crf = DEFAULT.short_side, DEFAULT.gop, DEFAULT.crf
    parser.add_argument("--short-side", type=int, default=side, help=f"pixels; none is enlarged (default: {side})")
    parser.add_argument("--gop", type=int, default=gop, help=f"frames from key frame to key frame (default: {gop})")
    parser.add_argument("--crf", type=int, default=crf, help=f"x264's quality, 0 is the best (default: {crf})")
    shards = "write WebDataset shards of so many videos (1000) or bytes (default: 256MB)"
    parser.add_argument("--shards", nargs="?", const="256MB", metavar="SIZE", help=shards)
    parser.add_argument("--time-limit", type=_seconds, default=3600.0, help="seconds a video; 0: none (default: 3600)")


def _prepare(asked: Any) -> None:
    from datamodules.tools.prepare import PROBLEMS, prepare

    if "://" in asked.root:
        raise ConfigError(f"{asked.root} is an address; prepare needs a folder on this machine, so copy it here first.")
    encoding = Encoding(asked.short_side, asked.gop, asked.crf)
    to = Path(asked.to)
    result = prepare(Path(asked.root), to, encoding, asked.shards, asked.workers, asked.time_limit)
    target = printable(str(to))
    print(f"{len(result.done)} videos are ready in {target}, {len(result.new)} of them new.")
    print(f"{printable(asked.root)} takes {_size(Path(asked.root))}, {target} {_size(to)}.")
    if result.problems:
        print(f"{len(result.problems)} cannot be read and were left out, see {printable(str(to / PROBLEMS))}")


def _size(folder: Path) -> str:
    from datamodules.tools.stats import format_bytes

    return format_bytes(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


def _index_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", nargs="+", help="tar files, folders of them or URLs, as in 'train-{000..099}.tar'")
    parser.add_argument(
        "--to", required=True, help=f"folder for {MANIFEST}, which is the root of the data from then on"
    )


def _index(asked: Any) -> None:
    from datamodules.shard_index import expand, index_shards

    if "://" in asked.to:
        raise ConfigError(f"--to is {asked.to}; give a folder on this machine.")
    manifest = index_shards(expand(asked.shards), workers=asked.workers)
    file = manifest.write(Path(asked.to))
    labeled = sum(map(bool, manifest.label))
    print(f"{len(manifest.path)} videos in {len(manifest.shards)} shards, {labeled} with a label.")
    print(f"Wrote {printable(str(file))}")
    if not labeled:
        print("Without labels they serve a data set that knows its videos by name. The folder of shards that")
        print("`data prepare` made is a root as it is.")


VERBS = (
    ("check", "Find the videos that cannot be read: decodes every frame.", _check_options, _check),
    ("stats", "What the videos are like, and what would make them quicker to read.", _stats_options, _stats),
    ("prepare", "A copy that is quick to read: small H.264 with many key frames.", _prepare_options, _prepare),
    ("index", "Say in shards.json what is where in WebDataset shards.", _index_options, _index),
)
