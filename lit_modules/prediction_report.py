"""Report of ``tempozoo predict``: a CSV file of predictions, and a table or summary of them."""

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

from lit_modules.base import VideoClassifier
from lit_modules.console import print_line
from lit_modules.interfaces import require_video_data
from lit_modules.mistakes import PATH_ERRORS
from lit_modules.report import classifier, list_heads, top_classes, top_columns, write_csv
from lit_modules.scores import gather_by_name
from zoo.errors import DataError
from zoo.models import VideoNetwork

FILE, UNREADABLE = "predictions.csv", "unreadable.csv"
MAX_LISTED = 20  # videos in the printed table; a summary replaces the table of more videos
MAX_LABELS = 10  # labels in the summary
MAX_REASONS = 10  # unreadable videos that are printed


class PredictionReport(Callback):
    """Writes ``predictions.csv`` during the classification, and prints the predictions or a summary of them.

    Rows are written after every batch, so that an interrupted command keeps them. Each of several processes writes its
    own file; the first process merges the files at the end. ``unreadable.csv`` lists the videos that cannot be read.

    Args:
        folder: where the files are written; all processes need access to it.
        top: classes per video in the file.
    """

    def __init__(self, folder: str | Path, top: int = 5) -> None:
        self.folder, self.top = Path(folder), top
        self._rows: RowFile | None = None

    def on_predict_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the network and its views; create the file of this process if there are several."""
        self.folder = trainer.strategy.broadcast(self.folder)  # default names contain the time
        own = self._parts(trainer)[trainer.global_rank]
        self._rows = RowFile(own, prediction_columns(classifier(pl_module).network, self.top))
        if trainer.world_size > 1:
            self._rows.create()
        if trainer.is_global_zero:
            for line in describe_run(trainer, classifier(pl_module)):
                print_line(line)

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
        heads = list_heads(classifier(pl_module).network)
        rows = []
        for path, scores in zip(outputs["path"], outputs["scores"].cpu(), strict=True):
            cells = [text for _, names, span in heads for text in top_classes(scores[span], names, self.top)]
            rows.append([path, *cells])
        self._rows.append(rows)
        if trainer.received_sigterm:  # Lightning only records the signal
            raise SystemExit(128 + signal.SIGTERM)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the files of all processes, and print."""
        assert self._rows is not None
        self._rows.close()
        data = require_video_data(trainer)
        skipped = gather_by_name(data.skipped["predict"])  # waits for the files of all processes
        data.check_bad("predict", skipped)
        if not trainer.is_global_zero:
            return
        file = RowFile(self.folder / FILE, self._rows.header)
        if trainer.world_size > 1:
            merge_parts(self._parts(trainer), data.datasets["predict"].records.ids, file)
        elif not file.path.exists():  # no video within the Trainer's limits was readable
            file.create()
        (self.folder / UNREADABLE).unlink(missing_ok=True)  # of an earlier command
        if skipped:
            write_csv(self.folder / UNREADABLE, ["path", "reason"], [list(item) for item in skipped.items()])
        heads = [name for name, _, _ in list_heads(classifier(pl_module).network)]
        for line in report_lines(file.path, heads, skipped):
            print_line(line)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Print the number of classified videos and the path of their predictions; remove an empty file."""
        if self._rows is None:
            return
        self._rows.close()
        if not self._rows.count:
            self._rows.path.unlink(missing_ok=True)
        files = [path for path in self._parts(trainer) if path.exists()] if self._rows.count else []
        if trainer.is_global_zero and files:
            count = sum(1 for path in files for _ in read_rows(path))
            total = len(require_video_data(trainer).datasets["predict"])
            print_line(
                f"Stopped after {count} of {total} videos. Their predictions are in {', '.join(map(str, files))}"
            )

    def _parts(self, trainer: L.Trainer) -> list[Path]:
        """Return the path of the file of each process."""
        if trainer.world_size == 1:
            return [self.folder / FILE]
        return [self.folder / f"predictions-process{rank}.csv" for rank in range(trainer.world_size)]


class RowFile:
    """CSV file that rows are appended to; it never contains a partial row.

    Attributes:
        path: of the file, which is created by the first row or ``create``.
        header: names of the columns.
        count: rows written.
    """

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path, self.header, self.count = path, list(header), 0
        self._file: TextIO | None = None

    def create(self) -> None:
        """Write a new file with the header only."""
        self._file = self.path.open("w", newline="", encoding="utf-8", errors=PATH_ERRORS)
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
        self._file.write(text.getvalue())  # one write, so that a killed process leaves no partial row
        self._file.flush()

    def close(self) -> None:
        """Close the file if there is one."""
        if self._file is not None:
            self._file.close()


def prediction_columns(network: VideoNetwork, top: int) -> list[str]:
    """Return the column names of ``predictions.csv``."""
    return ["path", *(column for head in list_heads(network) for column in top_columns(head, top))]


def read_rows(path: Path) -> Iterator[list[str]]:
    """Iterate over the rows of a CSV file, without its header."""
    with path.open(newline="", encoding="utf-8", errors=PATH_ERRORS) as file:
        reader = csv.reader(file)
        next(reader)
        yield from reader


def merge_parts(parts: Sequence[Path], ids: Iterable[str], file: RowFile) -> None:
    """Merge the files of several processes and remove them.

    Args:
        parts: files, each with its rows in the order of ``ids``.
        ids: names of all videos.
        file: receives the rows of all parts in the order of ``ids``.

    Raises:
        DataError: a part does not exist.
    """
    missing = next((path for path in parts if not path.exists()), None)
    if missing is not None:
        raise DataError(
            f"{missing} does not exist on this machine, because the machines do not share the folder. The file is on "
            "the machine of its process. Choose a shared folder with --out."
        )
    file.create()
    readers = [read_rows(path) for path in parts]
    next_rows = [next(reader, None) for reader in readers]  # one per part
    for name in ids:
        for number, row in enumerate(next_rows):
            if row is not None and row[0] == name:
                file.append([row])
                next_rows[number] = next(readers[number], None)
                break
    file.close()
    for path in parts:
        path.unlink()


# printed lines -----------------------------------------------------------------------------------------------------


def describe_run(trainer: L.Trainer, module: VideoClassifier) -> list[str]:
    """Return lines that name the weights and the views."""
    own, protocol = module.network.protocol, require_video_data(trainer).datasets["predict"].protocol
    weights = f"weights from {trainer.ckpt_path}." if trainer.ckpt_path else str(module.network.report)
    views = f"Views: {protocol.view_counts} of {protocol.num_frames} frames, {protocol.crop} pixels"
    if (own.clips, own.crops) != (protocol.clips, protocol.crops):
        views += f"; the network's test protocol has {own.clips} x {own.crops} (--views published)"
    return [f"Network: {weights}", views]


def report_lines(file: Path, heads: Sequence[str], skipped: Mapping[str, str]) -> list[str]:
    """Return a table of the predictions in a file, or a summary if they are many, and the unreadable videos.

    Args:
        file: predictions.csv.
        heads: names of the classifiers; "" for a single one.
        skipped: path of an unreadable video -> reason.
    """
    with file.open(newline="", encoding="utf-8", errors=PATH_ERRORS) as opened:
        rows = csv.DictReader(opened)
        first = list(itertools.islice(rows, MAX_LISTED + 1))
        if len(first) <= MAX_LISTED:
            lines = table_lines(first, heads)
        else:
            lines = summary_lines(itertools.chain(first, rows), heads)
    lines += [f"Unreadable: {reason}" for reason in itertools.islice(skipped.values(), MAX_REASONS)]
    if len(skipped) > MAX_REASONS:
        lines.append(f"{len(skipped) - MAX_REASONS} more videos are unreadable: {file.with_name(UNREADABLE)}")
    return [*lines, f"Written to {file}"]


def table_lines(rows: Sequence[Mapping[str, str]], heads: Sequence[str], top: int = 3) -> list[str]:
    """Return a line per video: its path and the labels with the highest scores."""
    width = max((len(row["path"]) for row in rows), default=0)
    lines = []
    for row in rows:
        texts = []
        for head in heads:
            prefix = f"{head}_" if head else ""
            keys = [k for k in range(1, top + 1) if f"{prefix}score{k}" in row]
            cells = [f"{100 * float(row[f'{prefix}score{k}']):.2f} % {row[f'{prefix}prediction{k}']}" for k in keys]
            texts.append((f"{head}: " if head else "") + ", ".join(cells))
        lines.append(f"{row['path']:{width}}  {'; '.join(texts)}")
    return lines


def summary_lines(rows: Iterable[Mapping[str, str]], heads: Sequence[str]) -> list[str]:
    """Return the number of videos and the mean score of the most frequent labels, for each classifier."""
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
        for label, count in videos[head].most_common(MAX_LABELS):
            lines.append(f"  {count:6}  {100 * scores[head][label] / count:8.2f} %  {label}")
        if len(videos[head]) > MAX_LABELS:
            lines.append(f"  and {len(videos[head]) - MAX_LABELS} more labels")
    return lines
