"""PredictionReport: what ``tempozoo predict`` writes and prints."""

from __future__ import annotations

import csv
import io
import itertools
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from lit_modules.report import ODD, _best, _best_columns, _printable, heads_of, write_csv
from lit_modules.scores import gather_by_name
from zoo.errors import DataError

FILE, UNREADABLE = "predictions.csv", "unreadable.csv"
LISTED = 20  # videos that are printed one by one; of more, a summary is printed
COMMON = 10  # labels in the summary
REASONS = 10  # unreadable videos that are printed


class PredictionReport(Callback):
    """Writes ``predictions.csv`` while videos are classified, and prints the predictions or a summary of them.

    Rows are written after every batch, so an interrupted run keeps them. With several processes, each writes a file of
    its own, and the first process merges these at the end. ``unreadable.csv`` lists the videos that could not be read.

    Args:
        folder: where the files are written; all processes need access to it.
        top: classes per video in the file.
    """

    def __init__(self, folder: str | Path, top: int = 5) -> None:
        self.folder, self.top = Path(folder), top
        self._rows: RowFile | None = None

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the network and its views; create the file of this process if there are several."""
        self.folder = trainer.strategy.broadcast(self.folder)  # the default name has the time of each process in it
        own = self._parts(trainer)[trainer.global_rank]
        self._rows = RowFile(own, prediction_columns(pl_module.network, self.top))
        if trainer.world_size > 1:
            self._rows.create()
        if trainer.is_global_zero:
            for line in describe_run(trainer, pl_module):
                _print(line)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the predictions of a batch."""
        assert self._rows is not None
        heads = heads_of(pl_module.network)
        rows = []
        for path, scores in zip(outputs["path"], outputs["scores"].cpu(), strict=True):
            best = [text for _, names, part in heads for text in _best(scores[part], names, self.top)]
            rows.append([path, *best])
        self._rows.append(rows)
        if trainer.received_sigterm:  # of which Lightning only takes note
            raise SystemExit(128 + signal.SIGTERM)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the files of all processes, and print."""
        assert self._rows is not None
        self._rows.close()
        data: Any = getattr(trainer, "datamodule", None)
        skipped = gather_by_name(data.skipped["predict"])  # from here on, the files of all processes are complete
        data.check_bad("predict", skipped)
        if not trainer.is_global_zero:
            return
        file = RowFile(self.folder / FILE, self._rows.header)
        if trainer.world_size > 1:
            merge_parts(self._parts(trainer), data.datasets["predict"].records.ids, file)
        elif not file.path.exists():  # the Trainer's limits left unreadable videos only
            file.create()
        (self.folder / UNREADABLE).unlink(missing_ok=True)  # of an earlier command
        if skipped:
            write_csv(self.folder / UNREADABLE, ["path", "reason"], [list(item) for item in skipped.items()])
        for line in report_lines(file.path, [name for name, _, _ in heads_of(pl_module.network)], skipped):
            _print(line)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Print how far the command came and where the predictions are; remove an empty file."""
        if self._rows is None:
            return
        self._rows.close()
        if not self._rows.count:
            self._rows.path.unlink(missing_ok=True)
        files = [path for path in self._parts(trainer) if path.exists()] if self._rows.count else []
        if trainer.is_global_zero and files:
            done = sum(1 for path in files for _ in read_rows(path))
            data: Any = getattr(trainer, "datamodule", None)
            total = len(data.datasets["predict"])
            _print(f"Stopped after {done} of {total} videos. Their predictions are in {', '.join(map(str, files))}")

    def _parts(self, trainer: L.Trainer) -> list[Path]:
        """The file that each process writes."""
        if trainer.world_size == 1:
            return [self.folder / FILE]
        return [self.folder / f"predictions-process{rank}.csv" for rank in range(trainer.world_size)]


