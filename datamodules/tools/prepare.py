"""`tempozoo data prepare`: copy a data set as videos that decode fast, in files or shards."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from datamodules.shard_index import index_shards, pack
from datamodules.tools.encode import encode
from datamodules.tools.encoding import Encoding
from datamodules.tools.outputs import sweep, write_rows, written
from datamodules.tools.parallel import each
from datamodules.tools.read_speed import ReadingGain, measure_gain
from datamodules.tree import Tree, walk
from zoo.errors import ConfigError, DataError, ZooError
from zoo.video.names import SHARD_MANIFEST
from zoo.weights.disk import locked

SETTINGS, PROBLEMS, SCRATCH = "prepare.json", "prepare.csv", ".videos"
COPIED = (".csv", ".json", ".txt", ".tsv", ".yaml", ".yml", ".md")  # annotations, label lists, licenses
MAX_COPIED = 1 << 30  # bytes; larger annotation files are not copied
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Prepared:
    """The result of ``prepare``, by relative path.

    done: all prepared videos.
    new: the videos prepared by this run.
    problems: unreadable video -> error message.
    gain: how much faster the videos can be read than their sources; None if no video was prepared.
    """

    done: list[str]
    new: list[str]
    problems: dict[str, str]
    gain: ReadingGain | None = None


def prepare(
    root: Path,
    to: Path,
    encoding: Encoding,
    shards: str | None = None,
    workers: int | None = None,
    time_limit: float | None = None,
) -> Prepared:
    """Encode every video below ``root`` as H.264 to the same relative path below ``to``, with the extension .mp4.

    The source does not change. An interrupted run can be repeated: it skips videos whose result exists and is not older
    than the source, and videos that are in a shard. Unreadable videos are listed in ``to``/prepare.csv and tried again
    by the next run. Annotation files are copied; folders of frames are ignored.

    Args:
        shards: size of a shard, as a number of videos ("1000") or bytes ("256MB"); None to write files.
        workers, time_limit: see ``parallel.each``.

    Raises:
        ConfigError: one of ``to`` and ``root`` is inside the other, or ``to`` was written with other settings.
        DataError: there are no videos, or two results would have the same name.
        StorageError: ``to`` cannot be written.
    """
    tree = Tree(root)
    _check_apart(root.resolve(), to.resolve())
    limit = None if shards is None else parse_shards(shards)
    targets = _targets(tree)
    with locked(to / SETTINGS):
        _check_settings(to / SETTINGS, {"source": str(root.resolve()), **asdict(encoding), "shards": shards})
        sweep(to)
        for name in _annotations(root):
            _copy(root / name, to / name)
        home = to if limit is None else to / SCRATCH
        packed = set() if limit is None else _packed(to)
        todo = [t for t in targets if t not in packed and not _is_done(root / targets[t], home / t)]
        jobs = [Job(targets[target], target) for target in todo]
        work = functools.partial(_encode, root=root, home=home, encoding=encoding)
        results = each(work, jobs, "preparing", workers, time_limit)
        sweep(to)  # temporary files of killed workers
        bad = {
            job.source: str(result) for job, result in zip(jobs, results, strict=True) if isinstance(result, ZooError)
        }
        write_rows(to / PROBLEMS, ("path", "problem"), sorted(bad.items()))
        done = [target for target, source in targets.items() if source not in bad]
        if limit is not None and done:
            packed = _pack_all(to, home, [name for name in done if name not in packed], limit, workers)
            done = [target for target in targets if target in packed]
    new = [target for target in todo if targets[target] not in bad]
    gain = measure_gain(str(root), str(to), [(targets[target], target) for target in new]) if new else None
    return Prepared(done, new, bad, gain)


@dataclass(frozen=True)
class Job:
    """A video by its relative paths."""

    source: str
    target: str

    def __str__(self) -> str:
        return self.source


def _encode(job: Job, root: Path, home: Path, encoding: Encoding) -> int:
    return encode(root / job.source, home / job.target, encoding)


def _check_apart(root: Path, to: Path) -> None:
    if to == root or root in to.parents or to in root.parents:
        raise ConfigError(f"--to {to} and the source folder {root} must not contain each other; choose another --to.")


def _targets(tree: Tree) -> dict[str, str]:
    """Map the relative path of each result to that of its source.

    Raises:
        DataError: there are no videos, or two results would have the same name.
    """
    targets: dict[str, str] = {}
    for name in tree.names:
        target = str(PurePosixPath(name).with_suffix(".mp4"))
        if target in targets:
            raise DataError(f"{targets[target]} and {name} would both become {target}; rename one of them.")
        targets[target] = name
    if not targets:
        raise DataError(f"There are no videos below {tree.root}; folders of frames need no preparation.")
    return targets


def _check_settings(file: Path, settings: dict[str, object]) -> None:
    if file.is_file():
        try:
            previous = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file} is damaged ({error}); remove it, or choose another --to.") from error
        for name, value in settings.items():
            if previous.get(name) != value:
                raise ConfigError(
                    f"{file.parent} was written with {name} {previous.get(name)}, not {value}; use the same value, or "
                    "choose another --to."
                )
        return
    with written(file) as temporary:
        temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _annotations(root: Path) -> list[Path]:
    annotations: list[Path] = []
    for below, files in walk(root):
        paths = [root / below / name for name in files if name.lower().endswith(COPIED)]
        annotations += [
            path.relative_to(root) for path in paths if path.is_file() and path.stat().st_size <= MAX_COPIED
        ]
    return [path for path in annotations if str(path) not in (SETTINGS, PROBLEMS, SHARD_MANIFEST)]


def _is_done(source: Path, target: Path) -> bool:
    try:
        return target.stat().st_mtime >= source.stat().st_mtime
    except OSError:
        return False


def _copy(source: Path, target: Path) -> None:
    if not _is_done(source, target):
        with written(target) as temporary:
            shutil.copyfile(source, temporary)


# shards ----------------------------------------------------------------------------------------------------------


def parse_shards(text: str) -> tuple[int, bool]:
    """Parse a shard size; returns the number, and whether it counts bytes.

    Raises:
        ConfigError: neither a number of videos nor a number of bytes.
    """
    match = re.fullmatch(r"(\d+) ?([KMG]B|)", text.strip().upper())
    if not match or not int(match[1]):
        raise ConfigError(f"shards is {text!r}; give a number of videos, such as 1000, or of bytes, such as 256MB.")
    return int(match[1]) * UNITS[match[2]], bool(match[2])


def _shards(to: Path) -> list[Path]:
    return sorted(to.glob("shards-*.tar"))


def _packed(to: Path) -> set[str]:
    """Return the relative paths of the videos that are in shards."""
    shards = _shards(to)
    return set(index_shards([str(shard) for shard in shards], workers=1).path) if shards else set()


def _pack_all(to: Path, home: Path, names: Sequence[str], limit: tuple[int, bool], workers: int | None) -> set[str]:
    """Move videos into new shards, index all shards, and return the paths of all videos in shards."""
    most, in_bytes = limit
    number = 1 + max((int(s.stem[7:]) for s in _shards(to) if s.stem[7:].isdecimal()), default=-1)
    group: list[str] = []
    filled = 0
    for at, name in enumerate(names):
        group.append(name)
        filled += (home / name).stat().st_size if in_bytes else 1
        if filled >= most or at == len(names) - 1:
            pack(home, group, to / f"shards-{number:06d}.tar")
            for packed in group:
                (home / packed).unlink()
            group, filled, number = [], 0, number + 1
    shutil.rmtree(home, ignore_errors=True)
    names_of_shards = [shard.name for shard in _shards(to)]
    manifest = index_shards([str(to / name) for name in names_of_shards], names_of_shards, workers)
    manifest.write(to)
    return set(manifest.path)