class RowFile:
    """A CSV file that rows are appended to; it is complete up to the last of them at any time.

    Attributes:
        path: of the file, which does not exist before the first row or ``create``.
        header: names of the columns.
        count: rows written.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path, self.header, self.count = path, list(header), 0
        self._file: TextIO | None = None

    def create(self) -> None:
        """Write a new file with the header only."""
        self._file = self.path.open("w", newline="", encoding="utf-8", errors=ODD)
        self._write([self.header])

    def append(self, rows: Sequence[Sequence[str]]) -> None:
        """Write rows."""
        if not rows:
            return
        if self._file is None:
            self.create()
        self._write(rows)
        self.count += len(rows)

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        assert self._file is not None
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        self._file.write(text.getvalue())  # in one piece, so that a killed process leaves whole rows
        self._file.flush()

    def close(self) -> None:
        """Close the file if there is one."""
        if self._file is not None:
            self._file.close()


def prediction_columns(network: Any, top: int) -> list[str]:
    """Names of the columns of ``predictions.csv``."""
    return ["path", *(column for head in heads_of(network) for column in _best_columns(head, top))]


def read_rows(path: Path) -> Iterator[list[str]]:
    """Rows of a CSV file, without its header."""
    with path.open(newline="", encoding="utf-8", errors=ODD) as file:
        reader = csv.reader(file)
        next(reader)
        yield from reader


def merge_parts(parts: Sequence[Path], ids: Iterable[str], file: RowFile) -> None:
    """Merge the files of several processes and remove them.

    Args:
        parts: files, each with its rows in the order of ``ids``.
        ids: names of all videos.
        file: for the rows of all parts in that order.

    Raises:
        DataError: a part does not exist.
    """
    missing = next((path for path in parts if not path.exists()), None)
    if missing is not None:
        raise DataError(
            f"{missing} does not exist here: the machines do not share the folder. Its predictions are on the machine "
            "of that process; choose a folder that all machines share with --out."
        )
    file.create()
    readers = [read_rows(path) for path in parts]
    following = [next(reader, None) for reader in readers]  # the next row of each part
    for name in ids:
        for number, row in enumerate(following):
            if row is not None and row[0] == name:
                file.append([row])
                following[number] = next(readers[number], None)
                break
    file.close()
    for path in parts:
        path.unlink()


# what is printed ---------------------------------------------------------------------------------------------------


def _print(line: str) -> None:
    Console().print(_printable(line), highlight=False, markup=False, soft_wrap=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def describe_run(trainer: L.Trainer, module: Any) -> list[str]:
    """Lines that name the weights and the views."""
    data: Any = getattr(trainer, "datamodule", None)
    own, protocol = module.network.protocol, data.datasets["predict"].protocol
    weights = f"weights from {trainer.ckpt_path}." if trainer.ckpt_path else str(module.network.report)
    views = f"Views: {_count(protocol.clips, 'clip')} x {_count(protocol.crops, 'crop')}"
    views += f" of {protocol.num_frames} frames, {protocol.crop} pixels"
    if (own.clips, own.crops) != (protocol.clips, protocol.crops):
        views += f"; the network's test protocol has {own.clips} x {own.crops} (--views published)"
    return [f"Network: {weights}", views]


def report_lines(file: Path, heads: Sequence[str], skipped: Mapping[str, str]) -> list[str]:
    """Lines about the predictions in a file: those of each video if there are few, else a summary.

    Args:
        file: predictions.csv.
        heads: names of the classifiers, "" of the only one.
        skipped: path -> reason, of videos that could not be read.
    """
    with file.open(newline="", encoding="utf-8", errors=ODD) as opened:
        rows = csv.DictReader(opened)
        first = list(itertools.islice(rows, LISTED + 1))
        few = len(first) <= LISTED
        lines = table_lines(first, heads) if few else summary_lines(itertools.chain(first, rows), heads)
    lines += [f"Not read: {reason}" for reason in itertools.islice(skipped.values(), REASONS)]
    if len(skipped) > REASONS:
        lines.append(f"{len(skipped) - REASONS} more videos could not be read: {file.with_name(UNREADABLE)}")
    return [*lines, f"Written to {file}"]


def table_lines(rows: Sequence[Mapping[str, str]], heads: Sequence[str], top: int = 3) -> list[str]:
    """A line for each video: its path and best labels."""
    width = max((len(row["path"]) for row in rows), default=0)
    lines = []
    for row in rows:
        texts = []
        for head in heads:
            prefix = f"{head}_" if head else ""
            keys = [k for k in range(1, top + 1) if f"{prefix}score{k}" in row]
            best = [f"{100 * float(row[f'{prefix}score{k}']):.2f} % {row[f'{prefix}prediction{k}']}" for k in keys]
            texts.append((f"{head}: " if head else "") + ", ".join(best))
        lines.append(f"{row['path']:{width}}  {'; '.join(texts)}")
    return lines


def summary_lines(rows: Iterable[Mapping[str, str]], heads: Sequence[str]) -> list[str]:
    """How many videos have which label, and the mean score of these labels, for each classifier."""
    videos = {head: Counter[str]() for head in heads}
    scores: dict[str, defaultdict[str, float]] = {head: defaultdict(float) for head in heads}  # sums
    total = 0
    for row in rows:
        total += 1
        for head in heads:
            prefix = f"{head}_" if head else ""
            label = row[f"{prefix}prediction1"]
            videos[head][label] += 1
            scores[head][label] += float(row[f"{prefix}score1"])
    lines = [f"{total} videos"]
    for head in heads:
        mean = sum(scores[head].values()) / total
        lines.append(f"{head + ': ' if head else ''}mean score of the predicted label {100 * mean:.2f} %")
        lines.append("  videos  mean score  label")
        for label, count in videos[head].most_common(COMMON):
            lines.append(f"  {count:6}  {100 * scores[head][label] / count:8.2f} %  {label}")
        if len(videos[head]) > COMMON:
            lines.append(f"  and {len(videos[head]) - COMMON} more labels")
    return lines
